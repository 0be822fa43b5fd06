"""A pandas frame of one row is read cell by cell: it must say what the frame route says."""

import datetime as dt
import math
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabwright import TabularClassifier, TabularRegressor
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import TableError
from tabwright.inference.pandas_row import row_cells
from tabwright.tables import as_frame, profile_table

N_ROWS = 120
TEXTS = ["a", "b", "1", " 1 ", "1.0", "007", "True", "NA", "", "größe", "2024-01-02T00:00:00", "zz"]
TIMES = [pd.Timestamp("2024-01-02"), pd.Timestamp("1999-12-31 23:59:59.000001"), pd.NaT]

# Columns of every pandas type, and cells that may stand in them.
Column = Callable[[Any], Any]


def _typed(dtype: str) -> Column:
    return lambda cell: pd.Series([cell], dtype=dtype)


def _moments(unit: str, zone: str | None = None) -> Column:
    def column(cell: Any) -> Any:
        series = pd.Series([cell], dtype=f"datetime64[{unit}]")
        return series if zone is None else series.dt.tz_localize("UTC").dt.tz_convert(zone)

    return column


NUMBERS = st.sampled_from([0.0, -1.5, 3.0, 1e300, math.inf, -math.inf, math.nan, 2.0**60])
SMALL = st.integers(0, 100)
WIDE = st.integers(-(2**63), 2**63 - 1)
MAYBE = st.sampled_from([pd.NA, 0, 1, 7])
MOMENTS = st.sampled_from(TIMES)
OBJECTS = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(
        [None, math.nan, pd.NA, pd.NaT, True, 3, 2.5, 2**64, 10**30, Decimal("1.50"), np.float32(1)]
    ),
    st.sampled_from([np.float64(2.0), np.bool_(True), dt.date(2024, 1, 2), dt.time(3), TIMES[0]]),
)
COLUMNS: dict[str, tuple[Column, st.SearchStrategy[Any]]] = {
    "float64": (_typed("float64"), NUMBERS),
    "float32": (_typed("float32"), st.sampled_from([0.1, 1.5, math.nan, 3.0])),
    "float16": (_typed("float16"), st.sampled_from([0.5, 1.5, math.nan])),
    "int64": (_typed("int64"), WIDE),
    "int8": (_typed("int8"), SMALL),
    "uint64": (_typed("uint64"), st.integers(0, 2**64 - 1)),
    "bool": (_typed("bool"), st.booleans()),
    "object": (_typed("object"), OBJECTS),
    "str": (_typed("str"), st.sampled_from([*TEXTS, None])),
    "string": (_typed("string"), st.sampled_from([*TEXTS, pd.NA])),
    "Int64": (_typed("Int64"), st.one_of(MAYBE, WIDE)),
    "UInt8": (_typed("UInt8"), MAYBE),
    "Float64": (_typed("Float64"), st.one_of(st.sampled_from([pd.NA, 0.25, 1e300]))),
    "Float32": (_typed("Float32"), st.sampled_from([pd.NA, 0.1, 3.0])),
    "boolean": (_typed("boolean"), st.sampled_from([pd.NA, True, False])),
    "categories of text": (_typed("category"), st.sampled_from([*TEXTS, None])),
    "categories of numbers": (_typed("category"), st.sampled_from([1, 2, 0.5, math.nan])),
    "categories of booleans": (_typed("category"), st.booleans()),
    **{f"datetime64[{u}]": (_moments(u), MOMENTS) for u in ("us", "ns", "ms", "s")},
    "zoned": (_moments("us", "Europe/Berlin"), MOMENTS),
    "zoned ns": (_moments("ns", "America/New_York"), MOMENTS),
    "timedelta": (_typed("timedelta64[ns]"), st.sampled_from([pd.Timedelta("1s"), pd.NaT])),
    "sparse": (_typed("Sparse[float64]"), st.sampled_from([0.0, 1.0, math.nan])),
    "period": (_typed("period[M]"), st.sampled_from([pd.Period("2024-02"), pd.NaT])),
    "arrow": (_typed("int64[pyarrow]"), MAYBE),
}
PLANS = ("number", "account", "kind", "open", "when")


@cache
def encoder() -> TableEncoder:
    """Of one column of each kind, and one that is set aside."""
    draw = np.random.default_rng(0)
    start = dt.datetime(2024, 1, 1)
    frame = pl.DataFrame(
        {
            "number": [None if i % 9 == 0 else float(i) for i in range(N_ROWS)],
            "account": 2**60 + draw.integers(0, 50, N_ROWS),
            "kind": draw.choice(["a", "b", "1", "true", "größe", "2024-01-02"], N_ROWS),
            "open": draw.random(N_ROWS) < 0.5,
            "when": [start + dt.timedelta(minutes=37 * i) for i in range(N_ROWS)],
            "aside": ["always"] * N_ROWS,
        }
    )
    return TableEncoder().fit(
        RowsToFit(frame, profile_table(frame), target=np.arange(N_ROWS) % 2, task="classification")
    )


