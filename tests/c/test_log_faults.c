/* test_log_faults.c - every call to the file system goes wrong once, or from then on.
 *
 * A run is the scenario (scenario.h) with a close and an open in its middle, and one fault; a whole one goes on with
 * what else happens in the life of a store: a key expires, a backup is made, and when it is closed its files are
 * checked and salvaged.  After it the store is opened undisturbed and must hold the model of what was acknowledged.
 * The one write that was answered KV_ERR_FAILED first may be there too, whole.  A run that hangs fails the test: for
 * over 5 seconds each time it is tried, or for ever.
 */
/* side by side */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/futex.h"
#include "engine/checkpoint.h"
#include "engine/segment.h"
#include "kv.h"
#include "model.h"
#include "scenario.h"
#include "threads.h"
#include "world.h"

#define REOPEN_BEFORE 15u /* the step before which the store is closed and opened */
#define HANG_SECONDS 300u /* for ever */

#define BACKUP_DIR "backup"
#define SALVAGE_DIR "salvaged"
#define GONE_MS (scenario_sweep_ms(0) - 1) /* when a key of a whole run expires: before all others */

static const kv_bytes A = {"a", 1}, B = {"b", 1};

/* ---- A run ------------------------------------------------------------------------------------- */

typedef struct fault {
    fault_call call;
    int sys_errno;
    unsigned flags;
    size_t limit;  /* transfers of so many bytes at most */
    kv_sync sync;
    bool harmless; /* every call must succeed nevertheless */
    bool buffered; /* the log goes through the page cache */
    bool killed;   /* no close at the end: the process is gone from the fault on */
    bool whole;    /* with the rest of a store's life */
} fault;

typedef struct run {
    world *w;
    const fault *fault;
    uint64_t nth;
    model *m;      /* what was acknowledged */
    model *maybe;  /* with the write whose outcome is unknown; NULL: there is none */
    bool failed;   /* the store has said so */
    bool gave_up;  /* it could not be opened */
    bool copied;   /* there is a backup */
    bool salvaged; /* there is a salvaged store, and there was no problem */
    uint64_t copy_digest, salvage_digest; /* of what had been acknowledged then */
} run;

static const run *current;  /* for who is told that it hangs */
static uint64_t slowest_ns; /* of the runs so far */

static const char *describe(const run *r) {
    static char text[200];
    snprintf(text, sizeof text, "%s number %d: %s%s%s, transfers of %zu, sync mode %d",
             fault_call_name(r->fault->call), (int)r->nth,
             r->fault->flags & FAULT_SHORT ? "half of it" : strerror(r->fault->sys_errno),
             r->fault->flags & FAULT_FOREVER ? " from then on" : "",
             r->fault->flags & FAULT_DONE ? ", but done" : "", r->fault->limit,
             (int)r->fault->sync);
    return text;
}

#define RUN_CHECK(r, condition, ...)                                                             \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            printf("# %s\n# ", describe(r));                                                     \
            printf(__VA_ARGS__);                                                                 \
            printf("\n");                                                                        \
            FAIL("CHECK(%s)", #condition);                                                       \
        }                                                                                        \
    } while (0)

/* What is read is what was acknowledged, also between a failure and the end. */
static void check_contents(run *r, const char *when) {
    world *w = r->w;
    uint64_t count;
    CHECK_OK(kv_verify(w->db, &w->err), &w->err);
    CHECK_OK(kv_count(w->db, 0, &count, &w->err), &w->err);
    RUN_CHECK(r, count == model_count(r->m), "%s: %d keys", when, (int)count);
    RUN_CHECK(r, store_digest(w->db) == model_digest(r->m), "%s: other contents", when);
}

/* Whether the error is one of the next segment's file, which has no name in the log yet. */
static bool is_of_a_spare(const kv_error *err) {
    return strstr(err->path, KV_SEGMENT_SPARE) != NULL || strcmp(err->path, WORLD_DIR) == 0;
}

static void note_failure(run *r, unsigned number, kv_status status) {
    world *w = r->w;
    kv_stats stats;
    RUN_CHECK(r, !r->fault->harmless, "%s: %s", scenario_name(number), w->err.message);
    /* A checkpoint may fail for any reason, the preparation of a segment too: the store goes on without it. */
    bool checkpoint = scenario_steps[number].kind == STEP_CHECKPOINT;
    RUN_CHECK(r,
              status == KV_ERR_FAILED || status == KV_ERR_NOSPACE || status == KV_ERR_NOMEM ||
                  (status == KV_ERR_IO && (checkpoint || is_of_a_spare(&w->err))),
              "%s: %s: %s: %s", scenario_name(number), kv_status_name(status), w->err.path, w->err.message);
    /* What was begun is taken away again, if that can be done. */
    if (checkpoint && r->fault->flags == 0)
        RUN_CHECK(r, memory_os_size(w->memory, WORLD_DIR, KV_CHECKPOINT_NEW) == -ENOENT,
                  "%s: a file is left", scenario_name(number));
    /* A write without space (and without a part of it to be taken back) can be undone. */
    if (r->fault->sys_errno == ENOSPC && r->fault->call == FAULT_WRITE && r->fault->limit == 0)
        RUN_CHECK(r, status == KV_ERR_NOSPACE, "%s: %s", scenario_name(number), w->err.message);
    RUN_CHECK(r, w->err.status == status && w->err.message[0] != '\0', "%s: %s: %s",
              scenario_name(number), kv_status_name(w->err.status), w->err.message);
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    RUN_CHECK(r, stats.failed == (status == KV_ERR_FAILED), "%s: failed is %d",
              scenario_name(number), stats.failed);
    if (status == KV_ERR_FAILED && !r->failed) {
        r->failed = true;
        r->maybe = model_clone(r->m);
        if (scenario_steps[number].kind == STEP_POP_ANY) {
            model_destroy(r->maybe); /* which key: only the store knows */
            r->maybe = NULL;
        } else {
            scenario_apply(number, r->maybe);
        }
    }
    check_contents(r, scenario_name(number));
}

