/* table.h - the extendible hash table: a directory of shards, each a small table with its own lock.
 *
 * Layer: engine (above entry.h).  Knows entries, hashes and memory; nothing of logs or LSNs but the
 * fields that a shard keeps for undo.h.
 *
 * Bits of a hash:   63 ........ 32   31 ... 16   15 .. 8
 *                   directory        bucket      tag
 *
 * A shard owns the hashes that share its upper `depth` bits.  The first ones start with two buckets and
 * grow, in steps of 1.33 to 1.5, up to 64 (384 entries); then a shard splits in two by itself, and no
 * insert pays for more than one shard.  A shard is never freed and its left half keeps its identity, so a reader may
 * come to it by an old directory: it locks the shard, sees whether it still owns the hash, and looks
 * again if not.  Old directories stay until the table ends (their sizes are a geometric series).
 *
 * A bucket is one cache line: seven tags and a count of entries that found no room here, then seven
 * slots.  A slot is the entry's address (48 bits) with the 16 bucket bits of its hash on top: growing a
 * shard touches no entry, and a lookup touches a wrong one once in millions of times.  A free slot has tag
 * and address 0, but its upper bits may remember an evicted key (evict.h).
 *
 * The bit of the hash that a split divides by does not stand there; the low bits of a slot (entries are 16-byte
 * aligned) tell it, and the two behind it.  Each split uses one up, and touches those entries only of which it
 * finds none: one in fourteen.
 *
 * Words of the directory, of arrays and of buckets are atomics, although writers hold the lock: the
 * prefetching pass of kv_get_many peeks at them without it and follows nothing that it sees there.
 */
#ifndef KV_ENGINE_TABLE_H
#define KV_ENGINE_TABLE_H

#include "../base/lock.h"
#include "../base/siphash.h"
#include "entry.h"

#define KV_BUCKET_SLOTS 7u
#define KV_SHARD_BUCKETS_MAX 64u /* then it splits */
#define KV_BUCKET_LOAD 6u        /* entries a bucket, on average, before it grows: 86 % */
#define KV_EVICT_QUEUE 8u        /* new keys of a shard on probation, see evict.h */
#define KV_DEPTH_MIN 4u /* so no shard is on both sides (kv_hash_side) */
#define KV_DEPTH_MAX 26u /* beyond, shards grow instead: a directory of 2^26 words is 512 MiB */

#define KV_UNEVENNESS_MAX 1024u /* words of a directory for each shard of a checkpoint, at the most */

/* The low bits of a slot: up to three bits of the hash, those behind the shard's depth, uppermost first; then a 1, then
 * zeros. */
#define KV_SLOT_NEXT UINT64_C(15)
#define KV_SLOT_UPPER UINT64_C(8)  /* with one below it: the entry is of the upper half of the shard's range */
#define KV_SLOT_UNTOLD UINT64_C(8) /* no bit is known */

typedef struct kv_bucket {
    _Atomic uint64_t tags; /* bytes 0..6: tag of each slot, 0 for a free one; byte 7: how many
                              entries probed past this bucket, 255 for "many, for ever" */
    _Atomic uint64_t slots[KV_BUCKET_SLOTS];
} kv_bucket;
static_assert(sizeof(kv_bucket) == 64, "one cache line");

/* A bucket array's address and size in one word, so that a peek sees both or neither.
 * Low 6 bits: the size's code. */
typedef uint64_t kv_array;

typedef struct kv_undo kv_undo; /* undo.h */

typedef struct kv_shard {
    _Alignas(64) kv_mutex mutex; /* guards all below; `array` may be peeked at */
    uint8_t depth;               /* it owns hashes that equal range_start in so many upper bits */
    _Atomic kv_array array;
    uint64_t range_start;
    kv_undo *undo;         /* newest first */
    uint64_t last_lsn;     /* of its last change */
    uint64_t pruned_lsn;   /* states older than this cannot be told any more */
    uint64_t data_bytes;   /* keys and values, newest state; right in the sum of all shards, since a split, which
                              touches no entry, leaves all of it to its left half */
    uint32_t count;        /* entries, newest state */
    uint32_t undo_count;
    /* second line: touched only by writes, and when there is undo */
    uint64_t undo_oldest_lsn; /* of the last record in `undo` */
    uint64_t merged_lsn;      /* of the states older than this, only registered snapshots' can be told */
    uint64_t next_expiry;     /* no entry expires before; means nothing when `expiring` is 0 */
    uint32_t expiring;        /* entries with an expiry, newest state */
    uint32_t undo_clears;     /* records of kind KV_UNDO_CLEAR: such a shard does not split */
    uint32_t undo_merge_at;   /* undo_count from which merging is tried again */
    uint32_t block;           /* while it is not loaded: where it stands in the checkpoint */
    uint32_t hand;            /* this and what follows: evict.h */
    uint8_t queue_first, queue_count;
    uint16_t queue[KV_EVICT_QUEUE];
} kv_shard;
static_assert(offsetof(kv_shard, undo_oldest_lsn) == 64, "a lookup touches one line");
static_assert(sizeof(kv_shard) == 128, "a write touches no third one");

