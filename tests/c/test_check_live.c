/* test_check_live.c - kv_check and kv_salvage on what the engine writes: closed, killed, and after power cuts.
 *
 * Whatever a crash leaves is no damage: the store opens, kv_check finds nothing, and kv_salvage makes the same
 * store of it.
 */
#include "check.h"

#include <errno.h>
#include <sys/stat.h>

#include "kv.h"
#include "memory_os.h"
#include "model.h"
#include "scratch.h"
#include "world.h"

#define FAR_EXPIRY UINT64_C(7258118400000) /* the year 2200 */
#define KEYS 400u

/* ---- Work ---------------------------------------------------------------------------------- */

static kv_bytes random_key(check_random *random) {
    static char texts[16][24];
    static unsigned turn;
    char *text = texts[turn++ % 16];
    unsigned number = (unsigned)random_below(random, KEYS);
    return bytes_of(text, (size_t)snprintf(text, sizeof texts[0], "key %u", number));
}

static kv_bytes random_value(check_random *random) {
    static uint8_t bytes[3000];
    size_t max = random_below(random, 12) == 0 ? sizeof bytes : 90;
    random_fill(random, bytes, 8);
    return bytes_of(bytes, random_below(random, max + 1));
}

static uint64_t random_expiry(check_random *random) {
    switch (random_below(random, 6)) {
    case 0:
        return FAR_EXPIRY + random_below(random, 1000);
    case 1:
        return random_below(random, 8) == 0 ? 1000 : 0; /* past: deleted */
    default:
        return 0;
    }
}

