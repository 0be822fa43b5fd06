"""CSV as bytes: encoding, delimiter, header, and whole records as frames of text.

Every record is checked: its number of fields, its quotes, its encoding; a fault names its line.
What the text of a cell means is decided in `cells.py`.
"""

from __future__ import annotations

import codecs
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.tables.cell_format import CellFormat
from tabwright.tables.cells import MISSING_MARKERS, plain_numbers
from tabwright.tables.dtypes import mean_missing
from tabwright.tables.paths import DAMAGED, TableFile, opened, unpacked_name

_DELIMITERS: Final = (",", ";", "\t", "|")
_SNIFFED_RECORDS: Final = 50
_SNIFFED_BYTES: Final = 2**18
# So many records at least tell a line of units from a row.
_FEWEST_ROWS: Final = 4
# Least share of UTF-16's upper bytes that are NUL: of a table's letters, digits and delimiters.
_UPPER_NULS: Final = 0.7
_LONGEST_RECORD: Final = 64 * 2**20
_NEWLINE, _RETURN, _QUOTE, _SPACE = b'\n\r" '
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


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
        One character; by default tab for .tsv and .tab, else whichever of comma, semicolon, tab
        and bar splits the first lines alike.
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
    for chunk in _whole_records(path, layout, chunk_bytes):
        if parser is None:
            head += chunk
            if not _tells_layout(head, quotes=layout.quotes):
                continue
            parser, chunk = _Parser.of_first(path, head, layout, finds_types)
        yield parser.frame(chunk)
    if parser is None:
        parser, chunk = _Parser.of_first(path, head, layout, finds_types)
        yield parser.frame(chunk)


# ---------------------------------------------------------------------------------------------
# Bytes to text
# ---------------------------------------------------------------------------------------------


def text_blocks(path: TableFile, encoding: str | None, *, chunk_bytes: int) -> Iterator[bytes]:
    """The content of a text file as UTF-8, without byte order mark, checked.

    Raises `TableError`: naming file and line, at bytes that are no text, and at NUL bytes.
    """
    n_lines = 0
    try:
        for block in _decoded(path, encoding, chunk_bytes):
            position = block.find(b"\0")
            if position >= 0:
                line = n_lines + block.count(b"\n", 0, position) + 1
                raise TableError(
                    f"{path}, line {line}: text must not hold NUL bytes; if the file is in an "
                    "encoding of several bytes a letter, name it, e.g. encoding='utf-16-le', else "
                    "it is damaged or no text file"
                )
            yield block
            n_lines += block.count(b"\n")
    except UnicodeDecodeError as error:
        line = n_lines + error.object[: error.start].count(b"\n") + 1
        found = error.object[error.start : error.start + 1].hex()
        likely = "cp1252" if _decodes(error.object, "cp1252") else "shift_jis"
        raise TableError(
            f"{path}, line {line}: the text must be {error.encoding}; got the byte 0x{found}; "
            f"name the encoding it was written in, e.g. encoding='{likely}'"
        ) from None
    except UnicodeError as error:
        raise TableError(
            f"{path}: the text must be {encoding}; it is not ({error}); name the encoding it was "
            "written in"
        ) from None
    except DAMAGED as error:
        raise TableError(
            f"{path}: compressed data must be whole; it is damaged or cut short ({error}); "
            "copy the file again"
        ) from error


def _decoded(path: TableFile, encoding: str | None, chunk_bytes: int) -> Iterator[bytes]:
    with opened(path) as stream:
        start = stream.read(4)
        for mark, marked in _BOMS:
            if start.startswith(mark):
                encoding, start = marked, start[len(mark) :]
                break
        block = start + stream.read(max(chunk_bytes - len(start), 0))
        encoding = encoding or _unmarked_utf16(block)
        certain, encoding = encoding is not None, encoding or "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        utf8 = codecs.lookup(encoding).name == "utf-8"
        old_returns: bool | None = None
        while block:
            following = stream.read(chunk_bytes)
            if utf8 and not certain and not block.isascii():
                # The first text beyond ASCII tells what the file is.
                certain = True
                if _is_cp1252(block, final=not following):
                    decoder, utf8 = codecs.getincrementaldecoder("cp1252")(), False
                    warnings.warn(
                        f"{path} is not UTF-8, and is read as cp1252 (Western European); if its "
                        "letters come out wrong, name the encoding it was written in, e.g. "
                        "encoding='cp1250'",
                        UserWarning,
                        stacklevel=2,
                    )
            if not utf8:
                block = decoder.decode(block, final=not following).encode()
            elif not (block.isascii() and not decoder.getstate()[0]):
                decoder.decode(block, final=not following)
            if old_returns is None:
                # Records that end in returns alone, whatever ends the last of them.
                has_newline = b"\n" in block.rstrip(b"\r\n")
                old_returns = not has_newline and b"\r" in block.replace(b"\r\n", b"")
            if old_returns:
                block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            yield block
            block = following


