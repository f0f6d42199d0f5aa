/* stats.c - counting. */
#include "stats.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../base/futex.h"
#include "../base/mem.h"

/* ---- Life ---------------------------------------------------------------------------------------------- */

static void make_run_id(kv_counters *counters) {
    /* Not a secret: it tells one run from another. */
    uint64_t x = kv_now_ns() ^ counters->started_ms << 20 ^ (uint64_t)(uintptr_t)counters;
    for (size_t i = 0; i < 40; i++) {
        x += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        counters->run_id[i] = "0123456789abcdef"[(z ^ z >> 31) & 15];
    }
    counters->run_id[40] = '\0';
}

kv_status kv_counters_init(kv_counters *counters, size_t command_count, size_t slices, kv_error *err) {
    memset(counters, 0, sizeof *counters);
    counters->started_ns = counters->rate_time_ns = kv_now_ns();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    counters->started_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    make_run_id(counters);
    int failed = pthread_mutex_init(&counters->lock, NULL);
    if (failed != 0)
        return kv_fail_sys(err, failed, "", "cannot make a mutex");
    counters->command_count = command_count;
    counters->slices = kv_mem_alloc_zero(slices * sizeof *counters->slices);
    if (counters->slices == NULL) {
        kv_counters_fini(counters);
        return kv_fail_nomem(err, slices * sizeof *counters->slices);
    }
    counters->slice_count = slices;
    for (size_t i = 0; i < slices; i++) {
        size_t size = command_count * sizeof *counters->slices[i].calls;
        counters->slices[i].calls = kv_mem_alloc_zero(size);
        if (counters->slices[i].calls == NULL) {
            kv_counters_fini(counters);
            return kv_fail_nomem(err, size);
        }
    }
    return KV_OK;
}

void kv_counters_fini(kv_counters *counters) {
    if (counters->command_count == 0) /* never made, or ended already */
        return;
    kv_slow_reset(counters);
    for (size_t i = 0; i < counters->slice_count; i++)
        kv_mem_free(counters->slices[i].calls);
    kv_mem_free(counters->slices);
    counters->slices = NULL;
    counters->slice_count = counters->command_count = 0;
    (void)pthread_mutex_destroy(&counters->lock);
}

static void clear(_Atomic uint64_t *counter) {
    atomic_store_explicit(counter, 0, memory_order_relaxed);
}

static uint64_t commands_of(const kv_counters *counters) {
    uint64_t sum = 0;
    for (size_t i = 0; i < counters->slice_count; i++)
        sum += kv_counter_get(&counters->slices[i].commands);
    return sum;
}

/* A loop that counts at this moment may write back what it had: one command more or less is no matter. */
void kv_counters_reset(kv_counters *counters) {
    for (size_t i = 0; i < counters->slice_count; i++) {
        kv_slice *slice = &counters->slices[i];
        clear(&slice->commands);
        clear(&slice->hits);
        clear(&slice->misses);
        for (size_t k = 0; k < counters->command_count; k++) {
            kv_call_stats *calls = &slice->calls[k];
            clear(&calls->calls);
            clear(&calls->time_ns);
            clear(&calls->rejected);
            clear(&calls->failed);
            for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++)
                clear(&calls->latency[b]);
        }
    }
    clear(&counters->connections);
    clear(&counters->connections_refused);
    clear(&counters->bytes_in);
    clear(&counters->bytes_out);
    clear(&counters->output_limit_closes);
    clear(&counters->idle_closes);
    pthread_mutex_lock(&counters->lock);
    counters->error_codes = 0;
    counters->error_replies = 0;
    counters->rate_commands = counters->rate_bytes_in = counters->rate_bytes_out = 0;
    memset(counters->rates, 0, sizeof counters->rates);
    pthread_mutex_unlock(&counters->lock);
}

void kv_counters_tick(kv_counters *counters, uint64_t now_ns) {
    uint64_t commands = commands_of(counters), in = kv_counter_get(&counters->bytes_in);
    uint64_t out = kv_counter_get(&counters->bytes_out);
    pthread_mutex_lock(&counters->lock);
    if (now_ns > counters->rate_time_ns) {
        double seconds = (double)(now_ns - counters->rate_time_ns) / 1e9;
        struct kv_rate *rate = &counters->rates[counters->rate_next++ % KV_RATE_SAMPLES];
        rate->commands =
            commands >= counters->rate_commands ? (double)(commands - counters->rate_commands) / seconds : 0;
        rate->bytes_in = in >= counters->rate_bytes_in ? (double)(in - counters->rate_bytes_in) / seconds : 0;
        rate->bytes_out = out >= counters->rate_bytes_out ? (double)(out - counters->rate_bytes_out) / seconds : 0;
        counters->rate_time_ns = now_ns;
        counters->rate_commands = commands;
        counters->rate_bytes_in = in;
        counters->rate_bytes_out = out;
    }
    pthread_mutex_unlock(&counters->lock);
}

/* ---- Calls --------------------------------------------------------------------------------------------- */

void kv_call_stats_add(kv_call_stats *stats, uint64_t duration_ns, bool failed) {
    uint64_t us = duration_ns / 1000;
    size_t bucket = us > 0 ? 64 - (size_t)__builtin_clzll(us) : 0;
    kv_counter_add(&stats->calls, 1);
    kv_counter_add(&stats->time_ns, duration_ns);
    kv_counter_add(&stats->latency[bucket < KV_LATENCY_BUCKETS ? bucket : KV_LATENCY_BUCKETS - 1], 1);
    if (failed)
        kv_counter_add(&stats->failed, 1);
}

