/* cmd_multi.c - MULTI, EXEC, DISCARD, WATCH, UNWATCH.
 *
 * EXEC runs all queued requests as one step (txn.h): their reads and writes are one commit, seen whole or not at
 * all.  What is not a step of the store (PING, PUBLISH, INFO, KEYS ...) runs when the commit is made, once however
 * often the step had to begin again, and its reply is put at its place.
 *
 * A watched key holds a pin on the entry that it had: it is unchanged as long as it has the same one.  (A key that
 * was absent, was made and deleted again, counts as unchanged.)
 */
#include <string.h>

#include "../base/mem.h"
#include "commands.h"

typedef struct queued {
    struct queued *next;
    const kv_command *command;
    uint64_t position; /* while EXEC runs: of the reply that is to come, ... */
    uint8_t protocol;  /* ... and in which protocol */
    size_t argc;
    kv_bytes argv[]; /* their bytes follow */
} queued;

typedef struct watched {
    struct watched *next;
    kv_item item; /* pin NULL: it was absent */
    bool is_found;
    kv_bytes key; /* its bytes follow */
} watched;

struct kv_multi {
    bool is_open;  /* between MULTI and EXEC */
    bool is_bad;   /* a request was refused: EXEC will be, too */
    queued *first, **last;
    size_t count;
    uint64_t queue_bytes, watched_bytes; /* the entries that are pinned, included */
    watched *watched;
};

/* ---- Life ---------------------------------------------------------------------------------------------- */

static kv_multi *multi_of(kv_client *c) {
    if (c->multi == NULL) {
        c->multi = kv_mem_alloc_zero(sizeof *c->multi);
        if (c->multi != NULL)
            c->multi->last = &c->multi->first;
    }
    if (c->multi == NULL)
        kv_refuse(c, "OOM out of memory");
    return c->multi;
}

static void forget_queue(kv_multi *m) {
    while (m->first != NULL) {
        queued *q = m->first;
        m->first = q->next;
        kv_mem_free(q);
    }
    m->last = &m->first;
    m->count = 0;
    m->queue_bytes = 0;
    m->is_open = m->is_bad = false;
}

static void forget_watched(kv_multi *m) {
    while (m->watched != NULL) {
        watched *w = m->watched;
        m->watched = w->next;
        if (w->is_found)
            kv_item_release(&w->item);
        kv_mem_free(w);
    }
    m->watched_bytes = 0;
}

uint64_t kv_client_kept_bytes(const kv_client *c) {
    return c->multi != NULL ? c->multi->queue_bytes + c->multi->watched_bytes : 0;
}

/* Is there room for so many bytes more? */
static bool has_room(const kv_client *c, uint64_t more) {
    uint64_t max = KV_COMMIT_MAX;
    if (c->server != NULL)
        max = atomic_load_explicit(&kv_server_config(c->server)->query_buffer_max, memory_order_relaxed);
    return more <= max && kv_client_kept_bytes(c) <= max - more;
}

void kv_multi_forget(kv_client *c) {
    if (c->multi == NULL)
        return;
    forget_queue(c->multi);
    forget_watched(c->multi);
    kv_mem_free(c->multi);
    c->multi = NULL;
}

bool kv_multi_is_open(const kv_client *c) {
    return c->multi != NULL && c->multi->is_open;
}

size_t kv_multi_count(const kv_client *c) {
    return c->multi != NULL ? c->multi->count : 0;
}

void kv_multi_fail(kv_client *c) {
    if (kv_multi_is_open(c))
        c->multi->is_bad = true;
}

/* ---- Queueing ------------------------------------------------------------------------------------------ */

