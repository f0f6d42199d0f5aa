/* fuzz_recovery.c - the files of a store, damaged in many ways at once, and then opened, checked and salvaged.
 *
 * The files are those of real stores, closed or killed.  The input's first byte chooses one, the second one whether
 * checksums are made to fit in the end (image.h); then come changes of eight bytes each: flips, fills, copies from
 * file to file and from an earlier moment of the same store, cuts, files that are missing, swapped or another
 * store's.
 *
 * Whatever the changes: an open shows what FORMAT.md says (image.h).  With checksums as they are, that is a state
 * that the store once had, or an error that kv_check explains; and what a salvage finds was once written.
 */
#include "image.h"

enum { SUMS = 1, PLACES = 2, CHANGE_SIZE = 8, CHANGES_MAX = 64, FILE_MAX = 32768 };
enum { BASES = 4, STEPS = 120, KEYS = 40 };

static const char *const names[] = {
    "STORE",        "LOCK",         "00000001.log", "00000002.log",  "00000003.log",  "00000004.log",
    "00000005.log", "00000006.log", "00000007.log", "00000008.log",  "00000009.log",  "00000001.ckpt",
    "00000002.ckpt", "00000003.ckpt", "00000004.ckpt", "00000005.ckpt", "00000006.ckpt", "00000099.log",
    "00000099.ckpt", "spare.log",   "recycled.log", "checkpoint.tmp", "STORE.tmp",    "torn.bin",
    "note.txt",      "recycled.ckpt"};
enum { NAMES = sizeof names / sizeof names[0] };

typedef struct file {
    uint8_t *bytes; /* NULL: there is none */
    size_t size;
} file;

typedef struct files {
    file list[NAMES];
} files;

typedef struct base {
    files now, earlier;
    uint64_t states[STEPS + 1]; /* the digests of what it held, one after the other */
    unsigned state_count;
} base;

static base bases[BASES];

/* ---- Files --------------------------------------------------------------------------------- */

static void file_set(file *f, const uint8_t *bytes, size_t size) {
    uint8_t *copy = bytes == NULL ? NULL : fuzz_copy(bytes, size);
    free(f->bytes);
    *f = (file){copy, size};
}

static void file_resize(file *f, size_t size) {
    f->bytes = realloc(f->bytes, size + 1);
    DEMAND(f->bytes != NULL);
    if (size > f->size)
        memset(f->bytes + f->size, 0, size - f->size);
    f->size = size;
}

static void files_load(files *f, memory_os *memory) {
    for (unsigned i = 0; i < NAMES; i++)
        f->list[i].bytes = reader_file(memory, names[i], &f->list[i].size);
}

static void files_copy(files *to, const files *from) {
    for (unsigned i = 0; i < NAMES; i++)
        file_set(&to->list[i], from->list[i].bytes, from->list[i].size);
}

/* The image of these files, which are given up. */
static memory_os *files_image(files *f, unsigned mode) {
    memory_os *image = memory_os_create(1);
    const kv_os *os = memory_os_table(image);
    int dir = os->dir_open(os->ctx, WORLD_DIR, true); /* even when nothing is in it */
    DEMAND(dir >= 0 && os->close(os->ctx, dir) == 0);
    for (unsigned i = 0; i < NAMES; i++) {
        uint8_t *bytes = f->list[i].bytes;
        size_t size = f->list[i].size;
        if (bytes == NULL)
            continue;
        if ((mode & SUMS) && i == 0)
            sum_identity(bytes, size);
        else if ((mode & SUMS) && strstr(names[i], ".log") != NULL)
            sum_segment(bytes, size, (mode & PLACES) != 0);
        else if ((mode & SUMS) && strstr(names[i], ".ckpt") != NULL)
            sum_checkpoint(bytes, size);
        image_write(image, names[i], bytes, size);
        free(bytes);
    }
    return image;
}

/* ---- The stores ---------------------------------------------------------------------------- */

/* Tells its key, which store it was for and when it was written.  In one of two buffers. */
static kv_bytes value_of(unsigned number, unsigned step, unsigned key) {
    static char texts[2][128];
    static unsigned turn;
    char *text = texts[turn++ % 2];
    int size = snprintf(text, sizeof texts[0], "store %u, step %u, key %u:%*s", number, step, key,
                        (int)((step * 7 + key) % 60), "");
    return bytes_of(text, (size_t)size);
}

static kv_bytes key_of(unsigned key) {
    static char texts[8][16];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    return bytes_of(text, (size_t)snprintf(text, sizeof texts[0], "key-%u", key));
}

