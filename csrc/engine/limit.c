/* limit.c - the bound on memory: max_memory, and what happens there.
 *
 * What counts is a sum that can be told beforehand: keys, values, KV_ITEM_CHARGE an item (at the most what an item
 * takes beyond them: measured) and 8 bytes for an expiry.  What changes replaced, kept for commits in flight and
 * for snapshots, comes on top.
 *
 * KV_FULL_REFUSE: a write reserves its bytes under the lock of its shard, before it changes anything.
 * KV_FULL_EVICT: a write first makes room without any lock, then takes it unconditionally, so threads that write at
 * once can exceed the bound by what they write.  Evicted keys are deleted by a commit of their own, which
 * stands in the log before that of the write: so they stay evicted.
 */
#include "change.h"

#define VICTIMS_MAX 64u
#define SHARD_PART 64u /* of a shard's entries that it gives at a time */

kv_status kv_store_charge_slow(kv_store *store, int64_t more, kv_error *err) {
    uint64_t max = store->options.max_memory;
    uint64_t before = atomic_load_explicit(&store->charged, memory_order_relaxed);
    do {
        bool fits = before <= max && (uint64_t)more <= max - before;
        if (more > 0 && !store->evicts && !fits) /* nor was it taken for a moment, in which others would be refused */
            return kv_fail(err, KV_ERR_MEMLIMIT,
                           "the write needs %lld bytes more, and %llu of max_memory=%llu are in use",
                           (long long)more, (unsigned long long)before, (unsigned long long)max);
    } while (!atomic_compare_exchange_weak_explicit(&store->charged, &before, before + (uint64_t)more,
                                                    memory_order_relaxed, memory_order_relaxed));
    return KV_OK;
}

/* Evicts up to `bytes` from the shard of `*hash`, which moves on to the next one: each gives a little, since who
 * empties a shard throws out keys that are in use.  KV_BUSY: the log cannot take it now. */
static kv_status evict_some(kv_store *store, uint64_t *hash, uint64_t bytes, kv_error *err) {
    kv_place places[VICTIMS_MAX];
    kv_entry *victims[VICTIMS_MAX];
    kv_undo *dead = NULL;
    kv_ticket ticket = {0};
    kv_shard *shard;
    kv_status status = kv_table_lock_loaded(&store->table, *hash, false, &shard, err);
    if (status < 0)
        return status;
    size_t part = shard->count / SHARD_PART + 1;
    size_t count = kv_evict_choose(shard, bytes, NULL, places, victims,
                                   part < VICTIMS_MAX ? part : VICTIMS_MAX);
    if (count > 0)
        status = kv_store_remove_locked(store, shard, victims, count, &ticket, &dead, err);
    if (status == KV_OK)
        *hash = kv_shard_range_last(shard) + 1; /* 0 behind the last one */
    kv_shard_unlock(shard);
    kv_undo_free_all(&store->table, dead);
    kv_log_forget(&ticket); /* the write that wants the room waits for a later place in the log */
    if (status == KV_OK)
        atomic_fetch_add_explicit(&store->evicted, count, memory_order_relaxed);
    return status;
}

kv_status kv_store_make_room(kv_db *db, kv_room *room, uint64_t bytes, bool nowait, kv_error *err) {
    kv_store *store = db->store;
    uint64_t max = store->options.max_memory, hash = room->from;
    if (bytes == 0)
        return KV_OK;
    if (bytes > max)
        return kv_fail(err, KV_ERR_MEMLIMIT, "the write needs %llu bytes; max_memory is %llu",
                       (unsigned long long)bytes, (unsigned long long)max);
    for (unsigned visits = 0;; visits++) {
        uint64_t charged = atomic_load_explicit(&store->charged, memory_order_relaxed), at = hash;
        if (charged <= max - bytes || charged == 0) { /* 0: others write at this moment */
            if (visits > 1) /* a batch, or a large value: the next one goes on here */
                atomic_store_explicit(&store->evict_hash, hash, memory_order_relaxed);
            if (visits > atomic_load_explicit(&store->table.shard_count, memory_order_relaxed))
                room->to = UINT64_MAX; /* where no shard begins: all of them */
            return KV_OK;
        }
        if (nowait)
            return KV_BUSY;
        kv_status status = evict_some(store, &hash, charged - (max - bytes), err);
        if (status == KV_BUSY)
            kv_log_pause(store->log);
        else if (status < 0)
            return status;
        else if (db->deferred != NULL)
            kv_deferred_note_write(db, at);
        else
            *room = (kv_room){room->from, hash, store->log != NULL};
    }
}

void kv_store_prune_room(kv_store *store, const kv_room *room) {
    bool wrapped = false;
    for (uint64_t hash = room->from, last; room->evicted; hash = last + 1) {
        last = kv_store_prune_hash(store, hash);
        if (last + 1 == room->to || (wrapped && last >= room->from))
            return;
        wrapped |= last == UINT64_MAX;
    }
}
