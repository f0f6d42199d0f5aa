/* cmd_info.c - INFO: what exporters and dashboards read. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../base/futex.h"
#include "commands.h"
#include "pubsub.h"

#ifndef PYKV_VERSION
#define PYKV_VERSION "unknown"
#endif

typedef struct info {
    kv_client *c;
    kv_counters *counters;
    kv_config *config;
    kv_stats store;
    uint64_t now_ms, now_ns;
    kv_text_buffer text;
} info;

static uint64_t get(const _Atomic uint64_t *counter) {
    return kv_counter_get(counter);
}

static const char *human_size(uint64_t bytes, char text[32]) {
    static const char units[] = "BKMGTP";
    double n = (double)bytes;
    size_t unit = 0;
    for (; n >= 1024 && unit < sizeof units - 2; unit++)
        n /= 1024;
    (void)snprintf(text, 32, unit == 0 ? "%.0f%c" : "%.2f%c", n, units[unit]);
    return text;
}

uint64_t kv_last_save_time(kv_client *c) {
    kv_counters *counters = kv_server_stats(c->server);
    kv_stats stats;
    kv_error err;
    if (kv_get_stats(c->db, KV_NOWAIT, &stats, &err) == KV_OK && stats.checkpoints > get(&counters->checkpoints_seen)) {
        atomic_store_explicit(&counters->last_save_s, kv_clock_ms(c->db) / 1000, memory_order_relaxed);
        atomic_store_explicit(&counters->checkpoints_seen, stats.checkpoints, memory_order_relaxed);
    }
    uint64_t last = get(&counters->last_save_s);
    return last != 0 ? last : counters->started_ms / 1000;
}

/* ---- Sections ------------------------------------------------------------------------------------------ */

static bool count_channel(void *arg, kv_bytes channel) {
    (void)channel;
    ++*(size_t *)arg;
    return true;
}

static size_t channel_count(kv_server *server) {
    size_t count = 0;
    kv_pubsub_visit_channels(server, count_channel, &count);
    return count;
}

static void add_server(info *i) {
    char path[512];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    path[size > 0 ? size : 0] = '\0';
    uint64_t up_s = (i->now_ns - i->counters->started_ns) / 1000000000;
    kv_text_addf(&i->text,
                 "# Server\r\nredis_version:" KV_REDIS_VERSION "\r\nredis_git_sha1:00000000\r\nredis_git_dirty:0\r\n"
                 "redis_build_id:0\r\nredis_mode:standalone\r\npykv_version:" PYKV_VERSION "\r\n"
                 "os:%s\r\narch_bits:%zu\r\n",
#ifdef __linux__
                 "Linux",
#else
                 "Unix",
#endif
                 sizeof(void *) * 8);
    kv_text_addf(&i->text,
                 "multiplexing_api:epoll\r\nprocess_id:%ld\r\nprocess_supervised:no\r\nrun_id:%s\r\ntcp_port:%u\r\n"
                 "server_time_usec:%" PRIu64 "\r\nuptime_in_seconds:%" PRIu64 "\r\nuptime_in_days:%" PRIu64 "\r\n",
                 (long)getpid(), i->counters->run_id, kv_server_port(i->c->server), i->now_ms * 1000, up_s,
                 up_s / 86400);
    kv_text_addf(&i->text, "hz:10\r\nconfigured_hz:10\r\nlru_clock:%" PRIu64 "\r\nexecutable:%s\r\nconfig_file:\r\n"
                           "io_threads_active:%d\r\nthreads:%" PRIu32 "\r\n",
                 i->now_ms / 1000 & 0xffffff, path, i->config->threads > 1, i->config->threads);
}

static void add_clients(info *i) {
    kv_text_addf(&i->text,
                 "# Clients\r\nconnected_clients:%zu\r\ncluster_connections:0\r\nmaxclients:%" PRIu32 "\r\n"
                 "client_recent_max_input_buffer:0\r\nclient_recent_max_output_buffer:0\r\nblocked_clients:0\r\n"
                 "tracking_clients:0\r\nclients_in_timeout_table:0\r\n",
                 kv_server_client_count(i->c->server),
                 atomic_load_explicit(&i->config->clients_max, memory_order_relaxed));
}

