/* test_checkpoint_concurrent.c - checkpoints, backups and loading, while many threads use the store. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "engine/checkpoint.h"
#include "engine/segment.h"
#include "engine/store.h"
#include "kv.h"
#include "model.h"
#include "threads.h"
#include "world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOWER 4u /* so many times fewer rounds */
#else
#define SLOWER 1u
#endif

static world *world_of(kv_sync sync) {
    world *w = world_create();
    w->options.sync = sync;
    w->options.sync_interval_ns = 1000000;
    w->options.mark_delay_ns = 1000000;
    w->options.inflight_max = 20000;
    return w;
}

static kv_bytes number_key(char text[32], const char *prefix, unsigned id, unsigned number) {
    return (kv_bytes){text, (size_t)snprintf(text, 32, "%s%u/%u", prefix, id, number)};
}

/* ---- Groups of keys that change together --------------------------------------------------------------- */

/* Each batch gives all keys of a group one number, which grows.  Whatever is opened later (an image of a power cut,
 * a backup) has one number in a group, not below the last one acknowledged before and not above the last one
 * attempted.  Beside them: keys that come, go and expire, a counter, and snapshots. */
enum { GROUPS = 4, MEMBERS = 8 };

typedef struct groups {
    world *w;
    _Atomic uint64_t acknowledged[GROUPS], attempted[GROUPS];
    _Atomic unsigned done; /* writers */
    _Atomic bool stop;     /* for those who go on until then */
    _Atomic unsigned rounds;
    uint64_t writes;       /* of each group */
    bool clears;           /* everything but the groups' last batch may go */
    size_t size;
} groups;

static void groups_ops(kv_op ops[MEMBERS], char texts[MEMBERS][32], unsigned group,
                       const void *value, size_t size) {
    for (unsigned i = 0; i < MEMBERS; i++)
        ops[i] = (kv_op){KV_OP_PUT, number_key(texts[i], "g", group, i), bytes_of(value, size)};
}

static void groups_write(worker *me) {
    groups *t = me->shared;
    kv_error err;
    uint64_t value[64] = {0};
    for (uint64_t i = 1; i <= t->writes; i++) {
        kv_op ops[MEMBERS];
        char texts[MEMBERS][32];
        value[0] = i;
        groups_ops(ops, texts, me->id, value, t->size);
        atomic_store(&t->attempted[me->id], i);
        CHECK_OK(kv_write(t->w->db, ops, MEMBERS, 0, NULL, &err), &err);
        atomic_store(&t->acknowledged[me->id], i);
    }
    atomic_fetch_add(&t->done, 1);
}

/* Keys that come and go. */
static void groups_disturb(worker *me) {
    groups *t = me->shared;
    kv_error err;
    int64_t counted = 0;
    while (!atomic_load(&t->stop)) {
        char text[32];
        kv_bytes key = number_key(text, "d", me->id, (unsigned)random_below(&me->random, 3000));
        kv_bytes value = bytes_of(text, random_below(&me->random, 30));
        kv_status status = KV_OK;
        switch (random_below(&me->random, 6)) {
        case 0:
            status = kv_delete(t->w->db, key, 0, &err);
            break;
        case 1:
            status = kv_put_expiring(t->w->db, key, value, kv_clock_ms(t->w->db) + 1 +
                                     random_below(&me->random, 50), 0, &err);
            break;
        case 2:
            status = kv_expire(t->w->db, key, kv_clock_ms(t->w->db) + random_below(&me->random, 50),
                               0, &err);
            break;
        case 3: {
            int64_t result;
            status = kv_incr(t->w->db, number_key(text, "count", me->id, 0), 1, 0, &result, &err);
            CHECK_EQ(result, ++counted);
            break;
        }
        default:
            status = kv_put(t->w->db, key, value, 0, &err);
        }
        CHECK_OK(status < 0 ? status : KV_OK, &err);
    }
}

static void groups_check_values(const uint8_t *const *data, uint64_t floor, uint64_t ceiling,
                                const char *how) {
    uint64_t number = 0, other;
    if (data[0] != NULL)
        memcpy(&number, data[0], sizeof number);
    if (number < floor || number > ceiling)
        FAIL("%s: number %d, not between %d and %d", how, (int)number, (int)floor, (int)ceiling);
    for (unsigned i = 1; i < MEMBERS; i++) {
        other = 0;
        if (data[i] != NULL)
            memcpy(&other, data[i], sizeof other);
        if (other != number)
            FAIL("%s: parts of two batches, %d and %d", how, (int)number, (int)other);
    }
}

