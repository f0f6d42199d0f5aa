/* loop.c - see loop.h. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "command.h"
#include "pubsub.h"
#include "shared.h"

#define EVENTS_MAX 256
#define ACCEPTS_MAX 64              /* a round: others have their turn between */
#define ACCEPT_PAUSE_NS 100000000u  /* without descriptors, until the next try */
#define TICK_NS 100000000u
#define ALONE_NS 1000000000u         /* see commit */
#define SPIN_NS 50000u               /* see spin */
#define AWAY_MAX 1000u               /* see look_once */
#define AWAY_PERIOD 16000u
#define BACK_WEIGHT 8u
#define BUSY_NS UINT64_C(2000000000) /* after the last request: until rates are 0 */

/* What an event belongs to: 0 the bell, odd numbers listeners, the rest connections. */
#define BELL 0u
#define LISTENER(i) ((uint64_t)(i) << 1 | 1u)

/* ---- Life ---------------------------------------------------------------------------------- */

kv_status kv_loop_init(kv_loop *loop, kv_server *server, unsigned index, kv_error *err) {
    loop->server = server;
    loop->index = index;
    loop->epoll_fd = loop->wake_fd = -1;
    kv_resp_init(&loop->parser);
    kv_reply_init(&loop->aside);
    loop->may_spin = sysconf(_SC_NPROCESSORS_ONLN) > (long)server->loop_count;
    kv_status status = kv_dup(server->db, true, &loop->db, err);
    if (status < 0)
        return status;
    loop->txn = kv_txn_create();
    loop->buffer = kv_mem_alloc(KV_READ_SIZE);
    if (loop->buffer == NULL || loop->txn == NULL)
        return kv_fail_nomem(err, KV_READ_SIZE);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = loop->epoll_fd >= 0 ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) : -1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = BELL};
    if (loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0)
        return kv_fail_sys(err, errno, NULL, "cannot set up an event loop");
    return KV_OK;
}

void kv_loop_fini(kv_loop *loop) {
    for (kv_mail *mail = loop->mail, *next; mail != NULL; mail = next) {
        next = mail->next;
        if (mail->kind == KV_MAIL_CONNECTION)
            close(mail->fd);
        kv_mem_free(mail);
    }
    loop->mail = loop->last_mail = NULL;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    kv_txn_destroy(loop->txn);
    kv_destroy(loop->db);
    kv_mem_free(loop->buffer);
    kv_resp_fini(&loop->parser);
    kv_reply_fini(&loop->aside);
    kv_mem_free(loop->spare_wait);
    for (kv_hold *hold = loop->spare_holds, *next; hold != NULL; hold = next) {
        next = hold->next;
        kv_mem_free(hold);
    }
}

static _Thread_local const kv_loop *current; /* set by its own thread: it may run before who starts it knows `thread` */

bool kv_loop_is_current(const kv_loop *loop) {
    return loop == current;
}

/* ---- Bell and mailbox ---------------------------------------------------------------------- */

void kv_loop_ring(kv_loop *loop) {
    /* The loop says that it sleeps, then looks at `rung`; we say that we ring, then look whether it
     * sleeps: one of the two sees the other.  A loop that works looks anyway before it sleeps, and
     * costs no system call. */
    atomic_store(&loop->rung, true);
    if (atomic_load(&loop->sleeps) && atomic_exchange(&loop->sleeps, false)) {
        uint64_t one = 1;
        ssize_t written = write(loop->wake_fd, &one, sizeof one);
        (void)written; /* it cannot overflow within the life of a process */
    }
}

void kv_loop_ring_for_commit(kv_loop *loop) {
    atomic_store(&loop->committed, true);
    kv_loop_ring(loop);
}

kv_mail *kv_mail_create(kv_mail_kind kind, size_t extra) {
    kv_mail *mail = kv_mem_alloc(sizeof *mail + extra);
    if (mail != NULL)
        *mail = (kv_mail){.kind = kind, .fd = -1};
    return mail;
}

static uint64_t mail_size(const kv_mail *mail) {
    return mail->kind == KV_MAIL_PUBLISH ? sizeof *mail + mail->channel.size + mail->message.size : 0;
}

