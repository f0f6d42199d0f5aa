/* files.h - functions of the module on the files of a store that is not open.  Layer: python. */
#ifndef KVPY_FILES_H
#define KVPY_FILES_H

#include "module.h"

/* METH_FASTCALL: _check(path, problems, progress),
 * _repair(path, into, problems, suspects, progress). */
PyObject *kvpy_check(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *kvpy_repair(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

#endif
