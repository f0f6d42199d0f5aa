/* cmd_server.c - the server itself: configuration, checkpoints, debugging, and what is not supported. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../base/mem.h"
#include "commands.h"
#include "glob.h"

#define COUNT(table) (sizeof(table) / sizeof(table)[0])

static kv_run reply_ok(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run reply_empty(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_array(&c->reply, 0);
    return KV_RUN_DONE;
}

/* ---- CONFIG -------------------------------------------------------------------------------------------- */

bool kv_store_config(kv_client *c, const char *name, char *value) {
    if (strcmp(name, "appendonly") == 0) {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s", kv_is_memory_only(c->db) ? "no" : "yes");
    } else if (strcmp(name, "appendfsync") == 0) {
        kv_sync sync = kv_sync_mode(c->db);
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s",
                       sync == KV_SYNC_ALWAYS     ? "always"
                       : sync == KV_SYNC_INTERVAL ? "everysec"
                                                  : "no");
    } else if (strcmp(name, "maxmemory") == 0) {
        kv_stats stats;
        kv_error err;
        if (kv_get_stats(c->db, &stats, &err) < 0)
            stats.max_memory = 0;
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%" PRIu64, stats.max_memory);
    } else if (strcmp(name, "maxmemory-policy") == 0) {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "noeviction");
    } else {
        return false;
    }
    return true;
}

static bool is_wanted(const char *name, const kv_bytes *patterns, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (kv_glob_match(patterns[i], kv_text(name), true))
            return true;
    return false;
}

static kv_run config_get(kv_client *c, const kv_bytes *argv, size_t argc) {
    size_t rows = kv_config_row_count(), count = 0;
    for (size_t i = 0; i < rows; i++)
        count += is_wanted(kv_config_row_name(i), argv + 2, argc - 2);
    kv_reply_map(&c->reply, count);
    for (size_t i = 0; i < rows; i++) {
        const char *name = kv_config_row_name(i);
        char value[KV_CONFIG_VALUE_SIZE];
        if (!is_wanted(name, argv + 2, argc - 2))
            continue;
        if (!kv_config_row_get(kv_server_config(c->server), i, value))
            (void)kv_store_config(c, name, value);
        kv_reply_bulk_text(&c->reply, name);
        kv_reply_bulk_text(&c->reply, value);
    }
    return KV_RUN_DONE;
}

/* A row of the store's can be set to what it is. */
static bool is_so_already(kv_client *c, kv_bytes name, kv_bytes value) {
    static const char *const names[] = {"appendonly", "appendfsync", "maxmemory", "maxmemory-policy"};
    char now[KV_CONFIG_VALUE_SIZE];
    for (size_t i = 0; i < COUNT(names); i++)
        if (kv_word_is(name, names[i]) && kv_store_config(c, names[i], now))
            return kv_word_is(value, now);
    return false;
}

static kv_run config_set(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc % 2 != 0) {
        kv_refuse_arity(c, "config|set");
        return KV_RUN_DONE;
    }
    for (int dry = 1; dry >= 0; dry--) { /* all or nothing, as far as the values go */
        for (size_t i = 2; i < argc; i += 2) {
            kv_error err;
            if (is_so_already(c, argv[i], argv[i + 1]))
                continue;
            kv_status status = kv_config_row_set(kv_server_config(c->server), argv[i], argv[i + 1], dry, &err);
            if (status == KV_OK)
                continue;
            if (status == KV_NOTFOUND)
                kv_refusef(c, "ERR Unknown option or number of arguments for CONFIG SET - '%.*s'",
                           KV_TEXT(argv[i], 128u));
            else
                kv_refusef(c, "ERR CONFIG SET failed (possibly related to argument '%.*s') - %s",
                           KV_TEXT(argv[i], 128u), err.message);
            return KV_RUN_DONE;
        }
    }
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run config_resetstat(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_counters_reset(kv_server_stats(c->server));
    return reply_ok(c, argv, argc);
}

