/* The short way of a SYNC write: joining a group, or a frame alone; waiting; publishing what was
 * queued. See fast_put.c. */
#include "fast_put.h"

/* What a SYNC write needs, made before the mutex is taken. */
typedef struct {
    PyObject *item;   /* held: (table, key, entry), to be published when it is synced */
    PyObject *queued; /* held: the newest queued state of the key */
    PyObject *gate;   /* held: what the writer sleeps on; NULL where nobody led a moment ago */
    PyObject *wake;   /* held: opens it */
    PyObject *result; /* held: (LSN, group, how to wait, None to lead) */
} Waiter;

static int make_gate(const FastPut *self, Waiter *waiter) {
    PyObject *lock = PyObject_CallNoArgs(self->make_lock);
    if (lock == NULL) {
        return -1;
    }
    waiter->gate = PyObject_GetAttrString(lock, "acquire");
    waiter->wake = waiter->gate == NULL ? NULL : PyObject_GetAttrString(lock, "release");
    Py_DECREF(lock);
    if (waiter->gate == NULL || waiter->wake == NULL) {
        return -1;
    }
    PyObject *taken = PyObject_CallNoArgs(waiter->gate);
    Py_XDECREF(taken);
    return taken == NULL ? -1 : 0;
}

static int make_waiter(const FastPut *self, const Write *write, Waiter *waiter) {
    waiter->item = PyTuple_Pack(3, write->state, write->key, write->entry);
    waiter->queued = self->queued_type->tp_alloc(self->queued_type, 4);
    waiter->result = PyTuple_New(3);
    if (waiter->item == NULL || waiter->queued == NULL || waiter->result == NULL) {
        return -1;
    }
    if (slot(self->the_log, &self->log, LOG_LEADING) == Py_True) {
        return make_gate(self, waiter);
    }
    return 0;
}

static void drop_waiter(Waiter *waiter) {
    Py_XDECREF(waiter->item);
    Py_XDECREF(waiter->queued);
    Py_XDECREF(waiter->gate);
    Py_XDECREF(waiter->wake);
    Py_XDECREF(waiter->result);
}

/* Start the clocks of a group that something joins for the first time. */
static int start_group(const FastPut *self, const Write *write, PyObject *group) {
    PyObject *stall_at = slot(self->the_log, &self->log, LOG_STALL_AT);
    PyObject *opened = PyFloat_FromDouble(write->now);
    PyObject *due = PyFloat_FromDouble(write->now + self->window);
    if (opened == NULL || due == NULL) {
        Py_XDECREF(opened);
        Py_XDECREF(due);
        return -1;
    }
    set_slot(group, &self->group, GROUP_OPENED_AT, opened);
    if (PyFloat_CheckExact(stall_at) && PyFloat_AS_DOUBLE(due) < PyFloat_AS_DOUBLE(stall_at)) {
        set_slot(self->the_log, &self->log, LOG_STALL_AT, due);
    } else {
        Py_DECREF(due);
    }
    return 0;
}

/* Whether the group and its waiters can be joined as they are. */
static int is_joinable(const FastPut *self, const Write *write, PyObject *group,
                       const Waiter *waiter) {
    int64_t size, limit;
    PyObject *leading = slot(self->the_log, &self->log, LOG_LEADING);
    return Py_IS_TYPE(group, self->group.type) && is_open(self, write) &&
           slot(self->the_engine, &self->engine, ENGINE_DIRTY_SINCE) != Py_None &&
           slot(self->the_log, &self->log, LOG_DRAINING) == Py_True &&
           slot_i64(group, &self->group, GROUP_SIZE, &size) &&
           slot_i64(group, &self->group, GROUP_LIMIT, &limit) && size + write->need <= limit &&
           PyList_CheckExact(slot(group, &self->group, GROUP_ITEMS)) &&
           PyList_CheckExact(slot(group, &self->group, GROUP_SYNC)) &&
           PyList_CheckExact(slot(group, &self->group, GROUP_WAITERS)) &&
           (leading == Py_False || (leading == Py_True && waiter->gate != NULL));
}

