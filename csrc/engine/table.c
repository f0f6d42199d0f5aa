/* table.c - see table.h. */
#include "table.h"

#include "../base/mem.h"
#include "undo.h"

#define SHARD_ENTRIES_MAX (KV_SHARD_BUCKETS_MAX * KV_BUCKET_LOAD)
#define ARRAY_CODE_MAX 30u /* 65,536 buckets: more than 16 bits of hash tell apart is of no use */

/* ---- Arrays of buckets ----------------------------------------------------------------------- */

static uint32_t code_for(uint64_t entries) {
    uint32_t code = 0;
    while (code < ARRAY_CODE_MAX && (uint64_t)kv_array_count(code) * KV_BUCKET_LOAD < entries)
        code++;
    return code;
}

static size_t array_size(kv_array array) {
    return kv_array_count(array) * sizeof(kv_bucket);
}

static kv_array array_create_coded(kv_table *table, uint32_t code) {
    size_t size = kv_array_count(code) * sizeof(kv_bucket);
    kv_bucket *buckets = kv_pool_alloc(table->arrays, size);
    if (buckets == NULL || ((uintptr_t)buckets & 63) != 0) {
        kv_pool_free(table->arrays, buckets, size);
        return 0;
    }
    /* Word by word and atomic: somebody may peek at this memory by an outdated array word. */
    _Atomic uint64_t *words = (_Atomic uint64_t *)buckets;
    for (size_t i = 0; i < size / sizeof *words; i++)
        atomic_store_explicit(&words[i], 0, memory_order_relaxed);
    return (kv_array)(uintptr_t)buckets | code;
}

kv_array kv_array_create(kv_table *table, uint32_t entries) {
    return array_create_coded(table, code_for(entries));
}

kv_array kv_array_create_for(kv_table *table, uint32_t depth, uint32_t entries) {
    bool grown = depth > KV_DEPTH_MIN && entries < SHARD_ENTRIES_MAX;
    return array_create_coded(table, code_for(grown ? SHARD_ENTRIES_MAX : entries));
}

void kv_array_free(kv_table *table, kv_array array) {
    if (array != 0)
        kv_pool_free(table->arrays, kv_array_buckets(array), array_size(array));
}

kv_entry *kv_array_find(kv_array array, uint64_t hash, kv_bytes key, kv_place *place) {
    kv_bucket *buckets = kv_array_buckets(array);
    uint32_t count = kv_array_count(array), bits = kv_hash_bucket_bits(hash);
    uint32_t index = kv_bucket_index(bits, count);
    uint8_t tag = kv_hash_tag(hash);
    for (uint32_t probes = 0; probes < count; probes++) {
        kv_bucket *b = &buckets[index];
        uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed);
        for (uint64_t m = kv_tags_match(tags, tag); m != 0; m &= m - 1) {
            unsigned slot = (unsigned)__builtin_ctzll(m) / 8;
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            if (word >> 48 != bits)
                continue;
            kv_entry *e = kv_slot_entry(word);
            if (e != NULL && kv_entry_has_key(e, key)) {
                *place = (kv_place){b, slot};
                return e;
            }
        }
        if (tags >> 56 == 0)
            return NULL;
        index = index + 1 == count ? 0 : index + 1;
    }
    return NULL;
}

/* Changes byte 7, the count of entries that probed past the bucket; 255 stays. */
static void count_passed(kv_bucket *b, int change) {
    uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed);
    uint64_t passed = tags >> 56;
    if (passed != 255)
        passed += (uint64_t)(int64_t)change;
    atomic_store_explicit(&b->tags, (tags & (UINT64_MAX >> 8)) | passed << 56,
                          memory_order_relaxed);
}

