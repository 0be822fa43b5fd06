"""A table larger than memory as numbered chunks of its files, and the fixed place of every row.

A chunk is a run of neighbouring rows of one file. Which part of the work a row belongs to is told
by a stable hash of the seed, the file and the row's number, so that every pass over the table and
every worker agrees. How files are read lives in `tables/reading.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.errors import TableError
from tabwright.object_stores import StoredObject
from tabwright.splits import split_by_hash, stable_row_hash
from tabwright.tables.cell_format import USUAL, CellFormat, typed_cells
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.dtypes import text_column
from tabwright.tables.paths import Source, TableFile, shown_paths, table_format, table_paths
from tabwright.tables.reading import file_chunks, table_dtypes

CHUNK_ROWS: Final = 65_536
_SHARE_ASIDE: Final = 0.25

Place = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of one file.

    `file`, `number`: which file of the table, and which chunk of the file, from 0.
    """

    file: int
    number: int
    frame: pl.DataFrame

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """Numbers of the rows in their file, from 0."""
        start = self.number * CHUNK_ROWS
        return np.arange(start, start + self.frame.height, dtype=np.int64)


@dataclass(frozen=True)
class FilesTable:
    """Files that make up one table, in order, and the types of its columns.

    `csv`: how CSV files are written, where they cannot tell by themselves.
    `target`: a column of text that is numbers, and is read as numbers; None where there is none.
    `target_format`: how its text is written.
    """

    paths: tuple[TableFile, ...]
    dtypes: dict[str, pl.DataType]
    csv: CsvFormat | None = None
    target: str | None = None
    target_format: CellFormat = USUAL

    @classmethod
    def of(
        cls,
        source: Source,
        csv: CsvFormat | None = None,
        as_text: Sequence[str] = (),
        target: str | None = None,
        drop: Collection[str] = (),
    ) -> FilesTable:
        """Find the files and the types; files of text are read once for that.

        The columns `as_text` of CSV files stay text. The format of the text of the `target` is
        found in the first chunk. Those to `drop` are never read; their cells may be nested.

        Raises `TableError`: as `read_table`; and for Excel files, which are read only whole.
        """
        paths = table_paths(source)
        if table_format(paths[0]) == "excel":
            raise TableError(
                f"a table that is streamed must be CSV, JSON lines, Parquet or Arrow; got "
                f"{shown_paths(paths)}; save it as one of these"
            )
        dtypes = table_dtypes(source, csv=csv, as_text=as_text, is_ignored=drop.__contains__)
        table = cls(tuple(paths), dtypes, csv)
        if target in as_text or table.dtypes.get(target or "") != pl.String:
            return table
        layout = csv or CsvFormat()
        first = next(table.chunks([str(target)])).frame.to_series()
        found = text_column(first, decimal=layout.decimal, missing=layout.missing)
        if not found.values.dtype.is_numeric():
            return table
        return replace(
            table,
            dtypes={**table.dtypes, str(target): pl.Float64()},
            target=target,
            target_format=found.form,
        )

    @property
    def formats(self) -> dict[str, CellFormat]:
        """What is said of the cells of the columns."""
        if self.csv is None or table_format(self.paths[0]) != "csv":
            return {}
        return dict.fromkeys(self.dtypes, self.csv.cells)

    def name(self, file: int) -> str:
        """A file's name within the table: the same wherever the table lies."""
        places = [_place(path) for path in self.paths]
        folder = os.path.commonpath([os.path.dirname(place) for place in places])
        return os.path.relpath(places[file], folder).replace(os.sep, "/")

    def chunks(
        self, columns: Sequence[str], wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[Chunk]:
        """The chunks of all files, in order.

        `wanted`: takes a file's and a chunk's number; others than those wanted are passed over,
            unread where the format has an index (Parquet, Arrow).
        """
        dtypes = {name: self.dtypes[name] for name in columns}
        if self.target in dtypes:
            dtypes[self.target] = pl.String()
        for file, path in enumerate(self.paths):

            def here(number: int, file: int = file) -> bool:
                return wanted is None or wanted(file, number)

            for number, frame in file_chunks(
                path, CHUNK_ROWS, list(columns), dtypes, here, self.csv
            ):
                chunk = Chunk(file, number, frame)
                if self.target in dtypes:
                    target_index = frame.get_column_index(self.target)
                    with self.locating(chunk):
                        numbers = typed_cells(
                            frame.to_series(target_index), "numeric", self.target_format
                        )
                    frame.replace_column(target_index, numbers.cast(pl.Float64))
                yield chunk

    @contextmanager
    def locating(self, chunk: Chunk) -> Iterator[None]:
        """What is wrong with a cell of a chunk is told with the rows that it is among."""
        try:
            yield
        except TableError as error:
            if len(self.paths) == 1 and not chunk.number:
                raise
            raise TableError(
                f"{error}; rows are counted from row {chunk.number * CHUNK_ROWS + 1:,} of "
                f"{self.name(chunk.file)}"
            ) from error


def _place(path: TableFile) -> str:
    """Where a file lies, as a path from the root of its machine or its store."""
    return f"/{path.key}" if isinstance(path, StoredObject) else os.path.abspath(path)


@dataclass(frozen=True)
class RowPlaces:
    """Which rows train, which validate, which test: by a hash, so once and for all.

    `validation_fraction`, `test_fraction`: expected shares: the test rows' of all rows, the
        validation rows' of the others.
    `group`: column whose equal cells stay together; the hash is the group's then.
    """

    table: FilesTable
    seed: int
    validation_fraction: float
    test_fraction: float
    group: str | None = None

    def masks(self, chunk: Chunk) -> dict[Place, NDArray[np.bool_]]:
        """The rows of each part."""
        test = np.zeros(chunk.frame.height, dtype=bool)
        if self.test_fraction > 0:
            test = split_by_hash(self.hashes(chunk, "test"), self.test_fraction)
        validation = split_by_hash(self.hashes(chunk, "validation"), self.validation_fraction)
        return {"train": ~test & ~validation, "validation": ~test & validation, "test": test}

    def hashes(self, chunk: Chunk, purpose: str) -> NDArray[np.uint64]:
        """One hash per row, of the group where there is one; purposes have nothing in common."""
        if self.group is None:
            return self.row_hashes(chunk, purpose)
        cells = chunk.frame[self.group].alias("").cast(pl.String).fill_null("")
        names = cells.unique(maintain_order=True)
        values = [
            int(stable_row_hash(self.seed, f"{purpose}\0{name}", [0])[0])
            for name in names.to_list()
        ]
        places = cells.replace_strict(
            names, pl.Series(range(names.len()), dtype=pl.Int64), return_dtype=pl.Int64
        )
        hashes: NDArray[np.uint64] = np.array(values, dtype=np.uint64)[places.to_numpy()]
        return hashes

    def aside(self, chunk: Chunk) -> NDArray[np.bool_]:
        """A quarter of all rows; of the validation rows, those that may choose nothing."""
        return split_by_hash(self.hashes(chunk, "aside"), _SHARE_ASIDE)

    def row_hashes(self, chunk: Chunk, purpose: str) -> NDArray[np.uint64]:
        """One hash per row, whatever the group."""
        name = f"{purpose}\0{self.table.name(chunk.file)}"
        return stable_row_hash(self.seed, name, chunk.row_numbers)
