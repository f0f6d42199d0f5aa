/* worker.c - see worker.h. */
#include "worker.h"

#include <signal.h>
#include <time.h>

#include "../base/futex.h"

#define CHUNK 2048u            /* keys swept away in one flush of the log: a write that comes into the same one waits
                                  for some 50 KB more */
#define CHUNK_SHARDS 64u
#define CHUNK_PAUSE_NS 500000  /* between two: the others' turn */
#define SWEEP_EVERY_MS 100u    /* at most so often all shards are looked at */
#define LOOK_AGAIN_MS 1000u    /* the wall clock may have been set */
#define RETRY_MS 10000u        /* after a checkpoint that failed */
#define LOOK_NS 1000000u       /* while the pools grow they are looked at so often ... */
#define WATCH_NS 1000000000u   /* ... until they have not wanted anything for so long */

/* ---- Expiry ------------------------------------------------------------------------------------- */

void kv_store_lower_expiry(kv_store *store, uint64_t expiry) {
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    bool earlier = expiry < atomic_load(&store->next_expiry);
    if (earlier)
        atomic_store(&store->next_expiry, expiry);
    if (expiry < atomic_load(&store->sweep_expiry))
        atomic_store(&store->sweep_expiry, expiry);
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (earlier)
        kv_worker_wake(store);
}

typedef struct sweep {
    kv_store *store;
    uint64_t now_ms;
    uint64_t next_expiry; /* of what stays */
    bool skipped;         /* a shard that could not be loaded */
    /* of the shard at hand */
    kv_entry *expired[KV_REMOVE_MAX];
    size_t count;
    bool more;
    uint64_t shard_next;
    /* of the chunk */
    kv_ticket ticket; /* the last one */
    uint64_t hashes[CHUNK_SHARDS];
    size_t shards, removed;
} sweep;

static void look_at(void *arg, kv_entry *e) {
    sweep *s = arg;
    if (!e->expires)
        return;
    uint64_t expiry = kv_entry_expiry(e);
    if (expiry > s->now_ms) {
        if (expiry < s->shard_next)
            s->shard_next = expiry;
    } else if (s->count < KV_REMOVE_MAX) {
        s->expired[s->count++] = e;
    } else {
        s->more = true;
    }
}

/* Waits until what the chunk removed is committed, and lets go of it. */
static kv_status end_chunk(sweep *s) {
    kv_status status = KV_OK;
    if (s->ticket.group != NULL)
        status = kv_log_wait(s->store->log, &s->ticket, NULL);
    for (size_t i = 0; i < s->shards; i++)
        kv_store_prune_hash(s->store, s->hashes[i]);
    if (s->removed > 0) {
        struct timespec pause = {.tv_nsec = CHUNK_PAUSE_NS};
        nanosleep(&pause, NULL);
    }
    s->shards = s->removed = 0;
    return status;
}

/* The earliest expiry that changes which are not committed have hidden: readers still see what they replaced. */
static uint64_t hidden_expiry(kv_store *store, const kv_shard *shard) {
    uint64_t earliest = KV_NO_EXPIRY, visible = kv_store_visible(store);
    for (const kv_undo *r = shard->undo; r != NULL && r->lsn > visible; r = r->next) {
        if (r->kind == KV_UNDO_CLEAR && kv_undo_as_clear(r)->expiring > 0)
            return 1; /* it is not known; soon it does not matter */
        const kv_entry *before = r->kind == KV_UNDO_CLEAR ? NULL : kv_undo_before(r);
        if (before != NULL && before->expires && kv_entry_expiry(before) < earliest)
            earliest = kv_entry_expiry(before);
    }
    return earliest;
}

/* Removes what has expired in the shard of the hash; *last: the last hash that it owns.  s->more: not all of it,
 * so once more.  KV_BUSY: the log cannot take it now. */
