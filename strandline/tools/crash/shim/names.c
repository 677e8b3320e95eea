/* What makes, opens, moves and removes names. */
#include "shim.h"

#include <stdarg.h>
#include <stdio.h>

static int refused(int error) {
    errno = error;
    return -1;
}

static struct head name_head(enum record type, struct verdict verdict, int done, uint32_t node) {
    return (struct head){.type = type,
                         .flags = verdict.error != 0 ? FLAG_INJECTED : 0,
                         .error = (uint16_t)(done < 0 ? errno : 0),
                         .node = node};
}

/* Record an open that succeeded; under the lock. */
static void record_open(int descriptor, int flags, int created, int truncated) {
    char canonical[PATH_MAX];
    struct stat about;
    if (fstat(descriptor, &about) < 0 || !(S_ISREG(about.st_mode) || S_ISDIR(about.st_mode)) ||
        !path_of_descriptor(descriptor, canonical) || !path_is_below(canonical)) {
        return;
    }
    struct head head = {.type = RECORD_OPEN,
                        .flags = (flags & O_DSYNC ? FLAG_THROUGH : 0) |
                                 (S_ISDIR(about.st_mode) ? FLAG_DIRECTORY : 0) |
                                 (created ? FLAG_CREATED : 0) | (truncated ? FLAG_TRUNCATED : 0),
                        .node = created ? node_made(&about) : node_of(&about, canonical),
                        .length = (uint64_t)flags};
    record_path(head, path_relative(canonical));
}

static int open_below(int directory, const char *path, int flags, mode_t mode,
                      const char *canonical) {
    struct stat about;
    int there = fstatat(directory, path, &about, flags & O_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0) == 0;
    int created = flags & O_CREAT && !there;
    int truncated = flags & O_TRUNC && there && S_ISREG(about.st_mode);
    if ((flags & O_TMPFILE) == O_TMPFILE || flags & O_DIRECT) {
        record_unsupported(flags & O_DIRECT ? "open with O_DIRECT" : "open with O_TMPFILE",
                           path_relative(canonical));
    }
    struct verdict verdict = shim_turn(created || truncated ? KIND_CREATE : KIND_OPEN);
    int done = verdict.error ? refused(verdict.error)
                             : (int)RAW(SYS_openat, directory, path, flags, mode);
    int error = errno;
    if (done < 0) {
        record_path(name_head(RECORD_OPEN, verdict, done, 0), path_relative(canonical));
    } else {
        record_open(done, flags, created, truncated);
    }
    errno = error;
    return done;
}

static int open_any(int directory, const char *path, int flags, mode_t mode) {
    char canonical[PATH_MAX];
    int changes = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE;
    if (!enter_path(changes ? "open" : NULL, directory, path, canonical)) {
        return (int)RAW(SYS_openat, directory, path, flags, mode);
    }
    return shim_unlock(open_below(directory, path, flags, mode, canonical));
}

#define MODE_OF(flags, last)                                                                       \
    mode_t mode = 0;                                                                               \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) {                                 \
        va_list rest;                                                                              \
        va_start(rest, last);                                                                      \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

EXPORT int open64(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORT int open(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_any(AT_FDCWD, path, flags, mode);
}

EXPORT int openat64(int directory, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_any(directory, path, flags, mode);
}

EXPORT int openat(int directory, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_any(directory, path, flags, mode);
}

/* What a compiler makes of open where it can check the arguments. */
EXPORT int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }

EXPORT int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }

EXPORT int __openat_2(int directory, const char *path, int flags) {
    return open_any(directory, path, flags, 0);
}

EXPORT int __openat64_2(int directory, const char *path, int flags) {
    return open_any(directory, path, flags, 0);
}

