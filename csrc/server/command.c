/* command.c - the table of commands, and how one request is run. */
#include "command.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/futex.h"
#include "commands.h"

/* ---- The table ----------------------------------------------------------------------------------------- */

enum {
#define X(name, ...) + 1
    COMMANDS = 0
#include "command_table.h"
#undef X
};

static const kv_command commands[COMMANDS] = {
#define X(name, arity, flags, first, last, step, function, step_function, group, since, summary)                     \
    {name, arity, flags, first, last, step, function, step_function, group, since, summary},
#include "command_table.h"
#undef X
};

#define INDEX_SIZE 1024u /* a power of two, several times the commands: most names are found at the first look */
_Static_assert(COMMANDS * 4 <= INDEX_SIZE, "the index is at most a quarter full");
#define NAME_SIZE_MAX 16u

static uint8_t name_index[INDEX_SIZE]; /* number + 1; constant after make_index */
static const kv_subcommands *subcommands_of[COMMANDS]; /* NULL: it has none; constant after make_index */
static pthread_once_t index_once = PTHREAD_ONCE_INIT;

/* FNV-1a (Fowler, Noll, Vo) of the name in lower case. */
static uint32_t name_hash(kv_bytes name) {
    uint32_t hash = 2166136261u;
    const uint8_t *p = name.data;
    for (size_t i = 0; i < name.size; i++)
        hash = (hash ^ (p[i] | 0x20)) * 16777619u;
    return hash ^ hash >> 15;
}

static void make_index(void) {
    _Static_assert(COMMANDS < 255, "numbers fit into a byte");
    for (size_t i = 0; i < COMMANDS; i++) {
        uint32_t at = name_hash(kv_text(commands[i].name)) % INDEX_SIZE;
        while (name_index[at] != 0)
            at = (at + 1) % INDEX_SIZE;
        name_index[at] = (uint8_t)(i + 1);
    }
    static const struct {
        const char *name;
        const kv_subcommands *subcommands;
    } containers[] = {
#define X(name) {#name, &kv_subcommands_##name},
        KV_COMMAND_CONTAINERS(X)
#undef X
    };
    for (size_t i = 0; i < COMMANDS; i++)
        for (size_t k = 0; k < KV_COUNT_OF(containers); k++)
            if (strcmp(commands[i].name, containers[k].name) == 0)
                subcommands_of[i] = containers[k].subcommands;
}

size_t kv_command_count(void) {
    return COMMANDS;
}

const kv_command *kv_command_at(size_t index) {
    return &commands[index];
}

const kv_command *kv_command_find(kv_bytes name) {
    if (name.size == 0 || name.size > NAME_SIZE_MAX)
        return NULL;
    pthread_once(&index_once, make_index);
    for (uint32_t at = name_hash(name) % INDEX_SIZE; name_index[at] != 0; at = (at + 1) % INDEX_SIZE) {
        const kv_command *command = &commands[name_index[at] - 1];
        if (kv_word_is(name, command->name))
            return command;
    }
    return NULL;
}

size_t kv_command_index(const kv_command *command) {
    return (size_t)(command - commands);
}

/* ---- Refusing ------------------------------------------------------------------------------------------ */

void kv_refuse(kv_client *c, const char *text) {
    c->errors++;
    kv_reply_error(&c->reply, text);
    if (c->server != NULL)
        kv_counters_error(kv_server_stats(c->server), text);
}

void kv_refusef(kv_client *c, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    kv_refuse(c, text);
}

void kv_refuse_arity(kv_client *c, const char *name) {
    kv_refusef(c, "ERR wrong number of arguments for '%s' command", name);
}

/* The error reply's text for a failed call of the engine. */
static void describe_failure(const kv_error *err, char *text, size_t size) {
    switch (err->status) {
    case KV_ERR_MEMLIMIT:
        (void)snprintf(text, size, "OOM command not allowed when used memory > 'maxmemory'.");
        break;
    case KV_ERR_NOMEM:
        (void)snprintf(text, size, "OOM out of memory");
        break;
    case KV_ERR_NOSPACE: /* pykv/link.py knows it by its beginning */
        (void)snprintf(text, size, "MISCONF No space, the write was undone: %s", err->message);
        break;
    case KV_ERR_FAILED:
    case KV_ERR_IO:
        (void)snprintf(text, size, "MISCONF Errors writing to the AOF file: %s", err->message);
        break;
    case KV_ERR_NOTINT:
        (void)snprintf(text, size, KV_NOT_INTEGER);
        break;
    case KV_ERR_RANGE:
        (void)snprintf(text, size, "ERR increment or decrement would overflow");
        break;
    case KV_ERR_LIMIT:
        (void)snprintf(text, size, KV_TOO_LONG);
        break;
    case KV_ERR_READONLY:
        (void)snprintf(text, size, "READONLY You can't write against a read only store.");
        break;
    default:
        (void)snprintf(text, size, "ERR %s", err->message[0] != '\0' ? err->message : kv_status_text(err->status));
        break;
    }
}

