/* test_fault_os.c - the tool that makes calls fail: a test that injects nothing proves nothing. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <pthread.h>

#include "fault_os.h"
#include "memory_os.h"

typedef struct world {
    memory_os *memory;
    fault_os *faults;
    const kv_os *os;
    int dir, file;
} world;

static world world_make(void) {
    world w = {.memory = memory_os_create(1)};
    w.faults = fault_os_create(memory_os_table(w.memory));
    w.os = fault_os_table(w.faults);
    w.dir = w.os->dir_open(w.os->ctx, "d", true);
    w.file = w.os->open(w.os->ctx, w.dir, "f", KV_OPEN_CREATE);
    CHECK(w.dir >= 0 && w.file >= 0);
    return w;
}

static void world_end(world *w) {
    w->os->close(w->os->ctx, w->file);
    w->os->close(w->os->ctx, w->dir);
    CHECK_EQ(memory_os_open_count(w->memory), 0);
    fault_os_destroy(w->faults);
    memory_os_destroy(w->memory);
}

static int64_t write_at(world *w, uint64_t offset) {
    return w->os->write(w->os->ctx, w->file, "1234567890", 10, offset);
}

static int sync_file(world *w) {
    return w->os->sync(w->os->ctx, w->file);
}

static int64_t size_of(world *w) {
    return w->os->size(w->os->ctx, w->file);
}

static void test_the_nth_call_fails_once(void) {
    world w = world_make();
    fault_os_fail(w.faults, FAULT_WRITE, 3, EIO, 0);
    CHECK_EQ(write_at(&w, 0), 10);
    CHECK_EQ(sync_file(&w), 0); /* another kind: does not count */
    CHECK_EQ(write_at(&w, 10), 10);
    CHECK_EQ(fault_os_failures(w.faults), 0);
    CHECK_EQ(write_at(&w, 20), -EIO);
    CHECK_EQ(size_of(&w), 20); /* it had no effect */
    CHECK_EQ(write_at(&w, 20), 10);
    CHECK_EQ(fault_os_failures(w.faults), 1);
    CHECK_EQ(fault_os_calls(w.faults, FAULT_WRITE), 4);
    CHECK_EQ(fault_os_calls(w.faults, FAULT_ANY), 2 + 4 + 1 + 1);
    world_end(&w);
}

static void test_any_call_and_for_ever(void) {
    world w = world_make();
    fault_os_fail(w.faults, FAULT_ANY, 2, ENOSPC, FAULT_FOREVER);
    CHECK_EQ(write_at(&w, 0), 10);
    CHECK_EQ(sync_file(&w), -ENOSPC);
    CHECK_EQ(write_at(&w, 0), -ENOSPC);
    CHECK_EQ(size_of(&w), -ENOSPC);
    fault_os_heal(w.faults);
    CHECK_EQ(size_of(&w), 10);
    world_end(&w);
}

static void test_failure_after_the_effect(void) {
    world w = world_make();
    fault_os_fail(w.faults, FAULT_WRITE, 1, EIO, FAULT_DONE);
    CHECK_EQ(write_at(&w, 0), -EIO);
    CHECK_EQ(size_of(&w), 10);
    /* An open leaves no handle behind that nobody knows of. */
    size_t open = memory_os_open_count(w.memory);
    fault_os_fail(w.faults, FAULT_OPEN, 1, EIO, FAULT_DONE);
    CHECK_EQ(w.os->open(w.os->ctx, w.dir, "g", KV_OPEN_CREATE), -EIO);
    CHECK_EQ(memory_os_open_count(w.memory), open);
    CHECK_EQ(memory_os_size(w.memory, "d", "g"), 0);
    world_end(&w);
}

static void test_every_kind_can_fail(void) {
    world w = world_make();
    const kv_os *os = w.os;
    uint64_t identity[2];
    char buffer[10];
    fault_os_fail(w.faults, FAULT_ANY, 1, EIO, FAULT_FOREVER);
    CHECK_EQ(os->dir_open(os->ctx, "d", true), -EIO);
    CHECK_EQ(os->identity(os->ctx, w.dir, NULL, identity), -EIO);
    CHECK_EQ(os->dir_list(os->ctx, w.dir, NULL, NULL), -EIO);
    CHECK_EQ(os->dir_sync(os->ctx, w.dir), -EIO);
    CHECK_EQ(os->open(os->ctx, w.dir, "f", KV_OPEN_CREATE), -EIO);
    CHECK_EQ(os->size(os->ctx, w.file), -EIO);
    CHECK_EQ(os->read(os->ctx, w.file, buffer, sizeof buffer, 0), -EIO);
    CHECK_EQ(os->write(os->ctx, w.file, buffer, sizeof buffer, 0), -EIO);
    CHECK_EQ(os->sync(os->ctx, w.file), -EIO);
    CHECK_EQ(os->truncate(os->ctx, w.file, 0), -EIO);
    CHECK_EQ(os->reserve(os->ctx, w.file, 10), -EIO);
    CHECK_EQ(os->rename(os->ctx, w.dir, "f", "g"), -EIO);
    CHECK_EQ(os->unlink(os->ctx, w.dir, "f"), -EIO);
    CHECK_EQ(os->lock(os->ctx, w.file, false), -EIO);
    CHECK_EQ(os->random(os->ctx, buffer, sizeof buffer), -EIO);
    CHECK_EQ(os->direct(os->ctx, w.file, true), -EIO);
    CHECK_EQ(os->close(os->ctx, w.file), -EIO);
    CHECK_EQ(fault_os_failures(w.faults), FAULT_ANY);
    for (int kind = 0; kind < FAULT_ANY; kind++) {
        bool in_setup = kind == FAULT_DIR_OPEN || kind == FAULT_OPEN;
        CHECK_EQ(fault_os_calls(w.faults, (fault_call)kind), in_setup ? 2 : 1);
    }
    CHECK_EQ(memory_os_open_count(w.memory), 1); /* the file was closed nevertheless */
    world_end(&w);
}