static void set_slot(kv_bucket *b, unsigned slot, uint8_t tag, uint64_t word) {
    uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed);
    tags = (tags & ~(UINT64_C(0xff) << (8 * slot))) | (uint64_t)tag << (8 * slot);
    atomic_store_explicit(&b->slots[slot], word, memory_order_relaxed);
    atomic_store_explicit(&b->tags, tags, memory_order_relaxed);
}

/* There must be a free slot.  `e`: the entry's address, perhaps with low bits of a slot. */
static void array_insert(kv_array array, uint32_t bucket_bits, uint8_t tag, uint64_t e) {
    kv_bucket *buckets = kv_array_buckets(array);
    uint32_t count = kv_array_count(array);
    uint32_t index = kv_bucket_index(bucket_bits, count);
    for (;;) {
        kv_bucket *b = &buckets[index];
        uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed);
        uint64_t free_slots = kv_tags_match(tags, 0);
        if (free_slots != 0) {
            set_slot(b, (unsigned)__builtin_ctzll(free_slots) / 8, tag,
                     e | (uint64_t)bucket_bits << 48);
            return;
        }
        count_passed(b, +1);
        index = index + 1 == count ? 0 : index + 1;
    }
}

/* ---- What slots tell of the hash's next bits ---------------------------------------------------- */

/* All that a slot has room for, in a shard of that depth. */
static uint64_t next_bits(uint64_t hash, uint32_t depth) {
    return (hash << depth) >> 61 << 1 | 1;
}

static uint64_t one_bit_deeper(uint64_t word) {
    return (word & ~KV_SLOT_NEXT) | (word << 1 & KV_SLOT_NEXT);
}

/* There is an entry, of which no bit is known any more. */
static bool is_untold(uint64_t word) {
    return (word & KV_SLOT_NEXT) == KV_SLOT_UNTOLD;
}

/* What the slot of an entry tells is so. */
static bool tells_truth(uint64_t word, uint64_t hash, uint32_t depth) {
    uint64_t end = word & KV_SLOT_NEXT & -(word & KV_SLOT_NEXT); /* the lowest bit, behind those known */
    return end != 0 && ((word ^ next_bits(hash, depth)) & KV_SLOT_NEXT & ~(2 * end - 1)) == 0;
}

void kv_array_insert(kv_array array, uint32_t depth, uint64_t hash, kv_entry *entry) {
    assert(((uintptr_t)entry & 15) == 0);
    array_insert(array, kv_hash_bucket_bits(hash), kv_hash_tag(hash),
                 (uint64_t)(uintptr_t)entry | next_bits(hash, depth));
}

void kv_array_visit(kv_array array, void (*visit)(void *arg, kv_entry *entry), void *arg) {
    kv_bucket *buckets = kv_array_buckets(array);
    for (uint32_t i = 0; i < kv_array_count(array); i++) {
        uint64_t tags = atomic_load_explicit(&buckets[i].tags, memory_order_relaxed);
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++)
            if ((tags >> (8 * slot) & 0xff) != 0)
                visit(arg, kv_slot_entry(atomic_load_explicit(&buckets[i].slots[slot],
                                                              memory_order_relaxed)));
    }
}

/* ---- Changing a shard ------------------------------------------------------------------------ */

/* Counts an entry in that expires. */
static void add_expiry(kv_shard *shard, const kv_entry *e) {
    uint64_t expiry = kv_entry_expiry(e);
    if (shard->expiring++ == 0 || expiry < shard->next_expiry)
        shard->next_expiry = expiry;
}

void kv_shard_insert(kv_shard *shard, uint64_t hash, kv_entry *entry) {
    kv_array_insert(kv_shard_array(shard), shard->depth, hash, entry);
    shard->count++;
    shard->data_bytes += kv_entry_data_size(entry);
    if (entry->expires)
        add_expiry(shard, entry);
}

