"""One table file as polars frames: whole, or piece by piece.

Several files as one table are put together in `tables/reading.py`; how CSV text is cut into records
lives in `tables/csv/`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
import polars.selectors as cs

from tabwright.errors import TableError, install_command
from tabwright.object_stores import StoredObject
from tabwright.tables.cells import refuse_nested
from tabwright.tables.csv.first_lines import refuse_data, refuse_units
from tabwright.tables.csv.reader import CsvFormat, csv_frames
from tabwright.tables.csv.text import text_blocks
from tabwright.tables.libraries.arrow_columns import stored_row_labels, without_extensions
from tabwright.tables.paths import FileFormat, TableFile, table_format

_TEXT_CHUNK_BYTES: Final = 8 * 2**20
_READ_CHUNK_BYTES: Final = 64 * 2**20
# Times of day in a sheet are parts of the day from which it counts.
_FIRST_DAYS: Final = (date(1899, 12, 30), date(1899, 12, 31))
# What polars raises at files that are damaged, or hold what it does not know.
_UNREADABLE: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def read_file(
    path: TableFile,
    columns: Sequence[str] | None,
    layout: CsvFormat,
    sheet: str | None,
    *,
    finds_types: bool = False,
) -> pl.DataFrame:
    """A file as one frame; the columns of CSV files are text.

    `columns`: columns to read, in this order; None: all.
    `sheet`: sheet of an Excel file; None: the first.
    `finds_types`: as in `csv_frames`.
    Raises `TableError`: naming file and line or column, if the file is not whole or not a table;
        `ImportError`: naming the install line, if Excel files need a package that is not there.
    """
    kind = table_format(path)
    if kind == "csv":
        frames = csv_frames(path, layout, chunk_bytes=_READ_CHUNK_BYTES, finds_types=finds_types)
        return pl.concat([_selected(path, frame, columns) for frame in frames])
    if kind == "jsonl":
        parts = list(_json_frames(path, columns, layout.encoding, _READ_CHUNK_BYTES))
        return _selected(path, pl.concat(parts, how="diagonal_relaxed"), columns)
    if kind == "excel":
        markers = (layout.missing or ()) if finds_types else None
        return _selected(path, _read_excel(path, sheet, markers), columns)
    try:
        if isinstance(path, StoredObject):
            with path.open() as file:
                frame = pl.read_parquet(file) if kind == "parquet" else _read_arrow(file)
        else:
            frame = pl.read_parquet(path, glob=False) if kind == "parquet" else _read_arrow(path)
        labels = _row_labels(path, kind)
    except _UNREADABLE as error:
        raise _damaged(path, kind, error) from error
    if columns is None and labels:
        columns = [name for name in frame.columns if name not in labels]
    return _selected(path, frame, columns)


def _row_labels(path: TableFile, kind: FileFormat) -> set[str]:
    """Columns of a Parquet file that are the index of a pandas frame: nobody's features."""
    if kind != "parquet":
        return set()
    if isinstance(path, StoredObject):
        with path.open() as file:
            return stored_row_labels(pl.read_parquet_metadata(file).get("pandas"))
    return stored_row_labels(pl.read_parquet_metadata(path).get("pandas"))


def _read_arrow(source: Path | IO[bytes]) -> pl.DataFrame:
    return pl.read_ipc(source) if _is_arrow_file(source) else pl.read_ipc_stream(source)


