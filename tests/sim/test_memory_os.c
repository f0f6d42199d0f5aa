/* test_memory_os.c - each point of the contract at the head of memory_os.h, shown on small files. */
/* tsan */
#include "check.h"

#include <errno.h>
#include <pthread.h>

#include "memory_os.h"

typedef struct world {
    memory_os *memory;
    const kv_os *os;
    int dir;
} world;

static world world_make(void) {
    world w = {.memory = memory_os_create(check_seed)};
    w.os = memory_os_table(w.memory);
    w.dir = w.os->dir_open(w.os->ctx, "d", true);
    CHECK(w.dir >= 0);
    return w;
}

static void world_end(world *w) {
    memory_os_destroy(w->memory);
}

static int file_open(world *w, const char *name, kv_open_mode mode) {
    return w->os->open(w->os->ctx, w->dir, name, mode);
}

static void fill(world *w, int file, uint64_t offset, size_t size, char byte) {
    char *bytes = malloc(size);
    memset(bytes, byte, size);
    CHECK_EQ(w->os->write(w->os->ctx, file, bytes, size, offset), size);
    free(bytes);
}

static int sync_file(world *w, int file) {
    return w->os->sync(w->os->ctx, file);
}

static int sync_dir(world *w) {
    return w->os->dir_sync(w->os->ctx, w->dir);
}

/* A file whose name and (empty) contents are on the disk. */
static int durable_file(world *w, const char *name) {
    int file = file_open(w, name, KV_OPEN_CREATE);
    CHECK(file >= 0);
    CHECK_EQ(sync_dir(w), 0);
    return file;
}

/* The file is there with these bytes: "aab.c" is two a, a b, a zero byte and a c; each character
 * stands for `unit` bytes.  NULL: it is not there. */
static void check_file(memory_os *m, const char *name, const char *wanted, size_t unit) {
    if (wanted == NULL) {
        CHECK_EQ(memory_os_size(m, "d", name), -ENOENT);
        return;
    }
    size_t size = strlen(wanted) * unit;
    CHECK_EQ(memory_os_size(m, "d", name), size);
    for (size_t i = 0; i < size; i++) {
        char byte = 0;
        CHECK_EQ(memory_os_peek(m, "d", name, i, &byte, 1), 0);
        CHECK_EQ(byte, wanted[i / unit] == '.' ? 0 : wanted[i / unit]);
    }
}

/* The same after a power cut with these fates. */
static void check_cut(world *w, const memory_fate *fates, size_t count, const char *name,
                      const char *wanted, size_t unit) {
    memory_os *after = memory_os_cut(w->memory, fates, count);
    check_file(after, name, wanted, unit);
    CHECK_EQ(memory_os_change_count(after), 0);
    CHECK_EQ(memory_os_open_count(after), 0);
    memory_os_destroy(after);
}

static const memory_fate KEPT = {MEMORY_KEPT, 0}, LOST = {MEMORY_LOST, 0};

/* ---- The running system ---------------------------------------------------------------------- */

static void test_reading_and_writing(void) {
    world w = world_make();
    int file = file_open(&w, "f", KV_OPEN_CREATE);
    char bytes[8];
    CHECK_EQ(w.os->read(w.os->ctx, file, bytes, 8, 0), 0);
    fill(&w, file, 2, 3, 'a');
    check_file(w.memory, "f", "..aaa", 1);
    CHECK_EQ(w.os->read(w.os->ctx, file, bytes, 8, 1), 4);
    CHECK_EQ(bytes[0], 0);
    CHECK_EQ(bytes[3], 'a');
    CHECK_EQ(w.os->read(w.os->ctx, file, bytes, 8, 100), 0);
    CHECK_EQ(w.os->truncate(w.os->ctx, file, 3), 0);
    check_file(w.memory, "f", "..a", 1);
    CHECK_EQ(w.os->truncate(w.os->ctx, file, 5), 0);
    check_file(w.memory, "f", "..a..", 1); /* not the bytes cut away before */
    CHECK_EQ(w.os->size(w.os->ctx, file), 5);
    world_end(&w);
}