static kv_run config_rewrite(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_refuse(c, "ERR The server is running without a config file");
    return KV_RUN_DONE;
}

static const kv_subcommand config_rows[] = {
    {"get", -3, config_get, "GET <pattern>", "Parameters whose names match, and their values."},
    {"set", -4, config_set, "SET <directive> <value>", "Sets parameters."},
    {"resetstat", 2, config_resetstat, "RESETSTAT", "Begins to count again."},
    {"rewrite", 2, config_rewrite, "REWRITE", "Always an error: there is no configuration file."},
};
const kv_subcommands kv_subcommands_config = {"CONFIG", config_rows, sizeof config_rows / sizeof config_rows[0]};

kv_run kv_cmd_config(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_config, argv, argc);
}

/* ---- COMMAND ------------------------------------------------------------------------------------------- */

static const struct {
    unsigned flag;
    const char *name;
} flag_names[] = {
    {KV_CMD_WRITE, "write"},     {KV_CMD_READONLY, "readonly"}, {KV_CMD_DENYOOM, "denyoom"},
    {KV_CMD_ADMIN, "admin"},     {KV_CMD_PUBSUB, "pubsub"},     {KV_CMD_LOADING, "loading"},
    {KV_CMD_NO_AUTH, "no_auth"}, {KV_CMD_FAST, "fast"},         {KV_CMD_NO_MULTI, "no_multi"},
};

static void reply_flags(kv_client *c, unsigned flags) {
    size_t count = 0;
    for (size_t i = 0; i < COUNT(flag_names); i++)
        count += (flags & flag_names[i].flag) != 0;
    kv_reply_set(&c->reply, count);
    for (size_t i = 0; i < COUNT(flag_names); i++)
        if ((flags & flag_names[i].flag) != 0)
            kv_reply_status(&c->reply, flag_names[i].name);
}

static size_t categories_of(const kv_command *command, const char *names[8]) {
    size_t n = 0;
    if ((command->flags & KV_CMD_WRITE) != 0)
        names[n++] = "@write";
    if ((command->flags & KV_CMD_READONLY) != 0)
        names[n++] = "@read";
    if (strcmp(command->group, "string") == 0)
        names[n++] = "@string";
    else if (strcmp(command->group, "bitmap") == 0)
        names[n++] = "@bitmap";
    else if (strcmp(command->group, "generic") == 0)
        names[n++] = "@keyspace";
    else if (strcmp(command->group, "pubsub") == 0)
        names[n++] = "@pubsub";
    else if (strcmp(command->group, "transactions") == 0)
        names[n++] = "@transaction";
    else if (strcmp(command->group, "connection") == 0)
        names[n++] = "@connection";
    if ((command->flags & KV_CMD_ADMIN) != 0) {
        names[n++] = "@admin";
        names[n++] = "@dangerous";
    }
    names[n++] = (command->flags & KV_CMD_FAST) != 0 ? "@fast" : "@slow";
    return n;
}

static void reply_command(kv_client *c, const kv_command *command) {
    const char *categories[8];
    size_t count = categories_of(command, categories);
    kv_reply *r = &c->reply;
    kv_reply_array(r, 10);
    kv_reply_bulk_text(r, command->name);
    kv_reply_integer(r, command->arity);
    reply_flags(c, command->flags);
    kv_reply_integer(r, command->first_key);
    kv_reply_integer(r, command->last_key);
    kv_reply_integer(r, command->key_step);
    kv_reply_set(r, count);
    for (size_t i = 0; i < count; i++)
        kv_reply_status(r, categories[i]);
    kv_reply_array(r, 0); /* tips */
    kv_reply_array(r, 0); /* key specifications */
    kv_reply_array(r, 0); /* subcommands */
}

