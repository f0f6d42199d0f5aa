/* test_pool.c - blocks of all sizes: aligned, apart from each other, and used again. */
/* tsan */
#include "check.h"

#include <stdatomic.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/pool.h"
#include "base/thread.h"
#include "threads.h"

/* A block filled with bytes of its own. */
typedef struct block {
    uint8_t *bytes;
    size_t size;
    uint8_t fill;
} block;

static block block_make(kv_pool *pool, size_t size, uint8_t fill) {
    block b = {kv_pool_alloc(pool, size), size, fill};
    CHECK(b.bytes != NULL);
    CHECK_EQ((uintptr_t)b.bytes % 16, 0);
    if ((size > 0 && size % 64 == 0) || size > KV_POOL_SLAB_MAX)
        CHECK_EQ((uintptr_t)b.bytes % 64, 0);
    CHECK(kv_pool_of(b.bytes, size) == pool);
    memset(b.bytes, fill, size);
    return b;
}

static void block_check(const block *b) {
    for (size_t i = 0; i < b->size; i++)
        if (b->bytes[i] != b->fill)
            FAIL("byte %zu of a block of %zu bytes is somebody else's", i, b->size);
}

static void block_end(kv_pool *pool, block *b) {
    block_check(b);
    kv_pool_free(pool, b->bytes, b->size);
    b->bytes = NULL;
}

/* ---- Sizes ---------------------------------------------------------------------------------------- */

static void test_every_size(void) {
    enum { MAX = KV_POOL_SLAB_MAX + 100 };
    kv_pool *pool = kv_pool_create();
    static block blocks[MAX + 1];
    for (size_t size = 0; size <= MAX; size++)
        blocks[size] = block_make(pool, size, (uint8_t)size);
    for (size_t size = 0; size <= MAX; size++)
        block_check(&blocks[size]);
    for (size_t size = 0; size <= MAX; size += 2)
        block_end(pool, &blocks[size]);
    for (size_t size = 0; size <= MAX; size += 2)
        blocks[size] = block_make(pool, size, (uint8_t)(size + 1));
    for (size_t size = 0; size <= MAX; size++)
        block_end(pool, &blocks[size]);
    kv_pool_free(pool, NULL, 100);
    kv_pool_release(pool);
}

/* Every block of some slabs, so that their ends are reached. */
static void test_full_slabs(void) {
    static const size_t sizes[] = {1, 16, 17, 64, 128, 500, 1024, 1025, 2048, 4000, 8192};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        kv_pool *pool = kv_pool_create();
        size_t count = 200000 / (sizes[i] < 16 ? 16 : sizes[i]);
        block *blocks = calloc(count, sizeof *blocks);
        for (int round = 0; round < 3; round++) {
            for (size_t k = 0; k < count; k++)
                blocks[k] = block_make(pool, sizes[i], (uint8_t)(k * 7 + (size_t)round));
            for (size_t start = 0; start < 31; start++) /* neighbours at different times */
                for (size_t k = start; k < count; k += 31)
                    block_end(pool, &blocks[k]);
        }
        free(blocks);
        kv_pool_release(pool);
    }
}

static void test_large_blocks(void) {
    kv_pool *pool = kv_pool_create();
    uint64_t before = kv_pool_bytes(pool);
    block a = block_make(pool, 100000, 1), b = block_make(pool, 200000, 2);
    block c = block_make(pool, KV_POOL_SLAB_MAX + 1, 3);
    CHECK(kv_pool_bytes(pool) >= before + 300000);
    block_end(pool, &b);
    block_check(&a);
    block_end(pool, &a);
    block_end(pool, &c);
    CHECK_EQ(kv_pool_bytes(pool), before);
    (void)block_make(pool, 50000, 4); /* the pool's end frees it */
    kv_pool_release(pool);
}

/* ---- Random ------------------------------------------------------------------------------------------ */

static void test_random_blocks(void) {
    enum { SLOTS = 3000, STEPS = 200000 };
    kv_pool *pool = kv_pool_create();
    static block blocks[SLOTS];
    check_random random = random_stream(1);
    for (unsigned i = 0; i < STEPS; i++) {
        block *b = &blocks[random_below(&random, SLOTS)];
        if (b->bytes != NULL) {
            block_end(pool, b);
            continue;
        }
        size_t max = random_below(&random, 100) ? 4000 : 12000;
        *b = block_make(pool, random_below(&random, max), (uint8_t)i);
    }
    /* 200 MB were asked for in all, 3 at a time; a slab for each size are 6. */
    CHECK(kv_pool_bytes(pool) < 100 << 20);
    for (unsigned i = 0; i < SLOTS; i++)
        if (blocks[i].bytes != NULL)
            block_end(pool, &blocks[i]);
    kv_pool_release(pool);
}

