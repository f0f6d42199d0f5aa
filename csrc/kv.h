/* kv.h - the C API of the store: all that python/ and server/ may know of the engine.
 *
 * Conventions
 *  1. A function returns a kv_status: < 0 failure (and `err` is filled), 0 done, > 0 an ordinary
 *     other outcome.  `err` may be NULL.
 *  2. Every function may be called from any thread at any time between kv_open and kv_destroy,
 *     also while another thread is in kv_close: it finishes, or answers KV_ERR_CLOSED.
 *  3. No call keeps a pointer to the caller's bytes after it returned.
 *  4. Under `KV_SYNC_ALWAYS` a write that returned KV_OK is on disk, and a read answers only what
 *     is on disk.  DURABILITY.md says what the other modes promise.
 *  5. A write that returned < 0 changed nothing, in memory or on disk, with one exception: after
 *     KV_ERR_FAILED the outcome of the write that was being synced is unknown until the store has
 *     been reopened (it is then there whole, or not at all).
 *  6. A call blocks on locks and, where the mode says so, on the disk.  With the flag KV_NOWAIT it
 *     answers KV_BUSY instead, with nothing changed.
 */
#ifndef KV_H
#define KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* ---- Limits ---------------------------------------------------------------------------- */

#define KV_KEY_MAX 65535u              /* bytes; the empty key is allowed */
#define KV_VALUE_MAX (512u << 20)      /* bytes; the empty value is allowed */
#define KV_COMMIT_MAX (1u << 30)       /* bytes of one commit in the log, framing included */
#define KV_EXPIRY_MAX (UINT64_C(1) << 48) /* ms since 1970: the year 10889 */

/* ---- Expiry ------------------------------------------------------------------------------
 * A moment of the wall clock, in milliseconds since 1970; 0: never.  From that moment on the key is
 * absent for everybody, but for snapshots that were taken before.  A clock that is set forward lets
 * keys expire early; one that is set back lets those live again that were not swept away yet. */

/* ---- Types ----------------------------------------------------------------------------- */

typedef struct kv_db kv_db;             /* a handle on an open store */
typedef struct kv_snapshot kv_snapshot; /* the store as it was at one LSN */
typedef struct kv_cursor kv_cursor;     /* a walk over a snapshot */
typedef struct kv_os kv_os;             /* os/os.h: where system calls go */

typedef struct kv_bytes {
    const void *data; /* may be NULL when size is 0 */
    size_t size;
} kv_bytes;

typedef enum kv_sync {
    KV_SYNC_ALWAYS,   /* a commit is on disk before the call returns */
    KV_SYNC_INTERVAL, /* in the kernel before the call returns, on disk within sync_interval_ns */
    KV_SYNC_NEVER,    /* in the kernel before the call returns, on disk when the system likes */
} kv_sync;

typedef enum kv_when_full {
    KV_FULL_REFUSE, /* a write that needs more memory answers KV_ERR_MEMLIMIT */
    KV_FULL_EVICT,  /* other keys are removed, those used least first */
} kv_when_full;

typedef struct kv_options {
    kv_sync sync;
    uint64_t sync_interval_ns; /* KV_SYNC_INTERVAL only */
    bool read_only;
    bool create;                    /* make the store when it is not there */
    uint32_t segment_size_min;      /* bytes; the first log segment */
    uint32_t segment_size_max;      /* bytes; segments double up to this (a larger commit gets one
                                       of its own size) */
    size_t inflight_max;            /* bytes appended and not yet written before writers wait */
    uint64_t mark_delay_ns;         /* an idle store marks its log as durable after this */
    uint64_t checkpoint_log_min;    /* bytes of log since the last checkpoint before the next one ... */
    uint32_t checkpoint_log_percent; /* ... and so much of the data's size; 0: only when asked for.  Looked at
                                       when a segment is full, and at close */
    bool preload;                   /* kv_open returns when everything is in memory */
    uint64_t max_memory;            /* bytes, see kv_stats.memory_charged; 0: no bound */
    kv_when_full when_full;         /* what happens at the bound */
    bool direct_io;                 /* under KV_SYNC_ALWAYS the log is written past the page cache, where the
                                       system can */
    const kv_os *os;                /* NULL: the operating system */
} kv_options;