static void groups_check(kv_db *db, unsigned group, uint64_t floor, uint64_t ceiling,
                         const char *how) {
    kv_bytes keys[MEMBERS];
    char texts[MEMBERS][32];
    const uint8_t *data[MEMBERS];
    kv_values values;
    kv_error err;
    for (unsigned i = 0; i < MEMBERS; i++)
        keys[i] = number_key(texts[i], "g", group, i);
    CHECK_OK(kv_get_many(db, keys, MEMBERS, &values, &err), &err);
    for (unsigned i = 0; i < MEMBERS; i++)
        data[i] = values.items[i].data;
    groups_check_values(data, floor, ceiling, how);
    kv_values_release(&values);
}

static void groups_look(worker *me) {
    groups *t = me->shared;
    kv_error err;
    while (!atomic_load(&t->stop)) {
        unsigned group = (unsigned)random_below(&me->random, GROUPS);
        uint64_t floor = atomic_load(&t->acknowledged[group]), walked, counted;
        groups_check(t->w->db, group, floor, UINT64_MAX, "get_many");
        kv_snapshot *s;
        CHECK_OK(kv_snapshot_create(t->w->db, &s, &err), &err);
        const uint8_t *data[MEMBERS];
        kv_value found[MEMBERS];
        for (unsigned i = 0; i < MEMBERS; i++) {
            char text[32];
            kv_status status = kv_snapshot_get(s, number_key(text, "g", group, i), 0, &found[i], &err);
            CHECK(status >= 0);
            data[i] = status == KV_OK ? found[i].data : NULL;
        }
        groups_check_values(data, floor, UINT64_MAX, "snapshot");
        for (unsigned i = 0; i < MEMBERS; i++)
            if (data[i] != NULL)
                kv_value_release(&found[i]);
        if (random_below(&me->random, 8) == 0) {
            snapshot_digest(s, &walked);
            CHECK_OK(kv_snapshot_count(s, &counted, &err), &err);
            CHECK_EQ(walked, counted);
        }
        kv_snapshot_destroy(s);
        CHECK_OK(kv_count(t->w->db, 0, &counted, &err), &err);
    }
}

static void groups_checkpoint(worker *me) {
    groups *t = me->shared;
    kv_error err;
    while (!atomic_load(&t->stop)) {
        CHECK_OK(kv_checkpoint(t->w->db, NULL, NULL, &err), &err);
        atomic_fetch_add(&t->rounds, 1);
        usleep(200);
    }
}

/* The power goes now: what an image of the disk holds. */
static void groups_cut(groups *t, check_random *random) {
    uint64_t acknowledged[GROUPS], attempted[GROUPS];
    memory_fate fates[64];
    for (unsigned i = 0; i < GROUPS; i++)
        acknowledged[i] = t->w->options.sync == KV_SYNC_ALWAYS ? atomic_load(&t->acknowledged[i]) : 0;
    for (unsigned i = 0; i < 64; i++)
        fates[i] = (memory_fate){random_below(random, 2) ? MEMORY_KEPT : MEMORY_LOST, 0};
    memory_os *image = memory_os_cut(t->w->memory, fates, 64);
    for (unsigned i = 0; i < GROUPS; i++)
        attempted[i] = atomic_load(&t->attempted[i]);
    kv_db *db = image_open(image, &t->w->options);
    for (unsigned i = 0; i < GROUPS; i++)
        groups_check(db, i, acknowledged[i], attempted[i], "after a power cut");
    image_close(db);
    memory_os_destroy(image);
}

static void groups_run(kv_sync sync, bool cuts) {
    groups t = {.w = world_of(sync), .writes = 600 / SLOWER, .size = 300};
    crew writers = {0}, others = {0};
    check_random random = random_stream(77);
    world_open(t.w);
    crew_add(&others, groups_checkpoint, &t);
    for (unsigned i = 0; i < 2; i++) {
        crew_add(&others, groups_disturb, &t);
        crew_add(&others, groups_look, &t);
    }
    for (unsigned i = 0; i < GROUPS; i++)
        crew_add(&writers, groups_write, &t);
    while (atomic_load(&t.done) < GROUPS) {
        if (cuts)
            groups_cut(&t, &random);
        else
            usleep(1000);
    }
    crew_join(&writers);
    while (atomic_load(&t.rounds) < 3)
        usleep(1000);
    atomic_store(&t.stop, true);
    crew_join(&others);
    if (cuts)
        groups_cut(&t, &random);
    world_close(t.w);
    world_open(t.w);
    for (unsigned i = 0; i < GROUPS; i++)
        groups_check(t.w->db, i, t.writes, t.writes, "after it");
    kv_stats stats;
    CHECK_OK(kv_get_stats(t.w->db, 0, &stats, &t.w->err), &t.w->err);
    printf("# sync mode %d: %u checkpoints, %d segments\n", (int)sync, t.rounds, (int)stats.log_segments);
    world_destroy(t.w);
}

