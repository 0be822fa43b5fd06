"""Members trained by plain PyTorch: autograd, its layers, its AdamW.

`AutogradSteps` takes steps of stacked `models.py` networks: on CUDA, in float64 and bfloat16, where
workers share a batch, and where the extension is not built. The tests hold the compiled steps to
it. `ReferenceMembers` trains any `nn.Module` that maps (batch, input_dim) to (batch, output_dim),
one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tabwright.training.engine.dropout import Part, element_hashes, is_dropped
from tabwright.training.engine.tensor_layout import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    HiddenLayer,
    MemberBuffers,
    TensorLayout,
)

AllReduce = Callable[[Tensor], None]

ADAMW_BETAS = (0.9, 0.999)


class AutogradSteps:
    """Steps of stacked members by batched products and autograd.

    `all_reduce`: sums a tensor over the workers that share every batch, in place.
    `in_half`: whether the hidden layers' products are computed in bfloat16, by `torch.autocast`.
    """

    def __init__(
        self,
        layout: TensorLayout,
        buffers: MemberBuffers,
        *,
        all_reduce: AllReduce | None = None,
        in_half: bool = False,
    ) -> None:
        self._layout, self._buffers = layout, buffers
        self._all_reduce, self._in_half = all_reduce, in_half
        # Parameters of torch's optimiser that share the memory of the buffers.
        self._rows = [nn.Parameter(row) for row in buffers.parameters.memory.unbind(0)]
        self._optimizer = torch.optim.AdamW(
            self._rows,
            betas=ADAMW_BETAS,
            weight_decay=0.0,
            fused=layout.device.type in ("cpu", "cuda") or None,
        )
        for k, row in enumerate(self._rows):
            self._optimizer.state[row] = {
                "step": buffers.steps[k],
                "exp_avg": buffers.first_moments[k],
                "exp_avg_sq": buffers.second_moments[k],
            }

    def forward_backward(
        self,
        active: Sequence[int],
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        keys: Tensor | None,
        part: Part | None,
    ) -> Tensor:
        """Logits of some members, shape (n_active, batch, output_dim), and their gradients.

        `keys` are dropout's, of shape (n_layers, n_active); `loss_grad` maps the logits to the
        loss's gradient in them.
        """
        index = torch.tensor(active, device=x.device, dtype=torch.int64)
        rows = self._buffers.parameters.memory.index_select(0, index).requires_grad_()
        with torch.enable_grad():
            logits = self._forward(rows, x, index, keys, part)
        (gradient,) = torch.autograd.grad(logits, rows, loss_grad(logits.detach()))
        self._buffers.gradients.memory.index_copy_(0, index, gradient)
        if self._all_reduce is not None:
            self._all_reduce(self._buffers.gradients.memory)
        return logits.detach()

    def _forward(
        self, rows: Tensor, x: Tensor, index: Tensor, keys: Tensor | None, part: Part | None
    ) -> Tensor:
        """Logits in training mode; running statistics move."""
        layout = self._layout
        pieces = self._buffers.parameters.split(rows)
        *weights, head = (pieces[piece][:, 0] for piece in layout.decayed())
        *norms, head_bias = (pieces[piece] for piece in layout.plain())
        values = entry = x.expand(len(rows), -1, -1)
        for i, layer in enumerate(layout.hidden):
            if layer.opens_block:
                entry = values
            values = self._normalised(self._product(values, weights[i]), norms[i], i, index, part)
            if layer.closes_block:
                values = values + entry
            values = values.relu()
            if keys is not None and layer.rate > 0:
                values = values * self._kept(layer, keys[i], part or Part(0, len(x)), len(x))
        return torch.baddbmm(head_bias, values, head.transpose(1, 2))

    def _product(self, values: Tensor, weight: Tensor) -> Tensor:
        if not self._in_half:
            return torch.bmm(values, weight)
        with torch.autocast(values.device.type, torch.bfloat16):
            return torch.bmm(values, weight).to(weight.dtype)

    def _normalised(
        self, values: Tensor, norm: Tensor, layer: int, index: Tensor, part: Part | None
    ) -> Tensor:
        """Batch norm by the whole batch's own statistics."""
        n_rows = values.shape[1] if part is None else part.n_rows
        total = self._over_workers(values.sum(1, keepdim=True))
        # The mean comes off before anything is squared: the difference of two large sums would
        # leave nothing of a small variance.
        centred = values - total / n_rows
        square_sum = self._over_workers(centred.square().sum(1, keepdim=True))
        with torch.no_grad():
            of_batch = (total / n_rows, square_sum / (n_rows - 1))
            for piece, batch_statistics in zip(self._layout.statistics(), of_batch, strict=True):
                running = self._buffers.statistics.view(piece, slice(None))[:, layer]
                moved = running[index].lerp(batch_statistics[:, 0], BATCH_NORM_MOMENTUM)
                running.index_copy_(0, index, moved)
        bias, weight = norm[:, :1], norm[:, 1:]
        return centred * (square_sum / n_rows + BATCH_NORM_EPS).rsqrt() * weight + bias

    def _over_workers(self, values: Tensor) -> Tensor:
        if self._all_reduce is None:
            return values
        summed: Tensor = _AllReduce.apply(values, self._all_reduce)  # type: ignore[no-untyped-call]
        return summed

    def _kept(self, layer: HiddenLayer, keys: Tensor, part: Part, n_rows: int) -> Tensor:
        """1 / keep where an element stays, 0 where it is dropped."""
        elements = element_hashes(part.n_rows, self._layout.hidden_dim, keys.device)
        hashes = elements[part.start : part.start + n_rows]
        kept = ~is_dropped(hashes, keys[:, None, None], layer.rate)
        return kept.to(self._layout.dtype) / (1.0 - layer.rate)

    def update(self, active: Sequence[int], learning_rate: float, weight_decay: float) -> None:
        """One step of AdamW for some members; decay on linear weights only."""
        buffers = self._buffers
        for row in self._rows:
            row.grad = None
        with torch.no_grad():
            for k in active:
                self._rows[k][: buffers.n_decayed].mul_(1 - learning_rate * weight_decay)
                self._rows[k].grad = buffers.gradients.memory[k]
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()


