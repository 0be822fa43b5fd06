"""NumPy arrays as columns."""

from __future__ import annotations

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.libraries.objects import object_column


def array_column(name: str, array: np.ndarray) -> pl.Series:
    """An array of shape (n,) as a column; raises `TableError` at complex numbers and bytes."""
    kind = array.dtype.kind
    if kind == "c":
        raise TableError(
            f"Complex data not supported: column {name!r} holds {array.dtype}; "
            "split it into real and imaginary part"
        )
    if isinstance(array, np.ma.MaskedArray):
        filled = array_column(name, np.asarray(array.data))
        return filled.set(pl.Series(np.ma.getmaskarray(array)), None)
    if kind == "O":
        return object_column(name, array.tolist())
    if kind == "S":
        raise TableError(
            f"column {name!r} must hold text, not bytes; got {array[:1].tolist()}; "
            "decode it: array.astype(str)"
        )
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if kind in "mM":
        unit = np.datetime_data(array.dtype)[0]
        if unit not in ("D", "ms", "us", "ns") or (kind == "m" and unit == "D"):
            array = array.astype(f"{kind}8[us]")
    elif kind == "T":
        return object_column(name, array.astype(object).tolist())
    elif kind not in "biufU":
        raise TableError(
            f"column {name!r} must hold numbers, text, booleans or dates; got dtype {array.dtype}"
        )
    return pl.Series(name, array)
