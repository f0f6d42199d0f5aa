/* test_resp.c - the parser of requests: what it finds, every error, every limit, whatever the bytes' way of coming. */
#include "check.h"

#include "base/mem.h"
#include "server/resp.h"

static const kv_resp_limits ordinary = {.args_max = 1000, .bulk_max = 100000, .inline_max = 300};

/* ---- What a parser says about a stream, as one text --------------------------------------------------- */

typedef struct transcript {
    char *text;
    size_t size, capacity;
} transcript;

static void add(transcript *t, const void *bytes, size_t size) {
    if (t->size + size + 1 > t->capacity) {
        t->capacity = (t->size + size + 1) * 2;
        t->text = realloc(t->text, t->capacity);
    }
    if (size > 0)
        memcpy(t->text + t->size, bytes, size);
    t->size += size;
    t->text[t->size] = '\0';
}

__attribute__((format(printf, 2, 3))) static void addf(transcript *t, const char *format, ...) {
    char text[200];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add(t, text, (size_t)size);
}

static void add_request(transcript *t, const kv_bytes *argv, size_t argc) {
    for (size_t i = 0; i < argc; i++) {
        addf(t, "%s%zu:", i > 0 ? " " : "", argv[i].size);
        add(t, argv[i].data, argv[i].size);
    }
    addf(t, "|");
}

/* A stream that comes in parts.  Each part makes the buffer move, and the buffer ends where the bytes do. */
typedef struct stream {
    kv_resp_parser parser;
    const kv_resp_limits *limits;
    uint8_t *bytes; /* owned */
    size_t size;
    transcript said;
    bool ended; /* by an error */
} stream;

static void stream_init(stream *s, const kv_resp_limits *limits) {
    *s = (stream){.limits = limits};
    kv_resp_init(&s->parser);
}

static void stream_fini(stream *s) {
    kv_resp_fini(&s->parser);
    free(s->bytes);
    free(s->said.text);
}

/* The buffer without its first `gone` bytes, and with `size` more: always another block. */
static void stream_move(stream *s, size_t gone, const void *more, size_t size) {
    uint8_t *bytes = malloc(s->size - gone + size + 1);
    bytes = realloc(bytes, s->size - gone + size > 0 ? s->size - gone + size : 1);
    if (s->size > gone)
        memcpy(bytes, s->bytes + gone, s->size - gone);
    if (size > 0)
        memcpy(bytes + (s->size - gone), more, size);
    free(s->bytes);
    s->bytes = bytes;
    s->size = s->size - gone + size;
}

static void stream_feed(stream *s, const void *bytes, size_t size) {
    if (s->ended)
        return;
    stream_move(s, 0, bytes, size);
    for (;;) {
        const kv_bytes *argv;
        size_t argc, used, wanted = 0;
        const char *error;
        kv_resp_result result = kv_resp_parse(&s->parser, s->limits, s->bytes, s->size, &argv,
                                              &argc, &used, &wanted, &error);
        switch (result) {
        case KV_RESP_MORE:
            CHECK(wanted > 0);
            return;
        case KV_RESP_REQUEST:
            CHECK(used > 0 && used <= s->size);
            for (size_t i = 0; i < argc; i++)
                CHECK((const uint8_t *)argv[i].data >= s->bytes &&
                      (const uint8_t *)argv[i].data + argv[i].size <= s->bytes + used);
            add_request(&s->said, argv, argc);
            stream_move(s, used, NULL, 0);
            break;
        case KV_RESP_BAD:
            addf(&s->said, "<%s>", error);
            s->ended = true;
            return;
        default:
            FAIL("result %d", result);
        }
    }
}

/* ---- Streams and what is in them ------------------------------------------------------------------------ */

typedef struct example {
    const char *bytes;
    size_t size;
    const char *said;
} example;

#define EXAMPLE(bytes, said) {bytes, sizeof(bytes) - 1, said}
#define ERROR(text) "<Protocol error: " text ">"

