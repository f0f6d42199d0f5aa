/* store.h - one open store, and a handle on it.
 *
 * Layer: engine (its top).  The parts of this layer:
 *   registry.c  kv_open, kv_close, fork: which stores are open in this process, and by whom
 *   open.c      a directory becomes a store: lock file, identity, recovery, log
 *   read.c      get, get_many, count
 *   change.c    what all writes have in common; removing keys without anybody's asking
 *   write.c     put, delete, the conditional ones
 *   batch.c     many at once
 *   clear.c     all at once
 *   deferred.c  handles whose calls do not wait for the disk
 *   scan.c      walks in the order of hashes, over the newest state
 *   snapshot.c  snapshots and cursors
 *   save.c      checkpoints and backups of the running store
 *   worker.c    the thread behind an open store: loads, checkpoints, sweeps what has expired, touches memory ahead
 *   limit.c     the bound on memory
 *   stats.c     statistics, and the walk that verifies
 *
 * A kv_store is shared by all handles that this process has on a directory.  Its life: a handle counts
 * the calls in flight on it; closing sets a bit that refuses new ones, waits for the count to fall to
 * zero, and only then lets go of the store.
 */
#ifndef KV_ENGINE_STORE_H
#define KV_ENGINE_STORE_H

#include <pthread.h>

#include "../base/thread.h"
#include "checkpoint.h"
#include "log.h"
#include "tail.h"
#include "undo.h"

#define KV_NO_SNAPSHOT UINT64_MAX
#define KV_NO_EXPIRY UINT64_MAX

/* worker.h */
typedef struct kv_worker {
    pthread_t thread;
    _Atomic uint32_t started;  /* 1: somebody has started it, or tried to */
    _Atomic bool runs;
    _Atomic bool stopping;
    _Atomic uint32_t word; /* a futex: changed to wake it */
    _Atomic bool looks_soon; /* at the pools, by itself.  seq_cst with what they want */
} kv_worker;

/* Counts of writes of the threads with one index, where there is no log that counts them.  They only grow.  Keys:
 * release, and acquire in kv_store_keys. */
typedef struct kv_tally {
    _Alignas(64) _Atomic uint64_t commits;
    _Atomic uint64_t added, removed; /* keys */
} kv_tally;

typedef struct kv_store {
    /* constant after open */
    kv_options options;
    kv_table table; /* has locks of its own */
    kv_log *log;    /* NULL: memory only, or read-only */
    kv_dir dir;
    kv_file lock_file;
    bool lock_unsigned; /* it is not ours to write our process id into */
    uint64_t identity[2]; /* of the directory */
    kv_identity who;
    kv_recovery recovery;
    bool evicts;               /* KV_FULL_EVICT, and there is a bound */
    kv_checkpoint_file *checkpoint; /* that the shards are loaded from; NULL: there is none */
    kv_tail *tail;                  /* what is applied to them then; NULL: nothing ever was */

    /* guarded by the registry's mutex */
    struct kv_store *next;
    kv_db *handles;
    uint32_t handle_count;
    bool ending; /* its log, checkpoint and table are being freed */

    /* atomic */
    _Atomic uint32_t busy; /* 1 while it is opened or closed.  Written under the registry's mutex */
    kv_tally tallies[KV_THREAD_INDEXES]; /* without a log; of a store without writes the first one has its keys */
    _Atomic uint64_t charged;     /* bytes that count against max_memory, when there is such a bound.  Relaxed */
    _Atomic uint64_t pop_hash;    /* where kv_pop_any looks first.  Relaxed: a hint */
    _Atomic uint64_t evict_hash;  /* where eviction goes on.  Relaxed: a hint */
    _Atomic uint64_t expired, evicted, checkpoints, checkpoint_failures; /* statistics: relaxed */

    /* What all writers look at and few change has a cache line for itself. */
    _Alignas(64) _Atomic uint64_t memory_lsn; /* without a log: what changes get as their LSN, until somebody takes
                                                 it (kv_store_take_lsn).  seq_cst, with oldest_snapshot */
    _Atomic uint64_t oldest_snapshot; /* LSN, or KV_NO_SNAPSHOT.  seq_cst, see kv_store_limit */
    _Atomic bool snapshots_hold;      /* some shard keeps records for a snapshot or a walk; seq_cst, see
                                         kv_change_prune_for_good */

    /* The walk of a checkpoint or backup: a snapshot that lets go of each shard when it has been copied.
     * Hashes below walk_hash are done.  seq_cst, see kv_store_limit. */
    _Atomic uint64_t walk_lsn; /* KV_NO_SNAPSHOT: none */
    _Atomic uint64_t walk_hash;

    /* No key, newest or visible, expires before next_expiry (KV_NO_EXPIRY: none does).  Written under
     * snapshots_mutex: lowered by whoever puts an earlier one, while he holds the shard; raised by the worker when
     * it has looked at all shards.  While it looks, sweep_expiry collects what is put behind its back; 0: it does
     * not look. */
    _Atomic uint64_t next_expiry, sweep_expiry;
    _Alignas(64) kv_worker worker;
    _Atomic bool tail_waits; /* some shards' counts are still those of the checkpoint.  Release by who has loaded them,
                                acquire by who counts */
    _Atomic bool forked;     /* this process is a child of the one that has it open */
    _Atomic uint32_t saving; /* KV_SAVING: somebody makes a checkpoint or a backup.  Above it, a count of changes; a
                                futex */

    kv_mutex snapshots_mutex;
    /* guarded by it */
    kv_snapshot *snapshots;
    uint64_t snapshot_count;
    kv_error checkpoint_error, load_error; /* status KV_OK: none */
    uint64_t checkpoint_lsn, checkpoint_bytes;
} kv_store;

