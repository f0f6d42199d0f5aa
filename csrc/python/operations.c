/* operations.c - see operations.h.  Layer: python.
 *
 * The loops that run under the GIL while other threads wait for it: each looks at an object once.
 * Objects made afresh lie cold in memory, so the loops over lists ask for them ahead.
 */
#include "operations.h"

#include "snapshot.h"

#include <stdint.h>

#define AHEAD 8 /* objects: their misses overlap */
#define CAPACITY_MIN 16

/* A bytes object of 16 bytes takes 49, so header and data lie mostly in two cache lines. */
static inline void prefetch_object(PyObject *object) {
    KVPY_PREFETCH(object);
    KVPY_PREFETCH((const char *)object + 32);
}

/* One string instead of an iterable of them is a slip that would otherwise read each
 * character. */
static int reject_string(PyObject *object) {
    if (!PyUnicode_Check(object) && !PyBytes_Check(object) && !PyByteArray_Check(object))
        return 0;
    PyErr_Format(PyExc_TypeError, "keys must be an iterable of keys, not one %.200s",
                 Py_TYPE(object)->tp_name);
    return -1;
}

/* ---- Keys ---------------------------------------------------------------------------------- */

static int keys_reserve(kvpy_keys *k, size_t count) {
    k->keys = k->keys_local;
    k->kept = k->kept_local;
    if (count <= KVPY_KEYS_LOCAL)
        return 0;
    if (count > SIZE_MAX / sizeof(kv_bytes)) {
        PyErr_NoMemory();
        return -1;
    }
    k->keys = PyMem_Malloc(count * sizeof k->keys[0]);
    k->kept = PyMem_Malloc(count * sizeof k->kept[0]);
    if (k->keys == NULL || k->kept == NULL) {
        PyMem_Free(k->keys);
        PyMem_Free(k->kept);
        k->keys = k->keys_local;
        k->kept = k->kept_local;
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Takes the keys of a list while they are exactly bytes: so no Python code runs and the list
 * cannot change here.  Returns how many it took. */
static size_t keys_from_list(kvpy_keys *k, PyObject *list, size_t count) {
    PyObject *const *items = ((PyListObject *)list)->ob_item;
    kv_bytes *keys = k->keys;
    PyObject **kept = k->kept;
    size_t i = 0;
    for (; i < count; i++) {
        if (i + AHEAD < count)
            prefetch_object(items[i + AHEAD]);
        PyObject *key = items[i];
        if (KVPY_UNLIKELY(!PyBytes_CheckExact(key)))
            break;
        keys[i] = (kv_bytes){PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key)};
        kept[i] = Py_NewRef(key);
    }
    k->kept_count = i;
    return i;
}

/* The tuple keeps its items alive; only copies need a reference of their own. */
static int keys_from_tuple(kvpy_keys *k, PyObject *tuple, size_t count) {
    PyObject *const *items = ((PyTupleObject *)tuple)->ob_item;
    kv_bytes *keys = k->keys;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count)
            prefetch_object(items[i + AHEAD]);
        PyObject *key = items[i];
        if (KVPY_LIKELY(PyBytes_CheckExact(key))) {
            keys[i] = (kv_bytes){PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key)};
            continue;
        }
        kvpy_arg arg;
        if (kvpy_arg_init_other(&arg, key, KVPY_KEY) < 0)
            return -1;
        keys[i] = arg.bytes;
        if (arg.keeper != NULL)
            k->kept[k->kept_count++] = arg.keeper;
    }
    return 0;
}

static void keys_drop(kvpy_keys *k) {
    for (size_t i = 0; i < k->kept_count; i++)
        Py_DECREF(k->kept[i]);
    k->kept_count = 0;
    if (k->keys != k->keys_local) {
        PyMem_Free(k->keys);
        PyMem_Free(k->kept);
        k->keys = k->keys_local;
        k->kept = k->kept_local;
    }
}

