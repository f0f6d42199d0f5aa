/* store.c - type Store: life cycle, attributes, and the type itself.  Layer: python.
 *
 * A Store that is collected while it is open closes itself, without the GIL, and says so with a
 * ResourceWarning if it had a path.  pykv/store.py closes what is still open at the interpreter's
 * exit.  Closing is the engine's counted protocol; nothing here needs to know who else is inside.
 */
#include "store.h"

#include "raise.h"
#include "snapshot.h"
#include "store_doc.h"

static const char *const sync_names[] = {
    [KV_SYNC_ALWAYS] = "always",
    [KV_SYNC_INTERVAL] = "interval",
    [KV_SYNC_NEVER] = "never",
};

static const char *const when_full_names[] = {
    [KV_FULL_REFUSE] = "refuse",
    [KV_FULL_EVICT] = "evict",
};

/* ---- Opening ------------------------------------------------------------------------------- */

static PyObject *store_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                           PyObject *Py_UNUSED(kwargs)) {
    kvpy_state *state = kvpy_state_of_type(type);
    if (state == NULL)
        return NULL;
    kvpy_store *self = (kvpy_store *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    atomic_init(&self->db, NULL);
    self->state = state;
    self->path = Py_NewRef(Py_None);
    self->try_read = self->try_write = self->may_warn = false;
    return (PyObject *)self;
}

/* The place of a str among `names`; -1 with an exception. */
static int read_name(PyObject *object, const char *option, const char *const *names, int count,
                     const char *choices) {
    if (!PyUnicode_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.200s", option,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        if (PyUnicode_CompareWithASCIIString(object, names[i]) == 0)
            return i;
    }
    PyErr_Format(PyExc_ValueError, "%s must be %s, not %R", option, choices, object);
    return -1;
}

static int read_sync(PyObject *object, kv_sync *sync) {
    int i = read_name(object, "sync", sync_names, KV_SYNC_NEVER + 1,
                      "'always', 'interval' or 'never'");
    if (i < 0)
        return -1;
    *sync = (kv_sync)i;
    return 0;
}

static int read_when_full(PyObject *object, kv_when_full *when_full) {
    int i = read_name(object, "when_full", when_full_names, KV_FULL_EVICT + 1,
                      "'refuse' or 'evict'");
    if (i < 0)
        return -1;
    *when_full = (kv_when_full)i;
    return 0;
}

/* A number of bytes from `least` up. */
static int read_bytes(PyObject *object, const char *option, uint64_t least, uint64_t *bytes) {
    if (!PyLong_Check(object) || PyBool_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.200s", option,
                     Py_TYPE(object)->tp_name);
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0 || number < 0 || (uint64_t)number < least) {
        PyErr_Format(PyExc_ValueError,
                     "%s must be a number of bytes from %llu to 2**63 - 1, not %R", option,
                     (unsigned long long)least, object);
        return -1;
    }
    *bytes = (uint64_t)number;
    return 0;
}

static int read_max_memory(PyObject *object, uint64_t *bytes) {
    *bytes = 0;
    return object != Py_None ? read_bytes(object, "max_memory", 1, bytes) : 0;
}

#define RATIO_MAX 1e6

/* The engine has a whole percentage, and 0 for "only when asked for". */
static int read_ratio(PyObject *object, uint32_t *percent) {
    *percent = 0;
    if (object == Py_None)
        return 0;
    double ratio = PyBool_Check(object) ? -1.0 : PyFloat_AsDouble(object);
    if (ratio == -1.0 && PyErr_Occurred())
        return -1;
    if (!(ratio >= 0.0 && ratio <= RATIO_MAX)) { /* NaN fails, too */
        PyErr_Format(PyExc_ValueError,
                     "checkpoint_log_ratio must be a number from 0 to 1e6, or None, not %R",
                     object);
        return -1;
    }
    *percent = ratio > 0.0 && ratio < 0.01 ? 1 : (uint32_t)(ratio * 100.0 + 0.5);
    return 0;
}

