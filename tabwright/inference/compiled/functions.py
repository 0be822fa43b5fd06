"""The extension module `_prediction`: its functions, and what they take.

The extension is built with the package and holds the functions of `kernels.c` for several
instruction sets, of which the widest that the processor has is used. Without it predictions are
computed in NumPy.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INTEGER, _POINTER = ctypes.c_int64, ctypes.c_void_p
_SUM = (_POINTER, _INTEGER, *[_POINTER] * 3)
_SIGNATURES = {
    "sum_nodes": _SUM,
    "sum_oblivious": _SUM,
    "sum_masked_32": _SUM,
    "sum_masked_64": _SUM,
    "choose_splits": (
        *[_INTEGER] * 3,
        *[_POINTER] * 5,
        ctypes.c_double,
        *[_POINTER] * 2,
        ctypes.c_double,
        *[_POINTER] * 4,
    ),
}
# For processors that multiply and add in one instruction.
_MORE = {"network_scores": (_POINTER, _INTEGER, *[_POINTER] * 4, _INTEGER)}


@functools.cache
def instruction_sets() -> dict[str, dict[str, int]]:
    """Addresses of functions by instruction set, from the narrowest; none without the extension."""
    try:
        from tabwright.inference.compiled._prediction import instruction_sets
    except ModuleNotFoundError:
        return {}
    sets = instruction_sets()
    for functions in sets.values():
        if functions.keys() - _MORE.keys() != _SIGNATURES.keys():
            raise ImportError(
                f"the extension module must have {sorted(_SIGNATURES)}; got {sorted(functions)}, "
                "of another version; install the package again"
            )
    return sets


def compiled_function(name: str) -> Callable[..., None]:
    """A function of `kernels.c`, for the widest instruction set that this processor has."""
    functions = list(instruction_sets().values())[-1]
    # Calls through such a prototype let go of the interpreter's lock.
    return ctypes.CFUNCTYPE(None, *{**_SIGNATURES, **_MORE}[name])(functions[name])


def address(array: NDArray[Any]) -> int:
    """Where the elements of an array begin; `array.ctypes.data` takes three times as long."""
    place: int = array.__array_interface__["data"][0]
    return place


def c_struct(
    kinds: Sequence[type], values: Sequence[int | NDArray[Any]]
) -> tuple[ctypes.Structure, list[NDArray[Any]]]:
    """A C struct of numbers and of pointers to arrays, and the arrays, which must live as long.

    `kinds`: `int`, or the type of an array's elements.
    """

    class Own(ctypes.Structure):
        _fields_ = [
            (f"f{i}", _INTEGER if kind is int else _POINTER) for i, kind in enumerate(kinds)
        ]

    arrays: list[NDArray[Any]] = []
    held: list[int] = []
    for kind, value in zip(kinds, values, strict=True):
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value, dtype=kind))
            held.append(address(arrays[-1]))
        else:
            held.append(value)
    return Own(*held), arrays
