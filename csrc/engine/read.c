/* read.c - get, get_many, contains, count.
 *
 * A reader sees the state at the visible LSN.  It takes that LSN under the shard's lock, so records
 * that were pruned meanwhile were at or below it, and what the undo list still holds leads back to it.
 * On a deferred handle it sees the newest state, and notes what it is to wait for.
 */
#include "../base/mem.h"
#include "deferred.h"
#include "evict.h"
#include "snapshot.h"
#include "store.h"

#define BLOCK 64u            /* keys of a get_many whose memory is fetched at the same time */
#define MANY_COPY_MAX 1024u  /* larger values are pinned, not copied */
#define MANY_TRIES 3u        /* optimistic attempts of a get_many, before it takes a snapshot */
#define COUNT_TRIES 3u       /* looks of a count at the newest state, before it waits for the visible one */
#define CHUNK_MIN 4096u
#define CHUNK_MAX (1u << 20)

/* ---- One key ---------------------------------------------------------------------------------- */

static kv_entry *find_visible(kv_store *store, const kv_shard *shard, uint64_t hash,
                              kv_bytes key) {
    kv_place place;
    kv_entry *e = kv_shard_find(shard, hash, key, &place);
    if (shard->undo != NULL) /* else all its changes have been visible before they were pruned */
        e = kv_undo_look_behind(shard, hash, key, kv_store_visible(store), e);
    e = kv_store_alive(store, e);
    if (store->evicts && e != NULL)
        kv_evict_note_use(e);
    return e;
}

/* The same on a deferred handle: the newest entry.  KV_BUSY: it is being undone, look again. */
static kv_status find_newest(kv_db *db, const kv_shard *shard, uint64_t hash, kv_bytes key,
                             kv_entry **e, kv_error *err) {
    kv_store *store = db->store;
    kv_place place;
    *e = kv_shard_find(shard, hash, key, &place);
    if (shard->undo != NULL && store->log != NULL) {
        kv_status status = kv_deferred_note_seen(db, shard, hash, key, err);
        if (status < 0) /* it has failed for good: only what is committed counts */
            *e = kv_undo_look_behind(shard, hash, key, kv_store_visible(store), *e);
        else if (status != KV_OK)
            return status;
    }
    *e = kv_store_alive(store, *e);
    if (store->evicts && *e != NULL)
        kv_evict_note_use(*e);
    return KV_OK;
}

/* Begins every read of one key.  KV_OK: look_end ends it; until then *e is the entry, or NULL when there is none. */
static inline kv_status look(kv_db *db, kv_bytes key, unsigned flags, kv_shard **shard,
                             kv_entry **e, kv_error *err) {
    *e = NULL; /* for compilers that do not see that it is set */
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    status = kv_check_key(key, err);
    if (status < 0)
        goto out;
    kv_table *table = &db->store->table;
    uint64_t hash = kv_table_hash(table, key);
    for (;;) {
        status = kv_table_lock_loaded(table, hash, (flags & KV_NOWAIT) != 0, shard, err);
        if (status != KV_OK)
            goto out;
        if (db->deferred == NULL) {
            *e = find_visible(db->store, *shard, hash, key);
            return KV_OK;
        }
        if (find_newest(db, *shard, hash, key, e, err) == KV_OK)
            return KV_OK;
        kv_shard_unlock(*shard);
        kv_log_pause(db->store->log);
    }
out:
    kv_db_leave(db);
    return status;
}

/* What the read answers. */
static inline kv_status look_end(kv_db *db, kv_shard *shard, const kv_entry *e) {
    kv_shard_unlock(shard);
    kv_db_leave(db);
    return e != NULL ? KV_OK : KV_NOTFOUND;
}

kv_status kv_get(kv_db *db, kv_bytes key, unsigned flags, kv_value *value, kv_error *err) {
    kv_shard *shard;
    kv_entry *e;
    kv_status status = look(db, key, flags, &shard, &e, err);
    if (status != KV_OK)
        return status;
    if (e != NULL)
        kv_value_set(db->store, e, flags, value);
    return look_end(db, shard, e);
}

void kv_value_release(kv_value *value) {
    kv_entry *e = value->pin;
    if (e == NULL)
        return;
    kv_pool *pool = kv_pool_of(e, kv_entry_size(e));
    value->pin = NULL;
    kv_entry_release(pool, e);
    kv_pool_release(pool);
}

void kv_item_release(kv_item *item) {
    kv_value value = {.pin = item->pin};
    kv_value_release(&value);
    item->pin = NULL;
}

void kv_item_copy(const kv_item *item, kv_item *copy) {
    kv_entry *e = item->pin;
    *copy = *item;
    if (e == NULL)
        return;
    kv_entry_acquire(e);
    kv_pool_acquire(kv_pool_of(e, kv_entry_size(e)));
}

