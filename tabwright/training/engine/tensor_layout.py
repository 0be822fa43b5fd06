"""What the fast step must know of a network: its layers, and where its tensors lie in memory.

`TensorLayout` reads the layers of a `models.py` module off it; `FlatTensors` is one buffer with a
row per member in which every tensor of the architecture has its place; `MemberBuffers` are all that
a training step reads and writes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import MLP, LinearBaseline, TabResNet

# The defaults of `torch.nn.BatchNorm1d`.
BATCH_NORM_EPS = 1e-5
BATCH_NORM_MOMENTUM = 0.1

# A multiple of what a vector instruction takes, so that an operation over a buffer treats the
# elements of a tensor alike wherever it lies.
_ALIGNMENT = 64


class ArchitectureError(TypeError):
    """A module that the fast step cannot compute."""


class HiddenLayer(NamedTuple):
    """The names of a layer's modules, its dropout, and its place in a residual block."""

    linear: str
    norm: str
    rate: float
    opens_block: bool = False
    closes_block: bool = False


class Piece(NamedTuple):
    """Tensors of one shape that lie one after the other, in memory as they are or transposed."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    is_transposed: bool = False

    @property
    def length(self) -> int:
        """Number of elements."""
        return len(self.names) * math.prod(self.shape)


@dataclass(frozen=True)
class TensorLayout:
    """What must agree between members.

    `hidden`: in the order of the forward pass.
    `input_dim`, `hidden_dim`, `output_dim`: `hidden_dim` is 0 where there is no hidden layer.
    """

    hidden: tuple[HiddenLayer, ...]
    head: str
    input_dim: int
    hidden_dim: int
    output_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, module: nn.Module) -> TensorLayout:
        """Read the layers off a module.

        `module`: `MLP`, `TabResNet` or `LinearBaseline`, as `models.build_model` makes them.
        Raises `ArchitectureError` if it is anything else, or no longer as its class makes it: a
            subclass, an exchanged layer, a hook or a frozen parameter may compute something else.
        """
        if type(module) not in (MLP, TabResNet, LinearBaseline):
            raise ArchitectureError(
                f"modules must be MLP, TabResNet or LinearBaseline; got {type(module).__name__}; "
                "train other modules by loop.members_of"
            )
        layers = {name: layer for name, layer in module.named_modules() if name}
        linears = {name: x for name, x in layers.items() if type(x) is nn.Linear}
        _check_layers(module, layers, list(linears.values()))
        first, last = next(iter(linears.values())), next(reversed(linears.values()))
        return cls(
            hidden=tuple(
                _hidden_layers(layers, list(linears), is_residual=type(module) is TabResNet)
            ),
            head=next(reversed(linears)),
            input_dim=first.in_features,
            hidden_dim=first.out_features if len(linears) > 1 else 0,
            output_dim=last.out_features,
            dtype=last.weight.dtype,
            device=last.weight.device,
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
                # Inputs by units: what one input adds to all units lies together.
                Piece((f"{layer.linear}.weight",), (width, self.hidden_dim), is_transposed=True)
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


def _check_layers(
    module: nn.Module, layers: Mapping[str, nn.Module], linears: Sequence[nn.Linear]
) -> None:
    """Whether the layers of a module of `models.py` are those that its class makes."""
    kind = type(module).__name__
    if not linears:
        raise ArchitectureError(f"{kind} must have a linear layer; got none")
    rates = [layer.p for layer in layers.values() if isinstance(layer, nn.Dropout)]
    first, last = linears[0], linears[-1]
    made, tensors = _as_made(
        kind,
        (first.in_features, last.out_features, first.out_features),
        len(linears),
        max(rates, default=0.0),
    )
    for name in {**made, **layers}:
        layer = layers.get(name)
        found = None if layer is None else _Made.of(layer)
        if found != made.get(name):
            raise ArchitectureError(
                f"layers must be as {kind} makes them; got {found} for {name}, "
                f"which would be {made.get(name)}; train other modules by loop.members_of"
            )
    shapes = _tensors_of(module)
    dtypes = {value.dtype for value in module.parameters()}
    if shapes != tensors or len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        raise ArchitectureError(
            f"parameters and buffers must be as {kind} makes them, all trained and in float32 or "
            f"all in float64; got {sorted(shapes)} in {', '.join(sorted(map(str, dtypes)))}; train "
            "other modules by loop.members_of"
        )
    if any(map(_is_altered, module.modules())):
        raise ArchitectureError(
            f"{kind} must have no hooks and no forward pass of its own; got some; train other "
            "modules by loop.members_of"
        )


@lru_cache(maxsize=16)
def _as_made(
    kind: str, shape: tuple[int, int, int], n_linears: int, rate: float
) -> tuple[dict[str, _Made], frozenset[tuple[str, tuple[int, ...], bool]]]:
    """Layers and tensors of a new module, made without memory or random numbers."""
    with torch.device("meta"):
        if kind == "TabResNet":
            made: nn.Module = TabResNet(*shape, max(1, n_linears // 2 - 1), rate)
        elif kind == "MLP":
            made = MLP(*shape, max(1, n_linears - 1), rate)
        else:
            made = LinearBaseline(*shape[:2])
    layers = {name: _Made.of(layer) for name, layer in made.named_modules() if name}
    return layers, _tensors_of(made)


def _tensors_of(module: nn.Module) -> frozenset[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and whether it is trained, of every parameter and buffer."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return frozenset((name, tuple(value.shape), value.requires_grad) for name, value in named)


def _is_altered(layer: nn.Module) -> bool:
    """Whether a layer's call does more, or something else, than its class says."""
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(layer)


