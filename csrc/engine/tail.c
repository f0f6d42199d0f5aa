/* tail.c - see tail.h. */
#include "tail.h"

#include "../base/mem.h"

/* A draft grows and does not split.  So a shard that may become too large for that is loaded, and
 * changed itself. */
#define SHARD_ENTRIES_MAX (2 * KV_SHARD_BUCKETS_MAX * KV_BUCKET_LOAD)

typedef struct change {
    struct change *next;
    uint64_t hash;
    kv_entry *entry; /* owned; without a value, unless it is a put */
    kv_record_kind kind;
} change;

/* Bytes of changes, those that later ones replace included, of each side of the hashes (kv_hash_side): together 64
 * MiB. */
static const uint64_t changes_max[2] = {UINT64_C(20) << 20, UINT64_C(44) << 20};

/* What waits for a shard, in order. */
typedef struct waiting {
    change *first, *last;
    uint32_t count;
} waiting;

/* Of one side of the hashes: changed by the thread that recovers it. */
typedef struct side {
    _Alignas(64) uint64_t size; /* bytes */
    uint64_t next_expiry;
} side;

struct kv_tail {
    side sides[2];
    kv_shard_loader loader; /* the checkpoint's */
    void *loader_arg;
    size_t count;
    waiting blocks[];
};

/* ---- Applying ---------------------------------------------------------------------------------- */

static kv_status put(kv_table *table, kv_shard *shard, const change *c, kv_error *err) {
    kv_place place;
    uint64_t room = (uint64_t)kv_array_count(kv_shard_array(shard)) * KV_BUCKET_LOAD;
    kv_entry *old = kv_shard_find(shard, c->hash, kv_entry_key(c->entry), &place);
    if (old == NULL && shard->count + UINT64_C(1) > room) {
        kv_status status = kv_shard_grow(table, shard, shard->count + UINT64_C(1), err);
        if (status < 0)
            return status;
    }
    kv_entry_acquire(c->entry);
    if (old == NULL) {
        kv_shard_insert(shard, c->hash, c->entry);
    } else {
        kv_shard_replace(shard, place, c->entry);
        kv_entry_release(table->entries, old);
    }
    return KV_OK;
}

kv_status kv_tail_change(kv_table *table, kv_shard *shard, uint64_t hash, const kv_record *r,
                         kv_error *err) {
    kv_place place;
    kv_entry *old = kv_shard_find(shard, hash, r->key, &place);
    if (old == NULL)
        return KV_OK;
    if (r->kind == KV_RECORD_DELETE) {
        kv_shard_remove(shard, hash, place);
    } else {
        kv_bytes value = kv_entry_value(old);
        kv_entry *new = kv_entry_create_expiring(table->entries, r->key, value, r->expiry);
        if (new == NULL)
            return kv_fail_nomem(err, kv_entry_block_size(r->key.size, value.size, r->expiry));
        kv_shard_replace(shard, place, new);
    }
    kv_entry_release(table->entries, old);
    return KV_OK;
}

/* Changes a draft, which nobody else can see. */
static kv_status apply(kv_table *table, kv_shard *draft, const change *c, kv_error *err) {
    kv_record r = {
        .kind = c->kind, .key = kv_entry_key(c->entry), .expiry = kv_entry_expiry(c->entry)};
    return c->kind == KV_RECORD_PUT ? put(table, draft, c, err)
                                    : kv_tail_change(table, draft, c->hash, &r, err);
}

static kv_status load(void *arg, kv_table *table, uint32_t block, kv_shard *draft, kv_error *err) {
    const kv_tail *tail = arg;
    kv_status status = tail->loader(tail->loader_arg, table, block, draft, err);
    if (status < 0)
        return status;
    for (const change *c = tail->blocks[block].first; c != NULL && status == KV_OK; c = c->next)
        status = apply(table, draft, c, err);
    if (status < 0)
        kv_array_release(table, kv_shard_array(draft));
    return status;
}

/* ---- Life -------------------------------------------------------------------------------------- */

kv_status kv_tail_create(kv_table *table, kv_tail **out, kv_error *err) {
    size_t count = (size_t)atomic_load_explicit(&table->unloaded, memory_order_relaxed);
    size_t size = sizeof(kv_tail) + count * sizeof(waiting);
    kv_tail *tail = kv_mem_alloc_aligned(size, _Alignof(kv_tail));
    if (tail == NULL)
        return kv_fail_nomem(err, size);
    memset(tail, 0, size);
    tail->sides[0].next_expiry = tail->sides[1].next_expiry = UINT64_MAX;
    tail->loader = table->loader;
    tail->loader_arg = table->loader_arg;
    tail->count = count;
    table->loader = load;
    table->loader_arg = tail;
    *out = tail;
    return KV_OK;
}

void kv_tail_destroy(kv_tail *tail) {
    kv_mem_free(tail);
}

void kv_tail_drop(kv_tail *tail, kv_table *table) {
    for (size_t i = 0; i < tail->count; i++) {
        for (change *c = tail->blocks[i].first, *next; c != NULL; c = next) {
            next = c->next;
            kv_entry_release(table->entries, c->entry);
            kv_pool_free(table->entries, c, sizeof *c);
        }
        tail->blocks[i] = (waiting){0};
    }
    for (unsigned i = 0; i < 2; i++)
        tail->sides[i] = (side){.next_expiry = UINT64_MAX};
}

/* ---- Filling ----------------------------------------------------------------------------------- */

bool kv_tail_is_full(const kv_tail *tail, const kv_shard *shard, uint64_t hash) {
    unsigned number = kv_hash_side(hash);
    return tail->sides[number].size >= changes_max[number] ||
           (uint64_t)shard->count + tail->blocks[shard->block].count >= SHARD_ENTRIES_MAX;
}

kv_status kv_tail_add(kv_tail *tail, kv_table *table, const kv_shard *shard, uint64_t hash,
                      const kv_record *r, kv_error *err) {
    side *s = &tail->sides[kv_hash_side(hash)];
    waiting *w = &tail->blocks[shard->block];
    size_t size = sizeof(change) + kv_entry_block_size(r->key.size, r->value.size, r->expiry);
    change *c = kv_pool_alloc(table->entries, sizeof *c);
    kv_entry *e = kv_entry_create_expiring(table->entries, r->key, r->value, r->expiry);
    if (c == NULL || e == NULL) {
        kv_pool_free(table->entries, c, sizeof *c);
        kv_entry_release(table->entries, e);
        return kv_fail_nomem(err, size);
    }
    *c = (change){.hash = hash, .entry = e, .kind = r->kind};
    if (w->last != NULL)
        w->last->next = c;
    else
        w->first = c;
    w->last = c;
    w->count++;
    s->size += size;
    if (r->expiry != 0 && r->expiry < s->next_expiry)
        s->next_expiry = r->expiry;
    return KV_OK;
}

/* ---- Asking ------------------------------------------------------------------------------------ */

bool kv_tail_concerns(const kv_tail *tail, const kv_shard *shard) {
    return tail->blocks[shard->block].first != NULL;
}

bool kv_tail_is_empty(const kv_tail *tail) {
    return tail->sides[0].size + tail->sides[1].size == 0;
}

uint64_t kv_tail_next_expiry(const kv_tail *tail) {
    uint64_t first = tail->sides[0].next_expiry, second = tail->sides[1].next_expiry;
    return first < second ? first : second;
}
