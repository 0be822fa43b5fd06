"""Numeric columns whose single values mean something: target statistics of a fine tree's leaves.

A code, an amount that the law names, a price of 7,688 says what it says by itself, and to few rows
each. Bins are too wide for such values, and narrow ones are learnt too slowly. Here live the
check that finds such columns on held-out rows, `ValueStatistics`, which such a column is given, and
its way into a file and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import TensorBag
from tabwright.encoding.categorical import StatisticsTarget, cross_fitted
from tabwright.encoding.numeric import NumericFit, strict_edges
from tabwright.encoding.supervised.held_out_rows import (
    FOLDS,
    HeldOutRows,
    in_standard_errors,
    means,
)
from tabwright.encoding.supervised.tree_thresholds import (
    TreeTarget,
    fewest_rows,
    tree_index,
    tree_thresholds,
)
from tabwright.errors import ArtifactError

_N_LEAVES = 64
_LEAF_ROWS = 10
# Bins that the fine tree must beat, also where a table so wide that it has fewer.
_FEWEST_BINS = 16
_TRIAL_ROWS = 5_000
# Standard errors by which rows held out must be predicted better.
_LEAST_STANDARD_ERRORS = 4.0
_LARGEST_STATISTIC = 3.0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class ValueStatistics:
    """Target statistics of a numeric column.

    `source`: the column, among those of the compact form.
    `cuts`: (n_cuts,), float32; strictly increasing, in scaled units.
    `table`: (n_cuts + 2, n_targets), float32; smoothed means of the target, standardised: row 0 for
        a missing value, row k for values with k - 1 cuts at or below.
    """

    source: int
    cuts: NDArray[np.float32]
    table: NDArray[np.float32]

    @property
    def width(self) -> int:
        """Inputs of the column by its statistics."""
        return int(self.table.shape[1])

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Statistics of scaled values: float32 of shape (n, n_targets), never NaN."""
        return self.table[_rows(self.cuts, values)]


def _rows(cuts: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.int64]:
    places = np.searchsorted(cuts, values, side="right") + 1
    return np.where(np.isnan(values), 0, places)


class ValueStatisticsFit:
    """Gives target statistics to the numeric columns that need them, one after the other.

    A column needs them where its leaves in a tree of 64 predict rows held out better than its
    bins can: each fifth of at most 20,000 training rows is predicted from the others, once by the
    mean of the target in the leaves of the fine tree and once by those of as many leaves as there
    are bins, and once linearly by the bins of those. The fine tree must beat both by more than 4
    standard errors of the difference in squared error a row. Elsewhere statistics do harm: the
    cuts have seen the targets of the training rows, so that they fit new rows less well than these.

    The statistics of a training row are cross-fitted, as those of category levels are (see
    `categorical.fit_category`); the cuts are those of all rows.

    `sample`: rows that bins are fitted on; None: all of them.
    `n_bins`: bins that a column may have.
    `statistics_target`: gives the `StatisticsTarget` of all rows; called where statistics are
        needed.
    `statistics`: (n_rows, n_targets), float32; of the training rows, cross-fitted.
    """

    def __init__(
        self,
        tree: TreeTarget,
        sample: NDArray[np.int64] | None,
        n_bins: int,
        statistics_target: Callable[[], StatisticsTarget],
        held_out: HeldOutRows,
    ) -> None:
        self._tree = tree
        self._sample = np.arange(len(tree.target)) if sample is None else sample
        self._n_bins = max(n_bins, _FEWEST_BINS)
        self._statistics_target = statistics_target
        self.columns: list[ValueStatistics] = []
        self.statistics: list[NDArray[np.float32]] = []
        self._folds: list[_Rows] = []
        if self._can_be_fine(len(held_out.index)):
            goal, values = (
                held_out.statistics_target(),
                np.empty(len(held_out.index), dtype=np.float32),
            )
            every = _Rows(values, held_out.index, goal.columns, goal.weight)
            self._folds = [every.take(held_out.fold == k) for k in range(FOLDS)]

    def _can_be_fine(self, n_rows: int) -> bool:
        """Whether half of so many rows can make more leaves than there are bins."""
        return n_rows > 2 * self._n_bins * _LEAF_ROWS

    def add(self, source: int, values: Values, fit: NumericFit) -> None:
        """Look at the next column, and give it statistics where it needs them.

        `source`: its place in the compact form.
        `values`: (n_rows,), float64; training rows; NaN is missing.
        """
        if not self._folds or not len(fit.edges) or not self._is_needed(values, fit):
            return
        scaled = fit.scaled(values)
        index = tree_index(scaled, self._sample)
        cuts = tree_thresholds(
            scaled[index], index, self._tree, n_leaves=_N_LEAVES, min_rows=_LEAF_ROWS
        )
        if not len(cuts):
            return
        codes = _rows(cuts, scaled).astype(np.int32)
        table, statistics = cross_fitted(codes, len(cuts) + 2, self._statistics_target())
        # The last statistic is the count, which bins tell as well.
        self.columns.append(ValueStatistics(source, cuts, np.ascontiguousarray(table[:, :-1])))
        self.statistics.append(statistics[:, :-1])

    def _is_needed(self, values: Values, fit: NumericFit) -> bool:
        """Whether fine leaves predict held-out folds surely better than bins do."""
        folds = [fold.known(fit.scaled(values[fold.rows])) for fold in self._folds]
        if not self._can_be_fine(sum(len(fold.rows) for fold in folds)):
            return False
        rest = [_joined([*folds[:k], *folds[k + 1 :]]) for k in range(len(folds))]
        if len(np.unique(rest[0].values)) <= self._n_bins:
            return False
        # Most columns end here: a small tree is soon made, and many rows judge it.
        trial, judges = _joined(folds[:2]), _joined(folds[2:])
        gain = self._gain(trial.take(slice(_TRIAL_ROWS)), judges)
        if not (in_standard_errors(gain, judges.weight) > 0).all():
            return False
        pairs = zip(rest, folds, strict=True)
        gains = np.concatenate([self._gain(*pair) for pair in pairs], axis=1)
        return bool(
            (in_standard_errors(gains, _joined(folds).weight) > _LEAST_STANDARD_ERRORS).all()
        )

    def _gain(self, learn: _Rows, test: _Rows) -> Values:
        """Squared errors of two predictions by bins less those by fine leaves: of shape (2, n)."""
        min_rows = max(_LEAF_ROWS, fewest_rows(len(learn.values), self._n_bins))
        coarse = self._cuts(learn, self._n_bins, min_rows)
        fine = self._cuts(learn, _N_LEAVES, _LEAF_ROWS)
        by_bins = [
            _error(learn, test, coarse),
            test.error(_linear_in_bins(coarse, learn, test.values)),
        ]
        return np.stack(by_bins) - _error(learn, test, fine)

    def _cuts(self, learn: _Rows, n_leaves: int, min_rows: int) -> NDArray[np.float32]:
        return tree_thresholds(
            learn.values, learn.rows, self._tree, n_leaves=n_leaves, min_rows=min_rows
        )