class _AllReduce(torch.autograd.Function):
    """A sum over workers. What they lose by it is the sum of what each loses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, all_reduce: AllReduce) -> Tensor:
        ctx.all_reduce = all_reduce
        summed = values.clone()
        all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.all_reduce(summed)
        return summed, None


class ReferenceMembers:
    """Networks of any kind, trained one after the other by autograd.

    `modules`: each maps (batch, input_dim) to (batch, output_dim). They are copied.
    `seeds`: one per module: the seed of its dropout.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
    ) -> None:
        if len(seeds) != len(modules):
            raise ValueError(f"seeds must be one per module ({len(modules)}); got {len(seeds)}")
        self._modules = [copy.deepcopy(module) for module in modules]
        self._seeds = list(seeds)
        self._optimizers = [
            torch.optim.AdamW(_decay_groups(module), betas=ADAMW_BETAS) for module in self._modules
        ]
        self._best = [copy.deepcopy(module.state_dict()) for module in self._modules]
        self._active = [True] * len(self._modules)

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return len(self._modules)

    @property
    def compiled(self) -> None:
        """No compiled steps are taken here."""
        return None

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor:
        """Logits of a step and their gradients, as `StackedMembers.forward_backward` has them."""
        if part is not None:
            raise ValueError(
                f"reference members must have whole batches; got a part, {part}; use StackedMembers"
            )
        outputs = []
        for module, seed in zip(self._modules, self._seeds, strict=True):
            module.train()
            module.zero_grad(set_to_none=True)
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed((seed * 1_000_003 + step) % 2**63)
                outputs.append(module(x))
        logits = torch.stack([output.detach() for output in outputs])
        gradients = loss_grad(logits.clone())
        for output, gradient in zip(outputs, gradients, strict=True):
            output.backward(gradient)
        return logits

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None:
        """One step of AdamW for every active member; decay on linear weights only."""
        for optimizer, active in zip(self._optimizers, self._active, strict=True):
            if not active:
                continue
            decayed, plain = optimizer.param_groups
            decayed["lr"] = plain["lr"] = learning_rate
            decayed["weight_decay"], plain["weight_decay"] = weight_decay, 0.0
            optimizer.step()

    def logits(self, x: Tensor) -> Tensor:
        """Logits in eval mode, shape (n_members, batch, output_dim)."""
        with torch.no_grad():
            return torch.stack([module.eval()(x) for module in self._modules])

    def set_active(self, active: Sequence[bool]) -> None:
        """Say which members still train; the others stay as they are."""
        self._active = list(active)

    def snapshot(self, member: int) -> None:
        """Keep the member's present state as its best."""
        self._best[member] = copy.deepcopy(self._modules[member].state_dict())

    def restore(self) -> None:
        """Bring every member back to its best state."""
        for module, best in zip(self._modules, self._best, strict=True):
            module.load_state_dict(best)

    def modules(self) -> list[nn.Module]:
        """The members, in eval mode."""
        return [module.eval() for module in self._modules]


def _decay_groups(module: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    weights = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear)}
    decayed = [value for value in module.parameters() if id(value) in weights]
    plain = [value for value in module.parameters() if id(value) not in weights]
    return [{"params": decayed}, {"params": plain}]
