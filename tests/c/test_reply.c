/* test_reply.c - the queue of replies: what each call writes, and a plain string that must stay the same through
 * writing, cutting, replacing and sending. */
#include "check.h"

#include <float.h>
#include <locale.h>
#include <math.h>

#include "base/mem.h"
#include "model.h"
#include "server/reply.h"

#define NEVER UINT64_MAX

/* ---- What is in a queue ------------------------------------------------------------------------------ */

/* What waits before `limit`, in one block (the caller's to free), with a NUL behind it. */
static char *waiting_before(const kv_reply *r, uint64_t limit, size_t *size) {
    struct iovec pieces[4000];
    size_t count = kv_reply_pieces(r, limit, pieces, 4000);
    CHECK(count < 4000);
    *size = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(pieces[i].iov_len > 0);
        *size += pieces[i].iov_len;
    }
    char *text = malloc(*size + 1), *to = text;
    for (size_t i = 0; i < count; i++) {
        memcpy(to, pieces[i].iov_base, pieces[i].iov_len);
        to += pieces[i].iov_len;
    }
    *to = '\0';
    return text;
}

static char *waiting(const kv_reply *r, size_t *size) {
    char *text = waiting_before(r, UINT64_MAX, size);
    CHECK_EQ(*size, r->end - r->start);
    return text;
}

/* Takes all that waits, and says that it was sent. */
static const char *sent(kv_reply *r) {
    static char *last;
    size_t size;
    free(last);
    last = waiting(r, &size);
    kv_reply_sent(r, size);
    CHECK_EQ(r->start, r->end);
    return last;
}

static void check_fini(kv_reply *r) {
    kv_reply_fini(r);
    CHECK_EQ(r->memory_bytes, 0);
    CHECK(r->first == NULL && r->last == NULL && r->spare == NULL);
}

#define CHECK_WRITES(r, call, wanted)                                                            \
    do {                                                                                         \
        call;                                                                                    \
        CHECK_STR(sent(r), wanted);                                                              \
    } while (0)

/* ---- Replies ---------------------------------------------------------------------------------------------- */

static void test_both_protocols(void) {
    kv_reply r;
    kv_reply_init(&r);
    for (int protocol = 2; protocol <= 3; protocol++) {
        bool two = protocol == 2;
        r.protocol = (uint8_t)protocol;
        CHECK_WRITES(&r, kv_reply_ok(&r), "+OK\r\n");
        CHECK_WRITES(&r, kv_reply_status(&r, "PONG"), "+PONG\r\n");
        CHECK_WRITES(&r, kv_reply_status(&r, ""), "+\r\n");
        CHECK_WRITES(&r, kv_reply_error(&r, "ERR syntax error"), "-ERR syntax error\r\n");
        CHECK_WRITES(&r, kv_reply_errorf(&r, "ERR %d of '%s'", 3, "x"), "-ERR 3 of 'x'\r\n");
        CHECK_WRITES(&r, kv_reply_integer(&r, 7), ":7\r\n");
        CHECK_WRITES(&r, kv_reply_bulk(&r, "abc", 3), "$3\r\nabc\r\n");
        CHECK_WRITES(&r, kv_reply_bulk(&r, NULL, 0), "$0\r\n\r\n");
        CHECK_WRITES(&r, kv_reply_bulk_text(&r, "0123456789"), "$10\r\n0123456789\r\n");
        CHECK_WRITES(&r, kv_reply_bulk_integer(&r, -12), "$3\r\n-12\r\n");
        CHECK_WRITES(&r, kv_reply_null(&r), two ? "$-1\r\n" : "_\r\n");
        CHECK_WRITES(&r, kv_reply_null_array(&r), two ? "*-1\r\n" : "_\r\n");
        CHECK_WRITES(&r, kv_reply_array(&r, 0), "*0\r\n");
        CHECK_WRITES(&r, kv_reply_array(&r, 123), "*123\r\n");
        CHECK_WRITES(&r, kv_reply_map(&r, 6), two ? "*12\r\n" : "%6\r\n");
        CHECK_WRITES(&r, kv_reply_set(&r, 6), two ? "*6\r\n" : "~6\r\n");
        CHECK_WRITES(&r, kv_reply_push(&r, 3), two ? "*3\r\n" : ">3\r\n");
        CHECK_WRITES(&r, kv_reply_bool(&r, true), two ? ":1\r\n" : "#t\r\n");
        CHECK_WRITES(&r, kv_reply_bool(&r, false), two ? ":0\r\n" : "#f\r\n");
        CHECK_WRITES(&r, kv_reply_verbatim(&r, "txt", "abc", 3),
                     two ? "$3\r\nabc\r\n" : "=7\r\ntxt:abc\r\n");
        CHECK_WRITES(&r, kv_reply_raw(&r, "raw\r\n", 5), "raw\r\n");
        CHECK_WRITES(&r, kv_reply_raw(&r, NULL, 0), "");
    }
    check_fini(&r);
}

