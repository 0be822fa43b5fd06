"""Sheets of Excel as frames, and what their merged cells leave out."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from datetime import date
from importlib.util import find_spec
from typing import Final

import polars as pl

from tabwright.errors import TableError, install_command
from tabwright.object_stores import StoredObject
from tabwright.tables.csv.first_lines import refuse_data, refuse_units
from tabwright.tables.formats.checks import damaged
from tabwright.tables.paths import TableFile

# Times of day in a sheet are parts of the day from which it counts.
_FIRST_DAYS: Final = (date(1899, 12, 30), date(1899, 12, 31))
# Rows by which a first line is told from data.
_HEAD_ROWS: Final = 50
_NAMES: Final = "put names above the rows, with a letter in each"


def read_excel(path: TableFile, sheet: str | None, markers: Sequence[str] | None) -> pl.DataFrame:
    if isinstance(path, StoredObject):
        raise TableError(
            f"an Excel file must lie on this machine; got {path}; download it first, or store it "
            "as CSV or Parquet"
        )
    if find_spec("fastexcel") is None:
        raise ImportError(
            f"reading {path} needs fastexcel, which is not installed; run: "
            f"{install_command('excel')}"
        )
    import fastexcel

    try:
        book = fastexcel.read_excel(path)
        if sheet is not None and sheet not in book.sheet_names:
            raise TableError(f"{path} has no sheet {sheet!r}; it has {book.sheet_names}")
        name = book.sheet_names[0] if sheet is None else sheet
        head = book.load_sheet(
            name, header_row=None, n_rows=_HEAD_ROWS, dtypes="string"
        ).to_polars()
        # Empty columns stay in their places, where the names are.
        frame = pl.read_excel(
            path,
            sheet_name=name,
            infer_schema_length=None,
            raise_if_empty=False,
            drop_empty_cols=False,
        )
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, OSError) as error:
        raise damaged(path, "excel", error) from error
    if not head.height:
        others = [sheet for sheet in book.sheet_names if sheet != name]
        way_out = f"; name another sheet, e.g. sheet={others[0]!r}" if others else ""
        raise TableError(f"{path} is empty; a table needs a line of column names and rows{way_out}")
    first = [str(cell or "").strip().removesuffix(" 00:00:00") for cell in head.row(0)]
    names = [name for name in first if name]
    if len(names) == 1 and frame.width > 1:
        raise TableError(
            f"{path}: the first line must hold column names; got {names[0]!r} alone above "
            f"{frame.width} columns; if it is a title, delete what stands above the names"
        )
    rows = [[cell or "" for cell in row] for row in head.rows()[1:]]
    # There is no option by which words that come again below could be said to be names.
    refuse_data(path, first, rows, words_may_recur=True, way_out=_NAMES)
    repeated, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise TableError(
            f"{path}: column names must differ; {repeated!r} comes {count} times; rename the copies"
        )
    # Where a cell is no text, fastexcel leaves its column without a name.
    frame.columns = [
        cell or f"unnamed_{place}" if name.startswith("__UNNAMED__") else name
        for place, (name, cell) in enumerate(zip(frame.columns, first, strict=True), 1)
    ]
    _check_rows(path, frame, markers)
    return frame.with_columns(
        column.dt.time()
        for column in frame.get_columns()
        if column.dtype == pl.Datetime and _are_times(column)
    )


def _are_times(moments: pl.Series) -> bool:
    """Whether moments of a sheet are times of day: on the day from which it counts."""
    days = moments.dt.date().drop_nulls()
    return bool(days.len()) and bool(days.is_in(_FIRST_DAYS).all())


def _check_rows(path: TableFile, frame: pl.DataFrame, markers: Sequence[str] | None) -> None:
    """Refuse names that come again, and, where there are markers, a line of units below them."""
    if markers is not None:
        head = frame.head(50).rows()
        rows = [["" if cell is None else str(cell) for cell in row] for row in head]
        refuse_units(path, 2, rows, markers)
    again = pl.Series([True]).new_from_index(0, frame.height)
    for series in frame.get_columns():
        if series.dtype != pl.String:
            return
        again &= (series.str.strip_chars() == series.name).fill_null(False)
    if again.any() and frame.width > 1:
        raise TableError(
            f"{path}: a table must begin once; row {int(again.arg_max() or 0) + 1} repeats the "
            "names; delete it"
        )


def merged_notes(path: TableFile, sheet: str | None, frame: pl.DataFrame) -> dict[str, str]:
    """What merged cells of an .xlsx file leave out, by column of its frame.

    Of cells that are merged down a column the file keeps the first.
    """
    if isinstance(path, StoredObject) or path.suffix.lower() != ".xlsx":
        return {}
    import fastexcel

    place = 0 if sheet is None else fastexcel.read_excel(path).sheet_names.index(sheet)
    with zipfile.ZipFile(path) as book:
        name = f"xl/worksheets/sheet{place + 1}.xml"
        content = book.read(name) if name in book.namelist() else b""
    used = re.search(rb'<dimension ref="([A-Z]+)', content)
    first = _column_number(used[1]) if used else 1
    notes: dict[str, str] = {}
    for start, top, bottom in re.findall(
        rb'<mergeCell ref="([A-Z]+)([0-9]+):[A-Z]+([0-9]+)"', content
    ):
        position = _column_number(start) - first
        if top == bottom or not 0 <= position < frame.width:
            continue
        column = frame.to_series(position)
        if column.null_count():
            notes[column.name] = (
                f"{column.null_count():,} of {column.len():,} cells are missing: of merged cells "
                "the first alone has the value; fill the others in the sheet"
            )
    return notes


def _column_number(letters: bytes) -> int:
    """A is 1, Z is 26, AA is 27."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number
