/* test_log.c - groups, segments and the frames in them. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>

#include "engine/format.h"
#include "kv.h"
#include "model.h"
#include "threads.h"
#include "world.h"

static const kv_bytes A = {"a", 1}, B = {"b", 1};

/* ---- What is on disk -------------------------------------------------------------------------------- */

typedef struct frame {
    uint64_t segment, offset;
    kv_frame_header header;
} frame;

static uint64_t segment_size(world *w, uint64_t sequence) {
    char name[64];
    snprintf(name, sizeof name, "%08" PRIu64 ".log", sequence);
    int64_t size = memory_os_size(w->memory, WORLD_DIR, name);
    return size < 0 ? 0 : (uint64_t)size;
}

/* All frames of all segments, as they would be read; how many. */
static size_t frames_of(world *w, frame *frames, size_t capacity) {
    size_t count = 0;
    uint64_t lsn = 0;
    for (uint64_t sequence = 1; segment_size(w, sequence) > 0; sequence++) {
        static uint8_t header_bytes[KV_SEGMENT_HEADER_SIZE];
        char name[64];
        kv_segment_header segment;
        kv_error err;
        snprintf(name, sizeof name, "%08" PRIu64 ".log", sequence);
        CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, name, 0, header_bytes, sizeof header_bytes), 0);
        CHECK_OK(kv_segment_header_decode(&segment, header_bytes, sizeof header_bytes, name, &err),
                 &err);
        CHECK_EQ(segment.sequence, sequence);
        CHECK_EQ(segment.start_lsn, lsn);
        CHECK_EQ(segment.file_size, segment_size(w, sequence));
        uint8_t bytes[KV_FRAME_HEADER_SIZE];
        frame f = {.segment = sequence, .offset = KV_SEGMENT_HEADER_SIZE};
        while (memory_os_peek(w->memory, WORLD_DIR, name, f.offset, bytes, sizeof bytes) == 0 &&
               kv_frame_header_decode(&f.header, bytes)) {
            CHECK_EQ(f.header.lsn, lsn);
            CHECK_EQ(f.header.salt, segment.salt);
            CHECK(f.header.durable_lsn <= lsn);
            CHECK(count < capacity);
            frames[count++] = f;
            f.offset += kv_frame_size(f.header.payload_size);
            if (f.header.kind == KV_FRAME_END)
                break;
            lsn += kv_frame_size(f.header.payload_size);
        }
    }
    return count;
}

static void test_frames_of_one_writer(void) {
    world *w = world_create();
    frame frames[10];
    const kv_op ops[] = {{KV_OP_PUT, A, B}, {KV_OP_PUT, B, A}};
    world_open(w);
    CHECK_EQ(world_stats(w).lsn, 0);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    CHECK_OK(kv_write(w->db, ops, 2, 0, NULL, &w->err), &w->err);
    kv_stats stats = world_stats(w);
    CHECK_EQ(stats.commits, 2);
    CHECK_EQ(stats.frames, 2);
    CHECK_EQ(stats.syncs, 2);
    world_close(w);
    CHECK_EQ(frames_of(w, frames, 10), 3);
    CHECK_EQ(frames[0].header.commits, 1);
    CHECK_EQ(frames[0].header.payload_size, 10);
    CHECK_EQ(frames[0].header.durable_lsn, 0);
    CHECK_EQ(frames[1].header.commits, 1);
    CHECK_EQ(frames[1].header.payload_size, 20);
    CHECK_EQ(frames[1].header.durable_lsn, 64); /* each knows the one before as durable */
    CHECK_EQ(frames[2].header.kind, KV_FRAME_CLOSE);
    CHECK_EQ(frames[2].header.durable_lsn, frames[2].header.lsn);
    CHECK_EQ(stats.durable_lsn, frames[2].header.lsn);
    world_destroy(w);
}

/* A store that is opened and closed writes no more than a closing frame. */
static void test_open_and_close(void) {
    world *w = world_create();
    frame frames[10];
    for (size_t i = 1; i <= 5; i++) {
        world_open(w);
        world_close(w);
        CHECK_EQ(frames_of(w, frames, 10), i);
        CHECK_EQ(frames[i - 1].header.kind, KV_FRAME_CLOSE);
    }
    world_destroy(w);
}

