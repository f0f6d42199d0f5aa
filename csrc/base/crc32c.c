/* crc32c.c - see crc32c.h.  Layer: base (a leaf).
 *
 * Three ways to the same number:
 *   portable  eight bytes a step through eight tables ("slicing by 8")
 *   x86-64    the crc32 instruction of SSE4.2, in three lanes; PCLMULQDQ joins the lanes
 *   ARMv8     the crc32c instructions
 * The instructions are enabled for single functions, so that the file compiles for any processor
 * of its kind, and used only after the processor has said that it has them.
 *
 * A byte's lowest bit is the highest power of x ("reflected"): in a 32-bit remainder bit 31 is x^0.
 * Inside, `crc` is the bare remainder; the inversions before and after it are in the two public
 * functions.
 */
#include "crc32c.h"

#include <stdatomic.h>
#include <stdbool.h>

#include "bytes.h"

typedef uint32_t (*crc_function)(uint32_t crc, const uint8_t *p, size_t size);

static crc_function crc_best(void);

uint32_t kv_crc32c(uint32_t crc, const void *data, size_t size) {
    static _Atomic(crc_function) chosen;
    /* Relaxed: a function's address publishes nothing but itself, and every thread that finds
     * none chooses the same one. */
    crc_function function = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (function == NULL) {
        function = crc_best();
        atomic_store_explicit(&chosen, function, memory_order_relaxed);
    }
    return ~function(~crc, data, size);
}

/* ---- Portable -------------------------------------------------------------------------------
 *
 * table[k][b] is the remainder of the byte b followed by k zero bytes.  The remainder of a sum is
 * the sum of the remainders, so the eight bytes with one bit set determine a table; the compiler
 * works out the other 248. */

#define COMBINE(b, r0, r1, r2, r3, r4, r5, r6, r7)                                               \
    (((b) & 1 ? r0 : 0u) ^ ((b) & 2 ? r1 : 0u) ^ ((b) & 4 ? r2 : 0u) ^ ((b) & 8 ? r3 : 0u) ^     \
     ((b) & 16 ? r4 : 0u) ^ ((b) & 32 ? r5 : 0u) ^ ((b) & 64 ? r6 : 0u) ^ ((b) & 128 ? r7 : 0u))
#define ENTRIES_4(b, ...)                                                                        \
    COMBINE(b, __VA_ARGS__), COMBINE(b + 1, __VA_ARGS__), COMBINE(b + 2, __VA_ARGS__),           \
        COMBINE(b + 3, __VA_ARGS__)
#define ENTRIES_16(b, ...)                                                                       \
    ENTRIES_4(b, __VA_ARGS__), ENTRIES_4(b + 4, __VA_ARGS__), ENTRIES_4(b + 8, __VA_ARGS__),     \
        ENTRIES_4(b + 12, __VA_ARGS__)
#define ENTRIES_64(b, ...)                                                                       \
    ENTRIES_16(b, __VA_ARGS__), ENTRIES_16(b + 16, __VA_ARGS__),                                 \
        ENTRIES_16(b + 32, __VA_ARGS__), ENTRIES_16(b + 48, __VA_ARGS__)
#define TABLE(...)                                                                               \
    {ENTRIES_64(0, __VA_ARGS__), ENTRIES_64(64, __VA_ARGS__), ENTRIES_64(128, __VA_ARGS__),      \
     ENTRIES_64(192, __VA_ARGS__)}

/* Row k, column i: the remainder of the byte 1 << i followed by k zero bytes. */
static const uint32_t table[8][256] = {
    TABLE(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc,
          0x82f63b78),
    TABLE(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604,
          0xfbc3faf9),
    TABLE(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9,
          0x8b277743),
    TABLE(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7,
          0x52a0c93f),
    TABLE(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae,
          0x6ea2d55c),
    TABLE(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb,
          0x1c08b7d6),
    TABLE(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a,
          0xf56e0ef4),
    TABLE(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32,
          0x34019664),
};

static uint32_t crc_portable(uint32_t crc, const uint8_t *p, size_t size) {
    for (; size >= 8; size -= 8, p += 8) {
        uint64_t x = kv_load64(p) ^ crc;
        crc = table[7][x & 0xff] ^ table[6][x >> 8 & 0xff] ^ table[5][x >> 16 & 0xff] ^
              table[4][x >> 24 & 0xff] ^ table[3][x >> 32 & 0xff] ^ table[2][x >> 40 & 0xff] ^
              table[1][x >> 48 & 0xff] ^ table[0][x >> 56];
    }
    for (; size > 0; size--, p++)
        crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
    return crc;
}

