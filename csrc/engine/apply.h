/* apply.h - the records of a log into a table, by two threads.
 *
 * Layer: engine (above tail.h).  The caller's thread reads, checks and hashes; it applies the
 * records of one side of the hashes itself and leaves those of the other to a helper (kv_hash_side).  A key's
 * records all go one way, so their order is kept.  Each thread has shards, and what the pool has in hand for it
 * (pool.h), for itself, so neither takes a lock but for many blocks at once, or for a split's place in the directory.
 *
 * Records are applied in windows: the lines that a window needs are fetched first, all at once.
 */
#ifndef KV_ENGINE_APPLY_H
#define KV_ENGINE_APPLY_H

#include "tail.h"

typedef struct kv_applier kv_applier;

/* What concerns shards that are not loaded goes to the tail; NULL: they are loaded.  With `helped` false, or when no
 * thread can be had, the caller's thread does it all. */
kv_status kv_applier_create(kv_table *table, kv_tail *tail, bool helped, kv_applier **applier,
                            kv_error *err) KV_MUST_CHECK;
void kv_applier_destroy(kv_applier *applier); /* NULL is allowed; what was not applied is dropped */

/* Borrows the record's bytes until kv_applier_passed says so. */
kv_status kv_applier_add(kv_applier *applier, const kv_record *record, kv_error *err)
    KV_MUST_CHECK;

/* A moment in the stream of records; they are all passed when everything before it has been applied. */
uint64_t kv_applier_mark(kv_applier *applier);
kv_status kv_applier_wait(kv_applier *applier, uint64_t mark, kv_error *err) KV_MUST_CHECK;

/* Everything is applied. */
kv_status kv_applier_finish(kv_applier *applier, kv_error *err) KV_MUST_CHECK;

#endif
