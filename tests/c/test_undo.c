/* test_undo.c - a shard's past, against every state that it has ever had.
 *
 * Random changes (puts, removals, several at one LSN, clears, and so many keys that shards grow and
 * split) are made to a table; a model of each LSN's state is kept.  Then the table is asked about any LSN
 * that it must still know, pruned, and rolled back.
 */
#include "check.h"

#include "base/mem.h"
#include "engine/undo.h"
#include "model.h"

#define STATES 120u

typedef struct past {
    kv_table table;
    check_random random;
    unsigned keys;
    uint64_t lsn;             /* of the newest state */
    uint64_t floor;           /* states before it have been pruned */
    model *states[STATES];    /* by LSN */
} past;

static past *past_make(uint64_t seed, unsigned keys) {
    past *p = calloc(1, sizeof *p);
    kv_error err;
    CHECK_OK(kv_table_init(&p->table, (kv_siphash_key){check_seed, seed}, &err), &err);
    p->random = random_stream(seed);
    p->keys = keys;
    p->states[0] = model_create();
    return p;
}

/* Calls `visit` with each shard, locked, and the hash behind it. */
#define EACH_SHARD(p, shard)                                                                     \
    for (uint64_t hash_ = 0, last_ = 0; last_ != UINT64_MAX; hash_ = last_ + 1)                  \
        for (kv_shard *shard = kv_table_lock(&(p)->table, hash_); shard != NULL;                 \
             last_ = kv_shard_range_last(shard), kv_shard_unlock(shard), shard = NULL)

/* The record of a key that was absent has an entry that others hold: the very one that the key had right after. */
static void check_borrowed(const kv_shard *shard) {
    unsigned checks = 0;
    for (const kv_undo *r = shard->undo; r != NULL && checks < 300; r = r->next) {
        if (r->kind != KV_UNDO_CREATED)
            continue;
        kv_place place;
        kv_bytes key = kv_entry_key(kv_undo_entry(r));
        const kv_entry *after = kv_array_find(kv_shard_array(shard), r->hash, key, &place);
        for (const kv_undo *n = shard->undo; n != r; n = n->next) {
            if (n->kind == KV_UNDO_CLEAR)
                after = kv_array_find(kv_undo_as_clear(n)->array, r->hash, key, &place);
            else if (n->hash == r->hash && kv_entry_has_key(kv_undo_entry(n), key))
                after = kv_undo_before(n);
        }
        CHECK(after == kv_undo_entry(r));
        checks++;
    }
}

static void past_check_sound(past *p) {
    kv_error err;
    EACH_SHARD(p, shard) {
        CHECK_OK(kv_shard_verify(&p->table, shard, &err), &err);
        check_borrowed(shard);
    }
}

static void past_end(past *p) {
    past_check_sound(p);
    for (uint64_t i = 0; i < STATES; i++)
        model_destroy(p->states[i]);
    kv_table_fini(&p->table);
    free(p);
}

/* ---- Changing -------------------------------------------------------------------------------------- */

/* The key's shard, locked, with room for it. */
static kv_shard *lock_with_room(past *p, uint64_t hash) {
    kv_error err;
    for (;;) {
        kv_shard *shard = kv_table_lock(&p->table, hash);
        kv_status status = kv_shard_reserve(&p->table, shard, 1, &err);
        if (status == KV_OK)
            return shard;
        CHECK_STATUS(status, KV_BUSY, &err);
        kv_shard_unlock(shard);
    }
}

static void change(past *p, kv_bytes key, bool put, kv_bytes value) {
    uint64_t hash = kv_table_hash(&p->table, key);
    kv_shard *shard = lock_with_room(p, hash);
    kv_place place;
    kv_entry *old = kv_shard_find(shard, hash, key, &place), *new = NULL;
    if (old != NULL || put) {
        if (put) {
            new = kv_entry_create(p->table.entries, key, value);
            CHECK(new != NULL);
        }
        kv_undo *record = kv_undo_create(&p->table);
        CHECK(record != NULL);
        kv_undo_set_change(record, p->lsn, hash, old, new);
        if (old == NULL)
            kv_shard_insert(shard, hash, new);
        else if (new != NULL)
            kv_shard_replace(shard, place, new);
        else
            kv_shard_remove(shard, hash, place);
        shard->last_lsn = p->lsn;
        kv_undo_push(shard, record);
    }
    kv_shard_unlock(shard);
    if (put)
        model_put(p->states[p->lsn], key, value);
    else
        model_delete(p->states[p->lsn], key);
}

