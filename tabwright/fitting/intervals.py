"""Prediction intervals of a fit: the rows that give the residuals, and the scale of these.

Intervals are as wide as a row is hard: a small network learns the absolute residuals.
Residuals divided by an estimate of their own size give intervals whose width follows the row, with
the coverage of all conformal intervals (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman,
"Distribution-Free Predictive Inference for Regression", 2018, section 5.2). The estimate is the
mean of a gamma distribution, of which the network puts out the logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tabwright.calibration.intervals import (
    CrossPredictions,
    IntervalKind,
    IntervalRows,
    IntervalScale,
    fit_intervals,
    interval_rows,
)
from tabwright.calibration.quantile_shifts import fit_quantile_shifts
from tabwright.encoding.encoder import Compact
from tabwright.fitting.combination import EncodedRows, HeldOutTrees
from tabwright.fitting.cross_validation import TrainedFold
from tabwright.fitting.member_training import RunControl, train_members
from tabwright.fitting.networks import member_arrays
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.network_spec import NetworkSpec
from tabwright.inference.predictor import Predictor
from tabwright.inference.target_scale import ResidualScale, TargetScale
from tabwright.regression import quantile_centre_and_scale
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows

_WIDTH, _DEPTH, _EPOCHS = 64, 2, 20
# A residual of 0 is no amount that a gamma distribution has.
_LEAST_SHARE = 1e-3
# With fewer residuals one width has the better interval score: docs/howto/intervals.md.
_FEWEST_RESIDUALS = 50

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ValidationRows:
    """Validation rows: those that choose, and those kept for the residuals of intervals.

    `are_given`: whether they came beside the rows to fit; then nothing that a model keeps is fitted
        on them.
    """

    rows: LabelledRows
    are_given: bool
    spare: LabelledRows | None = None
    interval: IntervalRows | None = None

    @classmethod
    def of(
        cls, rows: LabelledRows, classes: np.ndarray | None, random_state: int, *, are_given: bool
    ) -> ValidationRows:
        """All of them choose in classification; in regression some may be spare."""
        if classes is not None:
            return cls(rows, are_given)
        interval = interval_rows(
            len(rows), groups=rows.groups, time=rows.time, random_state=random_state
        )
        choosing, aside = rows.take(interval.choosing), rows.take(interval.aside)
        return cls(choosing, are_given, aside, interval)

    def cross_predictions(self, scale: TargetScale | None) -> CrossPredictions | None:
        """What keeps predictions of the choosing rows, where none are spare."""
        if scale is None or self.interval is None or self.interval.folds is None:
            return None
        return CrossPredictions(self.interval.folds, self.rows.weight)


@dataclass(frozen=True)
class HeldOutScale:
    """A fitted scale of residuals.

    `cross`: (n,), float64; what it says of the rows that chose its epoch, each fold of them by the
        epoch that the others choose, in the target's unit; None where no folds were given.
    """

    scale: ResidualScale
    cross: FloatArray | None


def fit_residual_scale(
    model: FittedModel,
    training: EncodedRows,
    choosing: EncodedRows,
    choosing_values: FloatArray,
    folds: NDArray[np.int64] | None,
) -> HeldOutScale | None:
    """Learn how far a model's predictions are off.

    `training`: the rows that the model was trained on. Their residuals are too small, but the
        larger where rows are harder; how small does not matter.
    `choosing`: the rows that choose the epoch.
    `choosing_values`: (n,), float64; predictions of the choosing rows.
    `folds`: (n,), int64; folds of the choosing rows, each to be predicted by epochs that the others
        choose.
    Returns: None where no residual is above 0, or training came to nothing.
    """
    compact, rows = training
    residuals = np.abs(rows.target - Predictor(model).network(compact))
    unit = float(np.average(residuals, weights=rows.weight))
    if not (np.isfinite(unit) and unit > 0):
        return None
    held, judging = choosing
    settings = _settings(model.settings)
    scale = TargetScale(mean=unit, scale=unit, low=0.0, high=np.inf, log_link=True)
    targets = Targets.of_values(scale, settings)
    least = _LEAST_SHARE * unit
    cross = None if folds is None else CrossPredictions(folds, judging.weight)
    others = np.abs(judging.target - choosing_values)
    try:
        trained = train_members(
            settings,
            model.encoder,
            (compact, replace(rows, target=np.maximum(residuals, least))),
            (held, replace(judging, target=np.maximum(others, least))),
            targets,
            cross,
            control=RunControl(keep_interrupted=False),
        )
    except FloatingPointError:
        return None
    (module,) = trained.modules
    fitted = ResidualScale(
        NetworkSpec.of(module, input_dim=model.encoder.input_dim, output_dim=1),
        member_arrays(module),
        unit,
    )
    if cross is None:
        return HeldOutScale(fitted, None)
    # As `ResidualScale.restore` bounds them.
    return HeldOutScale(fitted, fitted.restore(np.log(cross.predictions())))


def with_intervals(
    model: FittedModel,
    rows: EncodedRows,
    outputs: FloatArray,
    kind: IntervalKind,
    fit_scale: Callable[[], HeldOutScale | None] | None,
) -> FittedModel:
    """A model with prediction intervals, adaptive where the settings say so and it can be.

    The same rows move the levels of quantiles; intervals are around the quantiles before that,
    so that their coverage holds as it does without.

    `model`: its card says where the residuals come from.
    `rows`: the rows that give the residuals.
    `outputs`: (n,) or (n, n_levels), float64; held-out predictions of them, or quantiles.
    `fit_scale`: fits what the residuals are divided by; None: it cannot be fitted.
    """
    settings, predictor = model.settings, Predictor(model)
    compact, labelled = rows
    n_residuals = len(labelled) if labelled.weight is None else np.count_nonzero(labelled.weight)
    scale: IntervalScale = "constant"
    centre, row_scale = predictor.point(outputs), None
    if settings.has_adaptive_intervals and outputs.ndim == 2 and outputs.shape[1] > 1:
        assert model.target is not None
        scale = "quantiles"
        centre, row_scale = quantile_centre_and_scale(outputs, model.target.scale)
    elif settings.has_adaptive_intervals:
        fitted = None
        if settings.intervals is None and n_residuals < _FEWEST_RESIDUALS:
            reason = f"fewer than {_FEWEST_RESIDUALS} residuals"
        elif fit_scale is None:
            reason = "networks of folds give no scale of residuals"
        else:
            fitted, reason = fit_scale(), "the scale of residuals could not be fitted"
        if fitted is None:
            message = f"{model.card.get('intervals')}; of one width: {reason}"
            model = replace(model, card={**model.card, "intervals": message})
        else:
            scale, residual_scale = "network", fitted.scale
            row_scale = fitted.cross
            if row_scale is None:
                network = residual_scale.network(model.encoder.layout)
                row_scale = residual_scale.predict(network, compact)
            model = replace(model, residual_scale=residual_scale)
    if settings.objective == "quantile":
        model = _with_quantile_shifts(model, labelled, outputs)
    intervals = fit_intervals(
        labelled.target,
        centre,
        kind=kind,
        sample_weight=labelled.weight,
        scale=scale,
        row_scale=row_scale,
    )
    return replace(model, intervals=intervals)


def with_held_out_intervals(
    model: FittedModel,
    held_out: ValidationRows,
    cross: CrossPredictions | None,
    trees: HeldOutTrees | None,
    training: EncodedRows,
    chosen_by: tuple[Compact, LabelledRows, np.ndarray],
) -> FittedModel:
    """Half-widths of prediction intervals, from residuals of rows held out for them.

    `chosen_by`: the rows that choose, encoded, and what the model puts out for them.
    """
    interval, spare = held_out.interval, held_out.spare
    if interval is None or spare is None:
        return model
    model = replace(model, card={**model.card, "intervals": interval.message})
    if interval.kind is None:
        return model
    predictor, choosing = Predictor(model), chosen_by[:2]
    if cross is None:
        rows, compact = spare, model.encoder.transform(spare.frame)
        outputs, chosen = predictor.outputs(compact), predictor.point(chosen_by[2])
    else:
        assert model.target is not None
        (compact, rows), standard = choosing, cross.predictions()
        if trees is not None and interval.folds is not None:
            standard = trees.cross_predictions(standard, interval.folds)
        outputs = model.target.restore(standard)
        chosen = predictor.point(outputs)
    return with_intervals(
        model,
        (compact, rows),
        outputs,
        interval.kind,
        lambda: fit_residual_scale(model, training, choosing, chosen, interval.folds),
    )


def with_fold_intervals(
    model: FittedModel,
    done: Sequence[TrainedFold],
    networks: np.ndarray,
    compact: Compact,
    rows: LabelledRows,
    trees: HeldOutTrees | None,
) -> FittedModel:
    """Half-widths of prediction intervals, from residuals out of fold."""
    assert model.target is not None
    sizes = [len(fold.held) for fold in done]
    parts = np.split(networks, np.cumsum(sizes)[:-1])
    values = np.concatenate(
        [
            value if fold.interval_values is None else fold.interval_values
            for fold, value in zip(done, parts, strict=True)
        ]
    )
    if trees is not None:
        values = trees.cross_predictions(values, np.repeat(np.arange(len(done)), sizes))
    outputs = model.target.restore(values)
    message = f"cross-conformal: {len(rows):,} rows out of {len(done)} folds"
    model = replace(model, card={**model.card, "intervals": message})
    return with_intervals(model, (compact, rows), outputs, "cross", None)


def _with_quantile_shifts(
    model: FittedModel, rows: LabelledRows, quantiles: FloatArray
) -> FittedModel:
    """Levels moved by what held-out rows say of them, and a sentence on it in the card."""
    assert model.target is not None
    if rows.time is not None:
        # The latest rows say how the target moves on, not how far a level is off.
        note = "levels as fitted: the held-out rows are the latest"
        return replace(model, card={**model.card, "quantiles": note})
    _, scale = quantile_centre_and_scale(quantiles, model.target.scale)
    shifts = fit_quantile_shifts(
        rows.target, quantiles, model.settings.quantiles, scale, rows.weight
    )
    note = f"levels moved by what {len(rows):,} held-out rows say of them"
    if not shifts:
        note = f"levels as fitted: what {len(rows):,} held-out rows say of them may be chance"
    return replace(model, quantile_shifts=shifts, card={**model.card, "quantiles": note})


def _settings(settings: FitSettings) -> FitSettings:
    """Those of the small network."""
    return FitSettings(
        task="regression",
        objective="gamma",
        hidden_dim=_WIDTH,
        num_hidden_layers=_DEPTH,
        dropout=0.1,
        n_members=1,
        max_epochs=_EPOCHS,
        batch_size=settings.batch_size,
        hide_rate=settings.hide_rate,
        random_state=settings.random_state,
        device=settings.device,
    )
