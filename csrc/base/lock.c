/* lock.c - see lock.h. */
#include "lock.h"

#include "futex.h"

#define SPINS 100 /* about 3 us: a few sections' length, well under one sleep and wake */

void kv_mutex_lock_slow(kv_mutex *mutex) {
    for (int i = 0; i < SPINS; i++) {
        uint32_t free_state = 0;
        if (atomic_load_explicit(&mutex->state, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_weak_explicit(&mutex->state, &free_state, 1,
                                                  memory_order_acquire, memory_order_relaxed))
            return;
        kv_cpu_relax();
    }
    /* Taken as 2, "perhaps somebody sleeps": others may sleep whom our own sleep has hidden. */
    while (atomic_exchange_explicit(&mutex->state, 2, memory_order_acquire) != 0)
        kv_futex_wait(&mutex->state, 2, KV_FUTEX_FOREVER);
}

void kv_mutex_wake(kv_mutex *mutex) {
    kv_futex_wake(&mutex->state, 1);
}

#ifdef KV_DEBUG
#include <assert.h>

/* How many locks of each rank this thread holds. */
static _Thread_local uint32_t held[KV_RANK_LIFE + 1];

void kv_rank_enter(kv_rank rank) {
    for (int higher = (int)rank; higher <= KV_RANK_LIFE; higher++)
        assert(held[higher] == 0 || (higher == (int)rank && rank == KV_RANK_SHARD));
    held[rank]++;
}

void kv_rank_leave(kv_rank rank) {
    assert(held[rank] > 0);
    held[rank]--;
}
#endif