static void clear(past *p) {
    EACH_SHARD(p, shard) {
        if (shard->count == 0)
            continue;
        kv_undo *record = kv_undo_create_clear(&p->table);
        CHECK(record != NULL);
        kv_undo_set_clear(record, p->lsn, shard);
        kv_shard_set_array(shard, kv_array_create(&p->table, 0));
        shard->count = 0;
        shard->data_bytes = 0;
        shard->expiring = 0;
        shard->last_lsn = p->lsn;
        kv_undo_push(shard, record);
    }
    model_clear(p->states[p->lsn]);
}

static kv_bytes random_key(past *p, unsigned *number) {
    *number = (unsigned)random_below(&p->random, p->keys);
    return bytes_of(number, sizeof *number);
}

/* One commit: one change, many, or a clear. */
static void commit(past *p, bool clears) {
    CHECK(p->lsn + 1 < STATES);
    model_destroy(p->states[p->lsn + 1]);
    p->states[p->lsn + 1] = model_clone(p->states[p->lsn]);
    p->lsn++;
    if (clears && random_below(&p->random, 12) == 0) {
        clear(p);
        return;
    }
    uint64_t count = random_below(&p->random, 3) ? 1 + random_below(&p->random, 3)
                                                 : random_below(&p->random, p->keys);
    for (; count > 0; count--) {
        unsigned number;
        kv_bytes key = random_key(p, &number);
        change(p, key, random_below(&p->random, 3) > 0, bytes_of(&p->random, count % 9));
    }
}

/* ---- Asking ---------------------------------------------------------------------------------------- */

static void check_key(past *p, uint64_t lsn, unsigned number) {
    kv_bytes key = bytes_of(&number, sizeof number);
    uint64_t hash = kv_table_hash(&p->table, key);
    kv_shard *shard = kv_table_lock(&p->table, hash);
    const kv_bytes *wanted = model_get(p->states[lsn], key);
    kv_entry *e = kv_shard_find_at(shard, hash, key, lsn);
    kv_place place;
    kv_entry *newest = kv_shard_find(shard, hash, key, &place);
    CHECK(kv_undo_look_behind(shard, hash, key, lsn, newest) == e);
    CHECK_EQ(e != NULL, wanted != NULL);
    if (e != NULL) {
        CHECK_EQ(kv_entry_value(e).size, wanted->size);
        CHECK_MEM(kv_entry_value(e).data, wanted->data, wanted->size);
    }
    /* The latest change: there is one above `lsn` if any state above it differs. */
    uint64_t changed = kv_undo_latest_change(shard, hash, key, lsn);
    CHECK(changed == 0 || (changed > lsn && changed <= p->lsn));
    for (uint64_t at = changed > lsn ? changed : lsn; at < p->lsn; at++) {
        const kv_bytes *now = model_get(p->states[at], key), *next = model_get(p->states[at + 1], key);
        CHECK_EQ(now != NULL, next != NULL);
        if (now != NULL)
            CHECK(now->size == next->size && memcmp(now->data, next->data, now->size) == 0);
    }
    kv_shard_unlock(shard);
}

