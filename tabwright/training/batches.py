"""Rows as the training loop sees them: encoded, on the device, batch after batch.

`Inputs` holds encoded rows and widens them; `MemoryRows` deals them out as training batches, one
random order per epoch; `HeldOutRows` scores members on the rows that choose the epoch. What a
batch is optimised for is an `objectives.Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.training.engine.dropout import Part
from tabwright.training.objectives import Objective

__all__ = [
    "Batch",
    "HeldOut",
    "HeldOutRows",
    "Inputs",
    "MemoryRows",
    "TrainingRows",
    "batch_bounds",
    "stream_seed",
]

_MIN_BATCH = 8
# Encoded rows are kept expanded while they take at most this much memory; past it, and wherever
# levels are hidden at random, batches are expanded one by one from the compact form.
_EXPANDED_BYTES = 256 * 2**20
_EVALUATION_ROWS = 8_192
_ORDER, _HIDDEN = 0, 1


class Batch(NamedTuple):
    """One step's rows.

    Parameters
    ----------
    x : Tensor of shape (batch, input_dim), float32
    gradient : callable
        Maps logits of shape (n_members, batch, output_dim) to the gradient of each member's mean
        loss in them, and counts the loss.
    part : Part, optional
        Which rows of the batch these are, where several workers share it; the gradient is then
        that of the whole batch's mean loss.
    rows : Tensor of shape (batch,), int64, optional
        Where they stand among all rows of one objective, whose gradient this is.
    """

    x: Tensor
    gradient: Callable[[Tensor], Tensor]
    part: Part | None = None
    rows: Tensor | None = None


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

        Parameters
        ----------
        logits : callable
            Maps inputs (batch, input_dim) to logits (n_members, batch, output_dim), in eval mode.
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
        if self._hidable is None and self._n_rows * encoder.input_dim * 4 <= _EXPANDED_BYTES:
            self._expanded = self._expand(self._numeric, self._codes)

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return self._n_rows

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._numeric.device

    def batch(self, rows: Tensor, hide_seed: int, part: Part | None = None) -> Tensor:
        """Network inputs of the given rows, float32 of shape (len(rows), input_dim).

        Parameters
        ----------
        rows : Tensor of shape (batch,), int64
        hide_seed : int
            Decides which levels are shown as unknown.
        part : Part, optional
            Which rows of a batch these are, where several workers share it.
        """
        if self._expanded is not None:
            return self._expanded.index_select(0, rows)
        codes = self._codes.index_select(0, rows)
        if self._hidable is not None:
            generator = torch.Generator(codes.device).manual_seed(hide_seed)
            whole = (len(codes) if part is None else part.n_rows, codes.shape[1])
            chance = torch.rand(whole, generator=generator, device=codes.device)
            if part is not None:
                chance = chance[part.start : part.start + len(codes)]
            hidden = (
                (chance < self._hide_rate) & self._hidable & (codes > TableEncoder.unknown_code)
            )
            codes = codes.masked_fill(hidden, TableEncoder.unknown_code)
        return self._expand(self._numeric.index_select(0, rows), codes)

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, nothing hidden, in chunks of bounded size."""
        for start in range(0, self._n_rows, _EVALUATION_ROWS):
            chunk = slice(start, start + _EVALUATION_ROWS)
            if self._expanded is not None:
                yield self._expanded[chunk]
            else:
                yield self._expand(self._numeric[chunk], self._codes[chunk])


class MemoryRows:
    """Rows in memory, in a random order that depends on the seed and the epoch.

    Parameters
    ----------
    inputs : Inputs
    objective : Objective
        Over the same rows.
    batch_size : int
    seed : int
    """

    def __init__(self, inputs: Inputs, objective: Objective, batch_size: int, seed: int) -> None:
        self._inputs, self._objective, self._seed = inputs, objective, seed
        self._bounds = batch_bounds(inputs.n_rows, batch_size)

    @property
    def n_batches(self) -> int:
        return len(self._bounds)

    @property
    def objective(self) -> Objective:
        """What all batches are trained on."""
        return self._objective

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
            rows = order[start:end]
            x = self._inputs.batch(rows, stream_seed(self._seed, _HIDDEN, first + i))
            yield Batch(x, self._objective.gradient_of(rows), rows=rows)

    def take_running_loss(self) -> Tensor:
        return self._objective.take_running_loss()

    def state(self) -> dict[str, Tensor]:
        return self._objective.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._objective.load_state(state)


class HeldOutRows:
    """Rows in memory that choose the epoch.

    Parameters
    ----------
    inputs : Inputs
    score : callable
        Maps their logits, of shape (n_members, n_rows, output_dim), to what `losses` gives.
    memory : ArrayState, optional
        What `score` remembers from epoch to epoch.
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