/* What one size has given back, another gets. */
static void test_slabs_change_their_size(void) {
    enum { BYTES = 4 << 20 };
    kv_pool *pool = kv_pool_create();
    uint64_t most = 0;
    for (size_t size = 64; size <= 8192; size *= 2) {
        size_t count = BYTES / size;
        void **blocks = calloc(count, sizeof *blocks);
        for (size_t i = 0; i < count; i++)
            CHECK((blocks[i] = kv_pool_alloc(pool, size)) != NULL);
        for (size_t i = 0; i < count; i++)
            kv_pool_free(pool, blocks[i], size);
        free(blocks);
        if (most == 0)
            most = kv_pool_bytes(pool);
    }
    CHECK(kv_pool_bytes(pool) <= 4 * most);
    kv_pool_release(pool);
}

/* Somebody may still look at it (pool.h). */
static void test_free_blocks_are_not_written(void) {
    kv_pool *pool = kv_pool_create();
    enum { COUNT = 2000 };
    static block blocks[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        blocks[i] = block_make(pool, 192, (uint8_t)i);
    for (unsigned i = 0; i < COUNT; i++)
        kv_pool_free(pool, blocks[i].bytes, 192);
    for (unsigned i = 0; i < COUNT; i++)
        block_check(&blocks[i]);
    kv_pool_release(pool);
}

/* ---- Many at once -------------------------------------------------------------------------------------- */

static void test_many_at_once(void) {
    enum { COUNT = 300 };
    kv_pool *pool = kv_pool_create();
    check_random random = random_stream(2);
    for (int round = 0; round < 50; round++) {
        size_t sizes[COUNT];
        void *bytes[COUNT];
        block blocks[COUNT];
        size_t count = random_below(&random, COUNT + 1);
        for (size_t i = 0; i < count; i++)
            sizes[i] = random_below(&random, random_below(&random, 30) ? 400 : 20000);
        CHECK(kv_pool_alloc_many(pool, sizes, bytes, count));
        for (size_t i = 0; i < count; i++) {
            blocks[i] = (block){bytes[i], sizes[i], (uint8_t)i};
            memset(bytes[i], (int)(uint8_t)i, sizes[i]);
        }
        for (size_t i = 0; i < count; i++)
            block_check(&blocks[i]);
        kv_pool_free_many(pool, bytes, sizes, count);
    }
    kv_pool_release(pool);
}

/* All or none, also when the memory ends in the middle. */
static void test_no_memory(void) {
    enum { COUNT = 100 };
    kv_pool *pool = kv_pool_create();
    size_t sizes[COUNT];
    void *blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        sizes[i] = 8192;
    kv_mem_fail_at(0, true);
    CHECK(kv_pool_alloc(pool, 100) == NULL);
    CHECK(kv_pool_alloc(pool, 10000) == NULL);
    CHECK(!kv_pool_alloc_many(pool, sizes, blocks, COUNT));
    kv_mem_fail_at(UINT64_MAX, false);
    CHECK(kv_pool_alloc_many(pool, sizes, blocks, 10));
    kv_mem_fail_at(0, true);
    uint64_t before = kv_pool_bytes(pool);
    for (int i = 0; i < 20; i++) { /* nothing stays behind: the same part can be had each time */
        CHECK(!kv_pool_alloc_many(pool, sizes, blocks + 10, COUNT - 10));
        CHECK(kv_pool_alloc_many(pool, sizes, blocks + 10, 10));
        kv_pool_free_many(pool, blocks + 10, sizes, 10);
    }
    CHECK_EQ(kv_pool_bytes(pool), before);
    kv_mem_fail_at(UINT64_MAX, false);
    CHECK(kv_pool_alloc_many(pool, sizes, blocks + 10, COUNT - 10));
    kv_pool_free_many(pool, blocks + 10, sizes, COUNT - 10);
    kv_pool_free_many(pool, blocks, sizes, 10);
    kv_pool_release(pool);
    for (uint64_t n = 0; n < 3; n++) {
        kv_mem_fail_at(n, false);
        kv_pool *other = kv_pool_create();
        void *block = other != NULL ? kv_pool_alloc(other, 1) : NULL;
        kv_mem_fail_at(UINT64_MAX, false);
        CHECK(n == 0 ? other == NULL : block == NULL);
        if (other != NULL) {
            CHECK(kv_pool_alloc(other, 1) != NULL);
            kv_pool_release(other);
        }
    }
}

/* ---- Life ----------------------------------------------------------------------------------------------- */

static void test_it_lives_until_the_last_reference(void) {
    kv_pool *pool = kv_pool_create();
    block small = block_make(pool, 100, 1), large = block_make(pool, 100000, 2);
    kv_pool_acquire(pool);
    kv_pool_acquire(pool);
    kv_pool_release(pool);
    block_check(&small);
    kv_pool_release(pool);
    block_end(pool, &small);
    block_end(pool, &large);
    kv_pool_release(pool);
}

/* As the child of a fork does with the parent's pool. */
static void abandon(void) {
    kv_pool *pool = kv_pool_create();
    block small = block_make(pool, 100, 1);
    kv_pool_abandon_all();
    kv_pool_free(pool, small.bytes, small.size);
    size_t size = small.size;
    void *bytes = small.bytes;
    kv_pool_free_many(pool, &bytes, &size, 1);
    block_check(&small);
    kv_pool_release(pool);
    block_check(&small);
    _exit(0); /* before the leak is found: the memory is the parent's */
}

static void test_abandoned(void) {
    pid_t pid = fork();
    if (pid == 0)
        abandon();
    int wait_status;
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    CHECK_EQ(wait_status, 0);
}

/* ---- Threads -------------------------------------------------------------------------------------------- */

enum { SHARED = 256 };

typedef struct shared {
    kv_pool *pool;
    _Atomic(block *) blocks[SHARED]; /* made by one thread, ended by another */
} shared;

static void exchange_blocks(worker *me) {
    shared *s = me->shared;
    for (unsigned i = 0; i < 20000; i++) {
        block *mine = malloc(sizeof *mine);
        *mine = block_make(s->pool, random_below(&me->random, random_below(&me->random, 50) ? 250 : 9000),
                           (uint8_t)random_next(&me->random));
        block *other = atomic_exchange(&s->blocks[random_below(&me->random, SHARED)], mine);
        if (other != NULL)
            block_end(s->pool, other);
        free(other);
    }
}

static void test_threads(void) {
    shared s = {.pool = kv_pool_create()};
    crew crew = {0};
    for (unsigned i = 0; i < 6; i++)
        crew_add(&crew, exchange_blocks, &s);
    crew_join(&crew);
    for (unsigned i = 0; i < SHARED; i++) {
        block *b = atomic_load(&s.blocks[i]);
        if (b != NULL)
            block_end(s.pool, b);
        free(b);
    }
    kv_pool_release(s.pool);
}

/* A thread of which the creator may be sure that it has another index. */
typedef struct other_thread {
    kv_pool *pool;
    unsigned not_index;
    uint64_t bytes; /* of the pool, in between */
} other_thread;

static void note_index(worker *me) {
    const other_thread *o = me->shared;
    kv_thread_index_avoid(o->not_index);
    CHECK(kv_thread_index() != o->not_index);
    CHECK(kv_thread_index() < KV_THREAD_INDEXES);
}

static void test_another_index(void) {
    other_thread o = {.not_index = kv_thread_index()};
    crew crew = {0};
    for (unsigned i = 0; i < KV_THREAD_INDEXES; i++) /* one of them would get ours */
        crew_add(&crew, note_index, &o);
    crew_join(&crew);
}

static void make_and_end(kv_pool *pool, unsigned seed) {
    enum { BLOCKS = 5000 };
    block *blocks = calloc(BLOCKS, sizeof *blocks);
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = block_make(pool, (i * 7 + seed) % 700, (uint8_t)(i + seed));
    for (unsigned i = 0; i < BLOCKS; i++)
        block_end(pool, &blocks[i]);
    free(blocks);
}

static void work_beside(worker *me) {
    other_thread *o = me->shared;
    kv_thread_index_avoid(o->not_index);
    for (unsigned seed = 0; seed < 10; seed++)
        make_and_end(o->pool, seed);
    o->bytes = kv_pool_bytes(o->pool);
}

/* Two threads at once, and what they have in hand is not locked. */
static void test_exclusive(void) {
    other_thread o = {.pool = kv_pool_create(), .not_index = kv_thread_index()};
    crew crew = {0};
    kv_pool_set_exclusive(o.pool, true);
    crew_add(&crew, work_beside, &o);
    for (unsigned seed = 0; seed < 10; seed++)
        make_and_end(o.pool, seed);
    crew_join(&crew);
    kv_pool_set_exclusive(o.pool, false);
    make_and_end(o.pool, 3);
    kv_pool_release(o.pool);
}

/* What one thread has given back, another gets: all but what fills its magazines. */
static void test_blocks_go_to_another_thread(void) {
    enum { COUNT = 100000, SIZE = 128 };
    other_thread o = {.pool = kv_pool_create(), .not_index = kv_thread_index()};
    void **blocks = calloc(COUNT, sizeof *blocks);
    for (unsigned round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++)
            CHECK((blocks[i] = kv_pool_alloc(o.pool, SIZE)) != NULL);
        for (size_t i = 0; i < COUNT; i++)
            kv_pool_free(o.pool, blocks[i], SIZE);
    }
    free(blocks);
    uint64_t before = kv_pool_bytes(o.pool);
    crew crew = {0};
    crew_add(&crew, work_beside, &o);
    crew_join(&crew);
    CHECK_EQ(o.bytes, before);
    kv_pool_release(o.pool);
}

