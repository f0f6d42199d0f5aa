/* side by side */
/* test_crash.c - the power goes at every moment of a scenario, and again while it is recovered
 * from.
 *
 * After each call to the file system the disk is imagined as a power cut could leave it, by the
 * fault model at the head of memory_os.h.  Of the changes that are not synced (writes, and names
 * that come, go and change):
 *
 *   - each prefix is there, in the order in which they were made;
 *   - each single one is lost, and all others are there;
 *   - each pair has changed its order: the later one is there and the earlier one is not, or
 *     sectors of both are as the earlier one left them; with and without those between;
 *   - each write is torn at each sector, with the rest (or the head) as it was, zeros or garbage
 *     behind it, or is zeros or garbage altogether; with and without what came after it.
 *
 * Each such image must open by itself, and hold the state after some prefix of the commits (which
 * are whole, so batches are), with every one in it that had been made durable: under
 * KV_SYNC_ALWAYS, all that were acknowledged.
 *
 * An image is also recovered under the same watch: what a power cut in the middle of that leaves
 * must recover to the same state, and so on.  And life goes on: the next commit is made again,
 * just as before the cut, so that it ends where the old one ended; after one more power cut
 * nothing but it may have come back.
 *
 * At each such moment the process is killed, too, and its changes are on their way still when the
 * next one opens the store: the power goes at each moment of that.  What the next one has shown
 * must stay.
 *
 * The scenario is done four times over by the same store, some 190 commits, and each test watches
 * one of these rounds.  Its checkpoints are part of it: some of its steps are done by the
 * checkpoint's own thread while it is made, behind the moment that it shows and before its shards
 * are walked, and again before it gets its name.  A key expires in the middle and is swept away;
 * segments are let go and used again; every now and then the store is closed and opened.
 *
 * What was recovered from an image depends on its bytes alone, so images are remembered by them,
 * and only different ones count.
 *
 * By default a write is torn at its first, its last and one more sector, and at its own moment
 * only; one or two power cuts come in a row, and only the first round has kills.  Everything, with
 * three in a row (two in later rounds, and behind most of the tears of a long write):
 *
 *     PYKV_C_CRASH=3 PYKV_C_VARIANTS=plain pytest -rA tests/test_c.py -k test_crash
 */
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "engine/checkpoint.h"
#include "engine/segment.h"
#include "kv.h"
#include "model.h"
#include "scenario.h"
#include "world.h"

#define ROUNDS 4u /* times that the scenario is done */
#define COMMITS_MAX (60u * ROUNDS)

typedef struct seen {
    uint64_t image; /* digest of its files; 0: a free place */
    uint64_t state; /* digest of what was recovered */
    unsigned more;  /* power cuts in a row that were tried during its recovery */
    bool known;     /* otherwise it is being recovered */
} seen;

typedef struct moment moment;

typedef struct crash {
    kv_options options; /* of the images' stores */
    bool thorough, kills;
    /* commit i + 1 was made by step_of[i] and led to state history[i + 1], of contents[i + 1] */
    uint64_t history[COMMITS_MAX + 1];
    model *contents[COMMITS_MAX + 1];
    unsigned step_of[COMMITS_MAX];
    unsigned commits;         /* in the history: all that may have been made */
    unsigned step;            /* that is being done */
    _Atomic unsigned floor;   /* commits that must be there */
    _Atomic unsigned ceiling; /* commits that may be there */
    pthread_mutex_t mutex;    /* guards what follows */
    const moment *innermost;  /* whose image is being recovered */
    seen *seen;
    size_t seen_size; /* a power of two */
    uint64_t images, distinct, opens, killed;
} crash;

/* One store whose disk is imagined. */
typedef struct watched {
    crash *crash;
    memory_os *memory;
    unsigned depth; /* how many power cuts it comes after, ... */
    unsigned more;  /* ... and how many more there are to be in a row */
    bool killed;    /* the process before was killed, and changes of its are on their way still */
    unsigned must;  /* in that case: commits that must be there */
    bool looked;
    size_t changes; /* at the last look, and the syncs and the commits that had to be there */
    uint64_t syncs;
    unsigned floor;
    uint64_t first_state;  /* what they have led to so far */
    bool has_first;
} watched;

