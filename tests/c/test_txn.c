/* test_txn.c - steps that read, decide and write: alone, in each other's way, and many at once. */
/* tsan */
#include "check.h"
#include "server_stub.h"
#include "threads.h"
#include "world.h"

#include "server/txn.h"

static kv_bytes text(const char *s) {
    return kv_text(s);
}

static kv_db *open_memory(void) {
    kv_db *db;
    kv_error err;
    kv_options options = kv_options_default();
    CHECK_OK(kv_open(NULL, &options, &db, &err), &err);
    return db;
}

static void close_memory(kv_db *db) {
    kv_error err;
    CHECK_OK(kv_verify(db, &err), &err);
    CHECK_OK(kv_close(db, &err), &err);
    kv_destroy(db);
}

static void put(kv_db *db, const char *key, const char *value) {
    kv_error err;
    CHECK_OK(kv_put(db, text(key), text(value), 0, &err), &err);
}

/* What the store has: NULL for nothing. */
static void check_stored(kv_db *db, const char *key, const char *wanted) {
    kv_value value;
    kv_error err;
    kv_status status = kv_get(db, text(key), 0, &value, &err);
    if (wanted == NULL) {
        CHECK_EQ(status, KV_NOTFOUND);
        return;
    }
    CHECK_OK(status, &err);
    CHECK_EQ(value.size, strlen(wanted));
    CHECK_MEM(value.data, wanted, value.size);
    kv_value_release(&value);
}

static void check_seen(kv_txn *t, const char *key, const char *wanted) {
    kv_txn_value value;
    kv_error err;
    kv_status status = kv_txn_get(t, text(key), &value, &err);
    if (wanted == NULL) {
        CHECK_EQ(status, KV_NOTFOUND);
        return;
    }
    CHECK_OK(status, &err);
    CHECK_EQ(value.value.size, strlen(wanted));
    CHECK_MEM(value.value.data, wanted, value.value.size);
}

static void check_count(kv_txn *t, uint64_t wanted) {
    uint64_t count;
    kv_error err;
    CHECK_OK(kv_txn_count(t, &count, &err), &err);
    CHECK_EQ(count, wanted);
}

static void test_a_step_sees_itself(void) {
    kv_db *db = open_memory();
    kv_error err;
    kv_txn *t = kv_txn_create();
    put(db, "a", "1");
    put(db, "b", "2");
    kv_txn_begin(t, db);
    check_seen(t, "a", "1");
    check_count(t, 2);
    CHECK_OK(kv_txn_put(t, text("a"), text("11"), 0, &err), &err);
    CHECK_OK(kv_txn_delete(t, text("b"), &err), &err);
    CHECK_OK(kv_txn_put(t, text("c"), text("3"), 0, &err), &err);
    check_seen(t, "a", "11");
    check_seen(t, "b", NULL);
    check_seen(t, "c", "3");
    check_count(t, 2);
    check_stored(db, "a", "1");
    CHECK_OK(kv_txn_expire(t, text("c"), kv_clock_ms(db) + 100000, &err), &err);
    CHECK_STATUS(kv_txn_expire(t, text("b"), 1, &err), KV_NOTFOUND, &err);
    CHECK_OK(kv_txn_expire(t, text("a"), 1, &err), &err); /* long past */
    check_seen(t, "a", NULL);
    CHECK_OK(kv_txn_put(t, text("d"), text("x"), 1, &err), &err);
    check_seen(t, "d", NULL);
    CHECK_OK(kv_txn_commit(t, &err), &err);
    check_stored(db, "a", NULL);
    check_stored(db, "b", NULL);
    check_stored(db, "c", "3");
    check_stored(db, "d", NULL);
    uint64_t expiry;
    CHECK_OK(kv_get_expiry(db, text("c"), 0, &expiry, &err), &err);
    CHECK(expiry > kv_clock_ms(db));
    /* A step that is forgotten leaves nothing. */
    kv_txn_begin(t, db);
    CHECK_OK(kv_txn_put(t, text("c"), text("4"), 0, &err), &err);
    kv_txn_begin(t, db);
    check_seen(t, "c", "3");
    CHECK_OK(kv_txn_commit(t, &err), &err);
    check_stored(db, "c", "3");
    kv_txn_destroy(t);
    close_memory(db);
}

