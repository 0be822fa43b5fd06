"""What cells mean: numbers without loss, one name per level, instants in UTC."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables import cells
from tabwright.tables.cells import (
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    exact_origin,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)
from tabwright.tables.spellings.moments import parse_instants

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def _text(*values: str | None) -> pl.Series:
    return pl.Series("x", values, dtype=pl.String)


# ---------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        (pl.Series([1, None]), [1.0, None]),
        (pl.Series([1.5, float("nan"), float("inf")]), [1.5, None, np.inf]),
        (pl.Series([True, None, False]), [1.0, None, 0.0]),
        (_text(" 1", "?", "-", "1e300"), [1.0, None, None, 1e300]),
        (pl.Series([None, None]), [None, None]),
        (pl.Series(["1", "2"], dtype=pl.Categorical), [1.0, 2.0]),
        (pl.Series([Decimal("1.50"), None]), [1.5, None]),
        (pl.Series([2**70, 1], dtype=pl.Int128), [float(2**70), 1.0]),
        (pl.Series([1.5], dtype=pl.Float32), [1.5]),
    ],
)
def test_columns_as_numbers(series: pl.Series, wanted: list[float | None]) -> None:
    found = to_numbers(series.alias("x"))
    assert found.dtype == pl.Float64
    assert found.to_list() == wanted
    assert found.name == "x"


def test_spans_and_times_of_day_are_seconds() -> None:
    for cell in (dt.timedelta(minutes=1, milliseconds=500), dt.time(0, 1, 0, 500_000)):
        assert to_numbers(pl.Series([cell])).to_list() == pytest.approx([60.5], rel=1e-15)


@pytest.mark.parametrize(
    ("series", "rule"),
    [
        (
            _text("1", "x"),
            "'x' must hold numbers; got 'x' in row 2; correct the cell, leave it empty if it is "
            "missing, or give the column the role 'category'",
        ),
        (
            pl.Series("x", [None, dt.date(2020, 1, 1)]),
            r"'x' must hold numbers; got '2020-01-01' \(Date\) in row 2; give it another role",
        ),
        (pl.Series("x", [[1]]), r"'x' must hold single values .* got \[1\] \(List\(Int64\)\)"),
    ],
)
def test_a_cell_that_is_no_number_is_named(series: pl.Series, rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        to_numbers(series)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_integers_near_their_origin_stay_apart(values: list[int]) -> None:
    origin = exact_origin(pl.Series(values, dtype=pl.Int64))
    if max(map(abs, values)) <= 2**53:
        assert origin is None
        return
    assert origin is not None
    found = to_numbers(pl.Series(values, dtype=pl.Int64), origin=origin).to_list()
    assert found == [float(value - int(origin)) for value in values]
    text = to_numbers(_text(*map(str, values)), origin=origin).to_list()
    assert text == found


@given(st.lists(st.decimals(-(10**20), 10**20, places=4), min_size=1, max_size=20))
def test_decimals_near_their_origin_stay_apart(values: list[Decimal]) -> None:
    series = pl.Series(values, dtype=pl.Decimal(38, 4))
    origin = exact_origin(series)
    if origin is None:
        assert max(map(abs, values)) < 10**11
        return
    found = to_numbers(series, origin=origin).to_list()
    for value, number in zip(values, found, strict=True):
        assert number == pytest.approx(float(value - Decimal(origin)), rel=1e-15, abs=1e-300)
        assert (number == 0.0) == (value == origin)


def test_only_numbers_past_float64_need_an_origin() -> None:
    assert exact_origin(pl.Series([2**53, 1])) is None
    assert exact_origin(pl.Series([2**53 + 1, 1])) == 1
    assert exact_origin(pl.Series([1e300])) is None
    assert exact_origin(_text(str(2**60), str(2**60 + 2), str(2**60 + 1))) == 2**60 + 1
    assert exact_origin(_text("a", "1")) is None
    assert exact_origin(pl.Series([], dtype=pl.Int64)) is None


# ---------------------------------------------------------------------------------------------
# Levels
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forms", "name"),
    [
        ([pl.Series([1]), pl.Series([1.0]), _text("1"), _text(" 1 "), _text("1.0")], "1"),
        ([pl.Series([True]), _text("True"), _text("TRUE ")], "true"),
        ([_text("01")], "01"),
        ([pl.Series([2**53 + 1]), _text(str(2**53 + 1))], str(2**53 + 1)),
        ([_text(str(2**70))], str(2**70)),
        ([pl.Series([1e300]), _text("1e300")], "1e+300"),
        ([pl.Series([0.1]), pl.Series([0.1], dtype=pl.Float32), _text("0.10")], "0.1"),
        ([pl.Series([Decimal("1.50")]), pl.Series([1.5])], "1.5"),
        ([pl.Series([Decimal("2.00")]), pl.Series([2])], "2"),
        (
            [
                pl.Series([dt.date(2020, 1, 2)]),
                pl.Series([dt.datetime(2020, 1, 2)]),
                _text("2020-01-02"),
                _text("2020-01-02T00:00:00Z"),
            ],
            "2020-01-02",
        ),
        ([pl.Series(["a"], dtype=pl.Categorical), _text(" a")], "a"),
        ([pl.Series(["a"], dtype=pl.Enum(["a"]))], "a"),
    ],
)
def test_a_value_has_one_name_whatever_type_brought_it(forms: list[pl.Series], name: str) -> None:
    assert [to_levels(series).to_list() for series in forms] == [[name]] * len(forms)


@pytest.mark.parametrize("marker", [None, "", " ", " ? ", *MISSING_MARKERS])
def test_missing_markers_have_no_level(marker: str | None) -> None:
    assert to_levels(_text(marker, "a")).to_list() == [None, "a"]


def test_markers_of_numbers_are_levels_in_text() -> None:
    assert to_levels(_text(*NUMERIC_MARKERS)).to_list() == list(NUMERIC_MARKERS)


@given(st.lists(TEXT | st.sampled_from(["1", "1.0", "true", "2020-01-01", "?"]), max_size=12))
def test_names_are_their_own_names(values: list[str]) -> None:
    names = to_levels(_text(*values))
    assert to_levels(names).to_list() == names.to_list()


@given(st.lists(TEXT | st.sampled_from([" 1", "1.0", "?", "A ", None]), min_size=1, max_size=9))
def test_long_columns_that_repeat_themselves_have_the_same_levels(
    values: list[str | None],
) -> None:
    long = pl.Series(values * (cells._FEW_CELLS // len(values) + 1), dtype=pl.String)
    short = to_levels(pl.Series(values, dtype=pl.String)).to_list()
    assert to_levels(long).to_list()[: 2 * len(values)] == (short * 2)


@pytest.mark.parametrize(
    ("series", "rule"),
    [
        (pl.Series("x", [None, [1, 2]]), r"got \[1, 2\] \(List\(Int64\)\) in row 2; split it"),
        (pl.Series("x", [{"a": 1}]), r"got \{'a': 1\} \(Struct"),
        (pl.Series("x", [b"a"]), r"got b'a' \(Binary\) in row 1"),
        (pl.Series("x", [object()], dtype=pl.Object), r"\(Object\) in row 1"),
    ],
)
def test_nested_cells_have_no_level(series: pl.Series, rule: str) -> None:
    with pytest.raises(TableError, match=r"column 'x' must hold single values .*" + rule):
        to_levels(series)


# ---------------------------------------------------------------------------------------------
# Booleans and instants
# ---------------------------------------------------------------------------------------------


def test_booleans_and_what_says_the_same() -> None:
    for series in (
        pl.Series([True, False, None]),
        pl.Series([1, 0, None]),
        pl.Series([1.0, 0.0, None]),
        _text("True", "0", "?"),
    ):
        assert to_booleans(series).to_list() == [True, False, None]
    rule = r"'x' must hold true and false \(or 1 and 0\); got 'maybe' in row 2; give it the role"
    with pytest.raises(TableError, match=rule):
        to_booleans(_text("true", "maybe"))
    with pytest.raises(TableError, match="got 2 in row 1"):
        to_booleans(pl.Series("x", [2]))


def test_instants_of_any_type_count_from_1970_in_utc() -> None:
    wanted = (dt.datetime(2020, 1, 2, 3) - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    berlin = pl.Series([dt.datetime(2020, 1, 2, 4)]).dt.replace_time_zone("Europe/Berlin")
    for series in (
        pl.Series([dt.datetime(2020, 1, 2, 3)]),
        pl.Series([dt.datetime(2020, 1, 2, 3)], dtype=pl.Datetime("ns")),
        berlin,
        _text("2020-01-02T03:00"),
        _text("2020-01-02 04:00:00+01"),
        _text(" 2020/01/02 03:00:00.000000000Z "),
    ):
        assert to_microseconds(series).to_list() == [wanted]
    assert to_microseconds(_text("?", "-", None)).to_list() == [None, None, None]


@pytest.mark.parametrize(
    ("series", "shown"),
    [(_text(None, "soon"), "'soon' in row 2"), (pl.Series("x", [5]), "5 in row 1"),
     (_text("2021-02-29"), "'2021-02-29' in row 1"), (_text("2021-02-01 25:00"), "in row 1")],
)  # fmt: skip
def test_a_cell_that_is_no_instant_is_named(series: pl.Series, shown: str) -> None:
    rule = f"'x' must hold dates or times as YYYY-MM-DD or .*; got .*{shown}; correct the cell"
    with pytest.raises(TableError, match=rule):
        to_microseconds(series)
    with pytest.raises(TableError, match="column 'when' must hold dates"):
        to_microseconds(series, column="when")


@given(st.lists(st.datetimes(timezones=st.sampled_from(
    [dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30)), dt.timezone(-dt.timedelta(hours=9))]
), min_value=dt.datetime(1000, 1, 2), max_value=dt.datetime(9999, 1, 1)), min_size=1))  # fmt: skip
def test_iso_text_is_the_instant_that_python_means(values: list[dt.datetime]) -> None:
    found = parse_instants(_text(*[value.isoformat() for value in values]))
    wanted = [value.astimezone(dt.UTC).replace(tzinfo=None) for value in values]
    assert found.to_list() == wanted
