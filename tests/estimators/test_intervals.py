"""`predict_interval`: coverage on real tables, and residuals of held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularRegressor, load_model
from tabwright.calibration.intervals import interval_rows
from tabwright.cli.app import app
from tabwright.errors import ArtifactError
from tabwright.inference.fitted_model import FittedModel

SMALL: dict[str, Any] = {
    "hidden_dim": 16,
    "num_hidden_layers": 1,
    "n_members": 2,
    "max_epochs": 4,
    "batch_size": 64,
    "learning_rate": 0.01,
    "random_state": 0,
}


def _rows(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3))
    return X, X[:, 0] + np.abs(X[:, 1]) + rng.normal(scale=0.3, size=n_rows)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("table", "target"), [("california_housing", "median_house_value"), ("diamonds", "price")]
)
@pytest.mark.parametrize("n_rows", [500, 4500])
def test_coverage_on_real_tables(table: str, target: str, n_rows: int, data_dir: Path) -> None:
    frame = pl.read_parquet(data_dir / f"{table}.parquet")
    covered: dict[float, list[float]] = {0.5: [], 0.9: []}
    for seed in range(4):
        sample = frame.sample(n_rows + 2000, seed=seed)
        train, test = sample[:n_rows], sample[n_rows:]
        model = TabularRegressor(
            **{**SMALL, "n_members": 1, "random_state": seed}, validation_fraction=0.2
        )
        model.fit(train.drop(target), train[target])
        true = test[target].to_numpy()
        for coverage, shares in covered.items():
            low, high = model.predict_interval(test.drop(target), coverage).T
            shares.append(float(((low <= true) & (true <= high)).mean()))
    intervals = model.model_.intervals
    assert intervals is not None
    assert intervals.kind == ("split" if n_rows == 4500 else "cross")
    n_residuals = len(intervals.residuals)
    for coverage, shares in covered.items():
        # Beta(k, n + 1 - k) over calibration rows, binomial over test rows, four times.
        spread = coverage * (1 - coverage) * (1 / (n_residuals + 2) + 1 / 2000) / 4
        assert np.mean(shares) == pytest.approx(coverage, abs=3.5 * spread**0.5), shares


def test_rows_set_aside_choose_nothing() -> None:
    X, y = _rows(300)
    eval_X, eval_y = _rows(900, seed=1)
    aside = interval_rows(900, random_state=0).aside
    assert len(aside) == 225
    moved = eval_y.copy()
    moved[aside] += 10.0
    before, after = (
        TabularRegressor(**SMALL).fit(X, y, eval_set=(eval_X, target)) for target in (eval_y, moved)
    )
    np.testing.assert_array_equal(before.predict(X), after.predict(X))
    assert before.history_[-1]["validation_loss"] == after.history_[-1]["validation_loss"]
    assert before.model_.metrics == after.model_.metrics
    widths = [np.ptp(model.predict_interval(X[:1])) for model in (before, after)]
    assert widths[1] > widths[0] + 10.0
    assert before.model_.card["n_validation_rows"] == 675


def test_intervals_hold_the_prediction_and_grow_with_the_coverage() -> None:
    X, y = _rows(300)
    model = TabularRegressor(**SMALL).fit(X, y)
    value = model.predict(X)
    narrow, wide = model.predict_interval(X, 0.5), model.predict_interval(X, 0.9)
    assert wide.shape == (300, 2)
    assert wide.dtype == np.float64
    assert (wide[:, 0] < narrow[:, 0]).all()
    assert (narrow[:, 0] < value).all()
    np.testing.assert_allclose(wide.mean(axis=1), value)
    # 60 validation rows can promise 60 / 61.
    assert np.isfinite(model.predict_interval(X, 0.98)).all()
    assert np.isinf(model.predict_interval(X, 0.99)).all()


def test_intervals_scale_with_the_target() -> None:
    X, y = _rows(300)
    plain, scaled = (TabularRegressor(**SMALL).fit(X, t) for t in (y, 1000.0 * y + 7.0))
    np.testing.assert_allclose(
        scaled.predict_interval(X), 1000.0 * plain.predict_interval(X) + 7.0, rtol=0.02, atol=20.0
    )


@pytest.mark.parametrize("n_validation", [60, 900])
def test_saved_models_keep_their_intervals(n_validation: int, tmp_path: Path) -> None:
    X, y = _rows(200)
    model = TabularRegressor(**SMALL).fit(X, y, eval_set=_rows(n_validation, seed=1))
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, TabularRegressor)
    for coverage in (0.5, 0.95):
        np.testing.assert_array_equal(
            again.predict_interval(X, coverage), model.predict_interval(X, coverage)
        )


def test_refusals() -> None:
    X, y = _rows(60)
    model = TabularRegressor(**SMALL)
    with pytest.raises(ValueError, match="not fitted"):
        model.predict_interval(X)
    model.fit(X, y, eval_set=(X[:1], y[:1]))
    with pytest.raises(ValueError, match=r"need at least 2 validation rows; got 1\)"):
        model.predict_interval(X)
    model.fit(X, y)
    with pytest.raises(ValueError, match="coverage must be above 0 and below 1; got 90"):
        model.predict_interval(X, 90)


def test_intervals_in_a_changed_file_are_refused() -> None:
    X, y = _rows(60)
    model = TabularRegressor(**SMALL, intervals="constant").fit(X, y)
    document, tensors = model.model_.to_artifact()
    falling = tensors["intervals.residuals"][::-1].copy()
    with pytest.raises(ArtifactError, match="residuals and levels that rise"):
        FittedModel.from_artifact(document, {**tensors, "intervals.residuals": falling})
    document["intervals"] = None
    with pytest.raises(ArtifactError, match=r"intervals\.levels"):
        FittedModel.from_artifact(document, tensors)


def test_residuals_of_the_first_networks_are_out_of_fold_to_refitted_ones() -> None:
    X, y = _rows(300)
    eval_set = _rows(900, seed=1)
    model = TabularRegressor(**SMALL, intervals="constant", quality="fast").fit(
        X, y, eval_set=eval_set
    )
    first = model.model_.intervals
    again = TabularRegressor(**SMALL, quality="fast", refit=True).fit(X, y, eval_set=eval_set)
    second = again.model_.intervals
    assert first is not None
    assert second is not None
    assert (first.kind, second.kind) == ("split", "cross")
    np.testing.assert_array_equal(first.residuals, second.residuals)


def test_the_command_line_adds_the_ends_of_intervals(tmp_path: Path) -> None:
    X, y = _rows(200)
    path, table, out = tmp_path / "m.safetensors", tmp_path / "new.csv", tmp_path / "out.csv"
    frame = pl.DataFrame(X, schema=["a", "b", "c"])
    model = TabularRegressor(**SMALL).fit(frame, y)
    model.save(path)
    frame.write_csv(table)
    words = ["predict", str(path), str(table), "--output", str(out), "--coverage"]
    assert CliRunner().invoke(app, [*words, "0.8"]).exit_code == 0
    written = pl.read_csv(out)
    assert written.columns == ["prediction", "low", "high"]
    # Text has seven digits.
    np.testing.assert_allclose(
        written.select("low", "high").to_numpy(), model.predict_interval(frame, 0.8), rtol=5.1e-7
    )
    refused = CliRunner().invoke(app, [*words, "80"])
    assert refused.exit_code == 2
    assert "coverage must be above 0 and below 1; got 80" in " ".join(refused.output.split())
