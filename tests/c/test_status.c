/* test_status.c - the status table and the error that travels with a failure. */
#include "check.h"

#include <errno.h>

#include "base/status.h"

static void test_names_and_texts(void) {
#define X(name, value, text)                                                                     \
    CHECK_EQ(name, value);                                                                       \
    CHECK_STR(kv_status_name(name), #name);                                                      \
    CHECK_STR(kv_status_text(name), text);
    KV_STATUS_TABLE(X)
#undef X
    CHECK_STR(kv_status_name((kv_status)99), "?");
    CHECK_STR(kv_status_text((kv_status)-99), "?");
}

static kv_error garbage(void) {
    kv_error err;
    memset(&err, 'x', sizeof err);
    return err;
}

static void test_fail(void) {
    kv_error err = garbage();
    CHECK_EQ(kv_fail(&err, KV_ERR_LIMIT, "a key has %d bytes", 70000), KV_ERR_LIMIT);
    CHECK_EQ(err.status, KV_ERR_LIMIT);
    CHECK_EQ(err.sys_errno, 0);
    CHECK_EQ(err.offset, -1);
    CHECK_EQ(err.pid, 0);
    CHECK_STR(err.path, "");
    CHECK_STR(err.message, "a key has 70000 bytes");
}

static void test_fail_sys(void) {
    kv_error err = garbage();
    CHECK_EQ(kv_fail_sys(&err, EACCES, "/a/b", "cannot open %s", "it"), KV_ERR_IO);
    CHECK_EQ(err.status, KV_ERR_IO);
    CHECK_EQ(err.sys_errno, EACCES);
    CHECK_EQ(err.offset, -1);
    CHECK_EQ(err.pid, 0);
    CHECK_STR(err.path, "/a/b");
    CHECK_STR(err.message, "cannot open it: Permission denied");

    CHECK_EQ(kv_fail_sys(&err, ENOSPC, "", "x"), KV_ERR_NOSPACE);
    CHECK_EQ(err.status, KV_ERR_NOSPACE);
    CHECK_EQ(kv_fail_sys(&err, EDQUOT, NULL, "x"), KV_ERR_NOSPACE);
    CHECK_STR(err.path, "");
    CHECK_EQ(kv_fail_sys(&err, ENOMEM, "", "x"), KV_ERR_NOMEM);
    CHECK_EQ(kv_fail_sys(&err, 123456, "", "x"), KV_ERR_IO);
    CHECK_CONTAINS(err.message, "123456");
}

static void test_fail_corrupt(void) {
    kv_error err = garbage();
    CHECK_EQ(kv_fail_corrupt(&err, "log", 4096, "bad %s", "frame"), KV_ERR_CORRUPT);
    CHECK_EQ(err.status, KV_ERR_CORRUPT);
    CHECK_EQ(err.sys_errno, 0);
    CHECK_EQ(err.offset, 4096);
    CHECK_STR(err.path, "log");
    CHECK_STR(err.message, "bad frame");
}

static void test_fail_nomem(void) {
    kv_error err = garbage();
    CHECK_EQ(kv_fail_nomem(&err, 12345), KV_ERR_NOMEM);
    CHECK_EQ(err.status, KV_ERR_NOMEM);
    CHECK_CONTAINS(err.message, "12345");
}

static void test_no_error_wanted(void) {
    CHECK_EQ(kv_fail(NULL, KV_ERR_LIMIT, "x"), KV_ERR_LIMIT);
    CHECK_EQ(kv_fail_sys(NULL, ENOSPC, "p", "x"), KV_ERR_NOSPACE);
    CHECK_EQ(kv_fail_corrupt(NULL, "p", 1, "x"), KV_ERR_CORRUPT);
    CHECK_EQ(kv_fail_nomem(NULL, 1), KV_ERR_NOMEM);
}

static void test_too_long(void) {
    kv_error err = garbage();
    char text[3000];
    memset(text, 'y', sizeof text);
    text[sizeof text - 1] = '\0';
    CHECK_EQ(kv_fail_sys(&err, EIO, text, "%s", text), KV_ERR_IO);
    CHECK_EQ(strlen(err.path), KV_ERROR_PATH_SIZE - 1);
    CHECK_EQ(strlen(err.message), KV_ERROR_MESSAGE_SIZE - 1);
    /* Room for a part of the system's text only. */
    text[KV_ERROR_MESSAGE_SIZE - 4] = '\0';
    CHECK_EQ(kv_fail_sys(&err, EIO, "", "%s", text), KV_ERR_IO);
    CHECK_EQ(strlen(err.message), KV_ERROR_MESSAGE_SIZE - 1);
}

/* An error may be told anew in terms of itself. */
static void test_own_parts_as_arguments(void) {
    kv_error err = garbage();
    CHECK_EQ(kv_fail_sys(&err, EIO, "file", "cannot read"), KV_ERR_IO);
    CHECK_EQ(kv_fail_sys(&err, EIO, err.path, "opening: %s", err.message), KV_ERR_IO);
    CHECK_STR(err.path, "file");
    CHECK_CONTAINS(err.message, "opening: cannot read: ");
}

CHECK_MAIN(TEST(test_names_and_texts), TEST(test_fail), TEST(test_fail_sys),
           TEST(test_fail_corrupt), TEST(test_fail_nomem), TEST(test_no_error_wanted),
           TEST(test_too_long), TEST(test_own_parts_as_arguments))
