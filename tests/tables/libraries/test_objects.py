"""Python objects as columns: one type that holds every cell, and nothing lost in silence."""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables.cells import to_levels, to_numbers
from tabwright.tables.libraries.objects import object_column, plain_cell


class _Code(enum.IntEnum):
    A = 3


class _Name(enum.StrEnum):
    A = "a"


EAST = dt.timezone(dt.timedelta(hours=2))
WEST = dt.timezone(-dt.timedelta(hours=5))
KINDS: dict[str, tuple[list[Any], pl.DataType | type[pl.DataType], list[Any]]] = {
    "nothing": ([None, pd.NA, pd.NaT], pl.Null, [None] * 3),
    "no number": ([None, float("nan")], pl.Float64, [None, None]),
    "booleans": ([True, None, np.False_], pl.Boolean, [True, None, False]),
    "integers": ([2**53 + 1, -1], pl.Int64, [2**53 + 1, -1]),
    "large integers": ([2**64 - 1, 0], pl.UInt64, [2**64 - 1, 0]),
    "huge integers": ([2**64, 1], pl.String, [str(2**64), "1"]),
    "integers of an enum": ([_Code.A, 4], pl.Int64, [3, 4]),
    "booleans and integers": ([True, 2], pl.Float64, [1.0, 2.0]),
    "floats past float64": ([10**400, -(10**400), 0.5], pl.Float64, [np.inf, -np.inf, 0.5]),
    "text": (["a", None, np.str_("b"), _Name.A], pl.String, ["a", None, "b", "a"]),
    "text and numbers": (["a", 1.0, True, 2.5], pl.String, ["a", "1", "true", "2.5"]),
    "dates": ([dt.date(2020, 1, 2), None], pl.Date, [dt.date(2020, 1, 2), None]),
    "dates and times": (
        [dt.date(2020, 1, 2), dt.datetime(2020, 1, 2, 3)],
        pl.Datetime("us"),
        [dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 2, 3)],
    ),
    "zoned and other times": (
        [dt.datetime(2020, 1, 2, 3, tzinfo=EAST), dt.datetime(2020, 1, 2, 3)],
        pl.Datetime("us", "UTC"),
        [dt.datetime(2020, 1, 2, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC)],
    ),
    "pandas times": (
        [pd.Timestamp("2020-01-02 03:00", tz="Europe/Berlin"), pd.NaT],
        pl.Datetime("us", "UTC"),
        [dt.datetime(2020, 1, 2, 2, tzinfo=dt.UTC), None],
    ),
    "NumPy times in nanoseconds": (
        [np.datetime64("2020-01-02T03", "ns"), np.datetime64("NaT", "ns")],
        pl.Datetime("us"),
        [dt.datetime(2020, 1, 2, 3), None],
    ),
    "NumPy dates": ([np.datetime64("2020-01-02")], pl.Date, [dt.date(2020, 1, 2)]),
    "spans": ([dt.timedelta(1), None], pl.Duration("us"), [dt.timedelta(1), None]),
    "pandas spans": ([pd.Timedelta(1, "s")], pl.Duration("us"), [dt.timedelta(seconds=1)]),
    "NumPy spans": ([np.timedelta64(5, "ns")], pl.Duration("us"), [dt.timedelta(0)]),
    "times of day": ([dt.time(10)], pl.Time, [dt.time(10)]),
    "Decimals": (
        [Decimal("1.10"), Decimal("-2.225"), Decimal("NaN"), None],
        pl.Decimal(38, 3),
        [Decimal("1.100"), Decimal("-2.225"), None, None],
    ),
    "Decimals and integers": (
        [Decimal("12345678901234567.01"), 1],
        pl.Decimal(38, 2),
        [Decimal("12345678901234567.01"), Decimal("1.00")],
    ),
    "Decimals and floats": ([Decimal("1.5"), 2.0], pl.Float64, [1.5, 2.0]),
    "Decimals too large": ([Decimal("1e50"), Decimal(1)], pl.Float64, [1e50, 1.0]),
    "Decimals too small": ([Decimal("1e-50"), Decimal(1)], pl.Float64, [1e-50, 1.0]),
    "infinite Decimals": ([Decimal("Infinity"), Decimal(1)], pl.Float64, [np.inf, 1.0]),
}


@pytest.mark.parametrize("name", KINDS)
def test_cells_get_the_one_type_that_holds_them_all(name: str) -> None:
    cells, dtype, wanted = KINDS[name]
    series = object_column("x", cells)
    assert series.dtype == dtype
    assert series.to_list() == wanted
    assert series.name == "x"


def test_the_end_of_time_has_a_zone_too() -> None:
    last = dt.datetime(9999, 12, 31, 23, tzinfo=WEST)
    series = object_column("x", [last, dt.datetime(1, 1, 1, tzinfo=EAST)])
    assert series.dt.timestamp("us")[0] == 253402315200 * 10**6


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        ([1, [2]], r"column 'x' must hold single values .* got \[2\] \(list\) in row 2; split it"),
        ([None, {"a": 1}], r"got \{'a': 1\} \(dict\) in row 2"),
        ([b"x"], r"got b'x' \(bytes\) in row 1"),
        ([object()], r"got <object object .* \(object\) in row 1"),
        (["x" * 200, ["y" * 200]], r"got \['y{75}\.\.\. \(list\) in row 2"),
        ([1.0, 1j], "Complex data not supported: column 'x', row 2: 1j"),
        ([dt.date(2020, 1, 1), 3], "'x' must hold values of one kind; got date and int; convert"),
        ([dt.time(1), dt.timedelta(1)], "values of one kind; got time and timedelta"),
        (["a", "\ud800"], r"must hold text that is Unicode; got '\\ud800' in row 2"),
        (
            [Decimal(10**40 + 1), Decimal(10**40)],
            "at most 38 digits in all, .* got 41 digits before the point and 0 behind it; round",
        ),
    ],
)
def test_cells_without_a_common_type_are_refused(cells: list[Any], rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        object_column("x", cells)


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1))
def test_distinct_integers_stay_distinct(values: list[int]) -> None:
    series = object_column("x", list(values))
    assert to_levels(series).to_list() == [str(value) for value in values]


@given(
    st.lists(
        st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**30),
                    max_value=10**30),
        min_size=1,
    )
)  # fmt: skip
def test_distinct_decimals_stay_distinct(values: list[Decimal]) -> None:
    series = object_column("x", list(values))
    assert series.to_list() == values
    near = [float(value) for value in values]
    np.testing.assert_allclose(to_numbers(series).to_numpy(), near, rtol=1e-15)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates())
def test_plain_python_cells_stay_what_they_are(value: object) -> None:
    found = plain_cell(value)
    assert found is value or (found is None and value != value)
