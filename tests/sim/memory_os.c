/* memory_os.c - see memory_os.h.
 *
 * An object (a file's bytes, or a directory's names) exists twice: `now`, as the running system
 * sees it, and `disk`.  Between them stands one list of changes, in the order in which they were
 * made.  A sync marks those of its object as synced; settle() carries marked changes over to the
 * disk, as long as no older change of the same object is left (one that a failed sync has made
 * stuck), because the order of changes to one byte matters.  A power cut is then: copy the disk,
 * and go through the list.
 *
 * A single mutex guards everything.  Running out of memory ends the test.
 */
#include "memory_os.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HANDLE_BASE 1000000 /* no descriptor of the operating system, should they be mixed up */

/* Bytes that several contents may have in common, of several memory_os: an image of a cut is a copy
 * of a disk that costs nothing but what differs. */
typedef struct block {
    _Atomic unsigned users;
    size_t capacity;
    uint8_t bytes[];
} block;

typedef struct content {
    block *block; /* NULL: never had any */
    size_t size;
    uint64_t digest; /* of the bytes; 0: not known yet */
} content;

typedef struct file file;
typedef struct directory directory;

struct file {
    file *next;
    content now, disk;
    int locks_shared;
    bool locked_exclusive;
    bool blocked;  /* scratch of settle() */
    file *copy;    /* scratch of memory_os_cut() and _copy(); NULL when no name can lead to it */
};

typedef struct entry {
    char name[MEMORY_NAME_SIZE];
    file *file;
} entry;

typedef struct listing {
    entry *entries;
    size_t count, capacity;
} listing;

struct directory {
    directory *next;
    char *path;
    uint64_t number;
    listing now, disk;
    bool blocked;
    directory *copy;
};

typedef struct change {
    memory_change what;
    file *file;     /* the file concerned; its bytes are for MEMORY_WRITE, _TRUNCATE only */
    directory *dir; /* NULL for those two */
    uint8_t *bytes; /* MEMORY_WRITE; owned */
    bool direct;    /* MEMORY_WRITE: past the page cache */
    bool synced;    /* a sync has succeeded, but an older change of the object is stuck */
    bool stuck;     /* a sync has failed: no later one helps */
} change;

typedef enum handle_lock { LOCK_NONE, LOCK_SHARED, LOCK_EXCLUSIVE } handle_lock;

typedef struct handle {
    file *file;     /* one of the two; neither: closed */
    directory *dir;
    bool writable;
    unsigned direct; /* alignment; 0: off */
    handle_lock lock;
    char name[MEMORY_NAME_SIZE];
} handle;

struct memory_os {
    kv_os table;
    pthread_mutex_t mu; /* guards all that follows */
    file *files;
    directory *dirs;
    uint64_t dir_count;
    change *changes;
    size_t change_count, change_capacity;
    handle *handles; /* numbers are not used twice, so that one used after close is noticed */
    size_t handle_count, handle_capacity;
    uint64_t random_state;
    unsigned direct; /* alignment that turning it on answers */
    uint64_t direct_writes;
    uint64_t syncs;
    uint64_t sync_fail_in; /* syncs until one fails; 0: none does */
    int sync_fail_errno;
};

/* ---- Memory ---------------------------------------------------------------------------------- */

static void *must(void *block) {
    if (block == NULL) {
        fputs("memory_os: out of memory\n", stderr);
        abort();
    }
    return block;
}

/* Makes room for one more element of `size` bytes. */
static void *grown(void *array, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity)
        return array;
    *capacity = *capacity == 0 ? 16 : *capacity * 2;
    return must(realloc(array, *capacity * size));
}

static void name_copy(char *to, const char *from) {
    assert(strlen(from) < MEMORY_NAME_SIZE);
    strcpy(to, from);
}

