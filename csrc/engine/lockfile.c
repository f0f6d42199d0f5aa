/* lockfile.c - see lockfile.h. */
#include "lockfile.h"

#include <stdio.h>
#include <stdlib.h>

kv_status kv_lockfile_read(const kv_file *file, kv_lock_text *text, kv_error *err) {
    *text = (kv_lock_text){0};
    return kv_file_read(file, text->bytes, sizeof text->bytes - 1, 0, &text->size, err);
}

kv_status kv_lockfile_write(const kv_file *file, const kv_lock_text *text, kv_error *err) {
    kv_status status = kv_file_truncate(file, 0, err);
    return status == KV_OK ? kv_file_write(file, text->bytes, text->size, 0, NULL, err) : status;
}

static kv_status fail_locked(const kv_file *file, bool shared, kv_error *err) {
    kv_lock_text text;
    long long pid = 0;
    if (kv_lockfile_read(file, &text, NULL) == KV_OK)
        pid = strtoll(text.bytes, NULL, 10);
    kv_status status =
        pid > 0 ? kv_fail(err, KV_ERR_LOCKED, "the store is open in process %lld", pid)
                : kv_fail(err, KV_ERR_LOCKED, "the store is open in another process%s",
                          shared ? "" : ", perhaps read-only");
    if (err != NULL) {
        err->pid = pid > 0 ? pid : 0;
        snprintf(err->path, sizeof err->path, "%s", file->dir->path);
    }
    return status;
}

#define TRIES_MAX 1000u

/* Once more when the name leads elsewhere by then: who made a copy that failed had it locked before us, and has removed
 * it (save.c), so what we hold keeps nobody away.  Not for ever: a file system may number a file anew at each look. */
kv_status kv_lockfile_take(kv_file *file, const kv_dir *dir, bool shared, kv_error *err) {
    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        bool named = false;
        kv_status status =
            kv_file_open(file, dir, KV_LOCK_FILE, shared ? KV_OPEN_READ : KV_OPEN_CREATE, err);
        if (status == KV_NOTFOUND)
            return KV_OK;
        if (status < 0)
            return status;
        status = kv_file_lock(file, shared, err);
        if (status == KV_BUSY)
            status = fail_locked(file, shared, err);
        if (status == KV_OK)
            status = kv_file_has_name(file, &named, err);
        if (status == KV_OK && named)
            return KV_OK;
        kv_lockfile_release(file);
        if (status < 0)
            return status;
    }
    kv_status status = kv_fail(err, KV_ERR_LOCKED, "LOCK is another file at each look, says the file system: nobody can "
                                                   "tell whether the store is open elsewhere");
    if (err != NULL)
        snprintf(err->path, sizeof err->path, "%s", dir->path);
    return status;
}

void kv_lockfile_release(kv_file *file) {
    kv_file_unlock(file);
    kv_file_close(file);
}
