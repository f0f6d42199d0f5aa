/* scenario.c - see scenario.h. */
#include "scenario.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

#define VALUE_MAX 80000u
#define BATCH_SIZE 9u
#define KEY_SIZE_MAX 16u

const step scenario_steps[] = {
    {STEP_PUT, 1, 10, 0},       {STEP_PUT, 2, 0, 0},         {STEP_PUT, 1, 900, 0},
    {STEP_INCR, 100, 0, 0},     {STEP_INCR, 100, 0, KV_SYNC}, {STEP_DELETE, 2, 0, 0},
    {STEP_DELETE, 77, 0, 0},    {STEP_BATCH, 10, 100, 0},    {STEP_PUT, 3, 1400, 0},
    {STEP_REPLACE, 3, 40, 0},   {STEP_REPLACE, 78, 40, 0},   {STEP_SYNC, 0, 0, 0},
    {STEP_ABSENT, 3, 20, 0},    {STEP_ABSENT, 4, 20, 0},     {STEP_BATCH, 14, 250, KV_SYNC},
    {STEP_POP, 4, 0, 0},        {STEP_POP, 4, 0, 0},         {STEP_PUT, 5, 3000, 0},
    {STEP_CLEAR, 0, 0, 0},      {STEP_CLEAR, 0, 0, 0},       {STEP_PUT, 6, 700, 0},
    {STEP_BATCH, 10, 300, 0},   {STEP_INCR, 100, 0, 0},      {STEP_PUT, 7, 9000, 0},
    {STEP_DELETE, 11, 0, 0},    {STEP_POP_ANY, 0, 0, 0},     {STEP_PUT, 8, 60, 0},
    {STEP_BATCH, 18, 500, 0},   {STEP_SYNC, 0, 0, 0},        {STEP_PUT, 9, 500, 0},
    {STEP_PUT, 30, 66000, 0},   {STEP_PUT, 31, 67000, 0},    {STEP_DELETE, 30, 0, 0},
};
const unsigned scenario_count = sizeof scenario_steps / sizeof scenario_steps[0];

static kv_bytes key_of(unsigned key, char text[KEY_SIZE_MAX]) {
    return (kv_bytes){text, (size_t)snprintf(text, KEY_SIZE_MAX, "key-%u", key)};
}

/* Bytes that no other step writes.  In one of two buffers. */
static kv_bytes value_of(unsigned number, unsigned part, size_t size) {
    static _Thread_local char buffers[2][VALUE_MAX + 32];
    char *text = buffers[part % 2];
    CHECK(size <= VALUE_MAX);
    for (size_t at = 0; at < size && at < 4096; at += 16)
        snprintf(text + at, 17, "%4u/%3u/%6zu|", number, part, at);
    for (size_t at = 4096; at < size; at += 4096)
        memcpy(text + at, text, size - at < 4096 ? size - at : 4096);
    return (kv_bytes){text, size};
}

const char *scenario_name(unsigned number) {
    static const char *const kinds[] = {"put",     "delete",  "incr",  "put absent", "replace",
                                        "pop",     "pop any", "batch", "clear",      "sync"};
    static _Thread_local char text[40];
    snprintf(text, sizeof text, "step %u (%s)", number, kinds[scenario_steps[number].kind]);
    return text;
}

/* ---- Batches ------------------------------------------------------------------------------------- */

typedef struct batch_ops {
    kv_op ops[BATCH_SIZE];
    char keys[BATCH_SIZE][KEY_SIZE_MAX];
    uint64_t deleted; /* that the model says */
} batch_ops;

/* Puts of six keys, one of them twice (the last counts), and deletes of the two before them. */
static void batch_make(batch_ops *b, unsigned number, const model *m) {
    const step *s = &scenario_steps[number];
    b->deleted = 0;
    for (unsigned i = 0; i < BATCH_SIZE; i++) {
        bool put = i < 7;
        unsigned key = put ? s->key + i % 6 : s->key - 1 - (i - 7);
        b->ops[i] = (kv_op){.kind = put ? KV_OP_PUT : KV_OP_DELETE,
                            .key = key_of(key, b->keys[i])};
        if (put)
            b->ops[i].value = value_of(number, i / 6, s->size);
        else
            b->deleted += model_get(m, b->ops[i].key) != NULL;
    }
}

static void batch_apply(const batch_ops *b, model *m) {
    for (unsigned i = 0; i < BATCH_SIZE; i++) {
        if (b->ops[i].kind == KV_OP_PUT)
            model_put(m, b->ops[i].key, b->ops[i].value);
        else
            model_delete(m, b->ops[i].key);
    }
}

static kv_status batch_run(unsigned number, kv_db *db, model *m, kv_error *err) {
    batch_ops b;
    uint64_t deleted = UINT64_MAX;
    batch_make(&b, number, m);
    kv_status status =
        kv_write(db, b.ops, BATCH_SIZE, scenario_steps[number].flags, &deleted, err);
    if (status < 0)
        return status;
    CHECK_EQ(status, KV_OK);
    CHECK_EQ(deleted, b.deleted);
    batch_apply(&b, m);
    return status;
}

