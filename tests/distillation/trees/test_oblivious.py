"""Boosted oblivious trees: gains by brute force, the bits of NumPy, leaves that stay in bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees import oblivious
from tabwright.distillation.trees.oblivious import (
    BinnedRows,
    ObliviousBoosting,
    RandomDraw,
    choose_splits,
    split_gains,
)
from tabwright.distillation.trees.problem import Problem
from tabwright.inference.compiled import functions

N_ROUNDS = 60


def problem_of(
    values: NDArray[Any], target: NDArray[Any], weight: NDArray[Any] | None = None, **changes: Any
) -> Problem:
    values = np.asarray(values, dtype=np.float64)
    fields = {
        "values": values,
        "categorical": np.zeros(values.shape[1], dtype=bool),
        "target": target.astype(np.int64),
        "weight": weight,
        "n_classes": 2,
        "random_state": 3,
        "n_threads": 1,
    }
    return Problem(**{**fields, **changes})


def ruled(n: int, seed: int = 0) -> Problem:
    """A class that three columns of five decide together, with missing cells."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 5))
    target = (values[:, 0] > 0.5) & (values[:, 1] < 0.5) & (values[:, 2] > -1.0)
    values[rng.random((n, 5)) < 0.05] = np.nan
    return problem_of(values, target)


def log_loss(predicted: NDArray[Any], target: NDArray[Any]) -> float:
    return float(-np.log(predicted[np.arange(len(target)), target]).mean())


def random_rows(rng: np.random.Generator, n: int, width: int) -> BinnedRows:
    bins = rng.integers(0, width, (3, n)).astype(np.uint8)
    # A column of one bin, and one whose first and last bins have no row.
    bins[1] = 0
    bins[2] = np.clip(bins[2], 1, max(1, width - 2))
    order = np.argsort(bins, axis=1, kind="stable").astype(np.int32)
    return BinnedRows(bins, order, np.array([width, 1, width], dtype=np.int64), rng.random(n))


def test_gains_are_those_of_every_split_by_itself() -> None:
    rng = np.random.default_rng(1)
    rows, gradient = random_rows(rng, 70, 6), rng.normal(size=70)
    # A leaf without rows.
    leaf = rng.integers(0, 3, 70).astype(np.uint8)
    for column, own in enumerate(rows.bins):
        gains = split_gains(rows, column, leaf, gradient, 4)
        assert len(gains) == rows.n_bins[column] - 1
        for place, gain in enumerate(gains):
            sides = [(leaf == k) & side for k in range(4) for side in (own <= place, own > place)]
            expected = sum(
                gradient[side].sum() ** 2 / (rows.weight[side].sum() + 3.0) for side in sides
            )
            assert gain == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", list(functions.instruction_sets()))
