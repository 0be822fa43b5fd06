"""What a regression is fitted for: objectives, their links, losses of rows and quantile levels.

NumPy alone; `training/regression_losses.py` is the twin on tensors. Networks put out numbers on
the scale of the objective's link: values, logarithms of means (`poisson`, `gamma`), or for
`quantile` the lowest level's value and, through softplus, the gap from each level to the next, so
that quantiles never cross.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

RegressionObjective = Literal["squared_error", "absolute_error", "quantile", "poisson", "gamma"]
OBJECTIVES: tuple[RegressionObjective, ...] = get_args(RegressionObjective)
DEFAULT_LEVELS = (0.1, 0.5, 0.9)
# The score, as `metrics` names it, that says how good a model of each objective is.
MEASURES: dict[RegressionObjective, str] = {
    "squared_error": "rmse",
    "absolute_error": "mae",
    "quantile": "pinball",
    "poisson": "poisson_deviance",
    "gamma": "gamma_deviance",
}
# Means are kept within a factor of exp(20) of the training mean: no row of fewer than a hundred
# million can be further above it, and no exponential overflows.
LARGEST_LOG = 20.0
# Half the gap between a row's outer quantiles, in units of the target's scale, is at least this.
LEAST_HALF_GAP = 1e-3


def has_log_link(objective: RegressionObjective) -> bool:
    """Whether networks put out the logarithm of the mean."""
    return objective in ("poisson", "gamma")


def check_levels(levels: Sequence[float]) -> None:
    """Refuse quantile levels that are none.

    Raises `ValueError` if there is none, or they are not numbers above 0 and below 1 that rise.
    """
    rule = "quantiles must be one or more levels above 0 and below 1, each above the one before it"
    numbers = [
        level
        for level in levels
        if isinstance(level, int | float) and not isinstance(level, bool) and 0 < level < 1
    ]
    rises = all(low < high for low, high in pairwise(numbers))
    if not numbers or len(numbers) < len(levels) or not rises:
        raise ValueError(f"{rule}, such as 0.1, 0.5, 0.9; got {levels!r}")


def central_level(levels: Sequence[float]) -> int:
    """Place of the level nearest to a half, the lower of two: the one that `predict` gives."""
    return min(range(len(levels)), key=lambda place: (round(abs(levels[place] - 0.5), 12), place))


def check_target(objective: RegressionObjective, target: ArrayLike, where: str = "") -> None:
    """Refuse targets that an objective cannot have.

    `target`: (n_rows,), float64.
    `where`: what part of the rows these are, for the message.
    Raises `ValueError` if a count of `poisson` is below 0, or an amount of `gamma` is not above 0.
    """
    if not has_log_link(objective):
        return
    values = np.asarray(target, dtype=np.float64)
    bad = values < 0 if objective == "poisson" else values <= 0
    if bad.any():
        rule = "counts of at least 0" if objective == "poisson" else "amounts above 0"
        other = "correct those rows"
        if objective == "gamma" and (values >= 0).all():
            other = "use 'poisson', which takes zeros"
        first = float(values[bad][0])
        raise ValueError(
            f"objective={objective!r} needs a target of {rule}; got {int(bad.sum()):,} row(s) "
            f"that are not{where}, the first {first:g}; {other}, or use 'squared_error'"
        )


def member_responses(outputs: FloatArray, objective: RegressionObjective) -> FloatArray:
    """What outputs of networks say, in standard units of the target.

    `outputs`: (..., output_dim), float64.
    Returns: (...), float64.
    """
    if objective == "quantile":
        steps = outputs.copy()
        steps[..., 1:] = np.logaddexp(0.0, outputs[..., 1:])
        return cast("FloatArray", np.cumsum(steps, axis=-1))
    values = outputs[..., 0]
    if has_log_link(objective):
        return cast("FloatArray", np.exp(np.clip(values, -LARGEST_LOG, LARGEST_LOG)))
    return values


def row_losses(
    objective: RegressionObjective,
    target: FloatArray,
    prediction: FloatArray,
    levels: Sequence[float] = (),
) -> FloatArray:
    """Loss of each row: squared or absolute error, pinball loss, or unit deviance.

    `target`: (n,), float64.
    `prediction`: (n,), or (n, n_levels) of quantiles, float64.
    `levels`: of quantiles: the loss is the mean over them.
    Returns: (n,), float64; deviances are those of McCullagh and Nelder, "Generalized Linear
        Models", 1989, section 2.3; a predicted mean of 0 counts as the smallest number.
    """
    if objective == "squared_error":
        return (target - prediction) ** 2
    if objective == "absolute_error":
        return np.abs(target - prediction)
    if objective == "quantile":
        error = target[:, None] - prediction
        share = np.asarray(levels, dtype=np.float64)
        losses = np.maximum(share * error, (share - 1.0) * error)
        return cast("FloatArray", losses.mean(axis=1))
    mean = np.maximum(prediction, np.finfo(np.float64).tiny)
    if objective == "gamma":
        return 2.0 * (target / mean - 1.0 - np.log(target / mean))
    logs = np.log(np.where(target > 0, target, 1.0)) - np.log(mean)
    return 2.0 * (np.where(target > 0, target * logs, 0.0) - target + mean)


def weighted_quantiles(
    values: FloatArray, levels: Sequence[float], sample_weight: FloatArray | None = None
) -> tuple[float, ...]:
    """The lowest values at or below which the share of the weight reaches each level."""
    order = np.argsort(values, kind="stable")
    weight = np.ones(len(values)) if sample_weight is None else sample_weight
    reached = np.cumsum(weight[order])
    # Sums carry rounding: 0.1 of ten rows is the first row.
    wanted = [level * reached[-1] * (1.0 - 1e-12) for level in levels]
    places = np.minimum(np.searchsorted(reached, wanted), len(values) - 1)
    return tuple(float(values[order[place]]) for place in places)


def quantile_centre_and_scale(quantiles: FloatArray, unit: float) -> tuple[FloatArray, FloatArray]:
    """Middle of a row's outer quantiles and half the gap between them, which is never 0.

    `quantiles`: (n, n_levels), float64.
    `unit`: the scale of the target: half a gap is at least a thousandth of it.
    Returns: (n,), float64; residuals around the middle in multiples of the scale are the scores of
        conformalised quantile regression (Romano, Patterson and Candès, 2019) in the form that
        scales (Sesia and Candès, "A comparison of some conformal quantile regression methods",
        2020).
    """
    low, high = quantiles[:, 0], quantiles[:, -1]
    return (low + high) / 2.0, np.maximum((high - low) / 2.0, LEAST_HALF_GAP * unit)


def inverse_softplus(value: float) -> float:
    """The number whose softplus is `value`, above 0."""
    return value + math.log(-math.expm1(-value))
