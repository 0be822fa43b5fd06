"""Predicted numbers have the digits that mean something, and no rounding changes a label."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tabwright.calibration.decisions import DecisionRule
from tabwright.cli.app import app
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tabwright.tables import read_table
from tabwright.tables.labelled import LabelledRows
from tabwright.workflows.rounding import meaningful_digits, rounded_predictions, rounded_to

N_ROWS = 130


def _rows() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "kind": generator.choice(["red", "green", "blue"], size=N_ROWS),
            "size": generator.random(N_ROWS),
        }
    )


@pytest.fixture(scope="module")
def classifier() -> FittedModel:
    settings = FitSettings("classification", hidden_dim=8, n_members=1, max_epochs=2)
    codes = (_rows()["kind"] == "red").cast(pl.Int64).to_numpy()
    return fit_table(LabelledRows(_rows(), codes), settings, classes=np.array(["n", "y"]))


@pytest.fixture(scope="module")
def regressor() -> FittedModel:
    settings = FitSettings(task="regression", hidden_dim=8, n_members=1, max_epochs=1)
    return fit_table(LabelledRows(_rows(), _rows()["size"].to_numpy()), settings)


@pytest.mark.parametrize(
    ("low", "high", "scale", "digits"),
    [
        pytest.param(0.0, 1.0, 0.3, 7, id="shares"),
        pytest.param(15_000.0, 500_001.0, 115_000.0, 7, id="prices"),
        pytest.param(1_950.0, 2_010.0, 11.0, 9, id="years"),
        pytest.param(0.0, 5e9, 1e9, 10, id="whole numbers of ten digits"),
        pytest.param(-4e-9, 2e-9, 1e-9, 7, id="small values"),
        pytest.param(0.0, 0.0, 1.0, 7, id="nothing but zeros"),
        pytest.param(-1e300, 1e300, 1e299, 17, id="as many as there are"),
    ],
)
def test_values_have_digits_by_the_spread_of_the_target(
    low: float, high: float, scale: float, digits: int, regressor: FittedModel
) -> None:
    assert regressor.target is not None
    target = replace(regressor.target, low=low, high=high, scale=scale)
    assert meaningful_digits(replace(regressor, target=target)) == digits


def test_probabilities_have_six_digits(classifier: FittedModel) -> None:
    assert meaningful_digits(classifier) == 6


def test_text_has_digits_that_mean_something_and_the_same_labels(
    classifier: FittedModel, tmp_path: Path
) -> None:
    table, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    _rows().write_csv(table)
    # A threshold that is one of the probabilities, which rounding moves to its other side.
    proba = Predictor(classifier).predict_proba(_rows())
    above = next(p for p in proba[:, 1] if float(f"{p:.5e}") < p < 0.5)
    replace(classifier, decision=DecisionRule("threshold", float(above), 1)).save(model)
    outputs = {}
    for name, words in {
        "p.csv": (),
        "p.jsonl": (),
        "p.parquet": (),
        "all.csv": ("--digits", "17"),
        "two.parquet": ("--digits", "2"),
    }.items():
        out = tmp_path / name
        done = CliRunner().invoke(app, ["predict", str(model), str(table), "-o", str(out), *words])
        assert done.exit_code == 0, done.output
        outputs[name] = read_table(str(out))
    whole = outputs["p.parquet"]
    assert outputs["all.csv"].equals(whole)
    for name, frame in outputs.items():
        assert frame["prediction"].equals(whole["prediction"]), name
    written = (tmp_path / "p.csv").read_text().splitlines()[1:]
    for line in written:
        least, largest = sorted(map(float, line.split(",")[1:]))
        assert float(f"{least:.5e}") == least
        # The other is the rest, in nine places at most.
        assert abs(Decimal(str(least)) + Decimal(str(largest)) - 1) <= Decimal("5e-10")
        assert len(str(largest)) <= len("0.123456789")
    column = whole["probability_y"]
    assert set(column.to_list()) != set(outputs["p.csv"]["probability_y"].to_list())
    for name, relative in {"p.csv": 5e-6, "p.jsonl": 5e-6, "two.parquet": 5e-2}.items():
        np.testing.assert_allclose(outputs[name]["probability_y"], column, rtol=relative)
    at = proba[:, 1].tolist().index(above)
    assert whole["prediction"][at] == "y"
    assert outputs["p.csv"]["probability_y"][at] < above


@given(
    numbers=st.lists(
        st.lists(st.floats(1e-12, 1.0), min_size=5, max_size=5),
        min_size=1,
        max_size=20,
    )
)
def test_rows_of_rounded_probabilities_sum_to_one(
    numbers: list[list[float]], classifier: FittedModel
) -> None:
    proba = np.array(numbers)
    proba /= proba.sum(axis=1, keepdims=True)
    model = replace(classifier, classes=np.array(list("abcde")))
    frame = pl.DataFrame(
        {"prediction": ["a"] * len(proba)} | dict(zip("abcde", proba.T, strict=True))
    )
    rounded = rounded_predictions(frame, model, "meaningful")[:, 1:].to_numpy()
    # As nearly as scikit-learn's `log_loss` asks without a warning.
    np.testing.assert_allclose(rounded.sum(axis=1), 1.0, rtol=0, atol=2e-9)
    np.testing.assert_allclose(rounded, proba, rtol=2e-5, atol=0)


@given(value=st.floats(), digits=st.integers(1, 17))
def test_a_rounded_number_is_the_nearest_of_so_many_digits(value: float, digits: int) -> None:
    (rounded,) = (float(number) for number in rounded_to(np.array([value]), digits))
    nearest = float(f"{value:.{digits - 1}e}")
    if not math.isfinite(nearest):
        assert repr(rounded) == repr(value)
        return
    # Of a tie, either neighbour is as near.
    assert abs(Decimal(rounded) - Decimal(value)) <= abs(Decimal(nearest) - Decimal(value)) * (
        1 + Decimal(10) ** -9
    )
    if digits < 16:
        # No digits that only stand for bits, as in 0.30000000000000004.
        assert float(f"{rounded:.{digits - 1}e}") == rounded
