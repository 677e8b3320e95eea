/* Log frames: encoding a group, and passing over the valid frames in a window.
 *
 * The layout is that of strandline/wal/format.py, and docs/format.md gives every offset. What is
 * not an ordinary data frame is left to the reader in Python: seals, marks, whatever is damaged,
 * and the last frame of a window that does not hold all of it.
 */
#include "native.h"

#include "crc32c.h"

enum {
    HEADER_BYTES = 72,
    ALIGNMENT = 8,
    TYPE_DATA = 0x01,
    CRC_AT = 0,
    PAYLOAD_CRC_AT = 4,
    LENGTH_AT = 8,
    COUNT_AT = 12,
    FIRST_LSN_AT = 16,
    SYNCED_LSN_AT = 24,
    STORED_LSN_AT = 32,
    TIME_AT = 40,
    SEGMENT_AT = 48,
    SALT_AT = 56,
    EPOCH_AT = 64,
    TYPE_AT = 68,
    RESERVED_AT = 70,
};

static const uint64_t MAX_PAYLOAD = ((uint64_t)1 << 31) - 1;
static const uint64_t LSN_LIMIT = (uint64_t)1 << 63;

/* ---- msgpack, as much of it as operations need */

static int int_bytes(uint64_t value) {
    return value < 0x80 ? 1 : value <= 0xff ? 2 : value <= 0xffff ? 3 : value <= UINT32_MAX ? 5 : 9;
}

static uint8_t *put_int(uint8_t *at, uint64_t value) {
    switch (int_bytes(value)) {
    case 1:
        *at = (uint8_t)value;
        return at + 1;
    case 2:
        *at = 0xcc;
        return put_be(at + 1, value, 1);
    case 3:
        *at = 0xcd;
        return put_be(at + 1, value, 2);
    case 5:
        *at = 0xce;
        return put_be(at + 1, value, 4);
    default:
        *at = 0xcf;
        return put_be(at + 1, value, 8);
    }
}

static int array_bytes(Py_ssize_t length) {
    return length < 16 ? 1 : length <= 0xffff ? 3 : 5;
}

static uint8_t *put_array(uint8_t *at, Py_ssize_t length) {
    if (length < 16) {
        *at = (uint8_t)(0x90 | length);
        return at + 1;
    }
    *at = length <= 0xffff ? 0xdc : 0xdd;
    return put_be(at + 1, (uint64_t)length, length <= 0xffff ? 2 : 4);
}

static uint8_t *put_bin(uint8_t *at, PyObject *bytes) {
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    int width = length <= 0xff ? 1 : length <= 0xffff ? 2 : 4;
    *at = width == 1 ? 0xc4 : width == 2 ? 0xc5 : 0xc6;
    at = put_be(at + 1, (uint64_t)length, width);
    memcpy(at, PyBytes_AS_STRING(bytes), (size_t)length);
    return at + length;
}

/* Bytes that one element takes; 0 for what a list of operations never holds. */
static uint64_t element_bytes(PyObject *element) {
    uint64_t value;
    if (element == Py_None) {
        return 1;
    }
    if (PyBytes_CheckExact(element)) {
        uint64_t length = (uint64_t)PyBytes_GET_SIZE(element);
        return length + (length <= 0xff ? 2 : length <= 0xffff ? 3 : 5);
    }
    return as_u64(element, &value) ? (uint64_t)int_bytes(value) : 0;
}

static uint8_t *put_element(uint8_t *at, PyObject *element) {
    uint64_t value = 0;
    if (element == Py_None) {
        *at = 0xc0;
        return at + 1;
    }
    if (PyBytes_CheckExact(element)) {
        return put_bin(at, element);
    }
    as_u64(element, &value);
    return put_int(at, value);
}

/* Bytes that `items` take as msgpack, the commit marks a list of ints; 0 where they are no such. */
static uint64_t payload_bytes(PyObject *const *items, Py_ssize_t length) {
    uint64_t total = (uint64_t)array_bytes(length);
    for (Py_ssize_t i = 0; i < length; i++) {
        PyObject *element = items[i];
        uint64_t taken = element_bytes(element);
        if (taken == 0 && i == 0 && PyList_CheckExact(element)) {
            taken = (uint64_t)array_bytes(PyList_GET_SIZE(element));
            for (Py_ssize_t j = 0; j < PyList_GET_SIZE(element); j++) {
                uint64_t mark;
                if (!as_u64(PyList_GET_ITEM(element, j), &mark)) {
                    return 0;
                }
                taken += (uint64_t)int_bytes(mark);
            }
        }
        if (taken == 0 || total + taken > MAX_PAYLOAD) {
            return 0;
        }
        total += taken;
    }
    return total;
}

static uint8_t *put_payload(uint8_t *at, PyObject *const *items, Py_ssize_t length) {
    at = put_array(at, length);
    for (Py_ssize_t i = 0; i < length; i++) {
        PyObject *element = items[i];
        if (PyList_CheckExact(element)) {
            at = put_array(at, PyList_GET_SIZE(element));
            for (Py_ssize_t j = 0; j < PyList_GET_SIZE(element); j++) {
                at = put_element(at, PyList_GET_ITEM(element, j));
            }
        } else {
            at = put_element(at, element);
        }
    }
    return at;
}

