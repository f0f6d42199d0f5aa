/* test_corruption.c - damaged files: refused, with the place, and left as they are; or read completely.
 *
 * A damaged store may open only with all its data.  What can pass for the end of a log that was being
 * written when the power went is cut off, kept aside and reported; it never comes back.
 */
#include "check.h"

#include <errno.h>

#include "base/crc32c.h"
#include "engine/format.h"
#include "kv.h"
#include "model.h"
#include "world.h"

#define SEGMENT_1 "00000001.log"
#define SEGMENT_2 "00000002.log"
#define SEGMENT_3 "00000003.log"
#define SEGMENT_SIZE WORLD_SEGMENT_SIZE

static const kv_bytes A = {"a", 1}, B = {"b", 1}, C = {"c", 1}, D = {"d", 1};

/* ---- A closed store of three segments ------------------------------------------------------------- */

typedef struct base {
    memory_os *memory;
    model *m;
    kv_options options;
    uint64_t history[16]; /* digests of its states, from the empty one on */
    size_t states;
} base;

static void put(world *w, model *m, kv_bytes key, kv_bytes value) {
    CHECK_OK(kv_put(w->db, key, value, 0, &w->err), &w->err);
    if (m != NULL)
        model_put(m, key, value);
}

static void note_state(base *b) {
    b->history[b->states++] = model_digest(b->m);
}

static base base_make_seeded(uint64_t seed) {
    world *w = world_create_on(memory_os_create(seed));
    base b = {.m = model_create()};
    check_random random = random_stream(7);
    static uint8_t bytes[1200];
    random_fill(&random, bytes, sizeof bytes);
    w->options.segment_size_max = SEGMENT_SIZE;
    world_open(w);
    note_state(&b);
    for (unsigned i = 0; i < 7; i++) { /* three to a segment */
        put(w, b.m, bytes_of(&i, sizeof i), bytes_of(bytes + i, sizeof bytes - i));
        note_state(&b);
    }
    put(w, b.m, A, B);
    note_state(&b);
    CHECK_OK(kv_delete(w->db, bytes_of(&(unsigned){3}, sizeof(unsigned)), 0, &w->err), &w->err);
    model_delete(b.m, bytes_of(&(unsigned){3}, sizeof(unsigned)));
    note_state(&b);
    const kv_op ops[] = {{KV_OP_PUT, B, C}, {KV_OP_DELETE, A, {0}}, {KV_OP_PUT, C, {0}}};
    CHECK_OK(kv_write(w->db, ops, 3, 0, NULL, &w->err), &w->err);
    model_put(b.m, B, C);
    model_delete(b.m, A);
    model_put(b.m, C, (kv_bytes){0});
    note_state(&b);
    world_close(w);
    b.memory = memory_os_cut(w->memory, NULL, 0);
    b.options = w->options;
    CHECK_EQ(memory_os_size(b.memory, WORLD_DIR, SEGMENT_3), SEGMENT_SIZE);
    CHECK_EQ(memory_os_size(b.memory, WORLD_DIR, "00000004.log"), -ENOENT);
    world_destroy(w);
    return b;
}

static base base_make(void) {
    return base_make_seeded(check_seed);
}

static void base_end(base *b) {
    memory_os_destroy(b->memory);
    model_destroy(b->m);
}

/* A copy, to be damaged. */
static memory_os *copy(const base *b) {
    return memory_os_cut(b->memory, NULL, 0);
}

static uint8_t peek(memory_os *memory, const char *name, uint64_t offset) {
    uint8_t byte;
    CHECK_EQ(memory_os_peek(memory, WORLD_DIR, name, offset, &byte, 1), 0);
    return byte;
}

static void flip(memory_os *memory, const char *name, uint64_t offset, uint8_t mask) {
    uint8_t byte = peek(memory, name, offset) ^ mask;
    CHECK_EQ(memory_os_poke(memory, WORLD_DIR, name, offset, &byte, 1), 0);
}

/* Opens the image and closes it again.  Refused: nothing has changed, and the error says where.
 * Opened: `*state` is what it holds. */
static kv_status try_image(const base *b, memory_os *image, bool read_only, kv_error *err,
                           uint64_t *state) {
    kv_options options = b->options;
    kv_db *db;
    options.os = memory_os_table(image);
    options.read_only = read_only;
    uint64_t files = world_files_digest(image);
    kv_status status = kv_open(WORLD_DIR, &options, &db, err);
    if (status == KV_OK) {
        *state = store_digest(db);
        image_close(db);
    } else {
        CHECK_EQ(err->status, status);
        CHECK_CONTAINS(err->path, WORLD_DIR "/");
        CHECK(err->message[0] != '\0');
        if (world_files_digest(image) != files)
            FAIL("refused (%s: %s), but changed", err->path, err->message);
    }
    if (read_only && world_files_digest(image) != files)
        FAIL("changed by a reader");
    CHECK_EQ(memory_os_open_count(image), 0);
    return status;
}

