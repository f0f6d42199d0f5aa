/* fault_os.c - see fault_os.h.
 *
 * Each function of the table is the same sandwich: begin() counts, waits and decides; the inner
 * call runs unless it is to fail before its effect; end() puts the failure in place of its answer.
 */
#include "fault_os.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RULES_MAX 16
#define DIRECT_MAX 16 /* files with direct I/O on at a time */

typedef struct fault_rule {
    fault_call call;
    uint64_t left; /* fires when this many matching calls have been seen; 0: unused or spent */
    int sys_errno;
    unsigned flags;
} fault_rule;

typedef struct fault_gate {
    bool closed;
    uint64_t waiting;
} fault_gate;

struct fault_os {
    /* Constant. */
    kv_os table;
    const kv_os *inner;

    _Atomic uint64_t clock_ms; /* 0: the inner clock */

    /* Guarded by mu. */
    pthread_mutex_t mu;
    pthread_cond_t changed; /* a gate opened, or somebody came to one */
    uint64_t calls[FAULT_ANY];
    uint64_t failures;
    uint64_t delay_ns[FAULT_ANY];
    size_t transfer_max;
    fault_watch watch;
    void *watch_arg;
    fault_gate gates[FAULT_ANY];
    fault_rule rules[RULES_MAX];
    int direct[DIRECT_MAX]; /* files; 0: a free place */
};

/* What is to happen to one call. */
typedef struct fault_verdict {
    bool perform;
    int sys_errno; /* 0: the inner answer counts */
    bool cut;      /* a transfer ends half-way */
    fault_watch watch;
    void *watch_arg;
} fault_verdict;

/* ---- The sandwich ---------------------------------------------------------------------------- */

static fault_verdict judge_locked(fault_os *f, fault_call call) {
    fault_verdict verdict = {.perform = true};
    for (size_t i = 0; i < RULES_MAX; i++) {
        fault_rule *rule = &f->rules[i];
        if (rule->left == 0 || (rule->call != call && rule->call != FAULT_ANY))
            continue;
        if (rule->left > 1) {
            rule->left--;
            continue;
        }
        if (!(rule->flags & FAULT_FOREVER))
            rule->left = 0;
        verdict.sys_errno = rule->sys_errno;
        verdict.cut = rule->flags & FAULT_SHORT;
        verdict.perform = rule->flags & (FAULT_DONE | FAULT_SHORT);
    }
    if (verdict.sys_errno != 0 || verdict.cut)
        f->failures++;
    return verdict;
}

static fault_verdict begin(fault_os *f, fault_call call) {
    pthread_mutex_lock(&f->mu);
    f->calls[call]++;
    fault_gate *gate = &f->gates[call];
    if (gate->closed) {
        gate->waiting++;
        pthread_cond_broadcast(&f->changed);
        while (gate->closed)
            pthread_cond_wait(&f->changed, &f->mu);
        gate->waiting--;
    }
    uint64_t delay_ns = f->delay_ns[call];
    fault_verdict verdict = judge_locked(f, call);
    verdict.watch = f->watch;
    verdict.watch_arg = f->watch_arg;
    pthread_mutex_unlock(&f->mu);

    if (delay_ns > 0) {
        struct timespec delay = {(time_t)(delay_ns / 1000000000), (long)(delay_ns % 1000000000)};
        nanosleep(&delay, NULL);
    }
    if (verdict.watch != NULL)
        verdict.watch(verdict.watch_arg, call, false);
    return verdict;
}

static int64_t end(fault_call call, fault_verdict verdict, int64_t answer) {
    if (verdict.watch != NULL)
        verdict.watch(verdict.watch_arg, call, true);
    return verdict.sys_errno != 0 ? -verdict.sys_errno : answer;
}

/* `inner_call` runs only if the verdict lets it.  For functions that answer an int. */
#define SANDWICH(call, inner_call)                                                               \
    fault_os *f = ctx;                                                                           \
    fault_verdict verdict = begin(f, call);                                                      \
    int64_t answer = verdict.perform ? (inner_call) : 0;                                         \
    return (int)end(call, verdict, answer)

static size_t cut_short(fault_os *f, fault_verdict verdict, size_t size) {
    pthread_mutex_lock(&f->mu);
    size_t max = f->transfer_max;
    pthread_mutex_unlock(&f->mu);
    if (verdict.cut)
        size -= size / 2;
    return max > 0 && size > max ? max : size;
}

/* ---- The table ------------------------------------------------------------------------------- */

/* A handle that the caller is not told of would leak. */
static int64_t opened(fault_os *f, fault_verdict verdict, int64_t handle) {
    if (verdict.sys_errno != 0 && verdict.perform && handle >= 0)
        f->inner->close(f->inner->ctx, (int)handle);
    return handle;
}

static int fault_dir_open(void *ctx, const char *path, bool create) {
    SANDWICH(FAULT_DIR_OPEN,
             opened(f, verdict, f->inner->dir_open(f->inner->ctx, path, create)));
}

