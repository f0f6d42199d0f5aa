/* store_expiry.c - Store: when keys expire.  Layer: python.
 *
 * Users say how many seconds are left; the engine keeps the moment, in ms of the wall clock.  The
 * moment is fixed when a call is made (arguments.c), by the clock that the engine goes by.
 */
#include "arguments.h"
#include "convert.h"
#include "raise.h"
#include "store.h"

/* 1 and the expiry, 0 when there is no such key, -1 with an exception. */
static int expiry_of(kvpy_store *self, PyObject *key, uint64_t *expiry) {
    kv_db *db = kvpy_store_db(self);
    kvpy_arg arg;
    if (db == NULL || kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return -1;
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self, status, kv_get_expiry(db, arg.bytes, flags, expiry, &err));
    kvpy_arg_fini(&arg);
    if (status < 0) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    return status == KV_OK;
}

PyObject *kvpy_store_ttl(PyObject *op, PyObject *key) {
    kvpy_store *self = (kvpy_store *)op;
    uint64_t expiry;
    int found = expiry_of(self, key, &expiry);
    if (found == 0)
        PyErr_SetObject(PyExc_KeyError, key);
    if (found <= 0)
        return NULL;
    if (expiry == 0)
        Py_RETURN_NONE;
    uint64_t now = kv_clock_ms(kvpy_store_handle(self));
    return PyFloat_FromDouble(expiry > now ? (double)(expiry - now) / 1e3 : 0.0);
}

PyObject *kvpy_store_expiry_of(PyObject *op, PyObject *key) {
    uint64_t expiry;
    int found = expiry_of((kvpy_store *)op, key, &expiry);
    if (found < 0)
        return NULL;
    if (found == 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(expiry);
}

PyObject *kvpy_store_expiry_after(PyObject *op, PyObject *ttl) {
    kv_db *db = kvpy_store_db((kvpy_store *)op);
    uint64_t expiry;
    if (db == NULL || kvpy_expiry(ttl, db, &expiry) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(expiry);
}

PyObject *kvpy_store_clock(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kv_db *db = kvpy_store_db((kvpy_store *)op);
    return db != NULL ? PyLong_FromUnsignedLongLong(kv_clock_ms(db)) : NULL;
}

/* True when the key is there. */
static PyObject *set_expiry(kvpy_store *self, kv_db *db, PyObject *key, uint64_t expiry,
                            unsigned sync_flags) {
    kvpy_arg arg;
    if (kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, sync_flags,
                     kv_expire(db, arg.bytes, expiry, flags, &err));
    kvpy_arg_fini(&arg);
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    return kvpy_store_written(self, PyBool_FromLong(status == KV_OK));
}

KVPY_FAST(kvpy_store_expire) {
    static const kvpy_signature signature = {"expire", {"key", "ttl", "sync"}, 2, 2};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[3];
    unsigned sync_flags;
    uint64_t expiry;
    if (db == NULL ||
        kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[2], &sync_flags) < 0)
        return NULL;
    if (values[1] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "ttl must be a number of seconds or a timedelta, not "
                                         "None: persist() takes the expiry away");
        return NULL;
    }
    if (kvpy_expiry(values[1], db, &expiry) < 0)
        return NULL;
    return set_expiry(self, db, values[0], expiry, sync_flags);
}

KVPY_FAST(kvpy_store_persist) {
    static const kvpy_signature signature = {"persist", {"key", "sync"}, 1, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2];
    unsigned sync_flags;
    if (db == NULL ||
        kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[1], &sync_flags) < 0)
        return NULL;
    return set_expiry(self, db, values[0], 0, sync_flags);
}
