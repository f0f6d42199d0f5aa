/* test_limit.c - max_memory: what counts, what is refused at the bound, and what is evicted.
 *
 * How much the store believes to hold is asked by what it takes: of a store with `left` bytes to go, an item of
 * exactly that charge is accepted, and one that is a byte larger is not.
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
#define SLOWER 4u
#else
#define SLOWER 1u
#endif

enum { MAX_MEMORY = 200000 };

static const kv_bytes PROBE = {"probe", 5};
static uint8_t bytes[MAX_MEMORY + 100];

typedef struct bounded {
    world *w;
    kv_db *db;
    model *m;
    bool memory_only;
    uint64_t now, refused;
    check_random random;
} bounded;

static void open_store(bounded *t) {
    CHECK_OK(kv_open(t->memory_only ? NULL : WORLD_DIR, &t->w->options, &t->w->db, &t->w->err),
             &t->w->err);
    t->db = t->w->db;
}

static bounded bounded_create(bool memory_only, kv_when_full when_full, kv_sync sync) {
    bounded t = {.w = world_create(), .m = model_create(), .memory_only = memory_only, .now = 1000000};
    t.w->options.max_memory = MAX_MEMORY;
    t.w->options.when_full = when_full;
    t.w->options.sync = sync;
    t.w->options.segment_size_max = 1 << 17;
    t.random = random_stream(memory_only * 7 + (uint64_t)sync);
    world_set_clock(t.w, t.now);
    open_store(&t);
    return t;
}

static void bounded_destroy(bounded *t) {
    world_destroy(t->w);
    model_destroy(t->m);
}

static kv_stats stats_of(kv_db *db) {
    kv_stats stats;
    kv_error err;
    CHECK_OK(kv_get_stats(db, 0, &stats, &err), &err);
    return stats;
}

/* The store accepts so many bytes, and not one more. */
static void check_left(kv_db *db, uint64_t left, const char *when) {
    kv_error err;
    uint64_t least = PROBE.size + KV_ITEM_CHARGE;
    if (left < least) {
        CHECK_STATUS(kv_put(db, PROBE, LITERAL(""), 0, &err), KV_ERR_MEMLIMIT, &err);
        return;
    }
    kv_status status = kv_put(db, PROBE, bytes_of(bytes, left - least + 1), 0, &err);
    if (status != KV_ERR_MEMLIMIT)
        FAIL("%s: %d bytes are left, and one more was taken (%s)", when, (int)left, kv_status_name(status));
    status = kv_put(db, PROBE, bytes_of(bytes, left - least), 0, &err);
    if (status != KV_OK)
        FAIL("%s: %d bytes are left, and are not given: %s", when, (int)left, err.message);
    CHECK_OK(kv_delete(db, PROBE, 0, &err), &err);
}

static void check_exact(bounded *t, const char *when) {
    uint64_t charge = model_charge(t->m);
    CHECK_EQ(stats_of(t->db).memory_charged, charge);
    check_left(t->db, MAX_MEMORY - charge, when);
    CHECK_EQ(stats_of(t->db).memory_charged, charge);
}

/* ---- Refusing ------------------------------------------------------------------------------------------------ */

static kv_bytes key_of(char text[32], unsigned number) {
    return bytes_of(text, (size_t)snprintf(text, 32, "key %u", number));
}

