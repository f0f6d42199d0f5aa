/* test_store_single.c - every operation of kv.h from one thread, against a model, in every mode. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kv.h"
#include "model.h"
#include "scenario.h"
#include "scratch.h"
#include "world.h"

/* ---- A store of each kind ---------------------------------------------------------------------- */

typedef enum kind { MEMORY, ALWAYS, INTERVAL, NEVER, KINDS } kind;

typedef struct pair {
    kind kind;
    world *w;
    kv_db *db; /* the world's, or one in memory only */
    model *m;
    kv_error err;
} pair;

static pair pair_open(kind kind) {
    pair p = {.kind = kind, .w = world_create(), .m = model_create()};
    if (kind == MEMORY) {
        CHECK_OK(kv_open(NULL, &p.w->options, &p.db, &p.err), &p.err);
    } else {
        p.w->options.sync = (kv_sync)(kind - ALWAYS);
        world_open(p.w);
        p.db = p.w->db;
    }
    return p;
}

/* What a close and an open in between must not change. */
static void pair_reopen(pair *p) {
    if (p->kind == MEMORY)
        return;
    world_close(p->w);
    world_open(p->w);
    p->db = p->w->db;
    kv_recovery recovery;
    kv_get_recovery(p->db, &recovery);
    CHECK(recovery.clean);
    CHECK(!recovery.created);
    CHECK_EQ(recovery.bytes_cut, 0);
}

static void pair_close(pair *p) {
    model_check(p->m, p->db);
    pair_reopen(p);
    model_check(p->m, p->db);
    if (p->kind == MEMORY) {
        CHECK_OK(kv_verify(p->db, &p->err), &p->err);
        CHECK_OK(kv_close(p->db, &p->err), &p->err);
        kv_destroy(p->db);
    }
    world_destroy(p->w);
    model_destroy(p->m);
}

#define FOR_EACH_KIND(p)                                                                         \
    for (kind kind_ = MEMORY; kind_ < KINDS; kind_++)                                            \
        for (pair p = pair_open(kind_); p.w != NULL; pair_close(&p), p.w = NULL)

static void put(pair *p, kv_bytes key, kv_bytes value) {
    CHECK_OK(kv_put(p->db, key, value, 0, &p->err), &p->err);
    model_put(p->m, key, value);
}

static void check_get(pair *p, kv_bytes key, kv_bytes wanted) {
    kv_value value;
    CHECK_OK(kv_get(p->db, key, 0, &value, &p->err), &p->err);
    CHECK_EQ(value.size, wanted.size);
    CHECK_MEM(value.data, wanted.data, wanted.size);
    kv_value_release(&value);
}

static void check_absent(pair *p, kv_bytes key) {
    kv_value value;
    CHECK_STATUS(kv_get(p->db, key, 0, &value, &p->err), KV_NOTFOUND, &p->err);
    CHECK_STATUS(kv_contains(p->db, key, 0, &p->err), KV_NOTFOUND, &p->err);
}

static const kv_bytes A = {"a", 1}, B = {"b", 1}, C = {"c", 1}, EMPTY = {NULL, 0};

/* ---- Single keys --------------------------------------------------------------------------------- */

static void test_put_get_delete(void) {
    FOR_EACH_KIND(p) {
        check_absent(&p, A);
        put(&p, A, LITERAL("one"));
        check_get(&p, A, LITERAL("one"));
        put(&p, A, LITERAL("another"));
        put(&p, B, LITERAL("two"));
        model_check(p.m, p.db);
        CHECK_STATUS(kv_delete(p.db, C, 0, &p.err), KV_NOTFOUND, &p.err);
        CHECK_OK(kv_delete(p.db, A, 0, &p.err), &p.err);
        model_delete(p.m, A);
        check_absent(&p, A);
        CHECK_STATUS(kv_delete(p.db, A, 0, &p.err), KV_NOTFOUND, &p.err);
    }
}

static void test_empty_key_and_value(void) {
    FOR_EACH_KIND(p) {
        check_absent(&p, EMPTY);
        put(&p, EMPTY, EMPTY);
        check_get(&p, EMPTY, EMPTY);
        put(&p, LITERAL(""), LITERAL("value of the empty key"));
        check_get(&p, EMPTY, LITERAL("value of the empty key"));
        put(&p, LITERAL("\0"), LITERAL("of one zero byte"));
        put(&p, LITERAL("\0\0"), EMPTY);
        const kv_op ops[] = {{KV_OP_PUT, EMPTY, LITERAL("1")}, {KV_OP_PUT, EMPTY, LITERAL("2")}};
        CHECK_OK(kv_write(p.db, ops, 2, 0, NULL, &p.err), &p.err);
        model_put(p.m, EMPTY, LITERAL("2"));
        model_check(p.m, p.db);
        CHECK_STATUS(kv_replace(p.db, EMPTY, B, EMPTY, 0, &p.err), KV_UNCHANGED, &p.err);
        CHECK_OK(kv_replace(p.db, LITERAL("\0\0"), B, EMPTY, 0, &p.err), &p.err);
        model_put(p.m, LITERAL("\0\0"), B);
        CHECK_OK(kv_delete(p.db, EMPTY, 0, &p.err), &p.err);
        model_delete(p.m, EMPTY);
    }
}

/* At and around the sizes where something changes: copy or pin, classes of the pool, its slabs. */
static void test_sizes(void) {
    static const size_t sizes[] = {1,    15,   16,   17,   KV_VALUE_COPY_MAX, KV_VALUE_COPY_MAX + 1,
                                   1023, 1024, 1025, 4096, 8170,  8179, 8180, 8181, 8192, 8193, 65536,
                                   300000};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    check_random random = random_stream(1);
    uint8_t *bytes = malloc(sizes[COUNT - 1]);
    random_fill(&random, bytes, sizes[COUNT - 1]);
    FOR_EACH_KIND(p) {
        for (int round = 0; round < 2; round++)
            for (size_t i = 0; i < COUNT; i++) {
                put(&p, bytes_of(&i, sizeof i), bytes_of(bytes + round, sizes[i] - (size_t)round));
                if (sizes[i] <= KV_KEY_MAX)
                    put(&p, bytes_of(bytes, sizes[i]), bytes_of(&i, sizeof i));
            }
        put(&p, bytes_of(bytes, KV_KEY_MAX), bytes_of(bytes, 100000));
    }
    free(bytes);
}

