/* cmd_slow.c - SLOWLOG and LATENCY: what took how long. */
#include "commands.h"

/* ---- SLOWLOG ------------------------------------------------------------------------------------------- */

static kv_run slowlog_get(kv_client *c, const kv_bytes *argv, size_t argc) {
    int64_t wanted = 10;
    if (argc > 3) {
        kv_refuse_form(c, "SLOWLOG", argv[1]);
        return KV_RUN_DONE;
    }
    if (argc == 3 && (!kv_parse_integer(argv[2], &wanted) || wanted < -1)) {
        kv_refuse(c, "ERR count should be greater than or equal to -1");
        return KV_RUN_DONE;
    }
    kv_counters *counters = kv_server_stats(c->server);
    kv_reply *r = &c->reply;
    pthread_mutex_lock(&counters->lock);
    size_t count = wanted < 0 || (uint64_t)wanted > counters->slow_count ? counters->slow_count : (size_t)wanted;
    kv_reply_array(r, count);
    for (const kv_slow *slow = counters->slow; count > 0; slow = slow->next, count--) {
        kv_reply_array(r, 6);
        kv_reply_integer(r, (int64_t)slow->id);
        kv_reply_integer(r, (int64_t)slow->time_s);
        kv_reply_integer(r, (int64_t)slow->duration_us);
        kv_reply_array(r, slow->argc);
        for (size_t i = 0; i < slow->argc; i++)
            kv_reply_bulk(r, slow->args[i].data, slow->args[i].size);
        kv_reply_bulk_text(r, slow->address);
        kv_reply_bulk_text(r, slow->name);
    }
    pthread_mutex_unlock(&counters->lock);
    return KV_RUN_DONE;
}

static kv_run slowlog_len(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_counters *counters = kv_server_stats(c->server);
    pthread_mutex_lock(&counters->lock);
    kv_reply_integer(&c->reply, (int64_t)counters->slow_count);
    pthread_mutex_unlock(&counters->lock);
    return KV_RUN_DONE;
}

static kv_run slowlog_reset(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_slow_reset(kv_server_stats(c->server));
    return kv_answer_ok(c, argv, argc);
}

static const kv_subcommand slowlog_rows[] = {
    {"get", -2, slowlog_get, "GET [<count>]", "The newest entries; all with -1."},
    {"len", 2, slowlog_len, "LEN", "How many entries there are."},
    {"reset", 2, slowlog_reset, "RESET", "Forgets all entries."},
};
const kv_subcommands kv_subcommands_slowlog = {"SLOWLOG", slowlog_rows, KV_COUNT_OF(slowlog_rows)};

kv_run kv_cmd_slowlog(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_slowlog, argv, argc);
}

/* ---- LATENCY ------------------------------------------------------------------------------------------- */

static void reply_histogram(kv_client *c, const kv_command *command, const kv_call_sum *sum) {
    kv_reply *r = &c->reply;
    size_t buckets = 0;
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++)
        buckets += sum->latency[b] > 0;
    kv_reply_bulk_text(r, command->name);
    kv_reply_map(r, 2);
    kv_reply_bulk_text(r, "calls");
    kv_reply_integer(r, (int64_t)sum->calls);
    kv_reply_bulk_text(r, "histogram_usec");
    kv_reply_map(r, buckets);
    uint64_t so_far = 0;
    for (size_t b = 0; b < KV_LATENCY_BUCKETS; b++) {
        so_far += sum->latency[b];
        if (sum->latency[b] > 0) {
            kv_reply_integer(r, INT64_C(1) << b);
            kv_reply_integer(r, (int64_t)so_far);
        }
    }
}

static bool histogram_is_wanted(const kv_command *command, const kv_bytes *argv, size_t argc) {
    for (size_t i = 2; i < argc; i++)
        if (kv_word_is(argv[i], command->name))
            return true;
    return argc <= 2;
}

static kv_run latency_histogram(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_counters *counters = kv_server_stats(c->server);
    size_t count = 0;
    bool has_calls[256] = {false}; /* another loop may count meanwhile */
    for (size_t i = 0; i < kv_command_count() && i < KV_COUNT_OF(has_calls); i++) {
        has_calls[i] = histogram_is_wanted(kv_command_at(i), argv, argc) && kv_counters_calls(counters, i).calls > 0;
        count += has_calls[i];
    }
    kv_reply_map(&c->reply, count);
    for (size_t i = 0; i < kv_command_count() && i < KV_COUNT_OF(has_calls); i++) {
        if (has_calls[i]) {
            kv_call_sum sum = kv_counters_calls(counters, i);
            reply_histogram(c, kv_command_at(i), &sum);
        }
    }
    return KV_RUN_DONE;
}

static kv_run latency_reset(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, 0); /* there are no events */
    return KV_RUN_DONE;
}

static kv_run latency_doctor(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    static const char text[] = "No events are kept. See LATENCY HISTOGRAM and SLOWLOG.\n";
    kv_reply_verbatim(&c->reply, "txt", text, sizeof text - 1);
    return KV_RUN_DONE;
}

static const kv_subcommand latency_rows[] = {
    {"doctor", 2, latency_doctor, "DOCTOR", "A line about latency."},
    {"histogram", -2, latency_histogram, "HISTOGRAM [COMMAND ...]", "How long commands took."},
    {"history", 3, kv_answer_empty, "HISTORY <event>", "Nothing: no events are kept."},
    {"latest", 2, kv_answer_empty, "LATEST", "Nothing: no events are kept."},
    {"reset", -2, latency_reset, "RESET [<event> ...]", "Always 0: no events are kept."},
};
const kv_subcommands kv_subcommands_latency = {"LATENCY", latency_rows, KV_COUNT_OF(latency_rows)};

kv_run kv_cmd_latency(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_latency, argv, argc);
}