static void add_memory(info *i) {
    char a[32], b[32], d[32];
    struct rusage usage;
    uint64_t rss = getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
    uint64_t buffers = get(&i->counters->query_buffer_bytes) + get(&i->counters->output_buffer_bytes);
    uint64_t used = i->store.memory_bytes + buffers;
    kv_text_addf(&i->text,
                 "# Memory\r\nused_memory:%" PRIu64 "\r\nused_memory_human:%s\r\nused_memory_rss:%" PRIu64
                 "\r\nused_memory_rss_human:%s\r\nused_memory_peak:%" PRIu64 "\r\nused_memory_peak_human:%s\r\n",
                 used, human_size(used, a), rss, human_size(rss, b), rss, human_size(rss, d));
    kv_text_addf(&i->text,
                 "used_memory_overhead:%" PRIu64 "\r\nused_memory_startup:0\r\nused_memory_dataset:%" PRIu64
                 "\r\nused_memory_lua:0\r\nmaxmemory:%" PRIu64 "\r\nmaxmemory_human:%s\r\nmaxmemory_policy:%s\r\n",
                 used > i->store.data_bytes ? used - i->store.data_bytes : 0, i->store.data_bytes, i->store.max_memory,
                 human_size(i->store.max_memory, a), kv_memory_policy(&i->store));
    kv_text_addf(&i->text,
                 "memory_charged:%" PRIu64 "\r\nmem_fragmentation_ratio:%.2f\r\nmem_clients_normal:%" PRIu64
                 "\r\nmem_clients_slaves:0\r\nmem_aof_buffer:0\r\nmem_allocator:pools\r\nactive_defrag_running:0\r\n"
                 "lazyfree_pending_objects:0\r\n",
                 i->store.memory_charged, used > 0 ? (double)rss / (double)used : 0.0, buffers);
}

static void add_persistence(info *i) {
    bool is_durable = !kv_is_memory_only(i->c->db);
    kv_text_addf(&i->text,
                 "# Persistence\r\nloading:0\r\nasync_loading:0\r\ncurrent_cow_size:0\r\n"
                 "rdb_changes_since_last_save:%" PRIu64 "\r\nrdb_bgsave_in_progress:%d\r\nrdb_last_save_time:%" PRIu64
                 "\r\nrdb_last_bgsave_status:%s\r\nrdb_last_bgsave_time_sec:-1\r\nrdb_current_bgsave_time_sec:-1\r\n",
                 i->store.commits, kv_server_is_saving(i->c->server), kv_last_save_time(i->c),
                 i->store.checkpoint_error.status == KV_OK ? "ok" : "err");
    kv_text_addf(&i->text,
                 "rdb_saves:%" PRIu64 "\r\naof_enabled:%d\r\naof_rewrite_in_progress:%d\r\naof_rewrite_scheduled:0\r\n"
                 "aof_last_rewrite_time_sec:-1\r\naof_current_rewrite_time_sec:-1\r\naof_last_bgrewrite_status:%s\r\n"
                 "aof_last_write_status:%s\r\n",
                 i->store.checkpoints, is_durable,
                 kv_server_is_saving(i->c->server), /* BGREWRITEAOF makes a checkpoint, too */
                 i->store.checkpoint_error.status == KV_OK ? "ok" : "err",
                 i->store.failed ? "err" : "ok");
    if (is_durable)
        kv_text_addf(&i->text,
                     "aof_current_size:%" PRIu64 "\r\naof_base_size:%" PRIu64 "\r\naof_pending_rewrite:0\r\n"
                     "aof_buffer_length:0\r\naof_pending_bio_fsync:0\r\naof_delayed_fsync:0\r\nlog_syncs:%" PRIu64
                     "\r\nlog_frames:%" PRIu64 "\r\nlog_lsn:%" PRIu64 "\r\nlog_durable_lsn:%" PRIu64 "\r\n",
                     i->store.log_bytes, i->store.checkpoint_bytes, i->store.syncs, i->store.frames, i->store.lsn,
                     i->store.durable_lsn);
}

