/* Keys in order: sorting them without the interpreter, and merging sorted runs with stored rows.
 */
#include "native.h"

#include <stdlib.h>

/* ---- sorting */

enum { FEW = 24, WINDOW = 8 };

static int compare_keys(PyObject *one, PyObject *other) {
    Py_ssize_t n = PyBytes_GET_SIZE(one), m = PyBytes_GET_SIZE(other);
    int order = memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other), (size_t)(n < m ? n : m));
    return order != 0 ? order : (n > m) - (n < m);
}

static uint64_t window_at(PyObject *key, Py_ssize_t depth) {
    uint8_t padded[WINDOW] = {0};
    Py_ssize_t left = PyBytes_GET_SIZE(key) - depth;
    if (left > 0) {
        memcpy(padded, PyBytes_AS_STRING(key) + depth, (size_t)(left < WINDOW ? left : WINDOW));
    }
    return get_be(padded, WINDOW);
}

static void sort_few(Slot *slots, size_t count) {
    for (size_t i = 1; i < count; i++) {
        Slot moving = slots[i];
        size_t j = i;
        while (j > 0 && compare_keys(slots[j - 1].key, moving.key) > 0) {
            slots[j] = slots[j - 1];
            j--;
        }
        slots[j] = moving;
    }
}

/* By window alone, a byte at a time from the last; bytes that are the same everywhere cost only
 * their count. The result is in `slots`. */
static void sort_windows(Slot *slots, Slot *spare, size_t count) {
    Slot *from = slots, *to = spare;
    for (int shift = 0; shift < 64; shift += 8) {
        size_t places[256] = {0};
        for (size_t i = 0; i < count; i++) {
            places[from[i].window >> shift & 0xff]++;
        }
        if (places[from[0].window >> shift & 0xff] == count) {
            continue;
        }
        size_t place = 0;
        for (int byte = 0; byte < 256; byte++) {
            size_t here = places[byte];
            places[byte] = place;
            place += here;
        }
        for (size_t i = 0; i < count; i++) {
            to[places[from[i].window >> shift & 0xff]++] = from[i];
        }
        Slot *swapped = from;
        from = to;
        to = swapped;
    }
    if (from != slots) {
        memcpy(slots, from, count * sizeof(Slot));
    }
}

static int by_length(const void *one, const void *other) {
    Py_ssize_t n = PyBytes_GET_SIZE(((const Slot *)one)->key);
    Py_ssize_t m = PyBytes_GET_SIZE(((const Slot *)other)->key);
    return (n > m) - (n < m);
}

/* Sort keys that are the same up to `depth`. */
static void sort_from(Slot *slots, Slot *spare, size_t count, Py_ssize_t depth) {
    while (count > FEW) {
        for (size_t i = 0; i < count; i++) {
            slots[i].window = window_at(slots[i].key, depth);
        }
        sort_windows(slots, spare, count);
        depth += WINDOW;
        size_t begin = 0;
        while (begin < count) {
            size_t end = begin + 1;
            while (end < count && slots[end].window == slots[begin].window) {
                end++;
            }
            /* Keys that end within the window are prefixes of those that go on: they come first,
             * the shorter before the longer. */
            size_t ended = begin;
            for (size_t i = begin; end - begin > 1 && i < end; i++) {
                if (PyBytes_GET_SIZE(slots[i].key) <= depth) {
                    Slot shorter = slots[i];
                    slots[i] = slots[ended];
                    slots[ended++] = shorter;
                }
            }
            qsort(slots + begin, ended - begin, sizeof(Slot), by_length);
            if (end - begin == count && ended == begin) {
                break; /* all are the same so far: go on in this loop, not one call deeper */
            }
            if (end - ended > 1) {
                sort_from(slots + ended, spare + ended, end - ended, depth);
            }
            begin = end;
        }
        if (begin >= count) {
            return;
        }
    }
    sort_few(slots, count);
}

void sort_slots(Slot *slots, Slot *spare, size_t count) {
    sort_from(slots, spare, count, 0);
}

