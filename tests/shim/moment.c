/* moment.c - ends a process at a chosen moment of its work on files, for tests: LD_PRELOAD it.
 *
 *     PYKV_MOMENT_UNDER   the store's directory; everything else is left alone
 *     PYKV_MOMENT         "WHEN SKIP STEP;STEP;...": when the last step comes, after the others in that order
 *                         and by the same thread ("*STEP": by any), and that SKIP times before, then it ends
 *     PYKV_MOMENT_CUT     a number: not the process alone ends, the power goes
 *     PYKV_MOMENT_WAIT    so many ms pass between the moment and the end, while the other threads go on: a slow disk
 *
 * WHEN is before the last step's call, after it, or half: the first half of what it writes is written.  A STEP is a
 * call with what it is about: "write new", "sync log", "rename new ckpt".  The files' names in steps:
 *
 *     new   checkpoint.tmp      spare      spare.log       dir     the directory
 *     ckpt  NNNNNNNN.ckpt       recycled   recycled.log    other   LOCK, STORE, ...
 *     old   recycled.ckpt       gone       one that has no name any more
 *     log   NNNNNNNN.log
 *
 * A power cut.  What was not synced may be lost: for each write since its file's last sync, what was there before is
 * kept, and for each change of a name since the directory's last sync, how to take it back.  At the end of
 * everything the calls that are under way finish, later ones wait for ever, and then the number, as a seed, decides
 * for each file and for the directory what is lost: nothing, all, or of a file some sectors, of the names some
 * changes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEPS_MAX 8
#define SECTOR 512
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static char under[PATH_MAX], kept[PATH_MAX + 8];
static int active, cutting, keep_fd = -1;
static uint64_t seed;

/* ---- The moment ------------------------------------------------------------------------------------ */

static enum when { BEFORE, HALF, AFTER } when;
static char steps[STEPS_MAX][64];
static int step_count, step_at, skip;
static pthread_t step_thread;
static pthread_mutex_t step_mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- What a power cut would take back ---------------------------------------------------------------- */

typedef struct change { /* of a file, since it was synced */
    struct change *older;
    dev_t dev;
    ino_t inode;
    uint64_t offset, number;
    size_t size;
    char before[];
} change;

typedef struct naming { /* of the directory, since it was synced; "" for none */
    struct naming *older;
    uint64_t number;
    char from[64], to[64]; /* created: nothing, name; removed: name, nothing */
    char saved[64];        /* where what was removed or replaced is kept */
} naming;

static change *changes;
static naming *namings;
static uint64_t numbers;
static pthread_mutex_t cut_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t calls = PTHREAD_RWLOCK_INITIALIZER; /* read: a call is under way */
static int dead;

static void wait_for_ever(void) {
    for (;;)
        pause();
}

static void enter(void) {
    if (!cutting)
        return;
    if (__atomic_load_n(&dead, __ATOMIC_SEQ_CST))
        wait_for_ever();
    pthread_rwlock_rdlock(&calls);
    if (__atomic_load_n(&dead, __ATOMIC_SEQ_CST)) {
        pthread_rwlock_unlock(&calls);
        wait_for_ever();
    }
}

static void leave(void) {
    int saved = errno;
    if (cutting)
        pthread_rwlock_unlock(&calls);
    errno = saved;
}

/* Reads what is in the file now, into any memory: a descriptor in direct I/O takes aligned memory only. */
static ssize_t read_before(int fd, void *buffer, size_t size, uint64_t offset) {
    char path[40];
    if ((fcntl(fd, F_GETFL) & O_DIRECT) == 0)
        return NEXT(pread64)(fd, buffer, size, (off64_t)offset);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int other = NEXT(openat64)(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    ssize_t got = other < 0 ? -1 : NEXT(pread64)(other, buffer, size, (off64_t)offset);
    if (other >= 0)
        close(other);
    return got;
}

static void note_write(int fd, uint64_t offset, size_t size) {
    struct stat st;
    change *c;
    if (!cutting || fstat(fd, &st) != 0 || (c = malloc(sizeof *c + size)) == NULL)
        return;
    *c = (change){.dev = st.st_dev, .inode = st.st_ino, .offset = offset, .size = size};
    memset(c->before, 0, size);
    if (read_before(fd, c->before, size, offset) < 0)
        abort();
    pthread_mutex_lock(&cut_mutex);
    c->number = ++numbers;
    c->older = changes;
    changes = c;
    pthread_mutex_unlock(&cut_mutex);
}

/* What was changed up to `number` is on disk. */
static void note_sync(int fd, uint64_t number) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return;
    pthread_mutex_lock(&cut_mutex);
    if (S_ISDIR(st.st_mode)) {
        for (naming **at = &namings; *at != NULL;) {
            naming *n = *at;
            if (n->number > number) {
                at = &n->older;
                continue;
            }
            *at = n->older;
            if (n->saved[0])
                NEXT(unlinkat)(keep_fd, n->saved, 0);
            free(n);
        }
    }
    for (change **at = &changes; *at != NULL;) {
        change *c = *at;
        if (c->dev != st.st_dev || c->inode != st.st_ino || c->number > number) {
            at = &c->older;
            continue;
        }
        *at = c->older;
        free(c);
    }
    pthread_mutex_unlock(&cut_mutex);
}

