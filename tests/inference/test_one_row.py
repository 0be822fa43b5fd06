"""One row takes short cuts: they must say what the long way says."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tabwright.calibration.calibrator import scale_temperature
from tabwright.inference import numpy_network as folded
from tabwright.inference.numpy_network import FoldedNetwork
from tabwright.tables import as_frame
from tests.inference.test_numpy_network import MODES, build, rows

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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("output_dim", [1, 2, 3])
def test_short_cut_of_the_networks_agrees(
    mode: str, n_members: int, output_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = build(mode, n_members, output_dim=output_dim)  # type: ignore[arg-type]
    x = rows(30) * np.float32(3)
    short = [(network.probabilities(x[i : i + 1]), network.values(x[i : i + 1])) for i in range(30)]
    assert all(proba.shape == (1, output_dim) and value.shape == (1,) for proba, value in short)
    monkeypatch.setattr(folded, "_MOST_PYTHON", 0)
    for i, (proba, value) in enumerate(short):
        long = network.probabilities(x[i : i + 1]), network.values(x[i : i + 1])
        np.testing.assert_allclose(proba, long[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(value, long[1], rtol=1e-5, atol=2e-6)
        assert proba.dtype == value.dtype == np.float64


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_short_cut_of_the_softmax_agrees(
    n_members: int, n_classes: int, data: st.DataObject
) -> None:
    elements = st.floats(-900.0, 900.0)
    outputs = data.draw(hnp.arrays(np.float64, (n_members, n_classes), elements=elements))
    shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    wanted = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    found = folded._mean_of_softmax(outputs.ravel().tolist(), n_classes)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-300)


def test_a_row_that_overflows_takes_the_long_way() -> None:
    network, _ = build("mlp_dense", 2)
    x = np.full((1, network.input_dim), 3e38, dtype=np.float32)
    wide = FoldedNetwork.__new__(FoldedNetwork)
    wide.__setstate__(network.__getstate__())
    first = network._layers.first
    wide._layers = network._layers._replace(first=first._replace(weight=first.weight * 1e3))
    assert wide._one_row(x) is None
    proba = wide.probabilities(x)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba, wide.probabilities(np.repeat(x, 3, axis=0))[:1], atol=1e-6)


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
