/* salvage.c - see check.h: what kv_salvage does with what is whole, and with what is not.
 *
 * Whole records go through the public API, in the order of the log, so the new store makes its own log of them;
 * an expiry that has passed meanwhile becomes a delete there.
 */
#include "../base/mem.h"
#include "check.h"

#define OPS_OF_BLOCK_MAX 4096u          /* a block is no commit: it is written in handy parts */
#define BYTES_OF_BLOCK_MAX (16u << 20)

/* ---- What is whole ------------------------------------------------------------------------- */

static kv_status add_op(kv_checker *c, const kv_record *r, kv_error *err) {
    if (c->op_count == c->op_capacity) {
        size_t capacity = c->op_capacity * 2 + 64;
        kv_op *grown = kv_mem_realloc(c->ops, capacity * sizeof *grown);
        if (grown == NULL)
            return kv_fail_nomem(err, capacity * sizeof *grown);
        c->ops = grown;
        c->op_capacity = capacity;
    }
    c->ops[c->op_count++] = (kv_op){
        .kind = (kv_op_kind)r->kind, .key = r->key, .value = r->value, .expiry = r->expiry};
    return KV_OK;
}

static kv_status write_ops(kv_checker *c, kv_error *err) {
    if (c->op_count == 0)
        return KV_OK;
    kv_status status = kv_write(c->into, c->ops, c->op_count, 0, NULL, err);
    c->op_count = 0;
    return status;
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
                status = kv_clear(c->into, 0, err);
            continue;
        }
        status = add_op(c, &r, err);
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
