"""Tables, files and labels as they come: each is read as what it is, or refused in a sentence."""

from __future__ import annotations

import datetime as dt
import gzip
import os
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xlsxwriter
from pyarrow.parquet import write_table

from tabwright import TabularClassifier
from tabwright.errors import TableError
from tabwright.tables import as_frame, encode_labels, profile_table, read_described, read_table

N = 120
IDS = [f"k{i % 4}" for i in range(N)]
X = np.random.default_rng(0).normal(size=N)
DAYS = [dt.date(2024, 1, 1 + i % 28) for i in range(N)]
CLOCKS = [dt.time(i % 24, i % 60) for i in range(N)]
SPANS = [dt.timedelta(minutes=i * 7 % 50) for i in range(N)]
DECIMALS = [Decimal(i % 50) / 4 for i in range(N)]
NOTHING = "must hold single values"


def _arrow(cells: list[Any], dtype: pa.DataType | None = None) -> pa.Table:
    return pa.table({"a": pa.array(cells, dtype), "x": X})


def _extension(dtype: pa.DataType, cells: list[Any]) -> pa.Table:
    return _arrow(pa.ExtensionArray.from_storage(dtype, pa.array(cells, dtype.storage_type)))


def _pandas(cells: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": cells, "x": X})


# The column "a" of a table, and its role or what is said of it.
FRAMES: dict[str, tuple[Any, str]] = {
    "polars Enum": (pl.DataFrame({"a": pl.Series(IDS, dtype=pl.Enum(["k0", "k1", "k2", "k3"]))}),
                    "category"),
    "polars Categorical": (pl.DataFrame({"a": pl.Series(IDS, dtype=pl.Categorical)}), "category"),
    "polars Duration": (pl.DataFrame({"a": SPANS}), "numeric"),
    "polars Time": (pl.DataFrame({"a": CLOCKS}), "numeric"),
    "polars Decimal": (pl.DataFrame({"a": DECIMALS}), "numeric"),
    "polars Int128": (pl.DataFrame({"a": pl.Series([10**20 + i**2 for i in range(N)],
                                                   dtype=pl.Int128)}), "numeric"),
    "polars Float16": (pl.DataFrame({"a": pl.Series(X).cast(pl.Float16)}), "numeric"),
    "polars lists": (pl.DataFrame({"a": [[1, 2]] * N}), NOTHING),
    "polars arrays": (pl.DataFrame({"a": pl.Series([[1, 2]] * N, dtype=pl.Array(pl.Int64, 2))}),
                      NOTHING),
    "polars structs": (pl.DataFrame({"a": [{"q": 1}] * N}), NOTHING),
    "polars bytes": (pl.DataFrame({"a": [b"x"] * N}), NOTHING),
    "pandas category of floats": (_pandas(pd.Categorical([i % 3 + 0.5 for i in range(N)])),
                                  "category"),
    "pandas category of booleans": (_pandas(pd.Categorical([i % 3 == 0 for i in range(N)])),
                                    "category"),
    "pandas text of Arrow": (_pandas(pd.array(IDS, dtype="string[pyarrow]")), "category"),
    "pandas Int64": (_pandas(pd.array([None if i % 5 == 0 else i % 7 for i in range(N)], "Int64")),
                     "numeric"),
    "pandas boolean": (_pandas(pd.array([None if i % 5 == 0 else i % 2 == 0 for i in range(N)],
                                        "boolean")), "boolean"),
    "pandas quarters": (_pandas(pd.period_range("2000Q1", periods=N, freq="Q")), "datetime"),
    "pandas spans": (_pandas(pd.to_timedelta(np.arange(N) * 7 % 50, unit="h")), "numeric"),
    "pandas zones": (_pandas(pd.date_range("2024-01-01", periods=N, tz="Europe/Berlin")),
                     "datetime"),
    "pandas two zones": (_pandas([pd.Timestamp("2024-01-01", tz=zone) + pd.Timedelta(days=i)
                                  for i, zone in enumerate(["UTC", "Asia/Tokyo"] * (N // 2))]),
                         "datetime"),
    "pandas numbers and text": (_pandas([1, "b", 2.5, None, True] * (N // 5)), "category"),
    "pandas huge integers": (_pandas(pd.Series([10**30 + i % 9 for i in range(N)], dtype=object)),
                             "category"),
    "pandas decimals": (_pandas(DECIMALS), "numeric"),
    "pandas dates": (_pandas(DAYS), "datetime"),
    "pandas times": (_pandas(CLOCKS), "numeric"),
    "pandas sets": (_pandas([{1}] * N), NOTHING),
    "pandas UUIDs": (_pandas([uuid.UUID(int=i) for i in range(N)]), NOTHING),
    "pandas infinities": (_pandas(np.where(np.arange(N) % 7 == 0, np.inf, X)), "numeric"),
    "pandas complex": (_pandas(X + 1j), "Complex data not supported"),
    "pandas names of floats": (pd.DataFrame(np.c_[X, X], columns=[1.5, 2.5]), "must be text"),
    "pandas names of dates": (pd.DataFrame(np.c_[X, X], columns=pd.to_datetime(["2024", "2025"])),
                              "must be text"),
    "pandas names of two kinds": (pd.DataFrame({10: X, "b": IDS}), "must be text; got 10"),
    "Arrow dictionary of integers": (_arrow(pa.array([i % 4 for i in range(N)])
                                            .dictionary_encode()), "numeric"),
    "Arrow decimal32": (_arrow(DECIMALS, pa.decimal128(7, 3)), "numeric"),
    "Arrow time32": (_arrow(CLOCKS, pa.time32("s")), "numeric"),
    "Arrow time64": (_arrow(CLOCKS, pa.time64("ns")), "numeric"),
    "Arrow durations": (_arrow([i * 60 for i in range(N)], pa.duration("s")), "numeric"),
    "Arrow date64": (_arrow(DAYS, pa.date64()), "datetime"),
    "Arrow moments of an offset": (_arrow([i * 86400 for i in range(N)],
                                          pa.timestamp("s", "+02:00")), "datetime"),
    "Arrow views of text": (_arrow(IDS, pa.string_view()), "category"),
    "Arrow half floats": (_arrow(X.astype(np.float16).tolist(), pa.float16()), "numeric"),
    "Arrow JSON": (_extension(pa.json_(pa.string()), IDS), "category"),
    "Arrow bool8": (_extension(pa.bool8(), [i % 2 for i in range(N)]), "numeric"),
    "Arrow UUIDs": (_extension(pa.uuid(), [bytes([i % 3]) * 16 for i in range(N)]), NOTHING),
    "Arrow intervals": (_arrow([(1, 2, 3)] * N, pa.month_day_nano_interval()),
                        "got the Arrow type month_day_nano_interval"),
    "NumPy structured": (np.array(list(zip(X, IDS, strict=True)), dtype=[("a", "f8"), ("b", "U4")]),
                         "numeric"),
    "NumPy structured twice": (np.array([((1.0,), 2.0)] * N, dtype=[("a", [("p", "f8")]),
                                                                    ("x", "f8")]), "must hold"),
    "NumPy structured of arrays": (np.array([((1.0, 2.0), 3.0)] * N, dtype=[("a", "f8", 2),
                                                                            ("x", "f8")]), NOTHING),
    "NumPy records": (np.array(list(zip(X, IDS, strict=True)), dtype=[("a", "f8"), ("b", "U4")])
                      .view(np.recarray), "numeric"),
    "NumPy objects": (np.array([[x, i] for x, i in zip(X, IDS, strict=True)], dtype=object),
                      "numeric"),
    "NumPy text of numbers": (np.array([[str(x), "b"] for x in X]), "numeric"),
    "NumPy bytes": (np.array([[b"0.5", b"b"]] * N), "must hold text, not bytes"),
    "NumPy big end first": (np.c_[X, X].astype(">f8"), "numeric"),
    "NumPy past int64": (np.c_[np.arange(N, dtype="u8") ** 2 + np.uint64(2**63), np.arange(N)],
                         "numeric"),
    "named tuples": ([pd.Series({"a": x, "b": 1}).to_list() for x in X], "numeric"),
    "dicts that lack a key": ([{"a": x, "b": 1} if i % 5 else {"a": x} for i, x in enumerate(X)],
                              "numeric"),
    "a generator": ((row for row in [{"a": 1}]), "X must be a table"),
}  # fmt: skip


@pytest.mark.parametrize("case", FRAMES)
def test_a_table_in_memory_is_read_or_refused(case: str) -> None:
    table, wanted = FRAMES[case]
    if wanted in ("numeric", "category", "datetime", "boolean"):
        frame, named = as_frame(table)
        column = profile_table(frame, named=named).columns[0]
        assert (column.role, column.used) == (wanted, True)
        return
    with pytest.raises(TableError, match=wanted):
        profile_table(as_frame(table)[0])


def _lines(line: Any, head: str = "x,a,y", end: str = "\n") -> bytes:
    return (head + end + "".join(line(i) + end for i in range(N))).encode()


def _row(i: int) -> str:
    return f"{i * 37 % 101 / 7:.2f},{'pqr'[i % 3]},{'no' if i % 2 else 'yes'}"


ALL = ["numeric", "category", "category"]
# A file, and the roles of its columns or what is said of it.
FILES: dict[str, tuple[bytes, list[str] | str]] = {
    "a mark and returns": (b"\xef\xbb\xbf" + _lines(_row, end="\r\n"), ALL),
    "UTF-16": (_lines(_row).decode().encode("utf-16"), ALL),
    "Shift JIS": (_lines(lambda i: _row(i).replace("p", "\u5927\u962a")).decode()
                  .encode("shift-jis"), "name the encoding .* encoding='shift_jis'"),
    "two encodings": (_lines(_row) + "1.0,\u00e9\u00e8,no\n".encode() + b"1.0,\xe9,no\n",
                      "line 123: the text must be utf-8; got the byte 0xe9"),
    "semicolons and decimal commas": (_lines(lambda i: f"{i},5;p{i % 3};{'ab'[i % 2]}", "x;a;y"),
                                      ALL),
    "single quotes": (_lines(lambda i: _row(i).replace("p", "'p, p'")), r"columns \(3\); got 4"),
    "lines within cells": (_lines(lambda i: _row(i).replace("p", '"p\r\nq"')), ALL),
    "quotes behind a backslash": (_lines(lambda i: _row(i).replace("p", '"p\\"q"')),
                                  "line 2: a quote must enclose a whole cell"),
    "inches": (_lines(lambda i: _row(i).replace("p", '5" disk')), "quotes=False"),
    "a comma at every end": (_lines(lambda i: _row(i) + ",", "x,a,y,"), [*ALL, "constant"]),
    "a comma at the end of rows": (_lines(lambda i: _row(i) + ","), r"columns \(3\); got 4"),
    "row names of R": (_lines(lambda i: f"{i}," + _row(i)), r"columns \(3\); got 4"),
    "row labels of pandas": (_lines(lambda i: f"{i}," + _row(i), ",x,a,y"), ["identifier", *ALL]),
    "remarks above": (b"# made by x\n" + _lines(_row), "delete what stands above"),
    "blank lines": (_lines(_row).replace(b"y\n", b"y\n\n\r\n", 1), ALL),
    "names that spaces tell apart": (_lines(_row, "x,x ,y"), "'x' comes 2 times"),
    "capitals tell names apart": (_lines(_row, "x,X,y"), ALL),
    "a name of two lines": (_lines(_row, '"x\n1",a,y'), ALL),
    "a name of a pattern": (_lines(_row, "^x.*$,*,y"), ALL),
    "gzip twice over": (gzip.compress(_lines(_row)) + gzip.compress(b"1.0,p,no\n"), ALL),
    "gzip cut short": (gzip.compress(_lines(_row))[:-20], "compressed data must be whole"),
    "huge integers": (_lines(lambda i: f"{10**20 + i % 9},p{i % 3},{'ab'[i % 2]}"),
                      ["category", "category", "category"]),
    "infinities": (_lines(lambda i: f"{'inf' if i % 9 == 0 else i / 7},p{i % 3},{'ab'[i % 2]}"),
                   ALL),
    "past float64": (_lines(lambda i: f"{'1e400' if i % 9 == 0 else i / 7},p{i % 3},b{i % 2}"),
                     ALL),
    "booleans of many languages": (_lines(lambda i: f"{['wahr', 'falsch'][i % 2]},"
                                          f"{['TRUE', 'False'][i % 2]},{['oui', 'non'][i % 2]}"),
                                   ["category", "boolean", "category"]),
    "zip codes": (_lines(lambda i: f"{i % 20:05d},p{i % 3},b{i % 2}"), ["category"] * 3),
    "addresses": (_lines(lambda i: f"192.168.{i % 3}.{i % 5},p{i % 3},b{i % 2}"), ["category"] * 3),
    "versions": (_lines(lambda i: f"1.{i % 3}.{i % 5},p{i % 3},b{i % 2}"), ["category"] * 3),
    "moments of two offsets": (_lines(lambda i: f"2024-0{i % 8 + 1}-01T10:00:00+0{i % 2 + 1}:00,"
                                      f"p{i % 3},b{i % 2}"), ["datetime", "category", "category"]),
    "times of pandas": (_lines(lambda i: f"0 days 00:{i % 60:02}:05,p{i % 3},b{i % 2}"), ALL),
    "times of polars": (_lines(lambda i: f"{i % 24:02}:{i % 60:02}:00.000000000,p{i % 3},b{i % 2}"),
                        ALL),
    "no date among dates": (_lines(lambda i: f"2024-02-{i % 31 + 1:02},p{i % 3},b{i % 2}"),
                            ["category"] * 3),
    "dates to come": (_lines(lambda i: f"{'TBD' if i == 7 else f'2024-01-{i % 28 + 1}'},"
                             f"p,b{i % 2}"), ["datetime", "constant", "category"]),
    "Swiss thousands": (_lines(lambda i: f"{i % 50 * 977:,}".replace(",", "'")
                               + f",p{i % 3},b{i % 2}"), ALL),
    "spaces around": (_lines(lambda i: f"  {i % 50 / 7:.2f} ,p{i % 3},b{i % 2}"), ALL),
    "a long cell": (b'x,a,y\n1.5,"' + b"long, " * 30_000 + b'",b1\n' + _lines(_row)[6:],
                    ["numeric", "category", "category"]),
    "one row": (b"x,a,y\n1,p,no\n", ALL),
    "no row": (b"x,a,y\n", "has no rows"),
    "nothing": (b"", "is empty"),
    "nothing to learn from, with what was found": (
        _lines(lambda i: f"{i}.50 CR,p,p"),
        "'x' is identifier, set aside: every cell differs; '0.50 CR' is read as text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_is_read_or_refused(case: str, tmp_path: Path) -> None:
    data, wanted = FILES[case]
    path = tmp_path / "t.csv"
    path.write_bytes(data)

    def roles() -> list[str]:
        found = read_described(path)
        profile = profile_table(found.frame, notes=found.notes, formats=found.formats, typed=True)
        return [column.role for column in profile.columns]

    if isinstance(wanted, list):
        assert roles() == wanted
        return
    with pytest.raises(TableError, match=wanted):
        roles()


def test_extension_types_of_a_file_are_the_types_below(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(_extension(pa.json_(pa.string()), IDS), path)
    assert read_table(path).schema == {"a": pl.String, "x": pl.Float64}


YES = [bool(x > 0) for x in X]
# Labels, and the classes or what is said of them.
LABELS: dict[str, tuple[Any, list[Any] | str]] = {
    "booleans": (YES, [False, True]),
    "pandas booleans": (pd.array(YES, dtype="boolean"), [False, True]),
    "pandas integers": (pd.array([int(y) for y in YES], dtype="Int64"), [0, 1]),
    "a pandas index": (pd.Index([f"c{int(y)}" for y in YES]), ["c0", "c1"]),
    "pandas categories": (pd.Categorical([f"c{int(y)}" for y in YES], ["c2", "c1", "c0"]),
                          ["c0", "c1"]),
    "bytes of integers": (np.array(YES, dtype=np.int8), [0, 1]),
    "small floats": (np.array(YES, dtype=np.float32), [0.0, 1.0]),
    "an Enum": (pl.Series([f"c{int(y)}" for y in YES], dtype=pl.Enum(["c1", "c0"])), ["c0", "c1"]),
    "Arrow dictionaries": (pa.chunked_array([pa.array([f"c{int(y)}" for y in YES])
                                             .dictionary_encode()]), ["c0", "c1"]),
    "the empty text": (["" if y else "no" for y in YES], ["", "no"]),
    "a marker": (["NA" if y else "no" for y in YES], ["NA", "no"]),
    "text and integers": ([1 if y else "no" for y in YES], ["1", "no"]),
    "huge integers": ([10**25 * int(y) for y in YES], ["0", str(10**25)]),
    "None": ([None, *YES[1:]], "must not be missing; got 1 missing, the first in row 1"),
    "bytes": ([b"a" if y else b"b" for y in YES], "must hold single values"),
    "dates": (DAYS, "Unknown label type: Date"),
    "two columns": (np.c_[YES, YES], "MultiOutputClassifier"),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_read_or_refused(case: str) -> None:
    labels, wanted = LABELS[case]
    if isinstance(wanted, list):
        assert encode_labels(labels).classes.tolist() == wanted
        return
    with pytest.raises(TableError, match=wanted):
        encode_labels(labels)


# Cells of the fit, and one cell as two types: the same row.
FORMS: dict[str, tuple[Any, Any, Any]] = {
    "a time and its text": (CLOCKS, dt.time(5, 1), "05:01:00"),
    "a span and ISO 8601": (SPANS, dt.timedelta(minutes=3), "PT3M"),
    "a span and its seconds": (SPANS, dt.timedelta(minutes=3), 180.0),
    "a decimal and its text": (DECIMALS, Decimal("1.25"), "1.25"),
    "a date and its text": (DAYS, dt.date(2024, 1, 3), "2024-01-03"),
    "a category and its number": ([float(i % 3) + 0.5 for i in range(N)], 1.5, "1.5"),
}


@pytest.mark.parametrize("case", FORMS)
def test_a_cell_is_the_same_in_another_type(case: str) -> None:
    cells, own, other = FORMS[case]
    y = np.arange(N) % 2
    model = TabularClassifier(quality="fast", max_epochs=1, hidden_dim=8, random_state=0)
    model.fit(pl.DataFrame({"a": cells, "x": X}), y)
    wanted = model.predict_proba(pl.DataFrame({"a": [own], "x": [0.5]}))
    for row in ([{"a": other, "x": 0.5}], pl.DataFrame({"a": [other, None], "x": [0.5, 0.0]})):
        np.testing.assert_allclose(model.predict_proba(row)[:1], wanted, atol=1e-9)


def test_two_rows_of_two_labels_are_refused() -> None:
    model = TabularClassifier(quality="fast", max_epochs=1, random_state=0)
    with pytest.raises(ValueError, match="at least 1 row must validate; got n_samples=2"):
        model.fit(pl.DataFrame({"x": [1.0, 2.0]}), ["a", "b"])


def test_labels_of_one_row_each_are_refused() -> None:
    model = TabularClassifier(quality="fast", max_epochs=1, random_state=0)
    with pytest.raises(TableError, match="got 120 labels in 120 rows, each in one; is the target"):
        model.fit(pl.DataFrame({"x": X}), [f"c{i}" for i in range(N)])


@pytest.mark.parametrize(("row", "column", "sheet"), [(0, 0, None), (2, 1, None), (0, 0, "two")])
def test_merged_cells_of_a_sheet_are_told_of(
    row: int, column: int, sheet: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "t.xlsx"
    book = xlsxwriter.Workbook(str(path))
    for name in ("one", "two"):
        page = book.add_worksheet(name)
        page.write_row(row, column, ["region", "x"])
        for i in range(20):
            if i % 10 == 0:
                below = row + 1 + i
                page.merge_range(below, column, below + 9, column, f"R{i}")
            page.write(row + 1 + i, column + 1, i * 0.5)
    book.close()
    found = read_described(path, sheet=sheet)
    assert found.frame.shape == (20, 2)
    assert found.notes["region"].startswith("18 of 20 cells are missing: of merged cells the first")


def test_what_was_found_in_a_column_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(_lines(lambda i: f"0{i % 9 + 1}/03/2023,p{i % 3},b{i % 2}"))
    found = read_described(path)
    for typed in (False, True):
        profile = profile_table(found.frame, notes=found.notes, formats=found.formats, typed=typed)
        assert profile.columns[0].note.count("is not read as a date") == 1


def test_a_screen_that_cannot_show_a_name_is_no_error(tmp_path: Path) -> None:
    model = TabularClassifier(quality="fast", max_epochs=1, random_state=0)
    model.fit(pl.DataFrame({"\u6e29\u5ea6": X}), np.arange(N) % 2)
    model.save(tmp_path / "m.safetensors")
    done = subprocess.run(
        [sys.executable, "-m", "tabwright", "inspect", str(tmp_path / "m.safetensors")],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"calibration_error" in done.stdout


LABELLED = pd.DataFrame({"a": [1.5, 2.0, 3.0], "y": [0, 1, 0]})


@pytest.mark.parametrize(
    "frame",
    [
        LABELLED.set_index(pd.Index([10, 20, 30], name="customer")),
        LABELLED[LABELLED["a"] > 1.6],
        LABELLED.set_index(pd.MultiIndex.from_tuples([(1, "x"), (2, "y"), (3, "z")])),
    ],
    ids=["named", "what a filter leaves", "of two levels"],
)
def test_row_labels_of_pandas_in_parquet_are_no_columns(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").columns == ["a", "y"]
