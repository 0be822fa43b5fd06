"""One training run on a table: read, hold rows out, fit, score, save, report.

What `tabwright train` does, as a function: the command line prints what it returns. The scores
that a user sees come from rows that had no part in anything before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tabwright.calibration.decisions import DecisionRule
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.distributed.workers import Workers, joined_workers
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.data_checks import read_checked_table, repeated_rows, warning_of_repeated
from tabwright.fitting.fit_table import fit_table
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.fitting.streamed.jobs import LocalTrainer, Trainer
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows, trivial_scores
from tabwright.number_text import number_text
from tabwright.report.write import write_report
from tabwright.settings import FitSettings, Task
from tabwright.streaming.memory import reason_to_stream
from tabwright.tables import TableProfile
from tabwright.tables.labelled import LabelledRows, TrainingTable
from tabwright.training.callbacks import Callback, as_callback, reporting_failures
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch
from tabwright.workflows.requests.outputs import of_table
from tabwright.workflows.requests.settings import fit_settings
from tabwright.workflows.requests.train import TrainRequest, check_training, teacher_kind
from tabwright.workflows.run_settings import EpochCounter, using_threads


@dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    `model`: its `metrics` hold "test" and "baseline" where rows were held out.
    `path`: where it was saved.
    `messages`: what was decided on the way, in sentences.
    """

    model: FittedModel
    path: Path
    messages: tuple[str, ...] = field(default=())


def run_training(
    request: TrainRequest,
    *,
    on_message: Callable[[str], None] | None = None,
    on_profile: Callable[[TableProfile], None] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_epoch: Callable[[Epoch, int], None] | None = None,
    callbacks: Sequence[Callback] = (),
    trainer: Trainer | None = None,
) -> TrainResult | None:
    """Read, fit, score and save.

    Under torchrun the workers share the work; rows come from disk then, as they do where the table
    does not fit in the memory that it may take.

    `on_message`: called with each decision as it is made.
    `on_profile`: called with what each column of the table is, before training.
    `on_stage`: called with what begins, in words, where it takes time.
    `on_epoch`: called with each epoch and how many there can be.
    `callbacks`: told of the start, each epoch and the end, when the model is scored and saved.
    `trainer`: makes the passes over the table and trains, in place of this process.
    Returns: None at all workers but the first, which saves the model.
    Raises `TableError` if the table or a column is not what it should be; `ValueError` if the
        request contradicts itself or the table; `OSError` if the result cannot be written; checked
        before anything is read.
    """
    messages: list[str] = []

    def emit(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)
        callback.on_message(message)

    replaced = check_training(request)
    callback = _with_counter(callbacks, on_epoch)
    with reporting_failures(callback):
        with joined_workers() as workers:
            reason = reason_to_stream(
                request.table.table, request.memory, request.table.columns.drop
            )
            if replaced is not None and workers.is_first:
                emit(replaced)
            if trainer is not None:
                reason = "the workers of a cluster share the work"
            elif workers.size > 1:
                reason = f"{workers.size} workers share the work: rows come from disk"
            if reason is None:
                fit = _fit_in_memory(request, emit, on_profile, on_stage, callback)
            else:
                if workers.is_first:
                    emit(reason)
                    on_stage(f"reading {request.table.table}")
                fit = _fit_from_disk(
                    request,
                    workers,
                    emit if workers.is_first else None,
                    on_profile,
                    callback,
                    trainer,
                )
        model = fit.model
        if model is None:
            return None
        for part in ("calibration", "decision"):
            if part in model.card:
                emit(f"{part}: {model.card[part]}")
        if "fidelity" in model.card:
            emit(model.card["fidelity"]["verdict"])
        model = of_table(model, request.table)
        model.save(request.path)
        callback.on_end(model)
    if request.report is not None and fit.training is not None and fit.test is not None:
        on_stage("writing the report")
        # That a file is replaced is no decision about the model.
        decisions = [message for message in messages if message != replaced]
        _write_report(request, request.report, model, fit.training, fit.test, decisions)
        emit(f"wrote the report {request.report}")
    checkpoint = _checkpoint(request, shared=workers.size > 1 or trainer is not None)
    if checkpoint is not None and model.stopped != "interrupted":
        checkpoint.remove()
    return TrainResult(model, request.path, tuple(messages))


