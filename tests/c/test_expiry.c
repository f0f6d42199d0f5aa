/* test_expiry.c - keys that expire: when they are absent, for whom, and what becomes of them.
 *
 * The clock is the test's, and stands still unless it is set.
 */
/* tsan */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>

#include "kv.h"
#include "model.h"
#include "threads.h"
#include "world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOWER 8u
#else
#define SLOWER 1u
#endif

#define START UINT64_C(1000000)

typedef struct timed {
    world *w;
    kv_db *db;
    model *m;
    uint64_t now;
    bool memory_only;
} timed;

static void set_clock(timed *t, uint64_t now) {
    t->now = now;
    world_set_clock(t->w, now);
}

static timed timed_create(bool memory_only) {
    timed t = {.w = world_create(), .m = model_create(), .memory_only = memory_only};
    t.w->options.segment_size_max = 1 << 18;
    t.w->options.sync = KV_SYNC_NEVER;
    set_clock(&t, START);
    CHECK_OK(kv_open(memory_only ? NULL : WORLD_DIR, &t.w->options, &t.w->db, &t.w->err), &t.w->err);
    t.db = t.w->db;
    return t;
}

/* Each commit is synced, all in one segment. */
static timed timed_create_durable(void) {
    timed t = {.w = world_create(), .m = model_create()};
    t.w->options.segment_size_min = t.w->options.segment_size_max = 1 << 20;
    set_clock(&t, START);
    world_open(t.w);
    t.db = t.w->db;
    return t;
}

static void timed_destroy(timed *t) {
    world_destroy(t->w);
    model_destroy(t->m);
}

static void reopen(timed *t) {
    if (t->memory_only)
        return;
    world_close(t->w);
    world_open(t->w);
    t->db = t->w->db;
}

static kv_stats stats_of(timed *t) {
    kv_stats stats;
    CHECK_OK(kv_get_stats(t->db, 0, &stats, &t->w->err), &t->w->err);
    return stats;
}

/* Everything that has expired is gone from memory. */
static void await_swept(timed *t) {
    kv_stats stats;
    for (unsigned i = 0;; i++) {
        stats = stats_of(t);
        if (stats.data_bytes == model_data_bytes(t->m) &&
            (stats.undo_records == 0 || stats.snapshots > 0))
            break;
        if (i > 20000)
            FAIL("%d bytes of %d are left", (int)stats.data_bytes, (int)model_data_bytes(t->m));
        usleep(1000);
    }
    CHECK_EQ(stats.memory_charged, model_charge(t->m));
    CHECK_EQ(stats.entries, model_count(t->m));
}

static kv_bytes key_of(char text[32], unsigned number) {
    return bytes_of(text, (size_t)snprintf(text, 32, "key %u", number));
}

static void put(timed *t, unsigned number, uint64_t expiry) {
    char text[32];
    kv_bytes key = key_of(text, number), value = bytes_of(&number, sizeof number);
    CHECK_OK(kv_put_expiring(t->db, key, value, expiry, 0, &t->w->err), &t->w->err);
    model_put_expiring(t->m, key, value, expiry);
}