static void check_whole(past *p, uint64_t lsn) {
    static kv_entry *entries[40000];
    model *found = model_create();
    kv_error err;
    uint64_t counted = 0;
    EACH_SHARD(p, shard) {
        size_t count = 0, again = 0;
        kv_status status = kv_undo_collect(&p->table, shard, lsn, entries, 0, &count, &err);
        CHECK(status == KV_OK ? count == 0 : status == KV_BUSY && count <= 40000);
        CHECK_OK(kv_undo_collect(&p->table, shard, lsn, entries, count, &again, &err), &err);
        CHECK(again <= count);
        CHECK_EQ(kv_undo_count_at(shard, lsn), again);
        counted += again;
        for (size_t i = 0; i < again; i++) {
            CHECK(model_get(found, kv_entry_key(entries[i])) == NULL);
            model_put(found, kv_entry_key(entries[i]), kv_entry_value(entries[i]));
            kv_entry_release(p->table.entries, entries[i]);
        }
    }
    CHECK_EQ(counted, model_count(p->states[lsn]));
    CHECK_EQ(model_digest(found), model_digest(p->states[lsn]));
    model_destroy(found);
}

static void check_past(past *p) {
    for (int i = 0; i < 3; i++) {
        uint64_t lsn = p->floor + random_below(&p->random, p->lsn - p->floor + 1);
        check_whole(p, lsn);
        for (int k = 0; k < 20; k++) {
            unsigned number;
            random_key(p, &number);
            check_key(p, lsn, number);
        }
    }
}

static void prune(past *p, uint64_t lsn) {
    EACH_SHARD(p, shard) {
        uint64_t before = shard->undo_count;
        kv_undo *dead = kv_undo_prune(shard, lsn, NULL);
        CHECK(shard->undo == NULL || shard->undo_oldest_lsn > lsn);
        for (const kv_undo *r = dead; r != NULL; r = r->next, before--)
            CHECK(r->lsn <= lsn);
        CHECK_EQ(shard->undo_count, before);
        kv_undo_free_all(&p->table, dead);
    }
    if (lsn > p->floor)
        p->floor = lsn;
}

static void roll_back(past *p, uint64_t lsn) {
    kv_error err;
    EACH_SHARD(p, shard) {
        CHECK_OK(kv_undo_rollback(&p->table, shard, lsn, &err), &err);
        CHECK(shard->last_lsn <= lsn);
        CHECK(shard->undo == NULL || shard->undo->lsn <= lsn);
    }
    p->lsn = lsn;
}

/* ---- Random pasts --------------------------------------------------------------------------------------- */

static void run(uint64_t seed, unsigned keys, bool clears) {
    past *p = past_make(seed, keys);
    for (unsigned i = 0; i < 400; i++) {
        if (p->lsn + 1 == STATES)
            break;
        switch (random_below(&p->random, 12)) {
        case 0:
            prune(p, p->floor + random_below(&p->random, p->lsn - p->floor + 1));
            break;
        case 1:
            roll_back(p, p->floor + random_below(&p->random, p->lsn - p->floor + 1));
            break;
        default:
            commit(p, clears);
        }
        if (keys < 100 || i % 5 == 0) {
            past_check_sound(p);
            check_past(p);
        }
    }
    if (keys > 10000 && !clears)
        CHECK(p->table.shard_count > 1 << KV_DEPTH_MIN);
    /* With nothing to look behind, each entry has the table's reference and no other. */
    prune(p, p->lsn);
    EACH_SHARD(p, shard)
        CHECK(shard->undo == NULL);
    for (unsigned number = 0; number < keys; number++) {
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t hash = kv_table_hash(&p->table, key);
        kv_place place;
        kv_shard *shard = kv_table_lock(&p->table, hash);
        kv_entry *e = kv_shard_find(shard, hash, key, &place);
        CHECK_EQ(e != NULL, model_get(p->states[p->lsn], key) != NULL);
        if (e != NULL)
            CHECK_EQ(atomic_load(&e->references), 1);
        kv_shard_unlock(shard);
    }
    past_end(p);
}

static void test_few_keys(void) {
    for (uint64_t seed = 0; seed < 30; seed++)
        run(seed, 10, false);
}

static void test_few_keys_with_clears(void) {
    for (uint64_t seed = 0; seed < 30; seed++)
        run(100 + seed, 10, true);
}

