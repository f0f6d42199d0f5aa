/* cmd_command.c - COMMAND, and ACL: what commands there are, and the one user that may run them. */
#include <string.h>

#include "commands.h"
#include "glob.h"

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
    for (size_t i = 0; i < KV_COUNT_OF(flag_names); i++)
        count += (flags & flag_names[i].flag) != 0;
    kv_reply_set(&c->reply, count);
    for (size_t i = 0; i < KV_COUNT_OF(flag_names); i++)
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
const kv_subcommands kv_subcommands_command = {"COMMAND", command_rows, KV_COUNT_OF(command_rows)};

kv_run kv_cmd_command(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc == 1)
        return command_info(c, argv, argc);
    return kv_run_subcommand(c, &kv_subcommands_command, argv, argc);
}

/* ---- ACL ------------------------------------------------------------------------------------------------- */

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
        kv_reply_array(&c->reply, KV_COUNT_OF(names));
        for (size_t i = 0; i < KV_COUNT_OF(names); i++)
            kv_reply_bulk_text(&c->reply, names[i]);
        return KV_RUN_DONE;
    }
    size_t row = 0, count = 0;
    while (row < KV_COUNT_OF(names) && !kv_word_is(argv[2], names[row]))
        row++;
    if (row == KV_COUNT_OF(names) || argc > 3) {
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
const kv_subcommands kv_subcommands_acl = {"ACL", acl_rows, KV_COUNT_OF(acl_rows)};

kv_run kv_cmd_acl(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_acl, argv, argc);
}
