/* tls.h - OpenSSL, or that it is not there.
 *
 * Layer: server (a leaf).  Built without -DKV_TLS, kv_tls_context_create says so, and the rest is
 * never called.
 */
#ifndef KV_SERVER_TLS_H
#define KV_SERVER_TLS_H

#include <sys/types.h>

#include "config.h"

typedef struct kv_tls_context kv_tls_context; /* of a server */
typedef struct kv_tls kv_tls;                 /* of a connection */

/* Reads certificate, key and CA; they must fit together.  Owned. */
kv_status kv_tls_context_create(const kv_config *config, kv_tls_context **context, kv_error *err) KV_MUST_CHECK;
void kv_tls_context_destroy(kv_tls_context *context); /* NULL is allowed */

kv_tls *kv_tls_create(kv_tls_context *context, int fd); /* NULL: no memory.  `fd` is borrowed */
void kv_tls_destroy(kv_tls *tls);                       /* says goodbye if that needs no waiting */

/* Results: > 0 done (bytes), 0 the peer has closed, KV_TLS_AGAIN (when the socket can be read or
 * written again: with edge-triggered events all that is asked is to try again on the next event),
 * KV_TLS_FAILED. */
enum { KV_TLS_AGAIN = -1, KV_TLS_FAILED = -2 };
int kv_tls_handshake(kv_tls *tls);
ssize_t kv_tls_read(kv_tls *tls, void *buffer, size_t size);
ssize_t kv_tls_write(kv_tls *tls, const void *buffer, size_t size);

#endif
