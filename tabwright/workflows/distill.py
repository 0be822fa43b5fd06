"""One distillation on a table on disk: read, hold rows out, teach, compare, save.

What `tabwright distill` does, as a function. With the table, seed and share of a `tabwright train`
the rows held out are the same, so that a model it saved has not seen them either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tabwright.artifact.atomic_write import check_suffix, check_writable
from tabwright.distillation.fidelity import FidelityReport
from tabwright.distillation.soft_targets import DistillationOptions
from tabwright.distillation.trees import tree_learner
from tabwright.fitting.arguments import Columns, FitCallbacks
from tabwright.fitting.data_checks import read_checked_table
from tabwright.fitting.students.distill_table import (
    Split,
    StudentOptions,
    distill_table,
    named_teacher,
)
from tabwright.fitting.students.student_size import Budget
from tabwright.inference.fitted_model import FittedModel
from tabwright.tables import read_described
from tabwright.tables.labelled import TableRequest
from tabwright.tables.roles import roles_as_text
from tabwright.training.loop import Epoch
from tabwright.workflows.outputs import check_model_output, of_table
from tabwright.workflows.run_settings import EpochCounter, fit_settings, using_threads


@dataclass(frozen=True)
class DistillRequest:
    """What to distil, and how.

    `teacher`: a tree kind, or the path of a model file of ours.
    `output`: where to save; None: in the working folder, named after the table.
    `test_fraction`: share of the rows kept for the verdict; 0: it is given on the validation rows.
    `unlabelled`: a table of further rows for the teacher to label.
    `settings`: fields of `FitSettings` of the student, but for the task, the seed and the mode.
    `sweep`: widths to try besides.
    """

    teacher: str
    table: TableRequest
    output: Path | None = None
    test_fraction: float = 0.2
    unlabelled: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    sweep: tuple[int, ...] = ()
    n_threads: int | None = None
    random_state: int = 0
    overwrite: bool = False

    @property
    def path(self) -> Path:
        """Where the student goes."""
        if self.output is not None:
            return self.output
        return Path(f"{self.table.stem}-student.safetensors")


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

    def say(message: str) -> None:
        messages.append(message)
        if on_message is not None:
            on_message(message)

    split = Split(test_fraction=request.test_fraction)
    for source in (request.table.table, request.teacher):
        if Path(source).exists() and request.path.exists() and request.path.samefile(Path(source)):
            raise ValueError(
                f"the student must not replace table or teacher; got {request.path} as both"
            )
    check_suffix(request.path, ".safetensors")
    check_writable(request.path)
    replaced = check_model_output(request.path, request.table, overwrite=request.overwrite)
    if replaced is not None:
        say(replaced)
    teacher = named_teacher(request.teacher)
    wanted = request.table
    if isinstance(teacher, FittedModel):
        task = teacher.settings.task
        if wanted.task not in (None, task):
            raise ValueError(f"the teacher is a model for {task}; got the task {wanted.task!r}")
        if wanted.task is None:
            wanted = replace(wanted, task=task, task_is="that of the teacher")
        say(f"teacher: {request.teacher}, a {task} model")
    else:
        tree_learner(teacher)
        say(f"teacher: {teacher}")
    table = read_checked_table(wanted, say)
    settings = fit_settings(
        {**request.settings, "training_mode": "tree_teacher_distillation"},
        task=table.task,
        random_state=request.random_state,
    )
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
            callbacks=FitCallbacks(epochs.on_start, epochs.on_epoch, on_message=say),
        )
    model = of_table(model, request.table)
    model.save(request.path)
    return DistillResult(model, report, request.path, tuple(messages))