/* No text can begin another reply. */
static void test_lines_stay_one_line(void) {
    kv_reply r;
    kv_reply_init(&r);
    CHECK_WRITES(&r, kv_reply_error(&r, "ERR a\r\n+OK\r\n"), "-ERR a  +OK  \r\n");
    CHECK_WRITES(&r, kv_reply_status(&r, "\na\rb"), "+ a b\r\n");
    CHECK_WRITES(&r, kv_reply_errorf(&r, "ERR '%s' %c%c", "\r\n", '\0', '\n'), "-ERR '  '   \r\n");
    char text[3000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    kv_reply_errorf(&r, "ERR %s", text);
    CHECK_EQ(strlen(sent(&r)), 1 + 511 + 2);
    kv_reply_error(&r, text);
    CHECK_EQ(strlen(sent(&r)), 1 + 2999 + 2);
    check_fini(&r);
}

static void test_integers(void) {
    kv_reply r;
    kv_reply_init(&r);
    char wanted[40];
    uint64_t power = 1;
    for (int digits = 1; digits <= 20; digits++, power *= 10)
        for (int around = -1; around <= 1; around++)
            for (int sign = -1; sign <= 1; sign += 2) {
                int64_t value = (int64_t)((power + (uint64_t)around) * (uint64_t)sign);
                snprintf(wanted, sizeof wanted, ":%" PRId64 "\r\n", value);
                CHECK_WRITES(&r, kv_reply_integer(&r, value), wanted);
                snprintf(wanted, sizeof wanted, "*%zu\r\n", (size_t)power + (size_t)around);
                CHECK_WRITES(&r, kv_reply_array(&r, (size_t)power + (size_t)around), wanted);
            }
    CHECK_WRITES(&r, kv_reply_integer(&r, INT64_MAX), ":9223372036854775807\r\n");
    CHECK_WRITES(&r, kv_reply_integer(&r, INT64_MIN), ":-9223372036854775808\r\n");
    CHECK_WRITES(&r, kv_reply_bulk_integer(&r, INT64_MIN), "$20\r\n-9223372036854775808\r\n");
    CHECK_WRITES(&r, kv_reply_array(&r, SIZE_MAX), "*18446744073709551615\r\n");
    check_random random = random_stream(1);
    for (int i = 0; i < 20000; i++) {
        int64_t value = (int64_t)random_next(&random) >> random_below(&random, 64);
        snprintf(wanted, sizeof wanted, ":%" PRId64 "\r\n", value);
        CHECK_WRITES(&r, kv_reply_integer(&r, value), wanted);
    }
    check_fini(&r);
}

static void test_doubles(void) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        {0, "0"}, {-0.0, "-0"}, {1, "1"}, {-3, "-3"}, {0.5, "0.5"}, {0.1, "0.10000000000000001"},
        {3.25e100, "3.25e+100"}, {1e16, "10000000000000000"}, {1e17, "1e+17"},
        {123456789012, "123456789012"}, {DBL_MAX, "1.7976931348623157e+308"},
        {-DBL_MIN, "-2.2250738585072014e-308"}, {INFINITY, "inf"}, {-INFINITY, "-inf"},
        {NAN, "nan"}, {-NAN, "nan"},
    };
    kv_reply r;
    kv_reply_init(&r);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char wanted[60];
        r.protocol = 3;
        snprintf(wanted, sizeof wanted, ",%s\r\n", cases[i].text);
        CHECK_WRITES(&r, kv_reply_double(&r, cases[i].value), wanted);
        r.protocol = 2;
        snprintf(wanted, sizeof wanted, "$%zu\r\n%s\r\n", strlen(cases[i].text), cases[i].text);
        CHECK_WRITES(&r, kv_reply_double(&r, cases[i].value), wanted);
    }
    check_fini(&r);
}

