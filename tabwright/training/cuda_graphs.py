"""Training steps on a CUDA device as graphs: captured once, then repeated by one launch.

A step of small networks is many short operations, which a host launches more slowly than a device
runs them. `StepGraphs` takes the first steps of a batch size one operation after the other,
captures one, and replays that for all that follow: every step copies its rows, its learning rate
and its dropout keys to the addresses that the graph reads. What is computed is the same, up to
rounding.
`step_graphs` says where steps are taken so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import Tensor

from tabwright.training.batches import Batch, MemoryRows
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.objectives import Objective

__all__ = ["Capture", "CudaCapture", "Graph", "StepGraphs", "step_graphs"]

# Libraries and lazy buffers are ready after one step; torch's documentation takes three.
_WARM_UP_STEPS: Final = 3
_SWITCH: Final = "TABWRIGHT_CUDA_GRAPHS"

# torch allows one capture at a time in a process.
_one_capture = threading.Lock()


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> None:
        """Do it again, at the same addresses, behind all that the device was told before."""


class Capture(Protocol):
    """How work is captured."""

    def run(self, work: Callable[[], None]) -> None:
        """Do the work now, as it will be captured."""

    def capture(self, work: Callable[[], None], beside: Graph | None) -> Graph:
        """Record the work without doing it.

        Parameters
        ----------
        work : callable
            Nothing but operations on the device; it has been run before.
        beside : Graph or None
            A graph that is alive and never runs at the same time: they may share memory.
        """


class CudaCapture:
    """Capture by CUDA.

    Parameters
    ----------
    device : torch.device
        Of type cuda.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], None]) -> None:
        """Do the work now, on the stream that captures, between what is before and after it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def capture(self, work: Callable[[], None], beside: Graph | None) -> Graph:
        """Record the work without doing it; waits for the device."""
        graph = torch.cuda.CUDAGraph()
        # A pool is void once its last graph is gone: it is taken from one that lives.
        pool = beside.pool() if isinstance(beside, torch.cuda.CUDAGraph) else None
        with (
            _one_capture,
            torch.cuda.device(self._device),
            # Other threads may train on the same device meanwhile.
            torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            work()
        return graph


class StepGraphs:
    """Steps of stacked members, captured for every batch size.

    Members that stop training make other graphs necessary: those of before are dropped.

    Parameters
    ----------
    members : StackedMembers
    objective : Objective
        Over the rows that train, on the members' device.
    weight_decay : float
    capture : Capture, optional
        By default `CudaCapture` on the members' device.
    """

    def __init__(
        self,
        members: StackedMembers,
        objective: Objective,
        weight_decay: float,
        capture: Capture | None = None,
    ) -> None:
        self._members, self._objective, self._weight_decay = members, objective, weight_decay
        self._capture = CudaCapture(members.device) if capture is None else capture
        # In float32, whatever the members': the fused kernel of AdamW reads it as that.
        self._learning_rate = torch.zeros((), dtype=torch.float32, device=members.device)
        self._steps: dict[int, _Step] = {}
        self._version = members.buffers_version

    def take(self, batch: Batch, *, step: int, learning_rate: float) -> None:
        """One step of training.

        Parameters
        ----------
        batch : Batch
            With `rows`.
        step : int
            Number of the step; dropout depends on it.
        learning_rate : float

        Raises
        ------
        ValueError
            If the batch does not say which rows of the objective it holds, or does not suit the
            members.
        RuntimeError
            If the step cannot be captured.
        """
        if batch.rows is None or batch.part is not None:
            raise ValueError("a captured step needs whole batches that say which rows they hold")
        if self._version != self._members.buffers_version:
            self._steps.clear()
            self._version = self._members.buffers_version
        self._members.prepare(batch.x, step=step)
        own = self._steps.get(len(batch.x))
        if own is None:
            own = self._steps[len(batch.x)] = _Step(batch.x, batch.rows)
        own.x.copy_(batch.x)
        own.rows.copy_(batch.rows)
        self._learning_rate.fill_(learning_rate)
        if own.n_run < _WARM_UP_STEPS:
            self._capture.run(lambda: self._work(own))
            own.n_run += 1
        else:
            if own.graph is None:
                own.graph = self._captured(own)
            own.graph.replay()
        self._members.count_batch()
        self._objective.count(len(batch.x))

    def _work(self, own: _Step) -> None:
        def gradient(logits: Tensor) -> Tensor:
            return self._objective.uncounted_gradient(logits, own.rows)

        self._members.uncounted_forward_backward(own.x, gradient)
        self._members.optimizer_step(self._learning_rate, self._weight_decay)

    def _captured(self, own: _Step) -> Graph:
        alive = (step.graph for step in self._steps.values() if step.graph is not None)
        try:
            return self._capture.capture(lambda: self._work(own), next(alive, None))
        except RuntimeError as error:
            raise RuntimeError(
                f"the training step must be fit for capture as a CUDA graph; got: {error}; set "
                f"the environment variable {_SWITCH}=0 to train without graphs, and report this"
            ) from error


class _Step:
    """The step of one batch size: its inputs at addresses that stay, and its graph."""

    def __init__(self, x: Tensor, rows: Tensor) -> None:
        self.x, self.rows = torch.empty_like(x), torch.empty_like(rows)
        self.n_run = 0
        self.graph: Graph | None = None


def step_graphs(members: object, rows: object, weight_decay: float) -> StepGraphs | None:
    """Graphs for the steps of a run, or None where its steps are taken one by one.

    Graphs are for stacked members on a CUDA device whose rows lie in memory and are shared with
    no other worker. The environment variable `TABWRIGHT_CUDA_GRAPHS=0` turns them off: what is
    trained is the same up to rounding.

    Parameters
    ----------
    members, rows : object
        Those of `trainer.train`.
    weight_decay : float
    """
    if not (isinstance(members, StackedMembers) and isinstance(rows, MemoryRows)):
        return None
    if members.device.type != "cuda" or members.is_shared or os.environ.get(_SWITCH) == "0":
        return None
    return StepGraphs(members, rows.objective, weight_decay)
