/* file.c - see file.h.  Layer: os.
 *
 * Every call goes through RETRY, but for close (after EINTR the descriptor is gone on Linux, and
 * another thread may have it by then) and sync (whose failure, of any kind, is final).
 */
#include "file.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define INTERRUPTIONS_MAX 1000u /* in a row: a call that never gets through has failed */

/* `r` = the call, again while a signal interrupts it. */
#define RETRY(r, call)                                                                           \
    do {                                                                                         \
        unsigned left_ = INTERRUPTIONS_MAX;                                                      \
        do {                                                                                     \
            (r) = (call);                                                                        \
        } while ((r) == -EINTR && --left_ > 0);                                                  \
    } while (0)

#define ZEROS_SIZE 65536u /* large enough that the calls do not count beside the copying */

/* ---- Failures -------------------------------------------------------------------------------- */

static kv_status fail_name(kv_error *err, int64_t result, const kv_dir *dir, const char *name,
                           const char *what) {
    char path[KV_ERROR_PATH_SIZE];
    kv_dir_join(dir, name, path);
    return kv_fail_sys(err, (int)-result, path, "%s", what);
}

static kv_status fail_file(kv_error *err, int64_t result, const kv_file *file, uint64_t offset,
                           const char *what) {
    kv_status status = fail_name(err, result, file->dir, file->name, what);
    if (err != NULL)
        err->offset = (int64_t)offset;
    return status;
}

#define NO_OFFSET UINT64_MAX /* -1 in the error */

/* KV_ERR_IO for any cause, no space included: which bytes are on disk is not known any more. */
static kv_status fail_sync(kv_error *err, int sys_errno, const char *path, const char *what) {
    (void)!kv_fail_sys(err, sys_errno, path, "%s", what);
    if (err != NULL)
        err->status = KV_ERR_IO;
    return KV_ERR_IO;
}

/* ---- Directories ----------------------------------------------------------------------------- */

void kv_dir_join(const kv_dir *dir, const char *name, char *path) {
    size_t length = strlen(dir->path);
    const char *separator = length > 0 && dir->path[length - 1] == '/' ? "" : "/";
    int needed = snprintf(path, KV_ERROR_PATH_SIZE, "%s%s%s", dir->path, separator, name);
    if (needed < 0)
        path[0] = '\0';
}

kv_status kv_dir_open(kv_dir *dir, const kv_os *os, const char *path, bool create,
                      kv_error *err) {
    dir->fd = -1;
    int fd;
    RETRY(fd, os->dir_open(os->ctx, path, create));
    if (fd == -ENOTDIR)
        return kv_fail_sys(err, ENOTDIR, path, "a store is a directory, and this is a file");
    if (fd < 0)
        return kv_fail_sys(err, -fd, path, "cannot open the directory");
    dir->os = os;
    dir->fd = fd;
    snprintf(dir->path, sizeof dir->path, "%s", path);
    return KV_OK;
}

/* Out of the structure first: behind the close its number may be another file's, which a child that is forked in that
 * moment would close (registry.c). */
static int take_fd(int *fd) {
    int taken = *fd;
    *fd = -1;
    return taken;
}

void kv_dir_close(kv_dir *dir) {
    int fd = take_fd(&dir->fd);
    if (fd >= 0)
        dir->os->close(dir->os->ctx, fd);
}

kv_status kv_dir_list(const kv_dir *dir, kv_name_visitor visit, void *arg, kv_error *err) {
    int r = dir->os->dir_list(dir->os->ctx, dir->fd, visit, arg);
    return r < 0 ? kv_fail_sys(err, -r, dir->path, "cannot list the directory") : KV_OK;
}

kv_status kv_dir_random(const kv_dir *dir, void *bytes, size_t size, kv_error *err) {
    int r = dir->os->random(dir->os->ctx, bytes, size);
    return r < 0 ? kv_fail_sys(err, -r, dir->path, "cannot draw random bytes") : KV_OK;
}

kv_status kv_dir_sync(const kv_dir *dir, kv_error *err) {
    int r = dir->os->dir_sync(dir->os->ctx, dir->fd);
    return r < 0 ? fail_sync(err, -r, dir->path, "cannot sync the directory") : KV_OK;
}

