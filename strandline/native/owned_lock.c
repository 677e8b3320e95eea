/* A re-entrant lock that knows its owner, as threading.RLock is, at a fraction of the cost.
 *
 * While nobody contends for it, taking it is one comparison and two stores, for whoever runs
 * holds the interpreter. A thread that finds it taken joins a queue and sleeps on a gate of its
 * own. Whoever lets go of the lock while somebody waits hands it over to the first of the queue:
 * it is his before he has woken. Otherwise a writer in a loop would have it again each time
 * before the one that it woke can run. Waiting is interrupted by signals.
 *
 * Relies on the interpreter's lock; the module does not declare itself free of it.
 */
#include "native.h"

#include <pythread.h>
#include <time.h>

/* One who waits, on the stack of his thread. Read and written under the interpreter's lock. */
typedef struct Waiting {
    struct Waiting *next;
    PyThread_type_lock gate; /* opened once, when the lock is his */
    unsigned long thread;
    int handed_over;
} Waiting;

typedef struct {
    PyObject_HEAD
    unsigned long owner; /* a thread's number; means something only while depth > 0 */
    unsigned long depth; /* how many times the owner has taken it */
    Waiting *first;
    Waiting *last;
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
    if (self->depth > 0 && self->owner != me) {
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
    if (--self->depth == 0 && self->first != NULL) {
        Waiting *next = self->first;
        self->first = next->next;
        self->last = self->first == NULL ? NULL : self->last;
        self->owner = next->thread;
        self->depth = 1;
        next->handed_over = 1;
        PyThread_release_lock(next->gate);
    }
    return 0;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void join_queue(OwnedLock *self, Waiting *waiting) {
    if (self->last == NULL) {
        self->first = waiting;
    } else {
        self->last->next = waiting;
    }
    self->last = waiting;
}

static void leave_queue(OwnedLock *self, const Waiting *waiting) {
    Waiting *before = NULL;
    for (Waiting *each = self->first; each != NULL; before = each, each = each->next) {
        if (each == waiting) {
            *(before == NULL ? &self->first : &before->next) = each->next;
            self->last = self->last == each ? before : self->last;
            return;
        }
    }
}

/* Sleep until the lock is handed over: 1 then, 0 when `deadline` came first, -1 on an error, which a
 * signal's handler may have raised. A negative deadline never comes. */
static int sleep_in_queue(OwnedLock *self, Waiting *waiting, double deadline) {
    while (!waiting->handed_over) {
        PY_TIMEOUT_T microseconds = -1;
        if (deadline >= 0) {
            double left = (deadline - seconds_now()) * 1e6;
            if (left <= 0) {
                return 0;
            }
            microseconds = left < 1e15 ? (PY_TIMEOUT_T)left + 1 : -1;
        }
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(waiting->gate, microseconds, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_INTR && !waiting->handed_over) {
            /* Not in the queue while handlers run: the lock would be handed to one who cannot use
             * it, and a handler that wants it would wait for its own thread. */
            leave_queue(self, waiting);
            if (Py_MakePendingCalls() < 0) {
                return -1;
            }
            if (self->depth == 0) {
                self->owner = waiting->thread;
                self->depth = 1;
                return 1;
            }
            waiting->next = self->first; /* it keeps its turn */
            self->first = waiting;
            self->last = self->last == NULL ? waiting : self->last;
        }
    }
    return 1;
}

/* 1 when it is held now, 0 when `deadline` came first, -1 on an error. */
static int take_lock(PyObject *object, double deadline) {
    if (owned_lock_try(object)) {
        return 1;
    }
    OwnedLock *self = (OwnedLock *)object;
    Waiting waiting = {.gate = PyThread_allocate_lock(), .thread = PyThread_get_thread_ident()};
    if (waiting.gate == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "no memory for a lock");
        return -1;
    }
    PyThread_acquire_lock(waiting.gate, NOWAIT_LOCK);
    join_queue(self, &waiting);
    int got = sleep_in_queue(self, &waiting, deadline);
    if (waiting.handed_over) {
        got = 1;
    } else {
        leave_queue(self, &waiting);
    }
    /* It is freed unlocked. Whoever opened it is through with it: he held the interpreter. */
    PyThread_acquire_lock(waiting.gate, NOWAIT_LOCK);
    PyThread_release_lock(waiting.gate);
    PyThread_free_lock(waiting.gate);
    return got;
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

/* In a forked child: nobody holds it, and those who waited are threads that the child does not
 * have. */
static PyObject *lock_renew(PyObject *object, PyObject *nothing) {
    (void)nothing;
    OwnedLock *self = (OwnedLock *)object;
    self->owner = self->depth = 0;
    self->first = self->last = NULL;
    Py_RETURN_NONE;
}

static PyObject *make_lock(PyTypeObject *type, PyObject *args, PyObject *names) {
    if (PyTuple_GET_SIZE(args) != 0 || (names != NULL && PyDict_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "OwnedLock() takes no arguments");
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static void free_lock(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
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
