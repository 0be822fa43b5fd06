"""The scores that Tabwright reports, with sample weights and bootstrap intervals.

Every score is written once, as a function of a matrix of row weights, one line a resample, so that
a value and its bootstrap interval come from the same code. scikit-learn has most of the values but
neither the intervals nor all of the weights; the tests hold each value to scikit-learn's. Rules
that turn probabilities into decisions live in `calibration/decisions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from tabwright.regression import (
    MEASURES,
    RegressionObjective,
    central_level,
    check_target,
    row_losses,
)

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
        for more than two classes `classwise_ece`, see `calibration_error`; `auc` and
        `average_precision`, one class against the rest, averaged over the classes for more than
        two; for two classes `recall_at_precision`, the highest recall of any threshold with the
        wanted precision, 0 if there is none. A score that the rows leave undefined (`auc` with a
        single class) is left out.
    Raises `ValueError`: wrong shapes, values out of range, no row of positive weight.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    metrics = _classification_metrics(y, p, weight, predicted, wanted_precision)
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
    Returns: the keys of `score_classification`.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    metrics = _classification_metrics(y, p, weight, predicted, wanted_precision)
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
    return _values(_regression_metrics(target, value, objective, quantiles), weight)


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
    metrics = _regression_metrics(target, value, objective, quantiles)
    return _intervals(metrics, weight, coverage, n_resamples, random_state, on_resampled)


def log_loss(codes: ArrayLike, proba: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
    """Mean negative log of the true class's probability, in nats.

    `codes`: (n,); true classes, 0 to C - 1; not every class needs a row.
    `proba`: (n, C); probabilities; those below float64's epsilon count as epsilon, as in
        scikit-learn.
    `sample_weight`: (n,); weights of the rows.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    return float(np.average(row_log_loss(y, p), weights=weight))


def row_log_loss(codes: NDArray[np.integer], proba: FloatArray) -> FloatArray:
    """Negative log of the true class's probability for each row, shape (n,); unchecked."""
    chosen = proba[np.arange(len(codes)), codes]
    return cast("FloatArray", -np.log(np.clip(chosen, np.finfo(np.float64).eps, 1.0)))


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
    mass, total, hits = _binned(np.asarray(event, dtype=bool), p, weight, n_bins)(weight[None])
    return ReliabilityBins(total[0] / mass[0], hits[0] / mass[0], mass[0])


def calibration_error(
    codes: ArrayLike,
    proba: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    classwise: bool = False,
    squared: bool = False,
    debias: bool = True,
    n_bins: int | None = None,
) -> float:
    """Calibration error over bins of equal mass.

    Equal-mass bins are less biased than bins of equal width (Roelofs, Cain, Shlens and Mozer,
    "Mitigating Bias in Calibration Error Estimation", 2022). Even a perfect model has differences
    between frequency and probability in every bin; `debias` subtracts what is expected of them
    (Kumar, Liang and Ma, "Verified Uncertainty Calibration", 2019): the variance of each bin's
    frequency from the squared error (section 4), and from the absolute error, as their published
    code does by simulation, the mean excess of a normal with that variance, here in closed form.
    A negative remainder counts as 0.

    `codes`: (n,); true classes, 0 to C - 1.
    `proba`: (n, C); probabilities.
    `sample_weight`: (n,); weights of the rows; a weight of 2 equals a row twice. For the number of
        rows behind a bin's frequency, weights with a mean below 1 are scaled to a mean of 1.
    `classwise`: average over all classes (Kull et al., "Beyond temperature scaling", 2019) instead
        of judging class 1 of two, or the most probable class of more.
    `squared`: root of the mean squared difference instead of the mean absolute one.
    `debias`: subtract the expected error of a perfect model.
    `n_bins`: number of bins at most; by default one for each 10 rows, at most 15.
    """
    y, p, weight = _checked_classification(codes, proba, sample_weight)
    metric = _calibration_metric(
        y, p, weight, classwise=classwise, squared=squared, debias=debias, n_bins=n_bins
    )
    return float(metric(weight[None])[0])


