/* cmd_none.c - what clients ask for and there is not: replication, scripts, modules, clusters. */
#include "commands.h"

kv_run kv_cmd_lolwut(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    static const char text[] = "pykv, for clients of Redis ver. " KV_REDIS_VERSION "\n";
    kv_reply_verbatim(&c->reply, "txt", text, sizeof text - 1);
    return KV_RUN_DONE;
}

kv_run kv_cmd_role(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_array(&c->reply, 3);
    kv_reply_bulk_text(&c->reply, "master");
    kv_reply_integer(&c->reply, 0);
    kv_reply_array(&c->reply, 0);
    return KV_RUN_DONE;
}

kv_run kv_cmd_replicaof(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    if (kv_word_is(argv[1], "no") && kv_word_is(argv[2], "one"))
        kv_reply_ok(&c->reply);
    else
        kv_refuse(c, "ERR replication is not supported");
    return KV_RUN_DONE;
}

static const kv_subcommand module_rows[] = {{"list", 2, kv_answer_empty, "LIST", "Always empty."}};
const kv_subcommands kv_subcommands_module = {"MODULE", module_rows, KV_COUNT_OF(module_rows)};

kv_run kv_cmd_module(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_module, argv, argc);
}

static const kv_subcommand function_rows[] = {
    {"flush", -2, kv_answer_ok, "FLUSH [ASYNC|SYNC]", "Accepted: there are none."},
    {"list", -2, kv_answer_empty, "LIST", "Always empty."},
};
const kv_subcommands kv_subcommands_function = {"FUNCTION", function_rows, KV_COUNT_OF(function_rows)};

kv_run kv_cmd_function(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_function, argv, argc);
}

static kv_run script_exists(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    kv_reply_array(&c->reply, argc - 2);
    for (size_t i = 2; i < argc; i++)
        kv_reply_integer(&c->reply, 0);
    return KV_RUN_DONE;
}

static const kv_subcommand script_rows[] = {
    {"exists", -3, script_exists, "EXISTS <sha1> [<sha1> ...]", "Always 0."},
    {"flush", -2, kv_answer_ok, "FLUSH [ASYNC|SYNC]", "Accepted: there are none."},
};
const kv_subcommands kv_subcommands_script = {"SCRIPT", script_rows, KV_COUNT_OF(script_rows)};

kv_run kv_cmd_script(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_script, argv, argc);
}

kv_run kv_cmd_cluster(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_refuse(c, "ERR This instance has cluster support disabled");
    return KV_RUN_DONE;
}
