/* log.h - the write-ahead log: group commit by a leader for all who wait.
 *
 * Layer: engine (above segment.h).  Knows records and LSNs; nothing of tables.
 *
 * Writers append records to the current group's buffer and wait for the group.  The first waiter
 * who finds no leader becomes it: it takes the group, writes it as one frame, syncs when the mode
 * says so, publishes, and wakes the others; whoever came meanwhile is the next group.  There is no
 * timer, and with one writer there is no second thread.  Waiters sleep on a word of their own group,
 * so a flush wakes only those whom it served.
 *
 * Three positions, all LSNs:      durable <= committed <= appended
 *    durable    on disk
 *    committed  written as the mode demands: on disk under KV_SYNC_ALWAYS, in the kernel otherwise.
 *               This is what readers may see ("visible").
 *    appended   in a group's buffer
 *
 * A failed flush: everything above `committed` is undone (the `rollback` callback), and its writers
 * get the error.  No space, or no file for the next segment: the log goes on.  Any failed sync of its files, or
 * any other failed write: the log has failed, for good.  A sync is never repeated: the kernel may have dropped the
 * bytes and answer the second one with success.
 */
#ifndef KV_ENGINE_LOG_H
#define KV_ENGINE_LOG_H

#include "../kv.h"
#include "segment.h"

typedef struct kv_log kv_log;
/* Undoes in memory every change above `lsn`.  Called by the leader without the log's lock. */
typedef kv_status (*kv_log_rollback)(void *arg, uint64_t lsn, kv_error *err);

/* A file of the log. */
typedef struct kv_log_segment {
    uint64_t sequence, start_lsn, file_size;
} kv_log_segment;

typedef struct kv_log_start {
    const kv_dir *dir;        /* borrowed; outlives the log */
    const kv_options *options; /* borrowed; outlives the log */
    kv_segment segment;       /* taken: the one to go on in */
    uint64_t lsn;             /* where to go on; all below is on disk */
    uint64_t entries;         /* how many keys there are at that point */
    const kv_log_segment *older; /* the segments before it, in order; copied */
    size_t older_count;
    bool unmarked;            /* the last frames are not yet marked as durable */
    kv_log_rollback rollback;
    void *rollback_arg;
    void (*rotated)(void *arg); /* called by the leader, without locks, when a segment is full */
    void *rotated_arg;
} kv_log_start;

typedef struct kv_log_stats {
    uint64_t appended_lsn, committed_lsn, durable_lsn;
    uint64_t commits, frames, syncs, segments, log_bytes;
    bool direct_io; /* the newest frame was written past the page cache */
    bool failed;
} kv_log_stats;

/* Starts the log with its keeper: a thread that prepares segments, syncs at intervals, and marks an
 * idle log as durable.  Owned. */
kv_status kv_log_create(const kv_log_start *start, kv_log **log, kv_error *err) KV_MUST_CHECK;

/* Makes all durable and ends with a closing frame, if there is room for one (unless the log has failed).  No appends
 * may be going on.  The status is that of the last sync. */
kv_status kv_log_close(kv_log *log, kv_error *err);
void kv_log_destroy(kv_log *log); /* NULL is allowed */

/* After fork, in the child: closes the descriptors and touches nothing else. */
void kv_log_abandon(kv_log *log);

/* Appends one commit of `count` records, `bytes` long when encoded; `entries_change`: how many keys
 * it adds.  The caller holds the locks of all shards concerned, so that order in the log is order of
 * change.  KV_OK and a ticket, which must be waited for; KV_BUSY: a rollback is going on, or too
 * much is in flight: let go of the shards, kv_log_pause, and begin again. */
kv_status kv_log_append(kv_log *log, const kv_record *records, size_t count, uint64_t bytes,
                        int64_t entries_change, bool sync, kv_ticket *ticket, kv_error *err)
    KV_MUST_CHECK;

/* A ticket for what another thread appended up to `lsn`.  The caller holds the shard where it saw
 * it.  KV_BUSY as above; KV_ERR_FAILED when it will never be committed. */
kv_status kv_log_attach(kv_log *log, uint64_t lsn, kv_ticket *ticket, kv_error *err)
    KV_MUST_CHECK;

/* Waits until the ticket's group is flushed (leading, if need be), and ends the ticket. */
kv_status kv_log_wait(kv_log *log, kv_ticket *ticket, kv_error *err) KV_MUST_CHECK;

/* The same without waiting: KV_BUSY, and the ticket stays, when the group is not flushed yet. */
kv_status kv_log_try(kv_ticket *ticket, kv_error *err) KV_MUST_CHECK;

/* Ends a ticket without waiting: somebody else will, for a later one. */
void kv_log_forget(kv_ticket *ticket);

/* Another ticket for the same place. */
kv_ticket kv_log_copy(const kv_ticket *ticket);

/* A ticket for all that has been appended so far (group NULL: it is committed), and how many keys there are by
 * then.  A change that was appended and is not linked yet is under its shard's lock. */
void kv_log_newest(kv_log *log, kv_ticket *ticket, uint64_t *entries);

/* Waits until what is in flight now has been flushed, or undone.  No locks may be held. */
void kv_log_pause(kv_log *log);
/* Whether that is worth calling. */
bool kv_log_is_full(kv_log *log);

/* The segment in which the frame at `lsn` stands, or would. */
uint64_t kv_log_segment_of(kv_log *log, uint64_t lsn);

/* Bytes of the segments before the last one, as files. */
uint64_t kv_log_full_bytes(kv_log *log);

/* The segments before that one are not needed any more, and this is on disk: `remove` takes them away, oldest first,
 * but one is kept to be written over. */
typedef kv_status (*kv_log_remove)(void *arg, const char *name);
void kv_log_drop_before(kv_log *log, uint64_t sequence, kv_log_remove remove, void *arg);

/* Room is wanted more urgently than segments that are ready before they are needed: those there are go, and none are
 * made or kept until they are allowed again.  A leader that needs one makes one all the same.  No locks may be held. */
void kv_log_drop_spares(kv_log *log);
void kv_log_allow_spares(kv_log *log);

/* Around a rename to a name that counts and the sync of the directory after it, which belong together: of a sync that
 * fails, the system tells one of those who sync at that moment, and may have forgotten the names of all. */
void kv_log_begin_naming(kv_log *log);
void kv_log_end_naming(kv_log *log);

/* All that is committed.  It does not fail with other writers who are refused, for lack of room say. */
kv_status kv_log_make_durable(kv_log *log, kv_error *err) KV_MUST_CHECK;

uint64_t kv_log_committed(const kv_log *log);
/* One more when a sync begins, and when it ends: odd while one is under way. */
uint64_t kv_log_sync_turns(const kv_log *log);
uint64_t kv_log_entries(const kv_log *log); /* keys at the committed LSN */
/* How many rollbacks there have been: equal before a look at the table and after a kv_log_pause, and
 * what was seen has been committed. */
uint64_t kv_log_rollbacks(const kv_log *log);
bool kv_log_failed(kv_log *log, kv_error *err); /* true: `err` says why writes are refused */
void kv_log_get_stats(kv_log *log, kv_log_stats *stats);

#endif
