/* store.h - one open store, and a handle on it.
 *
 * Layer: engine (its top).  The parts of this layer:
 *   registry.c  kv_open, kv_close, fork: which stores are open in this process, and by whom
 *   open.c      a directory becomes a store: lock file, identity, recovery, log
 *   read.c      get, get_many, count
 *   write.c     put, delete, the conditional ones, batches, clear
 *   snapshot.c  snapshots and cursors
 *   stats.c     statistics, and the walk that verifies
 *
 * A kv_store is shared by all handles that this process has on a directory.  Its life: a handle counts
 * the calls in flight on it; closing sets a bit that refuses new ones, waits for the count to fall to
 * zero, and only then lets go of the store.
 */
#ifndef KV_ENGINE_STORE_H
#define KV_ENGINE_STORE_H

#include "log.h"
#include "undo.h"

#define KV_NO_SNAPSHOT UINT64_MAX

typedef struct kv_store {
    /* constant after open */
    kv_options options;
    kv_table table; /* has locks of its own */
    kv_log *log;    /* NULL: memory only, or read-only */
    kv_dir dir;
    kv_file lock_file;
    uint64_t identity[2]; /* of the directory */
    uint8_t store_id[16];
    kv_recovery recovery;

    /* guarded by the registry's mutex */
    struct kv_store *next;
    kv_db *handles;
    uint32_t handle_count;

    /* atomic */
    _Atomic uint32_t busy; /* 1 while it is opened or closed.  Written under the registry's mutex */
    _Atomic uint64_t memory_lsn;     /* without a log: LSN of the newest change.  seq_cst, with
                                        oldest_snapshot (see kv_store_limit) */
    _Atomic uint64_t memory_entries; /* without a log: keys.  Relaxed: a count */
    _Atomic uint64_t oldest_snapshot; /* LSN, or KV_NO_SNAPSHOT.  seq_cst, see kv_store_limit */
    _Atomic bool snapshots_hold;      /* some shard keeps records for a snapshot.  Relaxed: when it
                                         comes late, the next write to the shard prunes */
    _Atomic uint64_t pop_hash;        /* where kv_pop_any looks first.  Relaxed: a hint */

    kv_mutex snapshots_mutex;
    kv_snapshot *snapshots; /* guarded by snapshots_mutex */
    uint64_t snapshot_count;
} kv_store;

/* Bits of kv_db.calls above the count of calls in flight. */
#define KV_CALLS_CLOSING (UINT64_C(1) << 63)
#define KV_CALLS_FORKED (UINT64_C(1) << 62)

struct kv_db {
    _Alignas(64) _Atomic uint64_t calls; /* acquire on entering, release on leaving: what calls did
                                            is seen by who closes */
    kv_store *store;                     /* NULL once closed */
    _Atomic uint32_t closed_word;        /* bit 0: kv_close is done; a futex */
    bool memory_only, read_only;         /* constant */
    kv_sync sync;                        /* constant */
    kv_recovery recovery;                /* constant */
    struct kv_db *next;                  /* of the same store; guarded by the registry's mutex */
};

kv_status kv_db_refuse(kv_db *db, kv_error *err);

/* Every call on a handle stands between these two. */
static inline kv_status kv_db_enter(kv_db *db, kv_error *err) {
    uint64_t before = atomic_fetch_add_explicit(&db->calls, 1, memory_order_acquire);
    return (before & (KV_CALLS_CLOSING | KV_CALLS_FORKED)) == 0 ? KV_OK : kv_db_refuse(db, err);
}

void kv_db_wake_closer(kv_db *db);

static inline void kv_db_leave(kv_db *db) {
    if (atomic_fetch_sub_explicit(&db->calls, 1, memory_order_release) == (KV_CALLS_CLOSING | 1))
        kv_db_wake_closer(db);
}

/* registry.c */
uint64_t kv_store_handles(kv_store *store);

/* open.c */
kv_status kv_store_open_directory(kv_store *store, kv_error *err)
    KV_MUST_CHECK; /* store->dir is open */
kv_status kv_store_open_memory(kv_store *store, kv_error *err) KV_MUST_CHECK;
kv_status kv_store_close(kv_store *store, kv_error *err);

/* write.c */
kv_status kv_store_rollback(void *store, uint64_t lsn, kv_error *err) KV_MUST_CHECK;
void kv_store_prune_all(kv_store *store);

/* snapshot.c */
void kv_db_drop_snapshots(kv_db *db);

/* What readers may see. */
static inline uint64_t kv_store_visible(kv_store *store) {
    return store->log != NULL ? kv_log_committed(store->log) : atomic_load(&store->memory_lsn);
}

/* Nobody will ask for a state older than this, and nothing below it will be rolled back: undo records
 * at or below it are not needed.
 *
 * The order of the two loads matters.  A snapshot first sets oldest_snapshot to a lower bound, and
 * only then takes the visible LSN as its own (kv_snapshot_create).  If we do not see its bound, our
 * load of oldest_snapshot came before it, so our earlier load of the visible LSN gives no more than
 * the snapshot will take. */
static inline uint64_t kv_store_limit(kv_store *store) {
    uint64_t visible = kv_store_visible(store);
    uint64_t oldest = atomic_load(&store->oldest_snapshot);
    return visible < oldest ? visible : oldest;
}

static inline kv_status kv_check_key(kv_bytes key, kv_error *err) {
    if (key.size <= KV_KEY_MAX)
        return KV_OK;
    return kv_fail(err, KV_ERR_LIMIT, "a key has %zu bytes; the limit is %u", key.size,
                   KV_KEY_MAX);
}

static inline kv_status kv_check_value(kv_bytes value, kv_error *err) {
    if (value.size <= KV_VALUE_MAX)
        return KV_OK;
    return kv_fail(err, KV_ERR_LIMIT, "a value has %zu bytes; the limit is %u", value.size,
                   KV_VALUE_MAX);
}

/* Gives an entry (of a locked shard) out as a value: a copy when it is small, else a pin. */
static inline void kv_value_set(kv_store *store, kv_entry *e, unsigned flags, kv_value *value) {
    kv_bytes bytes = kv_entry_value(e);
    value->size = bytes.size;
    if (bytes.size <= KV_VALUE_COPY_MAX && !(flags & KV_PIN)) {
        memcpy(value->copy, bytes.data, bytes.size);
        value->data = value->copy;
        value->pin = NULL;
    } else {
        kv_entry_acquire(e);
        kv_pool_acquire(store->table.entries);
        value->data = bytes.data;
        value->pin = e;
    }
}

#endif
