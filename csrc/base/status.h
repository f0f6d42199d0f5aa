/* status.h - what a call can answer, and the error that travels with a failure.
 *
 * Layer: base (a leaf).
 *
 * A kv_status is < 0 for a failure, 0 for done, > 0 for an ordinary other outcome.  A failing
 * function fills the caller's kv_error once, where the failure is seen; those above it only pass
 * it on.  A kv_error is a plain struct: failing never allocates.
 *
 * One row of KV_STATUS_TABLE is the enum, the name, the text of the documentation, and (in
 * python/raise.c) the exception.
 */
#ifndef KV_BASE_STATUS_H
#define KV_BASE_STATUS_H

#include <stddef.h>
#include <stdint.h>

/*      name              value  meaning */
#define KV_STATUS_TABLE(X)                                                                       \
    X(KV_OK,               0, "done")                                                            \
    X(KV_NOTFOUND,         1, "no such key, or nothing left")                                    \
    X(KV_UNCHANGED,        2, "the condition did not hold; nothing was changed")                 \
    X(KV_BUSY,             3, "KV_NOWAIT was given and the call would have had to wait")         \
    X(KV_ERR_NOMEM,       -1, "out of memory")                                                   \
    X(KV_ERR_IO,          -2, "a file operation failed")                                         \
    X(KV_ERR_NOSPACE,     -3, "no space on the device; the write was undone")                    \
    X(KV_ERR_FAILED,      -4, "an earlier write or sync failed; the store must be reopened")     \
    X(KV_ERR_CORRUPT,     -5, "stored bytes are damaged")                                        \
    X(KV_ERR_VERSION,     -6, "the store has a format that this version does not read")          \
    X(KV_ERR_LOCKED,      -7, "the store is open in another process")                            \
    X(KV_ERR_CLOSED,      -8, "the store is closed")                                             \
    X(KV_ERR_FORKED,      -9, "the store was opened before this process was forked")             \
    X(KV_ERR_READONLY,   -10, "the store was opened read-only")                                  \
    X(KV_ERR_LIMIT,      -11, "a key, a value or a batch is over the limit")                     \
    X(KV_ERR_INVALID,    -12, "an argument is not valid")                                        \
    X(KV_ERR_NOTINT,     -13, "the value is not an integer")                                     \
    X(KV_ERR_RANGE,      -14, "the result does not fit into 64 bits")                            \
    X(KV_ERR_MEMLIMIT,   -15, "the write would need more memory than max_memory")                \
    X(KV_ERR_CANCELLED,  -16, "the caller's progress function gave up")

typedef enum kv_status {
#define X(name, value, text) name = value,
    KV_STATUS_TABLE(X)
#undef X
} kv_status;

#if defined(__GNUC__)
#define KV_MUST_CHECK __attribute__((warn_unused_result))
#define KV_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define KV_MUST_CHECK
#define KV_PRINTF(f, a)
#endif

#define KV_ERROR_PATH_SIZE 1024
#define KV_ERROR_MESSAGE_SIZE 512

/* Owned by the caller; filled by the callee only when it returns a status < 0. */
typedef struct kv_error {
    kv_status status;
    int sys_errno;  /* the system's error number, or 0 */
    int64_t offset; /* byte offset in `path`, or -1 */
    int64_t pid;    /* KV_ERR_LOCKED: the owner's process id, or 0 if it is not known */
    char path[KV_ERROR_PATH_SIZE];       /* the file or directory concerned, or "" */
    char message[KV_ERROR_MESSAGE_SIZE]; /* one line, without the path */
} kv_error;

/* "KV_NOTFOUND", and the text of its row.  Static strings; "?" for a number that is none. */
const char *kv_status_name(kv_status status);
const char *kv_status_text(kv_status status);

/* Fills `err` (which may be NULL) and returns `status`, so that a failure is one statement:
 *     return kv_fail(err, KV_ERR_LIMIT, "a key has %zu bytes; ...", size);            */
kv_status kv_fail(kv_error *err, kv_status status, const char *format, ...) KV_PRINTF(3, 4);

/* The same for a failed system call: `sys_errno` > 0; status KV_ERR_NOSPACE for ENOSPC and
 * EDQUOT, KV_ERR_NOMEM for ENOMEM, KV_ERR_IO otherwise. */
kv_status kv_fail_sys(kv_error *err, int sys_errno, const char *path, const char *format, ...)
    KV_PRINTF(4, 5);

/* The same for damaged bytes in a file. */
kv_status kv_fail_corrupt(kv_error *err, const char *path, int64_t offset, const char *format,
                          ...) KV_PRINTF(4, 5);

/* KV_ERR_NOMEM with the size that could not be had. */
kv_status kv_fail_nomem(kv_error *err, size_t size_bytes);

#endif
