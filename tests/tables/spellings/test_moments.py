"""Moments as people write them: read where that is certain, and told of where it is not."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables.cell_format import CellFormat, typed_cells
from tabwright.tables.dtypes import text_column
from tabwright.tables.roles import profile_table
from tabwright.tables.spellings.moments import find_moments, note_on_target, parse_moments

_UTC = dt.UTC
CERTAIN: dict[str, tuple[str, dt.datetime | None]] = {
    "one digit": ("2024-1-5", dt.datetime(2024, 1, 5)),
    "points, year first": ("2024.01.05", dt.datetime(2024, 1, 5)),
    "a version": ("2019.1.5", None),
    "characters": ("2024年1月5日", dt.datetime(2024, 1, 5)),
    "basic ISO": ("20240105T123000Z", dt.datetime(2024, 1, 5, 12, 30)),
    "midnight as 24": ("2024-01-05T24:00:00", dt.datetime(2024, 1, 6)),
    "past midnight": ("2024-01-05T24:01:00", None),
    "a half day": ("2024-01-05 1:45 PM", dt.datetime(2024, 1, 5, 13, 45)),
    "midnight": ("2024-01-05 12:05 a.m.", dt.datetime(2024, 1, 5, 0, 5)),
    "no such half day": ("2024-01-05 13:45 PM", None),
    "Greenwich": ("2024-01-05 10:00 GMT", dt.datetime(2024, 1, 5, 10)),
    "an offset": ("2024-01-05 10:00:00 +0530", dt.datetime(2024, 1, 5, 4, 30)),
    "a zone's letters": ("2024-01-05 10:00 EST", None),
    "named": ("05-Jan-2020", dt.datetime(2020, 1, 5)),
    "named, with a slash": ("05/Jan/2020", dt.datetime(2020, 1, 5)),
    "a log's": ("Mon, 06 Jan 2020 10:00:00 GMT", dt.datetime(2020, 1, 6, 10)),
    "C's": ("Mon Jan  6 10:00:00 2020", dt.datetime(2020, 1, 6, 10)),
    "an ordinal": ("January 5th, 2020", dt.datetime(2020, 1, 5)),
    "a name and a year": ("Jan 2020", dt.datetime(2020, 1, 1)),
    "a word and a year": ("Room 2020", None),
    "month and year": ("12/2023", dt.datetime(2023, 12, 1)),
    "a month of statistics": ("2020M05", dt.datetime(2020, 5, 1)),
    "the same with a dash": ("2020-M5", dt.datetime(2020, 5, 1)),
    "month first, with its letter": ("m05/2020", dt.datetime(2020, 5, 1)),
    "no month": ("2020M13", None),
    "no year": ("1200M10", None),
    "metres": ("2020m", None),
    "a year and a car": ("2020 M5", None),
    "a month in characters": ("2024年5月", dt.datetime(2024, 5, 1)),
    "day of the year": ("2024-060", dt.datetime(2024, 2, 29)),
    "no day of the year": ("2023-366", None),
    "week": ("2024-W05", dt.datetime(2024, 1, 29)),
    "day of a week": ("2024W057", dt.datetime(2024, 2, 4)),
    "no week": ("2023-W53", None),
    "quarter": ("2024Q2", dt.datetime(2024, 4, 1)),
    "quarter first": ("Q4 2024", dt.datetime(2024, 10, 1)),
    "half a year": ("2024H2", dt.datetime(2024, 7, 1)),
    "day or month": ("01/02/2020", None),
    "years of two digits": ("12/31/19", None),
}


@pytest.mark.parametrize("case", CERTAIN)
def test_a_moment_that_says_itself_what_it_is(case: str) -> None:
    text, wanted = CERTAIN[case]
    assert parse_moments(pl.Series([text, None])).to_list() == [wanted, None]


COLUMNS: dict[str, tuple[list[str], str | None, list[Any] | None, str]] = {
    "day first": (["13/02/2020", "01/02/2020"], "day_first", [(2020, 2, 13), (2020, 2, 1)], "read"),
    "month first": (["2/13/2020", "1/2/2020"], "month_first", [(2020, 2, 13), (2020, 1, 2)], ""),
    "either": (["01/02/2020", "3/4/2020"], None, None, "since its day and month may be either"),
    "points": (["01.02.2020", "3.4.2020"], "day_first", [(2020, 2, 1), (2020, 4, 3)], "read as"),
    "both": (["13/02/2020", "02/13/2020"], None, None, "is not read as a date: write"),
    "markers": (["13/02/2020", "unknown", "01/02/2020", "2/2/2020", "3/2/2020"], "day_first",
                [(2020, 2, 13), None, (2020, 2, 1), (2020, 2, 2), (2020, 2, 3)], "1 cell read as"),
    "seasons": (["2009-10", "2010-11", "2011-12"], None, None, ""),
    "short years, month first": ([f"{k}/{k + 12}/1{k - 1}" for k in range(1, 11)], "month_first",
                                 [(2009 + k, k, k + 12) for k in range(1, 11)],
                                 "dates such as '1/13/10' read as 2010-01-13"),
    "short years about 2000": ([f"{k + 12}-{k}-{(90 + 2 * k) % 100:02}" for k in range(1, 11)],
                               "day_first", [(1990 + 2 * k, k, k + 12) for k in range(1, 11)],
                               "read as 1992-01-13"),
    "short years, maybe first": ([f"{k + 12}/{k:02}/2{k % 3}" for k in range(1, 11)], None, None,
                                 "since its year may stand first or last: write YYYY-MM-DD"),
    "short years up to 68": ([f"{k + 12}/{k:02}/{k + 40}" for k in range(1, 11)], "day_first",
                             [(2040 + k, k, k + 12) for k in range(1, 11)], "read as 2041-01-13"),
    "short years from 69 on": ([f"{k + 12}.{k + 2:02}.{k + 80}" for k in range(1, 11)],
                               "day_first", [(1980 + k, k + 2, k + 12) for k in range(1, 11)],
                               "read as 1981-03-13"),
    "short years of both centuries": ([f"{k + 12}/{k:02}/{k * 6 + 35}" for k in range(1, 11)],
                                      None, None, "is not read as a date: write YYYY-MM-DD"),
    "few short years": (["12/31/19", "1/31/20"], None, None, "is not read as a date"),
    "versions": ([f"{k}.{k}.{k + 40}" for k in range(1, 12)], None, None, "not read as a date"),
    "short and whole years": ([*(f"{k}/{k + 12}/1{k - 1}" for k in range(1, 11)), "1/13/2010"],
                              "month_first", [*((2009 + k, k, k + 12) for k in range(1, 11)),
                                              (2010, 1, 13)], "read as"),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_the_order_of_day_and_month_is_found_where_it_is_certain(case: str) -> None:
    text, spelling, wanted, note = COLUMNS[case]
    found = text_column(pl.Series("x", text))
    assert found.form.spelling == spelling
    assert note in found.note
    if wanted is not None:
        days = [None if own is None else dt.date(*own) for own in wanted]
        assert found.values.to_list() == days
        again = typed_cells(pl.Series("x", text), "datetime", found.form)
        assert again.cast(pl.Date).to_list() == days


def test_a_column_keeps_its_order_of_day_and_month() -> None:
    form = CellFormat(spelling="day_first")
    found = typed_cells(pl.Series("x", ["01/02/2020", "2020-02-01", None]), "datetime", form)
    assert found.to_list() == [dt.datetime(2020, 2, 1), dt.datetime(2020, 2, 1), None]
    with pytest.raises(
        TableError,
        match=r"'x' must hold dates .*; got '01/13/2020' in row 1.*the day comes before the month",
    ):
        typed_cells(pl.Series("x", ["01/13/2020"]), "datetime", form)


DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2099, 12, 31))


@given(st.lists(DAYS, min_size=1), st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y %H:%M"]))
def test_no_order_is_told_that_is_not_the_one_written(days: list[dt.date], layout: str) -> None:
    cells = pl.Series([f"{dt.datetime(d.year, d.month, d.day):{layout}}" for d in days]).unique()
    found = find_moments(cells)
    assert found in (None, "month_first" if layout.startswith("%m") else "day_first")
    assert (found is None) == all(d.day <= 12 for d in days)


@given(st.lists(st.dates(dt.date(1990, 1, 1), dt.date(2039, 12, 31)), min_size=1),
       st.sampled_from(["%d/%m/%y", "%m/%d/%y", "%y/%m/%d"]))  # fmt: skip
def test_short_years_are_read_where_one_order_is_possible(days: list[dt.date], layout: str) -> None:
    cells = pl.Series([f"{day:{layout}}" for day in days]).unique(maintain_order=True)
    found = find_moments(cells)
    orders = ("%d/%m/%y", "%m/%d/%y", "%y/%m/%d")
    possible = []
    for order in orders:
        with contextlib.suppress(ValueError):
            [dt.datetime.strptime(cell, order) for cell in cells]
            possible.append(order)
    if found is None:
        return
    assert possible == [layout]
    assert found == ("month_first" if layout == "%m/%d/%y" else "day_first")
    read = typed_cells(cells, "datetime", CellFormat(spelling=found)).dt.date()
    assert read.to_list() == list(dict.fromkeys(days))


def test_a_target_of_dates_is_told_of() -> None:
    days = pl.Series([20240100 + d for d in range(1, 21)])
    assert "such as 20240101 look like dates" in note_on_target(days)
    assert "the days since a date" in note_on_target(days.cast(pl.Float64))
    months = pl.Series([202401 + m for m in range(12)])
    assert "look like months, which a target is not read as" in note_on_target(months)
    for other in (days + 0.5, days[:5], pl.Series(["20240101"] * 20), pl.Series([1, None])):
        assert not note_on_target(other)


COUNTS: dict[str, tuple[list[Any], str, str | None, str]] = {
    "dates": ([20240100 + d for d in range(1, 21)], "datetime", "digits", "read as dates"),
    "with missing cells": ([20240101.0, None, *(20240201.0 + d for d in range(20))],
                           "datetime", "digits", "numbers such as 20240101 read as dates"),
    "moments": ([20240100123000 + d * 10**6 for d in range(1, 21)], "datetime", "digits", "dates"),
    "few": ([20240101, 20240102], "numeric", None, ""),
    "one that is none": ([20240100 + d for d in range(1, 41)], "numeric", None, ""),
    "months": ([202401 + m for m in range(12)], "numeric", None, "may be months: write YYYY-MM"),
    "seconds": ([1_700_000_000 + 7919 * k for k in range(20)], "numeric", None,
                "may be seconds since 1970: give the role 'datetime' if they are"),
    "milliseconds": ([1_700_000_000_000 + 7919 * k for k in range(20)], "numeric", None,
                     "may be milliseconds since 1970"),
    "numbers": ([10**7 + 7919 * k for k in range(20)], "numeric", None, ""),
    "fractions": ([20240101.5 + k for k in range(20)], "numeric", None, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS)
def test_numbers_that_are_dates(case: str) -> None:
    values, role, spelling, note = COUNTS[case]
    (column,) = profile_table(pl.DataFrame({"x": values}, strict=False)).columns
    assert (column.role, column.form.spelling) == (role, spelling)
    assert note in column.note
    assert bool(note) == bool(column.note)
    if spelling == "digits":
        texts = profile_table(
            pl.DataFrame({"x": values}, strict=False).cast(pl.Int64).cast(pl.String)
        )
        assert (texts.columns[0].role, texts.columns[0].form.spelling) == (role, spelling)


def test_numbers_are_moments_where_someone_says_so() -> None:
    frame = pl.DataFrame({"s": [1_700_000_000, 1_800_000_000], "d": [20240131, None]})
    profile = profile_table(frame, roles={"s": "datetime", "d": "datetime"})
    assert [column.form.spelling for column in profile.columns] == ["seconds", "digits"]
    first = profile.typed(frame).row(0)
    assert first == (dt.datetime(2023, 11, 14, 22, 13, 20), dt.datetime(2024, 1, 31))
    assert profile_table(
        pl.DataFrame({"d": [20240100 + d for d in range(1, 21)]}), roles={"d": "numeric"}
    ).columns[0].form == CellFormat()  # fmt: skip
    with pytest.raises(TableError, match="must hold dates"):
        profile_table(pl.DataFrame({"x": [5, 6]}), roles={"x": "datetime"})