enum {
    KV_NOWAIT = 1, /* answer KV_BUSY rather than wait for a lock or for the disk */
    KV_SYNC = 2,   /* a write: on disk before the call returns, whatever the store's mode */
    KV_PIN = 4,    /* a read: never copy into the kv_value, always pin the entry */
};

/* A value read from the store: a copy when it is small, otherwise a pin on an immutable entry.
 * `data` may point into the struct itself: do not move or copy it.  kv_value_release() ends it. */
#define KV_VALUE_COPY_MAX 496u
typedef struct kv_value {
    const uint8_t *data;
    size_t size;
    void *pin; /* opaque; NULL when `data` is in `copy` */
    uint8_t copy[KV_VALUE_COPY_MAX];
} kv_value;

/* Many values at once, in one allocation (see kv_get_many). */
typedef struct kv_values {
    size_t count;
    struct kv_item_value {
        const uint8_t *data; /* NULL: there is no such key */
        size_t size;
        void *pin; /* opaque: a large one's, borrowed, for a kv_item; NULL: it was copied */
    } *items;
    void *owner; /* opaque */
} kv_values;

typedef struct kv_item {
    kv_bytes key;
    kv_bytes value;
    uint64_t expiry; /* ms since 1970; 0: never */
    void *pin;       /* opaque */
} kv_item;

typedef enum kv_op_kind {
    KV_OP_PUT = 1,
    KV_OP_DELETE = 2,
    KV_OP_EXPIRE = 4, /* sets the expiry of a key; nothing when there is no such key */
    KV_OP_EXPECT = 8, /* changes nothing: for its condition only */
} kv_op_kind;

typedef struct kv_op { /* zero what is not used */
    kv_op_kind kind;
    kv_bytes key;
    kv_bytes value;  /* KV_OP_PUT only */
    uint64_t expiry; /* KV_OP_PUT, KV_OP_EXPIRE: ms since 1970; 0: never.  Past: deleted */
    /* A condition on all of the commit: the key still has the entry that kv_get_item pinned (kv_item.pin, still
     * held; NULL: the key is absent).  Entries never change, so the same entry is the same value, never written
     * since.  A key with a condition must not stand in the commit twice. */
    bool conditional;
    const void *expected;
} kv_op;

/* Called now and then while a long call works, by its thread, without locks: `done` of about `total` bytes.  False:
 * give up (the call answers KV_ERR_CANCELLED). */
typedef bool (*kv_progress)(void *arg, uint64_t done, uint64_t total);

typedef struct kv_stats {
    uint64_t entries;          /* visible keys */
    uint64_t data_bytes;       /* of keys and values, newest state */
    uint64_t memory_bytes;     /* taken from the system for entries and tables */
    uint64_t shards;
    uint64_t undo_records;     /* held for snapshots and for commits in flight */
    uint64_t snapshots;
    uint64_t handles;          /* open on this store in this process */
    uint64_t lsn;              /* end of the log as appended */
    uint64_t visible_lsn;
    uint64_t durable_lsn;
    uint64_t commits;          /* since open */
    uint64_t frames;           /* flushes, since open */
    uint64_t syncs;            /* since open */
    uint64_t log_bytes;        /* size of the log's segments on disk */
    uint64_t log_segments;
    bool failed;               /* a write or sync failed: reads go on, writes do not */
    bool direct_io;            /* the log is being written past the page cache */
    uint64_t shards_loaded;    /* of `shards`; the others are still in the checkpoint only */
    uint64_t checkpoints;      /* made since open */
    uint64_t checkpoint_lsn;   /* of the last one: the log before it is not needed */
    uint64_t checkpoint_bytes; /* its size on disk */
    uint64_t checkpoint_failures; /* since open */
    uint64_t expired;          /* keys swept away since open */
    uint64_t evicted;          /* keys removed for want of memory since open */
    uint64_t memory_charged;   /* what max_memory bounds: keys, values and KV_ITEM_CHARGE an item */
    uint64_t max_memory;       /* 0: no bound */
    kv_when_full when_full;
    kv_error checkpoint_error; /* of the last one; status KV_OK when it succeeded */
    kv_error load_error;       /* KV_OK, or why a part of the checkpoint could not be loaded */
} kv_stats;

