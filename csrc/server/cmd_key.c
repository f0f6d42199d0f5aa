/* cmd_key.c - commands for which a key's value does not matter. */
#include <stdio.h>
#include <string.h>

#include "../base/mem.h"
#include "commands.h"
#include "glob.h"

/* ---- Being there --------------------------------------------------------------------------------------- */

/* Several keys (at least one) in one commit. */
static kv_status delete_keys(kv_db *db, const kv_bytes *keys, size_t count, uint64_t *deleted, kv_error *err) {
    kv_op some[16], *ops = some;
    if (count > KV_COUNT_OF(some))
        ops = kv_mem_alloc(count * sizeof *ops);
    if (ops == NULL)
        return kv_fail_nomem(err, count * sizeof *ops);
    size_t i = 0;
    do {
        ops[i] = (kv_op){.kind = KV_OP_DELETE, .key = keys[i]};
    } while (++i < count);
    kv_status status = kv_write(db, ops, count, 0, deleted, err);
    if (ops != some)
        kv_mem_free(ops);
    return status;
}

kv_run kv_cmd_del(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_error err;
    uint64_t deleted = 0;
    kv_status status;
    if (argc == 2) {
        status = kv_delete(c->db, argv[1], 0, &err);
        deleted = status == KV_OK;
    } else {
        status = delete_keys(c->db, argv + 1, argc - 1, &deleted, &err);
    }
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_integer(&c->reply, (int64_t)deleted);
    return KV_RUN_DONE;
}

kv_status kv_step_del(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    int64_t deleted = 0;
    for (size_t i = 1; i < argc; i++) {
        kv_txn_value old;
        kv_status status = kv_txn_get(t, argv[i], &old, err);
        if (status == KV_OK) {
            deleted++;
            status = kv_txn_delete(t, argv[i], err);
        }
        if (status < 0)
            return status;
    }
    kv_reply_integer(&c->reply, deleted);
    return KV_OK;
}

kv_run kv_cmd_exists(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 2) {
        kv_run_step(c, kv_step_exists, argv, argc);
        return KV_RUN_DONE;
    }
    kv_error err;
    kv_status status = kv_contains(c->db, argv[1], 0, &err);
    if (status < 0) {
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    kv_count_lookup(c, status == KV_OK);
    kv_reply_integer(&c->reply, status == KV_OK);
    return KV_RUN_DONE;
}

kv_status kv_step_exists(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    int64_t found = 0;
    for (size_t i = 1; i < argc; i++) {
        kv_txn_value value;
        kv_status status = kv_lookup(c, t, argv[i], &value, err);
        if (status < 0)
            return status;
        found += status == KV_OK;
    }
    kv_reply_integer(&c->reply, found);
    return KV_OK;
}

kv_status kv_step_touch(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return kv_step_exists(c, t, argv, argc, err);
}

kv_status kv_step_type(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_txn_get(t, argv[1], &value, err);
    if (status < 0)
        return status;
    kv_reply_status(&c->reply, status == KV_OK ? "string" : "none");
    return KV_OK;
}

/* ---- Other names --------------------------------------------------------------------------------------- */

/* Copies (or moves) argv[1] to argv[2]; the value is not copied but by the commit. */
static kv_status step_rename(kv_client *c, kv_txn *t, const kv_bytes *argv, bool only_if_free, kv_error *err) {
    kv_txn_value value, taken;
    kv_status status = kv_txn_get(t, argv[1], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND) {
        kv_refuse(c, "ERR no such key");
        return KV_OK;
    }
    bool is_same = kv_bytes_equal(argv[1], argv[2]);
    if (only_if_free) {
        status = is_same ? KV_OK : kv_txn_get(t, argv[2], &taken, err);
        if (status < 0)
            return status;
        kv_reply_integer(&c->reply, status == KV_NOTFOUND);
        if (status == KV_OK)
            return KV_OK;
    } else {
        kv_reply_ok(&c->reply);
        if (is_same)
            return KV_OK;
    }
    status = kv_txn_put(t, argv[2], value.value, value.expiry, err);
    return status < 0 ? status : kv_txn_delete(t, argv[1], err);
}

kv_status kv_step_rename(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_rename(c, t, argv, false, err);
}

kv_status kv_step_renamenx(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_rename(c, t, argv, true, err);
}

