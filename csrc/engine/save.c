/* save.c - checkpoints and backups of a running store.
 *
 * Both walk the shards in the order of their hashes and write what each was at one LSN, S.  The walk is a snapshot
 * that lets go of a shard as soon as it has copied it: only shards that are still to come keep what is replaced,
 * and of each key one state (kv_undo_merge).  So the memory that a walk costs is bounded by the data that it
 * has not copied yet.
 *
 * A checkpoint, step by step, and what a crash leaves:
 *   1. checkpoint.tmp is written and synced       the old state; the next open removes the file
 *   2. the log is made durable up to S            likewise
 *   3. it gets its name; directory synced         either state: both files are whole, and the log is there for both
 *   4. old segments go, oldest first              the new one; what is left of the old is removed by the next open
 *   5. the old checkpoint goes, or gets another name to be written over by the next one             likewise
 *
 * Without room, it is tried once more, with that of the log's next segments: see kv_log_drop_spares.
 */
#include <errno.h>
#include <time.h>

#include "../base/crc32c.h"
#include "../base/futex.h"
#include "../base/mem.h"
#include "lockfile.h"
#include "store.h"

#define CLOSE_LOG_MIN (UINT64_C(16) << 20) /* replayed in some 30 ms: not worth a checkpoint */
#define PROGRESS_EVERY (UINT64_C(4) << 20)
#define LOAD_REPORT_EVERY 64u /* shards */
#define PACE_PIECE (128u << 10) /* what others wait for at the most: some 0.2 ms */
#define PACE_REST UINT64_C(2) /* times what a piece took */
#define PACE_REST_NS_MAX UINT64_C(20000000)
#define PACE_LOOK_NS UINT64_C(100000)
#define PACE_ALONE_NS UINT64_C(50000000) /* so long without a sync: nobody is waiting for the disk */
#define REMOVE_PIECE (UINT64_C(4) << 20) /* given back in 1 to 9 ms */

/* ---- One at a time ----------------------------------------------------------------------------- */

/* db NULL: by the store itself.  Else it waits until the handle is closed, at the longest: who closes it may be
 * the progress function of the one that is waited for. */
static kv_status begin_saving(kv_store *store, kv_db *db, kv_error *err) {
    if (kv_store_is_saved_here(store))
        return kv_fail(err, KV_ERR_INVALID, "a checkpoint or a backup from within another one, by its progress "
                                            "function or a signal handler");
    for (;;) {
        uint32_t word = atomic_load(&store->saving);
        if (db != NULL && kv_is_closed(db))
            return kv_fail_closed(err);
        if (word & KV_SAVING)
            kv_futex_wait(&store->saving, word, KV_FUTEX_FOREVER);
        else if (atomic_compare_exchange_strong(&store->saving, &word, word | KV_SAVING))
            return KV_OK;
    }
}

static void end_saving(kv_store *store) {
    atomic_fetch_add(&store->saving, KV_SAVING);
    kv_futex_wake(&store->saving, KV_FUTEX_ALL);
}

/* ---- The walk ---------------------------------------------------------------------------------- */

typedef struct walk {
    kv_store *store;
    uint64_t lsn;
    kv_checkpoint_writer *writer;
    kv_entry **entries;
    size_t capacity;
    kv_progress progress;
    void *arg;
    uint64_t reported, total; /* bytes */
    uint64_t sync_turns, sync_seen_ns; /* of the log when it last rested; when those had changed */
} walk;

static kv_status fail_cancelled(kv_error *err) {
    return kv_fail(err, KV_ERR_CANCELLED, "the caller gave up");
}

/* Calls the caller's function.  It may fork: the call then ends in the child at once, with all left as it is, since
 * the files are the parent's, and threads that are not there may hold the locks. */
static kv_status report(kv_store *store, kv_progress progress, void *arg, uint64_t done, uint64_t total,
                        kv_error *err) {
    bool goes_on = progress(arg, done, total);
    if (atomic_load(&store->forked))
        return kv_fail_forked(err);
    return goes_on ? KV_OK : fail_cancelled(err);
}

