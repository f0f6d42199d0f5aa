/* test_recover.c - logs of some length back into memory, alone and with the helper's thread. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/mem.h"
#include "engine/apply.h"
#include "engine/undo.h"
#include "kv.h"
#include "model.h"
#include "world.h"

static const kv_bytes A = {"a", 1}, B = {"b", 1};

/* ---- The applier, without a log -------------------------------------------------------------------- */

static void check_entry(void *arg, kv_bytes key, kv_bytes value) {
    kv_table *table = arg;
    kv_place place;
    uint64_t hash = kv_table_hash(table, key);
    kv_entry *e = kv_shard_find(kv_table_shard(table, hash), hash, key, &place);
    CHECK(e != NULL);
    CHECK_EQ(kv_entry_value(e).size, value.size);
    CHECK_MEM(kv_entry_value(e).data, value.data, value.size);
}

static void check_table(kv_table *table, const model *m) {
    kv_error err;
    uint64_t count = 0;
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_shard(table, hash);
        CHECK_OK(kv_shard_verify(table, shard, &err), &err);
        count += shard->count;
        if (kv_shard_range_last(shard) == UINT64_MAX)
            break;
        hash = kv_shard_range_last(shard) + 1;
    }
    CHECK_EQ(count, model_count(m));
    model_visit(m, check_entry, table);
}

/* Records whose bytes are used again as soon as they may be. */
static void apply_random(bool helped, unsigned keys, unsigned steps) {
    enum { CHUNK = 500 };
    static uint8_t bytes[2][CHUNK][24];
    kv_table table;
    kv_applier *applier;
    kv_error err;
    model *m = model_create();
    check_random random = random_stream(keys);
    uint64_t marks[2] = {0, 0};
    CHECK_OK(kv_table_init(&table, (kv_siphash_key){check_seed, keys}, &err), &err);
    kv_pool_set_exclusive(table.entries, true);
    CHECK_OK(kv_applier_create(&table, NULL, helped, &applier, &err), &err);
    for (unsigned step = 0; step < steps; step += CHUNK) {
        unsigned turn = step / CHUNK % 2;
        CHECK_OK(kv_applier_wait(applier, marks[turn], &err), &err);
        for (unsigned i = 0; i < CHUNK; i++) {
            uint8_t *b = bytes[turn][i];
            unsigned number = (unsigned)random_below(&random, keys);
            kv_record r = {.kind = random_below(&random, 3) ? KV_RECORD_PUT : KV_RECORD_DELETE,
                           .key = bytes_of(b, sizeof number)};
            memcpy(b, &number, sizeof number);
            random_fill(&random, b + 4, 20);
            if (random_below(&random, steps / 3) == 0)
                r = (kv_record){.kind = KV_RECORD_CLEAR};
            else if (r.kind == KV_RECORD_PUT)
                r.value = bytes_of(b + 4, random_below(&random, 21));
            CHECK_OK(kv_applier_add(applier, &r, &err), &err);
            if (r.kind == KV_RECORD_CLEAR)
                model_clear(m);
            else if (r.kind == KV_RECORD_PUT)
                model_put(m, r.key, r.value);
            else
                model_delete(m, r.key);
        }
        marks[turn] = kv_applier_mark(applier);
        if (step % (40 * CHUNK) == 0) {
            CHECK_OK(kv_applier_finish(applier, &err), &err);
            check_table(&table, m);
        }
    }
    CHECK_OK(kv_applier_finish(applier, &err), &err);
    check_table(&table, m);
    kv_applier_destroy(applier);
    kv_pool_set_exclusive(table.entries, false);
    kv_table_fini(&table);
    model_destroy(m);
}

static void test_applier_alone(void) {
    apply_random(false, 20, 20000);
    apply_random(false, 20000, 60000);
}

static void test_applier_with_helper(void) {
    apply_random(true, 20, 20000);
    apply_random(true, 20000, 60000);
}