/* The damaged image (taken) is refused, or complete.  What was done to it is in `text`. */
static kv_status check_damaged(const base *b, memory_os *image, const char *format, ...) {
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    kv_error err;
    uint64_t state = 0;
    kv_status reader = try_image(b, image, true, &err, &state);
    if (reader == KV_OK && state != model_digest(b->m))
        FAIL("%s: a reader got other data", text);
    kv_status status = try_image(b, image, false, &err, &state);
    if (status == KV_OK && state != model_digest(b->m))
        FAIL("%s: opened with other data", text);
    if (status < 0 && status != KV_ERR_CORRUPT && status != KV_ERR_VERSION)
        FAIL("%s: %s: %s", text, kv_status_name(status), err.message);
    if (reader != status)
        FAIL("%s: %s, but %s for a reader", text, kv_status_name(status), kv_status_name(reader));
    memory_os_destroy(image);
    return status;
}

/* ---- Bytes ------------------------------------------------------------------------------------------- */

static const char *const files[] = {"STORE", SEGMENT_1, SEGMENT_2, SEGMENT_3};

/* In the long stretches of zeros a sample is enough. */
static bool is_dull(memory_os *memory, const char *name, uint64_t offset, uint64_t size) {
    for (uint64_t at = offset < 24 ? 0 : offset - 24; at < offset + 24 && at < size; at++)
        if (peek(memory, name, at) != 0)
            return false;
    return offset % 59 != 0;
}

static void test_every_byte(void) {
    base b = base_make();
    check_random random = random_stream(1);
    unsigned tried = 0, refused = 0;
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        uint64_t size = (uint64_t)memory_os_size(b.memory, WORLD_DIR, files[f]);
        for (uint64_t at = 0; at < size; at++) {
            if (is_dull(b.memory, files[f], at, size))
                continue;
            memory_os *image = copy(&b);
            uint8_t mask = (uint8_t)(at % 2 ? 0xff : 1u << random_below(&random, 8));
            flip(image, files[f], at, mask);
            tried++;
            refused += check_damaged(&b, image, "%s: byte %d ^ 0x%02x", files[f], (int)at, mask) < 0;
        }
    }
    printf("# %u bytes flipped, %u refused\n", tried, refused);
    CHECK(refused > 9000 && refused < tried);
    base_end(&b);
}

/* Each bit of what describes the rest. */
static void test_every_bit_of_the_headers(void) {
    base b = base_make();
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++)
        for (uint64_t bit = 0; bit < 68 * 8; bit++) {
            memory_os *image = copy(&b);
            if (bit / 8 >= (uint64_t)memory_os_size(image, WORLD_DIR, files[f])) {
                memory_os_destroy(image);
                break;
            }
            flip(image, files[f], bit / 8, (uint8_t)(1u << bit % 8));
            CHECK_EQ(check_damaged(&b, image, "%s: bit %d", files[f], (int)bit), KV_ERR_CORRUPT);
        }
    base_end(&b);
}

/* ---- Whole files ----------------------------------------------------------------------------------------- */

