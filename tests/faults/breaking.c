/* Preloaded: counts what a process is about to do to files below a folder (or to sockets, below "socket:"), and at
 * the n-th of these steps kills it, or from there on says that the disk is full. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FULL };
static int what = COUNT;
static long at;
static char below[PATH_MAX];
static long *steps; /* in memory that the test shares */

void breaking_arm(int mode, long step, const char *folder, long *counter) {
    what = mode, at = step, steps = counter;
    strncpy(below, folder, sizeof below - 1);
}

static int counts(const char *path) { return steps && strncmp(path, below, strlen(below)) == 0; }

/* Before a step: 1 when it must fail for want of room. */
static int step(int takes_room) {
    long now = __atomic_add_fetch(steps, 1, __ATOMIC_SEQ_CST);
    if (what == KILL && now == at)
        for (kill(getpid(), SIGKILL);;) pause();
    if (what == FULL && now >= at && takes_room) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

static int open_counts(int fd) {
    char link[64], path[PATH_MAX];
    if (!steps) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return counts(path);
}

static int named_counts(int folder, const char *path) {
    return path[0] == '/' ? counts(path) : folder != AT_FDCWD && open_counts(folder);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define ON_FILE(result, name, room, declared, ...) \
    result name declared { return open_counts(fd) && step(room) ? -1 : NEXT(name)(__VA_ARGS__); }
#define ON_NAME(name, folder, room, declared, ...) \
    int name declared { return named_counts(folder, path) && step(room) ? -1 : NEXT(name)(__VA_ARGS__); }

ON_FILE(ssize_t, write, 1, (int fd, const void *data, size_t size), fd, data, size)
ON_FILE(ssize_t, pwrite, 1, (int fd, const void *data, size_t size, off_t to), fd, data, size, to)
ON_FILE(ssize_t, pwrite64, 1, (int fd, const void *data, size_t size, off64_t to), fd, data, size, to)
ON_FILE(ssize_t, writev, 1, (int fd, const struct iovec *parts, int n), fd, parts, n)
ON_FILE(ssize_t, pwritev, 1, (int fd, const struct iovec *parts, int n, off_t to), fd, parts, n, to)
ON_FILE(ssize_t, pwritev64, 1, (int fd, const struct iovec *parts, int n, off64_t to), fd, parts, n, to)
ON_FILE(ssize_t, send, 0, (int fd, const void *data, size_t size, int flags), fd, data, size, flags)
ON_FILE(ssize_t, sendmsg, 0, (int fd, const struct msghdr *message, int flags), fd, message, flags)
ON_FILE(int, fsync, 0, (int fd), fd)
ON_FILE(int, fdatasync, 0, (int fd), fd)
ON_FILE(int, ftruncate, 0, (int fd, off_t size), fd, size)
ON_FILE(int, ftruncate64, 0, (int fd, off64_t size), fd, size)
ON_NAME(rename, AT_FDCWD, 0, (const char *path, const char *to), path, to)
ON_NAME(unlink, AT_FDCWD, 0, (const char *path), path)
ON_NAME(unlinkat, folder, 0, (int folder, const char *path, int flags), folder, path, flags)
ON_NAME(rmdir, AT_FDCWD, 0, (const char *path), path)
ON_NAME(mkdir, AT_FDCWD, 1, (const char *path, mode_t mode), path, mode)

size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    return open_counts(fileno(file)) && step(1) ? 0 : NEXT(fwrite)(data, size, n, file);
}

/* Opening makes a step where it makes a file. */
#define OPENS(name, folder, declared, ...) \
    int name declared { \
        mode_t mode = 0; \
        if (flags & O_CREAT) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
            if (named_counts(folder, path) && faccessat(folder, path, F_OK, 0) && step(1)) return -1; \
        } \
        return NEXT(name)(__VA_ARGS__, mode); \
    }
OPENS(open, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPENS(open64, AT_FDCWD, (const char *path, int flags, ...), path, flags)
OPENS(openat, folder, (int folder, const char *path, int flags, ...), folder, path, flags)
OPENS(openat64, folder, (int folder, const char *path, int flags, ...), folder, path, flags)
