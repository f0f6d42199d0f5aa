/* scenario.c - see scenario.h. */
#include "scenario.h"

#include <stdio.h>
#include <string.h>

#include "check.h"

#define VALUE_MAX 80000u
#define BATCH_SIZE 9u
#define KEY_SIZE_MAX 16u
#define SWEPT_KEY 44u

const step scenario_steps[] = {
    {STEP_PUT, 1, 10, 0},       {STEP_PUT, 2, 0, 0},         {STEP_PUT, 1, 900, 0},
    {STEP_INCR, 100, 0, 0},     {STEP_INCR, 100, 0, KV_SYNC}, {STEP_DELETE, 2, 0, 0},
    {STEP_DELETE, 77, 0, 0},    {STEP_BATCH, 10, 100, 0},    {STEP_PUT, 3, 1400, 0},
    {STEP_PUT_EXPIRING, 40, 30, 0}, {STEP_PUT_EXPIRING, 41, 30, 0},
    {STEP_REPLACE, 3, 40, 0},   {STEP_CHECKPOINT, 0, 0, 0},  {STEP_CHECKPOINT, 0, 0, 0},
    {STEP_REPLACE, 78, 40, 0},  {STEP_SYNC, 0, 0, 0},        {STEP_EXPIRE, 40, 1, 0},
    {STEP_ABSENT, 3, 20, 0},    {STEP_ABSENT, 4, 20, 0},     {STEP_BATCH, 14, 250, KV_SYNC},
    {STEP_POP, 4, 0, 0},        {STEP_POP, 4, 0, 0},         {STEP_PUT, 5, 3000, 0},
    {STEP_CLEAR, 0, 0, 0},      {STEP_CLEAR, 0, 0, 0},       {STEP_PUT, 6, 700, 0},
    {STEP_BATCH, 10, 300, 0},   {STEP_INCR, 100, 0, 0},      {STEP_PUT, 7, 9000, 0},
    {STEP_DELETE, 11, 0, 0},    {STEP_POP_ANY, 0, 0, 0},     {STEP_PUT, 8, 60, 0},
    {STEP_BATCH, 18, 500, 0},   {STEP_SYNC, 0, 0, 0},        {STEP_PUT, 9, 500, 0},
    {STEP_PUT, 30, 66000, 0},   {STEP_PUT, 31, 67000, 0},    {STEP_DELETE, 30, 0, 0},
    {STEP_PUT_EXPIRING, 42, 30, 0}, {STEP_PUT_EXPIRING, SWEPT_KEY, 30, 0},
    {STEP_EXPIRE_MANY, 42, 20, 0}, {STEP_DELETE, 31, 0, 0},  {STEP_PUT, 5, 7000, 0},
    {STEP_PUT, 6, 7000, 0},     {STEP_PUT, 7, 7000, 0},
    /* Full segments behind it: they go, and one is used again. */
    {STEP_CHECKPOINT, 0, 3, 0}, {STEP_PUT, 8, 70, 0},        {STEP_EXPIRE, 43, 0, 0},
    {STEP_DELETE, 9, 0, 0},     {STEP_PUT, 5, 7000, 0},      {STEP_PUT, 6, 20, 0},
    {STEP_PUT, 7, 7000, 0},     {STEP_BATCH, 10, 60, 0},     {STEP_SWEEP, SWEPT_KEY, 0, 0},
    {STEP_CHECKPOINT, 0, 2, 0}, {STEP_BATCH, 14, 30, 0},     {STEP_CLEAR, 0, 0, 0},
    {STEP_PUT, 9, 500, 0},      {STEP_CHECKPOINT, 0, 0, 0},  {STEP_PUT, 2, 5, 0},
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
                                        "pop",     "pop any", "batch", "clear",      "sync",
                                        "put expiring", "expire", "expire many", "sweep",
                                        "checkpoint"};
    static _Thread_local char text[40];
    snprintf(text, sizeof text, "step %u (%s)", number, kinds[scenario_step(number)->kind]);
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
    const step *s = scenario_step(number);
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
        kv_write(db, b.ops, BATCH_SIZE, scenario_step(number)->flags, &deleted, err);
    if (status < 0)
        return status;
    CHECK_EQ(status, KV_OK);
    CHECK_EQ(deleted, b.deleted);
    scenario_apply(number, m); /* not `b`: a watch on calls may have run other steps meanwhile */
    return status;
}