/* Absent for everybody: all keys of the range. */
static void check_absent(timed *t, unsigned from, unsigned to) {
    enum { COUNT = 20 };
    char texts[COUNT][32];
    kv_bytes keys[COUNT];
    kv_error *err = &t->w->err;
    kv_value value = {0};
    kv_values values;
    kv_snapshot *s;
    kv_item item;
    uint64_t expiry, deleted = 9;
    CHECK(to - from <= COUNT);
    CHECK_OK(kv_snapshot_create(t->db, &s, err), err);
    for (unsigned i = from; i < to; i++) {
        kv_bytes key = keys[i - from] = key_of(texts[i - from], i);
        CHECK_STATUS(kv_get(t->db, key, 0, &value, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_contains(t->db, key, 0, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_get_expiry(t->db, key, 0, &expiry, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_snapshot_get(s, key, 0, &value, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_delete(t->db, key, 0, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_pop(t->db, key, 0, &value, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_replace(t->db, key, LITERAL("x"), bytes_of(&i, sizeof i), 0, err), KV_UNCHANGED,
                     err);
        CHECK_STATUS(kv_expire(t->db, key, t->now + 1000, 0, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_expire(t->db, key, 0, 0, err), KV_NOTFOUND, err);
        CHECK_STATUS(kv_expire(t->db, key, 1, 0, err), KV_NOTFOUND, err);
        const kv_op ops[] = {{KV_OP_EXPIRE, key, {0}, t->now + 1000}, {KV_OP_DELETE, key, {0}, 0}};
        CHECK_OK(kv_write(t->db, ops, 1, 0, &deleted, err), err);
        CHECK_EQ(deleted, 0);
        CHECK_OK(kv_write(t->db, ops + 1, 1, 0, &deleted, err), err);
        CHECK_EQ(deleted, 0);
    }
    CHECK_OK(kv_get_many(t->db, keys, to - from, &values, err), err);
    for (unsigned i = from; i < to; i++)
        CHECK(values.items[i - from].data == NULL);
    kv_values_release(&values);
    kv_snapshot_destroy(s);
    if (model_count(t->m) == 0)
        CHECK_STATUS(kv_pop_any(t->db, 0, &item, err), KV_NOTFOUND, err);
    model_check(t->m, t->db);
}

static void test_the_moment(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++)
        for (int swept = 0; swept < 2; swept++) {
            timed t = timed_create(memory_only);
            for (unsigned i = 0; i < 20; i++)
                put(&t, i, START + 10000);
            model_check(t.m, t.db);
            reopen(&t);
            model_check(t.m, t.db);
            set_clock(&t, START + 9999);
            model_check(t.m, t.db);
            set_clock(&t, START + 10000);
            CHECK_EQ(model_sweep(t.m, t.now), 20);
            if (swept) {
                await_swept(&t);
                CHECK_EQ(stats_of(&t).expired, 20);
            }
            check_absent(&t, 0, 20);
            await_swept(&t);
            reopen(&t);
            check_absent(&t, 0, 20);
            CHECK_OK(kv_verify(t.db, &t.w->err), &t.w->err);
            timed_destroy(&t);
        }
}

/* What has expired counts as absent for those who write, whether it has been swept away or not. */
static void test_writes_over_expired(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++)
        for (int swept = 0; swept < 2; swept++) {
            timed t = timed_create(memory_only);
            kv_error *err = &t.w->err;
            char text[32];
            int64_t number;
            kv_value old = {0};
            uint64_t deleted;
            for (unsigned i = 0; i < 20; i++)
                put(&t, i, START + 100);
            CHECK_OK(kv_put_expiring(t.db, key_of(text, 3), LITERAL("41"), START + 100, 0, err), err);
            set_clock(&t, START + 200);
            model_sweep(t.m, t.now);
            if (swept)
                await_swept(&t);
            CHECK_OK(kv_put(t.db, key_of(text, 0), LITERAL("put"), 0, err), err);
            model_put(t.m, key_of(text, 0), LITERAL("put"));
            CHECK_OK(kv_put_absent(t.db, key_of(text, 1), LITERAL("absent"), 0, &old, err), err);
            model_put(t.m, key_of(text, 1), LITERAL("absent"));
            put(&t, 2, t.now + 50);
            CHECK_OK(kv_incr(t.db, key_of(text, 3), 1, 0, &number, err), err);
            CHECK_EQ(number, 1);
            model_put(t.m, key_of(text, 3), LITERAL("1"));
            /* A put that is past, and one that takes a key away. */
            CHECK_OK(kv_put_expiring(t.db, key_of(text, 4), LITERAL("x"), t.now, 0, err), err);
            CHECK_OK(kv_put_expiring(t.db, key_of(text, 0), LITERAL("x"), t.now - 1, 0, err), err);
            model_delete(t.m, key_of(text, 0));
            char texts[6][32];
            const kv_op ops[] = {
                {KV_OP_PUT, key_of(texts[0], 5), LITERAL("a"), 0},
                {KV_OP_PUT, key_of(texts[1], 6), LITERAL("b"), t.now + 60},
                {KV_OP_EXPIRE, key_of(texts[2], 7), {0}, t.now + 60},
                {KV_OP_DELETE, key_of(texts[3], 8), {0}, 0},
                {KV_OP_PUT, key_of(texts[4], 1), LITERAL("c"), t.now},
                {KV_OP_EXPIRE, key_of(texts[5], 3), {0}, t.now + 70},
            };
            CHECK_OK(kv_write(t.db, ops, 6, 0, &deleted, err), err);
            CHECK_EQ(deleted, 0);
            model_put(t.m, ops[0].key, ops[0].value);
            model_put_expiring(t.m, ops[1].key, ops[1].value, t.now + 60);
            model_delete(t.m, ops[4].key);
            model_expire(t.m, ops[5].key, t.now + 70);
            model_check(t.m, t.db);
            reopen(&t);
            model_check(t.m, t.db);
            /* An increment keeps the expiry; a replacement does not. */
            CHECK_OK(kv_incr(t.db, key_of(text, 3), 1, 0, &number, err), err);
            model_put_expiring(t.m, key_of(text, 3), LITERAL("2"), t.now + 70);
            CHECK_OK(kv_replace(t.db, key_of(text, 6), LITERAL("z"), LITERAL("b"), 0, err), err);
            model_put(t.m, key_of(text, 6), LITERAL("z"));
            CHECK_STATUS(kv_expire(t.db, key_of(text, 2), 0, 0, err), KV_OK, err);
            model_expire(t.m, key_of(text, 2), 0);
            model_check(t.m, t.db);
            set_clock(&t, t.now + 70);
            CHECK_EQ(model_sweep(t.m, t.now), 1);
            model_check(t.m, t.db);
            await_swept(&t);
            reopen(&t);
            model_check(t.m, t.db);
            CHECK_STATUS(kv_put_expiring(t.db, LITERAL("k"), LITERAL("v"), KV_EXPIRY_MAX + 1, 0, err),
                         KV_ERR_LIMIT, err);
            CHECK_STATUS(kv_expire(t.db, key_of(text, 6), KV_EXPIRY_MAX + 1, 0, err), KV_ERR_LIMIT, err);
            model_check(t.m, t.db);
            timed_destroy(&t);
        }
}

/* A snapshot shows what its moment showed. */
static void test_snapshots(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        timed t = timed_create(memory_only);
        kv_error *err = &t.w->err;
        enum { MOMENTS = 6 };
        kv_snapshot *s[MOMENTS];
        model *then[MOMENTS];
        uint64_t count;
        for (unsigned i = 0; i < 3000; i++)
            put(&t, i, i % 5 ? START + 10 * (1 + i % 5) : 0);
        for (unsigned i = 0; i < MOMENTS; i++) {
            set_clock(&t, START + 10 * i + 5);
            model_sweep(t.m, t.now);
            if (i == 3) /* some stay in memory, some are gone when the next is taken */
                await_swept(&t);
            CHECK_OK(kv_snapshot_create(t.db, &s[i], err), err);
            then[i] = model_clone(t.m);
        }
        for (int round = 0; round < 2; round++) {
            for (unsigned i = 0; i < MOMENTS; i++) {
                char text[32];
                kv_value value;
                CHECK_EQ(snapshot_digest(s[i], &count), model_digest(then[i]));
                CHECK_EQ(count, model_count(then[i]));
                if ((unsigned)round == i % 2) {
                    CHECK_OK(kv_snapshot_count(s[i], &count, err), err);
                    CHECK_EQ(count, model_count(then[i]));
                }
                for (unsigned k = 0; k < 50; k++) {
                    kv_status status = kv_snapshot_get(s[i], key_of(text, k), 0, &value, err);
                    CHECK_EQ(status, model_get(then[i], key_of(text, k)) ? KV_OK : KV_NOTFOUND);
                    if (status == KV_OK)
                        kv_value_release(&value);
                }
            }
            set_clock(&t, START + 10000);
            usleep(150000); /* the sweep goes on below them */
        }
        for (unsigned i = 0; i < MOMENTS; i++) {
            kv_snapshot_destroy(s[i]);
            model_destroy(then[i]);
        }
        await_swept(&t);
        timed_destroy(&t);
    }
}

/* Set forward and back: what was swept away stays gone, what was not lives again. */
static void test_clock_set_to_and_fro(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        timed t = timed_create(memory_only);
        for (unsigned i = 0; i < 500; i++)
            put(&t, i, START + 60000 + (i % 2) * 60000);
        model *all = model_clone(t.m);
        if (!memory_only) { /* nobody sweeps: who does waits for the disk, with another key */
            put(&t, 500, START + 10);
            fault_os_gate_close(t.w->faults, FAULT_WRITE);
            set_clock(&t, START + 10);
            while (stats_of(&t).expired == 0)
                usleep(1000);
            set_clock(&t, START + 200000);
            uint64_t count;
            CHECK_OK(kv_count(t.db, 0, &count, &t.w->err), &t.w->err);
            CHECK_EQ(count, 0);
            set_clock(&t, START);
            usleep(2000);
            CHECK_OK(kv_count(t.db, 0, &count, &t.w->err), &t.w->err);
            fault_os_gate_open(t.w->faults, FAULT_WRITE);
        }
        set_clock(&t, START + 60000);
        model_sweep(t.m, t.now);
        await_swept(&t);
        set_clock(&t, START); /* the other half has never been gone */
        model_check(t.m, t.db);
        CHECK_EQ(model_count(t.m), 250);
        reopen(&t);
        model_check(t.m, t.db);
        set_clock(&t, START + 120000);
        model_sweep(t.m, t.now);
        await_swept(&t);
        model_destroy(all);
        timed_destroy(&t);
    }
}

/* ---- Random histories ---------------------------------------------------------------------------------------- */

static uint64_t random_expiry(timed *t, check_random *random) {
    switch (random_below(random, 4)) {
    case 0:
        return 0;
    case 1:
        return t->now - random_below(random, 5); /* past */
    default:
        return t->now + 1 + random_below(random, 400);
    }
}

static void random_step(timed *t, check_random *random) {
    kv_error *err = &t->w->err;
    char texts[12][32];
    unsigned number = (unsigned)random_below(random, 1500);
    kv_bytes key = key_of(texts[0], number), value = bytes_of(texts, random_below(random, 12));
    const kv_bytes *there = model_get(t->m, key);
    uint64_t expiry = random_expiry(t, random), deleted, wanted = 0;
    bool past = expiry != 0 && expiry <= t->now;
    kv_op ops[12];
    int64_t result;
    switch (random_below(random, 8)) {
    case 0:
        CHECK_STATUS(kv_expire(t->db, key, expiry, 0, err), there != NULL ? KV_OK : KV_NOTFOUND, err);
        if (past)
            model_delete(t->m, key);
        else
            model_expire(t->m, key, expiry);
        break;
    case 1:
        CHECK_STATUS(kv_delete(t->db, key, 0, err), there != NULL ? KV_OK : KV_NOTFOUND, err);
        model_delete(t->m, key);
        break;
    case 2:
        for (unsigned i = 0; i < 12; i++) {
            ops[i] = (kv_op){.kind = (kv_op_kind[]){KV_OP_PUT, KV_OP_DELETE, KV_OP_EXPIRE}[i % 3],
                             .key = key_of(texts[i], number + i * 7)};
            if (ops[i].kind == KV_OP_PUT)
                ops[i].value = value;
            if (ops[i].kind != KV_OP_DELETE)
                ops[i].expiry = random_expiry(t, random);
            else
                wanted += model_get(t->m, ops[i].key) != NULL;
        }
        CHECK_OK(kv_write(t->db, ops, 12, 0, &deleted, err), err);
        CHECK_EQ(deleted, wanted);
        for (unsigned i = 0; i < 12; i++) {
            if (ops[i].kind == KV_OP_DELETE || (ops[i].expiry != 0 && ops[i].expiry <= t->now))
                model_delete(t->m, ops[i].key);
            else if (ops[i].kind == KV_OP_PUT)
                model_put_expiring(t->m, ops[i].key, value, ops[i].expiry);
            else
                model_expire(t->m, ops[i].key, ops[i].expiry);
        }
        break;
    case 3:
        CHECK_STATUS(kv_put_absent(t->db, key, value, 0, NULL, err),
                     there == NULL ? KV_OK : KV_UNCHANGED, err);
        if (there == NULL)
            model_put(t->m, key, value);
        break;
    case 4:
        key = LITERAL("counter");
        there = model_get(t->m, key);
        CHECK_OK(kv_incr(t->db, key, 1, 0, &result, err), err);
        CHECK(there != NULL || result == 1);
        int size = snprintf(texts[1], 32, "%d", (int)result);
        model_put_expiring(t->m, key, bytes_of(texts[1], (size_t)size), model_expiry(t->m, key));
        if (random_below(random, 10) == 0) {
            CHECK_OK(kv_expire(t->db, key, t->now + 20, 0, err), err);
            model_expire(t->m, key, t->now + 20);
        }
        break;
    default:
        CHECK_OK(kv_put_expiring(t->db, key, value, expiry, 0, err), err);
        if (past)
            model_delete(t->m, key);
        else
            model_put_expiring(t->m, key, value, expiry);
    }
}

static void run_random(bool memory_only, uint64_t seed) {
    timed t = timed_create(memory_only);
    check_random random = random_stream(seed);
    kv_error *err = &t.w->err;
    kv_snapshot *s = NULL;
    model *then = NULL;
    uint64_t count;
    for (unsigned i = 0; i < 12000 / SLOWER; i++) {
        random_step(&t, &random);
        if (random_below(&random, 20) == 0) {
            set_clock(&t, t.now + random_below(&random, 30));
            model_sweep(t.m, t.now);
        }
        CHECK_OK(kv_count(t.db, 0, &count, err), err);
        if (count != model_count(t.m)) /* a sweep may come between its two looks */
            CHECK_OK(kv_count(t.db, 0, &count, err), err);
        if (i % 300 == 0)
            CHECK_EQ(store_digest(t.db), model_digest(t.m));
        if (i % 500 == 0) {
            if (s != NULL) {
                CHECK_EQ(snapshot_digest(s, &count), model_digest(then));
                CHECK_OK(kv_snapshot_count(s, &count, err), err);
                CHECK_EQ(count, model_count(then));
                kv_snapshot_destroy(s);
                model_destroy(then);
            }
            CHECK_OK(kv_snapshot_create(t.db, &s, err), err);
            then = model_clone(t.m);
        }
        if (i % 1100 == 0 && !memory_only)
            CHECK_OK(kv_checkpoint(t.db, NULL, NULL, err), err);
        if (i % 1700 == 0 && !memory_only) {
            kv_snapshot_destroy(s);
            model_destroy(then);
            s = NULL;
            then = NULL;
            reopen(&t);
        }
        if (i % 4000 == 3999) {
            CHECK_OK(kv_clear(t.db, 0, err), err);
            model_clear(t.m);
        }
    }
    kv_snapshot_destroy(s);
    model_destroy(then);
    await_swept(&t);
    model_check(t.m, t.db);
    reopen(&t);
    model_check(t.m, t.db);
    timed_destroy(&t);
}

static void test_random(void) {
    for (uint64_t seed = 0; seed < 3; seed++) {
        run_random(false, seed);
        run_random(true, seed);
    }
}

/* ---- Many at once --------------------------------------------------------------------------------------------- */

typedef struct load {
    timed *t;
    _Atomic bool done;
    _Atomic unsigned written;
} load;

static void load_write(worker *me) {
    load *l = me->shared;
    kv_error err;
    for (unsigned i = 0; !atomic_load(&l->done); i++) {
        char text[32];
        kv_bytes key = bytes_of(text, (size_t)snprintf(text, 32, "stays %u/%u", me->id, i % 500));
        CHECK_OK(kv_put(l->t->db, key, bytes_of(&i, sizeof i), 0, &err), &err);
        kv_value value;
        CHECK_OK(kv_get(l->t->db, key, 0, &value, &err), &err);
        CHECK_MEM(value.data, &i, sizeof i);
        kv_value_release(&value);
        atomic_fetch_add(&l->written, 1);
        if (i % 50 == 0)
            usleep(500);
    }
}

static void test_many_at_once(void) {
    enum { KEYS = 100000 / SLOWER };
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        timed t = timed_create(memory_only);
        load l = {.t = &t};
        crew crew = {0};
        for (unsigned i = 0; i < KEYS; i++) {
            char text[32];
            CHECK_OK(kv_put_expiring(t.db, key_of(text, i), bytes_of(&i, sizeof i), START + 1000, 0,
                                     &t.w->err), &t.w->err);
        }
        for (unsigned i = 0; i < 3; i++)
            crew_add(&crew, load_write, &l);
        set_clock(&t, START + 1000);
        uint64_t count;
        CHECK_OK(kv_count(t.db, 0, &count, &t.w->err), &t.w->err);
        CHECK(count <= 1500); /* at once */
        for (unsigned i = 0; stats_of(&t).expired < KEYS || atomic_load(&l.written) == 0; i++) {
            if (i > 30000)
                FAIL("swept %d of %d", (int)stats_of(&t).expired, KEYS);
            usleep(1000);
        }
        atomic_store(&l.done, true);
        crew_join(&crew);
        CHECK_OK(kv_count(t.db, 0, &count, &t.w->err), &t.w->err);
        CHECK(count <= 1500);
        kv_stats stats = stats_of(&t);
        CHECK_EQ(stats.expired, KEYS);
        CHECK(stats.data_bytes < 1500 * 32);
        reopen(&t);
        uint64_t again;
        CHECK_OK(kv_count(t.db, 0, &again, &t.w->err), &t.w->err);
        CHECK_EQ(again, count);
        timed_destroy(&t);
    }
}

/* Short lives by a clock that runs, put by many: in the end all are gone, without anybody's doing. */
static void short_lives(worker *me) {
    timed *t = me->shared;
    kv_error err;
    for (unsigned i = 0; i < 4000 / SLOWER; i++) {
        char text[32];
        kv_bytes key = bytes_of(text, (size_t)snprintf(text, 32, "%u/%u", me->id, i % 1000));
        uint64_t expiry = kv_clock_ms(t->db) + random_below(&me->random, 120);
        CHECK_OK(kv_put_expiring(t->db, key, LITERAL("short"), expiry, 0, &err), &err);
        if (i % 100 == 0)
            usleep(3000);
    }
}

static void test_short_lives(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        timed t = timed_create(memory_only);
        crew crew = {0};
        world_set_clock(t.w, 0);
        for (unsigned i = 0; i < 4; i++)
            crew_add(&crew, short_lives, &t);
        crew_join(&crew);
        await_swept(&t);
        timed_destroy(&t);
    }
}

/* ---- What is undone ------------------------------------------------------------------------------------------- */

static void delete_in_vain(worker *me) {
    timed *t = me->shared;
    char text[32];
    kv_error err;
    CHECK_STATUS(kv_delete(t->db, key_of(text, 2), 0, &err), KV_ERR_NOSPACE, &err);
}

static void clear_in_vain(worker *me) {
    timed *t = me->shared;
    kv_error err;
    CHECK_STATUS(kv_clear(t->db, 0, &err), KV_ERR_NOSPACE, &err);
}

static void replace_in_vain(worker *me) {
    timed *t = me->shared;
    char text[32];
    kv_error err;
    CHECK_STATUS(kv_put(t->db, key_of(text, 2), LITERAL("x"), 0, &err), KV_ERR_NOSPACE, &err);
}

/* While a key is on its way out a sweep passes; then the key comes back, and must expire in its time. */
static void test_undone(void) {
    static void (*const acts[])(worker *me) = {delete_in_vain, clear_in_vain, replace_in_vain};
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        timed t = timed_create_durable();
        crew crew = {0};
        put(&t, 1, START + 50);
        put(&t, 2, START + 5000);
        put(&t, 3, 0);
        fault_os_fail(t.w->faults, FAULT_WRITE, 1, ENOSPC, 0);
        fault_os_gate_close(t.w->faults, FAULT_WRITE);
        crew_add(&crew, acts[i], &t);
        fault_os_gate_wait(t.w->faults, FAULT_WRITE, 1);
        set_clock(&t, START + 60);
        usleep(300000); /* the sweep has looked, and waits for its turn to write */
        fault_os_gate_open(t.w->faults, FAULT_WRITE);
        crew_join(&crew);
        model_sweep(t.m, t.now);
        model_check(t.m, t.db);
        set_clock(&t, START + 5000);
        CHECK_EQ(model_sweep(t.m, t.now), 1);
        check_absent(&t, 1, 3);
        await_swept(&t);
        reopen(&t);
        check_absent(&t, 1, 3);
        timed_destroy(&t);
    }
}

