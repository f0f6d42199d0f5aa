/* test_format.c - bytes on disk: golden ones, made by another program (tests/test_format.py) from FORMAT.md; and
 * damaged ones.  What this version writes is encoded and decoded; of version 1, what differs is decoded only. */
#include "check.h"

#include "base/crc32c.h"
#include "engine/format.h"

static size_t from_hex(const char *hex, uint8_t *bytes) {
    size_t size = strlen(hex) / 2;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        CHECK_EQ(sscanf(hex + 2 * i, "%2x", &byte), 1);
        bytes[i] = (uint8_t)byte;
    }
    return size;
}

static void store_id_fill(uint8_t id[16]) {
    for (int i = 0; i < 16; i++)
        id[i] = (uint8_t)(0x10 + i);
}

static void flip(uint8_t *bytes, unsigned bit) {
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* ---- STORE ---------------------------------------------------------------------------------------- */

static const char identity_hex[] =
    "50594b5653544f520200000000000000101112131415161718191a1b1c1d1e1f0807060504030201"
    "18171615141312110000000000000000000000005307d047";
static const char identity_1_hex[] =
    "50594b5653544f520100000000000000101112131415161718191a1b1c1d1e1f0807060504030201"
    "18171615141312110000000000000000000000005c6c8fae";

static void test_identity(void) {
    kv_identity identity = {.hash_key = {0x0102030405060708, 0x1112131415161718}}, got;
    uint8_t bytes[KV_STORE_FILE_SIZE], golden[KV_STORE_FILE_SIZE + 1] = {0};
    kv_error err;
    store_id_fill(identity.store_id);
    kv_identity_encode(&identity, bytes);
    CHECK_EQ(from_hex(identity_hex, golden), sizeof bytes);
    CHECK_MEM(bytes, golden, sizeof bytes);
    for (int version = 1; version <= 2; version++) {
        from_hex(version == 1 ? identity_1_hex : identity_hex, bytes);
        got = (kv_identity){0};
        CHECK_OK(kv_identity_decode(&got, bytes, sizeof bytes, "STORE", &err), &err);
        CHECK_MEM(got.store_id, identity.store_id, 16);
        CHECK_EQ(got.hash_key.k0, identity.hash_key.k0);
        CHECK_EQ(got.hash_key.k1, identity.hash_key.k1);
        for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
            flip(bytes, bit);
            CHECK_STATUS(kv_identity_decode(&got, bytes, sizeof bytes, "STORE", &err),
                         KV_ERR_CORRUPT, &err);
            CHECK_STR(err.path, "STORE");
            flip(bytes, bit);
        }
    }
    for (size_t size = 0; size < sizeof bytes; size++)
        CHECK_STATUS(kv_identity_decode(&got, bytes, size, "STORE", &err), KV_ERR_CORRUPT, &err);
    CHECK_STATUS(kv_identity_decode(&got, golden, sizeof golden, "STORE", &err), KV_ERR_CORRUPT,
                 &err);
}

/* ---- Segments --------------------------------------------------------------------------------------- */

static const char segment_hex[] =
    "50594b564c4f470a0200000001000000101112131415161718191a1b1c1d1e1f0300000000000000"
    "89674523010000001032547698badcfe0000100000000000d1d20f50";
static const char segment_1_hex[] =
    "50594b564c4f470a0100000000000000101112131415161718191a1b1c1d1e1f0300000000000000"
    "89674523010000001032547698badcfe000010000000000082365253";

static const kv_segment_header golden_segment = {.sequence = 3, .start_lsn = 0x123456789,
                                                 .salt = 0xfedcba9876543210,
                                                 .file_size = 1 << 20};

