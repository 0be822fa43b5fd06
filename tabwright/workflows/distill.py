"""One distillation on a table on disk: read, hold rows out, teach, compare, save.

What `tabwright distill` does, as a function. With the table, seed and share of a `tabwright train`
the rows held out are the same, so that a model it saved has not seen them either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tabwright.distillation.fidelity import FidelityReport
from tabwright.distillation.named_teacher import named_teacher
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.fitting.arguments import Columns, FitCallbacks
from tabwright.fitting.data_checks import read_checked_table
from tabwright.fitting.students.distill_table import (
    Split,
    StudentOptions,
    distill_table,
)
from tabwright.inference.fitted_model import FittedModel
from tabwright.tables import read_described
from tabwright.tables.roles import roles_as_text
from tabwright.training.loop import Epoch
from tabwright.workflows.requests.distill import DistillRequest, check_distillation
from tabwright.workflows.requests.outputs import of_table
from tabwright.workflows.run_settings import EpochCounter, using_threads


@dataclass(frozen=True)
class DistillResult:
    """What came of it.

    `model`: the student.
    `path`: where it was saved.
    `messages`: what was decided on the way, in sentences.
    """

    model: FittedModel
    report: FidelityReport
    path: Path
    messages: tuple[str, ...]


def run_distillation(
    request: DistillRequest,
    *,
    on_message: Callable[[str], None] | None = None,
    on_epoch: Callable[[Epoch, int], None] = lambda epoch, n_epochs: None,
) -> DistillResult:
    """Read, teach, compare and save.

    `on_message`: called with each decision as it is made.
    `on_epoch`: called with each epoch of each network, and how many there can be.
    Raises `TableError` if a table or a column is not what it should be; `ArtifactError` if the
        teacher's file is not a whole and valid model of ours; `ValueError` if the request
        contradicts itself, the teacher or the table; `OSError` if the result cannot be written;
        checked before anything is read.
    """
    messages: list[str] = []

    def emit(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)

    split = Split(test_fraction=request.test_fraction)
    replaced = check_distillation(request)
    if replaced is not None:
        emit(replaced)
    teacher = named_teacher(request.teacher)
    wanted = request.table
    if isinstance(teacher, FittedModel):
        task = teacher.settings.task
        if wanted.task is None:
            wanted = replace(wanted, task=task, task_is="that of the teacher")
        emit(f"teacher: {request.teacher}, a {task} model")
    else:
        emit(f"teacher: {teacher}")
    table = read_checked_table(wanted, emit)
    settings = request.settings_of(table.task)
    unlabelled = None
    if request.unlabelled is not None:
        as_text = roles_as_text(wanted.roles)
        unlabelled = read_described(request.unlabelled, csv=wanted.csv, as_text=as_text).frame
    epochs = EpochCounter(on_epoch)
    with using_threads(request.n_threads):
        model, report = distill_table(
            table.rows,
            settings,
            DistillationOptions(teacher, unlabelled=unlabelled, n_threads=torch.get_num_threads()),
            classes=table.classes,
            split=split,
            columns=Columns(roles=wanted.roles, target_name=request.table.columns.target),
            options=StudentOptions(request.budget, sweep=request.sweep),
            callbacks=FitCallbacks(epochs.on_start, epochs.on_epoch, on_message=emit),
        )
    model = of_table(model, request.table)
    model.save(request.path)
    return DistillResult(model, report, request.path, tuple(messages))