/* ---- Large values --------------------------------------------------------------------------------------------- */

typedef struct values {
    kv_db *db;
    kv_item items[3]; /* one byte less than what is pinned, just pinned, a large one */
} values;

static const size_t value_sizes[3] = {KV_REPLY_PIN_MIN - 1, KV_REPLY_PIN_MIN, 100000};

static void values_make(values *v) {
    kv_error err;
    CHECK_OK(kv_open(NULL, NULL, &v->db, &err), &err);
    for (int i = 0; i < 3; i++) {
        char key = (char)('0' + i), *value = malloc(value_sizes[i]);
        for (size_t j = 0; j < value_sizes[i]; j++)
            value[j] = (char)('a' + (i + (int)j * 7) % 26);
        CHECK_OK(kv_put(v->db, bytes_of(&key, 1), bytes_of(value, value_sizes[i]), 0, &err), &err);
        free(value);
        CHECK_OK(kv_pop_any(v->db, 0, &v->items[i], &err), &err);
    }
}

static void values_release(values *v) {
    for (int i = 0; i < 3; i++)
        kv_item_release(&v->items[i]);
}

/* kv_verify, which counts references among other things, and the end. */
static void values_end(values *v) {
    kv_error err;
    CHECK_OK(kv_verify(v->db, &err), &err);
    CHECK_OK(kv_close(v->db, &err), &err);
    kv_destroy(v->db);
}

static void test_pins_are_not_copied(void) {
    values v;
    kv_reply r;
    values_make(&v);
    kv_reply_init(&r);
    for (int i = 0; i < 3; i++) {
        struct iovec pieces[4];
        kv_reply_value(&r, &v.items[i]);
        size_t count = kv_reply_pieces(&r, UINT64_MAX, pieces, 4);
        CHECK_EQ(count, i == 0 ? 1 : 3);
        if (i > 0) {
            CHECK(pieces[1].iov_base == v.items[i].value.data);
            CHECK_EQ(pieces[1].iov_len, value_sizes[i]);
        }
        kv_reply_sent(&r, (size_t)(r.end - r.start));
    }
    check_fini(&r);
    values_release(&v);
    values_end(&v);
}

/* A pin outlives the key (which is popped), the caller's reference, and the store's handle. */
static void test_pins_outlive_the_store(void) {
    values v;
    kv_reply r;
    values_make(&v);
    kv_reply_init(&r);
    char *wanted = malloc(300000), *to = wanted;
    for (int i = 0; i < 3; i++) {
        kv_reply_value(&r, &v.items[i]);
        to += sprintf(to, "$%zu\r\n", value_sizes[i]);
        memcpy(to, v.items[i].value.data, value_sizes[i]);
        to += value_sizes[i];
        to += sprintf(to, "\r\n");
    }
    values_release(&v);
    values_end(&v);
    CHECK_STR(sent(&r), wanted);
    check_fini(&r);
    free(wanted);
}