static void check_segment_header(uint8_t *bytes, uint32_t version, bool recycled) {
    kv_segment_header got = {0};
    uint8_t id[16];
    kv_error err;
    store_id_fill(id);
    CHECK_OK(kv_segment_header_decode(&got, bytes, KV_SEGMENT_HEADER_SIZE, "s", &err), &err);
    CHECK_MEM(got.store_id, id, 16);
    CHECK_EQ(got.sequence, golden_segment.sequence);
    CHECK_EQ(got.start_lsn, golden_segment.start_lsn);
    CHECK_EQ(got.salt, golden_segment.salt);
    CHECK_EQ(got.file_size, golden_segment.file_size);
    CHECK_EQ(got.version, version);
    CHECK_EQ(got.recycled, recycled);
    for (unsigned bit = 0; bit < 68 * 8; bit++) {
        flip(bytes, bit);
        CHECK_STATUS(kv_segment_header_decode(&got, bytes, KV_SEGMENT_HEADER_SIZE, "s", &err),
                     KV_ERR_CORRUPT, &err);
        flip(bytes, bit);
    }
    CHECK_STATUS(kv_segment_header_decode(&got, bytes, KV_SEGMENT_HEADER_SIZE - 1, "s", &err),
                 KV_ERR_CORRUPT, &err);
    CHECK_EQ(err.offset, KV_SEGMENT_HEADER_SIZE - 1);
}

static void test_segment_header(void) {
    static uint8_t bytes[KV_SEGMENT_HEADER_SIZE], golden[KV_SEGMENT_HEADER_SIZE];
    kv_segment_header header = golden_segment;
    header.version = 1; /* whatever it was read as: this version is written */
    header.recycled = true;
    store_id_fill(header.store_id);
    memset(bytes, 'x', sizeof bytes);
    kv_segment_header_encode(&header, bytes);
    CHECK_EQ(from_hex(segment_hex, golden), 68);
    CHECK_MEM(bytes, golden, sizeof bytes); /* the rest is zeros */
    check_segment_header(bytes, 2, true);
    header.recycled = false;
    kv_segment_header_encode(&header, bytes);
    check_segment_header(bytes, 2, false);
    from_hex(segment_1_hex, bytes);
    check_segment_header(bytes, 1, false);
}

/* Whole, but of numbers that no log has. */
static void test_numbers_of_segments(void) {
    static uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
    static const struct {
        uint64_t start_lsn, file_size;
        int64_t bad; /* offset; 0: good */
    } cases[] = {{INT64_MAX, 4096 + 48, 0},        {UINT64_C(1) << 63, 1 << 20, 40},
                 {UINT64_MAX - 15, 1 << 20, 40},   {0, 4096 + 47, 56},
                 {0, 0, 56}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        kv_segment_header header = golden_segment, got;
        kv_error err;
        header.start_lsn = cases[i].start_lsn;
        header.file_size = cases[i].file_size;
        kv_segment_header_encode(&header, bytes);
        CHECK_STATUS(kv_segment_header_decode(&got, bytes, sizeof bytes, "s", &err),
                     cases[i].bad ? KV_ERR_CORRUPT : KV_OK, &err);
        if (cases[i].bad)
            CHECK_EQ(err.offset, cases[i].bad);
    }
}

/* ---- Frames and records -------------------------------------------------------------------------------- */

static const char frame_hex[] = "504b5646620000000005000000000000f0040000000000001032547698badcfe"
                                "0100000004000000130469f76143e7d1";
static const char payload_hex[] =
    "01000300050000006b657976616c756502010100000000006b030100000000000001020400040000"
    "00736f6f6e676f6e6500d8c32cbb03000004020100000000006b0100000000000000040100000000"
    "000001030000000000000000000000000100";
/* A frame of version 1 is one of version 2. */
static const char frame_1_hex[] = "504b5646210000000005000000000000f0040000000000001032547698badcfe"
                                  "0100000002000000dbefe67ca8ae19fc";
static const char payload_1_hex[] =
    "01000300050000006b657976616c756502010100000000006b0301000000000000";

#define YEAR_2100 UINT64_C(4102444800000)

