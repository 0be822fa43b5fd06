"""The members' networks in NumPy: batch norm folded into the linear layers, stacked, preallocated.

`FoldedNetwork` runs what `models.py` trains, without torch, in blocks of rows over buffers that
each thread allocates once. What its inputs and outputs mean is `predictor.py`'s affair.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FoldedNetwork"]

# `nn.BatchNorm1d`'s default, which models.py keeps.
_EPS = 1e-5
_LARGEST = float(np.finfo(np.float32).max)
# Hidden activations of a block should stay in the second-level cache.
_BLOCK_FLOATS = 2**17
_LEAST_BLOCK, _MOST_BLOCK = 64, 1024
# Outputs of one row that Python's own floats are quicker for.
_MOST_PYTHON = 32

State = Mapping[str, NDArray[Any]]
FloatArray = NDArray[np.float64]


class _Affine(NamedTuple):
    """A layer of all members: weight (K, in, out), or (in, K out) where the input is shared."""

    weight: NDArray[Any]
    bias: NDArray[Any]

    def cast(self, dtype: type) -> _Affine:
        return _Affine(self.weight.astype(dtype), self.bias.astype(dtype))


class _Layers(NamedTuple):
    first: _Affine
    hidden: tuple[_Affine, ...]
    head: _Affine | None  # None: the first layer is the last

    def cast(self, dtype: type) -> _Layers:
        head = None if self.head is None else self.head.cast(dtype)
        hidden = tuple(layer.cast(dtype) for layer in self.hidden)
        return _Layers(self.first.cast(dtype), hidden, head)


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
        # Classes first: sums over them then run along long, contiguous rows.
        self.by_class = self.out.flat.reshape(n_rows, k, network.output_dim).transpose(2, 1, 0)
        self.scores: FloatArray = np.empty((network.output_dim, k, n_rows))
        self.norm: FloatArray = np.empty((k, n_rows))


class FoldedNetwork:
    """K networks of one architecture, ready to run.

    Parameters
    ----------
    members : sequence of mapping of str to ndarray
        The `state_dict` of each member: an `MLP`, `TabResNet` or `LinearBaseline` of `models.py`,
        all of the same architecture and sizes.

    Raises
    ------
    ValueError
        If there is no member, or the members are not of one such architecture.

    Notes
    -----
    In eval mode a batch norm behind a linear layer is itself linear, so that
    ``gamma (W x + b - mean) / sqrt(var + eps) + beta`` is one linear layer (Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3.2). It is folded in float64 and kept in float32.
    """

    def __init__(self, members: Sequence[State]) -> None:
        if not members:
            raise ValueError("members must hold at least one network; got none")
        shapes = {name: value.shape for name, value in members[0].items()}
        for state in members[1:]:
            if {name: value.shape for name, value in state.items()} != shapes:
                raise ValueError("members must all be of one architecture and size; got several")
        self.n_members = len(members)
        self.residual = "input_projection.weight" in shapes
        try:
            self._layers = _fold(members, self.residual)
        except KeyError as error:
            raise ValueError(
                "members must be MLP, TabResNet or LinearBaseline of models.py; "
                f"got a network without {error}"
            ) from None
        first, _, head = self._layers
        self.hidden_dim = 0 if head is None else len(first.bias) // self.n_members
        self.output_dim = len((head or first).bias) // self.n_members
        self.n_buffers = 0 if head is None else 3 if self.residual else 2
        width = max(1, self.n_members * max(self.hidden_dim, self.output_dim))
        self.block_rows = min(max(_BLOCK_FLOATS // width, _LEAST_BLOCK), _MOST_BLOCK)
        self._local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    @property
    def input_dim(self) -> int:
        """Inputs of one row."""
        return int(self._layers.first.weight.shape[0])

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
        for rows, work in self._run(x):
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
            return np.array([_mean_of_softmax(outputs, self.output_dim)])
        out = np.empty((len(x), self.output_dim))
        for rows, work in self._run(x):
            scores, norm = work.scores, work.norm
            np.maximum.reduce(scores, axis=0, out=norm)
            np.subtract(scores, norm, out=scores)
            np.exp(scores, out=scores)
            np.add.reduce(scores, axis=0, out=norm)
            np.divide(scores, norm, out=scores)
            np.add.reduce(scores, axis=1, out=out[rows].T)
        out /= self.n_members
        return out

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
            return np.array([sum(outputs[:: self.output_dim]) / self.n_members])
        out = np.empty(len(x))
        for rows, work in self._run(x):
            np.add.reduce(work.scores[0], axis=0, out=out[rows])
        out /= self.n_members
        return out

    def _one_row(self, x: NDArray[np.float32]) -> list[float] | None:
        """The outputs for one row, member after member; None where the long way is needed.

        What NumPy takes for a call is what a row costs: few outputs are quicker in Python.
        """
        if x.shape != (1, self.input_dim) or self.n_members * self.output_dim > _MOST_PYTHON:
            return None
        work = self._workspace(1)
        with np.errstate(over="ignore", invalid="ignore"):
            self._forward(x, self._layers, work)
        outputs: list[float] = work.out.flat[0].tolist()
        return outputs if math.isfinite(sum(outputs)) else None

    def _run(self, x: NDArray[np.float32]) -> Iterator[tuple[slice, _Workspace]]:
        """The rows of each block, with a workspace that holds their scores until the next."""
        if x.ndim != 2 or x.shape[1] != self.input_dim:
            raise ValueError(
                f"x must have shape (n, {self.input_dim}); got {x.shape}; "
                "expand rows with the model's own encoder"
            )
        for start in range(0, len(x), self.block_rows):
            block = x[start : start + self.block_rows]
            work = self._workspace(len(block))
            self._score(block, work)
            yield slice(start, start + len(block)), work

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

    def _score(self, x: NDArray[np.float32], work: _Workspace) -> None:
        """Fill `work.scores`, (output_dim, n_members, n), with the outputs for one block."""
        # A row of huge inputs may overflow: it is then computed again with room to spare.
        with np.errstate(over="ignore", invalid="ignore"):
            self._forward(x, self._layers, work)
            np.copyto(work.scores, work.by_class)
            finite = np.isfinite(np.add.reduce(work.scores, axis=None))
        if not finite:
            wide = _Workspace(self, len(x), np.float64)
            self._forward(x.astype(np.float64), self._layers.cast(np.float64), wide)
            np.copyto(work.scores, wide.by_class)

    def _forward(self, x: NDArray[Any], layers: _Layers, work: _Workspace) -> None:
        # The same products, but `dot` takes half the time to get going.
        product = np.dot if self.n_members == 1 else np.matmul
        if layers.head is None:
            np.dot(x, layers.first.weight, out=work.out.flat)
            np.add(work.out.flat, layers.first.bias, out=work.out.flat)
            return
        now, spare = work.hidden[0], work.hidden[1]
        np.dot(x, layers.first.weight, out=now.flat)
        _add_and_rectify(now.flat, layers.first.bias)
        if self.residual:
            after = work.hidden[2]
            for inner, outer in zip(layers.hidden[::2], layers.hidden[1::2], strict=True):
                product(now.stacked, inner.weight, out=spare.stacked)
                _add_and_rectify(spare.flat, inner.bias)
                product(spare.stacked, outer.weight, out=after.stacked)
                np.add(after.flat, now.flat, out=after.flat)
                _add_and_rectify(after.flat, outer.bias)
                now, after = after, now
        else:
            for layer in layers.hidden:
                product(now.stacked, layer.weight, out=spare.stacked)
                _add_and_rectify(spare.flat, layer.bias)
                now, spare = spare, now
        product(now.stacked, layers.head.weight, out=work.out.stacked)
        np.add(work.out.flat, layers.head.bias, out=work.out.flat)


def _mean_of_softmax(outputs: list[float], n_classes: int) -> list[float]:
    """Softmax of each member's outputs, averaged over the members."""
    n_members = len(outputs) // n_classes
    mean = [0.0] * n_classes
    for start in range(0, len(outputs), n_classes):
        own = outputs[start : start + n_classes]
        top = max(own)
        own = [math.exp(value - top) for value in own]
        total = sum(own) * n_members
        mean = [so_far + value / total for so_far, value in zip(mean, own, strict=True)]
    return mean


