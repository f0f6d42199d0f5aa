/* test_deferred.c - handles whose calls do not wait for the disk; conditions of a commit; walks by hash; reopening. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>

#include "model.h"
#include "threads.h"
#include "world.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOWER 8u
#else
#define SLOWER 1u
#endif

static world *w;
static kv_db *late; /* the deferred handle */

static void begin(kv_sync sync) {
    w = world_create();
    w->options.sync = sync;
    world_open(w);
    CHECK_OK(kv_dup(w->db, true, &late, &w->err), &w->err);
    CHECK(kv_pending(late) == NULL);
}

static void end(void) {
    kv_destroy(late);
    late = NULL;
    world_destroy(w);
}

static void put(kv_db *db, const char *key, const char *value) {
    CHECK_OK(kv_put(db, bytes_of(key, strlen(key)), bytes_of(value, strlen(value)), 0, &w->err), &w->err);
}

/* The value as text; "-" when there is none. */
static const char *get(kv_db *db, const char *key) {
    static char text[64];
    kv_value value;
    kv_status status = kv_get(db, bytes_of(key, strlen(key)), 0, &value, &w->err);
    if (status == KV_NOTFOUND)
        return "-";
    CHECK_OK(status, &w->err);
    snprintf(text, sizeof text, "%.*s", (int)value.size, (const char *)value.data);
    kv_value_release(&value);
    return text;
}

/* Ends a command, as one that answers. */
static kv_status wait_pending(void) {
    kv_ticket ticket;
    (void)kv_take_noted(late);
    kv_pending_ticket(late, &ticket);
    return kv_ticket_wait(w->db, &ticket, &w->err);
}

/* Of commits (the keeper syncs new segments whenever it likes). */
static uint64_t log_syncs(void) {
    kv_stats stats;
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    return stats.syncs;
}

static uint64_t count(kv_db *db) {
    uint64_t n;
    CHECK_OK(kv_count(db, 0, &n, &w->err), &w->err);
    return n;
}

/* ---- Writes that return at once ---------------------------------------------------------------- */

static void test_write_returns_before_it_is_durable(void) {
    begin(KV_SYNC_ALWAYS);
    put(w->db, "a", "old");
    uint64_t syncs = log_syncs();
    put(late, "a", "new");
    put(late, "b", "1");
    CHECK_EQ(log_syncs(), syncs);
    CHECK(kv_pending(late) != NULL);
    CHECK_STR(get(late, "a"), "new");
    CHECK_STR(get(w->db, "a"), "old"); /* promise 2 */
    CHECK_STR(get(w->db, "b"), "-");
    CHECK_EQ(count(late), 2);
    CHECK_EQ(count(w->db), 1);
    kv_ticket ticket, copy;
    kv_pending_ticket(late, &ticket);
    kv_ticket_copy(&ticket, &copy);
    CHECK_EQ(kv_ticket_try(&ticket, &w->err), KV_BUSY);
    CHECK_OK(kv_ticket_wait(w->db, &copy, &w->err), &w->err);
    CHECK_EQ(log_syncs(), syncs + 1);
    CHECK_OK(kv_ticket_try(&ticket, &w->err), &w->err);
    CHECK(ticket.group == NULL && copy.group == NULL);
    CHECK_STR(get(w->db, "a"), "new");
    kv_pending_ticket(late, &ticket); /* nothing is left to wait for */
    CHECK(ticket.group == NULL);
    CHECK(kv_pending(late) == NULL);
    end();
}

