/* recover.c - see recover.h. */
#include "recover.h"

#include <errno.h>
#include <inttypes.h>

#include "../base/crc32c.h"
#include "../base/futex.h"
#include "../base/mem.h"

#define BEHIND_CLOSE (1u << 20) /* bytes behind a closing frame that are looked at */
#define CHUNK_SIZE (1u << 20) /* bytes read at a time: they stay in the second-level cache */
#define HELPED_SEGMENTS_MIN 4u /* segments from which a second thread pays: 7 MiB of log, by default */

/* ---- Reading a segment ------------------------------------------------------------------------ */

/* Two buffers by turns: while one is filled and read, records in the other are still being applied. */
typedef struct buffer {
    uint8_t *bytes;
    size_t capacity;
    uint64_t mark; /* of the applier: its records are done when that is passed */
} buffer;

typedef struct reader {
    const kv_segment *segment;
    char path[KV_ERROR_PATH_SIZE];
    kv_applier *applier;
    kv_recovery *info;
    buffer buffers[2];
    unsigned turn; /* which buffer has the bytes of the file ... */
    uint64_t start; /* ... from here, ... */
    size_t size;    /* ... so many */
    uint64_t proven_lsn; /* the largest durable LSN that a valid frame knows */
    kv_frame_kind last_kind;
} reader;

/* Takes the other buffer, with room for `size` bytes, once no record points into it any more. */
static kv_status next_buffer(reader *r, size_t size, kv_error *err) {
    r->buffers[r->turn].mark = kv_applier_mark(r->applier);
    r->turn ^= 1;
    buffer *b = &r->buffers[r->turn];
    /* Also applies what this thread has kept for itself, of whichever buffer. */
    kv_status status = kv_applier_wait(r->applier, b->mark, err);
    if (status < 0 || size <= b->capacity)
        return status;
    uint8_t *bytes = kv_mem_realloc(b->bytes, size);
    if (bytes == NULL)
        return kv_fail_nomem(err, size);
    b->bytes = bytes;
    b->capacity = size;
    return KV_OK;
}

/* The bytes from `offset`, `size` of them, in memory; they are within the file. */
static kv_status reader_get(reader *r, uint64_t offset, size_t size, const uint8_t **bytes,
                            kv_error *err) {
    if (offset < r->start || offset + size > r->start + r->size) {
        kv_status status = next_buffer(r, size > CHUNK_SIZE ? size : CHUNK_SIZE, err);
        buffer *b = &r->buffers[r->turn];
        r->start = r->size = 0;
        if (status == KV_OK)
            status = kv_file_read(&r->segment->file, b->bytes, b->capacity, offset, &r->size, err);
        if (status < 0)
            return status;
        r->start = offset;
        if (r->size < size)
            return kv_fail_corrupt(err, r->path, (int64_t)(offset + r->size),
                                   "the file became shorter while it was read");
    }
    *bytes = r->buffers[r->turn].bytes + (offset - r->start);
    return KV_OK;
}

/* The frame at the LSN, if it is valid: KV_OK; KV_NOTFOUND when it is not. */
static kv_status read_frame(reader *r, uint64_t lsn, kv_frame_header *header,
                            const uint8_t **payload, kv_error *err) {
    uint64_t offset = kv_segment_offset(r->segment, lsn);
    uint64_t file_size = r->segment->header.file_size;
    const uint8_t *bytes;
    if (offset + KV_FRAME_HEADER_SIZE > file_size)
        return KV_NOTFOUND;
    kv_status status = reader_get(r, offset, KV_FRAME_HEADER_SIZE, &bytes, err);
    if (status < 0)
        return status;
    if (!kv_frame_header_decode(header, bytes) || header->lsn != lsn ||
        header->salt != r->segment->header.salt ||
        kv_frame_room(header) > file_size - offset)
        return KV_NOTFOUND;
    status = reader_get(r, offset, kv_frame_size(header->payload_size), &bytes, err);
    if (status < 0)
        return status;
    *payload = bytes + KV_FRAME_HEADER_SIZE;
    if (kv_crc32c(0, *payload, header->payload_size) != header->payload_crc)
        return KV_NOTFOUND;
    return KV_OK;
}

