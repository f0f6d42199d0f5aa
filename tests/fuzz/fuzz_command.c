/* fuzz_command.c - commands get whatever the parser finds in any bytes.
 *
 * One client without a socket on a store in memory, which is emptied for each input.  The input's first byte chooses protocol, password and debug commands; the rest are
 * requests.  Each request gets one reply, and a well-formed one; a request that is put off has replied nothing; at the end the
 * store is consistent, and memory is in proportion.
 */
#include <unistd.h>

#include "fuzz.h"
#include "server_stub.h"

enum { BULK_MAX = 4096, ARGS_MAX = 1000, MEMORY_MAX = 64 << 20, DEPTH_MAX = 16 };

/* ---- What a reply is ------------------------------------------------------------------------------------ */

typedef struct text {
    const char *p, *end;
    bool resp3; /* allowed */
} text;

/* The line at hand, without its end; NULL: it has none, or a CR or LF inside. */
static const char *take_line(text *t, size_t *size) {
    const char *line = t->p, *end = memchr(line, '\r', (size_t)(t->end - line));
    if (end == NULL || t->end - end < 2 || end[1] != '\n' || memchr(line, '\n', (size_t)(end - line)) != NULL)
        return NULL;
    *size = (size_t)(end - line);
    t->p = end + 2;
    return line;
}

/* An integer as Redis writes it. */
static bool is_integer(const char *line, size_t size, long long *value) {
    char copy[32], back[32];
    if (size == 0 || size >= sizeof copy)
        return false;
    memcpy(copy, line, size);
    copy[size] = '\0';
    *value = strtoll(copy, NULL, 10);
    snprintf(back, sizeof back, "%lld", *value);
    return strcmp(copy, back) == 0;
}

static bool is_double(const char *line, size_t size) {
    char copy[64], *end;
    if (size == 0 || size >= sizeof copy)
        return false;
    memcpy(copy, line, size);
    copy[size] = '\0';
    strtod(copy, &end);
    return *end == '\0';
}

/* Takes one value, with what is in it. */
static bool take_value(text *t, unsigned depth) {
    size_t size;
    long long n = 0;
    const char *line = t->p < t->end && depth < DEPTH_MAX ? take_line(t, &size) : NULL;
    if (line == NULL || size == 0)
        return false;
    char type = *line++;
    size--;
    if (!t->resp3 && strchr("+-:$*", type) == NULL)
        return false;
    switch (type) {
    case '+':
        return true;
    case '-':
        return size > 0 && *line >= 'A' && *line <= 'Z'; /* a code */
    case ':':
        return is_integer(line, size, &n);
    case '_':
        return size == 0;
    case '#':
        return size == 1 && (*line == 't' || *line == 'f');
    case ',':
        return is_double(line, size);
    case '$':
    case '=':
        if (!is_integer(line, size, &n) || n < -1 || (n == -1 && (t->resp3 || type == '=')))
            return false;
        if (n == -1)
            return true;
        if (t->end - t->p < n + 2 || t->p[n] != '\r' || t->p[n + 1] != '\n' || (type == '=' && (n < 4 || t->p[3] != ':')))
            return false;
        t->p += n + 2;
        return true;
    case '*':
    case '~':
    case '>':
    case '%':
        if (!is_integer(line, size, &n) || n < -1 || (n == -1 && (t->resp3 || type != '*')))
            return false;
        for (n *= type == '%' ? 2 : 1; n > 0; n--)
            if (!take_value(t, depth + 1))
                return false;
        return true;
    }
    return false;
}

/* Takes all reply bytes of the client; how many values they are. */
static unsigned take_values(kv_client *c, bool resp3) {
    size_t size = (size_t)(c->reply.end - c->reply.start), filled = 0;
    char *bytes = (char *)fuzz_copy(NULL, 0);
    bytes = realloc(bytes, size + 1);
    DEMAND(bytes != NULL && !c->reply.broken && c->reply.memory_bytes <= MEMORY_MAX);
    while (c->reply.start < c->reply.end) {
        struct iovec pieces[4];
        size_t count = kv_reply_pieces(&c->reply, c->reply.end, pieces, 4), sent = 0;
        DEMAND(count > 0);
        for (size_t i = 0; i < count; i++) {
            memcpy(bytes + filled + sent, pieces[i].iov_base, pieces[i].iov_len);
            sent += pieces[i].iov_len;
        }
        filled += sent;
        kv_reply_sent(&c->reply, sent);
    }
    DEMAND(filled == size);
    unsigned values = 0;
    for (text t = {bytes, bytes + size, resp3}; t.p < t.end; values++)
        if (!take_value(&t, 0)) {
            fprintf(stderr, "not a reply, after %u others: %.*s\n", values, (int)(t.end - t.p), t.p);
            abort();
        }
    free(bytes);
    return values;
}

