"""What the first lines of a CSV file say: its delimiter, and whether the first holds names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cells import MISSING_MARKERS
from tabwright.tables.csv.records import fields
from tabwright.tables.dtypes import mean_missing
from tabwright.tables.paths import TableFile, unpacked_name
from tabwright.tables.spellings.number_marks import plain_numbers

_DELIMITERS: Final = (",", ";", "\t", "|")
_OTHER_SEPARATORS: Final = ("::", ":", "^", "~", "\x01", "\x1f")
# Cells in which spaces and colons separate no columns: moments, addresses, grouped thousands.
_ONE_CELL: Final = re.compile(
    r"(?:[0-9./-]+[ T])?[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}\S*)?(?: ?[AaPp]\.?[Mm]\.?)?$|\w+://\S*$|"
    r"[-+]?[0-9]{1,3}(?:[ \u00a0\u202f][0-9]{3})+(?:[.,][0-9]+)?$"
)
_AS_DATA: Final = (
    "read it with has_header=False and column_names, or has_header=True if these are the names"
)
# So many records at least tell a line of units from a row.
_FEWEST_ROWS: Final = 4
# Fewer numbers than these rise or fall by chance in a row of data.
_FEWEST_IN_ORDER: Final = 4
# Fewer places than these, 0 and 1 say, may be data.
_FEWEST_PLACES: Final = 3
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
    if most == 1 and not all(_ONE_CELL.match(record.decode().strip()) for record in records[1:]):
        _refuse_columns_of_spaces(path, records)
        _refuse_other_separators(path, records)
    if most == 1:
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


def refuse_data(
    path: TableFile,
    first: list[str],
    rows: Sequence[Sequence[str]] = (),
    *,
    words_may_recur: bool = False,
    way_out: str = _AS_DATA,
) -> None:
    """Refuse a first line that looks like data.

    Numbers are names where they are in order and no row of data would have them so; markers of
    missing cells, where more names are unlike the cells below. Words are data where they come again
    below in two columns or more, and no name is unlike the cells below.

    `rows`: the first ones below.
    """
    names = [cell.strip() for cell in first]
    if not _are_names(names, list(zip(*rows, strict=False)), words_may_recur):
        shown = ", ".join(map(repr, names[:5]))
        raise TableError(
            f"{path}: the first line must hold column names; got what looks like data ({shown}); "
            f"{way_out}"
        )


def _are_names(
    names: Sequence[str], columns: Sequence[Sequence[str]], words_may_recur: bool
) -> bool:
    """Whether the cells of a first line are names of the columns below it."""
    n_markers = sum(name in MISSING_MARKERS for name in names if name)
    # inf may well be a name.
    at = [place for place, name in enumerate(names) if _is_number(name) and not name.isalpha()]
    below = list(zip(names, columns, strict=False))
    recur = not words_may_recur and sum(itertools.starmap(_recurs, below)) >= _FEWEST_RECURRING
    if not n_markers and not at and not recur:
        return True
    n_unlike = sum(itertools.starmap(_is_unlike, below))
    if n_markers and n_markers >= n_unlike:
        return False
    numbers = [names[place] for place in at]
    if n_unlike:
        return _direction(numbers) != 0 and (len(numbers) != 1 or numbers[0].isdigit())
    # A first column of row numbers has no name where pandas writes it.
    is_index = not names[0] and all(cell == str(n) for n, cell in enumerate((columns or [()])[0]))
    cells_below = [columns[place] for place in at if place < len(columns)]
    return not recur and _may_be_names(numbers, cells_below, is_index)


def _recurs(word: str, cells: Sequence[str]) -> bool:
    """Whether a word comes again below, where cells are not just the word or missing."""
    if not word or word not in cells or _is_number(word):
        return False
    others = {cell.strip() for cell in cells} - {word}
    return not others or not others.issubset(MISSING_MARKERS)


def _is_unlike(name: str, cells: Sequence[str]) -> bool:
    """Whether a name is a word above numbers or dates alone, or a number above words alone."""
    present = [cell for cell in map(str.strip, cells) if cell not in MISSING_MARKERS]
    if name in MISSING_MARKERS or not present:
        return False
    if _is_number(name):
        return all(cell[0].isalpha() for cell in present)
    is_word = not name[0].isdigit() and any(map(str.isalpha, name))
    return is_word and all(map(_is_quantity, present))


def _is_quantity(cell: str) -> bool:
    """Whether a cell has digits, and no letters but those of exponents and moments."""
    return any(map(str.isdigit, cell)) and not any(
        character.isalpha() and character not in "eETZ" for character in cell
    )


def _direction(numbers: Sequence[str]) -> int:
    """1 where numbers rise, or there is one; -1 where several fall; 0 where they do neither."""
    pairs = list(itertools.pairwise(map(_number, numbers)))
    if all(a < b for a, b in pairs):
        return 1
    return -int(len(numbers) >= _FEWEST_IN_ORDER and all(a > b for a, b in pairs))


def _may_be_names(numbers: Sequence[str], columns: Sequence[Sequence[str]], is_index: bool) -> bool:
    """Whether numbers are names though none is unlike the cells below.

    So are years, places from 0 or 1 on, several in order, and two or more far from all cells below.

    `is_index`: whether the first column holds the numbers of the rows and has no name.
    """
    if all(map(_is_year, numbers)) and not (
        columns and all(map(_is_year, itertools.chain(*columns)))
    ):
        return 1 in (_direction(numbers), _direction(numbers[::-1]))
    direction = _direction(numbers)
    if not direction:
        return False
    whole = all(map(str.isdigit, numbers))
    if whole and [*map(int, numbers)] in ([*range(len(numbers))], [*range(1, len(numbers) + 1)]):
        recur = any(name in cells for name, cells in zip(numbers, columns, strict=False))
        return len(numbers) >= _FEWEST_PLACES or is_index or not recur
    if len(numbers) >= _FEWEST_IN_ORDER:
        # Fractions in order may be data, such as quantiles, which are so in other rows too.
        rows = list(zip(*columns, strict=True))
        n_alike = sum(all(map(_is_number, row)) and _direction(row) == direction for row in rows)
        return whole or n_alike < len(rows) / 4
    return len(numbers) > 1 and bool(columns) and all(map(_is_far, numbers, columns))


def _is_year(cell: str) -> bool:
    year = _number(cell) if _is_number(cell) else 0.0
    return year % 1 == 0 and _FIRST_YEAR <= year <= _LAST_YEAR


def _is_far(name: str, cells: Sequence[str]) -> bool:
    """Whether a number is further from those below than they are from each other."""
    if len(cells) < _FEWEST_ROWS or not all(map(_is_number, cells)):
        return False
    low, high = min(map(_number, cells)), max(map(_number, cells))
    return max(low - _number(name), _number(name) - high) > high - low


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _number(cell: str) -> float:
    return float(cell.replace(",", "."))
