/* cmd_bit.c - values as rows of bits, the highest bit of the first byte first. */
#include <string.h>

#include "../base/bytes.h"
#include "commands.h"

#define BIT_OFFSET_ERROR "ERR bit offset is not an integer or out of range"

/* ---- One bit ------------------------------------------------------------------------------------------- */

static uint64_t value_max(const kv_client *c) {
    uint64_t max = KV_VALUE_MAX;
    if (c->server != NULL) {
        uint64_t bulk_max = atomic_load_explicit(&kv_server_config(c->server)->bulk_max, memory_order_relaxed);
        max = bulk_max < max ? bulk_max : max;
    }
    return max;
}

/* `width`: of a bit field, whose offset may be given as "#number of fields"; 0: none. */
static bool parse_offset(kv_client *c, kv_bytes text, unsigned width, uint64_t *offset) {
    bool is_scaled = width > 0 && text.size > 0 && *(const char *)text.data == '#';
    int64_t n;
    kv_bytes digits = {(const uint8_t *)text.data + is_scaled, text.size - is_scaled};
    if (!kv_parse_integer(digits, &n) || n < 0 || (is_scaled && __builtin_mul_overflow(n, width, &n)) ||
        (uint64_t)n >> 3 >= value_max(c)) {
        kv_refuse(c, BIT_OFFSET_ERROR);
        return false;
    }
    *offset = (uint64_t)n;
    return true;
}

static unsigned bit_at(kv_bytes value, uint64_t offset) {
    if (offset >> 3 >= value.size)
        return 0;
    return ((const uint8_t *)value.data)[offset >> 3] >> (7 - (offset & 7)) & 1u;
}

/* A copy of the value of at least `size` bytes, the new ones zero; its size in `*new_size`. */
static uint8_t *grown_copy(kv_txn *t, kv_bytes old, uint64_t size, size_t *new_size, kv_error *err) {
    *new_size = size > old.size ? (size_t)size : old.size;
    uint8_t *bytes = kv_txn_space(t, *new_size, err);
    if (bytes == NULL)
        return NULL;
    if (old.size > 0)
        memcpy(bytes, old.data, old.size);
    memset(bytes + old.size, 0, *new_size - old.size);
    return bytes;
}

kv_status kv_step_setbit(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    uint64_t offset;
    int64_t bit;
    if (!parse_offset(c, argv[2], 0, &offset))
        return KV_OK;
    if (!kv_parse_integer(argv[3], &bit) || (bit & ~INT64_C(1)) != 0) {
        kv_refuse(c, "ERR bit is not an integer or out of range");
        return KV_OK;
    }
    kv_txn_value old = {0};
    kv_status status = kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    kv_reply_integer(&c->reply, bit_at(old.value, offset));
    if (offset >> 3 < old.value.size && bit_at(old.value, offset) == bit)
        return KV_OK; /* no write where nothing changes */
    size_t size;
    uint8_t *bytes = grown_copy(t, old.value, (offset >> 3) + 1, &size, err);
    if (bytes == NULL)
        return KV_ERR_NOMEM;
    uint8_t mask = (uint8_t)(0x80u >> (offset & 7));
    bytes[offset >> 3] = bit != 0 ? bytes[offset >> 3] | mask : bytes[offset >> 3] & (uint8_t)~mask;
    return kv_txn_put(t, argv[1], (kv_bytes){bytes, size}, old.expiry, err);
}

kv_status kv_step_getbit(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    uint64_t offset;
    if (!parse_offset(c, argv[2], 0, &offset))
        return KV_OK;
    kv_txn_value value = {0};
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    kv_reply_integer(&c->reply, bit_at(value.value, offset));
    return KV_OK;
}

/* ---- Counting and finding ------------------------------------------------------------------------------ */

static uint64_t count_bits(const uint8_t *p, size_t size) {
    uint64_t count = 0;
    for (; size >= 8; size -= 8, p += 8)
        count += (unsigned)__builtin_popcountll(kv_load64(p));
    for (; size > 0; size--, p++)
        count += (unsigned)__builtin_popcount(*p);
    return count;
}

/* BYTE or BIT; false: it has been refused. */
static bool parse_unit(kv_client *c, kv_bytes word, bool *in_bits) {
    *in_bits = kv_word_is(word, "bit");
    if (*in_bits || kv_word_is(word, "byte"))
        return true;
    kv_refuse(c, KV_SYNTAX_ERROR);
    return false;
}

