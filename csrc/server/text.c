/* text.c - arguments and texts: comparing, parsing, building. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/decimal.h"
#include "../base/mem.h"
#include "commands.h"

bool kv_word_is(kv_bytes word, const char *lower) {
    const uint8_t *p = word.data;
    size_t i = 0;
    for (; i < word.size && lower[i] != '\0'; i++) {
        uint8_t byte = p[i] >= 'A' && p[i] <= 'Z' ? p[i] | 0x20 : p[i];
        if (byte != (uint8_t)lower[i])
            return false;
    }
    return i == word.size && lower[i] == '\0';
}

bool kv_bytes_equal(kv_bytes a, kv_bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

kv_bytes kv_text(const char *text) {
    return (kv_bytes){text, strlen(text)};
}

bool kv_parse_integer(kv_bytes text, int64_t *value) {
    return kv_decimal_parse(text.data, text.size, value);
}

size_t kv_format_integer(int64_t value, char text[KV_INTEGER_SIZE]) {
    return kv_decimal_format(value, text);
}

bool kv_parse_double(kv_bytes text, long double *value) {
    char copy[5120]; /* the longest that INCRBYFLOAT makes */
    if (text.size == 0 || text.size >= sizeof copy || memchr(text.data, '\0', text.size) != NULL)
        return false;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    if (copy[0] == ' ' || (copy[0] >= '\t' && copy[0] <= '\r'))
        return false;
    char *end;
    errno = 0;
    *value = strtold(copy, &end);
    if (*end != '\0' || isnan(*value))
        return false;
    return errno != ERANGE || (!isinf(*value) && *value != 0);
}

/* ---- Text that grows ----------------------------------------------------------------------------------- */

static bool text_reserve(kv_text_buffer *b, size_t more) {
    if (b->broken)
        return false;
    if (more <= b->capacity - b->size)
        return true;
    size_t capacity = b->capacity > 0 ? b->capacity : 1024;
    while (capacity - b->size < more) {
        if (capacity > SIZE_MAX / 2) {
            b->broken = true;
            return false;
        }
        capacity *= 2;
    }
    char *data = kv_mem_realloc(b->data, capacity);
    if (data == NULL) {
        b->broken = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

void kv_text_add(kv_text_buffer *b, const void *bytes, size_t size) {
    if (size > 0 && text_reserve(b, size)) {
        memcpy(b->data + b->size, bytes, size);
        b->size += size;
    }
}

void kv_text_addf(kv_text_buffer *b, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (size < 0)
        return;
    if ((size_t)size < sizeof line) {
        kv_text_add(b, line, (size_t)size);
        return;
    }
    if (!text_reserve(b, (size_t)size + 1))
        return;
    va_start(args, format);
    (void)vsnprintf(b->data + b->size, (size_t)size + 1, format, args);
    va_end(args);
    b->size += (size_t)size;
}

void kv_text_free(kv_text_buffer *b) {
    kv_mem_free(b->data);
    *b = (kv_text_buffer){0};
}
