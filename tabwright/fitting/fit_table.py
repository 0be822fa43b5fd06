"""`fit_table`: the one way from a table and a target to a `FittedModel`.

The estimators and the command line are two faces of this function; neither has a second
implementation of any of its steps. Here it is decided which rows train, which validate and what is
refused; how networks are fitted to them is `Recipe`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from tabwright.calibration.fit import check_calibration
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.encoding.encoder import TableEncoder
from tabwright.errors import TableError, warn_caller
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.cross_validation import assign_folds
from tabwright.fitting.eval_metric import EvalMetric, eval_metric_of
from tabwright.fitting.finishing import with_time
from tabwright.fitting.intervals import ValidationRows
from tabwright.fitting.networks import training_device
from tabwright.fitting.recipe import Recipe
from tabwright.inference.fitted_model import FittedModel
from tabwright.regression import check_target
from tabwright.settings import FitSettings
from tabwright.splits import folds_of_splits
from tabwright.tables.labelled import LabelledRows, check_classes
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.time_limit import TimeLimit

if TYPE_CHECKING:
    from tabwright.splits import Splits


def fit_table(
    rows: LabelledRows,
    settings: FitSettings,
    *,
    classes: np.ndarray | None = None,
    validation: LabelledRows | Splits | None = None,
    columns: Columns | None = None,
    aims: Aims | None = None,
    distillation: DistillationOptions | None = None,
    encoder: TableEncoder | None = None,
    callbacks: FitCallbacks | None = None,
    checkpoint: Checkpoint | None = None,
) -> FittedModel:
    """Fit a model to a table.

    `rows`: where validation rows come from these, groups stay on one side and the latest validate.
    `validation`: rows that choose the epoch, and fit the calibrator or give the residuals of
        prediction intervals; without them `validation_fraction` of `rows` is set aside. Or splits
        of `splits_of_rows`, of which the last one's test rows validate and training rows train.
    `distillation`: who teaches in `tree_teacher_distillation`, and on which further rows; None: the
        default teacher. Refused by the other modes.
    `encoder`: fitted before, on no validation rows; None: one is fitted on the training rows.
    `checkpoint`: where the run keeps its state, and goes on from; the caller removes it in the end.
    Raises `ValueError` if the settings do not fit the task or the rows, or a checkpoint is of
        another run.
    Raises `TableError` if the table has no usable column, or a column is not what it should be.
    """
    columns, aims, callbacks = columns or Columns(), aims or Aims(), callbacks or FitCallbacks()
    aims.check_mode(settings)
    if settings.unused_layers:
        callbacks.emit(settings.unused_layers)
    distils = settings.training_mode == "tree_teacher_distillation"
    if distillation is not None and not distils:
        raise ValueError(
            "a teacher is an argument of training_mode='tree_teacher_distillation'; the mode is "
            f"{settings.training_mode!r}"
        )
    training_device(settings)  # refuses what this machine lacks
    limit = None if settings.time_limit is None else TimeLimit(settings.time_limit)
    metric = eval_metric_of(
        settings.eval_metric if aims.eval_metric is None else aims.eval_metric, settings.task
    )
    settings = replace(settings, eval_metric=None if metric is None else metric.name)

    parts = _Parts(rows)
    if isinstance(validation, list):
        parts, settings = _of_splits(rows, validation, settings, classes, callbacks)
    elif validation is not None:
        parts = _Parts(rows, validation)
    parts = parts.with_positive_weight()
    _check_targets(parts, settings, classes)
    decision = aims.decision_for(classes)
    profile = columns.profile_of(parts.training)
    parts = parts.typed(profile.typed)
    if parts.folds is None and settings.asked_folds > 1:
        parts, settings = _in_folds(parts, settings, classes, encoder, callbacks)
    elif parts.folds is None and parts.validation is None and encoder is None:
        parts, settings = _in_default_folds(parts, settings, classes)
    if parts.validation is None and parts.folds is None:
        settings = replace(
            settings, validation_fraction=settings.held_out_share(len(parts.training))
        )
        parts = _set_aside(parts.training, settings)
    if metric is not None:
        _check_metric(metric, parts, classes)

    rows = parts.training
    recipe = Recipe(
        settings=settings.resolved(
            n_rows=len(rows), n_classes=None if classes is None else len(classes)
        ),
        profile=profile,
        classes=classes,
        columns=columns,
        aims=aims,
        callbacks=callbacks,
        encoder=encoder,
        distillation=(distillation or DistillationOptions()) if distils else None,
        decision=decision,
        metric=metric,
        limit=limit,
    )
    if parts.folds is not None:
        callbacks.start(recipe.settings, len(rows), int((parts.folds >= 0).sum()))
        return with_time(recipe.fit_in_folds(rows, parts.folds, checkpoint), limit)
    assert parts.validation is not None
    held_out = ValidationRows.of(
        parts.validation,
        classes,
        settings.random_state,
        are_given=validation is not None and not isinstance(validation, list),
    )
    callbacks.start(recipe.settings, len(rows), len(parts.validation))
    model = recipe.fit(rows, held_out, checkpoint)
    if settings.refit and len(parts.validation) and model.stopped != "interrupted":
        whole = rows.with_rows(parts.validation)
        refitted = recipe.decided(model).fit(whole, None, checkpoint, model.best_epochs)
        return _as_decided(refitted, model, limit)
    return with_time(model, limit)


@dataclass(frozen=True)
class _Parts:
    """Rows that train, and those that validate; or rows that do both, and the fold of each."""

    training: LabelledRows
    validation: LabelledRows | None = None
    folds: np.ndarray | None = None

    def with_positive_weight(self) -> _Parts:
        training, validation, folds = self.training, self.validation, self.folds
        if folds is not None and training.weight is not None:
            folds = folds[training.weight > 0]
        if validation is not None:
            validation = validation.with_positive_weight()
        return _Parts(training.with_positive_weight(), validation, folds)

    def typed(self, typed: Callable[[pl.DataFrame], pl.DataFrame]) -> _Parts:
        """With the columns of the types of a profile."""
        training, validation = self.training, self.validation
        if validation is not None:
            validation = replace(validation, frame=typed(validation.frame))
        return replace(
            self,
            training=replace(training, frame=typed(training.frame)),
            validation=validation,
        )


def _of_splits(
    rows: LabelledRows,
    splits: Splits,
    settings: FitSettings,
    classes: np.ndarray | None,
    callbacks: FitCallbacks,
) -> tuple[_Parts, FitSettings]:
    """The folds of a splitter, or of its last split, the latest in time, the two parts."""
    folds = folds_of_splits(splits, len(rows)) if settings.asked_folds > 1 else None
    if folds is not None:
        check_classes(splits, rows, classes)
        return _Parts(rows, folds=folds), replace(settings, n_folds=len(splits))
    train, test = splits[-1]
    n_unused = len(rows) - len(train) - len(test)
    if n_unused:
        callbacks.emit(f"{n_unused:,} rows are in neither part of the last split, and have no part")
    check_classes(splits[-1:], rows, classes)
    return _Parts(rows.take(train), rows.take(test)), settings


def _in_folds(
    parts: _Parts,
    settings: FitSettings,
    classes: np.ndarray | None,
    encoder: TableEncoder | None,
    callbacks: FitCallbacks,
) -> tuple[_Parts, FitSettings]:
    """With the fold of each row; without folds settings that say so, and a sentence why."""
    folds = None
    if parts.validation is not None:
        reason = "no folds: validation rows were given"
    elif encoder is not None:
        reason = "no folds: the encoder was fitted before"
    else:
        folds, reason = assign_folds(
            parts.training,
            settings.asked_folds,
            stratify=classes is not None,
            random_state=settings.random_state,
        )
    if folds is None:
        callbacks.emit(reason)
        return parts, replace(settings, n_folds=1)
    return replace(parts, folds=folds), replace(settings, n_folds=int(folds.max()) + 1)


def _in_default_folds(
    parts: _Parts, settings: FitSettings, classes: np.ndarray | None
) -> tuple[_Parts, FitSettings]:
    """As `_in_folds` where rows are few; nobody asked for folds, so nothing is said of none."""
    if parts.training.time is not None:
        return parts, settings
    n_classes = None if classes is None else len(classes)
    chosen = settings.with_folds_for(len(parts.training), n_classes)
    if chosen.asked_folds == 1:
        return parts, settings
    fitting = _in_folds(parts, chosen, classes, None, FitCallbacks())
    return (parts, settings) if fitting[0].folds is None else fitting


def _set_aside(rows: LabelledRows, settings: FitSettings) -> _Parts:
    """A share of the rows to validate."""
    assert settings.validation_fraction is not None
    stay, leave = rows.split(
        settings.validation_fraction,
        stratify=settings.task == "classification",
        random_state=settings.random_state,
    )
    if not len(leave):
        raise ValueError(
            f"at least 1 row must validate; got n_samples={len(rows)}, and each label needs a row "
            "to train on; give more rows, or rows that validate"
        )
    parts = _Parts(rows.take(stay), rows.take(leave))
    _check_enough(parts.training, len(leave))
    return parts


def _check_targets(parts: _Parts, settings: FitSettings, classes: np.ndarray | None) -> None:
    """Refuse rows and classes that no network can learn from."""
    rows = parts.training
    # Before the classes: a single row has a single class, and that is not what is wrong with it.
    _check_enough(rows)
    if classes is None:
        for part in (rows, parts.validation):
            if part is not None:
                check_target(settings.objective, part.target)
        return
    if len(classes) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; got 1 class ({classes.tolist()[0]!r}); "
            "check the target column, or the filter that made the table"
        )
    if len(classes) == len(rows) > 2:
        raise TableError(
            f"a class needs rows to learn from; got {len(classes):,} labels in {len(rows):,} rows, "
            "each in one; is the target an identifier, or a quantity? Name another target, or "
            "fit a regression"
        )
    if settings.calibration is not None:
        check_calibration(settings.calibration, len(classes))


def _check_metric(metric: EvalMetric, parts: _Parts, classes: np.ndarray | None) -> None:
    """The metric must judge the rows that choose, of each fold where there are folds."""
    rows, folds, choosing = parts.training, parts.folds, [parts.validation]
    if folds is not None:
        n_folds = int(folds.max()) + 1
        choosing = [rows.take(np.flatnonzero(folds == fold)) for fold in range(n_folds)]
    for part in choosing:
        assert part is not None
        metric.check(part, classes)


def _check_enough(rows: LabelledRows, n_set_aside: int = 0) -> None:
    """Batch norm has no variance to learn from in one row."""
    if len(rows) < 2:
        aside = f", and {n_set_aside} set aside to validate" if n_set_aside else ""
        raise ValueError(
            "at least 2 training rows of positive weight are needed; "
            f"got n_samples={len(rows)}{aside}; give more rows"
        )


def _as_decided(whole: FittedModel, first: FittedModel, limit: TimeLimit | None) -> FittedModel:
    """The networks fitted to all rows, with what the first ones decided on validation rows."""
    if whole.stopped in ("interrupted", "non-finite"):
        warn_caller(
            "the refit on all rows came to no end; the networks of the first training are kept",
            RuntimeWarning,
        )
        return replace(first, stopped=whole.stopped)
    model = replace(
        whole,
        calibrator=first.calibrator,
        decision=first.decision,
        # Of the first networks: to the second ones their residuals are out of fold.
        intervals=first.intervals and replace(first.intervals, kind="cross"),
        quantile_shifts=first.quantile_shifts,
        metrics=first.metrics,
        card={
            **first.card,
            **{key: whole.card[key] for key in ("n_training_rows", "row_sketch")},
        },
    )
    return with_time(model, limit)
