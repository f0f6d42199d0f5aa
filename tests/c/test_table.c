/* test_table.c - hashes, buckets, arrays, shards and the directory, one by one and together. */
/* tsan */
#include "check.h"

#include <stdatomic.h>

#include "base/mem.h"
#include "engine/table.h"
#include "engine/undo.h"
#include "model.h"
#include "threads.h"

static kv_table table_make(void) {
    kv_table table;
    kv_error err;
    CHECK_OK(kv_table_init(&table, (kv_siphash_key){check_seed, 1}, &err), &err);
    return table;
}

/* ---- Bits --------------------------------------------------------------------------------------- */

static void test_hash_bits(void) {
    CHECK_EQ(kv_hash_tag(0), 1); /* 0 is a free slot's */
    CHECK_EQ(kv_hash_tag(0xff), 1);
    CHECK_EQ(kv_hash_tag(0xab00), 0xab);
    CHECK_EQ(kv_hash_tag(UINT64_C(0xffffffffffff12ff)), 0x12);
    CHECK_EQ(kv_hash_bucket_bits(UINT64_C(0xffffffff1234ffff)), 0x1234);
    CHECK_EQ(kv_hash_bucket_bits(UINT64_C(0xffffffff0000ffff)), 0);
    for (unsigned bits = 0; bits <= 0xffff; bits += 13)
        for (uint32_t count = 2; count <= 65536; count *= 2) {
            CHECK(kv_bucket_index(bits, count) < count);
            CHECK(bits == 0 || kv_bucket_index(bits, count) >= kv_bucket_index(bits - 1, count));
        }
    CHECK_EQ(kv_bucket_index(0xffff, 65536), 65535);
    CHECK_EQ(kv_bucket_index(0xffff, 3), 2);
}

static void test_array_counts(void) {
    static const uint32_t counts[] = {2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128};
    for (uint32_t code = 0; code < sizeof counts / sizeof counts[0]; code++) {
        kv_array array = UINT64_C(0x123456789ac0) | code;
        CHECK_EQ(kv_array_count(array), counts[code]);
        CHECK_EQ((uintptr_t)kv_array_buckets(array), 0x123456789ac0);
    }
}

/* All that have the tag are found, and the lowest that is found has it. */
static void test_tags(void) {
    check_random random = random_stream(1);
    for (unsigned i = 0; i < 300000; i++) {
        uint64_t tags = random_next(&random);
        if (i % 2) /* small ones, so that they are equal, or one off */
            tags &= UINT64_C(0x0303030303030303);
        uint8_t tag = (uint8_t)(i % 3 ? random_below(&random, 4) : random_next(&random));
        uint64_t match = kv_tags_match(tags, tag), wanted = 0;
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++)
            if ((tags >> (8 * slot) & 0xff) == tag)
                wanted |= UINT64_C(0x80) << (8 * slot);
        CHECK_EQ(wanted & ~match, 0);
        CHECK_EQ(match & ~UINT64_C(0x80808080808080), 0);
        CHECK_EQ(match & (0 - match), wanted & (0 - wanted));
    }
}

static void test_ranges(void) {
    kv_shard shard = {.depth = 4, .range_start = UINT64_C(0x3) << 60};
    CHECK(kv_shard_owns(&shard, UINT64_C(0x3) << 60));
    CHECK(kv_shard_owns(&shard, UINT64_C(0x3fffffffffffffff)));
    CHECK(!kv_shard_owns(&shard, UINT64_C(0x4) << 60));
    CHECK(!kv_shard_owns(&shard, UINT64_C(0x2fffffffffffffff)));
    CHECK(!kv_shard_owns(&shard, UINT64_C(0xb) << 60));
    CHECK_EQ(kv_shard_range_last(&shard), UINT64_C(0x3fffffffffffffff));
}

/* ---- One array, with hashes made up ----------------------------------------------------------------- */

