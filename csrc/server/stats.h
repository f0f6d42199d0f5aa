/* stats.h - what a server counts: for INFO, SLOWLOG, LATENCY.
 *
 * Layer: server (a leaf).  Counters are relaxed atomics: sums, no order.
 */
#ifndef KV_SERVER_STATS_H
#define KV_SERVER_STATS_H

#include <stdatomic.h>

#include "../kv.h"

typedef struct kv_counters {
    uint64_t started_ms; /* wall clock, constant */
    _Atomic uint64_t connections, connections_refused, commands, bytes_in, bytes_out;
    _Atomic uint64_t hits, misses, errors, expired_reads;
    _Atomic uint64_t query_buffer_bytes, output_buffer_bytes;
    _Atomic uint64_t output_limit_closes, idle_closes;
} kv_counters;

#endif
