"""CSV files as frames of text: `CsvFormat`, and records in which every fault is found.

Every record is checked: its number of fields, its quotes, its encoding; a fault names its line.
What the text of a cell means is decided in `cells.py`.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cell_format import CellFormat
from tabwright.tables.csv.bars import (
    Plain,
    are_doubled,
    has_rule,
    single_bars,
    without_outline,
    without_padding,
)
from tabwright.tables.csv.first_lines import refuse_data, refuse_units, sniffed
from tabwright.tables.csv.records import (
    fields,
    first_records,
    refuse_lone_return,
    reveals_layout,
    whole_records,
)
from tabwright.tables.paths import TableFile

_NEWLINE, _RETURN, _QUOTE, _SPACE = b'\n\r" '


@dataclass(frozen=True)
class CsvFormat:
    """How a CSV file is written, where it cannot tell by itself.

    Parameters
    ----------
    has_header : bool or None, default=None
        Whether the first line names the columns. None: it must, and a first line that looks like
        data is refused; True: it does, whatever it looks like; False: it is data.
    column_names : tuple of str, optional
        Names of the columns, in place of those in the file.
    delimiter : str, optional
        One character; by default tab for .tsv and .tab that have one, else whichever of comma,
        semicolon, tab and bar splits the first lines alike. Two bars between fields, and the bars
        and the line of dashes of Markdown, are found out too.
    encoding : str, optional
        A byte order mark at the start of the file goes before it. By default UTF-8, or UTF-16
        where every other byte is NUL; a file that is neither is read as cp1252, with a warning,
        where every byte is a character of it.
    decimal : {".", ","}, optional
        What separates the fraction of a number; by default found out in every column, where that
        is certain.
    quotes : bool, default=True
        Whether double quotes enclose cells; False takes them as plain characters.
    missing : tuple of str, optional
        Text that stands for a missing cell, in place of NA, NaN, null and the like; an empty cell
        is missing in any case.
    """

    has_header: bool | None = None
    column_names: tuple[str, ...] | None = None
    delimiter: str | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] | None = None
    quotes: bool = True
    missing: tuple[str, ...] | None = None

    @property
    def cells(self) -> CellFormat:
        """What is said of the cells, for every column."""
        return CellFormat(self.decimal or ".", self.missing)

    def __post_init__(self) -> None:
        if self.delimiter is not None and (
            len(self.delimiter.encode()) != 1 or self.delimiter in '"\r\n'
        ):
            raise ValueError(f"delimiter must be one ASCII character; got {self.delimiter!r}")
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"decimal must be '.' or ','; got {self.decimal!r}")
        if isinstance(self.missing, str):
            raise ValueError(
                f"missing must be a sequence of texts; got {self.missing!r}; write "
                f"[{self.missing!r}]"
            )
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(
                f"encoding must be one that Python knows, e.g. 'utf-8' or 'cp1252'; "
                f"got {self.encoding!r}"
            ) from None


def csv_frames(
    path: TableFile, layout: CsvFormat, *, chunk_bytes: int, finds_types: bool = False
) -> Iterator[pl.DataFrame]:
    """Read a CSV file as frames of text, some records at a time.

    `path`: may be compressed.
    `chunk_bytes`: about as much of the file is in memory at a time.
    `finds_types`: whether the cells will tell the types of the columns, which a line of units would
        spoil. Where a model has types already, it knows what each cell means.
    Yields: string columns, cells as they stand in the file; at least one frame, maybe without rows.
    Raises `TableError`: naming file and line, if the file is empty, not text in its encoding, has a
        broken header, a record with too few or too many fields, or a quote that is never closed.
    """
    parser: _Parser | None = None
    head = b""
    for chunk in whole_records(
        path, layout.encoding, quotes=layout.quotes, chunk_bytes=chunk_bytes
    ):
        if parser is None:
            head += chunk
            if not reveals_layout(head, quotes=layout.quotes):
                continue
            parser, chunk = _Parser.of_first(path, head, layout, finds_types)
        yield parser.frame(chunk)
    if parser is None:
        parser, chunk = _Parser.of_first(path, head, layout, finds_types)
        yield parser.frame(chunk)


class _Parser:
    """Turns whole records into frames; knows the columns and where in the file it is."""

    def __init__(
        self,
        path: TableFile,
        names: list[str],
        delimiter: str,
        *,
        header: bytes | None,
        quotes: bool,
        next_line: int,
        plain: Plain | None = None,
    ) -> None:
        self.path = path
        self.header = header
        self.names = names
        self.delimiter = delimiter
        self.quotes = quotes
        self.next_line = next_line
        self.plain = plain
        # The first blank line where there is one column.
        self.blank_line: int | None = None

    @classmethod
    def of_first(
        cls, path: TableFile, chunk: bytes, layout: CsvFormat, finds_types: bool
    ) -> tuple[_Parser, bytes]:
        """A parser that fits the first chunk of a file, and the chunk without its header."""
        line = 1
        while chunk.startswith(codecs.BOM_UTF8):
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
        skipped = len(chunk) - len(chunk.lstrip(b"\r\n"))
        line += chunk.count(b"\n", 0, skipped)
        chunk = chunk[skipped:]
        delimiter = layout.delimiter
        declared = chunk.partition(b"\n")[0].strip(b"\r\n").strip(b'"')
        if declared[:4].lower() == b"sep=" and len(declared) == 5:
            # A line by which spreadsheets tell each other the delimiter.
            delimiter = delimiter or declared[4:].decode()
            chunk = chunk.partition(b"\n")[2]
            line += 1
        records = list(first_records(chunk, quotes=layout.quotes))
        if not any(record.strip() for record in records):
            raise TableError(f"{path} is empty; a table needs a line of column names and rows")
        refuse_lone_return(path, records[0], line, quotes=layout.quotes)
        header_bytes = len(records[0])
        plain: Plain | None = None
        if layout.has_header is not False and delimiter in (None, "|") and has_rule(records):
            delimiter = "|"
            plain = without_outline if records[0].lstrip()[:1] == b"|" else without_padding
            chunk = records[0] + chunk[len(records[0]) + len(records.pop(1)) :]
            line += 1
        if delimiter is None:
            delimiter = sniffed(path, records, quotes=layout.quotes)
        if delimiter == "|" and plain is None:
            split = [fields(record, delimiter, quotes=layout.quotes) for record in records]
            plain = single_bars if are_doubled(split) else None
        if plain is not None:
            # The chunk itself is changed where its records are checked.
            records = [plain(record) for record in records]
        first = fields(records[0], delimiter, quotes=layout.quotes)
        header: bytes | None = None
        names = list(layout.column_names) if layout.column_names is not None else None
        if layout.has_header is not False:
            rows = [fields(record, delimiter, quotes=layout.quotes) for record in records[1:]]
            if layout.has_header is None:
                # The first line again, of several columns, is the beginning of another file.
                below = [row for row in rows if len(row) == 1 or row != first]
                refuse_data(path, first, below)
            line += records[0].count(b"\n")
            chunk = chunk[header_bytes:]
            # One column may well hold a cell that is its name.
            header = records[0].strip(b"\r\n") if len(first) > 1 else None
            if finds_types:
                refuse_units(path, line, rows, layout.missing or ())
            found = [name.strip() or f"unnamed_{i}" for i, name in enumerate(first, 1)]
        else:
            found = [f"column_{i}" for i in range(1, len(first) + 1)]
        if names is not None and len(names) != len(found):
            raise TableError(
                f"{path} has {len(found)} columns; got {len(names)} column_names; give one each"
            )
        names = names or found
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise TableError(
                f"{path}: column names must differ; {name!r} comes {count} times; rename the "
                "copies in the file, or give column_names"
            )
        parser = cls(
            path,
            names,
            delimiter,
            header=header,
            quotes=layout.quotes,
            next_line=line,
            plain=plain,
        )
        return parser, chunk

    def frame(self, data: bytes) -> pl.DataFrame:
        """Records as a frame of text; blank lines are left out."""
        data = self._checked(data) if data else data
        schema = dict.fromkeys(self.names, pl.String)
        if not data:
            return pl.DataFrame(schema=schema)
        return pl.read_csv(
            data,
            has_header=False,
            schema=schema,
            infer_schema=False,
            separator=self.delimiter,
            quote_char='"' if self.quotes else None,
            empty_string_is_null=False,
        )

    def _checked(self, data: bytes) -> bytes:
        """The same records, less blank lines and spaces around quotes; faults raise."""
        first_line = self.next_line
        self.next_line += data.count(b"\n")
        refuse_lone_return(self.path, data, first_line, quotes=self.quotes)
        data = data if self.plain is None else self.plain(data)
        if not data.endswith(b"\n"):
            data += b"\n"
        width = len(self.names)
        symbols = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero(symbols == _NEWLINE)
        splits = np.flatnonzero(symbols == ord(self.delimiter))
        keep: np.ndarray | None = None
        if self.quotes and b'"' in data:
            quotes = np.flatnonzero(symbols == _QUOTE)
            ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
            splits = splits[np.searchsorted(quotes, splits) % 2 == 0]
            keep = self._quotes_checked(data, symbols, quotes, first_line)
        starts = np.concatenate([[0], ends[:-1] + 1])
        self._refuse_second_file(data, starts, first_line)
        lengths = ends - starts
        blank = (lengths == 0) | ((lengths == 1) & (symbols[starts] == _RETURN))
        found = np.diff(np.searchsorted(splits, ends), prepend=0) + 1
        ragged = (found != width) & ~blank
        if ragged.any():
            record = int(ragged.argmax())
            line = first_line + data.count(b"\n", 0, int(starts[record]))
            fields = int(found[record])
            if width == 1:
                advice = "if the first line is a title, delete what stands above the columns' names"
            elif fields == 1:
                advice = "if it stands below the table, as a total or a remark does, delete it"
            else:
                advice = f"quote cells that hold {self.delimiter!r}, or repair the line"
            raise TableError(
                f"{self.path}, line {line}: every line must have as many fields as there are "
                f"columns ({width}); got {fields}; {advice}"
            )
        if width == 1:
            self._refuse_blank_cell(data, starts, blank, first_line)
        if blank.any():
            keep = np.ones(len(data), dtype=bool) if keep is None else keep
            for offset in (0, 1):
                keep[np.minimum(starts[blank] + offset, ends[blank])] = False
        return data if keep is None else symbols[keep].tobytes()

    def _refuse_blank_cell(
        self, data: bytes, starts: np.ndarray, blank: np.ndarray, first_line: int
    ) -> None:
        """Refuse a blank line above a record of one column: it may be an empty cell."""
        if self.blank_line is None and blank.any():
            record = int(blank.argmax())
            self.blank_line = first_line + data.count(b"\n", 0, int(starts[record]))
            blank = blank[record:]
        if self.blank_line is not None and not blank.all():
            raise TableError(
                f"{self.path}, line {self.blank_line}: a table of one column must have no blank "
                "lines between its rows; got one, which may be an empty cell; write the cell as "
                'two quotes ("") if it is missing, or delete the line'
            )

    def _refuse_second_file(self, data: bytes, starts: np.ndarray, first_line: int) -> None:
        """Refuse a record that is how a file begins: files were put together."""
        kinds = ((codecs.BOM_UTF8, "has a byte order mark"), (self.header, "repeats the names"))
        for beginning, fault in kinds:
            position = -1 if beginning is None else data.find(beginning)
            while beginning is not None and position >= 0:
                behind = position + len(beginning)
                is_whole = beginning != self.header or data[behind : behind + 1] in (b"\n", b"\r")
                if is_whole and starts[np.searchsorted(starts, position) % len(starts)] == position:
                    line = first_line + data.count(b"\n", 0, position)
                    raise TableError(
                        f"{self.path}, line {line}: a file must begin once; this line {fault}, as "
                        "where files were put together; give the files as a folder or a pattern, "
                        "or delete the mark and the repeated names"
                    )
                position = data.find(beginning, behind)

    def _quotes_checked(
        self, data: bytes, symbols: np.ndarray, quotes: np.ndarray, first_line: int
    ) -> np.ndarray | None:
        """Refuse quotes within unquoted cells; say which spaces around quotes to leave out."""
        opening, closing = quotes[0::2], quotes[1::2]
        doubled = opening[1:] == closing[:-1] + 1
        opening = opening[np.concatenate([[True], ~doubled])]
        closing = closing[np.concatenate([~doubled, [True]])]
        edges = np.array([ord(self.delimiter), _NEWLINE, _RETURN], dtype=np.uint8)
        keep = np.ones(len(data), dtype=bool)
        for places, step in ((opening, -1), (closing, 1)):
            beside = places + step
            while True:
                inside = (beside >= 0) & (beside < len(symbols))
                beside = beside[inside]
                spaces = symbols[beside] == _SPACE
                stray = ~spaces & ~np.isin(symbols[beside], edges)
                if stray.any():
                    line = first_line + data.count(b"\n", 0, int(beside[stray][0]))
                    raise TableError(
                        f"{self.path}, line {line}: a quote must enclose a whole cell; got one "
                        "within a cell; enclose the cell in quotes and double the quote ('\"\"'), "
                        "or read the file with quotes=False"
                    )
                if not spaces.any():
                    break
                keep[beside[spaces]] = False
                beside = beside[spaces] + step
        return None if keep.all() else keep
