/* The way of a single ASYNC or BUFFERED write while nothing is in its way.
 *
 * It does what WritePath.write does, for one writer that finds the locks free, the budgets calm
 * and nothing queued before it, and gives None in every other case, before it has changed
 * anything: then Python goes the long way. What it reads and writes are slots of the same Python
 * objects, at their offsets, under the same locks; no state is kept here.
 *
 * An ASYNC write joins the open group and is visible. A BUFFERED one becomes a frame of its own
 * at once, and is visible when the frame is in the page cache. For that one pwrite the mutex is
 * held, so that nobody finds the write under way: its LSN is taken, its frame is at the tail and
 * it is visible, or none of that is so.
 *
 * Whatever can call the garbage collector, and so anything, is done before the locks are taken.
 */
#include "native.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

enum { MAX_KEY_BYTES = 511 };
enum { OVERHEAD = 16, COUNT_PER_OPERATION = 3 };

/* The offsets of slots, found once for each class. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t at[16];
} Slots;

enum { GROUP_ITEMS, GROUP_SIZE, GROUP_LIMIT, GROUP_FIRST_LSN };
enum { STATE_GATE, STATE_LOGGED, STATE_ENTRIES, STATE_PUT_TAG, STATE_DELETE_TAG };
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
};

static const char *const GROUP_NAMES[] = {"items", "size", "limit", "first_lsn", NULL};
static const char *const STATE_NAMES[] = {"gate",    "logged",     "entries",
                                          "put_tag", "delete_tag", NULL};
static const char *const ENGINE_NAMES[] = {"attention", "flush_mark", "dirty_since", NULL};
static const char *const INDEX_NAMES[] = {"newest_snapshot", "active_bytes", NULL};
static const char *const SEGMENT_NAMES[] = {"file", "id", "salt", "usable", NULL};
static const char *const SEGMENTS_NAMES[] = {"sealed_bytes", NULL};
static const char *const FILE_NAMES[] = {"_fd", NULL};
static const char *const STATS_NAMES[] = {"singles", NULL};
static const char *const LOG_NAMES[] = {
    "group",          "stall_at",       "closed",     "failure",     "full",
    "tail",           "synced_lsn",     "stored_lsn", "claimed_lsn", "unsynced_bytes",
    "unsynced_since", "ticking",        "_wake_at",    "_ceiling",     NULL};

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Slots group, state, engine, index, segment, segments, stats, log, file;
    PyObject *the_engine, *the_index, *the_log, *the_segments, *the_stats;
    PyObject *mutex, *append_lock, *sync_lock;
    PyObject *monotonic, *time_ns; /* NULL stands for the system's own clocks */
    PyObject *pwrite;              /* the name */
    PyObject *async, *buffered;    /* the levels */
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
} FastPut;

static int find_slots(Slots *slots, PyObject *type, const char *const *names) {
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "expected a class");
        return -1;
    }
    slots->type = (PyTypeObject *)Py_NewRef(type);
    for (int i = 0; names[i] != NULL; i++) {
        PyObject *member = PyObject_GetAttrString(type, names[i]);
        if (member == NULL) {
            return -1;
        }
        int is_slot = Py_IS_TYPE(member, &PyMemberDescr_Type) &&
                      ((PyMemberDescrObject *)member)->d_member->type == T_OBJECT_EX;
        if (is_slot) {
            slots->at[i] = ((PyMemberDescrObject *)member)->d_member->offset;
        }
        Py_DECREF(member);
        if (!is_slot) {
            PyErr_Format(PyExc_TypeError, "%s.%s: expected a slot", slots->type->tp_name, names[i]);
            return -1;
        }
    }
    return 0;
}

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

/* ---- locks: an OwnedLock is looked at directly, any other is asked */

static int truth_of(PyObject *answer) {
    int truth = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return truth;
}

/* 1 if this thread holds the lock, 0 if not, -1 on an error. */
static int is_inside(PyObject *lock) {
    if (is_owned_lock(lock)) {
        return owned_lock_mine(lock);
    }
    return truth_of(PyObject_CallMethod(lock, "_is_owned", NULL));
}

