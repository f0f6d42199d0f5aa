/* txn.c - the step's overlay: what it has read, and what it is going to write.
 *
 * One slot a key: the entry that was found in the store (pinned, so that its address names it until the commit), and
 * the newest write of the step.  Slots, operations and what commands make live in an arena that is emptied at the
 * step's end; its first block stays, so that a step of a few keys allocates nothing.  Few keys are found by looking
 * at all; more by a table of their hashes.
 */
#include "txn.h"

#include <string.h>

#include "../base/futex.h"
#include "../base/mem.h"
#include "../base/siphash.h"

#define FIRST_BLOCK_SIZE 4096u
#define BLOCK_SIZE_MIN 16384u
#define LINEAR_MAX 16u /* keys; above, a table is worth its making */

typedef enum write_kind {
    WRITE_NONE,
    WRITE_PUT,
    WRITE_DELETE,
    WRITE_EXPIRE, /* the value that was read, with another expiry */
} write_kind;

typedef struct slot {
    kv_bytes key;
    uint64_t hash; /* only when there is a table */
    bool is_read;  /* the commit depends on it */
    bool is_found; /* `item` is pinned */
    write_kind write;
    kv_bytes value;
    uint64_t expiry;
    kv_item item;
} slot;

typedef struct block {
    struct block *next;
    size_t size; /* of what follows */
    _Alignas(16) uint8_t bytes[];
} block;

struct kv_txn {
    kv_db *db;
    slot **slots;
    size_t count, capacity;
    uint32_t *table;    /* slot's index + 1; open addressing, at most half full; NULL: none yet */
    size_t table_size;  /* a power of two */
    kv_siphash_key key; /* of the table: keys come from strangers */
    size_t reads, writes;
    bool is_cleared; /* keys without a slot are absent, and will be deleted */
    block *first, *blocks; /* `first` is the last of the list */
    size_t used;           /* of blocks->bytes */
};

/* ---- The arena ----------------------------------------------------------------------------------------- */

static block *block_create(size_t size) {
    block *b = size <= SIZE_MAX - sizeof *b ? kv_mem_alloc(sizeof *b + size) : NULL;
    if (b != NULL) {
        b->next = NULL;
        b->size = size;
    }
    return b;
}

void *kv_txn_space(kv_txn *t, size_t size, kv_error *err) {
    size_t start = (t->used + 15) / 16 * 16;
    if (start > t->blocks->size || size > t->blocks->size - start) {
        block *b = block_create(size > BLOCK_SIZE_MIN ? size : BLOCK_SIZE_MIN);
        if (b == NULL) {
            (void)kv_fail_nomem(err, size);
            return NULL;
        }
        b->next = t->blocks;
        t->blocks = b;
        start = 0;
    }
    t->used = start + size;
    return t->blocks->bytes + start;
}

static void arena_empty(kv_txn *t) {
    while (t->blocks != t->first) {
        block *b = t->blocks;
        t->blocks = b->next;
        kv_mem_free(b);
    }
    t->used = 0;
}

/* ---- Life ---------------------------------------------------------------------------------------------- */

kv_txn *kv_txn_create(void) {
    kv_txn *t = kv_mem_alloc_zero(sizeof *t);
    block *first = block_create(FIRST_BLOCK_SIZE);
    if (t == NULL || first == NULL) {
        kv_mem_free(first);
        kv_mem_free(t);
        return NULL;
    }
    t->first = t->blocks = first;
    t->key = (kv_siphash_key){(uint64_t)(uintptr_t)t * UINT64_C(0x9e3779b97f4a7c15), kv_now_ns()};
    return t;
}

void kv_txn_destroy(kv_txn *t) {
    if (t == NULL)
        return;
    kv_txn_end(t);
    kv_mem_free(t->first);
    kv_mem_free(t->slots);
    kv_mem_free(t);
}

