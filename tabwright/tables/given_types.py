"""Columns as types that are given, and types that are found piece by piece of a table.

Which type the text of a whole column has is found in `dtypes.py`.
"""

from __future__ import annotations

import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cell_format import USUAL, CellFormat, decimal_points
from tabwright.tables.cells import MISSING_MARKERS, NUMERIC_MARKERS, under_plain_name
from tabwright.tables.dtypes import text_column
from tabwright.tables.spellings.moments import parse_moments


@under_plain_name
def cast_column(
    series: pl.Series,
    dtype: pl.DataType | type[pl.DataType],
    form: CellFormat = USUAL,
    n_before: int = 0,
) -> pl.Series:
    """A column as the wanted type.

    `form`: how its text is written.
    `n_before`: rows of the table before this piece, for messages.
    Raises `TableError`: naming column, row of the table (from 1) and value, if a cell does not fit;
        or the type, if nothing is read as that.
    """
    wanted = dtype if isinstance(dtype, pl.DataType) else dtype()
    if series.dtype == wanted and wanted != pl.String:
        return series
    if series.dtype != pl.String:
        result = _cast(series, wanted)
        present = series
    else:
        present = series.str.strip_chars()
        markers = MISSING_MARKERS if form.missing is None else ("", *form.missing)
        present = present.set(present.is_in(list(markers)), None)
        if wanted == pl.String:
            return present
        if wanted.is_numeric() and form.missing is None:
            present = present.set(present.is_in(NUMERIC_MARKERS), None)
        result = _text_as(present, wanted, form.decimal)
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
    if wanted.is_numeric() and decimal != ".":
        text = decimal_points(text)
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
def text_kinds(series: pl.Series, decimal: str | None, missing: tuple[str, ...] | None) -> set[str]:
    """What a piece of a text column shows of the column's type, for `dtype_of_kinds`.

    Numbers in a spelling that is found out are text: other pieces may have another.
    """
    typed, _, form = text_column(series, decimal=decimal, missing=missing)
    present = typed.drop_nulls()
    if not present.len():
        return set()
    dtype = typed.dtype
    if dtype.is_temporal() and (form.missing != missing or form.spelling is not None):
        return {"text"}
    if dtype.is_numeric():
        as_asked = form == CellFormat("," if decimal == "," else ".", missing)
        spelt = series.str.strip_chars().cast(pl.Float64, strict=False)
        if not as_asked or (decimal != "," and spelt.null_count() > typed.null_count()):
            return {"text"}
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
