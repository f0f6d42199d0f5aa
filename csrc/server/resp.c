/* resp.c - see resp.h.
 *
 * The common request is there as a whole and all its numbers are short: it takes one pass of parse_bulks, where
 * short_number reads the counts.  Everything else (a part of a line, a number of unusual length, whatever is wrong)
 * goes through long_number, which can be resumed.
 */
#include "resp.h"

#include <stdio.h>
#include <string.h>

#include "../base/mem.h"

#define ARGS_FIRST 16u /* room for arguments at first */
#define ARGS_KEPT 256u /* no more is kept from request to request: 4 KB */

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* One call, as its helpers see it. */
typedef struct input {
    kv_resp_parser *parser;
    const kv_resp_limits *limits;
    uint8_t *bytes;
    size_t size;
    size_t wanted;
    const char *error;
} input;

void kv_resp_init(kv_resp_parser *parser) {
    *parser = (kv_resp_parser){.args_left = -1, .bulk_left = -1};
}

void kv_resp_fini(kv_resp_parser *parser) {
    kv_mem_free(parser->args);
    kv_resp_init(parser);
}

static inline bool is_between_requests(const kv_resp_parser *parser) {
    return parser->args_left < 0 && parser->scanned == 0;
}

void kv_resp_trim(kv_resp_parser *parser) {
    if (parser->args_capacity > ARGS_KEPT && is_between_requests(parser))
        kv_resp_fini(parser);
}

static kv_resp_result bad(input *in, const char *error) {
    in->error = error;
    return KV_RESP_BAD;
}

static const char invalid_count[] = "Protocol error: invalid multibulk length";
static const char invalid_length[] = "Protocol error: invalid bulk length";

/* Too many arguments. */
static kv_resp_result bad_count(input *in) {
    return bad(in, in->limits->unauthenticated ? "Protocol error: unauthenticated multibulk length"
                                               : invalid_count);
}

/* Too long an argument. */
static kv_resp_result bad_length(input *in) {
    return bad(in, in->limits->unauthenticated ? "Protocol error: unauthenticated bulk length"
                                               : invalid_length);
}

static kv_resp_result more(input *in, size_t wanted) {
    in->wanted = wanted;
    return KV_RESP_MORE;
}

static bool grow_args(kv_resp_parser *parser) {
    size_t capacity = parser->args_capacity > 0 ? parser->args_capacity * 2 : ARGS_FIRST;
    kv_bytes *args = kv_mem_realloc(parser->args, capacity * sizeof *args);
    if (args == NULL)
        return false;
    parser->args = args;
    parser->args_capacity = capacity;
    return true;
}

/* ---- Numbers ------------------------------------------------------------------------------------ */

/* The whole line of a number of one to eight digits at `p`: what is behind the line, or NULL: long_number decides. */
static inline const uint8_t *short_number(const uint8_t *p, const uint8_t *end, int64_t *number) {
    if (unlikely(end - p < 3))
        return NULL;
    uint32_t n = (uint32_t)p[0] - '0';
    if (unlikely(n > 9))
        return NULL;
    if (likely(p[1] == '\r')) {
        *number = n;
        return p + 3;
    }
    if (unlikely(n == 0))
        return NULL;
    for (p++; end - p >= 3 && n < 10000000; p++) {
        uint32_t digit = (uint32_t)p[0] - '0';
        if (digit > 9)
            return NULL;
        n = n * 10 + digit;
        if (p[1] == '\r') {
            *number = n;
            return p + 3;
        }
    }
    return NULL;
}

/* A decimal number as Redis writes it: no sign but '-', no zeros before it, no space, 64 bits. */
static bool to_number(const uint8_t *p, size_t size, int64_t *number) {
    bool negative = size > 0 && p[0] == '-';
    if (negative)
        p++, size--;
    if (size == 0 || size > 19)
        return false;
    if (p[0] == '0') {
        *number = 0;
        return size == 1 && !negative;
    }
    uint64_t n = 0; /* 19 digits fit */
    for (size_t i = 0; i < size; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(p[i] - '0');
    }
    if (n > (uint64_t)INT64_MAX + negative)
        return false;
    *number = negative ? (int64_t)(0 - n) : (int64_t)n;
    return true;
}

/* Looks for `mark` in the line at hand, where no earlier call has looked: its offset in the line.  -1: it is not
 * there; -2: and the line is too long. */
static int64_t find_in_line(input *in, uint8_t mark) {
    kv_resp_parser *parser = in->parser;
    const uint8_t *line = in->bytes + parser->position;
    size_t size = in->size - parser->position, limit = (size_t)in->limits->inline_max + 1;
    if (size > limit)
        size = limit; /* what is behind the limit may not decide: it may not have come yet */
    const uint8_t *found = size > parser->scanned
                               ? memchr(line + parser->scanned, mark, size - parser->scanned)
                               : NULL;
    if (found != NULL)
        return found - line;
    parser->scanned = size;
    return size == limit ? -2 : -1;
}

