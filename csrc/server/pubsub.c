/* pubsub.c - see pubsub.h; and the delivery of messages.
 *
 * A subscription is one client's interest in one channel.  It stands in three lists: its client's,
 * its channel's of that loop, and a table in which a client's subscription is found by its name. 
 * All are under the channels' lock; replies are written into by the loop of their client only, so a
 * message for other loops travels by their mailboxes.
 */
#include "pubsub.h"

#include <string.h>

#include "../base/mem.h"
#include "glob.h"
#include "shared.h"

#define TABLE_FIRST 64u

struct kv_subscription {
    kv_client *client;
    kv_channel *channel;
    uint64_t hash; /* of client, kind and name */
    kv_subscription *prev, *next;                     /* of the client and kind */
    kv_subscription *channel_prev, *channel_next;     /* of the channel and loop */
    kv_subscription *table_next;
};

struct kv_channel {
    kv_pubsub_kind kind;
    uint64_t hash;
    kv_channel *table_next;
    kv_channel *pattern_prev, *pattern_next;
    size_t total;
    kv_bytes name;           /* behind the lists */
    kv_subscription *lists[]; /* by loop */
};

struct kv_subscriptions {
    kv_subscription *first[2]; /* by kind */
    size_t count[2];
};

#define LOCK(channels) kv_mutex_lock(&(channels)->mutex, KV_RANK_CHANNELS)
#define UNLOCK(channels) kv_mutex_unlock(&(channels)->mutex, KV_RANK_CHANNELS)

static kv_channels *channels_of(const kv_client *c) {
    return &c->server->channels;
}

void kv_channels_init(kv_channels *channels) {
    *channels = (kv_channels){0};
}

void kv_channels_fini(kv_channels *channels) {
    kv_mem_free(channels->table);
    kv_mem_free(channels->listeners);
}

/* ---- Tables -------------------------------------------------------------------------------- */

static uint64_t name_hash(const kv_channels *channels, kv_pubsub_kind kind, kv_bytes name) {
    return kv_siphash13(channels->key, name.data, name.size) ^ ((uint64_t)kind << 63 | (uint64_t)kind);
}

static uint64_t listener_hash(uint64_t hash, const kv_client *c) {
    return (hash ^ c->id) * UINT64_C(0x9e3779b97f4a7c15);
}

static kv_channel *find_channel(const kv_channels *channels, uint64_t hash, kv_pubsub_kind kind, kv_bytes name) {
    if (channels->table_size == 0)
        return NULL;
    kv_channel *channel = channels->table[hash & (channels->table_size - 1)];
    while (channel != NULL && (channel->hash != hash || channel->kind != kind || channel->name.size != name.size ||
                               memcmp(channel->name.data, name.data, name.size) != 0))
        channel = channel->table_next;
    return channel;
}

static kv_subscription *find_listener(const kv_channels *channels, uint64_t hash, const kv_client *c,
                                      const kv_channel *channel) {
    if (channels->listeners_size == 0 || channel == NULL)
        return NULL;
    kv_subscription *s = channels->listeners[hash >> 20 & (channels->listeners_size - 1)];
    while (s != NULL && (s->client != c || s->channel != channel))
        s = s->table_next;
    return s;
}

static bool grow_table(kv_channels *channels) {
    if (channels->count < channels->table_size)
        return true;
    size_t size = channels->table_size > 0 ? channels->table_size * 2 : TABLE_FIRST;
    kv_channel **table = kv_mem_alloc_zero(size * sizeof *table);
    if (table == NULL)
        return channels->table_size > 0; /* the lists get longer, that is all */
    for (size_t i = 0; i < channels->table_size; i++) {
        for (kv_channel *c = channels->table[i], *next; c != NULL; c = next) {
            next = c->table_next;
            c->table_next = table[c->hash & (size - 1)];
            table[c->hash & (size - 1)] = c;
        }
    }
    kv_mem_free(channels->table);
    channels->table = table;
    channels->table_size = size;
    return true;
}