/* An entry whose key is its number; the hash is the test's. */
static kv_entry *entry_make(kv_table *table, unsigned number) {
    kv_entry *e = kv_entry_create(table->entries, bytes_of(&number, sizeof number),
                                  bytes_of("value", number % 6));
    CHECK(e != NULL);
    return e;
}

typedef struct lone {
    kv_table table;
    kv_shard shard; /* in no directory */
} lone;

static lone *lone_make(uint32_t entries) {
    lone *l = calloc(1, sizeof *l + 64);
    CHECK(l != NULL);
    l->table = table_make();
    l->shard.depth = KV_DEPTH_MAX; /* it does not split */
    l->shard.array = kv_array_create(&l->table, entries);
    CHECK(l->shard.array != 0);
    return l;
}

static void release(void *arg, kv_entry *e) {
    kv_entry_release(((kv_table *)arg)->entries, e);
}

static void lone_end(lone *l) {
    kv_array_visit(kv_shard_array(&l->shard), release, &l->table);
    kv_array_free(&l->table, kv_shard_array(&l->shard));
    kv_table_fini(&l->table);
    free(l);
}

static kv_entry *lone_find(lone *l, uint64_t hash, unsigned number, kv_place *place) {
    return kv_shard_find(&l->shard, hash, bytes_of(&number, sizeof number), place);
}

/* Keys of few different hashes, in and out at random: chains run over several buckets, around the end,
 * and through holes. */
static void lone_random(uint64_t (*hash_of)(unsigned number), unsigned keys, unsigned steps) {
    lone *l = lone_make(0);
    kv_entry **entries = calloc(keys, sizeof(kv_entry *));
    check_random random = random_stream(keys);
    kv_error err;
    kv_place place;
    for (unsigned i = 0; i < steps; i++) {
        unsigned number = (unsigned)random_below(&random, keys);
        uint64_t hash = hash_of(number);
        CHECK(lone_find(l, hash, number, &place) == entries[number]);
        if (entries[number] == NULL) {
            entries[number] = entry_make(&l->table, number);
            CHECK_OK(kv_shard_reserve(&l->table, &l->shard, 1, &err), &err);
            kv_shard_insert(&l->shard, hash, entries[number]);
        } else if (random_below(&random, 3) == 0) {
            kv_entry *new = entry_make(&l->table, number);
            kv_shard_replace(&l->shard, place, new);
            kv_entry_release(l->table.entries, entries[number]);
            entries[number] = new;
        } else {
            kv_shard_remove(&l->shard, hash, place);
            kv_entry_release(l->table.entries, entries[number]);
            entries[number] = NULL;
        }
        if (i % 1000 == 0) {
            uint32_t count = 0;
            uint64_t data_bytes = 0;
            for (unsigned k = 0; k < keys; k++) {
                CHECK(lone_find(l, hash_of(k), k, &place) == entries[k]);
                count += entries[k] != NULL;
                data_bytes += entries[k] != NULL ? kv_entry_data_size(entries[k]) : 0;
            }
            CHECK_EQ(l->shard.count, count);
            CHECK_EQ(l->shard.data_bytes, data_bytes);
        }
    }
    free(entries);
    lone_end(l);
}

static uint64_t one_hash(unsigned number) {
    (void)number;
    return UINT64_C(0xffffabcd); /* the last bucket */
}

static uint64_t one_bucket(unsigned number) {
    return UINT64_C(0xffff0000) | (number % 256) << 8;
}

static uint64_t few_hashes(unsigned number) {
    return (uint64_t)(number % 5) * UINT64_C(0x33330000) | (number % 3) << 8;
}

static uint64_t same_tags(unsigned number) {
    return (uint64_t)(number * 40503u & 0xffff) << 16;
}

static void test_collisions(void) {
    lone_random(one_hash, 20, 20000);
    lone_random(one_hash, 350, 20000);
    lone_random(one_bucket, 350, 20000);
    lone_random(few_hashes, 350, 20000);
    lone_random(same_tags, 700, 20000);
}

