/* view.c - see view.h.  Layer: python.
 *
 * The pin keeps the value's immutable entry: later writes, a deletion and even the close of the
 * store leave the bytes as they are.  Users only see the memoryview.
 */
#include "view.h"

#include "convert.h"

typedef struct view {
    PyObject_HEAD
    bool filled;
    kv_value value; /* must not move: it may point into itself */
} view;

PyObject *kvpy_view_new(const kvpy_state *state) {
    view *self = PyObject_New(view, state->view_type);
    if (self == NULL)
        return NULL;
    self->filled = false;
    return (PyObject *)self;
}

kv_value *kvpy_view_value(PyObject *op) {
    return &((view *)op)->value;
}

PyObject *kvpy_view_to_memoryview(PyObject *op) {
    ((view *)op)->filled = true;
    return PyMemoryView_FromObject(op);
}

static void view_dealloc(PyObject *op) {
    view *self = (view *)op;
    PyTypeObject *type = Py_TYPE(self);
    if (self->filled)
        kvpy_value_release(&self->value);
    PyObject_Free(self);
    Py_DECREF(type);
}

static int view_getbuffer(PyObject *op, Py_buffer *buffer, int flags) {
    view *self = (view *)op;
    return PyBuffer_FillInfo(buffer, op, (void *)self->value.data, (Py_ssize_t)self->value.size,
                             1, flags);
}

static PyType_Slot view_slots[] = {
    {Py_tp_dealloc, view_dealloc},
    {Py_bf_getbuffer, view_getbuffer},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "pykv._core.View",
    .basicsize = sizeof(view),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = view_slots,
};

int kvpy_view_register(PyObject *module, kvpy_state *state) {
    state->view_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &view_spec, NULL);
    return state->view_type != NULL ? 0 : -1;
}