static void add_stats(info *i) {
    uint64_t commands = 0, hits = 0, misses = 0;
    for (size_t k = 0; k < i->counters->slice_count; k++) {
        commands += get(&i->counters->slices[k].commands);
        hits += get(&i->counters->slices[k].hits);
        misses += get(&i->counters->slices[k].misses);
    }
    double rate = 0, rate_in = 0, rate_out = 0;
    pthread_mutex_lock(&i->counters->lock);
    for (size_t k = 0; k < KV_RATE_SAMPLES; k++) {
        rate += i->counters->rates[k].commands / KV_RATE_SAMPLES;
        rate_in += i->counters->rates[k].bytes_in / KV_RATE_SAMPLES;
        rate_out += i->counters->rates[k].bytes_out / KV_RATE_SAMPLES;
    }
    uint64_t errors = i->counters->error_replies;
    pthread_mutex_unlock(&i->counters->lock);
    kv_text_addf(&i->text,
                 "# Stats\r\ntotal_connections_received:%" PRIu64 "\r\ntotal_commands_processed:%" PRIu64
                 "\r\ninstantaneous_ops_per_sec:%.0f\r\ntotal_net_input_bytes:%" PRIu64
                 "\r\ntotal_net_output_bytes:%" PRIu64 "\r\ninstantaneous_input_kbps:%.2f\r\n"
                 "instantaneous_output_kbps:%.2f\r\n",
                 get(&i->counters->connections), commands, rate, get(&i->counters->bytes_in),
                 get(&i->counters->bytes_out), rate_in / 1024, rate_out / 1024);
    kv_text_addf(&i->text,
                 "rejected_connections:%" PRIu64 "\r\nsync_full:0\r\nsync_partial_ok:0\r\nsync_partial_err:0\r\n"
                 "expired_keys:%" PRIu64 "\r\nexpired_stale_perc:0.00\r\nexpired_time_cap_reached_count:0\r\n"
                 "evicted_keys:%" PRIu64 "\r\nevicted_clients:0\r\n"
                 "keyspace_hits:%" PRIu64 "\r\nkeyspace_misses:%" PRIu64 "\r\n",
                 get(&i->counters->connections_refused), i->store.expired, i->store.evicted, hits, misses);
    kv_text_addf(&i->text,
                 "pubsub_channels:%zu\r\npubsub_patterns:%zu\r\npubsubshard_channels:0\r\nlatest_fork_usec:0\r\n"
                 "total_forks:0\r\nmigrate_cached_sockets:0\r\nunexpected_error_replies:0\r\n"
                 "total_error_replies:%" PRIu64 "\r\nclient_output_buffer_limit_disconnections:%" PRIu64 "\r\n"
                 "client_idle_disconnections:%" PRIu64 "\r\n",
                 channel_count(i->c->server), kv_pubsub_patterns(i->c->server), errors,
                 get(&i->counters->output_limit_closes), get(&i->counters->idle_closes));
}

static void add_replication(info *i) {
    kv_text_addf(&i->text,
                 "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n"
                 "master_replid:%s\r\nmaster_replid2:0000000000000000000000000000000000000000\r\n"
                 "master_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\nrepl_backlog_size:0\r\n"
                 "repl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n",
                 i->counters->run_id);
}

static void add_cpu(info *i) {
    struct rusage self;
    if (getrusage(RUSAGE_SELF, &self) != 0)
        memset(&self, 0, sizeof self);
    kv_text_addf(&i->text,
                 "# CPU\r\nused_cpu_sys:%ld.%06ld\r\nused_cpu_user:%ld.%06ld\r\nused_cpu_sys_children:0.000000\r\n"
                 "used_cpu_user_children:0.000000\r\n",
                 (long)self.ru_stime.tv_sec, (long)self.ru_stime.tv_usec, (long)self.ru_utime.tv_sec,
                 (long)self.ru_utime.tv_usec);
}

static void add_modules(info *i) {
    kv_text_addf(&i->text, "# Modules\r\n");
}

