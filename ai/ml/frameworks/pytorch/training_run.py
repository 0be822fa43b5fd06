"""One training run on a table: read, decide the task, hold rows out, fit, score, save.

What `tabwright train` does, as a function: the command line prints what it returns. The scores
that a user sees come from rows that had no part in anything before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import polars as pl

from ai.ml.frameworks.pytorch.fitted import FittedModel
from ai.ml.frameworks.pytorch.metrics import score_class_prior, score_constant
from ai.ml.frameworks.pytorch.pipeline import LabelledRows, fit_table
from ai.ml.frameworks.pytorch.predictor import Predictor
from ai.ml.frameworks.pytorch.scoring import score_rows
from ai.ml.frameworks.pytorch.settings import TRAINING_MODES, FitSettings, Task
from ai.ml.frameworks.pytorch.splits import split_rows
from ai.ml.frameworks.pytorch.tables import (
    TableError,
    encode_labels,
    infer_task,
    read_table,
    regression_target,
)
from ai.ml.frameworks.pytorch.trainer import Epoch

if TYPE_CHECKING:
    from ai.ml.frameworks.pytorch.models import TrainingMode

__all__ = ["TrainRequest", "TrainResult", "run_training"]


@dataclass(frozen=True)
class TrainRequest:
    """What to train on, and how.

    Parameters
    ----------
    table : str
        A file, a folder or a glob.
    target : str
        Column to predict.
    mode : str
        Training mode.
    drop : tuple of str
        Columns not to use.
    output : Path or None
        Where to save; None: beside the working folder, named after the table and the mode.
    task : str or None
        None: told by the target.
    test_fraction : float
        Share of the rows kept for the scores; 0 for none.
    time, group, weight : str or None
        Columns that order the rows, keep rows together, weigh them; not used as features, but
        for `time`.
    drop_null_target : bool
        Leave out rows without a target.
    settings : dict
        Further fields of `FitSettings`.
    """

    table: str
    target: str
    mode: str = "mlp_dense"
    drop: tuple[str, ...] = ()
    output: Path | None = None
    task: str | None = None
    test_fraction: float = 0.2
    time: str | None = None
    group: str | None = None
    weight: str | None = None
    drop_null_target: bool = False
    random_state: int = 0
    n_members: int | None = None
    max_epochs: int | None = None


@dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    Parameters
    ----------
    model : FittedModel
        Its `metrics` hold "test" and "baseline" where rows were held out.
    path : Path
        Where it was saved.
    messages : tuple of str
        What was decided on the way, in sentences.
    seconds : float
        Reading, fitting, scoring and saving.
    """

    model: FittedModel
    path: Path
    messages: tuple[str, ...] = field(default=())
    seconds: float = 0.0