void kv_shard_replace(kv_shard *shard, kv_place place, kv_entry *entry) {
    uint64_t word = atomic_load_explicit(&place.bucket->slots[place.slot], memory_order_relaxed);
    kv_entry *old = kv_slot_entry(word);
    shard->data_bytes += kv_entry_data_size(entry) - kv_entry_data_size(old);
    shard->expiring -= old->expires;
    if (entry->expires)
        add_expiry(shard, entry);
    atomic_store_explicit(&place.bucket->slots[place.slot],
                          word ^ (uint64_t)(uintptr_t)old ^ (uint64_t)(uintptr_t)entry,
                          memory_order_relaxed);
}

void kv_shard_remove(kv_shard *shard, uint64_t hash, kv_place place) {
    kv_array array = kv_shard_array(shard);
    kv_bucket *buckets = kv_array_buckets(array);
    uint32_t count = kv_array_count(array);
    uint32_t index = kv_bucket_index(kv_hash_bucket_bits(hash), count);
    uint64_t word = atomic_load_explicit(&place.bucket->slots[place.slot], memory_order_relaxed);
    kv_entry *old = kv_slot_entry(word);
    shard->data_bytes -= kv_entry_data_size(old);
    shard->expiring -= old->expires;
    shard->count--;
    set_slot(place.bucket, place.slot, 0, 0);
    for (; &buckets[index] != place.bucket; index = index + 1 == count ? 0 : index + 1)
        count_passed(&buckets[index], -1);
}

void kv_shard_set_array(kv_shard *shard, kv_array array) {
    atomic_store_explicit(&shard->array, array, memory_order_relaxed);
}

/* Moves the shard into an array of another size; its slots know enough to touch no entry. */
kv_status kv_shard_grow(kv_table *table, kv_shard *shard, uint64_t entries, kv_error *err) {
    kv_array old = kv_shard_array(shard);
    uint32_t code = code_for(entries);
    if (code <= (old & 63))
        code = (uint32_t)(old & 63) + 1;
    if (code > ARRAY_CODE_MAX) {
        if (entries < kv_array_count(old) * KV_BUCKET_SLOTS)
            return KV_OK; /* fuller than it should be, but it fits */
        return kv_fail(err, KV_ERR_LIMIT, "a shard has %u entries and cannot grow further",
                       shard->count);
    }
    kv_array new = array_create_coded(table, code);
    if (new == 0)
        return kv_fail_nomem(err, kv_array_count(code) * sizeof(kv_bucket));
    kv_bucket *buckets = kv_array_buckets(old);
    for (uint32_t i = 0; i < kv_array_count(old); i++) {
        uint64_t tags = atomic_load_explicit(&buckets[i].tags, memory_order_relaxed);
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint8_t tag = (uint8_t)(tags >> (8 * slot));
            uint64_t word = atomic_load_explicit(&buckets[i].slots[slot], memory_order_relaxed);
            if (tag != 0)
                array_insert(new, (uint32_t)(word >> 48), tag, word & (UINT64_MAX >> 16));
        }
    }
    atomic_store_explicit(&shard->array, new, memory_order_relaxed);
    kv_array_free(table, old);
    return KV_OK;
}

/* ---- The directory ---------------------------------------------------------------------------- */

static kv_directory *directory_create(uint32_t depth, kv_directory *older) {
    kv_directory *d =
        kv_mem_alloc(sizeof *d + (sizeof d->slots[0] << depth));
    if (d == NULL)
        return NULL;
    d->older = older;
    d->depth = depth;
    for (size_t i = 0; i < (size_t)1 << depth; i++)
        atomic_init(&d->slots[i], older == NULL ? NULL
                                                : atomic_load_explicit(
                                                      &older->slots[i >> (depth - older->depth)],
                                                      memory_order_relaxed));
    return d;
}

