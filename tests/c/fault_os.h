/* fault_os.h - a kv_os around another one, on which every call can be made to go wrong.
 *
 * It counts the calls of each kind; it can fail the n-th one (once, or it and all that follow),
 * before or after it had its effect; it can cut transfers short, delay calls, and hold them at a
 * gate until the test lets them through.  A sweep over all failures of a scenario is then
 *
 *     for (uint64_t n = 1;; n++) {
 *         ...a fresh store on a fresh fault_os...
 *         fault_os_fail(faults, FAULT_ANY, n, EIO, 0);
 *         scenario();
 *         if (fault_os_failures(faults) == 0)
 *             break;   // the scenario makes fewer than n calls
 *     }
 *
 * Thread-safe.  The locks here are held neither while the inner call runs nor at a gate.
 */
#ifndef FAULT_OS_H
#define FAULT_OS_H

#include "os/os.h"

/* One row per function of kv_os. */
#define FAULT_CALL_TABLE(X)                                                                      \
    X(FAULT_DIR_OPEN)                                                                            \
    X(FAULT_IDENTITY)                                                                        \
    X(FAULT_DIR_LIST)                                                                            \
    X(FAULT_DIR_SYNC)                                                                            \
    X(FAULT_OPEN)                                                                                \
    X(FAULT_CLOSE)                                                                               \
    X(FAULT_SIZE)                                                                                \
    X(FAULT_READ)                                                                                \
    X(FAULT_WRITE)                                                                               \
    X(FAULT_SYNC)                                                                                \
    X(FAULT_TRUNCATE)                                                                            \
    X(FAULT_RESERVE)                                                                             \
    X(FAULT_RENAME)                                                                              \
    X(FAULT_UNLINK)                                                                              \
    X(FAULT_LOCK)                                                                                \
    X(FAULT_RANDOM)                                                                              \
    X(FAULT_DIRECT)

typedef enum fault_call {
#define X(name) name,
    FAULT_CALL_TABLE(X)
#undef X
    FAULT_ANY, /* every kind; also the number of kinds */
} fault_call;

enum {
    FAULT_FOREVER = 1, /* this call and all later ones of its kind */
    FAULT_DONE = 2,    /* the call has its effect, and answers failure nevertheless */
    FAULT_SHORT = 4,   /* a read or write transfers half of what is asked; other calls do as ever */
};

typedef struct fault_os fault_os;

/* Around `inner`, which is borrowed.  Owned: fault_os_destroy, with no call in flight. */
fault_os *fault_os_create(const kv_os *inner);
void fault_os_destroy(fault_os *faults);

/* What the code under test is given.  Borrowed from `faults`. */
const kv_os *fault_os_table(fault_os *faults);

/* "FAULT_SYNC". */
const char *fault_call_name(fault_call call);

/* Calls made since creation (failed ones count), and how many of them were failed here. */
uint64_t fault_os_calls(fault_os *faults, fault_call call);
uint64_t fault_os_failures(fault_os *faults);

/* The nth call of this kind from now (1: the next) answers -sys_errno.  A close is always done, so
 * that nothing leaks.  FAULT_SHORT has no errno (0).  Up to 16 such rules at a time; a rule that has fired is
 * dropped unless FAULT_FOREVER.  fault_os_heal drops all. */
void fault_os_fail(fault_os *faults, fault_call call, uint64_t nth, int sys_errno,
                   unsigned flags);
void fault_os_heal(fault_os *faults);

/* Reads and writes transfer at most so many bytes a call; 0: as many as asked.  A direct write that is cut within a
 * block goes through the page cache: that is how a system comes to answer such a number. */
void fault_os_limit(fault_os *faults, size_t transfer_max);

/* Calls of this kind take so much longer (before their effect). */
void fault_os_delay(fault_os *faults, fault_call call, uint64_t delay_ns);

/* A closed gate holds calls of this kind, before their effect.  fault_os_gate_wait returns once
 * `count` calls stand there. */
void fault_os_gate_close(fault_os *faults, fault_call call);
void fault_os_gate_wait(fault_os *faults, fault_call call, uint64_t count);
void fault_os_gate_open(fault_os *faults, fault_call call);

/* What the wall clock says from now on, in ms since 1970; 0: what the inner one says. */
void fault_os_set_clock(fault_os *faults, uint64_t now_ms);

/* `watch` is called before and after each inner call, by the thread that makes it and without
 * locks: the place to take the image of a power cut.  NULL: none.  A call that is under way when it is set
 * ends under the old one. */
typedef void (*fault_watch)(void *arg, fault_call call, bool after);
void fault_os_watch(fault_os *faults, fault_watch watch, void *arg);

#endif
