"""Warnings point to the line of the caller, not into the library."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier

FRAME = pl.DataFrame(
    {"size": np.arange(80) % 7 + 0.5, "kind": ["a", "b", "c", "b"] * 20, "label": [0, 1, 1, 0] * 20}
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda rows: rows.with_columns(kind=pl.lit("zz")), "no cell of column 'kind' is a level"),
        (lambda rows: rows.with_columns(more=pl.lit(1)), "ignored 1 column"),
    ],
)
def test_a_warning_of_predict_has_the_line_of_the_caller(
    change: Callable[[pl.DataFrame], pl.DataFrame], text: str
) -> None:
    model = TabularClassifier(max_epochs=1, n_members=1, hidden_dim=8, quality="fast", n_folds=1)
    model.fit(FRAME.drop("label"), FRAME["label"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.predict(change(FRAME.drop("label")))
        model.predict_proba(change(FRAME.drop("label")))
    assert all(text in str(warning.message) for warning in caught)
    assert [warning.filename for warning in caught] == [__file__, __file__]
    assert caught[1].lineno == caught[0].lineno + 1
