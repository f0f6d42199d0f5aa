/* os_posix.c - kv_os on POSIX systems; see os.h for what each function answers.  Layer: os.
 *
 * Descriptors are close-on-exec from birth, so that a program started by another thread inherits
 * neither a file nor its lock.  Names inside a directory are opened with O_NOFOLLOW, and what is
 * no regular file is refused; O_NONBLOCK keeps the open of a FIFO from waiting for its other end
 * (it means nothing for a regular file).
 *
 * Modes.  A new file asks for 0600 and a new directory for 0700.  The umask can only take bits
 * away, so nothing is ever open to others, not for a moment; but it can take the owner's own bits,
 * and these are put back.  Changing the umask instead would change it for every thread of the
 * process.  Until the bits are back another process of the same user may be answered EACCES.
 *
 * Locks are flock()'s: they belong to the open file, not to the process, so that closing some
 * other descriptor of the same file does not drop them (as fcntl's would be), and a second open in
 * this process conflicts like one elsewhere.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include "os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && defined(O_DIRECT)
#define HAVE_DIRECT 1
#define DIRECT_ALIGNMENT_ASSUMED 4096 /* where the kernel does not say: no device in use asks for more */
#endif

/* macOS refuses transfers above INT_MAX; half of that is plenty for one call anywhere. */
#define TRANSFER_MAX (1u << 30)
#define ENTROPY_MAX 256u /* of one getentropy() */

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_CLOEXEC)
#define FILE_FLAGS (O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

static int result_of(int r) {
    return r < 0 ? -errno : r;
}

/* Closes `fd` and answers `r`; for the ways out of a failure. */
static int closed_with(int fd, int r) {
    close(fd);
    return r;
}

/* Adds the owner's bits `mode` that are missing on `fd`, which this process has just made. */
static int restore_mode(int fd, mode_t mode) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((st.st_mode & mode) == mode)
        return 0;
    return result_of(fchmod(fd, mode));
}

/* ---- Syncing --------------------------------------------------------------------------------- */

/* Until the bytes are on the medium.  `size_only`: of the metadata only what finds the bytes. */
static int sync_fd(int fd, bool size_only) {
#if defined(__APPLE__)
    /* fsync() there stops at the drive's cache; F_FULLFSYNC does not, but some file systems lack
     * it.  Only that answer allows the weaker call: after EIO nothing may be tried again. */
    (void)size_only;
    if (fcntl(fd, F_FULLFSYNC) >= 0)
        return 0;
    if (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL)
        return -errno;
    return result_of(fsync(fd));
#else
    return result_of(size_only ? fdatasync(fd) : fsync(fd));
#endif
}

static int posix_sync(void *ctx, int file) {
    (void)ctx;
    return sync_fd(file, true);
}

static int posix_dir_sync(void *ctx, int dir) {
    (void)ctx;
    return sync_fd(dir, false);
}

/* ---- Directories ----------------------------------------------------------------------------- */

/* Opens the directory `path` that this process has just made, with the owner's bits put back. */
static int open_made_dir(const char *path) {
    int fd = open(path, DIR_FLAGS | O_NOFOLLOW);
    if (fd < 0 && errno == EACCES) {
        /* The umask took the right to open it.  By name, as nothing else can: who could replace
         * the name meanwhile could as well have replaced the directory.  Systems that cannot do
         * it without following links do it with. */
        if (fchmodat(AT_FDCWD, path, 0700, AT_SYMLINK_NOFOLLOW) < 0 &&
            fchmodat(AT_FDCWD, path, 0700, 0) < 0)
            return -errno;
        fd = open(path, DIR_FLAGS | O_NOFOLLOW);
    }
    if (fd < 0)
        return -errno;
    int r = restore_mode(fd, 0700);
    return r < 0 ? closed_with(fd, r) : fd;
}

/* Makes the name of the directory durable.  ".." of the directory and not of its path: the path
 * may be a symbolic link. */
static int sync_parent(int dir, bool made) {
    int parent = openat(dir, "..", DIR_FLAGS);
    if (parent < 0) {
        /* Somebody else's directory to which we may not even list the names: it was set up for
         * us, by somebody who saw to it. */
        return made || errno != EACCES ? -errno : 0;
    }
    int r = sync_fd(parent, false);
    /* One that has no sync is never written to (squashfs), or is on no disk: the name is none that could be lost.
     * Another file system may be mounted there. */
    return closed_with(parent, !made && (r == -EINVAL || r == -EROFS) ? 0 : r);
}

