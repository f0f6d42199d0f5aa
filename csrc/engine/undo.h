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
 *  - records stand in descending order of LSN; `undo_oldest_lsn` is the last one's;
 *  - a change without a record has an LSN <= pruned_lsn: states before pruned_lsn cannot be told;
 *  - of several changes of one key between two registered snapshots one record may stand for all
 *    (kv_undo_merge): below merged_lsn only the states at registered snapshots can be told;
 *  - the record of a replaced or removed entry holds the table's reference to it;
 *  - `after` needs none: while the record lives, its entry is in the table, or in a newer record.
 */
#ifndef KV_ENGINE_UNDO_H
#define KV_ENGINE_UNDO_H

#include "table.h"

typedef enum kv_undo_kind {
    KV_UNDO_CHANGE, /* one key: put, replaced or removed */
    KV_UNDO_CLEAR,  /* the whole shard was emptied */
    KV_UNDO_MERGED, /* inside kv_undo_merge only */
} kv_undo_kind;

struct kv_undo {
    kv_undo *next; /* older */
    uint64_t lsn;  /* of the change */
    union {
        struct {
            uint64_t hash;
            kv_entry *before; /* NULL: the key was absent */
            kv_entry *after;  /* NULL: the key was removed */
        } change;
        struct {
            kv_array array; /* with all its entries and their references */
            uint64_t data_bytes;
            uint32_t count;
            uint32_t expiring;
        } clear;
    };
    uint8_t kind;
    uint8_t stripe; /* of the pool it came from */
};

/* NULL when there is no memory. */
kv_undo *kv_undo_create(kv_table *table, uint64_t hash);
/* `count` of them; false (and none): there is no memory. */
bool kv_undo_create_many(kv_table *table, unsigned stripe, kv_undo **records, size_t count);
/* A record that was never pushed (NULL is allowed). */
void kv_undo_discard(kv_table *table, kv_undo *record);

/* Fills a record, but for its place in a list. */
static inline void kv_undo_set_change(kv_undo *record, uint64_t lsn, uint64_t hash,
                                      kv_entry *before, kv_entry *after) {
    record->lsn = lsn;
    record->kind = KV_UNDO_CHANGE;
    record->change.hash = hash;
    record->change.before = before;
    record->change.after = after;
}

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

/* Of several records of one key between which nobody reads, keeps one.  `bounds`: in ascending order, the LSNs
 * of all registered snapshots, then the visible LSN (records above it are left alone).  Others than those
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