/* More than 254 entries probe past a bucket: its count stays at "many, for ever", and lookups stay right. */
static void test_overflow_counts_saturate(void) {
    lone *l = lone_make(64 * KV_BUCKET_LOAD);
    enum { COUNT = 380 };
    kv_entry *entries[COUNT];
    kv_place place;
    CHECK_EQ(kv_array_count(kv_shard_array(&l->shard)), 64);
    kv_bucket *home = kv_array_buckets(kv_shard_array(&l->shard)) + 63;
    for (int round = 0; round < 3; round++) {
        for (unsigned i = 0; i < COUNT; i++) {
            entries[i] = entry_make(&l->table, i);
            kv_shard_insert(&l->shard, one_bucket(i), entries[i]);
            if (round == 0) {
                uint64_t passed = i < KV_BUCKET_SLOTS ? 0 : i - KV_BUCKET_SLOTS + 1;
                CHECK_EQ(atomic_load(&home->tags) >> 56, passed < 255 ? passed : 255);
            }
        }
        for (unsigned i = 0; i < COUNT; i++)
            CHECK(lone_find(l, one_bucket(i), i, &place) == entries[i]);
        for (unsigned i = 0; i < COUNT; i++) {
            unsigned number = (i * 7 + (unsigned)round) % COUNT;
            CHECK(lone_find(l, one_bucket(number), number, &place) == entries[number]);
            kv_shard_remove(&l->shard, one_bucket(number), place);
            kv_entry_release(l->table.entries, entries[number]);
            CHECK(lone_find(l, one_bucket(number), number, &place) == NULL);
        }
        CHECK_EQ(l->shard.count, 0);
        CHECK_EQ(atomic_load(&home->tags) >> 56, 255);
    }
    lone_end(l);
}

/* Counts that did not saturate fall back to 0: chains become short again. */
static void test_overflow_counts_fall(void) {
    lone *l = lone_make(64 * KV_BUCKET_LOAD);
    kv_entry *entries[100];
    kv_place place;
    for (unsigned i = 0; i < 100; i++) {
        entries[i] = entry_make(&l->table, i);
        kv_shard_insert(&l->shard, one_bucket(i), entries[i]);
    }
    for (unsigned i = 100; i-- > 0;) {
        CHECK(lone_find(l, one_bucket(i), i, &place) == entries[i]);
        kv_shard_remove(&l->shard, one_bucket(i), place);
        kv_entry_release(l->table.entries, entries[i]);
    }
    kv_bucket *buckets = kv_array_buckets(kv_shard_array(&l->shard));
    for (unsigned i = 0; i < 64; i++) {
        CHECK_EQ(atomic_load(&buckets[i].tags), 0);
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++)
            CHECK_EQ(atomic_load(&buckets[i].slots[slot]), 0);
    }
    lone_end(l);
}

/* A bucket array that is as full as it can be. */
static void test_full_array(void) {
    lone *l = lone_make(0);
    enum { COUNT = 2 * KV_BUCKET_SLOTS };
    kv_place place;
    CHECK_EQ(kv_array_count(kv_shard_array(&l->shard)), 2);
    for (unsigned i = 0; i < COUNT; i++)
        kv_shard_insert(&l->shard, few_hashes(i), entry_make(&l->table, i));
    for (unsigned i = 0; i < COUNT; i++)
        CHECK(lone_find(l, few_hashes(i), i, &place) != NULL);
    for (unsigned i = COUNT; i < 100; i++) /* ends, although no bucket has a free slot */
        CHECK(lone_find(l, few_hashes(i), i, &place) == NULL);
    lone_end(l);
}

