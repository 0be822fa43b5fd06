"""JSON lines as frames; every broken line is named."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl

from tabwright.errors import TableError
from tabwright.tables.csv.text import text_blocks
from tabwright.tables.formats.checks import damaged, selected
from tabwright.tables.paths import TableFile


def json_frames(
    path: TableFile,
    columns: Sequence[str] | None,
    encoding: str | None,
    chunk_bytes: int,
    is_ignored: Callable[[str], bool] | None = None,
) -> Iterator[pl.DataFrame]:
    """Lines as frames of about `chunk_bytes` of text each; `is_ignored`: as in `selected`."""
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
                yield _json_frame(path, rest[:end], first_line, columns, is_ignored)
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
    if rest.strip():
        if not n_frames:
            _refuse_repeated_keys(path, rest, first_line)
        n_frames += 1
        yield _json_frame(path, rest, first_line, columns, is_ignored)
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


def _refuse_truth_among_numbers(
    path: TableFile, rows: Sequence[dict[str, Any]], first_line: int
) -> None:
    """Refuse a column with true or false beside other values."""
    kinds: dict[str, type] = {}
    for line, row in enumerate(rows, first_line):
        for name, cell in row.items():
            known = kinds.setdefault(name, type(cell)) if cell is not None else None
            if known is not None and (known is bool) != isinstance(cell, bool):
                raise TableError(
                    f"{path}, line {line}: a column must hold true and false alone, or no such; "
                    f"got {cell!r} in {name!r}, unlike the rows before; write 0 and 1 throughout"
                ) from None


def _json_frame(
    path: TableFile,
    data: bytes,
    first_line: int,
    columns: Sequence[str] | None,
    is_ignored: Callable[[str], bool] | None,
) -> pl.DataFrame:
    """A frame of lines of JSON; a broken line is named."""
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        rows: list[dict[str, Any]] = []
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
            rows.append(row)
        _refuse_truth_among_numbers(path, rows, first_line)
        raise damaged(path, "jsonl", error) from error
    if columns is None:
        return selected(path, frame, None, is_ignored)
    # A row may leave out a key; whether the file has it is known at its end.
    return selected(path, frame, [name for name in columns if name in frame.columns], is_ignored)