/* Given up in the middle: nothing hangs, and what was not applied is dropped. */
static void test_applier_given_up(void) {
    for (unsigned count = 0; count < 6000; count = count * 2 + 1)
        for (int helped = 0; helped < 2; helped++) {
            kv_table table;
            kv_applier *applier;
            kv_error err;
            static unsigned numbers[6000];
            CHECK_OK(kv_table_init(&table, (kv_siphash_key){1, 2}, &err), &err);
            CHECK_OK(kv_applier_create(&table, NULL, helped, &applier, &err), &err);
            for (unsigned i = 0; i < count; i++) {
                numbers[i] = i;
                kv_record r = {.kind = KV_RECORD_PUT, .key = bytes_of(&numbers[i], sizeof i)};
                CHECK_OK(kv_applier_add(applier, &r, &err), &err);
            }
            kv_applier_destroy(applier);
            kv_table_fini(&table);
        }
    kv_applier_destroy(NULL);
}

/* ---- Logs ------------------------------------------------------------------------------------------------ */

static void put(world *w, model *m, kv_bytes key, kv_bytes value) {
    CHECK_OK(kv_put(w->db, key, value, 0, &w->err), &w->err);
    model_put(m, key, value);
}

/* Some thousand changes, with clears, and now and then a frame longer than what is read at a time. */
static void fill(world *w, model *m, check_random *random, unsigned steps) {
    static uint8_t value[1500000];
    random_fill(random, value, 5000);
    for (size_t at = 5000; at < sizeof value; at += 5000)
        memcpy(value + at, value, 5000);
    for (unsigned i = 0; i < steps; i++) {
        unsigned number = (unsigned)random_below(random, 3000);
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t what = random_below(random, 3000);
        if (what == 0) {
            CHECK_OK(kv_clear(w->db, 0, &w->err), &w->err);
            model_clear(m);
        } else if (what < 800) {
            CHECK_EQ(kv_delete(w->db, key, 0, &w->err), model_delete(m, key) ? KV_OK : KV_NOTFOUND);
        } else {
            size_t max = what < 803 ? sizeof value : what < 900 ? 20000 : 100;
            put(w, m, key, bytes_of(value, random_below(random, max)));
        }
    }
}

static void test_logs_of_all_lengths(void) {
    check_random random = random_stream(1);
    for (unsigned steps = 0; steps < 20000; steps = steps * 3 + 1) {
        world *w = world_create();
        model *m = model_create();
        w->options.sync = KV_SYNC_NEVER;
        w->options.segment_size_min = 1 << 16;
        w->options.segment_size_max = 1 << 20;
        world_open(w);
        fill(w, m, &random, steps);
        kv_stats stats;
        kv_recovery recovery;
        CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
        for (int again = 0; again < 3; again++) {
            if (again < 2)
                world_close(w);
            else
                world_kill(w);
            w->options.read_only = again == 1;
            world_open(w);
            kv_get_recovery(w->db, &recovery);
            CHECK_EQ(recovery.commits, stats.commits);
            CHECK_EQ(recovery.records, stats.commits);
            /* A frame that marks or closes may have been the one for which there was no room. */
            CHECK(recovery.segments - stats.log_segments <= 1);
            CHECK_EQ(recovery.bytes_cut, 0);
            CHECK_EQ(recovery.clean, again < 2); /* an open store is not closed, even if nothing was written */
            model_check(m, w->db);
            if (w->options.read_only) {
                world_close(w);
                w->options.read_only = false;
                world_open(w);
            }
        }
        model_destroy(m);
        world_destroy(w);
    }
}

/* A record at every distance from the end of what is read at a time. */
static void test_frames_around_a_chunk(void) {
    enum { CHUNK = 1 << 20 };
    static uint8_t value[CHUNK];
    memset(value, 'v', sizeof value);
    for (int distance = -96; distance <= 96; distance += 16) {
        world *w = world_create();
        model *m = model_create();
        w->options.sync = KV_SYNC_NEVER;
        w->options.segment_size_min = w->options.segment_size_max = 4 << 20;
        world_open(w);
        for (unsigned i = 0; i < 3; i++) {
            put(w, m, bytes_of(&i, sizeof i), bytes_of(value, (size_t)(CHUNK - 300 + distance)));
            put(w, m, A, bytes_of(value, 100));
            put(w, m, B, bytes_of(value, i));
        }
        world_close(w);
        world_open(w);
        CHECK_EQ(store_digest(w->db), model_digest(m));
        model_destroy(m);
        world_destroy(w);
    }
}

