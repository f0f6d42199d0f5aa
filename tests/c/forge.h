/* forge.h - a store made byte by byte, to be damaged: files that no running store has written.
 *
 * A checkpoint of four blocks, in a log of three segments: the first is a leftover; the second begins before the
 * checkpoint and has an end; the third was made of an older segment and ends with a closing frame.  Values tell
 * their key and how old they are (forge_value), and b->m is what the store holds.
 */
#ifndef FORGE_H
#define FORGE_H

#include "check.h"
#include "engine/format.h"
#include "kv.h"
#include "memory_os.h"
#include "model.h"

#define FORGE_STORE "STORE"
#define FORGE_CHECKPOINT "00000002.ckpt"
#define FORGE_SEGMENT_1 "00000001.log"
#define FORGE_SEGMENT_2 "00000002.log"
#define FORGE_SEGMENT_3 "00000003.log"
#define FORGE_SEGMENT_SIZE 8192u
#define FORGE_BLOCKS 4u
#define FORGE_KEYS 48u /* in the checkpoint */
#define FORGE_FAR_EXPIRY UINT64_C(7258118400000) /* the year 2200 */
#define FORGE_PAST_EXPIRY UINT64_C(946684800000) /* 2000 */

/* The four files that count. */
enum { FORGE_FILES = 4 };
extern const char *const forge_files[FORGE_FILES];

/* ---- Making -------------------------------------------------------------------------------- */

typedef struct forge_buffer {
    uint8_t bytes[65536];
    size_t size;
} forge_buffer;

typedef struct forge_segment {
    kv_segment_header header;
    uint8_t bytes[FORGE_SEGMENT_SIZE];
    uint64_t lsn;
} forge_segment;

typedef struct forge_checkpoint {
    forge_buffer file;
    kv_checkpoint_header header;
    kv_checkpoint_footer footer;
    uint64_t blocks[FORGE_BLOCKS]; /* offsets of their headers */
    kv_block_header headers[FORGE_BLOCKS];
} forge_checkpoint;

/* Its frames; the last five are in segment 3. */
enum { F_OLD, F_PUT, F_DELETE, F_BATCH, F_EXPIRE, F_NEXT, F_LATER, F_MARK, F_LAST, F_CLOSE,
       FRAMES };

typedef struct forge {
    memory_os *memory;
    kv_identity identity;
    forge_checkpoint checkpoint;
    forge_segment two, three;
    uint64_t frames[FRAMES]; /* offsets; F_NEXT and later: in segment three */
    uint64_t end_frame;      /* of segment two */
    model *m;
} forge;

forge *forge_create(void);               /* owned: forge_destroy */
forge *forge_create_for(unsigned store); /* another one, with another id */
void forge_destroy(forge *b);
const char *forge_file_of(unsigned f); /* of frame `f` */

/* "key-7", and the value that it had in `version` (0: before the checkpoint); borrowed for a few calls. */
kv_bytes forge_key(unsigned number);
kv_bytes forge_value(unsigned number, unsigned version);

void forge_record(forge_buffer *b, kv_record_kind kind, unsigned number, unsigned version,
                  uint64_t expiry, bool last);
void forge_segment_begin(forge_segment *s, const kv_identity *identity, uint64_t sequence,
                         uint64_t start_lsn, bool recycled);
/* Where the frame stands in the file.  The payload (may be NULL) is emptied. */
uint64_t forge_segment_add(forge_segment *s, kv_frame_kind kind, forge_buffer *payload,
                           uint64_t durable_lsn);

/* ---- Damaging: on the disk, too ------------------------------------------------------------ */

memory_os *forge_copy(const forge *b); /* owned */
void forge_flip(memory_os *memory, const char *name, uint64_t offset, uint8_t mask);
void forge_cut(memory_os *memory, const char *name, uint64_t size);
void forge_write(memory_os *memory, const char *name, const void *bytes, size_t size);
void forge_remove(memory_os *memory, const char *name);
void forge_rename(memory_os *memory, const char *from, const char *to);

/* ---- Looking ------------------------------------------------------------------------------- */

#define FORGE_PROBLEMS_MAX 16

typedef struct forge_finding {
    kv_check_summary summary;
    kv_error err;
    struct problem {
        kv_error error;
        char loss[256];
    } problems[FORGE_PROBLEMS_MAX];
    unsigned count;
    unsigned stop_at; /* the problem at which to give up; 0: never */
    char suspects[4000]; /* " key-1 key-2" */
    uint64_t done, total;
    unsigned progress_calls, progress_stop_at;
    kv_db *db; /* of a salvage */
} forge_finding;

/* kv_check, or kv_salvage into `into`; that no byte has changed is checked.  os NULL: the image's. */
kv_status forge_look(memory_os *image, const kv_os *os, kv_db *into, forge_finding *f);
/* Both, which must find the same; what was salvaged is in f->db then, a store in memory. */
void forge_examine(memory_os *image, forge_finding *f);
void forge_examine_end(memory_os *image, forge_finding *f); /* `image` (taken) may be NULL */
void forge_print(const forge_finding *f);
void forge_expect(const forge_finding *f, unsigned i, const char *file, int64_t offset,
                  const char *message, const char *loss);

kv_db *forge_open_memory(void);
void forge_close_memory(kv_db *db);
bool forge_has(kv_db *db, unsigned number, unsigned version);
uint64_t forge_expiry(kv_db *db, unsigned number);
/* All that was salvaged is what a key once was, from the checkpoint on.  How many keys are not as they should be. */
unsigned forge_judge(const forge *b, kv_db *db);

#endif
