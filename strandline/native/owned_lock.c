/* A re-entrant lock that knows its owner, as threading.RLock is, at a fraction of the cost.
 *
 * While nobody contends for it, taking it is one comparison and two stores, for whoever runs
 * holds the interpreter. A thread that finds it taken counts itself as waiting and sleeps on
 * `gate`. Whoever lets go of the lock while somebody waits opens the gate once and leaves the
 * lock promised: only one who came through the gate takes it then. Without the promise a writer
 * in a loop would have it again before the one that it woke can run, and wake it in vain each
 * time. Waiting is interrupted by signals.
 *
 * Relies on the interpreter's lock, and says so to a build without one: the module does not
 * declare itself free of it.
 */
#include "native.h"

#include <pythread.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    unsigned long owner; /* a thread's number; means something only while depth > 0 */
    unsigned long depth; /* how many times the owner has taken it */
    Py_ssize_t waiting;
    int promised; /* the gate was opened, and who comes through it takes the lock */
    PyThread_type_lock gate;
} OwnedLock;

static PyTypeObject *lock_type;

int is_owned_lock(PyObject *object) {
    return Py_IS_TYPE(object, lock_type);
}

int owned_lock_mine(PyObject *object) {
    OwnedLock *self = (OwnedLock *)object;
    return self->depth > 0 && self->owner == PyThread_get_thread_ident();
}

int owned_lock_try(PyObject *object) {
    OwnedLock *self = (OwnedLock *)object;
    unsigned long me = PyThread_get_thread_ident();
    if (self->depth > 0 ? self->owner != me : self->promised) {
        return 0;
    }
    self->owner = me;
    self->depth++;
    return 1;
}

int owned_lock_release(PyObject *object) {
    OwnedLock *self = (OwnedLock *)object;
    if (!owned_lock_mine(object)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release a lock that this thread does not hold");
        return -1;
    }
    if (--self->depth == 0 && self->waiting > 0) {
        self->promised = 1;
        PyThread_release_lock(self->gate);
    }
    return 0;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Stop waiting. A promise that nobody is left for is taken back: the gate is open then, for one
 * who came through it would be counted as waiting until he has the lock. */
static void give_up(OwnedLock *self) {
    if (--self->waiting == 0 && self->promised &&
        PyThread_acquire_lock(self->gate, NOWAIT_LOCK) == PY_LOCK_ACQUIRED) {
        self->promised = 0;
    }
}

/* 1 when it is held now, 0 when `deadline` came first, -1 on an error, which a signal's handler
 * may have raised. A negative deadline never comes. */
static int take_lock(PyObject *object, double deadline) {
    OwnedLock *self = (OwnedLock *)object;
    if (owned_lock_try(object)) {
        return 1;
    }
    self->waiting++;
    while (1) {
        PY_TIMEOUT_T microseconds = -1;
        if (deadline >= 0) {
            double left = (deadline - seconds_now()) * 1e6;
            if (left <= 0) {
                give_up(self);
                return 0;
            }
            microseconds = left < 1e15 ? (PY_TIMEOUT_T)left + 1 : -1;
        }
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(self->gate, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED) {
            self->waiting--;
            self->promised = 0;
            self->owner = PyThread_get_thread_ident();
            self->depth = 1;
            return 1;
        }
        if (status == PY_LOCK_INTR && Py_MakePendingCalls() < 0) {
            give_up(self);
            return -1;
        }
    }
}

static PyObject *lock_acquire(PyObject *object, PyObject *args, PyObject *names) {
    static char *arguments[] = {"blocking", "timeout", NULL};
    int blocking = 1;
    double timeout = -1;
    if (!PyArg_ParseTupleAndKeywords(args, names, "|pd", arguments, &blocking, &timeout)) {
        return NULL;
    }
    if (!blocking) {
        return PyBool_FromLong(owned_lock_try(object));
    }
    int got = take_lock(object, timeout < 0 ? -1 : seconds_now() + timeout);
    return got < 0 ? NULL : PyBool_FromLong(got);
}

static PyObject *lock_enter(PyObject *object, PyObject *nothing) {
    (void)nothing;
    return take_lock(object, -1) < 0 ? NULL : Py_NewRef(Py_True);
}

static PyObject *lock_release(PyObject *object, PyObject *nothing) {
    (void)nothing;
    return owned_lock_release(object) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *lock_exit(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    (void)args;
    (void)nargs;
    return lock_release(object, NULL);
}

static PyObject *lock_is_owned(PyObject *object, PyObject *nothing) {
    (void)nothing;
    return PyBool_FromLong(owned_lock_mine(object));
}

static int new_gate(OwnedLock *self) {
    self->gate = PyThread_allocate_lock();
    if (self->gate == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no memory for a lock");
        return -1;
    }
    return PyThread_acquire_lock(self->gate, NOWAIT_LOCK) == PY_LOCK_ACQUIRED ? 0 : -1;
}

/* In a forked child: nobody holds it and nobody waits. The old gate may be in use by a thread
 * that the child does not have, and is left alone. */
static PyObject *lock_renew(PyObject *object, PyObject *nothing) {
    (void)nothing;
    OwnedLock *self = (OwnedLock *)object;
    self->owner = self->depth = 0;
    self->waiting = self->promised = 0;
    return new_gate(self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *make_lock(PyTypeObject *type, PyObject *args, PyObject *names) {
    if (PyTuple_GET_SIZE(args) != 0 || (names != NULL && PyDict_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "OwnedLock() takes no arguments");
        return NULL;
    }
    OwnedLock *self = (OwnedLock *)type->tp_alloc(type, 0);
    if (self != NULL && new_gate(self) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void free_lock(PyObject *object) {
    OwnedLock *self = (OwnedLock *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->gate != NULL) {
        PyThread_acquire_lock(self->gate, NOWAIT_LOCK);
        PyThread_release_lock(self->gate); /* it is freed unlocked */
        PyThread_free_lock(self->gate);
    }
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef lock_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))lock_acquire, METH_VARARGS | METH_KEYWORDS,
     "acquire(blocking=True, timeout=-1)\n--\n\nTake the lock; False if it could not be had."},
    {"release", lock_release, METH_NOARGS, "release()\n--\n\nGive the lock back."},
    {"__enter__", lock_enter, METH_NOARGS, "Take the lock."},
    {"__exit__", (PyCFunction)(void (*)(void))lock_exit, METH_FASTCALL, "Give the lock back."},
    {"_is_owned", lock_is_owned, METH_NOARGS, "Tell whether the calling thread holds it."},
    {"_at_fork_reinit", lock_renew, METH_NOARGS, "Make it anew in a forked child."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, "A re-entrant lock that knows its owner."},
    {Py_tp_new, make_lock},
    {Py_tp_dealloc, free_lock},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "strandline.native._native.OwnedLock",
    .basicsize = sizeof(OwnedLock),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = lock_slots,
};

int add_owned_lock(PyObject *module) {
    lock_type = (PyTypeObject *)PyType_FromSpec(&lock_spec);
    if (lock_type == NULL) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "OwnedLock", (PyObject *)lock_type);
}
