/* entry.h - one key with its value: an immutable, reference-counted block.
 *
 * Layer: engine.  An entry never changes after it was linked; an update links a new one.  The table
 * holds one reference, an undo record or a pin another.  New references are taken only under the
 * lock of the entry's shard, or by somebody who holds one: so who finds the count at 1 after having
 * unlinked the entry is alone with it.
 */
#ifndef KV_ENGINE_ENTRY_H
#define KV_ENGINE_ENTRY_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "../base/pool.h"
#include "../kv.h"

typedef struct kv_entry {
    _Atomic uint32_t references;
    uint32_t value_size;
    uint16_t key_size;
    bool expires;         /* eight bytes behind the value say when */
    _Atomic uint8_t use;  /* how much it is read, for evict.h.  Relaxed: a hint */
    uint8_t bytes[];      /* the key, then the value, then the expiry if it has one */
} kv_entry;
static_assert(offsetof(kv_entry, bytes) == 12, "16 + 100 bytes of data take 128");
static_assert(KV_KEY_MAX <= UINT16_MAX, "key_size is 16 bits");

static inline size_t kv_entry_block_size(size_t key_size, size_t value_size, uint64_t expiry) {
    return offsetof(kv_entry, bytes) + key_size + value_size +
           (expiry != 0 ? sizeof expiry : 0);
}

static inline size_t kv_entry_size(const kv_entry *e) {
    return kv_entry_block_size(e->key_size, e->value_size, e->expires);
}

/* In ms since 1970; 0: never. */
static inline uint64_t kv_entry_expiry(const kv_entry *e) {
    uint64_t expiry = 0;
    if (e->expires)
        memcpy(&expiry, e->bytes + e->key_size + e->value_size, sizeof expiry);
    return expiry;
}

static inline kv_bytes kv_entry_key(const kv_entry *e) {
    return (kv_bytes){e->bytes, e->key_size};
}

static inline kv_bytes kv_entry_value(const kv_entry *e) {
    return (kv_bytes){e->bytes + e->key_size, e->value_size};
}

static inline uint64_t kv_entry_data_size(const kv_entry *e) {
    return (uint64_t)e->key_size + e->value_size;
}

/* What it counts against max_memory. */
static inline uint64_t kv_entry_charge(const kv_entry *e) {
    return kv_entry_data_size(e) + KV_ITEM_CHARGE + (e->expires ? sizeof(uint64_t) : 0);
}

static inline bool kv_entry_has_key(const kv_entry *e, kv_bytes key) {
    return e->key_size == key.size &&
           (key.size == 0 || memcmp(e->bytes, key.data, key.size) == 0);
}

/* Makes an entry of a block, with one reference (the caller's). */
static inline kv_entry *kv_entry_init(void *block, kv_bytes key, kv_bytes value,
                                      uint64_t expiry) {
    kv_entry *e = block;
    atomic_store_explicit(&e->references, 1, memory_order_relaxed);
    e->value_size = (uint32_t)value.size;
    e->key_size = (uint16_t)key.size;
    e->expires = expiry != 0;
    atomic_store_explicit(&e->use, 0, memory_order_relaxed);
    if (key.size > 0)
        memcpy(e->bytes, key.data, key.size);
    if (value.size > 0)
        memcpy(e->bytes + key.size, value.data, value.size);
    if (expiry != 0)
        memcpy(e->bytes + key.size + value.size, &expiry, sizeof expiry);
    return e;
}

/* NULL when there is no memory. */
static inline kv_entry *kv_entry_create_expiring(kv_pool *pool, kv_bytes key, kv_bytes value,
                                                 uint64_t expiry) {
    void *block = kv_pool_alloc(pool, kv_entry_block_size(key.size, value.size, expiry));
    return block != NULL ? kv_entry_init(block, key, value, expiry) : NULL;
}

static inline kv_entry *kv_entry_create(kv_pool *pool, kv_bytes key, kv_bytes value) {
    return kv_entry_create_expiring(pool, key, value, 0);
}

static inline void kv_entry_acquire(kv_entry *e) {
    atomic_fetch_add_explicit(&e->references, 1, memory_order_relaxed);
}

/* Gives a reference back; true: it was the last one, and the block is the caller's to free. */
static inline bool kv_entry_drop(kv_entry *e) {
    /* Acquire pairs with the release of whoever let go before: its reads are over. */
    return atomic_load_explicit(&e->references, memory_order_acquire) == 1 ||
           atomic_fetch_sub_explicit(&e->references, 1, memory_order_acq_rel) == 1;
}

/* NULL is allowed. */
static inline void kv_entry_release(kv_pool *pool, kv_entry *e) {
    if (e != NULL && kv_entry_drop(e))
        kv_pool_free(pool, e, kv_entry_size(e));
}

#endif