static void test_under_load(void) {
    groups_run(KV_SYNC_ALWAYS, false);
    groups_run(KV_SYNC_INTERVAL, false);
    groups_run(KV_SYNC_NEVER, false);
}

static void test_power_cuts_under_load(void) {
    groups_run(KV_SYNC_ALWAYS, true);
    groups_run(KV_SYNC_NEVER, true);
}

/* ---- Backups -------------------------------------------------------------------------------------------- */

typedef struct copies {
    groups groups;
    unsigned count;
} copies;

static void copies_make(worker *me) {
    copies *t = me->shared;
    world *w = t->groups.w;
    kv_error err;
    for (unsigned i = 0; i < t->count; i++) {
        char name[32];
        uint64_t floor[GROUPS], ceiling[GROUPS];
        snprintf(name, sizeof name, "copy-%u-%u", me->id, i);
        for (unsigned g = 0; g < GROUPS; g++)
            floor[g] = atomic_load(&t->groups.acknowledged[g]);
        CHECK_OK(kv_backup(w->db, name, NULL, NULL, &err), &err);
        for (unsigned g = 0; g < GROUPS; g++)
            ceiling[g] = atomic_load(&t->groups.attempted[g]);
        kv_options options = w->options;
        kv_db *db;
        options.create = false;
        CHECK_OK(kv_open(name, &options, &db, &err), &err);
        CHECK_OK(kv_load_all(db, NULL, NULL, &err), &err);
        for (unsigned g = 0; g < GROUPS; g++)
            groups_check(db, g, floor[g], ceiling[g], "a backup");
        CHECK_OK(kv_verify(db, &err), &err);
        CHECK_OK(kv_put(db, LITERAL("more"), LITERAL("more"), 0, &err), &err);
        CHECK_OK(kv_close(db, &err), &err);
        kv_destroy(db);
    }
    atomic_fetch_add(&t->groups.done, 1);
}

static void test_backup_under_load(void) {
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync += 2) {
        copies t = {.groups = {.w = world_of((kv_sync)sync), .writes = 600 / SLOWER, .size = 300},
                    .count = 12 / SLOWER};
        crew writers = {0}, others = {0}, makers = {0};
        world_open(t.groups.w);
        crew_add(&others, groups_checkpoint, &t.groups);
        crew_add(&others, groups_disturb, &t.groups);
        for (unsigned i = 0; i < 2; i++)
            crew_add(&makers, copies_make, &t);
        for (unsigned i = 0; i < GROUPS; i++)
            crew_add(&writers, groups_write, &t.groups);
        crew_join(&makers);
        crew_join(&writers);
        atomic_store(&t.groups.stop, true);
        crew_join(&others);
        world_destroy(t.groups.w);
    }
}

/* ---- Loading ----------------------------------------------------------------------------------------------- */

enum { LAZY_KEYS = 6000 };

typedef struct lazy {
    world *w;
    model *m;
    _Atomic unsigned popped;
} lazy;

static kv_bytes lazy_key(char text[32], unsigned number) {
    return number_key(text, "key", 0, number);
}

/* Everybody touches everything, each in a way of his own; a key's value is its number, always. */
static void lazy_run(worker *me) {
    lazy *t = me->shared;
    kv_db *db = t->w->db;
    kv_error err;
    char texts[40][32];
    kv_bytes keys[40];
    for (unsigned i = 0; i < 400 / SLOWER; i++) {
        unsigned n = (unsigned)random_below(&me->random, LAZY_KEYS);
        kv_bytes key = lazy_key(texts[0], n), value = bytes_of(&n, sizeof n);
        kv_value got;
        kv_values values;
        kv_snapshot *s;
        uint64_t count;
        switch (me->id) {
        case 0:
            CHECK_OK(kv_get(db, key, 0, &got, &err), &err);
            CHECK_MEM(got.data, &n, sizeof n);
            kv_value_release(&got);
            break;
        case 1:
            CHECK_OK(kv_put(db, key, value, 0, &err), &err);
            break;
        case 2:
            for (unsigned k = 0; k < 40; k++)
                keys[k] = lazy_key(texts[k], (n + k) % LAZY_KEYS);
            CHECK_OK(kv_get_many(db, keys, 40, &values, &err), &err);
            for (unsigned k = 0; k < 40; k++) {
                unsigned wanted = (n + k) % LAZY_KEYS;
                CHECK(values.items[k].data != NULL);
                CHECK_MEM(values.items[k].data, &wanted, sizeof wanted);
            }
            kv_values_release(&values);
            break;
        case 3: {
            kv_op ops[8];
            unsigned numbers[8];
            for (unsigned k = 0; k < 8; k++) {
                numbers[k] = (unsigned)random_below(&me->random, LAZY_KEYS);
                ops[k] = (kv_op){KV_OP_PUT, lazy_key(texts[k], numbers[k]),
                                 bytes_of(&numbers[k], sizeof numbers[k])};
            }
            CHECK_OK(kv_write(db, ops, 8, 0, NULL, &err), &err);
            break;
        }
        case 4:
            if (i % 50 == 0) {
                CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
                CHECK_EQ(snapshot_digest(s, &count), model_digest(t->m));
                CHECK_EQ(count, LAZY_KEYS);
                CHECK_OK(kv_snapshot_count(s, &count, &err), &err);
                CHECK_EQ(count, LAZY_KEYS);
                kv_snapshot_destroy(s);
            }
            CHECK_OK(kv_count(db, 0, &count, &err), &err);
            CHECK_EQ(count, LAZY_KEYS);
            break;
        case 5:
            if (i % 100 == 0)
                CHECK_OK(kv_checkpoint(db, NULL, NULL, &err), &err);
            CHECK_STATUS(kv_put_absent(db, key, LITERAL("other"), 0, NULL, &err), KV_UNCHANGED, &err);
            break;
        default:
            if (i % 100 == 0)
                CHECK_OK(kv_load_all(db, NULL, NULL, &err), &err);
            CHECK_OK(kv_replace(db, key, value, value, 0, &err), &err);
        }
    }
}

