"""pyarrow columns, and what Arrow tables say of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from tabwright.errors import TableError

# By the frequency of pandas periods: how many of which unit of NumPy one is.
_PERIODS: Final = {
    **dict.fromkeys(("Y-DEC", "A-DEC"), (1, "Y")),
    "Q-DEC": (3, "M"),
    "M": (1, "M"),
    "D": (1, "D"),
    **dict.fromkeys(("h", "H"), (1, "h")),
    **dict.fromkeys(("min", "T"), (1, "m")),
    **dict.fromkeys(("s", "S"), (1, "s")),
    **{name: (1, name) for name in ("ms", "us", "ns")},
}


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
    """A column as the type below the name that another library gave it, such as arrow.json.

    Periods of pandas become the moments at which they begin, as those of a pandas frame do.
    Raises `TableError` at periods that pandas alone can tell, such as weeks that end on Sunday.
    """
    dtype = series.dtype
    if not isinstance(dtype, pl.BaseExtension):
        return series
    if dtype.ext_name() == "pandas.period":
        return _period_starts(series, str(json.loads(dtype.ext_metadata() or "{}").get("freq")))
    return series.ext.storage()


def _period_starts(periods: pl.Series, frequency: str) -> pl.Series:
    """The first moments of pandas periods, which are counts since 1970."""
    count, unit = _PERIODS.get(frequency, (0, ""))
    if not unit:
        raise TableError(
            f"column {periods.name!r} must hold moments; got periods of pandas of the frequency "
            f"{frequency!r}; write their beginnings, df[name].dt.to_timestamp()"
        )
    whole = periods.ext.storage()
    starts = (whole.fill_null(0).to_numpy() * count).astype(f"datetime64[{unit}]")
    found = pl.Series(periods.name, starts.astype("datetime64[us]"))
    return found.set(whole.alias("").is_null(), None)


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
