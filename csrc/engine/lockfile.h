/* lockfile.h - LOCK: who has the store open.
 *
 * Layer: engine (above os/file.h).  The lock is the system's, on this file; its text, the owner's process id, is
 * for people and messages only.
 */
#ifndef KV_ENGINE_LOCKFILE_H
#define KV_ENGINE_LOCKFILE_H

#include "../os/file.h"

#define KV_LOCK_FILE "LOCK"
#define KV_LOCK_TEXT_SIZE 32u /* bytes; a larger file is not ours */

typedef struct kv_lock_text {
    char bytes[KV_LOCK_TEXT_SIZE];
    size_t size;
} kv_lock_text;

/* Opens and locks it; made if need be, unless `shared`: then KV_OK and the file stays closed when there is none, since
 * nobody can be writing either.  KV_ERR_LOCKED names the owner.  A failure leaves it closed. */
kv_status kv_lockfile_take(kv_file *file, const kv_dir *dir, bool shared, kv_error *err)
    KV_MUST_CHECK;
void kv_lockfile_release(kv_file *file); /* closed: nothing */

kv_status kv_lockfile_read(const kv_file *file, kv_lock_text *text, kv_error *err) KV_MUST_CHECK;
kv_status kv_lockfile_write(const kv_file *file, const kv_lock_text *text, kv_error *err)
    KV_MUST_CHECK;

#endif
