"""Training steps on a CPU, several batches at a time: threads wait for each other less often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from tabwright.training.batches import Batch, MemoryRows
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.objectives import Objective

__all__ = ["BlockSteps", "block_steps", "in_blocks"]


class BlockSteps:
    """Steps of stacked members over blocks of batches.

    Parameters
    ----------
    members : StackedMembers
        On a CPU, shared with no other worker.
    objective : Objective
        Over the rows that train.
    weight_decay : float

    Attributes
    ----------
    n_batches : int
        How many batches make a block.
    """

    n_batches = 8

    def __init__(self, members: StackedMembers, objective: Objective, weight_decay: float) -> None:
        self._members, self._objective, self._weight_decay = members, objective, weight_decay

    def take(self, block: Sequence[Batch], *, step: int, learning_rates: Sequence[float]) -> None:
        """A step for each batch.

        Parameters
        ----------
        block : sequence of Batch
            Of one size, with `rows`.
        step : int
            Number of the first.
        learning_rates : sequence of float
            One per batch.

        Raises
        ------
        ValueError
            If a batch does not say which rows of the objective it holds, or the batches do not
            suit the members.
        """
        rows = [batch.rows for batch in block if batch.rows is not None and batch.part is None]
        if len(rows) != len(block):
            raise ValueError("a block needs whole batches that say which rows they hold")
        sums = self._objective.begin(self._members.n_members, self._members.dtype)

        def gradient(place: int, members: slice, logits: Tensor) -> Tensor:
            return self._objective.part_gradient(logits, rows[place], members, sums)

        self._members.train_block(
            [batch.x for batch in block],
            gradient,
            step=step,
            learning_rates=learning_rates,
            weight_decay=self._weight_decay,
        )
        self._objective.count(sum(len(batch.x) for batch in block))


def block_steps(members: object, rows: object, weight_decay: float) -> BlockSteps | None:
    """Steps in blocks, or None where steps are taken one by one.

    Blocks are for stacked members that several threads share, on a CPU, whose rows lie in memory
    and are shared with no other worker.

    Parameters
    ----------
    members, rows : object
        Those of `trainer.train`.
    weight_decay : float
    """
    if not (isinstance(members, StackedMembers) and isinstance(rows, MemoryRows)):
        return None
    if members.device.type != "cpu" or members.is_shared or members.n_threads == 1:
        return None
    return BlockSteps(members, rows.objective, weight_decay)


def in_blocks(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Runs of at most `size` batches of equal numbers of rows, in their order.

    A full block goes out before another batch is asked for: rows from disk put a batch away when
    the next is wanted.
    """
    block: list[Batch] = []
    for batch in batches:
        if block and len(batch.x) != len(block[0].x):
            yield block
            block = []
        block.append(batch)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