static void run_step(run *r, unsigned number) {
    world *w = r->w;
    uint64_t before = model_digest(r->m);
    kv_status status = scenario_run(number, w->db, r->m, &w->err);
    if (status < 0 && !r->failed && r->fault->killed) {
        note_failure(r, number, status);
    } else if (status < 0) {
        note_failure(r, number, status);
        if (r->failed || r->fault->flags & FAULT_FOREVER)
            return;
        status = scenario_run(number, w->db, r->m, &w->err); /* there is space, or what else was missing */
        RUN_CHECK(r, status >= 0, "%s, again: %s", scenario_name(number), w->err.message);
    } else if (r->failed) {
        RUN_CHECK(r, before == model_digest(r->m), "%s was acknowledged by a failed store",
                  scenario_name(number));
    }
}

/* Opens; a second time, without the fault, when it fails. */
static void run_open(run *r) {
    world *w = r->w;
    if (world_try_open(w) == KV_OK)
        return;
    RUN_CHECK(r, !r->fault->harmless, "open: %s", w->err.message);
    if (r->fault->killed || r->fault->flags & FAULT_FOREVER) {
        r->gave_up = true;
        return;
    }
    kv_status status = world_try_open(w);
    RUN_CHECK(r, status == KV_OK, "open, again: %s: %s", w->err.message, w->err.path);
}

static void run_close(run *r) {
    if (r->w->db == NULL)
        return;
    kv_status status = world_try_close(r->w);
    RUN_CHECK(r, status == KV_OK || !r->fault->harmless, "close: %s", r->w->err.message);
    RUN_CHECK(r, status < 0 || !r->failed, "a failed store closed as if nothing had been");
}

/* A failed store says so to every write, in the same words. */
static void check_sticky(run *r) {
    kv_error first, second;
    kv_db *db = r->w->db;
    RUN_CHECK(r, kv_put(db, A, A, 0, &first) == KV_ERR_FAILED, "put");
    RUN_CHECK(r, kv_put(db, B, B, KV_SYNC, &second) == KV_ERR_FAILED, "put");
    CHECK_STR(first.message, second.message);
    CHECK_STR(first.path, second.path);
    CHECK(first.message[0] != '\0');
    RUN_CHECK(r, kv_make_durable(db, &first) == KV_ERR_FAILED, "make durable");
    const kv_op op = {KV_OP_PUT, A, A};
    RUN_CHECK(r, kv_write(db, &op, 1, 0, NULL, &first) == KV_ERR_FAILED, "write");
    int64_t number;
    RUN_CHECK(r, kv_incr(db, A, 1, 0, &number, &first) == KV_ERR_FAILED, "incr");
    check_contents(r, "at the end");
}

/* ---- The rest of a store's life ---------------------------------------------------------------- */

/* A key's time comes, and the worker sweeps it away; readers see nothing of either. */
static void run_expiry(run *r) {
    world *w = r->w;
    kv_stats before, now;
    CHECK_OK(kv_get_stats(w->db, 0, &before, &w->err), &w->err);
    world_set_clock(w, GONE_MS - 1); /* so near that the worker soon looks again */
    kv_status status = kv_put_expiring(w->db, A, B, GONE_MS, 0, &w->err);
    world_set_clock(w, GONE_MS);
    RUN_CHECK(r, status == KV_OK || !r->fault->harmless, "put expiring: %s", w->err.message);
    RUN_CHECK(r, status < 0 || !r->failed, "a write was acknowledged by a failed store");
    if (status == KV_ERR_FAILED && !r->failed) {
        r->failed = true;
        r->maybe = model_clone(r->m);
    }
    do {
        usleep(100);
        CHECK_OK(kv_get_stats(w->db, 0, &now, &w->err), &w->err);
    } while (status == KV_OK && now.expired == before.expired && fault_os_failures(w->faults) == 0);
    check_contents(r, "after an expiry");
}

static void run_backup(run *r) {
    world *w = r->w;
    kv_status status = kv_backup(w->db, BACKUP_DIR, NULL, NULL, &w->err);
    RUN_CHECK(r, status == KV_OK || !r->fault->harmless, "backup: %s", w->err.message);
    RUN_CHECK(r, status == KV_OK || w->err.status == status, "backup: %s", w->err.message);
    if (status < 0 && r->fault->flags == 0)
        RUN_CHECK(r, memory_os_size(w->memory, BACKUP_DIR, KV_STORE_FILE) == -ENOENT,
                  "backup: a file is left");
    r->copied = status == KV_OK;
    r->copy_digest = model_digest(r->m);
    check_contents(r, "after a backup");
}

static bool count_problem(void *arg, const kv_error *problem, const char *loss) {
    (void)problem;
    (void)loss;
    ++*(unsigned *)arg;
    return true;
}

