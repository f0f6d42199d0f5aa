/* bytes.h - little-endian integers in byte buffers.  Layer: base (a leaf).
 * Everything on disk is written and read with these, field by field.
 */
#ifndef KV_BASE_BYTES_H
#define KV_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define KV_LE16(x) __builtin_bswap16(x)
#define KV_LE32(x) __builtin_bswap32(x)
#define KV_LE64(x) __builtin_bswap64(x)
#else
#define KV_LE16(x) (x)
#define KV_LE32(x) (x)
#define KV_LE64(x) (x)
#endif

static inline uint16_t kv_load16(const void *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return KV_LE16(x);
}

static inline uint32_t kv_load32(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return KV_LE32(x);
}

static inline uint64_t kv_load64(const void *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return KV_LE64(x);
}

static inline void kv_store16(void *p, uint16_t x) {
    x = KV_LE16(x);
    memcpy(p, &x, sizeof x);
}

static inline void kv_store32(void *p, uint32_t x) {
    x = KV_LE32(x);
    memcpy(p, &x, sizeof x);
}

static inline void kv_store64(void *p, uint64_t x) {
    x = KV_LE64(x);
    memcpy(p, &x, sizeof x);
}

#endif
