/* test_check_sweep.c - kv_check and kv_salvage: every byte, every call, much at once. */
#include "check.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "fault_os.h"
#include "forge.h"
#include "world.h"

/* ---- Failures ------------------------------------------------------------------------------ */

/* Every call fails once, then for ever: an error, or a problem that is told; and no file is left open. */
static void test_faults(void) {
    forge *b = forge_create();
    for (unsigned forever = 0; forever < 2; forever++)
        for (uint64_t nth = 1;; nth++) {
            fault_os *faults = fault_os_create(memory_os_table(b->memory));
            forge_finding f = {0};
            fault_os_fail(faults, FAULT_ANY, nth, EIO, forever ? FAULT_FOREVER : 0);
            kv_status status = forge_look(b->memory, fault_os_table(faults), NULL, &f);
            bool failed = fault_os_failures(faults) > 0;
            fault_os_destroy(faults);
            if (!failed) {
                CHECK_OK(status, &f.err);
                CHECK_EQ(f.count, 0);
                break;
            }
            if (status < 0)
                CHECK_STATUS(status, KV_ERR_IO, &f.err);
        }
    /* A read that fails once is tried again, piece by piece. */
    for (uint64_t nth = 1;; nth++) {
        fault_os *faults = fault_os_create(memory_os_table(b->memory));
        forge_finding f = {0};
        kv_db *db = forge_open_memory();
        fault_os_fail(faults, FAULT_READ, nth, EIO, 0);
        CHECK_OK(forge_look(b->memory, fault_os_table(faults), db, &f), &f.err);
        CHECK_EQ(f.count, 0);
        CHECK_EQ(store_digest(db), model_digest(b->m));
        forge_close_memory(db);
        bool failed = fault_os_failures(faults) > 0;
        fault_os_destroy(faults);
        if (!failed)
            break;
    }
    forge_destroy(b);
}

/* What the process has not is no problem of a file: the call ends, with that error, and nothing is given up as lost. */
static void test_no_descriptors(void) {
    static const int errors[] = {EMFILE, ENFILE, EACCES, EPERM, ENOMEM};
    static const fault_call calls[] = {FAULT_OPEN, FAULT_SIZE, FAULT_READ};
    forge *b = forge_create();
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++)
        for (size_t k = 0; k < sizeof calls / sizeof calls[0]; k++)
            for (uint64_t nth = 1;; nth++) {
                fault_os *faults = fault_os_create(memory_os_table(b->memory));
                forge_finding f = {0};
                kv_db *db = nth % 2 ? forge_open_memory() : NULL;
                fault_os_fail(faults, calls[k], nth, errors[i], FAULT_FOREVER);
                kv_status status = forge_look(b->memory, fault_os_table(faults), db, &f);
                bool failed = fault_os_failures(faults) > 0;
                fault_os_destroy(faults);
                if (db != NULL)
                    forge_close_memory(db);
                CHECK_EQ(f.count, 0);
                if (!failed) {
                    CHECK_OK(status, &f.err);
                    break;
                }
                CHECK_STATUS(status, errors[i] == ENOMEM ? KV_ERR_NOMEM : KV_ERR_IO, &f.err);
                CHECK_EQ(f.err.sys_errno, errors[i]);
                CHECK(f.err.path[0] != '\0');
            }
    forge_destroy(b);
}

/* A sector of the disk that cannot be read. */
typedef struct bad_disk {
    kv_os os;
    const kv_os *inner;
    uint64_t from, to; /* bytes of files as long as `size` */
    int64_t size;
} bad_disk;

static int64_t bad_read(void *ctx, int file, void *buffer, size_t size, uint64_t offset) {
    bad_disk *d = ctx;
    if (d->inner->size(d->inner->ctx, file) == d->size && offset < d->to && offset + size > d->from) {
        if (offset >= d->from)
            return -EIO;
        size = (size_t)(d->from - offset);
    }
    return d->inner->read(d->inner->ctx, file, buffer, size, offset);
}

#define FORWARD(type, name, parameters, ...)                                                      \
    static type bad_##name parameters {                                                          \
        bad_disk *d = ctx;                                                                       \
        return d->inner->name(d->inner->ctx, __VA_ARGS__);                                       \
    }
FORWARD(int, dir_open, (void *ctx, const char *path, bool create), path, create)
FORWARD(int, identity, (void *ctx, int fd, const char *name, uint64_t identity[2]), fd, name, identity)
FORWARD(int, dir_list, (void *ctx, int dir, kv_name_visitor visit, void *arg), dir, visit, arg)
FORWARD(int, open, (void *ctx, int dir, const char *name, kv_open_mode mode), dir, name, mode)
FORWARD(int, close, (void *ctx, int file), file)
FORWARD(int64_t, size, (void *ctx, int file), file)
FORWARD(int, lock, (void *ctx, int file, bool shared), file, shared)

static void test_bad_sector(void) {
    forge *b = forge_create();
    forge_finding f = {0};
    bad_disk d = {.inner = memory_os_table(b->memory)};
    d.os = (kv_os){.ctx = &d, .dir_open = bad_dir_open, .identity = bad_identity,
                   .dir_list = bad_dir_list, .open = bad_open, .close = bad_close, .size = bad_size,
                   .read = bad_read, .lock = bad_lock};
    d.size = FORGE_SEGMENT_SIZE;
    d.from = 4096;
    d.to = 8192;
    kv_db *db = forge_open_memory();
    CHECK_OK(forge_look(b->memory, &d.os, db, &f), &f.err);
    CHECK_EQ(f.problems[0].error.status, KV_ERR_IO);
    CHECK_EQ(f.problems[0].error.sys_errno, EIO);
    CHECK_EQ(f.problems[0].error.offset, b->frames[F_PUT]); /* where the log counts from */
    CHECK_CONTAINS(f.problems[0].loss, "4016 bytes cannot be read");
    CHECK(forge_has(db, 40, 1) && !forge_has(db, 101, 1));
    forge_close_memory(db);
    forge_destroy(b);
}

