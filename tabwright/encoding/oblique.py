"""Weighted sums of two numeric columns as further columns: what a slanted cut through them sees.

`ObliqueColumn` says of which two columns and how; `fill_obliques` writes such columns behind the
others of the compact form. `supervised/oblique_search.py` decides which
ones a table needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import TensorBag
from tabwright.encoding.numeric import fit_numeric, strict_edges
from tabwright.encoding.supervised.tree_thresholds import (
    TreeTarget,
    fewest_rows,
    tree_index,
    tree_thresholds,
)
from tabwright.errors import ArtifactError

# Of a table, in this format of the artifact.
MOST_SUMS = 64
_LARGEST_WEIGHT = 16.0
# Squares of what it makes of a sum still are float64.
_LARGEST_SCALE = 1e100
_NARROWEST = 5e-31

Values = NDArray[np.float64]


def smooth(values: Values) -> Values:
    """x / sqrt(1 + x^2 / 9): near x in the middle, within 3 outside."""
    clipped: Values = values / np.sqrt(1.0 + values * values / 9.0)
    return clipped


def _smooth_one(value: float) -> float:
    return value / math.sqrt(1.0 + value * value / 9.0)


@dataclass(frozen=True)
class ObliqueColumn:
    """A weighted sum of two numeric columns, in bins.

    With s(x) = x / sqrt(1 + x^2 / 9) the value is s((w1 s(z1) + w2 s(z2) - centre) * scale), for
    the scaled values z1 and z2 of the columns: whatever these are, it is within 3.

    `first`, `second`: the columns, among those of the compact form.
    `edges`: (n_bins + 1,), float32; strictly increasing edges of the bins of the value.
    """

    first: int
    second: int
    weights: tuple[float, float]
    centre: float
    scale: float
    edges: NDArray[np.float32]

    def encode(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Values:
        """Values of rows, from those of the two columns; NaN where one of them is."""
        total = _combined(first, second, self.weights)
        return smooth((total - self.centre) * self.scale)

    def scalar(self, first: float, second: float) -> float:
        """`encode` of one row: the same float64 operations in plain Python."""
        total = self.weights[0] * _smooth_one(first) + self.weights[1] * _smooth_one(second)
        return _smooth_one((total - self.centre) * self.scale)

    def bins(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Left edge and inverse width of every bin."""
        width = np.diff(self.edges.astype(np.float64))
        return self.edges[:-1], (1.0 / width).astype(np.float32)


def _combined(
    first: NDArray[np.float32], second: NDArray[np.float32], weights: tuple[float, float]
) -> Values:
    """The weighted sum of two columns of scaled values, before it is scaled itself."""
    one, two = smooth(first.astype(np.float64)), smooth(second.astype(np.float64))
    return weights[0] * one + weights[1] * two


def fill_obliques(columns: Sequence[ObliqueColumn], numeric: NDArray[np.float32]) -> None:
    """Write the last columns of the numeric part of a compact form from those before.

    `numeric`: (n, n_numeric), float32; the last `len(columns)` are written.
    """
    at = numeric.shape[1] - len(columns)
    for place, column in enumerate(columns, start=at):
        numeric[:, place] = column.encode(numeric[:, column.first], numeric[:, column.second])


def fit_oblique(
    places: tuple[int, int],
    weights: tuple[float, float],
    scaled: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    sample: NDArray[np.int64] | None,
    tree: TreeTarget,
    n_bins: int,
) -> ObliqueColumn | None:
    """Scale a weighted sum and fit its bins, as those of a column of the table.

    `places`: the columns, among those of the compact form.
    `scaled`: (n_rows,), float32; their scaled values on the training rows; NaN is missing.
    `sample`: rows that scale and bins are fitted on; None: all of them.
    `n_bins`: at most so many.
    Returns: None where the sum has but one value.
    """
    fit = fit_numeric(_combined(*scaled, weights), sample, "robust", n_bins=n_bins)
    scale = min(fit.scale, _LARGEST_SCALE)
    column = ObliqueColumn(*places, weights, fit.centre, scale, np.empty(0, dtype=np.float32))
    values = column.encode(*scaled).astype(np.float32)
    index = tree_index(values, sample)
    if not len(index):
        return None
    inner = tree_thresholds(
        values[index],
        index,
        tree,
        n_leaves=n_bins,
        min_rows=fewest_rows(len(index), n_bins),
    )
    edges = strict_edges(inner, float(np.nanmin(values)), float(np.nanmax(values)))
    return replace(column, edges=edges) if len(edges) else None


def obliques_to_state(columns: Sequence[ObliqueColumn]) -> dict[str, NDArray[Any]]:
    """The arrays of all columns together; none without columns."""
    if not columns:
        return {}
    return {
        "columns": np.array([[column.first, column.second] for column in columns], dtype=np.int64),
        "weights": np.array([column.weights for column in columns], dtype=np.float64),
        "centre": np.array([column.centre for column in columns], dtype=np.float64),
        "scale": np.array([column.scale for column in columns], dtype=np.float64),
        "n_edges": np.array([len(column.edges) for column in columns], dtype=np.int64),
        "edges": np.concatenate([column.edges for column in columns]),
    }


def obliques_from_state(
    tensors: TensorBag, n_obliques: int, n_columns: int
) -> tuple[ObliqueColumn, ...]:
    """Read the columns back and check them.

    `n_columns`: numeric columns of the table.
    Raises `ArtifactError` if arrays do not fit together, a column is combined with itself, edges do
        not increase, or a number is out of range.
    """
    if not n_obliques:
        return ()
    if n_columns < 2:
        raise ArtifactError("encoder.obliques must be of two numeric columns")
    pairs = tensors.take("columns", "int64", (n_obliques, 2), low=0, high=n_columns - 1)
    reach = _LARGEST_WEIGHT
    weights = tensors.take("weights", "float64", (n_obliques, 2), low=-reach, high=reach)
    centre = tensors.take("centre", "float64", (n_obliques,), low=-6 * reach, high=6 * reach)
    scale = tensors.take("scale", "float64", (n_obliques,), low=0, high=_LARGEST_SCALE)
    edges = tensors.take("edges", "float32", (None,), low=-3, high=3)
    n_edges = tensors.take("n_edges", "int64", (n_obliques,), low=2, high=len(edges))
    if (pairs[:, 0] >= pairs[:, 1]).any():
        raise ArtifactError("encoder.obliques.columns must increase within each pair")
    if n_edges.sum() != len(edges):
        raise ArtifactError("encoder.obliques.edges must be as many as n_edges says")
    columns, at = [], 0
    for k, n in enumerate(n_edges.tolist()):
        column_edges = edges[at : at + n]
        if not (np.diff(column_edges.astype(np.float64)) > _NARROWEST).all():
            raise ArtifactError("encoder.obliques.edges must increase within each column")
        first, second = pairs[k].tolist()
        one, two = weights[k].tolist()
        columns.append(
            ObliqueColumn(
                first=first,
                second=second,
                weights=(one, two),
                centre=float(centre[k]),
                scale=float(scale[k]),
                edges=column_edges,
            )
        )
        at += n
    return tuple(columns)