static void test_a_step_with_many_keys(void) {
    enum { KEYS = 3000 };
    static char names[KEYS][24];
    kv_db *db = open_memory();
    kv_error err;
    kv_txn *t = kv_txn_create();
    for (int round = 0; round < 2; round++) {
        kv_txn_begin(t, db);
        for (int i = 0; i < KEYS; i++) {
            snprintf(names[i], sizeof names[i], "key:%d", i);
            check_seen(t, names[i], round == 0 ? NULL : names[i]);
            if (i % 3 != 0 || round == 0)
                CHECK_OK(kv_txn_put(t, text(names[i]), text(names[i]), 0, &err), &err);
            else
                CHECK_OK(kv_txn_delete(t, text(names[i]), &err), &err);
        }
        for (int i = 0; i < KEYS; i++)
            check_seen(t, names[i], i % 3 == 0 && round == 1 ? NULL : names[i]);
        check_count(t, round == 0 ? KEYS : KEYS - KEYS / 3);
        CHECK_OK(kv_txn_commit(t, &err), &err);
    }
    for (int i = 0; i < KEYS; i++)
        check_stored(db, names[i], i % 3 == 0 ? NULL : names[i]);
    kv_txn_destroy(t);
    close_memory(db);
}

/* Somebody changes what a step has read, in each of these ways: it has to begin again.  What it has not read does
 * not matter. */
static void test_what_was_read_must_stay(void) {
    kv_db *db = open_memory();
    kv_error err;
    kv_txn *t = kv_txn_create();
    for (int change = 0; change < 8; change++) {
        put(db, "read", "1");
        put(db, "other", "1");
        CHECK(kv_delete(db, text("absent"), 0, &err) >= 0);
        CHECK(kv_delete(db, text("new"), 0, &err) >= 0);
        kv_txn_begin(t, db);
        check_seen(t, "read", "1");
        check_seen(t, "absent", NULL);
        CHECK_OK(kv_txn_put(t, text("new"), text("x"), 0, &err), &err);
        if (change == 7)
            CHECK_OK(kv_txn_put(t, text("read"), text("2"), 0, &err), &err);
        switch (change) {
        case 0:
            break;
        case 1:
            put(db, "other", "2");
            break;
        case 2:
            put(db, "new", "by somebody");
            break;
        case 3:
            put(db, "read", "1"); /* the same value: still another entry */
            break;
        case 4:
            CHECK_OK(kv_delete(db, text("read"), 0, &err), &err);
            break;
        case 5:
            put(db, "absent", "here");
            break;
        case 6:
            CHECK_OK(kv_expire(db, text("read"), kv_clock_ms(db) + 100000, 0, &err), &err);
            break;
        case 7:
            CHECK_OK(kv_clear(db, 0, &err), &err);
            break;
        }
        CHECK_STATUS(kv_txn_commit(t, &err), change < 3 ? KV_OK : KV_UNCHANGED, &err);
        check_stored(db, "new", change < 3 ? "x" : NULL);
    }
    kv_txn_destroy(t);
    close_memory(db);
}

static void test_expectations(void) {
    kv_db *db = open_memory();
    kv_error err;
    kv_item item;
    kv_txn *t = kv_txn_create();
    put(db, "a", "1");
    CHECK_OK(kv_get_item(db, text("a"), 0, &item, &err), &err);
    kv_txn_begin(t, db);
    CHECK_OK(kv_txn_expect(t, text("a"), item.pin, &err), &err);
    CHECK_OK(kv_txn_expect(t, text("absent"), NULL, &err), &err);
    CHECK_OK(kv_txn_commit(t, &err), &err); /* two reads and no write: still a condition on both */
    kv_txn_begin(t, db);
    CHECK_OK(kv_txn_expect(t, text("a"), item.pin, &err), &err);
    CHECK_OK(kv_txn_expect(t, text("absent"), NULL, &err), &err);
    put(db, "absent", "here");
    CHECK_STATUS(kv_txn_commit(t, &err), KV_UNCHANGED, &err);
    kv_txn_begin(t, db);
    CHECK_STATUS(kv_txn_expect(t, text("absent"), NULL, &err), KV_UNCHANGED, &err);
    CHECK_STATUS(kv_txn_expect(t, text("a"), NULL, &err), KV_UNCHANGED, &err);
    CHECK_OK(kv_txn_expect(t, text("a"), item.pin, &err), &err);
    put(db, "a", "2");
    kv_txn_begin(t, db);
    CHECK_STATUS(kv_txn_expect(t, text("a"), item.pin, &err), KV_UNCHANGED, &err);
    kv_txn_destroy(t);
    kv_item_release(&item);
    close_memory(db);
}

