/* test_direct.c - the log past the page cache: blocks that a frame shares with the one before, with the end of the
 * file, and with nothing at all where direct I/O is not to be had.
 *
 * The simulated system has direct I/O, so every other test of the log runs with it, too (memory_os.h checks the
 * alignment).  Here are the cases that need looking for.
 */
/* tsan */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "engine/segment.h"
#include "kv.h"
#include "model.h"
#include "world.h"

static const kv_bytes A = {"a", 1}, B = {"b", 1};

/* A store of large segments whose system asks for this alignment. */
static world *world_of(unsigned alignment) {
    world *w = world_create();
    memory_os_set_direct(w->memory, alignment);
    w->options.segment_size_min = w->options.segment_size_max = 65536;
    return w;
}

static void put(world *w, model *m, unsigned number, size_t size) {
    static uint8_t value[20000];
    kv_bytes key = bytes_of(&number, sizeof number), bytes = bytes_of(value, size);
    memset(value, 'a' + (int)(number % 26), size);
    CHECK_OK(kv_put(w->db, key, bytes, 0, &w->err), &w->err);
    model_put(m, key, bytes);
}

/* The store ends in one of these ways, and opens again with what the model has. */
typedef enum ending { CLOSED, KILLED, POWER_CUT, ENDINGS } ending;

static void end_and_open(world *w, const model *m, ending how) {
    if (how == CLOSED)
        world_close(w);
    else if (how == KILLED)
        world_kill(w);
    else
        world_cut_power(w);
    world_open(w);
    model_check(m, w->db);
}

/* ---- Every place in a block -------------------------------------------------------------------------- */

/* The first frame of a store's life ends at each multiple of 16 bytes of a block: the next one, written before and
 * after the store was opened again, shares that block, or begins a new one. */
static void test_every_tail(void) {
    for (unsigned alignment = 512; alignment <= 4096; alignment *= 8)
        for (size_t size = 0; size < alignment; size += 16)
            for (int how = 0; how < ENDINGS; how++) {
                world *w = world_of(alignment);
                model *m = model_create();
                world_open(w);
                put(w, m, 1, size);
                end_and_open(w, m, (ending)how);
                CHECK(world_stats(w).direct_io);
                put(w, m, 2, 33);
                put(w, m, 3, size);
                end_and_open(w, m, (ending)how);
                put(w, m, 4, 700);
                end_and_open(w, m, KILLED);
                CHECK(memory_os_direct_writes(w->memory) > 0);
                model_destroy(m);
                world_destroy(w);
            }
}

/* Two frames in one block: whatever a power cut makes of the write of the second, the first is there. */
static void test_the_head_of_a_block_is_safe(void) {
    static const memory_fate_kind kinds[] = {MEMORY_LOST, MEMORY_KEPT, MEMORY_GARBLED};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (size_t size = 0; size < 512; size += 48) {
            world *w = world_of(512);
            model *m = model_create();
            world_open(w);
            put(w, m, 1, size);
            /* A sync that has no effect: the second write is there for the cut. */
            fault_os_fail(w->faults, FAULT_SYNC, 1, EIO, 0);
            CHECK_STATUS(kv_put(w->db, B, B, 0, &w->err), KV_ERR_FAILED, &w->err);
            memory_fate fates[8] = {{MEMORY_LOST, 0}};
            size_t count = memory_os_change_count(w->memory), found = 0;
            CHECK(count <= 8);
            for (size_t j = 0; j < count; j++)
                if (strcmp(memory_os_change(w->memory, j).name, KV_SEGMENT_SPARE) == 0) { /* as it was opened */
                    fates[j] = (memory_fate){kinds[i], 5};
                    found++;
                }
            CHECK_EQ(found, 1);
            memory_os *image = memory_os_cut(w->memory, fates, count);
            kv_db *db = image_open(image, &w->options);
            if (kinds[i] == MEMORY_KEPT)
                model_put(m, B, B);
            model_check(m, db);
            image_close(db);
            memory_os_destroy(image);
            world_kill(w);
            model_destroy(m);
            world_destroy(w);
        }
}