/* One change to the model, and the same to the store: it is done when there is room for it. */
static void random_step(bounded *t) {
    kv_error err;
    char texts[12][32], text[32];
    unsigned number = (unsigned)random_below(&t->random, 1500);
    kv_bytes key = key_of(texts[0], number);
    kv_bytes value = bytes_of(bytes, random_below(&t->random, random_below(&t->random, 4) ? 300 : 3000));
    uint64_t expiry = random_below(&t->random, 3) ? 0 : t->now + 1 + random_below(&t->random, 500);
    model *then = model_clone(t->m);
    const kv_bytes *there = model_get(then, key);
    kv_status status = KV_OK, other = KV_OK;
    kv_op ops[12];
    int64_t result = 0;
    kv_item item;
    switch (random_below(&t->random, 12)) {
    case 0:
        status = kv_delete(t->db, key, 0, &err);
        other = model_delete(then, key) ? KV_OK : KV_NOTFOUND;
        break;
    case 1:
        status = kv_expire(t->db, key, expiry, 0, &err);
        other = model_expire(then, key, expiry) ? KV_OK : KV_NOTFOUND;
        break;
    case 2:
        for (unsigned i = 0; i < 12; i++) {
            ops[i] = (kv_op){.kind = (kv_op_kind[]){KV_OP_PUT, KV_OP_DELETE, KV_OP_EXPIRE}[i % 3],
                             .key = key_of(texts[i], number + i)};
            if (ops[i].kind == KV_OP_PUT) {
                ops[i].value = value;
                model_put_expiring(then, ops[i].key, value, ops[i].expiry = expiry);
            } else if (ops[i].kind == KV_OP_DELETE) {
                model_delete(then, ops[i].key);
            } else {
                model_expire(then, ops[i].key, ops[i].expiry = expiry);
            }
        }
        status = kv_write(t->db, ops, 12, 0, NULL, &err);
        break;
    case 3:
        status = kv_put_absent(t->db, key, value, 0, NULL, &err);
        if (there == NULL)
            model_put(then, key, value);
        else
            other = KV_UNCHANGED;
        break;
    case 4:
        status = kv_replace(t->db, key, value, there != NULL ? *there : value, 0, &err);
        if (there != NULL)
            model_put(then, key, value);
        else
            other = KV_UNCHANGED;
        break;
    case 5:
        key = key_of(texts[0], 10000 + number);
        status = kv_incr(t->db, key, 3, 0, &result, &err);
        there = model_get(then, key);
        snprintf(text, sizeof text, "%.*s", there != NULL ? (int)there->size : 0,
                 there != NULL ? (const char *)there->data : "");
        snprintf(text, sizeof text, "%lld", strtoll(text, NULL, 10) + 3);
        if (status == KV_OK)
            CHECK_EQ(result, strtoll(text, NULL, 10));
        model_put_expiring(then, key, bytes_of(text, strlen(text)), model_expiry(then, key));
        break;
    case 6:
        if (random_below(&t->random, 300) > 0)
            break;
        status = kv_clear(t->db, 0, &err);
        model_clear(then);
        break;
    case 7:
        status = kv_pop_any(t->db, 0, &item, &err);
        other = model_count(then) > 0 ? KV_OK : KV_NOTFOUND;
        if (status == KV_OK) {
            model_delete(then, item.key);
            kv_item_release(&item);
        }
        break;
    default:
        status = kv_put_expiring(t->db, key, value, expiry, 0, &err);
        model_put_expiring(then, key, value, expiry);
    }
    if (status < 0) {
        if (status == KV_ERR_MEMLIMIT) {
            t->refused++;
            CHECK(model_charge(then) > MAX_MEMORY);
            CHECK(model_charge(then) > model_charge(t->m)); /* what shrinks is always taken */
        } else {
            CHECK_STATUS(status, KV_ERR_NOSPACE, &err);
        }
        model_destroy(then);
    } else {
        CHECK_EQ(status, other);
        CHECK(model_charge(then) <= MAX_MEMORY || model_charge(then) <= model_charge(t->m));
        model_destroy(t->m);
        t->m = then;
    }
}

/* Expires what is due, and waits until it is gone: until then it counts. */
static void let_expire(bounded *t) {
    world_set_clock(t->w, t->now += 40);
    model_sweep(t->m, t->now);
    while (stats_of(t->db).memory_charged != model_charge(t->m))
        usleep(500);
}