bool kv_loop_send(kv_loop *loop, kv_mail *mail) {
    mail->next = NULL;
    kv_mutex_lock(&loop->mailbox, KV_RANK_MAILBOX);
    bool fits = mail_size(mail) == 0 || loop->mail_bytes + mail_size(mail) <= KV_MAIL_BYTES_MAX;
    if (fits) {
        loop->mail_bytes += mail_size(mail);
        if (loop->last_mail != NULL)
            loop->last_mail->next = mail;
        else
            loop->mail = mail;
        loop->last_mail = mail;
    }
    kv_mutex_unlock(&loop->mailbox, KV_RANK_MAILBOX);
    if (fits)
        kv_loop_ring(loop);
    else
        kv_mem_free(mail);
    return fits;
}

static void kill_client(kv_loop *loop, uint64_t id) {
    for (kv_conn *conn = loop->conns; conn != NULL; conn = conn->next) {
        if (conn->client.id == id) {
            conn->client.close_now = true;
            kv_conn_close(conn);
            return;
        }
    }
}

static void read_mail(kv_loop *loop) {
    kv_mutex_lock(&loop->mailbox, KV_RANK_MAILBOX);
    kv_mail *mail = loop->mail;
    loop->mail = loop->last_mail = NULL;
    loop->mail_bytes = 0;
    kv_mutex_unlock(&loop->mailbox, KV_RANK_MAILBOX);
    for (kv_mail *next; mail != NULL; mail = next) {
        next = mail->next;
        if (mail->kind == KV_MAIL_CONNECTION)
            kv_conn_adopt(loop, mail->fd, mail->is_unix);
        else if (mail->kind == KV_MAIL_KILL)
            kill_client(loop, mail->id);
        else
            (void)kv_pubsub_deliver(loop, mail->channel, mail->message, NULL);
        kv_mem_free(mail);
    }
}

/* ---- Accepting: the first loop does it for all --------------------------------------------- */

static void set_listening(kv_loop *loop, bool on) {
    kv_server *server = loop->server;
    if (loop->listening == on)
        return;
    for (unsigned i = 0; i < server->listener_count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = LISTENER(i)};
        (void)epoll_ctl(loop->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, server->listeners[i].fd, &event);
    }
    loop->listening = on;
}

static void refuse(int fd) {
    static const char text[] = "-ERR max number of clients reached\r\n";
    (void)!send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void welcome(kv_loop *loop, int fd, bool is_unix) {
    kv_server *server = loop->server;
    kv_loop *least = loop;
    for (unsigned i = 0; i < server->loop_count; i++) {
        kv_loop *other = &server->loops[i];
        if (atomic_load_explicit(&other->conn_count, memory_order_relaxed) <
            atomic_load_explicit(&least->conn_count, memory_order_relaxed))
            least = other;
    }
    /* Counted here, so that those that come at once spread, too. */
    atomic_fetch_add_explicit(&least->conn_count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&server->client_count, 1, memory_order_relaxed);
    if (least == loop) {
        kv_conn_adopt(loop, fd, is_unix);
        return;
    }
    kv_mail *mail = kv_mail_create(KV_MAIL_CONNECTION, 0);
    if (mail == NULL) {
        atomic_fetch_sub_explicit(&least->conn_count, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&server->client_count, 1, memory_order_relaxed);
        close(fd);
        return;
    }
    mail->fd = fd;
    mail->is_unix = is_unix;
    (void)kv_loop_send(least, mail);
}

static void accept_some(kv_loop *loop, const kv_listener *listener) {
    kv_server *server = loop->server;
    kv_counters *counters = &server->counters;
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                /* The listener stays ready, so without a pause the loop would spin.  Who waits is
                 * let in when somebody has gone. */
                set_listening(loop, false);
                loop->listen_again_ns = loop->now_ns + ACCEPT_PAUSE_NS;
            }
            return; /* EAGAIN; or a client that is gone already: the listener is still ready for the others */
        }
        atomic_fetch_add_explicit(&counters->connections, 1, memory_order_relaxed);
        if (atomic_load_explicit(&server->client_count, memory_order_relaxed) >=
            atomic_load_explicit(&server->config.clients_max, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&counters->connections_refused, 1, memory_order_relaxed);
            refuse(fd);
        } else {
            welcome(loop, fd, listener->is_unix);
        }
    }
}

/* ---- Waiting for commits ------------------------------------------------------------------- */

