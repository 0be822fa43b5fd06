"""Several workers on one task: what they sum, gather and agree on.

`Workers` is the door to `torch.distributed`; processes are started, watched and restarted by
torchrun or Ray, never from here. `SharedCheckpointer` lets one worker write what all go on from.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ai.ml.frameworks.pytorch.checkpoints import Checkpoint, Checkpointer, RunState, Stateful

__all__ = ["ALONE", "TIMEOUT_VARIABLE", "SharedCheckpointer", "Workers", "joined_workers"]

# Seconds that a worker waits for the others before it gives up; torchrun then starts all anew.
TIMEOUT_VARIABLE = "TABWRIGHT_TIMEOUT"
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Workers:
    """The processes that train one model together, as one of them sees them.

    Parameters
    ----------
    rank : int
        Which worker this is, from 0; worker 0 writes.
    size : int
        How many there are.
    local_rank, local_size : int
        The same among the workers of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this worker writes files and talks to the user."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> tuple[int, int]:
        """This worker's part of a range: neighbours, all of it dealt out, sizes even to one."""
        n = stop - start
        return start + n * self.rank // self.size, start + n * (self.rank + 1) // self.size

    def all_reduce(self, values: Tensor) -> None:
        """Sum a tensor over the workers, in place; all get the same bits."""
        if self.size == 1:
            return
        whole = values.contiguous()
        with _told_of_losses():
            dist.all_reduce(whole)
        if whole is not values:
            values.copy_(whole)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up at any worker."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)])
        self.all_reduce(votes)
        return bool(votes[0] > 0)

    def gather(self, data: bytes) -> list[bytes]:
        """What every worker gave, by rank."""
        if self.size == 1:
            return [data]
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(data)
        self.all_reduce(lengths)
        longest = int(lengths.max())
        mine = torch.zeros(longest, dtype=torch.uint8)
        if data:
            mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        every = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        with _told_of_losses():
            dist.all_gather(every, mine)
        return [
            part[:length].numpy().tobytes()
            for part, length in zip(every, lengths.tolist(), strict=True)
        ]

    def from_first(self, data: bytes | None) -> bytes | None:
        """What worker 0 has, be it nothing."""
        if self.size == 1:
            return data
        length = torch.tensor([-1 if data is None else len(data)])
        with _told_of_losses():
            dist.broadcast(length, 0)
        if int(length) < 0:
            return None
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if data and self.is_first:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        with _told_of_losses():
            dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()

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

    Yields
    ------
    Workers

    Raises
    ------
    ValueError
        If the timeout is not a number of seconds above 0.
    ConnectionError
        If the workers do not find each other.
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
    with _told_of_losses():
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
def _told_of_losses() -> Iterator[None]:
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


class SharedCheckpointer(Checkpointer):
    """A checkpointer of several workers: worker 0 has the file, all go on from it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its path counts on the machine of worker 0.
    identity : mapping of str to text
        As for `Checkpointer`; the same for any number of workers, so that it may change.
    workers : Workers
    """

    def __init__(
        self, checkpoint: Checkpoint, identity: Mapping[str, str], workers: Workers
    ) -> None:
        super().__init__(checkpoint, identity)
        self._workers = workers

    @property
    def is_due(self) -> bool:
        """Whether the state should be written now: where one says so, all must."""
        return self._workers.any(super().is_due)

    def write(self, run: RunState, owners: Mapping[str, Stateful]) -> None:
        """Write the state; every worker must call this at the same step."""
        if self._workers.is_first:
            super().write(run, owners)
            return
        for owner in owners.values():
            # Some states are sums over the workers.
            owner.state()
        self._last = time.monotonic()

    def read(self, owners: Mapping[str, Stateful]) -> RunState | None:
        """The state to go on from, of worker 0's file, at every worker."""
        if self._workers.size == 1:
            return super().read(owners)
        path = Path(self._path)
        data = path.read_bytes() if self._workers.is_first and path.exists() else None
        data = self._workers.from_first(data)
        if data is None:
            return None
        with tempfile.TemporaryDirectory(prefix="tabwright-") as folder:
            copy = Path(folder) / path.name
            copy.write_bytes(data)
            here, self._path = self._path, str(copy)
            try:
                return super().read(owners)
            finally:
                self._path = here
