/* cmd_pubsub.c - PUBLISH, SUBSCRIBE and so on, over pubsub.h. */
#include "pubsub.h"

#include <string.h>

#include "commands.h"
#include "glob.h"

/* What SUBSCRIBE and the others tell about one channel: a push in RESP3, and like the messages not a reply that
 * CLIENT REPLY keeps back.  `name` NULL: there was none to leave.
 */
static void tell(kv_client *c, const char *what, const kv_bytes *name, bool leave, kv_pubsub_kind kind) {
    bool muted = c->reply.muted;
    c->reply.muted = false;
    kv_reply_push(&c->reply, 3);
    kv_reply_bulk_text(&c->reply, what);
    if (name != NULL)
        kv_reply_bulk(&c->reply, name->data, name->size);
    else
        kv_reply_null(&c->reply);
    if (leave) /* after its name, which may go with it, and before the count */
        (void)kv_pubsub_unsubscribe(c, kind, *name);
    kv_reply_integer(&c->reply, (int64_t)kv_pubsub_count(c));
    c->reply.muted = muted;
}

static kv_run subscribe(kv_client *c, kv_pubsub_kind kind, const char *what, const kv_bytes *argv, size_t argc) {
    for (size_t i = 1; i < argc; i++) {
        kv_error err;
        if (kv_pubsub_subscribe(c, kind, argv[i], &err) < 0)
            kv_refuse_failure(c, &err);
        else
            tell(c, what, &argv[i], false, kind);
    }
    return KV_RUN_DONE;
}

static kv_run unsubscribe(kv_client *c, kv_pubsub_kind kind, const char *what, const kv_bytes *argv, size_t argc) {
    for (size_t i = 1; i < argc; i++)
        tell(c, what, &argv[i], true, kind);
    if (argc > 1)
        return KV_RUN_DONE;
    kv_bytes name;
    if (!kv_pubsub_some(c, kind, &name)) {
        tell(c, what, NULL, false, kind);
        return KV_RUN_DONE;
    }
    do {
        tell(c, what, &name, true, kind);
    } while (kv_pubsub_some(c, kind, &name));
    return KV_RUN_DONE;
}

kv_run kv_cmd_subscribe(kv_client *c, const kv_bytes *argv, size_t argc) {
    return subscribe(c, KV_PUBSUB_CHANNEL, "subscribe", argv, argc);
}

kv_run kv_cmd_psubscribe(kv_client *c, const kv_bytes *argv, size_t argc) {
    return subscribe(c, KV_PUBSUB_PATTERN, "psubscribe", argv, argc);
}

kv_run kv_cmd_unsubscribe(kv_client *c, const kv_bytes *argv, size_t argc) {
    return unsubscribe(c, KV_PUBSUB_CHANNEL, "unsubscribe", argv, argc);
}

kv_run kv_cmd_punsubscribe(kv_client *c, const kv_bytes *argv, size_t argc) {
    return unsubscribe(c, KV_PUBSUB_PATTERN, "punsubscribe", argv, argc);
}

kv_run kv_cmd_publish(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argc;
    kv_reply_integer(&c->reply, (int64_t)kv_server_publish(c->server, c, argv[1], argv[2]));
    return KV_RUN_DONE;
}

/* ---- PUBSUB -------------------------------------------------------------------------------------------- */

typedef struct found_channels {
    kv_text_buffer bytes; /* a size and so many bytes each */
    size_t count;
    const kv_bytes *pattern; /* NULL: all */
} found_channels;

static bool note_channel(void *arg, kv_bytes channel) {
    found_channels *f = arg;
    if (f->pattern == NULL || kv_glob_match(*f->pattern, channel, false)) {
        kv_text_add(&f->bytes, &channel.size, sizeof channel.size);
        kv_text_add(&f->bytes, channel.data, channel.size);
        f->count++;
    }
    return !f->bytes.broken;
}

static kv_run pubsub_channels(kv_client *c, const kv_bytes *argv, size_t argc) {
    if (argc > 3) {
        kv_refuse_form(c, "PUBSUB", argv[1]);
        return KV_RUN_DONE;
    }
    found_channels f = {.pattern = argc == 3 ? &argv[2] : NULL};
    kv_pubsub_visit_channels(c->server, note_channel, &f);
    if (f.bytes.broken) {
        kv_refuse(c, "OOM out of memory");
    } else {
        const char *p = f.bytes.data;
        kv_reply_array(&c->reply, f.count);
        for (size_t i = 0; i < f.count; i++) {
            size_t size;
            memcpy(&size, p, sizeof size);
            kv_reply_bulk(&c->reply, p + sizeof size, size);
            p += sizeof size + size;
        }
    }
    kv_text_free(&f.bytes);
    return KV_RUN_DONE;
}

static kv_run pubsub_numsub(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_reply_array(&c->reply, (argc - 2) * 2);
    for (size_t i = 2; i < argc; i++) {
        kv_reply_bulk(&c->reply, argv[i].data, argv[i].size);
        kv_reply_integer(&c->reply, (int64_t)kv_pubsub_subscribers(c->server, argv[i]));
    }
    return KV_RUN_DONE;
}

static kv_run pubsub_numpat(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    kv_reply_integer(&c->reply, (int64_t)kv_pubsub_patterns(c->server));
    return KV_RUN_DONE;
}

static const kv_subcommand pubsub_rows[] = {
    {"channels", -2, pubsub_channels, "CHANNELS [<pattern>]", "The channels that somebody listens to."},
    {"numpat", 2, pubsub_numpat, "NUMPAT", "How many patterns somebody listens to."},
    {"numsub", -2, pubsub_numsub, "NUMSUB [<channel> ...]", "How many listen to each of the channels."},
};
const kv_subcommands kv_subcommands_pubsub = {"PUBSUB", pubsub_rows, KV_COUNT_OF(pubsub_rows)};

kv_run kv_cmd_pubsub(kv_client *c, const kv_bytes *argv, size_t argc) {
    return kv_run_subcommand(c, &kv_subcommands_pubsub, argv, argc);
}
