"""A training run on disk, so that it can go on where it was killed, to the last bit.

`Checkpointer` writes the state of a run at an interval and on SIGTERM, and reads it back only for
the same data and settings. A checkpoint is an artifact of `serialization` (no pickle), written
whole or not at all.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tabwright.artifact.container import read_artifact, write_artifact
from tabwright.artifact.schema import Reader, TensorBag, prefixed
from tabwright.errors import ArtifactError

_KIND = "training checkpoint"
# Parts of a run's identity that are no digests.
_READABLE = ("engine", "torch", "tabwright")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run keeps its state, and how often.

    If the file is there, the run goes on from it. It is removed when the model is made.

    Parameters
    ----------
    path : str or path-like
    interval : float, default=60.0
        Seconds between two writes; 0 writes after every step.
    """

    path: str | os.PathLike[str]
    interval: float = 60.0

    def __post_init__(self) -> None:
        if not (isinstance(self.interval, int | float) and 0 <= self.interval < float("inf")):
            raise ValueError(
                f"a checkpoint's interval must be seconds, at least 0; got {self.interval!r}"
            )

    def of_refit(self) -> Checkpoint:
        """Where the second training of a fit keeps its state, beside that of the first."""
        return replace(self, path=f"{os.fspath(self.path)}.refit")

    def of_turn(self, turn: int) -> Checkpoint:
        """Where the candidates of a distillation, which run one after the other, keep theirs."""
        return self if turn == 0 else replace(self, path=f"{os.fspath(self.path)}.{turn}")

    def of_fold(self, fold: int) -> Checkpoint:
        """Where the networks that hold out a fold, counted from 1, keep theirs."""
        return replace(self, path=f"{os.fspath(self.path)}.fold{fold}")

    def remove(self) -> None:
        """The model is made: forget how far its runs were."""
        path = Path(self.path)
        folds = path.parent.glob(f"{glob.escape(path.name)}.fold*")
        for file in (path, self.of_turn(1).path, self.of_refit().path, *folds):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)


@dataclass
class RunState:
    """All that the loop itself keeps between two steps.

    `epoch`: the epoch under way, from 1.
    `batches`: how many of its batches are done.
    `best`: each member's best validation loss so far.
    `history`: one dict of numbers per finished epoch; NaN where there was nothing to measure.
    `seconds`: spent so far.
    """

    epoch: int = 1
    batches: int = 0
    best: list[float] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0


@runtime_checkable
class Stateful(Protocol):
    """What has tensors that an exact resumption needs."""

    def state(self) -> dict[str, Tensor]:
        """The tensors by name; the names and the numbers of dimensions are always the same."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""


class Checkpointer:
    """Writes and reads the state of one run.

    `identity`: what must be the same for a run to go on: settings and digests of the data, by name.
    """

    def __init__(self, checkpoint: Checkpoint, identity: Mapping[str, str]) -> None:
        self._path = os.fspath(checkpoint.path)
        self._interval = checkpoint.interval
        self._identity = dict(identity)
        self._last = time.monotonic()
        self._stop = False

    @property
    def n_batches_left(self) -> int | None:
        """After how many batches at most `is_due` must be asked; None for any number."""
        return None

    def is_due(self, n_batches: int) -> bool:
        """Whether the state should be written now, so many batches after the last question."""
        return self._stop or time.monotonic() - self._last >= self._interval

    def write(self, run: RunState, owners: Mapping[str, Stateful]) -> None:
        """Write the state; a crash leaves the old file or the new one.

        `owners`: whose states belong to the run, by name.
        """
        arrays: dict[str, Any] = {
            f"run.{name}": torch.tensor(values, dtype=torch.float64).numpy()
            for name, values in (
                ("best", run.best),
                *((f"history.{key}", [e[key] for e in run.history]) for key in _keys(run.history)),
            )
        }
        for name, owner in owners.items():
            state = {key: value.cpu().numpy() for key, value in owner.state().items()}
            arrays |= prefixed(f"{name}.", state)
        document = {
            "kind": _KIND,
            "identity": self._identity,
            "epoch": run.epoch,
            "batches": run.batches,
            "best_epochs": run.best_epochs,
            "history": _keys(run.history),
            "seconds": run.seconds,
        }
        write_artifact(self._path, document, arrays)
        self._last = time.monotonic()

    def read(self, owners: Mapping[str, Stateful]) -> RunState | None:
        """The state to go on from, handed to its owners; None where there is no file.

        `owners`: by the names that `write` was given.
        Raises `ArtifactError` if the file is no checkpoint, or damaged; `ValueError` if it belongs
            to a run on other data or with other settings.
        """
        if not os.path.exists(self._path):
            return None
        document, arrays = read_artifact(self._path)
        if document.get("kind") != _KIND:
            raise ArtifactError(
                f"{self._path} must be a training checkpoint; it is another artifact; "
                "give another path"
            )
        reader, bag = Reader(document), TensorBag(arrays)
        reader.choice("kind", (_KIND,))
        self._compare(reader.child("identity"))
        keys = reader.texts("history")
        columns = [bag.take(f"run.history.{key}", dtype="float64", allow_nan=True) for key in keys]
        run = RunState(
            epoch=reader.integer("epoch", low=1),
            batches=reader.integer("batches", low=0),
            best=bag.take("run.best", dtype="float64", allow_inf=True).tolist(),
            best_epochs=list(reader.integers("best_epochs", low=0)),
            history=[dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
            seconds=reader.number("seconds", low=0),
        )
        reader.done()
        states = {
            name: {key: _tensor(bag, f"{name}.{key}", like) for key, like in owner.state().items()}
            for name, owner in owners.items()
        }
        bag.done()
        for name, owner in owners.items():
            owner.load_state(states[name])
        return run

    def _compare(self, identity: Reader) -> None:
        """Refuse a checkpoint of other data or settings, and name what differs."""
        known = identity.keys()
        theirs = {name: identity.text(name) for name in known}
        names = sorted(theirs.keys() | self._identity.keys())
        other = [name for name in names if theirs.get(name) != self._identity.get(name)]

        def described(name: str) -> str:
            """A part of the identity, and its values where a person can read them."""
            now = self._identity.get(name)
            return f"{name} ({theirs.get(name)} then, {now} now)" if name in _READABLE else name

        if other:
            raise ValueError(
                f"the checkpoint {self._path} must come from the same data and settings; "
                f"different: {', '.join(map(described, other))}; give the former ones again, or "
                "delete the file to start anew"
            )

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Within, SIGTERM makes the state due; the process ends once it is written.

        Only the main thread hears signals: elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if self._stop:
                # The signal does what it does without us.
                os.kill(os.getpid(), signal.SIGTERM)

    def stop_if_signalled(self) -> None:
        """After a write: leave the run if SIGTERM came."""
        if self._stop:
            raise SystemExit(128 + signal.SIGTERM)


def _tensor(bag: TensorBag, name: str, like: Tensor) -> Tensor:
    dtype = str(like.dtype).removeprefix("torch.")
    shape = (None,) * like.ndim
    return torch.from_numpy(bag.take(name, dtype, shape, allow_nan=True, allow_inf=True).copy())


def _keys(history: list[dict[str, float]]) -> list[str]:
    return sorted(history[0]) if history else []
