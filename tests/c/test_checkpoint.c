/* test_checkpoint.c - checkpoints: what they hold, what an open takes from them, and what becomes of the log. */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "engine/checkpoint.h"
#include "engine/segment.h"
#include "kv.h"
#include "model.h"
#include "world.h"

typedef struct pair {
    world *w;
    model *m;
} pair;

static pair pair_create(void) {
    pair p = {world_create(), model_create()};
    p.w->options.checkpoint_log_percent = 0; /* only when asked for */
    world_open(p.w);
    return p;
}

static void pair_destroy(pair *p) {
    world_destroy(p->w);
    model_destroy(p->m);
}

static void put(pair *p, uint64_t key, uint64_t value) {
    char text[40];
    int size = snprintf(text, sizeof text, "key %" PRIu64, key);
    kv_bytes k = bytes_of(text, (size_t)size), v = bytes_of(&value, sizeof value);
    CHECK_OK(kv_put(p->w->db, k, v, 0, &p->w->err), &p->w->err);
    model_put(p->m, k, v);
}

static void delete(pair *p, uint64_t key) {
    char text[40];
    int size = snprintf(text, sizeof text, "key %" PRIu64, key);
    kv_bytes k = bytes_of(text, (size_t)size);
    CHECK(kv_delete(p->w->db, k, 0, &p->w->err) >= 0);
    model_delete(p->m, k);
}

static void checkpoint(pair *p) {
    CHECK_OK(kv_checkpoint(p->w->db, NULL, NULL, &p->w->err), &p->w->err);
}

static void reopen(pair *p) {
    world_close(p->w);
    world_open(p->w);
}

static void test_empty(void) {
    pair p = pair_create();
    checkpoint(&p);
    checkpoint(&p); /* nothing new */
    CHECK_EQ(world_stats(p.w).checkpoints, 1);
    reopen(&p);
    model_check(p.m, p.w->db);
    put(&p, 1, 1);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

static void test_state_and_tail(void) {
    enum { KEYS = 3000 };
    pair p = pair_create();
    for (uint64_t i = 0; i < KEYS; i++)
        put(&p, i, i);
    uint64_t segments = world_stats(p.w).log_segments;
    checkpoint(&p);
    CHECK(segments > 3);
    CHECK(world_stats(p.w).log_segments <= 2);
    kv_recovery recovery;
    reopen(&p);
    kv_get_recovery(p.w->db, &recovery);
    CHECK_EQ(recovery.checkpoint_items, KEYS);
    CHECK_EQ(recovery.records, 0);
    model_check(p.m, p.w->db);
    for (uint64_t i = 0; i < KEYS; i += 3)
        put(&p, i, i + 1);
    for (uint64_t i = 1; i < KEYS; i += 3)
        delete(&p, i);
    reopen(&p);
    kv_get_recovery(p.w->db, &recovery);
    CHECK_EQ(recovery.records, 2 * KEYS / 3);
    model_check(p.m, p.w->db);
    for (unsigned round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < KEYS; i += 2)
            put(&p, i, i + round);
        checkpoint(&p);
        put(&p, round, 99);
        reopen(&p);
        model_check(p.m, p.w->db);
    }
    pair_destroy(&p);
}