static void set_size(memory_os *image, const char *name, uint64_t size) {
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    int file = os->open(os->ctx, dir, name, KV_OPEN_WRITE);
    CHECK_EQ(os->truncate(os->ctx, file, size), 0);
    CHECK_EQ(os->sync(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

static void move(memory_os *image, const char *from, const char *to) {
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    if (to != NULL)
        CHECK_EQ(os->rename(os->ctx, dir, from, to), 0);
    else
        CHECK_EQ(os->unlink(os->ctx, dir, from), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
}

static void test_every_length(void) {
    base b = base_make();
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        uint64_t size = (uint64_t)memory_os_size(b.memory, WORLD_DIR, files[f]);
        for (uint64_t length = 0; length <= size + 5000; length += length < 64 || length > size ? 1 : 13) {
            if (length == size || (length > size + 2 && length % 512 != 0))
                continue;
            memory_os *image = copy(&b);
            set_size(image, files[f], length);
            CHECK_EQ(check_damaged(&b, image, "%s: %d bytes", files[f], (int)length),
                     KV_ERR_CORRUPT);
        }
    }
    base_end(&b);
}

static void test_missing_files(void) {
    base b = base_make();
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        memory_os *image = copy(&b);
        kv_error err;
        uint64_t state;
        move(image, files[f], NULL);
        CHECK_EQ(try_image(&b, image, false, &err, &state), KV_ERR_CORRUPT);
        CHECK_CONTAINS(err.path, files[f]);
        CHECK_EQ(check_damaged(&b, image, "%s missing", files[f]), KV_ERR_CORRUPT);
    }
    memory_os *image = copy(&b);
    move(image, "LOCK", NULL);
    CHECK_EQ(check_damaged(&b, image, "LOCK missing"), KV_OK);
    base_end(&b);
}

static void test_swapped_files(void) {
    base b = base_make();
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        for (size_t j = 0; j < sizeof files / sizeof files[0]; j++) {
            if (i == j)
                continue;
            memory_os *image = copy(&b);
            move(image, files[i], "x");
            move(image, files[j], files[i]);
            move(image, "x", files[j]);
            CHECK_EQ(check_damaged(&b, image, "%s and %s swapped", files[i], files[j]),
                     KV_ERR_CORRUPT);
            image = copy(&b);
            move(image, files[i], files[j]);
            CHECK_EQ(check_damaged(&b, image, "%s in place of %s", files[i], files[j]),
                     KV_ERR_CORRUPT);
        }
    base_end(&b);
}

/* Copies `size` bytes of a file of one image over another's, which must be as long. */
static void copy_file(memory_os *from, const char *from_name, memory_os *to, const char *to_name,
                      size_t size) {
    uint8_t *bytes = malloc(size);
    CHECK_EQ(memory_os_peek(from, WORLD_DIR, from_name, 0, bytes, size), 0);
    const kv_os *os = memory_os_table(to);
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    int file = os->open(os->ctx, dir, to_name, KV_OPEN_CREATE);
    CHECK_EQ(os->write(os->ctx, file, bytes, size, 0), size);
    CHECK_EQ(os->sync(os->ctx, file), 0);
    CHECK_EQ(os->dir_sync(os->ctx, dir), 0);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    free(bytes);
}

static void test_foreign_and_additional_segments(void) {
    base b = base_make(), other = base_make_seeded(check_seed + 1);
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        memory_os *image = copy(&b);
        size_t size = (size_t)memory_os_size(b.memory, WORLD_DIR, files[f]);
        copy_file(other.memory, files[f], image, files[f], size);
        CHECK_EQ(check_damaged(&b, image, "%s of another store", files[f]), KV_ERR_CORRUPT);
    }
    static const char *const more[] = {"00000004.log", "00000005.log", "99999999.log"};
    for (size_t i = 0; i < 3; i++)
        for (size_t f = 1; f < 4; f++) {
            memory_os *image = copy(&b);
            copy_file(image, files[f], image, more[i], SEGMENT_SIZE);
            CHECK_EQ(check_damaged(&b, image, "%s also as %s", files[f], more[i]), KV_ERR_CORRUPT);
        }
    base_end(&b);
    base_end(&other);
}

/* ---- Headers that are whole, but wrong ------------------------------------------------------------------------ */

static void rewrite_header(memory_os *image, const char *name,
                           void (*change)(kv_segment_header *header)) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header header;
    kv_error err;
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, name, 0, bytes, sizeof bytes), 0);
    CHECK_OK(kv_segment_header_decode(&header, bytes, sizeof bytes, name, &err), &err);
    change(&header);
    kv_segment_header_encode(&header, bytes);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, name, 0, bytes, sizeof bytes), 0);
}

static void other_store(kv_segment_header *h) { h->store_id[0] ^= 1; }
static void other_sequence(kv_segment_header *h) { h->sequence++; }
static void later_start(kv_segment_header *h) { h->start_lsn += 16; }
static void far_start(kv_segment_header *h) { h->start_lsn += 4000; }
static void huge_start(kv_segment_header *h) { h->start_lsn = UINT64_MAX - 15; }
static void earlier_start(kv_segment_header *h) { h->start_lsn -= 16; }
static void other_salt(kv_segment_header *h) { h->salt++; }
static void other_size(kv_segment_header *h) { h->file_size++; }

static void test_wrong_headers(void) {
    static void (*const changes[])(kv_segment_header *) = {other_store, other_sequence, later_start,
                                                           far_start, huge_start, earlier_start,
                                                           other_salt, other_size};
    base b = base_make();
    for (size_t f = 1; f < 4; f++)
        for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
            memory_os *image = copy(&b);
            rewrite_header(image, files[f], changes[i]);
            /* The salt of the last segment alone says nothing: all its frames are then of others. */
            if (changes[i] == other_salt && f == 3)
                memory_os_destroy(image);
            else
                CHECK_EQ(check_damaged(&b, image, "%s: wrong header %d", files[f], (int)i),
                         KV_ERR_CORRUPT);
        }
    base_end(&b);
}

/* Of a later version, and whole: that is what the error says. */
static void test_newer_version(void) {
    base b = base_make();
    for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
        memory_os *image = copy(&b);
        size_t crc_at = f == 0 ? 60 : 64;
        uint8_t bytes[72];
        kv_error err;
        uint64_t state;
        CHECK_EQ(memory_os_peek(image, WORLD_DIR, files[f], 0, bytes, crc_at), 0);
        kv_store32(bytes + 8, KV_FORMAT_VERSION + 1);
        kv_store32(bytes + crc_at, kv_crc32c(0, bytes, crc_at));
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, files[f], 0, bytes, crc_at + 4), 0);
        CHECK_EQ(try_image(&b, image, false, &err, &state), KV_ERR_VERSION);
        CHECK_CONTAINS(err.path, files[f]);
        CHECK_STR(err.message, "format version 3; this pykv reads versions 1 to 2");
        CHECK_EQ(err.offset, 8);
        CHECK_EQ(check_damaged(&b, image, "version 3 in %s", files[f]), KV_ERR_VERSION);
    }
    base_end(&b);
}

/* ---- Frames ----------------------------------------------------------------------------------------------- */

typedef struct frame {
    uint64_t offset, size;
    kv_frame_header header;
} frame;

