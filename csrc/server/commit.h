/* commit.h - the committer: a thread that waits for the disk, so that the loops need not.
 *
 * Layer: server.  A loop hands over a ticket and goes on; when its group is committed (or undone)
 * the committer rings the loop, which asks its own copy of the ticket how it ended.  One ticket a
 * loop: a newer one takes the older one's place, since groups end in their order.
 */
#ifndef KV_SERVER_COMMIT_H
#define KV_SERVER_COMMIT_H

#include <pthread.h>

#include "../base/lock.h"
#include "../kv.h"

typedef struct kv_server kv_server;

typedef struct kv_committer {
    kv_server *server;
    pthread_t thread;
    bool runs;           /* constant between start and stop */
    _Atomic uint32_t word; /* a futex: changed when there is something new */
    kv_mutex mutex;
    /* guarded by it */
    kv_ticket *tickets;  /* by loop; group NULL: none */
    bool sleeps, stopping, waits /* for a ticket */;
    _Atomic uint32_t idle_word; /* changed when `waits` ends */
} kv_committer;

kv_status kv_committer_start(kv_committer *committer, kv_server *server, kv_error *err) KV_MUST_CHECK;
/* What was handed over is still waited for. */
void kv_committer_stop(kv_committer *committer);
/* Takes the ticket.  Never waits for the disk. */
void kv_committer_ask(kv_committer *committer, unsigned loop, kv_ticket *ticket);
/* Returns when it waits for nothing: for kv_server_reload, when all tickets are known to be done. */
void kv_committer_calm(kv_committer *committer);

#endif
