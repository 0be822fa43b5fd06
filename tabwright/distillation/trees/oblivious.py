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
from typing import Any, Final, NamedTuple

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
# Places where the noise of a column's splits may begin.
_NOISE: Final = 2**16


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
        bins = np.zeros((len(self._columns), n), dtype=np.uint8)
        for column, j, found in zip(bins, self._columns, self._thresholds, strict=True):
            present = ~np.isnan(values[:, j])
            column[present] = np.searchsorted(found, values[present, j], side="left")
        self._target = problem.target.astype(np.float64)
        weight = np.ones(n) if problem.weight is None else problem.weight
        self._rows = BinnedRows(
            bins=bins,
            order=np.argsort(bins, axis=1, kind="stable").astype(np.int32),
            n_bins=np.array([len(found) + 1 for found in self._thresholds], dtype=np.int64),
            weight=weight,
        )
        share = np.clip(np.average(self._target, weights=weight), 1e-9, 1.0 - 1e-9)
        self._baseline = np.array([np.log(share / (1.0 - share))])
        self._log_odds = np.full(n, self._baseline[0])
        self._rng = np.random.default_rng(problem.random_state)
        # Drawn once: deviates for the splits of each column begin somewhere among these.
        self._noise = self._rng.standard_normal(_NOISE + _MOST_THRESHOLDS)
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
        if self._columns:
            columns, places, leaf = choose_splits(self._rows, self._draw(gradient), gradient)
            feature[:] = [self._columns[column] for column in columns]
            splits = zip(columns, places, strict=True)
            threshold[:] = [self._thresholds[column][place] for column, place in splits]
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
        weight = self._rows.weight
        return (self._target - p) * weight, p * (1.0 - p) * weight

    def _draw(self, gradient: FloatArray) -> RandomDraw:
        """The columns that the levels of a tree choose among, and noise for their splits."""
        n_columns = len(self._columns)
        n_tried = max(1, round(_SHARE_OF_COLUMNS * n_columns))
        drawn = np.argsort(self._rng.random((_DEPTH, n_columns)), axis=1)[:, :n_tried]
        tried = np.sort(drawn, axis=1)
        # As large as a gradient at first, and gone once there are trees enough to fit every row.
        fitted = np.exp(-_RATE * len(self._trees)) * len(gradient)
        scale = float(np.sqrt(np.mean(gradient**2)) * fitted / (1.0 + fitted))
        places = self._rng.integers(0, _NOISE, tried.shape)
        return RandomDraw(tried, self._noise, places, scale)


class BinnedRows(NamedTuple):
    """Rows in bins of the columns that can be split.

    `bins`: (n_columns, n).
    `order`: (n_columns, n), int32; rows by their bins, those of one bin as they come.
    `n_bins`: (n_columns,), int64.
    `weight`: (n,), float64.
    """

    bins: NDArray[np.uint8]
    order: NDArray[np.int32]
    n_bins: NDArray[np.int64]
    weight: FloatArray


class RandomDraw(NamedTuple):
    """What is drawn at random for a tree.

    `tried`: (n_levels, n_tried), int64; columns, rising within each level.
    `noise`: normal deviates.
    `noise_at`: (n_levels, n_tried), int64; where the noise of a column's splits begins.
    `scale`: of the noise.
    """

    tried: NDArray[np.int64]
    noise: FloatArray
    noise_at: NDArray[np.int64]
    scale: float


def choose_splits(
    rows: BinnedRows, draw: RandomDraw, gradient: FloatArray
) -> tuple[list[int], list[int], NDArray[np.uint8]]:
    """Columns and bins behind which the levels of a tree part all of their leaves.

    The best split is that of the largest score: the square root of how well it fits the gradients,
    and noise.

    `gradient`: (n,), float64.
    Returns: columns and bins, then the leaf of each row, (n,); the same with the extension module
        and without.
    """
    if not instruction_sets():
        return _splits_in_numpy(rows, draw, gradient)
    n_levels, n_tried = draw.tried.shape
    slopes = np.stack([gradient, rows.weight], axis=1)
    leaf = np.zeros(len(gradient), dtype=np.uint8)
    leaves = np.empty((2**n_levels, 5))
    columns, places = np.zeros((2, n_levels), dtype=np.int64)
    compiled_function("choose_splits")(
        *(len(gradient), n_levels, n_tried),
        *(address(rows.bins), address(rows.order), address(rows.n_bins)),
        *(address(draw.tried), address(slopes)),
        _PENALTY,
        *(address(draw.noise), address(draw.noise_at)),
        draw.scale,
        *(address(leaves), address(leaf), address(columns), address(places)),
    )
    return columns.tolist(), places.tolist(), leaf


def _splits_in_numpy(
    rows: BinnedRows, draw: RandomDraw, gradient: FloatArray
) -> tuple[list[int], list[int], NDArray[np.uint8]]:
    """`choose_splits` without the extension module."""
    leaf = np.zeros(len(gradient), dtype=np.uint8)
    columns, places = [], []
    for level, (tried, noise_at) in enumerate(zip(draw.tried, draw.noise_at, strict=True)):
        scores, candidates = [], []
        for column, start in zip(tried.tolist(), noise_at.tolist(), strict=True):
            gains = split_gains(rows, column, leaf, gradient, 2**level)
            noise = draw.noise[start : start + len(gains)]
            scores.append(np.sqrt(np.maximum(gains, 0.0)) + draw.scale * noise)
            candidates += [(column, place) for place in range(len(gains))]
        column, place = candidates[int(np.argmax(np.concatenate(scores)))]
        leaf |= (rows.bins[column] > place).astype(np.uint8) << np.uint8(level)
        columns.append(column)
        places.append(place)
    return columns, places, leaf


def split_gains(
    rows: BinnedRows, column: int, leaf: NDArray[np.uint8], gradient: FloatArray, n_leaves: int
) -> FloatArray:
    """How well parting the rows of all leaves behind each bin of a column fits their gradients.

    `leaf`: (n,), below `n_leaves`.
    `gradient`: (n,), float64.
    Returns: (n_bins - 1,), float64.
    """
    order = rows.order[column]
    total = np.bincount(leaf, gradient, n_leaves).astype(np.float64)
    weight = np.bincount(leaf, rows.weight, n_leaves).astype(np.float64)
    unparted = _leaf_gains(np.zeros(n_leaves), np.zeros(n_leaves), total, weight)
    # What each row changes as it moves below the split.
    changes = np.empty(len(leaf))
    for k in range(n_leaves):
        places = np.flatnonzero(leaf[order] == k)
        below = np.cumsum(gradient[order[places]])
        weight_below = np.cumsum(rows.weight[order[places]])
        gains = _leaf_gains(below, weight_below, total[k], weight[k])
        changes[places] = np.diff(gains, prepend=unparted[k])
    gains = np.cumsum(np.append(np.cumsum(unparted)[-1], changes))
    ends = np.searchsorted(rows.bins[column][order], np.arange(rows.n_bins[column] - 1), "right")
    return np.asarray(gains[ends], dtype=np.float64)


def _leaf_gains(
    below: FloatArray,
    weight_below: FloatArray,
    gradient: FloatArray | float,
    weight: FloatArray | float,
) -> FloatArray:
    """Of both sides, the squared sum of gradients by weight and penalty."""
    above, weight_above = gradient - below, weight - weight_below + _PENALTY
    weight_below = weight_below + _PENALTY
    parted = below * below * weight_above + above * above * weight_below
    return np.asarray(parted / (weight_below * weight_above), dtype=np.float64)


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
