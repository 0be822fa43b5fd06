"""One row as a dict, with cells of any kind: encoded, or refused, as a table of that row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabwright.encoding import row_encoder
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import TableError
from tabwright.tables import as_frame, profile_table
from tabwright.tables.cells import MISSING_MARKERS, NUMERIC_MARKERS

N_ROWS = 200


def _fitted() -> tuple[TableEncoder, dict[str, Any]]:
    draw = np.random.default_rng(0)
    start = dt.datetime(2024, 1, 1)
    sizes = draw.normal(size=N_ROWS)
    frame = pl.DataFrame(
        {
            "size": [None if i % 9 == 0 else float(sizes[i]) for i in range(N_ROWS)],
            "account": 2**60 + draw.integers(0, 50, N_ROWS),
            "kind": draw.choice(["a", "b", "1"], N_ROWS),
            "old": draw.random(N_ROWS) < 0.5,
            "when": [start + dt.timedelta(minutes=37 * i) for i in range(N_ROWS)],
        }
    )
    encoder = TableEncoder().fit(
        RowsToFit(frame, profile_table(frame), target=np.arange(N_ROWS) % 2, task="classification")
    )
    return encoder, frame.row(3, named=True)


ENCODER, ROW = _fitted()
CELLS: dict[str, Any] = {
    "None": None,
    "NaN": float("nan"),
    "pandas NA": pd.NA,
    "pandas NaT": pd.NaT,
    "NumPy NaT": np.datetime64("NaT"),
    "Decimal NaN": Decimal("NaN"),
    "NumPy date": np.datetime64("2024-01-02"),
    "NumPy nanoseconds": np.datetime64("2024-01-02T03", "ns"),
    "NumPy span": np.timedelta64(1, "ns"),
    "pandas time": pd.Timestamp("2024-01-02 03:00", tz="Europe/Berlin"),
    "date": dt.date(2024, 1, 2),
    "span": dt.timedelta(1),
    "time of day": dt.time(3),
    "float32": np.float32(1.5),
    "float16": np.float16(1.5),
    "long double": np.longdouble(1.5),
    "int64": np.int64(2**60 + 3),
    "NumPy boolean": np.bool_(True),
    "NumPy text": np.str_("a"),
    "Decimal": Decimal("1.5"),
    "an integer past 64 bits": 2**70,
    "an integer past float64": 10**400,
    "infinity": float("-inf"),
    "text with spaces": " 1 ",
    "text that is a number": "1.0",
    "text with NUL": "a\0",
    "half a surrogate": "\ud800",
    "list": [1],
    "dict": {"a": 1},
    "bytes": b"x",
    "complex": 1j,
    "array": np.array([1.5]),
    "object": object(),
}


@pytest.mark.parametrize("column", ROW)
@pytest.mark.parametrize("cell", CELLS)
def test_any_cell_is_encoded_as_in_a_table_of_one_row(column: str, cell: str) -> None:
    row = {**ROW, column: CELLS[cell]}
    refused, inputs = _outcome(lambda: ENCODER.expand(ENCODER.row(row)))
    wanted_refused, wanted = _outcome(lambda: ENCODER.expand(ENCODER.transform(as_frame([row])[0])))
    assert refused == wanted_refused
    assert bool(refused) == (inputs is None)
    if inputs is None or wanted is None:
        assert f"column '{column}'" in refused
        return
    np.testing.assert_array_equal(inputs, wanted)
    assert np.isfinite(inputs).all()


def _outcome(encode: Callable[[], np.ndarray]) -> tuple[str, np.ndarray | None]:
    """What is said of a row that is refused, or its inputs."""
    try:
        return "", encode()
    except TableError as error:
        return str(error), None


def test_a_date_column_of_nothing_but_nan_is_missing() -> None:
    frame = pl.DataFrame({**{name: [value] for name, value in ROW.items()}, "when": [np.nan]})
    wanted = ENCODER.expand(ENCODER.row({**ROW, "when": None}))
    np.testing.assert_array_equal(ENCODER.expand(ENCODER.transform(frame)), wanted)


# ---------------------------------------------------------------------------------------------
# Text cells
# ---------------------------------------------------------------------------------------------


def _fitted_to_text() -> TableEncoder:
    draw = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "amount": [f"{value:.2f}" for value in draw.normal(size=N_ROWS)],
            "kind": draw.choice(["x", "7", "true", "Ä", "Infinite"], N_ROWS),
        }
    )
    profile = profile_table(frame, roles={"amount": "numeric", "kind": "category"})
    return TableEncoder().fit(
        RowsToFit(frame, profile, target=np.arange(N_ROWS) % 2, task="classification")
    )


OF_TEXT = _fitted_to_text()
WORDS = [
    *(*MISSING_MARKERS, *NUMERIC_MARKERS),
    *(
        "113803",
        "-12",
        "+12",
        "007",
        "-007",
        "0",
        "-0",
        "12.50",
        "1e5",
        "1_000",
        "12,5",
        "٣",
        "１２",
    ),
    *("999999999999999", "9999999999999999", "9" * 25, "0.1234567890123456789", ".5", "5."),
    *(
        "inf",
        "Infinity",
        "INF2",
        "information",
        "true",
        "TRUE",
        "falſe",
        "fals",
        "t",
        "False alarm",
    ),
    *("É", "éa", "Ä", " Ä ", "ß1", "a\u00a0", "\u2003a", "2024-01-02", "2024-01-02T03:04", "1/2"),
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["amount", "kind"]),
    st.one_of(
        st.sampled_from(WORDS),
        st.text("0123456789+-.eEinfNaTtruFls Äé\t", max_size=8),
        st.from_regex(r"[+-]?[0-9]{1,18}(\.[0-9]{0,17})?", fullmatch=True),
    ),
)
def test_any_text_is_encoded_as_in_a_table_of_one_row(column: str, text: str) -> None:
    row = {"amount": "0.5", "kind": "x", column: text}
    found = _outcome(lambda: OF_TEXT.expand(OF_TEXT.row(row)))
    wanted = _outcome(lambda: OF_TEXT.expand(OF_TEXT.transform(pl.DataFrame([row]))))
    assert found[0] == wanted[0]
    if found[1] is not None and wanted[1] is not None:
        np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("column", ["amount", "kind"])
def test_plain_text_makes_no_table(column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, value: Any) -> pl.Series:
        raise AssertionError(f"a series was made of {value!r}")

    monkeypatch.setattr(row_encoder, "one", refuse)
    plain = ["113803", "-12", "", "?", "NA", "12"]
    plain += ["+3.25", "0.5", "-"] if column == "amount" else ["F33", "torn", "inner", "É", "other"]
    for text in plain:
        OF_TEXT.expand(OF_TEXT.row({"amount": "0.5", "kind": "x", column: text}))