/* A shard that is not in memory yet has no bucket array (the word is 0); count, data_bytes, expiring and
 * next_expiry are those of the checkpoint.  Nobody has changed it since it was opened, so it has no undo.  Loading
 * builds the array without a lock, and puts it in under the shard's: whoever comes second throws his away. */
static inline bool kv_shard_is_loaded(const kv_shard *shard) {
    return atomic_load_explicit(&shard->array, memory_order_relaxed) != 0;
}

/* A shard as a checkpoint tells it. */
typedef struct kv_shard_origin {
    uint64_t range_start;
    uint64_t data_bytes;
    uint64_t next_expiry;
    uint32_t depth;
    uint32_t count;
    uint32_t expiring;
} kv_shard_origin;

struct kv_table;
/* Builds what shard number `block` has, in a draft of it that nobody else sees: with its range and the counts of its
 * origin, and no array.  On success the array is the caller's, and the counts fit it.  May be called by several
 * threads at once. */
typedef kv_status (*kv_shard_loader)(void *arg, struct kv_table *table, uint32_t block,
                                     kv_shard *draft, kv_error *err);

typedef struct kv_directory {
    struct kv_directory *older; /* kept until the table ends */
    uint32_t depth;
    _Atomic(kv_shard *) slots[]; /* 2^depth */
} kv_directory;

typedef struct kv_table {
    /* constant after init */
    kv_pool *entries; /* entries, undo records and shards */
    kv_pool *arrays;  /* bucket arrays, and nothing else: they may be peeked at (pool.h) */
    kv_siphash_key hash_key;
    /* Release by the split that makes it, acquire by whoever looks a shard up. */
    _Atomic(kv_directory *) directory;
    kv_mutex directory_mutex; /* who changes the directory */
    _Atomic uint64_t shard_count;
    kv_shard_loader loader; /* constant once others have the table */
    void *loader_arg;
    _Atomic uint64_t unloaded; /* shards.  Release by who loads the last one, acquire by who asks */
    _Atomic uint64_t loading;  /* calls of the loader; raised under the lock of a shard that is not loaded, so
                                  when both are 0 there will never be one again.  seq_cst */
    _Atomic int64_t found; /* entries that loading has found beyond what the origins told.  Relaxed, changed
                              under the lock of the shard */
} kv_table;

/* Where an entry stands in a locked shard. */
typedef struct kv_place {
    kv_bucket *bucket;
    unsigned slot;
} kv_place;

kv_status kv_table_init(kv_table *table, kv_siphash_key hash_key, kv_error *err) KV_MUST_CHECK;
/* The same with `count` shards that are still to be loaded; `origin` tells each.  They cover all hashes, in order
 * (checked: KV_ERR_CORRUPT). */
kv_status kv_table_init_unloaded(kv_table *table, kv_siphash_key hash_key, size_t count,
                                 void (*origin)(void *arg, size_t number, kv_shard_origin *o),
                                 kv_shard_loader loader, void *arg, kv_error *err) KV_MUST_CHECK;
/* Frees all memory; entries live on in the pool while somebody pins it. */
void kv_table_fini(kv_table *table);

static inline uint64_t kv_table_hash(const kv_table *table, kv_bytes key) {
    return kv_siphash13(table->hash_key, key.data, key.size);
}

/* ---- A shard's room ------------------------------------------------------------------------ */

/* Makes room for `more` inserts into the locked shard.  KV_OK; KV_BUSY: the shard was split, so look
 * whether it still owns the hash, and ask again; KV_ERR_NOMEM. */
kv_status kv_shard_reserve(kv_table *table, kv_shard *shard, uint32_t more, kv_error *err)
    KV_MUST_CHECK;

