/* reply.c - see reply.h.
 *
 * A chunk is a pinned value, or none, and then bytes.  So a large value costs a small chunk, whose bytes take the
 * end of its bulk string and what follows.  Only the last chunk is written to; how much of it is used says `next`.
 */
#include "reply.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../base/mem.h"

struct kv_reply_chunk {
    kv_reply_chunk *next;
    uint64_t position; /* of its first byte */
    kv_item item;      /* item.value stands before `bytes`; item.pin NULL: none, and its size is 0 */
    size_t used;       /* of `bytes`; of the last chunk: see bytes_used */
    size_t capacity;
    uint8_t bytes[];
};

#define CHUNK_CAPACITY (16384u - sizeof(kv_reply_chunk) - 16u) /* with malloc's own word: 16 KB */
#define CHUNK_CAPACITY_MAX (1u << 20)                          /* for long copies */
#define PIN_CAPACITY (512u - sizeof(kv_reply_chunk) - 16u)     /* behind a pinned value */
#define TEXT_MAX 512u                                          /* of kv_reply_errorf */
#define NUMBER_MAX 32u                                         /* mark, sign, 20 digits, end of line */

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

static size_t chunk_memory(const kv_reply_chunk *c) {
    return sizeof *c + c->capacity + c->item.value.size;
}

/* Bytes in `bytes`. */
static size_t bytes_used(const kv_reply *r, const kv_reply_chunk *c) {
    return c == r->last ? (size_t)(r->next - c->bytes) : c->used;
}

/* ---- Chunks ------------------------------------------------------------------------------------------ */

static kv_reply_chunk *create_chunk(kv_reply *r, size_t capacity) {
    bool fits = !kv_reply_is_full(r);
    kv_reply_chunk *c = fits ? kv_mem_alloc(sizeof *c + capacity) : NULL;
    if (c == NULL) {
        r->broken = true;
        r->room = 0;
        return NULL;
    }
    *c = (kv_reply_chunk){.capacity = capacity};
    r->memory_bytes += chunk_memory(c);
    return c;
}

/* Keeps it as the spare one, or frees it. */
static void destroy_chunk(kv_reply *r, kv_reply_chunk *c) {
    r->memory_bytes -= c->item.value.size;
    if (c->item.pin != NULL)
        kv_item_release(&c->item);
    c->item = (kv_item){0};
    c->next = NULL;
    c->used = 0;
    if (r->spare == NULL && c->capacity == CHUNK_CAPACITY) {
        r->spare = c;
        return;
    }
    r->memory_bytes -= chunk_memory(c);
    kv_mem_free(c);
}

static void destroy_chunks(kv_reply *r, kv_reply_chunk *c) {
    while (c != NULL) {
        kv_reply_chunk *next = c->next;
        destroy_chunk(r, c);
        c = next;
    }
}

/* The last chunk is one like the others, until `reopen`. */
static void seal(kv_reply *r) {
    if (r->last != NULL)
        r->last->used = (size_t)(r->next - r->last->bytes);
}

/* `last` (NULL: the queue is empty) is written to from here on. */
static void reopen(kv_reply *r, kv_reply_chunk *last) {
    r->last = last;
    r->next = last != NULL ? last->bytes + last->used : NULL;
    r->room = last != NULL && !r->broken ? last->capacity - last->used : 0;
    if (last == NULL)
        r->first = NULL;
}

static void append_chunk(kv_reply *r, kv_reply_chunk *c) {
    seal(r);
    c->position = r->end;
    if (r->last != NULL)
        r->last->next = c;
    else
        r->first = c;
    reopen(r, c);
}

void kv_reply_init(kv_reply *r) {
    *r = (kv_reply){.protocol = 2};
}

void kv_reply_fini(kv_reply *r) {
    destroy_chunks(r, r->first);
    r->first = NULL;
    reopen(r, NULL);
    kv_reply_trim(r);
}

void kv_reply_trim(kv_reply *r) {
    if (r->spare == NULL)
        return;
    r->memory_bytes -= chunk_memory(r->spare);
    kv_mem_free(r->spare);
    r->spare = NULL;
}

/* ---- Bytes ---------------------------------------------------------------------------------------------- */

