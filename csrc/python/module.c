/* module.c - the extension module pykv._core: state, exceptions, constants.  Layer: python. */
#include "module.h"

#include "convert.h"
#include "files.h"
#include "store.h"

#if PY_VERSION_HEX < 0x030B0000
#define PyType_GetModuleByDef _PyType_GetModuleByDef /* its name before 3.11 */
#endif

static struct PyModuleDef module_def;

kvpy_state *kvpy_state_of_type(PyTypeObject *type) {
    PyObject *module = PyType_GetModuleByDef(type, &module_def);
    return module != NULL ? PyModule_GetState(module) : NULL;
}

/* ---- Exceptions ---------------------------------------------------------------------------- */

#define DOC_error "Base of all exceptions of pykv that are not Python's own."
#define DOC_closed_error "The store is closed."
#define DOC_fork_error                                                                           \
    "The store was opened before this process was forked: open it again in the child, after the "\
    "parent has closed it."
#define DOC_read_only_error "A write to a store that was opened with read_only=True."
#define DOC_limit_error "A key, a value or a commit is over its limit; nothing was changed."
#define DOC_memory_limit_error                                                                   \
    "A write would need more memory than the store's max_memory; nothing was changed."
#define DOC_storage_error                                                                        \
    "A file operation failed, or the disk is full.\n\nAn OSError: errno, strerror, filename."
#define DOC_failed_error                                                                         \
    "A write or sync failed earlier, so the store takes no more writes until it is reopened; "   \
    "reads go on."
#define DOC_locked_error                                                                         \
    "The store is open in another process.\n\npid: that process, or None if it is not known."
#define DOC_corruption_error                                                                     \
    "Stored bytes are damaged; nothing was changed.\n\npath: the file; offset: the byte, or None."
#define DOC_version_error                                                                        \
    "The store has a format that this version of pykv does not read.\n\npath: the file."
#define DOC_checkpoint_warning                                                                   \
    "A checkpoint that the store made by itself failed.  No data is lost or at risk: the log is "\
    "kept, grows on, and another checkpoint is tried later."

/* "pykv.Error": where users find it, not where it is made. */
static int add_exception(PyObject *module, PyObject **field, const char *full_name,
                         const char *doc, PyObject *base1, PyObject *base2,
                         PyObject *attributes) {
    PyObject *bases = base2 != NULL ? PyTuple_Pack(2, base1, base2) : PyTuple_Pack(1, base1);
    if (bases == NULL)
        return -1;
    *field = PyErr_NewExceptionWithDoc(full_name, doc, bases, attributes);
    Py_DECREF(bases);
    if (*field == NULL)
        return -1;
    return PyModule_AddObjectRef(module, full_name + strlen("pykv."), *field);
}

/* Attributes that an exception has even when a user made it. */
static PyObject *attributes_of(const char *name) {
    if (strcmp(name, "LockedError") == 0)
        return Py_BuildValue("{sO}", "pid", Py_None);
    if (strcmp(name, "CorruptionError") == 0)
        return Py_BuildValue("{sOsO}", "path", Py_None, "offset", Py_None);
    if (strcmp(name, "VersionError") == 0)
        return Py_BuildValue("{sO}", "path", Py_None);
    return PyDict_New();
}

static int add_exceptions(PyObject *module, kvpy_state *state) {
#define X(field, name, base1, base2)                                                             \
    do {                                                                                         \
        PyObject *attributes = attributes_of(name);                                              \
        if (attributes == NULL)                                                                  \
            return -1;                                                                           \
        int result = add_exception(module, &state->field, "pykv." name, DOC_##field, base1,      \
                                   base2, attributes);                                           \
        Py_DECREF(attributes);                                                                   \
        if (result < 0)                                                                          \
            return -1;                                                                           \
    } while (0);
    KVPY_EXCEPTION_TABLE(X)
#undef X
    return 0;
}

static int intern_names(kvpy_state *state) {
#define X(field, text)                                                                           \
    state->field = PyUnicode_InternFromString(text);                                             \
    if (state->field == NULL)                                                                    \
        return -1;
    KVPY_NAME_TABLE(X)
#undef X
    return 0;
}

/* ---- The module ---------------------------------------------------------------------------- */

