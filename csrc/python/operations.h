/* operations.h - many keys, or many puts and deletes, gathered from Python objects for one
 * call of the engine.  Layer: python.
 *
 * While the engine works, the GIL is free and another thread may change the list or dict that
 * the caller passed.  So whatever the engine reads is kept alive from here: by a reference to
 * every object, or to the immutable tuple that holds them all.
 */
#ifndef KVPY_OPERATIONS_H
#define KVPY_OPERATIONS_H

#include "convert.h"

/* ---- Keys to read ------------------------------------------------------------------------- */

#define KVPY_KEYS_LOCAL 128 /* so many need no allocation: 3 KiB of stack */

typedef struct kvpy_keys {
    kv_bytes *keys;
    PyObject **kept;    /* owned references that keep keys[i] alive; NULL where `sequence` does */
    size_t kept_count;
    size_t count;
    PyObject *sequence; /* owned tuple, or NULL */
    kv_bytes keys_local[KVPY_KEYS_LOCAL];
    PyObject *kept_local[KVPY_KEYS_LOCAL];
} kvpy_keys;

/* From any iterable of keys.  A list or a tuple of bytes is fastest.  -1 with an exception, and
 * nothing to release. */
int kvpy_keys_init(kvpy_keys *keys, PyObject *iterable);
void kvpy_keys_fini(kvpy_keys *keys);

/* ---- Puts and deletes --------------------------------------------------------------------- */

typedef struct kvpy_operations {
    kv_op *ops;
    PyObject **kept; /* owned: two for each operation; the second: NULL without a value */
    size_t count, capacity;
} kvpy_operations;

#define KVPY_OPERATIONS_EMPTY {NULL, NULL, 0, 0}

/* Each adds to what is there; -1 with an exception.  kvpy_operations_fini in any case. */
int kvpy_operations_add_puts(kvpy_operations *o, const kvpy_state *state,
                             PyObject *mapping_or_pairs);
int kvpy_operations_add_deletes(kvpy_operations *o, PyObject *keys);
/* A dict; what stands for a key says what is done with it: a value is put, None deletes, a tuple
 * (value, expiry) puts with an expiry, an int is another expiry of the key that is there.  An
 * expiry is an int in ms since 1970, 0: never. */
int kvpy_operations_add_mixed(kvpy_operations *o, PyObject *dict);
/* The expiry of all that were gathered by kvpy_operations_add_puts. */
void kvpy_operations_set_expiry(kvpy_operations *o, uint64_t expiry);
void kvpy_operations_fini(kvpy_operations *o);

#endif
