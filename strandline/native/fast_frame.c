/* The short way of a BUFFERED write: a frame of its own, at once. See fast_put.c. */
#include "fast_put.h"

#include <errno.h>
#include <unistd.h>

/* Whether nothing is queued, and the log has no other care than to take a frame of this write. */
static int is_calm(const FastPut *self, const Write *write, const Place *place) {
    int64_t limit;
    PyObject *since = slot(self->the_log, &self->log, LOG_UNSYNCED_SINCE);
    PyObject *items = slot(place->group, &self->group, GROUP_ITEMS);
    return PyList_CheckExact(items) && PyList_GET_SIZE(items) == 1 &&
           PyList_GET_ITEM(items, 0) == Py_None &&
           PySequence_Size(slot(self->the_log, &self->log, LOG_CLOSED)) == 0 &&
           slot(self->the_log, &self->log, LOG_FAILURE) == Py_None &&
           slot(self->the_log, &self->log, LOG_FULL) == Py_None &&
           slot(self->the_log, &self->log, LOG_TICKING) == Py_True && PyFloat_CheckExact(since) &&
           (place->after != NULL || PyFloat_AS_DOUBLE(since) <= write->now) &&
           slot_i64(place->group, &self->group, GROUP_LIMIT, &limit) && write->need <= limit;
}

/* Whether the log stays as it is with its tail at `end`: no new segment, no look at the budgets, no
 * new block of LSNs, and room for all that the open group may take. */
static int fits(const FastPut *self, const Place *place, int64_t end, int64_t lsn) {
    int64_t limit, usable, wake_at, sealed, ceiling;
    return slot_i64(place->group, &self->group, GROUP_LIMIT, &limit) &&
           slot_i64(place->segment, &self->segment, SEGMENT_USABLE, &usable) &&
           end + limit + self->slack <= usable &&
           slot_i64(self->the_log, &self->log, LOG_WAKE_AT, &wake_at) && end <= wake_at &&
           slot_i64(self->the_segments, &self->segments, SEGMENTS_SEALED_BYTES, &sealed) &&
           sealed + end <= self->pressure_bytes &&
           slot_i64(self->the_log, &self->log, LOG_CEILING, &ceiling) &&
           lsn + 1 <= ceiling - self->lsn_margin;
}

/* Make what the log's slots will hold when the frame is written. */
static int foresee(const FastPut *self, Place *place, int64_t frames, int64_t lsn) {
    int64_t length = (int64_t)PyBytes_GET_SIZE(place->frame), unsynced;
    if (!slot_i64(self->the_log, &self->log, LOG_UNSYNCED_BYTES, &unsynced)) {
        return 0;
    }
    PyObject *end = PyLong_FromLongLong(place->offset + length);
    PyObject *counted = PyLong_FromLongLong(frames + 1);
    place->lsn = PyLong_FromLongLong(lsn);
    place->next_lsn = PyLong_FromLongLong(lsn + 1);
    place->unsynced = PyLong_FromLongLong(unsynced + length);
    PyTuple_SET_ITEM(place->tail, 0, Py_NewRef(place->segment));
    PyTuple_SET_ITEM(place->tail, 1, end);
    PyTuple_SET_ITEM(place->tail, 2, counted);
    PyTuple_SET_ITEM(place->tail, 3, Py_XNewRef(place->lsn));
    return end != NULL && counted != NULL && place->lsn != NULL && place->next_lsn != NULL &&
           place->unsynced != NULL;
}

