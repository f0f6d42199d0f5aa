/* check.h - the harness of the C tests: checks, a table of tests, a seeded random generator.
 *
 *     static void test_addition(void) {
 *         CHECK_EQ(1 + 1, 2);
 *     }
 *     CHECK_MAIN(TEST(test_addition), TEST(test_subtraction))
 *
 * Each test runs in a process of its own, so that a crash, a sanitizer's report, a leak or a
 * deadlock is that test's alone and the others still run.  A failed check prints what it saw and
 * ends the process, from whatever thread.  One line a test: "ok NAME" or "not ok NAME".
 *
 *     PROGRAM [--seed N] [--timeout SECONDS] [--no-fork] [--list] [NAME ...]
 *
 * A failure prints the seed.  --no-fork is for debuggers.
 */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

typedef struct check_test {
    const char *name;
    void (*run)(void);
} check_test;

#define TEST(function) {#function, function}
#define CHECK_MAIN(...)                                                                          \
    int main(int argc, char **argv) {                                                            \
        static const check_test tests[] = {__VA_ARGS__};                                         \
        return check_run(tests, sizeof tests / sizeof tests[0], argc, argv);                     \
    }

#define CHECK_EXIT_FAILED 1
#define CHECK_EXIT_SKIPPED 77

static uint64_t check_seed; /* of this run */

/* ---- Checks ---------------------------------------------------------------------------------- */

__attribute__((noreturn, format(printf, 3, 4))) static inline void
check_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    flockfile(stdout);
    printf("# %s:%d: ", file, line);
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
#ifdef CHECK_ABORTS
    abort(); /* under a fuzzer, which keeps what led here */
#else
    _exit(CHECK_EXIT_FAILED); /* without exit handlers: other threads may still run */
#endif
}

#define FAIL(...) check_fail(__FILE__, __LINE__, __VA_ARGS__)

#define SKIP(reason)                                                                             \
    do {                                                                                         \
        printf("# skipped: %s\n", reason);                                                       \
        fflush(stdout);                                                                          \
        _exit(CHECK_EXIT_SKIPPED);                                                               \
    } while (0)

