"""A moment as text means the same in a single row as in a column."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.encoding.values import _PLAIN_MOMENT, moment
from tabwright.errors import TableError
from tabwright.tables import to_microseconds


def by_column(text: str) -> Any:
    try:
        return to_microseconds(pl.Series("when", [text]))[0]
    except TableError as error:
        return str(error)


def by_row(text: str) -> Any:
    try:
        return moment("when", text)
    except TableError as error:
        return str(error)


@given(st.from_regex(_PLAIN_MOMENT, fullmatch=True))
def test_a_row_reads_every_plain_moment_as_a_column_does(text: str) -> None:
    assert by_row(text) == by_column(text)


@pytest.mark.parametrize(
    "text",
    [
        "2020-02-30",
        "0000-01-01",
        "0001-01-01T00:00+13:59",
        "9999-12-31T23:59:59.999999-13:59",
        "2020-01-01T00:00:00.5",
        "2020-01-01T24:00",
        "2020-01-01 07:08:09.123+05:30",
        "2020-01-01T07:08Z",
        "2020-01",
        "nothing",
    ],
)
def test_edges_and_other_spellings_too(text: str) -> None:
    assert by_row(text) == by_column(text)