static void test_opening(void) {
    world w = world_make();
    CHECK_EQ(w.os->dir_open(w.os->ctx, "nowhere", false), -ENOENT);
    CHECK_EQ(file_open(&w, "f", KV_OPEN_READ), -ENOENT);
    CHECK_EQ(file_open(&w, "f", KV_OPEN_WRITE), -ENOENT);
    int file = file_open(&w, "f", KV_OPEN_EXCLUSIVE);
    CHECK(file >= 0);
    CHECK_EQ(file_open(&w, "f", KV_OPEN_EXCLUSIVE), -EEXIST);
    int reader = file_open(&w, "f", KV_OPEN_READ);
    CHECK_EQ(w.os->write(w.os->ctx, reader, "x", 1, 0), -EBADF);
    CHECK_EQ(w.os->close(w.os->ctx, file), 0);
    CHECK_EQ(w.os->close(w.os->ctx, file), -EBADF);
    CHECK_EQ(w.os->write(w.os->ctx, file, "x", 1, 0), -EBADF);
    CHECK_EQ(w.os->sync(w.os->ctx, w.dir), -EBADF);
    CHECK_EQ(w.os->dir_sync(w.os->ctx, reader), -EBADF);
    CHECK_EQ(memory_os_open_count(w.memory), 2);
    world_end(&w);
}

static void test_names(void) {
    world w = world_make();
    int file = file_open(&w, "f", KV_OPEN_CREATE);
    fill(&w, file, 0, 1, 'f');
    fill(&w, file_open(&w, "g", KV_OPEN_CREATE), 0, 1, 'g');
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "f", "g"), 0);
    check_file(w.memory, "f", NULL, 1);
    check_file(w.memory, "g", "f", 1);
    CHECK_EQ(w.os->unlink(w.os->ctx, w.dir, "g"), 0);
    check_file(w.memory, "g", NULL, 1);
    fill(&w, file, 1, 1, 'f'); /* an open file goes on without its name */
    CHECK_EQ(w.os->size(w.os->ctx, file), 2);
    CHECK_EQ(w.os->unlink(w.os->ctx, w.dir, "g"), -ENOENT);
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "g", "h"), -ENOENT);
    world_end(&w);
}

static void test_locks(void) {
    world w = world_make();
    int a = file_open(&w, "f", KV_OPEN_CREATE), b = file_open(&w, "f", KV_OPEN_CREATE);
    CHECK_EQ(w.os->lock(w.os->ctx, a, false), 0);
    CHECK_EQ(w.os->lock(w.os->ctx, b, false), -EWOULDBLOCK);
    CHECK_EQ(w.os->lock(w.os->ctx, b, true), -EWOULDBLOCK);
    CHECK_EQ(w.os->lock(w.os->ctx, a, true), 0);
    CHECK_EQ(w.os->lock(w.os->ctx, b, true), 0);
    CHECK_EQ(w.os->lock(w.os->ctx, a, false), -EWOULDBLOCK);
    CHECK_EQ(w.os->close(w.os->ctx, b), 0);
    CHECK_EQ(w.os->lock(w.os->ctx, a, false), 0);
    world_end(&w);
}

/* ---- The contract ---------------------------------------------------------------------------- */

static void test_unsynced_bytes_are_lost(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 3, 'a');
    check_cut(&w, NULL, 0, "f", "", 1);
    CHECK_EQ(sync_file(&w, file), 0);
    CHECK_EQ(memory_os_change_count(w.memory), 0);
    fill(&w, file, 1, 1, 'b');
    CHECK_EQ(w.os->truncate(w.os->ctx, file, 2), 0);
    check_file(w.memory, "f", "ab", 1);
    check_cut(&w, NULL, 0, "f", "aaa", 1);
    CHECK_EQ(sync_file(&w, file), 0);
    check_cut(&w, NULL, 0, "f", "ab", 1);
    world_end(&w);
}