/* What waits costs little more than its bytes; what was sent, nothing. */
static void test_memory_is_counted(void) {
    values v;
    kv_reply r;
    values_make(&v);
    kv_reply_init(&r);
    CHECK_EQ(r.memory_bytes, 0);
    for (int i = 0; i < 1000; i++) {
        kv_reply_value(&r, &v.items[1]);
        kv_reply_ok(&r);
    }
    uint64_t bytes = r.end - r.start;
    CHECK(r.memory_bytes >= bytes && r.memory_bytes <= bytes + bytes / 10 + 20000);
    while (r.start < r.end) {
        kv_reply_sent(&r, r.end - r.start < 5000 ? (size_t)(r.end - r.start) : 5000);
        CHECK(r.memory_bytes <= (r.end - r.start) * 11 / 10 + 40000);
    }
    CHECK(r.memory_bytes <= 16384);
    kv_reply_trim(&r);
    CHECK_EQ(r.memory_bytes, 0);
    for (int i = 0; i < 100000; i++)
        kv_reply_bulk(&r, "0123456789", 10);
    bytes = r.end - r.start;
    CHECK(r.memory_bytes >= bytes && r.memory_bytes <= bytes + bytes / 10 + 20000);
    kv_reply_cut(&r, r.start + 10);
    CHECK(r.memory_bytes <= 32768);
    char *large = malloc(5000000);
    memset(large, 'x', 5000000);
    kv_reply_bulk(&r, large, 5000000);
    CHECK(r.memory_bytes <= 5100000);
    free(large);
    check_fini(&r);
    values_release(&v);
    values_end(&v);
}

static void test_muted(void) {
    values v;
    kv_reply r;
    values_make(&v);
    kv_reply_init(&r);
    for (int round = 0; round < 2; round++) {
        r.muted = true;
        for (r.protocol = 2; r.protocol <= 3; r.protocol++) {
            uint64_t position = kv_reply_position(&r);
            kv_reply_ok(&r);
            kv_reply_error(&r, "ERR x");
            kv_reply_integer(&r, 100);
            kv_reply_bulk(&r, "x", 1);
            kv_reply_value(&r, &v.items[0]);
            kv_reply_value(&r, &v.items[2]);
            kv_reply_double(&r, 0.5);
            kv_reply_verbatim(&r, "txt", "x", 1);
            kv_reply_map(&r, 1);
            kv_reply_raw(&r, "x", 1);
            kv_reply_raw(&r, NULL, 0);
            CHECK_EQ(kv_reply_position(&r), position);
        }
        r.muted = false;
        r.protocol = 2;
        kv_reply_ok(&r);
        kv_reply_cut(&r, kv_reply_position(&r) - 2);
    }
    CHECK_STR(sent(&r), "+OK+OK");
    check_fini(&r);
    values_release(&v);
    values_end(&v);
}

/* ---- A plain string beside the queue ----------------------------------------------------------------- */

typedef struct plain {
    char *bytes; /* all since the beginning, as it is now */
    size_t start, end;
} plain;

static void plain_add(plain *p, const void *bytes, size_t size) {
    if (size > 0)
        memcpy(p->bytes + p->end, bytes, size);
    p->end += size;
}

static void plain_replace(plain *p, size_t from, size_t to, const void *bytes, size_t size) {
    memmove(p->bytes + from + size, p->bytes + to, p->end - to);
    if (size > 0)
        memcpy(p->bytes + from, bytes, size);
    p->end += size - (to - from);
}

#define PLAIN_MAX (8u << 20)

/* Somewhere from `from` to `to`; near one of them more often than not. */
static size_t pick(check_random *random, size_t from, size_t to) {
    size_t span = to - from, near = span < 60 ? span : 60;
    switch (random_below(random, 3)) {
    case 0:
        return from + random_below(random, near + 1);
    case 1:
        return to - random_below(random, near + 1);
    default:
        return from + random_below(random, span + 1);
    }
}