/* Counts from the end made counts from the beginning; false: nothing is in the range. */
static bool settle_range(int64_t *first, int64_t *last, int64_t size) {
    if (*first < 0 && *last < 0 && *first > *last)
        return false;
    *first = *first < 0 ? (*first < -size ? 0 : *first + size) : *first;
    *last = *last < 0 ? (*last < -size ? 0 : *last + size) : *last;
    if (*last >= size)
        *last = size - 1;
    return *first <= *last;
}

kv_status kv_step_bitcount(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    int64_t first = 0, last = -1;
    bool in_bits = false;
    if (argc != 2 && argc != 4 && argc != 5) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_OK;
    }
    if (argc > 2 && (!kv_parse_integer(argv[2], &first) || !kv_parse_integer(argv[3], &last))) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (argc == 5 && !parse_unit(c, argv[4], &in_bits))
        return KV_OK;
    kv_txn_value value = {0};
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    int64_t size = (int64_t)value.value.size * (in_bits ? 8 : 1);
    uint64_t count = 0;
    if (size > 0 && settle_range(&first, &last, size)) {
        const uint8_t *p = value.value.data;
        unsigned unit = in_bits ? 1 : 8;
        uint64_t from = (uint64_t)first * unit, to = ((uint64_t)last + 1) * unit;
        count = count_bits(p + from / 8, (size_t)((to + 7) / 8 - from / 8));
        for (uint64_t i = from / 8 * 8; i < from; i++) /* in the first and the last byte, what is not in the range */
            count -= bit_at(value.value, i);
        for (uint64_t i = to; i % 8 != 0; i++)
            count -= bit_at(value.value, i);
    }
    kv_reply_integer(&c->reply, (int64_t)count);
    return KV_OK;
}

/* The first bit in from .. to - 1 that is `bit`, or `to`. */
static uint64_t find_bit(kv_bytes value, unsigned bit, uint64_t from, uint64_t to) {
    const uint8_t *p = value.data;
    uint8_t none = bit != 0 ? 0x00 : 0xff; /* a byte without such a bit */
    for (uint64_t i = from; i < to;) {
        if (i % 8 == 0 && p[i / 8] == none) {
            i += 8;
            continue;
        }
        if (bit_at(value, i) == bit)
            return i;
        i++;
    }
    return to;
}

