/* futex.h - sleep until a 32-bit word changes.
 *
 * Layer: base (a leaf).  Linux: the futex system call, private to the process.  Elsewhere: a small
 * table of mutexes and condition variables, chosen by the word's address.
 * Both return spuriously at times: callers look at the word again.
 */
#ifndef KV_BASE_FUTEX_H
#define KV_BASE_FUTEX_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KV_FUTEX_ALL INT_MAX
#define KV_FUTEX_FOREVER UINT64_MAX

/* Sleeps while *word == expected, at the longest for `timeout_ns`. */
void kv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

/* Wakes up to `count` sleepers.  Change the word first. */
void kv_futex_wake(_Atomic uint32_t *word, int count);

/* A word as a lock: 1 while it is taken.  For what is held long, over files, and with no other lock behind it. */
static inline void kv_futex_take(_Atomic uint32_t *word) {
    while (atomic_exchange(word, 1) != 0)
        kv_futex_wait(word, 1, KV_FUTEX_FOREVER);
}

static inline void kv_futex_give_back(_Atomic uint32_t *word) {
    atomic_store(word, 0);
    kv_futex_wake(word, 1);
}

/* Nanoseconds of a clock that never goes back. */
uint64_t kv_now_ns(void);

/* Tells the processor that this is a spin loop. */
static inline void kv_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
