/* pubsub.h - channels and patterns: who listens to what.
 *
 * Layer: server.  A client's own list is its loop's; the server's index of channels is shared and locked inside.
 * The functions here write no reply: the commands do (cmd_pubsub.c).  Delivery is kv_server_publish (server.h).
 *
 * Each function with a client is called by its loop's thread only.
 */
#ifndef KV_SERVER_PUBSUB_H
#define KV_SERVER_PUBSUB_H

#include "client.h"

typedef enum kv_pubsub_kind {
    KV_PUBSUB_CHANNEL,
    KV_PUBSUB_PATTERN, /* of glob.h */
} kv_pubsub_kind;

/* ---- A client's own ----------------------------------------------------------------------------- */

/* KV_OK; KV_UNCHANGED: it listens already; or < 0, nothing changed. */
kv_status kv_pubsub_subscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name, kv_error *err) KV_MUST_CHECK;
/* KV_OK, or KV_NOTFOUND: it did not listen to that.  `name` may be what kv_pubsub_some gave. */
kv_status kv_pubsub_unsubscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name);
/* Channels and patterns together: what the replies tell; 0: not subscribed. */
size_t kv_pubsub_count(const kv_client *c);
/* One of these alone. */
size_t kv_pubsub_count_kind(const kv_client *c, kv_pubsub_kind kind);
/* Some channel or pattern of the client's (borrowed until it is unsubscribed); false: there is none. */
bool kv_pubsub_some(const kv_client *c, kv_pubsub_kind kind, kv_bytes *name);
/* Leaves everything and frees c->subscriptions. */
void kv_pubsub_leave(kv_client *c);

/* ---- The server's --------------------------------------------------------------------------------- */

/* Channels that somebody listens to, each once; `visit` must not block nor subscribe.  False: stop. */
void kv_pubsub_visit_channels(kv_server *server, bool (*visit)(void *arg, kv_bytes channel), void *arg);
/* Clients that listen to this channel by its name. */
size_t kv_pubsub_subscribers(kv_server *server, kv_bytes channel);
/* Different patterns that somebody listens to. */
size_t kv_pubsub_patterns(kv_server *server);

#endif
