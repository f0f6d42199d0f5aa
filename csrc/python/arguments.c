/* arguments.c - see arguments.h.  Layer: python. */
#include "arguments.h"

static Py_ssize_t index_of(const kvpy_signature *s, PyObject *name) {
    for (Py_ssize_t i = 0; s->names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(name, s->names[i]) == 0)
            return i;
    }
    return -1;
}

static int check_given(const kvpy_signature *s, PyObject *const *values) {
    for (Py_ssize_t i = 0; i < s->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required %sargument: '%s'", s->function,
                         i < s->positional ? "" : "keyword-only ", s->names[i]);
            return -1;
        }
    }
    return 0;
}

int kvpy_arguments(const kvpy_signature *s, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, PyObject **values) {
    if (nargs > s->positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd positional argument%s (%zd given)",
                     s->function, s->positional, s->positional == 1 ? "" : "s", nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; s->names[i] != NULL; i++)
        values[i] = i < nargs ? args[i] : NULL;

    Py_ssize_t keywords = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    for (Py_ssize_t k = 0; k < keywords; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = index_of(s, name);
        if (i < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                         s->function, name);
            return -1;
        }
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         s->function, name);
            return -1;
        }
        values[i] = args[nargs + k];
    }
    return check_given(s, values);
}

int kvpy_sync_flags(PyObject *sync, unsigned *flags) {
    *flags = 0;
    if (sync == NULL || sync == Py_None)
        return 0;
    if (sync == Py_True) {
        *flags = KV_SYNC;
        return 0;
    }
    if (sync == Py_False)
        PyErr_SetString(PyExc_ValueError,
                        "sync=False would promise less than the store's sync mode: "
                        "open the store with sync='interval' or 'never' instead");
    else
        PyErr_Format(PyExc_TypeError, "sync must be True or None, not %.200s",
                     Py_TYPE(sync)->tp_name);
    return -1;
}