/* ---- Memory ahead of its use ------------------------------------------------------------------------------ */

#define HUGE_PAGE ((uintptr_t)2 << 20)

static void count_call(void *arg) {
    ++*(unsigned *)arg;
}

static bool is_resident(uintptr_t page) {
    unsigned char state = 0;
    CHECK_EQ(mincore((void *)page, 1, (void *)&state), 0);
    return state & 1;
}

static void test_touching_ahead(void) {
    enum { BLOCK = 8000, BLOCKS = 12000 };
    kv_pool *pool = kv_pool_create();
    unsigned calls = 0, before = 0;
    kv_pool_touch(pool); /* nothing is asked for */
    kv_pool_on_hunger(pool, count_call, &calls);
    for (unsigned i = 0; i < BLOCKS; i++) {
        char *block = kv_pool_alloc(pool, BLOCK);
        CHECK(block != NULL);
        memset(block, 1, BLOCK);
        if (calls == 0)
            CHECK(kv_pool_bytes(pool) < 40 << 20);
        if (calls == before)
            continue;
        CHECK_EQ(calls, ++before);
        CHECK(kv_pool_bytes(pool) > 16 << 20); /* a small store stays small */
        if (calls % 2 == 0)
            continue; /* nobody comes: the pages are touched when they are used */
        uintptr_t next = ((uintptr_t)block | (HUGE_PAGE - 1)) + 1;
        CHECK(!is_resident(next));
        kv_pool_touch(pool);
        CHECK(is_resident(next));
    }
    CHECK(calls > 20); /* for about each 2 MiB */
    CHECK(calls < 60);
    kv_pool_on_hunger(pool, NULL, NULL);
    for (unsigned i = 0; i < 2000; i++)
        CHECK(kv_pool_alloc(pool, BLOCK) != NULL);
    CHECK_EQ(calls, before);
    kv_pool_touch(pool);
    kv_pool_release(pool);
}