kv_status kv_contains(kv_db *db, kv_bytes key, unsigned flags, kv_error *err) {
    kv_shard *shard;
    kv_entry *e;
    kv_status status = look(db, key, flags, &shard, &e, err);
    return status == KV_OK ? look_end(db, shard, e) : status;
}

kv_status kv_get_expiry(kv_db *db, kv_bytes key, unsigned flags, uint64_t *expiry,
                        kv_error *err) {
    kv_shard *shard;
    kv_entry *e;
    kv_status status = look(db, key, flags, &shard, &e, err);
    if (status != KV_OK)
        return status;
    if (e != NULL)
        *expiry = kv_entry_expiry(e);
    return look_end(db, shard, e);
}

kv_status kv_get_item(kv_db *db, kv_bytes key, unsigned flags, kv_item *item, kv_error *err) {
    kv_shard *shard;
    kv_entry *e;
    kv_status status = look(db, key, flags, &shard, &e, err);
    if (status != KV_OK)
        return status;
    if (e != NULL) {
        kv_entry_acquire(e);
        kv_pool_acquire(db->store->table.entries);
        *item = (kv_item){.key = kv_entry_key(e), .value = kv_entry_value(e),
                          .expiry = kv_entry_expiry(e), .pin = e};
    }
    return look_end(db, shard, e);
}

uint64_t kv_clock_ms(kv_db *db) {
    const kv_os *os = &kv_os_posix;
    if (kv_db_enter(db, NULL) == KV_OK) {
        os = db->store->options.os;
        kv_db_leave(db);
    }
    return kv_os_clock_ms(os);
}

/* A deferred handle is going to answer with what is committed: its own writes must be. */
static void wait_for_own(kv_db *db) {
    kv_ticket own = kv_log_copy(&db->deferred->pending);
    (void)!kv_log_wait(db->store->log, &own, NULL); /* a failure: they were undone, and it is told with their replies */
}

/* Keys that are there, expired ones included, at the handle's moment. */
static uint64_t count_entries(kv_db *db) {
    kv_store *store = db->store;
    uint64_t entries = db->deferred != NULL ? kv_deferred_count(db)
                       : store->log != NULL ? kv_log_entries(store->log)
                                            : kv_store_keys(store);
    return entries + (uint64_t)atomic_load_explicit(&store->table.found, memory_order_relaxed);
}

/* Keys that have not expired: looks at all shards, of one moment.  On a deferred handle that is the newest state when
 * the look began, as in many_newest. */
static kv_status count_alive(kv_db *db, uint64_t *count, kv_error *err) {
    kv_store *store = db->store;
    bool newest = db->deferred != NULL && store->log != NULL;
    for (unsigned tries = 0;; tries++) {
        kv_snapshot snapshot;
        kv_ticket ticket = {0};
        uint64_t entries, lsn;
        bool visible = !newest || tries == COUNT_TRIES;
        if (newest && visible)
            wait_for_own(db);
        kv_snapshot_register(store, &snapshot);
        lsn = snapshot.lsn;
        if (!visible) {
            kv_log_newest(store->log, &ticket, &entries);
            lsn = ticket.lsn;
        }
        kv_status status = kv_store_count_alive(store, lsn, visible, snapshot.time_ms, count, err);
        kv_snapshot_unregister(store, &snapshot);
        if (ticket.group != NULL)
            kv_deferred_note(db, &ticket);
        if (status != KV_BUSY)
            return status;
    }
}

kv_status kv_count(kv_db *db, unsigned flags, uint64_t *count, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_store *store = db->store;
    bool nowait = (flags & KV_NOWAIT) != 0;
    /* First this: when a sweep has raised it, the keys that it removed are counted out already. */
    uint64_t next_expiry = atomic_load(&store->next_expiry);
    bool look = next_expiry != KV_NO_EXPIRY && next_expiry <= kv_store_now(store);
    if (nowait && (look || atomic_load(&store->tail_waits)))
        status = KV_BUSY;
    else if ((status = kv_store_catch_up(store, err)) < 0)
        ; /* the counts of some shards are not known */
    else if (look)
        status = count_alive(db, count, err);
    else
        *count = count_entries(db);
    kv_db_leave(db);
    return status;
}

/* ---- Many keys ---------------------------------------------------------------------------------- */

/* Small values are copied into chunks, which do not move. */
typedef struct chunk {
    struct chunk *next;
    size_t used, capacity;
    uint8_t bytes[];
} chunk;

typedef struct pin {
    struct pin *next;
    kv_entry *entry;
} pin;