static void test_no_memory(void) {
    forge *b = forge_create();
    for (unsigned salvage = 0; salvage < 2; salvage++) {
        unsigned failures = 0;
        for (uint64_t nth = 0;; nth++) {
            forge_finding f = {0};
            kv_db *db = salvage ? forge_open_memory() : NULL;
            kv_mem_fail_at(nth, nth % 2);
            kv_status status = forge_look(b->memory, NULL, db, &f);
            uint64_t made = kv_mem_fail_at(UINT64_MAX, false);
            if (db != NULL)
                forge_close_memory(db);
            if (made <= nth) {
                CHECK_OK(status, &f.err);
                break;
            }
            if (status != KV_OK)
                CHECK_STATUS(status, KV_ERR_NOMEM, &f.err);
            CHECK_EQ(f.count, 0);
            failures += status < 0;
        }
        CHECK(failures >= 3);
    }
    forge_destroy(b);
}

/* ---- Sweeps -------------------------------------------------------------------------------- */

/* Every byte: whatever is salvaged was once there; without a problem all of it is. */
static void test_every_byte(void) {
    forge *b = forge_create();
    unsigned tried = 0, told = 0, lossless = 0;
    for (unsigned i = 0; i < FORGE_FILES; i++) {
        int64_t size = memory_os_size(b->memory, WORLD_DIR, forge_files[i]);
        for (int64_t at = 0; at < size; at++) {
            /* The rest of a segment's header, and what stands behind its last frame: a sample. */
            bool dull = i >= 2 && ((at > 80 && at < 4090) || at > 5200);
            if (dull && at % 41 != 0)
                continue;
            memory_os *image = forge_copy(b);
            forge_finding f;
            forge_flip(image, forge_files[i], (uint64_t)at, (uint8_t)(1u << at % 8));
            forge_examine(image, &f);
            bool old_log = i == 1 && at < 64; /* then what was before the checkpoint is read, too */
            unsigned wrong = old_log ? 0 : forge_judge(b, f.db);
            if (f.count == 0 && wrong > 0)
                FAIL("%s: byte %d: nothing told, %u keys wrong", forge_files[i], (int)at, wrong);
            if (wrong > 20)
                FAIL("%s: byte %d: %u keys wrong", forge_files[i], (int)at, wrong);
            tried++;
            told += f.count > 0;
            lossless += wrong == 0;
            forge_examine_end(image, &f);
        }
    }
    printf("# %u bytes flipped, %u told, %u without a loss\n", tried, told, lossless);
    forge_destroy(b);
}

/* Much at once. */
static void test_random_damage(void) {
    forge *b = forge_create();
    check_random random = random_stream(1);
    for (unsigned round = 0; round < 1500; round++) {
        memory_os *image = forge_copy(b);
        forge_finding f;
        bool old_log = false;
        unsigned torn_max = 0;
        for (uint64_t n = 1 + random_below(&random, 6); n > 0; n--) {
            uint8_t bytes[256];
            unsigned i = (unsigned)random_below(&random, FORGE_FILES);
            uint64_t size = (uint64_t)memory_os_size(image, WORLD_DIR, forge_files[i]);
            uint64_t count = 1 + random_below(&random, random_below(&random, 3) ? 8 : sizeof bytes);
            uint64_t at = random_below(&random, size);
            if (i >= 2 && random_below(&random, 8))
                at = random_below(&random, 2) ? random_below(&random, 72)
                                              : 4096 + random_below(&random, 900);
            if (count > size - at)
                count = size - at;
            random_fill(&random, bytes, sizeof bytes);
            if (random_below(&random, 3) == 0)
                memset(bytes, 0, sizeof bytes);
            CHECK_EQ(memory_os_poke(image, WORLD_DIR, forge_files[i], at, bytes, (size_t)count), 0);
            old_log |= i == 1 && at < 64;
            if (i == 3 && at + count > b->frames[F_NEXT])
                torn_max = 3;
        }
        forge_examine(image, &f);
        /* With all that knew of them, frames at the end can pass for a torn tail. */
        unsigned wrong = old_log ? 0 : forge_judge(b, f.db);
        if (f.count == 0)
            CHECK(wrong <= torn_max);
        forge_examine_end(image, &f);
    }
    forge_destroy(b);
}

/* Names given to the wrong files. */
static void test_swapped_files(void) {
    forge *b = forge_create();
    for (unsigned i = 0; i < FORGE_FILES; i++)
        for (unsigned j = 0; j < FORGE_FILES; j++) {
            forge_finding f;
            if (i == j)
                continue;
            memory_os *image = forge_copy(b);
            forge_rename(image, forge_files[i], "x");
            forge_rename(image, forge_files[j], forge_files[i]);
            forge_rename(image, "x", forge_files[j]);
            forge_examine(image, &f);
            CHECK(f.count >= 1);
            forge_examine_end(image, &f);
            image = forge_copy(b);
            forge_rename(image, forge_files[i], forge_files[j]);
            forge_examine(image, &f);
            CHECK(f.count >= 1);
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

CHECK_MAIN(TEST(test_faults), TEST(test_no_descriptors), TEST(test_bad_sector), TEST(test_no_memory),
           TEST(test_every_byte), TEST(test_random_damage), TEST(test_swapped_files))
