/* raise.h - from a kv_status and its kv_error to a Python exception.  Layer: python. */
#ifndef KVPY_RAISE_H
#define KVPY_RAISE_H

#include "module.h"

/* Sets the exception that belongs to `status` (< 0) and returns NULL, so that a failure is one
 * statement: return kvpy_raise(state, status, &err).  An exception that is already set stays.
 * `err` must be what the failing call filled. */
PyObject *kvpy_raise(const kvpy_state *state, kv_status status, const kv_error *err);

/* The error as one line of text (new reference); None when its status is none of a failure. */
PyObject *kvpy_error_text(const kv_error *err);

#endif