@dataclass(frozen=True)
class _Fit:
    """What a fit gave, and the rows in memory that a report is made of."""

    model: FittedModel | None  # None at all workers but the first
    training: TrainingTable | None = None
    test: TrainingTable | None = None


def _with_counter(
    callbacks: Sequence[Callback], on_epoch: Callable[[Epoch, int], None] | None
) -> Callback:
    return as_callback([*callbacks, *([] if on_epoch is None else [EpochCounter(on_epoch)])])


def _checkpoint(request: TrainRequest, *, shared: bool) -> Checkpoint | None:
    path = request.checkpoint
    if path is None and shared:
        path = request.path.with_name(f"{request.path.name}.run")
    return None if path is None else Checkpoint(path, request.checkpoint_interval)


def _aims(request: TrainRequest) -> Aims:
    return Aims(
        prior=request.prior,
        decision=None if request.decision is None else request.decision.aim,
        trees=request.trees,
    )


def _fit_from_disk(
    request: TrainRequest,
    workers: Workers,
    on_message: Callable[[str], None] | None,
    on_profile: Callable[[TableProfile], None] | None,
    callback: Callback,
    trainer: Trainer | None,
) -> _Fit:
    """Fit to rows kept on disk."""
    asked = request.table
    if asked.columns.time is not None:
        raise ValueError(
            f"rows from disk cannot be put in order; got time={asked.columns.time!r}; raise "
            "memory, or train on files up to a date and evaluate on later ones"
        )
    if request.report is not None:
        raise ValueError(
            f"a report is on rows in memory; got {request.report} for rows from disk; raise "
            "memory, or leave out report"
        )

    def settings(task: Task) -> FitSettings:
        # Asked before the scan too, when the task is a guess.
        return fit_settings(
            request.settings, task=task, random_state=request.random_state, task_is_known=False
        )

    known: FitSettings | None = None
    if asked.task is not None:
        known = settings("regression" if asked.task == "regression" else "classification")
    spool = request.path.with_name(f".{request.path.name}.rows")
    with using_threads(request.n_threads):
        model = fit_files(
            asked.table,
            asked.columns,
            known or settings,
            roles=asked.roles,
            csv=asked.csv,
            test_fraction=request.test_fraction,
            aims=_aims(request),
            callbacks=FitCallbacks(callback.on_start, callback.on_epoch, on_message, on_profile),
            checkpoint=_checkpoint(request, shared=workers.size > 1 or trainer is not None),
            trainer=trainer or LocalTrainer(workers, spool),
        )
    return _Fit(model)


def _fit_in_memory(
    request: TrainRequest,
    on_message: Callable[[str], None],
    on_profile: Callable[[TableProfile], None] | None,
    on_stage: Callable[[str], None],
    callback: Callback,
) -> _Fit:
    """Fit to rows in memory, and score those held out."""
    on_stage(f"reading {request.table.table}")
    table = read_checked_table(request.table, on_message)
    settings = fit_settings(request.settings, task=table.task, random_state=request.random_state)
    aims = _aims(request)
    # What does not fit the labels is refused before the fit begins.
    aims = replace(aims, decision=aims.decision_for(table.classes))
    test: TrainingTable | None = None
    if request.test_fraction > 0:
        stay, leave = table.rows.split(
            request.test_fraction,
            stratify=table.classes is not None,
            random_state=request.random_state,
        )
        test, table = table.take(leave), table.take(stay)
        time = request.table.columns.time
        latest = "" if time is None else f", the latest by {time!r}"
        on_message(
            f"held out {len(test):,} row{'' if len(test) == 1 else 's'} for the scores{latest}"
        )
        repeated = warning_of_repeated(repeated_rows(table.rows, test.rows), len(test))
        if repeated is not None:
            on_message(repeated)
    if on_profile is not None:
        on_profile(table.profile)
    on_stage("fitting")
    with using_threads(request.n_threads):
        model = fit_table(
            table.rows,
            settings,
            classes=table.classes,
            columns=Columns(profile=table.profile, target_name=request.table.columns.target),
            aims=aims,
            distillation=_distillation(request, test),
            callbacks=FitCallbacks(
                on_start=callback.on_start, on_epoch=callback.on_epoch, on_message=on_message
            ),
            checkpoint=_checkpoint(request, shared=False),
        )
    if test is None:
        return _Fit(model, table)
    on_stage("scoring the held-out rows")
    model = replace(model, metrics={**model.metrics, **_scores(model, test.rows)})
    if model.decision is not None and model.decision.kind != "argmax":
        on_message(f"decision on the test rows: {_decision_scores(model, test)}")
    return _Fit(model, table, test)


