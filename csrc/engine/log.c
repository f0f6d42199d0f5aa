/* log.c - see log.h.
 *
 * Who does what:
 *   append   under the mutex, copies records into log->current
 *   lead     one thread at a time (log->leading), without the mutex: write, sync
 *   publish  the leader, under the mutex again
 *   keeper   a thread that sleeps: prepares the next segment, syncs at intervals, marks
 *
 * Direct I/O.  Where every frame is synced (KV_SYNC_ALWAYS) the page cache is a detour: the leader writes past it,
 * if the system can, in whole blocks of the alignment that the file asks for:
 *
 *        a block                 the next                              ...
 *   |....tail|frame frame frame frame frame frame fra|me 000000|
 *            ^ write_lsn                                ^ write_lsn afterwards
 *
 *   - What stands before write_lsn in its block (the tail of the frame before, which may be acknowledged) is written
 *     again as it is, from a copy (log->tail) that only the leader touches and that changes only when a write has
 *     succeeded.  DURABILITY.md says what that takes from the disk.
 *   - Behind the frame stand zeros up to the end of its block.  They are no part of the log.
 *   - A group's buffer is laid out as its frame will stand in the file (kv_group.lead), so that nothing is copied
 *     but the tail.  When a rotation has changed the place, the frame is moved.
 *   - No block reaches beyond the end of the file.  There, and whenever direct I/O turns out not to work, the rest of
 *     the segment is written through the page cache.
 */
#include "log.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>

#include "../base/crc32c.h"
#include "../base/futex.h"
#include "../base/lock.h"
#include "../base/mem.h"

#define GROUP_DONE 1u   /* in kv_group.word */
#define GROUP_SIGNAL 2u /* added to it: look again, nobody leads */
#define GROUP_SIZE_MAX (UINT64_C(2) << 30) /* bytes; a frame's size has 32 bits */
#define BUFFER_SIZE_FIRST 65536u
#define SMALL_FRAME_MAX 65536u /* larger ones take 1.4 times as long in a segment that is only reserved,
                                  which is what writing its zeros would cost them (segment.h) */
#define BUFFER_KEEP_MAX (4u << 20) /* a larger buffer is not kept for the next group */
#define BLOCK_MAX KV_DIRECT_ALIGNMENT_MAX
#define BUFFER_SLACK (3 * BLOCK_MAX) /* of a buffer: before the first boundary of blocks, before the frame, and
                                        behind it up to the end of its last block */

struct kv_group {
    _Atomic uint32_t word;       /* waiters sleep on it; DONE by release, read by acquire */
    _Atomic uint32_t references; /* tickets, and one of the log's until it is done */

    /* guarded by the log's mutex while it is log->current, then the leader's */
    uint64_t start_lsn;
    uint8_t *memory; /* owned; NULL: none yet */
    size_t memory_size;
    size_t lead;     /* the frame begins so far behind the first boundary of blocks in `memory` */
    uint8_t *buffer; /* there: room for the frame's header, then records */
    size_t size;     /* 0: nothing but a request to sync */
    uint32_t commits;
    int64_t entries_change;
    bool sync;
    kv_frame_kind kind;

    /* written before DONE, constant after */
    kv_status status;
    kv_error error;
};

typedef enum spare_state { SPARE_NONE, SPARE_WANTED, SPARE_MAKING, SPARE_READY } spare_state;

struct kv_log {
    /* constant after create */
    const kv_dir *dir;
    const kv_options *options;
    uint8_t store_id[16];
    kv_log_rollback rollback;
    void *rollback_arg;
    void (*rotated)(void *arg);
    void *rotated_arg;

    kv_mutex mutex;
    /* guarded by the mutex */
    kv_group *current;  /* takes appends; NULL: none yet */
    kv_group *flushing; /* the leader's */
    bool leading;
    uint64_t next_lsn; /* where the next group starts */
    bool unmarked;     /* commits were written after the last mark */
    bool closing;
    uint64_t commits;
    uint8_t *kept_memory; /* for the next group */
    size_t kept_size;
    bool direct; /* as the newest frame was written: for statistics */
    uint64_t spare_size; /* written by leaders */
    bool small_frames; /* of late: the next segment is better written full of zeros */
    kv_file spare; /* SPARE_READY */
    bool spare_recycled;
    bool spares_dropped; /* none is made ahead, and none is kept */
    uint64_t recycled_size; /* of recycled.log; 0: there is none */
    kv_log_segment *segments_list; /* the log's files but the last one, in order */
    size_t segments_count, segments_capacity;
    bool failed;
    kv_error failure;

    /* the leader's: one thread at a time, handed on through the mutex */
    kv_segment segment;
    uint64_t write_lsn; /* end of the frames written */
    uint8_t *tail; /* 2 * BLOCK_MAX bytes on a boundary.  If segment.file.direct: the block of write_lsn, up to there */

    /* atomic */
    _Atomic uint64_t committed; /* release by the leader, acquire by readers: they then see the
                                   durable state that they rely on */
    _Atomic uint64_t durable;   /* written by the leader */
    _Atomic uint64_t entries;   /* keys at `committed` */
    _Atomic uint32_t rolling;   /* 1: a rollback is going on.  Written under the mutex; a futex */
    _Atomic uint64_t rollbacks; /* how many there have been.  seq_cst */
    _Atomic size_t pending;     /* bytes in `current`; for throttling only, so relaxed */
    _Atomic uint64_t frames, syncs, segments, log_bytes; /* statistics: relaxed */
    _Atomic uint64_t sync_turns; /* see kv_log_sync_turns; relaxed: a hint */
    _Atomic uint32_t spare_word; /* a spare_state.  Written under the mutex; a futex */
    _Atomic uint32_t naming;     /* 1: see kv_log_begin_naming; a futex */

    pthread_t keeper;
    bool keeper_runs;
    _Atomic uint32_t keeper_word; /* a futex: changed to wake the keeper */
    _Atomic bool keeper_sleeps;   /* for ever, until there is something to do.  seq_cst with
                                     keeper_word and the state that it looks at */
};

#define LOCK(log) kv_mutex_lock(&(log)->mutex, KV_RANK_LOG)
#define UNLOCK(log) kv_mutex_unlock(&(log)->mutex, KV_RANK_LOG)

/* ---- Groups ------------------------------------------------------------------------------------ */

