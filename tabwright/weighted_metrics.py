"""Scores as functions of a matrix of row weights, one line a resample.

A value and its bootstrap interval come from the same function. Arguments are not checked here:
`metrics.py` does that, and has the scores under their names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tabwright.regression import MEASURES, RegressionObjective, central_level, row_losses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]
    # (resamples, rows) weights -> (resamples,) values, NaN where undefined
    Metric = Callable[[FloatArray], FloatArray]
    # (resamples, rows) weights -> the weights of events and of other rows at each distinct score,
    # from the highest score down, each (resamples, distinct scores)
    Ranked = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

_MAX_BINS = 15
_ROWS_PER_BIN = 10


def row_log_loss(codes: NDArray[np.integer], proba: FloatArray) -> FloatArray:
    """Negative log of the true class's probability for each row, shape (n,); unchecked."""
    chosen = proba[np.arange(len(codes)), codes]
    return cast("FloatArray", -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0)))


def prediction_losses(predicted: FloatArray, target: NDArray[Any]) -> FloatArray:
    """Log-loss of probabilities, (n, n_classes), or squared error of values, (n,): (n,)."""
    if predicted.ndim == 2:
        return row_log_loss(target, predicted)
    errors: FloatArray = (target - predicted) ** 2
    return errors


def classification_metrics(
    codes: IntArray,
    proba: FloatArray,
    weight: FloatArray,
    predicted: ArrayLike | None,
    wanted_precision: float,
) -> dict[str, Metric]:
    """The scores of `metrics.score_classification`; `weight` decides the bins alone."""
    if not 0.0 < wanted_precision <= 1.0:
        raise ValueError(f"wanted_precision must be in (0, 1]; got {wanted_precision!r}")
    n_rows, n_classes = proba.shape
    label = proba.argmax(axis=1) if predicted is None else np.asarray(predicted)
    if label.shape != (n_rows,):
        raise ValueError(f"predicted must have shape ({n_rows},); got {label.shape}")
    one_hot = np.zeros_like(proba)
    one_hot[np.arange(n_rows), codes] = 1.0
    squared = ((proba - one_hot) ** 2).sum(axis=1) / (2.0 if n_classes == 2 else 1.0)
    classes = [1] if n_classes == 2 else range(n_classes)
    ranked = [_ranked(codes == c, proba[:, c]) for c in classes]
    metrics: dict[str, Metric] = {
        "log_loss": _mean_of(row_log_loss(codes, proba)),
        "accuracy": _mean_of((label == codes).astype(np.float64)),
        "balanced_accuracy": _mean_recall(one_hot, label == codes),
        "brier": _mean_of(squared),
        "ece": calibration_metric(codes, proba, weight),
        "rms_calibration_error": calibration_metric(codes, proba, weight, squared=True),
    }
    if n_classes > 2:
        metrics["classwise_ece"] = calibration_metric(codes, proba, weight, classwise=True)
    metrics["auc"] = _mean_over(ranked, _auc)
    metrics["average_precision"] = _mean_over(ranked, _average_precision)
    if n_classes == 2:
        metrics["recall_at_precision"] = _mean_over(
            ranked, lambda hits, rest: _recall_at(hits, rest, wanted_precision)
        )
    return metrics


def decision_metrics(true: NDArray[np.bool_], is_predicted: NDArray[np.bool_]) -> dict[str, Metric]:
    """Precision, recall and F1 of rows that are, and are said to be, of the class looked for."""
    hits = (true & is_predicted).astype(np.float64)

    def ratio(below: FloatArray) -> Metric:
        def metric(weights: FloatArray) -> FloatArray:
            mass = weights @ below
            return np.where(mass > 0.0, (weights @ hits) / np.where(mass > 0.0, mass, 1.0), np.nan)

        return metric

    halves = (true.astype(np.float64) + is_predicted) / 2.0
    return {
        "precision": ratio(is_predicted.astype(np.float64)),
        "recall": ratio(true.astype(np.float64)),
        "f1": ratio(halves),
    }