static void test_a_sync_is_of_one_file_and_not_of_its_name(void) {
    world w = world_make();
    int f = durable_file(&w, "f"), g = durable_file(&w, "g");
    fill(&w, f, 0, 1, 'f');
    fill(&w, g, 0, 1, 'g');
    CHECK_EQ(sync_file(&w, g), 0);
    check_cut(&w, NULL, 0, "f", "", 1);
    check_cut(&w, NULL, 0, "g", "g", 1);

    int h = file_open(&w, "h", KV_OPEN_CREATE);
    fill(&w, h, 0, 1, 'h');
    CHECK_EQ(sync_file(&w, h), 0);
    check_cut(&w, NULL, 0, "h", NULL, 1);
    CHECK_EQ(sync_dir(&w), 0);
    check_cut(&w, NULL, 0, "h", "h", 1);
    check_cut(&w, NULL, 0, "f", "", 1); /* nor does the directory's sync touch bytes */
    world_end(&w);
}

static void test_names_need_the_directory(void) {
    world w = world_make();
    int f = durable_file(&w, "f");
    fill(&w, f, 0, 1, 'f');
    CHECK_EQ(sync_file(&w, f), 0);
    int g = durable_file(&w, "g");
    (void)g;
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "f", "g"), 0);
    check_cut(&w, NULL, 0, "f", "f", 1);
    check_cut(&w, NULL, 0, "g", "", 1);
    CHECK_EQ(sync_dir(&w), 0);
    check_cut(&w, NULL, 0, "f", NULL, 1);
    check_cut(&w, NULL, 0, "g", "f", 1);
    CHECK_EQ(w.os->unlink(w.os->ctx, w.dir, "g"), 0);
    check_cut(&w, NULL, 0, "g", "f", 1);
    CHECK_EQ(sync_dir(&w), 0);
    check_cut(&w, NULL, 0, "g", NULL, 1);
    world_end(&w);
}

static void test_any_subset_of_changes(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 2, 'a');
    fill(&w, file, 1, 2, 'b');
    fill(&w, file, 4, 1, 'c');
    CHECK_EQ(w.os->truncate(w.os->ctx, file, 6), 0);
    static const char *const wanted[16] = {
        "",       "aa",     ".bb",    "abb",    "....c",  "aa..c",  ".bb.c",  "abb.c",
        "......", "aa....", ".bb...", "abb...", "....c.", "aa..c.", ".bb.c.", "abb.c.",
    };
    CHECK_EQ(memory_os_change_count(w.memory), 4);
    for (unsigned subset = 0; subset < 16; subset++) {
        memory_fate fates[4];
        for (unsigned i = 0; i < 4; i++)
            fates[i] = subset >> i & 1 ? KEPT : LOST;
        check_cut(&w, fates, 4, "f", wanted[subset], 1);
    }
    for (unsigned kept = 0; kept <= 4; kept++) {
        memory_os *after = memory_os_cut_after(w.memory, kept);
        check_file(after, "f", wanted[(1 << kept) - 1], 1);
        memory_os_destroy(after);
    }
    check_file(w.memory, "f", "abb.c.", 1); /* the running system has noticed nothing */
    world_end(&w);
}

static void test_any_subset_of_names(void) {
    world w = world_make();
    int a = file_open(&w, "a", KV_OPEN_CREATE);
    fill(&w, a, 0, 1, 'a');
    CHECK_EQ(sync_file(&w, a), 0);
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "a", "b"), 0);
    CHECK_EQ(memory_os_change_count(w.memory), 2);
    const memory_fate made[] = {KEPT, LOST}, renamed[] = {LOST, KEPT}, both[] = {KEPT, KEPT};
    check_cut(&w, made, 2, "a", "a", 1);
    check_cut(&w, made, 2, "b", NULL, 1);
    check_cut(&w, renamed, 2, "a", NULL, 1);
    check_cut(&w, renamed, 2, "b", "a", 1);
    check_cut(&w, both, 2, "a", NULL, 1);
    check_cut(&w, both, 2, "b", "a", 1);
    world_end(&w);
}

