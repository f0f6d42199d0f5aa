/* pool.c - see pool.h.
 *
 * A block's way:  magazine (32 pointers a class and index of threads: the block freed last, still in the
 * thread's cache, is handed out first)  <->  its slab's map of free blocks, 16 at a time  <->  slab  <->  area.
 */
#include "pool.h"

#include <assert.h>
#include <string.h>

#include "lock.h"
#include "mem.h"
#include "thread.h"

#define SLAB_SIZE 65536u
#define HUGE_PAGE (2u << 20)
#define AREA_ALIGNMENT HUGE_PAGE
#define AREA_SIZE_FIRST (256u << 10) /* of ordinary pages: a small store stays small */
#define AREA_SIZE_MAX (64u << 20)
#define TOUCH_AREA_SIZE_MIN (16u << 20) /* the pages of smaller areas are touched when they are used */
#define TOUCH_PART 128u                 /* so much of the pool is touched ahead, in whole pages */
#define TOUCH_LEAST_PART 64u            /* and asked for anew when less than this part is left of it */
#define TOUCH_SIZE_MAX (8 * HUGE_PAGE)
#define MAGAZINE_SIZE 32u
#define FINE_MAX 1024u /* classes in steps of 16 bytes up to here, then 8 a doubling */
#define FINE_COUNT (FINE_MAX / 16)
#define CLASS_COUNT (FINE_COUNT + 24)

/* Starts each slab.  Which blocks are free stands in a map here, not in the blocks: taking one touches no
 * memory but the slab's first lines, and blocks come in the order of their addresses. */
typedef struct slab {
    kv_pool *pool;
    struct slab *next, *prev; /* in its class's list of slabs with free blocks, or of free slabs */
    uint32_t first;           /* offset of the first block */
    uint16_t count;           /* blocks in the slab */
    uint16_t used;            /* blocks out, those in magazines included */
    uint16_t hint;            /* no free block stands in a word of the map before this one */
    bool listed;              /* in its class's list */
    uint64_t free_map[];      /* bit i: block i is free */
} slab;

/* Before each large block. */
typedef struct large {
    kv_pool *pool;
    struct large *next, *prev;
    size_t size;
} large;
#define LARGE_HEADER_SIZE 64u
/* The heap gives blocks of this size back to the system at once and gets them anew, a page fault for each
 * 4 KiB, under a lock of the whole process: so a few are kept. */
#define LARGE_KEPT 4u
#define LARGE_KEPT_SIZE_MAX (1u << 20)
static_assert(sizeof(large) <= LARGE_HEADER_SIZE, "blocks are 64-byte aligned");

typedef struct size_class {
    _Alignas(64) kv_mutex mutex;
    slab *slabs; /* with free blocks */
} size_class;

typedef struct magazine {
    uint32_t count;
    void *blocks[MAGAZINE_SIZE];
} magazine;

/* What the threads of one index have in hand. */
typedef struct stock {
    _Alignas(64) kv_mutex mutex;
    magazine magazines[CLASS_COUNT];
} stock;

typedef struct area {
    struct area *next;
    char *start;
    size_t size;
} area;

struct kv_pool {
    _Atomic uint64_t references;
    uint32_t fork; /* the value of `forks` when it was made */
    _Atomic uint64_t bytes;
    bool exclusive; /* these three change only while one thread has the pool */
    void (*hungry)(void *arg);
    void *hungry_arg;
    kv_mutex areas_mutex; /* guards what follows */
    area *areas;
    size_t next_area_size;
    char *fresh; /* the part of the newest area never cut into slabs */
    size_t fresh_size;
    char *touch_next, *touch_end; /* of it: pages that are to be touched ahead */
    slab *free_slabs;
    large *large_blocks;
    large *kept[LARGE_KEPT]; /* free large blocks, for the next who wants such a size; NULL: none */
    size_class classes[CLASS_COUNT];
    stock stocks[KV_THREAD_INDEXES];
};

/* On the way to this process.  Changed while it has one thread. */
static _Atomic uint32_t forks;

/* It is a parent's. */
static bool is_abandoned(const kv_pool *pool) {
    return pool->fork != atomic_load_explicit(&forks, memory_order_relaxed);
}