/* The helper's memory runs out, or the reader's. */
static void test_no_memory(void) {
    world *w = world_create();
    model *m = model_create();
    check_random random = random_stream(2);
    w->options.sync = KV_SYNC_NEVER;
    w->options.segment_size_max = 1 << 16;
    world_open(w);
    fill(w, m, &random, 2500);
    world_close(w);
    unsigned failures = 0;
    for (uint64_t n = 0;; n++) {
        kv_mem_fail_at(n, n % 2);
        kv_status status = world_try_open(w);
        uint64_t made = kv_mem_fail_at(UINT64_MAX, false);
        if (status == KV_OK) {
            world_close(w);
            if (made <= n)
                break;
        } else {
            CHECK_STATUS(status, KV_ERR_NOMEM, &w->err);
            failures++;
        }
    }
    CHECK(failures > 10);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* Every read of a recovery fails: refused, with nothing changed, and fine when it works again. */
static void test_reads_that_fail(void) {
    world *w = world_create();
    model *m = model_create();
    check_random random = random_stream(3);
    w->options.sync = KV_SYNC_NEVER;
    w->options.segment_size_max = 1 << 15;
    world_open(w);
    fill(w, m, &random, 500);
    world_close(w);
    uint64_t files = world_files_digest(w->memory);
    for (uint64_t nth = 1;; nth++) {
        uint64_t before = fault_os_failures(w->faults);
        fault_os_fail(w->faults, FAULT_READ, nth, EIO, 0);
        kv_status status = world_try_open(w);
        fault_os_heal(w->faults);
        if (fault_os_failures(w->faults) == before) {
            CHECK_OK(status, &w->err);
            break;
        }
        CHECK_STATUS(status, KV_ERR_IO, &w->err);
        CHECK(w->err.path[0] != '\0');
        CHECK_EQ(world_files_digest(w->memory), files);
    }
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* ---- The seam between two segments -------------------------------------------------------------------------- */

static int64_t sized(world *w, const char *name) {
    return memory_os_size(w->memory, WORLD_DIR, name);
}

static uint8_t kind_at(world *w, const char *name, uint64_t offset) {
    uint8_t bytes[48];
    CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, name, offset, bytes, sizeof bytes), 0);
    return memcmp(bytes, "PKVF", 4) == 0 ? bytes[32] : 0;
}

/* The process is gone after the next segment had its name, and before the old one had its end: the next
 * open writes the end, so that from then on the segment cannot go missing unnoticed. */
static void test_end_frame_is_made_up_for(void) {
    static uint8_t value[3950]; /* which has no room in the first segment */
    bool seen = false;
    /* The keeper's calls count, too, and may stand where the moment would be: then once more from the start. */
    for (unsigned i = 0; !seen && i < 10 * 40; i++) {
        uint64_t nth = 1 + i % 40;
        world *w = world_create();
        w->options.segment_size_max = WORLD_SEGMENT_SIZE;
        world_open(w);
        CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
        fault_os_fail(w->faults, FAULT_ANY, nth, EIO, FAULT_FOREVER);
        kv_status status = kv_put(w->db, B, bytes_of(value, sizeof value), 0, &w->err);
        world_kill(w);
        if (sized(w, "00000002.log") > 0 && kind_at(w, "00000001.log", 4096 + 64) == 0) {
            seen = true;
            CHECK(status < 0);
            world_open(w);
            CHECK_OK(kv_contains(w->db, A, 0, &w->err), &w->err);
            CHECK_STATUS(kv_contains(w->db, B, 0, &w->err), KV_NOTFOUND, &w->err);
            world_cut_power(w);
            CHECK_EQ(kind_at(w, "00000001.log", 4096 + 64), 4);
            world_open(w);
            CHECK_OK(kv_put(w->db, B, A, 0, &w->err), &w->err);
            world_close(w);
            const kv_os *os = memory_os_table(w->memory);
            int dir = os->dir_open(os->ctx, WORLD_DIR, false);
            CHECK_EQ(os->unlink(os->ctx, dir, "00000002.log"), 0);
            CHECK_EQ(os->close(os->ctx, dir), 0);
            CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
            CHECK_CONTAINS(w->err.path, "00000002.log");
        }
        world_destroy(w);
    }
    CHECK(seen);
}

