/* check_checkpoint.c - see check.h: a checkpoint's blocks, with or without its index.
 *
 * With a whole index each block is found by it, and the copy of its header is as good as the block's own.
 * Without one the blocks are walked by their own headers; behind a damaged one the next block is searched
 * for: a header whose checksum fits, of a later range, before a payload whose checksum fits.
 */
#include <inttypes.h>

#include "../base/crc32c.h"
#include "../base/mem.h"
#include "check.h"

#define INDEX_BATCH 1024u /* headers of the index read at a time */

typedef struct walk {
    kv_checker *c;
    uint64_t header_end; /* where the first block starts */
    uint64_t limit;      /* no block ends behind it */
    kv_checkpoint_footer footer;
    bool footer_known, indexed;
    uint8_t *index;  /* a batch ... */
    uint64_t index_first, index_count; /* ... of these headers */

    uint64_t next_hash; /* the next block's range starts here ... */
    bool covered;       /* ... or there is none: all hashes have had theirs */
    uint64_t offset;    /* where it stands */
    uint64_t entries, data_bytes, expiring; /* in whole blocks */
    uint64_t problems;                      /* that cost something */
} walk;

/* ---- Words --------------------------------------------------------------------------------- */

static kv_check_loss loss_of_keys(const walk *w, uint64_t keys) {
    kv_check_numbers n = {0};
    if (!w->footer_known)
        return kv_check_loss_of("up to %s keys", kv_check_number(&n, keys));
    return kv_check_loss_of("up to %s keys of %s", kv_check_number(&n, keys),
                            kv_check_number(&n, w->footer.entries));
}

/* Of all hashes from `from` to before `to` (0: to the end). */
static kv_check_loss loss_of_hashes(const walk *w, uint64_t from, uint64_t to) {
    kv_check_numbers n = {0};
    double share = (double)(to - from) / 18446744073709551616.0;
    if (from == to)
        share = 1;
    if (!w->footer_known)
        return kv_check_loss_of("about %.3g %% of the checkpoint's keys", share * 100);
    return kv_check_loss_of("about %s keys of %s",
                            kv_check_number(&n, (uint64_t)((double)w->footer.entries * share + 0.5)),
                            kv_check_number(&n, w->footer.entries));
}

/* ---- One block ----------------------------------------------------------------------------- */

static bool in_range(const kv_block_header *h, uint64_t hash) {
    return hash - h->range_start <= (UINT64_MAX >> h->depth);
}

/* What is wrong with the records, whose checksum fits; NULL: nothing. */
static const char *judge_records(const walk *w, const kv_block_header *h, const uint8_t *bytes,
                                 uint64_t *bad) {
    uint64_t at = 0, next_expiry = 0;
    uint32_t count = 0, expiring = 0;
    while (at < h->payload_size) {
        kv_record r;
        size_t size = kv_record_decode(&r, bytes + at, (size_t)(h->payload_size - at));
        *bad = at;
        if (size == 0 || r.kind != KV_RECORD_PUT || r.last)
            return "a record of an unknown form in a block whose checksum fits";
        if (w->c->hash_key_known &&
            !in_range(h, kv_siphash13(w->c->identity.hash_key, r.key.data, r.key.size)))
            return "a key in a block where it does not belong";
        if (r.expiry != 0 && (expiring++ == 0 || r.expiry < next_expiry))
            next_expiry = r.expiry;
        count++;
        at += size;
    }
    *bad = at;
    if (count != h->count || expiring != h->expiring || next_expiry != h->next_expiry)
        return "a block has not the records that its header says";
    return NULL;
}

static kv_status lose_block(walk *w, const kv_block_header *h, const uint8_t *payload,
                            uint64_t bad, const char *what, kv_error *err) {
    kv_checker *c = w->c;
    kv_check_loss loss = loss_of_keys(w, h->count);
    w->problems++;
    c->summary->blocks_lost++;
    c->summary->bytes_lost += h->payload_size;
    if (payload != NULL)
        kv_salvage_suspects(c, payload, (size_t)h->payload_size, h);
    return kv_checker_problem(c, err, bad, loss.text, "%s", what);
}