static void group_release(kv_group *g) {
    if (atomic_fetch_sub_explicit(&g->references, 1, memory_order_acq_rel) == 1)
        kv_mem_free(g);
}

static uint8_t *buffer_in(uint8_t *memory, size_t lead) {
    return memory + (-(uintptr_t)memory & (BLOCK_MAX - 1)) + lead;
}

/* log->current, made if need be; NULL when there is no memory.  The mutex is held. */
static kv_group *current_locked(kv_log *log) {
    if (log->current != NULL)
        return log->current;
    kv_group *g = kv_mem_alloc(sizeof *g);
    if (g == NULL)
        return NULL;
    g->word = 0;
    g->references = 1;
    g->start_lsn = log->next_lsn;
    g->memory = log->kept_memory;
    g->memory_size = log->kept_size;
    log->kept_memory = NULL;
    log->kept_size = 0;
    g->lead = kv_segment_offset(&log->segment, g->start_lsn) % BLOCK_MAX; /* unless there is a rotation */
    g->buffer = g->memory != NULL ? buffer_in(g->memory, g->lead) : NULL;
    g->size = 0;
    g->commits = 0;
    g->entries_change = 0;
    g->sync = false;
    g->kind = KV_FRAME_COMMITS;
    log->current = g;
    return g;
}

static bool group_make_room(kv_group *g, uint64_t size) {
    if (size + BUFFER_SLACK <= g->memory_size)
        return true;
    size_t memory_size = g->memory_size > 0 ? g->memory_size : BUFFER_SIZE_FIRST;
    while (memory_size < size + BUFFER_SLACK)
        memory_size *= 2;
    size_t place = g->memory != NULL ? (size_t)(g->buffer - g->memory) : 0;
    uint8_t *memory = kv_mem_realloc(g->memory, memory_size);
    if (memory == NULL)
        return false;
    g->memory = memory;
    g->memory_size = memory_size;
    g->buffer = buffer_in(memory, g->lead);
    if (g->size > 0 && g->buffer != memory + place) /* rarely: large blocks keep their place in a page */
        memmove(g->buffer, memory + place, g->size);
    return true;
}

static kv_ticket ticket_for(kv_group *g, uint64_t lsn) {
    atomic_fetch_add_explicit(&g->references, 1, memory_order_relaxed);
    return (kv_ticket){.lsn = lsn, .group = g};
}

static kv_status fail_failed(const kv_log *log, kv_error *err) {
    if (err != NULL) {
        *err = log->failure;
        err->status = KV_ERR_FAILED;
    }
    return KV_ERR_FAILED;
}

kv_status kv_log_append(kv_log *log, const kv_record *records, size_t count, uint64_t bytes,
                        int64_t entries_change, bool sync, kv_ticket *ticket, kv_error *err) {
    kv_status status = KV_OK;
    LOCK(log);
    if (log->failed) {
        status = fail_failed(log, err);
        goto out;
    }
    if (atomic_load_explicit(&log->rolling, memory_order_relaxed)) {
        status = KV_BUSY;
        goto out;
    }
    kv_group *g = current_locked(log);
    if (g == NULL) {
        status = kv_fail_nomem(err, sizeof *g);
        goto out;
    }
    size_t start = g->size > 0 ? g->size : KV_FRAME_HEADER_SIZE;
    if (g->size > 0 && start + bytes > GROUP_SIZE_MAX) {
        status = KV_BUSY;
        goto out;
    }
    if (!group_make_room(g, kv_frame_size(start - KV_FRAME_HEADER_SIZE + bytes))) {
        status = kv_fail_nomem(err, bytes);
        goto out;
    }
    uint8_t *end = g->buffer + start;
    for (size_t i = 0; i < count; i++)
        end = kv_record_encode(&records[i], end);
    assert(end == g->buffer + start + bytes);
    g->size = (size_t)(end - g->buffer);
    g->kind = KV_FRAME_COMMITS; /* it may have been made for a mark */
    g->commits++;
    g->entries_change += entries_change;
    g->sync |= sync;
    log->commits++;
    atomic_store_explicit(&log->pending, g->size, memory_order_relaxed);
    *ticket = ticket_for(g, g->start_lsn + g->size);
out:
    UNLOCK(log);
    return status;
}

kv_status kv_log_attach(kv_log *log, uint64_t lsn, kv_ticket *ticket, kv_error *err) {
    kv_status status = KV_OK;
    LOCK(log);
    if (lsn <= atomic_load_explicit(&log->committed, memory_order_relaxed)) {
        *ticket = (kv_ticket){.lsn = lsn};
    } else if (log->failed) {
        status = fail_failed(log, err);
    } else if (atomic_load_explicit(&log->rolling, memory_order_relaxed)) {
        status = KV_BUSY;
    } else if (log->current != NULL && lsn > log->current->start_lsn) {
        *ticket = ticket_for(log->current, lsn);
    } else {
        assert(log->flushing != NULL);
        *ticket = ticket_for(log->flushing, lsn);
    }
    UNLOCK(log);
    return status;
}

void kv_log_newest(kv_log *log, kv_ticket *ticket, uint64_t *entries) {
    LOCK(log);
    const kv_group *current = log->current, *flushing = log->flushing;
    *ticket = (kv_ticket){.lsn = log->next_lsn};
    *entries = atomic_load_explicit(&log->entries, memory_order_relaxed);
    if (flushing != NULL) {
        *ticket = ticket_for(log->flushing, log->next_lsn);
        *entries += (uint64_t)flushing->entries_change;
    }
    if (current != NULL && current->size > 0) {
        kv_log_forget(ticket);
        *ticket = ticket_for(log->current, current->start_lsn + current->size);
        *entries += (uint64_t)current->entries_change;
    }
    UNLOCK(log);
}

/* ---- Flushing: the leader, without the mutex --------------------------------------------------- */

static kv_status sync_segment(kv_log *log, kv_error *err) {
    atomic_fetch_add_explicit(&log->sync_turns, 1, memory_order_relaxed);
    /* Promise 1 rests on this line: what `durable` says was on disk before it said so. */
    kv_status status = kv_file_sync(&log->segment.file, err);
    atomic_fetch_add_explicit(&log->sync_turns, 1, memory_order_relaxed);
    if (status < 0)
        return status;
    atomic_fetch_add_explicit(&log->syncs, 1, memory_order_relaxed);
    atomic_store_explicit(&log->durable, log->write_lsn, memory_order_release);
    return KV_OK;
}

