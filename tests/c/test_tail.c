/* test_tail.c - a store that opens with changes behind its checkpoint: they wait until their shard is loaded. */
#include "check.h"

#include "base/mem.h"
#include "engine/checkpoint.h"
#include "engine/tail.h"
#include "kv.h"
#include "model.h"
#include "world.h"

enum { KEYS = 3000, FAR = 2000000, NOW = 1000000 };

typedef struct pair {
    world *w;
    model *m;
} pair;

static pair pair_create(void) {
    pair p = {world_create(), model_create()};
    p.w->options.checkpoint_log_percent = 0; /* only when asked for */
    world_set_clock(p.w, NOW);
    world_open(p.w);
    return p;
}

static void pair_destroy(pair *p) {
    world_destroy(p->w);
    model_destroy(p->m);
}

static kv_bytes key_of(char text[24], uint64_t number) {
    return bytes_of(text, (size_t)snprintf(text, 24, "key %" PRIu64, number));
}

static void put(pair *p, uint64_t number, kv_bytes value, uint64_t expiry) {
    char text[24];
    kv_bytes key = key_of(text, number);
    CHECK_OK(kv_put_expiring(p->w->db, key, value, expiry, 0, &p->w->err), &p->w->err);
    model_put_expiring(p->m, key, value, expiry);
}

static void put_number(pair *p, uint64_t number, uint64_t value) {
    put(p, number, bytes_of(&value, sizeof value), 0);
}

/* One change of any kind but a clear. */
static void change(pair *p, check_random *random) {
    char text[24];
    uint64_t number = random_below(random, KEYS + KEYS / 4), value = random_next(random);
    uint64_t expiry = random_below(random, 2) ? FAR + random_below(random, 1000) : 0;
    kv_bytes key = key_of(text, number);
    kv_error *err = &p->w->err;
    switch (random_below(random, 4)) {
    case 0:
        CHECK(kv_delete(p->w->db, key, 0, err) >= 0);
        model_delete(p->m, key);
        break;
    case 1:
        CHECK(kv_expire(p->w->db, key, expiry, 0, err) >= 0);
        model_expire(p->m, key, expiry);
        break;
    default:
        put(p, number, bytes_of(&value, random_below(random, sizeof value)), expiry);
    }
}

static void fill(pair *p) {
    for (uint64_t i = 0; i < KEYS; i++)
        put(p, i, LITERAL("first"), i % 3 == 0 ? FAR + i : 0);
    CHECK_OK(kv_checkpoint(p->w->db, NULL, NULL, &p->w->err), &p->w->err);
}

static uint64_t count_of(pair *p) {
    uint64_t count;
    CHECK_OK(kv_count(p->w->db, 0, &count, &p->w->err), &p->w->err);
    return count;
}

