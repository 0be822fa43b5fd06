"""pyarrow columns, and what Arrow tables say of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from tabwright.errors import TableError


def arrow_column(name: str, column: Any) -> pl.Series:
    """A pyarrow column by another name; raises `TableError` at types that tables do not have."""
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
            f"{dtype} ({first_line(error)}); cast it first"
        ) from error
    if not isinstance(series, pl.Series):
        raise TableError(f"column {name!r} must be one column; got {type(column).__name__}")
    return without_extension(series.alias(name))


def without_extension(series: pl.Series) -> pl.Series:
    """A column as the type below the name that another library gave it, such as arrow.json."""
    return series.ext.storage() if isinstance(series.dtype, pl.BaseExtension) else series


def without_extensions(frame: pl.DataFrame) -> pl.DataFrame:
    """`without_extension` of every column."""
    if not any(isinstance(dtype, pl.BaseExtension) for dtype in frame.dtypes):
        return frame
    return frame_with([without_extension(series) for series in frame.get_columns()])


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


def frame_with(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """Series as a frame: by itself polars renames one whose name is the empty text."""
    return pl.DataFrame({column.name: column for column in columns})


def first_line(error: Exception) -> str:
    """The first line of what a library says, or the kind of its error."""
    return (str(error).splitlines() or [type(error).__name__])[0]