static kv_run command_info(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc <= 2) {
        kv_reply_array(&c->reply, kv_command_count());
        for (size_t i = 0; i < kv_command_count(); i++)
            reply_command(c, kv_command_at(i));
        return KV_RUN_DONE;
    }
    kv_reply_array(&c->reply, argc - 2);
    for (size_t i = 2; i < argc; i++) {
        const kv_command *command = kv_command_find(argv[i]);
        if (command != NULL)
            reply_command(c, command);
        else
            kv_reply_null(&c->reply);
    }
    return KV_RUN_DONE;
}

static kv_run command_count(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, (int64_t)kv_command_count());
    return KV_RUN_DONE;
}

static void reply_docs(kv_client *c, const kv_command *command) {
    kv_reply *r = &c->reply;
    kv_reply_bulk_text(r, command->name);
    kv_reply_map(r, 3);
    kv_reply_bulk_text(r, "summary");
    kv_reply_bulk_text(r, command->summary);
    kv_reply_bulk_text(r, "since");
    kv_reply_bulk_text(r, command->since);
    kv_reply_bulk_text(r, "group");
    kv_reply_bulk_text(r, command->group);
}

static kv_run command_docs(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc == 2) {
        kv_reply_map(&c->reply, kv_command_count());
        for (size_t i = 0; i < kv_command_count(); i++)
            reply_docs(c, kv_command_at(i));
        return KV_RUN_DONE;
    }
    size_t found = 0;
    for (size_t i = 2; i < argc; i++)
        found += kv_command_find(argv[i]) != NULL;
    kv_reply_map(&c->reply, found);
    for (size_t i = 2; i < argc; i++) {
        const kv_command *command = kv_command_find(argv[i]);
        if (command != NULL)
            reply_docs(c, command);
    }
    return KV_RUN_DONE;
}

/* LIST FILTERBY: does the command belong to it? */
static bool filter_fits(const kv_command *command, kv_bytes kind, kv_bytes what) {
    if (kv_word_is(kind, "pattern"))
        return kv_glob_match(what, kv_text(command->name), true);
    if (!kv_word_is(kind, "aclcat"))
        return false; /* modules: there are none */
    const char *categories[8];
    size_t count = categories_of(command, categories);
    for (size_t i = 0; i < count; i++)
        if (kv_word_is(what, categories[i] + 1))
            return true;
    return false;
}

static kv_run command_list(kv_client *c, const kv_bytes *argv, size_t argc) {
    bool is_filtered = argc == 5 && kv_word_is(argv[2], "filterby");
    if (argc != 2 && !(is_filtered && (kv_word_is(argv[3], "pattern") || kv_word_is(argv[3], "aclcat") ||
                                       kv_word_is(argv[3], "module")))) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_RUN_DONE;
    }
    size_t count = 0;
    for (size_t i = 0; i < kv_command_count(); i++)
        count += !is_filtered || filter_fits(kv_command_at(i), argv[3], argv[4]);
    kv_reply_array(&c->reply, count);
    for (size_t i = 0; i < kv_command_count(); i++)
        if (!is_filtered || filter_fits(kv_command_at(i), argv[3], argv[4]))
            kv_reply_bulk_text(&c->reply, kv_command_at(i)->name);
    return KV_RUN_DONE;
}

static kv_run command_getkeys(kv_client *c, const kv_bytes *argv, size_t argc) {
    const kv_command *command = kv_command_find(argv[2]);
    size_t given = argc - 2;
    if (command == NULL) {
        kv_refuse(c, "ERR Invalid command specified");
    } else if (command->arity >= 0 ? given != (size_t)command->arity : given < (size_t)-command->arity) {
        kv_refuse(c, "ERR Invalid number of arguments specified for command");
    } else if (command->first_key == 0) {
        kv_refuse(c, "ERR The command has no key arguments");
    } else {
        size_t last = command->last_key >= 0 ? (size_t)command->last_key : given - 1;
        size_t first = (size_t)command->first_key, step = (size_t)command->key_step;
        last = last < given ? last : given - 1;
        kv_reply_array(&c->reply, last >= first ? (last - first) / step + 1 : 0);
        for (size_t i = first; i <= last; i += step)
            kv_reply_bulk(&c->reply, argv[2 + i].data, argv[2 + i].size);
    }
    return KV_RUN_DONE;
}

