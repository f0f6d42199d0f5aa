/* test_concurrent.c - many threads at one store: what they may see of each other, and what not. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "kv.h"
#include "model.h"
#include "threads.h"
#include "world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOWER 4u /* so many times fewer rounds */
#else
#define SLOWER 1u
#endif

static const kv_bytes A = {"a", 1}, B = {"b", 1};

typedef enum kind { MEMORY, ALWAYS, INTERVAL, NEVER, KINDS } kind;

/* A store of each kind, with everything that works in the background working hard. */
static world *world_of(kind kind) {
    world *w = world_create();
    w->options.segment_size_min = 32768;
    w->options.segment_size_max = 1 << 20;
    if (kind == MEMORY) {
        CHECK_OK(kv_open(NULL, &w->options, &w->db, &w->err), &w->err);
        return w;
    }
    w->options.sync = (kv_sync)(kind - ALWAYS);
    w->options.sync_interval_ns = 1000000;
    w->options.mark_delay_ns = 1000000;
    w->options.inflight_max = 20000;
    world_open(w);
    return w;
}

static kv_bytes number_key(char text[32], const char *prefix, unsigned id, unsigned number) {
    return (kv_bytes){text, (size_t)snprintf(text, 32, "%s%u/%u", prefix, id, number)};
}

/* ---- Everybody has keys of his own ------------------------------------------------------------------ */

typedef struct mixed {
    world *w;
    kv_db *second; /* another handle */
    model *models[THREADS_MAX];
    _Atomic uint64_t increments;
} mixed;

static void mixed_batch(mixed *t, worker *me, kv_db *db) {
    enum { COUNT = 30 };
    kv_op ops[COUNT];
    char keys[COUNT][32];
    kv_error err;
    for (unsigned i = 0; i < COUNT; i++) {
        bool put = random_below(&me->random, 4) > 0;
        ops[i] = (kv_op){.kind = put ? KV_OP_PUT : KV_OP_DELETE,
                         .key = number_key(keys[i], "t", me->id,
                                           (unsigned)random_below(&me->random, 1000))};
        if (put)
            ops[i].value = bytes_of(keys, random_below(&me->random, sizeof keys));
    }
    CHECK_OK(kv_write(db, ops, COUNT, 0, NULL, &err), &err);
    for (unsigned i = 0; i < COUNT; i++) {
        if (ops[i].kind == KV_OP_PUT)
            model_put(t->models[me->id], ops[i].key, ops[i].value);
        else
            model_delete(t->models[me->id], ops[i].key);
    }
}

/* My keys are what I made them, in a snapshot too, whatever others do. */
static void mixed_look(mixed *t, worker *me, kv_db *db) {
    enum { COUNT = 60 };
    kv_bytes keys[COUNT];
    char texts[COUNT][32];
    kv_values values;
    kv_error err;
    kv_snapshot *s;
    for (unsigned i = 0; i < COUNT; i++)
        keys[i] = number_key(texts[i], "t", me->id, (unsigned)random_below(&me->random, 1000));
    CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
    CHECK_OK(kv_get_many(db, keys, COUNT, &values, &err), &err);
    for (unsigned i = 0; i < COUNT; i++) {
        const kv_bytes *wanted = model_get(t->models[me->id], keys[i]);
        kv_value value;
        kv_status status = kv_snapshot_get(s, keys[i], 0, &value, &err);
        CHECK_EQ(status, wanted != NULL ? KV_OK : KV_NOTFOUND);
        CHECK_EQ(values.items[i].data != NULL, wanted != NULL);
        if (wanted == NULL)
            continue;
        CHECK_EQ(value.size, wanted->size);
        CHECK_EQ(values.items[i].size, wanted->size);
        CHECK_MEM(value.data, wanted->data, wanted->size);
        CHECK_MEM(values.items[i].data, wanted->data, wanted->size);
        kv_value_release(&value);
    }
    kv_values_release(&values);
    if (random_below(&me->random, 20) == 0) {
        uint64_t walked, counted;
        snapshot_digest(s, &walked);
        CHECK_OK(kv_snapshot_count(s, &counted, &err), &err);
        CHECK_EQ(walked, counted);
    }
    kv_snapshot_destroy(s);
}

static void mixed_one(mixed *t, worker *me, kv_db *db, model *m) {
    char text[32];
    kv_bytes key = number_key(text, "t", me->id, (unsigned)random_below(&me->random, 1000));
    kv_bytes value = bytes_of(&t->models, random_below(&me->random, sizeof t->models));
    const kv_bytes *old = model_get(m, key);
    kv_value given;
    kv_error err;
    int64_t result;
    kv_status status;
    switch (random_below(&me->random, 8)) {
    case 0:
        status = kv_delete(db, key, 0, &err);
        CHECK_EQ(status, model_delete(m, key) ? KV_OK : KV_NOTFOUND);
        break;
    case 1:
        status = kv_pop(db, key, 0, &given, &err);
        CHECK_EQ(status, old != NULL ? KV_OK : KV_NOTFOUND);
        if (status == KV_OK) {
            CHECK_EQ(given.size, old->size);
            kv_value_release(&given);
            model_delete(m, key);
        }
        break;
    case 2:
        status = kv_put_absent(db, key, value, 0, NULL, &err);
        CHECK_EQ(status, old == NULL ? KV_OK : KV_UNCHANGED);
        if (old == NULL)
            model_put(m, key, value);
        break;
    case 3:
        if (old == NULL)
            break;
        CHECK_OK(kv_replace(db, key, value, *old, 0, &err), &err);
        model_put(m, key, value);
        break;
    case 4:
        CHECK_OK(kv_incr(db, LITERAL("shared counter"), 1, 0, &result, &err), &err);
        CHECK(result > 0);
        atomic_fetch_add(&t->increments, 1);
        break;
    default:
        CHECK_OK(kv_put(db, key, value, 0, &err), &err);
        model_put(m, key, value);
        status = kv_get(db, key, 0, &given, &err);
        CHECK_EQ(status, KV_OK);
        CHECK_EQ(given.size, value.size);
        kv_value_release(&given);
    }
}

static void mixed_run(worker *me) {
    mixed *t = me->shared;
    for (unsigned i = 0; i < 1500 / SLOWER; i++) {
        kv_db *db = t->second != NULL && random_below(&me->random, 2) ? t->second : t->w->db;
        uint64_t what = random_below(&me->random, 20);
        if (what == 0)
            mixed_batch(t, me, db);
        else if (what == 1)
            mixed_look(t, me, db);
        else
            mixed_one(t, me, db, t->models[me->id]);
    }
}

