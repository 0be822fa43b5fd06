"""`fit_table`: the one way from a table and a target to a `FittedModel`.

The estimators and the command line are two faces of this function; neither has a second
implementation of any of its steps.
"""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch import __version__
from ai.ml.frameworks.pytorch.batches import HeldOutRows, Inputs, MemoryRows
from ai.ml.frameworks.pytorch.calibration import (
    check_calibration,
    fit_calibrator,
    refined_log_loss,
)
from ai.ml.frameworks.pytorch.checkpoints import Checkpoint, Checkpointer
from ai.ml.frameworks.pytorch.decisions import DecisionAim
from ai.ml.frameworks.pytorch.distillation import (
    Lesson,
    Teaching,
    Trial,
    best_student,
    prepare_lesson,
    trials,
)
from ai.ml.frameworks.pytorch.features import Compact, TableEncoder
from ai.ml.frameworks.pytorch.fidelity import fidelity_report
from ai.ml.frameworks.pytorch.fitted import Architecture, FittedModel, TargetScale
from ai.ml.frameworks.pytorch.intervals import (
    CrossPredictions,
    IntervalRows,
    fit_intervals,
    interval_rows,
)
from ai.ml.frameworks.pytorch.members import StackedMembers
from ai.ml.frameworks.pytorch.metrics import score_classification, score_regression
from ai.ml.frameworks.pytorch.models import build_model
from ai.ml.frameworks.pytorch.objectives import Objective, class_weight_vector, row_weights
from ai.ml.frameworks.pytorch.predictor import Predictor
from ai.ml.frameworks.pytorch.serialization import pack
from ai.ml.frameworks.pytorch.settings import FitSettings
from ai.ml.frameworks.pytorch.splits import split_rows
from ai.ml.frameworks.pytorch.tables import Role, TableProfile, profile_table
from ai.ml.frameworks.pytorch.trainer import Epoch, Trained, train

__all__ = ["ClassWeight", "LabelledRows", "Prior", "class_weights_of", "fit_table"]

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None
Prior = Literal["training", "balanced"] | Sequence[float] | np.ndarray

_LEAST_PATIENCE = 6


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
        frame = pl.concat([self.frame, more.frame.select(self.frame.columns)])
        return LabelledRows(frame, np.concatenate([self.target, more.target]), weight)

    def with_positive_weight(self) -> tuple[LabelledRows, np.ndarray | None]:
        """These rows less those of weight zero, and the numbers of the rows kept."""
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
        if keep.size == len(self):
            return self, None
        return self.take(keep), keep


