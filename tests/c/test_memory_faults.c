/* test_memory_faults.c - every request for memory fails, once or from then on: the call answers
 * KV_ERR_NOMEM, nothing has changed, and the store goes on.  (What leaks, the address sanitizer says.) */
#include "check.h"

#include "base/mem.h"
#include "engine/entry.h"
#include "kv.h"
#include "model.h"
#include "scenario.h"
#include "world.h"

#define NEVER UINT64_MAX

/* ---- The n-th request of what is under test ------------------------------------------------------ */

static struct {
    uint64_t left; /* requests until the one that fails */
    bool from_then_on;
    bool fired;
} failing;

static void resume(void) {
    kv_mem_fail_at(failing.left, failing.from_then_on);
}

/* What the test itself asks for does not count. */
static void suspend(void) {
    uint64_t made = kv_mem_fail_at(NEVER, false);
    if (failing.left == NEVER)
        return;
    if (made > failing.left) {
        failing.fired = true;
        failing.left = failing.from_then_on ? 0 : NEVER;
    } else {
        failing.left -= made;
    }
}

static void fail_from(uint64_t n, bool from_then_on) {
    kv_mem_fail_at(NEVER, false);
    failing.left = n;
    failing.from_then_on = from_then_on;
    failing.fired = false;
    resume();
}

static void heal(void) {
    suspend();
    failing.left = NEVER;
}

/* KV_ERR_NOMEM is the only failure. */
static bool is_nomem(kv_status status, const kv_error *err, const char *what) {
    if (status >= 0)
        return false;
    if (status != KV_ERR_NOMEM || err->status != KV_ERR_NOMEM)
        FAIL("%s: %s: %s", what, kv_status_name(status), err->message);
    return true;
}

/* ---- The scenario ----------------------------------------------------------------------------------- */

static void check_contents(kv_db *db, const model *m, const char *what) {
    kv_error err;
    suspend();
    CHECK_OK(kv_verify(db, &err), &err);
    if (store_digest(db) != model_digest(m))
        FAIL("%s: other contents", what);
    resume();
}

/* Every way of reading gives the right answer, or none. */
static void read_all(kv_db *db, const model *m) {
    kv_error err;
    kv_values values;
    kv_snapshot *s;
    kv_cursor *cursor;
    kv_value value;
    const kv_item *items;
    size_t count, got = 0;
    uint64_t number;
    const kv_bytes keys[] = {LITERAL("key-1"), LITERAL("key-5"), LITERAL("none"), LITERAL("key-7")};
    kv_status status = kv_get_many(db, keys, 4, &values, &err);
    if (!is_nomem(status, &err, "get_many"))
        for (int i = 0; i < 4; i++)
            CHECK_EQ(values.items[i].data != NULL, model_get(m, keys[i]) != NULL);
    kv_values_release(&values);
    status = kv_get(db, keys[0], KV_PIN, &value, &err);
    if (status == KV_OK)
        kv_value_release(&value);
    if (!is_nomem(status, &err, "get")) /* it may have to be loaded */
        CHECK_EQ(status, model_get(m, keys[0]) != NULL ? KV_OK : KV_NOTFOUND);
    if (is_nomem(kv_snapshot_create(db, &s, &err), &err, "snapshot"))
        return;
    if (!is_nomem(kv_snapshot_count(s, &number, &err), &err, "count"))
        CHECK_EQ(number, model_count(m));
    if (!is_nomem(kv_cursor_create(s, &cursor, &err), &err, "cursor")) {
        do {
            status = kv_cursor_next(cursor, &items, &count, &err);
            if (status == KV_OK)
                got += count;
            else if (is_nomem(status, &err, "next") && !failing.from_then_on)
                status = KV_OK; /* it can be asked again */
        } while (status == KV_OK);
        if (status == KV_NOTFOUND)
            CHECK_EQ(got, model_count(m));
        kv_cursor_destroy(cursor);
    }
    kv_snapshot_destroy(s);
}

static void count_item(void *arg, const kv_item *item) {
    (void)item;
    ++*(size_t *)arg;
}

