/* segment.h - one file of the log: how it is named, made and begun.
 *
 * Layer: engine (above format.h, os/file.h).  A segment is written full of zeros and synced before
 * its first frame, so that a commit's sync changes neither the file's size nor its extents (half as
 * many syncs a second otherwise).  When frames are large, or not synced one by one, that no longer pays for writing
 * everything twice, and the room is only reserved.  Either way it reads as zeros.  It gets its header, then its name:
 *
 *   spare.log, zeros, synced -> header, synced -> NNNNNNNN.log -> directory synced -> frames
 *
 * So a file with a segment's name has a whole header, whenever the power went.
 *
 * A segment that a checkpoint has made useless becomes recycled.log, and then a spare as it is: its room is there and
 * written.  The bytes that it holds belong to another salt, so none of them is ever taken for a frame.
 */
#ifndef KV_ENGINE_SEGMENT_H
#define KV_ENGINE_SEGMENT_H

#include "../os/file.h"
#include "format.h"

#define KV_SEGMENT_SPARE "spare.log"
#define KV_SEGMENT_RECYCLED "recycled.log"

typedef struct kv_segment {
    kv_file file;
    kv_segment_header header;
} kv_segment;

static inline uint64_t kv_segment_offset(const kv_segment *segment, uint64_t lsn) {
    return KV_SEGMENT_HEADER_SIZE + (lsn - segment->header.start_lsn);
}

/* "00000001.log" into `name` (64 bytes). */
void kv_segment_name(uint64_t sequence, char *name);
/* The sequence of a segment's name; 0: it is none. */
uint64_t kv_segment_sequence(const char *name);

/* The size for a segment that has to hold a frame of `frame_size` bytes and the end frame. */
uint64_t kv_segment_size_for(uint64_t frame_size, uint64_t size_wanted);

/* Makes spare.log: `size` zero bytes, synced; written (which takes long) or only reserved.  On failure
 * the file is removed. */
kv_status kv_segment_prepare(kv_file *file, const kv_dir *dir, uint64_t size, bool written,
                             kv_error *err) KV_MUST_CHECK;

/* The same from recycled.log.  KV_NOTFOUND: there is none. */
kv_status kv_segment_prepare_recycled(kv_file *file, const kv_dir *dir, kv_error *err)
    KV_MUST_CHECK;

/* Gives a prepared file its header, synced.  Taken: `file` is moved into `segment`, or closed on failure (the spare may
 * then be left behind: the next one is made in its place, and open removes it). */
kv_status kv_segment_begin(kv_segment *segment, kv_file *file, const kv_segment_header *header,
                           kv_error *err) KV_MUST_CHECK;

/* Gives it its name, and syncs the directory.  On failure the file is closed, and whether it has the name, now or after
 * a crash, is not known: a log may not write behind the segment's start LSN elsewhere. */
kv_status kv_segment_publish(kv_segment *segment, kv_error *err) KV_MUST_CHECK;

/* Opens the segment of that sequence and checks its header against name, size and store. */
kv_status kv_segment_open(kv_segment *segment, const kv_dir *dir, uint64_t sequence,
                          const uint8_t store_id[16], bool write, kv_error *err) KV_MUST_CHECK;

/* Whether segment 1 holds a frame; KV_NOTFOUND: there is no such file. */
kv_status kv_segment_first_is_used(const kv_dir *dir, bool *used, kv_error *err) KV_MUST_CHECK;

#endif
