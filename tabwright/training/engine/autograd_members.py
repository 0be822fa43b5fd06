"""Members trained by plain autograd: the yardstick of the fast engine, and its stand-in.

`ReferenceMembers` offers what `members.StackedMembers` offers for any `nn.Module` that maps
`(batch, input_dim)` to `(batch, output_dim)`, one module after the other, with PyTorch's own
layers, dropout and AdamW. `trainer.members_of` falls back on it for modules that the fast engine
does not know; the tests hold the fast engine to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tabwright.training.engine.dropout import Part


class ReferenceMembers:
    """Networks trained side by side by autograd.

    Parameters
    ----------
    modules : sequence of nn.Module
        Each maps (batch, input_dim) to (batch, output_dim). They are copied.
    seeds : sequence of int
        One per module: the seed of its dropout.
    betas : tuple of float, default=(0.9, 0.999)
        AdamW's.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if len(seeds) != len(modules):
            raise ValueError(f"seeds must be one per module ({len(modules)}); got {len(seeds)}")
        self._modules = [copy.deepcopy(module) for module in modules]
        self._seeds = list(seeds)
        self._optimizers = [
            torch.optim.AdamW(_decay_groups(module), betas=betas) for module in self._modules
        ]
        self._best = [copy.deepcopy(module.state_dict()) for module in self._modules]
        self._active = [True] * len(self._modules)

    @property
    def n_members(self) -> int:
        """How many networks there are."""
        return len(self._modules)

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor:
        """Run forward in training mode and backward from the gradient that `loss_grad` gives.

        Parameters
        ----------
        x : Tensor of shape (batch, input_dim), float32
        loss_grad : callable
            Maps logits of shape (n_members, batch, output_dim) to the loss's gradient in them.
        step : int
            Number of the step; the dropout of a step depends on it and on the member's seed only.
        part : None
            Several workers cannot share a batch here.

        Returns
        -------
        Tensor of shape (n_members, batch, output_dim)
        """
        if part is not None:
            raise ValueError(
                f"reference members must have whole batches; got a part, {part}; "
                "use members.StackedMembers"
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
