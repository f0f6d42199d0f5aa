/* image.h - a store's files of any bytes: checksums made to fit, and the judgement of an open.
 *
 * The judgement is tests/c/reader.h, written after FORMAT.md and not after the engine: an open must be refused when
 * that one refuses, and otherwise show exactly what it read.  So a value that the files do not say is never served,
 * and none that they say is missing.
 */
#ifndef IMAGE_H
#define IMAGE_H

#include "base/crc32c.h"
#include "fuzz.h"
#include "reader.h"

#define IMAGE_NOW UINT64_C(1767225600000) /* what the wall clock says, ms since 1970 */

static uint64_t image_clock(void *ctx) {
    (void)ctx;
    return IMAGE_NOW;
}

static inline void image_write(memory_os *image, const char *name, const void *bytes, size_t size) {
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, true), file = os->open(os->ctx, dir, name, KV_OPEN_CREATE);
    DEMAND(dir >= 0 && file >= 0);
    DEMAND(os->truncate(os->ctx, file, 0) == 0);
    DEMAND(size == 0 || os->write(os->ctx, file, bytes, size, 0) == (int64_t)size);
    DEMAND(os->sync(os->ctx, file) == 0 && os->close(os->ctx, file) == 0);
    DEMAND(os->dir_sync(os->ctx, dir) == 0 && os->close(os->ctx, dir) == 0);
}

/* ---- Checksums ----------------------------------------------------------------------------- */

static inline void sum_identity(uint8_t *bytes, size_t size) {
    if (size >= KV_STORE_FILE_SIZE)
        kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
}

/* Whatever has the magic of a frame and room gets checksums that fit; `place`: its own LSN and salt, too. */
static inline void sum_segment(uint8_t *bytes, size_t size, bool place) {
    if (size < KV_SEGMENT_HEADER_SIZE)
        return;
    if (place)
        kv_store64(bytes + 56, size);
    kv_store32(bytes + 64, kv_crc32c(0, bytes, 64));
    uint64_t start_lsn = kv_load64(bytes + 40), salt = kv_load64(bytes + 48);
    for (size_t at = KV_SEGMENT_HEADER_SIZE; at + KV_FRAME_HEADER_SIZE <= size;) {
        uint8_t *frame = bytes + at;
        uint32_t payload = kv_load32(frame + 4);
        if (memcmp(frame, "PKVF", 4) != 0 || kv_frame_size(payload) > size - at) {
            at += KV_FRAME_ALIGNMENT;
            continue;
        }
        if (place) {
            kv_store64(frame + 8, start_lsn + (at - KV_SEGMENT_HEADER_SIZE));
            kv_store64(frame + 24, salt);
        }
        kv_store32(frame + 40, kv_crc32c(0, frame + KV_FRAME_HEADER_SIZE, payload));
        kv_store32(frame + 44, kv_crc32c(0, frame, 44));
        at += kv_frame_size(payload);
    }
}

/* Blocks are found by the index, if the footer says where that is, and their headers made like it. */
static inline void sum_checkpoint(uint8_t *bytes, size_t size) {
    if (size < KV_CHECKPOINT_HEADER_SIZE + KV_CHECKPOINT_FOOTER_SIZE)
        return;
    uint8_t *footer = bytes + size - KV_CHECKPOINT_FOOTER_SIZE;
    uint64_t end = size - KV_CHECKPOINT_FOOTER_SIZE, index = kv_load64(footer + 16);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
    if (index <= end) {
        uint64_t at = KV_CHECKPOINT_HEADER_SIZE;
        for (uint64_t i = index; i + KV_BLOCK_HEADER_SIZE <= end; i += KV_BLOCK_HEADER_SIZE) {
            uint64_t payload = kv_load64(bytes + i + 16);
            if (at + KV_BLOCK_HEADER_SIZE > index || payload > index - at - KV_BLOCK_HEADER_SIZE)
                break;
            kv_store32(bytes + i + 40, kv_crc32c(0, bytes + at + KV_BLOCK_HEADER_SIZE, (size_t)payload));
            kv_store32(bytes + i + 44, kv_crc32c(0, bytes + i, 44));
            memcpy(bytes + at, bytes + i, KV_BLOCK_HEADER_SIZE);
            at += KV_BLOCK_HEADER_SIZE + payload;
        }
        kv_store32(footer + 48, kv_crc32c(0, bytes + index, (size_t)(end - index)));
    }
    kv_store32(footer + 60, kv_crc32c(0, footer, 60));
}

/* ---- Judging ------------------------------------------------------------------------------- */

typedef struct verdict {
    bool refused;
    bool whole;      /* opened, and all of it can be read */
    bool flawless;   /* and no damage has been cleared away */
    uint64_t digest; /* of what an open showed when whole, with what had expired */
    uint64_t problems; /* that kv_check found; UINT64_MAX: it gave up */
} verdict;

