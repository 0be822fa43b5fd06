"""One worker writes the state of a run, and all workers go on from it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from tabwright.distributed.workers import Workers
from tabwright.training.checkpoints import Checkpoint, Checkpointer, RunState, Stateful

# How long a wish to write the state may wait until all have heard of it.
_SECONDS_UNTIL_VOTE = 0.5


class SharedCheckpointer(Checkpointer):
    """A checkpointer of several workers: worker 0 has the file, all go on from it.

    `checkpoint`: its path counts on the machine of worker 0.
    `identity`: as for `Checkpointer`; the same for any number of workers, so that it may change.
    """

    def __init__(
        self, checkpoint: Checkpoint, identity: Mapping[str, str], workers: Workers
    ) -> None:
        super().__init__(checkpoint, identity)
        self._workers = workers
        # Batches from one vote to the next, the same at every worker, and how many are left.
        self._n_batches, self._left = 1, 1
        self._asked = time.monotonic()

    @property
    def n_batches_left(self) -> int:
        """How many batches every worker takes until all vote."""
        return self._left

    def is_due(self, n_batches: int) -> bool:
        """Whether the state should be written now: where one says so, all must.

        The workers vote about twice a second, since a vote costs as much as a small step, and
        after equally many batches: each worker may take another number of them in one call.
        """
        self._left -= n_batches
        if self._left > 0:
            return False
        votes = torch.tensor([float(super().is_due(n_batches)), 0.0])
        if self._workers.is_first:
            votes[1] = self._n_batches_until_vote()
        self._workers.all_reduce(votes)
        self._n_batches = self._left = int(votes[1])
        self._asked = time.monotonic()
        return bool(votes[0] > 0)

    def _n_batches_until_vote(self) -> int:
        seconds = max(time.monotonic() - self._asked, 1e-6)
        wanted = int(self._n_batches * min(_SECONDS_UNTIL_VOTE, self._interval) / seconds)
        return max(1, min(2 * self._n_batches, wanted))

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
