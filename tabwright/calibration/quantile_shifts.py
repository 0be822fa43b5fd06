"""Quantile levels made right on held-out rows: conformalised quantile regression, level by level.

NumPy alone. How rows are held out is decided in `calibration/intervals.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]


def fit_quantile_shifts(
    target: FloatArray,
    quantiles: FloatArray,
    levels: Sequence[float],
    row_scale: FloatArray,
    sample_weight: FloatArray | None = None,
) -> tuple[float, ...]:
    """How far each level lies from the share of held-out rows that it names.

    A level moves by the quantile, at that level, of what rows lie above it (Romano, Patterson and
    Candès, "Conformalized Quantile Regression", 2019, section 4, for one end; in multiples of the
    row's own spread as Sesia and Candès, "A comparison of some conformal quantile regression
    methods", 2020). All then move by the share of that which is not chance: with k levels of exact
    quantiles the squared standardised deviations of the shares sum to k on average, and the share
    is 1 - k / sum, as in James and Stein's estimator. Without this, few rows would make exact
    quantiles worse.

    `target`: (n,), float64.
    `quantiles`: (n, n_levels), float64; held-out predictions.
    `row_scale`: (n,), float64; what a shift is a multiple of, above 0.
    `sample_weight`: (n,), float64.
    Returns: one for each level; empty where the deviations may all be chance.
    """
    weight = np.ones(len(target)) if sample_weight is None else sample_weight
    weight = weight / weight.sum()
    # As many rows of equal weight say as much.
    n_rows = 1.0 / float((weight**2).sum())
    share = np.asarray(levels, dtype=np.float64)
    beyond = (target[:, None] - quantiles) / row_scale[:, None]
    off = weight @ (beyond <= 0.0) - share
    total = float((off**2 / (share * (1.0 - share) / n_rows)).sum())
    if total <= len(share):
        return ()
    shifts = []
    for level, values in zip(levels, beyond.T, strict=True):
        order = np.argsort(values, kind="stable")
        # A new row, of the mean weight, takes part: with n rows the k-th reaches k / (n + 1).
        reached = np.cumsum(weight[order]) / (1.0 + 1.0 / len(weight))
        shifts.append(float(np.interp(level, reached, values[order])))
    factor = 1.0 - len(share) / total
    return tuple(factor * shift for shift in shifts)


def shifted_quantiles(
    quantiles: FloatArray, shifts: Sequence[float], row_scale: FloatArray
) -> FloatArray:
    """Quantiles moved by multiples of each row's scale, sorted so that they never cross.

    Sorting brings no quantile further from the true one (Chernozhukov, Fernández-Val and Galichon,
    "Quantile and Probability Curves Without Crossing", 2010).

    `quantiles`: (n, n_levels), float64.
    `row_scale`: (n,), float64.
    Returns: (n, n_levels), float64.
    """
    moved: FloatArray = quantiles + row_scale[:, None] * np.asarray(shifts)
    moved.sort(axis=1)
    return moved
