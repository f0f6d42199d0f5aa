/* format.c - see format.h and FORMAT.md. */
#include "format.h"

#include <inttypes.h>

#include "../base/crc32c.h"

static const char store_magic[8] = {'P', 'Y', 'K', 'V', 'S', 'T', 'O', 'R'};
static const char segment_magic[8] = {'P', 'Y', 'K', 'V', 'L', 'O', 'G', '\n'};
static const char checkpoint_magic[8] = {'P', 'Y', 'K', 'V', 'C', 'K', 'P', '\n'};
static const char footer_magic[8] = {'P', 'Y', 'K', 'V', 'E', 'N', 'D', '\n'};
#define BLOCK_MAGIC UINT32_C(0x42564b50) /* "PKVB" */
#define SEGMENT_RECYCLED 1u
#define FRAME_MAGIC UINT32_C(0x46564b50) /* "PKVF" */

/* Magic and version, which every version of the format has at these offsets. */
static kv_status check_start(const uint8_t *bytes, size_t size, size_t wanted,
                             const char magic[8], const char *path, kv_error *err) {
    if (size < wanted)
        return kv_fail_corrupt(err, path, (int64_t)size, "the file ends after %zu of %zu bytes",
                               size, wanted);
    if (memcmp(bytes, magic, 8) != 0)
        return kv_fail_corrupt(err, path, 0, "this is not the start of such a file");
    return KV_OK;
}

/* After the checksum, too.  Sums of an LSN and a file's size must not overflow. */
static kv_status check_lsn(uint64_t lsn, const char *path, kv_error *err) {
    if (lsn > INT64_MAX)
        return kv_fail_corrupt(err, path, 40, "no log comes to LSN %" PRIu64, lsn);
    return KV_OK;
}

/* After the checksum: a flipped bit is damage, not a version. */
static kv_status check_version(const uint8_t *bytes, const char *path, kv_error *err) {
    uint32_t version = kv_load32(bytes + 8);
    if (version >= 1 && version <= KV_FORMAT_VERSION)
        return KV_OK;
    kv_status status = kv_fail(err, KV_ERR_VERSION,
                               "format version %u; this pykv reads versions 1 to %u", version,
                               KV_FORMAT_VERSION);
    if (err != NULL) {
        strncpy(err->path, path, sizeof err->path - 1);
        err->offset = 8;
    }
    return status;
}

void kv_identity_encode(const kv_identity *identity, uint8_t bytes[KV_STORE_FILE_SIZE]) {
    memset(bytes, 0, KV_STORE_FILE_SIZE);
    memcpy(bytes, store_magic, 8);
    kv_store32(bytes + 8, KV_FORMAT_VERSION);
    memcpy(bytes + 16, identity->store_id, 16);
    kv_store64(bytes + 32, identity->hash_key.k0);
    kv_store64(bytes + 40, identity->hash_key.k1);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
}

kv_status kv_identity_decode(kv_identity *identity, const uint8_t *bytes, size_t size,
                             const char *path, kv_error *err) {
    kv_status status = check_start(bytes, size, KV_STORE_FILE_SIZE, store_magic, path, err);
    if (status < 0)
        return status;
    if (kv_load32(bytes + 60) != kv_crc32c(0, bytes, 60) || size != KV_STORE_FILE_SIZE)
        return kv_fail_corrupt(err, path, 0, "the checksum does not fit");
    memcpy(identity->store_id, bytes + 16, 16);
    identity->hash_key = (kv_siphash_key){kv_load64(bytes + 32), kv_load64(bytes + 40)};
    return check_version(bytes, path, err);
}