/* The length is right before anything is loaded. */
static void test_count_before_loading(void) {
    pair p = pair_create();
    for (uint64_t i = 0; i < 2000; i++)
        put(&p, i, i);
    checkpoint(&p);
    reopen(&p);
    CHECK_EQ(world_stats(p.w).entries, 2000);
    CHECK_EQ(world_stats(p.w).data_bytes, model_data_bytes(p.m));
    CHECK_OK(kv_load_all(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    CHECK_EQ(world_stats(p.w).shards_loaded, world_stats(p.w).shards);
    CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
    CHECK_OK(kv_clear(p.w->db, 0, &p.w->err), &p.w->err);
    model_clear(p.m);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* Checkpoints by themselves, as the log grows; the log stays short. */
static void test_by_itself(void) {
    pair p = pair_create();
    world_close(p.w);
    p.w->options.checkpoint_log_percent = 100;
    p.w->options.checkpoint_log_min = 4 * WORLD_SEGMENT_SIZE;
    world_open(p.w);
    for (uint64_t i = 0; i < 5000; i++)
        put(&p, i % 50, i);
    while (world_stats(p.w).log_segments > 12 || world_stats(p.w).checkpoints == 0)
        usleep(1000);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

static void test_backup(void) {
    pair p = pair_create();
    for (uint64_t i = 0; i < 1000; i++)
        put(&p, i, i);
    CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
    CHECK_STATUS(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), KV_ERR_IO, &p.w->err);
    kv_db *db;
    CHECK_OK(kv_open("copy", &p.w->options, &db, &p.w->err), &p.w->err);
    model_check(p.m, db);
    put(&p, 5, 77);
    CHECK_OK(kv_put(db, LITERAL("x"), LITERAL("y"), 0, &p.w->err), &p.w->err);
    CHECK_OK(kv_close(db, &p.w->err), &p.w->err);
    kv_destroy(db);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}


/* ---- What a checkpoint's file holds ------------------------------------------------------------------ */

static void add_entry(void *arg, kv_entry *e) {
    model *m = arg;
    CHECK(model_get(m, kv_entry_key(e)) == NULL);
    model_put_expiring(m, kv_entry_key(e), kv_entry_value(e), kv_entry_expiry(e));
}

/* The state in the newest checkpoint of the directory, without the log that would hide its faults. */
static model *model_of_checkpoint(world *w, const char *path) {
    kv_error err;
    kv_dir dir;
    kv_identity who;
    uint8_t identity[KV_STORE_FILE_SIZE];
    kv_checkpoint_file *file;
    kv_table table;
    model *m = model_create();
    const kv_os *os = memory_os_table(w->memory);
    CHECK_OK(kv_dir_open(&dir, os, path, false, &err), &err);
    CHECK_EQ(memory_os_peek(w->memory, path, KV_STORE_FILE, 0, identity, sizeof identity), 0);
    CHECK_OK(kv_identity_decode(&who, identity, sizeof identity, path, &err), &err);
    CHECK_OK(kv_checkpoint_open(&file, &dir, image_checkpoint(w->memory, path), who.store_id, &err), &err);
    CHECK_OK(kv_checkpoint_init_table(file, &table, who.hash_key, &err), &err);
    for (uint64_t hash = 0, last = 0; last != UINT64_MAX; hash = last + 1) {
        kv_shard *shard;
        CHECK_OK(kv_table_lock_loaded(&table, hash, false, &shard, &err), &err);
        CHECK_OK(kv_shard_verify(&table, shard, &err), &err);
        kv_array_visit(kv_shard_array(shard), add_entry, m);
        last = kv_shard_range_last(shard);
        kv_shard_unlock(shard);
    }
    CHECK_EQ(file->footer.entries, model_count(m));
    CHECK_EQ(file->footer.data_bytes, model_data_bytes(m));
    kv_table_fini(&table);
    kv_checkpoint_destroy(file);
    kv_dir_close(&dir);
    return m;
}

static void check_checkpoint(world *w, const char *path, const model *wanted) {
    model *found = model_of_checkpoint(w, path);
    CHECK_EQ(model_count(found), model_count(wanted));
    CHECK_EQ(model_digest(found), model_digest(wanted));
    model_destroy(found);
}

/* ---- Changes while it is made ------------------------------------------------------------------------ */

/* When the checkpoint's file is made, its moment has been chosen, and no shard been looked at: what is changed then
 * must not be in it, however much it is. */
static struct {
    pair *p;
    void (*act)(pair *p);
} behind;

static int open_and_act(void *ctx, int dir, const char *name, kv_open_mode mode) {
    const kv_os *os = fault_os_table(ctx);
    if (behind.act != NULL && strcmp(name, KV_CHECKPOINT_NEW) == 0) {
        void (*act)(pair *p) = behind.act;
        behind.act = NULL;
        act(behind.p);
    }
    return os->open(os->ctx, dir, name, mode);
}

static void put_expiring(pair *p, uint64_t key, uint64_t value, uint64_t expiry) {
    char text[40];
    int size = snprintf(text, sizeof text, "key %" PRIu64, key);
    kv_bytes k = bytes_of(text, (size_t)size), v = bytes_of(&value, sizeof value);
    CHECK_OK(kv_put_expiring(p->w->db, k, v, expiry, 0, &p->w->err), &p->w->err);
    model_put_expiring(p->m, k, v, expiry);
}

static void clear(pair *p) {
    CHECK_OK(kv_clear(p->w->db, 0, &p->w->err), &p->w->err);
    model_clear(p->m);
}

static void act_hot(pair *p) {
    for (uint64_t i = 0; i < 6000; i++) /* of each shard's records, most are merged away */
        put(p, i % 7, 1000000 + i);
}

static void act_all(pair *p) {
    for (uint64_t i = 0; i < 9000; i++) {
        if (i % 3 == 0)
            delete(p, i % 4000);
        else if (i % 3 == 1)
            put(p, i, i + 5);
        else
            put_expiring(p, i % 3500, i, KV_EXPIRY_MAX - i);
    }
}

static void act_come_and_go(pair *p) {
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t i = 5000; i < 7000; i++)
            put(p, i, i);
        for (uint64_t i = 5000; i < 7000; i++)
            delete(p, i);
    }
}

static void act_clear(pair *p) {
    act_hot(p);
    clear(p);
    for (uint64_t i = 0; i < 3000; i++)
        put(p, i, i + 9);
    clear(p);
    act_hot(p);
}

static void act_snapshots(pair *p) {
    kv_snapshot *snapshots[5];
    uint64_t digests[5], count;
    for (unsigned i = 0; i < 5; i++) {
        act_hot(p);
        act_all(p);
        CHECK_OK(kv_snapshot_create(p->w->db, &snapshots[i], &p->w->err), &p->w->err);
        digests[i] = model_digest(p->m);
    }
    act_all(p);
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(snapshot_digest(snapshots[i], &count), digests[i]);
        kv_snapshot_destroy(snapshots[i]);
    }
}

static void act_nothing(pair *p) {
    (void)p;
}

static void test_changes_while_it_is_made(void) {
    static void (*const acts[])(pair *p) = {act_nothing, act_hot,   act_all,
                                            act_come_and_go, act_clear, act_snapshots};
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++)
        for (int how = 0; how < 4; how++) { /* a checkpoint, one of a store not loaded yet, a backup, one
                                               above an older snapshot */
            pair p = pair_create();
            p.w->os.open = open_and_act;
            p.w->options.sync = KV_SYNC_NEVER;
            p.w->options.segment_size_max = 1 << 20;
            reopen(&p);
            for (uint64_t k = 0; k < 4000; k++)
                put(&p, k, k);
            if (how == 1) {
                checkpoint(&p);
                put(&p, 1, 2);
                reopen(&p);
            }
            kv_snapshot *older = NULL;
            uint64_t digest = model_digest(p.m), count;
            if (how == 3) {
                CHECK_OK(kv_snapshot_create(p.w->db, &older, &p.w->err), &p.w->err);
                for (uint64_t k = 0; k < 2000; k++)
                    put(&p, k, k + 77);
                for (uint64_t k = 0; k < 300; k++)
                    delete(&p, k * 3);
            }
            model *then = model_clone(p.m);
            behind.p = &p;
            behind.act = acts[i];
            if (how == 2)
                CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
            else
                checkpoint(&p);
            CHECK(behind.act == NULL);
            check_checkpoint(p.w, how == 2 ? "copy" : WORLD_DIR, then);
            model_check(p.m, p.w->db);
            if (how == 3) {
                CHECK_EQ(snapshot_digest(older, &count), digest);
                kv_snapshot_destroy(older);
            }
            CHECK_EQ(world_stats(p.w).undo_records, 0); /* nothing is kept for it any more */
            CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
            if (how == 2) {
                kv_db *copy;
                CHECK_OK(kv_open("copy", &p.w->options, &copy, &p.w->err), &p.w->err);
                model_check(p.m, copy); /* the moment when it ended */
                kv_destroy(copy);
            }
            reopen(&p);
            model_check(p.m, p.w->db);
            model_destroy(then);
            pair_destroy(&p);
        }
}

/* ---- All kinds of items -------------------------------------------------------------------------------- */

static void put_sized(pair *p, size_t key_size, size_t value_size, uint64_t expiry) {
    static uint8_t bytes[3 << 20];
    check_random random = random_stream(key_size * 31 + value_size);
    random_fill(&random, bytes, 64);
    kv_bytes key = bytes_of(bytes, key_size), value = bytes_of(bytes + 1, value_size);
    CHECK_OK(kv_put_expiring(p->w->db, key, value, expiry, 0, &p->w->err), &p->w->err);
    model_put_expiring(p->m, key, value, expiry);
}