def _unmarked_utf16(block: bytes) -> str | None:
    """The encoding of text whose every other byte is NUL, or nearly: the upper half of a letter."""
    for encoding, upper, lower in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        n_upper = block[upper::2].count(0)
        if n_upper and n_upper >= _UPPER_NULS * len(block) / 2 and not block[lower::2].count(0):
            return encoding
    return None


def _is_cp1252(block: bytes, *, final: bool) -> bool:
    """Whether text is not UTF-8 and every byte of it is a character of cp1252.

    Where as many characters are UTF-8 as not, the file is that, and damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(block, final=final)
    n_wrong = text.count("\ufffd") - block.count("\ufffd".encode())
    n_right = sum(1 for character in text if character > "\x7f") - n_wrong
    if n_wrong == 0 or n_right >= n_wrong:
        return False
    return _decodes(block, "cp1252")


def _decodes(block: bytes, encoding: str) -> bool:
    try:
        block.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _whole_records(path: TableFile, layout: CsvFormat, chunk_bytes: int) -> Iterator[bytes]:
    """Blocks of the file cut where records end."""
    rest = b""
    first_line = 1
    for block in text_blocks(path, layout.encoding, chunk_bytes=chunk_bytes):
        rest += block
        end = _last_record_end(rest, quotes=layout.quotes)
        if end:
            yield rest[:end]
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
        elif len(rest) > max(_LONGEST_RECORD, chunk_bytes):
            raise _unclosed(path, rest, first_line)
    if layout.quotes and rest.count(b'"') % 2:
        raise _unclosed(path, rest, first_line)
    if rest.strip(b"\r\n"):
        yield rest


def _last_record_end(data: bytes, *, quotes: bool) -> int:
    if not quotes or b'"' not in data:
        return data.rfind(b"\n") + 1
    # Only newlines behind an even number of quotes end a record; look from the back.
    n_quotes = data.count(b'"')
    stop = len(data)
    while True:
        quote = data.rfind(b'"', 0, stop)
        if n_quotes % 2 == 0:
            newline = data.rfind(b"\n", quote + 1, stop)
            if newline >= 0:
                return newline + 1
        if quote < 0:
            return 0
        stop, n_quotes = quote, n_quotes - 1


def _unclosed(path: TableFile, data: bytes, first_line: int) -> TableError:
    # The first quote that opens inside a record that never ends is where the trouble starts.
    line = first_line + data.count(b"\n", 0, max(data.find(b'"'), 0))
    for match in _lone_quotes(data):
        line = first_line + data.count(b"\n", 0, match)
        break
    return TableError(
        f"{path}, line {line}: a quote is opened and never closed; close it, double it ('\"\"') "
        "inside a quoted cell, or read the file with quotes=False"
    )


def _lone_quotes(data: bytes) -> Iterator[int]:
    """Where lines with an odd number of quotes have their last one."""
    position = 0
    for line in data.splitlines(keepends=True):
        if line.count(b'"') % 2:
            yield position + line.rfind(b'"')
        position += len(line)


# ---------------------------------------------------------------------------------------------
# Text to records
# ---------------------------------------------------------------------------------------------


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
    ) -> None:
        self.path = path
        self.header = header
        self.names = names
        self.delimiter = delimiter
        self.quotes = quotes
        self.next_line = next_line
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
        declared = chunk.partition(b"\n")[0].strip()
        if declared[:4].lower() == b"sep=" and len(declared) == 5:
            # A line by which spreadsheets tell each other the delimiter.
            delimiter = delimiter or declared[4:].decode()
            chunk = chunk.partition(b"\n")[2]
            line += 1
        records = list(_first_records(chunk, quotes=layout.quotes))
        if not any(record.strip() for record in records):
            raise TableError(f"{path} is empty; a table needs a line of column names and rows")
        if delimiter is None:
            delimiter = _sniffed(path, records, quotes=layout.quotes)
        first = _fields(records[0], delimiter, quotes=layout.quotes)
        header: bytes | None = None
        names = list(layout.column_names) if layout.column_names is not None else None
        if layout.has_header is not False:
            if layout.has_header is None:
                _refuse_data(path, first)
            line += records[0].count(b"\n")
            chunk = chunk[len(records[0]) :]
            # One column may well hold a cell that is its name.
            header = records[0].strip(b"\r\n") if len(first) > 1 else None
            if finds_types:
                rows = [_fields(own, delimiter, quotes=layout.quotes) for own in records[1:]]
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
        parser = cls(path, names, delimiter, header=header, quotes=layout.quotes, next_line=line)
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


def _first_records(data: bytes, *, quotes: bool) -> Iterator[bytes]:
    """The first records of a file, with their line ends; blank lines are left out."""
    record = b""
    n_records = 0
    position = 0
    while position < len(data) and n_records < _SNIFFED_RECORDS:
        end = data.find(b"\n", position) + 1 or len(data)
        record += data[position:end]
        position = end
        if quotes and record.count(b'"') % 2:
            continue
        if record.strip(b"\r\n"):
            n_records += 1
            yield record
        record = b""


def _tells_layout(head: bytes, *, quotes: bool) -> bool:
    """Whether there are as many records as are looked at, or fewer but long ones."""
    n_records = sum(1 for _ in _first_records(head, quotes=quotes))
    return n_records == _SNIFFED_RECORDS or (n_records > 2 and len(head) >= _SNIFFED_BYTES)


def _fields(record: bytes, delimiter: str, *, quotes: bool) -> list[str]:
    """The cells of a record, however long they are, without spaces before them."""
    pieces = record.decode().rstrip("\r\n").split(delimiter)
    if not quotes or b'"' not in record:
        return [piece.lstrip(" ") for piece in pieces]
    fields: list[str] = []
    parts: list[str] = []
    n_quotes = 0
    for piece in pieces:
        parts.append(piece)
        n_quotes += piece.count('"')
        # A delimiter behind an odd number of quotes is a character of the cell.
        if n_quotes % 2 == 0:
            cell = delimiter.join(parts).strip(" ")
            if cell[:1] == cell[-1:] == '"':
                cell = cell[1:-1].replace('""', '"')
            fields.append(cell)
            parts = []
    return [*fields, delimiter.join(parts)] if parts else fields


def _sniffed(path: TableFile, records: list[bytes], *, quotes: bool) -> str:
    if unpacked_name(path).endswith((".tsv", ".tab")):
        return "\t"
    best = ","
    most = 1
    for delimiter in _DELIMITERS:
        widths = {len(_fields(record, delimiter, quotes=quotes)) for record in records}
        # A comma in every line may stand in a cell: what makes more columns splits the file.
        if len(widths) == 1 and max(widths) > most:
            best, most = delimiter, max(widths)
    if most == 1:
        _refuse_columns_of_spaces(path, records)
        # No delimiter splits all lines alike: that of the header, so that the error names a line.
        header = _fields(records[0], ",", quotes=quotes)
        if len(header) == 1:
            widths_of = {d: len(_fields(records[0], d, quotes=quotes)) for d in _DELIMITERS}
            best = max(_DELIMITERS, key=lambda d: widths_of[d])
    return best


def _refuse_columns_of_spaces(path: TableFile, records: list[bytes]) -> None:
    """Refuse lines of numbers that spaces separate, which would be one column of text."""
    rows = [record.decode().split() for record in records]
    if len({len(row) for row in rows}) != 1 or len(rows) < 2 or len(rows[0]) < 2:
        return
    try:
        [float(cell) for row in rows[1:] for cell in row]
    except ValueError:
        return
    raise TableError(
        f"{path}: columns must have a separator of one character; got {len(rows[0])} columns "
        "separated by spaces; write the file with commas, e.g. with "
        "pandas.read_csv(path, sep=r'\\s+').to_csv(...)"
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


def _refuse_data(path: TableFile, first: list[str]) -> None:
    """Refuse a first line that looks like data.

    Column names may be whole numbers that rise or fall all along (years, bins); other numbers,
    and markers of missing cells, are data.
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
        if number.is_integer() and name.isdigit():
            whole.append(int(name))
        else:
            odd.append(name)
    steps = np.sign(np.diff(np.array(whole, dtype=object))) if len(whole) > 1 else np.array([1])
    if not odd and (set(steps.tolist()) in ({1}, {-1})):
        return
    shown = ", ".join(repr(cell.strip()) for cell in first[:5])
    raise TableError(
        f"{path}: the first line must hold column names; got what looks like data ({shown}); read "
        "it with has_header=False and column_names, or has_header=True if these are the names"
    )
