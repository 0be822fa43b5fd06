"""What a mode makes of the targets, and what chooses the epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tabwright.calibration.fit import refined_log_loss
from tabwright.calibration.intervals import CrossPredictions
from tabwright.fitting.class_weights import ClassWeight, Prior, checked_prior, class_weights_of
from tabwright.inference.target_scale import TargetScale
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import Objective, row_weights

__all__ = ["Targets", "epoch_score"]


@dataclass(frozen=True)
class Targets:
    """What the mode makes of the targets, from the training rows alone."""

    output_dim: int
    scale: TargetScale | None
    class_prior: np.ndarray | None
    class_weights: np.ndarray | None
    prior: np.ndarray | None

    @classmethod
    def of(
        cls,
        rows: LabelledRows,
        settings: FitSettings,
        classes: np.ndarray | None,
        class_weight: ClassWeight,
        prior: Prior,
    ) -> Targets:
        if classes is None:
            return cls(1, TargetScale.fit(rows.target, rows.weight), None, None, None)
        n_classes = len(classes)
        counts = np.bincount(rows.target, weights=rows.weight, minlength=n_classes)
        if settings.training_mode == "imbalance_aware":
            class_weight = "balanced"
        weights = class_weights_of(rows, class_weight, classes)
        return cls(
            output_dim=n_classes,
            scale=None,
            class_prior=counts / counts.sum(),
            class_weights=weights,
            prior=checked_prior(prior, n_classes, settings),
        )

    def on(self, rows: LabelledRows, device: torch.device) -> Objective:
        """The objective over a set of rows."""
        codes = None if self.scale else rows.target
        weights = row_weights(codes, rows.weight, self.class_weights, len(rows))
        target = rows.target if self.scale is None else self.scale.standardise(rows.target)
        return Objective(
            targets=torch.from_numpy(np.ascontiguousarray(target)).to(device),
            weights=None
            if weights is None
            else torch.from_numpy(weights.astype(np.float32)).to(device),
        )


def epoch_score(
    settings: FitSettings,
    targets: Targets,
    rows: LabelledRows,
    device: torch.device,
    cross: CrossPredictions | None,
) -> Callable[[Tensor], Tensor]:
    """What chooses the epoch: maps validation logits to one loss per member."""
    objective = targets.on(rows, device)
    if cross is not None:

        def seen(outputs: Tensor) -> Tensor:
            cross.see(outputs[..., 0].double().cpu().numpy())
            return objective.loss(outputs)

        return seen
    if settings.training_mode != "calibrated_classifier":
        return objective.loss

    def refined(logits: Tensor) -> Tensor:
        proba = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        losses = [
            refined_log_loss(member, rows.target, rows.weight, targets.class_weights)
            for member in proba
        ]
        return torch.tensor(losses, dtype=torch.float64)

    return refined
