/* fuzz_checkpoint.c - a checkpoint of any bytes: opened, each block loaded, checked, salvaged.
 *
 * The input's first byte says whether the checksums are made to fit (image.h), and whether the header says that it
 * is this store's; then comes the file.  The log begins at the LSN that it says, and has one commit.
 */
#include "image.h"

enum { SUMS = 1, PLACES = 2, FILE_MAX = 16384 };

static const kv_identity identity = {.store_id = "one store's id", .hash_key = {1, 2}};

static void write_log(memory_os *image, uint64_t start_lsn) {
    static uint8_t file[WORLD_SEGMENT_SIZE];
    kv_segment_header h = {.sequence = 1, .start_lsn = start_lsn, .salt = 3, .file_size = sizeof file};
    kv_record record = {.kind = KV_RECORD_PUT, .last = true, .key = LITERAL("key-1"), .value = LITERAL("new")};
    uint8_t *frame = file + KV_SEGMENT_HEADER_SIZE, *payload = frame + KV_FRAME_HEADER_SIZE;
    size_t size = (size_t)(kv_record_encode(&record, payload) - payload);
    kv_frame_header f = {.payload_size = (uint32_t)size,
                         .lsn = start_lsn,
                         .durable_lsn = start_lsn,
                         .salt = h.salt,
                         .kind = KV_FRAME_COMMITS,
                         .commits = 1,
                         .payload_crc = kv_crc32c(0, payload, size)};
    memcpy(h.store_id, identity.store_id, sizeof h.store_id);
    kv_segment_header_encode(&h, file);
    kv_frame_header_encode(&f, frame);
    image_write(image, "00000001.log", file, sizeof file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t store[KV_STORE_FILE_SIZE];
    if (size < 1 || size > 1 + FILE_MAX)
        return 0;
    uint8_t *file = fuzz_copy(data + 1, size - 1);
    bool has_header = size - 1 >= KV_CHECKPOINT_HEADER_SIZE;
    if ((data[0] & PLACES) && has_header) {
        memcpy(file + 16, identity.store_id, 16);
        kv_store64(file + 32, 1);
    }
    if (data[0] & SUMS)
        sum_checkpoint(file, size - 1);

    memory_os *image = memory_os_create(1);
    kv_identity_encode(&identity, store);
    image_write(image, "STORE", store, sizeof store);
    image_write(image, "00000001.ckpt", file, size - 1);
    write_log(image, has_header ? kv_load64(file + 40) : 0);
    free(file);
    judge(image, NULL);
    return 0;
}