static void run_refuse(bool memory_only, kv_sync sync) {
    bounded t = bounded_create(memory_only, KV_FULL_REFUSE, sync);
    for (unsigned i = 0; i < 8000 / SLOWER; i++) {
        if (!memory_only && random_below(&t.random, 40) == 0)
            fault_os_fail(t.w->faults, FAULT_WRITE, 1 + random_below(&t.random, 3), ENOSPC, 0);
        random_step(&t);
        if (i % 50 == 0) {
            fault_os_heal(t.w->faults);
            check_exact(&t, "after a step");
        }
        if (i % 250 == 0) {
            fault_os_heal(t.w->faults);
            let_expire(&t);
            check_exact(&t, "after a sweep");
        }
        if (i % 1500 == 700 && !memory_only) {
            fault_os_heal(t.w->faults);
            CHECK_OK(kv_checkpoint(t.db, NULL, NULL, &t.w->err), &t.w->err);
            world_close(t.w);
            open_store(&t);
            check_exact(&t, "after an open");
            model_check(t.m, t.db);
        }
    }
    fault_os_heal(t.w->faults);
    check_exact(&t, "at the end");
    model_check(t.m, t.db);
    printf("# %d steps were refused\n", (int)t.refused);
    CHECK(t.refused > 0);
    bounded_destroy(&t);
}

static void test_refuse(void) {
    run_refuse(true, KV_SYNC_ALWAYS);
    run_refuse(false, KV_SYNC_ALWAYS);
    run_refuse(false, KV_SYNC_NEVER);
}

/* Data of more than the bound, from before there was one: it can be read, and be made less. */
static void test_refuse_what_is_too_much(void) {
    bounded t = bounded_create(false, KV_FULL_REFUSE, KV_SYNC_NEVER);
    kv_error err;
    char text[32];
    world_close(t.w);
    t.w->options.max_memory = 0;
    open_store(&t);
    for (unsigned i = 0; i < 100; i++) {
        CHECK_OK(kv_put(t.db, key_of(text, i), bytes_of(bytes, 4000), 0, &err), &err);
        model_put(t.m, key_of(text, i), bytes_of(bytes, 4000));
    }
    world_close(t.w);
    t.w->options.max_memory = MAX_MEMORY;
    open_store(&t);
    model_check(t.m, t.db);
    CHECK_STATUS(kv_put(t.db, LITERAL("x"), LITERAL(""), 0, &err), KV_ERR_MEMLIMIT, &err);
    CHECK_STATUS(kv_put(t.db, key_of(text, 1), bytes_of(bytes, 4001), 0, &err), KV_ERR_MEMLIMIT, &err);
    CHECK_OK(kv_put(t.db, key_of(text, 1), bytes_of(bytes + 1, 4000), 0, &err), &err);
    CHECK_OK(kv_put(t.db, key_of(text, 2), bytes_of(bytes, 100), 0, &err), &err);
    const kv_op ops[] = {{KV_OP_PUT, LITERAL("new"), bytes_of(bytes, 3000)},
                         {KV_OP_DELETE, LITERAL("key 3"), {0}}};
    CHECK_OK(kv_write(t.db, ops, 2, 0, NULL, &err), &err); /* less in the end */
    CHECK_STATUS(kv_write(t.db, ops, 1, 0, NULL, &err), KV_OK, &err);
    for (unsigned i = 4; i < 60; i++)
        CHECK_OK(kv_delete(t.db, key_of(text, i), 0, &err), &err);
    CHECK_OK(kv_put(t.db, LITERAL("x"), LITERAL(""), 0, &err), &err);
    check_left(t.db, MAX_MEMORY - stats_of(t.db).memory_charged, "when there is room again");
    bounded_destroy(&t);
}

/* ---- Many threads, and a disk that is full now and then ------------------------------------------------------ */

typedef struct pressure {
    bounded *t;
    _Atomic bool done;
    _Atomic unsigned failures;
    bool evicts;
} pressure;