def _add_and_rectify(hidden: NDArray[Any], bias: NDArray[Any]) -> None:
    np.add(hidden, bias, out=hidden)
    np.maximum(hidden, 0.0, out=hidden)


# ---------------------------------------------------------------------------------------------
# Folding
# ---------------------------------------------------------------------------------------------


def _fold(members: Sequence[State], residual: bool) -> _Layers:
    if "linear.weight" in members[0]:
        return _Layers(_shared(members, "linear", None), (), None)
    if residual:
        first = _shared(members, "input_projection", "input_norm")
        n_blocks = _count(members[0], "blocks.{}.linear1.weight", 0)
        names = [
            (f"blocks.{b}.linear{i}", f"blocks.{b}.norm{i}")
            for b in range(n_blocks)
            for i in (1, 2)
        ]
        head = "head"
    else:
        first = _shared(members, "net.linear1", "net.norm1")
        depth = _count(members[0], "net.linear{}.weight", 1)
        names = [(f"net.linear{i}", f"net.norm{i}") for i in range(2, depth + 1)]
        head = "net.head"
    hidden = tuple(_stacked(members, linear, norm) for linear, norm in names)
    return _Layers(first, hidden, _stacked(members, head, None))


def _count(state: State, pattern: str, start: int) -> int:
    count = 0
    while pattern.format(start + count) in state:
        count += 1
    return count


def _linear(state: State, linear: str, norm: str | None) -> tuple[FloatArray, FloatArray]:
    """Weight (in, out) and bias (out,) of one member's layer with the batch norm behind it."""
    weight = state[f"{linear}.weight"].astype(np.float64)
    bias = state[f"{linear}.bias"].astype(np.float64)
    if norm is not None:
        variance = state[f"{norm}.running_var"].astype(np.float64)
        scale = state[f"{norm}.weight"] / np.sqrt(variance + _EPS)
        weight = weight * scale[:, None]
        bias = (bias - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"]
    return weight.T, bias


def _stacked(members: Sequence[State], linear: str, norm: str | None) -> _Affine:
    """For inputs of each member's own: weight (K, in, out), or (in, out) for one member."""
    parts = [_linear(state, linear, norm) for state in members]
    weight = np.stack([weight for weight, _ in parts])
    bias = np.concatenate([bias for _, bias in parts])
    return _Affine(_kept(weight[0] if len(members) == 1 else weight), _kept(bias))


def _shared(members: Sequence[State], linear: str, norm: str | None) -> _Affine:
    """For inputs that all members share: weight (in, K out), one product for all."""
    parts = [_linear(state, linear, norm) for state in members]
    weight = np.concatenate([weight for weight, _ in parts], axis=1)
    return _Affine(_kept(weight), _kept(np.concatenate([bias for _, bias in parts])))


def _kept(array: FloatArray) -> NDArray[np.float32]:
    # A batch norm of almost no variance may scale past float32.
    return np.ascontiguousarray(np.clip(array, -_LARGEST, _LARGEST), dtype=np.float32)
