/* The module `strandline.native._native`. */
#include "native.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "strandline.native._native",
    .m_doc = "Hot functions in C. Use them through strandline.native.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__native(void);

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) {
        return NULL;
    }
    if (add_frames(module) < 0 || add_records(module) < 0 || add_index(module) < 0 ||
        add_order(module) < 0 || add_sorter(module) < 0 || add_fast_put(module) < 0 ||
        add_owned_lock(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