/* Lets the directory lead to `shard` (complete but for this) for all hashes that it owns. */
static kv_status directory_add(kv_table *table, kv_shard *shard, kv_error *err) {
    kv_mutex_lock(&table->directory_mutex, KV_RANK_DIRECTORY);
    kv_directory *d = atomic_load_explicit(&table->directory, memory_order_relaxed);
    bool deeper = shard->depth > d->depth;
    if (deeper) {
        kv_directory *new = directory_create(shard->depth, d);
        if (new == NULL) {
            kv_mutex_unlock(&table->directory_mutex, KV_RANK_DIRECTORY);
            return kv_fail_nomem(err, sizeof *d + (sizeof d->slots[0] << shard->depth));
        }
        d = new;
    }
    size_t first = shard->range_start >> (64 - d->depth);
    size_t count = (size_t)1 << (d->depth - shard->depth);
    /* Release: who finds the shard (or the directory) finds it filled. */
    for (size_t i = first; i < first + count; i++)
        atomic_store_explicit(&d->slots[i], shard, memory_order_release);
    if (deeper)
        atomic_store_explicit(&table->directory, d, memory_order_release);
    kv_mutex_unlock(&table->directory_mutex, KV_RANK_DIRECTORY);
    atomic_fetch_add_explicit(&table->shard_count, 1, memory_order_relaxed);
    return KV_OK;
}

static void shard_init(kv_shard *shard, uint64_t range_start, uint32_t depth, kv_array array) {
    memset(shard, 0, sizeof *shard);
    shard->depth = (uint8_t)depth;
    shard->range_start = range_start;
    atomic_init(&shard->array, array);
}

static kv_shard *shard_create(kv_table *table, uint64_t range_start, uint32_t depth,
                              uint64_t entries) {
    kv_shard *shard = kv_pool_alloc(table->entries, sizeof *shard);
    kv_array array = kv_array_create(table, (uint32_t)entries);
    if (shard == NULL || array == 0) {
        kv_pool_free(table->entries, shard, sizeof *shard);
        kv_array_free(table, array);
        return NULL;
    }
    shard_init(shard, range_start, depth, array);
    return shard;
}

static void shard_destroy(kv_table *table, kv_shard *shard) {
    kv_array_free(table, kv_shard_array(shard));
    kv_pool_free(table->entries, shard, sizeof *shard);
}

kv_status kv_table_init(kv_table *table, kv_siphash_key hash_key, kv_error *err) {
    *table = (kv_table){.hash_key = hash_key};
    table->entries = kv_pool_create();
    table->arrays = kv_pool_create();
    kv_directory *d = directory_create(KV_DEPTH_MIN, NULL);
    atomic_init(&table->directory, d);
    if (table->entries == NULL || table->arrays == NULL || d == NULL)
        goto nomem;
    for (size_t i = 0; i < (size_t)1 << KV_DEPTH_MIN; i++) {
        kv_shard *shard =
            shard_create(table, (uint64_t)i << (64 - KV_DEPTH_MIN), KV_DEPTH_MIN, 0);
        if (shard == NULL)
            goto nomem;
        atomic_init(&d->slots[i], shard);
        table->shard_count++;
    }
    return KV_OK;
nomem:
    kv_table_fini(table);
    return kv_fail_nomem(err, sizeof(kv_shard) << KV_DEPTH_MIN);
}

/* ---- Loading ----------------------------------------------------------------------------------- */

static kv_status bad_origins(kv_error *err) {
    return kv_fail(err, KV_ERR_CORRUPT, "the shards of the checkpoint do not cover all hashes");
}

