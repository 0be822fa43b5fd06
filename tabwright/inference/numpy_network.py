"""The members' networks without torch: folded, stacked, preallocated.

`FoldedNetwork` runs what `models.py` trains, in blocks of rows; many blocks are shared out to
threads. It takes rows as network inputs, or encoded and not widened: then the first layer is
`inference/first_layer.py`'s. Blocks are computed in C (`inference/compiled/network.py`), or in
NumPy, over buffers that are kept from call to call, where the extension or the processor does not
allow that. `predictor.py` interprets the outputs.

A row's outputs do not depend on its place in a batch: `inference/row_products.py` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.encoder import Compact
from tabwright.encoding.layout import Layout
from tabwright.inference.blas_threads import for_each_block, one_blas_thread
from tabwright.inference.compiled.network import CompiledNetwork, can_run_networks
from tabwright.inference.first_layer import BlockWorkspace, FirstLayer
from tabwright.inference.folding import Affine, State, fold
from tabwright.inference.row_products import (
    MARGIN,
    MOST_ROWS,
    Dense,
    DenseLayers,
    block_sizes,
    smallest_block,
)

# Hidden activations of a block should stay in the second-level cache; a product of more rows is
# nearer to what the processor can do.
_BLOCK_FLOATS = 2**18
_LEAST_PLACES = 64
# Rows that a thread hands to C at once: those that go through one member's layers together there.
_COMPILED_ROWS = 256
# Up to so many rows an operation takes longer to begin a row of memory than to run along it.
_SHORT = 32

FloatArray = NDArray[np.float64]
# Takes rows, their scores (output_dim, n_members, n), and a buffer of shape (n_members, n).
_Take = Callable[[slice, FloatArray, FloatArray], None]


class _Buffer(NamedTuple):
    """Activations of shape (K width, n), and the same memory as (K, width, n)."""

    flat: NDArray[Any]
    stacked: NDArray[Any]


class _Workspace:
    """What one block of `n_rows` rows needs, with `margin` empty places before and behind them."""

    def __init__(
        self, network: FoldedNetwork, n_rows: int, margin: int, dtype: type = np.float32
    ) -> None:
        k, layers = network.n_members, network.dense
        self.n_places = n_places = n_rows + 2 * margin
        self.rows = slice(margin, margin + n_rows)

        def buffer(n_units: int) -> _Buffer:
            # Zeros: places without a row are computed too.
            flat: NDArray[Any] = np.zeros((n_units, n_places), dtype=dtype)
            return _Buffer(flat, flat if k == 1 else flat.reshape(k, -1, n_places))

        first, head = layers.first, layers.head
        self.hidden = tuple(buffer(len(first.bias)) for _ in range(network.n_buffers))
        self.out = buffer(len((head or first).bias))
        self.first = (*self.hidden, self.out)[0].flat
        self.biases = [
            self._broad(bias[:, None], dtype)
            for bias in (first.bias, *(layer.bias for layer in layers.hidden))
        ]
        self.head_bias = self._broad((head or first).bias[:, None], dtype)
        # With an array of zeros `maximum` is several times as fast as with the number.
        self.zeros = self._broad(np.zeros((1, n_places)), dtype)
        # Classes first: sums over them then run along long, contiguous rows.
        by_member = self.out.flat.reshape(k, -1, n_places)[:, : network.output_dim, self.rows]
        self.by_class = by_member.transpose(1, 0, 2)
        self.scores: FloatArray = np.empty((network.output_dim, k, n_rows))
        self.norm: FloatArray = np.empty((k, n_rows))
        self.inputs: NDArray[Any] | None = None
        self.block: BlockWorkspace | None = None

    def _broad(self, array: NDArray[Any], dtype: type) -> NDArray[Any]:
        """An operand for activations: of their own shape where their rows are short."""
        if self.n_places > _SHORT:
            return array.astype(dtype)
        n_units = array.shape[0] if array.shape[1] == 1 else len(self.first)
        return np.broadcast_to(array, (n_units, self.n_places)).astype(dtype)


@dataclass(frozen=True)
class _Inputs:
    """Rows as network inputs."""

    layer: Dense
    x: NDArray[Any]  # float32, or float64 where rows are computed again

    def __len__(self) -> int:
        return len(self.x)

    def fill(self, rows: slice, work: _Workspace) -> None:
        """Fill `work.first` with what the first layer makes of some rows."""
        if work.inputs is None:
            work.inputs = np.zeros((self.x.shape[1], work.n_places), dtype=work.first.dtype)
        n_rows, start = rows.stop - rows.start, work.rows.start
        work.inputs[:, start : start + n_rows] = self.x[rows].T
        self.layer.product(work.inputs, work.first)
        np.add(work.first, work.biases[0], out=work.first)

    def inputs(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        return self.x[index]

    def compact(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Rows as the network in C takes them: here as numbers, without codes."""
        part = self.x[rows]
        return part, np.empty((len(part), 0), dtype=np.int32)


