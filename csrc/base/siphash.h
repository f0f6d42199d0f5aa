/* siphash.h - SipHash-1-3, a keyed hash (Aumasson and Bernstein, "SipHash: a fast short-input PRF",
 * 2012; one compression and three finalisation rounds, as CPython, Rust and Ruby use for tables).
 * Layer: base (a leaf).  Without the key nobody can choose colliding inputs.
 *
 * Inline: one call per lookup, and with a size the compiler can see (16, say) the loop folds.
 */
#ifndef KV_BASE_SIPHASH_H
#define KV_BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bytes.h"

typedef struct kv_siphash_key {
    uint64_t k0, k1;
} kv_siphash_key;

static inline uint64_t kv_siphash_rotl(uint64_t x, int bits) {
    return (x << bits) | (x >> (64 - bits));
}

#define KV_SIPHASH_ROUND(v0, v1, v2, v3)                                                         \
    do {                                                                                         \
        v0 += v1; v1 = kv_siphash_rotl(v1, 13); v1 ^= v0; v0 = kv_siphash_rotl(v0, 32);          \
        v2 += v3; v3 = kv_siphash_rotl(v3, 16); v3 ^= v2;                                        \
        v0 += v3; v3 = kv_siphash_rotl(v3, 21); v3 ^= v0;                                        \
        v2 += v1; v1 = kv_siphash_rotl(v1, 17); v1 ^= v2; v2 = kv_siphash_rotl(v2, 32);          \
    } while (0)

static inline uint64_t kv_siphash13(kv_siphash_key key, const void *data, size_t size) {
    const uint8_t *p = data;
    uint64_t v0 = key.k0 ^ UINT64_C(0x736f6d6570736575), v1 = key.k1 ^ UINT64_C(0x646f72616e646f6d);
    uint64_t v2 = key.k0 ^ UINT64_C(0x6c7967656e657261), v3 = key.k1 ^ UINT64_C(0x7465646279746573);
    uint64_t last = (uint64_t)size << 56;
    size_t left = size;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m = kv_load64(p);
        v3 ^= m;
        KV_SIPHASH_ROUND(v0, v1, v2, v3);
        v0 ^= m;
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)p[i] << (8 * i);
    v3 ^= last;
    KV_SIPHASH_ROUND(v0, v1, v2, v3);
    v0 ^= last;
    v2 ^= 0xff;
    KV_SIPHASH_ROUND(v0, v1, v2, v3);
    KV_SIPHASH_ROUND(v0, v1, v2, v3);
    KV_SIPHASH_ROUND(v0, v1, v2, v3);
    return v0 ^ v1 ^ v2 ^ v3;
}

#endif
