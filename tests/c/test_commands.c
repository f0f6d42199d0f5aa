/* test_commands.c - what commands answer: without sockets, over a store in memory and over one with a log, through
 * an ordinary and through a deferred handle.
 */
/* tsan */
#include "check.h"
#include "model.h"
#include "redis_replies.h"
#include "server_stub.h"
#include "world.h"

#include <errno.h>

#include "base/mem.h"

#define NOW_MS UINT64_C(1700000000000)

/* ---- A store and a client ---------------------------------------------------------------------------- */

typedef enum kind {
    IN_MEMORY,          /* an ordinary handle on a store without a log */
    IN_MEMORY_DEFERRED, /* a deferred one on the same */
    WITH_LOG,
    WITH_LOG_DEFERRED,
    KINDS,
} kind;

typedef struct setup {
    world *w;
    kv_db *db;     /* what the client uses */
    kv_db *owned;  /* the deferred one; NULL: none */
    stub *server;
    kv_client *c;
    kv_error err;
} setup;

static setup make_with(kind k, const kv_options *changed) {
    setup s = {.w = world_create()};
    world_set_clock(s.w, NOW_MS);
    if (changed != NULL) {
        s.w->options.max_memory = changed->max_memory;
        s.w->options.when_full = changed->when_full;
    }
    if (k == IN_MEMORY || k == IN_MEMORY_DEFERRED)
        CHECK_OK(kv_open(NULL, &s.w->options, &s.w->db, &s.err), &s.err);
    else
        world_open(s.w);
    s.db = s.w->db;
    if (k == IN_MEMORY_DEFERRED || k == WITH_LOG_DEFERRED) {
        CHECK_OK(kv_dup(s.w->db, true, &s.owned, &s.err), &s.err);
        s.db = s.owned;
    }
    s.server = stub_create(s.w->db);
    s.c = stub_client(s.server, s.db);
    return s;
}

static setup make(kind k) {
    return make_with(k, NULL);
}

/* As a loop does now and then. */
static void settle(setup *s) {
    kv_ticket ticket;
    if (s->owned == NULL)
        return;
    kv_pending_ticket(s->owned, &ticket);
    CHECK(kv_ticket_wait(s->w->db, &ticket, &s->err) <= KV_OK);
    kv_pending_ticket(s->owned, &ticket);
    CHECK(ticket.group == NULL);
    kv_settle(s->owned);
}

static void end(setup *s) {
    settle(s);
    stub_destroy(s->server);
    if (s->owned != NULL) {
        (void)kv_close(s->owned, &s->err);
        kv_destroy(s->owned);
    }
    world_destroy(s->w);
}

#define ask stub_ask

/* ---- As Redis ---------------------------------------------------------------------------------------- */

static void run_table(const exchange *table, size_t count) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        for (size_t i = 0; i < count; i++) {
            if (strcmp(table[i].request, "config get appendonly") == 0 && k >= WITH_LOG)
                continue; /* recorded without a log */
            stub_say(s.c, table[i].request);
            if (table[i].reply != NULL)
                stub_check_bytes(s.c, table[i].request, table[i].reply, table[i].reply_size);
            else
                (void)stub_take(s.c, NULL);
            if (i % 7 == 0)
                settle(&s);
        }
        CHECK(s.c->multi == NULL);
        end(&s);
    }
}

#define TABLE(name)                                                                                                  \
    static void test_##name##_as_redis(void) {                                                                       \
        run_table(replies_of_##name, sizeof replies_of_##name / sizeof replies_of_##name[0]);                         \
    }

TABLE(strings)
TABLE(numbers)
TABLE(bits)
TABLE(keys)
TABLE(expiry)
TABLE(multi)
TABLE(connection)
TABLE(pubsub)
TABLE(server)

/* ---- The table of commands ----------------------------------------------------------------------------- */

static void test_every_command_is_found_in_any_case(void) {
    for (size_t i = 0; i < kv_command_count(); i++) {
        const kv_command *command = kv_command_at(i);
        char upper[32];
        size_t n = 0;
        for (; command->name[n] != '\0'; n++)
            upper[n] = (char)(command->name[n] >= 'a' && command->name[n] <= 'z' ? command->name[n] - 0x20 : command->name[n]);
        CHECK(kv_command_find((kv_bytes){upper, n}) == command);
        CHECK(kv_command_find((kv_bytes){command->name, n}) == command);
        CHECK(kv_command_find((kv_bytes){command->name, n - 1}) != command);
        CHECK_EQ(kv_command_index(command), i);
        CHECK(command->function != NULL || command->step != NULL);
        CHECK(command->arity != 0 && command->group != NULL && command->summary != NULL);
        /* What writes must be a step, to run inside EXEC. */
        CHECK((command->flags & KV_CMD_WRITE) == 0 || command->step != NULL || strcmp(command->name, "move") == 0 ||
              strcmp(command->name, "swapdb") == 0);
    }
    CHECK(kv_command_find((kv_bytes){"", 0}) == NULL);
    CHECK(kv_command_find(kv_text("averyveryverylongname")) == NULL);
    CHECK(kv_command_find((kv_bytes){"get\0", 4}) == NULL);
    CHECK(kv_command_find(kv_text("g\x05t")) == NULL); /* the bit that tells cases apart only counts for letters */
}

/* Each with no argument, and with many: an answer, and nothing else. */
static void test_every_command_answers_nonsense(void) {
    setup s = make(WITH_LOG_DEFERRED);
    for (size_t i = 0; i < kv_command_count(); i++) {
        const char *name = kv_command_at(i)->name;
        if (strcmp(name, "shutdown") == 0 || strcmp(name, "quit") == 0)
            continue;
        char line[256];
        for (int args = 0; args < 6; args++) {
            size_t n = (size_t)snprintf(line, sizeof line, "%s", name);
            for (int k = 0; k < args; k++)
                n += (size_t)snprintf(line + n, sizeof line - n, " %s", k % 2 == 0 ? "x" : "-7");
            char request[300];
            snprintf(request, sizeof request, "%s\r\n", line);
            unsigned later = stub_feed(s.c, request, strlen(request));
            size_t size;
            (void)stub_take(s.c, &size);
            if (size == 0 && later == 0)
                FAIL("%s: no reply", line);
            settle(&s);
        }
        kv_client_reset(s.c);
    }
    end(&s);
}

