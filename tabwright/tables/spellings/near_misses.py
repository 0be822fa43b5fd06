"""What to say of a column of text that looks like numbers or dates, and is not read as such."""

from __future__ import annotations

from typing import Final

import polars as pl

from tabwright.tables.cells import DIGITS, LEADING_ZERO
from tabwright.tables.spellings.moments import (
    INSTANT,
    MOMENT_SPELLINGS,
    may_begin_with_year,
    parse_instants,
)
from tabwright.tables.spellings.number_marks import plain_numbers
from tabwright.tables.spellings.plain_columns import SAMPLE_ROWS
from tabwright.tables.spellings.quantities import has_magnitudes

MANY_NUMBERS: Final = 10
# So many other cells in a column of numbers may be markers of missing cells.
FEW_MARKERS: Final = 3
FEWEST_CELLS: Final = 10
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
_RANGE: Final = r"^[0-9][0-9.,]* ?(?:-|\x{2013}|to|/) ?[0-9][0-9.,]*$"
# Weeks, quarters, and months in any language.
_PERIOD: Final = (
    r"^(?:[0-9]{4}[-/ ]?(?:[Ww][0-9]{1,2}(?:-?[1-7])?|[Qq][1-4]|[Mm][0-9]{1,2})|"
    r"[Qq][1-4][-/ ]?[0-9]{4}|"
    r"[0-9]{1,2}\.? (?:de )?\p{L}{3,10}\.? (?:de )?[0-9]{4})$"
)
_WITH_UNIT: Final = (
    r"^[-+]?[0-9]+(?:[.,][0-9]+)?[ \x{a0}\x{202f}]?[\p{L}\x{b0}\x{b5}][\p{L}/\x{b2}\x{b3}]{0,5}$"
)
_CLOCK: Final = r"^[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?: ?[AaPp][Mm])?$"
_DECIMAL_COMMA: Final = r"^[-+\x{2212}]?[0-9]+(?:[. ][0-9]{3})*,[0-9]+$"
_SIDE: Final = r"^[^\p{L}]*[0-9][^\p{L}]*[CcDd][Rr]\.?$"
_SPAN: Final = r"^[-+]?P(?:[0-9.,]+[YMWD]|T[0-9.,]+[HMS])[0-9.,YMWDTHS]*$"
# Digits and signs, no letter: what a number in a spelling of its own looks like.
_LIKE_NUMBER: Final = r"^[^\p{L}]*[0-9][^\p{L}]*$"


def near_miss(text: pl.Series, counts: pl.Series | None) -> str | None:
    """Why a column that looks like numbers or dates is text after all."""
    present = text.drop_nulls()
    counts = None if counts is None else counts.filter(text.is_not_null())
    if not present.len():
        return None
    head = present.head(SAMPLE_ROWS)
    weight = pl.repeat(1, head.len(), eager=True) if counts is None else counts.head(SAMPLE_ROWS)

    def most(chosen: pl.Series) -> bool:
        n_chosen, n_all = (int(part.sum() or 0) for part in (weight.filter(chosen), weight))
        return n_chosen >= _MOST_CELLS * n_all

    def example(cells: pl.Series, chosen: pl.Series) -> str | None:
        found = list(occurrences(cells, counts, chosen))
        return repr(found[0]) if found else None

    plain = plain_numbers(head).cast(pl.Float64, strict=False).is_not_null()
    odd = head.str.contains(_DECIMAL_COMMA)
    if odd.any() and (odd | plain).all():
        shown = repr(head.filter(odd).min())
        return f"{shown} is not read as a number: write 1234.5, or set decimal=','"
    if head.str.starts_with("(").all() and plain.all():
        return (
            f"{head.min()!r} is not read as a number, since all stand in parentheses: write it "
            "with a minus if it is below zero, else without them"
        )
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
    sides = head.filter(head.str.contains(_SIDE))
    if sides.len() and (plain | head.str.contains(_SIDE)).all():
        return (
            f"{sides.min()!r} is read as text: if it is a credit or a debit, write the number with "
            "its sign"
        )
    others = occurrences(head, None if counts is None else weight, ~plain)
    if most(plain) or (
        int(weight.sum() or 0) >= FEWEST_CELLS
        and len(others) <= FEW_MARKERS
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
        order = ""
        if _of_either_order(head):
            order = ", since its day and month may be either"
        elif may_begin_with_year(head):
            order = ", since its year may stand first or last"
        return f"{head.min()!r} is not read as a date{order}: write YYYY-MM-DD"
    if head.str.contains(_CLOCK).all():
        return f"{head.min()!r} is read as text: if the time counts, write it as a number of hours"
    if head.n_unique() >= MANY_NUMBERS and head.str.contains(_SPAN).all():
        return (
            f"{head.min()!r} is read as text: if it is a span of time, write it as a number, in "
            "months or in days"
        )
    if head.n_unique() >= MANY_NUMBERS and head.str.contains(_WITH_UNIT).all():
        return (
            f"{head.min()!r} is read as text: if its number counts, write all in one unit, "
            "and leave the unit out"
        )
    if head.n_unique() >= MANY_NUMBERS and head.str.contains(_RANGE).all():
        return f"{head.min()!r} is read as text: if its two numbers count, give each its own column"
    odd = head.filter(~plain)
    has_digits = pl.Series(list(others), dtype=pl.String).str.contains("[0-9]").all()
    half = 2 * sum(others.values()) <= int(weight.sum() or 0) and has_digits
    many = odd.n_unique() >= MANY_NUMBERS and most(plain | head.str.contains(_LIKE_NUMBER))
    if odd.len() and (half or many):
        return (
            f"{odd.min()!r} is read as text: if it is one number, write it with digits and a point "
            "alone"
        )
    return None


def occurrences(cells: pl.Series, counts: pl.Series | None, chosen: pl.Series) -> dict[str, int]:
    """How often each of the chosen cells occurs, the most frequent first."""
    n = pl.repeat(1, cells.len(), eager=True) if counts is None else counts
    table = pl.DataFrame({"cell": cells, "n": n}).filter(chosen)
    table = (
        table.group_by("cell").agg(pl.col("n").sum()).sort("n", "cell", descending=[True, False])
    )
    return dict(table.iter_rows())


def _of_either_order(cells: pl.Series) -> bool:
    orders = (MOMENT_SPELLINGS[order](cells) for order in ("day_first", "month_first"))
    return not any(moments.null_count() for moments in orders)
