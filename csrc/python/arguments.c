/* arguments.c - see arguments.h.  Layer: python. */
#include "arguments.h"

#include <math.h>

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

/* ---- Times to live ------------------------------------------------------------------------- */

#define MS_MAX ((int64_t)KV_EXPIRY_MAX) /* longer ones end too late, whatever the clock says */

/* The milliseconds of each: at most 0 for what is not above 0, over MS_MAX for too many; -1 is
 * an exception where PyErr_Occurred() says so. */
static int64_t ms_from_int(PyObject *ttl) {
    int overflow;
    long long seconds = PyLong_AsLongLongAndOverflow(ttl, &overflow);
    if (overflow != 0 || seconds > MS_MAX / 1000)
        return overflow < 0 ? 0 : MS_MAX + 1;
    return seconds > 0 ? seconds * 1000 : 0;
}

static int64_t ms_from_float(double seconds) {
    if (!(seconds > 0.0)) /* NaN, too */
        return 0;
    return seconds < (double)MS_MAX / 1e3 ? (int64_t)ceil(seconds * 1e3) : MS_MAX + 1;
}

static int get_long(PyObject *object, const char *name, int64_t *number) {
    PyObject *attribute = PyObject_GetAttrString(object, name);
    if (attribute == NULL)
        return -1;
    *number = PyLong_AsLongLong(attribute);
    Py_DECREF(attribute);
    return *number == -1 && PyErr_Occurred() ? -1 : 0;
}

/* At most 999,999,999 days, so nothing overflows. */
static int64_t ms_from_timedelta(PyObject *ttl) {
    int64_t days, seconds, microseconds;
    if (get_long(ttl, "days", &days) < 0 || get_long(ttl, "seconds", &seconds) < 0 ||
        get_long(ttl, "microseconds", &microseconds) < 0)
        return -1;
    return (days * 86400 + seconds) * 1000 + (microseconds + 999) / 1000;
}

/* 1, 0, or -1 with an exception.  Who has a timedelta has imported its module. */
static int is_timedelta(PyObject *object) {
    PyObject *name = PyUnicode_FromString("datetime");
    PyObject *module = name != NULL ? PyImport_GetModule(name) : NULL;
    Py_XDECREF(name);
    if (module == NULL)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *type = PyObject_GetAttrString(module, "timedelta");
    Py_DECREF(module);
    if (type == NULL)
        return -1;
    int result = PyObject_IsInstance(object, type);
    Py_DECREF(type);
    return result;
}

static int64_t ms_of(PyObject *ttl) {
    if (PyLong_Check(ttl) && !PyBool_Check(ttl))
        return ms_from_int(ttl);
    if (PyFloat_Check(ttl))
        return ms_from_float(PyFloat_AS_DOUBLE(ttl));
    int result = is_timedelta(ttl);
    if (result == 1)
        return ms_from_timedelta(ttl);
    if (result == 0)
        PyErr_Format(PyExc_TypeError,
                     "ttl must be a number of seconds or a timedelta, not %.200s",
                     Py_TYPE(ttl)->tp_name);
    return -1;
}

int kvpy_expiry(PyObject *ttl, kv_db *db, uint64_t *expiry) {
    *expiry = 0;
    if (ttl == NULL || ttl == Py_None)
        return 0;
    int64_t ms = ms_of(ttl);
    if (ms == -1 && PyErr_Occurred())
        return -1;
    uint64_t now = kv_clock_ms(db);
    if (ms <= 0) {
        PyErr_Format(PyExc_ValueError, "ttl must be above 0, not %R", ttl);
        return -1;
    }
    if (now > KV_EXPIRY_MAX || (uint64_t)ms > KV_EXPIRY_MAX - now) {
        PyErr_Format(PyExc_ValueError, "ttl of %R ends after the year 10889", ttl);
        return -1;
    }
    *expiry = now + (uint64_t)ms;
    return 0;
}