#define KV_ITEM_CHARGE 36u /* bytes: what an item takes beyond its payload, at the most (measured) */

typedef struct kv_recovery {
    bool clean;          /* the store had been closed properly (or is new) */
    bool created;        /* there was no store before */
    uint64_t segments;   /* log segments read */
    uint64_t frames;
    uint64_t commits;
    uint64_t records;    /* single puts, deletes and clears */
    uint64_t bytes;      /* of log read */
    uint64_t bytes_cut;  /* of a torn, never acknowledged tail */
    uint64_t checkpoint_items; /* in the checkpoint that the log started from; 0: none */
    uint64_t duration_ns;
} kv_recovery;

/* ---- Opening and closing ----------------------------------------------------------------- */

kv_options kv_options_default(void);

/* Opens the store in the directory `path`; NULL: a store in memory only.  A second kv_open of the
 * same directory in this process gives another handle on the same store; its sync mode, interval
 * and read_only must then be the same (else KV_ERR_INVALID).  The handle is owned: kv_close, then
 * kv_destroy.  Changes no file before recovery has succeeded. */
kv_status kv_open(const char *path, const kv_options *options, kv_db **db, kv_error *err)
    KV_MUST_CHECK;

/* Ends the handle: later calls answer KV_ERR_CLOSED, calls in flight are waited for (but kv_checkpoint and kv_backup,
 * as long as they wait for another one to end, answer KV_ERR_CLOSED, too); the last handle of a store makes everything
 * durable, ends the log with a closing frame and unlocks the directory.  Snapshots, cursors, values and pins stay
 * valid.  Closing twice is allowed.  A status < 0 says that the last sync failed; the handle is closed nevertheless.
 * KV_ERR_INVALID, and it is not: a function that a call on this handle runs has asked for it, and would wait for that
 * call for ever. */
kv_status kv_close(kv_db *db, kv_error *err);

/* Frees a handle (closing it first if need be).  No call may be in flight on it.  NULL is allowed. */
void kv_destroy(kv_db *db);

bool kv_is_closed(const kv_db *db);
bool kv_is_memory_only(const kv_db *db);
bool kv_is_read_only(const kv_db *db);
kv_sync kv_sync_mode(const kv_db *db);

/* ---- Reading ------------------------------------------------------------------------------ */

/* KV_OK and a value (owned: kv_value_release), or KV_NOTFOUND.  flags: KV_NOWAIT, KV_PIN. */
kv_status kv_get(kv_db *db, kv_bytes key, unsigned flags, kv_value *value, kv_error *err)
    KV_MUST_CHECK;
void kv_value_release(kv_value *value);

/* KV_OK or KV_NOTFOUND.  flags: KV_NOWAIT. */
kv_status kv_contains(kv_db *db, kv_bytes key, unsigned flags, kv_error *err) KV_MUST_CHECK;

/* KV_OK and the item (owned: kv_item_release), pinned: nothing is copied; or KV_NOTFOUND.  flags: KV_NOWAIT. */
kv_status kv_get_item(kv_db *db, kv_bytes key, unsigned flags, kv_item *item, kv_error *err)
    KV_MUST_CHECK;

/* All values as they were at one moment; `values` is owned: kv_values_release. */
kv_status kv_get_many(kv_db *db, const kv_bytes *keys, size_t count, kv_values *values,
                      kv_error *err) KV_MUST_CHECK;
void kv_values_release(kv_values *values);

/* A hint: these keys will be asked for or written next, one by one.  Their cache misses overlap. */
void kv_prefetch(kv_db *db, const kv_bytes *keys, size_t count);

/* When the key expires, in ms since 1970; 0: never.  KV_OK or KV_NOTFOUND.  flags: KV_NOWAIT. */
kv_status kv_get_expiry(kv_db *db, kv_bytes key, unsigned flags, uint64_t *expiry,
                        kv_error *err) KV_MUST_CHECK;

/* The wall clock that the store goes by, in ms since 1970; the system's when it is closed. */
uint64_t kv_clock_ms(kv_db *db);

/* Number of visible keys that have not expired.  Does not wait for a sync.  Soon after an open it may have to read
 * those parts of the checkpoint that the log has changed since, and while expired keys wait to be swept away it
 * looks at all shards: with KV_NOWAIT it answers KV_BUSY instead. */