/* Frames move in memory when a rotation changes their place in a block, and do not when it does not; a group's buffer
 * grows meanwhile. */
static void test_rotations(void) {
    for (size_t size = 3000; size < 3600; size += 8) {
        world *w = world_of(size % 16 == 0 ? 512 : 4096);
        model *m = model_create();
        w->options.segment_size_min = w->options.segment_size_max = WORLD_SEGMENT_SIZE;
        world_open(w);
        for (unsigned i = 0; i < 4; i++) {
            put(w, m, i, i % 2 == 0 ? size : 100);
            put(w, m, 10 + i, 16 * i);
        }
        put(w, m, 20, 20000); /* a segment of its own size */
        put(w, m, 21, size);
        CHECK(world_stats(w).log_segments > 3);
        CHECK(world_stats(w).direct_io);
        end_and_open(w, m, size % 3 == 0 ? CLOSED : size % 3 == 1 ? KILLED : POWER_CUT);
        model_destroy(m);
        world_destroy(w);
    }
}

/* A file whose size is no whole number of blocks: nothing is written beyond it, up to the last byte. */
static void test_sizes_that_are_no_blocks(void) {
    for (unsigned more = 0; more < 1024; more += 16)
        for (int how = 0; how < ENDINGS; how++) {
            world *w = world_of(how == KILLED ? 4096 : 512);
            model *m = model_create();
            w->options.segment_size_min = w->options.segment_size_max = 8192 + more;
            world_open(w);
            for (unsigned i = 0; i < 30; i++)
                put(w, m, i, 300 + more / 16);
            for (uint64_t sequence = 1; sequence <= world_stats(w).log_segments; sequence++) {
                char name[64];
                kv_segment_name(sequence, name);
                CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, name), 8192 + more);
            }
            end_and_open(w, m, (ending)how);
            model_destroy(m);
            world_destroy(w);
        }
}

/* ---- When it is used ------------------------------------------------------------------------------------ */

/* Where a commit does not wait for the disk, the page cache is where it belongs. */
static void test_only_where_every_frame_is_synced(void) {
    for (int which = 0; which < 5; which++) {
        world *w = world_of(which == 4 ? 0 : 512);
        model *m = model_create();
        w->options.sync = which < 3 ? (kv_sync)which : KV_SYNC_ALWAYS;
        w->options.direct_io = which != 3;
        world_open(w);
        for (unsigned i = 0; i < 200; i++)
            put(w, m, i, 1000);
        CHECK(world_stats(w).log_segments > 2);
        CHECK_EQ(world_stats(w).direct_io, which == 0);
        CHECK_EQ(memory_os_direct_writes(w->memory) > 0, which == 0);
        CHECK_EQ(fault_os_calls(w->faults, FAULT_DIRECT) > 0, which == 0 || which == 4);
        end_and_open(w, m, KILLED);
        model_destroy(m);
        world_destroy(w);
    }
}

/* It cannot be turned on, for one segment or for good; its first write is refused, or a later one. */
static void test_fallback(void) {
    static const int errors[] = {EOPNOTSUPP, EINVAL, EIO};
    for (unsigned nth = 1; nth <= 12; nth++)
        for (int which = 0; which < 8; which++) {
            world *w = world_of(512);
            model *m = model_create();
            w->options.segment_size_min = w->options.segment_size_max = 16384;
            unsigned flags = which % 2 ? FAULT_FOREVER : 0;
            if (which < 6)
                fault_os_fail(w->faults, FAULT_DIRECT, nth, errors[which / 2], flags);
            world_open(w);
            if (which >= 6)
                fault_os_fail(w->faults, FAULT_WRITE, nth, EINVAL, 0);
            unsigned count = 0;
            for (; count < 60; count++) {
                kv_status status = kv_put(w->db, bytes_of(&count, sizeof count), A, 0, &w->err);
                CHECK_OK(status, &w->err);
                model_put(m, bytes_of(&count, sizeof count), A);
                put(w, m, 100 + count, 500);
            }
            CHECK(fault_os_failures(w->faults) > 0 || (which < 6 && nth > 3));
            fault_os_heal(w->faults);
            end_and_open(w, m, (ending)(nth % ENDINGS));
            for (count = 0; count < 40; count++) /* into the next segment */
                put(w, m, 200 + count, 500);
            CHECK(world_stats(w).direct_io);
            end_and_open(w, m, (ending)((nth + 1) % ENDINGS));
            model_destroy(m);
            world_destroy(w);
        }
}

