"""The training loop.

Here live the loop itself (`train`), its schedule and its record (`Trained`). `batches`
decides which rows it sees, `objectives.Objective` what is optimised, the members how a step is
computed (`members_of` chooses `StackedMembers` or `ReferenceMembers`), and `steps` how many steps
are taken at once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tabwright.errors import warn_caller
from tabwright.inference.blas_threads import one_blas_thread
from tabwright.inference.fitted_model import StopReason
from tabwright.settings import FitSettings, Precision
from tabwright.training.batches import HeldOut, TrainingRows
from tabwright.training.checkpoints import Checkpointer, RunState, Stateful
from tabwright.training.engine.autograd_members import ReferenceMembers
from tabwright.training.engine.compiled_kernels import has_compiled_kernels
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.engine.tensor_layout import ArchitectureError, TensorLayout
from tabwright.training.steps import Steps, TrainedMembers, in_blocks
from tabwright.training.time_limit import TimeLimit

# The rate rises first, while Adam's second moments are means of few gradients.
_WARMUP_SHARE = 0.02


class Members(TrainedMembers, Protocol):
    """What the loop needs of a group of networks."""

    def logits(self, x: Tensor) -> Tensor: ...

    def set_active(self, active: Sequence[bool]) -> None: ...

    def snapshot(self, member: int) -> None: ...

    def restore(self) -> None: ...

    def modules(self) -> list[nn.Module]: ...


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
        Mean over the members of each one's best validation loss so far; NaN where `eval_metric`
        chooses.
    learning_rate : float
        At the end of the epoch.
    seconds : float
        Since the start of training.
    fold, n_folds : int
        In a cross-validated fit: the fold that is held out, from 1, and how many there are; else 0.
    validation_score : float
        Mean over the members still training of `eval_metric`, where greater is better; NaN where
        there is none.
    best_score : float
        Mean over the members of each one's best score so far.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    best_loss: float
    learning_rate: float
    seconds: float
    validation_score: float = math.nan
    best_score: float = math.nan
    fold: int = 0
    n_folds: int = 0

    @property
    def part(self) -> str:
        """Which of several trainings it belongs to: 'fold 3 of 8, ', or nothing."""
        return f"fold {self.fold} of {self.n_folds}, " if self.n_folds else ""


@dataclass(frozen=True)
class Trained:
    """What a run of the loop left.

    `modules`: the members at their best epochs, in eval mode.
    """

    modules: list[nn.Module]
    best_epochs: tuple[int, ...]
    history: tuple[Epoch, ...]
    stopped: StopReason


def members_of(
    modules: Sequence[nn.Module],
    *,
    seeds: Sequence[int],
    n_threads: int = 1,
    precision: Precision = "float32",
) -> Members:
    """Networks ready to train: stacked by the fast engine, any other by plain autograd.

    The fast engine knows `MLP`, `TabResNet` and `LinearBaseline`, all of one architecture and as
    `models.py` makes them. Other modules go through `ReferenceMembers`: one after the
    other, by their own forward pass, without checkpoints.

    `modules`: at least one; each maps (batch, input_dim) to (batch, output_dim). They are copied.
    `precision`: as for `StackedMembers`.
    Raises `ValueError` if plain autograd is asked for another precision than float32, besides the
        errors of `StackedMembers`.
    """
    try:
        is_known = len({TensorLayout.of(module) for module in modules}) <= 1
    except ArchitectureError:
        is_known = False
    if is_known:
        if not has_compiled_kernels():
            _warn_without_compiled_kernels()
        return StackedMembers(modules, seeds=seeds, n_threads=n_threads, precision=precision)
    if precision != "float32":
        names = ", ".join(sorted({type(module).__name__ for module in modules}))
        raise ValueError(
            "modules must be of one architecture of models.py, unchanged, for precision "
            f"{precision!r}; got {names}; leave it at 'float32'"
        )
    return ReferenceMembers(modules, seeds=seeds)


@functools.cache
def _warn_without_compiled_kernels() -> None:
    warn_caller(
        "this installation has no compiled kernels, so training takes longer; install a C "
        "compiler and the package again to have them",
        RuntimeWarning,
    )


def learning_rate_at(progress: float, peak: float) -> float:
    """Warm-up over the first 2 % of the steps, then a cosine to zero.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
    equation 5, without restarts.

    `progress`: share of all steps done, in [0, 1).
    """
    return (
        peak
        * min(1.0, (progress + 1e-3) / _WARMUP_SHARE)
        * 0.5
        * (1 + math.cos(math.pi * progress))
    )


def train(
    members: Members,
    rows: TrainingRows,
    held_out: HeldOut | None,
    settings: FitSettings,
    *,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpointer: Checkpointer | None = None,
    stop_at: Sequence[int] | None = None,
    keep_interrupted: bool = True,
    limit: TimeLimit | None = None,
) -> Trained:
    """Train all members together, each to its own best epoch.

    `held_out`: the rows that choose the epoch. None: every member keeps its last epoch.
    `checkpointer`: goes on from its file where there is one, and keeps it up to date.
    `stop_at`: the epoch after which each member stops; without `held_out`.
    `keep_interrupted`: whether an interrupt after the first epoch ends training with the best epoch
        so far, rather than going on to the caller.
    `limit`: the schedule is shortened to the epochs that fit, as those before tell, and training
        ends with the best epoch so far where it still lasts longer.
    Raises `FloatingPointError` if the loss is not finite before any epoch was good.
    Raises `TimeLimitError` if not even one epoch fits.
    Raises `ValueError` if the checkpoint is of another run.
    """
    if settings.max_epochs is None:
        raise ValueError("settings must be resolved before training; call settings.resolved(...)")
    n_epochs = settings.max_epochs
    run = RunState()
    owners: dict[str, Stateful] = {"rows": rows}
    if checkpointer is not None:
        if not isinstance(members, Stateful):
            raise ValueError(
                f"a checkpoint needs members that can be resumed; got {type(members).__name__}; "
                "use StackedMembers, or train without a checkpoint"
            )
        owners["members"] = members
        if held_out is not None:
            owners["held_out"] = held_out
        run = checkpointer.read(owners) or run
    common = None if held_out is None else settings.common_patience
    keeper = _BestEpochs(members, settings.patience, common, stop_at, run)
    started = time.perf_counter() - run.seconds

    steps = Steps(members, settings.weight_decay)

    def rate_at(step: int) -> float:
        return learning_rate_at(step / (rows.n_batches * n_epochs), settings.learning_rate)

    n_timed = 0
    resumed = time.perf_counter()
    with _one_thread_an_operation(), _watched(checkpointer):
        try:
            while run.epoch <= n_epochs and not keeper.all_done:
                begun, skipped = time.perf_counter(), run.batches
                for block in in_blocks(rows.epoch(run.epoch, skip=run.batches), steps):
                    first = (run.epoch - 1) * rows.n_batches + run.batches
                    rates = [rate_at(first + i) for i in range(len(block))]
                    steps.take(block, step=first, learning_rates=rates)
                    run.batches += len(block)
                    if checkpointer is not None:
                        if checkpointer.is_due(len(block)):
                            run.seconds = time.perf_counter() - started
                            checkpointer.write(run, owners)
                            checkpointer.stop_if_signalled()
                        steps.at_most(checkpointer.n_batches_left)
                    if limit is not None and not run.history:
                        timed, done = time.perf_counter() - begun, run.batches - skipped
                        limit.check_first_epoch(timed, done, rows.n_batches - skipped)
                    elif limit is not None and limit.is_over:
                        return _finished(members, keeper, "time limit")
                losses = rows.take_running_loss().double().cpu()
                validation = None if held_out is None else held_out.losses(members.logits)
                run.seconds = time.perf_counter() - started
                rate = rate_at(run.epoch * rows.n_batches - 1)
                if not keeper.record(losses, validation, rate):
                    return _finished(members, keeper, "non-finite")
                if limit is not None:
                    n_timed += rows.n_batches - skipped
                # A run may have been resumed behind the last batch of an epoch.
                if limit is not None and n_timed:
                    # Anew after each epoch: others may use the machine too.
                    per_batch = (time.perf_counter() - resumed) / n_timed
                    left = limit.n_epochs(per_batch * rows.n_batches)
                    n_epochs = min(settings.max_epochs, run.epoch - 1 + left)
                if on_epoch is not None:
                    on_epoch(_epoch(run.history[-1]))
        except KeyboardInterrupt:
            if not (run.history and keep_interrupted):
                raise
            return _finished(members, keeper, "interrupted")
    if checkpointer is not None:
        # What follows may be killed too, and a run that is done is not done again.
        checkpointer.write(run, owners)
    if run.epoch > n_epochs and n_epochs < settings.max_epochs:
        return _finished(members, keeper, "time limit")
    is_done = run.epoch > n_epochs
    return _finished(members, keeper, "schedule" if is_done else "patience")


def _finished(members: Members, keeper: _BestEpochs, stopped: StopReason) -> Trained:
    """The members of the best epochs, with a warning where training ended early by a fault."""
    run = keeper.run
    advice = "try a lower learning_rate (a tenth), or look for extreme values in the target"
    if stopped == "non-finite" and not run.history:
        raise FloatingPointError(f"the training loss is not finite in the first epoch; {advice}")
    if stopped == "non-finite":
        warn_caller(
            f"the loss became non-finite in epoch {run.epoch}; the best epoch before it is "
            f"kept; {advice}",
            RuntimeWarning,
        )
    if stopped == "interrupted":
        warn_caller(
            f"training was interrupted in epoch {run.epoch}; the best epoch so far is kept",
            RuntimeWarning,
        )
    members.restore()
    history = tuple(_epoch(numbers) for numbers in run.history)
    return Trained(members.modules(), tuple(run.best_epochs), history, stopped)


def _epoch(numbers: Mapping[str, float]) -> Epoch:
    rest: dict[str, Any] = {name: value for name, value in numbers.items() if name != "epoch"}
    return Epoch(int(numbers["epoch"]), **rest)


class _BestEpochs:
    """Which epoch each member keeps, and which members still train."""

    def __init__(
        self,
        members: Members,
        patience: int | None,
        common_patience: int | None,
        stop_at: Sequence[int] | None,
        run: RunState,
    ) -> None:
        self._members, self._stop_at = members, stop_at
        self._patience, self._common_patience = patience, common_patience
        self.run = run
        if not run.best:
            run.best = [math.inf] * members.n_members
            run.best_epochs = [0] * members.n_members

    def record(self, train: Tensor, validation: Tensor | None, rate: float) -> bool:
        """Keep what improved and go to the next epoch; False if a running loss is not finite."""
        run = self.run
        scores = None
        if validation is not None and validation.ndim == 2:
            validation, scores = validation.unbind(1)
        losses = train if validation is None else validation
        # An epoch without a score is as bad as can be; the first is kept for want of another.
        wanted = losses if scores is None else (-scores).nan_to_num(math.inf)
        running = [k for k in range(self._members.n_members) if not self._is_done(k)]
        if not all(math.isfinite(losses[k]) and math.isfinite(train[k]) for k in running):
            return False
        for k in running:
            if validation is None or wanted[k] < run.best[k] or not run.best_epochs[k]:
                run.best[k] = float(wanted[k])
                run.best_epochs[k] = run.epoch
                self._members.snapshot(k)
        run.history.append(
            {
                "epoch": run.epoch,
                "train_loss": float(train[running].mean()),
                "validation_loss": math.nan
                if validation is None
                else float(losses[running].mean()),
                "best_loss": sum(run.best) / len(run.best) if scores is None else math.nan,
                "learning_rate": rate,
                "seconds": run.seconds,
            }
            | (
                {}
                if scores is None
                else {
                    "validation_score": float(scores[running].nanmean()),
                    "best_score": float(-torch.tensor(run.best).mean()),
                }
            )
        )
        run.epoch, run.batches = run.epoch + 1, 0
        self._members.set_active([not self._is_done(k) for k in range(self._members.n_members)])
        return True

    def _is_done(self, member: int) -> bool:
        """Whether a member has no business in the epoch under way."""
        if self._stop_at is not None:
            return self.run.epoch > self._stop_at[member]
        waited = self.run.epoch - 1 - self.run.best_epochs[member]
        return self._patience is not None and waited >= self._patience

    @property
    def all_done(self) -> bool:
        waited = self.run.epoch - 1 - max(self.run.best_epochs)
        if self._common_patience is not None and waited >= self._common_patience:
            return True
        return all(self._is_done(k) for k in range(self._members.n_members))


_runs_lock = threading.Lock()
_runs = 0
_threads_before_runs = 1


@contextlib.contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    """Use one thread inside an operation, torch's or a BLAS's, and leave the number as it was.

    Threads inside an operation gain nothing at these sizes; members share the cores instead. torch
    keeps one number per thread, and one of the process that fresh threads begin with: a thread
    that begins during another's run finds that run's 1 there, not the user's number.
    """
    global _runs, _threads_before_runs
    with _runs_lock:
        before = torch.get_num_threads()
        if _runs == 0:
            _threads_before_runs = before
        elif before == 1:
            before = _threads_before_runs
        _runs += 1
        torch.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        with _runs_lock:
            _runs -= 1
            torch.set_num_threads(before)


@contextlib.contextmanager
def _watched(checkpointer: Checkpointer | None) -> Iterator[None]:
    if checkpointer is None:
        yield
        return
    with checkpointer.on_sigterm():
        yield