static void test_changes_can_be_inspected(void) {
    world w = world_make();
    int file = file_open(&w, "f", KV_OPEN_CREATE);
    fill(&w, file, 500, 1100, 'a'); /* sectors 0, 1, 2, and 3: three boundaries */
    fill(&w, file, 512, 512, 'a');  /* a whole sector: none */
    CHECK_EQ(w.os->truncate(w.os->ctx, file, 7), 0);
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "f", "g"), 0);
    CHECK_EQ(w.os->unlink(w.os->ctx, w.dir, "g"), 0);
    CHECK_EQ(memory_os_change_count(w.memory), 6);
    memory_change change = memory_os_change(w.memory, 0);
    CHECK_EQ(change.kind, MEMORY_MAKE);
    CHECK_STR(change.name, "f");
    change = memory_os_change(w.memory, 1);
    CHECK_EQ(change.kind, MEMORY_WRITE);
    CHECK_STR(change.name, "f");
    CHECK_EQ(change.offset, 500);
    CHECK_EQ(change.size, 1100);
    CHECK_EQ(change.tears, 3);
    CHECK(!change.same);
    CHECK_EQ(memory_os_change(w.memory, 2).tears, 0);
    CHECK(memory_os_change(w.memory, 2).same);
    uint64_t syncs = memory_os_syncs(w.memory);
    change = memory_os_change(w.memory, 3);
    CHECK_EQ(change.kind, MEMORY_TRUNCATE);
    CHECK_EQ(change.size, 7);
    change = memory_os_change(w.memory, 4);
    CHECK_EQ(change.kind, MEMORY_RENAME);
    CHECK_STR(change.name, "f");
    CHECK_STR(change.to, "g");
    CHECK_EQ(memory_os_change(w.memory, 5).kind, MEMORY_REMOVE);
    CHECK_EQ(sync_file(&w, file), 0);
    CHECK_EQ(memory_os_change_count(w.memory), 3);
    CHECK_EQ(memory_os_change(w.memory, 1).kind, MEMORY_RENAME);
    CHECK_EQ(memory_os_syncs(w.memory), syncs + 1);
    CHECK_EQ(sync_file(&w, file), 0); /* of nothing */
    CHECK_EQ(memory_os_syncs(w.memory), syncs + 1);
    world_end(&w);
}

/* In units of half a sector: the write goes from the middle of a sector to the middle of the next
 * but one, and so over two boundaries. */
static void test_torn_writes(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 6 * 256, 'o');
    CHECK_EQ(sync_file(&w, file), 0);
    fill(&w, file, 256, 4 * 256, 'n');
    CHECK_EQ(memory_os_change(w.memory, 0).tears, 2);
    memory_fate fate = {MEMORY_TORN, 1};
    check_cut(&w, &fate, 1, "f", "onoooo", 256);
    fate.at = 2;
    check_cut(&w, &fate, 1, "f", "onnnoo", 256);
    fate = (memory_fate){MEMORY_TORN_HEAD, 1};
    check_cut(&w, &fate, 1, "f", "oonnno", 256);
    fate.at = 2;
    check_cut(&w, &fate, 1, "f", "oooono", 256);
    fate = (memory_fate){MEMORY_TORN_ZEROED, 2};
    check_cut(&w, &fate, 1, "f", "onnn.o", 256);
    fate = (memory_fate){MEMORY_ZEROED, 0};
    check_cut(&w, &fate, 1, "f", "o....o", 256);

    fate = (memory_fate){MEMORY_TORN_GARBLED, 1};
    uint8_t bytes[6 * 256];
    memory_os *after = memory_os_cut(w.memory, &fate, 1);
    CHECK_EQ(memory_os_peek(after, "d", "f", 0, bytes, sizeof bytes), 0);
    for (int i = 0; i < 6 * 256; i++)
        if (i < 512 || i >= 5 * 256)
            CHECK_EQ(bytes[i], i >= 256 && i < 512 ? 'n' : 'o');
    for (int i = 512; i < 5 * 256 - 16; i++)
        CHECK(memcmp(bytes + i, "nnnnnnnnnnnnnnnn", 16) != 0);
    memory_os_destroy(after);
    world_end(&w);
}

