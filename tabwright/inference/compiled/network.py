"""Networks of one architecture as `network_scores` of `kernels.c` takes them.

Its products are fused multiplications and additions in a fixed order, row by row in lanes of a
vector: no BLAS, and no row's outputs hang on its place or on the rows beside it.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.layout import Layout
from tabwright.inference.compiled.functions import (
    address,
    c_struct,
    compiled_function,
    instruction_sets,
)
from tabwright.inference.first_layer import Codes
from tabwright.inference.folding import Layers

# Of kernels.c: units of a panel, rows of a chunk, the most rows of a strip.
_PANEL, _CHUNK, _STRIP = 8, 256, 32
_I, _F = np.int64, np.float32
_KINDS: tuple[type, ...] = (
    *(int, int, int, int, _I, _I, _I, _F),
    *(int, int, int, int, int, int, int, int, int, _I, _F, _F, _I),
    *(_I, _I, _I, _I),
    *(int, int, _I, _I, _I, _I, _I),
)

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]


@functools.cache
def can_run_networks() -> bool:
    """Whether the extension is there, and this processor multiplies and adds in one instruction."""
    sets = instruction_sets()
    return bool(sets) and "network_scores" in list(sets.values())[-1]


class CompiledNetwork:
    """The outputs of K networks, in C.

    `layers`: of the members; the first with the inputs that come from numbers alone.
    `layout`: how rows become inputs; None: the rows are inputs.
    `tables`: what codes add to the first layer.
    """

    def __init__(
        self,
        layers: Layers,
        n_members: int,
        residual: bool,
        layout: Layout | None = None,
        tables: tuple[Codes, ...] = (),
    ) -> None:
        first, hidden, head = layers
        weights = [first, *hidden, *(() if head is None else (head,))]
        parts, sizes = [], []
        for layer in weights:
            weight = layer.weight
            # The first layer of all members is one matrix.
            if layer is first:
                weight = weight.reshape(len(weight), n_members, weight.shape[1] // n_members)
                weight = weight.swapaxes(0, 1)
            weight = weight.reshape(n_members, *weight.shape[-2:])
            sizes.append(weight.shape[1:])
            parts.append(_in_panels(weight, layer.bias.reshape(n_members, -1)))
        lengths = [part.shape[1] for part in parts]
        begins = np.cumsum([0, *lengths[:-1]])
        self.n_members, self.n_outputs = n_members, sizes[-1][1]
        self.n_numeric = sizes[0][0] if layout is None else layout.n_numeric
        cycles = () if layout is None else layout.cycles
        columns = [(j, block.table) for block in cycles for j in range(block.start, block.stop)]
        self._n_codes = 0
        if layout is not None:
            self._n_codes = max([layout.n_categories, *(block.stop for block in cycles)])
        width = max(-(-units // _PANEL) * _PANEL for _, units in sizes)
        self._n_work = sizes[0][0] * _CHUNK + (self.n_numeric + 4 * width) * _STRIP + width + 32
        # Arrays whose addresses are handed on.
        self._tables = [np.ascontiguousarray(table, _F) for _, table in columns]
        groups = [np.ascontiguousarray(group.table, _F) for group in tables]
        values: list[int | NDArray[Any]] = [
            n_members,
            len(sizes),
            int(residual),
            width,
            _integers(n_inputs for n_inputs, _ in sizes),
            _integers(n_units for _, n_units in sizes),
            np.add.outer(np.arange(n_members) * sum(lengths), begins),
            np.concatenate(parts, axis=1),
            self.n_numeric,
            self._n_codes,
            0 if layout is None else layout.n_encoded,
            0 if layout is None else layout.first_value,
            0 if layout is None else int(layout.smooth and layout.keep_value),
            int(layout is not None),
            0 if layout is None else len(layout.bin_source),
            0 if layout is None else len(layout.missing),
            len(columns),
            _integers(()) if layout is None else layout.bin_source,
            np.empty(0) if layout is None else layout.bin_left,
            np.empty(0) if layout is None else layout.bin_inverse,
            _integers(()) if layout is None else layout.missing,
            _integers(j for j, _ in columns),
            _integers(map(address, self._tables)),
            _integers(len(table) for table in self._tables),
            _integers(table.shape[1] for table in self._tables),
            len(groups),
            groups[0].shape[1] // n_members if groups else 0,
            np.cumsum([0, *(len(group.columns) for group in tables)]),
            _integers(column for group in tables for column in group.columns),
            _integers(stride for group in tables for stride in group.strides),
            _integers(map(address, groups)),
            _integers(map(len, groups)),
        ]
        self._tables += groups
        self._network, self._arrays = c_struct(_KINDS, values)
        self._address = ctypes.addressof(self._network)
        self._scores = compiled_function("network_scores")

    def fill(self, numeric: Float32, codes: NDArray[np.int32], scores: FloatArray) -> None:
        """Fill `scores` (n_outputs, n_members, n) from rows.

        `numeric`: (n, n_numeric), float32.
        `codes`: (n, n_codes), int32; of no columns where rows are inputs.
        """
        n_rows = len(numeric)
        shapes = (n_rows, self.n_numeric), (n_rows, self._n_codes)
        if (numeric.shape, codes.shape) != shapes or scores.shape[:2] != (
            self.n_outputs,
            self.n_members,
        ):
            raise ValueError(
                f"numbers and codes must have shapes {shapes}; got {numeric.shape} and "
                f"{codes.shape}"
            )
        # Nobody looks behind an address any more.
        numeric = np.ascontiguousarray(numeric, dtype=np.float32)
        codes = np.ascontiguousarray(codes, dtype=np.int32)
        work = np.empty(self._n_work, dtype=np.float32)
        self._scores(
            self._address,
            n_rows,
            address(numeric),
            address(codes),
            address(work),
            address(scores),
            scores.shape[2],
        )


def _integers(values: Any) -> NDArray[np.int64]:
    return np.fromiter(values, dtype=np.int64)


def _in_panels(weight: Float32, bias: Float32) -> Float32:
    """Weights (K, in, out) and biases of a layer, one row a member, as `network` has them."""
    pad = -weight.shape[2] % _PANEL
    weight = np.pad(weight, [(0, 0), (0, 0), (0, pad)])
    panels = weight.reshape(*weight.shape[:2], weight.shape[2] // _PANEL, _PANEL).swapaxes(1, 2)
    return np.concatenate(
        [panels.reshape(len(weight), weight[0].size), np.pad(bias, [(0, 0), (0, pad)])], axis=1
    )