static void put_over(worker *me) {
    timed *t = me->shared;
    char text[32];
    CHECK_OK(kv_put(t->db, key_of(text, 1), LITERAL("x"), 0, &t->w->err), &t->w->err);
}

static void clear_all(worker *me) {
    timed *t = me->shared;
    CHECK_OK(kv_clear(t->db, 0, &t->w->err), &t->w->err);
}

/* Readers still see what a change on its way out has replaced.  That it has expired must be seen, too, though a sweep
 * finds nothing in the newest state that expires. */
static void test_behind_what_is_not_committed(void) {
    static void (*const acts[])(worker *me) = {put_over, clear_all};
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        timed t = timed_create_durable();
        crew crew = {0};
        put(&t, 1, START + 50);
        fault_os_gate_close(t.w->faults, FAULT_WRITE);
        crew_add(&crew, acts[i], &t);
        fault_os_gate_wait(t.w->faults, FAULT_WRITE, 1);
        set_clock(&t, START + 60);
        usleep(300000); /* sweeps have looked */
        char text[32];
        kv_bytes key = key_of(text, 1);
        kv_value value;
        kv_values values;
        kv_error err;
        uint64_t count;
        CHECK_STATUS(kv_get(t.db, key, 0, &value, &err), KV_NOTFOUND, &err);
        CHECK_OK(kv_get_many(t.db, &key, 1, &values, &err), &err);
        CHECK(values.items[0].data == NULL);
        kv_values_release(&values);
        CHECK_OK(kv_count(t.db, 0, &count, &err), &err);
        CHECK_EQ(count, 0);
        fault_os_gate_open(t.w->faults, FAULT_WRITE);
        crew_join(&crew);
        CHECK_OK(kv_count(t.db, 0, &count, &err), &err);
        CHECK_EQ(count, acts[i] == put_over);
        timed_destroy(&t);
    }
}

