/* world.h - a store in a file system that can fail and lose power: what most tests start from.
 *
 *     world *w = world_create();
 *     world_open(w);
 *     CHECK_OK(kv_put(w->db, ...), &w->err);
 *     world_destroy(w);
 *
 * At each close the store is verified, and at the end no file may be left open.  A handle of the
 * file system that is closed twice ends the test.
 */
#ifndef WORLD_H
#define WORLD_H

#include "check.h"
#include "fault_os.h"
#include "kv.h"
#include "memory_os.h"

#define WORLD_DIR "store"
#define WORLD_SEGMENT_SIZE 8192u /* the smallest: half a header, half frames */

typedef struct world {
    memory_os *memory; /* owned */
    fault_os *faults;  /* around it */
    kv_os os;          /* around that: what the store gets */
    kv_options options; /* of the next open: tiny segments, no marks and no checkpoints
                           by themselves */
    uint64_t clock_ms;  /* see world_set_clock */
    kv_db *db;          /* NULL: not open */
    kv_error err;
} world;

world *world_create(void); /* an empty file system; owned: world_destroy */
world *world_create_on(memory_os *memory); /* taken */
void world_destroy(world *w); /* closes the store, if it is open, and must be able to */

/* The store must open, or close. */
void world_open(world *w);
void world_close(world *w);
kv_stats world_stats(world *w);

/* It may fail: then w->err says why, and the store is not open.  Closing verifies it first. */
kv_status world_try_open(world *w);
kv_status world_try_close(world *w);

/* The power goes, and comes back: only what was synced is there.  The store is not open then. */
void world_cut_power(world *w);

/* The process goes, by SIGKILL say: no call has an effect any more, and the store's memory is
 * given up; the file system stays, with what is not synced. */
void world_kill(world *w);

/* What the store's wall clock says from now on, also after a power cut; 0: the system's. */
void world_set_clock(world *w, uint64_t now_ms);

/* Names and bytes of all files as the running system sees them, as one number. */
uint64_t world_files_digest(memory_os *memory);

/* The sequence of the newest checkpoint in the directory; 0: there is none. */
uint64_t image_checkpoint(memory_os *image, const char *dir);
/* Changes a bit in the first block of the store's newest checkpoint, or changes it back.  Its name: 64 bytes. */
void image_flip_block(memory_os *image, char *name);

/* Without a fault layer: the store of an image, opened with these options, must be KV_OK. */
kv_db *image_open(memory_os *image, const kv_options *options);
void image_close(kv_db *db);

#endif