typedef struct trial {
    memory_os *image;
    kv_os os;
    kv_options options;
    reading *r;
    kv_error err;
} trial;

static void trial_use(trial *t, memory_os *image) {
    t->image = image;
    t->os = *memory_os_table(image);
    t->os.clock_ms = image_clock;
}

static void trial_begin(trial *t, memory_os *image) {
    trial_use(t, image);
    t->options = kv_options_default();
    t->options.os = &t->os;
    t->options.create = false;
    t->options.segment_size_min = t->options.segment_size_max = WORLD_SEGMENT_SIZE;
    t->options.checkpoint_log_percent = 0;
    t->options.direct_io = world_files_digest(image) % 2 == 0; /* the one or the other, as it happens */
    t->r = reader_read(image);
    model_sweep(t->r->m, IMAGE_NOW);
}

static bool whole(const reading *r) {
    return r->refusal == NULL && r->damaged_count == 0 && !r->twice;
}

static void check_damage(const trial *t, kv_status status) {
    if (status != KV_ERR_CORRUPT || strstr(t->err.path, WORLD_DIR "/") == NULL || t->err.message[0] == '\0')
        FAIL("%s: %s: %s", kv_status_name(status), t->err.path, t->err.message);
}

typedef struct visit {
    trial *t;
    kv_db *db;
} visit;

static void check_one(void *arg, kv_bytes key, kv_bytes value) {
    visit *v = arg;
    kv_value got;
    CHECK_OK(kv_get(v->db, key, 0, &got, &v->t->err), &v->t->err);
    CHECK_EQ(got.size, value.size);
    CHECK_MEM(got.data, value.data, value.size);
    kv_value_release(&got);
}

/* Some keys that are not there, or in a damaged block. */
static void check_others(trial *t, kv_db *db) {
    for (unsigned i = 0; i < 40; i++) {
        char text[24];
        kv_bytes key = bytes_of(text, (size_t)snprintf(text, sizeof text, "key-%u", i));
        kv_status status = kv_contains(db, key, 0, &t->err);
        if (reader_is_damaged(t->r, key))
            check_damage(t, status);
        else
            CHECK_STATUS(status, model_get(t->r->m, key) != NULL ? KV_OK : KV_NOTFOUND, &t->err);
    }
}

/* The store shows what the reader read. */
static void check_content(trial *t, kv_db *db) {
    if (t->r->twice)
        return;
    check_others(t, db);
    if (t->r->damaged_count == 0) {
        model_check(t->r->m, db);
        CHECK_OK(kv_load_all(db, NULL, NULL, &t->err), &t->err);
        CHECK_OK(kv_verify(db, &t->err), &t->err);
        return;
    }
    visit v = {t, db};
    kv_snapshot *snapshot;
    uint64_t count;
    model_visit(t->r->m, check_one, &v);
    check_damage(t, kv_load_all(db, NULL, NULL, &t->err));
    CHECK_OK(kv_snapshot_create(db, &snapshot, &t->err), &t->err);
    kv_cursor *cursor;
    const kv_item *items;
    size_t more;
    kv_status status;
    CHECK_OK(kv_cursor_create(snapshot, &cursor, &t->err), &t->err);
    for (count = 0; (status = kv_cursor_next(cursor, &items, &more, &t->err)) == KV_OK; count += more)
        for (size_t i = 0; i < more; i++)
            CHECK(model_get(t->r->m, items[i].key) != NULL);
    check_damage(t, status);
    CHECK(count <= model_count(t->r->m));
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(snapshot);
}

static void end_store(trial *t, kv_db *db) {
    CHECK_OK(kv_close(db, &t->err), &t->err);
    kv_destroy(db);
    CHECK_EQ(memory_os_open_count(t->image), 0);
}

/* Opens and reads it.  False: it was refused, as it had to be, and nothing has changed. */
static bool try_open(trial *t, bool read_only, bool preload, kv_db **db) {
    uint64_t files = world_files_digest(t->image);
    bool has_lock = memory_os_size(t->image, WORLD_DIR, "LOCK") >= 0; /* else it is made */
    t->options.read_only = read_only;
    t->options.preload = preload;
    kv_status status = kv_open(WORLD_DIR, &t->options, db, &t->err);
    bool must_be_refused = t->r->refusal != NULL || (preload && t->r->damaged_count > 0);
    if ((status < 0) != must_be_refused)
        FAIL("%s: %s: %s; expected: %s", kv_status_name(status), status < 0 ? t->err.path : "",
             status < 0 ? t->err.message : "",
             t->r->refusal != NULL ? t->r->refusal : must_be_refused ? "a damaged block" : "an open");
    if (status == KV_OK) {
        check_content(t, *db);
        return true;
    }
    if (status != KV_ERR_VERSION && memory_os_size(t->image, WORLD_DIR, "STORE") >= 0)
        check_damage(t, status);
    CHECK(!has_lock || world_files_digest(t->image) == files);
    CHECK_EQ(memory_os_open_count(t->image), 0);
    return false;
}