static bool grow_listeners(kv_channels *channels) {
    if (channels->listeners_count < channels->listeners_size)
        return true;
    size_t size = channels->listeners_size > 0 ? channels->listeners_size * 2 : TABLE_FIRST;
    kv_subscription **table = kv_mem_alloc_zero(size * sizeof *table);
    if (table == NULL)
        return channels->listeners_size > 0;
    for (size_t i = 0; i < channels->listeners_size; i++) {
        for (kv_subscription *s = channels->listeners[i], *next; s != NULL; s = next) {
            next = s->table_next;
            s->table_next = table[s->hash >> 20 & (size - 1)];
            table[s->hash >> 20 & (size - 1)] = s;
        }
    }
    kv_mem_free(channels->listeners);
    channels->listeners = table;
    channels->listeners_size = size;
    return true;
}

static kv_channel *create_channel(kv_channels *channels, unsigned loops, uint64_t hash, kv_pubsub_kind kind,
                                  kv_bytes name) {
    size_t head = sizeof(kv_channel) + loops * sizeof(kv_subscription *);
    kv_channel *channel = grow_table(channels) ? kv_mem_alloc_zero(head + name.size + 1) : NULL;
    if (channel == NULL)
        return NULL;
    uint8_t *copy = (uint8_t *)channel + head;
    if (name.size > 0)
        memcpy(copy, name.data, name.size);
    channel->kind = kind;
    channel->hash = hash;
    channel->name = (kv_bytes){copy, name.size};
    kv_channel **slot = &channels->table[hash & (channels->table_size - 1)];
    channel->table_next = *slot;
    *slot = channel;
    channels->count++;
    if (kind == KV_PUBSUB_PATTERN) {
        channel->pattern_next = channels->patterns;
        if (channel->pattern_next != NULL)
            channel->pattern_next->pattern_prev = channel;
        channels->patterns = channel;
        channels->pattern_count++;
    }
    return channel;
}

static void destroy_channel(kv_channels *channels, kv_channel *channel) {
    kv_channel **at = &channels->table[channel->hash & (channels->table_size - 1)];
    while (*at != channel)
        at = &(*at)->table_next;
    *at = channel->table_next;
    channels->count--;
    if (channel->kind == KV_PUBSUB_PATTERN) {
        if (channel->pattern_prev != NULL)
            channel->pattern_prev->pattern_next = channel->pattern_next;
        else
            channels->patterns = channel->pattern_next;
        if (channel->pattern_next != NULL)
            channel->pattern_next->pattern_prev = channel->pattern_prev;
        channels->pattern_count--;
    }
    kv_mem_free(channel);
}

/* ---- A client's own ------------------------------------------------------------------------ */

static void link_locked(kv_channels *channels, kv_subscription *s) {
    kv_client *c = s->client;
    kv_channel *channel = s->channel;
    kv_subscription **slot = &channels->listeners[s->hash >> 20 & (channels->listeners_size - 1)];
    s->table_next = *slot;
    *slot = s;
    channels->listeners_count++;
    s->channel_next = channel->lists[c->slice];
    if (s->channel_next != NULL)
        s->channel_next->channel_prev = s;
    channel->lists[c->slice] = s;
    channel->total++;
    s->next = c->subscriptions->first[channel->kind];
    if (s->next != NULL)
        s->next->prev = s;
    c->subscriptions->first[channel->kind] = s;
    c->subscriptions->count[channel->kind]++;
}

static void unlink_locked(kv_channels *channels, kv_subscription *s) {
    kv_client *c = s->client;
    kv_channel *channel = s->channel;
    kv_subscription **at = &channels->listeners[s->hash >> 20 & (channels->listeners_size - 1)];
    while (*at != s)
        at = &(*at)->table_next;
    *at = s->table_next;
    channels->listeners_count--;
    if (s->channel_prev != NULL)
        s->channel_prev->channel_next = s->channel_next;
    else
        channel->lists[c->slice] = s->channel_next;
    if (s->channel_next != NULL)
        s->channel_next->channel_prev = s->channel_prev;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        c->subscriptions->first[channel->kind] = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    c->subscriptions->count[channel->kind]--;
    if (--channel->total == 0)
        destroy_channel(channels, channel);
    kv_mem_free(s);
}

