"""What the cells of one column mean: a column as numbers, levels, booleans, instants.

Reading a file and encoding a frame in memory go through the same rules here, so that a column
means the same however it arrived. Nothing here knows of files or of whole tables; which type a
column of text has is decided in `tables/dtypes.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar, cast

import polars as pl

from tabwright.errors import TableError
from tabwright.tables.spellings.moments import parse_instants, parse_moments
from tabwright.tables.spellings.number_marks import plain_numbers

# Text that stands for a missing cell in any column, spaces around it aside.
_FLAT: Final = frozenset((pl.Float64, pl.Int64, pl.String, pl.Boolean, pl.Datetime))
MISSING_MARKERS: Final[tuple[str, ...]] = (
    "",
    "?",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "-nan",
    "-NaN",
    "NaT",
    "NULL",
    "Null",
    "null",
)
# Text that stands for a missing cell only where every other cell is a number: in a text column
# "None" or "-" may be a level of its own.
NUMERIC_MARKERS: Final[tuple[str, ...]] = (
    "None",
    "none",
    "na",
    "-",
    "--",
    ".",
    "#DIV/0!",
    "#NUM!",
    "#REF!",
    "#VALUE!",
)
# In longer columns that repeat themselves, text is looked at once per distinct cell.
_FEW_CELLS: Final = 10_000
_LARGEST_EXACT: Final = 2**53
LEADING_ZERO: Final = r"^[+-]?0[0-9]"
DIGITS: Final = r"^[+-]?[0-9]+$"
# Bounds of what could be measured, and their names.
_LIMIT: Final = "(?i:[lu]?lo[dq]|[mpr]?[dqr]l)"
BOUND: Final = (
    rf"^(?:(?:[<>\x{{2264}}\x{{2265}}]=?|&[lg]t;) ?(?:[0-9]+(?:[.,][0-9]+)?|{_LIMIT})|"
    r"(?i:b[dq]l|bl[dq]|blo[dq]|alq|a?uloq|lo[dq]))$"
)
_COMMA_FRACTION: Final = r"^[-+]?[0-9]+,[0-9]+$"
_NO_NUMBER: Final = (
    "correct the cell, leave it empty if it is missing, or give the column the role 'category'"
)
_NUMBER_START: Final = r"^(?:[+\-.]?[0-9.]|[+-]?(?i:inf)|(?i:true$|false$))"


_Function = TypeVar("_Function", bound=Callable[..., Any])


def under_plain_name(function: _Function) -> _Function:
    """A function of a series, safe for any name: polars reads ``^...$`` as a pattern of names.

    Such a column has another name inside; a series that is returned has its own again.
    """

    @functools.wraps(function)
    def wrapped(series: pl.Series, *args: Any, **options: Any) -> Any:
        name = series.name
        if name[:1] != "^" or name[-1:] != "$":
            return function(series, *args, **options)
        try:
            result = function(series.alias(f"{name} "), *args, **options)
        except TableError as error:
            raise TableError(str(error).replace(repr(f"{name} "), repr(name))) from error
        if isinstance(result, tuple):
            return tuple(r.alias(name) if isinstance(r, pl.Series) else r for r in result)
        return result.alias(name) if isinstance(result, pl.Series) else result

    return cast(_Function, wrapped)


def is_missing(series: pl.Series) -> pl.Series:
    """Which cells are null or NaN: booleans, of a series without a name."""
    series = series.alias("")  # polars reads some names as patterns
    return (series.fill_nan(None) if series.dtype.is_float() else series).is_null()


@under_plain_name
def to_numbers(
    series: pl.Series, *, origin: int | Decimal | None = None, way_out: str = _NO_NUMBER
) -> pl.Series:
    """A column as Float64, missing cells as null.

    Parameters
    ----------
    series : polars.Series
        Numbers, booleans, durations and times of day (in seconds), or text that is numbers.
    origin : int or Decimal, optional
        Subtracted before the cast, exactly: integers past 2**53 and Decimals that differ stay
        different near it. See `exact_origin`.
    way_out : str, optional
        What an error about text that is no number says last.

    Returns
    -------
    polars.Series of Float64
        Same name and length; infinities stay, NaN becomes null.

    Raises
    ------
    TableError
        Naming column, row (from 1) and value, if a cell is no number.
    """
    refuse_nested(series)
    name, dtype = series.name, series.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        series = number_text(series.cast(pl.String), way_out=way_out)
        dtype = series.dtype
    if dtype == pl.Null:
        return series.cast(pl.Float64)
    if dtype == pl.Boolean:
        series, dtype = series.cast(pl.Int64), pl.Int64()
    if dtype in (pl.Duration, pl.Time):
        return (series.cast(pl.Int64) / _units_per_second(dtype)).alias(name)
    if not dtype.is_numeric():
        row = int(series.is_not_null().arg_max() or 0)
        raise TableError(
            f"column {name!r} must hold numbers; got {str(series[row])!r} ({dtype}) in row "
            f"{row + 1}; give it another role, or convert it first"
        )
    if origin is not None:
        series = _minus(series, origin)
    numbers = series.cast(pl.Float64)
    # A sum is NaN where a cell is; it takes a hundredth of the time of `fill_nan` on few rows.
    if dtype.is_float() and math.isnan(numbers.sum()):
        numbers = numbers.fill_nan(None)
    return numbers.alias(name)


def _units_per_second(dtype: pl.DataType) -> int:
    if isinstance(dtype, pl.Duration):
        return {"ms": 10**3, "us": 10**6, "ns": 10**9}[dtype.time_unit]
    return 10**9


def number_text(series: pl.Series, *, way_out: str = _NO_NUMBER) -> pl.Series:
    """Text of numbers as Int64, UInt64, Int128 or Float64; missing cells as null.

    `way_out`: what an error says last.
    Raises `TableError`: naming column, row (from 1) and value, if a cell is no number.
    """
    text = series.str.strip_chars()
    text = text.set(text.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS]), None)
    n_null = text.null_count()
    for spelled in (text, None):
        cells = plain_numbers(text) if spelled is None else spelled
        for dtype in (pl.Int64, pl.UInt64, pl.Int128, pl.Float64):
            numbers = cells.cast(dtype, strict=False)
            if numbers.null_count() == n_null:
                return numbers
    row = int((numbers.is_null() & text.is_not_null()).arg_max() or 0)
    if text.slice(row, 1).str.contains(_COMMA_FRACTION).any():
        way_out = (
            "correct the cell, leave it empty if it is missing, or set decimal=',' if its comma is "
            "the decimal mark"
        )
    raise TableError(
        f"column {series.name!r} must hold numbers; got {series[row]!r} in row {row + 1}; {way_out}"
    )


def _minus(series: pl.Series, origin: int | Decimal) -> pl.Series:
    """The differences from a number, exact for integers and decimals."""
    dtype = series.dtype
    if isinstance(dtype, pl.Decimal):
        # Powers of ten out of both sides leave integers, whose difference is exact.
        shift = dtype.scale or 0
        units = series.cast(pl.String).str.replace(".", "", literal=True).cast(pl.Int128)
        whole = int(Decimal(origin).scaleb(shift).to_integral_value())
        return (units - pl.Series([whole], dtype=pl.Int128)).cast(pl.Float64) / float(10**shift)
    if dtype.is_float() or origin != int(origin):
        return series.cast(pl.Float64) - float(origin)
    return series.cast(pl.Int128) - pl.Series([int(origin)], dtype=pl.Int128)


@under_plain_name
def exact_origin(series: pl.Series) -> int | Decimal | None:
    """Where to put zero so that a column's numbers stay apart in float64, or None if they do.

    Parameters
    ----------
    series : polars.Series

    Returns
    -------
    int, Decimal or None
        The lower median of integers of which one is past 2**53, and of Decimals with more than
        15 digits; None for every other column.
    """
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String).str.strip_chars()
        if not text.str.contains(r"^[+-]?[0-9]{16,}$").any():
            return None
        series = number_text(series.cast(pl.String))
    present, dtype = series.drop_nulls(), series.dtype
    if not present.len() or not (dtype.is_integer() or isinstance(dtype, pl.Decimal)):
        return None
    low, high = present.min(), present.max()
    if not isinstance(low, int | Decimal) or not isinstance(high, int | Decimal):
        return None
    largest = max(abs(Decimal(low)), abs(Decimal(high)))
    if isinstance(dtype, pl.Decimal):
        if largest.scaleb(dtype.scale or 0) < 10**15:
            return None
    elif largest <= _LARGEST_EXACT:
        return None
    middle = present.sort()[(present.len() - 1) // 2]
    return middle if isinstance(middle, int | Decimal) else None


@under_plain_name
def to_levels(series: pl.Series, *, markers: Sequence[str] | None = None) -> pl.Series:
    """A column as the names of its levels; missing cells as null.

    A value has one name, whatever type brought it: `1`, `1.0`, `"1"` and `" 1 "` are `1`, true
    in any case or type is `true`, and an instant is its ISO 8601 form in UTC. A number with a
    leading zero keeps it, and integers past 64 bits stay the text they are.

    Parameters
    ----------
    series : polars.Series
    markers : sequence of str, optional
        Where given, text is the level that it is, but for spaces around it, and these are the
        missing ones.

    Returns
    -------
    polars.Series of String
        Same name and length.

    Raises
    ------
    TableError
        If cells are lists, structs, bytes or objects.
    """
    dtype = series.dtype
    refuse_nested(series)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        if markers is not None:
            text = series.cast(pl.String).str.strip_chars()
            return text.set(text.is_in(list(markers)), None)
        return _level_text(series.cast(pl.String))
    if dtype in (pl.Null, pl.Boolean) or dtype.is_integer():
        return series.cast(pl.String)
    if dtype == pl.Float64:
        return _float_text(series)
    if dtype.is_float():
        # The shortest text of a float32 names the same number as a float64 of that text.
        return _float_text(series.cast(pl.Float32).cast(pl.String).cast(pl.Float64))
    if dtype.is_decimal():
        return _level_text(
            series.cast(pl.String).str.replace(r"(\.[0-9]*?)0+$", "$1").str.strip_suffix(".")
        )
    if dtype in (pl.Date, pl.Datetime):
        return _instant_text(_utc(series))
    return series.cast(pl.Int64).cast(pl.String)


def _level_text(series: pl.Series) -> pl.Series:
    """The canonical names of text cells; None is missing."""
    if series.len() > _FEW_CELLS:
        cells = series.unique()
        if cells.len() * 4 < series.len():
            return _renamed(series, cells, _level_text(cells))
    text = series.str.strip_chars()
    text = text.set(text.is_in(MISSING_MARKERS), None)
    special = text.str.contains(_NUMBER_START)
    if not special.any():
        return text
    cells = text.filter(special).unique()
    return _renamed(text, cells, _cell_names(cells))


def _renamed(text: pl.Series, cells: pl.Series, names: pl.Series) -> pl.Series:
    """The text with some of its cells under other names; null is a name too."""
    changed = cells.ne_missing(names)
    if not changed.any():
        return text
    return text.replace(cells.filter(changed), names.filter(changed))


def _cell_names(cells: pl.Series) -> pl.Series:
    """The canonical names of text cells that may be numbers, booleans or instants."""
    number = cells.cast(pl.Float64, strict=False)
    # Past 64 bits, digits are a name and stay as they are.
    number = number.set(cells.str.contains(DIGITS), None)
    lower = cells.str.to_lowercase()
    readings = pl.DataFrame(
        {
            "cell": cells,
            "whole": cells.cast(pl.Int64, strict=False).cast(pl.String),
            "wide": cells.cast(pl.UInt64, strict=False).cast(pl.String),
            "number": _float_text(number),
            "truth": lower.set(~lower.is_in(["true", "false"]), None),
            "instant": _instant_text(parse_instants(cells)),
        }
    )
    return readings.select(
        pl.when(pl.col("cell").str.contains(LEADING_ZERO))
        .then(pl.coalesce("instant", "cell"))
        .otherwise(pl.coalesce("whole", "wide", "number", "truth", "instant", "cell"))
        .alias(cells.name)
    ).to_series()


def _float_text(numbers: pl.Series) -> pl.Series:
    """Integral floats as integers, others as the shortest text that reads back the same."""
    integral = numbers.set(numbers != numbers.floor(), None).cast(pl.Int64, strict=False)
    text = integral.cast(pl.String).alias(numbers.name)
    rest = numbers.filter(integral.is_null() & numbers.is_not_null() & numbers.is_not_nan())
    if not rest.len():
        return text
    # Python's repr is the same in every version; the text of a polars cast is not.
    values = rest.unique()
    names = pl.Series([repr(value) for value in values.to_list()], dtype=pl.String)
    floats = numbers.replace_strict(values, names, default=None, return_dtype=pl.String)
    return text.zip_with(integral.is_not_null(), floats).alias(numbers.name)


def _instant_text(moments: pl.Series) -> pl.Series:
    text = moments.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    return text.str.strip_suffix(".000000").str.strip_suffix("T00:00:00").alias(moments.name)


@under_plain_name
def to_booleans(series: pl.Series) -> pl.Series:
    """A column as Boolean: booleans, 0 and 1, or text of either; missing cells as null.

    Raises
    ------
    TableError
        Naming column, row (from 1) and value, if a cell is none of these.
    """
    if series.dtype in (pl.Boolean, pl.Null):
        return series.cast(pl.Boolean)
    levels = to_levels(series)
    bad = ~levels.is_in(["true", "false", "0", "1"]) & levels.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise TableError(
            f"column {series.name!r} must hold true and false (or 1 and 0); got "
            f"{series[row]!r} in row {row + 1}; give it the role 'category' or correct the cell"
        )
    return levels.is_in(["true", "1"]).set(levels.is_null(), None).alias(series.name)


@under_plain_name
def to_microseconds(series: pl.Series, *, column: str | None = None) -> pl.Series:
    """A column of dates or times as microseconds since 1970-01-01 UTC.

    Parameters
    ----------
    series : polars.Series
        Date, Datetime (without a zone: taken as UTC), or ISO 8601 text.
    column : str, optional
        Name for messages; the series' own by default.

    Returns
    -------
    polars.Series of Int64
        Missing cells as null.

    Raises
    ------
    TableError
        Naming column, row (from 1) and value, if a cell is no date or time.
    """
    refuse_nested(series)
    name = series.name if column is None else column
    if series.dtype.is_float():
        # What has no value at all may come as a column of NaN.
        series = series.fill_nan(None)
    if series.dtype == pl.Null:
        return series.cast(pl.Int64)
    if series.dtype in (pl.Date, pl.Datetime):
        return _utc(series).cast(pl.Int64)
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = series.cast(pl.String).str.strip_chars()
        text = text.set(text.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS]), None)
        moments = parse_moments(text)
        bad = moments.is_null() & text.is_not_null()
    else:
        bad = series.is_not_null()
        moments = pl.Series(series.name, [None] * series.len(), dtype=pl.Datetime("us"))
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise TableError(
            f"column {name!r} must hold dates or times as YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS; got "
            f"{series[row]!r} in row {row + 1}; correct the cell or give the column another role"
        )
    return moments.cast(pl.Int64)


def _utc(series: pl.Series) -> pl.Series:
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us"))


def is_nested(dtype: pl.DataType) -> bool:
    """Whether cells of the type are lists, structs, bytes or Python objects."""
    # The common ones first: one row of a table has little time for its columns.
    return type(dtype) not in _FLAT and (dtype.is_nested() or dtype in (pl.Object, pl.Binary))


def refuse_nested(series: pl.Series) -> None:
    """Refuse a column whose cells are lists, structs, bytes or Python objects.

    Raises `TableError`: naming column, row (from 1) and value.
    """
    dtype = series.dtype
    if not is_nested(dtype):
        return
    row = int(series.is_not_null().arg_max() or 0)
    value = series[row] if series.len() else None
    value = value.to_list() if isinstance(value, pl.Series) else value
    raise TableError(
        f"column {series.name!r} must hold single values (numbers, text, booleans, dates); got "
        f"{shown(value)} ({dtype}) in row {row + 1}; split it into columns or leave it out"
    )


def shown(value: object, limit: int = 80) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
