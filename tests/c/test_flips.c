/* test_flips.c - a small closed store with a checkpoint and a log, damaged in every simple way: each is refused with
 * the place, at open or when the damaged part is read, or all data is there and right.
 *
 * Every bit is flipped (one of each byte where there are only zeros), every file is cut to every length, deleted,
 * emptied, swapped with each other one, and replaced by another store's.  kv_check must agree: it finds something
 * whenever the store is refused, and nothing when all is there.
 */
#include "check.h"

#include <errno.h>

#include "engine/format.h"
#include "kv.h"
#include "model.h"
#include "world.h"

#define KEYS 80u
#define FILES_MAX 8
#define SEGMENT_SIZE WORLD_SEGMENT_SIZE
#define FAR_EXPIRY UINT64_C(7258118400000) /* the year 2200 */

/* Under the address sanitizer, which is for crashes, a part of the cases is enough. */
#ifdef __SANITIZE_ADDRESS__
enum { BITS = 1, STEP = 3 };
#else
enum { BITS = 8, STEP = 1 };
#endif

/* ---- The store ----------------------------------------------------------------------------- */

typedef struct item {
    bool present;
    uint8_t value[80];
    size_t size;
    uint64_t expiry;
} item;

typedef struct base {
    memory_os *memory;
    kv_options options;
    item items[KEYS];
    uint64_t count;
    char files[FILES_MAX][64];
    unsigned file_count;
} base;

static kv_bytes key_of(unsigned number) {
    static char texts[8][24];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    return bytes_of(text, (size_t)snprintf(text, sizeof texts[0], "key number %u", number));
}

static void set(base *b, unsigned number, unsigned version, uint64_t expiry, kv_op *op) {
    item *it = &b->items[number];
    it->present = true;
    it->size = number * 7 % 70;
    it->expiry = expiry;
    for (size_t i = 0; i < it->size; i++)
        it->value[i] = (uint8_t)(number * 31 + version * 101 + i * 7);
    *op = (kv_op){.kind = KV_OP_PUT, .key = key_of(number), .value = bytes_of(it->value, it->size),
                  .expiry = expiry};
}

static void put(base *b, world *w, unsigned number, unsigned version, uint64_t expiry) {
    kv_op op;
    set(b, number, version, expiry, &op);
    CHECK_OK(kv_put_expiring(w->db, op.key, op.value, expiry, 0, &w->err), &w->err);
}

static void delete(base *b, world *w, unsigned number) {
    b->items[number] = (item){0};
    CHECK_OK(kv_delete(w->db, key_of(number), 0, &w->err), &w->err);
}

static void expire(base *b, world *w, unsigned number, uint64_t expiry) {
    b->items[number].expiry = expiry;
    CHECK_OK(kv_expire(w->db, key_of(number), expiry, 0, &w->err), &w->err);
}

static void batch(base *b, world *w) {
    kv_op ops[6];
    for (unsigned i = 0; i < 4; i++)
        set(b, 71 + i, 60, i == 2 ? FAR_EXPIRY + i : 0, &ops[i]);
    ops[4] = (kv_op){.kind = KV_OP_DELETE, .key = key_of(41)};
    ops[5] = (kv_op){.kind = KV_OP_EXPIRE, .key = key_of(42), .expiry = FAR_EXPIRY + 42};
    b->items[41] = (item){0};
    b->items[42].expiry = FAR_EXPIRY + 42;
    CHECK_OK(kv_write(w->db, ops, 6, 0, NULL, &w->err), &w->err);
}

