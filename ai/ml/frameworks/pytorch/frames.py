"""Tables and columns in memory, of any library, as polars frames and series.

pandas, pyarrow and scipy are recognised without being imported: whoever holds one of their
objects has loaded them. Buffers are shared where both sides can (polars, pyarrow, NumPy columns).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from ai.ml.frameworks.pytorch.cells import TableError, refuse_nested, to_levels

__all__ = ["as_frame", "as_series"]

_LARGEST_INTEGER = 2**64


def as_frame(
    X: object,
    *,
    names: Sequence[str] | None = None,
    estimator: str = "the estimator",
    min_rows: int = 1,
) -> tuple[pl.DataFrame, bool]:
    """Any table in memory as a polars frame.

    Parameters
    ----------
    X : table
        polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table or RecordBatch, NumPy array
        of shape (n_rows, n_columns), list of dicts (a missing key is a missing cell), list of
        rows, or any object with `__arrow_c_stream__` or `__array__`.
    names : sequence of str, optional
        Column names for a table that has none; `x0`, `x1`, ... by default.
    estimator : str, default="the estimator"
        Who asks, for messages.
    min_rows : int, default=1
        Fewer rows are refused.

    Returns
    -------
    frame : polars.DataFrame
    named : bool
        Whether the columns have names of their own. They have not in arrays, lists of rows, and
        pandas frames whose columns are 0, 1, 2, ...; other integers as pandas column names
        become text.

    Raises
    ------
    TableError
        If X is sparse, complex or not two-dimensional, has no columns or too few rows, if a
        column name is not text or comes twice, or if a cell is nested.
    """
    frame, named = _frame_of(X, estimator)
    if names is not None:
        if len(names) != frame.width:
            raise TableError(
                f"names must hold one name per column; got {len(names)} names for "
                f"{frame.width} columns"
            )
        if not named:
            _check_names(names)
            frame.columns = list(names)
            named = True
    if frame.width == 0:
        raise TableError(
            f"Found array with 0 feature(s) (shape=({frame.height}, 0)) while a minimum of 1 is "
            f"required by {estimator}."
        )
    if frame.height < min_rows:
        raise TableError(
            f"Found array with {frame.height} sample(s) (shape=({frame.height}, {frame.width})) "
            f"while a minimum of {min_rows} is required by {estimator}."
        )
    for series in frame.get_columns():
        refuse_nested(series)
    return frame, named


def as_series(values: object, *, name: str = "y") -> pl.Series:
    """Any one-dimensional column in memory as a polars series.

    Parameters
    ----------
    values : polars, pandas or pyarrow column, NumPy array of shape (n_rows,), or sequence
    name : str, default="y"
        For messages, and for columns that have no name.

    Returns
    -------
    polars.Series

    Raises
    ------
    TableError
        If it is not one-dimensional, or mixes kinds that have no common type.
    """
    module = _module(values)
    if isinstance(values, pl.Series):
        return values
    if module == "pandas":
        return _pandas_column(values, _column_name(getattr(values, "name", None), name))
    if module == "pyarrow":
        column: Any = values
        return _arrow_column(name, column)
    if isinstance(values, np.ndarray) or (
        hasattr(values, "__array__") and not isinstance(values, list | tuple)
    ):
        array = (
            np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        )
        if array.ndim != 1:
            raise TableError(
                f"{name} should be a 1d array; got an array of shape {array.shape} instead"
            )
        return _array_column(name, array)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _object_column(name, list(values))
    raise TableError(
        f"{name} must be one column (a list, an array or a series); got {type(values).__name__}"
    )


# ---------------------------------------------------------------------------------------------
# Whole tables
# ---------------------------------------------------------------------------------------------


def _module(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _column_name(name: object, default: str) -> str:
    return name if isinstance(name, str) else default


def _positions(n_columns: int) -> list[str]:
    return [f"x{i}" for i in range(n_columns)]


def _frame_of(X: object, estimator: str) -> tuple[pl.DataFrame, bool]:
    module = _module(X)
    if isinstance(X, pl.LazyFrame):
        X = X.collect()
    if isinstance(X, pl.DataFrame):
        return X, True
    if module == "scipy" or (hasattr(X, "tocsr") and hasattr(X, "nnz")):
        raise TableError(
            f"Sparse data was passed for X, but dense data is required by {estimator}. "
            "Use '.toarray()' to convert to a dense numpy array."
        )
    if module == "pandas":
        return _from_pandas(X)
    if module == "pyarrow" and hasattr(X, "column_names"):
        return _from_arrow(X), True
    if isinstance(X, list | tuple):
        return _from_list(X)
    if isinstance(X, np.ndarray) or hasattr(X, "__array__"):
        array = np.ma.asarray(X) if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
        return _from_array(array)
    if hasattr(X, "__arrow_c_stream__"):
        frame = pl.DataFrame(X)
        return frame, True
    if isinstance(X, str | bytes) or hasattr(X, "__fspath__"):
        raise TableError(
            f"X must be a table in memory; got the {type(X).__name__} {str(X)[:80]!r}; "
            "read files with read_table(path)"
        )
    raise TableError(
        "X must be a table: a polars, pandas or pyarrow frame, a 2-D NumPy array, a list of dicts "
        f"or a list of rows; got {type(X).__name__}"
    )


def _from_array(array: np.ndarray) -> tuple[pl.DataFrame, bool]:
    if array.dtype.names is not None and array.ndim == 1:
        columns = [_array_column(name, array[name]) for name in array.dtype.names]
        return pl.DataFrame(columns), True
    if array.ndim < 2:
        kind = "scalar array" if array.ndim == 0 else "1D array"
        raise TableError(
            f"Expected 2D array, got {kind} instead:\n"
            f"array={np.array2string(array, threshold=10)}.\n"
            "Reshape your data either using array.reshape(-1, 1) if your data has a single "
            "feature or array.reshape(1, -1) if it contains a single sample."
        )
    if array.ndim > 2:
        raise TableError(
            f"Found array with dim {array.ndim}, while dim <= 2 is required; got shape "
            f"{array.shape}; give each feature a column of its own"
        )
    names = _positions(array.shape[1])
    if array.dtype.kind in "biuf" and array.dtype != np.longdouble and not np.ma.isMA(array):
        return pl.from_numpy(array, schema=names, orient="row"), False
    columns = [_array_column(name, array[:, i]) for i, name in enumerate(names)]
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=array.shape[0]), False


def _from_list(rows: Sequence[Any]) -> tuple[pl.DataFrame, bool]:
    if not rows:
        raise TableError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required."
        )
    first = rows[0]
    if isinstance(first, Mapping):
        names: dict[str, None] = {}
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                raise TableError(
                    f"a list of dicts must hold only dicts; got {type(row).__name__} in row "
                    f"{number}"
                )
            names.update(dict.fromkeys(row))
        _check_names(list(names))
        columns = [_object_column(name, [row.get(name) for row in rows]) for name in names]
        return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(rows)), True
    if isinstance(first, str | bytes) or not isinstance(first, Sequence | np.ndarray):
        return _from_array(np.asarray(rows, dtype=None if np.isscalar(first) else object))
    width = len(first)
    for number, row in enumerate(rows, 1):
        if isinstance(row, str | bytes) or not hasattr(row, "__len__") or len(row) != width:
            size = len(row) if hasattr(row, "__len__") else 0
            raise TableError(
                f"every row must have as many cells as the first ({width}); got {size} in row "
                f"{number}"
            )
    columns = [
        _object_column(name, [row[i] for row in rows]) for i, name in enumerate(_positions(width))
    ]
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(rows)), False


def _check_names(names: Sequence[object]) -> None:
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TableError(
            f"column names must be text; got {wrong[0]!r} ({type(wrong[0]).__name__}); "
            "with pandas: df.columns = df.columns.astype(str)"
        )
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise TableError(
                f"column names must differ; {name!r} comes {list(names).count(name)} times; "
                "rename or drop the copies"
            )
        seen.add(name)


def _from_arrow(table: Any) -> pl.DataFrame:
    names = list(table.column_names)
    _check_names(names)
    columns = [_arrow_column(name, table.column(i)) for i, name in enumerate(names)]
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=table.num_rows)


def _from_pandas(X: Any) -> tuple[pl.DataFrame, bool]:
    if not hasattr(X, "columns"):
        return _from_array(np.asarray(X))
    if X.columns.nlevels > 1:
        raise TableError(
            f"column names must be text; got a MultiIndex of {X.columns.nlevels} levels; flatten "
            "it: df.columns = ['_'.join(map(str, name)) for name in df.columns]"
        )
    labels = X.columns.tolist()
    named = True
    if labels and all(isinstance(label, int) and not isinstance(label, bool) for label in labels):
        named = labels != list(range(len(labels)))
        names = [str(label) for label in labels] if named else _positions(len(labels))
    else:
        names = labels
    _check_names(names)
    columns = [_pandas_column(X.iloc[:, i], name) for i, name in enumerate(names)]
    return pl.DataFrame(columns) if columns else pl.DataFrame(height=len(X)), named


# ---------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------


def _arrow_column(name: str, column: Any) -> pl.Series:
    series = pl.from_arrow(column)
    if not isinstance(series, pl.Series):
        raise TableError(f"column {name!r} must be one column; got {type(column).__name__}")
    return series.alias(name)


def _array_column(name: str, array: np.ndarray) -> pl.Series:
    kind = array.dtype.kind
    if kind == "c":
        raise TableError(
            f"Complex data not supported: column {name!r} holds {array.dtype}; "
            "split it into real and imaginary part"
        )
    if isinstance(array, np.ma.MaskedArray):
        filled = _array_column(name, np.asarray(array.data))
        return filled.set(pl.Series(np.ma.getmaskarray(array)), None)
    if kind == "O":
        return _object_column(name, array.tolist())
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
        return _object_column(name, array.astype(object).tolist())
    elif kind not in "biufU":
        raise TableError(
            f"column {name!r} must hold numbers, text, booleans or dates; got dtype {array.dtype}"
        )
    return pl.Series(name, array)


def _is_missing(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, float):
        return value != value
    return type(value).__name__ in ("NAType", "NaTType")


def _object_column(name: str, cells: list[Any]) -> pl.Series:
    """Python objects as a column of the one type that holds them all."""
    values = [
        None if _is_missing(cell) else cell.item() if isinstance(cell, np.generic) else cell
        for cell in cells
    ]
    kinds = {type(value) for value in values}
    kinds.discard(type(None))
    if not kinds:
        floats = any(isinstance(cell, float) for cell in cells)
        return pl.Series(name, values, dtype=pl.Float64 if floats else pl.Null)
    plain = _plain_column(name, values, kinds)
    if plain is not None:
        return plain
    known = (bool, int, float, str, Decimal, dt.date, dt.timedelta, dt.time)
    for row, value in enumerate(values, 1):
        if isinstance(value, complex):
            raise TableError(f"Complex data not supported: column {name!r}, row {row}: {value}")
        if value is not None and not isinstance(value, known):
            shown = repr(value)
            raise TableError(
                f"column {name!r} must hold single values (numbers, text, booleans, dates); got "
                f"{shown if len(shown) <= 80 else shown[:77] + '...'} ({type(value).__name__}) in "
                f"row {row}; split it into columns or leave it out"
            )
    if all(issubclass(kind, str) for kind in kinds):
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
    if any(issubclass(kind, str) for kind in kinds):
        # Numbers beside text: their canonical text, so that 1 and "1" stay one level.
        return pl.Series(name, [_text_of(value) for value in values], dtype=pl.String)
    if all(issubclass(kind, dt.date) for kind in kinds):
        return _instants(name, values)
    if all(issubclass(kind, bool | int | float | Decimal) for kind in kinds):
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    first, *_, last = sorted(kind.__name__ for kind in kinds)
    raise TableError(
        f"column {name!r} must hold values of one kind; got {first} and {last}; convert them first"
    )


def _plain_column(name: str, values: list[Any], kinds: set[type]) -> pl.Series | None:
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {str}:
        return pl.Series(name, values, dtype=pl.String)
    if kinds == {int}:
        present = [value for value in values if value is not None]
        low, high = min(present), max(present)
        if low >= -(2**63) and high < 2**63:
            return pl.Series(name, values, dtype=pl.Int64)
        if low >= 0 and high < _LARGEST_INTEGER:
            return pl.Series(name, values, dtype=pl.UInt64)
        # Past 64 bits an integer is a name; a float would merge neighbours.
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
    if kinds in ({float}, {int, float}):
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    if kinds == {Decimal}:
        if not all(value is None or value.is_finite() for value in values):
            return pl.Series(
                name, [None if v is None else float(v) for v in values], dtype=pl.Float64
            )
        return pl.Series(name, values)
    if kinds in ({dt.timedelta}, {dt.time}, {dt.date}):
        return pl.Series(name, values)
    return None


def _text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def _instants(name: str, values: list[Any]) -> pl.Series:
    """Dates and datetimes; UTC if any has a zone, and those without are taken as UTC."""
    aware = any(isinstance(v, dt.datetime) and v.tzinfo is not None for v in values)
    moments = []
    for value in values:
        if value is not None and not isinstance(value, dt.datetime):
            value = dt.datetime(value.year, value.month, value.day)
        elif value is not None and value.tzinfo is not None:
            value = value.astimezone(dt.UTC).replace(tzinfo=None)
        moments.append(value)
    series = pl.Series(name, moments, dtype=pl.Datetime("us"))
    return series.dt.replace_time_zone("UTC") if aware else series


def _pandas_column(column: Any, name: str) -> pl.Series:
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return _array_column(name, column.to_numpy())
    kind = type(dtype).__name__
    if kind == "CategoricalDtype":
        return _pandas_categories(column, name)
    if kind == "ArrowDtype":
        return _arrow_column(name, column.array.__arrow_array__())
    if kind == "StringDtype":
        if dtype.storage == "pyarrow":
            return _arrow_column(name, column.array.__arrow_array__()).cast(pl.String)
        return _object_column(name, column.to_numpy(dtype=object).tolist())
    if kind == "DatetimeTZDtype":
        instants = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        series = _array_column(name, instants).dt.replace_time_zone("UTC")
        try:
            return series.dt.convert_time_zone(str(dtype.tz))
        except pl.exceptions.PolarsError:
            return series
    if kind == "SparseDtype":
        return _array_column(name, column.sparse.to_dense().to_numpy())
    if getattr(dtype, "_is_numeric", False) or kind == "BooleanDtype":
        missing = column.isna().to_numpy()
        fill = False if kind == "BooleanDtype" else 0
        values = column.to_numpy(dtype=dtype.numpy_dtype, na_value=fill)
        series = _array_column(name, values)
        return series.set(pl.Series(missing), None) if missing.any() else series
    if kind == "PeriodDtype":
        return _array_column(name, column.dt.to_timestamp().to_numpy())
    raise TableError(
        f"column {name!r} must hold numbers, text, booleans or dates; got pandas dtype {dtype}; "
        "convert it, e.g. with .astype(str)"
    )


def _pandas_categories(column: Any, name: str) -> pl.Series:
    values = column.array if hasattr(column, "array") else column
    levels = as_series(values.categories, name=name)
    codes = pl.Series(np.asarray(values.codes).astype(np.int64))
    codes = codes.set(codes < 0, None)
    names = to_levels(levels)
    return names.gather(codes).alias(name).cast(pl.Categorical)