kv_status kv_step_copy(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    bool replace = false;
    for (size_t i = 3; i < argc; i++) {
        int64_t db;
        if (kv_word_is(argv[i], "replace")) {
            replace = true;
        } else if (kv_word_is(argv[i], "db") && i + 1 < argc) {
            if (!kv_parse_integer(argv[++i], &db)) {
                kv_refuse(c, KV_NOT_INTEGER);
                return KV_OK;
            }
            if (db != 0) {
                kv_refuse(c, "ERR DB index is out of range");
                return KV_OK;
            }
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_OK;
        }
    }
    if (kv_bytes_equal(argv[1], argv[2])) {
        kv_refuse(c, "ERR source and destination objects are the same");
        return KV_OK;
    }
    kv_txn_value value, taken;
    kv_status status = kv_txn_get(t, argv[1], &value, err);
    bool can = status == KV_OK;
    if (can && !replace) {
        status = kv_txn_get(t, argv[2], &taken, err);
        can = status == KV_NOTFOUND;
    }
    if (status < 0)
        return status;
    kv_reply_integer(&c->reply, can);
    return can ? kv_txn_put(t, argv[2], value.value, value.expiry, err) : KV_OK;
}

kv_run kv_cmd_move(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t db;
    if (!kv_parse_integer(argv[2], &db))
        kv_refuse(c, KV_NOT_INTEGER);
    else if (db != 0)
        kv_refuse(c, "ERR DB index is out of range");
    else
        kv_refuse(c, "ERR source and destination objects are the same");
    return KV_RUN_DONE;
}

/* ---- All keys ------------------------------------------------------------------------------------------ */

enum { WALK_SLICE = 1024 };

/* Keys that are collected before it is known how many there are.  Each is a size and so many bytes. */
typedef struct found_keys {
    kv_text_buffer bytes;
    size_t count;
    bool is_filtered;
    kv_bytes pattern; /* if it is */
} found_keys;

static void filter(found_keys *f, kv_bytes pattern) {
    f->is_filtered = pattern.size != 1 || *(const char *)pattern.data != '*';
    f->pattern = pattern;
}

static void note_key(void *arg, const kv_item *item) {
    found_keys *f = arg;
    if (f->is_filtered && !kv_glob_match(f->pattern, item->key, false))
        return;
    uint32_t size = (uint32_t)item->key.size;
    kv_text_add(&f->bytes, &size, sizeof size);
    kv_text_add(&f->bytes, item->key.data, item->key.size);
    f->count++;
}

static void reply_keys(kv_client *c, const found_keys *f) {
    kv_reply_array(&c->reply, f->count);
    const char *p = f->bytes.data;
    for (size_t i = 0; i < f->count; i++) {
        uint32_t size;
        memcpy(&size, p, sizeof size);
        kv_reply_bulk(&c->reply, p + sizeof size, size);
        p += sizeof size + size;
    }
}

kv_run kv_cmd_keys(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    found_keys f = {0};
    filter(&f, argv[1]);
    uint64_t position = 0;
    kv_error err;
    kv_status status;
    do {
        status = kv_scan(c->db, &position, WALK_SLICE, note_key, &f, &err);
    } while (status >= 0 && position != 0 && !f.bytes.broken);
    if (status >= 0 && f.bytes.broken)
        status = kv_fail_nomem(&err, f.bytes.size);
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        reply_keys(c, &f);
    kv_text_free(&f.bytes);
    return KV_RUN_DONE;
}