/* A second handle, deferred: its write is done when the ticket says so, or not at all. */
static void run_deferred(kv_db *db, model *m) {
    kv_error err;
    kv_db *deferred;
    kv_ticket ticket;
    kv_item item, copy;
    size_t seen = 0;
    uint64_t position = 0;
    if (is_nomem(kv_dup(db, true, &deferred, &err), &err, "dup"))
        return;
    kv_bytes key = LITERAL("key-60"), value = LITERAL("deferred");
    if (!is_nomem(kv_put(deferred, key, value, 0, &err), &err, "deferred put")) {
        kv_pending_ticket(deferred, &ticket);
        if (!is_nomem(kv_ticket_wait(db, &ticket, &err), &err, "ticket"))
            model_put(m, key, value);
    }
    kv_settle(deferred);
    kv_status status = kv_get_item(deferred, key, 0, &item, &err);
    if (!is_nomem(status, &err, "get item"))
        CHECK_EQ(status, model_get(m, key) != NULL ? KV_OK : KV_NOTFOUND);
    if (status == KV_OK) {
        kv_item_copy(&item, &copy);
        kv_item_release(&item);
        kv_item_release(&copy);
    }
    do {
        status = kv_scan(deferred, &position, 7, count_item, &seen, &err);
    } while (!is_nomem(status, &err, "scan") && position != 0);
    if (status == KV_OK)
        CHECK_EQ(seen, model_count(m));
    (void)is_nomem(kv_close(deferred, &err), &err, "close");
    kv_destroy(deferred);
}

static bool run_open(world *w) {
    kv_status status = world_try_open(w);
    if (!is_nomem(status, &w->err, "open"))
        return true;
    if (failing.from_then_on)
        return false;
    CHECK_OK(world_try_open(w), &w->err);
    return true;
}

static void run_step(unsigned number, kv_db *db, model *m) {
    kv_error err;
    kv_status status = scenario_run(number, db, m, &err);
    if (!is_nomem(status, &err, scenario_name(number)))
        return;
    check_contents(db, m, scenario_name(number));
    if (!failing.from_then_on)
        CHECK(scenario_run(number, db, m, &err) >= 0);
}

/* A key's time comes, and the worker sweeps it away. */
static void run_expiry(world *w) {
    kv_stats before, now;
    bool swept;
    world_set_clock(w, scenario_sweep_ms(0) - 2); /* so near that the worker soon looks again */
    kv_status status = kv_get_stats(w->db, 0, &before, &w->err);
    if (is_nomem(status, &w->err, "figures"))
        return;
    status = kv_put_expiring(w->db, LITERAL("gone"), LITERAL("soon"), scenario_sweep_ms(0) - 1, 0,
                             &w->err);
    world_set_clock(w, scenario_sweep_ms(0) - 1);
    if (is_nomem(status, &w->err, "put expiring"))
        return;
    do {
        usleep(100);
        status = kv_get_stats(w->db, 0, &now, &w->err); /* beside a sweep it may need memory */
        swept = !is_nomem(status, &w->err, "figures") && now.expired != before.expired;
        suspend(); /* whether it has fired */
        resume();
    } while (!swept && !failing.fired);
}

/* Whether there is a whole copy of the store now. */
static bool run_backup(world *w) {
    return !is_nomem(kv_backup(w->db, "backup", NULL, NULL, &w->err), &w->err, "backup");
}

static bool no_problem(void *arg, const kv_error *problem, const char *loss) {
    (void)arg;
    FAIL("a problem where there is none: %s (%s)", problem->message, loss);
    return true;
}

/* kv_check, and kv_salvage into a store: whether it was done. */
static bool run_salvage(world *w) {
    kv_check_options options = {.problem = no_problem, .os = &w->os};
    kv_check_summary summary;
    kv_db *db;
    kv_error *err = &w->err;
    (void)is_nomem(kv_check(WORLD_DIR, &options, &summary, err), err, "check");
    if (is_nomem(kv_open("salvaged", &w->options, &db, err), err, "open to salvage"))
        return false;
    bool done = !is_nomem(kv_salvage(WORLD_DIR, db, &options, &summary, err), err, "salvage");
    done &= !is_nomem(kv_close(db, err), err, "close");
    kv_destroy(db);
    return done;
}