uint32_t kv_crc32c_portable(uint32_t crc, const void *data, size_t size) {
    return ~crc_portable(~crc, data, size);
}

/* ---- x86-64 ---------------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)

#include <nmmintrin.h>
#include <wmmintrin.h>

#define CRC_X86 1
#define TARGET_X86 __attribute__((target("sse4.2,pclmul")))

static bool x86_has_crc(void) {
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

/* The remainder of what `crc` is the remainder of, followed by n zero bytes: crc * x^(8n).
 * `factor` is x^(8n - 33).  The product of two reflected 32-bit numbers stands one bit too low in
 * 64 bits (a factor of x), and crc32 of 64 bits multiplies by x^32 while it reduces. */
TARGET_X86 static inline uint64_t x86_shift(uint64_t crc, uint32_t factor) {
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)crc),
                                           _mm_cvtsi64_si128((int64_t)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three lanes of `lane` bytes: the instruction takes 3 cycles and one can start in each. */
TARGET_X86 static inline uint64_t x86_lanes(uint64_t crc, const uint8_t *p, size_t lane,
                                            uint32_t factor_1, uint32_t factor_2) {
    uint64_t a = crc, b = 0, c = 0;
    for (const uint8_t *end = p + lane; p < end; p += 8) {
        a = _mm_crc32_u64(a, kv_load64(p));
        b = _mm_crc32_u64(b, kv_load64(p + lane));
        c = _mm_crc32_u64(c, kv_load64(p + 2 * lane));
    }
    return x86_shift(a, factor_2) ^ x86_shift(b, factor_1) ^ c;
}

/* Joining costs about 15 cycles: 128 bytes a lane are the least that repay it, 1024 make it
 * negligible.  Factors: x^(8 * lane - 33) and x^(16 * lane - 33). */
#define LANE_SHORT 128
#define LANE_LONG 1024

TARGET_X86 static uint32_t crc_x86(uint32_t crc, const uint8_t *p, size_t size) {
    uint64_t c = crc;
    for (; size >= 3 * LANE_LONG; size -= 3 * LANE_LONG, p += 3 * LANE_LONG)
        c = x86_lanes(c, p, LANE_LONG, 0x170076fa, 0xa51b6135);
    for (; size >= 3 * LANE_SHORT; size -= 3 * LANE_SHORT, p += 3 * LANE_SHORT)
        c = x86_lanes(c, p, LANE_SHORT, 0x0d3b6092, 0xb9e02b86);
    for (; size >= 8; size -= 8, p += 8)
        c = _mm_crc32_u64(c, kv_load64(p));
    for (; size > 0; size--, p++)
        c = _mm_crc32_u8((uint32_t)c, *p);
    return (uint32_t)c;
}

#endif

/* ---- ARMv8 ----------------------------------------------------------------------------------- */

#if defined(__aarch64__) && defined(__GNUC__)

/* The intrinsics of <arm_acle.h> are hidden, with some compilers, unless the whole file is compiled
 * for the extension; the builtins behind them only ask it of the function. */
#if defined(__clang__)
#define TARGET_ARM __attribute__((target("crc")))
#define ARM_CRC_8(crc, x) __builtin_arm_crc32cb(crc, x)
#define ARM_CRC_64(crc, x) __builtin_arm_crc32cd(crc, x)
#else
#define TARGET_ARM __attribute__((target("+crc")))
#define ARM_CRC_8(crc, x) __builtin_aarch64_crc32cb(crc, x)
#define ARM_CRC_64(crc, x) __builtin_aarch64_crc32cx(crc, x)
#endif
#define CRC_ARM 1

#if defined(__linux__)
#include <sys/auxv.h>
static bool arm_has_crc(void) {
    return getauxval(AT_HWCAP) & 1ul << 7; /* HWCAP_CRC32 */
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static bool arm_has_crc(void) {
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.armv8_crc32", &has, &size, NULL, 0) == 0 && has;
}
#else
static bool arm_has_crc(void) {
#if defined(__ARM_FEATURE_CRC32)
    return true; /* the compiler may use them anyway */
#else
    return false;
#endif
}
#endif

TARGET_ARM static uint32_t crc_arm(uint32_t crc, const uint8_t *p, size_t size) {
    for (; size >= 8; size -= 8, p += 8)
        crc = ARM_CRC_64(crc, kv_load64(p));
    for (; size > 0; size--, p++)
        crc = ARM_CRC_8(crc, *p);
    return crc;
}

#endif

static crc_function crc_best(void) {
#if defined(CRC_X86)
    if (x86_has_crc())
        return crc_x86;
#elif defined(CRC_ARM)
    if (arm_has_crc())
        return crc_arm;
#endif
    return crc_portable;
}
