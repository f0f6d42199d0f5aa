/* raise.c - see raise.h.  Layer: python.
 *
 * Each row of KV_STATUS_TABLE has a rule here, by name: a status without one does not compile.
 * A rule says which exception, what shape its arguments have, and which errno stands in when the
 * engine saw none (an OSError without errno would be caught by nobody's `except OSError as e: if
 * e.errno ...`).
 */
#include "raise.h"

#include <errno.h>
#include <stddef.h>

typedef enum shape {
    SHAPE_NONE,    /* not a failure: raising it is a bug of the caller */
    SHAPE_NOMEM,   /* MemoryError */
    SHAPE_MESSAGE, /* (message) */
    SHAPE_OS,      /* (errno, message, path): an OSError */
    SHAPE_PLACE,   /* (message), attributes path and offset */
} shape;

typedef struct rule {
    kv_status status;
    shape shape;
    PyObject **builtin; /* the exception, or NULL: ... */
    size_t field;       /* ... it is in the state, here */
    int sys_errno;      /* SHAPE_OS: when the engine gives none */
} rule;

#define BUILTIN(shape, exception) shape, &exception, 0, 0
#define OURS(shape, name, sys_errno) shape, NULL, offsetof(kvpy_state, name), sys_errno

#define RULE_KV_OK BUILTIN(SHAPE_NONE, PyExc_SystemError)
#define RULE_KV_NOTFOUND BUILTIN(SHAPE_NONE, PyExc_SystemError)
#define RULE_KV_UNCHANGED BUILTIN(SHAPE_NONE, PyExc_SystemError)
#define RULE_KV_BUSY BUILTIN(SHAPE_NONE, PyExc_SystemError)
#define RULE_KV_ERR_NOMEM BUILTIN(SHAPE_NOMEM, PyExc_MemoryError)
#define RULE_KV_ERR_IO OURS(SHAPE_OS, storage_error, EIO)
#define RULE_KV_ERR_NOSPACE OURS(SHAPE_OS, storage_error, ENOSPC)
#define RULE_KV_ERR_FAILED OURS(SHAPE_OS, failed_error, EIO)
#define RULE_KV_ERR_CORRUPT OURS(SHAPE_PLACE, corruption_error, 0)
#define RULE_KV_ERR_VERSION OURS(SHAPE_PLACE, version_error, 0)
#define RULE_KV_ERR_LOCKED OURS(SHAPE_OS, locked_error, EAGAIN)
#define RULE_KV_ERR_CLOSED OURS(SHAPE_MESSAGE, closed_error, 0)
#define RULE_KV_ERR_FORKED OURS(SHAPE_MESSAGE, fork_error, 0)
#define RULE_KV_ERR_READONLY OURS(SHAPE_MESSAGE, read_only_error, 0)
#define RULE_KV_ERR_LIMIT OURS(SHAPE_MESSAGE, limit_error, 0)
#define RULE_KV_ERR_INVALID BUILTIN(SHAPE_MESSAGE, PyExc_ValueError)
#define RULE_KV_ERR_NOTINT BUILTIN(SHAPE_MESSAGE, PyExc_ValueError)
#define RULE_KV_ERR_RANGE BUILTIN(SHAPE_MESSAGE, PyExc_OverflowError)
#define RULE_KV_ERR_MEMLIMIT OURS(SHAPE_MESSAGE, memory_limit_error, 0)
/* Never met: the callback that cancelled has set its own exception. */
#define RULE_KV_ERR_CANCELLED OURS(SHAPE_MESSAGE, error, 0)

