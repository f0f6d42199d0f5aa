/* stats.c - figures about a store, and the walk that verifies it. */
#include "../base/mem.h"
#include "store.h"

#define KEYS_TRIES 100u /* writers may change the counts for ever; each look takes some 100 ns at the most */

kv_totals kv_store_sum(kv_store *store) {
    kv_totals t = {0};
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_lock(&store->table, hash);
        uint64_t last = kv_shard_range_last(shard);
        t.shards++;
        t.entries += shard->count;
        t.data_bytes += shard->data_bytes;
        t.charge += kv_shard_charge(shard);
        t.undo_records += shard->undo_count;
        kv_shard_unlock(shard);
        if (last == UINT64_MAX)
            return t;
        hash = last + 1;
    }
}

uint64_t kv_store_keys(const kv_store *store) {
    uint64_t keys = 0, changes = UINT64_MAX;
    for (unsigned tries = 0; tries < KEYS_TRIES; tries++) {
        uint64_t added = 0, removed = 0, before = changes;
        for (unsigned i = 0; i < KV_THREAD_INDEXES; i++) /* first: a key is counted in before it is counted out */
            removed += atomic_load_explicit(&store->tallies[i].removed, memory_order_acquire);
        for (unsigned i = 0; i < KV_THREAD_INDEXES; i++)
            added += atomic_load_explicit(&store->tallies[i].added, memory_order_acquire);
        keys = added - removed;
        changes = added + removed;
        if (changes == before)
            break; /* no count has changed since the last look: they are of one moment */
    }
    return keys;
}

static uint64_t commits_without_log(const kv_store *store) {
    uint64_t commits = 0;
    for (unsigned i = 0; i < KV_THREAD_INDEXES; i++)
        commits += atomic_load_explicit(&store->tallies[i].commits, memory_order_relaxed);
    return commits;
}

typedef struct expired_counter {
    uint64_t now_ms, count;
} expired_counter;

static void count_expired(void *arg, kv_entry *e) {
    expired_counter *c = arg;
    c->count += kv_entry_is_expired(e, c->now_ms);
}

/* How many entries of the locked shard, as it was at the LSN, have expired. */
static kv_status count_in_shard(kv_store *store, kv_shard *shard, uint64_t lsn, uint64_t now_ms,
                                uint64_t *count, kv_error *err) {
    if (shard->undo == NULL || shard->last_lsn <= lsn) {
        expired_counter c = {.now_ms = now_ms};
        kv_array_visit(kv_shard_array(shard), count_expired, &c);
        *count += c.count;
        return KV_OK;
    }
    size_t capacity = (size_t)shard->count + shard->undo_count, found = 0;
    for (;;) {
        kv_entry **entries = kv_mem_alloc((capacity + 1) * sizeof *entries);
        if (entries == NULL)
            return kv_fail_nomem(err, capacity * sizeof *entries);
        kv_status status =
            kv_undo_collect(&store->table, shard, lsn, entries, capacity, &found, err);
        if (status == KV_OK) {
            for (size_t i = 0; i < found; i++) {
                *count += kv_entry_is_expired(entries[i], now_ms);
                (void)kv_entry_drop(entries[i]); /* the table, or a record, has it still */
            }
        }
        kv_mem_free(entries);
        if (status != KV_BUSY)
            return status;
        capacity = found;
    }
}

kv_status kv_store_count_alive(kv_store *store, uint64_t lsn, bool registered, uint64_t now_ms, uint64_t *count,
                               kv_error *err) {
    kv_table *table = &store->table;
    kv_status caught_up = kv_store_catch_up(store, err);
    if (caught_up < 0)
        return caught_up;
    *count = 0;
    for (uint64_t hash = 0;;) {
        kv_status status = KV_OK;
        kv_shard *shard = kv_table_lock(table, hash);
        uint64_t last = kv_shard_range_last(shard), expired = 0;
        bool due = shard->expiring > 0 && shard->next_expiry <= now_ms;
        if (due && !kv_shard_is_loaded(shard)) {
            status = kv_table_load_locked(table, hash, &shard, err);
            if (status < 0)
                return status;
            last = kv_shard_range_last(shard);
        }
        if (!registered && shard->merged_lsn > lsn) {
            kv_shard_unlock(shard);
            return KV_BUSY;
        }
        /* An older state may have had keys that have expired and were then swept away, or put anew. */
        if (due || (shard->undo != NULL && shard->last_lsn > lsn))
            status = count_in_shard(store, shard, lsn, now_ms, &expired, err);
        *count += kv_undo_count_at(shard, lsn) - expired;
        kv_shard_unlock(shard);
        if (status < 0 || last == UINT64_MAX)
            return status;
        hash = last + 1;
    }
}

