/* cmd_lcs.c - LCS: the longest common subsequence of two values, by the table of all pairs of prefixes (Wagner and
 * Fischer, "The String-to-String Correction Problem", 1974).
 */
#include <string.h>

#include "../base/mem.h"
#include "commands.h"

typedef struct lcs {
    const uint8_t *a, *b;
    size_t a_size, b_size;
    uint32_t *lengths; /* of the prefixes i of a and k of b: at i * (b_size + 1) + k */
} lcs;

static uint32_t *at(const lcs *l, size_t i, size_t k) {
    return &l->lengths[i * (l->b_size + 1) + k];
}

static void fill(lcs *l) {
    memset(l->lengths, 0, (l->b_size + 1) * sizeof *l->lengths);
    for (size_t i = 1; i <= l->a_size; i++) {
        *at(l, i, 0) = 0;
        for (size_t k = 1; k <= l->b_size; k++) {
            uint32_t above = *at(l, i - 1, k), left = *at(l, i, k - 1);
            if (l->a[i - 1] == l->b[k - 1])
                *at(l, i, k) = *at(l, i - 1, k - 1) + 1;
            else
                *at(l, i, k) = above > left ? above : left;
        }
    }
}

/* Walks back from the ends; calls `visit` for each run that both have, the last first: where it begins and how long
 * it is. */
static void walk(const lcs *l, void (*visit)(void *arg, size_t a, size_t b, size_t size), void *arg) {
    size_t i = l->a_size, k = l->b_size, run = 0;
    while (i > 0 && k > 0) {
        if (l->a[i - 1] == l->b[k - 1]) {
            i--;
            k--;
            run++;
            continue;
        }
        if (run > 0)
            visit(arg, i, k, run);
        run = 0;
        if (*at(l, i - 1, k) > *at(l, i, k - 1))
            i--;
        else
            k--;
    }
    if (run > 0)
        visit(arg, i, k, run);
}

typedef struct spelling {
    const lcs *l;
    uint8_t *end;
} spelling;

static void spell(void *arg, size_t a, size_t b, size_t size) {
    spelling *s = arg;
    (void)b;
    s->end -= size;
    memcpy(s->end, s->l->a + a, size);
}

typedef struct matches {
    kv_client *c; /* NULL: count only */
    uint64_t size_min;
    bool with_length;
    size_t count;
} matches;

static void tell(void *arg, size_t a, size_t b, size_t size) {
    matches *m = arg;
    if (size < m->size_min)
        return;
    m->count++;
    if (m->c == NULL)
        return;
    kv_reply *r = &m->c->reply;
    kv_reply_array(r, m->with_length ? 3 : 2);
    kv_reply_array(r, 2);
    kv_reply_integer(r, (int64_t)a);
    kv_reply_integer(r, (int64_t)(a + size - 1));
    kv_reply_array(r, 2);
    kv_reply_integer(r, (int64_t)b);
    kv_reply_integer(r, (int64_t)(b + size - 1));
    if (m->with_length)
        kv_reply_integer(r, (int64_t)size);
}

kv_status kv_step_lcs(kv_client *c, kv_txn *t, const kv_bytes *argv, size_t argc, kv_error *err) {
    bool length_only = false, is_index = false, with_length = false;
    int64_t size_min = 0;
    for (size_t i = 3; i < argc; i++) {
        if (kv_word_is(argv[i], "idx")) {
            is_index = true;
        } else if (kv_word_is(argv[i], "len")) {
            length_only = true;
        } else if (kv_word_is(argv[i], "withmatchlen")) {
            with_length = true;
        } else if (kv_word_is(argv[i], "minmatchlen") && i + 1 < argc) {
            if (!kv_parse_integer(argv[++i], &size_min)) {
                kv_refuse(c, KV_NOT_INTEGER);
                return KV_OK;
            }
            size_min = size_min < 0 ? 0 : size_min;
        } else {
            kv_refuse(c, KV_SYNTAX_ERROR);
            return KV_OK;
        }
    }
    if (is_index && length_only) {
        kv_refuse(c, "ERR If you want both the length and indexes, please just use IDX.");
        return KV_OK;
    }
    kv_txn_value a = {0}, b = {0};
    kv_status status = kv_lookup(c, t, argv[1], &a, err);
    if (status >= 0)
        status = kv_lookup(c, t, argv[2], &b, err);
    if (status < 0)
        return status;
    lcs l = {a.value.data, b.value.data, a.value.size, b.value.size, NULL};
    uint64_t cells = ((uint64_t)l.a_size + 1) * ((uint64_t)l.b_size + 1), max = KV_VALUE_MAX;
    if (c->server != NULL)
        max = atomic_load_explicit(&kv_server_config(c->server)->bulk_max, memory_order_relaxed);
    if (cells > max / sizeof *l.lengths) {
        kv_refuse(c, "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len");
        return KV_OK;
    }
    l.lengths = kv_mem_alloc((size_t)cells * sizeof *l.lengths);
    if (l.lengths == NULL)
        return kv_fail_nomem(err, (size_t)cells * sizeof *l.lengths);
    fill(&l);
    size_t length = *at(&l, l.a_size, l.b_size);
    status = KV_OK;
    if (length_only) {
        kv_reply_integer(&c->reply, (int64_t)length);
    } else if (is_index) {
        matches m = {NULL, (uint64_t)size_min, with_length, 0};
        walk(&l, tell, &m);
        kv_reply_map(&c->reply, 2);
        kv_reply_bulk_text(&c->reply, "matches");
        kv_reply_array(&c->reply, m.count);
        m.c = c;
        walk(&l, tell, &m);
        kv_reply_bulk_text(&c->reply, "len");
        kv_reply_integer(&c->reply, (int64_t)length);
    } else {
        uint8_t *text = kv_txn_space(t, length, err);
        if (text == NULL) {
            status = KV_ERR_NOMEM;
        } else {
            spelling s = {&l, text + length};
            walk(&l, spell, &s);
            kv_reply_bulk(&c->reply, text, length);
        }
    }
    kv_mem_free(l.lengths);
    return status;
}
