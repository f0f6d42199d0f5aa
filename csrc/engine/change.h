/* change.h - what all writes have in common: a place in the log, history for those who look behind, and its end.
 *
 * Layer: engine.  The life of a write:
 *   1. build the entry, outside of any lock
 *   2. lock the shard (a batch: all its shards, in the order of their hashes)
 *   3. decide; get all memory: from here on nothing can fail but the append
 *   4. append to the log, which gives the LSN
 *   5. link the entry, push what it replaced on the undo list
 *   6. unlock; wait until the LSN is committed; drop undo records that nobody needs any more
 *
 * An append that answers KV_BUSY (a rollback is going on) sends the write back to 2.
 */
#ifndef KV_ENGINE_CHANGE_H
#define KV_ENGINE_CHANGE_H

#include "deferred.h"
#include "evict.h"
#include "store.h"

/* What every write begins with; kv_db_leave ends it.  KV_BUSY: under KV_NOWAIT, and it would wait. */
kv_status kv_change_begin(kv_db *db, unsigned flags, kv_error *err) KV_MUST_CHECK;

/* Gives the commit its LSN.  KV_BUSY: see kv_log_append.  Without a log it cannot fail, and may be
 * forgotten. */
static inline kv_status kv_change_append(kv_store *store, const kv_record *records, size_t count,
                                         uint64_t bytes, int64_t entries_change, unsigned flags,
                                         kv_ticket *ticket, kv_error *err) {
    if (store->log != NULL)
        return kv_log_append(store->log, records, count, bytes, entries_change,
                             (flags & KV_SYNC) != 0, ticket, err);
    /* Visible at once: readers of the shards concerned wait for their locks, which we hold. */
    ticket->lsn = atomic_load(&store->memory_lsn);
    ticket->group = NULL;
    atomic_fetch_add_explicit(&store->tallies[kv_thread_index()].commits, 1, memory_order_relaxed);
    return KV_OK;
}

/* The log counts keys itself, with each group that it commits. */
static inline void kv_change_count_entries(kv_store *store, int64_t change) {
    if (store->log != NULL || change == 0)
        return;
    kv_tally *tally = &store->tallies[kv_thread_index()];
    atomic_fetch_add_explicit(change > 0 ? &tally->added : &tally->removed,
                              (uint64_t)(change > 0 ? change : -change), memory_order_release);
}

/* Drops what nobody needs from the locked shard; the records, before those of `dead`, are to be freed
 * after unlocking. */
static inline kv_undo *kv_change_prune(kv_store *store, kv_shard *shard, kv_undo *dead) {
    return shard->undo == NULL ? dead : kv_undo_prune(shard, kv_store_limit(store, shard), dead);
}

/* The same by the last one who has this shard in hand for now: what a snapshot still holds is pruned when it ends. */
kv_undo *kv_change_prune_for_good(kv_store *store, kv_shard *shard, kv_undo *dead);

/* Whether the change at `lsn` must leave a record: it is not committed, or a snapshot is older. */
static inline bool kv_change_needs_record(kv_store *store, const kv_shard *shard, uint64_t lsn) {
    return store->log != NULL || lsn > kv_store_limit(store, shard);
}

/* Enters the change at `lsn` into the shard's history, with its record if it has one.  What is to be freed,
 * before those of `dead`, comes back, for after unlocking. */
kv_undo *kv_change_enter(kv_store *store, kv_shard *shard, uint64_t lsn, kv_undo *record,
                         kv_undo *dead);

static inline int64_t kv_change_charge(const kv_entry *e) {
    return e != NULL ? (int64_t)kv_entry_charge(e) : 0;
}

/* In a store that evicts, before `new` is linked: what evict.h wants to know.  `old`: what it replaces, or NULL. */
static inline void kv_change_note_use(kv_shard *shard, uint64_t hash, kv_entry *new,
                                      const kv_entry *old) {
    if (old != NULL)
        kv_evict_note_replace(new, old);
    else
        kv_evict_note_new(shard, hash);
}

/* How many rollbacks there have been; 0 without a log. */
uint64_t kv_change_rollbacks(const kv_store *store);
/* The store was seen empty, which may be another thread's doing and not committed yet: waits until it
 * is.  KV_BUSY: it was undone (`rollbacks` is from before the look), so look again. */
kv_status kv_change_confirm_empty(kv_db *db, uint64_t rollbacks, kv_error *err) KV_MUST_CHECK;

#endif