static const kv_subcommand command_rows[] = {
    {"count", 2, command_count, "COUNT", "How many commands there are."},
    {"docs", -2, command_docs, "DOCS [<command-name> ...]", "What commands are for."},
    {"getkeys", -3, command_getkeys, "GETKEYS <full-command>", "The keys in a request."},
    {"info", -2, command_info, "INFO [<command-name> ...]", "Arity, flags and keys of commands."},
    {"list", -2, command_list, "LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]", "Names of commands."},
};
const kv_subcommands kv_subcommands_command = {"COMMAND", command_rows, sizeof command_rows / sizeof command_rows[0]};

kv_run kv_cmd_command(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc == 1)
        return command_info(c, argv, argc);
    return kv_run_subcommand(c, &kv_subcommands_command, argv, argc);
}

/* ---- Time and checkpoints ------------------------------------------------------------------------------ */

kv_run kv_cmd_time(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    kv_reply_array(&c->reply, 2);
    kv_reply_bulk_integer(&c->reply, (int64_t)now.tv_sec);
    kv_reply_bulk_integer(&c->reply, (int64_t)now.tv_nsec / 1000);
    return KV_RUN_DONE;
}

static bool refuse_if_memory_only(kv_client *c) {
    if (!kv_is_memory_only(c->db))
        return false;
    kv_refuse(c, "ERR the store is in memory only");
    return true;
}

/* Waits for what is pending, then blocks its loop while the checkpoint is written, as Redis does. */
kv_run kv_cmd_save(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_error err;
    if (refuse_if_memory_only(c))
        return KV_RUN_DONE;
    if (kv_pending(c->db) != NULL)
        return KV_RUN_LATER;
    kv_server_begin_wait(c);
    kv_status status = kv_checkpoint(kv_server_db(c->server), NULL, NULL, &err);
    kv_server_end_wait(c);
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_cmd_bgsave(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 2 || (argc == 2 && !kv_word_is(argv[1], "schedule"))) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_RUN_DONE;
    }
    if (refuse_if_memory_only(c))
        return KV_RUN_DONE;
    if (kv_server_checkpoint_in_background(c->server))
        kv_reply_status(&c->reply, "Background saving started");
    else
        kv_refuse(c, "ERR Background save already in progress");
    return KV_RUN_DONE;
}

kv_run kv_cmd_bgrewriteaof(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (refuse_if_memory_only(c))
        return KV_RUN_DONE;
    if (kv_server_checkpoint_in_background(c->server))
        kv_reply_status(&c->reply, "Background append only file rewriting started");
    else
        kv_refuse(c, "ERR Background append only file rewriting already in progress");
    return KV_RUN_DONE;
}

kv_run kv_cmd_lastsave(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, (int64_t)kv_last_save_time(c));
    return KV_RUN_DONE;
}

kv_run kv_cmd_shutdown(kv_client *c, const kv_bytes *argv, size_t argc) {
    for (size_t i = 1; i < argc; i++) {
        if (kv_word_is(argv[i], "abort") && argc == 2) {
            kv_refuse(c, "ERR No shutdown in progress.");
            return KV_RUN_DONE;
        }
        if (!kv_word_is(argv[i], "nosave") && !kv_word_is(argv[i], "save") && !kv_word_is(argv[i], "now") &&
            !kv_word_is(argv[i], "force")) {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_RUN_DONE;
        }
    }
    c->close_after_reply = true; /* without a reply: the connection just ends */
    kv_server_ask_to_stop(c->server);
    return KV_RUN_DONE;
}

/* ---- Waiting ------------------------------------------------------------------------------------------- */

static bool parse_wait(kv_client *c, kv_bytes text, const char *refusal, int64_t *value) {
    if (!kv_parse_integer(text, value)) {
        kv_refuse(c, refusal);
        return false;
    }
    return true;
}

