/* snapshot.h - a registered LSN: what was visible then stays readable.
 *
 * Layer: engine.  While a snapshot is registered, no undo record above its LSN is dropped.
 */
#ifndef KV_ENGINE_SNAPSHOT_H
#define KV_ENGINE_SNAPSHOT_H

#include "store.h"

struct kv_snapshot {
    uint64_t lsn;
    uint64_t time_ms;              /* when it was taken: what had expired then is not in it */
    kv_db *db;                     /* whose it is; NULL for one inside a call */
    struct kv_snapshot *next, *prev; /* guarded by the store's snapshots_mutex */
    bool registered;               /* likewise */
    _Atomic uint64_t count;        /* keys in it, or UINT64_MAX: not counted yet.  Relaxed */
};

void kv_snapshot_register(kv_store *store, kv_snapshot *snapshot);
/* The LSNs of all snapshots and of a walk, ascending, below `visible`, then `visible` itself: for
 * kv_undo_merge.  0: there are more than `capacity`. */
size_t kv_snapshot_bounds(kv_store *store, uint64_t visible, uint64_t *bounds, size_t capacity);

void kv_snapshot_unregister(kv_store *store, kv_snapshot *snapshot);

#endif
