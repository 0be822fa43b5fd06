"""Several workers: what they share, what they agree on, and what a death among them costs."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ai.ml.frameworks.pytorch.checkpoints import Checkpoint, RunState
from ai.ml.frameworks.pytorch.distributed import (
    ALONE,
    TIMEOUT_VARIABLE,
    SharedCheckpointer,
    Workers,
    joined_workers,
)
from ai.ml.frameworks.pytorch.fitted import FittedModel, load_fitted
from campaigns import kill_workers


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_a_range_is_dealt_out_whole_and_evenly(size: int) -> None:
    shares = [Workers(rank, size).share(5, 25) for rank in range(size)]
    assert [place for start, stop in shares for place in range(start, stop)] == list(range(5, 25))
    lengths = [stop - start for start, stop in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_worker_alone_has_its_own_way() -> None:
    values = torch.ones(3)
    ALONE.all_reduce(values)
    assert values.tolist() == [1.0, 1.0, 1.0]
    assert ALONE.gather(b"x") == [b"x"]
    assert ALONE.from_first(None) is None
    assert not ALONE.any(False)
    with joined_workers() as workers:
        assert workers == ALONE


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf"])
def test_the_timeout_is_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with (
        pytest.raises(ValueError, match=f"{TIMEOUT_VARIABLE} must be seconds above 0; got"),
        joined_workers(),
    ):
        pass


def test_a_lost_worker_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:10157.\nmore")

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    message = r"another worker ended, .* \(Connection closed by peer \[127.*; with --max-restarts"
    with pytest.raises(ConnectionError, match=message):
        Workers(0, 2).all_reduce(torch.ones(2))


@dataclass(frozen=True)
class _Threads(Workers):
    """Workers that are threads of this process."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    given: list[Any] = field(default_factory=list)

    def _together(self, value: Any) -> list[Any]:
        self.given[self.rank] = value
        self.barrier.wait()
        every = list(self.given)
        self.barrier.wait()
        return every

    def all_reduce(self, values: torch.Tensor) -> None:
        values.copy_(torch.stack(self._together(values.clone())).sum(0))

    def any(self, flag: bool) -> bool:
        return any(self._together(flag))

    def from_first(self, data: bytes | None) -> bytes | None:
        first: bytes | None = self._together(data)[0]
        return first


class _Sum:
    """A state that is a sum over the workers."""

    def __init__(self, workers: Workers, value: float) -> None:
        self._workers, self.value = workers, value

    def state(self) -> dict[str, torch.Tensor]:
        total = torch.tensor([self.value])
        self._workers.all_reduce(total)
        return {"value": total}

    def load_state(self, state: Any) -> None:
        self.value = float(state["value"][0])


def _in_threads(work: Callable[[Workers], Any]) -> list[Any]:
    barrier, given = threading.Barrier(2, timeout=30), [None, None]
    everyone = [_Threads(rank, 2, barrier=barrier, given=given) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, everyone))


def test_the_first_worker_writes_what_all_go_on_from(tmp_path: Path) -> None:
    """The second one's path is another: its machine has no file of its own."""

    def write(workers: Workers) -> bool:
        checkpoint = Checkpoint(tmp_path / f"run{workers.rank}.safetensors", 3600.0)
        checkpointer = SharedCheckpointer(checkpoint, {"table": "t"}, workers)
        due = checkpointer.is_due
        if workers.rank == 1:
            checkpointer._stop = True
        assert checkpointer.is_due
        run = RunState(epoch=3, batches=workers.rank)
        checkpointer.write(run, {"sum": _Sum(workers, 1.5 + workers.rank)})
        return due

    def read(workers: Workers) -> tuple[RunState | None, float]:
        checkpoint = Checkpoint(tmp_path / f"run{workers.rank}.safetensors", 3600.0)
        owner = _Sum(workers, 0.0)
        return SharedCheckpointer(checkpoint, {"table": "t"}, workers).read(
            {"sum": owner}
        ), owner.value

    assert [run for run, _ in _in_threads(read)] == [None, None]
    assert _in_threads(write) == [False, False]
    assert [path.name for path in tmp_path.iterdir()] == ["run0.safetensors"]
    for run, value in _in_threads(read):
        assert run is not None
        assert (run.epoch, run.batches, value) == (3, 0, 4.0)


# -- real processes -----------------------------------------------------------------------------


def _trained(folder: Path, n_workers: int, *words: str) -> FittedModel:
    output = folder / f"{n_workers}.safetensors"
    command = [*kill_workers.command(folder, output, n_workers=n_workers, epochs=2), *words]
    done = subprocess.run(
        command,
        env=kill_workers.environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted({output.name, "table"})
    model = load_fitted(output)
    output.unlink()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "n_workers"), [("mlp_dense", 2), ("linear_glm_baseline", 2), ("mlp_dense", 5)]
)
def test_two_workers_match_one(mode: str, n_workers: int, tmp_path: Path) -> None:
    """Two with half of every batch each; five have fewer rows in a batch than one has members."""
    kill_workers.write_table(tmp_path / "table", n_rows=300)
    words = ["--mode", mode]
    if n_workers == 5:
        # Two chunks of rows, three workers that have none to encode, three rows each a batch.
        words += ["--batch-size", "15"]
    # One process under torchrun is alone: the table must be streamed by hand.
    alone = _trained(tmp_path, 1, *words, "--memory", "1kB")
    shared = _trained(tmp_path, n_workers, *words)
    for member, twin in zip(alone.members, shared.members, strict=True):
        for name, value in member.items():
            torch.testing.assert_close(
                torch.from_numpy(twin[name]),
                torch.from_numpy(value),
                rtol=2e-3,
                atol=2e-5,
                msg=name,
            )
    assert alone.best_epochs == shared.best_epochs
    for epoch, twin_epoch in zip(alone.history, shared.history, strict=True):
        assert twin_epoch["train_loss"] == pytest.approx(epoch["train_loss"], rel=1e-4)
        assert twin_epoch["validation_loss"] == pytest.approx(epoch["validation_loss"], rel=1e-4)
    assert shared.metrics["test"] == pytest.approx(dict(alone.metrics["test"]), rel=0.02, abs=0.01)


@pytest.mark.slow
def test_a_run_survives_the_death_of_its_workers() -> None:
    assert kill_workers.campaign(2, seed=0, epochs=3) == 2