PyObject *encoded_frame(PyObject *const *items, Py_ssize_t elements, const FrameFields *fields) {
    uint64_t length = payload_bytes(items, elements);
    if (length == 0 || fields->count > UINT32_MAX || fields->epoch > UINT32_MAX) {
        return NULL;
    }
    uint64_t whole = (HEADER_BYTES + length + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)whole);
    if (frame == NULL) {
        return NULL;
    }
    uint8_t *head = (uint8_t *)PyBytes_AS_STRING(frame);
    uint8_t *body = head + HEADER_BYTES;
    uint8_t *end = put_payload(body, items, elements);
    memset(end, 0, (size_t)(whole - HEADER_BYTES - length));
    put_u32(head + PAYLOAD_CRC_AT, crc32c(0, body, (size_t)length));
    put_u32(head + LENGTH_AT, (uint32_t)length);
    put_u32(head + COUNT_AT, (uint32_t)fields->count);
    put_u64(head + FIRST_LSN_AT, fields->first_lsn);
    put_u64(head + SYNCED_LSN_AT, fields->synced_lsn);
    put_u64(head + STORED_LSN_AT, fields->stored_lsn);
    put_u64(head + TIME_AT, fields->time_ns);
    put_u64(head + SEGMENT_AT, fields->segment_id);
    put_u64(head + SALT_AT, fields->salt);
    put_u32(head + EPOCH_AT, (uint32_t)fields->epoch);
    head[TYPE_AT] = TYPE_DATA;
    head[TYPE_AT + 1] = 0;
    put_u16(head + RESERVED_AT, 0);
    put_u32(head + CRC_AT, crc32c(0, head + PAYLOAD_CRC_AT, HEADER_BYTES - PAYLOAD_CRC_AT));
    return frame;
}

PyDoc_STRVAR(encode_group_doc,
"encode_group(items, count, first_lsn, synced_lsn, stored_lsn, time_ns, segment_id, salt, epoch)\n"
"--\n\n"
"Return the whole frame of a group, or None where the list holds what operations never do.");

static PyObject *encode_group(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    FrameFields fields;
    if (nargs != 9 || !PyList_CheckExact(args[0]) || !as_u64(args[1], &fields.count) ||
        !as_u64(args[2], &fields.first_lsn) || !as_u64(args[3], &fields.synced_lsn) ||
        !as_u64(args[4], &fields.stored_lsn) || !as_u64(args[5], &fields.time_ns) ||
        !as_u64(args[6], &fields.segment_id) || !as_u64(args[7], &fields.salt) ||
        !as_u64(args[8], &fields.epoch)) {
        Py_RETURN_NONE;
    }
    PyObject *frame =
        encoded_frame(PySequence_Fast_ITEMS(args[0]), PyList_GET_SIZE(args[0]), &fields);
    return frame != NULL || PyErr_Occurred() ? frame : Py_NewRef(Py_None);
}

/* ---- reading */

typedef struct {
    const uint8_t *data;
    uint64_t length;
    uint64_t at;
    uint64_t lsn;
    uint64_t segment_id;
    uint64_t salt;
    uint64_t epoch;
} Window;

/* Where the payload of the ordinary frame at `at` ends; 0 if there is no such frame, or not all
 * of it. The same checks as in SegmentReader, in the same order. */
static uint64_t ordinary_frame(const Window *window) {
    uint64_t at = window->at;
    if (at > window->length || window->length - at < HEADER_BYTES) {
        return 0;
    }
    const uint8_t *head = window->data + at;
    if (get_u32(head + CRC_AT) !=
            crc32c(0, head + PAYLOAD_CRC_AT, HEADER_BYTES - PAYLOAD_CRC_AT) ||
        get_u64(head + FIRST_LSN_AT) != window->lsn ||
        get_u64(head + SEGMENT_AT) != window->segment_id ||
        get_u64(head + SALT_AT) != window->salt || get_u32(head + EPOCH_AT) != window->epoch) {
        return 0;
    }
    uint64_t count = get_u32(head + COUNT_AT);
    if (head[TYPE_AT] != TYPE_DATA || count == 0 || window->lsn >= LSN_LIMIT ||
        count > LSN_LIMIT - window->lsn ||
        (head[RESERVED_AT] | head[RESERVED_AT + 1]) != 0) {
        return 0;
    }
    uint64_t body = at + HEADER_BYTES;
    uint64_t length = get_u32(head + LENGTH_AT);
    if (length > MAX_PAYLOAD || length > window->length - body) {
        return 0;
    }
    if (crc32c(0, window->data + body, (size_t)length) != get_u32(head + PAYLOAD_CRC_AT)) {
        return 0;
    }
    return body + length;
}