/* Moves the locked shard into a larger array, for at least `entries`. */
kv_status kv_shard_grow(kv_table *table, kv_shard *shard, uint64_t entries, kv_error *err)
    KV_MUST_CHECK;

/* ---- Changing a locked shard ---------------------------------------------------------------- */

/* There is room (KV_ERR_NOMEM can only be of kv_shard_reserve); the key is not there. */
void kv_shard_insert(kv_shard *shard, uint64_t hash, kv_entry *entry);
void kv_shard_replace(kv_shard *shard, kv_place place, kv_entry *entry);
void kv_shard_remove(kv_shard *shard, uint64_t hash, kv_place place);

/* Puts another array into the locked shard, whose counts are then for the caller to set. */
void kv_shard_set_array(kv_shard *shard, kv_array array);

/* An empty array (for clear), owned by the caller; 0 when there is no memory. */
kv_array kv_array_create(kv_table *table, uint32_t entries);
/* The array of a shard with so many entries: as large as a split would have made it. */
kv_array kv_array_create_for(kv_table *table, uint32_t depth, uint32_t entries);
void kv_array_free(kv_table *table, kv_array array);
/* With all its entries; 0 is allowed. */
void kv_array_release(kv_table *table, kv_array array);
/* The array, of a shard of that depth, has room, and does not have the key. */
void kv_array_insert(kv_array array, uint32_t depth, uint64_t hash, kv_entry *entry);
kv_entry *kv_array_find(kv_array array, uint64_t hash, kv_bytes key, kv_place *place);
/* Calls `visit` with each entry of the array. */
void kv_array_visit(kv_array array, void (*visit)(void *arg, kv_entry *entry), void *arg);

kv_status kv_shard_verify(kv_table *table, kv_shard *shard, kv_error *err) KV_MUST_CHECK;

/* ---- Inline: the way of every lookup --------------------------------------------------------- */

static inline kv_bucket *kv_array_buckets(kv_array array) {
    return (kv_bucket *)(uintptr_t)(array & ~(kv_array)63);
}

static inline uint32_t kv_array_count(kv_array array) {
    uint32_t code = (uint32_t)(array & 63);
    return (2u + (code & 1)) << (code >> 1); /* 2 3 4 6 8 12 16 24 32 48 64 96 ... */
}

static inline uint32_t kv_hash_bucket_bits(uint64_t hash) {
    return (uint32_t)(hash >> 16) & 0xffff;
}

static inline uint32_t kv_bucket_index(uint32_t bucket_bits, uint32_t count) {
    return (uint32_t)(((uint64_t)bucket_bits * count) >> 16);
}

static inline uint8_t kv_hash_tag(uint64_t hash) {
    uint8_t tag = (uint8_t)(hash >> 8);
    return tag != 0 ? tag : 1;
}

static inline kv_entry *kv_slot_entry(uint64_t slot) {
    return (kv_entry *)(uintptr_t)(slot & UINT64_C(0xfffffffffff0));
}

/* The high bit of each of the lower seven bytes of `tags` that may equal `tag` (the lowest one set
 * does; a byte above it may be one off: the slot's own bits decide). */
static inline uint64_t kv_tags_match(uint64_t tags, uint8_t tag) {
    uint64_t x = tags ^ UINT64_C(0x01010101010101) * tag;
    return (x - UINT64_C(0x01010101010101)) & ~x & UINT64_C(0x80808080808080);
}

static inline bool kv_shard_owns(const kv_shard *shard, uint64_t hash) {
    return (hash ^ shard->range_start) >> (64 - shard->depth) == 0;
}

/* The last hash of its range. */
static inline uint64_t kv_shard_range_last(const kv_shard *shard) {
    return shard->range_start | (UINT64_MAX >> shard->depth);
}

static inline kv_shard *kv_table_shard(kv_table *table, uint64_t hash) {
    kv_directory *d = atomic_load_explicit(&table->directory, memory_order_acquire);
    return atomic_load_explicit(&d->slots[hash >> (64 - d->depth)], memory_order_acquire);
}

/* The shard that owns the hash, locked. */
static inline kv_shard *kv_table_lock(kv_table *table, uint64_t hash) {
    for (;;) {
        kv_shard *shard = kv_table_shard(table, hash);
        kv_mutex_lock(&shard->mutex, KV_RANK_SHARD);
        if (kv_shard_owns(shard, hash))
            return shard;
        kv_mutex_unlock(&shard->mutex, KV_RANK_SHARD);
    }
}