/* Sebastiano Vigna's splitmix64 (2015). */
static uint64_t random_step(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- The bytes of a file --------------------------------------------------------------------- */

static void content_drop(content *c) {
    if (c->block != NULL && atomic_fetch_sub(&c->block->users, 1) == 1)
        free(c->block);
}

/* Before a change: the bytes become its own, with room for `size`. */
static void content_own(content *c, size_t size) {
    block *old = c->block;
    c->digest = 0;
    if (old != NULL && size <= old->capacity && atomic_load(&old->users) == 1)
        return;
    size_t capacity = size > c->size ? size + c->size : c->size;
    block *own = must(malloc(sizeof *own + capacity));
    atomic_init(&own->users, 1);
    own->capacity = capacity;
    if (c->size > 0)
        memcpy(own->bytes, old->bytes, c->size);
    content_drop(c);
    c->block = own;
}

static void content_resize(content *c, size_t size) {
    content_own(c, size);
    if (size > c->size)
        memset(c->block->bytes + c->size, 0, size - c->size);
    c->size = size;
}

static void content_write(content *c, uint64_t offset, const uint8_t *bytes, size_t size) {
    if (size == 0)
        return;
    if (offset + size > c->size)
        content_resize(c, offset + size);
    content_own(c, 0);
    memcpy(c->block->bytes + offset, bytes, size);
}

/* Into one that never had any bytes. */
static void content_copy(content *to, const content *from) {
    *to = *from;
    if (to->block != NULL)
        atomic_fetch_add(&to->block->users, 1);
}

/* Four words at a time, for a sweep over many images does little else. */
static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size) {
    enum { LANES = 4 };
    uint64_t lanes[LANES] = {hash, 1, 2, 3}, words[LANES];
    const uint8_t *p = bytes;
    hash ^= size;
    for (; size > 0; size -= size < sizeof words ? size : sizeof words, p += sizeof words) {
        if (size < sizeof words)
            memset(words, 0, sizeof words);
        memcpy(words, p, size < sizeof words ? size : sizeof words);
        for (int i = 0; i < LANES; i++) {
            lanes[i] = (lanes[i] ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15);
            lanes[i] ^= lanes[i] >> 32;
        }
    }
    for (int i = 0; i < LANES; i++)
        hash = random_step(&hash) ^ lanes[i];
    return random_step(&hash);
}

static uint64_t content_digest(content *c) {
    if (c->digest == 0)
        c->digest = hash_bytes(0, c->size > 0 ? c->block->bytes : NULL, c->size) | 1;
    return c->digest;
}

/* ---- The names of a directory ---------------------------------------------------------------- */

static entry *listing_find(listing *l, const char *name) {
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->entries[i].name, name) == 0)
            return &l->entries[i];
    return NULL;
}

static void listing_set(listing *l, const char *name, file *file) {
    entry *e = listing_find(l, name);
    if (e == NULL) {
        l->entries = grown(l->entries, l->count, &l->capacity, sizeof *l->entries);
        e = &l->entries[l->count++];
        name_copy(e->name, name);
    }
    e->file = file;
}

/* Removes the name if it stands for this file. */
static void listing_remove(listing *l, const char *name, const file *file) {
    entry *e = listing_find(l, name);
    if (e != NULL && e->file == file)
        *e = l->entries[--l->count];
}

/* ---- Changes --------------------------------------------------------------------------------- */

static change *change_add(memory_os *m, memory_change_kind kind, const char *name, file *file,
                          directory *dir) {
    m->changes = grown(m->changes, m->change_count, &m->change_capacity, sizeof *m->changes);
    change *c = &m->changes[m->change_count++];
    memset(c, 0, sizeof *c);
    c->what.kind = kind;
    name_copy(c->what.name, name);
    c->file = file;
    c->dir = dir;
    return c;
}

/* The names after the change `c` of the file `f`. */
static void names_apply(listing *names, const change *c, file *f) {
    switch (c->what.kind) {
    case MEMORY_MAKE:
        listing_set(names, c->what.name, f);
        break;
    case MEMORY_RENAME:
        listing_remove(names, c->what.name, f);
        listing_set(names, c->what.to, f);
        break;
    case MEMORY_REMOVE:
        listing_remove(names, c->what.name, f);
        break;
    case MEMORY_WRITE:
    case MEMORY_TRUNCATE:
        break;
    }
}

