/* test_file.c - the real system calls behind kv_os_posix, and what file.c makes of their failures. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "fault_os.h"
#include "memory_os.h"
#include "os/file.h"
#include "scratch.h"

static kv_error err; /* of the last failing call; a test is a process of its own */

static kv_dir dir_opened(const kv_os *os, const char *path) {
    kv_dir dir = KV_DIR_CLOSED;
    CHECK_OK(kv_dir_open(&dir, os, path, true, &err), &err);
    return dir;
}

static kv_file file_opened(const kv_dir *dir, const char *name, kv_open_mode mode) {
    kv_file file = KV_FILE_CLOSED;
    CHECK_OK(kv_file_open(&file, dir, name, mode, &err), &err);
    return file;
}

static unsigned mode_of(const char *path) {
    struct stat st;
    CHECK_EQ(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

static void touch(const char *path) {
    int fd = open(path, O_CREAT | O_WRONLY, 0644);
    CHECK(fd >= 0);
    close(fd);
}

/* The open must fail with this error number and leave the file closed. */
static void check_refused(const kv_dir *dir, const char *name, kv_open_mode mode, int sys_errno) {
    kv_file file = {.fd = 5};
    CHECK_STATUS(kv_file_open(&file, dir, name, mode, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, sys_errno);
    CHECK_CONTAINS(err.path, name);
    CHECK_EQ(file.fd, -1);
}

/* ---- Modes ----------------------------------------------------------------------------------- */

static void check_modes(const scratch *s) {
    static const mode_t umasks[] = {0, 022, 077, 0200, 0400, 0277, 0577, 0777};
    for (size_t i = 0; i < sizeof umasks / sizeof umasks[0]; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/store-%zu", s->path, i);
        umask(umasks[i]);
        kv_dir dir = dir_opened(&kv_os_posix, path);
        kv_file a = file_opened(&dir, "created", KV_OPEN_CREATE);
        kv_file b = file_opened(&dir, "exclusive", KV_OPEN_EXCLUSIVE);
        kv_file again = file_opened(&dir, "created", KV_OPEN_WRITE);
        umask(022);
        CHECK_EQ(mode_of(path), 0700);
        strcat(path, "/created");
        CHECK_EQ(mode_of(path), 0600);
        strcpy(strrchr(path, '/'), "/exclusive");
        CHECK_EQ(mode_of(path), 0600);
        kv_file_close(&again);
        kv_file_close(&b);
        kv_file_close(&a);
        kv_dir_close(&dir);
    }
}

static void test_modes_under_any_umask(void) {
    scratch s = scratch_make();
    check_modes(&s);
    scratch_remove(&s);
}

/* Modes do not bind the superuser: the same again as somebody else. */
static void test_modes_without_privileges(void) {
    if (geteuid() != 0)
        SKIP("only the superuser can become somebody else");
    scratch s = scratch_make();
    CHECK_EQ(chown(s.path, 65534, 65534), 0);
    CHECK_EQ(setegid(65534), 0);
    CHECK_EQ(seteuid(65534), 0);
    check_modes(&s);
    CHECK_EQ(seteuid(0), 0);
    scratch_remove(&s);
}

static void test_modes_of_others_are_kept(void) {
    scratch s = scratch_make();
    CHECK_EQ(mkdir(scratch_path(&s, "d"), 0750), 0);
    touch(scratch_path(&s, "d/f"));
    CHECK_EQ(chmod(scratch_path(&s, "d/f"), 0640), 0);
    kv_dir dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    CHECK_EQ(mode_of(scratch_path(&s, "d")), 0750);
    CHECK_EQ(mode_of(scratch_path(&s, "d/f")), 0640);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

/* A directory may lie where we may not list the names, if somebody has set it up so. */
static void test_parent_that_cannot_be_listed(void) {
    if (geteuid() != 0)
        SKIP("only the superuser can become somebody else");
    scratch s = scratch_make();
    CHECK_EQ(chmod(s.path, 0711), 0);
    CHECK_EQ(mkdir(scratch_path(&s, "d"), 0700), 0);
    CHECK_EQ(chown(scratch_path(&s, "d"), 65534, 65534), 0);
    CHECK_EQ(seteuid(65534), 0);
    kv_dir dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    kv_dir_close(&dir);
    CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, scratch_path(&s, "new"), true, &err), KV_ERR_IO,
                 &err);
    CHECK_EQ(err.sys_errno, EACCES);
    CHECK_EQ(seteuid(0), 0);

    /* Made there, but its name could not be synced: not left behind. */
    CHECK_EQ(chmod(s.path, 0733), 0);
    CHECK_EQ(seteuid(65534), 0);
    CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, scratch_path(&s, "new"), true, &err), KV_ERR_IO,
                 &err);
    CHECK_EQ(seteuid(0), 0);
    CHECK_EQ(access(scratch_path(&s, "new"), F_OK), -1);
    scratch_remove(&s);
}

/* Where the parent's file system has no sync, as one that is never written to, a directory may be set up all the same:
 * another file system mounted there, say. */
static void test_parent_that_has_no_sync(void) {
    kv_dir dir;
    int proc = open("/proc", O_RDONLY | O_DIRECTORY);
    if (proc < 0 || fsync(proc) == 0 || errno != EINVAL)
        SKIP("it takes a /proc that cannot be synced");
    close(proc);
    CHECK_OK(kv_dir_open(&dir, &kv_os_posix, "/proc/self", true, &err), &err);
    kv_dir_close(&dir);
}

