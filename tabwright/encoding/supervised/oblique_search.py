"""Which weighted sums of two numeric columns a network should see.

A step along a slanted line, such as a coast across latitude and longitude, is a staircase to bins
of the two columns, and a network learns it slowly. `ObliqueSearch` looks for such sums and keeps
those that predict held-out rows better; `encoding/oblique.py` encodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.categorical import StatisticsTarget
from tabwright.encoding.numeric import NumericFit
from tabwright.encoding.oblique import smooth
from tabwright.encoding.supervised.held_out_rows import (
    FEWEST_DISTINCT,
    FOLDS,
    HeldOutRows,
    in_standard_errors,
    means,
    sums,
)
from tabwright.encoding.supervised.tree_thresholds import TreeTarget

_SCREEN_ROWS = 10_000
_MOST_COLUMNS = 256
_MOST_CLASSES = 9
# Numeric columns that are paired, and sums that a table may get.
_PAIRED_COLUMNS = 16
_MOST_SUMS = 8
_WEIGHTS = ((1.0, 1.0), (1.0, -1.0), (1.0, 2.0), (1.0, -2.0), (2.0, 1.0), (2.0, -1.0))
_FEWEST_EDGES = 5
_SWEEPS = 3
_RANGES = 32
_CELLS = 512
_UNITS = 256
_RIDGE = 0.01
# Standard errors by which rows held out must be predicted better.
_LEAST_STANDARD_ERRORS = 2.0

Values = NDArray[np.float64]
Codes = NDArray[np.intp]


class FoundSum(NamedTuple):
    """Two numeric columns, by their places in the compact form, and their weights."""

    places: tuple[int, int]
    weights: tuple[float, float]


class _Candidate(NamedTuple):
    place: int
    values: Values  # smooth, 0 where missing
    fit_size: float  # variance of what the column says by itself


class ObliqueSearch:
    """Looks at the columns of a table, then says which sums of them may be needed.

    On the rows of a `HeldOutRows`, each fifth predicted from the others: what all columns say by
    themselves (means of the target in their bins or levels, fitted by turns) is taken away, then
    what a ridge regression says on the numeric columns and 256 random rectified units of them,
    which stands for what a network easily learns. What is left is compared between 32 ranges of
    every sum. The sum whose ranges differ most on the first 10,000 rows is kept if the means of
    its ranges predict held-out rows better by more than 2 standard errors; it is taken away, and
    the next is looked for, up to 8. Numeric columns here are the 16 with bins that say most by
    themselves, and sums those of `_WEIGHTS` of two of them.

    The best of some hundred sums is chosen by rows that are also used to judge it, and a network
    may learn by itself what the random units do not: that the sums help is for a network to
    show (`fitting/oblique_selection.py`).

    There is no search below 1,500 distinct rows, with more than 256 columns, or with ten classes
    or more. The fitting by turns is that of Hastie and Tibshirani, "Generalized Additive Models",
    1986, the random units are those of Huang, Zhu and Siew, "Extreme learning machine", 2006, the
    sums those of Breiman, "Random Forests", 2001, section 5.

    `n_numeric`, `n_columns`: numeric columns, and columns in all.
    `is_on`: whether there is a search.

    Numeric columns come first, in the order of the compact form.
    """

    def __init__(
        self, tree: TreeTarget, held_out: HeldOutRows, *, n_numeric: int, n_columns: int
    ) -> None:
        many_classes = tree.task == "classification" and tree.target.max() >= _MOST_CLASSES
        self.is_on = (
            held_out.n_distinct >= FEWEST_DISTINCT
            and n_numeric >= 2
            and n_columns <= _MOST_COLUMNS
            and not many_classes
        )
        self._held_out = held_out
        self._draw = np.random.default_rng((tree.random_state, _UNITS))
        self._codes: list[Codes] = []
        self._scaled: dict[int, NDArray[np.float32]] = {}

    def add_number(self, values: Values, fit: NumericFit) -> None:
        """Look at the next column of numbers; those with bins may be part of a sum.

        `values`: (n_rows,), float64; training rows; NaN is missing.
        """
        if not self.is_on:
            return
        scaled = fit.scaled(values[self._held_out.index])
        inner = fit.edges[1:-1] if len(fit.edges) else np.unique(_quantiles(scaled))
        if len(fit.edges) >= _FEWEST_EDGES:
            self._scaled[len(self._codes)] = scaled
        codes = np.searchsorted(inner, scaled, side="right") + 1
        self._codes.append(np.where(np.isnan(scaled), 0, codes))

    def add_codes(self, codes: NDArray[Any]) -> None:
        """Look at a column of codes from 0: what it says by itself is taken away.

        `codes`: (n_rows,); whole numbers, of training rows.
        """
        if self.is_on:
            self._codes.append(codes[self._held_out.index].astype(np.intp))

    def found(self) -> list[FoundSum]:
        """The sums that the table needs, the most needed first."""
        if len(self._scaled) < 2:
            return []
        goal, folds = self._held_out.statistics_target(), self._held_out.fold
        rest, sizes = _additive_residuals(self._codes, goal, folds)
        candidates = [
            _Candidate(place, smooth(np.nan_to_num(scaled.astype(np.float64))), sizes[place])
            for place, scaled in self._scaled.items()
        ]
        candidates.sort(key=lambda candidate: -candidate.fit_size)
        candidates = sorted(candidates[:_PAIRED_COLUMNS], key=lambda candidate: candidate.place)
        units = _random_units(
            np.stack([candidate.values for candidate in candidates], axis=1), self._draw
        )
        rest -= _held_out_ridge(units, rest, goal.weight, folds)
        return self._confirmed(candidates, rest, goal.weight, folds)

    def _confirmed(
        self, candidates: Sequence[_Candidate], rest: Values, weight: Values, folds: Codes
    ) -> list[FoundSum]:
        """The sums that explain more of the residuals on rows held out, most first."""
        screen = slice(_SCREEN_ROWS)
        pairs = [(one, two, w) for one, two in combinations(candidates, 2) for w in _WEIGHTS]
        left = {
            FoundSum((one.place, two.place), w): _ranges(w[0] * one.values + w[1] * two.values)
            for one, two, w in pairs
        }
        found: list[FoundSum] = []
        while left and len(found) < _MOST_SUMS:
            seen, mass = rest[screen], weight[screen]
            # One byte a code while they wait, since there may be 720 sums.
            explained = [
                _explained(codes[screen].astype(np.intp), seen, mass) for codes in left.values()
            ]
            best = list(left)[int(np.argmax(explained))]
            codes = left.pop(best).astype(np.intp)
            predicted = _held_out_means(codes, _RANGES, rest, weight, folds)
            gain = (rest**2 - (rest - predicted) ** 2).mean(axis=1)
            if not in_standard_errors(gain, weight) > _LEAST_STANDARD_ERRORS:
                break
            rest = rest - predicted
            found.append(best)
        return found


def _additive_residuals(
    columns: Sequence[Codes], goal: StatisticsTarget, folds: Codes
) -> tuple[Values, list[float]]:
    """Targets less what all columns say by themselves, held out; how much each says."""
    rest = np.empty_like(goal.columns)
    sizes = np.zeros(len(columns))
    widths = [int(codes.max()) + 1 for codes in columns]
    for fold in range(FOLDS):
        learn = np.flatnonzero(folds != fold)
        weight = goal.weight[learn]
        centre = np.average(goal.columns[learn], axis=0, weights=weight)
        inner, outer = goal.columns[learn] - centre, goal.columns[folds == fold] - centre
        learn_codes = [codes[learn] for codes in columns]
        tables = [np.zeros((width, rest.shape[1])) for width in widths]
        for _ in range(_SWEEPS):
            for j, codes in enumerate(learn_codes):
                inner += tables[j][codes]
                tables[j] = means(codes, widths[j], inner, weight)
                inner -= tables[j][codes]
        for j, codes in enumerate(columns):
            outer -= tables[j][codes[folds == fold]]
            sizes[j] += tables[j][learn_codes[j]].var(axis=0).sum()
        rest[folds == fold] = outer
    return rest, sizes.tolist()


def _held_out_means(
    codes: Codes, width: int, values: Values, weight: Values, folds: Codes
) -> Values:
    """Means per code of the rows of the other folds, for each row."""
    predicted = np.empty_like(values)
    for fold in range(FOLDS):
        learn, test = folds != fold, folds == fold
        predicted[test] = means(codes[learn], width, values[learn], weight[learn])[codes[test]]
    return predicted


def _random_units(values: Values, draw: np.random.Generator) -> Values:
    """Columns and random rectified units of them, centred: of shape (n, n_columns + 256)."""
    deviation = values.std(axis=0)
    inputs = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    slopes = draw.normal(size=(inputs.shape[1], _UNITS)) * 2 / np.sqrt(inputs.shape[1])
    units = np.maximum(inputs @ slopes + draw.normal(size=_UNITS), 0.0)
    every = np.concatenate([inputs, units], axis=1)
    every -= every.mean(axis=0)
    return every


def _held_out_ridge(inputs: Values, values: Values, weight: Values, folds: Codes) -> Values:
    """What a ridge regression on the rows of the other folds predicts, for each row."""
    parts = [np.flatnonzero(folds == fold) for fold in range(FOLDS)]
    weighted = [inputs[part] * weight[part, None] for part in parts]
    grams = [
        weighted_inputs.T @ inputs[part]
        for weighted_inputs, part in zip(weighted, parts, strict=True)
    ]
    sides = [
        weighted_inputs.T @ values[part]
        for weighted_inputs, part in zip(weighted, parts, strict=True)
    ]
    gram, side = np.sum(grams, axis=0), np.sum(sides, axis=0)
    predicted = np.empty_like(values)
    for k, part in enumerate(parts):
        matrix = gram - grams[k]
        ridge = _RIDGE * float(np.trace(matrix)) / len(matrix)
        matrix[np.diag_indices_from(matrix)] += ridge if ridge > 0 else 1.0
        predicted[part] = inputs[part] @ np.linalg.solve(matrix, side - sides[k])
    return predicted


def _quantiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return known
    return known[np.linspace(0, len(known) - 1, _RANGES + 1).astype(np.intp)[1:-1]]


def _ranges(values: Values) -> NDArray[np.uint8]:
    """In which of 32 ranges of about as many rows each value is; by way of 512 equal cells."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(len(values), dtype=np.uint8)
    cells = ((values - low) * ((_CELLS - 1) / (high - low))).astype(np.intp)
    counts = np.bincount(cells, minlength=_CELLS)
    middle = np.cumsum(counts) - counts / 2
    range_of: NDArray[np.uint8] = (middle * (_RANGES / len(values))).astype(np.uint8)
    return range_of[cells]


def _explained(codes: Codes, rest: Values, weight: Values) -> float:
    """What the means of ranges explain of the rows that they are taken from."""
    total, mass = sums(codes, _RANGES, rest, weight)
    return float((np.square(total) / mass).sum())