static kv_status sweep_shard(sweep *s, uint64_t hash, uint64_t *last) {
    kv_store *store = s->store;
    kv_status status = KV_OK;
    kv_ticket ticket = {0};
    kv_undo *dead = NULL;
    kv_shard *shard = kv_table_lock(&store->table, hash);
    *last = kv_shard_range_last(shard);
    s->count = 0;
    s->more = false;
    if (shard->expiring > 0 && shard->next_expiry <= s->now_ms && !kv_shard_is_loaded(shard)) {
        uint64_t next_expiry = shard->next_expiry;
        if (kv_table_load_locked(&store->table, hash, &shard, NULL) < 0) {
            /* A damaged block, say: what has expired in it stays, and stays to be looked at. */
            s->next_expiry = next_expiry < s->next_expiry ? next_expiry : s->next_expiry;
            s->skipped = true;
            return KV_OK;
        }
        *last = kv_shard_range_last(shard);
    }
    uint64_t hidden = hidden_expiry(store, shard); /* before what is removed here is added */
    if (hidden < s->next_expiry)
        s->next_expiry = hidden;
    if (shard->expiring > 0 && shard->next_expiry <= s->now_ms) {
        s->shard_next = KV_NO_EXPIRY;
        kv_array_visit(kv_shard_array(shard), look_at, s);
        if (s->count > 0)
            status = kv_store_remove_locked(store, shard, s->expired, s->count, &ticket, &dead, NULL);
        if (status == KV_OK && !s->more)
            shard->next_expiry = s->shard_next;
    }
    if (shard->expiring > 0 && shard->next_expiry < s->next_expiry)
        s->next_expiry = shard->next_expiry;
    kv_shard_unlock(shard);
    kv_undo_free_all(&store->table, dead);
    if (status != KV_OK || s->count == 0)
        return status;
    kv_log_forget(&s->ticket);
    s->ticket = ticket;
    s->hashes[s->shards++] = hash;
    s->removed += s->count;
    atomic_fetch_add_explicit(&store->expired, s->count, memory_order_relaxed);
    if (s->removed >= CHUNK || s->shards == CHUNK_SHARDS)
        status = end_chunk(s);
    return status;
}

static kv_status sweep_all(kv_store *store) {
    sweep s = {.store = store, .now_ms = kv_store_now(store), .next_expiry = KV_NO_EXPIRY};
    if (kv_store_catch_up(store, NULL) < 0) { /* what still waits is not seen by a look at the shards */
        s.next_expiry = kv_tail_next_expiry(store->tail);
        s.skipped = true;
    }
    kv_status status = KV_OK;
    atomic_store(&store->sweep_expiry, KV_NO_EXPIRY);
    for (uint64_t hash = 0, last = 0;;) {
        if (atomic_load(&store->worker.stopping))
            status = KV_ERR_CLOSED;
        else if (store->log != NULL && kv_log_is_full(store->log))
            kv_log_pause(store->log);
        if (status == KV_OK)
            status = sweep_shard(&s, hash, &last);
        if (status == KV_BUSY) { /* a rollback goes on */
            kv_log_pause(store->log);
            status = KV_OK;
            continue;
        }
        if (status == KV_OK && s.more)
            continue;
        if (status < 0 || last == UINT64_MAX)
            break;
        hash = last + 1;
    }
    kv_status ended = end_chunk(&s);
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    uint64_t behind = atomic_load(&store->sweep_expiry);
    if (status == KV_OK)
        atomic_store(&store->next_expiry, s.next_expiry < behind ? s.next_expiry : behind);
    atomic_store(&store->sweep_expiry, 0); /* after that: see kv_store_note_expiry */
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    if (status == KV_OK)
        status = ended;
    return status == KV_OK && s.skipped ? KV_ERR_CORRUPT : status;
}

/* ---- The thread ------------------------------------------------------------------------------------ */

static void load(kv_store *store) {
    kv_error err;
    if (kv_table_is_loaded(&store->table))
        return;
    kv_status status = kv_store_load_all(store, &store->worker.stopping, NULL, NULL, &err);
    if (status >= 0 || status == KV_ERR_CANCELLED)
        return;
    kv_mutex_lock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
    store->load_error = err;
    kv_mutex_unlock(&store->snapshots_mutex, KV_RANK_SNAPSHOTS);
}

/* When all shards are loaded.  `*tail`: set to NULL once it is done. */
static void drop_tail(kv_store *store, kv_tail **tail) {
    if (*tail == NULL || !kv_table_loader_is_done(&store->table))
        return;
    kv_tail_drop(*tail, &store->table);
    *tail = NULL;
}

/* Whoever wakes us goes on, and is not preempted by us when no other processor is idle. */
static void let_others_go_first(void) {
#ifdef SCHED_BATCH
    struct sched_param none = {0};
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
#endif
}

static bool touch_ahead(kv_store *store) {
    bool entries = kv_pool_touch(store->table.entries), arrays = kv_pool_touch(store->table.arrays);
    return entries || arrays;
}

/* Sleeps until the word changes, for `wait_ns` at the most.
 *
 * Waking a thread takes as long as a hundred puts, and a put would be who does it.  So while the pools grow, the
 * worker looks at them by itself (feed wakes it only when it does not), for as long as `growing`, and anew when they
 * have. */
