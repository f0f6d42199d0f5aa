/* checkpoint.c - see checkpoint.h. */
#include "checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../base/crc32c.h"
#include "../base/futex.h"
#include "../base/mem.h"

#define MANY 64u                     /* entries made under one of the pool's locks */
#define BUFFER_SIZE KV_CHECKPOINT_PIECE_MAX
#define BLOCK_WHOLE_MAX (512u << 10) /* larger ones are not put together in the buffer */
#define WINDOW_SIZE (8u << 20)       /* without direct I/O: bytes on their way to the disk while the next are prepared;
                                        more would only make the log's syncs wait longer */

void kv_checkpoint_name(uint64_t sequence, char *name) {
    snprintf(name, sizeof((kv_file *)0)->name, "%08" PRIu64 ".ckpt", sequence);
}

uint64_t kv_checkpoint_sequence(const char *name) {
    char again[sizeof((kv_file *)0)->name];
    uint64_t sequence = strtoull(name, NULL, 10);
    kv_checkpoint_name(sequence, again);
    return strcmp(name, again) == 0 ? sequence : 0;
}

/* ---- Reading ----------------------------------------------------------------------------------- */

static kv_status read_all(const kv_checkpoint_file *c, void *bytes, size_t size, uint64_t offset,
                          kv_error *err) {
    size_t got = 0;
    kv_status status = kv_file_read(&c->file, bytes, size, offset, &got, err);
    if (status == KV_OK && got < size)
        return kv_fail_corrupt(err, c->path, (int64_t)(offset + got),
                               "the file became shorter while it was read");
    return status;
}

static kv_status read_ends(kv_checkpoint_file *c, uint64_t sequence, const uint8_t store_id[16],
                           kv_error *err) {
    uint8_t header[KV_CHECKPOINT_HEADER_SIZE], footer[KV_CHECKPOINT_FOOTER_SIZE];
    size_t got = 0;
    kv_status status = kv_file_size(&c->file, &c->file_size, err);
    if (status == KV_OK)
        status = kv_file_read(&c->file, header, sizeof header, 0, &got, err);
    if (status == KV_OK)
        status = kv_checkpoint_header_decode(&c->header, header, got, c->path, err);
    if (status < 0)
        return status;
    if (memcmp(c->header.store_id, store_id, 16) != 0)
        return kv_fail_corrupt(err, c->path, 16, "this checkpoint belongs to another store");
    if (c->header.sequence != sequence)
        return kv_fail_corrupt(err, c->path, 32, "this is checkpoint %" PRIu64 " by its header",
                               c->header.sequence);
    if (c->file_size < sizeof header + sizeof footer)
        return kv_fail_corrupt(err, c->path, (int64_t)c->file_size, "the file has no footer");
    uint64_t at = c->file_size - sizeof footer;
    status = read_all(c, footer, sizeof footer, at, err);
    if (status < 0)
        return status;
    if (!kv_checkpoint_footer_decode(&c->footer, footer))
        return kv_fail_corrupt(err, c->path, (int64_t)at,
                               "the checkpoint's footer is damaged, or the file was cut");
    uint64_t index_size = c->footer.block_count * KV_BLOCK_HEADER_SIZE;
    if (c->footer.block_count > UINT32_MAX || c->footer.index_offset > at ||
        at - c->footer.index_offset != index_size)
        return kv_fail_corrupt(err, c->path, (int64_t)at,
                               "the checkpoint's index is not where the footer says");
    return KV_OK;
}

