/* The index: putting the operations of replayed frames, and of batches, into dicts of entries.
 *
 * An entry is a tuple (LSN, value or None, older entry or None); a payload is a msgpack array
 * [commits, tag, key, value, tag, key, value, ...]. What is not a plain put or delete of a known
 * table is left to Python.
 */
#include "native.h"

/* ---- msgpack, as much of it as operations need */

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

static int take(Cursor *cursor, int width, uint64_t *value) {
    if (cursor->end - cursor->at < width) {
        return 0;
    }
    *value = get_be(cursor->at, width);
    cursor->at += width;
    return 1;
}

static int take_int(Cursor *cursor, uint64_t *value) {
    if (!take(cursor, 1, value)) {
        return 0;
    }
    switch (*value) {
    case 0xcc:
        return take(cursor, 1, value);
    case 0xcd:
        return take(cursor, 2, value);
    case 0xce:
        return take(cursor, 4, value);
    case 0xcf:
        return take(cursor, 8, value);
    default:
        return *value < 0x80;
    }
}

static int take_array(Cursor *cursor, uint64_t *length) {
    if (!take(cursor, 1, length)) {
        return 0;
    }
    if (*length == 0xdc || *length == 0xdd) {
        return take(cursor, *length == 0xdc ? 2 : 4, length);
    }
    int fixed = (*length & 0xf0) == 0x90;
    *length &= 0x0f;
    return fixed;
}

typedef struct {
    const char *data; /* NULL stands for nil */
    Py_ssize_t length;
} Bin;

static int take_bin(Cursor *cursor, Bin *bin) {
    uint64_t kind, length;
    if (!take(cursor, 1, &kind)) {
        return 0;
    }
    if (kind == 0xc0) {
        *bin = (Bin){NULL, 0};
        return 1;
    }
    if (kind < 0xc4 || kind > 0xc6 || !take(cursor, 1 << (kind - 0xc4), &length) ||
        length > (uint64_t)(cursor->end - cursor->at)) {
        return 0;
    }
    *bin = (Bin){(const char *)cursor->at, (Py_ssize_t)length};
    cursor->at += length;
    return 1;
}

/* The commit marks: nil, or ints that a replay, which takes whole frames, need not look at. */
static int take_marks(Cursor *cursor) {
    uint64_t length, mark;
    if (cursor->at < cursor->end && *cursor->at == 0xc0) {
        cursor->at++;
        return 1;
    }
    if (!take_array(cursor, &length)) {
        return 0;
    }
    while (length-- > 0) {
        if (!take_int(cursor, &mark)) {
            return 0;
        }
    }
    return 1;
}

/* ---- replay */

enum { PUT = 1, DELETE = 2, OPERATION_BITS = 3, OPERATION_MASK = 7 };

typedef struct {
    PyObject *tables;  /* dict: table id to its dict of entries */
    uint64_t table_id; /* the one looked up last */
    PyObject *entries; /* borrowed; NULL where `table_id` means nothing yet */
} Tables;

static PyObject *entries_of(Tables *tables, uint64_t table_id) {
    if (tables->entries == NULL || tables->table_id != table_id) {
        PyObject *key = PyLong_FromUnsignedLongLong(table_id);
        if (key == NULL) {
            return NULL;
        }
        tables->entries = PyDict_GetItemWithError(tables->tables, key);
        tables->table_id = table_id;
        Py_DECREF(key);
        if (tables->entries != NULL && !PyDict_CheckExact(tables->entries)) {
            tables->entries = NULL;
        }
    }
    return tables->entries;
}

typedef struct {
    uint64_t tag;
    Bin key;
    Bin value;
} Operation;

static int take_operation(Cursor *cursor, Operation *operation) {
    uint64_t tag;
    if (!take_int(cursor, &tag) || !take_bin(cursor, &operation->key) ||
        !take_bin(cursor, &operation->value)) {
        return 0;
    }
    operation->tag = tag;
    uint64_t kind = tag & OPERATION_MASK;
    return operation->key.data != NULL &&
           (kind == PUT ? operation->value.data != NULL
                        : kind == DELETE && operation->value.data == NULL);
}

