/* server.h - a server over a store: what its owner (Python, a test) and its commands may ask of it.
 *
 * Layer: server (its top; the second half is for the commands below it).
 */
#ifndef KV_SERVER_SERVER_H
#define KV_SERVER_SERVER_H

#include "client.h"
#include "config.h"
#include "stats.h"

/* ---- Life ------------------------------------------------------------------------------------- */

/* Listens and starts its threads; the store (borrowed: the server makes handles of its own, so closing `db` does not
 * end it) stays usable beside it.  `*config` is copied.  A server that cannot start says why in one line: the port
 * is in use, the certificate does not match. */
kv_status kv_server_start(kv_db *db, const kv_config *config, kv_server **server, kv_error *err) KV_MUST_CHECK;
/* Takes no more connections, finishes what runs, sends what can be sent within `grace_ms`, closes all, ends the
 * threads, closes the handles.  May be called from any thread but the server's own; twice is allowed.  The status of
 * the last sync. */
kv_status kv_server_stop(kv_server *server, uint64_t grace_ms, kv_error *err);
void kv_server_destroy(kv_server *server); /* NULL is allowed; stops first */

uint16_t kv_server_port(const kv_server *server); /* that it got when 0 was asked for; 0: no TCP */
bool kv_server_is_stopping(const kv_server *server);
/* A descriptor that becomes readable when somebody wants the server to stop (SHUTDOWN): its owner then calls
 * kv_server_stop. */
int kv_server_stop_fd(const kv_server *server);

/* Of the store, from any thread; waits while it is being reloaded. */
kv_status kv_server_store_stats(kv_server *server, kv_stats *stats, kv_error *err) KV_MUST_CHECK;

/* ---- For commands ------------------------------------------------------------------------------ */

kv_config *kv_server_config(kv_server *server);   /* guarded by its own lock, see config.h */
kv_counters *kv_server_stats(kv_server *server);
kv_db *kv_server_db(kv_server *server);           /* an ordinary handle: for checkpoints and statistics */
bool kv_server_debug_enabled(const kv_server *server);

void kv_server_ask_to_stop(kv_server *server);    /* SHUTDOWN */
/* BGSAVE: a checkpoint in the background; KV_BUSY: one is being made. */
kv_status kv_server_checkpoint_in_background(kv_server *server, kv_error *err) KV_MUST_CHECK;
bool kv_server_is_saving(kv_server *server); /* such a one is being made */
/* DEBUG RELOAD, LOADAOF: all loops stop at a safe place, every handle is closed, the store is recovered from disk
 * and opened anew.  Called by a loop's thread, whose client's handle is another one afterwards.  Fails when somebody
 * else in this process has the store open, or it is in memory only. */
kv_status kv_server_reload(kv_server *server, kv_client *caller, kv_error *err) KV_MUST_CHECK;

/* A command that blocks its loop for long (a checkpoint, the disk, DEBUG SLEEP) waits between these two: others may
 * look at this loop's clients meanwhile. */
void kv_server_begin_wait(kv_client *c);
void kv_server_end_wait(kv_client *c);

/* Every client, under a lock that keeps them alive: for CLIENT LIST and KILL.  `visit` must not block.  False: stop. */
void kv_server_visit_clients(kv_server *server, bool (*visit)(void *arg, kv_client *client), void *arg);
size_t kv_server_client_count(kv_server *server);
/* Closes another loop's client as soon as that loop looks. */
void kv_server_kill(kv_server *server, uint64_t client_id);

/* Delivers to every subscriber in all loops; how many got it.  On the loop of the caller at once, on others by a
 * message. */
size_t kv_server_publish(kv_server *server, kv_client *from, kv_bytes channel, kv_bytes message);

#endif
