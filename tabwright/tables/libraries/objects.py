"""Python objects as columns: the one type that holds all cells of a column, or a clear refusal.

Lists, dicts and NumPy arrays of objects come through here; whole tables are put together in
`frames.py`.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import shown

_LARGEST_INTEGER: Final = 2**64
_EPOCH: Final = dt.datetime(1970, 1, 1)
_EPOCH_UTC: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# What a polars Decimal holds: digits in all, and so behind the point.
_DECIMAL_DIGITS: Final = 38


def plain_cell(cell: Any) -> Any:
    """A cell as a plain Python value: NumPy scalars unwrapped, NaN, NaT and NA as None."""
    if isinstance(cell, np.datetime64 | np.timedelta64):
        # In nanoseconds `item` would give an integer, in years a date that lost its unit.
        unit = "D" if np.datetime_data(cell.dtype)[0] == "D" else "us"
        kind = "datetime64" if isinstance(cell, np.datetime64) else "timedelta64"
        return cell.astype(f"{kind}[{unit}]").item()
    if isinstance(cell, np.longdouble):
        # Its `item` gives itself.
        cell = float(cell)
    elif isinstance(cell, np.generic):
        cell = cell.item()
    return None if _is_missing(cell) else cell


def _is_missing(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, float):
        return value != value
    if isinstance(value, Decimal):
        return value.is_nan()
    return type(value).__name__ in ("NAType", "NaTType")


def object_column(name: str, cells: Sequence[Any]) -> pl.Series:
    """Python objects as a column of the one type that holds them all.

    `cells`: None, NaN, NaT and NA are missing.
    Returns: integers are Int64, UInt64, or their digits as String past 64 bits; integers with
        fractions Float64; Decimals, with or without integers, Decimal where 38 digits hold them
        all, else Float64; numbers beside text are text; dates beside datetimes are datetimes, UTC
        if any has a zone.
    Raises `TableError`: naming column, row (from 1) and value, if a cell is no single value, or if
        the kinds have no common type.
    """
    values = [plain_cell(cell) for cell in cells]
    kinds = {type(value) for value in values}
    kinds.discard(type(None))
    if not kinds:
        floats = any(isinstance(cell, float) for cell in cells)
        return pl.Series(name, values, dtype=pl.Float64 if floats else pl.Null)
    _refuse_other_kinds(name, values)

    def every(*bases: type) -> bool:
        return all(issubclass(kind, bases) for kind in kinds)

    if every(str):
        return _texts(name, values)
    if any(issubclass(kind, str) for kind in kinds):
        # Numbers beside text: their canonical text, so that 1 and "1" stay one level.
        return _texts(name, [_text_of(value) for value in values])
    if every(bool):
        return pl.Series(name, values, dtype=pl.Boolean)
    if every(int) and bool not in kinds:
        return _integers(name, values)
    if every(Decimal, int) and not every(int):
        return _decimals(name, values)
    if every(bool, int, float, Decimal):
        return _floats(name, values)
    if every(dt.timedelta):
        return pl.Series(name, values, dtype=pl.Duration("us"))
    if every(dt.time) or kinds == {dt.date}:
        return pl.Series(name, values)
    if every(dt.date):
        return _instants(name, values)
    first, *_, last = sorted(kind.__name__ for kind in kinds)
    raise TableError(
        f"column {name!r} must hold values of one kind; got {first} and {last}; convert them first"
    )


def _refuse_other_kinds(name: str, values: Sequence[Any]) -> None:
    """Refuse cells that are no single values, such as lists."""
    known = (bool, int, float, str, Decimal, dt.date, dt.timedelta, dt.time)
    for row, value in enumerate(values, 1):
        if isinstance(value, complex):
            raise TableError(f"Complex data not supported: column {name!r}, row {row}: {value}")
        if value is not None and not isinstance(value, known):
            raise TableError(
                f"column {name!r} must hold single values (numbers, text, booleans, dates); got "
                f"{shown(value)} ({type(value).__name__}) in row {row}; split it into columns or "
                "leave it out"
            )


def _texts(name: str, values: Sequence[str | None]) -> pl.Series:
    """A column of text; half a surrogate pair is an error."""
    try:
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
    except UnicodeEncodeError as error:
        row = next(i for i, v in enumerate(values, 1) if v is not None and v == error.object)
        raise TableError(
            f"column {name!r} must hold text that is Unicode; got {shown(error.object)} in row "
            f"{row}, half of a surrogate pair; decode the text anew, or leave the cell empty"
        ) from None


def _integers(name: str, values: Sequence[int | None]) -> pl.Series:
    """A column of integers, of text past 64 bits."""
    present = [value for value in values if value is not None]
    low, high = min(present), max(present)
    if low >= -(2**63) and high < 2**63:
        return pl.Series(name, values, dtype=pl.Int64)
    if low >= 0 and high < _LARGEST_INTEGER:
        return pl.Series(name, values, dtype=pl.UInt64)
    # Past 64 bits an integer is a name; a float would merge neighbours.
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def _floats(name: str, values: Sequence[Any]) -> pl.Series:
    return pl.Series(name, [None if v is None else _float(v) for v in values], dtype=pl.Float64)


def _float(value: float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _decimals(name: str, values: Sequence[Decimal | int | None]) -> pl.Series:
    """A column of decimals, exact where 38 digits suffice, else of floats."""
    numbers = [None if value is None else Decimal(value) for value in values]
    present = [number for number in numbers if number is not None]
    if all(number.is_finite() for number in present):
        # Digits before and behind the point that hold every number.
        scale = max(max(-int(number.as_tuple().exponent), 0) for number in present)
        whole = max(max(number.adjusted() + 1, 0) for number in present)
        if whole + scale <= _DECIMAL_DIGITS:
            return pl.Series(name, numbers, dtype=pl.Decimal(_DECIMAL_DIGITS, scale))
        if len({float(number) for number in present}) < len(set(present)):
            raise TableError(
                f"column {name!r} must hold numbers of at most {_DECIMAL_DIGITS} digits in all, or "
                f"such as float64 can tell apart; got {whole} digits before the point and {scale} "
                "behind it; round them, or pass them as text if they are names"
            )
    return _floats(name, numbers)


def _text_of(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return str(int(value))
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def _instants(name: str, values: Sequence[Any]) -> pl.Series:
    """Dates and datetimes; UTC if any has a zone, and those without are taken as UTC."""
    aware = any(isinstance(v, dt.datetime) and v.tzinfo is not None for v in values)
    # As integers: the last day of 9999 in New York is past what a Python datetime in UTC can be.
    series = pl.Series(name, [_microseconds(v) for v in values], dtype=pl.Int64)
    series = series.cast(pl.Datetime("us"))
    return series.dt.replace_time_zone("UTC") if aware else series


def _microseconds(value: dt.date | None) -> int | None:
    if value is None:
        return None
    if not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    since: dt.timedelta = value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)
    return since // dt.timedelta(microseconds=1)