/* ---- Beyond Redis 7 ------------------------------------------------------------------------------------- */

static void test_ifeq(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        ask(s.c, "set a 1 ifeq 1", "$-1\n");
        ask(s.c, "set a 1", "+OK\n");
        ask(s.c, "set a 2 ifeq 9", "$-1\n");
        ask(s.c, "get a", "$1\n1\n");
        ask(s.c, "set a 2 ifeq 1", "+OK\n");
        ask(s.c, "set a 3 ifeq 2 get ex 100", "$1\n2\n");
        ask(s.c, "set a 4 ifeq 2 get", "$1\n3\n");
        ask(s.c, "ttl a", ":100\n");
        ask(s.c, "set a 5 ifeq 3 keepttl", "+OK\n");
        ask(s.c, "ttl a", ":100\n");
        ask(s.c, "set a 1 ifeq", "-ERR syntax error\n");
        ask(s.c, "set a 1 nx ifeq 1", "-ERR syntax error\n");
        ask(s.c, "set a 1 ifeq 1 xx", "-ERR syntax error\n");
        ask(s.c, "set a 1 ifeq 1 ifeq 2", "-ERR syntax error\n");
        ask(s.c, "delifeq a 4", ":0\n");
        ask(s.c, "delifeq a 5", ":1\n");
        ask(s.c, "delifeq a 5", ":0\n");
        ask(s.c, "exists a", ":0\n");
        end(&s);
    }
}

/* ---- Expiry ----------------------------------------------------------------------------------------------- */

static void test_keys_go_when_their_time_has_come(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        ask(s.c, "set a 1 px 1000", "+OK\n");
        ask(s.c, "set b 1 px 1001", "+OK\n");
        ask(s.c, "watch b", "+OK\n");
        settle(&s);
        world_set_clock(s.w, NOW_MS + 1000);
        ask(s.c, "mget a b", "*2\n$-1\n$1\n1\n");
        ask(s.c, "dbsize", ":1\n");
        ask(s.c, "setnx a 2", ":1\n");
        ask(s.c, "pttl b", ":1\n");
        world_set_clock(s.w, NOW_MS + 1001);
        ask(s.c, "multi", "+OK\n");
        ask(s.c, "ping", "+QUEUED\n");
        ask(s.c, "exec", "*-1\n"); /* what was watched has expired */
        ask(s.c, "append b x", ":1\n");
        end(&s);
    }
}

/* ---- Authentication --------------------------------------------------------------------------------------- */

static void test_auth(void) {
    setup s = make(IN_MEMORY);
    ask(s.c, "auth secret",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your "
        "configuration is correct?\n");
    ask(s.c, "config set requirepass secret", "+OK\n");
    ask(s.c, "ping", "+PONG\n"); /* who is in stays in */
    kv_client *c = stub_client(s.server, s.db);
    CHECK(!c->authenticated);
    ask(c, "ping", "-NOAUTH Authentication required.\n");
    ask(c, "get a", "-NOAUTH Authentication required.\n");
    ask(c, "get", "-ERR wrong number of arguments for 'get' command\n");
    ask(c, "multi", "-NOAUTH Authentication required.\n");
    CHECK(c->multi == NULL);
    ask(c, "auth wrong", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth secre", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth secrets", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth secretsecret", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth \"\"", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth \"secret\\x00\"", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth nobody secret", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    ask(c, "auth a b c", "-ERR syntax error\n");
    stub_say(c, "hello 3");
    CHECK_CONTAINS(stub_take(c, NULL), "-NOAUTH HELLO must be called with the client already authenticated");
    CHECK_EQ(c->reply.protocol, 2);
    ask(c, "hello 3 auth default wrong", "-WRONGPASS invalid username-password pair or user is disabled.\n");
    CHECK(!c->authenticated);
    stub_say(c, "hello 3 auth default secret setname me");
    CHECK_CONTAINS(stub_take(c, NULL), "%7\r\n$6\r\nserver\r\n");
    CHECK(c->authenticated && c->reply.protocol == 3);
    CHECK_STR(c->name, "me");
    ask(c, "get a", "_\n");
    ask(c, "reset", "+RESET\n");
    CHECK(!c->authenticated && c->reply.protocol == 2 && c->name == NULL);
    ask(c, "get a", "-NOAUTH Authentication required.\n");
    ask(c, "auth default secret", "+OK\n");
    ask(c, "get a", "$-1\n");
    ask(c, "config get requirepass", "*2\n$11\nrequirepass\n$6\nsecret\n");
    ask(c, "config set requirepass \"\"", "+OK\n");
    kv_client *d = stub_client(s.server, s.db);
    ask(d, "ping", "+PONG\n");
    ask(c, "quit", "+OK\n");
    CHECK(c->close_after_reply);
    end(&s);
}

/* ---- Large things ------------------------------------------------------------------------------------------ */

static void set_large(setup *s, const char *key, size_t size) {
    char head[128];
    int n = snprintf(head, sizeof head, "*3\r\n$3\r\nset\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(key), key, size);
    char *request = malloc((size_t)n + size + 2);
    memcpy(request, head, (size_t)n);
    for (size_t i = 0; i < size; i++)
        request[(size_t)n + i] = (char)('a' + i % 26);
    memcpy(request + n + size, "\r\n", 2);
    CHECK_EQ(stub_feed(s->c, request, (size_t)n + size + 2), 0);
    free(request);
    stub_check_reply(s->c, "set", "+OK\n");
}

static void check_large(setup *s, const char *head, size_t size, size_t from) {
    size_t got;
    const char *reply = stub_take(s->c, &got), *p = reply + strlen(head);
    CHECK_EQ(got, strlen(head) + size + 2);
    CHECK_MEM(reply, head, strlen(head));
    for (size_t i = 0; i < size; i++)
        if (p[i] != (char)('a' + (from + i) % 26))
            FAIL("byte %zu of %zu", i, size);
}

static void test_large_values_leave_pinned(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        const size_t sizes[] = {495, 496, 497, 8191, 8192, 8193, 100000};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            char head[64];
            set_large(&s, "big", sizes[i]);
            stub_say(s.c, "get big");
            stub_say(s.c, "del big"); /* the reply is not sent yet */
            CHECK(s.c->reply.memory_bytes >= sizes[i]);
            snprintf(head, sizeof head, "$%zu\r\n", sizes[i]);
            size_t size;
            const char *reply = stub_take(s.c, &size);
            CHECK_EQ(size, strlen(head) + sizes[i] + 2 + 4);
            CHECK_MEM(reply, head, strlen(head));
            CHECK_MEM(reply + size - 6, "\r\n:1\r\n", 6);
            settle(&s);
        }
        set_large(&s, "big", 100000);
        ask(s.c, "strlen big", ":100000\n");
        stub_say(s.c, "getrange big 26 9999");
        check_large(&s, "$9974\r\n", 9974, 0);
        ask(s.c, "multi", "+OK\n");
        ask(s.c, "get big", "+QUEUED\n");
        stub_say(s.c, "exec");
        check_large(&s, "*1\r\n$100000\r\n", 100000, 0);
        ask(s.c, "rename big big2", "+OK\n");
        ask(s.c, "copy big2 big", ":1\n");
        ask(s.c, "append big x", ":100001\n");
        stub_say(s.c, "getdel big2");
        check_large(&s, "$100000\r\n", 100000, 0);
        settle(&s);
        end(&s);
    }
}

