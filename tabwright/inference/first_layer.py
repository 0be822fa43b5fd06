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

__all__ = ["BlockWorkspace", "FirstLayer"]

# A table of the codes of several columns together: what it may hold, and all of them.
_JOINT_FLOATS = 2**18
_ALL_JOINT_FLOATS = 2**22

Float32 = NDArray[np.float32]


class _Codes(NamedTuple):
    """Code columns that are looked up together: row `sum(code * stride)` of the table."""

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    table: Float32  # (product of the columns' codes, width)


class BlockWorkspace:
    """What a block of `n_rows` rows needs beside its output."""

    def __init__(self, layer: FirstLayer, n_rows: int) -> None:
        layout = layer.layout
        # Rows that only fill a block up hold zeros, or those of an earlier block.
        self.numeric: Float32 = np.zeros((layout.n_numeric, n_rows), dtype=np.float32)
        self.missing: NDArray[np.bool_] = np.empty((layout.n_numeric, n_rows), dtype=bool)
        # Inputs first: an operation on one of them then runs along a whole row.
        self.inputs: Float32 = np.ones((layout.stops[3] + 1, n_rows), dtype=np.float32)
        self.codes: NDArray[np.int32] = np.zeros((n_rows, layer.n_codes), dtype=np.int32)
        self.found: Float32 = np.empty((n_rows, layer.width), dtype=np.float32)


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
        self._dense: Float32 = np.concatenate([weight[: layout.stops[3]], bias[None]])
        self._tables = _code_tables(layout, weight)
        self.n_codes = max([layout.n_categories, *(block.stop for block in layout.cycles)])

    @cached_property
    def _codes(self) -> tuple[_Codes, ...]:
        return _joined(self._tables)

    @property
    def width(self) -> int:
        """Outputs of a row."""
        return int(self._dense.shape[1])

    def block_workspace(self, n_rows: int) -> BlockWorkspace:
        """What `block` needs for so many rows; for one thread at a time."""
        return BlockWorkspace(self, n_rows)

    def block(
        self, numeric: Float32, codes: NDArray[np.int32], out: Float32, work: BlockWorkspace
    ) -> None:
        """The layer's outputs for a block of rows.

        Parameters
        ----------
        numeric : ndarray of shape (n, n_numeric), float32
            NaN is missing.
        codes : ndarray of shape (n, n_codes), int32
        out : ndarray of shape (n_rows, width), float32
            The first n rows are filled.
        work : from `block_workspace(n_rows)`, n_rows >= n
        """
        n_rows = len(numeric)
        np.copyto(work.numeric[:, :n_rows], numeric.T)
        work.codes[:n_rows] = codes
        np.isnan(work.numeric, out=work.missing)
        np.copyto(work.numeric, np.float32(0.0), where=work.missing)
        stop = self.layout.stops[2]
        self.layout.expand_numbers(work.numeric, work.missing, work.inputs[:stop])
        for block in self.layout.cycles:
            found = block.table[work.codes[:, block.start : block.stop]]
            start, stop = stop, stop + block.n_inputs
            work.inputs[start:stop] = found.reshape(len(found), -1).T
        np.dot(work.inputs.T, self._dense, out=out)
        for group in self._codes:
            index = work.codes[:, group.columns[0]] * np.intp(group.strides[0])
            for column, stride in zip(group.columns[1:], group.strides[1:], strict=True):
                index += work.codes[:, column] * np.intp(stride)
            group.table.take(index, axis=0, out=work.found, mode="clip")
            np.add(out, work.found, out=out)


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