kv_status kv_dir_rename(const kv_dir *dir, const char *from, const char *to, kv_error *err) {
    int r;
    RETRY(r, dir->os->rename(dir->os->ctx, dir->fd, from, to));
    if (r < 0) {
        char what[160];
        snprintf(what, sizeof what, "cannot rename to %s", to);
        return fail_name(err, r, dir, from, what);
    }
    return KV_OK;
}

kv_status kv_dir_unlink(const kv_dir *dir, const char *name, kv_error *err) {
    int r;
    RETRY(r, dir->os->unlink(dir->os->ctx, dir->fd, name));
    if (r == -ENOENT)
        return KV_NOTFOUND;
    if (r < 0)
        return fail_name(err, r, dir, name, "cannot remove");
    return KV_OK;
}

/* ---- Files ----------------------------------------------------------------------------------- */

kv_status kv_file_open(kv_file *file, const kv_dir *dir, const char *name, kv_open_mode mode,
                       kv_error *err) {
    file->fd = -1;
    int fd;
    RETRY(fd, dir->os->open(dir->os->ctx, dir->fd, name, mode));
    if (fd == -ENOENT && (mode == KV_OPEN_READ || mode == KV_OPEN_WRITE))
        return KV_NOTFOUND;
    if (fd < 0)
        return fail_name(err, fd, dir, name, "cannot open");
    file->os = dir->os;
    file->dir = dir;
    file->fd = fd;
    file->direct = 0;
    snprintf(file->name, sizeof file->name, "%s", name);
    return KV_OK;
}

void kv_file_close(kv_file *file) {
    /* A failure tells nothing: what matters has been synced, and the descriptor is gone. */
    int fd = take_fd(&file->fd);
    if (fd >= 0)
        file->os->close(file->os->ctx, fd);
}

kv_status kv_file_has_name(const kv_file *file, bool *has, kv_error *err) {
    const kv_os *os = file->os;
    uint64_t ours[2], its[2];
    int r;
    *has = false;
    RETRY(r, os->identity(os->ctx, file->fd, NULL, ours));
    if (r >= 0)
        RETRY(r, os->identity(os->ctx, file->dir->fd, file->name, its));
    if (r == -ENOENT)
        return KV_OK;
    if (r < 0)
        return fail_file(err, r, file, NO_OFFSET, "cannot tell which file this is");
    *has = memcmp(ours, its, sizeof ours) == 0;
    return KV_OK;
}

kv_status kv_file_size(const kv_file *file, uint64_t *size_bytes, kv_error *err) {
    int64_t r;
    RETRY(r, file->os->size(file->os->ctx, file->fd));
    if (r < 0)
        return fail_file(err, r, file, NO_OFFSET, "cannot ask for the size");
    *size_bytes = (uint64_t)r;
    return KV_OK;
}

kv_status kv_file_read(const kv_file *file, void *buffer, size_t size, uint64_t offset,
                       size_t *got, kv_error *err) {
    uint8_t *p = buffer;
    size_t total = 0;
    while (total < size) {
        int64_t r;
        RETRY(r, file->os->read(file->os->ctx, file->fd, p + total, size - total,
                                offset + total));
        if (r < 0) {
            *got = total;
            return fail_file(err, r, file, offset + total, "cannot read");
        }
        if (r == 0)
            break;
        total += (size_t)r;
    }
    *got = total;
    return KV_OK;
}

kv_status kv_file_write(const kv_file *file, const void *buffer, size_t size, uint64_t offset,
                        size_t *done, kv_error *err) {
    const uint8_t *p = buffer;
    size_t total = 0;
    kv_status status = KV_OK;
    while (total < size) {
        int64_t r;
        RETRY(r, file->os->write(file->os->ctx, file->fd, p + total, size - total,
                                 offset + total));
        if (r <= 0) { /* 0: no progress and no reason; asking again could go on for ever */
            status = fail_file(err, r < 0 ? r : -EIO, file, offset + total, "cannot write");
            break;
        }
        total += (size_t)r;
    }
    if (done != NULL)
        *done = total;
    return status;
}

