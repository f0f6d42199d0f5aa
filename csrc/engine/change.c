/* change.c - see change.h. */
#include "change.h"

#include "snapshot.h"

#define MERGE_MIN 128u       /* records of a shard before it is looked at */
#define MERGE_BOUNDS_MAX 64u /* with more snapshots than that, nothing is merged */

kv_status kv_change_begin(kv_db *db, unsigned flags, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    if (db->read_only)
        status = kv_fail(err, KV_ERR_READONLY, "the store was opened read-only");
    else if (db->store->log != NULL && (flags & KV_NOWAIT))
        status = KV_BUSY;
    if (status != KV_OK)
        kv_db_leave(db);
    return status;
}

/* ---- Undo records ------------------------------------------------------------------------------- */

/* A shard keeps many records, for a snapshot or a walk: of each key's, only those that somebody can still ask
 * for.  So what a snapshot costs is bounded by the state that it shows, however much is written. */
static kv_undo *merge_locked(kv_store *store, kv_shard *shard, kv_undo *dead) {
    uint64_t bounds[MERGE_BOUNDS_MAX];
    uint64_t visible = kv_store_visible(store); /* before the list: a later snapshot is not below it */
    size_t count = kv_snapshot_bounds(store, visible, bounds, MERGE_BOUNDS_MAX);
    if (count > 0)
        dead = kv_undo_merge(shard, bounds, count, dead);
    shard->undo_merge_at = shard->undo_count * 2;
    return dead;
}

/* Remembers that somebody has to prune when a snapshot goes. */
static void note_held(kv_store *store, const kv_shard *shard) {
    if (shard->undo != NULL && (atomic_load(&store->oldest_snapshot) != KV_NO_SNAPSHOT ||
                                atomic_load(&store->walk_lsn) != KV_NO_SNAPSHOT))
        atomic_store(&store->snapshots_hold, true);
}

kv_undo *kv_change_prune_for_good(kv_store *store, kv_shard *shard, kv_undo *dead) {
    dead = kv_change_prune(store, shard, dead);
    if (shard->undo == NULL)
        return dead;
    /* Something is held.  Either the snapshot that holds it ends after it could see our note, or our second look
     * comes after its end (it says that it ends, then asks for notes; both are seq_cst). */
    note_held(store, shard);
    return kv_change_prune(store, shard, dead);
}

uint64_t kv_store_prune_hash(kv_store *store, uint64_t hash) {
    kv_shard *shard = kv_table_lock(&store->table, hash);
    uint64_t last = kv_shard_range_last(shard);
    kv_undo *dead = kv_change_prune_for_good(store, shard, NULL);
    kv_shard_unlock(shard);
    kv_undo_free_all(&store->table, dead);
    return last;
}

void kv_store_prune_all(kv_store *store) {
    for (uint64_t hash = 0, last = 0; last != UINT64_MAX; hash = last + 1)
        last = kv_store_prune_hash(store, hash);
}

kv_status kv_store_rollback(void *arg, uint64_t lsn, kv_error *err) {
    kv_store *store = arg;
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_lock(&store->table, hash);
        uint64_t last = kv_shard_range_last(shard), charge = kv_shard_charge(shard);
        kv_status status = kv_undo_rollback(&store->table, shard, lsn, err);
        /* The difference, not a new count: others may have charged what they are about to take back. */
        kv_store_uncharge(store, (int64_t)(charge - kv_shard_charge(shard)));
        /* A sweep may have passed while these keys were not there. */
        if (shard->expiring > 0)
            kv_store_note_expiry(store, shard->next_expiry != 0 ? shard->next_expiry : 1);
        kv_shard_unlock(shard);
        if (status < 0)
            return status;
        if (last == UINT64_MAX)
            return KV_OK;
        hash = last + 1;
    }
}

kv_undo *kv_change_enter(kv_store *store, kv_shard *shard, uint64_t lsn, kv_undo *record,
                             kv_undo *dead) {
    dead = kv_change_prune(store, shard, dead);
    shard->last_lsn = lsn;
    if (record == NULL) {
        assert(shard->undo == NULL);
        shard->pruned_lsn = lsn;
        return dead;
    }
    kv_undo_push(shard, record);
    if (store->log == NULL) /* with a log, whoever waits for the commit prunes then */
        dead = kv_change_prune_for_good(store, shard, dead);
    if (shard->undo_count > MERGE_MIN && shard->undo_count > shard->undo_merge_at)
        dead = merge_locked(store, shard, dead);
    return dead;
}

/* ---- Removing without anybody's asking ------------------------------------------------------------- */

kv_status kv_store_remove_locked(kv_store *store, kv_shard *shard, kv_entry *const *entries,
                                 size_t count, kv_ticket *ticket, kv_undo **dead, kv_error *err) {
    kv_record records[KV_REMOVE_MAX];
    kv_undo *undo[KV_REMOVE_MAX] = {0};
    uint64_t bytes = 0, charge = 0;
    kv_status status = KV_OK;
    *ticket = (kv_ticket){0};
    *dead = NULL;
    assert(count > 0 && count <= KV_REMOVE_MAX);
    for (size_t i = 0; i < count; i++) {
        records[i] = (kv_record){.kind = KV_RECORD_DELETE, .last = i == count - 1,
                                 .key = kv_entry_key(entries[i])};
        bytes += kv_record_size(records[i].key.size, 0, 0);
        charge += kv_entry_charge(entries[i]);
    }
    if (!kv_undo_create_many(&store->table, undo, count))
        return kv_fail_nomem(err, count * sizeof(kv_undo));
    status = kv_change_append(store, records, count, bytes, -(int64_t)count, 0, ticket, err);
    for (size_t i = 0; i < count && status == KV_OK; i++) {
        kv_place place = {0};
        uint64_t hash = kv_table_hash(&store->table, kv_entry_key(entries[i]));
        kv_entry *found = kv_shard_find(shard, hash, kv_entry_key(entries[i]), &place);
        assert(found == entries[i]);
        kv_shard_remove(shard, hash, place);
        if (store->evicts)
            kv_evict_note_evicted(place, hash);
        kv_undo_set_change(undo[i], ticket->lsn, hash, found, NULL);
        *dead = kv_change_enter(store, shard, ticket->lsn, undo[i], *dead);
        undo[i] = NULL;
    }
    if (status == KV_OK) {
        kv_change_count_entries(store, -(int64_t)count);
        kv_store_uncharge(store, (int64_t)charge);
        *dead = kv_change_prune(store, shard, *dead); /* without a log: at once */
    }
    for (size_t i = 0; i < count; i++)
        kv_undo_discard(&store->table, undo[i]);
    return status;
}

/* ---- An empty store ---------------------------------------------------------------------------------- */

uint64_t kv_change_rollbacks(const kv_store *store) {
    return store->log != NULL ? kv_log_rollbacks(store->log) : 0;
}

kv_status kv_change_confirm_empty(kv_db *db, uint64_t rollbacks, kv_error *err) {
    kv_store *store = db->store;
    if (store->log == NULL)
        return KV_OK;
    if (db->deferred != NULL) {
        kv_deferred_note_newest(db);
        return kv_log_rollbacks(store->log) == rollbacks ? KV_OK : KV_BUSY;
    }
    kv_log_pause(store->log);
    if (kv_log_rollbacks(store->log) == rollbacks)
        return KV_OK;
    return kv_log_failed(store->log, err) ? KV_ERR_FAILED : KV_BUSY;
}
