/* test_segment.c - names, sizes and beginnings of the log's files. */
#include "check.h"

#include <errno.h>

#include "engine/segment.h"
#include "fault_os.h"
#include "memory_os.h"

typedef struct place {
    memory_os *memory;
    fault_os *faults;
    kv_dir dir;
    kv_error err;
} place;

static place *place_make(void) {
    place *p = calloc(1, sizeof *p);
    p->memory = memory_os_create(1);
    p->faults = fault_os_create(memory_os_table(p->memory));
    CHECK_OK(kv_dir_open(&p->dir, fault_os_table(p->faults), "d", true, &p->err), &p->err);
    return p;
}

static void place_end(place *p) {
    kv_dir_close(&p->dir);
    CHECK_EQ(memory_os_open_count(p->memory), 0);
    fault_os_destroy(p->faults);
    memory_os_destroy(p->memory);
    free(p);
}

static const uint8_t store_id[16] = "this very store";

static kv_segment_header header_of(uint64_t sequence, uint64_t size) {
    kv_segment_header h = {.sequence = sequence, .start_lsn = 100, .salt = 7, .file_size = size};
    memcpy(h.store_id, store_id, sizeof store_id);
    return h;
}

static void test_names(void) {
    static const struct {
        uint64_t sequence;
        const char *name;
    } good[] = {{1, "00000001.log"},
                {12345678, "12345678.log"},
                {123456789, "123456789.log"},
                {UINT64_MAX, "18446744073709551615.log"}};
    static const char *const bad[] = {"", "1.log", "00000000.log", "0000001.log", "000000001.log",
                                      "00000001.log~", "00000001", "-0000001.log", " 0000001.log",
                                      "+0000001.log", "0000000a.log", "00000001.LOG", "spare.log",
                                      "18446744073709551616.log", "99999999999999999999999.log"};
    char name[64];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        kv_segment_name(good[i].sequence, name);
        CHECK_STR(name, good[i].name);
        CHECK_EQ(kv_segment_sequence(name), good[i].sequence);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (kv_segment_sequence(bad[i]) != 0)
            FAIL("%s is taken for a segment", bad[i]);
}

/* There is always room for the frame and the end frame. */
static void test_sizes(void) {
    CHECK_EQ(kv_segment_size_for(0, 0), 8192);
    CHECK_EQ(kv_segment_size_for(0, 100000), 100000);
    CHECK_EQ(kv_segment_size_for(4096 - 48, 0), 8192);
    CHECK_EQ(kv_segment_size_for(4096 - 47, 0), 12288);
    for (uint64_t frame = 48; frame < 20000; frame += 16) {
        uint64_t size = kv_segment_size_for(frame, 8192);
        CHECK(size >= KV_SEGMENT_HEADER_SIZE + frame + KV_FRAME_HEADER_SIZE);
        CHECK(size < KV_SEGMENT_HEADER_SIZE + frame + KV_FRAME_HEADER_SIZE + 4096 || size == 8192);
    }
    CHECK(kv_segment_size_for(UINT64_C(1) << 31, 8192) > UINT64_C(1) << 31);
}

static void test_from_spare_to_segment(void) {
    for (int written = 0; written < 2; written++) {
        place *p = place_make();
        kv_file spare;
        kv_segment segment, again;
        kv_segment_header header = header_of(3, 20480);
        CHECK_OK(kv_segment_prepare(&spare, &p->dir, 20480, written, &p->err), &p->err);
        CHECK_EQ(memory_os_size(p->memory, "d", "spare.log"), 20480);
        CHECK_OK(kv_segment_begin(&segment, &spare, &header, &p->err), &p->err);
        CHECK_EQ(memory_os_size(p->memory, "d", "00000003.log"), -ENOENT);
        CHECK_OK(kv_segment_publish(&segment, &p->err), &p->err);
        CHECK_EQ(spare.fd, -1);
        CHECK_STR(segment.file.name, "00000003.log");
        CHECK_EQ(memory_os_size(p->memory, "d", "spare.log"), -ENOENT);
        CHECK_EQ(memory_os_change_count(p->memory), 0); /* all of it is on disk */
        uint8_t bytes[20480 - KV_SEGMENT_HEADER_SIZE];
        CHECK_EQ(memory_os_peek(p->memory, "d", "00000003.log", KV_SEGMENT_HEADER_SIZE, bytes,
                                sizeof bytes),
                 0);
        for (size_t i = 0; i < sizeof bytes; i++)
            CHECK_EQ(bytes[i], 0);
        kv_file_close(&segment.file);
        CHECK_OK(kv_segment_open(&again, &p->dir, 3, store_id, false, &p->err), &p->err);
        CHECK_EQ(again.header.salt, 7);
        CHECK_EQ(kv_segment_offset(&again, 100), KV_SEGMENT_HEADER_SIZE);
        CHECK_EQ(kv_segment_offset(&again, 148), KV_SEGMENT_HEADER_SIZE + 48);
        kv_file_close(&again.file);
        place_end(p);
    }
}

