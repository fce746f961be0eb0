"""A wall clock that a test can set, for one process: a library in front of libc's clocks.

What waits by that clock waits as long as it would if the kernel's had been set before.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

__all__ = ['WallClock']

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *offset;                         /* seconds */
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WALL_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file >= 0) offset = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (is_wall && offset) now->tv_sec += *offset;
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int status = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return status;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

static struct timespec kernels(const struct timespec *deadline) {
    struct timespec own = *deadline;
    if (offset) own.tv_sec -= *offset;
    return own;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           const struct timespec *t) {
    typedef int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    static wait next;
    if (!next) next = (wait)dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next) next = (wait)dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    if (cond->__data.__wrefs & 2) return next(cond, mutex, t);      /* the steady clock's */
    struct timespec own = kernels(t);
    return next(cond, mutex, &own);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *t) {
    typedef int (*wait)(sem_t *, const struct timespec *);
    static wait next;
    if (!next) next = (wait)dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec own = kernels(t);
    return next(semaphore, &own);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *t) {
    typedef int (*wait)(pthread_mutex_t *, const struct timespec *);
    static wait next;
    if (!next) next = (wait)dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    struct timespec own = kernels(t);
    return next(mutex, &own);
}
"""


class WallClock:
    """The wall clock of the processes that a test starts from now on."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, library = folder / 'wall_clock.c', folder / 'wall_clock.so'
        source.write_text(SOURCE)
        command = ['gcc', '-shared', '-fPIC', '-O1', '-o', library, source, '-ldl']
        subprocess.run(command, check=True, capture_output=True)
        self._path = folder / 'wall_clock'
        self._path.write_bytes(struct.pack('q', 0))
        monkeypatch.setenv('LD_PRELOAD', str(library))
        monkeypatch.setenv('WALL_CLOCK_FILE', str(self._path))

    def set(self, seconds: int) -> None:
        """Have the clock be wrong by so many seconds."""
        with self._path.open('r+b') as file:
            file.write(struct.pack('q', seconds))
            os.fsync(file.fileno())
