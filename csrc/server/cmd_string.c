/* cmd_string.c - GET, SET and the others that read and write one value as a whole or a part of it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/mem.h"
#include "commands.h"

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* Small values are copied into `value`, then into the reply; those that the reply would keep pinned are looked up as
 * items. */
kv_run kv_cmd_get(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_value value;
    kv_error err;
    kv_status status = kv_get(c->db, argv[1], 0, &value, &err);
    if (status == KV_OK && value.size >= KV_REPLY_PIN_MIN) {
        kv_value_release(&value);
        kv_item item;
        status = kv_get_item(c->db, argv[1], 0, &item, &err);
        if (status == KV_OK) {
            kv_reply_value(&c->reply, &item);
            kv_item_release(&item);
        }
    } else if (status == KV_OK) {
        kv_reply_bulk(&c->reply, value.data, value.size);
        kv_value_release(&value);
    }
    if (status < 0) {
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    if (status == KV_NOTFOUND)
        kv_reply_null(&c->reply);
    kv_count_lookup(c, status == KV_OK);
    return KV_RUN_DONE;
}

kv_status kv_step_get(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status == KV_OK)
        kv_reply_txn_value(c, &value);
    else if (status == KV_NOTFOUND)
        kv_reply_null(&c->reply);
    return status < 0 ? status : KV_OK;
}