/* 1e9 s are 30 years: what fits into the engine's nanoseconds with room to spare. */
static int read_interval(PyObject *object, uint64_t *interval_ns) {
    double seconds = PyFloat_AsDouble(object);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (!(seconds > 0.0 && seconds <= 1e9)) { /* NaN fails, too */
        PyErr_Format(PyExc_ValueError,
                     "sync_interval must be a number of seconds above 0, at most 1e9, not %R",
                     object);
        return -1;
    }
    *interval_ns = seconds < 1e-9 ? 1 : (uint64_t)(seconds * 1e9);
    return 0;
}

static int read_gil(PyObject *object, bool *auto_mode) {
    *auto_mode = PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "auto") == 0;
    if (*auto_mode ||
        (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, "release") == 0))
        return 0;
    PyErr_Format(PyUnicode_Check(object) ? PyExc_ValueError : PyExc_TypeError,
                 "gil must be 'auto' or 'release', not %R", object);
    return -1;
}

/* Takes the handle and the path (NULL: none): from here on all is constant. */
static void publish(kvpy_store *self, kv_db *db, PyObject *path, bool auto_mode) {
    self->try_read = auto_mode;
    self->try_write = auto_mode && kv_is_memory_only(db);
    self->may_warn = !kv_is_memory_only(db);
    if (path != NULL)
        Py_SETREF(self->path, path);
    atomic_store_explicit(&self->db, db, memory_order_release);
}

/* `path`: encoded bytes object, or NULL for memory only. */
static int open_db(kvpy_store *self, PyObject *path, const kv_options *options, bool auto_mode) {
    const char *name = path != NULL ? PyBytes_AS_STRING(path) : NULL;
    PyObject *text = NULL;
    if (path != NULL && (text = PyUnicode_DecodeFSDefault(name)) == NULL)
        return -1;

    kv_db *db = NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_open(name, options, &db, &err));
    if (status < 0) {
        Py_XDECREF(text);
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    bool first;
    KVPY_BEGIN_EXCLUSIVE(self);
    first = kvpy_store_handle(self) == NULL; /* else another thread was faster */
    if (first)
        publish(self, db, text, auto_mode);
    KVPY_END_EXCLUSIVE();
    if (first)
        return 0;
    Py_XDECREF(text);
    KVPY_CALL_DETACHED(status, (kv_destroy(db), KV_OK));
    PyErr_SetString(PyExc_RuntimeError, "the store is open already");
    return -1;
}

static int store_init(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path",
                            "sync",
                            "sync_interval",
                            "read_only",
                            "create",
                            "preload",
                            "max_memory",
                            "when_full",
                            "checkpoint_log_min",
                            "checkpoint_log_ratio",
                            "gil",
                            NULL};
    kvpy_store *self = (kvpy_store *)op;
    PyObject *path = Py_None, *sync = NULL, *interval = NULL, *gil = NULL;
    PyObject *max_memory = NULL, *when_full = NULL, *log_min = NULL, *log_ratio = NULL;
    kv_options options = kv_options_default();
    int read_only = 0, create = 1, preload = 0;
    bool auto_mode = true;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$OOpppOOOOO:Store", names, &path, &sync,
                                     &interval, &read_only, &create, &preload, &max_memory,
                                     &when_full, &log_min, &log_ratio, &gil))
        return -1;
    if ((sync != NULL && read_sync(sync, &options.sync) < 0) ||
        (interval != NULL && read_interval(interval, &options.sync_interval_ns) < 0) ||
        (max_memory != NULL && read_max_memory(max_memory, &options.max_memory) < 0) ||
        (when_full != NULL && read_when_full(when_full, &options.when_full) < 0) ||
        (log_min != NULL &&
         read_bytes(log_min, "checkpoint_log_min", 0, &options.checkpoint_log_min) < 0) ||
        (log_ratio != NULL && read_ratio(log_ratio, &options.checkpoint_log_percent) < 0) ||
        (gil != NULL && read_gil(gil, &auto_mode) < 0))
        return -1;
    options.read_only = read_only;
    options.create = create;
    options.preload = preload;
    if (kvpy_store_handle(self) != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the store is open already");
        return -1;
    }
    PyObject *encoded = NULL;
    if (path != Py_None && !PyUnicode_FSConverter(path, &encoded))
        return -1;
    int result = open_db(self, encoded, &options, auto_mode);
    Py_XDECREF(encoded);
    return result;
}