kv_wait *kv_loop_wait_for_pending(kv_loop *loop, bool *failed) {
    const kv_group *pending = kv_pending(loop->db);
    *failed = false;
    if (pending == NULL)
        return NULL;
    for (kv_wait *wait = loop->waits; wait != NULL; wait = wait->next)
        if (wait->ticket.group == pending)
            return wait;
    kv_ticket ticket;
    kv_pending_ticket(loop->db, &ticket);
    if (ticket.group == NULL)
        return NULL;
    kv_wait *wait = loop->spare_wait;
    loop->spare_wait = NULL;
    if (wait == NULL && (wait = kv_mem_alloc(sizeof *wait)) == NULL) {
        kv_ticket_forget(&ticket);
        *failed = true;
        return NULL;
    }
    *wait = (kv_wait){.ticket = ticket};
    if (loop->last_wait != NULL)
        loop->last_wait->next = wait;
    else
        loop->waits = wait;
    loop->last_wait = wait;
    return wait;
}

/* The error reply for those that depended on it, or NULL without memory. */
static char *describe(const kv_error *err) {
    kv_reply reply;
    struct iovec piece;
    char *text = NULL;
    kv_reply_init(&reply);
    kv_reply_failure(&reply, err);
    if (kv_reply_pieces(&reply, UINT64_MAX, &piece, 1) == 1 &&
        (text = kv_mem_alloc(piece.iov_len + 1)) != NULL) {
        memcpy(text, piece.iov_base, piece.iov_len);
        text[piece.iov_len] = '\0';
    }
    kv_reply_fini(&reply);
    return text;
}

static void note_end(kv_wait *wait, kv_status status, const kv_error *err) {
    wait->done = true;
    wait->status = status;
    if (status < 0)
        wait->failure = describe(err);
    kv_ticket_forget(&wait->ticket); /* ended by now, unless the handle was closed */
}

void kv_loop_finish_waits(kv_loop *loop) {
    kv_error err;
    bool failed;
    (void)kv_loop_wait_for_pending(loop, &failed);
    for (kv_wait *wait = loop->waits; wait != NULL; wait = wait->next)
        if (!wait->done)
            note_end(wait, kv_ticket_wait(loop->db, &wait->ticket, &err), &err);
}

/* Tells the connections of all waits that have ended. */
static void let_go(kv_loop *loop) {
    kv_error err;
    bool some = false;
    while (loop->waits != NULL) {
        kv_wait *wait = loop->waits;
        if (!wait->done) {
            kv_status status = kv_ticket_try(&wait->ticket, &err);
            if (status == KV_BUSY)
                break;
            note_end(wait, status, &err);
        }
        some = true;
        loop->waits = wait->next;
        if (loop->waits == NULL)
            loop->last_wait = NULL;
        for (kv_hold *hold = wait->holds, *next; hold != NULL; hold = next) {
            next = hold->of_wait;
            kv_conn_let_go(hold);
        }
        if (loop->asked == wait)
            loop->asked = NULL;
        kv_mem_free(wait->failure);
        if (loop->spare_wait == NULL)
            loop->spare_wait = wait;
        else
            kv_mem_free(wait);
    }
    if (some)
        kv_settle(loop->db);
}

/* Who wants to run with nothing pending has waited until the end of the round. */
static void run_later(kv_loop *loop) {
    kv_conn *conn = loop->later;
    loop->later = NULL;
    for (kv_conn *next; conn != NULL; conn = next) {
        next = conn->next_later;
        conn->in_later = false;
        kv_conn_go_on(conn);
    }
}

/* ---- Lists --------------------------------------------------------------------------------- */

void kv_loop_again(kv_loop *loop, kv_conn *conn) {
    if (conn->in_again)
        return;
    conn->in_again = true;
    conn->next_again = loop->again;
    loop->again = conn;
}

void kv_loop_flush_later(kv_loop *loop, kv_conn *conn) {
    if (conn->in_flush)
        return;
    conn->in_flush = true;
    conn->next_flush = loop->to_flush;
    loop->to_flush = conn;
}

static void go_on_again(kv_loop *loop) {
    kv_conn *conn = loop->again;
    loop->again = NULL;
    for (kv_conn *next; conn != NULL; conn = next) {
        next = conn->next_again;
        conn->in_again = false;
        kv_conn_go_on(conn);
    }
}

