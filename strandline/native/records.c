/* Stored records: encoding what a checkpoint writes, verifying what LMDB gives back.
 *
 * The layout is that of strandline/engine/records.py: the value first and what describes it
 * last, so that a verified record becomes its value by being cut short where it stands.
 */
#include "native.h"

#include "xxh3.h"

enum {
    DIGEST_BYTES = 8,
    FLAGS_BYTES = 1,
    LSN_BYTES = 8,
    TRAILER_BYTES = LSN_BYTES + FLAGS_BYTES + DIGEST_BYTES,
};

static uint64_t digest_of(uint64_t table_id, PyObject *key, const uint8_t *record, size_t length) {
    uint64_t seed = xxh3_64(PyBytes_AS_STRING(key), (size_t)PyBytes_GET_SIZE(key), table_id);
    return xxh3_64(record, length, seed);
}

/* Whether a record was written for this key, by a version that wrote no flags. */
static int holds(uint64_t table_id, PyObject *key, PyObject *record) {
    Py_ssize_t length = PyBytes_GET_SIZE(record);
    if (length < TRAILER_BYTES) {
        return 0;
    }
    const uint8_t *data = bytes_of(record);
    const uint8_t *digest = data + length - DIGEST_BYTES;
    return digest_of(table_id, key, data, (size_t)(length - DIGEST_BYTES)) == get_be(digest, 8) &&
           digest[-FLAGS_BYTES] == 0;
}

static int parse_table(PyObject *object, uint64_t *table_id) {
    if (!as_u64(object, table_id)) {
        PyErr_SetString(PyExc_TypeError, "table_id: expected an int from 0 to 2**64 - 1");
        return -1;
    }
    return 0;
}

/* ---- writing */

PyObject *encoded_record(uint64_t table_id, PyObject *key, uint64_t lsn, PyObject *value) {
    Py_ssize_t length = PyBytes_GET_SIZE(value);
    PyObject *record = PyBytes_FromStringAndSize(NULL, length + TRAILER_BYTES);
    if (record == NULL) {
        return NULL;
    }
    uint8_t *at = (uint8_t *)PyBytes_AS_STRING(record);
    memcpy(at, PyBytes_AS_STRING(value), (size_t)length);
    put_u64(at + length, lsn);
    at[length + LSN_BYTES] = 0;
    size_t covered = (size_t)(length + LSN_BYTES + FLAGS_BYTES);
    put_be(at + covered, digest_of(table_id, key, at, covered), DIGEST_BYTES);
    return record;
}

PyDoc_STRVAR(encode_slice_doc,
"encode_slice(table_id, keys, entries)\n"
"--\n\n"
"Return (key, record) for each entry with a value; tombstones are passed over.");

static PyObject *encode_slice(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t table_id, lsn;
    if (nargs != 3 || !PyList_CheckExact(args[1]) || !PyList_CheckExact(args[2]) ||
        PyList_GET_SIZE(args[1]) != PyList_GET_SIZE(args[2])) {
        PyErr_SetString(PyExc_TypeError, "encode_slice(table_id, keys: list, entries: as many)");
        return NULL;
    }
    if (parse_table(args[0], &table_id) < 0) {
        return NULL;
    }
    PyObject *items = PyList_New(0);
    for (Py_ssize_t i = 0; items != NULL && i < PyList_GET_SIZE(args[1]); i++) {
        if (i >= PyList_GET_SIZE(args[2])) {
            break; /* a finalizer got at the lists: the caller's own, so it never happens */
        }
        PyObject *key = PyList_GET_ITEM(args[1], i), *entry = PyList_GET_ITEM(args[2], i);
        if (!PyBytes_CheckExact(key) || !PyTuple_CheckExact(entry) ||
            PyTuple_GET_SIZE(entry) < 2 || !as_u64(PyTuple_GET_ITEM(entry, 0), &lsn)) {
            PyErr_SetString(PyExc_TypeError, "expected bytes, and an entry (LSN, value, older)");
            Py_CLEAR(items);
            break;
        }
        PyObject *value = PyTuple_GET_ITEM(entry, 1);
        if (value == Py_None) {
            continue;
        }
        if (!PyBytes_CheckExact(value)) {
            PyErr_SetString(PyExc_TypeError, "expected an entry's value to be bytes or None");
            Py_CLEAR(items);
            break;
        }
        PyObject *record = encoded_record(table_id, key, lsn, value);
        PyObject *item = record == NULL ? NULL : PyTuple_Pack(2, key, record);
        Py_XDECREF(record);
        if (item == NULL || PyList_Append(items, item) < 0) {
            Py_CLEAR(items);
        }
        Py_XDECREF(item);
    }
    return items;
}

