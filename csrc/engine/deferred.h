/* deferred.h - handles whose calls do not wait for the disk.
 *
 * Layer: engine (above store.h).  A deferred handle reads the newest state and returns from a write when it has been
 * appended and linked.  Instead of waiting, it keeps
 *  - a ticket for the newest commit that its calls have made or seen: what they told may leave the program only when
 *    that one is committed.  Groups are committed, or undone, in their order, so the newest stands for all;
 *  - the hashes of its writes, whose shards nobody prunes: an ordinary writer does so when it has waited.
 *
 * One thread at a time uses a deferred handle, so nothing here is atomic.
 */
#ifndef KV_ENGINE_DEFERRED_H
#define KV_ENGINE_DEFERRED_H

#include "store.h"

typedef struct kv_deferred {
    kv_ticket pending;   /* group NULL: nothing to wait for */
    uint64_t *unsettled; /* hashes of writes whose shards are still to be pruned */
    size_t unsettled_count, unsettled_capacity;
    bool noted;          /* since kv_take_noted, a call has waited for something */
    bool unsettled_all;  /* some are not in the list: every shard is to be pruned */
} kv_deferred;

/* Takes the ticket: the handle waits for it, if for nothing newer and for nothing of this command that was undone. */
void kv_deferred_note(kv_db *db, kv_ticket *ticket);
/* A write was linked in the shard of that hash; in any shard. */
void kv_deferred_note_write(kv_db *db, uint64_t hash);
void kv_deferred_note_all(kv_db *db);
/* What has been appended so far was seen.  Something of it may have been undone between the look and this, and is not
 * waited for then: unless kv_log_rollbacks is what it was before the look, look again. */
void kv_deferred_note_newest(kv_db *db);
/* Keys in the newest state, expired ones included; noted. */
uint64_t kv_deferred_count(kv_db *db);
/* Prunes what the writes have left, as far as they are committed. */
void kv_deferred_settle(kv_store *store, kv_deferred *deferred);
void kv_deferred_destroy(kv_deferred *deferred);

/* What the handle has just seen of this key in the locked shard is not committed: notes it.  KV_BUSY: it is being
 * undone; look again after a pause. */
kv_status kv_deferred_note_seen(kv_db *db, const kv_shard *shard, uint64_t hash, kv_bytes key,
                                kv_error *err) KV_MUST_CHECK;

/* The end of every write: waits until the commit is durable, or remembers it.  The ticket is taken. */
static inline kv_status kv_db_finish(kv_db *db, kv_ticket *ticket, kv_error *err) {
    if (ticket->group == NULL)
        return KV_OK;
    if (db->deferred == NULL)
        return kv_log_wait(db->store->log, ticket, err);
    kv_deferred_note(db, ticket);
    return KV_OK;
}

#endif
