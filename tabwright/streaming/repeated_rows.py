"""How many test rows of a streamed table are training rows too, in bounded memory.

The smallest hashes of the distinct rows of both parts are kept (a bottom-k sketch: Cohen and
Kaplan, "Summarizing Data using Bottom-k Sketches", 2007). In tables of fewer distinct rows the
count is exact but for the repetitions among the test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.inference.training_rows import natural_part

# The smallest hashes of distinct rows are a uniform sample of them, and merge exactly.
_MOST_HASHES: Final = 32_768
# Of the repeated rows of real tables, chance explains 0.8 and more; where all were copied, 0.3.
_NATURAL_PART: Final = 0.5


Hashes = NDArray[np.uint64]


def row_hashes(columns: Sequence[pl.Series]) -> Hashes:
    """A hash of each row, of shape (n,); names of columns count for nothing."""
    cells = [series.alias(str(place)) for place, series in enumerate(columns)]
    hashes: Hashes = pl.DataFrame(cells).hash_rows().to_numpy()
    return hashes


def merged_hashes(*parts: Hashes) -> Hashes:
    """The smallest of some hashes, each once, in order."""
    return np.unique(np.concatenate(parts))[:_MOST_HASHES]


class CountedHashes(NamedTuple):
    """The smallest hashes of distinct rows, each of shape (n,), and how often each comes."""

    hashes: Hashes
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, hashes: Hashes) -> CountedHashes:
        """Those of some rows."""
        distinct, counts = np.unique(hashes, return_counts=True)
        return cls(distinct[:_MOST_HASHES], counts[:_MOST_HASHES].astype(np.int64))

    def merged(self, other: CountedHashes) -> CountedHashes:
        """Those of the rows of both."""
        both = np.concatenate([self.hashes, other.hashes])
        distinct, place = np.unique(both, return_inverse=True)
        counts = np.zeros(len(distinct), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return CountedHashes(distinct[:_MOST_HASHES], counts[:_MOST_HASHES])


def repeat_by_chance(counts: NDArray[np.int64]) -> bool:
    """Whether most rows come more than once by chance, as in tables of few values.

    Of rows that were copied, as many come equally often as no chance gives.

    `counts`: (n_distinct,); how often each distinct row comes, or each of a sample of them.
    """
    return bool(2 * len(counts) < counts.sum()) and natural_part(counts) >= _NATURAL_PART


def n_repeated(training: Hashes, test: Hashes, n_test: int, counts: NDArray[np.int64]) -> int:
    """About how many of the test rows are equal to a training row.

    `training`, `test`: `merged_hashes` of all rows of the part.
    `n_test`: rows that test.
    `counts`: (n_distinct,); how often each of the smallest hashes of all rows comes.
    Returns: 0 where most rows repeat each other by chance, as in tables of few values.
    """
    if not len(training) or not len(test) or repeat_by_chance(counts):
        return 0
    full = [part[-1] for part in (training, test) if len(part) == _MOST_HASHES]
    # Up to here both parts are known in full.
    end = min(full, default=np.uint64(2**64 - 1))
    known, asked = (part[part <= end] for part in (training, test))
    return round(n_test * len(np.intersect1d(known, asked, assume_unique=True)) / len(asked))
