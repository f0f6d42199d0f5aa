/* clear.c - deleting every key in one atomic commit.  change.h tells the life of a write. */
#include "../base/mem.h"
#include "change.h"

typedef struct cleared {
    kv_shard *shard; /* locked */
    kv_array empty;
    kv_undo *undo;
    kv_undo *dead; /* to be freed */
} cleared;

typedef struct clearing {
    cleared *items;
    size_t count, capacity;
    uint64_t entries;
    int64_t charge;
} clearing;

static kv_status clear_lock_all(kv_store *store, clearing *c, kv_error *err) {
    c->count = 0;
    c->entries = 0;
    c->charge = 0;
    for (uint64_t hash = 0;;) {
        if (c->count == c->capacity) {
            size_t capacity = c->capacity > 0 ? c->capacity * 2 : 64;
            cleared *items = kv_mem_realloc(c->items, capacity * sizeof *items);
            if (items == NULL)
                return kv_fail_nomem(err, capacity * sizeof *items);
            c->items = items;
            c->capacity = capacity;
        }
        cleared *item = &c->items[c->count];
        *item = (cleared){.shard = kv_table_lock(&store->table, hash)};
        c->count++;
        c->entries += item->shard->count;
        c->charge += (int64_t)kv_shard_charge(item->shard);
        uint64_t last = kv_shard_range_last(item->shard);
        if (last == UINT64_MAX)
            return KV_OK;
        hash = last + 1;
    }
}

static kv_status clear_get_memory(kv_store *store, clearing *c, kv_error *err) {
    for (size_t i = 0; i < c->count; i++) {
        cleared *item = &c->items[i];
        if (item->shard->count == 0)
            continue;
        item->empty = kv_array_create(&store->table, 0);
        item->undo = kv_undo_create_clear(&store->table);
        if (item->empty == 0 || item->undo == NULL)
            return kv_fail_nomem(err, sizeof(kv_bucket) + sizeof(kv_undo_clear));
    }
    return KV_OK;
}

/* Each shard gets an empty array; the old one goes into an undo record as a whole. */
static void clear_link(kv_store *store, clearing *c, uint64_t lsn) {
    for (size_t i = 0; i < c->count; i++) {
        cleared *item = &c->items[i];
        kv_shard *shard = item->shard;
        if (item->undo == NULL)
            continue;
        kv_undo_set_clear(item->undo, lsn, shard);
        kv_shard_set_array(shard, item->empty);
        shard->count = 0;
        shard->data_bytes = 0;
        shard->expiring = 0;
        if (kv_change_needs_record(store, shard, lsn)) {
            item->dead = kv_change_enter(store, shard, lsn, item->undo, NULL);
        } else {
            item->dead = item->undo;
            item->undo->next = kv_change_enter(store, shard, lsn, NULL, NULL);
        }
        item->undo = NULL;
        item->empty = 0;
    }
}

static kv_status clear_try(kv_store *store, clearing *c, unsigned flags, kv_ticket *ticket,
                           kv_error *err) {
    kv_record record = {.kind = KV_RECORD_CLEAR, .last = true};
    *ticket = (kv_ticket){0};
    kv_status status = clear_lock_all(store, c, err);
    if (status == KV_OK && c->entries > 0) {
        status = clear_get_memory(store, c, err);
        if (status == KV_OK)
            status = kv_change_append(store, &record, 1, kv_record_size(0, 0, 0),
                                      -(int64_t)c->entries, flags, ticket, err);
        if (status == KV_OK) {
            clear_link(store, c, ticket->lsn);
            kv_change_count_entries(store, -(int64_t)c->entries);
            kv_store_uncharge(store, c->charge);
        }
    }
    for (size_t i = c->count; i > 0; i--)
        kv_shard_unlock(c->items[i - 1].shard);
    for (size_t i = 0; i < c->count; i++) {
        kv_array_free(&store->table, c->items[i].empty);
        kv_undo_discard(&store->table, c->items[i].undo);
        kv_undo_free_all(&store->table, c->items[i].dead);
    }
    return status;
}

kv_status kv_clear(kv_db *db, unsigned flags, kv_error *err) {
    if (flags & KV_NOWAIT)
        return KV_BUSY;
    kv_status status = kv_change_begin(db, flags, err);
    if (status != KV_OK)
        return status;
    kv_store *store = db->store;
    clearing c = {0};
    kv_ticket ticket;
    /* What is not in memory could not be put back by a rollback, nor be seen by snapshots. */
    status = kv_store_load_all(store, NULL, NULL, NULL, err);
    if (status < 0) {
        kv_db_leave(db);
        return status;
    }
    do {
        uint64_t rollbacks = kv_change_rollbacks(store);
        while ((status = clear_try(store, &c, flags, &ticket, err)) == KV_BUSY)
            kv_log_pause(store->log);
        if (status == KV_OK)
            status = c.entries > 0 ? kv_db_finish(db, &ticket, err)
                                   : kv_change_confirm_empty(db, rollbacks, err);
    } while (status == KV_BUSY);
    if (status == KV_OK && db->deferred != NULL)
        kv_deferred_note_all(db);
    else if (status == KV_OK && store->log != NULL)
        kv_store_prune_all(store);
    kv_mem_free(c.items);
    kv_db_leave(db);
    return status;
}
