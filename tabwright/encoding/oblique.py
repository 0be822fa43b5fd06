"""Weighted sums of two numeric columns, as files of before 0.3 have them.

Models are no longer fitted with them: `encoding/interactions.py` took their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import TensorBag
from tabwright.encoding.pair_columns import (
    LARGEST_SCALE,
    Values,
    edges_from_state,
    edges_to_state,
    smooth,
    smooth_one,
)
from tabwright.errors import ArtifactError

_LARGEST_WEIGHT = 16.0


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
        one, two = smooth(first.astype(np.float64)), smooth(second.astype(np.float64))
        total = self.weights[0] * one + self.weights[1] * two
        return smooth((total - self.centre) * self.scale)

    def scalar(self, first: float, second: float) -> float:
        """`encode` of one row: the same float64 operations in plain Python."""
        total = self.weights[0] * smooth_one(first) + self.weights[1] * smooth_one(second)
        return smooth_one((total - self.centre) * self.scale)


def obliques_to_state(columns: Sequence[ObliqueColumn]) -> dict[str, NDArray[Any]]:
    """The arrays of all columns together; none without columns."""
    if not columns:
        return {}
    return {
        "columns": np.array([[column.first, column.second] for column in columns], dtype=np.int64),
        "weights": np.array([column.weights for column in columns], dtype=np.float64),
        "centre": np.array([column.centre for column in columns], dtype=np.float64),
        "scale": np.array([column.scale for column in columns], dtype=np.float64),
        **edges_to_state(columns),
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
    scale = tensors.take("scale", "float64", (n_obliques,), low=0, high=LARGEST_SCALE)
    edges = edges_from_state(tensors, n_obliques, "encoder.obliques", fewest=2)
    if (pairs[:, 0] >= pairs[:, 1]).any():
        raise ArtifactError("encoder.obliques.columns must increase within each pair")
    return tuple(
        ObliqueColumn(
            first=first,
            second=second,
            weights=(one, two),
            centre=float(centre[k]),
            scale=float(scale[k]),
            edges=edges[k],
        )
        for k, ((first, second), (one, two)) in enumerate(
            zip(pairs.tolist(), weights.tolist(), strict=True)
        )
    )
