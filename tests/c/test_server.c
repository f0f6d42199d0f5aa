/* test_server.c - a server with two loops over real sockets: many clients at once, channels, failing syncs, reloads,
 * stops. */
/* tsan */
#include "check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "kv.h"
#include "server/server.h"
#include "threads.h"
#include "world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define ROUNDS 60u
#else
#define ROUNDS 600u
#endif

typedef struct place {
    world *w;
    kv_server *server;
    _Atomic bool over;
    _Atomic unsigned connected;
    _Atomic uint64_t increments;
} place;

static place place_open(bool durable) {
    place p = {.w = world_create()};
    kv_error err;
    if (durable) {
        p.w->options.segment_size_min = 32768;
        p.w->options.segment_size_max = 1 << 20;
        world_open(p.w);
    } else {
        CHECK_OK(kv_open(NULL, &p.w->options, &p.w->db, &p.w->err), &p.w->err);
    }
    kv_config config = kv_config_default();
    config.port = 0;
    config.threads = 2;
    config.debug_commands = true;
    CHECK_OK(kv_server_start(p.w->db, &config, &p.server, &err), &err);
    return p;
}

static void place_close(place *p) {
    kv_error err;
    CHECK_OK(kv_server_stop(p->server, 1000, &err), &err);
    kv_server_destroy(p->server);
    world_destroy(p->w);
}

/* ---- A client -------------------------------------------------------------------------------------------- */

typedef struct client {
    int fd;
    size_t size, at;
    char bytes[65536];
} client;

static void client_open(client *c, const kv_server *server) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(kv_server_port(server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->size = c->at = 0;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(c->fd >= 0);
    CHECK_EQ(connect(c->fd, (struct sockaddr *)&address, sizeof address), 0);
}

static void say(client *c, const char *format, ...) {
    char text[4096];
    va_list args;
    va_start(args, format);
    size_t size = (size_t)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (size_t sent = 0; sent < size;) {
        ssize_t n = send(c->fd, text + sent, size - sent, MSG_NOSIGNAL);
        if (n <= 0)
            return; /* closed: `hear` will tell */
        sent += (size_t)n;
    }
}

/* A line without its end; NULL: closed. */
static char *hear(client *c) {
    for (;;) {
        char *end = memchr(c->bytes + c->at, '\n', c->size - c->at);
        if (end != NULL) {
            char *line = c->bytes + c->at;
            end[-1] = '\0';
            c->at = (size_t)(end - c->bytes) + 1;
            return line;
        }
        memmove(c->bytes, c->bytes + c->at, c->size - c->at);
        c->size -= c->at;
        c->at = 0;
        CHECK(c->size < sizeof c->bytes);
        ssize_t n = recv(c->fd, c->bytes + c->size, sizeof c->bytes - c->size, 0);
        if (n <= 0)
            return NULL;
        c->size += (size_t)n;
    }
}

static void expect(client *c, const char *wanted) {
    const char *line = hear(c);
    CHECK(line != NULL);
    CHECK_STR(line, wanted);
}


/* ---- Everything at once ------------------------------------------------------------------------------------ */

static void write_and_read(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    for (unsigned i = 0; i < ROUNDS && !atomic_load(&p->over); i++) {
        char value[32];
        snprintf(value, sizeof value, "%u", i);
        say(c, "SET k%u %u\r\nGET k%u\r\nINCR n\r\nMULTI\r\nSET a%u %u\r\nSET b%u %u\r\nEXEC\r\nMGET a%u b%u\r\n",
            me->id, i, me->id, me->id, i, me->id, i, me->id, me->id);
        expect(c, "+OK");
        CHECK(hear(c) != NULL); /* the value's length */
        expect(c, value);
        const char *count = hear(c);
        CHECK(count != NULL && count[0] == ':');
        atomic_fetch_add(&p->increments, 1);
        expect(c, "+OK");
        expect(c, "+QUEUED");
        expect(c, "+QUEUED");
        expect(c, "*2");
        expect(c, "+OK");
        expect(c, "+OK");
        expect(c, "*2");
        CHECK(hear(c) != NULL);
        expect(c, value);
        CHECK(hear(c) != NULL);
        expect(c, value);
    }
    close(c->fd);
    free(c);
}

static void come_and_go(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    for (unsigned i = 0; i < ROUNDS / 3; i++) {
        client_open(c, p->server);
        say(c, "SUBSCRIBE news\r\n");
        expect(c, "*3");
        if (i % 3 == 0)
            say(c, "*2\r\n$3\r\nGET"); /* goes in the middle of a request */
        close(c->fd);
    }
    free(c);
}

static void publish(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    for (unsigned i = 0; i < ROUNDS; i++) {
        say(c, "PUBLISH news %u\r\nPUBSUB NUMSUB news\r\n", i);
        const char *count = hear(c);
        CHECK(count != NULL && count[0] == ':');
        expect(c, "*2");
        expect(c, "$4");
        expect(c, "news");
        CHECK(hear(c) != NULL);
    }
    close(c->fd);
    free(c);
}

static bool look_at(void *arg, kv_client *client) {
    *(uint64_t *)arg += client->requests + client->id + (uint64_t)client->address[0];
    return true;
}

static void look(worker *me) {
    place *p = me->shared;
    kv_stats stats;
    uint64_t sum = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        kv_server_visit_clients(p->server, look_at, &sum);
        CHECK_OK(kv_server_store_stats(p->server, &stats, NULL), (kv_error *)NULL);
        kv_server_kill(p->server, 1000000 + i); /* nobody */
    }
    CHECK(kv_server_client_count(p->server) < 100);
}

