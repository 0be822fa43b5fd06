"""How every CSV file of a folder is read, beside pandas and polars: rows, columns, types, cells.

    python -m benchmarks.reading FOLDER [FOLDER ...] [--output FILE]
    python -m benchmarks.reading --speed [--repeats 7]

Tables in other formats are written as CSV first, so that any folder of tables is a test. A line of
the result is one difference: in the number of rows, in the names of the columns, in whether a
column is numbers, dates, booleans or text, and in how many of its cells are missing. What a
library refuses is a line too. Nothing is wrong by itself: pandas takes None for a missing cell of a
text column, and polars takes no marker for one.

With `--speed` it is told how long reading takes, in units of what `polars.read_csv` takes for the
same file: of many columns, and of many rows, of numbers and of words.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import polars as pl

from tabwright import TableError
from tabwright.tables import profile_table, read_table, table_dtypes

# Rows, columns, whether they are words. The first is the wide file of a fault report.
_SHAPES = {
    "many columns of numbers": (80, 3_000, False),
    "many columns of words": (80, 3_000, True),
    "many rows of numbers": (200_000, 20, False),
    "many rows of words": (200_000, 20, True),
}
_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".arrow", ".jsonl")


class Found(NamedTuple):
    """What a reader made of a file: the kind and the missing cells of every column."""

    n_rows: int
    columns: dict[str, tuple[str, int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--speed", action="store_true", help="time files that are made up")
    parser.add_argument("--repeats", type=int, default=7, help="runs of which the median is told")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON lines, one a difference")
    arguments = parser.parse_args()
    if arguments.speed == bool(arguments.folders):
        parser.error("give either folders or --speed")
    warnings.simplefilter("ignore")
    if arguments.speed:
        print_speed(arguments.repeats)
        return 0
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


def print_speed(repeats: int) -> None:
    """Time each reader on each file: medians, spreads, and ratios to polars."""
    print(f"polars {pl.__version__}, {pl.thread_pool_size()} threads, {platform.processor()}")
    readers: dict[str, Callable[[Path], object]] = {
        "polars.read_csv": pl.read_csv,
        "read_table": read_table,
        "table_dtypes": table_dtypes,
        "read_table, profile_table": lambda path: profile_table(read_table(path)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name, (n_rows, n_columns, of_words) in _SHAPES.items():
            path = Path(scratch) / "t.csv"
            _made_up(n_rows, n_columns, of_words=of_words).write_csv(path)
            print(f"{name}: {n_rows:,} rows x {n_columns:,} columns")
            seconds: dict[str, list[float]] = {reader: [] for reader in readers}
            for repeat in range(repeats + 1):
                for reader, read in readers.items():
                    start = time.perf_counter()
                    read(path)
                    if repeat:  # the first warms up
                        seconds[reader].append(time.perf_counter() - start)
            base = statistics.median(seconds["polars.read_csv"])
            for reader, own in seconds.items():
                median = statistics.median(own)
                print(
                    f"  {reader:26} {1000 * median:8.1f} ms ({1000 * min(own):.1f} to "
                    f"{1000 * max(own):.1f}), {median / base:.1f} times polars"
                )


def _made_up(n_rows: int, n_columns: int, *, of_words: bool) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    words = np.array(["red", "green", "light blue", *(f"w{k}" for k in range(200))])
    return pl.DataFrame(
        {
            f"c{k}": words[rng.integers(0, len(words), n_rows)]
            if of_words
            else rng.normal(size=n_rows).round(3)
            for k in range(n_columns)
        }
    )


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
