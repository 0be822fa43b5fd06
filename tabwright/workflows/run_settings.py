"""What every run of training shares: its `FitSettings` and its number of threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from tabwright.fitting.eval_metric import eval_metric_of
from tabwright.settings import FitSettings, Task

__all__ = ["fit_settings", "using_threads"]

# Given beside the settings, not among them.
_GIVEN_APART = frozenset({"task", "random_state"})


def fit_settings(settings: Mapping[str, Any], *, task: Task, random_state: int) -> FitSettings:
    """`FitSettings` of what the command line was given.

    Raises `ValueError` if a name is no setting, or a value is out of range.
    """
    known = {field.name for field in fields(FitSettings)} - _GIVEN_APART
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(f"a setting must be one of {', '.join(sorted(known))}; got {unknown[0]!r}")
    found = FitSettings(task=task, random_state=random_state, **settings)
    eval_metric_of(found.eval_metric, task)
    return found


@contextmanager
def using_threads(n_threads: int | None) -> Iterator[None]:
    """Train with so many threads, and leave PyTorch's number as it was."""
    if n_threads is None:
        yield
        return
    if n_threads < 1:
        raise ValueError(f"the number of threads must be at least 1; got {n_threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
