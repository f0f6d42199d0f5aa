/* thread.c - see thread.h. */
#include "thread.h"

#include <stdatomic.h>

_Thread_local unsigned kv_thread_number;

unsigned kv_thread_number_choose(void) {
    static _Atomic unsigned next; /* relaxed: that threads have different ones is a matter of speed */
    kv_thread_number = atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % KV_THREAD_INDEXES + 1;
    return kv_thread_number;
}

void kv_thread_index_avoid(unsigned index) {
    if (kv_thread_index() == index)
        kv_thread_number = (index + 1) % KV_THREAD_INDEXES + 1;
}
