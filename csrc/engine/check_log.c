/* check_log.c - see check.h: the log's segments, and in each the frames; on behind what is damaged.
 *
 * First all headers are read: they say where each segment starts, and so where the one before it has to
 * end.  A segment whose header is damaged can still be read when its frames agree with each other and with
 * what stands before it.  Then the frames.  Torn tail or damage is decided as recover.c does.
 */
#include <inttypes.h>

#include "../base/crc32c.h"
#include "check.h"
#include "segment.h"

#define NO_LIMIT UINT64_MAX

/* The segment whose frames are being read. */
typedef struct walk {
    kv_checker *c;
    const kv_check_segment *segment;
    uint64_t limit;  /* LSN where the next one starts, or NO_LIMIT */
    bool followed;   /* there is a next one, readable or not: all of this one had been on disk */
    uint64_t lsn;    /* of the frame to come */
    bool ended;      /* its end frame was there, at `lsn` */
    bool proof_known;
    uint64_t proof_lsn; /* the largest that a frame behind the first damage knows as durable */
} walk;

static uint64_t offset_of(const kv_check_segment *s, uint64_t lsn) {
    return KV_SEGMENT_HEADER_SIZE + (lsn - s->start_lsn);
}

/* The LSN behind the last byte of the file. */
static uint64_t end_of(const kv_check_segment *s) {
    return s->start_lsn + (s->size > KV_SEGMENT_HEADER_SIZE ? s->size - KV_SEGMENT_HEADER_SIZE : 0);
}

static kv_check_loss loss_of_log(uint64_t bytes) {
    kv_check_numbers n = {0};
    return kv_check_loss_of("up to %s bytes of the log", kv_check_number(&n, bytes));
}

static kv_status open_segment(kv_checker *c, const kv_check_segment *s, bool counted,
                              kv_error *err) {
    char name[64];
    kv_segment_name(s->sequence, name);
    return kv_checker_open(c, name, counted, "the whole segment of the log", err);
}

/* The header of the frame at the LSN, if it is one of this segment that fits into the file. */
static kv_status frame_at(kv_checker *c, const kv_check_segment *s, uint64_t lsn,
                          kv_frame_header *h, bool *found, kv_error *err) {
    const uint8_t *bytes;
    *found = false;
    if (lsn < s->start_lsn || lsn > end_of(s) || end_of(s) - lsn < KV_FRAME_HEADER_SIZE)
        return KV_OK;
    uint64_t offset = offset_of(s, lsn);
    kv_status status = kv_checker_get(c, offset, KV_FRAME_HEADER_SIZE, &bytes, err);
    if (status == KV_OK)
        *found = kv_frame_header_decode(h, bytes) && h->lsn == lsn && h->salt == s->salt &&
                 kv_frame_size(h->payload_size) <= s->size - offset;
    return status;
}

/* The same with its payload, which is whole when `*whole`. */
static kv_status whole_frame_at(kv_checker *c, const kv_check_segment *s, uint64_t lsn,
                                kv_frame_header *h, bool *found, const uint8_t **payload,
                                bool *whole, kv_error *err) {
    *whole = false;
    kv_status status = frame_at(c, s, lsn, h, found, err);
    if (status < 0 || !*found)
        return status;
    status = kv_checker_get(c, offset_of(s, lsn), (size_t)kv_frame_size(h->payload_size), payload,
                            err);
    if (status < 0)
        return status;
    *payload += KV_FRAME_HEADER_SIZE;
    *whole = kv_crc32c(0, *payload, h->payload_size) == h->payload_crc;
    return KV_OK;
}

/* ---- Headers ------------------------------------------------------------------------------- */

/* The header is damaged: looks for frames at the places that they name.  The segment starts at `least_lsn` at
 * the least; what stands behind the frames of a recycled one starts earlier.  Whose it is they do not say:
 * so it must go on exactly where the log before it ends (`from_lsn`: known, of the first; of the others,
 * see kv_check_log). */
