/* module.h - what the files of the extension share: the module's state and the exceptions.
 *
 * Layer: python (above kv.h).  The extension converts, chooses when the GIL is held, and
 * raises; it has no engine logic.  One file per Python type:
 *
 *     module.c      the module: state, exceptions, constants
 *     raise.c       kv_status and kv_error into an exception
 *     convert.c     Python objects into kv_bytes and back
 *     arguments.c   positional and keyword arguments of fast calls
 *     operations.c  many keys, or many puts and deletes, gathered for one call
 *     work.c        calls that take long: progress, interruption
 *     store.c       type Store: life cycle, attributes; store_doc.h has its docstrings
 *     store_one.c   Store: operations on one key
 *     store_expiry.c  Store: when keys expire
 *     store_many.c  Store: operations on many keys
 *     store_upkeep.c  Store: checkpoint, backup, preload
 *     snapshot.c    types Snapshot and its iterator
 *     view.c        type View: a pinned value as a buffer
 *     server.c      type Server: a running server over a store
 *     files.c       the files of a store that is not open: check, repair
 *
 * The state is reached through the objects: each holds a borrowed pointer to it, which its
 * type keeps alive (type -> module -> state).  There is no other global state, so that every
 * interpreter has its own module and may have its own GIL.
 */
#ifndef KVPY_MODULE_H
#define KVPY_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../kv.h"

/*      field               name                 first base            second base       */
#define KVPY_EXCEPTION_TABLE(X)                                                                  \
    X(error,              "Error",             PyExc_Exception,      NULL)                       \
    X(closed_error,       "ClosedError",       state->error,         NULL)                       \
    X(fork_error,         "ForkError",         state->error,         NULL)                       \
    X(read_only_error,    "ReadOnlyError",     state->error,         NULL)                       \
    X(limit_error,        "LimitError",        state->error,         PyExc_ValueError)           \
    X(memory_limit_error, "MemoryLimitError",  state->error,         PyExc_MemoryError)          \
    X(storage_error,      "StorageError",      state->error,         PyExc_OSError)              \
    X(failed_error,       "FailedError",       state->storage_error, NULL)                       \
    X(locked_error,       "LockedError",       state->error,         PyExc_OSError)              \
    X(corruption_error,   "CorruptionError",   state->error,         NULL)                       \
    X(version_error,      "VersionError",      state->error,         NULL)                       \
    X(checkpoint_warning, "CheckpointWarning", PyExc_RuntimeWarning, NULL)

/* Names of attributes that are looked up, interned once.  The interpreter's cache of look-ups goes
 * by a name's address (up to 3.11): a fresh str each time would push everything else out of it. */
#define KVPY_NAME_TABLE(X)                                                                       \
    X(name_keys,     "keys")                                                                     \
    X(name_module,   "__module__")                                                               \
    X(name_qualname, "__qualname__")

typedef struct kvpy_state {
    PyTypeObject *store_type;
    PyTypeObject *snapshot_type;
    PyTypeObject *iterator_type;
    PyTypeObject *view_type;
    PyTypeObject *server_type;
#define X(field, name, base1, base2) PyObject *field;
    KVPY_EXCEPTION_TABLE(X)
#undef X
#define X(field, text) PyObject *field;
    KVPY_NAME_TABLE(X)
#undef X
} kvpy_state;

/* The state of the module that `type`, or a base of it, belongs to; NULL with an exception. */
kvpy_state *kvpy_state_of_type(PyTypeObject *type);

/* One type each: creates it for `module` and puts it into the state; -1 with an exception. */
int kvpy_store_register(PyObject *module, kvpy_state *state);
int kvpy_snapshot_register(PyObject *module, kvpy_state *state);
int kvpy_view_register(PyObject *module, kvpy_state *state);
int kvpy_server_register(PyObject *module, kvpy_state *state);

/* ---- Small helpers of every file ---------------------------------------------------------- */

#if defined(__GNUC__)
#define KVPY_LIKELY(x) __builtin_expect(!!(x), 1)
#define KVPY_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define KVPY_PREFETCH(p) __builtin_prefetch(p)
#else
#define KVPY_LIKELY(x) (x)
#define KVPY_UNLIKELY(x) (x)
#define KVPY_PREFETCH(p) ((void)(p))
#endif

/* Free-threaded CPython has no GIL to hand over.  But who stops all threads there (to collect
 * garbage, to fork) waits for each that is attached to the interpreter: so none may wait for a lock
 * of ours, not even for one that is held for moments. */
#ifdef Py_GIL_DISABLED
#define KVPY_HAS_GIL false
#else
#define KVPY_HAS_GIL true
#endif

/* A list or dict must not change under a C loop over it, nor an object of ours under two threads.
 * The GIL sees to that; free-threaded CPython needs the object's own lock.  As the GIL, it is given
 * up while the thread is detached, and wherever Python code may run. */
#ifdef Py_BEGIN_CRITICAL_SECTION
#define KVPY_BEGIN_EXCLUSIVE(object) Py_BEGIN_CRITICAL_SECTION(object)
#define KVPY_END_EXCLUSIVE() Py_END_CRITICAL_SECTION()
#else
#define KVPY_BEGIN_EXCLUSIVE(object) {
#define KVPY_END_EXCLUSIVE() }
#endif

/* `status` = `call`, an expression that passes `flags` to the engine.  When `try_held`, it first
 * runs under the GIL, if there is one, with KV_NOWAIT: that answers within the time that a hand-over
 * of the GIL would take, or says KV_BUSY.  Then, or if not `try_held`, it runs detached and may wait.
 * It must not touch Python. */
#define KVPY_CALL(status, try_held, extra_flags, call)                                           \
    do {                                                                                         \
        status = KV_BUSY;                                                                        \
        if (KVPY_HAS_GIL && (try_held)) {                                                        \
            unsigned flags = (extra_flags) | KV_NOWAIT;                                          \
            (void)flags;                                                                         \
            status = (call);                                                                     \
        }                                                                                        \
        if (KVPY_UNLIKELY(status == KV_BUSY)) {                                                  \
            unsigned flags = (extra_flags);                                                      \
            (void)flags;                                                                         \
            PyThreadState *thread = PyEval_SaveThread();                                         \
            status = (call);                                                                     \
            PyEval_RestoreThread(thread);                                                        \
        }                                                                                        \
    } while (0)

/* For calls that take less time than a hand-over of the GIL: under it, if there is one. */
#define KVPY_CALL_SHORT(call)                                                                    \
    do {                                                                                         \
        PyThreadState *thread = KVPY_HAS_GIL ? NULL : PyEval_SaveThread();                       \
        call;                                                                                    \
        if (!KVPY_HAS_GIL)                                                                       \
            PyEval_RestoreThread(thread);                                                        \
    } while (0)

/* `status` = `call`, always detached. */
#define KVPY_CALL_DETACHED(status, call)                                                         \
    do {                                                                                         \
        PyThreadState *thread = PyEval_SaveThread();                                             \
        status = (call);                                                                         \
        PyEval_RestoreThread(thread);                                                            \
    } while (0)

#endif
