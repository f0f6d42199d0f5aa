/* check.h - reading a store that may be damaged: kv_check, and kv_salvage which also keeps what is whole.
 *
 * Layer: engine (above segment.h; salvage.c also calls the public API, on the new store).  Opening a store
 * stops at the first damage; this reads on behind it.  The parts:
 *   check.c             the lock, STORE, which files count; reading; reporting
 *   check_checkpoint.c  the newest checkpoint, block by block
 *   check_log.c         the log behind it, frame by frame
 *   salvage.c           what is whole into another store; which keys may be lost
 *
 * Rules:
 *  1. No file is ever opened for writing.
 *  2. Bytes are believed when their checksum fits, and then only at the place that they name (hash range, LSN
 *     and salt, store and sequence).  What a damaged header says is used for nothing but messages.
 *  3. Memory: one block or frame at a time, and never more than the file is long.
 *  4. A read that fails is a problem like another: the bytes count as zeros, which fit no checksum.
 *  5. A function here returns < 0 only for what ends the whole call: no memory, no descriptor, no access, the
 *     caller's wish, the new store.  Problems go to kv_checker_problem.
 */
#ifndef KV_ENGINE_CHECK_H
#define KV_ENGINE_CHECK_H

#include "../os/file.h"
#include "format.h"

/* One file of the log, by its name. */
typedef struct kv_check_segment {
    uint64_t sequence;
    uint64_t size;      /* of the file, bytes */
    uint64_t start_lsn; /* these two: when `known` */
    uint64_t salt;
    bool known;   /* its frames can be told: by its header, or (`adopted`) by the first of them */
    bool adopted; /* the header is damaged */
} kv_check_segment;

typedef struct kv_checker {
    const kv_check_options *options;
    kv_check_summary *summary;
    kv_db *into; /* NULL: only look */
    kv_dir dir;
    kv_file lock_file;
    kv_identity identity;
    bool store_id_known, hash_key_known; /* of `identity` */

    /* what is in the directory */
    bool store_file;
    kv_check_segment *segments; /* by sequence */
    size_t segment_count, segment_capacity;
    uint64_t checkpoint; /* sequence of the newest; 0: none */
    bool no_memory;      /* while listing */

    /* the file that is being read */
    kv_file file;
    char path[KV_ERROR_PATH_SIZE];
    uint64_t file_size;
    uint8_t *buffer; /* holds the file's bytes ... */
    size_t capacity;
    uint64_t start; /* ... from here, ... */
    size_t size;    /* ... so many */
    bool counted;   /* in the progress; a look at a header is not */

    /* progress */
    uint64_t done, total;
    uint64_t done_before; /* with the files before this one */

    kv_op *ops; /* salvage.c: the commit that is being made */
    size_t op_count, op_capacity;
    kv_db *held; /* keys whose expiry is past or near, and that; owned; NULL: none yet */
    uint64_t soon_ms;
} kv_checker;

/* ---- check.c: reading ---------------------------------------------------------------------- */

/* Opens a file of the store.  KV_NOTFOUND: it is missing, or (reported) cannot be opened. */
kv_status kv_checker_open(kv_checker *c, const char *name, bool counted, const char *loss,
                          kv_error *err) KV_MUST_CHECK;
void kv_checker_close(kv_checker *c);

/* `size` bytes of the open file, borrowed until the next call; they must be within the file. */
kv_status kv_checker_get(kv_checker *c, uint64_t offset, size_t size, const uint8_t **bytes,
                         kv_error *err) KV_MUST_CHECK;

/* The same into the caller's memory, and without counting them as progress. */
kv_status kv_checker_read(kv_checker *c, uint64_t offset, size_t size, uint8_t *bytes,
                          kv_error *err) KV_MUST_CHECK;

/* ---- check.c: reporting -------------------------------------------------------------------- */

/* What a problem costs, in words. */
typedef struct kv_check_loss {
    char text[256];
} kv_check_loss;
kv_check_loss kv_check_loss_of(const char *format, ...) KV_PRINTF(1, 2);

/* Reports damage of the open file (c->path).  KV_ERR_CANCELLED when the caller has enough. */
kv_status kv_checker_problem(kv_checker *c, kv_error *err, uint64_t offset, const char *loss,
                             const char *format, ...) KV_PRINTF(5, 6) KV_MUST_CHECK;
kv_status kv_checker_report(kv_checker *c, const kv_error *problem, const char *loss,
                            kv_error *err) KV_MUST_CHECK;

/* "1,234" in one of four buffers of `numbers`, by turns. */
typedef struct kv_check_numbers {
    char text[4][32];
    unsigned turn;
} kv_check_numbers;
const char *kv_check_number(kv_check_numbers *numbers, uint64_t number);

/* ---- check_checkpoint.c -------------------------------------------------------------------- */

/* The checkpoint c->checkpoint.  `*header_known`: `*header` is whole and of this store. */
kv_status kv_check_checkpoint(kv_checker *c, kv_checkpoint_header *header, bool *header_known,
                              kv_error *err) KV_MUST_CHECK;

/* ---- check_log.c --------------------------------------------------------------------------- */

/* The log from segment `sequence` on; from `*lsn` on, or where that segment starts if NULL. */
kv_status kv_check_log(kv_checker *c, uint64_t sequence, const uint64_t *lsn, kv_error *err)
    KV_MUST_CHECK;

/* ---- salvage.c ----------------------------------------------------------------------------- */

/* Records whose checksum fits and that all decode: of a block as they come, of a frame commit by commit. */
kv_status kv_salvage_records(kv_checker *c, const uint8_t *bytes, size_t size, bool commits,
                             kv_error *err) KV_MUST_CHECK;

/* When everything has been read: the expiries that were held back. */
kv_status kv_salvage_expiries(kv_checker *c, kv_error *err) KV_MUST_CHECK;

/* Guesses keys in damaged bytes; `range`: of a block, whose hashes they must have; may be NULL. */
void kv_salvage_suspects(kv_checker *c, const uint8_t *bytes, size_t size,
                         const kv_block_header *range);

#endif
