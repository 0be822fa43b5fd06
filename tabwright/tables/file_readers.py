"""One table file as polars frames: whole, or piece by piece.

Several files as one table are put together in `tables/reading.py`; how CSV text is cut into records
lives in `tables/csv/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
import polars.selectors as cs

from tabwright.object_stores import StoredObject
from tabwright.tables.csv.reader import CsvFormat, csv_frames
from tabwright.tables.formats.checks import damaged, selected
from tabwright.tables.formats.excel import read_excel
from tabwright.tables.formats.json_lines import json_frames
from tabwright.tables.libraries.arrow_columns import stored_row_labels
from tabwright.tables.paths import FileFormat, TableFile, table_format

_TEXT_CHUNK_BYTES: Final = 8 * 2**20
_READ_CHUNK_BYTES: Final = 64 * 2**20
# What polars raises at files that are damaged, or hold what it does not know.
_UNREADABLE: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def read_file(
    path: TableFile,
    columns: Sequence[str] | None,
    layout: CsvFormat,
    sheet: str | None,
    *,
    finds_types: bool = False,
    is_ignored: Callable[[str], bool] | None = None,
) -> pl.DataFrame:
    """A file as one frame; the columns of CSV files are text.

    `columns`: columns to read, in this order; None: all.
    `sheet`: sheet of an Excel file; None: the first.
    `finds_types`: as in `csv_frames`.
    `is_ignored`: as in `selected`.
    Raises `TableError`: naming file and line or column, if the file is not whole or not a table;
        `ImportError`: naming the install line, if Excel files need a package that is not there.
    """
    kind = table_format(path)
    if kind == "csv":
        frames = csv_frames(path, layout, chunk_bytes=_READ_CHUNK_BYTES, finds_types=finds_types)
        return pl.concat([selected(path, frame, columns) for frame in frames])
    if kind == "jsonl":
        parts = list(json_frames(path, columns, layout.encoding, _READ_CHUNK_BYTES, is_ignored))
        return selected(path, pl.concat(parts, how="diagonal_relaxed"), columns)
    if kind == "excel":
        markers = (layout.missing or ()) if finds_types else None
        return selected(path, read_excel(path, sheet, markers), columns)
    try:
        if isinstance(path, StoredObject):
            with path.open() as file:
                frame = pl.read_parquet(file) if kind == "parquet" else _read_arrow(file)
        else:
            frame = pl.read_parquet(path, glob=False) if kind == "parquet" else _read_arrow(path)
        labels = _row_labels(path, kind)
    except _UNREADABLE as error:
        raise damaged(path, kind, error) from error
    if columns is None and labels:
        columns = [name for name in frame.columns if name not in labels]
    return selected(path, frame, columns, is_ignored)


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
        raise damaged(path, kind, error) from error


def _scan_arrow(path: Path) -> pl.LazyFrame:
    # polars reads a stream only whole.
    return pl.scan_ipc(path) if _is_arrow_file(path) else pl.read_ipc_stream(path).lazy()


def names_of_file(path: TableFile) -> list[str] | None:
    """The columns of a Parquet or Arrow file, whatever they hold; None: of another format or store.

    Raises `TableError` if the file is damaged.
    """
    kind = table_format(path)
    if isinstance(path, StoredObject) or kind not in ("parquet", "arrow"):
        return None
    try:
        lazy = pl.scan_parquet(path, glob=False) if kind == "parquet" else _scan_arrow(path)
        labels = _row_labels(path, kind)
        return [name for name in lazy.collect_schema() if name not in labels]
    except _UNREADABLE as error:
        raise damaged(path, kind, error) from error


def file_pieces(
    path: TableFile,
    columns: Sequence[str] | None,
    layout: CsvFormat,
    batch_rows: int = 65_536,
    wanted: Callable[[int], bool] | None = None,
    *,
    finds_types: bool = False,
    is_ignored: Callable[[str], bool] | None = None,
) -> Iterator[pl.DataFrame]:
    """Pieces of a file as they come; the columns of CSV files are text.

    Pieces of Parquet and Arrow files have `batch_rows` rows each, and only those are read whose
    number, from 0, is `wanted`.

    `finds_types`: as in `csv_frames`.
    `is_ignored`: as in `selected`.

    Raises `TableError, ImportError`: as `read_file`.
    """
    kind = table_format(path)
    if kind == "csv":
        for frame in csv_frames(
            path, layout, chunk_bytes=_TEXT_CHUNK_BYTES, finds_types=finds_types
        ):
            yield selected(path, frame, columns)
    elif kind == "jsonl":
        yield from json_frames(path, columns, layout.encoding, _TEXT_CHUNK_BYTES, is_ignored)
    elif kind == "excel":
        yield read_file(path, columns, layout, None, finds_types=finds_types)
    elif isinstance(path, StoredObject):
        yield from _stored_batches(path, columns, kind, batch_rows, wanted, is_ignored)
    else:
        yield from _lazy_batches(path, columns, kind, batch_rows, wanted, is_ignored)


def _lazy_batches(
    path: Path,
    columns: Sequence[str] | None,
    kind: FileFormat,
    batch_rows: int,
    wanted: Callable[[int], bool] | None,
    is_ignored: Callable[[str], bool] | None,
) -> Iterator[pl.DataFrame]:
    """Batches of a Parquet or Arrow file, of which polars reads the rows asked for."""
    try:
        if kind == "parquet":
            lazy = pl.scan_parquet(path, glob=False)
            labels = _row_labels(path, kind)
            if columns is None and labels:
                columns = [name for name in lazy.collect_schema() if name not in labels]
        else:
            lazy = _scan_arrow(path)
        n_rows = int(lazy.select(pl.len()).collect().item())
        selected(path, lazy.head(1).collect(), columns, is_ignored)
        if columns is not None:
            lazy = lazy.select(cs.by_name(*columns))
        for number, start in enumerate(range(0, max(n_rows, 1), batch_rows)):
            if wanted is not None and not wanted(number):
                continue
            yield selected(path, lazy.slice(start, batch_rows).collect(), None, is_ignored)
    except _UNREADABLE as error:
        raise damaged(path, kind, error) from error


def _stored_batches(
    path: StoredObject,
    columns: Sequence[str] | None,
    kind: FileFormat,
    batch_rows: int,
    wanted: Callable[[int], bool] | None,
    is_ignored: Callable[[str], bool] | None,
) -> Iterator[pl.DataFrame]:
    """As `_lazy_batches`: of Parquet, by row groups, of which those that are wanted are read."""
    if kind != "parquet":
        whole = read_file(path, columns, CsvFormat(), None, is_ignored=is_ignored)
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
            selected(path, _from_arrow(empty), columns, is_ignored)
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
                    yield selected(path, _from_arrow(empty), names, is_ignored)
                    continue
                rows = pl.concat(held.values())
                batch = rows.slice(start - starts[groups[0]], end - start)
                yield selected(path, batch, None, is_ignored)
    except (ArrowException, *_UNREADABLE) as error:
        raise damaged(path, kind, error) from error


def _from_arrow(table: Any) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