static kv_status read_index(kv_checkpoint_file *c, kv_error *err) {
    size_t count = (size_t)c->footer.block_count, size = count * KV_BLOCK_HEADER_SIZE;
    uint64_t offset = KV_CHECKPOINT_HEADER_SIZE, entries = 0;
    c->index = kv_mem_alloc(size + 1);
    c->offsets = kv_mem_alloc((count + 1) * sizeof c->offsets[0]);
    kv_status status = c->index == NULL || c->offsets == NULL ? kv_fail_nomem(err, size) : KV_OK;
    if (status == KV_OK)
        status = read_all(c, c->index, size, c->footer.index_offset, err);
    if (status == KV_OK && kv_crc32c(0, c->index, size) != c->footer.index_crc)
        status = kv_fail_corrupt(err, c->path, (int64_t)c->footer.index_offset,
                                 "the checksum of the checkpoint's index does not fit");
    for (size_t i = 0; i < count && status == KV_OK; i++) {
        kv_block_header h;
        c->offsets[i] = offset;
        if (!kv_block_header_decode_covered(&h, c->index + i * KV_BLOCK_HEADER_SIZE) ||
            h.payload_size > c->footer.index_offset - offset) {
            status = kv_fail_corrupt(
                err, c->path, (int64_t)(c->footer.index_offset + i * KV_BLOCK_HEADER_SIZE),
                "the checkpoint's index has an entry that cannot be");
            break;
        }
        offset += KV_BLOCK_HEADER_SIZE + h.payload_size;
        entries += h.count;
        if (offset > c->footer.index_offset)
            break;
    }
    if (status == KV_OK && (offset != c->footer.index_offset || entries != c->footer.entries))
        status = kv_fail_corrupt(err, c->path, (int64_t)c->footer.index_offset,
                                 "the checkpoint's index does not fit its blocks");
    c->block_count = count;
    return status;
}

kv_status kv_checkpoint_open(kv_checkpoint_file **out, const kv_dir *dir, uint64_t sequence,
                             const uint8_t store_id[16], kv_error *err) {
    char name[sizeof((kv_file *)0)->name];
    kv_checkpoint_file *c = kv_mem_alloc_zero(sizeof *c);
    if (c == NULL)
        return kv_fail_nomem(err, sizeof *c);
    kv_checkpoint_name(sequence, name);
    kv_dir_join(dir, name, c->path);
    kv_status status = kv_file_open(&c->file, dir, name, KV_OPEN_READ, err);
    if (status == KV_NOTFOUND)
        status = kv_fail_corrupt(err, c->path, -1, "this checkpoint is missing");
    if (status == KV_OK)
        status = read_ends(c, sequence, store_id, err);
    if (status == KV_OK)
        status = read_index(c, err);
    if (status < 0) {
        kv_checkpoint_destroy(c);
        return status;
    }
    *out = c;
    return KV_OK;
}

void kv_checkpoint_destroy(kv_checkpoint_file *c) {
    if (c == NULL)
        return;
    kv_file_close(&c->file);
    kv_mem_free(c->index);
    kv_mem_free(c->offsets);
    kv_mem_free(c);
}

/* ---- Loading a shard ----------------------------------------------------------------------------- */

typedef struct arrival {
    kv_record record;
    uint64_t hash;
} arrival;

/* Makes `count` entries and puts them into the array.  False: no memory. */
static bool take_in(kv_table *table, kv_array array, uint32_t depth, const arrival *arrivals,
                    size_t count) {
    size_t sizes[MANY];
    void *blocks[MANY];
    for (size_t i = 0; i < count; i++) {
        const kv_record *r = &arrivals[i].record;
        sizes[i] = kv_entry_block_size(r->key.size, r->value.size, r->expiry);
    }
    if (!kv_pool_alloc_many(table->entries, sizes, blocks, count))
        return false;
    for (size_t i = 0; i < count; i++) {
        const kv_record *r = &arrivals[i].record;
        kv_entry *e = kv_entry_init(blocks[i], r->key, r->value, r->expiry);
        kv_array_insert(array, depth, arrivals[i].hash, e);
    }
    return true;
}