/* Join the waiters, or lead where nobody does. */
static int elect(const FastPut *self, PyObject *group, Waiter *waiter) {
    if (slot(self->the_log, &self->log, LOG_LEADING) == Py_False) {
        set_slot(self->the_log, &self->log, LOG_LEADING, Py_NewRef(Py_True));
        PyTuple_SET_ITEM(waiter->result, 2, Py_NewRef(Py_None));
        return 0;
    }
    int64_t crowd;
    PyObject *waiters = slot(group, &self->group, GROUP_WAITERS);
    PyObject *gathering = slot(self->the_log, &self->log, LOG_GATHER_GATE);
    PyTuple_SET_ITEM(waiter->result, 2, Py_NewRef(waiter->gate));
    if (PyList_Append(waiters, waiter->wake) < 0) {
        return -1;
    }
    if (gathering != Py_None && slot_i64(self->the_log, &self->log, LOG_CROWD, &crowd) &&
        (int64_t)PyList_GET_SIZE(waiters) + 1 >= crowd) {
        Py_INCREF(gathering);
        set_slot(self->the_log, &self->log, LOG_GATHER_GATE, Py_NewRef(Py_None));
        PyObject *opened = PyObject_CallMethod(gathering, "release", NULL);
        Py_DECREF(gathering);
        if (opened == NULL) {
            PyErr_Clear(); /* it was opened already, or nobody waits any more */
        }
        Py_XDECREF(opened);
    }
    return 0;
}

/* Fill in what is queued of a SYNC write, and the result. Takes over `lsn`. */
static void name_waiter(const FastPut *self, Write *write, Waiter *waiter, PyObject *group,
                        PyObject *lsn) {
    PyTuple_SET_ITEM(write->entry, 0, Py_NewRef(lsn));
    PyTuple_SET_ITEM(waiter->queued, 0, Py_NewRef(lsn));
    PyTuple_SET_ITEM(waiter->queued, 1, Py_NewRef(write->value));
    PyTuple_SET_ITEM(waiter->queued, 2, Py_NewRef(group));
    PyTuple_SET_ITEM(waiter->queued, 3, Py_NewRef(self->sync));
    PyTuple_SET_ITEM(waiter->result, 0, lsn);
    PyTuple_SET_ITEM(waiter->result, 1, Py_NewRef(group));
}

/* Let what was queued for a key before be so again; takes no memory, and keeps an exception. */
static void requeue(PyObject *newest, PyObject *key, PyObject *before) {
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    if ((before == NULL ? PyDict_DelItem(newest, key) : PyDict_SetItem(newest, key, before)) < 0) {
        PyErr_Clear();
    }
    PyErr_Restore(kind, error, trace);
}

/* Under the mutex. Takes the result out of `waiter`; NULL as in `join`. */
static PyObject *join_synced(const FastPut *self, Write *write, Waiter *waiter) {
    int64_t size, first;
    PyObject *group = slot(self->the_log, &self->log, LOG_GROUP);
    if (!is_joinable(self, write, group, waiter) ||
        !slot_i64(group, &self->group, GROUP_SIZE, &size) ||
        !slot_i64(group, &self->group, GROUP_FIRST_LSN, &first)) {
        return NULL;
    }
    PyObject *items = slot(group, &self->group, GROUP_ITEMS);
    PyObject *sync = slot(group, &self->group, GROUP_SYNC);
    Py_ssize_t count = PyList_GET_SIZE(items), published = PyList_GET_SIZE(sync);
    PyObject *lsn = PyLong_FromLongLong(first + count / COUNT_PER_OPERATION);
    PyObject *filled = PyLong_FromLongLong(size + write->need);
    if (lsn == NULL || filled == NULL ||
        (count == 1 && start_group(self, write, group) < 0) ||
        extend_items(items, tag_of(self, write), write->key, write->value) < 0) {
        Py_XDECREF(lsn);
        Py_XDECREF(filled);
        return NULL;
    }
    name_waiter(self, write, waiter, group, lsn);
    PyObject *newest = slot(write->state, &self->state, STATE_QUEUED);
    PyObject *before = Py_XNewRef(PyDict_GetItemWithError(newest, write->key));
    int joined = PyList_Append(sync, waiter->item) == 0 &&
                 PyDict_SetItem(newest, write->key, waiter->queued) == 0;
    if (!joined || elect(self, group, waiter) < 0) {
        if (joined) {
            requeue(newest, write->key, before);
        }
        PyList_SetSlice(items, count, PY_SSIZE_T_MAX, NULL);
        PyList_SetSlice(sync, published, PY_SSIZE_T_MAX, NULL);
        Py_XDECREF(before);
        Py_DECREF(filled);
        return NULL;
    }
    Py_XDECREF(before);
    set_slot(group, &self->group, GROUP_SIZE, filled);
    PyObject *result = waiter->result;
    waiter->result = NULL;
    return result;
}