kv_status kv_count(kv_db *db, unsigned flags, uint64_t *count, kv_error *err) KV_MUST_CHECK;

/* ---- Writing ------------------------------------------------------------------------------ */
/* flags: KV_NOWAIT (only a memory-only store can do without waiting), KV_SYNC. */

kv_status kv_put(kv_db *db, kv_bytes key, kv_bytes value, unsigned flags, kv_error *err)
    KV_MUST_CHECK;

/* The same with an expiry (kv_put: never).  One that is past deletes the key. */
kv_status kv_put_expiring(kv_db *db, kv_bytes key, kv_bytes value, uint64_t expiry,
                          unsigned flags, kv_error *err) KV_MUST_CHECK;

/* Gives the key another expiry (0: never).  KV_OK, or KV_NOTFOUND when there is no such key. */
kv_status kv_expire(kv_db *db, kv_bytes key, uint64_t expiry, unsigned flags, kv_error *err)
    KV_MUST_CHECK;

/* KV_OK, or KV_NOTFOUND when there was no such key. */
kv_status kv_delete(kv_db *db, kv_bytes key, unsigned flags, kv_error *err) KV_MUST_CHECK;

/* Deletes and gives the value that was deleted (owned), or KV_NOTFOUND. */
kv_status kv_pop(kv_db *db, kv_bytes key, unsigned flags, kv_value *value, kv_error *err)
    KV_MUST_CHECK;

/* Deletes some key and gives key and value (owned: kv_item_release), or KV_NOTFOUND when empty. */
kv_status kv_pop_any(kv_db *db, unsigned flags, kv_item *item, kv_error *err) KV_MUST_CHECK;
void kv_item_release(kv_item *item);
/* A reference of its own to the same entry, without a lock: `copy` lives on when `item` is released. */
void kv_item_copy(const kv_item *item, kv_item *copy);

/* Puts if absent: KV_OK; else KV_UNCHANGED and the existing value (owned; `existing` may be NULL). */
kv_status kv_put_absent(kv_db *db, kv_bytes key, kv_bytes value, unsigned flags,
                        kv_value *existing, kv_error *err) KV_MUST_CHECK;

/* Compare and replace: puts `value` if the key's value equals `expected`; else KV_UNCHANGED. */
kv_status kv_replace(kv_db *db, kv_bytes key, kv_bytes value, kv_bytes expected, unsigned flags,
                     kv_error *err) KV_MUST_CHECK;

/* Adds `by` to the decimal integer stored under the key (0 when absent), which keeps its expiry;
 * `*result` is the new value.  KV_ERR_NOTINT, KV_ERR_RANGE: nothing changed. */
kv_status kv_incr(kv_db *db, kv_bytes key, int64_t by, unsigned flags, int64_t *result,
                  kv_error *err) KV_MUST_CHECK;

/* One atomic commit of many puts and deletes; of several on one key the last counts.  KV_UNCHANGED: a condition
 * (kv_op.expected) did not hold, and nothing was done.
 * `*deleted` (may be NULL): how many keys that existed were deleted. */
kv_status kv_write(kv_db *db, const kv_op *ops, size_t count, unsigned flags, uint64_t *deleted,
                   kv_error *err) KV_MUST_CHECK;

/* Deletes every key in one atomic commit. */
kv_status kv_clear(kv_db *db, unsigned flags, kv_error *err) KV_MUST_CHECK;

/* Everything written so far, by any thread, is on disk when this returns KV_OK.  What is still being committed counts
 * only if it is not refused: that is told to those who wrote it, as is what is pending on deferred handles. */
kv_status kv_make_durable(kv_db *db, kv_error *err) KV_MUST_CHECK;

/* ---- Deferred handles -----------------------------------------------------------------------
 * For a program with few threads and many clients.  No call on such a handle waits for the disk: its writes return
 * when they are in order and in memory, and its reads answer the newest state, committed or not.  What they tell may
 * leave the program only when it is committed (promises 1 and 2), for which the handle keeps a ticket: that of the
 * newest commit that its calls have made or seen.  A deferred handle is for one thread at a time.  Snapshots on it
 * show the visible state, as on any other. */

typedef struct kv_group kv_group; /* commits that are flushed together */

