/* futex.c - see futex.h. */
#include "futex.h"

#include <errno.h>
#include <time.h>

uint64_t kv_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#ifdef __linux__

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void kv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u),
                               .tv_nsec = (long)(timeout_ns % 1000000000u)};
    int saved = errno; /* EAGAIN, EINTR and ETIMEDOUT are all "look again" */
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected,
            timeout_ns == KV_FUTEX_FOREVER ? NULL : &timeout, NULL, 0);
    errno = saved;
}

void kv_futex_wake(_Atomic uint32_t *word, int count) {
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    errno = saved;
}

#else

#include <pthread.h>

#define LOT_COUNT 64

static struct parking_lot {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} lots[LOT_COUNT];
static pthread_once_t lots_once = PTHREAD_ONCE_INIT;

static void lots_init(void) {
    for (int i = 0; i < LOT_COUNT; i++) {
        pthread_mutex_init(&lots[i].mutex, NULL);
        pthread_cond_init(&lots[i].changed, NULL);
    }
}

static struct parking_lot *lot_of(_Atomic uint32_t *word) {
    pthread_once(&lots_once, lots_init);
    return &lots[((uintptr_t)word >> 4) % LOT_COUNT];
}

void kv_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    struct parking_lot *lot = lot_of(word);
    pthread_mutex_lock(&lot->mutex);
    /* Checked under the mutex that a waker takes, so a wake between check and sleep is not lost. */
    if (atomic_load(word) == expected) {
        if (timeout_ns == KV_FUTEX_FOREVER) {
            pthread_cond_wait(&lot->changed, &lot->mutex);
        } else {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            uint64_t ns = (uint64_t)until.tv_nsec + timeout_ns;
            until.tv_sec += (time_t)(ns / 1000000000u);
            until.tv_nsec = (long)(ns % 1000000000u);
            pthread_cond_timedwait(&lot->changed, &lot->mutex, &until);
        }
    }
    pthread_mutex_unlock(&lot->mutex);
}

void kv_futex_wake(_Atomic uint32_t *word, int count) {
    (void)count; /* several words share a lot: all look again */
    struct parking_lot *lot = lot_of(word);
    pthread_mutex_lock(&lot->mutex);
    pthread_cond_broadcast(&lot->changed);
    pthread_mutex_unlock(&lot->mutex);
}

#endif
