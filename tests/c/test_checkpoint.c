/* test_checkpoint.c - checkpoints: what they hold, what an open takes from them, and what becomes of the log. */
#include "check.h"

#include "kv.h"
#include "model.h"
#include "world.h"

typedef struct pair {
    world *w;
    model *m;
} pair;

static pair pair_create(void) {
    pair p = {world_create(), model_create()};
    p.w->options.checkpoint_log_percent = 0; /* only when asked for */
    world_open(p.w);
    return p;
}

static void pair_destroy(pair *p) {
    world_destroy(p->w);
    model_destroy(p->m);
}

static kv_stats stats_of(world *w) {
    kv_stats stats;
    CHECK_OK(kv_get_stats(w->db, &stats, &w->err), &w->err);
    return stats;
}

static void put(pair *p, uint64_t key, uint64_t value) {
    char text[40];
    int size = snprintf(text, sizeof text, "key %" PRIu64, key);
    kv_bytes k = bytes_of(text, (size_t)size), v = bytes_of(&value, sizeof value);
    CHECK_OK(kv_put(p->w->db, k, v, 0, &p->w->err), &p->w->err);
    model_put(p->m, k, v);
}

static void delete(pair *p, uint64_t key) {
    char text[40];
    int size = snprintf(text, sizeof text, "key %" PRIu64, key);
    kv_bytes k = bytes_of(text, (size_t)size);
    CHECK(kv_delete(p->w->db, k, 0, &p->w->err) >= 0);
    model_delete(p->m, k);
}

static void checkpoint(pair *p) {
    CHECK_OK(kv_checkpoint(p->w->db, NULL, NULL, &p->w->err), &p->w->err);
}

static void reopen(pair *p) {
    world_close(p->w);
    world_open(p->w);
}

static void test_empty(void) {
    pair p = pair_create();
    checkpoint(&p);
    checkpoint(&p); /* nothing new */
    CHECK_EQ(stats_of(p.w).checkpoints, 1);
    reopen(&p);
    model_check(p.m, p.w->db);
    put(&p, 1, 1);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

static void test_state_and_tail(void) {
    enum { KEYS = 3000 };
    pair p = pair_create();
    for (uint64_t i = 0; i < KEYS; i++)
        put(&p, i, i);
    uint64_t segments = stats_of(p.w).log_segments;
    checkpoint(&p);
    CHECK(segments > 3);
    CHECK(stats_of(p.w).log_segments <= 2);
    kv_recovery recovery;
    reopen(&p);
    kv_get_recovery(p.w->db, &recovery);
    CHECK_EQ(recovery.checkpoint_items, KEYS);
    CHECK_EQ(recovery.records, 0);
    model_check(p.m, p.w->db);
    for (uint64_t i = 0; i < KEYS; i += 3)
        put(&p, i, i + 1);
    for (uint64_t i = 1; i < KEYS; i += 3)
        delete(&p, i);
    reopen(&p);
    kv_get_recovery(p.w->db, &recovery);
    CHECK_EQ(recovery.records, 2 * KEYS / 3);
    model_check(p.m, p.w->db);
    for (unsigned round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < KEYS; i += 2)
            put(&p, i, i + round);
        checkpoint(&p);
        put(&p, round, 99);
        reopen(&p);
        model_check(p.m, p.w->db);
    }
    pair_destroy(&p);
}

/* The length is right before anything is loaded. */
static void test_count_before_loading(void) {
    pair p = pair_create();
    for (uint64_t i = 0; i < 2000; i++)
        put(&p, i, i);
    checkpoint(&p);
    reopen(&p);
    CHECK_EQ(stats_of(p.w).entries, 2000);
    CHECK_EQ(stats_of(p.w).data_bytes, model_data_bytes(p.m));
    CHECK_OK(kv_load_all(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    CHECK_EQ(stats_of(p.w).shards_loaded, stats_of(p.w).shards);
    CHECK_OK(kv_verify(p.w->db, &p.w->err), &p.w->err);
    CHECK_OK(kv_clear(p.w->db, 0, &p.w->err), &p.w->err);
    model_clear(p.m);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* Checkpoints by themselves, as the log grows; the log stays short. */
static void test_by_itself(void) {
    pair p = pair_create();
    world_close(p.w);
    p.w->options.checkpoint_log_percent = 100;
    p.w->options.checkpoint_log_min = 4 * WORLD_SEGMENT_SIZE;
    world_open(p.w);
    for (uint64_t i = 0; i < 5000; i++)
        put(&p, i % 50, i);
    for (unsigned i = 0; i < 1000 && stats_of(p.w).log_segments > 12; i++)
        usleep(10000);
    CHECK(stats_of(p.w).checkpoints > 0);
    CHECK(stats_of(p.w).log_segments <= 12);
    reopen(&p);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

static void test_backup(void) {
    pair p = pair_create();
    for (uint64_t i = 0; i < 1000; i++)
        put(&p, i, i);
    CHECK_OK(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), &p.w->err);
    CHECK_STATUS(kv_backup(p.w->db, "copy", NULL, NULL, &p.w->err), KV_ERR_IO, &p.w->err);
    kv_db *db;
    CHECK_OK(kv_open("copy", &p.w->options, &db, &p.w->err), &p.w->err);
    model_check(p.m, db);
    put(&p, 5, 77);
    CHECK_OK(kv_put(db, LITERAL("x"), LITERAL("y"), 0, &p.w->err), &p.w->err);
    CHECK_OK(kv_close(db, &p.w->err), &p.w->err);
    kv_destroy(db);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

CHECK_MAIN(TEST(test_empty), TEST(test_state_and_tail), TEST(test_count_before_loading),
           TEST(test_by_itself), TEST(test_backup))
