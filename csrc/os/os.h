/* os.h - the seam between pykv and the operating system's files.
 *
 * Layer: os (above base, below engine).  Every system call on a file or a directory goes through a
 * kv_os, so that a test can fail, tear, drop, delay and reorder each of them.  os_posix.c is the
 * real one.  Nothing here keeps state of its own.
 *
 * A function of the table does one thing and answers >= 0, or -errno; it does not retry and it may
 * do less than asked (EINTR and short transfers are dealt with above, in file.c).
 * Names are single components inside an open directory; symbolic links are refused there (ELOOP,
 * KV_OPEN_EXCLUSIVE: EEXIST), and so is all that is no regular file (EISDIR, ENXIO).
 * Files are made with mode 0600 and directories with 0700, whatever the umask.
 */
#ifndef KV_OS_OS_H
#define KV_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"

typedef struct kv_os kv_os; /* in kv.h, too */

typedef enum kv_open_mode {
    KV_OPEN_READ,      /* an existing file */
    KV_OPEN_WRITE,     /* an existing file, for reading and writing */
    KV_OPEN_CREATE,    /* for reading and writing, made if it is not there */
    KV_OPEN_EXCLUSIVE, /* for reading and writing, must not be there (EEXIST) */
} kv_open_mode;

#define KV_DIRECT_ALIGNMENT_MAX 4096u /* where more is needed, there is no direct I/O for us */

/* Called with each name in a directory but "." and ".."; true: go on. */
typedef bool (*kv_name_visitor)(void *arg, const char *name);

struct kv_os {
    void *ctx; /* first argument of all */

    /* The directory `path` (symbolic links allowed: it is the user's own path).  With `create` it
     * is made first when missing, and its name is durable afterwards, whoever made it (the parent
     * is synced; that of one that was there may be on a file system without syncs).  ENOTDIR when it is a file. */
    int (*dir_open)(void *ctx, const char *path, bool create);
    /* Of an open file or directory; or, with a name, of what is called so in the directory.  Equal: the same one. */
    int (*identity)(void *ctx, int fd, const char *name, uint64_t identity[2]);
    int (*dir_list)(void *ctx, int dir, kv_name_visitor visit, void *arg);
    int (*dir_sync)(void *ctx, int dir); /* names made, renamed and removed so far survive */

    int (*open)(void *ctx, int dir, const char *name, kv_open_mode mode);
    int (*close)(void *ctx, int file); /* of a file or a directory */
    int64_t (*size)(void *ctx, int file);
    int64_t (*read)(void *ctx, int file, void *buffer, size_t size, uint64_t offset);
    int64_t (*write)(void *ctx, int file, const void *buffer, size_t size, uint64_t offset);
    int (*sync)(void *ctx, int file); /* the bytes, and the size, survive */
    int (*truncate)(void *ctx, int file, uint64_t size);
    /* Makes the empty file `size` bytes long, zeros, its room reserved.  -EOPNOTSUPP, or NULL in the
     * table: this system cannot. */
    int (*reserve)(void *ctx, int file, uint64_t size);
    int (*rename)(void *ctx, int dir, const char *from, const char *to); /* replaces `to` */
    int (*unlink)(void *ctx, int dir, const char *name);
    int (*lock)(void *ctx, int file, bool shared); /* -EWOULDBLOCK: held elsewhere */
    /* Also for a forked child that has not closed its copy yet.  NULL in the table: closing does it. */
    int (*unlock)(void *ctx, int file);

    int (*random)(void *ctx, void *buffer, size_t size); /* fills it all; unpredictable */

    /* Ms since 1970 by the wall clock, which may be set to and fro.  NULL in the table: the system's. */
    uint64_t (*clock_ms)(void *ctx);
    /* Begins to write what was written of the range to the disk, and waits for what was begun before if
     * `wait`: so that a sync at the end finds little left.  A hint; NULL in the table: not done. */
    void (*write_back)(void *ctx, int file, uint64_t offset, uint64_t size, bool wait);
    /* Lets reads and writes of the open file pass the page cache by, or (`on` false) go through it again.  Answers
     * the alignment, in bytes, that they must keep from then on, in the buffer's address, in size and in offset: a
     * power of two up to KV_DIRECT_ALIGNMENT_MAX.  A write may still be refused (-EINVAL), or go through the page
     * cache after all, and it is durable after a sync, not before.  Others see it as any other.  -EOPNOTSUPP, or
     * NULL in the table: this system cannot. */
    int (*direct)(void *ctx, int file, bool on);
};

/* kv_os.clock_ms, or the system's clock where the table has none. */
uint64_t kv_os_clock_ms(const kv_os *os);

/* The operating system. */
extern const kv_os kv_os_posix;

#endif
