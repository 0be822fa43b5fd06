"""Laws of the scores: scikit-learn's values, weights as repeated rows, honest intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tabwright.metrics import (
    classification_intervals,
    regression_intervals,
    reliability_bins,
    score_classification,
    score_regression,
)
from tabwright.weighted_metrics import calibration_metric, row_log_loss
from tests.losses import log_loss


def calibration_error(codes: np.ndarray, proba: np.ndarray, **options: Any) -> float:
    weight = np.ones(len(codes))
    return float(calibration_metric(codes, proba, weight, **options)(weight[None])[0])


def draw(
    n_rows: int, n_classes: int, seed: int, *, scale: float = 2.0, digits: int = 6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, classes drawn from them, and small integer weights."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_rows, n_classes)) * scale
    proba = np.exp(logits)
    proba = np.round(proba / proba.sum(axis=1, keepdims=True), digits)
    proba /= proba.sum(axis=1, keepdims=True)
    codes = (rng.random((n_rows, 1)) > np.cumsum(proba, axis=1)).sum(axis=1)
    return np.minimum(codes, n_classes - 1), proba, rng.integers(0, 4, n_rows).astype(float)


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_values_are_scikit_learns(n_classes: int, digits: int) -> None:
    y, p, w = draw(400, n_classes, 0, digits=digits)
    labels = list(range(n_classes))
    score = score_classification(y, p, w)
    predicted = p.argmax(axis=1)
    one_hot = np.eye(n_classes)[y]
    expected = {
        "log_loss": sk.log_loss(y, p, sample_weight=w, labels=labels),
        "accuracy": sk.accuracy_score(y, predicted, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted, sample_weight=w),
    }
    if n_classes == 2:
        expected["brier"] = sk.brier_score_loss(y, p[:, 1], sample_weight=w)
        expected["auc"] = sk.roc_auc_score(y, p[:, 1], sample_weight=w)
        expected["average_precision"] = sk.average_precision_score(y, p[:, 1], sample_weight=w)
        precision, recall, _ = sk.precision_recall_curve(y, p[:, 1], sample_weight=w)
        expected["recall_at_precision"] = recall[precision >= 0.9].max()
    else:
        expected["brier"] = sk.brier_score_loss(y, p, sample_weight=w, labels=labels)
        expected["auc"] = sk.roc_auc_score(one_hot, p, sample_weight=w)
        expected["average_precision"] = sk.average_precision_score(one_hot, p, sample_weight=w)
    for name, value in expected.items():
        assert score[name] == pytest.approx(value, rel=1e-9), name
    extra = {"ece", "rms_calibration_error"} | ({"classwise_ece"} if n_classes > 2 else set())
    assert set(score) == set(expected) | extra


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("digits", [1, 6])
def test_weights_equal_repeated_rows(n_classes: int, digits: int) -> None:
    for seed in range(5):
        y, p, w = draw(150, n_classes, seed, digits=digits)
        if seed % 2:
            w = w + 1.0
        rows = np.repeat(np.arange(150), w.astype(int))
        weighted, repeated = score_classification(y, p, w), score_classification(y[rows], p[rows])
        assert weighted == pytest.approx(repeated)
        target, value = p[:, 0] * 7.0, p[:, 1] * 7.0
        assert score_regression(target, value, w) == pytest.approx(
            score_regression(target[rows], value[rows])
        )


def test_scale_of_small_weights_changes_nothing() -> None:
    y, p, w = draw(300, 3, 1)
    w = w / w[w > 0].mean()
    assert score_classification(y, p, w * 1e-6) == pytest.approx(score_classification(y, p, w))


def test_regression_values_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200) + 1e6
    value, w = y + rng.normal(size=200), rng.random(200)
    score = score_regression(y, value, w)
    assert score["rmse"] == pytest.approx(sk.root_mean_squared_error(y, value, sample_weight=w))
    assert score["mae"] == pytest.approx(sk.mean_absolute_error(y, value, sample_weight=w))
    assert score["r2"] == pytest.approx(sk.r2_score(y, value, sample_weight=w))
    assert set(score_regression([3.0, 3.0, 3.0], [1.0, 2.0, 3.0])) == {"rmse", "mae"}
    assert set(score_regression([0.1] * 7, [1.0] * 7)) == {"rmse", "mae"}
    assert score_regression(y, np.full(y.shape, y.mean()))["r2"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_of_objectives_are_scikit_learns(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.poisson(2.0, 300).astype(float)
    value = rng.gamma(3.0, 1.0, 300)
    # With weights scikit-learn's quantiles of the rows are values of rows, as here.
    w = rng.integers(0, 3, 300).astype(float) if weighted else np.ones(300)
    score = score_regression(y, value, w, objective="poisson")
    assert list(score)[:2] == ["poisson_deviance", "d2"]
    assert score["poisson_deviance"] == pytest.approx(
        sk.mean_poisson_deviance(y, value, sample_weight=w)
    )
    assert score["d2"] == pytest.approx(sk.d2_tweedie_score(y, value, sample_weight=w, power=1))
    score = score_regression(y + 1, value, w, objective="gamma")
    assert score["gamma_deviance"] == pytest.approx(
        sk.mean_gamma_deviance(y + 1, value, sample_weight=w)
    )
    assert score["d2"] == pytest.approx(sk.d2_tweedie_score(y + 1, value, sample_weight=w, power=2))
    score = score_regression(y, value, w, objective="absolute_error")
    assert list(score)[:2] == ["mae", "d2"]
    assert score["d2"] == pytest.approx(sk.d2_absolute_error_score(y, value, sample_weight=w))
    levels = (0.2, 0.5, 0.75)
    said = np.column_stack([value - 1, value, value + 2])
    score = score_regression(y, said, w, objective="quantile", quantiles=levels)
    losses = [
        sk.mean_pinball_loss(y, said[:, k], sample_weight=w, alpha=level)
        for k, level in enumerate(levels)
    ]
    assert score["pinball"] == pytest.approx(np.mean(losses))
    assert score["mae"] == pytest.approx(sk.mean_absolute_error(y, value, sample_weight=w))
    # By its own definition: scikit-learn has one level at a time.
    best = [
        min(sk.mean_pinball_loss(y, np.full(300, c), sample_weight=w, alpha=level) for c in set(y))
        for level in levels
    ]
    assert score["d2"] == pytest.approx(1 - np.mean(losses) / np.mean(best))


def test_targets_that_an_objective_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 2 row\(s\) that are not, the first -3; correct"):
        score_regression([1.0, -3.0, -1.0], [1.0] * 3, objective="poisson")
    with pytest.raises(ValueError, match=r"amounts above 0; got 1 row\(s\).*use 'poisson'"):
        score_regression([1.0, 0.0], [1.0] * 2, objective="gamma")


def test_one_class_in_the_rows() -> None:
    _, p, _ = draw(20, 2, 0)
    zeros, ones = np.zeros(20, dtype=int), np.ones(20, dtype=int)
    score = score_classification(zeros, p)
    assert {"auc", "average_precision", "recall_at_precision"} & set(score) == set()
    assert score["log_loss"] == pytest.approx(-np.log(p[:, 0]).mean())
    assert "auc" not in score_classification(ones, p)
    assert "auc" not in classification_intervals(ones, p, n_resamples=20)
    assert score_classification(ones, p, predicted=ones)["balanced_accuracy"] == 1.0
    # Of three classes, those without a row do not count.
    y, p, _ = draw(100, 3, 1)
    y = np.minimum(y, 1)
    one_hot = np.eye(3)[y][:, :2]
    assert score_classification(y, p)["auc"] == pytest.approx(sk.roc_auc_score(one_hot, p[:, :2]))


def test_zero_probability_of_what_happened_is_finite_as_in_scikit_learn() -> None:
    y, p = np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert log_loss(y, p) == pytest.approx(sk.log_loss(y, p, labels=[0, 1]))
    assert row_log_loss(y, p).tolist() == pytest.approx([0.0, 36.0436533891])


def test_predicted_classes_can_be_given() -> None:
    y, p, _ = draw(100, 2, 3)
    score = score_classification(y, p, predicted=y)
    assert score["accuracy"] == score["balanced_accuracy"] == 1.0
    assert score["log_loss"] == score_classification(y, p)["log_loss"]


def test_scores_of_the_class_prior() -> None:
    y, _, _ = draw(300, 3, 0)
    prior = np.bincount(y) / 300
    score = score_classification(y, np.tile(prior, (len(y), 1)))
    assert score["log_loss"] == pytest.approx(-(prior * np.log(prior)).sum())
    assert score["auc"] == pytest.approx(0.5)
    assert score["ece"] == pytest.approx(0.0, abs=1e-12)


def test_reliability_bins_hold_equal_mass_and_keep_ties_together() -> None:
    p = np.linspace(0.0, 1.0, 100)
    bins = reliability_bins(p > 0.5, p, n_bins=4)
    assert bins.mass.tolist() == [25.0] * 4
    assert bins.frequency.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert bins.mean_probability == pytest.approx([0.121212, 0.373737, 0.626263, 0.878788], 1e-4)
    tied = reliability_bins([0, 1] * 50, np.full(100, 0.5), n_bins=4)
    assert [float(a[0]) for a in tied] == [0.5, 0.5, 100.0]


def test_plug_in_error_by_hand() -> None:
    p = np.array([[0.9, 0.1]] * 10 + [[0.1, 0.9]] * 10)
    y = np.array([1] * 4 + [0] * 6 + [1] * 6 + [0] * 4)
    assert calibration_error(y, p, debias=False, n_bins=2) == pytest.approx(0.3)
    # Kumar et al.: minus f (1 - f) / (n - 1) in each bin
    assert calibration_error(y, p, n_bins=2, squared=True) == pytest.approx(
        np.sqrt(0.09 - 0.24 / 9)
    )
    assert calibration_error(y, p, n_bins=2, classwise=True) == pytest.approx(
        calibration_error(y, p, n_bins=2)
    )


def test_debiasing_takes_most_of_a_perfect_models_error_away() -> None:
    plain, absolute, squared, plain_squared = [], [], [], []
    for seed in range(200):
        y, p, _ = draw(500, 2, seed, scale=1.0)
        plain.append(calibration_error(y, p, debias=False))
        absolute.append(calibration_error(y, p))
        squared.append(calibration_error(y, p, squared=True) ** 2)
        plain_squared.append(calibration_error(y, p, squared=True, debias=False) ** 2)
    assert np.mean(absolute) < 0.65 * np.mean(plain)
    assert np.mean(squared) < 0.3 * np.mean(plain_squared)


def test_debiased_errors_recover_a_known_error() -> None:
    # Probabilities shifted by 0.1 wherever they are.
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.7, 40_000)
    y = (rng.random(40_000) < truth).astype(int)
    p = np.stack([0.9 - truth, 0.1 + truth], axis=1)
    assert calibration_error(y, p) == pytest.approx(0.1, abs=0.008)
    assert calibration_error(y, p, squared=True) == pytest.approx(0.1, abs=0.008)


@pytest.mark.slow
def test_bootstrap_intervals_cover() -> None:
    # The true log-loss and accuracy of the drawing model, from many rows.
    y, p, _ = draw(200_000, 2, 99)
    truth = {"log_loss": log_loss(y, p), "accuracy": float((p.argmax(1) == y).mean())}
    truth["auc"] = float(sk.roc_auc_score(y, p[:, 1]))
    hits = dict.fromkeys(truth, 0)
    for seed in range(150):
        y, p, _ = draw(200, 2, seed)
        intervals = classification_intervals(y, p, coverage=0.8, n_resamples=200, random_state=seed)
        for name, value in truth.items():
            hits[name] += intervals[name][0] <= value <= intervals[name][1]
    for name, count in hits.items():
        assert 0.68 <= count / 150 <= 0.9, name


def test_intervals_hold_the_value_and_repeat_with_the_seed() -> None:
    y, p, w = draw(300, 3, 0)
    y[w == 0] = p[w == 0].argmin(axis=1)
    score = score_classification(y, p, w)
    first = classification_intervals(y, p, w, n_resamples=200, random_state=4)
    assert first == classification_intervals(y, p, w, n_resamples=200, random_state=4)
    assert first != classification_intervals(y, p, w, n_resamples=200, random_state=5)
    assert set(first) == set(score)
    for name in ("log_loss", "accuracy", "auc", "brier", "average_precision"):
        assert first[name][0] < score[name] < first[name][1]
    without = classification_intervals(y[w > 0], p[w > 0], w[w > 0], n_resamples=400)
    for name, bounds in classification_intervals(y, p, w, n_resamples=400).items():
        assert bounds == pytest.approx(without[name], abs=0.03), name
    target, value = p[:, 0], p[:, 0] + 0.1 * p[:, 1]
    intervals = regression_intervals(target, value, w, n_resamples=200)
    for name, number in score_regression(target, value, w).items():
        assert intervals[name][0] < number < intervals[name][1]


def test_chunks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y, p, w = draw(60, 2, 0)
    whole = classification_intervals(y, p, w, n_resamples=50)
    monkeypatch.setattr("tabwright.metrics._CHUNK_WEIGHTS", 400)
    chunked = classification_intervals(y, p, w, n_resamples=50)
    assert list(chunked) == list(whole)
    assert np.allclose(list(chunked.values()), list(whole.values()), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(2, 4), st.integers(0, 10**6))
def test_tiny_tables_give_finite_scores(n_rows: int, n_classes: int, seed: int) -> None:
    y, p, _ = draw(n_rows, n_classes, seed, digits=1)
    assert np.isfinite(list(score_classification(y, p).values())).all()
    for low, high in classification_intervals(y, p, n_resamples=20).values():
        assert np.isfinite([low, high]).all()
        assert low <= high


def test_refusals() -> None:
    p = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"codes must be from 0 to 1, .*got 2 to 2"):
        log_loss([2], p)
    with pytest.raises(ValueError, match="codes must be a 1-D array of integers"):
        log_loss([0.0], p)
    with pytest.raises(ValueError, match=r"proba must have shape \(1, classes\)"):
        log_loss([0], [[1.0]])
    with pytest.raises(ValueError, match="each row summing to 1"):
        log_loss([0], [[0.5, 0.6]])
    with pytest.raises(ValueError, match="each row summing to 1"):
        log_loss([0], [[np.nan, 0.6]])
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        log_loss([0], p, [0.0])
    with pytest.raises(ValueError, match="at least one row of positive weight"):
        score_regression([], [])
    with pytest.raises(ValueError, match="sample_weight must be finite and not negative; got -1"):
        log_loss([0], p, [-1.0])
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(1,\)"):
        log_loss([0], p, [1.0, 1.0])
    with pytest.raises(ValueError, match="y and prediction must be finite"):
        score_regression([0.0, np.inf], [0.0, 0.0])
    with pytest.raises(ValueError, match="must be 1-D of one length"):
        score_regression([0.0], [0.0, 0.0])
    with pytest.raises(ValueError, match=r"coverage must be above 0 and below 1; got 1\.0"):
        classification_intervals([0], p, coverage=1.0)
    with pytest.raises(ValueError, match="n_resamples must be at least 1; got 0"):
        classification_intervals([0], p, n_resamples=0)
    with pytest.raises(ValueError, match=r"wanted_precision must be in \(0, 1\]; got 0.0"):
        score_classification([0], p, wanted_precision=0.0)
    with pytest.raises(ValueError, match=r"predicted must have shape \(1,\); got \(2,\)"):
        score_classification([0], p, predicted=[0, 0])
    with pytest.raises(ValueError, match="n_bins must be at least 1; got 0"):
        reliability_bins([True], [0.5], n_bins=0)


def test_decisions_are_scored_as_scikit_learn_does() -> None:
    from sklearn.metrics import f1_score, precision_score, recall_score

    from tabwright.metrics import score_decisions

    generator = np.random.default_rng(0)
    codes, said = generator.integers(0, 2, size=(2, 80))
    weight = generator.uniform(0.1, 2.0, size=80)
    for positive in (0, 1):
        own = score_decisions(codes, said, weight, positive=positive)
        for name, score in (
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            theirs = score(codes, said, sample_weight=weight, pos_label=positive)
            assert own[name] == pytest.approx(theirs)
    assert "precision" not in score_decisions([0, 1], [0, 0])
    assert "recall" not in score_decisions([0, 0], [0, 1])
    with pytest.raises(ValueError, match="the same shape"):
        score_decisions([0, 1], [0])


@pytest.mark.parametrize("seed", range(5))
def test_no_score_lies_outside_its_interval(seed: int) -> None:
    from tabwright.metrics import decision_intervals, score_decisions

    generator = np.random.default_rng(seed)
    p = generator.uniform(size=150)
    codes = (generator.uniform(size=150) < p).astype(int)
    proba = np.column_stack([1 - p, p])
    scores = score_classification(codes, proba)
    intervals = classification_intervals(codes, proba, n_resamples=200)
    scores |= score_decisions(codes, p > 0.5)
    intervals |= decision_intervals(codes, p > 0.5, n_resamples=200)
    assert set(scores) == set(intervals)
    for name, value in scores.items():
        low, high = intervals[name]
        assert low <= value <= high, name
        assert low < high, name


def test_scores_of_rows_that_are_all_right_have_no_interval_of_resamples() -> None:
    codes = np.arange(40) % 2
    sure = np.column_stack([1 - codes, codes]) * 0.8 + 0.1
    intervals = classification_intervals(codes, sure, n_resamples=50)
    assert {"accuracy", "auc", "balanced_accuracy"} & set(intervals) == set()
    # One row that is wrong says how others may be.
    codes[0] = 1
    intervals = classification_intervals(codes, sure, n_resamples=50)
    assert intervals["accuracy"][0] < 39 / 40 <= intervals["accuracy"][1]