/* There are no replicas, so none has got anything. */
kv_run kv_cmd_wait(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t replicas, timeout;
    if (!parse_wait(c, argv[1], KV_NOT_INTEGER, &replicas) ||
        !parse_wait(c, argv[2], "ERR timeout is not an integer or out of range", &timeout))
        return KV_RUN_DONE;
    if (timeout < 0)
        kv_refuse(c, "ERR timeout is negative");
    else
        kv_reply_integer(&c->reply, 0);
    return KV_RUN_DONE;
}

/* A reply leaves when what stands before it is committed; in the modes that do not sync by themselves the disk is waited for here. */
kv_run kv_cmd_waitaof(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t local, replicas, timeout;
    kv_error err;
    if (!parse_wait(c, argv[1], KV_NOT_INTEGER, &local) || !parse_wait(c, argv[2], KV_NOT_INTEGER, &replicas) ||
        !parse_wait(c, argv[3], "ERR timeout is not an integer or out of range", &timeout))
        return KV_RUN_DONE;
    if (local < 0 || local > 1 || replicas < 0) {
        kv_refuse(c, "ERR value is out of range, must be positive");
        return KV_RUN_DONE;
    }
    if (timeout < 0) {
        kv_refuse(c, "ERR timeout is negative");
        return KV_RUN_DONE;
    }
    bool is_durable = !kv_is_memory_only(c->db);
    if (local == 1 && !is_durable) {
        kv_refuse(c, "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");
        return KV_RUN_DONE;
    }
    if (is_durable && !kv_is_read_only(c->db) && kv_sync_mode(c->db) != KV_SYNC_ALWAYS && !c->in_exec) {
        if (kv_pending(c->db) != NULL)
            return KV_RUN_LATER;
        kv_server_begin_wait(c);
        kv_status status = kv_make_durable(kv_server_db(c->server), &err);
        kv_server_end_wait(c);
        if (status < 0) {
            kv_refuse_failure(c, &err);
            return KV_RUN_DONE;
        }
    }
    kv_reply_array(&c->reply, 2);
    kv_reply_integer(&c->reply, is_durable);
    kv_reply_integer(&c->reply, 0);
    return KV_RUN_DONE;
}

/* ---- DEBUG --------------------------------------------------------------------------------------------- */

static bool refuse_debug(kv_client *c) {
    if (kv_server_debug_enabled(c->server))
        return false;
    kv_refuse(c, "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it "
                 "from a local connection, otherwise you need to set this option in the configuration file, and then "
                 "restart the server.");
    return true;
}