/* In the same units; sectors that both write to are as the earlier one left them. */
static void test_overtaken_writes(void) {
    static const struct {
        unsigned from, units; /* of the earlier write; the later one has four from the second on */
        const char *both, *later;
    } rows[] = {
        {2, 2, "obaabo", "oboobo"}, {0, 2, "aabbbo", "oobbbo"}, {3, 3, "oboaaa", "oboooo"},
        {0, 6, "aaaaaa", "oooooo"}, {6, 1, "obbbboa", "obbbbo"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        world w = world_make();
        int file = durable_file(&w, "f");
        fill(&w, file, 0, 6 * 256, 'o');
        CHECK_EQ(sync_file(&w, file), 0);
        fill(&w, file, rows[i].from * 256, rows[i].units * 256, 'a');
        fill(&w, file, 256, 4 * 256, 'b');
        memory_fate fates[] = {KEPT, {MEMORY_OVERTAKEN, 0}};
        check_cut(&w, fates, 2, "f", rows[i].both, 256);
        fates[0] = LOST;
        check_cut(&w, fates, 2, "f", rows[i].later, 256);
        world_end(&w);
    }
}

static void test_torn_write_at_the_end(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 3 * 512, 'n');
    memory_fate fate = {MEMORY_TORN, 1};
    check_cut(&w, &fate, 1, "f", "n", 512);
    fate.kind = MEMORY_TORN_HEAD;
    check_cut(&w, &fate, 1, "f", ".nn", 512);
    fate.kind = MEMORY_TORN_ZEROED;
    check_cut(&w, &fate, 1, "f", "n..", 512);
    world_end(&w);
}

static void test_garbled_writes(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 1000, 'a');
    CHECK_EQ(sync_file(&w, file), 0);
    fill(&w, file, 100, 800, 'b');
    uint8_t images[2][1000];
    for (int i = 0; i < 2; i++) {
        memory_fate fate = {MEMORY_GARBLED, (uint64_t)i};
        memory_os *after = memory_os_cut(w.memory, &fate, 1);
        CHECK_EQ(memory_os_peek(after, "d", "f", 0, images[i], 1000), 0);
        for (int j = 0; j < 1000; j += j == 99 ? 801 : 1)
            CHECK_EQ(images[i][j], 'a');
        memory_os_destroy(after);
    }
    CHECK(memcmp(images[0] + 100, images[1] + 100, 800) != 0);
    for (int j = 100; j < 900 - 16; j++)
        CHECK(memcmp(images[0] + j, "bbbbbbbbbbbbbbbb", 16) != 0);
    world_end(&w);
}

/* Point 9: what a direct write begins with and does not change is safe. */
static void test_garbled_behind_an_unchanged_head(void) {
    static _Alignas(512) char block[1024];
    for (unsigned direct = 0; direct < 2; direct++) {
        world w = world_make();
        int file = durable_file(&w, "f");
        fill(&w, file, 0, 700, 'a');
        CHECK_EQ(sync_file(&w, file), 0);
        memset(block, 'a', 188);
        memset(block + 188, 'b', sizeof block - 188);
        if (direct)
            CHECK_EQ(w.os->direct(w.os->ctx, file, true), MEMORY_DIRECT_ALIGNMENT);
        CHECK_EQ(w.os->write(w.os->ctx, file, block, sizeof block, 512), sizeof block);
        memory_fate fate = {MEMORY_GARBLED, 7};
        memory_os *after = memory_os_cut(w.memory, &fate, 1);
        char found[1536];
        CHECK_EQ(memory_os_peek(after, "d", "f", 0, found, sizeof found), 0);
        for (size_t i = 0; i < 512; i++)
            CHECK_EQ(found[i], 'a');
        CHECK((memcmp(found + 512, block, 188) == 0) == (direct == 1));
        CHECK(memcmp(found + 700, block + 188, 16) != 0);
        memory_os_destroy(after);
        world_end(&w);
    }
}