def _classification_metrics(
    codes: IntArray,
    proba: FloatArray,
    weight: FloatArray,
    predicted: ArrayLike | None,
    wanted_precision: float,
) -> dict[str, Metric]:
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
        "ece": _calibration_metric(codes, proba, weight),
        "rms_calibration_error": _calibration_metric(codes, proba, weight, squared=True),
    }
    if n_classes > 2:
        metrics["classwise_ece"] = _calibration_metric(codes, proba, weight, classwise=True)
    metrics["auc"] = _mean_over(ranked, _auc)
    metrics["average_precision"] = _mean_over(ranked, _average_precision)
    if n_classes == 2:
        metrics["recall_at_precision"] = _mean_over(
            ranked, lambda hits, rest: _recall_at(hits, rest, wanted_precision)
        )
    return metrics


def _decision_metrics(
    codes: ArrayLike, predicted: ArrayLike, sample_weight: ArrayLike | None, positive: int
) -> tuple[dict[str, Metric], FloatArray]:
    true, said = np.asarray(codes) == positive, np.asarray(predicted) == positive
    if true.ndim != 1 or said.shape != true.shape:
        raise ValueError(
            f"codes and predicted must have the same shape (n,); got {true.shape} and {said.shape}"
        )
    weight = _checked_weight(sample_weight, len(true))
    hits = (true & said).astype(np.float64)

    def ratio(below: FloatArray) -> Metric:
        def metric(weights: FloatArray) -> FloatArray:
            mass = weights @ below
            return np.where(mass > 0.0, (weights @ hits) / np.where(mass > 0.0, mass, 1.0), np.nan)

        return metric

    halves = (true.astype(np.float64) + said) / 2.0
    metrics = {
        "precision": ratio(said.astype(np.float64)),
        "recall": ratio(true.astype(np.float64)),
        "f1": ratio(halves),
    }
    return metrics, weight


def _regression_metrics(
    y: FloatArray,
    prediction: FloatArray,
    objective: RegressionObjective,
    levels: Sequence[float],
) -> dict[str, Metric]:
    if objective == "squared_error":
        return _squared_metrics(y, prediction)
    own = _mean_of(row_losses(objective, y, prediction, levels))
    best = _best_constant(objective, y, levels)

    def d2(weights: FloatArray) -> FloatArray:
        least = best(weights)
        constant = least <= 1e-14 * float(np.abs(y).max(initial=0.0))
        return np.where(constant, np.nan, 1.0 - own(weights) / np.where(constant, 1.0, least))

    point = prediction if prediction.ndim == 1 else prediction[:, central_level(levels)]
    others = _squared_metrics(y, point)
    return {MEASURES[objective]: own, "d2": d2} | {
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
            ends = np.array([low, high]) + known[name] - middle
            low, high = np.clip(ends, *_RANGES.get(name, (0.0, 1.0)))
            intervals[name] = (float(low), float(high))
    return intervals


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


def _binned(
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


def _calibration_metric(
    codes: IntArray,
    proba: FloatArray,
    weight: FloatArray,
    *,
    classwise: bool = False,
    squared: bool = False,
    debias: bool = True,
    n_bins: int | None = None,
) -> Metric:
    if classwise:
        events = [(codes == c, proba[:, c]) for c in range(proba.shape[1])]
    elif proba.shape[1] == 2:
        events = [(codes == 1, proba[:, 1])]
    else:
        events = [(codes == proba.argmax(axis=1), proba.max(axis=1))]
    used = weight > 0.0
    binned = [_binned(event[used], p[used], weight[used], n_bins) for event, p in events]
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


def _checked_weight(sample_weight: ArrayLike | None, n_rows: int) -> FloatArray:
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
