/* glob.c - see glob.h.
 *
 * Only the last `*` ever needs to take more: whatever an earlier one could take, the part of the pattern behind it
 * would match no sooner.  So one place to go back to is enough.
 */
#include "glob.h"

static inline uint8_t fold(uint8_t c, bool nocase) {
    return nocase && c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

/* Does `c` match the class at `*p` (behind its '[')?  Moves `*p` behind the class. */
static bool match_class(const uint8_t **p, const uint8_t *end, uint8_t c, bool nocase) {
    const uint8_t *q = *p;
    bool inverted = q < end && *q == '^', found = false;
    c = fold(c, nocase);
    for (q += inverted; q < end && *q != ']'; q++) {
        uint8_t low = *q;
        uint8_t high = low;
        if (low == '\\' && end - q >= 2) {
            low = high = *++q;
        } else if (end - q >= 3 && q[1] == '-') {
            high = q[2];
            q += 2;
        }
        low = fold(low, nocase);
        high = fold(high, nocase);
        found |= low <= high ? low <= c && c <= high : high <= c && c <= low;
    }
    *p = q < end ? q + 1 : end;
    return found != inverted;
}

/* Does `c` match the one-byte element at `*p` (not a '*')?  Moves `*p` behind it. */
static bool match_one(const uint8_t **p, const uint8_t *end, uint8_t c, bool nocase) {
    uint8_t element = *(*p)++;
    switch (element) {
    case '?':
        return true;
    case '[':
        return match_class(p, end, c, nocase);
    case '\\':
        if (*p < end)
            element = *(*p)++;
        break;
    }
    return fold(element, nocase) == fold(c, nocase);
}

bool kv_glob_match(kv_bytes pattern, kv_bytes text, bool nocase) {
    static const uint8_t none;
    const uint8_t *p = pattern.size > 0 ? pattern.data : &none, *p_end = p + pattern.size;
    const uint8_t *t = text.size > 0 ? text.data : &none, *t_end = t + text.size;
    const uint8_t *star = NULL; /* behind the last '*'; NULL: there was none */
    const uint8_t *taken = t;   /* it takes the text up to here */
    while (t < t_end) {
        if (p < p_end && *p == '*') {
            star = ++p;
            taken = t;
            if (star == p_end)
                return true;
        } else if (p < p_end && match_one(&p, p_end, *t, nocase)) {
            t++;
        } else if (star != NULL) {
            p = star;
            t = ++taken;
        } else {
            return false;
        }
    }
    while (p < p_end && *p == '*')
        p++;
    return p == p_end;
}