typedef struct feeding {
    kv_pool *pool;
    _Atomic unsigned calls, growing;
} feeding;

static void note_hunger(void *arg) {
    atomic_fetch_add(&((feeding *)arg)->calls, 1);
}

static void grow(worker *me) {
    enum { BLOCKS = 6000 };
    feeding *f = me->shared;
    block *blocks = calloc(BLOCKS, sizeof *blocks);
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = block_make(f->pool, 8000, (uint8_t)random_next(&me->random));
    for (unsigned i = 0; i < BLOCKS; i++)
        block_end(f->pool, &blocks[i]); /* nobody wrote into it */
    free(blocks);
    atomic_fetch_sub(&f->growing, 1);
}

static void feed(worker *me) {
    feeding *f = me->shared;
    while (atomic_load(&f->growing) > 0)
        kv_pool_touch(f->pool);
}

static void test_touching_while_it_grows(void) {
    feeding f = {.pool = kv_pool_create(), .growing = 2};
    crew crew = {0};
    kv_pool_on_hunger(f.pool, note_hunger, &f);
    crew_add(&crew, grow, &f);
    crew_add(&crew, grow, &f);
    crew_add(&crew, feed, &f);
    crew_add(&crew, feed, &f);
    crew_join(&crew);
    CHECK(atomic_load(&f.calls) > 10);
    kv_pool_release(f.pool);
}

CHECK_MAIN(TEST(test_every_size), TEST(test_full_slabs), TEST(test_large_blocks),
           TEST(test_random_blocks), TEST(test_slabs_change_their_size),
           TEST(test_free_blocks_are_not_written), TEST(test_many_at_once), TEST(test_no_memory),
           TEST(test_it_lives_until_the_last_reference), TEST(test_abandoned), TEST(test_threads),
           TEST(test_another_index), TEST(test_exclusive), TEST(test_blocks_go_to_another_thread),
           TEST(test_touching_ahead), TEST(test_touching_while_it_grows))
