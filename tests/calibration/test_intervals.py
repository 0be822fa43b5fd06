"""Laws of prediction intervals: the wanted coverage in finite samples, no false promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.calibration.intervals import (
    CrossPredictions,
    Intervals,
    fit_intervals,
    interval_rows,
)
from tabwright.errors import ArtifactError


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_half_width_is_the_finite_sample_quantile(n_rows: int, coverage: float, seed: int) -> None:
    residuals = np.random.default_rng(seed).normal(size=n_rows)
    width = fit_intervals(residuals, np.zeros(n_rows)).half_width(coverage)
    rank = math.ceil((n_rows + 1) * coverage - 1e-9)
    expected = np.sort(np.abs(residuals))[rank - 1] if rank <= n_rows else math.inf
    assert width == expected


@pytest.mark.parametrize("n_rows", [9, 19, 100])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_coverage_in_finite_samples(n_rows: int, coverage: float) -> None:
    rng = np.random.default_rng(n_rows)
    covered = []
    for _ in range(4000):
        rows = rng.standard_cauchy(n_rows + 1)
        low, high = fit_intervals(rows[:-1], np.zeros(n_rows)).interval([0.0], coverage)
        covered.append(low[0] <= rows[-1] <= high[0])
    error = 3 * math.sqrt(coverage * (1 - coverage) / 4000)
    assert coverage - error <= np.mean(covered) <= coverage + 1 / (n_rows + 1) + error


def test_weights_move_the_quantile_to_the_weighted_rows() -> None:
    # One row in four is noisy, one new row in two: a weight of 3 makes up for it.
    rng = np.random.default_rng(0)
    covered, plain = [], []
    for _ in range(300):
        noisy = rng.random(400) < 0.25
        y = rng.normal(size=400) * np.where(noisy, 5.0, 1.0)
        w = np.where(noisy, 3.0, 1.0)
        new = rng.normal(size=50) * np.where(rng.random(50) < 0.5, 5.0, 1.0)
        weighted = fit_intervals(y, np.zeros(400), sample_weight=w).half_width(0.9)
        covered.append(np.mean(np.abs(new) <= weighted))
        plain.append(np.mean(np.abs(new) <= fit_intervals(y, np.zeros(400)).half_width(0.9)))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.012)
    assert np.mean(plain) < 0.87


def test_zero_weights_and_scale_change_nothing() -> None:
    y = np.arange(1.0, 21.0)
    w = np.repeat([1.0, 0.0], 10)
    for scale in (1.0, 1e-9):
        weighted = fit_intervals(y, 0 * y, sample_weight=w * scale)
        assert weighted.half_width(0.5) == fit_intervals(y[:10], 0 * y[:10]).half_width(0.5)
        assert weighted.levels[-1] == pytest.approx(10 / 11)


def test_what_so_few_rows_cannot_promise_is_infinite() -> None:
    nine = fit_intervals(np.arange(9.0), np.zeros(9))
    assert nine.half_width(0.9) == 8.0
    low, high = nine.interval([1.0, 2.0], 0.95)
    assert (low == -np.inf).all()
    assert (high == np.inf).all()


def test_many_residuals_are_thinned_to_the_safe_side() -> None:
    residuals = np.sort(np.abs(np.random.default_rng(0).normal(size=100_000)))
    intervals = fit_intervals(residuals, 0 * residuals)
    assert len(intervals.residuals) <= 4096
    for coverage in (0.01, 0.3, 0.5, 0.9, 0.95, 0.99, 0.999, 0.99999):
        exact = residuals[math.ceil(100_001 * coverage - 1e-9) - 1]
        assert exact <= intervals.half_width(coverage) <= exact + 0.002
    assert intervals.half_width(0.9999) == residuals[math.ceil(100_001 * 0.9999) - 1]


def test_state_round_trip_and_changed_files() -> None:
    intervals = fit_intervals([1.0, 2.0, 5.0], [0.0, 0.0, 0.0], kind="cross")
    document, arrays = intervals.to_state()
    back = Intervals.from_state(Reader(document), TensorBag(arrays))
    assert back.kind == "cross"
    assert back.half_width(0.7) == intervals.half_width(0.7) == 5.0
    for change in (
        {"residuals": np.array([2.0, 1.0, 5.0])},
        {"residuals": np.array([-1.0, 1.0, 5.0])},
        {"levels": np.array([0.2, 0.2, 0.5])},
        {"levels": np.array([0.2, 0.3, 1.0])},
        {"levels": np.array([0.2, 0.3])},
        {"residuals": np.array([]), "levels": np.array([])},
        {"residuals": np.array([1.0, 2.0, np.inf])},
    ):
        with pytest.raises(ArtifactError, match=r"residuals|levels"):
            Intervals.from_state(Reader(document), TensorBag(arrays | change))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        fit_intervals([], [])
    with pytest.raises(ValueError, match="must be 1-D of one length"):
        fit_intervals([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="must be finite"):
        fit_intervals([np.nan], [1.0])
    for coverage in (0.0, 1.0):
        with pytest.raises(ValueError, match="coverage must be above 0 and below 1; got"):
            fit_intervals([1.0], [1.0]).interval([1.0], coverage)


def test_a_quarter_of_many_rows_is_set_aside_and_few_rows_are_crossed() -> None:
    many = interval_rows(1000, random_state=0)
    assert many.kind == "split"
    assert len(many.aside) == 250
    assert sorted([*many.aside, *many.choosing]) == list(range(1000))
    few = interval_rows(60, random_state=0)
    assert few.kind == "cross"
    assert few.choosing.tolist() == list(range(60))
    assert few.folds is not None
    assert np.bincount(few.folds).tolist() == [12] * 5


@pytest.mark.parametrize("n_rows", [30, 1000])
def test_groups_and_times_do_not_straddle(n_rows: int) -> None:
    groups = np.random.default_rng(0).integers(10, size=n_rows)
    grouped = interval_rows(n_rows, groups=groups, random_state=0)
    if grouped.folds is None:
        assert not set(groups[grouped.aside]) & set(groups[grouped.choosing])
    else:
        for group in range(10):
            assert len(set(grouped.folds[groups == group])) <= 1
    timed = interval_rows(n_rows, time=groups, random_state=0)
    assert timed.kind == "split"
    assert groups[timed.aside].min() > groups[timed.choosing].max()


def test_no_rows_to_take_residuals_from_is_said() -> None:
    assert interval_rows(1, random_state=0).kind is None
    for rows in ({"groups": ["a"] * 900}, {"time": [1.0] * 900}):
        nothing = interval_rows(900, **rows, random_state=0)
        assert nothing.kind is None
        assert len(nothing.choosing) == 900
        assert "need at least 2 validation" in nothing.message


def _crossed(target: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    rng = np.random.default_rng(0)
    folds = np.arange(12) % 3
    cross = CrossPredictions(folds, weight)
    for _ in range(8):
        values = rng.normal(size=(2, 12))
        cross.see(values, cross.fold_losses((values - target) ** 2))
    return cross.predictions()


def test_crossed_predictions_do_not_look_at_their_own_rows() -> None:
    target = np.linspace(-1, 1, 12)
    expected = _crossed(target)
    for fold in range(3):
        moved = target + 100.0 * (np.arange(12) % 3 == fold)
        now = _crossed(moved)
        own = np.arange(12) % 3 == fold
        np.testing.assert_array_equal(now[own], expected[own])
        assert (now[~own] != expected[~own]).any()


def test_crossed_predictions_are_those_of_the_best_epoch_elsewhere() -> None:
    folds = np.array([0, 0, 1, 1])
    cross = CrossPredictions(folds)
    for outputs in ([[1.0, 1, 5, 5]], [[6.0, 6, 2, 2]], [[7.0, 7, 7, 7]]):
        cross.see(np.array(outputs), cross.fold_losses(np.array(outputs)))
    # Fold 0 is predicted by the epoch that fold 1 likes best, the second, and the other way.
    assert cross.predictions().tolist() == [6.0, 6.0, 5.0, 5.0]
    with pytest.raises(ValueError, match="no epoch was seen"):
        CrossPredictions(folds).predictions()


def test_crossed_quantiles_are_kept_together() -> None:
    folds = np.array([0, 0, 1])
    cross = CrossPredictions(folds)
    early, late = np.arange(6.0).reshape(1, 3, 2), np.arange(6.0, 12.0).reshape(1, 3, 2)
    cross.see(early, cross.fold_losses(np.array([[0.0, 0.0, 9.0]])))
    cross.see(late, cross.fold_losses(np.array([[5.0, 5.0, 1.0]])))
    # Fold 0 goes by the loss of fold 1, which the second epoch lowers, and the other way.
    assert cross.predictions().tolist() == [[6.0, 7.0], [8.0, 9.0], [4.0, 5.0]]


def test_weights_choose_the_crossed_epoch() -> None:
    target = np.linspace(-1, 1, 12)
    weight = np.where(np.arange(12) < 6, 1.0, 0.0)
    moved = np.where(np.arange(12) < 6, target, 50.0)
    np.testing.assert_array_equal(_crossed(target, weight), _crossed(moved, weight))
    assert (_crossed(target) != _crossed(moved)).any()