static bool parse_cursor(kv_bytes text, uint64_t *cursor) {
    const uint8_t *p = text.data;
    uint64_t n = 0;
    if (text.size == 0)
        return false;
    for (size_t i = 0; i < text.size; i++) {
        unsigned digit = (unsigned)p[i] - '0';
        if (digit > 9 || n > (UINT64_MAX - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *cursor = n;
    return true;
}

kv_run kv_cmd_scan(kv_client *c, const kv_bytes *argv, size_t argc) {
    uint64_t position;
    int64_t count = 10;
    bool any_type = true;
    found_keys f = {0};
    if (!parse_cursor(argv[1], &position)) {
        kv_refuse(c, "ERR invalid cursor");
        return KV_RUN_DONE;
    }
    for (size_t i = 2; i < argc; i += 2) {
        if (i + 1 < argc && kv_word_is(argv[i], "count")) {
            if (!kv_parse_integer(argv[i + 1], &count)) {
                kv_refuse(c, KV_NOT_INTEGER);
                return KV_RUN_DONE;
            }
            if (count < 1) {
                kv_refuse(c, KV_SYNTAX_ERROR);
                return KV_RUN_DONE;
            }
        } else if (i + 1 < argc && kv_word_is(argv[i], "match")) {
            filter(&f, argv[i + 1]);
        } else if (i + 1 < argc && kv_word_is(argv[i], "type")) {
            any_type = kv_word_is(argv[i + 1], "string");
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_RUN_DONE;
        }
    }
    kv_error err;
    kv_status status = KV_OK;
    if (!any_type)
        position = 0; /* nothing here is of another type */
    else
        status = kv_scan(c->db, &position, (size_t)count, note_key, &f, &err);
    if (status >= 0 && f.bytes.broken)
        status = kv_fail_nomem(&err, f.bytes.size);
    if (status < 0) {
        kv_refuse_failure(c, &err);
    } else {
        char text[24];
        int size = snprintf(text, sizeof text, "%llu", (unsigned long long)position);
        kv_reply_array(&c->reply, 2);
        kv_reply_bulk(&c->reply, text, size > 0 ? (size_t)size : 0);
        reply_keys(c, &f);
    }
    kv_text_free(&f.bytes);
    return KV_RUN_DONE;
}

kv_run kv_cmd_randomkey(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_error err;
    uint64_t position, start;
    found_keys f = {0};
    kv_status status = kv_random_position(c->db, &position, &err);
    start = position;
    if (status >= 0)
        status = kv_scan(c->db, &position, 1, note_key, &f, &err);
    if (status >= 0 && f.count == 0 && start != 0) { /* nothing behind it: from the beginning */
        position = 0;
        status = kv_scan(c->db, &position, 1, note_key, &f, &err);
    }
    if (status >= 0 && f.bytes.broken)
        status = kv_fail_nomem(&err, f.bytes.size);
    if (status < 0)
        kv_refuse_failure(c, &err);
    else if (f.count == 0)
        kv_reply_null(&c->reply);
    else
        kv_reply_bulk(&c->reply, f.bytes.data + sizeof(uint32_t), f.bytes.size - sizeof(uint32_t));
    kv_text_free(&f.bytes);
    return KV_RUN_DONE;
}

kv_run kv_cmd_dbsize(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    uint64_t count;
    kv_error err;
    if (kv_count(c->db, 0, &count, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_integer(&c->reply, (int64_t)count);
    return KV_RUN_DONE;
}

kv_status kv_step_dbsize(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argv;
    (void)argc;
    uint64_t count;
    kv_status status = kv_txn_count(t, &count, err);
    if (status == KV_OK)
        kv_reply_integer(&c->reply, (int64_t)count);
    return status;
}

static bool flush_options_are_good(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc == 1 || (argc == 2 && (kv_word_is(argv[1], "async") || kv_word_is(argv[1], "sync"))))
        return true;
    kv_refuse(c, KV_SYNTAX_ERROR);
    return false;
}

kv_run kv_cmd_flushall(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_error err;
    if (!flush_options_are_good(c, argv, argc))
        return KV_RUN_DONE;
    if (kv_clear(c->db, 0, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_status kv_step_flushall(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    if (!flush_options_are_good(c, argv, argc))
        return KV_OK;
    kv_reply_ok(&c->reply);
    return kv_txn_delete_all(t, err);
}

/* ---- OBJECT and MEMORY --------------------------------------------------------------------------------- */

/* What Redis would keep it as: short texts in one block with their header. */
static const char *encoding_of(kv_bytes value) {
    int64_t n;
    if (kv_parse_integer(value, &n))
        return "int";
    return value.size <= 44 ? "embstr" : "raw";
}

enum { ENCODING, FREQ, IDLETIME, REFCOUNT };
static const kv_subcommand object_rows[] = {
    [ENCODING] = {"encoding", 3, NULL, "ENCODING <key>", "How Redis would keep the value."},
    [FREQ] = {"freq", 3, NULL, "FREQ <key>", "Always an error: frequencies are not told."},
    [IDLETIME] = {"idletime", 3, NULL, "IDLETIME <key>", "Always 0: times of use are not kept."},
    [REFCOUNT] = {"refcount", 3, NULL, "REFCOUNT <key>", "Always 1."},
};
const kv_subcommands kv_subcommands_object = {"OBJECT", object_rows, KV_COUNT_OF(object_rows)};

kv_status kv_step_object(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    const kv_subcommand *row = kv_subcommand_find(&kv_subcommands_object, argv[1]);
    if (row == NULL) {
        kv_reply_help(c, &kv_subcommands_object);
        return KV_OK;
    }
    kv_txn_value value;
    kv_status status = kv_txn_get(t, argv[2], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND)
        kv_reply_null(&c->reply);
    else if (row == &object_rows[ENCODING])
        kv_reply_bulk_text(&c->reply, encoding_of(value.value));
    else if (row == &object_rows[FREQ])
        kv_refuse(c, "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when "
                     "switching between policies at runtime LRU and LFU data will take some time to adjust.");
    else
        kv_reply_integer(&c->reply, row == &object_rows[REFCOUNT]);
    return KV_OK;
}

enum { DOCTOR, MALLOC_STATS, PURGE, STATS, USAGE };
static const kv_subcommand memory_rows[] = {
    [DOCTOR] = {"doctor", 2, NULL, "DOCTOR", "A line about the memory."},
    [MALLOC_STATS] = {"malloc-stats", 2, NULL, "MALLOC-STATS", "Nothing: the store has its own pools."},
    [PURGE] = {"purge", 2, NULL, "PURGE", "Does nothing."},
    [STATS] = {"stats", 2, NULL, "STATS", "What takes how much memory."},
    [USAGE] = {"usage", -3, NULL, "USAGE <key> [SAMPLES <count>]", "The bytes that a key takes."},
};
const kv_subcommands kv_subcommands_memory = {"MEMORY", memory_rows, KV_COUNT_OF(memory_rows)};

static void reply_memory_stats(kv_client *c) {
    kv_stats stats;
    kv_error err;
    if (kv_get_stats(c->db, 0, &stats, &err) < 0) {
        kv_refuse_failure(c, &err);
        return;
    }
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"peak.allocated", stats.memory_bytes},
        {"total.allocated", stats.memory_bytes},
        {"startup.allocated", 0},
        {"keys.count", stats.entries},
        {"keys.bytes-per-key", stats.entries > 0 ? stats.memory_bytes / stats.entries : 0},
        {"dataset.bytes", stats.data_bytes},
        {"overhead.total", stats.memory_bytes > stats.data_bytes ? stats.memory_bytes - stats.data_bytes : 0},
    };
    kv_reply_map(&c->reply, KV_COUNT_OF(rows));
    for (size_t i = 0; i < KV_COUNT_OF(rows); i++) {
        kv_reply_bulk_text(&c->reply, rows[i].name);
        kv_reply_integer(&c->reply, (int64_t)rows[i].value);
    }
}

static kv_status step_memory_usage(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    for (size_t i = 3; i < argc; i += 2) {
        int64_t samples;
        if (i + 1 >= argc || !kv_word_is(argv[i], "samples")) {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_OK;
        }
        if (!kv_parse_integer(argv[i + 1], &samples) || samples < 0) {
            kv_refuse(c, samples < 0 ? KV_SYNTAX_ERROR : KV_NOT_INTEGER);
            return KV_OK;
        }
    }
    kv_txn_value value;
    kv_status status = argv[2].size > KV_KEY_MAX ? KV_NOTFOUND : kv_txn_get(t, argv[2], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND)
        kv_reply_null(&c->reply);
    else
        kv_reply_integer(&c->reply, (int64_t)(argv[2].size + value.value.size + KV_ITEM_CHARGE));
    return KV_OK;
}

kv_status kv_step_memory(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    const kv_subcommand *row = kv_subcommand_find(&kv_subcommands_memory, argv[1]);
    if (row == NULL) {
        kv_reply_help(c, &kv_subcommands_memory);
        return KV_OK;
    }
    switch (row - memory_rows) {
    case DOCTOR:
        kv_reply_bulk_text(&c->reply, "Nothing to report.");
        return KV_OK;
    case MALLOC_STATS:
        kv_reply_bulk_text(&c->reply, "Stats not supported for the current allocator");
        return KV_OK;
    case PURGE:
        kv_reply_ok(&c->reply);
        return KV_OK;
    case STATS:
        reply_memory_stats(c);
        return KV_OK;
    default:
        return step_memory_usage(c, t, argv, argc, err);
    }
}
