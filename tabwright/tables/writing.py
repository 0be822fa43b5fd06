"""Writing tables to files, whole or not at all; in pieces where they are larger than memory.

Reading lives in `tables/reading.py`.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from tabwright.artifact.atomic_write import replacing
from tabwright.errors import TableError

_Format = Literal["csv", "jsonl", "parquet", "arrow"]
_FORMATS: Final[dict[str, _Format]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_EXCEL: Final = frozenset((".xlsx", ".xls", ".xlsb", ".ods"))


def check_table_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path whose extension is no format that tables are written in.

    Raises
    ------
    TableError
        Naming the extensions that are.
    """
    _format_of(Path(path))


def write_table(
    frame: pl.DataFrame, path: str | os.PathLike[str], *, protect_formulas: bool = False
) -> None:
    """Write a table: the whole file or nothing, in the format of the extension.

    Parameters
    ----------
    frame : polars.DataFrame
    path : path
        .csv .tsv .tab .jsonl .ndjson (each also .gz), .parquet .pq, .arrow .feather .ipc.
    protect_formulas : bool, default=False
        Pass text cells of CSV and TSV through `escape_formulas`; this changes data.

    Raises
    ------
    TableError
        If the extension is none of these.
    OSError
        If it cannot be written; an old file of that name stays whole.
    """
    write_batches((frame,), path, protect_formulas=protect_formulas)


def write_batches(
    batches: Iterable[pl.DataFrame],
    path: str | os.PathLike[str],
    *,
    protect_formulas: bool = False,
) -> int:
    """Write a table as its pieces come, in bounded memory: the whole file or nothing.

    Parameters
    ----------
    batches : iterable of polars.DataFrame
        At least one, all with the same columns and types.
    path : path
        .csv .tsv .tab .jsonl .ndjson (each also .gz), .parquet .pq, .arrow .feather .ipc.
    protect_formulas : bool, default=False
        Pass text cells of CSV and TSV through `escape_formulas`; this changes data.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    TableError
        If the extension is none of these, or there is no batch.
    OSError
        If it cannot be written; an old file of that name stays whole. What the iterator raises
        passes as it is, and leaves the old file too.
    """
    target = Path(path)
    kind = _format_of(target)
    counted = _Counted(batches)
    first = next(counted, None)
    if first is None:
        raise TableError(f"{target}: a table to write must have at least one batch; got none")
    pieces = chain((first,), counted)
    # Polars gets an open file and not its path: a sink that fails can open a path again, later.
    with replacing(target) as temporary, open(temporary, "wb") as file:
        if kind == "parquet":
            _lazy(pieces, first).sink_parquet(file, maintain_order=True)
        elif kind == "arrow":
            _lazy(pieces, first).sink_ipc(file, maintain_order=True)
        elif target.name.lower().endswith(".gz"):
            # Without a time stamp and a name the same table gives the same bytes.
            with gzip.GzipFile("", "wb", 6, fileobj=file, mtime=0) as packed:
                _write_text(pieces, packed.write, target, protect_formulas)
        else:
            _write_text(pieces, file.write, target, protect_formulas)
    return counted.n_rows


def write_csv_batches(
    batches: Iterable[pl.DataFrame],
    write: Callable[[bytes], object],
    *,
    separator: str = ",",
    protect_formulas: bool = False,
) -> None:
    """Write CSV to anything that takes bytes: one header, then the rows of every batch.

    Parameters
    ----------
    batches : iterable of polars.DataFrame
    write : callable
        Called with bytes.
    separator : str, default=","
    protect_formulas : bool, default=False
        As in `write_batches`.
    """
    header = True
    for batch in batches:
        frame = escape_formulas(batch) if protect_formulas else batch
        write(frame.write_csv(separator=separator, include_header=header).encode())
        header = False


def escape_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """Put an apostrophe before text cells and names that a spreadsheet would run as formulas.

    Those start with ``= + - @``, a tab or a return (OWASP, "CSV Injection").

    Parameters
    ----------
    frame : polars.DataFrame

    Returns
    -------
    polars.DataFrame
        Columns of numbers, booleans and dates as they were.
    """
    risky = r"^[=+\-@\t\r]"
    columns = []
    for series in frame:
        name = f"'{series.name}" if series.name[:1] in set("=+-@\t\r") else series.name
        if series.dtype in (pl.String, pl.Categorical):
            text = series.cast(pl.String)
            series = ("'" + text).zip_with(text.str.contains(risky), text)
        columns.append(series.alias(name))
    return pl.DataFrame({column.name: column for column in columns}) if columns else frame


def _write_text(
    pieces: Iterable[pl.DataFrame],
    write: Callable[[bytes], object],
    target: Path,
    protect_formulas: bool,
) -> None:
    """Write the pieces as CSV or JSON lines."""
    if _format_of(target) == "csv":
        tabs = target.name.lower().removesuffix(".gz").endswith((".tsv", ".tab"))
        separator = "\t" if tabs else ","
        write_csv_batches(pieces, write, separator=separator, protect_formulas=protect_formulas)
        return
    for piece in pieces:
        write(piece.write_ndjson().encode())


class _Counted(Iterator[pl.DataFrame]):
    """Counts the rows that pass."""

    def __init__(self, batches: Iterable[pl.DataFrame]) -> None:
        self._batches = iter(batches)
        self.n_rows = 0

    def __next__(self) -> pl.DataFrame:
        batch = next(self._batches)
        self.n_rows += batch.height
        return batch


def _lazy(pieces: Iterator[pl.DataFrame], first: pl.DataFrame) -> pl.LazyFrame:
    """The pieces as a lazy table, which the sinks of polars write as they come."""
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: Any, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from pieces

    return register_io_source(source, schema=first.schema)


def _format_of(path: Path) -> _Format:
    """The format that the extension says."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    extension = Path(name.removesuffix(".gz")).suffix
    kind = _FORMATS.get(extension)
    if extension in _EXCEL:
        raise TableError(f"{path}: tables are not written as Excel; use .csv or .parquet")
    if kind is None or (packed and kind not in ("csv", "jsonl")):
        raise TableError(
            f"{path}: a table is written in the format of its extension, one of "
            f"{' '.join(_FORMATS)}, or .csv.gz, .tsv.gz, .jsonl.gz; "
            f"got {''.join(path.suffixes[-2:]) or 'none'!r}; rename the file"
        )
    return kind
