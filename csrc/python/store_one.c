/* store_one.c - Store's operations on one key.  Layer: python.
 *
 * All have one shape: arguments, bytes, one call of the engine (under the GIL if it cannot
 * wait, see KVPY_CALL), result or exception.  get, put, [] and `in` are what a program calls
 * millions of times: their common form touches no argument parser and no allocator but for the
 * result.
 */
#include "arguments.h"
#include "convert.h"
#include "raise.h"
#include "store.h"
#include "view.h"

/* ---- Reading ------------------------------------------------------------------------------ */

/* New reference; when there is no such key: `fallback` (borrowed), or KeyError when it is
 * NULL. */
static inline PyObject *lookup(kvpy_store *self, PyObject *key, PyObject *fallback) {
    kv_db *db = kvpy_store_db(self);
    kvpy_arg arg;
    if (KVPY_UNLIKELY(db == NULL || kvpy_arg_init(&arg, key, KVPY_KEY) < 0))
        return NULL;

    kv_value value;
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self, status, kv_get(db, arg.bytes, flags, &value, &err));
    kvpy_arg_fini(&arg);
    if (KVPY_LIKELY(status == KV_OK))
        return kvpy_bytes_from_value(&value);
    if (KVPY_UNLIKELY(status < 0))
        return kvpy_raise(self->state, status, &err);
    if (fallback == NULL)
        PyErr_SetObject(PyExc_KeyError, key);
    return Py_XNewRef(fallback);
}

KVPY_FAST(kvpy_store_get) {
    static const kvpy_signature signature = {"get", {"key", "default"}, 2, 1};
    if (KVPY_LIKELY(kwnames == NULL && nargs == 1))
        return lookup((kvpy_store *)op, args[0], Py_None);
    PyObject *values[2];
    if (kvpy_arguments(&signature, args, nargs, kwnames, values) < 0)
        return NULL;
    return lookup((kvpy_store *)op, values[0], values[1] != NULL ? values[1] : Py_None);
}

PyObject *kvpy_store_subscript(PyObject *op, PyObject *key) {
    return lookup((kvpy_store *)op, key, NULL);
}

int kvpy_store_contains(PyObject *op, PyObject *key) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    kvpy_arg arg;
    if (db == NULL || kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return -1;
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self, status, kv_contains(db, arg.bytes, flags, &err));
    kvpy_arg_fini(&arg);
    if (KVPY_UNLIKELY(status < 0)) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    return status == KV_OK;
}

PyObject *kvpy_store_view(PyObject *op, PyObject *key) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    kvpy_arg arg;
    if (db == NULL || kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return NULL;
    PyObject *view = kvpy_view_new(self->state);
    if (view == NULL) {
        kvpy_arg_fini(&arg);
        return NULL;
    }
    kv_value *value = kvpy_view_value(view);
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self, status, kv_get(db, arg.bytes, flags | KV_PIN, value, &err));
    kvpy_arg_fini(&arg);
    PyObject *memory = NULL;
    if (status == KV_OK)
        memory = kvpy_view_to_memoryview(view);
    else if (status < 0)
        kvpy_raise(self->state, status, &err);
    else
        PyErr_SetObject(PyExc_KeyError, key);
    Py_DECREF(view);
    return memory;
}

/* ---- Writing ------------------------------------------------------------------------------ */

/* `expiry` 0: never. */
static inline int put(kvpy_store *self, PyObject *key, PyObject *value, uint64_t expiry,
                      unsigned sync_flags) {
    kv_db *db = kvpy_store_db(self);
    kvpy_arg k, v;
    if (KVPY_UNLIKELY(db == NULL || kvpy_arg_init(&k, key, KVPY_KEY) < 0))
        return -1;
    if (KVPY_UNLIKELY(kvpy_arg_init(&v, value, KVPY_VALUE) < 0)) {
        kvpy_arg_fini(&k);
        return -1;
    }
    kv_error err;
    kv_status status;
    if (expiry == 0)
        KVPY_STORE_WRITE(self, status, sync_flags, kv_put(db, k.bytes, v.bytes, flags, &err));
    else
        KVPY_STORE_WRITE(self, status, sync_flags,
                         kv_put_expiring(db, k.bytes, v.bytes, expiry, flags, &err));
    kvpy_arg_fini(&k);
    kvpy_arg_fini(&v);
    if (KVPY_LIKELY(status == KV_OK))
        return kvpy_store_warned(self);
    kvpy_raise(self->state, status, &err);
    return -1;
}