/* ---- What is opened -------------------------------------------------------------------------- */

static void test_symbolic_links_are_refused(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    touch(scratch_path(&s, "target"));
    CHECK_EQ(symlink("../target", scratch_path(&s, "d/link")), 0);
    CHECK_EQ(symlink("../nowhere", scratch_path(&s, "d/dangling")), 0);
    const char *names[] = {"link", "dangling"};
    for (int i = 0; i < 2; i++) {
        check_refused(&dir, names[i], KV_OPEN_READ, ELOOP);
        check_refused(&dir, names[i], KV_OPEN_WRITE, ELOOP);
        check_refused(&dir, names[i], KV_OPEN_CREATE, ELOOP);
        check_refused(&dir, names[i], KV_OPEN_EXCLUSIVE, EEXIST);
    }
    CHECK_EQ(access(scratch_path(&s, "nowhere"), F_OK), -1);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_other_than_regular_files_are_refused(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    CHECK_EQ(mkdir(scratch_path(&s, "dir"), 0700), 0);
    CHECK_EQ(mkfifo(scratch_path(&s, "fifo"), 0600), 0);
    alarm(10); /* opening a FIFO could wait for ever */
    check_refused(&dir, "dir", KV_OPEN_READ, EISDIR);
    check_refused(&dir, "dir", KV_OPEN_CREATE, EISDIR);
    check_refused(&dir, "fifo", KV_OPEN_READ, ENXIO);
    check_refused(&dir, "fifo", KV_OPEN_WRITE, ENXIO);
    check_refused(&dir, "fifo", KV_OPEN_CREATE, ENXIO);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_missing_and_existing(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = {.fd = 5};
    CHECK_STATUS(kv_file_open(&file, &dir, "f", KV_OPEN_READ, &err), KV_NOTFOUND, &err);
    CHECK_STATUS(kv_file_open(&file, &dir, "f", KV_OPEN_WRITE, &err), KV_NOTFOUND, &err);
    CHECK_EQ(file.fd, -1);
    CHECK_EQ(access(scratch_path(&s, "f"), F_OK), -1);
    CHECK_STATUS(kv_dir_unlink(&dir, "f", &err), KV_NOTFOUND, &err);
    CHECK_STATUS(kv_dir_rename(&dir, "f", "g", &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOENT);

    file = file_opened(&dir, "f", KV_OPEN_EXCLUSIVE);
    kv_file_close(&file);
    check_refused(&dir, "f", KV_OPEN_EXCLUSIVE, EEXIST);
    file = file_opened(&dir, "f", KV_OPEN_CREATE);
    kv_file_close(&file);

    CHECK_OK(kv_dir_rename(&dir, "f", "g", &err), &err);
    CHECK_EQ(access(scratch_path(&s, "f"), F_OK), -1);
    CHECK_OK(kv_dir_unlink(&dir, "g", &err), &err);
    CHECK_EQ(access(scratch_path(&s, "g"), F_OK), -1);
    CHECK_OK(kv_dir_sync(&dir, &err), &err);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_reader_cannot_write(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    touch(scratch_path(&s, "f"));
    kv_file file = file_opened(&dir, "f", KV_OPEN_READ);
    CHECK_STATUS(kv_file_write(&file, "x", 1, 0, NULL, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, EBADF);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

/* ---- Directories ----------------------------------------------------------------------------- */

static void test_directory_that_is_a_file(void) {
    scratch s = scratch_make();
    touch(scratch_path(&s, "f"));
    kv_dir dir = {.fd = 5};
    for (int create = 0; create < 2; create++) {
        const char *path = scratch_path(&s, "f");
        CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, path, create, &err), KV_ERR_IO, &err);
        CHECK_EQ(err.sys_errno, ENOTDIR);
        CHECK_STR(err.path, path);
        CHECK_CONTAINS(err.message, "a store is a directory");
        CHECK_EQ(dir.fd, -1);
    }
    scratch_remove(&s);
}

static void test_directory_that_is_missing(void) {
    scratch s = scratch_make();
    kv_dir dir = KV_DIR_CLOSED;
    const char *path = scratch_path(&s, "d");
    CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, path, false, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOENT);
    CHECK_STR(err.path, path);
    CHECK_EQ(access(path, F_OK), -1);
    path = scratch_path(&s, "no/parent");
    CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, path, true, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOENT);
    CHECK_EQ(symlink("nowhere", scratch_path(&s, "dangling")), 0);
    path = scratch_path(&s, "dangling");
    CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, path, true, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOENT);
    CHECK_EQ(access(scratch_path(&s, "nowhere"), F_OK), -1);
    scratch_remove(&s);
}

static void identity_of(const kv_dir *dir, uint64_t identity[2]) {
    CHECK_EQ(dir->os->identity(dir->os->ctx, dir->fd, NULL, identity), 0);
}

static void test_ways_to_name_a_directory(void) {
    scratch s = scratch_make();
    kv_dir plain = dir_opened(&kv_os_posix, scratch_path(&s, "d/"));
    CHECK_EQ(symlink("d", scratch_path(&s, "link")), 0);
    kv_dir linked = dir_opened(&kv_os_posix, scratch_path(&s, "link"));
    kv_dir other = dir_opened(&kv_os_posix, scratch_path(&s, "other"));
    CHECK_EQ(chdir(s.path), 0);
    kv_dir relative = dir_opened(&kv_os_posix, "d");
    kv_dir relative_new = dir_opened(&kv_os_posix, "new");
    uint64_t wanted[2], got[2];
    identity_of(&plain, wanted);
    identity_of(&linked, got);
    CHECK_MEM(got, wanted, sizeof got);
    identity_of(&relative, got);
    CHECK_MEM(got, wanted, sizeof got);
    identity_of(&other, got);
    CHECK(memcmp(got, wanted, sizeof got) != 0);
    CHECK_EQ(mode_of(scratch_path(&s, "new")), 0700);
    kv_dir_close(&relative_new);
    kv_dir_close(&relative);
    kv_dir_close(&other);
    kv_dir_close(&linked);
    kv_dir_close(&plain);
    scratch_remove(&s);
}

#if defined(__linux__)

/* Takes the place of the C library's: passes it on, and remembers what was synced last. */
static struct stat last_synced;
static int fsync_errno; /* 0: succeed */

int fsync(int fd) {
    CHECK_EQ(fstat(fd, &last_synced), 0);
    if (fsync_errno == 0)
        return (int)syscall(SYS_fsync, fd);
    errno = fsync_errno;
    return -1;
}

static void check_synced_last(const char *path) {
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK(st.st_dev == last_synced.st_dev && st.st_ino == last_synced.st_ino);
    memset(&last_synced, 0, sizeof last_synced);
}

/* Whoever made the directory (a process that died before it synced, say): with `create` its name
 * is durable before anything is written into it. */
static void test_the_name_of_a_directory_is_synced(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    check_synced_last(s.path);
    kv_dir_close(&dir);
    dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    check_synced_last(s.path);
    kv_dir_close(&dir);

    /* The parent is that of the directory, not of the path that led to it. */
    CHECK_EQ(mkdir(scratch_path(&s, "links"), 0700), 0);
    CHECK_EQ(symlink("../d", scratch_path(&s, "links/d")), 0);
    dir = dir_opened(&kv_os_posix, scratch_path(&s, "links/d"));
    check_synced_last(s.path);
    CHECK_OK(kv_dir_sync(&dir, &err), &err);
    check_synced_last(scratch_path(&s, "d"));
    kv_dir_close(&dir);

    CHECK_OK(kv_dir_open(&dir, &kv_os_posix, scratch_path(&s, "d"), false, &err), &err);
    CHECK_EQ(last_synced.st_ino, 0); /* without `create` nothing is touched */
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_a_directory_that_cannot_be_synced(void) {
    scratch s = scratch_make();
    kv_dir dir = KV_DIR_CLOSED;
    fsync_errno = EIO;
    for (int existing = 0; existing < 2; existing++) {
        const char *path = scratch_path(&s, existing ? "existing" : "new");
        if (existing)
            CHECK_EQ(mkdir(path, 0700), 0);
        CHECK_STATUS(kv_dir_open(&dir, &kv_os_posix, path, true, &err), KV_ERR_IO, &err);
        CHECK_EQ(err.sys_errno, EIO);
        CHECK_EQ(access(path, F_OK), existing ? 0 : -1); /* ours goes, another's stays */
    }
    fsync_errno = 0;
    scratch_remove(&s);
}

#else

static void test_the_name_of_a_directory_is_synced(void) {
    SKIP("fsync() cannot be replaced on this system");
}

static void test_a_directory_that_cannot_be_synced(void) {
    SKIP("fsync() cannot be replaced on this system");
}

#endif

static void test_joined_names(void) {
    kv_dir dir = KV_DIR_CLOSED;
    char path[KV_ERROR_PATH_SIZE];
    strcpy(dir.path, "a/b");
    kv_dir_join(&dir, "c", path);
    CHECK_STR(path, "a/b/c");
    strcpy(dir.path, "/");
    kv_dir_join(&dir, "c", path);
    CHECK_STR(path, "/c");
    memset(dir.path, 'd', sizeof dir.path);
    dir.path[sizeof dir.path - 1] = '\0';
    kv_dir_join(&dir, "c", path);
    CHECK_EQ(strlen(path), KV_ERROR_PATH_SIZE - 1);
}

typedef struct names_seen {
    int count, stop_after;
    bool a, b, other;
} names_seen;

static bool see_name(void *arg, const char *name) {
    names_seen *seen = arg;
    seen->a |= strcmp(name, "a") == 0;
    seen->b |= strcmp(name, "b") == 0;
    seen->other |= strcmp(name, "a") != 0 && strcmp(name, "b") != 0;
    return ++seen->count != seen->stop_after;
}

static void test_listing(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    touch(scratch_path(&s, "a"));
    touch(scratch_path(&s, "b"));
    for (int round = 0; round < 2; round++) { /* a second time: the position is not kept */
        names_seen seen = {0};
        CHECK_EQ(kv_os_posix.dir_list(NULL, dir.fd, see_name, &seen), 0);
        CHECK(seen.a && seen.b && !seen.other && seen.count == 2);
    }
    names_seen seen = {.stop_after = 1};
    CHECK_EQ(kv_os_posix.dir_list(NULL, dir.fd, see_name, &seen), 0);
    CHECK_EQ(seen.count, 1);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_descriptors_are_not_inherited(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    kv_dir again = dir_opened(&kv_os_posix, scratch_path(&s, "d"));
    kv_file made = file_opened(&dir, "f", KV_OPEN_CREATE);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    int fds[] = {dir.fd, again.fd, made.fd, file.fd};
    for (int i = 0; i < 4; i++)
        CHECK(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
    kv_file_close(&file);
    kv_file_close(&made);
    kv_dir_close(&again);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

/* ---- Transfers ------------------------------------------------------------------------------- */

static void test_transfers(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    uint8_t wanted[1000], got[2000];
    check_random random = random_stream(1);
    random_fill(&random, wanted, sizeof wanted);

    size_t count = 99;
    CHECK_OK(kv_file_read(&file, got, sizeof got, 0, &count, &err), &err);
    CHECK_EQ(count, 0);
    CHECK_OK(kv_file_write(&file, wanted, sizeof wanted, 100, &count, &err), &err);
    CHECK_EQ(count, sizeof wanted);
    uint64_t size = 0;
    CHECK_OK(kv_file_size(&file, &size, &err), &err);
    CHECK_EQ(size, 1100);
    CHECK_OK(kv_file_read(&file, got, sizeof got, 100, &count, &err), &err);
    CHECK_EQ(count, sizeof wanted);
    CHECK_MEM(got, wanted, sizeof wanted);
    CHECK_OK(kv_file_read(&file, got, 100, 0, &count, &err), &err);
    CHECK_EQ(count, 100);
    CHECK_EQ(got[0] | got[99], 0); /* a hole */

    CHECK_OK(kv_file_truncate(&file, 600, &err), &err);
    CHECK_OK(kv_file_read(&file, got, sizeof got, 500, &count, &err), &err);
    CHECK_EQ(count, 100);
    CHECK_OK(kv_file_sync(&file, &err), &err);
    CHECK_OK(kv_file_write(&file, NULL, 0, 0, NULL, &err), &err);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_zeros(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    enum { SIZE = 200001 };
    uint8_t *bytes = malloc(SIZE + 2);
    memset(bytes, 'x', SIZE + 2);
    CHECK_OK(kv_file_write(&file, bytes, SIZE + 2, 0, NULL, &err), &err);
    CHECK_OK(kv_file_write_zeros(&file, SIZE, 1, &err), &err);
    size_t count = 0;
    CHECK_OK(kv_file_read(&file, bytes, SIZE + 2, 0, &count, &err), &err);
    CHECK_EQ(bytes[0], 'x');
    CHECK_EQ(bytes[SIZE + 1], 'x');
    for (size_t i = 1; i <= SIZE; i++)
        CHECK_EQ(bytes[i], 0);
    free(bytes);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_offsets_beyond_the_system(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    uint64_t far = UINT64_C(1) << 63;
    uint8_t byte = 0;
    size_t count = 0;
    CHECK_STATUS(kv_file_read(&file, &byte, 1, far, &count, &err), KV_ERR_IO, &err);
    CHECK_STATUS(kv_file_write(&file, &byte, 1, far, NULL, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, EFBIG);
    CHECK_STATUS(kv_file_truncate(&file, far, &err), KV_ERR_IO, &err);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

/* ---- Locks ----------------------------------------------------------------------------------- */

static void test_locks(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file a = file_opened(&dir, "lock", KV_OPEN_CREATE);
    kv_file b = file_opened(&dir, "lock", KV_OPEN_CREATE);
    CHECK_OK(kv_file_lock(&a, false, &err), &err);
    CHECK_STATUS(kv_file_lock(&b, false, &err), KV_BUSY, &err);
    CHECK_STATUS(kv_file_lock(&b, true, &err), KV_BUSY, &err);
    kv_file_close(&a);
    CHECK_OK(kv_file_lock(&b, true, &err), &err);
    a = file_opened(&dir, "lock", KV_OPEN_READ);
    CHECK_OK(kv_file_lock(&a, true, &err), &err);
    kv_file c = file_opened(&dir, "lock", KV_OPEN_READ);
    CHECK_STATUS(kv_file_lock(&c, false, &err), KV_BUSY, &err);
    /* Closing another descriptor of the file gives up nothing. */
    kv_file_close(&c);
    c = file_opened(&dir, "lock", KV_OPEN_READ);
    CHECK_STATUS(kv_file_lock(&c, false, &err), KV_BUSY, &err);
    kv_file_close(&c);
    kv_file_close(&b);
    kv_file_close(&a);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static int status_in_another_process(const kv_dir *dir) {
    pid_t pid = fork();
    if (pid == 0) {
        kv_file file = file_opened(dir, "lock", KV_OPEN_CREATE);
        _exit(kv_file_lock(&file, false, &err) == KV_BUSY ? 10 : 20);
    }
    int wait_status = 0;
    CHECK_EQ(waitpid(pid, &wait_status, 0), pid);
    return WEXITSTATUS(wait_status);
}

static void test_locks_between_processes(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = file_opened(&dir, "lock", KV_OPEN_CREATE);
    CHECK_OK(kv_file_lock(&file, false, &err), &err);
    CHECK_EQ(status_in_another_process(&dir), 10);
    kv_file_close(&file);
    CHECK_EQ(status_in_another_process(&dir), 20);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_random_bytes(void) {
    uint8_t a[1000] = {0}, b[1000] = {0};
    CHECK_EQ(kv_os_posix.random(NULL, a, sizeof a), 0);
    CHECK_EQ(kv_os_posix.random(NULL, b, sizeof b), 0);
    /* Each part of 32 bytes differs; 2^-256 that it does not by chance. */
    for (size_t i = 0; i + 32 <= sizeof a; i += 32)
        CHECK(memcmp(a + i, b + i, 32) != 0);
    CHECK(memcmp(a + sizeof a - 32, b + sizeof b - 32, 32) != 0);
}

/* ---- Failures -------------------------------------------------------------------------------- */

typedef struct world {
    scratch scratch;
    fault_os *faults;
    kv_dir dir;
    kv_file file; /* "f", 100 bytes of 'x' */
} world;

static world world_make(void) {
    world w = {.scratch = scratch_make(), .faults = fault_os_create(&kv_os_posix)};
    w.dir = dir_opened(fault_os_table(w.faults), w.scratch.path);
    return w;
}

static void world_open_file(world *w) {
    w->file = file_opened(&w->dir, "f", KV_OPEN_CREATE);
    uint8_t bytes[100];
    memset(bytes, 'x', sizeof bytes);
    CHECK_OK(kv_file_write(&w->file, bytes, sizeof bytes, 0, NULL, &err), &err);
}

static void world_end(world *w) {
    kv_file_close(&w->file);
    kv_dir_close(&w->dir);
    fault_os_destroy(w->faults);
    scratch_remove(&w->scratch);
}

/* One operation through file.c that makes one call of this kind. */
static kv_status perform(world *w, fault_call call) {
    uint8_t buffer[100] = {0};
    uint64_t size;
    size_t got;
    kv_file other = KV_FILE_CLOSED;
    kv_dir dir = KV_DIR_CLOSED;
    kv_status status = KV_OK;
    switch (call) {
    case FAULT_DIR_OPEN:
        status = kv_dir_open(&dir, fault_os_table(w->faults), w->scratch.path, true, &err);
        kv_dir_close(&dir);
        return status;
    case FAULT_DIR_SYNC:
        return kv_dir_sync(&w->dir, &err);
    case FAULT_OPEN:
        status = kv_file_open(&other, &w->dir, "f", KV_OPEN_CREATE, &err);
        kv_file_close(&other);
        return status;
    case FAULT_SIZE:
        return kv_file_size(&w->file, &size, &err);
    case FAULT_READ:
        return kv_file_read(&w->file, buffer, sizeof buffer, 0, &got, &err);
    case FAULT_WRITE:
        return kv_file_write(&w->file, buffer, sizeof buffer, 0, NULL, &err);
    case FAULT_SYNC:
        return kv_file_sync(&w->file, &err);
    case FAULT_TRUNCATE:
        return kv_file_truncate(&w->file, 50, &err);
    case FAULT_RENAME:
        return kv_dir_rename(&w->dir, "f", "f", &err);
    case FAULT_UNLINK:
        return kv_dir_unlink(&w->dir, "f", &err);
    case FAULT_LOCK:
        return kv_file_lock(&w->file, false, &err);
    default:
        FAIL("%s is not reached through file.c", fault_call_name(call));
    }
}

static const fault_call retried[] = {FAULT_DIR_OPEN, FAULT_OPEN,   FAULT_SIZE,
                                     FAULT_READ,     FAULT_WRITE,  FAULT_TRUNCATE,
                                     FAULT_RENAME,   FAULT_UNLINK, FAULT_LOCK};
static const fault_call not_retried[] = {FAULT_DIR_SYNC, FAULT_SYNC};

#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

static void test_interrupted_calls_are_repeated(void) {
    for (size_t i = 0; i < COUNT_OF(retried); i++) {
        world w = world_make();
        world_open_file(&w);
        uint64_t before = fault_os_calls(w.faults, retried[i]);
        /* Rules are counted from now, each for itself: the next call and the one after it. */
        fault_os_fail(w.faults, retried[i], 1, EINTR, 0);
        fault_os_fail(w.faults, retried[i], 2, EINTR, 0);
        CHECK_OK(perform(&w, retried[i]), &err);
        CHECK_EQ(fault_os_calls(w.faults, retried[i]) - before, 3);
        world_end(&w);
    }
}

/* Not for ever: then it has failed like any other. */
static void test_calls_that_are_always_interrupted(void) {
    for (size_t i = 0; i < COUNT_OF(retried); i++) {
        world w = world_make();
        world_open_file(&w);
        fault_os_fail(w.faults, retried[i], 1, EINTR, FAULT_FOREVER);
        CHECK_STATUS(perform(&w, retried[i]), KV_ERR_IO, &err);
        CHECK_EQ(err.sys_errno, EINTR);
        fault_os_heal(w.faults);
        world_end(&w);
    }
}

/* A sync that failed, for whatever reason, is never tried again: a second one could succeed
 * without having written what the first one lost. */
static void test_failed_syncs_are_not_repeated(void) {
    static const int numbers[] = {EIO, EINTR, EAGAIN, ENOSPC};
    for (size_t i = 0; i < COUNT_OF(not_retried) * COUNT_OF(numbers); i++) {
        fault_call call = not_retried[i / COUNT_OF(numbers)];
        int number = numbers[i % COUNT_OF(numbers)];
        world w = world_make();
        world_open_file(&w);
        uint64_t before = fault_os_calls(w.faults, call);
        fault_os_fail(w.faults, call, 1, number, 0);
        /* Also for want of space: it is not "undone", as KV_ERR_NOSPACE says. */
        CHECK_STATUS(perform(&w, call), KV_ERR_IO, &err);
        CHECK_EQ(err.sys_errno, number);
        CHECK_EQ(fault_os_calls(w.faults, call) - before, 1);
        world_end(&w);
    }
}

/* Every operation tells what failed, where and with which number, and is not repeated. */
static void test_failures_are_told(void) {
    static const int numbers[] = {EIO, ENOSPC, EDQUOT, ENOMEM, EACCES};
    static const kv_status statuses[] = {KV_ERR_IO, KV_ERR_NOSPACE, KV_ERR_NOSPACE, KV_ERR_NOMEM,
                                         KV_ERR_IO};
    for (size_t i = 0; i < COUNT_OF(retried) + COUNT_OF(not_retried); i++) {
        fault_call call = i < COUNT_OF(retried) ? retried[i] : not_retried[i - COUNT_OF(retried)];
        for (size_t j = 0; j < COUNT_OF(numbers); j++) {
            world w = world_make();
            world_open_file(&w);
            uint64_t before = fault_os_calls(w.faults, call);
            fault_os_fail(w.faults, call, 1, numbers[j], 0);
            memset(&err, 'x', sizeof err);
            bool sync = call == FAULT_DIR_SYNC || call == FAULT_SYNC;
            kv_status wanted = sync ? KV_ERR_IO : statuses[j];
            CHECK_STATUS(perform(&w, call), wanted, &err);
            CHECK_EQ(fault_os_calls(w.faults, call) - before, 1);
            CHECK_EQ(err.status, wanted);
            CHECK_EQ(err.sys_errno, numbers[j]);
            bool of_directory = call == FAULT_DIR_OPEN || call == FAULT_DIR_SYNC;
            CHECK_STR(err.path, of_directory ? w.scratch.path : scratch_path(&w.scratch, "f"));
            CHECK_CONTAINS(err.message, "cannot ");
            CHECK(strstr(err.message, w.scratch.path) == NULL);
            world_end(&w);
        }
    }
}

static void test_no_error_wanted(void) {
    world w = world_make();
    world_open_file(&w);
    fault_os_fail(w.faults, FAULT_ANY, 1, EIO, FAULT_FOREVER);
    size_t got;
    CHECK_EQ(kv_file_read(&w.file, &got, 1, 0, &got, NULL), KV_ERR_IO);
    CHECK_EQ(kv_file_sync(&w.file, NULL), KV_ERR_IO);
    CHECK_EQ(kv_dir_rename(&w.dir, "f", "g", NULL), KV_ERR_IO);
    world_end(&w);
}

static void test_short_transfers_are_continued(void) {
    world w = world_make();
    world_open_file(&w);
    uint8_t wanted[1000], got[1100];
    check_random random = random_stream(2);
    random_fill(&random, wanted, sizeof wanted);
    fault_os_limit(w.faults, 7);
    uint64_t writes = fault_os_calls(w.faults, FAULT_WRITE);
    fault_os_fail(w.faults, FAULT_WRITE, 5, EINTR, 0);
    size_t count = 0;
    CHECK_OK(kv_file_write(&w.file, wanted, sizeof wanted, 3, &count, &err), &err);
    CHECK_EQ(count, sizeof wanted);
    CHECK_EQ(fault_os_calls(w.faults, FAULT_WRITE) - writes, (1000 + 6) / 7 + 1);
    fault_os_fail(w.faults, FAULT_READ, 5, EINTR, 0);
    CHECK_OK(kv_file_read(&w.file, got, sizeof got, 3, &count, &err), &err);
    CHECK_EQ(count, sizeof wanted);
    CHECK_MEM(got, wanted, sizeof wanted);
    CHECK_OK(kv_file_write_zeros(&w.file, 500, 3, &err), &err);
    CHECK_OK(kv_file_read(&w.file, got, sizeof got, 3, &count, &err), &err);
    CHECK_EQ(got[0] | got[499], 0);
    CHECK_MEM(got + 500, wanted + 500, sizeof wanted - 500);
    world_end(&w);
}

static void test_transfer_that_fails_halfway(void) {
    world w = world_make();
    world_open_file(&w);
    uint8_t bytes[100] = {0};
    fault_os_limit(w.faults, 10);
    fault_os_fail(w.faults, FAULT_WRITE, 3, ENOSPC, 0);
    size_t count = 0;
    CHECK_STATUS(kv_file_write(&w.file, bytes, sizeof bytes, 1000, &count, &err), KV_ERR_NOSPACE,
                 &err);
    CHECK_EQ(count, 20);
    CHECK_EQ(err.offset, 1020);
    uint64_t size = 0;
    CHECK_OK(kv_file_size(&w.file, &size, &err), &err);
    CHECK_EQ(size, 1020);
    fault_os_fail(w.faults, FAULT_READ, 3, EIO, 0);
    CHECK_STATUS(kv_file_read(&w.file, bytes, sizeof bytes, 0, &count, &err), KV_ERR_IO, &err);
    CHECK_EQ(count, 20);
    CHECK_EQ(err.offset, 20);
    fault_os_fail(w.faults, FAULT_WRITE, 3, EIO, 0);
    CHECK_STATUS(kv_file_write_zeros(&w.file, 100, 0, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.offset, 20);
    world_end(&w);
}

static int64_t write_nothing(void *ctx, int file, const void *buffer, size_t size,
                             uint64_t offset) {
    (void)ctx, (void)file, (void)buffer, (void)size, (void)offset;
    return 0;
}

/* ---- Direct I/O ------------------------------------------------------------------------------- */

enum { DIRECT_SIZE = 5 * 4096 };

/* A buffer of random bytes, aligned to what any file may ask for.  Freed by the caller. */
static uint8_t *direct_bytes(uint64_t stream) {
    void *bytes;
    check_random random = random_stream(stream);
    CHECK_EQ(posix_memalign(&bytes, 4096, DIRECT_SIZE), 0);
    random_fill(&random, bytes, DIRECT_SIZE);
    return bytes;
}

/* The file as somebody else reads it. */
static void check_read(const kv_dir *dir, const uint8_t *wanted, size_t size) {
    static uint8_t got[DIRECT_SIZE + 1];
    size_t count = 0;
    kv_file file = file_opened(dir, "f", KV_OPEN_READ);
    CHECK_OK(kv_file_read(&file, got, sizeof got, 0, &count, &err), &err);
    CHECK_EQ(count, size);
    CHECK_MEM(got, wanted, size);
    kv_file_close(&file);
}

/* The real system, which may have it or not; turned on twice, and off. */
static void test_direct_writes(void) {
    scratch s = scratch_make();
    kv_dir dir = dir_opened(&kv_os_posix, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    uint8_t *bytes = direct_bytes(3);
    kv_file_set_direct(&file);
    kv_file_set_direct(&file);
    printf("# alignment of direct I/O here: %u\n", file.direct);
    CHECK((file.direct & (file.direct - 1)) == 0 && file.direct <= KV_DIRECT_ALIGNMENT_MAX);
    CHECK_OK(kv_file_write_blocks(&file, bytes, DIRECT_SIZE, 0, NULL, &err), &err);
    CHECK_OK(kv_file_write_blocks(&file, bytes, 4096, 8192, NULL, &err), &err);
    CHECK_OK(kv_file_sync(&file, &err), &err);
    memcpy(bytes + 8192, bytes, 4096);
    check_read(&dir, bytes, DIRECT_SIZE);
    CHECK_OK(kv_file_clear_direct(&file, &err), &err);
    CHECK_EQ(file.direct, 0);
    bytes[77] ^= 1;
    CHECK_OK(kv_file_write(&file, bytes + 77, 1, 77, NULL, &err), &err);
    check_read(&dir, bytes, DIRECT_SIZE);
    free(bytes);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

typedef struct simulated {
    memory_os *memory;
    fault_os *faults;
    kv_dir dir;
    kv_file file;
    uint8_t *bytes;
} simulated;

static simulated simulated_make(unsigned alignment) {
    simulated s = {.memory = memory_os_create(check_seed)};
    memory_os_set_direct(s.memory, alignment);
    s.faults = fault_os_create(memory_os_table(s.memory));
    s.bytes = direct_bytes(4);
    return s;
}

static void simulated_open(simulated *s) {
    s->dir = dir_opened(fault_os_table(s->faults), "d");
    s->file = file_opened(&s->dir, "f", KV_OPEN_CREATE);
    kv_file_set_direct(&s->file);
}

static void simulated_end(simulated *s) {
    kv_file_close(&s->file);
    kv_dir_close(&s->dir);
    CHECK_EQ(memory_os_open_count(s->memory), 0);
    fault_os_destroy(s->faults);
    memory_os_destroy(s->memory);
    free(s->bytes);
}

/* Whatever keeps it from being turned on: the file is written all the same, and an interrupted call repeated. */
static void test_direct_is_not_there(void) {
    static const int errors[] = {EOPNOTSUPP, EINVAL, EIO, EINTR, 0};
    for (size_t i = 0; i < COUNT_OF(errors); i++) {
        simulated s = simulated_make(errors[i] == 0 ? 0 : 512);
        if (errors[i] != 0)
            fault_os_fail(s.faults, FAULT_DIRECT, 1, errors[i], 0);
        simulated_open(&s);
        CHECK_EQ(s.file.direct, errors[i] == EINTR ? 512 : 0);
        CHECK_OK(kv_file_write_blocks(&s.file, s.bytes, 1024, 0, NULL, &err), &err);
        check_read(&s.dir, s.bytes, 1024);
        simulated_end(&s);
    }
    scratch s = scratch_make();
    kv_os os = kv_os_posix;
    os.direct = NULL;
    kv_dir dir = dir_opened(&os, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    kv_file_set_direct(&file);
    CHECK_EQ(file.direct, 0);
    CHECK_OK(kv_file_clear_direct(&file, &err), &err);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

/* Short ones end anywhere; those that do not get a block further end direct I/O. */
static void test_short_direct_writes(void) {
    static const size_t limits[] = {1, 511, 512, 513, 1000, 4095, 4096, 4097, DIRECT_SIZE - 1};
    for (unsigned alignment = 512; alignment <= 4096; alignment *= 8)
        for (size_t i = 0; i < COUNT_OF(limits); i++) {
            simulated s = simulated_make(alignment);
            simulated_open(&s);
            fault_os_limit(s.faults, limits[i]);
            fault_os_fail(s.faults, FAULT_WRITE, 2, EINTR, 0);
            size_t done = 0;
            CHECK_OK(kv_file_write_blocks(&s.file, s.bytes, DIRECT_SIZE, 0, &done, &err), &err);
            CHECK_EQ(done, DIRECT_SIZE);
            CHECK_EQ(s.file.direct, limits[i] >= alignment ? alignment : 0);
            check_read(&s.dir, s.bytes, DIRECT_SIZE);
            simulated_end(&s);
        }
}

/* The system goes back on its word at the first write, or later. */
static void test_direct_writes_are_refused(void) {
    for (uint64_t nth = 1; nth <= 3; nth++) {
        simulated s = simulated_make(512);
        simulated_open(&s);
        fault_os_limit(s.faults, 1024);
        fault_os_fail(s.faults, FAULT_WRITE, nth, EINVAL, 0);
        CHECK_OK(kv_file_write_blocks(&s.file, s.bytes, DIRECT_SIZE, 0, NULL, &err), &err);
        CHECK_EQ(s.file.direct, 0);
        check_read(&s.dir, s.bytes, DIRECT_SIZE);
        CHECK_OK(kv_file_write(&s.file, "x", 1, 3, NULL, &err), &err); /* it is really off */
        simulated_end(&s);
    }
}

/* How far a failed write came, as far as it is known; and a fallback that fails. */
static void test_direct_write_that_fails_halfway(void) {
    simulated s = simulated_make(512);
    simulated_open(&s);
    size_t done = 0;
    fault_os_limit(s.faults, 700);
    fault_os_fail(s.faults, FAULT_WRITE, 3, ENOSPC, 0);
    CHECK_STATUS(kv_file_write_blocks(&s.file, s.bytes, 2048, 512, &done, &err), KV_ERR_NOSPACE,
                 &err);
    CHECK_EQ(done, 512 + 700);
    CHECK_EQ(err.offset, 512 + 1024);
    CHECK_EQ(s.file.direct, 512);
    fault_os_fail(s.faults, FAULT_WRITE, 1, EINVAL, 0);
    fault_os_fail(s.faults, FAULT_DIRECT, 1, EIO, 0);
    CHECK_STATUS(kv_file_write_blocks(&s.file, s.bytes, 2048, 0, &done, &err), KV_ERR_IO, &err);
    CHECK_EQ(done, 0);
    CHECK_EQ(s.file.direct, 512);
    fault_os_fail(s.faults, FAULT_WRITE, 1, EINVAL, 0);
    fault_os_fail(s.faults, FAULT_WRITE, 2, EIO, 0);
    CHECK_STATUS(kv_file_write_blocks(&s.file, s.bytes, 2048, 0, &done, &err), KV_ERR_IO, &err);
    CHECK_EQ(done, 0);
    CHECK_EQ(s.file.direct, 0);
    simulated_end(&s);
}

static void test_write_without_progress(void) {
    scratch s = scratch_make();
    kv_os os = kv_os_posix;
    os.write = write_nothing;
    kv_dir dir = dir_opened(&os, s.path);
    kv_file file = file_opened(&dir, "f", KV_OPEN_CREATE);
    size_t count = 99;
    CHECK_STATUS(kv_file_write(&file, "x", 1, 0, &count, &err), KV_ERR_IO, &err);
    CHECK_EQ(count, 0);
    kv_file_close(&file);
    kv_dir_close(&dir);
    scratch_remove(&s);
}

static void test_closing_twice(void) {
    world w = world_make();
    world_open_file(&w);
    uint64_t before = fault_os_calls(w.faults, FAULT_CLOSE);
    kv_file_close(&w.file);
    kv_file_close(&w.file);
    kv_dir_close(&w.dir);
    kv_dir_close(&w.dir);
    CHECK_EQ(fault_os_calls(w.faults, FAULT_CLOSE) - before, 2);
    world_end(&w);
}

CHECK_MAIN(TEST(test_modes_under_any_umask), TEST(test_modes_without_privileges),
           TEST(test_modes_of_others_are_kept), TEST(test_parent_that_cannot_be_listed),
           TEST(test_parent_that_has_no_sync),
           TEST(test_symbolic_links_are_refused), TEST(test_other_than_regular_files_are_refused),
           TEST(test_missing_and_existing), TEST(test_reader_cannot_write),
           TEST(test_directory_that_is_a_file), TEST(test_directory_that_is_missing),
           TEST(test_ways_to_name_a_directory), TEST(test_the_name_of_a_directory_is_synced),
           TEST(test_a_directory_that_cannot_be_synced), TEST(test_joined_names), TEST(test_listing),
           TEST(test_descriptors_are_not_inherited), TEST(test_transfers), TEST(test_zeros),
           TEST(test_offsets_beyond_the_system), TEST(test_locks),
           TEST(test_locks_between_processes), TEST(test_random_bytes),
           TEST(test_direct_writes), TEST(test_direct_is_not_there), TEST(test_short_direct_writes),
           TEST(test_direct_writes_are_refused), TEST(test_direct_write_that_fails_halfway),
           TEST(test_interrupted_calls_are_repeated),
           TEST(test_calls_that_are_always_interrupted), TEST(test_failed_syncs_are_not_repeated),
           TEST(test_failures_are_told), TEST(test_no_error_wanted),
           TEST(test_short_transfers_are_continued), TEST(test_transfer_that_fails_halfway),
           TEST(test_write_without_progress), TEST(test_closing_twice))