/* Whether every operation of a frame is a plain one on a known table; -1 on an error. */
static int is_plain(Cursor cursor, uint64_t count, Tables *tables) {
    uint64_t length;
    Operation operation;
    if (!take_array(&cursor, &length) || length != 1 + 3 * count || !take_marks(&cursor)) {
        return 0;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!take_operation(&cursor, &operation)) {
            return 0;
        }
        if (entries_of(tables, operation.tag >> OPERATION_BITS) == NULL) {
            return PyErr_Occurred() ? -1 : 0;
        }
    }
    return cursor.at == cursor.end;
}

static PyObject *new_entry(uint64_t lsn, PyObject *value) {
    PyObject *number = PyLong_FromUnsignedLongLong(lsn);
    PyObject *entry = number == NULL ? NULL : PyTuple_New(3);
    if (entry == NULL) {
        Py_XDECREF(number);
        return NULL;
    }
    PyTuple_SET_ITEM(entry, 0, number);
    PyTuple_SET_ITEM(entry, 1, Py_NewRef(value));
    PyTuple_SET_ITEM(entry, 2, Py_NewRef(Py_None));
    /* It holds nothing that could lead back to it: the collector need not look at it. */
    PyObject_GC_UnTrack(entry);
    return entry;
}

static int put_entry(PyObject *entries, uint64_t lsn, const Operation *operation) {
    int failed = -1;
    PyObject *key = PyBytes_FromStringAndSize(operation->key.data, operation->key.length);
    PyObject *value = operation->value.data == NULL
                          ? Py_NewRef(Py_None)
                          : PyBytes_FromStringAndSize(operation->value.data,
                                                      operation->value.length);
    PyObject *entry = value == NULL ? NULL : new_entry(lsn, value);
    if (key != NULL && entry != NULL) {
        failed = PyDict_SetItem(entries, key, entry);
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    Py_XDECREF(entry);
    return failed;
}

PyDoc_STRVAR(replay_doc,
"replay(frames, at, after_lsn, tables, most)\n"
"--\n\n"
"Put the operations above `after_lsn` of frames[at:] into `tables`, a dict of dicts of entries by\n"
"table id, until they take `most` bytes. Frames are (first LSN, count, payload), in order.\n\n"
"Return (the index of the first frame that was not applied, its keys and values in bytes, new\n"
"entries, operations). It was not applied because it holds what is no plain put or delete of a\n"
"known table, or is not an operation at all; nothing of it was then.");

static PyObject *replay(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t after, most;
    if (nargs != 5 || !PyList_CheckExact(args[0]) || !PyLong_CheckExact(args[1]) ||
        !as_u64(args[2], &after) || !PyDict_CheckExact(args[3]) || !as_u64(args[4], &most)) {
        PyErr_SetString(PyExc_TypeError, "replay(frames: list, at, after_lsn, tables: dict, most)");
        return NULL;
    }
    PyObject *frames = args[0];
    Tables tables = {args[3], 0, NULL};
    uint64_t size = 0, fresh = 0, operations = 0;
    Py_ssize_t at = PyLong_AsSsize_t(args[1]);
    if (at < 0) {
        PyErr_SetString(PyExc_ValueError, "at: expected an index");
        return NULL;
    }
    for (; at < PyList_GET_SIZE(frames) && size < most; at++) {
        PyObject *frame = PyList_GET_ITEM(frames, at);
        uint64_t first, count, length;
        if (!PyTuple_CheckExact(frame) || PyTuple_GET_SIZE(frame) != 3 ||
            !as_u64(PyTuple_GET_ITEM(frame, 0), &first) ||
            !as_u64(PyTuple_GET_ITEM(frame, 1), &count) ||
            !PyBytes_CheckExact(PyTuple_GET_ITEM(frame, 2)) || count > UINT32_MAX) {
            PyErr_SetString(PyExc_TypeError, "expected frames of (first LSN, count, payload)");
            return NULL;
        }
        PyObject *payload = PyTuple_GET_ITEM(frame, 2);
        const uint8_t *data = bytes_of(payload);
        Cursor cursor = {data, data + PyBytes_GET_SIZE(payload)};
        int plain = is_plain(cursor, count, &tables);
        if (plain < 0) {
            return NULL;
        }
        if (!plain || first > UINT64_MAX - count) {
            break;
        }
        take_array(&cursor, &length);
        take_marks(&cursor);
        for (uint64_t lsn = first; lsn < first + count; lsn++) {
            Operation operation;
            take_operation(&cursor, &operation);
            if (lsn <= after) {
                continue;
            }
            PyObject *entries = entries_of(&tables, operation.tag >> OPERATION_BITS);
            Py_ssize_t before = entries == NULL ? 0 : PyDict_GET_SIZE(entries);
            if (entries == NULL || put_entry(entries, lsn, &operation) < 0) {
                return NULL;
            }
            fresh += (uint64_t)(PyDict_GET_SIZE(entries) - before);
            size += (uint64_t)(operation.key.length + operation.value.length);
            operations++;
        }
    }
    return Py_BuildValue("nKKK", at, (unsigned long long)size, (unsigned long long)fresh,
                         (unsigned long long)operations);
}

/* ---- batches */

PyDoc_STRVAR(raw_items_doc,
"raw_items(items, max_value_bytes)\n"
"--\n\n"
"Return (keys, values, their bytes) of a dict, list or tuple of acceptable keys and values that are\n"
"exact bytes; None where Python has to look, which also says what is wrong.");

enum { MAX_KEY_BYTES = 511 };

static int is_acceptable(PyObject *key, PyObject *value, uint64_t most) {
    return PyBytes_CheckExact(key) && PyBytes_CheckExact(value) && PyBytes_GET_SIZE(key) > 0 &&
           PyBytes_GET_SIZE(key) <= MAX_KEY_BYTES && (uint64_t)PyBytes_GET_SIZE(value) <= most;
}

/* Borrowed key and value of one element of a list or tuple; 0 where it is no pair. */
static int pair_of(PyObject *element, PyObject **key, PyObject **value) {
    if (!PyTuple_CheckExact(element) || PyTuple_GET_SIZE(element) != 2) {
        return 0;
    }
    *key = PyTuple_GET_ITEM(element, 0);
    *value = PyTuple_GET_ITEM(element, 1);
    return 1;
}

static PyObject *raw_items(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t most, size = 0;
    if (nargs != 2 || !as_u64(args[1], &most)) {
        PyErr_SetString(PyExc_TypeError, "raw_items(items, max_value_bytes)");
        return NULL;
    }
    PyObject *items = args[0], *key = NULL, *value = NULL;
    int is_dict = PyDict_CheckExact(items);
    if (!is_dict && !PyList_CheckExact(items) && !PyTuple_CheckExact(items)) {
        Py_RETURN_NONE;
    }
    Py_ssize_t count = is_dict ? PyDict_GET_SIZE(items) : PySequence_Fast_GET_SIZE(items);
    Py_ssize_t position = 0;
    PyObject *keys = PyList_New(count), *values = PyList_New(count);
    if (keys == NULL || values == NULL) {
        Py_XDECREF(keys);
        Py_XDECREF(values);
        return NULL;
    }
    if (count != (is_dict ? PyDict_GET_SIZE(items) : PySequence_Fast_GET_SIZE(items))) {
        /* Making the lists called the collector, and a finalizer changed the caller's. */
        Py_DECREF(keys);
        Py_DECREF(values);
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        int found = is_dict ? PyDict_Next(items, &position, &key, &value)
                            : pair_of(PySequence_Fast_GET_ITEM(items, i), &key, &value);
        if (!found || !is_acceptable(key, value, most)) {
            Py_DECREF(keys);
            Py_DECREF(values);
            Py_RETURN_NONE;
        }
        PyList_SET_ITEM(keys, i, Py_NewRef(key));
        PyList_SET_ITEM(values, i, Py_NewRef(value));
        size += (uint64_t)(PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value));
    }
    return Py_BuildValue("NNK", keys, values, (unsigned long long)size);
}

