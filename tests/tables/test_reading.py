"""Table files: every format and several files at once, whole or in batches, or a clear refusal."""

from __future__ import annotations

import datetime as dt
import gzip
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabwright.errors import TableError, install_command
from tabwright.tables import (
    CsvFormat,
    as_frame,
    iter_tables,
    profile_table,
    read_table,
    read_with_notes,
    table_dtypes,
)
from tabwright.tables import file_readers as file_frames

TABLE = pl.DataFrame(
    {
        "count": [1, None, 2**53 + 1],
        "size": [0.5, 2.0, None],
        "kind": ["red", None, "été, vert"],
        "old": [True, False, None],
        "day": [dt.date(2020, 1, 2), None, dt.date(2021, 3, 4)],
    }
)


def _excel(frame: pl.DataFrame, path: Path) -> None:
    frame.with_columns(count=pl.Series([1, None, 7])).write_excel(path)


WRITERS: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "t.csv": lambda frame, path: frame.write_csv(path),
    "t.CSV": lambda frame, path: frame.write_csv(path),
    "t.txt": lambda frame, path: frame.write_csv(path, separator=";"),
    "t.data": lambda frame, path: frame.write_csv(path, separator="|"),
    "t.tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    "t.tab": lambda frame, path: frame.write_csv(path, separator="\t"),
    "t.csv.gz": lambda frame, path: path.write_bytes(gzip.compress(frame.write_csv().encode())),
    "t.jsonl": lambda frame, path: frame.write_ndjson(path),
    "t.ndjson": lambda frame, path: frame.write_ndjson(path),
    "t.jsonl.gz": lambda frame, path: path.write_bytes(
        gzip.compress(frame.write_ndjson().encode())
    ),
    "t.parquet": lambda frame, path: frame.write_parquet(path),
    "t.pq": lambda frame, path: pq.write_table(frame.to_arrow(), path),
    "t.arrow": lambda frame, path: frame.write_ipc(path),
    "t.feather": lambda frame, path: frame.write_ipc(path, compression="lz4"),
    "t.ipc": lambda frame, path: frame.write_ipc_stream(path),
    "t.xlsx": _excel,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_whole_and_in_batches(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    wanted = TABLE
    if "json" in name:
        wanted = wanted.with_columns(pl.col("day").cast(pl.String))
    if name == "t.xlsx":
        wanted = wanted.with_columns(count=pl.Series([1, None, 7]))
    frame = read_table(path)
    assert frame.equals(wanted)
    assert frame.schema == wanted.schema
    assert table_dtypes(path) == dict(wanted.schema)
    for batch_rows in (1, 2, 100):
        batches = list(iter_tables(path, batch_rows=batch_rows))
        assert [len(batch) for batch in batches] == {1: [1, 1, 1], 2: [2, 1], 100: [3]}[batch_rows]
        assert pl.concat(batches).equals(wanted)


@pytest.mark.parametrize("name", WRITERS)
def test_columns_may_be_chosen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    assert read_table(path, columns=["old", "size"]).equals(TABLE.select("old", "size"))
    batches = list(iter_tables(path, columns=["old", "size"], batch_rows=2))
    assert pl.concat(batches).equals(TABLE.select("old", "size"))
    rule = r"has no column 'sizes'; (did you mean 'size'\?|it has)"
    with pytest.raises(TableError, match=rule):
        read_table(path, columns=["sizes"])
    with pytest.raises(TableError, match="has no column 'sizes'"):
        list(iter_tables(path, columns=["sizes"]))


cells = st.none() | st.sampled_from(
    ["1", "2", "-3", "4.5", "1e3", "007", str(2**60), str(2**64 - 1), "true", "FALSE",
     "2020-01-02", "2020-01-02T03:04:05Z", "2020-01-02 03:04", "x", "?", "-", " "]
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(cells, min_size=1, max_size=9), st.integers(1, 4), st.integers(2, 30))
def test_batches_have_the_types_of_the_whole(
    tmp_path: Path, column: list[str | None], batch_rows: int, chunk_bytes: int
) -> None:
    path = tmp_path / "t.csv"
    pl.DataFrame({"x": column, "n": range(len(column))}).write_csv(path)
    whole = read_table(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_frames, "_TEXT_CHUNK_BYTES", chunk_bytes)
        assert table_dtypes(path) == dict(whole.schema)
        batches = list(iter_tables(path, batch_rows=batch_rows))
    assert pl.concat(batches).equals(whole)
    assert all(len(batch) == batch_rows for batch in batches[:-1])


def test_notes_say_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n 1,x\n?,y\n3,z\n")
    frame, notes = read_with_notes(path)
    assert frame["a"].to_list() == [1, None, 3]
    assert notes == {"a": "1 cell read as missing: '?'; spaces around 1 numbers ignored"}
    assert notes["a"] in profile_table(frame, notes=notes).summary()


# ---------------------------------------------------------------------------------------------
# Types that are given
# ---------------------------------------------------------------------------------------------


def test_types_that_are_given_hold(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d,e\n1,2020-01-02,true,10:30:00,\n 2,?,0,,5\n")
    dtypes: dict[str, Any] = {
        "a": pl.String,
        "b": pl.Datetime("us", "UTC"),
        "c": pl.Boolean,
        "d": pl.Time,
        "e": pl.Float32,
    }
    wanted = {
        "a": ["1", "2"],
        "b": [dt.datetime(2020, 1, 2, tzinfo=dt.UTC), None],
        "c": [True, False],
        "d": [dt.time(10, 30), None],
        "e": [None, 5.0],
    }
    frame = read_table(path, dtypes=dtypes)
    assert frame.to_dict(as_series=False) == wanted
    assert dict(frame.schema) == dtypes
    assert pl.concat(iter_tables(path, dtypes=dtypes, batch_rows=1)).equals(frame)


@pytest.mark.parametrize(
    ("dtypes", "rule"),
    [
        ({"b": pl.Int64}, "column 'b' must hold Int64; got 'x' in row 2; correct the cell, leave"),
        ({"a": pl.Int8}, "column 'a' must hold Int8; got '300' in row 3"),
        ({"a": pl.Date}, "column 'a' must hold Date; got '1' in row 1"),
        ({"a": pl.List(pl.Int64)}, "column 'a' must have a type that String can be read as"),
        ({"c": pl.Int64}, r"dtypes must name columns of .*t.csv; got 'c'; they are \['a', 'b'\]"),
    ],
)
def test_types_that_do_not_fit_are_refused(
    tmp_path: Path, dtypes: dict[str, Any], rule: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,?\n2,x\n300,y\n")
    with pytest.raises(TableError, match=rule):
        read_table(path, dtypes=dtypes)


def test_a_cell_that_does_not_fit_is_named_by_its_row_in_the_table(tmp_path: Path) -> None:
    for name, text in (("a.csv", "n\n1\n2\n"), ("b.csv", "n\n3\nx\n")):
        (tmp_path / name).write_text(text)
    rule = r"column 'n' must hold Int64; got 'x' in row 4; .* dtypes=\{'n': ...\}"
    with pytest.raises(TableError, match=rule):
        list(iter_tables(tmp_path, dtypes={"n": pl.Int64()}, batch_rows=1))
    with pytest.raises(TableError, match=rule):
        read_table(tmp_path, dtypes={"n": pl.Int64()})


# ---------------------------------------------------------------------------------------------
# Several files
# ---------------------------------------------------------------------------------------------


def _files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)


def test_several_files_are_one_table_in_the_order_of_their_names(tmp_path: Path) -> None:
    _files(tmp_path, b="n,t\n2.5,y\n", a="n,t\n1,x\n", c="t,n\nz,3\n", d="n,t\n")
    (tmp_path / "_log.csv").write_text("other\n1\n")
    (tmp_path / "notes.md").write_text("no table")
    wanted = pl.DataFrame({"n": [1.0, 2.5, 3.0], "t": ["x", "y", "z"]})
    sources: list[Any] = [
        tmp_path,
        str(tmp_path / "[a-d].csv"),
        [tmp_path / f"{name}.csv" for name in "abcd"],
        [str(tmp_path / "[ab].csv"), tmp_path / "c.csv"],
    ]
    for source in sources:
        assert read_table(source).equals(wanted)
        assert pl.concat(iter_tables(source, batch_rows=2)).equals(wanted)
        assert table_dtypes(source) == dict(wanted.schema)


def test_numbers_of_several_parquet_files_widen(tmp_path: Path) -> None:
    pl.DataFrame({"n": [1], "m": [None]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"n": [1.5], "m": ["x"]}).write_parquet(tmp_path / "b.parquet")
    frame = read_table(tmp_path)
    assert frame.to_dict(as_series=False) == {"n": [1.0, 1.5], "m": [None, "x"]}
    assert pl.concat(iter_tables(tmp_path)).equals(frame)


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "we[ird].csv"
    path.write_text("a\n1\n")
    assert read_table(path)["a"].to_list() == [1]


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    _files(tmp_path, a="n,t\n1,x\n", b="n,u\n1,x\n")
    rule = "must have the same columns; .*b.csv lacks the column 't', unlike .*a.csv; read them"
    for read in (read_table, lambda source: list(iter_tables(source))):
        with pytest.raises(TableError, match=rule):
            read(tmp_path)
    _files(tmp_path, b="n,t,u\n1,x,2\n")
    with pytest.raises(TableError, match=r"b\.csv has the column 'u' too"):
        read_table(tmp_path)
    pl.DataFrame({"n": [1]}).write_parquet(tmp_path / "p1.parquet")
    pl.DataFrame({"n": ["x"]}).write_parquet(tmp_path / "p2.parquet")
    pattern = str(tmp_path / "*.parquet")
    rule = r"column 'n' of .*p2.parquet is String, and Int64 before; .* dtypes=\{'n': ...\}"
    with pytest.raises(TableError, match=rule):
        read_table(pattern)
    assert read_table(pattern, dtypes={"n": pl.String})["n"].to_list() == ["1", "x"]
    with pytest.raises(TableError, match="must have one format; got csv, parquet"):
        read_table([tmp_path / "a.csv", tmp_path / "p1.parquet"])


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("tabel.csv", "there is no file .*tabel.csv; did you mean 'table.csv'"),
        ("zzz/q.csv", "there is no file .*q.csv; looked in"),
        ("q*.csv", r"no file matches the pattern .*q\*.csv; check folder and spelling"),
        ("empty", "the folder .*empty has no table in it; tables end in .csv"),
        ("t.xyz", r"unknown extension \('.xyz'\); tables end in .csv .tsv"),
        ("t.json", r"JSON must have one object per line \(.jsonl\); .*write_ndjson"),
        ("t.parquet.gz", "parquet files are compressed inside; unpack the .gz first"),
        ("https://example.org/t.csv", "is no file on this machine; download it first"),
    ],
)
def test_what_names_no_table_is_refused(tmp_path: Path, source: str, rule: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("table.csv", "t.xyz", "t.json", "t.parquet.gz"):
        (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(TableError, match=rule):
        read_table(source if "://" in source else tmp_path / source)


def test_a_source_must_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"must be named by a path, .*; got int; tables in"):
        read_table(5)  # type: ignore[arg-type]
    with pytest.raises(TableError, match="a list of files must name at least one; got none"):
        read_table([])
    with pytest.raises(ValueError, match="batch_rows must be at least 1; got 0"):
        iter_tables(tmp_path / "t.csv", batch_rows=0)


# ---------------------------------------------------------------------------------------------
# Files that are damaged, empty, or no tables
# ---------------------------------------------------------------------------------------------


_CUT = (
    "(a quote is opened and never closed|every line must have as many fields|must be a whole|"
    "every line must be one JSON object|compressed data must be whole)"
)


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "t.ipc"])
def test_half_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](pl.concat([TABLE] * 200), path) if name != "t.xlsx" else _excel(TABLE, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 3])
    for read in (read_table, lambda source: list(iter_tables(source))):
        with pytest.raises(TableError, match=rf"t\..*{_CUT}"):
            read(path)