typedef struct many {
    kv_pool *pool; /* a reference: chunks come from it, and pinned entries */
    chunk *chunks;
    pin *pins; /* in the chunks */
    size_t expected_size;
    struct kv_item_value items[];
} many;

static void *many_alloc(many *m, size_t size) {
    size = (size + 7) & ~(size_t)7;
    chunk *c = m->chunks;
    if (c == NULL || c->capacity - c->used < size) {
        size_t capacity = m->expected_size > size ? m->expected_size : size;
        c = kv_pool_alloc(m->pool, sizeof *c + capacity);
        if (c == NULL)
            return NULL;
        *c = (chunk){.next = m->chunks, .capacity = capacity};
        m->chunks = c;
    }
    void *bytes = c->bytes + c->used;
    c->used += size;
    return bytes;
}

static void many_reset(many *m) {
    for (pin *p = m->pins; p != NULL; p = p->next)
        kv_entry_release(m->pool, p->entry);
    m->pins = NULL;
    for (chunk *c = m->chunks, *next; c != NULL; c = next) {
        next = c->next;
        kv_pool_free(m->pool, c, sizeof *c + c->capacity);
    }
    m->chunks = NULL;
}

void kv_values_release(kv_values *values) {
    many *m = values->owner;
    if (m != NULL) {
        kv_pool *pool = m->pool;
        many_reset(m);
        kv_mem_free(m);
        kv_pool_release(pool);
    }
    *values = (kv_values){0};
}

/* Called with the entry's shard locked. */
static bool many_add(many *m, kv_entry *e, struct kv_item_value *item) {
    static const uint8_t nothing[1];
    kv_bytes value = kv_entry_value(e);
    item->size = value.size;
    if (value.size > MANY_COPY_MAX) {
        pin *p = many_alloc(m, sizeof *p);
        if (p == NULL)
            return false;
        *p = (pin){.next = m->pins, .entry = e};
        m->pins = p;
        kv_entry_acquire(e);
        item->data = value.data;
        item->pin = e;
        return true;
    }
    uint8_t *copy = value.size > 0 ? many_alloc(m, value.size) : NULL;
    if (copy == NULL && value.size > 0)
        return false;
    if (copy != NULL)
        memcpy(copy, value.data, value.size);
    item->data = copy != NULL ? copy : nothing;
    return true;
}

/* What moment a get_many answers for. */
typedef struct moment {
    uint64_t lsn;
    uint64_t now_ms;
    bool registered; /* a snapshot keeps it readable */
    uint64_t committed; /* on a deferred handle: what is above it was not committed when the look began */
    bool uncommitted;   /* something of that was seen, perhaps */
} moment;

/* One key, its memory fetched before.  KV_BUSY: the shard cannot tell that state any more. */
static kv_status many_one(many *m, kv_store *store, kv_shard *shard, uint64_t hash, kv_bytes key,
                          moment *at, struct kv_item_value *item, kv_error *err) {
    kv_status status = KV_OK;
    kv_mutex_lock(&shard->mutex, KV_RANK_SHARD);
    if (!kv_shard_owns(shard, hash) || !kv_shard_is_loaded(shard)) { /* it was split since */
        kv_shard_unlock(shard);
        status = kv_table_lock_loaded(&store->table, hash, false, &shard, err);
        if (status < 0)
            return status;
    }
    *item = (struct kv_item_value){0};
    at->uncommitted |= shard->last_lsn > at->committed;
    if (shard->last_lsn > at->lsn && !at->registered &&
        (shard->pruned_lsn > at->lsn || shard->merged_lsn > at->lsn)) {
        status = KV_BUSY;
    } else {
        kv_entry *e = kv_shard_find_at(shard, hash, key, at->lsn);
        if (e != NULL && kv_entry_is_expired(e, at->now_ms))
            e = NULL;
        if (store->evicts && e != NULL)
            kv_evict_note_use(e);
        if (e != NULL && !many_add(m, e, item))
            status = kv_fail_nomem(err, kv_entry_value(e).size);
    }
    kv_shard_unlock(shard);
    return status;
}

/* Only peeks, as get_many does before it looks. */
void kv_prefetch(kv_db *db, const kv_bytes *keys, size_t count) {
    uint64_t hashes[BLOCK];
    kv_shard *shards[BLOCK];
    if (kv_db_enter(db, NULL) < 0)
        return;
    unsigned n = (unsigned)(count < BLOCK ? count : BLOCK);
    for (unsigned i = 0; i < n; i++) {
        hashes[i] = kv_table_hash(&db->store->table, keys[i]);
        shards[i] = kv_table_prefetch_shard(&db->store->table, hashes[i]);
    }
    for (unsigned i = 0; i < n; i++)
        kv_shard_prefetch_bucket(shards[i], hashes[i]);
    for (unsigned i = 0; i < n; i++)
        kv_shard_prefetch_entry(shards[i], hashes[i]);
    kv_db_leave(db);
}