void kvpy_store_set_not_open(const kvpy_store *self) {
    PyErr_SetString(self->state->closed_error, "the store was never opened: call __init__ first");
}

/* ---- Warnings ------------------------------------------------------------------------------ */

static int warn_of_checkpoint(const kvpy_store *self, const kv_error *err) {
    PyObject *text = kvpy_error_text(err);
    if (text == NULL)
        return -1;
    PyObject *category = self->state->checkpoint_warning;
    const char *line = PyUnicode_AsUTF8(text);
    if (line == NULL) { /* a path with bytes that are no text */
        PyErr_Clear();
        line = err->message;
    }
    int result = PyErr_WarnFormat(category != NULL ? category : PyExc_RuntimeWarning, 1,
                                  "a checkpoint failed, and is tried again later: %s", line);
    Py_DECREF(text);
    return result;
}

int kvpy_store_warn(kvpy_store *self) {
    kv_error err;
    bool warn;
    KVPY_CALL_SHORT(warn = kv_take_warning(kvpy_store_handle(self), &err));
    return KVPY_LIKELY(!warn) ? 0 : warn_of_checkpoint(self, &err);
}

/* ---- Closing ------------------------------------------------------------------------------- */

/* Closes, and warns if a checkpoint failed: one that was made before, or that of the close
 * itself.  0; 1 in a forked child, which has nothing of it to close; -1 with an exception, and it
 * is closed. */
static int close_db(kvpy_store *self, kv_db *db) {
    kv_error err, warning;
    kv_status status;
    bool warn, of_close;
    KVPY_CALL_SHORT(warn = kv_take_warning(db, &warning));
    KVPY_CALL_DETACHED(status, kv_close(db, &err));
    if (status == KV_ERR_FORKED)
        return 1;
    if (status < 0) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    KVPY_CALL_SHORT(of_close = kv_take_warning(db, &warning));
    return warn || of_close ? warn_of_checkpoint(self, &warning) : 0;
}