kv_call_sum kv_counters_calls(kv_counters *counters, size_t command) {
    kv_call_sum sum = {0};
    for (size_t i = 0; i < counters->slice_count; i++) {
        const kv_call_stats *calls = &counters->slices[i].calls[command];
        sum.calls += kv_counter_get(&calls->calls);
        sum.time_ns += kv_counter_get(&calls->time_ns);
        sum.rejected += kv_counter_get(&calls->rejected);
        sum.failed += kv_counter_get(&calls->failed);
        for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++)
            sum.latency[b] += kv_counter_get(&calls->latency[b]);
    }
    return sum;
}

double kv_call_sum_percentile(const kv_call_sum *sum, double percent) {
    uint64_t total = 0, seen = 0;
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++)
        total += sum->latency[b];
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++) {
        seen += sum->latency[b];
        if (seen > 0 && (double)seen >= (double)total * percent / 100)
            return (double)(UINT64_C(1) << b);
    }
    return 0;
}

/* ---- Errors -------------------------------------------------------------------------------------------- */

void kv_counters_error(kv_counters *counters, const char *text) {
    size_t size = strcspn(text, " ");
    if (size >= sizeof counters->errors[0].code)
        size = sizeof counters->errors[0].code - 1;
    pthread_mutex_lock(&counters->lock);
    counters->error_replies++;
    size_t i = 0;
    while (i < counters->error_codes &&
           (strncmp(counters->errors[i].code, text, size) != 0 || counters->errors[i].code[size] != '\0'))
        i++;
    if (i == counters->error_codes && i < KV_ERROR_CODES_MAX) {
        memcpy(counters->errors[i].code, text, size);
        counters->errors[i].code[size] = '\0';
        counters->errors[i].count = 0;
        counters->error_codes++;
    }
    if (i < counters->error_codes)
        counters->errors[i].count++;
    pthread_mutex_unlock(&counters->lock);
}

/* ---- The slow log -------------------------------------------------------------------------------------- */

/* How the argument appears: whole, or its beginning and how much there is behind it. */
static size_t shorten(kv_bytes arg, char *text) {
    if (arg.size <= KV_SLOW_ARG_SIZE_MAX) {
        if (arg.size > 0)
            memcpy(text, arg.data, arg.size);
        return arg.size;
    }
    memcpy(text, arg.data, KV_SLOW_ARG_SIZE_MAX);
    int more = snprintf(text + KV_SLOW_ARG_SIZE_MAX, 48, "... (%zu more bytes)", arg.size - KV_SLOW_ARG_SIZE_MAX);
    return KV_SLOW_ARG_SIZE_MAX + (more > 0 ? (size_t)more : 0);
}

static void cut_to(kv_counters *counters, size_t length, kv_slow **dead) {
    kv_slow **place = &counters->slow;
    for (size_t i = 0; i < length && *place != NULL; i++)
        place = &(*place)->next;
    *dead = *place;
    *place = NULL;
    if (counters->slow_count > length)
        counters->slow_count = length;
}

static void free_list(kv_slow *slow) {
    while (slow != NULL) {
        kv_slow *next = slow->next;
        kv_mem_free(slow);
        slow = next;
    }
}

void kv_slow_add(kv_counters *counters, size_t length_max, uint64_t time_s, uint64_t duration_us, const kv_bytes *argv,
                 size_t argc, const char *address, const char *name) {
    if (length_max == 0)
        return;
    size_t size = 0;
    kv_slow *slow = kv_mem_alloc(sizeof *slow + KV_SLOW_ARGS_MAX * (KV_SLOW_ARG_SIZE_MAX + 48));
    if (slow == NULL)
        return;
    slow->argc = argc < KV_SLOW_ARGS_MAX ? argc : KV_SLOW_ARGS_MAX;
    char *bytes = (char *)(slow + 1);
    for (size_t i = 0; i < slow->argc; i++) {
        size_t one;
        if (i + 1 == slow->argc && argc > slow->argc) {
            int written = snprintf(bytes + size, 48, "... (%zu more arguments)", argc - slow->argc + 1);
            one = written > 0 ? (size_t)written : 0;
        } else {
            one = shorten(argv[i], bytes + size);
        }
        slow->args[i] = (kv_bytes){bytes + size, one};
        size += one;
    }
    slow->time_s = time_s;
    slow->duration_us = duration_us;
    (void)snprintf(slow->address, sizeof slow->address, "%s", address);
    (void)snprintf(slow->name, sizeof slow->name, "%s", name);
    kv_slow *dead;
    pthread_mutex_lock(&counters->lock);
    slow->id = counters->slow_next_id++;
    slow->next = counters->slow;
    counters->slow = slow;
    counters->slow_count++;
    cut_to(counters, length_max, &dead);
    pthread_mutex_unlock(&counters->lock);
    free_list(dead);
}

void kv_slow_reset(kv_counters *counters) {
    kv_slow *dead;
    pthread_mutex_lock(&counters->lock);
    cut_to(counters, 0, &dead);
    pthread_mutex_unlock(&counters->lock);
    free_list(dead);
}