static void test_loading_under_load(void) {
    for (unsigned round = 0; round < 8 / SLOWER; round++) {
        lazy t = {.w = world_create(), .m = model_create()};
        crew crew = {0};
        char text[32];
        world_open(t.w);
        for (unsigned i = 0; i < LAZY_KEYS; i++) {
            kv_bytes key = lazy_key(text, i), value = bytes_of(&i, sizeof i);
            CHECK_OK(kv_put(t.w->db, key, value, 0, &t.w->err), &t.w->err);
            model_put(t.m, key, value);
            if (i == LAZY_KEYS / 4 * (round % 4)) /* what comes behind waits until its shard is loaded */
                CHECK_OK(kv_checkpoint(t.w->db, NULL, NULL, &t.w->err), &t.w->err);
        }
        if (round % 8 == 7)
            CHECK_OK(kv_checkpoint(t.w->db, NULL, NULL, &t.w->err), &t.w->err);
        world_close(t.w);
        world_open(t.w);
        for (unsigned i = 0; i < 7; i++)
            crew_add(&crew, lazy_run, &t);
        crew_join(&crew);
        model_check(t.m, t.w->db);
        world_close(t.w);
        world_open(t.w);
        model_check(t.m, t.w->db);
        model_destroy(t.m);
        world_destroy(t.w);
    }
}

/* ---- Closing ------------------------------------------------------------------------------------------------- */

typedef struct ending {
    world *w;
    kv_db *db;
    _Atomic unsigned started;
    bool backup;
} ending;

static void ending_save(worker *me) {
    ending *t = me->shared;
    kv_error err;
    kv_status status;
    atomic_fetch_add(&t->started, 1);
    for (unsigned i = 0;; i++) {
        char name[32];
        snprintf(name, sizeof name, "copy-%u", i);
        status = t->backup ? kv_backup(t->db, name, NULL, NULL, &err)
                           : kv_checkpoint(t->db, NULL, NULL, &err);
        if (status < 0)
            break;
        kv_bytes key = bytes_of(&i, sizeof i);
        status = kv_put(t->db, key, key, 0, &err);
        if (status < 0)
            break;
    }
    CHECK_STATUS(status, KV_ERR_CLOSED, &err);
    (void)me;
}

/* A handle that is closed waits for what is being made on it; and a worker's own checkpoint is given up. */
static void test_close_during_a_checkpoint(void) {
    for (unsigned round = 0; round < 24 / SLOWER; round++) {
        ending t = {.w = world_create(), .backup = round % 3 == 2};
        crew crew = {0};
        kv_error err;
        if (round % 2) { /* due all the time */
            t.w->options.checkpoint_log_percent = 1;
            t.w->options.checkpoint_log_min = 1;
        }
        world_open(t.w);
        for (unsigned i = 0; i < 3000; i++)
            CHECK_OK(kv_put(t.w->db, bytes_of(&i, sizeof i), bytes_of("0123456789", i % 10), 0, &err),
                     &err);
        uint64_t count;
        CHECK_OK(kv_count(t.w->db, 0, &count, &err), &err);
        CHECK_EQ(count, 3000);
        t.db = t.w->db;
        crew_add(&crew, ending_save, &t);
        while (atomic_load(&t.started) == 0)
            sched_yield();
        usleep(round * 200);
        CHECK_OK(kv_close(t.db, &err), &err);
        crew_join(&crew);
        kv_destroy(t.db);
        t.w->db = NULL;
        CHECK_EQ(memory_os_open_count(t.w->memory), 0);
        CHECK_EQ(memory_os_size(t.w->memory, WORLD_DIR, KV_CHECKPOINT_NEW), -ENOENT);
        CHECK_EQ(memory_os_size(t.w->memory, WORLD_DIR, KV_CHECKPOINT_RECYCLED), -ENOENT);
        CHECK_EQ(memory_os_size(t.w->memory, WORLD_DIR, KV_SEGMENT_RECYCLED), -ENOENT);
        CHECK_EQ(memory_os_size(t.w->memory, WORLD_DIR, KV_SEGMENT_SPARE), -ENOENT);
        world_open(t.w);
        CHECK_OK(kv_count(t.w->db, 0, &count, &err), &err);
        CHECK_EQ(count, 3000);
        world_destroy(t.w);
    }
}

