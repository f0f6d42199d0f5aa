/* reader.c - see reader.h. */
#include "reader.h"

#include "base/crc32c.h"

typedef struct segment {
    uint8_t *bytes;
    size_t size;
    kv_segment_header header;
} segment;

static bool refuse(reading *r, const char *why) {
    r->refusal = why;
    return false;
}

uint8_t *reader_file(memory_os *image, const char *name, size_t *size) {
    int64_t there = memory_os_size(image, WORLD_DIR, name);
    if (there < 0)
        return NULL;
    *size = (size_t)there;
    uint8_t *bytes = malloc(*size > 0 ? *size : 1);
    CHECK(bytes != NULL);
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, name, 0, bytes, *size), 0);
    return bytes;
}

/* ---- What is there ------------------------------------------------------------------------- */

typedef struct names {
    uint64_t segment, checkpoint; /* the highest; 0: none */
} names;

static void note_highest(const char *name, const char *end, uint64_t *highest) {
    char again[64];
    uint64_t number = strtoull(name, NULL, 10);
    snprintf(again, sizeof again, "%08" PRIu64 "%s", number, end);
    if (strcmp(again, name) == 0 && number > *highest)
        *highest = number;
}

static bool note_name(void *arg, const char *name) {
    names *n = arg;
    note_highest(name, ".log", &n->segment);
    note_highest(name, ".ckpt", &n->checkpoint);
    return true;
}