static kv_run debug_sleep(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    long double seconds;
    if (!kv_parse_double(argv[2], &seconds) || seconds < 0 || seconds > 86400) {
        kv_refuse(c, "ERR value is not a valid float");
        return KV_RUN_DONE;
    }
    struct timespec rest = {(time_t)seconds, 0};
    rest.tv_nsec = (long)((seconds - (long double)rest.tv_sec) * 1e9L);
    kv_server_begin_wait(c);
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        ;
    kv_server_end_wait(c);
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run debug_reload(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_error err;
    if (c->in_exec) {
        kv_refuse(c, "ERR Command not allowed inside a transaction");
        return KV_RUN_DONE;
    }
    if (kv_pending(c->db) != NULL)
        return KV_RUN_LATER;
    if (kv_server_reload(c->server, c, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run debug_stringmatch(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t size;
    if (!kv_parse_integer(argv[2], &size) || size < 0 || size > 1 << 20) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_RUN_DONE;
    }
    char *text = kv_mem_alloc(size > 0 ? (size_t)size : 1);
    if (text == NULL) {
        kv_refuse(c, "OOM out of memory");
        return KV_RUN_DONE;
    }
    memset(text, 'a', (size_t)size);
    kv_reply_integer(&c->reply, kv_glob_match(argv[3], (kv_bytes){text, (size_t)size}, false));
    kv_mem_free(text);
    return KV_RUN_DONE;
}

static kv_run debug_object(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_item item;
    kv_error err;
    kv_status status = argv[2].size > KV_KEY_MAX ? KV_NOTFOUND : kv_get_item(c->db, argv[2], 0, &item, &err);
    if (status < 0) {
        kv_refuse_failure(c, &err);
    } else if (status == KV_NOTFOUND) {
        kv_refuse(c, "ERR no such key");
    } else {
        char line[160];
        int64_t n;
        (void)snprintf(line, sizeof line,
                       "Value at:%p refcount:1 encoding:%s serializedlength:%zu lru:0 lru_seconds_idle:0",
                       item.value.data, kv_parse_integer(item.value, &n) ? "int" : item.value.size <= 44 ? "embstr" : "raw",
                       item.value.size + 1);
        kv_reply_status(&c->reply, line);
        kv_item_release(&item);
    }
    return KV_RUN_DONE;
}

static const kv_subcommand debug_rows[] = {
    {"sleep", 3, debug_sleep, "SLEEP <seconds>", "Stops this loop for so long."},
    {"reload", -2, debug_reload, "RELOAD", "Closes the store and opens it again from its files."},
    {"loadaof", 2, debug_reload, "LOADAOF", "The same."},
    {"object", -3, debug_object, "OBJECT <key>", "How the key's value is kept."},
    {"stringmatch-len", 4, debug_stringmatch, "STRINGMATCH-LEN <len> <pattern>", "Matches a text of so many \"a\"."},
    {"set-active-expire", 3, reply_ok, "SET-ACTIVE-EXPIRE <0|1>", "Accepted, without effect."},
    {"change-repl-id", 2, reply_ok, "CHANGE-REPL-ID", "Accepted, without effect."},
    {"jmap", -2, reply_ok, "JMAP", "Accepted, without effect."},
    {"quicklist-packed-threshold", 3, reply_ok, NULL, NULL},
    {"set-disable-deny-scripts", 3, reply_ok, NULL, NULL},
    {"replybuffer", -2, reply_ok, NULL, NULL},
    {"dict-resizing", 3, reply_ok, NULL, NULL},
    {"pause-cron", 3, reply_ok, NULL, NULL},
};
const kv_subcommands kv_subcommands_debug = {"DEBUG", debug_rows, sizeof debug_rows / sizeof debug_rows[0]};

kv_run kv_cmd_debug(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (refuse_debug(c))
        return KV_RUN_DONE;
    return kv_run_subcommand(c, &kv_subcommands_debug, argv, argc);
}

/* ---- SLOWLOG ------------------------------------------------------------------------------------------- */

static kv_run slowlog_get(kv_client *c, const kv_bytes *argv, size_t argc) {
    int64_t wanted = 10;
    if (argc > 3) {
        kv_refuse_form(c, "SLOWLOG", argv[1]);
        return KV_RUN_DONE;
    }
    if (argc == 3 && (!kv_parse_integer(argv[2], &wanted) || wanted < -1)) {
        kv_refuse(c, "ERR count should be greater than or equal to -1");
        return KV_RUN_DONE;
    }
    kv_counters *counters = kv_server_stats(c->server);
    kv_reply *r = &c->reply;
    pthread_mutex_lock(&counters->lock);
    size_t count = wanted < 0 || (uint64_t)wanted > counters->slow_count ? counters->slow_count : (size_t)wanted;
    kv_reply_array(r, count);
    for (const kv_slow *slow = counters->slow; count > 0; slow = slow->next, count--) {
        kv_reply_array(r, 6);
        kv_reply_integer(r, (int64_t)slow->id);
        kv_reply_integer(r, (int64_t)slow->time_s);
        kv_reply_integer(r, (int64_t)slow->duration_us);
        kv_reply_array(r, slow->argc);
        for (size_t i = 0; i < slow->argc; i++)
            kv_reply_bulk(r, slow->args[i].data, slow->args[i].size);
        kv_reply_bulk_text(r, slow->address);
        kv_reply_bulk_text(r, slow->name);
    }
    pthread_mutex_unlock(&counters->lock);
    return KV_RUN_DONE;
}

static kv_run slowlog_len(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_counters *counters = kv_server_stats(c->server);
    pthread_mutex_lock(&counters->lock);
    kv_reply_integer(&c->reply, (int64_t)counters->slow_count);
    pthread_mutex_unlock(&counters->lock);
    return KV_RUN_DONE;
}

static kv_run slowlog_reset(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_slow_reset(kv_server_stats(c->server));
    return reply_ok(c, argv, argc);
}

static const kv_subcommand slowlog_rows[] = {
    {"get", -2, slowlog_get, "GET [<count>]", "The newest entries; all with -1."},
    {"len", 2, slowlog_len, "LEN", "How many entries there are."},
    {"reset", 2, slowlog_reset, "RESET", "Forgets all entries."},
};
const kv_subcommands kv_subcommands_slowlog = {"SLOWLOG", slowlog_rows, sizeof slowlog_rows / sizeof slowlog_rows[0]};

kv_run kv_cmd_slowlog(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_slowlog, argv, argc);
}

/* ---- LATENCY ------------------------------------------------------------------------------------------- */

static void reply_histogram(kv_client *c, const kv_command *command, const kv_call_sum *sum) {
    kv_reply *r = &c->reply;
    size_t buckets = 0;
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++)
        buckets += sum->latency[b] > 0;
    kv_reply_bulk_text(r, command->name);
    kv_reply_map(r, 2);
    kv_reply_bulk_text(r, "calls");
    kv_reply_integer(r, (int64_t)sum->calls);
    kv_reply_bulk_text(r, "histogram_usec");
    kv_reply_map(r, buckets);
    uint64_t so_far = 0;
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++) {
        so_far += sum->latency[b];
        if (sum->latency[b] > 0) {
            kv_reply_integer(r, INT64_C(1) << b);
            kv_reply_integer(r, (int64_t)so_far);
        }
    }
}

