"""What a search is asked for, and all that can be refused before the table is read.

Nothing here loads PyTorch: a mistake in the options is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tabwright.artifact.atomic_write import check_suffix, check_writable
from tabwright.fitting.eval_metric import check_metric_name, eval_metric_of
from tabwright.report.svg import check_picture
from tabwright.settings import Task
from tabwright.tables.labelled import TableRequest
from tabwright.tuning.space import space_of
from tabwright.tuning.study import check_optuna
from tabwright.workflows.requests.outputs import check_model_output
from tabwright.workflows.requests.settings import check_n_folds, check_threads, fit_settings

if TYPE_CHECKING:
    from tabwright.fitting.class_weights import ClassWeight

SearchName = Literal["tpe", "random"]


@dataclass(frozen=True)
class TuneOptions:
    """How to search.

    Parameters
    ----------
    fixed : mapping of str to object
        Fields of `FitSettings` that are not searched.
    time_limit : float or None
        Seconds, the last fit included; None: no limit.
    n_trials : int or None
        Trials of the study in all that are finished or pruned; None: as many as the time allows.
    n_folds : int
    validation : splitter, list of (train, test), or None
        The folds, in place of `n_folds`.
    eval_metric : object
        Judges, and chooses the epochs; as in `eval_metric_of`. None: log-loss, or what the
        objective of a regression is judged by, RMSE for squared error.
    class_weight : "balanced", mapping of label to weight, or None
    study : Path or None
        Where the study is kept, and gone on from.
    search : {"tpe", "random"}
        "random": uniform draws after the default, and nothing is pruned; to compare with.
    random_state : int
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = 600.0
    n_trials: int | None = None
    n_folds: int = 5
    validation: object = None
    eval_metric: object = None
    class_weight: ClassWeight = None
    study: Path | None = None
    search: SearchName = "tpe"
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.time_limit is None and self.n_trials is None:
            raise ValueError("tune needs an end; got neither time_limit nor n_trials; give one")
        if self.time_limit is not None and not 0 < self.time_limit < float("inf"):
            raise ValueError(f"time_limit must be seconds above 0; got {self.time_limit!r}")
        if self.n_trials is not None and self.n_trials < 1:
            raise ValueError(f"n_trials must be at least 1, or None; got {self.n_trials!r}")
        check_n_folds(self.n_folds)


@dataclass(frozen=True)
class TuneRequest:
    """What `tabwright tune` is asked for.

    `output`: where to save the model; None: in the working folder, named after the table.
    `picture`: where to write the picture, PNG, SVG or PDF; None: beside the model.
    `overwrite`: whether a model of another table or target may be replaced.
    """

    table: TableRequest
    options: TuneOptions = field(default_factory=TuneOptions)
    output: Path | None = None
    picture: Path | None = None
    n_threads: int | None = None
    overwrite: bool = False

    @property
    def path(self) -> Path:
        """Where the model goes."""
        return self.output or Path(f"{self.table.stem}-tuned.safetensors")

    @property
    def picture_path(self) -> Path:
        """Where the picture goes."""
        return self.picture or self.path.with_suffix(".png")


def check_tuning(request: TuneRequest) -> str | None:
    """All that can be refused before the table is read; says what will be replaced."""
    check_optuna()
    check_threads(request.n_threads)
    task: Task = "regression" if request.table.task == "regression" else "classification"
    settings = fit_settings(
        request.options.fixed, task=task, random_state=request.options.random_state
    )
    metric = request.options.eval_metric
    if request.table.task is not None:
        eval_metric_of(metric, task)
    elif isinstance(metric, str):
        check_metric_name(metric)
    space_of(settings, request.options.fixed)
    source = Path(request.table.table)
    others = {
        "the model": request.path,
        "the picture": request.picture_path,
        "the study": request.options.study,
    }
    taken: list[Path] = [source.resolve()]
    for name, path in others.items():
        if path is None:
            continue
        if path.resolve() in taken:
            raise ValueError(f"{name} must not replace another file of the run; got {path} twice")
        taken.append(path.resolve())
        check_writable(path)
    check_suffix(request.path, ".safetensors")
    check_picture(request.picture_path)
    replaced = check_model_output(request.path, request.table, overwrite=request.overwrite)
    if request.picture_path.exists() and not (replaced or request.overwrite):
        raise ValueError(
            "the picture must not replace a file that is not beside an earlier model of this run; "
            f"got {request.picture_path}; give overwrite=True, or another name"
        )
    return replaced
