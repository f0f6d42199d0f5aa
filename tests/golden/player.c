/* player.c - plays a script on a store with tiny segments; make.py uses it to make golden files.
 *
 *     player DIR SYNC SEGMENT_MAX MARK_MS < script
 *
 * A script's lines: put KEY VALUE [EXPIRY], delete KEY, expire KEY EXPIRY, clear, batch COUNT (the next lines are one
 * commit), sync, checkpoint, backup DIR, sleep MS, close, open.  Keys and values are hexadecimal, "-" is the empty
 * one.  At the end of the script the process is gone as if it had been killed.  Compiles with any pykv since version
 * 1 of the format.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/format.h"
#include "kv.h"

#define BATCH_MAX 64
#define BYTES_MAX 65536

static kv_options options;
static const char *path;
static kv_db *db;
static kv_error err;

static void check(kv_status status) {
    if (status >= 0)
        return;
    fprintf(stderr, "player: %s: %s\n", kv_status_name(status), err.message);
    exit(1);
}

static kv_bytes from_hex(const char *hex) {
    if (strcmp(hex, "-") == 0)
        return (kv_bytes){NULL, 0};
    size_t size = strlen(hex) / 2;
    unsigned char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++) {
        unsigned byte = 0;
        sscanf(hex + 2 * i, "%2x", &byte);
        bytes[i] = (unsigned char)byte;
    }
    return (kv_bytes){bytes, size};
}

/* put, delete or expire; false: another line. */
static bool parse_op(char *const words[], kv_op *op) {
    *op = (kv_op){0};
    if (words[1] == NULL)
        return false;
    const char *expiry = NULL;
    if (strcmp(words[0], "put") == 0) {
        op->kind = KV_OP_PUT;
        op->value = from_hex(words[2]);
        expiry = words[3];
    } else if (strcmp(words[0], "delete") == 0) {
        op->kind = KV_OP_DELETE;
#if KV_FORMAT_VERSION >= 2
    } else if (strcmp(words[0], "expire") == 0) {
        op->kind = KV_OP_EXPIRE;
        expiry = words[2];
#endif
    } else {
        return false;
    }
    op->key = from_hex(words[1]);
#if KV_FORMAT_VERSION >= 2
    op->expiry = expiry != NULL ? strtoull(expiry, NULL, 10) : 0;
#else
    (void)expiry;
#endif
    return true;
}

static void play_op(const kv_op *op) {
#if KV_FORMAT_VERSION >= 2
    if (op->kind == KV_OP_PUT && op->expiry != 0) {
        check(kv_put_expiring(db, op->key, op->value, op->expiry, 0, &err));
        return;
    }
    if (op->kind == KV_OP_EXPIRE) {
        check(kv_expire(db, op->key, op->expiry, 0, &err));
        return;
    }
#endif
    if (op->kind == KV_OP_PUT)
        check(kv_put(db, op->key, op->value, 0, &err));
    else
        check(kv_delete(db, op->key, 0, &err));
}

static bool play_saving(char *const words[]) {
#if KV_FORMAT_VERSION >= 2
    if (strcmp(words[0], "checkpoint") == 0)
        check(kv_checkpoint(db, NULL, NULL, &err));
    else if (strcmp(words[0], "backup") == 0)
        check(kv_backup(db, words[1], NULL, NULL, &err));
    else
        return false;
    return true;
#else
    (void)words;
    return false;
#endif
}

static void play(char *const words[]) {
    kv_op op;
    if (parse_op(words, &op)) {
        play_op(&op);
    } else if (strcmp(words[0], "clear") == 0) {
        check(kv_clear(db, 0, &err));
    } else if (strcmp(words[0], "sync") == 0) {
        check(kv_make_durable(db, &err));
    } else if (strcmp(words[0], "sleep") == 0) {
        usleep((useconds_t)atoi(words[1]) * 1000);
    } else if (strcmp(words[0], "open") == 0) {
        check(kv_open(path, &options, &db, &err));
    } else if (strcmp(words[0], "close") == 0) {
        check(kv_close(db, &err));
        kv_destroy(db);
    } else if (!play_saving(words)) {
        fprintf(stderr, "player: there is no %s\n", words[0]);
        exit(1);
    }
}

static bool next_line(char *words[5]) {
    static char line[2 * BYTES_MAX];
    if (fgets(line, sizeof line, stdin) == NULL)
        return false;
    memset(words, 0, 5 * sizeof words[0]);
    words[0] = strtok(line, " \n");
    for (int i = 1; i < 4 && words[i - 1] != NULL; i++)
        words[i] = strtok(NULL, " \n");
    return words[0] != NULL;
}

int main(int argc, char **argv) {
    char *words[5];
    if (argc != 5)
        return 2;
    path = argv[1];
    options = kv_options_default();
    options.sync = strcmp(argv[2], "never") == 0 ? KV_SYNC_NEVER : KV_SYNC_ALWAYS;
    options.segment_size_min = 8192;
    options.segment_size_max = (uint32_t)atoi(argv[3]);
    options.mark_delay_ns = strtoull(argv[4], NULL, 10) * 1000000;
#if KV_FORMAT_VERSION >= 2
    options.checkpoint_log_percent = 0; /* only when asked for */
#endif
    check(kv_open(path, &options, &db, &err));
    while (next_line(words)) {
        if (strcmp(words[0], "batch") != 0) {
            play(words);
            continue;
        }
        kv_op ops[BATCH_MAX];
        size_t count = (size_t)atoi(words[1]);
        for (size_t i = 0; i < count && i < BATCH_MAX; i++)
            if (!next_line(words) || !parse_op(words, &ops[i]))
                return 2;
        check(kv_write(db, ops, count, 0, NULL, &err));
    }
    _exit(0); /* closes nothing */
}
