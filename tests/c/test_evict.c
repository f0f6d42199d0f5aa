/* test_evict.c - who is chosen when a shard has to give: by itself, and as a cache that stays full. */
#include "check.h"

#include "engine/evict.h"
#include "model.h"

enum { ENTRIES_MAX = 400, ALL = 1000000000 };

static kv_table table_make(void) {
    kv_table table;
    kv_error err;
    CHECK_OK(kv_table_init(&table, (kv_siphash_key){check_seed, 2}, &err), &err);
    return table;
}

/* ---- One shard --------------------------------------------------------------------------------- */

/* A shard in no directory, whose keys are numbers and whose hashes are made from them. */
typedef struct lone {
    kv_table table;
    kv_shard shard;
    kv_place places[ENTRIES_MAX];
    kv_entry *victims[ENTRIES_MAX];
} lone;

static uint64_t hash_of(unsigned number) {
    check_random random = {number};
    return random_next(&random);
}

static lone *lone_make(void) {
    lone *l = aligned_alloc(64, (sizeof *l + 63) / 64 * 64);
    CHECK(l != NULL);
    memset(l, 0, sizeof *l);
    l->table = table_make();
    l->shard.depth = KV_DEPTH_MAX; /* it does not split */
    l->shard.array = kv_array_create(&l->table, 0);
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

static kv_entry *lone_find(lone *l, unsigned number) {
    kv_place place;
    return kv_shard_find(&l->shard, hash_of(number), bytes_of(&number, sizeof number), &place);
}

static kv_entry *lone_put(lone *l, unsigned number, size_t value_size) {
    static const char value[1000];
    kv_error err;
    uint64_t hash = hash_of(number);
    kv_entry *e = kv_entry_create(l->table.entries, bytes_of(&number, sizeof number),
                                  bytes_of(value, value_size));
    CHECK(e != NULL);
    kv_evict_note_new(&l->shard, hash);
    CHECK_OK(kv_shard_reserve(&l->table, &l->shard, 1, &err), &err);
    kv_shard_insert(&l->shard, hash, e);
    return e;
}

static unsigned number_of(const kv_entry *e) {
    unsigned number;
    memcpy(&number, e->bytes, sizeof number);
    return number;
}

static uint8_t use_of(const kv_entry *e) {
    return atomic_load(&e->use);
}

static size_t lone_choose(lone *l, uint64_t bytes, const kv_entry *spare) {
    return kv_evict_choose(&l->shard, bytes, spare, l->places, l->victims, ENTRIES_MAX);
}

static void lone_remove(lone *l, size_t chosen) {
    for (size_t i = 0; i < chosen; i++) {
        uint64_t hash = hash_of(number_of(l->victims[i]));
        kv_shard_remove(&l->shard, hash, l->places[i]);
        kv_evict_note_evicted(l->places[i], hash);
        kv_entry_release(l->table.entries, l->victims[i]);
    }
}

/* A new key, for which another one has to go. */
static void lone_pass(lone *l, unsigned number) {
    CHECK_EQ(lone_choose(l, 1, NULL), 1);
    lone_remove(l, 1);
    lone_put(l, number, 0);
}

/* What was chosen is distinct and stands where it is said to; its charges are `bytes` or more, but not
 * without the last one. */
static void check_chosen(lone *l, size_t chosen, uint64_t bytes) {
    uint64_t charge = 0;
    for (size_t i = 0; i < chosen; i++) {
        CHECK(charge < bytes);
        charge += kv_entry_charge(l->victims[i]);
        CHECK(lone_find(l, number_of(l->victims[i])) == l->victims[i]);
        CHECK(kv_slot_entry(l->places[i].bucket->slots[l->places[i].slot]) == l->victims[i]);
        CHECK_EQ(use_of(l->victims[i]), 0);
        for (size_t k = 0; k < i; k++)
            CHECK(l->victims[i] != l->victims[k]);
    }
    CHECK(charge >= bytes);
}

static void test_uses_are_counted_up_to_a_limit(void) {
    lone *l = lone_make();
    kv_entry *e = lone_put(l, 1, 10), *other = lone_put(l, 2, 10);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_EQ(use_of(e), i < KV_USE_MAX ? i : KV_USE_MAX);
        kv_evict_note_use(e);
    }
    kv_evict_note_replace(other, e);
    CHECK_EQ(use_of(other), KV_USE_MAX);
    atomic_store(&e->use, 0);
    kv_evict_note_replace(other, e);
    CHECK_EQ(use_of(other), 1);
    lone_end(l);
}

static void test_nothing_to_choose(void) {
    lone *l = lone_make();
    CHECK_EQ(lone_choose(l, ALL, NULL), 0); /* an empty shard */
    kv_entry *e = lone_put(l, 1, 10);
    CHECK_EQ(lone_choose(l, 0, NULL), 0);
    CHECK_EQ(lone_choose(l, 1, e), 0);
    CHECK_EQ(kv_evict_choose(&l->shard, 1, NULL, l->places, l->victims, 0), 0);
    CHECK_EQ(lone_choose(l, 1, NULL), 1);
    CHECK(l->victims[0] == e);
    lone_remove(l, 1);
    CHECK_EQ(lone_choose(l, ALL, NULL), 0); /* one that became empty */
    lone_end(l);
}

