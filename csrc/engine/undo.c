/* undo.c - see undo.h. */
#include "undo.h"

#include "../base/mem.h"

#define MANY 64u /* blocks taken or given back under one lock */

kv_undo *kv_undo_create(kv_table *table, uint64_t hash) {
    unsigned stripe = kv_hash_stripe(hash);
    kv_undo *record = kv_pool_alloc(table->entries, stripe, sizeof *record);
    if (record != NULL)
        record->stripe = (uint8_t)stripe;
    return record;
}

bool kv_undo_create_many(kv_table *table, unsigned stripe, kv_undo **records, size_t count) {
    size_t sizes[MANY];
    for (size_t i = 0; i < MANY; i++)
        sizes[i] = sizeof(kv_undo);
    for (size_t made = 0; made < count;) {
        size_t part = count - made < MANY ? count - made : MANY;
        if (!kv_pool_alloc_many(table->entries, stripe, sizes, (void **)&records[made], part)) {
            while (made > 0)
                kv_undo_discard(table, records[--made]);
            return false;
        }
        for (size_t end = made + part; made < end; made++)
            records[made]->stripe = (uint8_t)stripe;
    }
    return true;
}

void kv_undo_discard(kv_table *table, kv_undo *record) {
    if (record != NULL)
        kv_pool_free(table->entries, record->stripe, record, sizeof *record);
}

void kv_undo_push(kv_shard *shard, kv_undo *record) {
    assert(shard->undo == NULL || record->lsn >= shard->undo->lsn);
    if (shard->undo == NULL)
        shard->undo_oldest_lsn = record->lsn;
    record->next = shard->undo;
    shard->undo = record;
    shard->undo_count++;
    if (record->kind == KV_UNDO_CLEAR)
        shard->undo_clears++;
}

/* An entry with the key of a change; one that was merged away still has it. */
static const kv_entry *record_entry(const kv_undo *r) {
    return r->change.before ? r->change.before : r->change.after;
}

static bool has_key(const kv_undo *r, uint64_t hash, kv_bytes key) {
    return r->change.hash == hash && kv_entry_has_key(record_entry(r), key);
}

static bool concerns(const kv_undo *record, uint64_t hash, kv_bytes key) {
    return record->kind == KV_UNDO_CHANGE && has_key(record, hash, key);
}

kv_entry *kv_undo_look_behind(const kv_shard *shard, uint64_t hash, kv_bytes key, uint64_t lsn,
                              kv_entry *newest) {
    kv_entry *found = newest;
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > lsn; r = r->next) {
        kv_place place;
        if (r->kind == KV_UNDO_CLEAR)
            found = kv_array_find(r->clear.array, hash, key, &place);
        else if (concerns(r, hash, key))
            found = r->change.before;
    }
    return found;
}

uint64_t kv_undo_latest_change(const kv_shard *shard, uint64_t hash, kv_bytes key, uint64_t lsn) {
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > lsn; r = r->next)
        if (r->kind == KV_UNDO_CLEAR || concerns(r, hash, key))
            return r->lsn;
    return 0;
}

/* ---- Pruning ----------------------------------------------------------------------------------- */

kv_undo *kv_undo_prune(kv_shard *shard, uint64_t lsn, kv_undo *dead) {
    if (shard->undo == NULL || shard->undo_oldest_lsn > lsn)
        return dead;
    kv_undo **end = &shard->undo, *newer = NULL;
    while ((*end)->lsn > lsn) {
        newer = *end;
        end = &newer->next;
    }
    kv_undo *first = *end;
    *end = NULL;
    shard->undo_oldest_lsn = newer != NULL ? newer->lsn : 0;
    shard->pruned_lsn = first->lsn;
    for (kv_undo *r = first;; r = r->next) {
        shard->undo_count--;
        if (r->kind == KV_UNDO_CLEAR)
            shard->undo_clears--;
        if (r->next == NULL) {
            r->next = dead;
            return first;
        }
    }
}

