"""First lines of CSV files: names or data, delimiters, ends of lines; what is unsure is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.tables import CsvFormat
from tabwright.tables.csv.reader import csv_frames

AS_DATA = "the first line must hold column names; got what looks like data"
LINE_ENDS = "all lines must end alike; got a return within the line"
BY_SPACES = "columns separated by spaces"


def _read(path: Path, data: str, **layout: Any) -> pl.DataFrame:
    path.write_bytes(data.encode())
    chosen = CsvFormat(**layout)
    return pl.concat(csv_frames(path, chosen, chunk_bytes=1 << 20, finds_types=True))


REFUSED = {
    "a text and a number": ("bob,3\namy,4\njoe,5\n", AS_DATA),
    "two numbers that rise by chance": ("bob,3,17\namy,4,2\n", AS_DATA),
    "three numbers that rise by chance": ("bob,3,17,200\namy,4,2,9\n", AS_DATA),
    "words that come again below": ("bob,red\namy,blue\nbob,blue\ntim,red\n", AS_DATA),
    "returns and newlines": ("x,y\r1,a\n2,b\r3,c\n", f"line 1: {LINE_ENDS}"),
    "a return further down": ("x,y\n1,a\n2,b\n3,c\rd\n", f"line 4: {LINE_ENDS}"),
    "words and numbers between spaces": (
        "name age\nbob 3\namy 4\n",
        rf"got 2 {BY_SPACES}; .* sep=r'\\s\+'\)",
    ),
    "columns of one width": (
        "name      age   city\nbob       3     Rome\namy lou   14    Oslo\n",
        f"got 3 {BY_SPACES}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_unsure_is_refused(case: str, tmp_path: Path) -> None:
    data, message = REFUSED[case]
    with pytest.raises(TableError, match=message):
        _read(tmp_path / "t.csv", data)


READ: dict[str, tuple[str, str, list[str], int]] = {
    "years": ("country,2019,2020\na,1,2\n", "t.csv", ["country", "2019", "2020"], 1),
    "one year": ("country,2020\na,1\n", "t.csv", ["country", "2020"], 1),
    "places from 0": (",0\na,7\n", "t.csv", ["unnamed_1", "0"], 1),
    "places from 1": ("k,1,2,3\na,7,8,9\n", "t.csv", ["k", "1", "2", "3"], 1),
    "a level that is the name": ("sports,n\nsports,1\nnews,2\n", "t.csv", ["sports", "n"], 2),
    "bins": ("k,5,10,20,50\na,7,8,9,9\n", "t.csv", ["k", "5", "10", "20", "50"], 1),
    "inf as a name": ("inf,a\n1,7\n", "t.csv", ["inf", "a"], 1),
    "words alone": ("full name\nbob lee\namy poe\n", "t.csv", ["full name"], 2),
    "words and one number": ("note\nroom 7\nroom b\n", "t.csv", ["note"], 2),
    "a tab that is said": ("sep=\t\nx\ty\n1\ta\n", "t.csv", ["x", "y"], 1),
    "a semicolon in quotes": ('"sep=;"\nx;y\n1;a\n', "t.csv", ["x", "y"], 1),
    "commas in a .tsv": ("x,y\n1,a\n2,b\n", "t.tsv", ["x", "y"], 2),
    "tabs and commas in a .tsv": ("x\ty,z\n1\ta,b\n", "t.tsv", ["x", "y,z"], 1),
    "a return in quotes": ('x,y\n1,"a\rb"\n2,c\n', "t.csv", ["x", "y"], 2),
    "two returns and a newline": ("x,y\r\r\n1,a\r\r\n", "t.csv", ["x", "y"], 1),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_certain_is_read(case: str, tmp_path: Path) -> None:
    data, file, names, n_rows = READ[case]
    frame = _read(tmp_path / file, data)
    assert frame.columns == names
    assert len(frame) == n_rows


def test_one_column_of_words_and_numbers_is_read_where_that_is_said(tmp_path: Path) -> None:
    data, _ = REFUSED["words and numbers between spaces"]
    frame = _read(tmp_path / "t.csv", data, delimiter=",")
    assert frame.to_dict(as_series=False) == {"name age": ["bob 3", "amy 4"]}


@pytest.mark.parametrize(
    "case", [name for name, (_, message) in REFUSED.items() if message == AS_DATA]
)
def test_the_way_out_reads_every_row(case: str, tmp_path: Path) -> None:
    data, _ = REFUSED[case]
    assert len(_read(tmp_path / "t.csv", data, has_header=False)) == data.count("\n")
    assert len(_read(tmp_path / "t.csv", data, has_header=True)) == data.count("\n") - 1