static void advance(Window *window, uint64_t end) {
    window->lsn += get_u32(window->data + window->at + COUNT_AT);
    window->at = (end + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
}

/* (data, at, segment_id, salt, epoch, lsn) */
static int parse_window(PyObject *const *args, Py_ssize_t nargs, Window *window) {
    if (nargs != 6 || !PyBytes_CheckExact(args[0]) || !as_u64(args[1], &window->at) ||
        !as_u64(args[2], &window->segment_id) || !as_u64(args[3], &window->salt) ||
        !as_u64(args[4], &window->epoch) || !as_u64(args[5], &window->lsn)) {
        PyErr_SetString(PyExc_TypeError, "expected bytes and five ints from 0 to 2**64 - 1");
        return -1;
    }
    window->data = bytes_of(args[0]);
    window->length = (uint64_t)PyBytes_GET_SIZE(args[0]);
    return 0;
}

PyDoc_STRVAR(skim_doc,
"skim(data, at, segment_id, salt, epoch, lsn)\n"
"--\n\n"
"Pass over ordinary frames; return (at, lsn, frames, the highest LSN claimed to be synced).");

static PyObject *skim(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    Window window;
    if (parse_window(args, nargs, &window) < 0) {
        return NULL;
    }
    uint64_t end, frames = 0, claimed = 0;
    Py_BEGIN_ALLOW_THREADS /* the bytes cannot change, and the caller holds them */
    while ((end = ordinary_frame(&window)) != 0) {
        uint64_t synced = get_u64(window.data + window.at + SYNCED_LSN_AT);
        /* No frame can know that it is on disk itself: such a claim is not believed. */
        if (claimed < synced && synced < window.lsn) {
            claimed = synced;
        }
        advance(&window, end);
        frames++;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("KKKK", (unsigned long long)window.at, (unsigned long long)window.lsn,
                         (unsigned long long)frames, (unsigned long long)claimed);
}

PyDoc_STRVAR(split_doc,
"split(data, at, segment_id, salt, epoch, lsn)\n"
"--\n\n"
"Take ordinary frames; return (at, lsn, frames), the frames a list of (first LSN, count, payload).");

static PyObject *split(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    Window window;
    if (parse_window(args, nargs, &window) < 0) {
        return NULL;
    }
    PyObject *frames = PyList_New(0);
    if (frames == NULL) {
        return NULL;
    }
    uint64_t end;
    while ((end = ordinary_frame(&window)) != 0) {
        uint64_t body = window.at + HEADER_BYTES;
        PyObject *frame = Py_BuildValue(
            "KIy#", (unsigned long long)window.lsn,
            (unsigned int)get_u32(window.data + window.at + COUNT_AT),
            (const char *)window.data + body, (Py_ssize_t)(end - body));
        if (frame == NULL || PyList_Append(frames, frame) < 0) {
            Py_XDECREF(frame);
            Py_DECREF(frames);
            return NULL;
        }
        Py_DECREF(frame);
        advance(&window, end);
    }
    return Py_BuildValue("KKN", (unsigned long long)window.at, (unsigned long long)window.lsn,
                         frames);
}

PyDoc_STRVAR(split_placed_doc,
"split_placed(data, at, segment_id, salt, epoch, lsn, offset)\n"
"--\n\n"
"As split, of data that lies at `offset` in its file; the frames are a list of\n"
"(offset, first LSN, count, time, synced LSN, payload).");

static PyObject *split_placed(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    Window window;
    uint64_t base;
    if (nargs != 7 || parse_window(args, 6, &window) < 0 || !as_u64(args[6], &base)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "expected bytes and six ints from 0 to 2**64 - 1");
        }
        return NULL;
    }
    PyObject *frames = PyList_New(0);
    if (frames == NULL) {
        return NULL;
    }
    uint64_t end;
    while ((end = ordinary_frame(&window)) != 0) {
        const uint8_t *head = window.data + window.at;
        uint64_t body = window.at + HEADER_BYTES;
        PyObject *frame = Py_BuildValue(
            "KKIKKy#", (unsigned long long)(base + window.at), (unsigned long long)window.lsn,
            (unsigned int)get_u32(head + COUNT_AT), (unsigned long long)get_u64(head + TIME_AT),
            (unsigned long long)get_u64(head + SYNCED_LSN_AT), (const char *)window.data + body,
            (Py_ssize_t)(end - body));
        if (frame == NULL || PyList_Append(frames, frame) < 0) {
            Py_XDECREF(frame);
            Py_DECREF(frames);
            return NULL;
        }
        Py_DECREF(frame);
        advance(&window, end);
    }
    return Py_BuildValue("KKN", (unsigned long long)window.at, (unsigned long long)window.lsn,
                         frames);
}

static PyMethodDef methods[] = {
    {"encode_group", (PyCFunction)(void (*)(void))encode_group, METH_FASTCALL, encode_group_doc},
    {"skim", (PyCFunction)(void (*)(void))skim, METH_FASTCALL, skim_doc},
    {"split", (PyCFunction)(void (*)(void))split, METH_FASTCALL, split_doc},
    {"split_placed", (PyCFunction)(void (*)(void))split_placed, METH_FASTCALL, split_placed_doc},
    {NULL, NULL, 0, NULL},
};

int add_frames(PyObject *module) {
    crc32c_init();
    return PyModule_AddFunctions(module, methods);
}