/* ---- Merging ------------------------------------------------------------------------------------ */

/* The newest record of each key in one interval between snapshots; a small open-addressing table, at most
 * half full.  A slot of another round is a free one. */
typedef struct latest {
    struct latest_slot {
        kv_undo *record;
        uint32_t round;
    } *slots;
    size_t mask;
    uint32_t round;
} latest;

static struct latest_slot *latest_find(const latest *l, const kv_undo *r) {
    kv_bytes key = kv_entry_key(record_entry(r));
    size_t i = (size_t)r->change.hash & l->mask;
    while (l->slots[i].round == l->round && !has_key(l->slots[i].record, r->change.hash, key))
        i = (i + 1) & l->mask;
    return &l->slots[i];
}

kv_undo *kv_undo_merge(kv_shard *shard, const uint64_t *bounds, size_t count, kv_undo *dead) {
    latest l = {.mask = 15};
    while (l.mask + 1 < (size_t)shard->undo_count * 2)
        l.mask = l.mask * 2 + 1;
    l.slots = kv_mem_alloc_zero((l.mask + 1) * sizeof *l.slots);
    if (l.slots == NULL)
        return dead; /* later, then */
    uint64_t lower = bounds[count - 1]; /* of the interval; round 0: above all bounds */
    for (kv_undo *r = shard->undo; r != NULL; r = r->next) {
        if (r->lsn <= lower || (r->kind == KV_UNDO_CLEAR && l.round > 0))
            l.round++;
        while (r->lsn <= lower && count > 0) {
            count--;
            lower = count > 0 ? bounds[count - 1] : 0;
        }
        if (r->kind == KV_UNDO_CLEAR || l.round == 0)
            continue;
        struct latest_slot *slot = latest_find(&l, r);
        if (slot->round == l.round) {
            /* Nobody reads at an LSN from r's up to the newer one's: what stood between is not needed. */
            kv_undo *newer = slot->record;
            r->change.after = newer->change.after;
            newer->kind = KV_UNDO_MERGED;
            if (newer->lsn > shard->merged_lsn)
                shard->merged_lsn = newer->lsn;
            if (r->change.before == NULL && r->change.after == NULL) {
                r->kind = KV_UNDO_MERGED; /* it came and went: nothing is left to be told */
                continue;
            }
        }
        *slot = (struct latest_slot){r, l.round};
    }
    kv_mem_free(l.slots);
    uint64_t oldest_lsn = 0;
    kv_undo **end = &shard->undo;
    for (kv_undo *r = shard->undo, *next; r != NULL; r = next) {
        next = r->next;
        if (r->kind == KV_UNDO_MERGED) {
            *end = next;
            r->kind = KV_UNDO_CHANGE; /* to be freed with what it holds */
            r->next = dead;
            dead = r;
            shard->undo_count--;
        } else {
            end = &r->next;
            oldest_lsn = r->lsn;
        }
    }
    shard->undo_oldest_lsn = oldest_lsn;
    return dead;
}

/* Blocks on their way back to the pool, by stripe. */
typedef struct sweeper {
    kv_pool *pool;
    size_t counts[KV_POOL_STRIPES];
    void *blocks[KV_POOL_STRIPES][MANY];
    size_t sizes[KV_POOL_STRIPES][MANY];
} sweeper;

static void sweep_stripe(sweeper *s, unsigned stripe) {
    kv_pool_free_many(s->pool, stripe, s->blocks[stripe], s->sizes[stripe], s->counts[stripe]);
    s->counts[stripe] = 0;
}

static void sweep_block(sweeper *s, unsigned stripe, void *block, size_t size) {
    if (s->counts[stripe] == MANY)
        sweep_stripe(s, stripe);
    s->blocks[stripe][s->counts[stripe]] = block;
    s->sizes[stripe][s->counts[stripe]++] = size;
}

static void sweep_entry(void *arg, kv_entry *e) {
    if (e != NULL && kv_entry_drop(e))
        sweep_block(arg, e->stripe, e, kv_entry_size(e));
}

