"""The first layer of a network straight from the compact form, without its inputs.

Most inputs that an encoder makes of a row are zeros and ones that follow from a few codes. What
they add to the first layer can be looked up: one row of a table per code. `FirstLayer` holds these
tables, and a block of rows is then a product of the numbers' inputs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.layout import Layout
from tabwright.inference.row_products import RowProduct

# A table of the codes of several columns together: what it may hold, and all of them.
_JOINT_FLOATS = 2**18
_ALL_JOINT_FLOATS = 2**22

# Rows whose tables are added at once: what they found is still in the cache, and on few pages,
# when it is turned round.
_STRIP = 64
# Floats behind each of their rows: of rows a power of two apart few stay in a cache.
_PAD = 16

Float32 = NDArray[np.float32]


class Codes(NamedTuple):
    """Code columns that are looked up together: row `sum(code * stride)` of the table."""

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    table: Float32  # (product of the columns' codes, width)


class BlockWorkspace:
    """What a block needs beside its output: `n_places` for rows, those before `start` empty.

    It serves one thread at a time.
    """

    def __init__(self, layer: FirstLayer, n_places: int, start: int = 0) -> None:
        layout = layer.layout
        self.start = start
        # Places without a row hold zeros, or rows of an earlier block.
        self.numeric: Float32 = np.zeros((layout.n_numeric, n_places), dtype=np.float32)
        self.missing: NDArray[np.bool_] = np.empty((layout.n_numeric, n_places), dtype=bool)
        self.inputs: Float32 = np.ones((layout.stops[3] + 1, n_places), dtype=np.float32)
        self.codes: NDArray[np.int32] = np.zeros((n_places, layer.n_codes), dtype=np.int32)
        n_rows, width = min(n_places, _STRIP), layer.width
        self.found: Float32 = np.empty((n_rows, width), dtype=np.float32)
        self.added: Float32 = np.empty((n_rows, width + _PAD), dtype=np.float32)[:, :width]


class FirstLayer:
    """The first linear layer of all members, by tables.

    Equal to ``layout.expand(numeric, codes) @ weight + bias`` but for rounding. Tables are summed
    in float64 and kept in float32; a sum past float32 stays infinite, so that it shows.

    `weight`: (input_dim, width), float32.
    `bias`: (width,), float32.
    """

    def __init__(self, layout: Layout, weight: Float32, bias: Float32) -> None:
        self.layout = layout
        self.width = len(bias)
        self.numbers = RowProduct(np.concatenate([weight[: layout.stops[3]], bias[None]]))
        self._tables = _code_tables(layout, weight)
        self.n_codes = max([layout.n_categories, *(block.stop for block in layout.cycles)])

    @cached_property
    def codes(self) -> tuple[Codes, ...]:
        """The tables, those of few codes put together."""
        return _joined(self._tables)

    def block(
        self, numeric: Float32, codes: NDArray[np.int32], out: Float32, work: BlockWorkspace
    ) -> None:
        """The layer's outputs for a block of rows.

        `numeric`: (n, n_numeric), float32; NaN is missing.
        `codes`: (n, n_codes), int32.
        `out`: (width, n_places), float32; row i of the block goes to place `start + i`.
        """
        rows = slice(work.start, work.start + len(numeric))
        np.copyto(work.numeric[:, rows], numeric.T)
        work.codes[rows] = codes
        np.isnan(work.numeric, out=work.missing)
        np.copyto(work.numeric, np.float32(0.0), where=work.missing)
        stop = self.layout.stops[2]
        self.layout.expand_numbers(work.numeric, work.missing, work.inputs[:stop])
        for block in self.layout.cycles:
            found = block.table[work.codes[:, block.start : block.stop]]
            start, stop = stop, stop + block.n_inputs
            work.inputs[start:stop] = found.reshape(len(found), -1).T
        self.numbers(work.inputs, out)
        for start in range(rows.start, rows.stop if self.codes else rows.start, _STRIP):
            self._add_tables(slice(start, min(start + _STRIP, rows.stop)), out, work)

    def _add_tables(self, rows: slice, out: Float32, work: BlockWorkspace) -> None:
        """Add what the codes of some rows look up."""
        n_rows = rows.stop - rows.start
        added, found = work.added[:n_rows], work.found[:n_rows]
        for i, group in enumerate(self.codes):
            index = work.codes[rows, group.columns[0]] * np.intp(group.strides[0])
            for column, stride in zip(group.columns[1:], group.strides[1:], strict=True):
                index += work.codes[rows, column] * np.intp(stride)
            group.table.take(index, axis=0, out=found, mode="clip")
            if i:
                np.add(added, found, out=added)
            else:
                np.copyto(added, found)
        np.add(out[:, rows], added.T, out=out[:, rows])


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


def _joined(tables: Sequence[Float32]) -> tuple[Codes, ...]:
    """The tables of the code columns, those of few codes put together."""
    groups: list[Codes] = []
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
            groups[-1] = Codes(
                (*last.columns, column),
                (*last.strides, len(last.table)),
                _as_float32(sums.reshape(-1, table.shape[1])),
            )
        else:
            groups.append(Codes((column,), (1,), table))
    return tuple(groups)


def _as_float32(array: NDArray[Any]) -> Float32:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)
