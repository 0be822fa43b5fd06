"""`fit_table`: the one way from a table and a target to a `FittedModel`.

The estimators and the command line are two faces of this function; neither has a second
implementation of any of its steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.fit import (
    check_calibration,
)
from tabwright.calibration.intervals import (
    CrossPredictions,
    IntervalRows,
    interval_rows,
)
from tabwright.distillation.fidelity import fidelity_report
from tabwright.distillation.soft_targets import (
    Candidates,
    DistillationOptions,
    SoftTargets,
    best_student,
    candidate_groups,
    prepare_soft_targets,
)
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.errors import TableError
from tabwright.fitting.class_weights import ClassWeight, Prior, class_weights_of
from tabwright.fitting.combination import EncodedRows, HeldOutTrees, tree_kinds, with_trees
from tabwright.fitting.cross_validation import (
    TrainedFold,
    assign_folds,
    joined_folds,
    out_of_fold,
    train_folds,
)
from tabwright.fitting.eval_metric import EvalMetric, eval_metric_of
from tabwright.fitting.finishing import (
    fitted_networks,
    model_card,
    with_decision,
    with_scores,
    with_time,
)
from tabwright.fitting.member_training import RunControl, train_members
from tabwright.fitting.networks import training_device
from tabwright.fitting.oblique_selection import select_obliques, without_obliques
from tabwright.fitting.residual_scale import fit_residual_scale, with_intervals
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.target_scale import TargetScale
from tabwright.inference.training_rows import sketch_of_rows
from tabwright.regression import check_target
from tabwright.settings import FitSettings
from tabwright.splits import folds_of_splits
from tabwright.tables import Role, TableProfile, profile_table
from tabwright.tables.labelled import LabelledRows, check_classes
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch, Trained
from tabwright.training.objectives import row_weights
from tabwright.training.time_limit import TimeLimit, TimeLimitError

if TYPE_CHECKING:
    from tabwright.splits import Splits

__all__ = ["ClassWeight", "LabelledRows", "Prior", "class_weights_of", "fit_table"]

# Of the time that is left, what networks may take: alone, and before trees.
_SHARE, _SHARE_WITH_TREES = 0.95, 0.6


def fit_table(
    rows: LabelledRows,
    settings: FitSettings,
    *,
    classes: np.ndarray | None = None,
    validation: LabelledRows | None = None,
    splits: Splits | None = None,
    eval_metric: object = None,
    named: bool = True,
    roles: Mapping[str, Role] | None = None,
    profile: TableProfile | None = None,
    class_weight: ClassWeight = None,
    prior: Prior = "training",
    decision: DecisionAim | None = None,
    distillation: DistillationOptions | None = None,
    encoder: TableEncoder | None = None,
    target_name: str | None = None,
    on_start: Callable[[FitSettings, int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> FittedModel:
    """Fit a model to a table.

    Parameters
    ----------
    rows : LabelledRows
        Where validation rows come from these, groups stay on one side and the latest validate.
    settings : FitSettings
        Fields left to the table are resolved here.
    classes : ndarray of shape (n_classes,) or None
        The labels that the codes stand for; None in regression.
    validation : LabelledRows, optional
        Rows that choose the epoch, and fit the calibrator or give the residuals of prediction
        intervals; without them `validation_fraction` of `rows` is set aside.
    splits : list of (train, test), optional
        Of `splits_of_rows`: the last one's test rows validate, in place of `validation`, and its
        training rows train.
    eval_metric : object, optional
        What chooses the epoch, as in `eval_metric_of`; None: what the settings name, else the loss.
    named : bool, default=True
        Whether the columns have names of their own (a frame) or not (an array).
    roles : mapping of str to Role, optional
        Overrides the inferred roles of columns.
    profile : TableProfile, optional
        Of a table that `rows` are a part of: in a part, row numbers are not consecutive any more.
        None: of `rows`.
    class_weight : "balanced", mapping of label to weight, or None
        Refused by `imbalance_aware`, which has weights of its own.
    prior : "training", "balanced", mapping of label to share, or array of shape (n_classes,)
        The class prior under which `imbalance_aware` answers.
    decision : DecisionAim, optional
        What the stored decision rule shall serve; it is tuned on the validation rows.
    distillation : DistillationOptions, optional
        Who teaches in `tree_teacher_distillation`, and on which further rows; None: the default
        teacher. Refused by the other modes.
    encoder : TableEncoder, optional
        Fitted before, on no validation rows; None: one is fitted on the training rows.
    target_name : str, optional
        For the model's card; a column of this name is not taken for a forgotten feature.
    on_start : callable, optional
        Called before training with the resolved settings and the numbers of training and
        validation rows.
    on_epoch : callable, optional
        Called with each `Epoch`.
    on_message : callable, optional
        Called with sentences on what takes time before the first epoch.
    checkpoint : Checkpoint, optional
        Where the run keeps its state, and goes on from; the caller removes it in the end.

    Returns
    -------
    FittedModel

    Raises
    ------
    ValueError
        If the settings do not fit the task or the rows, or a checkpoint is of another run.
    TableError
        If the table has no usable column, or a column is not what it should be.
    """
    if settings.training_mode == "imbalance_aware" and class_weight is not None:
        raise ValueError(
            "imbalance_aware computes its own class weights and takes no class_weight; got "
            f"{class_weight!r}; use training_mode='mlp_dense' to choose them"
        )
    distils = settings.training_mode == "tree_teacher_distillation"
    if distillation is not None and not distils:
        raise ValueError(
            "a teacher is an argument of training_mode='tree_teacher_distillation'; the mode is "
            f"{settings.training_mode!r}"
        )
    training_device(settings)  # refuses what this machine lacks
    limit = None if settings.time_limit is None else TimeLimit(settings.time_limit)
    metric = eval_metric_of(
        settings.eval_metric if eval_metric is None else eval_metric, settings.task
    )
    settings = replace(settings, eval_metric=None if metric is None else metric.name)
    folds = None
    if splits is not None:
        if validation is not None:
            raise ValueError("splits take the place of validation rows; got both; give one")
        folds = folds_of_splits(splits, len(rows)) if settings.asked_folds > 1 else None
        if folds is None:
            rows, validation = _of_last_split(rows, splits, classes, on_message)
        else:
            check_classes(splits, rows, classes)
            if rows.weight is not None:
                folds = folds[rows.weight > 0]
            settings = replace(settings, n_folds=len(splits))
    rows = rows.with_positive_weight()
    if validation is not None:
        validation = validation.with_positive_weight()
    # Before the classes: a single row has a single class, and that is not what is wrong with it.
    _check_enough(rows)
    if classes is not None and len(classes) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; got 1 class ({classes.tolist()[0]!r}); "
            "check the target column, or the filter that made the table"
        )
    if classes is not None and len(classes) == len(rows) > 2:
        raise TableError(
            f"a class needs rows to learn from; got {len(classes):,} labels in {len(rows):,} rows, "
            "each in one; is the target an identifier, or a quantity? Name another target, or "
            "fit a regression"
        )
    if classes is not None and settings.calibration is not None:
        check_calibration(settings.calibration, len(classes))
    if decision is not None:
        if classes is None:
            raise ValueError("a decision rule is for classification; this is a regression task")
        decision.check(len(classes))
    for part in (rows, validation):
        if classes is None and part is not None:
            check_target(settings.objective, part.target)
    profile = profile or profile_table(rows.frame, named=named, roles=roles, formats=rows.formats)
    rows = replace(rows, frame=profile.typed(rows.frame))
    if validation is not None:
        validation = replace(validation, frame=profile.typed(validation.frame))
    if settings.asked_folds > 1 and folds is None:
        settings, folds = _folds(rows, settings, classes, validation, encoder, on_message)
    if validation is None and folds is None:
        share = settings.held_out_share(len(rows))
        settings = replace(settings, validation_fraction=share)
        stay, leave = rows.split(
            share, stratify=classes is not None, random_state=settings.random_state
        )
        rows, validation = rows.take(stay), rows.take(leave)
        _check_enough(rows, len(validation))
    if metric is not None:
        choosing = [validation] if folds is None else _rows_by_fold(rows, folds)
        for own in choosing:
            assert own is not None
            labels = own.target if classes is None else classes[own.target]
            metric.check(labels, own.weight, classes)
    recipe = _Recipe(
        settings.resolved(n_rows=len(rows), n_classes=None if classes is None else len(classes)),
        profile,
        classes,
        named,
        class_weight,
        prior,
        target_name,
        on_epoch,
        encoder,
        (distillation or DistillationOptions()) if distils else None,
        on_message,
        metric,
        limit,
    )
    if folds is not None:
        if on_start is not None:
            on_start(recipe.settings, len(rows), int((folds >= 0).sum()))
        return with_time(recipe.fit_in_folds(rows, folds, decision, checkpoint), limit)
    assert validation is not None
    held_out = _HeldOut(validation)
    if classes is None:
        held_out = _HeldOut.with_spare(validation, settings.random_state)
    if on_start is not None:
        on_start(recipe.settings, len(rows), len(validation))
    model = recipe.fit(rows, held_out, checkpoint)
    if held_out.spare is not None and len(held_out.spare):
        model = replace(model, card={**model.card, "n_interval_rows": len(held_out.spare)})
    if decision is not None:
        proba = Predictor(model).predict_proba(held_out.rows.frame)
        model = with_decision(model, proba, held_out.rows, decision)
    if settings.refit and len(validation) and model.stopped != "interrupted":
        recipe = recipe.decided(model)
        whole = recipe.fit(rows.with_rows(validation), None, checkpoint, model.best_epochs)
        if whole.stopped in ("interrupted", "non-finite"):
            warnings.warn(
                "the refit on all rows came to no end; the networks of the first training are kept",
                RuntimeWarning,
                stacklevel=2,
            )
            return replace(model, stopped=whole.stopped)
        model = replace(
            whole,
            calibrator=model.calibrator,
            decision=model.decision,
            # Of the first networks: to the second ones their residuals are out of fold.
            intervals=model.intervals and replace(model.intervals, kind="cross"),
            metrics=model.metrics,
            card={**model.card, "n_training_rows": whole.card["n_training_rows"]},
        )
    return with_time(model, limit)


def _of_last_split(
    rows: LabelledRows,
    splits: Splits,
    classes: np.ndarray | None,
    on_message: Callable[[str], None] | None,
) -> tuple[LabelledRows, LabelledRows]:
    """The rows that train and those that validate: the last split is the latest in time."""
    train, test = splits[-1]
    n_unused = len(rows) - len(train) - len(test)
    if n_unused and on_message is not None:
        on_message(f"{n_unused:,} rows are in neither part of the last split, and have no part")
    check_classes(splits[-1:], rows, classes)
    return rows.take(train), rows.take(test)


def _folds(
    rows: LabelledRows,
    settings: FitSettings,
    classes: np.ndarray | None,
    validation: LabelledRows | None,
    encoder: TableEncoder | None,
    on_message: Callable[[str], None] | None,
) -> tuple[FitSettings, np.ndarray | None]:
    """The fold of each row; without folds settings that say so, and a sentence that says why."""
    if validation is not None:
        folds, reason = None, "no folds: validation rows were given"
    elif encoder is not None:
        folds, reason = None, "no folds: the encoder was fitted before"
    else:
        folds, reason = assign_folds(
            rows,
            settings.asked_folds,
            stratify=classes is not None,
            random_state=settings.random_state,
        )
    if folds is None:
        if on_message is not None:
            on_message(reason)
        return replace(settings, n_folds=1), None
    return replace(settings, n_folds=int(folds.max()) + 1), folds


def _rows_by_fold(rows: LabelledRows, folds: np.ndarray) -> list[LabelledRows]:
    return [rows.take(np.flatnonzero(folds == fold)) for fold in range(int(folds.max()) + 1)]


def _check_enough(rows: LabelledRows, n_set_aside: int = 0) -> None:
    """Batch norm has no variance to learn from in one row."""
    if len(rows) < 2:
        aside = f", and {n_set_aside} set aside to validate" if n_set_aside else ""
        raise ValueError(
            "at least 2 training rows of positive weight are needed; "
            f"got n_samples={len(rows)}{aside}; give more rows"
        )


@dataclass(frozen=True)
class _HeldOut:
    """Validation rows: those that choose, and those kept for the residuals of intervals."""

    rows: LabelledRows
    spare: LabelledRows | None = None
    interval: IntervalRows | None = None

    @classmethod
    def with_spare(cls, rows: LabelledRows, random_state: int) -> _HeldOut:
        interval = interval_rows(
            len(rows), groups=rows.groups, time=rows.time, random_state=random_state
        )
        return cls(rows.take(interval.choosing), rows.take(interval.aside), interval)

    def cross_predictions(self, scale: TargetScale | None) -> CrossPredictions | None:
        """What keeps predictions of the choosing rows, where none are spare."""
        if scale is None or self.interval is None or self.interval.folds is None:
            return None
        return CrossPredictions(self.interval.folds, self.rows.weight)


@dataclass(frozen=True)
class _Recipe:
    """How networks are fitted, apart from the rows."""

    settings: FitSettings
    profile: TableProfile
    classes: np.ndarray | None
    named: bool
    class_weight: ClassWeight
    prior: Prior
    target_name: str | None
    on_epoch: Callable[[Epoch], None] | None
    encoder: TableEncoder | None
    distillation: DistillationOptions | None
    on_message: Callable[[str], None] | None
    metric: EvalMetric | None = None
    limit: TimeLimit | None = None
    keep_obliques: bool | None = None

    def decided(self, model: FittedModel) -> _Recipe:
        """The recipe of a fit on more rows, after `model`: networks choose nothing any more."""
        recipe = replace(self, keep_obliques=bool(model.encoder.plan_.obliques))
        if self.distillation is None:
            return recipe
        # What the teacher said was for other rows.
        distillation = replace(self.distillation, soft_targets=None)
        return replace(recipe, settings=model.settings, distillation=distillation)

    def fit(
        self,
        rows: LabelledRows,
        held_out: _HeldOut | None,
        checkpoint: Checkpoint | None,
        stop_at: Sequence[int] | None = None,
    ) -> FittedModel:
        """Encoder, networks, calibration; without rows held out members end at `stop_at`."""
        targets = Targets.of(
            rows, self.settings, self.classes, self.class_weight, self.prior, self.metric
        )
        encoder, compact = self._encoded(rows, targets)
        choosing = None
        if held_out is not None:
            choosing = (encoder.transform(held_out.rows.frame), held_out.rows)
        run = _Run(self, encoder, targets, (compact, rows), choosing, held_out, checkpoint, stop_at)
        soft_targets = direct = None
        if self.distillation is None:
            trained, cross = run.train()
            n_members = len(trained.modules)
            model = run.model(trained, replace(self.settings, n_members=n_members))
        else:
            soft_targets = self.distillation.soft_targets or prepare_soft_targets(
                rows,
                self.profile,
                settings=self.settings,
                distillation=self.distillation,
                classes=self.classes,
                class_weights=targets.class_weights,
            )
            model, direct, cross = run.taught(soft_targets)
        if held_out is None or choosing is None:
            return model
        trees = None
        if tree_kinds(self.settings):
            networks = Predictor(model).standardised(choosing[0])
            model, trees = self._with_trees(model, [((compact, rows), choosing)], networks, targets)
        model = _scored(model, *choosing)
        model = _with_intervals(model, held_out, cross, trees, (compact, rows), choosing)
        if (
            soft_targets is None
            or direct is None
            or self.distillation is None
            or not self.distillation.report
        ):
            return model
        direct = _scored(direct, *choosing)
        return _with_verdict(model, direct, soft_targets, self.distillation, choosing[1])

    def fit_in_folds(
        self,
        rows: LabelledRows,
        folds: np.ndarray,
        decision: DecisionAim | None,
        checkpoint: Checkpoint | None,
    ) -> FittedModel:
        """Networks per fold; predictions of the rows that they held out decide the rest."""
        targets = Targets.of(
            rows, self.settings, self.classes, self.class_weight, self.prior, self.metric
        )
        encoder, compact = self._encoded(rows, targets, folds)
        done = train_folds(
            self.settings,
            encoder,
            (compact, rows),
            targets,
            folds,
            on_epoch=self.on_epoch,
            on_message=self.on_message or (lambda message: None),
            checkpoint=checkpoint,
            limit=self.networks_limit,
        )
        held = np.concatenate([fold.held for fold in done])
        judged, trained = rows.take(held), joined_folds(done)
        model = self.model(encoder, targets, trained, (compact, rows), len(judged), self.settings)
        networks = out_of_fold(model, compact, done)
        trees = None
        if tree_kinds(self.settings):
            parts = [
                (_taken(compact, rows, folds != k), _taken(compact, rows, folds == k))
                for k in range(len(done))
            ]
            model, trees = self._with_trees(model, parts, networks, targets, (compact, rows))
        output = networks if trees is None else trees.combined(networks)
        if model.target is not None:
            output = model.target.restore(output)
        model = with_scores(model, output, judged)
        told = {
            "n_folds": self.settings.n_folds,
            "n_trained": len(done),
            "n_rows": len(judged),
            "best_losses": [fold.trained.history[-1].best_loss for fold in done],
        }
        model = replace(model, card={**model.card, "folds": told})
        if model.classes is None:
            return _with_fold_intervals(model, done, networks, compact.take(held), judged, trees)
        if decision is not None:
            model = with_decision(model, Predictor(model).calibrated(output), judged, decision)
        return model

    @property
    def networks_limit(self) -> TimeLimit | None:
        """How long the networks may train, from now on: trees and scores take time too."""
        if self.limit is None:
            return None
        return self.limit.part(_SHARE_WITH_TREES if self.settings.quality == "best" else _SHARE)

    def model(
        self,
        encoder: TableEncoder,
        targets: Targets,
        trained: Trained,
        training: tuple[Compact, LabelledRows],
        n_validation: int,
        settings: FitSettings,
    ) -> FittedModel:
        """The networks of a run as a model."""
        compact, rows = training
        card = model_card(
            settings,
            self.profile,
            len(rows),
            n_validation,
            self.target_name,
            sketch_of_rows(compact, len(encoder.plan_.had_missing)),
        )
        return fitted_networks(settings, encoder, targets, trained, classes=self.classes, card=card)

    def _with_trees(
        self,
        model: FittedModel,
        parts: Sequence[tuple[EncodedRows, EncodedRows]],
        networks: np.ndarray,
        targets: Targets,
        whole: EncodedRows | None = None,
    ) -> tuple[FittedModel, HeldOutTrees | None]:
        """`with_trees` under the terms of this recipe."""
        return with_trees(
            model,
            parts,
            networks,
            targets,
            kinds=tree_kinds(self.settings),
            whole=whole,
            say=self.on_message,
            limit=self.limit,
        )

    def _encoded(
        self, rows: LabelledRows, targets: Targets, folds: np.ndarray | None = None
    ) -> tuple[TableEncoder, Compact]:
        if self.encoder is not None:
            return self.encoder, self.encoder.transform(rows.frame)
        encoder = TableEncoder(numeric_encoding=self.settings.numeric_encoding)
        compact = encoder.fit_transform(
            rows.frame,
            self.profile,
            target=rows.target,
            task=self.settings.task,
            sample_weight=rows.weight,
            random_state=self.settings.random_state,
            named=self.named,
            target_name=self.target_name,
            # Rows that no network holds out are a fold of their own there.
            folds=None if folds is None else np.where(folds < 0, folds.max() + 1, folds),
        )
        if self.keep_obliques is None:
            return select_obliques(
                encoder, compact, rows, targets, self.settings, self.on_message, self.limit
            )
        return (encoder, compact) if self.keep_obliques else without_obliques(encoder, compact)


@dataclass(frozen=True)
class _Run:
    """One training run, or those of a distillation's candidates, on encoded rows."""

    recipe: _Recipe
    encoder: TableEncoder
    targets: Targets
    training: tuple[Compact, LabelledRows]
    choosing: tuple[Compact, LabelledRows] | None
    held_out: _HeldOut | None
    checkpoint: Checkpoint | None
    stop_at: Sequence[int] | None

    def train(
        self,
        soft_targets: SoftTargets | None = None,
        candidates: Candidates | None = None,
        turn: int = 0,
    ) -> tuple[Trained, CrossPredictions | None]:
        """Train the members, or those of every candidate of a group."""
        cross = None
        if self.held_out is not None:
            cross = self.held_out.cross_predictions(self.targets.scale)
        train = partial(
            train_members,
            encoder=self.encoder,
            training=self.training,
            held_out=self.choosing,
            targets=self.targets,
            cross=cross,
            taught=None
            if soft_targets is None or candidates is None
            else (soft_targets, candidates),
            control=RunControl(
                on_epoch=self.recipe.on_epoch,
                checkpoint=None if self.checkpoint is None else self.checkpoint.of_turn(turn),
                stop_at=self.stop_at,
                limit=self.recipe.networks_limit,
            ),
        )
        settings = self.recipe.settings
        try:
            return train(settings), cross
        except TimeLimitError:
            if settings.n_members == 1:
                raise
            if self.recipe.on_message is not None:
                self.recipe.on_message("the time limit leaves time for one network")
            return train(replace(settings, n_members=1)), cross

    def taught(
        self, soft_targets: SoftTargets
    ) -> tuple[FittedModel, FittedModel | None, CrossPredictions | None]:
        """Train candidates on soft targets and keep the best on the rows that choose."""
        settings = self.recipe.settings
        tried = candidate_groups(settings, soft_targets)
        n_members = settings.n_members or 1
        watched: list[CrossPredictions] = []

        def train(candidates: Candidates) -> list[FittedModel]:
            trained, cross = self.train(soft_targets, candidates, tried.index(candidates))
            if cross is not None:
                watched.append(cross)
            return [
                self.model(
                    trained,
                    candidates.settings(k, settings, soft_targets),
                    slice(k * n_members, (k + 1) * n_members),
                )
                for k in range(len(candidates.weights))
            ]

        validation = None
        if self.choosing is not None:
            compact, rows = self.choosing
            codes = None if self.recipe.classes is None else rows.target
            weights = row_weights(codes, rows.weight, self.targets.class_weights, len(rows))
            validation = (compact, rows.target, weights)
        model, direct = best_student(tried, train, soft_targets, validation)
        cross = CrossPredictions.best_of(watched, n_members) if watched else None
        return model, direct, cross

    def model(
        self, trained: Trained, settings: FitSettings, members: slice = slice(None)
    ) -> FittedModel:
        """The members of a run, or some of them, as a model."""
        own = replace(
            trained, modules=trained.modules[members], best_epochs=trained.best_epochs[members]
        )
        n_validation = 0 if self.choosing is None else len(self.choosing[1])
        return self.recipe.model(
            self.encoder, self.targets, own, self.training, n_validation, settings
        )