/* 1 if the lock was free and is held now, 0 if not, -1 on an error. */
static int try_lock(PyObject *lock) {
    if (is_owned_lock(lock)) {
        return owned_lock_try(lock);
    }
    return truth_of(PyObject_CallMethod(lock, "acquire", "O", Py_False));
}

/* Keeps an exception that is on its way. */
static int unlock(PyObject *lock) {
    if (is_owned_lock(lock)) {
        return owned_lock_release(lock);
    }
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyObject *answer = PyObject_CallMethod(lock, "release", NULL);
    if (answer == NULL && kind == NULL) {
        return -1;
    }
    PyErr_Clear();
    Py_XDECREF(answer);
    PyErr_Restore(kind, error, trace);
    return 0;
}

/* One write on its way. */
typedef struct {
    PyObject *state, *key, *value;
    int64_t need;   /* bytes in the log */
    int64_t change; /* of the bytes that the index counts */
    int64_t now_ns;
    double now;
    PyObject *entry; /* held: (LSN, value, nothing older), the LSN put in when it is known */
} Write;

static int64_t length_of(PyObject *value) {
    return value == Py_None ? 0 : (int64_t)PyBytes_GET_SIZE(value);
}

/* Whether the table and the index take the write as it is. Sets `change`. */
static int admits(const FastPut *self, Write *write) {
    int64_t active, mark, snapshot;
    PyObject *entries = slot(write->state, &self->state, STATE_ENTRIES);
    if (slot(write->state, &self->state, STATE_GATE) != Py_None ||
        slot(write->state, &self->state, STATE_LOGGED) != Py_True || !PyDict_CheckExact(entries) ||
        slot(self->the_engine, &self->engine, ENGINE_DIRTY_SINCE) == Py_None ||
        !slot_i64(self->the_index, &self->index, INDEX_SNAPSHOT, &snapshot) || snapshot >= 0 ||
        !slot_i64(self->the_index, &self->index, INDEX_ACTIVE_BYTES, &active) ||
        !slot_i64(self->the_engine, &self->engine, ENGINE_FLUSH_MARK, &mark)) {
        return 0;
    }
    PyObject *old = PyDict_GetItemWithError(entries, write->key);
    if (old == NULL) {
        write->change = write->need + self->entry_cost;
    } else if (PyTuple_CheckExact(old) && PyTuple_GET_SIZE(old) == 3) {
        write->change = length_of(write->value) - length_of(PyTuple_GET_ITEM(old, 1));
    } else {
        return 0;
    }
    return active + write->change <= mark;
}

/* Make the write visible. Takes over `lsn`; -1 leaves everything as it was. */
static int publish(const FastPut *self, Write *write, PyObject *lsn) {
    int64_t active = 0;
    PyObject *entries = slot(write->state, &self->state, STATE_ENTRIES);
    slot_i64(self->the_index, &self->index, INDEX_ACTIVE_BYTES, &active);
    PyObject *counted = PyLong_FromLongLong(active + write->change);
    if (counted == NULL || lsn == NULL) {
        Py_XDECREF(lsn);
        Py_XDECREF(counted);
        return -1;
    }
    PyTuple_SET_ITEM(write->entry, 0, lsn);
    if (PyDict_SetItem(entries, write->key, write->entry) < 0) {
        Py_DECREF(counted);
        return -1;
    }
    set_slot(self->the_index, &self->index, INDEX_ACTIVE_BYTES, counted);
    return 0;
}

static PyObject *tag_of(const FastPut *self, const Write *write) {
    return slot(write->state, &self->state,
                write->value == Py_None ? STATE_DELETE_TAG : STATE_PUT_TAG);
}

/* ---- ASYNC */

static int extend(PyObject *items, PyObject *tag, PyObject *key, PyObject *value) {
    Py_ssize_t before = PyList_GET_SIZE(items);
    if (PyList_Append(items, tag) < 0 || PyList_Append(items, key) < 0 ||
        PyList_Append(items, value) < 0) {
        PyList_SetSlice(items, before, PY_SSIZE_T_MAX, NULL);
        return -1;
    }
    return 0;
}

