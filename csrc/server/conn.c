/* conn.c - see conn.h. */
#include "conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../base/mem.h"
#include "command.h"
#include "pubsub.h"
#include "shared.h"

#define PIECES_MAX 64
#define LINE_MAX_BYTES (64u << 10)       /* an inline request */
#define PARTIAL_LEAST 64u                /* bytes */
#define DIRECT_LEAST (KV_READ_SIZE / 2)  /* a request with so much kept is read into its own buffer */
#define TURN_NS 1000000u                 /* a connection's requests run so long at a stretch */
#define TURN_BYTES (1u << 20)            /* so much is sent to it at a stretch ... */
#define SOCKET_BYTES (16u << 20)         /* ... or so much of what is too much, if its socket takes it */
#define KEEPALIVE_S 300

/* ---- Lists --------------------------------------------------------------------------------- */

/* Where a link stands in its connection. */
#define LINK(conn, list_offset) ((kv_conn_link *)((char *)(conn) + (list_offset)))

static void list_remove(kv_conn_list *list, size_t offset, kv_conn *conn) {
    kv_conn_link *link = LINK(conn, offset);
    if (!link->listed)
        return;
    if (link->prev != NULL)
        LINK(link->prev, offset)->next = link->next;
    else
        list->first = link->next;
    if (link->next != NULL)
        LINK(link->next, offset)->prev = link->prev;
    else
        list->last = link->prev;
    link->listed = false;
}

static void list_append(kv_conn_list *list, size_t offset, kv_conn *conn, uint64_t now_ns) {
    kv_conn_link *link = LINK(conn, offset);
    list_remove(list, offset, conn);
    *link = (kv_conn_link){.prev = list->last, .listed = true, .since_ns = now_ns};
    if (list->last != NULL)
        LINK(list->last, offset)->next = conn;
    else
        list->first = conn;
    list->last = conn;
}

#define IDLE offsetof(kv_conn, idle)
#define HALF offsetof(kv_conn, half)

void kv_conn_touch(kv_conn *conn) {
    list_append(&conn->loop->idle, IDLE, conn, conn->loop->now_ns);
}

/* ---- Coming and going ---------------------------------------------------------------------- */

static void describe_address(const struct sockaddr_storage *address, char *text, size_t size) {
    char ip[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr_in *v4 = (const void *)address;
    const struct sockaddr_in6 *v6 = (const void *)address;
    if (address->ss_family == AF_INET) {
        (void)inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
        (void)snprintf(text, size, "%s:%u", ip, ntohs(v4->sin_port));
    } else {
        (void)inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
        (void)snprintf(text, size, "[%s]:%u", ip, ntohs(v6->sin6_port));
    }
}

static void describe_ends(kv_conn *conn, bool is_unix) {
    kv_client *client = &conn->client;
    if (is_unix) {
        (void)snprintf(client->address, sizeof client->address, "%.60s:0", conn->loop->server->config.unix_path);
        memcpy(client->local_address, client->address, sizeof client->address);
        return;
    }
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getpeername(conn->fd, (struct sockaddr *)&address, &size) == 0)
        describe_address(&address, client->address, sizeof client->address);
    size = sizeof address;
    if (getsockname(conn->fd, (struct sockaddr *)&address, &size) == 0)
        describe_address(&address, client->local_address, sizeof client->local_address);
}

static void set_options(int fd) {
    int on = 1, idle_s = KEEPALIVE_S, interval_s = KEEPALIVE_S / 3;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
#ifdef TCP_KEEPIDLE
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
#endif
}

static void uncount(kv_loop *loop) {
    atomic_fetch_sub_explicit(&loop->conn_count, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&loop->server->client_count, 1, memory_order_relaxed);
}

