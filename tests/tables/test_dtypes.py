"""Text by type: what all cells of a column say, and what is said of those that do not."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.tables.cells import MISSING_MARKERS
from tabwright.tables.dtypes import read_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def _text(*values: str | None) -> pl.Series:
    return pl.Series("x", values, dtype=pl.String)


READ: dict[str, tuple[Any, pl.DataType | type[pl.DataType], list[Any] | None, str]] = {
    "integers": (["1", "-2", "+3"], pl.Int64, [1, -2, 3], ""),
    "integers past 2**53": ([str(2**53 + 1), "0"], pl.Int64, [2**53 + 1, 0], ""),
    "integers past int64": ([str(2**64 - 1), "0"], pl.UInt64, [2**64 - 1, 0], ""),
    "integers past 64 bits": (
        [str(2**70), "0"],
        pl.String,
        [str(2**70), "0"],
        f"integers such as {2**70} are past 64 bits and read as text: give the column the role "
        "'numeric'",
    ),
    "integers past 64 bits, one below 0": (
        [str(2**63), "-1"],
        pl.String,
        [str(2**63), "-1"],
        f"integers such as {2**63} are past 64 bits",
    ),
    "integers past 64 bits beside fractions": (
        ["12345678901234567890123", "0.5"],
        pl.Float64,
        [12345678901234567890123.0, 0.5],
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
        pl.Int64,
        [*range(50), None],
        "1 cell read as missing: 'many'",
    ),
    "numbers but for one that has a digit": (
        [*map(str, range(50)), "50+"],
        pl.String,
        [*map(str, range(50)), "50+"],
        "'50+' is no number, so the column is text",
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
    "times with and without an offset": (
        ["2020-01-02T03:04:05+01:00", "2020-01-02 03:04:05", None],
        pl.Datetime("us", "UTC"),
        [
            dt.datetime(2020, 1, 2, 2, 4, 5, tzinfo=dt.UTC),
            dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
            None,
        ],
        "times without an offset, such as '2020-01-02 03:04:05', read as UTC",
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
    "thousands": (["1,234", "12"], pl.Int64, [1234, 12], "numbers such as '1,234' read as 1234"),
    "thousands or a fraction": (
        ["1,234", "1235"],
        pl.String,
        ["1,234", "1235"],
        "'1,234' is not read as a number: write 1234.5, or set decimal=','",
    ),
    "millions": (["1,234,567", "2000000"], pl.Int64, [1234567, 2000000], "read as 1234567"),
    "thousands and a fraction": (["1'033.5", "2"], pl.Float64, [1033.5, 2.0], "read as 1033.5"),
    "money": (["$5", "$6,000"], pl.Int64, [5, 6000], "numbers such as '$5' read as 5"),
    "money behind": (["107 €", "8 €"], pl.Int64, [107, 8], "numbers such as '107 €' read as 107"),
    "percent": (["4.5%", "1%"], pl.Float64, [4.5, 1.0], "read as"),
    "percent and other numbers": (["4.5%", "1"], pl.String, ["4.5%", "1"], "is not read as a"),
    "accounts": (
        ["(1,234.50)", "12", "$ (3)", "($4)"],
        pl.Float64,
        [-1234.5, 12.0, -3.0, -4.0],
        "numbers such as",
    ),
    "a minus behind": (["5.5-", "3"], pl.Float64, [-5.5, 3.0], "such as '5.5-' read as -5.5"),
    "items": (["(1)", "(2)"], pl.String, ["(1)", "(2)"], "is not read as a number"),
    "months in German": (["3. März 2020"], pl.String, ["3. März 2020"], "is not read as a date"),
    "units": (
        [*(f"{k}.5 kg" for k in range(10)), "3 lb"],
        pl.String,
        None,
        "'0.5 kg' is read as text: if its number counts, write all in one unit, and leave the unit",
    ),
    "few units": (["1 kg", "2 kg"], pl.String, ["1 kg", "2 kg"], ""),
    "another minus": (["\u22125", "3"], pl.Int64, [-5, 3], "read as -5"),
    "decimal commas": (["0,5", "1,25"], pl.Float64, [0.5, 1.25], "such as '0,5' read as 0.5"),
    "a marker that is not known": (
        [*(str(i) for i in range(20)), *["#NULL!"] * 8],
        pl.Int64,
        [*range(20), *[None] * 8],
        "8 cells read as missing: '#NULL!'",
    ),
    "months": (["2023-04", "2023-05"], pl.Date, [dt.date(2023, 4, 1), dt.date(2023, 5, 1)], ""),
    "no months": (["2023-04", "2023-13"], pl.String, ["2023-04", "2023-13"], ""),
    "clocks": (
        ["16:26", "09:05"],
        pl.String,
        ["16:26", "09:05"],
        "if the time counts, write it as a number of hours",
    ),
    "dates to guess": (
        ["01/02/2020", "3/4/2021"],
        pl.String,
        ["01/02/2020", "3/4/2021"],
        "'01/02/2020' is not read as a date, since its day and month may be either: write YYYY",
    ),
    "dates with names": (
        ["1 Jan 2020", "July 4, 2022", "sept 9 2021"],
        pl.Date,
        [dt.date(2020, 1, 1), dt.date(2022, 7, 4), dt.date(2021, 9, 9)],
        "",
    ),
    "no dates with names": (
        ["1 Jan 2020", "3 Mio 2020"],
        pl.String,
        ["1 Jan 2020", "3 Mio 2020"],
        "is not read as a date",
    ),
    "other digits": (["١", "1"], pl.Int64, [1, 1], "such as '١' read as 1"),
    "hexadecimal": (["0x1F", "-0x0a", "0XFF"], pl.Int64, [31, -10, 255], "such as '-0x0a' read as"),
    "hexadecimal and other numbers": (
        ["0x10", "1"],
        pl.String,
        ["0x10", "1"],
        "'0x10' is not read as a number: write it with digits and a point alone",
    ),
    "below what can be measured": (
        [*map(str, range(20)), "<LOD", "< MDL", "BDL", "<0.1", ">100", "&lt;5"],
        pl.Int64,
        [*range(20), *[None] * 6],
        "6 cells read as missing: '&lt;5', '< MDL', '<0.1'",
    ),
    "about": (
        ["1", "2", "3", "~4", "~5", "~6", "~7"][::-1] + ["1"] * 3,
        pl.String,
        ["~7", "~6", "~5", "~4", "3", "2", "1", "1", "1", "1"],
        "'~4' is read as text: if it is one number, write it with digits and a point alone",
    ),
    "footnotes": (
        [*map(str, range(20)), "7 b", "8*"],
        pl.String,
        [*map(str, range(20)), "7 b", "8*"],
        "'7 b' is no number, so the column is text",
    ),
    "ranges": (
        [f"{k}-{k + 5}" for k in range(20)],
        pl.String,
        [f"{k}-{k + 5}" for k in range(20)],
        "'0-5' is read as text: if its two numbers count, give each its own column",
    ),
    "codes of digits": ([f"{k:05}" for k in range(20)], pl.String, None, ""),
    "dates but for markers": (
        ["2020-01-02", "unknown", "0000-00-00", "2020-01-03", "2020-01-04", "2020-01-05"],
        pl.Date,
        [dt.date(2020, 1, 2), None, None, *(dt.date(2020, 1, k) for k in (3, 4, 5))],
        "2 cells read as missing: '0000-00-00', 'unknown'",
    ),
    "other currencies": (
        ["₹5", "INR 6", "7 kr"],
        pl.String,
        ["₹5", "INR 6", "7 kr"],
        "is not read",
    ),
    "one other currency": (["7 kr", "8 kr"], pl.Int64, [7, 8], "such as '7 kr' read as 7"),
    "two currencies": (["$5", "€6"], pl.String, ["$5", "€6"], "is not read as a number"),
    "a dash for a minus": (["\u20135", "3"], pl.Int64, [-5, 3], "read as -5"),
    "marks without a width": (["\ufeff5", "\u200b3"], pl.Int64, [5, 3], "read as"),
    "decimal commas and exponents": (["1,5e3", "2,25E-1"], pl.Float64, [1500.0, 0.225], "read as"),
    "decimal commas, thousands by spaces of any width": (
        ["1\u00a0234,50", "12\u202f345,5 €", "1\u2009234\u2009567,25", "2\u2007000,75"],
        pl.Float64,
        [1234.5, 12345.5, 1234567.25, 2000.75],
        "numbers such as '12\\u202f345,5 €' read as 12345.5",
    ),
    "decimal commas, thousands by quotes": (
        ["1\u2019234,50", "1'234'567,25", "12,5"],
        pl.Float64,
        [1234.5, 1234567.25, 12.5],
        "read as",
    ),
    "a fraction, no date": (["0 1/2", "3 1/4"], pl.String, ["0 1/2", "3 1/4"], ""),
    "names with digits": (["w17", "w18"], pl.String, ["w17", "w18"], ""),
    "yes and no": (["yes", "no"], pl.String, ["yes", "no"], ""),
}


@pytest.mark.parametrize("case", READ)
def test_text_gets_the_type_that_all_of_its_cells_have(case: str) -> None:
    text, dtype, wanted, note = READ[case]
    series, found = read_text(_text(*text))
    assert series.dtype == dtype
    assert series.to_list() == (text if wanted is None else wanted)
    assert note in found
    assert bool(note) == bool(found)


def test_the_last_cell_of_a_long_column_counts() -> None:
    for last, dtype in (("2.5", pl.Float64), ("x", pl.String), ("", pl.Int64)):
        series, _ = read_text(_text(*["1"] * 3_000, last))
        assert series.dtype == dtype


def test_fractions_may_have_a_comma() -> None:
    series, _ = read_text(_text("1,5", "2"), decimal=",")
    assert series.to_list() == [1.5, 2.0]
    series, _ = read_text(_text("1.234,5", "2"), decimal=",")
    assert series.to_list() == [1234.5, 2.0]


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
