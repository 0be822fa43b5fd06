"""Two bars between fields, and tables of Markdown: columns and rows are those that people see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.tables import CsvFormat, read_table
from tabwright.tables.csv.reader import csv_frames

WANTED = pl.DataFrame({"a": ["1", "", "3"], "b": ["x y", "y", "z"], "c": ["0.5", "1.5", ""]})
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "two bars": ("a||b||c\n1||x y||0.5\n||y||1.5\n3||z||\n", {}),
    "two bars, named": ("a||b||c\n1||x y||0.5\n||y||1.5\n3||z||\n", {"delimiter": "|"}),
    "two bars and returns": ("a||b||c\r\n1||x y||0.5\r\n||y||1.5\r\n3||z||\r\n", {}),
    "two bars and quotes": ('a||b||c\n1||"x y"||0.5\n||y||1.5\n3||"z"||""\n', {}),
    "Markdown": (
        "| a | b   | c   |\n|---|-----|-----|\n| 1 | x y | 0.5 |\n|   | y   | 1.5 |\n| 3 | z | |\n",
        {},
    ),
    "aligned": ("|a|b|c|\n|:-|:-:|--:|\n|1|x y|0.5|\n||y|1.5|\n|3|z||\n", {}),
    "no outer bars": ("a | b | c\n--- | --- | ---\n1 | x y | 0.5\n | y | 1.5\n3 | z |\n", {}),
    "of a database": (
        " a |  b  |  c\n---+-----+---\n 1 | x y | 0.5\n   | y | 1.5\n 3 | z | \n",
        {},
    ),
    "Markdown and returns": (
        "| a | b | c |\r\n|---|---|---|\r\n| 1 | x y | 0.5 |\r\n| | y | 1.5 |\r\n| 3 | z | |\r\n",
        {},
    ),
}


def _read(path: Path, text: str, chunk_bytes: int = 1 << 20, **layout: Any) -> pl.DataFrame:
    path.write_bytes(text.encode())
    layouts = CsvFormat(**layout)
    return pl.concat(csv_frames(path, layouts, chunk_bytes=chunk_bytes, finds_types=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_bytes", [16, 1 << 20])
def test_the_columns_are_those_that_people_see(form: str, chunk_bytes: int, tmp_path: Path) -> None:
    text, layout = FORMS[form]
    assert _read(tmp_path / "t.csv", text, chunk_bytes, **layout).equals(WANTED)


def test_later_rows_are_read_alike(tmp_path: Path) -> None:
    rows = "".join(f"| {i} | level {i % 3} |\n" for i in range(5_000))
    frame = _read(tmp_path / "t.csv", "| n | kind |\n|--:|:--|\n" + rows, 1_000)
    assert frame["n"].to_list() == [str(i) for i in range(5_000)]
    assert frame["kind"].unique().sort().to_list() == ["level 0", "level 1", "level 2"]
    rows = "".join(f"{i}||level {i % 3}\n" for i in range(5_000))
    assert _read(tmp_path / "t.csv", "n||kind\n" + rows, 1_000).equals(frame)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a||b\n" + "1||x\n" * 60 + "1|2||x\n", 62),
        ("| a | b |\n|---|---|\n" + "| 1 | x |\n" * 3 + "| 1 | x | 2 |\n", 6),
        ("| a | b |\n|---|---|\n| 1 | x |\n\n(1 row)\n", 5),
    ],
)
def test_other_rows_are_refused_by_their_line(text: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=f"line {line}: every line must have as many fields"):
        _read(tmp_path / "t.csv", text)


def test_bars_that_are_delimiters_stay(tmp_path: Path) -> None:
    frame = _read(tmp_path / "t.csv", "a|b|c\n1||2\n3||4\n")
    assert frame.columns == ["a", "b", "c"]
    assert frame["b"].to_list() == ["", ""]
    frame = _read(tmp_path / "t.csv", "a||b\n1|2|x\n3||y\n")
    assert frame["unnamed_2"].to_list() == ["2", ""]


def test_what_bars_enclose_is_typed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("| n | day |\n|---|---|\n| 1 | 2024-01-05 |\n| 2 | |\n")
    assert read_table(tmp_path / "t.csv").dtypes == [pl.Int64, pl.Date]


@pytest.mark.parametrize("separator", ["::", ":", "^", "~", "\x01"])
def test_other_separators_are_told_of(separator: str, tmp_path: Path) -> None:
    text = f"a{separator}b\n1{separator}x\n2{separator}y\n"
    with pytest.raises(TableError, match="got 2 columns separated by"):
        _read(tmp_path / "t.csv", text)
    assert _read(tmp_path / "t.csv", text, delimiter=",").columns == [f"a{separator}b"]
    if len(separator) == 1:
        assert _read(tmp_path / "t.csv", text, delimiter=separator).columns == ["a", "b"]
