/* write.c - writes of one key: put, delete, the conditional ones.  change.h tells the life of a write. */
#include "../base/decimal.h"
#include "change.h"
#include "worker.h"

typedef enum action { PUT, PUT_ABSENT, REPLACE, REMOVE, INCR, EXPIRE } action;

typedef struct key_write {
    action action;
    unsigned flags;
    kv_bytes key, value, expected;
    uint64_t expiry;
    int64_t by;
    uint64_t hash;
    kv_entry *new;    /* PUT, PUT_ABSENT, REPLACE: made before; INCR, EXPIRE: made under the lock.  NULL
                         when the key is to be removed, and once it has been linked */
    int64_t result;   /* INCR */
    kv_value *old;    /* where the old value goes; may be NULL */
    bool old_is_set;
} key_write;

static kv_status decide_incr(kv_store *store, key_write *w, const kv_entry *old, kv_error *err) {
    int64_t n = 0;
    char text[KV_DECIMAL_SIZE_MAX];
    if (old != NULL && !kv_decimal_parse(kv_entry_value(old).data, kv_entry_value(old).size, &n))
        return kv_fail(err, KV_ERR_NOTINT, "the value is not a 64-bit integer in decimal");
    if (w->by > 0 ? n > INT64_MAX - w->by : n < INT64_MIN - w->by)
        return kv_fail(err, KV_ERR_RANGE, "%lld + %lld does not fit into 64 bits", (long long)n,
                       (long long)w->by);
    w->result = n + w->by;
    kv_bytes value = {text, kv_decimal_format(w->result, text)};
    w->new = kv_entry_create_expiring(store->table.entries, w->key, value,
                                      old != NULL ? kv_entry_expiry(old) : 0);
    return w->new != NULL ? KV_OK : kv_fail_nomem(err, w->key.size + value.size);
}

static kv_status decide_expire(kv_store *store, key_write *w, const kv_entry *old, kv_error *err) {
    if (old == NULL)
        return KV_NOTFOUND;
    if (w->expiry != 0 && w->expiry <= kv_store_now(store))
        return KV_OK; /* removes it */
    w->new = kv_entry_create_expiring(store->table.entries, w->key, kv_entry_value(old),
                                      w->expiry);
    return w->new != NULL ? KV_OK : kv_fail_nomem(err, kv_entry_size(old));
}

/* KV_OK: w->new is to take the place of `old`.  Otherwise nothing is to be changed. */
static kv_status decide(kv_store *store, key_write *w, const kv_entry *old, kv_error *err) {
    switch (w->action) {
    case PUT:
        return KV_OK;
    case PUT_ABSENT:
        return old == NULL ? KV_OK : KV_UNCHANGED;
    case REPLACE: {
        if (old == NULL || old->value_size != w->expected.size)
            return KV_UNCHANGED;
        bool equal = w->expected.size == 0 ||
                     memcmp(kv_entry_value(old).data, w->expected.data, w->expected.size) == 0;
        return equal ? KV_OK : KV_UNCHANGED;
    }
    case REMOVE:
        return old != NULL ? KV_OK : KV_NOTFOUND;
    case INCR:
        return decide_incr(store, w, old, err);
    case EXPIRE:
        break;
    }
    return decide_expire(store, w, old, err);
}

/* Gives the old value out; once, also when the write has to begin again. */
static void give_old(kv_store *store, key_write *w, kv_entry *old) {
    if (w->old == NULL || old == NULL)
        return;
    if (w->old_is_set)
        kv_value_release(w->old);
    kv_value_set(store, old, w->flags, w->old);
    w->old_is_set = true;
}

/* What a change leaves to be freed when the shard is unlocked. */
typedef struct remains {
    kv_undo *records;
    kv_entry *entry;
} remains;

/* Links w->new (or removes) under the shard's lock.  `old` and `place` are of this moment.  Nothing is
 * changed unless KV_OK. */