/* The block of header `h`, which is to be believed; the payload is at `offset`, within the file. */
static kv_status take_block(walk *w, const kv_block_header *h, uint64_t offset, kv_error *err) {
    kv_checker *c = w->c;
    const uint8_t *payload;
    uint64_t bad = 0;
    kv_status status = KV_OK;
    if (h->payload_size > SIZE_MAX - KV_BLOCK_HEADER_SIZE)
        return kv_fail_nomem(err, SIZE_MAX);
    if (w->covered || h->range_start < w->next_hash)
        return lose_block(w, h, NULL, offset - KV_BLOCK_HEADER_SIZE,
                          "a block of hashes that another block before it has", err);
    if (h->range_start != w->next_hash) {
        kv_check_loss loss = loss_of_hashes(w, w->next_hash, h->range_start);
        w->problems++;
        status = kv_checker_problem(c, err, offset - KV_BLOCK_HEADER_SIZE, loss.text,
                                    "no whole block has the hashes from %016" PRIx64
                                    " to before %016" PRIx64,
                                    w->next_hash, h->range_start);
    }
    w->next_hash = h->range_start + (UINT64_MAX >> h->depth) + 1;
    w->covered = w->next_hash == 0;
    if (status == KV_OK)
        status = kv_checker_get(c, offset, (size_t)h->payload_size, &payload, err);
    if (status < 0)
        return status;
    if (kv_crc32c(0, payload, (size_t)h->payload_size) != h->payload_crc)
        return lose_block(w, h, payload, offset, "the checksum of a block does not fit", err);
    const char *what = judge_records(w, h, payload, &bad);
    if (what != NULL)
        return lose_block(w, h, payload, offset + bad, what, err);
    c->summary->entries += h->count;
    w->entries += h->count;
    w->expiring += h->expiring;
    w->data_bytes += kv_block_data_bytes(h);
    if (c->into == NULL)
        return KV_OK;
    return kv_salvage_records(c, payload, (size_t)h->payload_size, false, err);
}

/* ---- By the index -------------------------------------------------------------------------- */

/* Header number `i` of the index. */
static kv_status index_at(walk *w, uint64_t i, const uint8_t **bytes, kv_error *err) {
    if (i < w->index_first || i >= w->index_first + w->index_count) {
        uint64_t count = w->footer.block_count - i;
        if (count > INDEX_BATCH)
            count = INDEX_BATCH;
        kv_status status =
            kv_checker_read(w->c, w->footer.index_offset + i * KV_BLOCK_HEADER_SIZE,
                            (size_t)count * KV_BLOCK_HEADER_SIZE, w->index, err);
        if (status < 0)
            return status;
        w->index_first = i;
        w->index_count = count;
    }
    *bytes = w->index + (i - w->index_first) * KV_BLOCK_HEADER_SIZE;
    return KV_OK;
}

/* Whether the index is whole, and its blocks fill the place before it. */
static kv_status judge_index(walk *w, kv_error *err) {
    uint64_t sum = 0, room = w->footer.index_offset - w->header_end;
    uint32_t crc = 0;
    bool whole = true;
    for (uint64_t i = 0; i < w->footer.block_count; i++) {
        const uint8_t *bytes;
        kv_block_header h;
        kv_status status = index_at(w, i, &bytes, err);
        if (status < 0)
            return status;
        crc = kv_crc32c(crc, bytes, KV_BLOCK_HEADER_SIZE);
        whole = whole && kv_block_header_decode(&h, bytes);
        if (whole) {
            whole = h.payload_size <= room && sum + KV_BLOCK_HEADER_SIZE + h.payload_size <= room;
            sum += KV_BLOCK_HEADER_SIZE + h.payload_size;
        }
    }
    w->indexed = whole && sum == room && crc == w->footer.index_crc;
    if (w->indexed)
        return KV_OK;
    return kv_checker_problem(w->c, err, w->footer.index_offset,
                              "nothing: each block has a header of its own",
                              "the checkpoint's index is damaged");
}

static kv_status walk_by_index(walk *w, kv_error *err) {
    kv_status status = KV_OK;
    for (uint64_t i = 0; status == KV_OK && i < w->footer.block_count; i++) {
        const uint8_t *own, *copy;
        kv_block_header h;
        status = index_at(w, i, &copy, err);
        if (status == KV_OK)
            status = kv_checker_get(w->c, w->offset, KV_BLOCK_HEADER_SIZE, &own, err);
        if (status < 0)
            break;
        if (!kv_block_header_decode(&h, copy)) { /* it did before: the file is changing */
            status = kv_checker_problem(w->c, err, w->footer.index_offset, "unknown",
                                        "the index changed while it was read");
            break;
        }
        if (memcmp(own, copy, KV_BLOCK_HEADER_SIZE) != 0)
            status = kv_checker_problem(w->c, err, w->offset,
                                        "nothing: the index has a copy of it",
                                        "the header of a block is damaged");
        if (status == KV_OK)
            status = take_block(w, &h, w->offset + KV_BLOCK_HEADER_SIZE, err);
        w->offset += KV_BLOCK_HEADER_SIZE + h.payload_size;
    }
    return status;
}

/* ---- By the blocks' own headers ------------------------------------------------------------ */

