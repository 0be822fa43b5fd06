"""The scores that Tabwright reports, with sample weights and bootstrap intervals.

How each score is computed is in `weighted_metrics.py`. scikit-learn has most of the values but
neither the intervals nor all of the weights; the tests hold each value to scikit-learn's. Rules
that turn probabilities into decisions live in `calibration/decisions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tabwright.regression import RegressionObjective, check_target
from tabwright.weighted_metrics import (
    classification_metrics,
    decision_metrics,
    equal_mass_bins,
    regression_metrics,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

    from tabwright.weighted_metrics import Metric

# 16 MB of weights at once: memory must not grow with the number of resamples.
_CHUNK_WEIGHTS = 2_000_000
# What a score can be, where that is not 0 to 1.
_RANGES = {
    "log_loss": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "rmse": (0.0, math.inf),
    "mae": (0.0, math.inf),
    "r2": (-math.inf, 1.0),
    "pinball": (0.0, math.inf),
    "poisson_deviance": (0.0, math.inf),
    "gamma_deviance": (0.0, math.inf),
    "d2": (-math.inf, 1.0),
}


_ORDER = (
    *("log_loss", "accuracy", "balanced_accuracy", "brier", "ece", "rms_calibration_error"),
    *("classwise_ece", "auc", "average_precision", "recall_at_precision"),
    *("precision", "recall", "f1"),
    *("pinball", "poisson_deviance", "gamma_deviance", "d2", "rmse", "mae", "r2"),
)


def in_order(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores of a model file, which has them by the alphabet, as people read them.

    Returns: the loss first; names that are not known here last.
    """
    known = [name for name in _ORDER if name in scores]
    return {name: scores[name] for name in (*known, *(n for n in scores if n not in known))}


def score_classification(
    codes: ArrayLike,
    proba: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    predicted: ArrayLike | None = None,
    wanted_precision: float = 0.9,
) -> dict[str, float]:
    """Score class probabilities.

    `codes`: (n,); true classes, 0 to C - 1.
    `proba`: (n, C), float64; probabilities; rows sum to 1.
    `sample_weight`: (n,); weights of the rows; a weight of 2 equals a row twice.
    `predicted`: (n,); predicted classes; by default the most probable ones.
    `wanted_precision`: the precision of `recall_at_precision`, in (0, 1].
    Returns: `log_loss` (nats); `accuracy`; `balanced_accuracy`, the mean recall of the classes in
        the rows; `brier`, halved for two classes as scikit-learn does; `ece` and
        `rms_calibration_error`, of class 1 for two classes, else of the most probable class, and
        for more than two classes `classwise_ece` (see `calibration_metric`); `auc` and
        `average_precision`, one class against the rest, averaged over the classes for more than
        two; for two classes `recall_at_precision`, the highest recall of any threshold with the
        wanted precision, 0 if there is none. A score that the rows leave undefined (`auc` with a
        single class) is left out.
    Raises `ValueError`: wrong shapes, values out of range, no row of positive weight.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    metrics = classification_metrics(y, p, weight, predicted, wanted_precision)
    return _values(metrics, weight)


def classification_intervals(
    codes: ArrayLike,
    proba: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    predicted: ArrayLike | None = None,
    wanted_precision: float = 0.9,
    coverage: float = 0.95,
    n_resamples: int = 1000,
    random_state: int = 0,
    on_resampled: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the scores of `score_classification`.

    Percentile bootstrap over rows (Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, section 13.3), moved so that the median of the resamples is the score itself: a
    resample has rows twice, which raises calibration errors and the average precision, and an
    interval that is not moved may lie beside its own score. The bins of the calibration errors
    stay those of the given rows, and resamples that leave a score undefined do not count for it.

    `codes`, `proba`, `sample_weight`, `predicted`, `wanted_precision`: as in
        `score_classification`.
    `on_resampled`: called with how many resamples are done, and of how many.
    Returns: the keys of `score_classification`, without those whose score is the same in every
        resample: such a bootstrap says nothing of other rows.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    metrics = classification_metrics(y, p, weight, predicted, wanted_precision)
    return _intervals(metrics, weight, coverage, n_resamples, random_state, on_resampled)


def score_decisions(
    codes: ArrayLike,
    predicted: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    positive: int = 1,
) -> dict[str, float]:
    """Precision, recall and F1 of decisions between two classes.

    `codes`, `predicted`: (n,); true and predicted classes, 0 or 1.
    `sample_weight`: (n,); weights of the rows; a weight of 2 equals a row twice.
    `positive`: the class that is looked for.
    Returns: `precision`, `recall` and `f1`. One that the rows leave undefined is left out:
        precision where nothing is predicted positive, recall where nothing is.
    """
    metrics, weight = _decision_metrics(codes, predicted, sample_weight, positive)
    return _values(metrics, weight)


def decision_intervals(
    codes: ArrayLike,
    predicted: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    positive: int = 1,
    coverage: float = 0.95,
    n_resamples: int = 1000,
    random_state: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of `score_decisions`; see `classification_intervals`."""
    metrics, weight = _decision_metrics(codes, predicted, sample_weight, positive)
    return _intervals(metrics, weight, coverage, n_resamples, random_state)


