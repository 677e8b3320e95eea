/* What the C files share. Python objects come in checked by type; what a function cannot take
 * it hands back as None, and its twin in Python does the work or says what is wrong. */
#ifndef STRANDLINE_NATIVE_H
#define STRANDLINE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>
#include <string.h>

/* Little-endian stores and loads, whatever the machine. */
static inline void put_u16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void put_u32(uint8_t *at, uint32_t value) {
    put_u16(at, (uint16_t)value);
    put_u16(at + 2, (uint16_t)(value >> 16));
}

static inline void put_u64(uint8_t *at, uint64_t value) {
    put_u32(at, (uint32_t)value);
    put_u32(at + 4, (uint32_t)(value >> 32));
}

static inline uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *at) {
    return (uint64_t)get_u32(at) | (uint64_t)get_u32(at + 4) << 32;
}

/* Big-endian, as msgpack and digests have it. */
static inline uint8_t *put_be(uint8_t *at, uint64_t value, int width) {
    for (int shift = 8 * (width - 1); shift >= 0; shift -= 8) {
        *at++ = (uint8_t)(value >> shift);
    }
    return at;
}

static inline uint64_t get_be(const uint8_t *at, int width) {
    uint64_t value = 0;
    for (int i = 0; i < width; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static inline const uint8_t *bytes_of(PyObject *object) {
    return (const uint8_t *)PyBytes_AS_STRING(object);
}

/* An int from 0 to 2^64 - 1; false, and no exception, for any other object. */
static inline int as_u64(PyObject *object, uint64_t *value) {
    if (!PyLong_CheckExact(object)) {
        return 0;
    }
    *value = PyLong_AsUnsignedLongLong(object);
    if (*value == (uint64_t)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return 1;
}

/* Memory that will be read soon. Used in loops, never in a function of its own: gcc drops the
 * call of one that does nothing else. */
#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address) ((void)(address))
#endif

/* A key on its way to its place. */
typedef struct {
    uint64_t window; /* eight bytes of the key from some depth on, zeros beyond its end */
    PyObject *key;
    PyObject *entry; /* what goes with it; NULL where nothing does */
} Slot;

/* Sort by key, with as many slots to spare; needs no interpreter. In order.c. */
void sort_slots(Slot *slots, Slot *spare, size_t count);

typedef struct {
    uint64_t count, first_lsn, synced_lsn, stored_lsn, time_ns, segment_id, salt, epoch;
} FrameFields;

/* A new reference to the frame of operations; NULL, without an exception unless memory is short,
 * where the items are none. In frames.c. */
PyObject *encoded_frame(PyObject *const *items, Py_ssize_t elements, const FrameFields *fields);

/* A new reference to the record of a value. In records.c. */
PyObject *encoded_record(uint64_t table_id, PyObject *key, uint64_t lsn, PyObject *value);

/* An OwnedLock, under the interpreter's lock. The first says whether an object is one; then: held by
 * this thread? Take it if it is free or this thread's own. Give it back; -1 on an error. */
int is_owned_lock(PyObject *object);
int owned_lock_mine(PyObject *object);
int owned_lock_try(PyObject *object);
int owned_lock_release(PyObject *object);

/* Each adds its functions to the module. */
int add_frames(PyObject *module);
int add_records(PyObject *module);
int add_index(PyObject *module);
int add_order(PyObject *module);
int add_sorter(PyObject *module);
int add_fast_put(PyObject *module);
int add_owned_lock(PyObject *module);

#endif