/* The number in the line at hand, which begins with '*' or '$'; behind it, the position is that of the next line. */
static kv_resp_result long_number(input *in, int64_t *number, const char *invalid,
                                  const char *too_long) {
    kv_resp_parser *parser = in->parser;
    int64_t length = find_in_line(in, '\r');
    if (length < 0)
        return length == -2 ? bad(in, too_long) : more(in, 1);
    if (in->size - parser->position - (size_t)length < 2) {
        parser->scanned = (size_t)length;
        return more(in, 1);
    }
    if (!to_number(in->bytes + parser->position + 1, (size_t)length - 1, number))
        return bad(in, invalid);
    parser->position += (size_t)length + 2;
    parser->scanned = 0;
    return KV_RESP_REQUEST;
}

/* ---- Arrays of bulk strings ------------------------------------------------------------------------ */

static kv_resp_result bad_mark(input *in, uint8_t got) {
    char *text = in->parser->text;
    snprintf(text, sizeof in->parser->text,
             got >= ' ' && got <= '~' ? "Protocol error: expected '$', got '%c'"
                                      : "Protocol error: expected '$', got '\\x%02x'",
             got);
    return bad(in, text);
}

/* *count: sets args_left. */
static kv_resp_result parse_count(input *in) {
    kv_resp_parser *parser = in->parser;
    int64_t count;
    const uint8_t *next =
        parser->scanned == 0 ? short_number(in->bytes + 1, in->bytes + in->size, &count) : NULL;
    if (likely(next != NULL)) {
        parser->position = (size_t)(next - in->bytes);
    } else {
        kv_resp_result result =
            long_number(in, &count, invalid_count, "Protocol error: too big mbulk count string");
        if (result != KV_RESP_REQUEST)
            return result;
    }
    if (unlikely(count > (int64_t)in->limits->args_max))
        return bad_count(in);
    parser->args_left = count > 0 ? count : 0;
    return KV_RESP_REQUEST;
}

/* $length in unusual form.  Sets `*length` when it is there. */
static kv_resp_result parse_length(input *in, int64_t *length) {
    int64_t number;
    kv_resp_result result =
        long_number(in, &number, invalid_length, "Protocol error: too big bulk count string");
    if (result != KV_RESP_REQUEST)
        return result;
    if (number < 0)
        return bad(in, invalid_length);
    if ((uint64_t)number > in->limits->bulk_max)
        return bad_length(in);
    *length = number;
    return KV_RESP_REQUEST;
}

/* Arguments, as far as they have come.  Those that this call finds are pointers. */
static kv_resp_result find_bulks(input *in) {
    kv_resp_parser *parser = in->parser;
    const uint8_t *p = in->bytes + parser->position, *end = in->bytes + in->size;
    const uint64_t bulk_max = in->limits->bulk_max;
    size_t count = parser->args_count;
    int64_t left = parser->args_left, length = parser->bulk_left;
    kv_resp_result result = KV_RESP_REQUEST;
    for (; left > 0; left--, length = -1) {
        if (likely(length < 0)) {
            if (p == end) {
                result = more(in, 1);
                break;
            }
            if (unlikely(*p != '$')) {
                result = bad_mark(in, *p);
                break;
            }
            const uint8_t *next = parser->scanned == 0 ? short_number(p + 1, end, &length) : NULL;
            if (likely(next != NULL && (uint64_t)length <= bulk_max)) {
                p = next;
            } else {
                parser->position = (size_t)(p - in->bytes);
                length = -1;
                result = parse_length(in, &length);
                p = in->bytes + parser->position;
                if (result != KV_RESP_REQUEST)
                    break;
            }
        }
        size_t come = (size_t)(end - p);
        if (unlikely(come < 2 || come - 2 < (uint64_t)length)) {
            result = more(in, (size_t)((uint64_t)length + 2 - come));
            break;
        }
        if (unlikely(count == parser->args_capacity) && !grow_args(parser)) {
            result = KV_RESP_NOMEM;
            break;
        }
        parser->args[count++] = (kv_bytes){p, (size_t)length};
        p += length + 2;
    }
    parser->position = (size_t)(p - in->bytes);
    parser->args_count = count;
    parser->args_left = left;
    parser->bulk_left = length;
    return result;
}

static kv_resp_result parse_bulks(input *in) {
    kv_resp_parser *parser = in->parser;
    size_t known = parser->args_count; /* by offsets, from earlier calls */
    kv_resp_result result = find_bulks(in);
    if (likely(result == KV_RESP_REQUEST)) {
        for (size_t i = 0; i < known; i++)
            parser->args[i].data = in->bytes + (uintptr_t)parser->args[i].data;
    } else {
        for (size_t i = known; i < parser->args_count; i++) {
            size_t offset = (size_t)((const uint8_t *)parser->args[i].data - in->bytes);
            parser->args[i].data = (const void *)(uintptr_t)offset;
        }
    }
    return result;
}

