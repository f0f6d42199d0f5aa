/* command.h - the table of commands, and running one request.
 *
 * Layer: server.  A row says name, arity, flags, where the keys stand, the function, and what COMMAND DOCS tells.
 */
#ifndef KV_SERVER_COMMAND_H
#define KV_SERVER_COMMAND_H

#include "client.h"
#include "txn.h"

enum {
    KV_CMD_WRITE = 1 << 0,
    KV_CMD_READONLY = 1 << 1,
    KV_CMD_DENYOOM = 1 << 2,
    KV_CMD_ADMIN = 1 << 3,
    KV_CMD_PUBSUB = 1 << 4,
    KV_CMD_NO_AUTH = 1 << 5,    /* allowed before AUTH */
    KV_CMD_FAST = 1 << 6,
    KV_CMD_NO_MULTI = 1 << 7,   /* refused inside MULTI */
    KV_CMD_IN_MULTI = 1 << 8,   /* runs at once inside MULTI: EXEC, DISCARD, MULTI, WATCH, QUIT, RESET */
    KV_CMD_SUBSCRIBED = 1 << 9, /* allowed in RESP2 while subscribed */
    KV_CMD_LOADING = 1 << 10,
    KV_CMD_NO_SLOWLOG = 1 << 11, /* not in the slow log: its arguments may be secret, or its parts are there */
};

/* What a command says to who called it. */
typedef enum kv_run {
    KV_RUN_DONE,  /* it has replied */
    KV_RUN_LATER, /* it has done nothing and wants to run when all that is pending on the client's handle is
                   * committed */
} kv_run;

/* A command that is one atomic step gets `t` and writes its reply; it may be run several times (the reply is cut back
 * before).  < 0: `err` is turned into an error reply. */
typedef kv_status (*kv_command_step)(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err);
/* Any other. */
typedef kv_run (*kv_command_function)(kv_client *c, const kv_bytes *argv, size_t argc);

struct kv_command {
    const char *name; /* lower case */
    int arity;        /* with the name; negative: at least */
    unsigned flags;
    int first_key, last_key, key_step;
    kv_command_function function; /* one of the two; a hot command may have both: alone `function`, in EXEC `step` */
    kv_command_step step;
    const char *group, *since, *summary; /* COMMAND DOCS */
};

size_t kv_command_count(void);
const kv_command *kv_command_at(size_t index);
const kv_command *kv_command_find(kv_bytes name); /* any case; NULL: none */
size_t kv_command_index(const kv_command *command); /* of its statistics */

/* Runs one request: looks up, checks authentication, arity, state (MULTI queues it), calls, counts, and keeps the
 * time for the slow log.  The reply is in c->reply.  KV_RUN_LATER: nothing has happened. */
kv_run kv_command_run(kv_client *c, const kv_bytes *argv, size_t argc);

/* The reply for a failed call of the engine: OOM, MISCONF, ERR ... */
void kv_reply_failure(kv_reply *r, const kv_error *err);

#endif