static void test_each_way_to_write(void) {
    begin(KV_SYNC_ALWAYS);
    int64_t number;
    uint64_t deleted;
    kv_value value;
    put(w->db, "gone", "x");
    put(w->db, "popped", "y");
    put(w->db, "swap", "1");
    uint64_t syncs = log_syncs();
    CHECK_OK(kv_incr(late, LITERAL("n"), 5, 0, &number, &w->err), &w->err);
    CHECK_OK(kv_incr(late, LITERAL("n"), 5, 0, &number, &w->err), &w->err);
    CHECK_EQ(number, 10);
    CHECK_OK(kv_delete(late, LITERAL("gone"), 0, &w->err), &w->err);
    CHECK_EQ(kv_delete(late, LITERAL("gone"), 0, &w->err), KV_NOTFOUND);
    CHECK_OK(kv_pop(late, LITERAL("popped"), 0, &value, &w->err), &w->err);
    kv_value_release(&value);
    CHECK_OK(kv_replace(late, LITERAL("swap"), LITERAL("2"), LITERAL("1"), 0, &w->err), &w->err);
    CHECK_EQ(kv_replace(late, LITERAL("swap"), LITERAL("3"), LITERAL("1"), 0, &w->err), KV_UNCHANGED);
    CHECK_OK(kv_put_absent(late, LITERAL("n2"), LITERAL("1"), 0, NULL, &w->err), &w->err);
    CHECK_OK(kv_expire(late, LITERAL("n2"), KV_EXPIRY_MAX, 0, &w->err), &w->err);
    kv_op ops[] = {{.kind = KV_OP_PUT, .key = LITERAL("p"), .value = LITERAL("1")},
                   {.kind = KV_OP_DELETE, .key = LITERAL("swap")}};
    CHECK_OK(kv_write(late, ops, 2, 0, &deleted, &w->err), &w->err);
    CHECK_EQ(deleted, 1);
    CHECK_EQ(count(late), 3);
    CHECK_EQ(count(w->db), 3); /* gone, popped, swap */
    CHECK_OK(kv_clear(late, 0, &w->err), &w->err);
    CHECK_EQ(count(late), 0);
    CHECK_OK(kv_clear(late, 0, &w->err), &w->err); /* an empty store: nothing waits for the disk either */
    put(late, "last", "z");
    CHECK_EQ(log_syncs(), syncs);
    CHECK_EQ(count(w->db), 3);
    CHECK_OK(wait_pending(), &w->err);
    CHECK_EQ(count(w->db), 1);
    CHECK_STR(get(w->db, "last"), "z");
    end();
}

/* Who reads another's write that is not committed has to wait for it, and who does not, has not. */
static void test_reads_note_what_they_see(void) {
    begin(KV_SYNC_ALWAYS);
    kv_db *other;
    kv_values values;
    kv_item item;
    uint64_t expiry;
    put(w->db, "known", "1");
    CHECK_OK(kv_dup(w->db, true, &other, &w->err), &w->err);
    put(other, "a", "new");
    CHECK_STR(get(late, "known"), "1");
    CHECK(kv_pending(late) == NULL);
    CHECK_STR(get(late, "a"), "new");
    CHECK(kv_pending(late) != NULL && kv_pending(late) == kv_pending(other));
    CHECK_OK(wait_pending(), &w->err);
    kv_pending_ticket(late, &(kv_ticket){0});
    CHECK(kv_pending(late) == NULL);
    CHECK_OK(kv_delete(other, LITERAL("a"), 0, &w->err), &w->err);
    CHECK_STR(get(late, "a"), "-"); /* that it is absent is news as well */
    CHECK(kv_pending(late) != NULL);
    CHECK_OK(wait_pending(), &w->err);
    put(other, "m", "1");
    kv_bytes keys[] = {LITERAL("known"), LITERAL("m"), LITERAL("absent")};
    CHECK_OK(kv_get_many(late, keys, 3, &values, &w->err), &w->err);
    CHECK(values.items[0].data != NULL && values.items[1].data != NULL && values.items[2].data == NULL);
    kv_values_release(&values);
    CHECK(kv_pending(late) != NULL && kv_pending(late) == kv_pending(other));
    CHECK_OK(wait_pending(), &w->err);
    put(other, "i", "1");
    CHECK_OK(kv_get_item(late, LITERAL("i"), 0, &item, &w->err), &w->err);
    kv_item_release(&item);
    kv_item_copy(&item, &item); /* nothing is held, nor by its copy */
    CHECK(item.pin == NULL);
    CHECK(kv_pending(late) == kv_pending(other));
    CHECK_OK(wait_pending(), &w->err);
    put(other, "e", "1");
    CHECK_OK(kv_get_expiry(late, LITERAL("e"), 0, &expiry, &w->err), &w->err);
    CHECK(kv_pending(late) == kv_pending(other));
    kv_destroy(other);
    end();
}

