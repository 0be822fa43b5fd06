"""The members' layers as the networks in NumPy want them: batch norm folded in, stacked.

Here the parameters of `models.py` become `Layers`; `inference/numpy_network.py` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# `nn.BatchNorm1d`'s default, which models.py keeps.
_EPS = 1e-5
_LARGEST = float(np.finfo(np.float32).max)

State = Mapping[str, NDArray[Any]]
FloatArray = NDArray[np.float64]


class Affine(NamedTuple):
    """A layer of all members: weight (K, in, out), or (in, K out) where the input is shared."""

    weight: NDArray[Any]
    bias: NDArray[Any]

    def cast(self, dtype: type) -> Affine:
        """The same in another precision."""
        return Affine(self.weight.astype(dtype), self.bias.astype(dtype))


class Layers(NamedTuple):
    """The layers of all members, in order."""

    first: Affine
    hidden: tuple[Affine, ...]
    head: Affine | None  # None: the first layer is the last

    def cast(self, dtype: type) -> Layers:
        """The same in another precision."""
        head = None if self.head is None else self.head.cast(dtype)
        hidden = tuple(layer.cast(dtype) for layer in self.hidden)
        return Layers(self.first.cast(dtype), hidden, head)


def fold(members: Sequence[State], residual: bool) -> Layers:
    """The layers of all members.

    `members`: the `state_dict` of each, all of one architecture.
    `residual`: whether they are of a `TabResNet`.
    Raises `KeyError` if a tensor is missing.

    In eval mode a batch norm behind a linear layer is itself linear, so that
    ``gamma (W x + b - mean) / sqrt(var + eps) + beta`` is one linear layer (Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", 2018, section 3.2). It is folded in float64 and kept in float32.
    """
    if "linear.weight" in members[0]:
        return Layers(_shared(members, "linear", None), (), None)
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
    return Layers(first, hidden, _stacked(members, head, None))


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


def _stacked(members: Sequence[State], linear: str, norm: str | None) -> Affine:
    """For inputs of each member's own: weight (K, in, out), or (in, out) for one member."""
    parts = [_linear(state, linear, norm) for state in members]
    weight = np.stack([weight for weight, _ in parts])
    bias = np.concatenate([bias for _, bias in parts])
    return Affine(_kept(weight[0] if len(members) == 1 else weight), _kept(bias))


def _shared(members: Sequence[State], linear: str, norm: str | None) -> Affine:
    """For inputs that all members share: weight (in, K out), one product for all."""
    parts = [_linear(state, linear, norm) for state in members]
    weight = np.concatenate([weight for weight, _ in parts], axis=1)
    return Affine(_kept(weight), _kept(np.concatenate([bias for _, bias in parts])))


def _kept(array: FloatArray) -> NDArray[np.float32]:
    # A batch norm of almost no variance may scale past float32.
    return np.ascontiguousarray(np.clip(array, -_LARGEST, _LARGEST), dtype=np.float32)
