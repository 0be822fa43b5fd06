"""Dates and moments as text: ISO 8601, other spellings that are certain, and spellings of a column.

A cell alone says what it means in the first two. Which of day and month comes first, and whether
digits are a date or a count, only a column can tell; that is decided once, where a model is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import polars as pl

# Date, then optionally time of day, fraction and offset from UTC: ISO 8601, and its common
# variants with a space for the T and slashes for the dashes.
INSTANT: Final = (
    r"^([0-9]{4})[-/]([0-9]{2})[-/]([0-9]{2})"
    r"(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r" ?(Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)
_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)
_ZONE: Final = r"(?: ?(?P<zone>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?"
_CLOCK: Final = (
    r"(?P<h>[0-9]{1,2}):(?P<min>[0-9]{2})(?::(?P<s>[0-9]{2})(?:[.,](?P<f>[0-9]{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_TIME: Final = rf"(?:(?:[T ]|, ){_CLOCK}{_ZONE})?"
_DAY: Final = r"(?P<d>[0-9]{1,2})"
_MONTH: Final = r"(?P<m>[0-9]{1,2})"
_YEAR: Final = r"(?P<y>[0-9]{4})"
_SOME_YEAR: Final = r"(?P<y>(?:1[5-9]|20|21)[0-9]{2})"
_NAME: Final = r"(?P<name>[A-Za-z]{3,9})\.?"
_NTH: Final = r"(?:st|nd|rd|th)?"
_WEEKDAY: Final = r"(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,? )"
# Each means one moment, whatever stands in other cells.
_CERTAIN: Final = (
    rf"{_YEAR}[-/]{_MONTH}[-/]{_DAY}{_TIME}",
    rf"{_YEAR}\.(?P<m>[0-9]{{2}})\.(?P<d>[0-9]{{2}}){_TIME}",
    rf"{_YEAR}\x{{5e74}}{_MONTH}\x{{6708}}{_DAY}\x{{65e5}}{_TIME}",
    rf"{_YEAR}(?P<m>[0-9]{{2}})(?P<d>[0-9]{{2}})[T ](?P<h>[0-9]{{2}})(?P<min>[0-9]{{2}})"
    rf"(?P<s>[0-9]{{2}})?{_ZONE}",
    rf"{_YEAR}[-/](?P<m>[0-9]{{2}})",
    rf"{_MONTH}[-/]{_SOME_YEAR}",
    rf"{_WEEKDAY}?{_DAY}{_NTH}(?: of)?[-/ ]{_NAME},?[-/ ]{_YEAR}{_TIME}",
    rf"{_WEEKDAY}?{_NAME}[-/ ]{_DAY}{_NTH},?[-/ ]{_YEAR}{_TIME}",
    rf"{_WEEKDAY}{_NAME} +{_DAY} {_CLOCK}{_ZONE} {_YEAR}",
    rf"{_YEAR}[-/ ]{_NAME}[-/ ]{_DAY}{_TIME}",
    rf"{_NAME},?[-/ ]{_YEAR}",
    rf"{_YEAR}[-/ ]{_NAME}",
    rf"{_YEAR}\x{{5e74}}{_MONTH}\x{{6708}}",
    rf"{_SOME_YEAR}[-/]?[Mm]{_MONTH}",
    rf"[Mm]{_MONTH}[-/]{_SOME_YEAR}",
    r"(?P<y>[12][0-9]{3})-(?P<year_day>[0-9]{3})",
    rf"{_YEAR}[-/ ]?[Ww](?P<week>[0-9]{{1,2}})(?:-?(?P<week_day>[1-7]))?",
    rf"{_YEAR}[-/ ]?[Qq](?P<quarter>[1-4])",
    rf"[Qq](?P<quarter>[1-4])[-/ ]?{_YEAR}",
    rf"{_YEAR}[-/ ]?[Hh](?P<year_half>[12])",
    rf"[Hh](?P<year_half>[12])[-/ ]{_YEAR}",
)
_PARTS: Final = (
    *("y", "m", "d", "h", "min", "s", "f", "half", "zone", "name"),
    *("year_day", "week", "week_day", "quarter", "year_half"),
)
_ANY_YEAR: Final = r"(?P<y>[0-9]{4}|[0-9]{2})"
_SEPARATED: Final = {
    "day_first": rf"{_DAY}[-/. ]{_MONTH}[-/. ]{_ANY_YEAR}{_TIME}",
    "month_first": rf"{_MONTH}[-/. ]{_DAY}[-/. ]{_ANY_YEAR}{_TIME}",
}
_THREE_NUMBERS: Final = r"^[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ](?:[0-9]{4}|[0-9]{2}(?:[T ,]|$))"
_POINTS: Final = r"^[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}"
_SHORT_YEAR: Final = r"^[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ][0-9]{2}(?:[T ,]|$)"
# Versions have points between, too; of dates with short years every part has two digits then.
_LIKE_VERSION: Final = r"^(?:[0-9]\.|[0-9]+\.[0-9]\.)"
_YEAR_FIRST: Final = rf"(?P<y>[0-9]{{2}})[-/. ]{_MONTH}[-/. ]{_DAY}{_TIME}"
_DIGITS: Final = (
    r"(?P<y>(?:1[89]|20|21)[0-9]{2})(?P<m>[0-9]{2})(?P<d>[0-9]{2})"
    r"(?:(?P<h>[0-9]{2})(?P<min>[0-9]{2})(?P<s>[0-9]{2})?)?"
)
_HALF_A_CENTURY: Final = 50
# So many distinct counts are all dates by chance in fewer than one column of 10**14.
_FEWEST_DATES: Final = 10
_YEAR_AND_MONTH: Final = r"^(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])$"
# Digits of numbers that may be moments, and where these end, in microseconds: the year 2100.
_LENGTHS: Final = (6, 8, 10, 12, 13, 14, 16)
_LATEST: Final = 4_102_444_800_000_000
# Digits of moments since 1970 from 2001 on, and microseconds in a unit.
_SINCE: Final = {
    "seconds": (10, 1_000_000),
    "milliseconds": (13, 1_000),
    "microseconds": (16, 1),
}


def parse_instants(text: pl.Series) -> pl.Series:
    """ISO 8601 text as naive UTC datetimes in microseconds; null where a cell is none."""
    part = text.str.extract_groups(INSTANT).struct.unnest()
    part.columns = ["y", "m", "d", "h", "min", "s", "f", "zone"]
    return _moments(part).alias(text.name)


def parse_moments(text: pl.Series) -> pl.Series:
    """`parse_instants`, and what else is certain: 2023-04, 2023M04, 2 Sep 2020, 2024-W05, 2024Q1.

    A month, a quarter, half a year and a week is its first day. A name is one of English months,
    in full or its first letters.
    """
    # All of these have a year; most text has none.
    if not text.str.contains("[0-9]{4}").any():
        return pl.Series(text.name, [None], dtype=pl.Datetime("us")).new_from_index(0, text.len())
    moments = parse_instants(text)
    for pattern in _CERTAIN:
        other = moments.is_null() & text.is_not_null()
        if not other.any():
            break
        cells = text.filter(other)
        chosen = cells.str.contains(f"^(?:{pattern})$")
        if chosen.any():
            places = other.arg_true().filter(chosen)
            moments = moments.scatter(places, _matched(cells.filter(chosen), pattern))
    return moments.alias(text.name)


def _matched(text: pl.Series, pattern: str) -> pl.Series:
    """Text of one pattern as moments; null where it is none, such as 31 June."""
    return _moments(text.str.extract_groups(f"^(?:{pattern})$").struct.unnest())


def _moments(found: pl.DataFrame) -> pl.Series:
    """Parts of moments, as text, put together."""
    empty = pl.Series([None] * found.height, dtype=pl.String)
    part = {name: found[name] if name in found.columns else empty for name in _PARTS}
    year, month, day = _whole_years(part["y"]), part["m"], part["d"].fill_null("01")
    if "name" in found.columns:
        month = _month_numbers(part["name"])
    elif "quarter" in found.columns:
        month = ((part["quarter"].cast(pl.Int64) - 1) * 3 + 1).cast(pl.String)
    elif "year_half" in found.columns:
        month = ((part["year_half"].cast(pl.Int64) - 1) * 6 + 1).cast(pl.String)
    if "week" in found.columns:
        weeks = year + "-" + part["week"].str.zfill(2) + "-" + part["week_day"].fill_null("1")
        days = weeks.str.to_date("%G-%V-%u", strict=False)
    elif "year_day" in found.columns:
        days = (year + "-" + part["year_day"]).str.to_date("%Y-%j", strict=False)
    else:
        dates = year + "-" + month.str.zfill(2) + "-" + day.str.zfill(2)
        days = dates.str.to_date("%Y-%m-%d", strict=False)
    hour, minute, second = (part[name].fill_null("0").cast(pl.Int64) for name in ("h", "min", "s"))
    half = part["half"].str.to_lowercase()
    hour = hour.set((hour < 1) | (hour > 12), None).zip_with(half.is_not_null(), hour)
    hour = (hour % 12 + (half == "p").cast(pl.Int64) * 12).zip_with(half.is_not_null(), hour)
    hour = hour.set((hour > 24) | ((hour == 24) & (minute + second > 0)), None)
    minute, second = minute.set(minute > 59, None), second.set(second > 60, None)
    micros = part["f"].fill_null("0").str.pad_end(6, "0").str.slice(0, 6).cast(pl.Int64)
    digits = part["zone"].str.replace_all(r"[^0-9]", "")
    offset = digits.str.slice(0, 2).cast(pl.Int64, strict=False).fill_null(0) * 60
    offset += digits.str.slice(2, 2).cast(pl.Int64, strict=False).fill_null(0)
    sign = part["zone"].str.starts_with("-").fill_null(False).cast(pl.Int64) * -2 + 1
    since = (hour * 3600 + (minute - offset * sign) * 60 + second) * 1_000_000 + micros
    return days.cast(pl.Datetime("us")) + since.cast(pl.Duration("us"))


def _whole_years(years: pl.Series) -> pl.Series:
    """Years of two digits in the century that POSIX gives them: 69 is 1969, 68 is 2068."""
    years = years.str.replace("^([0-5][0-9]|6[0-8])$", "20${1}")
    return years.str.replace("^([0-9]{2})$", "19${1}")


def _month_numbers(names: pl.Series) -> pl.Series:
    """English names of months as text of their numbers; "mayor" begins as one, and is none."""
    names = names.str.to_lowercase()
    spelt = {full[:n]: f"{k:02d}" for k, full in enumerate(_MONTHS, 1) for n in range(3, 10)}
    spelt["sept"] = "09"
    return names.replace_strict(
        pl.Series(list(spelt)),
        pl.Series(list(spelt.values())),
        default=None,
        return_dtype=pl.String,
    )


# ---------------------------------------------------------------------------------------------
# Spellings that a column has
# ---------------------------------------------------------------------------------------------


def _since_1970(unit: str) -> Callable[[pl.Series], pl.Series]:
    return lambda text: (text.cast(pl.Int64, strict=False) * _SINCE[unit][1]).cast(
        pl.Datetime("us")
    )


# By name: from text, or the text of integers, to datetimes in microseconds; null where it is none.
MOMENT_SPELLINGS: Final[dict[str, Callable[[pl.Series], pl.Series]]] = {
    "day_first": lambda text: _matched(text, _SEPARATED["day_first"]),
    "month_first": lambda text: _matched(text, _SEPARATED["month_first"]),
    "digits": lambda text: _matched(text, _DIGITS),
    **{unit: _since_1970(unit) for unit in _SINCE},
}


def find_moments(cells: pl.Series) -> str | None:
    """The spelling of a column of moments, where it is certain; None where it is not.

    `cells`: distinct text, none of it null.
    """
    if not cells.len() or not cells.str.contains(_THREE_NUMBERS).all():
        return None
    fits = [name for name in _SEPARATED if not MOMENT_SPELLINGS[name](cells).null_count()]
    if cells.str.contains(_SHORT_YEAR).any() and not (
        len(fits) == 1
        and cells.len() >= _FEWEST_DATES
        and not cells.str.contains(_LIKE_VERSION).any()
        and not may_begin_with_year(cells)
        and _in_half_a_century(MOMENT_SPELLINGS[fits[0]](cells))
    ):
        return None
    if len(fits) == 1:
        return fits[0]
    # No country puts the month first and points between.
    if fits and cells.str.contains(_POINTS).all():
        return "day_first"
    return None


def may_begin_with_year(cells: pl.Series) -> bool:
    """Whether a year of two digits may stand first in all cells, as in 24/01/31."""
    return not _matched(cells, _YEAR_FIRST).null_count()


def _in_half_a_century(moments: pl.Series) -> bool:
    """Whether the century of years of two digits is certain enough: births are of either."""
    years = moments.dt.year()
    return bool((years - years.min() <= _HALF_A_CENTURY).all())


def moments_of_counts(values: pl.Series, *, asked: bool = False) -> tuple[str | None, str]:
    """The spelling of numbers that are moments, where it is certain, and what to say of them.

    `asked`: whether whoever fits the model says that they are moments.
    """
    cells = _whole_numbers(values)
    if cells is None or (cells.len() < _FEWEST_DATES and not asked):
        return None, ""
    shown, n_digits = f"numbers such as {cells[0]}", len(str(cells[0]))
    if not MOMENT_SPELLINGS["digits"](cells.cast(pl.String)).null_count():
        return "digits", f"{shown} read as dates"
    if cells.cast(pl.String).str.contains(_YEAR_AND_MONTH).all():
        return None, f"{shown} may be months: write YYYY-MM if they are"
    for unit, (length, factor) in _SINCE.items():
        if n_digits == length and bool((cells < _LATEST // factor).all()):
            if asked:
                return unit, ""
            return None, f"{shown} may be {unit} since 1970: give the role 'datetime' if they are"
    return None, ""


def note_on_target(values: pl.Series) -> str:
    """What to say of a target of numbers that are dates or months; empty where they are not."""
    cells = _whole_numbers(values) if values.dtype.is_numeric() else None
    if cells is None or cells.len() < _FEWEST_DATES:
        return ""
    text = cells.cast(pl.String)
    for name, unit, are_such in (
        ("dates", "days", not MOMENT_SPELLINGS["digits"](text).null_count()),
        ("months", "months", text.str.contains(_YEAR_AND_MONTH).all()),
    ):
        if are_such:
            return (
                f"numbers such as {cells[0]} look like {name}, which a target is not read as: make "
                f"a number of them first, e.g. the {unit} since a date"
            )
    return ""


def _whole_numbers(values: pl.Series) -> pl.Series | None:
    """The distinct numbers, sorted, if all have as many digits as some moments have."""
    if not _may_be_moments(values.min(), values.max()):
        return None
    present = values.fill_nan(None).drop_nulls() if values.dtype.is_float() else values.drop_nulls()
    if present.dtype.is_float() and bool((present % 1 != 0).any()):
        return None
    return present.cast(pl.Int64).unique().sort()


def _may_be_moments(low: object, high: object) -> bool:
    """Whether numbers between these two, the lowest and the highest, may be digits of moments."""
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return False
    if not 0 <= low <= high < 1e17:  # not a number among them is none of these
        return False
    n_digits = len(f"{low:.0f}")
    return n_digits in _LENGTHS and len(f"{high:.0f}") == n_digits