static void walk_begin(walk *w) {
    kv_store *store = w->store;
    kv_totals totals = kv_store_sum(store);
    if (store->log != NULL)
        w->sync_turns = kv_log_sync_turns(store->log);
    w->total = totals.data_bytes + totals.entries * KV_RECORD_HEADER_SIZE +
               totals.shards * 2 * KV_BLOCK_HEADER_SIZE;
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    /* First a lower bound for all to see, then our LSN: see kv_store_limit. */
    atomic_store(&store->walk_hash, 0);
    atomic_store(&store->walk_lsn, kv_store_visible(store));
    w->lsn = kv_store_take_lsn(store);
    atomic_store(&store->walk_lsn, w->lsn);
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
}

static void walk_end(walk *w) {
    kv_store *store = w->store;
    atomic_store(&store->walk_lsn, KV_NO_SNAPSHOT);
    /* After one that gave up, idle shards would keep what it held back. */
    if (atomic_exchange(&store->snapshots_hold, false))
        kv_store_prune_all(store);
    kv_mem_free(w->entries);
    w->entries = NULL;
    w->capacity = 0;
    w->reported = 0;
}

/* The shard at the hash; *next: where the next one begins, 0 behind the last. */
static kv_status walk_shard(walk *w, uint64_t hash, uint64_t *next, kv_error *err) {
    kv_store *store = w->store;
    kv_table *table = &store->table;
    kv_shard *shard;
    size_t count = 0;
    kv_status status = kv_table_lock_loaded(table, hash, false, &shard, err);
    if (status < 0)
        return status;
    status = kv_undo_collect(table, shard, w->lsn, w->entries, w->capacity, &count, err);
    if (status != KV_OK) {
        kv_shard_unlock(shard);
        if (status < 0)
            return status;
        size_t capacity = count + count / 4;
        kv_entry **entries = kv_mem_realloc(w->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return kv_fail_nomem(err, capacity * sizeof *entries);
        w->entries = entries;
        w->capacity = capacity;
        return KV_BUSY;
    }
    uint64_t start = shard->range_start;
    uint32_t depth = shard->depth;
    assert(start == hash);
    *next = kv_shard_range_last(shard) + 1;
    if (*next != 0)
        atomic_store(&store->walk_hash, *next);
    else
        atomic_store(&store->walk_lsn, KV_NO_SNAPSHOT);
    kv_undo *dead = shard->undo == NULL
                        ? NULL
                        : kv_undo_prune(shard, kv_store_limit(store, shard), NULL);
    kv_shard_unlock(shard);
    kv_undo_free_all(table, dead);
    status = kv_checkpoint_add(w->writer, start, depth, w->entries, count, err);
    for (size_t i = 0; i < count; i++)
        kv_entry_release(table->entries, w->entries[i]);
    return status;
}

/* Whether others sync the log while we write. */
static bool is_beside(walk *w) {
    uint64_t turns = kv_log_sync_turns(w->store->log), now_ns = kv_now_ns();
    if (turns != w->sync_turns)
        w->sync_seen_ns = now_ns;
    w->sync_turns = turns;
    return now_ns - w->sync_seen_ns < PACE_ALONE_NS;
}

/* Longer than that took, and as long as a sync that may have waited for us is still under way. */
static void rest(const walk *w, uint64_t took_ns) {
    uint64_t turns = w->sync_turns, rest_ns = took_ns * PACE_REST, rested_ns = 0;
    if (rest_ns > PACE_REST_NS_MAX)
        rest_ns = PACE_REST_NS_MAX;
    do {
        struct timespec time = {.tv_nsec = (long)rest_ns};
        nanosleep(&time, NULL);
        rested_ns += rest_ns;
        rest_ns = PACE_LOOK_NS;
    } while (turns % 2 == 1 && kv_log_sync_turns(w->store->log) == turns && rested_ns < PACE_REST_NS_MAX);
}

/* Every sync of the log waits for what the disk has been given by then.  So where others sync while we write, we give
 * it little at once, and rest.  Not for ever: a log that outgrows the data meanwhile is worse. */
static size_t pace(void *arg, uint64_t took_ns) {
    walk *w = arg;
    kv_log *log = w->store->log;
    if (log == NULL || !is_beside(w) || kv_log_committed(log) - w->lsn >= w->total / 2)
        return KV_CHECKPOINT_PIECE_MAX;
    rest(w, took_ns);
    return PACE_PIECE;
}

static kv_status walk_all(walk *w, const _Atomic bool *stop, kv_error *err) {
    for (uint64_t hash = 0;;) {
        uint64_t next = 0;
        kv_status status = walk_shard(w, hash, &next, err);
        if (status == KV_BUSY)
            continue;
        if (status < 0)
            return status;
        if (stop != NULL && atomic_load(stop))
            return fail_cancelled(err);
        uint64_t size = kv_checkpoint_size(w->writer);
        if (w->progress != NULL && size - w->reported >= PROGRESS_EVERY) {
            w->reported = size;
            status = report(w->store, w->progress, w->arg, size < w->total ? size : w->total, w->total, err);
            if (status < 0)
                return status;
        }
        if (next == 0)
            return KV_OK;
        hash = next;
    }
}

/* ---- Checkpoints -------------------------------------------------------------------------------- */

static kv_status write_checkpoint(walk *w, uint64_t *sequence, kv_error *err) {
    kv_store *store = w->store;
    if (kv_log_failed(store->log, err)) /* it could not be published */
        return KV_ERR_FAILED;
    kv_checkpoint_header header = {.lsn = w->lsn, .made_ms = kv_store_now(store)};
    memcpy(header.store_id, store->who.store_id, sizeof header.store_id);
    header.sequence = *sequence = kv_log_segment_of(store->log, w->lsn);
    kv_status status = kv_checkpoint_create(&w->writer, &store->dir, &header, pace, w, err);
    if (status == KV_OK)
        status = walk_all(w, &store->worker.stopping, err);
    if (status == KV_OK)
        status = kv_checkpoint_finish(w->writer, err);
    /* Recovery starts at S and would not miss the log below it; but it takes what is below S as proven (proven_lsn
     * in recover.c), and so it is. */
    if (status == KV_OK)
        status = kv_log_make_durable(store->log, err);
    if (status < 0)
        return status;
    kv_log_begin_naming(store->log);
    status = kv_checkpoint_publish(w->writer, err);
    kv_log_end_naming(store->log);
    return status;
}

typedef struct older {
    uint64_t newest, found;
} older;

static bool find_older(void *arg, const char *name) {
    older *o = arg;
    uint64_t sequence = kv_checkpoint_sequence(name);
    if (sequence != 0 && sequence < o->newest)
        o->found = sequence;
    return true;
}

/* Removes the file, and then gives its room back a piece at a time: a file system may tell the disk right away what
 * is free again, and syncs of the log wait for that, too (measured, at once: 64 MiB 100 ms, 600 MB as long
 * elsewhere). */
static kv_status remove_slowly(void *arg, const char *name) {
    walk *w = arg;
    const kv_dir *dir = &w->store->dir;
    kv_file file = KV_FILE_CLOSED;
    uint64_t size = 0;
    if (kv_file_open(&file, dir, name, KV_OPEN_WRITE, NULL) == KV_OK && kv_file_size(&file, &size, NULL) < 0)
        size = 0;
    kv_status status = kv_dir_unlink(dir, name, NULL);
    while (status == KV_OK && size > REMOVE_PIECE) {
        uint64_t start_ns = kv_now_ns();
        size -= REMOVE_PIECE;
        if (kv_file_truncate(&file, size, NULL) < 0)
            break;
        if (is_beside(w))
            rest(w, kv_now_ns() - start_ns);
    }
    kv_file_close(&file); /* the rest */
    return status;
}

/* A checkpoint that is not needed any more.  One that is no larger than a segment is kept, to be written over. */
static kv_status retire(walk *w, const char *name) {
    const kv_store *store = w->store;
    kv_file file;
    uint64_t size = UINT64_MAX;
    /* Who still reads it (to load a shard that somebody else has loaded meanwhile) must find it whole. */
    if (store->checkpoint != NULL && !kv_table_loader_is_done(&store->table))
        return kv_dir_unlink(&store->dir, name, NULL);
    if (kv_file_open(&file, &store->dir, name, KV_OPEN_READ, NULL) == KV_OK) {
        (void)!kv_file_size(&file, &size, NULL);
        kv_file_close(&file);
    }
    return size <= store->options.segment_size_max
               ? kv_dir_rename(&store->dir, name, KV_CHECKPOINT_RECYCLED, NULL)
               : remove_slowly(w, name);
}

/* Files that are left behind are removed by the next checkpoint, or open. */
static void drop_older(walk *w, uint64_t newest) {
    const kv_dir *dir = &w->store->dir;
    for (;;) {
        char name[64];
        older o = {.newest = newest};
        if (kv_dir_list(dir, find_older, &o, NULL) < 0 || o.found == 0)
            return;
        kv_checkpoint_name(o.found, name);
        if (retire(w, name) < 0)
            return;
    }
}

/* KV_UNCHANGED: the one that there is will do. */
static kv_status make_checkpoint(walk *w, uint64_t *sequence, uint64_t *size, kv_error *err) {
    kv_store *store = w->store;
    walk_begin(w);
    kv_status status = KV_UNCHANGED;
    if (store->checkpoint_bytes == 0 || store->checkpoint_lsn != w->lsn)
        status = write_checkpoint(w, sequence, err);
    if (status == KV_ERR_FORKED)
        return status;
    walk_end(w);
    if (w->writer != NULL) {
        *size = kv_checkpoint_size(w->writer);
        kv_checkpoint_writer_destroy(w->writer);
        w->writer = NULL;
    }
    return status;
}

static kv_status save_checkpoint(kv_store *store, kv_progress progress, void *arg, kv_error *err) {
    kv_error local = {0};
    uint64_t sequence = 0, size = 0;
    walk w = {.store = store, .progress = progress, .arg = arg};
    kv_status status = make_checkpoint(&w, &sequence, &size, &local);
    bool short_of_room = status == KV_ERR_NOSPACE;
    if (short_of_room) { /* once more, with the room of what the log keeps ready, or was just making */
        kv_log_drop_spares(store->log);
        status = make_checkpoint(&w, &sequence, &size, &local);
    }
    if (status == KV_ERR_FORKED) {
        if (err != NULL)
            *err = local;
        return status;
    }
    bool made = status == KV_OK;
    if (status == KV_UNCHANGED)
        status = KV_OK;
    if (made) {
        kv_log_drop_before(store->log, sequence, remove_slowly, &w);
        /* Every shard is in memory now: the walk has seen to it. */
        if (store->checkpoint != NULL && kv_table_loader_is_done(&store->table))
            kv_file_close(&store->checkpoint->file);
        drop_older(&w, sequence);
        atomic_fetch_add_explicit(&store->checkpoints, 1, memory_order_relaxed);
    } else if (status < 0 && status != KV_ERR_CANCELLED) {
        atomic_fetch_add_explicit(&store->checkpoint_failures, 1, memory_order_relaxed);
    }
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (status == KV_OK)
        local.status = KV_OK;
    if (status != KV_ERR_CANCELLED)
        store->checkpoint_error = local;
    if (made) {
        store->checkpoint_lsn = w.lsn;
        store->checkpoint_bytes = size;
    }
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (short_of_room)
        kv_log_allow_spares(store->log);
    if (status < 0 && err != NULL)
        *err = local;
    return status;
}

kv_status kv_store_checkpoint(kv_store *store) {
    kv_status status = begin_saving(store, NULL, NULL);
    if (status < 0)
        return status;
    status = save_checkpoint(store, NULL, NULL, NULL);
    end_saving(store);
    return status;
}

bool kv_store_checkpoint_is_due(kv_store *store, bool closing) {
    const kv_options *o = &store->options;
    if (store->log == NULL || o->checkpoint_log_percent == 0 || kv_log_failed(store->log, NULL))
        return false;
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    uint64_t log_bytes = kv_log_committed(store->log) - store->checkpoint_lsn;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    /* Whole files count as what they take: a checkpoint is made a little behind the start of a segment, and one that
     * needs as much log as a segment holds would come with every second segment only.  Then every second one would be
     * a new file, which costs more than one that is written over. */
    if (!closing) {
        uint64_t file_bytes = kv_log_full_bytes(store->log);
        if (file_bytes > log_bytes)
            log_bytes = file_bytes;
    }
    if (log_bytes < (closing ? CLOSE_LOG_MIN : o->checkpoint_log_min))
        return false;
    uint64_t data_bytes = kv_store_sum(store).data_bytes;
    /* At close: what writing the data costs, against what reading the log would. */
    return closing ? log_bytes >= data_bytes / 2
                   : log_bytes / o->checkpoint_log_percent >= data_bytes / 100;
}

kv_status kv_checkpoint(kv_db *db, kv_progress progress, void *arg, kv_error *err) {
    kv_telling telling;
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    if (db->read_only)
        status = kv_fail(err, KV_ERR_READONLY, "the store was opened read-only");
    else if (db->store->log != NULL)
        status = begin_saving(db->store, db, err);
    if (status == KV_OK && db->store->log != NULL) {
        kv_telling_begin(&telling, db, true);
        status = save_checkpoint(db->store, progress, arg, err);
        kv_telling_end(&telling);
        end_saving(db->store);
    }
    kv_db_leave(db);
    return status;
}

/* ---- Loading everything ---------------------------------------------------------------------------- */

/* Loads all shards, or those only that the tail concerns. */
static kv_status load_shards(kv_store *store, bool all, const _Atomic bool *stop,
                             kv_progress progress, void *arg, kv_error *err) {
    kv_table *table = &store->table;
    kv_error local;
    kv_status result = KV_OK;
    uint64_t shards = 0;
    for (uint64_t hash = 0; !kv_table_is_loaded(table);) {
        kv_shard *shard = kv_table_lock(table, hash);
        uint64_t last = kv_shard_range_last(shard);
        kv_status status = KV_OK;
        if (!kv_shard_is_loaded(shard) && (all || kv_tail_concerns(store->tail, shard)))
            status = kv_table_load_locked(table, hash, &shard, &local);
        if (status == KV_OK)
            kv_shard_unlock(shard);
        if (status < 0 && result == KV_OK) { /* the others all the same; the first failure is told */
            result = status;
            if (err != NULL)
                *err = local;
        }
        if (status < 0 && status != KV_ERR_CORRUPT)
            break;
        if (stop != NULL && atomic_load(stop))
            return fail_cancelled(err);
        if (progress != NULL && ++shards % LOAD_REPORT_EVERY == 0) {
            uint64_t total = atomic_load_explicit(&table->shard_count, memory_order_relaxed);
            uint64_t left = atomic_load_explicit(&table->unloaded, memory_order_relaxed);
            uint64_t bytes = store->checkpoint_bytes;
            double part = total > left ? (double)(total - left) / (double)total : 0;
            status = report(store, progress, arg, (uint64_t)((double)bytes * part), bytes, err);
            if (status < 0)
                return status;
        }
        if (last == UINT64_MAX)
            break;
        hash = last + 1;
    }
    if (result == KV_OK)
        atomic_store_explicit(&store->tail_waits, false, memory_order_release);
    return result;
}

kv_status kv_store_load_all(kv_store *store, const _Atomic bool *stop, kv_progress progress,
                            void *arg, kv_error *err) {
    return load_shards(store, true, stop, progress, arg, err);
}

kv_status kv_store_catch_up_slow(kv_store *store, kv_error *err) {
    return load_shards(store, false, NULL, NULL, NULL, err);
}

kv_status kv_load_all(kv_db *db, kv_progress progress, void *arg, kv_error *err) {
    kv_telling telling;
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_telling_begin(&telling, db, false);
    status = kv_store_load_all(db->store, NULL, progress, arg, err);
    kv_telling_end(&telling);
    kv_db_leave(db);
    return status;
}

/* ---- Backups ------------------------------------------------------------------------------------- */

typedef struct backup {
    walk walk;
    kv_dir dir;
    kv_file lock_file; /* of the copy: nobody makes a store in its place meanwhile */
    kv_identity who;
    kv_segment_header segment;
    kv_file log;
    uint64_t end_lsn; /* of the log that goes along */
    uint8_t *buffer;
    size_t buffer_size;
} backup;

typedef struct other_names {
    const char *but; /* that one does not count; NULL: all do */
    bool found;
} other_names;

static bool note_other(void *arg, const char *name) {
    other_names *o = arg;
    o->found = o->but == NULL || strcmp(name, o->but) != 0;
    return !o->found;
}

static kv_status find_others(const kv_dir *dir, const char *but, bool *found, kv_error *err) {
    other_names o = {.but = but};
    kv_status status = kv_dir_list(dir, note_other, &o, err);
    *found = o.found;
    return status;
}

/* A look before the lock, so that a directory in use does not get a LOCK; then one that counts. */
static kv_status open_destination(backup *b, const kv_os *os, const char *dest, kv_error *err) {
    bool used;
    kv_status status = kv_dir_open(&b->dir, os, dest, true, err);
    if (status < 0)
        return status;
    status = find_others(&b->dir, NULL, &used, err);
    if (status == KV_OK && !used) {
        status = kv_lockfile_take(&b->lock_file, &b->dir, false, err);
        if (status == KV_OK) {
            status = find_others(&b->dir, KV_LOCK_FILE, &used, err);
            if (status < 0)
                (void)!kv_dir_unlink(&b->dir, KV_LOCK_FILE, NULL);
        }
    }
    if (status == KV_OK && used)
        status = kv_fail_sys(err, ENOTEMPTY, dest, "a backup needs a new or an empty directory");
    if (status < 0) {
        kv_lockfile_release(&b->lock_file);
        kv_dir_close(&b->dir);
    }
    return status;
}

/* What was made of the copy: first what makes it a store, last what keeps others away. */
static void remove_copy(const kv_dir *dir) {
    char log[64], checkpoint[64];
    kv_segment_name(1, log);
    kv_checkpoint_name(1, checkpoint);
    const char *const names[] = {KV_STORE_FILE, KV_STORE_FILE_NEW, log, KV_SEGMENT_SPARE,
                                 checkpoint, KV_CHECKPOINT_NEW, KV_LOCK_FILE};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)!kv_dir_unlink(dir, names[i], NULL);
}