/* A shard that may not split grows up to 65,536 buckets, and then says so. */
static void test_growth_has_an_end(void) {
    lone *l = lone_make(0);
    kv_entry *e = entry_make(&l->table, 1);
    kv_error err;
    check_random random = random_stream(3);
    uint32_t count = 0;
    for (;;) {
        kv_status status = kv_shard_reserve(&l->table, &l->shard, 1, &err);
        if (status != KV_OK) {
            CHECK_STATUS(status, KV_ERR_LIMIT, &err);
            break;
        }
        kv_shard_insert(&l->shard, random_next(&random), e); /* only its place counts */
        count++;
        CHECK(count <= 65536 * KV_BUCKET_SLOTS);
    }
    CHECK(count > 65536 * KV_BUCKET_LOAD);
    CHECK_EQ(l->shard.count, count);
    kv_array array = kv_shard_array(&l->shard);
    CHECK_EQ(kv_array_count(array), 65536);
    l->shard.array = kv_array_create(&l->table, 0);
    kv_array_free(&l->table, array);
    kv_entry_release(l->table.entries, e);
    lone_end(l);
}

/* ---- A whole table --------------------------------------------------------------------------------------- */

/* Puts the key, as write.c and recovery do. */
static void table_put(kv_table *table, kv_bytes key, kv_bytes value) {
    kv_error err;
    kv_place place;
    uint64_t hash = kv_table_hash(table, key);
    kv_entry *new = kv_entry_create(table->entries, key, value);
    CHECK(new != NULL);
    for (;;) {
        kv_shard *shard = kv_table_lock(table, hash);
        kv_entry *old = kv_shard_find(shard, hash, key, &place);
        kv_status status = KV_OK;
        if (old != NULL)
            kv_shard_replace(shard, place, new);
        else
            status = kv_shard_reserve(table, shard, 1, &err);
        if (old == NULL && status == KV_OK)
            kv_shard_insert(shard, hash, new);
        kv_shard_unlock(shard);
        if (status == KV_BUSY)
            continue;
        CHECK_OK(status, &err);
        kv_entry_release(table->entries, old);
        return;
    }
}

static bool table_delete(kv_table *table, kv_bytes key) {
    kv_place place;
    uint64_t hash = kv_table_hash(table, key);
    kv_shard *shard = kv_table_lock(table, hash);
    kv_entry *old = kv_shard_find(shard, hash, key, &place);
    if (old != NULL)
        kv_shard_remove(shard, hash, place);
    kv_shard_unlock(shard);
    kv_entry_release(table->entries, old);
    return old != NULL;
}

static void add_data(void *arg, kv_entry *e) {
    *(uint64_t *)arg += kv_entry_data_size(e);
}

/* Every shard in order: their ranges touch, their contents are sound, their sums add up; the number of entries. */
static uint64_t table_check(kv_table *table) {
    kv_error err;
    uint64_t entries = 0, shards = 0, data_bytes = 0, data_sum = 0;
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_lock(table, hash);
        CHECK_EQ(shard->range_start, hash);
        CHECK_OK(kv_shard_verify(table, shard, &err), &err);
        uint64_t last = kv_shard_range_last(shard);
        CHECK(kv_table_shard(table, last) == shard);
        CHECK(kv_table_shard(table, hash + (last - hash) / 2) == shard);
        entries += shard->count;
        data_sum += shard->data_bytes;
        kv_array_visit(kv_shard_array(shard), add_data, &data_bytes);
        shards++;
        kv_shard_unlock(shard);
        if (last == UINT64_MAX)
            break;
        hash = last + 1;
    }
    CHECK_EQ(shards, atomic_load(&table->shard_count));
    CHECK_EQ(data_sum, data_bytes);
    return entries;
}

static void check_entry(void *arg, kv_bytes key, kv_bytes value) {
    kv_table *table = arg;
    kv_place place;
    uint64_t hash = kv_table_hash(table, key);
    kv_shard *shard = kv_table_lock(table, hash);
    kv_entry *e = kv_shard_find(shard, hash, key, &place);
    CHECK(e != NULL);
    CHECK_EQ(kv_entry_value(e).size, value.size);
    CHECK_MEM(kv_entry_value(e).data, value.data, value.size);
    CHECK_EQ(atomic_load(&e->references), 1);
    kv_shard_unlock(shard);
}