/* The directory for the origins, its slots still empty; they are checked here. */
static kv_status directory_for(size_t count,
                               void (*origin)(void *arg, size_t number, kv_shard_origin *o),
                               void *arg, kv_directory **out, kv_error *err) {
    uint32_t depth = KV_DEPTH_MIN;
    uint64_t next = 0;
    for (size_t i = 0; i < count; i++) {
        kv_shard_origin o;
        origin(arg, i, &o);
        bool fits = o.depth >= KV_DEPTH_MIN && o.depth <= KV_DEPTH_MAX && o.range_start == next &&
                    (i == 0 || next != 0);
        if (!fits)
            return bad_origins(err);
        next += UINT64_C(1) << (64 - o.depth);
        if (o.depth > depth)
            depth = o.depth;
    }
    if (count == 0 || next != 0)
        return bad_origins(err);
    /* Hashes fall evenly, so no shard has ever been divided much oftener than the others. */
    if (((uint64_t)1 << depth) / count > KV_UNEVENNESS_MAX)
        return kv_fail(err, KV_ERR_CORRUPT,
                       "the shards of the checkpoint are too uneven: %zu, of up to %u bits", count,
                       depth);
    *out = kv_mem_alloc(sizeof **out + (sizeof(*out)->slots[0] << depth));
    if (*out == NULL)
        return kv_fail_nomem(err, sizeof **out + (sizeof(*out)->slots[0] << depth));
    (*out)->older = NULL;
    (*out)->depth = depth;
    return KV_OK;
}

kv_status kv_table_init_unloaded(kv_table *table, kv_siphash_key hash_key, size_t count,
                                 void (*origin)(void *arg, size_t number, kv_shard_origin *o),
                                 kv_shard_loader loader, void *arg, kv_error *err) {
    kv_directory *d = NULL;
    *table = (kv_table){.hash_key = hash_key, .loader = loader, .loader_arg = arg};
    kv_status status = directory_for(count, origin, arg, &d, err);
    if (status < 0)
        return status;
    table->entries = kv_pool_create();
    table->arrays = kv_pool_create();
    atomic_init(&table->directory, d);
    if (table->entries == NULL || table->arrays == NULL)
        goto nomem;
    for (size_t i = 0; i < count; i++) {
        kv_shard_origin o;
        origin(arg, i, &o);
        kv_shard *shard = kv_pool_alloc(table->entries, sizeof *shard);
        if (shard == NULL)
            goto nomem;
        shard_init(shard, o.range_start, o.depth, 0);
        shard->count = o.count;
        shard->data_bytes = o.data_bytes;
        shard->expiring = o.expiring;
        shard->next_expiry = o.next_expiry;
        shard->block = (uint32_t)i;
        size_t first = o.range_start >> (64 - d->depth);
        size_t slots = (size_t)1 << (d->depth - o.depth);
        for (size_t j = first; j < first + slots; j++)
            atomic_init(&d->slots[j], shard);
    }
    table->shard_count = count;
    table->unloaded = count;
    return KV_OK;
nomem:
    kv_table_fini(table);
    return kv_fail_nomem(err, count * sizeof(kv_shard));
}

static void copy_counts(kv_shard *to, const kv_shard *from) {
    to->count = from->count;
    to->data_bytes = from->data_bytes;
    to->expiring = from->expiring;
    to->next_expiry = from->next_expiry;
}

kv_status kv_table_load_locked(kv_table *table, uint64_t hash, kv_shard **shard, kv_error *err) {
    /* The block is the shard's own until it is loaded, and it cannot split before: so what is built here
     * without the lock is what belongs there. */
    kv_shard *s = *shard, draft;
    uint32_t block = s->block;
    shard_init(&draft, s->range_start, s->depth, 0);
    copy_counts(&draft, s);
    atomic_fetch_add(&table->loading, 1);
    kv_shard_unlock(s);
    kv_status status = table->loader(table->loader_arg, table, block, &draft, err);
    atomic_fetch_sub(&table->loading, 1);
    if (status < 0)
        return status;
    kv_mutex_lock(&s->mutex, KV_RANK_SHARD);
    bool first = !kv_shard_is_loaded(s);
    if (first) {
        atomic_fetch_add_explicit(&table->found, (int64_t)draft.count - (int64_t)s->count,
                                  memory_order_relaxed);
        copy_counts(s, &draft);
        atomic_store_explicit(&s->array, kv_shard_array(&draft), memory_order_relaxed);
    }
    if (kv_shard_owns(s, hash)) {
        *shard = s;
    } else { /* somebody else loaded it, and then it split */
        kv_shard_unlock(s);
        *shard = kv_table_lock(table, hash);
    }
    if (first) {
        atomic_fetch_sub_explicit(&table->unloaded, 1, memory_order_release);
        return KV_OK;
    }
    /* Freeing a few hundred entries under the lock: rare, and only at the beginning. */
    kv_array_release(table, kv_shard_array(&draft));
    return KV_OK;
}

