/* convert.h - Python objects into bytes of the engine, and back.  Layer: python.
 *
 * In: bytes and str are used where they lie, because they never change.  Other buffers
 * (bytearray, memoryview, array, mmap, ...) are copied first: another thread may change them
 * while the GIL is released, and the engine reads a key more than once (to hash it, to compare
 * it, to store it).  Only large values are read in place: the engine copies a value once, and
 * checksums its copy.
 * Out: values are exactly `bytes`.
 */
#ifndef KVPY_CONVERT_H
#define KVPY_CONVERT_H

#include "module.h"

typedef enum kvpy_role { KVPY_KEY, KVPY_VALUE } kvpy_role;

/* An argument's bytes.  Valid while the object they were taken from is alive, and until
 * kvpy_arg_fini. */
typedef struct kvpy_arg {
    kv_bytes bytes;
    PyObject *keeper; /* owned: who has the bytes; NULL when it is the object itself */
} kvpy_arg;

/* kvpy_arg_init for everything that is not exactly `bytes`. */
int kvpy_arg_init_other(kvpy_arg *arg, PyObject *object, kvpy_role role);

/* -1 with TypeError ("a key must be bytes-like or str, not int") for other types; for a str
 * that has no UTF-8 form (lone surrogates) with UnicodeEncodeError.  Leaves nothing to release
 * then. */
static inline int kvpy_arg_init(kvpy_arg *arg, PyObject *object, kvpy_role role) {
    if (KVPY_LIKELY(PyBytes_CheckExact(object))) {
        arg->bytes = (kv_bytes){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
        arg->keeper = NULL;
        return 0;
    }
    return kvpy_arg_init_other(arg, object, role);
}

static inline void kvpy_arg_fini(kvpy_arg *arg) {
    Py_XDECREF(arg->keeper);
}

/* From this size on, bytes are copied and freed without the GIL (64 KiB take some 5 us, as
 * long as a hand-over). */
#define KVPY_LARGE_MIN (64u << 10)

/* kvpy_bytes_new for KVPY_LARGE_MIN and more. */
PyObject *kvpy_bytes_new_large(const void *data, size_t size);

/* A bytes object with a copy.  `data` must stay valid without the GIL: a pin, a copy of one's
 * own. */
static inline PyObject *kvpy_bytes_new(const void *data, size_t size) {
    if (KVPY_UNLIKELY(size >= KVPY_LARGE_MIN))
        return kvpy_bytes_new_large(data, size);
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
}

/* Frees detached what may be a mapping of its own. */
void kvpy_value_release_pin(kv_value *value);

/* Without a pin there is nothing to release: this saves the hot path a call. */
static inline void kvpy_value_release(kv_value *value) {
    if (value->pin != NULL)
        kvpy_value_release_pin(value);
}

/* kvpy_bytes_new, and releases the value. */
static inline PyObject *kvpy_bytes_from_value(kv_value *value) {
    PyObject *bytes = kvpy_bytes_new(value->data, value->size);
    kvpy_value_release(value);
    return bytes;
}

/* Functions of the module, for what the package gathers before it calls the engine (batches):
 * exactly `bytes` of what put() would take, or the exception that it would raise. */
PyObject *kvpy_key_bytes(PyObject *module, PyObject *object);
PyObject *kvpy_value_bytes(PyObject *module, PyObject *object);

#endif
