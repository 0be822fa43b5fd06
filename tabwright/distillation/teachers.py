"""Teachers: tree ensembles, or any estimator, whose predictions a network learns from.

`soft_labels` gives every training row the prediction of a teacher that has not seen the row, and a
teacher fitted on all of them for rows to come. The ensembles are in `distillation/trees`, their
columns in `distillation/tree_columns.py`; further rows to label are made in
`distillation/augmentation.py`; what a student does with the labels is decided in
`training/objectives.py` and `fitting/fit_table.py`.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeAlias, cast

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from tabwright.distillation.estimator_teachers import (
    EstimatorLearner,
    FittedEstimator,
    ModelTeacher,
    describe_estimator,
    is_fitted,
    smoothed,
)
from tabwright.distillation.tree_columns import TreeColumns, fit_tree_columns
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import (
    TEACHER_KINDS,
    FittedTrees,
    Learner,
    Problem,
    TeacherKind,
)
from tabwright.inference.fitted_model import FittedModel
from tabwright.metrics import score_classification, score_regression
from tabwright.settings import Task
from tabwright.splits import fold_rows
from tabwright.tables import TableProfile
from tabwright.tables.labelled import LabelledRows
from tabwright.weighted_metrics import row_log_loss

FloatArray = NDArray[np.float64]
TeacherSpec: TypeAlias = TeacherKind | object | Sequence[TeacherKind | object]

DEFAULT_TEACHER: Final[TeacherKind] = "hist_gradient_boosting"

_CHUNK_ROWS: Final = 65_536


class FittedTeacher(Protocol):
    """A teacher that has been fitted."""

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        """Label rows.

        `frame`: has the columns of the training rows; others are ignored.
        Returns: (n, n_classes) or (n,), float64; probabilities above 0 whose rows sum to 1, in the
            order of all classes; or values.
        """


@dataclass(frozen=True)
class TeacherLabels:
    """What a teacher says of its training rows, and the teacher for other rows.

    `labels`: (n, n_classes) or (n,), float64; class probabilities above 0 whose rows sum to 1, in
        the order of all classes; or values.
    `out_of_fold`: Whether each label comes from a teacher that did not see its row. False where an
        estimator came fitted: the rows may be those that it was fitted on.
    `teacher`: fitted on all rows: for validation rows and made-up ones.
    `description`: plain data for the artifact: kinds, libraries, versions, settings, scores.
    """

    labels: FloatArray
    out_of_fold: bool
    teacher: FittedTeacher
    description: dict[str, Any]

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        """Label other rows; see `FittedTeacher.predict`."""
        return self.teacher.predict(frame)

    @property
    def size_bytes(self) -> int | None:
        """Size of the one ensemble that teaches, pickled by its library; None for other teachers.

        Nothing is written: pickling is the only form that all of the libraries have.
        """
        trees = self.teacher.trees if isinstance(self.teacher, _FittedLearner) else None
        model = getattr(trees, "model", None)
        return None if model is None else len(pickle.dumps(model))


def soft_labels(
    rows: LabelledRows,
    profile: TableProfile,
    *,
    task: Task,
    n_classes: int = 0,
    classes: NDArray[Any] | None = None,
    teacher: TeacherSpec = DEFAULT_TEACHER,
    n_folds: int = 5,
    random_state: int = 0,
    n_threads: int = 1,
) -> TeacherLabels:
    """Fit a teacher and label its training rows out of fold.

    Each fold's rows are labelled by a teacher, preprocessing included, fitted on the other folds;
    without that a student learns the teacher's overfitting. Folds are stratified. The number of
    boosting rounds is one number for all folds and the final fit, that of the lowest out-of-fold
    loss: all that the labels of a row ever say about its own target.

    `rows`: Training rows, of weights above 0. Rows of one group stay in one fold.
    `profile`: of these rows; its used columns are the teacher's.
    `n_classes`: at least 2 in classification; not used in regression.
    `classes`: (n_classes,); the labels that the codes stand for, to find the columns of an
        estimator that came fitted; without them its classes must be the codes.
    `teacher`: A fitted model of ours, or an estimator of ours that holds one, is used as it is. An
        estimator has the methods of scikit-learn's. An unfitted one is cloned and gets the matrix
        that the tree kinds get: float64, NaN for missing, categories as ordinal codes. A fitted one
        is used as it is, also on the rows that it was fitted on, and gets the columns of the table:
        as a pandas frame (a polars one without pandas) of its `feature_names_in_` where it has
        them, else as an array. Of several teachers the mean is taken.
    `n_folds`: at least 2; fewer where there are fewer rows or groups.
    `random_state`: decides the folds and every draw of the teachers, those of unfitted estimators
        included where they have none of their own.
    `n_threads`: threads of the libraries.
    Raises `ValueError` if arrays do not fit together, or a teacher does not fit the task or the
        weights; `ImportError` if a teacher's library is not installed.
    """
    frame, groups = rows.frame, rows.groups
    labelled = _Rows.of(rows, profile, task, n_classes, random_state, n_threads)
    members = _members(teacher, task)
    came_fitted = [isinstance(member, _AsIs | FittedModel) for member in members]
    out_of_fold, crossed = not any(came_fitted), not all(came_fitted)
    folds = _folds(labelled, groups, n_folds) if crossed else np.zeros(len(frame), dtype=np.int64)
    labels: list[FloatArray] = []
    fitted: list[FittedTeacher] = []
    descriptions: list[dict[str, Any]] = []
    for member in members:
        ready: FittedTeacher
        if isinstance(member, FittedModel):
            ready = model_teacher = ModelTeacher(member, labelled.n_classes, classes)
            predicted = ready.predict(frame)
            described = model_teacher.description()
        elif isinstance(member, _AsIs):
            ready = FittedEstimator(member.estimator, labelled.n_classes, classes)
            predicted = ready.predict(frame)
            described = describe_estimator(member.estimator, cross_fitted=False)
        else:
            predicted, choice, refitted = _cross_fit(member, labelled, folds)
            ready, described = refitted, _learner_description(member, labelled, choice)
        labels.append(predicted)
        fitted.append(ready)
        descriptions.append({**described, "scores": labelled.scores(predicted)})
    mean = _mean(labels)
    return TeacherLabels(
        labels=mean,
        out_of_fold=out_of_fold,
        teacher=fitted[0] if len(fitted) == 1 else _MeanTeacher(tuple(fitted)),
        description={
            "teachers": descriptions,
            "out_of_fold": out_of_fold,
            "scores": labelled.scores(mean),
            "n_rows": len(frame),
            "n_folds": int(folds.max()) + 1 if crossed else 0,
            "random_state": random_state,
            "n_threads": n_threads,
        },
    )


def model_of(teacher: object) -> FittedModel | None:
    """The model of ours that teaches, if one does.

    `teacher`: an estimator of ours that has been fitted stands for its model.
    """
    if isinstance(teacher, FittedModel):
        return teacher
    model = teacher.model if isinstance(teacher, ModelTeacher) else getattr(teacher, "model_", None)
    return model if isinstance(model, FittedModel) else None


def encoded_call(teacher: FittedTeacher, frame: pl.DataFrame) -> Callable[[], object] | None:
    """A call that predicts rows from the form that a tree ensemble works on, to be timed.

    `frame`: the rows; they are encoded once, before.
    Returns: None where a teacher has no such form.
    """
    if isinstance(teacher, _FittedLearner):
        return teacher.encoded_call(frame)
    if not isinstance(teacher, _MeanTeacher):
        return None
    calls = [encoded_call(member, frame) for member in teacher.teachers]
    if any(call is None for call in calls):
        return None
    return lambda: [call() for call in calls if call is not None]


# ---------------------------------------------------------------------------------------------
# The rows and their folds
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Rows to fit teachers on: codes of classes or values, and weights of mean 1."""

    frame: pl.DataFrame
    profile: TableProfile
    target: NDArray[Any]
    weight: FloatArray | None
    n_classes: int
    random_state: int
    n_threads: int

    @classmethod
    def of(
        cls,
        rows: LabelledRows,
        profile: TableProfile,
        task: Task,
        n_classes: int,
        random_state: int,
        n_threads: int,
    ) -> _Rows:
        """The rows, checked."""
        if len(rows) < 2:
            raise ValueError(
                f"a teacher needs at least 2 rows; got n_samples={len(rows)}; give more rows"
            )
        if task == "classification" and n_classes < 2:
            raise ValueError(f"n_classes must be at least 2; got {n_classes}")
        classifies = task == "classification"
        weight = rows.weight
        return cls(
            frame=rows.frame,
            profile=profile,
            target=rows.target.astype(np.int64 if classifies else np.float64),
            weight=None if weight is None else weight / weight.mean(),
            n_classes=n_classes if classifies else 0,
            random_state=random_state,
            n_threads=n_threads,
        )

    def take(self, index: NDArray[np.int64]) -> _Rows:
        weight = None
        if self.weight is not None:
            weight = self.weight[index] / self.weight[index].mean()
        return replace(self, frame=self.frame[index], target=self.target[index], weight=weight)

    def losses(self, labels: FloatArray) -> FloatArray:
        """Log-loss or squared error of each row."""
        if self.n_classes:
            return row_log_loss(self.target, labels)
        return (self.target - labels) ** 2

    def scores(self, labels: FloatArray) -> dict[str, float | None]:
        scores = (
            score_classification(self.target, labels, self.weight)
            if self.n_classes
            else score_regression(self.target, labels, self.weight)
        )
        return {k: float(v) if math.isfinite(v) else None for k, v in scores.items()}


