"""Rows of a table as compiled steps read them: `RowTable`.

Most inputs of an encoded row are known: in a binned column all bins below that of the row are 1
and all above it 0; of a category's levels one is 1. The first layer then adds a few rows of its
weight, and of its sums over the bins below, where a product would multiply by all of them.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.layout import Layout
from tabwright.training.engine.compiled_kernels import check_memory
from tabwright.training.engine.dropout import drop_below, element_hashes

# A bin below that of the row is taken for 1: rounded edges must not make it less than this.
_ONE = 1.0 - 1e-5
_CPU = torch.device("cpu")


class TableStruct(ctypes.Structure):
    """`table` of `kernels.c`."""

    _fields_ = (
        ("n_dense", ctypes.c_int64),
        ("dense", ctypes.c_void_p),
        ("n_ranges", ctypes.c_int64),
        ("ranges", ctypes.c_void_p),
        ("n_binned", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("bins", "shares", "bin_bounds")),
        ("n_flags", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("flags", "flag_bounds", "unknown", "elements")),
        ("hide_below", ctypes.c_int64),
    )


class RowTable:
    """Encoded rows in float32 on a CPU.

    `dense`: (n_rows, n_dense), float32; inputs that are multiplied as they are.
    `ranges`: (n_ranges, 2), int64; first input and number of every run of dense inputs.
    `bins`, `shares`: (n_rows, n_binned), int32 and float32; the input of the bin that a row's value
        lies in, and the value of that input. Inputs of the column's bins below are 1, those above
        are 0.
    `bin_bounds`: (n_binned, 2), int64; first input of each binned column, and the one after its
        last.
    `flags`: (n_rows, n_flags), int32; the one input of a column that is 1; -1: none is.
    `flag_bounds`: (n_flags, 2), int64; as `bin_bounds`.
    `unknown`: (n_flags,), int32; the input that stands for a level that is hidden; -1: nothing is
        in this column.
    `hide_rate`: share of the levels that are hidden in a batch.
    """

    def __init__(
        self,
        dense: Tensor,
        ranges: Tensor,
        bins: Tensor,
        shares: Tensor,
        bin_bounds: Tensor,
        flags: Tensor,
        flag_bounds: Tensor,
        unknown: Tensor,
        hide_rate: float = 0.0,
    ) -> None:
        n_rows = len(dense)
        check_memory(dense, (n_rows, int(ranges[:, 1].sum())))
        check_memory(ranges, (len(ranges), 2), torch.int64)
        check_memory(bins, (n_rows, len(bin_bounds)), torch.int32)
        check_memory(shares, bins.shape)
        check_memory(bin_bounds, (len(bin_bounds), 2), torch.int64)
        check_memory(flags, (n_rows, len(flag_bounds)), torch.int32)
        check_memory(flag_bounds, (len(flag_bounds), 2), torch.int64)
        check_memory(unknown, (len(flag_bounds),), torch.int32)
        for places, bounds, least in ((bins, bin_bounds, None), (flags, flag_bounds, -1)):
            low, high = bounds.to(torch.int32).unbind(1)
            inside = (places >= low) & (places < high)
            if not bool((inside if least is None else inside | (places == least)).all()):
                raise ValueError("bins and flags must lie within the bounds of their columns")
        every = (ranges.cumsum(1), bin_bounds, flag_bounds)
        stops = [int(pair[:, 1].max()) for pair in every if len(pair)]
        self.input_dim = max(stops, default=0)
        self.n_rows, self.n_dense = dense.shape
        self.n_binned, self.n_flags = len(bin_bounds), len(flag_bounds)
        self._alive = (dense, ranges, bins, shares, bin_bounds, flags, flag_bounds, unknown)
        self._hide_below = drop_below(hide_rate)
        self.hides = hide_rate > 0 and bool((unknown >= 0).any())

    @classmethod
    def dense(cls, x: Tensor) -> RowTable:
        """Rows whose inputs are all multiplied, of shape (n_rows, input_dim)."""
        pairs, none = torch.empty(0, 2, dtype=torch.int64), torch.empty(len(x), 0, dtype=x.dtype)
        return cls(
            x,
            torch.tensor([[0, x.shape[1]]]),
            none.to(torch.int32),
            none,
            pairs,
            none.to(torch.int32),
            pairs,
            torch.empty(0, dtype=torch.int32),
        )

    @classmethod
    def encoded(cls, encoder: TableEncoder, compact: Compact, hide_rate: float) -> RowTable | None:
        """Rows of a table; None where rounded edges of its bins say too little.

        `hide_rate`: share of the known category levels that are shown as "unknown" in a batch.
        """
        layout = encoder.layout
        values, bins_stop, missing_stop, cycles_stop = layout.stops
        binned = _binned_columns(layout)
        if binned is None:
            return None
        missing = np.isnan(compact.numeric)
        filled = np.where(missing, np.float32(0.0), compact.numeric)
        bins = np.empty((len(filled), len(binned)), dtype=np.int32)
        shares = np.empty(bins.shape, dtype=np.float32)
        for i, (column, first, stop) in enumerate(binned):
            left = layout.bin_left[first:stop]
            place = np.searchsorted(left, filled[:, column], side="right").clip(1) - 1 + first
            bins[:, i] = place + values
            with np.errstate(over="ignore"):
                share = (filled[:, column] - layout.bin_left[place]) * layout.bin_inverse[place]
            np.clip(share, np.float32(0.0), np.float32(1.0), out=shares[:, i])
        alone = replace(
            layout,
            bin_source=layout.bin_source[:0],
            missing=layout.missing[:0],
            n_categories=0,
            level_floor=layout.level_floor[:0],
            level_start=layout.level_start[:0],
            input_dim=values + cycles_stop - missing_stop,
        )
        indicators = np.where(missing[:, layout.missing], np.arange(bins_stop, missing_stop), -1)
        codes = np.maximum(compact.codes[:, : layout.n_categories], layout.level_floor)
        first_levels = layout.level_start + layout.level_floor
        last_levels = np.append(first_levels[1:], layout.input_dim)[: layout.n_categories]
        unknown = np.where(
            encoder.hidable_[: layout.n_categories],
            TableEncoder.unknown_code + layout.level_start,
            -1,
        )
        return cls(
            _tensor(alone.expand(compact.numeric, compact.codes), np.float32),
            _tensor([r for r in ((0, values), (missing_stop, cycles_stop - missing_stop)) if r[1]]),
            _tensor(bins, np.int32),
            _tensor(shares, np.float32),
            _tensor([(first + values, stop + values) for _, first, stop in binned]),
            _tensor(np.concatenate([indicators, codes + layout.level_start], axis=1), np.int32),
            _tensor(
                [
                    *((i, i + 1) for i in range(bins_stop, missing_stop)),
                    *zip(first_levels, last_levels, strict=True),
                ]
            ),
            _tensor(np.concatenate([np.full(len(layout.missing), -1), unknown]), np.int32),
            hide_rate,
        )

    def struct(self, batch: int) -> TableStruct:
        """For batches of so many rows."""
        elements = None
        if self.hides:
            elements = element_hashes(batch, self.n_flags, _CPU)
        dense, ranges, bins, shares, bin_bounds, flags, flag_bounds, unknown = self._alive
        made = TableStruct(
            self.n_dense,
            dense.data_ptr(),
            len(ranges),
            ranges.data_ptr(),
            self.n_binned,
            *(tensor.data_ptr() for tensor in (bins, shares, bin_bounds)),
            self.n_flags,
            *(tensor.data_ptr() for tensor in (flags, flag_bounds, unknown)),
            None if elements is None else elements.data_ptr(),
            self._hide_below,
        )
        # The struct knows addresses only.
        made.alive = (self, elements)
        return made


def _tensor(values: object, dtype: type = np.int64) -> Tensor:
    array: NDArray[np.generic] = np.ascontiguousarray(values, dtype=dtype)
    return torch.from_numpy(array.reshape(-1, 2) if dtype is np.int64 else array)


def _binned_columns(layout: Layout) -> list[tuple[int, int, int]] | None:
    """Numeric column, first and last bin of every column with bins.

    None if a value in one bin may leave those below it under 1, by rounded edges.
    """
    if not len(layout.bin_source):
        return []
    starts = np.flatnonzero(np.diff(layout.bin_source, prepend=-1))
    stops = np.append(starts[1:], len(layout.bin_source))
    with np.errstate(over="ignore"):
        reached = np.diff(layout.bin_left) * layout.bin_inverse[:-1]
    is_inside = np.diff(layout.bin_source) == 0
    if not (reached[is_inside] >= _ONE).all():
        return None
    columns = layout.bin_source[starts]
    return [(int(c), int(a), int(b)) for c, a, b in zip(columns, starts, stops, strict=True)]
