/* loop.h - an event loop: a thread with its connections, its deferred handle and its mailbox.
 *
 * Layer: server (above conn.h).  One round: poll; read, run and answer for each connection that is
 * ready; see that what was written gets committed; let go of the replies that waited for it.
 *
 * A connection belongs to one loop for its life, and only that thread touches it.  Others may look
 * while they hold the loop's `turn` (kv_server_visit_clients), which the loop holds while it works
 * and not while it waits.
 *
 * Waiting for a commit: each group that some reply depends on has one kv_wait, with the ticket and
 * the holds of all connections. Groups end in their order, so the list is nearly always one or two
 * long.
 */
#ifndef KV_SERVER_LOOP_H
#define KV_SERVER_LOOP_H

#include "../base/lock.h"
#include "conn.h"
#include "resp.h"
#include "txn.h"

#define KV_READ_SIZE (64u << 10)                  /* bytes: what one connection's turn reads at the most */
#define KV_MAIL_BYTES_MAX (UINT64_C(64) << 20)    /* of published messages that a loop has not taken yet */

typedef struct kv_wait {
    struct kv_wait *next;
    kv_ticket ticket;
    kv_hold *holds, *last_hold;
    bool done;
    kv_status status; /* of the commit */
    char *failure;    /* the error reply for it; NULL: none, or no memory */
} kv_wait;

typedef enum kv_mail_kind {
    KV_MAIL_CONNECTION,
    KV_MAIL_KILL,
    KV_MAIL_PUBLISH,
} kv_mail_kind;

typedef struct kv_mail {
    struct kv_mail *next;
    kv_mail_kind kind;
    int fd;
    bool is_unix;
    uint64_t id;
    kv_bytes channel, message; /* in the same block */
} kv_mail;

/* A list of connections in some order of time, oldest first. */
typedef struct kv_conn_list {
    kv_conn *first, *last;
} kv_conn_list;

struct kv_loop {
    /* constant after the start */
    kv_server *server;
    unsigned index;
    pthread_t thread;
    bool started;
    bool may_spin; /* there are more processors than loops */
    int epoll_fd, wake_fd;

    /* of its thread */
    kv_db *db; /* deferred */
    kv_txn *txn;
    uint8_t *buffer; /* KV_READ_SIZE bytes */
    kv_resp_parser parser;
    uint64_t now_ns;
    uint64_t gap_ns; /* how long it has nothing to do, of late */
    bool answered;   /* a lone client, after a sync, in the round before */
    unsigned away;   /* how often it was not back at once; less, how often it was */
    kv_wait *waits, *last_wait, *spare_wait;
    kv_hold *spare_holds;
    kv_conn *again;      /* have more to read or to run */
    kv_conn *to_flush;   /* got a message */
    kv_conn *later;      /* wait until nothing is pending */
    kv_conn *graves;     /* closed, to be freed at the end of the round */
    kv_client *running;  /* in kv_command_run */
    uint64_t last_client; /* the id of the one that ran last */
    uint64_t alone_since_ns; /* since then nobody else has run */
    kv_reply aside;      /* messages that it published to itself: behind the reply */
    bool listening;
    uint64_t listen_again_ns; /* 0: no pause */
    uint64_t tick_ns, busy_until_ns;
    bool idle_watched;
    uint64_t bytes_in, bytes_out; /* of this round */
    const kv_wait *asked; /* the newest that the committer waits for; NULL: none */

    /* guarded by `turn` against visitors */
    kv_mutex turn;
    kv_conn *conns;
    kv_conn_list idle, half; /* by last activity; by when their request began */

    kv_mutex mailbox; /* guards the next three */
    kv_mail *mail, *last_mail;
    uint64_t mail_bytes;

    _Atomic bool rung;     /* there is something to look at; seq_cst, with sleeps */
    _Atomic bool sleeps;   /* it is in epoll_wait, or about to be */
    _Atomic bool committed; /* the committer has something for us */
    _Atomic bool park;     /* kv_server_reload wants it to stand still */
    _Atomic uint32_t conn_count; /* relaxed: a count */
};

kv_status kv_loop_init(kv_loop *loop, kv_server *server, unsigned index, kv_error *err) KV_MUST_CHECK;
void kv_loop_fini(kv_loop *loop);
kv_status kv_loop_start(kv_loop *loop, kv_error *err) KV_MUST_CHECK;

/* From any thread. */
void kv_loop_ring(kv_loop *loop);
void kv_loop_ring_for_commit(kv_loop *loop);
/* Takes the mail.  False: there is too much of it already, and it is freed. */
bool kv_loop_send(kv_loop *loop, kv_mail *mail);
kv_mail *kv_mail_create(kv_mail_kind kind, size_t extra);
bool kv_loop_is_current(const kv_loop *loop);

/* ---- For conn.c and server.c, in the loop's thread ----------------------------------------- */

/* The wait for what the handle waits for now; NULL: there is nothing to wait for, or no memory
 * (`*failed`). */
kv_wait *kv_loop_wait_for_pending(kv_loop *loop, bool *failed);
void kv_loop_again(kv_loop *loop, kv_conn *conn);
void kv_loop_flush_later(kv_loop *loop, kv_conn *conn);
/* Learns how all waits end, waiting for the disk; the connections get to know at the end of the
 * round. */
void kv_loop_finish_waits(kv_loop *loop);

#endif
