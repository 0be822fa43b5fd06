"""What the first lines of a CSV file say: its delimiter, and whether the first holds names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import MISSING_MARKERS
from tabwright.tables.csv.records import fields
from tabwright.tables.dtypes import mean_missing
from tabwright.tables.paths import TableFile, unpacked_name
from tabwright.tables.spellings.number_marks import plain_numbers

_DELIMITERS: Final = (",", ";", "\t", "|")
_OTHER_SEPARATORS: Final = ("::", ":", "^", "~", "\x01", "\x1f")
_AS_DATA: Final = (
    "read it with has_header=False and column_names, or has_header=True if these are the names"
)
# So many records at least tell a line of units from a row.
_FEWEST_ROWS: Final = 4
# Fewer whole numbers than these rise or fall by chance in a row of data.
_FEWEST_IN_ORDER: Final = 4
# One column may hold a level that is its name.
_FEWEST_RECURRING: Final = 2
_FIRST_YEAR, _LAST_YEAR = 1500, 2200


def sniffed(path: TableFile, records: list[bytes], *, quotes: bool) -> str:
    """The delimiter that splits the first records alike, into the most fields.

    Raises `TableError` if the columns have no separator of one character.
    """
    if unpacked_name(path).endswith((".tsv", ".tab")) and b"\t" in records[0]:
        return "\t"
    best = ","
    most = 1
    for delimiter in _DELIMITERS:
        widths = {len(fields(record, delimiter, quotes=quotes)) for record in records}
        # A comma in every line may stand in a cell: what makes more columns splits the file.
        if len(widths) == 1 and max(widths) > most:
            best, most = delimiter, max(widths)
    if most == 1:
        _refuse_columns_of_spaces(path, records)
        _refuse_other_separators(path, records)
        # No delimiter splits all lines alike: that of the header, so that the error names a line.
        header = fields(records[0], ",", quotes=quotes)
        if len(header) == 1:
            widths_of = {d: len(fields(records[0], d, quotes=quotes)) for d in _DELIMITERS}
            best = max(_DELIMITERS, key=lambda d: widths_of[d])
    return best


def _refuse_columns_of_spaces(path: TableFile, records: list[bytes]) -> None:
    """Refuse lines of columns that spaces separate, which would be one column of text."""
    for separator in (r"\s{2,}", r"\s+"):
        rows = [re.split(separator, record.decode().strip()) for record in records]
        if len({len(row) for row in rows}) != 1 or len(rows) < 2 or len(rows[0]) < 2:
            continue
        # One space may be between words; a column of numbers below a name says that it is not.
        columns = list(zip(*rows, strict=True))
        if separator == r"\s{2,}" or any(
            all(map(_is_number, cells)) and not _is_number(name) for name, *cells in columns
        ):
            raise TableError(
                f"{path}: columns must have a separator of one character; got {len(columns)} "
                "columns separated by spaces; write the file with commas, e.g. with "
                f"pandas.read_csv(path, sep=r'{separator}').to_csv(...), or give delimiter=',' if "
                "they are one column"
            )


def _refuse_other_separators(path: TableFile, records: list[bytes]) -> None:
    """Refuse lines that one of the rarer separators splits alike, names too."""
    for separator in _OTHER_SEPARATORS:
        widths = {len(record.decode().split(separator)) for record in records}
        if len(records) > 1 and len(widths) == 1 and (width := widths.pop()) > 1:
            way_out = (
                f"name it, delimiter={separator!r}"
                if len(separator) == 1
                else "write the file with commas"
            )
            raise TableError(
                f"{path}: columns must be separated by a comma, a semicolon, a tab or a bar, or "
                f"the separator must be named; got {width} columns separated by {separator!r}; "
                f"{way_out}, or give delimiter=',' if they are one column"
            )


def refuse_units(
    path: TableFile, line: int, rows: Sequence[Sequence[str]], markers: Sequence[str]
) -> None:
    """Refuse a line of units or types below the names: in columns of numbers it is no row.

    Two such columns at least say so, where no column of numbers has one in this line.

    `rows`: the first ones, from line `line` on.
    `markers`: text that is said to stand for missing cells.
    Raises `TableError`.
    """
    width = len(rows[0]) if rows else 0
    if len(rows) < _FEWEST_ROWS or any(len(row) != width for row in rows):
        return
    words = []
    for first, *cells in zip(*rows, strict=True):
        # Columns of words are told by their first cell.
        present = (cell for cell in map(str.strip, cells) if cell)
        n_numbers = sum(1 for _ in itertools.takewhile(_is_number, present))
        if n_numbers < _FEWEST_ROWS - 1 or n_numbers < sum(1 for cell in cells if cell.strip()):
            continue
        if _is_number(first):
            return
        words.append(first.strip())
    text = pl.Series([word for word in words if word not in markers], dtype=pl.String)
    if plain_numbers(text).cast(pl.Float64, strict=False).is_not_null().any():
        return
    units = text.filter(~mean_missing(text)).to_list()
    if len(units) < 2:
        return
    shown = ", ".join(repr(word) for word in units[:3])
    raise TableError(
        f"{path}, line {line}: rows must begin below the names; got what looks like a line of "
        f"units or types ({shown}); delete the line, or name the text if it stands for missing "
        "cells, by the argument missing"
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def refuse_data(
    path: TableFile,
    first: list[str],
    rows: Sequence[Sequence[str]] = (),
    *,
    way_out: str = _AS_DATA,
) -> None:
    """Refuse a first line that looks like data.

    Column names may be whole numbers that rise or fall all along (years, places, bins); other
    numbers, and markers of missing cells, are data. So are cells that come again below, in two
    columns or more.
    """
    whole: list[int] = []
    odd: list[str] = []
    for name in (cell.strip() for cell in first):
        if name and name in MISSING_MARKERS:
            odd.append(name)
            continue
        try:
            number = float(name)
        except ValueError:
            continue
        if name.isalpha():  # inf may well be a name
            continue
        if number.is_integer() and name.isdigit():
            whole.append(int(name))
        else:
            odd.append(name)
    columns = list(zip(*rows, strict=False))
    n_recurring = sum(name in cells for name, cells in zip(first, columns, strict=False) if name)
    if not odd and _may_be_names(whole) and n_recurring < _FEWEST_RECURRING:
        return
    shown = ", ".join(repr(cell.strip()) for cell in first[:5])
    raise TableError(
        f"{path}: the first line must hold column names; got what looks like data ({shown}); "
        f"{way_out}"
    )


def _may_be_names(numbers: list[int]) -> bool:
    """Whether whole numbers are names: years, places from 0 or 1 on, or several in order."""
    if len(numbers) < _FEWEST_IN_ORDER:
        years = all(_FIRST_YEAR <= number <= _LAST_YEAR for number in numbers)
        places = [*range(len(numbers))], [*range(1, len(numbers) + 1)]
        if not years and numbers not in places:
            return False
    steps = {int(np.sign(b - a)) for a, b in itertools.pairwise(numbers)}
    return steps in (set(), {1}, {-1})