/* How far behind the start of its block the offset is; 0 when direct I/O is off. */
static size_t head_of(const kv_log *log, uint64_t offset) {
    return log->segment.file.direct != 0 ? (size_t)offset & (log->segment.file.direct - 1) : 0;
}

/* Turns direct I/O on for the segment that the log goes on in.  Nothing in it waits for a sync. */
static void begin_direct(kv_log *log) {
    kv_file *file = &log->segment.file;
    uint64_t offset = kv_segment_offset(&log->segment, log->write_lsn);
    size_t got = 0, head = offset % BLOCK_MAX;
    if (!log->options->direct_io || log->options->sync != KV_SYNC_ALWAYS)
        return;
    /* Only in a segment that recovery has read, and settled, before us: a new one begins with a whole block. */
    if (head > 0 && (kv_file_read(file, log->tail, head, offset - head, &got, NULL) < 0 || got < head))
        return;
    kv_file_set_direct(file);
    memmove(log->tail, log->tail + head - head_of(log, offset), head_of(log, offset));
}

/* The frame that a direct write has to make whole blocks of: it stands in memory as it will stand in its block,
 * and has room before and behind it (BUFFER_SLACK, or log->tail). */
static kv_status write_direct(kv_log *log, uint8_t *frame, size_t size, uint64_t offset, size_t *done,
                              kv_error *err) {
    kv_file *file = &log->segment.file;
    size_t head = head_of(log, offset), end = head_of(log, offset + size);
    size_t padding = end > 0 ? file->direct - end : 0, reached;
    uint8_t *start = frame - head;
    memset(frame + size, 0, padding);
    if (start != log->tail)
        memcpy(start, log->tail, head);
    kv_status status = kv_file_write_blocks(file, start, head + size + padding, offset - head, &reached, err);
    *done = reached > head ? reached - head : 0;
    if (status == KV_OK)
        memmove(log->tail, frame + size - end, end);
    return status;
}

/* Builds the header (and the padding) around a payload that is in place, and writes the frame at
 * write_lsn.  `*done`: bytes that reached the file. */
static kv_status write_frame(kv_log *log, uint8_t *frame, size_t size, kv_frame_kind kind,
                             uint32_t commits, size_t *done, kv_error *err) {
    kv_frame_header header = {
        .payload_size = (uint32_t)(size - KV_FRAME_HEADER_SIZE),
        .lsn = log->write_lsn,
        .durable_lsn = atomic_load_explicit(&log->durable, memory_order_relaxed),
        .salt = log->segment.header.salt,
        .kind = kind,
        .commits = commits,
        .payload_crc =
            kv_crc32c(0, frame + KV_FRAME_HEADER_SIZE, size - KV_FRAME_HEADER_SIZE),
    };
    kv_frame_header_encode(&header, frame);
    size_t padded = kv_frame_size(size - KV_FRAME_HEADER_SIZE);
    memset(frame + size, 0, padded - size);
    kv_file *file = &log->segment.file;
    uint64_t offset = kv_segment_offset(&log->segment, log->write_lsn);
    *done = 0;
    /* The last block may be no whole one: of a segment whose size another program, or option, chose. */
    if (file->direct != 0 && offset + padded > log->segment.header.file_size / file->direct * file->direct) {
        kv_status status = kv_file_clear_direct(file, err);
        if (status < 0)
            return status;
    }
    return file->direct != 0 ? write_direct(log, frame, padded, offset, done, err)
                             : kv_file_write(file, frame, padded, offset, done, err);
}

/* ---- The next segment -------------------------------------------------------------------------------------
 *
 * Who set SPARE_MAKING, and nobody else, makes or removes files called spare.log and recycled.log, until it sets
 * something else.  Two have them beside it: the leader that took a spare, until it has renamed it (no spare is wanted
 * before that), and let_go, which makes a recycled.log where there is none. */

static void set_spare_locked(kv_log *log, spare_state state) {
    atomic_store_explicit(&log->spare_word, state, memory_order_relaxed);
}

/* With SPARE_MAKING set by this thread, from then on. */
static void end_making(kv_log *log, spare_state state) {
    LOCK(log);
    set_spare_locked(log, state);
    UNLOCK(log);
    kv_futex_wake(&log->spare_word, KV_FUTEX_ALL);
}

/* Sets SPARE_MAKING, when nobody else has, and gives what there was: a file if SPARE_READY. */
static spare_state begin_making(kv_log *log, kv_file *spare, bool *recycled) {
    for (;;) {
        LOCK(log);
        spare_state state = atomic_load_explicit(&log->spare_word, memory_order_relaxed);
        if (state == SPARE_READY) {
            *spare = log->spare;
            *recycled = log->spare_recycled;
            log->spare.fd = -1;
        }
        set_spare_locked(log, SPARE_MAKING);
        UNLOCK(log);
        if (state != SPARE_MAKING)
            return state;
        kv_futex_wait(&log->spare_word, SPARE_MAKING, KV_FUTEX_FOREVER);
    }
}

/* Makes the spare of the recycled file, when there is one of at least that size.  The name stays taken until it
 * has been renamed: another file of that name (let_go) would be renamed in the place of the one that is open. */
static bool use_recycled(kv_log *log, uint64_t size, kv_file *spare) {
    LOCK(log);
    bool fits = log->recycled_size >= size;
    UNLOCK(log);
    if (!fits)
        return false;
    bool made = kv_segment_prepare_recycled(spare, log->dir, NULL) == KV_OK;
    LOCK(log);
    log->recycled_size = 0;
    UNLOCK(log);
    return made;
}

/* Whether the next segment is worth writing full of zeros: they are for syncs of small frames, one by one.  Elsewhere
 * that would keep the keeper, who also syncs at intervals, from doing so. */
static bool writes_zeros(const kv_log *log) {
    return log->small_frames && log->options->sync == KV_SYNC_ALWAYS;
}

/* The spare that the keeper made, or one made here and now. */
static kv_status take_spare(kv_log *log, uint64_t size, kv_file *spare, bool *recycled,
                            kv_error *err) {
    kv_status status = KV_OK;
    bool fits = begin_making(log, spare, recycled) == SPARE_READY && log->spare_size >= size;
    if (!fits) {
        kv_file_close(spare);
        *recycled = use_recycled(log, size, spare);
        if (!*recycled)
            status = kv_segment_prepare(spare, log->dir, size, writes_zeros(log), err);
    }
    end_making(log, SPARE_NONE);
    return status;
}