static void test_short_writes(void) {
    static const size_t limits[] = {100, 512, 700, 1024, 4095, 4096, 5000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++)
        for (unsigned alignment = 512; alignment <= 4096; alignment *= 8)
            for (int how = 0; how < ENDINGS; how++) {
                world *w = world_of(alignment);
                model *m = model_create();
                world_open(w);
                fault_os_limit(w->faults, limits[i]);
                for (unsigned number = 0; number < 40; number++)
                    put(w, m, number, 37 * number * (number % 3));
                fault_os_limit(w->faults, 0);
                end_and_open(w, m, (ending)how);
                model_destroy(m);
                world_destroy(w);
            }
}

/* ---- A frame that is taken back ----------------------------------------------------------------------------- */

/* Room runs out at each block of a frame; what was durable in its first block stays, and nothing of the frame does. */
static void test_taken_back(void) {
    static uint8_t large[3000];
    memset(large, 'L', sizeof large);
    for (size_t size = 0; size < 512; size += 16)
        for (uint64_t nth = 1; nth <= 6; nth++)
            for (int how = 0; how < ENDINGS; how++) {
                world *w = world_of(512);
                model *m = model_create();
                world_open(w);
                put(w, m, 1, size);
                fault_os_limit(w->faults, nth % 2 ? 512 : 700);
                fault_os_fail(w->faults, FAULT_WRITE, nth, ENOSPC, 0);
                CHECK_STATUS(kv_put(w->db, B, bytes_of(large, sizeof large), 0, &w->err),
                             KV_ERR_NOSPACE, &w->err);
                fault_os_limit(w->faults, 0);
                if (size % 32 == 0)
                    put(w, m, 2, 40);
                end_and_open(w, m, (ending)how);
                kv_recovery recovery;
                kv_get_recovery(w->db, &recovery);
                CHECK_EQ(recovery.bytes_cut, 0);
                CHECK(world_stats(w).direct_io);
                put(w, m, 3, 40);
                end_and_open(w, m, (ending)how);
                model_destroy(m);
                world_destroy(w);
            }
}

/* The whole frame has come through, and the call says that there was no room: it must not come back. */
static void test_written_and_refused(void) {
    for (int again = 0; again < 2; again++)
        for (int how = 0; how < ENDINGS; how++) {
            world *w = world_of(512);
            model *m = model_create();
            world_open(w);
            put(w, m, 1, 100);
            fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_DONE | (again ? FAULT_FOREVER : 0));
            kv_status status = kv_put(w->db, B, B, 0, &w->err);
            fault_os_heal(w->faults);
            /* It cannot be taken away, if that is refused, too: then nobody goes on. */
            CHECK_STATUS(status, again ? KV_ERR_FAILED : KV_ERR_NOSPACE, &w->err);
            if (!again || how == POWER_CUT) {
                end_and_open(w, m, (ending)how);
            } else {
                world_kill(w);
                world_open(w); /* there whole, or not */
            }
            model_destroy(m);
            world_destroy(w);
        }
}

/* Whatever a power cut leaves of the file system's changes so far, in their order: a store with what the model has. */
static void check_power_cuts(const world *w, const model *m) {
    for (size_t kept = 0; kept <= memory_os_change_count(w->memory); kept++) {
        world *image = world_create_on(memory_os_cut_after(w->memory, kept));
        image->options = w->options;
        image->options.os = &image->os;
        world_open(image);
        model_check(m, image->db);
        world_destroy(image);
    }
}

