/* write.c - everything that changes the store.
 *
 * The life of a write:
 *   1. build the entry, outside of any lock
 *   2. lock the shard (a batch: all its shards, in the order of their hashes)
 *   3. decide; get all memory: from here on nothing can fail but the append
 *   4. append to the log, which gives the LSN
 *   5. link the entry, push what it replaced on the undo list
 *   6. unlock; wait until the LSN is committed; drop undo records that nobody needs any more
 *
 * An append that answers KV_BUSY (a rollback is going on) sends the write back to 2.
 */
#include <assert.h>

#include "../base/mem.h"
#include "evict.h"
#include "snapshot.h"
#include "store.h"
#include "worker.h"

#define MERGE_MIN 128u        /* records of a shard before it is looked at */
#define MERGE_BOUNDS_MAX 64u  /* with more snapshots than that, nothing is merged */
#define INTEGER_SIZE_MAX 20u /* "-9223372036854775808" */

/* ---- Undo records ------------------------------------------------------------------------------- */

/* Drops what nobody needs from the locked shard; the records, before those of `dead`, are to be freed
 * after unlocking. */
static kv_undo *prune_locked(kv_store *store, kv_shard *shard, kv_undo *dead) {
    return shard->undo == NULL ? dead : kv_undo_prune(shard, kv_store_limit(store, shard), dead);
}

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
    if (shard->undo != NULL &&
        (atomic_load_explicit(&store->oldest_snapshot, memory_order_relaxed) != KV_NO_SNAPSHOT ||
         atomic_load_explicit(&store->walk_lsn, memory_order_relaxed) != KV_NO_SNAPSHOT))
        atomic_store_explicit(&store->snapshots_hold, true, memory_order_relaxed);
}

void kv_store_prune_hash(kv_store *store, uint64_t hash) {
    kv_shard *shard = kv_table_lock(&store->table, hash);
    kv_undo *dead = prune_locked(store, shard, NULL);
    kv_shard_unlock(shard);
    kv_undo_free_all(&store->table, dead);
}

void kv_store_prune_all(kv_store *store) {
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_lock(&store->table, hash);
        uint64_t last = kv_shard_range_last(shard);
        kv_undo *dead = prune_locked(store, shard, NULL);
        note_held(store, shard);
        kv_shard_unlock(shard);
        kv_undo_free_all(&store->table, dead);
        if (last == UINT64_MAX)
            return;
        hash = last + 1;
    }
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

/* Whether the change at `lsn` must leave a record: it is not committed, or a snapshot is older. */
static bool needs_record(kv_store *store, const kv_shard *shard, uint64_t lsn) {
    return store->log != NULL || lsn > kv_store_limit(store, shard);
}

/* Enters the change at `lsn` into the shard's history, with its record if it has one.  What is to be freed,
 * before those of `dead`, comes back, for after unlocking. */
static kv_undo *enter_change(kv_store *store, kv_shard *shard, uint64_t lsn, kv_undo *record,
                             kv_undo *dead) {
    dead = prune_locked(store, shard, dead);
    shard->last_lsn = lsn;
    if (record == NULL) {
        assert(shard->undo == NULL);
        shard->pruned_lsn = lsn;
        return dead;
    }
    kv_undo_push(shard, record);
    note_held(store, shard);
    if (shard->undo_count > MERGE_MIN && shard->undo_count > shard->undo_merge_at)
        dead = merge_locked(store, shard, dead);
    return dead;
}

/* ---- The log, or its place in a store without one ------------------------------------------------- */

/* Gives the commit its LSN.  KV_BUSY: see kv_log_append.  Without a log it cannot fail, and may be
 * forgotten. */
static kv_status append(kv_store *store, const kv_record *records, size_t count, uint64_t bytes,
                        int64_t entries_change, unsigned flags, kv_ticket *ticket,
                        kv_error *err) {
    if (store->log != NULL)
        return kv_log_append(store->log, records, count, bytes, entries_change,
                             (flags & KV_SYNC) != 0, ticket, err);
    /* Visible at once: readers of the shards concerned wait for their locks, which we hold. */
    ticket->lsn = atomic_fetch_add(&store->memory_lsn, 1) + 1;
    ticket->group = NULL;
    return KV_OK;
}