PyDoc_STRVAR(sort_keys_doc,
"sort_keys(keys)\n"
"--\n\n"
"Sort a list of bytes in place, without the interpreter: nobody else may hold the list.");

static PyObject *sort_keys(PyObject *module, PyObject *list) {
    (void)module;
    if (!PyList_CheckExact(list)) {
        PyErr_SetString(PyExc_TypeError, "expected a list");
        return NULL;
    }
    size_t count = (size_t)PyList_GET_SIZE(list);
    Slot *slots = malloc((2 * count + 1) * sizeof(Slot));
    if (slots == NULL) {
        return PyErr_NoMemory();
    }
    for (size_t i = 0; i < count; i++) {
        slots[i].key = PyList_GET_ITEM(list, (Py_ssize_t)i);
    }
    size_t exact = 0;
    Py_BEGIN_ALLOW_THREADS /* the list keeps its keys, and bytes do not change */
    while (exact < count && PyBytes_CheckExact(slots[exact].key)) {
        exact++;
    }
    if (exact == count) {
        sort_slots(slots, slots + count, count);
    }
    Py_END_ALLOW_THREADS
    if (exact < count || (size_t)PyList_GET_SIZE(list) != count) {
        free(slots);
        PyErr_SetString(PyExc_TypeError, "expected a list of bytes that nobody changes");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        PyList_SET_ITEM(list, (Py_ssize_t)i, slots[i].key);
    }
    free(slots);
    Py_RETURN_NONE;
}

/* ---- merging */

enum { LOOKED_UP = 8 };

typedef struct {
    PyObject *rows;    /* a list: of keys, or of (key, value) where `entries` is NULL */
    PyObject *entries; /* the layer's dict; borrowed */
    Py_ssize_t at;
    Py_ssize_t end; /* one step past the last */
    int step;
    /* The entries of the keys from `at` on, held. They are looked up several at a time, so that
     * the processor waits for the memory of all at once. */
    PyObject *found[LOOKED_UP];
    int next;
    int held;
} Source;

static PyObject *key_at(const Source *source, Py_ssize_t index) {
    PyObject *row = PyList_GET_ITEM(source->rows, index);
    return source->entries == NULL ? PyTuple_GET_ITEM(row, 0) : row;
}

