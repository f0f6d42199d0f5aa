/* config.h - options and limits of a server: one table for the defaults, CONFIG GET / SET, and the checks.
 *
 * Layer: server (a leaf).
 *
 * Fields are of three kinds: constant after the start; numbers that CONFIG SET may change while loops read them
 * (atomic, relaxed: each stands for itself); and the password, which is read and changed only by the functions
 * below.
 */
#ifndef KV_SERVER_CONFIG_H
#define KV_SERVER_CONFIG_H

#include <stdatomic.h>

#include "../kv.h"

/* What each row is: name as CONFIG knows it, field, type, default, least, most, may CONFIG SET change it. */
typedef struct kv_config {
    /* where to listen; constant */
    const char *host;        /* NULL: no TCP.  "127.0.0.1" */
    uint16_t port;           /* 0: any free one */
    const char *unix_path;   /* NULL: no unix socket */
    uint32_t threads;        /* event loops */
    const char *tls_cert, *tls_key, *tls_ca; /* files; NULL: no TLS */
    bool debug_commands;     /* DEBUG SLEEP, RELOAD, LOADAOF */
    /* under config.c's lock: kv_config_has_password and so on */
    const char *password;    /* NULL: none.  Without one only loopback and unix sockets are allowed */
    /* atomic */
    _Atomic uint32_t clients_max;
    _Atomic uint32_t args_max;
    _Atomic uint64_t bulk_max;             /* bytes of one argument */
    _Atomic uint64_t query_buffer_max;     /* bytes of one client's requests that wait, MULTI's included */
    _Atomic uint64_t query_buffers_max;    /* of all clients together */
    _Atomic uint64_t output_buffer_max;    /* bytes of one client's replies that wait; with more it is disconnected */
    _Atomic uint64_t idle_timeout_s;       /* 0: none */
    _Atomic uint64_t request_timeout_s;    /* a half-sent request; 0: none */
    _Atomic uint32_t unauthenticated_args_max;
    _Atomic uint64_t unauthenticated_bulk_max;
    _Atomic uint64_t slowlog_slower_than_us; /* UINT64_MAX: off */
    _Atomic uint32_t slowlog_max_len;
} kv_config;

/* The strings of the default are static. */
kv_config kv_config_default(void);
kv_status kv_config_check(const kv_config *config, kv_error *err) KV_MUST_CHECK;

/* A copy with strings of its own (kv_config_free), and the end of one. */
kv_status kv_config_copy(const kv_config *from, kv_config *to, kv_error *err) KV_MUST_CHECK;
void kv_config_free(kv_config *config);

bool kv_config_has_password(kv_config *config);
/* Compares in a time that does not tell where the difference is. */
bool kv_config_is_password(kv_config *config, kv_bytes password);

/* ---- Rows, by the names of CONFIG ------------------------------------------------------------------ */

#define KV_CONFIG_VALUE_SIZE 1024

size_t kv_config_row_count(void);
const char *kv_config_row_name(size_t row);
/* False for a row whose value the configuration does not know: the store's or the system's (cmd_server.c tells
 * those). */
bool kv_config_row_get(kv_config *config, size_t row, char value[KV_CONFIG_VALUE_SIZE]);
/* KV_OK, KV_NOTFOUND (no such row), or KV_ERR_INVALID with the end of Redis's error line in err->message.  `dry`:
 * checks only. */
kv_status kv_config_row_set(kv_config *config, kv_bytes name, kv_bytes value, bool dry, kv_error *err) KV_MUST_CHECK;

#endif