static void by_the_store(worker *me) {
    place *p = me->shared;
    int64_t result;
    for (unsigned i = 0; i < ROUNDS; i++) {
        CHECK_OK(kv_incr(p->w->db, (kv_bytes){"n", 1}, 1, 0, &result, NULL), (kv_error *)NULL);
        atomic_fetch_add(&p->increments, 1);
    }
}

static void all_at_once(bool durable) {
    place p = place_open(durable);
    crew c = {0};
    for (int i = 0; i < 4; i++)
        crew_add(&c, write_and_read, &p);
    crew_add(&c, come_and_go, &p);
    crew_add(&c, come_and_go, &p);
    crew_add(&c, publish, &p);
    crew_add(&c, look, &p);
    crew_add(&c, by_the_store, &p);
    crew_join(&c);
    int64_t count;
    CHECK_OK(kv_incr(p.w->db, (kv_bytes){"n", 1}, 0, 0, &count, NULL), (kv_error *)NULL);
    CHECK_EQ((uint64_t)count, atomic_load(&p.increments));
    place_close(&p);
}

static void test_all_at_once_in_memory(void) {
    all_at_once(false);
}

static void test_all_at_once_durable(void) {
    all_at_once(true);
}

/* ---- Stopping under load ---------------------------------------------------------------------------------------- */

static void write_until_closed(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    atomic_fetch_add(&p->connected, 1);
    for (unsigned i = 0;; i++) {
        say(c, "SET k%u-%u %u\r\nPUBLISH c x\r\n", me->id, i % 100, i);
        if (hear(c) == NULL || hear(c) == NULL)
            break;
        atomic_fetch_add(&p->increments, 1);
    }
    close(c->fd);
    free(c);
}

static void test_stop_under_load(void) {
    for (int durable = 0; durable < 2; durable++) {
        place p = place_open(durable);
        crew c = {0};
        for (int i = 0; i < 4; i++)
            crew_add(&c, write_until_closed, &p);
        while (atomic_load(&p.connected) < 4 || atomic_load(&p.increments) < 100)
            usleep(1000);
        CHECK_OK(kv_server_stop(p.server, 1000, NULL), (kv_error *)NULL);
        crew_join(&c);
        place_close(&p);
    }
}

/* ---- Reloading under load -------------------------------------------------------------------------------- */

static void reload(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    for (unsigned i = 0; i < 5; i++) {
        say(c, "DEBUG RELOAD\r\n");
        const char *line = hear(c);
        CHECK(line != NULL);
        if (strcmp(line, "+OK") != 0) /* somebody else does it at this moment */
            CHECK(strstr(line, "try again") != NULL || strstr(line, "elsewhere") != NULL);
        usleep(2000);
    }
    close(c->fd);
    free(c);
}

static void test_reload_under_load(void) {
    place p = place_open(true);
    kv_destroy(p.w->db); /* the server's handles are to be the only ones */
    p.w->db = NULL;
    crew c = {0};
    for (int i = 0; i < 3; i++)
        crew_add(&c, write_and_read, &p);
    crew_add(&c, reload, &p);
    crew_add(&c, reload, &p);
    crew_add(&c, look, &p);
    crew_join(&c);
    place_close(&p);
}

