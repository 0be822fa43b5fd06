"""Losses of regression objectives beyond squared error, on tensors, with their gradients.

The twin of `regression.row_losses` on outputs of networks, in standard units of the target: means
come as logarithms, quantiles as the lowest one and the gaps above it (see `regression`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tabwright.regression import LARGEST_LOG, RegressionObjective


@dataclass(frozen=True)
class RegressionLoss:
    """The loss of one objective."""

    objective: RegressionObjective
    levels: tuple[float, ...] = ()

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of rows and their gradient in the outputs.

        `outputs`: (n_members, batch, output_dim).
        `targets`: (batch, 1); in standard units.
        Returns `losses`: (n_members, batch).
        Returns `gradient`: (n_members, batch, output_dim).
        """
        if self.objective == "quantile":
            return self._pinball(outputs, targets)
        if self.objective == "absolute_error":
            error = outputs - targets
            return error.abs().squeeze(-1), error.sign()
        logs = outputs.clamp(-LARGEST_LOG, LARGEST_LOG)
        if self.objective == "poisson":
            mean = logs.exp()
            losses = 2 * (torch.xlogy(targets, targets) - targets * logs - targets + mean)
            return losses.squeeze(-1), 2 * (mean - targets)
        ratio = targets * (-logs).exp()
        losses = 2 * (ratio - 1 - torch.log(targets) + logs)
        return losses.squeeze(-1), 2 * (1 - ratio)

    def _pinball(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean pinball loss over the levels; outputs are steps from quantile to quantile."""
        steps = torch.cat([outputs[..., :1], functional.softplus(outputs[..., 1:])], dim=-1)
        levels = torch.tensor(self.levels, dtype=outputs.dtype, device=outputs.device)
        error = targets - steps.cumsum(-1)
        losses = torch.maximum(levels * error, (levels - 1) * error).mean(-1)
        slope = ((error < 0).to(outputs.dtype) - levels) / len(self.levels)
        # A step moves its own quantile and all above it.
        gradient = slope.flip(-1).cumsum(-1).flip(-1)
        gradient[..., 1:] *= torch.sigmoid(outputs[..., 1:])
        return losses, gradient