@pytest.mark.parametrize(
    ("n", "n_levels", "width", "scale"), [(50, 1, 5, 0.0), (900, 6, 255, 0.1), (333, 4, 40, 1.0)]
)
def test_compiled_splits_are_those_of_numpy(
    name: str, n: int, n_levels: int, width: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    rows, gradient = random_rows(rng, n, width), rng.normal(size=n)
    tried = np.array([[0, 2], [1, 2], [0, 1], [0, 2], [0, 2], [1, 2]])[:n_levels]
    draw = RandomDraw(tried, rng.normal(size=1_000), rng.integers(0, 700, tried.shape), scale)
    own = {name: functions.instruction_sets()[name]}
    monkeypatch.setattr(functions, "instruction_sets", lambda: own)
    compiled = choose_splits(rows, draw, gradient)
    monkeypatch.setattr(oblivious, "instruction_sets", dict)
    columns, places, leaf = choose_splits(rows, draw, gradient)
    assert compiled[:2] == (columns, places)
    np.testing.assert_array_equal(compiled[2], leaf)
    answers = [rows.bins[column] > place for column, place in zip(columns, places, strict=True)]
    np.testing.assert_array_equal(leaf, sum(bit * 2**k for k, bit in enumerate(answers)))


def test_equal_columns_are_told_apart_by_noise_alone() -> None:
    rng = np.random.default_rng(6)
    column, target = rng.normal(size=(200, 1)), rng.random(200) < 0.5
    trees = ObliviousBoosting().fit(problem_of(np.tile(column, (1, 8)), target), 20).model
    assert len(np.unique(trees.feature)) > 4


def test_trees_are_the_same_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = ruled(300)
    trees = ObliviousBoosting().fit(problem, 20).model.to_arrays()
    monkeypatch.setattr(oblivious, "instruction_sets", dict)
    again = ObliviousBoosting().fit(problem, 20).model.to_arrays()
    for name, array in trees.items():
        np.testing.assert_array_equal(array, again[name])


def test_a_rule_of_three_columns_is_learned() -> None:
    problem, unseen = ruled(1_500), ruled(1_000, seed=1)
    rounds = ObliviousBoosting().rounds(2)
    stages = list(ObliviousBoosting().fit_in_stages(problem, unseen.values, rounds))
    losses = [log_loss(stage, unseen.target) for stage in stages]
    share = problem.target.mean()
    prior = log_loss(np.tile([1.0 - share, share], (len(unseen.target), 1)), unseen.target)
    assert losses[0] < prior
    assert min(losses) < 0.4 * prior


def test_noise_is_predicted_no_better_than_its_prior() -> None:
    rng = np.random.default_rng(4)
    values, target = rng.normal(size=(2_000, 4)), rng.random(2_000) < 0.3
    problem = problem_of(values[:1_000], target[:1_000])
    predicted = next(ObliviousBoosting().fit(problem, 40).stages(values[1_000:], [40]))
    share = target[:1_000].mean()
    prior = log_loss(np.tile([1.0 - share, share], (1_000, 1)), target[1_000:].astype(int))
    assert log_loss(predicted, target[1_000:].astype(int)) > prior - 0.002


def test_stages_are_the_first_rounds_and_the_kept_arrays() -> None:
    problem = ruled(400)
    learner = ObliviousBoosting()
    fitted = learner.fit(problem, N_ROUNDS)
    whole = list(fitted.stages(problem.values, (10, N_ROUNDS)))
    for stage, lazily in zip(
        whole, learner.fit_in_stages(problem, problem.values, (10, N_ROUNDS)), strict=True
    ):
        np.testing.assert_array_equal(stage, lazily)
    kept = ensemble_of("oblivious_boosting", fitted, n_features=5, n_classes=2, n_rounds=10)
    rows = problem.values.astype(np.float32)
    np.testing.assert_array_equal(kept.predict(rows, classifies=True), whole[0])
    assert len(kept.to_arrays()["feature"]) == 10


def test_weights_are_heard() -> None:
    values = np.arange(200.0)[:, None] % 2
    target = np.tile([False, True, True, False], 50)
    weight = np.where(target, 1.8, 0.2)
    even = next(ObliviousBoosting().fit(problem_of(values, target), 20).stages(values, [20]))
    heavy = problem_of(values, target, weight)
    uneven = next(ObliviousBoosting().fit(heavy, 20).stages(values, [20]))
    np.testing.assert_allclose(even[:, 1], 0.5, atol=0.01)
    np.testing.assert_allclose(uneven[:, 1], 0.9, atol=0.01)


def test_leaves_full_of_a_rare_class_stay_in_bounds() -> None:
    """A whole Newton step from a prior of 1 in 100 would be 33, and the next as far back."""
    values = np.zeros((20_000, 1))
    values[:200] = 1.0
    target = values[:, 0] == 1.0
    target[100:200] = False
    fitted = ObliviousBoosting().fit(problem_of(values, target), 200)
    assert abs(fitted.model.value).max() <= 0.03 * 5.0
    predicted = next(fitted.stages(np.array([[1.0], [0.0]]), [200]))
    np.testing.assert_allclose(predicted[:, 1], [0.5, 0.0], atol=0.03)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1.0, 1.0, 1.0], []),
        ([np.nan, np.nan], []),
        ([2.0, 1.0, 4.0, 1.0], [1.5, 3.0]),
        ([np.nan, 1.0, 1.0], [-np.inf]),
        ([np.nan, 1.0, 3.0], [-np.inf, 2.0]),
        ([-np.inf, 0.0, np.inf], [-np.inf, 0.0]),
        # Nothing lies between neighbours.
        ([1.0, np.nextafter(np.float32(1), np.float32(2))], [1.0]),
    ],
)
def test_thresholds_part_all_values(column: list[float], expected: list[float]) -> None:
    found = oblivious._thresholds(np.array(column, dtype=np.float32))
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_many_values_have_thresholds_at_quantiles() -> None:
    column = np.random.default_rng(5).lognormal(size=5_000).astype(np.float32)
    for missing in (0, 100):
        column[:missing] = np.nan
        found = oblivious._thresholds(column)
        assert 200 < len(found) <= 254
        assert (np.diff(found) > 0).all()
        counts = np.diff(np.searchsorted(np.sort(column[missing:]), found[1:]))
        assert counts.max() < 60


def test_columns_without_a_split_leave_the_prior() -> None:
    values = np.column_stack([np.full(40, np.nan), np.ones(40)])
    target = np.arange(40) < 10
    fitted = ObliviousBoosting().fit(problem_of(values, target), 5)
    np.testing.assert_allclose(next(fitted.stages(values, [5])), [[0.75, 0.25]] * 40)


def test_values_beyond_float32_are_infinite() -> None:
    values = np.array([[-1e300], [0.0], [1e300], [2e300]] * 10)
    target = np.array([False, True, True, True] * 10)
    predicted = next(ObliviousBoosting().fit(problem_of(values, target), 100).stages(values, [100]))
    assert (predicted[:4].argmax(axis=1) == [0, 1, 1, 1]).all()


@pytest.mark.parametrize("n_classes", [0, 3])
def test_other_tasks_are_refused(n_classes: int) -> None:
    problem = problem_of(np.eye(3), np.arange(3), n_classes=n_classes)
    with pytest.raises(ValueError, match=f"for two classes; got {n_classes}; take 'hist_gradient"):
        ObliviousBoosting().fit(problem, 1)
