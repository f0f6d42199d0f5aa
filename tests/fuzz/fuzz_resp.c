/* fuzz_resp.c - the parser of requests gets any bytes, in any parts.
 *
 * The input's first byte chooses limits, the second one how the rest comes in parts.  What the parser says about the
 * bytes must not depend on the parts, and keeps what resp.h promises: arguments lie in the request's bytes, in
 * order; limits hold; memory is in proportion to what came. */
#include "fuzz.h"
#include "server/resp.h"

enum { WHOLE = 0, BYTES = 1, PARTS = 2 };

/* What was said, as a number. */
typedef struct account {
    uint64_t hash;
    size_t requests;
    size_t consumed; /* bytes of whole requests */
    bool bad;
    char error[80];
} account;

static void note(account *a, const void *bytes, size_t size) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < size; i++)
        a->hash = (a->hash ^ p[i]) * UINT64_C(0x100000001b3);
    a->hash = (a->hash ^ size) * UINT64_C(0x100000001b3);
}

static void check_request(const kv_resp_limits *limits, const uint8_t *bytes, size_t size, size_t used,
                          const kv_bytes *argv, size_t argc) {
    const uint8_t *behind = bytes;
    DEMAND(used > 0 && used <= size);
    DEMAND(argc <= limits->args_max);
    for (size_t i = 0; i < argc; i++) {
        const uint8_t *arg = argv[i].data;
        DEMAND(argv[i].size <= limits->bulk_max);
        DEMAND(arg >= behind && arg + argv[i].size <= bytes + used);
        behind = arg + argv[i].size;
    }
}

/* Parses all requests that are in the buffer; false: no more will come of it. */
static bool parse_some(kv_resp_parser *parser, const kv_resp_limits *limits, uint8_t *bytes, size_t size,
                       size_t *gone, account *a) {
    *gone = 0;
    for (;;) {
        const kv_bytes *argv = NULL;
        const char *error = NULL;
        size_t argc = 0, used = 0, wanted = 0;
        switch (kv_resp_parse(parser, limits, bytes + *gone, size - *gone, &argv, &argc, &used,
                              &wanted, &error)) {
        case KV_RESP_MORE:
            DEMAND(wanted > 0 && wanted <= limits->bulk_max + 2);
            DEMAND(kv_resp_memory(parser) <= 4096 + 8 * (size - *gone));
            return true;
        case KV_RESP_REQUEST:
            check_request(limits, bytes + *gone, size - *gone, used, argv, argc);
            for (size_t i = 0; i < argc; i++)
                note(a, argv[i].data, argv[i].size);
            note(a, &argc, sizeof argc);
            a->requests++;
            a->consumed += used;
            *gone += used;
            break;
        case KV_RESP_BAD:
            DEMAND(error != NULL && strncmp(error, "Protocol error: ", 16) == 0);
            for (const char *p = error; *p != '\0'; p++)
                DEMAND(*p >= ' ' && *p <= '~');
            DEMAND(strlen(error) < sizeof a->error);
            strcpy(a->error, error);
            a->bad = true;
            return false;
        default:
            DEMAND(!"memory");
        }
    }
}

static account run(const kv_resp_limits *limits, const uint8_t *data, size_t size, int how,
                   uint32_t state) {
    account a = {.hash = UINT64_C(0xcbf29ce484222325)};
    kv_resp_parser parser;
    kv_resp_init(&parser);
    uint8_t *bytes = fuzz_copy(NULL, 0);
    size_t here = 0;
    for (size_t at = 0; at < size;) {
        size_t part = how == WHOLE ? size : how == BYTES ? 1 : fuzz_next(&state) % 40 + 1;
        if (part > size - at)
            part = size - at;
        uint8_t *more = malloc(here + part); /* the buffer moves */
        DEMAND(more != NULL);
        memcpy(more, bytes, here);
        memcpy(more + here, data + at, part);
        free(bytes);
        bytes = more;
        here += part;
        at += part;
        size_t gone;
        if (!parse_some(&parser, limits, bytes, here, &gone, &a))
            break;
        uint8_t *rest = fuzz_copy(bytes + gone, here - gone);
        free(bytes);
        bytes = rest;
        here -= gone;
        if (here == 0)
            kv_resp_trim(&parser);
    }
    free(bytes);
    kv_resp_fini(&parser);
    return a;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const kv_resp_limits choices[] = {
        {.args_max = 1 << 20, .bulk_max = 512 << 20, .inline_max = 65536},
        {.args_max = 10, .bulk_max = 100, .inline_max = 50, .unauthenticated = true},
        {.args_max = 3, .bulk_max = 5, .inline_max = 10},
        {.args_max = UINT32_MAX, .bulk_max = UINT64_MAX - 2, .inline_max = UINT32_MAX},
    };
    if (size < 2 || size > 8192)
        return 0;
    const kv_resp_limits *limits = &choices[data[0] % 4];
    uint32_t state = data[1];
    account whole = run(limits, data + 2, size - 2, WHOLE, 0);
    for (int how = BYTES; how <= PARTS; how++) {
        if (how == BYTES && size > 600)
            continue; /* takes the square of its size, for the copies */
        account other = run(limits, data + 2, size - 2, how, state);
        DEMAND(whole.requests == other.requests && whole.consumed == other.consumed);
        DEMAND(whole.hash == other.hash);
        DEMAND(whole.bad == other.bad && strcmp(whole.error, other.error) == 0);
    }
    return 0;
}
