/* snapshot.c - see snapshot.h.  Snapshots, and cursors over them. */
#include "snapshot.h"

#include "../base/mem.h"

#define COUNT_UNKNOWN UINT64_MAX

void kv_snapshot_register(kv_store *store, kv_snapshot *snapshot) {
    *snapshot = (kv_snapshot){.registered = true, .count = COUNT_UNKNOWN,
                              .time_ms = kv_store_now(store)};
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    /* First a lower bound for all to see, then our LSN: see kv_store_limit.  Older snapshots give
     * one already. */
    if (store->snapshots == NULL)
        atomic_store(&store->oldest_snapshot, kv_store_visible(store));
    snapshot->lsn = kv_store_take_lsn(store);
    snapshot->next = store->snapshots;
    if (snapshot->next != NULL)
        snapshot->next->prev = snapshot;
    store->snapshots = snapshot;
    store->snapshot_count++;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
}

size_t kv_snapshot_bounds(kv_store *store, uint64_t visible, uint64_t *bounds, size_t capacity) {
    size_t count = 0;
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    uint64_t walk = atomic_load(&store->walk_lsn); /* in here: not the lower bound that walk_begin sets first */
    if (store->snapshot_count + 2 <= capacity)
        for (const kv_snapshot *s = store->snapshots; s != NULL; s = s->next)
            if (s->lsn < visible)
                bounds[count++] = s->lsn;
    bool all = store->snapshot_count + 2 <= capacity;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (!all)
        return 0;
    if (walk < visible)
        bounds[count++] = walk;
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j > 0 && bounds[j - 1] > bounds[j]; j--) {
            uint64_t lower = bounds[j];
            bounds[j] = bounds[j - 1];
            bounds[j - 1] = lower;
        }
    bounds[count++] = visible;
    return count;
}

static void unregister_locked(kv_store *store, kv_snapshot *snapshot) {
    if (snapshot->prev != NULL)
        snapshot->prev->next = snapshot->next;
    else
        store->snapshots = snapshot->next;
    if (snapshot->next != NULL)
        snapshot->next->prev = snapshot->prev;
    snapshot->registered = false;
    store->snapshot_count--;
    uint64_t oldest = KV_NO_SNAPSHOT;
    for (const kv_snapshot *s = store->snapshots; s != NULL; s = s->next)
        if (s->lsn < oldest)
            oldest = s->lsn;
    atomic_store(&store->oldest_snapshot, oldest);
}

void kv_snapshot_unregister(kv_store *store, kv_snapshot *snapshot) {
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    unregister_locked(store, snapshot);
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    /* What it alone held back would stay in idle shards. */
    if (atomic_exchange(&store->snapshots_hold, false))
        kv_store_prune_all(store);
}

void kv_db_drop_snapshots(kv_db *db) {
    kv_store *store = db->store;
    bool some = false;
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    for (kv_snapshot *s = store->snapshots, *next; s != NULL; s = next) {
        next = s->next;
        if (s->db == db) {
            unregister_locked(store, s);
            some = true;
        }
    }
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    /* The store may go on with other handles, and never have a snapshot again. */
    if (some && atomic_exchange(&store->snapshots_hold, false))
        kv_store_prune_all(store);
}

kv_status kv_snapshot_create(kv_db *db, kv_snapshot **out, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_snapshot *snapshot = kv_mem_alloc(sizeof *snapshot);
    if (snapshot == NULL) {
        status = kv_fail_nomem(err, sizeof *snapshot);
    } else {
        kv_snapshot_register(db->store, snapshot);
        snapshot->db = db;
        *out = snapshot;
    }
    kv_db_leave(db);
    return status;
}

void kv_snapshot_destroy(kv_snapshot *snapshot) {
    if (snapshot == NULL)
        return;
    if (kv_db_enter(snapshot->db, NULL) == KV_OK) {
        kv_snapshot_unregister(snapshot->db->store, snapshot);
        kv_db_leave(snapshot->db);
    } else if (kv_close(snapshot->db, NULL) == KV_ERR_INVALID) {
        /* A closed handle has dropped its snapshots; one that is being closed will, so that was waited for.  But not
         * from within a call on it: the close waits for that call, and so the store is there. */
        kv_snapshot_unregister(snapshot->db->store, snapshot);
    }
    kv_mem_free(snapshot);
}

kv_status kv_snapshot_get(kv_snapshot *snapshot, kv_bytes key, unsigned flags, kv_value *value,
                          kv_error *err) {
    kv_db *db = snapshot->db;
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    status = kv_check_key(key, err);
    if (status == KV_OK) {
        kv_store *store = db->store;
        uint64_t hash = kv_table_hash(&store->table, key);
        kv_shard *shard;
        status = kv_table_lock_loaded(&store->table, hash, (flags & KV_NOWAIT) != 0, &shard, err);
        if (status == KV_OK) {
            kv_entry *e = kv_shard_find_at(shard, hash, key, snapshot->lsn);
            if (e != NULL && !kv_entry_is_expired(e, snapshot->time_ms))
                kv_value_set(store, e, flags, value);
            else
                status = KV_NOTFOUND;
            kv_shard_unlock(shard);
        }
    }
    kv_db_leave(db);
    return status;
}

