/* test_snapshot.c - what a snapshot keeps, and for how long; and walks over one while the table changes. */
#include "check.h"

#include <sched.h>

#include "kv.h"
#include "model.h"
#include "threads.h"
#include "world.h"

static const kv_bytes A = {"a", 1}, B = {"b", 1};

static kv_db *memory_open(void) {
    kv_error err;
    kv_db *db;
    CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    return db;
}

static void memory_close(kv_db *db) {
    kv_error err;
    CHECK_OK(kv_verify(db, &err), &err);
    kv_destroy(db);
}

static void put(kv_db *db, kv_bytes key, kv_bytes value) {
    kv_error err;
    CHECK_OK(kv_put(db, key, value, 0, &err), &err);
}

static kv_snapshot *take(kv_db *db) {
    kv_error err;
    kv_snapshot *s;
    CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
    return s;
}

static uint64_t held(kv_db *db) {
    kv_error err;
    kv_stats stats;
    CHECK_OK(kv_get_stats(db, 0, &stats, &err), &err);
    CHECK_OK(kv_verify(db, &err), &err);
    return stats.undo_records;
}

static void check_at(kv_snapshot *s, unsigned number) {
    kv_error err;
    kv_value value;
    CHECK_OK(kv_snapshot_get(s, A, 0, &value, &err), &err);
    CHECK_EQ(value.size, sizeof number);
    CHECK_MEM(value.data, &number, sizeof number);
    kv_value_release(&value);
}

/* ---- What is held ----------------------------------------------------------------------------------- */

static void test_nothing_is_held_without_one(void) {
    kv_db *db = memory_open();
    for (unsigned i = 0; i < 100; i++)
        put(db, A, bytes_of(&i, sizeof i));
    CHECK_EQ(held(db), 0);
    kv_snapshot *s = take(db);
    CHECK_EQ(held(db), 0); /* it is not a copy */
    kv_snapshot_destroy(s);
    memory_close(db);
}

/* From the oldest snapshot on everything is held; what it alone held back goes with it, in shards that
 * nobody writes to any more as well. */
static void test_held_for_the_oldest(void) {
    enum { COUNT = 6 };
    static const unsigned orders[][COUNT] = {
        {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {2, 5, 0, 4, 1, 3}, {3, 0, 5, 1, 4, 2}};
    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
        kv_db *db = memory_open();
        kv_snapshot *snapshots[COUNT];
        bool alive[COUNT];
        for (unsigned i = 0; i < COUNT; i++) {
            put(db, A, bytes_of(&i, sizeof i));
            snapshots[i] = take(db);
            alive[i] = true;
        }
        CHECK_EQ(held(db), COUNT - 1);
        for (unsigned k = 0; k < COUNT; k++) {
            unsigned oldest = 0;
            kv_snapshot_destroy(snapshots[orders[o][k]]);
            alive[orders[o][k]] = false;
            while (oldest < COUNT && !alive[oldest])
                oldest++;
            CHECK_EQ(held(db), oldest < COUNT ? COUNT - 1 - oldest : 0);
            for (unsigned i = 0; i < COUNT; i++)
                if (alive[i])
                    check_at(snapshots[i], i);
        }
        memory_close(db);
    }
}

/* The same state taken twice. */
static void test_equal_snapshots(void) {
    kv_db *db = memory_open();
    put(db, A, bytes_of(&(unsigned){1}, sizeof(unsigned)));
    kv_snapshot *s = take(db), *t = take(db);
    put(db, A, bytes_of(&(unsigned){2}, sizeof(unsigned)));
    CHECK_EQ(held(db), 1);
    kv_snapshot_destroy(s);
    CHECK_EQ(held(db), 1);
    check_at(t, 1);
    kv_snapshot_destroy(t);
    CHECK_EQ(held(db), 0);
    memory_close(db);
}

