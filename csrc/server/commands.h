/* commands.h - what the cmd_*.c files and command.c share: helpers, and the functions of the table's rows.
 *
 * Layer: server; not for others.
 */
#ifndef KV_SERVER_COMMANDS_H
#define KV_SERVER_COMMANDS_H

#include "command.h"
#include "server.h"

#define KV_COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* ---- Replies that refuse -------------------------------------------------------------------------------- */

/* An error reply, counted for INFO errorstats and as a failed call. */
void kv_refuse(kv_client *c, const char *text);
void kv_refusef(kv_client *c, const char *format, ...) KV_PRINTF(2, 3);
void kv_refuse_failure(kv_client *c, const kv_error *err);
void kv_refuse_arity(kv_client *c, const char *name);

#define KV_REDIS_VERSION "7.2.4" /* what clients may expect of the commands that there are */
#define KV_SYNTAX_ERROR "ERR syntax error"
#define KV_NOT_INTEGER "ERR value is not an integer or out of range"
#define KV_TOO_LONG "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

/* ---- Arguments ------------------------------------------------------------------------------------------- */

bool kv_word_is(kv_bytes word, const char *lower); /* in any case */
bool kv_bytes_equal(kv_bytes a, kv_bytes b);
kv_bytes kv_text(const char *text);
/* "-"? digits, without leading zeros, spaces, or anything else: what Redis takes for an integer. */
bool kv_parse_integer(kv_bytes text, int64_t *value);
#define KV_INTEGER_SIZE 21u
size_t kv_format_integer(int64_t value, char text[KV_INTEGER_SIZE]); /* no NUL */
bool kv_parse_double(kv_bytes text, long double *value);             /* a finite one; no spaces */
/* For messages: `size` bytes of it at the most, as text. */
#define KV_TEXT(bytes, most) (int)((bytes).size < (most) ? (bytes).size : (most)), (const char *)((bytes).data)

/* ---- Steps ------------------------------------------------------------------------------------------------- */

/* Runs the step, again if somebody was faster, and commits it. */
void kv_run_step(kv_client *c, kv_command_step step, const kv_bytes *argv, size_t argc);
kv_txn *kv_client_txn(kv_client *c); /* NULL: no memory */

/* kv_txn_get that counts a hit or a miss. */
kv_status kv_lookup(kv_client *c, kv_txn *t, kv_bytes key, kv_txn_value *value, kv_error *err) KV_MUST_CHECK;
void kv_count_lookup(kv_client *c, bool found);
void kv_reply_txn_value(kv_client *c, const kv_txn_value *value);
/* Is a value of so many bytes allowed?  If not, it is refused. */
bool kv_allow_size(kv_client *c, uint64_t size);

/* Calls the command and counts it: what kv_command_run and EXEC have in common.  `t` NULL: alone. */
kv_run kv_command_call(kv_client *c, const kv_command *command, kv_txn *t, const kv_bytes *argv, size_t argc,
                       kv_status *status, kv_error *err);

/* ---- Subcommands ------------------------------------------------------------------------------------------- */

typedef struct kv_subcommand {
    const char *name;
    int arity; /* with the command's name; negative: at least */
    kv_command_function function; /* NULL: the command's step does it */
    const char *usage, *help; /* lines of HELP; NULL: not told there */
} kv_subcommand;

typedef struct kv_subcommands {
    const char *name; /* the command's, upper case */
    const kv_subcommand *rows;
    size_t count;
} kv_subcommands;

/* Commands whose first argument is a subcommand.  Unknown ones, and a wrong number of arguments, are refused before
 * the command is called or queued. */
#define KV_COMMAND_CONTAINERS(X)                                                                                     \
    X(acl) X(client) X(command) X(config) X(debug) X(function) X(latency) X(memory) X(module) X(object) X(pubsub)    \
    X(script) X(slowlog)

#define X(name) extern const kv_subcommands kv_subcommands_##name;
KV_COMMAND_CONTAINERS(X)
#undef X

/* The row of argv[1], or NULL: HELP. */
const kv_subcommand *kv_subcommand_find(const kv_subcommands *subcommands, kv_bytes name);
/* Calls what argv[1] names, or HELP. */
kv_run kv_run_subcommand(kv_client *c, const kv_subcommands *subcommands, const kv_bytes *argv, size_t argc);
void kv_reply_help(kv_client *c, const kv_subcommands *subcommands);
void kv_refuse_subcommand(kv_client *c, const char *name, kv_bytes subcommand);
void kv_refuse_form(kv_client *c, const char *name, kv_bytes subcommand); /* the number of its arguments is wrong */

