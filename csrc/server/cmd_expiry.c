/* cmd_expiry.c - when keys expire. */
#include "commands.h"

/* ---- Setting it ---------------------------------------------------------------------------------------- */

enum {
    ONLY_NX = 1, /* if it has none */
    ONLY_XX = 2, /* if it has one */
    ONLY_GT = 4, /* if the new one is later; none is the latest */
    ONLY_LT = 8,
};

static bool parse_conditions(kv_client *c, const kv_bytes *argv, size_t argc, unsigned *conditions) {
    *conditions = 0;
    for (size_t i = 3; i < argc; i++) {
        if (kv_word_is(argv[i], "nx"))
            *conditions |= ONLY_NX;
        else if (kv_word_is(argv[i], "xx"))
            *conditions |= ONLY_XX;
        else if (kv_word_is(argv[i], "gt"))
            *conditions |= ONLY_GT;
        else if (kv_word_is(argv[i], "lt"))
            *conditions |= ONLY_LT;
        else {
            kv_refusef(c, "ERR Unsupported option %.*s", KV_TEXT(argv[i], 128u));
            return false;
        }
    }
    if ((*conditions & ONLY_NX) != 0 && *conditions != ONLY_NX) {
        kv_refuse(c, "ERR NX and XX, GT or LT options at the same time are not compatible");
        return false;
    }
    if ((*conditions & ONLY_GT) != 0 && (*conditions & ONLY_LT) != 0) {
        kv_refuse(c, "ERR GT and LT options at the same time are not compatible");
        return false;
    }
    return true;
}

/* The moment, in `*expiry`; one that is long past is 1.  False: it has been refused. */
static bool parse_moment(kv_client *c, kv_bytes text, bool in_seconds, bool is_relative, const char *command,
                         uint64_t *expiry) {
    int64_t n;
    if (!kv_parse_integer(text, &n)) {
        kv_refuse(c, KV_NOT_INTEGER);
        return false;
    }
    int64_t now = is_relative ? (int64_t)kv_clock_ms(c->db) : 0;
    if ((in_seconds && __builtin_mul_overflow(n, 1000, &n)) || __builtin_add_overflow(n, now, &n) ||
        n > (int64_t)KV_EXPIRY_MAX) {
        kv_refusef(c, "ERR invalid expire time in '%s' command", command);
        return false;
    }
    *expiry = n > 0 ? (uint64_t)n : 1;
    return true;
}

static bool conditions_hold(unsigned conditions, uint64_t old, uint64_t new) {
    if ((conditions & ONLY_NX) != 0 && old != 0)
        return false;
    if ((conditions & ONLY_XX) != 0 && old == 0)
        return false;
    if ((conditions & ONLY_GT) != 0 && (old == 0 || new <= old))
        return false;
    return (conditions & ONLY_LT) == 0 || old == 0 || new < old;
}

static kv_status step_expire(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, bool in_seconds,
                             bool is_relative, const char *command, kv_error *err) {
    unsigned conditions;
    uint64_t expiry;
    if (!parse_conditions(c, argv, argc, &conditions) ||
        !parse_moment(c, argv[2], in_seconds, is_relative, command, &expiry))
        return KV_OK;
    kv_txn_value value;
    kv_status status = kv_txn_get(t, argv[1], &value, err);
    if (status < 0)
        return status;
    bool holds = status == KV_OK && conditions_hold(conditions, value.expiry, expiry);
    kv_reply_integer(&c->reply, holds);
    return holds ? kv_txn_expire(t, argv[1], expiry, err) : KV_OK;
}

/* Without conditions there is nothing to decide. */
kv_run kv_cmd_expire(kv_client *c, const kv_bytes *argv, size_t argc) {
    uint64_t expiry;
    kv_error err;
    if (argc > 3) {
        kv_run_step(c, kv_step_expire, argv, argc);
        return KV_RUN_DONE;
    }
    if (!parse_moment(c, argv[2], true, true, "expire", &expiry))
        return KV_RUN_DONE;
    kv_status status = kv_expire(c->db, argv[1], expiry, 0, &err);
    if (status < 0)
        kv_refuse_failure(c, &err);
    else
        kv_reply_integer(&c->reply, status == KV_OK);
    return KV_RUN_DONE;
}

kv_status kv_step_expire(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_expire(c, t, argv, argc, true, true, "expire", err);
}

kv_status kv_step_pexpire(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_expire(c, t, argv, argc, false, true, "pexpire", err);
}

kv_status kv_step_expireat(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_expire(c, t, argv, argc, true, false, "expireat", err);
}

kv_status kv_step_pexpireat(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    return step_expire(c, t, argv, argc, false, false, "pexpireat", err);
}

kv_status kv_step_persist(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    kv_txn_value value;
    kv_status status = kv_txn_get(t, argv[1], &value, err);
    if (status < 0)
        return status;
    bool has_one = status == KV_OK && value.expiry != 0;
    kv_reply_integer(&c->reply, has_one);
    return has_one ? kv_txn_expire(t, argv[1], 0, err) : KV_OK;
}

/* ---- Asking for it ------------------------------------------------------------------------------------- */

static kv_status step_ttl(kv_client *c, kv_txn *t, kv_bytes key, bool in_seconds, bool is_relative, kv_error *err) {
    kv_txn_value value;
    kv_status status = kv_lookup(c, t, key, &value, err);
    if (status < 0)
        return status;
    int64_t told = -2;
    if (status == KV_OK)
        told = value.expiry != 0 ? (int64_t)value.expiry : -1;
    if (told >= 0 && is_relative) {
        told -= (int64_t)kv_clock_ms(c->db);
        told = told > 0 ? told : 0;
    }
    if (told >= 0 && in_seconds)
        told = (told + 500) / 1000;
    kv_reply_integer(&c->reply, told);
    return KV_OK;
}

kv_status kv_step_ttl(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_ttl(c, t, argv[1], true, true, err);
}

kv_status kv_step_pttl(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_ttl(c, t, argv[1], false, true, err);
}

kv_status kv_step_expiretime(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_ttl(c, t, argv[1], true, false, err);
}

kv_status kv_step_pexpiretime(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)argc;
    return step_ttl(c, t, argv[1], false, false, err);
}
