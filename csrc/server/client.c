/* client.c - the life of what a command sees of its client. */
#include "client.h"

#include <string.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "commands.h"
#include "pubsub.h"

static bool is_free_for_all(const kv_client *c) {
    return c->server == NULL || !kv_config_has_password(kv_server_config(c->server));
}

void kv_client_init(kv_client *c, kv_server *server, kv_db *db) {
    memset(c, 0, sizeof *c);
    c->server = server;
    c->db = db;
    kv_reply_init(&c->reply);
    c->reply.protocol = 2;
    c->created_ns = kv_now_ns();
    c->authenticated = is_free_for_all(c);
}

static void forget_names(kv_client *c) {
    kv_mem_free(c->name);
    kv_mem_free(c->lib_name);
    kv_mem_free(c->lib_version);
    c->name = c->lib_name = c->lib_version = NULL;
}

void kv_client_fini(kv_client *c) {
    kv_pubsub_leave(c);
    kv_multi_forget(c);
    if (c->txn_is_own)
        kv_txn_destroy(c->txn);
    c->txn = NULL;
    forget_names(c);
    kv_reply_fini(&c->reply);
}

void kv_client_reset(kv_client *c) {
    kv_pubsub_leave(c);
    kv_multi_forget(c);
    kv_mem_free(c->name);
    c->name = NULL;
    c->reply.protocol = 2;
    c->reply_off = c->reply_skip_next = false;
    c->no_evict = c->no_touch = false;
    c->authenticated = is_free_for_all(c);
}

bool kv_client_is_subscriber(const kv_client *c) {
    return c->subscriptions != NULL && c->reply.protocol == 2 && kv_pubsub_count(c) > 0;
}

kv_txn *kv_client_txn(kv_client *c) {
    if (c->txn == NULL) {
        c->txn = kv_txn_create();
        c->txn_is_own = c->txn != NULL;
    }
    return c->txn;
}