static void rest(kv_store *store, uint32_t word, uint64_t wait_ns, bool growing) {
    kv_worker *w = &store->worker;
    uint64_t now_ns = kv_now_ns(), watch_end_ns = growing ? now_ns + WATCH_NS : 0;
    uint64_t end_ns = wait_ns < KV_FUTEX_FOREVER - now_ns ? now_ns + wait_ns : KV_FUTEX_FOREVER;
    while (now_ns < end_ns && now_ns < watch_end_ns && atomic_load(&w->word) == word) {
        atomic_store(&w->looks_soon, true);
        kv_futex_wait(&w->word, word, LOOK_NS);
        now_ns = kv_now_ns();
        if (touch_ahead(store))
            watch_end_ns = now_ns + WATCH_NS;
    }
    /* A pool that asked before it could see this is seen now; one that asks later wakes us. */
    atomic_store(&w->looks_soon, false);
    if (!touch_ahead(store) && now_ns < end_ns)
        kv_futex_wait(&w->word, word, end_ns == KV_FUTEX_FOREVER ? KV_FUTEX_FOREVER : end_ns - now_ns);
}

static void *worker_main(void *arg) {
    kv_store *store = arg;
    kv_worker *w = &store->worker;
    kv_tail *tail = store->tail;
    uint64_t retry_ns = 0, swept_ns = 0;
    let_others_go_first();
    load(store);
    for (;;) {
        /* Before all that a change of it tells of, the end too: or that is not seen, and slept through. */
        uint32_t word = atomic_load(&w->word);
        if (atomic_load(&w->stopping))
            return NULL;
        drop_tail(store, &tail);
        bool growing = touch_ahead(store);
        uint64_t now_ns = kv_now_ns(), wait_ns = KV_FUTEX_FOREVER;
        /* Somebody who came second with a shard is about to throw it away. */
        if (tail != NULL && kv_table_is_loaded(&store->table))
            wait_ns = LOOK_AGAIN_MS * UINT64_C(1000000);
        if (kv_store_checkpoint_is_due(store, false)) {
            if (now_ns >= retry_ns && kv_store_checkpoint(store) < 0) {
                retry_ns = kv_now_ns() + RETRY_MS * UINT64_C(1000000);
                kv_store_warn(store);
            }
            now_ns = kv_now_ns();
            if (now_ns < retry_ns)
                wait_ns = retry_ns - now_ns;
        }
        uint64_t expiry = atomic_load(&store->next_expiry);
        if (expiry != KV_NO_EXPIRY && !store->options.read_only) {
            uint64_t now_ms = kv_store_now(store), left_ms = LOOK_AGAIN_MS;
            if (expiry <= now_ms && now_ns - swept_ns >= SWEEP_EVERY_MS * UINT64_C(1000000)) {
                /* What fails (no space, a damaged block) is tried again; readers do not see expired keys. */
                if (sweep_all(store) == KV_OK)
                    left_ms = SWEEP_EVERY_MS;
                swept_ns = kv_now_ns();
            } else if (expiry <= now_ms) {
                left_ms = SWEEP_EVERY_MS;
            } else if (expiry - now_ms < left_ms) {
                left_ms = expiry - now_ms;
            }
            if (left_ms * 1000000 < wait_ns)
                wait_ns = left_ms * 1000000;
        }
        rest(store, word, wait_ns, growing);
    }
}

void kv_worker_start(kv_store *store) {
    kv_worker *w = &store->worker;
    if (atomic_load(&w->started) || atomic_exchange(&w->started, 1))
        return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
    w->runs = pthread_create(&w->thread, NULL, worker_main, store) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void kv_worker_wake(kv_store *store) {
    atomic_fetch_add(&store->worker.word, 1);
    kv_futex_wake(&store->worker.word, 1);
}

/* What the pool wants is under the lock of its areas by now: the worker that takes that lock later finds it, and one
 * that took it before has said whether it will look again. */
static void feed(void *arg) {
    kv_store *store = arg;
    kv_worker_start(store);
    if (!atomic_load(&store->worker.looks_soon))
        kv_worker_wake(store);
}

void kv_worker_watch_pools(kv_store *store) {
    kv_pool_on_hunger(store->table.entries, feed, store);
    kv_pool_on_hunger(store->table.arrays, feed, store);
}

void kv_worker_stop(kv_store *store) {
    kv_worker *w = &store->worker;
    if (w->runs) {
        atomic_store(&w->stopping, true);
        kv_worker_wake(store);
        pthread_join(w->thread, NULL);
        w->runs = false;
        atomic_store(&w->stopping, false); /* for a checkpoint at close */
    }
    /* Not before: it allocates itself when it loads. */
    kv_pool_on_hunger(store->table.entries, NULL, NULL);
    kv_pool_on_hunger(store->table.arrays, NULL, NULL);
}