/* The first index of a sorted run whose key is not below `bound`. */
static Py_ssize_t lower(PyObject *run, PyObject *bound) {
    Py_ssize_t low = 0, high = PyList_GET_SIZE(run);
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (compare_keys(PyList_GET_ITEM(run, middle), bound) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Borrowed: what a reader at `version` sees of an entry and those below it, NULL for nothing. */
static PyObject *seen(PyObject *entry, uint64_t version) {
    uint64_t lsn;
    while (entry != NULL && PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 3) {
        if (!as_u64(PyTuple_GET_ITEM(entry, 0), &lsn)) {
            break;
        }
        if (lsn <= version) {
            return PyTuple_GET_ITEM(entry, 1);
        }
        entry = PyTuple_GET_ITEM(entry, 2);
    }
    return NULL;
}

static int look_up(Source *source) {
    Py_ssize_t left = (source->end - source->at) * source->step;
    int count = left < LOOKED_UP ? (int)left : LOOKED_UP;
    source->next = source->held = 0;
    for (int i = 0; i < count; i++) {
        PyObject *key = PyList_GET_ITEM(source->rows, source->at + i * source->step);
        PyObject *entry = PyDict_GetItemWithError(source->entries, key);
        if (entry == NULL && PyErr_Occurred()) {
            source->held = 0; /* nothing is held yet */
            return -1;
        }
        if (entry != NULL) {
            FETCH(entry);
        }
        source->found[source->held++] = entry;
    }
    for (int i = 0; i < count; i++) {
        PyObject *entry = Py_XNewRef(source->found[i]);
        if (entry != NULL && PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 3) {
            FETCH(PyTuple_GET_ITEM(entry, 0));
            FETCH(PyTuple_GET_ITEM(entry, 1));
        }
        if (left > LOOKED_UP + i) {
            FETCH(PyList_GET_ITEM(source->rows, source->at + (LOOKED_UP + i) * source->step));
        }
    }
    return 0;
}

/* A new reference to the entry of the source's next key, which is passed over; NULL for none. */
static PyObject *take_entry(Source *source, int *failed) {
    if (source->next == source->held && look_up(source) < 0) {
        *failed = 1;
        return NULL;
    }
    return source->found[source->next++];
}

static void let_go(Source *source) {
    while (source->next < source->held) {
        Py_XDECREF(source->found[source->next++]);
    }
}

static int is_bytes_list(PyObject *run) {
    /* The first and the last stand for all: runs are made by sort_keys, which checked each. */
    Py_ssize_t length = PyList_CheckExact(run) ? PyList_GET_SIZE(run) : -1;
    return length == 0 || (length > 0 && PyBytes_CheckExact(PyList_GET_ITEM(run, 0)) &&
                           PyBytes_CheckExact(PyList_GET_ITEM(run, length - 1)));
}

static int is_rows_list(PyObject *rows) {
    if (!PyList_CheckExact(rows)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(rows); i++) {
        PyObject *row = PyList_GET_ITEM(rows, i);
        if (!PyTuple_CheckExact(row) || PyTuple_GET_SIZE(row) != 2 ||
            !PyBytes_CheckExact(PyTuple_GET_ITEM(row, 0))) {
            return 0;
        }
    }
    return 1;
}

/* How many sources all layers and the stored rows can be; -1 where they are no layers. */
static Py_ssize_t most_sources(PyObject *layers) {
    Py_ssize_t most = 1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(layers); i++) {
        PyObject *layer = PyList_GET_ITEM(layers, i);
        if (!PyTuple_CheckExact(layer) || PyTuple_GET_SIZE(layer) != 2 ||
            !PyDict_CheckExact(PyTuple_GET_ITEM(layer, 0)) ||
            !PyTuple_CheckExact(PyTuple_GET_ITEM(layer, 1))) {
            return -1;
        }
        most += PyTuple_GET_SIZE(PyTuple_GET_ITEM(layer, 1));
    }
    return most;
}

/* Add the runs of one layer; returns how many sources there are, -1 where a run is none. */
static int add_layer(Source *sources, int count, PyObject *layer, PyObject *start, PyObject *stop,
                     int reverse) {
    PyObject *runs = PyTuple_GET_ITEM(layer, 1);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(runs); i++) {
        PyObject *run = PyTuple_GET_ITEM(runs, i);
        if (!is_bytes_list(run)) {
            return -1;
        }
        Py_ssize_t low = start == Py_None ? 0 : lower(run, start);
        Py_ssize_t high = stop == Py_None ? PyList_GET_SIZE(run) : lower(run, stop);
        if (low < high) {
            sources[count++] = (Source){
                .rows = run,
                .entries = PyTuple_GET_ITEM(layer, 0),
                .at = reverse ? high - 1 : low,
                .end = reverse ? low - 1 : high,
                .step = reverse ? -1 : 1,
            };
        }
    }
    return count;
}

/* Append (key, value), taking over nothing. */
static int append_pair(PyObject *items, PyObject *key, PyObject *value) {
    PyObject *pair = PyTuple_Pack(2, key, value);
    int failed = pair == NULL ? -1 : PyList_Append(items, pair);
    Py_XDECREF(pair);
    return failed;
}