static const kv_record golden_records[] = {
    {KV_RECORD_PUT, false, {"key", 3}, {"value", 5}, 0},
    {KV_RECORD_DELETE, true, {"k", 1}, {NULL, 0}, 0},
    {KV_RECORD_CLEAR, true, {NULL, 0}, {NULL, 0}, 0},
    /* Up to here also in version 1. */
    {KV_RECORD_PUT, false, {"soon", 4}, {"gone", 4}, YEAR_2100},
    {KV_RECORD_EXPIRE, false, {"k", 1}, {NULL, 0}, 1},
    {KV_RECORD_EXPIRE, true, {NULL, 0}, {NULL, 0}, 0},
    {KV_RECORD_PUT, true, {NULL, 0}, {NULL, 0}, KV_EXPIRY_MAX},
};
enum { GOLDEN_RECORDS = sizeof golden_records / sizeof golden_records[0], GOLDEN_RECORDS_1 = 3 };

static void check_frame(const char *head_hex, const char *records_hex, uint32_t commits) {
    kv_frame_header header = {.lsn = 0x500, .durable_lsn = 0x4f0, .salt = 0xfedcba9876543210,
                              .kind = KV_FRAME_COMMITS, .commits = commits},
                    got;
    uint8_t bytes[KV_FRAME_HEADER_SIZE], golden[KV_FRAME_HEADER_SIZE], payload[128];
    header.payload_size = (uint32_t)from_hex(records_hex, payload);
    header.payload_crc = kv_crc32c(0, payload, header.payload_size);
    kv_frame_header_encode(&header, bytes);
    from_hex(head_hex, golden);
    CHECK_MEM(bytes, golden, sizeof bytes);
    CHECK(kv_frame_header_decode(&got, bytes));
    CHECK_EQ(got.payload_size, strlen(records_hex) / 2);
    CHECK_EQ(got.lsn, header.lsn);
    CHECK_EQ(got.durable_lsn, header.durable_lsn);
    CHECK_EQ(got.salt, header.salt);
    CHECK_EQ(got.kind, header.kind);
    CHECK_EQ(got.commits, commits);
    CHECK_EQ(got.payload_crc, header.payload_crc);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        flip(bytes, bit);
        CHECK(!kv_frame_header_decode(&got, bytes));
        flip(bytes, bit);
    }
    for (unsigned bit = 0; bit < header.payload_size * 8; bit++) {
        flip(payload, bit);
        CHECK(kv_crc32c(0, payload, header.payload_size) != header.payload_crc);
        flip(payload, bit);
    }
}

static void test_frame_header(void) {
    check_frame(frame_hex, payload_hex, 4);
    check_frame(frame_1_hex, payload_1_hex, 2);
    kv_frame_header header = {.lsn = 0x500}, got;
    uint8_t bytes[KV_FRAME_HEADER_SIZE];
    for (unsigned kind = 0; kind < 7; kind++) { /* whole, but of a kind that there is not */
        header.kind = (kv_frame_kind)kind;
        kv_frame_header_encode(&header, bytes);
        CHECK_EQ(kv_frame_header_decode(&got, bytes), kind >= 1 && kind <= 4);
        header.payload_size = 1; /* only commits have one */
        kv_frame_header_encode(&header, bytes);
        CHECK_EQ(kv_frame_header_decode(&got, bytes), kind == KV_FRAME_COMMITS);
        header.payload_size = 0;
    }
    memset(bytes, 0, sizeof bytes);
    CHECK(!kv_frame_header_decode(&got, bytes));
}

static void test_frame_size(void) {
    CHECK_EQ(kv_frame_size(0), 48);
    CHECK_EQ(kv_frame_size(1), 64);
    CHECK_EQ(kv_frame_size(16), 64);
    CHECK_EQ(kv_frame_size(17), 80);
    CHECK_EQ(kv_frame_size(UINT32_MAX), UINT64_C(0x100000030));
}

