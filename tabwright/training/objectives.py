"""What a training mode optimises: loss, its gradient in the logits, and the weights of rows.

An `Objective` holds the targets and row weights of one set of rows on the training device. The
loop asks it for the gradient of a batch's loss with respect to the stacked logits of all members,
or hands its `goal` to compiled steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tabwright.training.engine.row_goal import RowGoal
from tabwright.training.regression_losses import RegressionLoss
from tabwright.training.running_loss import RunningLoss


def row_weights(
    codes: np.ndarray | None,
    sample_weight: np.ndarray | None,
    class_weights: np.ndarray | None,
    n_rows: int,
) -> np.ndarray | None:
    """Product of sample and class weights, per row.

    `codes`: (n_rows,), int64; class codes; None in regression.
    `sample_weight`: (n_rows,), float64.
    `class_weights`: (n_classes,), float64.
    Returns: (n_rows,), float64; None where every row counts the same.
    """
    if sample_weight is None and class_weights is None:
        return None
    weights = np.ones(n_rows) if sample_weight is None else sample_weight.astype(np.float64)
    if class_weights is not None and codes is not None:
        weights = weights * class_weights[codes]
    return weights


def class_weight_vector(counts: np.ndarray) -> np.ndarray:
    """The contract's inverse-frequency weights on weighted counts.

    With integer sample weights this equals `models.compute_class_weights` on rows repeated that
    many times: total / (n_classes * max(count, 1)).

    `counts`: (n_classes,); rows of each class, or what they weigh together.
    Returns: (n_classes,), float64.
    """
    counts = counts.astype(np.float64)
    # The clamp at one row is the contract's for classes without a row; a class whose rows weigh
    # less than one row in all keeps its own count, or scaling all weights would change the result.
    clamped = np.where(counts > 0, counts, 1.0)
    weights: np.ndarray = counts.sum() / (len(counts) * clamped)
    return weights


@dataclass
class Objective:
    """Targets and weights of one set of rows, and the loss over them.

    `targets`: class codes of shape (n_rows,), int64, or standardised regression targets of shape
        (n_rows, 1), float32.
    `weights`: (n_rows,), float32; row weights, scaled here to mean 1 over the set, so that the
        scale of the weights does not change the step size.
    `mean_weight`: what counts as weight 1, where the set is a piece of a larger one; None: the
        set's mean.
    `soft_targets`: what a teacher says of the same rows: class probabilities of shape (n_rows,
        n_classes) or predictions of shape (n_rows, 1), in the units of `targets`.
    `teacher_weight`: (n_members,) or one number; weight of the soft part, in [0, 1]; the hard part
        has the rest. Members may differ, so that several weights are tried in one run.
    `temperature`: (n_members,) or one number; temperature of the soft part of a classifier (Hinton,
        Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2); its
        gradient is scaled by the temperature's square, as there. Members may differ.
    `labelled`: (n_rows,), bool; which rows have a target of their own; the others learn from the
        soft part alone, whatever the teacher's weight. None: all have one.
    `regression`: the loss of a regression; None: squared error. Not with soft targets.
    """

    targets: Tensor
    weights: Tensor | None = None
    soft_targets: Tensor | None = None
    teacher_weight: Tensor | float = 0.0
    temperature: Tensor | float = 1.0
    labelled: Tensor | None = None
    mean_weight: float | None = None
    regression: RegressionLoss | None = None
    _shares: Tensor = field(init=False, repr=False)
    _temperatures: Tensor = field(init=False, repr=False)
    _soft: Tensor | None = field(init=False, repr=False)
    _cools: bool = field(init=False, repr=False)
    _minus_one: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._shares = torch.as_tensor(self.teacher_weight, device=self.targets.device).reshape(-1)
        self._temperatures = torch.as_tensor(
            self.temperature, device=self.targets.device, dtype=torch.float64
        ).reshape(-1)
        self._minus_one = torch.full((1, 1, 1), -1.0, device=self.targets.device)
        if self.weights is not None:
            mean = self.weights.mean() if self.mean_weight is None else self.mean_weight
            self.weights = self.weights / mean
        if self.labelled is not None and self.soft_targets is None:
            raise ValueError("rows without a label need soft_targets; got None")
        self._cools = self.is_classification and bool((self._temperatures != 1.0).any())
        # Cooling starts from logarithms, row by row: members may differ in temperature.
        self._soft = self.soft_targets
        if self._soft is not None and self._cools:
            self._soft = self._soft.clamp_min(1e-12).log()

    @property
    def is_classification(self) -> bool:
        """Whether the targets are class codes."""
        return not self.targets.is_floating_point()

    @cached_property
    def goal(self) -> RowGoal:
        """The same for compiled steps."""
        regression = self.regression
        return RowGoal(
            self.targets,
            self.weights,
            self.soft_targets,
            self.labelled,
            self._shares.tolist(),
            self._temperatures.tolist(),
            "squared_error" if regression is None else regression.objective,
            () if regression is None else regression.levels,
        )

    def _share_of(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Weight of the soft part, of shape (n_members or 1, batch or 1, 1)."""
        share = self._shares.to(logits).view(-1, 1, 1)
        if self.labelled is None:
            return share
        is_labelled = self.labelled.index_select(0, rows).view(1, -1, 1)
        return torch.where(is_labelled, share, torch.ones_like(share))

    @torch.no_grad()
    def gradient(self, logits: Tensor, rows: Tensor, running: RunningLoss | None = None) -> Tensor:
        """Gradient of the batch's mean loss in the logits.

        `logits`: (n_members, batch, output_dim).
        `rows`: (batch,), int64; which rows of the set the batch holds.
        `running`: where the batch's losses are added.
        Returns: (n_members, batch, output_dim); gradient of each member's own mean loss: the
            members do not see one another.
        Raises `ValueError` if the running loss comes from a state of another number of members.
        """
        losses, gradient = self._losses_and_gradient(logits, rows)
        weights = None if self.weights is None else self.weights.index_select(0, rows)
        if weights is not None:
            losses *= weights
            gradient *= weights[:, None]
        if running is not None:
            running.begin(len(logits), logits.device).add_(losses.sum(1))
            running.count(rows.shape[0])
        return gradient.div_(rows.shape[0])

    def _losses_and_gradient(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (members, rows), and their gradient by the logits."""
        targets = self.targets.index_select(0, rows)
        if self.regression is not None:
            return self.regression(logits, targets)
        soft = share = None
        if self._soft is not None:
            soft = self._soft.index_select(0, rows)
            share = self._share_of(rows, logits)
        if not self.is_classification:
            # Mixing the two squared errors has the gradient of one squared error on the mixture.
            goal = targets if soft is None or share is None else torch.lerp(targets, soft, share)
            error = logits - goal
            return error.squeeze(-1).square(), error.mul_(2.0)
        index = targets.expand(logits.shape[0], -1).unsqueeze(-1)
        log_proba = functional.log_softmax(logits, dim=-1)
        losses = log_proba.gather(-1, index).squeeze(-1).neg_()
        if soft is None or share is None:
            return losses, self._less_the_class(log_proba.exp_(), index)
        if not self._cools:
            # Both parts see the same probabilities: their gradients differ in the goal alone.
            soft_losses = (log_proba * soft).sum(-1).neg_()
            losses = torch.lerp(losses, soft_losses, share.squeeze(-1))
        gradient = log_proba.exp_()
        if not self._cools:
            # Not `one_hot`, whose checks read the classes on the host.
            goal = torch.zeros_like(soft).scatter_(-1, targets.unsqueeze(-1), 1.0)
            return losses, gradient.sub_(torch.lerp(goal, soft, share))
        self._less_the_class(gradient, index)
        temperature = self._temperatures.to(logits).view(-1, 1, 1)
        soft = torch.softmax(soft / temperature, dim=-1)
        cooled = functional.log_softmax(logits / temperature, dim=-1)
        soft_losses = (cooled * soft).sum(-1).neg_() * temperature.squeeze(-1) ** 2
        soft_gradient = cooled.exp_().sub_(soft).mul_(temperature)
        return (
            torch.lerp(losses, soft_losses, share.squeeze(-1)),
            torch.lerp(gradient, soft_gradient, share),
        )

    def _less_the_class(self, proba: Tensor, index: Tensor) -> Tensor:
        """Probabilities less 1 at the row's class, in place."""
        minus_one = self._minus_one.to(proba.dtype).expand(index.shape)
        return proba.scatter_add_(-1, index, minus_one)

    def row_losses(self, logits: Tensor) -> Tensor:
        """Loss on the hard target of every row, float64 of shape (n_members, n_rows).

        `logits`: (n_members, n_rows, output_dim).
        Returns: (n_members, n_rows), float64; cross-entropy in nats, or the loss of the regression
            in standardised units.
        """
        logits = logits.double()
        if self.is_classification:
            index = self.targets.expand(logits.shape[0], -1).unsqueeze(-1)
            return -functional.log_softmax(logits, dim=-1).gather(-1, index).squeeze(-1)
        if self.regression is not None:
            return self.regression(logits, self.targets.double())[0]
        return (logits - self.targets.double()).squeeze(-1).square()

    def loss(self, logits: Tensor) -> Tensor:
        """Weighted mean of `row_losses` per member, float64 of shape (n_members,).

        `logits`: (n_members, n_rows, output_dim).
        """
        return self.mean(self.row_losses(logits))

    def mean(self, losses: Tensor) -> Tensor:
        """Weighted mean over the rows of losses of shape (n_members, n_rows), float64."""
        if self.weights is None:
            return losses.mean(1)
        return losses @ self.weights.double() / self.weights.double().sum()
