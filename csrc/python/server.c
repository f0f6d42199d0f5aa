/* server.c - type Server: a running server over a store.  Layer: python.
 *
 * Its threads are C and never touch the interpreter.  The object owns the server; it needs no
 * reference to the Store, whose handle is another one.  After a fork the child's object is there
 * but the server is the parent's: nothing it is asked waits for threads that are not there.
 */
#include "server.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <time.h>

#include "../server/command.h"
#include "../server/server.h"
#include "raise.h"
#include "store.h"

typedef struct kvpy_server {
    PyObject_HEAD
    /* owned; NULL until __init__ has started it, then constant.  Release: so is `pid`.  Acquire: handle() */
    _Atomic(kv_server *) server;
    kvpy_state *state; /* borrowed from the type */
    pid_t pid;         /* of the process that started it */
    _Atomic bool stopped; /* relaxed: who sees it late asks the server, which knows */
} kvpy_server;

static kv_server *handle(const kvpy_server *self) {
    return atomic_load_explicit(&self->server, memory_order_acquire);
}

/* It has been stopped, or it is the parent's: nothing is to be asked of it. */
static bool is_over(const kvpy_server *self) {
    return atomic_load_explicit(&self->stopped, memory_order_relaxed) || self->pid != getpid();
}

/* Numbers of kv_config that are keyword arguments, by name and field. */
#define LIMITS_TABLE(X)                                                                          \
    X(max_clients, clients_max)                                                                  \
    X(max_arguments, args_max)                                                                   \
    X(max_bulk, bulk_max)                                                                        \
    X(max_query_buffer, query_buffer_max)                                                        \
    X(max_query_buffers, query_buffers_max)                                                      \
    X(max_output_buffer, output_buffer_max)                                                      \
    X(idle_timeout, idle_timeout_s)                                                              \
    X(request_timeout, request_timeout_s)                                                        \
    X(max_unauthenticated_arguments, unauthenticated_args_max)                                   \
    X(max_unauthenticated_bulk, unauthenticated_bulk_max)

static PyObject *server_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs)) {
    kvpy_state *state = kvpy_state_of_type(type);
    if (state == NULL)
        return NULL;
    kvpy_server *self = (kvpy_server *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    atomic_init(&self->server, NULL);
    self->state = state;
    atomic_init(&self->stopped, false);
    return (PyObject *)self;
}

/* A number above 0 for a field; None: as it is. */
static int read_limit(PyObject *object, const char *name, uint64_t max, uint64_t *value) {
    if (object == NULL || object == Py_None)
        return 0;
    if (!PyLong_Check(object) || PyBool_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.200s", name, Py_TYPE(object)->tp_name);
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow != 0 || number < 0 || (uint64_t)number > max) {
        PyErr_Format(PyExc_ValueError, "%s must be a number from 0 to %llu, not %R", name, (unsigned long long)max,
                     object);
        return -1;
    }
    *value = (uint64_t)number;
    return 0;
}

/* A path for the system, or NULL for None; the bytes object that holds it goes into *owner. */
static int read_path(PyObject *object, PyObject **owner, const char **path) {
    *path = NULL;
    if (object == NULL || object == Py_None)
        return 0;
    if (!PyUnicode_FSConverter(object, owner))
        return -1;
    *path = PyBytes_AS_STRING(*owner);
    return 0;
}

static int already_started(void) {
    PyErr_SetString(PyExc_RuntimeError, "the server has been started already");
    return -1;
}

static int start(kvpy_server *self, kv_db *db, const kv_config *config) {
    kv_server *server = NULL;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_server_start(db, config, &server, &err));
    if (status < 0) {
        if (status == KV_ERR_IO) { /* a socket's failure is no failure of the store's files */
            PyObject *error = err.path[0] != '\0' ? PyObject_CallFunction(PyExc_OSError, "iss", err.sys_errno,
                                                                         err.message, err.path)
                                                  : PyObject_CallFunction(PyExc_OSError, "is", err.sys_errno,
                                                                          err.message);
            if (error != NULL)
                PyErr_SetObject(PyExc_OSError, error);
            Py_XDECREF(error);
            return -1;
        }
        kvpy_raise(self->state, status, &err);
        return -1;
    }
    bool first;
    KVPY_BEGIN_EXCLUSIVE(self);
    first = handle(self) == NULL; /* else another thread was faster */
    if (first) {
        self->pid = getpid();
        atomic_store_explicit(&self->server, server, memory_order_release);
    }
    KVPY_END_EXCLUSIVE();
    if (first)
        return 0;
    KVPY_CALL_DETACHED(status, (kv_server_destroy(server), KV_OK));
    return already_started();
}