static void check_copy(world *w, const char *dir, const model *m) {
    kv_db *db;
    CHECK_OK(kv_open(dir, &w->options, &db, &w->err), &w->err);
    model_check(m, db);
    kv_destroy(db);
}

static void run_log(uint64_t n, bool from_then_on) {
    world *w = world_create();
    model *m = model_create();
    bool copied = false, salvaged = false;
    fail_from(n, from_then_on);
    if (run_open(w)) {
        for (unsigned i = 0; i < scenario_count; i++) {
            if (i == 15) {
                suspend();
                CHECK_OK(kv_verify(w->db, &w->err), &w->err);
                resume();
                (void)is_nomem(world_try_close(w), &w->err, "close");
                if (!run_open(w))
                    break;
            }
            run_step(i, w->db, m);
            read_all(w->db, m);
        }
        if (w->db != NULL) {
            run_deferred(w->db, m);
            run_expiry(w);
            check_contents(w->db, m, "at the end");
            copied = run_backup(w);
            suspend();
            CHECK_OK(kv_verify(w->db, &w->err), &w->err);
            resume();
            (void)is_nomem(world_try_close(w), &w->err, "close");
            salvaged = run_salvage(w);
        }
    }
    heal();
    if (copied)
        check_copy(w, "backup", m);
    if (salvaged)
        check_copy(w, "salvaged", m);
    world_open(w);
    CHECK_EQ(store_digest(w->db), model_digest(m));
    for (unsigned i = 0; i < scenario_count; i++) /* all is well again */
        CHECK(scenario_run(i, w->db, m, &w->err) >= 0);
    model_check(m, w->db);
    world_destroy(w);
    model_destroy(m);
}

static void run_memory(uint64_t n, bool from_then_on) {
    model *m = model_create();
    kv_error err;
    kv_db *db;
    fail_from(n, from_then_on);
    if (is_nomem(kv_open(NULL, NULL, &db, &err), &err, "open")) {
        heal();
        CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    }
    for (unsigned i = 0; i < scenario_count; i++) {
        run_step(i, db, m);
        read_all(db, m);
    }
    run_deferred(db, m);
    heal();
    for (unsigned i = 0; i < scenario_count; i++)
        CHECK(scenario_run(i, db, m, &err) >= 0);
    model_check(m, db);
    CHECK_OK(kv_verify(db, &err), &err);
    kv_destroy(db);
    model_destroy(m);
}

static void sweep(void (*run)(uint64_t n, bool from_then_on), bool from_then_on) {
    uint64_t n = 0;
    for (unsigned hung = 0;;) {
        check_try begin = check_begin();
        run(n, from_then_on);
        hung = check_has_hung(begin) ? hung + 1 : 0;
        if (hung == 3)
            FAIL("hangs when request %d fails", (int)n);
        if (!failing.fired)
            break;
        n += hung == 0;
    }
    printf("# %d requests fail %s\n", (int)n, from_then_on ? "and all later ones" : "once");
    CHECK(n > 20);
}

static void test_log_once(void) {
    sweep(run_log, false);
}

static void test_log_from_then_on(void) {
    sweep(run_log, true);
}

static void test_memory_only_once(void) {
    sweep(run_memory, false);
}

static void test_memory_only_from_then_on(void) {
    sweep(run_memory, true);
}

/* ---- Many keys: the pool's areas run out in the middle of everything ---------------------------------- */

enum { KEYS = 3000, STEPS = 12000 };

static kv_status random_batch(kv_db *db, model *m, check_random *random, const uint8_t *bytes,
                              kv_error *err) {
    enum { COUNT = 40 };
    kv_op ops[COUNT];
    unsigned keys[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        keys[i] = (unsigned)random_below(random, KEYS);
        ops[i] = (kv_op){.kind = random_below(random, 4) ? KV_OP_PUT : KV_OP_DELETE,
                         .key = bytes_of(&keys[i], sizeof keys[i])};
        if (ops[i].kind == KV_OP_PUT)
            ops[i].value = bytes_of(bytes, random_below(random, 200));
    }
    kv_status status = kv_write(db, ops, COUNT, 0, NULL, err);
    for (unsigned i = 0; status == KV_OK && i < COUNT; i++) {
        if (ops[i].kind == KV_OP_PUT)
            model_put(m, ops[i].key, ops[i].value);
        else
            model_delete(m, ops[i].key);
    }
    return status;
}

