/* fuzz_command.c - commands get whatever the parser finds in any bytes.
 *
 * Two clients without sockets.  The input's first byte chooses protocol, password, debug commands and the store: in
 * memory, in little memory, or with a log; whether the checksums of RESTORE are made to fit; and whether a store
 * with a log is opened again in the end, perhaps after its disk has failed (how, says the second byte, too).  The
 * rest are requests; an empty one gives the word to the other client, a minute later.
 *
 * Each request gets one reply, and a well-formed one; a request that is put off has replied nothing; at the end the
 * store is consistent, memory is in proportion, and a store that is opened again holds the same.  Then it is
 * emptied.
 */
#include <errno.h>

#include "base/bytes.h"
#include "fuzz.h"
#include "model.h"
#include "server_stub.h"
#include "world.h"

enum { BULK_MAX = 65536, ARGS_MAX = 1000, MEMORY_MAX = 64 << 20, DEPTH_MAX = 16, LOG_MAX = 1 << 18 };
/* In the first byte; FAILS and AGAIN are two of the four ways to end. */
enum { RESP3 = 1, PASSWORD = 2, DEBUGGING = 4, STORE_SHIFT = 3, SUMS = 32, FAILS = 1 << 6, AGAIN = 3 << 6, ENDS = 3 << 6 };

#define NOW_MS UINT64_C(1700000000000)

/* ---- What a reply is ------------------------------------------------------------------------------------ */

typedef struct text {
    const char *p, *end;
    bool resp2, resp3; /* allowed */
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
        if (!is_integer(line, size, &n) || n < -1 || (n == -1 && (!t->resp2 || type == '=')))
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
        if (!is_integer(line, size, &n) || n < -1 || (n == -1 && (!t->resp2 || type != '*')))
            return false;
        for (n *= type == '%' ? 2 : 1; n > 0; n--)
            if (!take_value(t, depth + 1))
                return false;
        return true;
    }
    return false;
}

/* Takes all reply bytes of the client; how many values they are.  `mixed`: in the one protocol or the other. */
static unsigned take_values(kv_client *c, bool mixed) {
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
    bool resp3 = c->reply.protocol == 3;
    for (text t = {bytes, bytes + size, mixed || !resp3, mixed || resp3}; t.p < t.end; values++)
        if (!take_value(&t, 0)) {
            fprintf(stderr, "not a reply, after %u others: %.*s\n", values, (int)(t.end - t.p), t.p);
            abort();
        }
    free(bytes);
    return values;
}

/* ---- Requests --------------------------------------------------------------------------------------------- */

typedef struct session {
    world *w;
    kv_db *db; /* the clients' */
    stub *server;
    bool sums, fails;
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

/* As a loop does now and then. */
static void settle(session *s) {
    kv_ticket ticket;
    for (kv_pending_ticket(s->db, &ticket); ticket.group != NULL; kv_pending_ticket(s->db, &ticket)) {
        kv_status status = kv_ticket_wait(s->w->db, &ticket, &s->w->err);
        DEMAND(status == KV_OK || s->fails);
    }
    kv_settle(s->db);
}

/* The CRC-64 at the end of what RESTORE gets. */
static void sum_payload(uint8_t *p, size_t size) {
    uint64_t crc = 0;
    if (size < 8)
        return;
    for (size_t i = 0; i < size - 8; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? UINT64_C(0x95ac9329ac4bc9b5) : 0);
    }
    kv_store64(p + size - 8, crc);
}

static void run_request(session *s, kv_client *c, const kv_bytes *argv, size_t argc) {
    if (must_be_left_out(s, argv, argc))
        return;
    bool silent = is_silent(c);
    atomic_store(&s->server->config.bulk_max, BULK_MAX); /* whatever CONFIG SET has made of it */
    for (unsigned tries = 0; kv_command_run(c, argv, argc) == KV_RUN_LATER; tries++) {
        DEMAND(tries == 0 && c->reply.start == c->reply.end);
        settle(s);
    }
    check_count(argv, take_values(c, kv_word_is(argv[0], "exec")), silent || is_silent(c));
    for (size_t i = 0; i < s->server->client_count; i++) {
        kv_client *other = s->server->clients[i];
        if (other->reply.end > other->reply.start) /* a message */
            DEMAND(kv_pubsub_count(other) > 0 && take_values(other, false) > 0);
    }
}

static void run_requests(session *s, uint8_t *bytes, size_t size) {
    static const kv_resp_limits limits = {.args_max = ARGS_MAX, .bulk_max = BULK_MAX, .inline_max = 65536};
    kv_resp_parser parser;
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted, turn = 0;
    kv_client *c = s->server->clients[0];
    kv_resp_init(&parser);
    while (!c->close_after_reply && !c->close_now &&
           kv_resp_parse(&parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error) == KV_RESP_REQUEST) {
        if (s->sums && argc > 3 && kv_word_is(argv[0], "restore"))
            sum_payload(bytes + ((const uint8_t *)argv[3].data - bytes), argv[3].size);
        if (argc > 0) {
            run_request(s, c, argv, argc);
        } else {
            settle(s);
            c = s->server->clients[++turn % s->server->client_count];
            world_set_clock(s->w, NOW_MS + turn * 60000);
        }
        bytes += used;
        size -= used;
    }
    kv_resp_fini(&parser);
}

/* ---- Stores ----------------------------------------------------------------------------------------------- */