static void add_to(void *arg, kv_bytes key, kv_bytes value) {
    model_put(arg, key, value);
}

static void test_mixed_operations(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++) {
        mixed t = {.w = world_of(kind)};
        crew crew = {0};
        kv_error err;
        char text[24];
        if (kind != MEMORY)
            CHECK_OK(kv_open(WORLD_DIR, &t.w->options, &t.second, &err), &err);
        for (unsigned i = 0; i < 8; i++)
            t.models[i] = model_create();
        for (unsigned i = 0; i < 8; i++)
            crew_add(&crew, mixed_run, &t);
        crew_join(&crew);
        model *all = model_create();
        for (unsigned i = 0; i < 8; i++) {
            model_visit(t.models[i], add_to, all);
            model_destroy(t.models[i]);
        }
        int size = snprintf(text, sizeof text, "%d", (int)t.increments);
        model_put(all, LITERAL("shared counter"), bytes_of(text, (size_t)size));
        kv_destroy(t.second);
        model_check(all, t.w->db);
        kv_stats stats;
        CHECK_OK(kv_get_stats(t.w->db, 0, &stats, &err), &err);
        CHECK_EQ(stats.data_bytes, model_data_bytes(all));
        if (kind != MEMORY) {
            world_close(t.w);
            world_open(t.w);
            model_check(all, t.w->db);
        }
        model_destroy(all);
        world_destroy(t.w);
    }
}

/* ---- Batches are seen whole ---------------------------------------------------------------------------- */

/* Each batch gives all keys of a group, which lie in many shards, one value; now and then everything is
 * cleared.  So a group is seen with one value, or not at all. */
enum { GROUPS = 6, MEMBERS = 24 };

typedef struct groups {
    world *w;
    kv_bytes keys[GROUPS][MEMBERS];
    char texts[GROUPS][MEMBERS][32];
    _Atomic bool done;
    bool clear;
} groups;

static void groups_init(groups *t) {
    for (unsigned g = 0; g < GROUPS; g++)
        for (unsigned i = 0; i < MEMBERS; i++)
            t->keys[g][i] = number_key(t->texts[g][i], "g", g, i);
}

static void groups_write(worker *me) {
    groups *t = me->shared;
    kv_error err;
    for (unsigned i = 0; i < 400 / SLOWER; i++) {
        kv_op ops[MEMBERS];
        uint64_t value[40] = {me->id, i}; /* 320 bytes */
        unsigned g = (unsigned)random_below(&me->random, GROUPS);
        for (unsigned k = 0; k < MEMBERS; k++)
            ops[k] = (kv_op){KV_OP_PUT, t->keys[g][k], bytes_of(value, sizeof value)};
        if (t->clear && random_below(&me->random, 30) == 0)
            CHECK_OK(kv_clear(t->w->db, 0, &err), &err);
        else if (random_below(&me->random, 10) == 0) {
            for (unsigned k = 0; k < MEMBERS; k++)
                ops[k].kind = KV_OP_DELETE;
            CHECK_OK(kv_write(t->w->db, ops, MEMBERS, 0, NULL, &err), &err);
        } else {
            CHECK_OK(kv_write(t->w->db, ops, MEMBERS, 0, NULL, &err), &err);
        }
    }
}

/* The members, in an order of their own so that reads go through the shards to and fro. */
static void check_group(const uint8_t *const *data, const char *how) {
    for (unsigned k = 1; k < MEMBERS; k++) {
        if ((data[k] == NULL) != (data[0] == NULL))
            FAIL("%s: a part of a batch", how);
        if (data[0] != NULL && memcmp(data[k], data[0], 16) != 0)
            FAIL("%s: parts of two batches", how);
    }
}

static void groups_look(worker *me) {
    groups *t = me->shared;
    kv_error err;
    do {
        unsigned g = (unsigned)random_below(&me->random, GROUPS);
        const uint8_t *data[MEMBERS];
        kv_values values;
        kv_snapshot *s;
        CHECK_OK(kv_get_many(t->w->db, t->keys[g], MEMBERS, &values, &err), &err);
        for (unsigned k = 0; k < MEMBERS; k++)
            data[k] = values.items[k].data;
        check_group(data, "get_many");
        kv_values_release(&values);

        CHECK_OK(kv_snapshot_create(t->w->db, &s, &err), &err);
        kv_value found[MEMBERS];
        for (unsigned k = 0; k < MEMBERS; k++) {
            kv_status status = kv_snapshot_get(s, t->keys[g][k], 0, &found[k], &err);
            CHECK(status >= 0);
            data[k] = status == KV_OK ? found[k].data : NULL;
        }
        check_group(data, "snapshot");
        for (unsigned k = 0; k < MEMBERS; k++)
            if (data[k] != NULL)
                kv_value_release(&found[k]);

        uint64_t count, counted;
        snapshot_digest(s, &count);
        CHECK_EQ(count % MEMBERS, 0);
        CHECK_OK(kv_snapshot_count(s, &counted, &err), &err);
        CHECK_EQ(counted, count);
        kv_snapshot_destroy(s);
        CHECK_OK(kv_count(t->w->db, 0, &count, &err), &err);
        CHECK(count <= GROUPS * MEMBERS);
    } while (!atomic_load(&t->done));
}

static void groups_test(kind kind, bool clear) {
    groups t = {.w = world_of(kind), .clear = clear};
    crew writers = {0}, readers = {0};
    groups_init(&t);
    for (unsigned i = 0; i < 3; i++)
        crew_add(&readers, groups_look, &t);
    for (unsigned i = 0; i < 5; i++)
        crew_add(&writers, groups_write, &t);
    crew_join(&writers);
    atomic_store(&t.done, true);
    crew_join(&readers);
    if (kind != MEMORY) {
        uint64_t state = store_digest(t.w->db);
        world_close(t.w);
        world_open(t.w);
        CHECK_EQ(store_digest(t.w->db), state);
    }
    world_destroy(t.w);
}

static void test_batches_are_seen_whole(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++)
        groups_test(kind, false);
}

static void test_clear_is_seen_whole(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++)
        groups_test(kind, true);
}

/* ---- One key for all --------------------------------------------------------------------------------------- */