def regression_metrics(
    y: FloatArray,
    prediction: FloatArray,
    objective: RegressionObjective,
    levels: Sequence[float],
) -> dict[str, Metric]:
    """The scores of `metrics.score_regression`."""
    if objective == "squared_error":
        return _squared_metrics(y, prediction)
    measure = _mean_of(row_losses(objective, y, prediction, levels))
    best = _best_constant(objective, y, levels)

    def d2(weights: FloatArray) -> FloatArray:
        least = best(weights)
        constant = least <= 1e-14 * float(np.abs(y).max(initial=0.0))
        return np.where(constant, np.nan, 1.0 - measure(weights) / np.where(constant, 1.0, least))

    point = prediction if prediction.ndim == 1 else prediction[:, central_level(levels)]
    others = _squared_metrics(y, point)
    return {MEASURES[objective]: measure, "d2": d2} | {
        name: metric for name, metric in others.items() if name != MEASURES[objective]
    }


def _best_constant(
    objective: RegressionObjective, y: FloatArray, levels: Sequence[float]
) -> Metric:
    """The loss of the constant that is best for the weighted rows."""
    mean = _mean_of(y)
    if objective in ("poisson", "gamma"):
        logs = np.log(np.where(y > 0, y, 1.0))
        if objective == "gamma":
            mean_log = _mean_of(logs)
            return lambda weights: 2.0 * (np.log(mean(weights)) - mean_log(weights))
        entropy = _mean_of(y * logs)

        def poisson(weights: FloatArray) -> FloatArray:
            value = mean(weights)
            return 2.0 * (entropy(weights) - value * np.log(np.where(value > 0, value, 1.0)))

        return poisson
    shares = (0.5,) if objective == "absolute_error" else levels
    # Half the absolute error is the pinball loss of the median.
    factor = 2.0 if objective == "absolute_error" else 1.0
    order = np.argsort(y, kind="stable")
    ordered = y[order]

    def pinball(weights: FloatArray) -> FloatArray:
        mine = weights[:, order]
        reached, mass = np.cumsum(mine, axis=1), np.cumsum(mine * ordered, axis=1)
        total, whole = reached[:, -1], mass[:, -1]
        losses = []
        for share in shares:
            wanted = (share * total * (1.0 - 1e-12))[:, None]
            place = np.minimum((reached < wanted).sum(axis=1), len(y) - 1)[:, None]
            value = ordered[place[:, 0]]
            below = value * np.take_along_axis(reached, place, 1)[:, 0]
            below -= np.take_along_axis(mass, place, 1)[:, 0]
            # Distances of all rows less those below, by the level; of those below by the rest.
            losses.append((share * (whole - value * total) + below) / total)
        return cast("FloatArray", factor * np.mean(losses, axis=0))

    return pinball


def _squared_metrics(y: FloatArray, prediction: FloatArray) -> dict[str, Metric]:
    """RMSE, MAE and R², safe for values of any size."""
    # In units of a power of two, which is exact: the square of 1e300 would overflow.
    largest = max(float(np.abs(y).max(initial=0.0)), float(np.abs(prediction).max(initial=0.0)))
    unit = 2.0 ** (math.frexp(largest)[1] - 1)
    y, prediction = y / unit, prediction / unit
    # Centred first: the variance of large values with a small spread would cancel.
    centred = y - y.mean()
    mean_squared = _mean_of((y - prediction) ** 2)
    mean_absolute = _mean_of(np.abs(y - prediction))
    mean, mean_of_squares = _mean_of(centred), _mean_of(centred**2)

    def r2(weights: FloatArray) -> FloatArray:
        variance = mean_of_squares(weights) - mean(weights) ** 2
        constant = variance <= 1e-14 * float((centred**2).max(initial=0.0))
        return np.where(
            constant, np.nan, 1.0 - mean_squared(weights) / np.where(constant, 1.0, variance)
        )

    return {
        "rmse": lambda weights: unit * np.sqrt(mean_squared(weights)),
        "mae": lambda weights: unit * mean_absolute(weights),
        "r2": r2,
    }