static kv_status change_locked(kv_store *store, kv_shard *shard, key_write *w, kv_entry *old,
                               kv_place place, kv_ticket *ticket, remains *dead, kv_error *err) {
    kv_undo *record = NULL;
    if (store->log != NULL) {
        record = kv_undo_create(&store->table);
        if (record == NULL)
            return kv_fail_nomem(err, sizeof *record);
    }
    kv_record r = {.kind = w->new != NULL ? KV_RECORD_PUT : KV_RECORD_DELETE, .last = true};
    r.key = w->new != NULL ? kv_entry_key(w->new) : w->key;
    if (w->new != NULL) {
        r.expiry = kv_entry_expiry(w->new);
        if (w->action == EXPIRE)
            r.kind = KV_RECORD_EXPIRE;
        else
            r.value = kv_entry_value(w->new);
    }
    int64_t entries_change = (w->new != NULL) - (old != NULL);
    int64_t charge =
        kv_store_is_bounded(store) ? kv_change_charge(w->new) - kv_change_charge(old) : 0;
    kv_status status = kv_store_charge(store, charge, err);
    if (status == KV_OK) {
        status = kv_change_append(store, &r, 1,
                                  kv_record_size(r.key.size, r.value.size, r.expiry),
                                  entries_change, w->flags, ticket, err);
        if (status == KV_OK && record == NULL &&
            kv_change_needs_record(store, shard, ticket->lsn)) {
            record = kv_undo_create(&store->table);
            if (record == NULL) /* an LSN without a change: no harm */
                status = kv_fail_nomem(err, sizeof *record);
        }
        if (status != KV_OK)
            kv_store_uncharge(store, charge);
    }
    if (status != KV_OK) {
        kv_undo_discard(&store->table, record);
        return status;
    }
    if (w->new != NULL)
        kv_store_note_expiry(store, r.expiry);
    if (store->evicts && w->new != NULL)
        kv_change_note_use(shard, w->hash, w->new, old);
    if (old == NULL)
        kv_shard_insert(shard, w->hash, w->new);
    else if (w->new != NULL)
        kv_shard_replace(shard, place, w->new);
    else
        kv_shard_remove(shard, w->hash, place);
    if (record != NULL)
        kv_undo_set_change(record, ticket->lsn, w->hash, old, w->new);
    else
        dead->entry = old;
    w->new = NULL; /* the table's now */
    dead->records = kv_change_enter(store, shard, ticket->lsn, record, NULL);
    kv_change_count_entries(store, entries_change);
    return KV_OK;
}

/* Whether the outcome, with nothing changed, says something about the value that is there. */
static bool tells_value(kv_status outcome) {
    return outcome == KV_NOTFOUND || outcome == KV_UNCHANGED || outcome == KV_ERR_NOTINT ||
           outcome == KV_ERR_RANGE;
}

/* Steps 2 to 5.  KV_BUSY: begin again, after a pause when there is a log. */
static kv_status try_write(kv_store *store, key_write *w, kv_ticket *ticket, kv_error *err) {
    remains dead = {0};
    kv_place place = {0};
    kv_status status, outcome;
    kv_shard *shard;
    status = kv_table_lock_loaded(&store->table, w->hash, (w->flags & KV_NOWAIT) != 0, &shard, err);
    if (status != KV_OK)
        return status;
    kv_entry *old = kv_shard_find(shard, w->hash, w->key, &place);
    if (old == NULL && w->action != REMOVE && w->action != REPLACE && w->action != EXPIRE) {
        status = kv_shard_reserve(&store->table, shard, 1, err);
        while (status == KV_BUSY && kv_shard_owns(shard, w->hash))
            status = kv_shard_reserve(&store->table, shard, 1, err);
        if (status != KV_OK) {
            kv_shard_unlock(shard);
            /* It was split, and the hash is the other half's: that one has room. */
            return status == KV_BUSY ? try_write(store, w, ticket, err) : status;
        }
    }
    /* One that has expired is replaced like any other, but nobody may see it. */
    kv_entry *alive = kv_store_alive(store, old);
    outcome = decide(store, w, alive, err);
    if (outcome == KV_OK || outcome == KV_UNCHANGED)
        give_old(store, w, alive);
    if (outcome == KV_OK) {
        outcome = change_locked(store, shard, w, old, place, ticket, &dead, err);
    } else if (tells_value(outcome) && store->log != NULL) {
        /* The answer tells what another thread wrote: it may leave only when that is committed. */
        uint64_t lsn = kv_undo_latest_change(shard, w->hash, w->key,
                                             kv_log_committed(store->log));
        kv_status attached = lsn != 0 ? kv_log_attach(store->log, lsn, ticket, err) : KV_OK;
        if (attached != KV_OK)
            outcome = attached;
    }
    kv_shard_unlock(shard);
    kv_entry_release(store->table.entries, dead.entry);
    kv_undo_free_all(&store->table, dead.records);
    if (outcome != KV_OK && w->action >= INCR) {
        kv_entry_release(store->table.entries, w->new); /* made again next time */
        w->new = NULL;
    }
    return outcome;
}