static int module_exec(PyObject *module) {
    kvpy_state *state = PyModule_GetState(module);
    if (intern_names(state) < 0 || add_exceptions(module, state) < 0 ||
        kvpy_store_register(module, state) < 0 || kvpy_snapshot_register(module, state) < 0 ||
        kvpy_view_register(module, state) < 0 || kvpy_server_register(module, state) < 0)
        return -1;
    if (PyModule_AddIntConstant(module, "KEY_MAX", KV_KEY_MAX) < 0 ||
        PyModule_AddIntConstant(module, "VALUE_MAX", KV_VALUE_MAX) < 0 ||
        PyModule_AddIntConstant(module, "COMMIT_MAX", KV_COMMIT_MAX) < 0)
        return -1;
    PyObject *expiry_max = PyLong_FromUnsignedLongLong(KV_EXPIRY_MAX);
    int result = expiry_max != NULL ? PyModule_AddObjectRef(module, "_EXPIRY_MAX", expiry_max) : -1;
    Py_XDECREF(expiry_max);
    if (result < 0)
        return -1;
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    kvpy_state *state = PyModule_GetState(module);
#define X(field, name, base1, base2) Py_VISIT(state->field);
    KVPY_EXCEPTION_TABLE(X)
#undef X
    Py_VISIT(state->store_type);
    Py_VISIT(state->snapshot_type);
    Py_VISIT(state->iterator_type);
    Py_VISIT(state->view_type);
    Py_VISIT(state->server_type);
    return 0;
}

static int module_clear(PyObject *module) {
    kvpy_state *state = PyModule_GetState(module);
#define X(field, name, base1, base2) Py_CLEAR(state->field);
    KVPY_EXCEPTION_TABLE(X)
#undef X
    Py_CLEAR(state->store_type);
    Py_CLEAR(state->snapshot_type);
    Py_CLEAR(state->iterator_type);
    Py_CLEAR(state->view_type);
    Py_CLEAR(state->server_type);
    return 0;
}

/* Strings are in no cycle, and a store may still want its names after module_clear. */
static void module_free(void *module) {
    kvpy_state *state = PyModule_GetState(module);
    module_clear(module);
#define X(field, text) Py_CLEAR(state->field);
    KVPY_NAME_TABLE(X)
#undef X
}

PyDoc_STRVAR(key_bytes_doc,
             "_key_bytes($module, object, /)\n--\n\n"
             "The bytes of a key as put() takes them.  Raises TypeError, LimitError.");
PyDoc_STRVAR(value_bytes_doc,
             "_value_bytes($module, object, /)\n--\n\n"
             "The bytes of a value as put() takes them.  Raises TypeError, LimitError.");

PyDoc_STRVAR(own_methods_doc,
             "_own_methods($module, type, /)\n--\n\n"
             "Gives a subclass of Store the methods of Store as its own.  The interpreter has\n"
             "fast instructions for calling a C method of the object's very class; an inherited\n"
             "one takes some 10 ns more.");

PyDoc_STRVAR(check_doc,
             "_check($module, path, problems, progress, /)\n--\n\n"
             "Reads the files of the store at path.  Appends (path, offset, message, loss) to the\n"
             "list problems for each of the first 10,000 of them, and gives the counts as a dict.");
PyDoc_STRVAR(repair_doc,
             "_repair($module, path, into, problems, suspects, progress, /)\n--\n\n"
             "As _check(), and writes what is whole into the empty Store into.  Appends the keys\n"
             "whose value may be lost or outdated to the list suspects: the first 10,000.");

static PyMethodDef module_methods[] = {
    {"_own_methods", kvpy_store_own_methods, METH_O, own_methods_doc},
    {"_key_bytes", kvpy_key_bytes, METH_O, key_bytes_doc},
    {"_value_bytes", kvpy_value_bytes, METH_O, value_bytes_doc},
    {"_check", (PyCFunction)(void (*)(void))kvpy_check, METH_FASTCALL, check_doc},
    {"_repair", (PyCFunction)(void (*)(void))kvpy_repair, METH_FASTCALL, repair_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil /* from 3.13 on: what makes it true is in csrc/LOCKS.md */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The C extension of pykv.  Private: use the names that pykv exports.");

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pykv._core",
    .m_doc = module_doc,
    .m_size = sizeof(kvpy_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_def);
}
