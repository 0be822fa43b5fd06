"""What a fit is made of, wherever its rows come from: targets, networks, scores, the card.

`pipeline.fit_table` and `stream_fit.fit_files` put these together; how rows are read, split and
trained on lives there.
"""

from __future__ import annotations

import hashlib
import platform
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import build_model
from tabwright._version import __version__
from tabwright.artifact.container import pack
from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import fit_calibrator, refined_log_loss
from tabwright.calibration.intervals import CrossPredictions
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import scores_of
from tabwright.inference.target_scale import TargetScale
from tabwright.settings import FitSettings
from tabwright.tables import TableProfile
from tabwright.training.engine.compiled_kernels import engine_name
from tabwright.training.objectives import Objective, class_weight_vector, row_weights

__all__ = [
    "ClassWeight",
    "LabelledRows",
    "Prior",
    "Targets",
    "checked_prior",
    "class_weights_of",
    "epoch_score",
    "finite_numbers",
    "member_arrays",
    "member_seeds",
    "model_card",
    "new_network",
    "run_identity",
    "training_device",
    "weights_by_label",
    "with_decision",
    "with_scores",
]

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None
Prior = Literal["training", "balanced"] | Sequence[float] | np.ndarray

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table with what is to be predicted.

    Parameters
    ----------
    frame : polars.DataFrame
        Feature columns; others are ignored.
    target : ndarray of shape (n_rows,)
        Class codes, int64, in the order of the sorted labels; or float64 in regression.
    weight : ndarray of shape (n_rows,), float64, or None
    """

    frame: pl.DataFrame
    target: np.ndarray
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> LabelledRows:
        """The rows of the given numbers."""
        weight = None if self.weight is None else self.weight[index]
        return LabelledRows(self.frame[index], self.target[index], weight)

    def with_rows(self, more: LabelledRows) -> LabelledRows:
        """These rows, then those."""
        weight = None
        if self.weight is not None or more.weight is not None:
            weight = np.concatenate(
                [
                    np.ones(len(part)) if part.weight is None else part.weight
                    for part in (self, more)
                ]
            )
        frame = pl.concat([self.frame, more.frame[self.frame.columns]])
        return LabelledRows(frame, np.concatenate([self.target, more.target]), weight)

    def with_positive_weight(self) -> tuple[LabelledRows, np.ndarray | None]:
        """These rows less those of weight zero, and the numbers of the rows kept.

        Where all others weigh 1, nothing is left of the weights, so that sums come in the same
        order, and to the last bit, as without them.
        """
        if self.weight is None:
            return self, None
        if not np.isfinite(self.weight).all() or (self.weight < 0).any():
            worst = self.weight[~(np.isfinite(self.weight) & (self.weight >= 0))][0]
            raise ValueError(
                f"sample_weight must be finite and not negative; got {worst}; "
                "leave rows out by giving them weight 0"
            )
        keep = np.flatnonzero(self.weight > 0)
        if keep.size == 0:
            raise ValueError("sample_weight must be above 0 for at least one row; all are 0")
        rows = self if keep.size == len(self) else self.take(keep)
        if rows.weight is not None and (rows.weight == 1.0).all():
            rows = replace(rows, weight=None)
        return rows, None if keep.size == len(self) else keep


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


def class_weights_of(
    rows: LabelledRows, class_weight: ClassWeight, classes: np.ndarray | None
) -> np.ndarray | None:
    """Weight of each class, float64 of shape (n_classes,); None where there are none.

    Parameters
    ----------
    rows : LabelledRows
        Training rows, which "balanced" counts.
    class_weight : "balanced", mapping of label to weight, or None
    classes : ndarray of shape (n_classes,) or None
        None in regression.

    Raises
    ------
    ValueError
        If a label is unknown, or a weight is not a finite number above 0.
    """
    if class_weight is None or classes is None:
        return None
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                "class_weight must be None, 'balanced' or a mapping of label to weight; "
                f"got {class_weight!r}"
            )
        return class_weight_vector(rows.target, len(classes), rows.weight)
    return weights_by_label(class_weight, classes)


def weights_by_label(class_weight: Mapping[Any, float], classes: np.ndarray) -> np.ndarray:
    known = classes.tolist()
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise ValueError(
            f"class_weight names {unknown[0]!r}, which is not a label of the target; "
            f"the labels are {known[:10]}"
        )
    weights = np.array([float(class_weight.get(label, 1.0)) for label in known])
    if not np.isfinite(weights).all() or (weights <= 0).any():
        raise ValueError(
            f"class_weight must hold finite numbers above 0; got {dict(class_weight)!r}"
        )
    return weights


def checked_prior(prior: Prior, n_classes: int, settings: FitSettings) -> np.ndarray | None:
    if isinstance(prior, str):
        if prior not in ("training", "balanced"):
            raise ValueError(
                f"prior must be 'training', 'balanced' or an array of {n_classes} shares; "
                f"got {prior!r}"
            )
        if prior == "training":
            return None
        _check_answers_under_a_prior(settings)
        return np.full(n_classes, 1.0 / n_classes)
    shares: np.ndarray = np.asarray(prior, dtype=np.float64)
    if shares.shape != (n_classes,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise ValueError(
            f"prior must hold {n_classes} finite shares above 0, in the order of classes_; "
            f"got {prior!r}"
        )
    _check_answers_under_a_prior(settings)
    total: float = shares.sum()
    return shares / total


def _check_answers_under_a_prior(settings: FitSettings) -> None:
    if settings.training_mode != "imbalance_aware":
        raise ValueError(
            "prior is an argument of training_mode='imbalance_aware'; the mode is "
            f"{settings.training_mode!r}"
        )


def new_network(settings: FitSettings, input_dim: int, output_dim: int, seed: int) -> nn.Module:
    """A fresh network; torch's own generator is left as it was."""
    width, depth, dropout = settings.hidden_dim, settings.num_hidden_layers, settings.dropout
    if width is None or depth is None or dropout is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    # Fits may run in several threads, and modules draw from the one generator of the process.
    with _one_at_a_time:
        before = torch.default_generator.get_state()
        try:
            # Not torch.manual_seed, which would seed the generators of CUDA devices too.
            torch.default_generator.manual_seed(seed)
            module = build_model(
                input_dim, output_dim, settings.training_mode, width, depth, dropout
            )
            # The process may have another default.
            return module.float()
        finally:
            torch.default_generator.set_state(before)


