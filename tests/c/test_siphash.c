/* test_siphash.c - SipHash-1-3 against values from elsewhere and against a slow second version.
 *
 * There are no official vectors for 1-3.  The values below are what CPython's hash() answers for
 * the bytes 0, 1, 2 ... (it uses SipHash-1-3 since 3.11), once with the all-zero key of
 * PYTHONHASHSEED=0 and once with the key it derives from PYTHONHASHSEED=1.  The second version
 * takes the numbers of rounds as arguments, so it can itself be held against the vector that the
 * authors published for SipHash-2-4.
 */
#include "check.h"

#include "base/siphash.h"

/* ---- The second version: byte by byte, straight from the paper ---------------------------------- */

static uint64_t rotated(uint64_t x, unsigned bits) {
    return x << bits | x >> (64 - bits);
}

static void sip_rounds(uint64_t v[4], int rounds) {
    for (int i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotated(v[1], 13) ^ v[0];
        v[3] = rotated(v[3], 16) ^ v[2];
        v[0] = rotated(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotated(v[1], 17) ^ v[2];
        v[3] = rotated(v[3], 21) ^ v[0];
        v[2] = rotated(v[2], 32);
    }
}

static uint64_t sip_slow(int compression, int finalisation, kv_siphash_key key,
                         const uint8_t *data, size_t size) {
    uint64_t v[4] = {key.k0 ^ UINT64_C(0x736f6d6570736575), key.k1 ^ UINT64_C(0x646f72616e646f6d),
                     key.k0 ^ UINT64_C(0x6c7967656e657261), key.k1 ^ UINT64_C(0x7465646279746573)};
    /* The message, zeros up to the last byte of a word, and there the length. */
    size_t padded = (size / 8 + 1) * 8;
    uint64_t word = 0;
    for (size_t i = 0; i < padded; i++) {
        uint8_t byte = i < size ? data[i] : i == padded - 1 ? (uint8_t)size : 0;
        word |= (uint64_t)byte << (i % 8 * 8);
        if (i % 8 == 7) {
            v[3] ^= word;
            sip_rounds(v, compression);
            v[0] ^= word;
            word = 0;
        }
    }
    v[2] ^= 0xff;
    sip_rounds(v, finalisation);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void counting_bytes(uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)i;
}

static void test_second_version_is_siphash(void) {
    kv_siphash_key key = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    uint8_t bytes[15];
    counting_bytes(bytes, sizeof bytes);
    CHECK_EQ(sip_slow(2, 4, key, bytes, sizeof bytes), UINT64_C(0xa129ca6149be45e5));
}

typedef struct vector {
    size_t size;
    uint64_t hash;
} vector;

static void check_vectors(kv_siphash_key key, const vector *vectors, size_t count) {
    uint8_t bytes[64];
    counting_bytes(bytes, sizeof bytes);
    for (size_t i = 0; i < count; i++)
        CHECK_EQ(kv_siphash13(key, bytes, vectors[i].size), vectors[i].hash);
}

static void test_zero_key(void) {
    static const vector vectors[] = {
        {1, UINT64_C(0x68a914128e01e473)},  {2, UINT64_C(0x010bac45c41e3669)},
        {7, UINT64_C(0x2f098ab0c751325a)},  {8, UINT64_C(0xead411e67ebe2eea)},
        {9, UINT64_C(0x75927f9d95124362)},  {15, UINT64_C(0xf30eb725bb91c9ea)},
        {16, UINT64_C(0x8972188433a5c5b7)}, {17, UINT64_C(0x4883c49a2c009c1d)},
        {31, UINT64_C(0x169739443111d49b)}, {63, UINT64_C(0x385d3e39e5f37359)},
    };
    kv_siphash_key key = {0, 0};
    check_vectors(key, vectors, sizeof vectors / sizeof vectors[0]);
}

static void test_other_key(void) {
    static const vector vectors[] = {
        {1, UINT64_C(0xecd3e5afcecda4b9)},  {2, UINT64_C(0xbf360f1ea1745965)},
        {7, UINT64_C(0xfd15e78052a69ddf)},  {8, UINT64_C(0xc0b5739e7e28dd01)},
        {9, UINT64_C(0x208a1a5a0cbbf778)},  {15, UINT64_C(0xfa87985f39e97a53)},
        {16, UINT64_C(0x12e9d283f9f37002)}, {17, UINT64_C(0x9f5bb4237f61907f)},
        {31, UINT64_C(0xb8c17103f21d8810)}, {63, UINT64_C(0x542052345bc68274)},
    };
    kv_siphash_key key = {UINT64_C(0xaed66ce184be2329), UINT64_C(0xebe9bbf1f1499052)};
    check_vectors(key, vectors, sizeof vectors / sizeof vectors[0]);
}

/* Every length that matters, at every alignment; 256 and more: the length is taken modulo 256. */
static void test_every_length(void) {
    check_random random = random_stream(1);
    uint8_t bytes[8 + 300];
    random_fill(&random, bytes, sizeof bytes);
    for (size_t size = 0; size <= 300; size++) {
        kv_siphash_key key = {random_next(&random), random_next(&random)};
        const uint8_t *p = bytes + size % 8;
        CHECK_EQ(kv_siphash13(key, p, size), sip_slow(1, 3, key, p, size));
    }
}

static void test_nothing(void) {
    kv_siphash_key key = {1, 2};
    CHECK_EQ(kv_siphash13(key, NULL, 0), sip_slow(1, 3, key, NULL, 0));
}

CHECK_MAIN(TEST(test_second_version_is_siphash), TEST(test_zero_key), TEST(test_other_key),
           TEST(test_every_length), TEST(test_nothing))