kv_status kv_get_stats(kv_db *db, unsigned flags, kv_stats *stats, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_store *store = db->store;
    /* What cannot be loaded counts as the checkpoint has it. */
    bool caught_up = (flags & KV_NOWAIT) == 0 && kv_store_catch_up(store, NULL) == KV_OK;
    kv_totals t = kv_store_sum(store);
    *stats = (kv_stats){
        .data_bytes = t.data_bytes,
        .undo_records = t.undo_records,
        .memory_bytes =
            kv_pool_bytes(store->table.entries) + kv_pool_bytes(store->table.arrays),
        .shards = atomic_load_explicit(&store->table.shard_count, memory_order_relaxed),
        .handles = kv_store_handles(store),
        .checkpoints = atomic_load_explicit(&store->checkpoints, memory_order_relaxed),
        .checkpoint_failures =
            atomic_load_explicit(&store->checkpoint_failures, memory_order_relaxed),
        .expired = atomic_load_explicit(&store->expired, memory_order_relaxed),
        .evicted = atomic_load_explicit(&store->evicted, memory_order_relaxed),
        .memory_charged = t.charge,
        .max_memory = store->options.max_memory,
        .when_full = store->options.when_full,
    };
    stats->shards_loaded =
        stats->shards - atomic_load_explicit(&store->table.unloaded, memory_order_relaxed);
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    stats->snapshots = store->snapshot_count;
    stats->checkpoint_lsn = store->checkpoint_lsn;
    stats->checkpoint_bytes = store->checkpoint_bytes;
    stats->checkpoint_error = store->checkpoint_error;
    stats->load_error = store->load_error;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (store->log != NULL) {
        kv_log_stats log;
        kv_log_get_stats(store->log, &log);
        stats->lsn = log.appended_lsn;
        stats->visible_lsn = log.committed_lsn;
        stats->durable_lsn = log.durable_lsn;
        stats->commits = log.commits;
        stats->frames = log.frames;
        stats->syncs = log.syncs;
        stats->log_bytes = log.log_bytes;
        stats->log_segments = log.segments;
        stats->failed = log.failed;
        stats->direct_io = log.direct_io;
    } else {
        stats->lsn = stats->visible_lsn = stats->commits = commits_without_log(store);
    }
    stats->entries = t.entries;
    if (caught_up)
        status = kv_count(db, 0, &stats->entries, err);
    if (status == KV_ERR_CORRUPT) { /* what has expired in a damaged block cannot be told: it counts */
        stats->entries = t.entries;
        status = KV_OK;
    }
    kv_db_leave(db);
    return status;
}

bool kv_take_warning(kv_db *db, kv_error *err) {
    if (!atomic_load_explicit(&db->warning, memory_order_relaxed))
        return false;
    if (kv_db_enter(db, NULL) != KV_OK) {
        /* Acquire by the closed word: then what kv_close left is there, and stays. */
        bool told = (atomic_load(&db->closed_word) & 1) != 0 &&
                    atomic_exchange_explicit(&db->warning, false, memory_order_relaxed) &&
                    db->checkpoint_error.status < 0;
        if (told && err != NULL)
            *err = db->checkpoint_error;
        return told;
    }
    kv_store *store = db->store;
    bool warn = atomic_exchange_explicit(&db->warning, false, memory_order_relaxed);
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    warn = warn && store->checkpoint_error.status < 0;
    if (warn && err != NULL)
        *err = store->checkpoint_error;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    kv_db_leave(db);
    return warn;
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
