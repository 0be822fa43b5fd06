"""The first layer of a network straight from the compact form, without its inputs.

Most inputs that an encoder makes of a row are zeros and ones that follow from a few codes and
bins. What they add to the first layer can be looked up: one row of a table per code, and for a
number the line between what its bin's two edges give. `FirstLayer` holds these tables. One row is
then a small product, and many rows a product of the numbers' inputs alone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.layout import Layout

__all__ = ["BlockWorkspace", "FirstLayer", "RowWorkspace"]

# A table of the codes of several columns together: what it may hold, and all of them.
_JOINT_FLOATS = 2**18
_ALL_JOINT_FLOATS = 2**22

Float32 = NDArray[np.float32]


class _Codes(NamedTuple):
    """Code columns that are looked up together: row `sum(code * stride)` of the table."""

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    table: Float32  # (product of the columns' codes, width)


class _Bins(NamedTuple):
    """A numeric column with bins, for one row."""

    column: int
    inner: list[float]  # the edges between its bins
    left: list[float]
    inverse: list[float]
    knots: int  # row of the first edge among the row tables


class BlockWorkspace:
    """What a block of `n_rows` rows needs beside its output."""

    def __init__(self, layer: FirstLayer, n_rows: int) -> None:
        layout = layer.layout
        self.numeric: Float32 = np.empty((layout.n_numeric, n_rows), dtype=np.float32)
        self.missing: NDArray[np.bool_] = np.empty((layout.n_numeric, n_rows), dtype=bool)
        # Inputs first: an operation on one of them then runs along a whole row.
        self.inputs: Float32 = np.ones((layout.stops[3] + 1, n_rows), dtype=np.float32)
        self.found: Float32 = np.empty((n_rows, layer.width), dtype=np.float32)


class RowWorkspace:
    """What one row needs: a weight for each row of `terms`, whose product is the output."""

    def __init__(self, layer: FirstLayer) -> None:
        n_fixed = len(layer.fixed)
        self.terms: Float32 = np.empty((n_fixed + layer.n_looked_up, layer.width), np.float32)
        self.terms[:n_fixed] = layer.fixed
        self.looked_up = self.terms[n_fixed:]
        self.weights: Float32 = np.empty(len(self.terms), dtype=np.float32)


class FirstLayer:
    """The first linear layer of all members, by tables.

    Parameters
    ----------
    layout : Layout
        Where the layer's inputs come from.
    weight : ndarray of shape (input_dim, width), float32
    bias : ndarray of shape (width,), float32

    Notes
    -----
    Equal to ``layout.expand(numeric, codes) @ weight + bias`` but for rounding. Tables are summed
    in float64 and kept in float32; a sum past float32 stays infinite, so that it shows.
    """

    def __init__(self, layout: Layout, weight: Float32, bias: Float32) -> None:
        self.layout = layout
        values, bins, _, cycles = layout.stops
        self._dense: Float32 = np.concatenate([weight[:cycles], bias[None]])
        self._tables = tables = _code_tables(layout, weight)
        # Of one row: what has a weight each; the rest is looked up.
        self.fixed: Float32 = np.concatenate([bias[None], weight[:values], weight[bins:cycles]])
        knots, self._bins = _knots(layout, weight)
        self._table: Float32 = np.concatenate([knots, *tables])
        sizes = np.array([len(knots), *(len(table) for table in tables)])
        self._starts: list[int] = np.cumsum(sizes)[:-1].tolist()
        self.n_looked_up = 2 * len(self._bins) + len(tables)
        self._indicators: list[int] = layout.missing.tolist()
        self._cycles = [(block.start, block.stop, block.table.tolist()) for block in layout.cycles]
        self._n_smooth = layout.n_encoded if layout.smooth and layout.keep_value else 0

    @cached_property
    def _codes(self) -> tuple[_Codes, ...]:
        # Joined when the first block of rows comes: one row needs none of them.
        return _joined(self._tables)

    @property
    def width(self) -> int:
        """Outputs of a row."""
        return int(self.fixed.shape[1])

    def block_workspace(self, n_rows: int) -> BlockWorkspace:
        """What `block` needs for so many rows; for one thread at a time."""
        return BlockWorkspace(self, n_rows)

    def row_workspace(self) -> RowWorkspace:
        """What `row` needs; for one thread at a time."""
        return RowWorkspace(self)

    def block(
        self, numeric: Float32, codes: NDArray[np.int32], out: Float32, work: BlockWorkspace
    ) -> None:
        """The layer's outputs for a block of rows.

        Parameters
        ----------
        numeric : ndarray of shape (n, n_numeric), float32
            NaN is missing.
        codes : ndarray of shape (n, n_codes), int32
        out : ndarray of shape (n, width), float32
            Filled.
        work : from `block_workspace(n)`
        """
        np.copyto(work.numeric, numeric.T)
        np.isnan(work.numeric, out=work.missing)
        np.copyto(work.numeric, np.float32(0.0), where=work.missing)
        stop = self.layout.stops[2]
        self.layout.expand_numbers(work.numeric, work.missing, work.inputs[:stop])
        for block in self.layout.cycles:
            found = block.table[codes[:, block.start : block.stop]]
            start, stop = stop, stop + block.n_inputs
            work.inputs[start:stop] = found.reshape(len(found), -1).T
        np.dot(work.inputs.T, self._dense, out=out)
        for group in self._codes:
            index = codes[:, group.columns[0]] * np.intp(group.strides[0])
            for column, stride in zip(group.columns[1:], group.strides[1:], strict=True):
                index += codes[:, column] * np.intp(stride)
            group.table.take(index, axis=0, out=work.found, mode="clip")
            np.add(out, work.found, out=out)

    def row(
        self, numeric: Sequence[float], codes: Sequence[int], out: Float32, work: RowWorkspace
    ) -> None:
        """The layer's outputs for one row.

        Parameters
        ----------
        numeric : sequence of n_numeric floats
            Values that a float32 holds exactly, as those of the compact form; NaN is missing.
        codes : sequence of n_codes ints
        out : ndarray of shape (width,), float32
            Filled.
        work : from `row_workspace()`
        """
        filled = [value if value == value else 0.0 for value in numeric]
        n_smooth, first = self._n_smooth, self.layout.first_value
        weights = [1.0]
        weights += [v / math.sqrt(1.0 + v * v / 9.0) for v in filled[:n_smooth]]
        weights += filled[max(first, n_smooth) :]
        for column in self._indicators:
            weights.append(0.0 if numeric[column] == numeric[column] else 1.0)
        for start, stop, table in self._cycles:
            for code in codes[start:stop]:
                weights += table[code]
        rows: list[int] = []
        for column, inner, left, inverse, knots in self._bins:
            value = filled[column]
            place = bisect_right(inner, value)
            share = (value - left[place]) * inverse[place]
            share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share
            weights += (1.0 - share, share)
            place += knots
            rows += (place, place + 1)
        for start, code in zip(self._starts, codes, strict=False):
            rows.append(start + code)
            weights.append(1.0)
        if rows:
            self._table.take(rows, axis=0, out=work.looked_up, mode="clip")
        work.weights[:] = weights
        np.dot(work.weights, work.terms, out=out)


def _code_tables(layout: Layout, weight: Float32) -> list[Float32]:
    """What each code of each category column adds to the layer, (n_codes, width) each."""
    ends = [*layout.level_start[1:].tolist(), layout.input_dim]
    tables = []
    for j, (start, floor) in enumerate(
        zip(layout.level_start.tolist(), layout.level_floor.tolist(), strict=True)
    ):
        # `start` is where code 0 is, or would be.
        end = ends[j] + (layout.level_floor[j + 1] if j + 1 < len(ends) else 0)
        codes = np.maximum(np.arange(end - start), floor) + start
        tables.append(weight[codes])
    return tables


def _knots(layout: Layout, weight: Float32) -> tuple[Float32, list[_Bins]]:
    """What the bins of each column add to the layer at each of its edges, one below another."""
    values, stop, _, _ = layout.stops
    bins: list[_Bins] = []
    if stop == values:
        return np.empty((0, weight.shape[1]), dtype=np.float32), bins
    sums: list[NDArray[np.float64]] = []
    columns, starts = np.unique(layout.bin_source, return_index=True)
    ends = [*starts[1:].tolist(), len(layout.bin_source)]
    at = 0
    for column, start, end in zip(columns.tolist(), starts.tolist(), ends, strict=True):
        left = layout.bin_left[start:end].tolist()
        inverse = layout.bin_inverse[start:end].tolist()
        bins.append(_Bins(column, left[1:], left, inverse, at))
        part = weight[values + start : values + end].astype(np.float64)
        sums.append(np.concatenate([np.zeros((1, part.shape[1])), np.cumsum(part, axis=0)]))
        at += end - start + 1
    return _as_float32(np.concatenate(sums)), bins


def _joined(tables: Sequence[Float32]) -> tuple[_Codes, ...]:
    """The tables of the code columns, those of few codes put together."""
    groups: list[_Codes] = []
    left = _ALL_JOINT_FLOATS
    for column in sorted(range(len(tables)), key=lambda j: len(tables[j])):
        table = tables[column]
        joint = 0
        if groups:
            last = groups[-1]
            joint = len(last.table) * table.size
        if groups and joint <= min(_JOINT_FLOATS, left):
            left -= joint
            sums = last.table.astype(np.float64)[None] + table[:, None]
            groups[-1] = _Codes(
                (*last.columns, column),
                (*last.strides, len(last.table)),
                _as_float32(sums.reshape(-1, table.shape[1])),
            )
        else:
            groups.append(_Codes((column,), (1,), table))
    return tuple(groups)


def _as_float32(array: NDArray[Any]) -> Float32:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)
