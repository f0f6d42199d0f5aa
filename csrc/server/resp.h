/* resp.h - the request side of the Redis protocol: bytes in, one request out.
 *
 * Layer: server (a leaf).  Never touches a socket and keeps no bytes: a request's arguments point into
 * the caller's buffer.  Two forms: an array of bulk strings (*2\r\n$3\r\nGET\r\n...), and an inline line of words
 * (with quotes and escapes, which are undone in place).  Bounded by the limits that the caller gives.
 *
 * A parser remembers how far it has come in a request that is not complete, so no byte is looked at twice, however
 * slowly they come; it does so by offsets from the request's first byte, so the buffer may move.
 */
#ifndef KV_SERVER_RESP_H
#define KV_SERVER_RESP_H

#include "../kv.h"

typedef struct kv_resp_limits {
    uint32_t args_max;   /* of one request */
    uint64_t bulk_max;   /* bytes of one argument */
    uint32_t inline_max; /* bytes of one line: an inline request, or a count */
} kv_resp_limits;

typedef struct kv_resp_parser {
    kv_bytes *args;     /* owned; room for args_capacity.  While a request is not complete, `data` holds offsets */
    size_t args_capacity;
    size_t args_count;  /* found so far */
    int64_t args_left;  /* of a multibulk request; -1: between requests */
    int64_t bulk_left;  /* the length of the bulk string at hand; -1: its length line is to come */
    size_t position;    /* bytes of this request that have been looked at */
} kv_resp_parser;

typedef enum kv_resp_result {
    KV_RESP_MORE,    /* not complete */
    KV_RESP_REQUEST, /* *argc (may be 0: an empty line or array, to be passed over) and *used */
    KV_RESP_BAD,     /* a protocol error: `*error` is the reply's text without "-ERR "; close after it */
    KV_RESP_NOMEM,
} kv_resp_result;

void kv_resp_init(kv_resp_parser *parser);
void kv_resp_fini(kv_resp_parser *parser);

/* Looks for a request at `bytes`, which begins where the last one ended.  KV_RESP_REQUEST: `*argv` (borrowed until the
 * next call; points into `bytes`), `*argc`, and `*used` bytes that it took.  KV_RESP_MORE: call again with the same bytes
 * and more behind them; `*wanted`: how many more are needed at least (a hint for the buffer: the rest of a
 * large argument).  Inline arguments are unescaped in place: `bytes` is changed. */
kv_resp_result kv_resp_parse(kv_resp_parser *parser, const kv_resp_limits *limits, uint8_t *bytes, size_t size,
                             const kv_bytes **argv, size_t *argc, size_t *used, size_t *wanted,
                             const char **error);

#endif