kv_run kv_cmd_mget(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_values values;
    kv_error err;
    if (kv_get_many(c->db, argv + 1, argc - 1, &values, &err) < 0) {
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    kv_reply_array(&c->reply, values.count);
    for (size_t i = 0; i < values.count; i++) {
        kv_item item = {.value = {values.items[i].data, values.items[i].size}, .pin = values.items[i].pin};
        kv_count_lookup(c, item.value.data != NULL);
        if (item.value.data != NULL)
            kv_reply_value(&c->reply, &item);
        else
            kv_reply_null(&c->reply);
    }
    kv_values_release(&values);
    return KV_RUN_DONE;
}

kv_status kv_step_mget(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    kv_reply_array(&c->reply, argc - 1);
    for (size_t i = 1; i < argc; i++) {
        kv_status status = kv_step_get(c, t, argv + i - 1, 2, err);
        if (status < 0)
            return status;
    }
    return KV_OK;
}

kv_run kv_cmd_strlen(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_item item;
    kv_error err;
    kv_status status = kv_get_item(c->db, argv[1], 0, &item, &err);
    if (status < 0) {
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    kv_count_lookup(c, status == KV_OK);
    kv_reply_integer(&c->reply, status == KV_OK ? (int64_t)item.value.size : 0);
    if (status == KV_OK)
        kv_item_release(&item);
    return KV_RUN_DONE;
}

kv_status kv_step_strlen(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    kv_reply_integer(&c->reply, status == KV_OK ? (int64_t)value.value.size : 0);
    return KV_OK;
}

kv_status kv_step_getrange(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    int64_t first, last;
    if (!kv_parse_integer(argv[2], &first) || !kv_parse_integer(argv[3], &last)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    int64_t size = status == KV_OK ? (int64_t)value.value.size : 0;
    bool is_backward = first < 0 && last < 0 && first > last;
    first = first < 0 ? (first < -size ? 0 : first + size) : first;
    last = last < 0 ? (last < -size ? 0 : last + size) : last;
    if (last >= size)
        last = size - 1;
    if (is_backward || first > last || size == 0)
        kv_reply_bulk(&c->reply, "", 0);
    else if (first == 0 && last == size - 1)
        kv_reply_txn_value(c, &value);
    else
        kv_reply_bulk(&c->reply, (const uint8_t *)value.value.data + first, (size_t)(last - first + 1));
    return KV_OK;
}

/* ---- SET and its family -------------------------------------------------------------------------------- */

enum {
    SET_NX = 1,
    SET_XX = 2,
    SET_IFEQ = 4,
    SET_GET = 8,
    SET_KEEPTTL = 16,
    SET_EXPIRY = 32,
};

typedef struct set_options {
    unsigned flags;
    kv_bytes expected; /* IFEQ */
    uint64_t expiry;
} set_options;

/* EX, PX, EXAT and PXAT: a moment in `*expiry`; false: it has been refused. */
static bool parse_expiry(kv_client *c, kv_bytes text, bool in_seconds, bool is_moment, const char *command,
                         uint64_t *expiry) {
    int64_t n;
    if (!kv_parse_integer(text, &n)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return false;
    }
    uint64_t most = KV_EXPIRY_MAX, now = is_moment ? 0 : kv_clock_ms(c->db);
    if (n <= 0 || (uint64_t)n > (in_seconds ? most / 1000 : most) ||
        (uint64_t)n * (in_seconds ? 1000 : 1) + now > most) {
        kv_refusef(c, "ERR invalid expire time in '%s' command", command);
        return false;
    }
    *expiry = (uint64_t)n * (in_seconds ? 1000 : 1) + now;
    return true;
}

/* The options EX, PX, EXAT, PXAT.  One may be given twice (the last counts), but not two of them.  A conflict is
 * reported before a bad number, so the number is looked at when all options have been read. */
typedef struct expiry_option {
    kv_bytes text; /* the number */
    bool is_given, in_seconds, is_moment;
} expiry_option;

/* Takes `word` if it is such an option; false: it is not, or there is another one already. */
static bool take_expiry_option(kv_bytes word, kv_bytes number, expiry_option *option) {
    bool in_seconds = kv_word_is(word, "ex") || kv_word_is(word, "exat");
    bool is_moment = kv_word_is(word, "exat") || kv_word_is(word, "pxat");
    if (!in_seconds && !is_moment && !kv_word_is(word, "px"))
        return false;
    if (option->is_given && (option->in_seconds != in_seconds || option->is_moment != is_moment))
        return false;
    *option = (expiry_option){number, true, in_seconds, is_moment};
    return true;
}

static bool parse_set_options(kv_client *c, const kv_bytes *argv, size_t argc, set_options *o) {
    const unsigned conditions = SET_NX | SET_XX | SET_IFEQ;
    expiry_option expiry = {0};
    *o = (set_options){0};
    for (size_t i = 3; i < argc; i++) {
        kv_bytes word = argv[i];
        unsigned flag = 0, excludes = 0;
        if (kv_word_is(word, "nx"))
            flag = SET_NX, excludes = conditions & ~SET_NX;
        else if (kv_word_is(word, "xx"))
            flag = SET_XX, excludes = conditions & ~SET_XX;
        else if (kv_word_is(word, "get"))
            flag = SET_GET;
        else if (kv_word_is(word, "keepttl"))
            flag = SET_KEEPTTL, excludes = SET_EXPIRY;
        else if (kv_word_is(word, "ifeq") && i + 1 < argc)
            flag = SET_IFEQ, excludes = conditions, o->expected = argv[++i];
        else if (i + 1 < argc && take_expiry_option(word, argv[i + 1], &expiry))
            flag = SET_EXPIRY, excludes = SET_KEEPTTL, i++;
        if (flag == 0 || (o->flags & excludes) != 0) {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return false;
        }
        o->flags |= flag;
    }
    if ((o->flags & SET_EXPIRY) == 0)
        return true;
    return parse_expiry(c, expiry.text, expiry.in_seconds, expiry.is_moment, "set", &o->expiry);
}

/* The plain forms go straight to the engine. */
kv_run kv_cmd_set(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_error err;
    kv_status status;
    if (argc == 3) {
        status = kv_put(c->db, argv[1], argv[2], 0, &err);
    } else {
        set_options o;
        if (!parse_set_options(c, argv, argc, &o))
            return KV_RUN_DONE;
        if (o.flags != SET_EXPIRY) {
            kv_run_step(c, kv_step_set, argv, argc);
            return KV_RUN_DONE;
        }
        status = kv_put_expiring(c->db, argv[1], argv[2], o.expiry, 0, &err);
    }
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_status kv_step_set(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    set_options o;
    if (!parse_set_options(c, argv, argc, &o))
        return KV_OK;
    kv_txn_value old = {0};
    kv_status found = KV_NOTFOUND;
    if ((o.flags & ~(unsigned)SET_EXPIRY) != 0) {
        found = (o.flags & SET_GET) != 0 ? kv_lookup(c, t, argv[1], &old, err) : kv_txn_get(t, argv[1], &old, err);
        if (found < 0)
            return found;
    }
    bool holds = true;
    if ((o.flags & SET_NX) != 0)
        holds = found == KV_NOTFOUND;
    else if ((o.flags & SET_XX) != 0)
        holds = found == KV_OK;
    else if ((o.flags & SET_IFEQ) != 0)
        holds = found == KV_OK && kv_bytes_equal(old.value, o.expected);
    if ((o.flags & SET_GET) != 0 && found == KV_OK)
        kv_reply_txn_value(c, &old);
    else if ((o.flags & SET_GET) != 0 || !holds)
        kv_reply_null(&c->reply);
    else
        kv_reply_ok(&c->reply);
    if (!holds)
        return KV_OK;
    uint64_t expiry = (o.flags & SET_KEEPTTL) != 0 && found == KV_OK ? old.expiry : o.expiry;
    return kv_txn_put(t, argv[1], argv[2], expiry, err);
}

kv_run kv_cmd_setnx(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_error err;
    kv_status status = kv_put_absent(c->db, argv[1], argv[2], 0, NULL, &err);
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_integer(&c->reply, status == KV_OK);
    return KV_RUN_DONE;
}

kv_status kv_step_setnx(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value old;
    kv_status status = kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    kv_reply_integer(&c->reply, status == KV_NOTFOUND);
    return status == KV_NOTFOUND ? kv_txn_put(t, argv[1], argv[2], 0, err) : KV_OK;
}

static kv_run put_expiring(kv_client *c, const kv_bytes *argv, bool in_seconds, const char *command) {
    uint64_t expiry;
    kv_error err;
    if (!parse_expiry(c, argv[2], in_seconds, false, command, &expiry))
        return KV_RUN_DONE;
    if (kv_put_expiring(c->db, argv[1], argv[3], expiry, 0, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_status step_expiring(kv_client *c, kv_txn *t, const kv_bytes *argv, bool in_seconds, const char *command,
                               kv_error *err) {
    uint64_t expiry;
    if (!parse_expiry(c, argv[2], in_seconds, false, command, &expiry))
        return KV_OK;
    kv_reply_ok(&c->reply);
    return kv_txn_put(t, argv[1], argv[3], expiry, err);
}

kv_run kv_cmd_setex(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    return put_expiring(c, argv, true, "setex");
}

kv_status kv_step_setex(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_expiring(c, t, argv, true, "setex", err);
}

kv_run kv_cmd_psetex(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    return put_expiring(c, argv, false, "psetex");
}

kv_status kv_step_psetex(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_expiring(c, t, argv, false, "psetex", err);
}

kv_status kv_step_getset(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    kv_status status = kv_step_get(c, t, argv, argc, err);
    return status < 0 ? status : kv_txn_put(t, argv[1], argv[2], 0, err);
}

kv_status kv_step_getdel(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND) {
        kv_reply_null(&c->reply);
        return KV_OK;
    }
    kv_reply_txn_value(c, &value);
    return kv_txn_delete(t, argv[1], err);
}

kv_status kv_step_getex(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    expiry_option option = {0};
    bool persist = false;
    for (size_t i = 2; i < argc; i++) {
        if (kv_word_is(argv[i], "persist") && !option.is_given) {
            persist = true;
        } else if (!persist && i + 1 < argc && take_expiry_option(argv[i], argv[i + 1], &option)) {
            i++;
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_OK;
        }
    }
    uint64_t expiry = 0;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    if (status == KV_NOTFOUND) {
        kv_reply_null(&c->reply);
        return KV_OK;
    }
    if (option.is_given &&
        !parse_expiry(c, option.text, option.in_seconds, option.is_moment, "getex", &expiry))
        return KV_OK;
    kv_reply_txn_value(c, &value);
    if (option.is_given || (persist && value.expiry != 0))
        return kv_txn_expire(t, argv[1], expiry, err);
    return KV_OK;
}

/* ---- Several keys -------------------------------------------------------------------------------------- */

static bool pairs_are_whole(kv_client *c, size_t argc, const char *command) {
    if (argc % 2 == 1)
        return true;
    kv_refuse_arity(c, command);
    return false;
}

kv_run kv_cmd_mset(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_op some[16], *ops = some;
    kv_error err;
    if (!pairs_are_whole(c, argc, "mset"))
        return KV_RUN_DONE;
    size_t count = (argc - 1) / 2;
    if (count > KV_COUNT_OF(some))
        ops = kv_mem_alloc(count * sizeof *ops);
    if (ops == NULL) {
        (void)kv_fail_nomem(&err, count * sizeof *ops);
        kv_refuse_failure(c, &err);
        return KV_RUN_DONE;
    }
    for (size_t i = 0; i < count; i++)
        ops[i] = (kv_op){.kind = KV_OP_PUT, .key = argv[1 + i * 2], .value = argv[2 + i * 2]};
    if (kv_write(c->db, ops, count, 0, NULL, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_ok(&c->reply);
    if (ops != some)
        kv_mem_free(ops);
    return KV_RUN_DONE;
}

static kv_status put_pairs(kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    for (size_t i = 1; i + 1 < argc; i += 2) {
        kv_status status = kv_txn_put(t, argv[i], argv[i + 1], 0, err);
        if (status < 0)
            return status;
    }
    return KV_OK;
}

kv_status kv_step_mset(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    if (!pairs_are_whole(c, argc, "mset"))
        return KV_OK;
    kv_reply_ok(&c->reply);
    return put_pairs(t, argv, argc, err);
}

kv_status kv_step_msetnx(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    if (!pairs_are_whole(c, argc, "msetnx"))
        return KV_OK;
    for (size_t i = 1; i < argc; i += 2) {
        kv_txn_value old;
        kv_status status = kv_txn_get(t, argv[i], &old, err);
        if (status < 0)
            return status;
        if (status == KV_OK) {
            kv_reply_integer(&c->reply, 0);
            return KV_OK;
        }
    }
    kv_reply_integer(&c->reply, 1);
    return put_pairs(t, argv, argc, err);
}

kv_status kv_step_delifeq(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, argv[1], &value, err);
    if (status < 0)
        return status;
    bool is_equal = status == KV_OK && kv_bytes_equal(value.value, argv[2]);
    kv_reply_integer(&c->reply, is_equal);
    return is_equal ? kv_txn_delete(t, argv[1], err) : KV_OK;
}

/* ---- Parts of a value ---------------------------------------------------------------------------------- */

kv_status kv_step_append(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value old = {0};
    kv_status status = kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    size_t size = old.value.size + argv[2].size;
    if (!kv_allow_size(c, size))
        return KV_OK;
    kv_reply_integer(&c->reply, (int64_t)size);
    if (status == KV_NOTFOUND)
        return kv_txn_put(t, argv[1], argv[2], 0, err);
    if (argv[2].size == 0)
        return KV_OK;
    uint8_t *bytes = kv_txn_space(t, size, err);
    if (bytes == NULL)
        return KV_ERR_NOMEM;
    if (old.value.size > 0)
        memcpy(bytes, old.value.data, old.value.size);
    memcpy(bytes + old.value.size, argv[2].data, argv[2].size);
    return kv_txn_put(t, argv[1], (kv_bytes){bytes, size}, old.expiry, err);
}

kv_status kv_step_setrange(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    int64_t offset;
    if (!kv_parse_integer(argv[2], &offset)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (offset < 0) {
        kv_refuse(c, "ERR offset is out of range");
        return KV_OK;
    }
    kv_txn_value old = {0};
    kv_status status = kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    if (argv[3].size == 0) {
        kv_reply_integer(&c->reply, (int64_t)old.value.size);
        return KV_OK;
    }
    uint64_t end = (uint64_t)offset + argv[3].size;
    if (!kv_allow_size(c, end))
        return KV_OK;
    size_t size = end > old.value.size ? (size_t)end : old.value.size;
    uint8_t *bytes = kv_txn_space(t, size, err);
    if (bytes == NULL)
        return KV_ERR_NOMEM;
    if (old.value.size > 0)
        memcpy(bytes, old.value.data, old.value.size);
    memset(bytes + old.value.size, 0, size - old.value.size);
    memcpy(bytes + offset, argv[3].data, argv[3].size);
    kv_reply_integer(&c->reply, (int64_t)size);
    return kv_txn_put(t, argv[1], (kv_bytes){bytes, size}, old.expiry, err);
}

/* ---- Numbers ------------------------------------------------------------------------------------------- */

static kv_run increment(kv_client *c, kv_bytes key, int64_t by) {
    int64_t result;
    kv_error err;
    if (kv_incr(c->db, key, by, 0, &result, &err) < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_integer(&c->reply, result);
    return KV_RUN_DONE;
}

static kv_status step_increment(kv_client *c, kv_txn *t, kv_bytes key, int64_t by, kv_error *err) {
    kv_txn_value old = {0};
    kv_status status = kv_txn_get(t, key, &old, err);
    if (status < 0)
        return status;
    int64_t n = 0;
    if (status == KV_OK && !kv_parse_integer(old.value, &n)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return KV_OK;
    }
    if (__builtin_add_overflow(n, by, &n)) {
        kv_refuse(c, "ERR increment or decrement would overflow");
        return KV_OK;
    }
    char *text = kv_txn_space(t, KV_INTEGER_SIZE, err);
    if (text == NULL)
        return KV_ERR_NOMEM;
    kv_reply_integer(&c->reply, n);
    return kv_txn_put(t, key, (kv_bytes){text, kv_format_integer(n, text)}, old.expiry, err);
}

/* The argument of INCRBY, or of DECRBY; false: it has been refused. */
static bool parse_by(kv_client *c, kv_bytes text, bool is_down, int64_t *by) {
    if (!kv_parse_integer(text, by)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return false;
    }
    if (is_down && *by == INT64_MIN) {
        kv_refuse(c, "ERR decrement would overflow");
        return false;
    }
    if (is_down)
        *by = -*by;
    return true;
}

kv_run kv_cmd_incr(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    return increment(c, argv[1], 1);
}

kv_run kv_cmd_decr(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    return increment(c, argv[1], -1);
}

kv_run kv_cmd_incrby(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t by;
    return parse_by(c, argv[2], false, &by) ? increment(c, argv[1], by) : KV_RUN_DONE;
}

kv_run kv_cmd_decrby(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t by;
    return parse_by(c, argv[2], true, &by) ? increment(c, argv[1], by) : KV_RUN_DONE;
}

kv_status kv_step_incr(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_increment(c, t, argv[1], 1, err);
}

kv_status kv_step_decr(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_increment(c, t, argv[1], -1, err);
}

kv_status kv_step_incrby(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    int64_t by;
    return parse_by(c, argv[2], false, &by) ? step_increment(c, t, argv[1], by, err) : KV_OK;
}

kv_status kv_step_decrby(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    int64_t by;
    return parse_by(c, argv[2], true, &by) ? step_increment(c, t, argv[1], by, err) : KV_OK;
}

#define DECIMAL_SIZE 5120u /* the longest long double, with 17 places behind the point */

/* 17 places behind the point, without the zeros at the end. */
static size_t format_decimal(long double value, char text[DECIMAL_SIZE]) {
    int written = snprintf(text, DECIMAL_SIZE, "%.17Lf", value);
    size_t size = written > 0 && (size_t)written < DECIMAL_SIZE ? (size_t)written : 0;
    if (memchr(text, '.', size) != NULL) {
        while (text[size - 1] == '0')
            size--;
        if (text[size - 1] == '.')
            size--;
    }
    if (size == 2 && text[0] == '-' && text[1] == '0') {
        text[0] = '0';
        size = 1;
    }
    return size;
}

kv_status kv_step_incrbyfloat(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value old = {0};
    kv_status status = kv_txn_get(t, argv[1], &old, err);
    if (status < 0)
        return status;
    long double value = 0, by;
    if ((status == KV_OK && !kv_parse_double(old.value, &value)) || !kv_parse_double(argv[2], &by)) {
        kv_refuse(c, "ERR value is not a valid float");
        return KV_OK;
    }
    value += by;
    if (isnan(value) || isinf(value)) {
        kv_refuse(c, "ERR increment would produce NaN or Infinity");
        return KV_OK;
    }
    char *text = kv_txn_space(t, DECIMAL_SIZE, err);
    if (text == NULL)
        return KV_ERR_NOMEM;
    kv_bytes new = {text, format_decimal(value, text)};
    kv_reply_bulk(&c->reply, new.data, new.size);
    return kv_txn_put(t, argv[1], new, old.expiry, err);
}
