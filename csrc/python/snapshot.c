/* snapshot.c - see snapshot.h.  Layer: python.
 *
 * A Snapshot holds its Store: the engine's handle must outlive what was made from it.  An
 * iterator holds its Snapshot.  So a view or a half-read iterator keeps the store's replaced
 * values, and an unclosed store open, until it is collected.
 *
 * A cursor is for one thread at a time, but a Python iterator may be shared.  `busy` is set
 * while a thread may be detached with the cursor or its items in use; all fields are read and
 * written under KVPY_BEGIN_EXCLUSIVE.  No Python code runs meanwhile, so a thread never waits for
 * itself.  Those who find it set give way until it is not.
 */
#include "snapshot.h"

#include "arguments.h"
#include "convert.h"
#include "raise.h"

#include <sched.h>

typedef struct snapshot {
    PyObject_HEAD
    kvpy_store *store; /* owned */
    kv_snapshot *snapshot;
} snapshot;

typedef enum part { PART_KEYS, PART_VALUES, PART_ITEMS, PART_RECORDS } part;

typedef struct iterator {
    PyObject_HEAD
    snapshot *owner;      /* owned; NULL when exhausted */
    kv_cursor *cursor;    /* NULL when exhausted */
    const kv_item *items; /* of the cursor: borrowed until its next call */
    size_t next, count;   /* in items */
    part part;
    bool busy; /* cursor and items are in use */
} iterator;

/* ---- Snapshot: life cycle ------------------------------------------------------------------ */

PyObject *kvpy_snapshot_new(kvpy_store *store) {
    kv_db *db = kvpy_store_db(store);
    if (db == NULL)
        return NULL;
    snapshot *self = PyObject_GC_New(snapshot, store->state->snapshot_type);
    if (self == NULL)
        return NULL;
    self->store = NULL;
    self->snapshot = NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_snapshot_create(db, &self->snapshot, &err));
    if (status < 0) {
        self->snapshot = NULL;
        Py_DECREF(self);
        return kvpy_raise(store->state, status, &err);
    }
    self->store = (kvpy_store *)Py_NewRef(store);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int snapshot_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(((snapshot *)op)->store);
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void snapshot_dealloc(PyObject *op) {
    snapshot *self = (snapshot *)op;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->snapshot != NULL) {
        /* It may have to free many replaced values. */
        PyThreadState *thread = PyEval_SaveThread();
        kv_snapshot_destroy(self->snapshot);
        PyEval_RestoreThread(thread);
    }
    Py_XDECREF(self->store);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

/* ---- Snapshot: reading --------------------------------------------------------------------- */

/* New reference; `fallback` (borrowed), or KeyError when it is NULL, when there is no such
 * key. */
static PyObject *lookup(snapshot *self, PyObject *key, PyObject *fallback) {
    kvpy_arg arg;
    if (kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return NULL;
    kv_value value;
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self->store, status,
                    kv_snapshot_get(self->snapshot, arg.bytes, flags, &value, &err));
    kvpy_arg_fini(&arg);
    if (status == KV_OK)
        return kvpy_bytes_from_value(&value);
    if (status < 0)
        return kvpy_raise(self->store->state, status, &err);
    if (fallback == NULL)
        PyErr_SetObject(PyExc_KeyError, key);
    return Py_XNewRef(fallback);
}

static KVPY_FAST(snapshot_get) {
    static const kvpy_signature signature = {"get", {"key", "default"}, 2, 1};
    PyObject *values[2];
    if (kvpy_arguments(&signature, args, nargs, kwnames, values) < 0)
        return NULL;
    return lookup((snapshot *)op, values[0], values[1] != NULL ? values[1] : Py_None);
}

static PyObject *snapshot_subscript(PyObject *op, PyObject *key) {
    return lookup((snapshot *)op, key, NULL);
}

static int snapshot_contains(PyObject *op, PyObject *key) {
    snapshot *self = (snapshot *)op;
    kvpy_arg arg;
    if (kvpy_arg_init(&arg, key, KVPY_KEY) < 0)
        return -1;
    kv_value value;
    kv_error err;
    kv_status status;
    KVPY_STORE_READ(self->store, status,
                    kv_snapshot_get(self->snapshot, arg.bytes, flags, &value, &err));
    kvpy_arg_fini(&arg);
    if (status < 0) {
        kvpy_raise(self->store->state, status, &err);
        return -1;
    }
    if (status == KV_OK)
        kvpy_value_release(&value);
    return status == KV_OK;
}