typedef struct watched {
    const world *w;
    const model *m;
    _Atomic unsigned moments;
} watched;

static void watch_names(void *arg, fault_call call, bool after) {
    watched *x = arg;
    if (call == FAULT_DIR_SYNC && after) {
        check_power_cuts(x->w, x->m);
        atomic_fetch_add(&x->moments, 1);
    }
}

/* The same and the power goes, at once, or while the next write begins a segment at the refused one's place. */
static void test_power_cut_after_a_refusal(void) {
    world *w = world_of(512);
    model *m = model_create();
    watched x = {w, m, 0};
    world_open(w);
    put(w, m, 1, 5000);
    put(w, m, 2, 20000);
    fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_DONE);
    CHECK_STATUS(kv_put(w->db, B, B, 0, &w->err), KV_ERR_NOSPACE, &w->err);
    check_power_cuts(w, m);
    fault_os_watch(w->faults, watch_names, &x);
    static uint8_t value[60000];
    CHECK_OK(kv_put(w->db, A, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    fault_os_watch(w->faults, NULL, NULL);
    CHECK_EQ(x.moments, 1);
    model_put(m, A, bytes_of(value, sizeof value));
    check_power_cuts(w, m);
    model_destroy(m);
    world_destroy(w);
}

/* ---- Segments are used again ---------------------------------------------------------------------------------- */

static struct {
    _Atomic unsigned begun, recycled;
} renames;

static int counting_rename(void *ctx, int dir, const char *from, const char *to) {
    const kv_os *os = fault_os_table(ctx);
    if (strcmp(from, KV_SEGMENT_RECYCLED) == 0)
        atomic_fetch_add(&renames.recycled, 1);
    else if (strcmp(from, KV_SEGMENT_SPARE) == 0)
        atomic_fetch_add(&renames.begun, 1);
    return os->rename(os->ctx, dir, from, to);
}

/* In the long run every new segment is an old one: a checkpoint is due whenever a segment is full, even though it
 * was made when a part of that was written. */
static void recycle(size_t value_size) {
    world *w = world_of(512);
    model *m = model_create();
    enum { SIZE = 1 << 18, SEGMENTS = 30 };
    renames.begun = renames.recycled = 0;
    w->os.rename = counting_rename;
    w->options.segment_size_min = w->options.segment_size_max = w->options.checkpoint_log_min = SIZE;
    w->options.checkpoint_log_percent = 100;
    world_open(w);
    unsigned number = 0;
    for (unsigned seen = atomic_load(&renames.begun); seen < SEGMENTS; number++) {
        put(w, m, number % 10, value_size);
        if (seen == atomic_load(&renames.begun))
            continue;
        seen = atomic_load(&renames.begun);
        for (unsigned waited = 0; seen > 1 && world_stats(w).checkpoints < seen - 1; waited++) {
            if (waited > 10000)
                FAIL("segment %u is begun, and %d checkpoints are made", seen, (int)world_stats(w).checkpoints);
            usleep(1000);
        }
        CHECK(world_stats(w).log_segments <= 3);
    }
    unsigned made = atomic_load(&renames.begun) - atomic_load(&renames.recycled);
    printf("# values of %zu: %u of %u segments were new files\n", value_size, made, SEGMENTS);
    CHECK(made <= 4);
    end_and_open(w, m, CLOSED);
    model_destroy(m);
    world_destroy(w);
}

static void test_every_segment_is_recycled(void) {
    recycle(1000);
    recycle(20000);
}

CHECK_MAIN(TEST(test_every_tail), TEST(test_the_head_of_a_block_is_safe), TEST(test_rotations),
           TEST(test_sizes_that_are_no_blocks), TEST(test_only_where_every_frame_is_synced),
           TEST(test_fallback), TEST(test_short_writes), TEST(test_taken_back),
           TEST(test_written_and_refused), TEST(test_power_cut_after_a_refusal),
           TEST(test_every_segment_is_recycled))