/* So many that nobody works out what they let go: each keeps its moment all the same. */
static void test_many_snapshots(void) {
    enum { COUNT = 100 };
    kv_db *db = memory_open();
    kv_snapshot *s[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        put(db, A, bytes_of(&i, sizeof i));
        s[i] = take(db);
    }
    for (unsigned i = 0; i < 1000; i++)
        put(db, A, bytes_of(&i, sizeof i));
    for (unsigned i = 0; i < COUNT; i++) {
        check_at(s[i], i);
        kv_snapshot_destroy(s[i]);
    }
    CHECK_EQ(held(db), 0);
    memory_close(db);
}

/* Each handle ends its own. */
static void test_snapshots_of_a_closed_handle(void) {
    world *w = world_create();
    kv_error err;
    kv_db *second;
    world_open(w);
    CHECK_OK(kv_open(WORLD_DIR, &w->options, &second, &err), &err);
    put(w->db, A, bytes_of(&(unsigned){1}, sizeof(unsigned)));
    kv_snapshot *s = take(w->db), *t = take(second);
    put(w->db, A, bytes_of(&(unsigned){2}, sizeof(unsigned)));
    put(w->db, B, A);
    CHECK_OK(kv_close(second, &err), &err);
    check_at(s, 1);
    CHECK(held(w->db) > 0);
    kv_snapshot_destroy(t);
    kv_destroy(second);
    check_at(s, 1);
    kv_snapshot_destroy(s);
    CHECK_EQ(held(w->db), 0);

    /* The only one, and its handle goes first: what it held goes with that. */
    CHECK_OK(kv_open(WORLD_DIR, &w->options, &second, &err), &err);
    t = take(second);
    put(w->db, A, bytes_of(&(unsigned){3}, sizeof(unsigned)));
    CHECK(held(w->db) > 0);
    CHECK_OK(kv_close(second, &err), &err);
    CHECK_EQ(held(w->db), 0);
    kv_snapshot_destroy(t);
    kv_destroy(second);
    world_destroy(w);
}

/* A snapshot is of what is visible: not of a commit that is on its way, which it sees neither before nor
 * after (test_concurrent.c looks at the moment itself). */
static void test_count_is_that_of_its_moment(void) {
    kv_db *db = memory_open();
    kv_error err;
    kv_snapshot *s[4];
    uint64_t count;
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned k = 0; k < 1000; k++) {
            unsigned key = i * 1000 + k;
            put(db, bytes_of(&key, sizeof key), A);
        }
        s[i] = take(db);
    }
    CHECK_OK(kv_clear(db, 0, &err), &err);
    for (unsigned i = 0; i < 4; i++)
        for (int again = 0; again < 2; again++) {
            CHECK_OK(kv_snapshot_count(s[i], &count, &err), &err);
            CHECK_EQ(count, (i + 1) * 1000);
        }
    for (unsigned i = 0; i < 4; i++)
        kv_snapshot_destroy(s[i]);
    memory_close(db);
}

/* ---- Walks ------------------------------------------------------------------------------------------------ */

/* Between two steps of the walk the table changes in every way that it can. */
static void change_all(kv_db *db, model *m, unsigned step, check_random *random) {
    kv_error err;
    if (step == 3) {
        CHECK_OK(kv_clear(db, 0, &err), &err);
        model_clear(m);
    }
    for (unsigned i = 0; i < 1500; i++) { /* shards split behind the cursor and before it */
        unsigned key = (unsigned)random_below(random, 60000);
        kv_bytes k = bytes_of(&key, sizeof key);
        if (random_below(random, 4)) {
            put(db, k, bytes_of(&step, sizeof step));
            model_put(m, k, bytes_of(&step, sizeof step));
        } else {
            CHECK_EQ(kv_delete(db, k, 0, &err), model_delete(m, k) ? KV_OK : KV_NOTFOUND);
        }
    }
}

