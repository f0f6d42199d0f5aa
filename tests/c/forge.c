/* forge.c - see forge.h. */
#include "forge.h"

#include "base/crc32c.h"
#include "world.h"

const char *const forge_files[FORGE_FILES] = {FORGE_STORE, FORGE_CHECKPOINT, FORGE_SEGMENT_2,
                                              FORGE_SEGMENT_3};

/* ---- Making files -------------------------------------------------------------------------- */

void forge_write(memory_os *memory, const char *name, const void *bytes, size_t size) {
    const kv_os *os = memory_os_table(memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, true);
    int file = os->open(os->ctx, dir, name, KV_OPEN_CREATE);
    CHECK(dir >= 0 && file >= 0);
    CHECK_EQ(os->truncate(os->ctx, file, 0), 0);
    if (size > 0)
        CHECK_EQ(os->write(os->ctx, file, bytes, size, 0), size);
    CHECK_EQ(os->sync(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

void forge_remove(memory_os *memory, const char *name) {
    const kv_os *os = memory_os_table(memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    CHECK_EQ(os->unlink(os->ctx, dir, name), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

void forge_rename(memory_os *memory, const char *from, const char *to) {
    const kv_os *os = memory_os_table(memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    CHECK_EQ(os->rename(os->ctx, dir, from, to), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

kv_bytes forge_key(unsigned number) {
    static char texts[8][24];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    return bytes_of(text, (size_t)snprintf(text, sizeof texts[0], "key-%u", number));
}

/* Tells its key, and how old it is; some have many bytes. */
kv_bytes forge_value(unsigned number, unsigned version) {
    static char texts[8][200];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    int size = snprintf(text, sizeof texts[0], "value %u of key-%u;%*s", version, number,
                        (int)(number % 7 * 16), "");
    return bytes_of(text, (size_t)size);
}

void forge_record(forge_buffer *b, kv_record_kind kind, unsigned number, unsigned version,
                       uint64_t expiry, bool last) {
    kv_record r = {.kind = kind, .expiry = expiry, .last = last};
    if (kind != KV_RECORD_CLEAR)
        r.key = forge_key(number);
    if (kind == KV_RECORD_PUT)
        r.value = forge_value(number, version);
    CHECK(b->size + kv_record_size(r.key.size, r.value.size, r.expiry) <= sizeof b->bytes);
    b->size = (size_t)(kv_record_encode(&r, b->bytes + b->size) - b->bytes);
}

/* ---- The log ------------------------------------------------------------------------------- */

void forge_segment_begin(forge_segment *s, const kv_identity *identity, uint64_t sequence,
                          uint64_t start_lsn, bool recycled) {
    s->header = (kv_segment_header){.sequence = sequence,
                                    .start_lsn = start_lsn,
                                    .salt = UINT64_C(0x1122334455667788) * sequence,
                                    .file_size = FORGE_SEGMENT_SIZE,
                                    .recycled = recycled};
    memcpy(s->header.store_id, identity->store_id, 16);
    kv_segment_header_encode(&s->header, s->bytes);
    s->lsn = start_lsn;
}

/* Where the frame stands in the file.  The payload is emptied. */
uint64_t forge_segment_add(forge_segment *s, kv_frame_kind kind, forge_buffer *payload,
                           uint64_t durable_lsn) {
    static forge_buffer none;
    forge_buffer *b = payload != NULL ? payload : &none;
    kv_frame_header h = {.kind = kind,
                         .payload_size = (uint32_t)b->size,
                         .lsn = s->lsn,
                         .durable_lsn = durable_lsn,
                         .salt = s->header.salt,
                         .commits = b->size > 0,
                         .payload_crc = kv_crc32c(0, b->bytes, b->size)};
    uint64_t at = KV_SEGMENT_HEADER_SIZE + s->lsn - s->header.start_lsn;
    CHECK(at + kv_frame_size(b->size) <= FORGE_SEGMENT_SIZE);
    kv_frame_header_encode(&h, s->bytes + at);
    memcpy(s->bytes + at + KV_FRAME_HEADER_SIZE, b->bytes, b->size);
    memset(s->bytes + at + KV_FRAME_HEADER_SIZE + b->size, 0,
           (size_t)kv_frame_size(b->size) - KV_FRAME_HEADER_SIZE - b->size);
    if (kind != KV_FRAME_END)
        s->lsn += kv_frame_size(b->size);
    b->size = 0;
    return at;
}

/* ---- The checkpoint ------------------------------------------------------------------------ */

static uint64_t checkpoint_expiry(unsigned number) {
    return number % 5 == 2 ? FORGE_FAR_EXPIRY + number : 0;
}

static void checkpoint_make(forge_checkpoint *c, const kv_identity *identity, uint64_t sequence,
                            uint64_t lsn) {
    static uint8_t index[FORGE_BLOCKS * KV_BLOCK_HEADER_SIZE];
    memset(c, 0, sizeof *c);
    c->header = (kv_checkpoint_header){.sequence = sequence, .lsn = lsn, .made_ms = 1};
    memcpy(c->header.store_id, identity->store_id, 16);
    kv_checkpoint_header_encode(&c->header, c->file.bytes);
    c->file.size = KV_CHECKPOINT_HEADER_SIZE;
    for (unsigned b = 0; b < FORGE_BLOCKS; b++) {
        static forge_buffer payload;
        kv_block_header *h = &c->headers[b];
        payload.size = 0;
        *h = (kv_block_header){.depth = 2, .range_start = (uint64_t)b << 62};
        for (unsigned i = 0; i < FORGE_KEYS; i++) {
            kv_bytes key = forge_key(i);
            uint64_t expiry = checkpoint_expiry(i);
            if (kv_siphash13(identity->hash_key, key.data, key.size) >> 62 != b)
                continue;
            size_t before = payload.size;
            forge_record(&payload, KV_RECORD_PUT, i, 1, expiry, false);
            h->count++;
            c->footer.data_bytes += payload.size - before - KV_RECORD_HEADER_SIZE -
                                    (expiry != 0 ? sizeof expiry : 0);
            if (expiry != 0 && (h->expiring++ == 0 || expiry < h->next_expiry))
                h->next_expiry = expiry;
        }
        CHECK(h->count > 0);
        h->payload_size = payload.size;
        h->payload_crc = kv_crc32c(0, payload.bytes, payload.size);
        c->footer.entries += h->count;
        c->footer.expiring += h->expiring;
        c->blocks[b] = c->file.size;
        kv_block_header_encode(h, c->file.bytes + c->file.size);
        memcpy(index + b * KV_BLOCK_HEADER_SIZE, c->file.bytes + c->file.size,
               KV_BLOCK_HEADER_SIZE);
        c->file.size += KV_BLOCK_HEADER_SIZE;
        memcpy(c->file.bytes + c->file.size, payload.bytes, payload.size);
        c->file.size += payload.size;
    }
    c->footer.block_count = FORGE_BLOCKS;
    c->footer.index_offset = c->file.size;
    c->footer.index_crc = kv_crc32c(0, index, sizeof index);
    memcpy(c->file.bytes + c->file.size, index, sizeof index);
    c->file.size += sizeof index;
    kv_checkpoint_footer_encode(&c->footer, c->file.bytes + c->file.size);
    c->file.size += KV_CHECKPOINT_FOOTER_SIZE;
}

/* ---- The store ----------------------------------------------------------------------------- */

const char *forge_file_of(unsigned f) {
    return f < F_NEXT ? FORGE_SEGMENT_2 : FORGE_SEGMENT_3;
}

static void expect_put(forge *b, unsigned number, unsigned version) {
    model_put(b->m, forge_key(number), forge_value(number, version));
}

forge *forge_create_for(unsigned store) {
    static forge_buffer p;
    uint8_t bytes[KV_STORE_FILE_SIZE], junk[100];
    forge *b = calloc(1, sizeof *b);
    CHECK(b != NULL);
    b->memory = memory_os_create(store);
    b->m = model_create();
    p.size = 0;
    memset(b->identity.store_id, (int)(0x40 + store), 16);
    b->identity.hash_key = (kv_siphash_key){store, 99};
    kv_identity_encode(&b->identity, bytes);
    forge_write(b->memory, FORGE_STORE, bytes, sizeof bytes);
    forge_write(b->memory, "LOCK", "", 0);

    /* Nobody looks at these. */
    memset(junk, 'j', sizeof junk);
    forge_write(b->memory, FORGE_SEGMENT_1, junk, sizeof junk);
    forge_write(b->memory, "00000001.ckpt", junk, sizeof junk);
    forge_write(b->memory, "checkpoint.tmp", junk, sizeof junk);
    forge_write(b->memory, "spare.log", junk, sizeof junk);
    forge_write(b->memory, "torn.bin", junk, sizeof junk);

    forge_segment *two = &b->two, *three = &b->three;
    forge_segment_begin(two, &b->identity, 2, 16000, false);
    forge_record(&p, KV_RECORD_PUT, 7, 0, 0, true); /* before the checkpoint: not to be read */
    b->frames[F_OLD] = forge_segment_add(two, KV_FRAME_COMMITS, &p, 16000);
    uint64_t lsn = two->lsn;
    checkpoint_make(&b->checkpoint, &b->identity, 2, lsn);
    forge_write(b->memory, FORGE_CHECKPOINT, b->checkpoint.file.bytes, b->checkpoint.file.size);
    for (unsigned i = 0; i < FORGE_KEYS; i++)
        model_put_expiring(b->m, forge_key(i), forge_value(i, 1), checkpoint_expiry(i));

    forge_record(&p, KV_RECORD_PUT, 0, 2, 0, true);
    expect_put(b, 0, 2);
    b->frames[F_PUT] = forge_segment_add(two, KV_FRAME_COMMITS, &p, lsn);
    forge_record(&p, KV_RECORD_DELETE, 1, 0, 0, true);
    model_delete(b->m, forge_key(1));
    b->frames[F_DELETE] = forge_segment_add(two, KV_FRAME_COMMITS, &p, two->lsn);
    forge_record(&p, KV_RECORD_PUT, 2, 2, 0, false);
    forge_record(&p, KV_RECORD_PUT, 100, 1, FORGE_FAR_EXPIRY, false);
    forge_record(&p, KV_RECORD_DELETE, 3, 0, 0, true);
    forge_record(&p, KV_RECORD_PUT, 101, 1, 0, true);
    expect_put(b, 2, 2);
    model_put_expiring(b->m, forge_key(100), forge_value(100, 1), FORGE_FAR_EXPIRY);
    model_delete(b->m, forge_key(3));
    expect_put(b, 101, 1);
    b->frames[F_BATCH] = forge_segment_add(two, KV_FRAME_COMMITS, &p, two->lsn);
    forge_record(&p, KV_RECORD_EXPIRE, 4, 0, FORGE_FAR_EXPIRY + 4, true);
    forge_record(&p, KV_RECORD_EXPIRE, 7, 0, 0, true);
    forge_record(&p, KV_RECORD_EXPIRE, 999, 0, FORGE_FAR_EXPIRY, true); /* there is none */
    forge_record(&p, KV_RECORD_EXPIRE, 5, 0, FORGE_PAST_EXPIRY, true);
    model_expire(b->m, forge_key(4), FORGE_FAR_EXPIRY + 4);
    model_expire(b->m, forge_key(7), 0);
    model_delete(b->m, forge_key(5));
    b->frames[F_EXPIRE] = forge_segment_add(two, KV_FRAME_COMMITS, &p, two->lsn);
    b->end_frame = forge_segment_add(two, KV_FRAME_END, NULL, two->lsn);
    forge_write(b->memory, FORGE_SEGMENT_2, two->bytes, FORGE_SEGMENT_SIZE);

    /* What the third segment was before: frames up to its end. */
    forge_segment_begin(three, &b->identity, 1, 16000 - FORGE_SEGMENT_SIZE, false);
    while (three->lsn < 16000 - FORGE_SEGMENT_SIZE + 3900) {
        forge_record(&p, KV_RECORD_PUT, 0, 0, 0, true);
        forge_segment_add(three, KV_FRAME_COMMITS, &p, three->lsn);
    }
    forge_segment_begin(three, &b->identity, 3, two->lsn, true);
    forge_record(&p, KV_RECORD_PUT, 0, 3, 0, true);
    expect_put(b, 0, 3);
    b->frames[F_NEXT] = forge_segment_add(three, KV_FRAME_COMMITS, &p, three->lsn);
    forge_record(&p, KV_RECORD_PUT, 102, 1, 0, true);
    expect_put(b, 102, 1);
    b->frames[F_LATER] = forge_segment_add(three, KV_FRAME_COMMITS, &p, three->lsn);
    b->frames[F_MARK] = forge_segment_add(three, KV_FRAME_MARK, NULL, three->lsn);
    forge_record(&p, KV_RECORD_PUT, 103, 1, 0, true);
    expect_put(b, 103, 1);
    b->frames[F_LAST] = forge_segment_add(three, KV_FRAME_COMMITS, &p, three->lsn);
    b->frames[F_CLOSE] = forge_segment_add(three, KV_FRAME_CLOSE, NULL, three->lsn);
    forge_write(b->memory, FORGE_SEGMENT_3, three->bytes, FORGE_SEGMENT_SIZE);
    return b;
}

forge *forge_create(void) {
    return forge_create_for(1);
}

void forge_destroy(forge *b) {
    CHECK_EQ(memory_os_open_count(b->memory), 0);
    memory_os_destroy(b->memory);
    model_destroy(b->m);
    free(b);
}

/* A copy, to be damaged. */
memory_os *forge_copy(const forge *b) {
    return memory_os_cut(b->memory, NULL, 0);
}

void forge_flip(memory_os *memory, const char *name, uint64_t offset, uint8_t mask) {
    uint8_t byte;
    CHECK_EQ(memory_os_peek(memory, WORLD_DIR, name, offset, &byte, 1), 0);
    byte ^= mask;
    CHECK_EQ(memory_os_poke(memory, WORLD_DIR, name, offset, &byte, 1), 0);
}

void forge_cut(memory_os *memory, const char *name, uint64_t size) {
    const kv_os *os = memory_os_table(memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    int file = os->open(os->ctx, dir, name, KV_OPEN_WRITE);
    CHECK_EQ(os->truncate(os->ctx, file, size), 0);
    CHECK_EQ(os->sync(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

/* ---- What was found ------------------------------------------------------------------------ */

static bool note_problem(void *arg, const kv_error *problem, const char *loss) {
    forge_finding *f = arg;
    CHECK(problem->status < 0);
    CHECK_CONTAINS(problem->path, WORLD_DIR "/");
    CHECK(problem->message[0] != '\0' && loss[0] != '\0');
    CHECK(strchr(problem->message, '\n') == NULL && strchr(loss, '\n') == NULL);
    if (f->count < FORGE_PROBLEMS_MAX) {
        f->problems[f->count].error = *problem;
        snprintf(f->problems[f->count].loss, sizeof f->problems[0].loss, "%s", loss);
    }
    return ++f->count != f->stop_at;
}

static bool note_progress(void *arg, uint64_t done, uint64_t total) {
    forge_finding *f = arg;
    CHECK(done >= f->done && done <= total);
    f->done = done;
    f->total = total;
    return ++f->progress_calls != f->progress_stop_at;
}

static void note_suspect(void *arg, kv_bytes key) {
    forge_finding *f = arg;
    size_t length = strlen(f->suspects);
    if (key.size < 20 && length + 30 < sizeof f->suspects)
        snprintf(f->suspects + length, 30, " %.*s ", (int)key.size, (const char *)key.data);
}

kv_status forge_look(memory_os *image, const kv_os *os, kv_db *into, forge_finding *f) {
    kv_check_options options = {.problem = note_problem,
                                .progress = note_progress,
                                .suspect = note_suspect,
                                .arg = f,
                                .os = os != NULL ? os : memory_os_table(image)};
    uint64_t digest = world_files_digest(image);
    kv_status status = into == NULL ? kv_check(WORLD_DIR, &options, &f->summary, &f->err)
                                    : kv_salvage(WORLD_DIR, into, &options, &f->summary, &f->err);
    CHECK_EQ(world_files_digest(image), digest);
    CHECK_EQ(f->count, f->summary.problems);
    CHECK_EQ(memory_os_open_count(image), 0);
    if (status < 0)
        CHECK_EQ(f->err.status, status);
    else
        CHECK_EQ(f->done, f->total);
    return status;
}

void forge_print(const forge_finding *f) {
    for (unsigned i = 0; i < f->count && i < FORGE_PROBLEMS_MAX; i++)
        printf("#   %s: %" PRId64 ": %s [%s]\n", f->problems[i].error.path,
               f->problems[i].error.offset, f->problems[i].error.message, f->problems[i].loss);
}

kv_db *forge_open_memory(void) {
    kv_error err;
    kv_db *db;
    CHECK_OK(kv_open(NULL, NULL, &db, &err), &err);
    return db;
}

void forge_close_memory(kv_db *db) {
    kv_error err;
    CHECK_OK(kv_verify(db, &err), &err);
    CHECK_OK(kv_close(db, &err), &err);
    kv_destroy(db);
}

/* kv_check and kv_salvage must find the same.  What was salvaged is in f->db then. */
void forge_examine(memory_os *image, forge_finding *f) {
    forge_finding check = {0};
    memset(f, 0, sizeof *f);
    CHECK_OK(forge_look(image, NULL, NULL, &check), &check.err);
    f->db = forge_open_memory();
    CHECK_OK(forge_look(image, NULL, f->db, f), &f->err);
    if (check.count != f->count) {
        forge_print(&check);
        forge_print(f);
        FAIL("kv_check found %u problems, kv_salvage %u", check.count, f->count);
    }
    for (unsigned i = 0; i < f->count && i < FORGE_PROBLEMS_MAX; i++)
        CHECK_STR(check.problems[i].error.message, f->problems[i].error.message);
    uint64_t items;
    CHECK_OK(kv_count(f->db, 0, &items, &f->err), &f->err);
    CHECK_EQ(items, f->summary.items);
    CHECK_EQ(check.summary.items, 0);
    check.summary.items = items;
    CHECK_MEM(&check.summary, &f->summary, sizeof check.summary);
}

void forge_examine_end(memory_os *image, forge_finding *f) {
    forge_close_memory(f->db);
    if (image != NULL)
        memory_os_destroy(image);
}

bool forge_has(kv_db *db, unsigned number, unsigned version) {
    kv_value value;
    kv_error err;
    kv_status status = kv_get(db, forge_key(number), 0, &value, &err);
    CHECK(status >= 0);
    if (status == KV_NOTFOUND)
        return false;
    kv_bytes wanted = forge_value(number, version);
    bool equal = value.size == wanted.size && memcmp(value.data, wanted.data, value.size) == 0;
    kv_value_release(&value);
    return equal;
}

uint64_t forge_expiry(kv_db *db, unsigned number) {
    uint64_t expiry;
    kv_error err;
    CHECK_OK(kv_get_expiry(db, forge_key(number), 0, &expiry, &err), &err);
    return expiry;
}

/* All that was salvaged is what a key once was.  How many keys are not as they should be. */
unsigned forge_judge(const forge *b, kv_db *db) {
    unsigned wrong = 0;
    uint64_t count = 0, items;
    kv_error err;
    for (unsigned i = 0; i < 110; i++) {
        bool known = false;
        for (unsigned version = 1; version <= 3; version++)
            known |= forge_has(db, i, version);
        kv_status status = kv_contains(db, forge_key(i), 0, &err);
        CHECK(status >= 0);
        CHECK_EQ(status == KV_OK, known); /* version 0 is from before the checkpoint */
        count += known;
        const kv_bytes *wanted = model_get(b->m, forge_key(i));
        kv_value value;
        if (wanted == NULL || !known) {
            wrong += (wanted != NULL) != known;
        } else {
            CHECK_OK(kv_get(db, forge_key(i), 0, &value, &err), &err);
            wrong += value.size != wanted->size || memcmp(value.data, wanted->data, value.size) != 0;
            kv_value_release(&value);
        }
    }
    CHECK_OK(kv_count(db, 0, &items, &err), &err);
    CHECK_EQ(items, count);
    return wrong;
}

void forge_expect(const forge_finding *f, unsigned i, const char *file, int64_t offset,
                          const char *message, const char *loss) {
    if (i >= f->count)
        FAIL("only %u problems, not \"%s\"", f->count, message);
    const struct problem *p = &f->problems[i];
    CHECK_CONTAINS(p->error.path, file);
    CHECK_CONTAINS(p->error.message, message);
    CHECK_CONTAINS(p->loss, loss);
    if (p->error.offset != offset)
        FAIL("%s: offset %d, not %d", p->error.message, (int)p->error.offset, (int)offset);
}
