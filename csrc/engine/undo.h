/* undo.h - what a shard's latest changes replaced: for readers of the past, and for rollback.
 *
 * Layer: engine (above table.h).  Entries in the table are always the newest state, durable or not.
 * A change that somebody may still have to look behind pushes a record: its LSN, and what was there
 * before.  Three uses:
 *  - a read at LSN S follows the records above S, newest to oldest, back to S;
 *  - a snapshot is such a read, of everything;
 *  - a rollback undoes the records above S for good.
 *
 * Invariants (of one shard, under its lock)
 *  - records stand in descending order of LSN, newer ones first where it is the same (those of a commit; without a log
 *    also those of many, kv_store_take_lsn); `undo_oldest_lsn` is the last one's;
 *  - a change without a record has an LSN <= pruned_lsn: states before pruned_lsn cannot be told;
 *  - of several changes of one key between two registered snapshots one record may stand for all, and of several clears
 *    the oldest (kv_undo_merge): below merged_lsn only the states at registered snapshots can be told;
 *  - a record has one entry, which tells the key.  Of a key that was replaced or removed it is the old one, with
 *    the table's reference to it;
 *  - of a key that was absent it is what was put, borrowed: the next newer record of the key holds it, or the
 *    array of the next newer clear, or the table.  Among dead records nobody looks at it any more.
 */
#ifndef KV_ENGINE_UNDO_H
#define KV_ENGINE_UNDO_H

#include "table.h"

typedef enum kv_undo_kind {
    KV_UNDO_CREATED,  /* the key was absent; `entry`: what was put */
    KV_UNDO_REPLACED, /* `entry`: what was there before */
    KV_UNDO_REMOVED,  /* the same, and the key is absent now */
    KV_UNDO_CLEAR,    /* the whole shard was emptied: it is a kv_undo_clear */
} kv_undo_kind;

/* While a snapshot or a checkpoint's walk holds back what is replaced, each overwritten key costs one of these. */
struct kv_undo {
    kv_undo *next; /* older */
    uint64_t lsn;  /* of the change */
    uint64_t hash;
    /* The pool gives no memory whose address is longer (pool.c). */
    uint64_t entry : 48;  /* kv_undo_entry; 0 in a clear */
    uint64_t kind : 8;
    uint64_t dropped : 1; /* inside kv_undo_merge only: it is not needed any more */
};
static_assert(sizeof(kv_undo) == 32, "a size class of the pool, and two in a cache line");

typedef struct kv_undo_clear {
    kv_undo record; /* without a hash and an entry */
    kv_array array; /* with all its entries and their references */
    uint64_t data_bytes;
    uint32_t count;
    uint32_t expiring;
} kv_undo_clear;

/* NULL when there is no memory. */
kv_undo *kv_undo_create(kv_table *table);
kv_undo *kv_undo_create_clear(kv_table *table);
/* `count` of them, for changes; false (and none): there is no memory. */
bool kv_undo_create_many(kv_table *table, kv_undo **records, size_t count);
/* A record that was never pushed (NULL is allowed). */
void kv_undo_discard(kv_table *table, kv_undo *record);

static inline kv_entry *kv_undo_entry(const kv_undo *record) {
    return (kv_entry *)(uintptr_t)record->entry;
}

static inline void kv_undo_set_entry(kv_undo *record, const kv_entry *entry) {
    record->entry = (uintptr_t)entry & (UINT64_MAX >> 16);
}

/* What the changed key had before; NULL: it was absent. */
static inline kv_entry *kv_undo_before(const kv_undo *record) {
    return record->kind == KV_UNDO_CREATED ? NULL : kv_undo_entry(record);
}

static inline const kv_undo_clear *kv_undo_as_clear(const kv_undo *record) {
    assert(record->kind == KV_UNDO_CLEAR);
    return (const kv_undo_clear *)record;
}

/* Fills a record, but for its place in a list.  One of `before` and `after` may be NULL: absent. */
static inline void kv_undo_set_change(kv_undo *record, uint64_t lsn, uint64_t hash,
                                      const kv_entry *before, const kv_entry *after) {
    assert(before != NULL || after != NULL);
    record->lsn = lsn;
    record->hash = hash;
    record->kind = before == NULL ? KV_UNDO_CREATED : after != NULL ? KV_UNDO_REPLACED : KV_UNDO_REMOVED;
    kv_undo_set_entry(record, before != NULL ? before : after);
}

/* The same for a record of kv_undo_create_clear: all that the locked shard has. */
void kv_undo_set_clear(kv_undo *record, uint64_t lsn, const kv_shard *shard);

/* The locked shard's change `record` (filled but for `next`) becomes its newest. */
void kv_undo_push(kv_shard *shard, kv_undo *record);

/* The key's entry at `lsn` >= shard->pruned_lsn (borrowed, under the lock), given the newest one. */
kv_entry *kv_undo_look_behind(const kv_shard *shard, uint64_t hash, kv_bytes key, uint64_t lsn,
                              kv_entry *newest);

/* The key's entry at `lsn`: one comparison when the shard did not change since. */
static inline kv_entry *kv_shard_find_at(const kv_shard *shard, uint64_t hash, kv_bytes key,
                                         uint64_t lsn) {
    kv_place place;
    kv_entry *newest = kv_shard_find(shard, hash, key, &place);
    if (shard->undo == NULL || shard->last_lsn <= lsn)
        return newest;
    return kv_undo_look_behind(shard, hash, key, lsn, newest);
}

/* The LSN of the latest change of this key that is above `lsn`; 0: there is none. */
uint64_t kv_undo_latest_change(const kv_shard *shard, uint64_t hash, kv_bytes key, uint64_t lsn);

/* Takes the records at or below `lsn` off the locked shard and puts them before those of `dead` (NULL:
 * none yet).  The caller frees the whole list with kv_undo_free_all, after unlocking. */
kv_undo *kv_undo_prune(kv_shard *shard, uint64_t lsn, kv_undo *dead);
void kv_undo_free_all(kv_table *table, kv_undo *records);

/* Of several records of one key, or clears, between which nobody reads, keeps one.  `bounds`: in ascending order, the
 * LSNs of all registered snapshots, then the visible LSN (records above it are left alone).  Others than those
 * snapshots can no longer read below shard->merged_lsn.  The same list as kv_undo_prune. */
kv_undo *kv_undo_merge(kv_shard *shard, const uint64_t *bounds, size_t count, kv_undo *dead);

/* Undoes every change above `lsn`.  KV_ERR_NOMEM: some are left, with their records, so readers at
 * `lsn` are still right. */
kv_status kv_undo_rollback(kv_table *table, kv_shard *shard, uint64_t lsn, kv_error *err)
    KV_MUST_CHECK;

/* How many keys the locked shard had at `lsn` >= pruned_lsn. */
uint64_t kv_undo_count_at(const kv_shard *shard, uint64_t lsn);

/* Every entry of the locked shard as it was at `lsn` >= pruned_lsn, each with a new reference.
 * KV_OK and *count; KV_BUSY: `capacity` is too small, *count is enough; KV_ERR_NOMEM. */
kv_status kv_undo_collect(kv_table *table, kv_shard *shard, uint64_t lsn, kv_entry **entries,
                          size_t capacity, size_t *count, kv_error *err) KV_MUST_CHECK;

#endif