@dataclass(frozen=True)
class _Rows:
    """Rows of a column: scaled values, places in the table, targets, weights."""

    values: NDArray[np.float32]
    rows: NDArray[np.int64]
    goal: Values
    weight: Values

    def take(self, chosen: slice | NDArray[Any]) -> _Rows:
        """Some of them."""
        return _Rows(self.values[chosen], self.rows[chosen], self.goal[chosen], self.weight[chosen])

    def known(self, values: NDArray[np.float32]) -> _Rows:
        """Those that have a value, with it."""
        return replace(self, values=values).take(~np.isnan(values))

    def error(self, predicted: Values) -> Values:
        """Mean squared error of each row: of shape (n,)."""
        error: Values = ((self.goal - predicted) ** 2).mean(axis=1)
        return error


def _joined(parts: Sequence[_Rows]) -> _Rows:
    return _Rows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.goal for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def _error(learn: _Rows, test: _Rows, cuts: NDArray[np.float32]) -> Values:
    """Squared error of the smoothed means between cuts, for each test row."""
    leaf = np.searchsorted(cuts, learn.values, side="right")
    by_leaf = means(leaf, len(cuts) + 1, learn.goal, learn.weight)
    return test.error(by_leaf[np.searchsorted(cuts, test.values, side="right")])


def _linear_in_bins(
    inner: NDArray[np.float32], learn: _Rows, values: NDArray[np.float32]
) -> Values:
    """Ridge regression on piecewise-linear bins, for other values."""
    low, high = float(learn.values.min()), float(learn.values.max())
    edges = strict_edges(inner, low, high).astype(np.float64)

    def inputs(part: NDArray[np.float32]) -> Values:
        share = (part[:, None] - edges[:-1]) / np.diff(edges)
        return np.concatenate([np.ones((len(part), 1)), np.clip(share, 0.0, 1.0)], axis=1)

    x = inputs(learn.values)
    weighted = x * learn.weight[:, None]
    gram = weighted.T @ x + np.eye(x.shape[1])
    predicted: Values = inputs(values) @ np.linalg.solve(gram, weighted.T @ learn.goal)
    return predicted


def value_statistics_to_state(
    columns: Sequence[ValueStatistics], width: int
) -> dict[str, NDArray[Any]]:
    """The arrays of all columns together, with tables of `width` statistics."""
    cuts = [column.cuts for column in columns]
    tables = [column.table for column in columns]
    return {
        "source": np.array([column.source for column in columns], dtype=np.int64),
        "n_cuts": np.array([len(column_cuts) for column_cuts in cuts], dtype=np.int64),
        "cuts": np.concatenate([np.empty(0, dtype=np.float32), *cuts]),
        "table": np.concatenate([np.empty((0, width), dtype=np.float32), *tables]),
    }


def value_statistics_from_state(
    tensors: TensorBag, n_columns: int, width: int
) -> tuple[ValueStatistics, ...]:
    """Read the columns back and check them.

    `n_columns`: numeric columns of the table.
    `width`: statistics of a value.
    Raises `ArtifactError` if arrays do not fit together, sources or cuts do not increase, or a
        statistic is out of range.
    """
    source = tensors.take("source", "int64", (None,), low=0, high=n_columns - 1)
    cuts = tensors.take("cuts", "float32", (None,))
    n_cuts = tensors.take("n_cuts", "int64", (len(source),), low=1, high=len(cuts))
    reach = _LARGEST_STATISTIC
    table = tensors.take("table", "float32", (None, width), low=-reach, high=reach)
    if (np.diff(source) <= 0).any():
        raise ArtifactError("encoder.leaves.source must increase")
    if n_cuts.sum() != len(cuts) or (n_cuts + 2).sum() != len(table):
        raise ArtifactError(
            "encoder.leaves.table must have two rows more than there are cuts, for each column"
        )
    if len(source) and not width:
        raise ArtifactError("encoder.leaves.table must have at least one statistic")
    columns, at, row = [], 0, 0
    for column, n in zip(source.tolist(), n_cuts.tolist(), strict=True):
        column_cuts = cuts[at : at + n]
        if (np.diff(column_cuts) <= 0).any():
            raise ArtifactError("encoder.leaves.cuts must increase within each column")
        columns.append(ValueStatistics(column, column_cuts, table[row : row + n + 2]))
        at, row = at + n, row + n + 2
    return tuple(columns)