/* MGET, in EXEC and without: whoever has the value in hand sees that the reply sends that one, and no copy. */
static void test_many_large_values_leave_pinned(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        set_large(&s, "big", KV_REPLY_PIN_MIN);
        set_large(&s, "less", KV_REPLY_PIN_MIN - 1);
        for (int exec = 0; exec < 2; exec++) {
            struct iovec pieces[16];
            kv_item item;
            kv_error err;
            unsigned pinned = 0;
            if (exec) {
                ask(s.c, "multi", "+OK\n");
                ask(s.c, "mget big less none big", "+QUEUED\n");
            }
            stub_say(s.c, exec ? "exec" : "mget big less none big");
            CHECK_OK(kv_get_item(s.c->db, LITERAL("big"), 0, &item, &err), &err);
            size_t count = kv_reply_pieces(&s.c->reply, UINT64_MAX, pieces, 16), size;
            for (size_t i = 0; i < count; i++)
                pinned += pieces[i].iov_base == item.value.data;
            CHECK_EQ(pinned, 2);
            kv_item_release(&item);
            stub_take(s.c, &size);
            CHECK_EQ(size, strlen(exec ? "*1\r\n" : "") + strlen("*4\r\n$8192\r\n\r\n$8191\r\n\r\n$-1\r\n$8192\r\n\r\n") +
                           3 * KV_REPLY_PIN_MIN - 1);
            settle(&s);
        }
        end(&s);
    }
}

static void test_limits_of_keys_and_values(void) {
    setup s = make(WITH_LOG_DEFERRED);
    static char request[KV_KEY_MAX + 200];
    for (size_t size = KV_KEY_MAX; size <= KV_KEY_MAX + 1; size++) {
        for (int command = 0; command < 2; command++) {
            int n = snprintf(request, 100, command == 0 ? "*2\r\n$3\r\nget\r\n$%zu\r\n" : "*2\r\n$4\r\nincr\r\n$%zu\r\n", size);
            memset(request + n, 'k', size);
            memcpy(request + (size_t)n + size, "\r\n", 2);
            CHECK_EQ(stub_feed(s.c, request, (size_t)n + size + 2), 0);
            stub_check_reply(s.c, "a long key",
                             size > KV_KEY_MAX  ? "-ERR key exceeds maximum allowed size (65535 bytes)\n"
                             : command == 0 ? "$-1\n"
                                            : ":1\n");
        }
    }
    ask(s.c, "config set proto-max-bulk-len 1mb", "+OK\n");
    ask(s.c, "setrange v 1048575 x", ":1048576\n");
    ask(s.c, "setrange v 1048576 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\n");
    ask(s.c, "append v x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\n");
    ask(s.c, "setbit v 8388608 1", "-ERR bit offset is not an integer or out of range\n");
    ask(s.c, "setbit v 8388607 1", ":0\n");
    ask(s.c, "lcs v v", "-ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len\n");
    ask(s.c, "strlen v", ":1048576\n");
    end(&s);
}

static void test_a_transaction_has_a_limit(void) {
    setup s = make(IN_MEMORY);
    ask(s.c, "config set client-query-buffer-limit 1mb", "+OK\n");
    ask(s.c, "multi", "+OK\n");
    char value[4096], request[5000];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    snprintf(request, sizeof request, "set k %s", value);
    unsigned queued = 0;
    for (;; queued++) {
        stub_say(s.c, request);
        if (strcmp(stub_take(s.c, NULL), "+QUEUED\r\n") != 0)
            break;
        CHECK(queued < 300);
    }
    CHECK(queued > 200);
    ask(s.c, "get k", "+QUEUED\n");
    ask(s.c, "exec", "-EXECABORT Transaction discarded because of previous errors.\n");
    ask(s.c, "exists k", ":0\n");
    end(&s);
}

/* ---- DUMP and RESTORE ----------------------------------------------------------------------------------------- */

static size_t restore_request(char *request, size_t room, const char *key, const char *payload, size_t size) {
    int n = snprintf(request, room, "*5\r\n$7\r\nrestore\r\n$%zu\r\n%s\r\n$1\r\n0\r\n$%zu\r\n", strlen(key), key, size);
    CHECK((size_t)n + size + 32 < room);
    memcpy(request + n, payload, size);
    memcpy(request + n + size, "\r\n$7\r\nreplace\r\n", 15);
    return (size_t)n + size + 15;
}

