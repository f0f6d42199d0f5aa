/* work.c - see work.h.  Layer: python. */
#include "work.h"

#include <time.h>

#define INTERVAL_NS UINT64_C(50000000) /* between two calls of the user's function */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

int kvpy_work_init(kvpy_work *work, PyObject *progress) {
    if (progress == Py_None)
        progress = NULL;
    if (progress != NULL && !PyCallable_Check(progress)) {
        PyErr_Format(PyExc_TypeError, "progress must be callable or None, not %.200s",
                     Py_TYPE(progress)->tp_name);
        return -1;
    }
    *work = (kvpy_work){
        .progress = progress,
        .owner = PyThread_get_thread_ident(),
        .told = UINT64_MAX,
    };
    return 0;
}

bool kvpy_work_enter(kvpy_work *work) {
    if (PyThread_get_thread_ident() != work->owner || work->failed)
        return false;
    PyEval_RestoreThread(work->thread);
    return true;
}

void kvpy_work_leave(kvpy_work *work) {
    work->failed = PyErr_Occurred() != NULL;
    work->thread = PyEval_SaveThread();
}

static void tell(kvpy_work *work, uint64_t done, uint64_t total) {
    if (PyErr_CheckSignals() < 0 || work->progress == NULL)
        return;
    work->told = done;
    PyObject *result = PyObject_CallFunction(work->progress, "KK", (unsigned long long)done,
                                             (unsigned long long)total);
    Py_XDECREF(result);
}

bool kvpy_work_progress(void *arg, uint64_t done, uint64_t total) {
    kvpy_work *work = arg;
    bool last = done >= total && done != work->told; /* so that a display ends with all of it */
    uint64_t now = now_ns();
    if ((now < work->next_ns && !last) || !kvpy_work_enter(work))
        return !work->failed;
    tell(work, done, total);
    kvpy_work_leave(work);
    work->next_ns = now_ns() + INTERVAL_NS;
    return !work->failed;
}