static bool same_bytes(kv_bytes a, kv_bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static void check_record(const kv_record *got, const kv_record *wanted) {
    CHECK_EQ(got->kind, wanted->kind);
    CHECK_EQ(got->last, wanted->last);
    CHECK(same_bytes(got->key, wanted->key));
    CHECK(same_bytes(got->value, wanted->value));
    CHECK_EQ(got->expiry, wanted->expiry);
}

static size_t size_of(const kv_record *r) {
    return (size_t)kv_record_size(r->key.size, r->value.size, r->expiry);
}

static void check_records(const char *hex, size_t count) {
    uint8_t bytes[128], golden[128], *end = bytes;
    size_t size = from_hex(hex, golden), at = 0;
    for (size_t i = 0; i < count; i++)
        end = kv_record_encode(&golden_records[i], end);
    CHECK_EQ(end - bytes, size);
    CHECK_MEM(bytes, golden, size);
    for (size_t i = 0; i < count; i++) {
        kv_record got = {0};
        size_t wanted = size_of(&golden_records[i]);
        for (size_t left = 0; left < wanted; left++)
            CHECK_EQ(kv_record_decode(&got, golden + at, left), 0);
        CHECK_EQ(kv_record_decode(&got, golden + at, size - at), wanted);
        check_record(&got, &golden_records[i]);
        at += wanted;
    }
    CHECK_EQ(at, size);
}

static void test_records(void) {
    check_records(payload_hex, GOLDEN_RECORDS);
    check_records(payload_1_hex, GOLDEN_RECORDS_1);
}

/* The head of a record, and whether it can be one (with as many bytes behind as it wants, up to 100). */
static void test_heads_of_records(void) {
    static const struct {
        uint8_t kind, flags;
        uint16_t key_size;
        uint32_t value_size;
        bool valid;
        uint64_t expiry; /* behind key and value */
    } cases[] = {
        {1, 0, 0, 0, true},      {1, 1, 20, 80, true},  {1, 1, 20, 81, false},
        {1, 0, 101, 0, false},   {1, 4, 1, 1, false},   {1, 255, 1, 1, false},
        {0, 0, 1, 1, false},     {2, 0, 1, 0, true},    {2, 0, 100, 0, true},
        {2, 0, 1, 1, false},     {3, 1, 0, 0, true},    {3, 1, 1, 0, false},
        {3, 1, 0, 1, false},     {4, 0, 0, 0, true},    {4, 1, 100, 0, true},
        {4, 0, 1, 1, false},     {5, 0, 1, 0, false},   {255, 0, 0, 0, false},
        {1, 0, 65535, 0, false}, {1, 0, 0, UINT32_MAX, false},
        {1, 0, 65535, UINT32_MAX - 7, false},
        /* With an expiry: eight bytes more, and not of every kind. */
        {1, 2, 0, 0, true, 1},      {1, 3, 20, 72, true, 1},    {1, 3, 20, 73, false, 1},
        {1, 2, 93, 0, false, 1},    {4, 2, 92, 0, true, 1},     {4, 3, 93, 0, false, 1},
        {4, 2, 1, 1, false, 1},     {2, 2, 1, 0, false, 1},     {3, 2, 0, 0, false, 1},
        {3, 3, 0, 0, false, 1},     {0, 2, 1, 0, false, 1},     {5, 2, 1, 0, false, 1},
        {1, 6, 1, 0, false, 1},     {1, 2, 1, 1, false, 0},     {4, 2, 1, 0, false, 0},
        {1, 2, 1, 1, true, KV_EXPIRY_MAX},      {1, 2, 1, 1, false, KV_EXPIRY_MAX + 1},
        {4, 2, 1, 0, true, KV_EXPIRY_MAX},      {4, 2, 1, 0, false, UINT64_MAX},
        {1, 2, 0, UINT32_MAX, false, 1},        {1, 2, 65535, UINT32_MAX - 15, false, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[108] = {cases[i].kind, cases[i].flags};
        uint64_t end = UINT64_C(8) + cases[i].key_size + cases[i].value_size;
        kv_record got;
        kv_store16(bytes + 2, cases[i].key_size);
        kv_store32(bytes + 4, cases[i].value_size);
        if (end + 8 <= sizeof bytes)
            kv_store64(bytes + end, cases[i].expiry);
        size_t size = kv_record_decode(&got, bytes, sizeof bytes);
        if ((size != 0) != cases[i].valid)
            FAIL("case %zu is %s", i, size != 0 ? "taken" : "refused");
        if (cases[i].valid) {
            CHECK_EQ(size, end + (cases[i].flags & 2 ? 8 : 0));
            CHECK_EQ(got.expiry, cases[i].expiry);
        }
    }
}

/* ---- Checkpoints --------------------------------------------------------------------------------------- */

static const char checkpoint_hex[] =
    "50594b56434b500a0200000000000000101112131415161718191a1b1c1d1e1f0300000000000000"
    "896745230100000000a8da769b0100000000000067d9b03b";
static const char block_hex[] =
    "504b56420500000000000000000000983900000000000000030000000200000000d8c32cbb030000"
    "a0c9627260d7719c";
static const char block_payload_hex[] =
    "0100010003000000616263640102040004000000736f6f6e676f6e6500d8c32cbb03000001020500"
    "000000006c6174657201d8c32cbb030000";
static const char footer_hex[] =
    "50594b56454e440a2000000000000000563412000000000005040302010000000b0a090807060000"
    "0e0d0c000000000098badcfe00000000000000004e85b35d";

static void test_checkpoint_header(void) {
    kv_checkpoint_header header = {.sequence = 3, .lsn = 0x123456789, .made_ms = 1767225600000},
                         got = {0};
    uint8_t bytes[KV_CHECKPOINT_HEADER_SIZE], golden[KV_CHECKPOINT_HEADER_SIZE];
    kv_error err;
    store_id_fill(header.store_id);
    memset(bytes, 'x', sizeof bytes);
    kv_checkpoint_header_encode(&header, bytes);
    CHECK_EQ(from_hex(checkpoint_hex, golden), sizeof bytes);
    CHECK_MEM(bytes, golden, sizeof bytes);
    CHECK_OK(kv_checkpoint_header_decode(&got, bytes, sizeof bytes, "c", &err), &err);
    CHECK_MEM(got.store_id, header.store_id, 16);
    CHECK_EQ(got.sequence, header.sequence);
    CHECK_EQ(got.lsn, header.lsn);
    CHECK_EQ(got.made_ms, header.made_ms);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        flip(bytes, bit);
        CHECK_STATUS(kv_checkpoint_header_decode(&got, bytes, sizeof bytes, "c", &err),
                     KV_ERR_CORRUPT, &err);
        CHECK_STR(err.path, "c");
        flip(bytes, bit);
    }
    for (size_t size = 0; size < sizeof bytes; size++) {
        CHECK_STATUS(kv_checkpoint_header_decode(&got, bytes, size, "c", &err), KV_ERR_CORRUPT,
                     &err);
        CHECK_EQ(err.offset, size);
    }
    header.lsn = UINT64_C(1) << 63; /* no log comes that far */
    kv_checkpoint_header_encode(&header, bytes);
    CHECK_STATUS(kv_checkpoint_header_decode(&got, bytes, sizeof bytes, "c", &err), KV_ERR_CORRUPT, &err);
}

static const kv_block_header golden_block = {
    .depth = 5,
    .range_start = UINT64_C(0x98) << 56,
    .payload_size = 57,
    .count = 3,
    .expiring = 2,
    .next_expiry = YEAR_2100,
    .payload_crc = 0x7262c9a0,
};

static void test_block_header(void) {
    kv_block_header got = {0};
    uint8_t bytes[KV_BLOCK_HEADER_SIZE], golden[KV_BLOCK_HEADER_SIZE];
    memset(bytes, 'x', sizeof bytes);
    kv_block_header_encode(&golden_block, bytes);
    CHECK_EQ(from_hex(block_hex, golden), sizeof bytes);
    CHECK_MEM(bytes, golden, sizeof bytes);
    CHECK(kv_block_header_decode(&got, bytes));
    CHECK_EQ(got.depth, golden_block.depth);
    CHECK_EQ(got.range_start, golden_block.range_start);
    CHECK_EQ(got.payload_size, golden_block.payload_size);
    CHECK_EQ(got.count, golden_block.count);
    CHECK_EQ(got.expiring, golden_block.expiring);
    CHECK_EQ(got.next_expiry, golden_block.next_expiry);
    CHECK_EQ(got.payload_crc, golden_block.payload_crc);
    CHECK_EQ(kv_block_data_bytes(&got), 17);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        flip(bytes, bit);
        CHECK(!kv_block_header_decode(&got, bytes));
        flip(bytes, bit);
    }
    memset(bytes, 0, sizeof bytes);
    CHECK(!kv_block_header_decode(&got, bytes));
}

