/* reader.h - a store's files read the slow and simple way: what an open of them must find.
 *
 * Written after "Reading a store" in FORMAT.md.  Of the engine it has the decoders of single structures (format.h) and
 * nothing else: every file is read whole, and every block and frame is looked at before anything is decided.
 */
#ifndef READER_H
#define READER_H

#include "engine/format.h"
#include "model.h"
#include "world.h"

#define READER_BLOCKS_MAX 1024u /* damaged ones that are kept in mind */

typedef struct reading {
    const char *refusal; /* why an open must fail; NULL: it must not, and what follows is known */
    model *m;            /* every key but those of damaged blocks, those that have expired included */
    kv_block_header damaged[READER_BLOCKS_MAX];
    size_t damaged_count;
    bool forgotten; /* a damaged block does not matter any more: all was cleared afterwards */
    bool twice;     /* a block has a key twice, which no store writes: what is to be found is not said anywhere */
    kv_siphash_key hash_key;
    uint64_t lsn; /* where the log ends */
} reading;

/* Of the directory WORLD_DIR.  Owned: reader_end. */
reading *reader_read(memory_os *image);
void reader_end(reading *r);

/* Whether the key's place is in a damaged block. */
bool reader_is_damaged(const reading *r, kv_bytes key);

/* A file's bytes in a block of exactly that size.  Owned: free.  NULL: there is no such file. */
uint8_t *reader_file(memory_os *image, const char *name, size_t *size);

#endif