static void test_short_transfers(void) {
    world w = world_make();
    char buffer[10];
    fault_os_limit(w.faults, 4);
    CHECK_EQ(write_at(&w, 0), 4);
    CHECK_EQ(size_of(&w), 4);
    fault_os_limit(w.faults, 3);
    CHECK_EQ(w.os->read(w.os->ctx, w.file, buffer, sizeof buffer, 0), 3);
    fault_os_limit(w.faults, 0);
    CHECK_EQ(write_at(&w, 0), 10);
    fault_os_fail(w.faults, FAULT_WRITE, 2, 0, FAULT_SHORT); /* the second only */
    CHECK_EQ(write_at(&w, 0), 10);
    CHECK_EQ(write_at(&w, 0), 5);
    CHECK_EQ(write_at(&w, 0), 10);
    CHECK_EQ(fault_os_failures(w.faults), 1);
    world_end(&w);
}

/* A part of a block goes through the page cache, and what comes after is direct again. */
static void test_short_direct_transfers(void) {
    world w = world_make();
    static _Alignas(512) char block[1024];
    memset(block, 'x', sizeof block);
    CHECK_EQ(w.os->direct(w.os->ctx, w.file, true), 512);
    fault_os_limit(w.faults, 700);
    CHECK_EQ(w.os->write(w.os->ctx, w.file, block, sizeof block, 0), 700);
    CHECK_EQ(size_of(&w), 700);
    CHECK_EQ(memory_os_direct_writes(w.memory), 0);
    fault_os_limit(w.faults, 0);
    CHECK_EQ(w.os->write(w.os->ctx, w.file, block, sizeof block, 0), 1024);
    CHECK_EQ(memory_os_direct_writes(w.memory), 1);
    world_end(&w);
}

static void *sync_in_thread(void *arg) {
    CHECK_EQ(sync_file(arg), 0);
    return NULL;
}

static void test_gate(void) {
    world w = world_make();
    CHECK_EQ(write_at(&w, 0), 10);
    size_t unsynced = memory_os_change_count(w.memory);
    fault_os_gate_close(w.faults, FAULT_SYNC);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, sync_in_thread, &w), 0);
    fault_os_gate_wait(w.faults, FAULT_SYNC, 2);
    CHECK_EQ(memory_os_change_count(w.memory), unsynced); /* neither has got through */
    CHECK_EQ(size_of(&w), 10);                            /* other kinds pass */
    fault_os_gate_open(w.faults, FAULT_SYNC);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    CHECK(memory_os_change_count(w.memory) < unsynced);
    world_end(&w);
}

static void test_delay(void) {
    world w = world_make();
    struct timespec before, after;
    fault_os_delay(w.faults, FAULT_SYNC, 20000000);
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK_EQ(sync_file(&w), 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    int64_t ns = (after.tv_sec - before.tv_sec) * INT64_C(1000000000) + after.tv_nsec -
                 before.tv_nsec;
    CHECK(ns >= 20000000);
    world_end(&w);
}

typedef struct watched {
    world *w;
    int before, after;
} watched;

static void watch_write(void *arg, fault_call call, bool after) {
    watched *seen = arg;
    if (call != FAULT_WRITE)
        return;
    /* Before it nothing is written, after it everything. */
    CHECK_EQ(memory_os_size(seen->w->memory, "d", "f"), after ? 10 : 0);
    if (after)
        seen->after++;
    else
        seen->before++;
}

static void test_watch(void) {
    world w = world_make();
    watched seen = {&w, 0, 0};
    fault_os_watch(w.faults, watch_write, &seen);
    CHECK_EQ(write_at(&w, 0), 10);
    fault_os_watch(w.faults, NULL, NULL);
    CHECK_EQ(seen.before, 1);
    CHECK_EQ(seen.after, 1);
    world_end(&w);
}

CHECK_MAIN(TEST(test_the_nth_call_fails_once), TEST(test_any_call_and_for_ever),
           TEST(test_failure_after_the_effect), TEST(test_every_kind_can_fail),
           TEST(test_short_transfers), TEST(test_short_direct_transfers), TEST(test_gate), TEST(test_delay), TEST(test_watch))
