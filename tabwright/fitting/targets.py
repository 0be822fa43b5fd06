"""What a mode makes of the targets, and what chooses the epoch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tabwright.calibration.calibrator import change_prior, prior_log_ratio
from tabwright.calibration.fit import refined_log_loss
from tabwright.calibration.intervals import CrossPredictions
from tabwright.fitting.class_weights import ClassWeight, Prior, checked_prior, class_weights_of
from tabwright.fitting.eval_metric import EvalMetric
from tabwright.inference.target_scale import TargetScale
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import Objective, row_weights

__all__ = ["Targets", "epoch_score"]


@dataclass(frozen=True)
class Targets:
    """What the mode makes of the targets, from the training rows alone.

    `metric` chooses the epoch in place of the loss, where there is one; it is told the labels.
    """

    output_dim: int
    scale: TargetScale | None
    class_prior: np.ndarray | None
    class_weights: np.ndarray | None
    prior: np.ndarray | None
    metric: EvalMetric | None = None
    classes: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        rows: LabelledRows,
        settings: FitSettings,
        classes: np.ndarray | None,
        class_weight: ClassWeight,
        prior: Prior,
        metric: EvalMetric | None = None,
    ) -> Targets:
        if classes is None:
            return cls(1, TargetScale.fit(rows.target, rows.weight), None, None, None, metric)
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
            prior=checked_prior(prior, classes, settings),
            metric=metric,
            classes=classes,
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
    """What chooses the epoch: maps validation logits to what `HeldOut.losses` gives."""
    objective = targets.on(rows, device)

    def refined(logits: Tensor) -> Tensor:
        proba = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        losses = [
            refined_log_loss(member, rows.target, rows.weight, targets.class_weights)
            for member in proba
        ]
        return torch.tensor(losses, dtype=torch.float64)

    loss = refined if settings.training_mode == "calibrated_classifier" else objective.loss
    if targets.metric is None and cross is None:
        return loss
    score = None if targets.metric is None else _member_scores(settings, targets, rows)

    def seen(outputs: Tensor) -> Tensor:
        if cross is not None:
            own = None
            if score is not None:
                own = -np.stack([score(outputs, cross.elsewhere(k)) for k in range(cross.n_folds)])
            cross.see(outputs[..., 0].double().cpu().numpy(), None if own is None else own.T)
        losses = loss(outputs)
        if score is None:
            return losses
        scores = torch.from_numpy(score(outputs, np.arange(len(rows))))
        return torch.stack([losses.double().cpu(), scores], dim=1)

    return seen


def _member_scores(
    settings: FitSettings, targets: Targets, rows: LabelledRows
) -> Callable[[Tensor, np.ndarray], np.ndarray]:
    """Maps outputs on `rows`, and which of these count, to each member's score by the metric.

    NaN where the metric has none, which is told once: an epoch without a score is not chosen, and
    no fit is lost by it.
    """
    metric, classes = targets.metric, targets.classes
    assert metric is not None
    y = rows.target if classes is None else classes[rows.target]
    shift = None
    if settings.training_mode == "imbalance_aware" and targets.class_prior is not None:
        # The metric sees what the model will answer.
        shift = prior_log_ratio(
            "training" if targets.prior is None else targets.prior,
            class_prior=targets.class_prior,
            class_weights=targets.class_weights,
        )
    told: list[str] = []

    def score(outputs: Tensor, index: np.ndarray) -> np.ndarray:
        if targets.scale is not None:
            predictions = targets.scale.restore(outputs[..., 0].double().cpu().numpy())
        else:
            predictions = torch.softmax(outputs.double(), dim=-1).cpu().numpy()
        weight = None if rows.weight is None else rows.weight[index]
        found = np.full(len(predictions), np.nan)
        for k, prediction in enumerate(predictions):
            own = prediction[index] if shift is None else change_prior(prediction[index], shift)
            reason = "it is not finite"
            try:
                value = metric(y[index], own, weight, classes=classes)
            except ValueError as error:
                value, reason = np.nan, str(error)
            if np.isfinite(value):
                found[k] = value
            elif not told:
                told.append(reason)
                warnings.warn(
                    f"eval_metric {metric.name!r} gave no score after an epoch ({reason}); such "
                    "epochs are not chosen",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return found

    return score