static void test_dump_and_restore(void) {
    setup s = make(WITH_LOG_DEFERRED);
    static char payload[70000], request[80000];
    const char *const texts[] = {"",      "0",     "-128",        "127",        "128",         "-32768",  "32768",
                                 "-2147483648", "2147483647", "2147483648", "-2147483649", "007", "abc", "12345678901"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] + 4; i++) {
        const size_t sizes[] = {63, 64, 16383, 16384};
        bool is_text = i < sizeof texts / sizeof texts[0];
        if (is_text) {
            char line[100];
            snprintf(line, sizeof line, "set k \"%s\"", texts[i]);
            ask(s.c, line, "+OK\n");
        } else {
            set_large(&s, "k", sizes[i - sizeof texts / sizeof texts[0]]);
        }
        size_t size;
        stub_say(s.c, "dump k");
        const char *reply = stub_take(s.c, &size);
        const char *start = strstr(reply, "\r\n") + 2;
        size -= (size_t)(start - reply) + 2;
        memcpy(payload, start, size);
        size_t n = restore_request(request, sizeof request, "copy", payload, size);
        CHECK_EQ(stub_feed(s.c, request, n), 0);
        stub_check_reply(s.c, "restore", "+OK\n");
        stub_say(s.c, "get k");
        char *wanted = strdup(stub_take(s.c, NULL));
        stub_say(s.c, "get copy");
        CHECK_STR(stub_take(s.c, NULL), wanted);
        free(wanted);
        for (size_t k = 0; k < size; k += 1 + size / 64) { /* damaged */
            payload[k] ^= 4;
            n = restore_request(request, sizeof request, "bad", payload, size);
            CHECK_EQ(stub_feed(s.c, request, n), 0);
            stub_check_reply(s.c, "a damaged payload", "-ERR DUMP payload version or checksum are wrong\n");
            payload[k] ^= 4;
        }
        for (size_t k = 0; k < size && k < 40; k++) { /* cut */
            n = restore_request(request, sizeof request, "bad", payload, k);
            CHECK_EQ(stub_feed(s.c, request, n), 0);
            stub_check_reply(s.c, "a short payload", "-ERR DUMP payload version or checksum are wrong\n");
        }
        settle(&s);
    }
    ask(s.c, "exists bad", ":0\n");
    end(&s);
}

/* ---- Transactions ------------------------------------------------------------------------------------------------ */

static void test_watch_sees_other_clients(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        kv_client *other = stub_client(s.server, s.db);
        const char *const changes[] = {"set a 2",       "append a x", "incr n",  "expire a 100", "flushall",
                                       "rename b a",    "del a",      "setbit a 1 1"};
        for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
            ask(s.c, "mset a 1 b 2 n 5", "+OK\n");
            ask(s.c, "watch a n", "+OK\n");
            stub_say(other, changes[i]);
            CHECK(*stub_take(other, NULL) != '-');
            ask(s.c, "multi", "+OK\n");
            ask(s.c, "set a mine", "+QUEUED\n");
            ask(s.c, "exec", "*-1\n");
            stub_say(s.c, "get a");
            CHECK(strstr(stub_take(s.c, NULL), "mine") == NULL);
            settle(&s);
        }
        ask(s.c, "mset a 1 b 2 n 5", "+OK\n");
        ask(s.c, "watch a n absent", "+OK\n");
        ask(other, "set b 7", "+OK\n");
        ask(other, "get a", "$1\n1\n");
        ask(s.c, "multi", "+OK\n");
        ask(s.c, "set a mine", "+QUEUED\n");
        ask(s.c, "exec", "*1\n+OK\n");
        ask(s.c, "watch absent", "+OK\n");
        ask(other, "set absent 1", "+OK\n");
        ask(s.c, "multi", "+OK\n");
        ask(s.c, "exec", "*-1\n");
        end(&s);
    }
}

static void test_exec_with_other_commands(void) {
    setup s = make(WITH_LOG_DEFERRED);
    kv_client *listener = stub_client(s.server, s.db);
    ask(listener, "subscribe ch", "*3\n$9\nsubscribe\n$2\nch\n:1\n");
    ask(s.c, "multi", "+OK\n");
    ask(s.c, "set a 1", "+QUEUED\n");
    ask(s.c, "publish ch hello", "+QUEUED\n");
    ask(s.c, "get a", "+QUEUED\n");
    ask(s.c, "echo 12345", "+QUEUED\n");
    ask(s.c, "incr a", "+QUEUED\n");
    stub_check_reply(listener, "before exec", "");
    ask(s.c, "exec", "*5\n+OK\n:1\n$1\n1\n$5\n12345\n:2\n");
    stub_check_reply(listener, "exec", "*3\n$7\nmessage\n$2\nch\n$5\nhello\n");
    ask(s.c, "multi", "+OK\n");
    ask(s.c, "hello 3", "+QUEUED\n");
    ask(s.c, "get none", "+QUEUED\n");
    stub_say(s.c, "exec");
    CHECK_CONTAINS(stub_take(s.c, NULL), "*2\r\n%7\r\n");
    CHECK_EQ(s.c->reply.protocol, 3);
    CHECK(!s.c->in_exec);
    end(&s);
}

static const char *behind_hello(setup *s, const char *first_line) {
    stub_say(s->c, "exec");
    const char *reply = stub_take(s->c, NULL);
    CHECK(strncmp(reply, first_line, strlen(first_line)) == 0);
    const char *behind = strstr(reply, "modules\r\n*0\r\n");
    CHECK(behind != NULL);
    return behind + strlen("modules\r\n*0\r\n");
}

static void test_exec_answers_in_the_protocol_of_each_moment(void) {
    setup s = make(WITH_LOG_DEFERRED);
    for (unsigned i = 0; i < 2; i++) {
        const char *const requests[] = {"multi", "config get nope", "get none", "hello 3", "get none", "config get nope"};
        for (unsigned k = 0; k < sizeof requests / sizeof *requests; k++)
            ask(s.c, requests[k], k == 0 ? "+OK\n" : "+QUEUED\n");
        CHECK_STR(behind_hello(&s, i == 0 ? "*5\r\n*0\r\n$-1\r\n%7\r\n" : "*5\r\n%0\r\n_\r\n%7\r\n"), "_\r\n%0\r\n");
    }
    ask(s.c, "watch a", "+OK\n");
    ask(s.c, "set a 1", "+OK\n");
    ask(s.c, "multi", "+OK\n");
    ask(s.c, "hello 2", "+QUEUED\n");
    ask(s.c, "exec", "_\n");
    CHECK_EQ(s.c->reply.protocol, 3);
    end(&s);
}

/* ---- Failures ---------------------------------------------------------------------------------------- */