def outcome(encode: Callable[[], Compact]) -> tuple[str, list[float]]:
    """What is said of a row that is refused, but for how the cell is shown; or its compact form."""
    try:
        compact = encode()
    except TableError as error:
        return str(error).partition("; got ")[0], []
    return "", [*compact.numeric[0].tolist(), *map(float, compact.codes[0])]


def check(table: pd.DataFrame) -> None:
    """Both routes, refusals included."""
    own = encoder()

    def short() -> Compact:
        cells = row_cells(table)
        assert cells is not None
        return own.cells_row(cells)

    found, wanted = outcome(short), outcome(lambda: own.transform(as_frame(table)[0]))
    assert found[0] == wanted[0]
    np.testing.assert_array_equal(found[1], wanted[1])


PLAIN = {
    "number": [1.5],
    "account": [2**60 + 3],
    "kind": ["a"],
    "open": [True],
    "when": [TIMES[0]],
    "aside": ["always"],
}


@pytest.mark.parametrize("dtype", COLUMNS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_cell_of_any_type_means_what_its_column_means(dtype: str, data: st.DataObject) -> None:
    build, cells = COLUMNS[dtype]
    table = pd.DataFrame(PLAIN)
    column = data.draw(st.sampled_from([*PLANS, "aside"]))
    table[column] = build(data.draw(cells))
    check(table)
    # Few types together are stored in another way than many.
    check(table[[column]].join(table.drop(columns=column)))


@settings(max_examples=40)
@given(data=st.data())
def test_any_row_means_what_its_table_means(data: st.DataObject) -> None:
    parts = {}
    for column in data.draw(st.permutations([*PLANS, "aside"])):
        build, cells = COLUMNS[data.draw(st.sampled_from(sorted(COLUMNS)))]
        parts[column] = build(data.draw(cells))
    check(pd.DataFrame(parts))


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({name: [float(i)] for i, name in enumerate(PLAIN)}),
        pd.DataFrame({name: [2**53 + 1 if i % 2 else 0.5] for i, name in enumerate(PLAIN)}),
        pd.DataFrame(PLAIN, dtype=object),
        pd.DataFrame({name: [np.float32(0.1)] for name in PLAIN}),
        pd.DataFrame({**PLAIN, "aside": [["nested"]]}),
        pd.DataFrame({**PLAIN, "kind": pd.Series(["\ud800"], dtype=object)}),
        pd.DataFrame(PLAIN).drop(columns="open"),
        pd.DataFrame(PLAIN, index=["a row's name"]),
    ],
)
def test_tables_of_one_row(table: pd.DataFrame) -> None:
    check(table)


def test_integers_beside_floats_keep_their_digits() -> None:
    table = pd.DataFrame({"x": [0.5], "y": [2**60 + 1]})
    assert row_cells(table) == {"x": 0.5, "y": 2**60 + 1}


@pytest.mark.parametrize(
    "table",
    [
        None,
        {"a": 1},
        np.zeros((1, 2)),
        pl.DataFrame({"a": [1]}),
        pd.Series([1.0], name="a"),
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"a": []}),
        pd.DataFrame(np.zeros((1, 2))),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
        pd.DataFrame(index=[0]),
    ],
)
def test_other_tables_take_the_long_way(table: object) -> None:
    assert row_cells(table) is None


def test_another_column_is_ignored_with_a_warning() -> None:
    cells = row_cells(pd.DataFrame({**PLAIN, "more": [1]}))
    assert cells is not None
    with pytest.warns(UserWarning, match="ignored 1 column that the model was not trained on"):
        encoder().cells_row(cells)


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_estimators_say_of_a_row_what_they_say_of_a_table(kind: type) -> None:
    draw = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "size": np.where(draw.random(90) < 0.1, np.nan, draw.normal(size=90)),
            "count": draw.integers(0, 9, 90),
            "kind": draw.choice(["red", "green", "1"], 90),
            "group": pd.Categorical(draw.choice(["x", "y"], 90)),
            "when": pd.date_range("2024-01-01", periods=90, freq="7h"),
        }
    )
    model = kind(hidden_dim=8, n_members=2, max_epochs=2, random_state=0)
    model.fit(table, (np.arange(90) % 2).astype(float if kind is TabularRegressor else int))
    predict = model.predict if kind is TabularRegressor else model.predict_proba
    whole = predict(table)
    for i in range(0, 90, 7):
        one = predict(table.iloc[[i]])
        assert one.shape == whole[i : i + 1].shape
        assert one.dtype == whole.dtype
        np.testing.assert_allclose(one, whole[i : i + 1], rtol=1e-9, atol=1e-6)
        same = predict(pl.DataFrame(as_frame(table.iloc[[i]])[0]))
        np.testing.assert_array_equal(one, same)
    lacking = table.iloc[[0]].drop(columns="kind")
    with pytest.raises(TableError, match="'kind' is missing"):
        predict(lacking)