static Py_ssize_t snapshot_length(PyObject *op) {
    snapshot *self = (snapshot *)op;
    uint64_t count;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_snapshot_count(self->snapshot, &count, &err));
    if (status < 0) {
        kvpy_raise(self->store->state, status, &err);
        return -1;
    }
    return (Py_ssize_t)count;
}

/* ---- Iterators ----------------------------------------------------------------------------- */

static PyObject *iterator_new(snapshot *owner, part which) {
    const kvpy_state *state = owner->store->state;
    iterator *self = PyObject_GC_New(iterator, state->iterator_type);
    if (self == NULL)
        return NULL;
    self->owner = NULL;
    self->cursor = NULL;
    self->items = NULL;
    self->next = self->count = 0;
    self->part = which;
    self->busy = false;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_cursor_create(owner->snapshot, &self->cursor, &err));
    if (status < 0) {
        self->cursor = NULL;
        Py_DECREF(self);
        return kvpy_raise(state, status, &err);
    }
    self->owner = (snapshot *)Py_NewRef(owner);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Lets the snapshot go as soon as nothing is left to read. */
static void iterator_end(iterator *self) {
    kv_cursor *cursor = self->cursor;
    snapshot *owner = self->owner;
    self->cursor = NULL;
    self->owner = NULL;
    self->items = NULL;
    self->next = self->count = 0;
    if (cursor != NULL) {
        PyThreadState *thread = PyEval_SaveThread();
        kv_cursor_destroy(cursor);
        PyEval_RestoreThread(thread);
    }
    Py_XDECREF(owner);
}

