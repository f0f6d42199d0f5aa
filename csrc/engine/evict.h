/* evict.h - which keys go when the store is full: S3-FIFO, a shard at a time, without lists.
 *
 * Layer: engine (above table.h).  Knows entries and slots; nothing of logs, LSNs or budgets: the caller
 * says how many bytes a shard has to give, and removes what is chosen.  Everything here happens under
 * the shard's lock, and only in stores with KV_FULL_EVICT.
 *
 * The policy is that of Yang et al., "FIFO Queues are All You Need for Cache Eviction" (2023): a key that
 * comes is on probation, and goes first unless it is used before its turn; the others go round a clock, each use
 * (up to three) being worth one round; a key that comes back soon after it went skips the probation.  Most
 * keys of a scan, or of the long tail of any load, so pass through without pushing out what is used.
 *
 * State
 *  - kv_entry.use: uses since the hand last passed, 0 .. KV_USE_MAX.  A store only when it changes: a
 *    hot key's line stays clean.
 *  - the probation: a ring of the last KV_EVICT_QUEUE new keys, as the 16 bucket bits of their hashes.
 *    Hints: whoever is deleted, or moves when the shard grows or splits, is just not found any more.
 *  - the hand of the clock: a slot of the shard's array, whatever array that is by now.
 *  - the memory of who went: a free slot has no address, but may keep the bucket bits of the evicted
 *    key that stood there, until another key comes in.  It costs nothing, and reaches back about as
 *    far as a shard has free slots (64 to 150).
 *
 * In kv_shard (second line; all 0 at first):
 *    uint32_t hand;
 *    uint8_t queue_first, queue_count;
 *    uint16_t queue[KV_EVICT_QUEUE];
 *
 * The order of calls when a new key comes into a full store, each under the lock of the shard:
 *    kv_evict_choose; for each victim kv_shard_remove, then kv_evict_note_evicted;
 *    kv_shard_reserve (after that, so that no shard splits for keys that go); kv_evict_note_new;
 *    kv_shard_insert.
 * Who needs much room asks many shards for a little each: one that has to give most of what it has gives keys
 * that are in use, while its neighbours keep some that are not.
 *
 * Why this one: benchmarks/eviction.py measures it against others (csrc/README.md has the table).
 */
#ifndef KV_ENGINE_EVICT_H
#define KV_ENGINE_EVICT_H

#include "table.h"

#define KV_USE_MAX 3u

/* The key of the entry was read. */
static inline void kv_evict_note_use(kv_entry *e) {
    uint8_t use = atomic_load_explicit(&e->use, memory_order_relaxed);
    if (use < KV_USE_MAX)
        atomic_store_explicit(&e->use, use + 1, memory_order_relaxed);
}

/* The entry is going to replace `old`, the same key's: that is a use. */
static inline void kv_evict_note_replace(kv_entry *e, const kv_entry *old) {
    atomic_store_explicit(&e->use, atomic_load_explicit(&old->use, memory_order_relaxed),
                          memory_order_relaxed);
    kv_evict_note_use(e);
}

/* A key that is absent is going to be inserted: to be called before, since the insert may take the slot
 * that remembers it. */
void kv_evict_note_new(kv_shard *shard, uint64_t hash);

/* The entry that stood there was removed because it had been chosen: its slot remembers it. */
void kv_evict_note_evicted(kv_place place, uint64_t hash);

/* Chooses entries of the locked, loaded shard until their charges (kv_entry_charge) sum up to `bytes`,
 * there is no other, or there are `capacity` of them; answers how many.  They are distinct, and `spare` (may be
 * NULL) is not among them.  Removes nothing: the places stay right while only the victims are removed. */
size_t kv_evict_choose(kv_shard *shard, uint64_t bytes, const kv_entry *spare,
                       kv_place *places, kv_entry **victims, size_t capacity);

#endif