static void release_entry(void *arg, kv_entry *e) {
    kv_entry_release(((kv_table *)arg)->entries, e);
}

void kv_array_release(kv_table *table, kv_array array) {
    if (array == 0)
        return;
    kv_array_visit(array, release_entry, table);
    kv_array_free(table, array);
}

void kv_table_fini(kv_table *table) {
    kv_directory *d = atomic_load_explicit(&table->directory, memory_order_relaxed);
    while (d != NULL) {
        kv_directory *older = d->older;
        kv_mem_free(d);
        d = older;
    }
    atomic_init(&table->directory, NULL);
    if (table->entries != NULL)
        kv_pool_release(table->entries);
    if (table->arrays != NULL)
        kv_pool_release(table->arrays);
    table->entries = table->arrays = NULL;
}

/* ---- Splitting -------------------------------------------------------------------------------- */

/* How much of a shard its upper half has. */
typedef struct upper_half {
    uint32_t count, expiring;
} upper_half;

/* Lets each slot tell in which half its entry is, and adds up those of the upper one. */
static upper_half tell_halves(const kv_table *table, const kv_shard *shard) {
    upper_half upper = {0};
    kv_bucket *buckets = kv_array_buckets(kv_shard_array(shard));
    kv_bucket *end = buckets + kv_array_count(kv_shard_array(shard));
    bool expiring = shard->expiring > 0;
    for (kv_bucket *b = buckets; b < end; b++)
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            if (expiring || is_untold(word))
                __builtin_prefetch(kv_slot_entry(word));
        }
    for (kv_bucket *b = buckets; b < end; b++)
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            kv_entry *e = kv_slot_entry(word);
            if (is_untold(word)) {
                uint64_t hash = kv_table_hash(table, kv_entry_key(e));
                word = (word & ~KV_SLOT_NEXT) | next_bits(hash, shard->depth);
                atomic_store_explicit(&b->slots[slot], word, memory_order_relaxed);
            }
            upper.count += (word & KV_SLOT_UPPER) != 0;
            if (expiring && (word & KV_SLOT_UPPER) != 0)
                upper.expiring += e->expires;
        }
    return upper;
}

/* Copies the entries, of whose halves all slots tell, into two empty arrays. */
static void divide(kv_array from, kv_array left, kv_array right) {
    kv_array halves[2] = {left, right};
    uint32_t count = kv_array_count(from);
    bool alike = kv_array_count(left) == count && kv_array_count(right) == count;
    uint32_t others = 0;
    /* Where nothing probed past its bucket, a bucket's entries go into two, which are written from their first slots
     * on. */
    for (uint32_t i = 0; i < count && alike; i++) {
        const kv_bucket *b = &kv_array_buckets(from)[i];
        uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed), new_tags[2] = {0};
        unsigned used[2] = {0};
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++, tags >>= 8) {
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            if ((tags & 0xff) == 0)
                continue;
            if (kv_bucket_index((uint32_t)(word >> 48), count) != i) {
                others++;
                continue;
            }
            unsigned half = (word & KV_SLOT_UPPER) != 0;
            kv_bucket *to = &kv_array_buckets(halves[half])[i];
            new_tags[half] |= (tags & 0xff) << (8 * used[half]);
            atomic_store_explicit(&to->slots[used[half]++], one_bit_deeper(word),
                                  memory_order_relaxed);
        }
        for (unsigned half = 0; half < 2; half++)
            atomic_store_explicit(&kv_array_buckets(halves[half])[i].tags, new_tags[half],
                                  memory_order_relaxed);
    }
    for (uint32_t i = 0; i < count && (others > 0 || !alike); i++) {
        const kv_bucket *b = &kv_array_buckets(from)[i];
        uint64_t tags = atomic_load_explicit(&b->tags, memory_order_relaxed);
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint8_t tag = (uint8_t)(tags >> (8 * slot));
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            uint32_t bits = (uint32_t)(word >> 48);
            if (tag != 0 && !(alike && kv_bucket_index(bits, count) == i))
                array_insert(halves[(word & KV_SLOT_UPPER) != 0], bits, tag, one_bit_deeper(word));
        }
    }
}

