"""A wall clock that can be moved, for the programs that are started with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

# What a program sees of the wall clock, moved by the number of seconds in a file; the monotonic clock goes on.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (out) *out = found.tv_sec;
    return found.tv_sec;
}
"""


def moved_clock(folder: Path) -> tuple[Path, dict[str, str]]:
    """The file of the seconds by which the clock is moved, and the environment of programs that follow it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("There is no C compiler, which makes the library that moves the clock.")
    (folder / "clock.c").write_text(SHIM)
    library, offset = folder / "clock.so", folder / "offset"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "clock.c", "-ldl"], check=True)
    offset.write_text("0")
    return offset, {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(offset)}
