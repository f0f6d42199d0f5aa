/* world.c - see world.h. */
#include "world.h"

#include <errno.h>

#include "engine/checkpoint.h"

/* A second close of a number would close somebody else's file in a real program. */
static int strict_close(void *ctx, int file) {
    const kv_os *inner = fault_os_table(ctx);
    int result = inner->close(inner->ctx, file);
    if (result == -EBADF)
        FAIL("handle %d is closed twice", file);
    return result;
}

static kv_options small_options(void) {
    kv_options options = kv_options_default();
    options.segment_size_min = WORLD_SEGMENT_SIZE;
    options.segment_size_max = 2 * WORLD_SEGMENT_SIZE;
    options.mark_delay_ns = UINT64_C(3600000000000);
    options.checkpoint_log_percent = 0; /* only when asked for */
    return options;
}

world *world_create_on(memory_os *memory) {
    world *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->memory = memory;
    w->faults = fault_os_create(memory_os_table(memory));
    w->os = *fault_os_table(w->faults);
    w->os.close = strict_close;
    w->options = small_options();
    w->options.os = &w->os;
    return w;
}

world *world_create(void) {
    return world_create_on(memory_os_create(check_seed));
}

void world_destroy(world *w) {
    if (w->db != NULL)
        world_close(w);
    CHECK_EQ(memory_os_open_count(w->memory), 0);
    fault_os_destroy(w->faults);
    memory_os_destroy(w->memory);
    free(w);
}

kv_status world_try_open(world *w) {
    CHECK(w->db == NULL);
    kv_status status = kv_open(WORLD_DIR, &w->options, &w->db, &w->err);
    CHECK(status <= KV_OK);
    if (status < 0) {
        CHECK_EQ(w->err.status, status);
        CHECK_EQ(memory_os_open_count(w->memory), 0);
        w->db = NULL;
    }
    return status;
}

void world_open(world *w) {
    CHECK_OK(world_try_open(w), &w->err);
}

kv_status world_try_close(world *w) {
    CHECK_OK(kv_verify(w->db, &w->err), &w->err);
    kv_status status = kv_close(w->db, &w->err);
    CHECK(status <= KV_OK);
    kv_destroy(w->db);
    w->db = NULL;
    CHECK_EQ(memory_os_open_count(w->memory), 0);
    return status;
}

void world_close(world *w) {
    CHECK_OK(world_try_close(w), &w->err);
}

void world_kill(world *w) {
    fault_os_heal(w->faults);
    fault_os_fail(w->faults, FAULT_ANY, 1, EIO, FAULT_FOREVER);
    if (w->db != NULL)
        (void)world_try_close(w);
    fault_os_heal(w->faults);
}

void world_cut_power(world *w) {
    memory_os *after = memory_os_cut(w->memory, NULL, 0);
    world_kill(w);
    fault_os_destroy(w->faults);
    memory_os_destroy(w->memory);
    w->memory = after;
    w->faults = fault_os_create(memory_os_table(after));
    w->os = *fault_os_table(w->faults);
    w->os.close = strict_close;
    fault_os_set_clock(w->faults, w->clock_ms);
}

kv_stats world_stats(world *w) {
    kv_stats stats;
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    return stats;
}

void world_set_clock(world *w, uint64_t now_ms) {
    w->clock_ms = now_ms;
    fault_os_set_clock(w->faults, now_ms);
}

/* ---- Images ------------------------------------------------------------------------------------- */

uint64_t world_files_digest(memory_os *memory) {
    return memory_os_digest(memory, WORLD_DIR);
}

static bool find_newest(void *arg, const char *name) {
    uint64_t *newest = arg, sequence = kv_checkpoint_sequence(name);
    if (sequence > *newest)
        *newest = sequence;
    return true;
}

uint64_t image_checkpoint(memory_os *image, const char *path) {
    const kv_os *os = memory_os_table(image);
    uint64_t newest = 0;
    int dir = os->dir_open(os->ctx, path, false);
    CHECK_EQ(os->dir_list(os->ctx, dir, find_newest, &newest), 0);
    os->close(os->ctx, dir);
    return newest;
}

void image_flip_block(memory_os *image, char *name) {
    uint64_t at = KV_CHECKPOINT_HEADER_SIZE + KV_BLOCK_HEADER_SIZE + 30;
    uint8_t byte;
    kv_checkpoint_name(image_checkpoint(image, WORLD_DIR), name);
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, name, at, &byte, 1), 0);
    byte ^= 1;
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, name, at, &byte, 1), 0);
}

kv_db *image_open(memory_os *image, const kv_options *options) {
    kv_options local = *options;
    kv_error err;
    kv_db *db;
    local.os = memory_os_table(image);
    CHECK_OK(kv_open(WORLD_DIR, &local, &db, &err), &err);
    return db;
}

void image_close(kv_db *db) {
    kv_error err;
    CHECK_OK(kv_verify(db, &err), &err);
    CHECK_OK(kv_close(db, &err), &err);
    kv_destroy(db);
}
