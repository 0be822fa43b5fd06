"""Steps of training over blocks of batches: many in one call where they are compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tabwright.training.batches import Batch, hide_key
from tabwright.training.engine.dropout import Part
from tabwright.training.engine.stacked_members import StackedMembers

# Between two calls come callbacks, checkpoints and Ctrl-C.
_SECONDS_OF_A_BLOCK = 0.1
_MOST_BATCHES = 256


class TrainedMembers(Protocol):
    """What steps need of a group of networks."""

    @property
    def n_members(self) -> int: ...

    @property
    def compiled(self) -> StackedMembers | None:
        """Those that are trained here, where they take compiled steps."""

    def forward_backward(
        self,
        x: Tensor,
        loss_grad: Callable[[Tensor], Tensor],
        *,
        step: int,
        part: Part | None = None,
    ) -> Tensor: ...

    def optimizer_step(self, learning_rate: float, weight_decay: float) -> None: ...


class Steps:
    """Steps of members over blocks of batches."""

    def __init__(self, members: TrainedMembers, weight_decay: float) -> None:
        self._members, self._weight_decay = members, weight_decay
        self._wanted = 1
        self._most: int | None = None

    @property
    def n_batches(self) -> int:
        """How many batches the next block should have: a block takes about a tenth of a second."""
        return self._wanted if self._most is None else min(self._wanted, self._most)

    def at_most(self, n_batches: int | None) -> None:
        """Let the next block have no more batches than these; None for any number."""
        self._most = n_batches

    def take(self, block: Sequence[Batch], *, step: int, learning_rates: Sequence[float]) -> None:
        """A step for each batch.

        `block`: as of `in_blocks`.
        """
        started = time.perf_counter()
        if not self._take_compiled(block, step, learning_rates):
            for i, (batch, rate) in enumerate(zip(block, learning_rates, strict=True)):
                self._members.forward_backward(
                    batch.x, batch.gradient, step=step + i, part=batch.part
                )
                self._members.optimizer_step(rate, self._weight_decay)
            return
        of_a_batch = (time.perf_counter() - started) / len(block)
        wanted = int(_SECONDS_OF_A_BLOCK / max(of_a_batch, 1e-9))
        # The first call has more to do than those after it; no block is far from the one before.
        self._wanted = max(1, min(wanted, 4 * self._wanted, _MOST_BATCHES))

    def _take_compiled(self, block: Sequence[Batch], step: int, rates: Sequence[float]) -> bool:
        """Whether one call could take them all."""
        members, first = self._members.compiled, block[0]
        inputs, objective, running = first.inputs, first.objective, first.running
        if members is None or block[0].part is not None:
            return False
        table = inputs.dense_table if members.needs_dense_rows else inputs.table
        if table is None:
            return False
        hide_keys = None
        if table.hides:
            hide_keys = torch.tensor([hide_key(b.hide_seed) for b in block], dtype=torch.int32)
        members.train_run(
            table,
            objective.goal,
            torch.stack([batch.rows for batch in block]),
            step=step,
            hide_keys=hide_keys,
            learning_rates=rates,
            weight_decay=self._weight_decay,
            loss_sums=running.begin(members.n_members, objective.targets.device),
        )
        running.count(sum(len(batch.rows) for batch in block))
        return True


class BlockSize(Protocol):
    """Says how many batches the next block should have."""

    @property
    def n_batches(self) -> int: ...


def in_blocks(batches: Iterator[Batch], size: BlockSize) -> Iterator[list[Batch]]:
    """Runs of at most `size.n_batches` batches of one set and size of rows, in their order.

    A full block goes out before another batch is asked for.
    """
    block: list[Batch] = []
    for batch in batches:
        if block and not _fits(block[0], batch):
            yield block
            block = []
        block.append(batch)
        if len(block) >= size.n_batches:
            yield block
            block = []
    if block:
        yield block


def _fits(first: Batch, other: Batch) -> bool:
    return first.objective is other.objective and len(first.rows) == len(other.rows)