static void commit_pending(worker *me) {
    kv_error err;
    CHECK_OK(kv_ticket_wait(w->db, me->shared, &err), &err);
}

/* What it wrote itself comes after what it reads, which is on its way to the disk: that is what it waits for. */
static void test_a_read_of_an_earlier_group(void) {
    begin(KV_SYNC_ALWAYS);
    crew crew = {0};
    kv_db *other;
    kv_ticket first;
    CHECK_OK(kv_dup(w->db, true, &other, &w->err), &w->err);
    put(other, "a", "1");
    kv_pending_ticket(other, &first);
    const void *earlier = kv_pending(other);
    fault_os_gate_close(w->faults, FAULT_WRITE);
    crew_add(&crew, commit_pending, &first);
    do /* until the group is on its way */
        put(late, "b", "1");
    while (kv_pending(late) == earlier);
    const void *own = kv_pending(late);
    CHECK_STR(get(late, "a"), "1");
    CHECK(kv_pending(late) == own);
    fault_os_gate_open(w->faults, FAULT_WRITE);
    crew_join(&crew);
    CHECK_OK(wait_pending(), &w->err);
    CHECK_STR(get(w->db, "a"), "1");
    CHECK_STR(get(w->db, "b"), "1");
    kv_destroy(other);
    end();
}

static void test_interval_and_memory(void) {
    begin(KV_SYNC_INTERVAL);
    uint64_t writes = fault_os_calls(w->faults, FAULT_WRITE);
    put(late, "a", "1");
    CHECK_EQ(fault_os_calls(w->faults, FAULT_WRITE), writes);
    CHECK_STR(get(w->db, "a"), "-");
    CHECK_OK(wait_pending(), &w->err);
    CHECK(fault_os_calls(w->faults, FAULT_WRITE) > writes);
    CHECK_STR(get(w->db, "a"), "1");
    end();
    kv_db *memory;
    kv_error err;
    CHECK_OK(kv_open(NULL, NULL, &memory, &err), &err);
    CHECK_OK(kv_dup(memory, true, &late, &err), &err);
    CHECK_OK(kv_put(late, LITERAL("a"), LITERAL("1"), 0, &err), &err);
    CHECK(kv_pending(late) == NULL);
    CHECK_OK(kv_contains(memory, LITERAL("a"), 0, &err), &err);
    kv_settle(late);
    kv_destroy(late);
    kv_destroy(memory);
}

/* ---- When it cannot be committed ------------------------------------------------------------------ */

static void test_no_space_undoes(void) {
    begin(KV_SYNC_ALWAYS);
    put(w->db, "a", "old");
    fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_FOREVER);
    put(late, "a", "new");
    put(late, "b", "1");
    kv_ticket ticket;
    kv_pending_ticket(late, &ticket);
    CHECK_STATUS(kv_ticket_wait(w->db, &ticket, &w->err), KV_ERR_NOSPACE, &w->err);
    CHECK_STR(get(late, "a"), "old");
    CHECK_STR(get(late, "b"), "-");
    CHECK_EQ(count(late), 1);
    CHECK(kv_take_noted(late));
    fault_os_heal(w->faults);
    put(late, "b", "2"); /* and life goes on, at positions that were used before */
    CHECK_OK(wait_pending(), &w->err);
    CHECK_STR(get(w->db, "b"), "2");
    end();
}

