"""The estimators inside scikit-learn's tools: search, calibration, thresholds, routing, workers.

`make test-oldest` runs this file under the oldest scikit-learn that is supported.
"""

from __future__ import annotations

import pickle
from typing import Any

import joblib
import numpy as np
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.inspection import permutation_importance
from sklearn.metrics import balanced_accuracy_score, log_loss, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tabwright import TabularClassifier, TabularRegressor

SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "num_hidden_layers": 1,
    "n_members": 1,
    "max_epochs": 12,
    "batch_size": 32,
    "learning_rate": 0.02,
    "random_state": 0,
}


def _table(n_rows: int = 240) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    size = rng.normal(size=n_rows)
    kind = rng.choice(["a", "b", "c"], size=n_rows)
    frame = pl.DataFrame({"noise": rng.normal(size=n_rows), "size": size, "kind": kind})
    return frame, np.where(size + (kind == "a") > 0.3, "yes", "no")


def _numbers(n_rows: int = 240) -> tuple[np.ndarray, np.ndarray]:
    frame, y = _table(n_rows)
    return frame.select("noise", "size").to_numpy(), (y == "yes").astype(int)


def _pandas(frame: pl.DataFrame) -> Any:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame({name: frame[name].to_list() for name in frame.columns})


def test_pipeline_with_a_transformer_whose_output_is_a_frame() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame, y = _table()
    scale = make_column_transformer((StandardScaler(), ["size", "noise"]), remainder="passthrough")
    pipeline = make_pipeline(scale, TabularClassifier(**SMALL)).set_output(transform="pandas")
    pipeline.fit(_pandas(frame), y)
    assert pipeline[-1].feature_names_in_.tolist() == [
        "standardscaler__size",
        "standardscaler__noise",
        "remainder__kind",
    ]
    assert pipeline.score(_pandas(frame), y) > 0.9


def test_set_output_to_polars_reaches_the_estimator() -> None:
    X, y = _numbers()
    names = ["noise", "size"]
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(**SMALL))
    pipeline.set_output(transform="polars").fit(pl.DataFrame(X, schema=names), y)
    # The names the scaler gives: scikit-learn 1.6 cannot read those of a polars frame.
    assert (pipeline[-1].feature_names_in_ == pipeline[0].get_feature_names_out()).all()
    assert pipeline.score(pl.DataFrame(X, schema=names), y) > 0.7


def test_grid_search_over_a_pipeline_finds_the_better_network() -> None:
    X, y = _numbers()
    # Without trees, which a rate that is too low does not hold back.
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(**SMALL, quality="fast"))
    # NumPy scalars, as grids have them.
    grid = {"tabularclassifier__learning_rate": np.array([1e-6, 0.02])}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, y)
    assert search.best_params_ == {"tabularclassifier__learning_rate": 0.02}
    assert search.best_estimator_[-1].settings_.learning_rate == 0.02


def test_cross_val_predict_of_a_frame_with_strings() -> None:
    frame, y = _table()
    proba = cross_val_predict(
        TabularClassifier(**SMALL), _pandas(frame), y, cv=3, method="predict_proba"
    )
    assert log_loss(y, proba) < 0.4
    assert ((proba[:, 1] > 0.5) == (y == "yes")).mean() > 0.85


def test_calibrated_classifier_and_voting() -> None:
    X, y = _numbers()
    calibrated = CalibratedClassifierCV(TabularClassifier(**SMALL), cv=2).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1.0)
    assert calibrated.score(X, y) > 0.7
    voters = [("a", TabularClassifier(**SMALL)), ("b", TabularClassifier("tabresnet", **SMALL))]
    assert VotingClassifier(voters, voting="soft").fit(X, y).score(X, y) > 0.7


def test_permutation_importance_finds_the_columns_that_matter() -> None:
    frame, y = _table()
    X = _pandas(frame)
    model = TabularClassifier(**SMALL).fit(X, y)
    importance = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    noise, size, kind = importance.importances_mean
    assert size > 0.1
    assert kind > 0.05
    assert abs(noise) < 0.05


def test_fixed_threshold_follows_the_probabilities() -> None:
    X, y = _numbers()
    model = TabularClassifier(**SMALL)
    fixed = FixedThresholdClassifier(model, threshold=0.2, pos_label=1).fit(X, y)
    proba = fixed.estimator_.predict_proba(X)[:, 1]
    np.testing.assert_array_equal(fixed.predict(X), (proba >= 0.2).astype(int))


def test_tuned_threshold_lifts_the_balanced_accuracy_of_rare_positives() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    y = (X[:, 0] + rng.normal(scale=1.0, size=600) > 1.9).astype(int)
    plain = TabularClassifier(**SMALL).fit(X[:400], y[:400])
    tuned = TunedThresholdClassifierCV(
        TabularClassifier(**SMALL),
        scoring=make_scorer(balanced_accuracy_score),
        cv=2,
        random_state=0,
    ).fit(X[:400], y[:400])
    assert tuned.best_threshold_ < 0.3
    before = balanced_accuracy_score(y[400:], plain.predict(X[400:]))
    assert balanced_accuracy_score(y[400:], tuned.predict(X[400:])) > before + 0.05


