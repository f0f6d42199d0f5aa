/* mem.c - see mem.h. */
#include "mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_SIZE ((size_t)sysconf(_SC_PAGESIZE))

#ifdef KV_DEBUG
static _Atomic uint64_t requests;
static _Atomic uint64_t fail_at = UINT64_MAX;
static _Atomic bool fail_on;

uint64_t kv_mem_fail_at(uint64_t n, bool from_then_on) {
    atomic_store(&fail_at, UINT64_MAX);
    uint64_t made = atomic_exchange(&requests, 0);
    atomic_store(&fail_on, from_then_on);
    atomic_store(&fail_at, n);
    return made;
}

static bool must_fail(void) {
    uint64_t n = atomic_fetch_add(&requests, 1), at = atomic_load(&fail_at);
    return n == at || (n > at && atomic_load(&fail_on));
}
#else
static inline bool must_fail(void) {
    return false;
}
#endif

void *kv_mem_alloc(size_t size) {
    return must_fail() ? NULL : malloc(size);
}

void *kv_mem_alloc_zero(size_t size) {
    return must_fail() ? NULL : calloc(1, size);
}

void *kv_mem_alloc_aligned(size_t size, size_t alignment) {
    void *block;
    return must_fail() || posix_memalign(&block, alignment, size) != 0 ? NULL : block;
}

void *kv_mem_realloc(void *block, size_t size) {
    return must_fail() ? NULL : realloc(block, size);
}

void kv_mem_free(void *block) {
    free(block);
}

static size_t round_up(size_t size, size_t alignment) {
    return (size + alignment - 1) & ~(alignment - 1);
}

void *kv_mem_map(size_t size, size_t alignment, bool huge) {
    if (must_fail())
        return NULL;
    size = round_up(size, PAGE_SIZE);
    /* Take more than needed and give back what lies before and behind the aligned part. */
    size_t total = size + alignment;
    char *start = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    char *aligned = (char *)round_up((uintptr_t)start, alignment);
    if (aligned > start)
        munmap(start, (size_t)(aligned - start));
    if (start + total > aligned + size)
        munmap(aligned + size, (size_t)(start + total - (aligned + size)));
#ifdef MADV_HUGEPAGE
    if (huge)
        madvise(aligned, size, MADV_HUGEPAGE); /* a wish: without it all works, slower */
#else
    (void)huge;
#endif
    return aligned;
}

void kv_mem_unmap(void *area, size_t size) {
    if (area != NULL)
        munmap(area, round_up(size, PAGE_SIZE));
}

void kv_mem_touch(void *page) {
    /* A write, since reading would map a page of zeros that all share.  Not as C: a compiler may make a load of
     * an atomic "or" with 0.  MADV_POPULATE_WRITE does the same under the lock of the whole address space, where a
     * helper that is not scheduled for a while holds up whoever maps or unmaps anything. */
#if defined(__x86_64__) || defined(__i386__)
    __asm__ __volatile__("lock; orb $0, %0" : "+m"(*(char *)page) : : "cc");
#elif defined(MADV_POPULATE_WRITE)
    madvise(page, PAGE_SIZE, MADV_POPULATE_WRITE);
#else
    (void)page;
#endif
}
