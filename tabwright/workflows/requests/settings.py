"""Settings of a run as `FitSettings`, and the limits of its other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tabwright.fitting.eval_metric import check_metric_name, eval_metric_of
from tabwright.settings import FitSettings, Task

# Given beside the settings, not among them.
_GIVEN_APART = frozenset({"task", "random_state"})


def fit_settings(
    settings: Mapping[str, Any], *, task: Task, random_state: int, task_is_known: bool = True
) -> FitSettings:
    """`FitSettings` of what the command line was given.

    `task_is_known`: False before the table is read, where nobody named the task.
    Raises `ValueError` if a name is no setting, or a value is out of range.
    """
    known = {field.name for field in fields(FitSettings)} - _GIVEN_APART
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"a setting must be one of {', '.join(sorted(known))}; got {unknown[0]!r}")
    found = FitSettings(task=task, random_state=random_state, **settings)
    found.check_used()
    if task_is_known:
        eval_metric_of(found.eval_metric, task)
    elif found.eval_metric is not None:
        check_metric_name(found.eval_metric)
    return found


def check_threads(n_threads: int | None) -> None:
    """Refuse a number of threads that cannot be."""
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"the number of threads must be at least 1; got {n_threads}")


def check_test_fraction(share: float) -> None:
    """Refuse a share of rows that cannot be held out."""
    if not 0 <= share < 1:
        raise ValueError(f"the test fraction must be in [0, 1); got {share}; 0 holds no rows out")


def check_n_folds(n_folds: int) -> None:
    """Refuse a number of folds that is no comparison."""
    if not isinstance(n_folds, int) or n_folds < 2:
        raise ValueError(f"the number of folds must be at least 2; got {n_folds!r}")
