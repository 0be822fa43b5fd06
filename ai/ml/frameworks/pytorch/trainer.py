"""The training loop.

Here live the inputs as the loop sees them (`Inputs`), the loop itself (`train`), its schedule and
its record (`Trained`). What is optimised is an `objectives.Objective`; how a step is computed is
the members' affair (`members.StackedMembers`, or `reference.ReferenceMembers`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.features import Compact, TableEncoder
from ai.ml.frameworks.pytorch.objectives import Objective
from ai.ml.frameworks.pytorch.settings import FitSettings

__all__ = ["Epoch", "Inputs", "Members", "Trained", "batch_bounds", "learning_rate_at", "train"]

_MIN_BATCH = 8
_WARMUP_SHARE = 0.02
# Encoded rows are kept expanded while they take at most this much memory; past it, and wherever
# levels are hidden at random, batches are expanded one by one from the compact form.
_EXPANDED_BYTES = 256 * 2**20
_EVALUATION_ROWS = 8_192


class Members(Protocol):
    """What the loop needs of a group of networks."""

    @property
    def n_members(self) -> int: ...

    def forward_backward(
        self, x: Tensor, loss_grad: Callable[[Tensor], Tensor], *, step: int
    ) -> Tensor: ...

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None: ...

    def logits(self, x: Tensor) -> Tensor: ...

    def set_active(self, active: Sequence[bool]) -> None: ...

    def snapshot(self, member: int) -> None: ...

    def restore(self) -> None: ...

    def modules(self) -> list[nn.Module]: ...


class Batches(Protocol):
    """What the loop needs of the rows."""

    @property
    def n_rows(self) -> int: ...

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor: ...

    def chunks(self) -> Iterator[Tensor]: ...


class Inputs:
    """Encoded rows on the training device.

    Parameters
    ----------
    encoder : TableEncoder
        Fitted; gives the expansion of the compact form.
    compact : Compact
        The rows.
    device : torch.device
    hide_rate : float, default=0.0
        Share of known category levels shown as "unknown" in each batch.
    """

    def __init__(
        self, encoder: TableEncoder, compact: Compact, device: torch.device, hide_rate: float = 0.0
    ) -> None:
        self._n_rows = len(compact)
        self._expand = encoder.torch_expander(device)
        self._numeric = torch.from_numpy(compact.numeric).to(device)
        self._codes = torch.from_numpy(compact.codes).to(device)
        hidable = torch.from_numpy(encoder.hidable_).to(device)
        self._hidable = hidable if hide_rate > 0 and bool(hidable.any()) else None
        self._hide_rate = hide_rate
        self._expanded: Tensor | None = None
        if self._hidable is None and self.n_rows * encoder.input_dim * 4 <= _EXPANDED_BYTES:
            self._expanded = self._expand(self._numeric, self._codes)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return self._n_rows

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Network inputs of the given rows, float32 of shape (len(rows), input_dim)."""
        if self._expanded is not None:
            return self._expanded.index_select(0, rows)
        codes = self._codes.index_select(0, rows)
        if self._hidable is not None:
            chance = torch.rand(codes.shape, generator=generator, device=codes.device)
            hidden = (
                (chance < self._hide_rate) & self._hidable & (codes > TableEncoder.unknown_code)
            )
            codes = codes.masked_fill(hidden, TableEncoder.unknown_code)
        return self._expand(self._numeric.index_select(0, rows), codes)

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, nothing hidden, in chunks of bounded size."""
        for start in range(0, self.n_rows, _EVALUATION_ROWS):
            chunk = slice(start, start + _EVALUATION_ROWS)
            if self._expanded is not None:
                yield self._expanded[chunk]
            else:
                yield self._expand(self._numeric[chunk], self._codes[chunk])


@dataclass(frozen=True)
class Epoch:
    """One line of the record.

    Parameters
    ----------
    epoch : int
        From 1.
    train_loss, validation_loss : float
        Mean over the members still training; in the objective's units (nats, or squared error on
        the standardised target). NaN where there are no validation rows.
    best_loss : float
        Mean over the members of each one's best validation loss so far.
    learning_rate : float
        At the end of the epoch.
    seconds : float
        Since the start of training.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    best_loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """What a run of the loop left.

    Parameters
    ----------
    modules : list of nn.Module
        The members at their best epochs, in eval mode.
    best_epochs : tuple of int
        The epoch kept of each member.
    history : tuple of Epoch
    stopped : {"schedule", "patience", "interrupted", "non-finite"}
        Why training ended.
    """

    modules: list[nn.Module]
    best_epochs: tuple[int, ...]
    history: tuple[Epoch, ...]
    stopped: str