void kv_multi_queue(kv_client *c, const kv_command *command, const kv_bytes *argv, size_t argc) {
    kv_multi *m = c->multi;
    uint64_t size = sizeof(queued) + argc * sizeof *argv;
    for (size_t i = 0; i < argc; i++)
        size += argv[i].size;
    if (!has_room(c, size)) {
        m->is_bad = true;
        kv_refuse(c, "ERR the transaction is too large (client-query-buffer-limit)");
        return;
    }
    queued *q = m->is_bad ? NULL : kv_mem_alloc((size_t)size);
    if (q == NULL) {
        bool no_memory = !m->is_bad;
        m->is_bad = true;
        if (no_memory)
            kv_refuse(c, "OOM out of memory");
        else /* it will not run: no need to keep it */
            kv_reply_status(&c->reply, "QUEUED");
        return;
    }
    *q = (queued){.command = command, .argc = argc};
    uint8_t *bytes = (uint8_t *)(q->argv + argc);
    for (size_t i = 0; i < argc; i++) {
        if (argv[i].size > 0)
            memcpy(bytes, argv[i].data, argv[i].size);
        q->argv[i] = (kv_bytes){bytes, argv[i].size};
        bytes += argv[i].size;
    }
    *m->last = q;
    m->last = &q->next;
    m->count++;
    m->queue_bytes += size;
    kv_reply_status(&c->reply, "QUEUED");
}

kv_run kv_cmd_multi(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (kv_multi_is_open(c)) {
        kv_refuse(c, "ERR MULTI calls can not be nested");
        return KV_RUN_DONE;
    }
    kv_multi *m = multi_of(c);
    if (m != NULL) {
        m->is_open = true;
        kv_reply_ok(&c->reply);
    }
    return KV_RUN_DONE;
}

