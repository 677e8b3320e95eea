/* What the parts of the shim share. Written for 64-bit Linux and glibc.
 *
 *   arming.c       arm, plan, phase, disarm; whose turn it is to fail or to die
 *   recording.c    appends to the record file (its format: record.py)
 *   nodes.c        which descriptor and which path is which file below the root
 *   writes.c       write family, lengths     syncs.c   fsync, fdatasync
 *   names.c        open, close, rename, unlink, mkdir, link
 *   unsupported.c  what changes files in ways that cannot be replayed: noticed, let through
 *
 * A file is known by device and inode, looked up at each call: no table of descriptors has to be
 * kept true over dup, close and what libc does inside. One mutex is held over each call that
 * changes something, so that the order of the records is the order of execution. A sync holds it
 * only for its two records.
 *
 * An unarmed process pays one load and one branch a call.
 */
#ifndef STRANDLINE_SHIM_H
#define STRANDLINE_SHIM_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* Kinds of calls, as they are counted and planned for; the same numbers in control.py. */
enum kind {
    KIND_OPEN,           /* of what exists, and stays as it is */
    KIND_CREATE,         /* an open that makes or empties a file */
    KIND_WRITE,
    KIND_TRUNCATE,
    KIND_ALLOCATE,
    KIND_RENAME,
    KIND_UNLINK,
    KIND_RMDIR,
    KIND_MKDIR,
    KIND_LINK,
    KIND_FSYNC,
    KIND_FDATASYNC,
    KIND_SYNC_DIRECTORY, /* either sync, of a directory */
    KIND_CLOSE,
    KINDS
};

/* Types of records and their flags; the same numbers in record.py. */
enum record {
    RECORD_SEEN = 1,
    RECORD_OPEN,
    RECORD_WRITE,
    RECORD_TRUNCATE,
    RECORD_ALLOCATE,
    RECORD_RENAME,
    RECORD_UNLINK,
    RECORD_RMDIR,
    RECORD_MKDIR,
    RECORD_LINK,
    RECORD_SYNC_BEGIN,
    RECORD_SYNC_END,
    RECORD_CLOSE,
    RECORD_MARK,
    RECORD_PHASE,
    RECORD_UNSUPPORTED
};

enum flag {
    FLAG_INJECTED = 1,
    FLAG_THROUGH = 2, /* O_DSYNC or O_SYNC: durable when the call returns */
    FLAG_CREATED = 4,
    FLAG_TRUNCATED = 8,
    FLAG_DIRECTORY = 16,
    FLAG_DATA_ONLY = 32 /* fdatasync */
};

enum mode {
    OFF,
    ARMED,
    WATCHING /* a child of an armed process: its changes are noted, not recorded */
};

struct state {
    pthread_mutex_t lock;
    atomic_int mode;
    char root[PATH_MAX]; /* canonical, without a slash at its end */
    size_t root_length;
    char mapped[NAME_MAX + 1]; /* files of this name may be mapped and written by anybody */
    int record;                /* descriptor, or -1 */
    int has_marks;
    dev_t marks_device;
    ino_t marks_inode;
    uint64_t syncs; /* tokens given out */
};

extern struct state shim;

/* What the plan says of one call: nothing, an errno, or at most `limit` bytes, and death after. */
struct verdict {
    int error;
    int dies;
    int64_t limit; /* -1: as many as were asked for */
};

/* One record; `size` of the head is filled in by `record_append`. */
struct head {
    uint32_t size;
    uint8_t type;
    uint8_t flags;
    uint16_t error;
    uint32_t node;
    uint32_t thread;
    uint64_t at;
    uint64_t length;
};

/* The system call itself, past every wrapper. */
extern long (*shim_syscall(void))(long, ...);
#define RAW6(n, a, b, c, d, e, f, ...)                                                             \
    shim_syscall()((long)(n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define RAW(...) RAW6(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* arming.c; all but shim_mode under the lock */
static inline int shim_mode(void) { return atomic_load_explicit(&shim.mode, memory_order_acquire); }
void shim_lock(void);
int shim_unlock(int result); /* keeps errno, returns `result` */
struct verdict shim_turn(enum kind kind);
void shim_die(void) __attribute__((noreturn));
void shim_count_unsupported(void);

/* recording.c; under the lock */
void record_append(struct head head, const struct iovec *payload, int parts, size_t bytes);
void record_path(struct head head, const char *path);
void record_paths(struct head head, const char *first, const char *second);
void record_unsupported(const char *call, const char *path);

/* nodes.c */
int path_is_below(const char *path);
const char *path_relative(const char *canonical);
int path_locate(int directory, const char *path, char *canonical);
int path_of_descriptor(int descriptor, char *canonical);
int path_may_be_mapped(const char *path);
void nodes_clear(void);
uint32_t node_made(const struct stat *about);
uint32_t node_of(const struct stat *about, const char *canonical);
int enter_descriptor(const char *call, int descriptor, struct stat *about, uint32_t *node);
int enter_path(const char *call, int directory, const char *path, char *canonical);

#endif
