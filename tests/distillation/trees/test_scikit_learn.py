"""scikit-learn's boosted trees of rows with weights, whose bins are found here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import Problem
from tabwright.distillation.trees.scikit_learn import HistGradientBoosting, _Bins


def posed(n: int = 1_500, n_classes: int = 0, *, weighted: bool = True) -> Problem:
    """Numbers of many and of few values, with gaps, and a category."""
    draw = np.random.default_rng(3)
    values = np.stack(
        [
            draw.normal(size=n),
            np.exp(3 * draw.normal(size=n)),
            draw.integers(0, 9, n).astype(float),
            draw.integers(0, 5, n).astype(float),
        ],
        axis=1,
    )
    values[draw.random(n) < 0.1, 0] = np.nan
    score = np.nan_to_num(values[:, 0], nan=2.0) * np.log(values[:, 1]) + values[:, 2]
    target = (score > np.median(score)).astype(np.int64) if n_classes else score / score.std()
    weight = draw.integers(0, 3, n).astype(float)
    categorical = np.array([False, False, False, True])
    return Problem(
        values, categorical, target, weight / weight.mean() if weighted else None, n_classes, 0, 1
    )


@pytest.mark.parametrize("n_classes", [0, 2])
def test_weights_of_one_change_nothing(n_classes: int) -> None:
    """The bins are those that scikit-learn finds for rows without weights."""
    problem = posed(n_classes=n_classes, weighted=False)
    ones = Problem(
        problem.values,
        problem.categorical,
        problem.target,
        np.ones(len(problem.target)),
        n_classes,
        0,
        1,
    )
    plain, weighted = (HistGradientBoosting().fit(own, 20) for own in (problem, ones))
    ((expected,), (found,)) = (
        tuple(own.stages(problem.values, (20,))) for own in (plain, weighted)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_classes", [0, 2])
def test_weights_are_repetitions(n_classes: int) -> None:
    """Rows of weight 2 are like two rows, and rows of weight 0 are not there."""
    problem = posed(n_classes=n_classes)
    assert problem.weight is not None
    counts = np.round(problem.weight / problem.weight[problem.weight > 0].min()).astype(int)
    index = np.repeat(np.arange(len(counts)), counts)
    repeated = Problem(
        problem.values[index], problem.categorical, problem.target[index], None, n_classes, 0, 1
    )
    losses = []
    for own in (problem, repeated):
        (found,) = HistGradientBoosting().fit(own, 40).stages(problem.values, (40,))
        score = found[:, 1] if n_classes else found
        losses.append(float(np.mean((score - problem.target) ** 2)))
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    assert losses[0] < 0.3


def test_further_rounds_are_those_of_one_fit() -> None:
    problem, rounds = posed(), (10, 35, 60)
    learner = HistGradientBoosting()
    staged = list(learner.fit_in_stages(problem, problem.values, rounds))
    whole = learner.fit(problem, 60).stages(problem.values, rounds)
    for found, expected in zip(staged, whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_arrays_have_the_thresholds_of_values() -> None:
    problem = posed()
    plain = Problem(
        problem.values[:, :3].astype(np.float32).astype(np.float64),
        np.zeros(3, dtype=bool),
        problem.target,
        problem.weight,
        0,
        0,
        1,
    )
    fitted = tree_learner("hist_gradient_boosting", kept=True).fit(plain, 35)
    arrays = ensemble_of("hist_gradient_boosting", fitted, n_features=3, n_classes=0, n_rounds=35)
    (expected,) = fitted.stages(plain.values, (35,))
    found = arrays.predict(plain.values.astype(np.float32), classifies=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_codes_are_few_and_in_order() -> None:
    problem = posed()
    assert problem.weight is not None
    bins = _Bins.of(problem, problem.weight)
    assert sorted(bins.thresholds) == [0, 1]
    coded = bins.codes(problem.values)
    assert np.array_equal(np.isnan(coded), np.isnan(problem.values))
    assert np.array_equal(coded[:, 2:], problem.values[:, 2:])
    for column in (0, 1):
        known = ~np.isnan(coded[:, column])
        assert 200 < len(np.unique(coded[known, column])) <= 255
        order = np.argsort(problem.values[known, column])
        assert (np.diff(coded[known, column][order]) >= 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [0, 2])
def test_columns_without_known_cells_have_no_splits(*, weighted: bool, n_classes: int) -> None:
    """One is missing in all rows, one in all rows that have weight."""
    problem = posed(n_classes=n_classes, weighted=weighted)
    values = problem.values.copy()
    values[:, 1] = np.nan
    if problem.weight is not None:
        values[problem.weight > 0, 2] = np.nan
    fitted = HistGradientBoosting().fit(replace(problem, values=values), 10)
    (found,) = fitted.stages(values, (10,))
    assert np.isfinite(found).all()
    other = values.copy()
    other[:, 1] = 5.0
    (again,) = fitted.stages(other, (10,))
    np.testing.assert_array_equal(again, found)


def test_a_cell_or_two_in_many_rows_are_no_fault() -> None:
    n = 200_001
    draw = np.random.default_rng(0)
    values = np.stack([draw.normal(size=n), np.full(n, np.nan)], axis=1)
    values[7, 1] = 1.0
    problem = Problem(values, np.zeros(2, dtype=bool), values[:, 0], None, 0, 0, 1)
    (found,) = HistGradientBoosting().fit(problem, 1).stages(values[:5], (1,))
    assert np.isfinite(found).all()


def test_infinities_have_bins() -> None:
    problem = posed()
    values = problem.values.copy()
    values[:30, 0], values[30:60, 1] = np.inf, -np.inf
    (found,) = HistGradientBoosting().fit(replace(problem, values=values), 5).stages(values, (5,))
    assert np.isfinite(found).all()
