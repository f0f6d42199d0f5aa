/* test_format.c - bytes on disk: golden ones, made by another program from FORMAT.md; and damaged ones. */
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

/* ---- STORE ---------------------------------------------------------------------------------------- */

static const char identity_hex[] =
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
    CHECK_OK(kv_identity_decode(&got, golden, sizeof bytes, "STORE", &err), &err);
    CHECK_MEM(got.store_id, identity.store_id, 16);
    CHECK_EQ(got.hash_key.k0, identity.hash_key.k0);
    CHECK_EQ(got.hash_key.k1, identity.hash_key.k1);

    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(kv_identity_decode(&got, bytes, sizeof bytes, "STORE", &err), KV_ERR_CORRUPT,
                     &err);
        CHECK_STR(err.path, "STORE");
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t size = 0; size < sizeof bytes; size++)
        CHECK_STATUS(kv_identity_decode(&got, bytes, size, "STORE", &err), KV_ERR_CORRUPT, &err);
    CHECK_STATUS(kv_identity_decode(&got, golden, sizeof golden, "STORE", &err), KV_ERR_CORRUPT,
                 &err);
}

/* Another version is named when the rest is whole; otherwise it is damage. */
static void test_version(void) {
    uint8_t bytes[KV_SEGMENT_HEADER_SIZE] = {0};
    kv_identity identity;
    kv_error err;
    from_hex(identity_hex, bytes);
    kv_store32(bytes + 8, 2);
    CHECK_STATUS(kv_identity_decode(&identity, bytes, KV_STORE_FILE_SIZE, "p", &err),
                 KV_ERR_CORRUPT, &err);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
    CHECK_STATUS(kv_identity_decode(&identity, bytes, KV_STORE_FILE_SIZE, "p", &err),
                 KV_ERR_VERSION, &err);
    CHECK_EQ(err.status, KV_ERR_VERSION);
    CHECK_STR(err.path, "p");
    CHECK_EQ(err.offset, 8);
    CHECK_CONTAINS(err.message, "version 2");
    CHECK_CONTAINS(err.message, "version 1");
}

/* ---- Segments --------------------------------------------------------------------------------------- */

static const char segment_hex[] =
    "50594b564c4f470a0100000000000000101112131415161718191a1b1c1d1e1f0300000000000000"
    "89674523010000001032547698badcfe000010000000000082365253";