/* Carries every synced change over to the disk that no older change of its object holds up. */
static void settle(memory_os *m) {
    for (file *f = m->files; f != NULL; f = f->next)
        f->blocked = false;
    for (directory *d = m->dirs; d != NULL; d = d->next)
        d->blocked = false;
    size_t left = 0;
    for (size_t i = 0; i < m->change_count; i++) {
        change *c = &m->changes[i];
        bool *blocked = c->dir != NULL ? &c->dir->blocked : &c->file->blocked;
        if (!c->synced || *blocked) {
            *blocked = true;
            m->changes[left++] = *c;
            continue;
        }
        if (c->dir != NULL)
            names_apply(&c->dir->disk, c, c->file);
        else if (c->what.kind == MEMORY_TRUNCATE)
            content_resize(&c->file->disk, c->what.size);
        else
            content_write(&c->file->disk, c->what.offset, c->bytes, c->what.size);
        free(c->bytes);
    }
    m->change_count = left;
}

/* A sync of one of the two. */
static int sync_object(memory_os *m, const file *f, const directory *d) {
    bool fails = m->sync_fail_in > 0 && --m->sync_fail_in == 0;
    for (size_t i = 0; i < m->change_count; i++) {
        change *c = &m->changes[i];
        if (c->synced || c->stuck || (d != NULL ? c->dir != d : c->dir != NULL || c->file != f))
            continue;
        if (fails)
            c->stuck = true;
        else
            c->synced = true;
    }
    size_t before = m->change_count;
    settle(m);
    m->syncs += fails || m->change_count != before;
    return fails ? -m->sync_fail_errno : 0;
}

/* ---- Handles --------------------------------------------------------------------------------- */

static int handle_add(memory_os *m, file *file, directory *dir, const char *name,
                      bool writable) {
    m->handles = grown(m->handles, m->handle_count, &m->handle_capacity, sizeof *m->handles);
    handle *h = &m->handles[m->handle_count];
    memset(h, 0, sizeof *h);
    h->file = file;
    h->dir = dir;
    h->writable = writable;
    name_copy(h->name, name);
    return HANDLE_BASE + (int)m->handle_count++;
}

static handle *handle_find(memory_os *m, int number) {
    if (number < HANDLE_BASE || (size_t)(number - HANDLE_BASE) >= m->handle_count)
        return NULL;
    return &m->handles[number - HANDLE_BASE];
}

static handle *file_handle(memory_os *m, int number) {
    handle *h = handle_find(m, number);
    return h != NULL && h->file != NULL ? h : NULL;
}

static directory *dir_of(memory_os *m, int number) {
    handle *h = handle_find(m, number);
    return h != NULL ? h->dir : NULL;
}

static void unlock_handle(handle *h) {
    if (h->lock == LOCK_SHARED)
        h->file->locks_shared--;
    else if (h->lock == LOCK_EXCLUSIVE)
        h->file->locked_exclusive = false;
    h->lock = LOCK_NONE;
}

/* ---- The table: directories ------------------------------------------------------------------ */

static directory *dir_find(memory_os *m, const char *path) {
    for (directory *d = m->dirs; d != NULL; d = d->next)
        if (strcmp(d->path, path) == 0)
            return d;
    return NULL;
}

static directory *dir_add(memory_os *m, const char *path) {
    directory *d = must(calloc(1, sizeof *d));
    d->path = must(strdup(path));
    d->number = ++m->dir_count;
    d->next = m->dirs;
    m->dirs = d;
    return d;
}

static file *file_add(memory_os *m) {
    file *f = must(calloc(1, sizeof *f));
    f->next = m->files;
    m->files = f;
    return f;
}