static kv_status check_write(const key_write *w, kv_error *err) {
    kv_status status = kv_check_key(w->key, err);
    if (status == KV_OK)
        status = kv_check_value(w->value, err);
    return status == KV_OK ? kv_check_expiry(w->expiry, err) : status;
}

/* What the write can take at the most. */
static uint64_t most_charge(const key_write *w) {
    switch (w->action) {
    case REMOVE:
        return 0;
    case EXPIRE:
        return sizeof w->expiry;
    case INCR:
        return w->key.size + KV_DECIMAL_SIZE_MAX + KV_ITEM_CHARGE + sizeof w->expiry;
    default:
        return kv_entry_charge(w->new);
    }
}

static kv_status write_key(kv_db *db, key_write *w, kv_error *err) {
    kv_status status = kv_change_begin(db, w->flags, err);
    if (status != KV_OK)
        return status;
    kv_store *store = db->store;
    kv_ticket ticket = {0};
    kv_room room = {0};
    status = check_write(w, err);
    if (status < 0)
        goto out;
    w->hash = room.from = kv_table_hash(&store->table, w->key);
    kv_shard *likely = kv_table_prefetch_shard(&store->table, w->hash);
    if (w->action <= REPLACE) {
        w->new = kv_entry_create_expiring(store->table.entries, w->key, w->value,
                                          w->expiry);
        if (w->new == NULL) {
            status = kv_fail_nomem(err,
                                   kv_entry_block_size(w->key.size, w->value.size, w->expiry));
            goto out;
        }
    }
    kv_shard_prefetch_bucket(likely, w->hash); /* by now the shard is there */
    if (store->evicts) {
        bool nowait = (w->flags & KV_NOWAIT) != 0;
        status = kv_store_make_room(db, &room, most_charge(w), nowait, err);
        if (status != KV_OK) {
            kv_entry_release(store->table.entries, w->new);
            goto out;
        }
    }
    if (w->expiry != 0)
        kv_worker_start(store); /* for memory-only stores, which have none before */
    for (;;) {
        if (store->log != NULL && kv_log_is_full(store->log))
            kv_log_pause(store->log);
        ticket = (kv_ticket){0};
        status = try_write(store, w, &ticket, err);
        if (status == KV_BUSY && store->log != NULL) {
            kv_log_pause(store->log);
            continue;
        }
        if (ticket.group == NULL)
            break;
        kv_status waited = kv_db_finish(db, &ticket, err);
        if (waited == KV_OK) {
            if (status == KV_OK && db->deferred != NULL)
                kv_deferred_note_write(db, w->hash);
            else if (status == KV_OK && !room.evicted)
                kv_store_prune_hash(store, w->hash);
            kv_store_prune_room(store, &room); /* that shard is among them */
            break;
        }
        if (status == KV_OK || kv_log_failed(store->log, NULL)) {
            status = waited;
            break;
        }
        /* We saw a change that was then undone: look again. */
    }
    kv_entry_release(store->table.entries, w->new);
    /* An earlier try may have given a value out that the last one does not. */
    if (w->old_is_set && status != (w->action == REMOVE ? KV_OK : KV_UNCHANGED))
        kv_value_release(w->old);
out:
    kv_db_leave(db);
    return status;
}

kv_status kv_put(kv_db *db, kv_bytes key, kv_bytes value, unsigned flags, kv_error *err) {
    key_write w = {.action = PUT, .flags = flags, .key = key, .value = value};
    return write_key(db, &w, err);
}

kv_status kv_put_expiring(kv_db *db, kv_bytes key, kv_bytes value, uint64_t expiry,
                          unsigned flags, kv_error *err) {
    key_write w = {.action = PUT, .flags = flags, .key = key, .value = value, .expiry = expiry};
    if (expiry != 0 && expiry <= kv_clock_ms(db)) {
        kv_status status = kv_check_value(value, err);
        if (status == KV_OK)
            status = kv_delete(db, key, flags, err);
        return status == KV_NOTFOUND ? KV_OK : status;
    }
    return write_key(db, &w, err);
}

kv_status kv_expire(kv_db *db, kv_bytes key, uint64_t expiry, unsigned flags, kv_error *err) {
    key_write w = {.action = EXPIRE, .flags = flags, .key = key, .expiry = expiry};
    return write_key(db, &w, err);
}

kv_status kv_delete(kv_db *db, kv_bytes key, unsigned flags, kv_error *err) {
    key_write w = {.action = REMOVE, .flags = flags, .key = key};
    return write_key(db, &w, err);
}