#define KV_SAVING 1u

/* Bits of kv_calls above the count of calls in flight. */
#define KV_CALLS_CLOSING (UINT64_C(1) << 63)
#define KV_CALLS_FORKED (UINT64_C(1) << 62)

/* A thread counts its calls in that of its index.  The bits are in all of them. */
typedef struct kv_calls {
    _Alignas(64) _Atomic uint64_t count; /* acquire on entering, release on leaving: what calls did
                                            is seen by who closes */
} kv_calls;

struct kv_db {
    kv_calls calls[KV_THREAD_INDEXES];
    kv_store *store;                     /* NULL once closed */
    _Atomic uint32_t closed_word;        /* bit 0: kv_close is done; a futex */
    _Atomic bool warning;                /* a checkpoint failed, and this handle has not been told */
    kv_error checkpoint_error;           /* once closed: how the checkpoint of the close failed */
    bool memory_only, read_only;         /* constant */
    kv_sync sync;                        /* constant */
    kv_recovery recovery;                /* constant */
    struct kv_deferred *deferred;        /* owned; NULL: an ordinary handle.  deferred.h */
    struct kv_db *next;                  /* of the same store; guarded by the registry's mutex */
};

static inline kv_calls *kv_db_calls(kv_db *db) {
    return &db->calls[kv_thread_index()];
}

kv_status kv_db_refuse(kv_db *db, kv_error *err);

/* Every call on a handle stands between these two, on one thread. */
static inline kv_status kv_db_enter(kv_db *db, kv_error *err) {
    uint64_t before = atomic_fetch_add_explicit(&kv_db_calls(db)->count, 1, memory_order_acquire);
    return (before & (KV_CALLS_CLOSING | KV_CALLS_FORKED)) == 0 ? KV_OK : kv_db_refuse(db, err);
}

void kv_db_wake_closer(kv_db *db);

static inline void kv_db_leave(kv_db *db) {
    if (atomic_fetch_sub_explicit(&kv_db_calls(db)->count, 1, memory_order_release) ==
        (KV_CALLS_CLOSING | 1))
        kv_db_wake_closer(db);
}

/* A call of this thread that runs a function of its caller's (progress; signal handlers, too).  What has to wait for
 * its end would wait for ever in there, and is refused instead. */
typedef struct kv_telling {
    const kv_db *db;
    bool saves; /* a checkpoint, or a backup */
    struct kv_telling *outer;
} kv_telling;

/* registry.c */
void kv_telling_begin(kv_telling *telling, const kv_db *db, bool saves);
void kv_telling_end(const kv_telling *telling);
bool kv_store_is_saved_here(const kv_store *store); /* by a call of this thread that runs a function of its caller's */
kv_status kv_fail_forked(kv_error *err);
kv_status kv_fail_closed(kv_error *err);
uint64_t kv_store_handles(kv_store *store);
void kv_store_end(kv_store *store);  /* from here on a forked child leaves alone what `ending` names */
void kv_store_warn(kv_store *store); /* every handle is to tell of the checkpoint's error */