/* The log counts keys itself, with each group that it commits. */
static void count_entries(kv_store *store, int64_t change) {
    if (store->log == NULL && change != 0)
        atomic_fetch_add_explicit(&store->memory_entries, (uint64_t)change, memory_order_relaxed);
}

static kv_status wait_for(kv_store *store, kv_ticket *ticket, kv_error *err) {
    return ticket->group != NULL ? kv_log_wait(store->log, ticket, err) : KV_OK;
}

/* What every write begins with. */
static kv_status begin(kv_db *db, unsigned flags, kv_error *err) {
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

/* ---- One key ---------------------------------------------------------------------------------------- */

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

/* The value as a 64-bit integer: "-"? digits, without leading zeros; nothing else. */
static bool parse_integer(kv_bytes value, int64_t *result) {
    const uint8_t *p = value.data, *end = p + value.size;
    bool negative = value.size > 0 && *p == '-';
    uint64_t n = 0, max = negative ? UINT64_C(1) << 63 : (uint64_t)INT64_MAX;
    p += negative;
    if (p == end || end - p >= (ptrdiff_t)INTEGER_SIZE_MAX || (*p == '0' && value.size > 1))
        return false;
    for (; p < end; p++) {
        unsigned digit = (unsigned)*p - '0';
        if (digit > 9 || n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *result = negative ? (int64_t)(0 - n) : (int64_t)n;
    return true;
}

static size_t format_integer(int64_t n, char *text) {
    char reversed[INTEGER_SIZE_MAX];
    uint64_t rest = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    size_t digits = 0, size = 0;
    do {
        reversed[digits++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (n < 0)
        text[size++] = '-';
    while (digits > 0)
        text[size++] = reversed[--digits];
    return size;
}

static kv_status decide_incr(kv_store *store, key_write *w, const kv_entry *old, kv_error *err) {
    int64_t n = 0;
    char text[INTEGER_SIZE_MAX];
    if (old != NULL && !parse_integer(kv_entry_value(old), &n))
        return kv_fail(err, KV_ERR_NOTINT, "the value is not a 64-bit integer in decimal");
    if (w->by > 0 ? n > INT64_MAX - w->by : n < INT64_MIN - w->by)
        return kv_fail(err, KV_ERR_RANGE, "%lld + %lld does not fit into 64 bits", (long long)n,
                       (long long)w->by);
    w->result = n + w->by;
    kv_bytes value = {text, format_integer(w->result, text)};
    w->new = kv_entry_create_expiring(store->table.entries, w->hash, w->key, value,
                                      old != NULL ? kv_entry_expiry(old) : 0);
    return w->new != NULL ? KV_OK : kv_fail_nomem(err, w->key.size + value.size);
}

static kv_status decide_expire(kv_store *store, key_write *w, const kv_entry *old, kv_error *err) {
    if (old == NULL)
        return KV_NOTFOUND;
    if (w->expiry != 0 && w->expiry <= kv_store_now(store))
        return KV_OK; /* removes it */
    w->new = kv_entry_create_expiring(store->table.entries, w->hash, w->key, kv_entry_value(old),
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
        return decide_expire(store, w, old, err);
    }
    return KV_OK;
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

static int64_t charge_of(const kv_entry *e) {
    return e != NULL ? (int64_t)kv_entry_charge(e) : 0;
}

/* What a change leaves to be freed when the shard is unlocked. */
typedef struct remains {
    kv_undo *records;
    kv_entry *entry;
} remains;

/* In a store that evicts, before `new` is linked: what evict.h wants to know.  `old`: what it replaces, or NULL. */
static void note_use(kv_shard *shard, uint64_t hash, kv_entry *new, const kv_entry *old) {
    if (old != NULL)
        kv_evict_note_replace(new, old);
    else
        kv_evict_note_new(shard, hash);
}

/* Links w->new (or removes) under the shard's lock.  `old` and `place` are of this moment.  Nothing is
 * changed unless KV_OK. */
static kv_status change_locked(kv_store *store, kv_shard *shard, key_write *w, kv_entry *old,
                               kv_place place, kv_ticket *ticket, remains *dead, kv_error *err) {
    kv_undo *record = NULL;
    if (store->log != NULL) {
        record = kv_undo_create(&store->table, w->hash);
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
    int64_t charge = kv_store_is_bounded(store) ? charge_of(w->new) - charge_of(old) : 0;
    kv_status status = kv_store_charge(store, charge, err);
    if (status == KV_OK) {
        status = append(store, &r, 1, kv_record_size(r.key.size, r.value.size, r.expiry),
                        entries_change, w->flags, ticket, err);
        if (status == KV_OK && record == NULL && needs_record(store, shard, ticket->lsn)) {
            record = kv_undo_create(&store->table, w->hash);
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
        note_use(shard, w->hash, w->new, old);
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
    dead->records = enter_change(store, shard, ticket->lsn, record, NULL);
    count_entries(store, entries_change);
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

static kv_status write_key(kv_db *db, key_write *w, kv_error *err) {
    kv_status status = begin(db, w->flags, err);
    if (status != KV_OK)
        return status;
    kv_store *store = db->store;
    kv_ticket ticket = {0};
    status = check_write(w, err);
    if (status < 0)
        goto out;
    w->hash = kv_table_hash(&store->table, w->key);
    if (w->action <= REPLACE) {
        w->new = kv_entry_create_expiring(store->table.entries, w->hash, w->key, w->value,
                                          w->expiry);
        if (w->new == NULL) {
            status = kv_fail_nomem(err,
                                   kv_entry_block_size(w->key.size, w->value.size, w->expiry));
            goto out;
        }
        if (store->evicts)
            status = kv_store_make_room(store, w->hash, kv_entry_charge(w->new), err);
        if (status < 0) {
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
        kv_status waited = wait_for(store, &ticket, err);
        if (waited == KV_OK) {
            if (status == KV_OK)
                kv_store_prune_hash(store, w->hash);
            break;
        }
        if (status == KV_OK || kv_log_failed(store->log, err)) {
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
    if (!kv_undo_create_many(&store->table, kv_hash_stripe(shard->range_start), undo, count))
        return kv_fail_nomem(err, count * sizeof(kv_undo));
    status = append(store, records, count, bytes, -(int64_t)count, 0, ticket, err);
    for (size_t i = 0; i < count && status == KV_OK; i++) {
        kv_place place = {0};
        uint64_t hash = kv_table_hash(&store->table, kv_entry_key(entries[i]));
        kv_entry *found = kv_shard_find(shard, hash, kv_entry_key(entries[i]), &place);
        assert(found == entries[i]);
        kv_shard_remove(shard, hash, place);
        if (store->evicts)
            kv_evict_note_evicted(place, hash);
        kv_undo_set_change(undo[i], ticket->lsn, hash, found, NULL);
        *dead = enter_change(store, shard, ticket->lsn, undo[i], *dead);
        undo[i] = NULL;
    }
    if (status == KV_OK) {
        count_entries(store, -(int64_t)count);
        kv_store_uncharge(store, (int64_t)charge);
        *dead = prune_locked(store, shard, *dead); /* without a log: at once */
    }
    for (size_t i = 0; i < count; i++)
        kv_undo_discard(&store->table, undo[i]);
    return status;
}

/* ---- An empty store ---------------------------------------------------------------------------------- */

static uint64_t rollbacks_so_far(const kv_store *store) {
    return store->log != NULL ? kv_log_rollbacks(store->log) : 0;
}

/* The store was seen empty, which may be another thread's doing and not committed yet: waits until it
 * is.  KV_BUSY: it was undone (`rollbacks` is from before the look), so look again. */
static kv_status confirm_empty(kv_store *store, uint64_t rollbacks, kv_error *err) {
    if (store->log == NULL)
        return KV_OK;
    kv_log_pause(store->log);
    if (kv_log_rollbacks(store->log) == rollbacks)
        return KV_OK;
    return kv_log_failed(store->log, err) ? KV_ERR_FAILED : KV_BUSY;
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
        if (shard->count > 0 && !kv_shard_is_loaded(shard)) {
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
        kv_status status = begin(db, flags, err);
        if (status != KV_OK)
            return status;
        kv_store *store = db->store;
        uint64_t rollbacks = rollbacks_so_far(store);
        kv_entry *e = NULL;
        status = any_entry(store, &e, err);
        if (status < 0) {
            kv_db_leave(db);
            return status;
        }
        if (e == NULL) {
            status = confirm_empty(store, rollbacks, err);
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

/* ---- Batches ---------------------------------------------------------------------------------------------- */

typedef struct batch_item {
    uint64_t hash;
    const kv_op *op;
    kv_op_kind kind; /* the operation's; KV_OP_DELETE instead when the expiry is past */
    kv_entry *new;   /* NULL: a delete, or linked */
    kv_entry *old;
    kv_place place;
    uint32_t shard; /* index in batch.shards */
    bool effective; /* not a delete of a key that is not there */
} batch_item;

typedef struct batch {
    kv_store *store;
    batch_item *items; /* in the order of hashes, each key once */
    kv_record *records;
    kv_shard **shards; /* locked, in order */
    kv_undo **undo;    /* one for each record, or none */
    size_t count, shard_count, record_count, undo_count;
    uint64_t bytes;
    int64_t entries_change, charge;
    uint64_t deleted;
    uint64_t now_ms; /* 0 when nothing in the store expires */
    unsigned flags;
} batch;

typedef struct sort_key {
    uint64_t hash;
    const kv_op *op;
} sort_key;

/* Stable, by hash: radix passes over the upper bits, then insertion among near neighbours.  `keys` and
 * `spare` have room for `count` each. */
static void sort_by_hash(sort_key *keys, sort_key *spare, size_t count) {
    unsigned bits = 8;
    while (bits < 32 && (size_t)1 << bits < count)
        bits += 8;
    for (unsigned shift = 64 - bits; shift < 64; shift += 8) {
        size_t starts[257] = {0};
        for (size_t i = 0; i < count; i++)
            starts[(keys[i].hash >> shift & 0xff) + 1]++;
        for (unsigned i = 1; i <= 256; i++)
            starts[i] += starts[i - 1];
        for (size_t i = 0; i < count; i++)
            spare[starts[keys[i].hash >> shift & 0xff]++] = keys[i];
        memcpy(keys, spare, count * sizeof *keys);
    }
    for (size_t i = 1; i < count; i++) {
        sort_key key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1].hash > key.hash; at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

static bool same_key(const batch_item *item, const kv_op *op, uint64_t hash) {
    size_t size = op->key.size;
    return item->hash == hash && item->op->key.size == size &&
           (size == 0 || memcmp(item->op->key.data, op->key.data, size) == 0);
}

/* The items in order, of several on one key the last. */
static void batch_fill(batch *b, const sort_key *keys, size_t count) {
    b->count = 0;
    for (size_t i = 0; i < count; i++) {
        batch_item item = {.hash = keys[i].hash, .op = keys[i].op, .kind = keys[i].op->kind};
        if (item.op->expiry != 0 && item.kind != KV_OP_DELETE && item.op->expiry <= b->now_ms)
            item.kind = KV_OP_DELETE;
        size_t at = b->count;
        /* Different keys of one hash can stand between: look at all of that hash. */
        while (at > 0 && b->items[at - 1].hash == item.hash) {
            at--;
            if (same_key(&b->items[at], item.op, item.hash)) {
                b->items[at] = item;
                goto next;
            }
        }
        b->items[b->count++] = item;
    next:;
    }
}

/* Builds the entries, a few under each of the pool's locks. */
static kv_status batch_build(batch *b, kv_error *err) {
    enum { MANY = 64 };
    kv_pool *pool = b->store->table.entries;
    unsigned stripe = kv_hash_stripe(b->items[0].hash);
    batch_item *puts[MANY];
    size_t sizes[MANY], many = 0;
    void *blocks[MANY];
    for (size_t i = 0; i < b->count; i++) {
        const kv_op *op = b->items[i].op;
        if (b->items[i].kind == KV_OP_PUT) {
            puts[many] = &b->items[i];
            sizes[many++] = kv_entry_block_size(op->key.size, op->value.size, op->expiry);
        }
        if (many < MANY && i + 1 < b->count)
            continue;
        if (!kv_pool_alloc_many(pool, stripe, sizes, blocks, many))
            return kv_fail_nomem(err, many * sizes[0]);
        for (size_t j = 0; j < many; j++) {
            __builtin_prefetch(blocks[j], 1);
            __builtin_prefetch((char *)blocks[j] + 64, 1);
        }
        for (size_t j = 0; j < many; j++)
            puts[j]->new = kv_entry_init(blocks[j], stripe, puts[j]->op->key, puts[j]->op->value,
                                         puts[j]->op->expiry);
        many = 0;
    }
    return KV_OK;
}

/* Brings the shards of all items into memory: that reads from disk, which must not be done under the locks of
 * others. */
static kv_status batch_load(batch *b, kv_error *err) {
    kv_table *table = &b->store->table;
    kv_status status = KV_OK;
    for (size_t i = 0; i < b->count && status == KV_OK && !kv_table_is_loaded(table); i++) {
        kv_shard *shard;
        status = kv_table_lock_loaded(table, b->items[i].hash, false, &shard, err);
        if (status == KV_OK)
            kv_shard_unlock(shard);
    }
    return status;
}

/* Locks the shards of all items, each with room for those that it may get. */
static kv_status batch_lock(batch *b, kv_error *err) {
    kv_table *table = &b->store->table;
    enum { AHEAD = 12 };
    b->shard_count = 0;
    for (size_t i = 0; i < b->count;) {
        kv_shard *shard = kv_table_lock(table, b->items[i].hash);
        b->shards[b->shard_count++] = shard;
        size_t end;
        kv_status status;
        do {
            uint32_t puts = 0;
            for (end = i; end < b->count && kv_shard_owns(shard, b->items[end].hash); end++)
                puts += b->items[end].kind == KV_OP_PUT;
            /* The new right half of a shard that splits here is locked after this one, as the order
             * wants it. */
            status = kv_shard_reserve(table, shard, puts, err);
        } while (status == KV_BUSY && end > i && kv_shard_owns(shard, b->items[i].hash));
        if (status < 0)
            return status;
        if (status == KV_BUSY) { /* the right half has them all */
            kv_shard_unlock(b->shards[--b->shard_count]);
            continue;
        }
        assert(end > i && b->shard_count <= b->count);
        for (; i < end; i++) {
            b->items[i].shard = (uint32_t)(b->shard_count - 1);
            if (i + AHEAD < b->count)
                kv_table_prefetch_shard(table, b->items[i + AHEAD].hash);
        }
    }
    return KV_OK;
}

static void batch_unlock(batch *b) {
    while (b->shard_count > 0)
        kv_shard_unlock(b->shards[--b->shard_count]);
}

/* The entry with another expiry that takes the old one's place. */
static kv_status batch_expire(batch *b, batch_item *item, kv_error *err) {
    kv_pool *pool = b->store->table.entries;
    kv_entry_release(pool, item->new); /* of an earlier try */
    item->new = kv_entry_create_expiring(pool, item->hash, item->op->key,
                                         kv_entry_value(item->old), item->op->expiry);
    return item->new != NULL ? KV_OK : kv_fail_nomem(err, kv_entry_size(item->old));
}

/* What each item finds, under the locks. */
static kv_status batch_look(batch *b, kv_error *err) {
    enum { AHEAD = 16 };
    b->record_count = 0;
    b->bytes = 0;
    b->entries_change = 0;
    b->deleted = 0;
    b->charge = 0;
    for (size_t i = 0; i < b->count && i < AHEAD; i++)
        kv_shard_prefetch_bucket(b->shards[b->items[i].shard], b->items[i].hash);
    for (size_t i = 0; i < b->count; i++) {
        if (i + AHEAD < b->count) {
            batch_item *ahead = &b->items[i + AHEAD];
            kv_shard_prefetch_bucket(b->shards[ahead->shard], ahead->hash);
            ahead = &b->items[i + AHEAD / 2];
            kv_shard_prefetch_entry(b->shards[ahead->shard], ahead->hash);
        }
        batch_item *item = &b->items[i];
        const kv_op *op = item->op;
        bool put = item->kind == KV_OP_PUT;
        item->old = kv_shard_find(b->shards[item->shard], item->hash, op->key, &item->place);
        item->effective =
            put || (item->old != NULL && !kv_entry_is_expired(item->old, b->now_ms));
        if (!item->effective)
            continue;
        if (item->kind == KV_OP_EXPIRE) {
            kv_status status = batch_expire(b, item, err);
            if (status < 0)
                return status;
        }
        kv_record *r = &b->records[b->record_count++];
        /* From the entry: the caller's bytes are read once, so that memory and log agree even when
         * somebody changes them meanwhile. */
        *r = (kv_record){.kind = (kv_record_kind)item->kind};
        r->key = put ? kv_entry_key(item->new) : op->key;
        if (put)
            r->value = kv_entry_value(item->new);
        if (item->kind != KV_OP_DELETE)
            r->expiry = kv_entry_expiry(item->new);
        b->bytes += kv_record_size(r->key.size, r->value.size, r->expiry);
        b->entries_change += (item->kind != KV_OP_DELETE) - (item->old != NULL);
        b->deleted += op->kind == KV_OP_DELETE;
        if (kv_store_is_bounded(b->store))
            b->charge += (item->kind != KV_OP_DELETE ? charge_of(item->new) : 0) - charge_of(item->old);
    }
    if (b->record_count > 0)
        b->records[b->record_count - 1].last = true;
    return KV_OK;
}

/* As many undo records as the batch has log records; a retry may have some already. */
static kv_status batch_get_undo(batch *b, kv_error *err) {
    size_t more = b->record_count > b->undo_count ? b->record_count - b->undo_count : 0;
    unsigned stripe = kv_hash_stripe(b->items[0].hash);
    if (!kv_undo_create_many(&b->store->table, stripe, b->undo + b->undo_count, more))
        return kv_fail_nomem(err, more * sizeof(kv_undo));
    b->undo_count += more;
    return KV_OK;
}

/* Links everything.  Old entries that no undo record holds stay in their items; undo records to be
 * freed come back. */
static kv_undo *batch_link(batch *b, uint64_t lsn) {
    kv_undo *dead = NULL;
    bool with_undo = b->undo_count > 0;
    for (size_t i = 0; i < b->count; i++) {
        batch_item *item = &b->items[i];
        if (!item->effective)
            continue;
        kv_shard *shard = b->shards[item->shard];
        if (b->store->evicts && item->new != NULL)
            note_use(shard, item->hash, item->new, item->old);
        if (item->old == NULL)
            kv_shard_insert(shard, item->hash, item->new);
        else if (item->new != NULL)
            kv_shard_replace(shard, item->place, item->new);
        else
            kv_shard_remove(shard, item->hash, item->place);
        if (item->new != NULL)
            kv_store_note_expiry(b->store, kv_entry_expiry(item->new));
        kv_undo *record = NULL;
        if (with_undo) {
            record = b->undo[--b->undo_count];
            kv_undo_set_change(record, lsn, item->hash, item->old, item->new);
            item->old = NULL;
        }
        dead = enter_change(b->store, shard, lsn, record, dead);
        item->new = NULL;
    }
    return dead;
}

/* The old entries that no undo record has taken over. */
static void batch_release_old(batch *b) {
    for (size_t i = 0; i < b->count; i++)
        if (b->items[i].effective)
            kv_entry_release(b->store->table.entries, b->items[i].old);
}

/* When nothing is to be changed: the latest commit that made it so. */
static kv_status batch_attach(batch *b, kv_ticket *ticket, kv_error *err) {
    uint64_t latest = 0;
    if (b->store->log == NULL)
        return KV_OK;
    uint64_t committed = kv_log_committed(b->store->log);
    for (size_t i = 0; i < b->count; i++) {
        uint64_t lsn = kv_undo_latest_change(b->shards[b->items[i].shard], b->items[i].hash,
                                             b->items[i].op->key, committed);
        if (lsn > latest)
            latest = lsn;
    }
    return latest == 0 ? KV_OK : kv_log_attach(b->store->log, latest, ticket, err);
}

static bool batch_needs_records(const batch *b, uint64_t lsn) {
    for (size_t i = 0; i < b->shard_count; i++)
        if (needs_record(b->store, b->shards[i], lsn))
            return true;
    return false;
}

static kv_status batch_try(batch *b, kv_ticket *ticket, kv_error *err) {
    kv_undo *dead = NULL;
    *ticket = (kv_ticket){0};
    kv_status status = batch_lock(b, err);
    bool linked = false;
    if (status == KV_OK)
        status = batch_look(b, err);
    if (status < 0)
        goto out;
    if (b->record_count == 0) {
        status = batch_attach(b, ticket, err);
        goto out;
    }
    if (b->store->log != NULL)
        status = batch_get_undo(b, err);
    if (status == KV_OK)
        status = kv_store_charge(b->store, b->charge, err);
    if (status < 0)
        goto out;
    status = append(b->store, b->records, b->record_count, b->bytes, b->entries_change, b->flags,
                    ticket, err);
    if (status == KV_OK && b->store->log == NULL && batch_needs_records(b, ticket->lsn))
        status = batch_get_undo(b, err);
    if (status != KV_OK)
        kv_store_uncharge(b->store, b->charge);
    if (status == KV_OK) {
        dead = batch_link(b, ticket->lsn);
        count_entries(b->store, b->entries_change);
        linked = true;
    }
out:
    batch_unlock(b);
    if (linked)
        batch_release_old(b);
    kv_undo_free_all(&b->store->table, dead);
    return status;
}

static void batch_prune(batch *b) {
    enum { AHEAD = 16 };
    kv_table *table = &b->store->table;
    kv_undo *dead = NULL;
    uint64_t last = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (i + AHEAD < b->count)
            kv_table_prefetch_shard(table, b->items[i + AHEAD].hash);
        if (i > 0 && b->items[i].hash <= last)
            continue; /* in the shard that was just pruned */
        kv_shard *shard = kv_table_lock(table, b->items[i].hash);
        last = kv_shard_range_last(shard);
        dead = prune_locked(b->store, shard, dead);
        kv_shard_unlock(shard);
    }
    kv_undo_free_all(table, dead);
}

static kv_status batch_commit(batch *b, kv_error *err) {
    kv_log *log = b->store->log;
    for (;;) {
        kv_ticket ticket;
        if (log != NULL && kv_log_is_full(log))
            kv_log_pause(log);
        kv_status status = batch_try(b, &ticket, err);
        if (status == KV_BUSY) {
            kv_log_pause(log);
            continue;
        }
        if (status < 0)
            return status;
        bool changed = b->record_count > 0;
        bool waits = ticket.group != NULL;
        status = wait_for(b->store, &ticket, err);
        if (status == KV_OK && changed && waits)
            batch_prune(b);
        if (status == KV_OK || changed || kv_log_failed(log, err))
            return status;
    }
}

/* In a store that evicts: room for all of it, as if every key were new. */
static kv_status batch_make_room(batch *b, kv_error *err) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (b->items[i].new != NULL)
            bytes += kv_entry_charge(b->items[i].new);
    }
    uint64_t hash = atomic_load_explicit(&b->store->evict_hash, memory_order_relaxed);
    return bytes > 0 ? kv_store_make_room(b->store, hash, bytes, err) : KV_OK;
}

static kv_status check_ops(const kv_op *ops, size_t count, kv_error *err) {
    uint64_t bytes = KV_FRAME_HEADER_SIZE;
    for (size_t i = 0; i < count; i++) {
        const kv_op *op = &ops[i];
        if (op->kind != KV_OP_PUT && op->kind != KV_OP_DELETE && op->kind != KV_OP_EXPIRE)
            return kv_fail(err, KV_ERR_INVALID, "operation %zu has the unknown kind %d", i,
                           (int)op->kind);
        kv_status status = kv_check_key(op->key, err);
        if (status == KV_OK && op->kind == KV_OP_PUT)
            status = kv_check_value(op->value, err);
        if (status == KV_OK)
            status = kv_check_expiry(op->expiry, err);
        if (status < 0)
            return status;
        bytes += kv_record_size(op->key.size, op->kind == KV_OP_PUT ? op->value.size : 0,
                                op->expiry);
    }
    if (bytes > KV_COMMIT_MAX)
        return kv_fail(err, KV_ERR_LIMIT, "a batch has %llu bytes in the log; the limit is %u",
                       (unsigned long long)bytes, KV_COMMIT_MAX);
    return KV_OK;
}

kv_status kv_write(kv_db *db, const kv_op *ops, size_t count, unsigned flags, uint64_t *deleted,
                   kv_error *err) {
    if (flags & KV_NOWAIT)
        return KV_BUSY; /* many locks */
    kv_status status = begin(db, flags, err);
    if (status != KV_OK)
        return status;
    batch b = {.store = db->store, .flags = flags};
    kv_pool *pool = db->store->table.entries;
    sort_key *keys = NULL;
    size_t scratch_size = 0;
    status = check_ops(ops, count, err);
    if (status < 0 || count == 0)
        goto out;
    /* One block for all arrays, from the pool, which keeps a few of such blocks at hand. */
    scratch_size = count * (2 * sizeof *keys + sizeof *b.items + sizeof *b.records +
                            sizeof(kv_shard *) + sizeof(kv_undo *));
    keys = kv_pool_alloc(pool, 0, scratch_size);
    if (keys == NULL) {
        status = kv_fail_nomem(err, scratch_size);
        goto out;
    }
    b.items = (batch_item *)(keys + 2 * count);
    b.records = (kv_record *)(b.items + count);
    b.shards = (kv_shard **)(b.records + count);
    b.undo = (kv_undo **)(b.shards + count);
    bool expires = false;
    for (size_t i = 0; i < count; i++) {
        keys[i] = (sort_key){kv_table_hash(&b.store->table, ops[i].key), &ops[i]};
        kv_table_prefetch_shard(&b.store->table, keys[i].hash);
        expires |= ops[i].expiry != 0;
    }
    if (expires)
        kv_worker_start(b.store);
    if (expires || atomic_load(&b.store->next_expiry) != KV_NO_EXPIRY)
        b.now_ms = kv_store_now(b.store);
    sort_by_hash(keys, keys + count, count);
    batch_fill(&b, keys, count);
    status = batch_build(&b, err);
    if (status == KV_OK)
        status = batch_load(&b, err);
    if (status == KV_OK && b.store->evicts)
        status = batch_make_room(&b, err);
    if (status == KV_OK)
        status = batch_commit(&b, err);
    for (size_t i = 0; i < b.count; i++) /* what was not linked */
        kv_entry_release(pool, b.items[i].new);
    while (b.undo_count > 0)
        kv_undo_discard(&b.store->table, b.undo[--b.undo_count]);
out:
    if (status == KV_OK && deleted != NULL)
        *deleted = b.deleted;
    kv_pool_free(pool, 0, keys, scratch_size);
    kv_db_leave(db);
    return status;
}

/* ---- Clearing ------------------------------------------------------------------------------------------------ */

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
        item->undo = kv_undo_create(&store->table, 0);
        if (item->empty == 0 || item->undo == NULL)
            return kv_fail_nomem(err, sizeof(kv_bucket) + sizeof *item->undo);
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
        item->undo->lsn = lsn;
        item->undo->kind = KV_UNDO_CLEAR;
        item->undo->clear.array = kv_shard_array(shard);
        item->undo->clear.data_bytes = shard->data_bytes;
        item->undo->clear.count = shard->count;
        item->undo->clear.expiring = shard->expiring;
        atomic_store_explicit(&shard->array, item->empty, memory_order_relaxed);
        shard->count = 0;
        shard->data_bytes = 0;
        shard->expiring = 0;
        if (needs_record(store, shard, lsn)) {
            item->dead = enter_change(store, shard, lsn, item->undo, NULL);
        } else {
            item->dead = item->undo;
            item->undo->next = enter_change(store, shard, lsn, NULL, NULL);
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
            status = append(store, &record, 1, kv_record_size(0, 0, 0), -(int64_t)c->entries, flags,
                            ticket, err);
        if (status == KV_OK) {
            clear_link(store, c, ticket->lsn);
            count_entries(store, -(int64_t)c->entries);
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
    kv_status status = begin(db, flags, err);
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
        uint64_t rollbacks = rollbacks_so_far(store);
        while ((status = clear_try(store, &c, flags, &ticket, err)) == KV_BUSY)
            kv_log_pause(store->log);
        if (status == KV_OK)
            status = c.entries > 0 ? wait_for(store, &ticket, err)
                                   : confirm_empty(store, rollbacks, err);
    } while (status == KV_BUSY);
    if (status == KV_OK && store->log != NULL)
        kv_store_prune_all(store);
    kv_mem_free(c.items);
    kv_db_leave(db);
    return status;
}

kv_status kv_make_durable(kv_db *db, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    if (db->store->log != NULL)
        status = kv_log_make_durable(db->store->log, err);
    kv_db_leave(db);
    return status;
}
