"""First lines of CSV files: names or data, delimiters, ends of lines; what is unsure is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
    "a label that comes again": ("good,1\nbad,0\nfine,1\n", AS_DATA),
    "one column of labels": ("0\n1\n0\n1\n", AS_DATA),
    "a column of years": ("bob,1999\namy,2003\njoe,1984\n", AS_DATA),
    "binary numbers": ("0,1\n1,0\n0,0\n1,1\n", AS_DATA),
    "numbers that fall in every row": (
        "5.1,3.5,1.4,0.2,a\n4.9,3.0,1.4,0.2,a\n6.3,2.5,1.9,0.4,b\n",
        AS_DATA,
    ),
    "sizes above words": (
        "150,4,setosa,virginica\n5.1,3.5,1.4,0\n4.9,3.0,1.4,1\n",
        AS_DATA,
    ),
    "missing and words": ("NA,bob\n7,amy\n8,joe\n", AS_DATA),
    "words in a column of one value": ("a,b,u\na,b,v\nd,b,w\n", AS_DATA),
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
    "places above small numbers": ("u,1,2,3\na,1,0,3\nb,2,2,1\n", "t.csv", list("u123"), 2),
    "places above digits": ("0,1,2,3\n0,5,2,3\n1,1,9,0\n", "t.csv", ["0", "1", "2", "3"], 2),
    "places above words": ("0,1\na,1\nb,0\na,1\n", "t.csv", ["0", "1"], 3),
    "a series of pandas": (",0\n0,5\n1,0\n2,7\n", "t.csv", ["unnamed_1", "0"], 3),
    "numbers of sensors": ("at,1003,1007\n2020-01-01,5,6\n", "t.csv", ["at", "1003", "1007"], 1),
    "numbers far from those below": (
        "k,10001,10030\na,1,2\nb,2,2\nc,3,1\nd,0,2\n",
        "t.csv",
        ["k", "10001", "10030"],
        4,
    ),
    "wavelengths": (
        "s,400.5,401.0,401.5,402.0\na,.1,.3,.2,.4\n",
        "t.csv",
        ["s", "400.5", "401.0", "401.5", "402.0"],
        1,
    ),
    "wavenumbers": (
        "y,4000.1,3998.2,3996.3,3994.4\n1,.4,.3,.2,.1\n",
        "t.csv",
        ["y", "4000.1", "3998.2", "3996.3", "3994.4"],
        1,
    ),
    "levels of quantiles": (
        "day,0.1,0.5,0.9\n1,2.5,3.5,4.5\n",
        "t.csv",
        ["day", "0.1", "0.5", "0.9"],
        1,
    ),
    "years as fractions": ("k,1990.0,1991.0\na,1,2\n", "t.csv", ["k", "1990.0", "1991.0"], 1),
    "days before and after": ("k,-2,-1,0,1\na,5,7,2,9\n", "t.csv", ["k", "-2", "-1", "0", "1"], 1),
    "sodium": ("NA,MG,AL\n1.5,2.5,3.5\n", "t.csv", ["NA", "MG", "AL"], 1),
    "nan beside words": ("n,mean,nan\n1,2,0\n", "t.csv", ["n", "mean", "nan"], 1),
    "what was chosen": (
        "who,Python,R\nbob,Python,\namy,,R\njoe,Python,R\n",
        "t.csv",
        ["who", "Python", "R"],
        3,
    ),
    "levels beside numbers": (
        "kind,sort,n\nkind,a,1\nb,sort,2\n",
        "t.csv",
        ["kind", "sort", "n"],
        2,
    ),
    "times of day": ("hh:mm\n12:30\n9:05 PM\n", "t.csv", ["hh:mm"], 2),
    "moments": ("at (hh:mm:ss)\n2020-01-01 12:00:00\n", "t.csv", ["at (hh:mm:ss)"], 1),
    "grouped thousands": ("net sales\n1 282\n23 411\n", "t.csv", ["net sales"], 2),
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


def test_addresses_without_a_name_are_one_column(tmp_path: Path) -> None:
    frame = _read(tmp_path / "t.csv", "http://a.b/c\nhttps://d.e/f\n", has_header=False)
    assert frame["column_1"].to_list() == ["http://a.b/c", "https://d.e/f"]


def test_numbers_are_names_of_the_tables_that_libraries_write(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for n_columns in (3, 64, 2_000):
        table = pd.DataFrame(generator.integers(0, 17, (60, n_columns)))
        for index in (True, False):
            text = table.to_csv(index=index)
            names = [*(["unnamed_1"] if index else []), *map(str, range(n_columns))]
            assert _read(tmp_path / "t.csv", text).columns == names
