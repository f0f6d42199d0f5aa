/* view.h - type View: one pinned value as a read-only buffer.  Layer: python. */
#ifndef KVPY_VIEW_H
#define KVPY_VIEW_H

#include "module.h"

/* A View without a value yet: fill kvpy_view_value() with kv_get(..., KV_PIN, ...), or drop
 * it. */
PyObject *kvpy_view_new(const kvpy_state *state);
kv_value *kvpy_view_value(PyObject *view);

/* A memoryview of it (new reference), which keeps the View, and so the pin, alive. */
PyObject *kvpy_view_to_memoryview(PyObject *view);

#endif