/* Point 10: another alignment for files that come; turned off, anything goes. */
static void test_direct(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    static _Alignas(4096) char block[4096];
    CHECK_EQ(w.os->direct(w.os->ctx, file, true), 512);
    CHECK_EQ(w.os->write(w.os->ctx, file, block + 512, 1024, 512), 1024);
    memory_os_set_direct(w.memory, 4096);
    CHECK_EQ(w.os->write(w.os->ctx, file, block + 512, 1024, 512), 1024);
    CHECK_EQ(w.os->direct(w.os->ctx, file, true), 4096);
    CHECK_EQ(w.os->write(w.os->ctx, file, block, 4096, 4096), 4096);
    CHECK_EQ(memory_os_direct_writes(w.memory), 3);
    CHECK(w.os->direct(w.os->ctx, file, false) >= 0);
    CHECK_EQ(w.os->write(w.os->ctx, file, block + 1, 3, 5), 3);
    memory_os_set_direct(w.memory, 0);
    CHECK_EQ(w.os->direct(w.os->ctx, file, true), -EOPNOTSUPP);
    CHECK_EQ(w.os->write(w.os->ctx, file, block + 1, 3, 5), 3);
    CHECK_EQ(memory_os_direct_writes(w.memory), 3);
    world_end(&w);
}

/* What one process leaves to the next is on its way to the disk still. */
static void test_copy(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 2, 'a');
    CHECK_EQ(sync_file(&w, file), 0);
    fill(&w, file, 1, 2, 'b');
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "f", "g"), 0);
    world next = {.memory = memory_os_copy(w.memory)};
    fill(&w, file, 0, 3, 'c'); /* none of the other's business */
    next.os = memory_os_table(next.memory);
    next.dir = next.os->dir_open(next.os->ctx, "d", false);
    CHECK_EQ(memory_os_open_count(next.memory), 1);
    check_file(next.memory, "g", "abb", 1);
    CHECK_EQ(memory_os_change_count(next.memory), 2);
    CHECK_EQ(sync_dir(&next), 0);
    check_cut(&next, NULL, 0, "g", "aa", 1);
    CHECK_EQ(sync_file(&next, file_open(&next, "g", KV_OPEN_WRITE)), 0);
    check_cut(&next, NULL, 0, "g", "abb", 1);
    check_cut(&w, NULL, 0, "f", "aa", 1);
    memory_os_settle(w.memory);
    check_cut(&w, NULL, 0, "f", NULL, 1);
    check_cut(&w, NULL, 0, "g", "ccc", 1);
    world_end(&next);
    world_end(&w);
}

static void test_digest(void) {
    world w = world_make();
    uint64_t digests[6];
    int a = file_open(&w, "a", KV_OPEN_CREATE);
    digests[0] = memory_os_digest(w.memory, "d");
    fill(&w, a, 0, 40, '\0');
    digests[1] = memory_os_digest(w.memory, "d");
    fill(&w, a, 39, 1, 'x');
    digests[2] = memory_os_digest(w.memory, "d");
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "a", "b"), 0);
    digests[3] = memory_os_digest(w.memory, "d");
    int b = file_open(&w, "a", KV_OPEN_CREATE);
    fill(&w, b, 7, 1, 'y');
    digests[4] = memory_os_digest(w.memory, "d");
    CHECK_EQ(w.os->unlink(w.os->ctx, w.dir, "b"), 0);
    digests[5] = memory_os_digest(w.memory, "d");
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++)
            CHECK(digests[i] != digests[j]);
    CHECK_EQ(w.os->rename(w.os->ctx, w.dir, "a", "b"), 0);
    fill(&w, b, 7, 1, '\0');
    fill(&w, b, 39, 1, 'x'); /* as it was, on other ways */
    CHECK_EQ(memory_os_digest(w.memory, "d"), digests[3]);
    world_end(&w);
}

