/* config.h - options and limits of a server: one table for the defaults, CONFIG GET / SET, and the checks.
 *
 * Layer: server (a leaf).
 */
#ifndef KV_SERVER_CONFIG_H
#define KV_SERVER_CONFIG_H

#include "../kv.h"

/* What each row is: name as CONFIG knows it, field, type, default, least, most, may CONFIG SET change it, doc. */
typedef struct kv_config {
    /* where to listen; constant */
    const char *host;        /* NULL: no TCP.  "127.0.0.1" */
    uint16_t port;           /* 0: any free one */
    const char *unix_path;   /* NULL: no unix socket */
    uint32_t threads;        /* event loops */
    const char *tls_cert, *tls_key, *tls_ca; /* files; NULL: no TLS */
    bool debug_commands;     /* DEBUG SLEEP, RELOAD, LOADAOF */
    /* constant, or under the server's lock */
    const char *password;    /* NULL: none.  Without one only loopback and unix sockets are allowed */
    uint32_t clients_max;
    uint32_t args_max;
    uint64_t bulk_max;             /* bytes of one argument */
    uint64_t query_buffer_max;     /* bytes of one client's requests that wait */
    uint64_t query_buffers_max;    /* of all clients together */
    uint64_t output_buffer_max;    /* bytes of one client's replies that wait: a reader that does not read is disconnected */
    uint64_t idle_timeout_s;       /* 0: none */
    uint64_t request_timeout_s;    /* a half-sent request; 0: none */
    uint32_t unauthenticated_args_max;
    uint64_t unauthenticated_bulk_max;
    uint64_t slowlog_slower_than_us; /* UINT64_MAX: off */
    uint32_t slowlog_max_len;
} kv_config;

kv_config kv_config_default(void);
kv_status kv_config_check(const kv_config *config, kv_error *err) KV_MUST_CHECK;

#endif
