"""What ends every fit, wherever its rows come from: calibration, scores, decision, the card."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl
import torch

from tabwright._version import __version__
from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import fit_calibrator
from tabwright.encoding.encoder import TableEncoder
from tabwright.errors import warn_caller
from tabwright.fitting.networks import member_arrays, training_device
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.network_spec import NetworkSpec
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import scores_of
from tabwright.settings import FitSettings
from tabwright.tables import TableProfile
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.labelled import LabelledRows
from tabwright.training.loop import Epoch, Trained
from tabwright.training.time_limit import TimeLimit


def fitted_networks(
    settings: FitSettings,
    encoder: TableEncoder,
    targets: Targets,
    trained: Trained,
    *,
    classes: np.ndarray | None,
    card: Mapping[str, Any],
) -> FittedModel:
    """The networks of a training run as a model, without calibration and scores."""
    return FittedModel(
        settings=settings,
        encoder=encoder,
        architecture=NetworkSpec.of(
            trained.modules[0], input_dim=encoder.input_dim, output_dim=targets.output_dim
        ),
        members=tuple(member_arrays(module) for module in trained.modules),
        classes=classes,
        target=targets.scale,
        class_prior=targets.class_prior,
        class_weights=targets.class_weights,
        prior=targets.prior,
        best_epochs=trained.best_epochs,
        history=tuple(_epoch_numbers(epoch) for epoch in trained.history),
        stopped=trained.stopped,
        card=card,
    )


def with_scores(model: FittedModel, output: np.ndarray, validation: LabelledRows) -> FittedModel:
    """Calibrate on the validation rows where the mode does, and score them.

    `output` is what `Predictor.outputs` says of them.
    """
    if not len(validation):
        return model
    settings = model.settings
    if (
        model.classes is not None
        and settings.calibration is not None
        and settings.training_mode != "imbalance_aware"
    ):
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
    judged = Predictor(model).calibrated(output)
    scores = scores_of("validation", model, validation.target, judged, validation.weight)
    return replace(model, metrics=scores)


def with_decision(
    model: FittedModel, proba: np.ndarray, rows: LabelledRows, aim: DecisionAim
) -> FittedModel:
    """Tune the decision rule on the validation rows, and score their labels by it."""
    seed = model.settings.random_state
    fit = aim.fit(proba, rows.target, rows.weight, random_state=seed)
    if not fit.accepted and aim.goal in ("recall", "precision"):
        warn_caller(f"the decision rule {fit.message}")
    # The most probable class needs no rule, unless the class that is looked for is not the last.
    is_needed = fit.accepted or fit.rule.positive != 1
    model = replace(model, decision=fit.rule if is_needed else None)
    decided = fit.rule.apply(proba)
    scores = scores_of("validation", model, rows.target, proba, rows.weight, decided)
    return replace(
        model,
        metrics={**model.metrics, **scores},
        card={**model.card, "decision": fit.message},
    )


def _epoch_numbers(epoch: Epoch) -> dict[str, float]:
    """The numbers of an epoch that a model keeps."""
    numbers = asdict(epoch)
    del numbers["fold"], numbers["n_folds"]
    return {name: float(value) for name, value in numbers.items() if np.isfinite(value)}


def with_time(model: FittedModel, limit: TimeLimit | None) -> FittedModel:
    """What was done in the time, in the card."""
    if limit is None or model.settings.time_limit is None:
        return model
    spent = {
        "seconds": model.settings.time_limit,
        "taken": model.settings.time_limit - limit.remaining,
        "n_epochs": len(model.history),
        "n_networks": len(model.members),
    }
    return replace(model, card={**model.card, "time_limit": spent})


def model_card(
    settings: FitSettings,
    profile: TableProfile,
    n_train: int,
    n_validation: int,
    target: tuple[str | None, CellFormat],
    row_sketch: Mapping[str, Mapping[str, str | float]],
) -> dict[str, Any]:
    """What a model says of its fit, besides its settings.

    `target`: the name of the column, and how its text was written.

    With the settings, the device, the number of threads and the versions, the same rows give the
    same weights to the last bit.
    """
    import sklearn

    name, form = target
    return {
        "target": name,
        **({} if form == USUAL else {"target_format": form.to_document()}),
        "n_training_rows": n_train,
        "n_validation_rows": n_validation,
        "columns": [asdict(column) for column in profile.columns],
        **row_sketch,
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
