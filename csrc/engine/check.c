/* check.c - see check.h: which files count, reading them, reporting. */
#include "check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "../base/mem.h"
#include "checkpoint.h"
#include "lockfile.h"
#include "segment.h"

#define CHUNK_SIZE (1u << 20) /* bytes read at a time */
#define PIECE_SIZE 4096u      /* bytes tried alone where reading fails */

/* ---- Reporting ----------------------------------------------------------------------------- */

kv_check_loss kv_check_loss_of(const char *format, ...) {
    kv_check_loss loss;
    va_list args;
    va_start(args, format);
    vsnprintf(loss.text, sizeof loss.text, format, args);
    va_end(args);
    return loss;
}

const char *kv_check_number(kv_check_numbers *numbers, uint64_t number) {
    char plain[24], *text = numbers->text[numbers->turn++ % 4];
    int digits = snprintf(plain, sizeof plain, "%" PRIu64, number), length = 0;
    for (int i = 0; i < digits; i++) {
        if (i > 0 && (digits - i) % 3 == 0)
            text[length++] = ',';
        text[length++] = plain[i];
    }
    text[length] = '\0';
    return text;
}

static kv_status cancelled(kv_error *err) {
    return kv_fail(err, KV_ERR_CANCELLED, "given up as the caller wished");
}

kv_status kv_checker_report(kv_checker *c, const kv_error *problem, const char *loss,
                            kv_error *err) {
    c->summary->problems++;
    if (c->options->problem != NULL && !c->options->problem(c->options->arg, problem, loss))
        return cancelled(err);
    return KV_OK;
}

