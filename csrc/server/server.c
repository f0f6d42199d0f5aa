/* server.c - see server.h: listening, starting, stopping, reloading. */
#include "server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "../os/os.h"
#include "command.h"
#include "shared.h"

#define BACKLOG 1024

int kv_thread_start(pthread_t *thread, void *(*function)(void *), void *arg) {
    sigset_t all, before;
    sigfillset(&all);
    int result = pthread_sigmask(SIG_SETMASK, &all, &before); /* the new thread inherits it */
    if (result != 0)
        return result;
    result = pthread_create(thread, NULL, function, arg);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

static void change_life(kv_server *server) {
    atomic_fetch_add(&server->life_word, 1);
    kv_futex_wake(&server->life_word, KV_FUTEX_ALL);
}

#define LOCK(server) kv_mutex_lock(&(server)->life, KV_RANK_LIFE)
#define UNLOCK(server) kv_mutex_unlock(&(server)->life, KV_RANK_LIFE)

/* ---- Listening ----------------------------------------------------------------------------- */

static kv_status add_listener(kv_server *server, int fd, bool is_unix, kv_error *err) {
    if (server->listener_count == KV_LISTENERS_MAX) {
        close(fd);
        return kv_fail(err, KV_ERR_INVALID, "the host has more than %u addresses", KV_LISTENERS_MAX);
    }
    server->listeners[server->listener_count++] = (kv_listener){.fd = fd, .is_unix = is_unix};
    return KV_OK;
}

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24) == 127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static void set_port(struct sockaddr *address, uint16_t port) {
    if (address->sa_family == AF_INET)
        ((struct sockaddr_in *)(void *)address)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)(void *)address)->sin6_port = htons(port);
}

static uint16_t port_of(int fd) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        return 0;
    return ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)(void *)&address)->sin_port
                                              : ((struct sockaddr_in6 *)(void *)&address)->sin6_port);
}

/* 0 and a descriptor, or an errno. */
static int listen_at(const struct addrinfo *info, int *fd) {
    int on = 1, failure;
    *fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return errno;
    (void)setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (info->ai_family == AF_INET6)
        (void)setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(*fd, info->ai_addr, info->ai_addrlen) == 0 && listen(*fd, BACKLOG) == 0)
        return 0;
    failure = errno;
    close(*fd);
    return failure;
}

static kv_status listen_tcp(kv_server *server, kv_error *err) {
    const kv_config *config = &server->config;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    kv_status status = KV_OK;
    int failure = 0;
    int result = getaddrinfo(config->host, NULL, &hints, &found);
    if (result == EAI_SYSTEM)
        return kv_fail_sys(err, errno, NULL, "cannot look %s up", config->host);
    if (result != 0)
        return kv_fail(err, result == EAI_MEMORY ? KV_ERR_NOMEM : KV_ERR_INVALID, "cannot listen on %s: %s",
                       config->host, gai_strerror(result));
    server->port = config->port;
    for (const struct addrinfo *info = found; info != NULL && status == KV_OK; info = info->ai_next) {
        int fd;
        if (info->ai_family != AF_INET && info->ai_family != AF_INET6)
            continue;
        if (!kv_config_has_password(&server->config) && !is_loopback(info->ai_addr)) {
            status = kv_fail(err, KV_ERR_INVALID,
                             "%s is not a loopback address: others could read and write everything; give a password",
                             config->host);
            break;
        }
        set_port(info->ai_addr, server->port);
        failure = listen_at(info, &fd);
        if (failure == EAFNOSUPPORT || failure == EADDRNOTAVAIL)
            continue; /* a system without IPv6 that knows ::1 by name */
        if (failure != 0) {
            status = kv_fail_sys(err, failure, NULL, "cannot listen on %s port %u", config->host, server->port);
            break;
        }
        if (server->port == 0)
            server->port = port_of(fd);
        status = add_listener(server, fd, false, err);
    }
    freeaddrinfo(found);
    if (status == KV_OK && server->listener_count == 0)
        status = kv_fail_sys(err, failure != 0 ? failure : EADDRNOTAVAIL, NULL, "cannot listen on %s port %u",
                             config->host, server->port);
    return status;
}