static int memory_dir_open(void *ctx, const char *path, bool create) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    directory *d = dir_find(m, path);
    if (d == NULL && create)
        d = dir_add(m, path);
    int r = d != NULL ? handle_add(m, NULL, d, "", false) : -ENOENT;
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_identity(void *ctx, int number, const char *name, uint64_t identity[2]) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    directory *d = dir_of(m, number);
    const handle *h = file_handle(m, number);
    const file *f = h != NULL ? h->file : NULL;
    int r = d != NULL || f != NULL ? 0 : -EBADF;
    if (name != NULL && r == 0) {
        const entry *e = d != NULL ? listing_find(&d->now, name) : NULL;
        f = e != NULL ? e->file : NULL;
        d = NULL;
        r = f != NULL ? 0 : -ENOENT;
    }
    identity[0] = (uint64_t)(uintptr_t)m;
    identity[1] = d != NULL ? d->number : (uint64_t)(uintptr_t)f;
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_dir_list(void *ctx, int dir, kv_name_visitor visit, void *arg) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    directory *d = dir_of(m, dir);
    entry *entries = NULL;
    size_t count = 0;
    if (d != NULL && d->now.count > 0) {
        count = d->now.count;
        entries = must(malloc(count * sizeof *entries));
        memcpy(entries, d->now.entries, count * sizeof *entries);
    }
    pthread_mutex_unlock(&m->mu);
    /* On a copy, because the visitor may call us. */
    for (size_t i = 0; i < count && visit(arg, entries[i].name); i++)
        ;
    free(entries);
    return d != NULL ? 0 : -EBADF;
}