/* One random call on both. */
static void random_step(check_random *random, kv_reply *r, plain *p, values *v, const char *text) {
    size_t size, from, to;
    char head[40];
    switch (random_below(random, 12)) {
    case 0:
    case 1:
    case 2:
        size = random_below(random, random_below(random, 10) ? 100 : 40000);
        kv_reply_bulk(r, text, size);
        plain_add(p, head, (size_t)sprintf(head, "$%zu\r\n", size));
        plain_add(p, text, size);
        plain_add(p, "\r\n", 2);
        break;
    case 3:
    case 4: {
        const kv_item *item = &v->items[random_below(random, 3)];
        kv_reply_value(r, item);
        plain_add(p, head, (size_t)sprintf(head, "$%zu\r\n", item->value.size));
        plain_add(p, item->value.data, item->value.size);
        plain_add(p, "\r\n", 2);
        break;
    }
    case 5:
        for (size = random_below(random, 200); size > 0; size--) {
            kv_reply_ok(r);
            plain_add(p, "+OK\r\n", 5);
        }
        break;
    case 6:
        size = random_below(random, random_below(random, 10) ? 20 : 2500000);
        kv_reply_raw(r, text, size);
        plain_add(p, text, size);
        break;
    case 7:
        from = pick(random, p->start, p->end);
        kv_reply_cut(r, from);
        p->end = from;
        break;
    case 8:
    case 9: {
        size_t a = pick(random, p->start, p->end), b = pick(random, p->start, p->end);
        if (random_below(random, 2))
            b = a + random_below(random, p->end - a + 1) % 50;
        from = a < b ? a : b, to = a < b ? b : a;
        size = random_below(random, random_below(random, 10) ? 60 : 20000);
        CHECK_EQ(kv_reply_replace(r, from, to, text, size), (int64_t)size - (int64_t)(to - from));
        plain_replace(p, from, to, text, size);
        break;
    }
    case 10:
        size = pick(random, p->start, p->end) - p->start;
        kv_reply_sent(r, size);
        p->start += size;
        break;
    default:
        kv_reply_trim(r);
        break;
    }
}

