"""Several workers on one task: what they sum, gather and agree on.

`Workers` wraps `torch.distributed`; processes are started, watched and restarted by torchrun or
Ray, never from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions have the group of all processes as a default argument, as it is when the module is
# imported. Optimizers import it: after the group was made, they would keep it, and the threads of
# gloo, until the interpreter ends, where such a thread that still lets go of a tensor aborts the
# process.
import torch.distributed.nn.functional
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

_T = TypeVar("_T")

# Seconds that a worker waits for the others before it gives up; torchrun then starts all anew.
TIMEOUT_VARIABLE = "TABWRIGHT_TIMEOUT"
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Workers:
    """The processes that train one model together, as one of them sees them.

    `rank`: which worker this is, from 0; worker 0 writes.
    `size`: how many there are.
    `local_rank`, `local_size`: the same among the workers of this machine.
    `group`: theirs; by default that of all processes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def n_threads(self) -> int:
        """Threads that this worker may use: its share of the cores, and torch's number at most."""
        return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // self.local_size))

    @property
    def is_first(self) -> bool:
        """Whether this worker writes files and talks to the user."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This worker's part of a range: contiguous, sizes even to one."""
        n = stop - start
        return start + n * self.rank // self.size, start + n * (self.rank + 1) // self.size

    def team(self, n_teams: int) -> Workers:
        """This worker's team, where neighbours form teams of one size; all must ask.

        `n_teams`: divides the number of workers.
        """
        if n_teams == 1:
            return self
        size = self.size // n_teams
        number, rank = divmod(self.rank, size)
        if size == 1:
            return ALONE
        timeout = timedelta(seconds=_timeout())
        with _naming_lost_workers():
            # Every process must take part in the making of every group.
            groups = [
                dist.new_group(list(range(start, start + size)), timeout=timeout)
                for start in range(0, self.size, size)
            ]
        return Workers(rank, size, group=groups[number])

    def all_reduce(self, values: Tensor) -> None:
        """Sum a tensor over the workers, in place; all get the same bits."""
        if self.size == 1:
            return
        whole = values.contiguous()
        with _naming_lost_workers():
            dist.all_reduce(whole, group=self.group)
        if whole is not values:
            values.copy_(whole)

    def gather(self, value: _T) -> list[_T]:
        """What every worker gave, by rank."""
        if self.size == 1:
            return [value]
        every: list[Any] = [None] * self.size
        with _naming_lost_workers():
            dist.all_gather_object(every, value, group=self.group)
        return every

    def from_first(self, value: _T) -> _T:
        """What worker 0 has."""
        if self.size == 1:
            return value
        found: list[Any] = [value if self.is_first else None]
        with _naming_lost_workers():
            dist.broadcast_object_list(found, group=self.group, group_src=0)
        shared: _T = found[0]
        return shared

    def wait(self) -> None:
        """Until all are here."""
        self.all_reduce(torch.zeros(1))


ALONE = Workers()


@contextmanager
def joined_workers() -> Iterator[Workers]:
    """The workers that torchrun started, or this process alone.

    gloo carries what lies on a CPU, NCCL what lies on a CUDA device; each worker takes the device
    of its local rank. No worker waits longer for the others than the seconds in the environment
    variable TABWRIGHT_TIMEOUT (600 by default): it raises ConnectionError then, and torchrun ends
    the rest.

    Raises `ValueError` if the timeout is not a number of seconds above 0; `ConnectionError` if the
        workers do not find each other.
    """
    if dist.is_available() and dist.is_initialized():
        # Ray has made the group already, and takes it down.
        yield _from_environment(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    timeout = timedelta(seconds=_timeout())
    with _naming_lost_workers():
        store, rank, size = _meeting_place(timeout)
        dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
    try:
        yield _from_environment(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _meeting_place(timeout: timedelta) -> tuple[PrefixStore, int, int]:
    """Where workers leave their addresses, this one's rank, and how many there are.

    torchrun keeps one store for all its attempts: without a prefix of the attempt's own, an
    address that a dead worker left would be taken for its successor's, and waited for.
    """
    store, rank, size = next(iter(rendezvous("env://", timeout=timeout)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"attempt {attempt}", store), rank, size


@contextmanager
def _naming_lost_workers() -> Iterator[None]:
    """What torch says of a peer that died is a plain RuntimeError, and no fault of ours."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConnectionError(
            f"another worker ended, or was waited for longer than {TIMEOUT_VARIABLE} allows "
            f"({reason}); with --max-restarts torchrun starts all anew, and they go on from the "
            "state of the run"
        ) from error


def _timeout() -> float:
    """Seconds that a worker waits for another."""
    text = os.environ.get(TIMEOUT_VARIABLE, str(_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT_VARIABLE} must be seconds above 0; got {text!r}")
    return seconds


def _from_environment(rank: int, size: int) -> Workers:
    local_rank = int(os.environ.get("LOCAL_RANK", str(rank)))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    return Workers(rank, size, local_rank, local_size)