/* The valid frames of a segment, from the beginning on; how many. */
static size_t frames_of(memory_os *memory, const char *name, frame *frames, size_t capacity) {
    uint64_t offset = KV_SEGMENT_HEADER_SIZE;
    size_t count = 0;
    uint8_t bytes[KV_FRAME_HEADER_SIZE], salt[8];
    kv_frame_header header;
    CHECK_EQ(memory_os_peek(memory, WORLD_DIR, name, 48, salt, sizeof salt), 0);
    while (memory_os_peek(memory, WORLD_DIR, name, offset, bytes, sizeof bytes) == 0 &&
           kv_frame_header_decode(&header, bytes) && header.salt == kv_load64(salt)) {
        CHECK(count < capacity);
        frames[count++] = (frame){offset, kv_frame_size(header.payload_size), header};
        offset += kv_frame_size(header.payload_size);
    }
    return count;
}

/* Damage in any frame is proved by whatever comes after it, but in the very last, which is the closing
 * frame, and in an end frame, whose message the next segment gives as well. */
static void test_damaged_frames_are_named(void) {
    base b = base_make();
    frame frames[20];
    for (size_t f = 1; f < 4; f++) {
        size_t count = frames_of(b.memory, files[f], frames, 20);
        CHECK(count >= 2);
        for (size_t i = 0; i < count; i++) {
            static const uint64_t places[] = {0, 4, 8, 16, 24, 32, 36, 44, 48, 56};
            bool last = frames[i].header.kind != KV_FRAME_COMMITS;
            CHECK_EQ(last, i + 1 == count);
            for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
                if (places[p] >= KV_FRAME_HEADER_SIZE + frames[i].header.payload_size)
                    continue;
                memory_os *image = copy(&b);
                kv_error err;
                uint64_t state;
                flip(image, files[f], frames[i].offset + places[p], 0x10);
                if (!last) {
                    CHECK_EQ(try_image(&b, image, false, &err, &state), KV_ERR_CORRUPT);
                    CHECK_CONTAINS(err.path, files[f]);
                    CHECK_EQ(err.offset, frames[i].offset);
                }
                CHECK_EQ(check_damaged(&b, image, "%s, frame %d, byte %d", files[f], (int)i,
                                       (int)places[p]),
                         last ? KV_OK : KV_ERR_CORRUPT);
            }
        }
    }
    base_end(&b);
}

/* Puts a frame with this payload, and everything about it right, where the closing frame was. */
static memory_os *with_payload(const base *b, const uint8_t *payload, size_t size, frame *where) {
    memory_os *image = copy(b);
    frame frames[20];
    size_t count = frames_of(image, SEGMENT_3, frames, 20);
    *where = frames[count - 1];
    where->header.kind = KV_FRAME_COMMITS;
    where->header.payload_size = (uint32_t)size;
    where->header.payload_crc = kv_crc32c(0, payload, size);
    uint8_t bytes[KV_FRAME_HEADER_SIZE];
    kv_frame_header_encode(&where->header, bytes);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, SEGMENT_3, where->offset, bytes, sizeof bytes), 0);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, SEGMENT_3, where->offset + sizeof bytes, payload, size),
             0);
    return image;
}

/* A frame whose checksum fits and whose records make no sense: not ours, and never served. */
static void test_senseless_records(void) {
    static const uint8_t payloads[][24] = {
        {0, 1, 1, 0, 0, 0, 0, 0, 'k'},          /* no such kind */
        {5, 1, 1, 0, 0, 0, 0, 0, 'k'},
        {1, 5, 1, 0, 0, 0, 0, 0, 'k'},          /* no such flag */
        {1, 255, 1, 0, 0, 0, 0, 0, 'k', 1},
        {1, 1, 255, 255, 0, 0, 0, 0, 'k'},      /* a key longer than the frame */
        {1, 1, 1, 0, 255, 255, 255, 255, 'k'},  /* a value longer than all */
        {1, 1, 1, 0, 16, 0, 0, 0, 'k'},         /* one byte longer than the frame */
        {1, 3, 1, 0, 8, 0, 0, 0, 'k'},          /* so is its expiry */
        {1, 3, 1, 0, 1, 0, 0, 0, 'k', 'v'},     /* an expiry of 0 */
        {4, 3, 1, 0, 0, 0, 0, 0, 'k'},
        {1, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1}, /* and one beyond all years */
        {2, 1, 1, 0, 1, 0, 0, 0, 'k', 'v'},     /* a delete with a value */
        {2, 3, 1, 0, 0, 0, 0, 0, 'k', 1},       /* or an expiry */
        {3, 1, 1, 0, 0, 0, 0, 0, 'k'},          /* a clear with a key */
        {3, 3, 0, 0, 0, 0, 0, 0, 1},            /* or an expiry */
        {4, 1, 1, 0, 1, 0, 0, 0, 'k', 'v'},     /* an expire with a value */
    };
    base b = base_make();
    frame where;
    for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        kv_error err;
        uint64_t state;
        memory_os *image = with_payload(&b, payloads[i], sizeof payloads[i], &where);
        CHECK_EQ(try_image(&b, image, false, &err, &state), KV_ERR_CORRUPT);
        CHECK_CONTAINS(err.path, SEGMENT_3);
        CHECK_EQ(err.offset, where.offset + KV_FRAME_HEADER_SIZE);
        CHECK_EQ(check_damaged(&b, image, "payload %d", (int)i), KV_ERR_CORRUPT);
    }
    for (size_t size = 1; size < KV_RECORD_HEADER_SIZE; size++) { /* too short for a record */
        memory_os *image = with_payload(&b, payloads[0], size, &where);
        CHECK_EQ(check_damaged(&b, image, "payload of %d bytes", (int)size), KV_ERR_CORRUPT);
    }
    /* And one that makes sense, to show that the others were refused for their records. */
    static const uint8_t good[][17] = {
        {2, 1, 1, 0, 0, 0, 0, 0, 'z'},
        {4, 3, 1, 0, 0, 0, 0, 0, 'z', 0, 0, 0, 0, 0, 0, 1, 0}, /* the latest expiry */
        {4, 1, 1, 0, 0, 0, 0, 0, 'z'},
    };
    static const size_t good_sizes[] = {9, 17, 9};
    for (size_t i = 0; i < 3; i++) {
        memory_os *image = with_payload(&b, good[i], good_sizes[i], &where);
        CHECK_EQ(check_damaged(&b, image, "good payload %d", (int)i), KV_OK);
    }
    base_end(&b);
}

