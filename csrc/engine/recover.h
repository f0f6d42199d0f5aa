/* recover.h - from the log on disk to a table in memory.
 *
 * Layer: engine (above segment.h, table.h).
 *
 * Reads every segment in order and applies each frame's records.  At the first frame that is not
 * valid, at LSN X, it has to tell two things apart:
 *   a torn tail  the power went while this frame was being written; nobody was told of it;
 *   damage       bytes that had been acknowledged are gone.
 * Proof of damage is anything that was written later and knew that X was on disk: a next segment, an
 * end frame without one, or a later frame with `durable_lsn` above X.  Then the store is refused, and
 * nothing is changed.  Without proof the tail is cut: its bytes are kept in torn.bin and zeroed.
 *
 * What was read may be in the page cache only (the process was killed before its sync, or a sync had
 * failed).  So frames that no later one proves durable are written again and synced before anybody
 * sees them; after a clean close that is the close frame alone.
 */
#ifndef KV_ENGINE_RECOVER_H
#define KV_ENGINE_RECOVER_H

#include "apply.h"
#include "log.h"
#include "segment.h"

#define KV_TORN_FILE "torn.bin"

typedef struct kv_recovered {
    kv_segment segment; /* the last one, open for writing (closed when read-only); owned */
    uint64_t lsn;       /* where the log goes on */
    kv_log_segment *older; /* the segments before it; owned: kv_mem_free, also after a failure */
    size_t older_count;
} kv_recovered;

/* Brings a table that nobody else uses yet up to date, with its tail (apply.h): it has the state at `lsn`, which
 * stands in the segment of that sequence (a new one: segment 1, LSN 0).  `last`: the highest sequence in the
 * directory. */
kv_status kv_recover(const kv_dir *dir, const uint8_t store_id[16], uint64_t sequence,
                     uint64_t last, uint64_t lsn, kv_table *table, kv_tail *tail, bool read_only,
                     kv_recovered *recovered, kv_recovery *info, kv_error *err) KV_MUST_CHECK;

#endif
