/* stats.c - figures about a store, and the walk that verifies it. */
#include "snapshot.h"
#include "store.h"

typedef struct totals {
    uint64_t data_bytes, undo_records;
} totals;

static totals sum_shards(kv_table *table) {
    totals t = {0};
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_lock(table, hash);
        uint64_t last = kv_shard_range_last(shard);
        t.data_bytes += shard->data_bytes;
        t.undo_records += shard->undo_count;
        kv_shard_unlock(shard);
        if (last == UINT64_MAX)
            return t;
        hash = last + 1;
    }
}

kv_status kv_get_stats(kv_db *db, kv_stats *stats, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_store *store = db->store;
    totals t = sum_shards(&store->table);
    *stats = (kv_stats){
        .data_bytes = t.data_bytes,
        .undo_records = t.undo_records,
        .memory_bytes =
            kv_pool_bytes(store->table.entries) + kv_pool_bytes(store->table.arrays),
        .shards = atomic_load_explicit(&store->table.shard_count, memory_order_relaxed),
        .handles = kv_store_handles(store),
    };
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    stats->snapshots = store->snapshot_count;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (store->log != NULL) {
        kv_log_stats log;
        kv_log_get_stats(store->log, &log);
        stats->entries = kv_log_entries(store->log);
        stats->lsn = log.appended_lsn;
        stats->visible_lsn = log.committed_lsn;
        stats->durable_lsn = log.durable_lsn;
        stats->commits = log.commits;
        stats->frames = log.frames;
        stats->syncs = log.syncs;
        stats->log_bytes = log.log_bytes;
        stats->log_segments = log.segments;
        stats->failed = log.failed;
    } else {
        stats->entries = atomic_load_explicit(&store->memory_entries, memory_order_relaxed);
        stats->lsn = stats->visible_lsn = stats->commits = atomic_load(&store->memory_lsn);
    }
    kv_db_leave(db);
    return KV_OK;
}

kv_status kv_verify(kv_db *db, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_table *table = &db->store->table;
    uint64_t shards = 0;
    for (uint64_t hash = 0; status == KV_OK;) {
        kv_shard *shard = kv_table_lock(table, hash);
        uint64_t last = kv_shard_range_last(shard);
        status = kv_shard_verify(table, shard, err);
        kv_shard_unlock(shard);
        shards++;
        if (last == UINT64_MAX)
            break;
        hash = last + 1;
    }
    kv_db_leave(db);
    return status;
}
