/* worker.h - the thread behind an open store.
 *
 * Layer: engine.  It loads what is still in the checkpoint only, makes checkpoints when the log has grown, and
 * sweeps away keys that have expired.  It touches the memory that a growing store is going to use (pool.h).  Nothing
 * that a caller waits for: readers and writers are right without it.
 * A store in memory only gets it with its first key that expires, or when it has grown to some MiB.
 */
#ifndef KV_ENGINE_WORKER_H
#define KV_ENGINE_WORKER_H

#include "store.h"

/* Starts it, once.  If no thread can be had there is none: keys that have expired stay in memory, and checkpoints
 * are made at close only. */
void kv_worker_start(kv_store *store);
/* The store's pools call upon it when they want memory to be touched.  Before anybody else has the store. */
void kv_worker_watch_pools(kv_store *store);
void kv_worker_wake(kv_store *store);
void kv_worker_stop(kv_store *store); /* waits for its end; the pools call upon nobody any more */

#endif
