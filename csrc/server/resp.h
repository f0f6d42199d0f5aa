/* resp.h - the request side of the Redis protocol: bytes in, one request out.
 *
 * Layer: server (a leaf).  Never touches a socket and keeps no bytes: a request's arguments point into
 * the caller's buffer.  Two forms: an array of bulk strings (*2\r\n$3\r\nGET\r\n...), and an inline line of words
 * (with quotes and escapes, which are undone in place).  Bounded by the limits that the caller gives.
 *
 * A parser remembers how far it has come in a request that is not complete, so no byte is looked at twice, however
 * slowly they come; it does so by offsets from the request's first byte, so the buffer may move.  What it answers
 * depends on the bytes only, never on how they came.
 *
 * As Redis does, it takes any two bytes for the end of an argument, and any byte behind the \r of a count: what ends
 * where is said by the counts.
 */
#ifndef KV_SERVER_RESP_H
#define KV_SERVER_RESP_H

#include "../kv.h"

typedef struct kv_resp_limits {
    uint32_t args_max;    /* of one request */
    uint64_t bulk_max;    /* bytes of one argument */
    uint32_t inline_max;  /* bytes of one line: an inline request, or a count */
    bool unauthenticated; /* these are for clients that have not given the password yet: the errors say so */
} kv_resp_limits;

typedef struct kv_resp_parser {
    kv_bytes *args;     /* owned; room for args_capacity.  Grows as arguments come, not as they are announced.
                           While a request is not complete, `data` holds offsets */
    size_t args_capacity;
    size_t args_count;  /* found so far */
    int64_t args_left;  /* of a multibulk request; -1: between requests */
    int64_t bulk_left;  /* the length of the bulk string at hand; -1: its length line is to come */
    size_t position;    /* of this request: where the line or the bulk string at hand begins */
    size_t scanned;     /* of that line: bytes that have no end of line among them */
    char text[48];      /* an error that tells what came */
} kv_resp_parser;

typedef enum kv_resp_result {
    KV_RESP_MORE,    /* not complete */
    KV_RESP_REQUEST, /* *argc (may be 0: an empty line or array, to be passed over) and *used */
    KV_RESP_BAD,     /* a protocol error: `*error` is the reply's text without "-ERR "; close after it */
    KV_RESP_NOMEM,   /* nothing is lost: the same call may be made again */
} kv_resp_result;

void kv_resp_init(kv_resp_parser *parser);
void kv_resp_fini(kv_resp_parser *parser);

/* Looks for a request at `bytes`, which begins where the last one ended.  KV_RESP_REQUEST: `*argv` (borrowed until the
 * next call; points into `bytes`), `*argc`, and `*used` bytes that it took.  KV_RESP_MORE: call again with the same
 * bytes and more behind them; `*wanted`: how many more are needed at least (a hint for the buffer: the rest of a
 * large argument, as announced; somebody who announces much need not send it).  KV_RESP_BAD: `*error`, borrowed from
 * the parser.  Each is set by its own result only.  Inline arguments are unescaped in place: `bytes` is changed. */
kv_resp_result kv_resp_parse(kv_resp_parser *parser, const kv_resp_limits *limits, uint8_t *bytes, size_t size,
                             const kv_bytes **argv, size_t *argc, size_t *used, size_t *wanted,
                             const char **error);

/* For a client that has nothing to say: gives back what an unusually long request took (the next request does so,
 * too). The last request's argv ends. */
void kv_resp_trim(kv_resp_parser *parser);

/* Memory that it holds: a part of what a client's requests take. */
static inline size_t kv_resp_memory(const kv_resp_parser *parser) {
    return parser->args_capacity * sizeof *parser->args;
}

#endif
