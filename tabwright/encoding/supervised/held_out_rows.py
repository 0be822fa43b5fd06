"""Rows, folds and errors of a test on held-out rows of whether a column helps to predict.

`encoding/value_statistics.py` compares ways to predict the target, fitted on four fifths of some
training rows, on the other fifth. Here live the choice of the rows, the fifths, the target that is
predicted, and the difference in standard errors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.categorical import StatisticsTarget
from tabwright.encoding.supervised.tree_thresholds import TreeTarget

FOLDS = 5
# Rows of the mean target that the mean of a range or level begins with.
_PRIOR_ROWS = 5.0
# Distinct rows below which those that are equal are no copies.
_FEWEST_DISTINCT = 1_500
_MOST_ROWS = 20_000

Values = NDArray[np.float64]


class HeldOutRows:
    """At most 20,000 training rows of positive weight, in fifths.

    Rows that are equal but for the target are in the same fifth: a copy on the other side would be
    predicted from memory. Where fewer than 1,500 are distinct, all rows are divided alike: in a
    table of few values equal rows are no copies.

    `sample`: rows that bins are fitted on; None: all of them.
    `keys`: maps places of rows to numbers, equal for equal rows.
    `index`: (n,), int64; their places in the table.
    `fold`: (n,), int64; the fifth of each, from 0 to 4.
    """

    def __init__(
        self,
        tree: TreeTarget,
        sample: NDArray[np.int64] | None,
        keys: Callable[[NDArray[np.int64]], NDArray[np.uint64]],
    ) -> None:
        rows = np.arange(len(tree.target)) if sample is None else sample
        if tree.sample_weight is not None:
            rows = rows[tree.sample_weight[rows] > 0]
        draw = np.random.default_rng((tree.random_state, _MOST_ROWS))
        self.index: NDArray[np.int64] = draw.permutation(rows)[:_MOST_ROWS]
        found, number = np.unique(keys(self.index), return_inverse=True)
        n_distinct = len(found)
        if n_distinct < _FEWEST_DISTINCT:
            number = np.arange(len(self.index))
        self.fold: NDArray[np.int64] = draw.permutation(number.max(initial=-1) + 1)[number] % FOLDS
        self._tree = tree

    def statistics_target(self) -> StatisticsTarget:
        """Their standardised targets and their weights."""
        weight = self._tree.sample_weight
        return StatisticsTarget.of(
            len(self.index),
            self._tree.target[self.index],
            self._tree.task,
            None if weight is None else weight[self.index],
            0,
        )


def means(codes: NDArray[np.intp], width: int, values: Values, weight: Values) -> Values:
    """Weighted means per code, drawn towards 0.

    `codes`: (n,); from 0 to `width - 1`.
    `values`: (n, n_values), float64.
    `weight`: (n,), float64.
    Returns: (width, n_values), float64.
    """
    mass = np.bincount(codes, weights=weight, minlength=width).astype(np.float64) + _PRIOR_ROWS
    total = [np.bincount(codes, weights=weight * column, minlength=width) for column in values.T]
    return np.ascontiguousarray((np.stack(total) / mass).T)


def in_standard_errors(gain: Values, weight: Values) -> Values:
    """Weighted means along the last axis in units of their standard errors; 0 where all is equal.

    `gain`: (..., n), float64.
    `weight`: (n,), float64.
    """
    mean = gain @ weight / weight.sum()
    spread = np.sqrt(((gain - mean[..., None]) ** 2) @ weight**2) / weight.sum()
    errors: Values = np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)
    return errors
