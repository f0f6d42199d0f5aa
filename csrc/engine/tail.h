/* tail.h - what the log says of shards that are still in the checkpoint only.
 *
 * Layer: engine (above table.h, format.h).  Knows records and shards; nothing of files.
 *
 * Recovery reads the tail of the log: all that was committed behind the checkpoint.  To load the shard
 * of each record there and then would load the whole checkpoint when the tail is all over the keys.  So
 * the changes of a shard that is not in memory wait here, in their order, until it is loaded: the tail is
 * the table's loader, which first asks the checkpoint's for the block and then applies what waits.
 *
 * Until then the shard's counts are those of the checkpoint.  kv_store_catch_up loads the shards
 * concerned; whoever needs the right counts calls it before.
 *
 * Filled by recovery alone, at most by one thread for each side of the hashes (apply.h); from then on
 * constant, so that shards are loaded without a lock; and dropped when all are.
 */
#ifndef KV_ENGINE_TAIL_H
#define KV_ENGINE_TAIL_H

#include "format.h"
#include "table.h"

/* Two threads recover a log, each the hashes of one side (apply.h): 0, five sixteenths of them, is that of the thread
 * that also reads and checks; 1 is its helper's. */
static inline unsigned kv_hash_side(uint64_t hash) {
    return hash >> 60 >= 5;
}

typedef struct kv_tail kv_tail;

/* An empty one, between the table's shards, none of which is loaded, and their loader.  It must outlive
 * their loading.  Owned. */
kv_status kv_tail_create(kv_table *table, kv_tail **tail, kv_error *err) KV_MUST_CHECK;
/* NULL is allowed.  What still waits is left to the end of the table's pool. */
void kv_tail_destroy(kv_tail *tail);

/* There is no more room for changes of the shard: it must be loaded, and changed itself. */
bool kv_tail_is_full(const kv_tail *tail, const kv_shard *shard, uint64_t hash);
/* Copies a record of the shard, which is not loaded. */
kv_status kv_tail_add(kv_tail *tail, kv_table *table, const kv_shard *shard, uint64_t hash,
                      const kv_record *record, kv_error *err) KV_MUST_CHECK;
/* Something waits for the shard, which is locked and not loaded. */
bool kv_tail_concerns(const kv_tail *tail, const kv_shard *shard);
bool kv_tail_is_empty(const kv_tail *tail);
/* No key that waits expires before; UINT64_MAX: none expires. */
uint64_t kv_tail_next_expiry(const kv_tail *tail);

/* Frees all changes.  No shard is being loaded, nor will be one that they concern. */
void kv_tail_drop(kv_tail *tail, kv_table *table);

/* Applies a delete, or another expiry, to a shard that is loaded and the caller's alone. */
kv_status kv_tail_change(kv_table *table, kv_shard *shard, uint64_t hash, const kv_record *record,
                         kv_error *err) KV_MUST_CHECK;

#endif
