"""One training run on a table: read, hold rows out, fit, score, save, report.

What `tabwright train` does, as a function: the command line prints what it returns. The scores
that a user sees come from rows that had no part in anything before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tabwright.artifact.atomic_write import check_suffix, check_writable
from tabwright.calibration.decisions import DecisionRule
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.distillation.trees import TEACHER_KINDS, TeacherKind, tree_learner
from tabwright.distributed.workers import Workers, joined_workers
from tabwright.fitting.arguments import Aims, Columns, FitCallbacks
from tabwright.fitting.class_weights import Prior
from tabwright.fitting.data_checks import read_checked_table, repeated_rows, warning_of_repeated
from tabwright.fitting.fit_table import fit_table
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.fitting.streamed.jobs import LocalTrainer, Trainer
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import score_rows, trivial_scores
from tabwright.report.write import write_report
from tabwright.settings import FitSettings, Task
from tabwright.streaming.memory import reason_to_stream
from tabwright.tables import TableProfile
from tabwright.tables.labelled import (
    LabelledRows,
    TableRequest,
    TrainingTable,
)
from tabwright.training.callbacks import Callback, as_callback, reporting_failures
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.loop import Epoch
from tabwright.workflows.decision_request import DecisionRequest
from tabwright.workflows.outputs import check_model_output, check_report_output, of_table
from tabwright.workflows.run_settings import (
    EpochCounter,
    check_threads,
    fit_settings,
    using_threads,
)


@dataclass(frozen=True)
class TrainRequest:
    """What to train on, and how.

    Parameters
    ----------
    table : TableRequest
    output : Path or None
        Where to save; None: in the working folder, named after the table and the mode.
    test_fraction : float
        Share of the rows kept for the scores; 0 for none.
    settings : mapping of str to object
        Fields of `FitSettings`, but for the task and the seed; the mode is `training_mode`.
    prior : "training", "balanced", or mapping of label to share
        The class prior under which `imbalance_aware` answers.
    teachers : tuple of str
        Tree ensembles that teach in `tree_teacher_distillation`; empty: the default one.
    decision : DecisionRequest or None
        What the stored decision rule shall serve; None: the most probable class.
    n_threads : int or None
        None: as many as PyTorch uses by itself.
    random_state : int
    report : Path or None
        Where to write a report on the rows kept for the scores; None: nowhere.
    memory : int or None
        Bytes that training may take; rows come from disk where it would take more. None: half of
        what the machine has free.
    checkpoint : Path or None
        Where the run keeps its state, and goes on from. None: nowhere; beside the model, where
        several workers train.
    checkpoint_interval : float
        Seconds between two writes of the state.
    overwrite : bool
        Whether a model or report of another table or target may be replaced.
    """

    table: TableRequest
    output: Path | None = None
    test_fraction: float = 0.2
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior: Prior = "training"
    teachers: tuple[str, ...] = ()
    decision: DecisionRequest | None = None
    n_threads: int | None = None
    random_state: int = 0
    report: Path | None = None
    memory: int | None = None
    checkpoint: Path | None = None
    checkpoint_interval: float = 60.0
    overwrite: bool = False

    @property
    def path(self) -> Path:
        """Where the model goes."""
        if self.output is not None:
            return self.output
        mode = self.settings.get("training_mode", FitSettings.training_mode)
        return Path(f"{self.table.stem}-{mode}.safetensors")


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

    def say(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)
        callback.on_message(message)

    replaced = check_training(request)
    callback = _with_counter(callbacks, on_epoch)
    with reporting_failures(callback):
        with joined_workers() as workers:
            reason = reason_to_stream(request.table.table, request.memory)
            if replaced is not None and workers.is_first:
                say(replaced)
            if trainer is not None:
                reason = "the workers of a cluster share the work"
            elif workers.size > 1:
                reason = f"{workers.size} workers share the work: rows come from disk"
            if reason is None:
                fit = _fit_in_memory(request, say, on_profile, on_stage, callback)
            else:
                if workers.is_first:
                    say(reason)
                    on_stage(f"reading {request.table.table}")
                fit = _fit_from_disk(
                    request,
                    workers,
                    say if workers.is_first else None,
                    on_profile,
                    callback,
                    trainer,
                )
        model = fit.model
        if model is None:
            return None
        for part in ("calibration", "decision"):
            if part in model.card:
                say(f"{part}: {model.card[part]}")
        if "fidelity" in model.card:
            say(model.card["fidelity"]["verdict"])
        model = of_table(model, request.table)
        model.save(request.path)
        callback.on_end(model)
    if request.report is not None and fit.training is not None and fit.test is not None:
        on_stage("writing the report")
        _write_report(request, request.report, model, fit.training, fit.test, messages)
        say(f"wrote the report {request.report}")
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
        prior=request.prior, decision=None if request.decision is None else request.decision.aim
    )


def _fit_from_disk(
    request: TrainRequest,
    workers: Workers,
    say: Callable[[str], None] | None,
    on_profile: Callable[[TableProfile], None] | None,
    callback: Callback,
    trainer: Trainer | None,
) -> _Fit:
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
        return fit_settings(request.settings, task=task, random_state=request.random_state)

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
            callbacks=FitCallbacks(callback.on_start, callback.on_epoch, say, on_profile),
            checkpoint=_checkpoint(request, shared=workers.size > 1 or trainer is not None),
            trainer=trainer or LocalTrainer(workers, spool),
        )
    return _Fit(model)


def _fit_in_memory(
    request: TrainRequest,
    say: Callable[[str], None],
    on_profile: Callable[[TableProfile], None] | None,
    on_stage: Callable[[str], None],
    callback: Callback,
) -> _Fit:
    on_stage(f"reading {request.table.table}")
    table = read_checked_table(request.table, say)
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
        say(f"held out {len(test):,} rows for the scores{latest}")
        repeated = warning_of_repeated(repeated_rows(table.rows, test.rows), len(test))
        if repeated is not None:
            say(repeated)
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
                on_start=callback.on_start, on_epoch=callback.on_epoch, on_message=say
            ),
            checkpoint=_checkpoint(request, shared=False),
        )
    if test is None:
        return _Fit(model, table)
    on_stage("scoring the held-out rows")
    model = replace(model, metrics={**model.metrics, **_scores(model, test.rows)})
    if model.decision is not None:
        say(f"decision on the test rows: {_decision_scores(model, test)}")
    return _Fit(model, table, test)


def check_training(request: TrainRequest) -> str | None:
    """All that can be refused before the table is read; says what will be replaced."""
    if not 0 <= request.test_fraction < 1:
        raise ValueError(
            f"the test fraction must be in [0, 1); got {request.test_fraction}; 0 holds no rows out"
        )
    task: Task = "regression" if request.table.task == "regression" else "classification"
    fit_settings(request.settings, task=task, random_state=request.random_state)
    check_threads(request.n_threads)
    mode = request.settings.get("training_mode", FitSettings.training_mode)
    is_of_training = isinstance(request.prior, str) and request.prior == "training"
    if not is_of_training and mode != "imbalance_aware":
        raise ValueError(
            f"a prior is for the mode imbalance_aware; got {request.prior!r} and the mode {mode!r}"
        )
    if request.teachers and mode != "tree_teacher_distillation":
        raise ValueError(
            f"a teacher is for the mode tree_teacher_distillation; got {request.teachers[0]!r} and "
            f"the mode {mode!r}"
        )
    for kind in request.teachers:
        tree_learner(_kind(kind))
    if request.decision is not None and request.table.task == "regression":
        raise ValueError("a decision rule is for classification; this is a regression task")
    _check_report(request)
    return check_model(request)


def check_model(request: TrainRequest) -> str | None:
    """Refuse a place for the model, before the table is read; says what will be replaced."""
    source = Path(request.table.table)
    if source.exists() and request.path.exists() and request.path.samefile(source):
        raise ValueError(f"the model must not replace the table; got {request.path} as both")
    check_suffix(request.path, ".safetensors")
    check_writable(request.path)
    return check_model_output(request.path, request.table, overwrite=request.overwrite)


def _check_report(request: TrainRequest) -> None:
    if request.report is None:
        return
    if request.test_fraction == 0:
        raise ValueError(
            "a report needs rows that had no part in training; got a test fraction of 0; "
            "give test_fraction=0.2, or leave out report"
        )
    others = {"the model": request.path, "the table": Path(request.table.table)}
    for name, path in others.items():
        if path.resolve() == request.report.resolve():
            raise ValueError(f"the report must not replace {name}; got {path} as both")
    check_suffix(request.report, ".html")
    check_writable(request.report)
    check_report_output(request.report, request.table, overwrite=request.overwrite)


def _kind(name: str) -> TeacherKind:
    kind = next((known for known in TEACHER_KINDS if known == name), None)
    if kind is None:
        raise ValueError(f"a teacher must be one of {', '.join(TEACHER_KINDS)}; got {name!r}")
    return kind


def _distillation(request: TrainRequest, test: TrainingTable | None) -> DistillationOptions | None:
    if request.settings.get("training_mode") != "tree_teacher_distillation":
        return None
    distillation = DistillationOptions(n_threads=torch.get_num_threads())
    if test is not None:
        distillation = replace(distillation, judged=test.rows)
    if not request.teachers:
        return distillation
    return replace(distillation, teacher=[_kind(name) for name in request.teachers])


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
            parts.append(f"mean cost {cost:.4g}")
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