/* A file behind the end: the log went on in the old segment although there is a next one.  Nobody may
 * decide which of the two is right. */
static void test_a_frame_behind_the_next_segments_start(void) {
    world *w = world_create();
    static uint8_t value[3950]; /* which has no room in the first segment */
    w->options.segment_size_max = WORLD_SEGMENT_SIZE;
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    memory_os *before = memory_os_cut(w->memory, NULL, 0); /* one segment */
    CHECK_OK(kv_put(w->db, B, bytes_of(value, sizeof value), 0, &w->err), &w->err);
    world_close(w);
    /* In the image of before, go on with a small frame; then put that segment beside the later one. */
    kv_db *db = image_open(before, &w->options);
    CHECK_OK(kv_put(db, A, B, 0, &w->err), &w->err);
    image_close(db);
    uint8_t bytes[WORLD_SEGMENT_SIZE - 4096];
    CHECK_EQ(memory_os_peek(before, WORLD_DIR, "00000001.log", 4096, bytes, sizeof bytes), 0);
    CHECK_EQ(memory_os_poke(w->memory, WORLD_DIR, "00000001.log", 4096, bytes, sizeof bytes), 0);
    memory_os_destroy(before);
    uint64_t files = world_files_digest(w->memory);
    CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
    CHECK_CONTAINS(w->err.path, "00000001.log");
    CHECK_EQ(w->err.offset, 4096 + 64);
    CHECK_EQ(world_files_digest(w->memory), files);
    world_destroy(w);
}

/* What a crash left half made is removed. */
static void test_leftovers(void) {
    world *w = world_create();
    const kv_os *os = memory_os_table(w->memory);
    static const char *const names[] = {"spare.log", "STORE.tmp"};
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    world_close(w);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    for (int i = 0; i < 2; i++) {
        int file = os->open(os->ctx, dir, names[i], KV_OPEN_CREATE);
        CHECK_EQ(os->write(os->ctx, file, "x", 1, 5000), 1);
        CHECK_EQ(os->close(os->ctx, file), 0);
    }
    CHECK_EQ(os->close(os->ctx, dir), 0);
    w->options.read_only = true; /* not by a reader */
    world_open(w);
    CHECK_EQ(sized(w, "spare.log"), 5001);
    world_close(w);
    w->options.read_only = false;
    world_open(w);
    CHECK_EQ(sized(w, "spare.log"), -ENOENT);
    CHECK_EQ(sized(w, "STORE.tmp"), -ENOENT);
    CHECK_OK(kv_contains(w->db, A, 0, &w->err), &w->err);
    world_destroy(w);
}

/* A file system that is never written to may have no sync: nothing waits for one there. */
static void test_read_only_media(void) {
    static const int errors[] = {EINVAL, EROFS, EIO, ENOSPC};
    for (int i = 0; i < 4; i++) {
        world *w = world_create();
        world_open(w);
        CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
        world_close(w);
        w->options.read_only = true;
        fault_os_fail(w->faults, FAULT_SYNC, 1, errors[i], FAULT_FOREVER);
        if (i < 2) {
            world_open(w);
            CHECK_OK(kv_contains(w->db, A, 0, &w->err), &w->err);
            world_close(w);
        } else {
            CHECK_STATUS(world_try_open(w), KV_ERR_IO, &w->err);
        }
        fault_os_heal(w->faults);
        w->options.read_only = false; /* who writes needs syncs */
        fault_os_fail(w->faults, FAULT_SYNC, 1, errors[i], FAULT_FOREVER);
        CHECK_STATUS(world_try_open(w), KV_ERR_IO, &w->err);
        fault_os_heal(w->faults);
        world_destroy(w);
    }
}

CHECK_MAIN(TEST(test_applier_alone), TEST(test_applier_with_helper), TEST(test_applier_given_up),
           TEST(test_logs_of_all_lengths), TEST(test_frames_around_a_chunk), TEST(test_no_memory),
           TEST(test_reads_that_fail), TEST(test_end_frame_is_made_up_for),
           TEST(test_a_frame_behind_the_next_segments_start), TEST(test_leftovers),
           TEST(test_read_only_media))