/* Whole, and whether the numbers can be. */
static void test_numbers_of_blocks(void) {
    static const struct {
        kv_block_header header; /* range_start, depth, count, expiring, payload_size */
        bool valid;
    } cases[] = {
        {{0, 0, 0, 0, 0}, false},          {{0, 1, 0, 0, 0}, true},
        {{UINT64_C(1) << 63, 1, 0, 0, 0}, true},  {{UINT64_C(1) << 62, 1, 0, 0, 0}, false},
        {{1, 63, 0, 0, 0}, false},         {{2, 63, 0, 0, 0}, true},
        {{0, 64, 0, 0, 0}, false},         {{0, UINT32_MAX, 0, 0, 0}, false},
        {{0, 4, 1, 0, 8}, true},           {{0, 4, 1, 0, 7}, false},
        {{0, 4, 1, 1, 16}, true},          {{0, 4, 1, 1, 15}, false},
        {{0, 4, 1, 2, 100}, false},        {{0, 4, 0, 1, 100}, false},
        {{0, 4, UINT32_MAX, UINT32_MAX, 16 * (uint64_t)UINT32_MAX}, true},
        {{0, 4, UINT32_MAX, UINT32_MAX, 16 * (uint64_t)UINT32_MAX - 1}, false},
        {{0, 4, 0, 0, UINT64_MAX}, true}, /* it is held against the file */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[KV_BLOCK_HEADER_SIZE];
        kv_block_header got;
        kv_block_header_encode(&cases[i].header, bytes);
        if (kv_block_header_decode(&got, bytes) != cases[i].valid)
            FAIL("case %zu is %s", i, cases[i].valid ? "refused" : "taken");
    }
}