/* A block's header at the offset that may be believed. */
static kv_status header_at(walk *w, uint64_t offset, kv_block_header *h, bool *found,
                           kv_error *err) {
    const uint8_t *bytes;
    *found = false;
    if (w->limit - offset < KV_BLOCK_HEADER_SIZE)
        return KV_OK;
    kv_status status = kv_checker_get(w->c, offset, KV_BLOCK_HEADER_SIZE, &bytes, err);
    if (status == KV_OK)
        *found = kv_block_header_decode(h, bytes) &&
                 h->payload_size <= w->limit - offset - KV_BLOCK_HEADER_SIZE &&
                 h->payload_size <= SIZE_MAX - KV_BLOCK_HEADER_SIZE;
    return status;
}

/* Whether the next block stands there: the payload must fit, too, since anything could look like a header.
 * An empty block is not looked for: nothing is lost with it, and the index is full of their copies. */
static kv_status is_next_block(walk *w, uint64_t offset, bool *found, kv_error *err) {
    kv_block_header h;
    const uint8_t *payload;
    kv_status status = header_at(w, offset, &h, found, err);
    if (status < 0 || !*found)
        return status;
    *found = false;
    if (h.count == 0 || h.range_start < w->next_hash)
        return KV_OK;
    status = kv_checker_get(w->c, offset + KV_BLOCK_HEADER_SIZE, (size_t)h.payload_size, &payload,
                            err);
    if (status == KV_OK)
        *found = kv_crc32c(0, payload, (size_t)h.payload_size) == h.payload_crc;
    return status;
}

/* Sets w->offset to the next block behind the damaged header there, or to w->limit. */
static kv_status search_block(walk *w, kv_error *err) {
    enum { STEP = 65536 };
    uint8_t magic[KV_BLOCK_HEADER_SIZE]; /* and what follows it */
    kv_block_header_encode(&(kv_block_header){0}, magic);
    uint64_t at = w->offset + 1;
    while (at < w->limit && w->limit - at >= KV_BLOCK_HEADER_SIZE) {
        const uint8_t *bytes, *hit;
        size_t size = w->limit - at < STEP ? (size_t)(w->limit - at) : STEP;
        kv_status status = kv_checker_get(w->c, at, size, &bytes, err);
        if (status < 0)
            return status;
        hit = memchr(bytes, magic[0], size);
        at += hit == NULL ? size : (size_t)(hit - bytes);
        if (hit == NULL)
            continue;
        bool found;
        status = is_next_block(w, at, &found, err);
        if (status < 0)
            return status;
        if (found) {
            w->offset = at;
            return KV_OK;
        }
        at++;
    }
    w->offset = w->limit;
    return KV_OK;
}

/* The keys in the bytes up to the next block may be lost. */
static kv_status suspect_bytes(walk *w, uint64_t from, uint64_t to, kv_error *err) {
    enum { PART = 1 << 20 }; /* hints only: a record across the border is missed */
    for (; w->c->into != NULL && from < to; from += PART) {
        const uint8_t *bytes;
        size_t size = to - from < PART ? (size_t)(to - from) : PART;
        kv_status status = kv_checker_get(w->c, from, size, &bytes, err);
        if (status < 0)
            return status;
        kv_salvage_suspects(w->c, bytes, size, NULL);
    }
    return KV_OK;
}

static kv_status walk_by_headers(walk *w, kv_error *err) {
    while (!w->covered && w->offset < w->limit) {
        kv_block_header h;
        bool found;
        kv_status status = header_at(w, w->offset, &h, &found, err);
        if (status < 0)
            return status;
        if (found) {
            status = take_block(w, &h, w->offset + KV_BLOCK_HEADER_SIZE, err);
            w->offset += KV_BLOCK_HEADER_SIZE + h.payload_size;
        } else {
            uint64_t from = w->offset;
            status = search_block(w, err);
            if (status < 0)
                return status;
            w->c->summary->blocks_lost++;
            w->c->summary->bytes_lost += w->offset - from;
            w->problems++;
            kv_check_numbers n = {0};
            kv_check_loss loss = kv_check_loss_of(
                "the keys of one block or more: %s bytes", kv_check_number(&n, w->offset - from));
            status = kv_checker_problem(w->c, err, from, loss.text,
                                        "the header of a block is damaged");
            if (status == KV_OK)
                status = suspect_bytes(w, from + KV_BLOCK_HEADER_SIZE, w->offset, err);
        }
        if (status < 0)
            return status;
    }
    return KV_OK;
}

/* ---- The file ------------------------------------------------------------------------------ */