/* What the power cut under way leaves of a store's changes. */
struct moment {
    watched *watched;
    const moment *outer; /* the power cut before */
    unsigned floor, ceiling;
    memory_fate *fates;
    size_t count;
    const char *how;
};

static void watch(void *arg, fault_call call, bool after);
static void check_moment(watched *x);

/* ---- What is said of a failure ----------------------------------------------------------------- */

static void tell(const crash *c) {
    static const char *const kinds[] = {"write", "truncate", "make", "rename", "remove"};
    static const char *const fates[] = {"lost", "kept", "torn at", "without its head up to",
                                        "torn, then zeros, at", "torn, then garbage, at",
                                        "zeros", "garbage", "overtaken by"};
    for (const moment *m = c->innermost; m != NULL; m = m->outer) {
        printf("# power cut %u: %s\n", m->watched->depth + 1, m->how);
        for (size_t i = 0; i < m->count; i++) {
            memory_change change = memory_os_change(m->watched->memory, i);
            printf("#   %zu: %s %s %s at %" PRIu64 ", %" PRIu64 " bytes: %s %d\n", i,
                   kinds[change.kind], change.name, change.to, change.offset, change.size,
                   fates[m->fates[i].kind], (int)m->fates[i].at);
        }
        if (m->outer == NULL)
            printf("# in %s; commits %u to %u may be there\n", scenario_name(c->step), m->floor,
                   m->ceiling);
    }
}

#define CRASH_FAIL(c, ...)                                                                       \
    do {                                                                                         \
        tell(c);                                                                                 \
        FAIL(__VA_ARGS__);                                                                       \
    } while (0)

/* ---- One image ---------------------------------------------------------------------------------- */

static bool is_state(const crash *c, uint64_t state, unsigned floor, unsigned ceiling,
                     unsigned *commits) {
    for (unsigned i = ceiling + 1; i-- > floor;)
        if (c->history[i] == state) {
            *commits = i;
            return true;
        }
    return false;
}

