/* commit.c - see commit.h. */
#include "commit.h"

#include "../base/futex.h"
#include "../base/mem.h"
#include "shared.h"

static void wake(kv_committer *c) {
    atomic_fetch_add(&c->word, 1);
    kv_futex_wake(&c->word, 1);
}

/* Some loop's ticket; false: there is none. */
static bool take_locked(kv_committer *c, unsigned *loop, kv_ticket *ticket) {
    for (unsigned i = 0; i < c->server->loop_count; i++) {
        if (c->tickets[i].group == NULL)
            continue;
        *loop = i;
        *ticket = c->tickets[i];
        c->tickets[i].group = NULL;
        return true;
    }
    return false;
}

static void *committer_main(void *arg) {
    kv_committer *c = arg;
    for (;;) {
        kv_ticket ticket;
        unsigned loop;
        uint32_t word = atomic_load(&c->word);
        kv_mutex_lock(&c->mutex, KV_RANK_COMMITTER);
        bool found = take_locked(c, &loop, &ticket), stopping = c->stopping;
        bool waited = c->waits;
        c->waits = found;
        c->sleeps = !found;
        kv_mutex_unlock(&c->mutex, KV_RANK_COMMITTER);
        if (waited && !found) {
            atomic_fetch_add(&c->idle_word, 1);
            kv_futex_wake(&c->idle_word, KV_FUTEX_ALL);
        }
        if (found) {
            /* How it ended the loop learns from its own copy. */
            if (kv_ticket_wait(c->server->db, &ticket, NULL) < 0)
                kv_ticket_forget(&ticket);
            kv_loop_ring_for_commit(&c->server->loops[loop]);
        } else if (stopping) {
            return NULL;
        } else {
            kv_futex_wait(&c->word, word, KV_FUTEX_FOREVER);
        }
    }
}

kv_status kv_committer_start(kv_committer *c, kv_server *server, kv_error *err) {
    c->server = server;
    c->tickets = kv_mem_alloc_zero(server->loop_count * sizeof *c->tickets);
    if (c->tickets == NULL)
        return kv_fail_nomem(err, server->loop_count * sizeof *c->tickets);
    int result = kv_thread_start(&c->thread, committer_main, c);
    if (result != 0) {
        kv_mem_free(c->tickets);
        c->tickets = NULL;
        return kv_fail_sys(err, result, NULL, "cannot start a thread");
    }
    c->runs = true;
    return KV_OK;
}

void kv_committer_stop(kv_committer *c) {
    if (!c->runs)
        return;
    kv_mutex_lock(&c->mutex, KV_RANK_COMMITTER);
    c->stopping = true;
    kv_mutex_unlock(&c->mutex, KV_RANK_COMMITTER);
    wake(c);
    pthread_join(c->thread, NULL);
    c->runs = false;
    kv_mem_free(c->tickets);
    c->tickets = NULL;
}

void kv_committer_ask(kv_committer *c, unsigned loop, kv_ticket *ticket) {
    kv_mutex_lock(&c->mutex, KV_RANK_COMMITTER);
    kv_ticket older = c->tickets[loop];
    c->tickets[loop] = *ticket;
    bool sleeps = c->sleeps;
    c->sleeps = false;
    kv_mutex_unlock(&c->mutex, KV_RANK_COMMITTER);
    ticket->group = NULL;
    kv_ticket_forget(&older);
    if (sleeps)
        wake(c);
    else
        atomic_fetch_add(&c->word, 1); /* it has not slept yet, and will not */
}

void kv_committer_calm(kv_committer *c) {
    for (;;) {
        uint32_t word = atomic_load(&c->idle_word);
        kv_mutex_lock(&c->mutex, KV_RANK_COMMITTER);
        bool busy = c->waits;
        for (unsigned i = 0; i < c->server->loop_count; i++)
            busy |= c->tickets[i].group != NULL;
        kv_mutex_unlock(&c->mutex, KV_RANK_COMMITTER);
        if (!busy)
            return;
        kv_futex_wait(&c->idle_word, word, KV_FUTEX_FOREVER);
    }
}