/* One more chunk to write to, of the ordinary size or of a larger one.  False: no memory. */
static bool add_chunk(kv_reply *r, size_t capacity) {
    kv_reply_chunk *c = r->spare;
    if (c != NULL && capacity == CHUNK_CAPACITY)
        r->spare = NULL;
    else if ((c = create_chunk(r, capacity)) == NULL)
        return false;
    append_chunk(r, c);
    return true;
}

static __attribute__((noinline)) uint8_t *reserve_chunk(kv_reply *r) {
    return !r->muted && !r->broken && add_chunk(r, CHUNK_CAPACITY) ? r->next : NULL;
}

/* Room for so many bytes (less than a chunk); `commit` says how many were written.  NULL: nothing is to be written. */
static inline uint8_t *reserve(kv_reply *r, size_t size) {
    return likely(size <= r->room && !r->muted) ? r->next : reserve_chunk(r);
}

static inline void commit(kv_reply *r, size_t size) {
    r->next += size;
    r->room -= size;
    r->end += size;
}

static inline void put_short(kv_reply *r, const void *bytes, size_t size) {
    uint8_t *p = reserve(r, size);
    if (unlikely(p == NULL))
        return;
    memcpy(p, bytes, size);
    commit(r, size);
}

#define PUT(r, literal) put_short(r, literal, sizeof(literal) - 1)

/* As much as fits, then further chunks. */
static __attribute__((noinline)) void put_long(kv_reply *r, const uint8_t *bytes, size_t size) {
    if (r->muted || r->broken)
        return;
    for (;;) {
        size_t part = size < r->room ? size : r->room;
        if (part > 0) {
            memcpy(r->next, bytes, part);
            commit(r, part);
            bytes += part;
            size -= part;
        }
        if (size == 0)
            return;
        size_t capacity = size < CHUNK_CAPACITY_MAX ? size : CHUNK_CAPACITY_MAX;
        if (!add_chunk(r, capacity > CHUNK_CAPACITY ? capacity : CHUNK_CAPACITY))
            return;
    }
}

void kv_reply_raw(kv_reply *r, const void *bytes, size_t size) {
    if (unlikely(size > r->room || r->muted)) {
        put_long(r, bytes, size);
    } else if (size > 0) {
        memcpy(r->next, bytes, size);
        commit(r, size);
    }
}

/* ---- Numbers --------------------------------------------------------------------------------------------- */

static const char digit_pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536"
                                  "37383940414243444546474849505152535455565758596061626364656667686970717273"
                                  "7475767778798081828384858687888990919293949596979899";

/* How many decimal digits. */
static inline unsigned count_digits(uint64_t n) {
    unsigned count = 1;
    for (; n >= 10000; n /= 10000)
        count += 4;
    return count + (n >= 10) + (n >= 100) + (n >= 1000);
}

/* Returns what is behind the number. */
static inline uint8_t *write_unsigned(uint8_t *p, uint64_t n) {
    if (n < 10) {
        *p = (uint8_t)('0' + n);
        return p + 1;
    }
    uint8_t *end = p + count_digits(n);
    for (p = end; n >= 100; n /= 100)
        memcpy(p -= 2, digit_pairs + n % 100 * 2, 2);
    if (n >= 10)
        memcpy(p - 2, digit_pairs + n * 2, 2);
    else
        p[-1] = (uint8_t)('0' + n);
    return end;
}

static inline uint8_t *write_integer(uint8_t *p, int64_t value) {
    if (value >= 0)
        return write_unsigned(p, (uint64_t)value);
    *p = '-';
    return write_unsigned(p + 1, 0 - (uint64_t)value);
}

static inline uint8_t *write_line(uint8_t *p, char mark, uint64_t n) {
    *p = (uint8_t)mark;
    p = write_unsigned(p + 1, n);
    memcpy(p, "\r\n", 2);
    return p + 2;
}

static inline void put_line(kv_reply *r, char mark, uint64_t n) {
    uint8_t *p = reserve(r, NUMBER_MAX);
    if (likely(p != NULL))
        commit(r, (size_t)(write_line(p, mark, n) - p));
}

