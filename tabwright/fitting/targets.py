"""What a mode makes of the targets, and what chooses the epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tabwright.calibration.calibrator import change_prior, prior_log_ratio
from tabwright.calibration.fit import refined_log_loss
from tabwright.calibration.intervals import CrossPredictions
from tabwright.errors import warn_caller
from tabwright.fitting.class_weights import ClassWeight, Prior, checked_prior, weights_of_classes
from tabwright.fitting.eval_metric import EvalMetric
from tabwright.inference.target_scale import TargetScale
from tabwright.regression import central_level, member_responses
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import Objective, row_weights
from tabwright.training.regression_losses import RegressionLoss


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
    regression: RegressionLoss | None = None

    @classmethod
    def of_values(
        cls, scale: TargetScale, settings: FitSettings, metric: EvalMetric | None = None
    ) -> Targets:
        """Of a regression whose target is scaled so."""
        objective, levels = settings.objective, settings.quantiles
        return cls(
            output_dim=len(levels) if objective == "quantile" else 1,
            scale=scale,
            class_prior=None,
            class_weights=None,
            prior=None,
            metric=metric,
            regression=None if objective == "squared_error" else RegressionLoss(objective, levels),
        )

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
            known = (settings.objective, settings.quantiles, rows.target, rows.weight)
            scale = TargetScale.fit(rows.target, rows.weight).suited(*known)
            return cls.of_values(scale, settings, metric)
        counts = np.bincount(rows.target, weights=rows.weight, minlength=len(classes))
        return cls.of_classes(classes, counts, settings, class_weight, prior, metric)

    @classmethod
    def of_classes(
        cls,
        classes: np.ndarray,
        counts: np.ndarray,
        settings: FitSettings,
        class_weight: ClassWeight,
        prior: Prior,
        metric: EvalMetric | None = None,
    ) -> Targets:
        """Of a classification whose classes have these weighted counts."""
        if settings.training_mode == "imbalance_aware":
            class_weight = "balanced"
        return cls(
            output_dim=len(classes),
            scale=None,
            class_prior=counts / counts.sum(),
            class_weights=weights_of_classes(class_weight, classes, counts),
            prior=checked_prior(prior, classes, settings),
            metric=metric,
            classes=classes,
        )

    @property
    def first_outputs(self) -> np.ndarray | None:
        """What networks should put out before they have learned anything; None: about 0."""
        return None if self.scale is None else self.scale.first_outputs()

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
            regression=self.regression,
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
            if score is None:
                chosen_by = cross.fold_losses(objective.row_losses(outputs).cpu().numpy())
            else:
                folds = range(cross.n_folds)
                chosen_by = -np.stack([score(outputs, cross.elsewhere(k)) for k in folds], axis=1)
            cross.see(_responses(outputs, settings), chosen_by)
        losses = loss(outputs)
        if score is None:
            return losses
        scores = torch.from_numpy(score(outputs, np.arange(len(rows))))
        return torch.stack([losses.double().cpu(), scores], dim=1)

    return seen


def _responses(outputs: Tensor, settings: FitSettings) -> np.ndarray:
    """What members predict, in standard units: (n_members, n_rows), or with an axis of levels."""
    return member_responses(outputs.double().cpu().numpy(), settings.objective)


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
    reasons: list[str] = []

    def score(outputs: Tensor, index: np.ndarray) -> np.ndarray:
        if targets.scale is not None:
            predictions = targets.scale.restore(_responses(outputs, settings))
            if predictions.ndim == 3:
                predictions = predictions[..., central_level(settings.quantiles)]
        else:
            predictions = torch.softmax(outputs.double(), dim=-1).cpu().numpy()
        weight = None if rows.weight is None else rows.weight[index]
        found = np.full(len(predictions), np.nan)
        for k, prediction in enumerate(predictions):
            answer = prediction[index] if shift is None else change_prior(prediction[index], shift)
            reason = "it is not finite"
            try:
                value = metric(y[index], answer, weight, classes=classes)
            except ValueError as error:
                value, reason = np.nan, str(error)
            if np.isfinite(value):
                found[k] = value
            elif not reasons:
                reasons.append(reason)
                warn_caller(
                    f"eval_metric {metric.name!r} gave no score after an epoch ({reason}); such "
                    "epochs are not chosen",
                    RuntimeWarning,
                )
        return found

    return score
