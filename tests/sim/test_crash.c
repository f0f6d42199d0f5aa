/* test_crash.c - the power goes at every moment of the scenario, and again while it is recovered from.
 *
 * After each call to the file system the disk is imagined as a power cut could leave it: nothing of what
 * is not synced; each prefix of it; each change alone missing; the newest write torn at each sector, with
 * old or other bytes behind; or other bytes altogether.  Each such image must open by itself, and hold
 * the state after some prefix of the commits, with every one in it that had been made durable: under
 * KV_SYNC_ALWAYS, all that were acknowledged.
 *
 * An image is also recovered under the same watch: what a power cut in the middle of it leaves must
 * recover to the same state.  And life goes on: the next commit is made again, just as before the cut, so
 * that it ends where the old one ended; after one more power cut nothing but it may have come back.
 *
 * The scenario's checkpoints are part of it: some of its steps are done by the checkpoint's own thread while it is
 * made, behind the moment that it shows and before its shards are walked, and again before it gets its name.  A key
 * expires in the middle and is swept away.
 *
 * What was recovered from an image depends on its bytes alone, so images are remembered by them.
 *
 *     PYKV_C_CRASH=3   so many power cuts in a row (not 1 or 2), writes torn at every sector: minutes
 */
/* side by side */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

#include "engine/checkpoint.h"
#include "engine/segment.h"
#include "kv.h"
#include "model.h"
#include "scenario.h"
#include "world.h"

#define COMMITS_MAX 80u
#define SEEN_SIZE (1u << 18)

typedef struct seen {
    uint64_t image;  /* digest of its files; 0: a free place */
    uint64_t state;  /* digest of what was recovered */
} seen;

typedef struct crash {
    kv_options options; /* of the images' stores */
    unsigned depth_max;
    bool thorough;
    /* commit i + 1 was made by step step_of[i] and led to state history[i + 1] */
    uint64_t history[COMMITS_MAX + 1];
    unsigned step_of[COMMITS_MAX];
    unsigned commits;         /* in the history: all that may have been made */
    _Atomic unsigned floor;   /* commits that must be there */
    _Atomic unsigned ceiling; /* commits that may be there */
    pthread_mutex_t mutex;    /* guards what follows */
    seen *seen;
    uint64_t images, opened;
} crash;

/* One store whose disk is imagined.  `depth`: how many cuts it comes after. */
typedef struct watched {
    crash *crash;
    memory_os *memory;
    unsigned depth;
    size_t changes;        /* at the last look */
    uint64_t first_state;  /* what they have led to so far */
    bool has_first;
} watched;

static void watch(void *arg, fault_call call, bool after);

/* ---- One image -------------------------------------------------------------------------------------- */

static bool is_state(const crash *c, uint64_t state, unsigned floor, unsigned ceiling,
                     unsigned *commits) {
    for (unsigned i = ceiling + 1; i-- > floor;)
        if (c->history[i] == state) {
            *commits = i;
            return true;
        }
    return false;
}

/* The model after so many commits. */
static model *model_after(const crash *c, unsigned commits) {
    model *m = model_create();
    for (unsigned i = 0; i < commits; i++)
        scenario_apply(c->step_of[i], m);
    return m;
}

/* Makes the next commit once more, loses the power and looks. */
static void go_on(crash *c, world *w, unsigned commits) {
    if (commits == c->commits)
        return;
    model *m = model_after(c, commits);
    CHECK_OK(scenario_run(c->step_of[commits], w->db, m, &w->err), &w->err);
    CHECK_OK(kv_make_durable(w->db, &w->err), &w->err);
    world_cut_power(w);
    world_open(w);
    if (store_digest(w->db) != model_digest(m))
        FAIL("after a power cut, recovery to commit %u, one more commit (%s) and another power cut: "
             "other contents",
             commits, scenario_name(c->step_of[commits]));
    model_destroy(m);
}

