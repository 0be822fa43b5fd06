"""Tables and columns in memory, of any library, as polars frames and series.

pandas, pyarrow and scipy are recognised without being imported: whoever holds one of their
objects has loaded them. Buffers are shared where both sides can (polars, pyarrow, NumPy columns).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import refuse_nested, to_levels
from tabwright.tables.objects import object_column

# So few rows of a pandas frame are read cell by cell: what a column costs is more than its cells.
_FEW_ROWS = 16
_CELL_TYPES: dict[object, type[pl.DataType]] = {
    np.dtype(np.float64): pl.Float64,
    np.dtype(np.int64): pl.Int64,
    np.dtype(np.bool_): pl.Boolean,
}


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
        if isinstance(series.dtype, pl.BaseExtension):
            return as_frame(without_extensions(frame), estimator=estimator)[0], named
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
    column: Any
    if isinstance(values, pl.Series):
        return without_extension(values)
    if module == "pandas":
        column = values if hasattr(values, "index") else sys.modules["pandas"].Series(values)
        return _pandas_column(column, _column_name(getattr(values, "name", None), name))
    if module == "pyarrow":
        return _arrow_column(name, values)
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
        return object_column(name, list(values))
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
        return _from_list(X, estimator)
    if module == "narwhals" and hasattr(X, "to_native"):
        return _frame_of(X.to_native(), estimator)
    if hasattr(X, "__arrow_c_stream__") and not isinstance(X, pl.Series):
        return _from_stream(X), True
    if hasattr(X, "__dataframe__"):
        return _from_interchange(X), True
    if isinstance(X, np.ndarray) or hasattr(X, "__array__"):
        array = np.ma.asarray(X) if isinstance(X, np.ma.MaskedArray) else np.asarray(X)
        return _from_array(array)
    if isinstance(X, str | bytes) or hasattr(X, "__fspath__"):
        raise TableError(
            f"X must be a table in memory; got the {type(X).__name__} {str(X)[:80]!r}; "
            "read files with read_table(path)"
        )
    if isinstance(X, Mapping):
        raise TableError(
            "X must be a table; got a dict; put a single row into a list, [row], or make a frame "
            "of columns, polars.DataFrame(columns)"
        )
    raise TableError(
        "X must be a table: a polars, pandas or pyarrow frame, a 2-D NumPy array, a list of dicts "
        f"or a list of rows; got {type(X).__name__}"
    )


def _from_array(array: np.ndarray) -> tuple[pl.DataFrame, bool]:
    if array.dtype.names is not None and array.ndim == 1:
        columns = [_array_column(name, array[name]) for name in array.dtype.names]
        return _frame_with(columns), True
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
    return _frame_with(columns) if columns else pl.DataFrame(height=array.shape[0]), False


def _from_list(rows: Sequence[Any], estimator: str) -> tuple[pl.DataFrame, bool]:
    if not rows:
        raise TableError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required by "
            f"{estimator}."
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
        columns = [object_column(name, [row.get(name) for row in rows]) for name in names]
        return _frame_with(columns) if columns else pl.DataFrame(height=len(rows)), True
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
        object_column(name, [row[i] for row in rows]) for i, name in enumerate(_positions(width))
    ]
    return _frame_with(columns) if columns else pl.DataFrame(height=len(rows)), False


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
    labels = stored_row_labels((table.schema.metadata or {}).get(b"pandas"))
    columns = [
        _arrow_column(name, table.column(i)) for i, name in enumerate(names) if name not in labels
    ]
    return _frame_with(columns) if columns else pl.DataFrame(height=table.num_rows)


def stored_row_labels(metadata: bytes | str | None) -> set[str]:
    """Columns that hold the row labels of a pandas frame, which pandas stores beside its columns.

    `metadata`: what stands under the key "pandas" of an Arrow schema or of a Parquet file.
    """
    if metadata is None:
        return set()
    try:
        found = json.loads(metadata)
    except ValueError:
        return set()
    labels = found.get("index_columns", []) if isinstance(found, dict) else []
    return {name for name in labels if isinstance(name, str)}


def _frame_with(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """Series as a frame: by itself polars renames one whose name is the empty text."""
    return pl.DataFrame({column.name: column for column in columns})


def without_extension(series: pl.Series) -> pl.Series:
    """A column as the type below the name that another library gave it, such as arrow.json."""
    return series.ext.storage() if isinstance(series.dtype, pl.BaseExtension) else series


def without_extensions(frame: pl.DataFrame) -> pl.DataFrame:
    """`without_extension` of every column."""
    if not any(isinstance(dtype, pl.BaseExtension) for dtype in frame.dtypes):
        return frame
    return _frame_with([without_extension(series) for series in frame.get_columns()])


def _from_stream(X: Any) -> pl.DataFrame:
    try:
        return pl.DataFrame(X)
    except pl.exceptions.DuplicateError as error:
        raise TableError(
            f"column names must differ; {_first_line(error)}; rename or drop the copies"
        ) from error
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"X must be a table of numbers, text, booleans and dates; got {type(X).__name__} "
            f"({_first_line(error)}); cast its columns first"
        ) from error


def _from_interchange(X: Any) -> pl.DataFrame:
    try:
        from pyarrow.interchange import from_dataframe
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a {type(X).__name__} is read by way of pyarrow; pip install pyarrow"
        ) from error
    try:
        return _from_arrow(from_dataframe(X))
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise TableError(
            f"X must be a table of numbers, text, booleans and dates; got {type(X).__name__} "
            f"({_first_line(error)}); convert it to a polars, pandas or pyarrow frame first"
        ) from error


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
    columns = _pandas_cells(X, names) if len(X) <= _FEW_ROWS else None
    if columns is None:
        pairs = zip(names, X.items(), strict=True)
        columns = [_pandas_column(column, name) for name, (_, column) in pairs]
    return _frame_with(columns) if columns else pl.DataFrame(height=len(X)), named


# ---------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------


def _arrow_column(name: str, column: Any) -> pl.Series:
    import pyarrow as pa
    import pyarrow.compute as pc

    dtype = column.type
    try:
        if pa.types.is_decimal256(dtype):
            # polars holds 128 bits; where cells need more, pyarrow says so.
            column = column.cast(pa.decimal128(38, dtype.scale))
        elif pa.types.is_timestamp(dtype) and str(dtype.tz)[0] in "+-":
            # The same moments: polars knows zones by name only.
            column = column.cast(pa.timestamp(dtype.unit, "UTC"))
        elif pa.types.is_run_end_encoded(dtype):
            column = pc.run_end_decode(column)
        series = pl.from_arrow(column)
    except (pl.exceptions.PolarsError, ValueError, NotImplementedError) as error:
        raise TableError(
            f"column {name!r} must hold numbers, text, booleans or dates; got the Arrow type "
            f"{dtype} ({_first_line(error)}); cast it first"
        ) from error
    if not isinstance(series, pl.Series):
        raise TableError(f"column {name!r} must be one column; got {type(column).__name__}")
    return without_extension(series.alias(name))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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


def _pandas_cells(X: Any, names: Sequence[str]) -> list[pl.Series] | None:
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
        return object_column(name, column.to_numpy(dtype=object).tolist())
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
    if kind == "IntervalDtype":
        missing = pl.Series(column.isna().to_numpy())
        return object_column(name, column.astype(str).tolist()).set(missing, None)
    raise TableError(
        f"column {name!r} must hold numbers, text, booleans or dates; got pandas dtype {dtype}; "
        "convert it, e.g. with .astype(str)"
    )


def _pandas_categories(column: Any, name: str) -> pl.Series:
    values = column.array if hasattr(column, "array") else column
    categories = values.categories
    if type(categories.dtype).__name__ == "IntervalDtype":
        categories = categories.astype(str)
    levels = as_series(categories, name=name)
    codes = pl.Series(np.asarray(values.codes).astype(np.int64))
    codes = codes.set(codes < 0, None)
    names = to_levels(levels)
    return names.gather(codes).alias(name).cast(pl.Categorical)