/* Random bytes at random places: whatever opens holds a state that once was. */
static void test_random_damage(void) {
    base b = base_make();
    check_random random = random_stream(2);
    unsigned opened = 0;
    for (int round = 0; round < 1500; round++) {
        memory_os *image = copy(&b);
        kv_error err;
        uint64_t state;
        for (uint64_t n = 1 + random_below(&random, 4); n > 0; n--) {
            uint8_t bytes[64];
            const char *name = files[random_below(&random, 4)];
            size_t size = 1 + random_below(&random, sizeof bytes);
            uint64_t room = (uint64_t)memory_os_size(image, WORLD_DIR, name) - size + 1;
            random_fill(&random, bytes, size);
            CHECK_EQ(memory_os_poke(image, WORLD_DIR, name, random_below(&random, room), bytes, size), 0);
        }
        kv_status status = try_image(&b, image, round % 2, &err, &state);
        CHECK(status == KV_OK || status == KV_ERR_CORRUPT || status == KV_ERR_VERSION);
        bool known = status != KV_OK;
        for (size_t i = 0; i < b.states; i++)
            known |= state == b.history[i];
        CHECK(known);
        opened += status == KV_OK;
        memory_os_destroy(image);
    }
    printf("# %u of 1500 opened\n", opened);
    base_end(&b);
}

/* Payloads of random bytes under a checksum that fits: the decoder believes nothing else. */
static void test_random_records(void) {
    base b = base_make();
    check_random random = random_stream(3);
    unsigned opened = 0;
    for (int round = 0; round < 3000; round++) {
        uint8_t payload[320];
        frame where;
        kv_error err;
        uint64_t state;
        size_t size = random_below(&random, 256), at = 0;
        random_fill(&random, payload, sizeof payload);
        while (at + 8 < size) {
            uint8_t *p = payload + at;
            p[0] = (uint8_t)(1 + random_below(&random, 4)); /* mostly plausible */
            p[1] &= p[0] == KV_RECORD_PUT || p[0] == KV_RECORD_EXPIRE ? 3 : 1;
            kv_store16(p + 2, p[0] == KV_RECORD_CLEAR ? 0 : p[2] & 15);
            kv_store32(p + 4, p[0] == KV_RECORD_PUT ? p[4] & 15 : 0);
            at += 8 + kv_load16(p + 2) + kv_load32(p + 4);
            if ((p[1] & KV_RECORD_EXPIRES) == 0)
                continue;
            kv_store64(payload + at, random_next(&random) >> (random_below(&random, 8) ? 16 : 8));
            at += 8;
        }
        memory_os *image = with_payload(&b, payload, round % 2 ? size : at, &where);
        kv_status status = try_image(&b, image, false, &err, &state);
        CHECK(status == KV_OK || status == KV_ERR_CORRUPT);
        opened += status == KV_OK;
        memory_os_destroy(image);
    }
    printf("# %u of 3000 opened\n", opened);
    CHECK(opened > 100 && opened < 2900);
    base_end(&b);
}

/* ---- Torn tails --------------------------------------------------------------------------------------------- */

/* A store of one segment with frames a, b, c, d that nobody closed; under KV_SYNC_NEVER, so that no
 * frame knows another as durable. */
static world *world_with_four(kv_sync sync, frame frames[4]) {
    world *w = world_create();
    w->options.sync = sync;
    w->options.segment_size_min = w->options.segment_size_max = 65536;
    world_open(w);
    put(w, NULL, A, A);
    put(w, NULL, B, B);
    put(w, NULL, C, C);
    put(w, NULL, D, D);
    world_kill(w);
    CHECK_EQ(frames_of(w->memory, SEGMENT_1, frames, 4), 4);
    return w;
}

