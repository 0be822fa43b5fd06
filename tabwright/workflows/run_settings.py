"""What every run of training shares: its number of threads, its epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tabwright.settings import FitSettings
from tabwright.training.callbacks import Callback
from tabwright.training.loop import Epoch
from tabwright.workflows.requests.settings import check_threads


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