static kv_status fill(const kv_checkpoint_file *c, kv_table *table, uint32_t number,
                      const kv_block_header *h, const uint8_t *payload, kv_array array,
                      kv_error *err) {
    uint64_t start = h->range_start, mask = ~(UINT64_MAX >> h->depth);
    size_t left = (size_t)h->payload_size, count = 0, many = 0;
    uint64_t next_expiry = 0;
    uint32_t expiring = 0;
    arrival arrivals[MANY];
    for (const uint8_t *at = payload; left > 0;) {
        arrival *a = &arrivals[many];
        size_t size = kv_record_decode(&a->record, at, left);
        if (size != 0)
            a->hash = kv_table_hash(table, a->record.key);
        if (size == 0 || a->record.kind != KV_RECORD_PUT || a->record.last ||
            (a->hash & mask) != start || count == h->count)
            return kv_fail_corrupt(
                err, c->path,
                (int64_t)(c->offsets[number] + KV_BLOCK_HEADER_SIZE + (size_t)(at - payload)),
                "a record that does not belong here, in a block whose checksum fits");
        at += size;
        left -= size;
        count++;
        if (a->record.expiry != 0 && (expiring++ == 0 || a->record.expiry < next_expiry))
            next_expiry = a->record.expiry;
        if (++many < MANY && left > 0)
            continue;
        if (!take_in(table, array, h->depth, arrivals, many))
            return kv_fail_nomem(err, (size_t)h->payload_size);
        many = 0;
    }
    if (count != h->count || expiring != h->expiring || next_expiry != h->next_expiry)
        return kv_fail_corrupt(err, c->path, (int64_t)c->offsets[number],
                               "a block has not the records that its header says");
    return KV_OK;
}

static kv_status load(void *arg, kv_table *table, uint32_t number, kv_shard *draft,
                      kv_error *err) {
    const kv_checkpoint_file *c = arg;
    const uint8_t *expected = c->index + number * KV_BLOCK_HEADER_SIZE;
    kv_block_header h;
    (void)kv_block_header_decode_covered(&h, expected); /* it was valid when the index was read */
    if (h.payload_size > SIZE_MAX - KV_BLOCK_HEADER_SIZE)
        return kv_fail_nomem(err, SIZE_MAX);
    size_t size = KV_BLOCK_HEADER_SIZE + (size_t)h.payload_size;
    uint64_t offset = c->offsets[number];
    uint8_t *bytes = kv_mem_alloc(size);
    kv_array array = kv_array_create_for(table, h.depth, h.count);
    kv_status status = bytes == NULL || array == 0 ? kv_fail_nomem(err, size) : KV_OK;
    if (status == KV_OK)
        status = read_all(c, bytes, size, offset, err);
    if (status == KV_OK && memcmp(bytes, expected, KV_BLOCK_HEADER_SIZE) != 0)
        status = kv_fail_corrupt(err, c->path, (int64_t)offset,
                                 "the header of a block is not the one in the index");
    if (status == KV_OK && kv_crc32c(0, bytes + KV_BLOCK_HEADER_SIZE,
                                     (size_t)h.payload_size) != h.payload_crc)
        status = kv_fail_corrupt(err, c->path, (int64_t)offset,
                                 "the checksum of a block with %" PRIu32 " keys does not fit",
                                 h.count);
    if (status == KV_OK)
        status = fill(c, table, number, &h, bytes + KV_BLOCK_HEADER_SIZE, array, err);
    if (status < 0)
        kv_array_release(table, array);
    else
        atomic_store_explicit(&draft->array, array, memory_order_relaxed);
    kv_mem_free(bytes);
    return status;
}

static void origin_of(void *arg, size_t number, kv_shard_origin *o) {
    const kv_checkpoint_file *c = arg;
    kv_block_header h;
    (void)kv_block_header_decode_covered(&h, c->index + number * KV_BLOCK_HEADER_SIZE);
    *o = (kv_shard_origin){
        .range_start = h.range_start,
        .depth = h.depth,
        .count = h.count,
        .expiring = h.expiring,
        .next_expiry = h.next_expiry,
        .data_bytes = kv_block_data_bytes(&h),
    };
}

kv_status kv_checkpoint_init_table(kv_checkpoint_file *c, kv_table *table, kv_siphash_key hash_key,
                                   kv_error *err) {
    kv_status status =
        kv_table_init_unloaded(table, hash_key, c->block_count, origin_of, load, c, err);
    if (status == KV_ERR_CORRUPT && err != NULL)
        memcpy(err->path, c->path, sizeof err->path);
    return status;
}

/* ---- Writing ------------------------------------------------------------------------------------- */