static void check_same(const kv_reply *r, const plain *p, check_random *random) {
    size_t size;
    CHECK_EQ(r->start, p->start);
    CHECK_EQ(r->end, p->end);
    char *text = waiting(r, &size);
    CHECK_MEM(text, p->bytes + p->start, size);
    free(text);

    size_t limit = pick(random, p->start, p->end);
    text = waiting_before(r, limit, &size);
    CHECK_EQ(size, limit - p->start);
    free(text);

    struct iovec pieces[3]; /* less than there are: a beginning of them */
    size_t count = kv_reply_pieces(r, limit, pieces, random_below(random, 4)), at = p->start;
    for (size_t i = 0; i < count; i++) {
        CHECK_MEM(pieces[i].iov_base, p->bytes + at, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    CHECK(at <= limit);
}

static void test_random_calls(void) {
    check_random random = random_stream(2);
    values v;
    values_make(&v);
    char *text = malloc(2500000);
    random_fill(&random, text, 2500000);
    plain p = {.bytes = malloc(PLAIN_MAX)};
    for (int round = 0; round < 150; round++) {
        kv_reply r;
        kv_reply_init(&r);
        p.start = p.end = 0;
        for (int i = 0; i < 60 && p.end < PLAIN_MAX - 2600000; i++) {
            random_step(&random, &r, &p, &v, text);
            check_same(&r, &p, &random);
        }
        CHECK(!r.broken);
        check_fini(&r);
    }
    free(p.bytes);
    free(text);
    values_release(&v);
    values_end(&v);
}

/* Many short replacements, as after a failed commit of a long pipeline. */
static void test_replacing_each(void) {
    enum { COUNT = 5000 };
    static const char error[] = "-MISCONF the write was undone\r\n";
    kv_reply r;
    kv_reply_init(&r);
    for (int i = 0; i < COUNT; i++)
        kv_reply_ok(&r);
    kv_reply_sent(&r, 5);
    int64_t moved = 0;
    for (int i = 1; i < COUNT; i++)
        if (i % 3 != 0) {
            uint64_t from = (uint64_t)(i * 5 + moved);
            moved += kv_reply_replace(&r, from, from + 5, error, sizeof error - 1);
        }
    CHECK(r.memory_bytes < (r.end - r.start) * 4); /* they did not break it to pieces */
    const char *text = sent(&r);
    for (int i = 1; i < COUNT; i++) {
        const char *wanted = i % 3 != 0 ? error : "+OK\r\n";
        CHECK(strncmp(text, wanted, strlen(wanted)) == 0);
        text += strlen(wanted);
    }
    CHECK_STR(text, "");
    check_fini(&r);
}

/* ---- Without memory ---------------------------------------------------------------------------------- */

/* The n-th request fails: what is there is a beginning of what would be there, and nothing leaks. */
static void test_writing_without_memory(void) {
    values v;
    values_make(&v);
    char *wanted = NULL;
    size_t wanted_size = 0;
    char *large = malloc(3000000);
    memset(large, 'x', 3000000);
    for (uint64_t n = 0, last = 0; last == 0; n++) {
        kv_reply r;
        kv_reply_init(&r);
        r.protocol = 3;
        kv_mem_fail_at(wanted == NULL ? NEVER : n - 1, n % 2);
        for (int i = 0; i < 1500; i++) {
            kv_reply_ok(&r);
            kv_reply_integer(&r, i);
            kv_reply_bulk(&r, "12345", 5);
            if (i % 50 == 0) {
                kv_reply_value(&r, &v.items[i / 50 % 3]);
                kv_reply_error(&r, "ERR x");
                kv_reply_verbatim(&r, "txt", "1234", 4);
                kv_reply_double(&r, 1.5);
            }
        }
        kv_reply_bulk(&r, large, 3000000);
        kv_reply_ok(&r);
        kv_mem_fail_at(NEVER, false);
        size_t size;
        char *text = waiting(&r, &size);
        if (wanted == NULL) {
            CHECK(!r.broken);
            wanted = text;
            wanted_size = size;
        } else {
            CHECK(r.broken ? size < wanted_size : size == wanted_size);
            CHECK_MEM(text, wanted, size);
            last = !r.broken;
            free(text);
        }
        uint64_t end = r.end;
        if (r.broken) { /* it takes nothing more, whatever memory there is */
            kv_reply_ok(&r);
            kv_reply_value(&r, &v.items[2]);
            kv_reply_raw(&r, large, 100000);
            CHECK_EQ(r.end, end);
            kv_reply_cut(&r, end - end / 2);
            kv_reply_ok(&r);
            CHECK_EQ(r.end, end - end / 2);
        }
        kv_reply_sent(&r, (size_t)(r.end - r.start) / 2);
        check_fini(&r);
        if (last)
            CHECK(n > 20);
    }
    free(wanted);
    free(large);
    values_release(&v);
    values_end(&v);
}

/* A replacement that finds no memory: nothing from `from` on can be sent. */
static void test_replacing_without_memory(void) {
    values v;
    values_make(&v);
    check_random random = random_stream(3);
    char *text = malloc(30000);
    random_fill(&random, text, 30000);
    plain p = {.bytes = malloc(PLAIN_MAX)};
    unsigned broken = 0;
    for (int round = 0; round < 1500; round++) {
        kv_reply r;
        kv_reply_init(&r);
        p.start = p.end = 0;
        for (int i = 0; i < 6; i++) {
            const kv_item *item = &v.items[random_below(&random, 3)];
            uint64_t from = r.end;
            kv_reply_value(&r, item);
            kv_reply_bulk(&r, text, random_below(&random, 200));
            size_t size, start = (size_t)from;
            char *all = waiting(&r, &size);
            memcpy(p.bytes + start, all + start, size - start);
            free(all);
        }
        p.end = (size_t)r.end;
        size_t a = pick(&random, 0, p.end), b = pick(&random, 0, p.end);
        size_t from = a < b ? a : b, to = a < b ? b : a, size = random_below(&random, 30000);
        kv_mem_fail_at(random_below(&random, 3), random_below(&random, 2));
        int64_t moved = kv_reply_replace(&r, from, to, text, size);
        kv_mem_fail_at(NEVER, false);
        CHECK_EQ(r.end, (int64_t)p.end + moved);
        if (r.broken) {
            broken++;
            CHECK_EQ(r.end, from);
            p.end = from;
        } else {
            plain_replace(&p, from, to, text, size);
        }
        check_same(&r, &p, &random);
        check_fini(&r);
    }
    CHECK(broken > 100);
    free(p.bytes);
    free(text);
    values_release(&v);
    values_end(&v);
}

CHECK_MAIN(TEST(test_both_protocols), TEST(test_lines_stay_one_line), TEST(test_integers),
           TEST(test_doubles), TEST(test_pins_are_not_copied), TEST(test_pins_outlive_the_store),
           TEST(test_memory_is_counted), TEST(test_muted), TEST(test_random_calls),
           TEST(test_replacing_each), TEST(test_writing_without_memory),
           TEST(test_replacing_without_memory))