static KVPY_FAST(put_with_keywords) {
    static const kvpy_signature signature = {"put", {"key", "value", "ttl", "sync"}, 2, 2};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[4];
    unsigned sync_flags;
    uint64_t expiry;
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_expiry(values[2], db, &expiry) < 0 || kvpy_sync_flags(values[3], &sync_flags) < 0 ||
        put(self, values[0], values[1], expiry, sync_flags) < 0)
        return NULL;
    Py_RETURN_NONE;
}

KVPY_FAST(kvpy_store_put) {
    if (KVPY_UNLIKELY(kwnames != NULL || nargs != 2))
        return put_with_keywords(op, args, nargs, kwnames);
    if (KVPY_UNLIKELY(put((kvpy_store *)op, args[0], args[1], 0, 0) < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* 1 deleted, 0 no such key, -1 with an exception. */
static int delete(kvpy_store *self, PyObject *key, unsigned sync_flags) {
    kv_db *db = kvpy_store_db(self);
    kvpy_arg arg;
    if (db == NULL || kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return -1;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, sync_flags, kv_delete(db, arg.bytes, flags, &err));
    kvpy_arg_fini(&arg);
    if (status < 0) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    return kvpy_store_warned(self) < 0 ? -1 : status == KV_OK;
}

KVPY_FAST(kvpy_store_delete) {
    static const kvpy_signature signature = {"delete", {"key", "sync"}, 1, 1};
    PyObject *values[2];
    unsigned sync_flags;
    if (kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[1], &sync_flags) < 0)
        return NULL;
    int deleted = delete((kvpy_store *)op, values[0], sync_flags);
    return deleted < 0 ? NULL : PyBool_FromLong(deleted);
}

int kvpy_store_ass_subscript(PyObject *op, PyObject *key, PyObject *value) {
    kvpy_store *self = (kvpy_store *)op;
    if (KVPY_LIKELY(value != NULL))
        return put(self, key, value, 0, 0);
    int deleted = delete(self, key, 0);
    if (deleted == 0)
        PyErr_SetObject(PyExc_KeyError, key);
    return deleted == 1 ? 0 : -1;
}

/* A value's bytes, or the fallback as lookup() has it, for `status` of a call that gives a
 * value. */
static PyObject *value_or(kvpy_store *self, kv_status status, kv_value *value, kv_error *err,
                          PyObject *key, PyObject *fallback) {
    if (status == KV_OK)
        return kvpy_bytes_from_value(value);
    if (status < 0)
        return kvpy_raise(self->state, status, err);
    if (fallback == NULL)
        PyErr_SetObject(PyExc_KeyError, key);
    return Py_XNewRef(fallback);
}

KVPY_FAST(kvpy_store_pop) {
    static const kvpy_signature signature = {"pop", {"key", "default"}, 2, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2];
    kvpy_arg arg;
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_arg_init(&arg, values[0], KVPY_KEY) < 0)
        return NULL;
    kv_value value;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, 0u, kv_pop(db, arg.bytes, flags, &value, &err));
    kvpy_arg_fini(&arg);
    return kvpy_store_written(self,
                              value_or(self, status, &value, &err, values[0], values[1]));
}