static int memory_dir_sync(void *ctx, int dir) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    directory *d = dir_of(m, dir);
    int r = d != NULL ? sync_object(m, NULL, d) : -EBADF;
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_rename(void *ctx, int dir, const char *from, const char *to) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    int r = 0;
    directory *d = dir_of(m, dir);
    entry *e = d != NULL ? listing_find(&d->now, from) : NULL;
    if (d == NULL) {
        r = -EBADF;
    } else if (e == NULL) {
        r = -ENOENT;
    } else if (strcmp(from, to) != 0) {
        file *f = e->file;
        change *c = change_add(m, MEMORY_RENAME, from, f, d);
        name_copy(c->what.to, to);
        names_apply(&d->now, c, f);
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_unlink(void *ctx, int dir, const char *name) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    int r = 0;
    directory *d = dir_of(m, dir);
    entry *e = d != NULL ? listing_find(&d->now, name) : NULL;
    if (d == NULL) {
        r = -EBADF;
    } else if (e == NULL) {
        r = -ENOENT;
    } else {
        file *f = e->file;
        names_apply(&d->now, change_add(m, MEMORY_REMOVE, name, f, d), f);
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

/* ---- The table: files ------------------------------------------------------------------------ */

static int open_locked(memory_os *m, int dir, const char *name, kv_open_mode mode) {
    directory *d = dir_of(m, dir);
    if (d == NULL)
        return -EBADF;
    if (strlen(name) >= MEMORY_NAME_SIZE)
        return -ENAMETOOLONG;
    entry *e = listing_find(&d->now, name);
    if (e != NULL && mode == KV_OPEN_EXCLUSIVE)
        return -EEXIST;
    if (e != NULL)
        return handle_add(m, e->file, NULL, name, mode != KV_OPEN_READ);
    if (mode == KV_OPEN_READ || mode == KV_OPEN_WRITE)
        return -ENOENT;
    file *f = file_add(m);
    names_apply(&d->now, change_add(m, MEMORY_MAKE, name, f, d), f);
    return handle_add(m, f, NULL, name, true);
}

static int memory_open(void *ctx, int dir, const char *name, kv_open_mode mode) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    int r = open_locked(m, dir, name, mode);
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_close(void *ctx, int number) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = handle_find(m, number);
    int r = h != NULL && (h->file != NULL || h->dir != NULL) ? 0 : -EBADF;
    if (r == 0) {
        unlock_handle(h);
        h->file = NULL;
        h->dir = NULL;
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int64_t memory_size(void *ctx, int number) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int64_t r = h != NULL ? (int64_t)h->file->now.size : -EBADF;
    pthread_mutex_unlock(&m->mu);
    return r;
}

/* Direct I/O on a handle must be aligned. */
static void check_alignment(const handle *h, const void *buffer, size_t size, uint64_t offset) {
    if (h->direct == 0 || (((uintptr_t)buffer | size | offset) & (h->direct - 1)) == 0)
        return;
    fprintf(stderr, "memory_os: direct I/O on %s is not aligned to %u: %p, %zu bytes at %llu\n",
            h->name, h->direct, buffer, size, (unsigned long long)offset);
    abort();
}

static int64_t memory_read(void *ctx, int number, void *buffer, size_t size, uint64_t offset) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int64_t r = -EBADF;
    if (h != NULL) {
        check_alignment(h, buffer, size, offset);
        const content *now = &h->file->now;
        size_t rest = offset < now->size ? now->size - (size_t)offset : 0;
        size_t part = size < rest ? size : rest;
        if (part > 0)
            memcpy(buffer, now->block->bytes + offset, part);
        r = (int64_t)part;
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int64_t memory_write(void *ctx, int number, const void *buffer, size_t size,
                            uint64_t offset) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int64_t r = -EBADF;
    if (h != NULL && h->writable) {
        check_alignment(h, buffer, size, offset);
        m->direct_writes += h->direct != 0;
        r = (int64_t)size;
        if (size > 0) {
            change *c = change_add(m, MEMORY_WRITE, h->name, h->file, NULL);
            c->what.offset = offset;
            c->what.size = size;
            c->what.tears = (size_t)((offset + size - 1) / MEMORY_SECTOR - offset / MEMORY_SECTOR);
            const content *now = &h->file->now;
            c->what.same = offset + size <= now->size &&
                           memcmp(now->block->bytes + offset, buffer, size) == 0;
            c->direct = h->direct != 0;
            c->bytes = must(malloc(size));
            memcpy(c->bytes, buffer, size);
            content_write(&h->file->now, offset, buffer, size);
        }
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_sync(void *ctx, int number) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int r = h != NULL ? sync_object(m, h->file, NULL) : -EBADF;
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_truncate(void *ctx, int number, uint64_t size) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int r = h == NULL ? -EBADF : h->writable ? 0 : -EINVAL;
    if (r == 0 && size != h->file->now.size) {
        change_add(m, MEMORY_TRUNCATE, h->name, h->file, NULL)->what.size = size;
        content_resize(&h->file->now, size);
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

/* Of an empty file this is all that can be seen of it. */
static int memory_reserve(void *ctx, int number, uint64_t size) {
    return memory_truncate(ctx, number, size);
}

static int memory_direct(void *ctx, int number, bool on) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int r = h == NULL ? -EBADF : !on ? 1 : m->direct == 0 ? -EOPNOTSUPP : (int)m->direct;
    if (r > 0)
        h->direct = on ? m->direct : 0;
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_lock(void *ctx, int number, bool shared) {
    memory_os *m = ctx;
    pthread_mutex_lock(&m->mu);
    handle *h = file_handle(m, number);
    int r = h != NULL ? 0 : -EBADF;
    if (r == 0) {
        unlock_handle(h); /* a lock is converted by giving it up first, as flock() does */
        if (h->file->locked_exclusive || (!shared && h->file->locks_shared > 0)) {
            r = -EWOULDBLOCK;
        } else if (shared) {
            h->lock = LOCK_SHARED;
            h->file->locks_shared++;
        } else {
            h->lock = LOCK_EXCLUSIVE;
            h->file->locked_exclusive = true;
        }
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

static int memory_random(void *ctx, void *buffer, size_t size) {
    memory_os *m = ctx;
    uint8_t *p = buffer;
    pthread_mutex_lock(&m->mu);
    for (size_t i = 0; i < size; i++)
        p[i] = (uint8_t)(random_step(&m->random_state) >> 56);
    pthread_mutex_unlock(&m->mu);
    return 0;
}

static const kv_os memory_functions = {
    .dir_open = memory_dir_open,
    .identity = memory_identity,
    .dir_list = memory_dir_list,
    .dir_sync = memory_dir_sync,
    .open = memory_open,
    .close = memory_close,
    .size = memory_size,
    .read = memory_read,
    .write = memory_write,
    .sync = memory_sync,
    .truncate = memory_truncate,
    .reserve = memory_reserve,
    .rename = memory_rename,
    .unlink = memory_unlink,
    .lock = memory_lock,
    .random = memory_random,
    .direct = memory_direct,
};

/* ---- Life ------------------------------------------------------------------------------------ */

memory_os *memory_os_create(uint64_t seed) {
    memory_os *m = must(calloc(1, sizeof *m));
    m->table = memory_functions;
    m->table.ctx = m;
    m->random_state = seed;
    m->direct = MEMORY_DIRECT_ALIGNMENT;
    pthread_mutex_init(&m->mu, NULL);
    return m;
}

void memory_os_destroy(memory_os *m) {
    if (m == NULL)
        return;
    for (file *f = m->files, *next; f != NULL; f = next) {
        next = f->next;
        content_drop(&f->now);
        content_drop(&f->disk);
        free(f);
    }
    for (directory *d = m->dirs, *next; d != NULL; d = next) {
        next = d->next;
        free(d->now.entries);
        free(d->disk.entries);
        free(d->path);
        free(d);
    }
    for (size_t i = 0; i < m->change_count; i++)
        free(m->changes[i].bytes);
    free(m->changes);
    free(m->handles);
    pthread_mutex_destroy(&m->mu);
    free(m);
}

const kv_os *memory_os_table(memory_os *m) {
    return &m->table;
}

void memory_os_set_direct(memory_os *m, unsigned alignment) {
    assert((alignment & (alignment - 1)) == 0 && alignment <= KV_DIRECT_ALIGNMENT_MAX);
    pthread_mutex_lock(&m->mu);
    m->direct = alignment;
    pthread_mutex_unlock(&m->mu);
}

uint64_t memory_os_syncs(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    uint64_t syncs = m->syncs;
    pthread_mutex_unlock(&m->mu);
    return syncs;
}

uint64_t memory_os_direct_writes(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    uint64_t writes = m->direct_writes;
    pthread_mutex_unlock(&m->mu);
    return writes;
}

/* ---- Changes and cuts ------------------------------------------------------------------------ */

size_t memory_os_change_count(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    size_t count = 0;
    for (size_t i = 0; i < m->change_count; i++)
        count += !m->changes[i].synced;
    pthread_mutex_unlock(&m->mu);
    return count;
}

/* The change that is number `index` of those that are not synced. */
static const change *change_find(const memory_os *m, size_t index) {
    size_t i = 0;
    for (;; i++) {
        assert(i < m->change_count);
        if (!m->changes[i].synced && index-- == 0)
            return &m->changes[i];
    }
}

memory_change memory_os_change(memory_os *m, size_t index) {
    pthread_mutex_lock(&m->mu);
    memory_change what = change_find(m, index)->what;
    pthread_mutex_unlock(&m->mu);
    return what;
}

/* How many bytes at the start of the write are there already, within its first block of direct I/O: point 9. */
static size_t unchanged_head(const content *disk, const change *c) {
    uint64_t offset = c->what.offset;
    size_t most = KV_DIRECT_ALIGNMENT_MAX - offset % KV_DIRECT_ALIGNMENT_MAX, same = 0;
    while (same < most && same < c->what.size && offset + same < disk->size &&
           disk->block->bytes[offset + same] == c->bytes[same])
        same++;
    return c->direct ? same : 0;
}

/* Where the write was going: zeros, or other bytes. */
static void write_other(content *disk, const change *c, bool zeros, uint64_t seed) {
    size_t size = c->what.size, head = unchanged_head(disk, c);
    uint8_t *bytes = must(calloc(1, size));
    for (size_t i = 0; i < size && !zeros; i++)
        bytes[i] = (uint8_t)(random_step(&seed) >> 56);
    content_write(disk, c->what.offset + head, bytes + head, size - head);
    free(bytes);
}

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* A write without the sectors that it shares with another one. */
static void write_overtaken(content *disk, const change *c, const change *other) {
    uint64_t start = c->what.offset, end = start + c->what.size, from = end, to = end;
    if (other->file == c->file && other->what.kind == MEMORY_WRITE) {
        uint64_t last = (other->what.offset + other->what.size - 1) / MEMORY_SECTOR;
        from = min_u64(end, other->what.offset / MEMORY_SECTOR * MEMORY_SECTOR);
        to = min_u64(end, (last + 1) * MEMORY_SECTOR);
    }
    if (from > start)
        content_write(disk, start, c->bytes, (size_t)(from - start));
    if (to < start)
        to = start;
    content_write(disk, to, c->bytes + (to - start), (size_t)(end - to));
}

/* A write as the cut left it. */
static void write_apply(content *disk, const change *c, memory_fate fate) {
    uint64_t offset = c->what.offset;
    size_t from = 0, to = c->what.size;
    if (fate.kind == MEMORY_ZEROED || fate.kind == MEMORY_GARBLED) {
        to = 0;
    } else if (fate.kind != MEMORY_KEPT) {
        assert(fate.at >= 1 && fate.at <= c->what.tears);
        size_t boundary = (size_t)((offset / MEMORY_SECTOR + fate.at) * MEMORY_SECTOR - offset);
        if (fate.kind == MEMORY_TORN_HEAD)
            from = boundary;
        else
            to = boundary;
    }
    if (fate.kind == MEMORY_ZEROED || fate.kind == MEMORY_TORN_ZEROED)
        write_other(disk, c, true, 0);
    if (fate.kind == MEMORY_GARBLED || fate.kind == MEMORY_TORN_GARBLED)
        write_other(disk, c, false, fate.at);
    content_write(disk, offset + from, c->bytes + from, to - from);
}

static void copy_file(memory_os *after, file *f) {
    if (f->copy != NULL)
        return;
    f->copy = file_add(after);
    (void)content_digest(&f->disk); /* once, for all its copies */
    content_copy(&f->copy->disk, &f->disk);
}

static void copy_names(listing *to, const listing *from) {
    for (size_t i = 0; i < from->count; i++)
        listing_set(to, from->entries[i].name, from->entries[i].file->copy);
}

/* Copies the disk of `m` into the empty `after`: the files that have a name, or are to have one. */
static void copy_disk(memory_os *after, memory_os *m) {
    for (file *f = m->files; f != NULL; f = f->next)
        f->copy = NULL;
    for (directory *d = m->dirs; d != NULL; d = d->next) {
        d->copy = dir_add(after, d->path);
        for (size_t i = 0; i < d->disk.count; i++)
            copy_file(after, d->disk.entries[i].file);
        copy_names(&d->copy->disk, &d->disk);
    }
    for (size_t i = 0; i < m->change_count; i++)
        if (m->changes[i].dir != NULL)
            copy_file(after, m->changes[i].file);
}

/* After a start the running system sees what is on the disk. */
static void start_from_disk(memory_os *m) {
    for (file *f = m->files; f != NULL; f = f->next)
        content_copy(&f->now, &f->disk);
    for (directory *d = m->dirs; d != NULL; d = d->next)
        for (size_t i = 0; i < d->disk.count; i++)
            listing_set(&d->now, d->disk.entries[i].name, d->disk.entries[i].file);
}

/* Other random bytes than the first time: a salt must not come twice. */
static memory_os *create_after(const memory_os *m) {
    memory_os *after = memory_os_create(m->random_state ^ UINT64_C(0x5851f42d4c957f2d));
    after->direct = m->direct;
    return after;
}

memory_os *memory_os_cut(memory_os *m, const memory_fate *fates, size_t count) {
    static const memory_fate lost = {MEMORY_LOST, 0}, kept = {MEMORY_KEPT, 0};
    pthread_mutex_lock(&m->mu);
    memory_os *after = create_after(m);
    copy_disk(after, m);
    size_t index = 0;
    for (size_t i = 0; i < m->change_count; i++) {
        const change *c = &m->changes[i];
        memory_fate fate = lost;
        if (c->synced)
            fate = kept;
        else if (index < count)
            fate = fates[index];
        index += !c->synced;
        if (fate.kind == MEMORY_LOST)
            continue;
        if (c->dir != NULL)
            names_apply(&c->dir->copy->disk, c, c->file->copy);
        else if (c->file->copy == NULL)
            continue; /* whatever becomes of it */
        else if (c->what.kind == MEMORY_TRUNCATE)
            content_resize(&c->file->copy->disk, c->what.size);
        else if (fate.kind == MEMORY_OVERTAKEN)
            write_overtaken(&c->file->copy->disk, c, change_find(m, (size_t)fate.at));
        else
            write_apply(&c->file->copy->disk, c, fate);
    }
    pthread_mutex_unlock(&m->mu);
    start_from_disk(after);
    return after;
}

memory_os *memory_os_cut_after(memory_os *m, size_t kept) {
    memory_fate *fates = must(calloc(kept + 1, sizeof *fates));
    for (size_t i = 0; i < kept; i++)
        fates[i].kind = MEMORY_KEPT;
    memory_os *after = memory_os_cut(m, fates, kept);
    free(fates);
    return after;
}

memory_os *memory_os_copy(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    memory_os *after = create_after(m);
    for (file *f = m->files; f != NULL; f = f->next) {
        f->copy = file_add(after);
        content_copy(&f->copy->now, &f->now);
        content_copy(&f->copy->disk, &f->disk);
    }
    for (directory *d = m->dirs; d != NULL; d = d->next) {
        d->copy = dir_add(after, d->path);
        copy_names(&d->copy->now, &d->now);
        copy_names(&d->copy->disk, &d->disk);
    }
    for (size_t i = 0; i < m->change_count; i++) {
        const change *from = &m->changes[i];
        change *c = change_add(after, from->what.kind, from->what.name, from->file->copy,
                               from->dir != NULL ? from->dir->copy : NULL);
        c->what = from->what;
        c->direct = from->direct;
        c->synced = from->synced;
        c->stuck = from->stuck;
        if (from->bytes != NULL) {
            c->bytes = must(malloc(from->what.size));
            memcpy(c->bytes, from->bytes, from->what.size);
        }
    }
    pthread_mutex_unlock(&m->mu);
    return after;
}

void memory_os_settle(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    for (size_t i = 0; i < m->change_count; i++)
        m->changes[i].synced |= !m->changes[i].stuck;
    settle(m);
    m->syncs++;
    pthread_mutex_unlock(&m->mu);
}

void memory_os_fail_sync(memory_os *m, uint64_t nth, int sys_errno) {
    pthread_mutex_lock(&m->mu);
    m->sync_fail_in = nth;
    m->sync_fail_errno = sys_errno;
    pthread_mutex_unlock(&m->mu);
}

/* ---- Behind the back ------------------------------------------------------------------------- */

static file *file_find(memory_os *m, const char *dir, const char *name) {
    directory *d = dir_find(m, dir);
    entry *e = d != NULL ? listing_find(&d->now, name) : NULL;
    return e != NULL ? e->file : NULL;
}

int memory_os_peek(memory_os *m, const char *dir, const char *name, uint64_t offset,
                   void *buffer, size_t size) {
    pthread_mutex_lock(&m->mu);
    file *f = file_find(m, dir, name);
    int r = f == NULL ? -ENOENT : offset + size > f->now.size ? -ERANGE : 0;
    if (r == 0 && size > 0)
        memcpy(buffer, f->now.block->bytes + offset, size);
    pthread_mutex_unlock(&m->mu);
    return r;
}

int memory_os_poke(memory_os *m, const char *dir, const char *name, uint64_t offset,
                   const void *bytes, size_t size) {
    pthread_mutex_lock(&m->mu);
    file *f = file_find(m, dir, name);
    int r = f == NULL ? -ENOENT : offset + size > f->now.size ? -ERANGE : 0;
    if (r == 0) {
        content_write(&f->now, offset, bytes, size);
        content_write(&f->disk, offset, bytes, size);
    }
    pthread_mutex_unlock(&m->mu);
    return r;
}

uint64_t memory_os_digest(memory_os *m, const char *dir) {
    pthread_mutex_lock(&m->mu);
    directory *d = dir_find(m, dir);
    uint64_t digest = 0;
    for (size_t i = 0; d != NULL && i < d->now.count; i++) {
        const entry *e = &d->now.entries[i];
        /* A sum, for the order of names means nothing. */
        digest += hash_bytes(content_digest(&e->file->now), e->name, strlen(e->name));
    }
    pthread_mutex_unlock(&m->mu);
    return digest;
}

int64_t memory_os_size(memory_os *m, const char *dir, const char *name) {
    pthread_mutex_lock(&m->mu);
    file *f = file_find(m, dir, name);
    int64_t r = f != NULL ? (int64_t)f->now.size : -ENOENT;
    pthread_mutex_unlock(&m->mu);
    return r;
}

size_t memory_os_open_count(memory_os *m) {
    pthread_mutex_lock(&m->mu);
    size_t count = 0;
    for (size_t i = 0; i < m->handle_count; i++)
        count += m->handles[i].file != NULL || m->handles[i].dir != NULL;
    pthread_mutex_unlock(&m->mu);
    return count;
}
