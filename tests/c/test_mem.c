/* test_mem.c - heap and address space, and the requests that are made to fail. */
#include "check.h"

#include "base/mem.h"

#define NEVER UINT64_MAX

static void check_zero(const void *area, size_t size) {
    const uint8_t *p = area;
    for (size_t i = 0; i < size; i++)
        if (p[i] != 0)
            FAIL("byte %zu is not 0", i);
}

static void test_heap(void) {
    uint8_t *block = kv_mem_alloc(100);
    CHECK(block != NULL);
    memset(block, 'x', 100);
    block = kv_mem_realloc(block, 100000);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(block[i], 'x');
    kv_mem_free(block);
    block = kv_mem_alloc_zero(5000);
    check_zero(block, 5000);
    kv_mem_free(block);
    kv_mem_free(NULL);
    for (size_t alignment = 8; alignment <= 4096; alignment *= 2) {
        block = kv_mem_alloc_aligned(100, alignment);
        CHECK(block != NULL);
        CHECK_EQ((uintptr_t)block % alignment, 0);
        memset(block, 'x', 100);
        kv_mem_free(block);
    }
}

static void test_mappings(void) {
    static const size_t sizes[] = {1, 4096, 65536, 100000, 3 << 20};
    static const size_t alignments[] = {4096, 65536, 2 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t j = 0; j < sizeof alignments / sizeof alignments[0]; j++)
            for (int huge = 0; huge < 2; huge++) {
                uint8_t *area = kv_mem_map(sizes[i], alignments[j], huge);
                CHECK(area != NULL);
                CHECK_EQ((uintptr_t)area % alignments[j], 0);
                check_zero(area, sizes[i]);
                memset(area, 'x', sizes[i]);
                kv_mem_unmap(area, sizes[i]);
            }
    kv_mem_unmap(NULL, 4096);
}

/* One of each kind; which of them fail is told in bits, the first one lowest. */
static unsigned request_each(void) {
    static const char kept[] = "kept";
    unsigned failed = 0;
    char *old = malloc(sizeof kept);
    memcpy(old, kept, sizeof kept);
    void *block[5] = {kv_mem_alloc(8), kv_mem_alloc_zero(8), kv_mem_alloc_aligned(8, 64),
                      kv_mem_realloc(old, 100), kv_mem_map(1, 4096, false)};
    for (unsigned i = 0; i < 5; i++)
        failed |= (block[i] == NULL) << i;
    CHECK_STR(block[3] != NULL ? block[3] : old, kept); /* on failure the old block stays */
    if (block[3] == NULL)
        block[3] = old;
    for (unsigned i = 0; i < 4; i++)
        kv_mem_free(block[i]);
    kv_mem_unmap(block[4], 1);
    return failed;
}

static void test_requests_that_fail(void) {
    CHECK_EQ(request_each(), 0);
    for (unsigned n = 0; n < 5; n++) {
        kv_mem_fail_at(n, false);
        CHECK_EQ(request_each(), 1 << n);
        CHECK_EQ(request_each(), 0);
        CHECK_EQ(kv_mem_fail_at(n, true), 10);
        CHECK_EQ(request_each(), 31 & (31 << n));
        CHECK_EQ(request_each(), 31);
        CHECK_EQ(kv_mem_fail_at(NEVER, false), 10);
        CHECK_EQ(request_each(), 0);
    }
}

/* Touching a page changes nothing, whether it has been used or not. */
static void test_touching(void) {
    enum { SIZE = 2 << 20 };
    uint8_t *area = kv_mem_map(SIZE, SIZE, true);
    CHECK(area != NULL);
    kv_mem_touch(area);
    check_zero(area, SIZE);
    for (unsigned byte = 0; byte < 256; byte++) {
        area[0] = (uint8_t)byte;
        kv_mem_touch(area);
        CHECK_EQ(area[0], byte);
    }
    check_zero(area + 1, SIZE - 1);
    kv_mem_unmap(area, SIZE);
}

CHECK_MAIN(TEST(test_heap), TEST(test_mappings), TEST(test_touching), TEST(test_requests_that_fail))
