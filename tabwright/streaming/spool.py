"""Encoded rows on disk, in blocks that can be read in any order.

A table that is trained on many times is encoded once: each row becomes a record of fixed length
(`record_dtype`), 4 bytes a column and the target. Blocks of neighbouring rows are what an epoch
shuffles. The folder is the run's own, and goes with it.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.encoder import Compact

BLOCK_ROWS: Final = 256
# Blocks in memory at once, drawn from all over the table: 65,536 rows, as a rule.
_BUFFER_BLOCKS: Final = 256


class RowBlocks(ABC):
    """Encoded rows that can be read block by block, in any order, wherever they lie.

    `dtype`: of the records.
    `n_rows`: (n_blocks,), int64; rows of each block, at most `block_rows`.
    """

    dtype: np.dtype[Any]
    n_rows: NDArray[np.int64]

    @property
    @abstractmethod
    def block_rows(self) -> int:
        """Rows of a block, at most."""

    @property
    @abstractmethod
    def per_buffer(self) -> int:
        """Blocks that are shuffled together."""

    @abstractmethod
    def read(self, blocks: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """The records of blocks, in the order they are named."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the rows."""

    @property
    def total(self) -> int:
        """Rows of all blocks."""
        return int(self.n_rows.sum())

    def __len__(self) -> int:
        return len(self.n_rows)


def record_dtype(n_numeric: int, n_codes: int, *, weighted: bool) -> np.dtype[Any]:
    """The layout of a row: compact form, target, weight where there is one."""
    fields: list[Any] = [("numeric", "<f4", (n_numeric,)), ("codes", "<i4", (n_codes,))]
    fields.append(("target", "<f8"))
    if weighted:
        fields.append(("weight", "<f8"))
    return np.dtype(fields)


def records_of(
    compact: Compact,
    target: NDArray[Any],
    weight: NDArray[np.float64] | None,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Rows as records; class codes are exact as float64."""
    records = np.empty(len(target), dtype=dtype)
    records["numeric"], records["codes"] = compact.numeric, compact.codes
    records["target"] = target
    if weight is not None:
        records["weight"] = weight
    return records


class SpoolWriter:
    """Writes the records of one worker: a file, and an index of its chunks.

    `name`: of the part of the rows.
    """

    def __init__(self, folder: Path, name: str, worker: int) -> None:
        self._data = folder / f"{name}-{worker}.rows"
        self._index = folder / f"{name}-{worker}.json"
        self._file: IO[bytes] = self._data.open("wb")
        self._chunks: list[tuple[int, int, int]] = []

    def append(self, file: int, number: int, records: NDArray[Any]) -> None:
        """Write the rows of a chunk."""
        self._file.write(records.tobytes())
        self._chunks.append((file, number, len(records)))

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *fault: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def close(self) -> None:
        """All is written: leave the index."""
        self._file.close()
        self._index.write_text(json.dumps(self._chunks))


@dataclass(frozen=True)
class Blocks(RowBlocks):
    """All rows of a part, as blocks in the order of the table.

    `dtype`: of the records.
    `n_rows`: (n_blocks,), int64; rows of each block: 256, but in the last of a chunk.
    """

    dtype: np.dtype[Any]
    n_rows: NDArray[np.int64]
    _worker: NDArray[np.int32]
    _start: NDArray[np.int64]
    _files: tuple[IO[bytes], ...]

    @classmethod
    def open(cls, folder: Path, name: str, n_workers: int, dtype: np.dtype[Any]) -> Blocks:
        """What the workers of this machine have written."""
        chunks: list[tuple[int, int, int, int, int]] = []
        for worker in range(n_workers):
            start = 0
            for file, number, n_rows in json.loads((folder / f"{name}-{worker}.json").read_text()):
                chunks.append((file, number, worker, start, n_rows))
                start += n_rows
        n_rows, workers, starts = [], [], []
        for _, _, worker, start, n in sorted(chunks):
            firsts = np.arange(0, n, BLOCK_ROWS, dtype=np.int64)
            starts.append(start + firsts)
            n_rows.append(np.minimum(n - firsts, BLOCK_ROWS))
            workers.append(np.full(len(firsts), worker, dtype=np.int32))
        none: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        return cls(
            dtype,
            np.concatenate(n_rows or none),
            np.concatenate(workers or [np.empty(0, dtype=np.int32)]),
            np.concatenate(starts or none),
            tuple((folder / f"{name}-{worker}.rows").open("rb") for worker in range(n_workers)),
        )

    @property
    def block_rows(self) -> int:
        return BLOCK_ROWS

    @property
    def per_buffer(self) -> int:
        return _BUFFER_BLOCKS

    def read(self, blocks: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        sizes = self.n_rows[blocks]
        ends = np.cumsum(sizes)
        records = np.empty(int(ends[-1]) if len(ends) else 0, dtype=self.dtype)
        raw = memoryview(records.view(np.uint8).data)
        width = self.dtype.itemsize
        for block, size, end in zip(blocks, sizes.tolist(), ends.tolist(), strict=True):
            place = raw[(end - size) * width : end * width]
            file = self._files[self._worker[block]]
            n_bytes = os.preadv(file.fileno(), [place], int(self._start[block]) * width)
            if n_bytes != len(place):
                raise OSError(f"{file.name} is shorter than it was when it was written")
        return records

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            file.close()