static void note_salvaged(kv_bytes key, kv_bytes value) {
    char text[128];
    unsigned number, step, which;
    CHECK(value.size < sizeof text);
    memcpy(text, value.data, value.size);
    text[value.size] = '\0';
    CHECK_EQ(sscanf(text, "store %u, step %u, key %u", &number, &step, &which), 3);
    kv_bytes wanted = value_of(number, step, which), wanted_key = key_of(which);
    CHECK(number < BASES && step <= STEPS && value.size == wanted.size && key.size == wanted_key.size);
    CHECK_MEM(value.data, wanted.data, value.size);
    CHECK_MEM(key.data, wanted_key.data, key.size);
}

typedef struct story {
    world *w;
    model *m;
    base *b;
    unsigned number, step;
} story;

/* Some expire when the store is opened, others never or much later. */
static uint64_t expiry_for(unsigned step) {
    return step % 11 == 4 ? IMAGE_NOW - 1000 : step % 5 == 1 ? IMAGE_NOW + step : 0;
}

static void write_some(story *s, unsigned count) {
    kv_op ops[8];
    DEMAND(count <= 8);
    for (unsigned i = 0; i < count; i++) {
        unsigned key = (s->step * 13 + i * 5) % KEYS;
        kv_bytes k = key_of(key);
        ops[i] = (kv_op){.key = k, .kind = KV_OP_PUT};
        if (s->step % 6 == 3 && i == count - 1) {
            ops[i].kind = KV_OP_DELETE;
            model_delete(s->m, k);
        } else if (s->step % 6 == 5 && i == count - 1) {
            ops[i].kind = KV_OP_EXPIRE;
            ops[i].expiry = expiry_for(s->step + 1);
            model_expire(s->m, k, ops[i].expiry);
        } else {
            static char bytes[8][128];
            ops[i].value = value_of(s->number, s->step, key);
            ops[i].expiry = expiry_for(s->step + i);
            memcpy(bytes[i], ops[i].value.data, ops[i].value.size);
            ops[i].value.data = bytes[i];
            model_put_expiring(s->m, k, ops[i].value, ops[i].expiry);
        }
    }
    CHECK_OK(kv_write(s->w->db, ops, count, 0, NULL, &s->w->err), &s->w->err);
}

static void note_state(story *s) {
    model *seen = model_clone(s->m);
    model_sweep(seen, IMAGE_NOW);
    s->b->states[s->b->state_count++] = model_digest(seen);
    model_destroy(seen);
}

/* The keeper makes a spare of what it finds: so that each run finds the same. */
static void await_spare(story *s) {
    while (memory_os_size(s->w->memory, WORLD_DIR, "spare.log") < 0)
        usleep(100);
}

static void files_of_now(files *f, world *w) {
    memory_os *all = memory_os_cut_after(w->memory, memory_os_change_count(w->memory));
    files_load(f, all);
    memory_os_destroy(all);
}

static void make_base(unsigned number) {
    static const struct {
        kv_sync sync;
        unsigned steps, checkpoints[2], clear;
        bool closed;
    } plans[BASES] = {
        {KV_SYNC_ALWAYS, 90, {40, 75}, 0, true},
        {KV_SYNC_ALWAYS, 100, {30, 60}, 0, false},
        {KV_SYNC_NEVER, 60, {0, 0}, 45, false},
        {KV_SYNC_NEVER, 120, {10, 0}, 30, false},
    };
    story s = {world_create_on(memory_os_create(number + 1)), model_create(), &bases[number], number, 0};
    s.w->options.segment_size_max = WORLD_SEGMENT_SIZE;
    s.w->options.sync = plans[number].sync;
    world_set_clock(s.w, IMAGE_NOW - 86400000);
    world_open(s.w);
    note_state(&s);
    for (s.step = 1; s.step <= plans[number].steps; s.step++) {
        if (s.step == plans[number].checkpoints[0] || s.step == plans[number].checkpoints[1])
            CHECK_OK(kv_checkpoint(s.w->db, NULL, NULL, &s.w->err), &s.w->err);
        if (s.step == plans[number].clear) {
            CHECK_OK(kv_clear(s.w->db, 0, &s.w->err), &s.w->err);
            model_clear(s.m);
        } else {
            write_some(&s, s.step % 8 == 7 ? 5 : 1);
        }
        note_state(&s);
        await_spare(&s);
        if (s.step == plans[number].steps * 2 / 3)
            files_of_now(&s.b->earlier, s.w);
    }
    if (plans[number].closed)
        world_close(s.w);
    else
        world_kill(s.w);
    files_of_now(&s.b->now, s.w);
    world_destroy(s.w);
    model_destroy(s.m);
}

