/* file.h - an open file or directory with its name, and whole transfers on it.
 *
 * Layer: os.  Here, and only here, EINTR is retried and a short transfer continued; a sync is never
 * retried (after a failed one the kernel may have dropped the bytes and answer the next with
 * success).  Failures carry the path.  But for open and close, the file or directory is open.
 */
#ifndef KV_OS_FILE_H
#define KV_OS_FILE_H

#include "os.h"

typedef struct kv_dir {
    const kv_os *os;
    int fd; /* -1: not open */
    char path[KV_ERROR_PATH_SIZE];
} kv_dir;

typedef struct kv_file {
    const kv_os *os;
    const kv_dir *dir; /* borrowed; outlives the file */
    int fd;            /* -1: not open */
    uint32_t direct;   /* alignment of direct I/O, see kv_file_set_direct; 0: it is off */
    char name[64];
} kv_file;

#define KV_DIR_CLOSED {.fd = -1}
#define KV_FILE_CLOSED {.fd = -1}

/* Opens the directory, and makes it first when `create` and missing.  A failure (also for a path
 * that is missing or a file) leaves it closed. */
kv_status kv_dir_open(kv_dir *dir, const kv_os *os, const char *path, bool create, kv_error *err)
    KV_MUST_CHECK;
void kv_dir_close(kv_dir *dir); /* closed already: nothing */

/* "DIR/NAME" into `path` (KV_ERROR_PATH_SIZE bytes, cut when longer). */
void kv_dir_join(const kv_dir *dir, const char *name, char *path);

/* Calls `visit` with each name in it; see kv_os. */
kv_status kv_dir_list(const kv_dir *dir, kv_name_visitor visit, void *arg, kv_error *err)
    KV_MUST_CHECK;
/* Unpredictable bytes, from the directory's system. */
kv_status kv_dir_random(const kv_dir *dir, void *bytes, size_t size, kv_error *err) KV_MUST_CHECK;
/* Any failure is KV_ERR_IO, also one for want of space. */
kv_status kv_dir_sync(const kv_dir *dir, kv_error *err) KV_MUST_CHECK;
kv_status kv_dir_rename(const kv_dir *dir, const char *from, const char *to, kv_error *err)
    KV_MUST_CHECK;
/* KV_NOTFOUND when there is no such name. */
kv_status kv_dir_unlink(const kv_dir *dir, const char *name, kv_error *err) KV_MUST_CHECK;

/* KV_NOTFOUND (and the file stays closed) when mode is READ or WRITE and there is no such name. */
kv_status kv_file_open(kv_file *file, const kv_dir *dir, const char *name, kv_open_mode mode,
                       kv_error *err) KV_MUST_CHECK;
void kv_file_close(kv_file *file);
kv_status kv_file_size(const kv_file *file, uint64_t *size_bytes, kv_error *err) KV_MUST_CHECK;
/* Whether it is the one that has its name now. */
kv_status kv_file_has_name(const kv_file *file, bool *has, kv_error *err) KV_MUST_CHECK;

/* Reads up to `size` bytes; `*got` is less only at the end of the file, or on failure. */
kv_status kv_file_read(const kv_file *file, void *buffer, size_t size, uint64_t offset,
                       size_t *got, kv_error *err) KV_MUST_CHECK;

/* Writes all.  On failure `*done` (may be NULL) says how many bytes reached the file. */
kv_status kv_file_write(const kv_file *file, const void *buffer, size_t size, uint64_t offset,
                        size_t *done, kv_error *err) KV_MUST_CHECK;
/* From now on the file is written past the page cache, if the system can: then file->direct > 0, and all reads and
 * writes must be aligned to it, in memory and in the file.  Otherwise nothing changes: no failure is reported,
 * since all that is lost is speed.  A sync is as necessary as before.  What was written through the page cache
 * should have been synced, or each direct write has to flush it.  Who reads the file through the page cache meanwhile
 * sees what was written. */
void kv_file_set_direct(kv_file *file);
/* Off again; a failure (which leaves it on) is one of the file. */
kv_status kv_file_clear_direct(kv_file *file, kv_error *err) KV_MUST_CHECK;

/* kv_file_write of whole blocks, for a file that may be direct: `buffer`, `size` and `offset` are multiples of
 * file->direct.  A write that ends within a block is gone on with from that block's start, so the bytes must stay
 * what they are.  If the system refuses it all the same, direct I/O is off afterwards (file->direct is 0), and the
 * rest is written through the page cache.  On failure `*done` says up to where bytes have reached the file; a
 * failed direct write may have left some behind that, too. */
kv_status kv_file_write_blocks(kv_file *file, const void *buffer, size_t size, uint64_t offset,
                               size_t *done, kv_error *err) KV_MUST_CHECK;

/* Makes the empty file `size` zero bytes long, its room reserved: at once where the system can, by
 * writing them where not. */
kv_status kv_file_reserve(const kv_file *file, uint64_t size, kv_error *err) KV_MUST_CHECK;
/* Writes `size` zero bytes. */
kv_status kv_file_write_zeros(const kv_file *file, uint64_t size, uint64_t offset, kv_error *err)
    KV_MUST_CHECK;
/* As kv_dir_sync. */
kv_status kv_file_sync(const kv_file *file, kv_error *err) KV_MUST_CHECK;
kv_status kv_file_truncate(const kv_file *file, uint64_t size, kv_error *err) KV_MUST_CHECK;
/* KV_BUSY: somebody else holds it. */
kv_status kv_file_lock(const kv_file *file, bool shared, kv_error *err) KV_MUST_CHECK;
void kv_file_unlock(const kv_file *file); /* not open: nothing */

#endif
