/* test_check_log.c - kv_check and kv_salvage: damage in the log's segments and frames. */
#include "check.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "fault_os.h"
#include "forge.h"
#include "world.h"

/* ---- The log ------------------------------------------------------------------------------- */

static void test_frames(void) {
    forge *b = forge_create();
    for (unsigned i = F_PUT; i < FRAMES; i++)
        for (unsigned at = 0; at < KV_FRAME_HEADER_SIZE + 12; at++) {
            memory_os *image = forge_copy(b);
            forge_finding f;
            if (at >= KV_FRAME_HEADER_SIZE && (i == F_MARK || i == F_CLOSE))
                at = KV_FRAME_HEADER_SIZE + 12; /* no payload */
            else
                forge_flip(image, forge_file_of(i), b->frames[i] + at, 0x10);
            forge_examine(image, &f);
            if (i == F_CLOSE || at == KV_FRAME_HEADER_SIZE + 12) { /* a torn tail, or nothing */
                CHECK_EQ(f.count, 0);
                CHECK_EQ(forge_judge(b, f.db), 0);
            } else {
                CHECK_EQ(f.count, 1);
                forge_expect(&f, 0, forge_file_of(i), (int64_t)b->frames[i],
                             "a frame that was on disk",
                             at < KV_FRAME_HEADER_SIZE ? "1 frame or more" : "1 frame of up to 1");
                CHECK_EQ(f.summary.frames_lost, 1);
                CHECK_EQ(f.summary.frames, 8);
                CHECK(forge_judge(b, f.db) <= 4);
            }
            CHECK(forge_has(f.db, 103, 1) || i == F_LAST); /* what came later is there */
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

/* Without anything that knows of it, a damaged end is a torn tail. */
static void test_torn_tails(void) {
    forge *b = forge_create();
    memory_os *image = forge_copy(b);
    static uint8_t zeros[FORGE_SEGMENT_SIZE];
    forge_finding f;
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_SEGMENT_3, b->frames[F_CLOSE], zeros, 48), 0);
    forge_flip(image, FORGE_SEGMENT_3, b->frames[F_LAST] + 50, 1);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 0);
    CHECK(!forge_has(f.db, 103, 1) && forge_has(f.db, 102, 1));
    CHECK_EQ(f.suspects[0], 0);
    forge_examine_end(image, &f);
    /* The mark before it knows the frame before it. */
    forge_flip(image = forge_copy(b), FORGE_SEGMENT_3, b->frames[F_LAST] + 50, 1);
    forge_flip(image, FORGE_SEGMENT_3, b->frames[F_LATER] + 50, 1);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_SEGMENT_3, b->frames[F_CLOSE], zeros, 48), 0);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_3, (int64_t)b->frames[F_LATER], "on disk", "1 frame");
    CHECK(!forge_has(f.db, 103, 1) && !forge_has(f.db, 102, 1) && forge_has(f.db, 0, 3));
    forge_examine_end(image, &f);
    /* An empty last segment. */
    image = forge_copy(b);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_SEGMENT_3, 4096, zeros, 4096), 0);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 0);
    CHECK(forge_has(f.db, 0, 2));
    forge_examine_end(image, &f);
    /* The crash came before the end frame was written, or it has been damaged: the next segment says it. */
    image = forge_copy(b);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_SEGMENT_2, b->end_frame, zeros, 48), 0);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 0);
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(image, &f);
    forge_destroy(b);
}

static void test_segment_headers(void) {
    forge *b = forge_create();
    for (unsigned i = 0; i < 2; i++)
        for (unsigned at = 0; at < 68; at++) {
            memory_os *image = forge_copy(b);
            forge_finding f;
            forge_flip(image, i ? FORGE_SEGMENT_3 : FORGE_SEGMENT_2, at, 0x10);
            forge_examine(image, &f);
            CHECK_EQ(f.count, 1);
            forge_expect(&f, 0, i ? FORGE_SEGMENT_3 : FORGE_SEGMENT_2, 0, "", "bytes of the log");
            CHECK_EQ(f.summary.frames, 9); /* its frames agree with each other and with the place */
            CHECK_EQ(forge_judge(b, f.db), 0);
            forge_examine_end(image, &f);
        }
    /* Then also its first frame: it cannot be told where it belongs but by the end of the one before. */
    memory_os *image = forge_copy(b);
    forge_finding f;
    forge_flip(image, FORGE_SEGMENT_3, 20, 1);
    forge_flip(image, FORGE_SEGMENT_3, b->frames[F_NEXT] + 9, 1);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 2);
    CHECK_EQ(f.summary.frames, 8);
    CHECK(forge_has(f.db, 102, 1) && forge_has(f.db, 0, 2));
    forge_examine_end(image, &f);
    forge_destroy(b);
}