static void test_against_a_model(void) {
    enum { KEYS = 20000, STEPS = 60000 };
    kv_table table = table_make();
    model *m = model_create();
    check_random random = random_stream(4);
    for (unsigned i = 0; i < STEPS; i++) {
        uint64_t number = random_below(&random, KEYS);
        kv_bytes key = bytes_of(&number, 3 + number % 6);
        if (random_below(&random, 3) == 0) {
            CHECK_EQ(table_delete(&table, key), model_delete(m, key));
        } else {
            table_put(&table, key, bytes_of(&random, number % 9));
            model_put(m, key, bytes_of(&random, number % 9));
        }
        if (i % 5000 == 0)
            CHECK_EQ(table_check(&table), model_count(m));
    }
    model_visit(m, check_entry, &table);
    CHECK_EQ(table_check(&table), model_count(m));
    CHECK(atomic_load(&table.shard_count) > 1 << KV_DEPTH_MIN);
    model_destroy(m);
    kv_table_fini(&table);
}

/* How many of the shard's entries a split would have to look at. */
static unsigned untold(const kv_shard *shard) {
    unsigned count = 0;
    kv_bucket *buckets = kv_array_buckets(kv_shard_array(shard));
    for (uint32_t i = 0; i < kv_array_count(kv_shard_array(shard)); i++)
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++)
            count += (atomic_load(&buckets[i].slots[slot]) & KV_SLOT_NEXT) == KV_SLOT_UNTOLD;
    return count;
}

/* A split touches one entry in fourteen, whatever else goes on meanwhile.  table_check compares what slots tell. */
static void test_slots_tell_the_next_bits(void) {
    enum { FULL = KV_SHARD_BUCKETS_MAX * KV_BUCKET_LOAD };
    kv_table table = table_make();
    kv_error err;
    check_random random = random_stream(9);
    unsigned splits = 0, next = 0, touched = 0;
    while (splits < 500) {
        unsigned number = next++;
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t hash = kv_table_hash(&table, key);
        kv_shard *shard = kv_table_lock(&table, hash);
        if (shard->count == FULL) {
            touched += untold(shard);
            CHECK_STATUS(kv_shard_reserve(&table, shard, 1, &err), KV_BUSY, &err);
            splits++;
        } else {
            CHECK_OK(kv_shard_reserve(&table, shard, 1, &err), &err);
            kv_shard_insert(shard, hash,
                            kv_entry_create_expiring(table.entries, key,
                                                     (kv_bytes){(const uint8_t *)"12345", number % 6},
                                                     number % 3 == 0 ? number + 1 : 0));
        }
        kv_shard_unlock(shard);
        number = (unsigned)random_below(&random, next);
        if (next % 8 == 0)
            table_delete(&table, key);
        else if (next % 8 == 1) /* replaced, if it is there */
            table_put(&table, key, bytes_of(&splits, next % 4));
        if (next % 1000 == 0)
            table_check(&table);
    }
    printf("# %u of %u entries touched by splits\n", touched, splits * FULL);
    CHECK(touched > 0 && touched < splits * FULL / 10);
    table_check(&table);
    kv_table_fini(&table);
}

/* A larger array than shards mostly have, which splits into two of the usual size. */
static void test_growing_while_full(void) {
    enum { FULL = KV_SHARD_BUCKETS_MAX * KV_BUCKET_LOAD };
    kv_table table = table_make();
    kv_error err;
    unsigned grown = 0;
    for (unsigned number = 0; number < 60000; number++) {
        kv_bytes key = bytes_of(&number, sizeof number);
        table_put(&table, key, (kv_bytes){0});
        kv_shard *shard = kv_table_lock(&table, kv_table_hash(&table, key));
        if (shard->count == FULL && number % 2 == 0) {
            CHECK_OK(kv_shard_grow(&table, shard, FULL + 1, &err), &err);
            CHECK_OK(kv_shard_verify(&table, shard, &err), &err);
            grown++;
        }
        kv_shard_unlock(shard);
    }
    CHECK(grown > 10);
    CHECK_EQ(table_check(&table), 60000);
    kv_table_fini(&table);
}

