/* work.h - calls of the engine that take long: without the GIL, with progress, to be interrupted.
 * Layer: python.
 *
 * The engine calls back on the thread that called it.  Some twenty times a second the callback
 * attaches to the interpreter, lets signals be handled (Ctrl-C) and calls the user's function; an
 * exception of either makes the engine give up, and is what the method raises.
 */
#ifndef KVPY_WORK_H
#define KVPY_WORK_H

#include "module.h"

typedef struct kvpy_work {
    PyObject *progress;    /* borrowed: called with (done, total); NULL: nothing to call */
    PyThreadState *thread; /* of the call, detached while the engine works */
    unsigned long owner;   /* the thread's ident */
    uint64_t next_ns;      /* before this moment the callback returns at once */
    uint64_t told;         /* the last `done` that `progress` was called with */
    bool failed;           /* an exception is set in `thread` */
} kvpy_work;

/* `progress`: a callable, None or NULL.  -1 with TypeError. */
int kvpy_work_init(kvpy_work *work, PyObject *progress);

/* A kv_progress; `arg` is the kvpy_work. */
bool kvpy_work_progress(void *arg, uint64_t done, uint64_t total);

/* For other callbacks of the same call: to the interpreter, and back to the engine's work.  False
 * (and nothing to leave): an exception is set already, or this is not the calling thread. */
bool kvpy_work_enter(kvpy_work *work);
void kvpy_work_leave(kvpy_work *work);

/* `status` = `call`, which passes kvpy_work_progress and `work` to the engine. */
#define KVPY_WORK(status, work, call)                                                            \
    do {                                                                                         \
        (work)->thread = PyEval_SaveThread();                                                    \
        status = (call);                                                                         \
        PyEval_RestoreThread((work)->thread);                                                    \
    } while (0)

#endif