static int posix_dir_open(void *ctx, const char *path, bool create) {
    (void)ctx;
    int fd = open(path, DIR_FLAGS);
    if (!create)
        return result_of(fd);

    bool made = false;
    if (fd < 0 && errno == ENOENT) {
        if (mkdir(path, 0700) == 0) {
            made = true;
            fd = open_made_dir(path);
            if (fd < 0) {
                rmdir(path);
                return fd;
            }
        } else if (errno == EEXIST) { /* another process was faster */
            fd = open(path, DIR_FLAGS);
        }
    }
    if (fd < 0)
        return -errno;
    int r = sync_parent(fd, made);
    if (r < 0) {
        if (made)
            rmdir(path);
        return closed_with(fd, r);
    }
    return fd;
}

static int posix_identity(void *ctx, int fd, const char *name, uint64_t identity[2]) {
    (void)ctx;
    struct stat st;
    if ((name != NULL ? fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) : fstat(fd, &st)) < 0)
        return -errno;
    identity[0] = (uint64_t)st.st_dev;
    identity[1] = (uint64_t)st.st_ino;
    return 0;
}

static int posix_dir_list(void *ctx, int dir, kv_name_visitor visit, void *arg) {
    (void)ctx;
    /* A descriptor of its own: a duplicate would share the position with other listings. */
    int fd = openat(dir, ".", DIR_FLAGS);
    if (fd < 0)
        return -errno;
    DIR *stream = fdopendir(fd);
    if (stream == NULL)
        return closed_with(fd, -errno);

    int r = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(stream);
        if (entry == NULL) {
            r = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (!visit(arg, entry->d_name))
            break;
    }
    closedir(stream);
    return r;
}

static int posix_rename(void *ctx, int dir, const char *from, const char *to) {
    (void)ctx;
    return result_of(renameat(dir, from, dir, to));
}

static int posix_unlink(void *ctx, int dir, const char *name) {
    (void)ctx;
    return result_of(unlinkat(dir, name, 0));
}

/* ---- Files ----------------------------------------------------------------------------------- */

static int open_existing(int dir, const char *name, int access) {
    int fd = openat(dir, name, access | FILE_FLAGS);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return closed_with(fd, -errno);
    if (!S_ISREG(st.st_mode))
        return closed_with(fd, S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO);
    return fd;
}

static int open_exclusive(int dir, const char *name) {
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | FILE_FLAGS, 0600);
    if (fd < 0)
        return -errno;
    int r = restore_mode(fd, 0600);
    if (r < 0) {
        unlinkat(dir, name, 0);
        return closed_with(fd, r);
    }
    return fd;
}

static int posix_open(void *ctx, int dir, const char *name, kv_open_mode mode) {
    (void)ctx;
    switch (mode) {
    case KV_OPEN_READ:
        return open_existing(dir, name, O_RDONLY);
    case KV_OPEN_WRITE:
        return open_existing(dir, name, O_RDWR);
    case KV_OPEN_EXCLUSIVE:
        return open_exclusive(dir, name);
    case KV_OPEN_CREATE:
        break;
    }
    /* In two steps, because only who made the file may mend its mode.  The name can come and go
     * between them, but not for ever. */
    int fd = -ENOENT;
    for (int attempt = 0; attempt < 8; attempt++) {
        fd = open_existing(dir, name, O_RDWR);
        if (fd != -ENOENT)
            return fd;
        fd = open_exclusive(dir, name);
        if (fd != -EEXIST)
            return fd;
    }
    return fd;
}

static int posix_close(void *ctx, int file) {
    (void)ctx;
    return result_of(close(file));
}

static int64_t posix_size(void *ctx, int file) {
    (void)ctx;
    struct stat st;
    return fstat(file, &st) < 0 ? -errno : (int64_t)st.st_size;
}

static int64_t posix_read(void *ctx, int file, void *buffer, size_t size, uint64_t offset) {
    (void)ctx;
    if (offset > INT64_MAX)
        return -EOVERFLOW;
    ssize_t n = pread(file, buffer, size < TRANSFER_MAX ? size : TRANSFER_MAX, (off_t)offset);
    return n < 0 ? -errno : n;
}

static int64_t posix_write(void *ctx, int file, const void *buffer, size_t size,
                           uint64_t offset) {
    (void)ctx;
    if (offset > INT64_MAX)
        return -EFBIG;
    ssize_t n = pwrite(file, buffer, size < TRANSFER_MAX ? size : TRANSFER_MAX, (off_t)offset);
    return n < 0 ? -errno : n;
}

