/* apply.c - see apply.h. */
#include "apply.h"

#include <pthread.h>
#include <signal.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "../base/thread.h"

#define WINDOW 32u  /* records whose memory is being fetched */
#define BATCH 128u  /* records handed over at a time: a wake-up costs as much as a hundred records */
#define RING 16u    /* batches on their way to the helper; a power of two */
#define SPINS 2000u /* about 60 us, a sleep and a wake-up */

typedef struct batch {
    kv_record records[BATCH];
    uint64_t hashes[BATCH];
    unsigned count;
} batch;

struct kv_applier {
    kv_table *table;
    kv_tail *tail; /* NULL: every shard is loaded when a record concerns it */
    batch own;
    /* A ring with one writer and one reader.  `pushed`: release by the caller, acquire by the helper, who
     * then reads the batches before it.  `applied`: the other way round. */
    batch ring[RING];
    _Atomic uint32_t pushed, applied; /* counts of batches; futexes */
    _Atomic bool ending;
    bool helped;
    unsigned caller_index; /* of its thread; the helper has another */
    pthread_t helper;
    _Atomic bool failed; /* release by the helper after `error` */
    kv_error error;
};

/* ---- Applying ---------------------------------------------------------------------------------- */

static kv_status apply_put(kv_table *table, kv_shard *shard, uint64_t hash, const kv_record *r,
                           kv_error *err) {
    kv_place place;
    kv_entry *new = kv_entry_create_expiring(table->entries, r->key, r->value, r->expiry);
    if (new == NULL)
        return kv_fail_nomem(err, kv_entry_block_size(r->key.size, r->value.size, r->expiry));
    kv_entry *old = kv_shard_find(shard, hash, r->key, &place);
    if (old != NULL) {
        kv_shard_replace(shard, place, new);
        kv_entry_release(table->entries, old);
        return KV_OK;
    }
    for (;;) {
        kv_status status = kv_shard_reserve(table, shard, 1, err);
        if (status < 0) {
            kv_entry_release(table->entries, new);
            return status;
        }
        if (status == KV_OK)
            break;
        shard = kv_table_shard(table, hash);
    }
    kv_shard_insert(shard, hash, new);
    return KV_OK;
}

/* The shard belongs to this thread alone, as its side of the hashes does. */
static kv_status apply_record(kv_applier *a, uint64_t hash, const kv_record *r, kv_error *err) {
    kv_table *table = a->table;
    kv_shard *shard = kv_table_shard(table, hash);
    if (!kv_shard_is_loaded(shard)) {
        if (a->tail != NULL && !kv_tail_is_full(a->tail, shard, hash))
            return kv_tail_add(a->tail, table, shard, hash, r, err);
        kv_status status = kv_table_lock_loaded(table, hash, false, &shard, err);
        if (status < 0)
            return status;
        kv_shard_unlock(shard);
    }
    return r->kind == KV_RECORD_PUT ? apply_put(table, shard, hash, r, err)
                                    : kv_tail_change(table, shard, hash, r, err);
}

static kv_status apply_batch(kv_applier *a, batch *b, kv_error *err) {
    kv_table *table = a->table;
    kv_status status = KV_OK;
    for (unsigned start = 0; start < b->count && status == KV_OK; start += WINDOW) {
        unsigned end = start + WINDOW < b->count ? start + WINDOW : b->count;
        for (unsigned i = start; i < end; i++)
            kv_shard_prefetch_bucket(kv_table_shard(table, b->hashes[i]), b->hashes[i]);
        for (unsigned i = start; i < end; i++)
            kv_shard_prefetch_entry(kv_table_shard(table, b->hashes[i]), b->hashes[i]);
        for (unsigned i = start; i < end && status == KV_OK; i++)
            status = apply_record(a, b->hashes[i], &b->records[i], err);
    }
    b->count = 0;
    return status;
}

static kv_status apply_clear(kv_applier *a, kv_error *err) {
    kv_table *table = a->table;
    for (uint64_t hash = 0;;) {
        kv_shard *shard = kv_table_shard(table, hash);
        kv_array empty = kv_array_create(table, 0);
        if (empty == 0)
            return kv_fail_nomem(err, sizeof(kv_bucket));
        kv_array_release(table, kv_shard_array(shard));
        if (!kv_shard_is_loaded(shard))
            atomic_fetch_sub_explicit(&table->unloaded, 1, memory_order_release);
        kv_shard_set_array(shard, empty);
        shard->count = 0;
        shard->data_bytes = 0;
        shard->expiring = 0;
        if (kv_shard_range_last(shard) == UINT64_MAX)
            break;
        hash = kv_shard_range_last(shard) + 1;
    }
    if (a->tail != NULL)
        kv_tail_drop(a->tail, table);
    return KV_OK;
}

/* ---- The helper --------------------------------------------------------------------------------- */