static void work(world *w, check_random *random, unsigned steps, unsigned checkpoint_every) {
    for (unsigned i = 0; i < steps; i++) {
        uint64_t what = random_below(random, 100);
        kv_bytes key = random_key(random);
        kv_status status;
        if (what < 60) {
            status = kv_put_expiring(w->db, key, random_value(random), random_expiry(random), 0,
                                     &w->err);
        } else if (what < 75) {
            status = kv_delete(w->db, key, 0, &w->err);
        } else if (what < 85) {
            status = kv_expire(w->db, key, random_expiry(random), 0, &w->err);
        } else if (what < 99 || random_below(random, 20) > 0) {
            kv_op ops[8];
            size_t count = 1 + random_below(random, 8);
            for (size_t j = 0; j < count; j++) {
                ops[j] = (kv_op){.kind = KV_OP_PUT, .key = random_key(random)};
                if (random_below(random, 3) > 0)
                    ops[j].value = key;
                else
                    ops[j].kind = random_below(random, 2) ? KV_OP_DELETE : KV_OP_EXPIRE;
                if (ops[j].kind != KV_OP_DELETE)
                    ops[j].expiry = random_expiry(random);
            }
            status = kv_write(w->db, ops, count, 0, NULL, &w->err);
        } else {
            status = kv_clear(w->db, 0, &w->err);
        }
        CHECK(status >= 0);
        if (random_below(random, checkpoint_every) == 0)
            CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    }
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static void check_same(kv_db *a, kv_db *b) {
    kv_error err;
    kv_snapshot *snapshot;
    kv_cursor *cursor;
    const kv_item *items;
    size_t count;
    uint64_t in_a, in_b;
    kv_status status;
    CHECK_OK(kv_count(a, 0, &in_a, &err), &err);
    CHECK_OK(kv_count(b, 0, &in_b, &err), &err);
    CHECK_EQ(in_a, in_b);
    CHECK_OK(kv_snapshot_create(a, &snapshot, &err), &err);
    CHECK_OK(kv_cursor_create(snapshot, &cursor, &err), &err);
    while ((status = kv_cursor_next(cursor, &items, &count, &err)) == KV_OK)
        for (size_t i = 0; i < count; i++) {
            kv_value value;
            uint64_t expiry;
            CHECK_OK(kv_get(b, items[i].key, 0, &value, &err), &err);
            CHECK_EQ(value.size, items[i].value.size);
            CHECK_MEM(value.data, items[i].value.data, value.size);
            kv_value_release(&value);
            CHECK_OK(kv_get_expiry(b, items[i].key, 0, &expiry, &err), &err);
            CHECK_EQ(expiry, items[i].expiry);
        }
    CHECK_STATUS(status, KV_NOTFOUND, &err);
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(snapshot);
}

static bool print_problem(void *arg, const kv_error *problem, const char *loss) {
    (void)arg;
    printf("# %s: %" PRId64 ": %s [%s]\n", problem->path, problem->offset, problem->message, loss);
    return true;
}

/* No problem is found at the path, and what is salvaged is what an open finds. */
static void check_whole(memory_os *image, const kv_options *options, const char *path) {
    kv_check_options check = {.problem = print_problem, .os = memory_os_table(image)};
    kv_check_summary summary;
    kv_error err;
    kv_db *salvaged, *db;
    if (memory_os_size(image, path, "STORE") < 0) { /* there never was one */
        CHECK_STATUS(kv_check(path, &check, &summary, &err), KV_ERR_IO, &err);
        CHECK_EQ(err.sys_errno, ENOENT);
        return;
    }
    CHECK_OK(kv_open(NULL, NULL, &salvaged, &err), &err);
    CHECK_OK(kv_salvage(path, salvaged, &check, &summary, &err), &err);
    CHECK_EQ(summary.problems, 0);
    CHECK_OK(kv_check(path, &check, &summary, &err), &err);
    CHECK_EQ(summary.problems, 0);
    kv_options local = *options;
    local.os = memory_os_table(image);
    CHECK_OK(kv_open(path, &local, &db, &err), &err);
    kv_recovery recovery;
    kv_get_recovery(db, &recovery);
    CHECK_EQ(recovery.checkpoint_items, summary.entries);
    CHECK_EQ(recovery.frames, summary.frames);
    CHECK_EQ(recovery.records, summary.records);
    check_same(db, salvaged);
    image_close(db);
    image_close(salvaged);
}

/* ---- Tests ------------------------------------------------------------------------------------- */

static world *make(unsigned round, check_random *random) {
    static const uint32_t sizes[] = {8192, 16384, 65536};
    world *w = world_create();
    w->options.checkpoint_log_percent = 0;
    w->options.sync = (kv_sync)(round % 3);
    w->options.sync_interval_ns = 1000000;
    w->options.segment_size_min = 8192;
    w->options.segment_size_max = sizes[random_below(random, 3)];
    return w;
}

static void test_closed_and_killed(void) {
    check_random random = random_stream(1);
    for (unsigned round = 0; round < 60; round++) {
        world *w = make(round, &random);
        for (unsigned again = 0; again < 3; again++) {
            world_open(w);
            work(w, &random, (unsigned)random_below(&random, 400), 30 + round * 10);
            if (random_below(&random, 2))
                world_close(w);
            else
                world_kill(w);
            memory_os *image = memory_os_cut_after(w->memory, memory_os_change_count(w->memory));
            check_whole(image, &w->options, WORLD_DIR);
            memory_os_destroy(image);
        }
        world_destroy(w);
    }
}

/* Of what was not synced any part may be there.  (Torn writes would need to know each change's size, and the keeper
 * goes on meanwhile; garbled ones do instead.) */
static memory_os *random_cut(memory_os *memory, check_random *random) {
    static const memory_fate_kind kinds[] = {MEMORY_LOST, MEMORY_KEPT, MEMORY_KEPT, MEMORY_GARBLED};
    size_t count = memory_os_change_count(memory);
    memory_fate *fates = calloc(count + 1, sizeof *fates);
    for (size_t i = 0; i < count; i++)
        fates[i] = (memory_fate){kinds[random_below(random, 4)], random_next(random)};
    memory_os *image = memory_os_cut(memory, fates, count);
    free(fates);
    return image;
}

typedef struct cutter {
    world *w;
    check_random random;
    memory_os *image; /* of a moment in the middle of some call */
    uint64_t at, calls;
} cutter;

static void maybe_cut(void *arg, fault_call call, bool after) {
    cutter *c = arg;
    if (after || (call != FAULT_WRITE && call != FAULT_SYNC && call != FAULT_RENAME &&
                  call != FAULT_DIR_SYNC && call != FAULT_UNLINK && call != FAULT_TRUNCATE))
        return;
    if (__atomic_add_fetch(&c->calls, 1, __ATOMIC_RELAXED) == c->at)
        c->image = random_cut(c->w->memory, &c->random);
}

/* The power goes in the middle of anything: a rotation, a checkpoint, the removal of old files. */
static void test_power_cuts(void) {
    check_random random = random_stream(2);
    unsigned cuts = 0;
    for (unsigned round = 0; round < 250; round++) {
        world *w = make(0, &random);
        cutter c = {.w = w, .random = random_stream(1000 + round)};
        c.at = 1 + random_below(&random, round % 3 ? 500 : 20);
        fault_os_watch(w->faults, maybe_cut, &c);
        world_open(w);
        work(w, &random, 150, 20);
        world_close(w);
        fault_os_watch(w->faults, NULL, NULL);
        if (c.image != NULL) {
            cuts++;
            check_whole(c.image, &w->options, WORLD_DIR);
            memory_os_destroy(c.image);
        }
        world_destroy(w);
    }
    printf("# %u power cuts\n", cuts);
    CHECK(cuts > 100);
}

/* A backup is a store like another. */
static void test_backup(void) {
    check_random random = random_stream(3);
    for (unsigned round = 0; round < 20; round++) {
        world *w = make(round, &random);
        world_open(w);
        work(w, &random, 20 * round, 100);
        CHECK_OK(kv_backup(w->db, "backup", NULL, NULL, &w->err), &w->err);
        check_whole(w->memory, &w->options, "backup");
        world_destroy(w);
    }
}

/* A store that is open for writing here or elsewhere is not looked at. */
static void test_open_store(void) {
    world *w = world_create();
    kv_check_options options = {.os = memory_os_table(w->memory)};
    world_open(w);
    CHECK_STATUS(kv_check(WORLD_DIR, &options, NULL, &w->err), KV_ERR_LOCKED, &w->err);
    CHECK_EQ(w->err.pid, getpid());
    CHECK_STATUS(kv_salvage(WORLD_DIR, w->db, &options, NULL, &w->err), KV_ERR_LOCKED, &w->err);
    CHECK_OK(kv_put(w->db, LITERAL("a"), LITERAL("b"), 0, &w->err), &w->err);
    world_close(w);
    w->options.read_only = true;
    world_open(w);
    CHECK_OK(kv_check(WORLD_DIR, &options, NULL, &w->err), &w->err);
    kv_db *salvaged;
    CHECK_OK(kv_open(NULL, NULL, &salvaged, &w->err), &w->err);
    CHECK_OK(kv_salvage(WORLD_DIR, salvaged, &options, NULL, &w->err), &w->err);
    check_same(w->db, salvaged);
    image_close(salvaged);
    world_destroy(w);
}

/* On the real file system, where a name need not be a file. */
static void test_on_disk(void) {
    scratch s = scratch_make();
    const char *store = scratch_path(&s, "store");
    char name[400];
    kv_check_options options = {.problem = print_problem};
    kv_check_summary summary;
    kv_options small = kv_options_default();
    kv_error err;
    kv_db *db;
    small.segment_size_min = 8192;
    CHECK_OK(kv_open(store, &small, &db, &err), &err);
    CHECK_STATUS(kv_check(store, &options, NULL, &err), KV_ERR_LOCKED, &err);
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(kv_put(db, bytes_of(&i, sizeof i), LITERAL("some value"), 0, &err), &err);
    CHECK_OK(kv_checkpoint(db, NULL, NULL, &err), &err);
    CHECK_OK(kv_put(db, LITERAL("a"), LITERAL("b"), 0, &err), &err);
    image_close(db);
    CHECK_OK(kv_check(store, &options, &summary, &err), &err);
    CHECK_EQ(summary.problems, 0);
    CHECK_EQ(summary.entries, 100);

    snprintf(name, sizeof name, "%s/00000099.log", store); /* a directory */
    CHECK_EQ(mkdir(name, 0700), 0);
    CHECK_OK(kv_check(store, &options, &summary, &err), &err);
    CHECK_EQ(summary.problems, 3); /* it cannot be read; segment 2 has no end; and those between are missing */
    CHECK_EQ(rmdir(name), 0);
    snprintf(name, sizeof name, "%s/00000099.ckpt", store); /* a symbolic link */
    CHECK_EQ(symlink("STORE", name), 0);
    CHECK_OK(kv_check(store, &options, &summary, &err), &err);
    CHECK(summary.problems >= 2);
    CHECK_STATUS(kv_check(name, &options, &summary, &err), KV_ERR_IO, &err); /* to a file */
    scratch_remove(&s);
}

CHECK_MAIN(TEST(test_closed_and_killed), TEST(test_power_cuts), TEST(test_backup),
           TEST(test_open_store), TEST(test_on_disk))
