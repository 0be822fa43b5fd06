"""`distill`: a fitted model, an estimator or a kind of tree ensemble into a small network.

The public face of `fitting.students.distill_table`, in the terms of the scikit-learn estimators.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

import numpy as np

from tabwright.distillation.named_teacher import named_teacher
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.distillation.teachers import model_of
from tabwright.estimators.classifier import TabularClassifier
from tabwright.estimators.inputs import EvalSet, labelled_rows, rows_and_target, seed_of
from tabwright.estimators.loading import estimator_of
from tabwright.estimators.regressor import TabularRegressor
from tabwright.fitting.arguments import Columns, FitCallbacks
from tabwright.fitting.class_weights import ClassWeight
from tabwright.fitting.students.distill_table import (
    EncoderChoice,
    Split,
    StudentOptions,
    distill_table,
)
from tabwright.fitting.students.student_size import Budget
from tabwright.settings import (
    AugmentationChoice,
    CalibrationName,
    Device,
    FitSettings,
    NumericEncoding,
    Task,
)
from tabwright.tables import Role, as_frame, labels_to_codes, regression_target
from tabwright.tables.labelled import LabelledRows
from tabwright.tables.targets import learned_target

SWEEP_WIDTHS: Final = (8, 16, 32, 64, 128)


def distill(
    teacher: object,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    eval_set: EvalSet = None,
    test_set: EvalSet = None,
    test_fraction: float = 0.2,
    groups: Any = None,
    time: Any = None,
    X_unlabelled: Any = None,
    task: Task | None = None,
    hidden_dim: int | None = None,
    num_hidden_layers: int | None = None,
    dropout: float | None = None,
    n_members: int = 1,
    max_parameters: int | None = None,
    max_latency_us: float | None = None,
    sweep: bool | Sequence[int] = False,
    encoder: EncoderChoice = "auto",
    numeric_encoding: NumericEncoding = "auto",
    teacher_weight: float | None = None,
    teacher_temperature: float | None = None,
    augmentation: AugmentationChoice | None = "auto",
    class_weight: ClassWeight = None,
    calibration: CalibrationName | None = "auto",
    max_epochs: int | None = None,
    patience: int | None = None,
    validation_fraction: float = 0.2,
    roles: Mapping[str, Role] | None = None,
    device: Device = "auto",
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> TabularClassifier | TabularRegressor:
    """Teach a small network what a teacher knows, and say whether that helped.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015; on tables: Fakoor,
    Mueller, Erickson, Chaudhari, Smola, "Fast, Accurate, and Simple Models for Tabular Data via
    Augmented Distillation", 2020. Weight, temperature and augmentation are chosen on validation
    rows where they are not given, and a weight of 0 is among the choices.

    Parameters
    ----------
    teacher : estimator, FittedModel, path, name of a tree kind, or sequence of these
        An unfitted estimator and a kind (`teachers.TEACHER_KINDS`) are fitted here and label the
        training rows out of fold; what comes fitted is used as it is. A path is that of a model
        file of ours; nothing else is ever loaded. Of several teachers the mean is taken.
    X : frame or array of shape (n_rows, n_columns)
    y : array of shape (n_rows,)
    sample_weight : array of shape (n_rows,), optional
    eval_set : tuple (X, y) or (X, y, sample_weight), optional
        Rows that choose epochs and weights, in place of `validation_fraction` of the rows.
    test_set : tuple (X, y) or (X, y, sample_weight), optional
        Rows for the verdict alone, in place of `test_fraction` of the rows.
    test_fraction : float, default=0.2
        In [0, 1); 0: the verdict is given on the validation rows, and says so.
    groups, time : array of shape (n_rows,), optional
        Groups never straddle a split; test rows are the latest, then validation rows.
    X_unlabelled : frame or array of shape (n, n_columns), optional
        Further rows for the teacher to label.
    task : {"classification", "regression"}, optional
        Needed where every teacher is named by its kind; else the teacher tells.
    hidden_dim, num_hidden_layers, dropout : optional
        The student's. None: of a network half its width but at least 16, a layer fewer but at
        least 1, a little more dropout up to 0.5; of other teachers the mode's own.
    n_members : int, default=1
    max_parameters : int, optional
    max_latency_us : float, optional
        Of one row from encoded inputs to the prediction, measured on this machine.
    sweep : bool or sequence of int, default=False
        Widths to try besides; True: 8 to 128. The smallest student is kept whose validation loss
        is within one standard error of the best; `fidelity_.sweep` has the whole curve.
    encoder : {"auto", "inherit", "fit"}, default="auto"
        Whether a student of a network takes over its encoder.
    numeric_encoding, class_weight, calibration, max_epochs, patience, validation_fraction, \
