"""Permutation importance equals shuffling the raw column and predicting again."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from tabwright.explanation import importance
from tabwright.explanation.importance import permutation_importance
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings, Task
from tabwright.tables.labelled import LabelledRows
from tests.losses import log_loss

N_ROWS = 240
_rng = np.random.default_rng(0)
SIGNAL = _rng.normal(size=N_ROWS)


def _frame() -> pl.DataFrame:
    start = dt.datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "noise": _rng.normal(size=N_ROWS),
            "signal": [None if i % 19 == 0 else float(v) for i, v in enumerate(SIGNAL)],
            "same": ["x"] * N_ROWS,
            "many": [f"level {i}" for i in _rng.integers(0, 110, N_ROWS)],
            "when": [start + dt.timedelta(hours=int(h)) for h in _rng.integers(0, 9_000, N_ROWS)],
            "flag": [None if i % 7 == 0 else bool(i % 2) for i in range(N_ROWS)],
            "few": _rng.choice(["a", "b", "c"], N_ROWS),
        }
    )


FRAME = _frame()
CODES = (SIGNAL + 0.5 * (FRAME["few"] == "a").to_numpy() > 0.2).astype(np.int64)


def _fit(task: Task, epochs: int = 6) -> FittedModel:
    settings = FitSettings(
        task=task, hidden_dim=16, num_hidden_layers=1, n_members=2, max_epochs=epochs
    )
    if task == "regression":
        return fit_table(LabelledRows(FRAME, SIGNAL * 100 + 7), settings)
    return fit_table(LabelledRows(FRAME, CODES), settings, classes=np.array(["n", "y"]))


@pytest.fixture(scope="module")
def classifier() -> FittedModel:
    return _fit("classification")


def test_every_part_of_the_compact_form_has_one_owner(classifier: FittedModel) -> None:
    owned = classifier.encoder.plan_.compact_columns()
    names = classifier.encoder.feature_names_in_
    assert [names[place] for place in owned] == ["noise", "signal", "many", "when", "flag", "few"]
    compact = classifier.encoder.transform(FRAME)
    numeric = sorted(column for own, _ in owned.values() for column in own)
    codes = sorted(column for _, own in owned.values() for column in own)
    assert numeric == list(range(compact.numeric.shape[1]))
    assert codes == list(range(compact.codes.shape[1]))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_it_is_what_shuffling_the_raw_column_gives(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _fit(task)
    predictor = Predictor(model)
    weight = 0.5 + _rng.random(N_ROWS)
    target = CODES if task == "classification" else SIGNAL * 100 + 7

    def loss(frame: pl.DataFrame) -> float:
        if task == "classification":
            return log_loss(target, predictor.predict_proba(frame), weight)
        squared = (predictor.predict_values(frame) - target) ** 2
        return float(np.sqrt(np.average(squared, weights=weight)))

    for name in ("noise", "signal", "many", "when", "flag", "few"):
        # One column at a time, so that the shuffle is the first that the seed gives.
        place = list(model.encoder.feature_names_in_).index(name)
        monkeypatch.setattr(importance, "_by_slope", lambda *rest, of=place: [of])
        found = permutation_importance(
            predictor, FRAME, target, weight, n_repeats=1, random_state=3
        )
        shuffled = np.random.default_rng(3).permutation(N_ROWS)
        changed = FRAME.with_columns(FRAME[name][shuffled].alias(name))
        assert found.names == (name,)
        assert found.mean[0] == pytest.approx(loss(changed) - loss(FRAME), abs=1e-6)


def test_signal_stands_before_noise(classifier: FittedModel) -> None:
    found = permutation_importance(Predictor(classifier), FRAME, CODES, n_repeats=3)
    assert found.names[0] == "signal"
    assert found.mean[0] > 5 * max(found.mean[found.names.index("noise")], 0.0)
    assert (np.diff(found.mean) <= 0).all()
    assert "same" not in found.names
    assert (found.n_rows, found.n_repeats, found.n_used) == (N_ROWS, 3, 6)


def test_rows_columns_and_time_are_bounded(classifier: FittedModel) -> None:
    predictor = Predictor(classifier)
    few = permutation_importance(predictor, FRAME, CODES, max_rows=50, max_columns=2)
    assert few.n_rows == 50
    assert len(few.names) == 2
    assert few.n_used == 6
    # Those to which the output is most sensitive go first.
    assert "signal" in few.names
    hurried = permutation_importance(predictor, FRAME, CODES, max_seconds=0.0)
    assert len(hurried.names) == hurried.n_repeats == 1


def test_rows_of_weight_zero_count_for_nothing(classifier: FittedModel) -> None:
    predictor = Predictor(classifier)
    weight = np.ones(N_ROWS)
    weight[100:] = 0.0
    spoiled = np.where(weight > 0, CODES, 1 - CODES)
    one = permutation_importance(predictor, FRAME, CODES, weight)
    two = permutation_importance(predictor, FRAME, spoiled, weight)
    assert one.names == two.names
    np.testing.assert_array_equal(one.mean, two.mean)
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        permutation_importance(predictor, FRAME, CODES, np.zeros(N_ROWS))
