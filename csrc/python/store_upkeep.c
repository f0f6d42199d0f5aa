/* store_upkeep.c - Store: calls that work on all of it for a while.  Layer: python. */
#include "arguments.h"
#include "raise.h"
#include "store.h"
#include "work.h"

static PyObject *none_or_raise(kvpy_store *self, const kvpy_work *work, kv_status status,
                               const kv_error *err) {
    if (status < 0 || work->failed)
        return kvpy_raise(self->state, status, err);
    Py_RETURN_NONE;
}

typedef kv_status (*upkeep)(kv_db *db, kv_progress progress, void *arg, kv_error *err);

/* A method whose only argument is `progress`. */
static PyObject *run(kvpy_store *self, const kvpy_signature *signature, upkeep call,
                     PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    kv_db *db = kvpy_store_db(self);
    PyObject *values[1];
    kvpy_work work;
    if (db == NULL || kvpy_arguments(signature, args, nargs, kwnames, values) < 0 ||
        kvpy_work_init(&work, values[0]) < 0)
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_WORK(status, &work, call(db, kvpy_work_progress, &work, &err));
    return none_or_raise(self, &work, status, &err);
}

KVPY_FAST(kvpy_store_checkpoint) {
    static const kvpy_signature signature = {"checkpoint", {"progress"}, 0, 0};
    return run((kvpy_store *)op, &signature, kv_checkpoint, args, nargs, kwnames);
}

KVPY_FAST(kvpy_store_preload) {
    static const kvpy_signature signature = {"preload", {"progress"}, 0, 0};
    return run((kvpy_store *)op, &signature, kv_load_all, args, nargs, kwnames);
}

KVPY_FAST(kvpy_store_backup) {
    static const kvpy_signature signature = {"backup", {"dest", "progress"}, 1, 1};
    kvpy_store *self = (kvpy_store *)op;
    kv_db *db = kvpy_store_db(self);
    PyObject *values[2], *dest;
    kvpy_work work;
    if (db == NULL ||
        kvpy_arguments(&signature, args, nargs, kwnames, values) < 0 ||
        kvpy_work_init(&work, values[1]) < 0 || !PyUnicode_FSConverter(values[0], &dest))
        return NULL;
    kv_error err;
    kv_status status;
    KVPY_WORK(status, &work,
              kv_backup(db, PyBytes_AS_STRING(dest), kvpy_work_progress, &work, &err));
    Py_DECREF(dest);
    return none_or_raise(self, &work, status, &err);
}