kv_run kv_cmd_discard(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (!kv_multi_is_open(c)) {
        kv_refuse(c, "ERR DISCARD without MULTI");
        return KV_RUN_DONE;
    }
    kv_multi_forget(c);
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

/* ---- Watching ------------------------------------------------------------------------------------------ */

enum { LOOKED_AT = 100 };

/* Of the newest: a key that is watched twice does no harm, and looking through thousands for each of thousands
 * would. */
static bool is_watched(const kv_multi *m, kv_bytes key) {
    const watched *w = m->watched;
    for (int i = 0; i < LOOKED_AT && w != NULL; i++, w = w->next)
        if (kv_bytes_equal(w->key, key))
            return true;
    return false;
}

static kv_status watch(kv_client *c, kv_multi *m, kv_bytes key, kv_error *err) {
    watched *w = kv_mem_alloc(sizeof *w + key.size);
    if (w == NULL)
        return kv_fail_nomem(err, sizeof *w + key.size);
    memset(w, 0, sizeof *w);
    kv_status status = kv_get_item(c->db, key, 0, &w->item, err);
    if (status < 0) {
        kv_mem_free(w);
        return status;
    }
    w->is_found = status == KV_OK;
    if (key.size > 0)
        memcpy(w + 1, key.data, key.size);
    w->key = (kv_bytes){w + 1, key.size};
    w->next = m->watched;
    m->watched = w;
    m->watched_bytes += sizeof *w + key.size + (w->is_found ? w->item.value.size : 0);
    return KV_OK;
}

kv_run kv_cmd_watch(kv_client *c, const kv_bytes *argv, size_t argc) {
    kv_error err;
    if (kv_multi_is_open(c)) {
        kv_refuse(c, "ERR WATCH inside MULTI is not allowed");
        return KV_RUN_DONE;
    }
    kv_multi *m = multi_of(c);
    if (m == NULL)
        return KV_RUN_DONE;
    for (size_t i = 1; i < argc; i++) {
        if (is_watched(m, argv[i]))
            continue;
        if (!has_room(c, argv[i].size)) {
            kv_refuse(c, "ERR too much is watched (client-query-buffer-limit)");
            return KV_RUN_DONE;
        }
        if (watch(c, m, argv[i], &err) < 0) {
            kv_refuse_failure(c, &err);
            return KV_RUN_DONE;
        }
    }
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

kv_run kv_cmd_unwatch(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (c->multi != NULL)
        forget_watched(c->multi);
    kv_reply_ok(&c->reply);
    return KV_RUN_DONE;
}

/* ---- EXEC ---------------------------------------------------------------------------------------------- */

/* One attempt.  KV_NOTFOUND: a watched key has changed. */
static kv_status attempt(kv_client *c, kv_multi *m, kv_txn *t, kv_error *err) {
    kv_txn_begin(t, c->db);
    for (watched *w = m->watched; w != NULL; w = w->next) {
        kv_status status = kv_txn_expect(t, w->key, w->is_found ? w->item.pin : NULL, err);
        if (status != KV_OK)
            return status == KV_UNCHANGED ? KV_NOTFOUND : status;
    }
    kv_reply_array(&c->reply, m->count);
    for (queued *q = m->first; q != NULL; q = q->next) {
        q->position = kv_reply_position(&c->reply);
        q->protocol = c->reply.protocol;
        if (q->command->step == NULL)
            continue; /* its turn is after the commit */
        kv_status status = KV_OK;
        (void)kv_command_call(c, q->command, t, q->argv, q->argc, &status, err);
        if (status < 0)
            return status;
    }
    return kv_txn_commit(t, err);
}

/* Runs the request with a reply queue of its own, whose bytes are then put at their place.  By how much what is
 * behind has moved. */
static int64_t run_aside(kv_client *c, queued *q, uint64_t position) {
    kv_reply whole = c->reply;
    kv_reply_init(&c->reply);
    c->reply.protocol = q->protocol;
    c->reply.muted = whole.muted;
    c->reply.memory_max = whole.memory_max;
    (void)kv_command_call(c, q->command, NULL, q->argv, q->argc, NULL, NULL);
    kv_reply one = c->reply;
    c->reply = whole;
    int64_t moved = 0;
    size_t size = (size_t)(one.end - one.start), filled = 0;
    uint8_t *bytes = one.broken ? NULL : kv_mem_alloc(size > 0 ? size : 1);
    if (bytes == NULL) {
        c->reply.broken = true;
    } else if (size > 0) {
        struct iovec pieces[16];
        size_t count;
        while ((count = kv_reply_pieces(&one, one.end, pieces, 16)) > 0) {
            size_t sent = 0;
            for (size_t i = 0; i < count; i++) {
                memcpy(bytes + filled + sent, pieces[i].iov_base, pieces[i].iov_len);
                sent += pieces[i].iov_len;
            }
            filled += sent;
            kv_reply_sent(&one, sent);
        }
        moved = kv_reply_replace(&c->reply, position, position, bytes, size);
    }
    kv_mem_free(bytes);
    kv_reply_fini(&one);
    return moved;
}

static void exec(kv_client *c, kv_multi *m) {
    uint64_t position = kv_reply_position(&c->reply), errors = c->errors;
    uint8_t protocol = c->reply.protocol;
    kv_txn *t = kv_client_txn(c);
    kv_error err;
    if (t == NULL) {
        kv_refuse(c, "OOM out of memory");
        return;
    }
    kv_status status;
    do {
        kv_reply_cut(&c->reply, position);
        c->reply.protocol = protocol;
        c->errors = errors;
        status = attempt(c, m, t, &err);
    } while (status == KV_UNCHANGED);
    kv_txn_end(t);
    if (status == KV_NOTFOUND) {
        kv_reply_null_array(&c->reply);
    } else if (status < 0) {
        kv_reply_cut(&c->reply, position);
        c->reply.protocol = protocol;
        kv_refuse_failure(c, &err);
    } else {
        int64_t moved = 0;
        for (queued *q = m->first; q != NULL; q = q->next)
            if (q->command->step == NULL)
                moved += run_aside(c, q, q->position + (uint64_t)moved);
        c->errors = errors; /* what was queued has failed, not EXEC */
    }
}

kv_run kv_cmd_exec(kv_client *c, const kv_bytes *argv, size_t argc) {
    (void)argv;
    (void)argc;
    if (!kv_multi_is_open(c)) {
        kv_refuse(c, "ERR EXEC without MULTI");
        return KV_RUN_DONE;
    }
    kv_multi *m = c->multi;
    c->multi = NULL; /* what runs now is not queued */
    if (m->is_bad) {
        kv_refuse(c, "EXECABORT Transaction discarded because of previous errors.");
    } else {
        c->in_exec = true;
        exec(c, m);
        c->in_exec = false;
    }
    forget_queue(m);
    forget_watched(m);
    kv_mem_free(m);
    return KV_RUN_DONE;
}
