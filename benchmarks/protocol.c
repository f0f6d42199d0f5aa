/* protocol.c - what the two ends of the server's protocol cost: parsing requests and writing replies.
 *
 * protocol.py compiles it with pykv's parser and reply queue and calls it through ctypes.  No socket, no store: a round
 * parses a pipeline, answers each request, and lets the queue go as if it had been sent.  The ruler beside it
 * copies the same bytes once, in and out.
 *
 * Every function answers 0, or an errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/reply.h"
#include "server/resp.h"

/* Values are small here: nothing is ever pinned. */
void
kv_item_copy(const kv_item *item, kv_item *copy)
{
    *copy = *item;
}

void
kv_item_release(kv_item *item)
{
    item->pin = NULL;
}

static double
seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* As many requests as the pipeline is deep: GETs, SETs, or one after the other. */
static size_t
write_requests(char *to, int depth, int sets_percent, int value_size)
{
    char *p = to;
    for (int i = 0; i < depth; i++) {
        if ((i + 1) * sets_percent / 100 == i * sets_percent / 100) {
            p += sprintf(p, "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n", i);
            continue;
        }
        p += sprintf(p, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n", i, value_size);
        memset(p, 'v', (size_t)value_size);
        p += value_size;
        p += sprintf(p, "\r\n");
    }
    return (size_t)(p - to);
}

/* One pipeline: the requests that it had, or -1. */
static int
serve(kv_resp_parser *parser, kv_reply *reply, uint8_t *bytes, size_t size, const char *value,
      size_t value_size)
{
    static const kv_resp_limits limits = {
        .args_max = 1 << 20, .bulk_max = 512 << 20, .inline_max = 65536};
    int count = 0;
    for (;;) {
        const kv_bytes *argv;
        const char *error;
        size_t argc, used, wanted;
        kv_resp_result result =
            kv_resp_parse(parser, &limits, bytes, size, &argv, &argc, &used, &wanted, &error);
        if (result == KV_RESP_MORE)
            return count;
        if (result != KV_RESP_REQUEST || argv[1].size != 16)
            return -1;
        if (argc == 2)
            kv_reply_bulk(reply, value, value_size);
        else
            kv_reply_ok(reply);
        bytes += used;
        size -= used;
        count++;
    }
}

/* For about `seconds`: requests a second, with pykv's code (or by copying the bytes: `copies`). */
int
protocol_run(int depth, int sets_percent, int value_size, int copies, double seconds, double *rate)
{
    size_t most = (size_t)depth * (size_t)(value_size + 100);
    char *bytes = malloc(most), *query = malloc(most), *sent = malloc(most), *value = malloc(most);
    int error = bytes == NULL || query == NULL || sent == NULL || value == NULL ? ENOMEM : 0;
    kv_resp_parser parser;
    kv_reply reply;
    kv_resp_init(&parser);
    kv_reply_init(&reply);

    if (error == 0) {
        memset(value, 'v', (size_t)value_size);
        size_t size = write_requests(bytes, depth, sets_percent, value_size), reply_size = 0;
        double start = seconds_now(), now = start;
        int64_t served = 0;
        while (error == 0 && now - start < seconds) {
            for (int round = 0; error == 0 && round < 100; round++) {
                memcpy(query, bytes, size); /* as from a socket */
                if (copies && reply_size > 0) {
                    memcpy(sent, query, reply_size < size ? reply_size : size);
                    __asm__ volatile("" : : "r"(query), "r"(sent) : "memory");
                    served += depth;
                    continue;
                }
                int count = serve(&parser, &reply, (uint8_t *)query, size, value,
                                  (size_t)value_size);
                struct iovec pieces[64];
                size_t n = kv_reply_pieces(&reply, UINT64_MAX, pieces, 64);
                reply_size = 0;
                for (size_t i = 0; i < n; i++)
                    reply_size += pieces[i].iov_len;
                kv_reply_sent(&reply, reply_size);
                if (count != depth || reply.start != reply.end)
                    error = EPROTO;
                served += count;
            }
            now = seconds_now();
        }
        *rate = (double)served / (now - start);
    }
    kv_resp_fini(&parser);
    kv_reply_fini(&reply);
    free(bytes);
    free(query);
    free(sent);
    free(value);
    return error;
}