/* A copy is a store of its own: files of the two that get mixed up are noticed. */
static kv_status draw_identity(backup *b, kv_error *err) {
    b->who = b->walk.store->who;
    kv_status status = kv_dir_random(&b->dir, b->who.store_id, sizeof b->who.store_id, err);
    if (status == KV_OK)
        status = kv_dir_random(&b->dir, &b->segment.salt, sizeof b->segment.salt, err);
    return status;
}

static kv_status make_buffer(backup *b, size_t size, kv_error *err) {
    if (size <= b->buffer_size)
        return KV_OK;
    uint8_t *buffer = kv_mem_realloc(b->buffer, size);
    if (buffer == NULL)
        return kv_fail_nomem(err, size);
    b->buffer = buffer;
    b->buffer_size = size;
    return KV_OK;
}

/* Writes a frame whose payload stands in the buffer into the copy's log. */
static kv_status put_frame(backup *b, kv_frame_header *header, kv_error *err) {
    size_t size = KV_FRAME_HEADER_SIZE + header->payload_size;
    size_t padded = (size_t)kv_frame_size(header->payload_size);
    header->salt = b->segment.salt;
    kv_frame_header_encode(header, b->buffer);
    memset(b->buffer + size, 0, padded - size);
    return kv_file_write(&b->log, b->buffer, padded,
                         KV_SEGMENT_HEADER_SIZE + (header->lsn - b->segment.start_lsn), NULL, err);
}

