"""How many test rows of a streamed table are training rows too, in bounded memory.

The smallest hashes of the distinct rows of both parts are kept (a bottom-k sketch: Cohen and
Kaplan, "Summarizing Data using Bottom-k Sketches", 2007). In tables of fewer distinct rows the
count is exact but for the repetitions among the test rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

_MOST_HASHES: Final = 32_768


def row_hashes(frame: pl.DataFrame) -> NDArray[np.uint64]:
    """A hash of each row, uint64 of shape (n,); names count for nothing."""
    cells = [series.alias(str(place)) for place, series in enumerate(frame.get_columns())]
    hashes: NDArray[np.uint64] = pl.DataFrame(cells).hash_rows().to_numpy()
    return hashes


def merged_hashes(*parts: list[int] | NDArray[np.uint64]) -> list[int]:
    """The smallest of some hashes, each once, in order."""
    whole = np.unique(np.concatenate([np.asarray(part, dtype=np.uint64) for part in parts]))
    kept: list[int] = whole[:_MOST_HASHES].tolist()
    return kept


def n_repeated(training: list[int], test: list[int], n_training: int, n_test: int) -> int:
    """About how many of the test rows are equal to a training row.

    `training`, `test`: `merged_hashes` of all rows of the part.
    `n_training`, `n_test`: rows of the part.
    Returns: 0 where most training rows repeat each other, as in tables of few values.
    """
    if not training or not test:
        return 0
    full = [part[-1] for part in (training, test) if len(part) == _MOST_HASHES]
    # Up to here both parts are known in full.
    end = min(full, default=2**64)
    known, asked = ({own for own in part if own <= end} for part in (training, test))
    n_distinct = len(training)
    if n_distinct == _MOST_HASHES:
        n_distinct = round(len(training) * 2.0**64 / (training[-1] + 1))
    if 2 * n_distinct < n_training:
        return 0
    return round(n_test * len(known & asked) / len(asked))