/* A store that opens with so much log that a checkpoint is due at once. */
static void test_due_at_open(void) {
    for (unsigned round = 0; round < 20 / SLOWER; round++) {
        world *w = world_create();
        world_open(w);
        for (unsigned i = 0; i < 500; i++)
            CHECK_OK(kv_put(w->db, bytes_of(&i, sizeof i), bytes_of(&i, sizeof i), 0, &w->err), &w->err);
        world_close(w);
        w->options.checkpoint_log_percent = 1;
        w->options.checkpoint_log_min = 1;
        world_open(w);
        usleep(round * 100);
        world_close(w);
        world_open(w);
        uint64_t count;
        CHECK_OK(kv_count(w->db, 0, &count, &w->err), &w->err);
        CHECK_EQ(count, 500);
        world_destroy(w);
    }
}

/* ---- A segment on its way to be used again ------------------------------------------------------------------- */

/* The keeper stands between having opened recycled.log and giving it the spare's name, while a checkpoint lets more
 * segments go: the file that gets the name must be the one that was opened. */
static struct {
    _Atomic bool hold, held;
    _Atomic unsigned begun; /* segments */
} keeper;

static int held_rename(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    if (strcmp(from, KV_SEGMENT_RECYCLED) == 0 && atomic_load(&keeper.hold)) {
        atomic_store(&keeper.held, true);
        while (atomic_load(&keeper.hold))
            usleep(1000);
    }
    atomic_fetch_add(&keeper.begun, strcmp(from, KV_SEGMENT_SPARE) == 0);
    return os->rename(os->ctx, dir, from, to);
}