/* Waits until the counter is no longer `seen`. */
static void await(_Atomic uint32_t *counter, uint32_t seen) {
    for (unsigned i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(counter, memory_order_acquire) != seen)
            return;
        kv_cpu_relax();
    }
    kv_futex_wait(counter, seen, KV_FUTEX_FOREVER);
}

static void advance(_Atomic uint32_t *counter) {
    atomic_fetch_add_explicit(counter, 1, memory_order_release);
    kv_futex_wake(counter, 1);
}

static void *helper_main(void *arg) {
    kv_applier *a = arg;
    kv_thread_index_avoid(a->caller_index); /* the pool may be exclusive */
    for (;;) {
        uint32_t applied = atomic_load_explicit(&a->applied, memory_order_relaxed);
        uint32_t pushed = atomic_load_explicit(&a->pushed, memory_order_acquire);
        if (applied == pushed) {
            if (atomic_load(&a->ending))
                return NULL;
            await(&a->pushed, pushed);
            continue;
        }
        if (!atomic_load_explicit(&a->failed, memory_order_relaxed) &&
            apply_batch(a, &a->ring[applied % RING], &a->error) < 0)
            atomic_store_explicit(&a->failed, true, memory_order_release);
        a->ring[applied % RING].count = 0;
        advance(&a->applied);
    }
}

static bool helper_start(kv_applier *a) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
    bool started = pthread_create(&a->helper, NULL, helper_main, a) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

/* ---- The caller's side --------------------------------------------------------------------------- */

kv_status kv_applier_create(kv_table *table, kv_tail *tail, bool helped, kv_applier **out,
                            kv_error *err) {
    kv_applier *a = kv_mem_alloc_zero(sizeof *a);
    if (a == NULL)
        return kv_fail_nomem(err, sizeof *a);
    a->table = table;
    a->tail = tail;
    a->caller_index = kv_thread_index();
    a->helped = helped && helper_start(a);
    *out = a;
    return KV_OK;
}

void kv_applier_destroy(kv_applier *a) {
    if (a == NULL)
        return;
    if (a->helped) {
        atomic_store_explicit(&a->failed, true, memory_order_relaxed); /* the rest is not wanted */
        atomic_store(&a->ending, true);
        advance(&a->pushed); /* one empty batch, to be seen */
        pthread_join(a->helper, NULL);
    }
    kv_mem_free(a);
}

static kv_status helper_status(kv_applier *a, kv_error *err) {
    if (!atomic_load_explicit(&a->failed, memory_order_acquire))
        return KV_OK;
    if (err != NULL)
        *err = a->error;
    return a->error.status;
}

/* The batch that takes records for the helper. */
static batch *filling(kv_applier *a) {
    return &a->ring[atomic_load_explicit(&a->pushed, memory_order_relaxed) % RING];
}

static void push(kv_applier *a) {
    if (filling(a)->count == 0)
        return;
    advance(&a->pushed);
    /* The next one must have been applied before it is filled again. */
    uint32_t pushed = atomic_load_explicit(&a->pushed, memory_order_relaxed);
    for (;;) {
        uint32_t applied = atomic_load_explicit(&a->applied, memory_order_acquire);
        if (pushed - applied < RING)
            return;
        await(&a->applied, applied);
    }
}

kv_status kv_applier_add(kv_applier *a, const kv_record *record, kv_error *err) {
    if (record->kind == KV_RECORD_CLEAR) {
        kv_status status = kv_applier_finish(a, err);
        return status == KV_OK ? apply_clear(a, err) : status;
    }
    uint64_t hash = kv_table_hash(a->table, record->key);
    kv_table_prefetch_shard(a->table, hash);
    bool own = !a->helped || kv_hash_side(hash) == 0;
    batch *b = own ? &a->own : filling(a);
    b->records[b->count] = *record;
    b->hashes[b->count] = hash;
    if (++b->count < BATCH)
        return KV_OK;
    if (own)
        return apply_batch(a, b, err);
    push(a);
    return KV_OK;
}

uint64_t kv_applier_mark(kv_applier *a) {
    if (a->helped)
        push(a);
    return atomic_load_explicit(&a->pushed, memory_order_relaxed);
}

kv_status kv_applier_wait(kv_applier *a, uint64_t mark, kv_error *err) {
    kv_status status = apply_batch(a, &a->own, err);
    while (status == KV_OK) {
        uint32_t applied = atomic_load_explicit(&a->applied, memory_order_acquire);
        if ((int32_t)((uint32_t)mark - applied) <= 0)
            break;
        await(&a->applied, applied);
    }
    return status == KV_OK ? helper_status(a, err) : status;
}

kv_status kv_applier_finish(kv_applier *a, kv_error *err) {
    return kv_applier_wait(a, kv_applier_mark(a), err);
}
