"""The members' networks in NumPy: folded, stacked, preallocated.

`FoldedNetwork` runs what `models.py` trains, without torch, in blocks of rows over buffers that
are kept from call to call; many blocks are shared out to threads. It takes rows as network inputs,
or encoded and not widened: then the first layer is `inference/first_layer.py`'s. What its outputs
mean is `predictor.py`'s affair.

A row's outputs must not hang on its place in a batch. A matrix product rounds the rows at the
ragged edge of its matrices in another way than those within, so all blocks of a call are of one
size, a multiple of what the kernels of a BLAS take at a time, and the last is filled up.
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
from tabwright.inference.blas_threads import for_each_block
from tabwright.inference.first_layer import BlockWorkspace, FirstLayer
from tabwright.inference.folding import Affine, Layers, State, fold

__all__ = ["FoldedNetwork"]

# Hidden activations of a block should stay in the second-level cache; a product of more rows is
# nearer to what the processor can do.
_BLOCK_FLOATS = 2**18
_LEAST_BLOCK, _MOST_BLOCK = 64, 1024
# The block of one row. Kernels take 4 rows at a time, or multiples of 4: of 4 all give the same
# bits. A single row would be the product of a vector, which adds up in an order of its own.
_FEWEST_ROWS = 4
# Fewer blocks than this are not worth a thread.
_LEAST_BLOCKS = 4

FloatArray = NDArray[np.float64]
# Takes rows, their scores (output_dim, n_members, n), and a buffer of shape (n_members, n).
_Take = Callable[[slice, FloatArray, FloatArray], None]


class _Buffer(NamedTuple):
    """Activations of shape (n, K width), and the same memory as (K, n, width)."""

    flat: NDArray[Any]
    stacked: NDArray[Any]


class _Workspace:
    """What one block of `n_rows` rows needs."""

    def __init__(self, network: FoldedNetwork, n_rows: int, dtype: type = np.float32) -> None:
        k = network.n_members

        def buffer(width: int) -> _Buffer:
            # Zeros: rows that only fill a block up are computed too.
            flat: NDArray[Any] = np.zeros((n_rows, k * width), dtype=dtype)
            if k == 1:
                return _Buffer(flat, flat)
            return _Buffer(flat, flat.reshape(n_rows, k, width).transpose(1, 0, 2))

        self.hidden = tuple(buffer(network.hidden_dim) for _ in range(network.n_buffers))
        self.out = buffer(network.output_dim)
        self.first = (*self.hidden, self.out)[0].flat
        # With an array of zeros `maximum` is several times as fast as with the number.
        self.zeros: NDArray[Any] = np.zeros(k * network.hidden_dim, dtype=dtype)
        # Classes first: sums over them then run along long, contiguous rows.
        self.by_class = self.out.flat.reshape(n_rows, k, network.output_dim).transpose(2, 1, 0)
        self.scores: FloatArray = np.empty((network.output_dim, k, n_rows))
        self.norm: FloatArray = np.empty((k, n_rows))
        self.inputs: NDArray[Any] | None = None
        self.block: BlockWorkspace | None = None


@dataclass(frozen=True)
class _Inputs:
    """Rows as network inputs."""

    layer: Affine
    x: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)

    def fill(self, rows: slice, work: _Workspace) -> None:
        """Fill `work.first` with what the first layer makes of some rows."""
        if work.inputs is None:
            shape = (len(work.first), self.x.shape[1])
            work.inputs = np.zeros(shape, dtype=work.first.dtype)
        work.inputs[: rows.stop - rows.start] = self.x[rows]
        np.dot(work.inputs, self.layer.weight, out=work.first)
        np.add(work.first, self.layer.bias, out=work.first)

    def inputs(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        return self.x[index]


@dataclass(frozen=True)
class _Encoded:
    """Rows in the compact form."""

    layer: FirstLayer
    rows: Compact

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, rows: slice, work: _Workspace) -> None:
        if work.block is None:
            work.block = self.layer.block_workspace(len(work.first))
        part = self.rows.take(rows)
        self.layer.block(part.numeric, part.codes, work.first, work.block)

    def inputs(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        part = self.rows.take(index)
        return self.layer.layout.expand(part.numeric, part.codes)


class FoldedNetwork:
    """K networks of one architecture, ready to run.

    Parameters
    ----------
    members : sequence of mapping of str to ndarray
        The `state_dict` of each member: an `MLP`, `TabResNet` or `LinearBaseline` of `models.py`,
        all of the same architecture and sizes.
    layout : Layout, optional
        Where the inputs come from; the methods on encoded rows need it.

    Raises
    ------
    ValueError
        If there is no member, the members are not of one such architecture, or the layout is of
        another number of inputs.
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
            self._layers = fold(members, self.residual)
        except KeyError as error:
            raise ValueError(
                "members must be MLP, TabResNet or LinearBaseline of models.py; "
                f"got a network without {error}"
            ) from None
        first, _, head = self._layers
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
        self.block_rows = _MOST_BLOCK
        width = max(1, self.n_members * max(self.hidden_dim, self.output_dim))
        self.limit_block(_BLOCK_FLOATS // width)
        self._free: dict[int, list[_Workspace]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What these hold follows from the rest.
        left = ("_free", "_first_layer")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._free = {}

    @cached_property
    def _first_layer(self) -> FirstLayer:
        if self._layout is None:
            raise ValueError("encoded rows need the layout of the inputs; make the network with it")
        return FirstLayer(self._layout, self._layers.first.weight, self._layers.first.bias)

    def limit_block(self, n_rows: int) -> None:
        """Compute at most about so many rows at once."""
        n_rows = max(_LEAST_BLOCK, n_rows // _LEAST_BLOCK * _LEAST_BLOCK)
        self.block_rows = min(n_rows, self.block_rows)

    def logits(self, rows: NDArray[np.float32] | Compact) -> FloatArray:
        """Every member's outputs.

        Parameters
        ----------
        rows : ndarray of shape (n, input_dim), float32, or Compact
            Network inputs, or rows in the compact form.

        Returns
        -------
        ndarray of shape (n_members, n, output_dim), float64
            Finite for finite inputs, however large.
        """
        out = np.empty((self.n_members, len(rows), self.output_dim))

        def take(part: slice, scores: FloatArray, _: FloatArray) -> None:
            out[:, part] = scores.transpose(1, 2, 0)

        self._run(rows, take)
        return out

    def probabilities(self, rows: NDArray[np.float32] | Compact) -> FloatArray:
        """Softmax of every member's outputs, averaged over the members.

        Parameters
        ----------
        rows : ndarray of shape (n, input_dim), float32, or Compact

        Returns
        -------
        ndarray of shape (n, output_dim), float64
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

        Parameters
        ----------
        rows : ndarray of shape (n, input_dim), float32, or Compact

        Returns
        -------
        ndarray of shape (n,), float64
        """
        out = np.empty(len(rows))

        def take(part: slice, scores: FloatArray, _: FloatArray) -> None:
            np.add.reduce(scores[0], axis=0, out=out[part])

        self._run(rows, take)
        out /= self.n_members
        return out

    def _source(self, rows: NDArray[np.float32] | Compact) -> _Inputs | _Encoded:
        if isinstance(rows, Compact):
            return _Encoded(self._first_layer, rows)
        if rows.ndim != 2 or rows.shape[1] != self.input_dim:
            raise ValueError(
                f"x must have shape (n, {self.input_dim}); got {rows.shape}; "
                "expand rows with the model's own encoder"
            )
        return _Inputs(self._layers.first, rows)

    def _run(self, rows: NDArray[np.float32] | Compact, take: _Take) -> None:
        """Hand the scores of every block to `take`; threads may each take another block."""
        source = self._source(rows)
        n_rows = len(source)
        # A power of two that holds all rows, so that few rows do not pay for many.
        size = min(self.block_rows, max(_FEWEST_ROWS, 1 << (n_rows - 1).bit_length()))

        def run(starts: Iterator[int]) -> None:
            work = self._workspace(size)
            for start in starts:
                part = slice(start, min(start + size, n_rows))
                n = part.stop - start
                self._score(source, part, work)
                take(part, work.scores[:, :, :n], work.norm[:, :n])
            self._free[size].append(work)

        starts = range(0, n_rows, size)
        if len(starts) < _LEAST_BLOCKS:
            run(iter(starts))
        else:
            for_each_block(run, starts)

    def _score(self, source: _Inputs | _Encoded, rows: slice, work: _Workspace) -> None:
        """Fill `work.scores` with the outputs for one block."""
        with np.errstate(over="ignore", invalid="ignore"):
            source.fill(rows, work)
            self._forward(self._layers, work)
            np.copyto(work.scores, work.by_class)
            n_rows = rows.stop - rows.start
            finite = np.isfinite(np.add.reduce(work.scores[:, :, :n_rows], axis=(0, 1)))
        if not finite.all():
            # Rows of huge inputs overflowed: these, and no others, are computed again.
            index = np.flatnonzero(~finite)
            wide = _Workspace(self, len(index), np.float64)
            layers = self._layers.cast(np.float64)
            x = source.inputs(index + rows.start).astype(np.float64)
            np.dot(x, layers.first.weight, out=wide.first)
            wide.first += layers.first.bias
            self._forward(layers, wide)
            work.scores[:, :, index] = wide.by_class

    def _workspace(self, n_rows: int) -> _Workspace:
        """A workspace for blocks of `n_rows` rows that nobody uses: a free one, or a new one."""
        free = self._free.setdefault(n_rows, [])
        try:
            return free.pop()
        except IndexError:
            return _Workspace(self, n_rows)

    def _forward(self, layers: Layers, work: _Workspace) -> None:
        """From what the first layer gave, in `work.first`, to the outputs, in `work.out`."""
        if layers.head is None:
            return
        # The same products, but `dot` takes half the time to get going.
        product = np.dot if self.n_members == 1 else np.matmul
        now, spare, zeros = work.hidden[0], work.hidden[1], work.zeros
        np.maximum(now.flat, zeros, out=now.flat)
        if self.residual:
            after = work.hidden[2]
            for inner, outer in zip(layers.hidden[::2], layers.hidden[1::2], strict=True):
                product(now.stacked, inner.weight, out=spare.stacked)
                np.add(spare.flat, inner.bias, out=spare.flat)
                np.maximum(spare.flat, zeros, out=spare.flat)
                product(spare.stacked, outer.weight, out=after.stacked)
                np.add(after.flat, now.flat, out=after.flat)
                np.add(after.flat, outer.bias, out=after.flat)
                np.maximum(after.flat, zeros, out=after.flat)
                now, after = after, now
        else:
            for layer in layers.hidden:
                product(now.stacked, layer.weight, out=spare.stacked)
                np.add(spare.flat, layer.bias, out=spare.flat)
                np.maximum(spare.flat, zeros, out=spare.flat)
                now, spare = spare, now
        product(now.stacked, layers.head.weight, out=work.out.stacked)
        np.add(work.out.flat, layers.head.bias, out=work.out.flat)