typedef struct names {
    uint64_t checkpoint, oldest_checkpoint, oldest_segment;
    bool scrap;
} names;

static bool note_name(void *arg, const char *name) {
    names *n = arg;
    uint64_t checkpoint = kv_checkpoint_sequence(name), segment = kv_segment_sequence(name);
    if (checkpoint > n->checkpoint)
        n->checkpoint = checkpoint;
    if (checkpoint != 0 && checkpoint < n->oldest_checkpoint)
        n->oldest_checkpoint = checkpoint;
    if (segment != 0 && segment < n->oldest_segment)
        n->oldest_segment = segment;
    n->scrap |= strcmp(name, KV_CHECKPOINT_NEW) == 0 || strcmp(name, KV_SEGMENT_RECYCLED) == 0;
    return true;
}

/* An open has removed what is not needed. */
static void check_names(world *w) {
    names n = {.oldest_checkpoint = UINT64_MAX, .oldest_segment = UINT64_MAX};
    const kv_os *os = memory_os_table(w->memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    CHECK_EQ(os->dir_list(os->ctx, dir, note_name, &n), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    CHECK(!n.scrap);
    CHECK(n.checkpoint == 0 || n.oldest_checkpoint == n.checkpoint);
    CHECK_EQ(n.oldest_segment, n.checkpoint != 0 ? n.checkpoint : 1);
}

/* Opens the image (taken) and gives the state that it holds. */
static uint64_t recover(crash *c, memory_os *image, unsigned depth) {
    world *w = world_create_on(image);
    const kv_os *os = w->options.os;
    w->options = c->options;
    w->options.os = os;
    watched nested = {.crash = c, .memory = image, .depth = depth};
    if (depth < c->depth_max)
        fault_os_watch(w->faults, watch, &nested);
    c->opened++;
    if (world_try_open(w) < 0)
        FAIL("depth %u: %s: %s at %d", depth, w->err.message, w->err.path, (int)w->err.offset);
    fault_os_watch(w->faults, NULL, NULL);
    check_names(w);
    uint64_t state = store_digest(w->db);
    unsigned commits;
    if (!is_state(c, state, 0, c->commits, &commits))
        FAIL("depth %u: a state that never was", depth);
    if (nested.has_first && nested.first_state != state)
        FAIL("depth %u: a power cut during recovery leads to another state than recovery", depth);
    go_on(c, w, commits);
    world_destroy(w);
    return state;
}

/* The state that an image (taken) holds; the mutex is held. */
static uint64_t state_of(crash *c, memory_os *image, unsigned depth) {
    uint64_t digest = world_files_digest(image) | 1;
    size_t at = digest % SEEN_SIZE;
    c->images++;
    for (; c->seen[at].image != 0; at = (at + 1) % SEEN_SIZE)
        if (c->seen[at].image == digest) {
            memory_os_destroy(image);
            return c->seen[at].state;
        }
    uint64_t state = recover(c, image, depth);
    for (at = digest % SEEN_SIZE; c->seen[at].image != 0; at = (at + 1) % SEEN_SIZE)
        ; /* others may have come meanwhile */
    c->seen[at] = (seen){digest, state};
    CHECK(c->opened < SEEN_SIZE / 2);
    return state;
}

static const char *describe(memory_os *m, size_t i) {
    static const char *const kinds[] = {"write", "truncate", "make", "rename", "remove"};
    static char text[200];
    memory_change change = memory_os_change(m, i);
    snprintf(text, sizeof text, "%s %s %s at %d, %d bytes", kinds[change.kind], change.name,
             change.to, (int)change.offset, (int)change.size);
    return text;
}

/* ---- All images of one moment --------------------------------------------------------------------------- */

typedef struct moment {
    watched *watched;
    unsigned floor, ceiling;
    memory_fate *fates;
    size_t count;
} moment;

static void check_image(moment *m, const char *how, size_t which) {
    watched *x = m->watched;
    unsigned commits;
    uint64_t state = state_of(x->crash, memory_os_cut(x->memory, m->fates, m->count), x->depth + 1);
    if (x->depth == 0) {
        if (is_state(x->crash, state, m->floor, m->ceiling, &commits))
            return;
        printf("# commits %u to %u may be there\n", m->floor, m->ceiling);
    } else {
        if (!x->has_first)
            x->first_state = state;
        x->has_first = true;
        if (x->first_state == state)
            return;
        printf("# power cut number %u, during recovery\n", x->depth + 1);
    }
    for (size_t i = 0; i < m->count; i++)
        printf("# change %zu: fate %d of %s\n", i, (int)m->fates[i].kind, describe(x->memory, i));
    if (which < m->count)
        printf("# %zu: %s\n", which, describe(x->memory, which));
    FAIL("%s: %s", how,
         is_state(x->crash, state, 0, x->crash->commits, &commits) ? "the wrong state"
                                                                   : "a state that never was");
}

static void all_are(moment *m, memory_fate_kind kind, size_t from) {
    for (size_t i = from; i < m->count; i++)
        m->fates[i] = (memory_fate){kind, 0};
}

/* Bytes written over the same bytes are taken to be safe (DURABILITY.md): whatever is in the middle of
 * a sector's way to the disk is equal to what is there. */
static bool changes_bytes(memory_os *memory, size_t i) {
    memory_os *before = memory_os_cut_after(memory, i), *after = memory_os_cut_after(memory, i + 1);
    bool differ = world_files_digest(before) != world_files_digest(after);
    memory_os_destroy(before);
    memory_os_destroy(after);
    return differ;
}

/* The places to tear a write at: the first, one in the middle, the last; or all. */
static size_t next_tear(const crash *c, size_t at, size_t tears) {
    if (c->thorough || at == tears)
        return at + 1;
    return at < tears / 2 ? tears / 2 : tears;
}

/* Write `i` goes wrong, and what came after it is not there, or is. */
static void check_damaged_write(moment *m, size_t i) {
    memory_change change = memory_os_change(m->watched->memory, i);
    bool garble = changes_bytes(m->watched->memory, i);
    for (int kept = 0; kept < 2; kept++) {
        all_are(m, MEMORY_KEPT, 0);
        if (!kept)
            all_are(m, MEMORY_LOST, i + 1);
        for (size_t at = 1; at <= change.tears; at = next_tear(m->watched->crash, at, change.tears)) {
            m->fates[i] = (memory_fate){MEMORY_TORN, at};
            check_image(m, "a torn write", i);
            m->fates[i] = (memory_fate){MEMORY_TORN_HEAD, at};
            check_image(m, "a write without its head", i);
            m->fates[i] = (memory_fate){MEMORY_TORN_GARBLED, at};
            if (garble)
                check_image(m, "a torn write with other bytes behind", i);
        }
        m->fates[i] = (memory_fate){MEMORY_GARBLED, 1};
        if (garble)
            check_image(m, "a garbled write", i);
    }
}

static void check_moment(watched *x) {
    crash *c = x->crash;
    moment m = {.watched = x, .floor = atomic_load(&c->floor)};
    memory_os *memory = x->memory;
    m.count = memory_os_change_count(memory);
    m.ceiling = atomic_load(&c->ceiling);
    m.fates = calloc(m.count + 1, sizeof *m.fates);
    all_are(&m, MEMORY_KEPT, 0);
    check_image(&m, "all kept", m.count);
    for (size_t i = 0; i < m.count; i++) {
        all_are(&m, MEMORY_KEPT, 0);
        m.fates[i].kind = MEMORY_LOST;
        check_image(&m, "one change lost", i);
    }
    for (size_t i = m.count; i-- > 0;) {
        m.fates[i].kind = MEMORY_LOST;
        check_image(&m, "all lost from here on", i);
    }
    /* What is older has been damaged at its own moment. */
    for (size_t i = x->changes < m.count ? x->changes : m.count; i < m.count; i++)
        if (memory_os_change(memory, i).kind == MEMORY_WRITE)
            check_damaged_write(&m, i);
    x->changes = m.count;
    free(m.fates);
}

/* One call at a time, with its look at what it has left. */
static void watch(void *arg, fault_call call, bool after) {
    watched *x = arg;
    bool outermost = x->depth == 0; /* an image is opened by a thread that has the mutex */
    if (!after) {
        if (outermost)
            pthread_mutex_lock(&x->crash->mutex);
        return;
    }
    switch (call) {
    case FAULT_OPEN: /* may make a file */
    case FAULT_WRITE:
    case FAULT_TRUNCATE:
    case FAULT_RESERVE:
    case FAULT_RENAME:
    case FAULT_UNLINK:
    case FAULT_SYNC:
    case FAULT_DIR_SYNC:
        check_moment(x);
        break;
    default:
        break;
    }
    if (outermost)
        pthread_mutex_unlock(&x->crash->mutex);
}

/* ---- The scenario -------------------------------------------------------------------------------------- */

/* The run of the scenario, for the calls that a checkpoint makes. */
static struct run {
    crash *c;
    world *w;
    model *m;
    unsigned number; /* the step at hand */
    unsigned during; /* steps that the checkpoint at hand lets happen */
    bool recycled;   /* a segment made of an older one has been seen */
} run;

static void run_step(crash *c, world *w, model *m, unsigned number);

static void steps_within(unsigned count) {
    for (; count > 0; count--) {
        run.during--;
        run_step(run.c, run.w, run.m, ++run.number);
    }
}

/* A checkpoint has chosen its moment, and not yet looked at any shard. */
static int open_and_go_on(void *ctx, int dir, const char *name, kv_open_mode mode) {
    const kv_os *os = fault_os_table(ctx);
    if (run.during > 0 && strcmp(name, KV_CHECKPOINT_NEW) == 0)
        steps_within((run.during + 1) / 2);
    return os->open(os->ctx, dir, name, mode);
}

/* It is written, and has no name yet; or a segment is used again. */
static int rename_and_go_on(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    if (run.during > 0 && kv_checkpoint_sequence(to) != 0)
        steps_within(run.during);
    run.recycled |= strcmp(from, KV_SEGMENT_RECYCLED) == 0;
    return os->rename(os->ctx, dir, from, to);
}

/* The clock passes the moment at which the key expires; until it is swept away. */
static kv_status let_expire(world *w, model *m, unsigned number) {
    kv_stats stats, now;
    CHECK_OK(kv_get_stats(w->db, &stats, &w->err), &w->err);
    world_set_clock(w, SCENARIO_SWEEP_MS);
    do {
        usleep(1000);
        CHECK_OK(kv_get_stats(w->db, &now, &w->err), &w->err);
    } while (now.expired == stats.expired || now.visible_lsn == stats.visible_lsn);
    CHECK_EQ(now.expired, stats.expired + 1);
    scenario_apply(number, m);
    return KV_OK;
}

/* The keeper makes a spare of a segment that was let go; it need not be in time. */
static void let_recycle(world *w) {
    for (unsigned i = 0; i < 30 && memory_os_size(w->memory, WORLD_DIR, KV_SEGMENT_RECYCLED) > 0; i++)
        usleep(1000);
}

static void run_step(crash *c, world *w, model *m, unsigned number) {
    model *then = model_clone(m);
    unsigned before = c->commits;
    scenario_apply(number, then);
    const step *s = &scenario_steps[number];
    bool commit = model_digest(then) != model_digest(m) || s->kind == STEP_BATCH;
    if (commit) {
        CHECK(c->commits < COMMITS_MAX);
        pthread_mutex_lock(&c->mutex);
        c->step_of[c->commits] = number;
        c->history[++c->commits] = model_digest(then);
        pthread_mutex_unlock(&c->mutex);
        atomic_store(&c->ceiling, c->commits);
    }
    if (s->kind == STEP_CHECKPOINT)
        run.during = (unsigned)s->size;
    kv_status status = s->kind == STEP_SWEEP ? let_expire(w, m, number)
                                             : scenario_run(number, w->db, m, &w->err);
    CHECK_OK(status < 0 ? status : KV_OK, &w->err);
    if (s->kind != STEP_CHECKPOINT)
        CHECK_EQ(model_digest(m), model_digest(then));
    model_destroy(then);
    let_recycle(w);
    bool durable = s->kind == STEP_SYNC || (commit && s->flags & KV_SYNC);
    if (durable || w->options.sync == KV_SYNC_ALWAYS)
        atomic_store(&c->floor, c->commits);
    else if (s->kind == STEP_CHECKPOINT && atomic_load(&c->floor) < before)
        atomic_store(&c->floor, before);
}

static void close_and_open(crash *c, world *w) {
    world_close(w);
    atomic_store(&c->floor, c->commits);
    world_open(w);
}

/* `blocks`: alignment of direct I/O; 0: this system has none. */
static void crash_in_mode(kv_sync sync, unsigned blocks, unsigned depth_max) {
    const char *more = getenv("PYKV_C_CRASH");
    world *w = world_create();
    model *m = model_create();
    memory_os_set_direct(w->memory, blocks);
    w->options.sync = sync;
    w->options.sync_interval_ns = 1000000; /* so that syncs and marks come at any moment */
    crash c = {.options = w->options, .thorough = more != NULL};
    c.options.sync_interval_ns = UINT64_C(3600000000000);
    c.depth_max = more != NULL ? (unsigned)atoi(more) : depth_max;
    c.seen = calloc(SEEN_SIZE, sizeof *c.seen);
    pthread_mutex_init(&c.mutex, NULL);
    watched x = {.crash = &c, .memory = w->memory};
    fault_os_watch(w->faults, watch, &x);
    w->os.open = open_and_go_on;
    w->os.rename = rename_and_go_on;
    world_open(w);
    run = (struct run){.c = &c, .w = w, .m = m};
    for (; run.number < scenario_count; run.number++) {
        if (scenario_steps[run.number].kind == STEP_POP_ANY)
            continue; /* which key it takes is another one each time */
        run_step(&c, w, m, run.number);
        CHECK_EQ(run.during, 0);
        if (run.number % 11 == 10)
            close_and_open(&c, w);
    }
    close_and_open(&c, w);
    CHECK(run.recycled);
    world_close(w);
    fault_os_watch(w->faults, NULL, NULL);
    CHECK_EQ(memory_os_direct_writes(w->memory) > 0, blocks > 0); /* of checkpoints in every mode */
    printf("# sync mode %d: %d images, of which %d different ones were recovered\n", (int)sync,
           (int)c.images, (int)c.opened);
    CHECK(c.opened > (c.depth_max > 1 ? 1000 : 200));
    world_destroy(w);
    model_destroy(m);
    free(c.seen);
}

static void test_power_cut_always(void) {
    crash_in_mode(KV_SYNC_ALWAYS, 512, 2);
}

static void test_power_cut_large_blocks(void) {
    crash_in_mode(KV_SYNC_ALWAYS, 4096, 1);
}

static void test_power_cut_without_direct_io(void) {
    crash_in_mode(KV_SYNC_ALWAYS, 0, 1);
}

static void test_power_cut_interval(void) {
    crash_in_mode(KV_SYNC_INTERVAL, 512, 1);
}

static void test_power_cut_never(void) {
    crash_in_mode(KV_SYNC_NEVER, 512, 2);
}

CHECK_MAIN(TEST(test_power_cut_always), TEST(test_power_cut_large_blocks),
           TEST(test_power_cut_without_direct_io), TEST(test_power_cut_interval),
           TEST(test_power_cut_never))
