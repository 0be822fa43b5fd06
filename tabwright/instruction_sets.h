/* What an extension module of several instruction sets is made of. A file that includes this one
   says in `KERNELS` which file of functions is compiled for each of them, as a path from this
   folder; the processor at hand says which of them it can run. Python gets addresses, and calls
   them by ctypes, which lets go of the interpreter's lock meanwhile. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#define JOIN_NAMES(name, set) name##_##set
#define JOIN(name, set) JOIN_NAMES(name, set)
#define IN_SET(name) JOIN(name, SET)

/* Floats of a vector that can be multiplied and added in one instruction; 0: none. Every AArch64
   processor has NEON. */
#if defined(__GNUC__) && defined(__aarch64__)
#define SET_LANES 4
#define SET neon
#define NARROWEST "neon", functions_neon
#else
#define SET_LANES 0
#define SET baseline
#define NARROWEST "baseline", functions_baseline
#endif
#include KERNELS
#undef SET
#undef SET_LANES

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define HAS_WIDER_SETS 1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SET_LANES 8
#define SET avx2
#include KERNELS
#undef SET
#undef SET_LANES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,fma,prefer-vector-width=512")
#endif
#define SET_LANES 16
#define SET avx512
#include KERNELS
#undef SET
#undef SET_LANES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

static int add_set(PyObject *sets, const char *name, const entry *functions)
{
    PyObject *addresses = PyDict_New();
    int failed = addresses == NULL;
    for (; !failed && functions->name; functions++) {
        PyObject *address = PyLong_FromVoidPtr(functions->address);
        failed = !address || PyDict_SetItemString(addresses, functions->name, address);
        Py_XDECREF(address);
    }
    failed = failed || PyDict_SetItemString(sets, name, addresses);
    Py_XDECREF(addresses);
    return failed;
}

/* For each instruction set that this processor can run, from the narrowest, the addresses of its
   functions by name. */
static PyObject *instruction_sets(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    PyObject *sets = PyDict_New();
    int failed = !sets || add_set(sets, NARROWEST);
#ifdef HAS_WIDER_SETS
    __builtin_cpu_init();
    const int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const int has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                           __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    failed = failed || (has_avx2 && add_set(sets, "avx2", functions_avx2));
    failed = failed || (has_avx512 && add_set(sets, "avx512", functions_avx512));
#endif
    if (failed) Py_CLEAR(sets);
    return sets;
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, "Addresses of functions by set and name."},
    {NULL, NULL, 0, NULL},
};