static void test_many_keys(void) {
    run(200, 12000, false);
}

static void test_many_keys_with_clears(void) {
    for (uint64_t seed = 0; seed < 2; seed++)
        run(300 + seed, 12000, true);
}

/* ---- By hand -------------------------------------------------------------------------------------------- */

static uint64_t table_count(past *p) {
    uint64_t count = 0;
    EACH_SHARD(p, shard)
        count += shard->count;
    return count;
}

static void put_range(past *p, unsigned from, unsigned to) {
    model_destroy(p->states[p->lsn + 1]);
    p->states[p->lsn + 1] = model_clone(p->states[p->lsn]);
    p->lsn++;
    for (unsigned number = from; number < to; number++)
        change(p, bytes_of(&number, sizeof number), true, bytes_of(&p->lsn, sizeof p->lsn));
}

static void clear_all(past *p) {
    model_destroy(p->states[p->lsn + 1]);
    p->states[p->lsn + 1] = model_clone(p->states[p->lsn]);
    p->lsn++;
    clear(p);
}

/* A shard with a clear behind it does not split, however much is put into it; when the clear is out of
 * sight, the next insert splits it. */
static void test_a_pending_clear_keeps_shards_from_splitting(void) {
    past *p = past_make(1, 30000);
    put_range(p, 0, 1000);
    clear_all(p);
    uint64_t shards = p->table.shard_count;
    put_range(p, 0, 30000);
    CHECK_EQ(p->table.shard_count, shards);
    past_check_sound(p);
    check_whole(p, 1);
    check_whole(p, 2);
    check_whole(p, 3);
    prune(p, p->lsn);
    put_range(p, 30000, 60000);
    CHECK(p->table.shard_count > 2 * shards);
    past_check_sound(p);
    check_whole(p, p->lsn);
    past_end(p);
}

static void test_clear_undone(void) {
    past *p = past_make(2, 5000);
    put_range(p, 0, 5000);
    clear_all(p);
    put_range(p, 100, 200);
    clear_all(p);
    put_range(p, 150, 3000);
    CHECK_EQ(table_count(p), 2850);
    for (uint64_t lsn = 4; lsn > 0; lsn--) {
        roll_back(p, lsn);
        past_check_sound(p);
        check_whole(p, lsn);
        CHECK_EQ(table_count(p), model_count(p->states[lsn]));
    }
    put_range(p, 4000, 6000); /* life goes on */
    check_whole(p, 1);
    check_whole(p, 2);
    past_end(p);
}

static void test_pruning_in_the_middle(void) {
    past *p = past_make(3, 50);
    for (int i = 0; i < 10; i++)
        put_range(p, 0, 50);
    for (uint64_t lsn = 0; lsn <= 10; lsn++) {
        prune(p, lsn);
        past_check_sound(p);
        for (uint64_t at = lsn; at <= 10; at++)
            check_whole(p, at);
    }
    prune(p, 10);
    past_end(p);
}

/* Blocks that were taken to leave a pool without memory. */
typedef struct hoard {
    size_t count;
    void *blocks[20000];
    size_t sizes[20000];
} hoard;

/* All that the pool has in hand for this thread, down to blocks of `size_min`; nothing more can be had then. */
static void use_up(kv_pool *pool, hoard *h, size_t size_min) {
    for (size_t size = KV_POOL_SLAB_MAX; size >= size_min; size -= 16)
        while ((h->blocks[h->count] = kv_pool_alloc(pool, size)) != NULL) {
            h->sizes[h->count] = size;
            CHECK(++h->count < 20000);
        }
}

static void give_back(kv_pool *pool, hoard *h, size_t count) {
    for (; count > 0; count--) {
        h->count--;
        kv_pool_free(pool, h->blocks[h->count], h->sizes[h->count]);
    }
}

/* Putting removed entries back needs an array that cannot be had: what is left keeps its records, so the
 * past can still be read; and with memory again the rest is undone. */
