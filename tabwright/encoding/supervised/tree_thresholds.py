"""Thresholds of a decision tree on one numeric column, and the rows that it sees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.settings import Task

# A tree of a few leaves finds the same thresholds in half of the 100,000 rows that quantiles are
# fitted on, in less than half the time.
_MOST_ROWS = 50_000


@dataclass(frozen=True)
class TreeTarget:
    """What target-aware bins are fitted to.

    `target`: (n_rows,); class codes, or numbers.
    `sample_weight`: (n_rows,), float64.
    """

    target: NDArray[Any]
    task: Task
    sample_weight: NDArray[np.float64] | None
    random_state: int


def spread_rows(n_rows: int) -> slice:
    """Which of so many rows a tree on one column sees: at most 50,000, evenly spread."""
    return slice(None, None, max(1, -(-n_rows // _MOST_ROWS)))


def tree_index(values: NDArray[np.float32], sample: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The rows of a column that a tree on it sees: of a sample, those with a value.

    `values`: (n_rows,), float32. NaN is missing.
    `sample`: None: all rows.
    """
    index = np.arange(len(values)) if sample is None else sample
    index = index[~np.isnan(values[index])]
    return index[spread_rows(len(index))]


def fewest_rows(n_rows: int, n_bins: int) -> int:
    """The fewest rows that a bin of a tree on so many rows may hold."""
    return max(1, min(64, n_rows // (2 * n_bins)))


def tree_thresholds(
    plain: NDArray[np.float32],
    index: NDArray[np.int64],
    tree: TreeTarget,
    *,
    n_leaves: int,
    min_rows: int,
) -> NDArray[np.float32]:
    """Thresholds of a decision tree on one column.

    `plain`: (n,), float32; finite.
    `index`: (n,), int64; the rows of `tree.target` that they belong to.
    `n_leaves`: at most so many; at least 2.
    `min_rows`: fewest rows in a leaf.
    Returns: (n_thresholds,), float32; strictly increasing.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    make = DecisionTreeClassifier if tree.task == "classification" else DecisionTreeRegressor
    model = make(
        max_leaf_nodes=max(n_leaves, 2),
        min_samples_leaf=min_rows,
        random_state=tree.random_state % 2**32,
    )
    target = tree.target[index]
    if tree.task == "regression":
        span = float(np.abs(target).max())
        # The tree squares its targets: 1e300 would overflow, and 1e-300 vanish.
        target = target / span if span > 0 else target
    weight = None if tree.sample_weight is None else tree.sample_weight[index]
    with warnings.catch_warnings():
        # scikit-learn wonders about targets of many classes; these are known to be classes.
        warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)
        model.fit(plain[:, None], target, sample_weight=weight)
    inner = model.tree_
    return np.unique(inner.threshold[inner.feature >= 0].astype(np.float32))