static kv_status adopt(kv_checker *c, kv_check_segment *s, uint64_t least_lsn,
                       const uint64_t *from_lsn, bool first, kv_error *err) {
    kv_frame_header h;
    if (first && from_lsn == NULL)
        return KV_OK;
    for (uint64_t at = KV_SEGMENT_HEADER_SIZE; at + KV_FRAME_HEADER_SIZE <= s->size;
         at += KV_FRAME_ALIGNMENT) {
        const uint8_t *bytes;
        kv_status status = kv_checker_get(c, at, KV_FRAME_HEADER_SIZE, &bytes, err);
        if (status < 0)
            return status;
        if (!kv_frame_header_decode(&h, bytes) || h.lsn < at - KV_SEGMENT_HEADER_SIZE)
            continue;
        uint64_t start_lsn = h.lsn - (at - KV_SEGMENT_HEADER_SIZE);
        if (start_lsn < least_lsn)
            continue;
        s->start_lsn = start_lsn;
        s->salt = h.salt;
        s->known = s->adopted = true;
        return first ? frame_at(c, s, *from_lsn, &h, &s->known, err) : KV_OK;
    }
    return KV_OK;
}

/* The header of the open segment: s->known when it can be used, a problem when it is not as it should be. */
static kv_status judge_header(kv_checker *c, kv_check_segment *s, bool *damaged, kv_error *err) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header h;
    kv_error problem;
    kv_check_loss loss = loss_of_log(s->size);
    size_t size = s->size < sizeof bytes ? (size_t)s->size : sizeof bytes;
    *damaged = false;
    kv_status status = kv_checker_read(c, 0, size, bytes, err);
    if (status < 0)
        return status;
    status = kv_segment_header_decode(&h, bytes, size, c->path, &problem);
    if (status < 0) {
        *damaged = status == KV_ERR_CORRUPT;
        return kv_checker_report(c, &problem, loss.text, err);
    }
    if (c->store_id_known && memcmp(h.store_id, c->identity.store_id, 16) != 0)
        return kv_checker_problem(c, err, 16, loss.text, "this segment belongs to another store");
    if (h.sequence != s->sequence)
        return kv_checker_problem(c, err, 32, loss.text,
                                  "this is segment %" PRIu64 " by its header", h.sequence);
    s->start_lsn = h.start_lsn;
    s->salt = h.salt;
    s->known = true;
    if (h.file_size == s->size)
        return KV_OK;
    loss = loss_of_log(h.file_size > s->size ? h.file_size - s->size : 0);
    return kv_checker_problem(c, err, s->size, loss.text,
                              "the file has %" PRIu64 " bytes, not %" PRIu64, s->size, h.file_size);
}

static kv_status read_headers(kv_checker *c, kv_check_segment *s, size_t count,
                              const uint64_t *from_lsn, kv_error *err) {
    uint64_t least_lsn = 0;
    for (size_t i = 0; i < count; i++) {
        bool damaged;
        kv_status status = open_segment(c, &s[i], false, err);
        if (status == KV_NOTFOUND)
            continue;
        if (status < 0)
            return status;
        s[i].size = c->file_size;
        status = judge_header(c, &s[i], &damaged, err);
        if (status == KV_OK && damaged)
            status = adopt(c, &s[i], least_lsn, from_lsn, i == 0, err);
        kv_checker_close(c);
        if (status < 0)
            return status;
        if (s[i].known)
            least_lsn = s[i].start_lsn + 1;
    }
    return KV_OK;
}

/* ---- Frames -------------------------------------------------------------------------------- */

/* Behind the damage at w->lsn: the next frame's LSN, or w->limit, or NO_LIMIT.  Also what proves that
 * w->lsn had been on disk, once a segment: what frames know as durable grows along the log, so the largest
 * proves as much of any later place as the frames behind that place. */
