/* snapshot.h - a registered LSN: what was visible then stays readable.
 *
 * Layer: engine.  While a snapshot is registered, no undo record above its LSN is dropped.
 */
#ifndef KV_ENGINE_SNAPSHOT_H
#define KV_ENGINE_SNAPSHOT_H

#include "store.h"

struct kv_snapshot {
    uint64_t lsn;
    kv_db *db;                     /* whose it is; NULL for one inside a call */
    struct kv_snapshot *next, *prev; /* guarded by the store's snapshots_mutex */
    bool registered;               /* likewise */
    _Atomic uint64_t count;        /* keys in it, or UINT64_MAX: not counted yet.  Relaxed */
};

void kv_snapshot_register(kv_store *store, kv_snapshot *snapshot);
void kv_snapshot_unregister(kv_store *store, kv_snapshot *snapshot);

#endif
