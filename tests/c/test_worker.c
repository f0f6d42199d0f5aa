/* test_worker.c - the thread behind a store hears of everything, whatever it is at.
 *
 * worker.c is compiled into this program (so the linker does not take the core's), with its atomic loads and its
 * sleep led through here.  Before each load in turn the thread is stopped in its tracks, until the main thread has
 * done something that wakes it.  After that it may not go to sleep as if nothing had happened.
 */
/* tsan */
#include "check.h"

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/futex.h"
#include "base/mem.h"
#include "engine/store.h"
#include "engine/worker.h"
#include "model.h"
#include "world.h"

static void before_load(void);
static void before_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns);

#undef atomic_load
#define atomic_load(object)                                                                      \
    (before_load(), atomic_load_explicit(object, memory_order_seq_cst))
#define kv_futex_wait(word, expected, timeout_ns)                                                \
    (before_sleep(word, expected, timeout_ns), kv_futex_wait(word, expected, timeout_ns))
#include "engine/worker.c"
#undef kv_futex_wait
#undef atomic_load
#define atomic_load(object) atomic_load_explicit(object, memory_order_seq_cst)

#define HOUR_MS UINT64_C(3600000)

typedef enum place { ELSEWHERE, AT_THE_LOAD, ASLEEP } place;

static _Thread_local bool is_tester;
static unsigned loads_left;              /* until the one to stop before; the worker's after the start */
static _Atomic place worker_place;       /* ELSEWHERE: on its way to one of the others */
static _Atomic(kv_store *) woken;        /* set before what wakes the store's worker ... */
static _Atomic uint32_t word_before;     /* ... with its word as it was then */
static _Atomic bool happened;            /* the worker has seen that the word has changed */

static void before_load(void) {
    if (is_tester || loads_left == 0 || --loads_left > 0)
        return;
    atomic_store(&worker_place, AT_THE_LOAD);
    kv_store *store;
    while ((store = atomic_load(&woken)) == NULL ||
           atomic_load(&store->worker.word) == atomic_load(&word_before))
        sched_yield();
    atomic_store(&happened, true);
}

static void before_sleep(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    if (atomic_load(&happened) && timeout_ns == KV_FUTEX_FOREVER && atomic_load(word) == expected)
        FAIL("the worker sleeps for ever, and nobody will wake it any more");
    loads_left = 0;
    atomic_store(&worker_place, ASLEEP);
}

/* Opens a store whose worker stops before its load number `nth`.  False: it falls asleep before that. */
static bool open_and_stop_at(world *w, unsigned nth) {
    is_tester = true;
    loads_left = nth;
    atomic_store(&worker_place, ELSEWHERE);
    atomic_store(&woken, NULL);
    atomic_store(&happened, false);
    world_open(w);
    while (atomic_load(&worker_place) == ELSEWHERE)
        sched_yield();
    kv_store *store = w->db->store;
    atomic_store(&word_before, atomic_load(&store->worker.word));
    atomic_store(&woken, store);
    return atomic_load(&worker_place) == AT_THE_LOAD;
}

static void test_hears_of_the_end(void) {
    unsigned nth = 0;
    bool stopped;
    do {
        world *w = world_create();
        stopped = open_and_stop_at(w, ++nth);
        world_destroy(w); /* waits for the worker */
    } while (stopped);
    CHECK(nth > 3); /* the word, what there is to do, whether this is the end */
}

static void test_hears_of_an_expiry(void) {
    unsigned nth = 0;
    bool stopped;
    do {
        world *w = world_create();
        world_set_clock(w, HOUR_MS);
        stopped = open_and_stop_at(w, ++nth);
        atomic_store(&worker_place, ELSEWHERE);
        CHECK_OK(kv_put_expiring(w->db, LITERAL("key"), LITERAL("value"), 2 * HOUR_MS, 0, &w->err),
                 &w->err);
        while (atomic_load(&worker_place) != ASLEEP)
            sched_yield();
        world_destroy(w);
    } while (stopped);
    CHECK(nth > 3);
}

CHECK_MAIN(TEST(test_hears_of_the_end), TEST(test_hears_of_an_expiry))