/* The calling thread's. */
static stock *stock_lock(kv_pool *pool) {
    stock *st = &pool->stocks[kv_thread_index()];
    if (!pool->exclusive)
        kv_mutex_lock(&st->mutex, KV_RANK_MAGAZINES);
    return st;
}

static void stock_unlock(kv_pool *pool, stock *st) {
    if (!pool->exclusive)
        kv_mutex_unlock(&st->mutex, KV_RANK_MAGAZINES);
}

void kv_pool_set_exclusive(kv_pool *pool, bool exclusive) {
    pool->exclusive = exclusive;
}

static unsigned class_of(size_t size) {
    if (size <= FINE_MAX)
        return size == 0 ? 0 : (unsigned)((size - 1) / 16);
    unsigned log2 = 63u - (unsigned)__builtin_clzll((unsigned long long)(size - 1)); /* 10 .. 12 */
    unsigned step = (unsigned)((size - 1) >> (log2 - 3)) & 7u;
    return FINE_COUNT + (log2 - 10) * 8 + step;
}

static size_t class_size(unsigned index) {
    if (index < FINE_COUNT)
        return (size_t)(index + 1) * 16;
    unsigned log2 = 10 + (index - FINE_COUNT) / 8, step = (index - FINE_COUNT) % 8;
    return ((size_t)1 << log2) + ((size_t)(step + 1) << (log2 - 3));
}

static slab *slab_of(const void *block) {
    return (slab *)((uintptr_t)block & ~(uintptr_t)(SLAB_SIZE - 1));
}

kv_pool *kv_pool_create(void) {
    kv_pool *pool = kv_mem_map(sizeof *pool, 4096, false); /* zeroed, touched as it is used */
    if (pool == NULL)
        return NULL;
    pool->references = 1;
    pool->fork = atomic_load_explicit(&forks, memory_order_relaxed);
    pool->next_area_size = AREA_SIZE_FIRST;
    return pool;
}

void kv_pool_acquire(kv_pool *pool) {
    atomic_fetch_add_explicit(&pool->references, 1, memory_order_relaxed);
}

void kv_pool_release(kv_pool *pool) {
    /* Release: our use of the memory is over.  Acquire: so is everybody's. */
    if (atomic_fetch_sub_explicit(&pool->references, 1, memory_order_acq_rel) != 1)
        return;
    if (is_abandoned(pool))
        return; /* shared with the parent's threads at the fork: the child leaves it be */
    for (large *block = pool->large_blocks, *next; block != NULL; block = next) {
        next = block->next;
        kv_mem_free(block);
    }
    for (unsigned i = 0; i < LARGE_KEPT; i++)
        kv_mem_free(pool->kept[i]);
    for (area *a = pool->areas, *next; a != NULL; a = next) {
        next = a->next;
        kv_mem_unmap(a->start, a->size);
        kv_mem_free(a);
    }
    kv_mem_unmap(pool, sizeof *pool);
}