static void test_no_memory_for_more(void) {
    kv_options options = {.max_memory = 100000, .when_full = KV_FULL_REFUSE};
    for (kind k = 0; k < KINDS; k++) {
        setup s = make_with(k, &options);
        unsigned kept = 0;
        for (;; kept++) {
            char line[64];
            snprintf(line, sizeof line, "set key:%u 0123456789012345678901234567890123456789", kept);
            stub_say(s.c, line);
            const char *reply = stub_take(s.c, NULL);
            if (*reply == '-') {
                CHECK_STR(reply, "-OOM command not allowed when used memory > 'maxmemory'.\r\n");
                break;
            }
            CHECK(kept < 5000);
            if (kept % 50 == 0)
                settle(&s);
        }
        CHECK(kept > 100);
        ask(s.c, "append big 0123456789012345678901234567890123456789012345678901234567890123456789",
            "-OOM command not allowed when used memory > 'maxmemory'.\n");
        ask(s.c, "multi", "+OK\n");
        ask(s.c, "set big 0123456789012345678901234567890123456789012345678901234567890123456789", "+QUEUED\n");
        ask(s.c, "exec", "-OOM command not allowed when used memory > 'maxmemory'.\n");
        ask(s.c, "exists big", ":0\n");
        ask(s.c, "del key:0 key:1 key:2", ":3\n");
        settle(&s);
        ask(s.c, "append big xyz", ":3\n");
        end(&s);
    }
}

/* Every request again and again, with the n-th request for memory failing: an error, or what it would have answered,
 * and afterwards everything works. */
static void test_memory_fails_anywhere(void) {
    const char *const requests[] = {
        "set a 1 ex 100 get", "append a xyz",    "mget a b c",        "mset a 1 b 2 c 3 d 4", "lcs a b idx",
        "keys *",             "scan 0",          "info everything",   "client list",          "client setname x",
        "incrbyfloat f 1.5",  "dump a",          "bitop not d a",     "rename a b",           "copy b a replace",
        "config get *",       "exists a b c d e", "watch a",          "getdel b",             "latency histogram",
        "msetnx x 1 y 2 z 3 q 4 r 5 s 6 t 7 u 8 v 9 w 10 aa 1 bb 2 cc 3 dd 4 ee 5 ff 6 gg 7 hh 8",
    };
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        for (uint64_t n = 0;; n++) {
            setup s = make(IN_MEMORY_DEFERRED);
            ask(s.c, "mset a 10 b 20 c 30", "+OK\n");
            (void)kv_mem_fail_at(n, false);
            char line[300];
            snprintf(line, sizeof line, "%s\r\n", requests[i]);
            /* The parser allocates, too: it is given the arguments. */
            kv_bytes argv[64];
            size_t argc = 0;
            for (char *p = strtok(line, " \r\n"); p != NULL; p = strtok(NULL, " \r\n"))
                argv[argc++] = kv_text(p);
            CHECK_EQ(kv_command_run(s.c, argv, argc), KV_RUN_DONE);
            uint64_t made = kv_mem_fail_at(UINT64_MAX, false);
            bool failed = made > n;
            if (!s.c->reply.broken) {
                size_t size;
                (void)stub_take(s.c, &size);
                CHECK(size > 0);
                ask(s.c, "set after 1", "+OK\n");
            }
            end(&s);
            if (!failed)
                break;
            CHECK(n < 300);
        }
    }
}

/* One request, of whose requests for memory the n-th fails, and with `on` every later one.  Whether it made so many. */
static bool run_without_memory(kv_client *c, const char *request, uint64_t n, bool on) {
    kv_resp_parser parser;
    kv_resp_limits limits = {.args_max = 1 << 20, .bulk_max = KV_VALUE_MAX, .inline_max = 65536};
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted;
    char text[8192];
    int size = snprintf(text, sizeof text, "%s\r\n", request);
    kv_resp_init(&parser);
    CHECK_EQ(kv_resp_parse(&parser, &limits, (uint8_t *)text, (size_t)size, &argv, &argc, &used, &wanted, &error),
             KV_RESP_REQUEST);
    (void)kv_mem_fail_at(n, on);
    if (argc > 0)
        CHECK_EQ(kv_command_run(c, argv, argc), KV_RUN_DONE);
    bool failed = kv_mem_fail_at(UINT64_MAX, false) > n;
    kv_resp_fini(&parser);
    return failed;
}

/* A setup on which the first `count` requests of a table have run.  `fresh`: the next comes from a new client, which
 * has no memory for replies yet. */
static setup make_after(kind k, const exchange *table, size_t count, bool fresh) {
    setup s = make(k);
    for (size_t i = 0; i < count; i++) {
        stub_say(s.c, table[i].request);
        (void)stub_take(s.c, NULL);
    }
    settle(&s);
    if (fresh)
        s.c = stub_client(s.server, s.db);
    return s;
}

/* Done, or not; and what was answered as ever has been done.  Returns how many requests for memory the request
 * makes. */
static uint64_t sweep_request(kind k, const exchange *table, size_t i, bool fresh) {
    setup s = make_after(k, table, i, fresh);
    uint64_t before = store_digest(s.w->db), n = 0;
    stub_say(s.c, table[i].request);
    bool is_error = *stub_take(s.c, NULL) == '-';
    settle(&s);
    uint64_t after = store_digest(s.w->db);
    end(&s);
    for (bool failed = true; failed; n++)
        for (int on = 0; on < 2 && failed; on++) {
            s = make_after(k, table, i, fresh);
            failed = run_without_memory(s.c, table[i].request, n, on);
            settle(&s);
            uint64_t found = store_digest(s.w->db);
            bool lost = s.c->reply.broken, refused = !lost && *stub_take(s.c, NULL) == '-' && !is_error;
            if (found != before && found != after)
                FAIL("%s: request %d for memory: half done", table[i].request, (int)n);
            if (refused && before != after && found == after)
                FAIL("%s: request %d for memory: refused, and done", table[i].request, (int)n);
            if (!refused && !lost && found != after)
                FAIL("%s: request %d for memory: answered, and not done", table[i].request, (int)n);
            end(&s);
        }
    return n - 1;
}

static void sweep_table(const exchange *table, size_t count) {
#ifdef __SANITIZE_THREAD__
    SKIP("there is one thread");
#endif
    for (kind k = IN_MEMORY_DEFERRED; k <= WITH_LOG_DEFERRED; k += WITH_LOG_DEFERRED - IN_MEMORY_DEFERRED) {
        uint64_t made = 0;
        for (size_t i = 0; i < 2 * count; i++)
            made += sweep_request(k, table, i / 2, i % 2);
        printf("# %zu requests, from two clients each: %d requests for memory fail once and from then on\n", count, (int)made);
    }
}

#define WITHOUT_MEMORY(name)                                                                                         \
    static void test_##name##_without_memory(void) {                                                                 \
        sweep_table(replies_of_##name, sizeof replies_of_##name / sizeof replies_of_##name[0]);                       \
    }

