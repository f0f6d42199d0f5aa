/* model.c - see model.h.  A hash table with chains; the digest is a sum over its items. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

#include "base/siphash.h"
#include "check.h"

#define CHAINS 4096u

typedef struct item {
    struct item *next;
    kv_bytes key, value; /* in `bytes` */
    uint64_t expiry;
    uint8_t bytes[];
} item;

struct model {
    item *chains[CHAINS];
    uint64_t count, data_bytes, expiring, digest;
};

static uint64_t hash_of(kv_bytes bytes, uint64_t k) {
    return kv_siphash13((kv_siphash_key){k, 2}, bytes.data, bytes.size);
}

static bool equal(kv_bytes a, kv_bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static uint64_t item_digest(kv_bytes key, kv_bytes value, uint64_t expiry) {
    uint64_t digest = hash_of(key, 1) * (hash_of(value, 3) | 1);
    return expiry != 0 ? digest * (hash_of((kv_bytes){&expiry, sizeof expiry}, 4) | 1) : digest;
}

model *model_create(void) {
    model *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    return m;
}

void model_clear(model *m) {
    for (size_t i = 0; i < CHAINS; i++)
        for (item *at = m->chains[i], *next; at != NULL; at = next) {
            next = at->next;
            free(at);
        }
    memset(m, 0, sizeof *m);
}

void model_destroy(model *m) {
    if (m == NULL)
        return;
    model_clear(m);
    free(m);
}

model *model_clone(const model *m) {
    model *copy = model_create();
    for (size_t i = 0; i < CHAINS; i++)
        for (const item *at = m->chains[i]; at != NULL; at = at->next)
            model_put_expiring(copy, at->key, at->value, at->expiry);
    return copy;
}

static item **find(const model *m, kv_bytes key) {
    item **at = (item **)&m->chains[hash_of(key, 1) % CHAINS];
    while (*at != NULL && !equal((*at)->key, key))
        at = &(*at)->next;
    return at;
}

void model_put(model *m, kv_bytes key, kv_bytes value) {
    model_put_expiring(m, key, value, 0);
}

void model_put_expiring(model *m, kv_bytes key, kv_bytes value, uint64_t expiry) {
    item *new = malloc(sizeof *new + key.size + value.size);
    CHECK(new != NULL);
    new->key = (kv_bytes){new->bytes, key.size};
    new->value = (kv_bytes){new->bytes + key.size, value.size};
    if (key.size > 0)
        memcpy(new->bytes, key.data, key.size);
    if (value.size > 0)
        memcpy(new->bytes + key.size, value.data, value.size);
    model_delete(m, key); /* after the copying: the value may be the old one's */
    item **at = find(m, new->key);
    new->next = NULL;
    new->expiry = expiry;
    *at = new;
    m->count++;
    m->data_bytes += key.size + value.size;
    m->expiring += expiry != 0;
    m->digest += item_digest(new->key, new->value, expiry);
}

bool model_expire(model *m, kv_bytes key, uint64_t expiry) {
    const kv_bytes *value = model_get(m, key);
    if (value != NULL)
        model_put_expiring(m, key, *value, expiry);
    return value != NULL;
}

uint64_t model_expiry(const model *m, kv_bytes key) {
    item *at = *find(m, key);
    return at != NULL ? at->expiry : 0;
}

uint64_t model_sweep(model *m, uint64_t now_ms) {
    uint64_t swept = 0;
    for (size_t i = 0; i < CHAINS; i++)
        for (item *at = m->chains[i], *next; at != NULL; at = next) {
            next = at->next;
            if (at->expiry == 0 || at->expiry > now_ms)
                continue;
            CHECK(model_delete(m, at->key));
            swept++;
        }
    return swept;
}

bool model_delete(model *m, kv_bytes key) {
    item **at = find(m, key), *old = *at;
    if (old == NULL)
        return false;
    *at = old->next;
    m->count--;
    m->data_bytes -= old->key.size + old->value.size;
    m->expiring -= old->expiry != 0;
    m->digest -= item_digest(old->key, old->value, old->expiry);
    free(old);
    return true;
}

const kv_bytes *model_get(const model *m, kv_bytes key) {
    item *at = *find(m, key);
    return at != NULL ? &at->value : NULL;
}

uint64_t model_count(const model *m) {
    return m->count;
}

uint64_t model_data_bytes(const model *m) {
    return m->data_bytes;
}

uint64_t model_charge(const model *m) {
    return m->data_bytes + m->count * KV_ITEM_CHARGE + m->expiring * sizeof(uint64_t);
}

uint64_t model_digest(const model *m) {
    return m->digest;
}

void model_visit(const model *m, void (*visit)(void *arg, kv_bytes key, kv_bytes value),
                 void *arg) {
    for (size_t i = 0; i < CHAINS; i++)
        for (const item *at = m->chains[i]; at != NULL; at = at->next)
            visit(arg, at->key, at->value);
}

/* ---- The store -------------------------------------------------------------------------------- */

uint64_t snapshot_digest(kv_snapshot *snapshot, uint64_t *count) {
    kv_error err;
    kv_cursor *cursor;
    const kv_item *items;
    size_t got;
    uint64_t digest = 0;
    kv_status status;
    *count = 0;
    CHECK_OK(kv_cursor_create(snapshot, &cursor, &err), &err);
    while ((status = kv_cursor_next(cursor, &items, &got, &err)) == KV_OK) {
        CHECK(got > 0);
        *count += got;
        for (size_t i = 0; i < got; i++)
            digest += item_digest(items[i].key, items[i].value, items[i].expiry);
    }
    CHECK_STATUS(status, KV_NOTFOUND, &err);
    /* It stays at its end. */
    CHECK_STATUS(kv_cursor_next(cursor, &items, &got, &err), KV_NOTFOUND, &err);
    kv_cursor_destroy(cursor);
    return digest;
}

uint64_t store_digest(kv_db *db) {
    kv_error err;
    kv_snapshot *snapshot;
    uint64_t count;
    CHECK_OK(kv_snapshot_create(db, &snapshot, &err), &err);
    uint64_t digest = snapshot_digest(snapshot, &count);
    kv_snapshot_destroy(snapshot);
    return digest;
}

typedef struct gathered {
    kv_bytes *keys, *values;
    size_t count;
} gathered;

static void gather(void *arg, kv_bytes key, kv_bytes value) {
    gathered *g = arg;
    g->keys[g->count] = key;
    g->values[g->count++] = value;
}

static void check_value(kv_bytes key, const uint8_t *data, size_t size, kv_bytes wanted) {
    if (size != wanted.size || (size > 0 && memcmp(data, wanted.data, size) != 0))
        FAIL("the value of %.*s (%zu bytes) has %zu bytes, not the %zu that it should have",
             (int)(key.size < 40 ? key.size : 40), (const char *)key.data, key.size, size,
             wanted.size);
}

static void check_key(kv_db *db, kv_snapshot *snapshot, kv_bytes key, kv_bytes wanted,
                      uint64_t wanted_expiry) {
    kv_error err;
    kv_value value;
    uint64_t expiry;
    CHECK_OK(kv_get_expiry(db, key, 0, &expiry, &err), &err);
    CHECK_EQ(expiry, wanted_expiry);
    CHECK_OK(kv_get(db, key, 0, &value, &err), &err);
    check_value(key, value.data, value.size, wanted);
    kv_value_release(&value);
    CHECK_OK(kv_get(db, key, KV_PIN, &value, &err), &err);
    check_value(key, value.data, value.size, wanted);
    CHECK(value.pin != NULL);
    kv_value_release(&value);
    CHECK_OK(kv_snapshot_get(snapshot, key, 0, &value, &err), &err);
    check_value(key, value.data, value.size, wanted);
    kv_value_release(&value);
    CHECK_OK(kv_contains(db, key, 0, &err), &err);
}

void model_check(const model *m, kv_db *db) {
    kv_error err;
    size_t count = m->count;
    gathered g = {calloc(count + 1, sizeof(kv_bytes)), calloc(count + 1, sizeof(kv_bytes)), 0};
    CHECK(g.keys != NULL && g.values != NULL);
    model_visit(m, gather, &g);

    kv_snapshot *snapshot;
    uint64_t got;
    CHECK_OK(kv_count(db, 0, &got, &err), &err);
    CHECK_EQ(got, count);
    CHECK_OK(kv_snapshot_create(db, &snapshot, &err), &err);
    CHECK_EQ(snapshot_digest(snapshot, &got), m->digest);
    CHECK_EQ(got, count);
    CHECK_OK(kv_snapshot_count(snapshot, &got, &err), &err);
    CHECK_EQ(got, count);
    for (size_t i = 0; i < count; i++)
        check_key(db, snapshot, g.keys[i], g.values[i],
                  model_expiry(m, g.keys[i]));
    kv_snapshot_destroy(snapshot);

    kv_values values;
    CHECK_OK(kv_get_many(db, g.keys, count, &values, &err), &err);
    CHECK_EQ(values.count, count);
    for (size_t i = 0; i < count; i++) {
        CHECK(values.items[i].data != NULL);
        check_value(g.keys[i], values.items[i].data, values.items[i].size, g.values[i]);
    }
    kv_values_release(&values);
    free(g.keys);
    free(g.values);
}
