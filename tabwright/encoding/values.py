"""Columns and cells as plain numbers: the one place where features read values.

`tables` decides what a cell means; here its answers become NumPy arrays, and integers that
float64 cannot hold are brought near zero without loss.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.tables import to_booleans, to_levels, to_microseconds, to_numbers
from tabwright.tables.libraries.objects import object_column

Kind = Literal["unused", "numeric", "datetime", "boolean", "category"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Origin = int | Decimal | None

_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = 86_400_000_000
# What Python and polars read alike; Python does so in a thousandth of the time that a column takes.
_PLAIN_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.(?:[0-9]{3}|[0-9]{6}))?)?"
    r"(?:Z|[+-][01][0-9]:[0-5][0-9])?)?"
)


def numbers(column: pl.Series, origin: Origin) -> NDArray[np.float64]:
    """Numbers less their origin, float64 of shape (n,); NaN is missing."""
    values: NDArray[np.float64] = to_numbers(column, origin=origin).to_numpy()
    return values


def elapsed(moments: pl.Series, origin: int) -> NDArray[np.float64]:
    """Microseconds since the origin, float64 of shape (n,); NaN is missing."""
    # float64 is exact to the microsecond for 285 years around 1970, and cannot overflow.
    values: NDArray[np.float64] = (moments.cast(pl.Float64) - float(origin)).to_numpy()
    return values


def booleans(column: pl.Series) -> NDArray[np.float64]:
    """-1 for false and 1 for true, float64 of shape (n,); NaN is missing."""
    values: NDArray[np.float64] = (to_booleans(column).cast(pl.Float64) * 2.0 - 1.0).to_numpy()
    return values


_CHECKS: Mapping[Kind, Callable[[pl.Series], object]] = {
    "unused": len,
    "numeric": to_numbers,
    "datetime": to_microseconds,
    "boolean": to_booleans,
    "category": to_levels,
}


def check_cells(kind: Kind, column: pl.Series) -> None:
    """Raise the error of the first cell that does not fit its column, if there is one."""
    _CHECKS[kind](column)


def one(name: str, value: Any) -> pl.Series:
    """A cell as a column of its own, which it may be already.

    Other objects become what they would be in a list of dicts.
    """
    return value if isinstance(value, pl.Series) else object_column(name, [value])


def moment(name: str, value: Any) -> int | None:
    """A cell as microseconds since 1970-01-01 00:00 UTC; None is missing."""
    if value is None:
        return None
    kind = type(value)
    if kind is dt.datetime:
        since: dt.timedelta = value - (_EPOCH if value.tzinfo is None else _EPOCH_UTC)
        return since // _MICROSECOND
    if kind is dt.date:
        return int(value.toordinal() - _EPOCH_DAY) * _DAY
    if kind is str and _PLAIN_MOMENT.fullmatch(value):
        with contextlib.suppress(ValueError):  # no such day: the long way says so
            return moment(name, dt.datetime.fromisoformat(value))
    found: int | None = to_microseconds(one(name, value))[0]
    return found