/* Whatever goes wrong while a spare is made, there is none afterwards; and a begin that fails gives no segment: only
 * publishing can leave its name, or not. */
static void test_failures(void) {
    for (int written = 0; written < 2; written++)
        for (uint64_t nth = 1;; nth++) {
            place *p = place_make();
            kv_file spare;
            kv_segment segment;
            kv_segment_header header = header_of(1, 8192);
            fault_os_fail(p->faults, FAULT_ANY, nth, ENOSPC, 0);
            kv_status status = kv_segment_prepare(&spare, &p->dir, 8192, written, &p->err);
            bool prepared = status == KV_OK;
            if (prepared)
                status = kv_segment_begin(&segment, &spare, &header, &p->err);
            else
                CHECK_EQ(memory_os_size(p->memory, "d", "spare.log"), -ENOENT);
            bool begun = status == KV_OK;
            CHECK_EQ(spare.fd, -1);
            CHECK_EQ(memory_os_size(p->memory, "d", "00000001.log"), -ENOENT);
            if (begun)
                status = kv_segment_publish(&segment, &p->err);
            bool undisturbed = fault_os_failures(p->faults) == 0;
            if (status == KV_OK) {
                kv_file_close(&segment.file);
            } else {
                /* A sync before it has its name is one of a file that nobody needs; that of the directory is final. */
                CHECK(status == KV_ERR_NOSPACE || (begun && status == KV_ERR_IO));
                CHECK_EQ(p->err.status, status);
            }
            place_end(p);
            if (undisturbed)
                break;
        }
}

static void test_opening(void) {
    static const struct {
        uint64_t sequence;
        uint8_t id;
        uint64_t size;
        const char *message;
    } cases[] = {
        {1, 't', 8192, NULL},
        {2, 't', 8192, "segment 2"},
        {1, 'x', 8192, "another store"},
        {1, 't', 8193, "8192 bytes, not 8193"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        place *p = place_make();
        kv_file spare;
        kv_segment segment;
        kv_segment_header header = header_of(1, 8192);
        uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
        CHECK_OK(kv_segment_prepare(&spare, &p->dir, 8192, true, &p->err), &p->err);
        CHECK_OK(kv_segment_begin(&segment, &spare, &header, &p->err), &p->err);
        CHECK_OK(kv_segment_publish(&segment, &p->err), &p->err);
        kv_file_close(&segment.file);
        header.sequence = cases[i].sequence;
        header.store_id[0] = cases[i].id;
        header.file_size = cases[i].size;
        kv_segment_header_encode(&header, bytes);
        CHECK_EQ(memory_os_poke(p->memory, "d", "00000001.log", 0, bytes, sizeof bytes), 0);
        kv_status status = kv_segment_open(&segment, &p->dir, 1, store_id, true, &p->err);
        CHECK_STATUS(status, cases[i].message == NULL ? KV_OK : KV_ERR_CORRUPT, &p->err);
        if (status < 0) {
            CHECK_CONTAINS(p->err.message, cases[i].message);
            CHECK_STR(p->err.path, "d/00000001.log");
            CHECK_EQ(segment.file.fd, -1);
        } else {
            kv_file_close(&segment.file);
        }
        CHECK_STATUS(kv_segment_open(&segment, &p->dir, 2, store_id, true, &p->err), KV_ERR_CORRUPT,
                     &p->err);
        CHECK_STR(p->err.path, "d/00000002.log");
        place_end(p);
    }
}

CHECK_MAIN(TEST(test_names), TEST(test_sizes), TEST(test_from_spare_to_segment), TEST(test_failures),
           TEST(test_opening))