int kvpy_keys_init(kvpy_keys *k, PyObject *iterable) {
    k->sequence = NULL;
    k->kept_count = 0;
    k->keys = k->keys_local;
    if (PyList_CheckExact(iterable)) {
        int done = 0;
        KVPY_BEGIN_EXCLUSIVE(iterable);
        k->count = (size_t)PyList_GET_SIZE(iterable);
        if (keys_reserve(k, k->count) < 0)
            done = -1;
        else
            done = keys_from_list(k, iterable, k->count) == k->count;
        KVPY_END_EXCLUSIVE();
        if (done != 0)
            return done < 0 ? -1 : 0;
        keys_drop(k);
    }
    if (reject_string(iterable) < 0)
        return -1;
    k->sequence = PySequence_Tuple(iterable);
    if (k->sequence == NULL)
        return -1;
    k->count = (size_t)PyTuple_GET_SIZE(k->sequence);
    if (keys_reserve(k, k->count) < 0 || keys_from_tuple(k, k->sequence, k->count) < 0) {
        kvpy_keys_fini(k);
        return -1;
    }
    return 0;
}

void kvpy_keys_fini(kvpy_keys *k) {
    keys_drop(k);
    Py_CLEAR(k->sequence);
}

/* ---- Puts and deletes ---------------------------------------------------------------------- */