/* One random change; it fails whole or is done whole. */
static kv_status random_change(kv_db *db, model *m, check_random *random, unsigned step,
                               const uint8_t *bytes, kv_error *err) {
    unsigned number = (unsigned)random_below(random, KEYS);
    kv_bytes key = bytes_of(&number, sizeof number);
    /* Longer and longer, so that memory is wanted all the time. */
    kv_bytes value = bytes_of(bytes, random_below(random, random_below(random, 60) ? 1 + step / 2 : 10000));
    uint64_t what = random_below(random, 1000);
    kv_status status;
    int64_t result;
    if (what == 0) {
        status = kv_clear(db, 0, err);
        if (status == KV_OK)
            model_clear(m);
    } else if (what < 20) {
        status = random_batch(db, m, random, bytes, err);
    } else if (what < 40) {
        status = kv_incr(db, bytes_of(&what, sizeof what), 1, 0, &result, err);
        if (status == KV_OK) {
            char text[24];
            int size = snprintf(text, sizeof text, "%d", (int)result);
            model_put(m, bytes_of(&what, sizeof what), bytes_of(text, (size_t)size));
        }
    } else if (what < 100) {
        status = kv_delete(db, key, 0, err);
        if (status == KV_OK)
            model_delete(m, key);
    } else {
        status = kv_put(db, key, value, 0, err);
        if (status == KV_OK)
            model_put(m, key, value);
    }
    return status;
}

/* While requests fail, for a stretch of steps; with a snapshot now and then, so that undo is kept. */
static void run_many(bool with_log) {
    static uint8_t bytes[10000];
    check_random random = random_stream(with_log);
    random_fill(&random, bytes, sizeof bytes);
    world *w = world_create();
    w->options.sync = KV_SYNC_NEVER;
    w->options.segment_size_max = 1 << 20;
    unsigned failures = 0;
    for (int round = 0; round < 4; round++) {
        kv_db *db;
        kv_error err;
        kv_snapshot *s = NULL;
        model *m = model_create(), *then = NULL;
        if (with_log)
            world_open(w);
        else
            CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
        db = with_log ? w->db : db;
        if (with_log && kv_clear(db, 0, &err) < 0)
            FAIL("clear");
        for (unsigned i = 0; i < STEPS; i++) {
            if (i % 1000 == 100)
                fail_from(random_below(&random, 100), true);
            if (i % 1000 == 700) {
                heal();
                check_contents(db, m, "many");
            }
            kv_status status = random_change(db, m, &random, i, bytes, &err);
            failures += is_nomem(status, &err, "a change");
            if (i % 500 == 100) {
                suspend();
                if (s != NULL) {
                    uint64_t count;
                    CHECK_EQ(snapshot_digest(s, &count), model_digest(then));
                    kv_snapshot_destroy(s);
                    model_destroy(then);
                }
                CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
                then = model_clone(m);
                resume();
            }
        }
        heal();
        kv_snapshot_destroy(s);
        model_destroy(then);
        model_check(m, db);
        CHECK_OK(kv_verify(db, &err), &err);
        if (with_log) {
            world_close(w);
            world_open(w);
            model_check(m, w->db);
            world_close(w);
        } else {
            kv_destroy(db);
        }
        model_destroy(m);
    }
    printf("# %u changes failed\n", failures);
    CHECK(failures > 0 || !with_log); /* how much the pool has in hand is its own matter */
    world_destroy(w);
}

static void test_many_keys_memory_only(void) {
    run_many(false);
}

static void test_many_keys_with_log(void) {
    run_many(true);
}

/* Not one request more, until there is nothing left: every kind of change meets the end of the memory, and
 * what it does then it does whole or not at all. */
