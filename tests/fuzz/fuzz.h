/* fuzz.h - what the fuzz targets share.
 *
 * A target is one function, LLVMFuzzerTestOneInput: libFuzzer calls it with bytes that it makes up, and main in
 * replay.c with those of files.  Whatever is wrong ends the process by abort().
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A target may have the one, and changes bytes in its own way with the help of the other, which is libFuzzer's. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

#define DEMAND(condition)                                                                        \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

/* A buffer of exactly this size, so that the address sanitizer sees every byte too far.  `bytes` NULL: not filled. */
static inline uint8_t *fuzz_copy(const void *bytes, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    DEMAND(copy != NULL);
    if (bytes != NULL && size > 0)
        memcpy(copy, bytes, size);
    return copy;
}

/* Numbers that follow from `state`. */
static inline uint32_t fuzz_next(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

#endif
