/* late.c - who starts a thread goes on only when that one has been at work for a while. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *arg) {
    create *next = (create *)dlsym(RTLD_NEXT, "pthread_create");
    int result = next(thread, attributes, function, arg);
    usleep(300000);
    return result;
}