PyDoc_STRVAR(make_batch_doc,
"make_batch(keys, values, first_lsn, put_tag, delete_tag)\n"
"--\n\n"
"Return the flat list of the operations and a dict of their entries; a value of None deletes.");

static PyObject *make_batch(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t lsn;
    if (nargs != 5 || !PyList_CheckExact(args[0]) || !PyList_CheckExact(args[1]) ||
        PyList_GET_SIZE(args[0]) != PyList_GET_SIZE(args[1]) || !as_u64(args[2], &lsn)) {
        PyErr_SetString(PyExc_TypeError, "make_batch(keys, values, first_lsn, put_tag, delete_tag)");
        return NULL;
    }
    PyObject *keys = args[0], *values = args[1];
    Py_ssize_t count = PyList_GET_SIZE(keys);
    PyObject *flat = PyList_New(3 * count), *fresh = PyDict_New();
    if (flat == NULL || fresh == NULL) {
        goto failed;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        /* The lists are the write's own: nobody changes them while entries are made. */
        PyObject *key = PyList_GET_ITEM(keys, i), *value = PyList_GET_ITEM(values, i);
        PyObject *entry = new_entry(lsn + (uint64_t)i, value);
        if (entry == NULL || PyDict_SetItem(fresh, key, entry) < 0) {
            Py_XDECREF(entry);
            goto failed;
        }
        Py_DECREF(entry);
        PyList_SET_ITEM(flat, 3 * i, Py_NewRef(args[value == Py_None ? 4 : 3]));
        PyList_SET_ITEM(flat, 3 * i + 1, Py_NewRef(key));
        PyList_SET_ITEM(flat, 3 * i + 2, Py_NewRef(value));
    }
    return Py_BuildValue("NN", flat, fresh);
failed:
    Py_XDECREF(flat);
    Py_XDECREF(fresh);
    return NULL;
}