WITHOUT_MEMORY(strings)
WITHOUT_MEMORY(numbers)
WITHOUT_MEMORY(bits)
WITHOUT_MEMORY(keys)
WITHOUT_MEMORY(expiry)
WITHOUT_MEMORY(multi)
WITHOUT_MEMORY(connection)
WITHOUT_MEMORY(pubsub)
WITHOUT_MEMORY(server)

static void test_transactions_without_memory(void) {
    for (uint64_t n = 0;; n++) {
        setup s = make(IN_MEMORY_DEFERRED);
        ask(s.c, "mset a 10 b 20 c 30", "+OK\n");
        const kv_bytes requests[][4] = {
            {kv_text("watch"), kv_text("a"), kv_text("b")}, {kv_text("multi")},
            {kv_text("incr"), kv_text("a")},                {kv_text("echo"), kv_text("hello")},
            {kv_text("set"), kv_text("new"), kv_text("x")}, {kv_text("decr"), kv_text("b")},
            {kv_text("exec")},
        };
        const size_t counts[] = {3, 1, 2, 2, 3, 2, 1};
        (void)kv_mem_fail_at(n, false);
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
            CHECK_EQ(kv_command_run(s.c, requests[i], counts[i]), KV_RUN_DONE);
        bool failed = kv_mem_fail_at(UINT64_MAX, false) > n;
        /* All of it, or nothing. */
        kv_value a, b;
        CHECK_OK(kv_get(s.db, kv_text("a"), 0, &a, &s.err), &s.err);
        CHECK_OK(kv_get(s.db, kv_text("b"), 0, &b, &s.err), &s.err);
        bool done = memcmp(a.data, "11", 2) == 0;
        CHECK(done == (memcmp(b.data, "19", 2) == 0));
        CHECK(done == (kv_contains(s.db, kv_text("new"), 0, &s.err) == KV_OK));
        CHECK(failed || done);
        kv_value_release(&a);
        kv_value_release(&b);
        end(&s);
        if (!failed)
            break;
        CHECK(n < 300);
    }
}

static void test_a_store_that_failed(void) {
    setup s = make(WITH_LOG);
    /* The sync that fails may be the keeper's, of the next segment's file: that is no failure of the store. */
    bool failed = false;
    for (unsigned i = 0; i < 20 && !failed; i++) {
        ask(s.c, "set a 1", "+OK\n");
        memory_os_fail_sync(s.w->memory, 1, EIO);
        stub_say(s.c, "set a 2");
        failed = strstr(stub_take(s.c, NULL), "-MISCONF Errors writing to the AOF file: ") != NULL;
    }
    CHECK(failed);
    stub_say(s.c, "append a 2");
    CHECK_CONTAINS(stub_take(s.c, NULL), "-MISCONF Errors writing to the AOF file: ");
    ask(s.c, "get a", "$1\n1\n");
    stub_say(s.c, "info persistence");
    CHECK_CONTAINS(stub_take(s.c, NULL), "aof_last_write_status:err");
    stub_destroy(s.server);
    (void)world_try_close(s.w);
    world_destroy(s.w);
}

/* Each failure of the engine has a text that clients know what to do with. */
static void test_failures_as_text(void) {
    static const struct {
        kv_status status;
        const char *reply;
    } table[] = {{KV_ERR_MEMLIMIT, "-OOM command not allowed when used memory > 'maxmemory'.\n"},
                 {KV_ERR_NOMEM, "-OOM out of memory\n"},
                 {KV_ERR_FAILED, "-MISCONF Errors writing to the AOF file: it is so\n"},
                 {KV_ERR_IO, "-MISCONF Errors writing to the AOF file: it is so\n"},
                 {KV_ERR_NOSPACE, "-MISCONF No space, the write was undone: it is so\n"},
                 {KV_ERR_NOTINT, "-ERR value is not an integer or out of range\n"},
                 {KV_ERR_RANGE, "-ERR increment or decrement would overflow\n"},
                 {KV_ERR_LIMIT, "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\n"},
                 {KV_ERR_READONLY, "-READONLY You can't write against a read only store.\n"},
                 {KV_ERR_CORRUPT, "-ERR it is so\n"}};
    setup s = make(IN_MEMORY);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        (void)kv_fail(&s.err, table[i].status, "it is so");
        kv_reply_failure(&s.c->reply, &s.err);
        stub_check_reply(s.c, kv_status_name(table[i].status), table[i].reply);
    }
    end(&s);
}

/* ---- What is pending --------------------------------------------------------------------------------- */

static void test_some_wait_until_nothing_is_pending(void) {
    setup s = make(WITH_LOG_DEFERRED);
    const char *const requests[] = {"save\r\n", "debug reload\r\n", "debug loadaof\r\n"};
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        ask(s.c, "set a 1", "+OK\n");
        CHECK(kv_pending(s.owned) != NULL);
        CHECK_EQ(stub_feed(s.c, requests[i], strlen(requests[i])), 1);
        stub_check_reply(s.c, requests[i], "");
        settle(&s);
        CHECK_EQ(stub_feed(s.c, requests[i], strlen(requests[i])), 0);
        stub_check_reply(s.c, requests[i], "+OK\n");
    }
    CHECK_EQ(s.server->reloads, 2);
    ask(s.c, "set a 1", "+OK\n");
    ask(s.c, "client reply skip", ""); /* of the next request, however often it has to begin */
    CHECK_EQ(stub_feed(s.c, requests[0], strlen(requests[0])), 1);
    settle(&s);
    CHECK_EQ(stub_feed(s.c, requests[0], strlen(requests[0])), 0);
    stub_check_reply(s.c, requests[0], "");
    ask(s.c, "ping", "+PONG\n");
    ask(s.c, "waitaof 1 0 0", "*2\n:1\n:0\n");
    ask(s.c, "bgsave", "+Background saving started\n");
    ask(s.c, "bgsave", "-ERR Background save already in progress\n");
    end(&s);
    s = make(IN_MEMORY);
    ask(s.c, "save", "-ERR the store is in memory only\n");
    ask(s.c, "waitaof 1 0 0", "-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\n");
    ask(s.c, "waitaof 0 0 0", "*2\n:0\n:0\n");
    end(&s);
}

/* ---- Clients ----------------------------------------------------------------------------------------- */