typedef struct kv_ticket {
    uint64_t lsn;    /* where the commit ends */
    kv_group *group; /* owned; NULL: committed already */
} kv_ticket;

/* Another handle on the same store, with the same options.  Owned: kv_close, then kv_destroy. */
kv_status kv_dup(kv_db *db, bool deferred, kv_db **out, kv_error *err) KV_MUST_CHECK;

/* The group that the calls on the deferred handle wait for; NULL: all that they told is committed.  A comparison
 * with what it was before a call says whether that call added something to wait for. */
const kv_group *kv_pending(const kv_db *db);
/* Has a call since this was last asked made or seen something that was not committed?  So a program with many
 * clients on one handle knows whose answer has to wait: others' are not concerned.  Asked behind each command, it
 * ends it: until then a commit that was undone is not forgotten for a later one. */
bool kv_take_noted(kv_db *db);
/* A ticket for it (a reference of its own: ends with one of the next two); group NULL when there is nothing to wait
 * for.  When it was undone in the meantime, this is told once, by the ticket, and the handle waits for nothing any
 * more. */
void kv_pending_ticket(kv_db *db, kv_ticket *ticket);
/* Waits until it is committed (leading the flush, if need be) and ends the ticket.  < 0: it was undone. From any
 * thread, with any handle on the store. */
kv_status kv_ticket_wait(kv_db *db, kv_ticket *ticket, kv_error *err) KV_MUST_CHECK;
/* The same if it need not wait, KV_BUSY (the ticket is kept) otherwise. */
kv_status kv_ticket_try(kv_ticket *ticket, kv_error *err) KV_MUST_CHECK;
void kv_ticket_copy(const kv_ticket *ticket, kv_ticket *copy);
void kv_ticket_forget(kv_ticket *ticket);
/* Gives back what the handle's writes have replaced, as far as they are committed.  To be called now and then. */
void kv_settle(kv_db *db);

/* Keys in the order of their hashes: calls `visit` for at most `max` keys (newest state on a deferred handle) from
 * `*position` on, and moves it; 0 is the beginning, and the end.  A key that is there during a whole walk is
 * visited, however the table grows meanwhile; none is visited twice.  `visit` is called without locks; `item` is
 * borrowed for the call. */
kv_status kv_scan(kv_db *db, uint64_t *position, size_t max, void (*visit)(void *arg, const kv_item *item),
                  void *arg, kv_error *err) KV_MUST_CHECK;
/* Where a walk from a random key begins. */
kv_status kv_random_position(kv_db *db, uint64_t *position, kv_error *err) KV_MUST_CHECK;

/* Closes the store under its only handle (no call in flight, no snapshots) and opens it again from its files, as a
 * new process would.  KV_ERR_INVALID: there are other handles, or it is in memory only.  On failure the handle is
 * closed. */
kv_status kv_reopen(kv_db *db, kv_error *err) KV_MUST_CHECK;

/* ---- Checkpoints and copies --------------------------------------------------------------- */

/* Writes the whole state into one file, from which the next open starts; the log before it is let go.
 * Readers and writers go on meanwhile.  One at a time: waits for one that is being made, and makes
 * another; but KV_ERR_INVALID when it would be the calling thread's own, from whose `progress` (which may be NULL)
 * it is called.  A failure leaves everything as it was. */
kv_status kv_checkpoint(kv_db *db, kv_progress progress, void *arg, kv_error *err) KV_MUST_CHECK;

/* Everything is in memory when this returns; KV_ERR_CORRUPT when some of it cannot be. */
kv_status kv_load_all(kv_db *db, kv_progress progress, void *arg, kv_error *err) KV_MUST_CHECK;

/* Makes the new directory `dest` (it must not be there, or be empty) a store with the state of the moment when
 * the copy ends, while readers and writers go on.  It is locked meanwhile (KV_ERR_LOCKED when somebody makes a store
 * of it, or another copy).  On failure what was made in it is removed. */
kv_status kv_backup(kv_db *db, const char *dest, kv_progress progress, void *arg, kv_error *err)
    KV_MUST_CHECK;

/* A problem in a store's files: status, path, offset and message in `problem`; `loss`: what it costs, one
 * line.  Both borrowed.  False: stop. */