static void test_rollback_without_memory(void) {
    static hoard hoard;
    past *p = past_make(4, 3000);
    kv_error err;
    put_range(p, 0, 3000);
    prune(p, 1);
    p->states[2] = model_clone(p->states[1]);
    p->lsn = 2;
    for (unsigned number = 0; number < 3000; number++)
        change(p, bytes_of(&number, sizeof number), false, (kv_bytes){0});
    /* Small arrays, as a split might leave them. */
    EACH_SHARD(p, shard) {
        CHECK_EQ(shard->count, 0);
        kv_array_free(&p->table, kv_shard_array(shard));
        kv_shard_set_array(shard, kv_array_create(&p->table, 0));
    }
    kv_mem_fail_at(0, true);
    use_up(p->table.arrays, &hoard, 64);
    unsigned failed = 0;
    EACH_SHARD(p, shard) {
        kv_status status = kv_undo_rollback(&p->table, shard, 1, &err);
        CHECK(status == KV_OK || status == KV_ERR_NOMEM);
        failed += status < 0;
        CHECK_EQ(status < 0, shard->undo != NULL);
    }
    CHECK(failed > 0);
    kv_mem_fail_at(UINT64_MAX, false);
    past_check_sound(p);
    check_whole(p, 1);
    give_back(p->table.arrays, &hoard, hoard.count);
    roll_back(p, 1);
    past_check_sound(p);
    check_whole(p, 1);
    CHECK_EQ(table_count(p), 3000);
    past_end(p);
}

static void test_collecting_without_memory(void) {
    past *p = past_make(5, 100);
    kv_error err;
    static kv_entry *entries[1000];
    put_range(p, 0, 100);
    put_range(p, 50, 100);
    EACH_SHARD(p, shard) {
        size_t count;
        kv_mem_fail_at(0, true);
        kv_status status = kv_undo_collect(&p->table, shard, 1, entries, 1000, &count, &err);
        kv_mem_fail_at(UINT64_MAX, false);
        CHECK_EQ(status, shard->last_lsn > 1 ? KV_ERR_NOMEM : KV_OK);
        if (status == KV_OK)
            for (size_t i = 0; i < count; i++)
                kv_entry_release(p->table.entries, entries[i]);
    }
    check_whole(p, 1); /* no reference was left behind, as prune() and past_end() will see */
    prune(p, 2);
    for (unsigned number = 0; number < 100; number++) {
        kv_bytes key = bytes_of(&number, sizeof number);
        kv_place place;
        uint64_t hash = kv_table_hash(&p->table, key);
        CHECK_EQ(kv_shard_find(kv_table_shard(&p->table, hash), hash, key, &place)->references, 1);
    }
    past_end(p);
}

/* Records for a batch: all or none. */
static void test_many_records_at_once(void) {
    past *p = past_make(6, 1);
    enum { COUNT = 1000 };
    static kv_undo *records[COUNT];
    static hoard hoard;
    CHECK(kv_undo_create_many(&p->table, records, COUNT));
    for (size_t i = 0; i < COUNT; i++)
        records[i]->lsn = records[i]->hash = UINT64_MAX;
    for (size_t i = 0; i < COUNT; i++)
        kv_undo_discard(&p->table, records[i]);
    kv_undo_discard(&p->table, NULL);
    kv_mem_fail_at(0, true);
    use_up(p->table.entries, &hoard, sizeof(kv_undo));
    give_back(p->table.entries, &hoard, 700); /* room for some of them */
    for (int i = 0; i < 10; i++)
        CHECK(!kv_undo_create_many(&p->table, records, COUNT));
    CHECK(kv_undo_create_many(&p->table, records, 600)); /* nothing was lost */
    kv_mem_fail_at(UINT64_MAX, false);
    past_end(p);
}

/* ---- Merging ------------------------------------------------------------------------------------------------ */

/* Random histories with a few registered snapshots, and merging now and then.  What is promised afterwards: the
 * states at the snapshots, and from merged_lsn on, but not those between; and no more than one record of a key
 * for each interval (and clear). */
