/* segment.c - see segment.h. */
#include "segment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void kv_segment_name(uint64_t sequence, char *name) {
    snprintf(name, sizeof((kv_file *)0)->name, "%08" PRIu64 ".log", sequence);
}

uint64_t kv_segment_sequence(const char *name) {
    char again[sizeof((kv_file *)0)->name];
    uint64_t sequence = strtoull(name, NULL, 10);
    kv_segment_name(sequence, again);
    return strcmp(name, again) == 0 ? sequence : 0;
}

uint64_t kv_segment_size_for(uint64_t frame_size, uint64_t size_wanted) {
    uint64_t needed = KV_SEGMENT_HEADER_SIZE + frame_size + kv_frame_size(0);
    needed = (needed + KV_SEGMENT_HEADER_SIZE - 1) / KV_SEGMENT_HEADER_SIZE * KV_SEGMENT_HEADER_SIZE;
    return needed > size_wanted ? needed : size_wanted;
}

/* Of a spare, which is no part of the log yet: here, and only here, a sync may fail and the log go on, also without
 * space.  (A failed sync is KV_ERR_IO otherwise, whatever its cause.) */
static kv_status sync_spare(const kv_file *file, kv_error *err) {
    kv_error local;
    if (kv_file_sync(file, &local) == KV_OK)
        return KV_OK;
    return kv_fail_sys(err, local.sys_errno, local.path, "cannot sync a new segment");
}

kv_status kv_segment_prepare(kv_file *file, const kv_dir *dir, uint64_t size, bool written,
                             kv_error *err) {
    kv_status status = kv_file_open(file, dir, KV_SEGMENT_SPARE, KV_OPEN_CREATE, err);
    if (status < 0)
        return status;
    status = kv_file_truncate(file, 0, err);
    if (status == KV_OK)
        status = written ? kv_file_write_zeros(file, size, 0, err)
                         : kv_file_reserve(file, size, err);
    if (status == KV_OK)
        status = sync_spare(file, err);
    if (status < 0) {
        kv_file_close(file);
        (void)!kv_dir_unlink(dir, KV_SEGMENT_SPARE, NULL); /* its room may be what is missing */
    }
    return status;
}

kv_status kv_segment_prepare_recycled(kv_file *file, const kv_dir *dir, kv_error *err) {
    kv_status status = kv_file_open(file, dir, KV_SEGMENT_RECYCLED, KV_OPEN_WRITE, err);
    if (status != KV_OK)
        return status;
    status = kv_dir_rename(dir, KV_SEGMENT_RECYCLED, KV_SEGMENT_SPARE, err);
    if (status < 0) {
        kv_file_close(file);
        (void)!kv_dir_unlink(dir, KV_SEGMENT_RECYCLED, NULL);
        return status;
    }
    memcpy(file->name, KV_SEGMENT_SPARE, sizeof KV_SEGMENT_SPARE);
    return KV_OK;
}

kv_status kv_segment_begin(kv_segment *segment, kv_file *file, const kv_segment_header *header,
                           kv_error *err) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header_encode(header, bytes);
    kv_status status = kv_file_write(file, bytes, sizeof bytes, 0, NULL, err);
    if (status == KV_OK)
        status = sync_spare(file, err);
    /* A crash here leaves a spare that looks like a segment: open removes it by its name. */
    if (status < 0) {
        kv_file_close(file);
        return status;
    }
    segment->file = *file;
    segment->header = *header;
    file->fd = -1;
    return KV_OK;
}

kv_status kv_segment_publish(kv_segment *segment, kv_error *err) {
    kv_file *file = &segment->file;
    char name[sizeof file->name];
    kv_segment_name(segment->header.sequence, name);
    kv_status status = kv_dir_rename(file->dir, file->name, name, err);
    /* A crash here leaves the segment, or not, and no frames in it: nothing is lost either way. */
    if (status == KV_OK)
        status = kv_dir_sync(file->dir, err);
    if (status < 0) {
        kv_file_close(file);
        return status;
    }
    memcpy(file->name, name, sizeof name);
    return KV_OK;
}

kv_status kv_segment_open(kv_segment *segment, const kv_dir *dir, uint64_t sequence,
                          const uint8_t store_id[16], bool write, kv_error *err) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    char name[sizeof segment->file.name], path[KV_ERROR_PATH_SIZE];
    size_t got;
    uint64_t size;
    kv_segment_name(sequence, name);
    kv_dir_join(dir, name, path);
    kv_status status =
        kv_file_open(&segment->file, dir, name, write ? KV_OPEN_WRITE : KV_OPEN_READ, err);
    if (status == KV_NOTFOUND)
        return kv_fail_corrupt(err, path, -1, "this segment of the log is missing");
    if (status < 0)
        return status;
    status = kv_file_size(&segment->file, &size, err);
    if (status == KV_OK)
        status = kv_file_read(&segment->file, bytes, sizeof bytes, 0, &got, err);
    if (status == KV_OK)
        status = kv_segment_header_decode(&segment->header, bytes, got, path, err);
    if (status < 0)
        goto out;
    if (memcmp(segment->header.store_id, store_id, 16) != 0)
        status = kv_fail_corrupt(err, path, 16, "this segment belongs to another store");
    else if (segment->header.sequence != sequence)
        status = kv_fail_corrupt(err, path, 32, "this is segment %" PRIu64 " by its header",
                                 segment->header.sequence);
    else if (segment->header.file_size != size)
        status = kv_fail_corrupt(err, path, (int64_t)size,
                                 "the file has %" PRIu64 " bytes, not %" PRIu64, size,
                                 segment->header.file_size);
out:
    if (status < 0)
        kv_file_close(&segment->file);
    return status;
}

kv_status kv_segment_first_is_used(const kv_dir *dir, bool *used, kv_error *err) {
    kv_file file;
    char name[sizeof file.name];
    uint8_t bytes[KV_FRAME_HEADER_SIZE] = {0};
    size_t got = 0;
    kv_segment_name(1, name);
    kv_status status = kv_file_open(&file, dir, name, KV_OPEN_READ, err);
    if (status != KV_OK)
        return status;
    status = kv_file_read(&file, bytes, sizeof bytes, KV_SEGMENT_HEADER_SIZE, &got, err);
    kv_file_close(&file);
    *used = false;
    for (size_t i = 0; i < got; i++)
        *used |= bytes[i] != 0;
    return status;
}