static names list(memory_os *image) {
    const kv_os *os = memory_os_table(image);
    names n = {0};
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    CHECK(dir >= 0);
    CHECK_EQ(os->dir_list(os->ctx, dir, note_name, &n), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    return n;
}

/* ---- The checkpoint ------------------------------------------------------------------------ */

static bool is_in_block(const kv_block_header *h, uint64_t hash) {
    return hash - h->range_start <= (UINT64_MAX >> h->depth);
}

/* Whether a block is whole and holds what its header says. */
static bool block_is_whole(reading *r, const kv_block_header *h, const uint8_t *copy,
                           const uint8_t *block) {
    const uint8_t *payload = block + KV_BLOCK_HEADER_SIZE;
    uint64_t next_expiry = 0;
    uint32_t count = 0, expiring = 0;
    if (memcmp(copy, block, KV_BLOCK_HEADER_SIZE) != 0 ||
        kv_crc32c(0, payload, (size_t)h->payload_size) != h->payload_crc)
        return false;
    for (size_t at = 0; at < h->payload_size; count++) {
        kv_record record;
        size_t size = kv_record_decode(&record, payload + at, (size_t)h->payload_size - at);
        if (size == 0 || record.kind != KV_RECORD_PUT || record.last ||
            !is_in_block(h, kv_siphash13(r->hash_key, record.key.data, record.key.size)))
            return false;
        if (record.expiry != 0 && (expiring++ == 0 || record.expiry < next_expiry))
            next_expiry = record.expiry;
        at += size;
    }
    return count == h->count && expiring == h->expiring && next_expiry == h->next_expiry;
}

static void take_block(reading *r, const kv_block_header *h, const uint8_t *block) {
    const uint8_t *payload = block + KV_BLOCK_HEADER_SIZE;
    for (size_t at = 0; at < h->payload_size;) {
        kv_record record;
        at += kv_record_decode(&record, payload + at, (size_t)h->payload_size - at);
        r->twice |= model_get(r->m, record.key) != NULL;
        model_put_expiring(r->m, record.key, record.value, record.expiry);
    }
}

static bool read_blocks(reading *r, const uint8_t *bytes, const kv_checkpoint_footer *f) {
    const uint8_t *index = bytes + f->index_offset;
    uint64_t at = KV_CHECKPOINT_HEADER_SIZE, entries = 0, next = 0;
    unsigned deepest = 0;
    for (uint64_t i = 0; i < f->block_count; i++) {
        kv_block_header h;
        const uint8_t *copy = index + i * KV_BLOCK_HEADER_SIZE;
        if (!kv_block_header_decode_covered(&h, copy) || h.depth < 4 || h.depth > 26)
            return refuse(r, "an entry of the index");
        if (h.range_start != next || (i > 0 && next == 0))
            return refuse(r, "the ranges of the blocks");
        if (f->index_offset - at < KV_BLOCK_HEADER_SIZE ||
            f->index_offset - at - KV_BLOCK_HEADER_SIZE < h.payload_size)
            return refuse(r, "the sizes of the blocks");
        if (block_is_whole(r, &h, copy, bytes + at)) {
            take_block(r, &h, bytes + at);
        } else {
            CHECK(r->damaged_count < READER_BLOCKS_MAX);
            r->damaged[r->damaged_count++] = h;
        }
        deepest = h.depth > deepest ? h.depth : deepest;
        next += UINT64_C(1) << (64 - h.depth);
        at += KV_BLOCK_HEADER_SIZE + h.payload_size;
        entries += h.count;
    }
    if (f->block_count == 0 || next != 0 || at != f->index_offset || entries != f->entries)
        return refuse(r, "the blocks as a whole");
    if ((UINT64_C(1) << deepest) / f->block_count > 1024)
        return refuse(r, "blocks of too different sizes");
    return true;
}

static bool read_checkpoint(reading *r, const uint8_t *bytes, size_t size, uint64_t sequence,
                            const kv_identity *identity) {
    kv_checkpoint_header h;
    kv_checkpoint_footer f;
    if (bytes == NULL || kv_checkpoint_header_decode(&h, bytes, size, "", NULL) < 0)
        return refuse(r, "the checkpoint's header");
    if (h.sequence != sequence || memcmp(h.store_id, identity->store_id, sizeof h.store_id) != 0)
        return refuse(r, "whose checkpoint it is");
    if (size < KV_CHECKPOINT_HEADER_SIZE + KV_CHECKPOINT_FOOTER_SIZE)
        return refuse(r, "the checkpoint's size");
    size_t end = size - KV_CHECKPOINT_FOOTER_SIZE;
    if (!kv_checkpoint_footer_decode(&f, bytes + end))
        return refuse(r, "the checkpoint's footer");
    if (f.index_offset < KV_CHECKPOINT_HEADER_SIZE || f.index_offset > end ||
        f.block_count > end / KV_BLOCK_HEADER_SIZE ||
        f.block_count * KV_BLOCK_HEADER_SIZE != end - f.index_offset ||
        kv_crc32c(0, bytes + f.index_offset, end - (size_t)f.index_offset) != f.index_crc)
        return refuse(r, "the checkpoint's index");
    r->lsn = h.lsn;
    return read_blocks(r, bytes, &f);
}

bool reader_is_damaged(const reading *r, kv_bytes key) {
    uint64_t hash = kv_siphash13(r->hash_key, key.data, key.size);
    for (size_t i = 0; i < r->damaged_count; i++)
        if (is_in_block(&r->damaged[i], hash))
            return true;
    return false;
}

/* ---- The log ------------------------------------------------------------------------------- */

static bool segment_load(reading *r, segment *s, memory_os *image, uint64_t sequence,
                         const kv_identity *identity) {
    char name[64];
    snprintf(name, sizeof name, "%08" PRIu64 ".log", sequence);
    s->bytes = reader_file(image, name, &s->size);
    if (s->bytes == NULL)
        return refuse(r, "a segment that is missing");
    if (kv_segment_header_decode(&s->header, s->bytes, s->size, "", NULL) < 0)
        return refuse(r, "a segment's header");
    if (s->header.sequence != sequence || s->header.file_size != s->size ||
        s->size < KV_SEGMENT_HEADER_SIZE + KV_FRAME_HEADER_SIZE ||
        memcmp(s->header.store_id, identity->store_id, sizeof identity->store_id) != 0)
        return refuse(r, "whose segment it is");
    return true;
}

/* The header of a frame of this segment at its place `at` in the file. */
static bool header_at(const segment *s, uint64_t at, kv_frame_header *h) {
    return at <= s->size && s->size - at >= KV_FRAME_HEADER_SIZE &&
           kv_frame_header_decode(h, s->bytes + at) && h->salt == s->header.salt &&
           h->lsn == s->header.start_lsn + (at - KV_SEGMENT_HEADER_SIZE);
}

static bool frame_at(const segment *s, uint64_t at, kv_frame_header *h) {
    uint64_t behind = KV_FRAME_HEADER_SIZE; /* room for an end frame */
    return header_at(s, at, h) &&
           kv_frame_size(h->payload_size) + (h->kind == KV_FRAME_END ? 0 : behind) <= s->size - at &&
           kv_crc32c(0, s->bytes + at + KV_FRAME_HEADER_SIZE, h->payload_size) == h->payload_crc;
}

static bool apply(reading *r, const kv_record *record) {
    if (record->kind == KV_RECORD_CLEAR) {
        model_clear(r->m);
        r->forgotten |= r->damaged_count > 0;
        r->damaged_count = 0;
        return true;
    }
    if (reader_is_damaged(r, record->key))
        return true; /* it waits for the block */
    if (record->kind == KV_RECORD_PUT)
        model_put_expiring(r->m, record->key, record->value, record->expiry);
    else if (record->kind == KV_RECORD_DELETE)
        model_delete(r->m, record->key);
    else
        model_expire(r->m, record->key, record->expiry);
    return true;
}

/* From r->lsn on, up to `limit`, an end frame or what is no frame; *last: the kind of the last one. */
static bool read_frames(reading *r, const segment *s, uint64_t limit, kv_frame_kind *last) {
    kv_frame_header h;
    for (;;) {
        uint64_t at = KV_SEGMENT_HEADER_SIZE + (r->lsn - s->header.start_lsn);
        if (!frame_at(s, at, &h))
            return true;
        *last = h.kind;
        if (h.kind == KV_FRAME_END)
            return true;
        if (r->lsn >= limit)
            return refuse(r, "a frame where the next segment begins");
        const uint8_t *payload = s->bytes + at + KV_FRAME_HEADER_SIZE;
        for (size_t i = 0; i < h.payload_size;) {
            kv_record record;
            size_t size = kv_record_decode(&record, payload + i, h.payload_size - i);
            if (size == 0)
                return refuse(r, "a record that is none");
            if (!apply(r, &record))
                return false;
            i += size;
        }
        r->lsn += kv_frame_size(h.payload_size);
    }
}

/* From one offset to another: nothing that an open would cut. */
static bool is_bare(const segment *s, uint64_t from, uint64_t to) {
    kv_frame_header h;
    if (!s->header.recycled) {
        while (from < to && s->bytes[from] == 0)
            from++;
        return from == to;
    }
    for (uint64_t at = from; at + KV_FRAME_HEADER_SIZE <= to; at += KV_FRAME_ALIGNMENT)
        if (header_at(s, at, &h))
            return false;
    return true;
}

/* The last segment, whose frames end at r->lsn: is there a later one that knew of it? */
static bool judge_end(reading *r, const segment *s, kv_frame_kind last) {
    kv_frame_header h;
    if (last == KV_FRAME_END)
        return refuse(r, "the segment after an end frame is missing");
    uint64_t start = KV_SEGMENT_HEADER_SIZE + (r->lsn - s->header.start_lsn);
    if (last == KV_FRAME_CLOSE && s->header.version >= 2 && s->size - start > 1 << 20 &&
        is_bare(s, start, start + (1 << 20)))
        return true;
    for (uint64_t at = start; at + KV_FRAME_HEADER_SIZE <= s->size; at += KV_FRAME_ALIGNMENT)
        if (header_at(s, at, &h) && h.durable_lsn > r->lsn)
            return refuse(r, "a frame that was on disk is damaged");
    return true;
}

static bool read_log(reading *r, memory_os *image, uint64_t first, uint64_t last,
                     const kv_identity *identity) {
    segment s = {0}, next = {0};
    bool good = segment_load(r, &s, image, first, identity);
    if (good && (r->lsn < s.header.start_lsn ||
                 r->lsn - s.header.start_lsn >
                     s.size - KV_SEGMENT_HEADER_SIZE - KV_FRAME_HEADER_SIZE))
        good = refuse(r, "the log does not go on where the checkpoint says");
    for (uint64_t sequence = first; good; sequence++) {
        kv_frame_kind kind = KV_FRAME_MARK;
        if (sequence >= last) {
            good = read_frames(r, &s, UINT64_MAX, &kind) && judge_end(r, &s, kind);
            break;
        }
        good = segment_load(r, &next, image, sequence + 1, identity) &&
               read_frames(r, &s, next.header.start_lsn, &kind);
        if (good && r->lsn != next.header.start_lsn)
            good = refuse(r, "a segment ends before the next one starts");
        free(s.bytes);
        s = next;
        next.bytes = NULL;
    }
    free(s.bytes);
    free(next.bytes);
    return good;
}

/* ---- All of it ----------------------------------------------------------------------------- */

reading *reader_read(memory_os *image) {
    reading *r = calloc(1, sizeof *r);
    kv_identity identity;
    size_t size;
    CHECK(r != NULL);
    r->m = model_create();
    uint8_t *bytes = reader_file(image, "STORE", &size);
    names n = list(image);
    if (bytes == NULL || kv_identity_decode(&identity, bytes, size, "", NULL) < 0) {
        free(bytes);
        refuse(r, "STORE");
        return r;
    }
    free(bytes);
    r->hash_key = identity.hash_key;
    if (n.checkpoint != 0) {
        char name[64];
        snprintf(name, sizeof name, "%08" PRIu64 ".ckpt", n.checkpoint);
        bytes = reader_file(image, name, &size);
        bool good = read_checkpoint(r, bytes, size, n.checkpoint, &identity);
        free(bytes);
        if (!good)
            return r;
    }
    read_log(r, image, n.checkpoint != 0 ? n.checkpoint : 1, n.segment, &identity);
    return r;
}

void reader_end(reading *r) {
    model_destroy(r->m);
    free(r);
}