void kv_reply_integer(kv_reply *r, int64_t value) {
    uint8_t *p = reserve(r, NUMBER_MAX);
    if (unlikely(p == NULL))
        return;
    p[0] = ':';
    uint8_t *q = write_integer(p + 1, value);
    memcpy(q, "\r\n", 2);
    commit(r, (size_t)(q + 2 - p));
}

void kv_reply_bulk_integer(kv_reply *r, int64_t value) {
    uint8_t digits[NUMBER_MAX];
    kv_reply_bulk(r, digits, (size_t)(write_integer(digits, value) - digits));
}

void kv_reply_double(kv_reply *r, double value) {
    char text[40];
    int size;
    if (isnan(value)) {
        size = snprintf(text, sizeof text, "nan"); /* without the sign that printf may give it */
    } else {
        size = snprintf(text, sizeof text, "%.17g", value);
        /* The locale may have another decimal point, of more than one byte. */
        char *to = text;
        for (const char *p = text; *p != '\0'; p++)
            if ((*p & 0x80) == 0)
                *to++ = *p == ',' ? '.' : *p;
            else if (to == text || to[-1] != '.')
                *to++ = '.';
        *to = '\0';
        size = (int)(to - text);
    }
    if (r->protocol == 2) {
        kv_reply_bulk(r, text, (size_t)size);
        return;
    }
    char line[48];
    size = snprintf(line, sizeof line, ",%s\r\n", text);
    put_short(r, line, (size_t)size);
}

void kv_reply_bool(kv_reply *r, bool value) {
    if (r->protocol == 2)
        kv_reply_integer(r, value);
    else if (value)
        PUT(r, "#t\r\n");
    else
        PUT(r, "#f\r\n");
}

/* ---- Lines ------------------------------------------------------------------------------------------------ */

void kv_reply_ok(kv_reply *r) {
    PUT(r, "+OK\r\n");
}

/* A line that nothing in the text can end early. */
static void put_text(kv_reply *r, char mark, const char *text, size_t size) {
    kv_reply_raw(r, &mark, 1);
    for (size_t i = 0; i < size;) {
        size_t clean = 0;
        while (i + clean < size && text[i + clean] != '\r' && text[i + clean] != '\n' &&
               text[i + clean] != '\0')
            clean++;
        kv_reply_raw(r, text + i, clean);
        i += clean;
        if (i < size)
            kv_reply_raw(r, " ", 1), i++;
    }
    PUT(r, "\r\n");
}

void kv_reply_status(kv_reply *r, const char *text) {
    put_text(r, '+', text, strlen(text));
}

void kv_reply_error(kv_reply *r, const char *text) {
    put_text(r, '-', text, strlen(text));
}

