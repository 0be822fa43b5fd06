"""Tables and columns in memory, of any library, as polars frames and series.

pandas, pyarrow and scipy are recognised without being imported: whoever holds one of their
objects has loaded them. Buffers are shared where both sides can (polars, pyarrow, NumPy columns).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import refuse_nested
from tabwright.tables.column_names import check_names, positional_names
from tabwright.tables.libraries.arrays import array_column
from tabwright.tables.libraries.arrow_columns import (
    arrow_column,
    first_line,
    frame_with,
    stored_row_labels,
    without_extension,
    without_extensions,
)
from tabwright.tables.libraries.objects import object_column
from tabwright.tables.libraries.pandas_columns import pandas_cells, pandas_column

# So few rows of a pandas frame are read cell by cell: what a column costs is more than its cells.
_FEW_ROWS = 16


def as_frame(
    X: object,
    *,
    names: Sequence[str] | None = None,
    estimator: str = "the estimator",
    min_rows: int = 1,
    numbers_are_names: bool = False,
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
    numbers_are_names : bool, default=False
        Whether the columns 0, 1, 2, ... of a pandas frame have these names, as other integers do.

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
    if _module(X) == "narwhals" and hasattr(X, "to_native"):
        X = X.to_native()
    frame, named = _frame_of(X, estimator)
    if numbers_are_names and not named and _module(X) == "pandas" and hasattr(X, "columns"):
        frame.columns = [str(place) for place in range(frame.width)]
        named = True
    if names is not None:
        if len(names) != frame.width:
            raise TableError(
                f"names must hold one name per column; got {len(names)} names for "
                f"{frame.width} columns"
            )
        if not named:
            check_names(names)
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
        return pandas_column(column, _column_name(getattr(values, "name", None), name))
    if module == "pyarrow":
        return arrow_column(name, values)
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
        return array_column(name, array)
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


def _frame_of(X: object, estimator: str) -> tuple[pl.DataFrame, bool]:
    """Any table as a polars frame, and whether its columns have names."""
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
    """An array of two dimensions, or a structured one, whose fields are names."""
    if array.dtype.names is not None and array.ndim == 1:
        columns = [array_column(name, array[name]) for name in array.dtype.names]
        return frame_with(columns), True
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
    names = positional_names(array.shape[1])
    if array.dtype.kind in "biuf" and array.dtype != np.longdouble and not np.ma.isMA(array):
        return pl.from_numpy(array, schema=names, orient="row"), False
    columns = [array_column(name, array[:, i]) for i, name in enumerate(names)]
    return frame_with(columns) if columns else pl.DataFrame(height=array.shape[0]), False


def _from_list(rows: Sequence[Any], estimator: str) -> tuple[pl.DataFrame, bool]:
    """A list of rows, or of dicts, whose keys are names."""
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
        check_names(list(names))
        columns = [object_column(name, [row.get(name) for row in rows]) for name in names]
        return frame_with(columns) if columns else pl.DataFrame(height=len(rows)), True
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
        object_column(name, [row[i] for row in rows])
        for i, name in enumerate(positional_names(width))
    ]
    return frame_with(columns) if columns else pl.DataFrame(height=len(rows)), False


def _from_arrow(table: Any) -> pl.DataFrame:
    names = list(table.column_names)
    check_names(names)
    labels = stored_row_labels((table.schema.metadata or {}).get(b"pandas"))
    columns = [
        arrow_column(name, table.column(i)) for i, name in enumerate(names) if name not in labels
    ]
    return frame_with(columns) if columns else pl.DataFrame(height=table.num_rows)


def _from_stream(X: Any) -> pl.DataFrame:
    """A frame of any library that hands over Arrow data."""
    try:
        return pl.DataFrame(X)
    except pl.exceptions.DuplicateError as error:
        raise TableError(
            f"column names must differ; {first_line(error)}; rename or drop the copies"
        ) from error
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"X must be a table of numbers, text, booleans and dates; got {type(X).__name__} "
            f"({first_line(error)}); cast its columns first"
        ) from error


def _from_interchange(X: Any) -> pl.DataFrame:
    """A frame of any library with the dataframe interchange protocol."""
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
            f"({first_line(error)}); convert it to a polars, pandas or pyarrow frame first"
        ) from error


def _from_pandas(X: Any) -> tuple[pl.DataFrame, bool]:
    """A pandas frame; integers from 0 on are positions, no names."""
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
        names = [str(label) for label in labels] if named else positional_names(len(labels))
    else:
        names = labels
    check_names(names)
    columns = pandas_cells(X, names) if len(X) <= _FEW_ROWS else None
    if columns is None:
        pairs = zip(names, X.items(), strict=True)
        columns = [pandas_column(column, name) for name, (_, column) in pairs]
    return frame_with(columns) if columns else pl.DataFrame(height=len(X)), named
