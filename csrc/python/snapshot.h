/* snapshot.h - types Snapshot and its iterator: the store at one moment.  Layer: python. */
#ifndef KVPY_SNAPSHOT_H
#define KVPY_SNAPSHOT_H

#include "store.h"

/* A new Snapshot of the store (new reference). */
PyObject *kvpy_snapshot_new(kvpy_store *store);

/* Iterators over a new Snapshot of the store (new references): over its keys, which is iter(store),
 * and over its pairs (key, value). */
PyObject *kvpy_store_iter(PyObject *store);
PyObject *kvpy_store_items(PyObject *store);

#endif
