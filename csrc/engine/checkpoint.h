/* checkpoint.h - the whole state at one LSN in one file: writing it, and loading shards from it.
 *
 * Layer: engine (above table.h, format.h, os/file.h).  Knows entries and shards; nothing of logs or of an open
 * store.  FORMAT.md has the bytes.
 *
 *   checkpoint.tmp, blocks, index, footer, synced -> NNNNNNNN.ckpt -> directory synced
 *
 * So a file with a checkpoint's name is whole, whenever the power went.  NNNNNNNN is the segment that the log
 * goes on in; what stands before it is not needed any more.
 *
 * Opening reads header, footer and index only: some 48 bytes a shard.  A block is read and checked when its shard is
 * touched.
 */
#ifndef KV_ENGINE_CHECKPOINT_H
#define KV_ENGINE_CHECKPOINT_H

#include "../os/file.h"
#include "format.h"
#include "table.h"

#define KV_CHECKPOINT_NEW "checkpoint.tmp"
#define KV_CHECKPOINT_RECYCLED "recycled.ckpt"

/* "00000001.ckpt" into `name` (64 bytes), and back (0: it is none). */
void kv_checkpoint_name(uint64_t sequence, char *name);
uint64_t kv_checkpoint_sequence(const char *name);

/* ---- Reading ------------------------------------------------------------------------------------- */

typedef struct kv_checkpoint_file {
    kv_file file; /* closed when nothing is left to be loaded */
    char path[KV_ERROR_PATH_SIZE];
    kv_checkpoint_header header;
    kv_checkpoint_footer footer;
    uint64_t file_size;
    size_t block_count;
    uint8_t *index;    /* the blocks' headers, as they are in the file: their checksum has been seen */
    uint64_t *offsets; /* of the blocks */
} kv_checkpoint_file;

/* Opens it and checks all but the blocks' payloads.  Owned. */
kv_status kv_checkpoint_open(kv_checkpoint_file **checkpoint, const kv_dir *dir, uint64_t sequence,
                             const uint8_t store_id[16], kv_error *err) KV_MUST_CHECK;
void kv_checkpoint_destroy(kv_checkpoint_file *checkpoint); /* NULL is allowed */

/* An empty table whose shards are loaded from the checkpoint, which must outlive their loading. */
kv_status kv_checkpoint_init_table(kv_checkpoint_file *checkpoint, kv_table *table,
                                   kv_siphash_key hash_key, kv_error *err) KV_MUST_CHECK;

/* ---- Writing ------------------------------------------------------------------------------------- */

typedef struct kv_checkpoint_writer kv_checkpoint_writer;

#define KV_CHECKPOINT_PIECE_MAX (1u << 20)

/* Called after each piece that the disk was given, with the time that it took; may rest.  Answers the most to give
 * at once from now on: a multiple of KV_DIRECT_ALIGNMENT_MAX; less than KV_CHECKPOINT_PIECE_MAX says that others are
 * waiting for the disk. */
typedef size_t (*kv_checkpoint_pace)(void *arg, uint64_t took_ns);

/* Begins checkpoint.tmp, of recycled.ckpt if there is one, in the directory, which must outlive the writer.  Owned. */
kv_status kv_checkpoint_create(kv_checkpoint_writer **writer, const kv_dir *dir,
                               const kv_checkpoint_header *header, kv_checkpoint_pace pace,
                               void *pace_arg, kv_error *err) KV_MUST_CHECK;

/* The next block: the entries of the hashes that share the upper `depth` bits of `range_start`.  The first one
 * starts at 0, each next one where the one before ended, the last one ends at the last hash. */
kv_status kv_checkpoint_add(kv_checkpoint_writer *writer, uint64_t range_start, uint32_t depth,
                            kv_entry *const *entries, size_t count, kv_error *err) KV_MUST_CHECK;
/* So many bytes were given to the file. */
uint64_t kv_checkpoint_size(const kv_checkpoint_writer *writer);

/* Index, footer, sync: then all of it is on disk under its temporary name. */
kv_status kv_checkpoint_finish(kv_checkpoint_writer *writer, kv_error *err) KV_MUST_CHECK;
/* Gives it its name, for good. */
kv_status kv_checkpoint_publish(kv_checkpoint_writer *writer, kv_error *err) KV_MUST_CHECK;
/* Ends the writer, and removes the file unless it was published. */
void kv_checkpoint_writer_destroy(kv_checkpoint_writer *writer);

#endif
