/* A fault at one system call: a library for LD_PRELOAD.
 *
 * It counts the calls of libc below a directory, in all processes of one run that it is meant for, and at the
 * N-th of them does what it was told. So a run can be repeated with a fault at each of its calls in turn. The count is
 * in a file that all of them map. The environment says everything:
 *
 *   FAULTS_BELOW    the directory; a call on a descriptor or a path elsewhere is let through and not counted
 *   FAULTS_PROGRAM  how the names of the programs begin that it is meant for: "python", "rsync"
 *   FAULTS_SIDE     "client" or "agent": relay.c sets FAULTS_HERE to "agent" for what it starts
 *   FAULTS_COUNT    the file with the count, eight bytes
 *   FAULTS_LOG      the file that gets "N kind path" for each call that was counted, and "fired" for the fault
 *   FAULTS_AT       N, from 1; 0 never
 *   FAULTS_ACT      errno=E           the call fails with E
 *                   always=E:KIND,..  from here on every call of these kinds fails with E: a disk that stays full
 *                   short             a read or a write does half of what was asked for
 *                   kill=S            this process gets signal S before the call
 *                   group=S           its process group does
 *                   parent=S          its parent does
 *                   pause             this process is stopped, and goes on 0.2 seconds later
 *                   run=COMMAND       sh runs COMMAND before the call
 *   FAULTS_CLOCK    if set, each second question for the time of day is answered with so many seconds more
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum outcome { PASS, FAIL, HALF };

static const char *below, *act;
static size_t below_length;
static unsigned long at;
static long jump;
static unsigned long *count;
static int logged = -1;

static int is_for_us(void)
{
    const char *program = getenv("FAULTS_PROGRAM"), *side = getenv("FAULTS_SIDE"), *here = getenv("FAULTS_HERE");
    const char *name = program_invocation_short_name;
    if (!program || strncmp(name, program, strlen(program)))
        return 0;
    return !side || !strcmp(side, here ? here : "client");
}

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("FAULTS_COUNT");
    if (!is_for_us())
        return;
    if (getenv("FAULTS_CLOCK"))
        jump = atol(getenv("FAULTS_CLOCK"));
    if (!path || !getenv("FAULTS_BELOW"))
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        _exit(99);
    syscall(SYS_close, fd);
    logged = syscall(SYS_openat, AT_FDCWD, getenv("FAULTS_LOG"), O_WRONLY | O_APPEND | O_CLOEXEC);
    /* Out of the way of the numbers that the program expects to get. */
    int high = fcntl(logged, F_DUPFD_CLOEXEC, 200);
    if (high >= 0) {
        syscall(SYS_close, logged);
        logged = high;
    }
    at = strtoul(getenv("FAULTS_AT"), NULL, 10);
    act = getenv("FAULTS_ACT");
    below = getenv("FAULTS_BELOW");
    below_length = strlen(below);
    count = map;
}

/* The program may close the descriptor with all the others: then there is only no log. */
static void note(unsigned long number, const char *kind, const char *path)
{
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%lu %s %s\n", number, kind, path);
    if (logged >= 0)
        syscall(SYS_write, logged, line, (size_t)length < sizeof line ? (size_t)length : sizeof line);
}