/* Merge until `limit` rows are found or a source that has more elsewhere is used up. */
static int merge_sources(Source *sources, int count, PyObject *bound, uint64_t version,
                         Py_ssize_t limit, int reverse, PyObject *items, PyObject **stopped) {
    int sign = reverse ? -1 : 1;
    while (PyList_GET_SIZE(items) < limit) {
        PyObject *next = NULL;
        for (int i = 0; i < count; i++) {
            if (sources[i].at != sources[i].end) {
                PyObject *key = key_at(&sources[i], sources[i].at);
                if (next == NULL || compare_keys(key, next) * sign < 0) {
                    next = key;
                }
            }
        }
        if (next == NULL || (bound != Py_None && compare_keys(next, bound) * sign > 0)) {
            *stopped = bound;
            return 0;
        }
        PyObject *shown = NULL; /* the newest entry that is visible; held */
        PyObject *value = NULL; /* what it says */
        PyObject *row = NULL;   /* the stored row, where it is the one that counts */
        int failed = 0;
        for (int i = 0; i < count && !failed; i++) {
            Source *source = &sources[i];
            /* All of them, should a run ever hold a key twice. */
            while (!failed && source->at != source->end &&
                   compare_keys(key_at(source, source->at), next) == 0) {
                if (source->entries == NULL) {
                    row = value == NULL ? PyList_GET_ITEM(source->rows, source->at) : NULL;
                } else {
                    PyObject *entry = take_entry(source, &failed);
                    if (value == NULL && (value = seen(entry, version)) != NULL) {
                        shown = entry;
                    } else {
                        Py_XDECREF(entry);
                    }
                }
                source->at += source->step;
            }
        }
        *stopped = next;
        if (!failed && row != NULL) {
            failed = PyList_Append(items, row);
        } else if (!failed && value != NULL && value != Py_None) {
            failed = append_pair(items, next, value);
        }
        Py_XDECREF(shown);
        if (failed) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(merge_chunk_doc,
"merge_chunk(stored, bound, layers, version, start, stop, limit, reverse)\n"
"--\n\n"
"Lay layers, newest first, over stored rows; return (rows, key to go on behind, None at the end).");

static PyObject *merge_chunk(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    uint64_t version, limit;
    if (nargs != 8 || !is_rows_list(args[0]) ||
        !(args[1] == Py_None || PyBytes_CheckExact(args[1])) || !PyList_CheckExact(args[2]) ||
        !as_u64(args[3], &version) || !(args[4] == Py_None || PyBytes_CheckExact(args[4])) ||
        !(args[5] == Py_None || PyBytes_CheckExact(args[5])) || !as_u64(args[6], &limit) ||
        limit == 0 || limit > PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_TypeError, "merge_chunk: not what strandline.engine.scan hands over");
        return NULL;
    }
    int reverse = PyObject_IsTrue(args[7]), count = 0;
    PyObject *stored = args[0], *bound = args[1], *layers = args[2], *stopped = Py_None;
    Py_ssize_t most = reverse < 0 ? -1 : most_sources(layers);
    PyObject *items = PyList_New(0);
    Source *sources = most < 0 ? NULL : PyMem_Malloc((size_t)most * sizeof(Source));
    for (Py_ssize_t i = 0; sources != NULL && count >= 0 && i < PyList_GET_SIZE(layers); i++) {
        count = add_layer(sources, count, PyList_GET_ITEM(layers, i), args[4], args[5], reverse);
    }
    if (items == NULL || sources == NULL || count < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "merge_chunk: expected layers of (dict, runs)");
        }
        Py_CLEAR(items);
    } else {
        if (PyList_GET_SIZE(stored) != 0) {
            /* Stored rows come in the order of the scan; runs are walked from their end in
             * reverse. */
            sources[count++] = (Source){
                .rows = stored, .end = PyList_GET_SIZE(stored), .step = 1};
        }
        if (merge_sources(sources, count, bound, version, (Py_ssize_t)limit, reverse, items,
                          &stopped) < 0) {
            Py_CLEAR(items);
        }
        for (int i = 0; i < count; i++) {
            let_go(&sources[i]);
        }
    }
    PyMem_Free(sources);
    return items == NULL ? NULL : Py_BuildValue("NO", items, stopped);
}

static PyMethodDef methods[] = {
    {"sort_keys", sort_keys, METH_O, sort_keys_doc},
    {"merge_chunk", (PyCFunction)(void (*)(void))merge_chunk, METH_FASTCALL, merge_chunk_doc},
    {NULL, NULL, 0, NULL},
};

int add_order(PyObject *module) {
    return PyModule_AddFunctions(module, methods);
}