void kv_file_set_direct(kv_file *file) {
    int r = -EOPNOTSUPP;
    if (file->os->direct != NULL)
        RETRY(r, file->os->direct(file->os->ctx, file->fd, true));
    file->direct = r > 0 ? (uint32_t)r : 0;
    if (r < 0 && r != -EOPNOTSUPP) /* whatever that was: a file that takes blocks only would be refused all else */
        file->os->direct(file->os->ctx, file->fd, false);
}

kv_status kv_file_clear_direct(kv_file *file, kv_error *err) {
    int r = 0;
    if (file->direct != 0)
        RETRY(r, file->os->direct(file->os->ctx, file->fd, false));
    if (r < 0)
        return fail_file(err, r, file, NO_OFFSET, "cannot turn direct I/O off");
    file->direct = 0;
    return KV_OK;
}

kv_status kv_file_write_blocks(kv_file *file, const void *buffer, size_t size, uint64_t offset,
                               size_t *done, kv_error *err) {
    const uint8_t *p = buffer;
    size_t total = 0, reached = 0;
    kv_status status = KV_OK;
    assert(file->direct == 0 || (((uintptr_t)buffer | size | offset) & (file->direct - 1)) == 0);
    while (total < size && file->direct != 0 && status == KV_OK) {
        int64_t r;
        RETRY(r, file->os->write(file->os->ctx, file->fd, p + total, size - total,
                                 offset + total));
        if (r > 0 && total + (size_t)r > reached)
            reached = total + (size_t)r;
        if (r >= (int64_t)file->direct)
            total += (size_t)r & ~(size_t)(file->direct - 1);
        else if (r >= 0 || r == -EINVAL) /* no block at all: it will not be better the next time */
            status = kv_file_clear_direct(file, err);
        else
            status = fail_file(err, r, file, offset + total, "cannot write");
    }
    if (total < size && status == KV_OK) {
        size_t rest;
        status = kv_file_write(file, p + total, size - total, offset + total, &rest, err);
        if (total + rest > reached)
            reached = total + rest;
    } else if (status == KV_OK) {
        reached = size;
    }
    if (done != NULL)
        *done = reached;
    return status;
}

kv_status kv_file_write_zeros(const kv_file *file, uint64_t size, uint64_t offset,
                              kv_error *err) {
    static const uint8_t zeros[ZEROS_SIZE];
    while (size > 0) {
        size_t part = size < ZEROS_SIZE ? (size_t)size : ZEROS_SIZE;
        kv_status status = kv_file_write(file, zeros, part, offset, NULL, err);
        if (status < 0)
            return status;
        size -= part;
        offset += part;
    }
    return KV_OK;
}

kv_status kv_file_sync(const kv_file *file, kv_error *err) {
    char path[KV_ERROR_PATH_SIZE];
    int r = file->os->sync(file->os->ctx, file->fd);
    if (r >= 0)
        return KV_OK;
    kv_dir_join(file->dir, file->name, path);
    return fail_sync(err, -r, path, "cannot sync");
}

kv_status kv_file_reserve(const kv_file *file, uint64_t size, kv_error *err) {
    int r = -EOPNOTSUPP;
    if (file->os->reserve != NULL)
        RETRY(r, file->os->reserve(file->os->ctx, file->fd, size));
    if (r == -EOPNOTSUPP)
        return kv_file_write_zeros(file, size, 0, err);
    return r < 0 ? fail_file(err, r, file, size, "cannot reserve room") : KV_OK;
}

kv_status kv_file_truncate(const kv_file *file, uint64_t size, kv_error *err) {
    int r;
    RETRY(r, file->os->truncate(file->os->ctx, file->fd, size));
    if (r < 0)
        return fail_file(err, r, file, size, "cannot set the size");
    return KV_OK;
}

kv_status kv_file_lock(const kv_file *file, bool shared, kv_error *err) {
    int r;
    RETRY(r, file->os->lock(file->os->ctx, file->fd, shared));
    if (r == -EWOULDBLOCK)
        return KV_BUSY;
    if (r < 0)
        return fail_file(err, r, file, NO_OFFSET, "cannot lock");
    return KV_OK;
}

void kv_file_unlock(const kv_file *file) {
    /* A failure tells nothing: closing gives the lock back, too. */
    if (file->fd >= 0 && file->os->unlock != NULL)
        file->os->unlock(file->os->ctx, file->fd);
}