static void test_limits(void) {
    static const uint8_t bytes[KV_KEY_MAX + 1];
    kv_bytes long_key = {bytes, sizeof bytes};
    /* Never read: only their sizes are looked at. */
    kv_bytes long_value = {bytes, (size_t)KV_VALUE_MAX + 1}, half = {bytes, KV_VALUE_MAX};
    FOR_EACH_KIND(p) {
        kv_db *db = p.db;
        kv_error *err = &p.err;
        kv_value value;
        kv_values values;
        int64_t number;
        CHECK_STATUS(kv_put(db, long_key, A, 0, err), KV_ERR_LIMIT, err);
        CHECK_CONTAINS(err->message, "65536");
        CHECK_STATUS(kv_put(db, A, long_value, 0, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_delete(db, long_key, 0, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_pop(db, long_key, 0, &value, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_incr(db, long_key, 1, 0, &number, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_put_absent(db, A, long_value, 0, NULL, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_replace(db, long_key, A, B, 0, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_get(db, long_key, 0, &value, err), KV_ERR_LIMIT, err);
        CHECK_STATUS(kv_contains(db, long_key, 0, err), KV_ERR_LIMIT, err);
        const kv_bytes keys[] = {A, long_key};
        CHECK_STATUS(kv_get_many(db, keys, 2, &values, err), KV_ERR_LIMIT, err);
        kv_values_release(&values);
        const kv_op puts[] = {{KV_OP_PUT, A, A}, {KV_OP_PUT, long_key, A}};
        CHECK_STATUS(kv_write(db, puts, 2, 0, NULL, err), KV_ERR_LIMIT, err);
        const kv_op values_over[] = {{KV_OP_PUT, A, A}, {KV_OP_PUT, B, long_value}};
        CHECK_STATUS(kv_write(db, values_over, 2, 0, NULL, err), KV_ERR_LIMIT, err);
        const kv_op sum_over[] = {{KV_OP_PUT, A, half}, {KV_OP_PUT, B, half}, {KV_OP_PUT, C, half}};
        CHECK_STATUS(kv_write(db, sum_over, 3, 0, NULL, err), KV_ERR_LIMIT, err);
        CHECK_EQ(err->status, KV_ERR_LIMIT);
    }
}

static void test_unknown_op(void) {
    FOR_EACH_KIND(p) {
        put(&p, A, A);
        const kv_op ops[] = {{KV_OP_PUT, A, B}, {(kv_op_kind)3, B, B}};
        CHECK_STATUS(kv_write(p.db, ops, 2, 0, NULL, &p.err), KV_ERR_INVALID, &p.err);
        const kv_op zero = {.key = A};
        CHECK_STATUS(kv_write(p.db, &zero, 1, 0, NULL, &p.err), KV_ERR_INVALID, &p.err);
    }
}

static void test_conditional(void) {
    FOR_EACH_KIND(p) {
        kv_value value = {0};
        CHECK_OK(kv_put_absent(p.db, A, LITERAL("1"), 0, &value, &p.err), &p.err);
        model_put(p.m, A, LITERAL("1"));
        CHECK_STATUS(kv_put_absent(p.db, A, LITERAL("2"), 0, NULL, &p.err), KV_UNCHANGED, &p.err);
        CHECK_STATUS(kv_put_absent(p.db, A, LITERAL("2"), KV_PIN, &value, &p.err), KV_UNCHANGED,
                     &p.err);
        CHECK_EQ(value.size, 1);
        CHECK_MEM(value.data, "1", 1);
        CHECK(value.pin != NULL);
        kv_value_release(&value);

        CHECK_STATUS(kv_replace(p.db, B, A, A, 0, &p.err), KV_UNCHANGED, &p.err);
        CHECK_STATUS(kv_replace(p.db, A, B, LITERAL("11"), 0, &p.err), KV_UNCHANGED, &p.err);
        CHECK_STATUS(kv_replace(p.db, A, B, LITERAL("2"), 0, &p.err), KV_UNCHANGED, &p.err);
        CHECK_STATUS(kv_replace(p.db, A, B, EMPTY, 0, &p.err), KV_UNCHANGED, &p.err);
        model_check(p.m, p.db);
        CHECK_OK(kv_replace(p.db, A, B, LITERAL("1"), 0, &p.err), &p.err);
        model_put(p.m, A, B);

        CHECK_STATUS(kv_pop(p.db, C, 0, &value, &p.err), KV_NOTFOUND, &p.err);
        CHECK_OK(kv_pop(p.db, A, 0, &value, &p.err), &p.err);
        CHECK_EQ(value.size, 1);
        CHECK_MEM(value.data, "b", 1);
        kv_value_release(&value);
        model_delete(p.m, A);
    }
}

static void test_incr(void) {
    static const struct {
        const char *before; /* NULL: absent */
        int64_t by;
        kv_status status;
        const char *after; /* NULL: as before */
    } cases[] = {
        {NULL, 5, KV_OK, "5"},
        {NULL, 0, KV_OK, "0"},
        {NULL, INT64_MIN, KV_OK, "-9223372036854775808"},
        {"7", -7, KV_OK, "0"},
        {"-1", 1, KV_OK, "0"},
        {"99", 1, KV_OK, "100"},
        {"-9", -1, KV_OK, "-10"},
        {"9223372036854775806", 1, KV_OK, "9223372036854775807"},
        {"9223372036854775807", 1, KV_ERR_RANGE, NULL},
        {"9223372036854775807", INT64_MIN, KV_OK, "-1"},
        {"-9223372036854775808", -1, KV_ERR_RANGE, NULL},
        {"-9223372036854775808", INT64_MIN, KV_ERR_RANGE, NULL},
        {"-9223372036854775808", INT64_MAX, KV_OK, "-1"},
        {"-1", INT64_MIN, KV_ERR_RANGE, NULL},
        {"0", INT64_MIN, KV_OK, "-9223372036854775808"},
        {"9223372036854775808", 0, KV_ERR_NOTINT, NULL},
        {"-9223372036854775809", 0, KV_ERR_NOTINT, NULL},
        {"99999999999999999999", 0, KV_ERR_NOTINT, NULL},
        {"", 1, KV_ERR_NOTINT, NULL},
        {"-", 1, KV_ERR_NOTINT, NULL},
        {"-0", 1, KV_ERR_NOTINT, NULL},
        {"01", 1, KV_ERR_NOTINT, NULL},
        {"+1", 1, KV_ERR_NOTINT, NULL},
        {" 1", 1, KV_ERR_NOTINT, NULL},
        {"1 ", 1, KV_ERR_NOTINT, NULL},
        {"1.0", 1, KV_ERR_NOTINT, NULL},
        {"0x1", 1, KV_ERR_NOTINT, NULL},
        {"--1", 1, KV_ERR_NOTINT, NULL},
        {"1/", 1, KV_ERR_NOTINT, NULL},
        {"1:", 1, KV_ERR_NOTINT, NULL},
    };
    FOR_EACH_KIND(p) {
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            kv_bytes key = bytes_of(&i, sizeof i);
            int64_t result = 12345;
            if (cases[i].before != NULL)
                put(&p, key, bytes_of(cases[i].before, strlen(cases[i].before)));
            CHECK_STATUS(kv_incr(p.db, key, cases[i].by, 0, &result, &p.err), cases[i].status,
                         &p.err);
            if (cases[i].status == KV_OK)
                CHECK_EQ(result, strtoll(cases[i].after, NULL, 10));
            else
                CHECK_EQ(result, 12345);
            if (cases[i].after != NULL)
                model_put(p.m, key, bytes_of(cases[i].after, strlen(cases[i].after)));
        }
    }
}

static void test_pop_any(void) {
    FOR_EACH_KIND(p) {
        kv_item item;
        CHECK_STATUS(kv_pop_any(p.db, 0, &item, &p.err), KV_NOTFOUND, &p.err);
        for (unsigned i = 0; i < 500; i++)
            put(&p, bytes_of(&i, sizeof i), bytes_of(&i, i % 2 ? 1 : sizeof i));
        for (unsigned left = 500; left > 100; left--) {
            CHECK_OK(kv_pop_any(p.db, 0, &item, &p.err), &p.err);
            const kv_bytes *value = model_get(p.m, item.key);
            CHECK(value != NULL && value->size == item.value.size);
            CHECK_MEM(item.value.data, value->data, value->size);
            CHECK(model_delete(p.m, item.key));
            kv_item_release(&item);
        }
        model_check(p.m, p.db);
    }
}

/* ---- Many keys -------------------------------------------------------------------------------------- */

static void test_batch(void) {
    FOR_EACH_KIND(p) {
        uint64_t deleted = 99;
        CHECK_OK(kv_write(p.db, NULL, 0, 0, &deleted, &p.err), &p.err);
        CHECK_EQ(deleted, 0);
        put(&p, A, A);
        put(&p, B, B);
        const kv_op ops[] = {
            {KV_OP_DELETE, A, EMPTY},        {KV_OP_PUT, A, LITERAL("new")},
            {KV_OP_PUT, B, LITERAL("lost")}, {KV_OP_DELETE, B, EMPTY},
            {KV_OP_DELETE, C, EMPTY},        {KV_OP_PUT, LITERAL("d"), LITERAL("1")},
            {KV_OP_PUT, LITERAL("e"), A},    {KV_OP_DELETE, LITERAL("e"), EMPTY},
            {KV_OP_PUT, LITERAL("d"), B},
        };
        CHECK_OK(kv_write(p.db, ops, sizeof ops / sizeof ops[0], 0, &deleted, &p.err), &p.err);
        CHECK_EQ(deleted, 1); /* of the last ones on each key: b was there, c and e were not */
        model_put(p.m, A, LITERAL("new"));
        model_delete(p.m, B);
        model_put(p.m, LITERAL("d"), B);
        model_check(p.m, p.db);

        const kv_op nothing[] = {{KV_OP_DELETE, B, EMPTY}, {KV_OP_DELETE, C, EMPTY}};
        CHECK_OK(kv_write(p.db, nothing, 2, 0, &deleted, &p.err), &p.err);
        CHECK_EQ(deleted, 0);
    }
}

/* Larger than a segment, than a shard, and than the window of every loop. */
static void test_large_batches(void) {
    enum { COUNT = 5000 };
    static kv_op ops[COUNT];
    static unsigned numbers[COUNT];
    FOR_EACH_KIND(p) {
        for (unsigned round = 0; round < 3; round++) {
            uint64_t deleted, wanted = 0;
            check_random random = random_stream(round);
            model *after = model_clone(p.m);
            for (unsigned i = 0; i < COUNT; i++) {
                numbers[i] = (unsigned)random_below(&random, 4000);
                bool put = random_below(&random, 3) > 0;
                ops[i] = (kv_op){.kind = put ? KV_OP_PUT : KV_OP_DELETE,
                                 .key = bytes_of(&numbers[i], sizeof numbers[i])};
                if (put)
                    model_put(after, ops[i].key, ops[i].value = bytes_of(&ops[i].key, i % 13));
                else
                    model_delete(after, ops[i].key);
            }
            for (unsigned i = 0; i < 4000; i++) {
                kv_bytes key = bytes_of(&i, sizeof i);
                wanted += model_get(p.m, key) != NULL && model_get(after, key) == NULL;
            }
            CHECK_OK(kv_write(p.db, ops, COUNT, 0, &deleted, &p.err), &p.err);
            CHECK_EQ(deleted, wanted);
            model_destroy(p.m);
            p.m = after;
            model_check(p.m, p.db);
        }
    }
}

static void test_get_many(void) {
    enum { COUNT = 3000 };
    static kv_bytes keys[COUNT];
    static unsigned numbers[COUNT];
    static char big[5000];
    FOR_EACH_KIND(p) {
        kv_values values;
        CHECK_OK(kv_get_many(p.db, NULL, 0, &values, &p.err), &p.err);
        CHECK_EQ(values.count, 0);
        kv_values_release(&values);
        for (unsigned i = 0; i < COUNT / 2; i++) {
            snprintf(big, sizeof big, "value %u", i);
            put(&p, bytes_of(&i, sizeof i), bytes_of(big, i % 5 == 0 ? sizeof big : i % 50));
        }
        check_random random = random_stream(1);
        for (unsigned i = 0; i < COUNT; i++) {
            numbers[i] = (unsigned)random_below(&random, COUNT);
            keys[i] = bytes_of(&numbers[i], sizeof numbers[i]);
        }
        CHECK_OK(kv_get_many(p.db, keys, COUNT, &values, &p.err), &p.err);
        /* What they hold stays, whatever becomes of the keys. */
        CHECK_OK(kv_clear(p.db, 0, &p.err), &p.err);
        for (unsigned i = 0; i < COUNT; i++) {
            const kv_bytes *wanted = model_get(p.m, keys[i]);
            CHECK_EQ(values.items[i].data != NULL, wanted != NULL);
            if (wanted == NULL)
                continue;
            CHECK_EQ(values.items[i].size, wanted->size);
            CHECK_MEM(values.items[i].data, wanted->data, wanted->size);
        }
        kv_values_release(&values);
        kv_values_release(&values); /* twice is allowed */
        model_clear(p.m);
    }
}

static void test_clear(void) {
    FOR_EACH_KIND(p) {
        CHECK_OK(kv_clear(p.db, 0, &p.err), &p.err);
        for (unsigned round = 0; round < 3; round++) {
            for (unsigned i = 0; i < 2000; i++)
                put(&p, bytes_of(&i, sizeof i), bytes_of(&round, sizeof round));
            CHECK_OK(kv_clear(p.db, round == 1 && p.kind != MEMORY ? KV_SYNC : 0, &p.err), &p.err);
            model_clear(p.m);
            model_check(p.m, p.db);
        }
        put(&p, A, A);
    }
}

/* ---- Snapshots ---------------------------------------------------------------------------------------- */

static void check_snapshot(kv_snapshot *s, const model *m) {
    uint64_t count;
    kv_error err;
    CHECK_EQ(snapshot_digest(s, &count), model_digest(m));
    CHECK_EQ(count, model_count(m));
    CHECK_OK(kv_snapshot_count(s, &count, &err), &err);
    CHECK_EQ(count, model_count(m));
}

static void test_snapshots(void) {
    enum { ROUNDS = 6, KEYS = 1500 };
    FOR_EACH_KIND(p) {
        kv_snapshot *snapshots[ROUNDS];
        model *models[ROUNDS];
        check_random random = random_stream(1);
        for (unsigned round = 0; round < ROUNDS; round++) {
            CHECK_OK(kv_snapshot_create(p.db, &snapshots[round], &p.err), &p.err);
            models[round] = model_clone(p.m);
            if (round == 3) {
                CHECK_OK(kv_clear(p.db, 0, &p.err), &p.err);
                model_clear(p.m);
            }
            for (unsigned i = 0; i < KEYS; i++) {
                unsigned key = (unsigned)random_below(&random, KEYS);
                kv_bytes k = bytes_of(&key, sizeof key);
                if (random_below(&random, 3) > 0) {
                    put(&p, k, bytes_of(&random, round));
                } else {
                    kv_status status = kv_delete(p.db, k, 0, &p.err);
                    CHECK_EQ(status, model_delete(p.m, k) ? KV_OK : KV_NOTFOUND);
                }
            }
            for (unsigned i = 0; i <= round; i++)
                check_snapshot(snapshots[i], models[i]);
            CHECK_OK(kv_verify(p.db, &p.err), &p.err);
        }
        kv_stats stats;
        CHECK_OK(kv_get_stats(p.db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.snapshots, ROUNDS);
        CHECK(stats.undo_records > 0);
        static const unsigned order[ROUNDS] = {2, 0, 5, 1, 4, 3};
        for (unsigned i = 0; i < ROUNDS; i++) {
            kv_snapshot_destroy(snapshots[order[i]]);
            for (unsigned j = i + 1; j < ROUNDS; j++)
                check_snapshot(snapshots[order[j]], models[order[j]]);
            model_destroy(models[order[i]]);
        }
        /* With nobody left to look behind, nothing is kept. */
        CHECK_OK(kv_get_stats(p.db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.snapshots, 0);
        CHECK_EQ(stats.undo_records, 0);
    }
}

static void test_snapshot_get(void) {
    FOR_EACH_KIND(p) {
        kv_snapshot *s;
        kv_value value;
        put(&p, A, LITERAL("old"));
        CHECK_OK(kv_snapshot_create(p.db, &s, &p.err), &p.err);
        put(&p, A, LITERAL("new"));
        put(&p, B, LITERAL("later"));
        CHECK_OK(kv_snapshot_get(s, A, KV_NOWAIT, &value, &p.err), &p.err);
        CHECK_MEM(value.data, "old", 3);
        kv_value_release(&value);
        CHECK_STATUS(kv_snapshot_get(s, B, 0, &value, &p.err), KV_NOTFOUND, &p.err);
        CHECK_OK(kv_delete(p.db, A, 0, &p.err), &p.err);
        model_delete(p.m, A);
        CHECK_OK(kv_snapshot_get(s, A, KV_PIN, &value, &p.err), &p.err);
        CHECK(value.pin != NULL);
        CHECK_MEM(value.data, "old", 3);
        kv_snapshot_destroy(s);
        CHECK_MEM(value.data, "old", 3);
        kv_value_release(&value);
        kv_snapshot_destroy(NULL);
    }
}

static void test_cursor_holds_its_items(void) {
    FOR_EACH_KIND(p) {
        kv_snapshot *s;
        kv_cursor *cursor, *fresh;
        const kv_item *items;
        size_t count;
        for (unsigned i = 0; i < 2000; i++)
            put(&p, bytes_of(&i, sizeof i), bytes_of(&i, sizeof i));
        CHECK_OK(kv_snapshot_create(p.db, &s, &p.err), &p.err);
        CHECK_OK(kv_cursor_create(s, &cursor, &p.err), &p.err);
        CHECK_OK(kv_cursor_create(s, &fresh, &p.err), &p.err);
        CHECK_OK(kv_cursor_next(cursor, &items, &count, &p.err), &p.err);
        CHECK_OK(kv_clear(p.db, 0, &p.err), &p.err);
        model_clear(p.m);
        for (size_t i = 0; i < count; i++)
            CHECK_MEM(items[i].value.data, items[i].key.data, sizeof(unsigned));
        kv_cursor_destroy(fresh);
        kv_cursor_destroy(cursor);
        kv_cursor_destroy(NULL);
        kv_snapshot_destroy(s);
    }
}

/* ---- After the end -------------------------------------------------------------------------------------- */

/* Everything that may outlive a close, and every call after it. */
static void test_closed(void) {
    for (kind kind = MEMORY; kind < KINDS; kind++) {
        pair p = pair_open(kind);
        kv_db *db = p.db;
        kv_error err;
        kv_value pinned, value;
        kv_values many, values;
        kv_item popped, item;
        kv_snapshot *s, *other;
        kv_cursor *cursor, *other_cursor;
        const kv_item *items;
        size_t count;
        uint64_t number;
        kv_stats stats;
        char big[3000] = "big";
        put(&p, A, bytes_of(big, sizeof big));
        put(&p, B, LITERAL("small"));
        CHECK_OK(kv_get(db, A, 0, &pinned, &err), &err);
        CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
        CHECK_OK(kv_cursor_create(s, &cursor, &err), &err);
        CHECK_OK(kv_cursor_next(cursor, &items, &count, &err), &err);
        const kv_bytes keys[] = {A, B, C};
        CHECK_OK(kv_get_many(db, keys, 3, &many, &err), &err);
        CHECK_OK(kv_pop_any(db, 0, &popped, &err), &err);
        CHECK_OK(kv_verify(db, &err), &err);

        CHECK(!kv_is_closed(db));
        CHECK_OK(kv_close(db, &err), &err);
        CHECK_OK(kv_close(db, &err), &err);
        CHECK(kv_is_closed(db));
        CHECK_EQ(kv_is_memory_only(db), kind == MEMORY);
        CHECK(!kv_is_read_only(db));
        kv_recovery recovery;
        kv_get_recovery(db, &recovery);
        CHECK(recovery.created);

        int64_t result;
        const kv_op op = {KV_OP_PUT, A, A};
        CHECK_STATUS(kv_get(db, A, 0, &value, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_contains(db, A, 0, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_get_many(db, keys, 3, &values, &err), KV_ERR_CLOSED, &err);
        kv_prefetch(db, keys, 3);
        CHECK_STATUS(kv_count(db, 0, &number, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_put(db, A, A, 0, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_delete(db, A, 0, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_pop(db, A, 0, &value, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_pop_any(db, 0, &item, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_put_absent(db, A, A, 0, NULL, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_replace(db, A, A, A, 0, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_incr(db, A, 1, 0, &result, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_write(db, &op, 1, 0, NULL, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_clear(db, 0, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_make_durable(db, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_snapshot_create(db, &other, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_snapshot_get(s, A, 0, &value, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_snapshot_count(s, &number, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_cursor_create(s, &other_cursor, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_get_stats(db, 0, &stats, &err), KV_ERR_CLOSED, &err);
        CHECK_STATUS(kv_verify(db, &err), KV_ERR_CLOSED, &err);

        for (size_t i = 0; i < count; i++)
            CHECK(items[i].value.size == 5 || items[i].value.size == sizeof big);
        CHECK_STATUS(kv_cursor_next(cursor, &items, &count, &err), KV_ERR_CLOSED, &err);
        kv_cursor_destroy(cursor);
        kv_snapshot_destroy(s);
        kv_destroy(db);
        p.w->db = NULL;
        CHECK_MEM(pinned.data, big, sizeof big);
        CHECK_MEM(many.items[0].data, big, sizeof big);
        CHECK_MEM(many.items[1].data, "small", 5);
        CHECK(many.items[2].data == NULL);
        CHECK_EQ(popped.key.size, 1);
        kv_value_release(&pinned);
        kv_value_release(&pinned); /* twice is allowed */
        kv_values_release(&many);
        kv_item_release(&popped);
        world_destroy(p.w);
        model_destroy(p.m);
    }
    kv_destroy(NULL);
}

static void test_destroy_closes(void) {
    world *w = world_create();
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    kv_destroy(w->db);
    w->db = NULL;
    world_open(w);
    CHECK_OK(kv_contains(w->db, A, 0, &w->err), &w->err);
    world_destroy(w);
}

/* ---- Opening ------------------------------------------------------------------------------------------------ */

static void test_two_handles(void) {
    world *w = world_create();
    kv_error err;
    kv_db *second;
    kv_stats stats;
    kv_snapshot *s;
    kv_value value;
    world_open(w);
    CHECK_OK(kv_open(WORLD_DIR, &w->options, &second, &err), &err);
    CHECK_OK(kv_put(w->db, A, A, 0, &err), &err);
    CHECK_OK(kv_contains(second, A, 0, &err), &err);
    CHECK_OK(kv_get_stats(second, 0, &stats, &err), &err);
    CHECK_EQ(stats.handles, 2);
    CHECK_OK(kv_snapshot_create(second, &s, &err), &err);

    kv_options other = w->options;
    kv_db *third;
    other.sync = KV_SYNC_NEVER;
    CHECK_STATUS(kv_open(WORLD_DIR, &other, &third, &err), KV_ERR_INVALID, &err);
    other = w->options;
    other.read_only = true;
    CHECK_STATUS(kv_open(WORLD_DIR, &other, &third, &err), KV_ERR_INVALID, &err);

    CHECK_OK(kv_close(second, &err), &err); /* not the last: the store goes on */
    CHECK_STATUS(kv_snapshot_get(s, A, 0, &value, &err), KV_ERR_CLOSED, &err);
    CHECK_OK(kv_put(w->db, B, B, 0, &err), &err);
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &err), &err);
    CHECK_EQ(stats.handles, 1);
    CHECK_EQ(stats.snapshots, 0);
    kv_snapshot_destroy(s);
    kv_destroy(second);

    CHECK_OK(kv_open(WORLD_DIR, &w->options, &second, &err), &err);
    kv_destroy(w->db);
    w->db = second;
    CHECK_OK(kv_contains(w->db, B, 0, &err), &err);
    world_destroy(w);
}

/* Another process, as far as the store can see: another way to the same files. */
static void test_locked(void) {
    world *w = world_create();
    fault_os *other = fault_os_create(memory_os_table(w->memory));
    kv_options options = w->options;
    kv_error err;
    kv_db *db, *db2;
    options.os = fault_os_table(other);
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &err), &err);
    CHECK_STATUS(kv_open(WORLD_DIR, &options, &db, &err), KV_ERR_LOCKED, &err);
    CHECK_EQ(err.pid, getpid());
    CHECK_CONTAINS(err.path, WORLD_DIR);
    options.read_only = true;
    CHECK_STATUS(kv_open(WORLD_DIR, &options, &db, &err), KV_ERR_LOCKED, &err);
    CHECK_EQ(err.pid, getpid());
    world_close(w);

    /* Readers may share it, and keep a writer out. */
    w->options.read_only = true;
    world_open(w);
    CHECK_OK(kv_open(WORLD_DIR, &options, &db, &err), &err);
    CHECK_OK(kv_contains(db, A, 0, &err), &err);
    fault_os *third = fault_os_create(memory_os_table(w->memory));
    options.os = fault_os_table(third);
    options.read_only = false;
    CHECK_STATUS(kv_open(WORLD_DIR, &options, &db2, &err), KV_ERR_LOCKED, &err);
    kv_destroy(db);
    world_close(w);
    CHECK_OK(kv_open(WORLD_DIR, &options, &db2, &err), &err);
    kv_destroy(db2);
    fault_os_destroy(third);
    fault_os_destroy(other);
    world_destroy(w);
}

static void test_read_only(void) {
    world *w = world_create();
    kv_error err;
    kv_value value;
    kv_item item;
    int64_t number;
    w->options.read_only = true;
    CHECK_STATUS(world_try_open(w), KV_ERR_IO, &w->err);
    CHECK_EQ(w->err.sys_errno, ENOENT);
    w->options.read_only = false;
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &err), &err);
    world_close(w);

    uint64_t digest = world_files_digest(w->memory);
    w->options.read_only = true;
    world_open(w);
    CHECK(kv_is_read_only(w->db));
    const kv_op op = {KV_OP_PUT, A, A};
    CHECK_STATUS(kv_put(w->db, A, B, 0, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_delete(w->db, A, 0, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_pop(w->db, A, 0, &value, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_pop_any(w->db, 0, &item, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_put_absent(w->db, B, B, 0, NULL, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_replace(w->db, A, A, B, 0, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_incr(w->db, A, 1, 0, &number, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_write(w->db, &op, 1, 0, NULL, &err), KV_ERR_READONLY, &err);
    CHECK_STATUS(kv_clear(w->db, 0, &err), KV_ERR_READONLY, &err);
    model *m = model_create();
    model_put(m, A, A);
    model_check(m, w->db);
    model_destroy(m);
    world_close(w);
    CHECK_EQ(world_files_digest(w->memory), digest);
    world_destroy(w);
}

static void test_options(void) {
    kv_error err;
    kv_db *db;
    kv_options options = kv_options_default();
    options.sync = (kv_sync)3;
    CHECK_STATUS(kv_open(NULL, &options, &db, &err), KV_ERR_INVALID, &err);
    options = kv_options_default();
    options.sync = KV_SYNC_INTERVAL;
    options.sync_interval_ns = 0;
    CHECK_STATUS(kv_open(NULL, &options, &db, &err), KV_ERR_INVALID, &err);
    options = kv_options_default();
    options.segment_size_min = options.segment_size_max + 1;
    CHECK_STATUS(kv_open(NULL, &options, &db, &err), KV_ERR_INVALID, &err);
    CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    CHECK_EQ(kv_sync_mode(db), KV_SYNC_ALWAYS);
    kv_destroy(db);

    world *w = world_create();
    w->options.create = false;
    CHECK_STATUS(world_try_open(w), KV_ERR_IO, &w->err);
    CHECK_EQ(w->err.sys_errno, ENOENT);
    w->options.create = true;
    w->options.segment_size_min = 0; /* as small as it can be */
    w->options.segment_size_max = 1;
    world_open(w);
    model *m = model_create();
    for (unsigned i = 0; i < scenario_count; i++)
        CHECK(scenario_run(i, w->db, m, &w->err) >= 0);
    model_check(m, w->db);
    world_close(w);
    world_open(w);
    model_check(m, w->db);
    model_destroy(m);
    world_destroy(w);
}

/* A directory with other things in it is left as it is. */
static void test_foreign_directory(void) {
    memory_os *memory = memory_os_create(1);
    const kv_os *os = memory_os_table(memory);
    static char bytes[1000] = "somebody's file";
    static const char *const names[] = {"LOCK", "data.txt"};
    int dir = os->dir_open(os->ctx, WORLD_DIR, true);
    for (int i = 0; i < 2; i++) {
        int file = os->open(os->ctx, dir, names[i], KV_OPEN_CREATE);
        CHECK_EQ(os->write(os->ctx, file, bytes, sizeof bytes, 0), sizeof bytes);
        CHECK_EQ(os->close(os->ctx, file), 0);
    }
    CHECK_EQ(os->close(os->ctx, dir), 0);
    world *w = world_create_on(memory);
    for (int i = 0; i < 2; i++) {
        uint64_t digest = world_files_digest(memory);
        CHECK_STATUS(world_try_open(w), KV_ERR_IO, &w->err);
        CHECK_EQ(w->err.sys_errno, ENOTEMPTY);
        CHECK_EQ(world_files_digest(memory), digest);
        dir = os->dir_open(os->ctx, WORLD_DIR, true);
        (void)os->unlink(os->ctx, dir, "LOCK"); /* once more without it */
        CHECK_EQ(os->close(os->ctx, dir), 0);
    }
    world_destroy(w);
}

/* ---- Waiting, durability, figures ------------------------------------------------------------------------------ */

static void test_nowait(void) {
    FOR_EACH_KIND(p) {
        kv_status wanted = p.kind == MEMORY ? KV_OK : KV_BUSY;
        kv_value value;
        int64_t number;
        put(&p, A, LITERAL("1"));
        CHECK_OK(kv_get(p.db, A, KV_NOWAIT, &value, &p.err), &p.err);
        kv_value_release(&value);
        CHECK_OK(kv_contains(p.db, A, KV_NOWAIT, &p.err), &p.err);
        CHECK_STATUS(kv_contains(p.db, C, KV_NOWAIT, &p.err), KV_NOTFOUND, &p.err);
        CHECK_STATUS(kv_put(p.db, B, B, KV_NOWAIT, &p.err), wanted, &p.err);
        CHECK_STATUS(kv_incr(p.db, A, 1, KV_NOWAIT, &number, &p.err), wanted, &p.err);
        CHECK_STATUS(kv_put_absent(p.db, C, C, KV_NOWAIT, NULL, &p.err), wanted, &p.err);
        CHECK_STATUS(kv_replace(p.db, C, B, C, KV_NOWAIT, &p.err), wanted, &p.err);
        CHECK_STATUS(kv_delete(p.db, B, KV_NOWAIT, &p.err), wanted, &p.err);
        if (p.kind == MEMORY) {
            model_put(p.m, A, LITERAL("2"));
            model_put(p.m, C, B);
        }
    }
}

static void test_what_is_durable_when(void) {
    for (kind kind = ALWAYS; kind < KINDS; kind++) {
        pair p = pair_open(kind);
        if (kind == INTERVAL) { /* not by time, in this test */
            world_close(p.w);
            p.w->options.sync_interval_ns = UINT64_C(3600000000000);
            world_open(p.w);
        }
        kv_db *db = p.w->db;
        kv_stats stats;
        CHECK_OK(kv_put(db, A, A, 0, &p.err), &p.err);
        CHECK_OK(kv_get_stats(db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.visible_lsn, stats.lsn);
        CHECK_EQ(stats.durable_lsn == stats.visible_lsn, kind == ALWAYS);
        CHECK_OK(kv_put(db, B, B, KV_SYNC, &p.err), &p.err);
        CHECK_OK(kv_get_stats(db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.durable_lsn, stats.visible_lsn);
        CHECK_OK(kv_put(db, C, C, 0, &p.err), &p.err);
        CHECK_OK(kv_make_durable(db, &p.err), &p.err);
        CHECK_OK(kv_get_stats(db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.durable_lsn, stats.visible_lsn);
        uint64_t syncs = stats.syncs;
        CHECK_OK(kv_make_durable(db, &p.err), &p.err); /* nothing left to do */
        CHECK_OK(kv_get_stats(db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.syncs, syncs);
        CHECK_OK(kv_put(db, LITERAL("d"), C, 0, &p.err), &p.err);
        world_cut_power(p.w);
        world_open(p.w);
        CHECK_OK(kv_contains(p.w->db, C, 0, &p.err), &p.err);
        CHECK_STATUS(kv_contains(p.w->db, LITERAL("d"), 0, &p.err),
                     kind == ALWAYS ? KV_OK : KV_NOTFOUND, &p.err);
        world_destroy(p.w);
        model_destroy(p.m);
    }
}

static void test_stats(void) {
    FOR_EACH_KIND(p) {
        kv_stats stats;
        CHECK_OK(kv_get_stats(p.db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.entries, 0);
        CHECK_EQ(stats.data_bytes, 0);
        CHECK_EQ(stats.commits, 0);
        CHECK_EQ(stats.handles, 1);
        uint64_t shards = stats.shards;
        for (unsigned i = 0; i < 10000; i++)
            put(&p, bytes_of(&i, sizeof i), bytes_of(&i, i % 5));
        CHECK_OK(kv_get_stats(p.db, 0, &stats, &p.err), &p.err);
        CHECK_EQ(stats.entries, 10000);
        CHECK_EQ(stats.data_bytes, model_data_bytes(p.m));
        CHECK_EQ(stats.commits, 10000);
        CHECK_EQ(stats.undo_records, 0);
        CHECK_EQ(stats.visible_lsn, stats.lsn);
        CHECK(stats.shards > shards);
        CHECK(stats.memory_bytes > stats.data_bytes);
        CHECK(!stats.failed);
        if (p.kind == MEMORY) {
            CHECK_EQ(stats.log_segments + stats.log_bytes + stats.frames + stats.syncs, 0);
            continue;
        }
        CHECK_EQ(stats.frames, 10000);
        CHECK(stats.log_segments > 1);
        uint64_t on_disk = 0;
        for (uint64_t i = 1; i <= stats.log_segments; i++) {
            char name[64];
            snprintf(name, sizeof name, "%08" PRIu64 ".log", i);
            on_disk += (uint64_t)memory_os_size(p.w->memory, WORLD_DIR, name);
        }
        CHECK_EQ(stats.log_bytes, on_disk);
        if (p.kind == ALWAYS)
            CHECK(stats.syncs >= 10000);
        pair_reopen(&p);
        kv_stats again;
        CHECK_OK(kv_get_stats(p.db, 0, &again, &p.err), &p.err);
        CHECK_EQ(again.entries, 10000);
        CHECK_EQ(again.data_bytes, stats.data_bytes);
        CHECK_EQ(again.log_segments, stats.log_segments);
        CHECK_EQ(again.log_bytes, stats.log_bytes);
        CHECK_EQ(again.durable_lsn, again.lsn);
        kv_recovery recovery;
        kv_get_recovery(p.db, &recovery);
        CHECK_EQ(recovery.segments, stats.log_segments);
        CHECK_EQ(recovery.commits, 10000);
        CHECK_EQ(recovery.records, 10000);
        CHECK_EQ(recovery.frames, 10001); /* and the closing frame */
    }
}

/* The interval is kept without anybody's doing. */
static void test_interval_syncs_by_itself(void) {
    enum { ROUNDS = 10, PATIENCE = 60 /* seconds */ };
    world *w = world_create();
    w->options.sync = KV_SYNC_INTERVAL;
    w->options.sync_interval_ns = 10000000;
    w->options.segment_size_min = w->options.segment_size_max = 1 << 24; /* to begin the next one makes durable, too */
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    for (int round = 0; round < ROUNDS; round++) {
        kv_stats stats;
        CHECK_OK(kv_put(w->db, bytes_of(&round, sizeof round), A, 0, &w->err), &w->err);
        CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
        uint64_t lsn = stats.visible_lsn, begin_ns = check_clock_ns(CLOCK_MONOTONIC);
        while (stats.durable_lsn < lsn) {
            CHECK(check_clock_ns(CLOCK_MONOTONIC) - begin_ns < PATIENCE * UINT64_C(1000000000));
            usleep(100);
            if (round % 2 == 1) /* the interval goes on while others write */
                CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
            CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
        }
        usleep(30000); /* long enough to fall asleep */
    }
    CHECK_EQ(world_stats(w).log_segments, 1);
    world_cut_power(w);
    world_open(w);
    uint64_t count;
    CHECK_OK(kv_count(w->db, 0, &count, &w->err), &w->err);
    CHECK_EQ(count, 1 + ROUNDS);
    world_destroy(w);
}

/* An idle store marks its log as durable, so that damage in the last commit can be proved. */
static void test_idle_store_is_marked(void) {
    world *w = world_create();
    w->options.mark_delay_ns = 2000000;
    world_open(w);
    CHECK_OK(kv_put(w->db, A, A, 0, &w->err), &w->err);
    kv_stats stats;
    do {
        usleep(1000);
        CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    } while (stats.frames < 2 || stats.durable_lsn < stats.lsn);
    usleep(20000);
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    CHECK_EQ(stats.frames, 2); /* one mark, and then rest */
    world_cut_power(w);
    uint8_t byte;
    CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, "00000001.log", 4096 + 57, &byte, 1), 0);
    byte ^= 1;
    CHECK_EQ(memory_os_poke(w->memory, WORLD_DIR, "00000001.log", 4096 + 57, &byte, 1), 0);
    CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
    CHECK_EQ(w->err.offset, 4096);
    world_destroy(w);
}

/* ---- Forking ---------------------------------------------------------------------------------------------------- */

static void in_child(kv_db *db, kv_snapshot *s, kv_value *pinned, const kv_options *options) {
    kv_error err;
    kv_value value;
    uint64_t count;
    kv_db *other;
    CHECK_STATUS(kv_get(db, A, 0, &value, &err), KV_ERR_FORKED, &err);
    CHECK_STATUS(kv_put(db, A, B, 0, &err), KV_ERR_FORKED, &err);
    CHECK_STATUS(kv_count(db, 0, &count, &err), KV_ERR_FORKED, &err);
    CHECK_STATUS(kv_snapshot_count(s, &count, &err), KV_ERR_FORKED, &err);
    CHECK_MEM(pinned->data, "a", 1);
    kv_value_release(pinned);
    kv_snapshot_destroy(s);
    CHECK_OK(kv_close(db, &err), &err);
    kv_destroy(db);
    /* The parent still has the lock, and says so; another store is no problem. */
    CHECK_STATUS(kv_open(options->read_only ? "" : NULL, NULL, &other, &err), KV_OK, &err);
    kv_destroy(other);
}

static void test_fork(void) {
    scratch dir = scratch_make();
    kv_options options = kv_options_default();
    kv_error err;
    kv_db *db, *other;
    kv_value pinned;
    kv_snapshot *s;
    CHECK_OK(kv_open(scratch_path(&dir, "db"), &options, &db, &err), &err);
    CHECK_OK(kv_put(db, A, A, 0, &err), &err);
    CHECK_OK(kv_get(db, A, KV_PIN, &pinned, &err), &err);
    CHECK_OK(kv_snapshot_create(db, &s, &err), &err);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        in_child(db, s, &pinned, &options);
        CHECK_STATUS(kv_open(scratch_path(&dir, "db"), &options, &other, &err), KV_ERR_LOCKED,
                     &err);
        CHECK_EQ(err.pid, getppid());
        _exit(0);
    }
    int wait_status;
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    CHECK(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    CHECK_OK(kv_put(db, B, B, 0, &err), &err); /* nothing has happened to us */
    CHECK_MEM(pinned.data, "a", 1);
    kv_value_release(&pinned);
    kv_snapshot_destroy(s);
    CHECK_OK(kv_verify(db, &err), &err);
    CHECK_OK(kv_close(db, &err), &err);
    kv_destroy(db);
    scratch_remove(&dir);
}

static kv_db *_Atomic closing; /* by the thread, in this moment */
static _Atomic bool stop;

static void *open_and_close(void *arg) {
    kv_options options = kv_options_default();
    kv_error err;
    while (!atomic_load(&stop)) {
        kv_db *first, *second;
        CHECK_OK(kv_open(NULL, &options, &first, &err), &err);
        CHECK_OK(kv_dup(first, false, &second, &err), &err);
        kv_db *each[] = {first, second};
        for (unsigned i = 0; i < 2; i++) {
            atomic_store(&closing, each[i]);
            CHECK_OK(kv_close(each[i], &err), &err);
            atomic_store(&closing, NULL);
        }
        kv_destroy(first);
        kv_destroy(second);
    }
    return arg;
}

/* A child has nobody who would finish closing the handle: it finds it forked, or closed. */
static void test_fork_while_another_thread_closes(void) {
    pthread_t thread;
    unsigned found = 0;
    CHECK_EQ(pthread_create(&thread, NULL, open_and_close, NULL), 0);
    fflush(stdout);
    for (unsigned i = 0; i < 1000; i++) {
        int wait_status;
        pid_t pid = fork();
        if (pid == 0) {
            alarm(20);
            kv_db *db = atomic_load(&closing);
            if (db != NULL)
                (void)!kv_close(db, NULL);
            _exit(db != NULL);
        }
        CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
        CHECK(WIFEXITED(wait_status));
        found += (unsigned)WEXITSTATUS(wait_status);
    }
    atomic_store(&stop, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    printf("# %u of 1000 forks while a handle was being closed\n", found);
    CHECK(found > 0);
}

/* Its store is on no list any more, but another thread may be letting go of another such value. */
static void test_fork_with_a_value_of_a_closed_store(void) {
    kv_error err;
    kv_db *db;
    kv_value pinned;
    CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    CHECK_OK(kv_put(db, A, A, 0, &err), &err);
    CHECK_OK(kv_get(db, A, KV_PIN, &pinned, &err), &err);
    kv_destroy(db);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        const uint8_t *data = pinned.data;
        kv_value_release(&pinned);
        CHECK_MEM(data, "a", 1); /* nothing was freed, so nothing was locked */
        CHECK_OK(kv_open(NULL, NULL, &db, &err), &err); /* the child's own are as ever */
        CHECK_OK(kv_put(db, A, A, 0, &err), &err);
        CHECK_OK(kv_get(db, A, KV_PIN, &pinned, &err), &err);
        kv_destroy(db);
        kv_value_release(&pinned);
        _exit(0);
    }
    int wait_status;
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    CHECK_EQ(wait_status, 0);
    kv_value_release(&pinned);
}

typedef struct forking {
    pid_t child; /* 0: in the child; -1: not yet */
    bool goes_on;
} forking;

/* Once; the parent goes on when the child is done. */
static bool fork_on_the_way(void *arg, uint64_t done, uint64_t total) {
    forking *f = arg;
    int wait_status;
    if (f->child != -1 || done >= total)
        return true;
    f->child = fork();
    if (f->child == 0) {
        alarm(20);
        return f->goes_on;
    }
    CHECK_EQ(waitpid(f->child, &wait_status, 0), f->child);
    CHECK(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    return true;
}

/* The child leaves alone what the parent is writing. */
static void test_fork_in_a_progress_function(void) {
    static uint8_t value[8000];
    scratch dir = scratch_make();
    kv_options options = kv_options_default();
    kv_error err;
    kv_db *db;
    uint64_t count;
    options.sync = KV_SYNC_NEVER;
    CHECK_OK(kv_open(scratch_path(&dir, "db"), &options, &db, &err), &err);
    for (unsigned i = 0; i < 2000; i++)
        CHECK_OK(kv_put(db, bytes_of(&i, sizeof i), bytes_of(value, sizeof value), 0, &err), &err);
    fflush(stdout);
    for (unsigned i = 0; i < 4; i++) {
        forking f = {.child = -1, .goes_on = i % 2};
        char name[16];
        snprintf(name, sizeof name, "backup-%u", i);
        CHECK_OK(kv_put(db, A, bytes_of(&i, sizeof i), 0, &err), &err); /* else it needs no checkpoint */
        kv_status status = i < 2 ? kv_backup(db, scratch_path(&dir, name), fork_on_the_way, &f, &err)
                                 : kv_checkpoint(db, fork_on_the_way, &f, &err);
        if (f.child == 0) {
            CHECK_STATUS(status, KV_ERR_FORKED, &err);
            kv_destroy(db);
            _exit(0);
        }
        CHECK_OK(status, &err);
        CHECK(f.child > 0);
        kv_db *copy;
        if (i >= 2)
            continue;
        CHECK_OK(kv_open(scratch_path(&dir, name), &options, &copy, &err), &err);
        CHECK_OK(kv_count(copy, 0, &count, &err), &err);
        CHECK_EQ(count, 2001);
        kv_destroy(copy);
    }
    kv_destroy(db);
    CHECK_OK(kv_open(scratch_path(&dir, "db"), &options, &db, &err), &err);
    CHECK_OK(kv_count(db, 0, &count, &err), &err);
    CHECK_EQ(count, 2001);
    kv_destroy(db);
    scratch_remove(&dir);
}

static pid_t opener;
static unsigned closes; /* by it */

/* Before the thread that closes a descriptor goes on, its number is another file's, and somebody forks. */
static int close_and_fork(void *ctx, int fd) {
    int wait_status, result = kv_os_posix.close(ctx, fd);
    if (getpid() != opener)
        return result;
    CHECK_EQ(dup2(STDOUT_FILENO, fd), fd);
    pid_t pid = fork();
    if (pid == 0)
        _exit(fcntl(fd, F_GETFD) < 0);
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    CHECK(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
    close(fd);
    closes++;
    return result;
}

static void test_child_closes_no_descriptor_of_others(void) {
    scratch dir = scratch_make();
    kv_options options = kv_options_default();
    kv_os os = kv_os_posix;
    kv_error err;
    kv_db *db;
    options.os = &os;
    CHECK_OK(kv_open(scratch_path(&dir, "db"), &options, &db, &err), &err);
    CHECK_OK(kv_put(db, A, A, 0, &err), &err);
    fflush(stdout);
    opener = getpid();
    os.close = close_and_fork;
    kv_destroy(db);
    CHECK(closes >= 3); /* the segment, LOCK, the directory */
    scratch_remove(&dir);
}

/* ---- Random ------------------------------------------------------------------------------------ */

static kv_status random_step(pair *p, check_random *random, kv_bytes key, kv_bytes value) {
    kv_value given = {0};
    const kv_bytes *old = model_get(p->m, key);
    kv_status status;
    switch (random_below(random, 12)) {
    case 0:
        status = kv_delete(p->db, key, 0, &p->err);
        CHECK_EQ(status, model_delete(p->m, key) ? KV_OK : KV_NOTFOUND);
        return status;
    case 1:
        status = kv_pop(p->db, key, 0, &given, &p->err);
        CHECK_EQ(status, old != NULL ? KV_OK : KV_NOTFOUND);
        if (status == KV_OK) {
            CHECK_EQ(given.size, old->size);
            kv_value_release(&given);
            model_delete(p->m, key);
        }
        return status;
    case 2:
        status = kv_put_absent(p->db, key, value, 0, NULL, &p->err);
        CHECK_EQ(status, old == NULL ? KV_OK : KV_UNCHANGED);
        break;
    case 3:
        status = kv_replace(p->db, key, value, old != NULL ? *old : value, 0, &p->err);
        CHECK_EQ(status, old != NULL ? KV_OK : KV_UNCHANGED);
        break;
    default:
        status = kv_put(p->db, key, value, 0, &p->err);
    }
    if (status == KV_OK)
        model_put(p->m, key, value);
    return status;
}

static void test_random_operations(void) {
    static uint8_t bytes[700];
    FOR_EACH_KIND(p) {
        check_random random = random_stream((uint64_t)p.kind);
        random_fill(&random, bytes, sizeof bytes);
        unsigned keys = 30;
        for (unsigned i = 0; i < 30000; i++) {
            if (i % 5000 == 0) {
                pair_reopen(&p);
                model_check(p.m, p.db);
                keys *= 4;
            }
            unsigned number = (unsigned)random_below(&random, keys);
            kv_bytes value = bytes_of(bytes + i % 100, random_below(&random, i % 97 ? 100 : 600));
            CHECK(random_step(&p, &random, bytes_of(&number, 1 + number % 4), value) >= 0);
        }
    }
}

/* The same on the real file system. */
static void test_real_files(void) {
    scratch dir = scratch_make();
    const char *path = scratch_path(&dir, "db");
    model *m = model_create();
    for (int sync = KV_SYNC_ALWAYS; sync <= KV_SYNC_NEVER; sync++) {
        kv_options options = kv_options_default();
        kv_error err;
        kv_db *db;
        options.sync = (kv_sync)sync;
        options.segment_size_min = WORLD_SEGMENT_SIZE;
        CHECK_OK(kv_open(path, &options, &db, &err), &err);
        model_check(m, db);
        for (unsigned i = 0; i < scenario_count; i++)
            CHECK(scenario_run(i, db, m, &err) >= 0);
        model_check(m, db);
        CHECK_OK(kv_verify(db, &err), &err);
        CHECK_OK(kv_close(db, &err), &err);
        kv_destroy(db);
    }
    model_destroy(m);
    kv_error err;
    kv_db *db;
    FILE *file = fopen(scratch_path(&dir, "file"), "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK_STATUS(kv_open(scratch_path(&dir, "file"), NULL, &db, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOTDIR);
    CHECK_CONTAINS(err.path, "file");
    CHECK_STATUS(kv_open(scratch_path(&dir, "no/such"), NULL, &db, &err), KV_ERR_IO, &err);
    scratch_remove(&dir);
}

/* The directory is the same one, whatever stands by its name now. */
static void test_reopened_where_it_is(void) {
    scratch dir = scratch_make();
    kv_db *db, *other;
    kv_error err;
    CHECK_OK(kv_open(scratch_path(&dir, "s"), NULL, &db, &err), &err);
    CHECK_OK(kv_put(db, LITERAL("mine"), LITERAL("1"), 0, &err), &err);
    CHECK_EQ(rename(scratch_path(&dir, "s"), scratch_path(&dir, "moved")), 0);
    CHECK_OK(kv_reopen(db, &err), &err);
    CHECK_OK(kv_open(scratch_path(&dir, "s"), NULL, &other, &err), &err);
    CHECK_OK(kv_put(other, LITERAL("another's"), LITERAL("2"), 0, &err), &err);
    kv_destroy(other);
    CHECK_OK(kv_reopen(db, &err), &err);
    CHECK_OK(kv_contains(db, LITERAL("mine"), 0, &err), &err);
    CHECK_EQ(kv_contains(db, LITERAL("another's"), 0, &err), KV_NOTFOUND);
    kv_destroy(db);
    scratch_remove(&dir);
}

CHECK_MAIN(TEST(test_put_get_delete), TEST(test_empty_key_and_value), TEST(test_sizes),
           TEST(test_limits), TEST(test_unknown_op), TEST(test_conditional), TEST(test_incr),
           TEST(test_pop_any), TEST(test_batch), TEST(test_large_batches), TEST(test_get_many),
           TEST(test_clear), TEST(test_snapshots), TEST(test_snapshot_get),
           TEST(test_cursor_holds_its_items), TEST(test_closed), TEST(test_destroy_closes),
           TEST(test_two_handles), TEST(test_locked), TEST(test_read_only), TEST(test_options),
           TEST(test_foreign_directory), TEST(test_nowait), TEST(test_what_is_durable_when),
           TEST(test_stats), TEST(test_interval_syncs_by_itself), TEST(test_idle_store_is_marked),
           TEST(test_fork), TEST(test_fork_while_another_thread_closes),
           TEST(test_fork_with_a_value_of_a_closed_store), TEST(test_fork_in_a_progress_function),
           TEST(test_child_closes_no_descriptor_of_others),
           TEST(test_random_operations), TEST(test_real_files),
           TEST(test_reopened_where_it_is))