static kv_status search_frame(walk *w, uint64_t *next_lsn, kv_error *err) {
    enum { STEP = 65536 };
    uint64_t end = end_of(w->segment);
    *next_lsn = w->limit;
    if (w->limit < end)
        end = w->limit;
    for (uint64_t lsn = w->lsn + KV_FRAME_ALIGNMENT; lsn < end; lsn += STEP) {
        const uint8_t *bytes;
        uint64_t offset = offset_of(w->segment, lsn), left = w->c->file_size - offset;
        size_t size = left < STEP + KV_FRAME_HEADER_SIZE ? (size_t)left
                                                         : STEP + KV_FRAME_HEADER_SIZE;
        kv_status status = kv_checker_get(w->c, offset, size, &bytes, err);
        if (status < 0)
            return status;
        for (size_t i = 0; i < STEP && i + KV_FRAME_HEADER_SIZE <= size; i += KV_FRAME_ALIGNMENT) {
            kv_frame_header h;
            if (lsn + i >= end || !kv_frame_header_decode(&h, bytes + i) ||
                h.salt != w->segment->salt || h.lsn != lsn + i)
                continue;
            if (h.lsn < *next_lsn)
                *next_lsn = h.lsn;
            if (h.durable_lsn > w->proof_lsn)
                w->proof_lsn = h.durable_lsn;
            if (w->proof_known)
                return KV_OK;
        }
    }
    w->proof_known = true;
    return KV_OK;
}

/* The frame at w->lsn, or what was one, is damaged; the log goes on at `next_lsn`. */
static kv_status lose_frame(walk *w, const kv_frame_header *h, uint64_t next_lsn, kv_error *err) {
    kv_checker *c = w->c;
    kv_check_numbers n = {0};
    uint64_t end = next_lsn < end_of(w->segment) ? next_lsn : end_of(w->segment);
    uint64_t bytes = end > w->lsn ? end - w->lsn : 0, offset = offset_of(w->segment, w->lsn);
    kv_check_loss loss =
        h != NULL ? kv_check_loss_of("1 frame of up to %s commits, %s bytes",
                                     kv_check_number(&n, h->commits), kv_check_number(&n, bytes))
        : next_lsn != NO_LIMIT
            ? kv_check_loss_of("1 frame or more, %s bytes", kv_check_number(&n, bytes))
            : loss_of_log(bytes);
    c->summary->frames_lost++;
    c->summary->bytes_lost += bytes;
    if (c->into != NULL && bytes > KV_FRAME_HEADER_SIZE) {
        const uint8_t *payload;
        kv_status status = kv_checker_get(c, offset + KV_FRAME_HEADER_SIZE,
                                          (size_t)(bytes - KV_FRAME_HEADER_SIZE), &payload, err);
        if (status < 0)
            return status;
        kv_salvage_suspects(c, payload, (size_t)(bytes - KV_FRAME_HEADER_SIZE), NULL);
    }
    return kv_checker_problem(c, err, offset, loss.text, "%s",
                              next_lsn != NO_LIMIT
                                  ? "a frame that was on disk is damaged"
                                  : "there are later segments, but the frame that ends this one, or "
                                    "one before it, is damaged or missing");
}

/* At w->lsn stands nothing whole.  Damage: w->lsn moves on behind it.  `*done`: nothing follows. */
static kv_status pass_damage(walk *w, const kv_frame_header *h, bool *done, kv_error *err) {
    uint64_t next_lsn;
    kv_status status = search_frame(w, &next_lsn, err);
    if (status < 0)
        return status;
    *done = !w->followed && w->proof_lsn <= w->lsn; /* a torn tail: nobody was told of it */
    if (*done)
        return KV_OK;
    /* Its header is whole: what follows it is judged by itself. */
    if (h != NULL)
        next_lsn = w->lsn + kv_frame_size(h->payload_size);
    status = lose_frame(w, h, next_lsn, err);
    *done = next_lsn == NO_LIMIT;
    if (!*done)
        w->lsn = next_lsn;
    return status;
}

/* A frame whose checksums fit. */
static kv_status take_frame(walk *w, const kv_frame_header *h, const uint8_t *payload,
                            kv_error *err) {
    kv_checker *c = w->c;
    uint64_t records = 0;
    for (size_t at = 0; at < h->payload_size; records++) {
        kv_record r;
        size_t size = kv_record_decode(&r, payload + at, h->payload_size - at);
        if (size == 0) {
            kv_check_numbers n = {0};
            kv_check_loss loss =
                kv_check_loss_of("1 frame of up to %s commits, %s bytes",
                                 kv_check_number(&n, h->commits),
                                 kv_check_number(&n, kv_frame_size(h->payload_size)));
            c->summary->frames_lost++;
            c->summary->bytes_lost += kv_frame_size(h->payload_size);
            kv_salvage_suspects(c, payload, h->payload_size, NULL);
            return kv_checker_problem(
                c, err, offset_of(w->segment, w->lsn) + KV_FRAME_HEADER_SIZE + at, loss.text,
                "a record of an unknown form in a frame whose checksum fits");
        }
        at += size;
    }
    c->summary->frames++;
    c->summary->records += records;
    if (c->into == NULL)
        return KV_OK;
    return kv_salvage_records(c, payload, h->payload_size, true, err);
}