static void test_walk_while_it_changes(void) {
    kv_db *db = memory_open();
    model *m = model_create();
    check_random random = random_stream(1);
    change_all(db, m, 0, &random);
    for (int round = 0; round < 3; round++) {
        kv_error err;
        kv_snapshot *s = take(db);
        model *then = model_clone(m), *found = model_create();
        kv_cursor *cursor;
        const kv_item *items;
        size_t count;
        unsigned step = 0;
        CHECK_OK(kv_cursor_create(s, &cursor, &err), &err);
        kv_status status;
        while ((status = kv_cursor_next(cursor, &items, &count, &err)) == KV_OK) {
            for (size_t i = 0; i < count; i++) {
                CHECK(model_get(found, items[i].key) == NULL); /* each key once */
                model_put(found, items[i].key, items[i].value);
            }
            change_all(db, m, step++, &random);
        }
        CHECK_STATUS(status, KV_NOTFOUND, &err);
        CHECK_EQ(model_digest(found), model_digest(then));
        CHECK_EQ(model_count(found), model_count(then));
        CHECK(step > 10);
        kv_cursor_destroy(cursor);
        uint64_t again;
        CHECK_EQ(snapshot_digest(s, &again), model_digest(then));
        kv_snapshot_destroy(s);
        CHECK_EQ(held(db), 0);
        model_check(m, db);
        model_destroy(then);
        model_destroy(found);
    }
    model_destroy(m);
    memory_close(db);
}

static void test_walk_over_nothing(void) {
    kv_db *db = memory_open();
    kv_error err;
    kv_snapshot *s = take(db);
    kv_cursor *cursor;
    const kv_item *items;
    size_t count;
    put(db, A, A); /* afterwards */
    CHECK_OK(kv_cursor_create(s, &cursor, &err), &err);
    for (int i = 0; i < 3; i++)
        CHECK_STATUS(kv_cursor_next(cursor, &items, &count, &err), KV_NOTFOUND, &err);
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(s);
    memory_close(db);
}

/* However much is written, a snapshot costs no more than a record a key and interval (and what has not been
 * looked at yet). */
static void test_hot_keys_under_long_lived_snapshots(void) {
    for (int with_log = 0; with_log < 2; with_log++) {
        enum { COUNT = 3, KEYS = 3000, HOT = 5 };
        world *w = world_create();
        kv_error err;
        kv_snapshot *s[COUNT];
        model *m = model_create(), *then[COUNT];
        w->options.sync = KV_SYNC_NEVER;
        w->options.segment_size_max = 1 << 20;
        CHECK_OK(kv_open(with_log ? WORLD_DIR : NULL, &w->options, &w->db, &err), &err);
        for (unsigned i = 0; i < KEYS; i++) {
            put(w->db, bytes_of(&i, sizeof i), A);
            model_put(m, bytes_of(&i, sizeof i), A);
        }
        for (unsigned k = 0; k < COUNT; k++) {
            s[k] = take(w->db);
            then[k] = model_clone(m);
            for (unsigned i = 0; i < 100000 / COUNT; i++) {
                unsigned hot = i % HOT, fleeting = KEYS + i;
                kv_bytes key = bytes_of(&hot, sizeof hot);
                put(w->db, key, bytes_of(&i, sizeof i));
                model_put(m, key, bytes_of(&i, sizeof i));
                if (i % 4 == 0) { /* one that comes and goes */
                    put(w->db, bytes_of(&fleeting, sizeof fleeting), B);
                    CHECK_OK(kv_delete(w->db, bytes_of(&fleeting, sizeof fleeting), 0, &err), &err);
                }
            }
            CHECK(held(w->db) < 24 * 130); /* shards, and what is let be in each */
        }
        for (unsigned k = 0; k < COUNT; k++) {
            uint64_t count;
            CHECK_EQ(snapshot_digest(s[k], &count), model_digest(then[k]));
            CHECK_EQ(count, KEYS);
            CHECK_OK(kv_snapshot_count(s[k], &count, &err), &err);
            CHECK_EQ(count, KEYS);
        }
        model_check(m, w->db);
        for (unsigned k = 0; k < COUNT; k++) {
            kv_snapshot_destroy(s[(k + 1) % COUNT]);
            model_destroy(then[(k + 1) % COUNT]);
        }
        CHECK_EQ(held(w->db), 0);
        model_destroy(m);
        world_destroy(w);
    }
}

