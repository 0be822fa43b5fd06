"""The soft targets of a distillation, and the choice of how much they count.

`SoftTargets` are a teacher's labels for the training rows, and for rows without a label.
`candidate_groups` lists the weights, temperatures and augmentations to try; `best_student` keeps
the candidate of the lowest loss on validation rows, and a weight of 0 is among them, so that a
teacher that does not help has no effect. Networks are trained by `fitting/fit_table.py`; sizes and
verdicts are in `fitting/students/distill_table.py` and `distillation/fidelity.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.distillation.augmentation import (
    Augmentation,
    augment_rows,
    with_unlabelled_rows,
)
from tabwright.distillation.teachers import (
    DEFAULT_TEACHER,
    FittedTeacher,
    TeacherSpec,
    soft_labels,
)
from tabwright.encoding.encoder import Compact
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.settings import FitSettings
from tabwright.tables import TableProfile
from tabwright.tables.labelled import LabelledRows
from tabwright.weighted_metrics import row_log_loss

FloatArray = NDArray[np.float64]

# Weights of the teacher that are tried. Without a weight of 0 a teacher that is worse than the
# network would pull it down; 1 was never the best, since out-of-fold labels carry the noise of
# teachers that saw fewer rows.
_WEIGHTS: Final = (0.5, 0.3, 0.7, 0.0)
_AUGMENTED_WEIGHTS: Final = (0.5, 0.3, 0.7)
# Tree ensembles fitted on the log-loss are calibrated: there is nothing to cool.
_TEMPERATURES: Final = (1.0,)
_METHOD: Final[Augmentation] = "neighbourhood"
_MADE_PER_ROW: Final = 1.0
_MOST_MADE: Final = 20_000


@dataclass(frozen=True)
class DistillationOptions:
    """What a distillation is asked for, beside the student's settings.

    `teacher`: see `teachers.soft_labels`.
    `unlabelled`: rows of the user's own without a target, for the teacher to label.
    `soft_targets`: prepared on the same training rows, so that several students share it; None: it
        is prepared in the fit.
    `n_threads`: threads of the teachers' libraries.
    `report`: whether the fit ends with a report, where it trained the network without a teacher
        too: where no `teacher_weight` is given.
    `judged`: rows for that report, which have no other part in the fit; None: the validation rows,
        and the report says so.
    """

    teacher: TeacherSpec = DEFAULT_TEACHER
    unlabelled: pl.DataFrame | None = None
    soft_targets: SoftTargets | None = None
    n_threads: int = 1
    report: bool = True
    judged: LabelledRows | None = None


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's labels.

    `labels`: (n, n_classes) or (n,), float64; of the training rows, out of fold unless the teacher
        came fitted.
    `teacher`: for other rows.
    `description`: plain data: kinds, libraries, versions, settings, scores of the teacher.
    `extra`: rows without a target, made-up ones first.
    `extra_labels`: (n_extra, n_classes) or (n_extra,), float64.
    `extra_weight`: (n_extra,), float64; row weights; None: 1.
    `n_made`: how many of the extra rows are made up.
    `method`: how they were made.
    """

    labels: FloatArray
    teacher: FittedTeacher
    description: dict[str, Any]
    extra: pl.DataFrame | None = None
    extra_labels: FloatArray | None = None
    extra_weight: FloatArray | None = None
    n_made: int = 0
    method: Augmentation | None = None

    def extra_rows(self, *, augmented: bool) -> slice:
        """Which of the extra rows candidates learn from: the user's own always."""
        n_extra = 0 if self.extra is None else len(self.extra)
        return slice(0 if augmented else self.n_made, n_extra)


@dataclass(frozen=True)
class Candidates:
    """Candidates that are trained side by side on the same rows.

    `weights`, `temperatures`: the teacher's, one per candidate.
    `augmented`: whether they learn from made-up rows too.
    """

    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    augmented: bool = False

    def settings(
        self, candidate: int, settings: FitSettings, soft_targets: SoftTargets
    ) -> FitSettings:
        """The settings of one candidate, with nothing left open."""
        return replace(
            settings,
            teacher_weight=self.weights[candidate],
            teacher_temperature=self.temperatures[candidate],
            augmentation=soft_targets.method if self.augmented else None,
        )


def prepare_soft_targets(
    rows: LabelledRows,
    profile: TableProfile,
    *,
    settings: FitSettings,
    distillation: DistillationOptions,
    classes: NDArray[Any] | None = None,
    class_weights: FloatArray | None = None,
) -> SoftTargets:
    """Fit the teacher out of fold, make rows near the training rows, and label everything.

    `rows`: Training rows only, of weights above 0. Rows of one group stay in one fold; a made-up
        row has the weight of the row that it started from.
    `profile`: of these rows.
    `settings`: its `augmentation` says which rows to make, its `random_state` decides every draw.
    `classes`: (n_classes,); the labels; None in regression.
    `class_weights`: (n_classes,), float64; the teacher's probabilities are brought to the class
        prior that these weights imply, since the teacher does not see them.
    Raises `ValueError` if a teacher does not fit the task or the weights; `TableError` if the
        unlabelled rows do not have the columns of the training rows; `ImportError` if a teacher's
        library is not installed.
    """
    unlabelled, frame = distillation.unlabelled, rows.frame
    if unlabelled is not None:
        # Before the long work: other columns are refused here.
        with_unlabelled_rows(frame.clear(), unlabelled, profile)
    teacher_labels = soft_labels(
        rows,
        profile,
        task=settings.task,
        n_classes=0 if classes is None else len(classes),
        classes=classes,
        teacher=distillation.teacher,
        random_state=settings.random_state,
        n_threads=distillation.n_threads,
    )
    soft_targets = SoftTargets(
        _tilted(teacher_labels.labels, class_weights),
        teacher_labels.teacher,
        teacher_labels.description,
    )
    method = _METHOD if settings.augmentation == "auto" else settings.augmentation
    if method is None and unlabelled is None:
        return soft_targets
    made, starts = _made_rows(frame, profile, method, settings.random_state)
    extra = with_unlabelled_rows(made, unlabelled, profile)
    extra_labels = teacher_labels.predict(extra)
    weight = None
    if rows.weight is not None or class_weights is not None:
        row_weight = np.ones(len(rows)) if rows.weight is None else rows.weight
        # A row of the user's own counts as a training row does on average.
        weight = np.concatenate(
            [row_weight[starts], np.full(len(extra) - len(starts), row_weight.mean())]
        )
        if class_weights is not None:
            weight *= extra_labels @ class_weights
    return replace(
        soft_targets,
        extra=extra,
        extra_labels=_tilted(extra_labels, class_weights),
        extra_weight=weight,
        n_made=len(starts),
        method=method if len(starts) else None,
    )