/* ---- Steps ----------------------------------------------------------------------------------------- */

static int64_t number_in(const kv_bytes *value) {
    char text[32] = "0";
    if (value != NULL)
        snprintf(text, sizeof text, "%.*s", (int)value->size, (const char *)value->data);
    return strtoll(text, NULL, 10);
}

static void incr_apply(const step *s, model *m) {
    char key[KEY_SIZE_MAX], text[32];
    kv_bytes k = key_of(s->key, key);
    int size = snprintf(text, sizeof text, "%lld", (long long)number_in(model_get(m, k)) + 7);
    model_put(m, k, bytes_of(text, (size_t)size));
}

void scenario_apply(unsigned number, model *m) {
    const step *s = &scenario_steps[number];
    char text[KEY_SIZE_MAX];
    kv_bytes key = key_of(s->key, text), value = value_of(number, 0, s->size);
    bool there = model_get(m, key) != NULL;
    batch_ops b;
    switch (s->kind) {
    case STEP_PUT:
        model_put(m, key, value);
        break;
    case STEP_ABSENT:
        if (!there)
            model_put(m, key, value);
        break;
    case STEP_REPLACE:
        if (there)
            model_put(m, key, value);
        break;
    case STEP_DELETE:
    case STEP_POP:
        model_delete(m, key);
        break;
    case STEP_INCR:
        incr_apply(s, m);
        break;
    case STEP_BATCH:
        batch_make(&b, number, m);
        batch_apply(&b, m);
        break;
    case STEP_CLEAR:
        model_clear(m);
        break;
    case STEP_POP_ANY:
        FAIL("which key a pop takes is not known before");
    case STEP_SYNC:
        break;
    }
}

static void check_equal(const void *data, size_t size, const kv_bytes *wanted) {
    CHECK(wanted != NULL);
    CHECK_EQ(size, wanted->size);
    CHECK_MEM(data, wanted->data, size);
}

/* What a step that gives a value back gave. */
static void check_given(kv_status status, kv_value *value, kv_status when, const model *m,
                        kv_bytes key) {
    if (status != when)
        return;
    check_equal(value->data, value->size, model_get(m, key));
    kv_value_release(value);
}

static kv_status pop_any_run(kv_db *db, model *m, kv_error *err) {
    kv_item item;
    kv_status status = kv_pop_any(db, 0, &item, err);
    if (status < 0)
        return status;
    CHECK_EQ(status, model_count(m) > 0 ? KV_OK : KV_NOTFOUND);
    if (status == KV_OK) {
        check_equal(item.value.data, item.value.size, model_get(m, item.key));
        model_delete(m, item.key);
        kv_item_release(&item);
    }
    return status;
}

kv_status scenario_run(unsigned number, kv_db *db, model *m, kv_error *err) {
    const step *s = &scenario_steps[number];
    char text[KEY_SIZE_MAX];
    kv_bytes key = key_of(s->key, text), value = value_of(number, 0, s->size);
    const kv_bytes *there = model_get(m, key);
    kv_status status = KV_OK, wanted = KV_OK;
    kv_value given = {0};
    int64_t result = 0;
    switch (s->kind) {
    case STEP_PUT:
        status = kv_put(db, key, value, s->flags, err);
        break;
    case STEP_DELETE:
        status = kv_delete(db, key, s->flags, err);
        wanted = there != NULL ? KV_OK : KV_NOTFOUND;
        break;
    case STEP_INCR:
        status = kv_incr(db, key, 7, s->flags, &result, err);
        if (status == KV_OK)
            CHECK_EQ(result, number_in(there) + 7);
        break;
    case STEP_ABSENT:
        status = kv_put_absent(db, key, value, s->flags, &given, err);
        wanted = there == NULL ? KV_OK : KV_UNCHANGED;
        check_given(status, &given, KV_UNCHANGED, m, key);
        break;
    case STEP_REPLACE:
        status = kv_replace(db, key, value, there != NULL ? *there : value, s->flags, err);
        wanted = there != NULL ? KV_OK : KV_UNCHANGED;
        break;
    case STEP_POP:
        status = kv_pop(db, key, s->flags, &given, err);
        wanted = there != NULL ? KV_OK : KV_NOTFOUND;
        check_given(status, &given, KV_OK, m, key);
        break;
    case STEP_POP_ANY:
        return pop_any_run(db, m, err);
    case STEP_BATCH:
        return batch_run(number, db, m, err);
    case STEP_CLEAR:
        status = kv_clear(db, s->flags, err);
        break;
    case STEP_SYNC:
        status = kv_make_durable(db, err);
        break;
    }
    if (status < 0)
        return status;
    CHECK_EQ(status, wanted);
    scenario_apply(number, m);
    return status;
}
