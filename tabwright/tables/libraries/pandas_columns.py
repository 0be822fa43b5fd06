"""pandas columns of every dtype, by way of their buffers or cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import to_levels
from tabwright.tables.libraries.arrays import array_column
from tabwright.tables.libraries.arrow_columns import arrow_column
from tabwright.tables.libraries.objects import object_column

_CELL_TYPES: dict[object, type[pl.DataType]] = {
    np.dtype(np.float64): pl.Float64,
    np.dtype(np.int64): pl.Int64,
    np.dtype(np.bool_): pl.Boolean,
}


def pandas_cells(X: Any, names: Sequence[str]) -> list[pl.Series] | None:
    """The columns of a few rows, cell by cell; None where a column is of another type."""
    types: list[type[pl.DataType]] = []
    for dtype in X.dtypes.tolist():
        if isinstance(dtype, np.dtype):
            known = _CELL_TYPES.get(dtype)
        else:
            known = pl.String if type(dtype).__name__ == "StringDtype" else None
        if known is None:
            return None
        types.append(known)
    columns = []
    for name, cells, known in zip(names, X.to_numpy(dtype=object).T.tolist(), types, strict=True):
        if known is pl.String:
            cells = [text if isinstance(text, str) else None for text in cells]
        columns.append(pl.Series(name, cells, dtype=known))
    return columns


def pandas_column(column: Any, name: str) -> pl.Series:
    """A pandas series by another name; raises `TableError` at types that tables do not have."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return array_column(name, column.to_numpy())
    kind = type(dtype).__name__
    if kind == "CategoricalDtype":
        return _pandas_categories(column, name)
    if kind == "ArrowDtype":
        return arrow_column(name, column.array.__arrow_array__())
    if kind == "StringDtype":
        if dtype.storage == "pyarrow":
            return arrow_column(name, column.array.__arrow_array__()).cast(pl.String)
        return object_column(name, column.to_numpy(dtype=object).tolist())
    if kind == "DatetimeTZDtype":
        instants = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        series = array_column(name, instants).dt.replace_time_zone("UTC")
        try:
            return series.dt.convert_time_zone(str(dtype.tz))
        except pl.exceptions.PolarsError:
            return series
    if kind == "SparseDtype":
        return array_column(name, column.sparse.to_dense().to_numpy())
    if getattr(dtype, "_is_numeric", False) or kind == "BooleanDtype":
        missing = column.isna().to_numpy()
        fill = False if kind == "BooleanDtype" else 0
        values = column.to_numpy(dtype=dtype.numpy_dtype, na_value=fill)
        series = array_column(name, values)
        return series.set(pl.Series(missing), None) if missing.any() else series
    if kind == "PeriodDtype":
        return array_column(name, column.dt.to_timestamp().to_numpy())
    if kind == "IntervalDtype":
        missing = pl.Series(column.isna().to_numpy())
        return object_column(name, column.astype(str).tolist()).set(missing, None)
    raise TableError(
        f"column {name!r} must hold numbers, text, booleans or dates; got pandas dtype {dtype}; "
        "convert it, e.g. with .astype(str)"
    )


def _pandas_categories(column: Any, name: str) -> pl.Series:
    """A categorical column, whose levels get the names that their cells would have."""
    values = column.array if hasattr(column, "array") else column
    categories = values.categories
    if type(categories.dtype).__name__ == "IntervalDtype":
        categories = categories.astype(str)
    levels = pandas_column(categories.to_series(), name)
    codes = pl.Series(np.asarray(values.codes).astype(np.int64))
    codes = codes.set(codes < 0, None)
    names = to_levels(levels)
    return names.gather(codes).alias(name).cast(pl.Categorical)
