/* format.h - every byte on disk: encoding and decoding.
 *
 * Layer: engine (a leaf above base).  FORMAT.md is the description; this is its only implementation.
 * Integers are little-endian; fields are written and read one by one.  Decoders take bytes from a
 * disk: they believe nothing that a checksum has not covered.
 */
#ifndef KV_ENGINE_FORMAT_H
#define KV_ENGINE_FORMAT_H

#include "../base/siphash.h"
#include "../kv.h"

#define KV_FORMAT_VERSION 2u /* written; version 1, the log without expiries and checkpoints, is read */

/* ---- The file STORE: who this store is -------------------------------------------------------- */

#define KV_STORE_FILE "STORE"
#define KV_STORE_FILE_SIZE 64u

typedef struct kv_identity {
    uint8_t store_id[16];    /* random; in every file of the store */
    kv_siphash_key hash_key; /* random; of the table's hash */
} kv_identity;

void kv_identity_encode(const kv_identity *identity, uint8_t bytes[KV_STORE_FILE_SIZE]);
/* KV_ERR_CORRUPT or KV_ERR_VERSION name `path`. */
kv_status kv_identity_decode(kv_identity *identity, const uint8_t *bytes, size_t size,
                             const char *path, kv_error *err) KV_MUST_CHECK;

/* ---- A log segment's header -------------------------------------------------------------------- */

#define KV_SEGMENT_HEADER_SIZE 4096u /* a block of its own: frames never rewrite it */

typedef struct kv_segment_header {
    uint8_t store_id[16];
    uint64_t sequence;  /* 1, 2, 3 ...; also in the file's name */
    uint64_t start_lsn; /* LSN of the first byte after the header; everything below was on disk
                           when this header was written */
    uint64_t salt;      /* random; in every frame of the segment */
    uint64_t file_size; /* bytes, header included */
    uint32_t version;   /* decoded; encoding writes KV_FORMAT_VERSION */
    bool recycled;      /* made of an older segment: behind the frames stand that one's bytes, not zeros */
} kv_segment_header;

void kv_segment_header_encode(const kv_segment_header *header, uint8_t *bytes);
kv_status kv_segment_header_decode(kv_segment_header *header, const uint8_t *bytes, size_t size,
                                   const char *path, kv_error *err) KV_MUST_CHECK;

/* ---- Frames -------------------------------------------------------------------------------------- */

#define KV_FRAME_HEADER_SIZE 48u
#define KV_FRAME_ALIGNMENT 16u

typedef enum kv_frame_kind {
    KV_FRAME_COMMITS = 1, /* the records of one or more commits */
    KV_FRAME_MARK = 2,    /* nothing but a durable LSN */
    KV_FRAME_CLOSE = 3,   /* the same, written by a clean close */
    KV_FRAME_END = 4,     /* the log goes on in the next segment; takes no LSNs */
} kv_frame_kind;

typedef struct kv_frame_header {
    uint32_t payload_size; /* without the padding */
    uint64_t lsn;          /* of the header's first byte */
    uint64_t durable_lsn;  /* was on disk when this frame was built */
    uint64_t salt;
    kv_frame_kind kind;
    uint32_t commits;
    uint32_t payload_crc;
} kv_frame_header;

static inline uint64_t kv_frame_size(uint64_t payload_size) {
    return (KV_FRAME_HEADER_SIZE + payload_size + KV_FRAME_ALIGNMENT - 1) &
           ~(uint64_t)(KV_FRAME_ALIGNMENT - 1);
}

/* What a frame needs of the file: the end frame must find room behind every other. */
static inline uint64_t kv_frame_room(const kv_frame_header *header) {
    return kv_frame_size(header->payload_size) +
           (header->kind != KV_FRAME_END ? KV_FRAME_HEADER_SIZE : 0);
}

void kv_frame_header_encode(const kv_frame_header *header, uint8_t *bytes);
/* True when the checksum fits, and the kind is known and may have a payload if it has one.  Salt and LSN are the
 * caller's to compare. */
bool kv_frame_header_decode(kv_frame_header *header, const uint8_t *bytes);

/* ---- Records -------------------------------------------------------------------------------------- */

#define KV_RECORD_HEADER_SIZE 8u
#define KV_RECORD_LAST 1u    /* flag: the last record of its commit */
#define KV_RECORD_EXPIRES 2u /* flag: eight bytes behind the value say when */

typedef enum kv_record_kind {
    KV_RECORD_PUT = KV_OP_PUT,
    KV_RECORD_DELETE = KV_OP_DELETE,
    KV_RECORD_CLEAR = 3,
    KV_RECORD_EXPIRE = KV_OP_EXPIRE, /* without the flag: never */
} kv_record_kind;

typedef struct kv_record {
    kv_record_kind kind;
    bool last; /* of its commit */
    kv_bytes key;
    kv_bytes value;  /* KV_RECORD_PUT only */
    uint64_t expiry; /* KV_RECORD_PUT, KV_RECORD_EXPIRE; 0: never */
} kv_record;

static inline uint64_t kv_record_size(size_t key_size, size_t value_size, uint64_t expiry) {
    return KV_RECORD_HEADER_SIZE + (uint64_t)key_size + value_size +
           (expiry != 0 ? sizeof expiry : 0);
}

/* Returns the first byte behind. */
static inline uint8_t *kv_record_encode(const kv_record *record, uint8_t *bytes) {
    bytes[0] = (uint8_t)record->kind;
    bytes[1] = (uint8_t)((record->last ? KV_RECORD_LAST : 0) |
                         (record->expiry != 0 ? KV_RECORD_EXPIRES : 0));
    kv_store16(bytes + 2, (uint16_t)record->key.size);
    kv_store32(bytes + 4, (uint32_t)record->value.size);
    bytes += KV_RECORD_HEADER_SIZE;
    if (record->key.size > 0)
        memcpy(bytes, record->key.data, record->key.size);
    bytes += record->key.size;
    if (record->value.size > 0)
        memcpy(bytes, record->value.data, record->value.size);
    bytes += record->value.size;
    if (record->expiry != 0) {
        kv_store64(bytes, record->expiry);
        bytes += sizeof record->expiry;
    }
    return bytes;
}

/* The record at `bytes`, and its size; 0 when the `left` bytes hold no valid one. */
static inline size_t kv_record_decode(kv_record *record, const uint8_t *bytes, size_t left) {
    if (left < KV_RECORD_HEADER_SIZE)
        return 0;
    record->kind = (kv_record_kind)bytes[0];
    record->last = (bytes[1] & KV_RECORD_LAST) != 0;
    bool expires = (bytes[1] & KV_RECORD_EXPIRES) != 0;
    size_t key_size = kv_load16(bytes + 2), value_size = kv_load32(bytes + 4);
    uint64_t size = kv_record_size(key_size, value_size, expires);
    if (size > left || bytes[1] > (KV_RECORD_LAST | KV_RECORD_EXPIRES) ||
        value_size > KV_VALUE_MAX)
        return 0;
    record->key = (kv_bytes){bytes + KV_RECORD_HEADER_SIZE, key_size};
    record->value = (kv_bytes){bytes + KV_RECORD_HEADER_SIZE + key_size, value_size};
    record->expiry = expires ? kv_load64(bytes + size - sizeof record->expiry) : 0;
    if (expires && (record->expiry == 0 || record->expiry > KV_EXPIRY_MAX))
        return 0;
    switch (record->kind) {
    case KV_RECORD_PUT:
        return (size_t)size;
    case KV_RECORD_DELETE:
        return value_size == 0 && !expires ? (size_t)size : 0;
    case KV_RECORD_CLEAR:
        return value_size == 0 && !expires && key_size == 0 ? (size_t)size : 0;
    case KV_RECORD_EXPIRE:
        return value_size == 0 ? (size_t)size : 0;
    }
    return 0;
}

/* ---- Checkpoints ------------------------------------------------------------------------------------
 * Header; one block a shard, in the order of their hashes, without gaps; the index, which is a copy of
 * all blocks' headers; the footer, which ends the file. */

#define KV_CHECKPOINT_HEADER_SIZE 64u
#define KV_BLOCK_HEADER_SIZE 48u
#define KV_CHECKPOINT_FOOTER_SIZE 64u

typedef struct kv_checkpoint_header {
    uint8_t store_id[16];
    uint64_t sequence; /* of the segment that the log goes on in; also in the file's name */
    uint64_t lsn;      /* the state is that of this moment; a frame starts there, or the log ends */
    uint64_t made_ms;  /* wall clock */
} kv_checkpoint_header;

/* The entries of a shard: its payload is their records, each a KV_RECORD_PUT. */
typedef struct kv_block_header {
    uint64_t range_start; /* the hashes that share its upper `depth` bits */
    uint32_t depth;
    uint32_t count;        /* records */
    uint32_t expiring;     /* of them, with an expiry */
    uint64_t payload_size; /* bytes */
    uint64_t next_expiry;  /* the earliest one; 0 when there is none */
    uint32_t payload_crc;
} kv_block_header;

typedef struct kv_checkpoint_footer {
    uint64_t block_count;
    uint64_t index_offset; /* bytes from the file's start */
    uint64_t entries;      /* in all blocks */
    uint64_t data_bytes;   /* of keys and values */
    uint64_t expiring;
    uint32_t index_crc;
} kv_checkpoint_footer;

void kv_checkpoint_header_encode(const kv_checkpoint_header *header, uint8_t *bytes);
kv_status kv_checkpoint_header_decode(kv_checkpoint_header *header, const uint8_t *bytes,
                                      size_t size, const char *path, kv_error *err) KV_MUST_CHECK;
void kv_block_header_encode(const kv_block_header *header, uint8_t *bytes);
/* True when the checksum fits and the fields can be. */
bool kv_block_header_decode(kv_block_header *header, const uint8_t *bytes);
/* The same of bytes that another checksum has covered: its own is not looked at. */
bool kv_block_header_decode_covered(kv_block_header *header, const uint8_t *bytes);
void kv_checkpoint_footer_encode(const kv_checkpoint_footer *footer, uint8_t *bytes);
bool kv_checkpoint_footer_decode(kv_checkpoint_footer *footer, const uint8_t *bytes);

/* Keys and values in a block: what its records are beyond their headers and expiries. */
static inline uint64_t kv_block_data_bytes(const kv_block_header *header) {
    return header->payload_size - (uint64_t)header->count * KV_RECORD_HEADER_SIZE -
           (uint64_t)header->expiring * sizeof(uint64_t);
}

#endif