static void run(const char *command)
{
    char *const argv[] = {"sh", "-c", (char *)command, NULL};
    char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", NULL};
    pid_t pid = fork();
    if (!pid) {
        execve("/bin/sh", argv, environment);
        _exit(127);
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void pause_for_a_while(void)
{
    pid_t pid = getpid(), waker = fork();
    if (!waker) {
        if (!fork()) {
            usleep(200000);
            kill(pid, SIGCONT);
        }
        _exit(0);
    }
    while (waitpid(waker, NULL, 0) < 0 && errno == EINTR)
        ;
    kill(pid, SIGSTOP);
}

static int listed(const char *kinds, const char *kind)
{
    size_t length = strlen(kind);
    for (const char *found = strstr(kinds, kind); found; found = strstr(found + 1, kind))
        if ((found[-1] == ':' || found[-1] == ',') && (found[length] == ',' || !found[length]))
            return 1;
    return 0;
}

static enum outcome strike(const char *kind, const char *path)
{
    unsigned long number = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    note(number, kind, path);
    if (!at || number < at)
        return PASS;
    if (!strncmp(act, "always=", 7)) {
        const char *kinds = strchr(act, ':');
        if (!listed(kinds, kind))
            return PASS;
        note(number, "fired", kind);
        errno = atoi(act + 7);
        return FAIL;
    }
    if (number != at)
        return PASS;
    note(number, "fired", kind);
    int value = strchr(act, '=') ? atoi(strchr(act, '=') + 1) : 0;
    if (!strncmp(act, "errno=", 6)) {
        errno = value;
        return FAIL;
    }
    if (!strcmp(act, "short"))
        return HALF;
    if (!strncmp(act, "kill=", 5))
        kill(getpid(), value);
    else if (!strncmp(act, "group=", 6))
        killpg(getpgrp(), value);
    else if (!strncmp(act, "parent=", 7))
        kill(getppid(), value);
    else if (!strcmp(act, "pause"))
        pause_for_a_while();
    else if (!strncmp(act, "run=", 4))
        run(act + 4);
    return PASS;
}

static int is_below(const char *path)
{
    return !strncmp(path, below, below_length) && (path[below_length] == '/' || !path[below_length]);
}

static int name_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return 1;
}

static enum outcome on_fd(const char *kind, int fd)
{
    char path[PATH_MAX];
    int before = errno;
    if (!count || fd == logged || !name_of(fd, path, sizeof path) || !is_below(path)) {
        errno = before;
        return PASS;
    }
    return strike(kind, path);
}

static enum outcome on_path(const char *kind, int directory, const char *name)
{
    char path[2 * PATH_MAX];
    int before = errno;
    if (!count)
        return PASS;
    if (!name || !*name)
        return on_fd(kind, directory);
    if (*name == '/')
        snprintf(path, sizeof path, "%s", name);
    else {
        if (directory == AT_FDCWD ? !getcwd(path, PATH_MAX) : !name_of(directory, path, PATH_MAX)) {
            errno = before;
            return PASS;
        }
        size_t length = strlen(path);
        snprintf(path + length, sizeof path - length, "/%s", name);
    }
    if (!is_below(path)) {
        errno = before;
        return PASS;
    }
    return strike(kind, path);
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define HALVED(size) ((size) > 1 ? (size) / 2 : (size))

/* A call that only passes or fails. */
#define PLAIN(type, name, kind, where, parameters, arguments) \
    type name parameters \
    { \
        NEXT(name); \
        if (where == FAIL) \
            return (type)-1; \
        return next arguments; \
    }
#define ON_FD(type, name, kind, parameters, arguments) \
    PLAIN(type, name, kind, on_fd(kind, fd), parameters, arguments)
#define ON_PATH(type, name, kind, parameters, arguments) \
    PLAIN(type, name, kind, on_path(kind, AT_FDCWD, path), parameters, arguments)
#define ON_AT(type, name, kind, parameters, arguments) \
    PLAIN(type, name, kind, on_path(kind, directory, path), parameters, arguments)

/* A call that may do less than it was asked for. */
#define SIZED(name, kind, parameters, size, arguments) \
    ssize_t name parameters \
    { \
        NEXT(name); \
        switch (on_fd(kind, fd)) { \
        case FAIL: \
            return -1; \
        case HALF: \
            size = HALVED(size); \
        default: \
            return next arguments; \
        } \
    }

/* The same of vectors: half of the first buffer. */
#define VECTOR(name, kind, parameters, arguments, halved) \
    ssize_t name parameters \
    { \
        NEXT(name); \
        struct iovec half; \
        switch (on_fd(kind, fd)) { \
        case FAIL: \
            return -1; \
        case HALF: \
            half = vector[0]; \
            half.iov_len = HALVED(half.iov_len); \
            return next halved; \
        default: \
            return next arguments; \
        } \
    }

SIZED(read, "read", (int fd, void *data, size_t size), size, (fd, data, size))
SIZED(write, "write", (int fd, const void *data, size_t size), size, (fd, data, size))
SIZED(pread, "read", (int fd, void *data, size_t size, off_t offset), size, (fd, data, size, offset))
SIZED(pread64, "read", (int fd, void *data, size_t size, off64_t offset), size, (fd, data, size, offset))
SIZED(pwrite, "write", (int fd, const void *data, size_t size, off_t offset), size, (fd, data, size, offset))
SIZED(pwrite64, "write", (int fd, const void *data, size_t size, off64_t offset), size, (fd, data, size, offset))
VECTOR(preadv64, "read", (int fd, const struct iovec *vector, int n, off64_t offset), (fd, vector, n, offset),
       (fd, &half, 1, offset))
VECTOR(preadv64v2, "read", (int fd, const struct iovec *vector, int n, off64_t offset, int flags),
       (fd, vector, n, offset, flags), (fd, &half, 1, offset, flags))
VECTOR(pwritev64, "write", (int fd, const struct iovec *vector, int n, off64_t offset), (fd, vector, n, offset),
       (fd, &half, 1, offset))
VECTOR(pwritev64v2, "write", (int fd, const struct iovec *vector, int n, off64_t offset, int flags),
       (fd, vector, n, offset, flags), (fd, &half, 1, offset, flags))
VECTOR(readv, "read", (int fd, const struct iovec *vector, int n), (fd, vector, n), (fd, &half, 1))
VECTOR(writev, "write", (int fd, const struct iovec *vector, int n), (fd, vector, n), (fd, &half, 1))

/* Counted by the file that is written to. */
ssize_t copy_file_range(int from, off64_t *from_offset, int fd, off64_t *offset, size_t size, unsigned flags)
{
    NEXT(copy_file_range);
    switch (on_fd("copy", fd)) {
    case FAIL:
        return -1;
    case HALF:
        size = HALVED(size);
    default:
        return next(from, from_offset, fd, offset, size, flags);
    }
}

ON_FD(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))
ON_FD(int, fallocate, "fallocate", (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size))
ON_FD(int, fallocate64, "fallocate", (int fd, int mode, off64_t offset, off64_t size), (fd, mode, offset, size))
ON_FD(int, fchmod, "chmod", (int fd, mode_t mode), (fd, mode))
ON_FD(int, fchown, "chown", (int fd, uid_t user, gid_t group), (fd, user, group))
ON_FD(int, futimens, "utimens", (int fd, const struct timespec times[2]), (fd, times))
ON_FD(int, fsync, "fsync", (int fd), (fd))
ON_FD(int, fstat, "stat", (int fd, struct stat *st), (fd, st))
ON_FD(int, fstat64, "stat", (int fd, struct stat64 *st), (fd, st))
ON_FD(int, fstatvfs, "statvfs", (int fd, struct statvfs *st), (fd, st))
ON_FD(int, fstatvfs64, "statvfs", (int fd, struct statvfs64 *st), (fd, st))
ON_FD(int, flock, "flock", (int fd, int operation), (fd, operation))

ON_PATH(int, stat, "stat", (const char *path, struct stat *st), (path, st))
ON_PATH(int, stat64, "stat", (const char *path, struct stat64 *st), (path, st))
ON_PATH(int, lstat, "stat", (const char *path, struct stat *st), (path, st))
ON_PATH(int, lstat64, "stat", (const char *path, struct stat64 *st), (path, st))
ON_PATH(int, statvfs, "statvfs", (const char *path, struct statvfs *st), (path, st))
ON_PATH(int, statvfs64, "statvfs", (const char *path, struct statvfs64 *st), (path, st))
ON_PATH(int, chmod, "chmod", (const char *path, mode_t mode), (path, mode))
ON_PATH(int, mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
ON_PATH(int, unlink, "unlink", (const char *path), (path))
ON_AT(int, fstatat, "stat", (int directory, const char *path, struct stat *st, int flags), (directory, path, st, flags))
ON_AT(int, fstatat64, "stat", (int directory, const char *path, struct stat64 *st, int flags),
      (directory, path, st, flags))
ON_AT(int, fchmodat, "chmod", (int directory, const char *path, mode_t mode, int flags), (directory, path, mode, flags))
ON_AT(int, mkdirat, "mkdir", (int directory, const char *path, mode_t mode), (directory, path, mode))
ON_AT(int, unlinkat, "unlink", (int directory, const char *path, int flags), (directory, path, flags))
ON_AT(int, utimensat, "utimens", (int directory, const char *path, const struct timespec times[2], int flags),
      (directory, path, times, flags))
PLAIN(int, rename, "rename", on_path("rename", AT_FDCWD, to), (const char *from, const char *to), (from, to))
PLAIN(int, renameat, "rename", on_path("rename", to_directory, to),
      (int directory, const char *from, int to_directory, const char *to), (directory, from, to_directory, to))
PLAIN(int, renameat2, "rename", on_path("rename", to_directory, to),
      (int directory, const char *from, int to_directory, const char *to, unsigned flags),
      (directory, from, to_directory, to, flags))

DIR *opendir(const char *path)
{
    NEXT(opendir);
    return on_path("readdir", AT_FDCWD, path) == FAIL ? NULL : next(path);
}

/* Only to look for data and holes: to any other place a file's position can always be moved. */
#define LSEEK(name, offset_type) \
    offset_type name(int fd, offset_type offset, int whence) \
    { \
        NEXT(name); \
        if ((whence == SEEK_DATA || whence == SEEK_HOLE) && on_fd("seek", fd) == FAIL) \
            return -1; \
        return next(fd, offset, whence); \
    }
LSEEK(lseek, off_t)
LSEEK(lseek64, off64_t)

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    NEXT(ioctl);
    return on_fd("ioctl", fd) == FAIL ? -1 : next(fd, request, argument);
}

#define OPEN(name, parameters, directory, arguments) \
    int name parameters \
    { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = va_arg(rest, mode_t); \
            va_end(rest); \
        } \
        NEXT(name); \
        return on_path(flags & O_CREAT ? "create" : "open", directory, path) == FAIL ? -1 : next arguments; \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode))
OPEN(openat, (int directory, const char *path, int flags, ...), directory, (directory, path, flags, mode))
OPEN(openat64, (int directory, const char *path, int flags, ...), directory, (directory, path, flags, mode))

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static unsigned asked;
    NEXT(clock_gettime);
    int result = next(clock, now);
    if (jump && !result && clock == CLOCK_REALTIME && __atomic_add_fetch(&asked, 1, __ATOMIC_SEQ_CST) % 2)
        now->tv_sec += jump;
    return result;
}