/* Gives each half its own undo records, in their order. */
static void split_undo(kv_shard *left, kv_shard *right) {
    kv_undo **left_end = &left->undo, **right_end = &right->undo, *next;
    for (kv_undo *record = left->undo; record != NULL; record = next) {
        next = record->next;
        bool goes_right = kv_shard_owns(right, record->hash);
        kv_undo ***end = goes_right ? &right_end : &left_end;
        **end = record;
        *end = &record->next;
        if (goes_right) {
            right->undo_count++;
            left->undo_count--;
            right->undo_oldest_lsn = record->lsn;
        } else {
            left->undo_oldest_lsn = record->lsn;
        }
    }
    *left_end = *right_end = NULL;
}

/* Half of the locked shard's range, with its entries and records, becomes a shard of its own.
 * Nothing is changed unless all memory could be had. */
static kv_status shard_split(kv_table *table, kv_shard *shard, kv_error *err) {
    upper_half upper = tell_halves(table, shard);
    uint32_t depth = shard->depth + 1u;
    uint64_t right_start = shard->range_start | UINT64_C(1) << (64 - depth);
    uint32_t right_count = upper.count, left_count = shard->count - right_count;
    /* Both arrays get their full size at once.  Shards fill up at the same pace, so smaller arrays would
     * all be outgrown at about the same time, and the memory that they leave behind is of a size that
     * nobody needs then: measured, 10 bytes an item. */
    kv_status status = KV_OK;
    kv_shard *right = shard_create(table, right_start, depth,
                                   right_count > SHARD_ENTRIES_MAX ? right_count
                                                                   : SHARD_ENTRIES_MAX);
    kv_array left_array =
        kv_array_create(table, left_count > SHARD_ENTRIES_MAX ? left_count : SHARD_ENTRIES_MAX);
    if (right == NULL || left_array == 0) {
        status = kv_fail_nomem(err, KV_SHARD_BUCKETS_MAX * sizeof(kv_bucket));
        goto out;
    }
    kv_array old = kv_shard_array(shard);
    divide(old, left_array, kv_shard_array(right));
    right->count = right_count;
    right->expiring = upper.expiring;
    right->last_lsn = shard->last_lsn;
    right->pruned_lsn = shard->pruned_lsn;
    right->merged_lsn = shard->merged_lsn;
    right->next_expiry = shard->next_expiry;
    /* The right half must not be found before it has its undo records, and those may leave the left
     * half only when nothing can fail any more: so lock it, publish it, then fill it. */
    kv_mutex_lock(&right->mutex, KV_RANK_SHARD);
    status = directory_add(table, right, err);
    if (status == KV_OK) {
        split_undo(shard, right);
        shard->depth = (uint8_t)depth;
        shard->count = left_count;
        shard->expiring -= upper.expiring;
        atomic_store_explicit(&shard->array, left_array, memory_order_relaxed);
        left_array = 0;
        kv_array_free(table, old);
    }
    kv_shard_unlock(right);
    if (status == KV_OK)
        right = NULL;
out:
    if (right != NULL)
        shard_destroy(table, right);
    kv_array_free(table, left_array);
    return status;
}