/* It fails before anybody has taken a ticket. */
static void test_undone_before_the_ticket_is_taken(void) {
    begin(KV_SYNC_ALWAYS);
    fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_FOREVER);
    put(late, "a", "1");
    CHECK_OK(kv_make_durable(w->db, &w->err), &w->err); /* all that was committed */
    kv_ticket ticket;
    kv_pending_ticket(late, &ticket);
    CHECK(ticket.group != NULL);
    CHECK_STATUS(kv_ticket_try(&ticket, &w->err), KV_ERR_NOSPACE, &w->err);
    kv_pending_ticket(late, &ticket);
    CHECK(ticket.group == NULL && kv_pending(late) == NULL);
    fault_os_heal(w->faults);
    put(late, "a", "2");
    CHECK_OK(wait_pending(), &w->err);
    end();
}

/* A command that commits twice, and only the first commit is undone. */
static void test_undone_before_the_next_write(void) {
    begin(KV_SYNC_ALWAYS);
    for (unsigned commands = 1; commands <= 2; commands++) {
        fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_FOREVER);
        put(late, "a", "1");
        CHECK_OK(kv_make_durable(w->db, &w->err), &w->err);
        fault_os_heal(w->faults);
        if (commands == 2) /* the other write is another command's */
            CHECK(kv_take_noted(late));
        put(late, "b", "2");
        kv_status status = wait_pending();
        if (commands == 1)
            CHECK_STATUS(status, KV_ERR_NOSPACE, &w->err);
        else
            CHECK_OK(status, &w->err);
        CHECK_STR(get(late, "a"), "-");
        CHECK_STR(get(late, "b"), "2");
        CHECK_OK(wait_pending(), &w->err);
    }
    end();
}

static void test_failed_sync(void) {
    begin(KV_SYNC_ALWAYS);
    put(w->db, "a", "old");
    put(late, "a", "new");
    fault_os_fail(w->faults, FAULT_SYNC, 1, EIO, FAULT_FOREVER); /* the next may be that of a spare */
    CHECK_STATUS(wait_pending(), KV_ERR_FAILED, &w->err);
    CHECK_STR(get(late, "a"), "old");
    CHECK_STATUS(kv_put(late, LITERAL("a"), LITERAL("x"), 0, &w->err), KV_ERR_FAILED, &w->err);
    CHECK_STR(get(late, "a"), "old");
    kv_values values;
    kv_bytes key = LITERAL("a");
    CHECK_OK(kv_get_many(late, &key, 1, &values, &w->err), &w->err);
    CHECK_EQ(values.items[0].size, 3);
    kv_values_release(&values);
    kv_destroy(late);
    late = NULL;
    CHECK(world_try_close(w) < 0);
    world_destroy(w);
}

/* A handle that is closed with a write that nobody has waited for. */
static void test_close_flushes(void) {
    begin(KV_SYNC_ALWAYS);
    put(late, "a", "1");
    kv_destroy(late);
    late = NULL;
    CHECK_STR(get(w->db, "a"), "1");
    world_close(w);
    world_open(w);
    CHECK_STR(get(w->db, "a"), "1");
    world_destroy(w);
}

/* ---- What writes leave behind ------------------------------------------------------------------------ */

static uint64_t undo_records(void) {
    kv_stats stats;
    CHECK_OK(kv_get_stats(w->db, 0, &stats, &w->err), &w->err);
    return stats.undo_records;
}

static void test_settle(void) {
    char key[16];
    begin(KV_SYNC_ALWAYS);
    for (unsigned i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "key-%u", i);
        put(late, key, "value");
    }
    CHECK_EQ(undo_records(), 3000);
    kv_settle(late); /* nothing is committed yet */
    CHECK_EQ(undo_records(), 3000);
    CHECK_OK(wait_pending(), &w->err);
    kv_settle(late);
    CHECK_EQ(undo_records(), 0);
    CHECK_OK(kv_clear(late, 0, &w->err), &w->err);
    put(late, "a", "1");
    CHECK(undo_records() > 0);
    CHECK_OK(wait_pending(), &w->err);
    kv_settle(late);
    CHECK_EQ(undo_records(), 0);
    end();
}

typedef struct commits {
    kv_ticket ticket;
    _Atomic unsigned asked, done;
} commits;

enum { COMMITS = 1000 };

