/* thread.h - a small number for each thread: what every call counts or takes stands in several places, one for
 * each number, else threads that call at once would spend half of a short call waiting for one cache line.
 *
 * Layer: base (a leaf).  Threads may share a number: so a place is atomic, or has a lock that seldom waits.
 */
#ifndef KV_BASE_THREAD_H
#define KV_BASE_THREAD_H

#define KV_THREAD_INDEXES 8u

/* From 1 on; 0: not given yet.  It has its place in each thread from the start: of a library that is loaded later the
 * system makes one when a thread first asks, and ends the process without memory. */
extern _Thread_local unsigned kv_thread_number __attribute__((tls_model("initial-exec")));
unsigned kv_thread_number_choose(void);

/* < KV_THREAD_INDEXES. */
static inline unsigned kv_thread_index(void) {
    unsigned mine = kv_thread_number;
    return (mine != 0 ? mine : kv_thread_number_choose()) - 1;
}

/* Gives the calling thread another index if it has this one: for two that must not share. */
void kv_thread_index_avoid(unsigned index);

#endif
