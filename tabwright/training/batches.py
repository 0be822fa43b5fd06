"""Rows as the training loop sees them: encoded, on the device, batch after batch.

`Inputs` holds encoded rows and widens them; `MemoryRows` yields them as training batches, in one
random order per epoch; `HeldOutRows` scores members on the rows that choose the epoch. What a
batch is optimised for is an `objectives.Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.training.engine.dropout import Part, element_hashes, is_dropped
from tabwright.training.engine.row_table import RowTable
from tabwright.training.objectives import Objective
from tabwright.training.running_loss import RunningLoss

# The statistics of batch norm are poor in smaller ones: such a rest joins the batch before.
_MIN_BATCH = 8
# Encoded rows are kept expanded while they take at most this much memory; past it, and wherever
# levels are hidden at random, batches are expanded one by one from the compact form.
_EXPANDED_BYTES = 256 * 2**20
_EVALUATION_ROWS = 8_192
_ORDER, _HIDDEN = 0, 1


class Batch(NamedTuple):
    """One step's rows.

    `rows`: (batch,), int64; where they stand in it.
    `running`: where the loss is added.
    """

    inputs: Inputs
    objective: Objective
    rows: Tensor
    running: RunningLoss
    hide_seed: int = 0
    part: Part | None = None

    @property
    def x(self) -> Tensor:
        """Network inputs, float32 of shape (batch, input_dim)."""
        return self.inputs.batch(self.rows, self.hide_seed, self.part)

    def gradient(self, logits: Tensor) -> Tensor:
        """Gradient of the whole batch's mean loss in logits (n_members, batch, output_dim).

        Counts the loss.
        """
        gradient = self.objective.gradient(logits, self.rows, self.running)
        return gradient if self.part is None else gradient * (len(self.rows) / self.part.n_rows)


class TrainingRows(Protocol):
    """What the loop needs of the rows that train."""

    @property
    def n_batches(self) -> int:
        """Batches per epoch, the same in every epoch."""

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """Batches of an epoch, from 1, without the first `skip`; depends on nothing before."""

    def take_running_loss(self) -> Tensor:
        """Mean training loss per member since the last call, shape (n_members,); starts anew."""

    def state(self) -> dict[str, Tensor]:
        """The running loss, for an exact resumption."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class HeldOut(Protocol):
    """What the loop needs of the rows that choose the epoch."""

    def losses(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        """One loss per member: float64 of shape (n_members,), on the CPU.

        Where a metric chooses the epoch the shape is (n_members, 2): the loss, then the score, of
        which greater is better.

        `logits`: maps inputs (batch, input_dim) to logits (n_members, batch, output_dim), in eval
            mode.
        """

    def state(self) -> dict[str, Tensor]:
        """What is remembered from epoch to epoch, for an exact resumption."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class ArrayState(Protocol):
    """What remembers arrays and can go on from them."""

    def state(self) -> Mapping[str, NDArray[np.float64]]: ...

    def load_state(self, state: Mapping[str, NDArray[np.float64]]) -> None: ...


def stream_seed(seed: int, purpose: int, number: int) -> int:
    """Seed of one of many streams of random numbers: equal arguments, equal stream.

    The mixing is SplitMix64's (G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom
    number generators", 2014, figure 16).
    """
    z = seed
    for value in (purpose, number):
        z = (z + (value + 1) * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
    return z >> 1


def hide_key(seed: int) -> int:
    """The odd int32 factor that decides which levels of a batch are hidden."""
    return ((seed | 1) + 2**31) % 2**32 - 2**31


def batch_bounds(n_rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of each batch; no batch has fewer than 8 rows while the table has more.

    A last batch below that joins the one before it: batch norm has no variance to learn from in a
    batch of one row, and a poor one in a few.
    """
    starts = list(range(0, n_rows, max(batch_size, _MIN_BATCH)))
    if len(starts) > 1 and n_rows - starts[-1] < _MIN_BATCH:
        starts.pop()
    return list(zip(starts, [*starts[1:], n_rows], strict=True))


class Inputs:
    """Encoded rows on the training device.

    `hide_rate`: share of known category levels shown as "unknown" in each batch.
    """

    def __init__(
        self, encoder: TableEncoder, compact: Compact, device: torch.device, hide_rate: float = 0.0
    ) -> None:
        self._encoder, self._compact, self._device = encoder, compact, device
        self._n_rows = len(compact)
        self._hide_rate = hide_rate if bool(encoder.hidable_.any()) else 0.0

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return self._n_rows

    @property
    def input_dim(self) -> int:
        """Network inputs of a row."""
        return self._encoder.input_dim

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._device

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor]:
        numeric, codes = self._compact.numeric, self._compact.codes
        return torch.from_numpy(numeric).to(self._device), torch.from_numpy(codes).to(self._device)

    @cached_property
    def _expand(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self._encoder.torch_expander(self._device)

    @cached_property
    def _expanded(self) -> Tensor | None:
        """All inputs, where they are the same in every batch and take little memory."""
        if self._hide_rate or self._n_rows * self.input_dim * 4 > _EXPANDED_BYTES:
            return None
        return self._expand(*self._tensors)

    @cached_property
    def table(self) -> RowTable | None:
        """The rows for compiled steps; None where those cannot read them."""
        return RowTable.encoded(self._encoder, self._compact, self._hide_rate)

    @cached_property
    def dense_table(self) -> RowTable | None:
        """The same with all inputs as numbers; None where they change or take much memory."""
        return None if self._expanded is None else RowTable.dense(self._expanded)

    def batch(self, rows: Tensor, hide_seed: int, part: Part | None = None) -> Tensor:
        """Network inputs of the given rows, float32 of shape (len(rows), input_dim)."""
        if self._expanded is not None:
            return self._expanded.index_select(0, rows)
        numeric, codes = (tensor.index_select(0, rows) for tensor in self._tensors)
        if self._hide_rate:
            codes = self._hidden(codes, hide_key(hide_seed), part or Part(0, len(rows)))
        return self._expand(numeric, codes)

    def _hidden(self, codes: Tensor, key: int, part: Part) -> Tensor:
        """Codes of which some levels are shown as unknown, as `RowTable` has it."""
        layout = self._encoder.layout
        first, stop = len(layout.missing), len(layout.missing) + layout.n_categories
        elements = element_hashes(part.n_rows, stop, codes.device)
        elements = elements[part.start : part.start + len(codes), first:]
        keys = torch.tensor(key, dtype=torch.int32, device=codes.device)
        known = codes[:, : layout.n_categories]
        hidden = is_dropped(elements, keys, self._hide_rate) & (known > TableEncoder.unknown_code)
        known.masked_fill_(hidden, TableEncoder.unknown_code)
        return codes

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, nothing hidden, in chunks of bounded size."""
        for start in range(0, self._n_rows, _EVALUATION_ROWS):
            chunk = slice(start, start + _EVALUATION_ROWS)
            if self._expanded is not None:
                yield self._expanded[chunk]
            else:
                yield self._expand(*(tensor[chunk] for tensor in self._tensors))


class MemoryRows:
    """Rows in memory, in a random order that depends on the seed and the epoch."""

    def __init__(self, inputs: Inputs, objective: Objective, batch_size: int, seed: int) -> None:
        self._inputs, self._objective, self._seed = inputs, objective, seed
        self._bounds = batch_bounds(inputs.n_rows, batch_size)
        self._running = RunningLoss()

    @property
    def n_batches(self) -> int:
        return len(self._bounds)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(stream_seed(self._seed, _ORDER, number))
        order = torch.randperm(self._inputs.n_rows, generator=generator)
        if self._inputs.device.type == "cuda":
            # From pinned memory, the host need not wait until it has arrived.
            order = order.pin_memory()
        order = order.to(self._inputs.device, non_blocking=True)
        first = (number - 1) * self.n_batches
        for i, (start, end) in enumerate(self._bounds):
            if i < skip:
                continue
            seed = stream_seed(self._seed, _HIDDEN, first + i)
            yield Batch(self._inputs, self._objective, order[start:end], self._running, seed)

    def take_running_loss(self) -> Tensor:
        return self._running.take()

    def state(self) -> dict[str, Tensor]:
        return self._running.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._running.load_state(state, self._inputs.device)


class HeldOutRows:
    """Rows in memory that choose the epoch.

    `score`: maps their logits, of shape (n_members, n_rows, output_dim), to what `losses` gives.
    `memory`: what `score` remembers from epoch to epoch.
    """

    def __init__(
        self,
        inputs: Inputs,
        score: Callable[[Tensor], Tensor],
        memory: ArrayState | None = None,
    ) -> None:
        self._inputs, self._score, self._memory = inputs, score, memory

    def losses(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
        every = [logits(x) for x in self._inputs.chunks()]
        return self._score(torch.cat(every, dim=1)).cpu()

    def state(self) -> dict[str, Tensor]:
        arrays = {} if self._memory is None else self._memory.state()
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self._memory is not None:
            self._memory.load_state({name: value.numpy() for name, value in state.items()})