/* ---- Inline requests ----------------------------------------------------------------------------- */

static bool is_space(uint8_t c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that the escape at `*p` (behind its backslash, inside "...") stands for; moves `*p` behind it. */
static uint8_t unescape(uint8_t **p, const uint8_t *end) {
    uint8_t c = *(*p)++;
    switch (c) {
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case 'b':
        return '\b';
    case 'a':
        return '\a';
    case 'x':
        if (end - *p >= 2 && hex_digit((*p)[0]) >= 0 && hex_digit((*p)[1]) >= 0) {
            c = (uint8_t)(hex_digit((*p)[0]) << 4 | hex_digit((*p)[1]));
            *p += 2;
        }
        return c;
    default:
        return c;
    }
}

/* Copies the quoted part at `*p` (behind its opening quote) to `*to`, which is not behind it; moves both.  False: it
 * has no end, or something stands right behind it. */
static bool unquote(uint8_t **p, const uint8_t *end, uint8_t quote, uint8_t **to) {
    while (*p < end) {
        uint8_t c = *(*p)++;
        if (c == quote)
            return *p == end || is_space(**p);
        if (c == '\\' && *p < end && (quote == '"' || **p == quote))
            c = quote == '"' ? unescape(p, end) : *(*p)++;
        *(*to)++ = c;
    }
    return false;
}

/* Finds the words from `p` to `end`. */
static kv_resp_result split_words(input *in, uint8_t *p, uint8_t *end) {
    kv_resp_parser *parser = in->parser;
    for (;;) {
        while (p < end && is_space(*p))
            p++;
        if (p == end)
            return KV_RESP_REQUEST;
        uint8_t *word = p, *to = p;
        bool quoted = false;
        while (p < end && !quoted && *p != ' ' && *p != '\t' && *p != '\r' && *p != '\n') {
            uint8_t c = *p++;
            quoted = c == '"' || c == '\'';
            if (!quoted)
                *to++ = c;
            else if (!unquote(&p, end, c, &to))
                return bad(in, "Protocol error: unbalanced quotes in request");
        }
        if (parser->args_count >= in->limits->args_max)
            return bad_count(in);
        if ((size_t)(to - word) > in->limits->bulk_max)
            return bad_length(in);
        parser->args[parser->args_count++] = (kv_bytes){word, (size_t)(to - word)};
    }
}

static kv_resp_result parse_inline(input *in) {
    kv_resp_parser *parser = in->parser;
    int64_t length = find_in_line(in, '\n');
    if (length < 0)
        return length == -2 ? bad(in, "Protocol error: too big inline request") : more(in, 1);
    /* Room for all words first: once the line is being changed, there is no way back. */
    size_t words_max = (size_t)length / 2 + 1;
    if (words_max > in->limits->args_max)
        words_max = in->limits->args_max;
    while (parser->args_capacity < words_max)
        if (!grow_args(parser))
            return KV_RESP_NOMEM;
    uint8_t *end = in->bytes + length;
    uint8_t *zero = memchr(in->bytes, 0, (size_t)length);
    if (zero != NULL)
        end = zero; /* as in Redis, which takes the line for a C string */
    else if (length > 0 && end[-1] == '\r')
        end--;
    parser->position = (size_t)length + 1;
    return split_words(in, in->bytes, end);
}

/* ---- One request ----------------------------------------------------------------------------------- */

static inline kv_resp_result parse(input *in) {
    kv_resp_parser *parser = in->parser;
    if (parser->args_left < 0) {
        if (unlikely(parser->args_capacity > ARGS_KEPT))
            kv_resp_trim(parser);
        if (unlikely(in->size == 0))
            return more(in, 1);
        if (unlikely(in->bytes[0] != '*'))
            return parse_inline(in);
        kv_resp_result result = parse_count(in);
        if (unlikely(result != KV_RESP_REQUEST))
            return result;
    }
    return parse_bulks(in);
}

kv_resp_result kv_resp_parse(kv_resp_parser *parser, const kv_resp_limits *limits, uint8_t *bytes,
                             size_t size, const kv_bytes **argv, size_t *argc, size_t *used,
                             size_t *wanted, const char **error) {
    input in = {.parser = parser, .limits = limits, .bytes = bytes, .size = size};
    kv_resp_result result = parse(&in);
    if (likely(result == KV_RESP_REQUEST)) {
        *argv = parser->args;
        *argc = parser->args_count;
        *used = parser->position;
        parser->args_count = 0;
        parser->args_left = parser->bulk_left = -1;
        parser->position = parser->scanned = 0;
    } else if (result == KV_RESP_MORE) {
        *wanted = in.wanted;
    } else if (result == KV_RESP_BAD) {
        *error = in.error;
    }
    return result;
}