struct kv_checkpoint_writer {
    kv_file file;
    const kv_dir *dir;
    uint64_t sequence;
    kv_checkpoint_pace pace;
    void *pace_arg;
    size_t piece;    /* written at a time */
    uint8_t *buffer; /* of BUFFER_SIZE, aligned for direct I/O */
    size_t used;
    uint64_t written; /* bytes of the file before the buffer */
    uint64_t started; /* without direct I/O: those whose writing to the disk has been begun */
    uint8_t *index;
    size_t block_count, block_capacity;
    uint64_t next_hash;
    kv_checkpoint_footer footer;
    bool begun; /* there is a checkpoint.tmp */
    bool published;
};

/* The file went through the page cache: begins to write what is new of it to the disk, and waits for what was begun a
 * window ago; or for all, when others are waiting for the disk. */
static void write_back(kv_checkpoint_writer *w) {
    const kv_os *os = w->file.os;
    if (os->write_back == NULL)
        return;
    uint64_t window_start = w->started > WINDOW_SIZE ? w->started - WINDOW_SIZE : 0;
    if (w->piece < BUFFER_SIZE) {
        os->write_back(os->ctx, w->file.fd, window_start, w->written - window_start, true);
    } else if (w->written - w->started >= WINDOW_SIZE / 2) {
        os->write_back(os->ctx, w->file.fd, w->started, w->written - w->started, false);
        os->write_back(os->ctx, w->file.fd, window_start, w->started - window_start, true);
    } else {
        return;
    }
    w->started = w->written;
}

/* Writes what is in the buffer, a piece at a time, but for what is less than a block of direct I/O. */
static kv_status flush(kv_checkpoint_writer *w, kv_error *err) {
    size_t done = 0;
    for (;;) {
        size_t size = w->used - done;
        if (w->file.direct != 0)
            size &= ~(size_t)(w->file.direct - 1);
        if (size == 0)
            break;
        if (size > w->piece)
            size = w->piece;
        uint64_t start_ns = kv_now_ns();
        kv_status status =
            kv_file_write_blocks(&w->file, w->buffer + done, size, w->written, NULL, err);
        if (status < 0)
            return status;
        done += size;
        w->written += size;
        if (w->file.direct == 0)
            write_back(w);
        w->piece = w->pace(w->pace_arg, kv_now_ns() - start_ns);
        assert(w->piece % KV_DIRECT_ALIGNMENT_MAX == 0 && w->piece - 1 < BUFFER_SIZE);
    }
    w->used -= done;
    memmove(w->buffer, w->buffer + done, w->used);
    return KV_OK;
}

static kv_status emit(kv_checkpoint_writer *w, const void *bytes, size_t size, kv_error *err) {
    while (size > 0) {
        size_t part = BUFFER_SIZE - w->used < size ? BUFFER_SIZE - w->used : size;
        memcpy(w->buffer + w->used, bytes, part);
        w->used += part;
        bytes = (const uint8_t *)bytes + part;
        size -= part;
        if (w->used == BUFFER_SIZE) {
            kv_status status = flush(w, err);
            if (status < 0)
                return status;
        }
    }
    return KV_OK;
}

kv_status kv_checkpoint_create(kv_checkpoint_writer **out, const kv_dir *dir,
                               const kv_checkpoint_header *header, kv_checkpoint_pace pace,
                               void *pace_arg, kv_error *err) {
    uint8_t bytes[KV_CHECKPOINT_HEADER_SIZE];
    kv_checkpoint_writer *w = kv_mem_alloc_zero(sizeof *w);
    if (w == NULL)
        return kv_fail_nomem(err, sizeof *w);
    w->file.fd = -1;
    w->dir = dir;
    w->sequence = header->sequence;
    w->pace = pace;
    w->pace_arg = pace_arg;
    w->piece = pace(pace_arg, 0);
    w->buffer = kv_mem_alloc_aligned(BUFFER_SIZE, KV_DIRECT_ALIGNMENT_MAX);
    kv_status status = w->buffer == NULL ? kv_fail_nomem(err, BUFFER_SIZE) : KV_OK;
    /* An older checkpoint is written over as it is.  After a crash it may have its first name again, with bytes of
     * the new one: a newer one is there then, and nobody looks at it. */
    if (status == KV_OK)
        w->begun = kv_dir_rename(dir, KV_CHECKPOINT_RECYCLED, KV_CHECKPOINT_NEW, NULL) == KV_OK;
    if (status == KV_OK)
        status = kv_file_open(&w->file, dir, KV_CHECKPOINT_NEW, KV_OPEN_CREATE, err);
    w->begun |= status == KV_OK;
    kv_checkpoint_header_encode(header, bytes);
    if (status == KV_OK) {
        kv_file_set_direct(&w->file);
        status = emit(w, bytes, sizeof bytes, err);
    }
    if (status < 0) {
        kv_checkpoint_writer_destroy(w);
        return status;
    }
    *out = w;
    return KV_OK;
}

