/* arguments.h - arguments of METH_FASTCALL | METH_KEYWORDS methods.  Layer: python.
 *
 * A method looks at the common call itself (kwnames == NULL, so many positional arguments) and
 * comes here for all others, so that the common one costs two comparisons.
 */
#ifndef KVPY_ARGUMENTS_H
#define KVPY_ARGUMENTS_H

#include "module.h"

#define KVPY_PARAMETERS_MAX 4

typedef struct kvpy_signature {
    const char *function;                        /* for messages */
    const char *names[KVPY_PARAMETERS_MAX + 1];  /* ends with NULL */
    Py_ssize_t positional;                       /* the first so many may be given by position */
    Py_ssize_t required;                         /* the first so many must be given */
} kvpy_signature;

/* Fills values[i] (borrowed) with the argument for names[i], or NULL when it is not given.
 * -1 with TypeError. */
int kvpy_arguments(const kvpy_signature *signature, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, PyObject **values);

/* The `sync` argument of every write: None, True, or NULL (not given), as the engine's flags.
 * -1 with ValueError for False: a call can be made more durable than the store, never less. */
int kvpy_sync_flags(PyObject *sync, unsigned *flags);

/* The `ttl` argument of every write as the moment so long from now, in ms since 1970 and
 * rounded up; 0 (never) for None and NULL.  An int or a float in seconds, or a
 * datetime.timedelta.  -1 with TypeError for other types, bool among them; with ValueError when
 * it is not above 0, or ends too late. */
int kvpy_expiry(PyObject *ttl, kv_db *db, uint64_t *expiry);

#endif