/* Point 6: what a failed sync has let go no later one brings back. */
static void test_failed_sync(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 3, 'a');
    memory_os_fail_sync(w.memory, 2, EIO);
    CHECK_EQ(sync_dir(&w), 0);
    CHECK_EQ(sync_file(&w, file), -EIO);
    CHECK_EQ(sync_file(&w, file), 0);
    check_file(w.memory, "f", "aaa", 1); /* but readers see it */
    check_cut(&w, NULL, 0, "f", "", 1);
    CHECK_EQ(memory_os_change_count(w.memory), 1);
    check_cut(&w, &KEPT, 1, "f", "aaa", 1); /* and it may have been written after all */

    /* A later write that is synced is there, and on top of the lost one whatever becomes of it. */
    fill(&w, file, 1, 1, 'b');
    CHECK_EQ(sync_file(&w, file), 0);
    CHECK_EQ(memory_os_change_count(w.memory), 1);
    check_cut(&w, NULL, 0, "f", ".b", 1);
    check_cut(&w, &KEPT, 1, "f", "aba", 1);

    /* Names likewise. */
    file_open(&w, "g", KV_OPEN_CREATE);
    memory_os_fail_sync(w.memory, 1, EIO);
    CHECK_EQ(sync_dir(&w), -EIO);
    CHECK_EQ(sync_dir(&w), 0);
    check_cut(&w, NULL, 0, "g", NULL, 1);
    world_end(&w);
}

/* What a cut leaves is a system of its own, that can be cut again. */
static void test_life_after_a_cut(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 2, 'a');
    CHECK_EQ(w.os->lock(w.os->ctx, file, false), 0);
    uint64_t before, later;
    CHECK_EQ(sync_file(&w, file), 0);
    memory_os *memory = memory_os_cut(w.memory, NULL, 0);
    CHECK_EQ(w.os->random(w.os->ctx, &before, sizeof before), 0);
    world_end(&w);

    w.memory = memory;
    w.os = memory_os_table(memory);
    w.dir = w.os->dir_open(w.os->ctx, "d", false);
    CHECK(w.dir >= 0);
    file = file_open(&w, "f", KV_OPEN_WRITE);
    CHECK_EQ(w.os->lock(w.os->ctx, file, false), 0); /* the old lock went with the power */
    CHECK_EQ(w.os->random(w.os->ctx, &later, sizeof later), 0);
    CHECK(before != later);
    fill(&w, file, 1, 2, 'b');
    check_file(w.memory, "f", "abb", 1);
    check_cut(&w, NULL, 0, "f", "aa", 1);
    CHECK_EQ(sync_file(&w, file), 0);
    check_cut(&w, NULL, 0, "f", "abb", 1);
    world_end(&w);
}

static void test_damage(void) {
    world w = world_make();
    int file = durable_file(&w, "f");
    fill(&w, file, 0, 3, 'a');
    CHECK_EQ(sync_file(&w, file), 0);
    CHECK_EQ(memory_os_poke(w.memory, "d", "f", 1, "x", 1), 0);
    check_file(w.memory, "f", "axa", 1);
    check_cut(&w, NULL, 0, "f", "axa", 1);
    CHECK_EQ(memory_os_poke(w.memory, "d", "f", 3, "x", 1), -ERANGE);
    CHECK_EQ(memory_os_poke(w.memory, "d", "g", 0, "x", 1), -ENOENT);
    world_end(&w);
}

/* ---- Random operations against the simplest possible model --------------------------------------- */