static bool was_a_state(uint64_t digest) {
    for (unsigned i = 0; i < BASES; i++)
        for (unsigned j = 0; j < bases[i].state_count; j++)
            if (bases[i].states[j] == digest)
                return true;
    return false;
}

/* ---- Changes ------------------------------------------------------------------------------- */

/* Mostly one that is there. */
static file *choose(files *f, uint8_t byte) {
    unsigned there = 0;
    if (byte >= 192)
        return &f->list[byte % NAMES];
    for (unsigned i = 0; i < NAMES; i++)
        there += f->list[i].bytes != NULL;
    if (there == 0)
        return &f->list[0];
    unsigned wanted = byte % there;
    for (unsigned i = 0;; i++)
        if (f->list[i].bytes != NULL && wanted-- == 0)
            return &f->list[i];
}

static void copy_range(file *to, size_t at, const file *from, size_t from_at, size_t size) {
    if (to->size <= at || from->size <= from_at)
        return;
    if (size > to->size - at)
        size = to->size - at;
    if (size > from->size - from_at)
        size = from->size - from_at;
    memmove(to->bytes + at, from->bytes + from_at, size);
}

/* `sums`: a change may also write a number, which cannot go unnoticed otherwise but by chance. */
static void change(files *f, const base *b, const uint8_t *c, bool sums) {
    enum { FLIP, FILL, COPY, OLD_RANGE, OLD_FILE, CUT, GROW, REMOVE, SWAP, COPY_FILE, OTHER_STORE, MOVE, NUMBER, KINDS };
    file *one = choose(f, c[1]), *other = choose(f, c[2]);
    unsigned which = (unsigned)(one - f->list);
    const file *old = &b->earlier.list[which], *foreign = &bases[c[2] % BASES].now.list[which];
    size_t at = c[3] | (size_t)c[4] << 8, from = c[6] | (size_t)c[7] << 8, some = c[5] + 1u;
    if (one->bytes == NULL && c[0] % KINDS != SWAP && c[0] % KINDS != OTHER_STORE)
        return;
    at = one->size > 0 ? at % one->size : 0;
    switch (c[0] % KINDS) {
    case FLIP:
        if (one->size > 0)
            one->bytes[at] ^= c[6] != 0 ? c[6] : 1;
        break;
    case FILL:
        memset(one->bytes + at, c[6], some < one->size - at ? some : one->size - at);
        break;
    case COPY:
        copy_range(one, at, other, other->size > 0 ? from % other->size : 0, some * 8);
        break;
    case OLD_RANGE:
        copy_range(one, at & ~(size_t)15, old, at & ~(size_t)15, some * 16);
        break;
    case OLD_FILE:
        file_set(one, old->bytes, old->size);
        break;
    case CUT:
        file_resize(one, at);
        break;
    case GROW:
        if (one->size < FILE_MAX)
            file_resize(one, one->size + some * 16);
        break;
    case REMOVE:
        file_set(one, NULL, 0);
        break;
    case SWAP: {
        file kept = *one;
        *one = *other;
        *other = kept;
        break;
    }
    case COPY_FILE:
        file_set(&f->list[c[3] % NAMES], one->bytes, one->size);
        break;
    case OTHER_STORE:
        file_set(one, foreign->bytes, foreign->size);
        break;
    case MOVE:
        if (at < one->size && some < one->size - at) {
            memmove(one->bytes + at, one->bytes + at + some, one->size - at - some);
            file_resize(one, one->size - some);
        }
        break;
    case NUMBER:
        if (sums && at + 8 <= one->size)
            kv_store64(one->bytes + at, ((uint64_t)c[6] << (c[5] % 64)) - (c[7] & 1));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (bases[0].state_count == 0)
        for (unsigned i = 0; i < BASES; i++)
            make_base(i);
    if (size < 2 || size > 2 + CHANGES_MAX * CHANGE_SIZE)
        return 0;
    const base *b = &bases[data[0] % BASES];
    unsigned mode = data[1];
    files f = {0};
    files_copy(&f, &b->now);
    for (size_t at = 2; at + CHANGE_SIZE <= size; at += CHANGE_SIZE)
        change(&f, b, data + at, (mode & SUMS) != 0);
    verdict v = judge(files_image(&f, mode), mode & SUMS ? NULL : note_salvaged);
    if (mode & SUMS)
        return 0;
    if (size < 2 + CHANGE_SIZE)
        DEMAND(v.whole && v.digest == b->states[b->state_count - 1]);
    if (v.whole)
        DEMAND(was_a_state(v.digest));
    DEMAND((v.problems == 0) == v.flawless);
    return 0;
}