static bool has(world *w, kv_bytes key) {
    kv_status status = kv_contains(w->db, key, 0, &w->err);
    CHECK(status >= 0);
    return status == KV_OK;
}

static void check_torn_file(world *w, const uint8_t *bytes, size_t size) {
    static uint8_t kept[65536];
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "torn.bin"), size);
    CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, "torn.bin", 0, kept, size), 0);
    CHECK_MEM(kept, bytes, size);
}

/* Each of the four frames damaged in turn: it and what follows is cut, kept aside and reported; and
 * does not come back, although the next commit is as long as the one that was cut. */
static void test_torn_tail_without_proof(void) {
    static const kv_bytes *const keys[] = {&A, &B, &C, &D};
    for (unsigned bad = 0; bad < 4; bad++)
        for (int again = 0; again < 2; again++) {
            frame frames[4];
            world *w = world_with_four(KV_SYNC_NEVER, frames);
            uint8_t tail[1000];
            size_t size = (size_t)(frames[3].offset + KV_FRAME_HEADER_SIZE +
                                   frames[3].header.payload_size - frames[bad].offset);
            flip(w->memory, SEGMENT_1, frames[bad].offset + 50, 0xff);
            CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, SEGMENT_1, frames[bad].offset, tail, size),
                     0);

            w->options.read_only = true; /* a reader sees the same, and changes nothing */
            uint64_t digest = world_files_digest(w->memory);
            kv_recovery recovery;
            world_open(w);
            kv_get_recovery(w->db, &recovery);
            CHECK_EQ(recovery.bytes_cut, size);
            for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(has(w, *keys[i]), i < bad);
            world_close(w);
            CHECK_EQ(world_files_digest(w->memory), digest);
            w->options.read_only = false;

            world_open(w);
            kv_get_recovery(w->db, &recovery);
            CHECK_EQ(recovery.bytes_cut, size);
            CHECK_EQ(recovery.frames, bad);
            CHECK(!recovery.clean);
            for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(has(w, *keys[i]), i < bad);
            check_torn_file(w, tail, size);

            put(w, NULL, LITERAL("e"), D); /* as long as each of them */
            if (again) {
                CHECK_OK(kv_make_durable(w->db, &w->err), &w->err);
                world_cut_power(w);
            } else {
                world_kill(w);
            }
            world_open(w);
            kv_get_recovery(w->db, &recovery);
            CHECK_EQ(recovery.bytes_cut, 0);
            CHECK_EQ(recovery.frames, bad + 1);
            CHECK(has(w, LITERAL("e")));
            for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(has(w, *keys[i]), i < bad);
            world_destroy(w);
        }
}

/* With every commit synced, the next frame knows: all but the last one's damage is proved. */
static void test_torn_tail_or_damage(void) {
    for (unsigned bad = 0; bad < 4; bad++) {
        frame frames[4];
        world *w = world_with_four(KV_SYNC_ALWAYS, frames);
        flip(w->memory, SEGMENT_1, frames[bad].offset + 3, 0xff);
        uint64_t digest = world_files_digest(w->memory);
        if (bad == 3) {
            world_open(w);
            CHECK(has(w, C) && !has(w, D));
        } else {
            CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
            CHECK_CONTAINS(w->err.path, SEGMENT_1);
            CHECK_EQ(w->err.offset, frames[bad].offset);
            CHECK_EQ(world_files_digest(w->memory), digest);
        }
        world_destroy(w);
    }
}

/* Where the next frame would stand is one that the file has from an earlier life, as its salt or its LSN tells: it is
 * none.  One that differs in neither is. */
static void test_a_frame_of_an_earlier_life(void) {
    enum { OTHER_SALT, OTHER_LSN, OWN, CASES };
    for (int which = 0; which < CASES; which++) {
        frame frames[4];
        world *w = world_with_four(KV_SYNC_NEVER, frames);
        uint8_t bytes[256];
        kv_frame_header h = frames[3].header;
        size_t size = (size_t)frames[3].size;
        uint64_t offset = frames[3].offset + size;
        kv_record e = {.kind = KV_RECORD_PUT, .last = true, .key = LITERAL("e"), .value = LITERAL("e")};
        size_t payload = (size_t)(kv_record_encode(&e, bytes + KV_FRAME_HEADER_SIZE) -
                                  (bytes + KV_FRAME_HEADER_SIZE));
        h.payload_size = (uint32_t)payload;
        h.payload_crc = kv_crc32c(0, bytes + KV_FRAME_HEADER_SIZE, payload);
        h.lsn += which == OTHER_LSN ? size - KV_FRAME_ALIGNMENT : size;
        h.salt += which == OTHER_SALT;
        kv_frame_header_encode(&h, bytes);
        CHECK_EQ(memory_os_poke(w->memory, WORLD_DIR, SEGMENT_1, offset, bytes,
                                KV_FRAME_HEADER_SIZE + payload), 0);
        world_open(w);
        CHECK(has(w, D));
        CHECK_EQ(has(w, e.key), which == OWN);
        world_destroy(w);
    }
}