static bool histogram_is_wanted(const kv_command *command, const kv_bytes *argv, size_t argc) {
    for (size_t i = 2; i < argc; i++)
        if (kv_word_is(argv[i], command->name))
            return true;
    return argc <= 2;
}

static kv_run latency_histogram(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_counters *counters = kv_server_stats(c->server);
    size_t count = 0;
    bool has_calls[256] = {false}; /* another loop may count meanwhile */
    for (size_t i = 0; i < kv_command_count() && i < COUNT(has_calls); i++) {
        has_calls[i] = histogram_is_wanted(kv_command_at(i), argv, argc) && kv_counters_calls(counters, i).calls > 0;
        count += has_calls[i];
    }
    kv_reply_map(&c->reply, count);
    for (size_t i = 0; i < kv_command_count() && i < COUNT(has_calls); i++) {
        if (has_calls[i]) {
            kv_call_sum sum = kv_counters_calls(counters, i);
            reply_histogram(c, kv_command_at(i), &sum);
        }
    }
    return KV_RUN_DONE;
}

static kv_run latency_reset(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, 0); /* there are no events */
    return KV_RUN_DONE;
}

static kv_run latency_doctor(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    static const char text[] = "No events are kept. See LATENCY HISTOGRAM and SLOWLOG.\n";
    kv_reply_verbatim(&c->reply, "txt", text, sizeof text - 1);
    return KV_RUN_DONE;
}

static const kv_subcommand latency_rows[] = {
    {"doctor", 2, latency_doctor, "DOCTOR", "A line about latency."},
    {"histogram", -2, latency_histogram, "HISTOGRAM [COMMAND ...]", "How long commands took."},
    {"history", 3, reply_empty, "HISTORY <event>", "Nothing: no events are kept."},
    {"latest", 2, reply_empty, "LATEST", "Nothing: no events are kept."},
    {"reset", -2, latency_reset, "RESET [<event> ...]", "Always 0: no events are kept."},
};
const kv_subcommands kv_subcommands_latency = {"LATENCY", latency_rows, sizeof latency_rows / sizeof latency_rows[0]};

