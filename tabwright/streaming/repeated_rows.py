"""How many test rows of a streamed table are training rows too, in bounded memory.

The smallest hashes of the distinct rows of both parts are kept (a bottom-k sketch: Cohen and
Kaplan, "Summarizing Data using Bottom-k Sketches", 2007). In tables of fewer distinct rows the
count is exact but for the repetitions among the test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

# The smallest hashes of distinct rows are a uniform sample of them, and merge exactly.
_MOST_HASHES: Final = 32_768


Hashes = NDArray[np.uint64]


def row_hashes(columns: Sequence[pl.Series]) -> Hashes:
    """A hash of each row, of shape (n,); names of columns count for nothing."""
    cells = [series.alias(str(place)) for place, series in enumerate(columns)]
    hashes: Hashes = pl.DataFrame(cells).hash_rows().to_numpy()
    return hashes


def merged_hashes(*parts: Hashes) -> Hashes:
    """The smallest of some hashes, each once, in order."""
    return np.unique(np.concatenate(parts))[:_MOST_HASHES]


def n_repeated(training: Hashes, test: Hashes, n_training: int, n_test: int) -> int:
    """About how many of the test rows are equal to a training row.

    `training`, `test`: `merged_hashes` of all rows of the part.
    `n_training`, `n_test`: rows of the part.
    Returns: 0 where most training rows repeat each other, as in tables of few values.
    """
    if not len(training) or not len(test):
        return 0
    full = [part[-1] for part in (training, test) if len(part) == _MOST_HASHES]
    # Up to here both parts are known in full.
    end = min(full, default=np.uint64(2**64 - 1))
    known, asked = (part[part <= end] for part in (training, test))
    n_distinct = len(training)
    if n_distinct == _MOST_HASHES:
        n_distinct = round(len(training) * 2.0**64 / (int(training[-1]) + 1))
    if 2 * n_distinct < n_training:
        return 0
    return round(n_test * len(np.intersect1d(known, asked, assume_unique=True)) / len(asked))