void kv_txn_end(kv_txn *t) {
    for (size_t i = 0; i < t->count; i++)
        if (t->slots[i]->is_found)
            kv_item_release(&t->slots[i]->item);
    kv_mem_free(t->table);
    t->table = NULL;
    t->table_size = 0;
    t->count = t->reads = t->writes = 0;
    t->is_cleared = false;
    if (t->capacity > 1024) { /* of an unusual step */
        kv_mem_free(t->slots);
        t->slots = NULL;
        t->capacity = 0;
    }
    arena_empty(t);
}

void kv_txn_begin(kv_txn *t, kv_db *db) {
    kv_txn_end(t);
    t->db = db;
}

/* ---- Slots --------------------------------------------------------------------------------------------- */

static bool keys_equal(kv_bytes a, kv_bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static void table_insert(kv_txn *t, size_t index) {
    size_t at = t->slots[index]->hash & (t->table_size - 1);
    while (t->table[at] != 0)
        at = (at + 1) & (t->table_size - 1);
    t->table[at] = (uint32_t)index + 1;
}

/* A table for twice as many slots as there are. */
static kv_status table_grow(kv_txn *t, kv_error *err) {
    size_t size = t->table_size > 0 ? t->table_size * 2 : LINEAR_MAX * 4;
    uint32_t *table = kv_mem_alloc_zero(size * sizeof *table);
    if (table == NULL)
        return kv_fail_nomem(err, size * sizeof *table);
    if (t->table == NULL)
        for (size_t i = 0; i < t->count; i++)
            t->slots[i]->hash = kv_siphash13(t->key, t->slots[i]->key.data, t->slots[i]->key.size);
    kv_mem_free(t->table);
    t->table = table;
    t->table_size = size;
    for (size_t i = 0; i < t->count; i++)
        table_insert(t, i);
    return KV_OK;
}

static slot *slot_find(const kv_txn *t, kv_bytes key, uint64_t hash) {
    if (t->table == NULL) {
        for (size_t i = 0; i < t->count; i++)
            if (keys_equal(t->slots[i]->key, key))
                return t->slots[i];
        return NULL;
    }
    for (size_t at = hash & (t->table_size - 1); t->table[at] != 0; at = (at + 1) & (t->table_size - 1)) {
        slot *s = t->slots[t->table[at] - 1];
        if (s->hash == hash && keys_equal(s->key, key))
            return s;
    }
    return NULL;
}

/* The key's slot, made if there is none; NULL: no memory. */
static slot *slot_of(kv_txn *t, kv_bytes key, kv_error *err) {
    uint64_t hash = t->table != NULL ? kv_siphash13(t->key, key.data, key.size) : 0;
    slot *s = slot_find(t, key, hash);
    if (s != NULL)
        return s;
    if (t->count == t->capacity) {
        size_t capacity = t->capacity > 0 ? t->capacity * 2 : LINEAR_MAX;
        slot **slots = capacity < UINT32_MAX ? kv_mem_realloc(t->slots, capacity * sizeof *slots) : NULL;
        if (slots == NULL) {
            (void)kv_fail_nomem(err, capacity * sizeof *slots);
            return NULL;
        }
        t->slots = slots;
        t->capacity = capacity;
    }
    if (t->table == NULL ? t->count == LINEAR_MAX : t->count * 2 >= t->table_size) {
        if (table_grow(t, err) != KV_OK)
            return NULL;
        hash = kv_siphash13(t->key, key.data, key.size);
    }
    s = kv_txn_space(t, sizeof *s, err);
    if (s == NULL)
        return NULL;
    memset(s, 0, sizeof *s);
    s->key = key;
    s->hash = hash;
    if (t->is_cleared)
        s->write = WRITE_DELETE;
    t->slots[t->count++] = s;
    if (t->table != NULL)
        table_insert(t, t->count - 1);
    return s;
}

/* Finds the key in the store, so that the commit depends on it.  Only before the step has written it. */
static kv_status slot_read(kv_txn *t, slot *s, kv_error *err) {
    if (s->is_read || s->write != WRITE_NONE)
        return KV_OK;
    kv_status status = kv_get_item(t->db, s->key, 0, &s->item, err);
    if (status < 0)
        return status;
    s->is_found = status == KV_OK;
    s->is_read = true;
    t->reads++;
    return KV_OK;
}

static void slot_write(kv_txn *t, slot *s, write_kind kind, kv_bytes value, uint64_t expiry) {
    s->write = kind;
    s->value = value;
    s->expiry = expiry;
    t->writes++;
}

/* ---- Reading and writing ------------------------------------------------------------------------------- */

kv_status kv_txn_get(kv_txn *t, kv_bytes key, kv_txn_value *value, kv_error *err) {
    slot *s = slot_of(t, key, err);
    if (s == NULL)
        return KV_ERR_NOMEM;
    kv_status status = slot_read(t, s, err);
    if (status < 0)
        return status;
    switch (s->write) {
    case WRITE_PUT:
        *value = (kv_txn_value){s->value, s->expiry, NULL};
        return KV_OK;
    case WRITE_EXPIRE:
        *value = (kv_txn_value){s->item.value, s->expiry, &s->item};
        return KV_OK;
    case WRITE_DELETE:
        return KV_NOTFOUND;
    case WRITE_NONE:
        break;
    }
    if (!s->is_found)
        return KV_NOTFOUND;
    *value = (kv_txn_value){s->item.value, s->item.expiry, &s->item};
    return KV_OK;
}

static bool is_past(const kv_txn *t, uint64_t expiry) {
    return expiry != 0 && expiry <= kv_clock_ms(t->db);
}

kv_status kv_txn_put(kv_txn *t, kv_bytes key, kv_bytes value, uint64_t expiry, kv_error *err) {
    slot *s = slot_of(t, key, err);
    if (s == NULL)
        return KV_ERR_NOMEM;
    if (is_past(t, expiry))
        slot_write(t, s, WRITE_DELETE, (kv_bytes){0}, 0);
    else
        slot_write(t, s, WRITE_PUT, value, expiry);
    return KV_OK;
}

kv_status kv_txn_delete(kv_txn *t, kv_bytes key, kv_error *err) {
    slot *s = slot_of(t, key, err);
    if (s == NULL)
        return KV_ERR_NOMEM;
    slot_write(t, s, WRITE_DELETE, (kv_bytes){0}, 0);
    return KV_OK;
}

kv_status kv_txn_expire(kv_txn *t, kv_bytes key, uint64_t expiry, kv_error *err) {
    slot *s = slot_of(t, key, err);
    if (s == NULL)
        return KV_ERR_NOMEM;
    kv_status status = slot_read(t, s, err);
    if (status < 0)
        return status;
    if (s->write == WRITE_DELETE || (s->write == WRITE_NONE && !s->is_found))
        return KV_NOTFOUND;
    if (is_past(t, expiry))
        slot_write(t, s, WRITE_DELETE, (kv_bytes){0}, 0);
    else if (s->write == WRITE_PUT)
        s->expiry = expiry;
    else
        slot_write(t, s, WRITE_EXPIRE, (kv_bytes){0}, expiry);
    return KV_OK;
}

kv_status kv_txn_expect(kv_txn *t, kv_bytes key, const void *pin, kv_error *err) {
    slot *s = slot_of(t, key, err);
    if (s == NULL)
        return KV_ERR_NOMEM;
    kv_status status = slot_read(t, s, err);
    if (status < 0)
        return status;
    return (s->is_found ? s->item.pin : NULL) == pin ? KV_OK : KV_UNCHANGED;
}

kv_status kv_txn_count(kv_txn *t, uint64_t *count, kv_error *err) {
    kv_status status = kv_count(t->db, 0, count, err);
    if (t->is_cleared)
        *count = 0;
    for (size_t i = 0; i < t->count && status >= 0; i++) {
        const slot *s = t->slots[i];
        if (s->write != WRITE_PUT && s->write != WRITE_DELETE)
            continue;
        if (!t->is_cleared) { /* it is counted as it is in the store */
            status = kv_contains(t->db, s->key, 0, err);
            if (status == KV_OK && *count > 0)
                --*count;
        }
        *count += s->write == WRITE_PUT;
    }
    return status < 0 ? status : KV_OK;
}

kv_status kv_txn_delete_all(kv_txn *t, kv_error *err) {
    (void)err;
    for (size_t i = 0; i < t->count; i++)
        slot_write(t, t->slots[i], WRITE_DELETE, (kv_bytes){0}, 0);
    t->writes++;
    t->is_cleared = true;
    return KV_OK;
}

/* ---- The commit ---------------------------------------------------------------------------------------- */

/* FLUSHALL beside other things: the keys that have no slot, as slots to be deleted. */
typedef struct collector {
    kv_txn *t;
    kv_status status;
    kv_error *err;
} collector;

static void collect(void *arg, const kv_item *item) {
    collector *c = arg;
    if (c->status < 0)
        return;
    uint64_t hash = c->t->table != NULL ? kv_siphash13(c->t->key, item->key.data, item->key.size) : 0;
    if (slot_find(c->t, item->key, hash) != NULL)
        return;
    void *copy = kv_txn_space(c->t, item->key.size, c->err);
    if (copy == NULL) {
        c->status = KV_ERR_NOMEM;
        return;
    }
    if (item->key.size > 0)
        memcpy(copy, item->key.data, item->key.size);
    if (slot_of(c->t, (kv_bytes){copy, item->key.size}, c->err) == NULL) /* is_cleared: WRITE_DELETE */
        c->status = KV_ERR_NOMEM;
}

static kv_status collect_all(kv_txn *t, kv_error *err) {
    collector c = {t, KV_OK, err};
    uint64_t position = 0;
    do {
        kv_status status = kv_scan(t->db, &position, 1024, collect, &c, err);
        if (status < 0 || c.status < 0)
            return status < 0 ? status : c.status;
    } while (position != 0);
    return KV_OK;
}

static kv_op op_of(const slot *s) {
    kv_op op = {.kind = KV_OP_EXPECT, .key = s->key, .conditional = s->is_read};
    op.expected = s->is_found ? s->item.pin : NULL;
    if (s->write == WRITE_PUT) {
        op.kind = KV_OP_PUT;
        op.value = s->value;
    } else if (s->write == WRITE_DELETE) {
        /* What was found absent must stay so, and is not to be deleted. */
        op.kind = s->is_read && !s->is_found ? KV_OP_EXPECT : KV_OP_DELETE;
    } else if (s->write == WRITE_EXPIRE) {
        op.kind = KV_OP_EXPIRE;
    }
    op.expiry = s->expiry;
    return op;
}

kv_status kv_txn_commit(kv_txn *t, kv_error *err) {
    if (t->is_cleared) {
        bool alone = t->reads == 0;
        for (size_t i = 0; i < t->count; i++)
            alone = alone && t->slots[i]->write == WRITE_DELETE;
        if (alone)
            return kv_clear(t->db, 0, err);
        kv_status status = collect_all(t, err);
        if (status < 0)
            return status;
    }
    /* One read is as it was at some moment by itself; and nobody can change a read-only store. */
    if (t->writes == 0 && (t->reads <= 1 || kv_is_read_only(t->db)))
        return KV_OK;
    kv_op *ops = kv_txn_space(t, t->count * sizeof *ops, err);
    if (ops == NULL)
        return KV_ERR_NOMEM;
    for (size_t i = 0; i < t->count; i++)
        ops[i] = op_of(t->slots[i]);
    return kv_write(t->db, ops, t->count, 0, NULL, err);
}