static void test_the_charge_is_reached(void) {
    lone *l = lone_make();
    check_random random = random_stream(1);
    uint64_t total = 0;
    for (unsigned i = 0; i < 300; i++)
        total += kv_entry_charge(lone_put(l, i, random_below(&random, 1000)));
    for (unsigned next = 300; next < 2000;) {
        uint64_t bytes = 1 + random_below(&random, total / 4), freed = 0;
        size_t chosen = lone_choose(l, bytes, NULL);
        check_chosen(l, chosen, bytes);
        for (size_t i = 0; i < chosen; i++)
            freed += kv_entry_charge(l->victims[i]);
        lone_remove(l, chosen);
        while (freed > 1000) {
            kv_entry *e = lone_put(l, next++, random_below(&random, 900));
            freed -= kv_entry_charge(e);
            for (uint64_t uses = random_below(&random, 5); uses > 0; uses--)
                kv_evict_note_use(e);
        }
    }
    lone_end(l);
}

static void test_the_capacity_is_kept(void) {
    lone *l = lone_make();
    for (unsigned i = 0; i < 100; i++)
        lone_put(l, i, 0);
    for (size_t capacity = 1; capacity <= 100; capacity += 9)
        CHECK_EQ(kv_evict_choose(&l->shard, ALL, NULL, l->places, l->victims, capacity),
                 capacity);
    lone_end(l);
}

/* Also one in which everybody is used, wherever the hand stands. */
static void test_everybody_can_be_chosen(void) {
    check_random random = random_stream(2);
    for (unsigned round = 0; round < 200; round++) {
        lone *l = lone_make();
        unsigned count = 1 + (unsigned)random_below(&random, 380);
        uint64_t total = 0;
        for (unsigned i = 0; i < count; i++) {
            kv_entry *e = lone_put(l, i, 0);
            atomic_store(&e->use, round % 2 ? KV_USE_MAX : random_below(&random, KV_USE_MAX + 1));
            total += kv_entry_charge(e);
        }
        l->shard.hand = (uint32_t)random_below(&random, 1000); /* of another array, say */
        kv_entry *spare = lone_find(l, (unsigned)random_below(&random, count));
        uint64_t bytes = total - kv_entry_charge(spare);
        CHECK_EQ(lone_choose(l, ALL, spare), count - 1);
        check_chosen(l, count - 1, bytes);
        for (unsigned i = 0; i < count - 1; i++)
            CHECK(l->victims[i] != spare);
        CHECK_EQ(lone_choose(l, ALL, NULL), count); /* what was chosen and not removed, too */
        check_chosen(l, count, total);
        lone_remove(l, count);
        CHECK_EQ(l->shard.count, 0);
        lone_end(l);
    }
}

/* Keys that are used now and then stay, whatever passes by. */
static void test_used_keys_survive_a_scan(void) {
    lone *l = lone_make();
    enum { COUNT = 300, HOT = 200 };
    for (unsigned i = 0; i < COUNT; i++)
        kv_evict_note_use(lone_put(l, i, 0));
    for (unsigned next = COUNT; next < 100 * COUNT; next++) {
        kv_entry *e = lone_find(l, next % HOT);
        CHECK(e != NULL);
        kv_evict_note_use(e);
        lone_pass(l, next);
        CHECK_EQ(l->shard.count, COUNT);
    }
    for (unsigned i = 0; i < HOT; i++)
        CHECK(lone_find(l, i) != NULL);
    lone_end(l);
}

/* A scan costs keys that were there before it hardly anything, even those that nobody used. */
static void test_a_scan_goes_through_the_probation(void) {
    lone *l = lone_make();
    enum { COUNT = 300 };
    for (unsigned i = 0; i < COUNT; i++)
        lone_put(l, i, 0);
    for (unsigned next = COUNT; next < 10 * COUNT; next++)
        lone_pass(l, next);
    unsigned left = 0;
    for (unsigned i = 0; i < COUNT; i++)
        left += lone_find(l, i) != NULL;
    CHECK(left >= COUNT * 9 / 10); /* all but a few: new ones may be taken for some that went */
    lone_end(l);
}

/* A key that comes back soon after it went has its place among those that stay. */
static void test_a_key_that_comes_back_stays(void) {
    enum { COUNT = 300, TIMES = 150, SOON = 3 * KV_EVICT_QUEUE };
    lone *l = lone_make();
    unsigned next = 0, back = 0, stayed = 0;
    while (next < COUNT)
        lone_put(l, next++, 0);
    for (unsigned i = 0; i < TIMES; i++) {
        for (unsigned k = 0; k < SOON; k++)
            lone_pass(l, next++);
        unsigned number = next - SOON + KV_EVICT_QUEUE; /* on probation, and it went, not long ago */
        if (lone_find(l, number) != NULL)
            continue;
        back++;
        lone_pass(l, number);
        for (unsigned k = 0; k < SOON; k++)
            lone_pass(l, next++);
        stayed += lone_find(l, number) != NULL;
    }
    CHECK(back > TIMES * 3 / 4);
    CHECK(stayed > back / 2); /* without a memory of them, hardly one */
    lone_end(l);
}