static void test_block_payload(void) {
    static const kv_record records[] = {
        {KV_RECORD_PUT, false, {"a", 1}, {"bcd", 3}, 0},
        {KV_RECORD_PUT, false, {"soon", 4}, {"gone", 4}, YEAR_2100},
        {KV_RECORD_PUT, false, {"later", 5}, {NULL, 0}, YEAR_2100 + 1},
    };
    uint8_t golden[64], bytes[64], *end = bytes;
    size_t size = from_hex(block_payload_hex, golden);
    CHECK_EQ(size, golden_block.payload_size);
    CHECK_EQ(kv_crc32c(0, golden, size), golden_block.payload_crc);
    for (size_t i = 0; i < 3; i++) {
        kv_record got;
        CHECK_EQ(kv_record_decode(&got, golden + (end - bytes), size - (size_t)(end - bytes)),
                 size_of(&records[i]));
        check_record(&got, &records[i]);
        end = kv_record_encode(&records[i], end);
    }
    CHECK_EQ(end - bytes, size);
    CHECK_MEM(bytes, golden, size);
    for (unsigned bit = 0; bit < size * 8; bit++) {
        flip(golden, bit);
        CHECK(kv_crc32c(0, golden, size) != golden_block.payload_crc);
        flip(golden, bit);
    }
}