static uint64_t next_segment_size(const kv_log *log, uint64_t frame_size) {
    uint64_t size = log->segment.header.file_size * 2;
    if (size > log->options->segment_size_max)
        size = log->options->segment_size_max;
    return kv_segment_size_for(frame_size, size);
}

/* Room for one more; only the leader adds. */
static bool list_make_room(kv_log *log) {
    LOCK(log);
    bool fits = log->segments_count < log->segments_capacity;
    if (!fits) {
        size_t capacity = log->segments_capacity > 0 ? log->segments_capacity * 2 : 16;
        kv_log_segment *list =
            kv_mem_realloc(log->segments_list, capacity * sizeof *log->segments_list);
        if (list != NULL) {
            log->segments_list = list;
            log->segments_capacity = capacity;
            fits = true;
        }
    }
    UNLOCK(log);
    return fits;
}

void kv_log_begin_naming(kv_log *log) {
    kv_futex_take(&log->naming);
}

void kv_log_end_naming(kv_log *log) {
    kv_futex_give_back(&log->naming);
}

/* A spare with the header of the segment that begins at write_lsn.  Whatever fails in here, the log is as it was. */
static kv_status begin_next(kv_log *log, uint64_t frame_size, kv_segment *next, kv_error *err) {
    kv_file spare = KV_FILE_CLOSED;
    kv_segment_header header = {
        .version = KV_FORMAT_VERSION,
        .sequence = log->segment.header.sequence + 1,
        .start_lsn = log->write_lsn,
    };
    memcpy(header.store_id, log->store_id, sizeof header.store_id);
    if (!list_make_room(log))
        return kv_fail_nomem(err, (log->segments_capacity + 1) * sizeof *log->segments_list);
    uint64_t size = next_segment_size(log, frame_size);
    uint64_t least = kv_segment_size_for(frame_size, log->options->segment_size_min);
    kv_status status = take_spare(log, size, &spare, &header.recycled, err);
    if (status < 0 && least < size) /* a small disk, or a limit of sizes, may never allow a large one again */
        status = take_spare(log, least, &spare, &header.recycled, err);
    if (status == KV_OK)
        status = kv_file_size(&spare, &header.file_size, err);
    if (status == KV_OK)
        status = kv_dir_random(log->dir, &header.salt, sizeof header.salt, err);
    if (status == KV_OK)
        status = kv_segment_begin(next, &spare, &header, err);
    if (status < 0)
        kv_file_close(&spare);
    return status;
}

/* The log goes on in a new segment.  Order: what is written becomes durable; the new segment exists
 * on disk; the old one says so (its end frame).  A crash after the second step leaves a segment without
 * frames behind one without an end: recovery takes both as they are.  After the third, a missing
 * last segment is known to be missing.
 *
 * A failure before the rename (but for the sync) is one of the group only: all that there is of the new segment is
 * spare.log, which no open reads and the next try begins anew, and the log goes on in the old one.  From the rename
 * on it is for good, whatever it was: the name may be there, now or after a crash, and a frame that the old segment
 * got at write_lsn after all would stand where the new one begins, which recovery takes for damage. */
static kv_status rotate(kv_log *log, uint64_t frame_size, bool *for_good, kv_error *err) {
    kv_segment next;
    kv_status status = KV_OK;
    *for_good = true;
    if (atomic_load_explicit(&log->durable, memory_order_relaxed) < log->write_lsn)
        status = sync_segment(log, err);
    if (status < 0)
        return status;
    status = begin_next(log, frame_size, &next, err);
    if (status < 0) {
        *for_good = false;
        return status;
    }
    kv_log_begin_naming(log);
    status = kv_segment_publish(&next, err);
    kv_log_end_naming(log);
    if (status < 0)
        return status;
    /* Behind the copy of its block's head, where a direct write needs it. */
    uint8_t *end = log->tail + head_of(log, kv_segment_offset(&log->segment, log->write_lsn));
    size_t done;
    status = write_frame(log, end, KV_FRAME_HEADER_SIZE, KV_FRAME_END, 0, &done, err);
    if (status == KV_OK)
        status = kv_file_sync(&log->segment.file, err);
    if (status < 0 && status != KV_ERR_NOSPACE) { /* without room, the end frame is done without */
        /* Whether the end is on disk is not known: going on in either segment could be wrong. */
        kv_file_close(&next.file);
        return status;
    }
    kv_file_close(&log->segment.file);
    LOCK(log);
    log->segments_list[log->segments_count++] = (kv_log_segment){
        .sequence = log->segment.header.sequence,
        .start_lsn = log->segment.header.start_lsn,
        .file_size = log->segment.header.file_size,
    };
    log->segment = next;
    atomic_fetch_add_explicit(&log->segments, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&log->log_bytes, next.header.file_size, memory_order_relaxed);
    UNLOCK(log);
    log->segment.file.dir = log->dir;
    begin_direct(log);
    if (log->rotated != NULL)
        log->rotated(log->rotated_arg);
    return KV_OK;
}

/* ---- Writing a group ------------------------------------------------------------------------------ */

static uint64_t room_left(const kv_log *log) {
    /* The end frame's room stays reserved. */
    uint64_t used = kv_segment_offset(&log->segment, log->write_lsn) + kv_frame_size(0);
    uint64_t size = log->segment.header.file_size;
    return used < size ? size - used : 0;
}

/* Whether the header that stands in memory does not stand in the file; false also when that cannot be told. */
static bool header_is_absent(const kv_log *log, const uint8_t *frame, uint64_t offset) {
    uint8_t found[KV_FRAME_HEADER_SIZE];
    size_t got = 0;
    return kv_file_read(&log->segment.file, found, sizeof found, offset, &got, NULL) == KV_OK &&
           (got < sizeof found || memcmp(found, frame, sizeof found) != 0);
}

/* The group's frame could not be written, or only a part of it, `done`: makes that part zeros again, so that the
 * next frame at the same LSN is not followed by a piece of this one, and this one does not come back.
 *
 * Through the page cache, and the rest of the segment with it: so the head of the block, which belongs to
 * others, is not touched.  A direct write that failed may have written more than it says: only if the header has not
 * come through is the rest, whatever there is of it, no frame.  Else the frame may be whole, and the zeros are synced
 * before anybody is told: a power cut would bring it back, maybe behind the start of the next segment. */
