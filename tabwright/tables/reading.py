"""Tables in files: reading, whole and in batches.

CSV, TSV, JSON lines, Parquet, Arrow (Feather) and Excel; one file, a list, a pattern or a folder
of files with one schema. Which files they are is found in `tables/paths.py`, one file is read in
`tables/file_readers.py`, types are found and checked in `tables/dtypes.py`; writing lives
in
`tables/writing.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import polars as pl

from tabwright.errors import TableError, nearest_name
from tabwright.tables.cell_format import CellFormat
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.dtypes import Dtypes, text_column
from tabwright.tables.file_readers import file_pieces, read_file
from tabwright.tables.formats.excel import merged_notes
from tabwright.tables.given_types import cast_column, dtype_of_kinds, text_kinds
from tabwright.tables.paths import (
    Source,
    TableFile,
    has_types,
    shown_paths,
    table_format,
    table_paths,
)
from tabwright.tables.spellings.plain_columns import plain_columns, without_empty

# Formats whose text has the types that its cells say.
_OF_TEXT: Final = ("csv", "excel")


class ReadTable(NamedTuple):
    """A table that was read, and what was found in its text.

    `notes`: sentences by column.
    `formats`: how the text of a column is written, where a file brought text.
    """

    frame: pl.DataFrame
    notes: dict[str, str]
    formats: dict[str, CellFormat]


def read_table(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
    sheet: str | None = None,
) -> pl.DataFrame:
    """Read a table from a file, or from several with one schema.

    Columns of CSV files get the type that all of their cells have (`dtypes.text_column`); the
    other formats bring types of their own.

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
        The format is told by the extension: .csv .tsv .tab .txt .data, .jsonl .ndjson (each also
        .gz .zip .bz2 .xz .zst), .parquet .pq, .arrow .feather .ipc, .xlsx .xls .xlsb .ods; "-" is
        what comes through a pipe. Files of a pattern or a folder are read in the order of their
        names.
    columns : sequence of str, optional
        Columns to read, in this order; all by default.
    dtypes : mapping of str to polars dtype, optional
        Types of columns, in place of those that their cells or the file suggest.
    csv : CsvFormat, optional
        How CSV files are written, where they cannot tell by themselves.
    sheet : str, optional
        Sheet of Excel files; the first by default.

    Returns
    -------
    polars.DataFrame

    Raises
    ------
    TableError
        Naming file and line or column: no such file, unknown extension, not whole, no rows, broken
        records, names that come twice, nested cells, schemas that differ.
    ImportError
        Naming the install line, if Excel files need a package that is not there.
    """
    return read_with_notes(source, columns=columns, dtypes=dtypes, csv=csv, sheet=sheet)[0]


def read_with_notes(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
    sheet: str | None = None,
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read a table as `read_table` does, with what was found in its text, by column.

    Returns
    -------
    frame : polars.DataFrame
    notes : dict of str to str
        For `profile_table(frame, notes=notes)`.

    Raises
    ------
    TableError, ImportError
        As `read_table`.
    """
    found = read_described(source, columns=columns, dtypes=dtypes, csv=csv, sheet=sheet)
    return found.frame, found.notes


def read_described(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
    sheet: str | None = None,
    as_text: Sequence[str] = (),
    is_ignored: Callable[[str], bool] | None = None,
) -> ReadTable:
    """Read a table as `read_table` does, with what its text was found to be.

    Parameters
    ----------
    source, columns, dtypes, csv, sheet : as in `read_table`
    as_text : sequence of str, default=()
        Columns whose text stays text, such as codes made of digits.
    is_ignored : callable, optional
        Told a column's name, whether nobody wants its cells; they may be nested, and are null then.

    Returns
    -------
    ReadTable

    Raises
    ------
    TableError, ImportError
        As `read_table`.
    """
    layout = csv or CsvFormat()
    paths = table_paths(source)
    given = dtypes or {}
    parts: list[pl.DataFrame] = []
    n_before = 0
    for path in paths:
        part = read_file(path, columns, layout, sheet, finds_types=not given, is_ignored=is_ignored)
        _check_typed(path, given, part.columns)
        parts.append(_typed(part, given, layout.cells, n_before))
        n_before += part.height
    frame = _stacked(paths, parts)
    if not frame.width:
        raise TableError(f"{shown_paths(paths)} has no columns; a table needs at least one")
    if not frame.height:
        raise TableError(f"{shown_paths(paths)} has no rows; a table needs at least one")
    table = ReadTable(frame, {}, {})
    if table_format(paths[0]) == "excel":
        for path, part in zip(paths, parts, strict=True):
            table.notes.update(merged_notes(path, sheet, part))
    if table_format(paths[0]) not in _OF_TEXT:
        return table
    result = []
    untyped = [name for name in frame.columns if name not in given and name not in as_text]
    plain = plain_columns(frame[untyped], decimal=layout.decimal, missing=layout.missing)
    words = [frame.get_column(name) for name, kinds in plain.items() if kinds == {"text"}]
    clean = {series.name: series for series in without_empty(words)}
    usual = layout.cells
    for series in frame.get_columns():
        name, form = series.name, usual
        if series.dtype != pl.String:
            result.append(series)
            continue
        if name in clean:
            series = clean[name]
        elif name in plain:
            wanted = pl.Float64 if "float" in plain[name] else pl.Int64
            series = series.cast(wanted, strict=False)
        elif name in as_text and name not in given:
            series = cast_column(series, pl.String, form)
        elif name not in given:
            series, note, form = text_column(series, decimal=layout.decimal, missing=layout.missing)
            if note:
                table.notes[name] = note
        table.formats[name] = form
        result.append(series)
    return table._replace(frame=pl.DataFrame({series.name: series for series in result}))