typedef bool (*kv_problem_visitor)(void *arg, const kv_error *problem, const char *loss);

typedef struct kv_check_options {
    kv_problem_visitor problem;
    kv_progress progress; /* may be NULL; bytes read */
    /* kv_salvage only, may be NULL: a key whose value may be lost or outdated */
    void (*suspect)(void *arg, kv_bytes key);
    void *arg;       /* of all three */
    const kv_os *os; /* NULL: the operating system */
} kv_check_options;

typedef struct kv_check_summary {
    uint64_t problems;
    uint64_t files, bytes;      /* read */
    uint64_t entries;           /* in the checkpoint */
    uint64_t frames, records;   /* whole ones, in the log */
    uint64_t blocks_lost, frames_lost, bytes_lost;
    uint64_t items;             /* kv_salvage: written into the new store */
} kv_check_summary;

/* Reads every byte that the store at `path` needs and reports each problem; changes nothing, and takes a
 * shared lock (KV_ERR_LOCKED when it is open for writing).  KV_OK also when there are problems.  What keeps it from
 * looking (no memory, no descriptor, no access) is no problem of the store, and ends it with that error. */
kv_status kv_check(const char *path, const kv_check_options *options, kv_check_summary *summary,
                   kv_error *err) KV_MUST_CHECK;

/* Writes what is provably whole in the store at `path` into `into`, an open and empty one, and reports what is
 * not as kv_check does.  Later commits are applied even behind a damaged one. */
kv_status kv_salvage(const char *path, kv_db *into, const kv_check_options *options,
                     kv_check_summary *summary, kv_error *err) KV_MUST_CHECK;

/* ---- Snapshots ---------------------------------------------------------------------------- */

/* The visible state of this moment, readable until kv_snapshot_destroy, however much is written and
 * expires meanwhile (one replaced value a key is kept for it).  Owned; the handle must outlive it. */
kv_status kv_snapshot_create(kv_db *db, kv_snapshot **snapshot, kv_error *err) KV_MUST_CHECK;
void kv_snapshot_destroy(kv_snapshot *snapshot);
/* How many keys it has.  Counted when first asked for: a walk over the shards. */
kv_status kv_snapshot_count(kv_snapshot *snapshot, uint64_t *count, kv_error *err) KV_MUST_CHECK;

/* As kv_get, at the snapshot.  KV_ERR_CLOSED once the handle it was made from is closed. */
kv_status kv_snapshot_get(kv_snapshot *snapshot, kv_bytes key, unsigned flags, kv_value *value,
                          kv_error *err) KV_MUST_CHECK;

/* A walk in no particular order over every key of the snapshot, which must outlive it.  A cursor
 * is for one thread at a time.  Owned. */
kv_status kv_cursor_create(kv_snapshot *snapshot, kv_cursor **cursor, kv_error *err) KV_MUST_CHECK;
void kv_cursor_destroy(kv_cursor *cursor);

/* The next few hundred items: `*items` (borrowed until the next call on this cursor) and
 * `*count` > 0; KV_NOTFOUND at the end. */
kv_status kv_cursor_next(kv_cursor *cursor, const kv_item **items, size_t *count, kv_error *err)
    KV_MUST_CHECK;

/* ---- Looking at it ------------------------------------------------------------------------ */

/* What kv_count may have to read, this does, too; what cannot be read counts as the checkpoint has it.  With
 * KV_NOWAIT nothing is read: soon after an open `entries` and `data_bytes` are those of the checkpoint then, and
 * expired keys always count. */
kv_status kv_get_stats(kv_db *db, unsigned flags, kv_stats *stats, kv_error *err) KV_MUST_CHECK;

/* True once for each checkpoint by itself, or by the close of the last handle, that failed: `err` says why.  Never
 * blocks, and costs no more than a load: to be asked after a write, and after kv_close. */
bool kv_take_warning(kv_db *db, kv_error *err);

/* What the open of this store found.  Valid after close, too. */
void kv_get_recovery(const kv_db *db, kv_recovery *recovery);

/* Walks the whole store and compares it with its own invariants: tags, owners, counts, order of
 * undo lists, reference counts.  For tests; takes each shard's lock in turn. */
kv_status kv_verify(kv_db *db, kv_error *err) KV_MUST_CHECK;

#endif
