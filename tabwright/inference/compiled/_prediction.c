/* The extension module `_prediction`: tree ensembles and networks on many rows, compiled. */

#define KERNELS "inference/compiled/kernels.c"
#include "../../instruction_sets.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_prediction", "Trees and networks, compiled.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__prediction(void) { return PyModule_Create(&module); }