static int fault_identity(void *ctx, int number, const char *name, uint64_t identity[2]) {
    SANDWICH(FAULT_IDENTITY, f->inner->identity(f->inner->ctx, number, name, identity));
}

static int fault_dir_list(void *ctx, int dir, kv_name_visitor visit, void *arg) {
    SANDWICH(FAULT_DIR_LIST, f->inner->dir_list(f->inner->ctx, dir, visit, arg));
}

static int fault_dir_sync(void *ctx, int dir) {
    SANDWICH(FAULT_DIR_SYNC, f->inner->dir_sync(f->inner->ctx, dir));
}

static int fault_open(void *ctx, int dir, const char *name, kv_open_mode mode) {
    SANDWICH(FAULT_OPEN, opened(f, verdict, f->inner->open(f->inner->ctx, dir, name, mode)));
}

/* Notes whether direct I/O is on for the file; answers whether it was. */
static bool note_direct(fault_os *f, int file, bool on) {
    pthread_mutex_lock(&f->mu);
    size_t i = 0, place = DIRECT_MAX;
    for (; i < DIRECT_MAX && f->direct[i] != file; i++)
        if (f->direct[i] == 0)
            place = i;
    bool was = i < DIRECT_MAX;
    if (was && !on)
        f->direct[i] = 0;
    assert(was || !on || place < DIRECT_MAX);
    if (!was && on)
        f->direct[place] = file;
    pthread_mutex_unlock(&f->mu);
    return was;
}

static int fault_close(void *ctx, int file) {
    fault_os *f = ctx;
    fault_verdict verdict = begin(f, FAULT_CLOSE);
    note_direct(f, file, false);
    return (int)end(FAULT_CLOSE, verdict, f->inner->close(f->inner->ctx, file));
}

static int64_t fault_size(void *ctx, int file) {
    fault_os *f = ctx;
    fault_verdict verdict = begin(f, FAULT_SIZE);
    return end(FAULT_SIZE, verdict,
               verdict.perform ? f->inner->size(f->inner->ctx, file) : 0);
}

static int64_t fault_read(void *ctx, int file, void *buffer, size_t size, uint64_t offset) {
    fault_os *f = ctx;
    fault_verdict verdict = begin(f, FAULT_READ);
    int64_t answer = 0;
    if (verdict.perform)
        answer = f->inner->read(f->inner->ctx, file, buffer, cut_short(f, verdict, size), offset);
    return end(FAULT_READ, verdict, answer);
}

/* Cut short where direct I/O could not have stopped: a part of it through the page cache. */
static int64_t write_part(fault_os *f, int file, const void *buffer, size_t size, uint64_t offset) {
    const kv_os *inner = f->inner;
    if (!note_direct(f, file, false))
        return inner->write(inner->ctx, file, buffer, size, offset);
    int off = inner->direct(inner->ctx, file, false);
    int64_t answer = inner->write(inner->ctx, file, buffer, size, offset);
    int alignment = inner->direct(inner->ctx, file, true);
    assert(off > 0 && alignment > 0);
    assert((((uintptr_t)buffer | offset) & (unsigned)(alignment - 1)) == 0);
    (void)off, (void)alignment;
    note_direct(f, file, true);
    return answer;
}

static int64_t fault_write(void *ctx, int file, const void *buffer, size_t size,
                           uint64_t offset) {
    fault_os *f = ctx;
    fault_verdict verdict = begin(f, FAULT_WRITE);
    int64_t answer = 0;
    size_t part = cut_short(f, verdict, size);
    if (verdict.perform && part < size)
        answer = write_part(f, file, buffer, part, offset);
    else if (verdict.perform)
        answer = f->inner->write(f->inner->ctx, file, buffer, size, offset);
    return end(FAULT_WRITE, verdict, answer);
}

static int fault_sync(void *ctx, int file) {
    SANDWICH(FAULT_SYNC, f->inner->sync(f->inner->ctx, file));
}

static int fault_truncate(void *ctx, int file, uint64_t size) {
    SANDWICH(FAULT_TRUNCATE, f->inner->truncate(f->inner->ctx, file, size));
}

static int fault_reserve(void *ctx, int file, uint64_t size) {
    SANDWICH(FAULT_RESERVE, f->inner->reserve(f->inner->ctx, file, size));
}

static int fault_rename(void *ctx, int dir, const char *from, const char *to) {
    SANDWICH(FAULT_RENAME, f->inner->rename(f->inner->ctx, dir, from, to));
}

static int fault_unlink(void *ctx, int dir, const char *name) {
    SANDWICH(FAULT_UNLINK, f->inner->unlink(f->inner->ctx, dir, name));
}

static int fault_lock(void *ctx, int file, bool shared) {
    SANDWICH(FAULT_LOCK, f->inner->lock(f->inner->ctx, file, shared));
}

static int fault_random(void *ctx, void *buffer, size_t size) {
    SANDWICH(FAULT_RANDOM, f->inner->random(f->inner->ctx, buffer, size));
}