class _Made(NamedTuple):
    """Class and settings of a layer, without the layers in it."""

    kind: type[nn.Module]
    settings: str

    @classmethod
    def of(cls, layer: nn.Module) -> _Made:
        return cls(type(layer), layer.extra_repr())

    def __str__(self) -> str:
        return f"{self.kind.__name__}({self.settings})"


def _hidden_layers(
    layers: Mapping[str, nn.Module], linears: Sequence[str], *, is_residual: bool
) -> Iterator[HiddenLayer]:
    """The layers before the head, each with the norm and the dropout that follow it."""
    names = list(layers)
    for i, (linear, following) in enumerate(itertools.pairwise(linears)):
        between = names[names.index(linear) : names.index(following)]
        (norm,) = (name for name in between if isinstance(layers[name], nn.BatchNorm1d))
        rates = [layer.p for layer in map(layers.get, between) if isinstance(layer, nn.Dropout)]
        yield HiddenLayer(
            linear,
            norm,
            rates[0] if rates else 0.0,
            opens_block=is_residual and i % 2 == 1,
            closes_block=is_residual and i > 0 and i % 2 == 0,
        )


class FlatTensors:
    """One buffer with a row per member.

    `memory`: (n_members, size); zero at first, and between the pieces for good.
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

    def like(self) -> FlatTensors:
        """A buffer laid out as this one is, full of zeros."""
        return FlatTensors(
            list(self._offsets), len(self.memory), self.memory.dtype, self.memory.device
        )

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

    def split(self, rows: Tensor) -> dict[Piece, Tensor]:
        """All pieces of rows like those of the memory, by one differentiable operation.

        Each has the shape of `view`.
        """
        sizes: list[int] = []
        stops = [*list(self._offsets.values())[1:], rows.shape[1]]
        for piece, start, stop in zip(self._offsets, self._offsets.values(), stops, strict=True):
            sizes += [piece.length, stop - start - piece.length]
        values = torch.split(rows, sizes, dim=1)[::2]
        return {
            piece: value.reshape(len(rows), len(piece.names), *piece.shape)
            for piece, value in zip(self._offsets, values, strict=True)
        }

    def named(self, member: int) -> Iterator[tuple[str, Tensor]]:
        """Name and view of every tensor of a member."""
        for piece in self._offsets:
            values = self.view(piece, slice(member, member + 1))[0]
            if piece.is_transposed:
                values = values.transpose(1, 2)
            yield from zip(piece.names, values, strict=True)


class MemberBuffers:
    """What a training step of stacked members reads and writes, a row per member.

    `parameters`, `gradients`: those that weight decay acts on come first.
    `first_moments`, `second_moments`: (n_members, size); AdamW's running averages of the gradient
        and of its square.
    `steps`: (n_members,), float32; AdamW's steps done by each member.
    `statistics`: batch norm's. Running means stand here without the linear layers' biases.
    """

    def __init__(self, layout: TensorLayout, n_members: int) -> None:
        trained = (*layout.decayed(), *layout.plain())
        self.parameters, self.gradients, first, second = (
            FlatTensors(trained, n_members, layout.dtype, layout.device) for _ in range(4)
        )
        self.first_moments, self.second_moments = first.memory, second.memory
        self.steps = torch.zeros(n_members, dtype=torch.float32, device=layout.device)
        self.statistics = FlatTensors(layout.statistics(), n_members, layout.dtype, layout.device)
        self.n_decayed = self.parameters.offset(layout.plain()[0])

    @property
    def n_members(self) -> int:
        """How many there are."""
        return len(self.steps)

    def trained(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients and AdamW's running averages, all laid out as the parameters are."""
        return self.gradients.memory, self.first_moments, self.second_moments
