/* files.c - see files.h.  Layer: python.
 *
 * What the engine finds goes into the caller's lists, of which each takes so many: a store whose
 * every block is damaged must not fill the memory with reports.  All are counted.
 */
#include "files.h"

#include "raise.h"
#include "store.h"
#include "work.h"

#define LISTED_MAX 10000 /* problems, and suspects */

typedef struct examination {
    kvpy_work work; /* the first: kvpy_work_progress gets a pointer to it */
    PyObject *problems; /* borrowed lists */
    PyObject *suspects; /* NULL when checking */
    uint64_t suspect_count;
} examination;

/* Takes `object`, which may be NULL. */
static void list_take(PyObject *list, PyObject *object) {
    if (object != NULL) {
        PyList_Append(list, object);
        Py_DECREF(object);
    }
}

static PyObject *text_or_none(const char *text, bool is_path) {
    if (text == NULL || text[0] == '\0')
        return Py_NewRef(Py_None);
    return is_path ? PyUnicode_DecodeFSDefault(text)
                   : PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "backslashreplace");
}

/* (path, offset, message, loss, errno); what is not known is None. */
static PyObject *problem_new(const kv_error *problem, const char *loss) {
    const char *message =
        problem->message[0] != '\0' ? problem->message : kv_status_text(problem->status);
    PyObject *tuple = PyTuple_New(5);
    if (tuple == NULL)
        return NULL;
    PyTuple_SET_ITEM(tuple, 0, text_or_none(problem->path, true));
    PyTuple_SET_ITEM(tuple, 1, problem->offset < 0 ? Py_NewRef(Py_None)
                                                   : PyLong_FromLongLong(problem->offset));
    PyTuple_SET_ITEM(tuple, 2, text_or_none(message, false));
    PyTuple_SET_ITEM(tuple, 3, text_or_none(loss, false));
    PyTuple_SET_ITEM(tuple, 4, problem->sys_errno == 0 ? Py_NewRef(Py_None)
                                                       : PyLong_FromLong(problem->sys_errno));
    for (Py_ssize_t i = 0; i < 5; i++) {
        if (PyTuple_GET_ITEM(tuple, i) == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
    }
    return tuple;
}

static bool add_problem(void *arg, const kv_error *problem, const char *loss) {
    examination *e = arg;
    if (!kvpy_work_enter(&e->work))
        return !e->work.failed;
    if (PyList_GET_SIZE(e->problems) < LISTED_MAX)
        list_take(e->problems, problem_new(problem, loss));
    kvpy_work_leave(&e->work);
    return !e->work.failed;
}

static void add_suspect(void *arg, kv_bytes key) {
    examination *e = arg;
    if (e->suspect_count++ >= LISTED_MAX || !kvpy_work_enter(&e->work))
        return;
    list_take(e->suspects, PyBytes_FromStringAndSize(key.data, (Py_ssize_t)key.size));
    kvpy_work_leave(&e->work);
}

#define SUMMARY_TABLE(X)                                                                         \
    X(problems)                                                                                  \
    X(files)                                                                                     \
    X(bytes)                                                                                     \
    X(entries)                                                                                   \
    X(frames)                                                                                    \
    X(records)                                                                                   \
    X(blocks_lost)                                                                               \
    X(frames_lost)                                                                               \
    X(bytes_lost)                                                                                \
    X(items)

static PyObject *dict_from_summary(const kv_check_summary *s, uint64_t suspects) {
#define FORMAT(name) "sK"
#define ARGUMENTS(name) #name, (unsigned long long)s->name,
    return Py_BuildValue("{" SUMMARY_TABLE(FORMAT) "sK}", SUMMARY_TABLE(ARGUMENTS) "suspects",
                         (unsigned long long)suspects);
#undef FORMAT
#undef ARGUMENTS
}

/* `db` NULL: checks; else salvages into it. */
static PyObject *examine(kvpy_state *state, PyObject *path, kv_db *db, examination *e) {
    PyObject *encoded;
    if (!PyUnicode_FSConverter(path, &encoded))
        return NULL;
    const char *name = PyBytes_AS_STRING(encoded);
    kv_check_options options = {
        .problem = add_problem,
        .progress = kvpy_work_progress,
        .suspect = db != NULL ? add_suspect : NULL,
        .arg = e,
    };
    kv_check_summary summary = {0};
    kv_error err;
    kv_status status;
    KVPY_WORK(status, &e->work,
              db != NULL ? kv_salvage(name, db, &options, &summary, &err)
                         : kv_check(name, &options, &summary, &err));
    Py_DECREF(encoded);
    if (status < 0 || e->work.failed)
        return kvpy_raise(state, status, &err);
    return dict_from_summary(&summary, e->suspect_count);
}

PyObject *kvpy_check(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    examination e = {0};
    if (nargs != 3 || !PyList_CheckExact(args[1]))
        return PyErr_Format(PyExc_TypeError, "_check() takes a path, a list and a callable");
    if (kvpy_work_init(&e.work, args[2]) < 0)
        return NULL;
    e.problems = args[1];
    return examine(PyModule_GetState(module), args[0], NULL, &e);
}

PyObject *kvpy_repair(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    kvpy_state *state = PyModule_GetState(module);
    examination e = {0};
    if (nargs != 5 || !PyObject_TypeCheck(args[1], state->store_type) ||
        !PyList_CheckExact(args[2]) || !PyList_CheckExact(args[3]))
        return PyErr_Format(PyExc_TypeError,
                            "_repair() takes a path, a Store, two lists and a callable");
    kv_db *db = kvpy_store_db((kvpy_store *)args[1]);
    if (db == NULL || kvpy_work_init(&e.work, args[4]) < 0)
        return NULL;
    e.problems = args[2];
    e.suspects = args[3];
    return examine(state, args[0], db, &e);
}