def _taken(
    compact: Compact, rows: LabelledRows, chosen: np.ndarray
) -> tuple[Compact, LabelledRows]:
    """Some encoded rows, by a mask."""
    index = np.flatnonzero(chosen)
    return compact.take(index), rows.take(index)


def _scored(model: FittedModel, compact: Compact, rows: LabelledRows) -> FittedModel:
    """Calibrated and scored on rows that no network trained on."""
    if not len(rows):
        return model
    return with_scores(model, Predictor(model).outputs(compact), rows)


def _with_verdict(
    model: FittedModel,
    direct: FittedModel,
    soft_targets: SoftTargets,
    distillation: DistillationOptions,
    validation: LabelledRows,
) -> FittedModel:
    """Say whether the teacher helped, on rows that were kept for it or on the validation rows."""
    judged = validation if distillation.judged is None else distillation.judged
    if not len(judged):
        return model
    report = fidelity_report(
        soft_targets.teacher,
        model,
        direct,
        judged.frame,
        judged.target,
        judged.weight,
        rows="validation" if distillation.judged is None else "held-out",
        teacher_came_fitted=not soft_targets.description["out_of_fold"],
    )
    return replace(model, card={**model.card, "fidelity": report.to_document()})


def _with_intervals(
    model: FittedModel,
    held_out: _HeldOut,
    cross: CrossPredictions | None,
    trees: HeldOutTrees | None,
    training: tuple[Compact, LabelledRows],
    choosing: tuple[Compact, LabelledRows],
) -> FittedModel:
    """Half-widths of prediction intervals, from residuals of rows held out for them."""
    interval, spare = held_out.interval, held_out.spare
    if interval is None or spare is None:
        return model
    model = replace(model, card={**model.card, "intervals": interval.message})
    if interval.kind is None:
        return model
    predictor = Predictor(model)
    if cross is None:
        rows, compact = spare, model.encoder.transform(spare.frame)
        outputs, chosen = predictor.outputs(compact), predictor.network(choosing[0])
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


def _with_fold_intervals(
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
    own = np.split(networks, np.cumsum(sizes)[:-1])
    values = np.concatenate(
        [
            value if fold.interval_values is None else fold.interval_values
            for fold, value in zip(done, own, strict=True)
        ]
    )
    if trees is not None:
        values = trees.cross_predictions(values, np.repeat(np.arange(len(done)), sizes))
    outputs = model.target.restore(values)
    message = f"cross-conformal: {len(rows):,} rows out of {len(done)} folds"
    model = replace(model, card={**model.card, "intervals": message})
    return with_intervals(model, (compact, rows), outputs, "cross", None)
