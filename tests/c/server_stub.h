/* server_stub.h - what commands ask of their server, without sockets and threads: for one test program, which
 * includes it once.
 *
 *     stub *s = stub_create(db);
 *     kv_client *c = stub_client(s);
 *     stub_say(c, "SET key value");              // an inline request; reply bytes gather in c->reply
 *     stub_expect(c, "+OK\r\n");
 *
 * Publishing reaches the clients of this stub at once.
 */
#ifndef SERVER_STUB_H
#define SERVER_STUB_H

#include "check.h"
#include "server/commands.h"
#include "server/glob.h"
#include "server/pubsub.h"
#include "server/resp.h"

enum { STUB_CLIENTS_MAX = 8, STUB_NAMES_MAX = 32, STUB_REPLY_MAX = 1 << 20 };

struct kv_subscriptions {
    struct stub_name {
        kv_pubsub_kind kind;
        size_t size;
        char bytes[64];
    } names[STUB_NAMES_MAX];
    size_t count;
};

struct kv_server {
    kv_config config;
    kv_counters counters;
    kv_db *db;
    kv_client *clients[STUB_CLIENTS_MAX];
    size_t client_count;
    uint64_t next_id;
    bool asked_to_stop;
    unsigned checkpoints_asked, reloads, kills;
    uint64_t killed;
};

typedef struct kv_server stub;

kv_config *kv_server_config(kv_server *server) {
    return &server->config;
}

kv_counters *kv_server_stats(kv_server *server) {
    return &server->counters;
}

kv_db *kv_server_db(kv_server *server) {
    return server->db;
}

bool kv_server_debug_enabled(const kv_server *server) {
    return server->config.debug_commands;
}

uint16_t kv_server_port(const kv_server *server) {
    return server->config.port;
}

void kv_server_ask_to_stop(kv_server *server) {
    server->asked_to_stop = true;
}

kv_status kv_server_checkpoint_in_background(kv_server *server, kv_error *err) {
    (void)err;
    return server->checkpoints_asked++ == 0 ? KV_OK : KV_BUSY;
}

bool kv_server_is_saving(kv_server *server) {
    return server->checkpoints_asked > 0;
}

kv_status kv_server_reload(kv_server *server, kv_client *caller, kv_error *err) {
    (void)caller;
    (void)err;
    server->reloads++;
    return KV_OK;
}

void kv_server_begin_wait(kv_client *c) {
    (void)c;
}

void kv_server_end_wait(kv_client *c) {
    (void)c;
}

void kv_server_visit_clients(kv_server *server, bool (*visit)(void *arg, kv_client *client), void *arg) {
    for (size_t i = 0; i < server->client_count; i++)
        if (!visit(arg, server->clients[i]))
            return;
}

size_t kv_server_client_count(kv_server *server) {
    return server->client_count;
}

void kv_server_kill(kv_server *server, uint64_t client_id) {
    server->kills++;
    server->killed = client_id;
}

/* ---- Channels ---------------------------------------------------------------------------------- */

static kv_bytes stub_name_of(const struct stub_name *name) {
    return (kv_bytes){name->bytes, name->size};
}

static size_t stub_find_name(const kv_client *c, kv_pubsub_kind kind, kv_bytes name) {
    const kv_subscriptions *s = c->subscriptions;
    size_t i = 0;
    while (s != NULL && i < s->count && (s->names[i].kind != kind || !kv_bytes_equal(stub_name_of(&s->names[i]), name)))
        i++;
    return s != NULL ? i : SIZE_MAX;
}

kv_status kv_pubsub_subscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name, kv_error *err) {
    (void)err;
    if (c->subscriptions == NULL) {
        c->subscriptions = calloc(1, sizeof *c->subscriptions);
        CHECK(c->subscriptions != NULL);
    }
    kv_subscriptions *s = c->subscriptions;
    if (stub_find_name(c, kind, name) < s->count)
        return KV_UNCHANGED;
    CHECK(s->count < STUB_NAMES_MAX && name.size <= sizeof s->names[0].bytes);
    s->names[s->count].kind = kind;
    s->names[s->count].size = name.size;
    memcpy(s->names[s->count++].bytes, name.data, name.size);
    return KV_OK;
}