static const example examples[] = {
    EXAMPLE("*1\r\n$4\r\nPING\r\n", "4:PING|"),
    EXAMPLE("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "3:GET 0:|"),
    EXAMPLE("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\n123456789012\r\n*1\r\n$1\r\nx\r\n",
            "3:SET 1:k 12:123456789012|1:x|"),
    EXAMPLE("*11\r\n$1\r\n0\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$1\r\n5\r\n$1\r\n6\r\n"
            "$1\r\n7\r\n$1\r\n8\r\n$1\r\n9\r\n$1\r\na\r\n",
            "1:0 1:1 1:2 1:3 1:4 1:5 1:6 1:7 1:8 1:9 1:a|"),
    /* arguments are any bytes */
    EXAMPLE("*2\r\n$6\r\n\r\n$1\r\n\r\n$4\r\n*1\r\n\r\n", "6:\r\n$1\r\n 4:*1\r\n|"),
    /* what stands at the place of an end of line does not matter */
    EXAMPLE("*1\rX$1\rYaZZ", "1:a|"),
    /* empty ones */
    EXAMPLE("*0\r\n*-1\r\n*-9223372036854775808\r\n\r\n\n*1\r\n$1\r\na\r\n", "|||||1:a|"),
    /* counts */
    EXAMPLE("*1001\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*20000000\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*200000000\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*3000000000\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*9223372036854775807\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*9223372036854775808\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*-9223372036854775809\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*18446744073709551617\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*-\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*-0\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*-01\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*01\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*00\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*+1\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("* 1\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*1 \r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*1x\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*1\n\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*blabla\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*\0\r\n", ERROR("invalid multibulk length")),
    EXAMPLE("*1\r\n$1\r\na\r\n*x\r\n", "1:a|" ERROR("invalid multibulk length")),
    /* lengths */
    EXAMPLE("*1\r\n$-1\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$100001\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$2000000000\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$9223372036854775807\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$99999999999999999999\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$01\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$blabla\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*2\r\n$1\r\na\r\n$1:\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*2\r\n$1\r\na\r\n$\r\n", ERROR("invalid bulk length")),
    EXAMPLE("*1\r\n$1\r\na\r\n*\r\n", "1:a|" ERROR("invalid multibulk length")),
    /* no bulk string */
    EXAMPLE("*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", ERROR("expected '$', got 'f'")),
    EXAMPLE("*1\r\n*1\r\n", ERROR("expected '$', got '*'")),
    EXAMPLE("*1\r\n\r\n", ERROR("expected '$', got '\\x0d'")),
    EXAMPLE("*1\r\n\0", ERROR("expected '$', got '\\x00'")),
    EXAMPLE("*1\r\n\xff", ERROR("expected '$', got '\\xff'")),
    /* inline */
    EXAMPLE("PING\r\n", "4:PING|"),
    EXAMPLE("PING\n", "4:PING|"),
    EXAMPLE("  SET  k\tv \r\nGET k\n", "3:SET 1:k 1:v|3:GET 1:k|"),
    EXAMPLE("\v\fa\vb\r\n", "3:a\vb|"),
    EXAMPLE("a\rb\n", "1:a 1:b|"),
    EXAMPLE("a\r\r\n", "1:a|"),
    EXAMPLE("*1\r\n$1\r\na\r\nb\r\n*1\r\n$1\r\nc\r\n", "1:a|1:b|1:c|"),
    EXAMPLE("set k \"a b\"\r\n", "3:set 1:k 3:a b|"),
    EXAMPLE("\"\" ''\n", "0: 0:|"),
    EXAMPLE("\"\\n\\r\\t\\b\\a\\\\\\\"\\q\"\n", "8:\n\r\t\b\a\\\"q|"),
    EXAMPLE("\"\\x41\\xfF\\x4\\xg1\\x\"\n", "8:A\xffx4xg1x|"),
    EXAMPLE("'a\\'b\\nc\"'\n", "7:a'b\\nc\"|"),
    EXAMPLE("'\\x41\\n'\n", "6:\\x41\\n|"),
    EXAMPLE("'a\\\\'\n", ERROR("unbalanced quotes in request")), /* \' */
    EXAMPLE("foo\"bar\"\n", "6:foobar|"),
    EXAMPLE("a\\x41\\n\n", "7:a\\x41\\n|"), /* escapes are for quotes only */
    EXAMPLE("set \"\"\"k\"\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("\"a\"b\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("'a'b\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("\"a\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("\"a\\\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("\"a\\\"\r\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("'a\r\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("'a\\'\n", ERROR("unbalanced quotes in request")),
    EXAMPLE("\"\n", ERROR("unbalanced quotes in request")),
    /* a NUL ends the words of a line */
    EXAMPLE("a b\0c d\r\ne\n", "1:a 1:b|1:e|"),
    EXAMPLE("\0\r\na\n", "|1:a|"),
    EXAMPLE("\"a\0\"\r\n", ERROR("unbalanced quotes in request")),
};

#define EXAMPLES (sizeof examples / sizeof examples[0])

/* Text with what cannot be printed made visible: for failures. */
static const char *visible(const char *bytes, size_t size) {
    static char text[2000];
    size_t n = 0;
    for (size_t i = 0; i < size && n + 5 < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              bytes[i] >= ' ' && bytes[i] <= '~' ? "%c" : "\\x%02x",
                              (uint8_t)bytes[i]);
    text[n] = '\0';
    return text;
}

static void check_said(const stream *s, const example *e, const char *how) {
    const char *said = s->said.text != NULL ? s->said.text : "";
    if (strcmp(said, e->said) != 0) { /* none of the examples says a NUL */
        printf("# %s\n", visible(e->bytes, e->size));
        FAIL("%s: says %s, not %s", how, said, e->said);
    }
    CHECK(s->ended || s->size == 0);
}

static void test_examples(void) {
    for (size_t i = 0; i < EXAMPLES; i++) {
        const example *e = &examples[i];
        stream s;
        stream_init(&s, &ordinary);
        stream_feed(&s, e->bytes, e->size);
        check_said(&s, e, "at once");
        stream_fini(&s);
    }
}

static void test_examples_split_at_every_byte(void) {
    for (size_t i = 0; i < EXAMPLES; i++)
        for (size_t at = 0; at <= examples[i].size; at++)
            for (size_t then = at; then <= examples[i].size; then++) {
                const example *e = &examples[i];
                stream s;
                stream_init(&s, &ordinary);
                stream_feed(&s, e->bytes, at);
                stream_feed(&s, e->bytes + at, then - at);
                stream_feed(&s, e->bytes + then, e->size - then);
                check_said(&s, e, "split");
                stream_fini(&s);
            }
}

static void test_examples_byte_by_byte(void) {
    for (size_t i = 0; i < EXAMPLES; i++) {
        const example *e = &examples[i];
        stream s;
        stream_init(&s, &ordinary);
        for (size_t at = 0; at < e->size; at++)
            stream_feed(&s, e->bytes + at, 1);
        check_said(&s, e, "byte by byte");
        stream_fini(&s);
    }
}

/* All good ones in one pipeline, in parts of each size. */
static void test_pipeline(void) {
    transcript all = {0}, said = {0};
    for (size_t i = 0; i < EXAMPLES; i++)
        if (strchr(examples[i].said, '<') == NULL) {
            add(&all, examples[i].bytes, examples[i].size);
            add(&said, examples[i].said, strlen(examples[i].said));
        }
    for (size_t part = 1; part <= all.size; part++) {
        stream s;
        stream_init(&s, &ordinary);
        for (size_t at = 0; at < all.size; at += part)
            stream_feed(&s, all.text + at, part < all.size - at ? part : all.size - at);
        CHECK_EQ(s.said.size, said.size);
        CHECK_MEM(s.said.text, said.text, said.size);
        CHECK_EQ(s.size, 0);
        stream_fini(&s);
    }
    free(all.text);
    free(said.text);
}

/* ---- Limits ------------------------------------------------------------------------------------------------ */

static void check_stream(const kv_resp_limits *limits, const void *bytes, size_t size,
                         const char *wanted) {
    for (int parts = 0; parts < 2; parts++) {
        stream s;
        stream_init(&s, limits);
        if (parts == 0)
            stream_feed(&s, bytes, size);
        else
            for (size_t i = 0; i < size; i++)
                stream_feed(&s, (const uint8_t *)bytes + i, 1);
        CHECK_STR(s.said.text != NULL ? s.said.text : "", wanted);
        stream_fini(&s);
    }
}

#define CHECK_STREAM(limits, bytes, wanted) check_stream(limits, bytes, strlen(bytes), wanted)

static void test_limits_of_counts(void) {
    static const kv_resp_limits limits = {.args_max = 2, .bulk_max = 3, .inline_max = 100};
    CHECK_STREAM(&limits, "*1\r\n$2\r\nab\r\n", "2:ab|");
    CHECK_STREAM(&limits, "*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n", "3:abc 3:abc|");
    CHECK_STREAM(&limits, "*3\r\n", ERROR("invalid multibulk length"));
    CHECK_STREAM(&limits, "*1\r\n$4\r\n", ERROR("invalid bulk length"));
    CHECK_STREAM(&limits, "a b\n", "1:a 1:b|");
    CHECK_STREAM(&limits, "a b c\n", ERROR("invalid multibulk length"));
    CHECK_STREAM(&limits, "abc\n", "3:abc|");
    CHECK_STREAM(&limits, "a abcd\n", ERROR("invalid bulk length"));

    static const kv_resp_limits early = {
        .args_max = 2, .bulk_max = 3, .inline_max = 100, .unauthenticated = true};
    CHECK_STREAM(&early, "*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n", "3:abc 3:abc|");
    CHECK_STREAM(&early, "*3\r\n", ERROR("unauthenticated multibulk length"));
    CHECK_STREAM(&early, "*1\r\n$4\r\n", ERROR("unauthenticated bulk length"));
    CHECK_STREAM(&early, "a b c\n", ERROR("unauthenticated multibulk length"));
    CHECK_STREAM(&early, "a abcd\n", ERROR("unauthenticated bulk length"));
    CHECK_STREAM(&early, "*x\r\n", ERROR("invalid multibulk length"));
    CHECK_STREAM(&early, "*1\r\n$-1\r\n", ERROR("invalid bulk length"));

    /* As large as they can be. */
    static const kv_resp_limits none = {
        .args_max = UINT32_MAX, .bulk_max = UINT64_MAX, .inline_max = UINT32_MAX};
    CHECK_STREAM(&none, "*4294967296\r\n", ERROR("invalid multibulk length"));
    CHECK_STREAM(&none, "*4294967295\r\n$9223372036854775807\r\nabc", "");
    CHECK_STREAM(&none, "*1\r\n$9223372036854775808\r\n", ERROR("invalid bulk length"));
}

/* A line of `size` bytes that begin with `mark`, and its end. */
static void check_line(const char *before, char mark, char filler, size_t size, const char *end,
                       const char *wanted) {
    transcript t = {0};
    add(&t, before, strlen(before));
    add(&t, &mark, 1);
    for (size_t i = 1; i < size; i++)
        add(&t, &filler, 1);
    add(&t, end, strlen(end));
    check_stream(&ordinary, t.text, t.size, wanted);
    free(t.text);
}

static void test_limits_of_lines(void) {
    size_t max = ordinary.inline_max;
    check_line("", ' ', ' ', max - 1, "\r\n", "|");
    check_line("", ' ', ' ', max, "\n", "|");
    check_line("", ' ', ' ', max, "\r\n", ERROR("too big inline request"));
    check_line("", ' ', ' ', max + 1, "\n", ERROR("too big inline request"));
    check_line("", ' ', ' ', max, "", "");
    check_line("", ' ', ' ', max + 1, "", ERROR("too big inline request"));
    check_line("", '*', '1', max, "\r\n", ERROR("invalid multibulk length"));
    check_line("", '*', '1', max + 1, "\r\n", ERROR("too big mbulk count string"));
    check_line("", '*', '1', max, "", "");
    check_line("", '*', '1', max + 1, "", ERROR("too big mbulk count string"));
    check_line("*1\r\n", '$', '1', max, "\r\n", ERROR("invalid bulk length"));
    check_line("*1\r\n", '$', '1', max + 1, "\r\n", ERROR("too big bulk count string"));
    check_line("*1\r\n", '$', '1', max, "", "");
    check_line("*1\r\n", '$', '1', max + 1, "", ERROR("too big bulk count string"));
}

/* ---- What is wanted, remembered, kept ------------------------------------------------------------------------ */

static size_t parse_wanted(kv_resp_parser *parser, char *bytes, size_t size) {
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted = 0;
    CHECK_EQ(kv_resp_parse(parser, &ordinary, (uint8_t *)bytes, size, &argv, &argc, &used, &wanted,
                           &error),
             KV_RESP_MORE);
    return wanted;
}

static void test_wanted(void) {
    kv_resp_parser parser;
    kv_resp_init(&parser);
    char bytes[] = "*2\r\n$10\r\n0123456789\r\n$70000\r\n";
    CHECK_EQ(parse_wanted(&parser, bytes, 0), 1);
    CHECK_EQ(parse_wanted(&parser, bytes, 3), 1);
    CHECK_EQ(parse_wanted(&parser, bytes, 4), 1);
    CHECK_EQ(parse_wanted(&parser, bytes, 9), 12);
    CHECK_EQ(parse_wanted(&parser, bytes, 12), 9);
    CHECK_EQ(parse_wanted(&parser, bytes, 19), 2);
    CHECK_EQ(parse_wanted(&parser, bytes, 20), 1);
    CHECK_EQ(parse_wanted(&parser, bytes, 21), 1);
    CHECK_EQ(parse_wanted(&parser, bytes, 29), 70002);
    kv_resp_fini(&parser);
}

/* What has been looked at is not looked at again: it may become anything. */
static void test_nothing_is_read_twice(void) {
    kv_resp_parser parser;
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted;
    char line[] = "abc def\n", array[] = "*2\r\n$1\r\na\r\n$0000\r\n";
    kv_resp_init(&parser);
    parse_wanted(&parser, line, 5);
    memcpy(line, "\n\n\n\n\n", 5);
    CHECK_EQ(kv_resp_parse(&parser, &ordinary, (uint8_t *)line, 8, &argv, &argc, &used, &wanted,
                           &error),
             KV_RESP_REQUEST);
    CHECK_EQ(used, 8);
    CHECK_EQ(argc, 1);

    memcpy(array, "*2\r\n$1\r\na\r\n$1\r\nb\r\n", 18);
    for (size_t size = 0; size < 18; size++) {
        parse_wanted(&parser, array, size);
        if (size == 11) /* the first argument is there */
            memcpy(array, "xxxxxxxxxxx", 11);
    }
    CHECK_EQ(kv_resp_parse(&parser, &ordinary, (uint8_t *)array, 18, &argv, &argc, &used, &wanted,
                           &error),
             KV_RESP_REQUEST);
    CHECK_EQ(argc, 2);
    CHECK(argv[0].data == array + 8 && argv[1].data == array + 15);
    kv_resp_fini(&parser);
}

/* An announcement costs nothing; what has come, in proportion; and it is given back. */
static void test_memory_follows_arguments(void) {
    enum { COUNT = 5000 };
    kv_resp_limits limits = {.args_max = 1u << 20, .bulk_max = 100, .inline_max = 65536};
    kv_resp_parser parser;
    const kv_bytes *argv;
    const char *error;
    size_t argc, used, wanted;
    uint8_t *bytes = malloc(COUNT * 7 + 100);
    kv_resp_init(&parser);
    size_t size = (size_t)sprintf((char *)bytes, "*1000000\r\n");
    CHECK_EQ(kv_resp_parse(&parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error),
             KV_RESP_MORE);
    CHECK(wanted < 100);
    CHECK(kv_resp_memory(&parser) < 1000);
    for (size_t i = 1; i <= COUNT; i++) {
        memcpy(bytes + size, "$1\r\na\r\n", 7);
        size += 7;
        CHECK_EQ(kv_resp_parse(&parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error),
                 KV_RESP_MORE);
        CHECK(kv_resp_memory(&parser) <= (i < 16 ? 16 : 2 * i) * sizeof(kv_bytes));
    }
    kv_resp_trim(&parser); /* not in the middle of a request */
    CHECK(kv_resp_memory(&parser) >= COUNT * sizeof(kv_bytes));
    kv_resp_fini(&parser);

    for (int way = 0; way < 2; way++) {
        size = (size_t)sprintf((char *)bytes, "*%d\r\n", COUNT);
        for (size_t i = 0; i < COUNT; i++, size += 7)
            memcpy(bytes + size, "$1\r\na\r\n", 7);
        CHECK_EQ(kv_resp_parse(&parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error),
                 KV_RESP_REQUEST);
        CHECK_EQ(argc, COUNT);
        CHECK(kv_resp_memory(&parser) > 10000);
        if (way == 0)
            kv_resp_trim(&parser);
        else
            CHECK_EQ(kv_resp_parse(&parser, &limits, bytes, 1, &argv, &argc, &used, &wanted, &error),
                     KV_RESP_MORE);
        CHECK(kv_resp_memory(&parser) < 10000);
        kv_resp_fini(&parser);
    }
    free(bytes);
}

/* Each request for memory fails once: the call is made again, and all is as it would have been. */
static void test_no_memory(void) {
    transcript t = {0};
    addf(&t, "*300\r\n");
    for (int i = 0; i < 300; i++)
        addf(&t, "$3\r\n%03d\r\n", i);
    addf(&t, "first 'sec\\'ond' third\r\n*1\r\n$1\r\nx\r\n");
    for (size_t part = 1; part <= t.size; part = part * 3 + 1) {
        stream calm;
        stream_init(&calm, &ordinary);
        stream_feed(&calm, t.text, t.size);
        for (uint64_t n = 0;; n++) {
            kv_resp_parser parser;
            transcript said = {0};
            size_t from = 0, to = 0;
            bool failed = false;
            uint8_t *bytes = malloc(t.size);
            memcpy(bytes, t.text, t.size);
            kv_resp_init(&parser);
            kv_mem_fail_at(n, false);
            while (from < t.size) {
                const kv_bytes *argv;
                const char *error;
                size_t argc, used, wanted;
                switch (kv_resp_parse(&parser, &ordinary, bytes + from, to - from, &argv, &argc,
                                      &used, &wanted, &error)) {
                case KV_RESP_MORE:
                    to = to + part < t.size ? to + part : t.size;
                    break;
                case KV_RESP_REQUEST:
                    add_request(&said, argv, argc);
                    from += used;
                    break;
                case KV_RESP_NOMEM:
                    CHECK(!failed);
                    failed = true;
                    break;
                default:
                    FAIL("an error");
                }
            }
            kv_mem_fail_at(UINT64_MAX, false);
            CHECK_EQ(said.size, calm.said.size);
            CHECK_MEM(said.text, calm.said.text, said.size);
            kv_resp_fini(&parser);
            free(said.text);
            free(bytes);
            if (!failed) {
                CHECK(n >= 5);
                break;
            }
        }
        stream_fini(&calm);
    }
    free(t.text);
}

/* ---- Random streams against a parser that is simple ------------------------------------------------------------- */

/* Says what is in all of the stream, which lies there as a whole. */
typedef struct simple {
    const kv_resp_limits *limits;
    const char *bytes;
    size_t size, at;
    transcript said;
} simple;

/* The line at `at` up to `mark`; -1: not there; -2: too long. */
static long simple_line(const simple *s, char mark) {
    for (size_t i = s->at; i < s->size; i++) {
        if (i - s->at > s->limits->inline_max)
            return -2;
        if (s->bytes[i] == mark)
            return (long)(i - s->at);
    }
    return s->size - s->at > s->limits->inline_max ? -2 : -1;
}

/* 1: a number; 0: more is needed; -1: an error was said. */
static int simple_number(simple *s, const char *what, const char *invalid, long long *number) {
    long length = simple_line(s, '\r');
    if (length == -2) {
        addf(&s->said, "<Protocol error: too big %s count string>", what);
        return -1;
    }
    if (length < 0 || s->at + (size_t)length + 2 > s->size)
        return 0;
    char text[400], back[30];
    snprintf(text, sizeof text, "%.*s", (int)length - 1, s->bytes + s->at + 1);
    *number = strtoll(text, NULL, 10);
    snprintf(back, sizeof back, "%lld", *number);
    if (strcmp(text, back) != 0 || strlen(text) != (size_t)length - 1) {
        addf(&s->said, "<Protocol error: invalid %s>", invalid);
        return -1;
    }
    s->at += (size_t)length + 2;
    return 1;
}

static bool simple_array(simple *s) {
    long long count, length;
    if (simple_number(s, "mbulk", "multibulk length", &count) != 1)
        return false;
    if (count > s->limits->args_max) {
        addf(&s->said, ERROR("invalid multibulk length"));
        return false;
    }
    transcript request = {0};
    bool whole = false;
    for (long long i = 0; i < count; i++) {
        if (s->at == s->size)
            goto out;
        uint8_t mark = (uint8_t)s->bytes[s->at];
        if (mark != '$') {
            addf(&s->said, mark >= 32 && mark < 127 ? ERROR("expected '$', got '%c'")
                                                    : ERROR("expected '$', got '\\x%02x'"),
                 mark);
            goto out;
        }
        if (simple_number(s, "bulk", "bulk length", &length) != 1)
            goto out;
        if (length < 0 || (uint64_t)length > s->limits->bulk_max) {
            addf(&s->said, ERROR("invalid bulk length"));
            goto out;
        }
        if (s->size - s->at < (size_t)length + 2)
            goto out;
        addf(&request, "%s%lld:", i > 0 ? " " : "", length);
        add(&request, s->bytes + s->at, (size_t)length);
        s->at += (size_t)length + 2;
    }
    whole = true;
    add(&s->said, request.text, request.size);
    addf(&s->said, "|");
out:
    free(request.text);
    return whole;
}

/* Words without quotes: the examples have those. */
static bool simple_inline(simple *s) {
    long length = simple_line(s, '\n');
    if (length == -2)
        addf(&s->said, ERROR("too big inline request"));
    if (length < 0)
        return false;
    char line[400];
    snprintf(line, sizeof line, "%.*s", (int)length, s->bytes + s->at);
    s->at += (size_t)length + 1;
    size_t count = 0;
    for (const char *p = line; *(p += strspn(p, " \t\r\n\v\f")) != '\0'; count++) {
        size_t size = strcspn(p, " \t\r\n");
        addf(&s->said, "%s%zu:", count > 0 ? " " : "", size);
        add(&s->said, p, size);
        p += size;
    }
    addf(&s->said, "|");
    return true;
}

static void add_random(transcript *t, check_random *random) {
    switch (random_below(random, 12)) {
    case 0:
        addf(t, "word%s other\n", random_below(random, 2) ? "\r" : "");
        return;
    case 1:
        addf(t, "\r\n");
        return;
    case 2:
        addf(t, "*%d\r\n", (int)random_below(random, 3) - 2);
        return;
    }
    uint64_t count = random_below(random, random_below(random, 10) ? 5 : 40) + 1;
    addf(t, "*%" PRIu64 "\r\n", count);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t bytes[3000];
        size_t size = random_below(random, random_below(random, 8) ? 12 : sizeof bytes);
        random_fill(random, bytes, size);
        addf(t, "$%zu\r\n", size);
        add(t, bytes, size);
        addf(t, "\r\n");
    }
}

static void damage(transcript *t, check_random *random) {
    static const char bytes[] = "*$\r\n0123456789-+ \t\va\xff";
    size_t at = random_below(random, t->size);
    switch (random_below(random, 3)) {
    case 0:
        t->text[at] = bytes[random_below(random, sizeof bytes)]; /* a NUL, too */
        break;
    case 1:
        memmove(t->text + at, t->text + at + 1, t->size - at - 1);
        t->size--;
        break;
    default:
        t->size = at;
        break;
    }
}

static void test_random_streams(void) {
    check_random random = random_stream(0);
    for (int round = 0; round < 3000; round++) {
        kv_resp_limits limits = {.args_max = 30, .bulk_max = 2500, .inline_max = 40};
        transcript t = {0};
        for (uint64_t n = random_below(&random, 8) + 1; n > 0; n--)
            add_random(&t, &random);
        for (uint64_t n = random_below(&random, 3); n > 0 && t.size > 0; n--)
            damage(&t, &random);

        simple simple = {.limits = &limits, .bytes = t.text, .size = t.size};
        if (t.size == 0 || memchr(t.text, '"', t.size) || memchr(t.text, '\'', t.size)) {
            free(t.text);
            continue; /* a damaged count can make a line of an argument */
        }
        while (simple.at < simple.size)
            if (!(simple.bytes[simple.at] == '*' ? simple_array(&simple) : simple_inline(&simple)))
                break;

        stream s;
        stream_init(&s, &limits);
        size_t most = random_below(&random, 2) ? t.size : random_below(&random, 60) + 1;
        for (size_t at = 0; at < t.size;) {
            size_t part = random_below(&random, most) + 1;
            if (part > t.size - at)
                part = t.size - at;
            stream_feed(&s, t.text + at, part);
            at += part;
        }
        if (s.said.size != simple.said.size ||
            (s.said.size > 0 && memcmp(s.said.text, simple.said.text, s.said.size) != 0)) {
            printf("# %s\n", visible(t.text, t.size));
            printf("# says   %s\n", visible(s.said.text, s.said.size));
            printf("# simple %s\n", visible(simple.said.text, simple.said.size));
            FAIL("round %d", round);
        }
        stream_fini(&s);
        free(simple.said.text);
        free(t.text);
    }
}

CHECK_MAIN(TEST(test_examples), TEST(test_examples_split_at_every_byte),
           TEST(test_examples_byte_by_byte), TEST(test_pipeline), TEST(test_limits_of_counts),
           TEST(test_limits_of_lines), TEST(test_wanted), TEST(test_nothing_is_read_twice),
           TEST(test_memory_follows_arguments), TEST(test_no_memory), TEST(test_random_streams))