def _folds(rows: _Rows, groups: ArrayLike | None, n_folds: int) -> NDArray[np.int64]:
    """The fold of each row; groups stay whole."""
    if n_folds < 2:
        raise ValueError(f"n_folds must be at least 2; got {n_folds}")
    n_units = len(rows.frame) if groups is None else len(np.unique(np.asarray(groups)))
    return fold_rows(
        len(rows.frame),
        max(2, min(n_folds, n_units)),
        rows.target if rows.n_classes else None,
        groups,
        random_state=rows.random_state,
    )


# ---------------------------------------------------------------------------------------------
# Fitting out of fold
# ---------------------------------------------------------------------------------------------


def _cross_fit(
    learner: Learner, rows: _Rows, folds: NDArray[np.int64]
) -> tuple[FloatArray, int, _FittedLearner]:
    """Out-of-fold labels, the rounds chosen, and the learner fitted on all rows."""
    rounds = learner.rounds(rows.n_classes)
    losses = np.zeros(len(rounds))
    parts: list[tuple[NDArray[np.int64], pl.DataFrame, _FittedLearner]] = []
    for fold in range(int(folds.max()) + 1):
        fitted = _fit(learner, rows.take(np.flatnonzero(folds != fold)), rounds[-1])
        held_rows = np.flatnonzero(folds == fold)
        held = rows.take(held_rows)
        parts.append((held_rows, held.frame, fitted))
        if len(rounds) > 1:
            weight = 1.0 if rows.weight is None else rows.weight[held_rows]
            for k, labels in enumerate(fitted.stages(held.frame, rounds)):
                losses[k] += (held.losses(labels) * weight).sum()
        if fold == 0:
            # The other folds go little further than what was best in the first: most tables
            # are done long before the last round.
            rounds = rounds[: int(losses.argmin()) + 3]
            losses = losses[: len(rounds)]
    choice = rounds[int(losses.argmin())]
    shape = (len(rows.frame), rows.n_classes) if rows.n_classes else (len(rows.frame),)
    labels = np.empty(shape)
    for held_rows, held_frame, fitted in parts:
        labels[held_rows] = replace(fitted, n_rounds=choice).predict(held_frame)
    return labels, choice, _fit(learner, rows, choice)


