"""What a distillation is asked for, and all that can be refused before the table is read.

Nothing here loads PyTorch: a mistake in the options is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabwright.artifact.atomic_write import check_suffix, check_writable
from tabwright.distillation.named_teacher import named_teacher
from tabwright.distillation.trees.learners import tree_learner
from tabwright.fitting.students.student_size import Budget
from tabwright.inference.fitted_model import FittedModel
from tabwright.settings import FitSettings, Task
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.outputs import check_model_output
from tabwright.workflows.requests.settings import check_test_fraction, check_threads, fit_settings


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

    def settings_of(self, task: Task | None) -> FitSettings:
        """`FitSettings` of the student; None: the task is not known yet."""
        values = {**self.settings, "training_mode": "tree_teacher_distillation"}
        return fit_settings(
            values,
            task=task or "classification",
            random_state=self.random_state,
            task_is_known=task is not None,
        )


def check_distillation(request: DistillRequest) -> str | None:
    """All that can be refused before the table is read; says what will be replaced."""
    check_test_fraction(request.test_fraction)
    check_threads(request.n_threads)
    for source in (request.table.table, request.teacher):
        if Path(source).exists() and request.path.exists() and request.path.samefile(Path(source)):
            raise ValueError(
                f"the student must not replace table or teacher; got {request.path} as both"
            )
    check_suffix(request.path, ".safetensors")
    check_writable(request.path)
    teacher = named_teacher(request.teacher)
    task = request.table.task
    if isinstance(teacher, FittedModel):
        if task not in (None, teacher.settings.task):
            raise ValueError(
                f"the teacher is a model for {teacher.settings.task}; got the task {task!r}"
            )
        task = teacher.settings.task
    known: Task = "regression" if task == "regression" else "classification"
    request.settings_of(None if task is None else known)
    replaced = check_model_output(request.path, request.table, overwrite=request.overwrite)
    if not isinstance(teacher, FittedModel):
        # The last, since it loads the package of the trees.
        tree_learner(teacher)
    return replaced
