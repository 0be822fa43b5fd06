"""Tables written in pieces: what comes back is what went in, or the old file stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.tables import (
    check_table_path,
    escape_formulas,
    read_table,
    write_batches,
    write_table,
)

EXTENSIONS = (
    *(".csv", ".tsv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson"),
    *(".parquet", ".pq", ".arrow", ".feather"),
)


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"x{i}" for i in range(10)],
            "value": [None if i == 3 else i / 3 for i in range(10)],
            "day": [date(2024, 1, 1 + i) for i in range(10)],
            "text": ['a "quoted" one', "two\nlines", "a,b\tc", "é", *"defghi"],
        }
    )


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_pieces_come_back_as_one_table(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{extension}"
    pieces = [frame()[:4], frame()[4:9], frame()[9:]]
    assert write_batches(iter(pieces), path) == 10
    whole = read_table(path)
    if "json" in extension:
        whole = whole.with_columns(pl.col("day").str.to_date())
    assert whole.equals(frame())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", [".csv", ".csv.gz", ".jsonl.gz", ".parquet", ".arrow"])
def test_whole_and_in_pieces_are_the_same_bytes_of_text(extension: str, tmp_path: Path) -> None:
    one, other = tmp_path / f"one{extension}", tmp_path / f"other{extension}"
    write_table(frame(), one)
    write_batches([frame()[:5], frame()[5:]], other)
    if extension in (".parquet", ".arrow"):
        assert read_table(one).equals(read_table(other))
    else:
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet", ".arrow"])
def test_a_fault_on_the_way_leaves_the_old_file(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"table{extension}"
    path.write_bytes(b"old")
    path.chmod(0o600)

    def broken() -> Iterator[pl.DataFrame]:
        yield frame()
        raise TableError("row 11 is bad")

    with pytest.raises(TableError, match="row 11 is bad"):
        write_batches(broken(), path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    write_batches([frame()], path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_formulas_are_escaped_on_request_only(tmp_path: Path) -> None:
    cells = pl.DataFrame({"=name": ["=1+1", "@x", "-3", "plain", None], "n": [-1, 2, 3, 4, 5]})
    path = tmp_path / "table.csv"
    write_batches([cells[:2], cells[2:]], path, protect_formulas=True)
    assert path.read_text().splitlines() == [
        *("'=name,n", "'=1+1,-1", "'@x,2", "'-3,3", "plain,4", ",5")
    ]
    write_batches([cells], path)
    assert "=1+1,-1" in path.read_text().splitlines()
    assert escape_formulas(cells)["n"].equals(cells["n"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", "not written as Excel"),
        ("out.txt", r"got '.txt'; rename the file"),
        ("out", "got 'none'"),
        ("out.parquet.gz", r"got '.parquet.gz'"),
    ],
)
def test_other_extensions_are_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=message):
        check_table_path(tmp_path / name)
    with pytest.raises(TableError, match=message):
        write_table(frame(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_no_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="at least one batch; got none"):
        write_batches([], tmp_path / "out.csv")


@pytest.mark.slow
@pytest.mark.parametrize("extension", [".csv", ".parquet"])
def test_memory_does_not_grow_with_the_table(extension: str, tmp_path: Path) -> None:
    script = """
import resource, sys
import numpy as np, polars as pl
from tabwright.tables import write_batches

def pieces(n):
    for i in range(n):
        yield pl.DataFrame({"a": np.random.default_rng(i).random(20_000), "b": i})

write_batches(pieces(3), sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_batches(pieces(60), sys.argv[1])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / f"t{extension}")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    # 1.2 million rows would be 18 MiB in memory, and twice that as text.
    assert int(done.stdout) < 12