/* The frame of a SYNC write is in the page cache: its group goes to those that wait for a sync, as
 * it would by the long way, and this writer leads. */
static int note_synced(const FastPut *self, Write *write, Waiter *waiter, Place *place,
                       PyObject *opened, PyObject *due) {
    PyObject *group = place->group;
    PyObject *since = slot(self->the_log, &self->log, LOG_UNSYNCED_SINCE);
    PyObject *stall_at = slot(self->the_log, &self->log, LOG_STALL_AT);
    move_tail(self, place);
    name_waiter(self, write, waiter, group, Py_NewRef(place->lsn));
    PyTuple_SET_ITEM(waiter->result, 2, Py_NewRef(Py_None));
    set_slot(group, &self->group, GROUP_CLOSED_LSN, Py_NewRef(place->lsn));
    set_slot(group, &self->group, GROUP_OPENED_AT, Py_NewRef(opened));
    if (PyFloat_AS_DOUBLE(since) > write->now) {
        set_slot(self->the_log, &self->log, LOG_UNSYNCED_SINCE, Py_NewRef(opened));
    }
    if (PyFloat_CheckExact(stall_at) && PyFloat_AS_DOUBLE(stall_at) > PyFloat_AS_DOUBLE(due)) {
        set_slot(self->the_log, &self->log, LOG_STALL_AT, Py_NewRef(due));
    }
    set_slot(self->the_log, &self->log, LOG_LEADING, Py_NewRef(Py_True));
    if (extend_items(slot(group, &self->group, GROUP_ITEMS), tag_of(self, write), write->key,
                     write->value) < 0 ||
        PyList_Append(slot(group, &self->group, GROUP_SYNC), waiter->item) < 0 ||
        PyDict_SetItem(slot(write->state, &self->state, STATE_QUEUED), write->key,
                       waiter->queued) < 0) {
        return -1;
    }
    PyObject *added =
        PyObject_CallMethod(slot(self->the_log, &self->log, LOG_UNSYNCED), "append", "O", group);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

/* Under append lock and mutex: 1 when the frame is written, 0 to join a group, -1 on an error. */
static int append_alone(const FastPut *self, Write *write, Waiter *waiter, Place *place,
                        PyObject *opened, PyObject *due) {
    int64_t crowd;
    /* A leader who expects others gathers them first: one frame for all. */
    if (!slot_i64(self->the_log, &self->log, LOG_CROWD, &crowd) || crowd > 1 ||
        slot(self->the_log, &self->log, LOG_LEADING) != Py_False ||
        PySequence_Size(slot(self->the_log, &self->log, LOG_UNSYNCED)) != 0 ||
        !find_place(self, write, place) ||
        !PyList_CheckExact(slot(place->group, &self->group, GROUP_SYNC))) {
        return PyErr_Occurred() ? -1 : 0;
    }
    if (write_frame(self, place) < 0 ||
        note_synced(self, write, waiter, place, opened, due) < 0) {
        return -1;
    }
    if (slot(self->the_log, &self->log, LOG_FAILURE) != Py_None) {
        Py_XDECREF(PyObject_CallNoArgs(self->failed)); /* raises */
        return -1;
    }
    return 1;
}

/* Write a SYNC frame of its own where nobody leads: only its sync is left then. */
static int append_alone_locked(const FastPut *self, Write *write, Waiter *waiter) {
    PyObject *opened = PyFloat_FromDouble(write->now);
    PyObject *due = PyFloat_FromDouble(write->now + self->sync_window);
    Place place = {.tail = PyTuple_New(4),
                   .after = PyObject_CallFunction((PyObject *)self->group.type, "ii", 0, 0)};
    int done = -1;
    if (opened != NULL && due != NULL && place.tail != NULL && place.after != NULL) {
        done = try_lock(self->append_lock);
    }
    if (done > 0) {
        if ((done = try_lock(self->mutex)) > 0) {
            done = append_alone(self, write, waiter, &place, opened, due);
            if (unlock(self->mutex) < 0) {
                done = -1;
            }
            if (done < 0) {
                hand_over_error(self, &place);
            }
        }
        if (unlock(self->append_lock) < 0) {
            done = -1;
        }
    }
    drop_place(&place);
    Py_XDECREF(opened);
    Py_XDECREF(due);
    return done;
}

PyObject *write_synced(const FastPut *self, Write *write) {
    Waiter waiter = {0};
    PyObject *result = NULL;
    if (make_waiter(self, write, &waiter) == 0) {
        int alone = waiter.gate == NULL ? append_alone_locked(self, write, &waiter) : 0;
        if (alone > 0) {
            result = Py_NewRef(waiter.result);
        } else if (alone == 0 && try_lock(self->mutex) > 0) {
            result = join_synced(self, write, &waiter);
            if (unlock(self->mutex) < 0) {
                Py_CLEAR(result);
            }
        }
    }
    drop_waiter(&waiter);
    return result;
}

/* Wake one who waits for the group; he wakes the next. */
static int wake_next(const FastPut *self, PyObject *group) {
    PyObject *waiters = slot(group, &self->group, GROUP_WAITERS);
    if (!PyList_CheckExact(waiters) || PyList_GET_SIZE(waiters) == 0) {
        return 0;
    }
    PyObject *wake = Py_NewRef(PyList_GET_ITEM(waiters, 0));
    PyObject *woken = NULL;
    if (PyList_SetSlice(waiters, 0, 1, NULL) == 0) {
        woken = PyObject_CallNoArgs(wake);
    }
    Py_DECREF(wake);
    Py_XDECREF(woken);
    return woken == NULL ? -1 : 0;
}

/* The LSN then. The result as it is, with None for how to wait, where this writer has to lead, or the
 * group has failed. */
PyObject *wait_for(const FastPut *self, PyObject *result) {
    PyObject *gate = PyTuple_GET_ITEM(result, 2);
    PyObject *group = PyTuple_GET_ITEM(result, 1);
    if (gate == Py_None) {
        return result;
    }
    PyObject *arguments[] = {Py_True, self->patience};
    PyObject *woken = PyObject_Vectorcall(gate, arguments, 2, NULL);
    Py_XDECREF(woken);
    if (woken == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    if (slot(group, &self->group, GROUP_DONE) == Py_True &&
        slot(group, &self->group, GROUP_ERROR) == Py_None) {
        PyObject *lsn = wake_next(self, group) < 0 ? NULL : Py_NewRef(PyTuple_GET_ITEM(result, 0));
        Py_DECREF(result);
        return lsn;
    }
    PyTuple_SET_ITEM(result, 2, Py_NewRef(Py_None));
    Py_DECREF(gate);
    return result;
}

/* ---- publishing */

/* Make one queued write visible and forget that it was queued: 1; 0 for what is no such write, or
 * belongs to a frozen layer; -1 on an error. */
static int publish_one(const FastPut *self, PyObject *item, int64_t cut_lsn, int64_t *active) {
    int64_t lsn, old_lsn, queued_lsn;
    if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 3 ||
        !Py_IS_TYPE(PyTuple_GET_ITEM(item, 0), self->state.type)) {
        return 0;
    }
    PyObject *state = PyTuple_GET_ITEM(item, 0), *key = PyTuple_GET_ITEM(item, 1);
    PyObject *entry = PyTuple_GET_ITEM(item, 2);
    PyObject *entries = slot(state, &self->state, STATE_ENTRIES);
    PyObject *queued = slot(state, &self->state, STATE_QUEUED);
    PyObject *frozen = slot(state, &self->state, STATE_FROZEN);
    if (!PyBytes_CheckExact(key) || !PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 3 ||
        !as_i64(PyTuple_GET_ITEM(entry, 0), &lsn) || !PyDict_CheckExact(entries) ||
        !PyDict_CheckExact(queued) || !PyTuple_CheckExact(frozen) ||
        slot(state, &self->state, STATE_LOGGED) != Py_True ||
        (PyTuple_GET_SIZE(frozen) != 0 && lsn <= cut_lsn)) {
        return 0;
    }
    PyObject *old = PyDict_GetItemWithError(entries, key);
    int64_t change = self->entry_cost + OVERHEAD + (int64_t)PyBytes_GET_SIZE(key) +
                     length_of(PyTuple_GET_ITEM(entry, 1));
    int newest = 1;
    if (old != NULL) {
        if (!PyTuple_CheckExact(old) || PyTuple_GET_SIZE(old) != 3 ||
            !as_i64(PyTuple_GET_ITEM(old, 0), &old_lsn)) {
            return 0;
        }
        newest = old_lsn < lsn;
        change = length_of(PyTuple_GET_ITEM(entry, 1)) - length_of(PyTuple_GET_ITEM(old, 1));
    }
    if (newest && PyDict_SetItem(entries, key, entry) < 0) {
        return -1;
    }
    *active += newest ? change : 0;
    PyObject *waiting = PyDict_GetItemWithError(queued, key);
    if (waiting != NULL && PyTuple_Check(waiting) && PyTuple_GET_SIZE(waiting) == 4 &&
        as_i64(PyTuple_GET_ITEM(waiting, 0), &queued_lsn) && queued_lsn == lsn &&
        PyDict_DelItem(queued, key) < 0) {
        return -1;
    }
    return 1;
}

const char publish_doc[] =
"publish(queued, cut_lsn)\n"
"--\n\n"
"Make queued single writes visible, as long as there are such; return how many. Under the mutex.";

PyObject *publish_queued(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    const FastPut *self = (FastPut *)object;
    int64_t snapshot, cut_lsn, before, active;
    if (nargs != 2 || !PyList_CheckExact(args[0]) || !as_i64(args[1], &cut_lsn)) {
        PyErr_SetString(PyExc_TypeError, "publish(queued: list, cut_lsn)");
        return NULL;
    }
    if (!slot_i64(self->the_index, &self->index, INDEX_SNAPSHOT, &snapshot) || snapshot >= 0 ||
        !slot_i64(self->the_index, &self->index, INDEX_ACTIVE_BYTES, &before)) {
        return PyLong_FromLong(0);
    }
    Py_ssize_t done = 0;
    int going = 1;
    for (active = before; going > 0 && done < PyList_GET_SIZE(args[0]);) {
        going = publish_one(self, PyList_GET_ITEM(args[0], done), cut_lsn, &active);
        done += going > 0;
    }
    PyObject *counted = PyLong_FromLongLong(active);
    if (counted == NULL) {
        return NULL;
    }
    set_slot(self->the_index, &self->index, INDEX_ACTIVE_BYTES, counted);
    return going < 0 ? NULL : PyLong_FromSsize_t(done);
}

