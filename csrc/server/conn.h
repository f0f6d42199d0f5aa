/* conn.h - a connection: its socket, what has come of a request, what is held back of its replies.
 *
 * Layer: server.  An idle connection owns no buffer: requests are read into the loop's buffer and
 * run from there, and only the beginning of one that is not complete is kept, with its parser.
 *
 * Holds.  Replies that tell of an uncommitted write must not leave before it is committed.  A hold
 * covers such replies, from `start` to `end`; nothing behind the first hold's start is sent.  When
 * the commit is there, the hold goes; when it failed, the bytes of the hold are replaced by one
 * error for each reply.  Neighbours that wait for the same group are one hold, so a pipeline of
 * writes costs one.
 *
 * Events are edge-triggered, so that no system call changes what a socket is watched for;
 * `readable` and `blocked` remember what the last event and the last call told.
 */
#ifndef KV_SERVER_CONN_H
#define KV_SERVER_CONN_H

#include "client.h"
#include "resp.h"
#include "tls.h"

typedef struct kv_loop kv_loop;
typedef struct kv_conn kv_conn;
typedef struct kv_wait kv_wait;

typedef struct kv_hold {
    kv_conn *conn;           /* NULL: it is gone */
    kv_wait *wait;
    struct kv_hold *next;    /* of the connection, in the order of positions; or of the loop's spare ones */
    struct kv_hold *of_wait; /* of the wait */
    uint64_t start, end;     /* positions */
    uint32_t replies;
    bool done;
} kv_hold;

/* The beginning of a request, or requests whose turn has not come. */
typedef struct kv_partial {
    kv_resp_parser parser;
    uint8_t *bytes;
    size_t size, capacity, wanted;
} kv_partial;

typedef struct kv_conn_link {
    kv_conn *prev, *next;
    bool listed;
    uint64_t since_ns;
} kv_conn_link;

struct kv_conn {
    kv_client client; /* first: a client is its connection */
    kv_loop *loop;
    int fd;
    kv_tls *tls; /* NULL: plain */
    kv_partial *partial; /* NULL: nothing has come that was not run */
    kv_hold *holds, *last_hold;
    kv_conn *prev, *next; /* of the loop */
    kv_conn *next_again, *next_flush, *next_later, *next_grave;
    kv_conn_link idle, half;
    bool handshaking; /* TLS */
    bool readable;    /* there may be more to read */
    bool blocked;     /* the socket takes no more for now */
    bool hung_up;     /* the end of what the client sends, or an error, has been told */
    bool ended;       /* the client has finished sending */
    bool dead;        /* closed; freed at the end of the round */
    bool in_again, in_flush, in_later;
    bool more_to_run; /* `partial` has requests that could run */
    bool more_to_send; /* others have their turn first */
};

static inline kv_conn *kv_conn_of(kv_client *client) {
    return (kv_conn *)client;
}

/* Takes the descriptor, also on failure. */
void kv_conn_adopt(kv_loop *loop, int fd, bool is_unix);
void kv_conn_event(kv_conn *conn, uint32_t events);
/* Goes on with what it has. */
void kv_conn_go_on(kv_conn *conn);
/* A message has been put into its output. */
void kv_conn_flush(kv_conn *conn);
/* The commit of this hold has ended. */
void kv_conn_let_go(kv_hold *hold);
/* The client has done something. */
void kv_conn_touch(kv_conn *conn);
/* Stops reading; closed when its output is sent. */
void kv_conn_finish(kv_conn *conn);
void kv_conn_close(kv_conn *conn);
void kv_conn_free(kv_conn *conn);

#endif