def table_dtypes(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    csv: CsvFormat | None = None,
    text_as_it_is: bool = False,
    as_text: Sequence[str] = (),
    is_ignored: Callable[[str], bool] | None = None,
) -> dict[str, pl.DataType]:
    """The types that `read_table` gives the columns, in bounded memory.

    Files of text are read once from end to end. Numbers in a spelling that has to be found out
    (decimal commas, thousands, unknown markers of missing cells) are text here.

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
    columns : sequence of str, optional
    csv : CsvFormat, optional
    text_as_it_is : bool, default=False
        Columns of CSV files stay text, of which only the first records are read then.
    as_text : sequence of str, default=()
        Columns of CSV files that stay text.
    is_ignored : callable, optional
        As in `read_described`.

    Returns
    -------
    dict of str to polars dtype

    Raises
    ------
    TableError
        As `read_table`.
    """
    layout = csv or CsvFormat()
    paths = table_paths(source)
    kinds: dict[str, set[str]] = {}
    found: dict[str, pl.DataType] = {}
    names: dict[str, None] = {}
    for path in paths:
        for frame in file_pieces(
            path, columns, layout, finds_types=not text_as_it_is, is_ignored=is_ignored
        ):
            if table_format(path) != "jsonl":
                _check_same_columns(paths[0], list(names), path, frame.columns)
            plain = {}
            if table_format(path) in _OF_TEXT and not text_as_it_is:
                plain = plain_columns(frame, decimal=layout.decimal, missing=layout.missing)
            names.update(dict.fromkeys(frame.columns))
            for series in frame.get_columns():
                if table_format(path) in _OF_TEXT and series.dtype == pl.String:
                    seen: set[str] = set()
                    if text_as_it_is or series.name in as_text:
                        pass
                    elif series.name in plain:
                        seen = plain[series.name]
                    else:
                        seen = text_kinds(series, layout.decimal, layout.missing)
                    kinds.setdefault(series.name, set()).update(seen)
                else:
                    known = found.get(series.name, series.dtype)
                    found[series.name] = _wider(path, series.name, known, series.dtype)
            if has_types(path) or (text_as_it_is and table_format(path) == "csv"):
                break
    absent = [name for name in columns or () if name not in kinds and name not in found]
    if absent:
        raise TableError(
            f"{shown_paths(paths)} has no column {absent[0]!r}; it has {list(found)[:10]}"
        )
    return {name: dtype_of_kinds(kinds[name]) if name in kinds else found[name] for name in names}


def iter_tables(
    source: Source,
    *,
    batch_rows: int = 65_536,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    verbatim: Sequence[str] = (),
    csv: CsvFormat | None = None,
) -> Iterator[pl.DataFrame]:
    """Read a table of any length in batches, in bounded memory.

    Every batch has the same columns and types, those that `read_table` would give the whole. For
    files of text without `dtypes` that takes a first pass over them (`table_dtypes`).

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
        As in `read_table`. Excel files are read whole.
    batch_rows : int, default=65_536
        Rows per batch; the last may have fewer.
    columns : sequence of str, optional
    dtypes : mapping of str to polars dtype, optional
        Types of all columns that are read, e.g. of an earlier `table_dtypes`.
    verbatim : sequence of str, default=()
        Columns whose cells stay the text that a CSV file has, e.g. identifiers such as ``007``;
        other formats have types of their own, and keep them.
    csv : CsvFormat, optional

    Yields
    ------
    polars.DataFrame

    Raises
    ------
    TableError
        As `read_table`; naming column, row of the table (from 1) and value, if a cell does not
        fit its column's type.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1; got {batch_rows}")
    layout = csv or CsvFormat()
    paths = table_paths(source)
    schema: Dtypes = table_dtypes(source, columns=columns, csv=csv) if dtypes is None else dtypes
    if verbatim and table_format(paths[0]) == "csv":
        schema = {name: dtype for name, dtype in schema.items() if name not in verbatim}
    return _batches(paths, batch_rows, columns, schema, layout)


def file_chunks(
    path: TableFile,
    chunk_rows: int,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    wanted: Callable[[int], bool] | None = None,
    csv: CsvFormat | None = None,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Runs of `chunk_rows` rows of one file, with their numbers from 0.

    `columns`: columns to read, in this order.
    `dtypes`: types of columns, as in `iter_tables`; without them text stays text.
    `wanted`: Takes a chunk's number. The others are passed over; in Parquet and Arrow files unread.
    Raises `TableError`: as `iter_tables`.
    """
    given = dtypes or {}
    if has_types(path):
        numbers = (n for n in itertools.count() if wanted is None or wanted(n))
        for frame in file_pieces(path, columns, CsvFormat(), chunk_rows, wanted):
            number = next(numbers)
            _check_typed(path, given, frame.columns)
            yield number, _typed(frame, given, CellFormat(), number * chunk_rows)
        return
    layout = csv or CsvFormat()
    for number, frame in enumerate(_batches([path], chunk_rows, columns, given, layout)):
        if wanted is None or wanted(number):
            yield number, frame