/* The frames of one segment from `*lsn` on, up to its end or to end_lsn.  (Its end frame may be missing: there
 * was no space for it.)  Read through the page cache while the log may be written past it: they are all durable, so
 * nobody changes a byte of them, and the system drops cached pages that a direct write has made old. */
static kv_status copy_frames(backup *b, const kv_segment *from, uint64_t *lsn, kv_error *err) {
    char path[KV_ERROR_PATH_SIZE];
    kv_dir_join(from->file.dir, from->file.name, path);
    while (*lsn < b->end_lsn &&
           kv_log_segment_of(b->walk.store->log, *lsn) == from->header.sequence) {
        kv_frame_header header;
        uint64_t offset = kv_segment_offset(from, *lsn);
        size_t got = 0;
        kv_status status = make_buffer(b, KV_FRAME_HEADER_SIZE, err);
        if (status == KV_OK)
            status = kv_file_read(&from->file, b->buffer, KV_FRAME_HEADER_SIZE, offset, &got, err);
        if (status < 0)
            return status;
        bool valid = got == KV_FRAME_HEADER_SIZE && kv_frame_header_decode(&header, b->buffer) &&
                     header.lsn == *lsn && header.salt == from->header.salt;
        if (valid && header.kind == KV_FRAME_END)
            return KV_OK;
        size_t padded = valid ? (size_t)kv_frame_size(header.payload_size) : 0;
        status = make_buffer(b, padded, err);
        if (valid && status == KV_OK)
            status = kv_file_read(&from->file, b->buffer, padded, offset, &got, err);
        if (status < 0)
            return status;
        if (!valid || got < padded ||
            kv_crc32c(0, b->buffer + KV_FRAME_HEADER_SIZE, header.payload_size) !=
                header.payload_crc)
            return kv_fail_corrupt(err, path, (int64_t)offset, "a frame of the log is damaged");
        if (header.kind == KV_FRAME_CLOSE)
            header.kind = KV_FRAME_MARK; /* of an earlier run of the store */
        status = put_frame(b, &header, err);
        if (status < 0)
            return status;
        *lsn += padded;
    }
    return KV_OK;
}