static void test_checkpoint_footer(void) {
    kv_checkpoint_footer footer = {.block_count = 0x20, .index_offset = 0x123456,
                                   .entries = 0x0102030405, .data_bytes = 0x060708090a0b,
                                   .expiring = 0x0c0d0e, .index_crc = 0xfedcba98},
                         got = {0};
    uint8_t bytes[KV_CHECKPOINT_FOOTER_SIZE], golden[KV_CHECKPOINT_FOOTER_SIZE];
    memset(bytes, 'x', sizeof bytes);
    kv_checkpoint_footer_encode(&footer, bytes);
    CHECK_EQ(from_hex(footer_hex, golden), sizeof bytes);
    CHECK_MEM(bytes, golden, sizeof bytes);
    CHECK(kv_checkpoint_footer_decode(&got, bytes));
    CHECK_EQ(got.block_count, footer.block_count);
    CHECK_EQ(got.index_offset, footer.index_offset);
    CHECK_EQ(got.entries, footer.entries);
    CHECK_EQ(got.data_bytes, footer.data_bytes);
    CHECK_EQ(got.expiring, footer.expiring);
    CHECK_EQ(got.index_crc, footer.index_crc);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        flip(bytes, bit);
        CHECK(!kv_checkpoint_footer_decode(&got, bytes));
        flip(bytes, bit);
    }
    memset(bytes, 0, sizeof bytes);
    CHECK(!kv_checkpoint_footer_decode(&got, bytes));
}

/* ---- Other versions ------------------------------------------------------------------------------------- */

static kv_status decode_identity(const uint8_t *bytes, kv_error *err) {
    kv_identity got;
    return kv_identity_decode(&got, bytes, KV_STORE_FILE_SIZE, "p", err);
}

static kv_status decode_segment(const uint8_t *bytes, kv_error *err) {
    kv_segment_header got;
    return kv_segment_header_decode(&got, bytes, KV_SEGMENT_HEADER_SIZE, "p", err);
}

static kv_status decode_checkpoint(const uint8_t *bytes, kv_error *err) {
    kv_checkpoint_header got;
    return kv_checkpoint_header_decode(&got, bytes, KV_CHECKPOINT_HEADER_SIZE, "p", err);
}

/* Another version is named when the rest is whole; otherwise it is damage. */
static void test_version(void) {
    static const struct {
        const char *hex;
        size_t crc_at;
        kv_status (*decode)(const uint8_t *bytes, kv_error *err);
    } headers[] = {{identity_hex, 60, decode_identity},
                   {segment_hex, 64, decode_segment},
                   {checkpoint_hex, 60, decode_checkpoint}};
    static const uint32_t versions[] = {0, 3, 4, UINT32_MAX};
    for (size_t i = 0; i < 3; i++)
        for (size_t v = 0; v < 4; v++) {
            static uint8_t bytes[KV_SEGMENT_HEADER_SIZE];
            char message[80];
            kv_error err;
            from_hex(headers[i].hex, bytes);
            CHECK_OK(headers[i].decode(bytes, &err), &err);
            kv_store32(bytes + 8, versions[v]);
            CHECK_STATUS(headers[i].decode(bytes, &err), KV_ERR_CORRUPT, &err);
            kv_store32(bytes + headers[i].crc_at, kv_crc32c(0, bytes, headers[i].crc_at));
            CHECK_STATUS(headers[i].decode(bytes, &err), KV_ERR_VERSION, &err);
            CHECK_EQ(err.status, KV_ERR_VERSION);
            CHECK_STR(err.path, "p");
            CHECK_EQ(err.offset, 8);
            snprintf(message, sizeof message, "format version %u; this pykv reads versions 1 to 2",
                     versions[v]);
            CHECK_STR(err.message, message);
        }
}

CHECK_MAIN(TEST(test_identity), TEST(test_segment_header), TEST(test_numbers_of_segments),
           TEST(test_frame_header), TEST(test_frame_size), TEST(test_records), TEST(test_heads_of_records),
           TEST(test_checkpoint_header), TEST(test_block_header), TEST(test_numbers_of_blocks),
           TEST(test_block_payload), TEST(test_checkpoint_footer), TEST(test_version))
