"""One row of a pandas frame as Python objects, without a polars frame of it.

Building the columns of such a frame costs many times what encoding its row does. Here live the
pandas types whose cells, as Python objects, mean what the columns of `frames.as_frame` mean; a
cell of any other type becomes a series of length one by way of `frames.as_series`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from tabwright.tables.frames import as_series

_INTEGERS: Final = tuple(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
# Of NumPy types: the type of the Python object.
_NUMPY_KINDS: Final[dict[object, type]] = {
    np.dtype(np.float64): float,
    np.dtype(np.bool_): bool,
    **{np.dtype(name.lower()): int for name in _INTEGERS},
}
_OBJECTS: Final = frozenset((float, int, bool, type(None)))
_MASKED: Final = frozenset((*(f"{name}Dtype" for name in _INTEGERS), "BooleanDtype"))


def row_cells(X: object) -> dict[str, Any] | None:
    """The cells of a pandas frame of one row, by column name.

    `X`: anything that `as_frame` takes.
    Returns: Python objects that mean what the columns of `as_frame(X)` mean, or series of length
        one where none does. None if X is another table, or its columns have no names of their own.
    Raises `TableError` if a cell is of a kind that tables do not have.
    """
    if type(X).__module__.partition(".")[0] != "pandas" or getattr(X, "shape", ())[:1] != (1,):
        return None
    frame: Any = X
    names = frame.columns.tolist() if frame.ndim == 2 else []
    if not names or not all(type(name) is str for name in names) or len(set(names)) < len(names):
        return None
    row = frame.iloc[0]
    dtypes = frame.dtypes.tolist()
    if row.dtype == object or all(dtype is dtypes[0] for dtype in dtypes):
        values = row.tolist()
    else:
        # The type that all columns have in common may not hold every cell as it is.
        values = [frame.iat[0, i] for i in range(len(names))]
    cells: dict[str, Any] = {}
    for i, (name, value, dtype) in enumerate(zip(names, values, dtypes, strict=True)):
        if isinstance(dtype, np.dtype):
            kind = _NUMPY_KINDS.get(dtype)
            if kind is not None:
                cells[name] = value if type(value) is kind else value.item()
                continue
            read = _numpy_cell
        else:
            read = _extension_cell
        plain, cell = read(value, dtype)
        cells[name] = cell if plain else as_series(frame.iloc[:, i], name=name)
    return cells


def _numpy_cell(value: Any, dtype: Any) -> tuple[bool, Any]:
    """Whether an object stands for the cell, and which."""
    if dtype.kind == "O":
        kind = type(value)
        # Text that is not ASCII may be no Unicode, which the long way says.
        return (value.isascii() if kind is str else kind in _OBJECTS), value
    return _moment(value) if dtype.kind == "M" else (False, None)


def _extension_cell(value: Any, dtype: Any) -> tuple[bool, Any]:
    name = type(dtype).__name__
    read = _EXTENSIONS.get(name)
    if read is not None:
        return read(value)
    if name in _MASKED:
        return True, None if _is_missing(value) else int(value) if name[0] != "B" else bool(value)
    return False, None


def _text(value: Any) -> tuple[bool, Any]:
    if type(value) is str:
        return value.isascii(), value
    return _is_missing(value), None


def _level(value: Any) -> tuple[bool, Any]:
    if type(value) is str:
        # The polars column has the names of the levels, and this text may have another.
        return value.isascii() and value.isalpha() and value[0] not in "iItTfFnN", value
    return _is_missing(value), None


def _float(value: Any) -> tuple[bool, Any]:
    return True, None if _is_missing(value) else float(value)


def _moment(value: Any) -> tuple[bool, Any]:
    if type(value).__name__ == "NaTType":
        # A column of no moments still is one of moments, which a number's column refuses.
        return False, None
    # A datetime holds microseconds of the years that it knows.
    plain = value.nanosecond == 0 and 1 <= value.year <= 9999
    return plain, value.to_pydatetime() if plain else None


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


_EXTENSIONS: Final[dict[str, Callable[[Any], tuple[bool, Any]]]] = {
    "StringDtype": _text,
    "CategoricalDtype": _level,
    "Float64Dtype": _float,
    "DatetimeTZDtype": _moment,
}