/* Under the mutex. A new reference to the LSN; NULL without an exception to go the long way. */
static PyObject *join(const FastPut *self, Write *write) {
    int64_t size, limit, first;
    PyObject *group = slot(self->the_log, &self->log, LOG_GROUP);
    if (!Py_IS_TYPE(group, self->group.type) || !admits(self, write) ||
        !slot_i64(group, &self->group, GROUP_SIZE, &size) ||
        !slot_i64(group, &self->group, GROUP_LIMIT, &limit) ||
        !slot_i64(group, &self->group, GROUP_FIRST_LSN, &first) || size + write->need > limit) {
        return NULL;
    }
    PyObject *items = slot(group, &self->group, GROUP_ITEMS);
    if (!PyList_CheckExact(items) || PyList_GET_SIZE(items) < 1 + COUNT_PER_OPERATION) {
        return NULL; /* the first of a group starts its clocks */
    }
    Py_ssize_t count = PyList_GET_SIZE(items);
    PyObject *lsn = PyLong_FromLongLong(first + count / COUNT_PER_OPERATION);
    PyObject *filled = PyLong_FromLongLong(size + write->need);
    if (lsn == NULL || filled == NULL ||
        extend(items, tag_of(self, write), write->key, write->value) < 0) {
        Py_XDECREF(lsn);
        Py_XDECREF(filled);
        return NULL;
    }
    if (publish(self, write, Py_NewRef(lsn)) < 0) {
        PyList_SetSlice(items, count, PY_SSIZE_T_MAX, NULL);
        Py_DECREF(lsn);
        Py_DECREF(filled);
        return NULL;
    }
    set_slot(group, &self->group, GROUP_SIZE, filled);
    return lsn;
}

/* ---- BUFFERED */

/* Where the frame goes, and what the log is like then. */
typedef struct {
    PyObject *group;   /* held: the open one, which stays empty */
    PyObject *segment; /* held */
    PyObject *frame;   /* held */
    PyObject *tail;    /* held: the next one, to be filled in */
    PyObject *synced;  /* held */
    int64_t lsn, offset, frames, unsynced_bytes;
} Place;

/* Whether nothing is queued and the log has no other care than to take a frame here. */
static int is_calm(const FastPut *self, const Write *write, Place *place, int64_t end) {
    int64_t limit, usable, wake_at, sealed, ceiling;
    PyObject *closed = slot(self->the_log, &self->log, LOG_CLOSED);
    PyObject *since = slot(self->the_log, &self->log, LOG_UNSYNCED_SINCE);
    PyObject *items = slot(place->group, &self->group, GROUP_ITEMS);
    return PyList_CheckExact(items) && PyList_GET_SIZE(items) == 1 &&
           PyList_GET_ITEM(items, 0) == Py_None && PySequence_Size(closed) == 0 &&
           slot(self->the_log, &self->log, LOG_FAILURE) == Py_None &&
           slot(self->the_log, &self->log, LOG_FULL) == Py_None &&
           slot(self->the_log, &self->log, LOG_TICKING) == Py_True && PyFloat_CheckExact(since) &&
           PyFloat_AS_DOUBLE(since) <= write->now &&
           slot_i64(place->group, &self->group, GROUP_LIMIT, &limit) && write->need <= limit &&
           slot_i64(place->segment, &self->segment, SEGMENT_USABLE, &usable) &&
           end + limit + self->slack <= usable &&
           slot_i64(self->the_log, &self->log, LOG_WAKE_AT, &wake_at) && end <= wake_at &&
           slot_i64(self->the_segments, &self->segments, SEGMENTS_SEALED_BYTES, &sealed) &&
           sealed + end <= self->pressure_bytes &&
           slot_i64(self->the_log, &self->log, LOG_CEILING, &ceiling) &&
           place->lsn + 1 <= ceiling - self->lsn_margin;
}

