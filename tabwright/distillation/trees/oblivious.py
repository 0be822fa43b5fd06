"""Boosted oblivious trees for two classes: all nodes of a level ask the same question.

Gradient boosting with Newton steps in the leaves (Friedman, "Greedy Function Approximation: A
Gradient Boosting Machine", Annals of Statistics 2001). Oblivious trees, and noise on the gains of
splits that dies away as trees are added, are those of CatBoost (Prokhorenkova et al., "CatBoost:
Unbiased Boosting with Categorical Features", NeurIPS 2018). So few questions make a tree hard to
overfit, which small tables need whose rules span several columns. scikit-learn has no such trees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tabwright._version import __version__
from tabwright.distillation.tree_columns import MOST_LEVELS
from tabwright.distillation.trees.problem import FloatArray, Problem
from tabwright.inference.compiled.functions import address, compiled_function, instruction_sets
from tabwright.inference.tree_ensemble import ObliviousTrees

_ROUNDS: Final = (40, 80, 120, 160, 210, 270, 340, 420, 500)
_RATE: Final = 0.03
_DEPTH: Final = 6
_PENALTY: Final = 3.0
# Newton steps of a leaf, each of which moves log-odds by 1 at most: where a leaf is full of a rare
# class the curvature at its prior is so small that a whole step would go far beyond the optimum.
_STEPS, _LONGEST_STEP = 5, 1.0
# Of the columns, those that a level chooses among.
_SHARE_OF_COLUMNS: Final = 0.5
# Of a column: bins are bytes.
_MOST_THRESHOLDS: Final = 254


@dataclass(frozen=True)
class ObliviousBoosting:
    """Boosted oblivious trees, for two classes alone."""

    name: str = "oblivious_boosting"
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "tabwright", "version": __version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return _ROUNDS

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "learning_rate": _RATE,
            "depth": _DEPTH,
            "l2_regularization": _PENALTY,
            "max_features": _SHARE_OF_COLUMNS,
            "newton_steps": _STEPS,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedObliviousTrees:
        """Raises `ValueError` if there are not two classes."""
        boosting = _Boosting(problem)
        boosting.go_on(n_rounds)
        return boosting.fitted()

    def fit_in_stages(
        self, problem: Problem, values: FloatArray, rounds: Sequence[int]
    ) -> Iterator[FloatArray]:
        """Fits the rounds that follow when they are asked for; the trees are those of `fit`."""
        boosting = _Boosting(problem)
        for n_rounds in rounds:
            boosting.go_on(n_rounds)
            yield next(boosting.fitted().stages(values, (n_rounds,)))


@dataclass(frozen=True)
class FittedObliviousTrees:
    model: ObliviousTrees

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        features = _as_float32(values)
        for count in rounds:
            yield self.first(count).predict(features, classifies=True)

    def first(self, n_rounds: int) -> ObliviousTrees:
        """The trees of the first rounds."""
        names = ("feature", "threshold", "value")
        return replace(self.model, **{name: getattr(self.model, name)[:n_rounds] for name in names})


class _Boosting:
    """Trees that are being grown, and the log-odds that they give the rows so far."""

    def __init__(self, problem: Problem) -> None:
        if problem.n_classes != 2:
            raise ValueError(
                f"boosted oblivious trees are for two classes; got {problem.n_classes}; take "
                "'hist_gradient_boosting' for more, and for regression"
            )
        values = _as_float32(problem.values)
        n, self._n_features = values.shape
        thresholds = [_thresholds(column) for column in values.T]
        # Columns that can be split.
        self._columns = [j for j, found in enumerate(thresholds) if len(found)]
        self._thresholds = [thresholds[j] for j in self._columns]
        self._n_bins = np.array([len(found) + 1 for found in self._thresholds], dtype=np.int64)
        self._bins = np.zeros((len(self._columns), n), dtype=np.uint8)
        for bins, j, found in zip(self._bins, self._columns, self._thresholds, strict=True):
            present = ~np.isnan(values[:, j])
            bins[present] = np.searchsorted(found, values[present, j], side="left")
        self._target = problem.target.astype(np.float64)
        self._weight = np.ones(n) if problem.weight is None else problem.weight
        share = np.clip(np.average(self._target, weights=self._weight), 1e-9, 1.0 - 1e-9)
        self._baseline = np.array([np.log(share / (1.0 - share))])
        self._log_odds = np.full(n, self._baseline[0])
        self._rng = np.random.default_rng(problem.random_state)
        self._trees: list[tuple[NDArray[np.int32], NDArray[np.float32], FloatArray]] = []

    def go_on(self, n_rounds: int) -> None:
        """Grow trees until there are so many."""
        while len(self._trees) < n_rounds:
            self._grow()

    def fitted(self) -> FittedObliviousTrees:
        """The trees so far."""
        feature, threshold, value = (np.stack(arrays) for arrays in zip(*self._trees, strict=True))
        return FittedObliviousTrees(
            ObliviousTrees(
                kind="oblivious_boosting",
                n_features=self._n_features,
                baseline=self._baseline,
                feature=feature,
                threshold=threshold,
                value=value[:, :, None],
            )
        )

    def _grow(self) -> None:
        """One more tree."""
        feature = np.zeros(_DEPTH, dtype=np.int32)
        threshold = np.full(_DEPTH, np.inf, dtype=np.float32)
        leaf = np.zeros(len(self._target), dtype=np.uint8)
        gradient, curvature = self._slopes(self._log_odds)
        for level in range(_DEPTH if self._columns else 0):
            column, place = self._best_split(leaf, 2**level, gradient)
            feature[level] = self._columns[column]
            threshold[level] = self._thresholds[column][place]
            leaf |= (self._bins[column] > place).astype(np.uint8) << np.uint8(level)
        value = np.zeros(2**_DEPTH)
        for step in range(_STEPS):
            if step:
                gradient, curvature = self._slopes(self._log_odds + value[leaf])
            sums = [np.bincount(leaf, slopes, len(value)) for slopes in (gradient, curvature)]
            value += np.clip(sums[0] / (sums[1] + _PENALTY), -_LONGEST_STEP, _LONGEST_STEP)
        value *= _RATE
        self._log_odds += value[leaf]
        self._trees.append((feature, threshold, value))

    def _slopes(self, log_odds: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The first derivatives of the log-likelihood of each row, and minus the second."""
        p = 1.0 / (1.0 + np.exp(-log_odds))
        return (self._target - p) * self._weight, p * (1.0 - p) * self._weight

    def _best_split(
        self, leaf: NDArray[np.uint8], n_leaves: int, gradient: FloatArray
    ) -> tuple[int, int]:
        """The column of the next level, and the place among its thresholds."""
        n_columns = len(self._columns)
        n_tried = max(1, round(_SHARE_OF_COLUMNS * n_columns))
        tried = np.sort(self._rng.choice(n_columns, n_tried, replace=False))
        rows = np.stack([gradient, self._weight], axis=1)
        n_bins = self._n_bins[tried]
        gains = split_gains(self._bins[tried], n_bins, leaf, rows, n_leaves)
        # As large as a gradient at first, and gone once there are trees enough to fit every row.
        fitted = np.exp(-_RATE * len(self._trees)) * len(leaf)
        noise = np.sqrt(np.mean(gradient**2)) * fitted / (1.0 + fitted)
        scores = np.sqrt(gains) + noise * self._rng.standard_normal(gains.shape)
        ends = np.cumsum(n_bins)
        # Behind its last bin nothing is left of a column to part.
        scores[ends - 1] = -np.inf
        best = int(np.argmax(scores))
        column = int(np.searchsorted(ends, best, side="right"))
        return int(tried[column]), best - int(ends[column] - n_bins[column])