PyDoc_STRVAR(install_doc,
"install(entries, fresh, entry_bytes)\n"
"--\n\n"
"Put fresh entries into a dict of entries, over older ones; return by how many bytes that grew,\n"
"each entry counted with `entry_bytes` beside its key and value. Doing it twice changes nothing.");

static int64_t value_bytes(PyObject *entry) {
    PyObject *value = PyTuple_GET_ITEM(entry, 1);
    return PyBytes_CheckExact(value) ? (int64_t)PyBytes_GET_SIZE(value) : 0;
}

static int lsn_of(PyObject *entry, uint64_t *lsn) {
    return PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 3 &&
           as_u64(PyTuple_GET_ITEM(entry, 0), lsn);
}

static PyObject *install(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t entry_bytes, lsn, old_lsn;
    if (nargs != 3 || !PyDict_CheckExact(args[0]) || !PyDict_CheckExact(args[1]) ||
        !as_u64(args[2], &entry_bytes)) {
        PyErr_SetString(PyExc_TypeError, "install(entries: dict, fresh: dict, entry_bytes)");
        return NULL;
    }
    PyObject *entries = args[0], *fresh = args[1], *key, *entry;
    Py_ssize_t position = 0;
    int64_t grown = 0;
    while (PyDict_Next(fresh, &position, &key, &entry)) {
        if (!PyBytes_CheckExact(key) || !lsn_of(entry, &lsn)) {
            PyErr_SetString(PyExc_TypeError, "expected a dict of bytes to entries");
            return NULL;
        }
        Py_ssize_t before = PyDict_GET_SIZE(entries);
        PyObject *old = PyDict_SetDefault(entries, key, entry);
        if (old == NULL) {
            return NULL;
        }
        if (PyDict_GET_SIZE(entries) != before) {
            grown += (int64_t)entry_bytes + (int64_t)PyBytes_GET_SIZE(key) + value_bytes(entry);
        } else if (lsn_of(old, &old_lsn) && old_lsn < lsn) {
            grown += value_bytes(entry) - value_bytes(old);
            if (PyDict_SetItem(entries, key, entry) < 0) {
                return NULL;
            }
        }
    }
    return PyLong_FromLongLong(grown);
}

static PyMethodDef methods[] = {
    {"install", (PyCFunction)(void (*)(void))install, METH_FASTCALL, install_doc},
    {"make_batch", (PyCFunction)(void (*)(void))make_batch, METH_FASTCALL, make_batch_doc},
    {"raw_items", (PyCFunction)(void (*)(void))raw_items, METH_FASTCALL, raw_items_doc},
    {"replay", (PyCFunction)(void (*)(void))replay, METH_FASTCALL, replay_doc},
    {NULL, NULL, 0, NULL},
};

int add_index(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
