"""Trees as plain arrays say what their library says, on missing and categorical cells too."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import FittedTrees, Problem
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.inference.tree_ensemble import TreeEnsemble
from tabwright.inference.tree_mix import tree_features
from tabwright.tables import profile_table
from tests.fitting.test_combination import score, table

KINDS = ("hist_gradient_boosting", "lightgbm", "xgboost", "catboost")
CLASSES = (0, 2, 3)
N_ROUNDS = 60
# XGBoost adds up in float32.
TOLERANCE = dict.fromkeys(KINDS, 1e-12) | {"xgboost": 3e-6}


@cache
def encoded() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, their scores, and rows to ask: other missing cells and unseen levels."""
    import polars as pl

    frame, fresh = table(500, seed=1), table(700, seed=2)
    encoder = TableEncoder()
    compact = encoder.fit_transform(
        RowsToFit(
            frame, profile_table(frame), target=score(frame), task="regression", random_state=0
        )
    )
    fresh = fresh.with_columns(
        count=pl.when(pl.int_range(700) < 300).then(None).otherwise(pl.col("count")),
        kind=pl.when(pl.int_range(700) < 50).then(pl.lit("unseen")).otherwise(pl.col("kind")),
    )
    values = tree_features(encoder, compact)
    asked = tree_features(encoder, encoder.transform(fresh))
    assert np.isnan(values).any()
    assert (np.isnan(asked).any(axis=0) & ~np.isnan(values).any(axis=0)).any()
    extremes = np.full((4, values.shape[1]), 1e30, dtype=np.float32)
    extremes[1:] = [[-1e30], [0.0], [np.nan]]
    return values, score(frame), np.concatenate([asked, values, extremes])


@cache
def trees_of(kind: str, n_classes: int) -> FittedTrees:
    pytest.importorskip({"hist_gradient_boosting": "sklearn"}.get(kind, kind))
    values, target, _ = encoded()
    if n_classes:
        target = np.digitize(target, [1.5, 3.0][: n_classes - 1])
    none = np.zeros(values.shape[1], dtype=bool)
    problem = Problem(values.astype(np.float64), none, target, None, n_classes, 0, 1)
    return tree_learner(kind).fit(problem, N_ROUNDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_rounds", [10, N_ROUNDS])
@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_say_what_the_library_says(kind: str, n_classes: int, n_rounds: int) -> None:
    trees = trees_of(kind, n_classes)
    _, _, asked = encoded()
    n_features = asked.shape[1]
    ensemble = ensemble_of(
        kind, trees, n_features=n_features, n_classes=n_classes, n_rounds=n_rounds
    )
    expected = next(trees.stages(asked.astype(np.float64), (n_rounds,)))
    ours = ensemble.predict(asked, classifies=n_classes > 0)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE[kind])
    assert np.ptp(ours, axis=0).max() > 0.1
    alone = [ensemble.predict(asked[i : i + 1], classifies=n_classes > 0) for i in range(20)]
    np.testing.assert_array_equal(np.concatenate(alone), ours[:20])


@pytest.mark.parametrize("kind", KINDS[:3])
def test_both_ways_down_end_at_the_same_leaves(kind: str) -> None:
    _, _, asked = encoded()
    ensemble = ensemble_of(
        kind, trees_of(kind, 3), n_features=asked.shape[1], n_classes=3, n_rounds=N_ROUNDS
    )
    assert isinstance(ensemble, TreeEnsemble)
    walked = ensemble.value[ensemble._leaves(asked)].reshape(len(asked), -1, 3).sum(axis=1)
    assert ensemble._masks is not None
    np.testing.assert_allclose(ensemble.raw(asked), ensemble.baseline + walked, rtol=0, atol=1e-12)


def test_splits_that_arrays_cannot_hold_are_refused() -> None:
    values = np.tile(np.arange(5.0), 100)[:, None]
    problem = Problem(values, np.array([True]), values[:, 0] % 2, None, 0, 0, 1)
    for kind in KINDS:
        pytest.importorskip({"hist_gradient_boosting": "sklearn"}.get(kind, kind))
        trees = tree_learner(kind).fit(problem, N_ROUNDS)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="must split numbers at thresholds"):
            ensemble_of(kind, trees, n_features=1, n_classes=0, n_rounds=N_ROUNDS)
    with pytest.raises(ValueError, match=r"must be of hist_gradient_boosting.*got 'random_forest'"):
        ensemble_of("random_forest", trees, n_features=1, n_classes=0, n_rounds=1)


# CatBoost refuses targets that are all equal.
@pytest.mark.parametrize("kind", KINDS[:3])
def test_trees_that_never_split_are_their_baseline(kind: str) -> None:
    pytest.importorskip({"hist_gradient_boosting": "sklearn"}.get(kind, kind))
    values = np.arange(12.0).reshape(6, 2)
    none = np.zeros(2, dtype=bool)
    problem = Problem(values, none, np.full(6, 2.5), None, 0, 0, 1)
    trees = tree_learner(kind).fit(problem, 10)  # type: ignore[arg-type]
    ensemble = ensemble_of(kind, trees, n_features=2, n_classes=0, n_rounds=10)
    rows = values.astype(np.float32)
    expected = next(trees.stages(values, (10,)))
    np.testing.assert_allclose(
        ensemble.predict(rows, classifies=False), expected, rtol=0, atol=1e-6
    )
