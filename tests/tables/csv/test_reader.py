"""CSV as text: encodings, separators, quotes, headers; every broken record is named by its line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables import read_table
from tabwright.tables.csv.reader import CsvFormat, csv_frames
from tabwright.tables.csv.text import text_blocks


def _read(
    folder: Path, data: bytes | str, name: str = "t.csv", chunk_bytes: int = 1 << 20, **layout: Any
) -> pl.DataFrame:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return pl.concat(
        csv_frames(path, CsvFormat(**layout), chunk_bytes=chunk_bytes, finds_types=True)
    )


PLAIN = "a,b\n1,é\n2,y\n"
ROWS = [("1", "é"), ("2", "y")]
FORMS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "plain": (PLAIN.encode(), {}),
    "no newline at the end": (PLAIN.encode()[:-1], {}),
    "returns and newlines": (PLAIN.replace("\n", "\r\n").encode(), {}),
    "returns": (PLAIN.replace("\n", "\r").encode(), {}),
    "blank lines": (b"\n\r\n" + PLAIN.replace("\n", "\n\n").encode() + b"\r\n", {}),
    "UTF-8 with its mark": (codecs.BOM_UTF8 + PLAIN.encode(), {}),
    "UTF-16": (PLAIN.encode("utf-16"), {}),
    "UTF-16, big end first": (codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"), {}),
    "UTF-16 said": (PLAIN.encode("utf-16-le"), {"encoding": "utf-16-le"}),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), {}),
    "UTF-16 without a mark, big end first": (PLAIN.encode("utf-16-be"), {}),
    "UTF-32": (PLAIN.encode("utf-32"), {}),
    "cp1252": (PLAIN.encode("cp1252"), {"encoding": "cp1252"}),
    "gzip": (gzip.compress(PLAIN.encode()), {}),
    "semicolons": (PLAIN.replace(",", ";").encode(), {}),
    "tabs": (PLAIN.replace(",", "\t").encode(), {}),
    "bars": (PLAIN.replace(",", "|").encode(), {}),
    "colons": (PLAIN.replace(",", ":").encode(), {"delimiter": ":"}),
    "a line that names the delimiter": (b"sep=;\n" + PLAIN.replace(",", ";").encode(), {}),
    "quoted": (b'"a","b"\n"1","\xc3\xa9"\n"2","y"\n', {}),
    "spaces around quotes": (b'"a" , "b"\n 1x, "\xc3\xa9"\n'.replace(b" 1x", b"1") + b'2,"y"', {}),
    "marks before the names": (codecs.BOM_UTF8 * 3 + PLAIN.encode(), {}),
    "names from outside": (b"A,B\n" + PLAIN.encode()[4:], {"column_names": ("a", "b")}),
    "no header": (
        PLAIN.encode()[4:],
        {"has_header": False, "column_names": ("a", "b")},
    ),
}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_a_table_reads_alike(
    tmp_path: Path, form: str, chunk_bytes: int
) -> None:
    data, layout = FORMS[form]
    frame = _read(tmp_path, data, chunk_bytes=chunk_bytes, **layout)
    assert frame.columns == ["a", "b"]
    assert frame.rows() == ROWS
    assert set(frame.dtypes) == {pl.String}


def test_tabs_separate_tsv_whatever_else_is_in_it(tmp_path: Path) -> None:
    assert _read(tmp_path, "a\tb,c\n1,2\t3\n", name="t.tsv").rows() == [("1,2", "3")]


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    assert _read(tmp_path, ",b, \n1,2,3\n").columns == ["unnamed_1", "b", "unnamed_3"]
    frame = _read(tmp_path, "1,2\n3,4\n", has_header=False)
    assert frame.columns == ["column_1", "column_2"]
    assert len(frame) == 2


def test_years_may_name_columns(tmp_path: Path) -> None:
    assert _read(tmp_path, "name,2019,2020\nx,1,2\n").columns == ["name", "2019", "2020"]
    assert _read(tmp_path, "1.5,?\n1,2\n", has_header=True).columns == ["1.5", "?"]


def test_an_encoding_that_is_not_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"t.csv: the text must be utf-16; it is not \(UTF-16"):
        _read(tmp_path, "a,b\n1,2\n", encoding="utf-16")


def test_without_quotes_a_quote_is_a_character(tmp_path: Path) -> None:
    frame = _read(tmp_path, 'size,b\n5" pipe,"x\n', quotes=False)
    assert frame.rows() == [('5" pipe', '"x')]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6),
    chunk_bytes=st.sampled_from([1, 5, 64, 1 << 20]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path: Path,
    rows: list[tuple[str, str, str]],
    chunk_bytes: int,
    line_end: str,
    delimiter: str,
    encoding: str,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *rows])
    frame = _read(
        tmp_path, text.getvalue().encode(encoding), chunk_bytes=chunk_bytes, delimiter=delimiter
    )
    assert frame.rows() == rows


# ---------------------------------------------------------------------------------------------
# What is no table of text
# ---------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "is empty; a table needs a line of column names and rows"),
    "only a mark": (codecs.BOM_UTF8, "is empty"),
    "only blank lines": (b"\n\r\n\n", "is empty"),
    "only spaces": (b"  \n  \n", "is empty"),
    "a field too few": (
        b"a,b,c\n1,2,3\n\n4,5\n",
        r"line 4: every line must have as many fields as there are columns \(3\); got 2; quote "
        r"cells that hold ','",
    ),
    "a blank line in one column": (
        b"a\n1\n\n2\n",
        "line 3: a table of one column must have no blank lines between its rows; got one, which "
        r"may be an empty cell; write the cell as two quotes \(\"\"\)",
    ),
    "a blank line in one column, with returns": (b"a\r\n\r\n1\r\n2\r\n", "line 2: .* blank lines"),
    "a field too many": (b"a,b\n1,2\n3,4,5\n", r"line 3: .* columns \(2\); got 3"),
    "a field too many behind a cell of two lines": (
        b'a,b\n1,"x\ny"\n3,4,5\n',
        r"line 4: .* columns \(2\); got 3",
    ),
    "an unclosed quote": (
        b'a,b\n1,x\n2,"y\n3,z\n',
        "line 3: a quote is opened and never closed; close it, double it",
    ),
    "a quote within a cell": (
        b'a,b\n1,x\n2,5" pipe and 6" pipe\n',
        "line 3: a quote must enclose a whole cell; got one within a cell; .*quotes=False",
    ),
    "text behind a quote": (b'a,b\n1,"x"y\n', "line 2: a quote must enclose a whole cell"),
    "a title": (b"Report\na,b\n1,2\n", r"line 2: .* columns \(1\); got 2; if the first line is a"),
    "a remark": (b"a,b\n1,2\nSource: x\n", r"line 3: .*; got 1; if it stands below the table"),
    "names again": (
        b"a,b\n1,x\n\na,b\n2,y\n",
        "line 4: a file must begin once; this line repeats the names, as where files were put "
        "together; give the files as a folder or a pattern",
    ),
    "names again at the end": (b"a,b\n1,x\na,b", "line 3: .* repeats the names"),
    "a mark in the midst": (
        b"a,b\n1,x\n" + codecs.BOM_UTF8 + b"2,y\n",
        "line 3: a file must begin once; this line has a byte order mark",
    ),
    "a line of units": (
        b"a,b,c\nmg/L,kg,\n1,2,x\n2.5,1,x\n3,,y\n1,1,y\n",
        r"line 2: rows must begin below the names; got what looks like a line of units or types "
        r"\('mg/L', 'kg'\); delete the line, or name the text if .* by the argument missing",
    ),
    "NUL": (b"a,b\n1,x\n2,\0\n", "line 3: text must not hold NUL bytes; .*encoding='utf-16-le'"),
    "UTF-32 without a mark": (
        "a,b\n1,2\n".encode("utf-32-le"),
        "line 1: .* NUL bytes; .* name it, e.g. encoding=",
    ),
    "another format": (b"PK\x03\x04\x14\0\0\0", "compressed data must be whole; .* not a zip file"),
    "bytes of no encoding that is tried": (
        b"a,b\n1,x\n2,\x81t\x81\n",
        "line 3: the text must be utf-8; got the byte 0x81; name the encoding .*'shift_jis'",
    ),
    "UTF-8 with a damaged byte": (
        "a,b\n1,größer\n".encode() + b"2,\xe9t\n",
        "line 3: the text must be utf-8; got the byte 0xe9",
    ),
    "half a character at the end": (
        "a,b\n1,é".encode() + b"\xc3",
        "line 2: the text must be utf-8; .* 0xc3",
    ),
    "gzip cut short": (
        gzip.compress(b"a,b\n" + bytes(range(32, 127)) * 50)[:-12],
        "compressed data must be whole; it is damaged or cut short .*; copy the file again",
    ),
    "gzip damaged": (
        gzip.compress(b"a,b\n1,2\n")[:-8] + b"\1" * 8,
        "compressed data must be whole",
    ),
    "a name twice": (
        b"a,b, a\n1,2,3\n",
        "column names must differ; 'a' comes 2 times; rename the copies in the file, or give",
    ),
    "no header": (
        b"39, State-gov, 77516, 13\n50, Private, 83311, 13\n",
        r"the first line must hold column names; got what looks like data \('39', 'State-gov', "
        r"'77516', '13'\); read it with has_header=False",
    ),
    "a number as a name": (b"a,1.5\n1,2\n", "got what looks like data"),
    "a marker as a name": (b"a,NA\n1,2\n", "got what looks like data"),
    "the same number twice": (b"7,7\n1,2\n", "got what looks like data"),
}


@pytest.mark.parametrize("chunk_bytes", [3, 1 << 20])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_by_line(tmp_path: Path, fault: str, chunk_bytes: int) -> None:
    data, rule = BROKEN[fault]
    with pytest.raises(TableError, match=rule) as error:
        _read(tmp_path, data, chunk_bytes=chunk_bytes)
    assert str(tmp_path / "t.csv") in str(error.value)


ROWS_OF_THEIR_OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "markers": ("a,b\nn.d.,(none)\n1,2\n2,3\n3,4\n", {}),
    "markers that are said": ("a,b\nmg,kg\n1,2\n2,3\n3,4\n", {"missing": ("mg", "kg")}),
    "one number": ("a,b\nmg,1\n1,2\n2,3\n3,4\n", {}),
    "one column": ("a,b\nmg,x\n1,x\n2,y\n3,x\n", {}),
    "few rows": ("a,b\nmg,kg\n1,2\n2,3\n", {}),
    "no names": ("mg,kg\n1,2\n2,3\n3,4\n", {"has_header": False}),
    "names within a line": ("a,b\n1,a,b\n".replace("1,a,b", '1,"a,b"'), {}),
    "names within a cell": ('a,b\n1,"x\na,b\n"\n', {}),
    "the name of one column": ("a\nx\na\n", {}),
    "longer than the names": ("a,b\n1,2\na,b2\n", {}),
}


@pytest.mark.parametrize("case", ROWS_OF_THEIR_OWN)
def test_rows_that_look_like_the_head_of_a_file_are_rows(tmp_path: Path, case: str) -> None:
    text, layout = ROWS_OF_THEIR_OWN[case]
    with (tmp_path / "t.csv").open("w") as file:
        file.write(text)
    wanted = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))]
    names = [] if layout.get("has_header") is False else wanted[:1]
    assert _read(tmp_path, text, **layout).rows() == wanted[len(names) :]


def test_column_names_must_be_as_many_as_columns(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="has 2 columns; got 1 column_names; give one each"):
        _read(tmp_path, PLAIN, column_names=("a",))


@pytest.mark.parametrize(
    ("layout", "rule"),
    [
        ({"delimiter": ",,"}, "delimiter must be one ASCII character; got ',,'"),
        ({"delimiter": '"'}, "delimiter must be one ASCII character"),
        ({"delimiter": "é"}, "delimiter must be one ASCII character"),
        ({"decimal": "x"}, r"decimal must be '.' or ','; got 'x'"),
        ({"encoding": "none"}, "encoding must be one that Python knows.*; got 'none'"),
    ],
)
def test_a_layout_out_of_range_is_refused(layout: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        CsvFormat(**layout)


def test_a_record_longer_than_any_is_an_unclosed_quote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tabwright.tables.csv.records._LONGEST_RECORD", 1_000)
    with pytest.raises(TableError, match="line 2: a quote is opened and never closed"):
        _read(tmp_path, 'a,b\n1,"x\n' + "2,y\n" * 1_000, chunk_bytes=500)


def test_memory_is_bounded_by_the_chunk(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 5_000)
    frames = list(csv_frames(path, CsvFormat(), chunk_bytes=1_000))
    assert sum(map(len, frames)) == 5_000
    assert max(map(len, frames)) <= 500
    assert max(map(len, text_blocks(path, "utf-8", chunk_bytes=1_000))) <= 1_000


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
def test_returns_end_records_whatever_ends_the_file(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\r1,x\r2,y" + end)
    assert read_table(path).to_dicts() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_last_row_of_empty_cells_is_a_row(end: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(("u\tv\n0.5\t1\n\t\n0.1\t2\n\t" + end).encode())
    assert read_table(path)["u"].to_list() == [0.5, None, 0.1, None]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("Preis, EUR;menge;y\n1,10;2;a\n3,20;4;b\n", ["Preis, EUR", "menge", "y"]),
        ("name;town, country;y\nn1;Oslo, NO;0\nn2;Rom, IT;1\n", ["name", "town, country", "y"]),
        ("a\tb,c\ty\n1\t2,3\t0\n", ["a", "b,c", "y"]),
        ("a,b;c,d\n1,2;3,4\n", ["a", "b;c", "d"]),
    ],
)
def test_the_delimiter_is_what_makes_most_columns(
    text: str, columns: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    assert read_table(path).columns == columns


def test_numbers_between_spaces_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.data"
    path.write_text("a b y\n0.5   1  2\n1.5 3 4\n", encoding="utf-8")
    with pytest.raises(TableError, match="must have a separator of one character; got 3 columns"):
        read_table(path)
    path.write_text("full name\nAda Byron\nAlan Turing\n", encoding="utf-8")
    assert read_table(path).columns == ["full name"]