/* ---- Groups ---------------------------------------------------------------------------------------------- */

typedef struct group {
    world *w;
    _Atomic unsigned started;
} group;

static void put_mine(worker *me) {
    group *g = me->shared;
    kv_error err;
    atomic_fetch_add(&g->started, 1);
    CHECK_OK(kv_put(g->w->db, bytes_of(&me->id, sizeof me->id), A, 0, &err), &err);
}

/* While one commit is being synced, all who come are the next group: one frame, one sync. */
static void test_who_comes_meanwhile_is_the_next_group(void) {
    group g = {.w = world_create()};
    crew first = {0}, others = {0};
    frame frames[10];
    g.w->options.segment_size_min = g.w->options.segment_size_max = 1 << 20;
    world_open(g.w);
    fault_os_gate_close(g.w->faults, FAULT_SYNC);
    crew_add(&first, put_mine, &g);
    fault_os_gate_wait(g.w->faults, FAULT_SYNC, 1);
    others.count = 1; /* other ids */
    for (unsigned i = 0; i < 10; i++)
        crew_add(&others, put_mine, &g);
    others.count = 11;
    while (world_stats(g.w).commits < 11)
        usleep(100);
    CHECK_EQ(fault_os_calls(g.w->faults, FAULT_SYNC), 3 + 1); /* spare, its header, STORE; ours */
    fault_os_gate_open(g.w->faults, FAULT_SYNC);
    for (unsigned i = 1; i < 11; i++)
        CHECK_EQ(pthread_join(others.workers[i].thread, NULL), 0);
    crew_join(&first);
    kv_stats stats = world_stats(g.w);
    CHECK_EQ(stats.commits, 11);
    CHECK_EQ(stats.frames, 2);
    CHECK_EQ(stats.syncs, 2);
    world_close(g.w);
    CHECK_EQ(frames_of(g.w, frames, 10), 3);
    CHECK_EQ(frames[0].header.commits, 1);
    CHECK_EQ(frames[1].header.commits, 10);
    world_destroy(g.w);
}

static void make_durable(worker *me) {
    group *g = me->shared;
    kv_error err;
    CHECK_OK(kv_make_durable(g->w->db, &err), &err);
}

/* Callers of kv_make_durable share, too; and with nothing new there is nothing to do. */
static void test_making_durable_together(void) {
    group g = {.w = world_create()};
    crew crew = {0};
    g.w->options.sync = KV_SYNC_NEVER;
    g.w->options.segment_size_min = g.w->options.segment_size_max = 1 << 20;
    world_open(g.w);
    CHECK_OK(kv_put(g.w->db, A, A, 0, &g.w->err), &g.w->err);
    CHECK_EQ(world_stats(g.w).syncs, 0);
    fault_os_gate_close(g.w->faults, FAULT_SYNC);
    for (unsigned i = 0; i < 6; i++)
        crew_add(&crew, make_durable, &g);
    fault_os_gate_wait(g.w->faults, FAULT_SYNC, 1);
    usleep(5000);
    fault_os_gate_open(g.w->faults, FAULT_SYNC);
    crew_join(&crew);
    kv_stats stats = world_stats(g.w);
    CHECK_EQ(stats.syncs, 1);
    CHECK_EQ(stats.frames, 1);
    CHECK_EQ(stats.durable_lsn, stats.lsn);
    CHECK_OK(kv_make_durable(g.w->db, &g.w->err), &g.w->err);
    CHECK_EQ(world_stats(g.w).syncs, 1);
    world_destroy(g.w);
}

static void put_many(worker *me) {
    group *g = me->shared;
    static const char value[200];
    kv_error err;
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(kv_put(g->w->db, bytes_of(&i, sizeof i), bytes_of(value, sizeof value), 0, &err),
                 &err);
    (void)me;
}