/* ---- Requests --------------------------------------------------------------------------------------------- */

typedef struct session {
    stub *server;
    kv_client *client;
    size_t names; /* that were subscribed to, at the most */
} session;

static bool is_one_of(kv_bytes word, const char *const *words) {
    for (; *words != NULL; words++)
        if (kv_word_is(word, *words))
            return true;
    return false;
}

/* What would sleep, and what is too much for the stub. */
static bool must_be_left_out(session *s, const kv_bytes *argv, size_t argc) {
    static const char *const subscribing[] = {"subscribe", "psubscribe", "ssubscribe", NULL};
    if (kv_word_is(argv[0], "debug"))
        return argc > 1 && kv_word_is(argv[1], "sleep");
    if (!is_one_of(argv[0], subscribing))
        return false;
    s->names += argc;
    for (size_t i = 1; i < argc; i++)
        if (argv[i].size > 64)
            return true;
    return s->names > STUB_NAMES_MAX;
}

/* How many values may come for the request that was just run?  (Channels say as many as they are.) */
static void check_count(const kv_bytes *argv, unsigned values, bool silent) {
    static const char *const telling[] = {"subscribe",   "unsubscribe",  "psubscribe", "punsubscribe",
                                          "ssubscribe",  "sunsubscribe", "publish",    "spublish",
                                          "exec",        NULL};
    if (is_one_of(argv[0], telling))
        DEMAND(values >= 1 || silent);
    else if (silent || kv_word_is(argv[0], "shutdown"))
        DEMAND(values <= 1);
    else
        DEMAND(values == 1);
}

static bool is_silent(const kv_client *c) {
    return c->reply_off || c->reply_skip_next;
}

static void run_request(session *s, const kv_bytes *argv, size_t argc) {
    kv_client *c = s->client;
    if (must_be_left_out(s, argv, argc))
        return;
    bool silent = is_silent(c), resp3 = c->reply.protocol == 3;
    atomic_store(&s->server->config.bulk_max, BULK_MAX); /* whatever CONFIG SET has made of it */
    for (unsigned tries = 0; kv_command_run(c, argv, argc) == KV_RUN_LATER; tries++) {
        DEMAND(tries == 0 && c->reply.start == c->reply.end);
        kv_settle(c->db);
    }
    resp3 |= c->reply.protocol == 3;
    check_count(argv, take_values(c, resp3), silent || is_silent(c));
}

static void run_requests(session *s, uint8_t *bytes, size_t size) {
    static const kv_resp_limits limits = {.args_max = ARGS_MAX, .bulk_max = BULK_MAX, .inline_max = 65536};
    kv_resp_parser parser;
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted;
    kv_resp_init(&parser);
    while (!s->client->close_after_reply && !s->client->close_now &&
           kv_resp_parse(&parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error) == KV_RESP_REQUEST) {
        if (argc > 0)
            run_request(s, argv, argc);
        bytes += used;
        size -= used;
    }
    kv_resp_fini(&parser);
}

static kv_db *db, *deferred; /* one store for all inputs: opening takes longer than most of them */

static void close_store(void) {
    kv_error err;
    DEMAND(kv_close(deferred, &err) == KV_OK);
    kv_destroy(deferred);
    DEMAND(kv_close(db, &err) == KV_OK);
    kv_destroy(db);
}

static void open_store(void) {
    kv_error err;
    DEMAND(kv_open(NULL, NULL, &db, &err) == KV_OK);
    DEMAND(kv_dup(db, true, &deferred, &err) == KV_OK);
    atexit(close_store); /* before leaks are looked for */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kv_error err;
    kv_stats stats;
    if (size < 2 || size > 16384)
        return 0;
    if (db == NULL)
        open_store();
    stub *server = stub_create(db);
    server->config.debug_commands = (data[0] & 4) != 0;
    if (data[0] & 2)
        DEMAND(kv_config_row_set(&server->config, kv_text("requirepass"), kv_text("secret"), false, &err) == KV_OK);
    session s = {.server = server, .client = stub_client(server, deferred)};
    if (data[0] & 1)
        s.client->reply.protocol = 3;

    uint8_t *bytes = fuzz_copy(data + 1, size - 1);
    run_requests(&s, bytes, size - 1);
    free(bytes);

    kv_reply_trim(&s.client->reply);
    DEMAND(s.client->reply.memory_bytes == 0);
    DEMAND(kv_get_stats(db, 0, &stats, &err) == KV_OK && stats.memory_charged <= MEMORY_MAX);
    if (kv_verify(db, &err) != KV_OK) {
        fprintf(stderr, "kv_verify: %s\n", err.message);
        abort();
    }
    stub_destroy(server);
    DEMAND(kv_clear(db, 0, &err) == KV_OK);
    kv_settle(deferred);
    return 0;
}