/* open.c */
kv_status kv_store_open_directory(kv_store *store, kv_error *err)
    KV_MUST_CHECK; /* store->dir is open */
kv_status kv_store_open_memory(kv_store *store, kv_error *err) KV_MUST_CHECK;
kv_status kv_store_close(kv_store *store, kv_error *err); /* all but store->dir */
#define KV_STORE_FILE_NEW "STORE.tmp"
kv_status kv_store_write_identity(const kv_dir *dir, const kv_identity *identity, kv_error *err)
    KV_MUST_CHECK;

/* change.c */
kv_status kv_store_rollback(void *store, uint64_t lsn, kv_error *err) KV_MUST_CHECK;
/* What nobody needs any more of the hash's shard, whose last hash is answered; of all shards. */
uint64_t kv_store_prune_hash(kv_store *store, uint64_t hash);
void kv_store_prune_all(kv_store *store);
/* Removes `count` <= KV_REMOVE_MAX entries from the locked shard in one commit.  KV_OK, and a ticket that must be
 * waited for or forgotten; KV_BUSY as kv_log_append.  `*dead`: for kv_undo_free_all, after unlocking. */
#define KV_REMOVE_MAX 512u
kv_status kv_store_remove_locked(kv_store *store, kv_shard *shard, kv_entry *const *entries,
                                 size_t count, kv_ticket *ticket, kv_undo **dead, kv_error *err)
    KV_MUST_CHECK;

/* limit.c */
static inline bool kv_store_is_bounded(const kv_store *store) {
    return store->options.max_memory != 0;
}
/* A write takes `more` bytes (or gives some back): KV_ERR_MEMLIMIT when there is no room and the store does
 * not evict.  If the write then fails, kv_store_uncharge. */
kv_status kv_store_charge_slow(kv_store *store, int64_t more, kv_error *err) KV_MUST_CHECK;
static inline kv_status kv_store_charge(kv_store *store, int64_t more, kv_error *err) {
    return more == 0 ? KV_OK : kv_store_charge_slow(store, more, err);
}
static inline void kv_store_uncharge(kv_store *store, int64_t less) {
    if (kv_store_is_bounded(store))
        atomic_fetch_sub_explicit(&store->charged, (uint64_t)less, memory_order_relaxed);
}
/* What went for a write: from the shards of the hashes `from` up to `to`, if `evicted`. */
typedef struct kv_room {
    uint64_t from, to;
    bool evicted;
} kv_room;
/* Evicts until `bytes` more fit, first from the shard of `room->from`; the rest of the room is 0.  No locks are held.
 * KV_BUSY: `nowait`, and something would have to go. */
kv_status kv_store_make_room(kv_db *db, kv_room *room, uint64_t bytes, bool nowait, kv_error *err) KV_MUST_CHECK;
/* The write is committed, and with it what went for it: frees that. */
void kv_store_prune_room(kv_store *store, const kv_room *room);
static inline uint64_t kv_shard_charge(const kv_shard *shard) {
    return shard->data_bytes + (uint64_t)shard->count * KV_ITEM_CHARGE +
           (uint64_t)shard->expiring * sizeof(uint64_t);
}

/* save.c */
kv_status kv_store_checkpoint(kv_store *store) KV_MUST_CHECK; /* without anybody's asking; the store keeps its error */
bool kv_store_checkpoint_is_due(kv_store *store, bool closing);
/* Reads every shard that is not in memory yet.  `*stop` (may be NULL): give up. */
kv_status kv_store_load_all(kv_store *store, const _Atomic bool *stop, kv_progress progress,
                            void *arg, kv_error *err) KV_MUST_CHECK;
/* Reads those that the log's tail concerns: then all shards' counts are right, and so is table.found.  After a
 * failure the others are. */
kv_status kv_store_catch_up_slow(kv_store *store, kv_error *err) KV_MUST_CHECK;
static inline kv_status kv_store_catch_up(kv_store *store, kv_error *err) {
    return atomic_load_explicit(&store->tail_waits, memory_order_acquire)
               ? kv_store_catch_up_slow(store, err)
               : KV_OK;
}

