/* shared.h - the server's own struct: what server.c, loop.c, conn.c, commit.c and pubsub.c share,
 * and nobody else sees.
 *
 * Layer: server.
 */
#ifndef KV_SERVER_SHARED_H
#define KV_SERVER_SHARED_H

#include <pthread.h>
#include <sys/types.h>

#include "../base/lock.h"
#include "../base/siphash.h"
#include "commit.h"
#include "loop.h"
#include "server.h"
#include "tls.h"

#define KV_LISTENERS_MAX 8u

typedef struct kv_listener {
    int fd;
    bool is_unix;
} kv_listener;

typedef struct kv_channel kv_channel;           /* pubsub.c */
typedef struct kv_subscription kv_subscription; /* pubsub.c */

/* Channels and patterns with their listeners, under `mutex`. */
typedef struct kv_channels {
    kv_mutex mutex;
    kv_siphash_key key; /* constant */
    /* guarded by it */
    kv_channel **table; /* by kind and name; a power of two; NULL: empty */
    size_t table_size, count;
    kv_subscription **listeners; /* by client, kind and name */
    size_t listeners_size, listeners_count;
    kv_channel *patterns; /* those that are patterns */
    size_t pattern_count;
} kv_channels;

struct kv_server {
    /* constant after the start */
    kv_config config;
    kv_counters counters;
    kv_db *db; /* ordinary: for the committer, checkpoints and statistics */
    bool memory_only;
    kv_sync sync;
    pid_t pid; /* in a forked child the threads are gone */
    kv_loop *loops;
    unsigned loop_count;
    kv_tls_context *tls; /* NULL: none */
    kv_listener listeners[KV_LISTENERS_MAX];
    unsigned listener_count;
    uint16_t port;
    uint64_t unix_identity[2]; /* of the socket's file, to remove no other */
    int stop_fd;               /* an eventfd */

    kv_committer committer;
    kv_channels channels;

    _Atomic uint64_t next_client_id; /* relaxed: a number of its own for each */
    _Atomic uint32_t client_count;   /* relaxed: a count, in all loops */
    _Atomic bool stopping;           /* seq_cst; set before the loops are rung */
    _Atomic uint64_t stop_at_ns;     /* what is not sent by then is not sent; set before `stopping` */

    kv_mutex life; /* guards what follows; nobody waits with it held */
    bool reloading;              /* somebody runs kv_server_reload */
    bool saving;                 /* a checkpoint in the background */
    bool saver_is_joinable;
    pthread_t saver;
    unsigned users;              /* other threads that use `db`: a reload waits for them, and they for it */
    unsigned parked;             /* loops that stand still */
    enum { KV_SERVER_RUNS, KV_SERVER_STOPS, KV_SERVER_STOPPED } state;
    kv_status stop_status;
    kv_error stop_error;
    _Atomic uint32_t life_word;  /* a futex: changed with each change of these */
};

/* A thread that takes no signals, so that the program's handlers run where it expects them.  0 or
 * an errno. */
int kv_thread_start(pthread_t *thread, void *(*function)(void *), void *arg);

/* server.c: a loop stands still until the reload is over; its handle is closed, and another one
 * afterwards. */
void kv_server_park(kv_server *server, kv_loop *loop);

/* pubsub.c */
void kv_channels_init(kv_channels *channels);
void kv_channels_fini(kv_channels *channels);
/* Delivers to the listeners of this loop; how many. */
size_t kv_pubsub_deliver(kv_loop *loop, kv_bytes channel, kv_bytes message, kv_client *from);

#endif