/* ---- reading */

PyDoc_STRVAR(verified_doc,
"verified(table_id, key, record)\n"
"--\n\n"
"Return the value in a record, None where the record must be refused.");

static PyObject *verified(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t table_id;
    if (nargs != 3 || !PyBytes_CheckExact(args[1]) || !PyBytes_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "verified(table_id, key: bytes, record: bytes)");
        return NULL;
    }
    if (parse_table(args[0], &table_id) < 0) {
        return NULL;
    }
    if (!holds(table_id, args[1], args[2])) {
        Py_RETURN_NONE;
    }
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(args[2]),
                                     PyBytes_GET_SIZE(args[2]) - TRAILER_BYTES);
}

/* Put a value in the place of the verified record in `item`. Nobody but the list that the item
 * is in may know item and record: then neither is copied. */
static int cut_short(PyObject *list, Py_ssize_t index, PyObject *item) {
    PyObject *key = PyTuple_GET_ITEM(item, 0), *record = PyTuple_GET_ITEM(item, 1);
    Py_ssize_t length = PyBytes_GET_SIZE(record) - TRAILER_BYTES;
    if (Py_REFCNT(item) == 1 && Py_REFCNT(record) == 1) {
        int failed = _PyBytes_Resize(&record, length);
        PyTuple_SET_ITEM(item, 1, failed ? Py_NewRef(Py_None) : record);
        return failed ? -1 : 0;
    }
    PyObject *value = PyBytes_FromStringAndSize(PyBytes_AS_STRING(record), length);
    PyObject *fresh = value == NULL ? NULL : PyTuple_Pack(2, key, value);
    Py_XDECREF(value);
    return fresh == NULL ? -1 : PyList_SetItem(list, index, fresh);
}

PyDoc_STRVAR(verify_items_doc,
"verify_items(table_id, items)\n"
"--\n\n"
"Turn a list of (key, record) that nobody else holds into one of (key, value), in place.\n\n"
"Return the index of the first that must be refused, which is left as it is; -1 if there is none.");

static PyObject *verify_items(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t table_id;
    if (nargs != 2 || !PyList_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "verify_items(table_id, items: list)");
        return NULL;
    }
    if (parse_table(args[0], &table_id) < 0) {
        return NULL;
    }
    PyObject *items = args[1];
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 2 ||
            !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 0)) ||
            !PyBytes_CheckExact(PyTuple_GET_ITEM(item, 1))) {
            PyErr_SetString(PyExc_TypeError, "expected (key, record), both bytes");
            return NULL;
        }
        if (!holds(table_id, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1))) {
            return PyLong_FromSsize_t(i);
        }
        if (cut_short(items, i, item) < 0) {
            return NULL;
        }
    }
    return PyLong_FromLong(-1);
}

/* ---- a reader of one table */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    uint64_t table_id;
    PyObject *database;
    PyObject *pool;    /* a list of bound `get`s of read transactions; each used by one thread */
    PyObject *retired; /* a list: not empty once the view that the pool belongs to is replaced */
    PyObject *slow;    /* slow(key): no transaction is pooled, or the view is retired */
    PyObject *rescue;  /* rescue(error, read, key): a read failed */
    PyObject *drain;   /* drain(): the view was retired while a transaction was in use */
    PyObject *refuse;  /* refuse(key, record): raises, or reads what only Python can */
} StoredGet;

static PyObject *rescued(StoredGet *self, PyObject *read, PyObject *key) {
    PyObject *kind, *error, *trace;
    PyErr_Fetch(&kind, &error, &trace);
    PyErr_NormalizeException(&kind, &error, &trace);
    if (trace != NULL) {
        PyException_SetTraceback(error, trace);
    }
    PyObject *arguments[] = {error, read, key};
    PyObject *answer = PyObject_Vectorcall(self->rescue, arguments, 3, NULL);
    Py_XDECREF(kind);
    Py_XDECREF(error);
    Py_XDECREF(trace);
    return answer;
}