def training_device(settings: FitSettings) -> torch.device:
    """Where the networks train.

    Raises
    ------
    ValueError
        If the machine lacks the device that the settings ask for.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' needs a CUDA device, and there is none; use device='auto'")
    is_cuda = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if is_cuda else "cpu")


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


def member_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in module.state_dict().items()}


def with_scores(model: FittedModel, compact: Compact, validation: LabelledRows) -> FittedModel:
    """Calibrate on the validation rows where the mode does, and score them."""
    if not len(validation):
        return model
    predictor = Predictor(model)
    output = predictor.network(compact)
    if model.classes is None:
        scores = scores_of("validation", model, validation.target, output, validation.weight)
        return replace(model, metrics=scores)
    settings = model.settings
    if settings.calibration is not None and settings.training_mode != "imbalance_aware":
        kind = settings.calibration
        if kind == "auto" and settings.training_mode != "calibrated_classifier":
            kind = "temperature"
        fit = fit_calibrator(
            output,
            validation.target,
            kind=kind,
            sample_weight=validation.weight,
            class_weights=model.class_weights,
            random_state=settings.random_state,
        )
        model = replace(
            model,
            calibrator=fit.calibrator,
            card={**model.card, "calibration": fit.message},
        )
        predictor = Predictor(model)
    proba = predictor.calibrated(output)
    scores = scores_of("validation", model, validation.target, proba, validation.weight)
    return replace(model, metrics=scores)


def with_decision(model: FittedModel, rows: LabelledRows, aim: DecisionAim) -> FittedModel:
    """Tune the decision rule on the validation rows, and score their labels by it."""
    proba = Predictor(model).predict_proba(rows.frame)
    seed = model.settings.random_state
    fit = aim.fit(proba, rows.target, rows.weight, random_state=seed)
    if not fit.accepted and aim.goal in ("recall", "precision"):
        warnings.warn(f"the decision rule {fit.message}", UserWarning, stacklevel=3)
    decided = fit.rule.apply(proba)
    scores = scores_of("validation", model, rows.target, proba, rows.weight, decided)
    return replace(
        model,
        decision=fit.rule if fit.accepted else None,
        metrics={**model.metrics, **scores},
        card={**model.card, "decision": fit.message},
    )


def finite_numbers(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if np.isfinite(value)}


def model_card(
    settings: FitSettings,
    profile: TableProfile,
    n_train: int,
    n_validation: int,
    target_name: str | None,
    stopped: str,
) -> dict[str, Any]:
    """What a model says of its fit, besides its settings.

    With the settings, the device, the number of threads and the versions, the same rows give the
    same weights to the last bit.
    """
    import sklearn

    return {
        "target": target_name,
        "n_training_rows": n_train,
        "n_validation_rows": n_validation,
        "columns": [asdict(column) for column in profile.columns],
        "stopped": stopped,
        "device": training_device(settings).type,
        "threads": torch.get_num_threads(),
        "versions": {
            "tabwright": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "polars": pl.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }


def run_identity(
    settings: FitSettings, encoder: TableEncoder, class_weights: np.ndarray | None
) -> dict[str, str]:
    """What must be the same for a run to go on from a checkpoint, apart from its rows."""
    return {f"settings.{name}": repr(value) for name, value in settings.to_document().items()} | {
        "torch": str(torch.__version__),
        "tabwright": __version__,
        "engine": engine_name() if training_device(settings).type == "cpu" else "torch",
        "encoder": hashlib.blake2b(pack(*encoder.to_state()), digest_size=16).hexdigest(),
        "class weights": repr(None if class_weights is None else class_weights.tolist()),
    }


def member_seeds(random_state: int, n_members: int) -> list[int]:
    """A seed per member, which depends on its index and never on how many members there are."""
    return [
        int(np.random.SeedSequence([random_state, member]).generate_state(1)[0])
        for member in range(n_members)
    ]