enum { INCREMENTS = 1000 / SLOWER };

typedef struct counter {
    world *w;
    _Atomic uint8_t given[8 * INCREMENTS + 1];
} counter;

static void counter_run(worker *me) {
    counter *t = me->shared;
    kv_error err;
    for (unsigned i = 0; i < INCREMENTS; i++) {
        int64_t result;
        CHECK_OK(kv_incr(t->w->db, A, 1, 0, &result, &err), &err);
        CHECK(result >= 1 && result <= 8 * INCREMENTS);
        CHECK_EQ(atomic_fetch_add(&t->given[result], 1), 0); /* nobody else got it */
    }
}

static void test_increments(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++) {
        counter t = {.w = world_of(kind)};
        crew crew = {0};
        for (unsigned i = 0; i < 8; i++)
            crew_add(&crew, counter_run, &t);
        crew_join(&crew);
        for (unsigned i = 1; i <= 8 * INCREMENTS; i++)
            CHECK_EQ(t.given[i], 1);
        world_destroy(t.w);
    }
}

enum { TURNS = 200000 / SLOWER };

typedef struct turns {
    world *w;
    _Atomic unsigned taken;
} turns;

/* One puts the key, the other deletes it, in turns. */
static void turns_run(worker *me) {
    turns *t = me->shared;
    kv_error err;
    for (unsigned taken; (taken = atomic_load(&t->taken)) < TURNS;) {
        if (taken % 2 != me->id) {
            sched_yield();
            continue;
        }
        kv_status status = taken % 2 == 0 ? kv_put(t->w->db, A, B, 0, &err)
                                          : kv_delete(t->w->db, A, 0, &err);
        CHECK_OK(status, &err);
        atomic_store(&t->taken, taken + 1);
    }
}

/* Threads count in places of their own, but never is there more than the one key. */
static void test_count_is_of_one_moment(void) {
    turns t = {.w = world_of(MEMORY)};
    crew crew = {0};
    crew_add(&crew, turns_run, &t);
    crew_add(&crew, turns_run, &t);
    while (atomic_load(&t.taken) < TURNS) {
        uint64_t count;
        CHECK_OK(kv_count(t.w->db, 0, &count, &t.w->err), &t.w->err);
        CHECK(count <= 1);
    }
    crew_join(&crew);
    world_destroy(t.w);
}

typedef struct moves {
    world *w;
    _Atomic bool done;
} moves;

/* There is one key, under one name or the other. */
static void move_to_and_fro(worker *me) {
    moves *t = me->shared;
    kv_error err;
    for (unsigned i = 0; !atomic_load(&t->done); i++) {
        const kv_op ops[] = {{KV_OP_DELETE, i % 2 == 0 ? A : B}, {KV_OP_PUT, i % 2 == 0 ? B : A, A}};
        CHECK_OK(kv_write(t->w->db, ops, 2, 0, NULL, &err), &err);
    }
}

/* While expired keys wait to be swept away, all shards are looked at: at one moment, too. */
static void test_count_is_of_one_moment_while_keys_expire(void) {
    enum { EXPIRING = 4000 / SLOWER, START = 1000000 };
    for (unsigned kind = 0; kind < 3; kind++) {
        moves t = {.w = world_of(kind == 0 ? MEMORY : NEVER)};
        crew crew = {0};
        kv_error *err = &t.w->err;
        kv_db *db;
        CHECK_OK(kv_dup(t.w->db, kind == 2, &db, err), err);
        world_set_clock(t.w, START);
        for (unsigned i = 0; i < EXPIRING; i++)
            CHECK_OK(kv_put_expiring(t.w->db, bytes_of(&i, sizeof i), A, START + 1 + i, 0, err), err);
        CHECK_OK(kv_put(t.w->db, A, A, 0, err), err);
        crew_add(&crew, move_to_and_fro, &t);
        for (unsigned i = 1; i < EXPIRING; i++) {
            uint64_t count;
            world_set_clock(t.w, START + i);
            CHECK_OK(kv_count(db, 0, &count, err), err);
            CHECK_EQ(count, EXPIRING - i + 1);
        }
        atomic_store(&t.done, true);
        crew_join(&crew);
        kv_destroy(db);
        world_destroy(t.w);
    }
}

typedef struct queue {
    world *w;
    _Atomic unsigned put, popped;
    _Atomic bool done;
    _Atomic uint8_t seen[20000];
} queue;

static void queue_put(worker *me) {
    queue *t = me->shared;
    kv_error err;
    for (unsigned i = 0; i < 1000 / SLOWER; i++) {
        unsigned number = atomic_fetch_add(&t->put, 1);
        CHECK_OK(kv_put(t->w->db, bytes_of(&number, sizeof number), A, 0, &err), &err);
    }
    (void)me;
}

static void queue_pop(worker *me) {
    queue *t = me->shared;
    kv_error err;
    for (;;) {
        kv_item item;
        unsigned number;
        bool done = atomic_load(&t->done);
        kv_status status = kv_pop_any(t->w->db, 0, &item, &err);
        if (status == KV_NOTFOUND && done)
            return;
        if (status == KV_NOTFOUND)
            continue;
        CHECK_OK(status, &err);
        memcpy(&number, item.key.data, sizeof number);
        CHECK_EQ(atomic_fetch_add(&t->seen[number], 1), 0);
        atomic_fetch_add(&t->popped, 1);
        kv_item_release(&item);
    }
}

static void test_pop_any_gives_each_once(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++) {
        queue t = {.w = world_of(kind)};
        crew putters = {0}, poppers = {0};
        for (unsigned i = 0; i < 3; i++) {
            crew_add(&putters, queue_put, &t);
            crew_add(&poppers, queue_pop, &t);
        }
        crew_join(&putters);
        atomic_store(&t.done, true);
        crew_join(&poppers);
        CHECK_EQ(t.popped, t.put);
        world_destroy(t.w);
    }
}

/* ---- Growing --------------------------------------------------------------------------------------------- */

/* A table that splits and grows under those who read it, with arrays far beyond a shard's usual size,
 * because a clear that somebody may look behind keeps the shards from splitting. */
typedef struct growth {
    world *w;
    _Atomic bool done;
    unsigned keys;
} growth;

static void growth_put(worker *me) {
    growth *t = me->shared;
    kv_error err;
    for (unsigned i = me->id; i < t->keys; i += 2)
        CHECK_OK(kv_put(t->w->db, bytes_of(&i, sizeof i), bytes_of(&i, sizeof i), 0, &err), &err);
}

