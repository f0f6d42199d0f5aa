/* memory.c - requests for memory fail, for tests: LD_PRELOAD it, with PYTHONMALLOC=malloc so that Python's are among them.
 *
 *     PYKV_MEMORY_CONTROL   a file of MEMORY_FIELDS 64-bit integers, shared with the test (test_memory_errors.py has the
 *                           same names); without it nothing fails
 *
 * Only those count that are made below a function of the extension module, by itself or by what it calls: the
 * interpreter has places of its own where it crashes without memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

#define MODULE "/_core."

enum field {
    LEFT,   /* n > 0: the n-th request from now fails; counts down to 0, which asks for nothing */
    ONWARD, /* not 0: when the n-th has come every later one fails, too, until LEFT is 0; it stays 1 */
    FAILED, /* requests that failed so far */
    BLOCKS, /* blocks of the heap that are in use */
    MEMORY_FIELDS
};

/* glibc's own, which these stand before: asking the linker for the next ones would need memory itself. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

static int64_t unused[MEMORY_FIELDS], *control = unused;

__attribute__((constructor)) static void attach(void) {
    const char *file = getenv("PYKV_MEMORY_CONTROL");
    int fd = file != NULL ? open(file, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *area = mmap(NULL, sizeof unused, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (area != MAP_FAILED)
        control = area;
}

/* ---- Who asks ------------------------------------------------------------------------------------- */

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

/* ---- What is answered ------------------------------------------------------------------------------- */

static int must_fail(void) {
    int64_t left = __atomic_load_n(&control[LEFT], __ATOMIC_SEQ_CST);
    while (left > 0 && is_below_the_module()) {
        int64_t next = left == 1 && control[ONWARD] ? 1 : left - 1;
        if (!__atomic_compare_exchange_n(&control[LEFT], &left, next, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        if (left > 1)
            return 0;
        __atomic_add_fetch(&control[FAILED], 1, __ATOMIC_SEQ_CST);
        errno = ENOMEM;
        return 1;
    }
    return 0;
}

static void *counted(void *block) {
    if (block != NULL)
        __atomic_add_fetch(&control[BLOCKS], 1, __ATOMIC_RELAXED);
    return block;
}

void *malloc(size_t size) {
    return must_fail() ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size) {
    return must_fail() ? NULL : counted(__libc_calloc(count, size));
}

void *realloc(void *block, size_t size) {
    if (block == NULL)
        return malloc(size);
    return must_fail() ? NULL : __libc_realloc(block, size);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = must_fail() ? NULL : counted(__libc_memalign(alignment, size));
    return *block != NULL ? 0 : ENOMEM;
}

void *aligned_alloc(size_t alignment, size_t size) {
    return must_fail() ? NULL : counted(__libc_memalign(alignment, size));
}

void free(void *block) {
    if (block != NULL)
        __atomic_add_fetch(&control[BLOCKS], -1, __ATOMIC_RELAXED);
    __libc_free(block);
}

void *mmap(void *place, size_t size, int protection, int flags, int fd, off_t offset) {
    if ((flags & MAP_ANONYMOUS) != 0 && must_fail())
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, place, size, protection, flags, fd, offset);
}