def batch_bounds(n_rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of each batch; no batch has fewer than 8 rows while the table has more.

    A last batch below that joins the one before it: batch norm has no variance to learn from in a
    batch of one row, and a poor one in a few.
    """
    starts = list(range(0, n_rows, max(batch_size, _MIN_BATCH)))
    if len(starts) > 1 and n_rows - starts[-1] < _MIN_BATCH:
        starts.pop()
    return list(zip(starts, [*starts[1:], n_rows], strict=True))


def learning_rate_at(progress: float, peak: float) -> float:
    """Warm-up over the first 2 % of the steps, then a cosine to zero.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
    equation 5, without restarts.

    Parameters
    ----------
    progress : float
        Share of all steps done, in [0, 1).
    peak : float
    """
    return (
        peak
        * min(1.0, (progress + 1e-3) / _WARMUP_SHARE)
        * 0.5
        * (1 + math.cos(math.pi * progress))
    )


def train(
    members: Members,
    inputs: Batches,
    objective: Objective,
    validation: tuple[Batches, Callable[[Tensor], Tensor]] | None,
    settings: FitSettings,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train all members together, each to its own best epoch.

    Parameters
    ----------
    members : Members
    inputs : Batches
        The training rows.
    objective : Objective
        Over the training rows.
    validation : tuple of (Batches, callable) or None
        The rows that choose the epoch, and what maps their logits, of shape (n_members, n_rows,
        output_dim), to one loss per member. None: every member keeps its last epoch.
    settings : FitSettings
        Resolved.
    on_epoch : callable, optional
        Called with each finished `Epoch`.

    Returns
    -------
    Trained

    Raises
    ------
    FloatingPointError
        If the loss is not finite before any epoch was good.
    """
    if settings.max_epochs is None or settings.batch_size is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    device = objective.targets.device
    generator = torch.Generator().manual_seed(settings.random_state)
    batch_generator = torch.Generator(device).manual_seed(settings.random_state + 1)
    bounds = batch_bounds(inputs.n_rows, settings.batch_size)
    n_steps = len(bounds) * settings.max_epochs
    keeper = _BestEpochs(members, settings.patience)
    history: list[Epoch] = []
    started = time.perf_counter()
    stopped = "schedule"
    step = 0
    with _intra_op_threads(1 if device.type == "cpu" else None):
        try:
            for epoch in range(1, settings.max_epochs + 1):
                order = torch.randperm(inputs.n_rows, generator=generator).to(device)
                for start, end in bounds:
                    rows = order[start:end]
                    x = inputs.batch(rows, batch_generator)
                    rate = learning_rate_at(step / n_steps, settings.learning_rate)
                    members.forward_backward(
                        x, functools.partial(objective.gradient, rows=rows), step=step
                    )
                    members.optimizer_step(rate, settings.weight_decay)
                    step += 1
                train_losses = objective.take_running_loss().double().cpu()
                losses = train_losses
                if validation is not None:
                    rows_seen, score = validation
                    losses = score(
                        torch.cat([members.logits(x) for x in rows_seen.chunks()], dim=1)
                    ).cpu()
                if not keeper.record(epoch, train_losses, losses, choose=validation is not None):
                    stopped = "non-finite"
                    break
                history.append(
                    Epoch(
                        epoch=epoch,
                        train_loss=float(train_losses.mean()),
                        validation_loss=float(losses.mean()) if validation else math.nan,
                        best_loss=float(keeper.best.mean()),
                        learning_rate=rate,
                        seconds=time.perf_counter() - started,
                    )
                )
                if on_epoch is not None:
                    on_epoch(history[-1])
                if keeper.all_done(epoch):
                    stopped = "patience"
                    break
        except KeyboardInterrupt:
            if not history:
                raise
            stopped = "interrupted"
    if stopped == "non-finite":
        advice = "try a lower learning_rate (a tenth), or look for extreme values in the target"
        if not history:
            raise FloatingPointError(
                f"the training loss is not finite in the first epoch; {advice}"
            )
        warnings.warn(
            f"the loss became non-finite in epoch {len(history) + 1}; the best epoch before it is "
            f"kept; {advice}",
            RuntimeWarning,
            stacklevel=2,
        )
    if stopped == "interrupted":
        warnings.warn(
            f"training was interrupted in epoch {len(history) + 1}; the best epoch so far is kept",
            RuntimeWarning,
            stacklevel=2,
        )
    members.restore()
    return Trained(members.modules(), tuple(keeper.best_epochs), tuple(history), stopped)


@dataclass
class _BestEpochs:
    """Which epoch each member keeps, and which members still train."""

    members: Members
    patience: int | None
    best: Tensor = field(init=False)
    best_epochs: list[int] = field(init=False)

    def __post_init__(self) -> None:
        n_members = self.members.n_members
        self.best = torch.full((n_members,), math.inf, dtype=torch.float64)
        self.best_epochs = [0] * n_members

    def record(self, epoch: int, train: Tensor, losses: Tensor, *, choose: bool) -> bool:
        """Keep what improved; False if a member that still trains has a non-finite loss."""
        running = [not self._done(member, epoch - 1) for member in range(self.members.n_members)]
        if not all(
            math.isfinite(losses[k]) and math.isfinite(train[k])
            for k, runs in enumerate(running)
            if runs
        ):
            return False
        for k, runs in enumerate(running):
            if runs and (not choose or losses[k] < self.best[k]):
                self.best[k] = losses[k]
                self.best_epochs[k] = epoch
                self.members.snapshot(k)
        self.members.set_active([not self._done(k, epoch) for k in range(len(running))])
        return True

    def _done(self, member: int, epoch: int) -> bool:
        return self.patience is not None and epoch - self.best_epochs[member] >= self.patience

    def all_done(self, epoch: int) -> bool:
        return all(self._done(member, epoch) for member in range(self.members.n_members))


@contextlib.contextmanager
def _intra_op_threads(n_threads: int | None) -> Iterator[None]:
    """Use so many threads inside an operation, and leave the caller's number as it was."""
    if n_threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
