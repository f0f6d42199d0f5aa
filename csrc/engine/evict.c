/* evict.c - see evict.h. */
#include "evict.h"

#define PROBATION_PART 10u /* a tenth of the shard, at the most KV_EVICT_QUEUE keys, is on probation */
#define USE_CHOSEN 0xffu   /* of an entry while kv_evict_choose works */

static kv_entry *entry_at(kv_place place) {
    return kv_slot_entry(
        atomic_load_explicit(&place.bucket->slots[place.slot], memory_order_relaxed));
}

/* ---- Who went ---------------------------------------------------------------------------------- */

/* What a free slot holds to remember a key: its slot's word, without the address.  0 remembers nothing, so
 * one hash in 65,536 is never remembered. */
static uint64_t memory_of(uint64_t hash) {
    return (uint64_t)kv_hash_bucket_bits(hash) << 48;
}

void kv_evict_note_evicted(kv_place place, uint64_t hash) {
    atomic_store_explicit(&place.bucket->slots[place.slot], memory_of(hash),
                          memory_order_relaxed);
}

/* Does a free slot of its bucket remember the key?  Then no longer.  The insert that follows takes the first
 * free slot, so what others remember moves one up: the last memory goes, not the first. */
static bool recall(kv_shard *shard, uint64_t hash) {
    kv_array array = kv_shard_array(shard);
    kv_bucket *b = kv_array_buckets(array) +
                   kv_bucket_index(kv_hash_bucket_bits(hash), kv_array_count(array));
    uint64_t wanted = memory_of(hash), carried = 0;
    for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
        uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
        if (kv_slot_entry(word) != NULL)
            continue;
        atomic_store_explicit(&b->slots[slot], carried, memory_order_relaxed);
        if (word == wanted && wanted != 0)
            return true;
        carried = word;
    }
    return false;
}

/* ---- Probation --------------------------------------------------------------------------------- */

void kv_evict_note_new(kv_shard *shard, uint64_t hash) {
    if (recall(shard, hash))
        return;
    if (shard->queue_count == KV_EVICT_QUEUE) { /* nobody had to go yet: the oldest one stays */
        shard->queue_first = (shard->queue_first + 1) % KV_EVICT_QUEUE;
        shard->queue_count--;
    }
    unsigned last = (shard->queue_first + shard->queue_count++) % KV_EVICT_QUEUE;
    shard->queue[last] = (uint16_t)kv_hash_bucket_bits(hash);
}

static bool probation_is_full(const kv_shard *shard) {
    return shard->queue_count == KV_EVICT_QUEUE ||
           (shard->queue_count > 0 && shard->queue_count >= shard->count / PROBATION_PART);
}

/* Takes the oldest one out; NULL: it is not there any more. */
static kv_entry *probation_end(kv_shard *shard, kv_place *place) {
    uint32_t bits = shard->queue[shard->queue_first];
    shard->queue_first = (shard->queue_first + 1) % KV_EVICT_QUEUE;
    shard->queue_count--;
    kv_array array = kv_shard_array(shard);
    uint32_t count = kv_array_count(array), index = kv_bucket_index(bits, count);
    for (uint32_t probes = 0; probes < count; probes++) {
        kv_bucket *b = kv_array_buckets(array) + index;
        for (unsigned slot = 0; slot < KV_BUCKET_SLOTS; slot++) {
            uint64_t word = atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
            if (word >> 48 == bits && kv_slot_entry(word) != NULL) {
                *place = (kv_place){b, slot};
                return kv_slot_entry(word);
            }
        }
        if (atomic_load_explicit(&b->tags, memory_order_relaxed) >> 56 == 0)
            return NULL; /* none probed past this bucket */
        index = index + 1 == count ? 0 : index + 1;
    }
    return NULL;
}

/* ---- Choosing ---------------------------------------------------------------------------------- */

typedef struct chooser {
    const kv_entry *spare;
    kv_place *places;
    kv_entry **victims;
    size_t count, capacity;
    uint64_t charge, wanted;
} chooser;

static bool is_done(const chooser *c) {
    return c->charge >= c->wanted || c->count == c->capacity;
}

/* Its turn has come: it is chosen if it was not used, and pays with a use otherwise. */
static void meet(chooser *c, kv_entry *e, kv_place place) {
    uint8_t use = atomic_load_explicit(&e->use, memory_order_relaxed);
    if (use == USE_CHOSEN || e == c->spare)
        return;
    if (use == 0) {
        use = USE_CHOSEN;
        c->places[c->count] = place;
        c->victims[c->count++] = e;
        c->charge += kv_entry_charge(e);
    } else {
        use--;
    }
    atomic_store_explicit(&e->use, use, memory_order_relaxed);
}

/* One slot further. */
static void move_hand(kv_shard *shard, uint32_t slots, chooser *c) {
    uint32_t at = shard->hand < slots ? shard->hand : 0;
    shard->hand = at + 1;
    kv_place place = {kv_array_buckets(kv_shard_array(shard)) + at / KV_BUCKET_SLOTS,
                      at % KV_BUCKET_SLOTS};
    kv_entry *e = entry_at(place);
    if (e != NULL)
        meet(c, e, place);
}

size_t kv_evict_choose(kv_shard *shard, uint64_t bytes, const kv_entry *spare,
                       kv_place *places, kv_entry **victims, size_t capacity) {
    chooser c = {.spare = spare, .places = places, .victims = victims, .capacity = capacity,
                 .wanted = bytes};
    kv_place place;
    while (!is_done(&c) && probation_is_full(shard)) {
        kv_entry *e = probation_end(shard, &place);
        if (e != NULL)
            meet(&c, e, place); /* used: it is on probation no longer */
    }
    /* KV_USE_MAX rounds leave nobody with a use, and one more takes everybody. */
    uint32_t slots = kv_array_count(kv_shard_array(shard)) * KV_BUCKET_SLOTS;
    for (uint64_t steps = (uint64_t)slots * (KV_USE_MAX + 1); !is_done(&c) && steps > 0; steps--)
        move_hand(shard, slots, &c);
    for (size_t i = 0; i < c.count; i++) /* in case that the caller keeps one */
        atomic_store_explicit(&victims[i]->use, 0, memory_order_relaxed);
    return c.count;
}