static void free_one(kv_table *table, kv_undo *r) {
    kv_entry_release(table->entries, r->change.before);
    kv_undo_discard(table, r);
}

void kv_undo_free_all(kv_table *table, kv_undo *records) {
    if (records == NULL)
        return;
    if (records->next == NULL && records->kind == KV_UNDO_CHANGE) {
        free_one(table, records); /* the most frequent case by far */
        return;
    }
    sweeper s;
    s.pool = table->entries;
    memset(s.counts, 0, sizeof s.counts);
    while (records != NULL) {
        /* A block of them at a time, so that the misses on their entries overlap. */
        kv_undo *block[MANY];
        size_t count = 0;
        for (; count < MANY && records != NULL; records = records->next) {
            block[count++] = records;
            if (records->kind == KV_UNDO_CHANGE)
                __builtin_prefetch(records->change.before, 1);
        }
        for (size_t i = 0; i < count; i++) {
            kv_undo *r = block[i];
            if (r->kind == KV_UNDO_CLEAR) {
                kv_array_visit(r->clear.array, sweep_entry, &s);
                kv_array_free(table, r->clear.array);
            } else {
                sweep_entry(&s, r->change.before);
            }
            sweep_block(&s, r->stripe, r, sizeof *r);
        }
    }
    for (unsigned stripe = 0; stripe < KV_POOL_STRIPES; stripe++)
        sweep_stripe(&s, stripe);
}

/* ---- Rolling back -------------------------------------------------------------------------------- */

static void undo_clear(kv_table *table, kv_shard *shard, kv_undo *r) {
    /* What was put after the clear has been undone before: the present array is empty. */
    assert(shard->count == 0);
    kv_array_free(table, kv_shard_array(shard));
    kv_shard_set_array(shard, r->clear.array);
    shard->count = r->clear.count;
    shard->data_bytes = r->clear.data_bytes;
    shard->expiring = r->clear.expiring;
    shard->next_expiry = 0; /* not known any more: whoever sweeps will look */
    shard->undo_clears--;
}

static kv_status undo_change(kv_table *table, kv_shard *shard, kv_undo *r, kv_error *err) {
    kv_entry *before = r->change.before, *after = r->change.after;
    kv_place place;
    if (after == NULL) {
        /* Putting a removed entry back may need room; only growing is allowed here, since a split
         * would divide the records that we walk. */
        uint32_t slots = kv_array_count(kv_shard_array(shard)) * KV_BUCKET_SLOTS;
        if (shard->count == slots) {
            kv_status status = kv_shard_grow(table, shard, shard->count + 1, err);
            if (status < 0)
                return status;
        }
        kv_shard_insert(shard, r->change.hash, before);
        return KV_OK;
    }
    kv_entry *found = kv_shard_find(shard, r->change.hash, kv_entry_key(after), &place);
    assert(found == after);
    if (before != NULL)
        kv_shard_replace(shard, place, before);
    else
        kv_shard_remove(shard, r->change.hash, place);
    kv_entry_release(table->entries, found);
    return KV_OK;
}

kv_status kv_undo_rollback(kv_table *table, kv_shard *shard, uint64_t lsn, kv_error *err) {
    while (shard->undo != NULL && shard->undo->lsn > lsn) {
        kv_undo *r = shard->undo;
        if (r->kind == KV_UNDO_CLEAR) {
            undo_clear(table, shard, r);
        } else {
            kv_status status = undo_change(table, shard, r, err);
            if (status < 0)
                return status;
        }
        shard->undo = r->next;
        shard->undo_count--;
        if (shard->undo == NULL)
            shard->undo_oldest_lsn = 0;
        kv_undo_discard(table, r);
    }
    if (shard->last_lsn > lsn) {
        shard->last_lsn = shard->undo != NULL ? shard->undo->lsn : shard->pruned_lsn;
        if (shard->last_lsn < shard->merged_lsn)
            shard->last_lsn = shard->merged_lsn; /* that record went into an older one */
    }
    return KV_OK;
}

