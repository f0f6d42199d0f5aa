/* floor.c - what the disk allows, with everything else left out.
 *
 * A ruler for the benchmarks and no part of pykv: floor.py compiles it at run time and calls it
 * through ctypes (which gives the GIL up meanwhile).  No checksum, no table, no lock: only the
 * system calls that no durable log can do without.
 *
 * Every function answers 0, or an errno.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES (1 << 20)
#define BLOCK_BYTES 4096

#ifdef __APPLE__
static int sync_data(int file) { return fcntl(file, F_FULLFSYNC); }
#else
static int sync_data(int file) { return fdatasync(file); }
#endif

static double
seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int
write_at(int file, const char *data, size_t size, int64_t offset)
{
    while (size > 0) {
        ssize_t done = pwrite(file, data, size, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        data += done;
        size -= (size_t)done;
        offset += done;
    }
    return 0;
}

/* Writes `size` bytes of `fill` from the start of the file, so many at once, and syncs once; the
 * size is rounded up to whole chunks. */
static int
fill_file(int file, int64_t size, int fill, size_t chunk_bytes)
{
    char *chunk = malloc(chunk_bytes);
    int error = chunk == NULL ? ENOMEM : 0;
    if (error == 0)
        memset(chunk, fill, chunk_bytes);
    for (int64_t at = 0; error == 0 && at < size; at += (int64_t)chunk_bytes)
        error = write_at(file, chunk, chunk_bytes, at);
    if (error == 0 && sync_data(file) < 0)
        error = errno;
    free(chunk);
    return error;
}

/* Zero-fills an open file to `size` bytes and syncs it, so that later writes inside it change
 * neither its size nor its extents.  Block by block: the page cache keeps a large write as one large
 * folio, and syncing a few bytes of one costs about 5 us more (measured: ext4, Linux 6.18). */
int
floor_prepare(int file, int64_t size)
{
    return fill_file(file, size, 0, BLOCK_BYTES);
}

/* For `seconds`: writes a frame of `frame_size` bytes at the next offset and syncs.  `*offset` is
 * carried from call to call and starts again at 0 when the prepared file ends. */
int
floor_sync_loop(int file, int64_t file_size, int64_t frame_size, double seconds, int64_t *offset,
                int64_t *frames, double *elapsed)
{
    char *frame = malloc((size_t)frame_size);
    int error = frame == NULL ? ENOMEM : 0;
    double start = seconds_now(), now = start;

    *frames = 0;
    if (error == 0)
        memset(frame, 'f', (size_t)frame_size);
    while (error == 0 && now - start < seconds) {
        if (*offset + frame_size > file_size)
            *offset = 0;
        memcpy(frame, frames, frame_size < 8 ? (size_t)frame_size : 8);
        error = write_at(file, frame, (size_t)frame_size, *offset);
        if (error == 0 && sync_data(file) < 0)
            error = errno;
        *offset += frame_size;
        *frames += 1;
        now = seconds_now();
    }
    *elapsed = now - start;
    free(frame);
    return error;
}

/* Writes `size` bytes into an empty file in chunks of 1 MiB, one sync at the end. */
int
floor_write_all(int file, int64_t size, double *elapsed)
{
    double start = seconds_now();
    int error = fill_file(file, size, 'w', CHUNK_BYTES);
    *elapsed = seconds_now() - start;
    return error;
}

/* Reads the file from the start in chunks of 1 MiB and adds up its words, so that every byte passes
 * through the processor.  Adds to `*size` and `*elapsed`. */
int
floor_read_all(int file, int64_t *size, double *elapsed, uint64_t *sum)
{
    uint64_t *chunk = malloc(CHUNK_BYTES);
    int error = chunk == NULL ? ENOMEM : 0;
    double start = seconds_now();
    int64_t at = 0;

    while (error == 0) {
        ssize_t got = pread(file, chunk, CHUNK_BYTES, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            error = errno;
        if (got <= 0)
            break;
        for (size_t i = 0; i < (size_t)got / sizeof *chunk; i++)
            *sum += chunk[i];
        at += got;
    }
    *size += at;
    *elapsed += seconds_now() - start;
    free(chunk);
    return error;
}