static void commit_each(worker *me) {
    commits *c = me->shared;
    kv_error err;
    for (unsigned i = 1; i <= COMMITS; i++) {
        while (atomic_load(&c->asked) < i)
            sched_yield();
        CHECK_OK(kv_ticket_wait(w->db, &c->ticket, &err), &err);
        atomic_store(&c->done, i);
    }
}

/* What is committed between two looks of kv_settle is not forgotten. */
static void test_settle_while_it_is_committed(void) {
    begin(KV_SYNC_NEVER);
    commits c = {0};
    crew crew = {0};
    crew_add(&crew, commit_each, &c);
    for (unsigned i = 1; i <= COMMITS; i++) {
        put(late, "a", "1");
        kv_pending_ticket(late, &c.ticket);
        atomic_store(&c.asked, i);
        while (atomic_load(&c.done) < i)
            kv_settle(late);
        kv_settle(late);
        CHECK_EQ(undo_records(), 0);
    }
    crew_join(&crew);
    end();
}

/* ---- Conditions -------------------------------------------------------------------------------------- */

static void test_conditions(void) {
    begin(KV_SYNC_ALWAYS);
    kv_item item;
    put(w->db, "a", "1");
    CHECK_OK(kv_get_item(w->db, LITERAL("a"), 0, &item, &w->err), &w->err);
    kv_op ops[] = {
        {.kind = KV_OP_PUT, .key = LITERAL("a"), .value = LITERAL("2"), .conditional = true, .expected = item.pin},
        {.kind = KV_OP_PUT, .key = LITERAL("b"), .value = LITERAL("2"), .conditional = true},
        {.kind = KV_OP_EXPECT, .key = LITERAL("c"), .conditional = true},
    };
    put(w->db, "c", "there");
    CHECK_EQ(kv_write(w->db, ops, 3, 0, NULL, &w->err), KV_UNCHANGED);
    CHECK_STR(get(w->db, "a"), "1");
    CHECK_STR(get(w->db, "b"), "-");
    CHECK_OK(kv_delete(w->db, LITERAL("c"), 0, &w->err), &w->err);
    CHECK_OK(kv_write(w->db, ops, 3, 0, NULL, &w->err), &w->err);
    CHECK_STR(get(w->db, "a"), "2");
    CHECK_STR(get(w->db, "b"), "2");
    CHECK_EQ(kv_write(w->db, ops, 3, 0, NULL, &w->err), KV_UNCHANGED); /* other entries now */
    put(w->db, "a", "1"); /* the same value, written anew, is another entry */
    CHECK_EQ(kv_write(w->db, ops, 1, 0, NULL, &w->err), KV_UNCHANGED);
    kv_item_release(&item);
    CHECK_OK(kv_get_item(w->db, LITERAL("a"), 0, &item, &w->err), &w->err);
    kv_op only = {.kind = KV_OP_EXPECT, .key = LITERAL("a"), .conditional = true, .expected = item.pin};
    kv_stats before, after;
    CHECK_OK(kv_get_stats(w->db, 0, &before, &w->err), &w->err);
    CHECK_OK(kv_write(w->db, &only, 1, 0, NULL, &w->err), &w->err);
    CHECK_OK(kv_get_stats(w->db, 0, &after, &w->err), &w->err);
    CHECK_EQ(before.lsn, after.lsn); /* writes nothing */
    kv_item_release(&item);
    kv_op twice[] = {ops[1], ops[1]};
    CHECK_STATUS(kv_write(w->db, twice, 2, 0, NULL, &w->err), KV_ERR_INVALID, &w->err);
    /* A condition that fails because of a write that is not committed: the answer waits for it. */
    put(late, "d", "1");
    kv_op absent = {.kind = KV_OP_EXPECT, .key = LITERAL("d"), .conditional = true};
    CHECK_EQ(kv_write(w->db, &absent, 1, 0, NULL, &w->err), KV_UNCHANGED);
    CHECK_STR(get(w->db, "d"), "1");
    end();
}

