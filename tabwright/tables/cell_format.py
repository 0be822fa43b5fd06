"""How the text of a column is written, decided once, in training: `CellFormat`.

What text means in the usual spelling is decided in `tables/cells.py`; which format a column has is
found in `tables/dtypes.py`, or said by whoever reads the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import polars as pl

from tabwright.artifact.schema import Reader
from tabwright.errors import TableError
from tabwright.tables.cells import (
    BOUND,
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    number_text,
    to_booleans,
    to_microseconds,
    under_plain_name,
)
from tabwright.tables.spellings.moments import MOMENT_SPELLINGS
from tabwright.tables.spellings.number_marks import GROUP_MARKS, bare_numbers
from tabwright.tables.spellings.quantities import QUANTITY_SPELLINGS, without_unit

SPELLINGS: Final[tuple[str, ...]] = (*MOMENT_SPELLINGS, *QUANTITY_SPELLINGS)

_ORDERS: Final = {
    "day_first": "the day comes before the month",
    "month_first": "the month comes before the day",
}
_TEXT: Final = (pl.String, pl.Categorical, pl.Enum)
# A number with a comma for the decimal mark; groups of three digits by points, spaces or quotes.
_WITH_COMMA: Final = (
    rf"^[-+]?(?:[0-9]+|[1-9][0-9]{{0,2}}(?:[.{GROUP_MARKS}][0-9]{{3}})+)?(?:,[0-9]+)?"
    r"(?:[eE][-+]?[0-9]+)?$"
)


@dataclass(frozen=True)
class CellFormat:
    """How the text of one column is written.

    `decimal`: what separates the fraction of a number.
    `missing`: all the text that stands for a missing cell beside the empty one; None: the usual
        markers. One bound of what could be measured, such as ``<0.1``, stands for all of them.
    `spelling`: one of `SPELLINGS`, where a cell alone does not say what it means: the order of day
        and month, letters for thousands, ...
    `unit`: what stands behind each number.
    `as_written`: whether levels are the text as it stands, so that ``1.1`` and ``1.10`` are two;
        else a value has one name, whatever type brought it.
    """

    decimal: Literal[".", ","] = "."
    missing: tuple[str, ...] | None = None
    as_written: bool = False
    spelling: str | None = None
    unit: str | None = None

    @property
    def level_markers(self) -> tuple[str, ...] | None:
        """Markers of missing levels where these are text as written; None where they are not."""
        if self.missing is not None:
            return ("", *self.missing)
        return MISSING_MARKERS if self.as_written else None

    def to_document(self) -> dict[str, Any]:
        """What a model file holds of it; keys that came later are there where they are used."""
        return {
            "decimal": self.decimal,
            "missing": None if self.missing is None else list(self.missing),
            "as_written": self.as_written,
            **({} if self.spelling is None else {"spelling": self.spelling}),
            **({} if self.unit is None else {"unit": self.unit}),
        }

    @classmethod
    def from_document(cls, document: Reader) -> CellFormat:
        """The format of a document; raises `ArtifactError` if it is none."""
        return cls(
            "," if document.choice("decimal", (".", ",")) == "," else ".",
            document.texts("missing") if document.optional("missing") else None,
            document.boolean("as_written"),
            document.choice("spelling", SPELLINGS) if document.optional("spelling") else None,
            document.text("unit") if document.optional("unit") else None,
        )


USUAL: Final = CellFormat()


def decimal_points(text: pl.Series) -> pl.Series:
    """Numbers with a decimal comma as Python writes them; any other cell as it was.

    `text`: without spaces around the cells.
    """
    bare = bare_numbers(text)
    fits = bare.str.contains(_WITH_COMMA) & bare.str.contains("[0-9]")
    plain = bare.str.replace_all(f"[.{GROUP_MARKS}]", "").str.replace(",", ".", literal=True)
    return plain.zip_with(fits, text)


def comma_as_point(text: pl.Series) -> pl.Series:
    """Decimal commas as points, and no points between thousands, beside whatever else there is."""
    return text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)


@under_plain_name
def typed_cells(
    series: pl.Series, kind: Literal["numeric", "datetime", "boolean"], form: CellFormat
) -> pl.Series:
    """A column as its format reads it; what is not text has its meaning already.

    Returns: same name and length.
    Raises `TableError`: naming column, row (from 1) and value, if a cell does not fit.
    """
    if series.dtype not in _TEXT and form.spelling in MOMENT_SPELLINGS and _are_whole(series):
        whole = series.fill_nan(None).cast(pl.Int64) if series.dtype.is_float() else series
        series = whole.cast(pl.String)
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
        known = _spelt(text, form, MOMENT_SPELLINGS)
        rest = text if known is None else text.set(known.is_not_null(), None)
        try:
            usual = to_microseconds(rest).cast(pl.Datetime("us"))
        except TableError as error:
            if form.spelling not in _ORDERS:
                raise
            raise TableError(f"{error}; {_ORDERS[form.spelling]} in the training rows") from error
        return usual if known is None else known.fill_null(usual).alias(series.name)
    text = text.set(text.is_in([*MISSING_MARKERS, *NUMERIC_MARKERS]), None)
    known = _spelt(text, form, QUANTITY_SPELLINGS)
    if known is not None:
        text = text.set(known.is_not_null(), None)
    elif form.unit is not None:
        text = without_unit(text, form.unit)
    if form.decimal == ",":
        text = decimal_points(text)
    try:
        numbers = number_text(text)
    except TableError as error:
        if form.unit is None:
            raise
        raise TableError(f"{error}; its numbers are {form.unit!r} in the training rows") from error
    return numbers if known is None else known.fill_null(numbers).alias(series.name)


def _spelt(
    text: pl.Series, form: CellFormat, spellings: Mapping[str, Callable[[pl.Series], pl.Series]]
) -> pl.Series | None:
    """The cells in the spelling of the format; None where it has none of these."""
    read = spellings.get(form.spelling or "")
    if read is None:
        return None
    return read(comma_as_point(text) if form.decimal == "," else text)


def _are_whole(series: pl.Series) -> bool:
    """Whether these are integers, or floats that missing cells made of them."""
    if series.dtype.is_float():
        return bool((series.fill_nan(None).drop_nulls() % 1 == 0).all())
    return series.dtype.is_integer()


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
