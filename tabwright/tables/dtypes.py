"""A column of text and the type that all of its cells have.

What a cell means once its column has a type is decided in `cells.py`.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from tabwright.tables.cells import (
    DIGITS,
    INSTANT,
    LEADING_ZERO,
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    parse_instants,
    parse_moments,
    plain_numbers,
    under_plain_name,
)

__all__ = ["read_text"]

_SAMPLE_ROWS: Final = 1_000
# Where so many of the cells are numbers or dates, the others are worth a word.
_MOST_CELLS: Final = 0.9
_ALMOST_DATE: Final = (
    r"^[0-9]{1,4}[-/. ](?:[0-9]{1,2}|[A-Za-z]{3,9})[-/. ][0-9]{1,4}"
    r"(?:[ T,]+[0-9]{1,2}:[0-9]{2}.*)?$"
)
_MONTH: Final = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_NAMED_MONTH: Final = (
    rf"(?:^|[^A-Za-z]){_MONTH}\.?[ \-,./]+[0-9]|[0-9][ \-./]+{_MONTH}(?:[^A-Za-z]|$)"
)
_CLOCK: Final = r"^[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?[AaPp][Mm])?$"
_DECIMAL_COMMA: Final = r"^[-+\x{2212}]?[0-9]+(?:[. ][0-9]{3})*,[0-9]+$"
# So many other cells in a column of numbers may be markers of missing cells.
_FEW_MARKERS: Final = 3
_FEWEST_CELLS: Final = 10


@under_plain_name
def read_text(
    series: pl.Series, *, decimal: str = ".", counts: pl.Series | None = None
) -> tuple[pl.Series, str]:
    """Give a text column the type that all of its cells have.

    Spaces around a cell go; `MISSING_MARKERS` become null. If every other cell is an integer the
    column is Int64 (UInt64 where needed), if every one is a number it is Float64, with
    true/false in any case Boolean, with ISO 8601 dates Date, with ISO 8601 dates and times
    Datetime (UTC where the cells name an offset). Any other column stays String. So does a column
    with a number that has a leading zero (`00501` is a code, not 501) or an integer that does not
    fit 64 bits.

    Parameters
    ----------
    series : polars.Series of String
    decimal : {".", ","}, default="."
        What separates the fraction of a number.
    counts : polars.Series of integers, optional
        How often each cell occurs, where `series` holds the distinct cells of a column only; the
        note counts those.

    Returns
    -------
    series : polars.Series
        Same name and length.
    note : str
        What a reader of the table should know: markers read as missing, spaces removed, numbers
        that were not recognised. Empty where there is nothing to say.
    """
    text = series.str.strip_chars()
    clean = text.set(text.is_in(MISSING_MARKERS), None)
    typed = _typed(clean, decimal)
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
        if decimal == "." and not is_plain:
            spelled = typed.is_not_null() & (plain_numbers(text) != text)
            if spelled.any():
                example = next(iter(_occurrences(text, counts, spelled)))
                value = typed.filter(spelled & (text == example))[0]
                notes.append(f"numbers such as {example!r} read as {value}")
        spaced = typed.is_not_null() & (text != series)
        if spaced.any():
            n_spaced = sum(_occurrences(series, counts, spaced).values())
            notes.append(f"spaces around {n_spaced:,} numbers ignored")
    elif typed.dtype == pl.String:
        hint = _near_miss(clean, counts)
        if hint is not None:
            notes.append(hint)
    return typed, "; ".join(notes)


def _occurrences(cells: pl.Series, counts: pl.Series | None, chosen: pl.Series) -> dict[str, int]:
    """How often each of the chosen cells occurs, the most frequent first."""
    n = pl.repeat(1, cells.len(), eager=True) if counts is None else counts
    table = pl.DataFrame({"cell": cells, "n": n}).filter(chosen)
    table = (
        table.group_by("cell").agg(pl.col("n").sum()).sort("n", "cell", descending=[True, False])
    )
    return dict(table.iter_rows())


def _typed(text: pl.Series, decimal: str) -> pl.Series:
    present = text.drop_nulls()
    if not present.len():
        return text
    head = present.head(_SAMPLE_ROWS)
    # A look at the first rows spares text columns the full scans.
    if _may_be_numbers(head, decimal):
        numbers = _as_numbers(text, decimal)
        if numbers is not None:
            return numbers
    elif decimal == "." and _may_be_numbers(plain_numbers(head), decimal):
        plain = plain_numbers(text)
        numbers = _as_numbers(plain, decimal) if _is_one_spelling(text, plain) else None
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

    All or none have a percent sign. A comma that may stand for the decimal mark, in ``1,282``, is
    no separator of thousands where a number from 1000 on comes without one.
    """
    present = text.drop_nulls()
    present = present.filter(~present.is_in(NUMERIC_MARKERS))
    percent = present.str.ends_with("%")
    if percent.any() and not percent.all():
        return False
    commas = text.str.contains(",", literal=True)
    if not commas.any() or text.str.contains(r",[0-9]{3}[.,]").any():
        return True
    bare = plain.filter(~commas.fill_null(False)).cast(pl.Float64, strict=False).abs().max()
    return not (isinstance(bare, float) and bare >= 1000.0)


def _may_be_numbers(head: pl.Series, decimal: str) -> bool:
    if decimal != ".":
        head = head.str.replace(decimal, ".", literal=True)
    fine = head.cast(pl.Float64, strict=False).is_not_null() | head.is_in(NUMERIC_MARKERS)
    return bool(fine.all())


def _as_numbers(text: pl.Series, decimal: str) -> pl.Series | None:
    """The column as Int64, UInt64 or Float64, or None where a cell is no number."""
    text = text.set(text.is_in(NUMERIC_MARKERS), None)
    n_null = text.null_count()
    if n_null == text.len() or text.str.contains(LEADING_ZERO).any():
        return None
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == n_null:
        return whole
    if decimal != ".":
        text = text.str.replace(decimal, ".", literal=True)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() != n_null:
        return None
    if text.filter(whole.is_null() & text.is_not_null()).str.contains(DIGITS).any():
        wide = text.cast(pl.UInt64, strict=False)
        return wide if wide.null_count() == n_null else None
    return numbers


def _as_instants(text: pl.Series) -> pl.Series:
    """ISO 8601 text as Date or Datetime; unchanged where a cell is no such date (31 June)."""
    moments = parse_moments(text)
    if moments.null_count() != text.null_count():
        return text
    present = text.drop_nulls()
    if not present.str.contains(":", literal=True).any():
        return moments.dt.date()
    if present.str.contains(r"(?:[Zz]|UTC|:[0-9.,]+ ?[+-][0-9:]+)$").any():
        return moments.dt.replace_time_zone("UTC")
    return moments


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
    if (head.str.contains(_ALMOST_DATE) | head.str.contains(_NAMED_MONTH)).all():
        return f"{head.min()!r} is not read as a date: write YYYY-MM-DD"
    if head.str.contains(_CLOCK).all():
        return f"{head.min()!r} is a time of day, read as text: write its hours as a number"
    return None
