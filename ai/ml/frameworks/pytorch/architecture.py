"""What the fast step must know of a network: its layers, and where its tensors lie in memory.

`Architecture` reads the layers of a `models.py` module off it; `FlatTensors` is one buffer with a
row per member in which every tensor of the architecture has its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.kernels import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM
from ai.ml.frameworks.pytorch.models import MLP, LinearBaseline, ResidualBlock, TabResNet

__all__ = ["Architecture", "FlatTensors", "HiddenLayer", "Piece"]

# A multiple of what a vector instruction takes, so that an operation over a buffer treats the
# elements of a tensor alike wherever it lies.
_ALIGNMENT = 64


class HiddenLayer(NamedTuple):
    """The names of a layer's modules, its dropout, and its place in a residual block."""

    linear: str
    norm: str
    rate: float
    opens_block: bool = False
    closes_block: bool = False


class Piece(NamedTuple):
    """Tensors of one shape that lie one after the other."""

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of elements."""
        return len(self.names) * math.prod(self.shape)


@dataclass(frozen=True)
class Architecture:
    """What must agree between members.

    Parameters
    ----------
    hidden : tuple of HiddenLayer
        In the order of the forward pass.
    head : str
        Name of the last linear layer.
    input_dim, hidden_dim, output_dim : int
        `hidden_dim` is 0 where there is no hidden layer.
    dtype : torch.dtype
    device : torch.device
    """

    hidden: tuple[HiddenLayer, ...]
    head: str
    input_dim: int
    hidden_dim: int
    output_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module) -> Architecture:
        """Read the layers off a module.

        Parameters
        ----------
        module : nn.Module
            `MLP`, `TabResNet` or `LinearBaseline`, as `models.build_model` makes them.

        Raises
        ------
        TypeError
            If it is anything else, a subclass included, since that may compute something else.
        """
        hidden: list[HiddenLayer] = []
        if type(module) is LinearBaseline:
            head = "linear"
        elif type(module) is MLP:
            hidden, head = _mlp_layers(module)
        elif type(module) is TabResNet:
            hidden, head = _resnet_layers(module)
        else:
            raise TypeError(
                f"modules must be MLP, TabResNet or LinearBaseline; got {type(module).__name__}; "
                "train other modules with reference.ReferenceMembers"
            )
        first = module.get_submodule(hidden[0].linear if hidden else head)
        last = module.get_submodule(head)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d) and (
                (layer.eps, layer.momentum) != (BATCH_NORM_EPS, BATCH_NORM_MOMENTUM)
                or not (layer.affine and layer.track_running_stats)
            ):
                raise TypeError(f"batch norm must have PyTorch's default settings; got {layer}")
        if type(first) is not nn.Linear or type(last) is not nn.Linear:
            raise TypeError(f"the first and the last layer must be nn.Linear; got {first}, {last}")
        return cls(
            tuple(hidden),
            head,
            first.in_features,
            first.out_features if hidden else 0,
            last.out_features,
            last.weight.dtype,
            last.weight.device,
        )

    @property
    def has_dropout(self) -> bool:
        """Whether any layer drops."""
        return any(layer.rate > 0 for layer in self.hidden)

    def decayed(self) -> tuple[Piece, ...]:
        """Linear weights, those of the hidden layers first: what weight decay acts on."""
        widths = [self.input_dim] + [self.hidden_dim] * len(self.hidden)
        return (
            *(
                Piece((f"{layer.linear}.weight",), (self.hidden_dim, width))
                for layer, width in zip(self.hidden, widths, strict=False)
            ),
            Piece((f"{self.head}.weight",), (self.output_dim, widths[-1])),
        )

    def plain(self) -> tuple[Piece, ...]:
        """Batch norm's bias and weight, layer by layer, then the head's bias."""
        return (
            *(
                Piece((f"{layer.norm}.bias", f"{layer.norm}.weight"), (self.hidden_dim,))
                for layer in self.hidden
            ),
            Piece((f"{self.head}.bias",), (self.output_dim,)),
        )

    def biases(self) -> tuple[Piece, ...]:
        """Biases in front of batch norm, which takes them away again."""
        return (Piece(tuple(f"{layer.linear}.bias" for layer in self.hidden), (self.hidden_dim,)),)

    def statistics(self) -> tuple[Piece, ...]:
        """Running means of all layers, then running variances."""
        return tuple(
            Piece(tuple(f"{layer.norm}.{kind}" for layer in self.hidden), (self.hidden_dim,))
            for kind in ("running_mean", "running_var")
        )


def _mlp_layers(module: MLP) -> tuple[list[HiddenLayer], str]:
    kinds: dict[type[nn.Module], list[str]] = {nn.Linear: [], nn.BatchNorm1d: [], nn.Dropout: []}
    for name, layer in module.net.named_children():
        kinds.setdefault(type(layer), []).append(f"net.{name}")
    *linears, head = kinds[nn.Linear]
    rates = [layer.p for layer in module.net if isinstance(layer, nn.Dropout)]
    return [
        HiddenLayer(linear, norm, rate)
        for linear, norm, rate in zip(
            linears, kinds[nn.BatchNorm1d], rates or [0.0] * len(linears), strict=True
        )
    ], head


def _resnet_layers(module: TabResNet) -> tuple[list[HiddenLayer], str]:
    hidden = [HiddenLayer("input_projection", "input_norm", 0.0)]
    for i, block in enumerate(module.blocks):
        if type(block) is not ResidualBlock:
            raise TypeError(f"blocks must be ResidualBlock; got {type(block).__name__}")
        name = f"blocks.{i}"
        rate = block.dropout.p if isinstance(block.dropout, nn.Dropout) else 0.0
        hidden.append(HiddenLayer(f"{name}.linear1", f"{name}.norm1", rate, opens_block=True))
        hidden.append(HiddenLayer(f"{name}.linear2", f"{name}.norm2", 0.0, closes_block=True))
    return hidden, "head"


class FlatTensors:
    """One buffer with a row per member.

    Parameters
    ----------
    pieces : sequence of Piece
        In their order in memory.
    n_members : int
    dtype : torch.dtype
    device : torch.device

    Attributes
    ----------
    memory : Tensor of shape (n_members, size)
        Zero at first, and between the pieces for good.
    """

    def __init__(
        self, pieces: Sequence[Piece], n_members: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._offsets: dict[Piece, int] = {}
        size = 0
        for piece in pieces:
            self._offsets[piece] = size
            size += -(-piece.length // _ALIGNMENT) * _ALIGNMENT
        self.memory = torch.zeros(n_members, size, dtype=dtype, device=device)

    def offset(self, piece: Piece) -> int:
        """Where a piece starts in every row."""
        return self._offsets[piece]

    def view(self, piece: Piece, members: slice) -> Tensor:
        """Values of a piece, shape (n_members, len(piece.names), *piece.shape)."""
        rows = self.memory[members]
        if not piece.length:
            return rows.new_empty(len(rows), len(piece.names), *piece.shape)
        start = self._offsets[piece]
        values = rows[:, start : start + piece.length]
        return values.view(len(rows), len(piece.names), *piece.shape)

    def named(self, member: int) -> Iterator[tuple[str, Tensor]]:
        """Name and view of every tensor of a member."""
        for piece in self._offsets:
            values = self.view(piece, slice(member, member + 1))[0]
            yield from zip(piece.names, values, strict=True)
