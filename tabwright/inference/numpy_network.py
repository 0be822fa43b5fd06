"""The members' networks in NumPy: folded, stacked, preallocated.

`FoldedNetwork` runs what `models.py` trains, without torch, in blocks of rows over buffers that
each thread allocates once. It takes rows as network inputs, or encoded and not widened: then the
first layer is `first_layer.py`'s. What its outputs mean is `predictor.py`'s affair.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.layout import Layout
from tabwright.inference.first_layer import BlockWorkspace, FirstLayer, RowWorkspace
from tabwright.inference.folding import Affine, Layers, State, fold

__all__ = ["FoldedNetwork"]

# Hidden activations of a block should stay in the second-level cache.
_BLOCK_FLOATS = 2**17
_LEAST_BLOCK, _MOST_BLOCK = 64, 1024
# Outputs of one row that Python's own floats are quicker for.
_MOST_PYTHON = 32

FloatArray = NDArray[np.float64]


class _Buffer(NamedTuple):
    """Activations of shape (n, K width), and the same memory as (K, n, width)."""

    flat: NDArray[Any]
    stacked: NDArray[Any]


class _Workspace:
    """What one block of `n_rows` rows needs; made once for each thread and block size."""

    def __init__(self, network: FoldedNetwork, n_rows: int, dtype: type = np.float32) -> None:
        k = network.n_members

        def buffer(width: int) -> _Buffer:
            flat: NDArray[Any] = np.empty((n_rows, k * width), dtype=dtype)
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
        self.block: BlockWorkspace | None = None
        self.row: RowWorkspace | None = None


class _Chain:
    """One row through one plain network: a product and a maximum for each layer.

    What NumPy takes for a call is what a row costs. Every vector ends with a one, and every
    weight with its bias as one more row, so that no layer needs an addition.
    """

    def __init__(self, weights: Sequence[NDArray[np.float32]]) -> None:
        vectors = [np.ones(len(weight), dtype=np.float32) for weight in weights]
        self.out: NDArray[np.float32] = np.empty(weights[-1].shape[1], dtype=np.float32)
        outs = [*(vector[:-1] for vector in vectors[1:]), self.out]
        self.x = vectors[0][:-1]
        self.first = outs[0]
        self._start, self._weight = vectors[0], weights[0]
        self._steps = [
            (before, np.zeros(len(before), dtype=np.float32), vector, weight, after)
            for before, vector, weight, after in zip(
                outs[:-1], vectors[1:], weights[1:], outs[1:], strict=True
            )
        ]

    def begin(self, x: NDArray[np.float32]) -> None:
        """Fill `first` with what the first layer makes of a row of inputs."""
        self.x[:] = x
        self._start.dot(self._weight, self.first)

    def run(self) -> list[float]:
        """From `first` to the outputs."""
        for before, zeros, vector, weight, after in self._steps:
            np.maximum(before, zeros, out=before)
            vector.dot(weight, after)
        outputs: list[float] = self.out.tolist()
        return outputs


@dataclass(frozen=True)
class _Inputs:
    """Rows as network inputs."""

    layer: Affine
    x: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)

    def fill(self, rows: slice, work: _Workspace) -> None:
        """Fill `work.first` with what the first layer makes of some rows."""
        np.dot(self.x[rows], self.layer.weight, out=work.first)
        np.add(work.first, self.layer.bias, out=work.first)

    def inputs(self, rows: slice) -> NDArray[np.float32]:
        return self.x[rows]


@dataclass(frozen=True)
class _Encoded:
    """Rows in the compact form."""

    layer: FirstLayer
    numeric: NDArray[np.float32]
    codes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.numeric)

    def fill(self, rows: slice, work: _Workspace) -> None:
        if work.block is None:
            work.block = self.layer.block_workspace(len(work.first))
        self.layer.block(self.numeric[rows], self.codes[rows], work.first, work.block)

    def inputs(self, rows: slice) -> NDArray[np.float32]:
        return self.layer.layout.expand(self.numeric[rows], self.codes[rows])


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
        width = max(1, self.n_members * max(self.hidden_dim, self.output_dim))
        self.block_rows = min(max(_BLOCK_FLOATS // width, _LEAST_BLOCK), _MOST_BLOCK)
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        # What these hold follows from the rest.
        left = ("_local", "_first_layer", "_chain_weights")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    @cached_property
    def _first_layer(self) -> FirstLayer:
        if self._layout is None:
            raise ValueError("encoded rows need the layout of the inputs; make the network with it")
        return FirstLayer(self._layout, self._layers.first.weight, self._layers.first.bias)

    def logits(self, x: NDArray[np.float32]) -> FloatArray:
        """Every member's outputs.

        Parameters
        ----------
        x : ndarray of shape (n, input_dim), float32

        Returns
        -------
        ndarray of shape (n_members, n, output_dim), float64
            Finite for finite inputs, however large.
        """
        out = np.empty((self.n_members, len(x), self.output_dim))
        for rows, work in self._run(self._inputs(x)):
            out[:, rows] = work.scores.transpose(1, 2, 0)
        return out

    def probabilities(self, x: NDArray[np.float32]) -> FloatArray:
        """Softmax of every member's outputs, averaged over the members.

        Parameters
        ----------
        x : ndarray of shape (n, input_dim), float32

        Returns
        -------
        ndarray of shape (n, output_dim), float64
        """
        if len(x) == 1 and (outputs := self._one_row(x)) is not None:
            return self._probabilities_of(outputs)
        return self._probabilities(self._inputs(x))

    def values(self, x: NDArray[np.float32]) -> FloatArray:
        """The members' first output, averaged over the members.

        Parameters
        ----------
        x : ndarray of shape (n, input_dim), float32

        Returns
        -------
        ndarray of shape (n,), float64
        """
        if len(x) == 1 and (outputs := self._one_row(x)) is not None:
            return self._value_of(outputs)
        return self._values(self._inputs(x))

    def encoded_probabilities(
        self, numeric: NDArray[np.float32], codes: NDArray[np.int32]
    ) -> FloatArray:
        """`probabilities` of rows in the compact form.

        Parameters
        ----------
        numeric : ndarray of shape (n, n_numeric), float32
        codes : ndarray of shape (n, n_codes), int32

        Returns
        -------
        ndarray of shape (n, output_dim), float64
        """
        return self._probabilities(_Encoded(self._first_layer, numeric, codes))

    def encoded_values(self, numeric: NDArray[np.float32], codes: NDArray[np.int32]) -> FloatArray:
        """`values` of rows in the compact form.

        Parameters
        ----------
        numeric : ndarray of shape (n, n_numeric), float32
        codes : ndarray of shape (n, n_codes), int32

        Returns
        -------
        ndarray of shape (n,), float64
        """
        return self._values(_Encoded(self._first_layer, numeric, codes))

    def row_probabilities(self, numeric: Sequence[float], codes: Sequence[int]) -> FloatArray:
        """`encoded_probabilities` of one row.

        Parameters
        ----------
        numeric : sequence of n_numeric floats
            Values that a float32 holds exactly; NaN is missing.
        codes : sequence of n_codes ints

        Returns
        -------
        ndarray of shape (1, output_dim), float64
        """
        outputs = self._encoded_row(numeric, codes)
        if outputs is None:
            return self._probabilities(self._as_rows(numeric, codes))
        return self._probabilities_of(outputs)

    def row_values(self, numeric: Sequence[float], codes: Sequence[int]) -> FloatArray:
        """`encoded_values` of one row.

        Parameters
        ----------
        numeric : sequence of n_numeric floats
            Values that a float32 holds exactly; NaN is missing.
        codes : sequence of n_codes ints

        Returns
        -------
        ndarray of shape (1,), float64
        """
        outputs = self._encoded_row(numeric, codes)
        if outputs is None:
            return self._values(self._as_rows(numeric, codes))
        return self._value_of(outputs)

    # ---------------------------------------------------------------- many rows

    def _inputs(self, x: NDArray[np.float32]) -> _Inputs:
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise ValueError(
                f"x must have shape (n, {self.input_dim}); got {x.shape}; "
                "expand rows with the model's own encoder"
            )
        return _Inputs(self._layers.first, x)

    def _as_rows(self, numeric: Sequence[float], codes: Sequence[int]) -> _Encoded:
        return _Encoded(
            self._first_layer,
            np.array([numeric], dtype=np.float32),
            np.array([codes], dtype=np.int32),
        )

    def _probabilities(self, source: _Inputs | _Encoded) -> FloatArray:
        out = np.empty((len(source), self.output_dim))
        for rows, work in self._run(source):
            scores, norm = work.scores, work.norm
            np.maximum.reduce(scores, axis=0, out=norm)
            np.subtract(scores, norm, out=scores)
            np.exp(scores, out=scores)
            np.add.reduce(scores, axis=0, out=norm)
            np.divide(scores, norm, out=scores)
            np.add.reduce(scores, axis=1, out=out[rows].T)
        out /= self.n_members
        return out

    def _values(self, source: _Inputs | _Encoded) -> FloatArray:
        out = np.empty(len(source))
        for rows, work in self._run(source):
            np.add.reduce(work.scores[0], axis=0, out=out[rows])
        out /= self.n_members
        return out

    def _run(self, source: _Inputs | _Encoded) -> Iterator[tuple[slice, _Workspace]]:
        """The rows of each block, with a workspace that holds their scores until the next."""
        for start in range(0, len(source), self.block_rows):
            rows = slice(start, min(start + self.block_rows, len(source)))
            work = self._workspace(rows.stop - start)
            self._score(source, rows, work)
            yield rows, work

    def _score(self, source: _Inputs | _Encoded, rows: slice, work: _Workspace) -> None:
        """Fill `work.scores`, (output_dim, n_members, n), with the outputs for one block."""
        # A row of huge inputs may overflow: it is then computed again with room to spare.
        with np.errstate(over="ignore", invalid="ignore"):
            source.fill(rows, work)
            self._forward(self._layers, work)
            np.copyto(work.scores, work.by_class)
            finite = np.isfinite(np.add.reduce(work.scores, axis=None))
        if not finite:
            wide = _Workspace(self, len(work.first), np.float64)
            layers = self._layers.cast(np.float64)
            np.dot(source.inputs(rows).astype(np.float64), layers.first.weight, out=wide.first)
            wide.first += layers.first.bias
            self._forward(layers, wide)
            np.copyto(work.scores, wide.by_class)

    # ---------------------------------------------------------------- one row

    def _probabilities_of(self, outputs: list[float]) -> FloatArray:
        return np.array([_mean_of_softmax(outputs, self.output_dim)])

    def _value_of(self, outputs: list[float]) -> FloatArray:
        return np.array([sum(outputs[:: self.output_dim]) / self.n_members])

    @cached_property
    def _chain_weights(self) -> tuple[NDArray[np.float32], ...] | None:
        """The layers of one plain network, the bias below the weight; None for others."""
        if self.n_members > 1 or self.residual:
            return None
        first, hidden, head = self._layers
        layers = [first, *hidden] if head is None else [first, *hidden, head]
        return tuple(np.concatenate([layer.weight, layer.bias[None]]) for layer in layers)

    def _chain(self) -> _Chain | None:
        """This thread's chain; None where the network is another."""
        try:
            found: _Chain | None = self._local.chain
        except AttributeError:
            weights = self._chain_weights
            found = self._local.chain = None if weights is None else _Chain(weights)
        return found

    def _one_row(self, x: NDArray[np.float32]) -> list[float] | None:
        """The outputs for one row, member after member; None where the long way is needed."""
        # Few outputs are quicker in Python.
        if x.shape != (1, self.input_dim) or self.n_members * self.output_dim > _MOST_PYTHON:
            return None
        chain = self._chain()
        with np.errstate(over="ignore", invalid="ignore"):
            if chain is not None:
                chain.begin(x[0])
                outputs = chain.run()
            else:
                work, layer = self._workspace(1), self._layers.first
                np.dot(x, layer.weight, out=work.first)
                np.add(work.first, layer.bias, out=work.first)
                self._forward(self._layers, work)
                outputs = work.out.flat[0].tolist()
        return outputs if math.isfinite(sum(outputs)) else None

    def _encoded_row(self, numeric: Sequence[float], codes: Sequence[int]) -> list[float] | None:
        """`_one_row` of an encoded row."""
        if self.n_members * self.output_dim > _MOST_PYTHON:
            return None
        chain, work, layer = self._chain(), self._workspace(1), self._first_layer
        if work.row is None:
            work.row = layer.row_workspace()
        with np.errstate(over="ignore", invalid="ignore"):
            if chain is not None:
                layer.row(numeric, codes, chain.first, work.row)
                outputs = chain.run()
            else:
                layer.row(numeric, codes, work.first[0], work.row)
                self._forward(self._layers, work)
                outputs = work.out.flat[0].tolist()
        return outputs if math.isfinite(sum(outputs)) else None

    def _workspace(self, n_rows: int) -> _Workspace:
        """This thread's workspace for a block of `n_rows` rows; kept for one row and for many."""
        kept: dict[int, _Workspace] | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = {}
        work = kept.get(n_rows)
        if work is None:
            work = _Workspace(self, n_rows)
            if n_rows in (1, self.block_rows):
                kept[n_rows] = work
        return work

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


def _mean_of_softmax(outputs: list[float], n_classes: int) -> list[float]:
    """Softmax of each member's outputs, averaged over the members."""
    n_members = len(outputs) // n_classes
    if n_classes == 2:
        shares = [0.0, 0.0]
        for start in range(0, len(outputs), 2):
            step = outputs[start + 1] - outputs[start]
            small = math.exp(-abs(step))
            large = 1.0 / (1.0 + small)
            shares[step > 0.0] += large
            shares[step <= 0.0] += small * large
        return [share / n_members for share in shares]
    mean = [0.0] * n_classes
    for start in range(0, len(outputs), n_classes):
        own = outputs[start : start + n_classes]
        top = max(own)
        own = [math.exp(value - top) for value in own]
        total = sum(own) * n_members
        mean = [so_far + value / total for so_far, value in zip(mean, own, strict=True)]
    return mean
