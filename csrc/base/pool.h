/* pool.h - memory for entries and tables, cut from large huge-page areas.
 *
 * Layer: base (above lock.h, mem.h, thread.h).  A lookup in a big store costs what its cache and TLB misses
 * cost, so blocks of like size stand side by side in 64 KiB slabs, and slabs in huge pages.
 *
 * Invariants
 *  - A block of up to KV_POOL_SLAB_MAX bytes lies in a slab of its size class; larger ones come
 *    from the heap and are kept in a list, so that destroying the pool frees all.
 *  - The caller names the size again when it frees: a block carries no header.
 *  - The memory of slabs is never unmapped before the pool's end.  A reader may therefore look at such a
 *    block that was freed meanwhile (with atomic loads, to prefetch) and sees garbage at worst; the pool
 *    itself never writes into a free block.  Not so for larger blocks.
 *  - A pool lives until its last reference: the store's, or a pinned value's.
 *
 * Each thread has some blocks of each size in hand (threads of one index, thread.h, share them): it takes what it has
 * given back itself, from its own cache, and meets others once in many blocks.
 *
 * Who first writes to a huge page waits until the system has cleared it: 260 µs, and milliseconds in a virtual
 * machine whose host has to find the memory first.  So a pool that has grown beyond some MiB asks to be touched
 * ahead of its use.  If nobody does, or not in time, the pages are touched when they are used.
 */
#ifndef KV_BASE_POOL_H
#define KV_BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_POOL_SLAB_MAX 8192u /* bytes; larger blocks come from the heap */

typedef struct kv_pool kv_pool;

kv_pool *kv_pool_create(void); /* owned: kv_pool_release; NULL when there is no memory */
void kv_pool_acquire(kv_pool *pool);
void kv_pool_release(kv_pool *pool); /* the last release frees every block */

/* 16-byte aligned; 64-byte aligned when `size` is a multiple of 64 or above KV_POOL_SLAB_MAX.  NULL when there is no
 * memory. */
void *kv_pool_alloc(kv_pool *pool, size_t size);
void kv_pool_free(kv_pool *pool, void *block, size_t size); /* by any thread; NULL is allowed */

/* The same for `count` blocks under one lock; false (and none): no memory. */
bool kv_pool_alloc_many(kv_pool *pool, const size_t *sizes, void **blocks, size_t count);
void kv_pool_free_many(kv_pool *pool, void *const *blocks, const size_t *sizes, size_t count);

/* While `exclusive`, no two threads of one index use the pool, and what a thread has in hand is not locked: a locked
 * instruction waits for all stores before it, and those go to memory that nobody has touched yet. */
void kv_pool_set_exclusive(kv_pool *pool, bool exclusive);

/* `hungry` is called when fresh memory runs short that has been touched: once for some MiB, by an allocation, which
 * holds locks of the pool and perhaps the caller's.  It gets somebody else to call kv_pool_touch.  NULL: nobody.
 * Changed only while one thread allocates. */
void kv_pool_on_hunger(kv_pool *pool, void (*hungry)(void *arg), void *arg);
/* Touches what was asked for; false: nothing was.  No lock is held while a page is touched. */
bool kv_pool_touch(kv_pool *pool);

/* The pool that a block of `size` bytes belongs to. */
kv_pool *kv_pool_of(const void *block, size_t size);

/* Bytes taken from the system. */
uint64_t kv_pool_bytes(kv_pool *pool);

/* After fork, in the child: another thread may have held a lock of any pool, also of one that only pinned values keep.
 * So freeing does nothing from now on, but for pools that the child makes. */
void kv_pool_abandon_all(void);

#endif