static int grow(kvpy_operations *o, size_t more) {
    size_t capacity = o->count + more;
    if (capacity < more || capacity > SIZE_MAX / 2 / sizeof(kv_op)) {
        PyErr_NoMemory();
        return -1;
    }
    if (capacity < 2 * o->capacity)
        capacity = 2 * o->capacity;
    if (capacity < CAPACITY_MIN)
        capacity = CAPACITY_MIN;
    kv_op *ops = PyMem_Realloc(o->ops, capacity * sizeof *ops);
    if (ops != NULL)
        o->ops = ops;
    PyObject **kept = PyMem_Realloc(o->kept, capacity * 2 * sizeof *kept);
    if (kept != NULL)
        o->kept = kept;
    if (ops == NULL || kept == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    o->capacity = capacity;
    return 0;
}

static inline int reserve(kvpy_operations *o, size_t more) {
    return more <= o->capacity - o->count ? 0 : grow(o, more);
}

/* `*object` is owned; a copy takes its place when its own bytes might change. */
static inline int bytes_of(PyObject **object, kvpy_role role, kv_bytes *bytes) {
    kvpy_arg arg;
    if (KVPY_UNLIKELY(kvpy_arg_init(&arg, *object, role) < 0))
        return -1;
    *bytes = arg.bytes;
    if (KVPY_UNLIKELY(arg.keeper != NULL))
        Py_SETREF(*object, arg.keeper);
    return 0;
}

/* There must be room.  `value` NULL: a deletion.  Both may be borrowed from the caller's
 * container: they are owned before a conversion can run Python code that changes it. */
static inline int add(kvpy_operations *o, PyObject *key, PyObject *value) {
    kv_op *op = &o->ops[o->count];
    PyObject **kept = &o->kept[2 * o->count];
    kept[0] = Py_NewRef(key);
    kept[1] = Py_XNewRef(value);
    op->kind = value != NULL ? KV_OP_PUT : KV_OP_DELETE;
    op->expiry = 0;
    op->conditional = false;
    if (KVPY_UNLIKELY(bytes_of(&kept[0], KVPY_KEY, &op->key) < 0 ||
                      (value != NULL && bytes_of(&kept[1], KVPY_VALUE, &op->value) < 0))) {
        Py_DECREF(kept[0]);
        Py_XDECREF(kept[1]);
        return -1;
    }
    o->count++;
    return 0;
}

static int expiry_from(PyObject *object, uint64_t *expiry) {
    *expiry = PyLong_AsUnsignedLongLong(object);
    return *expiry == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

/* (value, expiry) */
static int add_expiring(kvpy_operations *o, PyObject *key, PyObject *pair) {
    uint64_t expiry;
    if (PyTuple_GET_SIZE(pair) != 2) {
        PyErr_SetString(PyExc_ValueError, "a tuple of operations must be (value, expiry)");
        return -1;
    }
    if (expiry_from(PyTuple_GET_ITEM(pair, 1), &expiry) < 0 ||
        add(o, key, PyTuple_GET_ITEM(pair, 0)) < 0)
        return -1;
    o->ops[o->count - 1].expiry = expiry;
    return 0;
}

static int add_expire(kvpy_operations *o, PyObject *key, PyObject *moment) {
    uint64_t expiry;
    if (expiry_from(moment, &expiry) < 0 || add(o, key, NULL) < 0)
        return -1;
    o->ops[o->count - 1].kind = KV_OP_EXPIRE;
    o->ops[o->count - 1].expiry = expiry;
    return 0;
}

/* See kvpy_operations_add_mixed. */
static inline int add_what(kvpy_operations *o, PyObject *key, PyObject *what) {
    if (KVPY_LIKELY(PyBytes_CheckExact(what)))
        return add(o, key, what);
    if (what == Py_None)
        return add(o, key, NULL);
    if (PyTuple_CheckExact(what))
        return add_expiring(o, key, what);
    if (PyLong_CheckExact(what))
        return add_expire(o, key, what);
    return add(o, key, what);
}

/* A conversion may run Python code that changes the dict; PyDict_Next stays safe, and the check
 * tells. */
static int add_dict_locked(kvpy_operations *o, PyObject *dict, bool mixed) {
    Py_ssize_t size = PyDict_GET_SIZE(dict), position = 0;
    if (reserve(o, (size_t)size) < 0)
        return -1;
    PyObject *key, *value;
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (KVPY_UNLIKELY(o->count == o->capacity || PyDict_GET_SIZE(dict) != size)) {
            PyErr_SetString(PyExc_RuntimeError, "dictionary changed size during iteration");
            return -1;
        }
        if ((mixed ? add_what(o, key, value) : add(o, key, value)) < 0)
            return -1;
    }
    return 0;
}

static int add_dict(kvpy_operations *o, PyObject *dict, bool mixed) {
    int result;
    KVPY_BEGIN_EXCLUSIVE(dict);
    result = add_dict_locked(o, dict, mixed);
    KVPY_END_EXCLUSIVE();
    return result;
}

/* `pair` is owned. */
static int add_pair_other(kvpy_operations *o, PyObject *pair, Py_ssize_t index) {
    if (PyUnicode_Check(pair) || PyBytes_Check(pair) || !PySequence_Check(pair)) {
        PyErr_Format(PyExc_TypeError, "item %zd must be a pair (key, value), not %.200s", index,
                     Py_TYPE(pair)->tp_name);
        return -1;
    }
    PyObject *tuple = PySequence_Tuple(pair);
    if (tuple == NULL)
        return -1;
    int result = -1;
    if (PyTuple_GET_SIZE(tuple) == 2)
        result = add(o, PyTuple_GET_ITEM(tuple, 0), PyTuple_GET_ITEM(tuple, 1));
    else
        PyErr_Format(PyExc_ValueError,
                     "item %zd has %zd elements; a pair (key, value) is required", index,
                     PyTuple_GET_SIZE(tuple));
    Py_DECREF(tuple);
    return result;
}

/* `pair`: any sequence of two; may be borrowed. */
static inline int add_pair(kvpy_operations *o, PyObject *pair, Py_ssize_t index) {
    if (KVPY_UNLIKELY(reserve(o, 1) < 0))
        return -1;
    if (KVPY_LIKELY(PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2))
        return add(o, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
    Py_INCREF(pair); /* borrowed from a list that the conversion may change */
    int result = add_pair_other(o, pair, index);
    Py_DECREF(pair);
    return result;
}

/* What a pair that is near already points to. */
static inline void prefetch_pair(PyObject *pair) {
    if (KVPY_LIKELY(PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2)) {
        prefetch_object(PyTuple_GET_ITEM(pair, 0));
        KVPY_PREFETCH(PyTuple_GET_ITEM(pair, 1));
    }
}

/* The list's size is looked at again each time: a conversion may run Python code. */
static int add_pair_list_locked(kvpy_operations *o, PyObject *list) {
    if (reserve(o, (size_t)PyList_GET_SIZE(list)) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        if (i + 2 * AHEAD < PyList_GET_SIZE(list))
            prefetch_object(PyList_GET_ITEM(list, i + 2 * AHEAD));
        if (i + AHEAD < PyList_GET_SIZE(list))
            prefetch_pair(PyList_GET_ITEM(list, i + AHEAD));
        if (add_pair(o, PyList_GET_ITEM(list, i), i) < 0)
            return -1;
    }
    return 0;
}

static int add_pair_list(kvpy_operations *o, PyObject *list) {
    int result;
    KVPY_BEGIN_EXCLUSIVE(list);
    result = add_pair_list_locked(o, list);
    KVPY_END_EXCLUSIVE();
    return result;
}

static int add_pairs(kvpy_operations *o, PyObject *iterable) {
    PyObject *iterator = PyObject_GetIter(iterable);
    if (iterator == NULL)
        return -1;
    PyObject *pair;
    for (Py_ssize_t i = 0; (pair = PyIter_Next(iterator)) != NULL; i++) {
        int result = add_pair(o, pair, i);
        Py_DECREF(pair);
        if (result < 0)
            break;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* As dict.update reads an object that has keys(). */
static int add_mapping(kvpy_operations *o, PyObject *mapping) {
    PyObject *keys = PyMapping_Keys(mapping);
    PyObject *iterator = keys != NULL ? PyObject_GetIter(keys) : NULL;
    Py_XDECREF(keys);
    if (iterator == NULL)
        return -1;
    PyObject *key;
    while ((key = PyIter_Next(iterator)) != NULL) {
        PyObject *value = PyObject_GetItem(mapping, key);
        int result = value != NULL && reserve(o, 1) == 0 ? add(o, key, value) : -1;
        Py_XDECREF(value);
        Py_DECREF(key);
        if (result < 0)
            break;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* 1 when the object is a mapping by dict.update's measure; -1 with an exception. */
static int has_keys(const kvpy_state *state, PyObject *object) {
    PyObject *method = PyObject_GetAttr(object, state->name_keys);
    if (method == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(method);
    return 1;
}

int kvpy_operations_add_puts(kvpy_operations *o, const kvpy_state *state, PyObject *source) {
    if (PyDict_CheckExact(source))
        return add_dict(o, source, false);
    if (PyList_CheckExact(source))
        return add_pair_list(o, source);
    if (PyObject_TypeCheck(source, state->store_type)) { /* one look at one moment */
        PyObject *items = kvpy_store_items(source);
        int result = items != NULL ? add_pairs(o, items) : -1;
        Py_XDECREF(items);
        return result;
    }
    switch (has_keys(state, source)) {
    case 0:
        return add_pairs(o, source);
    case 1:
        return add_mapping(o, source);
    default:
        return -1;
    }
}

int kvpy_operations_add_deletes(kvpy_operations *o, PyObject *keys) {
    if (reject_string(keys) < 0)
        return -1;
    PyObject *tuple = PySequence_Tuple(keys); /* what it holds cannot change under the loop */
    if (tuple == NULL)
        return -1;
    Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    int result = reserve(o, (size_t)count);
    for (Py_ssize_t i = 0; result == 0 && i < count; i++)
        result = add(o, PyTuple_GET_ITEM(tuple, i), NULL);
    Py_DECREF(tuple);
    return result;
}

int kvpy_operations_add_mixed(kvpy_operations *o, PyObject *dict) {
    if (!PyDict_CheckExact(dict)) {
        PyErr_Format(PyExc_TypeError, "operations must be a dict, not %.200s",
                     Py_TYPE(dict)->tp_name);
        return -1;
    }
    return add_dict(o, dict, true);
}

void kvpy_operations_set_expiry(kvpy_operations *o, uint64_t expiry) {
    for (size_t i = 0; i < o->count; i++)
        o->ops[i].expiry = expiry;
}

void kvpy_operations_fini(kvpy_operations *o) {
    for (size_t i = 0; i < 2 * o->count; i++)
        Py_XDECREF(o->kept[i]);
    PyMem_Free(o->ops);
    PyMem_Free(o->kept);
    *o = (kvpy_operations)KVPY_OPERATIONS_EMPTY;
}