static void pressure_write(worker *me) {
    pressure *p = me->shared;
    kv_error err;
    for (unsigned i = 0; i < 3000 / SLOWER; i++) {
        char texts[5][32];
        kv_status status;
        unsigned number = (unsigned)random_below(&me->random, 300);
        for (unsigned k = 0; k < 5; k++)
            (void)snprintf(texts[k], 32, "%u/%u", me->id, number + k);
        kv_bytes key = bytes_of(texts[0], strlen(texts[0]));
        kv_bytes value = bytes_of(bytes, random_below(&me->random, 400));
        kv_op ops[5];
        switch (random_below(&me->random, 5)) {
        case 0:
            status = kv_delete(p->t->db, key, 0, &err);
            break;
        case 1:
            for (unsigned k = 0; k < 5; k++)
                ops[k] = (kv_op){KV_OP_PUT, bytes_of(texts[k], strlen(texts[k])), value};
            status = kv_write(p->t->db, ops, 5, 0, NULL, &err);
            break;
        default:
            status = kv_put(p->t->db, key, value, 0, &err);
        }
        if (status < 0) {
            CHECK(status == KV_ERR_MEMLIMIT || status == KV_ERR_NOSPACE);
            atomic_fetch_add(&p->failures, status == KV_ERR_NOSPACE);
        }
        if (p->evicts && i % 50 == 0)
            CHECK(stats_of(p->t->db).memory_charged <= MAX_MEMORY + 6 * 5 * 500);
    }
}

/* The first one was armed before the writers began. */
static void pressure_fail(worker *me) {
    pressure *p = me->shared;
    uint64_t seen = 0;
    while (!atomic_load(&p->done)) {
        if (fault_os_failures(p->t->w->faults) > seen) { /* the last one has fired */
            seen++;
            fault_os_fail(p->t->w->faults, FAULT_WRITE, 1 + random_below(&me->random, 8), ENOSPC, 0);
        }
        usleep(500);
    }
    fault_os_heal(p->t->w->faults);
}

static void run_pressure(kv_when_full when_full, kv_sync sync) {
    bounded t = bounded_create(false, when_full, sync);
    pressure p = {.t = &t, .evicts = when_full == KV_FULL_EVICT};
    crew writers = {0}, others = {0};
    kv_error err;
    fault_os_fail(t.w->faults, FAULT_WRITE, 1, ENOSPC, 0);
    crew_add(&others, pressure_fail, &p);
    for (unsigned i = 0; i < 6; i++)
        crew_add(&writers, pressure_write, &p);
    crew_join(&writers);
    atomic_store(&p.done, true);
    crew_join(&others);
    CHECK(p.failures > 0);
    CHECK_OK(kv_verify(t.db, &err), &err);
    CHECK(stats_of(t.db).memory_charged <= MAX_MEMORY);
    if (!p.evicts)
        check_left(t.db, MAX_MEMORY - stats_of(t.db).memory_charged, "after it");
    CHECK_OK(kv_make_durable(t.db, &err), &err);
    uint64_t digest = store_digest(t.db);
    world_close(t.w);
    open_store(&t);
    CHECK_EQ(store_digest(t.db), digest);
    CHECK_OK(kv_clear(t.db, 0, &err), &err);
    if (!p.evicts)
        check_left(t.db, MAX_MEMORY, "when all is gone");
    bounded_destroy(&t);
}

static void test_refuse_under_pressure(void) {
    run_pressure(KV_FULL_REFUSE, KV_SYNC_ALWAYS);
    run_pressure(KV_FULL_REFUSE, KV_SYNC_NEVER);
}

static void test_evict_under_pressure(void) {
    run_pressure(KV_FULL_EVICT, KV_SYNC_ALWAYS);
    run_pressure(KV_FULL_EVICT, KV_SYNC_NEVER);
}

/* A writer stands between having charged and taking it back, because a rollback goes on: the rollback's own
 * account must not swallow that. */
static void vain_write(worker *me) {
    bounded *t = me->shared;
    kv_error err;
    char text[32];
    for (unsigned i = 0; i < 40; i++) {
        kv_status status = kv_put(t->db, key_of(text, me->id * 1000 + i), bytes_of(bytes, 2000), 0, &err);
        CHECK(status == KV_OK || status == KV_ERR_NOSPACE);
        if (status == KV_OK)
            (void)!kv_delete(t->db, key_of(text, me->id * 1000 + i), 0, &err);
    }
}

