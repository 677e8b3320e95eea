/* The short way of a single write, while nothing is in its way.
 *
 * It does what WritePath._write does, for one writer that finds the locks free, the budgets calm
 * and nothing queued before it, and gives None in every other case, before it has changed
 * anything: then Python goes the long way. What it reads and writes are slots of the same Python
 * objects, at their offsets, under the same locks; no state is kept here.
 *
 * An ASYNC write joins the open group and is visible. A BUFFERED one becomes a frame of its own
 * at once, and is visible when the frame is in the page cache. For that one pwrite the mutex is
 * held, so that nobody finds the write under way: its LSN is taken, its frame is at the tail and
 * it is visible, or none of that is so. A SYNC one joins the open group and the waiters for its
 * sync, and waits; or, where nobody leads, its frame is written like a BUFFERED one's, and the
 * sync is left to Python.
 *
 * Whatever can call the garbage collector, and so anything, is done before the locks are taken.
 */
#include "fast_put.h"

#include <time.h>

enum { MAX_KEY_BYTES = 511 };

static const char *const GROUP_NAMES[] = {
    "items", "size", "limit", "first_lsn", "opened_at", "waiters", "sync", "done", "error",
    "closed_lsn", NULL};
static const char *const STATE_NAMES[] = {"gate",       "logged", "entries", "put_tag",
                                          "delete_tag", "queued", "frozen",  NULL};
static const char *const ENGINE_NAMES[] = {"attention", "flush_mark", "dirty_since", NULL};
static const char *const INDEX_NAMES[] = {"newest_snapshot", "active_bytes", NULL};
static const char *const SEGMENT_NAMES[] = {"file", "id", "salt", "usable", NULL};
static const char *const SEGMENTS_NAMES[] = {"sealed_bytes", NULL};
static const char *const FILE_NAMES[] = {"_fd", NULL};
static const char *const STATS_NAMES[] = {"singles", NULL};
static const char *const LOG_NAMES[] = {
    "group", "stall_at", "closed", "failure", "full", "tail", "synced_lsn", "stored_lsn",
    "claimed_lsn", "unsynced_bytes", "unsynced_since", "ticking", "_wake_at", "_ceiling",
    "leading", "draining", "gather_gate", "crowd", "unsynced", NULL};

