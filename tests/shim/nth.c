/* nth.c - the n-th request for memory, or the n-th system call on files, fails, for tests:
 * LD_PRELOAD it; with PYTHONMALLOC=malloc Python's requests are among them.
 *
 *     PYKV_NTH_CONTROL   a file of FIELDS 64-bit integers, shared with the test (shim/__init__.py
 *                        has the same names); without it nothing fails
 *
 * Only those count that are made below a function of the extension module, by itself or by what it
 * calls: the interpreter has places of its own where it crashes without memory.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

#define MODULE "/_core."

/* Of requests and of calls, in this order. */
enum kind_field {
    LEFT,   /* n > 0: the n-th from now fails; counts down to 0, which asks for nothing */
    ONWARD, /* not 0: every later one fails, too; LEFT stays 1 then */
    FAILED, /* so far */
    KIND_FIELDS
};
enum field {
    MEMORY,                  /* its fields begin here */
    CALL = KIND_FIELDS,      /* and its here */
    ERRNO = 2 * KIND_FIELDS, /* what a call answers that fails */
    BLOCKS,                  /* of the heap that are in use */
    FIELDS
};

static int64_t unused[FIELDS], *control = unused;

__attribute__((constructor)) static void attach(void) {
    const char *file = getenv("PYKV_NTH_CONTROL");
    int fd = file != NULL ? open(file, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *area = mmap(NULL, sizeof unused, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (area != MAP_FAILED)
        control = area;
}

/* ---- Who asks -------------------------------------------------------------------------------- */

static uintptr_t module_from, module_to; /* its code */

static int find_module(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size, (void)arg;
    if (info->dlpi_name == NULL || strstr(info->dlpi_name, MODULE) == NULL)
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            module_to = info->dlpi_addr + part->p_vaddr + part->p_memsz;
            module_from = info->dlpi_addr + part->p_vaddr;
        }
    }
    return 1;
}

static _Unwind_Reason_Code look_at_frame(struct _Unwind_Context *context, void *found) {
    uintptr_t place = _Unwind_GetIP(context);
    *(int *)found = place >= module_from && place < module_to;
    return *(int *)found ? _URC_END_OF_STACK : _URC_NO_REASON;
}

static int is_below_the_module(void) {
    int found = 0;
    if (module_from == 0)
        dl_iterate_phdr(find_module, NULL);
    if (module_from != 0)
        _Unwind_Backtrace(look_at_frame, &found);
    return found;
}

static int must_fail(enum field kind, int error) {
    int64_t left = __atomic_load_n(&control[kind + LEFT], __ATOMIC_SEQ_CST);
    while (left > 0 && is_below_the_module()) {
        int64_t next = left == 1 && control[kind + ONWARD] ? 1 : left - 1;
        if (!__atomic_compare_exchange_n(&control[kind + LEFT], &left, next, 0, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST))
            continue;
        if (left > 1)
            return 0;
        __atomic_add_fetch(&control[kind + FAILED], 1, __ATOMIC_SEQ_CST);
        errno = error;
        return 1;
    }
    return 0;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* glibc's own, which these stand before: asking the linker for them would need memory itself. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static int no_memory(void) {
    return must_fail(MEMORY, ENOMEM);
}

static void *counted(void *block) {
    if (block != NULL)
        __atomic_add_fetch(&control[BLOCKS], 1, __ATOMIC_RELAXED);
    return block;
}

void *malloc(size_t size) {
    return no_memory() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    return no_memory() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *block, size_t size) {
    if (block == NULL)
        return malloc(size);
    return no_memory() ? NULL : __libc_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = no_memory() ? NULL : counted(__libc_memalign(alignment, size));
    return *block != NULL ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size) {
    return no_memory() ? NULL : counted(__libc_memalign(alignment, size));
}

void free(void *block) {
    if (block != NULL)
        __atomic_add_fetch(&control[BLOCKS], -1, __ATOMIC_RELAXED);
    __libc_free(block);
}

void *mmap(void *place, size_t size, int protection, int flags, int fd, off_t offset) {
    if ((flags & MAP_ANONYMOUS) != 0 && no_memory())
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, place, size, protection, flags, fd, offset);
}

/* ---- System calls ---------------------------------------------------------------------------- */

static int no_call(void) {
    return must_fail(CALL, (int)control[ERRNO]);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL_OF(type, failure, name, parameters, ...)                                            \
    type name parameters {                                                                       \
        return no_call() ? failure : NEXT(name)(__VA_ARGS__);                                    \
    }

CALL_OF(int, -1, mkdir, (const char *path, mode_t mode), path, mode)
CALL_OF(int, -1, fstat, (int fd, struct stat *st), fd, st)
CALL_OF(int, -1, lstat, (const char *path, struct stat *st), path, st)
CALL_OF(int, -1, fchmod, (int fd, mode_t mode), fd, mode)
CALL_OF(int, -1, fsync, (int fd), fd)
CALL_OF(int, -1, fdatasync, (int fd), fd)
CALL_OF(ssize_t, -1, pread, (int fd, void *data, size_t size, off_t offset), fd, data, size,
        offset)
CALL_OF(ssize_t, -1, pwrite, (int fd, const void *data, size_t size, off_t offset), fd, data, size,
        offset)
CALL_OF(int, -1, ftruncate, (int fd, off_t size), fd, size)
CALL_OF(int, -1, fallocate, (int fd, int mode, off_t offset, off_t size), fd, mode, offset, size)
CALL_OF(int, -1, renameat, (int a, const char *from, int b, const char *to), a, from, b, to)
CALL_OF(int, -1, unlinkat, (int dir, const char *name, int flags), dir, name, flags)
CALL_OF(int, -1, rmdir, (const char *path), path)
CALL_OF(int, -1, flock, (int fd, int operation), fd, operation)
CALL_OF(int, -1, getentropy, (void *bytes, size_t size), bytes, size)
CALL_OF(DIR *, NULL, fdopendir, (int fd), fd)
CALL_OF(struct dirent *, NULL, readdir, (DIR *dir), dir)
CALL_OF(int, -1, socket, (int domain, int type, int protocol), domain, type, protocol)
CALL_OF(int, -1, bind, (int fd, const struct sockaddr *address, socklen_t size), fd, address,
        size)
CALL_OF(int, -1, listen, (int fd, int backlog), fd, backlog)
CALL_OF(int, -1, eventfd, (unsigned value, int flags), value, flags)
CALL_OF(int, -1, epoll_create1, (int flags), flags)
CALL_OF(int, -1, epoll_ctl, (int set, int op, int fd, struct epoll_event *event), set, op, fd,
        event)

int openat(int dir, const char *name, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return no_call() ? -1 : NEXT(openat)(dir, name, flags, mode);
}

int open(const char *name, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return no_call() ? -1 : NEXT(open)(name, flags, mode);
}

int fcntl(int fd, int operation, ...) {
    va_list args;
    va_start(args, operation);
    void *arg = va_arg(args, void *);
    va_end(args);
    return no_call() ? -1 : NEXT(fcntl)(fd, operation, arg);
}

/* It is done all the same: the descriptor is gone. */
int close(int fd) {
    int failed = no_call(), error = errno, result = NEXT(close)(fd);
    if (failed)
        errno = error;
    return failed ? -1 : result;
}