static void growth_look(worker *me) {
    growth *t = me->shared;
    kv_error err;
    enum { COUNT = 64 };
    unsigned numbers[COUNT];
    kv_bytes keys[COUNT];
    while (!atomic_load(&t->done)) {
        kv_values values;
        for (unsigned i = 0; i < COUNT; i++) {
            numbers[i] = (unsigned)random_below(&me->random, t->keys);
            keys[i] = bytes_of(&numbers[i], sizeof numbers[i]);
        }
        CHECK_OK(kv_get_many(t->w->db, keys, COUNT, &values, &err), &err);
        for (unsigned i = 0; i < COUNT; i++)
            if (values.items[i].size == sizeof(unsigned)) /* not one of the first */
                CHECK_MEM(values.items[i].data, &numbers[i], sizeof(unsigned));
        kv_values_release(&values);
    }
}

static void growth_test(bool behind_a_clear) {
    growth t = {.w = world_of(MEMORY), .keys = 100000 / SLOWER};
    crew writers = {0}, readers = {0};
    kv_error err;
    kv_snapshot *s;
    model *then = model_create();
    for (unsigned i = 0; i < 2000; i++) {
        CHECK_OK(kv_put(t.w->db, bytes_of(&i, sizeof i), A, 0, &err), &err);
        model_put(then, bytes_of(&i, sizeof i), A);
    }
    CHECK_OK(kv_snapshot_create(t.w->db, &s, &err), &err);
    if (behind_a_clear)
        CHECK_OK(kv_clear(t.w->db, 0, &err), &err);
    for (unsigned i = 0; i < 3; i++)
        crew_add(&readers, growth_look, &t);
    for (unsigned i = 0; i < 2; i++)
        crew_add(&writers, growth_put, &t);
    crew_join(&writers);
    uint64_t count;
    CHECK_EQ(snapshot_digest(s, &count), model_digest(then));
    kv_snapshot_destroy(s); /* the old arrays go, and the next puts split what has grown */
    for (unsigned i = 0; i < 2; i++)
        crew_add(&writers, growth_put, &t);
    crew_join(&writers);
    atomic_store(&t.done, true);
    crew_join(&readers);
    CHECK_OK(kv_count(t.w->db, 0, &count, &err), &err);
    CHECK_EQ(count, t.keys);
    model_destroy(then);
    world_destroy(t.w);
}

static void test_growth_under_readers(void) {
    growth_test(true);
    growth_test(false);
}

/* ---- Closing ----------------------------------------------------------------------------------------------- */

typedef struct closing {
    world *w;
    kv_db *db;
    _Atomic unsigned calls, ready;
    _Atomic uint64_t acknowledged[8];
} closing;

static void closing_run(worker *me) {
    closing *t = me->shared;
    kv_error err;
    kv_snapshot *s = NULL;
    atomic_fetch_add(&t->ready, 1);
    for (uint64_t i = 1;; i++) {
        kv_bytes key = bytes_of(&me->id, sizeof me->id), value = bytes_of(&i, sizeof i);
        kv_value got;
        kv_values values;
        kv_status status = kv_put(t->db, key, value, 0, &err);
        if (status == KV_OK) {
            atomic_store(&t->acknowledged[me->id], i);
            status = kv_get(t->db, key, KV_PIN, &got, &err);
            if (status == KV_OK) {
                CHECK_MEM(got.data, &i, sizeof i);
                kv_value_release(&got);
            }
        }
        if (status == KV_OK) {
            kv_snapshot_destroy(s);
            s = NULL;
            status = kv_snapshot_create(t->db, &s, &err);
        }
        if (status == KV_OK && i % 8 == 0) {
            status = kv_get_many(t->db, &key, 1, &values, &err);
            kv_values_release(&values);
        }
        atomic_fetch_add(&t->calls, 1);
        if (status != KV_OK) {
            CHECK_STATUS(status, KV_ERR_CLOSED, &err);
            kv_snapshot_destroy(s);
            return;
        }
    }
}

static void closing_close(worker *me) {
    closing *t = me->shared;
    kv_error err;
    while (atomic_load(&t->calls) < 40 + random_below(&me->random, 40))
        sched_yield();
    CHECK_OK(kv_close(t->db, &err), &err);
}

static void test_close_under_load(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++)
        for (int round = 0; round < 12; round++) {
            closing t = {.w = world_of(kind)};
            crew crew = {0};
            kv_error err;
            kv_db *second = NULL;
            t.db = t.w->db;
            if (kind != MEMORY && round % 2) /* the store lives on */
                CHECK_OK(kv_open(WORLD_DIR, &t.w->options, &second, &err), &err);
            for (unsigned i = 0; i < 6; i++)
                crew_add(&crew, closing_run, &t);
            crew_add(&crew, closing_close, &t);
            crew_add(&crew, closing_close, &t);
            crew_join(&crew);
            kv_destroy(t.db);
            t.w->db = second;
            if (kind != MEMORY && second == NULL)
                world_open(t.w);
            for (unsigned i = 0; i < 6 && kind != MEMORY; i++) {
                kv_value value;
                uint64_t acknowledged = t.acknowledged[i];
                if (acknowledged == 0)
                    continue;
                CHECK_OK(kv_get(t.w->db, bytes_of(&i, sizeof i), 0, &value, &err), &err);
                CHECK_MEM(value.data, &acknowledged, sizeof acknowledged);
                kv_value_release(&value);
            }
            world_destroy(t.w);
        }
}

/* A snapshot's end and its handle's, at the same time. */
typedef struct ending {
    kv_snapshot *s[4];
    _Atomic unsigned ready;
    _Atomic bool go;
} ending;

static void ending_run(worker *me) {
    ending *t = me->shared;
    atomic_fetch_add(&t->ready, 1);
    while (!atomic_load(&t->go))
        ;
    kv_snapshot_destroy(t->s[me->id]);
}

static void test_snapshot_ends_while_closing(void) {
    for (unsigned round = 0; round < 300 / SLOWER; round++) {
        ending t = {.go = false};
        crew crew = {0};
        kv_error err;
        kv_db *db;
        CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
        for (unsigned i = 0; i < 4; i++)
            CHECK_OK(kv_snapshot_create(db, &t.s[i], &err), &err);
        for (unsigned i = 0; i < 4; i++)
            crew_add(&crew, ending_run, &t);
        while (atomic_load(&t.ready) < 4)
            ;
        atomic_store(&t.go, true);
        CHECK_OK(kv_close(db, &err), &err);
        crew_join(&crew);
        kv_destroy(db);
    }
}

