"""From the compact form of a table to network inputs, in NumPy and in torch, equal.

Here live `Layout`, which says where every input comes from, and its two executors. Both run the
same float32 operations in the same order, none of them fused, so that they agree bit for bit on
a CPU. What the numbers of the compact form mean is decided in `encoding/numeric.py`,
`encoding/categorical.py` and
`encoding/calendar_cycles.py`; nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Multiplied, not divided by 3: torch replaces some divisions by products with the reciprocal.
THIRD = float(np.float32(1.0) / np.float32(3.0))
_BLOCK_ROWS = 2_048


@dataclass(frozen=True)
class CycleBlock:
    """Code columns that are looked up in one table of sines and cosines.

    `start`, `stop`: the code columns.
    `table`: (n_codes, width), float32; row 0, for a missing value, is zero.
    """

    start: int
    stop: int
    table: NDArray[np.float32]

    @property
    def n_inputs(self) -> int:
        """Inputs of the whole block."""
        return (self.stop - self.start) * int(self.table.shape[1])


@dataclass(frozen=True)
class Layout:
    """Where the inputs of a network come from, block by block.

    The blocks, in this order: values of numeric columns; bins; missing indicators; cycles of
    dates; one input per category level.

    `n_numeric`: numeric columns of the compact form.
    `n_encoded`: how many of them, from the first, go through the numeric encoding; the others are
        passed on as they are.
    `keep_value`: whether the encoded columns are inputs themselves.
    `smooth`: whether their values pass the smooth clip x / sqrt(1 + (x / 3)^2) first.
    `bin_source`: (n_bins,), int64; numeric column of each bin.
    `bin_left`, `bin_inverse`: (n_bins,), float32; left edge and inverse width of each bin.
    `missing`: (n_missing,), int64; numeric columns with an indicator.
    `n_categories`: code columns, from the first, that are one-hot.
    `level_start`: (n_categories,), int64; the input of code c is `level_start + c`.
    `level_floor`: (n_categories,), int32; codes below it count as it: 1 where a missing value has
        no input of its own.
    `input_dim`: all inputs.
    """

    n_numeric: int
    n_encoded: int
    keep_value: bool
    smooth: bool
    bin_source: NDArray[np.int64]
    bin_left: NDArray[np.float32]
    bin_inverse: NDArray[np.float32]
    missing: NDArray[np.int64]
    cycles: tuple[CycleBlock, ...]
    n_categories: int
    level_start: NDArray[np.int64]
    level_floor: NDArray[np.int32]
    input_dim: int

    @property
    def first_value(self) -> int:
        """The first numeric column that is an input itself."""
        return 0 if self.keep_value else self.n_encoded

    @property
    def stops(self) -> tuple[int, int, int, int]:
        """Where the values, the bins, the missing indicators and the cycles end."""
        values = self.n_numeric - self.first_value
        bins = values + len(self.bin_source)
        missing = bins + len(self.missing)
        return values, bins, missing, missing + sum(block.n_inputs for block in self.cycles)

    def expand(self, numeric: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inputs in NumPy.

        `numeric`: (n, n_numeric), float32. NaN is missing.
        `codes`: (n, n_codes), int32.
        Returns: (n, input_dim), float32. C-contiguous, finite.
        """
        n_rows = len(numeric)
        out = np.zeros((n_rows, self.input_dim), dtype=np.float32)
        # Blocks keep the intermediate results within the cache and the memory bounded.
        for start in range(0, n_rows, _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            self._expand_block(numeric[rows], codes[rows], out[rows])
        return out

    def _expand_block(
        self, numeric: NDArray[np.float32], codes: NDArray[np.int32], out: NDArray[np.float32]
    ) -> None:
        """The network inputs of a block of encoded rows."""
        missing = np.isnan(numeric)
        filled = np.where(missing, np.float32(0.0), numeric)
        stop = self.stops[2]
        self.expand_numbers(filled.T, missing.T, out[:, :stop].T)
        for block in self.cycles:
            start, stop = stop, stop + block.n_inputs
            found = block.table[codes[:, block.start : block.stop]]
            out[:, start:stop] = found.reshape(len(out), -1)
        if self.n_categories:
            index = np.maximum(codes[:, : self.n_categories], self.level_floor) + self.level_start
            index += np.arange(0, out.size, self.input_dim)[:, None]
            out.reshape(-1)[index] = 1.0

    def expand_numbers(
        self, filled: NDArray[np.float32], missing: NDArray[np.bool_], out: NDArray[np.float32]
    ) -> None:
        """The inputs that come from numbers: values, bins and missing indicators.

        `filled`: (n_numeric, n), float32; zero where a value is missing.
        `missing`: (n_numeric, n), bool.
        `out`: (stops[2], n), float32. Filled. Like the others it has a row for each input:
            operations are fastest where these lie one behind the other in memory.
        """
        values, bins, missing_stop, _ = self.stops
        encoded = self.n_encoded
        out[:values] = filled[self.first_value :]
        if self.smooth and self.keep_value and encoded:
            clipped = filled[:encoded]
            root = clipped * np.float32(THIRD)
            root *= root
            root += np.float32(1.0)
            np.sqrt(root, out=root)
            np.divide(clipped, root, out=out[:encoded])
        if bins > values:
            part = out[values:bins]
            # 1 / width can be so large that a far value overflows: to infinity, which clips to 1.
            with np.errstate(over="ignore"):
                np.subtract(filled[self.bin_source], self.bin_left[:, None], out=part)
                part *= self.bin_inverse[:, None]
            # By scalars `clip` is several times as fast as maximum and minimum.
            np.clip(part, np.float32(0.0), np.float32(1.0), out=part)
        if missing_stop > bins:
            out[bins:missing_stop] = missing[self.missing]

    def torch_expander(self, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
        """The same in torch, its tables on `device`: see `TableEncoder.torch_expander`."""
        import torch

        def put(array: NDArray[Any]) -> Tensor:
            # A copy: arrays read from a file may be read-only, which torch warns about.
            return torch.from_numpy(np.array(array)).to(device)

        values, bins, missing_stop, _ = self.stops
        first, encoded = self.first_value, self.n_encoded
        bin_source, bin_left = put(self.bin_source), put(self.bin_left)
        bin_inverse = put(self.bin_inverse)
        missing_columns = put(self.missing)
        level_start, level_floor = put(self.level_start), put(self.level_floor)
        tables = [put(block.table) for block in self.cycles]

        def expand(numeric: Tensor, codes: Tensor) -> Tensor:
            n_rows = len(numeric)
            out = torch.zeros((n_rows, self.input_dim), dtype=torch.float32, device=numeric.device)
            missing = numeric.isnan()
            filled = numeric.masked_fill(missing, 0.0)
            out[:, :values] = filled[:, first:]
            if self.smooth and self.keep_value and encoded:
                clipped = filled[:, :encoded]
                root = clipped * THIRD
                root.mul_(root).add_(1.0)
                # torch's float32 square root is not correctly rounded; by way of float64 it is.
                out[:, :encoded] = clipped / root.double().sqrt_().float()
            if bins > values:
                part = filled.index_select(1, bin_source)
                part.sub_(bin_left).mul_(bin_inverse).clamp_(0.0, 1.0)
                out[:, values:bins] = part
            if missing_stop > bins:
                out[:, bins:missing_stop] = missing.index_select(1, missing_columns)
            stop = missing_stop
            for block, table in zip(self.cycles, tables, strict=True):
                start, stop = stop, stop + block.n_inputs
                rows = codes[:, block.start : block.stop].long()
                out[:, start:stop] = table[rows].view(n_rows, -1)
            if self.n_categories:
                index = torch.maximum(codes[:, : self.n_categories], level_floor) + level_start
                out.scatter_(1, index, 1.0)
            return out

        return expand
