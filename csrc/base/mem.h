/* mem.h - heap and address space, where every request can fail.
 *
 * Layer: base (a leaf).  The C allocator and mmap, called only here, so that a test can make the
 * n-th request fail (debug builds) and every out-of-memory path runs.
 */
#ifndef KV_BASE_MEM_H
#define KV_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *kv_mem_alloc(size_t size); /* owned: kv_mem_free; NULL when there is no memory */
void *kv_mem_alloc_zero(size_t size);
void *kv_mem_alloc_aligned(size_t size, size_t alignment); /* a power of two >= 8 */
void *kv_mem_realloc(void *block, size_t size); /* on failure the old block stays */
void kv_mem_free(void *block);                  /* NULL is allowed */

/* Zeroed address space, aligned to `alignment` (a power of two); huge pages are asked for when
 * `huge`.  Owned: kv_mem_unmap with the same size. */
void *kv_mem_map(size_t size, size_t alignment, bool huge);
void kv_mem_unmap(void *area, size_t size);

/* Makes the page of such an area resident that begins at `page`, if the system can.  Changes no byte, and may run
 * while another thread writes there. */
void kv_mem_touch(void *page);

#ifdef KV_DEBUG
/* The n-th request from now fails (0: the next), and with `from_then_on` every later one;
 * UINT64_MAX: none.  Returns how many requests were made since the last call. */
uint64_t kv_mem_fail_at(uint64_t n, bool from_then_on);
#endif

#endif