static kv_status walk_frames(walk *w, kv_error *err) {
    while (w->lsn < w->limit) {
        kv_frame_header h;
        bool found, whole, done = false;
        const uint8_t *payload;
        kv_status status =
            whole_frame_at(w->c, w->segment, w->lsn, &h, &found, &payload, &whole, err);
        if (status < 0)
            return status;
        if (whole && h.kind == KV_FRAME_END) {
            w->ended = true;
            return KV_OK;
        }
        if (whole) {
            status = take_frame(w, &h, payload, err);
            w->lsn += kv_frame_size(h.payload_size);
        } else {
            status = pass_damage(w, found ? &h : NULL, &done, err);
        }
        if (status < 0 || done)
            return status;
    }
    return KV_OK;
}

/* The walk has come to the next segment's start: only an end frame, or what never was one, may stand there. */
static kv_status judge_seam(walk *w, kv_error *err) {
    kv_frame_header h;
    bool found, whole;
    const uint8_t *payload;
    if (w->lsn > w->limit)
        return kv_checker_problem(w->c, err, offset_of(w->segment, w->limit),
                                  "nothing, if the next segment is right",
                                  "the next segment starts at LSN %" PRIu64 ", this one goes on to "
                                  "%" PRIu64,
                                  w->limit, w->lsn);
    kv_status status =
        whole_frame_at(w->c, w->segment, w->lsn, &h, &found, &payload, &whole, err);
    if (status < 0 || !whole || h.kind == KV_FRAME_END)
        return status;
    kv_check_loss loss = loss_of_log(kv_frame_size(h.payload_size));
    return kv_checker_problem(w->c, err, offset_of(w->segment, w->lsn), loss.text,
                              "a frame behind the start of the next segment");
}

/* ---- Segments ------------------------------------------------------------------------------ */

/* Files `from` to `to` are missing; the log before them ended at `end_lsn`, the next one starts at `lsn`
 * (NO_LIMIT: not known). */
static kv_status report_missing(kv_checker *c, uint64_t from, uint64_t to, uint64_t end_lsn,
                                uint64_t lsn, kv_error *err) {
    char name[64];
    kv_error problem;
    kv_check_loss loss = end_lsn != NO_LIMIT && lsn != NO_LIMIT && lsn >= end_lsn
                             ? loss_of_log(lsn - end_lsn)
                             : kv_check_loss_of("all that was written there");
    kv_segment_name(from, name);
    kv_dir_join(&c->dir, name, c->path);
    if (from == to)
        (void)!kv_fail_corrupt(&problem, c->path, -1, "this segment of the log is missing");
    else
        (void)!kv_fail_corrupt(&problem, c->path, -1,
                               "segments %" PRIu64 " to %" PRIu64 " of the log are missing", from,
                               to);
    if (lsn != NO_LIMIT && end_lsn != NO_LIMIT && lsn > end_lsn)
        c->summary->bytes_lost += lsn - end_lsn;
    return kv_checker_report(c, &problem, loss.text, err);
}

/* Reads the frames of one segment from `*lsn` on; `*lsn` is then where its part of the log ends, NO_LIMIT when that
 * is not known.  `next`: the file after it, or NULL. */