static kv_status apply_frame(reader *r, const kv_frame_header *header, const uint8_t *payload,
                             kv_error *err) {
    const uint8_t *buffer_bytes = r->buffers[r->turn].bytes;
    size_t left = header->payload_size;
    while (left > 0) {
        kv_record record;
        size_t size = kv_record_decode(&record, payload, left);
        if (size == 0)
            return kv_fail_corrupt(err, r->path,
                                   (int64_t)(r->start + (uint64_t)(payload - buffer_bytes)),
                                   "a record of an unknown form in a frame whose checksum fits");
        kv_status status = kv_applier_add(r->applier, &record, err);
        if (status < 0)
            return status;
        r->info->records++;
        r->info->commits += record.last;
        payload += size;
        left -= size;
    }
    r->info->frames++;
    r->info->bytes += kv_frame_size(header->payload_size);
    return KV_OK;
}

/* Applies frames from `*lsn` on, up to `limit_lsn`, an end frame, or the first that is not valid.
 * `*lsn` is then its LSN; `*ended`: it is an end frame. */
static kv_status read_frames(reader *r, uint64_t *lsn, uint64_t limit_lsn, bool *ended,
                             kv_error *err) {
    *ended = false;
    for (;;) {
        kv_frame_header header;
        const uint8_t *payload;
        kv_status status = read_frame(r, *lsn, &header, &payload, err);
        if (status < 0)
            return status;
        if (status == KV_NOTFOUND)
            return KV_OK;
        if (header.durable_lsn > r->proven_lsn)
            r->proven_lsn = header.durable_lsn;
        if (header.kind == KV_FRAME_END) {
            *ended = true;
            return KV_OK;
        }
        if (*lsn >= limit_lsn)
            return kv_fail_corrupt(err, r->path, (int64_t)kv_segment_offset(r->segment, *lsn),
                                   "a frame behind the start of the next segment");
        status = apply_frame(r, &header, payload, err);
        if (status < 0)
            return status;
        r->last_kind = header.kind;
        *lsn += kv_frame_size(header.payload_size);
    }
}

/* ---- The end of the log -------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *bytes, size_t size) {
    uint64_t any = 0;
    for (; size >= 8; bytes += 8, size -= 8)
        any |= kv_load64(bytes);
    for (; size > 0; bytes++, size--)
        any |= *bytes;
    return any == 0;
}

/* Looks at everything behind the first frame that is not valid, at `lsn`.  A header there that knows
 * `lsn` as durable makes it KV_ERR_CORRUPT.  `*end`: the offset behind what must go, which is the last byte that
 * is not 0; in a recycled segment, where older bytes stand, the end of the last frame of this segment's own.  `limit`:
 * so many bytes; UINT64_MAX: to the end of the file. */
static kv_status look_on(reader *r, uint64_t lsn, uint64_t limit, uint64_t *end, kv_error *err) {
    enum { BLOCK = 65536, OVERLAP = KV_FRAME_HEADER_SIZE };
    uint64_t file_size = r->segment->header.file_size;
    uint64_t bad = kv_segment_offset(r->segment, lsn);
    *end = bad;
    if (file_size > bad && file_size - bad > limit)
        file_size = bad + limit;
    for (uint64_t offset = bad; offset < file_size; offset += BLOCK) {
        const uint8_t *bytes;
        uint64_t left = file_size - offset;
        size_t size = left < BLOCK + OVERLAP ? (size_t)left : BLOCK + OVERLAP;
        kv_status status = reader_get(r, offset, size, &bytes, err);
        if (status < 0)
            return status;
        if (all_zero(bytes, size))
            continue;
        uint64_t frames_end = 0; /* of those that were meant to be in this segment */
        for (size_t i = 0; i + KV_FRAME_HEADER_SIZE <= size; i += KV_FRAME_ALIGNMENT) {
            kv_frame_header header;
            if (!kv_frame_header_decode(&header, bytes + i) ||
                header.salt != r->segment->header.salt ||
                kv_segment_offset(r->segment, header.lsn) != offset + i)
                continue;
            if (header.durable_lsn > lsn)
                return kv_fail_corrupt(
                    err, r->path, (int64_t)bad,
                    "a frame that was on disk is damaged: the one at %" PRIu64
                    " was written later",
                    offset + i);
            frames_end = offset + i + kv_frame_size(header.payload_size);
            if (frames_end > file_size)
                frames_end = file_size;
        }
        if (!r->segment->header.recycled) {
            while (size > 0 && bytes[size - 1] == 0)
                size--;
            frames_end = offset + size;
        }
        if (frames_end > *end)
            *end = frames_end;
    }
    return KV_OK;
}

