/* deferred.c - see deferred.h. */
#include "deferred.h"

#include "../base/mem.h"
#include "change.h"

#define UNSETTLED_FIRST 256u
#define UNSETTLED_MAX 65536u

/* ---- What is waited for ---------------------------------------------------------------------- */

/* How the ticket's group ended; KV_BUSY: not yet.  The ticket stays. */
static kv_status outcome(const kv_ticket *ticket) {
    kv_ticket copy = kv_log_copy(ticket);
    kv_status status = kv_log_try(&copy, NULL);
    kv_log_forget(&copy);
    return status;
}

void kv_deferred_note(kv_db *db, kv_ticket *ticket) {
    kv_ticket *pending = &db->deferred->pending;
    bool of_this_command = db->deferred->noted;
    db->deferred->noted = true;
    if (pending->group == ticket->group) {
        if (ticket->lsn > pending->lsn)
            pending->lsn = ticket->lsn;
        kv_log_forget(ticket);
    } else if (of_this_command && outcome(pending) < 0) {
        /* What the command told before was undone: a later commit that succeeds does not make it true. */
        kv_log_forget(ticket);
    } else if (pending->group == NULL || ticket->lsn > pending->lsn || outcome(pending) != KV_BUSY) {
        /* (After a rollback positions are used again, so that a later one may be lower; what was undone is done.) */
        kv_log_forget(pending);
        *pending = *ticket;
        ticket->group = NULL;
    } else {
        kv_log_forget(ticket);
    }
}

void kv_deferred_note_newest(kv_db *db) {
    uint64_t entries;
    kv_ticket ticket;
    if (db->store->log == NULL)
        return;
    kv_log_newest(db->store->log, &ticket, &entries);
    if (ticket.group != NULL)
        kv_deferred_note(db, &ticket);
}

uint64_t kv_deferred_count(kv_db *db) {
    uint64_t entries;
    kv_ticket ticket;
    if (db->store->log == NULL)
        return kv_store_keys(db->store);
    kv_log_newest(db->store->log, &ticket, &entries);
    if (ticket.group != NULL)
        kv_deferred_note(db, &ticket);
    return entries;
}

kv_status kv_deferred_note_seen(kv_db *db, const kv_shard *shard, uint64_t hash, kv_bytes key,
                                kv_error *err) {
    kv_log *log = db->store->log;
    uint64_t lsn = kv_undo_latest_change(shard, hash, key, kv_log_committed(log));
    if (lsn == 0)
        return KV_OK;
    kv_ticket ticket = {0};
    kv_status status = kv_log_attach(log, lsn, &ticket, err);
    if (status == KV_OK && ticket.group != NULL)
        kv_deferred_note(db, &ticket);
    return status;
}

const kv_group *kv_pending(const kv_db *db) {
    return db->deferred != NULL ? db->deferred->pending.group : NULL;
}

bool kv_take_noted(kv_db *db) {
    if (db->deferred == NULL || !db->deferred->noted)
        return false;
    db->deferred->noted = false;
    return true;
}

void kv_pending_ticket(kv_db *db, kv_ticket *ticket) {
    *ticket = (kv_ticket){0};
    if (db->deferred == NULL)
        return;
    kv_ticket *pending = &db->deferred->pending;
    kv_status status = outcome(pending);
    if (status == KV_BUSY) {
        *ticket = kv_log_copy(pending);
    } else if (status < 0) { /* undone meanwhile: it waits for nothing more, but what it told was wrong */
        *ticket = *pending;
        pending->group = NULL;
    } else {
        kv_log_forget(pending);
    }
}

kv_status kv_ticket_wait(kv_db *db, kv_ticket *ticket, kv_error *err) {
    if (ticket->group == NULL)
        return KV_OK;
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    status = kv_log_wait(db->store->log, ticket, err);
    kv_db_leave(db);
    return status;
}

kv_status kv_ticket_try(kv_ticket *ticket, kv_error *err) {
    return kv_log_try(ticket, err);
}

void kv_ticket_copy(const kv_ticket *ticket, kv_ticket *copy) {
    *copy = kv_log_copy(ticket);
}

void kv_ticket_forget(kv_ticket *ticket) {
    kv_log_forget(ticket);
}

/* ---- What is to be pruned ----------------------------------------------------------------------- */

void kv_deferred_note_all(kv_db *db) {
    db->deferred->unsettled_all = db->store->log != NULL;
}

void kv_deferred_note_write(kv_db *db, uint64_t hash) {
    kv_deferred *d = db->deferred;
    if (db->store->log == NULL || d->unsettled_all)
        return;
    if (d->unsettled_count == d->unsettled_capacity) {
        size_t capacity = d->unsettled_capacity > 0 ? d->unsettled_capacity * 2 : UNSETTLED_FIRST;
        uint64_t *list = capacity <= UNSETTLED_MAX
                             ? kv_mem_realloc(d->unsettled, capacity * sizeof *list)
                             : NULL;
        if (list == NULL) {
            d->unsettled_all = true;
            return;
        }
        d->unsettled = list;
        d->unsettled_capacity = capacity;
    }
    d->unsettled[d->unsettled_count++] = hash;
}

/* Prunes the shard; true: something in it is not committed yet. */
static bool settle_shard(kv_store *store, uint64_t hash, uint64_t *last, kv_undo **dead) {
    kv_shard *shard = kv_table_lock(&store->table, hash);
    *last = kv_shard_range_last(shard);
    uint64_t visible = kv_store_visible(store); /* before pruning: what is committed meanwhile is for the next time */
    if (shard->undo != NULL)
        *dead = kv_change_prune_for_good(store, shard, *dead);
    bool more = shard->undo != NULL && shard->last_lsn > visible;
    kv_shard_unlock(shard);
    return more;
}

static void settle_all(kv_store *store, kv_deferred *d) {
    kv_undo *dead = NULL;
    bool more = false;
    for (uint64_t hash = 0, last = 0;; hash = last + 1) {
        more |= settle_shard(store, hash, &last, &dead);
        kv_undo_free_all(&store->table, dead);
        dead = NULL;
        if (last == UINT64_MAX)
            break;
    }
    d->unsettled_all = more;
    d->unsettled_count = 0;
}

static void settle_list(kv_store *store, kv_deferred *d) {
    enum { AHEAD = 16 };
    kv_table *table = &store->table;
    kv_undo *dead = NULL;
    size_t kept = 0;
    for (size_t i = 0; i < d->unsettled_count; i++) {
        uint64_t last;
        if (i + AHEAD < d->unsettled_count)
            kv_table_prefetch_shard(table, d->unsettled[i + AHEAD]);
        if (settle_shard(store, d->unsettled[i], &last, &dead))
            d->unsettled[kept++] = d->unsettled[i];
    }
    d->unsettled_count = kept;
    kv_undo_free_all(table, dead);
}

void kv_deferred_settle(kv_store *store, kv_deferred *d) {
    if (d->unsettled_all)
        settle_all(store, d);
    else
        settle_list(store, d);
}

void kv_settle(kv_db *db) {
    kv_deferred *d = db->deferred;
    if (d == NULL || (d->unsettled_count == 0 && !d->unsettled_all) ||
        kv_db_enter(db, NULL) < 0)
        return;
    kv_deferred_settle(db->store, d);
    kv_db_leave(db);
}

void kv_deferred_destroy(kv_deferred *deferred) {
    if (deferred == NULL)
        return;
    kv_log_forget(&deferred->pending);
    kv_mem_free(deferred->unsettled);
    kv_mem_free(deferred);
}