/* kv_check, or kv_salvage into `into`: whether it found everything.  `closed`: there is nothing to be found. */
static bool run_examine(run *r, kv_db *into, bool closed) {
    world *w = r->w;
    unsigned problems = 0;
    kv_check_summary summary;
    kv_check_options options = {.problem = count_problem, .arg = &problems, .os = &w->os};
    uint64_t failures = fault_os_failures(w->faults);
    kv_status status = into != NULL ? kv_salvage(WORLD_DIR, into, &options, &summary, &w->err)
                                    : kv_check(WORLD_DIR, &options, &summary, &w->err);
    bool disturbed = fault_os_failures(w->faults) > failures && !r->fault->harmless;
    RUN_CHECK(r, status == KV_OK || disturbed, "examine: %s", w->err.message);
    RUN_CHECK(r, problems == 0 || disturbed || !closed, "examine: %u problems", problems);
    return status == KV_OK && problems == 0;
}

static void run_salvage(run *r, bool closed) {
    world *w = r->w;
    kv_db *db;
    kv_status status = kv_open(SALVAGE_DIR, &w->options, &db, &w->err);
    RUN_CHECK(r, status == KV_OK || !r->fault->harmless, "open to salvage: %s", w->err.message);
    if (status < 0)
        return;
    bool found = run_examine(r, db, closed);
    status = kv_close(db, &w->err);
    RUN_CHECK(r, status == KV_OK || !r->fault->harmless, "close: %s", w->err.message);
    r->salvaged = found && status == KV_OK;
    r->salvage_digest = model_digest(r->m);
    kv_destroy(db);
}

static void run_rest(run *r) {
    run_expiry(r);
    run_backup(r);
    bool closed = world_try_close(r->w) == KV_OK;
    RUN_CHECK(r, closed || !r->fault->harmless, "close: %s", r->w->err.message);
    RUN_CHECK(r, !closed || !r->failed, "a failed store closed as if nothing had been");
    (void)run_examine(r, NULL, closed);
    run_salvage(r, closed);
}

/* ---- All of it --------------------------------------------------------------------------------- */

/* The steps; then, when the fault was for ever and the store has not failed, once more without it. */
static void run_scenario(run *r) {
    run_open(r);
    for (unsigned i = 0; i < scenario_count && !r->gave_up; i++) {
        if (i == REOPEN_BEFORE && !r->failed) {
            run_close(r);
            run_open(r);
            if (r->gave_up)
                return;
        }
        run_step(r, i);
    }
    if (r->gave_up)
        return;
    if (r->failed)
        check_sticky(r);
    if (r->fault->whole)
        run_rest(r);
    if (r->fault->flags & FAULT_FOREVER && !r->failed && !r->fault->killed &&
        fault_os_failures(r->w->faults) > 0) {
        fault_os_heal(r->w->faults);
        if (r->w->db == NULL)
            world_open(r->w);
        for (unsigned i = 0; i < scenario_count; i++) {
            kv_status status = scenario_run(i, r->w->db, r->m, &r->w->err);
            RUN_CHECK(r, status >= 0, "with space again, %s: %s", scenario_name(i),
                      r->w->err.message);
        }
        check_contents(r, "with space again");
    }
}

typedef struct popping {
    const model *m;
    uint64_t found;
    bool right;
} popping;

static void pop_one(void *arg, kv_bytes key, kv_bytes value) {
    popping *p = arg;
    model *popped = model_clone(p->m);
    (void)value;
    model_delete(popped, key);
    p->right |= model_digest(popped) == p->found;
    model_destroy(popped);
}

/* Whether this is the state after a pop of any key. */
static bool is_popped(const model *m, uint64_t found) {
    popping p = {.m = m, .found = found};
    model_visit(m, pop_one, &p);
    return p.right;
}

/* What is found now is the acknowledged state, or that with the unknown write. */
static void check_found(run *r, kv_db *db, uint64_t acknowledged, const char *where) {
    uint64_t found = store_digest(db);
    bool with_maybe = r->maybe != NULL && found == model_digest(r->maybe);
    RUN_CHECK(r, found == acknowledged || with_maybe ||
                     (r->failed && r->maybe == NULL && is_popped(r->m, found)),
              "%s: other contents (%d keys, failed %d)", where, (int)model_count(r->m), r->failed);
    CHECK_OK(kv_verify(db, &r->w->err), &r->w->err);
}

/* The copies that were acknowledged are there, after a power cut, too. */
static void check_copy(run *r, const char *dir, uint64_t acknowledged) {
    world *w = r->w;
    kv_db *db;
    kv_status status = kv_open(dir, &w->options, &db, &w->err);
    RUN_CHECK(r, status == KV_OK, "%s: %s: %s", dir, w->err.message, w->err.path);
    check_found(r, db, acknowledged, dir);
    kv_destroy(db);
}