static void big_put(world *w, model *m, unsigned number) {
    static char value[3000];
    memset(value, 'a' + (int)(number % 26), sizeof value);
    kv_bytes key = bytes_of(&number, sizeof number);
    CHECK_OK(kv_put(w->db, key, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    model_put(m, key, bytes_of(value, sizeof value));
}

static void test_recycled_while_another_is_let_go(void) {
    world *w = world_create();
    model *m = model_create();
    unsigned number = 0;
    w->os.rename = held_rename;
    w->options.segment_size_min = w->options.segment_size_max;
    world_open(w);
    for (; number < 20; number++) /* a few segments, the last one past its middle */
        big_put(w, m, number);
    while (memory_os_size(w->memory, WORLD_DIR, KV_SEGMENT_SPARE) < 0)
        usleep(1000); /* the next one is on its way: not made of what is let go now */
    atomic_store(&keeper.hold, true);
    CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    /* Until the keeper takes what was let go, for the one after the next.  A leader that needs a segment meanwhile
     * waits for it, so: no more than fills a little more than the half of the next one. */
    for (unsigned begun = atomic_load(&keeper.begun); atomic_load(&keeper.begun) == begun; number++)
        big_put(w, m, number);
    big_put(w, m, number++);
    while (!atomic_load(&keeper.held))
        usleep(1000);
    /* The log's own segment cannot be let go; so the next one must be begun without the keeper: it cannot.  A second
     * checkpoint finds one old segment, if there is one. */
    kv_stats stats;
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    atomic_store(&keeper.hold, false);
    for (unsigned i = 0; i < 20; i++, number++)
        big_put(w, m, number);
    model_check(m, w->db);
    world_cut_power(w);
    w->os.rename = held_rename;
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* ---- A disk with little room --------------------------------------------------------------------------------- */

/* While `little`, there is room for a checkpoint or for what the log keeps ready, its next segments, but not for
 * both; while `none`, not for a checkpoint, either. */
static struct {
    memory_os *memory;
    int checkpoint; /* the newest checkpoint.tmp */
    _Atomic bool little, none, hold, held;
} room;

static int noted_open(void *ctx, int dir, const char *name, kv_open_mode mode) {
    const kv_os *os = fault_os_table(ctx);
    int file = os->open(os->ctx, dir, name, mode);
    if (strcmp(name, KV_CHECKPOINT_NEW) == 0)
        room.checkpoint = file;
    return file;
}

static bool is_there(const char *name) {
    return memory_os_size(room.memory, WORLD_DIR, name) >= 0;
}

static int64_t write_in_little_room(void *ctx, int file, const void *buffer, size_t size, uint64_t offset) {
    const kv_os *os = fault_os_table(ctx);
    bool ready = is_there(KV_SEGMENT_SPARE) || is_there(KV_SEGMENT_RECYCLED);
    if (file != room.checkpoint || !atomic_load(&room.little) || (!ready && !atomic_load(&room.none)))
        return os->write(os->ctx, file, buffer, size, offset);
    atomic_store(&room.hold, false);
    return -ENOSPC;
}

/* The keeper has used up the room when the checkpoint needs it, and gives it back a little later. */
static int held_reserve(void *ctx, int file, uint64_t size) {
    const kv_os *os = fault_os_table(ctx);
    if (!atomic_load(&room.hold))
        return os->reserve(os->ctx, file, size);
    atomic_store(&room.held, true);
    while (atomic_load(&room.hold))
        usleep(1000);
    usleep(20000);
    return -ENOSPC;
}

static bool spare_is_there(void) {
    return is_there(KV_SEGMENT_SPARE);
}

static bool keeper_is_held(void) {
    return atomic_load(&room.held);
}

/* The keeper makes the next segment when one is half full; who is faster than that begins it himself. */
static void put_until(world *w, model *m, unsigned *number, bool (*done)(void)) {
    do {
        big_put(w, m, (*number)++);
        for (unsigned i = 0; i < 20 && !done(); i++)
            usleep(1000);
    } while (!done());
}

/* Until a checkpoint has kept a segment: the keeper may have made the next one of it at once. */
static void recycle(world *w, model *m, unsigned *number) {
    do {
        for (unsigned i = 0; i < 20; i++)
            big_put(w, m, (*number)++);
        CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    } while (!is_there(KV_SEGMENT_RECYCLED));
}

static void test_little_room(void) {
    enum { SPARE, RECYCLED, MAKING, NONE, CASES };
    for (int what = SPARE; what < CASES; what++) {
        world *w = world_create();
        model *m = model_create();
        unsigned number = 0;
        memset(&room, 0, sizeof room);
        room.memory = w->memory;
        w->os.open = noted_open;
        w->os.write = write_in_little_room;
        w->os.reserve = held_reserve;
        w->options.sync = KV_SYNC_NEVER; /* so that a segment's room is reserved, not written */
        w->options.segment_size_min = w->options.segment_size_max;
        world_open(w);
        if (what == RECYCLED)
            recycle(w, m, &number);
        atomic_store(&room.hold, what == MAKING);
        put_until(w, m, &number, what == MAKING ? keeper_is_held : spare_is_there);
        atomic_store(&room.none, what == NONE);
        atomic_store(&room.little, true);
        kv_status status = kv_checkpoint(w->db, NULL, NULL, &w->err);
        if (what == NONE)
            CHECK_STATUS(status, KV_ERR_NOSPACE, &w->err);
        else
            CHECK_OK(status, &w->err);
        CHECK_EQ(world_stats(w).checkpoint_failures, what == NONE);
        CHECK(!is_there(KV_SEGMENT_SPARE) && !is_there(KV_SEGMENT_RECYCLED));
        /* Neither is missed, and with room the next one is made ahead again. */
        put_until(w, m, &number, spare_is_there);
        atomic_store(&room.little, false);
        recycle(w, m, &number);
        model_check(m, w->db);
        world_cut_power(w);
        world_open(w);
        model_destroy(m);
        world_destroy(w);
    }
}

/* ---- The older file ------------------------------------------------------------------------------------------ */

enum { LARGE = 12, LARGE_SIZE = 1 << 20 };

/* Somebody stands before reading a block, while others load the same shard, and a checkpoint lets its file go. */
static struct {
    _Atomic bool armed, held;
} reader;

static int64_t held_read(void *ctx, int file, void *buffer, size_t size, uint64_t offset) {
    const kv_os *os = fault_os_table(ctx);
    if (size > LARGE_SIZE && offset > (LARGE / 2) * LARGE_SIZE && atomic_exchange(&reader.armed, false)) {
        atomic_store(&reader.held, true);
        while (atomic_load(&reader.held))
            usleep(1000);
    }
    return os->read(os->ctx, file, buffer, size, offset);
}

/* The next piece of room that an older checkpoint is to give back, once the newer one has its name. */
static struct {
    _Atomic bool fails, is_next;
} piece;

static int named_rename(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    if (kv_checkpoint_sequence(to) != 0)
        atomic_store(&piece.is_next, atomic_exchange(&piece.fails, false));
    return os->rename(os->ctx, dir, from, to);
}

static int failing_truncate(void *ctx, int file, uint64_t size) {
    const kv_os *os = fault_os_table(ctx);
    int result = os->truncate(os->ctx, file, size); /* counted */
    return size > LARGE_SIZE && atomic_exchange(&piece.is_next, false) ? -EIO : result;
}

static void large_put(world *w, model *m, unsigned number, unsigned letter) {
    static char value[LARGE_SIZE];
    memset(value, 'a' + (int)((number + letter) % 26), sizeof value);
    kv_bytes key = bytes_of(&number, sizeof number);
    CHECK_OK(kv_put(w->db, key, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    model_put(m, key, bytes_of(value, sizeof value));
}

static void read_all_large(worker *me) {
    world *w = me->shared;
    for (unsigned number = 0; number < LARGE; number++) {
        kv_value value;
        kv_error err;
        CHECK_OK(kv_get(w->db, bytes_of(&number, sizeof number), 0, &value, &err), &err);
        CHECK_EQ(value.size, LARGE_SIZE);
        kv_value_release(&value);
    }
}

static void test_older_file(void) {
    world *w = world_create();
    model *m = model_create();
    crew crew = {0};
    w->os.read = held_read;
    w->os.rename = named_rename;
    w->os.truncate = failing_truncate;
    world_open(w);
    for (unsigned i = 0; i < LARGE; i++)
        large_put(w, m, i, 0);
    CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    world_close(w);
    atomic_store(&reader.armed, true); /* before the worker begins to load */
    world_open(w);
    crew_add(&crew, read_all_large, w);
    while (!atomic_load(&reader.held))
        usleep(1000);
    large_put(w, m, 1, 1);
    CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    atomic_store(&reader.held, false);
    crew_join(&crew);
    /* From now on nobody reads: the room goes in pieces, and what fails there fails nothing. */
    for (unsigned i = 2; i < 5; i++) {
        uint64_t truncated = fault_os_calls(w->faults, FAULT_TRUNCATE);
        large_put(w, m, i, i);
        atomic_store(&piece.fails, i == 3);
        if (i == 4) /* direct I/O that ends within a block goes on in the page cache */
            fault_os_limit(w->faults, 100000);
        CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
        CHECK(fault_os_calls(w->faults, FAULT_TRUNCATE) >= truncated + 2);
        CHECK(i != 3 || !atomic_load(&piece.is_next));
        fault_os_limit(w->faults, 0);
    }
    world_cut_power(w);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* ---- A sync of the directory that fails ------------------------------------------------------------------- */

/* A checkpoint and a segment get their names at the same time, and the system tells of a failed sync, which forgets
 * both, to one of the two only. */
static struct {
    world *w;
    _Atomic bool checkpoint_named, checkpoint_syncs, segment_named, failed;
    bool segment_fails;
} naming;
static _Thread_local bool makes_checkpoint;

/* Not for ever: it does not come when the other one waits for us. */
static void await_for_a_while(_Atomic bool *what) {
    for (unsigned i = 0; i < 100 && !atomic_load(what); i++)
        usleep(1000);
}

static int rename_and_note(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    int r = os->rename(os->ctx, dir, from, to);
    if (kv_checkpoint_sequence(to) != 0)
        atomic_store(&naming.checkpoint_named, true);
    if (kv_segment_sequence(to) != 0)
        atomic_store(&naming.segment_named, true);
    return r;
}

static int sync_names(void *ctx, int dir) {
    const kv_os *os = fault_os_table(ctx);
    bool fails = makes_checkpoint != naming.segment_fails;
    if (makes_checkpoint)
        atomic_store(&naming.checkpoint_syncs, true);
    await_for_a_while(!fails ? &naming.failed : makes_checkpoint ? &naming.segment_named : &naming.checkpoint_named);
    if (fails)
        memory_os_fail_sync(naming.w->memory, 1, EIO);
    int r = os->dir_sync(os->ctx, dir);
    if (fails)
        atomic_store(&naming.failed, true);
    return r;
}

static void checkpoint_beside(worker *me) {
    (void)me;
    kv_error err;
    makes_checkpoint = true;
    CHECK_STATUS(kv_checkpoint(naming.w->db, NULL, NULL, &err), naming.segment_fails ? KV_OK : KV_ERR_IO, &err);
}

/* What had to be written is on disk, but for the names that were forgotten. */
static memory_os *cut_without_names(memory_os *memory) {
    size_t count = memory_os_change_count(memory);
    memory_fate *fates = calloc(count + 1, sizeof *fates);
    for (size_t i = 0; i < count; i++) {
        memory_change c = memory_os_change(memory, i);
        bool counts = kv_checkpoint_sequence(c.to) != 0 || kv_segment_sequence(c.to) != 0;
        fates[i].kind = c.kind == MEMORY_RENAME && counts ? MEMORY_LOST : MEMORY_KEPT;
    }
    memory_os *image = memory_os_cut(memory, fates, count);
    free(fates);
    return image;
}

static void test_names_that_are_forgotten(void) {
    static uint8_t value[24000];
    for (int segment_fails = 0; segment_fails < 2; segment_fails++) {
        world *w = world_create();
        model *m = model_create();
        crew crew = {0};
        w->options.segment_size_min = w->options.segment_size_max = 32768;
        world_open(w);
        for (unsigned i = 0; i < 3; i++) { /* the second segment is begun, so that there is one to let go of */
            kv_bytes key = bytes_of(&i, sizeof i), bytes = bytes_of(value, i < 2 ? 15000 : 1000);
            CHECK_OK(kv_put(w->db, key, bytes, 0, &w->err), &w->err);
            model_put(m, key, bytes);
        }
        memset(&naming, 0, sizeof naming);
        naming.w = w;
        naming.segment_fails = segment_fails;
        w->os.rename = rename_and_note;
        w->os.dir_sync = sync_names;
        crew_add(&crew, checkpoint_beside, NULL);
        while (!atomic_load(&naming.checkpoint_syncs))
            usleep(100);
        kv_status status = kv_put(w->db, LITERAL("k"), bytes_of(value, sizeof value), 0, &w->err);
        CHECK_STATUS(status, segment_fails ? KV_ERR_FAILED : KV_OK, &w->err);
        if (status == KV_OK)
            model_put(m, LITERAL("k"), bytes_of(value, sizeof value));
        crew_join(&crew);
        CHECK(atomic_load(&naming.failed));
        world *image = world_create_on(cut_without_names(w->memory));
        image->options = w->options;
        image->options.os = &image->os;
        world_open(image);
        model_check(m, image->db);
        world_destroy(image);
        CHECK_EQ(world_try_close(w), segment_fails ? KV_ERR_FAILED : KV_OK);
        model_destroy(m);
        world_destroy(w);
    }
}

/* ---- A progress function that closes another handle, in which somebody waits for its own call --------------- */

typedef struct waiting {
    world *w;
    kv_db *other; /* a handle on the same store */
    crew crew;
    unsigned round, told;
} waiting;

static kv_status save(kv_db *db, bool backup, const char *dest, kv_progress progress, void *arg, kv_error *err) {
    return backup ? kv_backup(db, dest, progress, arg, err) : kv_checkpoint(db, progress, arg, err);
}

static void wait_for_another(worker *me) {
    waiting *t = me->shared;
    kv_error err;
    CHECK_STATUS(save(t->other, t->round & 1, "unmade", NULL, NULL, &err), KV_ERR_CLOSED, &err);
}

static bool is_in_a_call(kv_db *db) {
    for (unsigned i = 0; i < KV_THREAD_INDEXES; i++)
        if (atomic_load(&db->calls[i].count) != 0)
            return true;
    return false;
}

static bool close_other(void *arg, uint64_t done, uint64_t total) {
    waiting *t = arg;
    kv_error err;
    if (t->told++ > 0)
        return true;
    crew_add(&t->crew, wait_for_another, t);
    while (!is_in_a_call(t->other))
        usleep(100);
    if (t->round & 4)
        usleep(2000); /* it sleeps by then */
    CHECK_OK(kv_close(t->other, &err), &err);
    return done <= total;
}

static void test_progress_closes_a_handle_that_waits(void) {
    static uint8_t value[60000];
    waiting t = {.w = world_of(KV_SYNC_NEVER)};
    kv_error err;
    world_open(t.w);
    for (unsigned i = 0; i < 200; i++)
        CHECK_OK(kv_put(t.w->db, bytes_of(&i, sizeof i), bytes_of(value, sizeof value), 0, &err), &err);
    for (t.round = 0; t.round < 8; t.round++) {
        char dest[32];
        snprintf(dest, sizeof dest, "copy%u", t.round);
        t.told = 0;
        CHECK_OK(kv_put(t.w->db, LITERAL("k"), LITERAL("v"), 0, &err), &err); /* or no checkpoint is made */
        CHECK_OK(kv_dup(t.w->db, false, &t.other, &err), &err);
        CHECK_OK(save(t.w->db, t.round & 2, dest, close_other, &t, &err), &err);
        CHECK(t.told > 0);
        crew_join(&t.crew);
        kv_destroy(t.other);
    }
    world_close(t.w);
    world_destroy(t.w);
}

CHECK_MAIN(TEST(test_under_load), TEST(test_power_cuts_under_load), TEST(test_backup_under_load),
           TEST(test_loading_under_load), TEST(test_close_during_a_checkpoint),
           TEST(test_due_at_open), TEST(test_recycled_while_another_is_let_go),
           TEST(test_little_room), TEST(test_older_file), TEST(test_names_that_are_forgotten),
           TEST(test_progress_closes_a_handle_that_waits))
