"""What a training run is asked for, and all that can be refused before the table is read.

Nothing here loads PyTorch: a mistake in the options is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabwright.artifact.atomic_write import check_suffix, check_writable
from tabwright.distillation.trees.learners import tree_learner
from tabwright.distillation.trees.problem import TEACHER_KINDS, TeacherKind
from tabwright.errors import nearest_name
from tabwright.settings import FitSettings, Task
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.decision import DecisionRequest
from tabwright.workflows.requests.outputs import check_model_output, check_report_output
from tabwright.workflows.requests.settings import check_test_fraction, check_threads, fit_settings

if TYPE_CHECKING:
    from tabwright.fitting.class_weights import Prior


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
    trees : str or None
        A tree ensemble to weigh against the networks, besides those of the quality.
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
    trees: TeacherKind | None = None
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


def check_training(request: TrainRequest) -> str | None:
    """All that can be refused before the table is read; says what will be replaced."""
    check_test_fraction(request.test_fraction)
    task: Task = "regression" if request.table.task == "regression" else "classification"
    if request.table.task is None and request.settings.get("intervals") is not None:
        # The table may turn out to be one; else the settings are refused once it is read.
        task = "regression"
    fit_settings(
        request.settings,
        task=task,
        random_state=request.random_state,
        task_is_known=request.table.task is not None,
    )
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
        tree_learner(teacher_kind(kind))
    if request.decision is not None and request.table.task == "regression":
        raise ValueError("a decision rule is for classification; this is a regression task")
    if not 0 <= request.checkpoint_interval < float("inf"):
        raise ValueError(
            "the seconds between two writes must be at least 0, where 0 writes after every step; "
            f"got {request.checkpoint_interval}"
        )
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
    """Refuse a report that cannot be written, or would be on rows that trained."""
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
    check_suffix(request.report, ".html", "the report")
    check_writable(request.report)
    check_report_output(request.report, request.table, overwrite=request.overwrite)


def teacher_kind(name: str) -> TeacherKind:
    """The kind of tree ensemble of a name."""
    kind = next((known for known in TEACHER_KINDS if known == name), None)
    if kind is None:
        hint = nearest_name(name, TEACHER_KINDS)
        raise ValueError(f"teachers must be of {', '.join(TEACHER_KINDS)}; got {name!r}{hint}")
    return kind
