/* test_crc32c.c - CRC-32C against the published values and against a bit-by-bit version. */
/* tsan */
#include "check.h"

#include <pthread.h>

#include "base/crc32c.h"

/* Straight from the definition: one bit at a time. */
static uint32_t crc_slow(uint32_t crc, const uint8_t *p, size_t size) {
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
    }
    return ~crc;
}

static void check_crc(uint32_t crc, const uint8_t *p, size_t size, uint32_t wanted) {
    CHECK_EQ(kv_crc32c_portable(crc, p, size), wanted);
    CHECK_EQ(kv_crc32c(crc, p, size), wanted);
}

/* The catalogue's check value, and RFC 3720, appendix B.4. */
static void test_published_values(void) {
    check_crc(0, (const uint8_t *)"123456789", 9, 0xe3069283);

    uint8_t bytes[32];
    memset(bytes, 0, sizeof bytes);
    check_crc(0, bytes, sizeof bytes, 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    check_crc(0, bytes, sizeof bytes, 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    check_crc(0, bytes, sizeof bytes, 0x46dd794e);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = 31 - i;
    check_crc(0, bytes, sizeof bytes, 0x113fdb5c);

    static const uint8_t iscsi_read[48] = {
        0x01, 0xc0, [16] = 0x14, [22] = 0x04, [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02};
    check_crc(0, iscsi_read, sizeof iscsi_read, 0xd9963a56);
}

static void test_nothing(void) {
    check_crc(0, NULL, 0, 0);
    check_crc(0xe3069283, NULL, 0, 0xe3069283);
}

/* Lengths around every step and lane that an implementation may have, at every alignment. */
static void test_every_length(void) {
    enum { SIZE_MAX_TESTED = 2 * 3072 + 2 * 384 + 32 };
    static uint8_t bytes[SIZE_MAX_TESTED + 8];
    check_random random = random_stream(1);
    random_fill(&random, bytes, sizeof bytes);
    for (size_t align = 0; align < 8; align++) {
        uint32_t start = (uint32_t)random_next(&random), wanted = start;
        for (size_t size = 0; size <= SIZE_MAX_TESTED; size++) {
            check_crc(start, bytes + align, size, wanted);
            wanted = crc_slow(wanted, bytes + align + size, 1);
        }
    }
}

static void test_pieces(void) {
    static uint8_t bytes[20000];
    check_random random = random_stream(2);
    random_fill(&random, bytes, sizeof bytes);
    uint32_t wanted = crc_slow(0, bytes, sizeof bytes);
    for (int round = 0; round < 200; round++) {
        uint32_t crc = 0;
        for (size_t at = 0, part; at < sizeof bytes; at += part) {
            part = random_below(&random, 7000);
            if (part > sizeof bytes - at)
                part = sizeof bytes - at;
            crc = kv_crc32c(crc, bytes + at, part);
        }
        CHECK_EQ(crc, wanted);
    }
}

/* ---- The choice of the implementation, made by many threads at once ----------------------------- */

static pthread_barrier_t start;

static void *first_use(void *arg) {
    (void)arg;
    pthread_barrier_wait(&start);
    CHECK_EQ(kv_crc32c(0, "123456789", 9), 0xe3069283);
    return NULL;
}

static void test_first_use_by_threads(void) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, first_use, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
}

CHECK_MAIN(TEST(test_published_values), TEST(test_nothing), TEST(test_every_length),
           TEST(test_pieces), TEST(test_first_use_by_threads))