void kv_reply_failure(kv_reply *r, const kv_error *err) {
    char text[KV_ERROR_MESSAGE_SIZE + 64];
    describe_failure(err, text, sizeof text);
    kv_reply_error(r, text);
}

void kv_refuse_failure(kv_client *c, const kv_error *err) {
    char text[KV_ERROR_MESSAGE_SIZE + 64];
    describe_failure(err, text, sizeof text);
    kv_refuse(c, text);
}

static void refuse_unknown(kv_client *c, const kv_bytes *argv, size_t argc) {
    char args[160];
    size_t size = 0;
    args[0] = '\0';
    for (size_t i = 1; i < argc && size < 128; i++) {
        int more = snprintf(args + size, sizeof args - size, "'%.*s' ", KV_TEXT(argv[i], 128 - size));
        size += more > 0 ? (size_t)more : 0;
    }
    kv_refusef(c, "ERR unknown command '%.*s', with args beginning with: %s", KV_TEXT(argv[0], 128u), args);
}

/* ---- Steps --------------------------------------------------------------------------------------------- */

void kv_run_step(kv_client *c, kv_command_step step, const kv_bytes *argv, size_t argc) {
    uint64_t position = kv_reply_position(&c->reply), errors = c->errors;
    kv_txn *t = kv_client_txn(c);
    kv_error err;
    if (t == NULL) {
        (void)kv_fail_nomem(&err, 0);
        kv_refuse_failure(c, &err);
        return;
    }
    kv_status status;
    do {
        kv_reply_cut(&c->reply, position);
        c->errors = errors;
        kv_txn_begin(t, c->db);
        status = step(c, t, argv, argc, &err);
        if (status == KV_OK)
            status = kv_txn_commit(t, &err);
    } while (status == KV_UNCHANGED);
    kv_txn_end(t);
    if (status < 0) {
        kv_reply_cut(&c->reply, position);
        kv_refuse_failure(c, &err);
    }
}

void kv_count_lookup(kv_client *c, bool found) {
    if (c->server == NULL)
        return;
    kv_slice *slice = &kv_server_stats(c->server)->slices[c->slice];
    kv_counter_add(found ? &slice->hits : &slice->misses, 1);
}

kv_status kv_lookup(kv_client *c, kv_txn *t, kv_bytes key, kv_txn_value *value, kv_error *err) {
    kv_status status = kv_txn_get(t, key, value, err);
    if (status >= 0)
        kv_count_lookup(c, status == KV_OK);
    return status;
}

void kv_reply_txn_value(kv_client *c, const kv_txn_value *value) {
    if (value->item != NULL)
        kv_reply_value(&c->reply, value->item);
    else
        kv_reply_bulk(&c->reply, value->value.data, value->value.size);
}

bool kv_allow_size(kv_client *c, uint64_t size) {
    uint64_t max = KV_VALUE_MAX;
    if (c->server != NULL) {
        uint64_t bulk_max = atomic_load_explicit(&kv_server_config(c->server)->bulk_max, memory_order_relaxed);
        max = bulk_max < max ? bulk_max : max;
    }
    if (size <= max)
        return true;
    kv_refuse(c, KV_TOO_LONG);
    return false;
}

/* ---- Running one request ------------------------------------------------------------------------------- */

static bool arity_fits(int arity, size_t argc) {
    return arity >= 0 ? argc == (size_t)arity : argc >= (size_t)-arity;
}

/* Refuses an unknown subcommand, and a wrong number of arguments for it. */
static bool refuse_by_subcommand(kv_client *c, const kv_command *command, const kv_bytes *argv, size_t argc) {
    const kv_subcommands *subcommands = subcommands_of[kv_command_index(command)];
    if (subcommands == NULL || argc < 2)
        return false;
    const kv_subcommand *row = kv_subcommand_find(subcommands, argv[1]);
    if (row == NULL && kv_word_is(argv[1], "help")) {
        if (argc == 2)
            return false;
        kv_refusef(c, "ERR wrong number of arguments for '%s|help' command", command->name);
    } else if (row == NULL) {
        kv_refuse_subcommand(c, subcommands->name, argv[1]);
    } else if (!arity_fits(row->arity, argc)) {
        kv_refusef(c, "ERR wrong number of arguments for '%s|%s' command", command->name, row->name);
    } else {
        return false;
    }
    return true;
}