/* Copies `size` bytes of the segment from `offset` to the same place of `to` less `shift`. */
static kv_status copy_bytes(reader *r, uint64_t offset, uint64_t size, const kv_file *to,
                            uint64_t shift, kv_error *err) {
    kv_status status = KV_OK;
    while (size > 0 && status == KV_OK) {
        const uint8_t *bytes;
        size_t part = size < CHUNK_SIZE ? (size_t)size : CHUNK_SIZE;
        status = reader_get(r, offset, part, &bytes, err);
        if (status == KV_OK)
            status = kv_file_write(to, bytes, part, offset - shift, NULL, err);
        offset += part;
        size -= part;
    }
    return status;
}

/* Keeps the torn bytes in a file of their own, for whoever wants to look; replaces an older one. */
static kv_status keep_torn(reader *r, uint64_t start, uint64_t end, kv_error *err) {
    kv_file file;
    const kv_dir *dir = r->segment->file.dir;
    kv_status status = kv_file_open(&file, dir, KV_TORN_FILE, KV_OPEN_CREATE, err);
    if (status < 0)
        return status;
    status = kv_file_truncate(&file, 0, err);
    if (status == KV_OK)
        status = copy_bytes(r, start, end - start, &file, start, err);
    if (status == KV_OK)
        status = kv_file_sync(&file, err);
    kv_file_close(&file);
    return status;
}

/* The closing frame that the log ends with becomes a mark, before anything is written behind it.  So a closing
 * frame says that nothing is. */
static kv_status reopen_log(reader *r, uint64_t lsn, kv_error *err) {
    uint8_t bytes[KV_FRAME_HEADER_SIZE];
    uint64_t start = lsn - KV_FRAME_HEADER_SIZE;
    kv_frame_header header = {.lsn = start, .durable_lsn = start, .kind = KV_FRAME_MARK,
                              .salt = r->segment->header.salt};
    kv_frame_header_encode(&header, bytes);
    return kv_file_write(&r->segment->file, bytes, sizeof bytes,
                         kv_segment_offset(r->segment, start), NULL, err);
}

/* Makes sure that what was read is on disk, and that nothing else is there.
 * A crash in here leaves the same valid frames and less of the tail: the next open does it again. */
static kv_status settle(reader *r, uint64_t lsn, uint64_t torn_end, kv_error *err) {
    uint64_t proven = r->proven_lsn > r->segment->header.start_lsn
                          ? r->proven_lsn
                          : r->segment->header.start_lsn;
    uint64_t from = kv_segment_offset(r->segment, proven);
    uint64_t bad = kv_segment_offset(r->segment, lsn);
    kv_status status = KV_OK;
    if (torn_end > bad)
        status = keep_torn(r, bad, torn_end, err);
    if (status == KV_OK && from < bad)
        status = copy_bytes(r, from, bad - from, &r->segment->file, 0, err);
    if (status == KV_OK && r->last_kind == KV_FRAME_CLOSE)
        status = reopen_log(r, lsn, err);
    if (status == KV_OK && torn_end > bad)
        status = kv_file_write_zeros(&r->segment->file, torn_end - bad, bad, err);
    if (status == KV_OK)
        status = kv_file_sync(&r->segment->file, err);
    if (status == KV_OK && torn_end > bad)
        status = kv_dir_sync(r->segment->file.dir, err);
    return status;
}