static void test_rollbacks(void) {
    for (unsigned round = 0; round < 40 / SLOWER; round++) {
        bounded t = bounded_create(false, KV_FULL_REFUSE, KV_SYNC_ALWAYS);
        crew crew = {0};
        kv_error err;
        char text[32];
        for (unsigned i = 0; i < 1000; i++) /* shards for a rollback to go through */
            CHECK_OK(kv_put(t.db, key_of(text, 100000 + i), LITERAL(""), 0, &err), &err);
        for (unsigned k = 0; k < 8; k++)
            fault_os_fail(t.w->faults, FAULT_WRITE, 2 + 4 * k, ENOSPC, 0);
        for (unsigned i = 0; i < 4; i++)
            crew_add(&crew, vain_write, &t);
        crew_join(&crew);
        fault_os_heal(t.w->faults);
        check_left(t.db, MAX_MEMORY - stats_of(t.db).memory_charged, "after rollbacks");
        bounded_destroy(&t);
    }
}

typedef struct refusals {
    bounded *b;
    _Atomic bool done;
} refusals;

static void write_too_much(worker *me) {
    refusals *t = me->shared;
    kv_error err;
    while (!atomic_load(&t->done))
        CHECK_STATUS(kv_put(t->b->db, PROBE, bytes_of(bytes, MAX_MEMORY), 0, &err), KV_ERR_MEMLIMIT, &err);
}

/* A write that is refused takes nothing, not for a moment: others, which fit, are not refused with it. */
static void test_refused_alone(void) {
    bounded b = bounded_create(true, KV_FULL_REFUSE, KV_SYNC_NEVER);
    refusals t = {.b = &b};
    crew crew = {0};
    kv_error err;
    crew_add(&crew, write_too_much, &t);
    crew_add(&crew, write_too_much, &t);
    for (unsigned i = 0; i < 300000 / SLOWER; i++) {
        CHECK_OK(kv_put(b.db, LITERAL("a"), LITERAL("1"), 0, &err), &err);
        CHECK_OK(kv_delete(b.db, LITERAL("a"), 0, &err), &err);
    }
    atomic_store(&t.done, true);
    crew_join(&crew);
    bounded_destroy(&b);
}

/* ---- Evicting ------------------------------------------------------------------------------------------------ */

static void put_sized(bounded *t, unsigned number, size_t size) {
    kv_error err;
    char text[32];
    uint8_t value[3000];
    memset(value, (int)number, sizeof value);
    CHECK_OK(kv_put(t->db, key_of(text, number), bytes_of(value, size), 0, &err), &err);
}

/* What is there has the value that it was given, and is what it was after the next open. */
static uint64_t check_kept(bounded *t, unsigned keys) {
    uint64_t found = 0, count;
    kv_error err;
    for (unsigned i = 0; i < keys; i++) {
        char text[32];
        kv_value value;
        kv_status status = kv_get(t->db, key_of(text, i), 0, &value, &err);
        CHECK(status >= 0);
        if (status == KV_NOTFOUND)
            continue;
        found++;
        for (size_t k = 0; k < value.size; k++)
            CHECK_EQ(value.data[k], (uint8_t)i);
        kv_value_release(&value);
    }
    CHECK_OK(kv_count(t->db, 0, &count, &err), &err);
    CHECK_EQ(count, found);
    return found;
}

static void test_evict(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        enum { KEYS = 20000 };
        bounded t = bounded_create(memory_only, KV_FULL_EVICT, KV_SYNC_NEVER);
        kv_error err;
        for (unsigned i = 0; i < KEYS; i++) {
            put_sized(&t, i, random_below(&t.random, i % 100 ? 100 : 3000));
            if (i % 100 == 0)
                CHECK(stats_of(t.db).memory_charged <= MAX_MEMORY);
        }
        CHECK(stats_of(t.db).evicted > KEYS / 2);
        uint64_t found = check_kept(&t, KEYS), digest = store_digest(t.db);
        CHECK(found * (50 + KV_ITEM_CHARGE) > MAX_MEMORY / 2); /* no more than need be */
        CHECK_STATUS(kv_put(t.db, LITERAL("x"), bytes_of(bytes, MAX_MEMORY), 0, &err), KV_ERR_MEMLIMIT, &err);
        CHECK_EQ(store_digest(t.db), digest); /* nothing was thrown out for it */
        if (!memory_only) {
            CHECK_OK(kv_make_durable(t.db, &err), &err);
            world_cut_power(t.w);
            open_store(&t);
            CHECK_EQ(store_digest(t.db), digest);
            CHECK_OK(kv_checkpoint(t.db, NULL, NULL, &err), &err);
            world_close(t.w);
            t.w->options.max_memory = MAX_MEMORY / 4; /* more than may be: the next write makes room */
            open_store(&t);
            put_sized(&t, 5, 10);
            CHECK(stats_of(t.db).memory_charged <= MAX_MEMORY / 4);
            check_kept(&t, KEYS);
        }
        bounded_destroy(&t);
    }
}