/* The same; NULL when it is locked by somebody else. */
static inline kv_shard *kv_table_try_lock(kv_table *table, uint64_t hash) {
    for (;;) {
        kv_shard *shard = kv_table_shard(table, hash);
        if (!kv_mutex_try_lock(&shard->mutex, KV_RANK_SHARD))
            return NULL;
        if (kv_shard_owns(shard, hash))
            return shard;
        kv_mutex_unlock(&shard->mutex, KV_RANK_SHARD);
    }
}

static inline void kv_shard_unlock(kv_shard *shard) {
    kv_mutex_unlock(&shard->mutex, KV_RANK_SHARD);
}

static inline kv_array kv_shard_array(const kv_shard *shard) {
    return atomic_load_explicit(&shard->array, memory_order_relaxed);
}

/* The newest entry of the key, and its place; NULL: there is none. */
static inline kv_entry *kv_shard_find(const kv_shard *shard, uint64_t hash, kv_bytes key,
                                      kv_place *place) {
    return kv_array_find(kv_shard_array(shard), hash, key, place);
}

/* Loads the shard that owns the hash, which is locked and not loaded; *shard is the owner then, locked.  On
 * failure nothing is locked. */
kv_status kv_table_load_locked(kv_table *table, uint64_t hash, kv_shard **shard, kv_error *err)
    KV_MUST_CHECK;

/* Locks the shard that owns the hash, and loads it if need be.  KV_BUSY: `nowait`, and it would have to wait.
 * Nothing is locked unless KV_OK. */
static inline kv_status kv_table_lock_loaded(kv_table *table, uint64_t hash, bool nowait,
                                             kv_shard **shard, kv_error *err) {
    *shard = nowait ? kv_table_try_lock(table, hash) : kv_table_lock(table, hash);
    if (*shard == NULL)
        return KV_BUSY;
    if (kv_shard_is_loaded(*shard))
        return KV_OK;
    if (nowait) {
        kv_shard_unlock(*shard);
        return KV_BUSY;
    }
    return kv_table_load_locked(table, hash, shard, err);
}

/* Nothing is left to be loaded, and nobody is at it. */
static inline bool kv_table_loader_is_done(const kv_table *table) {
    return atomic_load(&table->unloaded) == 0 && atomic_load(&table->loading) == 0;
}

static inline bool kv_table_is_loaded(const kv_table *table) {
    return atomic_load_explicit(&table->unloaded, memory_order_acquire) == 0;
}

/* Three steps of a lookup to come, each after the one before has had time to arrive. */
static inline kv_shard *kv_table_prefetch_shard(kv_table *table, uint64_t hash) {
    kv_shard *shard = kv_table_shard(table, hash);
    __builtin_prefetch(shard, 1);
    return shard;
}

static inline void kv_shard_prefetch_bucket(const kv_shard *shard, uint64_t hash) {
    kv_array array = kv_shard_array(shard);
    uint32_t index = kv_bucket_index(kv_hash_bucket_bits(hash), kv_array_count(array));
    /* As a number: the array may be none yet. */
    __builtin_prefetch((const void *)((uintptr_t)kv_array_buckets(array) + index * sizeof(kv_bucket)));
}

static inline void kv_shard_prefetch_entry(const kv_shard *shard, uint64_t hash) {
    kv_array array = kv_shard_array(shard);
    if (array == 0 || kv_array_count(array) > KV_POOL_SLAB_MAX / sizeof(kv_bucket))
        return; /* not loaded; and a large one may be unmapped when somebody replaces it */
    uint32_t index = kv_bucket_index(kv_hash_bucket_bits(hash), kv_array_count(array));
    kv_bucket *bucket = kv_array_buckets(array) + index;
    uint64_t tags = atomic_load_explicit(&bucket->tags, memory_order_relaxed);
    uint64_t match = kv_tags_match(tags, kv_hash_tag(hash));
    if (match != 0) {
        unsigned i = (unsigned)__builtin_ctzll(match) / 8;
        const char *e = (const char *)kv_slot_entry(
            atomic_load_explicit(&bucket->slots[i], memory_order_relaxed));
        __builtin_prefetch(e);
        __builtin_prefetch(e + 64);
    }
}

#endif