/* Many inserts at once, as a batch asks for them: the shard splits until what it keeps has room. */
static void test_reserving_many(void) {
    kv_table table = table_make();
    kv_error err;
    unsigned number = 0;
    for (uint32_t more = 1; more < 3000; more += more / 2 + 1) {
        uint64_t hash = UINT64_C(0x123456789abcdef0);
        kv_shard *shard = kv_table_lock(&table, hash);
        kv_status status;
        while ((status = kv_shard_reserve(&table, shard, more, &err)) == KV_BUSY &&
               kv_shard_owns(shard, hash))
            ;
        if (status == KV_OK)
            CHECK(shard->count + more <= kv_array_count(kv_shard_array(shard)) * KV_BUCKET_SLOTS);
        else
            CHECK_STATUS(status, KV_BUSY, &err);
        kv_shard_unlock(shard);
        for (unsigned i = 0; i < 300; i++, number++)
            table_put(&table, bytes_of(&number, sizeof number), (kv_bytes){0});
        CHECK_EQ(table_check(&table), number);
    }
    kv_table_fini(&table);
}

/* A split that cannot have all its memory changes nothing. */
static void test_splitting_without_memory(void) {
    kv_table table = table_make();
    kv_error err;
    unsigned failures = 0;
    static void *taken[20000];
    size_t count = 0;
    for (unsigned number = 0; number < 20000; number++) {
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t hash = kv_table_hash(&table, key);
        kv_shard *shard = kv_table_lock(&table, hash);
        uint32_t before = shard->count, buckets = kv_array_count(kv_shard_array(shard));
        if (before + 1 > buckets * KV_BUCKET_LOAD) {
            kv_mem_fail_at(0, true);
            /* What the pool has in hand is used up too, or all but the memory for one array. */
            while (number % 3 < 2 && (taken[count] = kv_pool_alloc(table.arrays, 4096)) != NULL)
                CHECK(++count < 20000);
            if (number % 3 == 1 && count > 0)
                kv_pool_free(table.arrays, taken[--count], 4096);
        }
        kv_status status = kv_shard_reserve(&table, shard, 1, &err);
        if (status != KV_BUSY)
            CHECK_EQ(shard->count, before);
        if (status < 0) {
            CHECK_STATUS(status, KV_ERR_NOMEM, &err);
            CHECK_OK(kv_shard_verify(&table, shard, &err), &err);
            CHECK_EQ(kv_array_count(kv_shard_array(shard)), buckets);
            failures++;
        }
        kv_shard_unlock(shard);
        kv_mem_fail_at(UINT64_MAX, false);
        while (count > 0)
            kv_pool_free(table.arrays, taken[--count], 4096);
        table_put(&table, key, key);
    }
    printf("# %u reservations failed\n", failures);
    CHECK(failures > 5);
    CHECK_EQ(table_check(&table), 20000);
    kv_table_fini(&table);
    for (uint64_t n = 0;; n++) { /* and a table that cannot be made */
        kv_mem_fail_at(n, false);
        kv_status status = kv_table_init(&table, (kv_siphash_key){1, 2}, &err);
        kv_mem_fail_at(UINT64_MAX, false);
        if (status == KV_OK)
            break;
        CHECK_STATUS(status, KV_ERR_NOMEM, &err);
        CHECK(n < 50);
    }
    kv_table_fini(&table);
}

/* ---- Splitting with records of the past ---------------------------------------------------------------------- */