def _mean_of(row_values: FloatArray) -> Metric:
    return lambda weights: (weights @ row_values) / weights.sum(axis=1)


def _mean_recall(one_hot: FloatArray, correct: NDArray[np.bool_]) -> Metric:
    def metric(weights: FloatArray) -> FloatArray:
        mass = weights @ one_hot
        hits = (weights * correct) @ one_hot
        recall = np.divide(hits, mass, out=np.zeros_like(hits), where=mass > 0.0)
        return cast("FloatArray", recall.sum(axis=1) / (mass > 0.0).sum(axis=1))

    return metric


def _ranked(event: NDArray[np.bool_], score: FloatArray) -> Ranked:
    """Weighted events and non-events by score, highest first; equal scores count as one."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))
    hit = event[order].astype(np.float64)

    def ranked(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        ordered = weights[:, order]
        hits = np.add.reduceat(ordered * hit, starts, axis=1)
        rest = np.add.reduceat(ordered * (1.0 - hit), starts, axis=1)
        return hits, rest

    return ranked


def _mean_over(
    ranked: list[Ranked],
    metric: Callable[[FloatArray, FloatArray], FloatArray],
) -> Metric:
    """Average a metric over the classes for which it is defined."""

    def mean(weights: FloatArray) -> FloatArray:
        values = np.stack([metric(*of_class(weights)) for of_class in ranked])
        defined = ~np.isnan(values)
        count = defined.sum(axis=0)
        total = np.where(defined, values, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    return mean


def _auc(hits: FloatArray, rest: FloatArray) -> FloatArray:
    # The share of (hit, other) pairs in the right order; ties count one half.
    pairs = hits.sum(axis=1) * rest.sum(axis=1)
    above = np.cumsum(hits, axis=1) - 0.5 * hits
    ordered = (above * rest).sum(axis=1)
    return np.where(pairs > 0.0, ordered / np.where(pairs > 0.0, pairs, 1.0), np.nan)


def _average_precision(hits: FloatArray, rest: FloatArray) -> FloatArray:
    total = hits.sum(axis=1)
    above = np.cumsum(hits, axis=1)
    marked = above + np.cumsum(rest, axis=1)
    precision = np.divide(above, marked, out=np.zeros_like(above), where=marked > 0.0)
    area = (hits * precision).sum(axis=1)
    return np.where(total > 0.0, area / np.where(total > 0.0, total, 1.0), np.nan)


def _recall_at(hits: FloatArray, rest: FloatArray, wanted: float) -> FloatArray:
    total = hits.sum(axis=1)
    above = np.cumsum(hits, axis=1)
    marked = above + np.cumsum(rest, axis=1)
    # Sums of weights carry rounding; a precision of 0.9 must not miss 0.9.
    reached = above >= wanted * marked * (1.0 - 1e-12)
    best = np.where(reached, above, 0.0).max(axis=1)
    return np.where(total > 0.0, best / np.where(total > 0.0, total, 1.0), np.nan)


def equal_mass_bins(
    event: NDArray[np.bool_], probability: FloatArray, weight: FloatArray, n_bins: int | None
) -> Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]]:
    """Bins of equal mass under `weight`, as a function from weights to their sums.

    The function gives, each of shape (resamples, bins): the mass, the sum of probabilities and
    the sum of events.
    """
    if n_bins is None:
        n_bins = int(np.clip(_count_scale(weight) * weight.sum() / _ROWS_PER_BIN, 1, _MAX_BINS))
    elif n_bins < 1:
        raise ValueError(f"n_bins must be at least 1; got {n_bins!r}")
    values, which = np.unique(probability, return_inverse=True)
    mass = np.bincount(which, weights=weight, minlength=len(values))
    middle = np.cumsum(mass) - 0.5 * mass
    # The nudge keeps rounding from deciding on which side of an edge a middle falls.
    bin_of_value = np.floor(middle / mass.sum() * n_bins * (1.0 + 1e-12)).astype(np.int64)
    bin_of = np.unique(np.minimum(bin_of_value, n_bins - 1)[which], return_inverse=True)[1]
    member = np.zeros((len(bin_of), int(bin_of.max()) + 1))
    member[np.arange(len(bin_of)), bin_of] = 1.0
    total, hits = member * probability[:, None], member * event[:, None]
    return lambda weights: (weights @ member, weights @ total, weights @ hits)


def calibration_metric(
    codes: IntArray,
    proba: FloatArray,
    weight: FloatArray,
    *,
    classwise: bool = False,
    squared: bool = False,
    debias: bool = True,
    n_bins: int | None = None,
) -> Metric:
    """Calibration error over bins of equal mass under `weight`.

    Equal-mass bins are less biased than bins of equal width (Roelofs, Cain, Shlens and Mozer,
    "Mitigating Bias in Calibration Error Estimation", 2022). Even a perfect model has differences
    between frequency and probability in every bin; `debias` subtracts what is expected of them
    (Kumar, Liang and Ma, "Verified Uncertainty Calibration", 2019): the variance of each bin's
    frequency from the squared error (section 4), and from the absolute error, as their published
    code does by simulation, the mean excess of a normal with that variance, here in closed form.
    A negative remainder counts as 0. For the number of rows behind a bin's frequency, weights with
    a mean below 1 are scaled to a mean of 1.

    `classwise`: average over all classes (Kull et al., "Beyond temperature scaling", 2019) instead
        of judging class 1 of two, or the most probable class of more.
    `squared`: root of the mean squared difference instead of the mean absolute one.
    `n_bins`: number of bins at most; by default one for each 10 rows, at most 15.
    """
    if classwise:
        events = [(codes == c, proba[:, c]) for c in range(proba.shape[1])]
    elif proba.shape[1] == 2:
        events = [(codes == 1, proba[:, 1])]
    else:
        events = [(codes == proba.argmax(axis=1), proba.max(axis=1))]
    used = weight > 0.0
    binned = [equal_mass_bins(event[used], p[used], weight[used], n_bins) for event, p in events]
    scale = _count_scale(weight)

    def metric(weights: FloatArray) -> FloatArray:
        errors = [
            _bin_error(*sums(weights[:, used]), scale, squared=squared, debias=debias)
            for sums in binned
        ]
        return cast("FloatArray", np.mean(errors, axis=0))

    return metric


def _bin_error(
    mass: FloatArray,
    total: FloatArray,
    hits: FloatArray,
    scale: float,
    *,
    squared: bool,
    debias: bool,
) -> FloatArray:
    """The calibration error over bins, (n_resamples,), without the part that chance adds."""
    share = np.where(mass > 0.0, mass, 1.0)
    frequency = hits / share
    gap = np.abs(total / share - frequency)
    n_rows = np.maximum(scale * mass - 1.0, 1.0)
    variance = np.clip(frequency * (1.0 - frequency), 0.0, None) / n_rows
    if squared:
        error = gap**2 - (variance if debias else 0.0)
    else:
        error = 2.0 * gap - _folded_normal_mean(gap, np.sqrt(variance)) if debias else gap
    mean = np.clip((mass * error).sum(axis=1) / mass.sum(axis=1), 0.0, None)
    return cast("FloatArray", np.sqrt(mean) if squared else mean)


def _folded_normal_mean(mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """Mean of the absolute value of a normal variable."""
    ratio = mean / np.where(deviation > 0.0, deviation, 1.0)
    erf = np.vectorize(math.erf, otypes=[np.float64])(ratio / math.sqrt(2.0))
    folded = deviation * math.sqrt(2.0 / math.pi) * np.exp(-0.5 * ratio**2) + mean * erf
    return np.where(deviation > 0.0, folded, mean)


def _count_scale(weight: FloatArray) -> float:
    # Weights count rows (2 is a row twice), but weights that sum to 1 do not mean a single row.
    return max(1.0, int((weight > 0.0).sum()) / float(weight.sum()))