kv_status kv_step_bitpos(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    int64_t bit, first = 0, last = -1;
    bool in_bits = false;
    if (!kv_parse_integer(argv[2], &bit)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (bit != 0 && bit != 1) {
        kv_refuse(c, "ERR The bit argument must be 1 or 0.");
        return KV_OK;
    }
    if (argc > 6) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_OK;
    }
    if (argc > 3 && !kv_parse_integer(argv[3], &first)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (argc > 5 && !parse_unit(c, argv[5], &in_bits))
        return KV_OK;
    if (argc > 4 && !kv_parse_integer(argv[4], &last)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    kv_txn_value value = {0};
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    int64_t size = (int64_t)value.value.size * (in_bits ? 8 : 1), position = -1;
    first = first < 0 ? (first < -size ? 0 : first + size) : first;
    last = last < 0 ? (last < -size ? 0 : last + size) : last;
    if (last >= size)
        last = size - 1;
    if (status == KV_NOTFOUND) {
        position = bit != 0 ? -1 : 0;
    } else if (first <= last) {
        unsigned unit = in_bits ? 1 : 8;
        uint64_t from = (uint64_t)first * unit, to = ((uint64_t)last + 1) * unit;
        uint64_t found = find_bit(value.value, (unsigned)bit, from, to);
        /* Without an end, the value is as if it went on with zeros. */
        if (found < to || (bit == 0 && argc < 5))
            position = (int64_t)found;
    }
    kv_reply_integer(&c->reply, position);
    return KV_OK;
}

/* ---- BITOP --------------------------------------------------------------------------------------------- */

kv_status kv_step_bitop(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    enum { AND, OR, XOR, NOT } op;
    if (kv_word_is(argv[1], "and"))
        op = AND;
    else if (kv_word_is(argv[1], "or"))
        op = OR;
    else if (kv_word_is(argv[1], "xor"))
        op = XOR;
    else if (kv_word_is(argv[1], "not"))
        op = NOT;
    else {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_OK;
    }
    if (op == NOT && argc != 4) {
        kv_refuse(c, "ERR BITOP NOT must be called with a single source key.");
        return KV_OK;
    }
    size_t size = 0;
    kv_bytes *sources = kv_txn_space(t, (argc - 3) * sizeof *sources, err);
    if (sources == NULL)
        return KV_ERR_NOMEM;
    for (size_t i = 3; i < argc; i++) {
        kv_txn_value value = {0};
        kv_status status = kv_lookup(c, t, argv[i], &value, err);
        if (status < 0)
            return status;
        sources[i - 3] = value.value;
        size = value.value.size > size ? value.value.size : size;
    }
    kv_reply_integer(&c->reply, (int64_t)size);
    if (size == 0) {
        kv_txn_value old;
        kv_status status = kv_txn_get(t, argv[2], &old, err);
        return status == KV_OK ? kv_txn_delete(t, argv[2], err) : status < 0 ? status : KV_OK;
    }
    uint8_t *bytes = kv_txn_space(t, size, err);
    if (bytes == NULL)
        return KV_ERR_NOMEM;
    for (size_t i = 0; i < argc - 3; i++) {
        const uint8_t *p = sources[i].data;
        size_t own = sources[i].size;
        if (i == 0) {
            if (own > 0)
                memcpy(bytes, p, own);
            memset(bytes + own, 0, size - own);
            for (size_t k = 0; op == NOT && k < size; k++)
                bytes[k] = (uint8_t)~bytes[k];
        } else if (op == AND) {
            for (size_t k = 0; k < own; k++)
                bytes[k] &= p[k];
            memset(bytes + own, 0, size - own);
        } else if (op == OR) {
            for (size_t k = 0; k < own; k++)
                bytes[k] |= p[k];
        } else {
            for (size_t k = 0; k < own; k++)
                bytes[k] ^= p[k];
        }
    }
    return kv_txn_put(t, argv[2], (kv_bytes){bytes, size}, 0, err);
}

/* ---- BITFIELD ------------------------------------------------------------------------------------------ */

__extension__ typedef __int128 wide;

typedef enum overflow {
    WRAP,
    SATURATE,
    FAIL,
} overflow;

typedef struct field {
    bool is_signed;
    unsigned width;
    uint64_t offset;
} field;

static bool parse_field(kv_client *c, kv_bytes type, kv_bytes offset, field *f) {
    const char *p = type.data;
    int64_t width;
    f->is_signed = type.size > 0 && *p == 'i';
    if (type.size < 2 || (*p != 'i' && *p != 'u') || !kv_parse_integer((kv_bytes){p + 1, type.size - 1}, &width) ||
        width < 1 || width > (f->is_signed ? 64 : 63)) {
        kv_refuse(c, "ERR Invalid bitfield type. Use something like i16 u8. "
                     "Note that u64 is not supported but i64 is.");
        return false;
    }
    f->width = (unsigned)width;
    return parse_offset(c, offset, f->width, &f->offset);
}

static int64_t field_get(kv_bytes value, const field *f) {
    uint64_t n = 0;
    for (unsigned i = 0; i < f->width; i++)
        n = n << 1 | bit_at(value, f->offset + i);
    if (f->is_signed && f->width < 64 && (n >> (f->width - 1) & 1) != 0)
        n |= UINT64_MAX << f->width;
    return (int64_t)n;
}

static void field_set(uint8_t *bytes, const field *f, int64_t value) {
    for (unsigned i = 0; i < f->width; i++) {
        uint64_t at = f->offset + i;
        uint8_t mask = (uint8_t)(0x80u >> (at & 7));
        bool bit = ((uint64_t)value >> (f->width - 1 - i) & 1) != 0;
        bytes[at >> 3] = bit ? bytes[at >> 3] | mask : bytes[at >> 3] & (uint8_t)~mask;
    }
}

/* Fits `n` into the field; false: it does not, and that is to fail. */
static bool fit(const field *f, wide n, overflow how, int64_t *result) {
    wide one = 1, most = (one << (f->is_signed ? f->width - 1 : f->width)) - 1, least = f->is_signed ? -most - 1 : 0;
    if (n < least || n > most) {
        if (how == FAIL)
            return false;
        if (how == SATURATE) {
            n = n > most ? most : least;
        } else {
            uint64_t low = (uint64_t)n;
            low &= f->width < 64 ? (UINT64_C(1) << f->width) - 1 : UINT64_MAX;
            if (f->is_signed && f->width < 64 && (low >> (f->width - 1) & 1) != 0)
                low |= UINT64_MAX << f->width;
            n = (int64_t)low;
        }
    }
    *result = (int64_t)n;
    return true;
}

typedef struct field_op {
    enum { OP_GET, OP_SET, OP_INCRBY, OP_OVERFLOW } kind;
    field f;
    int64_t value;
    overflow how;
} field_op;

/* One of GET, SET, INCRBY and OVERFLOW at the beginning of argv; how many arguments it has, or 0: it has been
 * refused. */
static size_t parse_field_op(kv_client *c, const kv_bytes *argv, size_t left, field_op *op) {
    size_t size;
    if (left >= 3 && kv_word_is(argv[0], "get")) {
        op->kind = OP_GET;
        size = 3;
    } else if (left >= 4 && kv_word_is(argv[0], "set")) {
        op->kind = OP_SET;
        size = 4;
    } else if (left >= 4 && kv_word_is(argv[0], "incrby")) {
        op->kind = OP_INCRBY;
        size = 4;
    } else if (left >= 2 && kv_word_is(argv[0], "overflow")) {
        op->kind = OP_OVERFLOW;
        if (kv_word_is(argv[1], "wrap"))
            op->how = WRAP;
        else if (kv_word_is(argv[1], "sat"))
            op->how = SATURATE;
        else if (kv_word_is(argv[1], "fail"))
            op->how = FAIL;
        else {
            kv_refuse(c, "ERR Invalid OVERFLOW type specified");
            return 0;
        }
        return 2;
    } else {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return 0;
    }
    if (!parse_field(c, argv[1], argv[2], &op->f))
        return 0;
    if (size == 4 && !kv_parse_integer(argv[3], &op->value)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return 0;
    }
    return size;
}

static kv_status step_bitfield(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, bool read_only,
                               kv_error *err) {
    uint64_t end_bit = 0; /* of what is written */
    size_t replies = 0;
    for (size_t i = 2, used; i < argc; i += used) {
        field_op op;
        used = parse_field_op(c, argv + i, argc - i, &op);
        if (used == 0)
            return KV_OK;
        replies += op.kind != OP_OVERFLOW;
        if ((op.kind == OP_SET || op.kind == OP_INCRBY) && op.f.offset + op.f.width > end_bit)
            end_bit = op.f.offset + op.f.width;
    }
    if (read_only && end_bit > 0) {
        kv_refuse(c, "ERR BITFIELD_RO only supports the GET subcommand");
        return KV_OK;
    }
    if (!kv_allow_size(c, (end_bit + 7) / 8))
        return KV_OK;
    kv_txn_value old = {0};
    kv_status status = read_only ? kv_lookup(c, t, argv[1], &old, err) : kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    kv_bytes value = old.value;
    uint8_t *bytes = NULL;
    if (end_bit > 0) {
        size_t size;
        bytes = grown_copy(t, old.value, (end_bit + 7) / 8, &size, err);
        if (bytes == NULL)
            return KV_ERR_NOMEM;
        value = (kv_bytes){bytes, size};
    }
    overflow how = WRAP;
    bool is_changed = false;
    kv_reply_array(&c->reply, replies);
    for (size_t i = 2, used; i < argc; i += used) {
        field_op op;
        used = parse_field_op(c, argv + i, argc - i, &op);
        if (used == 0)
            return kv_fail(err, KV_ERR_INVALID, "the request changed"); /* it cannot */
        if (op.kind == OP_OVERFLOW) {
            how = op.how;
            continue;
        }
        int64_t now = field_get(value, &op.f), new;
        if (op.kind == OP_GET) {
            kv_reply_integer(&c->reply, now);
            continue;
        }
        wide wanted = op.kind == OP_INCRBY ? (wide)now + op.value
                      : op.f.is_signed     ? (wide)op.value
                                           : (wide)(uint64_t)op.value;
        if (!fit(&op.f, wanted, how, &new)) {
            kv_reply_null(&c->reply);
            continue;
        }
        field_set(bytes, &op.f, new);
        is_changed |= new != now;
        kv_reply_integer(&c->reply, op.kind == OP_SET ? now : new);
    }
    /* As in Redis, the value has grown even when all that was to be written did not fit. */
    bool has_grown = value.size > old.value.size;
    return is_changed || has_grown ? kv_txn_put(t, argv[1], value, old.expiry, err) : KV_OK;
}

kv_status kv_step_bitfield(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_bitfield(c, t, argv, argc, false, err);
}

kv_status kv_step_bitfield_ro(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_bitfield(c, t, argv, argc, true, err);
}
