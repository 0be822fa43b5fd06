"""AdamW over flat segments of memory.

The parameters of a member lie in two segments, one that weight decay acts on and one that it does
not, so that a step of all members is two calls, whatever the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlatAdamW", "Segments", "adamw_step"]


@dataclass(frozen=True)
class Segments:
    """Flat pieces of memory that belong together, one per member in each sequence.

    Parameters
    ----------
    values, gradients, first_moments, second_moments : list of Tensor, 1-D
        Parameters, their gradients, and AdamW's two running averages.
    """

    values: list[Tensor]
    gradients: list[Tensor]
    first_moments: list[Tensor]
    second_moments: list[Tensor]

    def take(self, members: Sequence[int]) -> Segments:
        """The segments of some members."""
        return Segments(
            [self.values[k] for k in members],
            [self.gradients[k] for k in members],
            [self.first_moments[k] for k in members],
            [self.second_moments[k] for k in members],
        )


class FlatAdamW:
    """AdamW with decoupled weight decay on some of the segments.

    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, as
    `torch.optim.AdamW` has it.

    Parameters
    ----------
    decayed, plain : Segments
        Those that weight decay acts on, and the others; as many members in each.
    steps : Tensor of shape (n_members,), float32
        Steps done by each member; counted up in place.
    betas : tuple of float, default=(0.9, 0.999)
        Decay rates of the two running averages, each in [0, 1). May be assigned between steps.
    eps : float, default=1e-8
    """

    def __init__(
        self,
        decayed: Segments,
        plain: Segments,
        steps: Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1); got {betas}")
        self.betas = betas
        self.eps = eps
        self._groups = (decayed, plain)
        self._steps = steps

    def step(
        self,
        learning_rate: float | Tensor,
        weight_decay: float,
        members: Sequence[int] | None = None,
    ) -> None:
        """One step.

        Parameters
        ----------
        learning_rate : float or Tensor of shape ()
            A tensor on the device lets a captured CUDA graph follow a schedule.
        weight_decay : float
        members : sequence of int, optional
            Which members move; None: all.
        """
        chosen = range(len(self._steps)) if members is None else members
        if not len(chosen):
            return
        steps = [self._steps[k] for k in chosen]
        torch._foreach_add_(steps, 1)
        for group, decay in zip(self._groups, (weight_decay, 0.0), strict=True):
            segments = group if members is None else group.take(chosen)
            adamw_step(segments, steps, learning_rate, decay, self.betas, self.eps)


def adamw_step(
    segments: Segments,
    steps: list[Tensor],
    learning_rate: float | Tensor,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    *,
    fused: bool | None = None,
) -> None:
    """AdamW's update of parameters and running averages, in place.

    Parameters
    ----------
    segments : Segments
    steps : list of Tensor of shape (), float32
        Steps done including this one, per segment.
    learning_rate : float or Tensor of shape ()
    weight_decay : float
    betas : tuple of float
    eps : float
    fused : bool, optional
        Use torch's fused kernel, which is private; None: where torch has it. Without it the same
        formula is computed by public operations.
    """
    if fused if fused is not None else _HAS_FUSED:
        torch._fused_adamw_(
            segments.values,
            segments.gradients,
            segments.first_moments,
            segments.second_moments,
            [],
            steps,
            lr=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )
        return
    for value, gradient, first, second, step in zip(
        segments.values,
        segments.gradients,
        segments.first_moments,
        segments.second_moments,
        steps,
        strict=True,
    ):
        value.mul_(1 - learning_rate * weight_decay)
        first.lerp_(gradient, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        done = step.to(value.dtype)
        correction = 1 - torch.pow(torch.full_like(done, betas[0]), done)
        root = torch.sqrt(1 - torch.pow(torch.full_like(done, betas[1]), done))
        value.sub_(first / (second.sqrt() / root + eps) * (learning_rate / correction))


def _fused_kernel_works() -> bool:
    """Whether this build of torch has the private kernel, with the meaning that we expect."""
    if not hasattr(torch, "_fused_adamw_"):
        return False
    one = [torch.ones(1)]
    values = [torch.ones(1)]
    moments = Segments(values, one, [torch.zeros(1)], [torch.zeros(1)])
    try:
        adamw_step(moments, [torch.ones(())], 0.1, 0.5, (0.9, 0.999), 0.0, fused=True)
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return math.isclose(values[0].item(), 1 - 0.1 * 0.5 - 0.1, rel_tol=1e-4)


_HAS_FUSED = _fused_kernel_works()