/* Only what a frame knows as durable proves something: frames at their place, of this segment. */
static void test_what_proves_nothing(void) {
    enum { COPIED, OTHER_SALT, OTHER_PLACE, EQUAL_LSN, CASES };
    for (int which = 0; which < CASES; which++) {
        frame frames[4];
        world *w = world_with_four(KV_SYNC_NEVER, frames);
        kv_frame_header h = frames[3].header;
        uint64_t offset = frames[3].offset + frames[3].size + 160;
        uint8_t bytes[KV_FRAME_HEADER_SIZE];
        h.kind = KV_FRAME_MARK;
        h.payload_size = 0;
        h.payload_crc = 0;
        h.lsn = offset - KV_SEGMENT_HEADER_SIZE;
        h.durable_lsn = frames[3].header.lsn + 1; /* would prove that d was on disk */
        if (which == COPIED)
            h = frames[1].header;
        else if (which == OTHER_SALT)
            h.salt++;
        else if (which == OTHER_PLACE)
            h.lsn += 16;
        else
            h.durable_lsn--;
        kv_frame_header_encode(&h, bytes);
        CHECK_EQ(memory_os_poke(w->memory, WORLD_DIR, SEGMENT_1, offset, bytes, sizeof bytes), 0);
        flip(w->memory, SEGMENT_1, frames[3].offset + 50, 1);
        world_open(w);
        CHECK(has(w, C) && !has(w, D));
        world_destroy(w);
    }
    /* And the same as it should be does. */
    frame frames[4];
    world *w = world_with_four(KV_SYNC_NEVER, frames);
    kv_frame_header h = {.kind = KV_FRAME_MARK, .salt = frames[3].header.salt};
    uint64_t offset = frames[3].offset + frames[3].size + 160;
    uint8_t bytes[KV_FRAME_HEADER_SIZE];
    h.lsn = offset - KV_SEGMENT_HEADER_SIZE;
    h.durable_lsn = frames[3].header.lsn + 1;
    kv_frame_header_encode(&h, bytes);
    CHECK_EQ(memory_os_poke(w->memory, WORLD_DIR, SEGMENT_1, offset, bytes, sizeof bytes), 0);
    flip(w->memory, SEGMENT_1, frames[3].offset + 50, 1);
    CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
    CHECK_EQ(w->err.offset, frames[3].offset);
    world_destroy(w);
}

/* A frame that nobody finished, longer than what is read at a time, and with zeros inside. */
static void test_long_torn_tail(void) {
    enum { SIZE = 300000 };
    static uint8_t value[SIZE];
    world *w = world_create();
    w->options.segment_size_min = w->options.segment_size_max = 1 << 20;
    memset(value, 'v', SIZE);
    memset(value + 70000, 0, 150000);
    world_open(w);
    put(w, NULL, A, A);
    put(w, NULL, B, bytes_of(value, SIZE));
    world_kill(w);
    frame frames[2];
    CHECK_EQ(frames_of(w->memory, SEGMENT_1, frames, 2), 2);
    flip(w->memory, SEGMENT_1, frames[1].offset + 100, 1);
    world_open(w);
    kv_recovery recovery;
    kv_get_recovery(w->db, &recovery);
    CHECK_EQ(recovery.bytes_cut, KV_FRAME_HEADER_SIZE + KV_RECORD_HEADER_SIZE + 1 + SIZE);
    CHECK(has(w, A) && !has(w, B));
    CHECK_EQ(memory_os_size(w->memory, WORLD_DIR, "torn.bin"), recovery.bytes_cut);
    put(w, NULL, A, B);
    world_close(w);
    world_open(w);
    CHECK(!has(w, B));
    world_destroy(w);
}

/* A killed store whose last segment was made of an older one: behind at least three frames of its own, of equal
 * size, stand whole ones of that.  `states`: digests before and after its last put. */
static world *world_in_a_recycled_segment(char name[64], frame *frames, size_t *count,
                                          uint64_t states[2]) {
    static uint8_t value[500];
    world *w = world_create();
    w->options.segment_size_max = SEGMENT_SIZE;
    w->options.checkpoint_log_percent = 0;
    world_open(w);
    bool found = false;
    uint64_t sequence = 1;
    for (unsigned i = 0; !found; i++) {
        char next[64];
        uint64_t behind;
        kv_frame_header stale;
        uint8_t bytes[KV_FRAME_HEADER_SIZE];
        CHECK(i < 100000); /* a recycled file is taken when the keeper had time to look for one */
        memset(value, 'a' + (int)(i % 26), sizeof value);
        states[0] = store_digest(w->db);
        put(w, NULL, bytes_of(&(uint32_t){i % 3}, 4), bytes_of(value, sizeof value));
        states[1] = store_digest(w->db);
        if (i % 30 == 29)
            CHECK_OK(kv_checkpoint(w->db, NULL, NULL, &w->err), &w->err);
        snprintf(next, sizeof next, "%08" PRIu64 ".log", sequence + 1);
        sequence += memory_os_size(w->memory, WORLD_DIR, next) >= 0;
        snprintf(name, 64, "%08" PRIu64 ".log", sequence);
        *count = frames_of(w->memory, name, frames, 20);
        /* What stands before a checkpoint is not read: the last two frames must stand behind it. */
        if (peek(w->memory, name, 12) != 1 || *count < 3 || i % 30 == 29 || i % 30 == 0)
            continue;
        /* Direct I/O fills up the last frame's block: the next whole one stands behind that. */
        behind = frames[*count - 1].offset + frames[*count - 1].size;
        for (; !found && memory_os_peek(w->memory, WORLD_DIR, name, behind, bytes, sizeof bytes) == 0;
             behind += KV_FRAME_ALIGNMENT)
            found = kv_frame_header_decode(&stale, bytes) && stale.kind == KV_FRAME_COMMITS;
    }
    CHECK_EQ(frames[*count - 1].size, frames[*count - 2].size);
    world_kill(w);
    return w;
}