static kv_status check_segment(kv_checker *c, const kv_check_segment *s,
                               const kv_check_segment *next, uint64_t *lsn, kv_error *err) {
    walk w = {.c = c, .segment = s, .limit = NO_LIMIT, .followed = next != NULL, .lsn = *lsn};
    bool adjacent = next != NULL && next->sequence == s->sequence + 1;
    if (adjacent && next->known && next->start_lsn >= s->start_lsn)
        w.limit = next->start_lsn;
    *lsn = NO_LIMIT;
    kv_status status = open_segment(c, s, true, err);
    if (status != KV_OK)
        return status == KV_NOTFOUND ? KV_OK : status;
    if (w.lsn > end_of(s) && s->size >= KV_SEGMENT_HEADER_SIZE) {
        status = kv_checker_problem(c, err, s->size, "all that was written there",
                                    "the segment ends before LSN %" PRIu64
                                    ", from where on the log counts",
                                    w.lsn);
        goto out;
    }
    status = walk_frames(&w, err);
    if (status < 0)
        goto out;
    *lsn = w.ended || w.lsn >= w.limit || next == NULL ? w.lsn : NO_LIMIT;
    if (w.ended && adjacent && next->known && next->start_lsn != w.lsn) {
        kv_check_loss loss =
            loss_of_log(next->start_lsn > w.lsn ? next->start_lsn - w.lsn : 0);
        status = kv_checker_problem(c, err, offset_of(s, w.lsn), loss.text,
                                    "the next segment starts at LSN %" PRIu64
                                    ", this one ends at %" PRIu64,
                                    next->start_lsn, w.lsn);
    } else if (w.limit != NO_LIMIT && w.lsn >= w.limit) {
        status = judge_seam(&w, err);
    } else if (!w.ended && w.lsn + KV_FRAME_HEADER_SIZE > end_of(s) &&
               s->size > KV_SEGMENT_HEADER_SIZE) {
        status = kv_checker_problem(c, err, offset_of(s, w.lsn), "nothing",
                                    "the last frame leaves no room for the one that ends a segment");
    }
    if (status == KV_OK && w.ended && next == NULL)
        status = report_missing(c, s->sequence + 1, s->sequence + 1, NO_LIMIT, NO_LIMIT, err);
out:
    kv_checker_close(c);
    return status;
}

/* A segment that starts where the log before it did not end. */
static kv_status judge_start(kv_checker *c, const kv_check_segment *s, uint64_t lsn,
                             kv_error *err) {
    if (lsn == NO_LIMIT || s->start_lsn <= lsn)
        return KV_OK;
    char name[64];
    kv_check_loss loss = loss_of_log(s->start_lsn - lsn);
    kv_segment_name(s->sequence, name);
    kv_dir_join(&c->dir, name, c->path);
    c->summary->bytes_lost += s->start_lsn - lsn;
    return kv_checker_problem(c, err, 40, loss.text,
                              "the segment starts at LSN %" PRIu64 ", the log is needed from "
                              "%" PRIu64 " on",
                              s->start_lsn, lsn);
}

kv_status kv_check_log(kv_checker *c, uint64_t sequence, const uint64_t *from_lsn,
                       kv_error *err) {
    kv_check_segment *s = c->segments;
    size_t count = c->segment_count;
    for (; count > 0 && s->sequence < sequence; s++) /* leftovers */
        count--;
    kv_status status = read_headers(c, s, count, from_lsn, err);
    uint64_t lsn = from_lsn != NULL ? *from_lsn : NO_LIMIT; /* where the log before ends */
    uint64_t expected = sequence;
    if (status == KV_OK && count == 0)
        return report_missing(c, sequence, sequence, NO_LIMIT, NO_LIMIT, err);
    for (size_t i = 0; status == KV_OK && i < count; i++) {
        if (i > 0 && s[i].adopted && s[i].start_lsn != lsn)
            s[i].known = false;
        bool first = i == 0 && s[i].sequence == expected;
        if (s[i].sequence != expected)
            status = report_missing(c, expected, s[i].sequence - 1, lsn,
                                    s[i].known ? s[i].start_lsn : NO_LIMIT, err);
        else if (first && s[i].known)
            status = judge_start(c, &s[i], lsn, err);
        expected = s[i].sequence + 1;
        if (status < 0)
            return status;
        if (!s[i].known) {
            c->summary->bytes_lost += s[i].size;
            lsn = NO_LIMIT;
            continue;
        }
        if (!first || lsn == NO_LIMIT || lsn < s[i].start_lsn)
            lsn = s[i].start_lsn;
        status = check_segment(c, &s[i], i + 1 < count ? &s[i + 1] : NULL, &lsn, err);
    }
    return status;
}
