/* model.h - a plain map that says what a store must hold, and the comparison of the two. */
#ifndef MODEL_H
#define MODEL_H

#include "kv.h"

/* A string literal, a string, or anything else as kv_bytes. */
#define LITERAL(text) ((kv_bytes){text, sizeof(text) - 1})

static inline kv_bytes bytes_of(const void *data, size_t size) {
    return (kv_bytes){data, size};
}

typedef struct model model;

model *model_create(void); /* empty.  Owned: model_destroy */
model *model_clone(const model *m);
void model_destroy(model *m);

/* Keys and values are copied. */
void model_put(model *m, kv_bytes key, kv_bytes value);
void model_put_expiring(model *m, kv_bytes key, kv_bytes value, uint64_t expiry);
/* Whether the key was there.  A model has no clock: what has expired is the caller's to delete. */
bool model_expire(model *m, kv_bytes key, uint64_t expiry);
uint64_t model_expiry(const model *m, kv_bytes key); /* 0: never, or there is no such key */
/* Deletes what has expired by then, and says how many keys. */
uint64_t model_sweep(model *m, uint64_t now_ms);
bool model_delete(model *m, kv_bytes key); /* whether it was there */
void model_clear(model *m);

/* Borrowed until the key changes; NULL: there is no such key. */
const kv_bytes *model_get(const model *m, kv_bytes key);
uint64_t model_count(const model *m);
uint64_t model_data_bytes(const model *m);
uint64_t model_charge(const model *m); /* as kv_stats.memory_charged */

/* A number that is the same for the same contents (and hardly ever for others). */
uint64_t model_digest(const model *m);

/* Calls `visit` with each key and value, in no particular order. */
void model_visit(const model *m, void (*visit)(void *arg, kv_bytes key, kv_bytes value),
                 void *arg);

/* The store holds this and nothing else, by every way of reading; nothing is being written.
 * A difference ends the test. */
void model_check(const model *m, kv_db *db);

/* The digest of what a store, or a snapshot of it, holds. */
uint64_t store_digest(kv_db *db);
uint64_t snapshot_digest(kv_snapshot *snapshot, uint64_t *count);

#endif
