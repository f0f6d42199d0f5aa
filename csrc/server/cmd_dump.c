/* cmd_dump.c - DUMP and RESTORE: Redis's serialized form of a string.
 *
 *     type        1 byte: 0, a string
 *     string      below
 *     version     2 bytes, little endian: of the format of RDB files; up to VERSION_READ is understood
 *     checksum    8 bytes, little endian: CRC-64 (Jones) of all before
 *
 * A string begins with its length, in the highest two bits of the first byte:
 *     00          the other 6 bits                10  0x80: 4 bytes, 0x81: 8 bytes follow, big endian
 *     01          and 8 more, big endian          11  an integer of 1, 2 or 4 bytes, little endian (0, 1, 2), or
 *     compressed
 *                                                     with LZF (3): length there, length here, bytes
 */
#include <pthread.h>
#include <string.h>

#include "../base/bytes.h"
#include "commands.h"

#define VERSION_WRITTEN 9u /* what Redis 5 and everything newer reads */
#define VERSION_READ 11u
#define FOOTER_SIZE 10u
#define HEADER_SIZE_MAX 10u /* type and length */

/* ---- The checksum -------------------------------------------------------------------------------------- */

static uint64_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_crc_table(void) {
    for (unsigned i = 0; i < 256; i++) {
        uint64_t crc = i;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? UINT64_C(0x95ac9329ac4bc9b5) : 0); /* 0xad93d23594c935a9, reflected */
        crc_table[i] = crc;
    }
}

static uint64_t crc64(const uint8_t *p, size_t size) {
    uint64_t crc = 0;
    pthread_once(&crc_once, make_crc_table);
    for (size_t i = 0; i < size; i++)
        crc = crc_table[(crc ^ p[i]) & 0xff] ^ crc >> 8;
    return crc;
}

/* ---- DUMP ---------------------------------------------------------------------------------------------- */

static uint64_t swap64(uint64_t n) {
    uint8_t bytes[8];
    uint64_t swapped = 0;
    kv_store64(bytes, n);
    for (int i = 0; i < 8; i++)
        swapped = swapped << 8 | bytes[i];
    return swapped;
}

static size_t put_length(uint8_t *p, uint64_t length) {
    if (length < 64) {
        p[0] = (uint8_t)length;
        return 1;
    }
    if (length < 16384) {
        p[0] = (uint8_t)(0x40 | length >> 8);
        p[1] = (uint8_t)length;
        return 2;
    }
    p[0] = 0x80; /* values have less than 2^32 bytes */
    kv_store32(p + 1, (uint32_t)(swap64(length) >> 32));
    return 5;
}

/* An integer of 32 bits in the shortest form; 0: it is none. */
static size_t put_integer(uint8_t *p, kv_bytes value) {
    int64_t n;
    if (value.size > 11 || !kv_parse_integer(value, &n))
        return 0;
    if (n >= INT8_MIN && n <= INT8_MAX) {
        p[0] = 0xc0;
        p[1] = (uint8_t)n;
        return 2;
    }
    if (n >= INT16_MIN && n <= INT16_MAX) {
        p[0] = 0xc1;
        kv_store16(p + 1, (uint16_t)n);
        return 3;
    }
    if (n < INT32_MIN || n > INT32_MAX)
        return 0;
    p[0] = 0xc2;
    kv_store32(p + 1, (uint32_t)n);
    return 5;
}

kv_status kv_step_dump(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND) {
        kv_reply_null(&c->reply);
        return KV_OK;
    }
    uint8_t *bytes = kv_txn_space(t, HEADER_SIZE_MAX + value.value.size + FOOTER_SIZE, err);
    if (bytes == NULL)
        return KV_ERR_NOMEM;
    size_t size = 0;
    bytes[size++] = 0;
    size_t integer = put_integer(bytes + size, value.value);
    size += integer;
    if (integer == 0) {
        size += put_length(bytes + size, value.value.size);
        if (value.value.size > 0)
            memcpy(bytes + size, value.value.data, value.value.size);
        size += value.value.size;
    }
    kv_store16(bytes + size, VERSION_WRITTEN);
    kv_store64(bytes + size + 2, crc64(bytes, size + 2));
    kv_reply_bulk(&c->reply, bytes, size + FOOTER_SIZE);
    return KV_OK;
}

/* ---- RESTORE ------------------------------------------------------------------------------------------- */

/* What is left to be read. */
typedef struct reader {
    const uint8_t *p, *end;
} reader;

static size_t left(const reader *r) {
    return (size_t)(r->end - r->p);
}

/* A length, or the number of a special form (`*is_special`); false: the bytes end before it does. */
static bool get_length(reader *r, uint64_t *length, bool *is_special) {
    *is_special = false;
    if (left(r) == 0)
        return false;
    uint8_t first = *r->p++;
    size_t more = first >> 6 == 1 ? 1 : first == 0x80 ? 4 : first == 0x81 ? 8 : 0;
    if (left(r) < more || (first >> 6 == 2 && more == 0))
        return false;
    *length = first & 0x3f;
    if (first >> 6 == 3)
        *is_special = true;
    else if (first >> 6 == 2)
        *length = 0;
    for (size_t i = 0; i < more; i++)
        *length = *length << 8 | *r->p++;
    return true;
}

/* Undoes LZF (Marc Lehmann): a byte below 32 is followed by one more than so many bytes as they are; any other
 * begins a copy of bytes before.  False: that is not what this is, or not of `size` bytes. */
