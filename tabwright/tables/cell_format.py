"""How the text of a column is written, decided once, in training: `CellFormat`.

What text means in the usual spelling is decided in `tables/cells.py`; which format a column has is
found in `tables/dtypes.py`, or said by whoever reads the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from tabwright.tables.cells import (
    BOUND,
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    bare_numbers,
    number_text,
    to_booleans,
    to_microseconds,
    under_plain_name,
)

__all__ = ["USUAL", "CellFormat", "decimal_points", "typed_cells"]

_TEXT: Final = (pl.String, pl.Categorical, pl.Enum)
# A number with a comma for the decimal mark; groups of three digits by points, spaces or quotes.
_WITH_COMMA: Final = (
    r"^[-+]?(?:[0-9]+|[1-9][0-9]{0,2}(?:[.'\u2019\u00a0\u202f ][0-9]{3})+)?(?:,[0-9]+)?"
    r"(?:[eE][-+]?[0-9]+)?$"
)


@dataclass(frozen=True)
class CellFormat:
    """How the text of one column is written.

    `decimal`: what separates the fraction of a number.
    `missing`: all the text that stands for a missing cell beside the empty one; None: the usual
        markers. One bound of what could be measured, such as ``<0.1``, stands for all of them.
    `as_written`: whether levels are the text as it stands, so that ``1.1`` and ``1.10`` are two;
        else a value has one name, whatever type brought it.
    """

    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] | None = None
    as_written: bool = False

    @property
    def level_markers(self) -> tuple[str, ...] | None:
        """Markers of missing levels where these are text as written; None where they are not."""
        if self.missing is not None:
            return ("", *self.missing)
        return MISSING_MARKERS if self.as_written else None


USUAL: Final = CellFormat()


def decimal_points(text: pl.Series) -> pl.Series:
    """Numbers with a decimal comma as Python writes them; any other cell as it was.

    `text`: without spaces around the cells.
    """
    bare = bare_numbers(text)
    fits = bare.str.contains(_WITH_COMMA) & bare.str.contains("[0-9]")
    plain = bare.str.replace_all(r"[.'\u2019\u00a0\u202f ]", "").str.replace(",", ".", literal=True)
    return plain.zip_with(fits, text)


@under_plain_name
def typed_cells(
    series: pl.Series, kind: Literal["numeric", "datetime", "boolean"], form: CellFormat
) -> pl.Series:
    """A column as its format reads it; what is not text has its meaning already.

    Returns: same name and length.
    Raises `TableError`: naming column, row (from 1) and value, if a cell does not fit.
    """
    if series.dtype not in _TEXT:
        marked = _marked_numbers(form)
        if kind != "numeric" or not marked or not series.dtype.is_numeric():
            return series
        return series.set(series.cast(pl.Float64).is_in(marked), None)
    text = series.cast(pl.String).str.strip_chars()
    if form.missing is not None:
        text = text.set(text.is_in(["", *form.missing]), None)
        if kind == "numeric" and pl.Series(form.missing, dtype=pl.String).str.contains(BOUND).any():
            text = text.set(text.str.contains(BOUND), None)
    if kind == "boolean":
        return to_booleans(text)
    if kind == "datetime":
        return to_microseconds(text).cast(pl.Datetime("us"))
    if form.decimal == ",":
        text = text.set(text.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS]), None)
        text = decimal_points(text)
    return number_text(text)


def _marked_numbers(form: CellFormat) -> list[float]:
    """Numbers that stand for a missing cell, such as -999."""
    found = []
    for marker in form.missing or ():
        try:
            number = float(marker)
        except ValueError:
            continue
        if math.isfinite(number):
            found.append(number)
    return found