void kv_conn_adopt(kv_loop *loop, int fd, bool is_unix) {
    kv_server *server = loop->server;
    kv_conn *conn = kv_mem_alloc_zero(sizeof *conn);
    if (conn == NULL)
        goto fail;
    conn->loop = loop;
    conn->fd = fd;
    kv_client_init(&conn->client, server, loop->db);
    conn->client.id = atomic_fetch_add_explicit(&server->next_client_id, 1, memory_order_relaxed) + 1;
    conn->client.slice = loop->index;
    conn->client.txn = loop->txn;
    conn->client.active_ns = loop->now_ns;
    describe_ends(conn, is_unix);
    if (!is_unix)
        set_options(fd);
    if (!is_unix && server->tls != NULL) {
        conn->tls = kv_tls_create(server->tls, fd);
        if (conn->tls == NULL)
            goto fail;
        conn->handshaking = true;
        list_append(&loop->half, HALF, conn, loop->now_ns);
    }
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.u64 = (uintptr_t)conn,
    };
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        goto fail;
    conn->next = loop->conns;
    if (conn->next != NULL)
        conn->next->prev = conn;
    loop->conns = conn;
    kv_conn_touch(conn);
    return;
fail:
    if (conn != NULL) {
        list_remove(&loop->half, HALF, conn);
        kv_tls_destroy(conn->tls);
        kv_client_fini(&conn->client);
        kv_mem_free(conn);
    }
    close(fd);
    uncount(loop);
}

static void note_query_bytes(kv_conn *conn, int64_t change) {
    atomic_fetch_add_explicit(&conn->loop->server->counters.query_buffer_bytes, (uint64_t)change,
                              memory_order_relaxed);
}

static void drop_partial(kv_conn *conn) {
    kv_partial *partial = conn->partial;
    if (partial == NULL)
        return;
    note_query_bytes(conn, -(int64_t)partial->capacity);
    kv_resp_fini(&partial->parser);
    kv_mem_free(partial->bytes);
    kv_mem_free(partial);
    conn->partial = NULL;
    conn->more_to_run = false;
    if (!conn->handshaking)
        list_remove(&conn->loop->half, HALF, conn);
}

