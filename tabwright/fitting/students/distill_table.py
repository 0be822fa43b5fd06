"""Distillation from rows to a student and a verdict: sizes, budgets, the size-quality curve.

The one implementation behind `estimators.distill` and `tabwright distill`; networks are trained by
`fitting.fit_table`, in the mode `tree_teacher_distillation`, like everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from tabwright.distillation.fidelity import (
    FidelityReport,
    SweepPoint,
    fidelity_report,
    model_figures,
    n_parameters,
)
from tabwright.distillation.soft_targets import (
    DistillationOptions,
    prepare_soft_targets,
    row_losses,
)
from tabwright.distillation.teachers import model_of
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.class_weights import ClassWeight, class_weights_of
from tabwright.fitting.data_checks import repeated_rows, warning_of_repeated
from tabwright.fitting.fit_table import fit_table
from tabwright.fitting.students.student_size import (
    NARROWEST,
    WIDTHS,
    Budget,
    StudentSize,
    latency_us,
    student_size,
)
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows
from tabwright.settings import FitSettings
from tabwright.tables import TableProfile
from tabwright.tables.labelled import LabelledRows

EncoderChoice = Literal["auto", "inherit", "fit"]


@dataclass(frozen=True)
class Split:
    """How the rows of a table are shared out.

    `test`: rows for the verdict alone; None: `test_fraction` of the rows.
    `validation`: rows that choose epochs and weights; None: a share of the rows.
    `test_fraction`: in [0, 1); 0: the verdict is given on the validation rows, and says so.
    """

    test: LabelledRows | None = None
    validation: LabelledRows | None = None
    test_fraction: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.test_fraction < 1:
            raise ValueError(
                f"test_fraction must be in [0, 1); got {self.test_fraction!r}; 0 holds no rows out"
            )


@dataclass(frozen=True)
class StudentOptions:
    """What a student may cost, and how it comes to its encoder and size.

    `budget`: makes the student smaller where needed.
    `encoder`: Whether a student of a network of ours takes over its encoder. "auto": where the
        encoder has no statistics of the target, which would be those of the student's own rows, and
        the budget allows.
    `sweep`: widths to try besides, with the same depth; the student that is kept is the smallest
        one whose validation loss is within one standard error of the best.
    """

    budget: Budget = field(default_factory=Budget)
    encoder: EncoderChoice = "auto"
    sweep: Sequence[int] = ()


@dataclass(frozen=True)
class _Parts:
    """Rows of a distillation after the splits, all of weights above 0."""

    training: LabelledRows
    validation: LabelledRows
    test: LabelledRows | None

    @classmethod
    def of(cls, rows: LabelledRows, split: Split, settings: FitSettings) -> _Parts:
        """The training, validation and test rows, those of weight 0 left out."""
        rows, test, validation = rows.with_positive_weight(), split.test, split.validation

        def halves(whole: LabelledRows, share: float) -> tuple[LabelledRows, LabelledRows]:
            stay, leave = whole.split(
                share,
                stratify=settings.task == "classification",
                random_state=settings.random_state,
            )
            return whole.take(stay), whole.take(leave)

        if test is None and split.test_fraction > 0:
            rows, test = halves(rows, split.test_fraction)
        if validation is None:
            rows, validation = halves(rows, settings.held_out_share(len(rows)))
        test = None if test is None else test.with_positive_weight()
        return cls(rows, validation.with_positive_weight(), test)


def distill_table(
    rows: LabelledRows,
    settings: FitSettings,
    distillation: DistillationOptions,
    *,
    classes: np.ndarray | None = None,
    split: Split | None = None,
    columns: Columns | None = None,
    class_weight: ClassWeight = None,
    options: StudentOptions | None = None,
    callbacks: FitCallbacks | None = None,
) -> tuple[FittedModel, FidelityReport]:
    """Teach a student, train the same network without a teacher, and compare the two.

    `rows`: groups stay on one side of every split; test rows are the latest, then validation rows.
    `settings`: The student's, in the mode `tree_teacher_distillation`. A width, depth or dropout
        that is None follows from the teacher, see `student_size`.
    `classes`: (n_classes,); the labels that the codes stand for; None in regression.
    `columns`: what is known of them.
    `callbacks`: told of messages, and of the start and the epochs of every network.
    Returns: its card holds the report.
    Raises `ValueError` if no student fits the budget, or settings, teacher and rows do not fit
        together; `TableError` if a table is not what it should be.
    """
    if settings.training_mode != "tree_teacher_distillation":
        raise ValueError(
            "a student is trained in training_mode='tree_teacher_distillation'; got "
            f"{settings.training_mode!r}"
        )
    split, options = split or Split(), options or StudentOptions()
    columns, callbacks = columns or Columns(), callbacks or FitCallbacks()
    emit = callbacks.emit
    parts = _Parts.of(rows, split, settings)
    judged = parts.validation if parts.test is None else parts.test
    repeated = warning_of_repeated(repeated_rows(parts.training, judged), len(judged))
    if repeated is not None:
        emit(repeated)
    # Of all rows: in a part of them, row numbers are not consecutive any more.
    profile = columns.profile_of(rows)
    source = model_of(distillation.teacher)
    size = student_size(source, settings, n_rows=len(parts.training))
    settings = settings.resolved(n_rows=len(parts.training))
    plan = _Plan(parts.training, profile, 1 if classes is None else len(classes), options.budget)
    inherited, size, settings = plan.encoder_and_size(options.encoder, source, size, settings)
    settings = replace(
        settings,
        hidden_dim=size.hidden_dim,
        num_hidden_layers=size.num_hidden_layers,
        dropout=size.dropout,
    )
    emit("asking the teacher for labels" if source else "fitting the teacher out of fold")
    soft_targets = distillation.soft_targets or prepare_soft_targets(
        parts.training,
        profile,
        settings=settings,
        distillation=distillation,
        classes=classes,
        class_weights=class_weights_of(parts.training, class_weight, classes),
    )

    def fit(student_settings: FitSettings, from_teacher: DistillationOptions | None) -> FittedModel:
        return fit_table(
            parts.training,
            student_settings,
            classes=classes,
            validation=parts.validation,
            columns=replace(columns, profile=profile),
            aims=Aims(class_weight=class_weight),
            distillation=from_teacher,
            encoder=inherited,
            callbacks=callbacks,
        )

    from_teacher = replace(distillation, soft_targets=soft_targets, report=False)
    students = []
    widths = sorted({*options.sweep, size.hidden_dim})
    for width in widths:
        emit(f"training a student of {size.num_hidden_layers} x {width}")
        students.append(fit(replace(settings, hidden_dim=width), from_teacher))
    kept = _smallest_good(students, parts.validation)
    student = students[kept]
    emit("training the same network without the teacher")
    direct_settings = replace(
        student.settings,
        training_mode="mlp_dense",
        # Networks alone, as the student.
        quality="fast",
        teacher_weight=None,
        teacher_temperature=None,
        augmentation="auto",
    )
    direct = fit(direct_settings, None)
    emit("comparing student, teacher and network on rows held out")
    report = fidelity_report(
        soft_targets.teacher,
        student,
        direct,
        judged.frame,
        judged.target,
        judged.weight,
        rows="validation" if parts.test is None else "held-out",
        teacher_came_fitted=not soft_targets.description["out_of_fold"],
    )
    if len(students) > 1:
        points = [_point(trained, judged, chosen=trained is student) for trained in students]
        report = replace(report, sweep=tuple(points))
    metrics = dict(student.metrics)
    if parts.test is not None:
        test = parts.test
        metrics |= score_rows(Predictor(student), test.frame, test.target, test.weight)
    student = replace(
        student, metrics=metrics, card={**student.card, "fidelity": report.to_document()}
    )
    return student, report


@dataclass(frozen=True)
class _Plan:
    """What a budget leaves of encoder and size."""

    training: LabelledRows
    profile: TableProfile
    output_dim: int
    budget: Budget

    def encoder_and_size(
        self,
        choice: EncoderChoice,
        source: FittedModel | None,
        size: StudentSize,
        settings: FitSettings,
    ) -> tuple[TableEncoder | None, StudentSize, FitSettings]:
        """The encoder to take over (None: fit one), the size, and the settings that say so."""
        choices: list[tuple[TableEncoder | None, FitSettings]] = []
        if choice == "inherit" and source is None:
            raise ValueError(
                "encoder='inherit' needs a teacher that is a network of ours; use encoder='fit'"
            )
        if source is not None and (
            choice == "inherit" or (choice == "auto" and not _has_target_statistics(source.encoder))
        ):
            encoding = source.settings.numeric_encoding
            choices.append((source.encoder, replace(settings, numeric_encoding=encoding)))
        if choice != "inherit":
            choices.append((None, settings))
            if settings.numeric_encoding == "auto":
                choices.append((None, replace(settings, numeric_encoding="standard")))
        if self.budget == Budget():
            return choices[0][0], size, choices[0][1]
        n_members = settings.n_members or 1
        narrow: tuple[TableEncoder | None, StudentSize, FitSettings] | None = None
        for encoder, candidate in choices:
            input_dim = self._fitted(candidate).input_dim if encoder is None else encoder.input_dim
            found = size.within(self.budget, input_dim, self.output_dim, n_members)
            if found is not None and found.hidden_dim >= NARROWEST:
                return encoder, found, candidate
            narrow = narrow or (None if found is None else (encoder, found, candidate))
        if narrow is None:
            least = replace(size, hidden_dim=WIDTHS[0], num_hidden_layers=1)
            architecture = least.architecture(input_dim, self.output_dim)
            raise ValueError(
                "max_parameters and max_latency_us must allow the smallest student; got "
                f"{self.budget.max_parameters} and {self.budget.max_latency_us}, and one of "
                f"{n_members} x 1 x {WIDTHS[0]} on {input_dim} inputs has "
                f"{n_parameters(architecture, n_members):,} parameters and takes "
                f"{latency_us(architecture, n_members):.1f} us; raise the budget, or leave out "
                "columns"
            )
        return narrow

    def _fitted(self, settings: FitSettings) -> TableEncoder:
        """An encoder fitted to the training rows."""
        return TableEncoder(numeric_encoding=settings.numeric_encoding).fit(
            RowsToFit(
                self.training.frame,
                self.profile,
                target=self.training.target,
                task=settings.task,
                sample_weight=self.training.weight,
                random_state=settings.random_state,
            )
        )


def _has_target_statistics(encoder: TableEncoder) -> bool:
    plan = encoder.plan_
    return plan.layout.n_numeric > plan.n_own + len(plan.pairs)


def _smallest_good(students: Sequence[FittedModel], validation: LabelledRows) -> int:
    """The first student, of those in order of size, that is as good as the best.

    As good: its validation loss is higher by at most one standard error of the difference.
    """
    losses = [row_losses(_answers(student, validation), validation.target) for student in students]
    weight = np.ones(len(validation)) if validation.weight is None else validation.weight
    means = [float(np.average(loss, weights=weight)) for loss in losses]
    best = int(np.argmin(means))
    for k, loss in enumerate(losses):
        paired = loss - losses[best]
        mean = np.average(paired, weights=weight)
        error = np.sqrt(weight**2 @ (paired - mean) ** 2) / weight.sum()
        if mean <= error:
            return k
    return best


def _answers(model: FittedModel, rows: LabelledRows) -> np.ndarray:
    predictor = Predictor(model)
    if model.classes is None:
        return predictor.predict_values(rows.frame)
    return predictor.predict_proba(rows.frame)


def _point(model: FittedModel, rows: LabelledRows, *, chosen: bool) -> SweepPoint:
    """A width of the sweep with its loss and speed."""
    losses = row_losses(_answers(model, rows), rows.target)
    loss = float(np.average(losses, weights=rows.weight))
    validation = model.metrics.get("validation", {})
    return SweepPoint(
        hidden_dim=model.architecture.hidden_dim,
        num_hidden_layers=model.architecture.num_hidden_layers,
        validation_loss=validation.get("log_loss", validation.get("rmse", float("nan"))),
        figures=model_figures(model, rows.frame, loss if model.classes is not None else loss**0.5),
        chosen=chosen,
    )