/* Fill in the place from the tail: 1 if the frame may go there, 0 to go the long way. */
static int find_place(const FastPut *self, Write *write, Place *place) {
    PyObject *tail = slot(self->the_log, &self->log, LOG_TAIL);
    uint64_t synced, stored, segment_id, salt;
    place->group = Py_NewRef(slot(self->the_log, &self->log, LOG_GROUP));
    if (!Py_IS_TYPE(place->group, self->group.type) || !PyTuple_CheckExact(tail) ||
        PyTuple_GET_SIZE(tail) != 4 ||
        !Py_IS_TYPE(PyTuple_GET_ITEM(tail, 0), self->segment.type) ||
        !as_i64(PyTuple_GET_ITEM(tail, 1), &place->offset) ||
        !as_i64(PyTuple_GET_ITEM(tail, 2), &place->frames) ||
        !slot_i64(place->group, &self->group, GROUP_FIRST_LSN, &place->lsn) ||
        !slot_i64(self->the_log, &self->log, LOG_UNSYNCED_BYTES, &place->unsynced_bytes)) {
        return 0;
    }
    place->segment = Py_NewRef(PyTuple_GET_ITEM(tail, 0));
    place->synced = Py_NewRef(slot(self->the_log, &self->log, LOG_SYNCED_LSN));
    if (!admits(self, write) || !as_u64(place->synced, &synced) ||
        !as_u64(slot(self->the_log, &self->log, LOG_STORED_LSN), &stored) ||
        !as_u64(slot(place->segment, &self->segment, SEGMENT_ID), &segment_id) ||
        !as_u64(slot(place->segment, &self->segment, SEGMENT_SALT), &salt)) {
        return 0;
    }
    PyObject *items[] = {Py_None, tag_of(self, write), write->key, write->value};
    FrameFields fields = {1,         (uint64_t)place->lsn, synced, stored, (uint64_t)write->now_ns,
                          segment_id, salt,                self->epoch};
    place->frame = encoded_frame(items, 4, &fields);
    return place->frame != NULL &&
           is_calm(self, write, place, place->offset + (int64_t)PyBytes_GET_SIZE(place->frame));
}

/* Write to a descriptor, as os.pwrite does; -1 with an exception. */
static int64_t write_to(int64_t descriptor, const Place *place) {
    const char *data = PyBytes_AS_STRING(place->frame);
    size_t length = (size_t)PyBytes_GET_SIZE(place->frame);
    while (1) {
        ssize_t written;
        Py_BEGIN_ALLOW_THREADS
        written = pwrite((int)descriptor, data, length, (off_t)place->offset);
        Py_END_ALLOW_THREADS
        if (written >= 0) {
            return written;
        }
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0) {
            return -1;
        }
    }
}

/* The same by the file's own method, for a file that is no RealFile. */
static int64_t write_by_method(const FastPut *self, PyObject *file, const Place *place) {
    PyObject *method = PyObject_GetAttr(file, self->pwrite);
    PyObject *offset = PyLong_FromLongLong(place->offset);
    PyObject *arguments[] = {place->frame, offset};
    PyObject *answer =
        method == NULL || offset == NULL ? NULL : PyObject_Vectorcall(method, arguments, 2, NULL);
    int64_t written = -1;
    if (answer != NULL && !as_i64(answer, &written)) {
        PyErr_SetString(PyExc_TypeError, "pwrite: expected the number of bytes written");
        written = -1;
    }
    Py_XDECREF(method);
    Py_XDECREF(offset);
    Py_XDECREF(answer);
    return written;
}