static void test_segment_header(void) {
    kv_segment_header header = {.sequence = 3, .start_lsn = 0x123456789,
                                .salt = 0xfedcba9876543210, .file_size = 1 << 20},
                      got;
    static uint8_t bytes[KV_SEGMENT_HEADER_SIZE], golden[KV_SEGMENT_HEADER_SIZE];
    kv_error err;
    store_id_fill(header.store_id);
    memset(bytes, 'x', sizeof bytes);
    kv_segment_header_encode(&header, bytes);
    CHECK_EQ(from_hex(segment_hex, golden), 68);
    CHECK_MEM(bytes, golden, sizeof bytes); /* the rest is zeros */
    CHECK_OK(kv_segment_header_decode(&got, bytes, sizeof bytes, "s", &err), &err);
    CHECK_MEM(got.store_id, header.store_id, 16);
    CHECK_EQ(got.sequence, header.sequence);
    CHECK_EQ(got.start_lsn, header.start_lsn);
    CHECK_EQ(got.salt, header.salt);
    CHECK_EQ(got.file_size, header.file_size);
    for (unsigned bit = 0; bit < 68 * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK_STATUS(kv_segment_header_decode(&got, bytes, sizeof bytes, "s", &err),
                     KV_ERR_CORRUPT, &err);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_STATUS(kv_segment_header_decode(&got, bytes, sizeof bytes - 1, "s", &err),
                 KV_ERR_CORRUPT, &err);
    CHECK_EQ(err.offset, sizeof bytes - 1);
}

/* ---- Frames and records -------------------------------------------------------------------------------- */

static const char frame_hex[] = "504b5646210000000005000000000000f0040000000000001032547698badcfe"
                                "0100000002000000dbefe67ca8ae19fc";
static const char payload_hex[] =
    "01000300050000006b657976616c756502010100000000006b0301000000000000";

static const kv_record golden_records[] = {
    {KV_RECORD_PUT, false, {"key", 3}, {"value", 5}},
    {KV_RECORD_DELETE, true, {"k", 1}, {NULL, 0}},
    {KV_RECORD_CLEAR, true, {NULL, 0}, {NULL, 0}},
};

static void test_frame_header(void) {
    kv_frame_header header = {.lsn = 0x500, .durable_lsn = 0x4f0, .salt = 0xfedcba9876543210,
                              .kind = KV_FRAME_COMMITS, .commits = 2},
                    got;
    uint8_t bytes[KV_FRAME_HEADER_SIZE], golden[KV_FRAME_HEADER_SIZE], payload[64];
    header.payload_size = (uint32_t)from_hex(payload_hex, payload);
    header.payload_crc = kv_crc32c(0, payload, header.payload_size);
    kv_frame_header_encode(&header, bytes);
    from_hex(frame_hex, golden);
    CHECK_MEM(bytes, golden, sizeof bytes);
    CHECK(kv_frame_header_decode(&got, bytes));
    CHECK_EQ(got.payload_size, 33);
    CHECK_EQ(got.lsn, header.lsn);
    CHECK_EQ(got.durable_lsn, header.durable_lsn);
    CHECK_EQ(got.salt, header.salt);
    CHECK_EQ(got.kind, header.kind);
    CHECK_EQ(got.commits, 2);
    CHECK_EQ(got.payload_crc, header.payload_crc);
    for (unsigned bit = 0; bit < sizeof bytes * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(!kv_frame_header_decode(&got, bytes));
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (unsigned kind = 0; kind < 7; kind++) { /* whole, but of a kind that there is not */
        header.kind = (kv_frame_kind)kind;
        kv_frame_header_encode(&header, bytes);
        CHECK_EQ(kv_frame_header_decode(&got, bytes), kind >= 1 && kind <= 4);
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

static void test_records(void) {
    uint8_t bytes[64], golden[64], *end = bytes;
    size_t size = from_hex(payload_hex, golden), at = 0;
    for (size_t i = 0; i < 3; i++)
        end = kv_record_encode(&golden_records[i], end);
    CHECK_EQ(end - bytes, size);
    CHECK_MEM(bytes, golden, size);
    for (size_t i = 0; i < 3; i++) {
        kv_record got = {0};
        size_t wanted = (size_t)kv_record_size(golden_records[i].key.size,
                                               golden_records[i].value.size);
        for (size_t left = 0; left < wanted; left++)
            CHECK_EQ(kv_record_decode(&got, golden + at, left), 0);
        CHECK_EQ(kv_record_decode(&got, golden + at, size - at), wanted);
        CHECK_EQ(got.kind, golden_records[i].kind);
        CHECK_EQ(got.last, golden_records[i].last);
        CHECK(same_bytes(got.key, golden_records[i].key));
        CHECK(same_bytes(got.value, golden_records[i].value));
        at += wanted;
    }
    CHECK_EQ(at, size);
}

/* The head of a record, and whether it can be one (with as many bytes behind as it wants, up to 100). */
static void test_heads_of_records(void) {
    static const struct {
        uint8_t kind, flags;
        uint16_t key_size;
        uint32_t value_size;
        bool valid;
    } cases[] = {
        {1, 0, 0, 0, true},      {1, 1, 20, 80, true},  {1, 1, 20, 81, false},
        {1, 0, 101, 0, false},   {1, 2, 1, 1, false},   {1, 255, 1, 1, false},
        {0, 0, 1, 1, false},     {2, 0, 1, 0, true},    {2, 0, 100, 0, true},
        {2, 0, 1, 1, false},     {3, 1, 0, 0, true},    {3, 1, 1, 0, false},
        {3, 1, 0, 1, false},     {4, 0, 0, 0, false},   {255, 0, 0, 0, false},
        {1, 0, 65535, 0, false}, {1, 0, 0, UINT32_MAX, false},
        {1, 0, 65535, UINT32_MAX - 7, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[108] = {cases[i].kind, cases[i].flags};
        kv_record got;
        kv_store16(bytes + 2, cases[i].key_size);
        kv_store32(bytes + 4, cases[i].value_size);
        size_t size = kv_record_decode(&got, bytes, sizeof bytes);
        if ((size != 0) != cases[i].valid)
            FAIL("case %zu is %s", i, size != 0 ? "taken" : "refused");
    }
}

CHECK_MAIN(TEST(test_identity), TEST(test_version), TEST(test_segment_header),
           TEST(test_frame_header), TEST(test_frame_size), TEST(test_records),
           TEST(test_heads_of_records))
