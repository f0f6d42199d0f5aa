/* store_many.c - Store's operations on many keys.  Layer: python.
 *
 * They gather under the GIL, work without it, and make the result under the GIL again; the outer
 * two phases are what threads share one after the other, so they are kept lean (operations.c).
 */
#include "arguments.h"
#include "operations.h"
#include "raise.h"
#include "store.h"

/* ---- Reading ------------------------------------------------------------------------------ */

static PyObject *list_from_values(const kv_values *values) {
    PyObject *list = PyList_New((Py_ssize_t)values->count);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < values->count; i++) {
        const struct kv_item_value *item = &values->items[i];
        PyObject *value;
        if (item->data == NULL)
            value = Py_NewRef(Py_None);
        else
            value = kvpy_bytes_new(item->data, item->size);
        if (KVPY_UNLIKELY(value == NULL)) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, value);
    }
    return list;
}

PyObject *kvpy_store_get_many(PyObject *op, PyObject *iterable) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    kvpy_keys keys;
    if (db == NULL || kvpy_keys_init(&keys, iterable) < 0)
        return NULL;
    kv_values values;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_get_many(db, keys.keys, keys.count, &values, &err));
    kvpy_keys_fini(&keys);
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    PyObject *list = list_from_values(&values);
    KVPY_CALL_SHORT(kv_values_release(&values));
    return list;
}

/* ---- Writing ------------------------------------------------------------------------------ */

/* One commit of everything gathered; releases it.  `gathered`: what the gathering answered. */
static int commit(kvpy_store *self, kv_db *db, kvpy_operations *o, int gathered,
                  unsigned sync_flags, uint64_t *deleted) {
    kv_status status = KV_OK;
    kv_error err;
    if (gathered == 0)
        KVPY_CALL_DETACHED(status, kv_write(db, o->ops, o->count, sync_flags, deleted, &err));
    kvpy_operations_fini(o);
    if (gathered < 0)
        return -1;
    if (status < 0) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    return kvpy_store_warned(self);
}

KVPY_FAST(kvpy_store_put_many) {
    static const kvpy_signature signature = {"put_many", {"items", "ttl", "sync"}, 1, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[3];
    unsigned sync_flags;
    uint64_t expiry;
    if (db == NULL || kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_expiry(values[1], db, &expiry) < 0 || kvpy_sync_flags(values[2], &sync_flags) < 0)
        return NULL;
    kvpy_operations o = KVPY_OPERATIONS_EMPTY;
    int gathered = kvpy_operations_add_puts(&o, self->state, values[0]);
    if (expiry != 0)
        kvpy_operations_set_expiry(&o, expiry);
    if (commit(self, db, &o, gathered, sync_flags, NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

KVPY_FAST(kvpy_store_delete_many) {
    static const kvpy_signature signature = {"delete_many", {"keys", "sync"}, 1, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2];
    unsigned sync_flags;
    if (db == NULL ||
        kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[1], &sync_flags) < 0)
        return NULL;
    kvpy_operations o = KVPY_OPERATIONS_EMPTY;
    int gathered = kvpy_operations_add_deletes(&o, values[0]);
    uint64_t deleted = 0;
    if (commit(self, db, &o, gathered, sync_flags, &deleted) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(deleted);
}

KVPY_FAST(kvpy_store_write) {
    static const kvpy_signature signature = {"_write", {"operations", "sync"}, 1, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2];
    unsigned sync_flags;
    if (db == NULL ||
        kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_sync_flags(values[1], &sync_flags) < 0)
        return NULL;
    kvpy_operations o = KVPY_OPERATIONS_EMPTY;
    int gathered = kvpy_operations_add_mixed(&o, values[0]);
    uint64_t deleted = 0;
    if (commit(self, db, &o, gathered, sync_flags, &deleted) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(deleted);
}

PyObject *kvpy_store_clear(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_clear(db, 0, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    return kvpy_store_written(self, Py_NewRef(Py_None));
}
