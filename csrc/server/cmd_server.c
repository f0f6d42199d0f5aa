/* cmd_server.c - the server itself: configuration, time, checkpoints, debugging. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "../base/mem.h"
#include "commands.h"
#include "glob.h"

/* ---- CONFIG -------------------------------------------------------------------------------------------- */

const char *kv_memory_policy(const kv_stats *stats) {
    return stats->max_memory > 0 && stats->when_full == KV_FULL_EVICT ? "allkeys-lfu" : "noeviction";
}

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
        if (kv_get_stats(c->db, KV_NOWAIT, &stats, &err) < 0)
            stats.max_memory = 0;
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%" PRIu64, stats.max_memory);
    } else if (strcmp(name, "maxmemory-policy") == 0) {
        kv_stats stats;
        kv_error err;
        bool is_known = kv_get_stats(c->db, KV_NOWAIT, &stats, &err) == KV_OK;
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s", is_known ? kv_memory_policy(&stats) : "noeviction");
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
    for (size_t i = 0; i < KV_COUNT_OF(names); i++)
        if (kv_word_is(name, names[i]) && kv_store_config(c, names[i], now))
            return kv_word_is(value, now);
    return false;
}

/* Those before it were known parameters and no two the same, so they are few. */
static bool is_named_before(const kv_bytes *argv, size_t at) {
    for (size_t i = 2; i < at; i += 2)
        if (argv[i].size == argv[at].size && strncasecmp(argv[i].data, argv[at].data, argv[i].size) == 0)
            return true;
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
            if (dry && is_named_before(argv, i)) {
                kv_refusef(c, "ERR CONFIG SET failed (possibly related to argument '%.*s') - duplicate parameter",
                           KV_TEXT(argv[i], 128u));
                return KV_RUN_DONE;
            }
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
    return kv_answer_ok(c, argv, argc);
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
const kv_subcommands kv_subcommands_config = {"CONFIG", config_rows, KV_COUNT_OF(config_rows)};

kv_run kv_cmd_config(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_config, argv, argc);
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

static kv_run save_in_background(kv_client *c, const char *started, const char *busy) {
    kv_error err;
    if (refuse_if_memory_only(c))
        return KV_RUN_DONE;
    kv_status status = kv_server_checkpoint_in_background(c->server, &err);
    if (status == KV_OK)
        kv_reply_status(&c->reply, started);
    else if (status == KV_BUSY)
        kv_refuse(c, busy);
    else
        kv_refuse_failure(c, &err);
    return KV_RUN_DONE;
}

kv_run kv_cmd_bgsave(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 2 || (argc == 2 && !kv_word_is(argv[1], "schedule"))) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_RUN_DONE;
    }
    return save_in_background(c, "Background saving started", "ERR Background save already in progress");
}

kv_run kv_cmd_bgrewriteaof(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    return save_in_background(c, "Background append only file rewriting started",
                              "ERR Background append only file rewriting already in progress");
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

static bool is_all_durable(kv_client *c) {
    kv_stats stats;
    kv_error err;
    return kv_get_stats(c->db, KV_NOWAIT, &stats, &err) == KV_OK && stats.durable_lsn >= stats.lsn;
}

/* A reply leaves when what stands before it is committed; in the modes that do not sync by themselves the disk is
 * waited for here, but in EXEC, where nobody waits: there it tells how things are. */
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
    bool is_late = is_durable && !kv_is_read_only(c->db) && kv_sync_mode(c->db) != KV_SYNC_ALWAYS;
    if (is_late && c->in_exec) {
        is_durable = is_all_durable(c);
    } else if (is_late) {
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
    kv_refuse(c, "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can "
                 "run it from a local connection, otherwise you need to set this option in the configuration file, "
                 "and then restart the server.");
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
                       item.value.data,
                       kv_parse_integer(item.value, &n) ? "int" : item.value.size <= 44 ? "embstr" : "raw",
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
    {"set-active-expire", 3, kv_answer_ok, "SET-ACTIVE-EXPIRE <0|1>", "Accepted, without effect."},
    {"change-repl-id", 2, kv_answer_ok, "CHANGE-REPL-ID", "Accepted, without effect."},
    {"jmap", -2, kv_answer_ok, "JMAP", "Accepted, without effect."},
    {"quicklist-packed-threshold", 3, kv_answer_ok, NULL, NULL},
    {"set-disable-deny-scripts", 3, kv_answer_ok, NULL, NULL},
    {"replybuffer", -2, kv_answer_ok, NULL, NULL},
    {"dict-resizing", 3, kv_answer_ok, NULL, NULL},
    {"pause-cron", 3, kv_answer_ok, NULL, NULL},
};
const kv_subcommands kv_subcommands_debug = {"DEBUG", debug_rows, KV_COUNT_OF(debug_rows)};

kv_run kv_cmd_debug(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (refuse_debug(c))
        return KV_RUN_DONE;
    return kv_run_subcommand(c, &kv_subcommands_debug, argv, argc);
}