static int server_init(PyObject *op, PyObject *args, PyObject *kwargs) {
#define X(name, field) #name,
    static char *names[] = {"store",    "host",    "port",     "unix",   "threads",        "password",
                            "tls_cert", "tls_key", "tls_ca", "debug_commands", LIMITS_TABLE(X) NULL};
#undef X
    kvpy_server *self = (kvpy_server *)op;
    PyObject *store = NULL, *paths[4] = {NULL}, *owners[4] = {NULL};
    const char *host = NULL, *password = NULL;
    int port = 0, debug_commands = 0, threads = 1, result = -1;
#define X(name, field) PyObject *name = NULL;
    LIMITS_TABLE(X)
#undef X
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$ziOizOOOpOOOOOOOOOO:Server", names, self->state->store_type,
                                     &store, &host, &port, &paths[0], &threads, &password, &paths[1], &paths[2],
                                     &paths[3], &debug_commands
#define X(name, field) , &name
                                     LIMITS_TABLE(X)
#undef X
                                         ))
        return -1;
    if (handle(self) != NULL)
        return already_started();
    kv_db *db = kvpy_store_db((kvpy_store *)store);
    if (db == NULL)
        return -1;
    if (port < 0 || port > 65535) {
        PyErr_Format(PyExc_ValueError, "port must be a number from 0 to 65535, not %d", port);
        return -1;
    }
    if (threads < 1 || threads > 256) {
        PyErr_Format(PyExc_ValueError, "threads must be a number from 1 to 256, not %d", threads);
        return -1;
    }
    kv_config config = kv_config_default();
    config.host = host;
    config.port = (uint16_t)port;
    config.threads = (uint32_t)threads;
    config.password = password;
    config.debug_commands = debug_commands;
    if (read_path(paths[0], &owners[0], &config.unix_path) < 0 ||
        read_path(paths[1], &owners[1], &config.tls_cert) < 0 ||
        read_path(paths[2], &owners[2], &config.tls_key) < 0 ||
        read_path(paths[3], &owners[3], &config.tls_ca) < 0)
        goto out;
#define X(name, field)                                                                           \
    {                                                                                            \
        uint64_t value = atomic_load(&config.field);                                             \
        uint64_t max = sizeof config.field == 4 ? UINT32_MAX : INT64_MAX;                        \
        if (read_limit(name, #name, max, &value) < 0)                                            \
            goto out;                                                                            \
        atomic_store(&config.field, value);                                                      \
    }
    LIMITS_TABLE(X)
#undef X
    result = start(self, db, &config);
out:
    for (int i = 0; i < 4; i++)
        Py_XDECREF(owners[i]);
    return result;
}

/* The server; NULL with an exception when __init__ never ran. */
static kv_server *started(const kvpy_server *self) {
    kv_server *server = handle(self);
    if (server == NULL)
        PyErr_SetString(PyExc_RuntimeError, "the server was never started: call __init__ first");
    return server;
}

PyDoc_STRVAR(server_doc,
             "Server(store, *, host=None, port=0, unix=None, threads=1, password=None, tls_cert=None,\n"
             "       tls_key=None, tls_ca=None, debug_commands=False, **limits)\n--\n\n"
             "A server of the Redis protocol over a store.  Private: see pykv.serve().");

PyDoc_STRVAR(stop_doc, "stop($self, grace=10.0)\n--\n\n"
                       "Takes no more connections, sends what can be sent within grace seconds, closes all.\n"
                       "Twice is allowed.  Raises StorageError when the store's last sync failed.");

static PyObject *server_stop(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"grace", NULL};
    kvpy_server *self = (kvpy_server *)op;
    kv_server *server = started(self);
    double grace = 10.0;
    if (server == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|d:stop", names, &grace))
        return NULL;
    if (!(grace >= 0.0 && grace <= 1e6)) {
        PyErr_SetString(PyExc_ValueError, "grace must be a number of seconds from 0 to 1e6");
        return NULL;
    }
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_server_stop(server, (uint64_t)(grace * 1000.0), &err));
    bool first = !atomic_exchange_explicit(&self->stopped, true, memory_order_relaxed);
    if (status < 0 && first)
        return kvpy_raise(self->state, status, &err);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wait_doc, "wait($self, timeout=None)\n--\n\n"
                       "Until a client asks for the server's end (SHUTDOWN), or it has been stopped: True.  False\n"
                       "after timeout seconds, however many signals come meanwhile.\n"
                       "\n"
                       "ValueError: timeout is not a number.");

