/* registry.c - which stores are open in this process: opening, sharing, closing, forking.
 *
 * The list is the one piece of state that belongs to the process and not to a store: two opens of one
 * directory, even from two interpreters, must meet on one store, since a second log writer would
 * destroy it and a file lock does not tell two openers in one process apart.
 *
 * After fork the child has the memory but none of the threads, and locks may be held by threads that
 * are not there.  So in the child every handle refuses every call, the descriptors are closed (the
 * parent's lock stays: it belongs to the open file, which the parent still has), and nothing is freed.
 */
#include <pthread.h>
#include <time.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "deferred.h"

#define SYNC_INTERVAL_DEFAULT_NS UINT64_C(100000000)
#define MARK_DELAY_DEFAULT_NS UINT64_C(100000000)
#define SEGMENT_SIZE_MIN_DEFAULT (1u << 20)
#define SEGMENT_SIZE_MAX_DEFAULT (64u << 20)
#define INFLIGHT_MAX_DEFAULT (32u << 20)
#define CHECKPOINT_LOG_MIN_DEFAULT (UINT64_C(64) << 20)

static kv_mutex registry_mutex = KV_MUTEX_INIT;
static kv_store *stores; /* guarded by registry_mutex */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

#define LOCK() kv_mutex_lock(&registry_mutex, KV_RANK_REGISTRY)
#define UNLOCK() kv_mutex_unlock(&registry_mutex, KV_RANK_REGISTRY)

/* From now on no call begins on the handle.  The bits of before.  The last count says that all have it. */
static uint64_t refuse_calls(kv_db *db, uint64_t bit) {
    uint64_t before = atomic_fetch_or(&db->calls[0].count, bit);
    for (unsigned i = 1; i < KV_THREAD_INDEXES; i++)
        atomic_fetch_or(&db->calls[i].count, bit);
    return before;
}

/* ---- Fork --------------------------------------------------------------------------------------- */

static void before_fork(void) {
    LOCK();
}

static void after_fork_parent(void) {
    UNLOCK();
}

static void after_fork_child(void) {
    for (kv_store *s = stores; s != NULL; s = s->next) {
        for (kv_db *db = s->handles; db != NULL; db = db->next)
            refuse_calls(db, KV_CALLS_FORKED);
        atomic_store(&s->forked, true);
        kv_file_close(&s->lock_file);
        kv_dir_close(&s->dir);
        if (s->ending)
            continue; /* what follows was being freed */
        if (s->log != NULL)
            kv_log_abandon(s->log);
        if (s->checkpoint != NULL)
            kv_file_close(&s->checkpoint->file);
    }
    kv_pool_abandon_all();
    stores = NULL; /* the child may open the path anew, when the parent lets go of it */
    UNLOCK();
}