static uint64_t run_fault(const fault *f, uint64_t nth) {
    run r = {.w = world_create(), .fault = f, .nth = nth, .m = model_create()};
    world *w = r.w;
    uint64_t start_ns = kv_now_ns();
    current = &r;
    alarm(HANG_SECONDS);
    w->options.sync = f->sync;
    w->options.direct_io = !f->buffered;
    w->options.sync_interval_ns = UINT64_C(3600000000000);
    w->options.preload = true; /* test_checkpoint.c has the faults of loading later */
    fault_os_limit(w->faults, f->limit);
    if (nth > 0)
        fault_os_fail(w->faults, f->call, nth, f->sys_errno, f->flags);
    run_scenario(&r);
    uint64_t failures = fault_os_failures(w->faults);
    if (f->killed) {
        if (w->db != NULL)
            world_kill(w);
    } else {
        run_close(&r);
    }
    fault_os_heal(w->faults);
    fault_os_limit(w->faults, 0);

    w->options.sync = KV_SYNC_ALWAYS;
    kv_status status = world_try_open(w);
    RUN_CHECK(&r, status == KV_OK, "after it: %s: %s at %d", w->err.message, w->err.path,
              (int)w->err.offset);
    check_found(&r, w->db, model_digest(r.m), "after it");
    /* Whoever has seen this may rely on it: a power cut leaves it, and what is written from now on. */
    CHECK_OK(kv_put(w->db, A, B, 0, &w->err), &w->err);
    uint64_t seen = store_digest(w->db);
    world_cut_power(w);
    status = world_try_open(w);
    RUN_CHECK(&r, status == KV_OK, "after it and a power cut: %s: %s at %d", w->err.message,
              w->err.path, (int)w->err.offset);
    RUN_CHECK(&r, store_digest(w->db) == seen, "after it and a power cut: other contents");
    if (r.copied)
        check_copy(&r, BACKUP_DIR, r.copy_digest);
    if (r.salvaged)
        check_copy(&r, SALVAGE_DIR, r.salvage_digest);
    world_destroy(w);
    model_destroy(r.m);
    model_destroy(r.maybe);
    if (kv_now_ns() - start_ns > slowest_ns)
        slowest_ns = kv_now_ns() - start_ns;
    return failures;
}

static void tell_of_a_hang(int signal_number) {
    (void)signal_number;
    printf("# hangs: %s\n", describe(current));
    fflush(stdout);
    abort();
}

/* Fails call 1, 2, 3, ... until the scenario makes fewer. */
static void sweep(fault f) {
    uint64_t nth = 1;
    signal(SIGALRM, tell_of_a_hang);
    for (unsigned hung = 0;;) {
        check_try begin = check_begin();
        uint64_t failures = run_fault(&f, nth);
        hung = check_has_hung(begin) ? hung + 1 : 0;
        if (hung == 3)
            FAIL("hangs: %s", describe(&(run){.fault = &f, .nth = nth}));
        if (failures == 0)
            break;
        nth += hung == 0;
    }
    alarm(0);
    run r = {.fault = &f, .nth = nth - 1};
    printf("# %d cases, the last one %s; the slowest took %d ms\n", (int)r.nth, describe(&r),
           (int)(slowest_ns / 1000000));
}

#define SWEEP(...) sweep((fault){__VA_ARGS__})

static void test_undisturbed(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync++) {
        fault none = {.harmless = true, .sync = (kv_sync)sync};
        CHECK_EQ(run_fault(&none, 0), 0);
    }
}

/* ---- Sweeps ---------------------------------------------------------------------------------------- */

/* KV_SYNC_INTERVAL, with an interval that does not pass, is as KV_SYNC_NEVER: the sweeps leave it out. */

static void test_eio_once(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .sync = KV_SYNC_NEVER);
}

static void test_eio_from_then_on(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .flags = FAULT_FOREVER, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .flags = FAULT_FOREVER, .sync = KV_SYNC_NEVER);
}

static void test_no_descriptors(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EMFILE, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EMFILE, .flags = FAULT_FOREVER, .whole = true);
}

static void test_no_access(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EACCES, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EACCES, .flags = FAULT_FOREVER, .whole = true);
}

/* As a file system does it that has met an error of its own. */
static void test_read_only_of_a_sudden(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EROFS, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EROFS, .flags = FAULT_FOREVER, .whole = true);
}

/* SIGKILL: no call has an effect any more, but what was written is still in the system's memory. */
static void test_killed(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2)
        SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .flags = FAULT_FOREVER, .killed = true,
              .sync = (kv_sync)sync);
}

/* The call does what it should, and answers an error nevertheless. */
static void test_eio_but_done(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = EIO, .flags = FAULT_DONE);
    SWEEP(.call = FAULT_SYNC, .sys_errno = EIO, .flags = FAULT_DONE, .sync = KV_SYNC_NEVER);
}

static void test_no_space_once(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = ENOSPC, .whole = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = ENOSPC, .sync = KV_SYNC_NEVER);
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC);
}

static void test_no_space_from_then_on(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = ENOSPC, .flags = FAULT_FOREVER, .whole = true);
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2)
        SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .flags = FAULT_FOREVER,
              .sync = (kv_sync)sync);
}

/* A part of a frame is written before the space runs out. */
static void test_no_space_in_the_middle(void) {
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .limit = 512);
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .limit = 700);
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .limit = 512, .buffered = true);
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .limit = 512, .killed = true);
    SWEEP(.call = FAULT_WRITE, .sys_errno = ENOSPC, .flags = FAULT_FOREVER, .limit = 1000,
          .sync = KV_SYNC_NEVER);
}

/* A new segment may have its name, whatever the system says. */
static void test_rename_fails_but_is_done(void) {
    static const int errors[] = {ENOSPC, ENOMEM, EMFILE, EACCES};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        SWEEP(.call = FAULT_RENAME, .sys_errno = errors[i], .flags = FAULT_DONE);
        SWEEP(.call = FAULT_RENAME, .sys_errno = errors[i], .flags = FAULT_DONE, .killed = true);
    }
}

/* Direct I/O that is refused when it is turned on, or by a write, is done without. */
static void test_direct_io_is_refused(void) {
    SWEEP(.call = FAULT_DIRECT, .sys_errno = EINVAL, .harmless = true);
    SWEEP(.call = FAULT_DIRECT, .sys_errno = EIO, .flags = FAULT_FOREVER, .harmless = true);
}

