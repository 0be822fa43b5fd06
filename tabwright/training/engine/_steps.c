/* The extension module `_steps`: a training step, compiled. */

#define KERNELS "training/engine/kernels.c"
#include "../../instruction_sets.h"

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_steps", "A training step, compiled.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__steps(void) { return PyModule_Create(&module); }