kv_status kv_snapshot_count(kv_snapshot *snapshot, uint64_t *count, kv_error *err) {
    *count = atomic_load_explicit(&snapshot->count, memory_order_relaxed);
    if (*count != COUNT_UNKNOWN)
        return KV_OK;
    kv_status status = kv_db_enter(snapshot->db, err);
    if (status < 0)
        return status;
    status = kv_store_count_alive(snapshot->db->store, snapshot->lsn, true, snapshot->time_ms, count, err);
    if (status == KV_OK)
        atomic_store_explicit(&snapshot->count, *count, memory_order_relaxed);
    kv_db_leave(snapshot->db);
    return status;
}

/* ---- Cursors ----------------------------------------------------------------------------------- */

/* Walks the hashes in order, a shard at a time.  It owns a reference to each item that it has given out
 * last, and one to the pool: so they outlive the store. */
struct kv_cursor {
    kv_snapshot *snapshot;
    kv_pool *pool;
    uint64_t next_hash;
    bool at_end;
    kv_entry **entries;
    kv_item *items;
    size_t count, capacity;
};

kv_status kv_cursor_create(kv_snapshot *snapshot, kv_cursor **out, kv_error *err) {
    kv_status status = kv_db_enter(snapshot->db, err);
    if (status < 0)
        return status;
    kv_cursor *cursor = kv_mem_alloc_zero(sizeof *cursor);
    if (cursor == NULL) {
        status = kv_fail_nomem(err, sizeof *cursor);
    } else {
        cursor->snapshot = snapshot;
        cursor->pool = snapshot->db->store->table.entries;
        kv_pool_acquire(cursor->pool);
        *out = cursor;
    }
    kv_db_leave(snapshot->db);
    return status;
}

static void let_go(kv_cursor *cursor) {
    for (size_t i = 0; i < cursor->count; i++)
        kv_entry_release(cursor->pool, cursor->entries[i]);
    cursor->count = 0;
}

void kv_cursor_destroy(kv_cursor *cursor) {
    if (cursor == NULL)
        return;
    let_go(cursor);
    kv_pool_release(cursor->pool);
    kv_mem_free(cursor->entries);
    kv_mem_free(cursor->items);
    kv_mem_free(cursor);
}

/* Lets go of the entries that had expired when the snapshot was taken. */
static void drop_expired(kv_cursor *cursor) {
    size_t kept = 0;
    for (size_t i = 0; i < cursor->count; i++) {
        kv_entry *e = cursor->entries[i];
        if (kv_entry_is_expired(e, cursor->snapshot->time_ms))
            kv_entry_release(cursor->pool, e);
        else
            cursor->entries[kept++] = e;
    }
    cursor->count = kept;
}

static kv_status make_room(kv_cursor *cursor, size_t capacity, kv_error *err) {
    kv_entry **entries = kv_mem_realloc(cursor->entries, capacity * sizeof *entries);
    if (entries == NULL)
        return kv_fail_nomem(err, capacity * sizeof *entries);
    cursor->entries = entries;
    kv_item *items = kv_mem_realloc(cursor->items, capacity * sizeof *items);
    if (items == NULL)
        return kv_fail_nomem(err, capacity * sizeof *items);
    cursor->items = items;
    cursor->capacity = capacity;
    return KV_OK;
}

/* The next shard's entries into cursor->entries. */
static kv_status next_shard(kv_cursor *cursor, kv_table *table, kv_error *err) {
    for (;;) {
        size_t count = 0;
        kv_shard *shard;
        kv_status status = kv_table_lock_loaded(table, cursor->next_hash, false, &shard, err);
        if (status < 0)
            return status;
        uint64_t last = kv_shard_range_last(shard);
        status = kv_undo_collect(table, shard, cursor->snapshot->lsn, cursor->entries,
                                           cursor->capacity, &count, err);
        kv_shard_unlock(shard);
        if (status == KV_BUSY) {
            status = make_room(cursor, count + count / 4, err);
            if (status < 0)
                return status;
            continue;
        }
        if (status < 0)
            return status;
        cursor->count = count;
        drop_expired(cursor);
        cursor->at_end = last == UINT64_MAX;
        cursor->next_hash = last + 1;
        return KV_OK;
    }
}

kv_status kv_cursor_next(kv_cursor *cursor, const kv_item **items, size_t *count,
                         kv_error *err) {
    kv_db *db = cursor->snapshot->db;
    let_go(cursor);
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    while (status == KV_OK && cursor->count == 0)
        status = cursor->at_end ? KV_NOTFOUND : next_shard(cursor, &db->store->table, err);
    kv_db_leave(db);
    if (status != KV_OK)
        return status;
    for (size_t i = 0; i < cursor->count; i++)
        cursor->items[i] = (kv_item){.key = kv_entry_key(cursor->entries[i]),
                                     .value = kv_entry_value(cursor->entries[i]),
                                     .expiry = kv_entry_expiry(cursor->entries[i])};
    *items = cursor->items;
    *count = cursor->count;
    return KV_OK;
}