def _distillation(request: TrainRequest, test: TrainingTable | None) -> DistillationOptions | None:
    """What the request says of the teacher, in that mode."""
    if request.settings.get("training_mode") != "tree_teacher_distillation":
        return None
    distillation = DistillationOptions(n_threads=torch.get_num_threads())
    if test is not None:
        distillation = replace(distillation, judged=test.rows)
    if not request.teachers:
        return distillation
    return replace(distillation, teacher=[teacher_kind(name) for name in request.teachers])


def _write_report(
    request: TrainRequest,
    path: Path,
    model: FittedModel,
    table: TrainingTable,
    test: TrainingTable,
    messages: Sequence[str],
) -> None:
    """The report on the held-out rows, beside a linear model fitted on the same training rows."""
    linear = None
    if model.settings.training_mode != "linear_glm_baseline":
        settings = fit_settings(
            {**request.settings, "training_mode": "linear_glm_baseline"},
            task=table.task,
            random_state=request.random_state,
        )
        with using_threads(request.n_threads):
            linear = fit_table(
                table.rows,
                settings,
                classes=table.classes,
                columns=Columns(profile=table.profile, target_name=request.table.columns.target),
            )
    reasons = dict.fromkeys(request.table.columns.left_out, "left out on request")
    if request.table.columns.group is not None:
        reasons[request.table.columns.group] = "keeps rows together in the splits"
    if request.table.columns.weight is not None:
        reasons[request.table.columns.weight] = "weighs the rows"
    write_report(
        model,
        test.rows.frame,
        test.labels,
        path,
        sample_weight=test.rows.weight,
        linear=linear,
        table_name=request.table.table,
        notes=messages,
        left_out=reasons,
        row_numbers=test.row_numbers,
        random_state=request.random_state,
    )


def _decision_scores(model: FittedModel, test: TrainingTable) -> str:
    """What the rule does on the test rows, beside the most probable class."""
    rule, codes = model.decision, test.rows.target
    proba = Predictor(model).predict_proba(test.rows.frame)
    weight = np.ones(len(test)) if test.rows.weight is None else test.rows.weight
    parts = []
    for decided in (rule or DecisionRule()).apply(proba), proba.argmax(axis=1):
        if rule is not None and rule.costs is not None:
            cost = np.average(rule.costs[codes, decided], weights=weight)
            parts.append(f"mean cost {number_text(cost)}")
            continue
        positive = 1 if rule is None else rule.positive
        hits = weight[(codes == positive) & (decided == positive)].sum()
        marked, events = weight[decided == positive].sum(), weight[codes == positive].sum()
        precision, recall = (hits / mass if mass > 0 else 0.0 for mass in (marked, events))
        parts.append(f"precision {precision:.3f}, recall {recall:.3f}")
    return f"{parts[0]}; by the most probable class {parts[1]}"


def _scores(model: FittedModel, test: LabelledRows) -> dict[str, dict[str, float]]:
    """Scores of the model and of the trivial baseline on the held-out rows."""
    scores = score_rows(Predictor(model), test.frame, test.target, test.weight)
    return {**scores, "baseline": trivial_scores(model, test.target, test.weight)}
