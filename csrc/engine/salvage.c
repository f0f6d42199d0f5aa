/* salvage.c - see check.h: what kv_salvage does with what is whole, and with what is not.
 *
 * Whole records go through the public API, in the order of the log, so the new store makes its own log of them.
 *
 * There an expiry that has passed becomes a delete at once, but reading a log applies records whatever the time is:
 * a later one may give the key more time, as a session gets each time that it is used.  So a key whose time is past,
 * or soon will be, is written without an expiry, and what that is stands in a store in memory until everything has
 * been read.
 */
#include "../base/mem.h"
#include "check.h"

#define SOON_MS 86400000u /* a day: until then everything has been read */
#define OPS_OF_BLOCK_MAX 4096u          /* a block is no commit: it is written in handy parts */
#define BYTES_OF_BLOCK_MAX (16u << 20)

/* ---- What is whole ------------------------------------------------------------------------- */

static kv_status add_op(kv_checker *c, kv_op op, kv_error *err) {
    if (c->op_count == c->op_capacity) {
        size_t capacity = c->op_capacity * 2 + 64;
        kv_op *grown = kv_mem_realloc(c->ops, capacity * sizeof *grown);
        if (grown == NULL)
            return kv_fail_nomem(err, capacity * sizeof *grown);
        c->ops = grown;
        c->op_capacity = capacity;
    }
    c->ops[c->op_count++] = op;
    return KV_OK;
}

static kv_status write_ops(kv_checker *c, kv_error *err) {
    if (c->op_count == 0)
        return KV_OK;
    kv_status status = kv_write(c->into, c->ops, c->op_count, 0, NULL, err);
    c->op_count = 0;
    return status;
}

/* Keeps the record's expiry for the end, or nothing of an older record's. */
static kv_status hold(kv_checker *c, const kv_record *r, bool soon, kv_error *err) {
    uint8_t expiry[sizeof r->expiry];
    kv_store64(expiry, r->expiry);
    kv_status status = soon && c->held == NULL ? kv_open(NULL, NULL, &c->held, err) : KV_OK;
    if (status < 0 || c->held == NULL)
        return status;
    if (soon)
        return kv_put(c->held, r->key, (kv_bytes){expiry, sizeof expiry}, 0, err);
    status = kv_delete(c->held, r->key, 0, err);
    return status == KV_NOTFOUND ? KV_OK : status;
}

static kv_status add_record(kv_checker *c, const kv_record *r, kv_error *err) {
    if (c->soon_ms == 0)
        c->soon_ms = kv_clock_ms(c->into) + SOON_MS;
    bool soon = r->expiry != 0 && r->expiry <= c->soon_ms;
    kv_op op = {.kind = (kv_op_kind)r->kind, .key = r->key, .value = r->value,
                .expiry = soon ? 0 : r->expiry};
    kv_status status = hold(c, r, soon, err);
    return status == KV_OK ? add_op(c, op, err) : status;
}

static kv_status clear(kv_checker *c, kv_error *err) {
    kv_status status = c->held != NULL ? kv_clear(c->held, 0, err) : KV_OK;
    return status == KV_OK ? kv_clear(c->into, 0, err) : status;
}

kv_status kv_salvage_expiries(kv_checker *c, kv_error *err) {
    kv_snapshot *snapshot = NULL;
    kv_cursor *cursor = NULL;
    const kv_item *items;
    size_t count;
    if (c->held == NULL)
        return KV_OK;
    kv_status status = kv_snapshot_create(c->held, &snapshot, err);
    if (status == KV_OK)
        status = kv_cursor_create(snapshot, &cursor, err);
    while (status == KV_OK && (status = kv_cursor_next(cursor, &items, &count, err)) == KV_OK) {
        for (size_t i = 0; i < count && status == KV_OK; i++)
            status = add_op(c, (kv_op){.kind = KV_OP_EXPIRE, .key = items[i].key,
                                       .expiry = kv_load64(items[i].value.data)}, err);
        if (status == KV_OK)
            status = write_ops(c, err);
    }
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(snapshot);
    return status == KV_NOTFOUND ? KV_OK : status;
}

kv_status kv_salvage_records(kv_checker *c, const uint8_t *bytes, size_t size, bool commits,
                             kv_error *err) {
    kv_status status = KV_OK;
    size_t bytes_now = 0;
    for (size_t at = 0; status == KV_OK && at < size;) {
        kv_record r;
        size_t record_size = kv_record_decode(&r, bytes + at, size - at);
        if (record_size == 0) /* they have all been decoded before */
            return kv_fail(err, KV_ERR_INVALID, "the file is being changed");
        at += record_size;
        if (r.kind == KV_RECORD_CLEAR) { /* a commit by itself */
            status = write_ops(c, err);
            if (status == KV_OK)
                status = clear(c, err);
            continue;
        }
        status = add_record(c, &r, err);
        bytes_now += record_size;
        if (status == KV_OK &&
            (commits ? r.last
                     : c->op_count == OPS_OF_BLOCK_MAX || bytes_now >= BYTES_OF_BLOCK_MAX)) {
            status = write_ops(c, err);
            bytes_now = 0;
        }
    }
    if (status == KV_OK)
        status = write_ops(c, err);
    c->op_count = 0;
    return status;
}

/* ---- What is not --------------------------------------------------------------------------- */

/* A record that could have stood there; its size, or 0. */
static size_t guess(const kv_checker *c, const uint8_t *bytes, size_t left,
                    const kv_block_header *range, kv_record *r) {
    size_t size = kv_record_decode(r, bytes, left);
    if (size == 0 || range == NULL)
        return size;
    if (r->kind != KV_RECORD_PUT || r->last)
        return 0;
    if (c->hash_key_known &&
        kv_siphash13(c->identity.hash_key, r->key.data, r->key.size) - range->range_start >
            (UINT64_MAX >> range->depth))
        return 0;
    return size;
}

/* From the start on as long as records parse; behind a place that does not, wherever two of them follow each other
 * or one ends with the bytes. */
void kv_salvage_suspects(kv_checker *c, const uint8_t *bytes, size_t size,
                         const kv_block_header *range) {
    bool sure = true;
    if (c->into == NULL || c->options->suspect == NULL)
        return;
    for (size_t at = 0; at < size;) {
        kv_record r, after;
        size_t record_size = guess(c, bytes + at, size - at, range, &r);
        if (record_size != 0 && !sure && at + record_size < size &&
            guess(c, bytes + at + record_size, size - at - record_size, range, &after) == 0)
            record_size = 0;
        sure = record_size != 0;
        at += sure ? record_size : 1;
        if (sure && r.kind != KV_RECORD_CLEAR)
            c->options->suspect(c->options->arg, r.key);
    }
}