/* Makes the next commit once more, loses the power and looks. */
static void go_on(crash *c, world *w, unsigned commits) {
    if (commits == c->commits)
        return;
    model *m = model_clone(c->contents[commits]);
    CHECK_OK(scenario_run(c->step_of[commits], w->db, m, &w->err), &w->err);
    CHECK_OK(kv_make_durable(w->db, &w->err), &w->err);
    world_cut_power(w);
    c->opens++;
    if (world_try_open(w) < 0)
        CRASH_FAIL(c, "after one more commit and a power cut: %s: %s", w->err.message, w->err.path);
    if (store_digest(w->db) != model_digest(m))
        CRASH_FAIL(c, "recovery to commit %u, one more commit (%s), a power cut: other contents",
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
    n->scrap |= strcmp(name, KV_CHECKPOINT_NEW) == 0 || strcmp(name, KV_SEGMENT_RECYCLED) == 0 ||
                strcmp(name, KV_CHECKPOINT_RECYCLED) == 0;
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

/* With a store to be opened on it (taken). */
static world *world_for(const crash *c, memory_os *memory) {
    world *w = world_create_on(memory);
    const kv_os *os = w->options.os;
    w->options = c->options;
    w->options.os = os;
    return w;
}

/* Opens the image (taken), which comes after `depth` power cuts, and gives the state that it
 * holds.  Meanwhile so many more are tried. */
static uint64_t recover(crash *c, memory_os *image, unsigned depth, unsigned more) {
    world *w = world_for(c, image);
    watched nested = {.crash = c, .memory = image, .depth = depth, .more = more};
    if (more > 0)
        fault_os_watch(w->faults, watch, &nested);
    c->opens++;
    if (world_try_open(w) < 0)
        CRASH_FAIL(c, "%s: %s at %d", w->err.message, w->err.path, (int)w->err.offset);
    fault_os_watch(w->faults, NULL, NULL);
    check_names(w);
    uint64_t state = store_digest(w->db);
    unsigned commits;
    if (!is_state(c, state, 0, c->commits, &commits))
        CRASH_FAIL(c, "a state that never was");
    if (nested.has_first && nested.first_state != state)
        CRASH_FAIL(c, "another power cut during its recovery leads to another state");
    go_on(c, w, commits);
    world_destroy(w);
    return state;
}

/* The place of the image, or one that is free for it. */
static seen *seen_place(crash *c, uint64_t image) {
    size_t at = image & (c->seen_size - 1);
    while (c->seen[at].image != 0 && c->seen[at].image != image)
        at = (at + 1) & (c->seen_size - 1);
    return &c->seen[at];
}

static void seen_add(crash *c, seen new) {
    if (++c->distinct * 2 > c->seen_size) {
        seen *old = c->seen;
        size_t old_size = c->seen_size;
        c->seen_size = old_size == 0 ? 1u << 12 : 2 * old_size;
        c->seen = calloc(c->seen_size, sizeof *c->seen);
        CHECK(c->seen != NULL);
        for (size_t i = 0; i < old_size; i++)
            if (old[i].image != 0)
                *seen_place(c, old[i].image) = old[i];
        free(old);
    }
    *seen_place(c, new.image) = new;
}

/* The state that an image (taken) holds; the mutex is held.  False: it is being recovered. */
static bool state_of(crash *c, memory_os *image, unsigned depth, unsigned more, uint64_t *state) {
    uint64_t digest = world_files_digest(image) | 1;
    seen *s = c->seen_size > 0 ? seen_place(c, digest) : NULL;
    c->images++;
    if (s == NULL || s->image == 0) {
        seen_add(c, (seen){.image = digest, .more = more});
    } else if (s->more < more) {
        s->more = more;
    } else {
        memory_os_destroy(image);
        *state = s->state;
        return s->known;
    }
    *state = recover(c, image, depth, more);
    s = seen_place(c, digest); /* others may have come meanwhile */
    s->state = *state;
    s->known = true;
    return true;
}

/* ---- All images of one moment ------------------------------------------------------------------- */

static void check_image_more(moment *m, const char *how, unsigned more) {
    watched *x = m->watched;
    crash *c = x->crash;
    unsigned commits;
    uint64_t state;
    m->how = how;
    c->innermost = m;
    memory_os *image = memory_os_cut(x->memory, m->fates, m->count);
    bool right, known = state_of(c, image, x->depth + 1, more, &state);
    if (x->depth == 0 || x->killed) {
        right = is_state(c, state, m->floor, m->ceiling, &commits);
    } else {
        if (known && !x->has_first)
            x->first_state = state;
        x->has_first |= known;
        right = !known || x->first_state == state; /* or the image that this store came from */
    }
    if (!right)
        CRASH_FAIL(c, "%s", is_state(c, state, 0, c->commits, &commits) ? "the wrong state"
                                                                       : "a state that never was");
    c->innermost = m->outer;
}

static void check_image(moment *m, const char *how) {
    check_image_more(m, how, m->watched->more - 1);
}

/* Changes from `from` on, and before `to`. */
static void set_fates(moment *m, size_t from, size_t to, memory_fate_kind kind) {
    for (size_t i = from; i < to; i++)
        m->fates[i] = (memory_fate){kind, 0};
}

static bool share_sectors(memory_change a, memory_change b) {
    return a.kind == MEMORY_WRITE && b.kind == MEMORY_WRITE && strcmp(a.name, b.name) == 0 &&
           a.offset / MEMORY_SECTOR <= (b.offset + b.size - 1) / MEMORY_SECTOR &&
           b.offset / MEMORY_SECTOR <= (a.offset + a.size - 1) / MEMORY_SECTOR;
}

/* Change `j` has reached the disk before `i`: `i` is not there, or its sectors came last; what was
 * between them is there, or is not. */
static void check_swapped(moment *m, size_t i, size_t j) {
    memory_os *memory = m->watched->memory;
    bool shared = share_sectors(memory_os_change(memory, i), memory_os_change(memory, j));
    for (int kept = 0; kept < (j > i + 1 ? 2 : 1); kept++) {
        set_fates(m, 0, i, MEMORY_KEPT);
        set_fates(m, i, m->count, MEMORY_LOST);
        if (kept)
            set_fates(m, i + 1, j, MEMORY_KEPT);
        m->fates[j].kind = MEMORY_KEPT;
        check_image(m, "a later change without an earlier one");
        if (!shared)
            continue;
        m->fates[i].kind = MEMORY_KEPT;
        m->fates[j] = (memory_fate){MEMORY_OVERTAKEN, i};
        check_image(m, "two writes in the other order");
    }
}

/* Of the boundaries that a write can be torn at: the first, one in the middle and the last; during
 * recovery, by default, the one in the middle. */
static bool is_chosen_tear(const watched *x, size_t at, size_t tears) {
    bool edges = x->depth == 0 || x->crash->thorough;
    return at == (tears + 1) / 2 || (edges && (at == 1 || at == tears));
}

static void check_torn_write(moment *m, size_t i, size_t at, unsigned more) {
    bool same = memory_os_change(m->watched->memory, i).same;
    m->fates[i] = (memory_fate){MEMORY_TORN, at};
    check_image_more(m, "a torn write", more);
    m->fates[i] = (memory_fate){MEMORY_TORN_HEAD, at};
    check_image_more(m, "a write without its head", more);
    if (same)
        return;
    m->fates[i] = (memory_fate){MEMORY_TORN_ZEROED, at};
    check_image_more(m, "a torn write with zeros behind", more);
    m->fates[i] = (memory_fate){MEMORY_TORN_GARBLED, at};
    check_image_more(m, "a torn write with other bytes behind", more);
}

/* Write `i` goes wrong.  Bytes written over the same bytes are taken to be safe (DURABILITY.md):
 * whatever is in the middle of a sector's way to the disk is equal to what is there. */
static void check_damaged_write(moment *m, size_t i) {
    const watched *x = m->watched;
    memory_change change = memory_os_change(x->memory, i);
    for (size_t at = 1; at <= change.tears; at++) {
        if (is_chosen_tear(x, at, change.tears))
            check_torn_write(m, i, at, x->more - 1);
        else if (x->depth == 0 && x->crash->thorough)
            check_torn_write(m, i, at, x->more > 1 ? 1 : 0); /* not everything after hundreds */
    }
    if (change.same)
        return;
    m->fates[i].kind = MEMORY_ZEROED;
    check_image(m, "a zeroed write");
    m->fates[i] = (memory_fate){MEMORY_GARBLED, 1};
    check_image(m, "a garbled write");
}

/* The process is killed at this moment, and the power goes while the next one recovers from that.
 * What it has shown when it is done must stay. */
static void check_kill(moment *m) {
    watched *x = m->watched;
    crash *c = x->crash;
    world *w = world_for(c, memory_os_copy(x->memory));
    watched next = {.crash = c, .memory = w->memory, .depth = 1, .killed = true, .must = m->floor};
    next.more = x->more > 1 ? x->more - 1 : 1;
    set_fates(m, 0, m->count, MEMORY_KEPT);
    m->how = "no power cut, the process is killed";
    c->innermost = m;
    fault_os_watch(w->faults, watch, &next);
    c->killed++;
    c->opens++;
    if (world_try_open(w) < 0)
        CRASH_FAIL(c, "%s: %s at %d", w->err.message, w->err.path, (int)w->err.offset);
    fault_os_watch(w->faults, NULL, NULL);
    if (!is_state(c, store_digest(w->db), m->floor, m->ceiling, &next.must))
        CRASH_FAIL(c, "the wrong state");
    check_moment(&next);
    c->innermost = m->outer;
    world_destroy(w);
}

/* As long as nothing more is synced and no more commits have to be there, images without the newest
 * changes are those of an earlier moment. */
static void check_moment(watched *x) {
    crash *c = x->crash;
    memory_os *memory = x->memory;
    moment m = {.watched = x, .outer = c->innermost, .floor = x->must};
    if (x->depth == 0)
        m.floor = atomic_load(&c->floor);
    uint64_t syncs = memory_os_syncs(memory);
    size_t n = m.count = memory_os_change_count(memory);
    bool anew = !x->looked || syncs != x->syncs || m.floor != x->floor;
    size_t from = anew ? 0 : x->changes;
    if (!anew && from == n)
        return;
    m.ceiling = atomic_load(&c->ceiling);
    m.fates = calloc(n + 1, sizeof *m.fates);
    set_fates(&m, 0, n, MEMORY_KEPT);
    check_image(&m, "all is there");
    for (size_t i = 0; i < n; i++) {
        set_fates(&m, 0, n, MEMORY_KEPT);
        m.fates[i].kind = MEMORY_LOST;
        check_image(&m, "one change is lost");
    }
    for (size_t i = n; i-- > from;) {
        set_fates(&m, i, n, MEMORY_LOST);
        set_fates(&m, 0, i, MEMORY_KEPT);
        check_image(&m, "all from one on is lost");
    }
    for (size_t j = from; j < n; j++)
        for (size_t i = 0; i < j; i++)
            check_swapped(&m, i, j);
    /* By default, what is older has been damaged at its own moment only. */
    size_t newest = x->changes < n ? x->changes : n;
    for (size_t i = c->thorough ? 0 : newest; i < n; i++) {
        if (memory_os_change(memory, i).kind != MEMORY_WRITE)
            continue;
        for (int kept = i < from; kept < (i + 1 < n ? 2 : 1); kept++) {
            set_fates(&m, 0, n, MEMORY_KEPT);
            if (!kept)
                set_fates(&m, i + 1, n, MEMORY_LOST);
            check_damaged_write(&m, i);
        }
    }
    x->looked = true;
    x->changes = n;
    x->syncs = syncs;
    x->floor = m.floor;
    if (x->depth == 0 && c->kills)
        check_kill(&m);
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

/* ---- The scenario ------------------------------------------------------------------------------- */

/* The run of the scenario, for the calls that a checkpoint makes. */
static struct run {
    crash *c;
    world *w;
    model *m;
    unsigned number; /* the step at hand */
    unsigned during; /* steps that the checkpoint at hand lets happen */
    _Atomic bool recycled; /* a segment made of an older one has been seen */
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
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    world_set_clock(w, scenario_sweep_ms(number));
    do {
        usleep(1000);
        CHECK_OK(kv_get_stats(w->db, 0, &now, &w->err), &w->err);
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
    c->step = number;
    scenario_apply(number, then);
    const step *s = scenario_step(number);
    bool commit = model_digest(then) != model_digest(m) || s->kind == STEP_BATCH;
    if (commit) {
        pthread_mutex_lock(&c->mutex);
        c->step_of[c->commits] = number;
        c->history[++c->commits] = model_digest(then);
        c->contents[c->commits] = model_clone(then);
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

/* The steps of a round; between some of them the store is closed and opened again. */
static void run_round(crash *c, world *w, model *m) {
    for (unsigned end = run.number + scenario_count; run.number < end; run.number++) {
        if (scenario_step(run.number)->kind == STEP_POP_ANY)
            continue; /* which key it takes is another one each time */
        run_step(c, w, m, run.number);
        CHECK_EQ(run.during, 0);
        if (run.number % 11 == 10)
            close_and_open(c, w);
    }
    close_and_open(c, w);
}

/* Power cuts in one round of the scenario, the first of them with the store's making.
 * `blocks`: alignment of direct I/O; 0: this system has none. */
static void crash_in_round(kv_sync sync, unsigned blocks, unsigned in_a_row, unsigned round) {
    const char *thorough = getenv("PYKV_C_CRASH");
#ifdef __SANITIZE_ADDRESS__
    if (round > 0 && thorough == NULL)
        SKIP("the first round has all that an address sanitizer could see");
#endif
    if (thorough != NULL)
        in_a_row = (unsigned)atoi(thorough);
    CHECK(in_a_row > 0);
    /* A store id of its own, so that no image of this test is one of another. */
    check_random random = random_stream((blocks + sync) * ROUNDS + round);
    world *w = world_create_on(memory_os_create(random_next(&random)));
    model *m = model_create();
    memory_os_set_direct(w->memory, blocks);
    w->options.sync = sync;
    w->options.sync_interval_ns = 1000000; /* so that syncs and marks come at any moment */
    crash c = {.options = w->options, .thorough = thorough != NULL,
               .kills = thorough != NULL || round == 0};
    c.options.sync_interval_ns = UINT64_C(3600000000000);
    c.contents[0] = model_create();
    if (c.thorough)
        alarm(0);
#ifdef __linux__
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); /* a third of the time would go into zeroing them */
#endif
    pthread_mutex_init(&c.mutex, NULL);
    /* After the first round, one power cut less. */
    watched x = {.crash = &c, .memory = w->memory, .more = in_a_row};
    if (round > 0 && in_a_row > 1)
        x.more--;
    w->os.open = open_and_go_on;
    w->os.rename = rename_and_go_on;
    run = (struct run){.c = &c, .w = w, .m = m};
    if (round == 0)
        fault_os_watch(w->faults, watch, &x);
    world_open(w);
    for (unsigned earlier = 0; earlier < round; earlier++)
        run_round(&c, w, m);
    if (round > 0)
        memory_os_settle(w->memory);
    run.recycled = false;
    fault_os_watch(w->faults, watch, &x);
    run_round(&c, w, m);
    for (unsigned i = 0; i < 10000 && !run.recycled; i++)
        usleep(1000); /* it is the keeper who does that */
    CHECK(run.recycled);
    world_close(w);
    fault_os_watch(w->faults, NULL, NULL);
    CHECK_EQ(memory_os_direct_writes(w->memory) > 0, blocks > 0); /* of checkpoints in every mode */
    printf("# sync mode %d, blocks of %u, round %u (%u commits): %" PRIu64
           " distinct crash images of %" PRIu64 ", %" PRIu64
           " opens, up to %u power cuts in a row, %" PRIu64 " kills, seed 0x%" PRIx64 "\n",
           (int)sync, blocks, round + 1, c.commits, c.distinct, c.images, c.opens, x.more, c.killed,
           check_seed);
    CHECK(c.distinct > (x.more > 1 ? 5000 : 500));
    world_destroy(w);
    model_destroy(m);
    for (unsigned i = 0; i <= c.commits; i++)
        model_destroy(c.contents[i]);
    free(c.seen);
}

#define POWER_CUTS(name, sync, blocks, in_a_row)                                                 \
    static void name##_1(void) { crash_in_round(sync, blocks, in_a_row, 0); }                    \
    static void name##_2(void) { crash_in_round(sync, blocks, in_a_row, 1); }                    \
    static void name##_3(void) { crash_in_round(sync, blocks, in_a_row, 2); }                    \
    static void name##_4(void) { crash_in_round(sync, blocks, in_a_row, 3); }

POWER_CUTS(test_power_cut_always, KV_SYNC_ALWAYS, 512, 2)
POWER_CUTS(test_power_cut_large_blocks, KV_SYNC_ALWAYS, 4096, 1)
POWER_CUTS(test_power_cut_without_direct_io, KV_SYNC_ALWAYS, 0, 1)
POWER_CUTS(test_power_cut_interval, KV_SYNC_INTERVAL, 512, 1)
POWER_CUTS(test_power_cut_never, KV_SYNC_NEVER, 512, 2)

CHECK_MAIN(TEST(test_power_cut_always_1), TEST(test_power_cut_always_2),
           TEST(test_power_cut_always_3), TEST(test_power_cut_always_4),
           TEST(test_power_cut_large_blocks_1), TEST(test_power_cut_large_blocks_2),
           TEST(test_power_cut_large_blocks_3), TEST(test_power_cut_large_blocks_4),
           TEST(test_power_cut_without_direct_io_1), TEST(test_power_cut_without_direct_io_2),
           TEST(test_power_cut_without_direct_io_3), TEST(test_power_cut_without_direct_io_4),
           TEST(test_power_cut_interval_1), TEST(test_power_cut_interval_2),
           TEST(test_power_cut_interval_3), TEST(test_power_cut_interval_4),
           TEST(test_power_cut_never_1), TEST(test_power_cut_never_2),
           TEST(test_power_cut_never_3), TEST(test_power_cut_never_4))