kv_status kv_pubsub_unsubscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name) {
    size_t i = stub_find_name(c, kind, name);
    if (c->subscriptions == NULL || i >= c->subscriptions->count)
        return KV_NOTFOUND;
    kv_subscriptions *s = c->subscriptions;
    memmove(&s->names[i], &s->names[i + 1], (--s->count - i) * sizeof s->names[0]);
    return KV_OK;
}

size_t kv_pubsub_count(const kv_client *c) {
    return c->subscriptions != NULL ? c->subscriptions->count : 0;
}

size_t kv_pubsub_count_kind(const kv_client *c, kv_pubsub_kind kind) {
    size_t count = 0;
    for (size_t i = 0; i < kv_pubsub_count(c); i++)
        count += c->subscriptions->names[i].kind == kind;
    return count;
}

bool kv_pubsub_some(const kv_client *c, kv_pubsub_kind kind, kv_bytes *name) {
    for (size_t i = 0; i < kv_pubsub_count(c); i++) {
        if (c->subscriptions->names[i].kind == kind) {
            *name = stub_name_of(&c->subscriptions->names[i]);
            return true;
        }
    }
    return false;
}

void kv_pubsub_leave(kv_client *c) {
    free(c->subscriptions);
    c->subscriptions = NULL;
}

/* Channels of several clients are told several times: the tests have one subscriber a channel. */
void kv_pubsub_visit_channels(kv_server *server, bool (*visit)(void *arg, kv_bytes channel), void *arg) {
    for (size_t i = 0; i < server->client_count; i++) {
        kv_client *c = server->clients[i];
        for (size_t k = 0; k < kv_pubsub_count(c); k++)
            if (c->subscriptions->names[k].kind == KV_PUBSUB_CHANNEL &&
                !visit(arg, stub_name_of(&c->subscriptions->names[k])))
                return;
    }
}

size_t kv_pubsub_subscribers(kv_server *server, kv_bytes channel) {
    size_t count = 0;
    for (size_t i = 0; i < server->client_count; i++)
        count += stub_find_name(server->clients[i], KV_PUBSUB_CHANNEL, channel) < kv_pubsub_count(server->clients[i]);
    return count;
}

size_t kv_pubsub_patterns(kv_server *server) {
    size_t count = 0;
    for (size_t i = 0; i < server->client_count; i++)
        count += kv_pubsub_count_kind(server->clients[i], KV_PUBSUB_PATTERN);
    return count;
}

size_t kv_server_publish(kv_server *server, kv_client *from, kv_bytes channel, kv_bytes message) {
    (void)from;
    size_t got = 0;
    for (size_t i = 0; i < server->client_count; i++) {
        kv_client *c = server->clients[i];
        for (size_t k = 0; k < kv_pubsub_count(c); k++) {
            const struct stub_name *name = &c->subscriptions->names[k];
            bool is_pattern = name->kind == KV_PUBSUB_PATTERN;
            if (is_pattern ? !kv_glob_match(stub_name_of(name), channel, false)
                           : !kv_bytes_equal(stub_name_of(name), channel))
                continue;
            got++;
            kv_reply_push(&c->reply, is_pattern ? 4 : 3);
            kv_reply_bulk_text(&c->reply, is_pattern ? "pmessage" : "message");
            if (is_pattern)
                kv_reply_bulk(&c->reply, name->bytes, name->size);
            kv_reply_bulk(&c->reply, channel.data, channel.size);
            kv_reply_bulk(&c->reply, message.data, message.size);
        }
    }
    return got;
}

/* ---- Life -------------------------------------------------------------------------------------- */

static inline stub *stub_create(kv_db *db) {
    stub *s = calloc(1, sizeof *s);
    kv_error err;
    CHECK(s != NULL);
    kv_config config = kv_config_default();
    config.debug_commands = true;
    CHECK_OK(kv_config_copy(&config, &s->config, &err), &err);
    s->db = db;
    CHECK_OK(kv_counters_init(&s->counters, kv_command_count(), STUB_CLIENTS_MAX, &err), &err);
    return s;
}