/* What was committed while the walk went on; then a closing frame. */
static kv_status copy_log(backup *b, kv_error *err) {
    kv_store *store = b->walk.store;
    uint64_t lsn = b->walk.lsn, sequence;
    kv_status status = KV_OK;
    for (sequence = store->log != NULL ? kv_log_segment_of(store->log, lsn) : 0;
         lsn < b->end_lsn && status == KV_OK; sequence++) {
        kv_segment from;
        status = kv_segment_open(&from, &store->dir, sequence, store->who.store_id, false, err);
        if (status < 0)
            return status;
        status = copy_frames(b, &from, &lsn, err);
        kv_file_close(&from.file);
    }
    kv_frame_header close = {.lsn = lsn, .durable_lsn = lsn, .kind = KV_FRAME_CLOSE};
    close.payload_crc = kv_crc32c(0, NULL, 0);
    if (status == KV_OK)
        status = make_buffer(b, KV_FRAME_HEADER_SIZE, err);
    return status == KV_OK ? put_frame(b, &close, err) : status;
}

static kv_status save_log(backup *b, kv_error *err) {
    kv_store *store = b->walk.store;
    kv_segment segment = {.file = KV_FILE_CLOSED};
    b->end_lsn = b->walk.lsn;
    if (store->log != NULL) {
        kv_log_stats stats;
        kv_status status = kv_log_make_durable(store->log, err);
        if (status < 0)
            return status;
        kv_log_get_stats(store->log, &stats);
        b->end_lsn = stats.durable_lsn;
    }
    b->segment.version = KV_FORMAT_VERSION;
    b->segment.sequence = 1;
    b->segment.start_lsn = b->walk.lsn;
    b->segment.file_size = kv_segment_size_for(
        b->end_lsn - b->walk.lsn + kv_frame_size(0), store->options.segment_size_min);
    memcpy(b->segment.store_id, b->who.store_id, sizeof b->segment.store_id);
    kv_status status =
        kv_segment_prepare(&b->log, &b->dir, b->segment.file_size, false, err);
    if (status == KV_OK)
        status = copy_log(b, err);
    if (status == KV_OK)
        status = kv_segment_begin(&segment, &b->log, &b->segment, err);
    if (status == KV_OK)
        status = kv_segment_publish(&segment, err);
    kv_file_close(&segment.file);
    kv_file_close(&b->log);
    return status;
}