static void add_commandstats(info *i) {
    kv_text_addf(&i->text, "# Commandstats\r\n");
    for (size_t k = 0; k < kv_command_count(); k++) {
        kv_call_sum sum = kv_counters_calls(i->counters, k);
        if (sum.calls == 0 && sum.rejected == 0)
            continue;
        double each_us = sum.calls > 0 ? (double)sum.time_ns / 1000 / (double)sum.calls : 0.0;
        kv_text_addf(&i->text,
                     "cmdstat_%s:calls=%" PRIu64 ",usec=%" PRIu64 ",usec_per_call=%.2f,rejected_calls=%" PRIu64
                     ",failed_calls=%" PRIu64 "\r\n",
                     kv_command_at(k)->name, sum.calls, sum.time_ns / 1000, each_us, sum.rejected, sum.failed);
    }
}

static void add_errorstats(info *i) {
    kv_text_addf(&i->text, "# Errorstats\r\n");
    pthread_mutex_lock(&i->counters->lock);
    for (size_t k = 0; k < i->counters->error_codes; k++)
        kv_text_addf(&i->text, "errorstat_%s:count=%" PRIu64 "\r\n", i->counters->errors[k].code,
                     i->counters->errors[k].count);
    pthread_mutex_unlock(&i->counters->lock);
}

static void add_latencystats(info *i) {
    kv_text_addf(&i->text, "# Latencystats\r\n");
    for (size_t k = 0; k < kv_command_count(); k++) {
        kv_call_sum sum = kv_counters_calls(i->counters, k);
        if (sum.calls > 0)
            kv_text_addf(&i->text, "latency_percentiles_usec_%s:p50=%.3f,p99=%.3f,p99.9=%.3f\r\n",
                         kv_command_at(k)->name, kv_call_sum_percentile(&sum, 50), kv_call_sum_percentile(&sum, 99),
                         kv_call_sum_percentile(&sum, 99.9));
    }
}

static void add_cluster(info *i) {
    kv_text_addf(&i->text, "# Cluster\r\ncluster_enabled:0\r\n");
}

static void add_keyspace(info *i) {
    uint64_t keys = 0;
    kv_error err;
    if (kv_count(i->c->db, 0, &keys, &err) < 0)
        keys = i->store.entries;
    kv_text_addf(&i->text, "# Keyspace\r\n");
    if (keys > 0)
        kv_text_addf(&i->text, "db0:keys=%" PRIu64 ",expires=0,avg_ttl=0\r\n", keys);
}

/* ---- INFO ---------------------------------------------------------------------------------------------- */

static const struct section {
    const char *name;
    void (*add)(info *i);
    bool is_default;
} sections[] = {
    {"server", add_server, true},
    {"clients", add_clients, true},
    {"memory", add_memory, true},
    {"persistence", add_persistence, true},
    {"stats", add_stats, true},
    {"replication", add_replication, true},
    {"cpu", add_cpu, true},
    {"modules", add_modules, true},
    {"commandstats", add_commandstats, false},
    {"errorstats", add_errorstats, true},
    {"latencystats", add_latencystats, false},
    {"cluster", add_cluster, true},
    {"keyspace", add_keyspace, true},
};

static bool is_wanted(const struct section *section, const kv_bytes *argv, size_t argc) {
    if (argc == 1)
        return section->is_default;
    for (size_t i = 1; i < argc; i++)
        if (kv_word_is(argv[i], section->name) || kv_word_is(argv[i], "all") || kv_word_is(argv[i], "everything") ||
            (kv_word_is(argv[i], "default") && section->is_default))
            return true;
    return false;
}

kv_run kv_cmd_info(kv_client *c, const kv_bytes *argv, size_t argc) {
    info i = {.c = c, .counters = kv_server_stats(c->server), .config = kv_server_config(c->server)};
    kv_error err;
    i.now_ms = kv_clock_ms(c->db);
    i.now_ns = kv_now_ns();
    if (kv_get_stats(c->db, 0, &i.store, &err) < 0) {
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    for (size_t k = 0; k < KV_COUNT_OF(sections); k++) {
        if (!is_wanted(&sections[k], argv, argc))
            continue;
        if (i.text.size > 0)
            kv_text_addf(&i.text, "\r\n");
        sections[k].add(&i);
    }
    if (i.text.broken)
        kv_refuse(c, "OOM out of memory");
    else
        kv_reply_verbatim(&c->reply, "txt", i.text.data != NULL ? i.text.data : "", i.text.size);
    kv_text_free(&i.text);
    return KV_RUN_DONE;
}