kv_status kv_pop(kv_db *db, kv_bytes key, unsigned flags, kv_value *value, kv_error *err) {
    key_write w = {.action = REMOVE, .flags = flags, .key = key, .old = value};
    return write_key(db, &w, err);
}

kv_status kv_put_absent(kv_db *db, kv_bytes key, kv_bytes value, unsigned flags,
                        kv_value *existing, kv_error *err) {
    key_write w = {.action = PUT_ABSENT, .flags = flags, .key = key, .value = value,
                   .old = existing};
    return write_key(db, &w, err);
}

kv_status kv_replace(kv_db *db, kv_bytes key, kv_bytes value, kv_bytes expected, unsigned flags,
                     kv_error *err) {
    key_write w = {.action = REPLACE, .flags = flags, .key = key, .value = value,
                   .expected = expected};
    return write_key(db, &w, err);
}

kv_status kv_incr(kv_db *db, kv_bytes key, int64_t by, unsigned flags, int64_t *result,
                  kv_error *err) {
    key_write w = {.action = INCR, .flags = flags, .key = key, .by = by};
    kv_status status = write_key(db, &w, err);
    if (status == KV_OK)
        *result = w.result;
    return status;
}

/* ---- Some key ------------------------------------------------------------------------------------------ */

typedef struct chooser {
    kv_entry *chosen;
    uint64_t now_ms;
} chooser;

static void choose(void *arg, kv_entry *e) {
    chooser *c = arg;
    if (!kv_entry_is_expired(e, c->now_ms))
        c->chosen = e;
}

/* Some entry, with a reference, from the first shard at or behind the hint that has one; NULL: there is none. */
static kv_status any_entry(kv_store *store, kv_entry **found, kv_error *err) {
    uint64_t start = atomic_load_explicit(&store->pop_hash, memory_order_relaxed);
    uint64_t hash = start;
    bool wrapped = false;
    chooser c = {.now_ms = kv_store_now(store)};
    for (;;) {
        kv_shard *shard = kv_table_lock(&store->table, hash);
        if (!kv_shard_is_loaded(shard)) {
            kv_status status = kv_table_load_locked(&store->table, hash, &shard, err);
            if (status < 0)
                return status;
        }
        uint64_t last = kv_shard_range_last(shard);
        if (shard->count > 0)
            kv_array_visit(kv_shard_array(shard), choose, &c);
        if (c.chosen != NULL) {
            kv_entry_acquire(c.chosen);
            atomic_store_explicit(&store->pop_hash, shard->range_start, memory_order_relaxed);
        }
        kv_shard_unlock(shard);
        if (c.chosen != NULL || (wrapped && last >= start)) {
            *found = c.chosen;
            return KV_OK;
        }
        wrapped |= last == UINT64_MAX;
        hash = last + 1;
    }
}

kv_status kv_pop_any(kv_db *db, unsigned flags, kv_item *item, kv_error *err) {
    if (flags & KV_NOWAIT)
        return KV_BUSY; /* a walk over shards cannot promise not to wait */
    for (;;) {
        kv_status status = kv_change_begin(db, flags, err);
        if (status != KV_OK)
            return status;
        kv_store *store = db->store;
        uint64_t rollbacks = kv_change_rollbacks(store);
        kv_entry *e = NULL;
        status = any_entry(store, &e, err);
        if (status < 0) {
            kv_db_leave(db);
            return status;
        }
        if (e == NULL) {
            status = kv_change_confirm_empty(db, rollbacks, err);
            kv_db_leave(db);
            if (status == KV_BUSY)
                continue;
            return status < 0 ? status : KV_NOTFOUND;
        }
        kv_value value;
        status = kv_pop(db, kv_entry_key(e), flags | KV_PIN, &value, err);
        kv_entry_release(store->table.entries, e);
        kv_db_leave(db);
        if (status < 0)
            return status;
        if (status == KV_OK) {
            kv_entry *popped = value.pin;
            *item = (kv_item){.key = kv_entry_key(popped), .value = kv_entry_value(popped),
                              .expiry = kv_entry_expiry(popped), .pin = popped};
            return KV_OK;
        }
        /* Somebody else took it: look for another. */
    }
}

/* ---- Durability ---------------------------------------------------------------------------------------- */

kv_status kv_make_durable(kv_db *db, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    if (db->store->log != NULL)
        status = kv_log_make_durable(db->store->log, err);
    kv_db_leave(db);
    return status;
}