static void test_client_list_and_kill(void) {
    setup s = make(IN_MEMORY);
    kv_client *other = stub_client(s.server, s.db);
    ask(other, "client setname bob", "+OK\n");
    ask(other, "client setinfo lib-name redis-py", "+OK\n");
    ask(other, "client setinfo lib-ver 5.0", "+OK\n");
    ask(other, "client setinfo lib-foo 5.0", "-ERR Unrecognized option 'lib-foo'\n");
    ask(other, "client setinfo lib-name \"a b\"",
        "-ERR lib-name cannot contain spaces, newlines or special characters.\n");
    ask(other, "subscribe ch", "*3\n$9\nsubscribe\n$2\nch\n:1\n");
    stub_say(s.c, "client list");
    const char *text = stub_take(s.c, NULL);
    CHECK_CONTAINS(text, "id=1 addr=127.0.0.1:1001 laddr=127.0.0.1:6379");
    CHECK_CONTAINS(text, "id=2 addr=127.0.0.1:1002");
    CHECK_CONTAINS(text, " name=bob ");
    CHECK_CONTAINS(text, " flags=P ");
    CHECK_CONTAINS(text, " sub=1 psub=0 ");
    CHECK_CONTAINS(text, " cmd=subscribe ");
    CHECK_CONTAINS(text, " lib-name=redis-py lib-ver=5.0 ");
    stub_say(s.c, "client list type pubsub");
    text = stub_take(s.c, NULL);
    CHECK(strstr(text, "id=2 ") != NULL && strstr(text, "id=1 ") == NULL);
    kv_client *third = stub_client(s.server, s.db);
    ask(third, "client no-evict on", "+OK\n");
    ask(third, "client no-touch on", "+OK\n");
    ask(third, "multi", "+OK\n");
    ask(third, "ping", "+QUEUED\n");
    third->close_after_reply = third->close_now = true;
    stub_say(s.c, "client list type normal");
    text = stub_take(s.c, NULL);
    CHECK(strstr(text, "id=1 ") != NULL && strstr(text, "id=2 ") == NULL);
    CHECK_CONTAINS(text, "id=3 ");
    CHECK_CONTAINS(text, " flags=xcAeT ");
    CHECK_CONTAINS(text, " multi=1 ");
    stub_say(s.c, "client list id 1 77");
    text = stub_take(s.c, NULL);
    CHECK(strstr(text, "id=1 ") != NULL && strstr(text, "id=2 ") == NULL);
    stub_say(s.c, "client info");
    CHECK_CONTAINS(stub_take(s.c, NULL), "id=1 ");
    ask(s.c, "client id", ":1\n");
    ask(s.c, "client kill type pubsub", ":1\n");
    CHECK_EQ(s.server->killed, 2);
    ask(s.c, "client kill 127.0.0.1:1002", "-ERR No such client\n"); /* its loop is about to close it */
    other->close_now = false;
    ask(s.c, "client kill 127.0.0.1:1002", "+OK\n");
    ask(s.c, "client kill id 1", ":0\n"); /* not oneself by default */
    CHECK(!s.c->close_after_reply);
    ask(s.c, "client kill id 1 skipme no", ":1\n");
    CHECK(s.c->close_after_reply);
    CHECK_EQ(s.server->kills, 2);
    end(&s);
}

static void test_client_reply(void) {
    setup s = make(IN_MEMORY);
    ask(s.c, "client reply skip", "");
    ask(s.c, "set a 1", "");
    ask(s.c, "get a", "$1\n1\n");
    ask(s.c, "client reply off", "");
    ask(s.c, "set a 2", "");
    ask(s.c, "nonsense", "");
    ask(s.c, "client reply skip", "");
    ask(s.c, "multi", "");
    ask(s.c, "incr a", "");
    ask(s.c, "ping", "");
    ask(s.c, "exec", "");
    /* What tells of channels is no reply. */
    ask(s.c, "subscribe ch", "*3\n$9\nsubscribe\n$2\nch\n:1\n");
    ask(s.c, "unsubscribe", "*3\n$11\nunsubscribe\n$2\nch\n:0\n");
    ask(s.c, "ping", "");
    ask(s.c, "client reply on", "+OK\n");
    ask(s.c, "get a", "$1\n3\n");
    end(&s);
}

/* ---- Counting ---------------------------------------------------------------------------------------- */

static void test_info_tells_what_happened(void) {
    for (kind k = 0; k < KINDS; k++) {
        setup s = make(k);
        ask(s.c, "set a 1", "+OK\n");
        ask(s.c, "get a", "$1\n1\n");
        ask(s.c, "get b", "$-1\n");
        ask(s.c, "mget a b", "*2\n$1\n1\n$-1\n");
        ask(s.c, "get", "-ERR wrong number of arguments for 'get' command\n");
        ask(s.c, "incr a", ":2\n");
        ask(s.c, "set a x", "+OK\n");
        ask(s.c, "incr a", "-ERR value is not an integer or out of range\n");
        ask(s.c, "nonsense", "-ERR unknown command 'nonsense', with args beginning with: \n");
        ask(s.c, "exec", "-ERR EXEC without MULTI\n");
        settle(&s);
        stub_say(s.c, "info everything");
        const char *text = stub_take(s.c, NULL);
        static const char *const wanted[] = {
            "# Server\r\nredis_version:7.2.4\r\n", "redis_mode:standalone\r\n", "tcp_port:6379\r\n", "uptime_in_seconds:0",
            "# Clients\r\nconnected_clients:1\r\n", "maxclients:10000\r\n", "# Memory\r\nused_memory:", "used_memory_human:",
            "maxmemory:0\r\n", "maxmemory_policy:noeviction\r\n", "# Persistence\r\nloading:0\r\n", "rdb_bgsave_in_progress:0\r\n", "rdb_last_save_time:",
            "aof_last_write_status:ok\r\n", "# Stats\r\n", "total_commands_processed:8\r\n", "instantaneous_ops_per_sec:",
            "keyspace_hits:2\r\n", "keyspace_misses:2\r\n", "expired_keys:0\r\n", "evicted_keys:0\r\n",
            "total_error_replies:4\r\n", "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n", "# CPU\r\nused_cpu_sys:",
            "# Modules\r\n", "# Commandstats\r\n", "cmdstat_get:calls=2,", "# Errorstats\r\nerrorstat_ERR:count=4\r\n",
            "# Latencystats\r\n", "latency_percentiles_usec_get:p50=", "# Cluster\r\ncluster_enabled:0\r\n",
            "# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n",
        };
        for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
            CHECK_CONTAINS(text, wanted[i]);
        CHECK_CONTAINS(text, k >= WITH_LOG ? "aof_enabled:1\r\n" : "aof_enabled:0\r\n");
        const char *incr = strstr(text, "cmdstat_incr:calls=2,");
        CHECK(incr != NULL);
        CHECK_CONTAINS(incr, "rejected_calls=0,failed_calls=1\r\n");
        const char *get = strstr(text, "cmdstat_get:calls=2,");
        CHECK_CONTAINS(get, "rejected_calls=1,failed_calls=0\r\n");
        stub_say(s.c, "info keyspace replication");
        text = stub_take(s.c, NULL);
        CHECK(strstr(text, "# Replication") != NULL && strstr(text, "# Keyspace") != NULL && strstr(text, "# CPU") == NULL);
        stub_say(s.c, "info");
        CHECK(strstr(stub_take(s.c, NULL), "# Commandstats") == NULL);
        ask(s.c, "config resetstat", "+OK\n");
        stub_say(s.c, "info stats");
        CHECK_CONTAINS(stub_take(s.c, NULL), "keyspace_hits:0\r\n");
        end(&s);
    }
}