def test_half_a_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    TABLE.write_ipc_stream(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TableError, match=r"t\.arrow must be a whole arrow file; it is damaged"):
        read_table(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_damage_anywhere_is_an_error_or_another_table_and_never_a_crash(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    WRITERS[name](pl.concat([TABLE] * 20), path)
    data = path.read_bytes()
    draw = np.random.default_rng(0)
    n_refused = 0
    for _ in range(150):
        wrong = bytearray(data)
        for place in draw.integers(0, len(data), 3).tolist():
            wrong[place] = int(draw.integers(256))
        path.write_bytes(wrong)
        try:
            read_table(path)
        except TableError:
            n_refused += 1
    assert n_refused > 50


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("t.csv", "a,b\n", "t.csv has no rows; a table needs at least one"),
        ("t.csv", "", "t.csv is empty; a table needs a line of column names and rows"),
        ("t.jsonl", "", "t.jsonl is empty; a table needs at least one row"),
        ("t.jsonl", "\n \n", "t.jsonl is empty"),
        ("t.jsonl", "{}\n{}\n", "t.jsonl has no columns; a table needs at least one"),
        (
            "t.jsonl",
            '{"a":1}\n{"a":\n',
            "line 2: every line must be one JSON object; got '{\"a\":'",
        ),
        ("t.jsonl", "[1,2]\n", "line 1: every line must be one JSON object; got .*write it as"),
        ("t.jsonl", '{"a":1}\n{"a":NaN}\n', "line 2: .*NaN is no JSON; write null for a missing"),
        ("t.jsonl", '{"a":1}\n{"a":1e999}\n', "line 2: .*1e999 is past float64; write null"),
        ("t.jsonl", '\n{"a":1,"a":2}\n', "line 2: column names must differ; 'a' comes 2 times"),
        ("t.jsonl", '{"a":[1,2]}\n', r"t.jsonl: column 'a' must hold single values .*\[1, 2\]"),
        ("t.jsonl", '{"a":{"b":1}}\n', r"column 'a' must hold single values .*\{'b': 1\}"),
        ("t.jsonl", '{"a":1}\n\0\n', "line 2: text must not hold NUL bytes"),
        ("t.parquet", "a,b\n1,2\n", "t.parquet must be a whole parquet file; it is damaged, cut"),
        ("t.arrow", "a,b\n1,2\n", "t.arrow must be a whole arrow file"),
        ("t.xlsx", "a,b\n1,2\n", "t.xlsx must be a whole excel file"),
        ("t.parquet", "", "t.parquet must be a whole parquet file"),
        ("t.arrow", "", "t.arrow must be a whole arrow file"),
        ("t.xlsx", "", "t.xlsx must be a whole excel file"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, text: str, rule: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TableError, match=rule):
        read_table(path)
    with pytest.raises(TableError):
        list(iter_tables(path))


def test_json_lines_may_leave_keys_out(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a":1}\n\n{"b":"x","a":2.5}\n')
    frame = read_table(path)
    assert frame.to_dict(as_series=False) == {"a": [1.0, 2.5], "b": [None, "x"]}
    assert pl.concat(iter_tables(path, batch_rows=1)).equals(frame)


ARROW: dict[str, tuple[pa.Table, str]] = {
    "names twice": (
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
        "column names must differ; 'a' comes more than once; rename the copies",
    ),
    "a fixed offset": (
        pa.table({"a": pa.array([0], pa.timestamp("us", "+05:30"))}),
        r"times must have no zone, UTC or a zone with a name; got '\+05:30'; .*tz_convert\('UTC'\)",
    ),
    "lists": (pa.table({"a": [[1]]}), r"column 'a' must hold single values .* got \[1\]"),
    "bytes": (pa.table({"a": [b"x"]}), "column 'a' must hold single values .* got b'x'"),
    "decimals past 38 digits": (
        pa.table({"a": pa.array([Decimal("1.5")], pa.decimal256(50, 2))}),
        "numbers must have at most 38 digits; a column has a decimal type of more .* got 50",
    ),
    "no rows": (pa.table({"a": pa.array([], pa.int64())}), "has no rows; a table needs at least"),
}


@pytest.mark.parametrize("case", ARROW)
def test_parquet_that_holds_something_else_is_refused(tmp_path: Path, case: str) -> None:
    table, rule = ARROW[case]
    path = tmp_path / "t.parquet"
    pq.write_table(table, path)
    with pytest.raises(TableError, match=rule):
        read_table(path)
    with pytest.raises(TableError, match=rule):
        list(iter_tables(path))


# ---------------------------------------------------------------------------------------------
# Excel
# ---------------------------------------------------------------------------------------------


def _workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    book = xlsxwriter.Workbook(str(path))
    for name, rows in sheets.items():
        sheet = book.add_worksheet(name)
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
    book.close()
    return path


def test_sheets_of_a_workbook(tmp_path: Path) -> None:
    path = _workbook(tmp_path / "t.xlsx", one=[["a"], [1]], two=[["b"], ["x"], [2.5]])
    assert read_table(path).to_dict(as_series=False) == {"a": [1]}
    two = read_table(path, sheet="two")
    assert two.to_dict(as_series=False) == {"b": ["x", "2.5"]}
    with pytest.raises(TableError, match=r"has no sheet 'three'; it has \['one', 'two'\]"):
        read_table(path, sheet="three")


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([], "is empty; a table needs a line of column names and rows"),
        ([["a", "b"]], "has no rows; a table needs at least one"),
        ([["a", "a"], [1, 2]], "column names must differ; 'a' comes 2 times; rename the copies"),
        (
            [["Report"], ["a", "b"], [1, 2]],
            "must hold column names; got 'Report' alone above 2 columns; if it is a title, delete",
        ),
        (
            [["a", "b"], ["mg", "kg"], *[[k, k / 2] for k in range(4)]],
            r"line 2: rows must begin below the names; .*line of units or types \('mg', 'kg'\)",
        ),
        (
            [["a", "b"], [1, 2], [" a", "b"], [3, 4]],
            "a table must begin once; row 2 repeats the names; delete it",
        ),
    ],
)
def test_a_sheet_that_is_no_table_is_refused(
    tmp_path: Path, rows: list[list[Any]], rule: str
) -> None:
    with pytest.raises(TableError, match=rule):
        read_table(_workbook(tmp_path / "t.xlsx", s=rows))


SHEETS: dict[str, tuple[list[list[Any]], dict[str, list[Any]]]] = {
    "numbers kept as text": ([["a"], ["1"], [2.5], ["3"]], {"a": [1.0, 2.5, 3.0]}),
    "commas": ([["a"], ["1,5"], ["2,25"]], {"a": [1.5, 2.25]}),
    "bounds": (
        [["a"], *[[k + 0.5] for k in range(20)], ["<0.1"]],
        {"a": [*(k + 0.5 for k in range(20)), None]},
    ),
    "booleans and a marker": ([["a"], [True], ["?"], [False]], {"a": [True, None, False]}),
    "codes": ([["a"], ["007"], ["008"]], {"a": ["007", "008"]}),
    "spaces": ([["a"], [" x"], ["x "]], {"a": ["x", "x"]}),
    "a number for a name": ([["a", 2019], [1, 2]], {"a": [1], "2019": [2]}),
    "a date for a name": (
        [["a", dt.datetime(2020, 1, 1)], [1, 2]],
        {"a": [1], "2020-01-01": [2]},
    ),
    "no name": ([["a", None, "c"], [1, 2, 3]], {"a": [1], "unnamed_2": [2], "c": [3]}),
    "the names of two columns as cells of one": (
        [["a", "b"], ["a", "x"], ["y", "b"]],
        {"a": ["a", "y"], "b": ["x", "b"]},
    ),
}


@pytest.mark.parametrize("case", SHEETS)
def test_cells_of_a_sheet_are_what_those_of_a_text_file_are(tmp_path: Path, case: str) -> None:
    rows, wanted = SHEETS[case]
    path = tmp_path / "t.xlsx"
    book = xlsxwriter.Workbook(str(path), {"default_date_format": "yyyy-mm-dd"})
    sheet = book.add_worksheet()
    for number, row in enumerate(rows):
        sheet.write_row(number, 0, row)
    book.close()
    frame = read_table(path)
    assert frame.to_dict(as_series=False) == wanted
    assert frame.columns == list(wanted)
    batches = pl.concat(iter_tables(path, batch_rows=2))
    assert batches.columns == list(wanted)
    # As in a file of text, a spelling that has to be found out is text piece by piece.
    if case not in ("commas", "bounds"):
        assert batches.equals(frame)


def test_an_empty_column_of_a_sheet_shifts_no_name(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["a", None, "b"], [1, None, "u"], [2, None, "v"]]
    frame = read_table(_workbook(tmp_path / "t.xlsx", s=rows))
    assert frame.columns == ["a", "unnamed_2", "b"]
    assert frame["b"].to_list() == ["u", "v"]
    assert frame["unnamed_2"].null_count() == 2


def test_numbers_in_the_first_line_of_a_sheet_are_data(tmp_path: Path) -> None:
    rows: list[list[Any]] = [[1.5, 2.5], [1, 2], [3, 4]]
    with pytest.raises(TableError, match=r"looks like data \('1.5', '2.5'\); put names above"):
        read_table(_workbook(tmp_path / "t.xlsx", s=rows))
    years: list[list[Any]] = [[2019, 2020], [1, 2]]
    assert read_table(_workbook(tmp_path / "y.xlsx", s=years)).columns == ["2019", "2020"]


def test_times_of_day_in_a_sheet_are_times(tmp_path: Path) -> None:
    book = xlsxwriter.Workbook(str(tmp_path / "t.xlsx"))
    sheet, clock = book.add_worksheet(), book.add_format({"num_format": "hh:mm"})
    sheet.write_row(0, 0, ["t", "x"])
    for row, hours in enumerate([0.0, 6.5, 23.0], 1):
        sheet.write(row, 0, hours / 24, clock)
        sheet.write(row, 1, row)
    book.close()
    frame = read_table(tmp_path / "t.xlsx")
    assert frame["t"].to_list() == [dt.time(0), dt.time(6, 30), dt.time(23)]


def test_an_empty_first_sheet_tells_of_the_others(tmp_path: Path) -> None:
    path = _workbook(tmp_path / "t.xlsx", notes=[], data=[["a"], [1]])
    with pytest.raises(TableError, match=r"name another sheet, e\.g\. sheet='data'"):
        read_table(path)
    assert read_table(path, sheet="data").columns == ["a"]


def test_text_that_is_said_to_be_missing_is_no_line_of_units(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["a", "b"], ["mg", "kg"], *[[k, k / 2] for k in range(4)]]
    frame = read_table(_workbook(tmp_path / "t.xlsx", s=rows), csv=CsvFormat(missing=("mg", "kg")))
    assert frame["a"].to_list() == [None, 0, 1, 2, 3]


def test_excel_without_its_package_names_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _workbook(tmp_path / "t.xlsx", s=[["a"], [1]])
    monkeypatch.setattr("tabwright.tables.formats.excel.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    rule = f"t.xlsx needs fastexcel, .*{re.escape(install_command('excel'))}"
    with pytest.raises(ImportError, match=rule):
        read_table(path)


# ---------------------------------------------------------------------------------------------
# Real tables
# ---------------------------------------------------------------------------------------------

ADULT = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "class",
)  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("raw", "name", "csv"),
    [
        ("Telco-Customer-Churn.csv", "telco_churn", None),
        ("titanic_train.csv", "titanic", None),
        ("adult-train.csv", "adult", CsvFormat(has_header=False, column_names=ADULT)),
    ],
)
def test_raw_files_load_to_the_tables_of_the_suite(
    data_dir: Path, raw: str, name: str, csv: CsvFormat | None
) -> None:
    wanted = pl.read_parquet(data_dir / f"{name}.parquet")
    path = data_dir / "raw" / raw
    frame = read_table(path, csv=csv)
    # The table of adult is the training file and then the test file.
    wanted = wanted.head(len(frame))
    assert frame.schema == wanted.schema
    assert frame.equals(wanted)
    assert pl.concat(iter_tables(path, csv=csv, batch_rows=1_000)).equals(frame)