/* Keys that no entry can have. */
static bool keys_fit(const kv_command *command, const kv_bytes *argv, size_t argc) {
    if (command->first_key == 0)
        return true;
    size_t last = command->last_key >= 0 ? (size_t)command->last_key : argc - 1;
    for (size_t i = (size_t)command->first_key; i <= last && i < argc; i += (size_t)command->key_step)
        if (argv[i].size > KV_KEY_MAX)
            return false;
    return true;
}

kv_run kv_command_call(kv_client *c, const kv_command *command, kv_txn *t, const kv_bytes *argv, size_t argc,
                       kv_status *status, kv_error *err) {
    uint64_t start = c->active_ns != 0 ? c->active_ns : kv_now_ns();
    uint64_t errors = c->errors;
    kv_run run = KV_RUN_DONE;
    if (t != NULL)
        *status = command->step(c, t, argv, argc, err);
    else if (command->function != NULL)
        run = command->function(c, argv, argc);
    else
        kv_run_step(c, command->step, argv, argc);
    if (run == KV_RUN_LATER || c->server == NULL)
        return run;
    uint64_t end = kv_now_ns(), duration_ns = end - start;
    if (c->active_ns != 0)
        c->active_ns = end;
    kv_counters *counters = kv_server_stats(c->server);
    kv_slice *slice = &counters->slices[c->slice];
    kv_counter_add(&slice->commands, 1);
    kv_call_stats_add(&slice->calls[kv_command_index(command)], duration_ns,
                      c->errors != errors || (t != NULL && *status < 0));
    kv_config *config = kv_server_config(c->server);
    uint64_t slow_us = atomic_load_explicit(&config->slowlog_slower_than_us, memory_order_relaxed);
    if (duration_ns / 1000 >= slow_us && (command->flags & KV_CMD_NO_SLOWLOG) == 0)
        kv_slow_add(counters, atomic_load_explicit(&config->slowlog_max_len, memory_order_relaxed),
                    kv_clock_ms(c->db) / 1000, duration_ns / 1000, argv, argc, c->address,
                    c->name != NULL ? c->name : "");
    return run;
}

/* With its subcommand, as errors name it. */
static void full_name(const kv_command *command, const kv_bytes *argv, size_t argc, char *name, size_t size) {
    const kv_subcommands *subcommands = subcommands_of[kv_command_index(command)];
    const kv_subcommand *row = subcommands != NULL && argc > 1 ? kv_subcommand_find(subcommands, argv[1]) : NULL;
    (void)snprintf(name, size, "%s%s%s", command->name, row != NULL ? "|" : "", row != NULL ? row->name : "");
}

static void refuse_subscriber(kv_client *c, const kv_command *command, const kv_bytes *argv, size_t argc) {
    char name[64];
    full_name(command, argv, argc, name, sizeof name);
    kv_refusef(c,
               "ERR Can't execute '%s': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
               "allowed in this context",
               name);
}

/* EXEC ends its transaction even so. */
static void refuse_by_arity(kv_client *c, const kv_command *command) {
    if (command->function != kv_cmd_exec) {
        kv_refuse_arity(c, command->name);
        return;
    }
    kv_multi_forget(c);
    kv_refuse(c, "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command");
}

/* Says why the request must not run, or be queued, now; false: it may. */
static bool refuse(kv_client *c, const kv_command *command, const kv_bytes *argv, size_t argc) {
    if (command == NULL)
        refuse_unknown(c, argv, argc);
    else if (!arity_fits(command->arity, argc))
        refuse_by_arity(c, command);
    else if (subcommands_of[kv_command_index(command)] != NULL && refuse_by_subcommand(c, command, argv, argc))
        return true;
    else if (!c->authenticated && (command->flags & KV_CMD_NO_AUTH) == 0)
        kv_refuse(c, "NOAUTH Authentication required.");
    else if (!keys_fit(command, argv, argc))
        kv_refusef(c, "ERR key exceeds maximum allowed size (%u bytes)", KV_KEY_MAX);
    else if ((command->flags & KV_CMD_SUBSCRIBED) == 0 && c->subscriptions != NULL && kv_client_is_subscriber(c))
        refuse_subscriber(c, command, argv, argc);
    else if ((command->flags & KV_CMD_NO_MULTI) != 0 && c->multi != NULL && kv_multi_is_open(c))
        kv_refuse(c, "ERR Command not allowed inside a transaction");
    else
        return false;
    return true;
}

