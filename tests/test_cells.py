"""What cells mean: text by type, numbers without loss, one name per level, instants in UTC."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai.ml.frameworks.pytorch import cells
from ai.ml.frameworks.pytorch.cells import (
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    TableError,
    exact_origin,
    parse_instants,
    read_text,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def _text(*values: str | None) -> pl.Series:
    return pl.Series("x", values, dtype=pl.String)


# ---------------------------------------------------------------------------------------------
# Text to types
# ---------------------------------------------------------------------------------------------

READ: dict[str, tuple[list[str | None], pl.DataType | type[pl.DataType], list[Any], str]] = {
    "integers": (["1", "-2", "+3"], pl.Int64, [1, -2, 3], ""),
    "integers past 2**53": ([str(2**53 + 1), "0"], pl.Int64, [2**53 + 1, 0], ""),
    "integers past int64": ([str(2**64 - 1), "0"], pl.UInt64, [2**64 - 1, 0], ""),
    "integers past 64 bits": ([str(2**70), "0"], pl.String, [str(2**70), "0"], ""),
    "integers past 64 bits beside fractions": (
        ["12345678901234567890123", "0.5"],
        pl.String,
        ["12345678901234567890123", "0.5"],
        "",
    ),
    "numbers": (["1", "2.5", "1e300"], pl.Float64, [1.0, 2.5, 1e300], ""),
    "infinities": (["inf", "-Infinity", "1e999"], pl.Float64, [np.inf, -np.inf, np.inf], ""),
    "leading zeros": (["00501", "10001"], pl.String, ["00501", "10001"], ""),
    "booleans": (["True", "FALSE", ""], pl.Boolean, [True, False, None], ""),
    "dates": (
        ["2020-02-29", "2021/01/02"],
        pl.Date,
        [dt.date(2020, 2, 29), dt.date(2021, 1, 2)],
        "",
    ),
    "dates that are none": (
        ["2020-06-30", "2020-06-31", *["2020-06-30"] * 20],
        pl.String,
        ["2020-06-30", "2020-06-31", *["2020-06-30"] * 20],
        "'2020-06-31' is no date, so the column is text",
    ),
    "numbers but for one": (
        [*map(str, range(50)), "many"],
        pl.String,
        [*map(str, range(50)), "many"],
        "'many' is no number, so the column is text",
    ),
    "dates and times": (
        ["2020-01-02", "2020-01-02 03:04", "2020-01-02T03:04:05.678"],
        pl.Datetime("us"),
        [
            dt.datetime(2020, 1, 2),
            dt.datetime(2020, 1, 2, 3, 4),
            dt.datetime(2020, 1, 2, 3, 4, 5, 678_000),
        ],
        "",
    ),
    "times with an offset": (
        ["2020-01-02T03:04:05Z", "2020-01-02 03:04:05+05:30"],
        pl.Datetime("us", "UTC"),
        [
            dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            dt.datetime(2020, 1, 1, 21, 34, 5, tzinfo=dt.UTC),
        ],
        "",
    ),
    "missing numbers": (
        ["1", "?", " ", "", "NA", None, "?"],
        pl.Int64,
        [1, None, None, None, None, None, None],
        "4 cells read as missing: '?', ' ', 'NA'",
    ),
    "one missing number": (["1", "-"], pl.Int64, [1, None], "1 cell read as missing: '-'"),
    "spaces": ([" 1", "2 ", "3"], pl.Int64, [1, 2, 3], "spaces around 2 numbers ignored"),
    "markers that only numbers have": (["-", "None", "a"], pl.String, ["-", "None", "a"], ""),
    "missing text": (["a", " ?"], pl.String, ["a", None], "1 cell read as missing: ' ?'"),
    "nothing but missing": (["?", ""], pl.String, [None, None], "1 cell read as missing: '?'"),
    "only markers of numbers": (["-", "."], pl.String, ["-", "."], ""),
    "thousands": (
        ["1,234", "12"],
        pl.String,
        ["1,234", "12"],
        "'1,234' is not read as a number: write 1234.5, or set decimal=','",
    ),
    "money": (["$5", "$6"], pl.String, ["$5", "$6"], "'$5' is not read as a number"),
    "dates to guess": (
        ["01/02/2020", "3/4/2021"],
        pl.String,
        ["01/02/2020", "3/4/2021"],
        "'01/02/2020' is not read as a date: write YYYY-MM-DD",
    ),
    "dates with names": (["1 Jan 2020"], pl.String, ["1 Jan 2020"], "'1 Jan 2020' is not read as"),
    "other digits": (["١", "1"], pl.String, ["١", "1"], ""),
    "hexadecimal": (["0x10", "1"], pl.String, ["0x10", "1"], ""),
    "yes and no": (["yes", "no"], pl.String, ["yes", "no"], ""),
}


@pytest.mark.parametrize("case", READ)
def test_text_gets_the_type_that_all_of_its_cells_have(case: str) -> None:
    text, dtype, wanted, note = READ[case]
    series, found = read_text(_text(*text))
    assert series.dtype == dtype
    assert series.to_list() == wanted
    assert found.startswith(note)
    assert bool(note) == bool(found)


def test_the_last_cell_of_a_long_column_counts() -> None:
    for last, dtype in (("2.5", pl.Float64), ("x", pl.String), ("", pl.Int64)):
        series, _ = read_text(_text(*["1"] * 3_000, last))
        assert series.dtype == dtype


def test_fractions_may_have_a_comma() -> None:
    series, _ = read_text(_text("1,5", "2"), decimal=",")
    assert series.to_list() == [1.5, 2.0]
    series, _ = read_text(_text("1.234,5", "2"), decimal=",")
    assert series.dtype == pl.String


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_the_text_of_numbers_is_those_numbers(values: list[float]) -> None:
    series, _ = read_text(_text(*map(repr, values)))
    assert series.cast(pl.Float64).to_list() == values


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1))
def test_no_integer_of_64_bits_is_changed(values: list[int]) -> None:
    series, _ = read_text(_text(*map(str, values)))
    assert [int(value) for value in series.to_list()] == values


@given(st.lists(TEXT.filter(lambda s: s.strip() not in MISSING_MARKERS), min_size=1))
def test_other_text_stays_as_it_is_but_for_spaces(values: list[str]) -> None:
    series, _ = read_text(_text("a", *values))
    if series.dtype == pl.String:
        assert series.to_list() == ["a", *_text(*values).str.strip_chars().to_list()]


@given(st.lists(st.sampled_from(["1", "2", " 2", "?", "", "x", None]), min_size=1, max_size=30))
def test_distinct_cells_with_their_counts_read_as_the_column_does(
    values: list[str | None],
) -> None:
    whole, note = read_text(_text(*values))
    table = _text(*values).value_counts(name="n")
    distinct, same = read_text(table["x"], counts=table["n"])
    assert distinct.dtype == whole.dtype
    assert same == note


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
