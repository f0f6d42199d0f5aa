/* undo.c - see undo.h. */
#include "undo.h"

#include "../base/mem.h"

#define MANY 64u /* blocks taken or given back under one lock */

static size_t record_size(const kv_undo *record) {
    return record->kind == KV_UNDO_CLEAR ? sizeof(kv_undo_clear) : sizeof(kv_undo);
}

/* So that it can be discarded: all but what kv_undo_set_change and kv_undo_push fill. */
static void record_init(kv_undo *record, kv_undo_kind kind) {
    record->entry = 0;
    record->kind = kind;
    record->dropped = false;
}

kv_undo *kv_undo_create(kv_table *table) {
    kv_undo *record = kv_pool_alloc(table->entries, sizeof *record);
    if (record != NULL)
        record_init(record, KV_UNDO_CREATED);
    return record;
}

kv_undo *kv_undo_create_clear(kv_table *table) {
    kv_undo_clear *clear = kv_pool_alloc(table->entries, sizeof *clear);
    if (clear == NULL)
        return NULL;
    record_init(&clear->record, KV_UNDO_CLEAR);
    return &clear->record;
}

bool kv_undo_create_many(kv_table *table, kv_undo **records, size_t count) {
    size_t sizes[MANY];
    for (size_t i = 0; i < MANY; i++)
        sizes[i] = sizeof(kv_undo);
    for (size_t made = 0; made < count;) {
        size_t part = count - made < MANY ? count - made : MANY;
        if (!kv_pool_alloc_many(table->entries, sizes, (void **)&records[made], part)) {
            while (made > 0)
                kv_undo_discard(table, records[--made]);
            return false;
        }
        for (size_t end = made + part; made < end; made++)
            record_init(records[made], KV_UNDO_CREATED);
    }
    return true;
}

void kv_undo_discard(kv_table *table, kv_undo *record) {
    if (record != NULL)
        kv_pool_free(table->entries, record, record_size(record));
}