kv_status kv_shard_reserve(kv_table *table, kv_shard *shard, uint32_t more, kv_error *err) {
    uint64_t entries = (uint64_t)shard->count + more;
    if (entries <= (uint64_t)kv_array_count(kv_shard_array(shard)) * KV_BUCKET_LOAD)
        return KV_OK;
    if (entries > SHARD_ENTRIES_MAX && shard->depth < KV_DEPTH_MAX && shard->undo_clears == 0) {
        kv_status status = shard_split(table, shard, err);
        return status == KV_OK ? KV_BUSY : status;
    }
    return kv_shard_grow(table, shard, entries, err);
}

/* ---- Verifying -------------------------------------------------------------------------------- */

static kv_status broken(kv_error *err, const kv_shard *shard, const char *what) {
    return kv_fail(err, KV_ERR_CORRUPT, "the shard of %016llx at depth %u in memory: %s",
                   (unsigned long long)shard->range_start, shard->depth, what);
}

kv_status kv_shard_verify(kv_table *table, kv_shard *shard, kv_error *err) {
    kv_array array = kv_shard_array(shard);
    if (array == 0)
        return shard->undo == NULL ? KV_OK
                                   : broken(err, shard, "it is not loaded, but was changed");
    uint32_t expiring = 0;
    kv_bucket *buckets = kv_array_buckets(array);
    uint32_t count = 0;
    for (uint32_t i = 0; i < kv_array_count(array); i++) {
        uint64_t tags = atomic_load_explicit(&buckets[i].tags, memory_order_relaxed);
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint8_t tag = (uint8_t)(tags >> (8 * slot));
            uint64_t word = atomic_load_explicit(&buckets[i].slots[slot], memory_order_relaxed);
            if (tag == 0) {
                if (kv_slot_entry(word) != NULL)
                    return broken(err, shard, "a free slot is not empty");
                continue;
            }
            kv_entry *e = kv_slot_entry(word);
            uint64_t hash = kv_table_hash(table, kv_entry_key(e));
            kv_place place;
            if (!kv_shard_owns(shard, hash))
                return broken(err, shard, "an entry belongs to another shard");
            if (tag != kv_hash_tag(hash) || word >> 48 != kv_hash_bucket_bits(hash))
                return broken(err, shard, "a slot does not fit its entry");
            if (kv_array_find(array, hash, kv_entry_key(e), &place) != e)
                return broken(err, shard, "an entry is not found under its key");
            if (!tells_truth(word, hash, shard->depth))
                return broken(err, shard, "a slot tells wrong bits of its entry's hash");
            if (atomic_load(&e->references) == 0)
                return broken(err, shard, "an entry has no references");
            if (e->expires && (shard->expiring == 0 || kv_entry_expiry(e) < shard->next_expiry))
                return broken(err, shard, "an entry expires earlier than it says");
            count++;
            expiring += e->expires;
        }
    }
    if (count != shard->count || expiring != shard->expiring)
        return broken(err, shard, "its counts are wrong");
    uint64_t lsn = UINT64_MAX;
    uint32_t undo_count = 0, clears = 0;
    for (kv_undo *record = shard->undo; record != NULL; record = record->next) {
        if (record->lsn > lsn || record->lsn > shard->last_lsn)
            return broken(err, shard, "undo records are out of order");
        lsn = record->lsn;
        undo_count++;
        if (record->kind == KV_UNDO_CLEAR)
            clears++;
        else if (!kv_shard_owns(shard, record->hash))
            return broken(err, shard, "an undo record belongs to another shard");
    }
    if (undo_count != shard->undo_count || clears != shard->undo_clears)
        return broken(err, shard, "its count of undo records is wrong");
    if (undo_count > 0 && (lsn != shard->undo_oldest_lsn || lsn < shard->pruned_lsn))
        return broken(err, shard, "its oldest undo record is not the one it says");
    return KV_OK;
}