static void test_deleting_everything(void) {
    kv_db *db = open_memory();
    kv_error err;
    kv_txn *t = kv_txn_create();
    for (int with_reads = 0; with_reads < 2; with_reads++) {
        char name[32];
        for (int i = 0; i < 2500; i++) {
            snprintf(name, sizeof name, "key:%d", i);
            put(db, name, "v");
        }
        kv_txn_begin(t, db);
        if (with_reads) {
            check_seen(t, "key:1", "v");
            check_seen(t, "absent", NULL);
            CHECK_OK(kv_txn_put(t, text("before"), text("x"), 0, &err), &err);
        }
        CHECK_OK(kv_txn_delete_all(t, &err), &err);
        check_seen(t, "key:1", NULL);
        check_seen(t, "key:2", NULL);
        check_seen(t, "before", NULL);
        check_count(t, 0);
        if (with_reads) {
            CHECK_OK(kv_txn_put(t, text("after"), text("y"), 0, &err), &err);
            CHECK_OK(kv_txn_put(t, text("key:7"), text("z"), 0, &err), &err);
            check_seen(t, "after", "y");
            check_count(t, 2);
        }
        CHECK_OK(kv_txn_commit(t, &err), &err);
        uint64_t count;
        CHECK_OK(kv_count(db, 0, &count, &err), &err);
        CHECK_EQ(count, with_reads ? 2 : 0);
    }
    check_stored(db, "after", "y");
    check_stored(db, "key:7", "z");
    kv_txn_destroy(t);
    close_memory(db);
}

/* ---- Many at once ----------------------------------------------------------------------------------------- */

enum { THREADS = 3, ROUNDS = 300, ACCOUNTS = 4, MONEY = 1000 };

typedef struct crowd {
    stub *server;
    kv_db *db; /* ordinary */
    _Atomic unsigned watched; /* transactions that were made although they watched something */
    kv_client *clients[THREADS];
    kv_db *handles[THREADS];
} crowd;

static void settle(crowd *all, kv_db *handle) {
    kv_ticket ticket;
    kv_error err;
    kv_pending_ticket(handle, &ticket);
    CHECK(kv_ticket_wait(all->db, &ticket, &err) == KV_OK);
    kv_settle(handle);
}

static void say(kv_client *c, const char *request) {
    stub_say(c, request);
}

/* A reply that this thread takes (stub_take has one buffer for all). */
static void take(kv_client *c, char *into, size_t room) {
    struct iovec pieces[8];
    size_t filled = 0, count;
    while ((count = kv_reply_pieces(&c->reply, c->reply.end, pieces, 8)) > 0) {
        size_t sent = 0;
        for (size_t i = 0; i < count; i++) {
            CHECK(filled + pieces[i].iov_len < room);
            memcpy(into + filled, pieces[i].iov_base, pieces[i].iov_len);
            filled += pieces[i].iov_len;
            sent += pieces[i].iov_len;
        }
        kv_reply_sent(&c->reply, sent);
    }
    into[filled] = '\0';
}

static void work(worker *self) {
    crowd *all = self->shared;
    unsigned number = self->id;
    kv_client *c = all->clients[number];
    char request[128], reply[4096];
    for (int i = 0; i < ROUNDS; i++) {
        say(c, "append log x");
        say(c, "incrbyfloat sum 0.5");
        snprintf(request, sizeof request, "setrange slots %u %c", number * ROUNDS + (unsigned)i, 'a' + (int)number);
        say(c, request);
        snprintf(request, sizeof request, "setbit bits %u 1", number * ROUNDS + (unsigned)i);
        say(c, request);
        say(c, "incr plain");
        take(c, reply, sizeof reply);
        CHECK(strchr(reply, '-') == NULL);
        /* Money goes from one account to another. */
        unsigned from = (unsigned)random_below(&self->random, ACCOUNTS), to = (unsigned)random_below(&self->random, ACCOUNTS);
        say(c, "multi");
        snprintf(request, sizeof request, "decrby account:%u 3", from);
        say(c, request);
        say(c, "echo hello");
        snprintf(request, sizeof request, "incrby account:%u 3", to);
        say(c, request);
        say(c, "exec");
        take(c, reply, sizeof reply);
        CHECK_CONTAINS(reply, "*3\r\n:");
        CHECK_CONTAINS(reply, "\r\n$5\r\nhello\r\n:");
        /* The same with WATCH: it may fail, and then nothing has happened. */
        say(c, "watch plain");
        say(c, "multi");
        snprintf(request, sizeof request, "incrby account:%u 1", from);
        say(c, request);
        snprintf(request, sizeof request, "decrby account:%u 1", to);
        say(c, request);
        say(c, "incr watched");
        take(c, reply, sizeof reply);
        say(c, "exec");
        take(c, reply, sizeof reply);
        bool is_done = strncmp(reply, "*3\r\n:", 5) == 0;
        CHECK(is_done || strcmp(reply, "*-1\r\n") == 0);
        atomic_fetch_add(&all->watched, is_done);
        /* All accounts at one moment have what they had together. */
        for (int way = 0; way < 2; way++) {
            if (way == 0) {
                say(c, "mget account:0 account:1 account:2 account:3");
            } else {
                say(c, "multi");
                for (int k = 0; k < ACCOUNTS; k++) {
                    snprintf(request, sizeof request, "get account:%d", k);
                    say(c, request);
                }
                take(c, reply, sizeof reply);
                say(c, "exec");
            }
            take(c, reply, sizeof reply);
            CHECK(reply[0] == '*');
            long total = 0;
            const char *p = reply;
            for (int k = 0; k < ACCOUNTS; k++) {
                p = strchr(p, '$');
                CHECK(p != NULL);
                p = strchr(p, '\n') + 1;
                total += strtol(p, NULL, 10);
            }
            CHECK_EQ(total, ACCOUNTS * MONEY);
        }
        if (i % 16 == 0)
            settle(all, all->handles[number]);
    }
    settle(all, all->handles[number]);
}