/* `*usable`: its blocks may be read; `*known`: its header is whole. */
static kv_status judge_header(kv_checker *c, kv_checkpoint_header *header, bool *usable,
                              bool *known, kv_error *err) {
    uint8_t bytes[KV_CHECKPOINT_HEADER_SIZE];
    kv_error problem;
    size_t size = c->file_size < KV_CHECKPOINT_HEADER_SIZE ? (size_t)c->file_size
                                                           : KV_CHECKPOINT_HEADER_SIZE;
    *usable = *known = false;
    kv_status status = kv_checker_read(c, 0, size, bytes, err);
    if (status < 0)
        return status;
    status = kv_checkpoint_header_decode(header, bytes, size, c->path, &problem);
    if (status == KV_ERR_VERSION)
        return kv_checker_report(c, &problem, "all keys of the checkpoint", err);
    if (status < 0) {
        *usable = size == KV_CHECKPOINT_HEADER_SIZE;
        return kv_checker_report(c, &problem,
                                 *usable ? "nothing, if the blocks are whole; but it is not known "
                                           "from where on the log counts, so all of it is read"
                                         : "all keys of the checkpoint",
                                 err);
    }
    if (c->store_id_known && memcmp(header->store_id, c->identity.store_id, 16) != 0)
        return kv_checker_problem(c, err, 16, "all keys of the checkpoint",
                                  "this checkpoint belongs to another store");
    *usable = *known = true;
    if (header->sequence != c->checkpoint)
        return kv_checker_problem(c, err, 32,
                                  "what was written since, as far as the log is missing",
                                  "this is checkpoint %" PRIu64 " by its header",
                                  header->sequence);
    return KV_OK;
}

static kv_status judge_footer(walk *w, kv_error *err) {
    uint8_t bytes[KV_CHECKPOINT_FOOTER_SIZE];
    kv_checker *c = w->c;
    const kv_checkpoint_footer *f = &w->footer;
    w->limit = c->file_size;
    if (c->file_size < w->header_end + KV_CHECKPOINT_FOOTER_SIZE)
        return kv_checker_problem(c, err, c->file_size, "all keys of the checkpoint",
                                  "the file ends after %" PRIu64 " bytes", c->file_size);
    uint64_t end = c->file_size - KV_CHECKPOINT_FOOTER_SIZE;
    kv_status status = kv_checker_read(c, end, sizeof bytes, bytes, err);
    if (status < 0)
        return status;
    w->footer_known = kv_checkpoint_footer_decode(&w->footer, bytes) &&
                      f->index_offset >= w->header_end && f->index_offset <= end &&
                      f->block_count <= end / KV_BLOCK_HEADER_SIZE &&
                      f->block_count * KV_BLOCK_HEADER_SIZE == end - f->index_offset;
    if (!w->footer_known)
        return kv_checker_problem(c, err, end, "nothing, if all blocks are there",
                                  "the checkpoint's footer is damaged, or the file has been cut");
    w->limit = f->index_offset;
    return judge_index(w, err);
}

/* Whether all hashes had a block, and the footer says the same as the blocks. */
static kv_status judge_end(walk *w, kv_error *err) {
    const kv_checkpoint_footer *f = &w->footer;
    if (!w->covered) {
        kv_check_loss loss = loss_of_hashes(w, w->next_hash, 0);
        return kv_checker_problem(w->c, err, w->offset, loss.text,
                                  "no whole block has the hashes from %016" PRIx64 " on",
                                  w->next_hash);
    }
    if (w->footer_known && w->offset != f->index_offset)
        return kv_checker_problem(w->c, err, w->offset, "nothing",
                                  "the index does not stand behind the last block");
    if (w->footer_known && w->problems == 0 &&
        (f->entries != w->entries || f->data_bytes != w->data_bytes || f->expiring != w->expiring))
        return kv_checker_problem(w->c, err, w->c->file_size - KV_CHECKPOINT_FOOTER_SIZE,
                                  "nothing", "the footer does not say what the blocks hold");
    return KV_OK;
}

kv_status kv_check_checkpoint(kv_checker *c, kv_checkpoint_header *header, bool *header_known,
                              kv_error *err) {
    walk w = {.c = c, .header_end = KV_CHECKPOINT_HEADER_SIZE, .offset = KV_CHECKPOINT_HEADER_SIZE};
    bool usable;
    kv_status status = judge_header(c, header, &usable, header_known, err);
    if (status < 0 || !usable)
        return status;
    w.index = kv_mem_alloc((size_t)INDEX_BATCH * KV_BLOCK_HEADER_SIZE);
    if (w.index == NULL)
        return kv_fail_nomem(err, (size_t)INDEX_BATCH * KV_BLOCK_HEADER_SIZE);
    status = judge_footer(&w, err);
    if (status == KV_OK)
        status = w.indexed ? walk_by_index(&w, err) : walk_by_headers(&w, err);
    if (status == KV_OK)
        status = judge_end(&w, err);
    kv_mem_free(w.index);
    return status;
}
