"""Differences, products and ratios: their values, their state, and what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tabwright.artifact.schema import Reader
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.interactions import (
    INTERACTION_KINDS,
    LARGEST,
    Interaction,
    interaction_values,
    interactions_from_state,
    interactions_to_state,
    may_interact,
)
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.errors import ArtifactError
from tabwright.tables import profile_table

PRODUCT = Interaction("product", 0, 1)
ALL = tuple(Interaction(kind, 0, 1) for kind in INTERACTION_KINDS)


def encoded(frame: pl.DataFrame, encoding: str = "robust") -> tuple[TableEncoder, np.ndarray]:
    encoder = TableEncoder(numeric_encoding=encoding)  # type: ignore[arg-type]
    compact = encoder.fit_transform(
        RowsToFit(frame, profile_table(frame), np.zeros(len(frame)), "regression")
    )
    return encoder, compact.numeric


def table(n: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    torque, speed = draw.normal(40, 10, n), draw.normal(1500, 180, n)
    torque[3], speed[4], speed[5] = np.nan, np.nan, 0.0
    return pl.DataFrame({"torque": torque, "speed": speed, "still": np.ones(n)}).fill_nan(None)


def test_values_are_those_of_the_columns() -> None:
    frame = table()
    encoder, numeric = encoded(frame)
    values = interaction_values(ALL, encoder.plan_.numbers, numeric)
    one, two = (frame[name].to_numpy() for name in ("torque", "speed"))
    with np.errstate(divide="ignore"):
        ratio = np.where(two == 0, np.nan, one / two)
    expected = np.stack([one + two, one - two, one * two, ratio], axis=1)
    assert np.isnan(values[3:5]).all()
    assert np.isnan(values[5, 3])
    known = np.isfinite(expected)
    assert np.array_equal(np.isfinite(values), known)
    np.testing.assert_allclose(values[known], expected[known], rtol=1e-5, atol=0.01)


def test_large_products_are_clipped() -> None:
    frame = pl.DataFrame({"a": [1e200, -1e200, 3e200, 1.0], "b": [2e200, 1e200, 1.0, 5e199]})
    encoder, numeric = encoded(frame)
    values = interaction_values((PRODUCT,), encoder.plan_.numbers, numeric)[:, 0]
    assert np.isfinite(values).all()
    assert values[:2].tolist() == [LARGEST, -LARGEST]


def test_numbers_at_the_end_of_float64_warn_of_nothing() -> None:
    frame = pl.DataFrame({"a": [1.7e308, -1.7e308, 0.0, 1.0], "b": [1e-300, 1e300, -1e-9, 5e199]})
    encoder, numeric = encoded(frame)
    values = interaction_values(ALL, encoder.plan_.numbers, numeric)
    assert not np.isinf(values).any()


def test_constant_and_ranked_columns_cannot_be_had_back() -> None:
    frame = table()
    encoder, _ = encoded(frame.with_columns(other=pl.int_range(len(frame)) ** 2))
    assert may_interact(encoder.plan_.numbers).all()
    encoder, _ = encoded(frame, "quantile_normal")
    assert not may_interact(encoder.plan_.numbers).any()


def test_the_state_comes_back() -> None:
    encoder, _ = encoded(table())
    document = Reader({"found": interactions_to_state(ALL)}, "trees")
    assert interactions_from_state(document, "found", encoder.plan_.numbers) == ALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "power"}, "one of 'sum', 'difference', 'product', 'ratio'"),
        ({"first": 9}, "an integer from 0 to 1"),
        ({"second": 0}, "another column than the first"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_interaction_is_refused(change: dict[str, object], message: str) -> None:
    encoder, _ = encoded(table().select("torque", "speed"))
    document = Reader({"found": [interactions_to_state([PRODUCT])[0] | change]}, "trees")
    with pytest.raises(ArtifactError, match=message):
        interactions_from_state(document, "found", encoder.plan_.numbers)


def test_columns_that_cannot_be_had_back_are_refused() -> None:
    encoder, _ = encoded(table(), "quantile_normal")
    document = Reader({"found": interactions_to_state([PRODUCT])}, "trees")
    with pytest.raises(ArtifactError, match="linear encoding"):
        interactions_from_state(document, "found", encoder.plan_.numbers)