void kv_conn_close(kv_conn *conn) {
    kv_loop *loop = conn->loop;
    if (conn->dead)
        return;
    conn->client.close_now = true;
    if (loop->running == &conn->client)
        return; /* it kills itself: at the end of its request, which its buffers hold */
    conn->dead = true;
    kv_pubsub_leave(&conn->client);
    kv_tls_destroy(conn->tls);
    conn->tls = NULL;
    /* A forked child may have copies of both descriptors: then close alone would neither end the
     * connection nor take it out of the poll. */
    (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
    (void)shutdown(conn->fd, SHUT_RDWR);
    close(conn->fd);
    conn->fd = -1;
    drop_partial(conn);
    list_remove(&loop->idle, IDLE, conn);
    list_remove(&loop->half, HALF, conn);
    for (kv_hold *hold = conn->holds; hold != NULL; hold = hold->next)
        hold->conn = NULL; /* they are the waits' to free */
    conn->holds = conn->last_hold = NULL;
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        loop->conns = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    uncount(loop);
    conn->next_grave = loop->graves;
    loop->graves = conn;
}

void kv_conn_free(kv_conn *conn) {
    kv_client_fini(&conn->client);
    kv_mem_free(conn);
}

/* ---- Holds --------------------------------------------------------------------------------- */

static kv_hold *hold_create(kv_loop *loop) {
    kv_hold *hold = loop->spare_holds;
    if (hold != NULL)
        loop->spare_holds = hold->next;
    else
        hold = kv_mem_alloc(sizeof *hold);
    return hold;
}

static void hold_free(kv_loop *loop, kv_hold *hold) {
    hold->next = loop->spare_holds;
    loop->spare_holds = hold;
}

/* The reply that begins at `start` tells of something that is not committed. */
static void hold_back(kv_conn *conn, uint64_t start) {
    kv_loop *loop = conn->loop;
    uint64_t end = kv_reply_position(&conn->client.reply);
    bool failed;
    if (end == start) /* muted */
        return;
    kv_wait *wait = kv_loop_wait_for_pending(loop, &failed);
    if (wait == NULL) {
        if (failed) /* the reply must not leave, and nobody would let go of it */
            kv_conn_close(conn);
        return;
    }
    kv_hold *last = conn->last_hold;
    if (last != NULL && last->wait == wait && last->end == start && !last->done) {
        last->end = end;
        last->replies++;
        return;
    }
    kv_hold *hold = hold_create(loop);
    if (hold == NULL) {
        kv_conn_close(conn);
        return;
    }
    *hold = (kv_hold){.conn = conn, .wait = wait, .start = start, .end = end, .replies = 1};
    if (last != NULL)
        last->next = hold;
    else
        conn->holds = hold;
    conn->last_hold = hold;
    if (wait->last_hold != NULL)
        wait->last_hold->of_wait = hold;
    else
        wait->holds = hold;
    wait->last_hold = hold;
}

/* The replies of a hold whose commit failed become errors. */
static void replace_replies(kv_conn *conn, kv_hold *hold, const char *failure) {
    static const char none[] = "-ERR the write failed\r\n";
    const char *text = failure != NULL ? failure : none;
    size_t size = strlen(text);
    char *all = kv_mem_alloc(size * hold->replies);
    if (all == NULL) {
        kv_conn_close(conn);
        return;
    }
    for (uint32_t i = 0; i < hold->replies; i++)
        memcpy(all + i * size, text, size);
    int64_t moved =
        kv_reply_replace(&conn->client.reply, hold->start, hold->end, all, size * hold->replies);
    kv_mem_free(all);
    hold->end = (uint64_t)((int64_t)hold->end + moved);
    for (kv_hold *later = hold->next; later != NULL; later = later->next) {
        later->start = (uint64_t)((int64_t)later->start + moved);
        later->end = (uint64_t)((int64_t)later->end + moved);
    }
}

void kv_conn_let_go(kv_hold *hold) {
    kv_conn *conn = hold->conn;
    kv_wait *wait = hold->wait;
    hold->done = true;
    if (conn == NULL) {
        /* Its loop: any wait belongs to one. */
        kv_mem_free(hold);
        return;
    }
    if (wait->status < 0)
        replace_replies(conn, hold, wait->failure);
    if (conn->dead) {
        kv_mem_free(hold);
        return;
    }
    /* Waits end in their order, but for holds that came to an older group later: so look at the
     * front only. */
    while (conn->holds != NULL && conn->holds->done) {
        kv_hold *first = conn->holds;
        conn->holds = first->next;
        if (conn->holds == NULL)
            conn->last_hold = NULL;
        hold_free(conn->loop, first);
    }
    kv_loop_flush_later(conn->loop, conn);
}

/* ---- Sending ------------------------------------------------------------------------------- */

static ssize_t send_pieces(kv_conn *conn, struct iovec *pieces, size_t count) {
    if (conn->tls != NULL)
        return kv_tls_write(conn->tls, pieces[0].iov_base, pieces[0].iov_len);
    ssize_t sent;
    do {
        if (count == 1) {
            sent = send(conn->fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL);
        } else {
            struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
            sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    return errno == EAGAIN || errno == EWOULDBLOCK ? KV_TLS_AGAIN : KV_TLS_FAILED;
}

static void close_over_limit(kv_conn *conn) {
    atomic_fetch_add_explicit(&conn->loop->server->counters.output_limit_closes, 1, memory_order_relaxed);
    kv_conn_close(conn);
}

/* Sends what may be sent, and no more than a turn's bytes: a socket whose client reads as fast as we write takes for
 * ever.  Closes the connection when it is broken, or done. */
static void send_some(kv_conn *conn) {
    kv_client *client = &conn->client;
    kv_reply *reply = &client->reply;
    kv_loop *loop = conn->loop;
    if (client->close_now || reply->broken) {
        if (kv_reply_is_full(reply))
            close_over_limit(conn);
        else
            kv_conn_close(conn);
        return;
    }
    uint64_t limit = conn->holds != NULL ? conn->holds->start : reply->end;
    uint64_t max = atomic_load_explicit(&loop->server->config.output_buffer_max, memory_order_relaxed);
    uint64_t turn = reply->memory_bytes > max ? SOCKET_BYTES : TURN_BYTES;
    uint64_t turn_ends = limit - reply->start > turn ? reply->start + turn : limit;
    while (!conn->blocked && reply->start < turn_ends) {
        struct iovec pieces[PIECES_MAX];
        size_t count = kv_reply_pieces(reply, turn_ends, pieces, conn->tls != NULL ? 1 : PIECES_MAX);
        if (count == 0)
            break;
        size_t size = 0;
        for (size_t i = 0; i < count; i++)
            size += pieces[i].iov_len;
        ssize_t sent = send_pieces(conn, pieces, count);
        if (sent == KV_TLS_AGAIN) {
            conn->blocked = true;
        } else if (sent <= 0) {
            kv_conn_close(conn);
            return;
        } else {
            kv_reply_sent(reply, (size_t)sent);
            loop->bytes_out += (uint64_t)sent;
            if (loop->idle_watched) /* who takes a long answer slowly is not idle */
                kv_conn_touch(conn);
            if ((size_t)sent < size && conn->tls == NULL)
                conn->blocked = true;
        }
    }
    conn->more_to_send = !conn->blocked && turn_ends < limit;
    if (reply->start == reply->end) {
        kv_reply_trim(reply);
        if (client->close_after_reply || (conn->ended && !conn->more_to_run && !conn->in_later))
            kv_conn_close(conn);
    } else if (reply->memory_bytes > max) {
        close_over_limit(conn);
    } else if (conn->more_to_send) {
        kv_loop_again(loop, conn);
    }
}

void kv_conn_flush(kv_conn *conn) {
    if (!conn->dead)
        send_some(conn);
}

/* ---- Running ------------------------------------------------------------------------------- */

static void load_limits(const kv_conn *conn, kv_resp_limits *limits) {
    kv_config *config = &conn->loop->server->config;
    bool in = conn->client.authenticated;
    limits->unauthenticated = !in;
    limits->args_max = atomic_load_explicit(in ? &config->args_max : &config->unauthenticated_args_max,
                                            memory_order_relaxed);
    limits->bulk_max = atomic_load_explicit(in ? &config->bulk_max : &config->unauthenticated_bulk_max,
                                            memory_order_relaxed);
    limits->inline_max = LINE_MAX_BYTES;
}

/* An error that is the last thing that the client hears. */
static void refuse_and_end(kv_conn *conn, const char *text) {
    kv_reply_errorf(&conn->client.reply, "ERR %s", text);
    kv_counters_error(&conn->loop->server->counters, "ERR");
    conn->client.close_after_reply = true;
}

/* Messages of the request to its own client, behind its reply. */
static void append_aside(kv_loop *loop, kv_reply *reply) {
    kv_reply *aside = &loop->aside;
    struct iovec pieces[PIECES_MAX];
    if (aside->broken) { /* so are the messages, and with them this client's output; the next request's are not */
        kv_reply_fini(aside);
        kv_reply_init(aside);
        reply->broken = true;
        return;
    }
    for (size_t count; (count = kv_reply_pieces(aside, UINT64_MAX, pieces, PIECES_MAX)) > 0;) {
        size_t size = 0;
        for (size_t i = 0; i < count; i++) {
            kv_reply_raw(reply, pieces[i].iov_base, pieces[i].iov_len);
            size += pieces[i].iov_len;
        }
        kv_reply_sent(aside, size);
    }
    kv_reply_trim(aside);
}

static void run_one(kv_conn *conn, const kv_bytes *argv, size_t argc, kv_run *run) {
    kv_loop *loop = conn->loop;
    kv_client *client = &conn->client;
    uint64_t start = kv_reply_position(&client->reply);
    loop->running = client;
    *run = kv_command_run(client, argv, argc);
    loop->running = NULL;
    if (conn->dead)
        return;
    if (kv_take_noted(loop->db))
        hold_back(conn, start);
    if (loop->aside.start < loop->aside.end || loop->aside.broken)
        append_aside(loop, &client->reply);
}

/* Is the newest commit that the handle waits for there already?  Then it forgets it. */
static bool is_settled(kv_loop *loop) {
    kv_ticket ticket;
    kv_pending_ticket(loop->db, &ticket);
    bool settled = ticket.group == NULL;
    kv_ticket_forget(&ticket);
    return settled;
}

/* A request in its plain form, for later: an inline one has been unescaped in place, so its bytes
 * are no request any more. */
static uint8_t *encode_request(const kv_bytes *argv, size_t argc, size_t *size) {
    size_t room = 32;
    for (size_t i = 0; i < argc; i++)
        room += argv[i].size + 32;
    uint8_t *bytes = kv_mem_alloc(room);
    if (bytes == NULL)
        return NULL;
    size_t at = (size_t)snprintf((char *)bytes, room, "*%zu\r\n", argc);
    for (size_t i = 0; i < argc; i++) {
        at += (size_t)snprintf((char *)bytes + at, room - at, "$%zu\r\n", argv[i].size);
        if (argv[i].size > 0)
            memcpy(bytes + at, argv[i].data, argv[i].size);
        at += argv[i].size;
        memcpy(bytes + at, "\r\n", 2);
        at += 2;
    }
    *size = at;
    return bytes;
}

typedef enum stop {
    STOP_MORE,  /* all complete requests have run */
    STOP_TURN,  /* others have their turn */
    STOP_LATER, /* `again` is to run when nothing is pending */
    STOP_END,   /* nothing more is read from this client */
} stop;

typedef struct batch {
    size_t used, wanted;
    uint8_t *again; /* owned */
    size_t again_size;
} batch;

/* ---- Requests ahead -----------------------------------------------------------------------------
 * A pipeline's requests are parsed some at a time, and their keys told to the store, before the first
 * of them runs: what they will touch comes from memory at once, and not one after the other. */

#define AHEAD_MAX 16
#define AHEAD_ARGS 4 /* a request with more is the last of its window: its arguments stay in the parser */

typedef struct ahead {
    struct {
        const kv_bytes *argv;
        size_t argc, end; /* where the next one begins */
    } requests[AHEAD_MAX];
    size_t count;
    kv_bytes args[AHEAD_MAX * AHEAD_ARGS];
    kv_resp_result result; /* KV_RESP_REQUEST: there may be more; else why there is none */
    const char *error;
} ahead;

static void look_ahead(kv_conn *conn, kv_resp_parser *parser, const kv_resp_limits *limits, uint8_t *bytes, size_t size,
                       batch *b, ahead *a) {
    kv_bytes keys[AHEAD_MAX];
    size_t at = b->used, key_count = 0;
    /* Before the password is given, what one request does decides about the limits of the next. */
    size_t max = conn->client.authenticated ? AHEAD_MAX : 1;
    a->count = 0;
    a->result = KV_RESP_REQUEST;
    while (a->count < max && at < size) {
        const kv_bytes *argv;
        size_t argc, used;
        bool is_inline = bytes[at] != '*';
        if (is_inline && a->count > 0)
            break; /* it is unescaped in place, and could not be parsed again if its turn did not come */
        a->result = kv_resp_parse(parser, limits, bytes + at, size - at, &argv, &argc, &used, &b->wanted, &a->error);
        if (a->result != KV_RESP_REQUEST)
            break;
        at += used;
        size_t i = a->count++;
        a->requests[i].argc = argc;
        a->requests[i].end = at;
        a->requests[i].argv = argv;
        if (argc > AHEAD_ARGS || is_inline)
            break;
        for (size_t k = 0; k < argc; k++)
            a->args[i * AHEAD_ARGS + k] = argv[k];
        a->requests[i].argv = a->args + i * AHEAD_ARGS;
        if (argc > 1)
            keys[key_count++] = argv[1];
    }
    if (key_count > 1)
        kv_prefetch(conn->loop->db, keys, key_count);
}

/* Runs the requests in `bytes`. */
static stop run_all(kv_conn *conn, kv_resp_parser *parser, uint8_t *bytes, size_t size, batch *b) {
    kv_loop *loop = conn->loop;
    kv_client *client = &conn->client;
    kv_resp_limits limits;
    ahead a;
    load_limits(conn, &limits);
    client->reply.memory_max =
        atomic_load_explicit(&loop->server->config.output_buffer_max, memory_order_relaxed) + SOCKET_BYTES;
    uint64_t turn_ends_ns = loop->now_ns + TURN_NS;
    client->active_ns = loop->now_ns;
    if (loop->last_client != client->id) {
        loop->last_client = client->id;
        loop->alone_since_ns = loop->now_ns;
    }
    while (b->used < size) {
        if (limits.unauthenticated == client->authenticated)
            load_limits(conn, &limits);
        look_ahead(conn, parser, &limits, bytes, size, b, &a);
        for (size_t i = 0; i < a.count; i++) {
            const kv_bytes *argv = a.requests[i].argv;
            size_t argc = a.requests[i].argc;
            kv_run run = KV_RUN_DONE;
            stop stopped = STOP_MORE;
            if (argc > 0)
                run_one(conn, argv, argc, &run);
            if (run == KV_RUN_LATER && !conn->dead && is_settled(loop))
                run_one(conn, argv, argc, &run);
            b->used = a.requests[i].end;
            if (conn->dead || client->close_after_reply || client->close_now)
                return STOP_END;
            if (run == KV_RUN_LATER) {
                b->again = encode_request(argv, argc, &b->again_size);
                if (b->again == NULL) {
                    kv_conn_close(conn);
                    return STOP_END;
                }
                stopped = STOP_LATER;
            } else if (client->active_ns >= turn_ends_ns && b->used < size) {
                stopped = STOP_TURN;
            }
            if (stopped != STOP_MORE) {
                if (i + 1 < a.count || a.result == KV_RESP_BAD || stopped == STOP_LATER)
                    kv_resp_fini(parser); /* it has gone further: those are parsed again, behind `again` */
                return stopped;
            }
        }
        switch (a.result) {
        case KV_RESP_REQUEST:
            break;
        case KV_RESP_MORE:
            return STOP_MORE;
        case KV_RESP_BAD:
            refuse_and_end(conn, a.error);
            return STOP_END;
        case KV_RESP_NOMEM:
            kv_conn_close(conn);
            return STOP_END;
        }
    }
    b->wanted = 1;
    return STOP_MORE;
}

/* ---- What is kept -------------------------------------------------------------------------- */

static bool fits(kv_conn *conn, size_t capacity) {
    kv_server *server = conn->loop->server;
    size_t has = conn->partial != NULL ? conn->partial->capacity : 0;
    uint64_t all = atomic_load_explicit(&server->counters.query_buffer_bytes, memory_order_relaxed) - has;
    return capacity <= atomic_load_explicit(&server->config.query_buffer_max, memory_order_relaxed) &&
           all + capacity <= atomic_load_explicit(&server->config.query_buffers_max, memory_order_relaxed);
}

/* False: the client has been closed. */
static bool reserve(kv_conn *conn, size_t capacity) {
    kv_partial *partial = conn->partial;
    if (capacity <= partial->capacity)
        return true;
    uint8_t *bytes = fits(conn, capacity) ? kv_mem_realloc(partial->bytes, capacity) : NULL;
    if (bytes == NULL) {
        kv_conn_close(conn);
        return false;
    }
    note_query_bytes(conn, (int64_t)(capacity - partial->capacity));
    partial->bytes = bytes;
    partial->capacity = capacity;
    return true;
}

static bool start_partial(kv_conn *conn) {
    if (conn->partial != NULL)
        return true;
    conn->partial = kv_mem_alloc_zero(sizeof *conn->partial);
    if (conn->partial == NULL) {
        kv_conn_close(conn);
        return false;
    }
    kv_resp_init(&conn->partial->parser);
    return true;
}

/* Keeps what has not been used of `bytes` (in the loop's buffer, or in the partial's own), with the
 * parser that has looked at it. */
static void keep(kv_conn *conn, kv_resp_parser *parser, uint8_t *bytes, size_t size, const batch *b, stop stopped) {
    size_t rest = size - b->used, all = b->again_size + rest;
    if (all == 0) {
        drop_partial(conn);
        return;
    }
    bool own = conn->partial != NULL && bytes == conn->partial->bytes;
    if (!start_partial(conn))
        return;
    kv_partial *partial = conn->partial;
    if (own && b->used > 0 && all <= partial->capacity / 4 && b->again_size == 0) {
        /* A large buffer for a small rest: a new one. */
        kv_partial copy = *partial;
        partial->bytes = NULL;
        partial->capacity = 0;
        bool reserved = reserve(conn, all);
        if (reserved)
            memcpy(partial->bytes, bytes + b->used, rest);
        note_query_bytes(conn, -(int64_t)copy.capacity);
        kv_mem_free(copy.bytes);
        if (!reserved)
            return;
    } else {
        if (own) {
            memmove(bytes, bytes + b->used, rest);
            partial->size = rest;
        }
        if (!reserve(conn, all > PARTIAL_LEAST ? all : PARTIAL_LEAST))
            return;
        if (own)
            memmove(partial->bytes + b->again_size, partial->bytes, rest);
        else
            memcpy(partial->bytes + b->again_size, bytes + b->used, rest);
        if (b->again_size > 0)
            memcpy(partial->bytes, b->again, b->again_size);
    }
    partial->size = all;
    partial->wanted = b->wanted;
    if (parser != &partial->parser) { /* the loop's: it goes with its request */
        kv_resp_fini(&partial->parser);
        partial->parser = *parser;
        kv_resp_init(parser);
    }
    conn->more_to_run = stopped != STOP_MORE;
    /* The clock of a half-sent request runs from its beginning, not from its last byte. */
    if (conn->more_to_run)
        list_remove(&conn->loop->half, HALF, conn);
    else if (!conn->half.listed || b->used > 0)
        list_append(&conn->loop->half, HALF, conn, conn->loop->now_ns);
}

/* Runs what is there, keeps the rest, and sends. */
static void run_and_keep(kv_conn *conn, kv_resp_parser *parser, uint8_t *bytes, size_t size) {
    batch b = {0};
    stop stopped = run_all(conn, parser, bytes, size, &b);
    if (!conn->dead && stopped == STOP_END) {
        conn->readable = false;
        if (parser == &conn->loop->parser)
            kv_resp_fini(parser); /* it may be in the middle of a request that nobody continues */
        drop_partial(conn);
    } else if (!conn->dead) {
        keep(conn, parser, bytes, size, &b, stopped);
    } else if (parser == &conn->loop->parser) {
        kv_resp_fini(parser);
    }
    kv_mem_free(b.again);
    if (conn->dead)
        return;
    if (stopped == STOP_LATER && !conn->in_later) {
        conn->in_later = true;
        conn->next_later = conn->loop->later;
        conn->loop->later = conn;
    } else if (stopped == STOP_TURN) {
        kv_loop_again(conn->loop, conn);
    }
    send_some(conn);
}

/* ---- Reading ------------------------------------------------------------------------------- */

static ssize_t receive(kv_conn *conn, uint8_t *buffer, size_t size) {
    if (conn->tls != NULL)
        return kv_tls_read(conn->tls, buffer, size);
    ssize_t n;
    do
        n = recv(conn->fd, buffer, size, 0);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EWOULDBLOCK ? KV_TLS_AGAIN : KV_TLS_FAILED;
}

/* The end of what the client sends: it may still read. */
static void end_of_input(kv_conn *conn) {
    conn->ended = true;
    conn->readable = false;
    if (!conn->more_to_run)
        drop_partial(conn);
    send_some(conn);
}

/* Where the next bytes go: behind the beginning that is kept.  A short beginning is copied to the
 * loop's buffer, where much more fits behind it; to a long one its own buffer grows, by no more
 * than has come already. */
static uint8_t *place_to_read(kv_conn *conn, size_t *have, size_t *room) {
    kv_partial *partial = conn->partial;
    kv_loop *loop = conn->loop;
    *have = partial != NULL ? partial->size : 0;
    if (*have < DIRECT_LEAST) {
        if (*have > 0)
            memcpy(loop->buffer, partial->bytes, *have);
        *room = KV_READ_SIZE - *have;
        return loop->buffer;
    }
    size_t least = partial->size + KV_READ_SIZE;
    size_t wanted = partial->size + (partial->wanted > KV_READ_SIZE ? partial->wanted : KV_READ_SIZE);
    size_t doubled = partial->size * 2;
    size_t capacity = wanted < doubled ? wanted : doubled > least ? doubled : least;
    if (partial->capacity < least && !reserve(conn, capacity))
        return NULL;
    *room = partial->capacity - partial->size;
    return partial->bytes;
}

static void read_some(kv_conn *conn) {
    kv_loop *loop = conn->loop;
    size_t have, room;
    uint8_t *bytes = place_to_read(conn, &have, &room);
    if (bytes == NULL)
        return;
    ssize_t n = receive(conn, bytes + have, room);
    if (n == KV_TLS_AGAIN) {
        conn->readable = false;
        return;
    }
    if (n < 0) {
        kv_conn_close(conn);
        return;
    }
    if (n == 0) {
        end_of_input(conn);
        return;
    }
    loop->bytes_in += (uint64_t)n;
    if ((size_t)n < room && conn->tls == NULL)
        conn->readable = conn->hung_up; /* drained: the next bytes are a new event; but their end has been told */
    if (loop->idle_watched)
        kv_conn_touch(conn);
    if (conn->partial != NULL && bytes == conn->partial->bytes)
        conn->partial->size += (size_t)n;
    run_and_keep(conn, conn->partial != NULL ? &conn->partial->parser : &loop->parser, bytes, have + (size_t)n);
}

static void shake_hands(kv_conn *conn) {
    int result = kv_tls_handshake(conn->tls);
    if (result == KV_TLS_AGAIN)
        return;
    if (result <= 0) {
        kv_conn_close(conn);
        return;
    }
    conn->handshaking = false;
    conn->readable = true;
    list_remove(&conn->loop->half, HALF, conn);
}

void kv_conn_go_on(kv_conn *conn) {
    if (!conn->dead && conn->more_to_send)
        send_some(conn);
    if (conn->dead)
        return;
    if (conn->more_to_run && !conn->in_later) {
        kv_partial *partial = conn->partial;
        run_and_keep(conn, &partial->parser, partial->bytes, partial->size);
    } else if (conn->readable && !conn->in_later && !conn->client.close_after_reply) {
        read_some(conn);
    }
    if (!conn->dead && (conn->readable || conn->more_to_run) && !conn->in_later && !conn->client.close_after_reply)
        kv_loop_again(conn->loop, conn);
}

void kv_conn_event(kv_conn *conn, uint32_t events) {
    if (conn->dead)
        return;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        conn->hung_up = true; /* what came before the end is read all the same; an error shows when we read */
    if (conn->handshaking) {
        shake_hands(conn);
        if (conn->dead || conn->handshaking)
            return;
    }
    if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && conn->blocked) {
        conn->blocked = false;
        send_some(conn);
        if (conn->dead)
            return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        conn->readable = !conn->ended;
        kv_conn_go_on(conn);
    }
}

void kv_conn_finish(kv_conn *conn) {
    if (conn->dead)
        return;
    conn->readable = false;
    conn->client.close_after_reply = true;
    send_some(conn);
}