/* A client with this handle (borrowed). */
static inline kv_client *stub_client(stub *s, kv_db *db) {
    kv_client *c = calloc(1, sizeof *c);
    CHECK(c != NULL && s->client_count < STUB_CLIENTS_MAX);
    kv_client_init(c, s, db);
    c->id = ++s->next_id;
    c->slice = (unsigned)s->client_count;
    snprintf(c->address, sizeof c->address, "127.0.0.1:%u", 1000 + (unsigned)c->id);
    snprintf(c->local_address, sizeof c->local_address, "127.0.0.1:6379");
    s->clients[s->client_count++] = c;
    return c;
}

static inline void stub_destroy(stub *s) {
    for (size_t i = 0; i < s->client_count; i++) {
        kv_client_fini(s->clients[i]);
        free(s->clients[i]);
    }
    kv_counters_fini(&s->counters);
    kv_config_free(&s->config);
    free(s);
}

/* ---- Talking ----------------------------------------------------------------------------------- */

/* Runs the requests in these bytes; how many did not want to run yet. */
static inline unsigned stub_feed(kv_client *c, const void *bytes, size_t size) {
    kv_resp_parser parser;
    kv_resp_limits limits = {.args_max = 1 << 20, .bulk_max = KV_VALUE_MAX, .inline_max = 65536};
    uint8_t *copy = malloc(size + 1), *p = copy;
    unsigned later = 0;
    CHECK(copy != NULL);
    memcpy(copy, bytes, size);
    kv_resp_init(&parser);
    while (size > 0) {
        const kv_bytes *argv;
        const char *error;
        size_t argc, used, wanted;
        kv_resp_result result = kv_resp_parse(&parser, &limits, p, size, &argv, &argc, &used, &wanted, &error);
        if (result != KV_RESP_REQUEST)
            FAIL("the request is not whole, or bad: %.*s", (int)size, (const char *)p);
        if (argc > 0)
            later += kv_command_run(c, argv, argc) == KV_RUN_LATER;
        p += used;
        size -= used;
    }
    kv_resp_fini(&parser);
    free(copy);
    return later;
}

static inline void stub_say(kv_client *c, const char *line) {
    char request[8192];
    int size = snprintf(request, sizeof request, "%s\r\n", line);
    CHECK(size > 0 && (size_t)size < sizeof request);
    if (stub_feed(c, request, (size_t)size) > 0)
        FAIL("%s: wanted to run later", line);
}

/* Takes all reply bytes; a NUL behind them.  Borrowed until the next call. */
static inline const char *stub_take(kv_client *c, size_t *size) {
    static char text[STUB_REPLY_MAX + 1];
    struct iovec pieces[8];
    size_t filled = 0, count;
    CHECK(!c->reply.broken);
    while ((count = kv_reply_pieces(&c->reply, c->reply.end, pieces, 8)) > 0) {
        size_t sent = 0;
        for (size_t i = 0; i < count; i++) {
            CHECK(filled + pieces[i].iov_len <= STUB_REPLY_MAX);
            memcpy(text + filled, pieces[i].iov_base, pieces[i].iov_len);
            filled += pieces[i].iov_len;
            sent += pieces[i].iov_len;
        }
        kv_reply_sent(&c->reply, sent);
    }
    text[filled] = '\0';
    if (size != NULL)
        *size = filled;
    return text;
}

/* In `wanted`, "\n" stands for "\r\n": replies are written as they look. */
static inline void stub_check_bytes(kv_client *c, const char *request, const char *wanted, size_t wanted_size) {
    char *whole = malloc(wanted_size * 2 + 1), *out = whole;
    CHECK(whole != NULL);
    for (size_t i = 0; i < wanted_size; i++) {
        if (wanted[i] == '\n' && (i == 0 || wanted[i - 1] != '\r'))
            *out++ = '\r';
        *out++ = wanted[i];
    }
    *out = '\0';
    size_t size;
    const char *got = stub_take(c, &size);
    if (size != (size_t)(out - whole) || memcmp(got, whole, size) != 0)
        FAIL("%s\n#   got    %s\n#   wanted %s", request, got, whole);
    free(whole);
}

static inline void stub_check_reply(kv_client *c, const char *request, const char *wanted) {
    stub_check_bytes(c, request, wanted, strlen(wanted));
}

static inline void stub_ask(kv_client *c, const char *request, const char *wanted) {
    stub_say(c, request);
    stub_check_reply(c, request, wanted);
}

#endif