/* ---- The unix socket --------------------------------------------------------------------------
 * Its file must be the owner's alone from its first moment, and a file that a dead server has left must go while one
 * in use must not.  The umask belongs to the whole process, and a chmod behind bind leaves a moment; Linux takes the
 * mode of the socket itself, set before bind, for the file.  (Elsewhere chmod does it, before listen: until then
 * every connect is refused.)  Two servers that start at once are kept apart by a lock on the directory, held only
 * while one looks, removes and binds: a lock file would be left behind. */

/* The directory of the path, locked; -1 and errno. */
static int lock_directory(const char *path) {
    char dir[sizeof((struct sockaddr_un *)0)->sun_path + 2];
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        (void)snprintf(dir, sizeof dir, ".");
    else
        (void)snprintf(dir, sizeof dir, "%.*s", (int)(slash == path ? 1 : slash - path), path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        while (flock(fd, LOCK_EX) < 0 && errno == EINTR)
            continue;
    return fd;
}

/* Removes what a dead server left.  0, or an errno. */
static int remove_stale(const struct sockaddr_un *address) {
    struct stat st;
    if (lstat(address->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : errno;
    if (!S_ISSOCK(st.st_mode))
        return EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int result = connect(fd, (const struct sockaddr *)address, sizeof *address);
    int failure = result == 0 || errno == EAGAIN ? EADDRINUSE : errno == ECONNREFUSED ? 0 : errno;
    close(fd);
    if (failure != 0)
        return failure;
    return unlink(address->sun_path) == 0 || errno == ENOENT ? 0 : errno;
}

static int bind_unix(int fd, const struct sockaddr_un *address) {
    int failure = remove_stale(address);
    if (failure != 0)
        return failure;
#ifdef __linux__
    if (fchmod(fd, S_IRUSR | S_IWUSR) < 0)
        return errno;
#endif
    if (bind(fd, (const struct sockaddr *)address, sizeof *address) < 0)
        return errno;
    if (chmod(address->sun_path, S_IRUSR | S_IWUSR) == 0 && listen(fd, BACKLOG) == 0)
        return 0;
    failure = errno;
    (void)unlink(address->sun_path);
    return failure;
}

static kv_status listen_unix(kv_server *server, kv_error *err) {
    const char *path = server->config.unix_path;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return kv_fail(err, KV_ERR_INVALID, "the path of the unix socket is longer than %zu bytes",
                       sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path));
    int dir = lock_directory(path);
    if (dir < 0)
        return kv_fail_sys(err, errno, path, "cannot make the socket");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int failure = fd >= 0 ? bind_unix(fd, &address) : errno;
    close(dir);
    if (failure != 0) {
        if (fd >= 0)
            close(fd);
        return kv_fail_sys(err, failure, path,
                           failure == EEXIST ? "there is a file that is no socket" : "cannot listen on the socket");
    }
    struct stat st;
    if (lstat(path, &st) == 0) {
        server->unix_identity[0] = (uint64_t)st.st_dev;
        server->unix_identity[1] = (uint64_t)st.st_ino;
    }
    return add_listener(server, fd, true, err);
}

static void unlisten(kv_server *server) {
    for (unsigned i = 0; i < server->listener_count; i++) {
        const char *path = server->config.unix_path;
        if (server->listeners[i].is_unix) {
            struct stat st;
            int dir = lock_directory(path);
            if (dir >= 0 && lstat(path, &st) == 0 && (uint64_t)st.st_dev == server->unix_identity[0] &&
                (uint64_t)st.st_ino == server->unix_identity[1])
                (void)unlink(path);
            if (dir >= 0)
                close(dir);
        }
        (void)shutdown(server->listeners[i].fd, SHUT_RDWR); /* also for the copy that a forked child has */
        close(server->listeners[i].fd);
    }
    server->listener_count = 0;
}

/* ---- Starting ------------------------------------------------------------------------------ */

static kv_status prepare(kv_server *server, kv_db *db, const kv_config *config, kv_error *err) {
    kv_status status = kv_config_copy(config, &server->config, err);
    if (status < 0)
        return status;
    status = kv_config_check(&server->config, err);
    if (status < 0)
        return status;
    if (server->config.host == NULL && server->config.unix_path == NULL)
        return kv_fail(err, KV_ERR_INVALID, "a server needs a host or a unix socket to listen on");
    status = kv_counters_init(&server->counters, kv_command_count(), server->loop_count, err);
    if (status < 0)
        return status;
    kv_channels_init(&server->channels);
    int result = kv_os_posix.random(kv_os_posix.ctx, &server->channels.key, sizeof server->channels.key);
    if (result < 0)
        return kv_fail_sys(err, -result, NULL, "cannot get random bytes");
    if (config->tls_cert != NULL || config->tls_key != NULL) {
        if (config->tls_cert == NULL || config->tls_key == NULL)
            return kv_fail(err, KV_ERR_INVALID, "TLS needs a certificate and its private key");
        status = kv_tls_context_create(&server->config, &server->tls, err);
        if (status < 0)
            return status;
    }
    server->memory_only = kv_is_memory_only(db);
    server->sync = kv_sync_mode(db);
    status = kv_dup(db, false, &server->db, err);
    if (status < 0)
        return status;
    server->stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (server->stop_fd < 0)
        return kv_fail_sys(err, errno, NULL, "cannot make an event descriptor");
    for (unsigned i = 0; i < server->loop_count; i++) {
        status = kv_loop_init(&server->loops[i], server, i, err);
        if (status < 0)
            return status;
    }
    return KV_OK;
}

static kv_status start(kv_server *server, kv_error *err) {
    kv_status status = KV_OK;
    if (server->config.host != NULL)
        status = listen_tcp(server, err);
    if (status == KV_OK && server->config.unix_path != NULL)
        status = listen_unix(server, err);
    if (status == KV_OK)
        status = kv_committer_start(&server->committer, server, err);
    /* The first loop last: it lets clients in, and they go to all. */
    for (unsigned i = server->loop_count; i-- > 0 && status == KV_OK;)
        status = kv_loop_start(&server->loops[i], err);
    return status;
}

kv_status kv_server_start(kv_db *db, const kv_config *config, kv_server **out, kv_error *err) {
    unsigned loops = config->threads > 0 ? config->threads : 1;
    kv_server *server = kv_mem_alloc_zero(sizeof *server);
    if (server == NULL)
        return kv_fail_nomem(err, sizeof *server);
    server->pid = getpid();
    server->stop_fd = -1;
    server->loops = kv_mem_alloc_zero(loops * sizeof *server->loops);
    if (server->loops == NULL) {
        kv_mem_free(server);
        return kv_fail_nomem(err, loops * sizeof *server->loops);
    }
    for (unsigned i = 0; i < loops; i++)
        server->loops[i].epoll_fd = server->loops[i].wake_fd = -1;
    server->loop_count = loops;
    kv_status status = prepare(server, db, config, err);
    if (status == KV_OK)
        status = start(server, err);
    if (status < 0) {
        kv_server_destroy(server);
        return status;
    }
    *out = server;
    return KV_OK;
}

/* ---- Stopping ------------------------------------------------------------------------------ */

static bool is_forked(const kv_server *server) {
    return server->pid != getpid();
}

static void join_saver(kv_server *server) {
    LOCK(server);
    bool join = server->saver_is_joinable;
    server->saver_is_joinable = false;
    UNLOCK(server);
    if (join)
        pthread_join(server->saver, NULL);
}

static void end(kv_server *server, uint64_t grace_ms) {
    uint64_t grace_ns = grace_ms < UINT64_C(1000000000) ? grace_ms * 1000000 : UINT64_C(1000000000000000);
    atomic_store(&server->stop_at_ns, kv_now_ns() + grace_ns);
    atomic_store(&server->stopping, true);
    for (unsigned i = 0; i < server->loop_count; i++) {
        if (server->loops[i].started)
            kv_loop_ring(&server->loops[i]);
    }
    for (unsigned i = 0; i < server->loop_count; i++) {
        if (server->loops[i].started)
            pthread_join(server->loops[i].thread, NULL);
        server->loops[i].started = false;
    }
    kv_committer_stop(&server->committer);
    join_saver(server);
    unlisten(server);
    for (unsigned i = 0; i < server->loop_count; i++)
        kv_loop_fini(&server->loops[i]);
    kv_channels_fini(&server->channels);
    server->stop_status = server->db != NULL ? kv_close(server->db, &server->stop_error) : KV_OK;
}

kv_status kv_server_stop(kv_server *server, uint64_t grace_ms, kv_error *err) {
    if (is_forked(server))
        return KV_OK; /* the parent's */
    for (;;) {
        uint32_t word = atomic_load(&server->life_word);
        LOCK(server);
        bool mine = server->state == KV_SERVER_RUNS && !server->reloading;
        bool over = server->state == KV_SERVER_STOPPED;
        if (mine)
            server->state = KV_SERVER_STOPS;
        UNLOCK(server);
        if (over)
            break;
        if (!mine) {
            kv_futex_wait(&server->life_word, word, KV_FUTEX_FOREVER);
            continue;
        }
        end(server, grace_ms);
        LOCK(server);
        server->state = KV_SERVER_STOPPED;
        UNLOCK(server);
        change_life(server);
        kv_server_ask_to_stop(server); /* who waits for its end knows now */
        break;
    }
    if (server->stop_status < 0 && err != NULL)
        *err = server->stop_error;
    return server->stop_status;
}

void kv_server_destroy(kv_server *server) {
    if (server == NULL || is_forked(server))
        return; /* in a child: any of its locks may be held for ever */
    (void)kv_server_stop(server, 0, NULL);
    kv_destroy(server->db);
    if (server->stop_fd >= 0)
        close(server->stop_fd);
    kv_tls_context_destroy(server->tls);
    kv_counters_fini(&server->counters);
    kv_config_free(&server->config);
    kv_mem_free(server->loops);
    kv_mem_free(server);
}

uint16_t kv_server_port(const kv_server *server) {
    return server->port;
}

bool kv_server_is_stopping(const kv_server *server) {
    return atomic_load(&server->stopping);
}

int kv_server_stop_fd(const kv_server *server) {
    return server->stop_fd;
}

/* ---- For commands -------------------------------------------------------------------------- */

kv_config *kv_server_config(kv_server *server) {
    return &server->config;
}

kv_counters *kv_server_stats(kv_server *server) {
    return &server->counters;
}

kv_db *kv_server_db(kv_server *server) {
    return server->db;
}

bool kv_server_debug_enabled(const kv_server *server) {
    return server->config.debug_commands;
}

void kv_server_ask_to_stop(kv_server *server) {
    uint64_t one = 1;
    ssize_t written = write(server->stop_fd, &one, sizeof one);
    (void)written;
}

/* ---- A checkpoint in the background -------------------------------------------------------- */

static bool goes_on(void *arg, uint64_t done, uint64_t total) {
    kv_server *server = arg;
    (void)done;
    (void)total;
    return !atomic_load(&server->stopping);
}

static void *save(void *arg) {
    kv_server *server = arg;
    (void)!kv_checkpoint(server->db, goes_on, server, NULL); /* INFO tells how it ended: kv_stats has it */
    LOCK(server);
    server->saving = false;
    UNLOCK(server);
    change_life(server);
    return NULL;
}

kv_status kv_server_checkpoint_in_background(kv_server *server, kv_error *err) {
    LOCK(server);
    bool busy = server->saving || server->reloading || server->state != KV_SERVER_RUNS;
    if (!busy)
        server->saving = true;
    UNLOCK(server);
    if (busy)
        return KV_BUSY;
    join_saver(server); /* one that has ended */
    LOCK(server); /* until it stands in `saver`: a thread that ends at once is not followed by a second one before */
    int result = kv_thread_start(&server->saver, save, server);
    server->saver_is_joinable = server->saving = result == 0;
    UNLOCK(server);
    return result == 0 ? KV_OK : kv_fail_sys(err, result, NULL, "cannot start a thread");
}

bool kv_server_is_saving(kv_server *server) {
    LOCK(server);
    bool saving = server->saving;
    UNLOCK(server);
    return saving;
}

/* ---- Reloading ----------------------------------------------------------------------------- */

/* Everything that the loop has of the store goes, but for its handle's shell, whose calls then
 * fail. */
static void let_go_of_store(kv_loop *loop) {
    kv_loop_finish_waits(loop);
    kv_txn_end(loop->txn);
    kv_settle(loop->db);
    (void)kv_close(loop->db, NULL);
}

/* Another handle; false: there is none, and all calls of the clients fail. */
static bool take_store(kv_loop *loop, kv_error *err) {
    kv_db *db;
    if (kv_dup(loop->server->db, true, &db, err) < 0)
        return false;
    kv_db *old = loop->db;
    loop->db = db;
    for (kv_conn *conn = loop->conns; conn != NULL; conn = conn->next)
        conn->client.db = db;
    kv_destroy(old);
    return true;
}

void kv_server_park(kv_server *server, kv_loop *loop) {
    let_go_of_store(loop);
    LOCK(server);
    server->parked++;
    UNLOCK(server);
    change_life(server);
    for (;;) {
        uint32_t word = atomic_load(&server->life_word);
        LOCK(server);
        bool over = !server->reloading;
        UNLOCK(server);
        if (over)
            break;
        kv_futex_wait(&server->life_word, word, KV_FUTEX_FOREVER);
    }
    kv_mutex_lock(&loop->turn, KV_RANK_TURN);
    bool taken = take_store(loop, NULL);
    kv_mutex_unlock(&loop->turn, KV_RANK_TURN);
    if (!taken)
        kv_server_ask_to_stop(server);
    LOCK(server);
    server->parked--;
    UNLOCK(server);
    change_life(server);
    kv_loop_ring_for_commit(loop); /* the waits have ended: the connections are to know */
}

static void wait_for_parked(kv_server *server, unsigned count) {
    for (;;) {
        uint32_t word = atomic_load(&server->life_word);
        LOCK(server);
        bool reached = server->parked == count;
        UNLOCK(server);
        if (reached)
            return;
        kv_futex_wait(&server->life_word, word, KV_FUTEX_FOREVER);
    }
}

/* For threads that are no loops, between two: the store stays open. */
static void begin_use(kv_server *server) {
    for (;;) {
        uint32_t word = atomic_load(&server->life_word);
        LOCK(server);
        bool mine = !server->reloading;
        if (mine)
            server->users++;
        UNLOCK(server);
        if (mine)
            return;
        kv_futex_wait(&server->life_word, word, KV_FUTEX_FOREVER);
    }
}

static void end_use(kv_server *server) {
    LOCK(server);
    server->users--;
    UNLOCK(server);
    change_life(server);
}

kv_status kv_server_store_stats(kv_server *server, kv_stats *stats, kv_error *err) {
    begin_use(server);
    kv_status status = kv_get_stats(server->db, 0, stats, err);
    end_use(server);
    return status;
}

static kv_status begin_reload(kv_server *server, kv_error *err) {
    kv_stats stats;
    if (server->memory_only)
        return kv_fail(err, KV_ERR_INVALID, "the store is in memory only");
    kv_status status = kv_get_stats(server->db, KV_NOWAIT, &stats, err);
    if (status < 0)
        return status;
    if (stats.handles != server->loop_count + 1)
        return kv_fail(err, KV_ERR_INVALID, "the store is open elsewhere in this process");
    LOCK(server);
    bool busy = server->reloading || server->saving || server->state != KV_SERVER_RUNS;
    if (!busy)
        server->reloading = true;
    UNLOCK(server);
    return busy ? kv_fail(err, KV_ERR_INVALID, "a checkpoint is being made, or the server stops; try again later")
                : KV_OK;
}

static void park_others(kv_server *server, const kv_loop *own) {
    for (unsigned i = 0; i < server->loop_count; i++) {
        if (&server->loops[i] != own) {
            atomic_store(&server->loops[i].park, true);
            kv_loop_ring(&server->loops[i]);
        }
    }
    wait_for_parked(server, server->loop_count - 1);
    for (;;) {
        uint32_t word = atomic_load(&server->life_word);
        LOCK(server);
        bool alone = server->users == 0;
        UNLOCK(server);
        if (alone)
            break;
        kv_futex_wait(&server->life_word, word, KV_FUTEX_FOREVER);
    }
    for (unsigned i = 0; i < server->loop_count; i++)
        atomic_store(&server->loops[i].park, false);
}

kv_status kv_server_reload(kv_server *server, kv_client *caller, kv_error *err) {
    kv_loop *loop = kv_conn_of(caller)->loop;
    kv_status status = begin_reload(server, err);
    if (status < 0)
        return status;
    /* Others may wait for our turn, to look at our clients, and would not park. */
    kv_mutex_unlock(&loop->turn, KV_RANK_TURN);
    park_others(server, loop);
    let_go_of_store(loop);
    kv_committer_calm(&server->committer);
    status = kv_reopen(server->db, err);
    kv_mutex_lock(&loop->turn, KV_RANK_TURN);
    if (!take_store(loop, status < 0 ? NULL : err) && status == KV_OK)
        status = KV_ERR_FAILED;
    if (status < 0)
        kv_server_ask_to_stop(server);
    LOCK(server);
    server->reloading = false;
    UNLOCK(server);
    change_life(server);
    wait_for_parked(server, 0); /* a next reload finds them all at work */
    kv_loop_ring_for_commit(loop);
    return status;
}

/* ---- Other loops' clients ------------------------------------------------------------------ */

void kv_server_visit_clients(kv_server *server, bool (*visit)(void *arg, kv_client *client), void *arg) {
    kv_loop *own = NULL;
    for (unsigned i = 0; i < server->loop_count; i++)
        if (kv_loop_is_current(&server->loops[i]))
            own = &server->loops[i];
    /* Two turns are never held at once: two loops that visit each other would wait for ever.  Our
     * clients do not change meanwhile, since we are here. */
    if (own != NULL)
        kv_mutex_unlock(&own->turn, KV_RANK_TURN);
    bool more = true;
    for (unsigned i = 0; i < server->loop_count && more; i++) {
        kv_loop *loop = &server->loops[i];
        kv_mutex_lock(&loop->turn, KV_RANK_TURN);
        for (kv_conn *conn = loop->conns; conn != NULL && more; conn = conn->next)
            more = visit(arg, &conn->client);
        kv_mutex_unlock(&loop->turn, KV_RANK_TURN);
    }
    if (own != NULL)
        kv_mutex_lock(&own->turn, KV_RANK_TURN);
}

void kv_server_begin_wait(kv_client *c) {
    kv_mutex_unlock(&kv_conn_of(c)->loop->turn, KV_RANK_TURN);
}

void kv_server_end_wait(kv_client *c) {
    kv_mutex_lock(&kv_conn_of(c)->loop->turn, KV_RANK_TURN);
}

size_t kv_server_client_count(kv_server *server) {
    return atomic_load_explicit(&server->client_count, memory_order_relaxed);
}

void kv_server_kill(kv_server *server, uint64_t client_id) {
    for (unsigned i = 0; i < server->loop_count; i++) {
        kv_mail *mail = kv_mail_create(KV_MAIL_KILL, 0);
        if (mail == NULL)
            continue;
        mail->id = client_id;
        (void)kv_loop_send(&server->loops[i], mail);
    }
}