/* Keys of equal bits are taken for each other; that harms nobody. */
static void test_equal_hashes(void) {
    static const uint64_t hashes[] = {0, UINT64_C(0xffffabcd)};
    for (unsigned h = 0; h < 2; h++) {
        lone *l = lone_make();
        kv_error err;
        for (unsigned round = 0; round < 50; round++) {
            for (unsigned i = 0; i < 20; i++) {
                unsigned number = 20 * round + i;
                kv_entry *e = kv_entry_create(l->table.entries,
                                              bytes_of(&number, sizeof number), (kv_bytes){0});
                kv_evict_note_new(&l->shard, hashes[h]);
                CHECK_OK(kv_shard_reserve(&l->table, &l->shard, 1, &err), &err);
                kv_shard_insert(&l->shard, hashes[h], e);
            }
            CHECK_EQ(lone_choose(l, 15 * (4 + KV_ITEM_CHARGE), NULL), 15);
            for (size_t i = 0; i < 15; i++) {
                CHECK(l->places[i].bucket->slots[l->places[i].slot] != 0);
                kv_shard_remove(&l->shard, hashes[h], l->places[i]);
                kv_evict_note_evicted(l->places[i], hashes[h]);
                kv_entry_release(l->table.entries, l->victims[i]);
            }
            CHECK_EQ(l->shard.count, 5 * (round + 1));
        }
        lone_end(l);
    }
}

/* ---- A table that stays full -------------------------------------------------------------------- */

static void evict_one(kv_table *table, kv_shard *shard, const kv_entry *spare) {
    kv_place place;
    kv_entry *victim;
    if (kv_evict_choose(shard, 1, spare, &place, &victim, 1) == 0)
        return;
    uint64_t hash = kv_table_hash(table, kv_entry_key(victim));
    kv_shard_remove(shard, hash, place);
    kv_evict_note_evicted(place, hash);
    kv_entry_release(table->entries, victim);
}

/* Puts, overwrites, reads and deletions at random: shards grow, split and stay whole, and memories of
 * evicted keys in free slots are in nobody's way. */
static void test_a_full_table_stays_whole(void) {
    kv_table table = table_make();
    check_random random = random_stream(3);
    kv_error err;
    uint64_t count = 0;
    for (unsigned step = 0; step < 200000; step++) {
        uint64_t limit = step < 50000 ? 500 : 5000;
        unsigned number = (unsigned)random_below(&random, 1 + random_below(&random, 20000));
        kv_bytes key = bytes_of(&number, sizeof number);
        uint64_t hash = kv_table_hash(&table, key);
        kv_shard *shard = kv_table_lock(&table, hash);
        kv_place place;
        kv_entry *old = kv_shard_find(shard, hash, key, &place);
        uint64_t what = random_below(&random, 10);
        if (old != NULL && what < 2) {
            kv_shard_remove(shard, hash, place);
            kv_entry_release(table.entries, old);
            count--;
        } else if (old != NULL && what < 4) {
            kv_entry *e = kv_entry_create(table.entries, key, key);
            kv_evict_note_replace(e, old);
            kv_shard_replace(shard, place, e);
            kv_entry_release(table.entries, old);
            uint32_t before = shard->count;
            evict_one(&table, shard, e);
            count -= before - shard->count;
            CHECK(kv_shard_find(shard, hash, key, &place) == e);
        } else if (old != NULL) {
            kv_evict_note_use(old);
        } else {
            uint32_t before = shard->count;
            if (count >= limit)
                evict_one(&table, shard, NULL);
            count -= before - shard->count;
            kv_evict_note_new(shard, hash);
            kv_status status;
            while ((status = kv_shard_reserve(&table, shard, 1, &err)) == KV_BUSY) {
                kv_shard_unlock(shard);
                shard = kv_table_lock(&table, hash);
            }
            CHECK_OK(status, &err);
            kv_shard_insert(shard, hash, kv_entry_create(table.entries, key, key));
            count++;
        }
        kv_shard_unlock(shard);
        if (step % 20000 == 0 || step == 199999) {
            uint64_t found = 0;
            for (uint64_t at = 0;; at++) {
                shard = kv_table_lock(&table, at);
                CHECK_OK(kv_shard_verify(&table, shard, &err), &err);
                found += shard->count;
                at = kv_shard_range_last(shard);
                kv_shard_unlock(shard);
                if (at == UINT64_MAX)
                    break;
            }
            CHECK_EQ(found, count);
        }
    }
    kv_table_fini(&table);
}

CHECK_MAIN(TEST(test_uses_are_counted_up_to_a_limit), TEST(test_nothing_to_choose),
           TEST(test_the_charge_is_reached), TEST(test_the_capacity_is_kept),
           TEST(test_everybody_can_be_chosen),
           TEST(test_used_keys_survive_a_scan), TEST(test_a_scan_goes_through_the_probation),
           TEST(test_a_key_that_comes_back_stays), TEST(test_equal_hashes),
           TEST(test_a_full_table_stays_whole))
