"""The extension module `_steps`: its functions, its instruction sets, and the BLAS they call.

The extension is built with the package and holds the functions of `kernels.c` for several
instruction sets, of which the widest that the processor has is used. `compiled_steps` calls them.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

_INTEGER, _POINTER, _DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double
_SIGNATURES = {
    "adamw": (*[_INTEGER] * 3, *[_POINTER] * 4, *[_DOUBLE] * 6),
    "product_alone": (_POINTER, *[_INTEGER] * 6, *[_POINTER] * 3),
    "network_forward": (*[_POINTER] * 4, _INTEGER, _POINTER, _INTEGER, _POINTER),
    "network_backward": (*[_POINTER] * 4, _INTEGER, _POINTER),
    "network_steps": (*[_POINTER] * 2, _INTEGER, *[_POINTER] * 4, *[_INTEGER] * 2),
}


@functools.cache
def _instruction_sets() -> dict[str, dict[str, int]]:
    """Addresses of functions by instruction set, from the narrowest; none without the extension."""
    try:
        from tabwright.training.engine._steps import instruction_sets
    except ModuleNotFoundError:
        return {}
    return instruction_sets()


def has_compiled_kernels() -> bool:
    """Whether the extension module was built with this installation."""
    return bool(_instruction_sets())


def engine_name() -> str:
    """What computes a step on a CPU in float32, for records: "compiled, avx2" or "torch"."""
    return f"compiled, {list(_instruction_sets())[-1]}" if has_compiled_kernels() else "torch"


@functools.cache
def compiled_kernels(instruction_set: str | None = None) -> SimpleNamespace:
    """The functions of `kernels.c`, callable by their names there.

    `instruction_set`: "baseline", "avx2" or "avx512", on AArch64 "neon"; None: the widest that
        this processor has.
    Raises `ValueError` if the extension is not built, or the processor lacks the instruction set.
    """
    sets = _instruction_sets()
    if not sets:
        raise ValueError(
            "compiled kernels need the extension module, and this installation was built without "
            "it; install a C compiler and the package again"
        )
    wanted = list(sets)[-1] if instruction_set is None else instruction_set
    if wanted not in sets:
        raise ValueError(
            f"instruction_set must be one of {', '.join(sets)} on this processor; got {wanted!r}"
        )
    if sets[wanted].keys() != _SIGNATURES.keys():
        raise ValueError(
            f"the extension module must have {sorted(_SIGNATURES)}; got {sorted(sets[wanted])}, "
            "of another version; install the package again"
        )
    # Calls through such a prototype let go of the interpreter's lock.
    return SimpleNamespace(
        **{
            name: ctypes.CFUNCTYPE(None, *_SIGNATURES[name])(address)
            for name, address in sets[wanted].items()
        }
    )


def check_memory(given: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """Refuse a tensor whose address says too little: nobody looks behind it any more.

    Raises `ValueError` if it has another shape or dtype, gaps between its elements, or lies on
        another device.
    """
    fits = given.shape == tuple(shape) and given.dtype == dtype
    if not (fits and given.is_contiguous() and given.device.type == "cpu"):
        raise ValueError(
            f"compiled kernels take contiguous {dtype} of shape {tuple(shape)} on the CPU; got "
            f"{given.dtype} of shape {tuple(given.shape)}, strides {given.stride()}, on "
            f"{given.device}"
        )


@functools.cache
def blas_sgemm() -> int:
    """Address of SciPy's `sgemm`, whose integers have 32 bits.

    SciPy hands out the addresses of its BLAS for compiled code (`scipy.linalg.cython_blas`).

    Raises `RuntimeError` if it does not multiply as a BLAS does.
    """
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__["sgemm"]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.argtypes, name_of.restype = (ctypes.py_object,), ctypes.c_char_p
    pointer_of.argtypes = (ctypes.py_object, ctypes.c_char_p)
    pointer_of.restype = ctypes.c_void_p
    address = int(pointer_of(capsule, name_of(capsule)))
    # Small whole numbers: their sums are exact in any order.
    x, weight = torch.arange(15.0).view(5, 3) - 6, torch.arange(12.0).view(3, 4) % 5
    if not torch.equal(_product(address, x, weight), x @ weight):
        raise RuntimeError("scipy.linalg.cython_blas.sgemm must multiply matrices; it does not")
    return address


@functools.lru_cache(maxsize=64)
def may_be_shared(
    n_rows: int, input_dim: int, hidden_dim: int, output_dim: int, n_parts: int
) -> bool:
    """Whether products of these sizes have the same bits when several threads share the units.

    A BLAS may add up the last columns of a matrix in another order than the others; that depends
    on the processor, and is tried for all products of a step whose units threads share.
    """
    return all(
        torch.equal(
            _product(blas_sgemm(), *factors, transposed=transposed),
            _product(blas_sgemm(), *factors, transposed=transposed, n_parts=n_parts),
        )
        for factors, transposed in _products_of(n_rows, input_dim, hidden_dim, output_dim)
    )


def _products_of(
    n_rows: int, input_dim: int, hidden_dim: int, output_dim: int
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[bool, bool]]]:
    """Factors of each product of a step whose units threads share, and which are transposed."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    gradient, logits = values(n_rows, hidden_dim), values(n_rows, output_dim)
    for width in (input_dim, hidden_dim):
        x = values(n_rows, width)
        yield (x, values(width, hidden_dim)), (False, False)
        yield (x, gradient), (True, False)
    yield (gradient, values(hidden_dim, hidden_dim)), (False, True)
    yield (logits, gradient), (True, False)
    yield (logits, values(output_dim, hidden_dim)), (False, False)


def _product(
    address: int,
    x: Tensor,
    weight: Tensor,
    *,
    transposed: tuple[bool, bool] = (False, False),
    n_parts: int = 1,
) -> Tensor:
    """`x @ weight` by a BLAS, its columns in parts; each factor is given transposed or not."""
    rows, width = x.shape[::-1] if transposed[0] else x.shape
    units = weight.shape[0] if transposed[1] else weight.shape[1]
    z = torch.full((rows, units), float("nan"))
    sizes = (*transposed, rows, width, units, n_parts)
    compiled_kernels().product_alone(address, *sizes, x.data_ptr(), weight.data_ptr(), z.data_ptr())
    return z
