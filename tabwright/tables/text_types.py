"""Types that are given, or found piece by piece; a cell that does not fit its type is named.

What the text of a whole column means by itself is decided in `dtypes.read_text`.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import (
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    parse_moments,
    under_plain_name,
)
from tabwright.tables.dtypes import read_text

__all__ = ["Dtypes", "cast_column", "dtype_of_kinds", "text_kinds"]

Dtypes = Mapping[str, pl.DataType | type[pl.DataType]]


@under_plain_name
def cast_column(
    series: pl.Series, dtype: pl.DataType | type[pl.DataType], decimal: str, n_before: int = 0
) -> pl.Series:
    """A column as the wanted type.

    Parameters
    ----------
    series : polars.Series
    dtype : polars dtype
    decimal : {".", ","}
        What separates the fraction of a number in text.
    n_before : int, default=0
        Rows of the table before this piece, for messages.

    Raises
    ------
    TableError
        Naming column, row of the table (from 1) and value, if a cell does not fit; or the type, if
        nothing is read as that.
    """
    wanted = dtype if isinstance(dtype, pl.DataType) else dtype()
    if series.dtype == wanted and wanted != pl.String:
        return series
    if series.dtype != pl.String:
        result = _cast(series, wanted)
        present = series
    else:
        present = series.str.strip_chars()
        present = present.set(present.is_in(MISSING_MARKERS), None)
        if wanted == pl.String:
            return present
        if wanted.is_numeric():
            present = present.set(present.is_in(NUMERIC_MARKERS), None)
        result = _text_as(present, wanted, decimal)
    bad = result.is_null() & present.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise TableError(
            f"column {series.name!r} must hold {wanted}; got {series[row]!r} in row "
            f"{n_before + row + 1}; correct the cell, leave it empty if it is missing, or read the "
            f"column as another type with dtypes={{{series.name!r}: ...}}"
        )
    return result


def _text_as(text: pl.Series, wanted: pl.DataType, decimal: str) -> pl.Series:
    """Text as the wanted type, null where a cell does not fit."""
    if wanted == pl.Boolean:
        lower = text.str.to_lowercase()
        return lower.replace_strict(
            ["true", "1", "false", "0"],
            [True, True, False, False],
            default=None,
            return_dtype=pl.Boolean,
        )
    if wanted in (pl.Date, pl.Datetime):
        moments = parse_moments(text)
        if isinstance(wanted, pl.Datetime) and wanted.time_zone is not None:
            moments = moments.dt.replace_time_zone("UTC")
        return moments.cast(wanted)
    if wanted.is_float() and decimal != ".":
        text = text.str.replace(decimal, ".", literal=True)
    if wanted == pl.Time:
        return text.str.to_time("%H:%M:%S%.f", strict=False)
    return _cast(text, wanted)


def _cast(series: pl.Series, wanted: pl.DataType) -> pl.Series:
    try:
        return series.cast(wanted, strict=False)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"column {series.name!r} must have a type that {series.dtype} can be read as; got "
            f"{wanted} in dtypes; read it as it is, and convert it afterwards"
        ) from error


@under_plain_name
def text_kinds(series: pl.Series, decimal: str) -> set[str]:
    """What a piece of a text column shows of the column's type, for `dtype_of_kinds`."""
    typed, _ = read_text(series, decimal=decimal)
    present = typed.drop_nulls()
    if not present.len():
        return set()
    dtype = typed.dtype
    if dtype == pl.Int64:
        low = present.min()
        return {"whole", "negative"} if isinstance(low, int) and low < 0 else {"whole"}
    if dtype == pl.UInt64:
        return {"whole", "wide"}
    if dtype.is_float():
        return {"float"}
    if isinstance(dtype, pl.Datetime):
        return {"moment"} if dtype.time_zone is None else {"moment", "zone"}
    if dtype == pl.Boolean:
        return {"boolean"}
    if dtype == pl.Date:
        return {"date"}
    return {"marker"} if present.is_in(NUMERIC_MARKERS).all() else {"text"}


def dtype_of_kinds(kinds: set[str]) -> pl.DataType:
    """The type of the whole column, by what its pieces show."""
    numeric = {"whole", "negative", "wide", "float", "marker"}
    if kinds & (numeric - {"marker"}) and kinds <= numeric:
        if "wide" in kinds:
            return pl.String() if kinds & {"negative", "float"} else pl.UInt64()
        return pl.Float64() if "float" in kinds else pl.Int64()
    if kinds == {"boolean"}:
        return pl.Boolean()
    if kinds == {"date"}:
        return pl.Date()
    if kinds and kinds <= {"date", "moment", "zone"}:
        return pl.Datetime("us", "UTC" if "zone" in kinds else None)
    return pl.String()
