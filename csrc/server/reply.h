/* reply.h - the reply side of the Redis protocol: a queue of bytes to be sent, in RESP2 or RESP3.
 *
 * Layer: server (a leaf above kv.h).  Small replies are copied into chunks; a large value is queued as a pin on its
 * immutable entry and leaves without a copy.  Positions count bytes since the queue's birth, so that a place in
 * the output has a name that does not move: holds and marks are positions.
 *
 * No call fails: without memory, or over its bound, the queue is `broken`, takes nothing more, and its connection is to
 * be closed without sending what is left: its end may be half a reply.
 */
#ifndef KV_SERVER_REPLY_H
#define KV_SERVER_REPLY_H

#include <sys/uio.h>

#include "../kv.h"

#define KV_REPLY_PIN_MIN 8192u /* bytes; a smaller value is copied */

typedef struct kv_reply_chunk kv_reply_chunk;

typedef struct kv_reply {
    kv_reply_chunk *first, *last; /* the queue; no chunk in it is empty */
    kv_reply_chunk *spare;        /* kept for the next round; NULL: none */
    uint8_t *next;                /* where the last chunk goes on */
    size_t room;                  /* bytes there; 0 when there is no chunk */
    uint64_t start, end;          /* positions: sent up to, written up to */
    size_t memory_bytes;          /* of chunks, the spare one too, and pinned values: what the output limit bounds */
    uint64_t memory_max;          /* with more of it the queue is broken; 0: no bound.  The owner's to set */
    uint8_t protocol;             /* 2 or 3 */
    bool broken;
    bool muted;                   /* CLIENT REPLY OFF / SKIP: writes are thrown away */
} kv_reply;

void kv_reply_init(kv_reply *r);
void kv_reply_fini(kv_reply *r);
static inline bool kv_reply_is_full(const kv_reply *r) {
    return r->memory_max > 0 && r->memory_bytes > r->memory_max;
}
/* For a client that waits: gives the spare memory back. */
void kv_reply_trim(kv_reply *r);

/* ---- Writing.  Text is NUL-terminated; a CR or LF inside an error or status becomes a space. ----------- */

void kv_reply_raw(kv_reply *r, const void *bytes, size_t size);
void kv_reply_ok(kv_reply *r);                               /* +OK */
void kv_reply_status(kv_reply *r, const char *text);         /* +text */
void kv_reply_error(kv_reply *r, const char *text);          /* -text: with its code, "ERR syntax error" */
/* The same with printf's formats.  What is longer than 511 bytes is cut; a NUL from %c becomes a space. */
void kv_reply_errorf(kv_reply *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
void kv_reply_integer(kv_reply *r, int64_t value);           /* :value */
void kv_reply_bulk(kv_reply *r, const void *bytes, size_t size);
void kv_reply_bulk_text(kv_reply *r, const char *text);
void kv_reply_bulk_integer(kv_reply *r, int64_t value);      /* the integer as a bulk string */
/* A value; a large one stays pinned until it is sent (a reference of its own: the caller still releases `item`). */
void kv_reply_value(kv_reply *r, const kv_item *item);
void kv_reply_null(kv_reply *r);                             /* $-1, or _ */
void kv_reply_null_array(kv_reply *r);                       /* *-1, or _ */
void kv_reply_array(kv_reply *r, size_t count);              /* *count; its elements follow */
void kv_reply_map(kv_reply *r, size_t pairs);                /* %pairs; RESP2: an array of twice as many */
void kv_reply_set(kv_reply *r, size_t count);                /* ~count; RESP2: an array */
void kv_reply_push(kv_reply *r, size_t count);               /* >count; RESP2: an array */
/* ,value with 17 digits at most, inf, -inf, nan; RESP2: a bulk string. */
void kv_reply_double(kv_reply *r, double value);
void kv_reply_bool(kv_reply *r, bool value);                 /* #t #f; RESP2: 1 0 */
/* =size kind:bytes; RESP2: a bulk string of the bytes. */
void kv_reply_verbatim(kv_reply *r, const char *kind /* three letters */, const void *bytes, size_t size);

/* ---- Taking back what was written behind a position that is not sent yet -------------------------------- */

static inline uint64_t kv_reply_position(const kv_reply *r) {
    return r->end;
}
void kv_reply_cut(kv_reply *r, uint64_t position);
/* Replaces the bytes from `from` up to `to` (neither sent): what a failed commit does with replies.  `bytes` may be
 * shorter or longer; everything behind moves.  Returns by how much.  Without memory everything from `from` on is
 * gone, so that what was to be taken back cannot be sent, and the queue is broken. */
int64_t kv_reply_replace(kv_reply *r, uint64_t from, uint64_t to, const void *bytes, size_t size);

/* ---- Sending ------------------------------------------------------------------------------------------- */

/* Up to `max` pieces of what stands before position `limit` and is not sent; returns how many.  Valid until the
 * queue is changed. */
size_t kv_reply_pieces(const kv_reply *r, uint64_t limit, struct iovec *pieces, size_t max);
/* So many bytes have been sent: frees what held them. */
void kv_reply_sent(kv_reply *r, size_t bytes);

#endif