static double monotonic_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static PyObject *server_wait(PyObject *op, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"timeout", NULL};
    kvpy_server *self = (kvpy_server *)op;
    kv_server *server = started(self);
    PyObject *timeout = Py_None;
    if (server == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", names, &timeout))
        return NULL;
    double seconds = timeout != Py_None ? PyFloat_AsDouble(timeout) : INFINITY;
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout is not a number");
        return NULL;
    }
    if (is_over(self))
        Py_RETURN_TRUE;
    const double longest = 1e6; /* seconds of one poll */
    double deadline = monotonic_seconds() + seconds;
    for (;;) {
        double left = deadline - monotonic_seconds();
        int ms = left <= 0.0 ? 0 : (int)((left < longest ? left : longest) * 1000.0 + 0.999);
        struct pollfd fd = {.fd = kv_server_stop_fd(server), .events = POLLIN};
        PyThreadState *thread = PyEval_SaveThread();
        int ready = poll(&fd, 1, ms);
        int failure = errno;
        PyEval_RestoreThread(thread);
        if (ready > 0)
            Py_RETURN_TRUE;
        if (ready == 0 && left <= longest)
            Py_RETURN_FALSE;
        if (ready < 0 && failure != EINTR) {
            errno = failure;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

PyDoc_STRVAR(ask_doc, "_ask_to_stop($self)\n--\n\nLets wait() return: all that a signal's handler needs.");

static PyObject *server_ask_to_stop(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_server *self = (kvpy_server *)op;
    kv_server *server = started(self);
    if (server == NULL)
        return NULL;
    if (self->pid == getpid())
        kv_server_ask_to_stop(server);
    Py_RETURN_NONE;
}

static int add_number(PyObject *dict, const char *name, unsigned long long value) {
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int result = number != NULL ? PyDict_SetItemString(dict, name, number) : -1;
    Py_XDECREF(number);
    return result;
}

/* {command: (calls, seconds, failed, [calls by bucket of latency])} */
static PyObject *call_figures(kv_counters *counters) {
    PyObject *all = PyDict_New();
    for (size_t i = 0; all != NULL && i < kv_command_count(); i++) {
        kv_call_sum sum = kv_counters_calls(counters, i);
        if (sum.calls == 0)
            continue;
        PyObject *buckets = PyTuple_New(KV_LATENCY_BUCKETS);
        for (unsigned k = 0; buckets != NULL && k < KV_LATENCY_BUCKETS; k++) {
            PyObject *number = PyLong_FromUnsignedLongLong(sum.latency[k]);
            if (number == NULL)
                Py_CLEAR(buckets);
            else
                PyTuple_SET_ITEM(buckets, k, number);
        }
        PyObject *row = buckets != NULL ? Py_BuildValue("KdKN", (unsigned long long)sum.calls,
                                                        (double)sum.time_ns / 1e9,
                                                        (unsigned long long)sum.failed, buckets)
                                        : NULL;
        if (row == NULL || PyDict_SetItemString(all, kv_command_at(i)->name, row) < 0)
            Py_CLEAR(all);
        Py_XDECREF(row);
    }
    return all;
}

PyDoc_STRVAR(figures_doc, "_figures($self)\n--\n\nWhat the server counts, as a dict; for metrics.");

static PyObject *server_figures(PyObject *op, PyObject *Py_UNUSED(ignored)) {
    kvpy_server *self = (kvpy_server *)op;
    kv_server *server = started(self);
    if (server == NULL)
        return NULL;
    if (is_over(self))
        return PyDict_New();
    kv_counters *counters = kv_server_stats(server);
    kv_stats stats;
    kv_error err;
    kv_status status;
    KVPY_CALL_DETACHED(status, kv_server_store_stats(server, &stats, &err));
    if (status < 0)
        return kvpy_raise(self->state, status, &err);
    uint64_t commands = 0, hits = 0, misses = 0;
    for (size_t i = 0; i < counters->slice_count; i++) {
        commands += kv_counter_get(&counters->slices[i].commands);
        hits += kv_counter_get(&counters->slices[i].hits);
        misses += kv_counter_get(&counters->slices[i].misses);
    }
    PyObject *dict = PyDict_New();
    PyObject *calls = call_figures(counters);
    if (dict == NULL || calls == NULL || PyDict_SetItemString(dict, "calls", calls) < 0 ||
        add_number(dict, "clients", kv_server_client_count(server)) < 0 ||
        add_number(dict, "commands", commands) < 0 || add_number(dict, "hits", hits) < 0 ||
        add_number(dict, "misses", misses) < 0 ||
#define X(name) add_number(dict, #name, kv_counter_get(&counters->name)) < 0 ||
        X(connections) X(connections_refused) X(bytes_in) X(bytes_out) X(query_buffer_bytes)
        X(output_limit_closes) X(idle_closes)
#undef X
#define X(name) add_number(dict, #name, stats.name) < 0 ||
        X(entries) X(data_bytes) X(memory_bytes) X(lsn) X(durable_lsn) X(commits) X(syncs) X(log_bytes)
        X(checkpoints) X(checkpoint_bytes) X(checkpoint_failures) X(expired) X(evicted) X(memory_charged)
        X(max_memory)
#undef X
        add_number(dict, "failed", stats.failed) < 0)
        Py_CLEAR(dict);
    Py_XDECREF(calls);
    return dict;
}

static PyObject *server_port(PyObject *op, void *Py_UNUSED(closure)) {
    kv_server *server = started((kvpy_server *)op);
    return server != NULL ? PyLong_FromLong(kv_server_port(server)) : NULL;
}

static PyObject *server_running(PyObject *op, void *Py_UNUSED(closure)) {
    kvpy_server *self = (kvpy_server *)op;
    kv_server *server = handle(self);
    return PyBool_FromLong(server != NULL && !is_over(self) && !kv_server_is_stopping(server));
}

static void server_dealloc(PyObject *op) {
    kvpy_server *self = (kvpy_server *)op;
    PyTypeObject *type = Py_TYPE(op);
    kv_server *server = handle(self);
    if (server != NULL) {
        PyThreadState *thread = PyEval_SaveThread();
        kv_server_destroy(server);
        PyEval_RestoreThread(thread);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef server_methods[] = {
    {"stop", (PyCFunction)(void (*)(void))server_stop, METH_VARARGS | METH_KEYWORDS, stop_doc},
    {"wait", (PyCFunction)(void (*)(void))server_wait, METH_VARARGS | METH_KEYWORDS, wait_doc},
    {"_ask_to_stop", server_ask_to_stop, METH_NOARGS, ask_doc},
    {"_figures", server_figures, METH_NOARGS, figures_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef server_getset[] = {
    {"port", server_port, NULL, "The port that it listens on; 0: none.", NULL},
    {"running", server_running, NULL, "False once it stops, and in a forked child.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot server_slots[] = {
    {Py_tp_doc, (void *)server_doc},     {Py_tp_new, server_new},         {Py_tp_init, server_init},
    {Py_tp_dealloc, server_dealloc},     {Py_tp_methods, server_methods}, {Py_tp_getset, server_getset},
    {0, NULL},
};

static PyType_Spec server_spec = {
    .name = "pykv._core.Server",
    .basicsize = sizeof(kvpy_server),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = server_slots,
};

int kvpy_server_register(PyObject *module, kvpy_state *state) {
    state->server_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &server_spec, NULL);
    if (state->server_type == NULL)
        return -1;
    return PyModule_AddType(module, state->server_type);
}