static void run_crowd(bool has_log) {
    world *w = world_create();
    kv_error err;
    crowd all = {0};
    w->options.segment_size_max = 1 << 20;
    w->options.segment_size_min = 1 << 20;
    if (has_log)
        world_open(w);
    else
        CHECK_OK(kv_open(NULL, &w->options, &w->db, &err), &err);
    all.db = w->db;
    all.server = stub_create(w->db);
    for (int k = 0; k < ACCOUNTS; k++) {
        char name[32];
        snprintf(name, sizeof name, "account:%d", k);
        put(w->db, name, "1000");
    }
    put(w->db, "plain", "0");
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(kv_dup(w->db, true, &all.handles[i], &err), &err);
        all.clients[i] = stub_client(all.server, all.handles[i]);
    }
    crew threads = {0};
    for (int i = 0; i < THREADS; i++)
        crew_add(&threads, work, &all);
    crew_join(&threads);
    char wanted[64];
    kv_client *c = all.clients[0];
    snprintf(wanted, sizeof wanted, ":%d\n", THREADS * ROUNDS);
    stub_ask(c, "strlen log", wanted);
    stub_ask(c, "strlen slots", wanted);
    stub_ask(c, "bitcount bits", wanted);
    snprintf(wanted, sizeof wanted, "$3\n%d\n", THREADS * ROUNDS / 2);
    stub_ask(c, "get sum", wanted);
    snprintf(wanted, sizeof wanted, "$3\n%d\n", THREADS * ROUNDS);
    stub_ask(c, "get plain", wanted);
    stub_say(c, "get watched");
    CHECK_EQ(atol(strchr(stub_take(c, NULL), '\n') + 1), atomic_load(&all.watched));
    CHECK(atomic_load(&all.watched) > 0);
    stub_say(c, "get slots");
    const char *slots = stub_take(c, NULL);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(slots[6 + i * ROUNDS + 5], 'a' + i);
    stub_destroy(all.server);
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(kv_close(all.handles[i], &err), &err);
        kv_destroy(all.handles[i]);
    }
    if (has_log) { /* and it is all there after a restart */
        world_close(w);
        world_open(w);
        long total = 0;
        for (int k = 0; k < ACCOUNTS; k++) {
            char name[32], digits[32] = "";
            kv_value value;
            snprintf(name, sizeof name, "account:%d", k);
            CHECK_OK(kv_get(w->db, text(name), 0, &value, &err), &err);
            memcpy(digits, value.data, value.size);
            total += strtol(digits, NULL, 10);
            kv_value_release(&value);
        }
        CHECK_EQ(total, ACCOUNTS * MONEY);
    }
    world_destroy(w);
}

static void test_a_crowd_in_memory(void) {
    run_crowd(false);
}

static void test_a_crowd_with_a_log(void) {
    run_crowd(true);
}

CHECK_MAIN(TEST(test_a_step_sees_itself), TEST(test_a_step_with_many_keys), TEST(test_what_was_read_must_stay),
           TEST(test_expectations), TEST(test_deleting_everything), TEST(test_a_crowd_in_memory),
           TEST(test_a_crowd_with_a_log))