/* A crash came between the last segment's making and the end frame of the one before: writes it, so
 * that the last segment cannot go missing unnoticed. */
static kv_status write_end(const kv_segment *last, kv_error *err) {
    uint8_t bytes[KV_FRAME_HEADER_SIZE];
    uint64_t lsn = last->header.start_lsn;
    kv_segment before;
    kv_status status = kv_segment_open(&before, last->file.dir, last->header.sequence - 1,
                                       last->header.store_id, true, err);
    if (status < 0)
        return status;
    kv_frame_header header = {
        .lsn = lsn, .durable_lsn = lsn, .salt = before.header.salt, .kind = KV_FRAME_END};
    kv_frame_header_encode(&header, bytes);
    status = kv_file_write(&before.file, bytes, sizeof bytes, kv_segment_offset(&before, lsn),
                           NULL, err);
    if (status == KV_OK)
        status = kv_file_sync(&before.file, err);
    kv_file_close(&before.file);
    return status;
}

/* ---- The whole log ----------------------------------------------------------------------------------- */

static void reader_begin(reader *r, const kv_segment *segment) {
    r->segment = segment;
    r->last_kind = KV_FRAME_MARK; /* none yet: not closed */
    r->start = r->size = 0;
    kv_dir_join(segment->file.dir, segment->file.name, r->path);
}

/* Reads a segment that is not the last: it must reach the start of the next one.  `*ended`: its end
 * frame is there. */
static kv_status read_full_segment(reader *r, uint64_t *lsn, const kv_segment *next, bool *ended,
                                   kv_error *err) {
    kv_status status = read_frames(r, lsn, next->header.start_lsn, ended, err);
    if (status == KV_OK && *lsn != next->header.start_lsn)
        return kv_fail_corrupt(err, r->path, (int64_t)kv_segment_offset(r->segment, *lsn),
                               "a frame that was on disk is damaged: the next segment starts at "
                               "LSN %" PRIu64 ", this one ends at %" PRIu64,
                               next->header.start_lsn, *lsn);
    return status;
}

/* For a reader, who may not change the file: what is in the page cache can be pushed out.  A file system that is never
 * written to may have no sync, and nothing waits for one there. */
static kv_status push_out(const kv_file *file, kv_error *err) {
    kv_error local;
    kv_status status = kv_file_sync(file, &local);
    if (status == KV_OK || local.sys_errno == EINVAL || local.sys_errno == EROFS)
        return KV_OK;
    if (err != NULL)
        *err = local;
    return status;
}

static kv_status read_last_segment(reader *r, uint64_t *lsn, bool read_only, kv_error *err) {
    kv_recovery *info = r->info;
    bool ended;
    uint64_t torn_end;
    kv_status status = read_frames(r, lsn, UINT64_MAX, &ended, err);
    if (status == KV_OK)
        status = kv_applier_finish(r->applier, err);
    if (status < 0)
        return status;
    if (ended) {
        char name[64], path[KV_ERROR_PATH_SIZE];
        kv_segment_name(r->segment->header.sequence + 1, name);
        kv_dir_join(r->segment->file.dir, name, path);
        return kv_fail_corrupt(err, path, -1, "this segment of the log is missing: the one before "
                                              "says that the log goes on in it");
    }
    uint64_t bad = kv_segment_offset(r->segment, *lsn);
    /* Behind a closing frame nothing was written (reopen_log); version 1 did not promise that.  A little is looked at
     * all the same: a disk that has lost the mark shows the closing frame that it replaced, and frames behind it.  Then
     * it is a frame as any other: what stands behind it must not be reached by the frames that will be written. */
    bool closed = r->last_kind == KV_FRAME_CLOSE && r->segment->header.version >= 2;
    status = look_on(r, *lsn, closed ? BEHIND_CLOSE : UINT64_MAX, &torn_end, err);
    if (status == KV_OK && closed && torn_end > bad)
        status = look_on(r, *lsn, UINT64_MAX, &torn_end, err);
    if (status < 0)
        return status;
    info->bytes_cut = torn_end - bad;
    /* Even then the close frame itself may be in the page cache only (its sync failed, say), and a hole in
     * its place would look like damage later. */
    info->clean = r->last_kind == KV_FRAME_CLOSE && info->bytes_cut == 0;
    return read_only ? push_out(&r->segment->file, err) : settle(r, *lsn, torn_end, err);
}