kv_status kv_pubsub_subscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name, kv_error *err) {
    kv_channels *channels = channels_of(c);
    uint64_t hash = name_hash(channels, kind, name);
    if (c->subscriptions == NULL) {
        c->subscriptions = kv_mem_alloc_zero(sizeof *c->subscriptions);
        if (c->subscriptions == NULL)
            return kv_fail_nomem(err, sizeof *c->subscriptions);
    }
    kv_subscription *s = kv_mem_alloc_zero(sizeof *s);
    if (s == NULL)
        return kv_fail_nomem(err, sizeof *s);
    s->client = c;
    s->hash = listener_hash(hash, c);
    kv_status status = KV_OK;
    LOCK(channels);
    s->channel = find_channel(channels, hash, kind, name);
    if (find_listener(channels, s->hash, c, s->channel) != NULL) {
        status = KV_UNCHANGED;
    } else if (!grow_listeners(channels)) {
        status = KV_ERR_NOMEM;
    } else {
        if (s->channel == NULL)
            s->channel = create_channel(channels, c->server->loop_count, hash, kind, name);
        if (s->channel != NULL)
            link_locked(channels, s);
        else
            status = KV_ERR_NOMEM;
    }
    UNLOCK(channels);
    if (status != KV_OK)
        kv_mem_free(s);
    return status == KV_ERR_NOMEM ? kv_fail_nomem(err, name.size) : status;
}

kv_status kv_pubsub_unsubscribe(kv_client *c, kv_pubsub_kind kind, kv_bytes name) {
    if (c->subscriptions == NULL)
        return KV_NOTFOUND;
    kv_channels *channels = channels_of(c);
    uint64_t hash = name_hash(channels, kind, name);
    LOCK(channels);
    kv_subscription *s =
        find_listener(channels, listener_hash(hash, c), c, find_channel(channels, hash, kind, name));
    if (s != NULL)
        unlink_locked(channels, s);
    UNLOCK(channels);
    return s != NULL ? KV_OK : KV_NOTFOUND;
}

size_t kv_pubsub_count_kind(const kv_client *c, kv_pubsub_kind kind) {
    return c->subscriptions != NULL ? c->subscriptions->count[kind] : 0;
}

size_t kv_pubsub_count(const kv_client *c) {
    return kv_pubsub_count_kind(c, KV_PUBSUB_CHANNEL) + kv_pubsub_count_kind(c, KV_PUBSUB_PATTERN);
}

bool kv_pubsub_some(const kv_client *c, kv_pubsub_kind kind, kv_bytes *name) {
    if (kv_pubsub_count_kind(c, kind) == 0)
        return false;
    *name = c->subscriptions->first[kind]->channel->name; /* it lives as long as the subscription, which is ours */
    return true;
}

void kv_pubsub_leave(kv_client *c) {
    if (c->subscriptions == NULL)
        return;
    kv_channels *channels = channels_of(c);
    LOCK(channels);
    for (int kind = 0; kind < 2; kind++)
        while (c->subscriptions->first[kind] != NULL)
            unlink_locked(channels, c->subscriptions->first[kind]);
    UNLOCK(channels);
    kv_mem_free(c->subscriptions);
    c->subscriptions = NULL;
}

/* ---- The server's -------------------------------------------------------------------------- */

void kv_pubsub_visit_channels(kv_server *server, bool (*visit)(void *arg, kv_bytes channel), void *arg) {
    kv_channels *channels = &server->channels;
    bool more = true;
    LOCK(channels);
    for (size_t i = 0; i < channels->table_size && more; i++)
        for (kv_channel *c = channels->table[i]; c != NULL && more; c = c->table_next)
            if (c->kind == KV_PUBSUB_CHANNEL)
                more = visit(arg, c->name);
    UNLOCK(channels);
}

size_t kv_pubsub_subscribers(kv_server *server, kv_bytes channel) {
    kv_channels *channels = &server->channels;
    LOCK(channels);
    kv_channel *found =
        find_channel(channels, name_hash(channels, KV_PUBSUB_CHANNEL, channel), KV_PUBSUB_CHANNEL, channel);
    size_t count = found != NULL ? found->total : 0;
    UNLOCK(channels);
    return count;
}

size_t kv_pubsub_patterns(kv_server *server) {
    kv_channels *channels = &server->channels;
    LOCK(channels);
    size_t count = channels->pattern_count;
    UNLOCK(channels);
    return count;
}

