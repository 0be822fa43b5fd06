"""Quantities as people write them: numbers where that is certain, and told of where it is not."""

from __future__ import annotations

import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.tables.cell_format import typed_cells
from tabwright.tables.cells import number_text
from tabwright.tables.dtypes import text_column

ALONE = {
    "5.25D+01": 52.5, "1.0d-03": 0.001, "1.2×10^3": 1200.0, "1.2x10^3": 1200.0, "5 × 10⁻²": 0.05,
    "1·10³": 1000.0, "١٢": 12.0, "٣٤٫٥": 34.5, "１２": 12.0, "５％": 5.0, "1_000": 1000.0,
    "12,34,567": 1234567.0, "1\u2009234": 1234.0, "12\u2212": -12.0, "+5": 5.0,
    "\u221e": float("inf"), "-\u221e": float("-inf"),
}  # fmt: skip


@pytest.mark.parametrize("text", ALONE)
def test_a_number_that_says_itself_what_it_is(text: str) -> None:
    assert number_text(pl.Series([text])).to_list() == [ALONE[text]]
    assert (
        text_column(pl.Series("x", [text, "7"] if "％" not in text else [text])).values[0]
        == (ALONE[text])
    )


@pytest.mark.parametrize("text", ["1D5", "12,345,67", "1_00", "x10^3", "²", "1²"])
def test_a_code_is_no_number(text: str) -> None:
    with pytest.raises(TableError, match="must hold numbers"):
        number_text(pl.Series("x", [text]))


