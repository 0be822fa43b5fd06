"""Several networks of one architecture, trained as one stacked computation without autograd.

`StackedMembers` takes `models.py` modules apart into flat buffers, trains them side by side by
the kernels of `layers` and the optimiser of `optimizer`, and puts them together again. On a CPU
the members of a step are computed one after the other, which is as fast as all at once (the
products dominate, and one member's activations stay in the cache) and makes a member's bits
independent of the others; on a GPU they are computed at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.layers import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    HiddenWeights,
    HiddenWork,
    backward_hidden,
    dropout_keys,
    forward_hidden,
)
from ai.ml.frameworks.pytorch.models import MLP, LinearBaseline, ResidualBlock, TabResNet
from ai.ml.frameworks.pytorch.optimizer import FlatAdamW, Segments

__all__ = ["StackedMembers"]

_ALIGNMENT = 64
_STEPS_PER_BLOCK = 256
_EVALUATION_ROWS = 512


class StackedMembers:
    """Networks of one architecture, trained side by side.

    Parameters
    ----------
    modules : sequence of nn.Module
        `MLP`, `TabResNet` or `LinearBaseline`, all of one architecture, shapes, dtype and device.
        They are copied.
    seeds : sequence of int
        One per module: the seed of its dropout. A member's stream depends on nothing else.
    betas : tuple of float, default=(0.9, 0.999)
        AdamW's.

    Raises
    ------
    TypeError
        If the modules are not of one architecture that is known here.
    ValueError
        If there is no module, or the seeds are not as many.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if not modules:
            raise ValueError("modules must hold at least one network; got none")
        if len(seeds) != len(modules):
            raise ValueError(f"seeds must be one per module ({len(modules)}); got {len(seeds)}")
        plan = _plan(modules[0])
        if any(_plan(module) != plan for module in modules):
            raise TypeError("modules must all be of one architecture, shapes, dtype and device")
        self._plan = plan
        self._templates = [copy.deepcopy(module).eval() for module in modules]
        self._seeds = tuple(seeds)
        n_members = len(modules)
        first = next(modules[0].parameters())
        self._parameters = _Flat(plan.parameters(), n_members, first)
        self._gradients = _Flat(plan.parameters(), n_members, first)
        self._moments = tuple(_Flat(plan.parameters(), n_members, first) for _ in range(2))
        self._statistics = _Flat((plan.statistics(),), n_members, first)
        self._best_parameters = _Flat(plan.parameters(), n_members, first)
        self._best_statistics = _Flat((plan.statistics(),), n_members, first)
        self._steps = torch.zeros(n_members, dtype=torch.float32, device=first.device)
        self._n_batches = [0] * n_members
        self._best_n_batches = [0] * n_members
        self._active = [True] * n_members
        decayed, plain = (
            Segments(
                *(
                    flat.segments(part)
                    for flat in (self._parameters, self._gradients, *self._moments)
                )
            )
            for part in range(2)
        )
        self._optimizer = FlatAdamW(decayed, plain, self._steps, betas=betas)
        for k, module in enumerate(modules):
            self._fill(k, module)
            self.snapshot(k)
        size = n_members if first.device.type != "cpu" else 1
        self._groups = [
            _Group(self, range(start, start + size)) for start in range(0, n_members, size)
        ]
        self._work: dict[int, _Work] = {}
        self._keys: tuple[int, Tensor] | None = None

    # -- training -----------------------------------------------------------------------------

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return len(self._templates)

    def forward_backward(
        self, x: Tensor, loss_grad: Callable[[Tensor], Tensor], *, step: int
    ) -> Tensor:
        """Run forward in training mode and backward from the gradient that `loss_grad` gives.

        Members that are not active are left out: their logits are zero.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype
            At least two rows, where the architecture has batch norm.
        loss_grad : callable
            Maps logits of shape (n_members, batch, output_dim) to the loss's gradient in them. It
            must neither change the logits nor keep them.
        step : int
            Number of the step; the dropout of a step depends on it and on the member's seed only.

        Returns
        -------
        Tensor of shape (n_members, batch, output_dim)
            The logits; overwritten by the next call.

        Raises
        ------
        ValueError
            If `x` has another shape, or one row where batch norm needs two.
        """
        plan = self._plan
        if x.ndim != 2 or x.shape[1] != plan.input_dim:
            raise ValueError(
                f"x must have shape (batch, {plan.input_dim}); got {tuple(x.shape)}; "
                "encode the rows with the encoder of this model"
            )
        if plan.hidden and len(x) < 2:
            raise ValueError(
                f"batch norm needs at least 2 rows in training; got {len(x)}; join the last batch "
                "to the one before"
            )
        work = self._work.get(len(x))
        if work is None:
            work = self._work[len(x)] = _Work(self, len(x))
        shared = work.take_inputs(x, self._step_keys(step) if plan.has_dropout else None)
        active = [g for g in self._groups if any(self._active[k] for k in g.members)]
        for group in active:
            group.forward(work, shared)
        gradient = loss_grad(work.logits)
        for group in active:
            group.backward(work, shared, gradient)
        for k, is_active in enumerate(self._active):
            self._n_batches[k] += is_active
        return work.logits

    def optimizer_step(self, learning_rate: float | Tensor, weight_decay: float) -> None:
        """One step of AdamW for every active member; decay on linear weights only.

        Parameters
        ----------
        learning_rate : float or Tensor of shape ()
        weight_decay : float
        """
        members = None if all(self._active) else [k for k, a in enumerate(self._active) if a]
        self._optimizer.step(learning_rate, weight_decay, members)

    def set_active(self, active: Sequence[bool]) -> None:
        """Say which members still train; the others stay as they are, and cost nothing on a CPU."""
        if len(active) != self.n_members:
            raise ValueError(f"active must be one per member ({self.n_members}); got {len(active)}")
        self._active = [bool(value) for value in active]
        for group in self._groups:
            group.set_active([self._active[k] for k in group.members])
        for work in self._work.values():
            work.logits.zero_()

    # -- evaluation ---------------------------------------------------------------------------

    def logits(self, x: Tensor) -> Tensor:
        """Logits in eval mode.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), of the parameters' dtype

        Returns
        -------
        Tensor of shape (n_members, batch, output_dim)
        """
        out = x.new_empty(self.n_members, len(x), self._plan.output_dim)
        rows = _EVALUATION_ROWS if x.device.type == "cpu" else len(x)
        for group in self._groups:
            layers = group.folded()
            for start in range(0, len(x), rows or 1):
                block = x[start : start + rows]
                group.evaluate(layers, block, out[group.slice, start : start + rows])
        return out

    def modules(self) -> list[nn.Module]:
        """The members as ordinary modules of `models.py`, copies, in eval mode."""
        modules = [copy.deepcopy(template) for template in self._templates]
        for k, module in enumerate(modules):
            state = module.state_dict()
            for name, value in self._named(k, self._parameters, self._statistics):
                state[name].copy_(value)
            for name, value in state.items():
                if name.endswith("num_batches_tracked"):
                    value.fill_(self._n_batches[k])
        return modules

    def gradients(self, member: int) -> dict[str, Tensor]:
        """Gradients of the last step by parameter name, copies."""
        return {name: value.clone() for name, value in self._gradients.named(member)}

    # -- best states and resuming -------------------------------------------------------------

    def snapshot(self, member: int) -> None:
        """Keep the member's present state as its best."""
        self._best_parameters.copy_member(member, self._parameters)
        self._best_statistics.copy_member(member, self._statistics)
        self._best_n_batches[member] = self._n_batches[member]

    def restore(self) -> None:
        """Bring every member back to its best state."""
        for k in range(self.n_members):
            self._parameters.copy_member(k, self._best_parameters)
            self._statistics.copy_member(k, self._best_statistics)
        self._n_batches = list(self._best_n_batches)

    def state(self) -> dict[str, Tensor]:
        """All that an exact resumption needs, copied to the CPU.

        Returns
        -------
        dict of str to Tensor
            Parameters, AdamW's running averages and counts of steps, running statistics, best
            states, and which members are active. Meant for `load_state` of members that were
            made from the same architecture and as many seeds.
        """
        return {name: value.detach().to("cpu", copy=True) for name, value in self._buffers()} | {
            "steps": self._steps.to("cpu", copy=True),
            "n_batches": torch.tensor(self._n_batches, dtype=torch.int64),
            "best_n_batches": torch.tensor(self._best_n_batches, dtype=torch.int64),
            "active": torch.tensor(self._active, dtype=torch.bool),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Parameters
        ----------
        state : mapping of str to Tensor

        Raises
        ------
        ValueError
            If a tensor is missing, is not known, or has another shape or dtype than these members
            need; nothing is changed then.
        """
        present = self.state()
        if state.keys() != present.keys():
            odd = sorted(state.keys() ^ present.keys())
            raise ValueError(f"the state must hold {sorted(present)}; missing or unknown: {odd}")
        for name, value in present.items():
            given = state[name]
            if given.shape != value.shape or given.dtype != value.dtype:
                raise ValueError(
                    f"{name} of the state must be {value.dtype} of shape {tuple(value.shape)}; got "
                    f"{given.dtype} of shape {tuple(given.shape)}; resume with the same settings"
                )
        for name, buffer in self._buffers():
            buffer.copy_(state[name])
        self._steps.copy_(state["steps"])
        self._n_batches = state["n_batches"].tolist()
        self._best_n_batches = state["best_n_batches"].tolist()
        self.set_active(state["active"].tolist())

    # -- private ------------------------------------------------------------------------------

    def _buffers(self) -> Iterator[tuple[str, Tensor]]:
        yield "parameters", self._parameters.memory
        yield "first_moments", self._moments[0].memory
        yield "second_moments", self._moments[1].memory
        yield "statistics", self._statistics.memory
        yield "best_parameters", self._best_parameters.memory
        yield "best_statistics", self._best_statistics.memory

    def _named(self, member: int, *flats: _Flat) -> Iterator[tuple[str, Tensor]]:
        for flat in flats:
            yield from flat.named(member)

    def _fill(self, member: int, module: nn.Module) -> None:
        state = module.state_dict()
        for name, value in self._named(member, self._parameters, self._statistics):
            value.copy_(state[name])
        counts = [int(v) for n, v in state.items() if n.endswith("num_batches_tracked")]
        self._n_batches[member] = counts[0] if counts else 0

    def _step_keys(self, step: int) -> Tensor:
        """Keys of one step, shape (n_layers, n_members, 2); a block of steps is made at once."""
        start = step - step % _STEPS_PER_BLOCK
        if self._keys is None or self._keys[0] != start:
            steps = torch.arange(start, start + _STEPS_PER_BLOCK, device=self._steps.device)
            self._keys = (start, dropout_keys(self._seeds, len(self._plan.hidden), steps))
        return self._keys[1][step - start]


# ---------------------------------------------------------------------------------------------
# Architectures
# ---------------------------------------------------------------------------------------------


class _Hidden(NamedTuple):
    """One hidden layer: the names of its modules, its dropout, its place in a residual block."""

    linear: str
    norm: str
    rate: float
    opens_block: bool = False
    closes_block: bool = False


class _Piece(NamedTuple):
    """Tensors of one shape that lie one after the other."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Plan:
    """What must agree between members."""

    hidden: tuple[_Hidden, ...]
    head: str
    input_dim: int
    hidden_dim: int
    output_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def has_dropout(self) -> bool:
        return any(layer.rate > 0 for layer in self.hidden)

    def parameters(self) -> tuple[tuple[_Piece, ...], tuple[_Piece, ...]]:
        """Those that weight decay acts on, and the others."""
        widths = [self.input_dim, *(self.hidden_dim for _ in self.hidden)]
        weights = [
            _Piece((f"{layer.linear}.weight",), (self.hidden_dim, width))
            for layer, width in zip(self.hidden, widths, strict=False)
        ]
        norms = [
            _Piece((f"{layer.norm}.bias", f"{layer.norm}.weight"), (self.hidden_dim,))
            for layer in self.hidden
        ]
        biases = _Piece(tuple(f"{layer.linear}.bias" for layer in self.hidden), (self.hidden_dim,))
        head = _Piece((f"{self.head}.weight",), (self.output_dim, widths[-1]))
        return (
            (*weights, head),
            (*norms, biases, _Piece((f"{self.head}.bias",), (self.output_dim,))),
        )

    def statistics(self) -> tuple[_Piece, ...]:
        return tuple(
            _Piece(tuple(f"{layer.norm}.{kind}" for layer in self.hidden), (self.hidden_dim,))
            for kind in ("running_mean", "running_var")
        )


def _plan(module: nn.Module) -> _Plan:
    """Read a module's layers off it.

    Subclasses are refused: they may compute something else.
    """
    hidden: list[_Hidden] = []
    if type(module) is LinearBaseline:
        head = "linear"
    elif type(module) is MLP:
        names = [name for name, layer in module.net.named_children()]
        *linears, head = [n for n in names if isinstance(module.net.get_submodule(n), nn.Linear)]
        norms = [n for n in names if isinstance(module.net.get_submodule(n), nn.BatchNorm1d)]
        drops = [layer.p for layer in module.net if isinstance(layer, nn.Dropout)]
        rates = drops or [0.0] * len(linears)
        hidden = [
            _Hidden(f"net.{linear}", f"net.{norm}", rate)
            for linear, norm, rate in zip(linears, norms, rates, strict=True)
        ]
        head = f"net.{head}"
    elif type(module) is TabResNet:
        hidden = [_Hidden("input_projection", "input_norm", 0.0)]
        for i, block in enumerate(module.blocks):
            if type(block) is not ResidualBlock:
                raise TypeError(f"blocks must be ResidualBlock; got {type(block).__name__}")
            rate = block.dropout.p if isinstance(block.dropout, nn.Dropout) else 0.0
            name = f"blocks.{i}"
            hidden.append(_Hidden(f"{name}.linear1", f"{name}.norm1", rate, opens_block=True))
            hidden.append(_Hidden(f"{name}.linear2", f"{name}.norm2", 0.0, closes_block=True))
        head = "head"
    else:
        raise TypeError(
            f"modules must be MLP, TabResNet or LinearBaseline; got {type(module).__name__}; "
            "train other modules with reference.ReferenceMembers"
        )
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d) and (
            (layer.eps, layer.momentum) != (BATCH_NORM_EPS, BATCH_NORM_MOMENTUM)
            or not (layer.affine and layer.track_running_stats)
        ):
            raise TypeError(f"batch norm must have its default settings; got {layer}")
    outer = module.get_submodule(head)
    inner = module.get_submodule(hidden[0].linear) if hidden else outer
    if not isinstance(outer, nn.Linear) or not isinstance(inner, nn.Linear):
        raise TypeError(f"the head and the first layer must be nn.Linear; got {outer}, {inner}")
    return _Plan(
        tuple(hidden),
        head,
        inner.in_features,
        inner.out_features if hidden else 0,
        outer.out_features,
        outer.weight.dtype,
        outer.weight.device,
    )