static void test_no_memory(void) {
    SWEEP(.call = FAULT_ANY, .sys_errno = ENOMEM);
}

static void test_interrupted(void) {
    static const fault_call harmless[] = {FAULT_DIR_OPEN, FAULT_OPEN,   FAULT_CLOSE,  FAULT_SIZE,
                                          FAULT_READ,     FAULT_WRITE,  FAULT_TRUNCATE,
                                          FAULT_RENAME,   FAULT_UNLINK, FAULT_LOCK};
    for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++)
        SWEEP(.call = harmless[i], .sys_errno = EINTR, .harmless = true);
    SWEEP(.call = FAULT_ANY, .sys_errno = EINTR, .whole = true);
    /* It is not tried for ever. */
    SWEEP(.call = FAULT_ANY, .sys_errno = EINTR, .flags = FAULT_FOREVER, .whole = true);
}

static void test_short_transfers(void) {
    for (unsigned for_ever = 0; for_ever <= FAULT_FOREVER; for_ever += FAULT_FOREVER) {
        unsigned flags = FAULT_SHORT | for_ever;
        SWEEP(.call = FAULT_WRITE, .flags = flags, .harmless = true, .whole = true);
        SWEEP(.call = FAULT_READ, .flags = flags, .harmless = true, .whole = true);
        SWEEP(.call = FAULT_WRITE, .flags = flags, .harmless = true, .whole = true, .buffered = true);
    }
    static const size_t limits[] = {61, 512, 4095};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        fault f = {.limit = limits[i], .harmless = true};
        CHECK_EQ(run_fault(&f, 0), 0);
    }
}

/* ---- Syncs that fail as a disk's do ------------------------------------------------------------------ */

/* The sync of a file that is to fail, from now: 1 is the next.  The syncs of directories are left out:
 * a system that forgets a name and goes on is beyond what can be dealt with. */
static _Atomic uint64_t failing_sync;
static memory_os *failing_memory;

static int failing_sync_call(void *ctx, int file) {
    const kv_os *inner = fault_os_table(ctx);
    if (atomic_fetch_sub(&failing_sync, 1) == 1)
        memory_os_fail_sync(failing_memory, 1, EIO);
    return inner->sync(inner->ctx, file);
}

/* The system drops what a failed sync had to write and says no more about it (point 6 of
 * memory_os.h).  So the sync may not be made again, and the next start may not believe what it reads.
 * Whether there were so many syncs; `seen`: whether the failure was. */
static bool run_failed_sync(uint64_t nth, kv_sync sync, bool *seen) {
    world *w = world_create();
    model *m = model_create(), *maybe = NULL;
    bool failed = false, unknown = false;
    w->options.sync = sync;
    w->options.preload = true;
    w->os.sync = failing_sync_call;
    failing_memory = w->memory;
    failing_sync = nth;
    if (world_try_open(w) < 0) {
        CHECK_OK(world_try_open(w), &w->err); /* at creation: again */
        failed = true;
    }
    for (unsigned i = 0; i < scenario_count; i++) {
        if (maybe == NULL) {
            maybe = model_clone(m);
            unknown = scenario_steps[i].kind == STEP_POP_ANY; /* which key it would have been */
            if (!unknown)
                scenario_apply(i, maybe);
        }
        kv_status status = scenario_run(i, w->db, m, &w->err);
        if (status == KV_ERR_FAILED) {
            failed = true;
        } else if (status == KV_ERR_IO && !failed &&
                   (scenario_steps[i].kind == STEP_CHECKPOINT || is_of_a_spare(&w->err))) {
            model_destroy(maybe); /* of a file that is made another time; nothing was written */
            maybe = NULL;
        } else if (!failed) {
            CHECK(status >= 0);
            model_destroy(maybe);
            maybe = NULL;
        }
        CHECK_EQ(store_digest(w->db), model_digest(m));
    }
    failed |= world_try_close(w) < 0;
    bool fired = atomic_exchange(&failing_sync, 0) - 1 >= nth; /* counted down below 1 */
    w->options.sync = KV_SYNC_ALWAYS;
    world_open(w);
    uint64_t found = store_digest(w->db);
    bool done = unknown ? is_popped(m, found) : maybe != NULL && found == model_digest(maybe);
    if (found != model_digest(m) && !done)
        FAIL("failed sync %d: other contents", (int)nth);
    /* Now it has been seen. */
    CHECK_OK(kv_put(w->db, A, B, 0, &w->err), &w->err);
    found = store_digest(w->db);
    world_cut_power(w);
    world_open(w);
    if (store_digest(w->db) != found)
        FAIL("failed sync %d: what was seen after it is gone", (int)nth);
    world_destroy(w);
    model_destroy(m);
    model_destroy(maybe);
    *seen = failed;
    return fired;
}

static void test_failed_syncs(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2) {
        /* A spare that could not be synced is made again: not every failed sync is seen. */
        unsigned told = 0;
        uint64_t nth = 1;
        for (bool seen = false; run_failed_sync(nth, (kv_sync)sync, &seen); nth++)
            told += seen;
        printf("# %d syncs fail, %u of them seen, sync mode %d\n", (int)nth - 1, told, sync);
        CHECK(told >= 5);
    }
}

