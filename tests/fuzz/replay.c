/* replay.c - runs a fuzz target on files (or all files of folders), for compilers without libFuzzer. */
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned files;

static void run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    DEMAND(file != NULL);
    static char bytes[1 << 20];
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    fprintf(stderr, "%s\n", path); /* the last line before a report is the culprit */
    uint8_t *copy = fuzz_copy(bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    files++;
}

/* Nothing is changed here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max) {
    (void)data;
    (void)size_max;
    return size;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct stat st;
        DEMAND(stat(argv[i], &st) == 0);
        if (!S_ISDIR(st.st_mode)) {
            run_file(argv[i]);
            continue;
        }
        DIR *folder = opendir(argv[i]);
        DEMAND(folder != NULL);
        for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
            if (entry->d_name[0] != '.')
                run_file(path);
        }
        closedir(folder);
    }
    printf("%u files\n", files);
    return 0;
}
