"""Predicted numbers with the digits that mean something; labels are decided before any rounding."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.inference.fitted_model import FittedModel

# Significant digits of predicted numbers: so many, as many as mean something, or all.
Digits = int | Literal["meaningful"] | None

# So many are all of a float64.
_ALL_DIGITS = 17
_DIGITS_OF_PROBABILITIES = 6
# About those of float32, in which networks compute.
_DIGITS_OF_VALUES = 7
# Of a predicted value, one part in 10**5 of the target's standard deviation is shown at least.
_DIGITS_OF_SPREAD = 5
# Decimal places of the largest probability of a row at most: rows sum to 1 as nearly as
# scikit-learn asks.
_PLACES_OF_LARGEST = 9
# Powers of ten, and integers of so many digits, that float64 holds exactly.
_EXACT_POWERS, _EXACT_DIGITS = 22, 15


def rounded_predictions(frame: pl.DataFrame, model: FittedModel, digits: Digits) -> pl.DataFrame:
    """Predictions, as `prediction_frame` gives them, with the digits that are asked for.

    `digits`: None: all. "meaningful": as `meaningful_digits` says, and of a row of probabilities
        the largest is what the others leave of 1.
    """
    # Labels may be numbers too, and stay as they are.
    n_labels = 0 if model.classes is None else 1
    if digits is None or frame.width == n_labels:
        return frame
    n_digits = meaningful_digits(model) if digits == "meaningful" else digits
    numbers = rounded_to(frame[:, n_labels:].to_numpy(), n_digits)
    if digits == "meaningful" and model.classes is not None:
        numbers = _summing_to_one(numbers, n_digits)
    rounded = pl.DataFrame(numbers, schema=frame.columns[n_labels:], orient="row")
    return frame[:, :n_labels].hstack(rounded.get_columns()) if n_labels else rounded


def meaningful_digits(model: FittedModel) -> int:
    """Significant digits of a model's predicted numbers that mean something.

    Returns: 6 for probabilities. For values 7, and more where the target's spread is small beside
        its size, or units would be lost: no digit of the target's integers, and nothing above a
        hundred-thousandth of its standard deviation.
    """
    if model.target is None:
        return _DIGITS_OF_PROBABILITIES
    size = max(abs(model.target.low), abs(model.target.high))
    if size == 0:
        return _DIGITS_OF_VALUES
    magnitude = math.log10(size)
    relative = magnitude - math.log10(model.target.scale)
    wanted = max(math.floor(magnitude) + 1, math.ceil(relative) + _DIGITS_OF_SPREAD + 1)
    return min(max(wanted, _DIGITS_OF_VALUES), _ALL_DIGITS)


def rounded_to(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """The nearest values of so many significant digits, float64 of the same shape."""
    if digits >= _ALL_DIGITS:
        return values
    size = np.abs(values)
    plain = np.isfinite(values) & (size > 0)
    exponent = np.floor(np.log10(np.where(plain, size, 1.0))).astype(np.int64)
    places = digits - 1 - exponent
    # Beyond, powers or products are not exact, and what comes of them is not the nearest.
    exact = plain & (np.abs(places) <= _EXACT_POWERS) & (digits <= _EXACT_DIGITS)
    power = 10.0 ** np.where(exact, np.abs(places), 0)
    known = np.where(exact, values, 0.0)
    rounded: NDArray[np.float64] = np.where(
        places >= 0, np.rint(known * power) / power, np.rint(known / power) * power
    )
    rounded = np.where(exact, rounded, values)
    for at in zip(*np.nonzero(plain & ~exact), strict=True):
        nearest = float(f"{values[at]:.{digits - 1}e}")
        # Of the largest numbers, the nearest may be past what float64 holds.
        rounded[at] = nearest if math.isfinite(nearest) else values[at]
    return rounded


def _summing_to_one(proba: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Rounded probabilities whose largest, in every row, is what the others leave of 1."""
    proba = proba.copy()
    rows, largest = np.arange(len(proba)), proba.argmax(axis=1)
    proba[rows, largest] = 0.0
    rest = 1.0 - proba.sum(axis=1)
    # As many places as the least of the others has.
    least = np.where(proba > 0, proba, 1.0).min(axis=1)
    places = np.minimum(digits - 1 - np.floor(np.log10(least)), _PLACES_OF_LARGEST)
    power = 10.0**places
    proba[rows, largest] = np.rint(rest * power) / power
    return proba