@dataclass(frozen=True)
class _Encoded:
    """Rows in the compact form."""

    layer: FirstLayer
    rows: Compact

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, rows: slice, work: _Workspace) -> None:
        if work.block is None:
            work.block = BlockWorkspace(self.layer, work.n_places, work.rows.start)
        part = self.rows.take(rows)
        self.layer.block(part.numeric, part.codes, work.first, work.block)

    def inputs(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        part = self.rows.take(index)
        return self.layer.layout.expand(part.numeric, part.codes)

    def compact(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        part = self.rows.take(rows)
        return part.numeric, part.codes


class FoldedNetwork:
    """K networks of one architecture, ready to run.

    `members`: the `state_dict` of each member: an `MLP`, `TabResNet` or `LinearBaseline` of
        `models.py`, all of the same architecture and sizes.
    Raises `ValueError` if there is no member, the members are not of one such architecture, or the
        layout is of another number of inputs.
    """

    def __init__(self, members: Sequence[State], layout: Layout | None = None) -> None:
        if not members:
            raise ValueError("members must hold at least one network; got none")
        shapes = {name: value.shape for name, value in members[0].items()}
        for state in members[1:]:
            if {name: value.shape for name, value in state.items()} != shapes:
                raise ValueError("members must all be of one architecture and size; got several")
        self.n_members = len(members)
        self.residual = "input_projection.weight" in shapes
        try:
            self.layers = fold(members, self.residual)
        except KeyError as error:
            raise ValueError(
                "members must be MLP, TabResNet or LinearBaseline of models.py; "
                f"got a network without {error}"
            ) from None
        first, _, head = self.layers
        self.input_dim = int(first.weight.shape[0])
        if layout is not None and layout.input_dim != self.input_dim:
            raise ValueError(
                f"layout must be of {self.input_dim} inputs, as the members are; "
                f"got {layout.input_dim}"
            )
        self._layout = layout
        self.hidden_dim = 0 if head is None else len(first.bias) // self.n_members
        self.output_dim = len((head or first).bias) // self.n_members
        self.n_buffers = 0 if head is None else 3 if self.residual else 2
        self.block_rows = MOST_ROWS
        width = max(1, self.n_members * max(self.hidden_dim, self.output_dim))
        self.limit_block(_BLOCK_FLOATS // width)
        self._free: dict[int, list[_Workspace]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What these hold follows from the rest, or from the machine.
        left = ("_free", "_first_layer", "_smallest", "dense", "_on_inputs", "_on_encoded")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._free = {}

    @cached_property
    def _first_layer(self) -> FirstLayer:
        if self._layout is None:
            raise ValueError("encoded rows need the layout of the inputs; make the network with it")
        return FirstLayer(self._layout, self.dense.first.weight, self.dense.first.bias)

    @cached_property
    def _on_inputs(self) -> CompiledNetwork:
        return CompiledNetwork(self.layers, self.n_members, self.residual)

    @cached_property
    def _on_encoded(self) -> CompiledNetwork:
        first = self._first_layer
        weight = self.layers.first.weight[: first.layout.stops[3]]
        layers = self.layers._replace(first=Affine(weight, self.layers.first.bias))
        return CompiledNetwork(layers, self.n_members, self.residual, first.layout, first.codes)

    @cached_property
    def dense(self) -> DenseLayers:
        """The layers as blocks of rows run them."""
        return DenseLayers.of(self.layers, self.n_members)

    @cached_property
    def _smallest(self) -> int:
        """Places of the smallest block on this machine."""
        first, hidden, head = self.dense
        layers = (first, *hidden, *(() if head is None else (head,)))
        encoded = () if self._layout is None else (self._first_layer.numbers,)
        return smallest_block([*(layer.product for layer in layers), *encoded])

    def limit_block(self, n_rows: int) -> None:
        """Compute at most about so many rows at once."""
        places = max(_LEAST_PLACES, n_rows // _LEAST_PLACES * _LEAST_PLACES)
        self.block_rows = min(places - 2 * MARGIN, self.block_rows)

    def logits(self, rows: NDArray[np.float32] | Compact) -> FloatArray:
        """Every member's outputs.

        `rows`: (n, input_dim), float32; network inputs, or rows in the compact form.
        Returns: (n_members, n, output_dim), float64; finite for finite inputs, however large.
        """
        out = np.empty((self.n_members, len(rows), self.output_dim))

        def take(part: slice, scores: FloatArray, _: FloatArray) -> None:
            out[:, part] = scores.transpose(1, 2, 0)

        self._run(rows, take)
        return out

    def probabilities(self, rows: NDArray[np.float32] | Compact) -> FloatArray:
        """Softmax of every member's outputs, averaged over the members.

        Returns: (n, output_dim), float64.
        """
        out = np.empty((len(rows), self.output_dim))

        def take(part: slice, scores: FloatArray, norm: FloatArray) -> None:
            np.maximum.reduce(scores, axis=0, out=norm)
            np.subtract(scores, norm, out=scores)
            np.exp(scores, out=scores)
            np.add.reduce(scores, axis=0, out=norm)
            np.divide(scores, norm, out=scores)
            np.add.reduce(scores, axis=1, out=out[part].T)

        self._run(rows, take)
        out /= self.n_members
        return out

    def values(self, rows: NDArray[np.float32] | Compact) -> FloatArray:
        """The members' first output, averaged over the members.

        Returns: (n,), float64.
        """
        out = np.empty(len(rows))

        def take(part: slice, scores: FloatArray, _: FloatArray) -> None:
            np.add.reduce(scores[0], axis=0, out=out[part])

        self._run(rows, take)
        out /= self.n_members
        return out

    def _source(self, rows: NDArray[np.float32] | Compact) -> _Inputs | _Encoded:
        """What blocks of rows are read from, encoded or as network inputs."""
        if isinstance(rows, Compact):
            return _Encoded(self._first_layer, rows)
        if rows.ndim != 2 or rows.shape[1] != self.input_dim:
            raise ValueError(
                f"x must have shape (n, {self.input_dim}); got {rows.shape}; "
                "expand rows with the model's own encoder"
            )
        return _Inputs(self.dense.first, rows)

    def _run(self, rows: NDArray[np.float32] | Compact, take: _Take) -> None:
        """Hand the scores of every block to `take`; threads may each take another block."""
        source = self._source(rows)
        if can_run_networks():
            self._run_compiled(source, take)
            return
        n_rows = len(source)
        size, margin = block_sizes(n_rows, self._smallest, self.block_rows)

        def run(starts: Iterator[int]) -> None:
            work = self._workspace(size, margin)
            for start in starts:
                part = slice(start, min(start + size, n_rows))
                n = part.stop - start
                self._score(source, part, work)
                take(part, work.scores[:, :, :n], work.norm[:, :n])
            self._free[size].append(work)

        for_each_block(run, range(0, n_rows, size))

    def _run_compiled(self, source: _Inputs | _Encoded, take: _Take) -> None:
        """`_run` in C; rows that overflow there are computed again."""
        network = self._on_inputs if isinstance(source, _Inputs) else self._on_encoded

        def run(starts: Iterator[int]) -> None:
            for start in starts:
                part = slice(start, min(start + _COMPILED_ROWS, len(source)))
                n = part.stop - start
                scores = np.empty((self.output_dim, self.n_members, n))
                network.fill(*source.compact(part), scores)
                self._compute_again(source, part, scores)
                take(part, scores, np.empty((self.n_members, n)))

        starts = range(0, len(source), _COMPILED_ROWS)
        if len(starts) == 1:
            # Without a BLAS there is no number of threads to set, which takes half of a row's time.
            run(iter(starts))
        else:
            for_each_block(run, starts)

    def _score(self, source: _Inputs | _Encoded, rows: slice, work: _Workspace) -> None:
        """Fill `work.scores` with the outputs for one block."""
        with np.errstate(over="ignore", invalid="ignore"):
            source.fill(rows, work)
            self._forward(self.dense, work)
            np.copyto(work.scores, work.by_class)
        self._compute_again(source, rows, work.scores[:, :, : rows.stop - rows.start])

    def _compute_again(self, source: _Inputs | _Encoded, rows: slice, scores: FloatArray) -> None:
        """Compute rows of huge inputs, which overflowed, and no others, in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            overflowed = ~np.isfinite(np.add.reduce(scores, axis=(0, 1)))
        if not overflowed.any():
            return
        every = np.flatnonzero(overflowed)
        layers = DenseLayers.of(self.layers.cast(np.float64), self.n_members)
        # At most a block of them at once.
        for start in range(0, len(every), self.block_rows):
            index = every[start : start + self.block_rows]
            sizes = block_sizes(len(index), self._smallest, self.block_rows)
            wide = _Workspace(self, *sizes, np.float64)
            x = source.inputs(index + rows.start).astype(np.float64)
            # One block alone comes here without the limit of `for_each_block`.
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
                _Inputs(layers.first, x).fill(slice(0, len(x)), wide)
                self._forward(layers, wide)
            scores[:, :, index] = wide.by_class[:, :, : len(index)]

    def _workspace(self, n_rows: int, margin: int) -> _Workspace:
        """A workspace for blocks of `n_rows` rows that nobody uses: a free one, or a new one."""
        free = self._free.setdefault(n_rows, [])
        try:
            return free.pop()
        except IndexError:
            return _Workspace(self, n_rows, margin)

    def _forward(self, layers: DenseLayers, work: _Workspace) -> None:
        """From what the first layer gave, in `work.first`, to the outputs, in `work.out`."""
        if layers.head is None:
            return
        now, spare, zeros = work.hidden[0], work.hidden[1], work.zeros
        biases = work.biases[1:]
        np.maximum(now.flat, zeros, out=now.flat)
        if self.residual:
            after = work.hidden[2]
            pairs = list(zip(layers.hidden, biases, strict=True))
            for (inner, bias), (outer, outer_bias) in zip(pairs[::2], pairs[1::2], strict=True):
                inner.product(now.stacked, spare.stacked)
                np.add(spare.flat, bias, out=spare.flat)
                np.maximum(spare.flat, zeros, out=spare.flat)
                outer.product(spare.stacked, after.stacked)
                np.add(after.flat, now.flat, out=after.flat)
                np.add(after.flat, outer_bias, out=after.flat)
                np.maximum(after.flat, zeros, out=after.flat)
                now, after = after, now
        else:
            for layer, bias in zip(layers.hidden, biases, strict=True):
                layer.product(now.stacked, spare.stacked)
                np.add(spare.flat, bias, out=spare.flat)
                np.maximum(spare.flat, zeros, out=spare.flat)
                now, spare = spare, now
        layers.head.product(now.stacked, work.out.stacked)
        np.add(work.out.flat, work.head_bias, out=work.out.flat)