static void flush_messages(kv_loop *loop) {
    while (loop->to_flush != NULL) {
        kv_conn *conn = loop->to_flush;
        loop->to_flush = conn->next_flush;
        conn->in_flush = false;
        kv_conn_flush(conn);
    }
}

/* Frees what was closed in this round, but for those that still stand in a list of the next. */
static void bury(kv_loop *loop) {
    for (kv_conn **at = &loop->graves; *at != NULL;) {
        kv_conn *conn = *at;
        if (conn->in_again || conn->in_flush || conn->in_later) {
            at = &conn->next_grave;
        } else {
            *at = conn->next_grave;
            kv_conn_free(conn);
        }
    }
}

/* Nobody but one client has been here for a while. */
static bool is_alone(const kv_loop *loop) {
    return atomic_load_explicit(&loop->conn_count, memory_order_relaxed) == 1 ||
           loop->now_ns >= loop->alone_since_ns + ALONE_NS;
}

static void wait_here(kv_loop *loop) {
    kv_loop_finish_waits(loop);
    kv_mutex_lock(&loop->turn, KV_RANK_TURN);
    let_go(loop);
    flush_messages(loop);
    bury(loop);
    kv_mutex_unlock(&loop->turn, KV_RANK_TURN);
}

/* Sees that what the round wrote will be committed.  Returns how many events it has polled for the
 * next round.
 *
 * The committer's thread overlaps the sync with the next round, at the price of two wake-ups, which
 * take half as long as the sync.  So the loop syncs by itself when nobody gains by its going on: a
 * single client that waits for its answer.  It must have been the only one for a while, and nothing
 * else be there to do; then a disk that hangs makes another client wait that comes just now, but
 * never clients that are at work.  In the modes that only write to the kernel, there is nothing to
 * overlap. */
static int commit(kv_loop *loop, struct epoll_event *events) {
    bool failed;
    (void)kv_loop_wait_for_pending(loop, &failed); /* also for writes whose replies nobody wants */
    if (loop->waits == NULL || loop->asked == loop->last_wait)
        return 0;
    int count = 0;
    if (loop->asked == NULL && loop->server->sync != KV_SYNC_ALWAYS) {
        wait_here(loop);
        return 0;
    }
    if (loop->asked == NULL && loop->again == NULL && is_alone(loop)) {
        count = epoll_wait(loop->epoll_fd, events, EVENTS_MAX, 0);
        if (count <= 0) {
            wait_here(loop);
            loop->answered = true;
            return 0;
        }
    }
    kv_ticket ticket;
    kv_ticket_copy(&loop->last_wait->ticket, &ticket);
    kv_committer_ask(&loop->server->committer, loop->index, &ticket);
    loop->asked = loop->last_wait;
    return count;
}

/* ---- Time ---------------------------------------------------------------------------------- */

static uint64_t seconds_of(_Atomic uint64_t *limit) {
    uint64_t s = atomic_load_explicit(limit, memory_order_relaxed);
    return s > 0 && s < 1000000000u ? s * 1000000000u : 0;
}

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* Closes what has been silent for too long; when to look again. */
static uint64_t time_out(kv_loop *loop) {
    kv_config *config = &loop->server->config;
    uint64_t now = loop->now_ns, next = UINT64_MAX;
    uint64_t idle = seconds_of(&config->idle_timeout_s), half = seconds_of(&config->request_timeout_s);
    if (idle > 0 && !loop->idle_watched) { /* CONFIG SET: activity is kept track of from now on */
        for (kv_conn *conn = loop->conns; conn != NULL; conn = conn->next)
            conn->idle.since_ns = now;
    }
    loop->idle_watched = idle > 0;
    while (idle > 0 && loop->idle.first != NULL) {
        kv_conn *conn = loop->idle.first;
        if (conn->idle.since_ns + idle > now) {
            next = earlier(next, conn->idle.since_ns + idle);
            break;
        }
        if (kv_pubsub_count(&conn->client) > 0 || conn->holds != NULL) { /* it is we who are silent */
            kv_conn_touch(conn);
            continue;
        }
        atomic_fetch_add_explicit(&loop->server->counters.idle_closes, 1, memory_order_relaxed);
        kv_conn_close(conn);
    }
    while (half > 0 && loop->half.first != NULL) {
        kv_conn *conn = loop->half.first;
        if (conn->half.since_ns + half > now) {
            next = earlier(next, conn->half.since_ns + half);
            break;
        }
        atomic_fetch_add_explicit(&loop->server->counters.idle_closes, 1, memory_order_relaxed);
        kv_conn_close(conn);
    }
    return next;
}