EXPORT int creat64(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int creat(const char *path, mode_t mode) { return creat64(path, mode); }

/* A close that is made to fail closes all the same, as Linux does. */
EXPORT int close(int descriptor) {
    struct stat about;
    uint32_t node;
    if (!enter_descriptor(NULL, descriptor, &about, &node)) {
        return (int)RAW(SYS_close, descriptor);
    }
    struct verdict verdict = shim_turn(KIND_CLOSE);
    int done = (int)RAW(SYS_close, descriptor);
    if (verdict.error) {
        done = refused(verdict.error);
    }
    record_append(name_head(RECORD_CLOSE, verdict, done, node), NULL, 0, 0);
    return shim_unlock(done);
}

/* One of the calls that take two names. */
struct pair {
    const char *call;
    enum kind kind;
    enum record type;
    int from_directory;
    const char *from;
    int to_directory;
    const char *to;
    int flags;
};

static int pair_real(const struct pair *pair) {
    long number = pair->kind == KIND_LINK ? SYS_linkat : SYS_renameat2;
    return (int)RAW(number, pair->from_directory, pair->from, pair->to_directory, pair->to,
                    pair->flags);
}

/* Under the lock; at least one of the names is below the root. */
static int pair_below(const struct pair *pair, const char *from, const char *to) {
    struct stat about;
    if (fstatat(pair->from_directory, pair->from, &about, AT_SYMLINK_NOFOLLOW) < 0) {
        about = (struct stat){0};
    }
    int plain = pair->kind == KIND_LINK ? 0 : RENAME_NOREPLACE;
    if (from[0] == '\0' || to[0] == '\0' || S_ISLNK(about.st_mode) || pair->flags & ~plain) {
        record_unsupported(pair->call, path_relative(from[0] == '\0' ? to : from));
        return pair_real(pair);
    }
    struct verdict verdict = shim_turn(pair->kind);
    uint32_t node = about.st_nlink > 0 ? node_of(&about, from) : 0;
    int done = verdict.error ? refused(verdict.error) : pair_real(pair);
    record_paths(name_head(pair->type, verdict, done, node), path_relative(from),
                 path_relative(to));
    return done;
}

static int pair_any(const struct pair *pair) {
    char from[PATH_MAX], to[PATH_MAX];
    if (shim_mode() == OFF || pair->from == NULL || pair->to == NULL) {
        return pair_real(pair);
    }
    int from_below = path_locate(pair->from_directory, pair->from, from);
    int to_below = path_locate(pair->to_directory, pair->to, to);
    if (!from_below && !to_below) {
        return pair_real(pair);
    }
    from[0] = from_below ? from[0] : '\0';
    to[0] = to_below ? to[0] : '\0';
    shim_lock();
    if (shim_mode() == ARMED) {
        return shim_unlock(pair_below(pair, from, to));
    }
    if (shim_mode() == WATCHING) {
        record_unsupported(pair->call, path_relative(from_below ? from : to));
    }
    shim_unlock(0);
    return pair_real(pair);
}

EXPORT int renameat2(int from_directory, const char *from, int to_directory, const char *to,
                     unsigned int flags) {
    return pair_any(&(struct pair){"rename", KIND_RENAME, RECORD_RENAME, from_directory, from,
                                   to_directory, to, (int)flags});
}

EXPORT int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return renameat2(from_directory, from, to_directory, to, 0);
}

EXPORT int rename(const char *from, const char *to) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int linkat(int from_directory, const char *from, int to_directory, const char *to,
                  int flags) {
    return pair_any(&(struct pair){"link", KIND_LINK, RECORD_LINK, from_directory, from,
                                   to_directory, to, flags});
}

EXPORT int link(const char *from, const char *to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

EXPORT int unlinkat(int directory, const char *path, int flags) {
    char canonical[PATH_MAX];
    struct stat about;
    int removes_directory = flags & AT_REMOVEDIR;
    if (!enter_path(removes_directory ? "rmdir" : "unlink", directory, path, canonical)) {
        return (int)RAW(SYS_unlinkat, directory, path, flags);
    }
    struct verdict verdict = shim_turn(removes_directory ? KIND_RMDIR : KIND_UNLINK);
    int there = fstatat(directory, path, &about, AT_SYMLINK_NOFOLLOW) == 0;
    int seen = there && (S_ISREG(about.st_mode) || S_ISDIR(about.st_mode));
    uint32_t node = seen ? node_of(&about, canonical) : 0;
    int done = verdict.error ? refused(verdict.error)
                             : (int)RAW(SYS_unlinkat, directory, path, flags);
    if (seen || done < 0) {
        record_path(name_head(removes_directory ? RECORD_RMDIR : RECORD_UNLINK, verdict, done,
                              node),
                    path_relative(canonical));
    }
    return shim_unlock(done);
}

EXPORT int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

EXPORT int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

EXPORT int remove(const char *path) {
    struct stat about;
    int directory = lstat(path, &about) == 0 && S_ISDIR(about.st_mode);
    return unlinkat(AT_FDCWD, path, directory ? AT_REMOVEDIR : 0);
}

EXPORT int mkdirat(int directory, const char *path, mode_t mode) {
    char canonical[PATH_MAX];
    struct stat about;
    if (!enter_path("mkdir", directory, path, canonical)) {
        return (int)RAW(SYS_mkdirat, directory, path, mode);
    }
    struct verdict verdict = shim_turn(KIND_MKDIR);
    int done = verdict.error ? refused(verdict.error)
                             : (int)RAW(SYS_mkdirat, directory, path, mode);
    struct head head = name_head(RECORD_MKDIR, verdict, done, 0);
    if (done == 0 && fstatat(directory, path, &about, AT_SYMLINK_NOFOLLOW) == 0) {
        head.node = node_made(&about);
    }
    record_path(head, path_relative(canonical));
    return shim_unlock(done);
}

EXPORT int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