/* Segments of another store, and as another one: with a header that says so, and without. */
static void test_foreign_segments(void) {
    forge *b = forge_create(), *other = forge_create_for(2);
    forge_finding f;
    for (unsigned damaged = 0; damaged < 2; damaged++) {
        memory_os *image = forge_copy(b);
        static uint8_t bytes[FORGE_SEGMENT_SIZE];
        forge_segment s = other->three;
        s.header.start_lsn = b->three.header.start_lsn + 16; /* close by */
        kv_segment_header_encode(&s.header, s.bytes);
        memcpy(bytes, s.bytes, FORGE_SEGMENT_SIZE);
        bytes[30] ^= (uint8_t)damaged;
        if (damaged) { /* its frames must not be taken for ours */
            static forge_buffer p;
            forge_segment_begin(&s, &other->identity, 3, b->three.header.start_lsn + 16, false);
            forge_record(&p, KV_RECORD_PUT, 0, 0, 0, true);
            forge_segment_add(&s, KV_FRAME_COMMITS, &p, s.lsn);
            memcpy(bytes + 4096, s.bytes + 4096, 4096);
        }
        forge_write(image, FORGE_SEGMENT_3, bytes, sizeof bytes);
        forge_examine(image, &f);
        CHECK(f.count >= 1);
        if (!damaged)
            forge_expect(&f, 0, FORGE_SEGMENT_3, 16, "another store", "8,192 bytes of the log");
        CHECK(forge_has(f.db, 0, 2) && forge_has(f.db, 101, 1));
        forge_judge(b, f.db);
        forge_examine_end(image, &f);
    }
    memory_os *image = forge_copy(b);
    forge_write(image, FORGE_SEGMENT_3, b->two.bytes, FORGE_SEGMENT_SIZE);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_3, 32, "this is segment 2 by its header", "of the log");
    forge_examine_end(image, &f);
    forge_destroy(b);
    forge_destroy(other);
}

static void test_missing_segments(void) {
    forge *b = forge_create();
    forge_finding f;
    memory_os *image = forge_copy(b);
    forge_remove(image, FORGE_SEGMENT_3);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_3, -1, "missing", "all that was written there");
    CHECK(forge_has(f.db, 101, 1));
    forge_examine_end(image, &f);

    image = forge_copy(b);
    forge_remove(image, FORGE_SEGMENT_2);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    char loss[64];
    snprintf(loss, sizeof loss, "up to %u bytes of the log",
             (unsigned)(b->three.header.start_lsn - b->checkpoint.header.lsn));
    forge_expect(&f, 0, FORGE_SEGMENT_2, -1, "missing", loss);
    CHECK(forge_has(f.db, 0, 3) && !forge_has(f.db, 101, 1) && forge_has(f.db, 103, 1));
    forge_examine_end(image, &f);

    image = forge_copy(b); /* both */
    forge_remove(image, FORGE_SEGMENT_2);
    forge_remove(image, FORGE_SEGMENT_3);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_2, -1, "missing", "all that was written");
    CHECK(forge_has(f.db, 0, 1));
    forge_examine_end(image, &f);

    image = forge_copy(b); /* three in the middle */
    kv_segment_header h = b->three.header;
    forge_segment six = b->three;
    h.sequence = 6;
    kv_segment_header_encode(&h, six.bytes);
    forge_write(image, "00000006.log", six.bytes, FORGE_SEGMENT_SIZE);
    forge_remove(image, FORGE_SEGMENT_3);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_3, -1, "segments 3 to 5 of the log are missing",
                 "up to 0 bytes");
    CHECK(forge_has(f.db, 0, 3) && forge_has(f.db, 101, 1));
    forge_examine_end(image, &f);

    image = forge_copy(b); /* the checkpoint, and the one that does not count */
    forge_remove(image, FORGE_CHECKPOINT);
    forge_remove(image, "00000001.ckpt");
    forge_remove(image, FORGE_SEGMENT_1);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_1, -1, "missing", "16,000 bytes of the log");
    CHECK(forge_has(f.db, 103, 1) && forge_has(f.db, 7, 0) && !forge_has(f.db, 40, 1));
    forge_examine_end(image, &f);
    forge_destroy(b);
}

static void rewrite_segment(forge_segment s, memory_os *image, const char *name) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header_encode(&s.header, bytes);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, name, 0, bytes, sizeof bytes), 0);
}

