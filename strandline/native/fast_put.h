/* What the parts of the short way share: the slots that they read and write, and their types.
 *
 *     fast_put.c    the object, what all levels look at first, ASYNC
 *     fast_frame.c  BUFFERED: a frame of its own
 *     fast_sync.c   SYNC: joining a group, waiting for it, publishing what was queued
 */
#ifndef STRANDLINE_FAST_PUT_H
#define STRANDLINE_FAST_PUT_H

#include "native.h"

enum { OVERHEAD = 16, COUNT_PER_OPERATION = 3, MOST_SLOTS = 20 };

/* The offsets of slots, found once for each class. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t at[MOST_SLOTS];
} Slots;

enum {
    GROUP_ITEMS,
    GROUP_SIZE,
    GROUP_LIMIT,
    GROUP_FIRST_LSN,
    GROUP_OPENED_AT,
    GROUP_WAITERS,
    GROUP_SYNC,
    GROUP_DONE,
    GROUP_ERROR,
    GROUP_CLOSED_LSN,
};
enum {
    STATE_GATE,
    STATE_LOGGED,
    STATE_ENTRIES,
    STATE_PUT_TAG,
    STATE_DELETE_TAG,
    STATE_QUEUED,
    STATE_FROZEN,
};
enum { ENGINE_ATTENTION, ENGINE_FLUSH_MARK, ENGINE_DIRTY_SINCE };
enum { INDEX_SNAPSHOT, INDEX_ACTIVE_BYTES };
enum { SEGMENT_FILE, SEGMENT_ID, SEGMENT_SALT, SEGMENT_USABLE };
enum { SEGMENTS_SEALED_BYTES };
enum { STATS_SINGLES };
enum { FILE_DESCRIPTOR };
enum {
    LOG_GROUP,
    LOG_STALL_AT,
    LOG_CLOSED,
    LOG_FAILURE,
    LOG_FULL,
    LOG_TAIL,
    LOG_SYNCED_LSN,
    LOG_STORED_LSN,
    LOG_CLAIMED_LSN,
    LOG_UNSYNCED_BYTES,
    LOG_UNSYNCED_SINCE,
    LOG_TICKING,
    LOG_WAKE_AT,
    LOG_CEILING,
    LOG_LEADING,
    LOG_DRAINING,
    LOG_GATHER_GATE,
    LOG_CROWD,
    LOG_UNSYNCED,
};

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Slots group, state, engine, index, segment, segments, stats, log, file;
    PyObject *the_engine, *the_index, *the_log, *the_segments, *the_stats;
    PyObject *mutex, *append_lock, *sync_lock;
    PyObject *monotonic, *time_ns; /* NULL stands for the system's own clocks */
    PyObject *pwrite;              /* the name */
    PyObject *async, *buffered, *sync; /* the levels */
    PyObject *make_lock;               /* makes what a waiter sleeps on */
    PyTypeObject *queued_type;         /* a tuple: LSN, value, group, level */
    PyObject *gone;                /* the value that stands for a delete */
    PyObject *finish;  /* finish(frame, offset, written): a short write */
    PyObject *refused; /* refused(error): the write met an error */
    PyObject *failed;  /* failed(): the log failed meanwhile */
    uint64_t epoch;
    int64_t entry_cost;     /* of an entry in memory, beyond what it takes in the log */
    int64_t slack;          /* of a frame beyond its operations */
    int64_t pressure_bytes; /* of the log, from which on the budgets are looked at */
    int64_t lsn_margin;
    int64_t max_value_bytes;
    double sync_window; /* seconds in which a frame has to be synced */
    double window;     /* seconds in which a group has to be written */
    PyObject *patience; /* seconds after which a waiter looks for itself */
} FastPut;

/* ---- slots */

/* Borrowed; None for a slot that is empty. */
static inline PyObject *slot(PyObject *object, const Slots *slots, int name) {
    PyObject *value = *(PyObject **)((char *)object + slots->at[name]);
    return value == NULL ? Py_None : value;
}

