"""Tables in memory: any library's frame becomes the same polars frame, or is refused by name."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tabwright.errors import TableError
from tabwright.tables.frames import as_frame, as_series
from tests.packages import ROOT

ROWS: list[dict[str, Any]] = [
    {"size": 1.5, "count": 2**53 + 1, "kind": "red", "old": True},
    {"size": None, "count": None, "kind": None, "old": None},
    {"size": -2.0, "count": -3, "kind": "été", "old": False},
]
EXPECTED = pl.DataFrame(
    ROWS, schema={"size": pl.Float64, "count": pl.Int64, "kind": pl.String, "old": pl.Boolean}
)


def _nullable() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": pd.array([1.5, None, -2.0], dtype="Float64"),
            "count": pd.array([2**53 + 1, None, -3], dtype="Int64"),
            "kind": pd.array(["red", None, "été"], dtype=pd.StringDtype("python")),
            "old": pd.array([True, None, False], dtype="boolean"),
        }
    )


FORMS: dict[str, Any] = {
    "polars": EXPECTED,
    "polars lazy": EXPECTED.lazy(),
    "list of dicts": ROWS,
    "pyarrow table": EXPECTED.to_arrow(),
    "pyarrow batch": EXPECTED.to_arrow().to_batches()[0],
    "pandas nullable": _nullable(),
    "pandas with Arrow": EXPECTED.to_pandas(use_pyarrow_extension_array=True),
    "pandas with objects": pd.DataFrame(
        {name: pd.Series([row[name] for row in ROWS], dtype=object) for name in EXPECTED.columns}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_the_same_in_every_form(form: str) -> None:
    frame, named = as_frame(FORMS[form])
    assert named
    assert frame.equals(EXPECTED)
    assert frame.schema == EXPECTED.schema


def test_an_object_with_the_arrow_stream_is_a_table() -> None:
    class Holder:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return EXPECTED.__arrow_c_stream__(requested_schema)

    frame, named = as_frame(Holder())
    assert named
    assert frame.equals(EXPECTED)


def test_rows_without_names_are_numbered() -> None:
    for rows in (
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        [[1.0, 2.0], [3.0, 4.0]],
        [(1.0, 2.0), np.array([3.0, 4.0])],
        np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
        np.array([[1.0, 2.0], [3.0, 4.0]], dtype=">f8"),
        pd.DataFrame([[1.0, 2.0], [3.0, 4.0]]),
    ):
        frame, named = as_frame(rows)
        assert not named
        assert frame.equals(pl.DataFrame({"x0": [1.0, 3.0], "x1": [2.0, 4.0]}))
        given_names, named = as_frame(rows, names=["a", "b"])
        assert named
        assert given_names.columns == ["a", "b"]


def test_columns_of_polars_and_numpy_share_their_memory() -> None:
    array = np.asfortranarray(np.random.default_rng(0).normal(size=(1_000, 3)))
    frame, _ = as_frame(array)
    assert np.shares_memory(frame["x1"].to_numpy(), array)
    table, _ = as_frame(frame)
    assert np.shares_memory(table["x1"].to_numpy(), array)
    arrow = frame.to_arrow()
    again, _ = as_frame(arrow)
    assert np.shares_memory(again["x1"].to_numpy(), arrow["x1"].chunk(0).to_numpy())


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            st.none() | st.booleans(),
            st.none() | st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 1, 1)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_pandas_arrow_and_dicts_agree_on_any_cells(rows: list[tuple[Any, ...]]) -> None:
    schema: dict[str, pl.DataType] = {
        "f": pl.Float64(),
        "i": pl.Int64(),
        "t": pl.String(),
        "b": pl.Boolean(),
        "d": pl.Datetime("us"),
    }
    wanted = pl.DataFrame(rows, schema=schema, orient="row")
    arrow, _ = as_frame(wanted.to_arrow())
    assert arrow.equals(wanted)
    pandas, _ = as_frame(wanted.to_pandas(use_pyarrow_extension_array=True))
    assert pandas.equals(wanted)
    dicts, _ = as_frame(wanted.to_dicts())
    for name, dtype in schema.items():
        # A column of nothing but None has no type of its own.
        assert dicts[name].cast(dtype).equals(wanted[name])


# ---------------------------------------------------------------------------------------------
# Types
# ---------------------------------------------------------------------------------------------

UTC = dt.UTC
COLUMNS: dict[str, tuple[Any, pl.DataType | type[pl.DataType], list[Any]]] = {
    "NumPy text": (np.array(["a", "b"]), pl.String, ["a", "b"]),
    "NumPy variable text": (np.array(["a"], dtype=np.dtypes.StringDType()), pl.String, ["a"]),
    "NumPy dates": (np.array(["2020-01-01"], "M8[D]"), pl.Date, [dt.date(2020, 1, 1)]),
    "NumPy months": (
        np.array(["2020-01", "NaT"], "M8[M]"),
        pl.Datetime("us"),
        [dt.datetime(2020, 1, 1), None],
    ),
    "NumPy spans": (np.array([2], "m8[D]"), pl.Duration("us"), [dt.timedelta(days=2)]),
    "NumPy long double": (np.array([1.5], np.longdouble), pl.Float64, [1.5]),
    "NumPy masked": (np.ma.array([1, 2], mask=[True, False]), pl.Int64, [None, 2]),
    "pandas category": (pd.Series(["x", None], dtype="category"), pl.Categorical, ["x", None]),
    "pandas category of numbers": (
        pd.Series([1, 2, 1], dtype="category"),
        pl.Categorical,
        ["1", "2", "1"],
    ),
    "pandas zone": (
        pd.Series(pd.to_datetime(["2020-01-01", "NaT"]).tz_localize("America/New_York")),
        pl.Datetime("us", "America/New_York"),
        [dt.datetime(2020, 1, 1, 5, tzinfo=UTC), None],
    ),
    "pandas fixed offset": (
        pd.Series(pd.to_datetime(["2020-01-01T00:00:00+05:30"])),
        pl.Datetime("us", "UTC"),
        [dt.datetime(2019, 12, 31, 18, 30, tzinfo=UTC)],
    ),
    "pandas period": (
        pd.Series(pd.period_range("2020-01", periods=1, freq="M")),
        pl.Datetime("us"),
        [dt.datetime(2020, 1, 1)],
    ),
    "pandas sparse": (pd.Series(pd.arrays.SparseArray([0, 0, 1])), pl.Int64, [0, 0, 1]),
    "pandas unsigned": (pd.Series(np.array([2**64 - 1], "u8")), pl.UInt64, [2**64 - 1]),
    "Arrow dictionary": (
        pa.array(["x", None, "x"]).dictionary_encode(),
        pl.Categorical,
        ["x", None, "x"],
    ),
    "Arrow fixed offset": (
        pa.array([0], pa.timestamp("us", "+05:30")),
        pl.Datetime("us", "UTC"),
        [dt.datetime(1970, 1, 1, tzinfo=UTC)],
    ),
    "Arrow 256-bit decimal": (
        pa.array([Decimal("1.50")], pa.decimal256(50, 2)),
        pl.Decimal(38, 2),
        [Decimal("1.50")],
    ),
    "Arrow run lengths": (
        pa.RunEndEncodedArray.from_arrays([1, 3], [5, 7]),
        pl.Int64,
        [5, 7, 7],
    ),
    "Arrow nulls": (pa.nulls(2), pl.Null, [None, None]),
    "list of floats and integers": ([1, 2.5, None], pl.Float64, [1.0, 2.5, None]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_of_column_is_read_as_what_it_is(name: str) -> None:
    column, dtype, cells = COLUMNS[name]
    series = as_series(column)
    assert series.dtype == dtype
    assert series.to_list() == cells


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        (np.array([1j]), "Complex data not supported: column 'y' holds complex128; split it"),
        (np.array([b"x"]), r"'y' must hold text, not bytes; got \[b'x'\]; decode it"),
        (np.zeros(2, "V4"), "'y' must hold numbers, text, booleans or dates; got dtype .*V4"),
        (
            pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
            "'y' must hold .* got the Arrow type month_day_nano_interval .*; cast it first",
        ),
        (
            pa.array([Decimal("1" * 60)], pa.decimal256(76, 2)),
            r"got the Arrow type decimal256\(76, 2\) .*does not fit in precision 38",
        ),
        (np.zeros((2, 2)), r"y should be a 1d array; got an array of shape \(2, 2\) instead"),
        ({"a": 1}, "y must be one column .* got dict"),
        ("abc", "y must be one column .* got str"),
    ],
)
def test_columns_of_other_kinds_are_refused(column: object, rule: str) -> None:
    with pytest.raises(TableError, match=rule):
        as_series(column)


@pytest.mark.parametrize("as_categories", [True, False])
def test_intervals_are_levels_as_pandas_writes_them(as_categories: bool) -> None:
    cells = pd.cut(pd.Series([10.0, np.nan, 40.0]), [0, 30, 50])
    column = cells if as_categories else pd.Series(pd.arrays.IntervalArray(cells))
    found = as_frame(pd.DataFrame({"band": column}))[0]["band"]
    names = ["(0, 30]", "(30, 50]"] if as_categories else ["(0.0, 30.0]", "(30.0, 50.0]"]
    assert found.cast(pl.String).to_list() == [names[0], None, names[1]]


# ---------------------------------------------------------------------------------------------
# What is no table
# ---------------------------------------------------------------------------------------------

TWICE = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])


class _TwiceInAStream:
    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return TWICE.__arrow_c_stream__(requested_schema)


REFUSED: dict[str, tuple[Any, str]] = {
    "sparse matrix": (
        sp.csr_matrix(np.eye(2)),
        "Sparse data was passed for X, but dense data is required by TabularClassifier",
    ),
    "sparse array": (sp.coo_array(np.eye(2)), "Sparse data was passed for X"),
    "one dimension": (np.arange(3), r"Expected 2D array, got 1D array .*[\s\S]*reshape\(-1, 1\)"),
    "a series": (pl.Series([1]), "Expected 2D array, got 1D array"),
    "a number": (np.array(3.0), "Expected 2D array, got scalar array"),
    "three dimensions": (np.zeros((2, 2, 2)), r"Found array with dim 3.* shape \(2, 2, 2\)"),
    "complex": (np.array([[1j]]), "Complex data not supported: column 'x0'"),
    "no rows": (
        np.zeros((0, 3)),
        re.escape(
            "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required by "
            "TabularClassifier."
        ),
    ),
    "no rows in a list": ([], r"0 sample\(s\) \(shape=\(0,\)\) .* required by TabularClassifier"),
    "no rows in polars": (EXPECTED.clear(), r"0 sample\(s\) \(shape=\(0, 4\)\)"),
    "no columns": (np.zeros((3, 0)), r"0 feature\(s\) \(shape=\(3, 0\)\) .* minimum of 1"),
    "no columns in pandas": (pd.DataFrame(index=[1, 2]), r"0 feature\(s\) \(shape=\(2, 0\)\)"),
    "rows of no cells": ([[], []], r"0 feature\(s\)"),
    "a name twice": (
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        "column names must differ; 'a' comes 2 times; rename or drop the copies",
    ),
    "a name twice in Arrow": (TWICE, "column names must differ; 'a' comes 2 times"),
    "a name twice in a stream": (_TwiceInAStream(), "column names must differ; .*'a'"),
    "names that are no text": (
        pd.DataFrame([[1, 2]], columns=["a", 6]),
        r"column names must be text; got 6 \(int\); .*df.columns.astype\(str\)",
    ),
    "a name that is missing": (pd.DataFrame([[1, 2]], columns=["a", None]), "must be text"),
    "keys that are no text": ([{1: 1}], r"column names must be text; got 1 \(int\)"),
    "levels of names": (
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        "column names must be text; got a MultiIndex of 2 levels; flatten it",
    ),
    "rows of several lengths": (
        [[1, 2], [3]],
        r"every row must have as many cells as the first \(2\); got 1 in row 2",
    ),
    "dicts and others": ([{"a": 1}, [2]], "must hold only dicts; got list in row 2"),
    "lists in cells": (
        pl.DataFrame({"a": [[1, 2]]}),
        r"'a' must hold single values .* got \[1, 2\] \(List\(Int64\)\) in row 1",
    ),
    "structs in cells": (pa.table({"a": [{"x": 1}]}), r"'a' must hold single values .*\{'x': 1\}"),
    "objects in cells": (
        pd.DataFrame({"a": [None, object()]}),
        r"'a' must hold single values .*<object object .* in row 2; split it",
    ),
    "bytes in cells": (pl.DataFrame({"a": [b"x"]}), r"'a' must hold single values .* got b'x'"),
    "a path": ("table.csv", r"must be a table in memory; got the str 'table.csv'; .*read_table"),
    "columns in a dict": (
        {"a": [1]},
        r"must be a table; got a dict; put a single row into a list, .*polars.DataFrame",
    ),
    "nothing": (None, "X must be a table: .*; got NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_is_refused(case: str) -> None:
    X, rule = REFUSED[case]
    with pytest.raises(TableError, match=rule):
        as_frame(X, estimator="TabularClassifier")


def test_names_must_fit_the_columns() -> None:
    with pytest.raises(TableError, match="names must hold one name per column; got 1 names for 2"):
        as_frame(np.zeros((1, 2)), names=["a"])
    with pytest.raises(TableError, match="column names must differ; 'a' comes 2 times"):
        as_frame(np.zeros((1, 2)), names=["a", "a"])


def test_whole_numbers_as_pandas_names_become_text() -> None:
    frame, named = as_frame(pd.DataFrame([[1, 2]], columns=[2019, 2020]))
    assert named
    assert frame.columns == ["2019", "2020"]


def test_pandas_is_read_without_pyarrow() -> None:
    code = """
import sys
sys.modules["pyarrow"] = None
import pandas as pd
from tabwright.tables.frames import as_frame
frame = pd.DataFrame({
    "n": [1.5, None], "s": pd.array(["a", None], dtype=pd.StringDtype("python")),
    "c": pd.Categorical(["x", None]), "i": pd.array([1, None], dtype="Int64"),
    "o": pd.Series(["b", None], dtype=object), "d": pd.to_datetime(["2020-01-01", None]),
})
table, named = as_frame(frame)
print(table.select("s", "c", "i", "o").rows(), named)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[('a', 'x', 1, 'b'), (None, None, None, None)] True"