/* Handles come and go, the last of a store too, and the next opens it again. */
static void handles_run(worker *me) {
    world *w = me->shared;
    kv_error err;
    for (unsigned i = 0; i < 40 / SLOWER; i++) {
        kv_db *db;
        kv_bytes key = bytes_of(&me->id, sizeof me->id);
        kv_value value;
        CHECK_OK(kv_open(WORLD_DIR, &w->options, &db, &err), &err);
        kv_status status = kv_get(db, key, 0, &value, &err);
        CHECK_EQ(status, i == 0 ? KV_NOTFOUND : KV_OK);
        if (status == KV_OK) {
            unsigned before = i - 1;
            CHECK_MEM(value.data, &before, sizeof before);
            kv_value_release(&value);
        }
        CHECK_OK(kv_put(db, key, bytes_of(&i, sizeof i), 0, &err), &err);
        CHECK_OK(kv_close(db, &err), &err);
        kv_destroy(db);
    }
}

static void test_handles_come_and_go(void) {
    world *w = world_create();
    crew crew = {0};
    for (unsigned i = 0; i < 6; i++)
        crew_add(&crew, handles_run, w);
    crew_join(&crew);
    world_open(w);
    uint64_t count;
    CHECK_OK(kv_count(w->db, 0, &count, &w->err), &w->err);
    CHECK_EQ(count, 6);
    world_destroy(w);
}

/* ---- Nothing is seen before it is on disk ------------------------------------------------------------------- */

typedef struct gated {
    world *w;
    kv_status status;      /* of the second one */
    _Atomic bool returned; /* the second one has */
    void (*second)(struct gated *t);
    kv_error err, second_err;
} gated;

static void gated_put(worker *me) {
    gated *t = me->shared;
    const kv_op ops[] = {{KV_OP_PUT, A, LITERAL("new")}, {KV_OP_PUT, B, LITERAL("new")}};
    CHECK_OK(kv_write(t->w->db, ops, 2, 0, NULL, &t->err), &t->err);
}

static void check_value_is(kv_status status, kv_value *value, const char *wanted) {
    CHECK_EQ(status, KV_OK);
    CHECK_EQ(value->size, strlen(wanted));
    CHECK_MEM(value->data, wanted, value->size);
    kv_value_release(value);
}

/* By every way of reading. */
static void check_all_see(kv_db *db, const char *wanted, bool has_b) {
    kv_error err;
    kv_value value;
    kv_values values;
    kv_snapshot *s;
    uint64_t count;
    check_value_is(kv_get(db, A, 0, &value, &err), &value, wanted);
    check_value_is(kv_get(db, A, KV_NOWAIT | KV_PIN, &value, &err), &value, wanted);
    CHECK_EQ(kv_contains(db, B, 0, &err), has_b ? KV_OK : KV_NOTFOUND);
    const kv_bytes keys[] = {A, B};
    CHECK_OK(kv_get_many(db, keys, 2, &values, &err), &err);
    CHECK_MEM(values.items[0].data, wanted, 3);
    CHECK_EQ(values.items[1].data != NULL, has_b);
    kv_values_release(&values);
    CHECK_OK(kv_count(db, 0, &count, &err), &err);
    CHECK_EQ(count, has_b ? 2 : 1);
    CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
    check_value_is(kv_snapshot_get(s, A, 0, &value, &err), &value, wanted);
    CHECK_OK(kv_snapshot_count(s, &count, &err), &err);
    CHECK_EQ(count, has_b ? 2 : 1);
    snapshot_digest(s, &count);
    CHECK_EQ(count, has_b ? 2 : 1);
    kv_snapshot_destroy(s);
}

static void second_run(worker *me) {
    gated *t = me->shared;
    t->second(t);
    atomic_store(&t->returned, true);
}

/* Answers that tell what the first one wrote. */
static void tells_absent(gated *t) {
    kv_value value = {0};
    CHECK_STATUS(kv_put_absent(t->w->db, B, A, 0, &value, &t->second_err), KV_UNCHANGED, NULL);
    check_value_is(KV_OK, &value, "new");
}

static void tells_replace(gated *t) {
    CHECK_STATUS(kv_replace(t->w->db, A, B, LITERAL("old"), 0, &t->second_err), KV_UNCHANGED, NULL);
}

static void tells_incr(gated *t) {
    int64_t result;
    CHECK_STATUS(kv_incr(t->w->db, B, 1, 0, &result, &t->second_err), KV_ERR_NOTINT, NULL);
}

static void tells_durable(gated *t) {
    CHECK_OK(kv_make_durable(t->w->db, &t->second_err), NULL);
}

static void test_reader_during_a_sync(void) {
    static void (*const seconds[])(gated *) = {tells_absent, tells_replace, tells_incr,
                                               tells_durable};
    for (size_t i = 0; i < sizeof seconds / sizeof seconds[0]; i++) {
        gated t = {.w = world_create(), .second = seconds[i]};
        crew crew = {0};
        t.w->options.segment_size_min = t.w->options.segment_size_max = 1 << 20;
        world_open(t.w);
        CHECK_OK(kv_put(t.w->db, A, LITERAL("old"), 0, &t.err), &t.err);
        fault_os_gate_close(t.w->faults, FAULT_SYNC);
        crew_add(&crew, gated_put, &t);
        fault_os_gate_wait(t.w->faults, FAULT_SYNC, 1);
        check_all_see(t.w->db, "old", false);
        crew_add(&crew, second_run, &t);
        usleep(20000); /* time to go wrong */
        check_all_see(t.w->db, "old", false);
        CHECK(!atomic_load(&t.returned));
        fault_os_gate_open(t.w->faults, FAULT_SYNC);
        crew_join(&crew);
        check_all_see(t.w->db, "new", true);
        world_destroy(t.w);
    }
}