/* Takes over `value`. What was there goes last: letting go of it could call anything. */
static inline void set_slot(PyObject *object, const Slots *slots, int name, PyObject *value) {
    PyObject **place = (PyObject **)((char *)object + slots->at[name]);
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

/* False, without an exception, for what is no int of 64 bits. */
static inline int as_i64(PyObject *object, int64_t *value) {
    int overflow = 0;
    if (!PyLong_CheckExact(object)) {
        return 0;
    }
    *value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return !overflow;
}

static inline int slot_i64(PyObject *object, const Slots *slots, int name, int64_t *value) {
    return as_i64(slot(object, slots, name), value);
}

/* ---- locks: an OwnedLock is looked at directly, any other is asked; in fast_put.c */

/* 1 if this thread holds the lock, 0 if not, -1 on an error. */
int is_inside(PyObject *lock);
/* 1 if the lock was free and is held now, 0 if not, -1 on an error. */
int try_lock(PyObject *lock);
/* Keeps an exception that is on its way. */
int unlock(PyObject *lock);

/* ---- a write */

/* One write on its way. */
typedef struct {
    PyObject *state, *key, *value;
    int64_t need;   /* bytes in the log */
    int64_t change; /* of the bytes that the index counts */
    int64_t now_ns;
    double now;
    PyObject *entry; /* held: (LSN, value, nothing older), the LSN put in when it is known */
} Write;

static inline int64_t length_of(PyObject *value) {
    return value == Py_None ? 0 : (int64_t)PyBytes_GET_SIZE(value);
}

/* Whether the table takes writes, and the log knows of them. */
static inline int is_open(const FastPut *self, const Write *write) {
    return slot(write->state, &self->state, STATE_GATE) == Py_None &&
           slot(write->state, &self->state, STATE_LOGGED) == Py_True &&
           PyDict_CheckExact(slot(write->state, &self->state, STATE_QUEUED));
}

static inline PyObject *tag_of(const FastPut *self, const Write *write) {
    return slot(write->state, &self->state,
                write->value == Py_None ? STATE_DELETE_TAG : STATE_PUT_TAG);
}

/* In fast_put.c. Whether the index takes the write as it is, at once. Sets `change`. */
int admits(const FastPut *self, Write *write);
/* Make the write visible. Takes over `lsn`; -1 leaves everything as it was. */
int publish_write(const FastPut *self, Write *write, PyObject *lsn);
/* Add an operation to the items of a group, whole or not at all. */
int extend_items(PyObject *items, PyObject *tag, PyObject *key, PyObject *value);

/* ---- a frame of its own, in fast_frame.c */

/* Where the frame goes, and what the log is like then: all of it held, and made before anything is
 * written. */
typedef struct {
    PyObject *group;    /* the open one */
    PyObject *after;    /* for a SYNC write: the group that is open after it */
    PyObject *segment;
    PyObject *frame;
    PyObject *tail;     /* the next one */
    PyObject *lsn;
    PyObject *next_lsn;
    PyObject *synced;   /* the LSN that the frame claims */
    PyObject *unsynced; /* bytes */
    int64_t offset;
} Place;

/* Fill in the place: 1 if the frame may go there, 0 to go the long way, maybe with an exception.
 * Under append lock and mutex; `tail`, and `after` for a SYNC write, are there already. */
int find_place(const FastPut *self, Write *write, Place *place);
/* Write the frame; -1 with an exception where it is not all in the page cache. */
int write_frame(const FastPut *self, const Place *place);
/* Move the log's tail behind the frame. Cannot fail. */
void move_tail(const FastPut *self, Place *place);
/* Under the append lock, an exception is set: if it is an OSError, let the log say what becomes of
 * the write. */
void hand_over_error(const FastPut *self, const Place *place);
void drop_place(Place *place);
/* The whole of a BUFFERED write: its LSN, or NULL to go the long way. */
PyObject *append_buffered(const FastPut *self, Write *write);

/* ---- in fast_sync.c */

/* Join a group, or write a frame alone: (LSN, group, how to wait, None to lead), or NULL. */
PyObject *write_synced(const FastPut *self, Write *write);
/* Sleep until the group is on disk and published. Takes over `result`. */
PyObject *wait_for(const FastPut *self, PyObject *result);
PyObject *publish_queued(PyObject *object, PyObject *const *args, Py_ssize_t nargs);
extern const char publish_doc[];

#endif