static uint64_t look_at_clock(kv_loop *loop) {
    uint64_t now = loop->now_ns, next = time_out(loop);
    if (loop->listen_again_ns != 0) {
        if (now >= loop->listen_again_ns) {
            loop->listen_again_ns = 0;
            set_listening(loop, true);
        } else {
            next = earlier(next, loop->listen_again_ns);
        }
    }
    if (loop->index == 0) {
        if (now >= loop->tick_ns + TICK_NS) {
            kv_counters_tick(&loop->server->counters, now);
            loop->tick_ns = now;
        }
        if (now < loop->busy_until_ns)
            next = earlier(next, loop->tick_ns + TICK_NS);
    }
    return next;
}

static void count_round(kv_loop *loop) {
    kv_counters *counters = &loop->server->counters;
    if (loop->bytes_in > 0) {
        atomic_fetch_add_explicit(&counters->bytes_in, loop->bytes_in, memory_order_relaxed);
        loop->busy_until_ns = loop->now_ns + BUSY_NS;
    }
    if (loop->bytes_out > 0)
        atomic_fetch_add_explicit(&counters->bytes_out, loop->bytes_out, memory_order_relaxed);
    loop->bytes_in = loop->bytes_out = 0;
}

/* ---- Ending -------------------------------------------------------------------------------- */

/* A loop that stops has nothing to wait for any more. */
static bool is_done(const kv_loop *loop) {
    return loop->conns == NULL && loop->waits == NULL;
}

/* True when the loop has ended. */
static bool wind_up(kv_loop *loop) {
    set_listening(loop, false);
    loop->listen_again_ns = 0;
    bool over = loop->now_ns >= atomic_load(&loop->server->stop_at_ns);
    for (kv_conn *conn = loop->conns, *next; conn != NULL; conn = next) {
        next = conn->next;
        if (over)
            kv_conn_close(conn);
        else
            kv_conn_finish(conn);
    }
    bury(loop);
    return is_done(loop);
}

/* ---- Running ------------------------------------------------------------------------------- */

static void handle(kv_loop *loop, const struct epoll_event *event) {
    uint64_t what = event->data.u64;
    if (what == BELL)
        return;
    if (what & 1)
        accept_some(loop, &loop->server->listeners[what >> 1]);
    else
        kv_conn_event((kv_conn *)(uintptr_t)what, event->events);
}

static int timeout_ms(const kv_loop *loop, uint64_t next_ns) {
    if (next_ns == UINT64_MAX)
        return -1;
    if (next_ns <= loop->now_ns)
        return 0;
    uint64_t ms = (next_ns - loop->now_ns + 999999) / 1000000;
    return ms < 3600000 ? (int)ms : 3600000;
}

/* Polls once, after a lone client that waited for the disk has been answered: how many events.
 *
 * The loop has slept for the disk, so the system may well let the client run on the loop's processor: then one yield is
 * enough, and the next request is there.  To wake the client on another one takes ten times as long, and that is what
 * the system does while the loop's is busy, be it with spinning.  So a loop that finds nothing here sleeps, though a
 * client elsewhere then has to wake it.  Is it elsewhere nearly always (`away` counts to AWAY_MAX), it may never come:
 * the loop spins for it as for others, and tries again after AWAY_PERIOD. */
static int look_once(kv_loop *loop, struct epoll_event *events) {
    sched_yield();
    int count = epoll_wait(loop->epoll_fd, events, EVENTS_MAX, 0);
    if (count == 0)
        loop->away = (loop->away + 1) % AWAY_PERIOD;
    else
        loop->away -= loop->away < BACK_WEIGHT ? loop->away : BACK_WEIGHT;
    return count;
}