static kv_status older_add(kv_recovered *recovered, const kv_segment_header *header,
                           kv_error *err) {
    size_t count = recovered->older_count;
    kv_log_segment *older = kv_mem_realloc(recovered->older, (count + 1) * sizeof *older);
    if (older == NULL)
        return kv_fail_nomem(err, (count + 1) * sizeof *older);
    older[count] = (kv_log_segment){header->sequence, header->start_lsn, header->file_size};
    recovered->older = older;
    recovered->older_count = count + 1;
    return KV_OK;
}

/* The segment in which the log goes on must have the place where it goes on. */
static kv_status check_start(const reader *r, uint64_t lsn, kv_error *err) {
    const kv_segment_header *h = &r->segment->header;
    if (lsn >= h->start_lsn &&
        lsn - h->start_lsn <= h->file_size - KV_SEGMENT_HEADER_SIZE - KV_FRAME_HEADER_SIZE)
        return KV_OK;
    return kv_fail_corrupt(err, r->path, 40,
                           "the log is needed from LSN %" PRIu64
                           " on, and this segment starts at %" PRIu64,
                           lsn, h->start_lsn);
}

kv_status kv_recover(const kv_dir *dir, const uint8_t store_id[16], uint64_t sequence,
                     uint64_t last, uint64_t lsn, kv_table *table, kv_tail *tail, bool read_only,
                     kv_recovered *recovered, kv_recovery *info, kv_error *err) {
    uint64_t started_ns = kv_now_ns();
    /* A checkpoint was made when everything below its LSN was on disk. */
    reader r = {.info = info, .proven_lsn = lsn};
    kv_segment segment = {.file = KV_FILE_CLOSED}, next = {.file = KV_FILE_CLOSED};
    bool ended = true;
    *recovered = (kv_recovered){.segment.file = KV_FILE_CLOSED};

    /* There must be all up to the last: one that is missing is noticed when it is opened. */
    kv_status status = kv_segment_open(&segment, dir, sequence, store_id, !read_only, err);
    if (status == KV_OK)
        status = kv_applier_create(table, tail, last >= sequence + HELPED_SEGMENTS_MIN - 1,
                                   &r.applier, err);
    if (status < 0)
        goto out;
    reader_begin(&r, &segment);
    status = check_start(&r, lsn, err);
    for (; sequence < last && status == KV_OK; sequence++) {
        reader_begin(&r, &segment);
        status = kv_segment_open(&next, dir, sequence + 1, store_id, !read_only, err);
        if (status == KV_OK)
            status = read_full_segment(&r, &lsn, &next, &ended, err);
        if (status == KV_OK)
            status = older_add(recovered, &segment.header, err);
        if (status < 0)
            goto out;
        kv_file_close(&segment.file);
        segment = next;
        next.file.fd = -1;
    }
    if (status < 0)
        goto out;
    reader_begin(&r, &segment);
    status = read_last_segment(&r, &lsn, read_only, err);
    if (status == KV_OK && !ended && !read_only)
        status = write_end(&segment, err);
    if (status < 0)
        goto out;
    info->segments = recovered->older_count + 1;
    recovered->lsn = lsn;
    if (!read_only) {
        recovered->segment = segment;
        segment.file.fd = -1;
    }
out:
    info->duration_ns = kv_now_ns() - started_ns;
    kv_file_close(&segment.file);
    kv_file_close(&next.file);
    kv_applier_destroy(r.applier);
    kv_mem_free(r.buffers[0].bytes);
    kv_mem_free(r.buffers[1].bytes);
    return status;
}
