/* batch.c - many puts and deletes in one atomic commit.  change.h tells the life of a write. */
#include "change.h"
#include "worker.h"

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
    kv_db *db;
    kv_store *store; /* the handle's */
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
    kv_room room;
    bool twice; /* a key with a condition stands in it twice */
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
                b->twice |= item.op->conditional || b->items[at].op->conditional;
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
        if (!kv_pool_alloc_many(pool, sizes, blocks, many))
            return kv_fail_nomem(err, many * sizes[0]);
        for (size_t j = 0; j < many; j++) {
            __builtin_prefetch(blocks[j], 1);
            __builtin_prefetch((char *)blocks[j] + 64, 1);
        }
        for (size_t j = 0; j < many; j++)
            puts[j]->new = kv_entry_init(blocks[j], puts[j]->op->key, puts[j]->op->value,
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
            kv_shard_prefetch_bucket(shard, b->items[i].hash);
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
    item->new = kv_entry_create_expiring(pool, item->op->key,
                                         kv_entry_value(item->old), item->op->expiry);
    return item->new != NULL ? KV_OK : kv_fail_nomem(err, kv_entry_size(item->old));
}

/* Whether the key still has the entry that the caller knows, or still has none. */
static bool holds(const batch *b, const batch_item *item) {
    const kv_entry *alive = item->old != NULL && !kv_entry_is_expired(item->old, b->now_ms) ? item->old : NULL;
    return !item->op->conditional || alive == item->op->expected;
}

/* What each item finds, under the locks.  KV_UNCHANGED: a condition does not hold. */
static kv_status batch_look(batch *b, kv_error *err) {
    enum { AHEAD = 16 };
    b->record_count = 0;
    b->bytes = 0;
    b->entries_change = 0;
    b->deleted = 0;
    b->charge = 0;
    for (size_t i = 0; i < b->count && i < AHEAD; i++)
        kv_shard_prefetch_entry(b->shards[b->items[i].shard], b->items[i].hash);
    for (size_t i = 0; i < b->count; i++) {
        if (i + AHEAD < b->count) {
            const batch_item *ahead = &b->items[i + AHEAD];
            kv_shard_prefetch_entry(b->shards[ahead->shard], ahead->hash);
        }
        batch_item *item = &b->items[i];
        const kv_op *op = item->op;
        bool put = item->kind == KV_OP_PUT;
        item->old = kv_shard_find(b->shards[item->shard], item->hash, op->key, &item->place);
        item->effective =
            put || (item->old != NULL && !kv_entry_is_expired(item->old, b->now_ms) &&
                    item->kind != KV_OP_EXPECT);
        if (!holds(b, item)) {
            b->record_count = 0;
            return KV_UNCHANGED;
        }
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
            b->charge += (item->kind != KV_OP_DELETE ? kv_change_charge(item->new) : 0) -
                         kv_change_charge(item->old);
    }
    if (b->record_count > 0)
        b->records[b->record_count - 1].last = true;
    return KV_OK;
}

/* As many undo records as the batch has log records; a retry may have some already. */
static kv_status batch_get_undo(batch *b, kv_error *err) {
    size_t more = b->record_count > b->undo_count ? b->record_count - b->undo_count : 0;
    if (!kv_undo_create_many(&b->store->table, b->undo + b->undo_count, more))
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
            kv_change_note_use(shard, item->hash, item->new, item->old);
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
        dead = kv_change_enter(b->store, shard, lsn, record, dead);
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
        if (kv_change_needs_record(b->store, b->shards[i], lsn))
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
        kv_status attached = batch_attach(b, ticket, err);
        status = attached != KV_OK ? attached : status;
        goto out;
    }
    if (b->store->log != NULL)
        status = batch_get_undo(b, err);
    if (status == KV_OK)
        status = kv_store_charge(b->store, b->charge, err);
    if (status < 0)
        goto out;
    status = kv_change_append(b->store, b->records, b->record_count, b->bytes, b->entries_change,
                              b->flags, ticket, err);
    if (status == KV_OK && b->store->log == NULL && batch_needs_records(b, ticket->lsn))
        status = batch_get_undo(b, err);
    if (status != KV_OK)
        kv_store_uncharge(b->store, b->charge);
    if (status == KV_OK) {
        dead = batch_link(b, ticket->lsn);
        kv_change_count_entries(b->store, b->entries_change);
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
        dead = kv_change_prune_for_good(b->store, shard, dead);
        kv_shard_unlock(shard);
    }
    kv_undo_free_all(table, dead);
}

static void batch_note_writes(batch *b) {
    for (size_t i = 0; i < b->count; i++)
        if (b->items[i].effective)
            kv_deferred_note_write(b->db, b->items[i].hash);
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
        kv_status waited = kv_db_finish(b->db, &ticket, err);
        if (waited == KV_OK && changed && waits && b->db->deferred != NULL)
            batch_note_writes(b);
        else if (waited == KV_OK && changed && waits)
            batch_prune(b);
        if (waited == KV_OK && waits)
            kv_store_prune_room(b->store, &b->room);
        if (waited == KV_OK)
            return status;
        if (changed || kv_log_failed(log, NULL))
            return waited;
    }
}

/* In a store that evicts: room for all of it, as if every key were new. */
static kv_status batch_make_room(batch *b, kv_error *err) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (b->items[i].new != NULL)
            bytes += kv_entry_charge(b->items[i].new);
    }
    b->room.from = atomic_load_explicit(&b->store->evict_hash, memory_order_relaxed);
    return bytes > 0 ? kv_store_make_room(b->db, &b->room, bytes, false, err) : KV_OK;
}

static kv_status check_ops(const kv_op *ops, size_t count, kv_error *err) {
    uint64_t bytes = KV_FRAME_HEADER_SIZE;
    for (size_t i = 0; i < count; i++) {
        const kv_op *op = &ops[i];
        if (op->kind != KV_OP_PUT && op->kind != KV_OP_DELETE && op->kind != KV_OP_EXPIRE &&
            op->kind != KV_OP_EXPECT)
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
    kv_status status = kv_change_begin(db, flags, err);
    if (status != KV_OK)
        return status;
    batch b = {.db = db, .store = db->store, .flags = flags};
    kv_pool *pool = db->store->table.entries;
    sort_key *keys = NULL;
    size_t scratch_size = 0;
    status = check_ops(ops, count, err);
    if (status < 0 || count == 0)
        goto out;
    /* One block for all arrays, from the pool, which keeps a few of such blocks at hand. */
    scratch_size = count * (2 * sizeof *keys + sizeof *b.items + sizeof *b.records +
                            sizeof(kv_shard *) + sizeof(kv_undo *));
    keys = kv_pool_alloc(pool, scratch_size);
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
    if (b.twice)
        status = kv_fail(err, KV_ERR_INVALID, "a key with a condition stands in the commit twice");
    if (status == KV_OK)
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
    kv_pool_free(pool, keys, scratch_size);
    kv_db_leave(db);
    return status;
}
