"""CSV text as records and fields: where a record ends, and what the first ones hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tabwright.errors import TableError
from tabwright.tables.csv.text import text_blocks
from tabwright.tables.paths import TableFile

_SNIFFED_RECORDS: Final = 50
_SNIFFED_BYTES: Final = 2**18
# A record that is longer has a quote that is never closed.
_LONGEST_RECORD: Final = 64 * 2**20
_LONE_RETURN: Final = re.compile(rb"\r(?![\r\n]|\Z)")


def whole_records(
    path: TableFile, encoding: str | None, *, quotes: bool, chunk_bytes: int
) -> Iterator[bytes]:
    """Blocks of the file cut where records end."""
    rest = b""
    first_line = 1
    for block in text_blocks(path, encoding, chunk_bytes=chunk_bytes):
        rest += block
        end = _last_record_end(rest, quotes=quotes)
        if end:
            yield rest[:end]
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
        elif len(rest) > max(_LONGEST_RECORD, chunk_bytes):
            raise _unclosed(path, rest, first_line)
    if quotes and rest.count(b'"') % 2:
        raise _unclosed(path, rest, first_line)
    if rest.strip(b"\r\n"):
        yield rest


def _last_record_end(data: bytes, *, quotes: bool) -> int:
    """Where the last whole record ends; 0 where none does."""
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
    """The error for a quote that is never closed, with the line where it opens."""
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


def first_records(data: bytes, *, quotes: bool) -> Iterator[bytes]:
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


def reveals_layout(head: bytes, *, quotes: bool) -> bool:
    """Whether there are as many records as are looked at, or fewer but long ones."""
    n_records = sum(1 for _ in first_records(head, quotes=quotes))
    return n_records == _SNIFFED_RECORDS or (n_records > 2 and len(head) >= _SNIFFED_BYTES)


def refuse_lone_return(path: TableFile, data: bytes, first_line: int, *, quotes: bool) -> None:
    """Refuse records in which a return outside quotes ends no line: it would be part of a cell."""
    if data.count(b"\r") == data.count(b"\r\n"):
        return
    n_quotes = position = 0
    for found in _LONE_RETURN.finditer(data):
        n_quotes += data.count(b'"', position, found.start())
        position = found.start()
        if not quotes or n_quotes % 2 == 0:
            line = first_line + data.count(b"\n", 0, position)
            raise TableError(
                f"{path}, line {line}: all lines must end alike; got a return within the line, "
                "where others end with a newline; save the file with one kind of line end"
            )


def fields(record: bytes, delimiter: str, *, quotes: bool) -> list[str]:
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
