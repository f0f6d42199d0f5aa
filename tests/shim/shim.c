/* shim.c - stands between the store and the C library, for tests: LD_PRELOAD it, and system calls
 * on files below a directory fail, wait, or fall short as a control block says.
 *
 *     PYKV_SHIM_CONTROL   a file of SHIM_FIELDS 64-bit integers, shared with the test (shim/__init__.py
 *                         has the same names)
 *     PYKV_SHIM_UNDER     the directory; everything else is left alone
 *
 * A field that is 0 asks for nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum field {
    GATE,        /* while it is not 0, syncs of files wait */
    WAITING,     /* syncs that wait at the gate now */
    SYNCS,       /* syncs of files asked for so far */
    SYNC_FAIL,   /* the n-th sync of a file from now fails, once; counts down */
    SYNC_ERRNO,  /* with this (default EIO) */
    WRITES,      /* writes asked for so far */
    WRITE_ERRNO, /* every write and reservation fails with this */
    ROOM,        /* n > 0: n - 1 more bytes fit, then ENOSPC; zeros always fit, their place is taken */
    WRITE_MAX,   /* one write takes no more bytes than this */
    INTERRUPTS,  /* so many calls to come answer EINTR first; counts down */
    DIRTY,       /* bytes written since the last good sync began */
    READ_ERRNO,  /* every read fails with this */
    DIR_SYNCS,   /* syncs of directories asked for so far */
    DIR_SYNC_ERRNO,
    NO_RESERVE,  /* reservations answer EOPNOTSUPP */
    SPARE_TOO,   /* the gate, failing and counting concern spare.log, too, which the keeper thread
                    makes when it likes */
    SHIM_FIELDS = 32
};

#define SPARE "/spare.log"

static int64_t *control;
static char under[PATH_MAX];

static int64_t get(enum field field) {
    return __atomic_load_n(&control[field], __ATOMIC_SEQ_CST);
}

static void add(enum field field, int64_t change) {
    __atomic_add_fetch(&control[field], change, __ATOMIC_SEQ_CST);
}