@pytest.mark.shared_data
def test_a_raw_file_without_header_is_told_so(data_dir: Path) -> None:
    with pytest.raises(TableError, match="the first line must hold column names; got what looks"):
        read_table(data_dir / "raw" / "adult-train.csv")


@pytest.mark.parametrize("frequency", ["Y", "Q", "M", "D", "h", "min", "s", "ms"])
def test_periods_in_parquet_are_those_of_a_frame(tmp_path: Path, frequency: str) -> None:
    frame = pd.DataFrame({"p": pd.period_range("1968-05-01", periods=5, freq=frequency)})
    frame.loc[2, "p"] = pd.NaT
    frame.to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found.equals(as_frame(frame)[0])
    assert pl.concat(iter_tables(tmp_path / "t.parquet", batch_rows=2)).equals(found)


def test_periods_that_pandas_alone_can_tell_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"p": pd.period_range("2024-05-01", periods=3, freq="W")})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=r"got periods of pandas of the frequency 'W-SUN'"):
        read_table(tmp_path / "t.parquet")


def test_truth_among_numbers_of_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": true}\n{"a": null}\n{"a": 1}\n')
    with pytest.raises(TableError, match=r"line 3: a column must hold true .* got 1 in 'a'"):
        read_table(tmp_path / "t.jsonl")