#define CHECK(condition)                                                                         \
    do {                                                                                         \
        if (!(condition))                                                                        \
            FAIL("CHECK(%s)", #condition);                                                       \
    } while (0)

/* Two integers of at most 64 bits, compared as numbers (a negative one never equals an unsigned
 * one above INT64_MAX unless the bits are those). */
#define CHECK_EQ(got, wanted)                                                                    \
    do {                                                                                         \
        int64_t got_ = (int64_t)(got), wanted_ = (int64_t)(wanted);                              \
        if (got_ != wanted_)                                                                     \
            FAIL("%s is %" PRId64 " (0x%" PRIx64 "), not %s = %" PRId64 " (0x%" PRIx64 ")", #got, \
                 got_, (uint64_t)got_, #wanted, wanted_, (uint64_t)wanted_);                     \
    } while (0)

#define CHECK_STR(got, wanted)                                                                   \
    do {                                                                                         \
        const char *got_ = (got), *wanted_ = (wanted);                                           \
        if (strcmp(got_, wanted_) != 0)                                                          \
            FAIL("%s is \"%s\", not \"%s\"", #got, got_, wanted_);                               \
    } while (0)

#define CHECK_CONTAINS(got, part)                                                                \
    do {                                                                                         \
        const char *got_ = (got), *part_ = (part);                                               \
        if (strstr(got_, part_) == NULL)                                                         \
            FAIL("%s is \"%s\", without \"%s\"", #got, got_, part_);                             \
    } while (0)

#define CHECK_MEM(got, wanted, size)                                                             \
    do {                                                                                         \
        const uint8_t *got_ = (const void *)(got), *wanted_ = (const void *)(wanted);            \
        size_t size_ = (size), i_ = 0;                                                           \
        while (i_ < size_ && got_[i_] == wanted_[i_])                                            \
            i_++;                                                                                \
        if (i_ < size_)                                                                          \
            FAIL("%s differs from %s at byte %zu of %zu: 0x%02x, not 0x%02x", #got, #wanted, i_, \
                 size_, got_[i_], wanted_[i_]);                                                  \
    } while (0)

/* The status of `call`, which fills the error `err` points to (or NULL), must be `wanted`. */
#define CHECK_STATUS(call, wanted, err)                                                          \
    do {                                                                                         \
        kv_status status_ = (call), wanted_ = (wanted);                                          \
        const kv_error *err_ = (err);                                                            \
        if (status_ != wanted_)                                                                  \
            FAIL("%s is %s, not %s%s%s%s%s", #call, kv_status_name(status_),                     \
                 kv_status_name(wanted_), status_ < 0 && err_ ? ": " : "",                       \
                 status_ < 0 && err_ ? err_->message : "", status_ < 0 && err_ ? ": " : "",      \
                 status_ < 0 && err_ ? err_->path : "");                                         \
    } while (0)

#define CHECK_OK(call, err) CHECK_STATUS(call, KV_OK, err)

/* ---- Random numbers -------------------------------------------------------------------------- */

/* Sebastiano Vigna's splitmix64 (2015).  One per thread; not for secrets. */
typedef struct check_random {
    uint64_t state;
} check_random;

static inline uint64_t random_next(check_random *random) {
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The generator number `stream` of this run's seed. */
static inline check_random random_stream(uint64_t stream) {
    check_random random = {check_seed};
    random.state = random_next(&random) + stream;
    random.state = random_next(&random);
    return random;
}

/* 0 <= result < bound (which is > 0); the bias is below bound / 2^64. */
static inline uint64_t random_below(check_random *random, uint64_t bound) {
    return random_next(random) % bound;
}

static inline void random_fill(check_random *random, void *buffer, size_t size) {
    uint8_t *p = buffer;
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)random_next(random);
}

/* ---- Hangs ----------------------------------------------------------------------------------- */

/* One try at something that takes milliseconds. */
typedef struct check_try {
    uint64_t wall_ns, used_ns;
} check_try;

static inline uint64_t check_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline check_try check_begin(void) {
    return (check_try){check_clock_ns(CLOCK_MONOTONIC), check_clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
}

/* Has it hung, for 5 seconds more than a machine explains that has other things to do?  What hangs does so again:
 * only three tries in a row show it. */
static inline bool check_has_hung(check_try begin) {
    uint64_t wall_ns = check_clock_ns(CLOCK_MONOTONIC) - begin.wall_ns;
    uint64_t used_ns = check_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin.used_ns;
    return wall_ns > UINT64_C(5000000000) + 20 * used_ns;
}

/* ---- Running --------------------------------------------------------------------------------- */

static inline void check_usage(const char *program) {
    fprintf(stderr,
            "usage: %s [--seed N] [--timeout SECONDS] [--no-fork] [--list] [NAME ...]\n", program);
    exit(2);
}

/* Runs one test in a child and says how it ended. */
static inline bool check_run_forked(const check_test *test, unsigned timeout_seconds) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(2);
    }
    if (pid == 0) {
        setpgid(0, 0);
        alarm(timeout_seconds);
        test->run();
        exit(0); /* with exit handlers: that is where leaks and races are reported */
    }
    setpgid(pid, pid); /* also here: whoever comes first */
    /* Before the number of its group is free for others: the end of what the test left behind. */
    siginfo_t info;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0)
        ;
    kill(-pid, SIGKILL);
    int wait_status = 0;
    while (waitpid(pid, &wait_status, 0) < 0)
        ;
    if (WIFEXITED(wait_status)) {
        int code = WEXITSTATUS(wait_status);
        if (code == 0 || code == CHECK_EXIT_SKIPPED) {
            printf("ok %s%s\n", test->name, code == 0 ? "" : " # skip");
            return true;
        }
        printf("not ok %s (exit code %d)\n", test->name, code);
    } else if (WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGALRM) {
        printf("not ok %s (not done after %u seconds)\n", test->name, timeout_seconds);
    } else {
        printf("not ok %s (signal %d)\n", test->name, WTERMSIG(wait_status));
    }
    return false;
}

static inline bool check_is_chosen(const char *name, int argc, char **argv) {
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc == 0;
}

static inline int check_run(const check_test *tests, size_t count, int argc, char **argv) {
    unsigned timeout_seconds = 600;
    bool forked = true, list = false;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    setvbuf(stdout, NULL, _IOLBF, 0); /* what is in a buffer is lost with who is killed */
    check_seed = (uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec;

    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            check_seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--timeout") == 0 && i + 1 < argc)
            timeout_seconds = (unsigned)strtoul(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--no-fork") == 0)
            forked = false;
        else if (strcmp(argv[i], "--list") == 0)
            list = true;
        else
            check_usage(argv[0]);
    }

    size_t ran = 0, failed = 0;
    for (size_t t = 0; t < count; t++) {
        if (!check_is_chosen(tests[t].name, argc - i, argv + i))
            continue;
        ran++;
        if (list) {
            printf("%s\n", tests[t].name);
        } else if (forked) {
            failed += !check_run_forked(&tests[t], timeout_seconds);
        } else {
            tests[t].run();
            printf("ok %s\n", tests[t].name);
        }
    }
    if (ran == 0)
        check_usage(argv[0]);
    if (failed > 0)
        printf("# %zu of %zu failed; again with --seed 0x%" PRIx64 "\n", failed, ran, check_seed);
    return failed > 0;
}

#endif