def _made_rows(
    frame: pl.DataFrame, profile: TableProfile, method: Augmentation | None, random_state: int
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Made-up rows, and the training row that each started from."""
    if method is None:
        return frame.clear(), np.empty(0, dtype=np.int64)
    place = "row"
    while place in frame.columns:
        place += "_"
    # A column outside the profile is copied from the starting row.
    made = augment_rows(
        frame.with_row_index(place),
        profile,
        min(round(_MADE_PER_ROW * len(frame)), _MOST_MADE),
        rng=np.random.default_rng([random_state, 1]),
        method=method,
    )
    return made[frame.columns], made[place].to_numpy().astype(np.int64)


def _tilted(labels: FloatArray, class_weights: FloatArray | None) -> FloatArray:
    """Probabilities under the prior that class weights imply."""
    if class_weights is None:
        return labels
    tilted = labels * class_weights
    tilted /= tilted.sum(axis=1, keepdims=True)
    return tilted


def candidate_groups(settings: FitSettings, soft_targets: SoftTargets) -> tuple[Candidates, ...]:
    """The ways to teach that are worth a try, given what the settings fix.

    Returns: the first candidate of the first group is kept where validation rows do not decide.
    """
    heats = _TEMPERATURES
    if settings.teacher_temperature is not None:
        heats = (settings.teacher_temperature,)
    if settings.task == "regression":
        heats = (1.0,)

    def candidates(weights: Sequence[float], augmented: bool) -> Candidates:
        if settings.teacher_weight is not None:
            weights = (settings.teacher_weight,)
        pairs = [
            (weight, heat)
            for weight, heat in product(weights, heats)
            # Without a teacher there is nothing to cool.
            if weight > 0 or heat == heats[0]
        ]
        return Candidates(tuple(w for w, _ in pairs), tuple(t for _, t in pairs), augmented)

    plain, augmented = candidates(_WEIGHTS, False), candidates(_AUGMENTED_WEIGHTS, True)
    if not soft_targets.n_made or settings.teacher_weight == 0.0:
        return (plain,)
    return (plain, augmented) if settings.augmentation == "auto" else (augmented,)


def best_student(
    tried: Sequence[Candidates],
    train: Callable[[Candidates], Sequence[FittedModel]],
    soft_targets: SoftTargets,
    validation: tuple[Compact, NDArray[Any], FloatArray | None] | None,
) -> tuple[FittedModel, FittedModel | None]:
    """Train every candidate and keep the one of the lowest loss on validation rows.

    `tried`: from `candidate_groups`.
    `train`: gives a model for each candidate of a group.
    `validation`: Rows encoded, class codes or values, weights. None: the first candidate is kept.
    Returns: its card says what was tried, and who taught.
    Returns: the same network trained without a teacher, if that was among the candidates.
    """
    choices: list[tuple[float, FittedModel]] = []
    record: list[dict[str, Any]] = []
    for candidates in tried:
        for model in train(candidates):
            loss = _validation_loss(model, validation)
            choices.append((0.0 if loss is None else loss, model))
            record.append(
                {
                    "teacher_weight": model.settings.teacher_weight,
                    "teacher_temperature": model.settings.teacher_temperature,
                    "augmentation": model.settings.augmentation,
                    "validation_loss": loss,
                }
            )
        if choices[-1][1].stopped == "interrupted":
            break
    best = min(range(len(choices)), key=lambda k: choices[k][0])
    model = choices[best][1]
    n_extra = 0 if soft_targets.extra is None else len(soft_targets.extra)
    distillation = {
        "teacher": soft_targets.description,
        "tried": record,
        "chosen": record[best],
        "n_made_rows": soft_targets.n_made if model.settings.augmentation is not None else 0,
        "n_unlabelled_rows": n_extra - soft_targets.n_made,
    }
    untaught = [student for _, student in choices if student.settings.teacher_weight == 0.0]
    return (
        replace(model, card={**model.card, "distillation": distillation}),
        untaught[0] if untaught else None,
    )


def _validation_loss(
    model: FittedModel, validation: tuple[Compact, NDArray[Any], FloatArray | None] | None
) -> float | None:
    if validation is None or not len(validation[1]):
        return None
    compact, target, weight = validation
    losses = row_losses(Predictor(model).network(compact), target)
    return float(np.average(losses, weights=weight))


def row_losses(output: FloatArray, target: NDArray[Any]) -> FloatArray:
    """Log-loss in nats (probabilities) or squared error (values) of each row, shape (n,)."""
    if output.ndim == 2:
        return row_log_loss(target, output)
    squares: FloatArray = (output - target) ** 2
    return squares