/* The failure is that of one sync, and neither it nor anything after it is tried again. */
static void test_failed_sync_is_final(void) {
    world *w = world_create();
    w->options.segment_size_min = w->options.segment_size_max = 1 << 20; /* no spare is made */
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    fault_os_fail(w->faults, FAULT_SYNC, 1, EIO, 0);
    CHECK_STATUS(kv_put(w->db, A, B, 0, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_EQ(w->err.sys_errno, EIO);
    CHECK_CONTAINS(w->err.path, "00000001.log");
    uint64_t syncs = fault_os_calls(w->faults, FAULT_SYNC);
    uint64_t writes = fault_os_calls(w->faults, FAULT_WRITE);
    CHECK_STATUS(kv_put(w->db, B, B, 0, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_STATUS(kv_clear(w->db, 0, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_STATUS(kv_make_durable(w->db, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_EQ(fault_os_calls(w->faults, FAULT_WRITE), writes);
    kv_value value;
    CHECK_OK(kv_get(w->db, A, 0, &value, &w->err), &w->err);
    CHECK_MEM(value.data, "a", 1);
    CHECK_STATUS(world_try_close(w), KV_ERR_FAILED, &w->err);
    CHECK_EQ(fault_os_calls(w->faults, FAULT_SYNC), syncs);
    world_destroy(w);
}

/* ---- Syncs that fail, and those who wait for them ------------------------------------------------------ */

enum { WAITERS = 5 };

typedef struct waiting {
    world *w;
    unsigned flags;
    int sys_errno;
} waiting;

static void wait_for_a_sync(worker *me) {
    waiting *t = me->shared;
    kv_error err;
    kv_bytes key = bytes_of(&me->id, sizeof me->id);
    CHECK_STATUS(kv_put(t->w->db, key, B, t->flags, &err), KV_ERR_FAILED, &err);
    CHECK_EQ(err.sys_errno, t->sys_errno);
}

/* One leads, and the others are the next group: all are told, and so is who comes later. */
static void run_waiters(waiting *t) {
    world *w = t->w;
    crew crew = {0};
    kv_stats stats;
    kv_value value;
    uint64_t count;
    w->options.segment_size_min = w->options.segment_size_max = 1 << 20; /* no spare is made */
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, KV_SYNC, &w->err), &w->err);
    fault_os_gate_close(w->faults, FAULT_SYNC);
    for (unsigned i = 0; i < WAITERS; i++)
        crew_add(&crew, wait_for_a_sync, t);
    do {
        CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    } while (stats.commits < 1 + WAITERS);
    fault_os_gate_wait(w->faults, FAULT_SYNC, 1);
    fault_os_fail(w->faults, FAULT_SYNC, 1, t->sys_errno, 0); /* another one would succeed */
    fault_os_gate_open(w->faults, FAULT_SYNC);
    crew_join(&crew);
    uint64_t syncs = fault_os_calls(w->faults, FAULT_SYNC);
    for (unsigned flags = 0; flags <= KV_SYNC; flags += KV_SYNC) {
        CHECK_STATUS(kv_put(w->db, B, B, flags, &w->err), KV_ERR_FAILED, &w->err);
        CHECK_EQ(w->err.sys_errno, t->sys_errno);
    }
    CHECK_STATUS(kv_make_durable(w->db, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_OK(kv_get(w->db, A, 0, &value, &w->err), &w->err);
    CHECK_MEM(value.data, "a", 1);
    kv_value_release(&value);
    CHECK_OK(kv_count(w->db, 0, &count, &w->err), &w->err);
    CHECK_EQ(count, 1);
    CHECK_STATUS(world_try_close(w), KV_ERR_FAILED, &w->err);
    CHECK_EQ(fault_os_calls(w->faults, FAULT_SYNC), syncs);
    for (int cut = 0; cut < 2; cut++) {
        world_open(w);
        CHECK_OK(kv_get(w->db, A, 0, &value, &w->err), &w->err);
        CHECK_MEM(value.data, "a", 1);
        kv_value_release(&value);
        world_cut_power(w);
    }
    world_destroy(w);
}

static void test_whatever_a_sync_answers(void) {
    static const int errors[] = {EIO,    ENOSPC, EDQUOT, EINTR,  EMFILE, EACCES, EROFS,  ENOMEM,
                                 EAGAIN, EBADF,  EINVAL, ENODEV, ESTALE, EPERM,  ENOSYS, EOPNOTSUPP};
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2) {
            waiting t = {world_create(), sync == KV_SYNC_NEVER ? KV_SYNC : 0, errors[i]};
            t.w->options.sync = (kv_sync)sync;
            run_waiters(&t);
        }
    printf("# %zu errors\n", sizeof errors / sizeof errors[0]);
}

/* ---- The next segment's file cannot be made --------------------------------------------------------------- */

static void test_next_segment_fails(void) {
    static const struct {
        fault_call call;
        int sys_errno;
    } cases[] = {{FAULT_OPEN, EMFILE}, {FAULT_OPEN, ENFILE},    {FAULT_OPEN, EACCES},  {FAULT_OPEN, ENOSPC},
                 {FAULT_OPEN, ENOMEM}, {FAULT_TRUNCATE, EIO},   {FAULT_WRITE, EFBIG},  {FAULT_SYNC, EIO},
                 {FAULT_SYNC, ENOSPC}, {FAULT_SIZE, EIO},       {FAULT_RANDOM, EMFILE}};
    static uint8_t value[24000];
    kv_bytes small = bytes_of(value, 5000), large = bytes_of(value, sizeof value);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2) {
            world *w = world_create();
            model *m = model_create();
            kv_error *err = &w->err;
            kv_stats stats;
            w->options.sync = (kv_sync)sync;
            w->options.segment_size_min = w->options.segment_size_max = 32768;
            world_open(w);
            CHECK_OK(kv_put(w->db, A, small, KV_SYNC, err), err); /* before the middle: no spare is made yet */
            fault_os_fail(w->faults, cases[i].call, 1, cases[i].sys_errno, FAULT_FOREVER);
            for (int again = 0; again < 3; again++) {
                const kv_op ops[] = {{KV_OP_PUT, B, large}, {KV_OP_DELETE, A, {0}}};
                kv_status status = kv_write(w->db, ops, 2, 0, NULL, err);
                CHECK(status == KV_ERR_IO || status == KV_ERR_NOSPACE || status == KV_ERR_NOMEM);
                CHECK_EQ(err->sys_errno, cases[i].sys_errno);
                CHECK(is_of_a_spare(err));
            }
            model_put(m, A, small);
            model_check(m, w->db);
            CHECK_OK(kv_get_stats(w->db, 0, &stats, err), err);
            CHECK(!stats.failed);
            CHECK_EQ(stats.log_segments, 1);
            CHECK_EQ(stats.undo_records, 0);
            fault_os_heal(w->faults);
            CHECK_OK(kv_put(w->db, B, large, KV_SYNC, err), err);
            model_put(m, B, large);
            world_cut_power(w);
            world_open(w);
            model_check(m, w->db);
            CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, KV_SEGMENT_SPARE), -ENOENT);
            model_destroy(m);
            world_destroy(w);
        }
}

/* A closing frame that needs the next segment is done without: what was written is on disk. */
static void test_close_without_a_next_segment(void) {
    static const int errors[] = {ENOSPC, EMFILE};
    static uint8_t value[4000];
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2)
            for (size_t size = sizeof value - 100; size < sizeof value - 16; size += 16) { /* up to the end frame */
                world *w = world_create();
                model *m = model_create();
                w->options.sync = (kv_sync)sync;
                world_open(w);
                fault_os_fail(w->faults, FAULT_OPEN, 1, errors[i], FAULT_FOREVER);
                CHECK_OK(kv_put(w->db, A, bytes_of(value, size), 0, &w->err), &w->err);
                model_put(m, A, bytes_of(value, size));
                world_close(w);
                world_cut_power(w);
                world_open(w);
                model_check(m, w->db);
                CHECK_OK(kv_put(w->db, A, B, 0, &w->err), &w->err);
                model_destroy(m);
                world_destroy(w);
            }
}

#define FILE_SIZE_MAX (2 * WORLD_SEGMENT_SIZE)

static int64_t limited_write(void *ctx, int file, const void *buffer, size_t size, uint64_t offset) {
    const kv_os *inner = fault_os_table(ctx);
    return offset + size > FILE_SIZE_MAX ? -EFBIG : inner->write(inner->ctx, file, buffer, size, offset);
}

/* As `ulimit -f` does it: where a large segment is not allowed, a small one will do, and only what is too large for
 * any is refused. */
static void test_no_large_files(void) {
    world *w = world_create();
    static uint8_t value[FILE_SIZE_MAX];
    w->options.segment_size_max = 16 * FILE_SIZE_MAX;
    w->os.write = limited_write;
    world_open(w);
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(kv_put(w->db, A, bytes_of(value, 1000), 0, &w->err), &w->err);
    CHECK_STATUS(kv_put(w->db, A, bytes_of(value, sizeof value), 0, &w->err), KV_ERR_IO, &w->err);
    CHECK_EQ(w->err.sys_errno, EFBIG);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    world_destroy(w);
}

/* ---- No space, by hand --------------------------------------------------------------------------------- */

static void test_no_space_rolls_back(void) {
    world *w = world_create();
    model *m = model_create();
    world_open(w);
    kv_error *err = &w->err;
    for (unsigned i = 0; i < 15; i++)
        CHECK(scenario_run(i, w->db, m, err) >= 0);
    kv_snapshot *before, *after;
    CHECK_OK(kv_snapshot_create(w->db, &before, err), err);
    kv_stats stats, now;
    CHECK_OK(kv_get_stats(w->db, 0, &stats, err), err);
    fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_FOREVER);

    kv_value value;
    kv_item item;
    int64_t number;
    uint64_t deleted;
    const kv_op ops[] = {{KV_OP_PUT, A, A}, {KV_OP_PUT, LITERAL("key-1"), A},
                         {KV_OP_DELETE, LITERAL("key-10"), {0}}};
    CHECK_STATUS(kv_put(w->db, A, B, 0, err), KV_ERR_NOSPACE, err);
    CHECK_EQ(err->sys_errno, ENOSPC);
    CHECK_STATUS(kv_put(w->db, LITERAL("key-1"), B, 0, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_delete(w->db, LITERAL("key-1"), 0, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_pop(w->db, LITERAL("key-1"), 0, &value, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_pop_any(w->db, 0, &item, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_incr(w->db, LITERAL("key-100"), 1, 0, &number, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_put_absent(w->db, B, B, 0, NULL, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_write(w->db, ops, 3, 0, &deleted, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_clear(w->db, 0, err), KV_ERR_NOSPACE, err);
    CHECK_STATUS(kv_delete(w->db, B, 0, err), KV_NOTFOUND, err); /* nothing to write */

    CHECK_OK(kv_get_stats(w->db, 0, &now, err), err);
    CHECK_EQ(now.entries, stats.entries);
    CHECK_EQ(now.data_bytes, stats.data_bytes);
    CHECK_EQ(now.lsn, stats.lsn);
    CHECK_EQ(now.durable_lsn, stats.durable_lsn);
    CHECK_EQ(now.undo_records, 0);
    CHECK(!now.failed);
    model_check(m, w->db);
    CHECK_OK(kv_verify(w->db, err), err);
    CHECK_OK(kv_snapshot_create(w->db, &after, err), err);
    uint64_t count;
    CHECK_EQ(snapshot_digest(before, &count), model_digest(m));
    CHECK_EQ(snapshot_digest(after, &count), model_digest(m));

    fault_os_heal(w->faults);
    for (unsigned i = 15; i < scenario_count; i++)
        CHECK(scenario_run(i, w->db, m, err) >= 0);
    model_check(m, w->db);
    kv_snapshot_destroy(before);
    kv_snapshot_destroy(after);
    world_close(w);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

static void put_refused(worker *me) {
    kv_error err;
    CHECK_STATUS(kv_put(((world *)me->shared)->db, B, B, 0, &err), KV_ERR_NOSPACE, &err);
}

static void make_durable(worker *me) {
    kv_error err;
    CHECK_OK(kv_make_durable(((world *)me->shared)->db, &err), &err);
}

/* A write that is refused does not keep what was written before from the disk: neither when a sync is to come with
 * it, nor when one is asked for meanwhile, which is then told that all is there. */
static void test_sync_beside_a_write_without_room(void) {
    enum { TOGETHER, MEANWHILE, SYNC_FAILS, CASES };
    for (int how = 0; how < CASES; how++) {
        world *w = world_create();
        model *m = model_create();
        kv_stats stats;
        crew crew = {0};
        w->options.sync = KV_SYNC_NEVER;
        w->options.segment_size_min = w->options.segment_size_max = 65536; /* no spare is made */
        world_open(w);
        CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
        model_put(m, A, A);
        fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, 0);
        if (how == SYNC_FAILS)
            fault_os_fail(w->faults, FAULT_SYNC, 1, EIO, 0);
        if (how == MEANWHILE) {
            fault_os_gate_close(w->faults, FAULT_WRITE);
            crew_add(&crew, put_refused, w);
            fault_os_gate_wait(w->faults, FAULT_WRITE, 1);
            crew_add(&crew, make_durable, w);
            usleep(20000); /* it waits for the next group */
            fault_os_gate_open(w->faults, FAULT_WRITE);
            crew_join(&crew);
        } else {
            CHECK_STATUS(kv_put(w->db, B, B, KV_SYNC, &w->err), how == SYNC_FAILS ? KV_ERR_FAILED : KV_ERR_NOSPACE,
                         &w->err);
        }
        CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
        CHECK_EQ(stats.failed, how == SYNC_FAILS);
        CHECK_EQ(stats.durable_lsn, how == SYNC_FAILS ? 0 : stats.lsn);
        model_check(m, w->db);
        world_cut_power(w);
        world_open(w);
        if (how != SYNC_FAILS)
            model_check(m, w->db);
        model_destroy(m);
        world_destroy(w);
    }
}

/* A short frame after the remains of a longer one that was given up: nothing of the longer one may be
 * taken for damage, or for data. */
static void test_short_frame_after_a_long_one(void) {
    static char big[3000];
    memset(big, 'x', sizeof big);
    for (uint64_t nth = 1; nth <= 6; nth++)
        for (int end = 0; end < 3; end++) {
            world *w = world_create();
            w->options.segment_size_min = w->options.segment_size_max = 65536; /* no spare is made */
            world_open(w);
            CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
            fault_os_limit(w->faults, 512);
            fault_os_fail(w->faults, FAULT_WRITE, nth, ENOSPC, 0);
            CHECK_STATUS(kv_put(w->db, B, bytes_of(big, sizeof big), 0, &w->err), KV_ERR_NOSPACE,
                         &w->err);
            CHECK_OK(kv_put(w->db, A, B, 0, &w->err), &w->err);
            if (end == 0)
                world_close(w);
            else if (end == 1)
                world_kill(w);
            else
                world_cut_power(w);
            fault_os_limit(w->faults, 0);
            world_open(w);
            kv_recovery recovery;
            kv_get_recovery(w->db, &recovery);
            CHECK_EQ(recovery.bytes_cut, 0);
            model *m = model_create();
            model_put(m, A, B);
            model_check(m, w->db);
            model_destroy(m);
            world_destroy(w);
        }
}

CHECK_MAIN(TEST(test_undisturbed), TEST(test_eio_once), TEST(test_eio_from_then_on), TEST(test_no_descriptors), TEST(test_no_access),
           TEST(test_read_only_of_a_sudden),
           TEST(test_killed), TEST(test_eio_but_done), TEST(test_no_space_once),
           TEST(test_no_space_from_then_on), TEST(test_no_space_in_the_middle),
           TEST(test_rename_fails_but_is_done), TEST(test_direct_io_is_refused), TEST(test_no_memory), TEST(test_interrupted),
           TEST(test_short_transfers), TEST(test_failed_syncs), TEST(test_failed_sync_is_final), TEST(test_whatever_a_sync_answers),
           TEST(test_next_segment_fails), TEST(test_close_without_a_next_segment), TEST(test_no_large_files),
           TEST(test_no_space_rolls_back), TEST(test_sync_beside_a_write_without_room),
           TEST(test_short_frame_after_a_long_one))
