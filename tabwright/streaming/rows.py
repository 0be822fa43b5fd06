"""Rows from disk as the training loop sees them: `StreamedRows` and `StreamedHeldOut`.

The counterparts of `batches.MemoryRows` and `batches.HeldOutRows` for tables larger than memory,
and for several workers that share every batch. Rows come from `spool.Blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.inference.target_scale import TargetScale
from tabwright.streaming.spool import RowBlocks
from tabwright.training.batches import Batch, Inputs, batch_bounds, stream_seed
from tabwright.training.engine.dropout import Part
from tabwright.training.objectives import Objective, row_weights
from tabwright.training.regression_losses import RegressionLoss
from tabwright.training.running_loss import RunningLoss

# Rows of validation in memory at once, as a rule.
_EVALUATION_ROWS: Final = 8192
_BLOCK_ORDER, _HIDDEN, _ROW_ORDER = 0, 1, 2


@dataclass(frozen=True)
class Goal:
    """What records are trained on: their objective, whatever piece of the table they are.

    `scale`: of a regression target.
    `class_weights`: (n_classes,), float64.
    `mean_weight`: mean of the training rows' weights, class weights included.
    `regression`: the loss of a regression; None: squared error.
    """

    encoder: TableEncoder
    scale: TargetScale | None
    class_weights: NDArray[np.float64] | None
    mean_weight: float
    device: torch.device
    regression: RegressionLoss | None = None

    def inputs(self, records: NDArray[Any], hide_rate: float = 0.0) -> Inputs:
        """Network inputs of records."""
        compact = Compact(
            np.ascontiguousarray(records["numeric"]), np.ascontiguousarray(records["codes"])
        )
        return Inputs(self.encoder, compact, self.device, hide_rate)

    def weights(self, records: NDArray[Any]) -> NDArray[np.float64] | None:
        """Sample weights times class weights; None where every row counts the same."""
        weight = records["weight"] if "weight" in (records.dtype.names or ()) else None
        codes = None if self.scale is not None else records["target"].astype(np.int64)
        return row_weights(codes, weight, self.class_weights, len(records))

    def objective(self, records: NDArray[Any]) -> Objective:
        """The objective over records."""
        if self.scale is None:
            target = torch.from_numpy(records["target"].astype(np.int64))
        else:
            target = torch.from_numpy(self.scale.standardise(records["target"]))
        weights = self.weights(records)
        return Objective(
            targets=target.to(self.device),
            weights=None
            if weights is None
            else torch.from_numpy(weights.astype(np.float32)).to(self.device),
            mean_weight=self.mean_weight,
            regression=self.regression,
        )


class StreamedRows:
    """Training rows from disk, in a random order that depends on the seed and the epoch.

    An epoch distributes all blocks at random over buffers, and shuffles the rows of a buffer: from
    disk, up to 65,536 rows are in memory, and rows of one batch come from all over the table. A
    table of fewer rows is shuffled as a whole. The batches do not depend on the number of
    workers; those who train the same members share every batch.

    `batch_size`: rows of a whole batch.
    `hide_rate`: share of known category levels shown as "unknown".
    """

    def __init__(
        self,
        blocks: RowBlocks,
        goal: Goal,
        batch_size: int,
        seed: int,
        assignment: MemberAssignment,
        hide_rate: float = 0.0,
    ) -> None:
        self._blocks, self._goal, self._seed = blocks, goal, seed
        self._hide_rate, self._assignment, self._workers = hide_rate, assignment, assignment.team
        self._bounds = batch_bounds(blocks.total, batch_size)
        self._running = RunningLoss()

    @property
    def n_batches(self) -> int:
        return len(self._bounds)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        first = (number - 1) * self.n_batches
        at = skip
        for records, stop in self._pieces(number, skip):
            # What is left of a piece goes to the front of the next: it ends with whole batches.
            inputs = self._goal.inputs(records, self._hide_rate)
            objective = self._goal.objective(records)
            done = 0
            while at < stop:
                start, end = self._bounds[at]
                own_start, own_end = self._workers.share(start, end)
                n_own = own_end - own_start
                rows = torch.arange(done, done + n_own, device=self._goal.device)
                part = None
                if self._workers.size > 1:
                    part = Part(own_start - start, end - start)
                seed = stream_seed(self._seed, _HIDDEN, first + at)
                yield Batch(inputs, objective, rows, self._running, hide_seed=seed, part=part)
                done += n_own
                at += 1

    def _pieces(self, epoch: int, skip: int) -> Iterator[tuple[NDArray[Any], int]]:
        """This worker's records of whole batches, and the number of the batch after them."""
        blocks, bounds = self._blocks, self._bounds
        order = _shuffled(len(blocks), stream_seed(self._seed, _BLOCK_ORDER, epoch))
        per_buffer = blocks.per_buffer
        n_buffers = -(-len(blocks) // per_buffer)
        waiting = np.empty(0, dtype=blocks.dtype)
        seen, at = 0, skip
        for buffer in range(n_buffers):
            chosen = order[buffer * per_buffer : (buffer + 1) * per_buffer]
            n_rows = int(blocks.n_rows[chosen].sum())
            seen, before = seen + n_rows, seen
            if at >= len(bounds) or seen <= bounds[at][0]:
                continue
            seed = stream_seed(self._seed, _ROW_ORDER, (epoch - 1) * n_buffers + buffer)
            rows = _shuffled(n_rows, seed)[self._rows_of_worker(at, before, seen)]
            waiting = np.concatenate([waiting, blocks.read(chosen)[rows]])
            stop = at
            while stop < len(bounds) and bounds[stop][1] <= seen:
                stop += 1
            if stop == at:
                continue
            yield waiting, stop
            n_used = sum(b - a for a, b in map(self._share, range(at, stop)))
            waiting, at = waiting[n_used:].copy(), stop

    def _share(self, batch: int) -> tuple[int, int]:
        return self._workers.share(*self._bounds[batch])

    def _rows_of_worker(self, at: int, before: int, seen: int) -> NDArray[np.int64]:
        """Places within a buffer of the rows that this worker has of the batches from `at` on."""
        row_ranges: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        for batch in range(at, len(self._bounds)):
            if self._bounds[batch][0] >= seen:
                break
            start, end = self._share(batch)
            row_ranges.append(
                np.arange(max(start, before), min(end, seen), dtype=np.int64) - before
            )
        return np.concatenate(row_ranges)

    def take_running_loss(self) -> Tensor:
        totals = self.state()
        self._running = RunningLoss()
        return totals["loss_sum"] / totals["row_count"]

    def state(self) -> dict[str, Tensor]:
        """The running loss, of all workers: each must ask."""
        running = self._running.state()
        sums = running["loss_sum"].cpu()
        if not len(sums):
            sums = torch.zeros(self._assignment.n_own, dtype=torch.float64)
        counts = running["row_count"].double().expand(len(sums))
        totals = self._assignment.total(torch.stack([sums, counts], dim=1))
        return {"loss_sum": totals[:, 0].clone(), "row_count": totals[:1, 1].to(torch.int64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue; the first worker of a team keeps what all of it had lost so far."""
        self._running = RunningLoss()
        if self._workers.is_first and int(state["row_count"][0]):
            loss_sum = state["loss_sum"][self._assignment.assigned]
            self._running.load_state({**state, "loss_sum": loss_sum}, self._goal.device)


class StreamedHeldOut:
    """Validation rows from disk that choose the epoch, by their mean loss over all workers."""

    def __init__(self, blocks: RowBlocks, goal: Goal, assignment: MemberAssignment) -> None:
        self._blocks, self._goal, self._assignment = blocks, goal, assignment

    def losses(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        # The members' losses, and the weights.
        sums = torch.zeros(self._assignment.n_own, 2, dtype=torch.float64)
        start, stop = self._assignment.team.share(0, len(self._blocks))
        per_step = max(1, _EVALUATION_ROWS // self._blocks.block_rows)
        for first in range(start, stop, per_step):
            chosen = np.arange(first, min(first + per_step, stop))
            records = self._blocks.read(chosen)
            inputs = self._goal.inputs(records)
            every = torch.cat([logits(x) for x in inputs.chunks()], dim=1)
            weights = self._goal.weights(records)
            weight = float(len(records)) if weights is None else float(weights.sum())
            sums[:, 0] += self._goal.objective(records).loss(every).cpu() * weight
            sums[:, 1] += weight
        totals = self._assignment.total(sums)
        return totals[:, 0] / totals[:, 1]

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            raise ValueError(f"streamed validation rows have no state; got {sorted(state)}")


def _shuffled(n: int, seed: int) -> NDArray[np.int64]:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.numpy()
