"""AdamW over a flat buffer.

All parameters of a member lie in one row of memory, those that weight decay acts on first, so
that a step is two calls whatever the number of layers and members.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tabwright.training.engine.compiled_kernels import CompiledAdamW

__all__ = ["FlatAdamW", "Rows", "adamw_update"]


class Rows(NamedTuple):
    """Parameters with what belongs to them, of equal shapes place by place.

    Parameters
    ----------
    values, gradients, first_moments, second_moments : list of Tensor
    """

    values: list[Tensor]
    gradients: list[Tensor]
    first_moments: list[Tensor]
    second_moments: list[Tensor]


class FlatAdamW:
    """AdamW with decoupled weight decay on the first columns of a buffer.

    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, as
    `torch.optim.AdamW` has it.

    Parameters
    ----------
    parameters, gradients : Tensor of shape (n_members, size)
        Contiguous; the parameters change in place.
    n_decayed : int
        Columns that weight decay acts on, from the left.
    betas : tuple of float, default=(0.9, 0.999)
        Decay rates of the two running averages, each in [0, 1). May be assigned between steps.
    eps : float, default=1e-8
    is_compiled : bool, default=False
        By a compiled kernel, for float32 on a CPU.

    Attributes
    ----------
    first_moments, second_moments : Tensor of shape (n_members, size)
        Running averages of the gradient and of its square.
    steps : Tensor of shape (n_members,), float32
        Steps done by each member.

    Raises
    ------
    ValueError
        If a beta is out of range.
    """

    def __init__(
        self,
        parameters: Tensor,
        gradients: Tensor,
        n_decayed: int,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        is_compiled: bool = False,
    ) -> None:
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1); got {betas}")
        self.betas = betas
        self.eps = eps
        self.first_moments = torch.zeros_like(parameters)
        self.second_moments = torch.zeros_like(parameters)
        self.steps = torch.zeros(len(parameters), dtype=torch.float32, device=parameters.device)
        self._parameters = parameters
        self._decayed = parameters[:, :n_decayed]
        buffers = (parameters, gradients, self.first_moments, self.second_moments)
        self._rows = Rows(*(list(buffer.unbind(0)) for buffer in buffers))
        self._row_steps = list(self.steps.unbind(0))
        self._compiled = CompiledAdamW(*buffers, self.steps, n_decayed) if is_compiled else None

    def step(
        self,
        learning_rate: float,
        weight_decay: float,
        members: slice = slice(None),  # a slice is immutable
    ) -> None:
        """One step.

        Parameters
        ----------
        learning_rate : float
        weight_decay : float
        members : slice, default=all
            Which members move.
        """
        if self._compiled is not None:
            for member in range(*members.indices(len(self._row_steps))):
                self._compiled.step(member, learning_rate, weight_decay, self.betas, self.eps)
            return
        self.steps[members].add_(1)
        self._decayed[members].mul_(1 - learning_rate * weight_decay)
        rows = Rows(*(tensors[members] for tensors in self._rows))
        adamw_update(rows, self._row_steps[members], learning_rate, self.betas, self.eps)


def adamw_update(
    rows: Rows,
    steps: list[Tensor],
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    *,
    fused: bool | None = None,
) -> None:
    """AdamW's update without its decay, in place.

    Parameters
    ----------
    rows : Rows
    steps : list of Tensor of shape (), float32
        Steps done, this one included.
    learning_rate : float
    betas : tuple of float
    eps : float
    fused : bool, optional
        Use torch's fused kernel, which is private; None: where this torch has it. Otherwise
        public operations compute the same.
    """
    if _HAS_FUSED if fused is None else fused:
        torch._fused_adamw_(
            rows.values,
            rows.gradients,
            rows.first_moments,
            rows.second_moments,
            [],
            steps,
            lr=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=0.0,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )
        return
    for value, gradient, first, second, step in zip(*rows, steps, strict=True):
        first.lerp_(gradient, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        first_weight, second_weight = (1 - torch.pow(beta, step.double()) for beta in betas)
        root = (second / second_weight.to(second.dtype)).sqrt_().add_(eps)
        value.sub_((first / root).mul_((learning_rate / first_weight).to(value.dtype)))


def _fused_kernel_works() -> bool:
    """Whether this torch has the private kernel, with the meaning that we expect."""
    if not hasattr(torch, "_fused_adamw_"):
        return False
    rows = Rows(*([torch.full((1,), value)] for value in (1.0, 2.0, 0.0, 0.0)))
    try:
        adamw_update(rows, [torch.ones(())], 0.25, (0.9, 0.999), 0.0, fused=True)
    except (TypeError, RuntimeError):
        return False
    return math.isclose(rows.values[0].item(), 0.75, rel_tol=1e-4)


_HAS_FUSED = _fused_kernel_works()