/* One file; the model keeps every version of it and says which one a cut after k changes leaves. */
static void test_random_prefixes(void) {
    enum { ROUNDS = 50, STEPS = 30, SIZE = 3000 };
    check_random random = random_stream(1);
    for (int round = 0; round < ROUNDS; round++) {
        world w = world_make();
        int file = durable_file(&w, "f");
        static uint8_t versions[STEPS + 1][SIZE];
        size_t sizes[STEPS + 1] = {0}, count = 1; /* versions since the last sync */
        memset(versions, 0, sizeof versions);
        for (int step = 0; step < STEPS; step++) {
            uint8_t *now = versions[count];
            memcpy(now, versions[count - 1], SIZE);
            sizes[count] = sizes[count - 1];
            size_t offset = random_below(&random, SIZE), size = random_below(&random, SIZE - offset);
            switch (random_below(&random, 6)) {
            case 0:
                CHECK_EQ(sync_file(&w, file), 0);
                memcpy(versions[0], now, SIZE);
                sizes[0] = sizes[count];
                count = 1;
                break;
            case 1:
                if (offset == sizes[count])
                    break;
                CHECK_EQ(w.os->truncate(w.os->ctx, file, offset), 0);
                memset(now + offset, 0, SIZE - offset);
                sizes[count++] = offset;
                break;
            default:
                size++;
                random_fill(&random, now + offset, size);
                CHECK_EQ(w.os->write(w.os->ctx, file, now + offset, size, offset), size);
                if (offset + size > sizes[count])
                    sizes[count] = offset + size;
                count++;
            }
            CHECK_EQ(memory_os_change_count(w.memory), count - 1);
            for (size_t kept = 0; kept < count; kept++) {
                static uint8_t bytes[SIZE];
                memory_os *after = memory_os_cut_after(w.memory, kept);
                CHECK_EQ(memory_os_size(after, "d", "f"), sizes[kept]);
                CHECK_EQ(memory_os_peek(after, "d", "f", 0, bytes, sizes[kept]), 0);
                CHECK_MEM(bytes, versions[kept], sizes[kept]);
                memory_os_destroy(after);
            }
        }
        world_end(&w);
    }
}

/* ---- Threads --------------------------------------------------------------------------------- */

static void *write_and_sync(void *arg) {
    world *w = arg;
    int file = file_open(w, "f", KV_OPEN_CREATE);
    for (int i = 0; i < 200; i++) {
        fill(w, file, (uint64_t)i * 10, 10, 'a');
        CHECK_EQ(sync_file(w, file), 0);
    }
    CHECK_EQ(w->os->close(w->os->ctx, file), 0);
    return NULL;
}

static void test_cuts_while_running(void) {
    world w = world_make();
    w.os->close(w.os->ctx, durable_file(&w, "f"));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, write_and_sync, &w), 0);
    int64_t before = 0;
    for (int i = 0; i < 100; i++) {
        memory_os *after = memory_os_cut(w.memory, NULL, 0);
        int64_t size = memory_os_size(after, "d", "f");
        CHECK(size >= before);
        before = size;
        memory_os_destroy(after);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    check_cut(&w, NULL, 0, "f",
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
              10);
    world_end(&w);
}

CHECK_MAIN(TEST(test_reading_and_writing), TEST(test_opening), TEST(test_names), TEST(test_locks),
           TEST(test_unsynced_bytes_are_lost), TEST(test_a_sync_is_of_one_file_and_not_of_its_name),
           TEST(test_names_need_the_directory), TEST(test_any_subset_of_changes),
           TEST(test_any_subset_of_names), TEST(test_changes_can_be_inspected),
           TEST(test_torn_writes), TEST(test_overtaken_writes), TEST(test_torn_write_at_the_end),
           TEST(test_garbled_writes),
           TEST(test_garbled_behind_an_unchanged_head), TEST(test_direct),
           TEST(test_copy), TEST(test_digest), TEST(test_failed_sync),
           TEST(test_life_after_a_cut), TEST(test_damage),
           TEST(test_random_prefixes), TEST(test_cuts_while_running))
