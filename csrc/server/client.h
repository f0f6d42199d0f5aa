/* client.h - what a command sees of the client that it serves.
 *
 * Layer: server.  A connection (conn.h) has one; so has a test without any socket.  It belongs to one loop thread.
 */
#ifndef KV_SERVER_CLIENT_H
#define KV_SERVER_CLIENT_H

#include "reply.h"
#include "txn.h"

typedef struct kv_server kv_server;
typedef struct kv_command kv_command;
typedef struct kv_multi kv_multi;               /* cmd_multi.c: queued requests, watched keys */
typedef struct kv_subscriptions kv_subscriptions; /* pubsub.h */

typedef struct kv_client {
    kv_server *server;
    kv_db *db;       /* the loop's deferred handle (a test: any) */
    kv_reply reply;
    uint64_t id;
    char *name;      /* CLIENT SETNAME; owned; NULL: none */
    char *lib_name, *lib_version; /* CLIENT SETINFO; owned */
    char address[64], local_address[64];
    bool authenticated;
    bool close_after_reply; /* QUIT, protocol errors: nothing more is read */
    bool close_now;         /* CLIENT KILL, a limit: nothing more is sent either */
    bool reply_off, reply_skip_next; /* CLIENT REPLY */
    bool no_evict, no_touch;
    bool in_exec;           /* a queued request runs */
    unsigned slice;         /* of kv_counters: its loop's */
    uint64_t errors;        /* error replies so far: whether a command failed */
    kv_txn *txn;            /* the loop's (borrowed), or NULL: kv_client_txn makes one for the client */
    bool txn_is_own;
    kv_multi *multi;        /* NULL: no MULTI, no WATCH */
    kv_subscriptions *subscriptions; /* NULL: none */
    uint64_t created_ns;
    /* Up to here its time is accounted for.  The loop sets it when it begins with what has come in; each request
     * moves it on, so that a request costs one look at the clock.  0: kv_command_run looks itself. */
    uint64_t active_ns;
    uint64_t requests;               /* CLIENT LIST: tot-cmds */
    const kv_command *last_command;  /* CLIENT LIST */
} kv_client;

/* All zero but these; authenticated where there is no password. */
void kv_client_init(kv_client *c, kv_server *server, kv_db *db);
/* Leaves channels, lets go of watched keys, frees. */
void kv_client_fini(kv_client *c);
/* RESET, and what it leaves: not in MULTI, watching nothing, no channels, RESP2, no name, authenticated only
 * where there is no password. */
void kv_client_reset(kv_client *c);

/* What it keeps beside its buffers: the queue of MULTI, and what it watches. */
uint64_t kv_client_kept_bytes(const kv_client *c);
/* Is it in RESP2 and subscribed, so that only few commands are allowed? */
bool kv_client_is_subscriber(const kv_client *c);

#endif
