/* store.h - type Store: a handle on an open store.  Layer: python.
 *
 * The object owns the engine's handle and frees it when it dies itself; a call in flight holds a
 * reference to the object, so no call ever works on a freed handle.  Whether the store is open is
 * for the engine to say (KV_ERR_CLOSED): there is no second flag here that could disagree.
 */
#ifndef KVPY_STORE_H
#define KVPY_STORE_H

#include <stdatomic.h>

#include "module.h"

typedef struct kvpy_store {
    PyObject_HEAD
    /* owned; NULL until __init__ has opened it, then constant.  Release: what follows is constant then,
     * too.  Acquire: kvpy_store_handle */
    _Atomic(kv_db *) db;
    kvpy_state *state; /* borrowed from the type */
    PyObject *path;    /* str, or None for a store in memory */
    /* Which operations first try under the GIL with KV_NOWAIT (gil="auto"): reads, which wait
     * for no disk, and writes where there is no disk. */
    bool try_read;
    bool try_write;
    bool may_warn; /* it has a log, so checkpoints that can fail */
} kvpy_store;

/* KVPY_CALL for a read or a write of one key. */
#define KVPY_STORE_READ(self, status, call) KVPY_CALL(status, (self)->try_read, 0u, call)
#define KVPY_STORE_WRITE(self, status, extra_flags, call)                                        \
    KVPY_CALL(status, (self)->try_write, extra_flags, call)

/* After a write that succeeded: CheckpointWarning if a checkpoint failed meanwhile.  -1 when the
 * warning is an exception. */
int kvpy_store_warn(kvpy_store *self);

static inline int kvpy_store_warned(kvpy_store *self) {
    return KVPY_LIKELY(!self->may_warn) ? 0 : kvpy_store_warn(self);
}

/* What a write answers: `result` (taken; may be NULL), unless the warning is an exception. */
static inline PyObject *kvpy_store_written(kvpy_store *self, PyObject *result) {
    if (KVPY_LIKELY(!self->may_warn) || result == NULL || kvpy_store_warn(self) == 0)
        return result;
    Py_DECREF(result);
    return NULL;
}

/* Sets ClosedError. */
void kvpy_store_set_not_open(const kvpy_store *self);

/* The handle, or NULL: __init__ never ran. */
static inline kv_db *kvpy_store_handle(const kvpy_store *self) {
    return atomic_load_explicit(&self->db, memory_order_acquire);
}

/* The same, with ClosedError when it is NULL. */
static inline kv_db *kvpy_store_db(const kvpy_store *self) {
    kv_db *db = kvpy_store_handle(self);
    if (KVPY_UNLIKELY(db == NULL))
        kvpy_store_set_not_open(self);
    return db;
}

/* A function of the module: gives a subclass the methods of Store as its own. */
PyObject *kvpy_store_own_methods(PyObject *module, PyObject *type);

/* store_one.c: operations on one key.  (METH_FASTCALL | METH_KEYWORDS.) */
#define KVPY_FAST(name)                                                                          \
    PyObject *name(PyObject *op, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
KVPY_FAST(kvpy_store_get);
KVPY_FAST(kvpy_store_put);
KVPY_FAST(kvpy_store_delete);
KVPY_FAST(kvpy_store_incr);
KVPY_FAST(kvpy_store_replace);
KVPY_FAST(kvpy_store_setdefault);
KVPY_FAST(kvpy_store_pop);
PyObject *kvpy_store_popitem(PyObject *op, PyObject *ignored);
PyObject *kvpy_store_view(PyObject *op, PyObject *key);
int kvpy_store_contains(PyObject *op, PyObject *key);
PyObject *kvpy_store_subscript(PyObject *op, PyObject *key);
int kvpy_store_ass_subscript(PyObject *op, PyObject *key, PyObject *value);

/* store_expiry.c: when keys expire. */
PyObject *kvpy_store_ttl(PyObject *op, PyObject *key);
KVPY_FAST(kvpy_store_expire);
KVPY_FAST(kvpy_store_persist);
PyObject *kvpy_store_expiry_of(PyObject *op, PyObject *key);
PyObject *kvpy_store_expiry_after(PyObject *op, PyObject *ttl);
PyObject *kvpy_store_clock(PyObject *op, PyObject *ignored);

/* store_many.c: operations on many keys. */
PyObject *kvpy_store_get_many(PyObject *op, PyObject *keys);
KVPY_FAST(kvpy_store_put_many);
KVPY_FAST(kvpy_store_delete_many);
KVPY_FAST(kvpy_store_write);
PyObject *kvpy_store_clear(PyObject *op, PyObject *ignored);

/* store_upkeep.c: calls that work on all of it for a while. */
KVPY_FAST(kvpy_store_checkpoint);
KVPY_FAST(kvpy_store_backup);
KVPY_FAST(kvpy_store_preload);

#endif
