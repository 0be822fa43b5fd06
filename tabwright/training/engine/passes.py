"""The passes of stacked members over batches of one size: buffers, forward and backward.

`BatchWork` holds what one batch size needs; its groups of members compute by the kernels of
`layers`, or whole passes at once by `compiled_network`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import CompiledKernels
from tabwright.training.engine.compiled_network import (
    CompiledNetwork,
    Layer,
    NetworkBuffers,
)
from tabwright.training.engine.dropout import HIGHEST_HASHED_RATE, Part
from tabwright.training.engine.layers import (
    BFloat16Products,
    HiddenWeights,
    HiddenWork,
    backward_hidden,
    forward_hidden,
    head_values,
)
from tabwright.training.engine.tensor_layout import FlatTensors, TensorLayout
from tabwright.training.engine.threads import members_together, pieces_of
from tabwright.training.engine.torch_kernels import BATCH_NORM_MOMENTUM, LayerKernels

__all__ = ["BatchWork", "MemberGroup", "Stack"]


class Stack(NamedTuple):
    """What the passes of stacked members read and write, and how they compute.

    Parameters
    ----------
    architecture : TensorLayout
    parameters, gradients, statistics : FlatTensors
        A row per member.
    all_reduce : callable or None
        Sums a tensor over the workers that share every batch, in place.
    in_half : bool
        Whether products are computed in bfloat16.
    is_compiled : bool
        Whether kernels are compiled.
    """

    architecture: TensorLayout
    parameters: FlatTensors
    gradients: FlatTensors
    statistics: FlatTensors
    all_reduce: Callable[[Tensor], None] | None
    in_half: bool
    is_compiled: bool

    @property
    def n_members(self) -> int:
        """How many there are."""
        return len(self.parameters.memory)

    @property
    def runs_whole_passes(self) -> bool:
        """Whether a member's pass is one call: compiled, where nothing comes in its middle."""
        return (
            self.is_compiled
            and not self.in_half
            and self.all_reduce is None
            and all(layer.rate <= HIGHEST_HASHED_RATE for layer in self.architecture.hidden)
        )


class BatchWork:
    """Buffers and passes of all members for one batch size.

    Parameters
    ----------
    stack : Stack
    lanes : list of list of slice
        The members that train, by thread.
    batch : int
        Rows that are here.
    part : Part, optional
        Which rows of a batch these are, where workers share it.

    Attributes
    ----------
    logits : Tensor of shape (n_members, batch, output_dim)
    keys : Tensor of shape (n_layers, n_members), int32
        Where the step's dropout keys go.
    lanes : list of list of MemberGroup
        The members by thread, those together that are computed at once.
    slices : list of list of slice
        The members by thread.
    """

    def __init__(
        self,
        stack: Stack,
        lanes: list[list[slice]],
        batch: int,
        part: Part | None = None,
    ) -> None:
        arch, like = stack.architecture, stack.parameters.memory
        self.logits = like.new_zeros(stack.n_members, batch, arch.output_dim)
        self.keys = torch.zeros(
            len(arch.hidden), stack.n_members, dtype=torch.int32, device=like.device
        )
        # Workers must sum the same pieces, whatever their parts of the batch.
        together = stack.n_members
        if stack.runs_whole_passes:
            together = 1
        elif stack.all_reduce is None:
            together = members_together(arch, stack.n_members, batch)
        self.slices = lanes
        self.lanes: list[list[MemberGroup]] = []
        for lane in lanes:
            pieces = list(pieces_of(lane, together))
            largest = max((piece.stop - piece.start for piece in pieces), default=0)
            scratch = like.new_empty(3, largest, batch, arch.hidden_dim)
            self.lanes.append([MemberGroup(stack, piece, self, scratch, part) for piece in pieces])


def _compiled(kernels: LayerKernels) -> CompiledKernels:
    assert isinstance(kernels, CompiledKernels), type(kernels)
    return kernels