static int iterator_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(((iterator *)op)->owner);
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void iterator_dealloc(PyObject *op) {
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    iterator_end((iterator *)op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* Waits until no other thread is inside.  That takes as long as filling does, and happens only to
 * those who share an iterator. */
static void iterator_claim(iterator *self) {
    while (self->busy) {
        PyThreadState *thread = PyEval_SaveThread();
        sched_yield();
        PyEval_RestoreThread(thread);
    }
    self->busy = true;
}

/* Key and value of the next item (new references; NULL for what the part does not want) and its
 * expiry, or KV_NOTFOUND at the end. */
static kv_status iterator_take(iterator *self, PyObject **key, PyObject **value,
                               uint64_t *expiry, kv_error *err) {
    *key = *value = NULL;
    if (self->next == self->count) {
        kv_status status = KV_NOTFOUND;
        self->next = self->count = 0;
        if (self->cursor != NULL)
            KVPY_CALL_DETACHED(status,
                               kv_cursor_next(self->cursor, &self->items, &self->count, err));
        if (status != KV_OK) {
            self->count = 0;
            return status;
        }
    }
    const kv_item *item = &self->items[self->next];
    if (self->part != PART_VALUES) {
        *key = kvpy_bytes_new(item->key.data, item->key.size);
        if (*key == NULL)
            return kv_fail_nomem(err, item->key.size);
    }
    if (self->part != PART_KEYS) {
        *value = kvpy_bytes_new(item->value.data, item->value.size);
        if (*value == NULL) {
            Py_CLEAR(*key);
            return kv_fail_nomem(err, item->value.size);
        }
    }
    *expiry = item->expiry;
    self->next++;
    return KV_OK;
}

static PyObject *iterator_next_exclusive(iterator *self) {
    PyObject *key, *value;
    uint64_t expiry = 0;
    kv_error err;
    iterator_claim(self);
    kv_status status = iterator_take(self, &key, &value, &expiry, &err);
    self->busy = false; /* first: what follows may run Python code */
    if (status < 0)
        return kvpy_raise(self->owner->store->state, status, &err);
    if (status == KV_NOTFOUND)
        iterator_end(self);
    if (key == NULL || value == NULL)
        return key != NULL ? key : value;
    if (self->part == PART_RECORDS)
        return Py_BuildValue("(NNK)", key, value, (unsigned long long)expiry);
    PyObject *pair = PyTuple_New(2);
    if (pair == NULL) {
        Py_DECREF(key);
        Py_DECREF(value);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, key);
    PyTuple_SET_ITEM(pair, 1, value);
    return pair;
}

static PyObject *iterator_next(PyObject *op) {
    PyObject *result;
    KVPY_BEGIN_EXCLUSIVE(op);
    result = iterator_next_exclusive((iterator *)op);
    KVPY_END_EXCLUSIVE();
    return result;
}

static PyType_Slot iterator_slots[] = {
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {0, NULL},
};

static PyType_Spec iterator_spec = {
    .name = "pykv._core.SnapshotIterator",
    .basicsize = sizeof(iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

static PyObject *snapshot_keys(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return iterator_new((snapshot *)op, PART_KEYS);
}

static PyObject *snapshot_values(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return iterator_new((snapshot *)op, PART_VALUES);
}

static PyObject *snapshot_items(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return iterator_new((snapshot *)op, PART_ITEMS);
}

static PyObject *snapshot_records(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return iterator_new((snapshot *)op, PART_RECORDS);
}

static PyObject *snapshot_iter(PyObject *op) {
    return iterator_new((snapshot *)op, PART_KEYS);
}

static PyObject *walk_store(PyObject *store, part which) {
    PyObject *moment = kvpy_snapshot_new((kvpy_store *)store);
    if (moment == NULL)
        return NULL;
    PyObject *walk = iterator_new((snapshot *)moment, which);
    Py_DECREF(moment);
    return walk;
}

PyObject *kvpy_store_iter(PyObject *store) {
    return walk_store(store, PART_KEYS);
}

PyObject *kvpy_store_items(PyObject *store) {
    return walk_store(store, PART_ITEMS);
}

/* ---- Snapshot: the type -------------------------------------------------------------------- */

PyDoc_STRVAR(snapshot_doc,
             "The store as it was at one moment, however much is written meanwhile.\n"
             "\n"
             "Read-only mapping; made by Store._snapshot().  Values that were replaced since are\n"
             "kept in memory until the snapshot is collected.  After Store.close() its methods may\n"
             "raise ClosedError.");
PyDoc_STRVAR(snapshot_get_doc,
             "get($self, /, key, default=None)\n--\n\n"
             "The key's value as bytes, or default.");
PyDoc_STRVAR(snapshot_keys_doc, "keys($self, /)\n--\n\nAn iterator over all keys, in no order.");
PyDoc_STRVAR(snapshot_values_doc,
             "values($self, /)\n--\n\nAn iterator over all values, in the order of keys().");
PyDoc_STRVAR(snapshot_items_doc,
             "items($self, /)\n--\n\nAn iterator over all pairs (key, value).");
PyDoc_STRVAR(snapshot_records_doc,
             "_records($self, /)\n--\n\n"
             "An iterator over all (key, value, expiry); expiry in ms since 1970, 0: never.");

static PyMethodDef snapshot_methods[] = {
    {"get", (PyCFunction)(void (*)(void))snapshot_get, METH_FASTCALL | METH_KEYWORDS,
     snapshot_get_doc},
    {"keys", snapshot_keys, METH_NOARGS, snapshot_keys_doc},
    {"values", snapshot_values, METH_NOARGS, snapshot_values_doc},
    {"items", snapshot_items, METH_NOARGS, snapshot_items_doc},
    {"_records", snapshot_records, METH_NOARGS, snapshot_records_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot snapshot_slots[] = {
    {Py_tp_doc, (void *)snapshot_doc},
    {Py_tp_dealloc, snapshot_dealloc},
    {Py_tp_traverse, snapshot_traverse},
    {Py_tp_iter, snapshot_iter},
    {Py_tp_methods, snapshot_methods},
    {Py_mp_length, snapshot_length},
    {Py_mp_subscript, snapshot_subscript},
    {Py_sq_contains, snapshot_contains},
    {0, NULL},
};

static PyType_Spec snapshot_spec = {
    .name = "pykv._core.Snapshot",
    .basicsize = sizeof(snapshot),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |
             Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MAPPING,
    .slots = snapshot_slots,
};

int kvpy_snapshot_register(PyObject *module, kvpy_state *state) {
    state->snapshot_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &snapshot_spec, NULL);
    state->iterator_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &iterator_spec, NULL);
    if (state->snapshot_type == NULL || state->iterator_type == NULL)
        return -1;
    return PyModule_AddType(module, state->snapshot_type);
}