static PyObject *stored_get(PyObject *callable, PyObject *const *args, size_t flags,
                            PyObject *names) {
    StoredGet *self = (StoredGet *)callable;
    if (PyVectorcall_NARGS(flags) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "expected one key");
        return NULL;
    }
    PyObject *key = args[0];
    Py_ssize_t pooled = PyList_GET_SIZE(self->pool);
    if (pooled == 0 || !PyBytes_CheckExact(key)) {
        return PyObject_Vectorcall(self->slow, args, 1, NULL);
    }
    PyObject *read = Py_NewRef(PyList_GET_ITEM(self->pool, pooled - 1));
    if (PyList_SetSlice(self->pool, pooled - 1, pooled, NULL) < 0) {
        Py_DECREF(read);
        return NULL;
    }
    PyObject *arguments[] = {key, Py_None, self->database};
    PyObject *record = PyObject_Vectorcall(read, arguments, 3, NULL);
    if (record == NULL) {
        PyObject *answer = rescued(self, read, key);
        Py_DECREF(read);
        return answer;
    }
    int kept = PyList_Append(self->pool, read);
    Py_DECREF(read);
    if (kept < 0) {
        Py_DECREF(record);
        return NULL;
    }
    if (PyList_GET_SIZE(self->retired) != 0) {
        PyObject *nothing = PyObject_CallNoArgs(self->drain);
        if (nothing == NULL) {
            Py_DECREF(record);
            return NULL;
        }
        Py_DECREF(nothing);
    }
    if (record == Py_None) {
        return record;
    }
    if (PyBytes_CheckExact(record) && holds(self->table_id, key, record)) {
        Py_ssize_t length = PyBytes_GET_SIZE(record) - TRAILER_BYTES;
        if (Py_REFCNT(record) == 1) {
            _PyBytes_Resize(&record, length);
            return record;
        }
        PyObject *value = PyBytes_FromStringAndSize(PyBytes_AS_STRING(record), length);
        Py_DECREF(record);
        return value;
    }
    PyObject *refused[] = {key, record};
    PyObject *answer = PyObject_Vectorcall(self->refuse, refused, 2, NULL);
    Py_DECREF(record);
    return answer;
}

static int visit_get(PyObject *object, visitproc visit, void *arg) {
    StoredGet *self = (StoredGet *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->database);
    Py_VISIT(self->pool);
    Py_VISIT(self->retired);
    Py_VISIT(self->slow);
    Py_VISIT(self->rescue);
    Py_VISIT(self->drain);
    Py_VISIT(self->refuse);
    return 0;
}

static int clear_get(PyObject *object) {
    StoredGet *self = (StoredGet *)object;
    Py_CLEAR(self->database);
    Py_CLEAR(self->pool);
    Py_CLEAR(self->retired);
    Py_CLEAR(self->slow);
    Py_CLEAR(self->rescue);
    Py_CLEAR(self->drain);
    Py_CLEAR(self->refuse);
    return 0;
}

static void free_get(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear_get(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *make_get(PyTypeObject *type, PyObject *args, PyObject *names) {
    unsigned long long table_id;
    PyObject *database, *pool, *retired, *slow, *rescue, *drain, *refuse;
    static char *arguments[] = {"table_id", "database", "pool",  "retired", "slow",
                                "rescue",   "drain",    "refuse", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, names, "KOO!O!OOOO", arguments, &table_id, &database,
                                     &PyList_Type, &pool, &PyList_Type, &retired, &slow, &rescue,
                                     &drain, &refuse)) {
        return NULL;
    }
    StoredGet *self = (StoredGet *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->call = stored_get;
    self->table_id = table_id;
    self->database = Py_NewRef(database);
    self->pool = Py_NewRef(pool);
    self->retired = Py_NewRef(retired);
    self->slow = Py_NewRef(slow);
    self->rescue = Py_NewRef(rescue);
    self->drain = Py_NewRef(drain);
    self->refuse = Py_NewRef(refuse);
    return (PyObject *)self;
}

static PyMemberDef get_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(StoredGet, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot get_slots[] = {
    {Py_tp_doc, "Reads one table through pooled transactions: call it with a key."},
    {Py_tp_new, make_get},
    {Py_tp_dealloc, free_get},
    {Py_tp_traverse, visit_get},
    {Py_tp_clear, clear_get},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_members, get_members},
    {0, NULL},
};

static PyType_Spec get_spec = {
    .name = "strandline.native._native.StoredGet",
    .basicsize = sizeof(StoredGet),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = get_slots,
};

static PyMethodDef methods[] = {
    {"encode_slice", (PyCFunction)(void (*)(void))encode_slice, METH_FASTCALL, encode_slice_doc},
    {"verified", (PyCFunction)(void (*)(void))verified, METH_FASTCALL, verified_doc},
    {"verify_items", (PyCFunction)(void (*)(void))verify_items, METH_FASTCALL, verify_items_doc},
    {NULL, NULL, 0, NULL},
};

int add_records(PyObject *module) {
    PyObject *type = PyType_FromSpec(&get_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "StoredGet", type) < 0) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    return PyModule_AddFunctions(module, methods);
}