static void register_fork(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* ---- Handles --------------------------------------------------------------------------------------- */

static _Thread_local kv_telling *tellings; /* the innermost first */

void kv_telling_begin(kv_telling *telling, const kv_db *db, bool saves) {
    *telling = (kv_telling){.db = db, .saves = saves, .outer = tellings};
    tellings = telling;
}

void kv_telling_end(const kv_telling *telling) {
    tellings = telling->outer;
}

bool kv_store_is_saved_here(const kv_store *store) {
    for (const kv_telling *t = tellings; t != NULL; t = t->outer)
        if (t->saves && t->db->store == store)
            return true;
    return false;
}

static bool is_told_here(kv_db *db) {
    if (atomic_load(&kv_db_calls(db)->count) & KV_CALLS_FORKED)
        return false; /* nothing is waited for */
    for (const kv_telling *t = tellings; t != NULL; t = t->outer)
        if (t->db == db)
            return true;
    return false;
}

kv_status kv_fail_forked(kv_error *err) {
    return kv_fail(err, KV_ERR_FORKED, "the store was opened before this process was forked; open it anew");
}

kv_status kv_fail_closed(kv_error *err) {
    return kv_fail(err, KV_ERR_CLOSED, "the store is closed");
}

kv_status kv_db_refuse(kv_db *db, kv_error *err) {
    uint64_t calls = atomic_load(&kv_db_calls(db)->count);
    kv_db_leave(db);
    if (calls & KV_CALLS_FORKED)
        return kv_fail_forked(err);
    return kv_fail_closed(err);
}

void kv_db_wake_closer(kv_db *db) {
    atomic_fetch_add(&db->closed_word, 2); /* a change; bit 0 says closed */
    kv_futex_wake(&db->closed_word, KV_FUTEX_ALL);
}

static void add_handle_locked(kv_store *store, kv_db *db) {
    db->store = store;
    db->next = store->handles;
    store->handles = db;
    store->handle_count++;
}

/* A handle is closed in the moment in which it leaves the lists, by itself or with its store: a child that is forked
 * has nobody who would finish closing it, so it must find the handle there (after_fork_child), or closed. */
static void set_closed_locked(kv_db *db) {
    db->store = NULL;
    atomic_fetch_or(&db->closed_word, 1);
}

/* True when it was the last one: the store is then busy, and the caller's to close, and the handle stays on its list
 * until the store goes. */
static bool remove_handle(kv_store *store, kv_db *db) {
    LOCK();
    bool last = --store->handle_count == 0;
    kv_db **at = &store->handles;
    while (*at != db)
        at = &(*at)->next;
    if (last) {
        atomic_store(&store->busy, 1); /* an open of this directory waits for us */
    } else {
        *at = db->next;
        set_closed_locked(db);
    }
    UNLOCK();
    return last;
}

uint64_t kv_store_handles(kv_store *store) {
    LOCK();
    uint64_t count = store->handle_count;
    UNLOCK();
    return count;
}

void kv_store_end(kv_store *store) {
    LOCK();
    store->ending = true;
    UNLOCK();
}

void kv_store_warn(kv_store *store) {
    LOCK();
    for (kv_db *db = store->handles; db != NULL; db = db->next)
        atomic_store_explicit(&db->warning, true, memory_order_relaxed);
    UNLOCK();
}

/* With its last handle, if somebody has that already. */
static void remove_store(kv_store *store, kv_db *db) {
    LOCK();
    kv_store **at = &stores;
    while (*at != NULL && *at != store)
        at = &(*at)->next;
    if (*at == store)
        *at = store->next;
    if (db != NULL)
        set_closed_locked(db);
    UNLOCK();
}

/* ---- Opening ---------------------------------------------------------------------------------------- */

kv_options kv_options_default(void) {
    return (kv_options){
        .sync = KV_SYNC_ALWAYS,
        .sync_interval_ns = SYNC_INTERVAL_DEFAULT_NS,
        .create = true,
        .segment_size_min = SEGMENT_SIZE_MIN_DEFAULT,
        .segment_size_max = SEGMENT_SIZE_MAX_DEFAULT,
        .inflight_max = INFLIGHT_MAX_DEFAULT,
        .mark_delay_ns = MARK_DELAY_DEFAULT_NS,
        .checkpoint_log_min = CHECKPOINT_LOG_MIN_DEFAULT,
        .checkpoint_log_percent = 100,
        .direct_io = true,
        .os = &kv_os_posix,
    };
}

static kv_status check_options(const kv_options *o, kv_error *err) {
    if ((unsigned)o->sync > KV_SYNC_NEVER)
        return kv_fail(err, KV_ERR_INVALID, "unknown sync mode %d", (int)o->sync);
    if (o->sync == KV_SYNC_INTERVAL && o->sync_interval_ns == 0)
        return kv_fail(err, KV_ERR_INVALID, "the sync interval must be more than 0");
    if (o->mark_delay_ns < 2)
        return kv_fail(err, KV_ERR_INVALID, "the mark delay must be more than 0");
    if ((unsigned)o->when_full > KV_FULL_EVICT)
        return kv_fail(err, KV_ERR_INVALID, "unknown when_full %d", (int)o->when_full);
    if (o->segment_size_min > o->segment_size_max)
        return kv_fail(err, KV_ERR_INVALID, "segment_size_min is more than segment_size_max");
    return KV_OK;
}

static bool same_options(const kv_options *a, const kv_options *b) {
    return a->sync == b->sync && a->read_only == b->read_only &&
           (a->sync != KV_SYNC_INTERVAL || a->sync_interval_ns == b->sync_interval_ns) &&
           a->max_memory == b->max_memory &&
           (a->max_memory == 0 || a->when_full == b->when_full);
}

/* Waits while another thread opens or closes this directory in this process; then either joins the
 * store that is open (*joined), or puts `store` on the list, to be opened by the caller. */
static kv_status join_or_add(kv_store *store, kv_db *db, bool *joined, kv_error *err) {
    for (;;) {
        LOCK();
        kv_store *other = stores;
        while (other != NULL && (other->identity[0] != store->identity[0] ||
                                 other->identity[1] != store->identity[1] ||
                                 other->options.os != store->options.os))
            other = other->next;
        if (other == NULL) {
            store->busy = 1;
            store->next = stores;
            stores = store;
            UNLOCK();
            *joined = false;
            return KV_OK;
        }
        if (atomic_load(&other->busy) == 0) {
            kv_status status = KV_OK;
            if (same_options(&other->options, &store->options))
                add_handle_locked(other, db);
            else
                status = kv_fail(err, KV_ERR_INVALID,
                                 "the store is open in this process with another sync mode, "
                                 "read_only or max_memory; use the same");
            UNLOCK();
            *joined = true;
            return status;
        }
        UNLOCK();
        /* The other store's memory may go at any time, so its word is none to sleep on. */
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
}

static void handle_set(kv_db *db) {
    const kv_store *store = db->store;
    db->memory_only = store->dir.fd < 0;
    db->read_only = store->options.read_only;
    db->sync = store->options.sync;
    db->recovery = store->recovery;
}

static kv_status open_directory(kv_store *store, kv_db *db, const char *path, bool *joined,
                                kv_error *err) {
    const kv_options *o = &store->options;
    kv_status status =
        kv_dir_open(&store->dir, o->os, path, o->create && !o->read_only, err);
    if (status < 0)
        return status;
    int result = o->os->identity(o->os->ctx, store->dir.fd, NULL, store->identity);
    if (result < 0) {
        status = kv_fail_sys(err, -result, path, "cannot tell which directory this is");
    } else {
        status = join_or_add(store, db, joined, err);
        if (status == KV_OK && !*joined) {
            status = kv_store_open_directory(store, err);
            if (status < 0)
                remove_store(store, NULL);
        }
    }
    if (status < 0 || *joined)
        kv_dir_close(&store->dir);
    return status;
}

kv_status kv_open(const char *path, const kv_options *options, kv_db **out, kv_error *err) {
    kv_options defaults = kv_options_default();
    const kv_options *o = options != NULL ? options : &defaults;
    kv_status status = check_options(o, err);
    if (status < 0)
        return status;
    pthread_once(&fork_once, register_fork);
    kv_db *db = kv_mem_map(sizeof *db, 4096, false); /* zeroed, and aligned for its atomics */
    kv_store *store = kv_mem_map(sizeof *store, 4096, false);
    bool joined = false;
    if (db == NULL || store == NULL) {
        status = kv_fail_nomem(err, sizeof *store + sizeof *db);
        goto fail;
    }
    store->options = *o;
    if (o->max_memory > INT64_MAX)
        store->options.max_memory = INT64_MAX;
    if (store->options.os == NULL)
        store->options.os = &kv_os_posix;
    store->dir.fd = store->lock_file.fd = -1;
    if (path != NULL) {
        status = open_directory(store, db, path, &joined, err);
    } else {
        status = kv_store_open_memory(store, err);
        if (status == KV_OK) {
            LOCK();
            store->next = stores;
            stores = store;
            UNLOCK();
        }
    }
    if (status < 0)
        goto fail;
    if (joined) {
        kv_mem_unmap(store, sizeof *store);
        handle_set(db);
    } else {
        LOCK();
        add_handle_locked(store, db);
        handle_set(db);
        atomic_store(&store->busy, 0);
        UNLOCK();
    }
    *out = db;
    return KV_OK;
fail:
    kv_mem_unmap(store, sizeof *store);
    kv_mem_unmap(db, sizeof *db);
    return status;
}

/* ---- More handles, and opening again ------------------------------------------------------------------- */

kv_status kv_dup(kv_db *db, bool deferred, kv_db **out, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_db *copy = kv_mem_map(sizeof *copy, 4096, false);
    kv_deferred *more = deferred ? kv_mem_alloc_zero(sizeof *more) : NULL;
    if (copy == NULL || (deferred && more == NULL)) {
        kv_mem_unmap(copy, sizeof *copy);
        kv_mem_free(more);
        status = kv_fail_nomem(err, sizeof *copy);
    } else {
        copy->deferred = more;
        LOCK();
        add_handle_locked(db->store, copy);
        UNLOCK();
        handle_set(copy);
        *out = copy;
    }
    kv_db_leave(db);
    return status;
}

/* Makes of the store a new one in the same directory, whatever its path leads to by now.  Others know it by its
 * identity, and see that it is busy. */
kv_status kv_reopen(kv_db *db, kv_error *err) {
    kv_status status = kv_db_enter(db, err);
    if (status < 0)
        return status;
    kv_store *store = db->store;
    kv_db_leave(db); /* no other call is in flight */
    LOCK();
    bool alone = store->handle_count == 1 && store->dir.fd >= 0;
    if (alone)
        atomic_store(&store->busy, 1); /* who opens this directory waits */
    UNLOCK();
    if (!alone)
        return kv_fail(err, KV_ERR_INVALID, "the store is in memory only, or has other handles");
    kv_db_drop_snapshots(db);
    status = kv_store_close(store, err);
    LOCK();
    kv_store blank = {.options = store->options, .next = store->next, .handles = store->handles,
                      .handle_count = 1, .busy = 1, .dir = store->dir, .lock_file = KV_FILE_CLOSED};
    memcpy(blank.identity, store->identity, sizeof blank.identity);
    memcpy(store, &blank, sizeof blank);
    UNLOCK();
    if (status == KV_OK)
        status = kv_store_open_directory(store, err);
    if (status == KV_OK) {
        handle_set(db);
        atomic_store(&store->busy, 0);
        return KV_OK;
    }
    refuse_calls(db, KV_CALLS_CLOSING);
    kv_dir_close(&store->dir);
    remove_store(store, db);
    kv_mem_unmap(store, sizeof *store);
    return status;
}

/* ---- Closing -------------------------------------------------------------------------------------------- */

kv_status kv_close(kv_db *db, kv_error *err) {
    kv_status status = KV_OK;
    if (is_told_here(db))
        return kv_fail(err, KV_ERR_INVALID,
                       "close() from within a call on this store, by its progress function or a signal handler");
    uint64_t before = refuse_calls(db, KV_CALLS_CLOSING);
    if (before & KV_CALLS_FORKED)
        return KV_OK;
    uint32_t word;
    if (before & KV_CALLS_CLOSING) {
        /* Another thread closes: wait until it is done. */
        while (((word = atomic_load(&db->closed_word)) & 1) == 0)
            kv_futex_wait(&db->closed_word, word, KV_FUTEX_FOREVER);
        return KV_OK;
    }
    kv_store *store = db->store;
    atomic_fetch_add(&store->saving, 2 * KV_SAVING); /* a change: who waits for a checkpoint gives up */
    kv_futex_wake(&store->saving, KV_FUTEX_ALL);
    /* From here no call enters.  Acquire pairs with the release in kv_db_leave: what the calls did is
     * done before the store goes. */
    for (unsigned i = 0; i < KV_THREAD_INDEXES;) {
        word = atomic_load(&db->closed_word);
        if (atomic_load_explicit(&db->calls[i].count, memory_order_acquire) == KV_CALLS_CLOSING)
            i++;
        else
            kv_futex_wait(&db->closed_word, word, KV_FUTEX_FOREVER);
    }
    kv_db_drop_snapshots(db);
    if (db->deferred != NULL) {
        /* Somebody has to flush what it wrote; an error is for whoever took the ticket. */
        kv_ticket pending = db->deferred->pending;
        db->deferred->pending.group = NULL;
        if (store->log != NULL)
            (void)!kv_log_wait(store->log, &pending, NULL);
        kv_deferred_settle(store, db->deferred);
        kv_deferred_destroy(db->deferred);
        db->deferred = NULL;
    }
    if (remove_handle(store, db)) {
        uint64_t failures = atomic_load(&store->checkpoint_failures);
        status = kv_store_close(store, err);
        if (atomic_load(&store->checkpoint_failures) != failures) { /* of the close itself */
            db->checkpoint_error = store->checkpoint_error;
            atomic_store_explicit(&db->warning, true, memory_order_relaxed);
        }
        kv_dir_close(&store->dir);
        remove_store(store, db);
        kv_mem_unmap(store, sizeof *store);
    }
    kv_futex_wake(&db->closed_word, KV_FUTEX_ALL);
    return status;
}

void kv_destroy(kv_db *db) {
    if (db == NULL)
        return;
    if (kv_close(db, NULL) == KV_ERR_INVALID)
        return; /* from within a call on it, which goes on */
    if (!(atomic_load(&db->calls[0].count) & KV_CALLS_FORKED))
        kv_mem_unmap(db, sizeof *db);
}

bool kv_is_closed(const kv_db *db) {
    return (atomic_load(&db->calls[KV_THREAD_INDEXES - 1].count) & KV_CALLS_CLOSING) != 0;
}

bool kv_is_memory_only(const kv_db *db) {
    return db->memory_only;
}

bool kv_is_read_only(const kv_db *db) {
    return db->read_only;
}

kv_sync kv_sync_mode(const kv_db *db) {
    return db->sync;
}

void kv_get_recovery(const kv_db *db, kv_recovery *recovery) {
    *recovery = db->recovery;
}