# Cells, the spelling or unit that is found, some values, and a part of the note.
COLUMNS: dict[str, tuple[list[str], str | None, dict[str, float], str]] = {
    "money": (["£436k", "£1.2m", "£80k"], "magnitude", {"£436k": 436e3, "£1.2m": 1.2e6}, "read as"),
    "below 0": (["($1.2M)", "$3M"], "magnitude", {"($1.2M)": -1.2e6}, "read as"),
    "behind": (["1.2M USD", "3K USD"], "magnitude", {"1.2M USD": 1.2e6, "3K USD": 3e3}, "read as"),
    "two letters": (["5K", "1.2M", "850"], "magnitude", {"5K": 5e3, "850": 850.0}, "read as"),
    "thousands": ([*(f"{k}.1k" for k in range(9)), "850"], "magnitude", {"850": 850.0}, "read as"),
    "words": (["2 million", "3.4 billion"], "magnitude", {"3.4 billion": 3.4e9}, "read as 2000000"),
    "words of India": (["2.5 lakh", "1.2 crore"], "magnitude", {"2.5 lakh": 25e4}, "read as"),
    "characters": (["1.2万", "3亿"], "magnitude", {"1.2万": 12e3, "3亿": 3e8}, "read as"),
    "decimal commas": (["2,5 Mio", "3 Mio"], "magnitude", {"2,5 Mio": 2.5e6}, "read as 2500000"),
    "markers": (["5.2K", "1.3M", "unknown", "8K"], "magnitude", {"5.2K": 5200.0}, "1 cell read as"),
    "one letter": (["5K", "6K"], None, {}, "if its letter stands for thousands or millions"),
    "sizes": (["9M", "10M", "9"], None, {}, "if its letter stands for thousands or millions"),
    "race": (["10m", "5k"], None, {}, "if its letter stands for"),
    "two currencies": (["$5k", "€6k"], None, {}, "if its letter stands for"),
    "unit": ([f"{k}kg" for k in range(10)], "kg", {"7kg": 7.0, "7 kg": 7.0, "7": 7.0}, "read as"),
    "units, decimal commas": ([f"{k},5 cm" for k in range(10)], "cm", {"7,5 cm": 7.5}, "read as"),
    "degrees of heat": ([f"{k}°C" for k in range(-5, 9)], "°C", {"-5°C": -5.0}, "read as"),
    "a word": (["1 year", *(f"{k} years" for k in range(2, 14))], "year", {"1 Year": 1.0}, "read"),
    "of ten": ([f"{k}/10" for k in range(10)], "/10", {"7/10": 7.0}, "read as"),
    "units, markers": ([*(f"{k} cm" for k in range(20)), "unknown"], "cm", {"7 cm": 7.0}, "1 cell"),
    "two units": ([*(f"{k} kg" for k in range(10)), "200 g"], None, {}, "write all in one unit"),
    "doses": (["10 mg", "20 mg"], None, {}, ""),
    "grades": ([f"{k}{c}" for k in range(1, 7) for c in "AB"], None, {}, "write all in one unit"),
    "addresses": ([f"{k} Main St" for k in range(12)], None, {}, ""),
    "ordinals": (["1st", "2nd", "3rd", *(f"{k}th" for k in range(4, 21)), "21st"], "ordinal",
                 {"21st": 21.0, "11th": 11.0}, "such as '10th' read as 10"),
    "few ordinals": (["1st", "2nd", "3rd"], None, {}, ""),
    "clock": ([f"{k}:{k + 10}" for k in range(12)], "clock", {"0:10": 600.0}, "as 600 seconds"),
    "half days": ([f"{k}:30 PM" for k in range(1, 13)], "clock", {"12:30 PM": 45000.0}, "seconds"),
    "midnight as 24": ([f"{k}:00" for k in range(25)], "clock", {"24:00": 86400.0}, "seconds"),
    "minutes": ([f"{k}:{k + 10}" for k in range(12, 30)], None, {}, "if the time counts"),
    "fractions": ([f"{k} 1/4" for k in range(12)], "fraction", {"3 1/4": 3.25, "3": 3.0}, "read"),
    "signs of fractions": ([f"{k}½" for k in range(12)], "fraction", {"3½": 3.5}, "read as"),
    "pairs": ([f"1{k}0/{k}7" for k in range(1, 10)] + ["5/3"], None, {}, "its own column"),
    "latitude": ([*(f"{k}.5°N" for k in range(10)), "3.1°S"], "degrees", {"3.1°S": -3.1}, "read"),
    "seconds of arc": ([f"40°{k}'30\"W" for k in range(10, 21)], "degrees",
                       {"40°15'0\"W": -40.25}, "read as"),
    "feet": ([f"5'{k}\"" for k in range(12)], "feet", {"5'11\"": 71.0, "6' 2\"": 74.0}, "read as"),
    "durations": ([f"{k}h {k}m" for k in range(1, 12)], "duration", {"1h 1m": 3660.0}, "seconds"),
    "spans of ISO 8601": ([*(f"P{k}DT{k}H" for k in range(9)), "PT1.5S", "-PT5M", "P2W", "PT0,5M"],
                          "duration", {"P1DT1H": 90000.0, "PT1.5S": 1.5, "-PT5M": -300.0,
                                       "P2W": 1209600.0, "PT0,5M": 30.0}, "such as"),
    "spans of months": ([f"P{k}M" for k in range(1, 13)], None, {}, "in months or in days"),
    "few spans": (["PT5M", "PT1H"], None, {}, ""),
    "names like spans": ([f"P{k}" for k in range(20)], None, {}, ""),
    "credits and debits": ([*(f"{k}.50 CR" for k in range(9)), "1,234.50 Dr", "$7 DR."], "credit",
                           {"1.50 CR": 1.5, "1,234.50 Dr": -1234.5, "$7 DR.": -7.0}, "read as"),
    "credits alone": ([f"{k}.50 CR" for k in range(1, 12)], None, {}, "credit or a debit"),
    "credits and other numbers": ([*(f"{k}.50" for k in range(1, 12)), "3 CR"], None, {},
                                  "'3 CR' is read as text: if it is a credit or a debit"),
    "crores": ([f"₹{k} Cr" for k in range(1, 4)], "magnitude", {"₹2 Cr": 2e7}, "read as 10000000"),
    "amounts in parentheses": ([f"({k},234.50)" for k in range(1, 12)], None, {},
                               "since all stand in parentheses"),
    "spans": ([f"{k} days 01:02:03" for k in range(12)], "duration",
              {"2 days 01:02:03": 176523.0}, "seconds"),
    "ranges": ([f"{k}-{k + 9}" for k in range(0, 100, 10)], None, {}, "give each its own column"),
    "points between thousands": (["16.132", "1.234.567", "950"], None,
                                 {"16.132": 16132.0, "950": 950.0}, "read as 1234567"),
    "points and a long number": (["16.132", "1.234.567", "95000"], None, {}, "is read as text"),
    "one point": (["16.132", "1.234"], None, {"16.132": 16.132}, ""),
    "yes and no": (["Y", "N"], None, {}, ""),
    "t and f": (["t", "f"], None, {}, ""),
    "Roman numbers": (["I", "II", "III"], None, {}, ""),
    "apostrophes": ([f"'{k}" for k in range(12)], None, {}, "is read as text: if it is one number"),
    "signs of overflow": ([*map(str, range(20)), "########"], None, {"7": 7.0}, "'########'"),
}  # fmt: skip


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_of_quantities(case: str) -> None:
    text, spelling, values, note = COLUMNS[case]
    found = text_column(pl.Series("x", text, dtype=pl.String))
    assert spelling in (found.form.spelling, found.form.unit) if spelling else True
    assert found.values.dtype.is_numeric() == bool(values)
    assert note in found.note
    assert bool(note) == bool(found.note)
    alone = [typed_cells(pl.Series("x", [cell]), "numeric", found.form)[0] for cell in values]
    assert alone == pytest.approx(list(values.values()), rel=1e-12)
    if values:
        whole = typed_cells(pl.Series("x", text, dtype=pl.String), "numeric", found.form)
        assert whole.cast(pl.Float64).to_list() == found.values.cast(pl.Float64).to_list()


def test_a_number_of_another_unit_is_refused() -> None:
    form = text_column(pl.Series("x", [f"{k}kg" for k in range(10)])).form
    with pytest.raises(TableError, match=r"got '7 lb' in row 2.*its numbers are 'kg'"):
        typed_cells(pl.Series("x", ["7 kg", "7 lb"]), "numeric", form)