static void run_dry(size_t size, bool with_snapshot) {
    static uint8_t bytes[20000];
    check_random random = random_stream(size);
    model *m = model_create(), *then = NULL;
    kv_snapshot *s = NULL;
    kv_error err;
    kv_db *db;
    unsigned number = 0, failures = 0;
    CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    for (; number < 500; number++) {
        CHECK_OK(kv_put(db, bytes_of(&number, sizeof number), bytes_of(bytes, size), 0, &err), &err);
        model_put(m, bytes_of(&number, sizeof number), bytes_of(bytes, size));
    }
    if (with_snapshot)
        CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
    then = model_clone(m);
    fail_from(0, true);
    while (failures < 100 && number < 200000) {
        kv_bytes key = bytes_of(&number, sizeof number), value = bytes_of(bytes, size);
        kv_status status = kv_put(db, key, value, 0, &err);
        if (is_nomem(status, &err, "put"))
            failures++;
        else
            model_put(m, key, value);
        number++;
        if (failures % 10 == 5) {
            kv_status other = random_change(db, m, &random, 600, bytes, &err);
            (void)is_nomem(other, &err, "another change");
        }
    }
    CHECK(failures == 100);
    check_contents(db, m, "at the end of the memory");
    heal();
    if (s != NULL) {
        uint64_t count;
        CHECK_EQ(snapshot_digest(s, &count), model_digest(then));
    }
    kv_snapshot_destroy(s);
    for (unsigned i = 0; i < 1000; i++)
        CHECK(random_change(db, m, &random, i, bytes, &err) >= 0);
    model_check(m, db);
    CHECK_OK(kv_verify(db, &err), &err);
    kv_destroy(db);
    model_destroy(m);
    model_destroy(then);
}

static void test_end_of_the_memory(void) {
    static const size_t sizes[] = {0, 20, 60, 300, 1000, 5000, 15000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int with_snapshot = 0; with_snapshot < 2; with_snapshot++)
            run_dry(sizes[i], with_snapshot);
}

/* Recovery of a store of some size. */
static void test_recovery(void) {
    world *w = world_create();
    model *m = model_create();
    w->options.segment_size_max = 1 << 20;
    w->options.sync = KV_SYNC_NEVER;
    world_open(w);
    for (unsigned i = 0; i < 8000; i++) {
        kv_bytes key = bytes_of(&i, sizeof i);
        CHECK_OK(kv_put(w->db, key, bytes_of("0123456789", i % 10), 0, &w->err), &w->err);
        model_put(m, key, bytes_of("0123456789", i % 10));
        if (i == 3000) {
            CHECK_OK(kv_clear(w->db, 0, &w->err), &w->err);
            model_clear(m);
        }
    }
    world_close(w);
    uint64_t n = 0;
    do {
        fail_from(n++, false);
        if (!is_nomem(world_try_open(w), &w->err, "open"))
            (void)is_nomem(world_try_close(w), &w->err, "close");
        suspend();
    } while (failing.fired);
    heal();
    CHECK(n > 10);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

static void visit_nothing(void *arg, const kv_item *item) {
    (void)arg;
    (void)item;
}

/* A walk that fails gives back what it had in hand: else those entries would never be freed. */
static void test_failed_scans_hold_nothing(void) {
    world *w = world_create();
    kv_item item;
    kv_status status;
    uint64_t failures = 0;
    CHECK_OK(kv_open(NULL, &w->options, &w->db, &w->err), &w->err);
    CHECK_OK(kv_put(w->db, LITERAL("a"), LITERAL("1"), 0, &w->err), &w->err);
    do {
        uint64_t position = 0;
        kv_mem_fail_at(failures, false);
        status = kv_scan(w->db, &position, 10, visit_nothing, NULL, &w->err);
        kv_mem_fail_at(NEVER, false);
    } while (is_nomem(status, &w->err, "scan") && ++failures);
    CHECK(failures > 1);
    CHECK_OK(kv_get_item(w->db, LITERAL("a"), 0, &item, &w->err), &w->err);
    CHECK_EQ(atomic_load(&((const kv_entry *)item.pin)->references), 2); /* the table's, and ours */
    kv_item_release(&item);
    world_destroy(w);
}

CHECK_MAIN(TEST(test_log_once), TEST(test_log_from_then_on), TEST(test_memory_only_once),
           TEST(test_memory_only_from_then_on), TEST(test_many_keys_memory_only),
           TEST(test_many_keys_with_log), TEST(test_failed_scans_hold_nothing),
           TEST(test_end_of_the_memory), TEST(test_recovery))