static void test_conditions_and_expiry(void) {
    begin(KV_SYNC_NEVER);
    kv_item item;
    world_set_clock(w, 1000);
    CHECK_OK(kv_put_expiring(w->db, LITERAL("a"), LITERAL("1"), 2000, 0, &w->err), &w->err);
    CHECK_OK(kv_get_item(w->db, LITERAL("a"), 0, &item, &w->err), &w->err);
    CHECK_EQ(item.expiry, 2000);
    kv_op still = {.kind = KV_OP_EXPECT, .key = LITERAL("a"), .conditional = true, .expected = item.pin};
    kv_op absent = {.kind = KV_OP_EXPECT, .key = LITERAL("a"), .conditional = true};
    CHECK_OK(kv_write(w->db, &still, 1, 0, NULL, &w->err), &w->err);
    CHECK_EQ(kv_write(w->db, &absent, 1, 0, NULL, &w->err), KV_UNCHANGED);
    world_set_clock(w, 2000);
    CHECK_EQ(kv_write(w->db, &still, 1, 0, NULL, &w->err), KV_UNCHANGED);
    CHECK_OK(kv_write(w->db, &absent, 1, 0, NULL, &w->err), &w->err);
    kv_item_release(&item);
    end();
}

/* ---- Walks --------------------------------------------------------------------------------------------- */

static unsigned char visited[20000];
static size_t visits;

static void visit(void *arg, const kv_item *item) {
    unsigned number = (unsigned)strtoul((const char *)item->key.data + 4, NULL, 10);
    (void)arg;
    CHECK(number < sizeof visited);
    visited[number]++;
    visits++;
}

static void test_scan(void) {
    char key[16];
    begin(KV_SYNC_NEVER);
    uint64_t position = 0;
    CHECK_OK(kv_scan(late, &position, 10, visit, NULL, &w->err), &w->err);
    CHECK_EQ(position, 0);
    CHECK_EQ(visits, 0);
    unsigned keys = 0, calls = 0;
    for (; keys < 2000; keys++) {
        snprintf(key, sizeof key, "key-%u\n", keys);
        put(late, key, "v");
    }
    do { /* the table grows tenfold on the way */
        size_t before = visits;
        CHECK_OK(kv_scan(late, &position, 7, visit, NULL, &w->err), &w->err);
        CHECK(visits - before <= 7);
        for (unsigned i = 0; i < 100 && keys < sizeof visited; i++, keys++) {
            snprintf(key, sizeof key, "key-%u\n", keys);
            put(late, key, "v");
        }
        CHECK(++calls < sizeof visited);
    } while (position != 0);
    for (unsigned i = 0; i < keys; i++)
        CHECK(visited[i] == 1 || (visited[i] == 0 && i >= 2000));
    CHECK_EQ(count(late), keys);
    CHECK_OK(wait_pending(), &w->err);
    /* An ordinary handle walks over what is visible. */
    memset(visited, 0, sizeof visited);
    put(late, "key-0\n", "other");
    CHECK_OK(kv_delete(late, LITERAL("key-1\n"), 0, &w->err), &w->err);
    visits = 0;
    do
        CHECK_OK(kv_scan(w->db, &position, 1000, visit, NULL, &w->err), &w->err);
    while (position != 0);
    CHECK_EQ(visits, keys);
    visits = 0;
    do
        CHECK_OK(kv_scan(late, &position, 1000, visit, NULL, &w->err), &w->err);
    while (position != 0);
    CHECK_EQ(visits, keys - 1);
    CHECK(kv_pending(late) != NULL);
    CHECK_OK(kv_random_position(late, &position, &w->err), &w->err);
    end();
}

/* ---- Opening again ---------------------------------------------------------------------------------------- */

static void test_reopen(void) {
    begin(KV_SYNC_ALWAYS);
    put(w->db, "a", "1");
    CHECK_STATUS(kv_reopen(w->db, &w->err), KV_ERR_INVALID, &w->err); /* `late` is there, too */
    kv_destroy(late);
    CHECK_OK(kv_reopen(w->db, &w->err), &w->err);
    CHECK_STR(get(w->db, "a"), "1");
    kv_recovery recovery;
    kv_get_recovery(w->db, &recovery);
    CHECK(recovery.clean && !recovery.created && recovery.records == 1);
    put(w->db, "b", "2");
    CHECK_OK(kv_reopen(w->db, &w->err), &w->err);
    CHECK_EQ(count(w->db), 2);
    CHECK_OK(kv_dup(w->db, true, &late, &w->err), &w->err);
    put(late, "c", "3");
    end();
}