void kv_segment_header_encode(const kv_segment_header *header, uint8_t *bytes) {
    memset(bytes, 0, KV_SEGMENT_HEADER_SIZE);
    memcpy(bytes, segment_magic, 8);
    kv_store32(bytes + 8, KV_FORMAT_VERSION);
    kv_store32(bytes + 12, header->recycled ? SEGMENT_RECYCLED : 0);
    memcpy(bytes + 16, header->store_id, 16);
    kv_store64(bytes + 32, header->sequence);
    kv_store64(bytes + 40, header->start_lsn);
    kv_store64(bytes + 48, header->salt);
    kv_store64(bytes + 56, header->file_size);
    kv_store32(bytes + 64, kv_crc32c(0, bytes, 64));
}

kv_status kv_segment_header_decode(kv_segment_header *header, const uint8_t *bytes, size_t size,
                                   const char *path, kv_error *err) {
    kv_status status = check_start(bytes, size, KV_SEGMENT_HEADER_SIZE, segment_magic, path, err);
    if (status < 0)
        return status;
    if (kv_load32(bytes + 64) != kv_crc32c(0, bytes, 64))
        return kv_fail_corrupt(err, path, 0, "the checksum of the segment's header does not fit");
    header->version = kv_load32(bytes + 8);
    header->recycled = (kv_load32(bytes + 12) & SEGMENT_RECYCLED) != 0;
    memcpy(header->store_id, bytes + 16, 16);
    header->sequence = kv_load64(bytes + 32);
    header->start_lsn = kv_load64(bytes + 40);
    header->salt = kv_load64(bytes + 48);
    header->file_size = kv_load64(bytes + 56);
    status = check_version(bytes, path, err);
    if (status == KV_OK && header->file_size < KV_SEGMENT_HEADER_SIZE + KV_FRAME_HEADER_SIZE)
        return kv_fail_corrupt(err, path, 56, "a segment of %" PRIu64 " bytes holds no frame",
                               header->file_size);
    return status == KV_OK ? check_lsn(header->start_lsn, path, err) : status;
}

void kv_frame_header_encode(const kv_frame_header *header, uint8_t *bytes) {
    kv_store32(bytes, FRAME_MAGIC);
    kv_store32(bytes + 4, header->payload_size);
    kv_store64(bytes + 8, header->lsn);
    kv_store64(bytes + 16, header->durable_lsn);
    kv_store64(bytes + 24, header->salt);
    kv_store32(bytes + 32, (uint32_t)header->kind);
    kv_store32(bytes + 36, header->commits);
    kv_store32(bytes + 40, header->payload_crc);
    kv_store32(bytes + 44, kv_crc32c(0, bytes, 44));
}

bool kv_frame_header_decode(kv_frame_header *header, const uint8_t *bytes) {
    if (kv_load32(bytes) != FRAME_MAGIC || kv_load32(bytes + 44) != kv_crc32c(0, bytes, 44))
        return false;
    uint32_t kind = kv_load32(bytes + 32), payload_size = kv_load32(bytes + 4);
    if (kind < KV_FRAME_COMMITS || kind > KV_FRAME_END ||
        (kind != KV_FRAME_COMMITS && payload_size != 0))
        return false;
    *header = (kv_frame_header){
        .payload_size = payload_size,
        .lsn = kv_load64(bytes + 8),
        .durable_lsn = kv_load64(bytes + 16),
        .salt = kv_load64(bytes + 24),
        .kind = (kv_frame_kind)kind,
        .commits = kv_load32(bytes + 36),
        .payload_crc = kv_load32(bytes + 40),
    };
    return true;
}

/* ---- Checkpoints ----------------------------------------------------------------------------- */

void kv_checkpoint_header_encode(const kv_checkpoint_header *header, uint8_t *bytes) {
    memset(bytes, 0, KV_CHECKPOINT_HEADER_SIZE);
    memcpy(bytes, checkpoint_magic, 8);
    kv_store32(bytes + 8, KV_FORMAT_VERSION);
    memcpy(bytes + 16, header->store_id, 16);
    kv_store64(bytes + 32, header->sequence);
    kv_store64(bytes + 40, header->lsn);
    kv_store64(bytes + 48, header->made_ms);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
}

