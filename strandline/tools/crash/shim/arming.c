/* Arming, the plan, and whose turn it is. The functions exported here are called through ctypes. */
#include "shim.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WATCH "STRANDLINE_SHIM_WATCH"
#define HIGH_DESCRIPTOR 512

enum action { PASS, FAIL_ONCE, FAIL_ON, SHORT_ONCE, KILL_BEFORE, KILL_WITHIN };

/* What the parent reads while we run and after our death; the same layout in control.py. */
struct board {
    uint32_t fired;
    uint32_t phase;
    uint64_t unsupported;
    uint64_t counts[KINDS];
};

struct plan {
    uint32_t kinds; /* a bit each */
    uint32_t phase;
    uint64_t nth;
    uint32_t action;
    int error;
    int64_t limit;
};

struct state shim = {.lock = PTHREAD_MUTEX_INITIALIZER, .record = -1};

static struct plan plan;
static uint64_t matched;
static struct board unseen;
static struct board *board = &unseen;

long (*shim_syscall(void))(long, ...) {
    static long (*function)(long, ...);
    if (function == NULL) {
        *(void **)&function = dlsym(RTLD_NEXT, "syscall");
    }
    return function;
}

void shim_lock(void) { pthread_mutex_lock(&shim.lock); }

int shim_unlock(int result) {
    int error = errno;
    pthread_mutex_unlock(&shim.lock);
    errno = error;
    return result;
}

void shim_count_unsupported(void) { board->unsupported++; }

void shim_die(void) {
    for (;;) {
        RAW(SYS_kill, getpid(), SIGKILL);
    }
}

static void start_counting(void) {
    memset(board->counts, 0, sizeof board->counts);
    matched = 0;
}

struct verdict shim_turn(enum kind kind) {
    struct verdict verdict = {.limit = -1};
    board->counts[kind]++;
    if (!(plan.kinds >> kind & 1) || plan.phase != board->phase || plan.action == PASS) {
        return verdict;
    }
    matched++;
    if (plan.action == FAIL_ON ? matched < plan.nth : matched != plan.nth) {
        return verdict;
    }
    board->fired++;
    switch (plan.action) {
    case KILL_BEFORE:
        shim_die();
    case KILL_WITHIN:
        verdict.dies = 1;
        verdict.limit = plan.limit;
        break;
    case SHORT_ONCE:
        verdict.limit = plan.limit;
        break;
    default:
        verdict.error = plan.error;
    }
    return verdict;
}

/* Out of the way of programs that expect the lowest free number, or close the low ones. */
static int open_high(const char *path) {
    int low = (int)RAW(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (low < 0) {
        return -1;
    }
    int high = fcntl(low, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
    if (high < 0) {
        return low;
    }
    RAW(SYS_close, low);
    return high;
}

static int map_board(const char *path) {
    int file = (int)RAW(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (file < 0) {
        return -1;
    }
    void *at = (void *)RAW(SYS_mmap, 0, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int error = errno;
    RAW(SYS_close, file);
    errno = error;
    if (at == MAP_FAILED) {
        return -1;
    }
    board = at;
    return 0;
}

static int set_marks(int descriptor) {
    struct stat about;
    shim.has_marks = descriptor >= 0;
    if (!shim.has_marks) {
        return 0;
    }
    if (fstat(descriptor, &about) < 0) {
        return -1;
    }
    shim.marks_device = about.st_dev;
    shim.marks_inode = about.st_ino;
    return 0;
}

static int set_root(const char *root) {
    if (realpath(root, shim.root) == NULL) {
        return -1;
    }
    shim.root_length = strlen(shim.root);
    return 0;
}

/* Begin. `record` and `board` may be NULL, `marks` -1. Return 0 or an errno. */
EXPORT int strandline_shim_arm(const char *root, const char *record, const char *board_path,
                               int marks, const char *mapped) {
    if (shim_mode() == ARMED) {
        return EALREADY;
    }
    if (strlen(mapped) > NAME_MAX) {
        return ENAMETOOLONG;
    }
    shim_lock();
    strcpy(shim.mapped, mapped);
    nodes_clear();
    plan = (struct plan){0};
    shim.syncs = 0;
    shim.record = -1;
    board = &unseen;
    unseen = (struct board){0};
    if (set_root(root) < 0 || set_marks(marks) < 0 ||
        (board_path != NULL && map_board(board_path) < 0) ||
        (record != NULL && (shim.record = open_high(record)) < 0)) {
        return shim_unlock(errno);
    }
    start_counting();
    atomic_store_explicit(&shim.mode, ARMED, memory_order_release);
    return shim_unlock(0);
}

/* Choose what becomes of which call, and count from now on. */
EXPORT void strandline_shim_plan(uint32_t kinds, uint32_t phase, uint64_t nth, uint32_t action,
                                 int error, int64_t limit) {
    shim_lock();
    plan = (struct plan){kinds, phase, nth, action, error, limit};
    start_counting();
    board->fired = 0;
    shim_unlock(0);
}

/* Enter a phase: recorded, and counted from here. */
EXPORT void strandline_shim_phase(uint32_t phase) {
    shim_lock();
    board->phase = phase;
    start_counting();
    record_append((struct head){.type = RECORD_PHASE, .at = phase}, NULL, 0, 0);
    shim_unlock(0);
}

/* The counts of this phase, for the process itself. */
EXPORT void strandline_shim_board(struct board *copy) {
    shim_lock();
    *copy = *board;
    shim_unlock(0);
}

EXPORT void strandline_shim_disarm(void) {
    shim_lock();
    atomic_store_explicit(&shim.mode, OFF, memory_order_release);
    if (shim.record >= 0) {
        RAW(SYS_close, shim.record);
        shim.record = -1;
    }
    if (board != &unseen) {
        munmap(board, sizeof *board);
        board = &unseen;
    }
    shim_unlock(0);
}

static void before_fork(void) { shim_lock(); }

static void after_fork(void) { pthread_mutex_unlock(&shim.lock); }

static void in_child(void) {
    pthread_mutex_init(&shim.lock, NULL);
    if (shim_mode() == ARMED) {
        atomic_store_explicit(&shim.mode, WATCHING, memory_order_release);
    }
}

/* A program that an armed process starts watches for it: record file, root and the mapped name,
 * a line each, are in the environment. */
static void watch(const char *told) {
    char record[PATH_MAX], root[PATH_MAX];
    const char *second = strchr(told, '\n');
    const char *third = second == NULL ? NULL : strchr(second + 1, '\n');
    if (third == NULL || second - told >= PATH_MAX || third - second - 1 >= PATH_MAX ||
        strlen(third + 1) > NAME_MAX) {
        return;
    }
    memcpy(record, told, (size_t)(second - told));
    record[second - told] = '\0';
    memcpy(root, second + 1, (size_t)(third - second - 1));
    root[third - second - 1] = '\0';
    strcpy(shim.mapped, third + 1);
    if (set_root(root) == 0 && (shim.record = open_high(record)) >= 0) {
        atomic_store_explicit(&shim.mode, WATCHING, memory_order_release);
    }
}

__attribute__((constructor)) static void start(void) {
    pthread_atfork(before_fork, after_fork, in_child);
    const char *told = getenv(WATCH);
    if (told != NULL) {
        watch(told);
    }
}