/* Each half gets the records of its own hashes, in their order. */
static void test_split_divides_the_records(void) {
    kv_table table = table_make();
    kv_error err;
    uint64_t lsn = 0;
    enum { COUNT = 16000 };
    for (unsigned i = 0; i < COUNT; i++) {
        kv_bytes key = bytes_of(&i, sizeof i);
        uint64_t hash = kv_table_hash(&table, key);
        kv_entry *new = kv_entry_create(table.entries, key, key);
        kv_shard *shard = kv_table_lock(&table, hash);
        kv_status status;
        while ((status = kv_shard_reserve(&table, shard, 1, &err)) == KV_BUSY) {
            kv_shard_unlock(shard);
            shard = kv_table_lock(&table, hash);
        }
        CHECK_OK(status, &err);
        kv_shard_insert(shard, hash, new);
        kv_undo *record = kv_undo_create(&table);
        kv_undo_set_change(record, ++lsn, hash, NULL, new);
        shard->last_lsn = lsn;
        kv_undo_push(shard, record);
        kv_shard_unlock(shard);
    }
    CHECK_EQ(table_check(&table), COUNT); /* which looks at the records as well */
    CHECK(atomic_load(&table.shard_count) > 1 << KV_DEPTH_MIN);
    uint64_t records = 0;
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_shard(&table, hash);
        uint64_t last_lsn = UINT64_MAX;
        CHECK_EQ(shard->undo_count, shard->count);
        for (const kv_undo *r = shard->undo; r != NULL; r = r->next) {
            CHECK(kv_shard_owns(shard, r->hash));
            CHECK(r->lsn < last_lsn);
            last_lsn = r->lsn;
            records++;
        }
        CHECK(shard->undo == NULL || shard->undo_oldest_lsn == last_lsn);
        kv_undo_free_all(&table, kv_undo_prune(shard, lsn, NULL));
        CHECK(shard->undo == NULL);
        if (kv_shard_range_last(shard) == UINT64_MAX)
            break;
        hash = kv_shard_range_last(shard) + 1;
    }
    CHECK_EQ(records, COUNT);
    kv_table_fini(&table);
}

/* ---- Threads --------------------------------------------------------------------------------------------------- */

enum { PER_THREAD = 4000 };

static void put_mine(worker *me) {
    kv_table *table = me->shared;
    for (unsigned i = 0; i < PER_THREAD; i++) {
        uint64_t number = (uint64_t)me->id << 32 | i;
        table_put(table, bytes_of(&number, sizeof number), bytes_of(&i, sizeof i));
        if (i % 3 == 0)
            CHECK(table_delete(table, bytes_of(&number, sizeof number)));
    }
}

/* As kv_get_many peeks, without locks. */
static void peek(worker *me) {
    kv_table *table = me->shared;
    for (unsigned i = 0; i < 20 * PER_THREAD; i++) {
        uint64_t hash = random_next(&me->random);
        kv_shard *shard = kv_table_prefetch_shard(table, hash);
        kv_shard_prefetch_bucket(shard, hash);
        kv_shard_prefetch_entry(shard, hash);
    }
}

static void test_threads(void) {
    kv_table table = table_make();
    crew crew = {0};
    for (unsigned i = 0; i < 6; i++)
        crew_add(&crew, put_mine, &table);
    for (unsigned i = 0; i < 2; i++)
        crew_add(&crew, peek, &table);
    crew_join(&crew);
    CHECK_EQ(table_check(&table), 6 * (PER_THREAD - (PER_THREAD + 2) / 3));
    kv_table_fini(&table);
}

CHECK_MAIN(TEST(test_hash_bits), TEST(test_array_counts), TEST(test_tags), TEST(test_ranges),
           TEST(test_collisions), TEST(test_overflow_counts_saturate), TEST(test_overflow_counts_fall),
           TEST(test_full_array), TEST(test_growth_has_an_end), TEST(test_against_a_model),
           TEST(test_slots_tell_the_next_bits), TEST(test_growing_while_full),
           TEST(test_reserving_many), TEST(test_splitting_without_memory),
           TEST(test_split_divides_the_records), TEST(test_threads))
