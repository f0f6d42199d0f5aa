/* test_lock.c - the mutex, the futex under it, and the order of ranks. */
/* tsan */
#include "check.h"

#include "base/futex.h"
#include "base/lock.h"
#include "threads.h"

/* ---- The mutex ---------------------------------------------------------------------------------- */

typedef struct guarded {
    kv_mutex mutex;
    uint64_t counter; /* guarded by it, and not atomic */
    unsigned inside;
} guarded;

enum { ROUNDS = 20000 };

static void count_up(worker *me) {
    guarded *g = me->shared;
    for (unsigned i = 0; i < ROUNDS; i++) {
        bool tried = i % 4 == 0 && kv_mutex_try_lock(&g->mutex, KV_RANK_SHARD);
        if (!tried)
            kv_mutex_lock(&g->mutex, KV_RANK_SHARD);
        CHECK_EQ(g->inside++, 0);
        g->counter++;
        if (i % 5000 == 0)
            usleep(1000); /* long enough for others to fall asleep */
        g->inside--;
        kv_mutex_unlock(&g->mutex, KV_RANK_SHARD);
    }
}

static void test_one_at_a_time(void) {
    guarded g = {.mutex = KV_MUTEX_INIT};
    crew crew = {0};
    for (unsigned i = 0; i < 8; i++)
        crew_add(&crew, count_up, &g);
    crew_join(&crew);
    CHECK_EQ(g.counter, 8 * ROUNDS);
    CHECK_EQ(atomic_load(&g.mutex.state), 0);
}

static void test_try_lock(void) {
    kv_mutex mutex = KV_MUTEX_INIT;
    CHECK(kv_mutex_try_lock(&mutex, KV_RANK_SHARD));
    CHECK(!kv_mutex_try_lock(&mutex, KV_RANK_SHARD));
    kv_mutex_unlock(&mutex, KV_RANK_SHARD);
    CHECK(kv_mutex_try_lock(&mutex, KV_RANK_SHARD));
    kv_mutex_unlock(&mutex, KV_RANK_SHARD);
}

static void pass_through(worker *me) {
    guarded *g = me->shared;
    kv_mutex_lock(&g->mutex, KV_RANK_LOG);
    g->counter++;
    kv_mutex_unlock(&g->mutex, KV_RANK_LOG);
}

/* All of those who sleep get their turn, one after the other. */
static void test_every_sleeper_is_woken(void) {
    for (int round = 0; round < 20; round++) {
        guarded g = {.mutex = KV_MUTEX_INIT};
        crew crew = {0};
        kv_mutex_lock(&g.mutex, KV_RANK_LOG);
        for (unsigned i = 0; i < 8; i++)
            crew_add(&crew, pass_through, &g);
        usleep(2000);
        kv_mutex_unlock(&g.mutex, KV_RANK_LOG);
        crew_join(&crew);
        CHECK_EQ(g.counter, 8);
    }
}

/* ---- The futex ------------------------------------------------------------------------------------ */

static void test_futex_does_not_wait_for_what_has_come(void) {
    _Atomic uint32_t word = 7;
    kv_futex_wait(&word, 6, KV_FUTEX_FOREVER); /* returns, or the test hangs */
    kv_futex_wait(&word, 7, 1000000);          /* ... after its time */
    kv_futex_wake(&word, KV_FUTEX_ALL);        /* nobody is there */
}

typedef struct relay {
    _Atomic uint32_t word;
    _Atomic unsigned passed;
} relay;

static void wait_for_turn(worker *me) {
    relay *r = me->shared;
    for (uint32_t seen; (seen = atomic_load(&r->word)) <= me->id;)
        kv_futex_wait(&r->word, seen, KV_FUTEX_FOREVER);
    atomic_fetch_add(&r->passed, 1);
    atomic_fetch_add(&r->word, 1);
    kv_futex_wake(&r->word, KV_FUTEX_ALL);
}

static void test_futex_relay(void) {
    relay r = {.word = 0};
    crew crew = {0};
    for (unsigned i = 0; i < 10; i++)
        crew_add(&crew, wait_for_turn, &r);
    usleep(2000);
    atomic_fetch_add(&r.word, 1);
    kv_futex_wake(&r.word, KV_FUTEX_ALL);
    crew_join(&crew);
    CHECK_EQ(r.passed, 10);
}

static void test_clock_does_not_go_back(void) {
    uint64_t last = kv_now_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = kv_now_ns();
        CHECK(now >= last);
        last = now;
    }
}

/* ---- Ranks ---------------------------------------------------------------------------------------- */

/* Whether taking locks of these ranks one after the other is stopped, in a process of its own. */
static bool is_stopped(kv_rank first, kv_rank second) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        kv_mutex a = KV_MUTEX_INIT, b = KV_MUTEX_INIT;
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(2);
        kv_mutex_lock(&a, first);
        kv_mutex_lock(&b, second);
        kv_mutex_unlock(&b, second);
        kv_mutex_unlock(&a, first);
        _exit(0);
    }
    int wait_status;
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    CHECK(WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) == SIGABRT
                                   : WEXITSTATUS(wait_status) == 0);
    return WIFSIGNALED(wait_status);
}

/* Only upwards; and several shards at once. */
static void test_rank_order(void) {
    static const kv_rank ranks[] = {
#define X(name, rank, text) name,
        KV_RANK_TABLE(X)
#undef X
    };
    enum { COUNT = sizeof ranks / sizeof ranks[0] };
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < COUNT; j++) {
            bool allowed = ranks[j] > ranks[i] || (i == j && ranks[i] == KV_RANK_SHARD);
            CHECK_EQ(is_stopped(ranks[i], ranks[j]), !allowed);
        }
}

CHECK_MAIN(TEST(test_one_at_a_time), TEST(test_try_lock), TEST(test_every_sleeper_is_woken),
           TEST(test_futex_does_not_wait_for_what_has_come), TEST(test_futex_relay),
           TEST(test_clock_does_not_go_back), TEST(test_rank_order))