/* Headers that are whole and do not fit each other. */
static void test_seams(void) {
    forge *b = forge_create();
    static const int64_t moves[] = {-16, 16, 48, 4000, -4000, INT64_MIN, INT64_MAX};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned m = 0; m < 7; m++) {
            forge_finding f;
            memory_os *image = forge_copy(b);
            forge_segment s = i ? b->three : b->two;
            s.header.start_lsn += (uint64_t)moves[m];
            rewrite_segment(s, image, i ? FORGE_SEGMENT_3 : FORGE_SEGMENT_2);
            forge_examine(image, &f);
            CHECK(f.count >= 1);
            CHECK(forge_has(f.db, 40, 1)); /* the checkpoint is whole */
            forge_judge(b, f.db);
            forge_examine_end(image, &f);
        }
    /* A frame where the next segment has begun. */
    memory_os *image = forge_copy(b);
    static forge_buffer p;
    forge_finding f;
    forge_segment s = b->two;
    forge_record(&p, KV_RECORD_PUT, 0, 0, 0, true);
    forge_segment_add(&s, KV_FRAME_COMMITS, &p, s.lsn);
    forge_write(image, FORGE_SEGMENT_2, s.bytes, FORGE_SEGMENT_SIZE);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_2, (int64_t)b->end_frame, "behind the start of the next",
                 "bytes");
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(image, &f);
    forge_destroy(b);
}

static void test_segment_lengths(void) {
    forge *b = forge_create();
    forge_finding f;
    for (unsigned i = 0; i < 2; i++)
        for (uint64_t size = 0; size < FORGE_SEGMENT_SIZE + 100; size += size < 4090 || size > 4800 ? 61 : 1) {
            if (size == FORGE_SEGMENT_SIZE)
                continue;
            memory_os *image = forge_copy(b);
            forge_cut(image, i ? FORGE_SEGMENT_3 : FORGE_SEGMENT_2, size);
            forge_examine(image, &f);
            CHECK(f.count >= 1);
            CHECK(forge_has(f.db, 40, 1) && (i || forge_has(f.db, 103, 1)));
            if (size > FORGE_SEGMENT_SIZE || (i && size >= b->frames[F_CLOSE]))
                CHECK_EQ(forge_judge(b, f.db), 0);
            else
                forge_judge(b, f.db);
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

/* A frame whose checksum fits, with records that make no sense. */
static void test_senseless_records(void) {
    forge *b = forge_create();
    memory_os *image = forge_copy(b);
    forge_finding f;
    forge_segment s = b->three;
    static forge_buffer p;
    s.lsn = s.header.start_lsn + b->frames[F_LAST] - 4096;
    forge_record(&p, KV_RECORD_PUT, 104, 1, 0, true);
    size_t at = p.size;
    forge_record(&p, KV_RECORD_PUT, 105, 1, 0, true);
    p.bytes[at] = 9;
    forge_segment_add(&s, KV_FRAME_COMMITS, &p, s.lsn);
    forge_segment_add(&s, KV_FRAME_CLOSE, NULL, s.lsn);
    forge_write(image, FORGE_SEGMENT_3, s.bytes, FORGE_SEGMENT_SIZE);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_SEGMENT_3, (int64_t)(b->frames[F_LAST] + KV_FRAME_HEADER_SIZE + at),
                  "a record of an unknown form", "1 frame of");
    CHECK(!forge_has(f.db, 104, 1));
    CHECK_CONTAINS(f.suspects, " key-104 ");
    forge_examine_end(image, &f);
    forge_destroy(b);
}

/* A clear in the log counts, whatever stood before it. */
static void test_clear(void) {
    forge *b = forge_create();
    memory_os *image = forge_copy(b);
    forge_finding f;
    forge_segment s = b->three;
    static forge_buffer p;
    s.lsn = s.header.start_lsn + b->frames[F_LAST] - 4096;
    forge_record(&p, KV_RECORD_PUT, 104, 1, 0, true);
    forge_record(&p, KV_RECORD_CLEAR, 0, 0, 0, true);
    forge_record(&p, KV_RECORD_PUT, 105, 1, 0, true);
    forge_segment_add(&s, KV_FRAME_COMMITS, &p, s.lsn);
    forge_segment_add(&s, KV_FRAME_CLOSE, NULL, s.lsn);
    forge_write(image, FORGE_SEGMENT_3, s.bytes, FORGE_SEGMENT_SIZE);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 0);
    CHECK_EQ(f.summary.items, 1);
    CHECK(forge_has(f.db, 105, 1));
    forge_examine_end(image, &f);
    forge_destroy(b);
}

CHECK_MAIN(TEST(test_frames), TEST(test_torn_tails), TEST(test_segment_headers),
           TEST(test_foreign_segments), TEST(test_missing_segments), TEST(test_seams),
           TEST(test_segment_lengths), TEST(test_senseless_records), TEST(test_clear))