def split_gains(
    bins: NDArray[np.uint8],
    n_bins: NDArray[np.int64],
    leaf: NDArray[np.uint8],
    rows: FloatArray,
    n_leaves: int,
) -> FloatArray:
    """How well parting the rows of all leaves behind each bin fits their gradients.

    `bins`: (n_columns, n).
    `n_bins`: (n_columns,).
    `leaf`: (n,), below `n_leaves`.
    `rows`: (n, 2), float64; gradients and weights.
    Returns: (n_bins.sum(),), float64, column after column; the same bits with the extension module
        and without.
    """
    if not instruction_sets():
        return np.concatenate(
            [
                _gains_in_numpy(column, int(width), leaf, rows, n_leaves)
                for column, width in zip(bins, n_bins, strict=True)
            ]
        )
    bins, rows = np.ascontiguousarray(bins), np.ascontiguousarray(rows)
    cells, gains = np.empty((n_leaves, n_bins.max(), 2)), np.zeros(n_bins.sum())
    compiled_function("split_gains")(
        *(len(leaf), n_leaves, len(bins)),
        *(address(bins), address(n_bins), address(leaf), address(rows)),
        _PENALTY,
        *(address(cells), address(gains)),
    )
    return gains


def _gains_in_numpy(
    bins: NDArray[np.uint8], n_bins: int, leaf: NDArray[np.uint8], rows: FloatArray, n_leaves: int
) -> FloatArray:
    """`split_gains` of one column: (n_bins,)."""
    cell = leaf.astype(np.int64) * n_bins + bins
    gradient, weight = (
        np.bincount(cell, column, n_leaves * n_bins).reshape(n_leaves, n_bins).cumsum(axis=1)
        for column in rows.T
    )
    below, above = gradient, gradient[:, -1:] - gradient
    gains = below * below / (weight + _PENALTY)
    gains += above * above / (weight[:, -1:] - weight + _PENALTY)
    # One leaf after the other, as the compiled function adds them.
    total: FloatArray = np.cumsum(gains, axis=0)[-1]
    return total


def _thresholds(column: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values that part a column's rows, rising: halfway between neighbours, at most 254.

    -infinity parts rows with a value from those without.
    """
    missing = np.isnan(column)
    present = np.sort(column[~missing])
    levels = np.unique(present)
    if not len(levels):
        return levels
    most, lower = _MOST_THRESHOLDS - int(missing.any()), levels[:-1]
    if len(lower) > most:
        places = np.linspace(0, len(present) - 1, most + 2)[1:-1].astype(np.int64)
        lower = np.unique(present[places])
        lower = lower[lower < levels[-1]]
    upper = levels[np.searchsorted(levels, lower) + 1]
    # Differences of infinities, and of the largest numbers.
    with np.errstate(invalid="ignore", over="ignore"):
        middle = lower + (upper - lower) / 2
    thresholds = np.where((middle >= lower) & (middle < upper), middle, lower)
    if missing.any():
        thresholds = np.append(-np.inf, thresholds)
    return np.unique(thresholds.astype(np.float32))


def _as_float32(values: FloatArray) -> NDArray[np.float32]:
    """Values as trees compare them; those beyond the range are infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