static bool note_file(void *arg, const char *name) {
    base *b = arg;
    CHECK(b->file_count < FILES_MAX);
    snprintf(b->files[b->file_count++], sizeof b->files[0], "%s", name);
    return true;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

static base *base_make(uint64_t seed) {
    base *b = calloc(1, sizeof *b);
    world *w = world_create_on(memory_os_create(seed));
    w->options.segment_size_max = SEGMENT_SIZE;
    w->options.checkpoint_log_percent = 0; /* only when asked for */
    world_open(w);
    for (unsigned i = 0; i < 70; i++)
        put(b, w, i, 1, i % 6 == 3 ? FAR_EXPIRY + i : 0);
    CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
    /* Over two segments or three, and few keys: most shards are loaded only when they are read. */
    for (unsigned i = 0; i < 40; i++) {
        put(b, w, 70 + i % 5, 2 + i, i % 9 == 2 ? FAR_EXPIRY + i : 0);
        usleep(2000); /* the keeper makes a spare of the old segment meanwhile */
    }
    delete(b, w, 10);
    delete(b, w, 73);
    batch(b, w);
    expire(b, w, 3, 0);
    expire(b, w, 72, FAR_EXPIRY + 2);
    put(b, w, 10, 4, 0);
    world_close(w);
    b->memory = memory_os_cut_after(w->memory, memory_os_change_count(w->memory));
    b->options = w->options;
    b->options.os = NULL;
    world_destroy(w);
    for (unsigned i = 0; i < KEYS; i++)
        b->count += b->items[i].present;

    const kv_os *os = memory_os_table(b->memory);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    CHECK_EQ(os->dir_list(os->ctx, dir, note_file, b), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    qsort(b->files, b->file_count, sizeof b->files[0], compare_names);
    return b;
}

static void base_end(base *b) {
    memory_os_destroy(b->memory);
    free(b);
}

static uint64_t size_of(const base *b, unsigned file) {
    int64_t size = memory_os_size(b->memory, WORLD_DIR, b->files[file]);
    CHECK(size >= 0);
    return (uint64_t)size;
}

/* ---- Reading everything ----------------------------------------------------------------------- */

typedef enum outcome { WHOLE, REFUSED, REFUSED_LATER } outcome;

typedef struct reading {
    const base *b;
    const char *what; /* was done to the files */
    kv_db *db;
    bool refused;
    kv_error err;
} reading;

/* What is damaged says so, and where. */
static void note_refusal(reading *r, kv_status status) {
    if (status != KV_ERR_CORRUPT && status != KV_ERR_VERSION)
        FAIL("%s: %s: %s", r->what, kv_status_name(status), r->err.message);
    CHECK_EQ(r->err.status, status);
    if (strstr(r->err.path, WORLD_DIR "/") == NULL || r->err.message[0] == '\0')
        FAIL("%s: the error has no place: %s: %s", r->what, r->err.path, r->err.message);
    r->refused = true;
}

static void check_item(reading *r, const item *wanted, unsigned number, kv_bytes value,
                       uint64_t expiry) {
    if (!wanted->present)
        FAIL("%s: key %u is back", r->what, number);
    if (value.size != wanted->size || memcmp(value.data, wanted->value, value.size) != 0)
        FAIL("%s: key %u has a wrong value", r->what, number);
    if (expiry != wanted->expiry)
        FAIL("%s: key %u has a wrong expiry", r->what, number);
}

static void read_one(reading *r, unsigned number) {
    kv_value value;
    uint64_t expiry = 0;
    const item *wanted = &r->b->items[number];
    kv_status status = kv_get(r->db, key_of(number), 0, &value, &r->err);
    if (status < 0) {
        note_refusal(r, status);
        return;
    }
    if (status == KV_NOTFOUND) {
        if (wanted->present)
            FAIL("%s: key %u is missing", r->what, number);
        return;
    }
    CHECK_OK(kv_get_expiry(r->db, key_of(number), 0, &expiry, &r->err), &r->err);
    check_item(r, wanted, number, bytes_of(value.data, value.size), expiry);
    kv_value_release(&value);
}

static void walk(reading *r) {
    kv_snapshot *snapshot;
    kv_cursor *cursor;
    const kv_item *items;
    size_t count;
    uint64_t seen = 0;
    kv_status status;
    CHECK_OK(kv_snapshot_create(r->db, &snapshot, &r->err), &r->err);
    CHECK_OK(kv_cursor_create(snapshot, &cursor, &r->err), &r->err);
    while ((status = kv_cursor_next(cursor, &items, &count, &r->err)) == KV_OK)
        for (size_t i = 0; i < count; i++, seen++) {
            char text[24];
            unsigned number = KEYS;
            snprintf(text, sizeof text, "%.*s", (int)items[i].key.size,
                     (const char *)items[i].key.data);
            CHECK_EQ(sscanf(text, "key number %u", &number), 1);
            CHECK(number < KEYS);
            check_item(r, &r->b->items[number], number, items[i].value, items[i].expiry);
        }
    if (status < 0)
        note_refusal(r, status);
    else if (seen != r->b->count)
        FAIL("%s: a walk saw %u of %u keys", r->what, (unsigned)seen, (unsigned)r->b->count);
    kv_cursor_destroy(cursor);
    kv_snapshot_destroy(snapshot);
}

static void read_all(reading *r) {
    uint64_t count;
    for (unsigned i = 0; i < KEYS; i++)
        read_one(r, i);
    bool refused = r->refused;
    walk(r);
    if (refused && !r->refused)
        FAIL("%s: a walk over damaged blocks ended well", r->what);
    kv_status status = kv_load_all(r->db, NULL, NULL, &r->err);
    if (status < 0)
        note_refusal(r, status);
    else if (r->refused)
        FAIL("%s: everything is loaded, but not everything could be read", r->what);
    status = kv_count(r->db, 0, &count, &r->err);
    if (status < 0) {
        if (!r->refused)
            FAIL("%s: everything is loaded, and cannot be counted", r->what);
        note_refusal(r, status);
    } else if (count != r->b->count)
        FAIL("%s: %u keys are counted, not %u", r->what, (unsigned)count, (unsigned)r->b->count);
    if (!r->refused)
        CHECK_OK(kv_verify(r->db, &r->err), &r->err);
}

static outcome open_and_read(const base *b, memory_os *image, bool read_only, bool preload,
                             const char *what) {
    kv_options options = b->options;
    reading r = {.b = b, .what = what};
    options.os = memory_os_table(image);
    options.read_only = read_only;
    options.preload = preload;
    uint64_t files = world_files_digest(image);
    bool has_lock = memory_os_size(image, WORLD_DIR, "LOCK") >= 0; /* else it is made */
    kv_status status = kv_open(WORLD_DIR, &options, &r.db, &r.err);
    if (status < 0) {
        note_refusal(&r, status);
        if (world_files_digest(image) != files && has_lock)
            FAIL("%s: refused, but changed", what);
    } else {
        read_all(&r);
        if (read_only && world_files_digest(image) != files)
            FAIL("%s: changed by a reader", what);
        CHECK_OK(kv_close(r.db, &r.err), &r.err);
        kv_destroy(r.db);
    }
    CHECK_EQ(memory_os_open_count(image), 0);
    return status < 0 ? REFUSED : r.refused ? REFUSED_LATER : WHOLE;
}

/* ---- Cases -------------------------------------------------------------------------------------- */

typedef struct tally {
    unsigned cases[3]; /* by outcome */
    unsigned told;     /* of those that are whole: kv_check finds something */
} tally;

static bool print_problem(void *arg, const kv_error *problem, const char *loss) {
    printf("# %s: %s: %s [%s]\n", (const char *)arg, problem->path, problem->message, loss);
    return true;
}

static uint64_t problems_of(memory_os *image, const char *what, bool print) {
    kv_check_options options = {.os = memory_os_table(image), .arg = (void *)what};
    kv_check_summary summary;
    kv_error err;
    if (print)
        options.problem = print_problem;
    kv_status status = kv_check(WORLD_DIR, &options, &summary, &err);
    if (status == KV_ERR_VERSION)
        return 1;
    CHECK_OK(status, &err);
    return summary.problems;
}

typedef enum scrutiny {
    AS_READER, /* the same code but for what is changed, and cheaper */
    AS_WRITER,
    CLOSELY, /* both, the reader loading everything first; and kv_check */
} scrutiny;

/* The image (taken) is judged. */
__attribute__((format(printf, 5, 6))) static void
judge(const base *b, memory_os *image, tally *t, scrutiny how, const char *format, ...) {
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    outcome reader = WHOLE;
    uint64_t problems = 0;
    /* Another file in the place of LOCK: who would write into it is refused. */
    bool lock_is_foreign = memory_os_size(image, WORLD_DIR, "LOCK") >= 32;
    bool closely = how == CLOSELY;
    if (how != AS_WRITER)
        reader = open_and_read(b, image, true, closely, what);
    if (closely)
        problems = problems_of(image, what, false);
    outcome writer = reader;
    if (how != AS_READER)
        writer = open_and_read(b, image, false, false, what);
    t->cases[writer]++;
    if (lock_is_foreign && reader == WHOLE && writer == REFUSED)
        reader = REFUSED, problems = 1;
    if (closely && (reader == WHOLE) != (writer == WHOLE))
        FAIL("%s: outcome %d, for a reader %d", what, (int)writer, (int)reader);
    if (closely && writer != WHOLE && problems == 0)
        FAIL("%s: refused, but kv_check finds nothing", what);
    if (closely && writer == WHOLE && problems > 0) {
        t->told++;
        (void)problems_of(image, what, true);
    }
    memory_os_destroy(image);
}

static void print_tally(const char *what, const tally *t) {
    printf("# %s: %u cases; %u refused at open, %u when the damaged part is read, %u complete and right\n",
           what, t->cases[WHOLE] + t->cases[REFUSED] + t->cases[REFUSED_LATER], t->cases[REFUSED],
           t->cases[REFUSED_LATER], t->cases[WHOLE]);
    CHECK_EQ(t->told, 0);
}

static memory_os *copy(const base *b) {
    return memory_os_cut(b->memory, NULL, 0);
}

static void flip(memory_os *image, const char *name, uint64_t offset, uint8_t mask) {
    uint8_t byte;
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, name, offset, &byte, 1), 0);
    byte ^= mask;
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, name, offset, &byte, 1), 0);
}