kv_status kv_checkpoint_header_decode(kv_checkpoint_header *header, const uint8_t *bytes,
                                      size_t size, const char *path, kv_error *err) {
    kv_status status =
        check_start(bytes, size, KV_CHECKPOINT_HEADER_SIZE, checkpoint_magic, path, err);
    if (status < 0)
        return status;
    if (kv_load32(bytes + 60) != kv_crc32c(0, bytes, 60))
        return kv_fail_corrupt(err, path, 0, "the checksum of the checkpoint's header does not fit");
    memcpy(header->store_id, bytes + 16, 16);
    header->sequence = kv_load64(bytes + 32);
    header->lsn = kv_load64(bytes + 40);
    header->made_ms = kv_load64(bytes + 48);
    status = check_version(bytes, path, err);
    return status == KV_OK ? check_lsn(header->lsn, path, err) : status;
}

void kv_block_header_encode(const kv_block_header *header, uint8_t *bytes) {
    kv_store32(bytes, BLOCK_MAGIC);
    kv_store32(bytes + 4, header->depth);
    kv_store64(bytes + 8, header->range_start);
    kv_store64(bytes + 16, header->payload_size);
    kv_store32(bytes + 24, header->count);
    kv_store32(bytes + 28, header->expiring);
    kv_store64(bytes + 32, header->next_expiry);
    kv_store32(bytes + 40, header->payload_crc);
    kv_store32(bytes + 44, kv_crc32c(0, bytes, 44));
}

bool kv_block_header_decode(kv_block_header *header, const uint8_t *bytes) {
    return kv_load32(bytes + 44) == kv_crc32c(0, bytes, 44) &&
           kv_block_header_decode_covered(header, bytes);
}

bool kv_block_header_decode_covered(kv_block_header *header, const uint8_t *bytes) {
    if (kv_load32(bytes) != BLOCK_MAGIC)
        return false;
    *header = (kv_block_header){
        .depth = kv_load32(bytes + 4),
        .range_start = kv_load64(bytes + 8),
        .payload_size = kv_load64(bytes + 16),
        .count = kv_load32(bytes + 24),
        .expiring = kv_load32(bytes + 28),
        .next_expiry = kv_load64(bytes + 32),
        .payload_crc = kv_load32(bytes + 40),
    };
    return header->depth >= 1 && header->depth < 64 && header->expiring <= header->count &&
           (header->range_start & (UINT64_MAX >> header->depth)) == 0 &&
           header->payload_size >= (uint64_t)header->count * KV_RECORD_HEADER_SIZE +
                                       (uint64_t)header->expiring * sizeof(uint64_t);
}

void kv_checkpoint_footer_encode(const kv_checkpoint_footer *footer, uint8_t *bytes) {
    memset(bytes, 0, KV_CHECKPOINT_FOOTER_SIZE);
    memcpy(bytes, footer_magic, 8);
    kv_store64(bytes + 8, footer->block_count);
    kv_store64(bytes + 16, footer->index_offset);
    kv_store64(bytes + 24, footer->entries);
    kv_store64(bytes + 32, footer->data_bytes);
    kv_store64(bytes + 40, footer->expiring);
    kv_store32(bytes + 48, footer->index_crc);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
}

bool kv_checkpoint_footer_decode(kv_checkpoint_footer *footer, const uint8_t *bytes) {
    if (memcmp(bytes, footer_magic, 8) != 0 ||
        kv_load32(bytes + 60) != kv_crc32c(0, bytes, 60))
        return false;
    *footer = (kv_checkpoint_footer){
        .block_count = kv_load64(bytes + 8),
        .index_offset = kv_load64(bytes + 16),
        .entries = kv_load64(bytes + 24),
        .data_bytes = kv_load64(bytes + 32),
        .expiring = kv_load64(bytes + 40),
        .index_crc = kv_load32(bytes + 48),
    };
    return true;
}
