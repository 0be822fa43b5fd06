"""A column in which nothing is known is told of; single unknown levels are everyday."""

import warnings

import numpy as np
import polars as pl
import pytest

from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.tables import profile_table


def encoder() -> TableEncoder:
    frame = pl.DataFrame({"city": ["Rom", "Ulm", "Bonn"] * 100, "x": np.arange(300.0) % 7})
    return TableEncoder().fit(
        RowsToFit(frame, profile_table(frame), target=None, task="classification")
    )


def test_a_column_without_a_known_level_is_told_of() -> None:
    frame = pl.DataFrame({"city": ["0", "1", None] * 10, "x": [0.0] * 30})
    with pytest.warns(UserWarning, match="no cell of column 'city' is .* got 20 others, the first"):
        encoder().transform(frame, warns=True)


@pytest.mark.parametrize(
    "cells", [["0"] * 9, ["0"] * 30 + ["Rom"], [None] * 30], ids=["few", "one known", "missing"]
)
def test_other_columns_are_not(cells: list[str | None]) -> None:
    frame = pl.DataFrame(
        {"city": cells, "x": [0.0] * len(cells)}, schema_overrides={"city": pl.String}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder().transform(frame, warns=True)


def test_a_fit_hears_nothing_of_it() -> None:
    frame = pl.DataFrame({"city": ["0"] * 30, "x": [0.0] * 30})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder().transform(frame)