static void read_as_reader(trial *t) {
    kv_db *db;
    uint64_t files = world_files_digest(t->image);
    if (try_open(t, true, false, &db))
        end_store(t, db);
    if (t->r->damaged_count > 0 && try_open(t, true, true, &db))
        FAIL("a damaged block was loaded");
    CHECK(world_files_digest(t->image) == files);
}

/* What a writer makes of it holds the same, and one key more, when it is opened again: killed, or closed. */
static void read_as_writer(trial *t) {
    static const kv_bytes key = {"one more", 8}, value = {"and its value", 13};
    kv_db *db;
    if (!try_open(t, false, false, &db))
        return;
    kv_status status = kv_put(db, key, value, 0, &t->err);
    if (reader_is_damaged(t->r, key)) {
        check_damage(t, status);
    } else {
        CHECK_OK(status, &t->err);
        model_put(t->r->m, key, value);
    }
    check_content(t, db);
    memory_os *closed = t->image, *killed = memory_os_cut_after(closed, memory_os_change_count(closed));
    end_store(t, db);
    trial_use(t, killed);
    CHECK(try_open(t, false, false, &db));
    end_store(t, db);
    memory_os_destroy(killed);
    trial_use(t, closed);
    CHECK(try_open(t, false, false, &db));
    end_store(t, db);
}

static bool see_problem(void *arg, const kv_error *problem, const char *loss) {
    uint64_t *seen = arg;
    CHECK(problem->status < 0 && problem->message[0] != '\0' && loss[0] != '\0');
    ++*seen;
    return true;
}

static void see_suspect(void *arg, kv_bytes key) {
    (void)arg;
    CHECK(key.size <= KV_KEY_MAX);
    free(fuzz_copy(key.data, key.size)); /* all of it can be read */
}

static uint64_t check_files(trial *t, kv_db *into) {
    uint64_t seen = 0, files = world_files_digest(t->image);
    kv_check_options options = {.problem = see_problem, .arg = &seen, .os = &t->os};
    if (into != NULL)
        options.suspect = see_suspect;
    kv_check_summary summary;
    kv_status status = into == NULL ? kv_check(WORLD_DIR, &options, &summary, &t->err)
                                    : kv_salvage(WORLD_DIR, into, &options, &summary, &t->err);
    CHECK(world_files_digest(t->image) == files);
    CHECK_EQ(memory_os_open_count(t->image), 0);
    if (status < 0) { /* a later version, or no store at all */
        CHECK(t->r->refusal != NULL);
        CHECK(status == KV_ERR_VERSION || memory_os_size(t->image, WORLD_DIR, "STORE") < 0);
        return UINT64_MAX;
    }
    CHECK_EQ(seen, summary.problems);
    return seen;
}

/* A key and a value that were salvaged. */
typedef void (*salvaged)(kv_bytes key, kv_bytes value);

static void salvage_files(trial *t, uint64_t problems, salvaged found) {
    kv_db *db;
    kv_snapshot *snapshot;
    kv_cursor *cursor;
    const kv_item *items;
    size_t count;
    CHECK_OK(kv_open(NULL, &t->options, &db, &t->err), &t->err);
    CHECK_EQ(check_files(t, db), problems);
    CHECK_OK(kv_verify(db, &t->err), &t->err);
    if (problems == 0 && whole(t->r))
        model_check(t->r->m, db);
    CHECK_OK(kv_snapshot_create(db, &snapshot, &t->err), &t->err);
    CHECK_OK(kv_cursor_create(snapshot, &cursor, &t->err), &t->err);
    while (kv_cursor_next(cursor, &items, &count, &t->err) == KV_OK)
        for (size_t i = 0; found != NULL && i < count; i++)
            found(items[i].key, items[i].value);
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(snapshot);
    end_store(t, db);
}

/* Everything that may be done with the files, which are `image` (taken).  `found` may be NULL. */
static verdict judge(memory_os *image, salvaged found) {
    trial t;
    trial_begin(&t, image);
    verdict v = {.refused = t.r->refusal != NULL,
                 .whole = whole(t.r),
                 .flawless = whole(t.r) && !t.r->forgotten,
                 .digest = model_digest(t.r->m)};
    v.problems = check_files(&t, NULL);
    salvage_files(&t, v.problems, found);
    read_as_reader(&t);
    read_as_writer(&t);
    reader_end(t.r);
    memory_os_destroy(image);
    return v;
}

#endif