static int posix_truncate(void *ctx, int file, uint64_t size) {
    (void)ctx;
    return size > INT64_MAX ? -EFBIG : result_of(ftruncate(file, (off_t)size));
}

static int posix_reserve(void *ctx, int file, uint64_t size) {
    (void)ctx;
#ifdef __linux__
    return size > INT64_MAX ? -EFBIG : result_of(fallocate(file, 0, 0, (off_t)size));
#else
    (void)file;
    (void)size;
    return -EOPNOTSUPP;
#endif
}

static int posix_lock(void *ctx, int file, bool shared) {
    (void)ctx;
    return result_of(flock(file, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB));
}

static int posix_unlock(void *ctx, int file) {
    (void)ctx;
    return result_of(flock(file, LOCK_UN));
}

/* ---- Random bytes ---------------------------------------------------------------------------- */

/* For kernels and sandboxes without the system call. */
static int random_from_device(uint8_t *p, size_t size) {
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return closed_with(fd, -errno);
    if (!S_ISCHR(st.st_mode))
        return closed_with(fd, -ENODEV);
    while (size > 0) {
        ssize_t n = read(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return closed_with(fd, n < 0 ? -errno : -EIO);
        p += n;
        size -= (size_t)n;
    }
    return closed_with(fd, 0);
}

static int posix_random(void *ctx, void *buffer, size_t size) {
    (void)ctx;
    uint8_t *p = buffer;
    while (size > 0) {
        size_t part = size < ENTROPY_MAX ? size : ENTROPY_MAX;
        if (getentropy(p, part) < 0)
            return errno == ENOSYS || errno == EPERM ? random_from_device(p, size) : -errno;
        p += part;
        size -= part;
    }
    return 0;
}

static uint64_t posix_clock_ms(void *ctx) {
    (void)ctx;
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec < 0 ? 0 : (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t kv_os_clock_ms(const kv_os *os) {
    return os->clock_ms != NULL ? os->clock_ms(os->ctx) : posix_clock_ms(NULL);
}

#ifdef __linux__
static void posix_write_back(void *ctx, int file, uint64_t offset, uint64_t size, bool wait) {
    (void)ctx;
    unsigned flags = SYNC_FILE_RANGE_WRITE;
    if (wait)
        flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
    (void)!sync_file_range(file, (off_t)offset, (off_t)size, flags);
}
#endif

#ifdef HAVE_DIRECT
/* What direct I/O on the file has to be aligned to; < 0: there is none. */
static int direct_alignment(int file) {
#ifdef STATX_DIOALIGN /* Linux 6.1 */
    struct statx stx;
    if (statx(file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) != 0) {
        uint32_t memory = stx.stx_dio_mem_align, offset = stx.stx_dio_offset_align;
        uint32_t larger = memory > offset ? memory : offset;
        bool fits = offset != 0 && larger <= KV_DIRECT_ALIGNMENT_MAX && (larger & (larger - 1)) == 0;
        return fits ? (int)larger : -EOPNOTSUPP;
    }
#else
    (void)file;
#endif
    return DIRECT_ALIGNMENT_ASSUMED; /* if that is wrong, the first write is refused */
}

static int posix_direct(void *ctx, int file, bool on) {
    (void)ctx;
    int flags = fcntl(file, F_GETFL);
    if (flags < 0)
        return -errno;
    int alignment = on ? direct_alignment(file) : 1;
    if (alignment < 0)
        return alignment;
    if (fcntl(file, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) < 0)
        return on && errno == EINVAL ? -EOPNOTSUPP : -errno;
    return alignment;
}
#endif

const kv_os kv_os_posix = {
    .dir_open = posix_dir_open,
    .identity = posix_identity,
    .dir_list = posix_dir_list,
    .dir_sync = posix_dir_sync,
    .open = posix_open,
    .close = posix_close,
    .size = posix_size,
    .read = posix_read,
    .write = posix_write,
    .sync = posix_sync,
    .truncate = posix_truncate,
    .reserve = posix_reserve,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .lock = posix_lock,
    .unlock = posix_unlock,
    .random = posix_random,
    .clock_ms = posix_clock_ms,
#ifdef __linux__
    .write_back = posix_write_back,
#endif
#ifdef HAVE_DIRECT
    .direct = posix_direct,
#endif
};