static void test_reopen_fails(void) {
    begin(KV_SYNC_ALWAYS);
    put(w->db, "a", "1");
    kv_destroy(late);
    fault_os_fail(w->faults, FAULT_LOCK, 1, EIO, 0);
    CHECK(kv_reopen(w->db, &w->err) < 0);
    CHECK(kv_is_closed(w->db));
    CHECK_STATUS(kv_put(w->db, LITERAL("a"), LITERAL("1"), 0, &w->err), KV_ERR_CLOSED, &w->err);
    kv_destroy(w->db);
    w->db = NULL;
    CHECK_EQ(memory_os_open_count(w->memory), 0);
    world_open(w);
    CHECK_STR(get(w->db, "a"), "1");
    world_destroy(w);
}

/* ---- Several threads ---------------------------------------------------------------------------------------- */

#define ROUNDS 400u
static _Atomic unsigned durable[THREADS_MAX]; /* rounds of which the thread knows that they are on disk */

/* A loop as a server has it: some writes, then one wait for all.  Odd ones are ordinary threads, and readers. */
static void loop(worker *me) {
    kv_error err;
    kv_db *db;
    char key[16], text[16];
    int size = snprintf(key, sizeof key, "loop-%u", me->id);
    CHECK_OK(kv_dup(w->db, me->id % 2 == 0, &db, &err), &err);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        int64_t result;
        int length = snprintf(text, sizeof text, "%u", round);
        CHECK_OK(kv_put(db, bytes_of(key, (size_t)size), bytes_of(text, (size_t)length), 0, &err), &err);
        CHECK_OK(kv_incr(db, LITERAL("sum"), 1, 0, &result, &err), &err);
        kv_ticket ticket;
        kv_pending_ticket(db, &ticket);
        if (random_below(&me->random, 4) == 0) {
            CHECK_OK(kv_ticket_wait(db, &ticket, &err), &err);
            atomic_store(&durable[me->id], round);
        }
        kv_ticket_forget(&ticket);
        kv_settle(db);
        /* What an ordinary read shows of another loop is at least what that one knows to be durable. */
        unsigned other = (unsigned)random_below(&me->random, 4), known = atomic_load(&durable[other]);
        int other_size = snprintf(text, sizeof text, "loop-%u", other);
        kv_value value;
        kv_status status = kv_get(w->db, bytes_of(text, (size_t)other_size), 0, &value, &err);
        if (status == KV_OK) {
            char digits[16] = {0};
            memcpy(digits, value.data, value.size);
            CHECK(strtoul(digits, NULL, 10) >= known);
            kv_value_release(&value);
        } else {
            CHECK_EQ(status, KV_NOTFOUND);
            CHECK_EQ(known, 0);
        }
    }
    kv_destroy(db);
}

static void test_loops(void) {
    crew crew = {0};
    begin(KV_SYNC_ALWAYS);
    for (unsigned i = 0; i < 4; i++)
        crew_add(&crew, loop, NULL);
    crew_join(&crew);
    char sum[16];
    snprintf(sum, sizeof sum, "%u", 4 * ROUNDS);
    CHECK_STR(get(w->db, "sum"), sum);
    CHECK_EQ(undo_records(), 0);
    end();
}