static bool take_back(kv_log *log, const kv_group *g, size_t done) {
    kv_file *file = &log->segment.file;
    uint64_t offset = kv_segment_offset(&log->segment, log->write_lsn);
    bool direct = file->direct != 0;
    if (direct) {
        if (kv_file_clear_direct(file, NULL) < 0)
            return false;
        if (done > 0 || !header_is_absent(log, g->buffer, offset))
            done = kv_frame_size(g->size - KV_FRAME_HEADER_SIZE);
    }
    if (done == 0)
        return true;
    return kv_file_write_zeros(file, done, offset, NULL) == KV_OK && (!direct || kv_file_sync(file, NULL) == KV_OK);
}

/* Writes the group's frame at write_lsn.  A failure leaves nothing of it behind, or is `*for_good`. */
static kv_status write_group(kv_log *log, kv_group *g, bool *for_good, kv_error *err) {
    size_t lead = kv_segment_offset(&log->segment, log->write_lsn) % BLOCK_MAX, done;
    if (log->segment.file.direct != 0 && g->lead != lead) {
        uint8_t *buffer = buffer_in(g->memory, lead);
        memmove(buffer, g->buffer, g->size);
        g->buffer = buffer;
        g->lead = lead;
    }
    kv_status status = write_frame(log, g->buffer, g->size, g->kind, g->commits, &done, err);
    if (status < 0)
        *for_good = (status != KV_ERR_NOSPACE && status != KV_ERR_NOMEM) || !take_back(log, g, done);
    return status;
}

/* Writes the group, and syncs if it must.  On failure `*for_good`: the log cannot go on. */
static kv_status flush(kv_log *log, kv_group *g, bool *for_good, kv_error *err) {
    kv_status status = KV_OK;
    if (g->size > 0) {
        uint64_t frame_size = kv_frame_size(g->size - KV_FRAME_HEADER_SIZE);
        assert(g->start_lsn == log->write_lsn);
        /* A segment of an older format may be read by an older pykv: it gets no newer records. */
        bool older = log->segment.header.version != KV_FORMAT_VERSION &&
                     g->kind == KV_FRAME_COMMITS;
        if (frame_size > room_left(log) || older)
            status = rotate(log, frame_size, for_good, err);
        if (status == KV_OK)
            status = write_group(log, g, for_good, err);
        if (status < 0)
            return status;
        log->write_lsn += frame_size;
        atomic_fetch_add_explicit(&log->frames, 1, memory_order_relaxed);
    }
    if ((g->sync || log->options->sync == KV_SYNC_ALWAYS) &&
        atomic_load_explicit(&log->durable, memory_order_relaxed) < log->write_lsn) {
        status = sync_segment(log, err);
        *for_good = status < 0;
    }
    return status;
}

/* ---- Leading -------------------------------------------------------------------------------------- */

static void wake_keeper(kv_log *log) {
    atomic_fetch_add(&log->keeper_word, 1);
    kv_futex_wake(&log->keeper_word, 1);
}

static void group_done(kv_group *g, kv_status status, const kv_error *error) {
    g->status = status;
    if (status < 0)
        g->error = *error;
    atomic_fetch_or_explicit(&g->word, GROUP_DONE, memory_order_release);
}

static void keep_buffer_locked(kv_log *log, kv_group *g) {
    if (log->kept_memory == NULL && g->memory_size <= BUFFER_KEEP_MAX) {
        log->kept_memory = g->memory;
        log->kept_size = g->memory_size;
    } else {
        kv_mem_free(g->memory);
    }
    g->memory = NULL;
}

/* The group is committed. */
static void publish_locked(kv_log *log, kv_group *g) {
    atomic_fetch_add_explicit(&log->entries, (uint64_t)g->entries_change, memory_order_relaxed);
    atomic_store_explicit(&log->committed, log->write_lsn, memory_order_release);
    log->small_frames = g->size < SMALL_FRAME_MAX;
    log->direct = log->segment.file.direct != 0;
    if (g->size > 0)
        log->unmarked = g->kind == KV_FRAME_COMMITS;
    uint64_t half = log->segment.header.file_size / 2;
    if (room_left(log) < half && !log->closing && !log->spares_dropped &&
        atomic_load_explicit(&log->spare_word, memory_order_relaxed) == SPARE_NONE) {
        log->spare_size = next_segment_size(log, 0);
        set_spare_locked(log, SPARE_WANTED);
        wake_keeper(log);
    }
}

/* The group could not be committed: it, and what was appended after it, is undone.
 *
 * From `rolling` on nobody appends.  Whoever had appended before holds the shard's lock until the
 * change is linked, so the rollback, which locks each shard, finds it.  Only when memory is what it
 * was may positions be used again. */
static void give_up(kv_log *log, kv_group *g, bool for_good, kv_error *err) {
    LOCK(log);
    kv_group *later = log->current;
    log->current = NULL;
    if (for_good && !log->failed) {
        log->failure = *err;
        log->failed = true; /* before anybody can append again */
    }
    atomic_store(&log->rolling, 1);
    UNLOCK(log);

    /* Who asked for a sync gets one of what had been written before: refused writes, which may follow each other
     * without a break, must not keep it from the disk. */
    bool sync = g->sync || (later != NULL && later->sync);
    if (!for_good && sync && atomic_load_explicit(&log->durable, memory_order_relaxed) < log->write_lsn &&
        sync_segment(log, err) < 0) {
        LOCK(log);
        log->failure = *err;
        log->failed = for_good = true;
        UNLOCK(log);
    }

    uint64_t committed = atomic_load_explicit(&log->committed, memory_order_relaxed);
    kv_error rollback_error;
    if (log->rollback(log->rollback_arg, committed, &rollback_error) < 0) {
        /* The undo records are still there: reads stay right, but writes would not be. */
        LOCK(log);
        if (!log->failed)
            log->failure = rollback_error;
        log->failed = true;
        UNLOCK(log);
        for_good = true;
    }
    if (for_good)
        err->status = KV_ERR_FAILED;
    atomic_fetch_add(&log->rollbacks, 1); /* before anybody who waits is told */

    LOCK(log);
    log->next_lsn = log->write_lsn;
    group_done(g, err->status, err);
    if (later != NULL) {
        group_done(later, err->status, err);
        keep_buffer_locked(log, later);
    }
    atomic_store(&log->rolling, 0);
    UNLOCK(log);
    kv_futex_wake(&log->rolling, KV_FUTEX_ALL);
    if (later != NULL) {
        kv_futex_wake(&later->word, KV_FUTEX_ALL);
        group_release(later);
    }
}