def _is_arrow_file(source: Path | IO[bytes]) -> bool:
    """Whether it is a file with a footer, else a stream."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(6) == b"ARROW1"
    start = source.read(6)
    source.seek(0)
    return start == b"ARROW1"


def count_rows(path: TableFile) -> int:
    """Rows of a Parquet or Arrow file; of Parquet, by its footer alone.

    Raises `TableError` if the file is not whole.
    """
    kind = table_format(path)
    try:
        if isinstance(path, Path):
            lazy = pl.scan_parquet(path, glob=False) if kind == "parquet" else _scan_arrow(path)
            return int(lazy.select(pl.len()).collect().item())
        with path.open() as file:
            if kind == "arrow":
                return _read_arrow(file).height
            return int(pl.scan_parquet(file).select(pl.len()).collect().item())
    except _UNREADABLE as error:
        raise _damaged(path, kind, error) from error


def _scan_arrow(path: Path) -> pl.LazyFrame:
    # polars reads a stream only whole.
    return pl.scan_ipc(path) if _is_arrow_file(path) else pl.read_ipc_stream(path).lazy()


def _damaged(path: TableFile, kind: FileFormat, error: BaseException) -> TableError:
    reason = str(error)
    zone = re.search(r"unable to parse time zone: '([^']*)'", reason)
    if zone is not None:
        return TableError(
            f"{path}: times must have no zone, UTC or a zone with a name; got {zone[1]!r}; write "
            "them in UTC, e.g. with pandas: df['name'] = df['name'].dt.tz_convert('UTC')"
        )
    twice = re.search(r"column with name '(.*)' has more than one occurrence", reason)
    if twice is not None:
        return TableError(
            f"{path}: column names must differ; {twice[1]!r} comes more than once; rename the "
            "copies"
        )
    if "precision must be between 1 and 38" in reason:
        return TableError(
            f"{path}: numbers must have at most 38 digits; a column has a decimal type of more "
            f"({(reason.splitlines() or [''])[0]}); write it as float64 or decimal128, e.g. with "
            "pyarrow: table.set_column(i, name, column.cast(pyarrow.float64()))"
        )
    reason = (reason.splitlines() or [type(error).__name__])[0]
    return TableError(
        f"{path} must be a whole {kind} file; it is damaged, cut short or something else "
        f"({reason}); copy or write it again"
    )


def _selected(path: TableFile, frame: pl.DataFrame, columns: Sequence[str] | None) -> pl.DataFrame:
    if columns is not None:
        for name in columns:
            if name not in frame.columns:
                near = get_close_matches(name, frame.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {frame.columns[:10]}"
                raise TableError(f"{path} has no column {name!r}; {hint}")
        frame = frame[list(columns)]
    frame = without_extensions(frame)
    for series in frame.get_columns():
        try:
            refuse_nested(series)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None
    return frame


def _read_excel(path: TableFile, sheet: str | None, markers: Sequence[str] | None) -> pl.DataFrame:
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
        head = book.load_sheet(name, header_row=None, n_rows=1, dtypes="string").to_polars()
        # Empty columns stay in their places, where the names are.
        frame = pl.read_excel(
            path,
            sheet_name=name,
            infer_schema_length=None,
            raise_if_empty=False,
            drop_empty_cols=False,
        )
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, "excel", error) from error
    if not head.height:
        others = [own for own in book.sheet_names if own != name]
        way_out = f"; name another sheet, e.g. sheet={others[0]!r}" if others else ""
        raise TableError(f"{path} is empty; a table needs a line of column names and rows{way_out}")
    first = [str(cell or "").strip().removesuffix(" 00:00:00") for cell in head.row(0)]
    names = [name for name in first if name]
    if len(names) == 1 and frame.width > 1:
        raise TableError(
            f"{path}: the first line must hold column names; got {names[0]!r} alone above "
            f"{frame.width} columns; if it is a title, delete what stands above the names"
        )
    refuse_data(path, first, way_out="put names above the rows, with a letter in each")
    repeated, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise TableError(
            f"{path}: column names must differ; {repeated!r} comes {count} times; rename the copies"
        )
    # Where a cell is no text, fastexcel leaves its column without a name.
    frame.columns = [
        own or f"unnamed_{place}" if name.startswith("__UNNAMED__") else name
        for place, (name, own) in enumerate(zip(frame.columns, first, strict=True), 1)
    ]
    _check_rows(path, frame, markers)
    return frame.with_columns(
        own.dt.time() for own in frame.get_columns() if own.dtype == pl.Datetime and _are_times(own)
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


def _json_frames(
    path: TableFile, columns: Sequence[str] | None, encoding: str | None, chunk_bytes: int
) -> Iterator[pl.DataFrame]:
    rest = b""
    first_line = 1
    n_frames = 0
    for block in text_blocks(path, encoding, chunk_bytes=chunk_bytes):
        rest += block
        end = rest.rfind(b"\n") + 1
        if end:
            if rest[:end].strip():
                if not n_frames:
                    _refuse_repeated_keys(path, rest[:end], first_line)
                n_frames += 1
                yield _json_frame(path, rest[:end], first_line, columns)
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
    if rest.strip():
        if not n_frames:
            _refuse_repeated_keys(path, rest, first_line)
        n_frames += 1
        yield _json_frame(path, rest, first_line, columns)
    if not n_frames:
        raise TableError(f"{path} is empty; a table needs at least one row")


def _json_row(line: bytes) -> Any:
    """A line as JSON is meant to be: Python's reader takes NaN and 1e999 too."""

    def constant(text: str) -> float:
        raise ValueError(f"{text} is no JSON; write null for a missing number")

    def number(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError(f"{text} is past float64; write null, or a number up to 1.7e308")
        return float(text)

    if not line.strip():
        return {}
    return json.loads(line, parse_constant=constant, parse_float=number)


def _refuse_repeated_keys(path: TableFile, data: bytes, first_line: int) -> None:
    """Look at the first row only: what names columns twice does so in every row."""
    row = data.lstrip()
    line = first_line + data.count(b"\n", 0, len(data) - len(row))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        name, count = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if count > 1:
            raise TableError(
                f"{path}, line {line}: column names must differ; {name!r} comes {count} times; "
                "rename the copies"
            )
        return dict(pairs)

    # Whatever else is wrong with the line is for the reader of the whole file to say.
    with contextlib.suppress(json.JSONDecodeError):
        json.loads(row.partition(b"\n")[0], object_pairs_hook=unique)


def _json_frame(
    path: TableFile, data: bytes, first_line: int, columns: Sequence[str] | None
) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(data.splitlines(), first_line):
            try:
                row = _json_row(line)
            except ValueError as fault:
                raise TableError(
                    f"{path}, line {number}: every line must be one JSON object; got "
                    f"{line[:60].decode(errors='replace')!r} ({fault}); repair the line"
                ) from None
            if not isinstance(row, dict):
                raise TableError(
                    f"{path}, line {number}: every line must be one JSON object; got "
                    f'{line[:60].decode(errors="replace")!r}; write it as {{"name": value}}'
                ) from None
        raise _damaged(path, "jsonl", error) from error
    if columns is None:
        return _selected(path, frame, None)
    # A row may leave out a key; whether the file has it is known at its end.
    return _selected(path, frame, [name for name in columns if name in frame.columns])


def file_pieces(
    path: TableFile,
    columns: Sequence[str] | None,
    layout: CsvFormat,
    batch_rows: int = 65_536,
    wanted: Callable[[int], bool] | None = None,
    *,
    finds_types: bool = False,
) -> Iterator[pl.DataFrame]:
    """Pieces of a file as they come; the columns of CSV files are text.

    Pieces of Parquet and Arrow files have `batch_rows` rows each, and only those are read whose
    number, from 0, is `wanted`.

    `finds_types`: as in `csv_frames`.

    Raises `TableError, ImportError`: as `read_file`.
    """
    kind = table_format(path)
    if kind == "csv":
        for frame in csv_frames(
            path, layout, chunk_bytes=_TEXT_CHUNK_BYTES, finds_types=finds_types
        ):
            yield _selected(path, frame, columns)
    elif kind == "jsonl":
        yield from _json_frames(path, columns, layout.encoding, _TEXT_CHUNK_BYTES)
    elif kind == "excel":
        yield read_file(path, columns, layout, None, finds_types=finds_types)
    elif isinstance(path, StoredObject):
        yield from _stored_batches(path, columns, kind, batch_rows, wanted)
    else:
        yield from _lazy_batches(path, columns, kind, batch_rows, wanted)


def _lazy_batches(
    path: Path,
    columns: Sequence[str] | None,
    kind: FileFormat,
    batch_rows: int,
    wanted: Callable[[int], bool] | None,
) -> Iterator[pl.DataFrame]:
    try:
        if kind == "parquet":
            lazy = pl.scan_parquet(path, glob=False)
            labels = _row_labels(path, kind)
            if columns is None and labels:
                columns = [name for name in lazy.collect_schema() if name not in labels]
        else:
            lazy = _scan_arrow(path)
        n_rows = int(lazy.select(pl.len()).collect().item())
        _selected(path, lazy.head(1).collect(), columns)
        if columns is not None:
            lazy = lazy.select(cs.by_name(*columns))
        for number, start in enumerate(range(0, max(n_rows, 1), batch_rows)):
            if wanted is not None and not wanted(number):
                continue
            yield _selected(path, lazy.slice(start, batch_rows).collect(), None)
    except _UNREADABLE as error:
        raise _damaged(path, kind, error) from error


def _stored_batches(
    path: StoredObject,
    columns: Sequence[str] | None,
    kind: FileFormat,
    batch_rows: int,
    wanted: Callable[[int], bool] | None,
) -> Iterator[pl.DataFrame]:
    """As `_lazy_batches`: of Parquet, by row groups, of which those that are wanted are read."""
    if kind != "parquet":
        whole = read_file(path, columns, CsvFormat(), None)
        for number, start in enumerate(range(0, max(whole.height, 1), batch_rows)):
            if wanted is None or wanted(number):
                yield whole.slice(start, batch_rows)
        return
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with path.open() as stream, ParquetFile(stream, pre_buffer=True) as file:
            labels = _row_labels(path, kind)
            names = [name for name in file.schema_arrow.names if name not in labels]
            # What the columns are is known before the first of them is read.
            empty = file.schema_arrow.empty_table()
            _selected(path, _from_arrow(empty), columns)
            names = list(columns) if columns is not None else names
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            starts = list(itertools.accumulate(sizes, initial=0))
            held: dict[int, pl.DataFrame] = {}
            for number, start in enumerate(range(0, max(starts[-1], 1), batch_rows)):
                if wanted is not None and not wanted(number):
                    continue
                end = min(start + batch_rows, starts[-1])
                groups = [
                    n
                    for n, first in enumerate(starts[:-1])
                    if first < end and starts[n + 1] > start
                ]
                held = {
                    n: held[n]
                    if n in held
                    else _from_arrow(file.read_row_group(n, columns=names)).select(
                        cs.by_name(*names)
                    )
                    for n in groups
                }
                if not groups:
                    yield _selected(path, _from_arrow(empty), names)
                    continue
                rows = pl.concat(held.values())
                yield _selected(path, rows.slice(start - starts[groups[0]], end - start), None)
    except (ArrowException, *_UNREADABLE) as error:
        raise _damaged(path, kind, error) from error


def _from_arrow(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