# ---------------------------------------------------------------------------------------------
# Several files, one schema
# ---------------------------------------------------------------------------------------------


def _check_typed(path: TableFile, dtypes: Dtypes, names: Sequence[str]) -> None:
    for name in dtypes:
        if name not in names:
            hint = nearest_name(name, names, otherwise=f"they are {list(names)[:10]}")
            raise TableError(f"dtypes must name columns of {path}; got {name!r}{hint}")


def _typed(frame: pl.DataFrame, dtypes: Dtypes, form: CellFormat, n_before: int) -> pl.DataFrame:
    """The frame with the types that are given for some of its columns."""
    return frame.with_columns(
        [
            cast_column(series, dtypes[series.name], form, n_before)
            for series in frame.get_columns()
            if series.name in dtypes
        ]
    )


def _check_same_columns(
    first: TableFile, expected: Sequence[str], path: TableFile, found: Sequence[str]
) -> None:
    """Refuse files of one table whose columns differ."""
    if not expected or set(expected) == set(found):
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    fault = f"lacks the column {missing[0]!r}" if missing else f"has the column {extra[0]!r} too"
    raise TableError(
        f"files of one table must have the same columns; {path} {fault}, unlike {first}; "
        "read them apart, or name the columns they share with columns=[...]"
    )


def _wider(path: TableFile, name: str, one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """The type that holds a column of two files."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric():
        both = pl.concat(
            [pl.Series([], dtype=one).to_frame("x"), pl.Series([], dtype=other).to_frame("x")],
            how="vertical_relaxed",
        )
        return both.schema["x"]
    if {one, other} == {pl.String(), pl.Categorical()}:
        return pl.String()
    raise TableError(
        f"files of one table must have the same types; column {name!r} of {path} is {other}, "
        f"and {one} before; convert one of them, or give dtypes={{{name!r}: ...}}"
    )


def _stacked(paths: Sequence[TableFile], parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The files below each other, with columns in the order of the first."""
    first = parts[0]
    if len(parts) == 1:
        return first
    schema = dict(first.schema)
    for path, part in zip(paths, parts, strict=True):
        _check_same_columns(paths[0], first.columns, path, part.columns)
        for name, dtype in part.schema.items():
            schema[name] = _wider(path, name, schema[name], dtype)
    return pl.concat([pl.DataFrame([part[n].cast(t) for n, t in schema.items()]) for part in parts])


def _batches(
    paths: Sequence[TableFile],
    batch_rows: int,
    columns: Sequence[str] | None,
    schema: Dtypes,
    layout: CsvFormat,
) -> Iterator[pl.DataFrame]:
    """Batches of at most so many rows, across the borders of files."""
    waiting: list[pl.DataFrame] = []
    n_waiting = n_before = 0
    names = list(columns or (schema if table_format(paths[0]) == "jsonl" else ()))
    for path in paths:
        for frame in file_pieces(path, columns, layout, batch_rows):
            if table_format(path) == "jsonl":
                absent = [name for name in schema if name not in frame.columns]
                frame = frame.with_columns(pl.lit(None).alias(name) for name in absent)
            names = names or frame.columns
            _check_same_columns(paths[0], names, path, frame.columns)
            frame = frame[names]
            frame = _typed(frame, schema, layout.cells, n_before)
            n_before += frame.height
            waiting.append(frame)
            n_waiting += frame.height
            if n_waiting >= batch_rows:
                whole = pl.concat(waiting)
                for start in range(0, n_waiting - batch_rows + 1, batch_rows):
                    yield whole.slice(start, batch_rows)
                rest = whole.slice(n_waiting - n_waiting % batch_rows)
                waiting, n_waiting = [rest], rest.height
    if not n_before:
        raise TableError(f"{shown_paths(paths)} has no rows; a table needs at least one")
    if n_waiting:
        yield pl.concat(waiting)