/* In the other modes what is written is visible, synced or not; not before it is written. */
static void test_reader_during_a_write(void) {
    gated t = {.w = world_create()};
    crew crew = {0};
    t.w->options.sync = KV_SYNC_NEVER;
    t.w->options.segment_size_min = t.w->options.segment_size_max = 1 << 20;
    world_open(t.w);
    CHECK_OK(kv_put(t.w->db, A, LITERAL("old"), 0, &t.err), &t.err);
    fault_os_gate_close(t.w->faults, FAULT_WRITE);
    crew_add(&crew, gated_put, &t);
    fault_os_gate_wait(t.w->faults, FAULT_WRITE, 1);
    check_all_see(t.w->db, "old", false);
    fault_os_gate_open(t.w->faults, FAULT_WRITE);
    crew_join(&crew);
    check_all_see(t.w->db, "new", true);
    world_destroy(t.w);
}

/* ---- What is undone was never there ---------------------------------------------------------------------------- */

/* The first one's write finds no space, while the second decides on what the first has changed.
 * The second may not answer by what then was not so. */
static void first_delete(worker *me) {
    gated *t = me->shared;
    CHECK_STATUS(kv_delete(t->w->db, A, 0, &t->err), KV_ERR_NOSPACE, &t->err);
}

static void first_put(worker *me) {
    gated *t = me->shared;
    CHECK_STATUS(kv_put(t->w->db, B, LITERAL("lost"), 0, &t->err), KV_ERR_NOSPACE, &t->err);
}

/* With the gate at the writes, and one of them to fail: `first`, then, while it stands there, `second`. */
static void undone(void (*first)(worker *me), void (*second)(gated *t)) {
    gated t = {.w = world_create(), .second = second};
    crew crew = {0};
    t.w->options.segment_size_min = t.w->options.segment_size_max = 1 << 20;
    world_open(t.w);
    CHECK_OK(kv_put(t.w->db, A, LITERAL("old"), 0, &t.err), &t.err);
    fault_os_fail(t.w->faults, FAULT_WRITE, 1, ENOSPC, 0);
    fault_os_gate_close(t.w->faults, FAULT_WRITE);
    crew_add(&crew, first, &t);
    fault_os_gate_wait(t.w->faults, FAULT_WRITE, 1);
    crew_add(&crew, second_run, &t);
    usleep(20000); /* for the second to come to where it waits */
    fault_os_gate_open(t.w->faults, FAULT_WRITE);
    crew_join(&crew);
    world_destroy(t.w);
}

static void second_clear(gated *t) {
    uint64_t count;
    kv_status status = kv_clear(t->w->db, 0, &t->second_err);
    CHECK_OK(kv_count(t->w->db, 0, &count, &t->second_err), &t->second_err);
    CHECK(status == KV_OK ? count == 0 : count == 1);
}

static void second_pop_any(gated *t) {
    kv_item item;
    kv_status status = kv_pop_any(t->w->db, 0, &item, &t->second_err);
    CHECK(status == KV_OK || status == KV_ERR_NOSPACE); /* not: there is nothing */
    if (status == KV_OK)
        kv_item_release(&item);
}

static void second_delete(gated *t) {
    kv_status status = kv_delete(t->w->db, A, 0, &t->second_err);
    CHECK(status == KV_OK || status == KV_ERR_NOSPACE);
    CHECK_EQ(kv_contains(t->w->db, A, 0, &t->second_err), status == KV_OK ? KV_NOTFOUND : KV_OK);
}

static void second_delete_many(gated *t) {
    const kv_op op = {.kind = KV_OP_DELETE, .key = A};
    uint64_t deleted = 9;
    kv_status status = kv_write(t->w->db, &op, 1, 0, &deleted, &t->second_err);
    CHECK(status == KV_OK ? deleted == 1 : status == KV_ERR_NOSPACE);
}

static void second_put_absent(gated *t) {
    kv_value value = {0};
    kv_status status = kv_put_absent(t->w->db, B, LITERAL("mine"), KV_PIN, &value, &t->second_err);
    CHECK(status == KV_OK || status == KV_ERR_NOSPACE); /* not: it is there */
    CHECK(value.pin == NULL);
}

static void second_pop(gated *t) {
    kv_value value = {0};
    kv_status status = kv_pop(t->w->db, B, KV_PIN, &value, &t->second_err);
    CHECK(status == KV_NOTFOUND || status == KV_ERR_NOSPACE);
    CHECK(value.pin == NULL);
}

static void second_replace(gated *t) {
    kv_status status = kv_replace(t->w->db, B, LITERAL("mine"), LITERAL("lost"), 0, &t->second_err);
    CHECK(status == KV_UNCHANGED || status == KV_ERR_NOSPACE);
}

static void second_incr(gated *t) {
    int64_t result;
    kv_status status = kv_incr(t->w->db, B, 1, 0, &result, &t->second_err);
    CHECK(status == KV_OK || status == KV_ERR_NOSPACE); /* not: it is no integer */
}

static void test_undone_delete(void) {
    undone(first_delete, second_clear);
    undone(first_delete, second_pop_any);
    undone(first_delete, second_delete);
    undone(first_delete, second_delete_many);
}

static void test_undone_put(void) {
    undone(first_put, second_put_absent);
    undone(first_put, second_pop);
    undone(first_put, second_replace);
    undone(first_put, second_incr);
}

/* The space, or the descriptors, run out now and then.  Each value is written once, and tells by whom and when: what
 * a reader has seen must have been acknowledged in the end. */
enum { WRITERS = 5, WRITES = 600 / SLOWER };

typedef struct rollbacks {
    world *w;
    _Atomic bool done;
    bool acknowledged[WRITERS][WRITES + 1]; /* the writer's own */
    _Atomic bool seen[WRITERS][WRITES + 1];
    uint64_t last[WRITERS];
    _Atomic unsigned failures;
    kv_status refusal; /* what those are told whose write is undone */
} rollbacks;

typedef struct stamp {
    uint32_t writer, number;
    uint8_t more[400];
} stamp;

static void rollbacks_write(worker *me) {
    rollbacks *t = me->shared;
    kv_error err;
    char texts[4][32];
    for (unsigned i = 1; i <= WRITES; i++) {
        stamp s = {.writer = me->id, .number = i};
        kv_bytes value = bytes_of(&s, sizeof s);
        kv_op ops[4];
        for (unsigned k = 0; k < 4; k++)
            ops[k] = (kv_op){KV_OP_PUT, number_key(texts[k], "r", me->id, k), value};
        kv_status status = i % 3 == 0 ? kv_put(t->w->db, LITERAL("everybody's"), value, 0, &err)
                                      : kv_write(t->w->db, ops, 4, 0, NULL, &err);
        if (status != KV_OK) {
            CHECK_STATUS(status, t->refusal, &err);
            atomic_fetch_add(&t->failures, 1);
        } else {
            t->acknowledged[me->id][i] = true;
            if (i % 3 != 0)
                t->last[me->id] = i;
        }
    }
}