/* ---- Expiries ------------------------------------------------------------------------------------ */

#define SWEEP_MS (KV_EXPIRY_MAX / 2)
#define ROUNDS_MAX 1000u

uint64_t scenario_sweep_ms(unsigned number) {
    CHECK(number / scenario_count < ROUNDS_MAX);
    return SWEEP_MS + number / scenario_count;
}

static uint64_t expiry_of(unsigned number, unsigned key) {
    return key == SWEPT_KEY ? scenario_sweep_ms(number) : SWEEP_MS + ROUNDS_MAX + number;
}

enum { EXPIRE_MANY = 6 };

/* Of the keys from the step's on: another expiry, one that is taken away, a put with one, a put of one that is
 * past (a delete), one that is past, and one for a key that is not there. */
static void expire_many_make(kv_op ops[EXPIRE_MANY], char keys[EXPIRE_MANY][KEY_SIZE_MAX],
                             unsigned number) {
    const step *s = scenario_step(number);
    kv_bytes value = value_of(number, 0, s->size);
    ops[0] = (kv_op){KV_OP_EXPIRE, key_of(s->key, keys[0]), {0}, expiry_of(number, s->key)};
    ops[1] = (kv_op){KV_OP_EXPIRE, key_of(40, keys[1]), {0}, 0};
    ops[2] = (kv_op){KV_OP_PUT, key_of(s->key + 1, keys[2]), value, expiry_of(number, s->key + 1)};
    ops[3] = (kv_op){KV_OP_PUT, key_of(41, keys[3]), value, 1};
    ops[4] = (kv_op){KV_OP_EXPIRE, key_of(100, keys[4]), {0}, 1};
    ops[5] = (kv_op){KV_OP_EXPIRE, key_of(79, keys[5]), {0}, expiry_of(number, 79)};
}

static void expire_many_apply(unsigned number, model *m) {
    kv_op ops[EXPIRE_MANY];
    char keys[EXPIRE_MANY][KEY_SIZE_MAX];
    expire_many_make(ops, keys, number);
    for (unsigned i = 0; i < EXPIRE_MANY; i++) {
        if (ops[i].expiry == 1)
            model_delete(m, ops[i].key);
        else if (ops[i].kind == KV_OP_PUT)
            model_put_expiring(m, ops[i].key, ops[i].value, ops[i].expiry);
        else
            model_expire(m, ops[i].key, ops[i].expiry);
    }
}

static kv_status expire_many_run(unsigned number, kv_db *db, kv_error *err) {
    kv_op ops[EXPIRE_MANY];
    char keys[EXPIRE_MANY][KEY_SIZE_MAX];
    uint64_t deleted = UINT64_MAX;
    expire_many_make(ops, keys, number);
    kv_status status = kv_write(db, ops, EXPIRE_MANY, scenario_step(number)->flags, &deleted, err);
    if (status == KV_OK)
        CHECK_EQ(deleted, 0); /* only what was asked to be deleted counts */
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
    const step *s = scenario_step(number);
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
    case STEP_CHECKPOINT:
        break;
    case STEP_PUT_EXPIRING:
        model_put_expiring(m, key, value, expiry_of(number, s->key));
        break;
    case STEP_EXPIRE:
        model_expire(m, key, s->size != 0 ? expiry_of(number, s->key) : 0);
        break;
    case STEP_EXPIRE_MANY:
        expire_many_apply(number, m);
        break;
    case STEP_SWEEP:
        model_delete(m, key);
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
    const step *s = scenario_step(number);
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
    case STEP_PUT_EXPIRING:
        status = kv_put_expiring(db, key, value, expiry_of(number, s->key), s->flags, err);
        break;
    case STEP_EXPIRE:
        status = kv_expire(db, key, s->size != 0 ? expiry_of(number, s->key) : 0, s->flags, err);
        wanted = there != NULL ? KV_OK : KV_NOTFOUND;
        break;
    case STEP_EXPIRE_MANY:
        status = expire_many_run(number, db, err);
        break;
    case STEP_SWEEP:
        status = kv_delete(db, key, s->flags, err);
        wanted = there != NULL ? KV_OK : KV_NOTFOUND;
        break;
    case STEP_CHECKPOINT:
        status = kv_checkpoint(db, NULL, NULL, err);
        break;
    }
    if (status < 0)
        return status;
    CHECK_EQ(status, wanted);
    scenario_apply(number, m);
    return status;
}
