/* cmd_connection.c - a client's own connection, and the others'. */
#include <inttypes.h>
#include <string.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "commands.h"
#include "pubsub.h"

kv_run kv_cmd_ping(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 2) {
        kv_refuse_arity(c, "ping");
    } else if (c->subscriptions != NULL && kv_client_is_subscriber(c)) {
        kv_reply_array(&c->reply, 2);
        kv_reply_bulk_text(&c->reply, "pong");
        kv_reply_bulk(&c->reply, argc == 2 ? argv[1].data : "", argc == 2 ? argv[1].size : 0);
    } else if (argc == 2) {
        kv_reply_bulk(&c->reply, argv[1].data, argv[1].size);
    } else {
        kv_reply_status(&c->reply, "PONG");
    }
    return KV_RUN_DONE;
}

kv_run kv_cmd_echo(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_reply_bulk(&c->reply, argv[1].data, argv[1].size);
    return KV_RUN_DONE;
}

kv_run kv_cmd_select(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t db;
    if (!kv_parse_integer(argv[1], &db))
        kv_refuse(c, KV_NOT_INTEGER);
    else if (db != 0)
        kv_refuse(c, "ERR DB index is out of range");
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_cmd_swapdb(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    int64_t a, b;
    if (!kv_parse_integer(argv[1], &a))
        kv_refuse(c, "ERR invalid first DB index");
    else if (!kv_parse_integer(argv[2], &b))
        kv_refuse(c, "ERR invalid second DB index");
    else if (a != 0 || b != 0)
        kv_refuse(c, "ERR DB index is out of range");
    else
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_cmd_quit(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    c->close_after_reply = true;
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_cmd_reset(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_client_reset(c);
    c->reply.muted = false;
    kv_reply_status(&c->reply, "RESET");
    return KV_RUN_DONE;
}

kv_run kv_cmd_readonly(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_refuse(c, "ERR This instance has cluster support disabled");
    return KV_RUN_DONE;
}

/* ---- AUTH and HELLO ------------------------------------------------------------------------------------ */

bool kv_authenticate(kv_client *c, kv_bytes user, kv_bytes password) {
    kv_config *config = kv_server_config(c->server);
    bool is_default = kv_bytes_equal(user, kv_text("default"));
    /* Compared in any case, so that the time does not tell which of the two is wrong. */
    bool is_right = !kv_config_has_password(config) || kv_config_is_password(config, password);
    if (is_default && is_right) {
        c->authenticated = true;
        return true;
    }
    kv_refuse(c, "WRONGPASS invalid username-password pair or user is disabled.");
    return false;
}

kv_run kv_cmd_auth(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 3) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_RUN_DONE;
    }
    if (argc == 2 && !kv_config_has_password(kv_server_config(c->server))) {
        kv_refuse(c, "ERR AUTH <password> called without any password configured for the default user. Are you sure "
                     "your configuration is correct?");
        return KV_RUN_DONE;
    }
    if (kv_authenticate(c, argc == 3 ? argv[1] : kv_text("default"), argv[argc - 1]))
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

/* Names stand in lines of CLIENT LIST, with spaces between the fields. */
static bool name_is_good(kv_bytes name) {
    const uint8_t *p = name.data;
    for (size_t i = 0; i < name.size; i++)
        if (p[i] < '!' || p[i] > '~')
            return false;
    return true;
}

void kv_set_name(char **name, kv_bytes value) {
    char *copy = NULL;
    if (value.size > 0) {
        copy = kv_mem_alloc(value.size + 1);
        if (copy == NULL)
            return; /* it keeps the one that it has */
        memcpy(copy, value.data, value.size);
        copy[value.size] = '\0';
    }
    kv_mem_free(*name);
    *name = copy;
}

kv_run kv_cmd_hello(kv_client *c, const kv_bytes *argv, size_t argc) {
    int64_t protocol = c->reply.protocol;
    const kv_bytes *user = NULL, *name = NULL;
    if (argc > 1 && !kv_parse_integer(argv[1], &protocol)) {
        kv_refuse(c, "ERR Protocol version is not an integer or out of range");
        return KV_RUN_DONE;
    }
    if (protocol != 2 && protocol != 3) {
        kv_refuse(c, "NOPROTO unsupported protocol version");
        return KV_RUN_DONE;
    }
    for (size_t i = 2; i < argc; i++) {
        if (kv_word_is(argv[i], "auth") && i + 2 < argc) {
            user = &argv[i + 1];
            i += 2;
        } else if (kv_word_is(argv[i], "setname") && i + 1 < argc) {
            name = &argv[++i];
            if (!name_is_good(*name)) {
                kv_refuse(c, "ERR Client names cannot contain spaces, newlines or special characters.");
                return KV_RUN_DONE;
            }
        } else {
            kv_refusef(c, "ERR Syntax error in HELLO option '%.*s'", KV_TEXT(argv[i], 128u));
            return KV_RUN_DONE;
        }
    }
    if (user != NULL && !kv_authenticate(c, user[0], user[1]))
        return KV_RUN_DONE;
    if (!c->authenticated) {
        kv_refuse(c, "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> "
                     "AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol "
                     "version at the same time");
        return KV_RUN_DONE;
    }
    if (name != NULL)
        kv_set_name(&c->name, *name);
    c->reply.protocol = (uint8_t)protocol;
    kv_reply *r = &c->reply;
    kv_reply_map(r, 7);
    kv_reply_bulk_text(r, "server");
    kv_reply_bulk_text(r, "redis");
    kv_reply_bulk_text(r, "version");
    kv_reply_bulk_text(r, KV_REDIS_VERSION);
    kv_reply_bulk_text(r, "proto");
    kv_reply_integer(r, protocol);
    kv_reply_bulk_text(r, "id");
    kv_reply_integer(r, (int64_t)c->id);
    kv_reply_bulk_text(r, "mode");
    kv_reply_bulk_text(r, "standalone");
    kv_reply_bulk_text(r, "role");
    kv_reply_bulk_text(r, "master");
    kv_reply_bulk_text(r, "modules");
    kv_reply_array(r, 0);
    return KV_RUN_DONE;
}

/* In EXEC in its turn: what stands behind it is answered in its protocol.  (It may well run several times.) */
kv_status kv_step_hello(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    (void)t;
    (void)err;
    (void)kv_cmd_hello(c, argv, argc);
    return KV_OK;
}

/* ---- CLIENT -------------------------------------------------------------------------------------------- */

/* (One of another loop may have come since `now_ns`.) */
static uint64_t age_s(const kv_client *client, uint64_t now_ns) {
    return now_ns > client->created_ns ? (now_ns - client->created_ns) / 1000000000 : 0;
}

void kv_client_describe(const kv_client *client, uint64_t now_ns, kv_text_buffer *b) {
    uint64_t active = client->active_ns != 0 ? client->active_ns : client->created_ns;
    char flags[8];
    size_t n = 0;
    if (client->subscriptions != NULL && kv_pubsub_count(client) > 0)
        flags[n++] = 'P';
    if (kv_multi_is_open(client))
        flags[n++] = 'x';
    if (client->close_after_reply)
        flags[n++] = 'c';
    if (client->close_now)
        flags[n++] = 'A';
    if (client->no_evict)
        flags[n++] = 'e';
    if (client->no_touch)
        flags[n++] = 'T';
    if (n == 0)
        flags[n++] = 'N';
    flags[n] = '\0';
    kv_text_addf(b, "id=%" PRIu64 " addr=%s laddr=%s fd=-1 name=%s age=%" PRIu64 " idle=%" PRIu64 " flags=%s db=0",
                 client->id, client->address, client->local_address, client->name != NULL ? client->name : "",
                 age_s(client, now_ns), now_ns > active ? (now_ns - active) / 1000000000 : 0, flags);
    bool is_subscribed = client->subscriptions != NULL;
    kv_text_addf(b, " sub=%zu psub=%zu ssub=0 multi=%d",
                 is_subscribed ? kv_pubsub_count_kind(client, KV_PUBSUB_CHANNEL) : 0,
                 is_subscribed ? kv_pubsub_count_kind(client, KV_PUBSUB_PATTERN) : 0,
                 kv_multi_is_open(client) ? (int)kv_multi_count(client) : -1);
    kv_text_addf(b, " qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=%" PRIu64 " rbs=0 rbp=0 obl=0 oll=0 omem=%zu"
                    " tot-mem=%" PRIu64 " events=r",
                 kv_client_kept_bytes(client), client->reply.memory_bytes,
                 kv_client_kept_bytes(client) + client->reply.memory_bytes);
    kv_text_addf(b, " cmd=%s user=default redir=-1 resp=%u lib-name=%s lib-ver=%s tot-cmds=%" PRIu64 "\n",
                 client->last_command != NULL ? client->last_command->name : "NULL", client->reply.protocol,
                 client->lib_name != NULL ? client->lib_name : "",
                 client->lib_version != NULL ? client->lib_version : "", client->requests);
}

static kv_run client_id(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, (int64_t)c->id);
    return KV_RUN_DONE;
}

static void reply_text(kv_client *c, kv_text_buffer *b) {
    if (b->broken)
        kv_refuse(c, "OOM out of memory");
    else
        kv_reply_verbatim(&c->reply, "txt", b->data != NULL ? b->data : "", b->size);
    kv_text_free(b);
}

static kv_run client_info(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_text_buffer b = {0};
    kv_client_describe(c, kv_now_ns(), &b);
    reply_text(c, &b);
    return KV_RUN_DONE;
}

typedef struct listing {
    kv_text_buffer text;
    uint64_t now_ns;
    const kv_bytes *ids; /* NULL: all */
    size_t id_count;
    bool subscribers_only, others_only;
} listing;

static bool list_one(void *arg, kv_client *client) {
    listing *l = arg;
    bool wanted = l->ids == NULL;
    for (size_t i = 0; i < l->id_count && !wanted; i++) {
        int64_t id;
        wanted = kv_parse_integer(l->ids[i], &id) && (uint64_t)id == client->id;
    }
    bool is_subscriber = client->subscriptions != NULL && kv_pubsub_count(client) > 0;
    if (wanted && !(l->subscribers_only && !is_subscriber) && !(l->others_only && is_subscriber))
        kv_client_describe(client, l->now_ns, &l->text);
    return !l->text.broken;
}

static kv_run client_list(kv_client *c, const kv_bytes *argv, size_t argc) {
    listing l = {.now_ns = kv_now_ns()};
    bool nobody = false;
    if (argc == 4 && kv_word_is(argv[2], "type")) {
        if (kv_word_is(argv[3], "pubsub"))
            l.subscribers_only = true;
        else if (kv_word_is(argv[3], "normal"))
            l.others_only = true;
        else if (kv_word_is(argv[3], "master") || kv_word_is(argv[3], "replica") || kv_word_is(argv[3], "slave"))
            nobody = true;
        else {
            kv_refusef(c, "ERR Unknown client type '%.*s'", KV_TEXT(argv[3], 128u));
            return KV_RUN_DONE;
        }
    } else if (argc > 3 && kv_word_is(argv[2], "id")) {
        l.ids = argv + 3;
        l.id_count = argc - 3;
        for (size_t i = 0; i < l.id_count; i++) {
            int64_t id;
            if (!kv_parse_integer(l.ids[i], &id) || id < 1) {
                kv_refuse(c, "ERR Invalid client ID");
                return KV_RUN_DONE;
            }
        }
    } else if (argc != 2) {
        kv_refuse(c, KV_SYNTAX_ERROR);
        return KV_RUN_DONE;
    }
    if (!nobody)
        kv_server_visit_clients(c->server, list_one, &l);
    reply_text(c, &l.text);
    return KV_RUN_DONE;
}

static kv_run client_getname(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (c->name != NULL)
        kv_reply_bulk_text(&c->reply, c->name);
    else
        kv_reply_null(&c->reply);
    return KV_RUN_DONE;
}

static kv_run client_setname(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    if (!name_is_good(argv[2])) {
        kv_refuse(c, "ERR Client names cannot contain spaces, newlines or special characters.");
        return KV_RUN_DONE;
    }
    kv_set_name(&c->name, argv[2]);
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run client_setinfo(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    char **field = kv_word_is(argv[2], "lib-name")  ? &c->lib_name
                   : kv_word_is(argv[2], "lib-ver") ? &c->lib_version
                                                    : NULL;
    if (field == NULL) {
        kv_refusef(c, "ERR Unrecognized option '%.*s'", KV_TEXT(argv[2], 128u));
    } else if (!name_is_good(argv[3])) {
        kv_refusef(c, "ERR %s cannot contain spaces, newlines or special characters.",
                   field == &c->lib_name ? "lib-name" : "lib-ver");
    } else {
        kv_set_name(field, argv[3]);
        kv_reply_ok(&c->reply);
    }
    return KV_RUN_DONE;
}

typedef struct hunt {
    kv_client *self;
    const kv_bytes *address, *local_address, *user;
    uint64_t id;          /* 0: any */
    uint64_t age_min_s;   /* MAXAGE */
    int subscribers;      /* -1: any */
    bool skip_self, nobody;
    uint64_t now_ns;
    uint64_t ids[256];    /* to be killed when the visit is over */
    size_t found, count;
    bool kills_self;
} hunt;

static bool hunt_one(void *arg, kv_client *client) {
    hunt *h = arg;
    bool is_subscriber = client->subscriptions != NULL && kv_pubsub_count(client) > 0;
    if (h->nobody || client->close_now || (h->id != 0 && client->id != h->id) ||
        (h->address != NULL && !kv_bytes_equal(*h->address, kv_text(client->address))) ||
        (h->local_address != NULL && !kv_bytes_equal(*h->local_address, kv_text(client->local_address))) ||
        (h->subscribers >= 0 && is_subscriber != (h->subscribers > 0)) ||
        age_s(client, h->now_ns) < h->age_min_s ||
        (h->skip_self && client == h->self))
        return true;
    if (client == h->self) {
        h->kills_self = true;
    } else {
        client->close_now = true; /* its loop, whose turn we hold, gets to know later: not to be found again */
        h->ids[h->count++] = client->id;
    }
    h->found++;
    return h->count < sizeof h->ids / sizeof h->ids[0];
}

static uint64_t kill_hunted(kv_client *c, hunt *h) {
    uint64_t killed = 0;
    h->self = c;
    h->now_ns = kv_now_ns();
    do {
        h->count = h->found = 0;
        h->kills_self = false;
        kv_server_visit_clients(c->server, hunt_one, h);
        for (size_t i = 0; i < h->count; i++)
            kv_server_kill(c->server, h->ids[i]);
        killed += h->found;
        h->skip_self = h->skip_self || h->kills_self;
        if (h->kills_self)
            c->close_after_reply = true;
    } while (h->count == sizeof h->ids / sizeof h->ids[0]);
    return killed;
}

static bool parse_hunt(kv_client *c, const kv_bytes *argv, size_t argc, hunt *h) {
    for (size_t i = 2; i < argc; i += 2) {
        if (i + 1 >= argc) {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return false;
        }
        kv_bytes value = argv[i + 1];
        int64_t n;
        if (kv_word_is(argv[i], "id")) {
            if (!kv_parse_integer(value, &n) || n < 1) {
                kv_refuse(c, "ERR client-id should be greater than 0");
                return false;
            }
            h->id = (uint64_t)n;
        } else if (kv_word_is(argv[i], "maxage")) {
            if (!kv_parse_integer(value, &n) || n < 1) {
                kv_refuse(c, "ERR maxage is not an integer or out of range");
                return false;
            }
            h->age_min_s = (uint64_t)n;
        } else if (kv_word_is(argv[i], "type")) {
            h->subscribers = kv_word_is(value, "pubsub");
            if (kv_word_is(value, "master") || kv_word_is(value, "replica") || kv_word_is(value, "slave")) {
                h->nobody = true;
            } else if (!h->subscribers && !kv_word_is(value, "normal")) {
                kv_refusef(c, "ERR Unknown client type '%.*s'", KV_TEXT(value, 128u));
                return false;
            }
        } else if (kv_word_is(argv[i], "addr")) {
            h->address = &argv[i + 1];
        } else if (kv_word_is(argv[i], "laddr")) {
            h->local_address = &argv[i + 1];
        } else if (kv_word_is(argv[i], "user")) {
            if (!kv_bytes_equal(value, kv_text("default"))) {
                kv_refusef(c, "ERR No such user '%.*s'", KV_TEXT(value, 128u));
                return false;
            }
        } else if (kv_word_is(argv[i], "skipme") && (kv_word_is(value, "yes") || kv_word_is(value, "no"))) {
            h->skip_self = kv_word_is(value, "yes");
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return false;
        }
    }
    return true;
}

static kv_run client_kill(kv_client *c, const kv_bytes *argv, size_t argc) {
    hunt h = {.subscribers = -1, .skip_self = true};
    if (argc == 3) { /* the old form */
        h.address = &argv[2];
        h.skip_self = false;
        if (kill_hunted(c, &h) > 0)
            kv_reply_ok(&c->reply);
        else
            kv_refuse(c, "ERR No such client");
    } else if (parse_hunt(c, argv, argc, &h)) {
        kv_reply_integer(&c->reply, (int64_t)kill_hunted(c, &h));
    }
    return KV_RUN_DONE;
}

/* ON or OFF; false: it has been refused. */
static bool parse_switch(kv_client *c, kv_bytes word, bool *on) {
    *on = kv_word_is(word, "on");
    if (*on || kv_word_is(word, "off"))
        return true;
    kv_refuse(c, KV_SYNTAX_ERROR);
    return false;
}

static kv_run client_no_evict(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    if (parse_switch(c, argv[2], &c->no_evict))
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run client_no_touch(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    if (parse_switch(c, argv[2], &c->no_touch))
        kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static kv_run client_reply(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    if (kv_word_is(argv[2], "on")) {
        c->reply_off = c->reply_skip_next = false;
        c->reply.muted = false;
        kv_reply_ok(&c->reply);
    } else if (kv_word_is(argv[2], "off")) {
        c->reply_off = true;
    } else if (kv_word_is(argv[2], "skip")) {
        c->reply_skip_next = !c->reply_off;
    } else {
        kv_refuse(c, KV_SYNTAX_ERROR);
    }
    return KV_RUN_DONE;
}

static kv_run client_tracking(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc == 3 && kv_word_is(argv[2], "off"))
        kv_reply_ok(&c->reply);
    else if (kv_word_is(argv[2], "on"))
        kv_refuse(c, "ERR client side caching is not supported");
    else
        kv_refuse(c, KV_SYNTAX_ERROR);
    return KV_RUN_DONE;
}

static kv_run client_trackinginfo(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply *r = &c->reply;
    kv_reply_map(r, 3);
    kv_reply_bulk_text(r, "flags");
    kv_reply_set(r, 1);
    kv_reply_bulk_text(r, "off");
    kv_reply_bulk_text(r, "redirect");
    kv_reply_integer(r, -1);
    kv_reply_bulk_text(r, "prefixes");
    kv_reply_array(r, 0);
    return KV_RUN_DONE;
}

static kv_run client_getredir(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, -1);
    return KV_RUN_DONE;
}

static kv_run client_unblock(kv_client *c, const kv_bytes *argv, size_t argc) {
    int64_t id;
    if (argc == 4 && !kv_word_is(argv[3], "timeout") && !kv_word_is(argv[3], "error"))
        kv_refuse(c, "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
    else if (argc > 4)
        kv_refuse_form(c, "CLIENT", argv[1]);
    else if (!kv_parse_integer(argv[2], &id))
        kv_refuse(c, KV_NOT_INTEGER);
    else
        kv_reply_integer(&c->reply, 0); /* nobody is ever blocked */
    return KV_RUN_DONE;
}

static kv_run client_pause(kv_client *c, const kv_bytes *argv, size_t argc) {
    int64_t ms;
    if (argc > 4 || (argc == 4 && !kv_word_is(argv[3], "write") && !kv_word_is(argv[3], "all")))
        kv_refuse(c, KV_SYNTAX_ERROR);
    else if (!kv_parse_integer(argv[2], &ms) || ms < 0)
        kv_refuse(c, "ERR timeout is not an integer or out of range");
    else
        kv_refuse(c, "ERR CLIENT PAUSE is not supported");
    return KV_RUN_DONE;
}

static kv_run client_unpause(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

static const kv_subcommand client_rows[] = {
    {"getname", 2, client_getname, "GETNAME", "The name of this connection."},
    {"getredir", 2, client_getredir, "GETREDIR", "Always -1: there is no tracking."},
    {"id", 2, client_id, "ID", "The number of this connection."},
    {"info", 2, client_info, "INFO", "What there is to say about this connection."},
    {"kill", -3, client_kill, "KILL <ip:port> | <option> <value> ...", "Closes connections."},
    {"list", -2, client_list, "LIST [TYPE <type> | ID <id> ...]", "All connections."},
    {"no-evict", 3, client_no_evict, "NO-EVICT (ON|OFF)", "Accepted, without effect."},
    {"no-touch", 3, client_no_touch, "NO-TOUCH (ON|OFF)", "Accepted, without effect."},
    {"pause", -3, client_pause, "PAUSE <timeout> [WRITE|ALL]", "Not supported."},
    {"reply", 3, client_reply, "REPLY (ON|OFF|SKIP)", "Whether requests are answered."},
    {"setinfo", 4, client_setinfo, "SETINFO <option> <value>", "LIB-NAME or LIB-VER of this connection."},
    {"setname", 3, client_setname, "SETNAME <name>", "Names this connection."},
    {"tracking", -3, client_tracking, "TRACKING OFF", "Not supported otherwise."},
    {"trackinginfo", 2, client_trackinginfo, "TRACKINGINFO", "Always off."},
    {"unblock", -3, client_unblock, "UNBLOCK <id> [TIMEOUT|ERROR]", "Always 0: nobody is blocked."},
    {"unpause", 2, client_unpause, "UNPAUSE", "Accepted, without effect."},
};
const kv_subcommands kv_subcommands_client = {"CLIENT", client_rows, KV_COUNT_OF(client_rows)};

kv_run kv_cmd_client(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_client, argv, argc);
}
