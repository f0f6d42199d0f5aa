/* txn.h - one atomic step over a few keys: read, decide, write.
 *
 * Layer: server.  Optimistic: a read pins the entry that it found; writes are kept aside, and reads of the step see
 * them; the commit is one kv_write that is made only if every key that was read still has the entry that was
 * read (kv_op.expected).  Otherwise the step begins again.  So no lock is held while a command thinks, and
 * Python threads and other loops may write the same keys at any time.
 *
 * Every command but a few hot ones (GET, SET without options, DEL, INCR ...) is written once against this, and runs the
 * same alone and inside MULTI / EXEC, where all queued commands share one step.
 */
#ifndef KV_SERVER_TXN_H
#define KV_SERVER_TXN_H

#include "../kv.h"

typedef struct kv_txn kv_txn;

/* A value as the step sees it. */
typedef struct kv_txn_value {
    kv_bytes value;
    uint64_t expiry;      /* ms since 1970; 0: never */
    const kv_item *item;  /* pinned in the store, for kv_reply_value; NULL: written in this step */
} kv_txn_value;

kv_txn *kv_txn_create(void); /* NULL: no memory.  Reusable: one a client or one a loop */
void kv_txn_destroy(kv_txn *t); /* NULL is allowed */

/* Forgets everything: a new step, through this handle. */
void kv_txn_begin(kv_txn *t, kv_db *db);

/* Keys and values are borrowed until the step ends: a request's arguments stay that long, and what a command makes
 * it makes in kv_txn_space. */

/* Room that lives until the step ends; NULL: no memory. */
void *kv_txn_space(kv_txn *t, size_t size, kv_error *err);

/* KV_OK and *value (borrowed until the step ends), KV_NOTFOUND, or < 0. */
kv_status kv_txn_get(kv_txn *t, kv_bytes key, kv_txn_value *value, kv_error *err) KV_MUST_CHECK;
/* expiry 0: never; past: deletes. */
kv_status kv_txn_put(kv_txn *t, kv_bytes key, kv_bytes value, uint64_t expiry, kv_error *err) KV_MUST_CHECK;
kv_status kv_txn_delete(kv_txn *t, kv_bytes key, kv_error *err) KV_MUST_CHECK;
/* Another expiry for a key that kv_txn_get has just found. */
kv_status kv_txn_expire(kv_txn *t, kv_bytes key, uint64_t expiry, kv_error *err) KV_MUST_CHECK;
/* The key must have this entry (kv_item.pin; NULL: be absent) now and when the step is committed: WATCH.
 * KV_UNCHANGED: it has not. */
kv_status kv_txn_expect(kv_txn *t, kv_bytes key, const void *pin, kv_error *err) KV_MUST_CHECK;
/* How many keys there are, this step's writes counted.  The commit does not depend on it. */
kv_status kv_txn_count(kv_txn *t, uint64_t *count, kv_error *err) KV_MUST_CHECK;
/* FLUSHALL inside EXEC: every key that there is when the step is committed. */
kv_status kv_txn_delete_all(kv_txn *t, kv_error *err) KV_MUST_CHECK;

/* KV_OK; KV_UNCHANGED: somebody was faster, nothing was done, begin again; or < 0. */
kv_status kv_txn_commit(kv_txn *t, kv_error *err) KV_MUST_CHECK;

/* Lets go of everything that is pinned.  kv_txn_begin does so, too. */
void kv_txn_end(kv_txn *t);

#endif