/* The same with clears: of those between two snapshots the first says what was there. */
static void test_clears_under_a_long_lived_snapshot(void) {
    for (int with_log = 0; with_log < 2; with_log++) {
        enum { COUNT = 3, ROUNDS = 2000 };
        world *w = world_create();
        kv_error err;
        kv_snapshot *s[COUNT];
        w->options.sync = KV_SYNC_NEVER;
        w->options.segment_size_max = 1 << 20;
        CHECK_OK(kv_open(with_log ? WORLD_DIR : NULL, &w->options, &w->db, &err), &err);
        for (unsigned k = 0; k < COUNT; k++) {
            put(w->db, A, bytes_of(&k, sizeof k));
            put(w->db, B, B);
            s[k] = take(w->db);
            for (unsigned i = 0; i < ROUNDS; i++) {
                put(w->db, A, A);
                CHECK_OK(kv_clear(w->db, 0, &err), &err);
            }
            CHECK(held(w->db) < 2 * 260); /* shards, and what is let be in each */
        }
        for (unsigned k = 0; k < COUNT; k++) {
            kv_value value;
            uint64_t count;
            CHECK_OK(kv_snapshot_get(s[k], A, 0, &value, &err), &err);
            CHECK_EQ(value.size, sizeof k);
            CHECK_MEM(value.data, &k, sizeof k);
            CHECK_OK(kv_snapshot_get(s[k], B, 0, &value, &err), &err);
            CHECK_OK(kv_snapshot_count(s[k], &count, &err), &err);
            CHECK_EQ(count, 2);
            snapshot_digest(s[k], &count);
            CHECK_EQ(count, 2);
        }
        CHECK_OK(kv_verify(w->db, &err), &err);
        for (unsigned k = 0; k < COUNT; k++)
            kv_snapshot_destroy(s[k]);
        CHECK_EQ(held(w->db), 0);
        world_destroy(w);
    }
}

/* ---- In a function that a call runs ------------------------------------------------------------------ */

typedef struct told {
    kv_db *db;
    kv_snapshot *s;
    crew closer;
} told;

static void close_handle(worker *me) {
    kv_error err;
    CHECK_OK(kv_close(me->shared, &err), &err);
}

static bool destroy_while_it_closes(void *arg, uint64_t done, uint64_t total) {
    told *t = arg;
    (void)done, (void)total;
    if (t->s == NULL)
        return true;
    crew_add(&t->closer, close_handle, t->db);
    while (!kv_is_closed(t->db))
        sched_yield();
    kv_snapshot_destroy(t->s);
    t->s = NULL;
    return true;
}

/* The close waits for the call whose function the snapshot ends in, so that cannot wait for the close. */
static void test_ended_by_a_call_that_a_close_waits_for(void) {
    world *w = world_create();
    world_open(w);
    told t = {0};
    kv_stats stats;
    CHECK_OK(kv_dup(w->db, false, &t.db, &w->err), &w->err);
    put(w->db, A, A);
    t.s = take(t.db);
    put(w->db, A, B);
    CHECK_EQ(held(w->db), 1);
    CHECK_OK(kv_backup(t.db, "copy", destroy_while_it_closes, &t, &w->err), &w->err);
    crew_join(&t.closer);
    CHECK(t.s == NULL);
    kv_destroy(t.db);
    CHECK_EQ(held(w->db), 0);
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    CHECK_EQ(stats.snapshots, 0);
    world_destroy(w);
}

CHECK_MAIN(TEST(test_nothing_is_held_without_one), TEST(test_held_for_the_oldest),
           TEST(test_equal_snapshots), TEST(test_many_snapshots), TEST(test_snapshots_of_a_closed_handle),
           TEST(test_count_is_that_of_its_moment), TEST(test_walk_while_it_changes),
           TEST(test_walk_over_nothing), TEST(test_hot_keys_under_long_lived_snapshots),
           TEST(test_clears_under_a_long_lived_snapshot), TEST(test_ended_by_a_call_that_a_close_waits_for))
