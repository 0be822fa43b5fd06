"""Columns made of two numeric columns: what is the same for all kinds of them.

They stand last in the numeric part of the compact form and are computed from the columns before:
`encoding/interactions.py` has those that are fitted, `encoding/oblique.py` those of older files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import TensorBag
from tabwright.errors import ArtifactError

# Of a table and kind, in this format of the artifact.
MOST_PAIRS: Final = 64
# Squares of what it makes of a value still are float64.
LARGEST_SCALE: Final = 1e100
_NARROWEST: Final = 5e-31

Values = NDArray[np.float64]


class PairColumn(Protocol):
    """A column made of two others; its values are within 3.

    `first`, `second`: the columns, among those of the compact form.
    `edges`: (n_bins + 1,), float32; strictly increasing edges of its bins; empty without bins.
    """

    @property
    def first(self) -> int: ...

    @property
    def second(self) -> int: ...

    @property
    def edges(self) -> NDArray[np.float32]: ...

    def encode(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Values:
        """Values of rows, from those of the two columns; NaN where one of them is."""
        ...

    def scalar(self, first: float, second: float) -> float:
        """`encode` of one row: the same float64 operations in plain Python."""
        ...


def smooth(values: Values) -> Values:
    """x / sqrt(1 + x^2 / 9): near x in the middle, within 3 outside."""
    clipped: Values = values / np.sqrt(1.0 + values * values / 9.0)
    return clipped


def smooth_one(value: float) -> float:
    """`smooth` of one number: the same float64 operations in plain Python."""
    return value / math.sqrt(1.0 + value * value / 9.0)


def fill_pairs(columns: Sequence[PairColumn], numeric: NDArray[np.float32]) -> None:
    """Write the last columns of the numeric part of a compact form from those before.

    `numeric`: (n, n_numeric), float32; the last `len(columns)` are written.
    """
    at = numeric.shape[1] - len(columns)
    for place, column in enumerate(columns, start=at):
        numeric[:, place] = column.encode(numeric[:, column.first], numeric[:, column.second])


def edges_to_state(columns: Sequence[PairColumn]) -> dict[str, NDArray[Any]]:
    """The edges of all columns, one after the other, and how many each has."""
    return {
        "n_edges": np.array([len(column.edges) for column in columns], dtype=np.int64),
        "edges": np.concatenate([column.edges for column in columns]),
    }


def edges_from_state(
    tensors: TensorBag, n_columns: int, place: str, *, fewest: int
) -> list[NDArray[np.float32]]:
    """Read the edges of each column back and check them.

    `place`: of the columns in the document, for messages.
    `fewest`: edges of a column; 0 or 2.
    Raises `ArtifactError` if they do not increase, or are not as many as they should be.
    """
    edges = tensors.take("edges", "float32", (None,), low=-3, high=3)
    n_edges = tensors.take("n_edges", "int64", (n_columns,), low=fewest, high=len(edges))
    if (n_edges == 1).any() or n_edges.sum() != len(edges):
        raise ArtifactError(f"{place}.edges must be as many as n_edges says, and not 1 of a column")
    found = np.split(edges, np.cumsum(n_edges)[:-1])
    if any(not (np.diff(some.astype(np.float64)) > _NARROWEST).all() for some in found):
        raise ArtifactError(f"{place}.edges must increase within each column")
    return found