def fit_table(
    rows: LabelledRows,
    settings: FitSettings,
    *,
    classes: np.ndarray | None = None,
    validation: LabelledRows | None = None,
    groups: np.ndarray | None = None,
    time: np.ndarray | None = None,
    named: bool = True,
    roles: Mapping[str, Role] | None = None,
    class_weight: ClassWeight = None,
    prior: Prior = "training",
    decision: DecisionAim | None = None,
    teaching: Teaching | None = None,
    encoder: TableEncoder | None = None,
    target_name: str | None = None,
    on_start: Callable[[FitSettings, int, int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> FittedModel:
    """Fit a model to a table.

    Parameters
    ----------
    rows : LabelledRows
    settings : FitSettings
        Fields left to the table are resolved here.
    classes : ndarray of shape (n_classes,) or None
        The labels that the codes stand for; None in regression.
    validation : LabelledRows, optional
        Rows that choose the epoch, and fit the calibrator or give the residuals of prediction
        intervals; without them `validation_fraction` of `rows` is set aside.
    groups, time : ndarray of shape (n_rows,), optional
        Rows of one group stay on one side of the split; validation rows are strictly later.
    named : bool, default=True
        Whether the columns have names of their own (a frame) or not (an array).
    roles : mapping of str to Role, optional
        Overrides the inferred roles of columns.
    class_weight : "balanced", mapping of label to weight, or None
        Refused by `imbalance_aware`, which has weights of its own.
    prior : "training", "balanced" or ndarray of shape (n_classes,)
        The class prior under which `imbalance_aware` answers.
    decision : DecisionAim, optional
        What the stored decision rule shall serve; it is tuned on the validation rows.
    teaching : Teaching, optional
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
    if teaching is not None and not distils:
        raise ValueError(
            "a teacher is an argument of training_mode='tree_teacher_distillation'; the mode is "
            f"{settings.training_mode!r}"
        )
    rows, kept = rows.with_positive_weight()
    if kept is not None:
        groups = None if groups is None else groups[kept]
        time = None if time is None else time[kept]
    if validation is not None:
        validation, _ = validation.with_positive_weight()
    # Before the classes: a single row has a single class, and that is not what is wrong with it.
    _check_enough(rows)
    if classes is not None and len(classes) < 2:
        raise ValueError(
            f"a classifier needs at least 2 classes; got 1 class ({classes.tolist()[0]!r}); "
            "check the target column, or the filter that made the table"
        )
    if classes is not None and settings.calibration is not None:
        check_calibration(settings.calibration, len(classes))
    if decision is not None:
        if classes is None:
            raise ValueError("a decision rule is for classification; this is a regression task")
        decision.check(len(classes))
    profile = profile_table(rows.frame, named=named, roles=roles)
    all_groups = None
    if validation is None:
        train_index, validation_index = split_rows(
            len(rows),
            fraction=settings.validation_fraction,
            codes=None if classes is None else rows.target,
            groups=groups,
            time=time,
            random_state=settings.random_state,
        )
        validation = rows.take(validation_index)
        rows = rows.take(train_index)
        if groups is not None:
            all_groups = np.concatenate([groups[train_index], groups[validation_index]])
        training_groups = None if groups is None else groups[train_index]
        groups = None if groups is None else groups[validation_index]
        time = None if time is None else time[validation_index]
        _check_enough(rows, len(validation))
    else:
        training_groups = groups
        if groups is not None:
            # Validation rows that come by themselves are groups of their own.
            codes = np.unique(groups, return_inverse=True)[1]
            all_groups = np.concatenate([codes, len(codes) + np.arange(len(validation))])
        # Intervals ask for groups and times of validation rows, which are not given here.
        groups = time = None
    held_out = _HeldOut(validation)
    if classes is None:
        held_out = _HeldOut.with_spare(validation, groups, time, settings.random_state)
    recipe = _Recipe(
        settings.resolved(n_rows=len(rows)),
        profile,
        classes,
        named,
        class_weight,
        prior,
        target_name,
        on_epoch,
        encoder,
        (teaching or Teaching()) if distils else None,
        training_groups,
    )
    if on_start is not None:
        on_start(recipe.settings, len(rows), len(validation))
    model = recipe.fit(rows, held_out, checkpoint)
    if decision is not None:
        model = _with_decision(model, held_out.rows, decision)
    if settings.refit and len(validation):
        recipe = recipe.decided(model, all_groups)
        whole = recipe.fit(rows.with_rows(validation), None, checkpoint, model.best_epochs)
        model = replace(
            whole,
            calibrator=model.calibrator,
            decision=model.decision,
            intervals=model.intervals,
            metrics=model.metrics,
            card={**model.card, "n_training_rows": whole.card["n_training_rows"]},
        )
    return model


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
    def with_spare(
        cls,
        rows: LabelledRows,
        groups: np.ndarray | None,
        time: np.ndarray | None,
        random_state: int,
    ) -> _HeldOut:
        interval = interval_rows(len(rows), groups=groups, time=time, random_state=random_state)
        return cls(rows.take(interval.choosing), rows.take(interval.aside), interval)

    def cross_predictions(self, scale: TargetScale | None) -> CrossPredictions | None:
        """What keeps predictions of the choosing rows, where none are spare."""
        if scale is None or self.interval is None or self.interval.folds is None:
            return None
        standard = scale.standardise(self.rows.target)[:, 0].astype(np.float64)
        return CrossPredictions(standard, self.interval.folds, self.rows.weight)


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
    teaching: Teaching | None
    groups: np.ndarray | None

    def decided(self, model: FittedModel, groups: np.ndarray | None) -> _Recipe:
        """The recipe of a fit on more rows, after `model`: nothing is left to choose."""
        if self.teaching is None:
            return self
        # What the teacher said was for other rows.
        teaching = replace(self.teaching, lesson=None)
        return replace(self, settings=model.settings, teaching=teaching, groups=groups)

    def fit(
        self,
        rows: LabelledRows,
        held_out: _HeldOut | None,
        checkpoint: Checkpoint | None,
        stop_at: Sequence[int] | None = None,
    ) -> FittedModel:
        """Encoder, networks, calibration; without rows held out members end at `stop_at`."""
        encoder, compact = self._encoded(rows)
        targets = _Targets.of(rows, self.settings, self.classes, self.class_weight, self.prior)
        choosing = None
        if held_out is not None:
            choosing = (encoder.transform(held_out.rows.frame), held_out.rows)
        run = _Run(self, encoder, targets, (compact, rows), choosing, held_out, checkpoint, stop_at)
        lesson = direct = None
        if self.teaching is None:
            trained, cross = run.train()
            model = run.model(trained, self.settings)
        else:
            lesson = self.teaching.lesson or prepare_lesson(
                rows.frame,
                self.profile,
                rows.target,
                settings=self.settings,
                teaching=self.teaching,
                classes=self.classes,
                sample_weight=rows.weight,
                class_weights=targets.class_weights,
                groups=self.groups,
            )
            model, direct, cross = run.taught(lesson)
        if held_out is None or choosing is None:
            return model
        model = _with_intervals(_with_scores(model, *choosing), held_out, cross)
        if lesson is None or direct is None or self.teaching is None or not self.teaching.report:
            return model
        direct = _with_scores(direct, *choosing)
        return _with_verdict(model, direct, lesson, self.teaching, choosing[1])

    def _encoded(self, rows: LabelledRows) -> tuple[TableEncoder, Compact]:
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
        )
        return encoder, compact


@dataclass(frozen=True)
class _Run:
    """One training run, or those of a distillation's trials, on encoded rows."""

    recipe: _Recipe
    encoder: TableEncoder
    targets: _Targets
    training: tuple[Compact, LabelledRows]
    choosing: tuple[Compact, LabelledRows] | None
    held_out: _HeldOut | None
    checkpoint: Checkpoint | None
    stop_at: Sequence[int] | None

    def train(
        self, lesson: Lesson | None = None, trial: Trial | None = None, turn: int = 0
    ) -> tuple[Trained, CrossPredictions | None]:
        """Train the members, or those of every candidate of a trial."""
        cross = None
        if self.held_out is not None:
            cross = self.held_out.cross_predictions(self.targets.scale)
        trained = _train_members(
            self.recipe.settings,
            self.encoder,
            self.training,
            self.choosing,
            self.targets,
            cross,
            taught=None if lesson is None or trial is None else (lesson, trial),
            on_epoch=self.recipe.on_epoch,
            checkpoint=None if self.checkpoint is None else self.checkpoint.of_turn(turn),
            stop_at=self.stop_at,
        )
        return trained, cross

    def taught(
        self, lesson: Lesson
    ) -> tuple[FittedModel, FittedModel | None, CrossPredictions | None]:
        """Train candidates on a lesson and keep the best on the rows that choose."""
        settings = self.recipe.settings
        tried = trials(settings, lesson)
        n_members = settings.n_members or 1
        watched: list[CrossPredictions] = []

        def train(trial: Trial) -> list[FittedModel]:
            trained, cross = self.train(lesson, trial, tried.index(trial))
            if cross is not None:
                watched.append(cross)
            return [
                self.model(
                    trained,
                    trial.settings(k, settings, lesson),
                    slice(k * n_members, (k + 1) * n_members),
                )
                for k in range(len(trial.weights))
            ]

        validation = None
        if self.choosing is not None:
            compact, rows = self.choosing
            codes = None if self.recipe.classes is None else rows.target
            weights = row_weights(codes, rows.weight, self.targets.class_weights, len(rows))
            validation = (compact, rows.target, weights)
        model, direct = best_student(tried, train, lesson, validation)
        cross = CrossPredictions.best_of(watched, n_members) if watched else None
        return model, direct, cross

    def model(
        self, trained: Trained, settings: FitSettings, members: slice = slice(None)
    ) -> FittedModel:
        """The members of a run, or some of them, as a model."""
        modules, targets = trained.modules[members], self.targets
        return FittedModel(
            settings=settings,
            encoder=self.encoder,
            architecture=Architecture.of(
                modules[0], input_dim=self.encoder.input_dim, output_dim=targets.output_dim
            ),
            members=tuple(_arrays(module) for module in modules),
            classes=self.recipe.classes,
            target=targets.scale,
            class_prior=targets.class_prior,
            class_weights=targets.class_weights,
            prior=targets.prior,
            best_epochs=trained.best_epochs[members],
            history=tuple(_finite(asdict(epoch)) for epoch in trained.history),
            card=_card(
                self.recipe.profile,
                len(self.training[1]),
                0 if self.choosing is None else len(self.choosing[1]),
                self.recipe.target_name,
                trained.stopped,
            ),
        )


@dataclass(frozen=True)
class _Targets:
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
    ) -> _Targets:
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
            prior=_check_prior(prior, n_classes, settings),
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

    def taught(
        self, rows: LabelledRows, lesson: Lesson, trial: Trial, n_members: int, device: torch.device
    ) -> Objective:
        """The objective over the training rows and those without a target behind them."""
        codes = None if self.scale else rows.target
        weights = row_weights(codes, rows.weight, self.class_weights, len(rows))
        target, labels = rows.target, lesson.labels
        labelled = None
        extra = lesson.extra_rows(augmented=trial.augmented)
        if lesson.extra_labels is not None and extra.start < extra.stop:
            n_extra = extra.stop - extra.start
            labels = np.concatenate([labels, lesson.extra_labels[extra]])
            # Any target in range: the objective does not look at it.
            target = np.concatenate([target, np.repeat(target[:1], n_extra)])
            labelled = torch.arange(len(target), device=device) < len(rows)
            if weights is not None and lesson.extra_weight is not None:
                weights = np.concatenate([weights, lesson.extra_weight[extra]])
        if self.scale is not None:
            target, labels = self.scale.standardise(target), self.scale.standardise(labels)
        return Objective(
            targets=torch.from_numpy(np.ascontiguousarray(target)).to(device),
            weights=None
            if weights is None
            else torch.from_numpy(weights.astype(np.float32)).to(device),
            soft_targets=torch.from_numpy(labels.astype(np.float32)).to(device),
            teacher_weight=_per_member(trial.weights, n_members, device),
            temperature=_per_member(trial.temperatures, n_members, device),
            labelled=labelled,
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
    return _weights_by_label(class_weight, classes)


def _weights_by_label(class_weight: Mapping[Any, float], classes: np.ndarray) -> np.ndarray:
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


def _check_prior(prior: Prior, n_classes: int, settings: FitSettings) -> np.ndarray | None:
    if isinstance(prior, str):
        if prior not in ("training", "balanced"):
            raise ValueError(
                f"prior must be 'training', 'balanced' or an array of {n_classes} shares; "
                f"got {prior!r}"
            )
        if settings.training_mode != "imbalance_aware" or prior == "training":
            return None
        return np.full(n_classes, 1.0 / n_classes)
    shares: np.ndarray = np.asarray(prior, dtype=np.float64)
    if shares.shape != (n_classes,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise ValueError(
            f"prior must hold {n_classes} finite shares above 0, in the order of classes_; "
            f"got {prior!r}"
        )
    if settings.training_mode != "imbalance_aware":
        raise ValueError(
            "prior is an argument of training_mode='imbalance_aware'; the mode is "
            f"{settings.training_mode!r}"
        )
    total: float = shares.sum()
    return shares / total


def _train_members(
    settings: FitSettings,
    encoder: TableEncoder,
    training: tuple[Compact, LabelledRows],
    held_out: tuple[Compact, LabelledRows] | None,
    targets: _Targets,
    cross: CrossPredictions | None,
    *,
    taught: tuple[Lesson, Trial] | None,
    on_epoch: Callable[[Epoch], None] | None,
    checkpoint: Checkpoint | None,
    stop_at: Sequence[int] | None,
) -> Trained:
    device = _device(settings)
    if settings.n_members is None or settings.batch_size is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    # The stream depends on the member's index, never on how many members there are.
    seeds = [
        int(np.random.SeedSequence([settings.random_state, member]).generate_state(1)[0])
        for member in range(settings.n_members)
    ]
    compact, rows = training
    batch_size = settings.batch_size
    modules = [_network(settings, encoder.input_dim, targets.output_dim, seed) for seed in seeds]
    if taught is None:
        objective = targets.on(rows, device)
    else:
        lesson, trial = taught
        objective = targets.taught(rows, lesson, trial, settings.n_members, device)
        # Candidates differ in what they are taught alone: first weights and dropout are the same.
        modules, seeds = modules * len(trial.weights), seeds * len(trial.weights)
        more = lesson.extra_rows(augmented=trial.augmented)
        if lesson.extra is not None and more.start < more.stop:
            compact = _joined(compact, encoder.transform(lesson.extra[more]))
            settings = _same_steps(settings, len(compact) / len(rows))
    members = StackedMembers(
        [module.to(device) for module in modules], seeds=seeds, n_threads=torch.get_num_threads()
    )
    checkpointer = None
    if checkpoint is not None:
        checkpointer = Checkpointer(
            checkpoint if held_out is not None else checkpoint.of_refit(),
            _identity(settings, encoder, training, held_out) | _taught_identity(taught),
        )
    chooser = None
    if held_out is not None:
        chooser = HeldOutRows(
            Inputs(encoder, held_out[0], device),
            _score(settings, targets, held_out[1], device, cross),
            cross,
        )
    return train(
        members,
        MemoryRows(
            Inputs(encoder, compact, device, settings.hide_rate),
            objective,
            batch_size,
            settings.random_state,
        ),
        chooser,
        settings,
        on_epoch=on_epoch,
        checkpointer=checkpointer,
        stop_at=stop_at,
    )


def _joined(first: Compact, second: Compact) -> Compact:
    return Compact(
        np.concatenate([first.numeric, second.numeric]),
        np.concatenate([first.codes, second.codes]),
    )


def _same_steps(settings: FitSettings, growth: float) -> FitSettings:
    """Fewer of the longer epochs that rows without a target make."""
    if settings.max_epochs is None:
        return settings
    patience = settings.patience
    return replace(
        settings,
        max_epochs=max(1, round(settings.max_epochs / growth)),
        patience=None if patience is None else max(_LEAST_PATIENCE, round(patience / growth)),
    )


def _per_member(values: Sequence[float], n_members: int, device: torch.device) -> Tensor:
    """One value per candidate, for each of its members."""
    return torch.tensor(values, dtype=torch.float32, device=device).repeat_interleave(n_members)


def _network(settings: FitSettings, input_dim: int, output_dim: int, seed: int) -> nn.Module:
    """A fresh network; torch's own generator is left as it was."""
    width, depth, dropout = settings.hidden_dim, settings.num_hidden_layers, settings.dropout
    if width is None or depth is None or dropout is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    before = torch.default_generator.get_state()
    try:
        # Not torch.manual_seed, which would seed the generators of CUDA devices too.
        torch.default_generator.manual_seed(seed)
        return build_model(
            input_dim,
            output_dim,
            settings.training_mode,
            width,
            depth,
            dropout,
        )
    finally:
        torch.default_generator.set_state(before)


def _identity(
    settings: FitSettings, encoder: TableEncoder, *parts: tuple[Compact, LabelledRows] | None
) -> dict[str, str]:
    """What must be the same for a run to go on from a checkpoint."""
    identity = {f"settings.{name}": repr(value) for name, value in settings.to_document().items()}
    identity |= {"torch": str(torch.__version__), "tabwright": __version__}
    identity["encoder"] = hashlib.blake2b(pack(*encoder.to_state()), digest_size=16).hexdigest()
    for name, part in zip(("training rows", "validation rows"), parts, strict=True):
        digest = hashlib.blake2b(digest_size=16)
        if part is not None:
            compact, rows = part
            for array in (compact.numeric, compact.codes, rows.target, rows.weight):
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        identity[name] = digest.hexdigest()
    return identity


def _taught_identity(taught: tuple[Lesson, Trial] | None) -> dict[str, str]:
    if taught is None:
        return {}
    lesson, trial = taught
    digest = hashlib.blake2b(lesson.labels.tobytes(), digest_size=16)
    if lesson.extra_labels is not None:
        digest.update(lesson.extra_labels.tobytes())
    return {"teacher's labels": digest.hexdigest(), "trial": repr(trial)}


def _score(
    settings: FitSettings,
    targets: _Targets,
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
    weights = row_weights(rows.target, rows.weight, targets.class_weights, len(rows))

    def refined(logits: Tensor) -> Tensor:
        proba = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        return torch.tensor(
            [refined_log_loss(member, rows.target, weights) for member in proba],
            dtype=torch.float64,
        )

    return refined


def _device(settings: FitSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' needs a CUDA device, and there is none; use device='auto'")
    return torch.device(settings.device)


def _arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy().copy() for name, value in module.state_dict().items()}


def _with_scores(model: FittedModel, compact: Compact, validation: LabelledRows) -> FittedModel:
    """Calibrate on the validation rows where the mode does, and score them."""
    if not len(validation):
        return model
    predictor = Predictor(model)
    output = predictor.network(compact)
    if model.classes is None:
        scores = score_regression(validation.target, output, validation.weight)
        return replace(model, metrics={"validation": scores})
    settings = model.settings
    if settings.calibration is not None and settings.training_mode != "imbalance_aware":
        kind = settings.calibration
        if kind == "auto" and settings.training_mode != "calibrated_classifier":
            kind = "temperature"
        fit = fit_calibrator(
            output,
            validation.target,
            kind=kind,
            sample_weight=row_weights(
                validation.target, validation.weight, model.class_weights, len(validation)
            ),
            random_state=settings.random_state,
        )
        model = replace(
            model,
            calibrator=fit.calibrator,
            card={**model.card, "calibration": fit.message},
        )
        predictor = Predictor(model)
    proba = predictor.calibrated(output)
    scores = score_classification(validation.target, proba, validation.weight)
    return replace(model, metrics={"validation": scores})


def _with_decision(model: FittedModel, rows: LabelledRows, aim: DecisionAim) -> FittedModel:
    """Tune the decision rule on the validation rows, and score their labels by it."""
    proba = Predictor(model).predict_proba(rows.frame)
    seed = model.settings.random_state
    fit = aim.fit(proba, rows.target, rows.weight, random_state=seed)
    if not fit.accepted and aim.goal in ("recall", "precision"):
        warnings.warn(f"the decision rule {fit.message}", UserWarning, stacklevel=3)
    decided = fit.rule.apply(proba)
    scores = score_classification(rows.target, proba, rows.weight, predicted=decided)
    return replace(
        model,
        decision=fit.rule if fit.accepted else None,
        metrics={**model.metrics, "validation": scores},
        card={**model.card, "decision": fit.message},
    )


def _with_verdict(
    model: FittedModel,
    direct: FittedModel,
    lesson: Lesson,
    teaching: Teaching,
    validation: LabelledRows,
) -> FittedModel:
    """Say whether the teacher helped, on rows that were kept for it or on the validation rows."""
    judged = teaching.judged or (validation.frame, validation.target, validation.weight)
    if not len(judged[1]):
        return model
    report = fidelity_report(
        lesson.teacher,
        model,
        direct,
        *judged,
        rows="validation" if teaching.judged is None else "held-out",
        teacher_came_fitted=not lesson.description["out_of_fold"],
    )
    return replace(model, card={**model.card, "fidelity": report.to_document()})


def _with_intervals(
    model: FittedModel, held_out: _HeldOut, cross: CrossPredictions | None
) -> FittedModel:
    """Half-widths of prediction intervals, from residuals of rows that chose nothing."""
    interval, spare = held_out.interval, held_out.spare
    if interval is None or spare is None:
        return model
    model = replace(model, card={**model.card, "intervals": interval.message})
    if interval.kind is None:
        return model
    if cross is None:
        rows, values = spare, Predictor(model).predict_values(spare.frame)
    else:
        assert model.target is not None
        rows, values = held_out.rows, model.target.restore(cross.predictions())
    intervals = fit_intervals(rows.target, values, kind=interval.kind, sample_weight=rows.weight)
    return replace(model, intervals=intervals)


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if np.isfinite(value)}


def _card(
    profile: TableProfile, n_train: int, n_validation: int, target_name: str | None, stopped: str
) -> dict[str, Any]:
    import sklearn

    return {
        "target": target_name,
        "n_training_rows": n_train,
        "n_validation_rows": n_validation,
        "columns": [asdict(column) for column in profile.columns],
        "stopped": stopped,
        "versions": {
            "tabwright": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "polars": pl.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }
