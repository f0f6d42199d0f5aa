/* test_check.c - kv_check and kv_salvage: the checkpoint, the file STORE, the directory; calls that fail. */
#include "check.h"

#include <errno.h>

#include "base/crc32c.h"
#include "base/mem.h"
#include "fault_os.h"
#include "forge.h"
#include "world.h"

/* ---- Nothing wrong ------------------------------------------------------------------------- */

static void test_whole(void) {
    forge *b = forge_create();
    forge_finding f;
    forge_examine(b->memory, &f);
    forge_print(&f);
    CHECK_EQ(f.count, 0);
    CHECK_EQ(f.summary.files, 4);
    CHECK_EQ(f.summary.entries, FORGE_KEYS);
    CHECK_EQ(f.summary.frames, 9);
    CHECK_EQ(f.summary.records, 13);
    CHECK_EQ(f.summary.blocks_lost + f.summary.frames_lost + f.summary.bytes_lost, 0);
    CHECK_EQ(f.total, 64 + b->checkpoint.file.size + 2 * FORGE_SEGMENT_SIZE);
    CHECK(f.progress_calls >= 4);
    CHECK_EQ(f.suspects[0], 0);
    CHECK_EQ(store_digest(f.db), model_digest(b->m));
    CHECK_EQ(forge_expiry(f.db, 12), FORGE_FAR_EXPIRY + 12); /* from the checkpoint */
    CHECK_EQ(forge_expiry(f.db, 4), FORGE_FAR_EXPIRY + 4);   /* from the log */
    CHECK_EQ(forge_expiry(f.db, 100), FORGE_FAR_EXPIRY);
    CHECK_EQ(forge_expiry(f.db, 7), 0);
    CHECK_EQ(forge_expiry(f.db, 2), 0); /* put again without */
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(NULL, &f);
    forge_destroy(b);
}

/* Neither options nor summary nor error are needed. */
static void test_defaults(void) {
    forge *b = forge_create();
    kv_check_options only_os = {.os = memory_os_table(b->memory)};
    CHECK_EQ(kv_check(WORLD_DIR, &only_os, NULL, NULL), KV_OK);
    forge_flip(b->memory, FORGE_CHECKPOINT, b->checkpoint.blocks[1] + 60, 1);
    forge_flip(b->memory, FORGE_SEGMENT_2, b->frames[F_PUT] + 60, 1);
    CHECK_EQ(kv_check(WORLD_DIR, &only_os, NULL, NULL), KV_OK);
    kv_db *db = forge_open_memory();
    CHECK_EQ(kv_salvage(WORLD_DIR, db, &only_os, NULL, NULL), KV_OK);
    forge_close_memory(db);
    CHECK_EQ(kv_check("/nowhere/at/all", NULL, NULL, NULL), KV_ERR_IO);
    forge_destroy(b);
}
/* ---- The checkpoint ------------------------------------------------------------------------ */

static bool in_block(const forge *b, unsigned number, unsigned block) {
    kv_bytes key = forge_key(number);
    return kv_siphash13(b->identity.hash_key, key.data, key.size) >> 62 == block;
}

/* Keys of the block are gone unless the log has them; all others are there. */
static void check_without_block(const forge *b, const forge_finding *f, unsigned block) {
    unsigned lost = 0;
    for (unsigned i = 0; i < FORGE_KEYS; i++)
        if (in_block(b, i, block) && i != 0 && i != 1 && i != 2 && i != 3 && i != 5)
            lost++;
    CHECK(lost > 2);
    CHECK_EQ(forge_judge(b, f->db), lost);
}

static void test_block_payload(void) {
    forge *b = forge_create();
    for (unsigned i = 0; i < FORGE_BLOCKS; i++)
        for (unsigned far = 0; far < 2; far++) {
            memory_os *image = forge_copy(b);
            forge_finding f;
            const kv_block_header *h = &b->checkpoint.headers[i];
            uint64_t payload = b->checkpoint.blocks[i] + KV_BLOCK_HEADER_SIZE;
            forge_flip(image, FORGE_CHECKPOINT, payload + (far ? h->payload_size - 1 : 2), 0x40);
            forge_examine(image, &f);
            char loss[100];
            snprintf(loss, sizeof loss, "up to %u keys of %u", h->count, FORGE_KEYS);
            CHECK_EQ(f.count, 1);
            forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)payload, "checksum of a block", loss);
            CHECK_EQ(f.summary.blocks_lost, 1);
            CHECK_EQ(f.summary.bytes_lost, h->payload_size);
            CHECK_EQ(f.summary.entries, FORGE_KEYS - h->count);
            check_without_block(b, &f, i);
            for (unsigned k = 0, named = 0; k < FORGE_KEYS; k++) {
                char name[24];
                snprintf(name, sizeof name, " key-%u ", k);
                bool suspect = strstr(f.suspects, name) != NULL;
                CHECK(!suspect || in_block(b, k, i));
                named += !suspect && in_block(b, k, i);
                CHECK(named <= 2); /* the one that was hit, and one that its size may have hidden */
            }
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

/* The index has a copy of each header, and each block has one of its own. */
static void test_block_header_or_index(void) {
    forge *b = forge_create();
    uint64_t index = b->checkpoint.footer.index_offset;
    for (unsigned i = 0; i < FORGE_BLOCKS; i++)
        for (unsigned at = 0; at < KV_BLOCK_HEADER_SIZE; at++) {
            memory_os *image = forge_copy(b);
            forge_finding f;
            forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[i] + at, 0x10);
            forge_examine(image, &f);
            CHECK_EQ(f.count, 1);
            forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[i],
                         "header of a block", "nothing");
            CHECK_EQ(forge_judge(b, f.db), 0);
            forge_examine_end(image, &f);

            image = forge_copy(b);
            forge_flip(image, FORGE_CHECKPOINT, index + i * KV_BLOCK_HEADER_SIZE + at, 0x10);
            forge_examine(image, &f);
            CHECK_EQ(f.count, 1);
            forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)index, "index is damaged", "nothing");
            CHECK_EQ(forge_judge(b, f.db), 0);
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

static void test_footer(void) {
    forge *b = forge_create();
    uint64_t footer = b->checkpoint.file.size - KV_CHECKPOINT_FOOTER_SIZE;
    for (unsigned at = 0; at < KV_CHECKPOINT_FOOTER_SIZE; at++) {
        memory_os *image = forge_copy(b);
        forge_finding f;
        forge_flip(image, FORGE_CHECKPOINT, footer + at, 0x10);
        forge_examine(image, &f);
        CHECK_EQ(f.count, 1);
        forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)footer, "footer is damaged", "nothing, if");
        CHECK_EQ(forge_judge(b, f.db), 0);
        forge_examine_end(image, &f);
    }
    forge_destroy(b);
}

/* Without the index, the block behind a damaged header is found all the same. */
static void test_next_block_is_found(void) {
    forge *b = forge_create();
    for (int without_footer = 0; without_footer < 2; without_footer++)
        for (unsigned i = 0; i < FORGE_BLOCKS; i++) {
            memory_os *image = forge_copy(b);
            forge_finding f;
            forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[i] + 9, 1);
            if (without_footer)
                forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.file.size - 10, 1);
            else
                forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.footer.index_offset + 3, 1);
            forge_examine(image, &f);
            CHECK_EQ(f.count, 3);
            forge_expect(&f, 1, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[i],
                         "header of a block", "one block or more");
            CHECK_CONTAINS(f.problems[2].error.message, "no whole block has the hashes from");
            CHECK_CONTAINS(f.problems[2].loss,
                           without_footer ? "about 25 % of" : "about 12 keys of 48");
            CHECK_EQ(f.summary.blocks_lost, 1);
            check_without_block(b, &f, i);
            forge_examine_end(image, &f);
        }
    forge_destroy(b);
}

/* Several at once: each is told. */
static void test_every_problem_is_told(void) {
    forge *b = forge_create();
    memory_os *image = forge_copy(b);
    forge_finding f;
    forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[0] + 5, 1);
    forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[1] + 70, 1);
    forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[3] + 70, 1);
    forge_flip(image, FORGE_SEGMENT_2, b->frames[F_DELETE] + 50, 1);
    forge_flip(image, FORGE_SEGMENT_2, b->frames[F_BATCH] + 5, 1);
    forge_flip(image, FORGE_SEGMENT_3, b->frames[F_NEXT] + 50, 1);
    forge_flip(image, FORGE_SEGMENT_3, b->frames[F_CLOSE], 1);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 6);
    forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[0], "header", "nothing");
    forge_expect(&f, 1, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[1] + KV_BLOCK_HEADER_SIZE,
                  "checksum", "keys of 48");
    forge_expect(&f, 2, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[3] + KV_BLOCK_HEADER_SIZE,
                  "checksum", "keys of 48");
    forge_expect(&f, 3, FORGE_SEGMENT_2, (int64_t)b->frames[F_DELETE], "that was on disk",
                  "1 frame of up to 1 commits");
    forge_expect(&f, 4, FORGE_SEGMENT_2, (int64_t)b->frames[F_BATCH], "that was on disk",
                  "1 frame or more");
    forge_expect(&f, 5, FORGE_SEGMENT_3, (int64_t)b->frames[F_NEXT], "that was on disk",
                 "1 frame of");
    CHECK_EQ(f.summary.blocks_lost, 2);
    CHECK_EQ(f.summary.frames_lost, 3);
    CHECK_EQ(f.summary.frames, 5);
    CHECK(forge_has(f.db, 103, 1) && forge_has(f.db, 102, 1) && forge_has(f.db, 0, 2));
    CHECK(!forge_has(f.db, 101, 1));
    forge_judge(b, f.db);
    CHECK_CONTAINS(f.suspects, " key-101 ");
    CHECK_CONTAINS(f.suspects, " key-100 ");
    CHECK_CONTAINS(f.suspects, " key-0 ");
    forge_examine_end(image, &f);
    forge_destroy(b);
}

static void rewrite_checkpoint(const forge *b, memory_os *image,
                               void (*change)(kv_checkpoint_header *)) {
    kv_checkpoint_header h = b->checkpoint.header;
    uint8_t bytes[KV_CHECKPOINT_HEADER_SIZE];
    change(&h);
    kv_checkpoint_header_encode(&h, bytes);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, 0, bytes, sizeof bytes), 0);
}

static void other_store(kv_checkpoint_header *h) { h->store_id[3]++; }
static void other_sequence(kv_checkpoint_header *h) { h->sequence = 3; }
static void far_lsn(kv_checkpoint_header *h) { h->lsn += 100000; }
static void huge_lsn(kv_checkpoint_header *h) { h->lsn = UINT64_MAX - 7; }
static void small_lsn(kv_checkpoint_header *h) { h->lsn = 5; }

static void test_checkpoint_header(void) {
    forge *b = forge_create();
    forge_finding f;
    for (unsigned at = 0; at < KV_CHECKPOINT_HEADER_SIZE; at++) {
        memory_os *image = forge_copy(b);
        forge_flip(image, FORGE_CHECKPOINT, at, 0x10);
        forge_examine(image, &f);
        CHECK_EQ(f.count, 1);
        forge_expect(&f, 0, FORGE_CHECKPOINT, 0, "", "nothing, if the blocks are whole");
        /* The log before the checkpoint is read as well: key-7 gets an older value, until its expiry is
         * set it cannot be told apart. */
        CHECK_EQ(f.summary.frames, 10);
        CHECK(forge_has(f.db, 7, 0) && forge_has(f.db, 103, 1) && forge_has(f.db, 40, 1));
        forge_examine_end(image, &f);
    }
    memory_os *image = forge_copy(b);
    rewrite_checkpoint(b, image, other_store);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_CHECKPOINT, 16, "another store", "all keys of the checkpoint");
    CHECK(!forge_has(f.db, 40, 1) && forge_has(f.db, 103, 1));
    forge_examine_end(image, &f);

    image = forge_copy(b);
    rewrite_checkpoint(b, image, other_sequence);
    forge_examine(image, &f);
    CHECK(f.count >= 2);
    forge_expect(&f, 0, FORGE_CHECKPOINT, 32, "checkpoint 3 by its header", "");
    forge_expect(&f, 1, FORGE_SEGMENT_3, 40, "is needed from", "bytes of the log");
    CHECK(forge_has(f.db, 40, 1) && forge_has(f.db, 103, 1) && !forge_has(f.db, 101, 1));
    forge_examine_end(image, &f);

    static void (*const lsns[])(kv_checkpoint_header *) = {far_lsn, huge_lsn, small_lsn};
    for (unsigned i = 0; i < 3; i++) {
        image = forge_copy(b);
        rewrite_checkpoint(b, image, lsns[i]);
        forge_examine(image, &f);
        CHECK(f.count >= 1);
        CHECK(forge_has(f.db, 40, 1) && forge_has(f.db, 103, 1));
        forge_examine_end(image, &f);
    }
    image = forge_copy(b); /* of a later version, and whole */
    uint8_t bytes[64];
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, FORGE_CHECKPOINT, 0, bytes, 64), 0);
    kv_store32(bytes + 8, KV_FORMAT_VERSION + 1);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, 0, bytes, 64), 0);
    forge_examine(image, &f);
    CHECK(f.count >= 1);
    CHECK_EQ(f.problems[0].error.status, KV_ERR_VERSION);
    forge_examine_end(image, &f);
    forge_destroy(b);
}

/* Blocks with checksums that fit, but not what a checkpoint has. */
static void test_senseless_blocks(void) {
    forge *b = forge_create();
    enum { WRONG_RANGE, WRONG_KIND, LAST_SET, WRONG_COUNT, WRONG_EXPIRING, WRONG_NEXT, CASES };
    for (unsigned which = 0; which < CASES; which++) {
        memory_os *image = forge_copy(b);
        forge_finding f;
        forge_checkpoint *c = &b->checkpoint;
        kv_block_header h = c->headers[1];
        uint64_t at = c->blocks[1], index = c->footer.index_offset;
        static uint8_t payload[65536], headers[FORGE_BLOCKS * KV_BLOCK_HEADER_SIZE];
        memcpy(payload, c->file.bytes + at + KV_BLOCK_HEADER_SIZE, (size_t)h.payload_size);
        if (which == WRONG_RANGE)
            payload[KV_RECORD_HEADER_SIZE] ^= 1; /* another key, of which one in four belongs here */
        else if (which == WRONG_KIND)
            payload[0] = KV_RECORD_DELETE;
        else if (which == LAST_SET)
            payload[1] |= KV_RECORD_LAST;
        else if (which == WRONG_COUNT)
            h.count--;
        else if (which == WRONG_EXPIRING)
            h.expiring++;
        else
            h.next_expiry += 5;
        while (which == WRONG_RANGE &&
               kv_siphash13(b->identity.hash_key, payload + KV_RECORD_HEADER_SIZE,
                            kv_load16(payload + 2)) >> 62 == 1)
            payload[KV_RECORD_HEADER_SIZE]++;
        h.payload_crc = kv_crc32c(0, payload, (size_t)h.payload_size);
        kv_block_header_encode(&h, headers);
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, at, headers,
                                KV_BLOCK_HEADER_SIZE), 0);
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, at + KV_BLOCK_HEADER_SIZE,
                                payload, (size_t)h.payload_size), 0);
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT,
                                index + KV_BLOCK_HEADER_SIZE, headers, KV_BLOCK_HEADER_SIZE),
                 0);
        kv_checkpoint_footer footer = c->footer;
        CHECK_EQ(memory_os_peek(image, WORLD_DIR, FORGE_CHECKPOINT, index, headers,
                                sizeof headers), 0);
        footer.index_crc = kv_crc32c(0, headers, sizeof headers);
        kv_checkpoint_footer_encode(&footer, headers);
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT,
                                index + FORGE_BLOCKS * KV_BLOCK_HEADER_SIZE, headers,
                                KV_CHECKPOINT_FOOTER_SIZE), 0);
        forge_examine(image, &f);
        CHECK_EQ(f.count, 1);
        CHECK_EQ(f.summary.blocks_lost, 1);
        if (which == WRONG_RANGE)
            forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)(at + KV_BLOCK_HEADER_SIZE),
                          "where it does not belong", "keys of 48");
        check_without_block(b, &f, 1);
        forge_examine_end(image, &f);
    }
    forge_destroy(b);
}

/* With index and footer as they should be for these headers. */
static void write_index(const forge *b, memory_os *image, const kv_block_header *headers,
                        kv_checkpoint_footer footer) {
    uint8_t bytes[FORGE_BLOCKS * KV_BLOCK_HEADER_SIZE + KV_CHECKPOINT_FOOTER_SIZE];
    size_t size = FORGE_BLOCKS * KV_BLOCK_HEADER_SIZE;
    for (unsigned i = 0; i < FORGE_BLOCKS; i++) {
        uint8_t *at = bytes + i * KV_BLOCK_HEADER_SIZE;
        kv_block_header_encode(&headers[i], at);
        CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, b->checkpoint.blocks[i], at,
                                KV_BLOCK_HEADER_SIZE), 0);
    }
    footer.index_crc = kv_crc32c(0, bytes, size);
    kv_checkpoint_footer_encode(&footer, bytes + size);
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_CHECKPOINT, footer.index_offset, bytes,
                            sizeof bytes), 0);
}

/* Each block is whole, but they do not make a checkpoint. */
static void test_senseless_checkpoints(void) {
    forge *b = forge_create();
    forge_finding f;
    kv_block_header headers[FORGE_BLOCKS];
    kv_checkpoint_footer footer = b->checkpoint.footer;
    memory_os *image = forge_copy(b);
    footer.data_bytes++;
    write_index(b, image, b->checkpoint.headers, footer);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 1);
    forge_expect(&f, 0, FORGE_CHECKPOINT,
                 (int64_t)b->checkpoint.file.size - KV_CHECKPOINT_FOOTER_SIZE,
                 "does not say what the blocks hold", "nothing");
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(image, &f);

    image = forge_copy(b); /* a range twice, and so another one not at all */
    memcpy(headers, b->checkpoint.headers, sizeof headers);
    headers[2].range_start = headers[1].range_start;
    write_index(b, image, headers, b->checkpoint.footer);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 2);
    forge_expect(&f, 0, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[2],
                 "that another block before it has", "keys of 48");
    forge_expect(&f, 1, FORGE_CHECKPOINT, (int64_t)b->checkpoint.blocks[3],
                 "no whole block has the hashes from 8000000000000000 to before c000000000000000",
                 "about 12 keys of 48");
    check_without_block(b, &f, 2);
    forge_examine_end(image, &f);

    image = forge_copy(b); /* bytes between the last block and the index */
    static uint8_t bytes[65536];
    size_t index = (size_t)b->checkpoint.footer.index_offset, size = b->checkpoint.file.size;
    memcpy(bytes, b->checkpoint.file.bytes, index);
    memcpy(bytes + index + 10, b->checkpoint.file.bytes + index, size - index);
    footer = b->checkpoint.footer;
    footer.index_offset += 10;
    kv_checkpoint_footer_encode(&footer, bytes + size + 10 - KV_CHECKPOINT_FOOTER_SIZE);
    forge_write(image, FORGE_CHECKPOINT, bytes, size + 10);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 2);
    forge_expect(&f, 1, FORGE_CHECKPOINT, (int64_t)index, "behind the last block", "nothing");
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(image, &f);
    forge_destroy(b);
}

/* More blocks than are read of the index at a time, most of them empty. */
static void test_many_blocks(void) {
    enum { DEPTH = 12, COUNT = 1 << DEPTH, SIZE = 2 * COUNT * KV_BLOCK_HEADER_SIZE + 65536 };
    forge *b = forge_create();
    forge_finding f;
    uint8_t *bytes = calloc(1, SIZE), *index = calloc(COUNT, KV_BLOCK_HEADER_SIZE);
    static uint64_t blocks[COUNT];
    kv_checkpoint_footer footer = b->checkpoint.footer;
    size_t size = KV_CHECKPOINT_HEADER_SIZE;
    memcpy(bytes, b->checkpoint.file.bytes, size);
    for (uint64_t i = 0; i < COUNT; i++) {
        static forge_buffer payload;
        kv_block_header h = {.depth = DEPTH, .range_start = i << (64 - DEPTH)};
        for (unsigned k = 0; k < FORGE_KEYS; k++) {
            kv_bytes key = forge_key(k);
            if (kv_siphash13(b->identity.hash_key, key.data, key.size) >> (64 - DEPTH) != i)
                continue;
            uint64_t expiry = k % 5 == 2 ? FORGE_FAR_EXPIRY + k : 0;
            forge_record(&payload, KV_RECORD_PUT, k, 1, expiry, false);
            h.count++;
            if (expiry != 0 && (h.expiring++ == 0 || expiry < h.next_expiry))
                h.next_expiry = expiry;
        }
        h.payload_size = payload.size;
        h.payload_crc = kv_crc32c(0, payload.bytes, payload.size);
        blocks[i] = size;
        kv_block_header_encode(&h, bytes + size);
        memcpy(index + i * KV_BLOCK_HEADER_SIZE, bytes + size, KV_BLOCK_HEADER_SIZE);
        memcpy(bytes + size + KV_BLOCK_HEADER_SIZE, payload.bytes, payload.size);
        size += KV_BLOCK_HEADER_SIZE + payload.size;
        payload.size = 0;
    }
    footer.block_count = COUNT;
    footer.index_offset = size;
    footer.index_crc = kv_crc32c(0, index, COUNT * KV_BLOCK_HEADER_SIZE);
    memcpy(bytes + size, index, COUNT * KV_BLOCK_HEADER_SIZE);
    size += COUNT * KV_BLOCK_HEADER_SIZE;
    kv_checkpoint_footer_encode(&footer, bytes + size);
    size += KV_CHECKPOINT_FOOTER_SIZE;
    forge_write(b->memory, FORGE_CHECKPOINT, bytes, size);

    forge_examine(b->memory, &f);
    CHECK_EQ(f.count, 0);
    CHECK_EQ(forge_judge(b, f.db), 0);
    forge_examine_end(NULL, &f);
    for (unsigned without_footer = 0; without_footer < 2; without_footer++)
        for (unsigned i = 3; i < COUNT; i += 97) { /* the header of one, without the index */
            memory_os *image = forge_copy(b);
            forge_flip(image, FORGE_CHECKPOINT, blocks[i], 1);
            forge_flip(image, FORGE_CHECKPOINT, without_footer ? size - 9 : footer.index_offset + 9, 1);
            forge_examine(image, &f);
            CHECK(f.count == 3);
            CHECK_EQ(f.summary.blocks_lost, 1);
            CHECK(forge_judge(b, f.db) <= 2);
            forge_examine_end(image, &f);
        }
    free(bytes);
    free(index);
    forge_destroy(b);
}

static void test_checkpoint_lengths(void) {
    forge *b = forge_create();
    for (uint64_t size = 0; size < b->checkpoint.file.size; size += size < 300 ? 1 : 17) {
        memory_os *image = forge_copy(b);
        forge_finding f;
        forge_cut(image, FORGE_CHECKPOINT, size);
        forge_examine(image, &f);
        CHECK(f.count >= 1);
        unsigned blocks = 0;
        while (blocks < FORGE_BLOCKS && b->checkpoint.blocks[blocks] + KV_BLOCK_HEADER_SIZE +
                                          b->checkpoint.headers[blocks].payload_size <= size)
            blocks++;
        uint64_t entries = 0;
        for (unsigned i = 0; i < blocks; i++)
            entries += b->checkpoint.headers[i].count;
        CHECK_EQ(f.summary.entries, entries); /* all that stand before the cut */
        CHECK(forge_has(f.db, 103, 1));
        if (size >= KV_CHECKPOINT_HEADER_SIZE)
            forge_judge(b, f.db);
        forge_examine_end(image, &f);
    }
    forge_destroy(b);
}
/* ---- FORGE_STORE, and the directory -------------------------------------------------------- */

static void test_identity(void) {
    forge *b = forge_create();
    forge_finding f;
    for (unsigned at = 0; at <= KV_STORE_FILE_SIZE + 1; at++) {
        memory_os *image = forge_copy(b);
        if (at < KV_STORE_FILE_SIZE)
            forge_flip(image, FORGE_STORE, at, 0x10);
        else if (at == KV_STORE_FILE_SIZE)
            forge_remove(image, FORGE_STORE);
        else
            forge_cut(image, FORGE_STORE, 0);
        forge_examine(image, &f);
        CHECK_EQ(f.count, 1);
        forge_expect(&f, 0, FORGE_STORE, f.problems[0].error.offset, "", "nothing of the data");
        CHECK_EQ(forge_judge(b, f.db), 0);
        forge_examine_end(image, &f);
    }
    /* Then the other files say whose they are. */
    forge *other = forge_create_for(2);
    memory_os *image = forge_copy(b);
    forge_remove(image, FORGE_STORE);
    forge_write(image, FORGE_SEGMENT_3, other->three.bytes, FORGE_SEGMENT_SIZE);
    forge_examine(image, &f);
    CHECK_EQ(f.count, 2);
    forge_expect(&f, 1, FORGE_SEGMENT_3, 16, "another store", "of the log");
    forge_examine_end(image, &f);
    forge_destroy(other);

    image = forge_copy(b); /* of a later version: not for us to judge */
    uint8_t bytes[64];
    forge_finding version = {0};
    CHECK_EQ(memory_os_peek(image, WORLD_DIR, FORGE_STORE, 0, bytes, 64), 0);
    kv_store32(bytes + 8, KV_FORMAT_VERSION + 1);
    kv_store32(bytes + 60, kv_crc32c(0, bytes, 60));
    CHECK_EQ(memory_os_poke(image, WORLD_DIR, FORGE_STORE, 0, bytes, 64), 0);
    CHECK_STATUS(forge_look(image, NULL, NULL, &version), KV_ERR_VERSION, &version.err);
    CHECK_CONTAINS(version.err.path, FORGE_STORE);
    memory_os_destroy(image);
    forge_destroy(b);
}

static void test_no_store(void) {
    forge *b = forge_create();
    kv_error err;
    kv_check_options options = {.os = memory_os_table(b->memory)};
    CHECK_STATUS(kv_check("elsewhere", &options, NULL, &err), KV_ERR_IO, &err);
    CHECK_EQ(err.sys_errno, ENOENT);
    CHECK_STR(err.path, "elsewhere");
    const kv_os *os = options.os;
    int dir = os->dir_open(os->ctx, "empty", true);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    CHECK_STATUS(kv_check("empty", &options, NULL, &err), KV_ERR_IO, &err);
    CHECK_CONTAINS(err.message, "there is no store");
    forge_destroy(b);
}

static void test_locked(void) {
    forge *b = forge_create();
    const kv_os *os = memory_os_table(b->memory);
    forge_finding f = {0};
    int dir = os->dir_open(os->ctx, WORLD_DIR, false);
    int file = os->open(os->ctx, dir, "LOCK", KV_OPEN_WRITE);
    CHECK_EQ(os->write(os->ctx, file, "4711\n", 5, 0), 5);
    CHECK_EQ(os->lock(os->ctx, file, false), 0);
    kv_check_options options = {.os = os};
    CHECK_STATUS(kv_check(WORLD_DIR, &options, NULL, &f.err), KV_ERR_LOCKED, &f.err);
    CHECK_EQ(f.err.pid, 4711);
    CHECK_STR(f.err.path, WORLD_DIR);
    CHECK_EQ(os->close(os->ctx, file), 0);
    file = os->open(os->ctx, dir, "LOCK", KV_OPEN_READ); /* a reader is no hindrance */
    CHECK_EQ(os->lock(os->ctx, file, true), 0);
    CHECK_OK(kv_check(WORLD_DIR, &options, NULL, &f.err), &f.err);
    CHECK_EQ(os->close(os->ctx, file), 0);
    CHECK_EQ(os->close(os->ctx, dir), 0);
    forge_remove(b->memory, "LOCK");
    CHECK_OK(kv_check(WORLD_DIR, &options, NULL, &f.err), &f.err);
    forge_destroy(b);
}

static void test_only_into_an_empty_store(void) {
    forge *b = forge_create();
    kv_check_options options = {.os = memory_os_table(b->memory)};
    kv_check_summary summary;
    kv_error err;
    kv_db *db = forge_open_memory();
    CHECK_OK(kv_put(db, LITERAL("x"), LITERAL("y"), 0, &err), &err);
    CHECK_STATUS(kv_salvage(WORLD_DIR, db, &options, &summary, &err), KV_ERR_INVALID, &err);
    CHECK_OK(kv_clear(db, 0, &err), &err);
    CHECK_OK(kv_salvage(WORLD_DIR, db, &options, &summary, &err), &err);
    CHECK_EQ(summary.items, model_count(b->m));
    forge_close_memory(db);
    forge_destroy(b);
}

/* A new store on disk that cannot be written: that is the error, and not a problem of the old one. */
static void test_salvage_into_a_full_disk(void) {
    forge *b = forge_create();
    for (uint64_t nth = 1;; nth++) {
        world *w = world_create();
        forge_finding f = {0};
        w->options.sync = KV_SYNC_NEVER;
        world_open(w);
        fault_os_fail(w->faults, FAULT_WRITE, nth, EIO, FAULT_FOREVER);
        uint64_t before = fault_os_failures(w->faults);
        kv_status status = forge_look(b->memory, NULL, w->db, &f);
        CHECK_EQ(f.count, 0);
        bool failed = fault_os_failures(w->faults) > before;
        if (status == KV_OK) {
            fault_os_heal(w->faults);
            CHECK_EQ(store_digest(w->db), model_digest(b->m));
            world_destroy(w);
            if (!failed)
                break;
            continue;
        }
        CHECK(failed);
        world_kill(w);
        world_destroy(w);
    }
    forge_destroy(b);
}

/* A key may have been given more time, or for ever, when the time that it was put with is past by now. */
static void test_expiries_that_are_past(void) {
    static const uint64_t past = FORGE_PAST_EXPIRY, future = FORGE_FAR_EXPIRY;
    static const char *const keys[] = {"more time", "for ever", "past", "written anew", "absent", "cleared"};
    static const bool there[] = {true, true, false, true, false, false};
    world *w = world_create();
    world_set_clock(w, past - 1000);
    world_open(w);
    CHECK_OK(kv_put_expiring(w->db, LITERAL("cleared"), LITERAL("v"), past, 0, &w->err), &w->err);
    CHECK_OK(kv_clear(w->db, 0, &w->err), &w->err);
    for (unsigned i = 0; i < 4; i++)
        CHECK_OK(kv_put_expiring(w->db, bytes_of(keys[i], strlen(keys[i])), LITERAL("v"), past, 0, &w->err), &w->err);
    CHECK_OK(kv_expire(w->db, LITERAL("more time"), future, 0, &w->err), &w->err);
    CHECK_OK(kv_expire(w->db, LITERAL("for ever"), 0, 0, &w->err), &w->err);
    CHECK_OK(kv_put(w->db, LITERAL("written anew"), LITERAL("v"), 0, &w->err), &w->err);
    world_close(w);
    world_set_clock(w, past + 1000);

    kv_options options = kv_options_default();
    kv_check_options check = {.os = &w->os};
    kv_check_summary summary;
    kv_db *salvaged;
    options.os = &w->os;
    CHECK_OK(kv_open(NULL, &options, &salvaged, &w->err), &w->err);
    CHECK_OK(kv_salvage(WORLD_DIR, salvaged, &check, &summary, &w->err), &w->err);
    CHECK_EQ(summary.problems, 0);
    CHECK_EQ(summary.items, 3);
    world_open(w);
    for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        kv_bytes key = bytes_of(keys[i], strlen(keys[i]));
        uint64_t expiry = 1, wanted = i == 0 ? future : 0;
        CHECK_STATUS(kv_get_expiry(w->db, key, 0, &expiry, &w->err), there[i] ? KV_OK : KV_NOTFOUND, &w->err);
        CHECK_STATUS(kv_get_expiry(salvaged, key, 0, &expiry, &w->err), there[i] ? KV_OK : KV_NOTFOUND, &w->err);
        CHECK_EQ(expiry, there[i] ? wanted : 1);
    }
    CHECK_EQ(store_digest(salvaged), store_digest(w->db));
    forge_close_memory(salvaged);
    world_destroy(w);
}

static void test_given_up(void) {
    forge *b = forge_create();
    memory_os *image = forge_copy(b);
    unsigned problems = 0, calls = 0;
    forge_flip(image, FORGE_STORE, 3, 1);
    forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.blocks[2] + 60, 1);
    forge_flip(image, FORGE_CHECKPOINT, b->checkpoint.file.size - 10, 1);
    forge_flip(image, FORGE_SEGMENT_2, b->frames[F_PUT] + 3, 1);
    forge_flip(image, FORGE_SEGMENT_3, 9, 1);
    for (unsigned salvage = 0; salvage < 2; salvage++) {
        for (unsigned nth = 1;; nth++) {
            forge_finding f = {.stop_at = nth};
            kv_db *db = salvage ? forge_open_memory() : NULL;
            kv_status status = forge_look(image, NULL, db, &f);
            if (db != NULL)
                forge_close_memory(db);
            if (status == KV_OK)
                break;
            CHECK_STATUS(status, KV_ERR_CANCELLED, &f.err);
            CHECK_EQ(f.count, nth);
            problems++;
        }
        for (unsigned nth = 1;; nth++) {
            forge_finding f = {.progress_stop_at = nth};
            kv_db *db = salvage ? forge_open_memory() : NULL;
            kv_status status = forge_look(image, NULL, db, &f);
            if (db != NULL)
                forge_close_memory(db);
            if (status == KV_OK)
                break;
            CHECK_STATUS(status, KV_ERR_CANCELLED, &f.err);
            calls++;
        }
    }
    CHECK_EQ(problems, 2 * 5);
    CHECK(calls >= 2 * 4);
    memory_os_destroy(image);
    forge_destroy(b);
}

CHECK_MAIN(TEST(test_whole), TEST(test_defaults), TEST(test_block_payload),
           TEST(test_block_header_or_index), TEST(test_footer), TEST(test_next_block_is_found),
           TEST(test_every_problem_is_told), TEST(test_checkpoint_header),
           TEST(test_senseless_blocks), TEST(test_senseless_checkpoints),
           TEST(test_many_blocks), TEST(test_checkpoint_lengths), TEST(test_identity),
           TEST(test_no_store), TEST(test_locked), TEST(test_only_into_an_empty_store),
           TEST(test_salvage_into_a_full_disk), TEST(test_expiries_that_are_past),
           TEST(test_given_up))
