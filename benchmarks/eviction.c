/* eviction.c - policies of eviction on made-up traces: who keeps what is asked for next.
 *
 * eviction.py compiles this at run time, with csrc/base and csrc/engine/{table,evict}.c, and calls it through
 * ctypes. A trace is a sequence of key numbers; each request is a get and, when it misses, a put. Numbers from
 * `keys` up are keys of scans: they take room, but their hits are not counted, since there are next to none.
 *
 * The policies that work a shard at a time run on pykv's own table, and pykv's own is the engine's code as it is;
 * the exact ones, with lists over the whole cache, are what they can be held against.
 *
 * Every function answers 0, or an errno.
 */
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/evict.h"

/* ---- Random numbers: splitmix64 (Vigna, 2015) ------------------------------------------------ */

typedef struct generator {
    uint64_t state;
} generator;

static uint64_t
next(generator *g)
{
    uint64_t z = g->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- Traces ---------------------------------------------------------------------------------- */

#define PERIODS 20     /* for as many requests as there are keys; the first fifth of each may be a scan */
#define TWICE_WITHIN 8 /* keys, before a scan that reads twice reads them again */

typedef struct trace {
    uint32_t *requests;
    int64_t count;
    uint32_t keys;
} trace;

/* Gray and others, "Quickly generating billion-record synthetic databases" (1994), as YCSB does. */
typedef struct zipf {
    double theta, zeta, alpha, eta;
    uint32_t keys;
} zipf;

static zipf
zipf_make(uint32_t keys, double theta)
{
    zipf z = {.theta = theta, .keys = keys, .alpha = 1 / (1 - theta)};
    for (uint32_t i = 1; i <= keys; i++)
        z.zeta += pow(i, -theta);
    z.eta = (1 - pow(2.0 / keys, 1 - theta)) / (1 - (1 + pow(2, -theta)) / z.zeta);
    return z;
}

static uint32_t
zipf_next(const zipf *z, generator *g)
{
    double u = (double)(next(g) >> 11) * 0x1p-53;
    if (u * z->zeta < 1)
        return 0;
    if (u * z->zeta < 1 + pow(0.5, z->theta))
        return 1;
    uint32_t rank = (uint32_t)(z->keys * pow(z->eta * u - z->eta + 1, z->alpha));
    return rank < z->keys ? rank : z->keys - 1;
}

/* The key of a scan's request number `i`; each key `times` times. */
static uint32_t
scanned(int64_t i, int times, uint32_t keys)
{
    if (times == 2)
        i = i / (2 * TWICE_WITHIN) * TWICE_WITHIN + i % TWICE_WITHIN;
    return keys + (uint32_t)(i % keys);
}

/* Fills t->requests. scan_times: how many times a scan reads each of its keys, 0 for no scans; shifts: from the
 * middle on, other keys are popular. */
int
eviction_trace(trace *t, double theta, int scan_times, int shifts, uint64_t seed)
{
    zipf z = zipf_make(t->keys, theta);
    generator g = {seed};
    int64_t period = t->keys / PERIODS, scans = 0;
    for (int64_t i = 0; i < t->count; i++) {
        if (scan_times > 0 && i % period < period / 5) {
            t->requests[i] = scanned(scans++, scan_times, t->keys);
            continue;
        }
        uint32_t moved = shifts && i >= t->count / 2 ? t->keys / 2 : 0;
        t->requests[i] = (zipf_next(&z, &g) + moved) % t->keys;
    }
    return 0;
}

/* Counts the hits of the second half; in the first one, the cache fills. */
typedef struct tally {
    int64_t asked, hit;
} tally;

static void
count(tally *result, const trace *t, int64_t i, bool hit)
{
    if (i < t->count / 2 || t->requests[i] >= t->keys)
        return;
    result->asked++;
    result->hit += hit;
}

/* ---- Exact policies: lists over the whole cache ------------------------------------------------ */

#define FREQUENCIES 65536u /* an exact LFU's list for each; beyond, all are one */
#define USES_MAX 3u        /* S3-FIFO's counter */

/* Rings of keys, by number; the rings' heads stand behind the keys. */
typedef struct lists {
    uint32_t *next, *previous;
    uint16_t *uses;
    uint8_t *in; /* which list; 0: none */
} lists;

static void
unlink_key(lists *l, uint32_t key)
{
    l->next[l->previous[key]] = l->next[key];
    l->previous[l->next[key]] = l->previous[key];
}

static void
push_key(lists *l, uint32_t head, uint32_t key)
{
    l->next[key] = l->next[head];
    l->previous[key] = head;
    l->previous[l->next[key]] = key;
    l->next[head] = key;
}

static void
free_lists(lists *l)
{
    free(l->next);
    free(l->previous);
    free(l->uses);
    free(l->in);
}

static int
make_lists(lists *l, uint32_t keys, uint32_t heads)
{
    l->next = malloc(sizeof(uint32_t) * (keys + heads));
    l->previous = malloc(sizeof(uint32_t) * (keys + heads));
    l->uses = calloc(keys, sizeof *l->uses);
    l->in = calloc(keys, 1);
    if (l->next == NULL || l->previous == NULL || l->uses == NULL || l->in == NULL) {
        free_lists(l);
        return ENOMEM;
    }
    for (uint32_t head = keys; head < keys + heads; head++)
        l->next[head] = l->previous[head] = head;
    return 0;
}

static int
run_lru(const trace *t, uint32_t capacity, tally *result)
{
    uint32_t head = 2 * t->keys, used = 0;
    lists l;
    if (make_lists(&l, head, 1) != 0)
        return ENOMEM;
    for (int64_t i = 0; i < t->count; i++) {
        uint32_t key = t->requests[i];
        count(result, t, i, l.in[key]);
        if (l.in[key]) {
            unlink_key(&l, key);
        } else if (used < capacity) {
            used++;
        } else {
            uint32_t victim = l.previous[head];
            unlink_key(&l, victim);
            l.in[victim] = 0;
        }
        l.in[key] = 1;
        push_key(&l, head, key);
    }
    free_lists(&l);
    return 0;
}

/* Counts are kept while a key is in the cache; of those used least, the one whose last use is the oldest goes. */
static int
run_lfu(const trace *t, uint32_t capacity, tally *result)
{
    uint32_t heads = 2 * t->keys, used = 0, least = 1;
    lists l;
    if (make_lists(&l, heads, FREQUENCIES) != 0)
        return ENOMEM;
    for (int64_t i = 0; i < t->count; i++) {
        uint32_t key = t->requests[i];
        count(result, t, i, l.in[key]);
        if (l.in[key]) {
            unlink_key(&l, key);
            l.uses[key] += l.uses[key] < FREQUENCIES - 1;
        } else {
            if (used < capacity) {
                used++;
            } else {
                while (l.previous[heads + least] == heads + least)
                    least++;
                uint32_t victim = l.previous[heads + least];
                unlink_key(&l, victim);
                l.in[victim] = 0;
            }
            l.in[key] = 1;
            l.uses[key] = least = 1;
        }
        push_key(&l, heads + l.uses[key], key);
    }
    free_lists(&l);
    return 0;
}

/* Yang and others, "FIFO Queues are All You Need for Cache Eviction" (2023): a tenth of the cache is the small
 * queue; the ghosts are as many as the main queue's keys. */
enum { NOWHERE, SMALL, MAIN, GHOST, S3_LISTS };

typedef struct s3 {
    lists l;
    uint32_t heads, size[S3_LISTS];
} s3;

static void
s3_move(s3 *c, uint32_t key, int to)
{
    if (c->l.in[key] != NOWHERE)
        unlink_key(&c->l, key);
    c->size[c->l.in[key]]--;
    c->size[to]++;
    c->l.in[key] = (uint8_t)to;
    if (to != NOWHERE)
        push_key(&c->l, c->heads + (uint32_t)to, key);
}

static void
s3_evict(s3 *c, uint32_t capacity)
{
    for (;;) {
        bool small = c->size[SMALL] >= capacity / 10 || c->size[MAIN] == 0;
        uint32_t key = c->l.previous[c->heads + (small ? SMALL : MAIN)];
        if (c->l.uses[key] > 0) {
            c->l.uses[key] = small ? 0 : c->l.uses[key] - 1;
            s3_move(c, key, MAIN);
            continue;
        }
        s3_move(c, key, small ? GHOST : NOWHERE);
        if (c->size[GHOST] > capacity - capacity / 10)
            s3_move(c, c->l.previous[c->heads + GHOST], NOWHERE);
        return;
    }
}

static int
run_s3_fifo(const trace *t, uint32_t capacity, tally *result)
{
    s3 c = {.heads = 2 * t->keys};
    if (make_lists(&c.l, c.heads, S3_LISTS) != 0)
        return ENOMEM;
    for (int64_t i = 0; i < t->count; i++) {
        uint32_t key = t->requests[i];
        bool hit = c.l.in[key] == SMALL || c.l.in[key] == MAIN;
        count(result, t, i, hit);
        if (hit) {
            c.l.uses[key] += c.l.uses[key] < USES_MAX;
            continue;
        }
        if (c.size[SMALL] + c.size[MAIN] >= capacity)
            s3_evict(&c, capacity);
        c.l.uses[key] = 0;
        s3_move(&c, key, c.l.in[key] == GHOST ? MAIN : SMALL);
    }
    free_lists(&c.l);
    return 0;
}

/* ---- Policies of a shard, on pykv's table ------------------------------------------------------ */

typedef struct victim {
    kv_place place;
    kv_entry *entry;
} victim;

typedef struct shard_policy {
    void (*use)(kv_entry *e, generator *g);
    victim (*choose)(kv_shard *shard, generator *g); /* the shard is not empty */
    bool is_pykv;  /* new keys are told to it ... */
    bool remembers; /* ... and evicted ones, too */
    uint8_t new_use;
} shard_policy;

static uint8_t
use_of(const kv_entry *e)
{
    return atomic_load_explicit(&e->use, memory_order_relaxed);
}

static void
set_use(kv_entry *e, unsigned use)
{
    atomic_store_explicit(&e->use, (uint8_t)use, memory_order_relaxed);
}

static uint32_t
slots_of(const kv_shard *shard)
{
    return kv_array_count(kv_shard_array(shard)) * KV_BUCKET_SLOTS;
}

static victim
at_slot(const kv_shard *shard, uint32_t slot)
{
    kv_bucket *b = kv_array_buckets(kv_shard_array(shard)) + slot / KV_BUCKET_SLOTS;
    kv_place place = {b, slot % KV_BUCKET_SLOTS};
    return (victim){place, kv_slot_entry(atomic_load(&b->slots[place.slot]))};
}

/* The hand's slot; the hand moves on. */
static victim
next_slot(kv_shard *shard)
{
    uint32_t at = shard->hand % slots_of(shard);
    shard->hand = at + 1;
    return at_slot(shard, at);
}

static void
use_up_to_1(kv_entry *e, generator *g)
{
    (void)g;
    set_use(e, 1);
}

static void
use_up_to_3(kv_entry *e, generator *g)
{
    (void)g;
    kv_evict_note_use(e);
}

static victim
choose_by_clock(kv_shard *shard, generator *g)
{
    (void)g;
    for (;;) {
        victim v = next_slot(shard);
        if (v.entry == NULL)
            continue;
        if (use_of(v.entry) == 0)
            return v;
        set_use(v.entry, use_of(v.entry) - 1u);
    }
}

/* As Redis counts and samples: a logarithmic counter, new keys at 5, the least of five goes. Redis ages by
 * minutes; here the hand ages one slot an eviction. */
#define LFU_NEW 5u
#define LFU_FACTOR 10u
#define LFU_SAMPLES 5

static void
use_logarithmic(kv_entry *e, generator *g)
{
    unsigned use = use_of(e), above = use > LFU_NEW ? use - LFU_NEW : 0;
    if (use < UINT8_MAX && next(g) % (above * LFU_FACTOR + 1) == 0)
        set_use(e, use + 1);
}

static victim
choose_by_samples(kv_shard *shard, generator *g)
{
    victim aged = next_slot(shard), best = {.entry = NULL};
    if (aged.entry != NULL && use_of(aged.entry) > 0)
        set_use(aged.entry, use_of(aged.entry) - 1u);
    for (int samples = 0; samples < LFU_SAMPLES;) {
        victim v = at_slot(shard, (uint32_t)(next(g) % slots_of(shard)));
        if (v.entry == NULL)
            continue;
        samples++;
        if (best.entry == NULL || use_of(v.entry) < use_of(best.entry))
            best = v;
    }
    return best;
}

static victim
choose_by_pykv(kv_shard *shard, generator *g)
{
    (void)g;
    victim v = {.entry = NULL};
    kv_evict_choose(shard, 1, NULL, &v.place, &v.entry, 1);
    return v;
}

static const shard_policy clock_1 = {use_up_to_1, choose_by_clock, false, false, 0};
static const shard_policy clock_3 = {use_up_to_3, choose_by_clock, false, false, 0};
static const shard_policy sampled_lfu = {use_logarithmic, choose_by_samples, false, false, LFU_NEW};
static const shard_policy forgetful = {use_up_to_3, choose_by_pykv, true, false, 0};
static const shard_policy pykv = {use_up_to_3, choose_by_pykv, true, true, 0};

static void
evict(kv_table *table, kv_shard *shard, const shard_policy *policy, generator *g)
{
    victim v = policy->choose(shard, g);
    uint64_t hash = kv_table_hash(table, kv_entry_key(v.entry));
    kv_shard_remove(shard, hash, v.place);
    if (policy->remembers)
        kv_evict_note_evicted(v.place, hash);
    kv_entry_release(table->entries, v.entry);
}

/* Puts a new key into its shard, which is locked, and unlocks it. */
static int
insert(kv_table *table, kv_shard *shard, const shard_policy *policy, uint64_t hash, kv_bytes key)
{
    kv_error error;
    kv_status status;
    kv_entry *e = kv_entry_create(table->entries, key, (kv_bytes){0});
    if (policy->is_pykv)
        kv_evict_note_new(shard, hash);
    while ((status = kv_shard_reserve(table, shard, 1, &error)) == KV_BUSY) { /* it was split */
        kv_shard_unlock(shard);
        shard = kv_table_lock(table, hash);
    }
    if (status == KV_OK && e != NULL) {
        set_use(e, policy->new_use);
        kv_shard_insert(shard, hash, e);
    }
    kv_shard_unlock(shard);
    return status == KV_OK && e != NULL ? 0 : ENOMEM;
}

static int
run_by_shards(const shard_policy *policy, const trace *t, uint32_t capacity, tally *result)
{
    kv_table table;
    kv_error error;
    generator g = {1};
    uint32_t used = 0;
    int status = 0;
    if (kv_table_init(&table, (kv_siphash_key){1, 2}, &error) != KV_OK)
        return ENOMEM;
    for (int64_t i = 0; i < t->count && status == 0; i++) {
        kv_bytes key = {&t->requests[i], sizeof t->requests[i]};
        uint64_t hash = kv_table_hash(&table, key);
        kv_shard *shard = kv_table_lock(&table, hash);
        kv_place place;
        kv_entry *e = kv_shard_find(shard, hash, key, &place);
        count(result, t, i, e != NULL);
        if (e != NULL) {
            policy->use(e, &g);
            kv_shard_unlock(shard);
            continue;
        }
        if (used < capacity || shard->count == 0)
            used++;
        else
            evict(&table, shard, policy, &g);
        status = insert(&table, shard, policy, hash, key);
    }
    kv_table_fini(&table);
    return status;
}

/* ---- By number --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(const trace *t, uint32_t capacity, tally *result); /* or: */
    const shard_policy *policy;
} policies[] = {
    {"LRU, exact", run_lru, NULL},
    {"LFU, exact", run_lfu, NULL},
    {"S3-FIFO, exact", run_s3_fifo, NULL},
    {"clock of 1 bit", NULL, &clock_1},
    {"clock of 0 to 3", NULL, &clock_3},
    {"sampled LFU", NULL, &sampled_lfu},
    {"pykv, no ghosts", NULL, &forgetful},
    {"pykv", NULL, &pykv},
};

#define POLICIES (int)(sizeof policies / sizeof policies[0])

/* NULL: there is none of that number. */
const char *
eviction_policy(int number)
{
    return number < POLICIES ? policies[number].name : NULL;
}

int
eviction_run(int number, const trace *t, uint32_t capacity, double *hit_rate)
{
    tally result = {0, 0};
    int status = policies[number].run != NULL
                     ? policies[number].run(t, capacity, &result)
                     : run_by_shards(policies[number].policy, t, capacity, &result);
    *hit_rate = result.asked > 0 ? (double)result.hit / (double)result.asked : 0;
    return status;
}