static void rollbacks_see(rollbacks *t, const uint8_t *data, size_t size) {
    stamp s;
    CHECK_EQ(size, sizeof s);
    memcpy(&s, data, sizeof s);
    CHECK(s.writer < WRITERS && s.number >= 1 && s.number <= WRITES);
    atomic_store_explicit(&t->seen[s.writer][s.number], true, memory_order_relaxed);
}

static void rollbacks_read(worker *me) {
    rollbacks *t = me->shared;
    kv_error err;
    while (!atomic_load(&t->done)) {
        char texts[5][32];
        kv_bytes keys[5];
        kv_values values;
        kv_value value;
        unsigned writer = (unsigned)random_below(&me->random, WRITERS);
        for (unsigned k = 0; k < 4; k++)
            keys[k] = number_key(texts[k], "r", writer, k);
        CHECK_OK(kv_get_many(t->w->db, keys, 4, &values, &err), &err);
        for (unsigned k = 0; k < 4; k++) {
            CHECK_EQ(values.items[k].data != NULL, values.items[0].data != NULL);
            if (values.items[k].data == NULL)
                continue;
            CHECK_MEM(values.items[k].data, values.items[0].data, 8);
            rollbacks_see(t, values.items[k].data, values.items[k].size);
        }
        kv_values_release(&values);
        kv_status status = kv_get(t->w->db, LITERAL("everybody's"), 0, &value, &err);
        CHECK(status >= 0);
        if (status == KV_OK) {
            rollbacks_see(t, value.data, value.size);
            kv_value_release(&value);
        }
        kv_snapshot *s;
        const kv_item *items;
        kv_cursor *cursor;
        size_t count;
        CHECK_OK(kv_snapshot_create(t->w->db, &s, &err), &err);
        CHECK_OK(kv_cursor_create(s, &cursor, &err), &err);
        while (kv_cursor_next(cursor, &items, &count, &err) == KV_OK)
            for (size_t i = 0; i < count; i++)
                rollbacks_see(t, items[i].value.data, items[i].value.size);
        kv_cursor_destroy(cursor);
        kv_snapshot_destroy(s);
    }
}

static void fail_a_write(rollbacks *t, check_random *random) {
    fault_os_fail(t->w->faults, FAULT_WRITE, 8 + random_below(random, 12), ENOSPC, 0);
}

/* The first one was armed before the writers began. */
static void rollbacks_fail(worker *me) {
    rollbacks *t = me->shared;
    kv_error err;
    uint64_t seen = 0;
    while (!atomic_load(&t->done)) {
        if (fault_os_failures(t->w->faults) > seen) { /* the last one has fired */
            seen++;
            /* What a frame's first part has left is still to be taken back, and if that fails, so does the log, for
             * good.  This waits for whoever leads it now: */
            kv_status status = kv_make_durable(t->w->db, &err);
            CHECK(status == KV_OK || status == KV_ERR_NOSPACE);
            fail_a_write(t, &me->random);
        }
        usleep(200);
    }
}

static void fail_opens(rollbacks *t) {
    fault_os_fail(t->w->faults, FAULT_OPEN, 1, EMFILE, FAULT_FOREVER);
}

/* No file can be opened, until somebody has been refused for it: there is no next segment.  From before the writers
 * began. */
static void rollbacks_fail_opens(worker *me) {
    rollbacks *t = me->shared;
    for (unsigned seen = 0; !atomic_load(&t->done); seen = atomic_load(&t->failures)) {
        if (seen > 0)
            fail_opens(t);
        while (!atomic_load(&t->done) && atomic_load(&t->failures) == seen)
            usleep(200);
        fault_os_heal(t->w->faults);
        usleep(200);
    }
}

static void rollbacks_test(kv_sync sync, size_t limit, kv_status refusal) {
    rollbacks *t = calloc(1, sizeof *t);
    crew writers = {0}, others = {0};
    kv_error err;
    t->w = world_of((kind)(ALWAYS + (int)sync));
    t->refusal = refusal;
    fault_os_limit(t->w->faults, limit);
    check_random random = random_stream(THREADS_MAX);
    if (refusal == KV_ERR_NOSPACE)
        fail_a_write(t, &random);
    else
        fail_opens(t);
    crew_add(&others, refusal == KV_ERR_NOSPACE ? rollbacks_fail : rollbacks_fail_opens, t);
    for (unsigned i = 0; i < 2; i++)
        crew_add(&others, rollbacks_read, t);
    for (unsigned i = 0; i < WRITERS; i++)
        crew_add(&writers, rollbacks_write, t);
    crew_join(&writers);
    atomic_store(&t->done, true);
    crew_join(&others);
    fault_os_heal(t->w->faults);
    for (unsigned writer = 0; writer < WRITERS; writer++)
        for (unsigned i = 1; i <= WRITES; i++)
            if (t->seen[writer][i] && !t->acknowledged[writer][i])
                FAIL("write %u of writer %u was seen, but not acknowledged", i, writer);
    kv_stats stats;
    CHECK_OK(kv_get_stats(t->w->db, 0, &stats, &err), &err);
    CHECK(!stats.failed);
    CHECK(t->failures > 0);
    for (int again = 0; again < 2; again++) {
        for (unsigned writer = 0; writer < WRITERS; writer++) {
            char text[32];
            kv_value value;
            stamp s;
            kv_status status = kv_get(t->w->db, number_key(text, "r", writer, 1), 0, &value, &err);
            CHECK_EQ(status, t->last[writer] > 0 ? KV_OK : KV_NOTFOUND);
            if (status != KV_OK)
                continue;
            memcpy(&s, value.data, sizeof s);
            CHECK_EQ(s.writer, writer);
            CHECK_EQ(s.number, t->last[writer]);
            kv_value_release(&value);
        }
        if (again == 0) {
            world_close(t->w);
            fault_os_limit(t->w->faults, 0);
            world_open(t->w);
        }
    }
    world_destroy(t->w);
    free(t);
}