void kv_undo_set_clear(kv_undo *record, uint64_t lsn, const kv_shard *shard) {
    kv_undo_clear *clear = (kv_undo_clear *)record;
    assert(record->kind == KV_UNDO_CLEAR);
    record->lsn = lsn;
    record->hash = 0;
    clear->array = kv_shard_array(shard);
    clear->data_bytes = shard->data_bytes;
    clear->count = shard->count;
    clear->expiring = shard->expiring;
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

static bool has_key(const kv_undo *r, uint64_t hash, kv_bytes key) {
    return r->hash == hash && kv_entry_has_key(kv_undo_entry(r), key);
}

static bool concerns(const kv_undo *record, uint64_t hash, kv_bytes key) {
    return record->kind != KV_UNDO_CLEAR && has_key(record, hash, key);
}

kv_entry *kv_undo_look_behind(const kv_shard *shard, uint64_t hash, kv_bytes key, uint64_t lsn,
                              kv_entry *newest) {
    kv_entry *found = newest;
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > lsn; r = r->next) {
        kv_place place;
        if (r->kind == KV_UNDO_CLEAR)
            found = kv_array_find(kv_undo_as_clear(r)->array, hash, key, &place);
        else if (concerns(r, hash, key))
            found = kv_undo_before(r);
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

/* The last record seen of each key since the last clear, on the way from the newest to the oldest one; a small
 * open-addressing table, at most half full.  A slot of another era is a free one. */
typedef struct latest {
    struct latest_slot {
        kv_undo *record;       /* dropped: the key came and went in this interval */
        const kv_entry *after; /* what the key had at the interval's end; NULL: nothing, or see entry_after */
        uint32_t interval;
        uint32_t era;
    } *slots;
    size_t mask;
    uint32_t interval; /* between snapshots; 0: above all bounds */
    uint32_t era;      /* between clears; from 1 on */
    kv_array array;    /* what the shard had at the era's end */
} latest;

static struct latest_slot *latest_find(const latest *l, const kv_undo *r) {
    kv_bytes key = kv_entry_key(kv_undo_entry(r));
    size_t i = (size_t)r->hash & l->mask;
    while (l->slots[i].era == l->era && !has_key(l->slots[i].record, r->hash, key))
        i = (i + 1) & l->mask;
    return &l->slots[i];
}

/* What the key of the slot's record had at the end of its interval; it is known to have had something. */
static const kv_entry *entry_after(const latest *l, const struct latest_slot *slot) {
    if (slot->after != NULL)
        return slot->after;
    kv_place place;
    const kv_undo *r = slot->record;
    const kv_entry *e =
        kv_array_find(l->array, r->hash, kv_entry_key(kv_undo_entry(r)), &place);
    assert(e != NULL); /* no newer record of the era: it was the newest state */
    return e;
}

/* Lets `r` stand for the slot's record as well, the next newer one of the key in the same interval.  Nobody reads at
 * an LSN from r's up to the newer one's: what stood between is not needed. */
static void merge_two(kv_shard *shard, const latest *l, struct latest_slot *slot, kv_undo *r) {
    kv_undo *newer = slot->record;
    newer->dropped = true;
    if (newer->lsn > shard->merged_lsn)
        shard->merged_lsn = newer->lsn;
    if (newer->kind == KV_UNDO_REMOVED && r->kind == KV_UNDO_CREATED) {
        r->dropped = true; /* it came and went: nothing is left to be told */
        return;
    }
    if (newer->kind == KV_UNDO_REMOVED)
        r->kind = KV_UNDO_REMOVED;
    else if (r->kind == KV_UNDO_REMOVED)
        r->kind = KV_UNDO_REPLACED;
    else if (r->kind == KV_UNDO_CREATED)
        kv_undo_set_entry(r, entry_after(l, slot)); /* `newer` held its present one */
    slot->record = r;
}

/* `r` is a clear, `newer` the next one above it in the same interval: that one, and what stands between the two, is not
 * needed. */
static void merge_clears(kv_shard *shard, kv_undo *newer, const kv_undo *r) {
    if (newer->lsn > shard->merged_lsn)
        shard->merged_lsn = newer->lsn;
    for (kv_undo *between = newer; between != r; between = between->next)
        between->dropped = true;
}

kv_undo *kv_undo_merge(kv_shard *shard, const uint64_t *bounds, size_t count, kv_undo *dead) {
    latest l = {.mask = 15, .era = 1, .array = kv_shard_array(shard)};
    while (l.mask + 1 < (size_t)shard->undo_count * 2)
        l.mask = l.mask * 2 + 1;
    l.slots = kv_mem_alloc_zero((l.mask + 1) * sizeof *l.slots);
    if (l.slots == NULL)
        return dead; /* later, then */
    uint64_t lower = bounds[count - 1]; /* of the interval */
    kv_undo *clear = NULL;              /* the last one seen in it */
    for (kv_undo *r = shard->undo; r != NULL; r = r->next) {
        if (r->lsn <= lower) {
            l.interval++;
            clear = NULL;
        }
        while (r->lsn <= lower && count > 0) {
            count--;
            lower = count > 0 ? bounds[count - 1] : 0;
        }
        if (r->kind == KV_UNDO_CLEAR) {
            l.era++;
            l.array = kv_undo_as_clear(r)->array;
            if (clear != NULL && l.interval > 0)
                merge_clears(shard, clear, r);
            clear = r;
            continue;
        }
        struct latest_slot *slot = latest_find(&l, r);
        if (slot->era == l.era && slot->interval == l.interval && l.interval > 0) {
            merge_two(shard, &l, slot, r);
            continue;
        }
        const kv_undo *newer = slot->era == l.era ? slot->record : NULL;
        const kv_entry *after = newer != NULL && !newer->dropped ? kv_undo_before(newer) : NULL;
        *slot = (struct latest_slot){r, after, l.interval, l.era};
    }
    kv_mem_free(l.slots);
    uint64_t oldest_lsn = 0;
    kv_undo **end = &shard->undo;
    for (kv_undo *r = shard->undo, *next; r != NULL; r = next) {
        next = r->next;
        if (r->dropped) {
            *end = next;
            r->next = dead;
            dead = r;
            shard->undo_count--;
            if (r->kind == KV_UNDO_CLEAR)
                shard->undo_clears--;
        } else {
            end = &r->next;
            oldest_lsn = r->lsn;
        }
    }
    shard->undo_oldest_lsn = oldest_lsn;
    return dead;
}

/* Blocks on their way back to the pool. */
typedef struct sweeper {
    kv_pool *pool;
    size_t count;
    void *blocks[MANY];
    size_t sizes[MANY];
} sweeper;

static void sweep(sweeper *s) {
    kv_pool_free_many(s->pool, s->blocks, s->sizes, s->count);
    s->count = 0;
}

static void sweep_block(sweeper *s, void *block, size_t size) {
    if (s->count == MANY)
        sweep(s);
    s->blocks[s->count] = block;
    s->sizes[s->count++] = size;
}

static void sweep_entry(void *arg, kv_entry *e) {
    if (e != NULL && kv_entry_drop(e))
        sweep_block(arg, e, kv_entry_size(e));
}

static void free_one(kv_table *table, kv_undo *r) {
    kv_entry_release(table->entries, kv_undo_before(r));
    kv_undo_discard(table, r);
}

void kv_undo_free_all(kv_table *table, kv_undo *records) {
    if (records == NULL)
        return;
    if (records->next == NULL && records->kind != KV_UNDO_CLEAR) {
        free_one(table, records); /* the most frequent case by far */
        return;
    }
    sweeper s;
    s.pool = table->entries;
    s.count = 0;
    while (records != NULL) {
        /* A block of them at a time, so that the misses on their entries overlap. */
        kv_undo *block[MANY];
        size_t count = 0;
        for (; count < MANY && records != NULL; records = records->next) {
            block[count++] = records;
            if (records->kind == KV_UNDO_REPLACED || records->kind == KV_UNDO_REMOVED)
                __builtin_prefetch(kv_undo_entry(records), 1);
        }
        for (size_t i = 0; i < count; i++) {
            kv_undo *r = block[i];
            if (r->kind == KV_UNDO_CLEAR) {
                kv_array_visit(kv_undo_as_clear(r)->array, sweep_entry, &s);
                kv_array_free(table, kv_undo_as_clear(r)->array);
            } else {
                sweep_entry(&s, kv_undo_before(r));
            }
            sweep_block(&s, r, record_size(r));
        }
    }
    sweep(&s);
}

/* ---- Rolling back -------------------------------------------------------------------------------- */

static void undo_clear(kv_table *table, kv_shard *shard, const kv_undo_clear *clear) {
    /* What was put after the clear has been undone before: the present array is empty. */
    assert(shard->count == 0);
    kv_array_free(table, kv_shard_array(shard));
    kv_shard_set_array(shard, clear->array);
    shard->count = clear->count;
    shard->data_bytes = clear->data_bytes;
    shard->expiring = clear->expiring;
    shard->next_expiry = 0; /* not known any more: whoever sweeps will look */
    shard->undo_clears--;
}

static kv_status undo_change(kv_table *table, kv_shard *shard, const kv_undo *r, kv_error *err) {
    kv_entry *e = kv_undo_entry(r);
    kv_place place;
    if (r->kind == KV_UNDO_REMOVED) {
        /* Putting a removed entry back may need room; only growing is allowed here, since a split
         * would divide the records that we walk. */
        uint32_t slots = kv_array_count(kv_shard_array(shard)) * KV_BUCKET_SLOTS;
        if (shard->count == slots) {
            kv_status status = kv_shard_grow(table, shard, shard->count + 1, err);
            if (status < 0)
                return status;
        }
        kv_shard_insert(shard, r->hash, e);
        return KV_OK;
    }
    kv_entry *found = kv_shard_find(shard, r->hash, kv_entry_key(e), &place);
    assert(found != NULL && (found == e) == (r->kind == KV_UNDO_CREATED));
    if (r->kind == KV_UNDO_REPLACED)
        kv_shard_replace(shard, place, e);
    else
        kv_shard_remove(shard, r->hash, place);
    kv_entry_release(table->entries, found);
    return KV_OK;
}

kv_status kv_undo_rollback(kv_table *table, kv_shard *shard, uint64_t lsn, kv_error *err) {
    while (shard->undo != NULL && shard->undo->lsn > lsn) {
        kv_undo *r = shard->undo;
        if (r->kind == KV_UNDO_CLEAR) {
            undo_clear(table, shard, kv_undo_as_clear(r));
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
            count = kv_undo_as_clear(r)->count;
        else
            count += (uint64_t)(r->kind == KV_UNDO_REMOVED) - (r->kind == KV_UNDO_CREATED);
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
            base = kv_undo_as_clear(r)->array;
            base_count = kv_undo_as_clear(r)->count;
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
        *past_find(&p, r->hash, kv_entry_key(kv_undo_entry(r))) = r; /* older ones come later, and win */
    c.past = &p;
    kv_array_visit(base, collect_entry, &c);
    for (size_t i = 0; i <= p.mask; i++)
        if (p.records[i] != NULL && kv_undo_before(p.records[i]) != NULL)
            c.entries[c.count++] = kv_undo_before(p.records[i]);
    kv_mem_free(p.records);
    collector_finish(&c, count);
    return KV_OK;
}
