/* scan.c - walks over the keys in the order of their hashes.
 *
 * A position is a hash: what is below it has been visited.  Shards divide the hashes into ranges and split in two, so
 * a position means the same however the table has grown; an entry never moves to another hash.
 */
#include <stdlib.h>

#include "../base/mem.h"
#include "deferred.h"

#define SHARDS_MAX 4096u /* looked at in one call: a walk over an emptied store lets others have their turn */

typedef struct found {
    uint64_t hash;
    kv_entry *entry; /* with a reference */
} found;

static int by_hash(const void *a, const void *b) {
    const found *x = a, *y = b;
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* Every entry of the shard at the position, with a reference each; *next: where the next shard begins, 0: nowhere. */
static kv_status collect(kv_db *db, uint64_t position, kv_entry ***entries, size_t *count,
                         uint64_t *next, kv_error *err) {
    kv_store *store = db->store;
    kv_table *table = &store->table;
    *entries = NULL;
    for (size_t capacity = 0;;) {
        kv_shard *shard;
        uint64_t rollbacks = store->log != NULL ? kv_log_rollbacks(store->log) : 0;
        kv_status status = kv_table_lock_loaded(table, position, false, &shard, err);
        if (status < 0)
            return status;
        *next = kv_shard_range_last(shard) + 1;
        uint64_t lsn = db->deferred != NULL ? UINT64_MAX : kv_store_visible(store);
        status = kv_undo_collect(table, shard, lsn, *entries, capacity, count, err);
        bool uncommitted = store->log != NULL && shard->last_lsn > kv_log_committed(store->log);
        kv_shard_unlock(shard);
        if (status == KV_OK && db->deferred != NULL && uncommitted) {
            kv_deferred_note_newest(db);
            if (kv_log_rollbacks(store->log) != rollbacks) { /* it was undone meanwhile: look again */
                for (size_t i = 0; i < *count; i++)
                    kv_entry_release(table->entries, (*entries)[i]);
                continue;
            }
        }
        if (status != KV_BUSY)
            return status;
        capacity = *count + *count / 4 + 1;
        kv_entry **larger = kv_mem_realloc(*entries, capacity * sizeof **entries);
        if (larger == NULL)
            return kv_fail_nomem(err, capacity * sizeof **entries);
        *entries = larger;
    }
}

/* Visits those of the shard that count, up to `max`; *next as above, or where the shard goes on. */
static kv_status visit_shard(kv_db *db, uint64_t position, size_t max, size_t *visited,
                             uint64_t *next, void (*visit)(void *arg, const kv_item *item),
                             void *arg, kv_error *err) {
    kv_store *store = db->store;
    kv_entry **entries;
    size_t count = 0, kept = 0;
    kv_status status = collect(db, position, &entries, &count, next, err);
    found *list = NULL;
    if (status < 0)
        count = 0; /* we have none of them */
    if (status == KV_OK && count > 0) {
        list = kv_mem_alloc(count * sizeof *list);
        if (list == NULL)
            status = kv_fail_nomem(err, count * sizeof *list);
    }
    uint64_t now_ms = kv_store_now(store);
    for (size_t i = 0; list != NULL && i < count; i++) {
        uint64_t hash = kv_table_hash(&store->table, kv_entry_key(entries[i]));
        if (hash >= position && !kv_entry_is_expired(entries[i], now_ms))
            list[kept++] = (found){hash, entries[i]};
    }
    if (kept > max) /* else their order does not matter */
        qsort(list, kept, sizeof *list, by_hash);
    size_t end = kept < max ? kept : max;
    while (end < kept && list[end].hash == list[end - 1].hash)
        end++; /* a position cannot stand between two of one hash */
    if (end < kept)
        *next = list[end].hash;
    for (size_t i = 0; i < end; i++) {
        const kv_entry *e = list[i].entry;
        kv_item item = {.key = kv_entry_key(e), .value = kv_entry_value(e),
                        .expiry = kv_entry_expiry(e), .pin = list[i].entry};
        visit(arg, &item);
    }
    *visited = end;
    for (size_t i = 0; i < count; i++)
        kv_entry_release(store->table.entries, entries[i]);
    kv_mem_free(list);
    kv_mem_free(entries);
    return status;
}

kv_status kv_scan(kv_db *db, uint64_t *position, size_t max,
                  void (*visit)(void *arg, const kv_item *item), void *arg, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    uint64_t at = *position;
    for (unsigned shards = 0; max > 0 && shards < SHARDS_MAX && status == KV_OK; shards++) {
        size_t visited = 0;
        status = visit_shard(db, at, max, &visited, &at, visit, arg, err);
        max -= visited < max ? visited : max;
        if (at == 0)
            break;
    }
    if (status == KV_OK)
        *position = at;
    kv_db_leave(db);
    return status;
}

kv_status kv_random_position(kv_db *db, uint64_t *position, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    const kv_os *os = db->store->options.os;
    int result = os->random(os->ctx, position, sizeof *position);
    if (result < 0)
        status = kv_fail_sys(err, -result, "", "cannot draw random bytes");
    kv_db_leave(db);
    return status;
}