/* stats.c */
typedef struct kv_totals {
    uint64_t entries, data_bytes, charge, undo_records, shards;
} kv_totals;
kv_totals kv_store_sum(kv_store *store);
uint64_t kv_store_keys(const kv_store *store); /* without a log */

/* The keys at that LSN, a registered snapshot's, but for those that had expired by then.  Not registered, it is above
 * one; KV_BUSY then: it cannot be told any more. */
kv_status kv_store_count_alive(kv_store *store, uint64_t lsn, bool registered, uint64_t now_ms, uint64_t *count,
                               kv_error *err) KV_MUST_CHECK;

/* snapshot.c */
void kv_db_drop_snapshots(kv_db *db);

/* worker.c: next_expiry becomes that early, and the worker looks at it. */
void kv_store_lower_expiry(kv_store *store, uint64_t expiry);

/* The LSN of the state that readers may see. */
static inline uint64_t kv_store_visible(kv_store *store) {
    return store->log != NULL ? kv_log_committed(store->log) : atomic_load(&store->memory_lsn);
}

/* The same, of a state that will not change any more.  Without a log many changes share an LSN: this ends it.  Who
 * changes something reads memory_lsn while it holds all shards concerned, and lets go of them when the change is
 * linked; so what it read before this is in the state for whoever locks its shard, and what it reads afterwards is
 * above. */
static inline uint64_t kv_store_take_lsn(kv_store *store) {
    return store->log != NULL ? kv_log_committed(store->log)
                              : atomic_fetch_add(&store->memory_lsn, 1);
}

/* Nobody will ask for a state older than this, and nothing below it will be rolled back: undo records
 * at or below it are not needed.
 *
 * The order of the two loads matters.  A snapshot first sets oldest_snapshot to a lower bound, and
 * only then takes the visible LSN (kv_store_take_lsn) as its own (kv_snapshot_create).  If we do not see its bound, our
 * load of oldest_snapshot came before it, so our earlier load of the visible LSN gives no more than
 * the snapshot will take. */
static inline uint64_t kv_store_limit(kv_store *store, const kv_shard *shard) {
    uint64_t limit = kv_store_visible(store);
    uint64_t oldest = atomic_load(&store->oldest_snapshot);
    if (oldest < limit)
        limit = oldest;
    /* The same for a walk.  It moves on while it holds the shard that it has copied, as we hold ours: so what
     * we read of walk_hash is right, or too low, for this shard. */
    uint64_t walk = atomic_load(&store->walk_lsn);
    if (walk < limit && shard->range_start >= atomic_load(&store->walk_hash))
        limit = walk;
    return limit;
}

/* Ms since 1970. */
static inline uint64_t kv_store_now(const kv_store *store) {
    return kv_os_clock_ms(store->options.os);
}

/* A key that expires then is put; its shard is locked. */
static inline void kv_store_note_expiry(kv_store *store, uint64_t expiry) {
    /* In this order: a sweep raises next_expiry before it says that it does not look any more. */
    if (expiry != 0 &&
        (expiry < atomic_load(&store->sweep_expiry) || expiry < atomic_load(&store->next_expiry)))
        kv_store_lower_expiry(store, expiry);
}

/* Whether the entry counts as absent at that moment. */
static inline bool kv_entry_is_expired(const kv_entry *e, uint64_t now_ms) {
    return e->expires && kv_entry_expiry(e) <= now_ms;
}

/* The entry, or NULL when there is none or it has expired by now. */
static inline kv_entry *kv_store_alive(const kv_store *store, kv_entry *e) {
    return e != NULL && e->expires && kv_entry_expiry(e) <= kv_store_now(store) ? NULL : e;
}

static inline kv_status kv_check_key(kv_bytes key, kv_error *err) {
    if (key.size <= KV_KEY_MAX)
        return KV_OK;
    return kv_fail(err, KV_ERR_LIMIT, "a key has %zu bytes; the limit is %u", key.size,
                   KV_KEY_MAX);
}

static inline kv_status kv_check_expiry(uint64_t expiry, kv_error *err) {
    if (expiry <= KV_EXPIRY_MAX)
        return KV_OK;
    return kv_fail(err, KV_ERR_LIMIT, "an expiry of %llu ms is beyond the limit of %llu",
                   (unsigned long long)expiry, (unsigned long long)KV_EXPIRY_MAX);
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
