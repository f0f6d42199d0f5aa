/* convert.c - see convert.h.  Layer: python. */
#include "convert.h"

#include <string.h>

static const char *const role_names[] = {[KVPY_KEY] = "key", [KVPY_VALUE] = "value"};
static const size_t size_max[] = {[KVPY_KEY] = KV_KEY_MAX, [KVPY_VALUE] = KV_VALUE_MAX};

PyObject *kvpy_bytes_new_large(const void *data, size_t size) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (bytes == NULL)
        return NULL;
    PyThreadState *thread = PyEval_SaveThread();
    memcpy(PyBytes_AS_STRING(bytes), data, size); /* nobody else has it yet */
    PyEval_RestoreThread(thread);
    return bytes;
}

void kvpy_value_release_pin(kv_value *value) {
    if (value->size < KVPY_LARGE_MIN) {
        KVPY_CALL_SHORT(kv_value_release(value));
        return;
    }
    PyThreadState *thread = PyEval_SaveThread();
    kv_value_release(value);
    PyEval_RestoreThread(thread);
}

/* Who has the buffer's bytes, and where they are: a copy, or a memoryview of a large value. */
static PyObject *keeper_of_buffer(PyObject *object, kvpy_role role, kv_bytes *bytes) {
    Py_buffer buffer;
    PyObject *keeper;
    if (PyObject_GetBuffer(object, &buffer, PyBUF_SIMPLE) == 0) {
        bool in_place = role == KVPY_VALUE && (size_t)buffer.len >= KVPY_LARGE_MIN;
        if (in_place)
            keeper = PyMemoryView_FromObject(object);
        else
            keeper = PyBytes_FromStringAndSize(buffer.buf, buffer.len);
        PyBuffer_Release(&buffer);
        if (keeper != NULL && in_place) {
            const Py_buffer *view = PyMemoryView_GET_BUFFER(keeper);
            if (KVPY_LIKELY(PyBuffer_IsContiguous(view, 'C'))) {
                *bytes = (kv_bytes){view->buf, (size_t)view->len};
                return keeper;
            }
            Py_SETREF(keeper, PyBytes_FromObject(keeper)); /* a second buffer may be another one */
        }
    }
    else if (PyErr_ExceptionMatches(PyExc_BufferError)) { /* not contiguous: element by element */
        PyErr_Clear();
        keeper = PyBytes_FromObject(object);
    }
    else
        keeper = NULL;
    if (keeper != NULL)
        *bytes = (kv_bytes){PyBytes_AS_STRING(keeper), (size_t)PyBytes_GET_SIZE(keeper)};
    return keeper;
}

int kvpy_arg_init_other(kvpy_arg *arg, PyObject *object, kvpy_role role) {
    arg->keeper = NULL;
    if (PyUnicode_Check(object)) {
        Py_ssize_t size;
        const char *data = PyUnicode_AsUTF8AndSize(object, &size); /* kept by the str */
        if (data == NULL)
            return -1;
        arg->bytes = (kv_bytes){data, (size_t)size};
        return 0;
    }
    if (PyBytes_Check(object)) { /* a subclass */
        arg->bytes = (kv_bytes){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
        return 0;
    }
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError, "a %s must be bytes-like or str, not %.200s",
                     role_names[role], Py_TYPE(object)->tp_name);
        return -1;
    }
    arg->keeper = keeper_of_buffer(object, role, &arg->bytes);
    return arg->keeper != NULL ? 0 : -1;
}

/* ---- For the package ----------------------------------------------------------------------- */

static PyObject *bytes_within_limit(PyObject *module, PyObject *object, kvpy_role role) {
    kvpy_arg arg;
    if (kvpy_arg_init(&arg, object, role) < 0)
        return NULL;
    PyObject *result = NULL;
    if (arg.bytes.size > size_max[role]) {
        const kvpy_state *state = PyModule_GetState(module);
        PyErr_Format(state->limit_error, "a %s has %zu bytes; the limit is %zu", role_names[role],
                     arg.bytes.size, size_max[role]);
    }
    else if (PyBytes_CheckExact(object))
        result = Py_NewRef(object);
    else
        result = kvpy_bytes_new(arg.bytes.data, arg.bytes.size);
    kvpy_arg_fini(&arg);
    return result;
}

PyObject *kvpy_key_bytes(PyObject *module, PyObject *object) {
    return bytes_within_limit(module, object, KVPY_KEY);
}

PyObject *kvpy_value_bytes(PyObject *module, PyObject *object) {
    return bytes_within_limit(module, object, KVPY_VALUE);
}