enum { REGISTERED_MAX = 6 };

typedef struct registered {
    uint64_t lsns[REGISTERED_MAX]; /* in ascending order */
    size_t count;
} registered;

static void merge(past *p, const registered *r, uint64_t visible) {
    uint64_t bounds[REGISTERED_MAX + 1];
    size_t count = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->lsns[i] < visible)
            bounds[count++] = r->lsns[i];
    bounds[count++] = visible;
    EACH_SHARD(p, shard) {
        uint64_t before = shard->undo_count, above = 0, still_above = 0, merged_lsn = shard->merged_lsn;
        for (const kv_undo *u = shard->undo; u != NULL && u->lsn > visible; u = u->next)
            above++;
        kv_undo *dead = kv_undo_merge(shard, bounds, count, NULL);
        for (const kv_undo *u = dead; u != NULL; u = u->next) {
            before--;
            CHECK(u->lsn <= visible); /* what is not committed may still be undone */
        }
        CHECK_EQ(shard->undo_count, before);
        for (const kv_undo *u = shard->undo; u != NULL && u->lsn > visible; u = u->next)
            still_above++;
        CHECK_EQ(still_above, above);
        CHECK(shard->merged_lsn >= merged_lsn && shard->merged_lsn <= visible);
        CHECK(dead == NULL || shard->merged_lsn > 0);
        /* Of each key one record in each interval; a clear begins another. */
        for (const kv_undo *u = shard->undo; u != NULL; u = u->next) {
            CHECK(!u->dropped);
            if (u->kind == KV_UNDO_CLEAR || u->lsn > visible)
                continue;
            const kv_entry *e = kv_undo_entry(u);
            for (const kv_undo *o = u->next; o != NULL && o->kind != KV_UNDO_CLEAR; o = o->next) {
                const kv_entry *f = kv_undo_entry(o);
                bool bound_between = false;
                for (size_t i = 0; i < count; i++)
                    bound_between |= bounds[i] >= o->lsn && bounds[i] < u->lsn;
                if (bound_between)
                    break;
                CHECK(!kv_entry_has_key(f, kv_entry_key(e)));
            }
        }
        kv_undo_free_all(&p->table, dead);
    }
}

static uint64_t merged_lsn(past *p) {
    uint64_t lsn = 0;
    EACH_SHARD(p, shard)
        if (shard->merged_lsn > lsn)
            lsn = shard->merged_lsn;
    return lsn;
}

static void check_state(past *p, uint64_t lsn) {
    check_whole(p, lsn);
    for (unsigned k = 0; k < 10; k++) {
        unsigned number;
        kv_bytes key = random_key(p, &number);
        uint64_t hash = kv_table_hash(&p->table, key);
        kv_shard *shard = kv_table_lock(&p->table, hash);
        const kv_bytes *wanted = model_get(p->states[lsn], key);
        kv_entry *e = kv_shard_find_at(shard, hash, key, lsn);
        CHECK_EQ(e != NULL, wanted != NULL);
        if (e != NULL)
            CHECK(kv_entry_value(e).size == wanted->size &&
                  memcmp(kv_entry_value(e).data, wanted->data, wanted->size) == 0);
        kv_shard_unlock(shard);
    }
}