static bool decompress(const uint8_t *p, size_t packed, uint8_t *out, size_t size) {
    const uint8_t *end = p + packed;
    size_t done = 0;
    while (p < end) {
        size_t control = *p++;
        if (control < 32) {
            size_t run = control + 1;
            if (run > (size_t)(end - p) || run > size - done)
                return false;
            memcpy(out + done, p, run);
            p += run;
            done += run;
            continue;
        }
        size_t run = control >> 5;
        if (run == 7) {
            if (p == end)
                return false;
            run += *p++;
        }
        run += 2;
        if (p == end)
            return false;
        size_t back = ((control & 31) << 8 | *p++) + 1;
        if (back > done || run > size - done)
            return false;
        for (size_t i = 0; i < run; i++, done++) /* may overlap */
            out[done] = out[done - back];
    }
    return done == size;
}

#define PACKED_RATIO_MAX 264u /* three bytes make so many at the most */

/* The string; false: damaged.  `*status` < 0: no memory. */
static bool get_string(kv_txn *t, reader *r, kv_bytes *value, kv_status *status, kv_error *err) {
    uint64_t length, packed;
    bool is_special, inner;
    if (!get_length(r, &length, &is_special))
        return false;
    if (!is_special) {
        if (length > left(r))
            return false;
        *value = (kv_bytes){r->p, (size_t)length};
        r->p += length;
        return true;
    }
    if (length <= 2) {
        size_t width = (size_t)1 << length;
        if (left(r) < width)
            return false;
        int64_t n = length == 0 ? (int8_t)r->p[0] : length == 1 ? (int16_t)kv_load16(r->p) : (int32_t)kv_load32(r->p);
        r->p += width;
        char *text = kv_txn_space(t, KV_INTEGER_SIZE, err);
        if (text == NULL) {
            *status = KV_ERR_NOMEM;
            return false;
        }
        *value = (kv_bytes){text, kv_format_integer(n, text)};
        return true;
    }
    if (length != 3 || !get_length(r, &packed, &inner) || inner || !get_length(r, &length, &inner) || inner ||
        packed > left(r) || length > KV_VALUE_MAX || length > packed * PACKED_RATIO_MAX)
        return false;
    uint8_t *bytes = kv_txn_space(t, (size_t)length, err);
    if (bytes == NULL) {
        *status = KV_ERR_NOMEM;
        return false;
    }
    if (!decompress(r->p, (size_t)packed, bytes, (size_t)length))
        return false;
    r->p += packed;
    *value = (kv_bytes){bytes, (size_t)length};
    return true;
}

typedef struct restore_options {
    bool replace, is_moment;
} restore_options;

static bool parse_restore_options(kv_client *c, const kv_bytes *argv, size_t argc, restore_options *o) {
    *o = (restore_options){0};
    for (size_t i = 4; i < argc; i++) {
        bool is_idle = kv_word_is(argv[i], "idletime"), is_frequency = kv_word_is(argv[i], "freq");
        int64_t n;
        if (kv_word_is(argv[i], "replace")) {
            o->replace = true;
        } else if (kv_word_is(argv[i], "absttl")) {
            o->is_moment = true;
        } else if ((is_idle || is_frequency) && i + 1 < argc) { /* checked, and not kept */
            if (!kv_parse_integer(argv[++i], &n)) {
                kv_refuse(c, KV_NOT_INTEGER);
                return false;
            }
            if (n < 0 || (is_frequency && n > 255)) {
                kv_refuse(c, is_idle ? "ERR Invalid IDLETIME value, must be >= 0"
                                     : "ERR Invalid FREQ value, must be >= 0 and <= 255");
                return false;
            }
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return false;
        }
    }
    return true;
}

static bool payload_is_whole(kv_bytes payload) {
    const uint8_t *p = payload.data;
    if (payload.size < FOOTER_SIZE)
        return false;
    uint16_t version = kv_load16(p + payload.size - FOOTER_SIZE);
    uint64_t crc = kv_load64(p + payload.size - 8);
    return version <= VERSION_READ && crc == crc64(p, payload.size - 8);
}

kv_status kv_step_restore(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    restore_options o;
    if (!parse_restore_options(c, argv, argc, &o))
        return KV_OK;
    if (!o.replace) {
        kv_txn_value old;
        kv_status status = kv_txn_get(t, argv[1], &old, err);
        if (status < 0)
            return status;
        if (status == KV_OK) {
            kv_refuse(c, "BUSYKEY Target key name already exists.");
            return KV_OK;
        }
    }
    int64_t ttl;
    if (!kv_parse_integer(argv[2], &ttl)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (ttl < 0) {
        kv_refuse(c, "ERR Invalid TTL value, must be >= 0");
        return KV_OK;
    }
    if (!payload_is_whole(argv[3])) {
        kv_refuse(c, "ERR DUMP payload version or checksum are wrong");
        return KV_OK;
    }
    reader r = {argv[3].data, (const uint8_t *)argv[3].data + argv[3].size - FOOTER_SIZE};
    kv_bytes value;
    kv_status status = KV_OK;
    bool is_good = left(&r) > 0 && *r.p++ == 0 && get_string(t, &r, &value, &status, err) && left(&r) == 0;
    if (status < 0)
        return status;
    if (!is_good) {
        kv_refuse(c, "ERR Bad data format");
        return KV_OK;
    }
    if (!kv_allow_size(c, value.size))
        return KV_OK;
    uint64_t expiry = (uint64_t)ttl + (ttl > 0 && !o.is_moment ? kv_clock_ms(c->db) : 0);
    if (expiry > KV_EXPIRY_MAX) {
        kv_refuse(c, "ERR invalid expire time in 'restore' command");
        return KV_OK;
    }
    kv_reply_ok(&c->reply);
    return kv_txn_put(t, argv[1], value, expiry, err);
}
