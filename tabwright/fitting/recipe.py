"""How networks are fitted to rows whose parts are decided: `Recipe`, and what follows training.

A recipe is a fit but for its rows: `fit` trains on some and validates on others, `fit_in_folds`
lets each row validate the networks of its own fold. Both end with a model that has trees,
calibration, scores, intervals and a decision rule where the settings ask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tabwright.calibration.decisions import DecisionAim
from tabwright.calibration.intervals import CrossPredictions
from tabwright.distillation.fidelity import fidelity_report
from tabwright.distillation.soft_targets import (
    Candidates,
    DistillationOptions,
    SoftTargets,
    best_student,
    candidate_groups,
    prepare_soft_targets,
)
from tabwright.distillation.trees.learners import TreeKind
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.encoding.interactions import Interaction
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.combination import EncodedRows, HeldOutTrees, tree_kinds, with_trees
from tabwright.fitting.cross_validation import (
    TrainedFold,
    joined_folds,
    out_of_fold,
    train_folds,
)
from tabwright.fitting.eval_metric import EvalMetric
from tabwright.fitting.finishing import (
    fitted_networks,
    model_card,
    with_decision,
    with_scores,
)
from tabwright.fitting.interactions import with_interactions
from tabwright.fitting.intervals import (
    ValidationRows,
    with_fold_intervals,
    with_held_out_intervals,
)
from tabwright.fitting.member_training import RunControl, train_members
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.training_rows import sketch_of_rows
from tabwright.settings import FitSettings
from tabwright.tables import TableProfile
from tabwright.tables.labelled import LabelledRows
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Trained
from tabwright.training.objectives import row_weights
from tabwright.training.time_limit import TimeLimit, TimeLimitError

# Of the time that is left, what networks may take: alone, and before trees.
_SHARE, _SHARE_WITH_TREES = 0.95, 0.6

# Folds in which trees are fitted where they are balanced against time and classes are many: all
# four have 1.00 of the loss of two on six tables, in 1.4 times the time of the whole fit.
_FOLDS_WITH_TREES = 2


@dataclass(frozen=True)
class Recipe:
    """How networks are fitted, apart from the rows."""

    settings: FitSettings
    profile: TableProfile
    classes: np.ndarray | None
    columns: Columns
    aims: Aims
    callbacks: FitCallbacks
    encoder: TableEncoder | None
    distillation: DistillationOptions | None
    decision: DecisionAim | None
    metric: EvalMetric | None
    limit: TimeLimit | None
    interactions: tuple[Interaction, ...] | None = None

    def decided(self, model: FittedModel) -> Recipe:
        """The recipe of a fit on more rows, after `model`: networks choose nothing any more."""
        columns = model.encoder.plan_.interactions
        recipe = replace(self, interactions=tuple(column.interaction for column in columns))
        if self.distillation is None:
            return recipe
        # What the teacher said was for other rows.
        distillation = replace(self.distillation, soft_targets=None)
        return replace(recipe, settings=model.settings, distillation=distillation)

    def fit(
        self,
        rows: LabelledRows,
        held_out: ValidationRows | None,
        checkpoint: Checkpoint | None,
        stop_at: Sequence[int] | None = None,
    ) -> FittedModel:
        """Encoder, networks, calibration; without rows held out members end at `stop_at`."""
        targets = self._targets(rows)
        encoder, compact = self._encoded(rows, targets)
        choosing = None
        if held_out is not None:
            choosing = (encoder.transform(held_out.rows.frame), held_out.rows)
        run = _Run(
            recipe=self,
            encoder=encoder,
            targets=targets,
            training=(compact, rows),
            choosing=choosing,
            held_out=held_out,
            checkpoint=checkpoint,
            stop_at=stop_at,
        )
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
            model, direct, cross = run.distill(soft_targets)
        if held_out is None or choosing is None:
            return model
        # What the rows that choose get is predicted once, and again only with trees.
        networks, trees = Predictor(model).standardised(choosing[0]), None
        if self._tree_kinds():
            whole = (compact, rows)
            if not held_out.are_given:
                whole = (compact.with_rows(choosing[0]), rows.with_rows(choosing[1]))
            parts = [((compact, rows), choosing)]
            model, trees = self._with_trees(model, parts, networks, targets, whole)
            if model.trees is not None:
                # They are fitted on the rows that chose them too.
                model = replace(model, card={**model.card, **_sketch(encoder, whole[0])})
        outputs = networks if trees is None else trees.combined(networks)
        if model.target is not None:
            outputs = model.target.restore(outputs)
        model = with_held_out_intervals(
            model, held_out, cross, trees, (compact, rows), (*choosing, outputs)
        )
        model = with_scores(model, outputs, choosing[1])
        if soft_targets is not None and direct is not None:
            model = self._with_verdict(model, direct, soft_targets, choosing)
        if held_out.spare is not None and len(held_out.spare):
            model = replace(model, card={**model.card, "n_interval_rows": len(held_out.spare)})
        return self._with_decision(model, outputs, choosing[1])

    def fit_in_folds(
        self,
        rows: LabelledRows,
        folds: np.ndarray,
        checkpoint: Checkpoint | None,
    ) -> FittedModel:
        """Networks per fold; what they and trees say of rows held out decides the rest."""
        targets = self._targets(rows)
        encoder, compact = self._encoded(rows, targets, folds)
        done = train_folds(
            self.settings,
            encoder,
            (compact, rows),
            targets,
            folds,
            on_epoch=self.callbacks.on_epoch,
            on_message=self.callbacks.emit,
            checkpoint=checkpoint,
            limit=self.networks_limit,
        )
        judging = done[: self._n_judging(len(done))]
        held = np.concatenate([fold.held for fold in judging])
        judged, trained = rows.take(held), joined_folds(done)
        model = self.model(encoder, targets, trained, (compact, rows), len(judged), self.settings)
        networks = out_of_fold(model, compact, judging)
        trees = None
        if self._tree_kinds():
            parts = [
                (_taken(compact, rows, folds != k), _taken(compact, rows, folds == k))
                for k in range(len(judging))
            ]
            model, trees = self._with_trees(model, parts, networks, targets, (compact, rows))
        output = networks if trees is None else trees.combined(networks)
        if model.target is not None:
            output = model.target.restore(output)
            model = with_fold_intervals(model, judging, networks, compact.take(held), judged, trees)
        model = with_scores(model, output, judged)
        summary = {
            "n_folds": self.settings.n_folds,
            "n_trained": len(done),
            "n_rows": len(judged),
            **_best_of(done),
        }
        model = replace(model, card={**model.card, "folds": summary})
        return self._with_decision(model, output, judged)

    def _tree_kinds(self, n_rows: int = 0) -> tuple[TreeKind, ...]:
        """The trees to weigh against the networks, as `tree_kinds` has them."""
        n_classes = 0 if self.classes is None else len(self.classes)
        return tree_kinds(self.settings, n_classes, n_rows, asked=self.aims.trees)

    def _n_judging(self, n_folds: int) -> int:
        """Folds whose rows weigh networks and trees, calibrate and are scored, of those trained.

        A tree a class and round makes trees in every fold slow.
        """
        many_classes = self.classes is not None and len(self.classes) > 2
        if many_classes and self.settings.quality == "balanced" and self._tree_kinds():
            return min(n_folds, _FOLDS_WITH_TREES)
        return n_folds

    @property
    def networks_limit(self) -> TimeLimit | None:
        """How long the networks may train, from now on: trees and scores take time too."""
        if self.limit is None:
            return None
        many_trees = self.settings.quality == "best" or (
            self.settings.asked_folds > 1 and bool(self._tree_kinds())
        )
        return self.limit.part(_SHARE_WITH_TREES if many_trees else _SHARE)

    def model(
        self,
        encoder: TableEncoder,
        targets: Targets,
        trained: Trained,
        training: EncodedRows,
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
            (self.columns.target_name, self.columns.format_of_target(rows)),
            _sketch(encoder, compact),
        )
        return fitted_networks(settings, encoder, targets, trained, classes=self.classes, card=card)

    def _targets(self, rows: LabelledRows) -> Targets:
        """What the mode makes of the targets of the training rows."""
        aims = self.aims
        return Targets.of(
            rows, self.settings, self.classes, aims.class_weight, aims.prior, self.metric
        )

    def _with_decision(
        self, model: FittedModel, outputs: np.ndarray, rows: LabelledRows
    ) -> FittedModel:
        """The decision rule, tuned on rows by what the model puts out for them."""
        if self.decision is None:
            return model
        return with_decision(model, Predictor(model).calibrated(outputs), rows, self.decision)

    def _with_verdict(
        self,
        model: FittedModel,
        direct: FittedModel,
        soft_targets: SoftTargets,
        choosing: EncodedRows,
    ) -> FittedModel:
        """Say whether the teacher helped, on rows that were kept for it or on the validation rows.

        `direct`: the same network without the teacher.
        """
        if self.distillation is None or not self.distillation.report:
            return model
        compact, validation = choosing
        judged = validation if self.distillation.judged is None else self.distillation.judged
        if not len(judged):
            return model
        direct = with_scores(direct, Predictor(direct).outputs(compact), validation)
        report = fidelity_report(
            soft_targets.teacher,
            model,
            direct,
            judged.frame,
            judged.target,
            judged.weight,
            rows="validation" if self.distillation.judged is None else "held-out",
            teacher_came_fitted=not soft_targets.description["out_of_fold"],
        )
        return replace(model, card={**model.card, "fidelity": report.to_document()})

    def _with_trees(
        self,
        model: FittedModel,
        parts: Sequence[tuple[EncodedRows, EncodedRows]],
        networks: np.ndarray,
        targets: Targets,
        whole: EncodedRows,
    ) -> tuple[FittedModel, HeldOutTrees | None]:
        """`with_trees` under the terms of this recipe."""
        return with_trees(
            model,
            parts,
            networks,
            targets,
            kinds=self._tree_kinds(len(whole[1])),
            whole=whole,
            on_message=self.callbacks.on_message,
            limit=self.limit,
        )

    def _encoded(
        self, rows: LabelledRows, targets: Targets, folds: np.ndarray | None = None
    ) -> tuple[TableEncoder, Compact]:
        """The encoder, fitted unless one was given, and the rows encoded by it."""
        if self.encoder is not None:
            return self.encoder, self.encoder.transform(rows.frame)
        encoder = TableEncoder(numeric_encoding=self.settings.numeric_encoding)
        to_fit = RowsToFit(
            rows.frame,
            self.profile,
            target=rows.target,
            task=self.settings.task,
            sample_weight=rows.weight,
            random_state=self.settings.random_state,
            named=self.columns.named,
            target_name=self.columns.target_name,
            # Rows that no network holds out are a fold of their own there.
            folds=None if folds is None else np.where(folds < 0, folds.max() + 1, folds),
        )
        return with_interactions(
            encoder,
            to_fit,
            (encoder.fit_transform(to_fit), rows),
            targets,
            self.settings,
            known=self.interactions,
            on_message=self.callbacks.emit,
            limit=self.limit,
        )


def _best_of(done: Sequence[TrainedFold]) -> dict[str, list[float]]:
    """The best loss of each fold, or its best score where a metric chose the epoch."""
    last = [fold.trained.history[-1] for fold in done]
    if any(np.isnan(epoch.best_loss) for epoch in last):
        return {"best_scores": [epoch.best_score for epoch in last]}
    return {"best_losses": [epoch.best_loss for epoch in last]}


@dataclass(frozen=True)
class _Run:
    """One training run, or those of a distillation's candidates, on encoded rows."""

    recipe: Recipe
    encoder: TableEncoder
    targets: Targets
    training: EncodedRows
    choosing: EncodedRows | None
    held_out: ValidationRows | None
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
            distilled=None
            if soft_targets is None or candidates is None
            else (soft_targets, candidates),
            control=RunControl(
                on_epoch=self.recipe.callbacks.on_epoch,
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
            self.recipe.callbacks.emit("the time limit leaves time for one network")
            return train(replace(settings, n_members=1)), cross

    def distill(
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
        chosen = replace(
            trained, modules=trained.modules[members], best_epochs=trained.best_epochs[members]
        )
        n_validation = 0 if self.choosing is None else len(self.choosing[1])
        return self.recipe.model(
            self.encoder, self.targets, chosen, self.training, n_validation, settings
        )


def _sketch(encoder: TableEncoder, compact: Compact) -> dict[str, dict[str, str | float]]:
    """The entry of the card by which training rows are known again."""
    return sketch_of_rows(compact, len(encoder.plan_.had_missing))


def _taken(compact: Compact, rows: LabelledRows, chosen: np.ndarray) -> EncodedRows:
    """Some encoded rows, by a mask."""
    index = np.flatnonzero(chosen)
    return compact.take(index), rows.take(index)