/* What an older segment left behind the last frame is no tail; a torn frame is, and it alone is cut. */
static void test_torn_tail_in_a_recycled_segment(void) {
    enum { NOTHING, PAYLOAD, HEADER, ONE_BEFORE, CASES };
    for (int which = 0; which < CASES; which++) {
        char name[64];
        frame frames[20];
        size_t count;
        uint8_t tail[1000], after[1000];
        uint64_t states[2];
        world *w = world_in_a_recycled_segment(name, frames, &count, states);
        frame last = frames[count - 1];
        if (which == PAYLOAD)
            flip(w->memory, name, last.offset + 100, 1);
        else if (which == HEADER)
            flip(w->memory, name, last.offset + 20, 1);
        else if (which == ONE_BEFORE)
            flip(w->memory, name, frames[count - 2].offset + 100, 1);
        CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, name, last.offset, tail, last.size), 0);
        uint64_t files_before = world_files_digest(w->memory);
        if (which == ONE_BEFORE) {
            CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
            CHECK_CONTAINS(w->err.path, name);
            CHECK_EQ(w->err.offset, frames[count - 2].offset);
            CHECK_EQ(world_files_digest(w->memory), files_before);
            world_destroy(w);
            continue;
        }
        kv_recovery recovery;
        world_open(w);
        kv_get_recovery(w->db, &recovery);
        CHECK_EQ(recovery.bytes_cut, which == PAYLOAD ? last.size : 0);
        CHECK(!recovery.clean);
        CHECK_EQ(store_digest(w->db), states[which == NOTHING]);
        CHECK_EQ(memory_os_peek(w->memory, WORLD_DIR, name, last.offset, after, last.size), 0);
        if (which == PAYLOAD) {
            check_torn_file(w, tail, last.size);
            memset(tail, 0, sizeof tail);
        }
        CHECK_MEM(after, tail, last.size); /* zeros, or as it was */
        /* A frame of the same size takes the place; neither the torn one nor older ones come back. */
        put(w, NULL, LITERAL("new!"), bytes_of(after, last.header.payload_size - 12));
        world_kill(w);
        world_open(w);
        kv_get_recovery(w->db, &recovery);
        CHECK_EQ(recovery.bytes_cut, 0);
        CHECK(has(w, LITERAL("new!")));
        CHECK_OK(kv_delete(w->db, LITERAL("new!"), 0, &w->err), &w->err);
        CHECK_EQ(store_digest(w->db), states[which == NOTHING]);
        world_destroy(w);
    }
}

/* In a segment that is not the last, nothing passes for a torn tail. */
static void test_damage_before_the_last_segment(void) {
    world *w = world_create();
    static uint8_t value[3000];
    w->options.sync = KV_SYNC_NEVER;
    w->options.segment_size_max = SEGMENT_SIZE;
    world_open(w);
    for (unsigned i = 0; i < 3; i++) {
        memset(value, 'a' + (int)i, sizeof value);
        put(w, NULL, bytes_of(&i, 1), bytes_of(value, sizeof value));
    }
    world_kill(w);
    frame frames[4];
    size_t count = frames_of(w->memory, SEGMENT_1, frames, 4);
    CHECK(count >= 2);
    CHECK_EQ(frames[count - 1].header.kind, KV_FRAME_END);
    flip(w->memory, SEGMENT_1, frames[count - 2].offset + 60, 1);
    CHECK_STATUS(world_try_open(w), KV_ERR_CORRUPT, &w->err);
    CHECK_CONTAINS(w->err.path, SEGMENT_1);
    CHECK_EQ(w->err.offset, frames[count - 2].offset);
    world_destroy(w);
}

CHECK_MAIN(TEST(test_every_byte), TEST(test_every_bit_of_the_headers), TEST(test_every_length),
           TEST(test_missing_files), TEST(test_swapped_files),
           TEST(test_foreign_and_additional_segments), TEST(test_wrong_headers),
           TEST(test_newer_version), TEST(test_damaged_frames_are_named),
           TEST(test_senseless_records), TEST(test_random_damage), TEST(test_random_records),
           TEST(test_torn_tail_without_proof), TEST(test_torn_tail_or_damage),
           TEST(test_a_frame_of_an_earlier_life), TEST(test_what_proves_nothing), TEST(test_long_torn_tail),
           TEST(test_torn_tail_in_a_recycled_segment), TEST(test_damage_before_the_last_segment))