# ---------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------


class _Flat:
    """One buffer for all members: part by part, in a part member by member.

    A member's share of a part is a whole number of vectors, so that an operation over the buffer
    treats a member's elements alike wherever they lie.
    """

    def __init__(self, parts: Sequence[Sequence[_Piece]], n_members: int, like: Tensor) -> None:
        self._offsets: dict[_Piece, tuple[int, int]] = {}
        sizes = []
        for index, pieces in enumerate(parts):
            size = 0
            for piece in pieces:
                self._offsets[piece] = (index, size)
                length = len(piece.names) * math.prod(piece.shape)
                size += -(-length // _ALIGNMENT) * _ALIGNMENT
            sizes.append(size)
        self.memory = torch.zeros(n_members * sum(sizes), dtype=like.dtype, device=like.device)
        ends = torch.tensor(sizes).cumsum(0).mul(n_members).tolist()
        self._parts = [
            self.memory[end - n_members * size : end].view(n_members, size)
            for end, size in zip(ends, sizes, strict=True)
        ]

    def segments(self, part: int) -> list[Tensor]:
        """A member's share of a part, for each member."""
        return list(self._parts[part].unbind(0))

    def view(self, piece: _Piece, members: slice) -> Tensor:
        """Shape (members, names of the piece, *its shape)."""
        part, offset = self._offsets[piece]
        length = len(piece.names) * math.prod(piece.shape)
        rows = self._parts[part][members, offset : offset + length]
        return (
            rows.view(-1, len(piece.names), *piece.shape)
            if length
            else rows.new_empty(rows.shape[0], 0, 0)
        )

    def named(self, member: int) -> Iterator[tuple[str, Tensor]]:
        """Name and view of every tensor of a member."""
        for piece in self._offsets:
            if piece.names:
                values = self.view(piece, slice(member, member + 1))[0]
                yield from zip(piece.names, values, strict=True)

    def copy_member(self, member: int, source: _Flat) -> None:
        """Take over a member's values from a buffer of the same layout."""
        for mine, theirs in zip(self._parts, source._parts, strict=True):
            mine[member].copy_(theirs[member])


class _Inputs(NamedTuple):
    """A batch as all members see it."""

    x: Tensor  # (1, batch, input_dim); centred where there are hidden layers
    mean: Tensor | None  # (1, 1, input_dim)


class _Work:
    """Buffers for one batch size."""

    def __init__(self, owner: StackedMembers, batch: int) -> None:
        plan = owner._plan
        like = owner._parameters.memory
        size = len(owner._groups[0].members)
        self.logits = like.new_zeros(owner.n_members, batch, plan.output_dim)
        self.keys = torch.zeros(
            len(plan.hidden), owner.n_members, 2, dtype=torch.int32, device=like.device
        )
        self._centred = like.new_empty(1, batch, plan.input_dim)
        self._mean = like.new_empty(1, 1, plan.input_dim)
        self._batch = batch
        self._has_hidden = bool(plan.hidden)
        shape = (size, batch, plan.hidden_dim)
        scratch = like.new_empty(shape)
        self.gradients = (like.new_empty(shape), like.new_empty(shape))
        self.unbiased = 1 / (batch - 1) if batch > 1 else math.nan
        self.layers: list[list[HiddenWork]] = []
        self.step_keys: list[list[tuple[Tensor, Tensor]]] = []
        for group in owner._groups:
            self.layers.append(
                [
                    HiddenWork(layer.rate, mean, square_sum, scratch)
                    for layer, mean, square_sum in zip(
                        plan.hidden, group.means, group.square_sums, strict=True
                    )
                ]
            )
            self.step_keys.append(
                [(keys[group.slice, :1, None], keys[group.slice, 1:, None]) for keys in self.keys]
            )

    def take_inputs(self, x: Tensor, keys: Tensor | None) -> _Inputs:
        """Centre the batch once for all members, and note the step's keys."""
        if keys is not None:
            self.keys.copy_(keys)
        if not self._has_hidden:
            return _Inputs(x[None], None)
        torch.sum(x[None], 1, keepdim=True, out=self._mean).div_(self._batch)
        return _Inputs(torch.sub(x[None], self._mean, out=self._centred), self._mean)


class _Group:
    """Members that are computed at once, and their views of the flat buffers."""

    def __init__(self, owner: StackedMembers, members: range) -> None:
        plan = owner._plan
        self.members = members
        self.index = members.start // len(members)
        self.slice = slice(members.start, members.stop)
        self._hidden = plan.hidden
        self._weights, self._head = self._views(owner._parameters, plan)
        self._gradients, self._head_gradient = self._views(owner._gradients, plan)
        _, plain = plan.parameters()
        self._biases = owner._parameters.view(plain[-2], self.slice).flatten(1)
        # Means and variances of all layers, running and of the last batch.
        self._running = owner._statistics._parts[0][self.slice]
        pieces = _Flat((plan.statistics(),), len(members), owner._parameters.memory)
        self._batch = pieces._parts[0]
        everyone = slice(None)
        means, variances = (pieces.view(piece, everyone) for piece in plan.statistics())
        self._means, self._variances = means.flatten(1), variances.flatten(1)
        self.means = list(means.unsqueeze(2).unbind(1))
        self.square_sums = list(variances.unsqueeze(2).unbind(1))
        running = [owner._statistics.view(piece, self.slice) for piece in plan.statistics()]
        self._running_pairs = list(zip(*(r.unbind(1) for r in running), strict=True))
        self._bias_rows = owner._parameters.view(plain[-2], self.slice).unbind(1)
        self._momentum = torch.full_like(self._batch[:, :1], BATCH_NORM_MOMENTUM)

    def _views(self, flat: _Flat, plan: _Plan) -> tuple[list[HiddenWeights], tuple[Tensor, Tensor]]:
        decayed, plain = plan.parameters()
        hidden = [
            HiddenWeights(flat.view(weight, self.slice)[:, 0], flat.view(norm, self.slice))
            for weight, norm in zip(decayed[:-1], plain[:-2], strict=True)
        ]
        head = flat.view(decayed[-1], self.slice)[:, 0]
        return hidden, (head, flat.view(plain[-1], self.slice))

    def set_active(self, active: Sequence[bool]) -> None:
        mask = torch.tensor(active, dtype=self._momentum.dtype).unsqueeze(1)
        self._momentum.copy_(mask * BATCH_NORM_MOMENTUM)

    def forward(self, work: _Work, inputs: _Inputs) -> None:
        """Logits in training mode into `work`; the running statistics move."""
        n_members = len(self.members)
        values, mean = inputs.x, inputs.mean
        if n_members > 1:
            values = values.expand(n_members, -1, -1)
            mean = None if mean is None else mean.expand(n_members, -1, -1)
        entry = values
        for layer, weights, buffers, key in zip(
            self._hidden,
            self._weights,
            work.layers[self.index],
            work.step_keys[self.index],
            strict=True,
        ):
            if layer.opens_block:
                entry = values
            values = forward_hidden(
                values,
                weights,
                buffers,
                x_mean=mean,
                residual=entry if layer.closes_block else None,
                key=key,
            )
            mean = None
        weight, bias = self._head
        torch.baddbmm(bias, values, weight.transpose(1, 2), out=work.logits[self.slice])
        if self._hidden:
            self._means.add_(self._biases)
            self._variances.mul_(work.unbiased)
            self._running.lerp_(self._batch, self._momentum)

    def backward(self, work: _Work, inputs: _Inputs, logits_gradient: Tensor) -> None:
        """All gradients from that in the logits."""
        n_members = len(self.members)
        outer = logits_gradient[self.slice]
        weight_gradient, bias_gradient = self._head_gradient
        layers = work.layers[self.index]
        x = inputs.x.expand(n_members, -1, -1) if n_members > 1 else inputs.x
        last = layers[-1].output if layers else x
        torch.bmm(outer.transpose(1, 2), last, out=weight_gradient)
        torch.sum(outer, 1, keepdim=True, out=bias_gradient)
        if not layers:
            return
        gradient, spare = work.gradients
        torch.bmm(outer, self._head[0], out=gradient)
        for i in reversed(range(len(layers))):
            layer = self._hidden[i]
            # Inside a block the gradient of the shortcut waits in `spare`.
            into = spare if layer.closes_block or layer.opens_block else gradient
            backward_hidden(
                gradient,
                layers[i - 1].output if i else x,
                self._weights[i],
                layers[i],
                self._gradients[i],
                x_gradient=into if i else None,
                accumulate=layer.opens_block,
            )
            if layer.closes_block or layer.opens_block:
                gradient, spare = spare, gradient

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases with the running statistics of batch norm folded in."""
        layers = []
        for weights, (mean, variance), bias in zip(
            self._weights, self._running_pairs, self._bias_rows, strict=True
        ):
            scale = weights.norm_weight * (variance[:, None] + BATCH_NORM_EPS).rsqrt()
            shift = (bias - mean)[:, None] * scale + weights.norm_bias
            layers.append((weights.transposed * scale, shift))
        return layers

    def evaluate(self, layers: list[tuple[Tensor, Tensor]], x: Tensor, out: Tensor) -> None:
        """Logits in eval mode of rows `x`, (rows, input_dim), into `out`."""
        values = x[None].expand(len(self.members), -1, -1)
        entry = values
        for layer, (weight, shift) in zip(self._hidden, layers, strict=True):
            if layer.opens_block:
                entry = values
            values = torch.baddbmm(shift, values, weight)
            if layer.closes_block:
                values += entry
            values.relu_()
        weight, bias = self._head
        torch.baddbmm(bias, values, weight.transpose(1, 2), out=out)