static int fault_direct(void *ctx, int file, bool on) {
    fault_os *f = ctx;
    fault_verdict verdict = begin(f, FAULT_DIRECT);
    int answer = 0;
    if (verdict.perform)
        answer = f->inner->direct != NULL ? f->inner->direct(f->inner->ctx, file, on) : -EOPNOTSUPP;
    if (verdict.perform && answer >= 0)
        note_direct(f, file, on);
    return (int)end(FAULT_DIRECT, verdict, answer);
}

/* Of no kind: it touches no file. */
static uint64_t fault_clock_ms(void *ctx) {
    fault_os *f = ctx;
    uint64_t now_ms = atomic_load(&f->clock_ms);
    return now_ms != 0 ? now_ms : kv_os_clock_ms(f->inner);
}

static const kv_os fault_functions = {
    .dir_open = fault_dir_open,
    .identity = fault_identity,
    .dir_list = fault_dir_list,
    .dir_sync = fault_dir_sync,
    .open = fault_open,
    .close = fault_close,
    .size = fault_size,
    .read = fault_read,
    .write = fault_write,
    .sync = fault_sync,
    .truncate = fault_truncate,
    .reserve = fault_reserve,
    .rename = fault_rename,
    .unlink = fault_unlink,
    .lock = fault_lock,
    .random = fault_random,
    .clock_ms = fault_clock_ms,
    .direct = fault_direct,
};

/* ---- What the test does ---------------------------------------------------------------------- */

fault_os *fault_os_create(const kv_os *inner) {
    fault_os *f = calloc(1, sizeof *f);
    assert(f != NULL);
    f->inner = inner;
    f->table = fault_functions;
    f->table.ctx = f;
    pthread_mutex_init(&f->mu, NULL);
    pthread_cond_init(&f->changed, NULL);
    return f;
}

void fault_os_destroy(fault_os *f) {
    if (f == NULL)
        return;
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

const kv_os *fault_os_table(fault_os *f) {
    return &f->table;
}

const char *fault_call_name(fault_call call) {
    switch (call) {
#define X(name)                                                                                  \
    case name:                                                                                   \
        return #name;
        FAULT_CALL_TABLE(X)
#undef X
    case FAULT_ANY:
        return "FAULT_ANY";
    }
    return "?";
}

uint64_t fault_os_calls(fault_os *f, fault_call call) {
    pthread_mutex_lock(&f->mu);
    uint64_t calls = 0;
    for (int kind = 0; kind < FAULT_ANY; kind++)
        if (call == FAULT_ANY || (int)call == kind)
            calls += f->calls[kind];
    pthread_mutex_unlock(&f->mu);
    return calls;
}

uint64_t fault_os_failures(fault_os *f) {
    pthread_mutex_lock(&f->mu);
    uint64_t failures = f->failures;
    pthread_mutex_unlock(&f->mu);
    return failures;
}

void fault_os_fail(fault_os *f, fault_call call, uint64_t nth, int sys_errno, unsigned flags) {
    assert(nth > 0 && (sys_errno > 0 || flags & FAULT_SHORT));
    pthread_mutex_lock(&f->mu);
    size_t i = 0;
    while (i < RULES_MAX && f->rules[i].left > 0)
        i++;
    assert(i < RULES_MAX);
    f->rules[i] = (fault_rule){call, nth, sys_errno, flags};
    pthread_mutex_unlock(&f->mu);
}

void fault_os_heal(fault_os *f) {
    pthread_mutex_lock(&f->mu);
    memset(f->rules, 0, sizeof f->rules);
    pthread_mutex_unlock(&f->mu);
}

void fault_os_limit(fault_os *f, size_t transfer_max) {
    pthread_mutex_lock(&f->mu);
    f->transfer_max = transfer_max;
    pthread_mutex_unlock(&f->mu);
}

void fault_os_delay(fault_os *f, fault_call call, uint64_t delay_ns) {
    pthread_mutex_lock(&f->mu);
    f->delay_ns[call] = delay_ns;
    pthread_mutex_unlock(&f->mu);
}

void fault_os_gate_close(fault_os *f, fault_call call) {
    pthread_mutex_lock(&f->mu);
    f->gates[call].closed = true;
    pthread_mutex_unlock(&f->mu);
}

void fault_os_gate_wait(fault_os *f, fault_call call, uint64_t count) {
    pthread_mutex_lock(&f->mu);
    while (f->gates[call].waiting < count)
        pthread_cond_wait(&f->changed, &f->mu);
    pthread_mutex_unlock(&f->mu);
}

void fault_os_gate_open(fault_os *f, fault_call call) {
    pthread_mutex_lock(&f->mu);
    f->gates[call].closed = false;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mu);
}

void fault_os_set_clock(fault_os *f, uint64_t now_ms) {
    atomic_store(&f->clock_ms, now_ms);
}

void fault_os_watch(fault_os *f, fault_watch watch, void *arg) {
    pthread_mutex_lock(&f->mu);
    f->watch = watch;
    f->watch_arg = arg;
    pthread_mutex_unlock(&f->mu);
}