/* ---- Whose turn it is --------------------------------------------------------------------------------------- */

/* While it is on, a socket takes all at once that is large: its client reads as fast as the server writes. */
static _Atomic bool taking;
static _Atomic bool took_some, may_go_on; /* the first time it waits until others have asked for something */
static _Atomic uint64_t taken, taken_by_then; /* ... and when one of them was answered */

ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    if (size >= 5 && memcmp(bytes, "+PONG", 5) == 0)
        atomic_store(&taken_by_then, atomic_load(&taken));
    return syscall(SYS_sendto, fd, bytes, size, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    size_t size = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++)
        size += message->msg_iov[i].iov_len;
    if (!atomic_load(&taking) || size < 65536)
        return syscall(SYS_sendmsg, fd, message, flags);
    atomic_fetch_add(&taken, size);
    atomic_store(&took_some, true);
    while (!atomic_load(&may_go_on))
        usleep(1000);
    return (ssize_t)size;
}

static void test_a_long_answer_lets_others_have_their_turn(void) {
    place p = place_open(false);
    client reader, between, other; /* the second is the other loop's */
    client_open(&reader, p.server);
    say(&reader, "SETRANGE k 8388607 x\r\n");
    expect(&reader, ":8388608");
    client_open(&between, p.server);
    say(&between, "PING\r\n");
    expect(&between, "+PONG");
    client_open(&other, p.server);
    say(&other, "PING\r\n");
    expect(&other, "+PONG");

    atomic_store(&taking, true);
    say(&reader, "MGET k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k\r\n");
    while (!atomic_load(&took_some))
        usleep(1000);
    say(&other, "PING\r\n");
    atomic_store(&may_go_on, true);
    expect(&other, "+PONG");
    CHECK(atomic_load(&taken_by_then) < 64u << 20);
    atomic_store(&taking, false);
    close(reader.fd);
    close(between.fd);
    close(other.fd);
    place_close(&p);
}

static void test_an_answer_over_the_limit_is_not_made(void) {
    place p = place_open(false);
    client c;
    client_open(&c, p.server);
    say(&c, "CONFIG SET output-buffer-max 1mb\r\n");
    expect(&c, "+OK");
    say(&c, "SETRANGE k 8388607 x\r\n");
    expect(&c, ":8388608");
    atomic_store(&may_go_on, true);
    atomic_store(&taking, true);
    say(&c, "MGET k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k k\r\n");
    CHECK(hear(&c) == NULL);
    CHECK_EQ(atomic_load(&taken), 0);
    atomic_store(&taking, false);
    close(c.fd);
    place_close(&p);
}

/* ---- What a reply waits for ------------------------------------------------------------------------------ */

static void test_reply_waits_for_the_disk(void) {
    for (int clients = 1; clients <= 3; clients++) { /* alone on its loop, and not */
        place p = place_open(true);
        client *all = calloc((size_t)clients, sizeof *all), *c = all;
        for (int i = 0; i < clients; i++) {
            client_open(&all[i], p.server);
            say(&all[i], "SET a old\r\n");
            expect(&all[i], "+OK");
        }
        fault_os_gate_close(p.w->faults, FAULT_SYNC);
        say(c, "SET a new\r\n");
        fault_os_gate_wait(p.w->faults, FAULT_SYNC, 1);
        usleep(20000); /* time to go wrong */
        CHECK_EQ(recv(c->fd, c->bytes, 1, MSG_DONTWAIT), -1);
        fault_os_gate_open(p.w->faults, FAULT_SYNC);
        expect(c, "+OK");
        for (int i = 0; i < clients; i++)
            close(all[i].fd);
        free(all);
        place_close(&p);
    }
}

/* ---- Syncs that fail ------------------------------------------------------------------------------------- */

static void write_in_bad_times(worker *me) {
    place *p = me->shared;
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    unsigned failed = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        say(c, "PING\r\nSET k%u %u\r\nPING\r\nGET k%u\r\nPING\r\n", me->id, i, me->id);
        expect(c, "+PONG");
        const char *set = hear(c);
        CHECK(set != NULL);
        bool ok = strcmp(set, "+OK") == 0;
        CHECK(ok || set[0] == '-');
        failed += !ok;
        expect(c, "+PONG");
        const char *head = hear(c);
        CHECK(head != NULL);
        if (head[0] == '$' && head[1] != '-')
            CHECK(hear(c) != NULL);
        expect(c, "+PONG"); /* whatever happens, each request has one reply, in its place */
    }
    atomic_fetch_add(&p->increments, failed);
    close(c->fd);
    free(c);
}