def _fit(learner: Learner, rows: _Rows, n_rounds: int) -> _FittedLearner:
    """A learner of so many rounds; columns that never vary give the mean label."""
    columns = fit_tree_columns(rows.frame, rows.profile, max_levels=learner.max_levels)
    values = columns.encode(rows.frame)
    # A column with missing cells varies: its minimum is NaN.
    varies = bool((values.min(axis=0) != values.max(axis=0)).any())
    scale: _Classes | _Values
    target: NDArray[Any]
    if rows.n_classes:
        scale = _Classes(np.unique(rows.target), rows.n_classes, len(rows.frame))
        target = np.searchsorted(scale.present, rows.target)
        constant = np.bincount(target, weights=rows.weight) / len(target)
    else:
        scale = _Values.of(rows.target, rows.weight)
        target = (rows.target - scale.centre) / (scale.deviation or 1.0)
        constant = np.zeros(())
    trees: FittedTrees
    if scale.certain or not varies:
        trees = _Constant(constant)
    else:
        trees = learner.fit(
            Problem(
                values=values,
                categorical=columns.categorical,
                target=target,
                weight=rows.weight,
                n_classes=len(scale.present) if isinstance(scale, _Classes) else 0,
                random_state=rows.random_state,
                n_threads=rows.n_threads,
            ),
            n_rounds,
        )
    return _FittedLearner(learner.name, columns, trees, scale, n_rounds)


@dataclass(frozen=True)
class _Constant:
    """A teacher of rows that have one class, one target, or no column that varies."""

    value: FloatArray

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        for _ in rounds:
            yield np.broadcast_to(self.value, (len(values), *self.value.shape))