static rule rule_of(kv_status status) {
    switch (status) {
#define X(name, value, text)                                                                     \
    case name:                                                                                   \
        return (rule){name, RULE_##name};
        KV_STATUS_TABLE(X)
#undef X
    }
    return (rule){status, RULE_KV_OK};
}

static PyObject *message_of(kv_status status, const kv_error *err) {
    const char *text = err->message[0] != '\0' ? err->message : kv_status_text(status);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace");
}

/* New reference: the file's name, or None when the failure has none. */
static PyObject *path_of(const kv_error *err) {
    return err->path[0] != '\0' ? PyUnicode_DecodeFSDefault(err->path) : Py_NewRef(Py_None);
}

static int set_int_or_none(PyObject *exception, const char *name, int64_t value, bool known) {
    PyObject *number = known ? PyLong_FromLongLong(value) : Py_NewRef(Py_None);
    if (number == NULL)
        return -1;
    int result = PyObject_SetAttrString(exception, name, number);
    Py_DECREF(number);
    return result;
}

/* OSError's own constructor reads (errno, strerror, filename). */
static PyObject *new_os(PyObject *type, const rule *r, const kv_error *err) {
    PyObject *message = message_of(r->status, err);
    PyObject *path = path_of(err);
    PyObject *exception = NULL;
    if (message != NULL && path != NULL) {
        int number = err->sys_errno != 0 ? err->sys_errno : r->sys_errno;
        exception = PyObject_CallFunction(type, "iOO", number, message, path);
    }
    Py_XDECREF(message);
    Py_XDECREF(path);
    if (exception != NULL && r->status == KV_ERR_LOCKED &&
        set_int_or_none(exception, "pid", err->pid, err->pid > 0) < 0)
        Py_CLEAR(exception);
    return exception;
}

/* "PATH: at byte N: MESSAGE", as much of it as is known. */
static PyObject *text_at(PyObject *path, int64_t offset, PyObject *message) {
    if (path == Py_None)
        return Py_NewRef(message);
    if (offset < 0)
        return PyUnicode_FromFormat("%U: %U", path, message);
    return PyUnicode_FromFormat("%U: at byte %lld: %U", path, (long long)offset, message);
}

static PyObject *new_place(PyObject *type, const rule *r, const kv_error *err) {
    PyObject *message = message_of(r->status, err);
    PyObject *path = path_of(err);
    PyObject *text = NULL, *exception = NULL;
    if (message != NULL && path != NULL)
        text = text_at(path, err->offset, message);
    if (text != NULL)
        exception = PyObject_CallOneArg(type, text);
    if (exception != NULL &&
        (PyObject_SetAttrString(exception, "path", path) < 0 ||
         (r->status == KV_ERR_CORRUPT &&
          set_int_or_none(exception, "offset", err->offset, err->offset >= 0) < 0)))
        Py_CLEAR(exception);
    Py_XDECREF(text);
    Py_XDECREF(message);
    Py_XDECREF(path);
    return exception;
}

static PyObject *new_message(PyObject *type, const rule *r, const kv_error *err) {
    PyObject *message = message_of(r->status, err);
    if (message == NULL)
        return NULL;
    PyObject *exception = PyObject_CallOneArg(type, message);
    Py_DECREF(message);
    return exception;
}

PyObject *kvpy_error_text(const kv_error *err) {
    if (err->status >= 0)
        return Py_NewRef(Py_None);
    PyObject *message = message_of(err->status, err);
    PyObject *path = path_of(err);
    PyObject *text = NULL;
    if (message != NULL && path != NULL)
        text = text_at(path, err->offset, message);
    Py_XDECREF(message);
    Py_XDECREF(path);
    return text;
}

PyObject *kvpy_raise(const kvpy_state *state, kv_status status, const kv_error *err) {
    if (PyErr_Occurred())
        return NULL;
    rule r = rule_of(status);
    PyObject *type =
        r.builtin != NULL ? *r.builtin : *(PyObject *const *)((const char *)state + r.field);
    if (type == NULL) { /* the state was cleared: the interpreter is ending */
        PyErr_SetString(PyExc_RuntimeError, kv_status_text(status));
        return NULL;
    }
    PyObject *exception = NULL;
    switch (r.shape) {
    case SHAPE_NONE:
        return PyErr_Format(PyExc_SystemError, "pykv: status %s (%d) is not a failure",
                            kv_status_name(status), (int)status);
    case SHAPE_NOMEM:
        return PyErr_NoMemory();
    case SHAPE_OS:
        exception = new_os(type, &r, err);
        break;
    case SHAPE_PLACE:
        exception = new_place(type, &r, err);
        break;
    case SHAPE_MESSAGE:
        exception = new_message(type, &r, err);
        break;
    }
    if (exception != NULL) {
        PyErr_SetObject(type, exception);
        Py_DECREF(exception);
    }
    return NULL;
}