/* Flushes log->current as its leader.  The mutex is held, and released. */
static void lead_locked(kv_log *log) {
    kv_group *g = log->current;
    kv_error err;
    bool for_good;
    log->current = NULL;
    log->flushing = g;
    log->leading = true;
    if (g->size > 0)
        log->next_lsn = g->start_lsn + kv_frame_size(g->size - KV_FRAME_HEADER_SIZE);
    atomic_store_explicit(&log->pending, 0, memory_order_relaxed);
    bool failed = log->failed;
    if (failed)
        err = log->failure;
    UNLOCK(log);

    kv_status status = KV_ERR_FAILED;
    for_good = true;
    if (!failed)
        status = flush(log, g, &for_good, &err);
    if (status < 0)
        give_up(log, g, for_good, &err);

    LOCK(log);
    if (status == KV_OK) {
        publish_locked(log, g);
        group_done(g, KV_OK, NULL);
    }
    keep_buffer_locked(log, g);
    log->flushing = NULL;
    log->leading = false;
    kv_group *next = log->current;
    if (next != NULL) {
        atomic_fetch_add_explicit(&next->word, GROUP_SIGNAL, memory_order_relaxed);
        atomic_fetch_add_explicit(&next->references, 1, memory_order_relaxed);
    }
    UNLOCK(log);
    if (next != NULL) {
        kv_futex_wake(&next->word, 1); /* one of its waiters: the next leader, before the rest */
        group_release(next);
    }
    if (atomic_load_explicit(&g->references, memory_order_relaxed) > 2)
        kv_futex_wake(&g->word, KV_FUTEX_ALL); /* others than the log's and the leader's own */
    group_release(g);
    if (atomic_load(&log->keeper_sleeps))
        wake_keeper(log);
}

void kv_log_forget(kv_ticket *ticket) {
    if (ticket->group != NULL)
        group_release(ticket->group);
    ticket->group = NULL;
}

kv_ticket kv_log_copy(const kv_ticket *ticket) {
    return ticket->group != NULL ? ticket_for(ticket->group, ticket->lsn) : *ticket;
}

/* Of a group that is done. */
static kv_status end_ticket(kv_ticket *ticket, kv_error *err) {
    kv_group *g = ticket->group;
    kv_status status = g->status;
    if (status < 0 && err != NULL)
        *err = g->error;
    ticket->group = NULL;
    group_release(g);
    return status;
}

kv_status kv_log_try(kv_ticket *ticket, kv_error *err) {
    kv_group *g = ticket->group;
    if (g == NULL)
        return KV_OK;
    /* Acquire pairs with the release in group_done: the status is there. */
    bool done = atomic_load_explicit(&g->word, memory_order_acquire) & GROUP_DONE;
    return done ? end_ticket(ticket, err) : KV_BUSY;
}

kv_status kv_log_wait(kv_log *log, kv_ticket *ticket, kv_error *err) {
    kv_group *g = ticket->group;
    if (g == NULL)
        return KV_OK;
    for (;;) {
        uint32_t word = atomic_load_explicit(&g->word, memory_order_acquire);
        if (word & GROUP_DONE)
            break;
        LOCK(log);
        if (!log->leading && log->current == g) {
            lead_locked(log);
            continue;
        }
        UNLOCK(log);
        /* A signal between our look at the word and here has changed it: no sleep then. */
        kv_futex_wait(&g->word, word, KV_FUTEX_FOREVER);
    }
    return end_ticket(ticket, err);
}

/* ---- Waiting for other things --------------------------------------------------------------------- */

bool kv_log_is_full(kv_log *log) {
    return atomic_load_explicit(&log->pending, memory_order_relaxed) >
           log->options->inflight_max;
}

void kv_log_pause(kv_log *log) {
    while (atomic_load(&log->rolling))
        kv_futex_wait(&log->rolling, 1, KV_FUTEX_FOREVER);
    kv_ticket ticket = {0};
    LOCK(log);
    if (log->current != NULL && log->current->size > 0)
        ticket = ticket_for(log->current, 0);
    else if (log->flushing != NULL)
        ticket = ticket_for(log->flushing, 0);
    UNLOCK(log);
    (void)!kv_log_wait(log, &ticket, NULL); /* those who wrote it get its error */
}

/* A group of this kind (a bare request to sync for KV_FRAME_COMMITS), flushed. */
static kv_status flush_special(kv_log *log, kv_frame_kind kind, kv_error *err) {
    for (;;) {
        LOCK(log);
        if (log->failed) {
            kv_status status = fail_failed(log, err);
            UNLOCK(log);
            return status;
        }
        if (atomic_load_explicit(&log->rolling, memory_order_relaxed)) {
            UNLOCK(log);
            kv_log_pause(log);
            continue;
        }
        kv_group *g = current_locked(log);
        if (g == NULL || (kind != KV_FRAME_COMMITS && g->size == 0 &&
                          !group_make_room(g, KV_FRAME_HEADER_SIZE))) {
            UNLOCK(log);
            return kv_fail_nomem(err, sizeof *g);
        }
        g->sync = true;
        if (kind != KV_FRAME_COMMITS && g->size == 0) {
            g->kind = kind;
            g->size = KV_FRAME_HEADER_SIZE;
        }
        kv_ticket ticket = ticket_for(g, 0);
        UNLOCK(log);
        return kv_log_wait(log, &ticket, err);
    }
}

kv_status kv_log_make_durable(kv_log *log, kv_error *err) {
    LOCK(log);
    uint64_t lsn = atomic_load_explicit(&log->committed, memory_order_relaxed);
    bool nothing = !log->failed && log->current == NULL && log->flushing == NULL &&
                   atomic_load_explicit(&log->durable, memory_order_relaxed) == log->next_lsn;
    UNLOCK(log);
    kv_status status = nothing ? KV_OK : flush_special(log, KV_FRAME_COMMITS, err);
    /* Writers who are refused take those with them who wait for the same flush; but what is written is synced for them
     * (give_up). */
    bool refused = status < 0 && status != KV_ERR_FAILED;
    return refused && atomic_load_explicit(&log->durable, memory_order_relaxed) >= lsn ? KV_OK : status;
}

