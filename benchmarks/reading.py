"""How every CSV file of a folder is read, beside pandas and polars: rows, columns, types, cells.

    python -m benchmarks.reading FOLDER [FOLDER ...] [--output FILE]

Tables in other formats are written as CSV first, so that any folder of tables is a test. A line of
the result is one difference: in the number of rows, in the names of the columns, in whether a
column is numbers, dates, booleans or text, and in how many of its cells are missing. What a
library refuses is a line too. Nothing is wrong by itself: pandas takes None for a missing cell of a
text column, and polars takes no marker for one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import polars as pl

from tabwright import TableError
from tabwright.tables import read_table

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".arrow", ".jsonl")


class Found(NamedTuple):
    """What a reader made of a file: the kind and the missing cells of every column."""

    n_rows: int
    columns: dict[str, tuple[str, int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON lines, one a difference")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines: list[dict[str, str]] = []
    n_files = 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in _csv_files(arguments.folders, Path(scratch)):
            n_files += 1
            lines += compare(path)
    for line in lines:
        print(f"{line['file']}: {line['reader']}: {line['kind']}: {line['what']}")
    if arguments.output is not None:
        arguments.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = Counter((line["reader"], line["kind"]) for line in lines)
    print(f"{n_files} files, {len(lines)} differences")
    for (reader, kind), n in sorted(counts.items()):
        print(f"  beside {reader}, {kind}: {n}")
    return 0


def _csv_files(folders: list[Path], scratch: Path) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if not path.name.lower().endswith(_TABLES):
                continue
            if path.name.lower().endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
                yield path
                continue
            written = scratch / f"{path.stem}.csv"
            read_table(path).write_csv(written)
            yield written


def compare(path: Path) -> list[dict[str, str]]:
    """The differences between how this package and the others read a file."""
    own = _read(path, lambda: _of_polars(read_table(path)))
    tabs = path.name.lower().endswith((".tsv", ".tsv.gz"))
    others: dict[str, Callable[[], Found]] = {
        "pandas": lambda: _of_pandas(pd.read_csv(path, sep="\t" if tabs else ",")),
        "polars": lambda: _of_polars(
            pl.read_csv(path, separator="\t" if tabs else ",", infer_schema_length=None)
        ),
    }
    lines = []
    for reader, read in others.items():
        theirs = _read(path, read)
        for kind, what in _differences(own, theirs):
            lines.append({"file": path.name, "reader": reader, "kind": kind, "what": what})
    return lines


def _read(path: Path, read: Callable[[], Found]) -> Found | str:
    """What a reader found, or its refusal."""
    try:
        return read()
    except (TableError, pd.errors.ParserError, pl.exceptions.PolarsError, ValueError) as error:
        return str(error).splitlines()[0].replace(str(path), path.name)[:200]


def _differences(own: Found | str, theirs: Found | str) -> Iterator[tuple[str, str]]:
    if isinstance(own, str) or isinstance(theirs, str):
        if isinstance(own, str) != isinstance(theirs, str):
            refusal = f"we refuse: {own}" if isinstance(own, str) else f"it refuses: {theirs}"
            yield "refusal", refusal
        return
    if own.n_rows != theirs.n_rows:
        yield "rows", f"{own.n_rows:,} here, {theirs.n_rows:,} there"
    if list(own.columns) != list(theirs.columns):
        ours, others = set(own.columns), set(theirs.columns)
        yield "columns", f"here alone {sorted(ours - others)}, there alone {sorted(others - ours)}"
    for name, (kind, n_missing) in own.columns.items():
        if name not in theirs.columns:
            continue
        other, n_other = theirs.columns[name]
        if kind != other:
            yield "type", f"{name!r} is {kind} here and {other} there"
        if n_missing != n_other:
            yield "missing cells", f"{name!r} has {n_missing:,} here and {n_other:,} there"


def _of_polars(frame: pl.DataFrame) -> Found:
    def kind(dtype: pl.DataType) -> str:
        if dtype.is_numeric():
            return "numbers"
        return "dates" if dtype.is_temporal() else "booleans" if dtype == pl.Boolean else "text"

    return Found(
        frame.height,
        {s.name: (kind(s.dtype), _n_missing(s)) for s in frame.get_columns()},
    )


def _n_missing(series: pl.Series) -> int:
    return series.null_count() + (int(series.is_nan().sum()) if series.dtype.is_float() else 0)


def _of_pandas(frame: pd.DataFrame) -> Found:
    columns = {}
    for position, name in enumerate(frame.columns):
        series = frame.iloc[:, position]
        kind = {"i": "numbers", "u": "numbers", "f": "numbers", "b": "booleans", "M": "dates"}.get(
            series.dtype.kind, "text"
        )
        columns[str(name)] = (kind, int(series.isna().sum()))
    return Found(len(frame), columns)


if __name__ == "__main__":
    sys.exit(main())