def run_training(
    request: TrainRequest,
    *,
    on_message: Callable[[str], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> TrainResult:
    """Read, fit, score and save.

    Parameters
    ----------
    request : TrainRequest
    on_message : callable, optional
        Called with each decision as it is made.
    on_epoch : callable, optional
        Called with each epoch.

    Returns
    -------
    TrainResult

    Raises
    ------
    TableError
        If the table or a column is not what it should be.
    ValueError
        If the request contradicts itself or the table.
    OSError
        If the result cannot be written; checked before training.
    """
    started = time.perf_counter()
    messages: list[str] = []

    def say(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)

    if request.mode not in TRAINING_MODES:
        raise ValueError(
            f"the mode must be one of {', '.join(TRAINING_MODES)}; got {request.mode!r}"
        )
    if not 0 <= request.test_fraction < 1:
        raise ValueError(
            f"the test fraction must be in [0, 1); got {request.test_fraction}; 0 holds no rows out"
        )
    path = request.output or Path(f"{_stem(request.table)}-{request.mode}.safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: create it first")
    frame = read_table(request.table)
    say(f"read {len(frame):,} rows x {frame.width} columns from {request.table}")
    _check_columns(frame, request)
    frame = _with_target(frame, request, say)
    task = _task(frame[request.target], request, say)
    settings = FitSettings(
        task=task,
        training_mode=_mode(request.mode),
        random_state=request.random_state,
        n_members=request.n_members,
        max_epochs=request.max_epochs,
    )
    classes, target = _encoded(frame[request.target], task)
    asides = {request.target, *request.drop} | {request.group, request.weight}
    features = frame.drop([name for name in asides if name is not None])
    rows = LabelledRows(features, target, _weights(frame, request.weight))
    groups = None if request.group is None else _group_codes(frame[request.group])
    order = None if request.time is None else frame[request.time].to_physical().to_numpy()
    test: LabelledRows | None = None
    if request.test_fraction > 0:
        train_index, test_index = split_rows(
            len(rows),
            fraction=request.test_fraction,
            codes=None if classes is None else target,
            groups=groups,
            time=order,
            random_state=request.random_state,
        )
        test, rows = rows.take(test_index), rows.take(train_index)
        groups = None if groups is None else groups[train_index]
        order = None if order is None else order[train_index]
        say(f"held out {len(test):,} rows for the scores")
    model = fit_table(
        rows,
        settings,
        classes=classes,
        groups=groups,
        time=order,
        target_name=request.target,
        on_epoch=on_epoch,
    )
    if test is not None:
        model = replace(model, metrics={**model.metrics, **_scores(model, rows, test)})
    model.save(path)
    return TrainResult(model, path, tuple(messages), time.perf_counter() - started)


def _stem(table: str) -> str:
    name = Path(table.rstrip("/*")).name or "table"
    return name.split(".")[0].replace("*", "") or "table"


def _mode(mode: str) -> TrainingMode:
    return next(known for known in TRAINING_MODES if known == mode)


def _check_columns(frame: pl.DataFrame, request: TrainRequest) -> None:
    named = [request.target, *request.drop, request.time, request.group, request.weight]
    missing = [name for name in named if name is not None and name not in frame.columns]
    if missing:
        raise TableError(
            f"{request.table} has no column {missing[0]!r}; its columns are "
            f"{', '.join(frame.columns[:30])}{', ...' if frame.width > 30 else ''}"
        )
    if request.target in request.drop:
        raise TableError(f"the target {request.target!r} is also to be dropped; leave out --drop")


def _with_target(
    frame: pl.DataFrame, request: TrainRequest, say: Callable[[str], None]
) -> pl.DataFrame:
    n_null = frame[request.target].null_count()
    if not n_null:
        return frame
    if not request.drop_null_target:
        raise TableError(
            f"the target {request.target!r} must have no missing values; got {n_null:,} of "
            f"{len(frame):,}; give --drop-null-target to leave those rows out"
        )
    say(f"left out {n_null:,} rows without a target")
    return frame.filter(pl.col(request.target).is_not_null())


def _task(target: pl.Series, request: TrainRequest, say: Callable[[str], None]) -> Task:
    for task in get_args(Task):
        if request.task == task:
            return next(known for known in ("classification", "regression") if known == task)
    if request.task is not None:
        raise ValueError(
            f"the task must be one of {', '.join(get_args(Task))}; got {request.task!r}"
        )
    task, reason = infer_task(target)
    say(f"task: {task}, since {reason} (--task overrides)")
    return task


def _encoded(target: pl.Series, task: Task) -> tuple[np.ndarray | None, np.ndarray]:
    if task == "regression":
        return None, regression_target(target)
    labels = encode_labels(target)
    return labels.classes, labels.codes


def _weights(frame: pl.DataFrame, column: str | None) -> np.ndarray | None:
    if column is None:
        return None
    if not frame[column].dtype.is_numeric() or frame[column].null_count():
        raise TableError(f"the weight column {column!r} must hold numbers and no missing values")
    return frame[column].cast(pl.Float64).to_numpy()


def _group_codes(column: pl.Series) -> np.ndarray:
    return column.cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64)


def _scores(
    model: FittedModel, rows: LabelledRows, test: LabelledRows
) -> dict[str, dict[str, float]]:
    """Scores of the model and of the trivial baseline on the held-out rows."""
    scores = score_rows(Predictor(model), test.frame, test.target, test.weight)
    if model.classes is None:
        mean = float(np.average(rows.target, weights=rows.weight))
        return {"test": scores, "baseline": score_constant(test.target, mean, test.weight)}
    counts = np.bincount(rows.target, weights=rows.weight, minlength=len(model.classes))
    prior = counts / counts.sum()
    return {"test": scores, "baseline": score_class_prior(test.target, prior, test.weight)}
