"""Intervals whose width follows the row: coverage overall and by difficulty, file, ONNX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier, TabularRegressor, load_model
from tabwright.errors import ArtifactError
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.regression import quantile_centre_and_scale

SMALL: dict[str, Any] = {
    "hidden_dim": 32,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 8,
    "batch_size": 64,
    "learning_rate": 0.01,
    "random_state": 0,
}


def _rows(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The noise is exp(x1): easy to see, and of a large range."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    return X, X[:, 0] + 0.3 * np.exp(X[:, 1]) * rng.normal(size=n_rows)


def _shares(model: TabularRegressor, coverage: float) -> tuple[float, list[float], float]:
    """Coverage of new rows, overall and by thirds of the noise, and the mean width."""
    X, y = _rows(4000, seed=9)
    low, high = model.predict_interval(X, coverage).T
    inside = (low <= y) & (y <= high)
    third = np.argsort(np.argsort(X[:, 1])) * 3 // len(y)
    return (
        float(inside.mean()),
        [float(inside[third == k].mean()) for k in range(3)],
        float((high - low).mean()),
    )


@pytest.mark.parametrize("n_validation", [400, 1600])
def test_every_third_of_the_difficulty_is_covered_and_the_mean_width_is_less(
    n_validation: int,
) -> None:
    X, y = _rows(1500)
    eval_set = _rows(n_validation, seed=1)
    adaptive = TabularRegressor(**SMALL).fit(X, y, eval_set=eval_set)
    constant = TabularRegressor(**SMALL, intervals="constant").fit(X, y, eval_set=eval_set)
    np.testing.assert_array_equal(adaptive.predict(X), constant.predict(X))
    intervals = adaptive.model_.intervals
    assert intervals is not None
    assert (intervals.kind, intervals.scale) == (
        "split" if n_validation == 1600 else "cross",
        "network",
    )
    share, thirds, width = _shares(adaptive, 0.9)
    plain_share, plain_thirds, plain_width = _shares(constant, 0.9)
    # 400 residuals: a standard error of 1.5 points.
    assert share == pytest.approx(0.9, abs=0.045)
    assert plain_share == pytest.approx(0.9, abs=0.045)
    assert np.ptp(thirds) < 0.1 < 0.2 < np.ptp(plain_thirds)
    assert width < 0.95 * plain_width


def test_quantiles_say_the_width_and_their_intervals_are_covered() -> None:
    X, y = _rows(1500)
    model = TabularRegressor(**SMALL, objective="quantile").fit(X, y, eval_set=_rows(1600, 1))
    intervals = model.model_.intervals
    assert intervals is not None
    assert intervals.scale == "quantiles"
    assert model.model_.residual_scale is None
    share, thirds, _ = _shares(model, 0.9)
    assert share == pytest.approx(0.9, abs=0.04)
    assert np.ptp(thirds) < 0.2
    plain = Predictor(replace(model.model_, quantile_shifts=()))
    quantiles = plain.predict_quantiles(pl.DataFrame(X[:5]))
    middle = model.predict_interval(X[:5], 0.5).mean(axis=1)
    np.testing.assert_allclose(middle, (quantiles[:, 0] + quantiles[:, 2]) / 2)
    centre, scale = quantile_centre_and_scale(np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 4.0]]), 2.0)
    assert centre.tolist() == [1.0, 2.0]
    assert scale.tolist() == [0.002, 2.0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "target"), [("california_housing", "median_house_value"), ("diamonds", "price")]
)
def test_real_tables(table: str, target: str, data_dir: Path) -> None:
    frame = pl.read_parquet(data_dir / f"{table}.parquet").sample(8000, seed=0)
    train, test = frame[:5000], frame[5000:]
    true = test[target].to_numpy()
    found = {}
    for intervals in ("adaptive", "constant"):
        model = TabularRegressor(**SMALL, intervals=intervals, validation_fraction=0.4)
        model.fit(train.drop(target), train[target])
        low, high = model.predict_interval(test.drop(target), 0.9).T
        inside = (low <= true) & (true <= high)
        if intervals == "adaptive":
            third = np.argsort(np.argsort(high - low)) * 3 // len(true)
        thirds = [inside[third == k].mean() for k in range(3)]
        outside = np.maximum(low - true, 0.0) + np.maximum(true - high, 0.0)
        # The interval score of Gneiting and Raftery, 2007: width, and twenty times what is missed.
        score = ((high - low) + 2.0 / 0.1 * outside).mean()
        found[intervals] = (inside.mean(), min(thirds), score)
    for share, _, _ in found.values():
        # 500 residuals and 3,000 rows: a standard error of 1.4 points.
        assert share == pytest.approx(0.9, abs=0.045)
    assert found["adaptive"][1] > max(0.83, found["constant"][1])
    assert found["adaptive"][2] < found["constant"][2]


def test_the_scale_is_in_the_file(tmp_path: Path) -> None:
    X, y = _rows(300)
    model = TabularRegressor(**SMALL).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, TabularRegressor)
    np.testing.assert_array_equal(again.predict_interval(X, 0.8), model.predict_interval(X, 0.8))
    document, tensors = model.model_.to_artifact()
    for changed, said in (
        ({"residual_scale": None}, "there where intervals.scale is 'network'"),
        ({"residual_scale": {**document["residual_scale"], "unit": 0.0}}, "above 0"),
        ({"intervals": {**document["intervals"], "scale": "quantiles"}}, "there where|two"),
        ({"intervals": {**document["intervals"], "scale": "width"}}, "one of"),
    ):
        with pytest.raises(ArtifactError, match=said):
            FittedModel.from_artifact({**document, **changed}, tensors)


def test_constant_intervals_need_no_later_format() -> None:
    X, y = _rows(100)
    document, _ = TabularRegressor(**SMALL, intervals="constant").fit(X, y).model_.to_artifact()
    assert set(document["intervals"]) == {"kind"}
    assert "residual_scale" not in document


def test_counts_are_not_below_0() -> None:
    X, _ = _rows(400)
    y = np.random.default_rng(0).poisson(np.exp(X[:, 0])).astype(float)
    model = TabularRegressor(**SMALL, objective="poisson").fit(X, y)
    low, high = model.predict_interval(X, 0.9).T
    assert (low >= 0).all()
    assert ((low <= y) & (y <= high)).mean() > 0.85


def test_choices_that_do_not_fit_are_refused_and_folds_keep_one_width() -> None:
    X, y = _rows(100)
    with pytest.raises(ValueError, match="intervals must be None, 'adaptive' or 'constant'"):
        TabularRegressor(intervals="wide").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adaptive intervals belong to the networks"):
        TabularRegressor(intervals="adaptive", refit=True).fit(X, y)
    refitted = TabularRegressor(**SMALL, refit=True).fit(X, y).model_.intervals
    folds = TabularRegressor(**SMALL, n_folds=3, intervals="adaptive").fit(X, y).model_
    assert refitted is not None
    assert folds.intervals is not None
    assert refitted.scale == folds.intervals.scale == "constant"
    assert "of one width: networks of folds" in folds.card["intervals"]
    assert "intervals" not in TabularClassifier().get_params()


def test_targets_that_are_predicted_exactly_have_intervals() -> None:
    X, _ = _rows(100)
    model = TabularRegressor(**SMALL).fit(X, np.full(100, 3.0))
    np.testing.assert_array_equal(model.predict_interval(X[:2], 0.5), [[3.0, 3.0]] * 2)


def test_the_onnx_graph_puts_out_the_scale(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    import json

    from tabwright.export.onnx import onnx_feed

    X, y = _rows(300)
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    for values in ({}, {"objective": "quantile"}):
        model = TabularRegressor(**SMALL, **values).fit(frame, y)  # type: ignore[arg-type]
        model.export_onnx(tmp_path / "model.onnx", check_rows=500)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, onnx_feed(model.model_, frame)), strict=True))
        told = json.loads(session.get_modelmeta().custom_metadata_map["tabwright"])
        half = told["interval_half_widths"]["0.8"] * found["interval_scale"]
        centre = found["interval_centre" if values else "value"]
        wanted = model.predict_interval(frame, 0.8)
        np.testing.assert_allclose(centre - half, wanted[:, 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(centre + half, wanted[:, 1], rtol=1e-4, atol=1e-5)


def test_few_residuals_set_one_width_unless_asked_otherwise() -> None:
    X, y = _rows(240)
    for n, is_adaptive in ((49, False), (50, True)):
        model = TabularRegressor(**SMALL).fit(X, y, eval_set=_rows(n, seed=1))
        assert (model.model_.residual_scale is not None) == is_adaptive
        said = "of one width: fewer than 50 residuals" in model.model_.card["intervals"]
        assert said is not is_adaptive
    asked = TabularRegressor(**SMALL, intervals="adaptive").fit(X, y, eval_set=_rows(49, seed=1))
    assert asked.model_.residual_scale is not None
