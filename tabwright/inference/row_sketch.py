"""Which rows a model was trained on, roughly: enough to tell when it is scored on them.

A model file holds no rows. It holds up to 256 short hashes of encoded training rows, those that
are smallest (a bottom-k sketch: Cohen and Kaplan, "Summarizing Data using Bottom-k Sketches",
2007), so that the share of a table's rows that were training rows can be estimated.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tabwright.encoding.encoder import Compact
    from tabwright.inference.fitted_model import FittedModel

__all__ = ["SeenRows", "sketch_of_rows"]

_MOST_HASHES = 256
# Fewer hits than this could be chance.
_FEWEST_EXPECTED = 10.0
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NAN = np.uint32(0x7FC00000)


def row_hashes(compact: Compact, n_own: int) -> NDArray[np.uint32]:
    """A hash of every encoded row, uint32 of shape (n,).

    `n_own`: numeric inputs, from the first, that come from the row alone: target statistics, behind
        them, are out of fold while training.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(len(compact.numeric), dtype=np.uint64)
        for column in compact.numeric[:, :n_own].T:
            bits = (column + np.float32(0)).view(np.uint32)
            state = (state ^ np.where(np.isnan(column), _NAN, bits)) * _FACTOR
            state ^= state >> np.uint64(29)
        for column in compact.codes.T:
            state = (state ^ column.astype(np.uint64)) * _FACTOR
            state ^= state >> np.uint64(29)
    return (state >> np.uint64(32)).astype(np.uint32)


def sketch_of_rows(compact: Compact, n_own: int) -> str:
    """The smallest hashes of rows that come once, as text for a model's card."""
    hashes, counts = np.unique(row_hashes(compact, n_own), return_counts=True)
    smallest = hashes[counts == 1][:_MOST_HASHES]
    return base64.b64encode(smallest.astype("<u4").tobytes()).decode("ascii")


class SeenRows:
    """Counts rows that a model was trained on, batch by batch.

    `model`: of one without a sketch, such as a file of before, nothing is known.
    """

    def __init__(self, model: FittedModel) -> None:
        text: Any = model.card.get("row_sketch")
        self._n_own = len(model.encoder.plan_.had_missing)
        data = base64.b64decode(text) if isinstance(text, str) else b""
        self._known = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4")
        self._n_training: Any = model.card.get("n_training_rows")
        self._n_rows = self._n_hits = 0

    def add(self, compact: Compact) -> None:
        """Look at the rows of a batch."""
        if len(self._known):
            self._n_rows += len(compact.numeric)
            self._n_hits += int(np.isin(row_hashes(compact, self._n_own), self._known).sum())

    def estimate(self) -> int:
        """About how many rows were training rows; 0 where that is few, or cannot be told."""
        if not len(self._known) or not isinstance(self._n_training, int) or self._n_training < 1:
            return 0
        density = len(self._known) / self._n_training
        if self._n_rows * density < _FEWEST_EXPECTED:
            return 0
        seen = min(self._n_rows, round(self._n_hits / density))
        return seen if seen >= 0.2 * self._n_rows else 0