static kv_status save_state(backup *b, kv_error *err) {
    kv_checkpoint_header header = {
        .sequence = 1, .lsn = b->walk.lsn, .made_ms = kv_store_now(b->walk.store)};
    memcpy(header.store_id, b->who.store_id, sizeof header.store_id);
    kv_status status = kv_checkpoint_create(&b->walk.writer, &b->dir, &header, pace, &b->walk, err);
    if (status == KV_OK)
        status = walk_all(&b->walk, NULL, err);
    if (status == KV_OK)
        status = kv_checkpoint_finish(b->walk.writer, err);
    return status == KV_OK ? kv_checkpoint_publish(b->walk.writer, err) : status;
}

/* STORE comes last: a directory without it is no store, and half a copy is none. */
static kv_status make_backup(kv_store *store, const char *dest, kv_progress progress, void *arg,
                             kv_error *err) {
    backup b = {.walk = {.store = store, .progress = progress, .arg = arg},
                .dir = KV_DIR_CLOSED, .lock_file = KV_FILE_CLOSED, .log = KV_FILE_CLOSED};
    kv_status status = open_destination(&b, store->options.os, dest, err);
    if (status < 0)
        return status;
    walk_begin(&b.walk);
    status = draw_identity(&b, err);
    if (status == KV_OK)
        status = save_state(&b, err);
    if (status == KV_ERR_FORKED) {
        kv_file_close(&b.lock_file); /* the parent still has it */
        return status;
    }
    walk_end(&b.walk);
    kv_checkpoint_writer_destroy(b.walk.writer);
    if (status == KV_OK)
        status = save_log(&b, err);
    if (status == KV_OK)
        status = kv_store_write_identity(&b.dir, &b.who, err);
    if (status < 0)
        remove_copy(&b.dir);
    kv_lockfile_release(&b.lock_file);
    if (status == KV_OK && progress != NULL)
        (void)progress(arg, b.walk.total, b.walk.total);
    kv_dir_close(&b.dir);
    kv_mem_free(b.buffer);
    return status;
}

kv_status kv_backup(kv_db *db, const char *dest, kv_progress progress, void *arg,
                    kv_error *err) {
    kv_telling telling;
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    status = begin_saving(db->store, db, err);
    if (status == KV_OK) {
        kv_telling_begin(&telling, db, true);
        status = make_backup(db->store, dest, progress, arg, err);
        kv_telling_end(&telling);
        end_saving(db->store);
    }
    kv_db_leave(db);
    return status;
}
