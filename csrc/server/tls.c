/* tls.c - see tls.h. */
#include "tls.h"

#ifdef KV_TLS

#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

/* SSL and SSL_CTX under names of our own. */
static SSL_CTX *ctx_of(kv_tls_context *context) {
    return (SSL_CTX *)context;
}

static SSL *ssl_of(kv_tls *tls) {
    return (SSL *)tls;
}

static kv_status fail_tls(kv_error *err, const char *path, const char *what) {
    unsigned long code = ERR_peek_last_error();
    const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return kv_fail(err, KV_ERR_INVALID, "%s%s%s%s%s", what, path != NULL ? " " : "", path != NULL ? path : "",
                   reason != NULL ? ": " : "", reason != NULL ? reason : "");
}

kv_status kv_tls_context_create(const kv_config *config, kv_tls_context **context, kv_error *err) {
    kv_status status = KV_OK;
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (ctx == NULL)
        return fail_tls(err, NULL, "TLS cannot be set up");
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
#ifdef SSL_OP_IGNORE_UNEXPECTED_EOF
    SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF); /* a client that just closes is no error */
#endif
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
        status = fail_tls(err, NULL, "TLS 1.2 is not to be had");
    else if (SSL_CTX_use_certificate_chain_file(ctx, config->tls_cert) != 1)
        status = fail_tls(err, config->tls_cert, "cannot read the certificate");
    else if (SSL_CTX_use_PrivateKey_file(ctx, config->tls_key, SSL_FILETYPE_PEM) != 1)
        status = fail_tls(err, config->tls_key, "cannot use the private key");
    else if (SSL_CTX_check_private_key(ctx) != 1)
        status = fail_tls(err, config->tls_cert, "the private key does not belong to the certificate");
    else if (config->tls_ca != NULL && SSL_CTX_load_verify_locations(ctx, config->tls_ca, NULL) != 1)
        status = fail_tls(err, config->tls_ca, "cannot read the certificates of the authority");
    if (status < 0) {
        SSL_CTX_free(ctx);
        return status;
    }
    if (config->tls_ca != NULL)
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    *context = (kv_tls_context *)ctx;
    return KV_OK;
}

void kv_tls_context_destroy(kv_tls_context *context) {
    SSL_CTX_free(ctx_of(context));
}

kv_tls *kv_tls_create(kv_tls_context *context, int fd) {
    SSL *ssl = SSL_new(ctx_of(context));
    if (ssl != NULL && SSL_set_fd(ssl, fd) != 1) {
        SSL_free(ssl);
        ssl = NULL;
    }
    if (ssl != NULL)
        SSL_set_accept_state(ssl);
    return (kv_tls *)ssl;
}

void kv_tls_destroy(kv_tls *tls) {
    SSL *ssl = ssl_of(tls);
    if (ssl == NULL)
        return;
    if (SSL_is_init_finished(ssl))
        SSL_shutdown(ssl);
    ERR_clear_error();
    SSL_free(ssl);
}

static ssize_t result_of(SSL *ssl, int result) {
    if (result > 0)
        return result;
    int reason = SSL_get_error(ssl, result);
    ERR_clear_error();
    switch (reason) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return KV_TLS_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        SSL_set_quiet_shutdown(ssl, 1); /* after a failure nothing more may be sent */
        return KV_TLS_FAILED;
    }
}

static int bounded(size_t size) {
    return size < INT_MAX ? (int)size : INT_MAX;
}

int kv_tls_handshake(kv_tls *tls) {
    ERR_clear_error();
    return (int)result_of(ssl_of(tls), SSL_do_handshake(ssl_of(tls)));
}

ssize_t kv_tls_read(kv_tls *tls, void *buffer, size_t size) {
    ERR_clear_error();
    return result_of(ssl_of(tls), SSL_read(ssl_of(tls), buffer, bounded(size)));
}

ssize_t kv_tls_write(kv_tls *tls, const void *buffer, size_t size) {
    ERR_clear_error();
    return result_of(ssl_of(tls), SSL_write(ssl_of(tls), buffer, bounded(size)));
}

#else

kv_status kv_tls_context_create(const kv_config *config, kv_tls_context **context, kv_error *err) {
    (void)config;
    (void)context;
    return kv_fail(err, KV_ERR_INVALID, "this build of pykv has no TLS (OpenSSL was not found when it was built)");
}

void kv_tls_context_destroy(kv_tls_context *context) {
    (void)context;
}

kv_tls *kv_tls_create(kv_tls_context *context, int fd) {
    (void)context;
    (void)fd;
    return NULL;
}

void kv_tls_destroy(kv_tls *tls) {
    (void)tls;
}

int kv_tls_handshake(kv_tls *tls) {
    (void)tls;
    return KV_TLS_FAILED;
}

ssize_t kv_tls_read(kv_tls *tls, void *buffer, size_t size) {
    (void)tls;
    (void)buffer;
    (void)size;
    return KV_TLS_FAILED;
}

ssize_t kv_tls_write(kv_tls *tls, const void *buffer, size_t size) {
    (void)tls;
    (void)buffer;
    (void)size;
    return KV_TLS_FAILED;
}

#endif