def test_multi_output_wrappers_that_the_message_names_work() -> None:
    X, y = _numbers()
    both = np.stack([y, 1 - y], axis=1)
    with pytest.raises(ValueError, match="MultiOutputClassifier"):
        TabularClassifier(**SMALL).fit(X, both)
    with pytest.raises(ValueError, match="MultiOutputRegressor"):
        TabularRegressor(**SMALL).fit(X, both)
    labels = MultiOutputClassifier(TabularClassifier(**SMALL)).fit(X, both).predict(X)
    assert labels.shape == both.shape
    assert (labels[:, 0] != labels[:, 1]).mean() > 0.9
    values = MultiOutputRegressor(TabularRegressor(**SMALL)).fit(X, both * 1.0).predict(X)
    assert np.corrcoef(values[:, 0], values[:, 1])[0, 1] < -0.9


def _weighted(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    proba: np.ndarray = TabularClassifier(**SMALL).fit(X, y, sample_weight=weight).predict_proba(X)
    return proba


def test_sample_weight_is_routed_through_a_pipeline_and_a_search() -> None:
    X, y = _numbers()
    weight = np.where(y == 1, 5.0, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = TabularClassifier(**SMALL).set_fit_request(sample_weight=True)
        asking = asking.set_score_request(sample_weight=False)
        pipeline = make_pipeline(asking).fit(X, y, sample_weight=weight)
        np.testing.assert_array_equal(pipeline.predict_proba(X), _weighted(X, y, weight))
        search = GridSearchCV(asking, {"batch_size": [SMALL["batch_size"]]}, cv=2)
        search.fit(X, y, sample_weight=weight)
        np.testing.assert_array_equal(search.predict_proba(X), _weighted(X, y, weight))
        refusing = clone(asking).set_fit_request(sample_weight=False)
        unweighted = make_pipeline(refusing).fit(X, y)
        assert (unweighted.predict_proba(X) != pipeline.predict_proba(X)).any()


def test_groups_are_routed_to_the_estimator_and_the_splitter() -> None:
    X, y = _numbers()
    groups = np.repeat(np.arange(24), 10)
    with sklearn.config_context(enable_metadata_routing=True):
        model = TabularRegressor(**SMALL).set_fit_request(groups=True)
        scores = cross_val_score(model, X, y * 1.0, cv=GroupKFold(3), params={"groups": groups})
    assert np.isfinite(scores).all()


def test_fit_arguments_pass_through_cross_validation() -> None:
    X, y = _numbers()
    epochs: list[int] = []
    cross_validate(
        TabularRegressor(**SMALL),
        X,
        y * 1.0,
        cv=2,
        params={"callbacks": [lambda epoch: epochs.append(epoch.epoch)], "eval_set": (X, y * 1.0)},
    )
    assert epochs.count(1) == 2


def test_clones_are_unfitted_equals() -> None:
    X, y = _numbers()
    model = TabularClassifier("imbalance_aware", prior=np.array([0.3, 0.7]), **SMALL).fit(X, y)
    again = clone(model)
    assert not hasattr(again, "model_")
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), model.predict_proba(X))


def test_pickles_keep_predictions_and_stay_small() -> None:
    X, y = _numbers()
    model = TabularClassifier(**SMALL).fit(X, y)
    small = len(pickle.dumps(model))
    expected = model.predict_proba(X)
    # Buffers of prediction are not part of what is kept.
    assert len(pickle.dumps(model)) <= small * 1.05
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)


def test_threads_and_processes_predict_the_same() -> None:
    X, y = _numbers()
    model = TabularClassifier(**SMALL).fit(X, y)
    expected = model.predict_proba(X)
    with joblib.parallel_config("threading"):
        parts = joblib.Parallel(n_jobs=4)(joblib.delayed(model.predict_proba)(X) for _ in range(16))
    for part in parts:
        np.testing.assert_array_equal(part, expected)


@pytest.mark.slow
def test_loky_workers_fit_and_score_as_this_process_does() -> None:
    X, y = _numbers()
    model = TabularClassifier(**SMALL)
    here = cross_val_score(model, X, y, cv=2, scoring="neg_log_loss")
    with joblib.parallel_config("loky"):
        there = cross_val_score(model, X, y, cv=2, scoring="neg_log_loss", n_jobs=2)
    np.testing.assert_allclose(there, here, rtol=1e-6)


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_representations_name_what_was_chosen(kind: type[Any]) -> None:
    model = kind(hidden_dim=32, n_members=2)
    assert repr(model) == f"{kind.__name__}(hidden_dim=32, n_members=2)"
    html = model._repr_html_()
    assert "Not fitted" in html
    X, y = _numbers()
    html = kind(**SMALL).fit(X, y)._repr_html_()
    assert "Fitted" in html
    assert kind.__name__ in html
