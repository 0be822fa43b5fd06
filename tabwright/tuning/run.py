"""The two faces of the search: the function `tune`, and what `tabwright tune` does with files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tabwright.estimators.inputs import seed_of
from tabwright.fitting.class_weights import ClassWeight
from tabwright.fitting.data_checks import read_checked_table
from tabwright.report.svg import write_picture
from tabwright.settings import Task
from tabwright.tables import (
    as_frame,
    infer_task,
    profile_table,
    sample_weights,
)
from tabwright.tables.labelled import (
    LabelledRows,
    TrainingTable,
)
from tabwright.tables.roles import Role
from tabwright.tables.targets import learned_target
from tabwright.training.time_limit import seconds_of
from tabwright.tuning.picture import plot_tuning
from tabwright.tuning.request import TuneOptions, TuneRequest, check_tuning
from tabwright.tuning.result import TuningResult
from tabwright.tuning.search import tune_table
from tabwright.tuning.study import check_optuna
from tabwright.workflows.requests.outputs import of_table
from tabwright.workflows.requests.settings import fit_settings
from tabwright.workflows.run_settings import using_threads


def tune(
    X: Any,
    y: Any,
    *,
    time_limit: float | str | None = 600.0,
    n_trials: int | None = None,
    task: Task | None = None,
    sample_weight: Any = None,
    groups: Any = None,
    time: Any = None,
    validation: object = None,
    n_folds: int = 5,
    eval_metric: object = None,
    class_weight: ClassWeight = None,
    roles: Mapping[str, Role] | None = None,
    settings: Mapping[str, Any] | None = None,
    study: str | Path | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> TuningResult:
    """Search the settings that suit a table, and fit a model with them. Needs the extra `tune`.

    Depth, width, dropout, decay, learning rate, epochs, the encoding of numbers, the number of
    networks and the architecture are searched by Optuna: first the default and what did best on
    other tables, then draws of a tree-structured Parzen estimator. Every trial is cross-validated
    on the same folds and pruned where others did better by the same part of their epochs. The
    model that comes back is fitted with the settings of the best mean score, the default among
    them; the verdict says whether they beat it by more than the error of their paired difference.

    Parameters
    ----------
    X : frame or array of shape (n_rows, n_columns)
    y : array of shape (n_rows,)
    time_limit : float, str or None, default=600.0
        Seconds, or a text such as "10m", the last fit included; kept within a tenth. None: as
        long as `n_trials` take.
    n_trials : int or None, default=None
        Trials in all, those of a study of before included.
    task : {"classification", "regression"} or None, default=None
        None: told by the target.
    sample_weight : array of shape (n_rows,), optional
    groups, time : array of shape (n_rows,), optional
        Folds keep groups together, or are forward in time.
    validation : splitter, list of (train, test), or None, default=None
        The folds, as in `TabularClassifier`; every split is one.
    n_folds : int, default=5
    eval_metric : str, callable or None, default=None
        Judges the trials and chooses the epochs; see `TabularClassifier`. None: log-loss, or RMSE.
    class_weight : "balanced", dict or None, default=None
    roles : dict of str to role, optional
    settings : dict of str to object, optional
        Settings to hold fixed, by the estimators' names, such as `{"n_members": 1}`.
    study : path, optional
        A file of SQLite that keeps the trials; if it is there, the search goes on from it.
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        1 prints a line a trial.

    Returns
    -------
    TuningResult
        `estimator` predicts; `verdict` says whether the best settings are better than the default;
        `plot_tuning` of `tabwright.tuning.picture` draws it.

    Raises
    ------
    ValueError
        If an argument breaks a rule, or the study is of another table.
    TableError
        If the table does.
    ImportError
        If Optuna is not installed.
    KeyboardInterrupt
        If Ctrl-C came before any trial was finished; later it ends the search, and the model is
        fitted with what is known.
    """
    started = _now()
    check_optuna()
    frame, named = as_frame(X, estimator="tune")
    if task is None:
        task, _ = infer_task(pl.Series("target", y) if not isinstance(y, pl.Series) else y)
    classes, target = learned_target(y, task)
    columns = {
        name: None if values is None else np.asarray(values)
        for name, values in (("groups", groups), ("time", time))
    }
    if sample_weight is not None:
        sample_weight = sample_weights(pl.Series("sample_weight", np.asarray(sample_weight)))
    for name, values in {"y": target, "sample_weight": sample_weight, **columns}.items():
        if values is not None and len(values) != len(frame):
            raise ValueError(
                f"{name} must have one value a row; got {len(values)} for {len(frame)} rows"
            )
    rows = LabelledRows(frame, target, sample_weight, columns["groups"], columns["time"])
    if sample_weight is not None and not np.all(sample_weight > 0):
        raise ValueError("sample_weight must be above 0 in every row; leave out rows of weight 0")
    seed = seed_of(random_state)
    options = TuneOptions(
        fixed=dict(settings or {}),
        time_limit=seconds_of(time_limit) if isinstance(time_limit, str) else time_limit,
        n_trials=n_trials,
        n_folds=n_folds,
        validation=validation,
        eval_metric=eval_metric,
        class_weight=class_weight,
        study=None if study is None else Path(study),
        random_state=seed,
    )
    fit_settings(options.fixed, task=task, random_state=seed)
    profile = profile_table(frame, named=named, roles=roles)
    table = TrainingTable(rows, classes, task, np.arange(1, len(rows) + 1), profile)
    return tune_table(
        table, options, named=named, started=started, on_message=print if verbose else None
    )


def _now() -> float:
    # `time` is an argument of `tune`.
    return time.perf_counter()


def run_tuning(
    request: TuneRequest,
    *,
    started: float | None = None,
    on_message: Callable[[str], None] | None = None,
    on_progress: Callable[[str, float, float | None], None] | None = None,
) -> TuningResult:
    """Read, search, fit, save the model and the picture.

    `started`: when the time began, by `time.perf_counter`; None: now.
    `on_message`: called with each decision, and with a sentence on each trial.
    `on_progress`: as in `tune_table`.
    Raises `TableError` if the table or a column is not what it should be.
    Raises `ValueError` if the request contradicts itself or the table.
    Raises `OSError` if a result cannot be written; checked before anything is read.
    """
    started = _now() if started is None else started
    emit = on_message or (lambda message: None)
    options, asked = request.options, request.table
    replaced = check_tuning(request)
    if replaced is not None:
        emit(replaced)
    table = read_checked_table(asked, emit)
    with using_threads(request.n_threads):
        result = tune_table(
            table,
            options,
            target_name=asked.columns.target,
            started=started,
            on_message=emit,
            on_progress=on_progress,
        )
    result = replace(result, model=of_table(result.model, asked))
    result.model.save(request.path)
    write_picture(plot_tuning(result), request.picture_path)
    return result
