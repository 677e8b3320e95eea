/* The write family, lengths and reserved blocks. */
#include "shim.h"

#define MOST_PARTS 1024 /* IOV_MAX */
#define HERE (-1)       /* at the descriptor's own position, which moves */

/* Take the lock if the descriptor is the one whose writes are marks. */
static int enter_marks(int descriptor) {
    struct stat about;
    if (shim_mode() != ARMED || !shim.has_marks || fstat(descriptor, &about) < 0 ||
        about.st_dev != shim.marks_device || about.st_ino != shim.marks_inode) {
        return 0;
    }
    shim_lock();
    return 1;
}

static ssize_t write_real(int descriptor, const struct iovec *parts, int count, off_t at,
                          int flags) {
    if (at == HERE && flags == 0) {
        return RAW(SYS_writev, descriptor, parts, count);
    }
    return RAW(SYS_pwritev2, descriptor, parts, count, at, 0, flags);
}

/* Copy the parts that hold the first `limit` bytes; return how many they are. */
static int cut(const struct iovec *parts, int count, size_t limit, struct iovec *kept) {
    int used = 0;
    for (; used < count && limit > 0; used++) {
        size_t length = parts[used].iov_len < limit ? parts[used].iov_len : limit;
        kept[used] = (struct iovec){parts[used].iov_base, length};
        limit -= length;
    }
    return used;
}

static off_t begins_at(int descriptor, off_t asked, int opened, int flags) {
    struct stat about;
    if (opened & O_APPEND || flags & RWF_APPEND) {
        return fstat(descriptor, &about) < 0 ? -1 : about.st_size;
    }
    return asked == HERE ? (off_t)RAW(SYS_lseek, descriptor, 0, SEEK_CUR) : asked;
}

/* Under the lock. */
static ssize_t write_below(int descriptor, const struct iovec *parts, int count, off_t asked,
                           int flags, uint32_t node) {
    struct iovec kept[MOST_PARTS];
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        total += parts[i].iov_len;
    }
    int opened = fcntl(descriptor, F_GETFL);
    int through = opened & O_DSYNC || flags & (RWF_DSYNC | RWF_SYNC);
    off_t at = begins_at(descriptor, asked, opened, flags);
    struct verdict verdict = shim_turn(KIND_WRITE);
    ssize_t done = -1;
    if (verdict.error != 0) {
        errno = verdict.error;
    } else {
        int used = cut(parts, count, verdict.limit < 0 ? total : (size_t)verdict.limit, kept);
        done = used == 0 && count > 0 ? 0 : write_real(descriptor, kept, used, asked, flags);
    }
    int injected = verdict.error != 0 || (verdict.limit >= 0 && (size_t)verdict.limit < total);
    struct head head = {.type = RECORD_WRITE,
                        .flags = (through ? FLAG_THROUGH : 0) | (injected ? FLAG_INJECTED : 0),
                        .error = (uint16_t)(done < 0 ? errno : 0),
                        .node = node,
                        .at = (uint64_t)at,
                        .length = total};
    record_append(head, parts, count, done < 0 ? 0 : (size_t)done);
    if (verdict.dies) {
        shim_die();
    }
    return done;
}

/* Return 1 if the call was made here, its result in `done`. */
static int write_all(const char *call, int descriptor, const struct iovec *parts, int count,
                     off_t at, int flags, ssize_t *done) {
    struct stat about;
    uint32_t node;
    if (shim_mode() == OFF || count < 0 || count > MOST_PARTS || (at < 0 && at != HERE)) {
        return 0;
    }
    if (enter_marks(descriptor)) {
        *done = write_real(descriptor, parts, count, at, flags);
        if (*done >= 0) {
            record_append((struct head){.type = RECORD_MARK}, parts, count, (size_t)*done);
        }
        shim_unlock(0);
        return 1;
    }
    if (!enter_descriptor(call, descriptor, &about, &node)) {
        return 0;
    }
    *done = write_below(descriptor, parts, count, at, flags, node);
    shim_unlock(0);
    return 1;
}

EXPORT ssize_t write(int descriptor, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    ssize_t done;
    if (write_all("write", descriptor, &part, 1, HERE, 0, &done)) {
        return done;
    }
    return RAW(SYS_write, descriptor, data, length);
}

EXPORT ssize_t pwrite64(int descriptor, const void *data, size_t length, off_t at) {
    struct iovec part = {(void *)data, length};
    ssize_t done;
    if (at >= 0 && write_all("pwrite", descriptor, &part, 1, at, 0, &done)) {
        return done;
    }
    return RAW(SYS_pwrite64, descriptor, data, length, at);
}

EXPORT ssize_t pwrite(int descriptor, const void *data, size_t length, off_t at) {
    return pwrite64(descriptor, data, length, at);
}

EXPORT ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    ssize_t done;
    if (write_all("writev", descriptor, parts, count, HERE, 0, &done)) {
        return done;
    }
    return RAW(SYS_writev, descriptor, parts, count);
}