static void test_rollback_under_load(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync++)
        rollbacks_test((kv_sync)sync, 0, KV_ERR_NOSPACE);
    rollbacks_test(KV_SYNC_ALWAYS, 700, KV_ERR_NOSPACE);
}

static void test_no_descriptors_under_load(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync++)
        rollbacks_test((kv_sync)sync, 0, KV_ERR_IO);
}

/* A store that fails under load: everybody is told, readers go on, nobody hangs. */
static void failing_write(worker *me) {
    world *w = me->shared;
    kv_error err;
    for (unsigned i = 0;; i++) {
        kv_status status = kv_put(w->db, bytes_of(&me->id, sizeof me->id), bytes_of(&i, sizeof i), 0,
                                  &err);
        if (status != KV_OK) {
            CHECK_STATUS(status, KV_ERR_FAILED, &err);
            CHECK_EQ(err.sys_errno, EIO);
            return;
        }
    }
}

static void test_failure_under_load(void) {
    for (unsigned nth = 1; nth < 60; nth += 7) {
        world *w = world_create();
        crew crew = {0};
        w->options.segment_size_min = w->options.segment_size_max = 1 << 20;
        world_open(w);
        fault_os_fail(w->faults, nth % 2 ? FAULT_SYNC : FAULT_WRITE, nth, EIO, 0);
        for (unsigned i = 0; i < 6; i++)
            crew_add(&crew, failing_write, w);
        crew_join(&crew);
        kv_value value;
        kv_status status = kv_get(w->db, bytes_of(&(unsigned){0}, sizeof(unsigned)), 0, &value, &w->err);
        CHECK(status >= 0);
        if (status == KV_OK)
            kv_value_release(&value);
        CHECK_STATUS(world_try_close(w), KV_ERR_FAILED, &w->err);
        world_open(w);
        world_destroy(w);
    }
}

/* ---- Power cuts under load --------------------------------------------------------------------------------- */

typedef struct cuts {
    world *w;
    _Atomic uint64_t acknowledged[4], attempted[4];
    _Atomic unsigned done; /* writers */
} cuts;

static void cuts_write(worker *me) {
    cuts *t = me->shared;
    kv_error err;
    for (uint64_t i = 1; i <= 400 / SLOWER; i++) {
        kv_op ops[6];
        char texts[6][32];
        for (unsigned k = 0; k < 6; k++)
            ops[k] = (kv_op){KV_OP_PUT, number_key(texts[k], "c", me->id, k), bytes_of(&i, sizeof i)};
        atomic_store(&t->attempted[me->id], i);
        CHECK_OK(kv_write(t->w->db, ops, 6, 0, NULL, &err), &err);
        atomic_store(&t->acknowledged[me->id], i);
        usleep(100); /* for more cuts in less log */
    }
    atomic_fetch_add(&t->done, 1);
}

/* What a reader sees of a writer's last key. */
static uint64_t cuts_seen(cuts *t, unsigned id) {
    char text[32];
    kv_value value;
    kv_error err;
    uint64_t number = 0;
    kv_status status = kv_get(t->w->db, number_key(text, "c", id, 5), 0, &value, &err);
    CHECK(status >= 0);
    if (status == KV_OK) {
        memcpy(&number, value.data, sizeof number);
        kv_value_release(&value);
    }
    return number;
}

/* The cut undoes nothing that was acknowledged before, nor anything that a reader had seen. */
static void check_cut(cuts *t, check_random *random) {
    uint64_t acknowledged[4], seen[4], attempted[4];
    for (unsigned i = 0; i < 4; i++)
        acknowledged[i] = atomic_load(&t->acknowledged[i]);
    for (unsigned i = 0; i < 4; i++)
        seen[i] = cuts_seen(t, i);
    memory_fate fates[64];
    for (unsigned i = 0; i < 64; i++)
        fates[i] = (memory_fate){random_below(random, 2) ? MEMORY_KEPT : MEMORY_LOST, 0};
    memory_os *image = memory_os_cut(t->w->memory, fates, 64);
    for (unsigned i = 0; i < 4; i++)
        attempted[i] = atomic_load(&t->attempted[i]);
    kv_db *db = image_open(image, &t->w->options);
    for (unsigned i = 0; i < 4; i++) {
        kv_bytes keys[6];
        char texts[6][32];
        kv_values values;
        kv_error err;
        uint64_t number = 0;
        for (unsigned k = 0; k < 6; k++)
            keys[k] = number_key(texts[k], "c", i, k);
        CHECK_OK(kv_get_many(db, keys, 6, &values, &err), &err);
        if (values.items[0].data != NULL)
            memcpy(&number, values.items[0].data, sizeof number);
        CHECK(number >= acknowledged[i] && number <= attempted[i]);
        CHECK(number >= seen[i]);
        for (unsigned k = 0; k < 6; k++) {
            CHECK_EQ(values.items[k].data != NULL, number > 0);
            if (number > 0)
                CHECK_MEM(values.items[k].data, &number, sizeof number);
        }
        kv_values_release(&values);
    }
    image_close(db);
    memory_os_destroy(image);
}

static void test_power_cuts_under_load(void) {
    cuts t = {.w = world_create()};
    crew crew = {0};
    check_random random = random_stream(99);
    t.w->options.segment_size_max = 1 << 16;
    world_open(t.w);
    fault_os_delay(t.w->faults, FAULT_SYNC, 200000); /* most cuts come while a commit is written and not synced */
    for (unsigned i = 0; i < 4; i++)
        crew_add(&crew, cuts_write, &t);
    while (atomic_load(&t.done) < 4)
        check_cut(&t, &random);
    crew_join(&crew);
    check_cut(&t, &random);
    world_destroy(t.w);
}

CHECK_MAIN(TEST(test_mixed_operations), TEST(test_batches_are_seen_whole),
           TEST(test_clear_is_seen_whole), TEST(test_increments), TEST(test_count_is_of_one_moment),
           TEST(test_count_is_of_one_moment_while_keys_expire),
           TEST(test_pop_any_gives_each_once), TEST(test_growth_under_readers),
           TEST(test_close_under_load), TEST(test_snapshot_ends_while_closing), TEST(test_handles_come_and_go),
           TEST(test_reader_during_a_sync), TEST(test_reader_during_a_write),
           TEST(test_undone_delete), TEST(test_undone_put), TEST(test_rollback_under_load), TEST(test_no_descriptors_under_load),
           TEST(test_failure_under_load), TEST(test_power_cuts_under_load))