uint64_t kv_log_committed(const kv_log *log) {
    return atomic_load(&log->committed); /* seq_cst: see kv_store_limit */
}

uint64_t kv_log_entries(const kv_log *log) {
    return atomic_load_explicit(&log->entries, memory_order_relaxed);
}

uint64_t kv_log_rollbacks(const kv_log *log) {
    return atomic_load(&log->rollbacks);
}

bool kv_log_failed(kv_log *log, kv_error *err) {
    LOCK(log);
    bool failed = log->failed;
    if (failed)
        (void)!fail_failed(log, err);
    UNLOCK(log);
    return failed;
}

uint64_t kv_log_sync_turns(const kv_log *log) {
    return atomic_load_explicit(&log->sync_turns, memory_order_relaxed);
}

void kv_log_get_stats(kv_log *log, kv_log_stats *stats) {
    LOCK(log);
    *stats = (kv_log_stats){
        .appended_lsn = log->current != NULL && log->current->size > 0
                            ? log->current->start_lsn + log->current->size
                            : log->next_lsn,
        .committed_lsn = atomic_load_explicit(&log->committed, memory_order_relaxed),
        .durable_lsn = atomic_load_explicit(&log->durable, memory_order_relaxed),
        .commits = log->commits,
        .frames = atomic_load_explicit(&log->frames, memory_order_relaxed),
        .syncs = atomic_load_explicit(&log->syncs, memory_order_relaxed),
        .segments = atomic_load_explicit(&log->segments, memory_order_relaxed),
        .log_bytes = atomic_load_explicit(&log->log_bytes, memory_order_relaxed),
        .direct_io = log->direct,
        .failed = log->failed,
    };
    UNLOCK(log);
}

/* ---- Letting go of old segments --------------------------------------------------------------------- */

uint64_t kv_log_segment_of(kv_log *log, uint64_t lsn) {
    LOCK(log);
    uint64_t sequence = log->segment.header.sequence;
    if (log->segment.header.start_lsn > lsn) {
        for (size_t i = 0; i < log->segments_count; i++)
            if (log->segments_list[i].start_lsn <= lsn)
                sequence = log->segments_list[i].sequence;
    }
    UNLOCK(log);
    return sequence;
}

uint64_t kv_log_full_bytes(kv_log *log) {
    LOCK(log);
    uint64_t bytes = atomic_load_explicit(&log->log_bytes, memory_order_relaxed) -
                     log->segment.header.file_size;
    UNLOCK(log);
    return bytes;
}

/* One file goes: it becomes recycled.log when there is none and it has the size of those to come. */
static bool let_go(kv_log *log, const kv_log_segment *old, kv_log_remove remove, void *arg) {
    char name[sizeof log->spare.name];
    kv_segment_name(old->sequence, name);
    LOCK(log);
    bool recycle = log->recycled_size == 0 && !log->closing && !log->spares_dropped &&
                   old->file_size == kv_segment_size_for(0, log->options->segment_size_max);
    UNLOCK(log);
    if (!recycle)
        return remove(arg, name) >= 0;
    if (kv_dir_rename(log->dir, name, KV_SEGMENT_RECYCLED, NULL) < 0)
        return false;
    LOCK(log);
    log->recycled_size = old->file_size;
    UNLOCK(log);
    return true;
}

void kv_log_drop_before(kv_log *log, uint64_t sequence, kv_log_remove remove, void *arg) {
    for (;;) {
        kv_log_segment oldest = {0};
        LOCK(log);
        if (log->segments_count > 0)
            oldest = log->segments_list[0];
        UNLOCK(log);
        /* Oldest first.  What a crash brings back of them is not needed, and removed by the next open. */
        if (oldest.sequence == 0 || oldest.sequence >= sequence || !let_go(log, &oldest, remove, arg))
            return;
        LOCK(log);
        memmove(log->segments_list, log->segments_list + 1,
                --log->segments_count * sizeof *log->segments_list);
        UNLOCK(log);
        atomic_fetch_sub_explicit(&log->segments, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&log->log_bytes, oldest.file_size, memory_order_relaxed);
    }
}

void kv_log_drop_spares(kv_log *log) {
    kv_file spare = KV_FILE_CLOSED;
    bool recycled;
    LOCK(log);
    log->spares_dropped = true;
    UNLOCK(log);
    if (begin_making(log, &spare, &recycled) == SPARE_READY) {
        kv_file_close(&spare);
        (void)!kv_dir_unlink(log->dir, KV_SEGMENT_SPARE, NULL);
    }
    (void)!kv_dir_unlink(log->dir, KV_SEGMENT_RECYCLED, NULL); /* if there is one */
    LOCK(log);
    log->recycled_size = 0;
    UNLOCK(log);
    end_making(log, SPARE_NONE);
}

void kv_log_allow_spares(kv_log *log) {
    LOCK(log);
    log->spares_dropped = false;
    UNLOCK(log);
}

/* ---- The keeper -------------------------------------------------------------------------------------- */

static void make_spare(kv_log *log) {
    LOCK(log);
    bool wanted =
        atomic_load_explicit(&log->spare_word, memory_order_relaxed) == SPARE_WANTED;
    uint64_t size = log->spare_size;
    bool written = writes_zeros(log);
    if (wanted)
        set_spare_locked(log, SPARE_MAKING);
    UNLOCK(log);
    if (!wanted)
        return;
    kv_file spare;
    /* A failure is not reported here: whoever needs the segment tries again, and reports. */
    bool recycled = use_recycled(log, size, &spare);
    bool made = recycled || kv_segment_prepare(&spare, log->dir, size, written, NULL) == KV_OK;
    LOCK(log);
    if (made)
        log->spare = spare;
    log->spare_recycled = recycled;
    UNLOCK(log);
    end_making(log, made ? SPARE_READY : SPARE_NONE);
}

/* Does what is due, and says whether there will be more without anybody's doing.  `seen_lsn`: the
 * committed LSN of the round before: a log that has not moved since is idle. */
