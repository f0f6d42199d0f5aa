/* status.c - see status.h.  Layer: base (a leaf).
 *
 * A message is built in a buffer of its own and copied last: the arguments may point into the very
 * error that is filled ("while ...: %s", err->message).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* strerror_r; which of the two kinds, see error_text() */
#endif

#include "status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *kv_status_name(kv_status status) {
    switch (status) {
#define X(name, value, text)                                                                     \
    case name:                                                                                   \
        return #name;
        KV_STATUS_TABLE(X)
#undef X
    }
    return "?";
}

const char *kv_status_text(kv_status status) {
    switch (status) {
#define X(name, value, text)                                                                     \
    case name:                                                                                   \
        return text;
        KV_STATUS_TABLE(X)
#undef X
    }
    return "?";
}

static void error_set(kv_error *err, kv_status status, int sys_errno, const char *path,
                      int64_t offset, const char *message) {
    err->status = status;
    err->sys_errno = sys_errno;
    err->offset = offset;
    err->pid = 0;
    if (path != err->path)
        snprintf(err->path, sizeof err->path, "%s", path != NULL ? path : "");
    snprintf(err->message, sizeof err->message, "%s", message);
}

/* The system's text for an error number.  GNU's strerror_r may answer a string of its own instead
 * of filling the buffer; that of POSIX answers a number. */
static const char *error_text(int sys_errno, char *buffer, size_t size) {
#if defined(__GLIBC__)
    return strerror_r(sys_errno, buffer, size);
#else
    if (strerror_r(sys_errno, buffer, size) != 0)
        snprintf(buffer, size, "error %d", sys_errno);
    return buffer;
#endif
}

kv_status kv_fail(kv_error *err, kv_status status, const char *format, ...) {
    if (err == NULL)
        return status;
    char message[KV_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    error_set(err, status, 0, "", -1, message);
    return status;
}

kv_status kv_fail_sys(kv_error *err, int sys_errno, const char *path, const char *format, ...) {
    kv_status status = KV_ERR_IO;
    if (sys_errno == ENOSPC || sys_errno == EDQUOT)
        status = KV_ERR_NOSPACE;
    else if (sys_errno == ENOMEM)
        status = KV_ERR_NOMEM;
    if (err == NULL)
        return status;

    char message[KV_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (length < 0)
        length = 0;
    if ((size_t)length < sizeof message) {
        char buffer[128];
        snprintf(message + length, sizeof message - (size_t)length, ": %s",
                 error_text(sys_errno, buffer, sizeof buffer));
    }
    error_set(err, status, sys_errno, path, -1, message);
    return status;
}

kv_status kv_fail_corrupt(kv_error *err, const char *path, int64_t offset, const char *format,
                          ...) {
    if (err == NULL)
        return KV_ERR_CORRUPT;
    char message[KV_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    error_set(err, KV_ERR_CORRUPT, 0, path, offset, message);
    return KV_ERR_CORRUPT;
}

kv_status kv_fail_nomem(kv_error *err, size_t size_bytes) {
    return kv_fail(err, KV_ERR_NOMEM, "cannot allocate %zu bytes", size_bytes);
}