EXPORT ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off_t at) {
    ssize_t done;
    if (at >= 0 && write_all("pwritev", descriptor, parts, count, at, 0, &done)) {
        return done;
    }
    return RAW(SYS_pwritev, descriptor, parts, count, at, 0);
}

EXPORT ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t at) {
    return pwritev64(descriptor, parts, count, at);
}

EXPORT ssize_t pwritev64v2(int descriptor, const struct iovec *parts, int count, off_t at,
                           int flags) {
    ssize_t done;
    if (write_all("pwritev2", descriptor, parts, count, at, flags, &done)) {
        return done;
    }
    return RAW(SYS_pwritev2, descriptor, parts, count, at, 0, flags);
}

EXPORT ssize_t pwritev2(int descriptor, const struct iovec *parts, int count, off_t at,
                        int flags) {
    return pwritev64v2(descriptor, parts, count, at, flags);
}

/* Record a call that failed or was refused: type, errno and what it was about. */
static struct head length_head(enum record type, struct verdict verdict, int result, uint32_t node,
                               off_t at, off_t length) {
    return (struct head){.type = type,
                         .flags = verdict.error != 0 ? FLAG_INJECTED : 0,
                         .error = (uint16_t)(result < 0 ? errno : 0),
                         .node = node,
                         .at = (uint64_t)at,
                         .length = (uint64_t)length};
}

static int refused(struct verdict verdict) {
    errno = verdict.error;
    return -1;
}

EXPORT int ftruncate64(int descriptor, off_t length) {
    struct stat about;
    uint32_t node;
    if (!enter_descriptor("ftruncate", descriptor, &about, &node)) {
        return (int)RAW(SYS_ftruncate, descriptor, length);
    }
    struct verdict verdict = shim_turn(KIND_TRUNCATE);
    int done = verdict.error ? refused(verdict) : (int)RAW(SYS_ftruncate, descriptor, length);
    record_append(length_head(RECORD_TRUNCATE, verdict, done, node, 0, length), NULL, 0, 0);
    return shim_unlock(done);
}

EXPORT int ftruncate(int descriptor, off_t length) { return ftruncate64(descriptor, length); }

EXPORT int truncate64(const char *path, off_t length) {
    char canonical[PATH_MAX];
    struct stat about;
    if (!enter_path("truncate", AT_FDCWD, path, canonical)) {
        return (int)RAW(SYS_truncate, path, length);
    }
    struct verdict verdict = shim_turn(KIND_TRUNCATE);
    uint32_t node = 0;
    if (lstat(path, &about) == 0) {
        if (S_ISLNK(about.st_mode)) {
            record_unsupported("truncate of a link", path_relative(canonical));
        }
        node = node_of(&about, canonical);
    }
    int done = verdict.error ? refused(verdict) : (int)RAW(SYS_truncate, path, length);
    record_append(length_head(RECORD_TRUNCATE, verdict, done, node, 0, length), NULL, 0, 0);
    return shim_unlock(done);
}

EXPORT int truncate(const char *path, off_t length) { return truncate64(path, length); }

/* Only the plain mode and the one that keeps the length can be replayed. */
static int allocate(int descriptor, int mode, off_t at, off_t length) {
    struct stat about;
    uint32_t node;
    if (!enter_descriptor("fallocate", descriptor, &about, &node)) {
        return (int)RAW(SYS_fallocate, descriptor, mode, at, length);
    }
    char canonical[PATH_MAX];
    if (mode != 0 && mode != FALLOC_FL_KEEP_SIZE && path_of_descriptor(descriptor, canonical)) {
        record_unsupported("fallocate with a mode", path_relative(canonical));
    }
    struct verdict verdict = shim_turn(KIND_ALLOCATE);
    int done = verdict.error ? refused(verdict)
                             : (int)RAW(SYS_fallocate, descriptor, mode, at, length);
    if (mode == 0 || done < 0) {
        record_append(length_head(RECORD_ALLOCATE, verdict, done, node, at, length), NULL, 0, 0);
    }
    return shim_unlock(done);
}

EXPORT int fallocate64(int descriptor, int mode, off_t at, off_t length) {
    return allocate(descriptor, mode, at, length);
}

EXPORT int fallocate(int descriptor, int mode, off_t at, off_t length) {
    return allocate(descriptor, mode, at, length);
}

/* Returns its error. Where the file system cannot reserve blocks this says so, and does not write
 * zeros in their place as libc does. */
EXPORT int posix_fallocate64(int descriptor, off_t at, off_t length) {
    int before = errno;
    int error = allocate(descriptor, 0, at, length) < 0 ? errno : 0;
    errno = before;
    return error;
}

EXPORT int posix_fallocate(int descriptor, off_t at, off_t length) {
    return posix_fallocate64(descriptor, at, length);
}