roles, device, random_state : as in `TabularClassifier`
    teacher_weight, teacher_temperature, augmentation : as in `TabularClassifier`
    verbose : int, default=0
        1 prints what is being done, and the verdict.

    Returns
    -------
    TabularClassifier or TabularRegressor
        Fitted; `fidelity_` holds the `fidelity.FidelityReport`, which the model's card holds too.

    Raises
    ------
    ValueError
        If the teacher, a parameter or the labels break a rule, or no student fits the budget.
    TableError
        If a table is not what it should be.
    ImportError
        If a teacher's library is not installed.
    """
    teacher_list = _teachers(teacher)
    task = _task(teacher_list, task)
    frame, named = as_frame(X, estimator="distill")
    classes, target = learned_target(y, task)
    settings = FitSettings(
        task=task,
        training_mode="tree_teacher_distillation",
        hidden_dim=hidden_dim,
        num_hidden_layers=num_hidden_layers,
        dropout=dropout,
        n_members=n_members,
        max_epochs=max_epochs,
        patience=patience,
        validation_fraction=validation_fraction,
        numeric_encoding=numeric_encoding,
        calibration=calibration,
        teacher_weight=teacher_weight,
        teacher_temperature=teacher_temperature,
        augmentation=augmentation,
        random_state=seed_of(random_state),
        device=device,
    )
    unlabelled = None
    if X_unlabelled is not None:
        unlabelled, _ = as_frame(X_unlabelled, estimator="distill")
    widths = SWEEP_WIDTHS if sweep is True else () if sweep is False else tuple(sweep)
    _check_widths(widths)
    model, report = distill_table(
        labelled_rows(frame, target, sample_weight, groups=groups, time=time),
        settings,
        DistillationOptions(
            teacher_list[0] if len(teacher_list) == 1 else teacher_list, unlabelled=unlabelled
        ),
        classes=classes,
        split=Split(
            test=_labelled(test_set, classes, "test_set"),
            validation=_labelled(eval_set, classes, "eval_set"),
            test_fraction=test_fraction,
        ),
        columns=Columns(named=named, roles=roles),
        class_weight=class_weight,
        options=StudentOptions(
            Budget(max_parameters, max_latency_us), _encoder_choice(encoder), widths
        ),
        callbacks=FitCallbacks(on_message=print if verbose else None),
    )
    if verbose:
        print(report)
    student = estimator_of(model)
    student.fidelity_ = report
    return student


def _teachers(teacher: object) -> list[Any]:
    several = isinstance(teacher, Sequence) and not isinstance(teacher, str)
    each = list(cast("Sequence[Any]", teacher)) if several else [teacher]
    if not each:
        raise ValueError("teacher must name at least one teacher; got an empty list")
    return [named_teacher(item) if isinstance(item, str | os.PathLike) else item for item in each]


def _task(teachers: Sequence[Any], task: Task | None) -> Task:
    """The task that is asked for, or that of the first teacher that has one."""
    if task is not None:
        if task not in get_args(Task):
            raise ValueError(f"task must be 'classification' or 'regression'; got {task!r}")
        return task
    for teacher in teachers:
        model = model_of(teacher)
        if model is not None:
            return model.settings.task
        if not isinstance(teacher, str):
            has_classes = callable(getattr(teacher, "predict_proba", None))
            return "classification" if has_classes else "regression"
    raise ValueError(
        f"a teacher named by its kind does not tell the task; got {teachers[0]!r}; give "
        "task='classification' or task='regression'"
    )


def _labelled(rows: EvalSet, classes: np.ndarray | None, name: str) -> LabelledRows | None:
    if rows is None:
        return None
    X, y, weight = rows_and_target(rows, name)
    target = regression_target(y) if classes is None else labels_to_codes(y, classes)
    frame, _ = as_frame(X, estimator="distill")
    return labelled_rows(frame, target, weight, names=f"{name} and its target")


def _check_widths(widths: Sequence[int]) -> None:
    wrong = [w for w in widths if isinstance(w, bool) or not isinstance(w, int) or w < 1]
    if wrong:
        raise ValueError(f"sweep must hold integers of at least 1; got {wrong[0]!r}")


def _encoder_choice(encoder: str) -> Literal["auto", "inherit", "fit"]:
    for known in get_args(EncoderChoice):
        if encoder == known:
            return cast("EncoderChoice", known)
    raise ValueError(f"encoder must be 'auto', 'inherit' or 'fit'; got {encoder!r}")
