/* What changes files below the root in ways that cannot be replayed: let through, and recorded as
 * unsupported, so that nothing is missed in silence. */
#include "shim.h"

#include <dlfcn.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* The next definition of a function: libc's. */
#define NEXT(type, name)                                                                           \
    static __typeof__(type) next;                                                                  \
    if (next == NULL) {                                                                            \
        *(void **)&next = dlsym(RTLD_NEXT, name);                                                  \
    }

static void note_descriptor(const char *call, int descriptor) {
    char canonical[PATH_MAX];
    struct stat about;
    if (shim_mode() == OFF || fstat(descriptor, &about) < 0 || !S_ISREG(about.st_mode)) {
        return;
    }
    shim_lock();
    if (shim_mode() != OFF && path_of_descriptor(descriptor, canonical) &&
        path_is_below(canonical) && !path_may_be_mapped(canonical)) {
        record_unsupported(call, path_relative(canonical));
    }
    shim_unlock(0);
}

static void note_path(const char *call, int directory, const char *path) {
    char canonical[PATH_MAX];
    if (shim_mode() == OFF || path == NULL || !path_locate(directory, path, canonical)) {
        return;
    }
    shim_lock();
    if (shim_mode() != OFF && !path_may_be_mapped(canonical)) {
        record_unsupported(call, path_relative(canonical));
    }
    shim_unlock(0);
}

static void note_always(const char *call) {
    if (shim_mode() == OFF) {
        return;
    }
    shim_lock();
    if (shim_mode() != OFF) {
        record_unsupported(call, ".");
    }
    shim_unlock(0);
}

EXPORT void *mmap64(void *at, size_t length, int protection, int flags, int descriptor,
                    off_t offset) {
    if (descriptor >= 0 && protection & PROT_WRITE && flags & MAP_SHARED) {
        note_descriptor("mmap", descriptor);
    }
    return (void *)RAW(SYS_mmap, at, length, protection, flags, descriptor, offset);
}

EXPORT void *mmap(void *at, size_t length, int protection, int flags, int descriptor,
                  off_t offset) {
    return mmap64(at, length, protection, flags, descriptor, offset);
}

EXPORT ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length,
                               unsigned int flags) {
    note_descriptor("copy_file_range", to);
    return RAW(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
}

EXPORT ssize_t sendfile64(int to, int from, off_t *at, size_t length) {
    note_descriptor("sendfile", to);
    return RAW(SYS_sendfile, to, from, at, length);
}

EXPORT ssize_t sendfile(int to, int from, off_t *at, size_t length) {
    return sendfile64(to, from, at, length);
}

EXPORT ssize_t splice(int from, off_t *from_at, int to, off_t *to_at, size_t length,
                      unsigned int flags) {
    note_descriptor("splice", to);
    return RAW(SYS_splice, from, from_at, to, to_at, length, flags);
}

EXPORT int sync_file_range(int descriptor, off_t at, off_t length, unsigned int flags) {
    note_descriptor("sync_file_range", descriptor);
    return (int)RAW(SYS_sync_file_range, descriptor, at, length, flags);
}

EXPORT int syncfs(int descriptor) {
    note_descriptor("syncfs", descriptor);
    return (int)RAW(SYS_syncfs, descriptor);
}

EXPORT void sync(void) {
    note_always("sync");
    RAW(SYS_sync);
}

EXPORT int ioctl(int descriptor, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (request == FICLONE || request == FICLONERANGE || request == FIDEDUPERANGE) {
        note_descriptor("ioctl", descriptor);
    }
    return (int)RAW(SYS_ioctl, descriptor, request, argument);
}

EXPORT int symlinkat(const char *target, int directory, const char *path) {
    note_path("symlink", directory, path);
    return (int)RAW(SYS_symlinkat, target, directory, path);
}

EXPORT int symlink(const char *target, const char *path) {
    return symlinkat(target, AT_FDCWD, path);
}

EXPORT int mknodat(int directory, const char *path, mode_t mode, dev_t device) {
    note_path("mknod", directory, path);
    return (int)RAW(SYS_mknodat, directory, path, mode, device);
}

EXPORT int mknod(const char *path, mode_t mode, dev_t device) {
    return mknodat(AT_FDCWD, path, mode, device);
}

EXPORT int mkfifoat(int directory, const char *path, mode_t mode) {
    return mknodat(directory, path, mode | S_IFIFO, 0);
}

EXPORT int mkfifo(const char *path, mode_t mode) { return mkfifoat(AT_FDCWD, path, mode); }

/* The streams of stdio write inside libc, where nobody can see it. */
static int writes(const char *mode) { return strpbrk(mode, "wa+") != NULL; }

EXPORT FILE *fopen64(const char *path, const char *mode) {
    NEXT(FILE * (*)(const char *, const char *), "fopen64")
    if (writes(mode)) {
        note_path("fopen", AT_FDCWD, path);
    }
    return next(path, mode);
}

EXPORT FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

EXPORT FILE *freopen64(const char *path, const char *mode, FILE *stream) {
    NEXT(FILE * (*)(const char *, const char *, FILE *), "freopen64")
    if (writes(mode)) {
        note_path("freopen", AT_FDCWD, path);
    }
    return next(path, mode, stream);
}

EXPORT FILE *freopen(const char *path, const char *mode, FILE *stream) {
    return freopen64(path, mode, stream);
}

EXPORT FILE *fdopen(int descriptor, const char *mode) {
    NEXT(FILE * (*)(int, const char *), "fdopen")
    if (writes(mode)) {
        note_descriptor("fdopen", descriptor);
    }
    return next(descriptor, mode);
}

EXPORT int mkostemp64(char *pattern, int flags) {
    NEXT(int (*)(char *, int), "mkostemp64")
    note_path("mkostemp", AT_FDCWD, pattern);
    return next(pattern, flags);
}

EXPORT int mkostemp(char *pattern, int flags) { return mkostemp64(pattern, flags); }
EXPORT int mkstemp64(char *pattern) { return mkostemp64(pattern, 0); }
EXPORT int mkstemp(char *pattern) { return mkostemp64(pattern, 0); }

EXPORT char *mkdtemp(char *pattern) {
    NEXT(char *(*)(char *), "mkdtemp")
    note_path("mkdtemp", AT_FDCWD, pattern);
    return next(pattern);
}

/* Calls by number: where they act is not looked into, but for the descriptors of the plain ones. */
static void note_number(long number, long first) {
    switch (number) {
    case SYS_write:
    case SYS_writev:
    case SYS_pwrite64:
    case SYS_pwritev:
    case SYS_pwritev2:
    case SYS_ftruncate:
    case SYS_fallocate:
    case SYS_sendfile:
        note_descriptor("syscall", (int)first);
        break;
    case SYS_copy_file_range:
    case SYS_splice:
    case SYS_truncate:
    case SYS_renameat2:
    case SYS_unlinkat:
    case SYS_mkdirat:
    case SYS_linkat:
    case SYS_symlinkat:
    case SYS_io_uring_setup:
    case SYS_io_submit:
        note_always("syscall");
        break;
    default:
        break;
    }
}

EXPORT long syscall(long number, ...) {
    va_list rest;
    long all[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++) {
        all[i] = va_arg(rest, long);
    }
    va_end(rest);
    note_number(number, all[0]);
    return RAW(number, all[0], all[1], all[2], all[3], all[4], all[5]);
}