void kv_pool_abandon_all(void) {
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

uint64_t kv_pool_bytes(kv_pool *pool) {
    return atomic_load_explicit(&pool->bytes, memory_order_relaxed);
}

/* Makes room for at least one slab.  areas_mutex is held. */
static bool grow_locked(kv_pool *pool) {
    size_t size = pool->next_area_size;
    bool huge = size >= AREA_ALIGNMENT;
    area *a = kv_mem_alloc(sizeof *a);
    char *start = a == NULL ? NULL : kv_mem_map(size, huge ? AREA_ALIGNMENT : SLAB_SIZE, huge);
    if (start == NULL || ((uintptr_t)(start + size) >> 24 >> 24) != 0) {
        /* Slots keep hash bits in the upper 16 bits of a pointer (table.h). */
        kv_mem_unmap(start, size);
        kv_mem_free(a);
        return false;
    }
    *a = (area){.next = pool->areas, .start = start, .size = size};
    pool->areas = a;
    pool->fresh = start;
    pool->fresh_size = size;
    pool->touch_next = pool->touch_end = start;
    atomic_fetch_add_explicit(&pool->bytes, size, memory_order_relaxed);
    if (size < AREA_SIZE_MAX)
        pool->next_area_size = huge ? size * 2 : AREA_ALIGNMENT;
    return true;
}

static char *page_at_or_after(char *address) {
    return address + (-(uintptr_t)address & (HUGE_PAGE - 1));
}

/* Asks for pages ahead when a quarter of those asked for before is used up (later while the pool is small), since
 * one takes as long as using two thirds of it when the host has to find the memory.  True: the caller is to say so. */
static bool ask_locked(kv_pool *pool) {
    if (pool->hungry == NULL || pool->areas == NULL || pool->areas->size < TOUCH_AREA_SIZE_MIN)
        return false;
    size_t ahead = kv_pool_bytes(pool) / TOUCH_PART & ~(size_t)(HUGE_PAGE - 1);
    ahead = ahead < HUGE_PAGE ? HUGE_PAGE : ahead > TOUCH_SIZE_MAX ? TOUCH_SIZE_MAX : ahead;
    size_t least = kv_pool_bytes(pool) / TOUCH_LEAST_PART;
    least = least < ahead / 4 * 3 ? least : ahead / 4 * 3;
    char *end = pool->fresh + pool->fresh_size, *from = page_at_or_after(pool->fresh);
    if (pool->touch_end == end || pool->touch_end >= pool->fresh + least)
        return false;
    if (from < pool->touch_end)
        from = pool->touch_end;
    pool->touch_end = (size_t)(end - from) > ahead ? from + ahead : end;
    return true;
}

void kv_pool_on_hunger(kv_pool *pool, void (*hungry)(void *arg), void *arg) {
    pool->hungry = hungry;
    pool->hungry_arg = arg;
}

bool kv_pool_touch(kv_pool *pool) {
    for (bool touched = false;; touched = true) {
        kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
        char *page = page_at_or_after(pool->fresh); /* what is behind it has been used already */
        if (page < pool->touch_next)
            page = pool->touch_next;
        bool wanted = page < pool->touch_end;
        if (wanted)
            pool->touch_next = page + HUGE_PAGE;
        kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
        if (!wanted)
            return touched;
        kv_mem_touch(page); /* areas stay mapped, also when this one is full by now */
    }
}

static slab *slab_take(kv_pool *pool) {
    bool hungry = false;
    kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
    slab *s = pool->free_slabs;
    if (s != NULL) {
        pool->free_slabs = s->next;
    } else if (pool->fresh_size >= SLAB_SIZE || grow_locked(pool)) {
        s = (slab *)(void *)pool->fresh;
        pool->fresh += SLAB_SIZE;
        pool->fresh_size -= SLAB_SIZE;
        hungry = ask_locked(pool);
    }
    kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
    if (hungry)
        pool->hungry(pool->hungry_arg);
    return s;
}

/* Lays an empty slab out for blocks of `size` bytes. */
static void slab_format(slab *s, kv_pool *pool, size_t size) {
    uint32_t count = (uint32_t)((SLAB_SIZE - sizeof *s) / size), first, words;
    for (;; count--) {
        words = (count + 63) / 64;
        first = (uint32_t)(sizeof *s + words * sizeof s->free_map[0] + 63) & ~63u;
        if (first + count * size <= SLAB_SIZE)
            break;
    }
    *s = (slab){.pool = pool, .first = first, .count = (uint16_t)count};
    for (uint32_t i = 0; i < words; i++)
        s->free_map[i] = count - i * 64 >= 64 ? UINT64_MAX : (UINT64_C(1) << (count - i * 64)) - 1;
}

/* One of the free blocks that the slab has. */
static void *slab_take_block(slab *s, size_t size) {
    while (s->free_map[s->hint] == 0)
        s->hint++;
    uint64_t *word = &s->free_map[s->hint];
    uint32_t index = s->hint * 64u + (uint32_t)__builtin_ctzll(*word);
    *word &= *word - 1;
    s->used++;
    return (char *)s + s->first + index * size;
}

static void slab_put_block(slab *s, void *block, size_t size) {
    uint32_t index = (uint32_t)((char *)block - (char *)s - s->first) / (uint32_t)size;
    assert((s->free_map[index / 64] >> (index % 64) & 1) == 0); /* not freed twice */
    s->free_map[index / 64] |= UINT64_C(1) << (index % 64);
    if (index / 64 < s->hint)
        s->hint = (uint16_t)(index / 64);
    s->used--;
}

static void slab_give_back(kv_pool *pool, slab *s) {
    kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
    s->next = pool->free_slabs;
    pool->free_slabs = s;
    kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
}

static void list_add(size_class *c, slab *s) {
    s->listed = true;
    s->prev = NULL;
    s->next = c->slabs;
    if (s->next != NULL)
        s->next->prev = s;
    c->slabs = s;
}

static void list_remove(size_class *c, slab *s) {
    s->listed = false;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        c->slabs = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
}

static void prefetch_for_write(const char *at) {
    __builtin_prefetch(at, 1);
    __builtin_prefetch(at + 64, 1);
}

/* Puts blocks into an empty magazine.  False: no memory. */
static bool refill(kv_pool *pool, magazine *m, unsigned index) {
    size_t size = class_size(index);
    size_class *c = &pool->classes[index];
    /* Fewer big ones: half a magazine of them would be more than a slab. */
    uint32_t wanted = (uint32_t)(KV_POOL_SLAB_MAX / size);
    if (wanted > MAGAZINE_SIZE / 2)
        wanted = MAGAZINE_SIZE / 2;
    kv_mutex_lock(&c->mutex, KV_RANK_SLABS);
    while (m->count < wanted) {
        slab *s = c->slabs;
        if (s == NULL) {
            s = slab_take(pool);
            if (s == NULL)
                break;
            slab_format(s, pool, size);
            list_add(c, s);
        }
        m->blocks[m->count++] = slab_take_block(s, size);
        if (s->used == s->count)
            list_remove(c, s);
    }
    kv_mutex_unlock(&c->mutex, KV_RANK_SLABS);
    return m->count > 0;
}

/* Gives the older half of a full magazine back to the slabs. */
static void spill(kv_pool *pool, magazine *m, unsigned index) {
    size_t size = class_size(index);
    size_class *c = &pool->classes[index];
    uint32_t count = MAGAZINE_SIZE / 2;
    for (uint32_t i = 0; i < count; i++) /* their misses overlap, and nobody waits for them */
        prefetch_for_write((char *)slab_of(m->blocks[i]));
    kv_mutex_lock(&c->mutex, KV_RANK_SLABS);
    for (uint32_t i = 0; i < count; i++) {
        slab *s = slab_of(m->blocks[i]);
        slab_put_block(s, m->blocks[i], size);
        if (!s->listed) {
            list_add(c, s);
        } else if (s->used == 0 && (s->next != NULL || s->prev != NULL)) {
            list_remove(c, s); /* the class keeps one empty slab: no to and fro at the edge */
            slab_give_back(pool, s);
        }
    }
    kv_mutex_unlock(&c->mutex, KV_RANK_SLABS);
    memmove(m->blocks, m->blocks + count, (MAGAZINE_SIZE - count) * sizeof m->blocks[0]);
    m->count -= count;
}

/* A kept block of at least, and not twice, the size; NULL: none. */
static large *take_kept(kv_pool *pool, size_t size) {
    large *block = NULL;
    kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
    for (unsigned i = 0; i < LARGE_KEPT && block == NULL; i++) {
        if (pool->kept[i] != NULL && pool->kept[i]->size >= size &&
            pool->kept[i]->size / 2 < size) {
            block = pool->kept[i];
            pool->kept[i] = NULL;
        }
    }
    kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
    return block;
}

/* Keeps the block, which is in no list, if there is a place; the lock is held. */
static bool keep_locked(kv_pool *pool, large *block) {
    for (unsigned i = 0; i < LARGE_KEPT && block->size <= LARGE_KEPT_SIZE_MAX; i++) {
        if (pool->kept[i] == NULL) {
            pool->kept[i] = block;
            return true;
        }
    }
    return false;
}

static void *large_alloc(kv_pool *pool, size_t size) {
    large *block = take_kept(pool, size);
    if (block != NULL)
        size = block->size;
    else
        block = kv_mem_alloc_aligned(LARGE_HEADER_SIZE + size, 64);
    if (block == NULL)
        return NULL;
    if (((uintptr_t)block >> 24 >> 24) != 0) {
        kv_mem_free(block);
        return NULL;
    }
    kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
    *block = (large){.pool = pool, .next = pool->large_blocks, .size = size};
    if (block->next != NULL)
        block->next->prev = block;
    pool->large_blocks = block;
    kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
    atomic_fetch_add_explicit(&pool->bytes, LARGE_HEADER_SIZE + size, memory_order_relaxed);
    return (char *)block + LARGE_HEADER_SIZE;
}

static large *large_of(const void *block) {
    return (large *)((uintptr_t)block - LARGE_HEADER_SIZE);
}

static void large_free(kv_pool *pool, void *memory) {
    large *block = large_of(memory);
    kv_mutex_lock(&pool->areas_mutex, KV_RANK_AREAS);
    if (block->prev != NULL)
        block->prev->next = block->next;
    else
        pool->large_blocks = block->next;
    if (block->next != NULL)
        block->next->prev = block->prev;
    atomic_fetch_sub_explicit(&pool->bytes, LARGE_HEADER_SIZE + block->size, memory_order_relaxed);
    bool kept = keep_locked(pool, block);
    kv_mutex_unlock(&pool->areas_mutex, KV_RANK_AREAS);
    if (!kept)
        kv_mem_free(block);
}

static void *alloc_locked(kv_pool *pool, stock *st, size_t size) {
    unsigned index = class_of(size);
    magazine *m = &st->magazines[index];
    if (m->count == 0 && !refill(pool, m, index))
        return NULL;
    void *block = m->blocks[--m->count];
    if (m->count > 0)
        prefetch_for_write(m->blocks[m->count - 1]); /* the next one arrives while this one is filled */
    return block;
}

static void free_locked(kv_pool *pool, stock *st, void *block, size_t size) {
    unsigned index = class_of(size);
    magazine *m = &st->magazines[index];
    if (m->count == MAGAZINE_SIZE)
        spill(pool, m, index);
    m->blocks[m->count++] = block;
}

void *kv_pool_alloc(kv_pool *pool, size_t size) {
    if (size > KV_POOL_SLAB_MAX)
        return large_alloc(pool, size);
    stock *st = stock_lock(pool);
    void *block = alloc_locked(pool, st, size);
    stock_unlock(pool, st);
    return block;
}

bool kv_pool_alloc_many(kv_pool *pool, const size_t *sizes, void **blocks, size_t count) {
    stock *st = stock_lock(pool);
    size_t made = 0;
    for (; made < count; made++) {
        blocks[made] = sizes[made] > KV_POOL_SLAB_MAX ? large_alloc(pool, sizes[made])
                                                      : alloc_locked(pool, st, sizes[made]);
        if (blocks[made] == NULL)
            break;
    }
    stock_unlock(pool, st);
    if (made == count)
        return true;
    kv_pool_free_many(pool, blocks, sizes, made);
    return false;
}

void kv_pool_free_many(kv_pool *pool, void *const *blocks, const size_t *sizes, size_t count) {
    if (count == 0 || is_abandoned(pool))
        return;
    stock *st = stock_lock(pool);
    for (size_t i = 0; i < count; i++) {
        if (sizes[i] > KV_POOL_SLAB_MAX)
            large_free(pool, blocks[i]);
        else
            free_locked(pool, st, blocks[i], sizes[i]);
    }
    stock_unlock(pool, st);
}

void kv_pool_free(kv_pool *pool, void *block, size_t size) {
    if (block == NULL || is_abandoned(pool))
        return;
    if (size > KV_POOL_SLAB_MAX) {
        large_free(pool, block);
        return;
    }
    stock *st = stock_lock(pool);
    free_locked(pool, st, block, size);
    stock_unlock(pool, st);
    prefetch_for_write(block); /* the thread's next one, most likely: a write frees what it replaces */
}

kv_pool *kv_pool_of(const void *block, size_t size) {
    return size > KV_POOL_SLAB_MAX ? large_of(block)->pool : slab_of(block)->pool;
}
