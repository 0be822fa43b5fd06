"""A column of text and the type that all of its cells have, or that is given.

What a cell means once its column has a type is decided in `cells.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cell_format import (
    USUAL,
    CellFormat,
    comma_as_point,
    decimal_points,
    typed_cells,
)
from tabwright.tables.cells import (
    BOUND,
    CURRENCY,
    DIGITS,
    LEADING_ZERO,
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    bare_numbers,
    currencies,
    plain_numbers,
    to_levels,
    under_plain_name,
)
from tabwright.tables.spellings.moments import (
    INSTANT,
    MOMENT_SPELLINGS,
    find_moments,
    parse_instants,
    parse_moments,
)
from tabwright.tables.spellings.quantities import (
    find_quantity,
    has_magnitudes,
    unit_of,
    without_unit,
)

Dtypes = Mapping[str, pl.DataType | type[pl.DataType]]


_SAMPLE_ROWS: Final = 1_000
# Where so many of the cells are numbers or dates, the others are worth a word.
_MOST_CELLS: Final = 0.9
_ALMOST_DATE: Final = (
    "^(?:"
    + "|".join(
        rf"[0-9]{{1,4}}{s}(?:[0-9]{{1,2}}|[A-Za-z]{{3,9}}){s}[0-9]{{1,4}}"
        for s in ("-", "/", "[.]", " ")
    )
    + r")(?:[ T,]+[0-9]{1,2}:[0-9]{2}.*)?$"
)
_MONTH: Final = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_NAMED_MONTH: Final = (
    rf"(?:^|[^A-Za-z]){_MONTH}\.?[ \-,./]+[0-9]|[0-9][ \-./]+{_MONTH}(?:[^A-Za-z]|$)"
)
# Weeks, quarters, and months in any language.
_SEASON: Final = r"^([0-9]{4})[-/]([0-9]{2})$"
_RANGE: Final = r"^[0-9][0-9.,]* ?(?:-|\x{2013}|to|/) ?[0-9][0-9.,]*$"
_PERIOD: Final = (
    r"^(?:[0-9]{4}[-/ ]?(?:[Ww][0-9]{1,2}(?:-?[1-7])?|[Qq][1-4])|[Qq][1-4][-/ ]?[0-9]{4}|"
    r"[0-9]{1,2}\.? (?:de )?\p{L}{3,10}\.? (?:de )?[0-9]{4})$"
)
_WITH_UNIT: Final = (
    r"^[-+]?[0-9]+(?:[.,][0-9]+)?[ \x{a0}\x{202f}]?[\p{L}\x{b0}\x{b5}][\p{L}/\x{b2}\x{b3}]{0,5}$"
)
_CLOCK: Final = r"^[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?[AaPp][Mm])?$"
_DECIMAL_COMMA: Final = r"^[-+\x{2212}]?[0-9]+(?:[. ][0-9]{3})*,[0-9]+$"
# A comma that separates no thousands: what is behind it, or before it, says so.
_SURE_COMMA: Final = (
    r"^[-+]?(?:0?|0[0-9]+|[0-9]{4,}|[0-9.' ]*[.' ][0-9]{3}|[0-9]+),[0-9]*(?:[eE][-+]?[0-9]+)?$"
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
# Digits and signs, no letter: what a number in a spelling of its own looks like.
_LIKE_NUMBER: Final = r"^[^\p{L}]*[0-9][^\p{L}]*$"
_MANY_NUMBERS: Final = 10
# Cells of several columns that are looked at as one.
_CELLS_TOGETHER: Final = 500_000
# Digits of any script that numbers are read in.
_DIGIT: Final = (
    r"[0-9\x{660}-\x{669}\x{6f0}-\x{6f9}\x{966}-\x{96f}\x{9e6}-\x{9ef}\x{e50}-\x{e59}"
    r"\x{ff10}-\x{ff19}]"
)
# Digits, but for names such as w17, and what else is a number or a boolean: these are no words.
_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_NO_WORD: Final = rf"(?i)^(?:true|false|[+-]?inf(?:inity)?|[+-]?nan|(?:{CURRENCY}|Q)[0-9].*)$"
_SPELT_NUMBER: Final = r"^[-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?\.?$"
# So many other cells in a column of numbers may be markers of missing cells.
_FEW_MARKERS: Final = 3
_FEWEST_CELLS: Final = 10


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


def plain_columns(
    frame: pl.DataFrame, *, decimal: str | None = None, missing: tuple[str, ...] | None = None
) -> dict[str, set[str]]:
    """The columns of text that `text_column` would read as they stand, empty cells as missing.

    They are numbers as Python writes them, or words without a marker of missing cells and without
    spaces around them. A wide table has most of its columns so; here the cells of many columns are
    looked at as one.

    `decimal`, `missing`: as in `text_column`; numbers are not looked for where they say otherwise
        than usual.
    Returns: by name what `text_kinds` says: "whole", with "negative", or "float"; or "text".
    """
    columns = [series for series in frame.get_columns() if series.dtype == pl.String]
    numeric: list[pl.Series] = []
    words: list[pl.Series] = []
    # A look at the first rows tells which scan a column needs.
    heads = [series.head(_SAMPLE_ROWS) for series in columns]
    for series, is_words in zip(columns, _have_words(heads, frame.height), strict=True):
        (words if is_words else numeric).append(series)
    if decimal == "," or missing is not None:
        numeric = []
    elif frame.height > _SAMPLE_ROWS:
        first = _number_kinds([series.head(_SAMPLE_ROWS) for series in numeric])
        numeric = [series for series, own in zip(numeric, first, strict=True) if own is not None]
    kinds = dict(zip([series.name for series in numeric], _number_kinds(numeric), strict=True))
    found: dict[str, set[str]] = {name: own for name, own in kinds.items() if own}
    are_clean = _are_clean(words, MISSING_MARKERS[1:] if missing is None else missing)
    for series, is_clean in zip(words, are_clean, strict=True):
        if is_clean:
            found[series.name] = {"text"}
    return found


def _together(columns: list[pl.Series]) -> Iterator[tuple[pl.Series, tuple[int, int]]]:
    """The cells of some of the columns as one, column by column, and their (columns, rows)."""
    n_rows = columns[0].len() if columns else 0
    n_together = max(1, _CELLS_TOGETHER // max(n_rows, 1))
    for start in range(0, len(columns), n_together):
        group = [series.alias("") for series in columns[start : start + n_together]]
        yield pl.concat(group), (len(group), n_rows)


def _have_words(heads: list[pl.Series], n_rows: int) -> list[bool]:
    """`_are_words` of columns of `n_rows` rows, by their first ones alone."""
    result: list[bool] = []
    for text, shape in _together(heads):
        n_words, n_present = (
            cells.to_numpy().reshape(shape).sum(axis=1)
            for cells in (_words(text), (text != "").fill_null(False))
        )
        # Below a short head there are other cells.
        n_present = np.where(n_rows > _SAMPLE_ROWS, _SAMPLE_ROWS, n_present)
        result += [4 * n > 3 * wanted for n, wanted in zip(n_words, n_present, strict=True)]
    return result


def _are_words(text: pl.Series, counts: pl.Series | None) -> bool:
    """Whether three quarters of the first cells are words, so that the column is text."""
    present = text.is_not_null()
    words = _words(text.filter(present).head(_SAMPLE_ROWS))
    if counts is None:
        return 4 * int(words.sum()) > 3 * words.len()
    n = counts.filter(present).head(_SAMPLE_ROWS)
    return bool(4 * n.filter(words).sum() > 3 * n.sum())


def _words(cells: pl.Series) -> pl.Series:
    """Which cells are words: no part of numbers, booleans, dates, nor a marker among numbers."""
    words = ~cells.str.contains(_DIGIT) | cells.str.contains(_NAME)
    words &= ~(cells.str.contains(_NO_WORD) | cells.is_in(["", *NUMERIC_MARKERS]))
    return words.fill_null(False)


def _are_clean(columns: list[pl.Series], markers: Sequence[str]) -> list[bool]:
    """Which columns have neither spaces around a cell nor one of the markers."""
    result: list[bool] = []
    for text, shape in _together(columns):
        odd = text.is_in(list(markers)) | text.str.contains(r"^\s|\s$")
        result += [not own.any() for own in odd.fill_null(False).to_numpy().reshape(shape)]
    return result


def _number_kinds(columns: list[pl.Series]) -> list[set[str] | None]:
    """Kinds of columns of one length; empty where there is no cell, None where one is not plain."""
    if not columns or not columns[0].len():
        return [None] * len(columns)
    result: list[set[str] | None] = []
    for text, shape in _together(columns):
        absent = (text == "").fill_null(False)
        whole, number = (text.cast(own, strict=False) for own in (pl.Int64, pl.Float64))
        odd = number.is_null() != absent
        odd |= number.is_nan().fill_null(False) | text.str.contains(LEADING_ZERO).fill_null(True)
        fraction = whole.is_null() & ~absent
        odd |= fraction & text.str.contains(DIGITS).fill_null(True)
        tests = (odd, fraction, (whole < 0).fill_null(False), ~absent)
        said = [own.to_numpy().reshape(shape).any(axis=1).tolist() for own in tests]
        for is_odd, is_float, is_negative, has_cells in zip(*said, strict=True):
            if is_odd:
                result.append(None)
            elif not has_cells:
                result.append(set())
            else:
                negative = {"negative"} if is_negative else set()
                result.append({"float"} if is_float else {"whole", *negative})
    return result


def merges_levels(series: pl.Series) -> bool:
    """Whether levels that are different text would be one number, as ``1.1`` and ``1.10``."""
    cells = series.alias("").cast(pl.String).str.strip_chars()
    # Only such spellings have a twin.
    if not cells.str.contains(r"^(?:\+|[-+]?[0-9]*\.[0-9]*0$|[-+]?[0-9.]+[eE.]$)|[0-9][eE]").any():
        return False
    cells = cells.unique()
    cells = cells.filter(cells.str.contains(_SPELT_NUMBER))
    return to_levels(cells).n_unique() < cells.len()


def _text_column(
    series: pl.Series,
    decimal: str | None,
    counts: pl.Series | None,
    missing: tuple[str, ...] | None,
) -> TextColumn:
    text = series.str.strip_chars()
    clean = text.set(text.is_in(MISSING_MARKERS if missing is None else ["", *missing]), None)
    form = replace(USUAL, missing=missing)
    are_words = _are_words(clean, counts)
    typed = clean if are_words else _typed(clean, decimal or ".", missing is None)
    if typed.dtype == pl.String and decimal != "." and not are_words:
        commas = _comma_numbers(clean, certain=decimal == ",")
        if commas is not None:
            form, typed = replace(form, decimal=","), commas
    if typed.dtype == pl.String and not are_words:
        spelt = _spelt(clean, decimal, missing)
        if spelt is not None:
            typed, form = spelt
    if typed.dtype == pl.String and missing is None and not are_words:
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
        markers = _occurrences(series, counts, lost)
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
                example = next(iter(_occurrences(text, counts, spelled)))
                value = typed.filter(spelled & (text == example))[0]
                value = int(value) if value == value // 1 else value
                seconds = " seconds" if form.spelling in ("clock", "duration") else ""
                notes.append(f"numbers such as {example!r} read as {value}{seconds}")
        spaced = typed.is_not_null() & (text != series)
        if spaced.any():
            n_spaced = sum(_occurrences(series, counts, spaced).values())
            notes.append(f"spaces around {n_spaced:,} numbers ignored")
    elif form.spelling is not None:
        example = next(iter(_occurrences(text, counts, typed.is_not_null())))
        value = str(typed.filter(typed.is_not_null() & (text == example))[0])
        notes.append(f"dates such as {example!r} read as {value.removesuffix(' 00:00:00')}")
    elif typed.dtype == pl.String and not are_words:
        hint = _near_miss(clean, counts)
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
    head = cells.head(_SAMPLE_ROWS)
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
    head = present.head(_SAMPLE_ROWS)

    def is_number(cells: pl.Series) -> pl.Series:
        usual = decimal_points(plain_numbers(cells)).cast(pl.Float64, strict=False).is_not_null()
        if not usual.any():
            usual = parse_moments(cells).is_not_null()
        return usual | cells.is_in(NUMERIC_MARKERS)

    # Columns of words are the common ones: they end here.
    if present.len() < 2 or 4 * int(is_number(head).sum()) < head.len():
        return []
    numbers = is_number(text).fill_null(False)
    others = _occurrences(text, counts, ~numbers & text.is_not_null())
    n_numbers = sum(_occurrences(text, counts, numbers).values())
    if not others or n_numbers < sum(others.values()):
        return []
    found = pl.Series(list(others), dtype=pl.String)
    words = found.filter(~mean_missing(found))
    if words.len():
        many = text.filter(numbers).n_unique() >= _MANY_NUMBERS
        few = words.len() <= _FEW_MARKERS and not words.str.contains("[0-9]").any()
        rare = 10 * sum(others[word] for word in words) <= n_numbers
        if not (many and few and rare):
            return []
    return list(others)


def mean_missing(cells: pl.Series) -> pl.Series:
    """Which cells, none of them null, are text for a missing cell in any column of numbers."""
    known = cells.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS])
    known |= cells.str.to_lowercase().is_in(_UNKNOWN) | cells.str.contains(_SIGNS)
    return known | cells.str.contains(BOUND) | cells.str.contains(_NO_DATE)


def _occurrences(cells: pl.Series, counts: pl.Series | None, chosen: pl.Series) -> dict[str, int]:
    """How often each of the chosen cells occurs, the most frequent first."""
    n = pl.repeat(1, cells.len(), eager=True) if counts is None else counts
    table = pl.DataFrame({"cell": cells, "n": n}).filter(chosen)
    table = (
        table.group_by("cell").agg(pl.col("n").sum()).sort("n", "cell", descending=[True, False])
    )
    return dict(table.iter_rows())


def _typed(text: pl.Series, decimal: str, marked: bool) -> pl.Series:
    """The column as the type of all its cells; `marked`: numbers may be beside usual markers."""
    present = text.drop_nulls()
    if not present.len():
        return text
    head = present.head(_SAMPLE_ROWS)
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
    for own in (present.str.ends_with("%"), present.str.contains("^[-+]?0[xX]")):
        if own.any() and not own.all():
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
    if present.str.contains(r"(?:[Zz]|UTC|GMT|:[0-9.,]+ ?[+-][0-9:]+)$").any():
        return moments.dt.replace_time_zone("UTC")
    return moments


def _are_seasons(present: pl.Series) -> bool:
    """Whether these are two years each, as 2009-10 and 2010-11: no months."""
    cells = present.unique()
    part = cells.str.extract_groups(_SEASON).struct.unnest()
    first, second = (part.to_series(k).cast(pl.Int64) for k in (0, 1))
    return cells.len() > 1 and bool(((first + 1) % 100 == second).fill_null(False).all())


def _of_either_order(cells: pl.Series) -> bool:
    orders = (MOMENT_SPELLINGS[own](cells) for own in ("day_first", "month_first"))
    return not any(moments.null_count() for moments in orders)


def _are_days(moments: pl.Series) -> bool:
    present = moments.drop_nulls()
    return bool((present == present.dt.truncate("1d")).all())


def _near_miss(text: pl.Series, counts: pl.Series | None) -> str | None:
    """Why a column that looks like numbers or dates is text after all."""
    present = text.drop_nulls()
    counts = None if counts is None else counts.filter(text.is_not_null())
    if not present.len():
        return None
    head = present.head(_SAMPLE_ROWS)
    weight = pl.repeat(1, head.len(), eager=True) if counts is None else counts.head(_SAMPLE_ROWS)

    def most(chosen: pl.Series) -> bool:
        n_chosen, n_all = (int(part.sum() or 0) for part in (weight.filter(chosen), weight))
        return n_chosen >= _MOST_CELLS * n_all

    def example(cells: pl.Series, chosen: pl.Series) -> str | None:
        found = list(_occurrences(cells, counts, chosen))
        return repr(found[0]) if found else None

    plain = plain_numbers(head).cast(pl.Float64, strict=False).is_not_null()
    odd = head.str.contains(_DECIMAL_COMMA)
    if odd.any() and (odd | plain).all():
        shown = repr(head.filter(odd).min())
        return f"{shown} is not read as a number: write 1234.5, or set decimal=','"
    if plain.all() and (plain_numbers(head) != head).any():
        commas = head.filter(head.str.contains(",", literal=True))
        if commas.len():
            return (
                f"{commas.min()!r} is not read as a number, since its comma may separate thousands "
                "or a fraction: write 1282 or 1.282"
            )
        return f"{head.min()!r} is not read as a number: write it with digits and a point alone"
    if (
        plain.all()
        and head.str.contains(DIGITS).all()
        and not head.str.contains(LEADING_ZERO).any()
    ):
        longest = present.filter(present.str.len_chars() == present.str.len_chars().max()).min()
        return (
            f"integers such as {longest!s} are past 64 bits and read as text: give the column the "
            "role 'numeric' if they are quantities"
        )
    others = _occurrences(head, None if counts is None else weight, ~plain)
    if most(plain) or (
        int(weight.sum() or 0) >= _FEWEST_CELLS
        and len(others) <= _FEW_MARKERS
        and 2 * sum(others.values()) <= int(weight.sum() or 0)
    ):
        bad = example(present, plain_numbers(present).cast(pl.Float64, strict=False).is_null())
        advice = "leave such cells empty if they are missing"
        return None if bad is None else f"{bad} is no number, so the column is text; {advice}"
    if most(head.str.contains(INSTANT)):
        bad = example(present, parse_instants(present).is_null())
        return None if bad is None else f"{bad} is no date, so the column is text"
    if has_magnitudes(head.unique()):
        return (
            f"{head.filter(~plain).min()!r} is read as text: if its letter stands for thousands "
            "or millions, write the number in full"
        )
    almost_date = head.str.contains(_ALMOST_DATE) | head.str.contains(_NAMED_MONTH)
    if (almost_date | head.str.contains(_PERIOD)).all():
        order = ", since its day and month may be either" if _of_either_order(head) else ""
        return f"{head.min()!r} is not read as a date{order}: write YYYY-MM-DD"
    if head.str.contains(_CLOCK).all():
        return f"{head.min()!r} is read as text: if the time counts, write it as a number of hours"
    if head.n_unique() >= _MANY_NUMBERS and head.str.contains(_WITH_UNIT).all():
        return (
            f"{head.min()!r} is read as text: if its number counts, write all in one unit, "
            "and leave the unit out"
        )
    if head.n_unique() >= _MANY_NUMBERS and head.str.contains(_RANGE).all():
        return f"{head.min()!r} is read as text: if its two numbers count, give each its own column"
    odd = head.filter(~plain)
    has_digits = pl.Series(list(others), dtype=pl.String).str.contains("[0-9]").all()
    half = 2 * sum(others.values()) <= int(weight.sum() or 0) and has_digits
    many = odd.n_unique() >= _MANY_NUMBERS and most(plain | head.str.contains(_LIKE_NUMBER))
    if odd.len() and (half or many):
        return (
            f"{odd.min()!r} is read as text: if it is one number, write it with digits and a point "
            "alone"
        )
    return None


# ---------------------------------------------------------------------------------------------
# Types that are given, or found piece by piece
# ---------------------------------------------------------------------------------------------


@under_plain_name
def cast_column(
    series: pl.Series,
    dtype: pl.DataType | type[pl.DataType],
    form: CellFormat = USUAL,
    n_before: int = 0,
) -> pl.Series:
    """A column as the wanted type.

    `form`: how its text is written.
    `n_before`: rows of the table before this piece, for messages.
    Raises `TableError`: naming column, row of the table (from 1) and value, if a cell does not fit;
        or the type, if nothing is read as that.
    """
    wanted = dtype if isinstance(dtype, pl.DataType) else dtype()
    if series.dtype == wanted and wanted != pl.String:
        return series
    if series.dtype != pl.String:
        result = _cast(series, wanted)
        present = series
    else:
        present = series.str.strip_chars()
        markers = MISSING_MARKERS if form.missing is None else ("", *form.missing)
        present = present.set(present.is_in(list(markers)), None)
        if wanted == pl.String:
            return present
        if wanted.is_numeric() and form.missing is None:
            present = present.set(present.is_in(NUMERIC_MARKERS), None)
        result = _text_as(present, wanted, form.decimal)
    bad = result.is_null() & present.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise TableError(
            f"column {series.name!r} must hold {wanted}; got {series[row]!r} in row "
            f"{n_before + row + 1}; correct the cell, leave it empty if it is missing, or read the "
            f"column as another type with dtypes={{{series.name!r}: ...}}"
        )
    return result


def _text_as(text: pl.Series, wanted: pl.DataType, decimal: str) -> pl.Series:
    """Text as the wanted type, null where a cell does not fit."""
    if wanted == pl.Boolean:
        lower = text.str.to_lowercase()
        return lower.replace_strict(
            ["true", "1", "false", "0"],
            [True, True, False, False],
            default=None,
            return_dtype=pl.Boolean,
        )
    if wanted in (pl.Date, pl.Datetime):
        moments = parse_moments(text)
        if isinstance(wanted, pl.Datetime) and wanted.time_zone is not None:
            moments = moments.dt.replace_time_zone("UTC")
        return moments.cast(wanted)
    if wanted.is_numeric() and decimal != ".":
        text = decimal_points(text)
    if wanted == pl.Time:
        return text.str.to_time("%H:%M:%S%.f", strict=False)
    return _cast(text, wanted)


def _cast(series: pl.Series, wanted: pl.DataType) -> pl.Series:
    try:
        return series.cast(wanted, strict=False)
    except pl.exceptions.PolarsError as error:
        raise TableError(
            f"column {series.name!r} must have a type that {series.dtype} can be read as; got "
            f"{wanted} in dtypes; read it as it is, and convert it afterwards"
        ) from error


@under_plain_name
def text_kinds(series: pl.Series, decimal: str | None, missing: tuple[str, ...] | None) -> set[str]:
    """What a piece of a text column shows of the column's type, for `dtype_of_kinds`.

    Numbers in a spelling that is found out are text: other pieces may have another.
    """
    typed, _, form = text_column(series, decimal=decimal, missing=missing)
    present = typed.drop_nulls()
    if not present.len():
        return set()
    dtype = typed.dtype
    if dtype.is_temporal() and (form.missing != missing or form.spelling is not None):
        return {"text"}
    if dtype.is_numeric():
        as_asked = form == CellFormat("," if decimal == "," else ".", missing)
        spelt = series.str.strip_chars().cast(pl.Float64, strict=False)
        if not as_asked or (decimal != "," and spelt.null_count() > typed.null_count()):
            return {"text"}
    if dtype == pl.Int64:
        low = present.min()
        return {"whole", "negative"} if isinstance(low, int) and low < 0 else {"whole"}
    if dtype == pl.UInt64:
        return {"whole", "wide"}
    if dtype.is_float():
        return {"float"}
    if isinstance(dtype, pl.Datetime):
        return {"moment"} if dtype.time_zone is None else {"moment", "zone"}
    if dtype == pl.Boolean:
        return {"boolean"}
    if dtype == pl.Date:
        return {"date"}
    return {"marker"} if present.is_in(NUMERIC_MARKERS).all() else {"text"}


def dtype_of_kinds(kinds: set[str]) -> pl.DataType:
    """The type of the whole column, by what its pieces show."""
    numeric = {"whole", "negative", "wide", "float", "marker"}
    if kinds & (numeric - {"marker"}) and kinds <= numeric:
        if "wide" in kinds:
            return pl.String() if kinds & {"negative", "float"} else pl.UInt64()
        return pl.Float64() if "float" in kinds else pl.Int64()
    if kinds == {"boolean"}:
        return pl.Boolean()
    if kinds == {"date"}:
        return pl.Date()
    if kinds and kinds <= {"date", "moment", "zone"}:
        return pl.Datetime("us", "UTC" if "zone" in kinds else None)
    return pl.String()
