"""What every run of training shares: its `FitSettings`, its number of threads, its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch

from tabwright.fitting.eval_metric import eval_metric_of
from tabwright.settings import FitSettings, Task
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch

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


def check_threads(n_threads: int | None) -> None:
    """Refuse a number of threads that cannot be."""
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"the number of threads must be at least 1; got {n_threads}")


@contextmanager
def using_threads(n_threads: int | None) -> Iterator[None]:
    """Train with so many threads, and leave PyTorch's number as it was."""
    check_threads(n_threads)
    if n_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class EpochCounter(Callback):
    """Passes each epoch on with how many there can be."""

    def __init__(self, on_epoch: Callable[[Epoch, int], None]) -> None:
        self._on_epoch = on_epoch
        self._n_epochs = 0

    def on_start(self, settings: FitSettings, n_training_rows: int, n_validation_rows: int) -> None:
        self._n_epochs = settings.max_epochs or 0

    def on_epoch(self, epoch: Epoch) -> None:
        self._on_epoch(epoch, self._n_epochs)
