"""A column of text and the type that all of its cells have, or that is given.

What a cell means once its column has a type is decided in `cells.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import polars as pl

from tabwright.tables.cell_format import (
    USUAL,
    CellFormat,
    comma_as_point,
    decimal_points,
    typed_cells,
)
from tabwright.tables.cells import (
    BOUND,
    DIGITS,
    LEADING_ZERO,
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    to_levels,
)
from tabwright.tables.spellings.moments import (
    MOMENT_SPELLINGS,
    find_moments,
    parse_moments,
)
from tabwright.tables.spellings.near_misses import (
    FEW_MARKERS,
    MANY_NUMBERS,
    near_miss,
    occurrences,
)
from tabwright.tables.spellings.number_marks import (
    GROUP_MARKS,
    bare_numbers,
    currencies,
    plain_numbers,
)
from tabwright.tables.spellings.plain_columns import SAMPLE_ROWS, are_words, cells_fit
from tabwright.tables.spellings.quantities import (
    find_quantity,
    unit_of,
    without_unit,
)

Dtypes = Mapping[str, pl.DataType | type[pl.DataType]]


_WITH_OFFSET: Final = r"(?:[Zz]|UTC|GMT|:[0-9.,]+ ?[+-][0-9:]+)$"
_SEASON: Final = r"^([0-9]{4})[-/]([0-9]{2})$"
# A comma that separates no thousands: what is behind it, or before it, says so.
_SURE_COMMA: Final = (
    rf"^[-+]?(?:0?|0[0-9]+|[0-9]{{4,}}|[0-9.{GROUP_MARKS}]*[.{GROUP_MARKS}][0-9]{{3}}|[0-9]+),"
    r"[0-9]*(?:[eE][-+]?[0-9]+)?$"
)
_THREE_BEHIND: Final = r"^[-+]?[1-9][0-9]{0,2},[0-9]{3}$"
_GROUPED: Final = r"^[-+]?[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?$"
# Text that means "not known" wherever the other cells are numbers, in lower case.
_UNKNOWN: Final = (
    *("#null!", "#name?", "#n/a n/a", "\\n", "(null)", "(none)", "(na)", "(blank)", "(missing)"),
    *("n.a.", "n.a", "n. a.", "na.", "n/d", "n.d.", "nd", "n/k", "missing", "unknown", "undefined"),
    *("not available", "not applicable", "none", "nil", "void", "blank", "empty", "tbd"),
    *("-1.#ind", "1.#qnan", "1.#ind", "-1.#qnan", "#nan", "#missing", "<null>", "[null]", "\\null"),
)
# Signs alone.
_SIGNS: Final = r"^[^\p{L}\p{N}+]+$"
# The date of an empty cell in some databases.
_NO_DATE: Final = r"^0000-00-00(?:[T ]00:00:00(?:\.0+)?)?$"
_OF_TWO_SPELLINGS: Final = r"^(?:\+|[-+]?[0-9]*\.[0-9]*0$|[-+]?[0-9.]+[eE.]$)|[0-9][eE]"
_SPELT_NUMBER: Final = r"^[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?\.?$"


class TextColumn(NamedTuple):
    """A column of text as what it holds.

    `note`: what a reader of the table should know; may be empty.
    `form`: how its text is written, for cells to come.
    """

    values: pl.Series
    note: str
    form: CellFormat


def read_text(
    series: pl.Series,
    *,
    decimal: str | None = None,
    counts: pl.Series | None = None,
    missing: tuple[str, ...] | None = None,
) -> tuple[pl.Series, str]:
    """`text_column` without the format: the typed column and its note."""
    found = text_column(series, decimal=decimal, counts=counts, missing=missing)
    return found.values, found.note


def text_column(
    series: pl.Series,
    *,
    decimal: str | None = None,
    counts: pl.Series | None = None,
    missing: tuple[str, ...] | None = None,
) -> TextColumn:
    """Give a text column the type that all of its cells have.

    Spaces around a cell go; `MISSING_MARKERS` become null. If every other cell is an integer the
    column is Int64 (UInt64 where needed), if every one is a number it is Float64, with
    true/false in any case Boolean, with ISO 8601 dates Date, with ISO 8601 dates and times
    Datetime (UTC where the cells name an offset). Any other column stays String. So does a column
    with a number that has a leading zero (`00501` is a code, not 501) or an integer that does not
    fit 64 bits. Where it is certain, a comma is read as the decimal mark, and a handful of other
    texts among numbers as missing cells.

    `decimal`: what separates the fraction of a number; by default a point, or a comma where that is
        certain.
    `counts`: how often each cell occurs, where `series` holds the distinct cells of a column only;
        the note counts those.
    `missing`: text that stands for a missing cell, in place of `MISSING_MARKERS`.
    Returns: its note has the markers read as missing, spaces removed, and numbers that were not
        recognised.
    """
    name = series.name
    values, note, form = _text_column(series.alias(""), decimal, counts, missing)
    return TextColumn(values.alias(name), note, form)


def may_merge_levels(columns: list[pl.Series]) -> list[bool]:
    """Which columns of text, of one length, have a number that can be spelt in two ways."""
    texts = [series.cast(pl.String) for series in columns]
    return cells_fit(texts, lambda text: text.str.strip_chars().str.contains(_OF_TWO_SPELLINGS))


def merges_levels(series: pl.Series) -> bool:
    """Whether levels that are different text would be one number, as ``1.1`` and ``1.10``."""
    cells = series.alias("").cast(pl.String).str.strip_chars().unique()
    cells = cells.filter(cells.str.contains(_SPELT_NUMBER))
    return to_levels(cells).n_unique() < cells.len()


def _text_column(
    series: pl.Series,
    decimal: str | None,
    counts: pl.Series | None,
    missing: tuple[str, ...] | None,
) -> TextColumn:
    """A column of text as what all its cells say, and how it is written."""
    text = series.str.strip_chars()
    clean = text.set(text.is_in(MISSING_MARKERS if missing is None else ["", *missing]), None)
    form = replace(USUAL, missing=missing)
    is_text = are_words(clean, counts)
    typed = clean if is_text else _typed(clean, decimal or ".", missing is None)
    if typed.dtype == pl.String and decimal != "." and not is_text:
        commas = _comma_numbers(clean, certain=decimal == ",")
        if commas is not None:
            form, typed = replace(form, decimal=","), commas
    if typed.dtype == pl.String and not is_text:
        spelt = _spelt(clean, decimal, missing)
        if spelt is not None:
            typed, form = spelt
    if typed.dtype == pl.String and missing is None and not is_text:
        extra = _unknown_markers(clean, counts)
        if extra:
            rest = clean.set(clean.is_in(extra), None)
            known = text_column(rest, decimal=decimal, counts=counts)
            if known.values.dtype.is_numeric() or known.values.dtype.is_temporal():
                typed = known.values
                unknown = (*MISSING_MARKERS[1:], *NUMERIC_MARKERS, *extra)
                form = replace(known.form, missing=unknown)
    notes = []
    lost = series.is_not_null() & typed.is_null() & (series != "")
    if lost.any():
        markers = occurrences(series, counts, lost)
        n_lost = sum(markers.values())
        cells = "1 cell" if n_lost == 1 else f"{n_lost:,} cells"
        first = ", ".join(repr(marker) for marker in list(markers)[:3])
        notes.append(f"{cells} read as missing: {first}")
    if typed.dtype.is_numeric():
        # Most columns are numbers as they stand, and need no other spelling looked for.
        is_plain = text.cast(pl.Float64, strict=False).null_count() <= typed.null_count()
        if not is_plain:
            plain = decimal_points(text) if form.decimal == "," else plain_numbers(text)
            spelled = typed.is_not_null() & (plain != text)
            if form.spelling is not None or form.unit is not None:
                spelled = typed.is_not_null() & text.cast(pl.Float64, strict=False).is_null()
            if spelled.any():
                example = next(iter(occurrences(text, counts, spelled)))
                value = typed.filter(spelled & (text == example))[0]
                value = int(value) if value == value // 1 else value
                if form.spelling in ("clock", "duration"):
                    notes.append(f"times such as {example!r} read as {value} seconds")
                else:
                    notes.append(f"numbers such as {example!r} read as {value}")
        spaced = typed.is_not_null() & (text != series)
        if spaced.any():
            n_spaced = sum(occurrences(series, counts, spaced).values())
            notes.append(f"spaces around {n_spaced:,} numbers ignored")
    elif form.spelling is not None:
        example = next(iter(occurrences(text, counts, typed.is_not_null())))
        value = str(typed.filter(typed.is_not_null() & (text == example))[0])
        notes.append(f"dates such as {example!r} read as {value.removesuffix(' 00:00:00')}")
    elif isinstance(typed.dtype, pl.Datetime) and typed.dtype.time_zone is not None:
        naive = typed.is_not_null() & ~text.str.contains(_WITH_OFFSET)
        if naive.any():
            example = next(iter(occurrences(text, counts, naive)))
            notes.append(f"times without an offset, such as {example!r}, read as UTC")
    elif typed.dtype == pl.String and not is_text:
        hint = near_miss(clean, counts)
        if hint is not None:
            notes.append(hint)
    return TextColumn(typed, "; ".join(notes), form)


def _spelt(
    text: pl.Series, decimal: str | None, missing: tuple[str, ...] | None
) -> tuple[pl.Series, CellFormat] | None:
    """Text in a spelling that only a column can tell, as what it means, and how it is written.

    Text for missing cells may be beside it. None where no spelling is certain.
    """
    cells = text.drop_nulls().unique(maintain_order=True)
    head = cells.head(SAMPLE_ROWS)
    if 2 * int(head.str.contains(r"\p{N}").sum()) < head.len():
        return None
    markers = missing
    if missing is None:
        odd = mean_missing(cells)
        if odd.any():
            markers = (*MISSING_MARKERS[1:], *NUMERIC_MARKERS, *cells.filter(odd).sort())
            cells = cells.filter(~odd)
    spelling, unit = find_moments(cells) or (decimal != "," and find_quantity(cells)) or None, None
    # A comma that has not three digits behind it separates a fraction.
    if spelling is None and (decimal == "," or cells.str.contains(",[0-9]{1,2}(?:[^0-9]|$)").any()):
        spelling = find_quantity(comma_as_point(cells))
        decimal = "," if spelling is not None else decimal
    if spelling is None:
        unit = unit_of(cells)
        if unit is None:
            return None
        known = text_column(without_unit(cells, unit), decimal=decimal, missing=missing)
        if not known.values.dtype.is_numeric() or known.values.null_count():
            return None
        decimal = known.form.decimal
    form = CellFormat("," if decimal == "," else ".", markers, spelling=spelling, unit=unit)
    if spelling not in MOMENT_SPELLINGS:
        return typed_cells(text, "numeric", form), form
    moments = typed_cells(text, "datetime", form)
    return moments.dt.date() if _are_days(moments) else moments, form


def _comma_numbers(text: pl.Series, *, certain: bool) -> pl.Series | None:
    """Numbers with decimal commas; None where the cells are no such."""
    cells = text.set(text.is_in(NUMERIC_MARKERS), None)
    commas = cells.str.contains(",", literal=True).fill_null(False)
    if not (commas.any() or certain):
        return _point_thousands(cells)
    if not certain:
        bare = bare_numbers(cells)
        sure = bare.str.contains(_SURE_COMMA) & ~bare.str.contains(_THREE_BEHIND)
        points = cells.str.contains(".", literal=True).fill_null(False)
        if not sure.any() or not bare.filter(points).str.contains(_GROUPED).all():
            return None
    typed = _typed(decimal_points(cells), ".", True)
    return typed if typed.dtype.is_numeric() else None


def _point_thousands(cells: pl.Series) -> pl.Series | None:
    """Numbers whose points separate thousands; one with two points makes that certain."""
    if not cells.str.contains(r"[0-9]\.[0-9]{3}\.[0-9]{3}").any():
        return None
    bare = bare_numbers(cells)
    points = bare.str.contains(".", literal=True).fill_null(False)
    if not bare.filter(points).str.contains(_GROUPED).all():
        return None
    short = bare.filter(~points & bare.is_not_null())
    if not short.str.contains(r"^[-+]?(?:0|[1-9][0-9]{0,2})$").all():
        return None
    typed = _typed(decimal_points(cells), ".", True)
    return typed if typed.dtype.is_numeric() else None


def _unknown_markers(text: pl.Series, counts: pl.Series | None) -> list[str]:
    """Text among numbers that means a missing cell; empty where that is not certain."""
    present = text.drop_nulls()
    head = present.head(SAMPLE_ROWS)

    def is_number(cells: pl.Series) -> pl.Series:
        usual = decimal_points(plain_numbers(cells)).cast(pl.Float64, strict=False).is_not_null()
        if not usual.any():
            usual = parse_moments(cells).is_not_null()
        return usual | cells.is_in(NUMERIC_MARKERS)

    # Columns of words are the common ones: they end here.
    if present.len() < 2 or 4 * int(is_number(head).sum()) < head.len():
        return []
    numbers = is_number(text).fill_null(False)
    others = occurrences(text, counts, ~numbers & text.is_not_null())
    n_numbers = sum(occurrences(text, counts, numbers).values())
    if not others or n_numbers < sum(others.values()):
        return []
    found = pl.Series(list(others), dtype=pl.String)
    words = found.filter(~mean_missing(found))
    if words.len():
        many = text.filter(numbers).n_unique() >= MANY_NUMBERS
        few = words.len() <= FEW_MARKERS and not words.str.contains("[0-9]").any()
        rare = 10 * sum(others[word] for word in words) <= n_numbers
        if not (many and few and rare):
            return []
    return list(others)


def mean_missing(cells: pl.Series) -> pl.Series:
    """Which cells, none of them null, are text for a missing cell in any column of numbers."""
    known = cells.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS])
    known |= cells.str.to_lowercase().is_in(_UNKNOWN) | cells.str.contains(_SIGNS)
    return known | cells.str.contains(BOUND) | cells.str.contains(_NO_DATE)


def _typed(text: pl.Series, decimal: str, marked: bool) -> pl.Series:
    """The column as the type of all its cells; `marked`: numbers may be beside usual markers."""
    present = text.drop_nulls()
    if not present.len():
        return text
    head = present.head(SAMPLE_ROWS)
    # A look at the first rows spares text columns the full scans.
    if _may_be_numbers(head, marked):
        numbers = _as_numbers(text, marked)
        if numbers is not None:
            return numbers
    elif decimal == "." and _may_be_numbers(plain_numbers(head), marked):
        plain = plain_numbers(text)
        numbers = _as_numbers(plain, marked) if _is_one_spelling(text, plain) else None
        if numbers is not None:
            return numbers
    if head.str.to_lowercase().is_in(["true", "false"]).all():
        lower = text.str.to_lowercase()
        if lower.drop_nulls().is_in(["true", "false"]).all():
            return lower == "true"
    if not parse_moments(head).null_count():
        return _as_instants(text)
    return text


def _is_one_spelling(text: pl.Series, plain: pl.Series) -> bool:
    """Whether the numbers of a column are certain to be what `plain_numbers` makes of them.

    All or none have a percent sign, all or none are hexadecimal, they have one currency at most,
    and not all stand in parentheses. A comma that may stand for
    the decimal mark, in ``1,282``, is no separator of thousands where a number from 1000 on comes
    without one.
    """
    present = text.drop_nulls()
    present = present.filter(~present.is_in(NUMERIC_MARKERS))
    if present.str.starts_with("(").all():
        return False  # numbers of items, maybe: where no other is positive, none is sure to be less
    for marked in (present.str.ends_with("%"), present.str.contains("^[-+]?0[xX]")):
        if marked.any() and not marked.all():
            return False
    if currencies(present).len() > 1:
        return False
    commas = text.str.contains(",", literal=True)
    if not commas.any() or text.str.contains(r",[0-9]{3}[.,]").any():
        return True
    bare = plain.filter(~commas.fill_null(False)).cast(pl.Float64, strict=False).abs().max()
    return not (isinstance(bare, float) and bare >= 1000.0)


def _may_be_numbers(head: pl.Series, marked: bool) -> bool:
    fine = head.cast(pl.Float64, strict=False).is_not_null()
    return bool(fine.all()) or (marked and bool((fine | head.is_in(NUMERIC_MARKERS)).all()))


def _as_numbers(text: pl.Series, marked: bool) -> pl.Series | None:
    """The column as Int64, UInt64 or Float64, or None where a cell is no number."""
    if marked:
        text = text.set(text.is_in(NUMERIC_MARKERS), None)
    n_null = text.null_count()
    if n_null == text.len() or text.str.contains(LEADING_ZERO).any():
        return None
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == n_null:
        return whole
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() != n_null:
        return None
    if text.filter(whole.is_null() & text.is_not_null()).str.contains(DIGITS).any():
        wide = text.cast(pl.UInt64, strict=False)
        if wide.null_count() == n_null:
            return wide
        # Past 64 bits digits are a name, unless fractions say that they count something.
        return numbers if text.str.contains(r"[0-9]\.[0-9]|[0-9][eE]").any() else None
    return numbers


def _as_instants(text: pl.Series) -> pl.Series:
    """ISO 8601 text as Date or Datetime; unchanged where a cell is no such date (31 June)."""
    moments = parse_moments(text)
    if moments.null_count() != text.null_count():
        return text
    present = text.drop_nulls()
    if _are_seasons(present):
        return text
    if not present.str.contains(":", literal=True).any() and _are_days(moments):
        return moments.dt.date()
    if present.str.contains(_WITH_OFFSET).any():
        return moments.dt.replace_time_zone("UTC")
    return moments


def _are_seasons(present: pl.Series) -> bool:
    """Whether these are two years each, as 2009-10 and 2010-11: no months."""
    cells = present.unique()
    part = cells.str.extract_groups(_SEASON).struct.unnest()
    first, second = (part.to_series(k).cast(pl.Int64) for k in (0, 1))
    return cells.len() > 1 and bool(((first + 1) % 100 == second).fill_null(False).all())


def _are_days(moments: pl.Series) -> bool:
    present = moments.drop_nulls()
    return bool((present == present.dt.truncate("1d")).all())