@dataclass(frozen=True)
class _Classes:
    """From probabilities of the classes that a fold has to those of all."""

    present: NDArray[np.int64]
    n_classes: int
    n_rows: int

    @property
    def certain(self) -> bool:
        return len(self.present) == 1

    def __call__(self, labels: FloatArray) -> FloatArray:
        # A class that none of the rows has is about as likely as one row more.
        proba = np.full((len(labels), self.n_classes), 1.0 / (self.n_rows + self.n_classes))
        absent = (self.n_classes - len(self.present)) / (self.n_rows + self.n_classes)
        proba[:, self.present] = labels * (1.0 - absent)
        return smoothed(proba)


@dataclass(frozen=True)
class _Values:
    """From a standardised target to the target."""

    centre: float
    deviation: float

    @classmethod
    def of(cls, target: FloatArray, weight: FloatArray | None) -> _Values:
        centre = float(np.average(target, weights=weight))
        return cls(centre, float(np.sqrt(np.average((target - centre) ** 2, weights=weight))))

    @property
    def certain(self) -> bool:
        return self.deviation == 0.0

    def __call__(self, labels: FloatArray) -> FloatArray:
        return labels * self.deviation + self.centre


@dataclass(frozen=True)
class _FittedLearner:
    """A learner with its columns and with the scale of its labels."""

    name: str
    columns: TreeColumns
    trees: FittedTrees
    scale: _Classes | _Values
    n_rounds: int

    def stages(self, frame: pl.DataFrame, rounds: Sequence[int]) -> Iterator[FloatArray]:
        for labels in self.trees.stages(self.columns.encode(frame), rounds):
            if not np.isfinite(labels).all():
                raise ValueError(
                    f"a teacher's labels must be finite; those of {self.name} are not; "
                    "check the scale of the target and of the columns"
                )
            yield self.scale(labels)

    def encoded_call(self, frame: pl.DataFrame) -> Callable[[], object]:
        values = self.columns.encode(frame)
        return lambda: next(self.trees.stages(values, (self.n_rounds,)))

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        parts = [
            next(self.stages(chunk, (self.n_rounds,))) for chunk in frame.iter_slices(_CHUNK_ROWS)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class _MeanTeacher:
    teachers: tuple[FittedTeacher, ...]

    def predict(self, frame: pl.DataFrame) -> FloatArray:
        return _mean([teacher.predict(frame) for teacher in self.teachers])


def _mean(labels: Sequence[FloatArray]) -> FloatArray:
    return labels[0] if len(labels) == 1 else cast("FloatArray", np.mean(labels, axis=0))


# ---------------------------------------------------------------------------------------------
# Who teaches
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _AsIs:
    """An estimator that came fitted."""

    estimator: Any


def _members(teacher: TeacherSpec, task: Task) -> list[Learner | _AsIs | FittedModel]:
    single = isinstance(teacher, str) or not isinstance(teacher, Sequence)
    teachers: list[Any] = [teacher] if single else list(cast("Sequence[Any]", teacher))
    if not teachers:
        raise ValueError("teacher must name at least one teacher; got an empty list")
    return [_member(item, task) for item in teachers]


def _member(teacher: Any, task: Task) -> Learner | _AsIs | FittedModel:
    """What a teacher is: a kind of trees, an estimator to fit or one fitted, or a model."""
    model = model_of(teacher)
    if model is not None:
        return model
    if isinstance(teacher, str):
        return tree_learner(cast("TeacherKind", teacher))
    method = "predict_proba" if task == "classification" else "predict"
    if isinstance(teacher, type) or not callable(getattr(teacher, method, None)):
        raise ValueError(
            f"a teacher for {task} must be one of {', '.join(TEACHER_KINDS)}, or an estimator with "
            f"{method}; got {teacher!r}"
            + (f"; CalibratedClassifierCV adds {method}" if task == "classification" else "")
        )
    if task == "regression" and callable(getattr(teacher, "predict_proba", None)):
        raise ValueError(f"a teacher for regression must be a regressor; got {teacher!r}")
    return _AsIs(teacher) if is_fitted(teacher) else EstimatorLearner(teacher)


def _learner_description(learner: Learner, rows: _Rows, choice: int) -> dict[str, Any]:
    """What the model card says of a learner."""
    if isinstance(learner, EstimatorLearner):
        return describe_estimator(learner.estimator, cross_fitted=True)
    described = {
        "kind": learner.name,
        **learner.versions(),
        "settings": learner.settings(rows.n_classes),
        "out_of_fold": True,
    }
    return {**described, "n_rounds": choice} if choice else described