kv_status kv_checker_problem(kv_checker *c, kv_error *err, uint64_t offset, const char *loss,
                             const char *format, ...) {
    kv_error problem;
    char message[KV_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    (void)!kv_fail_corrupt(&problem, c->path, (int64_t)offset, "%s", message);
    return kv_checker_report(c, &problem, loss, err);
}

static kv_status show_progress(kv_checker *c, kv_error *err) {
    if (c->options->progress != NULL &&
        !c->options->progress(c->options->arg, c->done, c->total > c->done ? c->total : c->done))
        return cancelled(err);
    return KV_OK;
}

/* ---- Reading ------------------------------------------------------------------------------- */

/* A file that cannot be opened or read is a problem of the store.  That there is no memory, no descriptor or no access
 * is one of this call: it tells nothing of what stands in the file, and nothing of it may be given up as lost. */
static bool is_of_the_call(const kv_error *problem) {
    switch (problem->sys_errno) {
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EACCES:
    case EPERM:
        return true;
    }
    return false;
}

static kv_status pass_on(const kv_error *problem, kv_error *err) {
    if (err != NULL)
        *err = *problem;
    return problem->status;
}

kv_status kv_checker_open(kv_checker *c, const char *name, bool counted, const char *loss,
                          kv_error *err) {
    kv_error problem;
    kv_dir_join(&c->dir, name, c->path);
    c->start = c->size = 0;
    c->counted = counted;
    c->done_before = c->done;
    c->file_size = 0;
    kv_status status = kv_file_open(&c->file, &c->dir, name, KV_OPEN_READ, &problem);
    if (status == KV_OK) {
        status = kv_file_size(&c->file, &c->file_size, &problem);
        if (status < 0)
            kv_file_close(&c->file);
    }
    if (status < 0 && is_of_the_call(&problem))
        return pass_on(&problem, err);
    if (status < 0) {
        status = kv_checker_report(c, &problem, loss, err);
        return status < 0 ? status : KV_NOTFOUND;
    }
    if (status == KV_OK && counted)
        c->summary->files++;
    return status;
}

void kv_checker_close(kv_checker *c) {
    if (c->counted && c->file.fd >= 0)
        c->done = c->done_before + c->file_size;
    kv_file_close(&c->file);
}

/* What could not be read at once, piece by piece: one that fails counts as zeros. */
static kv_status read_pieces(kv_checker *c, uint64_t offset, size_t size, uint8_t *bytes,
                             kv_error *err) {
    kv_error first, problem;
    size_t lost = 0;
    for (size_t at = 0; at < size;) {
        size_t got, part = PIECE_SIZE - (size_t)((offset + at) % PIECE_SIZE);
        if (part > size - at)
            part = size - at;
        kv_status status = kv_file_read(&c->file, bytes + at, part, offset + at, &got, &problem);
        if (status < 0 && is_of_the_call(&problem))
            return pass_on(&problem, err);
        if (status == KV_OK && got < part)
            status = kv_fail_corrupt(&problem, c->path, (int64_t)(offset + at + got),
                                     "the file became shorter while it was read");
        if (status < 0) {
            memset(bytes + at, 0, part);
            if (lost == 0)
                first = problem;
            lost += part;
        }
        at += part;
    }
    kv_check_loss loss = kv_check_loss_of("%zu bytes cannot be read", lost);
    return lost == 0 ? KV_OK : kv_checker_report(c, &first, loss.text, err);
}

kv_status kv_checker_read(kv_checker *c, uint64_t offset, size_t size, uint8_t *bytes,
                          kv_error *err) {
    size_t got = 0;
    kv_error problem;
    kv_status status = kv_file_read(&c->file, bytes, size, offset, &got, &problem);
    c->summary->bytes += size;
    if (status == KV_OK && got == size)
        return KV_OK;
    return read_pieces(c, offset + got, size - got, bytes + got, err);
}

kv_status kv_checker_get(kv_checker *c, uint64_t offset, size_t size, const uint8_t **bytes,
                         kv_error *err) {
    if (offset < c->start || offset + size > c->start + c->size) {
        uint64_t left = c->file_size - offset;
        size_t wanted = size > CHUNK_SIZE ? size : CHUNK_SIZE;
        if (wanted > left)
            wanted = (size_t)left;
        c->start = c->size = 0;
        if (wanted > c->capacity) {
            uint8_t *grown = kv_mem_realloc(c->buffer, wanted);
            if (grown == NULL)
                return kv_fail_nomem(err, wanted);
            c->buffer = grown;
            c->capacity = wanted;
        }
        kv_status status = kv_checker_read(c, offset, wanted, c->buffer, err);
        if (status < 0)
            return status;
        c->start = offset;
        c->size = wanted;
        if (c->counted && c->done_before + offset + wanted > c->done) {
            c->done = c->done_before + offset + wanted;
            status = show_progress(c, err);
            if (status < 0)
                return status;
        }
    }
    *bytes = c->buffer + (offset - c->start);
    return KV_OK;
}

/* ---- What is in the directory -------------------------------------------------------------- */

static void note_segment(kv_checker *c, uint64_t sequence) {
    if (c->segment_count == c->segment_capacity) {
        size_t capacity = c->segment_capacity * 2 + 16;
        kv_check_segment *grown = kv_mem_realloc(c->segments, capacity * sizeof *grown);
        c->no_memory = grown == NULL;
        if (grown == NULL)
            return;
        c->segments = grown;
        c->segment_capacity = capacity;
    }
    c->segments[c->segment_count++] = (kv_check_segment){.sequence = sequence};
}

static bool note_name(void *arg, const char *name) {
    kv_checker *c = arg;
    uint64_t segment = kv_segment_sequence(name), checkpoint = kv_checkpoint_sequence(name);
    if (segment != 0)
        note_segment(c, segment);
    if (checkpoint > c->checkpoint)
        c->checkpoint = checkpoint;
    c->store_file |= strcmp(name, KV_STORE_FILE) == 0;
    return !c->no_memory;
}

static int compare_segments(const void *a, const void *b) {
    const kv_check_segment *x = a, *y = b;
    return (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

/* Without STORE and with nothing in the log: a crash came while the store was made. */
static bool is_unborn(const kv_checker *c) {
    bool used;
    if (c->store_file || c->checkpoint != 0 || c->segment_count > 1)
        return false;
    if (c->segment_count == 0)
        return true;
    return c->segments[0].sequence == 1 &&
           kv_segment_first_is_used(&c->dir, &used, NULL) == KV_OK && !used;
}

static kv_status list_directory(kv_checker *c, kv_error *err) {
    kv_status status = kv_dir_list(&c->dir, note_name, c, err);
    if (c->no_memory)
        return kv_fail_nomem(err, c->segment_capacity * sizeof *c->segments);
    if (status < 0)
        return status;
    if (is_unborn(c))
        return kv_fail_sys(err, ENOENT, c->dir.path, "there is no store");
    if (c->segment_count > 0)
        qsort(c->segments, c->segment_count, sizeof *c->segments, compare_segments);
    return KV_OK;
}

/* ---- STORE --------------------------------------------------------------------------------- */

/* The vote for the store id that most files have (Boyer and Moore: one candidate, one count). */
typedef struct vote {
    uint8_t id[16];
    uint64_t count;
} vote;

static void vote_for(vote *v, const uint8_t id[16]) {
    if (v->count == 0)
        memcpy(v->id, id, 16);
    if (memcmp(v->id, id, 16) == 0)
        v->count++;
    else
        v->count--;
}

/* The id in the header of a file that counts, if it is whole. */
static kv_status vote_of_file(kv_checker *c, const char *name, bool segment, vote *v,
                              kv_error *err) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_file file;
    size_t got = 0;
    kv_status status = kv_file_open(&file, &c->dir, name, KV_OPEN_READ, err);
    if (status != KV_OK)
        return status == KV_ERR_NOMEM ? status : KV_OK; /* reported when its turn comes */
    status = kv_file_read(&file, bytes, sizeof bytes, 0, &got, NULL);
    kv_file_close(&file);
    if (status == KV_OK && segment) {
        kv_segment_header header;
        if (kv_segment_header_decode(&header, bytes, got, c->path, NULL) == KV_OK)
            vote_for(v, header.store_id);
    } else if (status == KV_OK) {
        kv_checkpoint_header header;
        if (kv_checkpoint_header_decode(&header, bytes, got, c->path, NULL) == KV_OK)
            vote_for(v, header.store_id);
    }
    return KV_OK;
}

/* Without STORE: the other files say whose they are. */
static kv_status guess_store_id(kv_checker *c, kv_error *err) {
    char name[64];
    vote v = {0};
    kv_status status = KV_OK;
    if (c->checkpoint != 0) {
        kv_checkpoint_name(c->checkpoint, name);
        status = vote_of_file(c, name, false, &v, err);
    }
    for (size_t i = 0; status == KV_OK && i < c->segment_count; i++) {
        if (c->segments[i].sequence < c->checkpoint)
            continue;
        kv_segment_name(c->segments[i].sequence, name);
        status = vote_of_file(c, name, true, &v, err);
    }
    c->store_id_known = v.count > 0;
    memcpy(c->identity.store_id, v.id, sizeof v.id);
    return status;
}

static kv_status check_identity(kv_checker *c, kv_error *err) {
    static const char loss[] = "nothing of the data; but without its hash key it cannot be checked "
                               "whether the keys stand where they belong";
    uint8_t bytes[KV_STORE_FILE_SIZE + 1] = {0};
    kv_error problem;
    kv_status status = kv_checker_open(c, KV_STORE_FILE, true, loss, err);
    if (status == KV_NOTFOUND && !c->store_file) {
        (void)!kv_fail_corrupt(&problem, c->path, -1, "the file is missing");
        status = kv_checker_report(c, &problem, loss, err);
        return status < 0 ? status : guess_store_id(c, err);
    }
    if (status == KV_NOTFOUND)
        return guess_store_id(c, err);
    if (status < 0)
        return status;
    size_t size = c->file_size < sizeof bytes ? (size_t)c->file_size : sizeof bytes;
    status = kv_checker_read(c, 0, size, bytes, err);
    kv_checker_close(c);
    if (status < 0)
        return status;
    status = kv_identity_decode(&c->identity, bytes, size, c->path, &problem);
    if (status == KV_OK) {
        c->store_id_known = c->hash_key_known = true;
        return KV_OK;
    }
    if (status == KV_ERR_VERSION) /* of a later pykv: nothing here can be judged */
        return pass_on(&problem, err);
    status = kv_checker_report(c, &problem, loss, err);
    return status < 0 ? status : guess_store_id(c, err);
}

/* ---- Everything ---------------------------------------------------------------------------- */

/* The sizes of the files that will be read, for the progress; failures are told when they are. */
static void add_size(kv_checker *c, const char *name) {
    kv_file file;
    uint64_t size;
    if (kv_file_open(&file, &c->dir, name, KV_OPEN_READ, NULL) != KV_OK)
        return;
    if (kv_file_size(&file, &size, NULL) == KV_OK)
        c->total += size;
    kv_file_close(&file);
}

static void add_sizes(kv_checker *c) {
    char name[64];
    add_size(c, KV_STORE_FILE);
    if (c->checkpoint != 0) {
        kv_checkpoint_name(c->checkpoint, name);
        add_size(c, name);
    }
    for (size_t i = 0; i < c->segment_count; i++) {
        kv_segment_name(c->segments[i].sequence, name);
        if (c->segments[i].sequence >= c->checkpoint)
            add_size(c, name);
    }
}

static kv_status check_files(kv_checker *c, kv_error *err) {
    static const uint64_t birth = 0;
    kv_checkpoint_header header;
    bool known = false;
    kv_status status = check_identity(c, err);
    if (status < 0)
        return status;
    if (c->checkpoint == 0)
        return kv_check_log(c, 1, &birth, err);
    char name[64];
    kv_checkpoint_name(c->checkpoint, name);
    status = kv_checker_open(c, name, true, "all keys of the checkpoint", err);
    if (status == KV_OK)
        status = kv_check_checkpoint(c, &header, &known, err);
    kv_checker_close(c);
    if (status < 0)
        return status;
    /* Where the log goes on is said twice; when the two differ, the checksum decides. */
    return known ? kv_check_log(c, header.sequence, &header.lsn, err)
                 : kv_check_log(c, c->checkpoint, NULL, err);
}

static kv_status run(const char *path, kv_db *into, const kv_check_options *options,
                     kv_check_summary *summary, kv_error *err) {
    static const kv_check_options nothing;
    kv_check_summary unused;
    kv_checker c = {.options = options != NULL ? options : &nothing,
                    .summary = summary != NULL ? summary : &unused,
                    .into = into,
                    .dir = KV_DIR_CLOSED,
                    .lock_file = KV_FILE_CLOSED,
                    .file = KV_FILE_CLOSED};
    const kv_os *os = c.options->os != NULL ? c.options->os : &kv_os_posix;
    *c.summary = (kv_check_summary){0};
    kv_status status = kv_dir_open(&c.dir, os, path, false, err);
    if (status < 0)
        return status;
    status = kv_lockfile_take(&c.lock_file, &c.dir, true, err); /* nobody may write meanwhile */
    if (status == KV_OK)
        status = list_directory(&c, err);
    if (status == KV_OK) {
        add_sizes(&c);
        status = check_files(&c, err);
    }
    if (status == KV_OK)
        status = kv_salvage_expiries(&c, err);
    if (status == KV_OK) {
        c.done = c.total = c.done > c.total ? c.done : c.total;
        status = show_progress(&c, err);
    }
    kv_checker_close(&c);
    kv_lockfile_release(&c.lock_file);
    kv_dir_close(&c.dir);
    kv_mem_free(c.segments);
    kv_mem_free(c.buffer);
    kv_mem_free(c.ops);
    kv_destroy(c.held);
    return status;
}

kv_status kv_check(const char *path, const kv_check_options *options, kv_check_summary *summary,
                   kv_error *err) {
    return run(path, NULL, options, summary, err);
}

kv_status kv_salvage(const char *path, kv_db *into, const kv_check_options *options,
                     kv_check_summary *summary, kv_error *err) {
    uint64_t count;
    kv_check_summary local;
    if (summary == NULL)
        summary = &local;
    *summary = (kv_check_summary){0};
    kv_status status = kv_count(into, 0, &count, err);
    if (status == KV_OK && count != 0)
        status = kv_fail(err, KV_ERR_INVALID, "what is whole goes into an empty store only");
    if (status == KV_OK)
        status = run(path, into, options, summary, err);
    if (status == KV_OK)
        status = kv_make_durable(into, err);
    return status == KV_OK ? kv_count(into, 0, &summary->items, err) : status;
}