int find_place(const FastPut *self, Write *write, Place *place) {
    PyObject *tail = slot(self->the_log, &self->log, LOG_TAIL);
    uint64_t synced, stored, segment_id, salt;
    int64_t frames, lsn;
    place->group = Py_NewRef(slot(self->the_log, &self->log, LOG_GROUP));
    if (!Py_IS_TYPE(place->group, self->group.type) || !PyTuple_CheckExact(tail) ||
        PyTuple_GET_SIZE(tail) != 4 ||
        !Py_IS_TYPE(PyTuple_GET_ITEM(tail, 0), self->segment.type) ||
        !as_i64(PyTuple_GET_ITEM(tail, 1), &place->offset) ||
        !as_i64(PyTuple_GET_ITEM(tail, 2), &frames) ||
        !slot_i64(place->group, &self->group, GROUP_FIRST_LSN, &lsn)) {
        return 0;
    }
    place->segment = Py_NewRef(PyTuple_GET_ITEM(tail, 0));
    place->synced = Py_NewRef(slot(self->the_log, &self->log, LOG_SYNCED_LSN));
    if (!is_calm(self, write, place) ||
        !(place->after == NULL ? admits(self, write) : is_open(self, write)) ||
        !as_u64(place->synced, &synced) ||
        !as_u64(slot(self->the_log, &self->log, LOG_STORED_LSN), &stored) ||
        !as_u64(slot(place->segment, &self->segment, SEGMENT_ID), &segment_id) ||
        !as_u64(slot(place->segment, &self->segment, SEGMENT_SALT), &salt)) {
        return 0;
    }
    PyObject *items[] = {Py_None, tag_of(self, write), write->key, write->value};
    FrameFields fields = {1,          (uint64_t)lsn, synced, stored, (uint64_t)write->now_ns,
                          segment_id, salt,          self->epoch};
    place->frame = encoded_frame(items, 4, &fields);
    return place->frame != NULL &&
           fits(self, place, place->offset + (int64_t)PyBytes_GET_SIZE(place->frame), lsn) &&
           foresee(self, place, frames, lsn);
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

int write_frame(const FastPut *self, const Place *place) {
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

void move_tail(const FastPut *self, Place *place) {
    PyObject *following = place->after == NULL ? place->group : place->after;
    set_slot(self->the_log, &self->log, LOG_CLAIMED_LSN, Py_NewRef(place->synced));
    set_slot(self->the_log, &self->log, LOG_TAIL, place->tail);
    place->tail = NULL;
    set_slot(self->the_log, &self->log, LOG_UNSYNCED_BYTES, Py_NewRef(place->unsynced));
    set_slot(following, &self->group, GROUP_FIRST_LSN, Py_NewRef(place->next_lsn));
    if (place->after != NULL) {
        set_slot(place->after, &self->group, GROUP_LIMIT,
                 Py_NewRef(slot(place->group, &self->group, GROUP_LIMIT)));
        set_slot(self->the_log, &self->log, LOG_GROUP, Py_NewRef(place->after));
    }
}

void hand_over_error(const FastPut *self, const Place *place) {
    PyObject *kind, *error, *trace;
    /* The tail has moved: the frame is in the log, and memory ran out before all knew of it. */
    int lost = place->tail == NULL && slot(self->the_log, &self->log, LOG_FAILURE) == Py_None;
    if (place->frame == NULL || (!lost && !PyErr_ExceptionMatches(PyExc_OSError))) {
        return;
    }
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    PyObject *arguments[] = {error};
    PyObject *answer = PyObject_Vectorcall(self->refused, arguments, 1, NULL); /* raises */
    Py_XDECREF(answer);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
}

void drop_place(Place *place) {
    Py_XDECREF(place->group);
    Py_XDECREF(place->after);
    Py_XDECREF(place->segment);
    Py_XDECREF(place->frame);
    Py_XDECREF(place->tail);
    Py_XDECREF(place->lsn);
    Py_XDECREF(place->next_lsn);
    Py_XDECREF(place->synced);
    Py_XDECREF(place->unsynced);
}

/* Under append lock and mutex: write the frame, move the tail, publish. */
static PyObject *append(const FastPut *self, Write *write, Place *place) {
    int64_t singles = 0;
    if (!find_place(self, write, place)) {
        return NULL;
    }
    slot_i64(self->the_stats, &self->stats, STATS_SINGLES, &singles);
    PyObject *counted = PyLong_FromLongLong(singles + 1);
    if (counted == NULL || write_frame(self, place) < 0) {
        Py_XDECREF(counted);
        return NULL;
    }
    move_tail(self, place);
    set_slot(self->the_stats, &self->stats, STATS_SINGLES, counted);
    if (slot(self->the_log, &self->log, LOG_FAILURE) != Py_None) {
        return PyObject_CallNoArgs(self->failed); /* raises: its page may be among the lost */
    }
    return publish_write(self, write, Py_NewRef(place->lsn)) < 0 ? NULL : Py_NewRef(place->lsn);
}

PyObject *append_buffered(const FastPut *self, Write *write) {
    PyObject *lsn = NULL;
    Place place = {.tail = PyTuple_New(4)};
    if (place.tail != NULL && try_lock(self->append_lock) > 0) {
        if (try_lock(self->mutex) > 0) {
            lsn = append(self, write, &place);
            if (unlock(self->mutex) < 0) {
                Py_CLEAR(lsn);
            }
            if (lsn == NULL && PyErr_Occurred()) {
                hand_over_error(self, &place);
            }
        }
        if (unlock(self->append_lock) < 0) {
            Py_CLEAR(lsn);
        }
    }
    drop_place(&place);
    return lsn;
}
