/* threads.h - the same function in several threads. */
#ifndef THREADS_H
#define THREADS_H

#include <pthread.h>

#include "check.h"

#define THREADS_MAX 16u

typedef struct worker {
    unsigned id;         /* 0, 1, 2, ... */
    void *shared;        /* the test's */
    check_random random; /* its own */
    void (*run)(struct worker *w);
    pthread_t thread;
} worker;

typedef struct crew {
    unsigned count;
    worker workers[THREADS_MAX];
} crew;

static inline void *worker_main(void *arg) {
    worker *w = arg;
    w->run(w);
    return NULL;
}

/* One more thread.  The crew may not move until it has been joined. */
static inline void crew_add(crew *c, void (*run)(worker *w), void *shared) {
    CHECK(c->count < THREADS_MAX);
    worker *w = &c->workers[c->count];
    *w = (worker){.id = c->count, .shared = shared, .random = random_stream(c->count), .run = run};
    c->count++;
    CHECK_EQ(pthread_create(&w->thread, NULL, worker_main, w), 0);
}

static inline void crew_join(crew *c) {
    for (unsigned i = 0; i < c->count; i++)
        CHECK_EQ(pthread_join(c->workers[i].thread, NULL), 0);
    c->count = 0;
}

#endif