typedef enum kind { IN_MEMORY, FULL_SOON, EVICTING, WITH_LOG, KINDS } kind;

/* They are for many inputs: opening takes longer than most of them. */
static session places[KINDS];

static void open_place(session *p, kind k) {
    p->w = world_create();
    p->w->options.max_memory = k == FULL_SOON || k == EVICTING ? 4096 : 0;
    p->w->options.when_full = k == EVICTING ? KV_FULL_EVICT : KV_FULL_REFUSE;
    if (k == WITH_LOG)
        world_open(p->w);
    else
        CHECK_OK(kv_open(NULL, &p->w->options, &p->w->db, &p->w->err), &p->w->err);
    CHECK_OK(kv_dup(p->w->db, true, &p->db, &p->w->err), &p->w->err);
}

static void close_place(session *p) {
    CHECK_OK(kv_close(p->db, &p->w->err), &p->w->err);
    kv_destroy(p->db);
    world_destroy(p->w);
    p->w = NULL;
}

static void close_places(void) {
    for (kind k = 0; k < KINDS; k++)
        if (places[k].w != NULL)
            close_place(&places[k]);
}

/* Some write, or a sync, goes wrong: once or from then on. */
static void break_disk(session *p, uint8_t how) {
    fault_os_fail(p->w->faults, how & 1 ? FAULT_SYNC : FAULT_WRITE, 1 + (how >> 3 & 7), how & 3 ? EIO : ENOSPC,
                  how & 4 ? FAULT_FOREVER : 0);
}

/* What was acknowledged is in the log, and nothing else, but for the group that was being written when the store
 * failed. */
static void open_again(session *p, bool may_differ) {
    settle(p);
    uint64_t before = store_digest(p->w->db);
    (void)kv_close(p->db, &p->w->err);
    kv_destroy(p->db);
    kv_status status = world_try_close(p->w);
    DEMAND(status == KV_OK || p->fails);
    fault_os_heal(p->w->faults);
    world_open(p->w);
    DEMAND(store_digest(p->w->db) == before || may_differ);
    world_destroy(p->w);
    p->w = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool is_begun;
    kv_error err;
    kv_stats stats;
    if (size < 2 || size > 16384)
        return 0;
    if (!is_begun)
        is_begun = atexit(close_places) == 0; /* before leaks are looked for */
    kind k = data[0] >> STORE_SHIFT & 3;
    session *s = &places[k];
    s->names = 0;
    s->fails = k == WITH_LOG && (data[0] & ENDS) == FAILS;
    if (s->fails && s->w != NULL)
        close_place(s); /* the same call is to fail each time */
    if (s->w == NULL)
        open_place(s, k);
    world_set_clock(s->w, NOW_MS);
    s->server = stub_create(s->w->db);
    if (s->fails)
        break_disk(s, data[1]);
    s->sums = (data[0] & SUMS) != 0;
    s->server->config.debug_commands = (data[0] & DEBUGGING) != 0;
    if (data[0] & PASSWORD)
        DEMAND(kv_config_row_set(&s->server->config, kv_text("requirepass"), kv_text("secret"), false, &err) == KV_OK);
    for (unsigned i = 0; i < 2; i++)
        if (stub_client(s->server, s->db)->id == 1 && (data[0] & RESP3))
            s->server->clients[i]->reply.protocol = 3;

    uint8_t *bytes = fuzz_copy(data + 1, size - 1);
    run_requests(s, bytes, size - 1);
    free(bytes);

    for (size_t i = 0; i < s->server->client_count; i++) {
        kv_reply_trim(&s->server->clients[i]->reply);
        DEMAND(s->server->clients[i]->reply.memory_bytes == 0);
    }
    DEMAND(kv_get_stats(s->w->db, 0, &stats, &err) == KV_OK && stats.memory_charged <= MEMORY_MAX);
    CHECK_OK(kv_verify(s->w->db, &err), &err);
    stub_destroy(s->server);
    if (s->fails || (k == WITH_LOG && ((data[0] & ENDS) == AGAIN || stats.log_bytes > LOG_MAX))) {
        open_again(s, s->fails && (data[1] & 3) != 0);
        return 0;
    }
    settle(s);
    CHECK_OK(kv_clear(s->w->db, 0, &err), &err);
    kv_settle(s->db);
    return 0;
}

/* Mostly changes one request, or puts it elsewhere once more. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed) {
    size_t lines = 0, from = 1, to, wanted;
    for (size_t i = 1; i < size; i++)
        lines += data[i] == '\n';
    if (seed % 4 == 0 || lines == 0 || size == size_max)
        return LLVMFuzzerMutate(data, size, size_max);
    for (wanted = seed / 4 % lines; wanted > 0; from++)
        wanted -= data[from] == '\n';
    for (to = from; data[to] != '\n'; to++)
        ;
    size_t rest = size - to;
    uint8_t *behind = fuzz_copy(data + to, rest);
    if (seed % 4 == 1) { /* once more, at the end */
        size_t more = to + 1 - from < size_max - size ? to + 1 - from : size_max - size;
        memcpy(data + size, data + from, more);
        size += more;
    } else {
        to = from + LLVMFuzzerMutate(data + from, to - from, size_max - from - rest);
        memcpy(data + to, behind, rest);
        size = to + rest;
    }
    free(behind);
    return size;
}