PyObject *kvpy_store_popitem(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return NULL;
    kv_item item;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, 0u, kv_pop_any(db, flags, &item, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    if (status == KV_NOTFOUND) {
        PyErr_SetString(PyExc_KeyError, "popitem(): store is empty");
        return NULL;
    }
    PyObject *pair = NULL;
    PyObject *key = kvpy_bytes_new(item.key.data, item.key.size);
    PyObject *value = key != NULL ? kvpy_bytes_new(item.value.data, item.value.size) : NULL;
    if (value != NULL)
        pair = PyTuple_Pack(2, key, value);
    Py_XDECREF(key);
    Py_XDECREF(value);
    KVPY_CALL_SHORT(kv_item_release(&item));
    return kvpy_store_written(self, pair);
}

KVPY_FAST(kvpy_store_setdefault) {
    static const kvpy_signature signature = {"setdefault", {"key", "default"}, 2, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2];
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0)
        return NULL;
    kvpy_arg k, v = {{"", 0}, NULL};
    if (kvpy_arg_init(&k, values[0], KVPY_KEY) < 0)
        return NULL;
    PyObject *result = NULL;
    if (values[1] != NULL && kvpy_arg_init(&v, values[1], KVPY_VALUE) < 0)
        goto out;
    kv_value existing;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, 0u,
                     kv_put_absent(db, k.bytes, v.bytes, flags, &existing, &err));
    if (status < 0)
        kvpy_raise(self->state, status, &err);
    else if (status == KV_UNCHANGED)
        result = kvpy_bytes_from_value(&existing);
    else if (values[1] != NULL && PyBytes_CheckExact(values[1]))
        result = Py_NewRef(values[1]);
    else
        result = kvpy_bytes_new(v.bytes.data, v.bytes.size);
    result = kvpy_store_written(self, result);
    kvpy_arg_fini(&v);
out:
    kvpy_arg_fini(&k);
    return result;
}

/* True when replaced.  `expected` None: only if there is no such key. */
static PyObject *replace(kvpy_store *self, kv_db *db, kv_bytes key, kv_bytes value,
                         PyObject *expected, unsigned sync_flags) {
    kv_error err;
    kv_status status;
    if (expected == Py_None)
        KVPY_STORE_WRITE(self, status, sync_flags,
                         kv_put_absent(db, key, value, flags, NULL, &err));
    else {
        kvpy_arg e;
        if (kvpy_arg_init(&e, expected, KVPY_VALUE) < 0)
            return NULL;
        KVPY_STORE_WRITE(self, status, sync_flags,
                         kv_replace(db, key, value, e.bytes, flags, &err));
        kvpy_arg_fini(&e);
    }
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    return kvpy_store_written(self, PyBool_FromLong(status == KV_OK));
}

KVPY_FAST(kvpy_store_replace) {
    static const kvpy_signature signature = {
        "replace", {"key", "value", "expected", "sync"}, 2, 3};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[4];
    unsigned sync_flags;
    kvpy_arg k, v;
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[3], &sync_flags) < 0 || kvpy_arg_init(&k, values[0], KVPY_KEY) < 0)
        return NULL;
    PyObject *result = NULL;
    if (kvpy_arg_init(&v, values[1], KVPY_VALUE) == 0) {
        result = replace(self, db, k.bytes, v.bytes, values[2], sync_flags);
        kvpy_arg_fini(&v);
    }
    kvpy_arg_fini(&k);
    return result;
}

/* 0, or -1 with TypeError or OverflowError. */
static int get_int64(PyObject *number, int64_t *result) {
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow); /* takes __index__, too */
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (overflow != 0) {
        PyErr_SetString(PyExc_OverflowError, "by does not fit into 64 bits");
        return -1;
    }
    *result = value;
    return 0;
}

KVPY_FAST(kvpy_store_incr) {
    static const kvpy_signature signature = {"incr", {"key", "by", "sync"}, 2, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[3];
    unsigned sync_flags;
    int64_t by = 1, result;
    kvpy_arg arg;
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[2], &sync_flags) < 0 ||
        (values[1] != NULL && get_int64(values[1], &by) < 0) ||
        kvpy_arg_init(&arg, values[0], KVPY_KEY) < 0)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_STORE_WRITE(self, status, sync_flags,
                     kv_incr(db, arg.bytes, by, flags, &result, &err));
    kvpy_arg_fini(&arg);
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    return kvpy_store_written(self, PyLong_FromLongLong(result));
}