def score_regression(
    y: ArrayLike,
    prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    objective: RegressionObjective = "squared_error",
    quantiles: Sequence[float] = (),
) -> dict[str, float]:
    """Score predicted values.

    `y`: (n,), float64; true values.
    `prediction`: (n,), or (n, n_levels), float64; predicted values.
    `sample_weight`: (n,); weights of the rows; a weight of 2 equals a row twice.
    `objective`: what the model was fitted for.
    `quantiles`: the levels of objective "quantile".
    Returns: first what the objective is judged by (`regression.MEASURES`) and, but for squared
        error, `d2`, the share by which that is below the best constant's for these rows: `mae`;
        `pinball`, the mean over the levels; `poisson_deviance` or `gamma_deviance`. Then `rmse` and
        `mae` in the target's unit, of the quantile nearest to the median, and `r2`. What a constant
        target leaves undefined (`r2`, `d2`) is left out.
    Raises `ValueError`: wrong shapes, values that are not finite or that the objective cannot have,
        no row of positive weight.
    """
    target, value, weight = _checked_regression(y, prediction, sample_weight, objective)
    return _values(regression_metrics(target, value, objective, quantiles), weight)


def regression_intervals(
    y: ArrayLike,
    prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    objective: RegressionObjective = "squared_error",
    quantiles: Sequence[float] = (),
    coverage: float = 0.95,
    n_resamples: int = 1000,
    random_state: int = 0,
    on_resampled: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the scores of `score_regression`; see `classification_intervals`."""
    target, value, weight = _checked_regression(y, prediction, sample_weight, objective)
    metrics = regression_metrics(target, value, objective, quantiles)
    return _intervals(metrics, weight, coverage, n_resamples, random_state, on_resampled)


class ReliabilityBins(NamedTuple):
    """Rows in bins of equal mass, each array of shape (bins,), float64.

    `mean_probability`: mean predicted probability of the event.
    `frequency`: share of rows in which the event happened.
    `mass`: sum of the rows' weights: their number without weights.
    """

    mean_probability: FloatArray
    frequency: FloatArray
    mass: FloatArray


def reliability_bins(
    event: ArrayLike,
    probability: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    n_bins: int | None = None,
) -> ReliabilityBins:
    """Group rows by predicted probability into bins of equal mass.

    `event`: (n,), bool; whether the event happened.
    `probability`: (n,); its predicted probability. Equal probabilities share a bin.
    `sample_weight`: (n,); weights of the rows.
    `n_bins`: number of bins at most; by default one for each 10 rows, at most 15.
    """
    p = np.asarray(probability, dtype=np.float64)
    weight = _checked_weight(sample_weight, len(p))
    mass, total, hits = equal_mass_bins(np.asarray(event, dtype=bool), p, weight, n_bins)(
        weight[None]
    )
    return ReliabilityBins(total[0] / mass[0], hits[0] / mass[0], mass[0])


def _decision_metrics(
    codes: ArrayLike, predicted: ArrayLike, sample_weight: ArrayLike | None, positive: int
) -> tuple[dict[str, Metric], FloatArray]:
    """The metrics of decisions as functions of row weights, and the weights."""
    true, is_predicted = np.asarray(codes) == positive, np.asarray(predicted) == positive
    if true.ndim != 1 or is_predicted.shape != true.shape:
        raise ValueError(
            f"codes and predicted must have the same shape (n,); got {true.shape} and "
            f"{is_predicted.shape}"
        )
    return decision_metrics(true, is_predicted), _checked_weight(sample_weight, len(true))


def _values(metrics: dict[str, Metric], weight: FloatArray) -> dict[str, float]:
    values = {name: float(metric(weight[None])[0]) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _intervals(
    metrics: dict[str, Metric],
    weight: FloatArray,
    coverage: float,
    n_resamples: int,
    random_state: int,
    on_resampled: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of metrics."""
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must be above 0 and below 1; got {coverage!r}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1; got {n_resamples!r}")
    rng = np.random.default_rng(random_state)
    n_rows = len(weight)
    drawn: dict[str, list[FloatArray]] = {name: [] for name in metrics}
    chunk = max(1, _CHUNK_WEIGHTS // n_rows)
    for first in range(0, n_resamples, chunk):
        weights = np.empty((min(chunk, n_resamples - first), n_rows))
        for line in weights:
            line[:] = np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows)
        weights *= weight
        # A resample without any weight left says nothing.
        weights = weights[weights.sum(axis=1) > 0.0]
        for name, metric in metrics.items():
            drawn[name].append(metric(weights))
        if on_resampled is not None:
            on_resampled(min(first + chunk, n_resamples), n_resamples)
    tail = (1.0 - coverage) / 2.0
    known = _values(metrics, weight)
    intervals = {}
    for name in known:
        values = np.concatenate(drawn[name])
        values = values[~np.isnan(values)]
        if len(values):
            low, middle, high = np.quantile(values, [tail, 0.5, 1.0 - tail])
            # Resamples of rows that are all right, say, do not show what other rows would give.
            if low == high:
                continue
            ends = np.array([low, high]) + known[name] - middle
            low, high = np.clip(ends, *_RANGES.get(name, (0.0, 1.0)))
            intervals[name] = (float(low), float(high))
    return intervals


def _checked_weight(sample_weight: ArrayLike | None, n_rows: int) -> FloatArray:
    """The weights scaled to a mean of 1; ones where there are none."""
    if sample_weight is None:
        weight = np.ones(n_rows)
    else:
        weight = np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (n_rows,):
            raise ValueError(f"sample_weight must have shape ({n_rows},); got {weight.shape}")
        if not np.isfinite(weight).all() or (weight < 0.0).any():
            raise ValueError(
                "sample_weight must be finite and not negative; got "
                f"{weight[~(np.isfinite(weight) & (weight >= 0.0))][0]}"
            )
    if not weight.sum() > 0.0:
        raise ValueError("at least one row of positive weight is needed; got none")
    return weight


def _checked_classification(
    codes: ArrayLike, proba: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Codes, probabilities and weights, checked."""
    y = np.asarray(codes)
    p = np.asarray(proba, dtype=np.float64)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(
            f"codes must be a 1-D array of integers; got dtype {y.dtype}, shape {y.shape}"
        )
    if p.ndim != 2 or len(p) != len(y) or p.shape[1] < 2:
        raise ValueError(
            f"proba must have shape ({len(y)}, classes), at least 2 classes; got {p.shape}"
        )
    weight = _checked_weight(sample_weight, len(y))
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(
            f"codes must be from 0 to {p.shape[1] - 1}, the columns of proba; "
            f"got {y.min()} to {y.max()}"
        )
    if not ((p >= 0.0) & (p <= 1.0 + 1e-6)).all() or np.abs(p.sum(axis=1) - 1.0).max() > 1e-4:
        raise ValueError("proba must hold probabilities, each row summing to 1; got others")
    return y.astype(np.int64), p, weight


def _checked_regression(
    y: ArrayLike,
    prediction: ArrayLike,
    sample_weight: ArrayLike | None,
    objective: RegressionObjective = "squared_error",
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Targets, predictions and weights, checked."""
    target = np.asarray(y, dtype=np.float64)
    value = np.asarray(prediction, dtype=np.float64)
    n_axes = 2 if objective == "quantile" else 1
    if target.ndim != 1 or value.shape[:1] != target.shape or value.ndim != n_axes:
        raise ValueError(
            f"y and prediction must be 1-D of one length{', with levels' * (n_axes - 1)}; got "
            f"{target.shape} and {value.shape}"
        )
    if not (np.isfinite(target).all() and np.isfinite(value).all()):
        raise ValueError("y and prediction must be finite; got missing or infinite values")
    check_target(objective, target)
    return target, value, _checked_weight(sample_weight, len(target))