/* What it had queued has failed, not EXEC; one that discards has. */
static void test_failures_of_what_exec_runs(void) {
    setup s = make(WITH_LOG_DEFERRED);
    ask(s.c, "set a x", "+OK\n");
    ask(s.c, "multi", "+OK\n");
    ask(s.c, "incr a", "+QUEUED\n");
    ask(s.c, "move a 7", "+QUEUED\n"); /* runs aside */
    ask(s.c, "exec", "*2\n-ERR value is not an integer or out of range\n-ERR DB index is out of range\n");
    stub_say(s.c, "info commandstats");
    const char *text = stub_take(s.c, NULL);
    CHECK_CONTAINS(strstr(text, "cmdstat_exec:calls=1,"), "rejected_calls=0,failed_calls=0\r\n");
    CHECK_CONTAINS(strstr(text, "cmdstat_incr:calls=1,"), "rejected_calls=0,failed_calls=1\r\n");
    ask(s.c, "multi", "+OK\n");
    ask(s.c, "incr", "-ERR wrong number of arguments for 'incr' command\n");
    ask(s.c, "exec", "-EXECABORT Transaction discarded because of previous errors.\n");
    stub_say(s.c, "info commandstats");
    CHECK_CONTAINS(strstr(stub_take(s.c, NULL), "cmdstat_exec:calls=2,"), "rejected_calls=0,failed_calls=1\r\n");
    end(&s);
}

static void test_slow_log(void) {
    setup s = make(IN_MEMORY);
    ask(s.c, "config set slowlog-log-slower-than 0 slowlog-max-len 3", "+OK\n");
    ask(s.c, "client setname me", "+OK\n");
    char request[1000], value[300];
    memset(value, 'v', sizeof value);
    value[200] = '\0';
    snprintf(request, sizeof request, "set k %s", value);
    ask(s.c, request, "+OK\n");
    size_t n = (size_t)snprintf(request, sizeof request, "mget");
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(request + n, sizeof request - n, " k%d", i);
    stub_say(s.c, request);
    (void)stub_take(s.c, NULL);
    ask(s.c, "slowlog len", ":3\n");
    stub_say(s.c, "slowlog get 3");
    const char *text = stub_take(s.c, NULL);
    CHECK_CONTAINS(text, "*3\r\n*6\r\n:3\r\n"); /* SLOWLOG LEN; the newest first */
    CHECK_CONTAINS(text, "... (10 more arguments)");
    CHECK_CONTAINS(text, "... (72 more bytes)");
    CHECK_CONTAINS(text, "$14\r\n127.0.0.1:1001\r\n$2\r\nme\r\n");
    ask(s.c, "slowlog reset", "+OK\n");
    ask(s.c, "config set requirepass secret", "+OK\n"); /* what may be secret is not kept */
    ask(s.c, "auth secret", "+OK\n");
    stub_say(s.c, "hello 2 auth default secret");
    (void)stub_take(s.c, NULL);
    stub_say(s.c, "slowlog get");
    CHECK(strstr(stub_take(s.c, NULL), "secret") == NULL);
    ask(s.c, "config set slowlog-log-slower-than -1", "+OK\n");
    ask(s.c, "slowlog reset", "+OK\n");
    ask(s.c, "get k0", "$-1\n");
    ask(s.c, "slowlog len", ":0\n");
    end(&s);
}

CHECK_MAIN(TEST(test_strings_as_redis), TEST(test_numbers_as_redis), TEST(test_bits_as_redis), TEST(test_keys_as_redis),
           TEST(test_expiry_as_redis), TEST(test_multi_as_redis), TEST(test_connection_as_redis),
           TEST(test_pubsub_as_redis), TEST(test_server_as_redis), TEST(test_every_command_is_found_in_any_case),
           TEST(test_every_command_answers_nonsense), TEST(test_ifeq), TEST(test_keys_go_when_their_time_has_come),
           TEST(test_auth), TEST(test_large_values_leave_pinned),
           TEST(test_many_large_values_leave_pinned), TEST(test_limits_of_keys_and_values),
           TEST(test_a_transaction_has_a_limit), TEST(test_dump_and_restore), TEST(test_watch_sees_other_clients),
           TEST(test_exec_with_other_commands), TEST(test_exec_answers_in_the_protocol_of_each_moment),
           TEST(test_no_memory_for_more), TEST(test_memory_fails_anywhere),
           TEST(test_strings_without_memory), TEST(test_numbers_without_memory), TEST(test_bits_without_memory),
           TEST(test_keys_without_memory), TEST(test_expiry_without_memory), TEST(test_multi_without_memory),
           TEST(test_connection_without_memory), TEST(test_pubsub_without_memory), TEST(test_server_without_memory),
           TEST(test_transactions_without_memory), TEST(test_a_store_that_failed), TEST(test_failures_as_text),
           TEST(test_some_wait_until_nothing_is_pending), TEST(test_client_list_and_kill), TEST(test_client_reply),
           TEST(test_info_tells_what_happened), TEST(test_failures_of_what_exec_runs), TEST(test_slow_log))