static kv_record record_of(const kv_entry *e) {
    return (kv_record){.kind = KV_RECORD_PUT, .key = kv_entry_key(e), .value = kv_entry_value(e),
                       .expiry = kv_entry_expiry(e)};
}

static kv_status index_add(kv_checkpoint_writer *w, const kv_block_header *h, kv_error *err) {
    if (w->block_count == w->block_capacity) {
        size_t capacity = w->block_capacity > 0 ? w->block_capacity * 2 : 64;
        uint8_t *index = kv_mem_realloc(w->index, capacity * KV_BLOCK_HEADER_SIZE);
        if (index == NULL)
            return kv_fail_nomem(err, capacity * KV_BLOCK_HEADER_SIZE);
        w->index = index;
        w->block_capacity = capacity;
    }
    kv_block_header_encode(h, w->index + w->block_count++ * KV_BLOCK_HEADER_SIZE);
    return KV_OK;
}

/* A block that is too large for the buffer: once for its checksum, once to write it. */
static kv_status add_large(kv_checkpoint_writer *w, kv_block_header *h, kv_entry *const *entries,
                           size_t count, kv_error *err) {
    uint8_t head[KV_BLOCK_HEADER_SIZE];
    static_assert(KV_BLOCK_HEADER_SIZE >= KV_RECORD_HEADER_SIZE + sizeof(uint64_t), "head");
    kv_status status = KV_OK;
    for (int pass = 0; pass < 2 && status == KV_OK; pass++) {
        for (size_t i = 0; i < count && status == KV_OK; i++) {
            kv_record r = record_of(entries[i]), bare = {.kind = r.kind, .expiry = r.expiry};
            /* What frames key and value, by the one encoder: sizes are put in behind it. */
            (void)kv_record_encode(&bare, head);
            kv_store16(head + 2, (uint16_t)r.key.size);
            kv_store32(head + 4, (uint32_t)r.value.size);
            kv_bytes parts[] = {{head, KV_RECORD_HEADER_SIZE}, r.key, r.value,
                                {head + KV_RECORD_HEADER_SIZE, r.expiry != 0 ? sizeof r.expiry : 0}};
            for (size_t j = 0; j < 4 && status == KV_OK; j++) {
                if (pass == 0)
                    h->payload_crc = kv_crc32c(h->payload_crc, parts[j].data, parts[j].size);
                else
                    status = emit(w, parts[j].data, parts[j].size, err);
            }
        }
        if (pass == 0) {
            kv_block_header_encode(h, head);
            status = emit(w, head, sizeof head, err);
        }
    }
    return status;
}