/* Polls without sleeping, while something is expected soon: how many events.
 *
 * Going to sleep and being woken takes longer than a short gap between two requests, and who wakes us, the client
 * or the committer, pays for it, too.  So where the gaps have been short of late the loop looks again and again, for no
 * longer than SPIN_NS, and lets others run in between.  A loop that is seldom asked never does, nor one that would take
 * a processor from those that it waits for. */
static int spin(kv_loop *loop, struct epoll_event *events, uint64_t end_ns) {
    int count = 0;
    if (!loop->may_spin || loop->gap_ns >= SPIN_NS || (loop->answered && loop->away < AWAY_MAX))
        return 0;
    while (count == 0 && !atomic_load(&loop->rung) && kv_now_ns() < end_ns) {
        sched_yield();
        count = epoll_wait(loop->epoll_fd, events, EVENTS_MAX, 0);
    }
    return count;
}

/* Polls; how many events.  Nothing to do: sleeps until `next_ns`, or until it is rung. */
static int poll_events(kv_loop *loop, struct epoll_event *events, uint64_t next_ns) {
    bool busy = loop->again != NULL || loop->later != NULL;
    /* The last waits of one that stops may have ended behind the round: nobody rings for them. */
    busy = busy || (atomic_load(&loop->server->stopping) && is_done(loop));
    int timeout = busy ? 0 : timeout_ms(loop, next_ns);
    int count = loop->answered ? look_once(loop, events) : epoll_wait(loop->epoll_fd, events, EVENTS_MAX, 0);
    if (timeout != 0 && count == 0) {
        uint64_t start_ns = kv_now_ns();
        count = spin(loop, events, start_ns + SPIN_NS);
        if (count == 0) {
            atomic_store(&loop->sleeps, true);
            if (!atomic_load(&loop->rung))
                count = epoll_wait(loop->epoll_fd, events, EVENTS_MAX, timeout);
            atomic_store_explicit(&loop->sleeps, false, memory_order_relaxed);
        }
        loop->gap_ns = (3 * loop->gap_ns + earlier(kv_now_ns() - start_ns, 8 * SPIN_NS)) / 4;
    }
    loop->answered = false;
    atomic_store(&loop->rung, false); /* before we look at what it is about */
    return count > 0 ? count : 0;
}

static void *loop_main(void *arg) {
    kv_loop *loop = arg;
    kv_server *server = loop->server;
    struct epoll_event events[EVENTS_MAX];
    uint64_t next_ns = 0;
    int carried = 0; /* events that the last round has polled */
    current = loop;
    set_listening(loop, loop->index == 0);
    for (bool ended = false; !ended;) {
        int count = carried > 0 ? carried : poll_events(loop, events, next_ns);
        kv_mutex_lock(&loop->turn, KV_RANK_TURN);
        loop->now_ns = kv_now_ns();
        if (atomic_load(&loop->committed)) {
            atomic_store(&loop->committed, false);
            let_go(loop);
        }
        read_mail(loop);
        for (int i = 0; i < count; i++)
            handle(loop, &events[i]);
        go_on_again(loop);
        flush_messages(loop);
        count_round(loop);
        next_ns = look_at_clock(loop);
        if (atomic_load(&server->stopping)) {
            ended = wind_up(loop);
            uint64_t stop_at_ns = atomic_load(&server->stop_at_ns);
            next_ns = loop->now_ns < stop_at_ns ? earlier(next_ns, stop_at_ns) : UINT64_MAX;
        }
        bury(loop);
        kv_mutex_unlock(&loop->turn, KV_RANK_TURN);

        if (loop->later != NULL) {
            kv_loop_finish_waits(loop);
            kv_mutex_lock(&loop->turn, KV_RANK_TURN);
            let_go(loop);
            run_later(loop);
            flush_messages(loop); /* nobody may come for a while */
            bury(loop);
            kv_mutex_unlock(&loop->turn, KV_RANK_TURN);
        }
        if (atomic_load(&loop->park))
            kv_server_park(server, loop);
        if (!ended) /* nobody would take a wait that is made now; kv_close commits what is left */
            carried = commit(loop, events);
    }
    return NULL;
}

kv_status kv_loop_start(kv_loop *loop, kv_error *err) {
    int result = kv_thread_start(&loop->thread, loop_main, loop);
    if (result != 0)
        return kv_fail_sys(err, result, NULL, "cannot start a thread");
    loop->started = true;
    return KV_OK;
}
