/* lock.h - a mutex of four bytes, and the order in which locks may be taken.
 *
 * Layer: base (above futex.h).  States and transitions as in Ulrich Drepper, "Futexes Are Tricky"
 * (2011), mutex 2: 0 free, 1 held, 2 held and perhaps somebody sleeps.  A taker spins briefly first: sections are
 * short and a sleep costs tens of microseconds.
 *
 * A thread takes locks in the order of KV_RANK_TABLE only (LOCKS.md says why); debug builds assert
 * it.  Several shards may be held at once, taken in the order of their hash ranges.
 */
#ifndef KV_BASE_LOCK_H
#define KV_BASE_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*      name               rank  guards */
#define KV_RANK_TABLE(X)                                                                         \
    X(KV_RANK_TURN,         0, "the clients of a server's loop")                                 \
    X(KV_RANK_REGISTRY,     1, "the list of stores open in this process")                        \
    X(KV_RANK_SHARD,        2, "one shard: its table, undo list and counts")                     \
    X(KV_RANK_DIRECTORY,    3, "changes of the directory")                                       \
    X(KV_RANK_LOG,          4, "the log's groups and positions")                                 \
    X(KV_RANK_SNAPSHOTS,    5, "the list of snapshots")                                          \
    X(KV_RANK_MAGAZINES,    6, "blocks that a pool has in hand for some threads")                \
    X(KV_RANK_SLABS,        7, "a pool's slabs of one size")                                     \
    X(KV_RANK_AREAS,        8, "a pool's areas, free slabs and large blocks")                    \
    X(KV_RANK_CHANNELS,     9, "a server's channels and who listens")                            \
    X(KV_RANK_MAILBOX,     10, "a loop's messages")                                              \
    X(KV_RANK_COMMITTER,   11, "the tickets that a server's committer waits for")                \
    X(KV_RANK_LIFE,        12, "whether a server runs, stops or reloads")

typedef enum kv_rank {
#define X(name, rank, text) name = rank,
    KV_RANK_TABLE(X)
#undef X
} kv_rank;

typedef struct kv_mutex {
    _Atomic uint32_t state;
} kv_mutex;

#define KV_MUTEX_INIT {0}

void kv_mutex_lock_slow(kv_mutex *mutex);
void kv_mutex_wake(kv_mutex *mutex);

#ifdef KV_DEBUG
void kv_rank_enter(kv_rank rank); /* asserts the order */
void kv_rank_leave(kv_rank rank);
#else
#define kv_rank_enter(rank) ((void)(rank))
#define kv_rank_leave(rank) ((void)(rank))
#endif

static inline bool kv_mutex_try_lock(kv_mutex *mutex, kv_rank rank) {
    uint32_t free_state = 0;
    /* Acquire pairs with the release in kv_mutex_unlock. */
    if (!atomic_compare_exchange_strong_explicit(&mutex->state, &free_state, 1,
                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    kv_rank_enter(rank);
    return true;
}

static inline void kv_mutex_lock(kv_mutex *mutex, kv_rank rank) {
    uint32_t free_state = 0;
    if (!atomic_compare_exchange_strong_explicit(&mutex->state, &free_state, 1,
                                                 memory_order_acquire, memory_order_relaxed))
        kv_mutex_lock_slow(mutex);
    kv_rank_enter(rank);
}

static inline void kv_mutex_unlock(kv_mutex *mutex, kv_rank rank) {
    kv_rank_leave(rank);
    if (atomic_exchange_explicit(&mutex->state, 0, memory_order_release) == 2)
        kv_mutex_wake(mutex);
}

#endif