/* What has the name `from` (NULL: a new file) is about to have the name `to` (NULL: none any more). */
static void note_naming(int dir, const char *from, const char *to) {
    naming *n;
    if (!cutting || (n = calloc(1, sizeof *n)) == NULL)
        return;
    snprintf(n->from, sizeof n->from, "%s", from != NULL ? from : "");
    snprintf(n->to, sizeof n->to, "%s", to != NULL ? to : "");
    pthread_mutex_lock(&cut_mutex);
    n->number = ++numbers;
    if (from != NULL) {
        snprintf(n->saved, sizeof n->saved, "%llu", (unsigned long long)n->number);
        if (linkat(dir, to != NULL ? to : from, keep_fd, n->saved, 0) != 0)
            n->saved[0] = '\0';
    }
    n->older = namings;
    namings = n;
    pthread_mutex_unlock(&cut_mutex);
}

static uint64_t draw(void) {
    seed += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t z = seed;
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* A descriptor of the file of that inode, by its name in the directory; -1: it has none there. */
static int find_inode(int dir, dev_t dev, ino_t inode) {
    struct stat st;
    int found = -1, again = NEXT(openat64)(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = fdopendir(again);
    for (struct dirent *name; found < 0 && (name = readdir(names)) != NULL;)
        if (fstatat(dir, name->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == inode &&
            st.st_dev == dev && S_ISREG(st.st_mode))
            found = NEXT(openat64)(dir, name->d_name, O_RDWR | O_CLOEXEC);
    closedir(names);
    return found;
}

/* The changes of one file: those that stay are none, all, or some sectors of what is there now. */
static void lose_file(int dir, dev_t dev, ino_t inode) {
    int fd = find_inode(dir, dev, inode);
    if (fd < 0)
        fd = find_inode(keep_fd, dev, inode);
    uint64_t luck = draw() % 3;
    if (fd < 0 || luck == 0)
        return;
    size_t room = 0, used = 0;
    struct piece { uint64_t offset; char bytes[SECTOR]; ssize_t size; } *pieces = NULL;
    for (change *c = changes; c != NULL && luck == 1; c = c->older) {
        if (c->dev != dev || c->inode != inode)
            continue;
        uint64_t end = c->offset + c->size;
        for (uint64_t at = c->offset; at < end;) { /* the disk's sectors, whatever the write's bounds */
            uint64_t next = (at / SECTOR + 1) * SECTOR;
            if (next > end)
                next = end;
            if (draw() & 1) {
                if (used == room && (pieces = realloc(pieces, (room = room * 2 + 64) * sizeof *pieces)) == NULL)
                    abort();
                pieces[used].offset = at;
                pieces[used].size = NEXT(pread64)(fd, pieces[used].bytes, next - at, (off64_t)at);
                used++;
            }
            at = next;
        }
    }
    for (change *c = changes; c != NULL; c = c->older)
        if (c->dev == dev && c->inode == inode &&
            NEXT(pwrite64)(fd, c->before, c->size, (off64_t)c->offset) < 0)
            abort();
    for (size_t i = 0; i < used; i++)
        if (pieces[i].size > 0 &&
            NEXT(pwrite64)(fd, pieces[i].bytes, (size_t)pieces[i].size, (off64_t)pieces[i].offset) < 0)
            abort();
    free(pieces);
    close(fd);
}

static void lose_names(int dir) {
    uint64_t count = 0;
    for (naming *n = namings; n != NULL; n = n->older)
        count++;
    /* Nothing, all, the latest, or any: what cannot be taken back without another one then stays. */
    uint64_t luck = draw() % 4, lost = luck == 0 ? 0 : luck == 1 ? draw() % (count + 1) : count;
    for (naming *n = namings; n != NULL && lost > 0; n = n->older, lost--) {
        if (luck == 3 && draw() & 1)
            continue;
        if (n->from[0] && n->to[0])
            NEXT(renameat)(dir, n->to, dir, n->from);
        else if (n->to[0])
            NEXT(unlinkat)(dir, n->to, 0);
        if (n->saved[0])
            NEXT(renameat)(keep_fd, n->saved, dir, n->to[0] ? n->to : n->from);
    }
}

static void cut_the_power(void) {
    __atomic_store_n(&dead, 1, __ATOMIC_SEQ_CST);
    leave();
    pthread_rwlock_wrlock(&calls); /* those that are under way finish */
    pthread_mutex_lock(&cut_mutex);
    int dir = NEXT(open64)(under, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (change *c = changes; c != NULL; c = c->older) {
        change *newer = changes;
        while (newer != c && (newer->dev != c->dev || newer->inode != c->inode))
            newer = newer->older;
        if (newer == c)
            lose_file(dir, c->dev, c->inode);
    }
    lose_names(dir);
}

static void end_of_everything(void) {
    const char *wait = getenv("PYKV_MOMENT_WAIT");
    if (wait != NULL)
        usleep((useconds_t)atoi(wait) * 1000);
    if (cutting)
        cut_the_power();
    kill(getpid(), SIGKILL);
    wait_for_ever();
}

/* ---- Steps ------------------------------------------------------------------------------------------- */

/* True when this event is the moment. */
static int comes(const char *event) {
    int now = 0;
    pthread_mutex_lock(&step_mutex);
    const char *wanted = steps[step_at];
    int any = wanted[0] == '*';
    if (strcmp(wanted + any, event) == 0 &&
        (any || step_at == 0 || pthread_equal(step_thread, pthread_self()))) {
        step_thread = pthread_self();
        if (++step_at == step_count) {
            step_at = 0;
            now = skip-- == 0;
        }
    }
    pthread_mutex_unlock(&step_mutex);
    return now;
}

static int has_suffix(const char *name, const char *suffix) {
    size_t length = strlen(name), end = strlen(suffix);
    return length > end && strcmp(name + length - end, suffix) == 0;
}

static const char *name_kind(const char *name) {
    if (strcmp(name, "checkpoint.tmp") == 0)
        return "new";
    if (strcmp(name, "spare.log") == 0)
        return "spare";
    if (strcmp(name, "recycled.log") == 0)
        return "recycled";
    if (strcmp(name, "recycled.ckpt") == 0)
        return "old";
    return has_suffix(name, ".ckpt") ? "ckpt" : has_suffix(name, ".log") ? "log" : "other";
}

/* NULL: it is none of ours. */
static const char *fd_kind(int fd) {
    char link[64], path[PATH_MAX];
    if (!active)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    size_t prefix = strlen(under);
    if (size < (ssize_t)prefix || memcmp(path, under, prefix) != 0)
        return NULL;
    path[size] = '\0';
    if ((size_t)size == prefix)
        return "dir";
    if (path[prefix] != '/')
        return NULL;
    return has_suffix(path, " (deleted)") ? "gone" : name_kind(path + prefix + 1);
}

static int event(const char *call, const char *kind, const char *other) {
    char text[64];
    int saved = errno;
    snprintf(text, sizeof text, other != NULL ? "%s %s %s" : "%s %s", call, kind, other);
    int now = comes(text);
    if (now && when == BEFORE)
        end_of_everything();
    errno = saved;
    return now;
}

__attribute__((constructor)) static void attach(void) {
    const char *directory = getenv("PYKV_MOMENT_UNDER"), *moment = getenv("PYKV_MOMENT");
    const char *cut = getenv("PYKV_MOMENT_CUT");
    char word[16], rest[512], *at = rest;
    if (directory == NULL || moment == NULL || strlen(directory) > PATH_MAX - 16)
        return;
    if (sscanf(moment, "%15s %d %511[^\n]", word, &skip, rest) != 3)
        return;
    when = word[0] == 'b' ? BEFORE : word[0] == 'h' ? HALF : AFTER;
    for (char *step; step_count < STEPS_MAX && (step = strsep(&at, ";")) != NULL;)
        snprintf(steps[step_count++], sizeof steps[0], "%s", step);
    strcpy(under, directory);
    if (cut != NULL) {
        snprintf(kept, sizeof kept, "%s.kept", under);
        seed = strtoull(cut, NULL, 10);
        mkdir(kept, 0700);
        keep_fd = NEXT(open64)(kept, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cutting = keep_fd >= 0;
    }
    unsetenv("LD_PRELOAD");
    active = 1;
}

/* ---- The calls --------------------------------------------------------------------------------------- */

static ssize_t do_write(int fd, const void *data, size_t size, off64_t offset) {
    const char *kind = fd_kind(fd);
    if (kind == NULL)
        return NEXT(pwrite64)(fd, data, size, offset);
    enter();
    int now = event("write", kind, NULL);
    note_write(fd, (uint64_t)offset, size);
    ssize_t written = NEXT(pwrite64)(fd, data, now && when == HALF ? size / 2 : size, offset);
    if (now)
        end_of_everything();
    leave();
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return do_write(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    return do_write(fd, data, size, offset);
}

static ssize_t do_read(int fd, void *data, size_t size, off64_t offset) {
    const char *kind = fd_kind(fd);
    if (kind == NULL)
        return NEXT(pread64)(fd, data, size, offset);
    enter();
    int now = event("read", kind, NULL);
    ssize_t got = NEXT(pread64)(fd, data, size, offset);
    if (now)
        end_of_everything();
    leave();
    return got;
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return do_read(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset) {
    return do_read(fd, data, size, offset);
}

#define DO_SYNC(call, arguments, fd)                                                                \
    const char *kind = fd_kind(fd);                                                                 \
    if (kind == NULL)                                                                               \
        return NEXT(call) arguments;                                                                \
    enter();                                                                                        \
    int now = event("sync", kind, NULL);                                                            \
    uint64_t number = __atomic_load_n(&numbers, __ATOMIC_SEQ_CST);                                  \
    int result = NEXT(call) arguments;                                                              \
    if (result == 0 && cutting)                                                                     \
        note_sync(fd, number);                                                                      \
    if (now)                                                                                        \
        end_of_everything();                                                                        \
    leave();                                                                                        \
    return result;

int fdatasync(int fd) {
    DO_SYNC(fdatasync, (fd), fd)
}

int fsync(int fd) {
    DO_SYNC(fsync, (fd), fd)
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    const char *kind = fd_kind(to_dir);
    if (kind == NULL)
        return NEXT(renameat)(from_dir, from, to_dir, to);
    enter();
    int now = event("rename", name_kind(from), name_kind(to));
    note_naming(to_dir, from, to);
    int result = NEXT(renameat)(from_dir, from, to_dir, to);
    if (now)
        end_of_everything();
    leave();
    return result;
}

int unlinkat(int dir, const char *name, int flags) {
    const char *kind = fd_kind(dir);
    struct stat st;
    if (kind == NULL || fstatat(dir, name, &st, 0) != 0) /* removing nothing is no moment */
        return NEXT(unlinkat)(dir, name, flags);
    enter();
    int now = event("unlink", name_kind(name), NULL);
    note_naming(dir, name, NULL);
    int result = NEXT(unlinkat)(dir, name, flags);
    if (now)
        end_of_everything();
    leave();
    return result;
}

static int do_open(int dir, const char *name, int flags, mode_t mode) {
    const char *kind = flags & O_CREAT ? fd_kind(dir) : NULL;
    if (kind == NULL)
        return NEXT(openat64)(dir, name, flags, mode);
    enter();
    int now = event("create", name_kind(name), NULL);
    int fd = NEXT(openat64)(dir, name, flags, mode);
    if (fd >= 0 && flags & O_EXCL)
        note_naming(dir, NULL, name);
    if (now)
        end_of_everything();
    leave();
    return fd;
}

#define OPEN_AND_MODE(name)                                                                         \
    va_list list;                                                                                   \
    va_start(list, flags);                                                                          \
    mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                                       \
    va_end(list);                                                                                   \
    return do_open(dir, name, flags, mode);

int openat(int dir, const char *name, int flags, ...) {
    OPEN_AND_MODE(name)
}

int openat64(int dir, const char *name, int flags, ...) {
    OPEN_AND_MODE(name)
}