class MemberGroup:
    """Members that are computed at once, for one batch size.

    Parameters
    ----------
    stack : Stack
    members : slice
    work : BatchWork
        Has the logits and the keys.
    scratch : Tensor of shape (3, at least n_members, batch, hidden_dim)
        Holds nothing between two passes.
    part : Part or None

    Attributes
    ----------
    members : slice
    logits : Tensor of shape (n_members of the group, batch, output_dim)
    keys : Tensor of shape (n_layers, n_members of the group), int32
        Where their dropout keys go.
    """

    def __init__(
        self,
        stack: Stack,
        members: slice,
        work: BatchWork,
        scratch: Tensor,
        part: Part | None,
    ) -> None:
        arch = stack.architecture
        self.members = members
        self._n_members = n_members = members.stop - members.start
        batch = work.logits.shape[1] if part is None else part.n_rows
        self._hidden = arch.hidden
        self.logits = work.logits[members]
        self.keys = work.keys[:, members]
        self._input_dim = arch.input_dim
        self._scratch, self._gradient, self._spare = scratch[:, :n_members].unbind(0)
        self._weights, self._head, self._head_bias = self._views(stack.parameters, arch)
        self._gradients, self._head_gradient, self._head_bias_gradient = self._views(
            stack.gradients, arch
        )
        self._head_transposed = self._head.transpose(1, 2)
        # Sums over the batch of all layers, laid out as the running statistics are, and what
        # turns them into this batch's part of those: the variance is the unbiased one.
        self._running = stack.statistics.memory[members]
        sums = FlatTensors(arch.statistics(), n_members, arch.dtype, arch.device)
        shares = FlatTensors(arch.statistics(), n_members, arch.dtype, arch.device)
        self._sums, self._shares = sums.memory, shares.memory
        everyone = slice(None)
        totals, square_sums = (sums.view(piece, everyone) for piece in arch.statistics())
        self._kept_share = scratch.new_full((), 1 - BATCH_NORM_MOMENTUM)
        if arch.hidden:
            for piece, n_rows in zip(arch.statistics(), (batch, batch - 1), strict=True):
                shares.view(piece, everyone).fill_(BATCH_NORM_MOMENTUM / n_rows)
        self._layers = [
            HiddenWork(
                layer.rate,
                totals[:, i : i + 1],
                square_sums[:, i : i + 1],
                self._scratch,
                part=part,
                all_reduce=stack.all_reduce,
                products=BFloat16Products() if stack.in_half else None,
                is_compiled=stack.is_compiled,
            )
            for i, layer in enumerate(arch.hidden)
        ]
        self._step_keys = [keys[members, None, None] for keys in work.keys]
        self._compiled = self._compiled_network() if stack.runs_whole_passes else None

    def _compiled_network(self) -> CompiledNetwork:
        layers = [
            Layer(
                _compiled(work.kernels),
                weights.weight[0],
                weights.norm[0],
                gradients.weight[0],
                gradients.norm[0],
                key[0],
                layer.opens_block,
                layer.closes_block,
            )
            for layer, weights, gradients, work, key in zip(
                self._hidden,
                self._weights,
                self._gradients,
                self._layers,
                self._step_keys,
                strict=True,
            )
        ]
        buffers = NetworkBuffers(
            head=self._head[0],
            head_gradient=self._head_gradient[0],
            head_bias=self._head_bias[0, 0],
            head_bias_gradient=self._head_bias_gradient[0, 0],
            logits=self.logits[0],
            outer=torch.empty_like(self.logits[0]),
            gradient=self._gradient[0],
            spare=self._spare[0],
            scratch=self._scratch[0],
            running=self._running[0],
            sums=self._sums[0],
            shares=self._shares[0],
        )
        return CompiledNetwork(layers, buffers, self._input_dim, 1 - BATCH_NORM_MOMENTUM)

    def _views(
        self, flat: FlatTensors, arch: TensorLayout
    ) -> tuple[list[HiddenWeights], Tensor, Tensor]:
        *linears, head = (flat.view(piece, self.members)[:, 0] for piece in arch.decayed())
        *norms, head_bias = (flat.view(piece, self.members) for piece in arch.plain())
        hidden = [HiddenWeights(*pair) for pair in zip(linears, norms, strict=True)]
        return hidden, head, head_bias

    def forward(self, x: Tensor) -> None:
        """Logits in training mode of a batch (1, rows, input_dim); running statistics move."""
        if self._compiled is not None:
            self._compiled.forward(x[0].contiguous())
            return
        values = x if self._n_members == 1 else x.expand(self._n_members, -1, -1)
        entry = values
        for layer, weights, work, key in zip(
            self._hidden, self._weights, self._layers, self._step_keys, strict=True
        ):
            if layer.opens_block:
                entry = values
            residual = entry if layer.closes_block else None
            values = forward_hidden(values, weights, work, residual=residual, key=key)
        head_values(self._head_bias, values, self._head_transposed, self.logits)
        if self._hidden:
            self._running.mul_(self._kept_share).addcmul_(self._sums, self._shares)

    def backward(self, x: Tensor, logits_gradient: Tensor) -> None:
        """All gradients from that in the logits, of shape (n_members of the group, ...)."""
        if self._compiled is not None:
            self._compiled.backward(x[0].contiguous(), logits_gradient[0].contiguous())
            return
        outer = logits_gradient
        x = x if self._n_members == 1 else x.expand(self._n_members, -1, -1)
        last = self._layers[-1].output if self._layers else x
        torch.bmm(outer.transpose(1, 2), last, out=self._head_gradient)
        torch.sum(outer, 1, keepdim=True, out=self._head_bias_gradient)
        if not self._layers:
            return
        gradient, spare = self._gradient, self._spare
        torch.bmm(outer, self._head, out=gradient)
        for i in reversed(range(len(self._layers))):
            layer = self._hidden[i]
            # Inside a block, the gradient in the shortcut waits in the other buffer.
            in_block = layer.opens_block or layer.closes_block
            backward_hidden(
                gradient,
                self._layers[i - 1].output if i else x,
                self._weights[i],
                self._layers[i],
                self._gradients[i],
                x_gradient=None if i == 0 else spare if in_block else gradient,
                accumulate=layer.opens_block,
            )
            if in_block:
                gradient, spare = spare, gradient
