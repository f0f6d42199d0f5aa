/* fuzz_log.c - frames and records of any bytes: decoded one by one, and as the log of a store that is opened.
 *
 * The input's first byte says which checksums are made to fit (image.h); then comes a segment, of its header the
 * bytes that say something and behind them the frames.
 */
#include "image.h"

enum { SUMS = 1, PLACES = 2, HEADER = 68, FRAMES_MAX = 12288 };

static const kv_identity identity = {.store_id = "one store's id", .hash_key = {1, 2}};

/* What can be decoded is encoded as the same bytes. */
static void decode_alone(const uint8_t *data, size_t size) {
    uint8_t *bytes = fuzz_copy(data, size), back[KV_FRAME_HEADER_SIZE];
    kv_frame_header h;
    if (size >= KV_FRAME_HEADER_SIZE && kv_frame_header_decode(&h, bytes)) {
        kv_frame_header_encode(&h, back);
        DEMAND(memcmp(back, bytes, sizeof back) == 0);
    }
    for (size_t at = 0; at < size;) {
        kv_record record;
        size_t used = kv_record_decode(&record, bytes + at, size - at);
        if (used == 0)
            break;
        DEMAND(used <= size - at);
        DEMAND(used == kv_record_size(record.key.size, record.value.size, record.expiry));
        uint8_t *again = fuzz_copy(NULL, used);
        DEMAND(kv_record_encode(&record, again) == again + used);
        DEMAND(memcmp(again, bytes + at, used) == 0);
        free(again);
        at += used;
    }
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t store[KV_STORE_FILE_SIZE];
    if (size < 1 + HEADER || size > 1 + HEADER + FRAMES_MAX)
        return 0;
    decode_alone(data + 1 + HEADER, size - 1 - HEADER);

    size_t file_size = KV_SEGMENT_HEADER_SIZE + size - 1 - HEADER;
    uint8_t *file = fuzz_copy(NULL, file_size);
    memset(file, 0, KV_SEGMENT_HEADER_SIZE);
    memcpy(file, data + 1, HEADER);
    memcpy(file + KV_SEGMENT_HEADER_SIZE, data + 1 + HEADER, size - 1 - HEADER);
    if (data[0] & PLACES) {
        memcpy(file + 16, identity.store_id, 16);
        kv_store64(file + 32, 1);
        kv_store64(file + 40, 0);
    }
    if (data[0] & SUMS)
        sum_segment(file, file_size, (data[0] & PLACES) != 0);

    memory_os *image = memory_os_create(1);
    kv_identity_encode(&identity, store);
    image_write(image, "STORE", store, sizeof store);
    image_write(image, "00000001.log", file, file_size);
    free(file);
    judge(image, NULL);
    return 0;
}