static PyObject *store_close(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_handle(self);
    if (db != NULL && close_db(self, db) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void warn_unclosed(kvpy_store *self) {
    if (self->path == Py_None)
        return;
    if (PyErr_ResourceWarning((PyObject *)self, 1, "unclosed store %R", self->path) < 0) {
        if (PyErr_ExceptionMatches(PyExc_Warning)) /* warnings are errors, with none to catch */
            PyErr_WriteUnraisable((PyObject *)self);
        PyErr_Clear();
    }
}

static void store_finalize(PyObject *op) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_handle(self);
    if (db == NULL || kv_is_closed(db))
        return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int closed = close_db(self, db);
    if (closed < 0)
        PyErr_WriteUnraisable(op);
    if (closed <= 0)
        warn_unclosed(self);
    PyErr_Restore(type, value, traceback);
}

static int store_traverse(PyObject *op, visitproc visit, void *arg) {
    Py_VISIT(((kvpy_store *)op)->path);
    Py_VISIT(Py_TYPE(op));
    return 0;
}

static void store_dealloc(PyObject *op) {
    kvpy_store *self = (kvpy_store *)op;
    if (PyObject_CallFinalizerFromDealloc(op) < 0)
        return; /* a subclass's __del__ kept it */
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    kv_db *db = kvpy_store_handle(self);
    if (db != NULL) {
        PyThreadState *thread = PyEval_SaveThread(); /* it may unmap gigabytes */
        kv_destroy(db);
        PyEval_RestoreThread(thread);
    }
    Py_XDECREF(self->path);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *store_reduce(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return PyErr_Format(PyExc_TypeError,
                        "cannot pickle '%.200s' object: open the store again from its path",
                        Py_TYPE(op)->tp_name);
}

/* ---- Looking at it ------------------------------------------------------------------------- */

static PyObject *store_sync(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_make_durable(db, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    Py_RETURN_NONE;
}

static PyObject *store_verify(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_verify(db, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    Py_RETURN_NONE;
}

static PyObject *store_take_snapshot(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    return kvpy_snapshot_new((kvpy_store *)op);
}

/* Takes `value` (which may be NULL). */
static int dict_take(PyObject *dict, const char *name, PyObject *value) {
    if (value == NULL)
        return -1;
    int result = PyDict_SetItemString(dict, name, value);
    Py_DECREF(value);
    return result;
}

/* Fields of kv_stats that are uint64_t. */
#define STATS_TABLE(X)                                                                           \
    X(entries)                                                                                   \
    X(data_bytes)                                                                                \
    X(memory_bytes)                                                                              \
    X(shards)                                                                                    \
    X(undo_records)                                                                              \
    X(snapshots)                                                                                 \
    X(handles)                                                                                   \
    X(lsn)                                                                                       \
    X(visible_lsn)                                                                               \
    X(durable_lsn)                                                                               \
    X(commits)                                                                                   \
    X(frames)                                                                                    \
    X(syncs)                                                                                     \
    X(log_bytes)                                                                                 \
    X(log_segments)                                                                              \
    X(shards_loaded)                                                                             \
    X(checkpoints)                                                                               \
    X(checkpoint_lsn)                                                                            \
    X(checkpoint_bytes)                                                                          \
    X(checkpoint_failures)                                                                       \
    X(expired)                                                                                   \
    X(evicted)                                                                                   \
    X(memory_charged)                                                                            \
    X(max_memory)

static PyObject *dict_from_stats(const kvpy_store *self, const kv_db *db,
                                 const kv_stats *stats) {
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    const char *sync = sync_names[kv_sync_mode(db)];
    if (PyDict_SetItemString(dict, "path", self->path) < 0 ||
        dict_take(dict, "sync", PyUnicode_FromString(sync)) < 0 ||
#define X(name) dict_take(dict, #name, PyLong_FromUnsignedLongLong(stats->name)) < 0 ||
        STATS_TABLE(X)
#undef X
        dict_take(dict, "failed", PyBool_FromLong(stats->failed)) < 0 ||
        dict_take(dict, "direct_io", PyBool_FromLong(stats->direct_io)) < 0 ||
        dict_take(dict, "checkpoint_error", kvpy_error_text(&stats->checkpoint_error)) < 0 ||
        dict_take(dict, "load_error", kvpy_error_text(&stats->load_error)) < 0) {
        Py_DECREF(dict);
        return NULL;
    }
    return dict;
}

static PyObject *store_stats(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return NULL;
    kv_stats stats;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_get_stats(db, 0, &stats, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    return dict_from_stats(self, db, &stats);
}

/* Fields of kv_recovery that are uint64_t. */
#define RECOVERY_TABLE(X)                                                                        \
    X(segments)                                                                                  \
    X(frames)                                                                                    \
    X(commits)                                                                                   \
    X(records)                                                                                   \
    X(bytes)                                                                                     \
    X(bytes_cut)                                                                                 \
    X(checkpoint_items)

static PyObject *store_recovery(PyObject *op, void *Py_UNUSED(closure)) {
    kv_db *db = kvpy_store_db((kvpy_store *)op);
    if (db == NULL)
        return NULL;
    kv_recovery r;
    kv_get_recovery(db, &r);
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    if (dict_take(dict, "clean", PyBool_FromLong(r.clean)) < 0 ||
        dict_take(dict, "created", PyBool_FromLong(r.created)) < 0 ||
#define X(name) dict_take(dict, #name, PyLong_FromUnsignedLongLong(r.name)) < 0 ||
        RECOVERY_TABLE(X)
#undef X
        dict_take(dict, "seconds", PyFloat_FromDouble((double)r.duration_ns / 1e9)) < 0) {
        Py_DECREF(dict);
        return NULL;
    }
    return dict;
}

static PyObject *store_path(PyObject *op, void *Py_UNUSED(closure)) {
    kvpy_store *self = (kvpy_store *)op;
    return Py_NewRef(kvpy_store_handle(self) != NULL ? self->path : Py_None);
}

static PyObject *store_closed(PyObject *op, void *Py_UNUSED(closure)) {
    kv_db *db = kvpy_store_handle((kvpy_store *)op);
    return PyBool_FromLong(db == NULL || kv_is_closed(db));
}

static Py_ssize_t store_length(PyObject *op) {
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    if (db == NULL)
        return -1;
    uint64_t count;
    kv_error err;
    kv_status status;
    KVPY_CALL(status, true, 0u, kv_count(db, flags, &count, &err));
    if (status < 0) {
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    return (Py_ssize_t)count;
}

/* "pykv.Store" for pykv's own, which users find there; the full name for their subclasses. */
static PyObject *type_name(const kvpy_state *state, PyTypeObject *type) {
    PyObject *module = PyObject_GetAttr((PyObject *)type, state->name_module);
    PyObject *name = PyObject_GetAttr((PyObject *)type, state->name_qualname);
    PyObject *full = NULL;
    if (module != NULL && name != NULL) {
        const char *text = PyUnicode_Check(module) ? PyUnicode_AsUTF8(module) : NULL;
        if (text != NULL && strncmp(text, "pykv.", 5) == 0)
            full = PyUnicode_FromFormat("pykv.%S", name);
        else if (!PyErr_Occurred())
            full = PyUnicode_FromFormat("%S.%S", module, name);
    }
    Py_XDECREF(module);
    Py_XDECREF(name);
    return full;
}

static PyObject *store_repr(PyObject *op) {
    kvpy_store *self = (kvpy_store *)op;
    PyObject *name = type_name(self->state, Py_TYPE(op));
    if (name == NULL)
        return NULL;
    PyObject *repr;
    uint64_t count = 0;
    char keys[32] = "? keys"; /* it cannot be told: a part of the checkpoint is damaged, say */
    kv_db *db = kvpy_store_handle(self);
    kv_status status = KV_ERR_CLOSED;
    if (db != NULL)
        KVPY_CALL(status, true, 0u, kv_count(db, flags, &count, NULL));
    bool closed = status == KV_ERR_CLOSED || status == KV_ERR_FORKED;
    if (status == KV_OK)
        snprintf(keys, sizeof keys, "%llu keys", (unsigned long long)count);
    if (db == NULL || (closed && self->path == Py_None))
        repr = PyUnicode_FromFormat("<%U closed>", name);
    else if (closed)
        repr = PyUnicode_FromFormat("<%U %R closed>", name, self->path);
    else if (self->path == Py_None)
        repr = PyUnicode_FromFormat("<%U in memory, %s>", name, keys);
    else
        repr = PyUnicode_FromFormat("<%U %R sync=%s, %s>", name, self->path,
                                    sync_names[kv_sync_mode(db)], keys);
    Py_DECREF(name);
    return repr;
}

/* ---- The type ------------------------------------------------------------------------------ */

#define FAST(name, function, doc)                                                                \
    {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef store_methods[] = {
    FAST("get", kvpy_store_get, get_doc),
    FAST("put", kvpy_store_put, put_doc),
    FAST("delete", kvpy_store_delete, delete_doc),
    {"get_many", kvpy_store_get_many, METH_O, get_many_doc},
    FAST("put_many", kvpy_store_put_many, put_many_doc),
    FAST("delete_many", kvpy_store_delete_many, delete_many_doc),
    FAST("_write", kvpy_store_write, write_doc),
    FAST("incr", kvpy_store_incr, incr_doc),
    {"ttl", kvpy_store_ttl, METH_O, ttl_doc},
    FAST("expire", kvpy_store_expire, expire_doc),
    FAST("persist", kvpy_store_persist, persist_doc),
    {"_expiry_of", kvpy_store_expiry_of, METH_O, expiry_of_doc},
    {"_expiry_after", kvpy_store_expiry_after, METH_O, expiry_after_doc},
    {"_clock", kvpy_store_clock, METH_NOARGS, clock_doc},
    FAST("replace", kvpy_store_replace, replace_doc),
    FAST("setdefault", kvpy_store_setdefault, setdefault_doc),
    FAST("pop", kvpy_store_pop, pop_doc),
    {"popitem", kvpy_store_popitem, METH_NOARGS, popitem_doc},
    {"clear", kvpy_store_clear, METH_NOARGS, clear_doc},
    {"view", kvpy_store_view, METH_O, view_doc},
    {"sync", store_sync, METH_NOARGS, sync_doc},
    FAST("checkpoint", kvpy_store_checkpoint, checkpoint_doc),
    FAST("backup", kvpy_store_backup, backup_doc),
    FAST("preload", kvpy_store_preload, preload_doc),
    {"stats", store_stats, METH_NOARGS, stats_doc},
    {"_snapshot", store_take_snapshot, METH_NOARGS, snapshot_method_doc},
    {"_verify", store_verify, METH_NOARGS, verify_doc},
    {"close", store_close, METH_NOARGS, close_doc},
    {"__reduce__", store_reduce, METH_NOARGS, reduce_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef store_getset[] = {
    {"recovery", store_recovery, NULL, recovery_doc, NULL},
    {"path", store_path, NULL, path_doc, NULL},
    {"closed", store_closed, NULL, closed_doc, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot store_slots[] = {
    {Py_tp_doc, (void *)store_doc},
    {Py_tp_new, store_new},
    {Py_tp_init, store_init},
    {Py_tp_finalize, store_finalize},
    {Py_tp_dealloc, store_dealloc},
    {Py_tp_traverse, store_traverse},
    {Py_tp_repr, store_repr},
    {Py_tp_iter, kvpy_store_iter},
    {Py_tp_methods, store_methods},
    {Py_tp_getset, store_getset},
    {Py_mp_length, store_length},
    {Py_mp_subscript, kvpy_store_subscript},
    {Py_mp_ass_subscript, kvpy_store_ass_subscript},
    {Py_sq_contains, kvpy_store_contains},
    {0, NULL},
};

static PyType_Spec store_spec = {
    .name = "pykv._core.Store",
    .basicsize = sizeof(kvpy_store),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_MAPPING,
    .slots = store_slots,
};

PyObject *kvpy_store_own_methods(PyObject *Py_UNUSED(module), PyObject *type) {
    PyTypeObject *own = (PyTypeObject *)type;
    if (!PyType_Check(type))
        return PyErr_Format(PyExc_TypeError, "a type is required");
    for (PyMethodDef *method = store_methods; method->ml_name != NULL; method++) {
        PyObject *descriptor = PyDescr_NewMethod(own, method);
        if (descriptor == NULL)
            return NULL;
        int result = PyObject_SetAttrString(type, method->ml_name, descriptor);
        Py_DECREF(descriptor);
        if (result < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

int kvpy_store_register(PyObject *module, kvpy_state *state) {
    state->store_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &store_spec, NULL);
    if (state->store_type == NULL)
        return -1;
    return PyModule_AddType(module, state->store_type);
}