/* ---- Delivery ------------------------------------------------------------------------------ */

typedef struct delivery {
    kv_loop *loop;
    kv_bytes channel, message;
    kv_client *from;
    size_t count;
} delivery;

static void deliver_to(delivery *d, kv_client *c, const kv_channel *pattern) {
    kv_reply *r = &c->reply;
    if (c == d->from) { /* it is in the middle of a reply: behind it */
        r = &d->loop->aside;
        r->protocol = c->reply.protocol;
    }
    kv_reply_push(r, pattern != NULL ? 4 : 3);
    if (pattern != NULL) {
        kv_reply_bulk_text(r, "pmessage");
        kv_reply_bulk(r, pattern->name.data, pattern->name.size);
    } else {
        kv_reply_bulk_text(r, "message");
    }
    kv_reply_bulk(r, d->channel.data, d->channel.size);
    kv_reply_bulk(r, d->message.data, d->message.size);
    if (c != d->from)
        kv_loop_flush_later(d->loop, kv_conn_of(c));
    d->count++;
}

static void deliver_all(delivery *d, const kv_channel *channel, const kv_channel *pattern) {
    for (kv_subscription *s = channel->lists[d->loop->index]; s != NULL; s = s->channel_next)
        deliver_to(d, s->client, pattern);
}

static bool matches(const kv_channel *pattern, kv_bytes channel) {
    return kv_glob_match(pattern->name, channel, false);
}

size_t kv_pubsub_deliver(kv_loop *loop, kv_bytes channel, kv_bytes message, kv_client *from) {
    kv_channels *channels = &loop->server->channels;
    delivery d = {.loop = loop, .channel = channel, .message = message, .from = from};
    LOCK(channels);
    const kv_channel *found =
        find_channel(channels, name_hash(channels, KV_PUBSUB_CHANNEL, channel), KV_PUBSUB_CHANNEL, channel);
    if (found != NULL)
        deliver_all(&d, found, NULL);
    for (const kv_channel *p = channels->patterns; p != NULL; p = p->pattern_next)
        if (matches(p, channel))
            deliver_all(&d, p, p);
    UNLOCK(channels);
    return d.count;
}

static size_t count_in(const kv_channel *channel, unsigned loop) {
    size_t count = 0;
    for (kv_subscription *s = channel->lists[loop]; s != NULL; s = s->channel_next)
        count++;
    return count;
}

/* How many listen in that loop. */
static size_t listeners_in(kv_server *server, unsigned loop, kv_bytes channel) {
    kv_channels *channels = &server->channels;
    size_t count = 0;
    LOCK(channels);
    const kv_channel *found =
        find_channel(channels, name_hash(channels, KV_PUBSUB_CHANNEL, channel), KV_PUBSUB_CHANNEL, channel);
    if (found != NULL)
        count += count_in(found, loop);
    for (const kv_channel *p = channels->patterns; p != NULL; p = p->pattern_next)
        if (matches(p, channel))
            count += count_in(p, loop);
    UNLOCK(channels);
    return count;
}

static bool post(kv_loop *loop, kv_bytes channel, kv_bytes message) {
    kv_mail *mail = kv_mail_create(KV_MAIL_PUBLISH, channel.size + message.size);
    if (mail == NULL)
        return false;
    uint8_t *bytes = (uint8_t *)(mail + 1);
    if (channel.size > 0)
        memcpy(bytes, channel.data, channel.size);
    if (message.size > 0)
        memcpy(bytes + channel.size, message.data, message.size);
    mail->channel = (kv_bytes){bytes, channel.size};
    mail->message = (kv_bytes){bytes + channel.size, message.size};
    return kv_loop_send(loop, mail);
}

size_t kv_server_publish(kv_server *server, kv_client *from, kv_bytes channel, kv_bytes message) {
    size_t count = 0;
    for (unsigned i = 0; i < server->loop_count; i++) {
        kv_loop *loop = &server->loops[i];
        if (from != NULL && from->slice == i) {
            count += kv_pubsub_deliver(loop, channel, message, from);
            continue;
        }
        size_t listeners = listeners_in(server, i, channel);
        if (listeners > 0 && post(loop, channel, message))
            count += listeners;
    }
    return count;
}