kv_run kv_cmd_latency(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_latency, argv, argc);
}

/* ---- What there is not --------------------------------------------------------------------------------- */

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

static kv_run acl_whoami(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_bulk_text(&c->reply, "default");
    return KV_RUN_DONE;
}

static kv_run acl_users(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_array(&c->reply, 1);
    kv_reply_bulk_text(&c->reply, "default");
    return KV_RUN_DONE;
}

static kv_run acl_list(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_array(&c->reply, 1);
    kv_reply_bulk_text(&c->reply, kv_config_has_password(kv_server_config(c->server))
                                      ? "user default on ~* &* +@all"
                                      : "user default on nopass ~* &* +@all");
    return KV_RUN_DONE;
}

static kv_run acl_cat(kv_client *c, const kv_bytes *argv, size_t argc) {
    static const char *const names[] = {"keyspace",  "read",        "write", "string", "bitmap", "pubsub",
                                        "admin",     "fast",        "slow",  "dangerous", "connection", "transaction"};
    if (argc == 2) {
        kv_reply_array(&c->reply, COUNT(names));
        for (size_t i = 0; i < COUNT(names); i++)
            kv_reply_bulk_text(&c->reply, names[i]);
        return KV_RUN_DONE;
    }
    size_t row = 0, count = 0;
    while (row < COUNT(names) && !kv_word_is(argv[2], names[row]))
        row++;
    if (row == COUNT(names) || argc > 3) {
        kv_refusef(c, "ERR Unknown category '%.*s'", KV_TEXT(argv[2], 128u));
        return KV_RUN_DONE;
    }
    for (size_t i = 0; i < kv_command_count(); i++)
        count += filter_fits(kv_command_at(i), kv_text("aclcat"), argv[2]);
    kv_reply_array(&c->reply, count);
    for (size_t i = 0; i < kv_command_count(); i++)
        if (filter_fits(kv_command_at(i), kv_text("aclcat"), argv[2]))
            kv_reply_bulk_text(&c->reply, kv_command_at(i)->name);
    return KV_RUN_DONE;
}

static const kv_subcommand acl_rows[] = {
    {"cat", -2, acl_cat, "CAT [<category>]", "Categories, or the commands of one."},
    {"list", 2, acl_list, "LIST", "The one user."},
    {"users", 2, acl_users, "USERS", "The one user's name."},
    {"whoami", 2, acl_whoami, "WHOAMI", "Always \"default\"."},
};
const kv_subcommands kv_subcommands_acl = {"ACL", acl_rows, sizeof acl_rows / sizeof acl_rows[0]};

kv_run kv_cmd_acl(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_acl, argv, argc);
}

static const kv_subcommand module_rows[] = {{"list", 2, reply_empty, "LIST", "Always empty."}};
const kv_subcommands kv_subcommands_module = {"MODULE", module_rows, sizeof module_rows / sizeof module_rows[0]};

kv_run kv_cmd_module(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_module, argv, argc);
}

static const kv_subcommand function_rows[] = {
    {"flush", -2, reply_ok, "FLUSH [ASYNC|SYNC]", "Accepted: there are none."},
    {"list", -2, reply_empty, "LIST", "Always empty."},
};
const kv_subcommands kv_subcommands_function = {"FUNCTION", function_rows, sizeof function_rows / sizeof function_rows[0]};

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
    {"flush", -2, reply_ok, "FLUSH [ASYNC|SYNC]", "Accepted: there are none."},
};
const kv_subcommands kv_subcommands_script = {"SCRIPT", script_rows, sizeof script_rows / sizeof script_rows[0]};

kv_run kv_cmd_script(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_script, argv, argc);
}

kv_run kv_cmd_cluster(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_refuse(c, "ERR This instance has cluster support disabled");
    return KV_RUN_DONE;
}