/* For subcommands with nothing to say. */
kv_run kv_answer_ok(kv_client *c, const kv_bytes *argv, size_t argc);
kv_run kv_answer_empty(kv_client *c, const kv_bytes *argv, size_t argc); /* an empty array */

/* ---- MULTI (cmd_multi.c) ------------------------------------------------------------------------------------ */

bool kv_multi_is_open(const kv_client *c);
void kv_multi_queue(kv_client *c, const kv_command *command, const kv_bytes *argv, size_t argc);
void kv_multi_fail(kv_client *c);    /* a request could not be queued: EXEC will refuse */
void kv_multi_forget(kv_client *c);  /* ends MULTI and WATCH */
size_t kv_multi_count(const kv_client *c); /* queued requests */

/* ---- Text that grows (text.c) --------------------------------------------------------------------------------- */

typedef struct kv_text_buffer {
    char *data; /* NULL: empty */
    size_t size, capacity;
    bool broken; /* no memory */
} kv_text_buffer;

void kv_text_addf(kv_text_buffer *b, const char *format, ...) KV_PRINTF(2, 3);
void kv_text_add(kv_text_buffer *b, const void *bytes, size_t size);
void kv_text_free(kv_text_buffer *b);

/* CONFIG's rows that the store knows; false: it is none of those.  `value` has KV_CONFIG_VALUE_SIZE bytes. */
bool kv_store_config(kv_client *c, const char *name, char *value);
const char *kv_memory_policy(const kv_stats *stats); /* what happens at maxmemory, in Redis's words */
/* When the last checkpoint was made, in seconds since 1970; without one, when the server started. */
uint64_t kv_last_save_time(kv_client *c);
/* One line of CLIENT LIST and INFO. */
void kv_client_describe(const kv_client *client, uint64_t now_ns, kv_text_buffer *b);
/* Is it right (and does the client know everything from now on)?  If not, it is refused. */
bool kv_authenticate(kv_client *c, kv_bytes user, kv_bytes password);
void kv_set_name(char **name, kv_bytes value);

/* ---- The table -------------------------------------------------------------------------------------------------- */

#define KV_COMMAND_FUNCTIONS(X)                                                                                      \
    X(get) X(set) X(setnx) X(setex) X(psetex) X(mget) X(mset) X(incr) X(decr) X(incrby) X(decrby) X(strlen) X(del)   \
    X(exists) X(keys) X(scan) X(randomkey) X(dbsize) X(flushall) X(expire) X(ping) X(echo) X(hello) X(auth)         \
    X(select) X(quit) X(reset) X(client) X(command) X(config) X(info) X(time) X(save) X(bgsave) X(lastsave)         \
    X(debug) X(shutdown) X(wait) X(waitaof) X(function) X(script) X(latency) X(lolwut) X(replicaof) X(acl)          \
    X(module) X(cluster) X(slowlog) X(multi) X(exec) X(discard) X(watch) X(unwatch) X(publish) X(subscribe)         \
    X(unsubscribe) X(psubscribe) X(punsubscribe) X(pubsub) X(move) X(readonly) X(role) X(swapdb) X(bgrewriteaof)

#define KV_COMMAND_STEPS(X)                                                                                          \
    X(get) X(set) X(setnx) X(setex) X(psetex) X(getset) X(getdel) X(getex) X(mget) X(mset) X(msetnx) X(append)       \
    X(strlen) X(getrange) X(setrange) X(incr) X(decr) X(incrby) X(decrby) X(incrbyfloat) X(lcs) X(delifeq)           \
    X(setbit) X(getbit) X(bitcount) X(bitpos) X(bitop) X(bitfield) X(bitfield_ro) X(del) X(exists) X(touch) X(type)  \
    X(rename) X(renamenx) X(copy) X(flushall) X(dump) X(restore) X(object) X(memory) X(expire) X(pexpire)            \
    X(expireat) X(pexpireat) X(ttl) X(pttl) X(expiretime) X(pexpiretime) X(persist) X(dbsize) X(hello)

#define X(name) kv_run kv_cmd_##name(kv_client *c, const kv_bytes *argv, size_t argc);
KV_COMMAND_FUNCTIONS(X)
#undef X
#define X(name) kv_status kv_step_##name(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err);
KV_COMMAND_STEPS(X)
#undef X

#endif