/* Counts down to 0; true for exactly the call that gets there (`last`), or for each on the way. */
static int count_down(enum field field, int last) {
    int64_t now = get(field);
    while (now > 0)
        if (__atomic_compare_exchange_n(&control[field], &now, now - 1, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            return last ? now == 1 : 1;
    return 0;
}

__attribute__((constructor)) static void attach(void) {
    const char *file = getenv("PYKV_SHIM_CONTROL"), *directory = getenv("PYKV_SHIM_UNDER");
    if (file == NULL || directory == NULL || realpath(directory, under) == NULL)
        return;
    int fd = open(file, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *area = mmap(NULL, SHIM_FIELDS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (area != MAP_FAILED)
        control = area;
}

enum what { FOREIGN, FILE_OF_OURS, SPARE_OF_OURS, DIRECTORY_OF_OURS };

static enum what look_at(int fd) {
    char link[64], path[PATH_MAX];
    struct stat st;
    if (control == NULL || fstat(fd, &st) != 0)
        return FOREIGN;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(under), spare = strlen(SPARE);
    if (size < (ssize_t)prefix || memcmp(path, under, prefix) != 0)
        return FOREIGN;
    if (S_ISDIR(st.st_mode))
        return DIRECTORY_OF_OURS;
    if (!get(SPARE_TOO) && (size_t)size > spare &&
        memcmp(path + size - spare, SPARE, spare) == 0)
        return SPARE_OF_OURS;
    return FILE_OF_OURS;
}

static int is_ours(int fd) {
    enum what what = look_at(fd);
    return what == FILE_OF_OURS || what == SPARE_OF_OURS;
}

static int fail(int64_t number) {
    errno = (int)number;
    return -1;
}

static int wait_and_sync(int fd, const char *name) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    enum what what = look_at(fd);
    if (what == DIRECTORY_OF_OURS) {
        add(DIR_SYNCS, 1);
        return get(DIR_SYNC_ERRNO) ? fail(get(DIR_SYNC_ERRNO)) : next(fd);
    }
    if (what != FILE_OF_OURS)
        return next(fd);
    add(SYNCS, 1);
    int64_t dirty = get(DIRTY);
    add(WAITING, 1);
    while (get(GATE) != 0)
        nanosleep(&(struct timespec){0, 200000}, NULL);
    add(WAITING, -1);
    if (count_down(SYNC_FAIL, 1))
        return fail(get(SYNC_ERRNO) ? get(SYNC_ERRNO) : EIO);
    if (count_down(INTERRUPTS, 0))
        return fail(EINTR);
    int result = next(fd);
    if (result == 0)
        add(DIRTY, -dirty);
    return result;
}

int fdatasync(int fd) {
    return wait_and_sync(fd, "fdatasync");
}

int fsync(int fd) {
    return wait_and_sync(fd, "fsync");
}

static int all_zero(const char *data, size_t size) {
    return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

/* A part of a direct write may end anywhere: then it goes through the page cache, as a system does it that answers
 * such a number. */
static ssize_t write_part(ssize_t (*next)(int, const void *, size_t, off64_t), int fd,
                          const void *data, size_t size, off64_t offset) {
#ifdef O_DIRECT
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_DIRECT) != 0) {
        fcntl(fd, F_SETFL, flags & ~O_DIRECT);
        ssize_t written = next(fd, data, size, offset);
        int error = errno;
        fcntl(fd, F_SETFL, flags);
        errno = error;
        return written;
    }
#endif
    return next(fd, data, size, offset);
}

static ssize_t limited_write(int fd, const void *data, size_t size, off64_t offset) {
    ssize_t (*next)(int, const void *, size_t, off64_t) =
        (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    size_t asked = size;
    if (!is_ours(fd))
        return next(fd, data, size, offset);
    add(WRITES, 1);
    if (get(WRITE_ERRNO))
        return fail(get(WRITE_ERRNO));
    if (count_down(INTERRUPTS, 0))
        return fail(EINTR);
    if (get(WRITE_MAX) > 0 && size > (size_t)get(WRITE_MAX))
        size = (size_t)get(WRITE_MAX);
    int64_t room = get(ROOM);
    if (room > 0 && !all_zero(data, size)) {
        if (room == 1)
            return fail(ENOSPC);
        if ((int64_t)size > room - 1)
            size = (size_t)(room - 1);
        add(ROOM, -(int64_t)size);
    }
    ssize_t written = size < asked ? write_part(next, fd, data, size, offset)
                                   : next(fd, data, size, offset);
    if (written > 0 && look_at(fd) == FILE_OF_OURS)
        add(DIRTY, written);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return limited_write(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return limited_write(fd, data, size, offset);
}

static int reserve(int fd, int mode, off64_t offset, off64_t size) {
    int (*next)(int, int, off64_t, off64_t) =
        (int (*)(int, int, off64_t, off64_t))dlsym(RTLD_NEXT, "fallocate64");
    if (!is_ours(fd))
        return next(fd, mode, offset, size);
    if (get(NO_RESERVE))
        return fail(EOPNOTSUPP);
    if (get(WRITE_ERRNO))
        return fail(get(WRITE_ERRNO));
    if (get(ROOM) > 0) {
        if (get(ROOM) - 1 < size)
            return fail(ENOSPC);
        add(ROOM, -size);
    }
    return next(fd, mode, offset, size);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
    return reserve(fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
    return reserve(fd, mode, offset, size);
}

static ssize_t limited_read(int fd, void *data, size_t size, off64_t offset) {
    ssize_t (*next)(int, void *, size_t, off64_t) =
        (ssize_t(*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    if (control == NULL || !is_ours(fd))
        return next(fd, data, size, offset);
    if (get(READ_ERRNO))
        return fail(get(READ_ERRNO));
    if (count_down(INTERRUPTS, 0))
        return fail(EINTR);
    if (get(WRITE_MAX) > 0 && size > (size_t)get(WRITE_MAX))
        size = (size_t)get(WRITE_MAX);
    return next(fd, data, size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return limited_read(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    return limited_read(fd, data, size, offset);
}