/* Empty ones, the largest keys, blocks that do not go through the buffer. */
static void test_sizes(void) {
    static const size_t keys[] = {0, 1, 7, 300, KV_KEY_MAX};
    static const size_t values[] = {0, 1, 4000, (512 << 10) - 200, 512 << 10, (1 << 20) + 5, 2 << 20};
    pair p = pair_create();
    p.w->options.segment_size_max = 1 << 20;
    reopen(&p);
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
            for (size_t j = 0; j < sizeof values / sizeof values[0]; j++)
                put_sized(&p, keys[i] + j % (keys[i] < 300 ? 1 : 5) * (keys[i] < 400), values[j],
                          (i + j + round) % 2 ? KV_EXPIRY_MAX - i : 0);
        checkpoint(&p);
        check_checkpoint(p.w, WORLD_DIR, p.m);
        reopen(&p);
        model_check(p.m, p.w->db);
        CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
    }
    pair_destroy(&p);
}

/* At close a checkpoint is made when the log is long, and only then. */
static void test_at_close(void) {
    static uint8_t value[1 << 20];
    for (int due = 0; due < 2; due++) {
        pair p = pair_create();
        p.w->options.checkpoint_log_percent = due ? 100 : 0;
        p.w->options.segment_size_max = 8 << 20;
        p.w->options.sync = KV_SYNC_NEVER;
        reopen(&p);
        for (unsigned i = 0; i < 20; i++) {
            kv_bytes key = bytes_of(&i, 1);
            CHECK_OK(kv_put(p.w->db, key, bytes_of(value, sizeof value), 0, &p.w->err), &p.w->err);
            model_put(p.m, key, bytes_of(value, sizeof value));
        }
        reopen(&p);
        kv_recovery recovery;
        kv_get_recovery(p.w->db, &recovery);
        CHECK(recovery.clean);
        CHECK_EQ(recovery.checkpoint_items, due ? 20 : 0);
        CHECK_EQ(recovery.records, due ? 0 : 20);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

/* ---- A segment that is used again ------------------------------------------------------------------------ */

static _Atomic unsigned recycled;

static int rename_and_count(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    atomic_fetch_add(&recycled, strcmp(from, KV_SEGMENT_RECYCLED) == 0);
    return os->rename(os->ctx, dir, from, to);
}

/* The older bytes in it are neither data nor a torn tail. */
static void test_recycled(void) {
    for (int end = 0; end < 3; end++) {
        pair p = pair_create();
        kv_recovery recovery;
        unsigned round = 0;
        p.w->os.rename = rename_and_count;
        atomic_store(&recycled, 0);
        for (; atomic_load(&recycled) < 2 && round < 100; round++) {
            for (uint64_t i = 0; i < 400; i++)
                put(&p, i, i + round);
            checkpoint(&p);
            for (uint64_t i = 0; i < 120; i++) /* past the middle: a spare is wanted */
                put(&p, i, i);
            usleep(5000);
        }
        CHECK(round < 100);
        for (uint64_t i = 0; i < 150; i++)
            put(&p, i, i + 5);
        if (end == 0)
            world_close(p.w);
        else if (end == 1)
            world_kill(p.w);
        else
            world_cut_power(p.w);
        world_open(p.w);
        kv_get_recovery(p.w->db, &recovery);
        CHECK_EQ(recovery.clean, end == 0);
        CHECK_EQ(recovery.bytes_cut, 0);
        CHECK_EQ(memory_os_size(p.w->memory, WORLD_DIR, "torn.bin"), -ENOENT);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

/* ---- Giving up ------------------------------------------------------------------------------------------ */

/* With room for everything in one segment: the keeper makes no spare, so who has which file open can be told. */
static pair pair_of_one_segment(void) {
    pair p = {world_create(), model_create()};
    p.w->options.segment_size_min = p.w->options.segment_size_max = 1 << 19;
    world_open(p.w);
    return p;
}

static bool stop_at(void *arg, uint64_t done, uint64_t total) {
    unsigned *left = arg;
    CHECK(done <= total);
    return (*left)-- > 1;
}

static void test_cancelled(void) {
    static uint8_t value[100000];
    pair p = {world_create(), model_create()};
    p.w->options.segment_size_min = p.w->options.segment_size_max = 64 << 20;
    p.w->options.sync = KV_SYNC_NEVER;
    world_open(p.w);
    for (unsigned i = 0; i < 200; i++) {
        CHECK_OK(kv_put(p.w->db, bytes_of(&i, 1), bytes_of(value, sizeof value), 0, &p.w->err), &p.w->err);
        model_put(p.m, bytes_of(&i, 1), bytes_of(value, sizeof value));
    }
    size_t open = memory_os_open_count(p.w->memory);
    for (unsigned round = 1; round < 4; round++) {
        unsigned left = round;
        CHECK_STATUS(kv_checkpoint(p.w->db, stop_at, &left, &p.w->err), KV_ERR_CANCELLED, &p.w->err);
        CHECK_EQ(memory_os_size(p.w->memory, WORLD_DIR, KV_CHECKPOINT_NEW), -ENOENT);
        left = round;
        CHECK_STATUS(kv_backup(p.w->db, "copy", stop_at, &left, &p.w->err), KV_ERR_CANCELLED, &p.w->err);
        CHECK_EQ(memory_os_open_count(p.w->memory), open);
    }
    CHECK_EQ(world_stats(p.w).checkpoints, 0);
    CHECK_EQ(world_stats(p.w).checkpoint_failures, 0);
    CHECK_EQ(world_stats(p.w).undo_records, 0);
    checkpoint(&p);
    CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* ---- Failing calls ----------------------------------------------------------------------------------------- */

/* A store with a checkpoint and some log behind it. */
static pair pair_with_tail(uint64_t keys) {
    pair p = pair_of_one_segment();
    for (uint64_t i = 0; i < keys; i++)
        put(&p, i, i);
    checkpoint(&p);
    put(&p, 1, 100);
    delete(&p, 2);
    put_expiring(&p, 3, 100, KV_EXPIRY_MAX);
    return p;
}

static bool no_store_at(world *w, const char *path) {
    kv_options options = w->options;
    kv_db *db;
    options.create = false;
    options.os = memory_os_table(w->memory);
    kv_status status = kv_open(path, &options, &db, NULL);
    if (status == KV_OK)
        kv_destroy(db);
    return status < 0;
}

static bool fail_backup(uint64_t nth, int sys_errno, unsigned flags) {
    pair p = pair_with_tail(500);
    world *w = p.w;
    CHECK_OK(kv_load_all(w->db, NULL, NULL, &w->err), &w->err);
    size_t open = memory_os_open_count(w->memory);
    uint64_t before = fault_os_failures(w->faults);
    fault_os_fail(w->faults, FAULT_ANY, nth, sys_errno, flags);
    kv_status status = kv_backup(w->db, "copy", NULL, NULL, &w->err);
    bool fired = fault_os_failures(w->faults) > before;
    if (status < 0) {
        CHECK_EQ(w->err.status, status);
        CHECK(w->err.message[0] != '\0');
        CHECK(fired);
        CHECK(no_store_at(w, "copy") || flags & FAULT_DONE || flags & FAULT_FOREVER);
    }
    fault_os_heal(w->faults);
    CHECK_EQ(memory_os_open_count(w->memory), open);
    CHECK_EQ(world_stats(w).undo_records, 0);
    kv_stats stats = world_stats(w);
    CHECK(!stats.failed); /* the store itself has nothing to do with it */
    put(&p, 7, 8);
    CHECK_OK(kv_backup(w->db, "again", NULL, NULL, &w->err), &w->err);
    kv_db *db;
    CHECK_OK(kv_open("again", &w->options, &db, &w->err), &w->err);
    model_check(p.m, db);
    kv_destroy(db);
    if (status == KV_OK) {
        CHECK_OK(kv_open("copy", &w->options, &db, &w->err), &w->err);
        kv_destroy(db);
    }
    checkpoint(&p);
    reopen(&p);
    model_check(p.m, w->db);
    pair_destroy(&p);
    return fired;
}

static void test_backup_fails(void) {
    static const int errors[] = {EIO, ENOSPC, EINTR};
    for (size_t i = 0; i < 3; i++)
        for (unsigned flags = 0; flags < 4; flags++) {
            uint64_t nth = 1;
            while (fail_backup(nth, errors[i], flags))
                nth++;
            CHECK(nth > 20);
        }
}

/* What a backup leaves when its process is killed: all but STORE, or the checkpoint only. */
static void test_half_a_copy(void) {
    static const char *const names[] = {"STORE", "00000001.log"};
    pair p = pair_with_tail(40);
    world *w = p.w;
    const kv_os *os = memory_os_table(w->memory);
    CHECK_OK(kv_backup(w->db, "copy", NULL, NULL, &w->err), &w->err);
    int dir = os->dir_open(os->ctx, "copy", false);
    for (size_t i = 0; i < 2; i++) {
        kv_db *db;
        CHECK_EQ(os->unlink(os->ctx, dir, names[i]), 0);
        CHECK_STATUS(kv_open("copy", &w->options, &db, &w->err), KV_ERR_CORRUPT, &w->err);
        CHECK_STR(w->err.path, "copy/STORE");
        CHECK_CONTAINS(w->err.message, "a copy that was not finished");
    }
    os->close(os->ctx, dir);
    pair_destroy(&p);
}

/* Another process makes a store where a backup is being made, or another backup. */
typedef struct intruder {
    world *w;
    uint64_t left; /* calls until it comes */
    bool copies;   /* a backup */
    kv_db *db;     /* its own */
    kv_status status;
    kv_error err;
} intruder;

static void intrude(void *arg, fault_call call, bool after) {
    intruder *t = arg;
    kv_error err;
    kv_db *db;
    (void)call;
    if (!after || t->left == 0 || --t->left > 0)
        return;
    if (t->copies) {
        t->status = kv_backup(t->db, "copy", NULL, NULL, &t->err);
        return;
    }
    kv_options options = t->w->options;
    options.os = memory_os_table(t->w->memory);
    options.create = true;
    t->status = kv_open("copy", &options, &db, &t->err);
    if (t->status < 0)
        return;
    CHECK_OK(kv_put(db, LITERAL("mine"), LITERAL("1"), 0, &err), &err);
    kv_destroy(db);
}

static bool intrude_at(uint64_t nth, bool copies) {
    pair p = pair_with_tail(40);
    world *w = p.w;
    kv_db *db;
    intruder t = {.w = w, .left = nth, .copies = copies};
    CHECK_OK(kv_load_all(w->db, NULL, NULL, &w->err), &w->err);
    usleep(20000); /* for the worker's last read */
    kv_options options = w->options;
    options.os = memory_os_table(w->memory);
    CHECK_OK(kv_open("other", &options, &t.db, &w->err), &w->err);
    CHECK_OK(kv_put(t.db, LITERAL("mine"), LITERAL("1"), 0, &w->err), &w->err);
    fault_os_watch(w->faults, intrude, &t);
    kv_status status = kv_backup(w->db, "copy", NULL, NULL, &w->err);
    fault_os_watch(w->faults, NULL, NULL);
    bool came = t.left == 0;
    if (came && t.status < 0 && t.err.status != KV_ERR_LOCKED) /* what is there already, or not yet */
        CHECK(t.err.sys_errno == ENOTEMPTY || t.err.sys_errno == ENOENT || t.err.status == KV_ERR_CORRUPT);
    CHECK(status == KV_OK || (came && t.status == KV_OK));
    CHECK_OK(kv_open("copy", &options, &db, &w->err), &w->err);
    if (status == KV_OK && (copies || t.status < 0))
        model_check(p.m, db);
    if (came && t.status == KV_OK)
        CHECK_OK(kv_contains(db, LITERAL("mine"), 0, &w->err), &w->err);
    kv_destroy(db);
    kv_destroy(t.db);
    pair_destroy(&p);
    return came;
}

static void test_intruders_of_a_backup(void) {
    for (int copies = 0; copies < 2; copies++) {
        uint64_t nth = 1;
        while (intrude_at(nth, copies))
            nth++;
        CHECK(nth > 20);
    }
}

/* Between the open of LOCK and its lock, a backup fails and removes the file; somebody else may be in its place by
 * then. */
typedef struct late_lock {
    world *w;
    kv_options options; /* of another process */
    bool comes;         /* somebody else, at once */
    kv_db *db;          /* his */
    kv_status status;   /* of who comes when LOCK has been taken */
} late_lock;

static kv_status open_beside(late_lock *t) {
    kv_status status = kv_open("copy", &t->options, &t->db, &t->w->err);
    if (status < 0)
        t->db = NULL;
    return status;
}

static void come_later(void *arg, fault_call call, bool after) {
    late_lock *t = arg;
    if (call != FAULT_RENAME || after) /* the first one: of a file that stands beside LOCK */
        return;
    fault_os_watch(t->w->faults, NULL, NULL);
    t->status = open_beside(t);
}

static void remove_lock(void *arg, fault_call call, bool after) {
    late_lock *t = arg;
    const kv_os *os = t->options.os;
    if (call != FAULT_LOCK || after)
        return;
    int dir = os->dir_open(os->ctx, "copy", false);
    CHECK_EQ(os->unlink(os->ctx, dir, "LOCK"), 0);
    os->close(os->ctx, dir);
    fault_os_watch(t->w->faults, t->comes ? NULL : come_later, t); /* it does so once */
    if (t->comes)
        CHECK_OK(open_beside(t), &t->w->err);
}

static void test_a_lock_file_that_is_removed_before_it_is_locked(void) {
    for (int backup = 0; backup < 2; backup++)
        for (int comes = 0; comes < 2; comes++) {
            world *w = world_create();
            kv_db *db = NULL;
            late_lock t = {.w = w, .options = w->options, .comes = comes, .status = KV_ERR_LOCKED};
            kv_error err;
            world_open(w);
            t.options.os = memory_os_table(w->memory);
            fault_os_watch(w->faults, remove_lock, &t);
            kv_status status = backup ? kv_backup(w->db, "copy", NULL, NULL, &err)
                                      : kv_open("copy", &w->options, &db, &err);
            fault_os_watch(w->faults, NULL, NULL);
            CHECK_STATUS(status, comes ? KV_ERR_LOCKED : KV_OK, &err);
            CHECK_STATUS(t.status, KV_ERR_LOCKED, &w->err);
            kv_destroy(db);
            kv_destroy(t.db);
            world_destroy(w);
        }
}

static int new_identity(void *ctx, int fd, const char *name, uint64_t identity[2]) {
    static uint64_t number;
    const kv_os *os = fault_os_table(ctx);
    int r = os->identity(os->ctx, fd, name, identity);
    if (name != NULL)
        identity[1] = ++number;
    return r;
}

static void test_a_lock_file_whose_number_changes(void) {
    world *w = world_create();
    w->os.identity = new_identity;
    CHECK_STATUS(world_try_open(w), KV_ERR_LOCKED, &w->err);
    CHECK_CONTAINS(w->err.path, WORLD_DIR);
    w->os.identity = fault_os_table(w->faults)->identity;
    world_open(w);
    world_destroy(w);
}

/* The power goes while a backup is made: what is there afterwards is no store, or the whole one. */
typedef struct copying {
    pair *p;
    unsigned images, stores;
} copying;

static void cut_copy(void *arg, fault_call call, bool after) {
    copying *t = arg;
    world *w = t->p->w;
    (void)call;
    if (!after)
        return;
    size_t count = memory_os_change_count(w->memory);
    for (size_t kept = 0; kept <= count; kept++) {
        memory_os *image = memory_os_cut_after(w->memory, kept);
        kv_options options = w->options;
        kv_error err;
        kv_db *db;
        options.create = false;
        options.os = memory_os_table(image);
        t->images++;
        if (kv_open("copy", &options, &db, &err) == KV_OK) {
            model_check(t->p->m, db);
            kv_destroy(db);
            t->stores++;
        }
        db = image_open(image, &options);
        model_check(t->p->m, db);
        image_close(db);
        memory_os_destroy(image);
    }
}

static void test_power_cut_in_a_backup(void) {
    pair p = pair_with_tail(40);
    CHECK_OK(kv_load_all(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    usleep(20000); /* for the worker's last read */
    copying t = {.p = &p};
    fault_os_watch(p.w->faults, cut_copy, &t);
    CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
    fault_os_watch(p.w->faults, NULL, NULL);
    printf("# %u images, %u with a copy\n", t.images, t.stores);
    CHECK(t.images > 50 && t.stores > 0 && t.stores < t.images / 2);
    world_cut_power(p.w); /* it has returned */
    world_open(p.w);
    kv_db *db;
    CHECK_OK(kv_open("copy", &p.w->options, &db, &p.w->err), &p.w->err);
    model_check(p.m, db);
    kv_destroy(db);
    pair_destroy(&p);
}

/* A segment for whose end frame there was no space is as good as the others. */
static void test_backup_without_an_end_frame(void) {
    static uint8_t value[3000];
    for (uint64_t nth = 1; nth < 30; nth++) {
        pair p = pair_create();
        kv_db *db;
        put(&p, 1, 1);
        checkpoint(&p);
        fault_os_fail(p.w->faults, FAULT_WRITE, nth, ENOSPC, 0);
        /* While it is made, so that the copy has to take these along. */
        for (unsigned i = 0; i < 12; i++) {
            kv_bytes key = bytes_of(&i, sizeof i), v = bytes_of(value, sizeof value);
            if (kv_put(p.w->db, key, v, 0, &p.w->err) == KV_OK)
                model_put(p.m, key, v);
        }
        fault_os_heal(p.w->faults);
        if (!world_stats(p.w).failed) {
            CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
            CHECK_OK(kv_open("copy", &p.w->options, &db, &p.w->err), &p.w->err);
            model_check(p.m, db);
            kv_destroy(db);
            checkpoint(&p);
        }
        reopen(&p);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

/* The same while the walk goes on: the frames are copied from the log then. */
static uint64_t end_frame_fault;

static void act_rotations(pair *p) {
    static uint8_t value[3000];
    fault_os_fail(p->w->faults, FAULT_WRITE, end_frame_fault, ENOSPC, 0);
    for (unsigned i = 0; i < 12; i++) {
        kv_bytes key = bytes_of(&i, sizeof i), v = bytes_of(value, sizeof value);
        if (kv_put(p->w->db, key, v, 0, &p->w->err) == KV_OK)
            model_put(p->m, key, v);
    }
    fault_os_heal(p->w->faults);
}

static void test_backup_of_a_log_without_an_end_frame(void) {
    for (uint64_t nth = 1; nth < 30; nth++) {
        pair p = pair_create();
        kv_db *db;
        p.w->os.open = open_and_act;
        put(&p, 1, 1);
        end_frame_fault = nth;
        behind.p = &p;
        behind.act = act_rotations;
        kv_status status = kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err);
        if (!world_stats(p.w).failed) {
            CHECK_OK(status, &p.w->err);
            CHECK_OK(kv_open("copy", &p.w->options, &db, &p.w->err), &p.w->err);
            model_check(p.m, db);
            kv_destroy(db);
        }
        reopen(&p);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

static void test_backup_of_other_stores(void) {
    kv_error err;
    kv_db *db, *copy;
    model *m = model_create();
    world *w = world_create();
    w->options.os = &w->os;
    CHECK_OK(kv_open(NULL, &w->options, &db, &err), &err); /* in memory only */
    for (unsigned i = 0; i < 3000; i++) {
        kv_bytes key = bytes_of(&i, sizeof i);
        CHECK_OK(kv_put_expiring(db, key, key, i % 2 ? KV_EXPIRY_MAX - i : 0, 0, &err), &err);
        model_put_expiring(m, key, key, i % 2 ? KV_EXPIRY_MAX - i : 0);
    }
    CHECK_OK(kv_backup(db, WORLD_DIR, NULL, NULL, &err), &err);
    kv_destroy(db);
    world_open(w);
    model_check(m, w->db);
    CHECK_OK(kv_put(w->db, LITERAL("a"), LITERAL("b"), 0, &err), &err);
    model_put(m, LITERAL("a"), LITERAL("b"));
    world_close(w);
    w->options.read_only = true;
    world_open(w);
    model_check(m, w->db);
    CHECK_STATUS(kv_checkpoint(w->db, NULL, NULL, &err), KV_ERR_READONLY, &err);
    CHECK_OK(kv_backup(w->db, "copy", NULL, NULL, &err), &err);
    kv_options options = w->options;
    options.read_only = false;
    CHECK_OK(kv_open("copy", &options, &copy, &err), &err);
    model_check(m, copy);
    CHECK_OK(kv_checkpoint(copy, NULL, NULL, &err), &err);
    kv_destroy(copy);
    world_destroy(w);
    model_destroy(m);
}

/* ---- Loading that fails ------------------------------------------------------------------------------------- */

static _Thread_local bool may_read; /* the test's own thread */
static _Atomic uint64_t read_fails_in; /* of its reads: 1 is the next; 0: none does */

static int64_t read_by_us(void *ctx, int file, void *buffer, size_t size, uint64_t offset) {
    const kv_os *os = fault_os_table(ctx);
    if (!may_read)
        return -EIO; /* the worker gives up, and leaves the loading to us */
    if (atomic_load(&read_fails_in) > 0 && atomic_fetch_sub(&read_fails_in, 1) == 1)
        return -EIO;
    return os->read(os->ctx, file, buffer, size, offset);
}

static void await_load_error(world *w) {
    while (world_stats(w).load_error.status == KV_OK)
        usleep(1000);
}

static kv_bytes lazy_key(char text[40], uint64_t key) {
    return bytes_of(text, (size_t)snprintf(text, 40, "key %" PRIu64, key));
}

typedef kv_status (*operation)(pair *p, bool again);

static kv_status op_get(pair *p, bool again) {
    char text[40];
    kv_value value;
    kv_status status = kv_get(p->w->db, lazy_key(text, 11), 0, &value, &p->w->err);
    (void)again;
    if (status == KV_OK)
        kv_value_release(&value);
    return status;
}

static kv_status op_put(pair *p, bool again) {
    char text[40];
    kv_status status = kv_put(p->w->db, lazy_key(text, 12), LITERAL("new"), 0, &p->w->err);
    (void)again;
    if (status == KV_OK)
        model_put(p->m, lazy_key(text, 12), LITERAL("new"));
    return status;
}

static kv_status op_delete(pair *p, bool again) {
    char text[40];
    kv_status status = kv_delete(p->w->db, lazy_key(text, 13), 0, &p->w->err);
    (void)again;
    if (status == KV_OK)
        model_delete(p->m, lazy_key(text, 13));
    return status;
}

static kv_status op_expire(pair *p, bool again) {
    char text[40];
    kv_status status = kv_expire(p->w->db, lazy_key(text, 14), KV_EXPIRY_MAX, 0, &p->w->err);
    (void)again;
    if (status == KV_OK)
        model_expire(p->m, lazy_key(text, 14), KV_EXPIRY_MAX);
    return status;
}

static kv_status op_pop_any(pair *p, bool again) {
    kv_item item;
    kv_status status = kv_pop_any(p->w->db, 0, &item, &p->w->err);
    (void)again;
    if (status == KV_OK) {
        model_delete(p->m, item.key);
        kv_item_release(&item);
    }
    return status;
}

static kv_status op_batch(pair *p, bool again) {
    enum { COUNT = 30 };
    char texts[COUNT][40];
    kv_op ops[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        ops[i] = (kv_op){KV_OP_PUT, lazy_key(texts[i], 20 + i), LITERAL("many")};
    kv_status status = kv_write(p->w->db, ops, COUNT, 0, NULL, &p->w->err);
    (void)again;
    for (unsigned i = 0; i < COUNT && status == KV_OK; i++)
        model_put(p->m, ops[i].key, ops[i].value);
    return status;
}

static kv_status op_get_many(pair *p, bool again) {
    enum { COUNT = 100 };
    static char texts[COUNT][40];
    kv_bytes keys[COUNT];
    kv_values values;
    (void)again;
    for (unsigned i = 0; i < COUNT; i++)
        keys[i] = lazy_key(texts[i], i);
    kv_status status = kv_get_many(p->w->db, keys, COUNT, &values, &p->w->err);
    kv_values_release(&values);
    return status;
}

static kv_status op_cursor(pair *p, bool again) {
    kv_snapshot *s;
    kv_cursor *cursor;
    const kv_item *items;
    size_t count, got = 0;
    (void)again;
    kv_status status = kv_snapshot_create(p->w->db, &s, &p->w->err);
    if (status < 0)
        return status;
    status = kv_cursor_create(s, &cursor, &p->w->err);
    if (status == KV_OK) {
        bool failed = false;
        while ((status = kv_cursor_next(cursor, &items, &count, &p->w->err)) == KV_OK)
            got += count;
        failed = status < 0;
        if (failed && again) { /* it can be asked again, and misses nothing */
            while ((status = kv_cursor_next(cursor, &items, &count, &p->w->err)) == KV_OK)
                got += count;
        }
        if (status == KV_NOTFOUND) {
            CHECK_EQ(got, model_count(p->m));
            status = KV_OK;
        }
        kv_cursor_destroy(cursor);
    }
    kv_snapshot_destroy(s);
    return status;
}

static kv_status op_clear(pair *p, bool again) {
    kv_status status = kv_clear(p->w->db, 0, &p->w->err);
    (void)again;
    if (status == KV_OK)
        model_clear(p->m);
    return status;
}

static kv_status op_checkpoint(pair *p, bool again) {
    (void)again;
    return kv_checkpoint(p->w->db, NULL, NULL, &p->w->err);
}

static kv_status op_load_all(pair *p, bool again) {
    (void)again;
    return kv_load_all(p->w->db, NULL, NULL, &p->w->err);
}

static kv_status op_backup(pair *p, bool again) {
    (void)again;
    return kv_backup(p->w->db, again ? "copy 2" : "copy", NULL, NULL, &p->w->err);
}

static const operation operations[] = {op_get,      op_put,    op_delete, op_expire,
                                       op_pop_any,  op_batch,  op_get_many, op_cursor,
                                       op_clear,    op_checkpoint, op_load_all, op_backup};
#define OPERATIONS (sizeof operations / sizeof operations[0])

/* A store of which nothing is in memory, and nobody but this thread loads. */
static pair pair_unloaded(void) {
    pair p = pair_with_tail(1500);
    checkpoint(&p);
    world_close(p.w);
    may_read = true;
    atomic_store(&read_fails_in, 0);
    p.w->os.read = read_by_us;
    world_open(p.w);
    await_load_error(p.w);
    CHECK_EQ(world_stats(p.w).shards_loaded, 0);
    return p;
}

static void test_reads_fail(void) {
    for (size_t i = 0; i < OPERATIONS; i++)
        for (uint64_t nth = 1;; nth += nth < 4 ? 1 : 9) {
            pair p = pair_unloaded();
            atomic_store(&read_fails_in, nth);
            kv_status status = operations[i](&p, false);
            bool fired = atomic_load(&read_fails_in) == 0;
            CHECK_STATUS(status < 0 ? status : KV_OK, fired ? KV_ERR_IO : KV_OK, &p.w->err);
            if (fired) {
                CHECK_CONTAINS(p.w->err.path, ".ckpt");
                CHECK_EQ(p.w->err.sys_errno, EIO);
                CHECK_OK(operations[i](&p, true), &p.w->err);
            }
            atomic_store(&read_fails_in, 0);
            model_check(p.m, p.w->db);
            CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
            reopen(&p);
            model_check(p.m, p.w->db);
            pair_destroy(&p);
            if (!fired)
                break;
        }
}

static void test_no_memory(void) {
    for (size_t i = 0; i < OPERATIONS; i++)
        for (int for_ever = 0; for_ever < 2; for_ever++)
            for (uint64_t n = 0;; n++) {
                pair p = pair_unloaded();
                size_t open = memory_os_open_count(p.w->memory);
                kv_mem_fail_at(n, for_ever);
                kv_status status = operations[i](&p, false);
                bool fired = kv_mem_fail_at(UINT64_MAX, false) > n;
                CHECK(status >= 0 || status == KV_ERR_NOMEM);
                bool done = operations[i] == op_checkpoint && status == KV_OK; /* with the older one */
                CHECK_EQ(memory_os_open_count(p.w->memory), open - done);
                if (status < 0) {
                    CHECK(fired);
                    CHECK_OK(operations[i](&p, true), &p.w->err);
                }
                model_check(p.m, p.w->db);
                pair_destroy(&p);
                if (!fired)
                    break;
            }
}

/* ---- Damage in a block --------------------------------------------------------------------------------------- */

/* Only the keys of that shard are lost, and that is said; the others live on. */
static void test_damaged_block(void) {
    pair p = pair_unloaded();
    char name[64], text[40];
    unsigned lost = 0, found = 0;
    kv_error *err = &p.w->err;
    image_flip_block(p.w->memory, name);
    for (unsigned i = 0; i < 1500; i++) {
        kv_value value;
        kv_status status = kv_get(p.w->db, lazy_key(text, i), 0, &value, err);
        if (status == KV_OK) {
            const kv_bytes *wanted = model_get(p.m, lazy_key(text, i));
            CHECK_MEM(value.data, wanted->data, wanted->size);
            kv_value_release(&value);
            found++;
        } else if (status == KV_ERR_CORRUPT) {
            CHECK_CONTAINS(err->path, name);
            CHECK_EQ(err->offset, KV_CHECKPOINT_HEADER_SIZE);
            CHECK_STATUS(kv_put(p.w->db, lazy_key(text, i), LITERAL("x"), 0, err), KV_ERR_CORRUPT, err);
            lost++;
        } else {
            CHECK_STATUS(status, KV_NOTFOUND, err);
            CHECK(model_get(p.m, lazy_key(text, i)) == NULL);
        }
    }
    CHECK(lost > 20 && found > 1000);
    CHECK_STATUS(op_clear(&p, false), KV_ERR_CORRUPT, err);
    CHECK_STATUS(op_checkpoint(&p, false), KV_ERR_CORRUPT, err);
    CHECK_STATUS(op_load_all(&p, false), KV_ERR_CORRUPT, err);
    CHECK_STATUS(op_backup(&p, false), KV_ERR_CORRUPT, err);
    CHECK_EQ(world_stats(p.w).shards_loaded, world_stats(p.w).shards - 1);
    CHECK_EQ(world_stats(p.w).checkpoint_error.status, KV_ERR_CORRUPT);
    CHECK_EQ(world_stats(p.w).entries, model_count(p.m));
    CHECK_OK(kv_verify(p.w->db, err), err);
    /* With preload it is not opened at all, and nothing is lost that way. */
    world_close(p.w);
    p.w->options.preload = true;
    CHECK_STATUS(world_try_open(p.w), KV_ERR_CORRUPT, err);
    CHECK_CONTAINS(err->path, name);
    image_flip_block(p.w->memory, name);
    world_open(p.w);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* What expires in other shards is swept away all the same. */
static void test_sweep_past_a_damaged_block(void) {
    enum { KEYS = 1500 };
    pair p = {world_create(), model_create()};
    char name[64];
    uint64_t count;
    world_set_clock(p.w, 1000000);
    world_open(p.w);
    for (uint64_t i = 0; i < KEYS; i++)
        put_expiring(&p, i, i, 2000000);
    checkpoint(&p);
    world_close(p.w);
    image_flip_block(p.w->memory, name);
    world_open(p.w);
    CHECK_EQ(world_stats(p.w).entries, KEYS);
    world_set_clock(p.w, 2000000);
    for (unsigned i = 0; world_stats(p.w).expired < KEYS * 3 / 4; i++) {
        CHECK(i < 10000);
        usleep(1000);
    }
    /* How many of the damaged block's have expired cannot be told: that all of it has, is not assumed. */
    kv_status status = kv_count(p.w->db, 0, &count, &p.w->err);
    CHECK(status == KV_ERR_CORRUPT || count < KEYS / 4);
    CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
    pair_destroy(&p);
}

/* ---- Checkpoints by themselves that fail ---------------------------------------------------------------------- */

static _Atomic bool publishing_fails;

static int fail_to_publish(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    if (atomic_load(&publishing_fails) && kv_checkpoint_sequence(to) != 0)
        return -EIO;
    return os->rename(os->ctx, dir, from, to);
}

/* Nobody asked for them, so each handle is told once. */
static void test_warning(void) {
    pair p = {world_create(), model_create()};
    kv_error err;
    kv_db *second;
    p.w->options.checkpoint_log_percent = 1;
    p.w->options.checkpoint_log_min = 2 * WORLD_SEGMENT_SIZE;
    p.w->os.rename = fail_to_publish;
    world_open(p.w);
    CHECK_OK(kv_open(WORLD_DIR, &p.w->options, &second, &err), &err);
    CHECK(!kv_take_warning(p.w->db, &err));
    atomic_store(&publishing_fails, true);
    for (uint64_t i = 0; world_stats(p.w).checkpoint_failures == 0; i++)
        put(&p, i % 100, i);
    while (!kv_take_warning(p.w->db, &err))
        usleep(1000);
    CHECK_EQ(err.sys_errno, EIO);
    CHECK(!kv_take_warning(p.w->db, &err));
    while (!kv_take_warning(second, &err))
        usleep(1000);
    CHECK(!kv_take_warning(second, &err));
    CHECK(!world_stats(p.w).failed);
    CHECK_EQ(world_stats(p.w).checkpoint_error.sys_errno, EIO);
    atomic_store(&publishing_fails, false);
    checkpoint(&p);
    CHECK_EQ(world_stats(p.w).checkpoint_error.status, KV_OK);
    kv_destroy(second);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* ---- On a full disk ---------------------------------------------------------------------------------- */

static int segment_refusal; /* of the next one; 0: it is not refused */

static int no_room_for_a_segment(void *ctx, int dir, const char *name, kv_open_mode mode) {
    const kv_os *os = fault_os_table(ctx);
    if (segment_refusal == 0 || strcmp(name, KV_SEGMENT_SPARE) != 0)
        return os->open(os->ctx, dir, name, mode);
    int refusal = segment_refusal;
    segment_refusal = 0;
    return -refusal;
}

/* A write that waits to be flushed finds no room, or no descriptor; the checkpoint, which may make some, and the
 * backup do not fail with it: what they need of the log is on disk. */
static void test_beside_a_write_without_room(void) {
    for (int i = 0; i < 4; i++) {
        static const char large[4 * WORLD_SEGMENT_SIZE];
        int refusal = i / 2 ? EMFILE : ENOSPC;
        pair p = {world_create(), model_create()};
        kv_db *late, *copy;
        p.w->options.sync = i % 2 ? KV_SYNC_NEVER : KV_SYNC_ALWAYS;
        p.w->os.open = no_room_for_a_segment;
        world_open(p.w);
        for (uint64_t k = 0; k < 100; k++)
            put(&p, k, k);
        CHECK_OK(kv_dup(p.w->db, true, &late, &p.w->err), &p.w->err);
        segment_refusal = refusal;
        CHECK_OK(kv_put(late, LITERAL("large"), bytes_of(large, sizeof large), 0, &p.w->err), &p.w->err);
        checkpoint(&p);
        CHECK_EQ(segment_refusal, 0);
        segment_refusal = refusal;
        CHECK_OK(kv_put(late, LITERAL("large"), bytes_of(large, sizeof large), 0, &p.w->err), &p.w->err);
        CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
        CHECK_EQ(segment_refusal, 0);
        model_check(p.m, p.w->db);
        CHECK_OK(kv_open("copy", &p.w->options, &copy, &p.w->err), &p.w->err);
        model_check(p.m, copy);
        kv_destroy(copy);
        kv_destroy(late);
        reopen(&p);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

static int64_t write_to_small_files(void *ctx, int file, const void *buffer, size_t size, uint64_t offset) {
    const kv_os *os = fault_os_table(ctx);
    return offset + size > WORLD_SEGMENT_SIZE ? -ENOSPC : os->write(os->ctx, file, buffer, size, offset);
}

static int reserve_small_files(void *ctx, int file, uint64_t size) {
    const kv_os *os = fault_os_table(ctx);
    return size > WORLD_SEGMENT_SIZE ? -ENOSPC : os->reserve(os->ctx, file, size);
}

/* Where there is no room for a segment as large as it should be, the log goes on in a small one. */
static void test_room_for_small_segments_only(void) {
    pair p = {world_create(), model_create()};
    p.w->os.write = write_to_small_files;
    p.w->os.reserve = reserve_small_files;
    world_open(p.w);
    for (uint64_t i = 0; world_stats(p.w).log_segments < 4; i++)
        put(&p, i % 50, i);
    model_check(p.m, p.w->db);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

CHECK_MAIN(TEST(test_empty), TEST(test_state_and_tail), TEST(test_count_before_loading),
           TEST(test_by_itself), TEST(test_backup), TEST(test_changes_while_it_is_made),
           TEST(test_sizes), TEST(test_at_close), TEST(test_recycled), TEST(test_cancelled), TEST(test_backup_fails),
           TEST(test_half_a_copy), TEST(test_intruders_of_a_backup),
           TEST(test_a_lock_file_that_is_removed_before_it_is_locked),
           TEST(test_a_lock_file_whose_number_changes),
           TEST(test_power_cut_in_a_backup), TEST(test_backup_without_an_end_frame),
           TEST(test_backup_of_a_log_without_an_end_frame), TEST(test_backup_of_other_stores),
           TEST(test_reads_fail), TEST(test_no_memory), TEST(test_damaged_block), TEST(test_sweep_past_a_damaged_block),
           TEST(test_warning), TEST(test_beside_a_write_without_room),
           TEST(test_room_for_small_segments_only))