/* After a sync that failed the store cannot be closed well. */
static void place_leave(place *p) {
    (void)!kv_server_stop(p->server, 1000, NULL); /* it tells of the sync */
    kv_server_destroy(p->server);
    kv_destroy(p->w->db);
    p->w->db = NULL;
    world_destroy(p->w);
}

static void test_a_failed_sync_is_told(void) {
    place p = place_open(true);
    client *c = calloc(1, sizeof *c);
    client_open(c, p.server);
    say(c, "SET a old\r\n");
    expect(c, "+OK");
    memory_os_fail_sync(p.w->memory, 1, EIO);
    say(c, "SET a new\r\nGET a\r\nPING\r\n");
    for (int i = 0; i < 2; i++) { /* the write, and the read that saw it */
        const char *line = hear(c);
        CHECK(line != NULL && line[0] == '-');
    }
    expect(c, "+PONG");
    say(c, "GET a\r\n");
    expect(c, "$3");
    expect(c, "old");
    close(c->fd);
    free(c);
    place_leave(&p);
}

static void test_failing_syncs(void) {
    place p = place_open(true);
    memory_os_fail_sync(p.w->memory, 20, EIO);
    crew c = {0};
    for (int i = 0; i < 4; i++)
        crew_add(&c, write_in_bad_times, &p);
    crew_join(&c);
    CHECK(atomic_load(&p.increments) > 0);
    place_leave(&p);
}

/* ---- Without threads ------------------------------------------------------------------------------------- */

#ifdef __GLIBC__
static void test_a_checkpoint_without_a_thread(void) {
    place p = place_open(true);
    client *c = calloc(1, sizeof *c);
    pthread_attr_t before, huge;
    client_open(c, p.server);
    CHECK_EQ(pthread_getattr_default_np(&before), 0);
    CHECK_EQ(pthread_getattr_default_np(&huge), 0);
    CHECK_EQ(pthread_attr_setstacksize(&huge, (size_t)1 << 60), 0);
    CHECK_EQ(pthread_setattr_default_np(&huge), 0); /* there is no room for such a stack */
    say(c, "BGSAVE\r\nBGREWRITEAOF\r\n");
    for (int i = 0; i < 2; i++) {
        const char *line = hear(c);
        CHECK(line != NULL && line[0] == '-' && strstr(line, "cannot start a thread") != NULL);
    }
    CHECK_EQ(pthread_setattr_default_np(&before), 0);
    say(c, "BGSAVE\r\n");
    expect(c, "+Background saving started");
    pthread_attr_destroy(&before);
    pthread_attr_destroy(&huge);
    close(c->fd);
    free(c);
    place_close(&p);
}
#else
static void test_a_checkpoint_without_a_thread(void) {
}
#endif

/* ---- Without memory -------------------------------------------------------------------------------------- */