void kv_reply_errorf(kv_reply *r, const char *format, ...) {
    char text[TEXT_MAX];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (size < 0)
        kv_reply_error(r, "ERR internal error");
    else
        put_text(r, '-', text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

void kv_reply_null(kv_reply *r) {
    if (r->protocol == 2)
        PUT(r, "$-1\r\n");
    else
        PUT(r, "_\r\n");
}

void kv_reply_null_array(kv_reply *r) {
    if (r->protocol == 2)
        PUT(r, "*-1\r\n");
    else
        PUT(r, "_\r\n");
}

void kv_reply_array(kv_reply *r, size_t count) {
    put_line(r, '*', count);
}

void kv_reply_map(kv_reply *r, size_t pairs) {
    if (r->protocol == 2)
        put_line(r, '*', pairs * 2);
    else
        put_line(r, '%', pairs);
}

void kv_reply_set(kv_reply *r, size_t count) {
    put_line(r, r->protocol == 2 ? '*' : '~', count);
}

void kv_reply_push(kv_reply *r, size_t count) {
    put_line(r, r->protocol == 2 ? '*' : '>', count);
}

/* ---- Bulk strings ------------------------------------------------------------------------------------------- */

void kv_reply_bulk(kv_reply *r, const void *bytes, size_t size) {
    if (unlikely(size > r->room || r->room - size < NUMBER_MAX || r->muted)) {
        put_line(r, '$', size);
        kv_reply_raw(r, bytes, size);
        PUT(r, "\r\n");
        return;
    }
    uint8_t *p = write_line(r->next, '$', size);
    if (size > 0)
        memcpy(p, bytes, size);
    p += size;
    memcpy(p, "\r\n", 2);
    commit(r, (size_t)(p + 2 - r->next));
}

void kv_reply_bulk_text(kv_reply *r, const char *text) {
    kv_reply_bulk(r, text, strlen(text));
}

static void put_pin(kv_reply *r, const kv_item *item) {
    if (r->muted || r->broken)
        return;
    kv_reply_chunk *c = create_chunk(r, PIN_CAPACITY);
    if (c == NULL)
        return;
    kv_item_copy(item, &c->item);
    r->memory_bytes += c->item.value.size;
    append_chunk(r, c);
    r->end += c->item.value.size;
}

void kv_reply_value(kv_reply *r, const kv_item *item) {
    if (item->value.size < KV_REPLY_PIN_MIN || item->pin == NULL) {
        kv_reply_bulk(r, item->value.data, item->value.size);
        return;
    }
    put_line(r, '$', item->value.size);
    put_pin(r, item);
    PUT(r, "\r\n");
}

void kv_reply_verbatim(kv_reply *r, const char *kind, const void *bytes, size_t size) {
    if (r->protocol == 2) {
        kv_reply_bulk(r, bytes, size);
        return;
    }
    put_line(r, '=', size + 4);
    put_short(r, kind, 3);
    PUT(r, ":");
    kv_reply_raw(r, bytes, size);
    PUT(r, "\r\n");
}

/* ---- Taking back ------------------------------------------------------------------------------------------------ */

/* All chunks are sealed.  Puts a border between two chunks at `position`: the pointer to the chunk that begins
 * there, which is NULL at the end.  Without memory: NULL, and nothing is changed but that the queue is broken. */
static kv_reply_chunk **split(kv_reply *r, uint64_t position) {
    kv_reply_chunk **link = &r->first, *c;
    while ((c = *link) != NULL && position >= c->position + c->item.value.size + c->used)
        link = &c->next;
    if (c == NULL || position == c->position)
        return link;
    uint64_t offset = position - c->position;
    bool in_pin = offset < c->item.value.size;
    size_t keep = in_pin ? 0 : (size_t)(offset - c->item.value.size); /* of the bytes */
    /* With room: most often there is more to be replaced in it. */
    kv_reply_chunk *tail = create_chunk(r, (c->used - keep) * 2 + PIN_CAPACITY);
    if (tail == NULL)
        return NULL;
    memcpy(tail->bytes, c->bytes + keep, c->used - keep);
    tail->used = c->used - keep;
    tail->position = position;
    tail->next = c->next;
    if (in_pin) { /* both halves hold the entry */
        kv_item_copy(&c->item, &tail->item);
        tail->item.value.data = (const uint8_t *)c->item.value.data + offset;
        tail->item.value.size -= (size_t)offset;
        c->item.value.size = (size_t)offset;
    }
    c->used = keep;
    c->next = tail;
    return &c->next;
}

/* Ends the queue at `position`. */
static void end_at(kv_reply *r, uint64_t position) {
    kv_reply_chunk **link = &r->first, *c, *last = NULL;
    while ((c = *link) != NULL && c->position < position) {
        last = c;
        link = &c->next;
    }
    destroy_chunks(r, c);
    *link = NULL;
    if (last != NULL) {
        uint64_t offset = position - last->position;
        size_t pinned = last->item.value.size;
        if (offset < pinned) {
            r->memory_bytes -= pinned - (size_t)offset;
            last->item.value.size = (size_t)offset;
            last->used = 0;
        } else {
            last->used = (size_t)offset - pinned;
        }
    }
    r->end = position;
    reopen(r, last);
}

void kv_reply_cut(kv_reply *r, uint64_t position) {
    assert(position >= r->start);
    if (position >= r->end)
        return;
    kv_reply_chunk *last = r->last;
    if (likely(position > last->position + last->item.value.size)) {
        size_t back = (size_t)(r->end - position);
        r->next -= back;
        r->room += r->broken ? 0 : back;
        r->end = position;
        return;
    }
    seal(r);
    end_at(r, position);
}

/* All chunks are sealed: the bytes from `from` to `to` are in the bytes of one chunk, which has room for the new
 * ones. */
static bool replace_inside(kv_reply *r, uint64_t from, uint64_t to, const void *bytes,
                           size_t size) {
    kv_reply_chunk *c = r->first;
    while (c != NULL && from >= c->position + c->item.value.size + c->used)
        c = c->next;
    if (c == NULL || from < c->position + c->item.value.size)
        return false;
    size_t first = (size_t)(from - c->position - c->item.value.size), gone = (size_t)(to - from);
    if (c->used - first < gone || c->capacity - (c->used - gone) < size)
        return false;
    if (c->used - gone + size == 0)
        return false; /* it would be empty */
    uint8_t *at = c->bytes + first;
    memmove(at + size, at + gone, c->used - first - gone);
    if (size > 0)
        memcpy(at, bytes, size);
    c->used += size - gone;
    for (c = c->next; c != NULL; c = c->next)
        c->position += size - gone;
    return true;
}

/* All chunks are sealed: the same in general.  False: no memory. */
static bool replace_chunks(kv_reply *r, uint64_t from, uint64_t to, const void *bytes,
                           size_t size) {
    kv_reply_chunk *fresh = NULL;
    if (size > 0) {
        fresh = create_chunk(r, size);
        if (fresh == NULL)
            return false;
        memcpy(fresh->bytes, bytes, size);
        fresh->used = size;
        fresh->position = from;
    }
    kv_reply_chunk **behind = split(r, to), **link = behind != NULL ? split(r, from) : NULL;
    if (link == NULL) {
        if (fresh != NULL)
            destroy_chunk(r, fresh);
        return false;
    }
    kv_reply_chunk *c = *link;
    while (c != NULL && c->position < to) {
        kv_reply_chunk *next = c->next;
        destroy_chunk(r, c);
        c = next;
    }
    if (fresh != NULL) {
        *link = fresh;
        link = &fresh->next;
    }
    *link = c;
    for (; c != NULL; c = c->next)
        c->position += size - (to - from);
    return true;
}

int64_t kv_reply_replace(kv_reply *r, uint64_t from, uint64_t to, const void *bytes, size_t size) {
    assert(r->start <= from && from <= to && to <= r->end);
    int64_t moved = (int64_t)(size - (to - from));
    seal(r);
    if (!replace_inside(r, from, to, bytes, size) && !replace_chunks(r, from, to, bytes, size)) {
        moved = (int64_t)(from - r->end);
        end_at(r, from);
        return moved;
    }
    kv_reply_chunk *last = r->first;
    while (last != NULL && last->next != NULL)
        last = last->next;
    r->end += (uint64_t)moved;
    reopen(r, last);
    return moved;
}

/* ---- Sending ----------------------------------------------------------------------------------------- */

/* Adds a piece that stands at `position`, as far as it is not sent and before `limit`. */
static size_t add_piece(const kv_reply *r, uint64_t limit, uint64_t position, const void *bytes,
                        size_t size, struct iovec *piece) {
    uint64_t begin = position > r->start ? position : r->start;
    uint64_t end = position + size < limit ? position + size : limit;
    if (begin >= end)
        return 0;
    piece->iov_base = (uint8_t *)(uintptr_t)bytes + (begin - position);
    piece->iov_len = (size_t)(end - begin);
    return 1;
}

size_t kv_reply_pieces(const kv_reply *r, uint64_t limit, struct iovec *pieces, size_t max) {
    size_t count = 0;
    for (const kv_reply_chunk *c = r->first; c != NULL && c->position < limit; c = c->next) {
        size_t pinned = c->item.value.size;
        if (count < max)
            count += add_piece(r, limit, c->position, c->item.value.data, pinned, &pieces[count]);
        if (count == max)
            break;
        count += add_piece(r, limit, c->position + pinned, c->bytes, bytes_used(r, c), &pieces[count]);
    }
    return count;
}

void kv_reply_sent(kv_reply *r, size_t bytes) {
    assert(bytes <= r->end - r->start);
    r->start += bytes;
    kv_reply_chunk *c = r->first;
    while (c != NULL && c->position + c->item.value.size + bytes_used(r, c) <= r->start) {
        kv_reply_chunk *next = c->next;
        destroy_chunk(r, c);
        c = next;
    }
    r->first = c;
    if (c == NULL)
        reopen(r, NULL);
}