kv_status kv_checkpoint_add(kv_checkpoint_writer *w, uint64_t range_start, uint32_t depth,
                            kv_entry *const *entries, size_t count, kv_error *err) {
    enum { AHEAD = 12 };
    kv_block_header h = {.range_start = range_start, .depth = depth, .count = (uint32_t)count};
    assert(range_start == w->next_hash);
    w->next_hash = range_start + (UINT64_C(1) << (64 - depth));
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            __builtin_prefetch(entries[i + AHEAD]);
            __builtin_prefetch((const char *)entries[i + AHEAD] + 64);
        }
        uint64_t expiry = kv_entry_expiry(entries[i]);
        h.payload_size +=
            kv_record_size(entries[i]->key_size, entries[i]->value_size, expiry);
        if (expiry != 0 && (h.expiring++ == 0 || expiry < h.next_expiry))
            h.next_expiry = expiry;
    }
    w->footer.entries += count;
    w->footer.expiring += h.expiring;
    w->footer.data_bytes += kv_block_data_bytes(&h);
    kv_status status = KV_OK;
    if (h.payload_size > BLOCK_WHOLE_MAX) {
        status = add_large(w, &h, entries, count, err);
    } else {
        if (BUFFER_SIZE - w->used < KV_BLOCK_HEADER_SIZE + h.payload_size)
            status = flush(w, err);
        if (status < 0)
            return status;
        uint8_t *start = w->buffer + w->used, *at = start + KV_BLOCK_HEADER_SIZE;
        for (size_t i = 0; i < count; i++) {
            kv_record r = record_of(entries[i]);
            at = kv_record_encode(&r, at);
        }
        h.payload_crc = kv_crc32c(0, start + KV_BLOCK_HEADER_SIZE, (size_t)h.payload_size);
        kv_block_header_encode(&h, start);
        w->used += (size_t)(at - start);
        if (w->used >= w->piece)
            status = flush(w, err);
    }
    return status == KV_OK ? index_add(w, &h, err) : status;
}

uint64_t kv_checkpoint_size(const kv_checkpoint_writer *w) {
    return w->written + w->used;
}

/* What is left is no whole block: it is written as one. */
static kv_status write_rest(kv_checkpoint_writer *w, kv_error *err) {
    assert(w->file.direct != 0 && w->used < w->file.direct);
    memset(w->buffer + w->used, 0, w->file.direct - w->used);
    kv_status status =
        kv_file_write_blocks(&w->file, w->buffer, w->file.direct, w->written, NULL, err);
    w->written += w->used;
    w->used = 0;
    return status;
}

/* Cuts off what stands behind: zeros of the last block, or the rest of an older checkpoint. */
static kv_status cut(kv_checkpoint_writer *w, kv_error *err) {
    uint64_t size = 0;
    kv_status status = kv_file_size(&w->file, &size, err);
    return status == KV_OK && size > w->written ? kv_file_truncate(&w->file, w->written, err) : status;
}

kv_status kv_checkpoint_finish(kv_checkpoint_writer *w, kv_error *err) {
    uint8_t bytes[KV_CHECKPOINT_FOOTER_SIZE];
    size_t size = w->block_count * KV_BLOCK_HEADER_SIZE;
    assert(w->block_count > 0 && w->next_hash == 0); /* all hashes */
    w->footer.block_count = w->block_count;
    w->footer.index_offset = kv_checkpoint_size(w);
    w->footer.index_crc = kv_crc32c(0, w->index, size);
    kv_checkpoint_footer_encode(&w->footer, bytes);
    kv_status status = emit(w, w->index, size, err);
    if (status == KV_OK)
        status = emit(w, bytes, sizeof bytes, err);
    if (status == KV_OK)
        status = flush(w, err);
    if (status == KV_OK && w->used > 0)
        status = write_rest(w, err);
    if (status == KV_OK)
        status = cut(w, err);
    if (status == KV_OK)
        status = kv_file_sync(&w->file, err);
    return status;
}

kv_status kv_checkpoint_publish(kv_checkpoint_writer *w, kv_error *err) {
    char name[sizeof w->file.name];
    kv_checkpoint_name(w->sequence, name);
    kv_status status = kv_dir_rename(w->dir, KV_CHECKPOINT_NEW, name, err);
    if (status < 0)
        return status;
    w->published = true; /* from here on it may be the one that the next open takes */
    return kv_dir_sync(w->dir, err);
}

void kv_checkpoint_writer_destroy(kv_checkpoint_writer *w) {
    if (w == NULL)
        return;
    kv_file_close(&w->file);
    if (w->begun && !w->published)
        (void)!kv_dir_unlink(w->dir, KV_CHECKPOINT_NEW, NULL);
    kv_mem_free(w->buffer);
    kv_mem_free(w->index);
    kv_mem_free(w);
}