static unsigned descriptors(void) {
    unsigned count = 0;
    DIR *dir = opendir("/dev/fd");
    CHECK(dir != NULL);
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static void test_start_without_memory(void) {
    world *w = world_create();
    CHECK_OK(kv_open(NULL, &w->options, &w->db, &w->err), &w->err);
    unsigned before = descriptors();
    uint64_t n = 0;
    for (bool failed = true; failed; n++)
        for (int on = 0; on < 2 && failed; on++) {
            kv_config config = kv_config_default();
            kv_server *server;
            kv_error err;
            config.port = 0;
            config.threads = 3;
            config.password = "password";
            kv_mem_fail_at(n, on);
            kv_status status = kv_server_start(w->db, &config, &server, &err);
            failed = kv_mem_fail_at(UINT64_MAX, false) > n;
            if (status == KV_OK)
                kv_server_destroy(server);
            else
                CHECK_STATUS(status, KV_ERR_NOMEM, &err);
            CHECK_EQ(descriptors(), before);
        }
    printf("# %d requests for memory\n", (int)n - 1);
    CHECK(n > 10);
    world_destroy(w);
}

/* Writes, each to a key of its own, while requests for memory fail: what was acknowledged is there, what was refused
 * is not, and of what a closed connection leaves open either. */
static void write_without_memory(worker *me) {
    place *p = me->shared;
    enum { REFUSED, DONE, OPEN } *known = calloc(ROUNDS, sizeof *known);
    client *c = calloc(1, sizeof *c);
    client_open(c, p->server);
    for (unsigned i = 0; i < ROUNDS; i++) {
        char value[3000];
        memset(value, 'v', sizeof value);
        say(c, "SET w%u-%u %.*s\r\n", me->id, i, (int)(i * 37 % sizeof value) + 1, value);
        const char *line = hear(c);
        known[i] = line == NULL ? OPEN : *line == '+' ? DONE : REFUSED;
        if (line == NULL || i % 3 == 0) { /* a new connection needs memory most */
            close(c->fd);
            client_open(c, p->server);
        }
    }
    atomic_fetch_add(&p->increments, 1);
    while (!atomic_load(&p->over))
        usleep(1000);
    close(c->fd);
    client_open(c, p->server);
    for (unsigned i = 0; i < ROUNDS; i++) {
        say(c, "EXISTS w%u-%u\r\n", me->id, i);
        const char *line = hear(c);
        CHECK(line != NULL);
        if (known[i] != OPEN)
            CHECK_STR(line, known[i] == DONE ? ":1" : ":0");
    }
    close(c->fd);
    free(c);
    free(known);
}

static void test_clients_without_memory(void) {
    enum { CLIENTS = 3 };
    for (int durable = 0; durable < 2; durable++) {
        place p = place_open(durable);
        check_random random = random_stream((uint64_t)durable);
        uint64_t fired = 0;
        crew c = {0};
        for (int i = 0; i < CLIENTS; i++)
            crew_add(&c, write_without_memory, &p);
        while (atomic_load(&p.increments) < CLIENTS) {
            uint64_t n = random_below(&random, 20);
            kv_mem_fail_at(n, random_below(&random, 3) == 0);
            usleep((useconds_t)random_below(&random, 500));
            fired += kv_mem_fail_at(UINT64_MAX, false) > n;
            usleep(100);
        }
        atomic_store(&p.over, true);
        crew_join(&c);
        printf("# requests for memory failed %d times\n", (int)fired);
        place_close(&p);
    }
}

/* Says something on a channel that it listens to itself; false: closed. */
static bool talk_to_oneself(client *c) {
    say(c, "PUBLISH me hello\r\n");
    const char *line = hear(c);
    if (line == NULL)
        return false;
    CHECK_STR(line, ":1");
    static const char *const message[] = {">3", "$7", "message", "$2", "me", "$5", "hello"};
    for (size_t i = 0; i < sizeof message / sizeof message[0]; i++) {
        line = hear(c);
        if (line == NULL)
            return false;
        CHECK_STR(line, message[i]);
    }
    return true;
}

static void test_messages_to_oneself_without_memory(void) {
    place p = place_open(false);
    client *c = calloc(1, sizeof *c);
    bool failed = true;
    for (uint64_t n = 0; failed; n++) {
        client_open(c, p.server);
        say(c, "HELLO 3\r\n");
        for (const char *line = hear(c); strcmp(line, "*0") != 0; line = hear(c))
            CHECK(line != NULL);
        say(c, "SUBSCRIBE me\r\n");
        for (const char *line = hear(c); strcmp(line, ":1") != 0; line = hear(c))
            CHECK(line != NULL);
        CHECK(talk_to_oneself(c)); /* whatever has failed before */
        kv_mem_fail_at(n, false);
        (void)talk_to_oneself(c);
        failed = kv_mem_fail_at(UINT64_MAX, false) > n;
        close(c->fd);
        for (int i = 0; i < 500 && kv_server_client_count(p.server) > 0; i++)
            usleep(1000); /* so that the next one has the same loop */
    }
    free(c);
    place_close(&p);
}

CHECK_MAIN(TEST(test_all_at_once_in_memory), TEST(test_all_at_once_durable), TEST(test_stop_under_load),
           TEST(test_reload_under_load), TEST(test_a_long_answer_lets_others_have_their_turn),
           TEST(test_an_answer_over_the_limit_is_not_made),
           TEST(test_reply_waits_for_the_disk), TEST(test_a_failed_sync_is_told),
           TEST(test_failing_syncs), TEST(test_a_checkpoint_without_a_thread),
           TEST(test_start_without_memory), TEST(test_clients_without_memory),
           TEST(test_messages_to_oneself_without_memory))