/* By every way in which a store can grow. */
static void test_evict_whatever_grows(void) {
    for (int memory_only = 0; memory_only < 2; memory_only++) {
        bounded t = bounded_create(memory_only, KV_FULL_EVICT, KV_SYNC_NEVER);
        kv_error err;
        char texts[30][32];
        for (unsigned i = 0; i < 30000; i++) {
            int64_t number;
            kv_op ops[30];
            switch (i % 6) {
            case 0:
                CHECK_OK(kv_incr(t.db, key_of(texts[0], i), 1, 0, &number, &err), &err);
                CHECK_EQ(number, 1);
                break;
            case 1:
                CHECK_OK(kv_put_absent(t.db, key_of(texts[0], i), LITERAL("1"), 0, NULL, &err), &err);
                break;
            case 2:
                CHECK(kv_expire(t.db, key_of(texts[0], i - 1), KV_EXPIRY_MAX, 0, &err) >= 0);
                break;
            case 3:
                CHECK_OK(kv_put_expiring(t.db, key_of(texts[0], i), LITERAL("1"), KV_EXPIRY_MAX, 0, &err), &err);
                break;
            case 4:
                CHECK(kv_replace(t.db, key_of(texts[0], i - 3), bytes_of(bytes, 200), LITERAL("1"), 0, &err) >= 0);
                break;
            default:
                if (i % 60 > 5)
                    break;
                for (unsigned k = 0; k < 30; k++)
                    ops[k] = (kv_op){KV_OP_PUT, key_of(texts[k], 100000 + i + k * 1000), LITERAL("1"), 0};
                CHECK_OK(kv_write(t.db, ops, 30, 0, NULL, &err), &err);
            }
            if (i % 20 == 0 && stats_of(t.db).memory_charged > MAX_MEMORY + 1000)
                FAIL("step %u: %d bytes", i, (int)stats_of(t.db).memory_charged);
        }
        CHECK_OK(kv_verify(t.db, &err), &err);
        bounded_destroy(&t);
    }
}

/* What has been evicted is freed with the commit of the write that wanted the room, whatever shards it came from. */
static void test_evicted_memory_is_freed(void) {
    bounded t = bounded_create(false, KV_FULL_EVICT, KV_SYNC_NEVER);
    kv_error err;
    char text[32];
    kv_db *late;
    CHECK_OK(kv_dup(t.db, true, &late, &err), &err);
    for (unsigned i = 0; i < 300; i++) {
        kv_op op = {KV_OP_PUT, key_of(text, i), bytes_of(bytes, MAX_MEMORY / 10), 0};
        if (i % 3 == 0)
            CHECK_OK(kv_write(t.db, &op, 1, 0, NULL, &err), &err);
        else
            CHECK_OK(kv_put(i % 3 == 1 ? t.db : late, op.key, op.value, 0, &err), &err);
        CHECK_OK(kv_make_durable(t.db, &err), &err);
        kv_settle(late);
        CHECK_EQ(stats_of(t.db).undo_records, 0);
    }
    kv_destroy(late);
    bounded_destroy(&t);
}

CHECK_MAIN(TEST(test_refuse), TEST(test_refuse_what_is_too_much), TEST(test_refuse_under_pressure),
           TEST(test_refused_alone),
           TEST(test_rollbacks), TEST(test_evict), TEST(test_evict_whatever_grows),
           TEST(test_evict_under_pressure), TEST(test_evicted_memory_is_freed))
