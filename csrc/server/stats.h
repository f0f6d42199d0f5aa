/* stats.h - what a server counts: for INFO, SLOWLOG, LATENCY.
 *
 * Layer: server (a leaf).  Counters are relaxed atomics: sums, no order.  What every request counts stands in a
 * slice that only one loop writes (so no locked instruction and no cache line that goes to and fro); a reader adds
 * the slices up.
 */
#ifndef KV_SERVER_STATS_H
#define KV_SERVER_STATS_H

#include <pthread.h>
#include <stdatomic.h>

#include "../kv.h"

#define KV_LATENCY_BUCKETS 32u /* bucket i: calls of less than 2^i microseconds (and not less than half of that) */

/* One command in one slice. */
typedef struct kv_call_stats {
    _Atomic uint64_t calls, time_ns, rejected, failed;
    _Atomic uint64_t latency[KV_LATENCY_BUCKETS];
} kv_call_stats;

typedef struct kv_slice {
    _Atomic uint64_t commands, hits, misses;
    kv_call_stats *calls; /* by kv_command_index */
    char padding[64];
} kv_slice;

/* One row of the slow log. */
#define KV_SLOW_ARGS_MAX 32u
#define KV_SLOW_ARG_SIZE_MAX 128u
typedef struct kv_slow {
    struct kv_slow *next;
    uint64_t id, time_s, duration_us;
    char address[64], name[64];
    size_t argc;
    kv_bytes args[KV_SLOW_ARGS_MAX]; /* in the same block */
} kv_slow;

#define KV_ERROR_CODES_MAX 64u
typedef struct kv_error_count {
    char code[24];
    uint64_t count;
} kv_error_count;

#define KV_RATE_SAMPLES 16u

typedef struct kv_counters {
    uint64_t started_ms; /* wall clock, constant */
    uint64_t started_ns; /* of kv_now_ns */
    char run_id[41];     /* constant */
    size_t command_count, slice_count;
    kv_slice *slices;
    _Atomic uint64_t connections, connections_refused, bytes_in, bytes_out;
    _Atomic uint64_t query_buffer_bytes, output_buffer_bytes;
    _Atomic uint64_t output_limit_closes, idle_closes;
    _Atomic uint64_t checkpoints_seen, last_save_s; /* when it was noticed that there is one more */

    pthread_mutex_t lock; /* a leaf: guards what follows */
    kv_slow *slow;        /* the newest first */
    size_t slow_count;
    uint64_t slow_next_id;
    kv_error_count errors[KV_ERROR_CODES_MAX];
    size_t error_codes;
    uint64_t error_replies;
    uint64_t rate_time_ns, rate_commands, rate_bytes_in, rate_bytes_out; /* of the last sample */
    struct kv_rate {
        double commands, bytes_in, bytes_out; /* a second */
    } rates[KV_RATE_SAMPLES];
    size_t rate_next;
} kv_counters;

/* `slices`: one for each thread that runs commands. */
kv_status kv_counters_init(kv_counters *counters, size_t command_count, size_t slices, kv_error *err) KV_MUST_CHECK;
void kv_counters_fini(kv_counters *counters); /* also of what is all zeros, and twice */
/* CONFIG RESETSTAT. */
void kv_counters_reset(kv_counters *counters);
/* A sample of "so many a second".  One thread calls it about ten times a second. */
void kv_counters_tick(kv_counters *counters, uint64_t now_ns);

/* For the one writer of a slice. */
static inline void kv_counter_add(_Atomic uint64_t *counter, uint64_t more) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

static inline uint64_t kv_counter_get(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void kv_call_stats_add(kv_call_stats *stats, uint64_t duration_ns, bool failed);
/* The sum over all slices; latency[] included. */
typedef struct kv_call_sum {
    uint64_t calls, time_ns, rejected, failed;
    uint64_t latency[KV_LATENCY_BUCKETS];
} kv_call_sum;
kv_call_sum kv_counters_calls(kv_counters *counters, size_t command);
/* The time in us that `percent` of the calls did not exceed (an upper bound: the bucket's). */
double kv_call_sum_percentile(const kv_call_sum *sum, double percent);

/* An error reply with this text ("ERR syntax error"): counted under its code. */
void kv_counters_error(kv_counters *counters, const char *text);

/* The slow log.  kv_slow_add copies and shortens the arguments as Redis does; without memory it does nothing. */
void kv_slow_add(kv_counters *counters, size_t length_max, uint64_t time_s, uint64_t duration_us, const kv_bytes *argv,
                 size_t argc, const char *address, const char *name);
void kv_slow_reset(kv_counters *counters);

#endif
