"""What a comparison is asked for, and all that can be refused before the table is read.

Nothing here loads PyTorch: a mistake in the options is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tabwright.distillation.trees.problem import TeacherKind
from tabwright.errors import nearest_name
from tabwright.regression import MEASURES, RegressionObjective
from tabwright.settings import FitSettings, Task, modes_for
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.requests.settings import check_n_folds, check_threads, fit_settings
from tabwright.workflows.requests.train import TrainRequest, check_model

# The metric that judges, and what else is shown.
_METRICS: Final[dict[Task, tuple[str, ...]]] = {
    "classification": ("log_loss", "accuracy", "balanced_accuracy", "auc", "average_precision"),
    "regression": ("rmse", "mae", "r2"),
}


@dataclass(frozen=True)
class CompareRequest:
    """What to compare, and how.

    `modes`: training modes; empty: all that fit the task.
    `references`: whether tree ensembles stand beside them: scikit-learn's, and LightGBM and
        CatBoost where they are installed.
    `metric`: the metric that judges; None: log-loss, or what the objective of a regression is
        judged by, RMSE for squared error.
    `n_folds`: at least 2.
    `n_repeats`: how often rows are assigned to folds anew; 1 with `time`.
    `settings`: fields of `FitSettings` for all modes.
    `validation`: the folds, as in `splits_of`, in place of `n_folds`; inside a fold, what is left
        of the other splits holds out the rows that choose the epoch.
    `save`: where to save the mode to use, fitted on all rows; None: nothing is saved.
    `overwrite`: whether that may replace a file of another table or target.
    """

    table: TableRequest
    modes: tuple[str, ...] = ()
    references: bool = True
    metric: str | None = None
    n_folds: int = 5
    n_repeats: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_threads: int | None = None
    random_state: int = 0
    validation: object = None
    save: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.validation is not None and (self.n_repeats > 1 or self.table.columns.time):
            raise ValueError(
                "validation decides which rows are held out, and so would repeats or a time; got "
                f"n_repeats={self.n_repeats} and time={self.table.columns.time!r}; leave them out"
            )
        check_n_folds(self.n_folds)
        if self.n_repeats < 1:
            raise ValueError(f"the number of repeats must be at least 1; got {self.n_repeats}")
        if self.n_repeats > 1 and self.table.columns.time is not None:
            raise ValueError(
                f"folds in time are one and the same at every repeat; got {self.n_repeats} "
                "repeats; leave them out"
            )
        check_threads(self.n_threads)
        tasks: tuple[Task, ...] = ("classification", "regression")
        known = {metric for task in tasks for metric in _METRICS[task]} | {
            *MEASURES.values(),
            "d2",
        }
        if self.metric is not None and self.metric not in known:
            raise ValueError(
                f"the metric must be one of {', '.join(sorted(known))}; got {self.metric!r}"
                f"{nearest_name(self.metric, known)}"
            )
        doubled = [mode for k, mode in enumerate(self.modes) if mode in self.modes[:k]]
        if doubled:
            raise ValueError(f"a mode is compared once; got {doubled[0]!r} twice")
        if len(self.modes) == 1 and not self.has_references:
            more = ", or let the references in" if self.objective == "squared_error" else ""
            raise ValueError(
                f"a comparison needs at least 2 candidates; got {self.modes[0]}; name more modes"
                f"{more}"
            )
        if self.objective == "squared_error":
            for mode in self.modes or modes_for("classification"):
                self.settings_of(mode, None)
        for mode in self.modes if self.objective != "squared_error" else ():
            self.settings_of(mode, "regression")

    @property
    def objective(self) -> RegressionObjective:
        """What regressions are fitted for."""
        objective: RegressionObjective = self.settings.get("objective", FitSettings.objective)
        return objective

    @property
    def has_references(self) -> bool:
        """Whether tree ensembles stand beside the modes; they are fitted for squared error."""
        return self.references and self.objective == "squared_error"

    def modes_of(self, task: Task) -> tuple[str, ...]:
        """The modes to compare: those asked for, or all that fit the task and the objective."""
        if self.modes or self.objective == "squared_error":
            return self.modes or modes_for(task)
        return tuple(mode for mode in modes_for(task) if mode != "tree_teacher_distillation")

    def metrics_of(self, task: Task) -> tuple[str, ...]:
        """The metrics of a task, the one that judges by default first."""
        if task == "classification" or self.objective == "squared_error":
            return _METRICS[task]
        return tuple(dict.fromkeys((MEASURES[self.objective], "d2", *_METRICS[task])))

    def training_of(self, mode: str, trees: TeacherKind | None = None) -> TrainRequest:
        """What fits a mode on all rows, with trees beside it, and saves it."""
        return TrainRequest(
            table=self.table,
            output=self.save,
            test_fraction=0.0,
            settings={**self.settings, "training_mode": mode},
            trees=trees,
            n_threads=self.n_threads,
            random_state=self.random_state,
            overwrite=self.overwrite,
        )

    def settings_of(self, mode: str, task: Task | None) -> FitSettings:
        """`FitSettings` of a mode; None: the task is not known yet."""
        return fit_settings(
            {**self.settings, "training_mode": mode},
            task=task or "classification",
            random_state=self.random_state,
            task_is_known=task is not None,
        )


def check_comparison(request: CompareRequest) -> str | None:
    """Refuse a place for the model; says what will be replaced."""
    if request.save is None:
        return None
    # The settings of each mode are checked once the task is known.
    return check_model(request.training_of(FitSettings.training_mode))
