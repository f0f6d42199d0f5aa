/* decimal.h - 64-bit integers as decimal text.  Layer: base (a leaf).
 *
 * One form only: "-"? digits, without leading zeros, and no "-0"; so text and number tell each other.
 */
#ifndef KV_BASE_DECIMAL_H
#define KV_BASE_DECIMAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_DECIMAL_SIZE_MAX 20u /* "-9223372036854775808" */

/* False: the text is no such integer, and *value is as it was. */
static inline bool kv_decimal_parse(const void *text, size_t size, int64_t *value) {
    const uint8_t *p = text, *end = p + size;
    if (size == 0 || size > KV_DECIMAL_SIZE_MAX)
        return false;
    bool negative = *p == '-';
    uint64_t n = 0, max = negative ? UINT64_C(1) << 63 : (uint64_t)INT64_MAX;
    p += negative;
    if (p == end || (*p == '0' && size > 1))
        return false;
    for (; p < end; p++) {
        unsigned digit = (unsigned)*p - '0';
        if (digit > 9 || n > (max - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    *value = negative ? (int64_t)(0 - n) : (int64_t)n;
    return true;
}

/* Writes up to KV_DECIMAL_SIZE_MAX bytes, no NUL, and says how many. */
static inline size_t kv_decimal_format(int64_t value, char *text) {
    char reversed[KV_DECIMAL_SIZE_MAX];
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    size_t digits = 0, size = 0;
    do {
        reversed[digits++] = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest > 0);
    if (value < 0)
        text[size++] = '-';
    while (digits > 0)
        text[size++] = reversed[--digits];
    return size;
}

#endif