/* Write the frame; -1 with an exception where it is not all in the page cache. */
static int write_frame(const FastPut *self, const Place *place) {
    PyObject *file = slot(place->segment, &self->segment, SEGMENT_FILE);
    int64_t descriptor, written;
    if (Py_IS_TYPE(file, self->file.type) &&
        slot_i64(file, &self->file, FILE_DESCRIPTOR, &descriptor)) {
        written = write_to(descriptor, place);
    } else {
        written = write_by_method(self, file, place);
    }
    if (written < 0 || written == (int64_t)PyBytes_GET_SIZE(place->frame)) {
        return written < 0 ? -1 : 0;
    }
    PyObject *done = PyObject_CallFunction(self->finish, "OLL", place->frame,
                                           (long long)place->offset, (long long)written);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Note a frame that is in the page cache. Nothing here can fail half-way: every number is made
 * before the first is put in its place. */
static PyObject *note_frame(const FastPut *self, Write *write, Place *place) {
    int64_t length = (int64_t)PyBytes_GET_SIZE(place->frame), singles = 0;
    slot_i64(self->the_stats, &self->stats, STATS_SINGLES, &singles);
    PyObject *made[] = {
        PyLong_FromLongLong(place->offset + length), PyLong_FromLongLong(place->frames + 1),
        PyLong_FromLongLong(place->lsn),             PyLong_FromLongLong(place->lsn + 1),
        PyLong_FromLongLong(place->unsynced_bytes + length),
        PyLong_FromLongLong(singles + 1),
    };
    int complete = 1;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(made); i++) {
        complete = complete && made[i] != NULL;
    }
    if (!complete) {
        for (size_t i = 0; i < Py_ARRAY_LENGTH(made); i++) {
            Py_XDECREF(made[i]);
        }
        return NULL;
    }
    PyObject *lsn = made[2];
    PyTuple_SET_ITEM(place->tail, 0, Py_NewRef(place->segment));
    PyTuple_SET_ITEM(place->tail, 1, made[0]);
    PyTuple_SET_ITEM(place->tail, 2, made[1]);
    PyTuple_SET_ITEM(place->tail, 3, Py_NewRef(lsn));
    set_slot(self->the_log, &self->log, LOG_CLAIMED_LSN, Py_NewRef(place->synced));
    set_slot(self->the_log, &self->log, LOG_TAIL, place->tail);
    place->tail = NULL;
    set_slot(place->group, &self->group, GROUP_FIRST_LSN, made[3]);
    set_slot(self->the_log, &self->log, LOG_UNSYNCED_BYTES, made[4]);
    set_slot(self->the_stats, &self->stats, STATS_SINGLES, made[5]);
    if (slot(self->the_log, &self->log, LOG_FAILURE) != Py_None) {
        Py_DECREF(lsn);
        return PyObject_CallNoArgs(self->failed); /* raises: its page may be among the lost */
    }
    if (publish(self, write, Py_NewRef(lsn)) < 0) {
        Py_CLEAR(lsn);
    }
    return lsn;
}

/* Under append lock and mutex. As `join`. */
static PyObject *append(const FastPut *self, Write *write, Place *place) {
    if (!find_place(self, write, place)) {
        return NULL;
    }
    return write_frame(self, place) < 0 ? NULL : note_frame(self, write, place);
}

/* Under the append lock, an OSError is set: let the log decide what becomes of it. */
static void hand_over_error(const FastPut *self) {
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    PyObject *arguments[] = {error};
    PyObject *answer = PyObject_Vectorcall(self->refused, arguments, 1, NULL); /* raises */
    Py_XDECREF(answer);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
}

static PyObject *append_locked(const FastPut *self, Write *write) {
    int got = try_lock(self->append_lock);
    if (got <= 0) {
        return NULL;
    }
    PyObject *lsn = NULL;
    Place place = {.tail = PyTuple_New(4)};
    if (place.tail != NULL && (got = try_lock(self->mutex)) > 0) {
        lsn = append(self, write, &place);
        if (unlock(self->mutex) < 0) {
            Py_CLEAR(lsn);
        }
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OSError) && place.frame != NULL) {
            hand_over_error(self);
        }
    }
    if (unlock(self->append_lock) < 0) {
        Py_CLEAR(lsn);
    }
    Py_XDECREF(place.group);
    Py_XDECREF(place.segment);
    Py_XDECREF(place.frame);
    Py_XDECREF(place.tail);
    Py_XDECREF(place.synced);
    return lsn;
}

static PyObject *join_locked(const FastPut *self, Write *write) {
    if (try_lock(self->mutex) <= 0) {
        return NULL;
    }
    PyObject *lsn = join(self, write);
    if (unlock(self->mutex) < 0) {
        Py_CLEAR(lsn);
    }
    return lsn;
}

/* ---- both */

static int64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What the runtime's clocks say; the wall clock only for a frame. */
static int read_clocks(const FastPut *self, Write *write, int buffered) {
    if (self->monotonic == NULL) {
        write->now = (double)nanoseconds(CLOCK_MONOTONIC) * 1e-9;
        write->now_ns = buffered ? nanoseconds(CLOCK_REALTIME) : 0;
        return 0;
    }
    PyObject *now = PyObject_CallNoArgs(self->monotonic);
    PyObject *wall = now == NULL ? NULL : PyObject_CallNoArgs(self->time_ns);
    int failed = wall == NULL || !as_i64(wall, &write->now_ns);
    if (!failed) {
        write->now = PyFloat_AsDouble(now);
        failed = PyErr_Occurred() != NULL;
    } else if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "expected a clock that gives nanoseconds");
    }
    Py_XDECREF(now);
    Py_XDECREF(wall);
    return failed ? -1 : 0;
}

