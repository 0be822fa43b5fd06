"""One row takes short cuts: they must say what the long way says."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tabwright.calibration.calibrator import scale_temperature
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.tables import as_frame
from tests.inference.test_numpy_network import build, rows

PROBABILITIES = hnp.arrays(np.float64, st.integers(2, 9), elements=st.floats(0.0, 1.0))


def wide_pandas() -> pd.DataFrame:
    n_rows = 40
    return pd.DataFrame(
        {
            "number": [math.nan if i % 7 == 3 else i / 3 for i in range(n_rows)],
            "infinite": [math.inf] * n_rows,
            "integer": np.arange(n_rows) + 2**60,
            "open": np.arange(n_rows) % 2 == 0,
            "text": pd.array([None if i % 5 == 1 else f"é {i}" for i in range(n_rows)], "string"),
            "plain": ["", "NA", " x ", "1"] * (n_rows // 4),
        }
    )


@pytest.mark.parametrize("other", [None, "float32", "category", "datetime64[ns]", "Int64"])
def test_few_rows_of_pandas_are_read_as_many(other: str | None) -> None:
    table = wide_pandas()
    if other is not None:
        table["other"] = pd.Series(range(40)).astype(other)  # type: ignore[call-overload]
    whole, named = as_frame(table)
    assert named
    for start, stop in [(0, 1), (3, 4), (11, 12), (0, 16), (0, 17)]:
        few, _ = as_frame(table.iloc[start:stop])
        assert few.schema == whole.schema
        assert few.equals(whole[start:stop], null_equal=True)


def test_a_row_that_overflows_is_computed_again_and_no_other() -> None:
    network, _ = build("mlp_dense", 2)
    x = np.full((1, network.input_dim), 3e38, dtype=np.float32)
    wide = FoldedNetwork.__new__(FoldedNetwork)
    wide.__setstate__(network.__getstate__())
    first = network.layers.first
    wide.layers = network.layers._replace(first=first._replace(weight=first.weight * 1e3))
    proba = wide.probabilities(x)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba, wide.probabilities(np.repeat(x, 3, axis=0))[:1], atol=1e-6)
    plain = rows(40)
    beside = np.concatenate([plain[:20], x, plain[20:]])
    np.testing.assert_array_equal(
        np.delete(wide.probabilities(beside), 20, axis=0), wide.probabilities(plain)
    )


@given(PROBABILITIES, st.floats(0.2, 5.0))
def test_short_cut_of_the_temperature_agrees(shares: np.ndarray, inverse: float) -> None:
    total = shares.sum()
    proba = (shares / total if total > 0 else np.full(len(shares), 1.0 / len(shares)))[None]
    short = scale_temperature(proba, inverse)
    long = scale_temperature(np.repeat(proba, 2, axis=0), inverse)
    assert short.shape == proba.shape
    np.testing.assert_allclose(short, long[:1], rtol=1e-12, atol=1e-300)
    assert short.argmax() == proba.argmax() == long[0].argmax()


def test_the_argmax_of_a_row_stays_where_two_come_out_equal() -> None:
    proba = np.array([[0.5, math.nextafter(0.5, 1.0)]])
    for inverse in np.linspace(0.2, 5.0, 97):
        assert scale_temperature(proba, float(inverse)).argmax() == 1
