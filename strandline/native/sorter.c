/* A frozen layer on its way to LMDB: its entries sorted, then encoded slice by slice.
 *
 * What is gathered is held here and not in lists, so that sorting can do without the
 * interpreter. Encoding goes through memory in the order of keys, which is no order at all:
 * what the next entries need is fetched ahead.
 */
#include "native.h"

#include <stdlib.h>

typedef struct {
    PyObject_HEAD
    Slot *slots;
    size_t capacity;
    size_t count;
    size_t taken; /* slots before it have given up what they held */
    Py_ssize_t position;
    int sorting;
} Sorter;

enum { AHEAD = 12, NEAR = 6, LINE = 64 };

static int is_entry(PyObject *key, PyObject *entry) {
    return PyBytes_CheckExact(key) && PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 3 &&
           PyLong_CheckExact(PyTuple_GET_ITEM(entry, 0)) &&
           (PyTuple_GET_ITEM(entry, 1) == Py_None || PyBytes_CheckExact(PyTuple_GET_ITEM(entry, 1)));
}

PyDoc_STRVAR(gather_doc,
"gather(entries, most)\n"
"--\n\n"
"Take in up to `most` more entries of a dict that does not change; False when all are in.");

static PyObject *gather(PyObject *object, PyObject *args) {
    Sorter *self = (Sorter *)object;
    PyObject *entries, *key, *entry;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "O!n", &PyDict_Type, &entries, &most)) {
        return NULL;
    }
    size_t whole = (size_t)PyDict_GET_SIZE(entries);
    if (self->slots == NULL) {
        self->slots = malloc((whole + 1) * sizeof(Slot));
        self->capacity = whole;
        if (self->slots == NULL) {
            return PyErr_NoMemory();
        }
    }
    if (self->sorting || self->taken || self->capacity != whole) {
        PyErr_SetString(PyExc_RuntimeError, "gather() after sort(), or from a dict that changed");
        return NULL;
    }
    while (self->count < whole && most-- > 0) {
        if (!PyDict_Next(entries, &self->position, &key, &entry) || !is_entry(key, entry)) {
            PyErr_SetString(PyExc_TypeError, "expected a dict of bytes to entries");
            return NULL;
        }
        self->slots[self->count++] = (Slot){0, Py_NewRef(key), Py_NewRef(entry)};
    }
    return PyBool_FromLong(self->count < whole);
}

PyDoc_STRVAR(sort_doc,
"sort()\n"
"--\n\n"
"Put what was gathered in the order of its keys, without the interpreter.");

static PyObject *sort(PyObject *object, PyObject *nothing) {
    (void)nothing;
    Sorter *self = (Sorter *)object;
    if (self->sorting || self->taken) {
        PyErr_SetString(PyExc_RuntimeError, "sort() is called once, before encode()");
        return NULL;
    }
    Slot *spare = malloc((self->count + 1) * sizeof(Slot));
    if (spare == NULL) {
        return PyErr_NoMemory();
    }
    self->sorting = 1;
    Py_BEGIN_ALLOW_THREADS /* keys are held, and bytes do not change */
    sort_slots(self->slots, spare, self->count);
    Py_END_ALLOW_THREADS
    self->sorting = 0;
    free(spare);
    Py_RETURN_NONE;
}

/* Add one entry to the rows, or to the keys that are deleted. */
static int encode_one(const Slot *slot, uint64_t table_id, PyObject *items, PyObject *gone) {
    uint64_t lsn;
    PyObject *value = PyTuple_GET_ITEM(slot->entry, 1);
    if (value == Py_None) {
        return PyList_Append(gone, slot->key);
    }
    if (!as_u64(PyTuple_GET_ITEM(slot->entry, 0), &lsn)) {
        PyErr_SetString(PyExc_ValueError, "expected an LSN below 2**64");
        return -1;
    }
    PyObject *record = encoded_record(table_id, slot->key, lsn, value);
    PyObject *item = record == NULL ? NULL : PyTuple_Pack(2, slot->key, record);
    int failed = item == NULL ? -1 : PyList_Append(items, item);
    Py_XDECREF(record);
    Py_XDECREF(item);
    return failed;
}

PyDoc_STRVAR(encode_doc,
"encode(table_id, most)\n"
"--\n\n"
"Return the next entries, up to `most`, as ([(key, record)], [deleted key]); both empty at the end.");

static PyObject *encode(PyObject *object, PyObject *args) {
    Sorter *self = (Sorter *)object;
    unsigned long long table_id;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "Kn", &table_id, &most)) {
        return NULL;
    }
    if (self->sorting) {
        PyErr_SetString(PyExc_RuntimeError, "encode() while sort() is under way");
        return NULL;
    }
    PyObject *items = PyList_New(0), *gone = PyList_New(0);
    if (items == NULL || gone == NULL) {
        goto failed;
    }
    while (self->taken < self->count && most-- > 0) {
        if (self->count - self->taken > AHEAD) {
            FETCH(self->slots[self->taken + AHEAD].key);
            FETCH(self->slots[self->taken + AHEAD].entry);
        }
        if (self->count - self->taken > NEAR) {
            PyObject *near = self->slots[self->taken + NEAR].entry;
            const char *value = (const char *)PyTuple_GET_ITEM(near, 1);
            FETCH(PyTuple_GET_ITEM(near, 0));
            FETCH(value);
            FETCH(value + LINE);
            FETCH(value + 2 * LINE);
        }
        Slot slot = self->slots[self->taken];
        if (encode_one(&slot, table_id, items, gone) < 0) {
            goto failed;
        }
        self->taken++;
        Py_DECREF(slot.key);
        Py_DECREF(slot.entry);
    }
    return Py_BuildValue("NN", items, gone);
failed:
    Py_XDECREF(items);
    Py_XDECREF(gone);
    return NULL;
}

static void free_sorter(PyObject *object) {
    Sorter *self = (Sorter *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (size_t i = self->taken; i < self->count; i++) {
        Py_DECREF(self->slots[i].key);
        Py_DECREF(self->slots[i].entry);
    }
    free(self->slots);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef sorter_methods[] = {
    {"gather", gather, METH_VARARGS, gather_doc},
    {"sort", sort, METH_NOARGS, sort_doc},
    {"encode", encode, METH_VARARGS, encode_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sorter_slots[] = {
    {Py_tp_doc, "Sorts the entries of one frozen layer and encodes them; for one thread."},
    {Py_tp_dealloc, free_sorter},
    {Py_tp_methods, sorter_methods},
    {Py_tp_new, PyType_GenericNew},
    {0, NULL},
};

static PyType_Spec sorter_spec = {
    .name = "strandline.native._native.Sorter",
    .basicsize = sizeof(Sorter),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = sorter_slots,
};

int add_sorter(PyObject *module) {
    PyObject *type = PyType_FromSpec(&sorter_spec);
    if (type == NULL) {
        return -1;
    }
    int failed = PyModule_AddObjectRef(module, "Sorter", type);
    Py_DECREF(type);
    return failed;
}