/* 1 to go on, 0 to go the long way, -1 on an error. No lock is held. */
static int look_around(const FastPut *self, Write *write, int buffered) {
    int64_t attention;
    if (!slot_i64(self->the_engine, &self->engine, ENGINE_ATTENTION, &attention) || attention) {
        return 0;
    }
    int inside = is_inside(self->mutex);
    if (inside == 0 && buffered) {
        inside = is_inside(self->append_lock);
        inside = inside == 0 ? is_inside(self->sync_lock) : inside;
    }
    if (inside != 0) {
        return inside < 0 ? -1 : 0; /* the long way refuses it */
    }
    PyObject *stall_at = slot(self->the_log, &self->log, LOG_STALL_AT);
    if (read_clocks(self, write, buffered) < 0) {
        return -1;
    }
    return PyFloat_CheckExact(stall_at) && write->now <= PyFloat_AS_DOUBLE(stall_at);
}

static PyObject *fast_put(PyObject *callable, PyObject *const *args, size_t flags,
                          PyObject *names) {
    FastPut *self = (FastPut *)callable;
    if (PyVectorcall_NARGS(flags) != 4 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "expected a table's state, key, value, and level");
        return NULL;
    }
    int buffered = args[3] == self->buffered;
    Write write = {.state = args[0], .key = args[1], .value = args[2]};
    if (write.value == self->gone) {
        write.value = Py_None;
    } else if (!PyBytes_CheckExact(write.value) ||
               PyBytes_GET_SIZE(write.value) > self->max_value_bytes) {
        Py_RETURN_NONE;
    }
    if (!(buffered || args[3] == self->async) || !Py_IS_TYPE(write.state, self->state.type) ||
        !PyBytes_CheckExact(write.key) || PyBytes_GET_SIZE(write.key) == 0 ||
        PyBytes_GET_SIZE(write.key) > MAX_KEY_BYTES) {
        Py_RETURN_NONE;
    }
    write.need = OVERHEAD + (int64_t)PyBytes_GET_SIZE(write.key) + length_of(write.value);
    int calm = look_around(self, &write, buffered);
    if (calm <= 0) {
        return calm < 0 ? NULL : Py_NewRef(Py_None);
    }
    write.entry = PyTuple_New(3);
    if (write.entry == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(write.entry, 1, Py_NewRef(write.value));
    PyTuple_SET_ITEM(write.entry, 2, Py_NewRef(Py_None));
    PyObject_GC_UnTrack(write.entry); /* it leads nowhere: the collector need not look at it */
    PyObject *lsn = buffered ? append_locked(self, &write) : join_locked(self, &write);
    Py_DECREF(write.entry);
    if (lsn == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return lsn;
}

/* ---- the type */

#define HELD(each)                                                                              \
    each(the_engine) each(the_index) each(the_log) each(the_segments) each(the_stats) each(mutex) \
        each(append_lock) each(sync_lock) each(monotonic) each(time_ns) each(finish)            \
            each(refused) each(failed) each(pwrite) each(async) each(buffered) each(gone)

static int visit_put(PyObject *object, visitproc visit, void *arg) {
    FastPut *self = (FastPut *)object;
    Py_VISIT(Py_TYPE(object));
#define VISIT(name) Py_VISIT(self->name);
    HELD(VISIT)
    return 0;
}

static int clear_put(PyObject *object) {
    FastPut *self = (FastPut *)object;
#define CLEAR(name) Py_CLEAR(self->name);
    HELD(CLEAR)
    return 0;
}

static void free_put(PyObject *object) {
    FastPut *self = (FastPut *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear_put(object);
    Slots *all[] = {&self->group,   &self->state,    &self->engine, &self->index,
                    &self->segment, &self->segments, &self->stats,  &self->log,
                    &self->file};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(all); i++) {
        Py_XDECREF(all[i]->type);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *attribute(PyObject *object, const char *name) {
    return object == NULL ? NULL : PyObject_GetAttrString(object, name);
}

static PyObject *make_put(PyTypeObject *type, PyObject *args, PyObject *names) {
    PyObject *engine, *state_type, *group_type, *segment_type, *file_type, *monotonic, *time_ns;
    PyObject *finish, *refused, *failed, *async, *buffered, *gone;
    long long epoch, entry_cost, slack, pressure_bytes, lsn_margin, max_value_bytes;
    static char *arguments[] = {
        "engine",  "state_type", "group_type", "segment_type", "file_type",      "monotonic",
        "time_ns",
        "finish",  "refused",    "failed",     "async_level",  "buffered_level", "gone",
        "epoch",   "entry_cost", "slack",      "pressure_bytes", "lsn_margin",   "max_value_bytes",
        NULL};
    if (!PyArg_ParseTupleAndKeywords(args, names, "OOOOOOOOOOOOOLLLLLL", arguments, &engine,
                                     &state_type, &group_type, &segment_type, &file_type,
                                     &monotonic, &time_ns,
                                     &finish, &refused, &failed, &async, &buffered, &gone, &epoch,
                                     &entry_cost, &slack, &pressure_bytes, &lsn_margin,
                                     &max_value_bytes)) {
        return NULL;
    }
    FastPut *self = (FastPut *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->call = fast_put;
    self->epoch = (uint64_t)epoch;
    self->entry_cost = entry_cost;
    self->slack = slack;
    self->pressure_bytes = pressure_bytes;
    self->lsn_margin = lsn_margin;
    self->max_value_bytes = max_value_bytes;
    self->pwrite = PyUnicode_InternFromString("pwrite");
    self->async = Py_NewRef(async);
    self->buffered = Py_NewRef(buffered);
    self->gone = Py_NewRef(gone);
    self->monotonic = monotonic == Py_None ? NULL : Py_NewRef(monotonic);
    self->time_ns = monotonic == Py_None ? NULL : Py_NewRef(time_ns);
    self->the_engine = Py_NewRef(engine);
    self->finish = Py_NewRef(finish);
    self->refused = Py_NewRef(refused);
    self->failed = Py_NewRef(failed);
    self->the_index = attribute(engine, "index");
    self->the_log = attribute(engine, "log");
    self->the_segments = attribute(self->the_log, "segments");
    self->the_stats = attribute(self->the_log, "stats");
    self->mutex = attribute(self->the_log, "mutex");
    self->append_lock = attribute(self->the_log, "append_lock");
    self->sync_lock = attribute(self->the_log, "sync_lock");
    if (self->the_index == NULL || self->the_segments == NULL || self->the_stats == NULL ||
        self->pwrite == NULL || self->mutex == NULL ||
        self->append_lock == NULL || self->sync_lock == NULL ||
        find_slots(&self->state, state_type, STATE_NAMES) < 0 ||
        find_slots(&self->group, group_type, GROUP_NAMES) < 0 ||
        find_slots(&self->segment, segment_type, SEGMENT_NAMES) < 0 ||
        find_slots(&self->file, file_type, FILE_NAMES) < 0 ||
        find_slots(&self->engine, (PyObject *)Py_TYPE(engine), ENGINE_NAMES) < 0 ||
        find_slots(&self->index, (PyObject *)Py_TYPE(self->the_index), INDEX_NAMES) < 0 ||
        find_slots(&self->segments, (PyObject *)Py_TYPE(self->the_segments), SEGMENTS_NAMES) < 0 ||
        find_slots(&self->stats, (PyObject *)Py_TYPE(self->the_stats), STATS_NAMES) < 0 ||
        find_slots(&self->log, (PyObject *)Py_TYPE(self->the_log), LOG_NAMES) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMemberDef put_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FastPut, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot put_slots[] = {
    {Py_tp_doc, "Call it with a table's state, key, value and level: the LSN, or None."},
    {Py_tp_new, make_put},
    {Py_tp_dealloc, free_put},
    {Py_tp_traverse, visit_put},
    {Py_tp_clear, clear_put},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, put_members},
    {0, NULL},
};

static PyType_Spec put_spec = {
    .name = "strandline.native._native.FastPut",
    .basicsize = sizeof(FastPut),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = put_slots,
};

int add_fast_put(PyObject *module) {
    PyObject *type = PyType_FromSpec(&put_spec);
    if (type == NULL) {
        return -1;
    }
    int failed = PyModule_AddObjectRef(module, "FastPut", type);
    Py_DECREF(type);
    return failed;
}