/* Changes of every kind, ends of every kind, and the ways of looking at the result in all orders. */
static void test_changes(void) {
    for (unsigned round = 0; round < 24; round++) {
        pair p = pair_create();
        check_random random = random_stream(round);
        kv_stats stats;
        fill(&p);
        for (unsigned i = 0; i < 40u << (round % 6); i++) {
            change(&p, &random);
            if (round % 8 == 7 && i % 100 == 50) {
                CHECK_OK(kv_clear(p.w->db, 0, &p.w->err), &p.w->err);
                model_clear(p.m);
            }
        }
        if (round % 3 == 0)
            world_cut_power(p.w);
        else if (round % 3 == 1)
            world_kill(p.w);
        else
            world_close(p.w);
        p.w->options.read_only = round % 5 == 3;
        p.w->options.preload = round % 7 == 6;
        p.w->options.max_memory = round % 4 == 2 ? UINT64_C(1) << 30 : 0;
        world_open(p.w);
        switch (round % 4) {
        case 0:
            CHECK_EQ(count_of(&p), model_count(p.m));
            break;
        case 1:
            CHECK_OK(kv_get_stats(p.w->db, 0, &stats, &p.w->err), &p.w->err);
            CHECK_EQ(stats.entries, model_count(p.m));
            CHECK_EQ(stats.data_bytes, model_data_bytes(p.m));
            break;
        case 2:
            if (!p.w->options.read_only)
                for (unsigned i = 0; i < 100; i++)
                    change(&p, &random);
            break;
        default:
            break;
        }
        model_check(p.m, p.w->db);
        CHECK_EQ(count_of(&p), model_count(p.m));
        CHECK_OK(kv_get_stats(p.w->db, 0, &stats, &p.w->err), &p.w->err);
        CHECK_EQ(stats.data_bytes, model_data_bytes(p.m));
        if (!p.w->options.read_only)
            CHECK_OK(kv_checkpoint(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
        world_close(p.w);
        world_open(p.w);
        model_check(p.m, p.w->db);
        pair_destroy(&p);
    }
}

/* More changes than may wait: the shards of the others are loaded at once. */
static void test_too_many_to_wait(void) {
    enum { LARGE = 1 << 20 };
    static uint8_t value[LARGE];
    pair p = pair_create();
    fill(&p);
    for (uint64_t i = 0; i < 80; i++) {
        memset(value, (int)i, sizeof value);
        put(&p, i % 60, bytes_of(value, sizeof value), 0);
    }
    for (uint64_t i = 0; i < KEYS; i += 2)
        put_number(&p, i, i);
    world_close(p.w);
    world_open(p.w);
    CHECK_EQ(count_of(&p), model_count(p.m));
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* What waits counts against a bound, from the start. */
static void test_bound(void) {
    pair p = pair_create();
    kv_stats stats;
    char text[24];
    kv_error *err = &p.w->err;
    fill(&p);
    for (uint64_t i = 0; i < KEYS; i++)
        put_number(&p, KEYS + i, i);
    CHECK_OK(kv_get_stats(p.w->db, 0, &stats, err), err);
    world_close(p.w);
    p.w->options.max_memory = stats.memory_charged;
    world_open(p.w);
    kv_bytes key = key_of(text, 3 * KEYS);
    CHECK_STATUS(kv_put(p.w->db, key, LITERAL("more"), 0, err), KV_ERR_MEMLIMIT, err);
    model_check(p.m, p.w->db);
    pair_destroy(&p);
}

/* Shards that get many keys split as they do without a checkpoint. */
static void test_many_new_keys(void) {
    enum { NEW = 60000 };
    uint64_t shards[2];
    for (unsigned round = 0; round < 2; round++) {
        pair p = pair_create();
        kv_stats stats;
        p.w->options.sync = KV_SYNC_NEVER;
        world_close(p.w);
        world_open(p.w);
        if (round == 1)
            CHECK_OK(kv_checkpoint(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
        for (uint64_t i = 0; i < NEW; i++)
            put_number(&p, i, i);
        world_close(p.w);
        world_open(p.w);
        CHECK_OK(kv_get_stats(p.w->db, 0, &stats, &p.w->err), &p.w->err);
        CHECK_EQ(stats.entries, NEW);
        shards[round] = stats.shards;
        pair_destroy(&p);
    }
    CHECK(shards[1] > shards[0] / 2); /* none waits for long that could become twice as large as one may be */
    printf("# %" PRIu64 " shards, behind a checkpoint %" PRIu64 "\n", shards[0], shards[1]);
}

/* All that there is, is in the tail. */
static void test_empty_checkpoint(void) {
    pair p = pair_create();
    kv_item item;
    CHECK_OK(kv_checkpoint(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    for (unsigned round = 0; round < 20; round++) {
        put_number(&p, round, round);
        world_kill(p.w);
        world_open(p.w);
        CHECK_OK(kv_pop_any(p.w->db, 0, &item, &p.w->err), &p.w->err);
        model_delete(p.m, item.key);
        kv_item_release(&item);
        model_check(p.m, p.w->db);
    }
    pair_destroy(&p);
}

/* What only the tail says expires at its time. */
static void test_expiry(void) {
    pair p = pair_create();
    for (uint64_t i = 0; i < KEYS; i++)
        put(&p, i, LITERAL("for ever"), 0);
    CHECK_OK(kv_checkpoint(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    for (uint64_t i = 0; i < KEYS; i += 10)
        put(&p, i, LITERAL("for a while"), FAR);
    world_close(p.w);
    for (unsigned round = 0; round < 2; round++) {
        world_open(p.w);
        if (round == 0) { /* at once: before anything was loaded, or after */
            world_set_clock(p.w, FAR);
            CHECK_EQ(count_of(&p), KEYS - KEYS / 10);
        }
        model_sweep(p.m, FAR);
        for (unsigned i = 0; round == 0; i++) {
            kv_stats stats;
            CHECK_OK(kv_get_stats(p.w->db, 0, &stats, &p.w->err), &p.w->err);
            if (stats.expired == KEYS / 10)
                break;
            CHECK(i < 10000);
            usleep(1000);
        }
        model_check(p.m, p.w->db);
        world_close(p.w);
    }
    pair_destroy(&p);
}

/* A damaged block: what waits for its shard cannot be told, and is not lost. */
static void test_damaged_block(void) {
    pair p = pair_create();
    char name[64], text[24];
    unsigned refused = 0;
    kv_error *err = &p.w->err;
    fill(&p);
    for (uint64_t i = 0; i < KEYS; i++)
        put_number(&p, i, i);
    world_close(p.w);
    image_flip_block(p.w->memory, name);
    world_open(p.w);
    uint64_t count;
    CHECK_STATUS(kv_count(p.w->db, 0, &count, err), KV_ERR_CORRUPT, err);
    CHECK_CONTAINS(err->path, name);
    for (uint64_t i = 0; i < KEYS; i++) {
        kv_value value;
        kv_status status = kv_get(p.w->db, key_of(text, i), 0, &value, err);
        if (status == KV_ERR_CORRUPT) {
            refused++;
        } else {
            CHECK_EQ(status, KV_OK);
            CHECK_MEM(value.data, &i, sizeof i);
            put_number(&p, i, i + 1); /* the store goes on */
        }
        kv_value_release(&value);
    }
    CHECK(refused > 0 && refused < KEYS / 4);
    CHECK_STATUS(kv_checkpoint(p.w->db, NULL, NULL, err), KV_ERR_CORRUPT, err);
    world_close(p.w);
    image_flip_block(p.w->memory, name);
    world_open(p.w);
    model_check(p.m, p.w->db);
    printf("# %u of %u keys could not be told\n", refused, KEYS);
    pair_destroy(&p);
}

/* Every request for memory fails, while a tail is read and while it is applied. */
static void test_no_memory(void) {
    pair p = pair_create();
    check_random random = random_stream(1);
    uint64_t n = 0;
    for (uint64_t i = 0; i < 200; i++)
        put(&p, i, LITERAL("first"), 0);
    CHECK_OK(kv_checkpoint(p.w->db, NULL, NULL, &p.w->err), &p.w->err);
    for (unsigned i = 0; i < 300; i++)
        change(&p, &random);
    world_close(p.w);
    for (bool undisturbed = false; !undisturbed; n++) {
        uint64_t count;
        kv_mem_fail_at(n, n % 2);
        kv_status status = world_try_open(p.w);
        CHECK(status == KV_OK || status == KV_ERR_NOMEM);
        kv_status counted = status == KV_OK ? kv_count(p.w->db, 0, &count, &p.w->err) : status;
        CHECK(counted == KV_OK || counted == KV_ERR_NOMEM);
        if (counted == KV_OK)
            CHECK_EQ(count, model_count(p.m));
        undisturbed = kv_mem_fail_at(UINT64_MAX, false) <= n;
        if (status < 0)
            world_open(p.w);
        model_check(p.m, p.w->db);
        world_close(p.w);
    }
    printf("# %" PRIu64 " requests for memory\n", n);
    pair_destroy(&p);
}

CHECK_MAIN(TEST(test_changes), TEST(test_too_many_to_wait), TEST(test_bound),
           TEST(test_many_new_keys), TEST(test_empty_checkpoint), TEST(test_expiry), TEST(test_damaged_block),
           TEST(test_no_memory))