/* Hash all, fetch all, then answer: the misses of a block overlap. */
static kv_status many_at(many *m, kv_store *store, const kv_bytes *keys, size_t count,
                         moment *at, kv_error *err) {
    uint64_t hashes[BLOCK];
    kv_shard *shards[BLOCK];
    for (size_t start = 0; start < count; start += BLOCK) {
        unsigned n = (unsigned)(count - start < BLOCK ? count - start : BLOCK);
        const kv_bytes *block = keys + start;
        for (unsigned i = 0; i < n; i++) {
            hashes[i] = kv_table_hash(&store->table, block[i]);
            shards[i] = kv_table_prefetch_shard(&store->table, hashes[i]);
        }
        for (unsigned i = 0; i < n; i++)
            kv_shard_prefetch_bucket(shards[i], hashes[i]);
        for (unsigned i = 0; i < n; i++)
            kv_shard_prefetch_entry(shards[i], hashes[i]);
        for (unsigned i = 0; i < n; i++) {
            kv_status status = many_one(m, store, shards[i], hashes[i], block[i], at,
                                        &m->items[start + i], err);
            if (status != KV_OK)
                return status;
        }
    }
    return KV_OK;
}

/* The newest state, of one moment: what had been appended when the look began.  Undo lists lead back to it, unless
 * it is committed and pruned before we are done.  The ticket is taken before: if what we look at is undone
 * meanwhile, so is the ticket's group. */
static kv_status many_newest(many *m, kv_db *db, const kv_bytes *keys, size_t count, moment *at,
                             kv_error *err) {
    uint64_t entries;
    kv_ticket ticket;
    at->committed = kv_log_committed(db->store->log);
    kv_log_newest(db->store->log, &ticket, &entries);
    at->lsn = ticket.group != NULL ? ticket.lsn : kv_log_committed(db->store->log);
    kv_status status = many_at(m, db->store, keys, count, at, err);
    if (at->uncommitted && ticket.group != NULL)
        kv_deferred_note(db, &ticket);
    kv_log_forget(&ticket);
    return status;
}

/* All keys at one LSN.  Optimistically at the visible one: mostly no shard changes meanwhile, or its
 * undo list still leads back.  If not, a snapshot makes sure. */
static kv_status many_consistent(many *m, kv_db *db, const kv_bytes *keys, size_t count,
                                 kv_error *err) {
    kv_store *store = db->store;
    bool newest = db->deferred != NULL && store->log != NULL;
    moment at = {.now_ms = atomic_load(&store->next_expiry) != KV_NO_EXPIRY ? kv_store_now(store) : 0,
                 .committed = UINT64_MAX};
    for (unsigned tries = 0; tries < MANY_TRIES; tries++) {
        at.lsn = kv_store_take_lsn(store);
        kv_status status = newest ? many_newest(m, db, keys, count, &at, err)
                                  : many_at(m, store, keys, count, &at, err);
        if (status != KV_BUSY)
            return status;
        many_reset(m);
    }
    if (newest)
        wait_for_own(db);
    kv_snapshot snapshot;
    kv_snapshot_register(store, &snapshot);
    at = (moment){.lsn = snapshot.lsn, .now_ms = snapshot.time_ms, .registered = true};
    kv_status status = many_at(m, store, keys, count, &at, err);
    kv_snapshot_unregister(store, &snapshot);
    assert(status != KV_BUSY);
    return status;
}

kv_status kv_get_many(kv_db *db, const kv_bytes *keys, size_t count, kv_values *values,
                      kv_error *err) {
    *values = (kv_values){0};
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    for (size_t i = 0; i < count && status == KV_OK; i++)
        status = kv_check_key(keys[i], err);
    many *m = NULL;
    if (status == KV_OK) {
        m = kv_mem_alloc(sizeof *m + count * sizeof m->items[0]);
        if (m == NULL)
            status = kv_fail_nomem(err, count * sizeof m->items[0]);
    }
    if (status == KV_OK) {
        size_t expected = count * 128;
        expected = expected < CHUNK_MIN ? CHUNK_MIN : expected > CHUNK_MAX ? CHUNK_MAX : expected;
        *m = (many){.pool = db->store->table.entries, .expected_size = expected};
        kv_pool_acquire(m->pool);
        *values = (kv_values){.count = count, .items = m->items, .owner = m};
        status = many_consistent(m, db, keys, count, err);
        if (status < 0)
            kv_values_release(values);
    }
    kv_db_leave(db);
    return status;
}