/* Without an expiry a record is what it has always been. */
static void test_size_of_records(void) {
    timed t = timed_create(false);
    uint64_t before = stats_of(&t).lsn;
    CHECK_OK(kv_put(t.db, LITERAL("12345678"), LITERAL("12345678"), 0, &t.w->err), &t.w->err);
    uint64_t after = stats_of(&t).lsn;
    CHECK_EQ(after - before, 48 + 32); /* 8 and 16, padded to 16 */
    CHECK_OK(kv_put_expiring(t.db, LITERAL("12345678"), LITERAL("12345678"), START * 2, 0, &t.w->err),
             &t.w->err);
    CHECK_EQ(stats_of(&t).lsn - after, 48 + 32); /* and 8 */
    after = stats_of(&t).lsn;
    CHECK_OK(kv_expire(t.db, LITERAL("12345678"), START * 3, 0, &t.w->err), &t.w->err);
    CHECK_EQ(stats_of(&t).lsn - after, 48 + 32); /* without the value */
    timed_destroy(&t);
}

CHECK_MAIN(TEST(test_the_moment), TEST(test_writes_over_expired), TEST(test_snapshots),
           TEST(test_clock_set_to_and_fro), TEST(test_random), TEST(test_many_at_once),
           TEST(test_short_lives), TEST(test_undone), TEST(test_behind_what_is_not_committed),
           TEST(test_size_of_records))