/* Counts up by conditions alone: nobody's step is lost. */
static void count_up(worker *me) {
    kv_error err;
    kv_db *db;
    CHECK_OK(kv_dup(w->db, me->id % 2 == 0, &db, &err), &err);
    for (unsigned done = 0; done < ROUNDS;) {
        kv_item item = {0};
        char text[16] = {0};
        kv_status status = kv_get_item(db, LITERAL("n"), 0, &item, &err);
        if (status == KV_OK)
            memcpy(text, item.value.data, item.value.size);
        int size = snprintf(text, sizeof text, "%lu", strtoul(text, NULL, 10) + 1);
        kv_op op = {.kind = KV_OP_PUT, .key = LITERAL("n"), .value = bytes_of(text, (size_t)size),
                    .conditional = true, .expected = item.pin};
        kv_status written = kv_write(db, &op, 1, 0, NULL, &err);
        CHECK(written == KV_OK || written == KV_UNCHANGED);
        done += written == KV_OK;
        if (status == KV_OK)
            kv_item_release(&item);
    }
    kv_destroy(db);
}

static void test_conditions_in_threads(void) {
    crew crew = {0};
    begin(KV_SYNC_NEVER);
    for (unsigned i = 0; i < 4; i++)
        crew_add(&crew, count_up, NULL);
    crew_join(&crew);
    char sum[16];
    snprintf(sum, sizeof sum, "%u", 4 * ROUNDS);
    CHECK_STR(get(w->db, "n"), sum);
    end();
}

enum { UNDONE = 2000 / SLOWER };

typedef struct in_vain {
    bool deletes;
    _Atomic bool done;
} in_vain;

static void write_in_vain(worker *me) {
    in_vain *v = me->shared;
    kv_error err;
    while (!atomic_load(&v->done))
        CHECK_STATUS(v->deletes ? kv_delete(w->db, LITERAL("a"), 0, &err)
                                : kv_put(w->db, LITERAL("b"), LITERAL("x"), 0, &err),
                     KV_ERR_NOSPACE, &err);
}

static void count_visits(void *arg, const kv_item *item) {
    (void)item;
    ++*(uint64_t *)arg;
}

/* What the look found: 1 when it is what is committed. */
static uint64_t found_by(unsigned way) {
    uint64_t found = 0, position = 0;
    kv_item item;
    if (way == 0)
        return count(late);
    if (way == 1) {
        CHECK_OK(kv_scan(late, &position, 10, count_visits, &found, &w->err), &w->err);
        return found;
    }
    kv_status status = kv_pop_any(late, 0, &item, &w->err);
    if (status == KV_OK)
        kv_item_release(&item);
    return status == KV_OK;
}

/* Whoever saw a commit that is undone at that moment waits for it all the same, and is told. */
static void test_looks_while_it_is_undone(void) {
    for (unsigned way = 0; way < 3; way++) {
        crew crew = {0};
        in_vain v = {.deletes = way == 2};
        unsigned seen = 0;
        begin(KV_SYNC_NEVER);
        put(w->db, "a", "1");
        fault_os_fail(w->faults, FAULT_WRITE, 1, ENOSPC, FAULT_FOREVER);
        crew_add(&crew, write_in_vain, &v);
        for (unsigned i = 0; seen < UNDONE && i < 50 * UNDONE; i++) {
            bool other = found_by(way) != 1;
            kv_status status = wait_pending();
            CHECK(!other || status == KV_ERR_NOSPACE);
            seen += other;
            if (i % 64 == 0)
                kv_settle(late);
        }
        atomic_store(&v.done, true);
        crew_join(&crew);
        fault_os_heal(w->faults);
        CHECK_STR(get(w->db, "a"), "1");
        end();
    }
}

CHECK_MAIN(TEST(test_write_returns_before_it_is_durable), TEST(test_each_way_to_write), TEST(test_reads_note_what_they_see),
           TEST(test_a_read_of_an_earlier_group), TEST(test_interval_and_memory), TEST(test_no_space_undoes), TEST(test_undone_before_the_ticket_is_taken),
           TEST(test_undone_before_the_next_write), TEST(test_failed_sync), TEST(test_close_flushes), TEST(test_settle), TEST(test_settle_while_it_is_committed),
           TEST(test_conditions), TEST(test_conditions_and_expiry), TEST(test_scan), TEST(test_reopen), TEST(test_reopen_fails), TEST(test_loops),
           TEST(test_conditions_in_threads), TEST(test_looks_while_it_is_undone))
