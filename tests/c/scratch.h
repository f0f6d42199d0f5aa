/* scratch.h - a directory on the real file system for one test. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

typedef struct scratch {
    char path[256];
} scratch;

/* An empty directory, removed by scratch_remove (a test that fails leaves it, to be looked at). */
static inline scratch scratch_make(void) {
    scratch s;
    const char *parent = getenv("TMPDIR");
    snprintf(s.path, sizeof s.path, "%s/pykv-test-XXXXXX", parent != NULL ? parent : "/tmp");
    CHECK(mkdtemp(s.path) != NULL);
    return s;
}

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *where) {
    (void)st, (void)type, (void)where;
    return remove(path);
}

static inline void scratch_remove(const scratch *s) {
    nftw(s->path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* "SCRATCH/NAME", in one of four buffers used in turn. */
static inline const char *scratch_path(const scratch *s, const char *name) {
    static char buffers[4][512];
    static unsigned turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof buffers[0], "%s/%s", s->path, name);
    return buffer;
}

#endif