static bool keeper_round(kv_log *log, uint64_t *seen_lsn) {
    LOCK(log);
    uint64_t committed = atomic_load_explicit(&log->committed, memory_order_relaxed);
    bool behind = atomic_load_explicit(&log->durable, memory_order_relaxed) < committed;
    bool idle = committed == *seen_lsn && log->current == NULL && !log->leading;
    bool unmarked = log->unmarked, failed = log->failed;
    UNLOCK(log);
    bool moved = committed != *seen_lsn;
    *seen_lsn = committed;
    if (failed || log->options->sync == KV_SYNC_NEVER)
        return false;
    kv_error ignored; /* the log keeps its own failure, and the next writer gets it */
    if (log->options->sync == KV_SYNC_INTERVAL && behind)
        (void)!flush_special(log, KV_FRAME_COMMITS, &ignored);
    else if (idle && unmarked)
        (void)!flush_special(log, KV_FRAME_MARK, &ignored);
    return moved || behind || unmarked;
}

static void *keeper_main(void *arg) {
    kv_log *log = arg;
    uint64_t seen_lsn = 0;
    bool interval = log->options->sync == KV_SYNC_INTERVAL;
    uint64_t period = interval ? log->options->sync_interval_ns : log->options->mark_delay_ns / 2;
    uint64_t due = kv_now_ns() + period;
    bool more = true;
    for (;;) {
        uint32_t word = atomic_load(&log->keeper_word);
        LOCK(log);
        bool closing = log->closing;
        UNLOCK(log);
        if (closing)
            return NULL;
        make_spare(log); /* wanted before the word was loaded, or it will have changed */
        uint64_t now = kv_now_ns();
        if (!more) {
            /* Sleep until a leader sees the flag, or saw it before we looked: look once more. */
            atomic_store(&log->keeper_sleeps, true);
            LOCK(log);
            bool work = atomic_load(&log->spare_word) == SPARE_WANTED || log->closing ||
                        atomic_load(&log->committed) != seen_lsn;
            UNLOCK(log);
            if (!work)
                kv_futex_wait(&log->keeper_word, word, KV_FUTEX_FOREVER);
            atomic_store(&log->keeper_sleeps, false);
            more = true;
            due = kv_now_ns() + period;
        } else if (now < due) {
            kv_futex_wait(&log->keeper_word, word, due - now);
        } else {
            more = keeper_round(log, &seen_lsn);
            due = kv_now_ns() + period;
        }
    }
}

static int keeper_start(kv_log *log) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
    int error = pthread_create(&log->keeper, NULL, keeper_main, log);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    log->keeper_runs = error == 0;
    return error;
}

static void keeper_stop(kv_log *log) {
    LOCK(log);
    log->closing = true;
    UNLOCK(log);
    if (!log->keeper_runs)
        return;
    wake_keeper(log);
    pthread_join(log->keeper, NULL);
    log->keeper_runs = false;
}

/* ---- Life ------------------------------------------------------------------------------------------------ */

kv_status kv_log_create(const kv_log_start *start, kv_log **out, kv_error *err) {
    kv_log *log = kv_mem_alloc_zero(sizeof *log);
    if (log == NULL)
        return kv_fail_nomem(err, sizeof *log);
    log->dir = start->dir;
    log->options = start->options;
    log->rollback = start->rollback;
    log->rollback_arg = start->rollback_arg;
    log->rotated = start->rotated;
    log->rotated_arg = start->rotated_arg;
    log->segment = start->segment;
    log->segment.file.dir = start->dir;
    memcpy(log->store_id, start->segment.header.store_id, sizeof log->store_id);
    log->next_lsn = log->write_lsn = start->lsn;
    log->committed = log->durable = start->lsn;
    log->entries = start->entries;
    log->segments = start->older_count + 1;
    log->log_bytes = start->segment.header.file_size;
    log->segments_list = kv_mem_alloc((start->older_count + 1) * sizeof *log->segments_list);
    log->tail = kv_mem_alloc_aligned(2 * BLOCK_MAX, BLOCK_MAX);
    if (log->segments_list == NULL || log->tail == NULL) {
        kv_mem_free(log->segments_list);
        kv_mem_free(log->tail);
        kv_mem_free(log);
        return kv_fail_nomem(err, 2 * BLOCK_MAX + (start->older_count + 1) * sizeof *start->older);
    }
    log->segments_count = start->older_count;
    log->segments_capacity = start->older_count + 1;
    for (size_t i = 0; i < start->older_count; i++) {
        log->segments_list[i] = start->older[i];
        log->log_bytes += start->older[i].file_size;
    }
    log->unmarked = start->unmarked;
    log->spare.fd = -1;
    log->small_frames = true;
    begin_direct(log);
    log->direct = log->segment.file.direct != 0;
    int error = keeper_start(log);
    if (error != 0) {
        kv_mem_free(log->segments_list);
        kv_mem_free(log->tail);
        kv_mem_free(log);
        return kv_fail_sys(err, error, start->dir->path, "cannot start the keeper thread");
    }
    *out = log;
    return KV_OK;
}

kv_status kv_log_close(kv_log *log, kv_error *err) {
    keeper_stop(log);
    kv_status status = kv_log_make_durable(log, err);
    if (status < 0)
        return status;
    /* All is on disk, also when there is no room for that frame, and no next segment for it. */
    status = flush_special(log, KV_FRAME_CLOSE, err);
    return status == KV_ERR_FAILED ? status : KV_OK;
}

void kv_log_destroy(kv_log *log) {
    if (log == NULL)
        return;
    keeper_stop(log);
    assert(log->flushing == NULL);
    if (log->current != NULL) { /* a close frame for which there was no memory */
        kv_mem_free(log->current->memory);
        group_release(log->current);
    }
    if (log->spare.fd >= 0) {
        kv_file_close(&log->spare);
        (void)!kv_dir_unlink(log->dir, KV_SEGMENT_SPARE, NULL);
    }
    if (log->recycled_size > 0)
        (void)!kv_dir_unlink(log->dir, KV_SEGMENT_RECYCLED, NULL);
    kv_file_close(&log->segment.file);
    kv_mem_free(log->segments_list);
    kv_mem_free(log->kept_memory);
    kv_mem_free(log->tail);
    kv_mem_free(log);
}

void kv_log_abandon(kv_log *log) {
    kv_file_close(&log->segment.file);
    kv_file_close(&log->spare);
}