/* Too much in flight: writers wait, and all of them get through. */
static void test_back_pressure(void) {
    for (size_t max = 0; max < 3000; max += 1000) {
        group g = {.w = world_create()};
        crew crew = {0};
        g.w->options.inflight_max = max;
        g.w->options.segment_size_max = 1 << 20;
        world_open(g.w);
        fault_os_delay(g.w->faults, FAULT_SYNC, 20000);
        for (unsigned i = 0; i < 8; i++)
            crew_add(&crew, put_many, &g);
        crew_join(&crew);
        CHECK_EQ(world_stats(g.w).commits, 800);
        world_destroy(g.w);
    }
}

/* ---- Segments ---------------------------------------------------------------------------------------------- */

static void test_segments_double_and_end(void) {
    world *w = world_create();
    static uint8_t value[900];
    static frame frames[400];
    w->options.segment_size_min = 8192;
    w->options.segment_size_max = 32768;
    world_open(w);
    for (unsigned i = 0; i < 150; i++)
        CHECK_OK(kv_put(w->db, A, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    kv_stats stats = world_stats(w);
    world_close(w);
    static const uint64_t sizes[] = {8192, 16384, 32768, 32768, 32768};
    for (uint64_t i = 0; i < 5; i++)
        CHECK_EQ(segment_size(w, i + 1), sizes[i]);
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "spare.log"), -ENOENT);
    size_t count = frames_of(w, frames, 400);
    uint64_t ends = 0;
    for (size_t i = 0; i < count; i++)
        if (frames[i].header.kind == KV_FRAME_END) {
            ends++;
            CHECK_EQ(frames[i].header.durable_lsn, frames[i].header.lsn);
            CHECK_EQ(frames[i + 1].segment, frames[i].segment + 1);
            /* Another frame would not have had room. */
            CHECK(frames[i].offset + 960 + 48 > segment_size(w, frames[i].segment));
        }
    CHECK_EQ(ends, stats.log_segments - 1);
    CHECK_EQ(frames[count - 1].header.kind, KV_FRAME_CLOSE);
    world_destroy(w);
}

/* A commit larger than a segment gets one of its own size. */
static void test_a_commit_larger_than_a_segment(void) {
    world *w = world_create();
    static uint8_t value[300000];
    model *m = model_create();
    memset(value, 'v', sizeof value);
    world_open(w);
    for (size_t size = 1; size < sizeof value; size = size * 5 + 1) {
        kv_bytes key = bytes_of(&size, sizeof size), v = bytes_of(value, size);
        CHECK_OK(kv_put(w->db, key, v, 0, &w->err), &w->err);
        CHECK_OK(kv_put(w->db, A, B, 0, &w->err), &w->err);
        model_put(m, key, v);
    }
    model_put(m, A, B);
    world_close(w);
    uint64_t largest = 0;
    for (uint64_t i = 1; segment_size(w, i) > 0; i++)
        largest = segment_size(w, i) > largest ? segment_size(w, i) : largest;
    CHECK(largest > 97656 && largest < 200000);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* Where a frame ends exactly at the end of the room, and one byte beyond. */
static void test_exact_fit(void) {
    /* 8192 - 4096 (header) - 48 (end frame) - 48 (frame header) - 8 (record header) - 1 (key) */
    enum { FITS = 3991 };
    static uint8_t value[FITS + 1];
    for (size_t size = FITS - 16; size <= FITS + 1; size++)
        for (int before = 0; before < 2; before++) {
            world *w = world_create();
            w->options.segment_size_max = WORLD_SEGMENT_SIZE;
            world_open(w);
            if (before)
                CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
            CHECK_OK(kv_put(w->db, A, bytes_of(value, size), 0, &w->err), &w->err);
            CHECK_EQ(world_stats(w).log_segments, 1 + (before || size > FITS));
            CHECK_OK(kv_put(w->db, B, A, 0, &w->err), &w->err);
            world_close(w);
            world_open(w);
            kv_value got;
            CHECK_OK(kv_get(w->db, A, 0, &got, &w->err), &w->err);
            CHECK_EQ(got.size, size);
            kv_value_release(&got);
            world_destroy(w);
        }
}

/* The keeper has the next segment ready in time; and none is left when the store is closed. */
static void test_spare(void) {
    world *w = world_create();
    static uint8_t value[20000];
    w->options.segment_size_min = w->options.segment_size_max = 32768;
    world_open(w);
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "spare.log"), -ENOENT);
    CHECK_OK(kv_put(w->db, A, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    while (memory_os_size(w->memory, WORLD_DIR, "spare.log") != 32768)
        usleep(100);
    world_close(w);
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "spare.log"), -ENOENT);

    world_open(w);
    CHECK_OK(kv_put(w->db, B, A, 0, &w->err), &w->err);
    while (memory_os_size(w->memory, WORLD_DIR, "spare.log") != 32768)
        usleep(100);
    world_kill(w); /* it is left over */
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "spare.log"), 32768);
    world_open(w);
    CHECK_EQ(world_stats(w).log_segments, 1);
    /* Too small for this one: it is made anew. */
    static uint8_t large[100000];
    CHECK_OK(kv_put(w->db, A, bytes_of(large, sizeof large), 0, &w->err), &w->err);
    CHECK(segment_size(w, 2) > sizeof large);
    world_destroy(w);
}