static void rename_file(memory_os *image, const char *from, const char *to) {
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    if (to != NULL)
        CHECK_EQ(os->rename(os->ctx, dir, from, to), 0);
    else
        CHECK_EQ(os->unlink(os->ctx, dir, from), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

static void write_file(memory_os *image, const char *name, const uint8_t *bytes, size_t size) {
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    int file = os->open(os->ctx, dir, name, KV_OPEN_CREATE);
    CHECK_EQ(os->truncate(os->ctx, file, 0), 0);
    if (size > 0)
        CHECK_EQ(os->write(os->ctx, file, bytes, size, 0), size);
    CHECK_EQ(os->sync(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

static bool is_recycled(const base *b, unsigned file) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header header;
    kv_error err;
    CHECK_EQ(memory_os_peek(b->memory, WORLD_DIR, b->files[file], 0, bytes, sizeof bytes), 0);
    CHECK_OK(kv_segment_header_decode(&header, bytes, sizeof bytes, b->files[file], &err), &err);
    return header.recycled;
}

static void test_the_store_itself(void) {
    base *b = base_make(check_seed);
    tally t = {0};
    uint64_t total = 0;
    unsigned segments = 0, checkpoints = 0, recycled = 0;
    for (unsigned f = 0; f < b->file_count; f++) {
        printf("# %s: %u bytes\n", b->files[f], (unsigned)size_of(b, f));
        total += size_of(b, f);
        segments += ends_with(b->files[f], ".log");
        checkpoints += ends_with(b->files[f], ".ckpt");
        recycled += ends_with(b->files[f], ".log") && is_recycled(b, f);
    }
    CHECK(total <= 65536);
    CHECK_EQ(checkpoints, 1);
    CHECK(segments >= 2);
    printf("# %u of %u segments are recycled ones\n", recycled, segments);
    judge(b, copy(b), &t, CLOSELY, "nothing");
    CHECK_EQ(t.cases[WHOLE], 1);
    base_end(b);
}

/* Whether the byte stands far from any that is not 0: behind the last frame, or in the rest of a header. */
static bool is_dull(const uint8_t *bytes, uint64_t size, uint64_t at) {
    for (uint64_t i = at < 24 ? 0 : at - 24; i < at + 24 && i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static void test_every_byte(void) {
    base *b = base_make(check_seed);
    tally t = {0};
    for (unsigned f = 0; f < b->file_count; f++) {
        uint64_t size = size_of(b, f);
        uint8_t *bytes = malloc((size_t)size + 1);
        CHECK_EQ(memory_os_peek(b->memory, WORLD_DIR, b->files[f], 0, bytes, (size_t)size), 0);
        for (uint64_t at = 0; at < size; at++) {
            bool dull = is_dull(bytes, size, at);
            for (unsigned bit = 0; bit < (dull ? 1 : BITS); bit++) {
                memory_os *image = copy(b);
                uint8_t mask = (uint8_t)(1u << (at + bit) % 8);
                flip(image, b->files[f], at, mask);
                scrutiny how = (at + bit) % 4 == 0 ? AS_WRITER : AS_READER;
                if (!dull && bit == 0)
                    how = CLOSELY;
                judge(b, image, &t, how, "%s: byte %u ^ 0x%02x", b->files[f], (unsigned)at, mask);
            }
        }
        free(bytes);
    }
    print_tally("bytes flipped", &t);
    base_end(b);
}

static void test_every_length(void) {
    base *b = base_make(check_seed);
    tally t = {0};
    for (unsigned f = 0; f < b->file_count; f++) {
        uint64_t size = size_of(b, f);
        uint8_t *bytes = calloc(1, (size_t)size + 4096);
        CHECK_EQ(memory_os_peek(b->memory, WORLD_DIR, b->files[f], 0, bytes, (size_t)size), 0);
        for (uint64_t length = 0; length <= size + 4096; length += length < size ? STEP : 512) {
            if (length == size && size > 0)
                continue;
            memory_os *image = copy(b);
            write_file(image, b->files[f], bytes, (size_t)length);
            judge(b, image, &t, length % 8 ? AS_READER : CLOSELY, "%s: %u bytes", b->files[f], (unsigned)length);
        }
        free(bytes);
    }
    print_tally("lengths", &t);
    base_end(b);
}

static void test_files(void) {
    base *b = base_make(check_seed), *other = base_make(check_seed + 1);
    tally t = {0};
    static uint8_t bytes[65536];
    for (unsigned i = 0; i < b->file_count; i++) {
        memory_os *image = copy(b);
        rename_file(image, b->files[i], NULL);
        judge(b, image, &t, CLOSELY, "%s deleted", b->files[i]);
        image = copy(b);
        write_file(image, b->files[i], bytes, 0);
        judge(b, image, &t, CLOSELY, "%s emptied", b->files[i]);
        for (unsigned j = 0; j < b->file_count; j++) {
            if (i != j) {
                image = copy(b);
                rename_file(image, b->files[i], "x");
                rename_file(image, b->files[j], b->files[i]);
                rename_file(image, "x", b->files[j]);
                judge(b, image, &t, CLOSELY, "%s and %s swapped", b->files[i], b->files[j]);
                image = copy(b);
                rename_file(image, b->files[i], b->files[j]);
                judge(b, image, &t, CLOSELY, "%s in place of %s", b->files[i], b->files[j]);
            }
            size_t size = (size_t)size_of(other, j);
            CHECK_EQ(memory_os_peek(other->memory, WORLD_DIR, other->files[j], 0, bytes, size), 0);
            image = copy(b);
            write_file(image, b->files[i], bytes, size);
            judge(b, image, &t, CLOSELY, "%s is %s of another store", b->files[i], other->files[j]);
            memset(bytes, 0, sizeof bytes);
        }
    }
    print_tally("files deleted, emptied, swapped, replaced", &t);
    base_end(b);
    base_end(other);
}

/* What is in the directory besides does no harm, or is refused. */
static void test_more_files(void) {
    base *b = base_make(check_seed);
    tally t = {0};
    static const char *const names[] = {"00000001.log", "00000001.ckpt", "00000099.log",
                                        "00000099.ckpt", "spare.log", "recycled.log",
                                        "checkpoint.tmp", "recycled.ckpt", "STORE.tmp", "torn.bin",
                                        "notes.txt"};
    static uint8_t bytes[65536];
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (memory_os_size(b->memory, WORLD_DIR, names[i]) >= 0)
            continue;
        for (unsigned j = 0; j <= b->file_count; j++) {
            size_t size = j < b->file_count ? (size_t)size_of(b, j) : 100;
            if (j < b->file_count)
                CHECK_EQ(memory_os_peek(b->memory, WORLD_DIR, b->files[j], 0, bytes, size), 0);
            memory_os *image = copy(b);
            write_file(image, names[i], bytes, size);
            judge(b, image, &t, CLOSELY, "%s also as %s", j < b->file_count ? b->files[j] : "scrap",
                  names[i]);
        }
    }
    print_tally("files added", &t);
    base_end(b);
}

CHECK_MAIN(TEST(test_the_store_itself), TEST(test_every_byte), TEST(test_every_length),
           TEST(test_files), TEST(test_more_files))