static void run_merging(uint64_t seed, unsigned keys, bool clears) {
    past *p = past_make(seed, keys);
    registered r = {0};
    uint64_t visible = 0;
    unsigned rounds = keys > 1000 ? 60 : 400, merges = 0;
    for (unsigned i = 0; i < rounds && p->lsn + 1 < STATES; i++) {
        switch (random_below(&p->random, 10)) {
        case 0: /* a snapshot of what is visible */
            if (r.count < REGISTERED_MAX)
                r.lsns[r.count++] = visible;
            break;
        case 1: /* one goes */
            if (r.count > 0) {
                size_t which = random_below(&p->random, r.count--);
                memmove(&r.lsns[which], &r.lsns[which + 1], (r.count - which) * sizeof r.lsns[0]);
            }
            break;
        case 2:
            prune(p, r.count > 0 && r.lsns[0] < visible ? r.lsns[0] : visible);
            break;
        case 3: /* what is not visible is undone */
            roll_back(p, visible);
            EACH_SHARD(p, shard)
                CHECK(shard->last_lsn >= shard->merged_lsn);
            break;
        case 4:
        case 5:
            merge(p, &r, visible);
            merges++;
            break;
        default:
            commit(p, clears);
            if (random_below(&p->random, 3))
                visible = p->lsn;
        }
        past_check_sound(p);
        for (size_t k = 0; k < r.count; k++)
            check_state(p, r.lsns[k]);
        for (uint64_t lsn = visible; lsn <= p->lsn; lsn++)
            check_state(p, lsn);
        CHECK(merged_lsn(p) <= visible);
    }
    CHECK(merges > 0);
    prune(p, p->lsn);
    EACH_SHARD(p, shard) {
        CHECK(shard->undo == NULL);
        CHECK_EQ(shard->undo_count, 0);
        CHECK_EQ(shard->undo_clears, 0);
    }
    for (unsigned number = 0; number < keys; number++) {
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t hash = kv_table_hash(&p->table, key);
        kv_place place;
        kv_shard *shard = kv_table_lock(&p->table, hash);
        kv_entry *e = kv_shard_find(shard, hash, key, &place);
        if (e != NULL)
            CHECK_EQ(atomic_load(&e->references), 1);
        kv_shard_unlock(shard);
    }
    past_end(p);
}

static void test_merging(void) {
    for (uint64_t seed = 0; seed < 60; seed++) {
        run_merging(1000 + seed, 3, false);
        run_merging(2000 + seed, 10, false);
    }
}

static void test_merging_with_clears(void) {
    for (uint64_t seed = 0; seed < 60; seed++) {
        run_merging(3000 + seed, 3, true);
        run_merging(4000 + seed, 12, true);
    }
}

static void test_merging_while_shards_split(void) {
    for (uint64_t seed = 0; seed < 2; seed++)
        run_merging(5000 + seed, 6000, seed == 1);
}

/* A key that comes and goes between two snapshots leaves nothing; one that is overwritten, one record. */
static void test_merging_by_hand(void) {
    past *p = past_make(7, 4);
    const kv_bytes hot = LITERAL("hot"), fleeting = LITERAL("fleeting");
    registered r = {{1}, 1};
    put_range(p, 0, 3); /* 1 */
    for (unsigned i = 0; i < 50; i++) {
        model_destroy(p->states[p->lsn + 1]);
        p->states[p->lsn + 1] = model_clone(p->states[p->lsn]);
        p->lsn++;
        change(p, fleeting, i % 2 == 0, LITERAL("x"));
        change(p, hot, true, bytes_of(&i, sizeof i));
    }
    merge(p, &r, p->lsn);
    uint64_t count = 0;
    EACH_SHARD(p, shard)
        count += shard->undo_count;
    CHECK_EQ(count, 3 + 1); /* of LSN 1, and the hot key's */
    check_state(p, 1);
    check_state(p, p->lsn);
    merge(p, &r, p->lsn); /* nothing more to do */
    kv_mem_fail_at(0, true);
    merge(p, &r, p->lsn);
    kv_mem_fail_at(UINT64_MAX, false);
    check_state(p, 1);
    roll_back(p, p->lsn);
    prune(p, p->lsn);
    past_end(p);
}

CHECK_MAIN(TEST(test_few_keys), TEST(test_few_keys_with_clears), TEST(test_many_keys),
           TEST(test_many_keys_with_clears), TEST(test_a_pending_clear_keeps_shards_from_splitting),
           TEST(test_clear_undone), TEST(test_pruning_in_the_middle),
           TEST(test_rollback_without_memory), TEST(test_collecting_without_memory),
           TEST(test_many_records_at_once), TEST(test_merging), TEST(test_merging_with_clears),
           TEST(test_merging_while_shards_split), TEST(test_merging_by_hand))