/* Large frames: the room of the next segment is only reserved. */
static void test_reserved_segments(void) {
    world *w = world_create();
    static uint8_t value[70000];
    model *m = model_create();
    memset(value, 'v', sizeof value);
    world_open(w);
    for (unsigned i = 0; i < 6; i++) {
        kv_bytes key = bytes_of(&i, sizeof i), v = bytes_of(value, sizeof value - i);
        CHECK_OK(kv_put(w->db, key, v, 0, &w->err), &w->err);
        model_put(m, key, v);
    }
    CHECK(fault_os_calls(w->faults, FAULT_RESERVE) > 2);
    world_cut_power(w);
    world_open(w);
    model_check(m, w->db);
    /* On a system that cannot reserve, they are written. */
    world_close(w);
    w->os.reserve = NULL;
    world_open(w);
    for (unsigned i = 10; i < 13; i++) {
        kv_bytes key = bytes_of(&i, sizeof i), v = bytes_of(value, sizeof value - i);
        CHECK_OK(kv_put(w->db, key, v, 0, &w->err), &w->err);
        model_put(m, key, v);
    }
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* Likewise where frames are not synced one by one: the keeper has syncs to make, too. */
static void test_segments_of_other_modes_are_reserved(void) {
    static const kv_sync modes[] = {KV_SYNC_INTERVAL, KV_SYNC_NEVER};
    for (unsigned i = 0; i < 2; i++) {
        world *w = world_create();
        w->options.sync = modes[i];
        world_open(w);
        uint64_t opened = fault_os_calls(w->faults, FAULT_RESERVE);
        while (world_stats(w).log_segments < 4)
            CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
        CHECK(fault_os_calls(w->faults, FAULT_RESERVE) >= opened + 3);
        world_destroy(w);
    }
}

/* ---- What damage in the last commit needs to be provable -------------------------------------------------- */

static void test_marks(void) {
    world *w = world_create();
    static frame frames[100];
    w->options.mark_delay_ns = 1000000;
    world_open(w);
    for (unsigned round = 0; round < 4; round++) {
        uint64_t before = world_stats(w).frames;
        CHECK_OK(kv_put(w->db, A, bytes_of(&round, sizeof round), 0, &w->err), &w->err);
        while (world_stats(w).frames < before + 2)
            usleep(100);
    }
    world_kill(w);
    size_t count = frames_of(w, frames, 100);
    CHECK(count >= 8);
    for (size_t i = 1; i < count; i++)
        if (frames[i].header.kind == KV_FRAME_MARK)
            CHECK_EQ(frames[i].header.durable_lsn, frames[i].header.lsn);
    CHECK_EQ(frames[count - 1].header.kind, KV_FRAME_MARK);
    world_destroy(w);
}

CHECK_MAIN(TEST(test_frames_of_one_writer), TEST(test_open_and_close),
           TEST(test_who_comes_meanwhile_is_the_next_group), TEST(test_making_durable_together),
           TEST(test_back_pressure), TEST(test_segments_double_and_end),
           TEST(test_a_commit_larger_than_a_segment), TEST(test_exact_fit), TEST(test_spare),
           TEST(test_reserved_segments),
           TEST(test_segments_of_other_modes_are_reserved), TEST(test_marks))