/* The beginning of an HTTP request, whose body could be requests of ours: a page in a browser can send one to any
 * port, also to one of this machine. */
static bool is_http(kv_bytes name) {
    return kv_word_is(name, "post") || kv_word_is(name, "host:");
}

static kv_run run(kv_client *c, const kv_bytes *argv, size_t argc) {
    const kv_command *last = c->last_command;
    /* In a pipeline, mostly the same again. */
    const kv_command *command =
        last != NULL && kv_word_is(argv[0], last->name) ? last : kv_command_find(argv[0]);
    if (command == NULL && is_http(argv[0])) {
        c->close_now = true;
        return KV_RUN_DONE;
    }
    if (refuse(c, command, argv, argc)) {
        if (c->multi != NULL)
            kv_multi_fail(c);
        if (command != NULL && c->server != NULL) {
            kv_slice *slice = &kv_server_stats(c->server)->slices[c->slice];
            kv_counter_add(&slice->calls[kv_command_index(command)].rejected, 1);
        }
        return KV_RUN_DONE;
    }
    c->last_command = command;
    if (c->multi != NULL && (command->flags & KV_CMD_IN_MULTI) == 0 && kv_multi_is_open(c)) {
        kv_multi_queue(c, command, argv, argc);
        return KV_RUN_DONE;
    }
    return kv_command_call(c, command, NULL, argv, argc, NULL, NULL);
}

kv_run kv_command_run(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (!c->reply_off && !c->reply_skip_next) {
        kv_run result = run(c, argv, argc);
        c->requests += result == KV_RUN_DONE;
        return result;
    }
    bool skip = c->reply_skip_next;
    c->reply_skip_next = false;
    c->reply.muted = true;
    kv_run result = run(c, argv, argc);
    c->reply.muted = false;
    if (result == KV_RUN_LATER)
        c->reply_skip_next = skip;
    else
        c->requests++;
    return result;
}

/* ---- Subcommands --------------------------------------------------------------------------------------- */

void kv_refuse_subcommand(kv_client *c, const char *name, kv_bytes subcommand) {
    kv_refusef(c, "ERR unknown subcommand '%.*s'. Try %s HELP.", KV_TEXT(subcommand, 128u), name);
}

void kv_refuse_form(kv_client *c, const char *name, kv_bytes subcommand) {
    kv_refusef(c, "ERR unknown subcommand or wrong number of arguments for '%.*s'. Try %s HELP.",
               KV_TEXT(subcommand, 128u), name);
}

void kv_reply_help(kv_client *c, const kv_subcommands *subcommands) {
    size_t lines = 3;
    for (size_t i = 0; i < subcommands->count; i++)
        lines += subcommands->rows[i].usage != NULL ? 2 : 0;
    char line[256];
    kv_reply_array(&c->reply, lines);
    (void)snprintf(line, sizeof line, "%s <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                   subcommands->name);
    kv_reply_status(&c->reply, line);
    for (size_t i = 0; i < subcommands->count; i++) {
        const kv_subcommand *row = &subcommands->rows[i];
        if (row->usage == NULL)
            continue;
        kv_reply_status(&c->reply, row->usage);
        (void)snprintf(line, sizeof line, "    %s", row->help);
        kv_reply_status(&c->reply, line);
    }
    kv_reply_status(&c->reply, "HELP");
    kv_reply_status(&c->reply, "    Print this help.");
}

const kv_subcommand *kv_subcommand_find(const kv_subcommands *subcommands, kv_bytes name) {
    for (size_t i = 0; i < subcommands->count; i++)
        if (kv_word_is(name, subcommands->rows[i].name))
            return &subcommands->rows[i];
    return NULL;
}

kv_run kv_run_subcommand(kv_client *c, const kv_subcommands *subcommands, const kv_bytes *argv, size_t argc) {
    const kv_subcommand *row = kv_subcommand_find(subcommands, argv[1]);
    if (row != NULL)
        return row->function(c, argv, argc);
    kv_reply_help(c, subcommands);
    return KV_RUN_DONE;
}

kv_run kv_answer_ok(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_answer_empty(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_array(&c->reply, 0);
    return KV_RUN_DONE;
}