/* A name that is missing would have the wrong offset used for all behind it. */
#define NAMED(names, last) \
    _Static_assert(Py_ARRAY_LENGTH(names) == (last) + 2 && (int)(last) < (int)MOST_SLOTS, #names)
NAMED(GROUP_NAMES, GROUP_CLOSED_LSN);
NAMED(STATE_NAMES, STATE_FROZEN);
NAMED(ENGINE_NAMES, ENGINE_DIRTY_SINCE);
NAMED(INDEX_NAMES, INDEX_ACTIVE_BYTES);
NAMED(SEGMENT_NAMES, SEGMENT_USABLE);
NAMED(SEGMENTS_NAMES, SEGMENTS_SEALED_BYTES);
NAMED(FILE_NAMES, FILE_DESCRIPTOR);
NAMED(STATS_NAMES, STATS_SINGLES);
NAMED(LOG_NAMES, LOG_UNSYNCED);

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

/* ---- locks */

static int truth_of(PyObject *answer) {
    int truth = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return truth;
}

int is_inside(PyObject *lock) {
    if (is_owned_lock(lock)) {
        return owned_lock_mine(lock);
    }
    return truth_of(PyObject_CallMethod(lock, "_is_owned", NULL));
}

int try_lock(PyObject *lock) {
    if (is_owned_lock(lock)) {
        return owned_lock_try(lock);
    }
    return truth_of(PyObject_CallMethod(lock, "acquire", "O", Py_False));
}

int unlock(PyObject *lock) {
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

/* ---- into the index */

int admits(const FastPut *self, Write *write) {
    int64_t active, mark, snapshot;
    PyObject *entries = slot(write->state, &self->state, STATE_ENTRIES);
    if (!is_open(self, write) || !PyDict_CheckExact(entries) ||
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

int publish_write(const FastPut *self, Write *write, PyObject *lsn) {
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

/* ---- ASYNC */

int extend_items(PyObject *items, PyObject *tag, PyObject *key, PyObject *value) {
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
        extend_items(items, tag_of(self, write), write->key, write->value) < 0) {
        Py_XDECREF(lsn);
        Py_XDECREF(filled);
        return NULL;
    }
    if (publish_write(self, write, Py_NewRef(lsn)) < 0) {
        PyList_SetSlice(items, count, PY_SSIZE_T_MAX, NULL);
        Py_DECREF(lsn);
        Py_DECREF(filled);
        return NULL;
    }
    set_slot(group, &self->group, GROUP_SIZE, filled);
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

/* ---- all of them */

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

enum { WEAK, FRAMED, SYNCED };

/* 1 to go on, 0 to go the long way, -1 on an error. No lock is held. */
static int look_around(const FastPut *self, Write *write, int weight) {
    int64_t attention;
    if (!slot_i64(self->the_engine, &self->engine, ENGINE_ATTENTION, &attention) || attention) {
        return 0;
    }
    int inside = is_inside(self->mutex);
    if (inside == 0 && weight != WEAK) {
        inside = is_inside(self->append_lock);
        inside = inside == 0 ? is_inside(self->sync_lock) : inside;
    }
    if (inside != 0) {
        return inside < 0 ? -1 : 0; /* the long way refuses it */
    }
    if (read_clocks(self, write, weight != WEAK) < 0) {
        return -1;
    }
    PyObject *stall_at = slot(self->the_log, &self->log, LOG_STALL_AT);
    /* Where a window is full, weaker writers have to help. */
    return weight == SYNCED ||
           (PyFloat_CheckExact(stall_at) && write->now <= PyFloat_AS_DOUBLE(stall_at));
}

static PyObject *fast_put(PyObject *callable, PyObject *const *args, size_t flags,
                          PyObject *names) {
    FastPut *self = (FastPut *)callable;
    if (PyVectorcall_NARGS(flags) != 4 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "expected a table's state, key, value, and level");
        return NULL;
    }
    int weight = args[3] == self->async      ? WEAK
                 : args[3] == self->buffered ? FRAMED
                 : args[3] == self->sync     ? SYNCED
                                             : -1;
    Write write = {.state = args[0], .key = args[1], .value = args[2]};
    if (write.value == self->gone) {
        write.value = Py_None;
    } else if (!PyBytes_CheckExact(write.value) ||
               PyBytes_GET_SIZE(write.value) > self->max_value_bytes) {
        Py_RETURN_NONE;
    }
    if (weight < 0 || !Py_IS_TYPE(write.state, self->state.type) ||
        !PyBytes_CheckExact(write.key) || PyBytes_GET_SIZE(write.key) == 0 ||
        PyBytes_GET_SIZE(write.key) > MAX_KEY_BYTES) {
        Py_RETURN_NONE;
    }
    write.need = OVERHEAD + (int64_t)PyBytes_GET_SIZE(write.key) + length_of(write.value);
    int calm = look_around(self, &write, weight);
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
    PyObject *done = weight == WEAK     ? join_locked(self, &write)
                     : weight == FRAMED ? append_buffered(self, &write)
                                        : write_synced(self, &write);
    Py_DECREF(write.entry);
    if (done == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    return weight == SYNCED ? wait_for(self, done) : done;
}

/* ---- the type */

#define HELD(each)                                                                              \
    each(the_engine) each(the_index) each(the_log) each(the_segments) each(the_stats) each(mutex) \
        each(append_lock) each(sync_lock) each(monotonic) each(time_ns) each(finish)            \
            each(refused) each(failed) each(pwrite) each(async) each(buffered) each(gone) each(sync) \
                each(make_lock) each(queued_type) each(patience)

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
    PyObject *finish, *refused, *failed, *async, *buffered, *sync, *gone, *make_lock, *queued;
    double window, sync_window, patience;
    long long epoch, entry_cost, slack, pressure_bytes, lsn_margin, max_value_bytes;
    static char *arguments[] = {
        "engine",  "state_type", "group_type", "segment_type", "file_type",      "monotonic",
        "time_ns",
        "finish",  "refused",    "failed",     "async_level",  "buffered_level", "sync_level",
        "gone",    "make_lock",  "queued_type", "window",      "sync_window",
        "patience",
        "epoch",   "entry_cost", "slack",      "pressure_bytes", "lsn_margin",   "max_value_bytes",
        NULL};
    if (!PyArg_ParseTupleAndKeywords(args, names, "OOOOOOOOOOOOOOOO!dddLLLLLL", arguments, &engine,
                                     &state_type, &group_type, &segment_type, &file_type,
                                     &monotonic, &time_ns,
                                     &finish, &refused, &failed, &async, &buffered, &sync, &gone,
                                     &make_lock, &PyType_Type, &queued, &window, &sync_window,
                                     &patience, &epoch,
                                     &entry_cost, &slack, &pressure_bytes, &lsn_margin,
                                     &max_value_bytes)) {
        return NULL;
    }
    FastPut *self = (FastPut *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (!PyType_IsSubtype((PyTypeObject *)queued, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "queued_type: expected a kind of tuple");
        Py_DECREF(self);
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
    self->sync = Py_NewRef(sync);
    self->gone = Py_NewRef(gone);
    self->make_lock = Py_NewRef(make_lock);
    self->queued_type = (PyTypeObject *)Py_NewRef(queued);
    self->window = window;
    self->sync_window = sync_window;
    self->patience = PyFloat_FromDouble(patience);
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
        self->pwrite == NULL || self->patience == NULL || self->mutex == NULL ||
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

static PyMethodDef put_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))publish_queued, METH_FASTCALL, publish_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot put_slots[] = {
    {Py_tp_doc, "Call it with a table's state, key, value and level: the LSN, or None."},
    {Py_tp_new, make_put},
    {Py_tp_dealloc, free_put},
    {Py_tp_traverse, visit_put},
    {Py_tp_clear, clear_put},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, put_members},
    {Py_tp_methods, put_methods},
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