uint64_t kv_undo_count_at(const kv_shard *shard, uint64_t lsn) {
    uint64_t count = shard->count;
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > lsn; r = r->next) {
        if (r->kind == KV_UNDO_CLEAR)
            count = r->clear.count;
        else
            count += (r->change.before != NULL) - (uint64_t)(r->change.after != NULL);
    }
    return count;
}

/* ---- Collecting ----------------------------------------------------------------------------------- */

/* The keys that changed after the wanted LSN, with what they were then: a small open-addressing
 * table, at most half full. */
typedef struct past {
    const kv_undo **records; /* the oldest one above the LSN for its key */
    size_t mask;
} past;

static const kv_undo **past_find(const past *p, uint64_t hash, kv_bytes key) {
    size_t i = (size_t)hash & p->mask;
    while (p->records[i] != NULL && !concerns(p->records[i], hash, key))
        i = (i + 1) & p->mask;
    return &p->records[i];
}

typedef struct collector {
    kv_table *table;
    const past *past; /* NULL: nothing changed since */
    kv_entry **entries;
    size_t count;
} collector;

static void collect_entry(void *arg, kv_entry *e) {
    collector *c = arg;
    if (c->past != NULL) {
        kv_bytes key = kv_entry_key(e);
        if (*past_find(c->past, kv_table_hash(c->table, key), key) != NULL)
            return; /* changed since: its older state is taken from the record */
    }
    c->entries[c->count++] = e;
}

static void collector_finish(collector *c, size_t *count) {
    for (size_t i = 0; i < c->count; i++) {
        if (i + 8 < c->count)
            __builtin_prefetch(c->entries[i + 8], 1);
        kv_entry_acquire(c->entries[i]);
    }
    *count = c->count;
}

kv_status kv_undo_collect(kv_table *table, kv_shard *shard, uint64_t lsn, kv_entry **entries,
                          size_t capacity, size_t *count, kv_error *err) {
    collector c = {.table = table, .entries = entries};
    if (shard->undo == NULL || shard->last_lsn <= lsn) {
        *count = shard->count;
        if (shard->count > capacity)
            return KV_BUSY;
        kv_array_visit(kv_shard_array(shard), collect_entry, &c);
        collector_finish(&c, count);
        return KV_OK;
    }
    /* Records newer than a clear say nothing about the state before it: start from its array. */
    kv_array base = kv_shard_array(shard);
    size_t base_count = shard->count;
    const kv_undo *start = shard->undo;
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > lsn; r = r->next)
        if (r->kind == KV_UNDO_CLEAR) {
            base = r->clear.array;
            base_count = r->clear.count;
            start = r->next;
        }
    size_t changes = 0;
    for (const kv_undo *r = start; r != NULL && r->lsn > lsn; r = r->next)
        changes++;
    *count = base_count + changes;
    if (*count > capacity)
        return KV_BUSY;

    past p = {.mask = 1};
    while (p.mask + 1 < changes * 2)
        p.mask = p.mask * 2 + 1;
    p.records = kv_mem_alloc_zero((p.mask + 1) * sizeof *p.records);
    if (p.records == NULL)
        return kv_fail_nomem(err, (p.mask + 1) * sizeof *p.records);
    for (const kv_undo *r = start; r != NULL && r->lsn > lsn; r = r->next)
        *past_find(&p, r->change.hash, kv_entry_key(record_entry(r))) = r; /* older ones come later, and win */
    c.past = &p;
    kv_array_visit(base, collect_entry, &c);
    for (size_t i = 0; i <= p.mask; i++)
        if (p.records[i] != NULL && p.records[i]->change.before != NULL)
            c.entries[c.count++] = p.records[i]->change.before;
    kv_mem_free(p.records);
    collector_finish(&c, count);
    return KV_OK;
}
