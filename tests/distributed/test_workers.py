"""Several workers: what they share, what they agree on, and what a death among them costs."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from campaigns import kill_workers
from campaigns.kill_training import difference
from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.distributed.shared_checkpoints import SharedCheckpointer
from tabwright.distributed.workers import ALONE, TIMEOUT_VARIABLE, Workers, joined_workers
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.training.checkpoints import Checkpoint, RunState
from tests.worker_threads import in_threads


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_a_range_is_shared_whole_and_evenly(size: int) -> None:
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
    def fail(values: torch.Tensor, group: object) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:10157.\nmore")

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    message = r"another worker ended, .* \(Connection closed by peer \[127.*; with --max-restarts"
    with pytest.raises(ConnectionError, match=message):
        Workers(0, 2).all_reduce(torch.ones(2))


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


def test_the_first_worker_writes_what_all_go_on_from(tmp_path: Path) -> None:
    """The second one's path is another: its machine has no file of its own."""

    def write(workers: Workers) -> list[bool]:
        checkpoint = Checkpoint(tmp_path / f"run{workers.rank}.safetensors", 3600.0)
        checkpointer = SharedCheckpointer(checkpoint, {"table": "t"}, workers)
        due = [checkpointer.is_due(1)]
        if workers.rank == 1:
            checkpointer._stop = True
        due += [checkpointer.is_due(1) for _ in range(2)]
        run = RunState(epoch=3, batches=workers.rank)
        checkpointer.write(run, {"sum": _Sum(workers, 1.5 + workers.rank)})
        return due

    def read(workers: Workers) -> tuple[RunState | None, float]:
        checkpoint = Checkpoint(tmp_path / f"run{workers.rank}.safetensors", 3600.0)
        owner = _Sum(workers, 0.0)
        return SharedCheckpointer(checkpoint, {"table": "t"}, workers).read(
            {"sum": owner}
        ), owner.value

    assert [run for run, _ in in_threads(read)] == [None, None]
    assert in_threads(write) == [[False, False, True]] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["run0.safetensors"]
    for run, value in in_threads(read):
        assert run is not None
        assert (run.epoch, run.batches, value) == (3, 0, 4.0)


@pytest.mark.parametrize(("interval", "most"), [(0.0, 1000), (3600.0, 12)])
def test_workers_ask_each_other_twice_a_second_whether_to_write(
    interval: float, most: int, tmp_path: Path
) -> None:
    """Or after every step, where the state is wanted that often."""
    questions: list[int] = []

    @dataclass(frozen=True)
    class Counted(Workers):
        def all_reduce(self, values: torch.Tensor) -> None:
            questions.append(1)

    checkpoint = Checkpoint(tmp_path / "run.safetensors", interval)
    checkpointer = SharedCheckpointer(checkpoint, {}, Counted(0, 2))
    due = [checkpointer.is_due(1) for _ in range(1000)]
    assert sum(due) == (1000 if interval == 0 else 0)
    assert 1 < len(questions) <= most


def test_a_state_is_of_one_batch_however_many_each_worker_takes_at_once(tmp_path: Path) -> None:
    def due(workers: Workers) -> list[int]:
        checkpoint = Checkpoint(tmp_path / "run.safetensors", 1e-9)
        checkpointer = SharedCheckpointer(checkpoint, {}, workers)
        # As of a worker whose machine is fast, and of one whose machine is slow.
        pace = (100, 3)[workers.rank]
        checkpointer._n_batches_until_vote = lambda: 20  # type: ignore[method-assign]
        found, done = [], 0
        while done < 200:
            n_batches = min(pace, checkpointer.n_batches_left, 200 - done)
            done += n_batches
            if checkpointer.is_due(n_batches):
                found.append(done)
        return found

    assert in_threads(due) == [list(range(1, 200, 20))] * 2


@pytest.mark.parametrize(
    ("size", "n_members", "n_teams"), [(2, 4, 2), (4, 2, 2), (6, 4, 2), (5, 4, 1), (4, 4, 4)]
)
def test_members_are_assigned_to_teams_of_neighbours(
    size: int, n_members: int, n_teams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks, timeout: ranks)
    assignments = [MemberAssignment.of(Workers(rank, size), n_members) for rank in range(size)]
    assert len({assignment.first for assignment in assignments}) == n_teams
    for first in {assignment.first for assignment in assignments}:
        team = [assignment for assignment in assignments if assignment.first == first]
        assert [assignment.team.rank for assignment in team] == list(range(size // n_teams))
        assert {assignment.team.size for assignment in team} == {size // n_teams}
        if 1 < n_teams < size:
            ranks = str([assignment.everyone.rank for assignment in team])
            assert {str(assignment.team.group) for assignment in team} == {ranks}
    members = [
        k
        for assignment in assignments
        if assignment.team.is_first
        for k in range(n_members)[assignment.assigned]
    ]
    assert members == list(range(n_members))


def test_a_worker_takes_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert [Workers(0, 8, 0, local_size).n_threads for local_size in (1, 2, 40)] == [16, 8, 1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert Workers(0, 8, 0, 2).n_threads == 3


# -- real processes -----------------------------------------------------------------------------


def _trained(
    folder: Path, n_workers: int, *words: str, n_machines: int = 1, **sizes: int
) -> FittedModel:
    """A model of workers that torchrun starts; each machine has a torchrun of its own."""
    output = folder / f"{n_workers}.safetensors"
    command = kill_workers.command(
        folder, output, n_workers=n_workers // n_machines, epochs=2, **sizes
    )
    command += words
    at = command.index("--standalone")
    meeting = f"--nnodes {n_machines} --master-addr 127.0.0.1 --master-port {_free_port()}"
    launches = [
        subprocess.Popen(
            [*command[:at], *meeting.split(), "--node-rank", str(machine), *command[at + 1 :]],
            env=kill_workers.environment(),
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in range(n_machines)
    ]
    for launch in launches:
        _, errors = launch.communicate()
        assert launch.returncode == 0, errors
    assert sorted(path.name for path in folder.iterdir()) == sorted({output.name, "table"})
    model = load_fitted(output)
    output.unlink()
    return model


_LEAVES = """
import os
from pathlib import Path
import torch
from tabwright.distributed.workers import joined_workers

def threads():
    names = [Path(f"/proc/self/task/{n}/comm").read_text() for n in os.listdir("/proc/self/task")]
    return [name for name in names if "gloo" in name]

with joined_workers() as workers:
    workers.wait()
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    assert threads()
assert not threads(), threads()
"""


@pytest.mark.slow
def test_no_thread_of_the_group_is_left_when_workers_part() -> None:
    """One that is left until the interpreter ends can abort the process."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    launches = [
        subprocess.Popen(
            [sys.executable, "-c", _LEAVES],
            env={**kill_workers.environment(), **meeting, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for launch in launches:
        _, errors = launch.communicate()
        assert launch.returncode == 0, errors


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "n_workers", "n_members"),
    [
        ("mlp_dense", 2, 2),
        ("calibrated_classifier", 2, 2),
        ("mlp_dense", 2, 1),
        ("mlp_dense", 4, 2),
        ("mlp_dense", 5, 2),
    ],
)
def test_several_workers_match_one(
    mode: str, n_workers: int, n_members: int, tmp_path: Path
) -> None:
    """A member each, the halves of every batch, both, and fewer rows in a batch than workers.

    Four workers are two machines of two.
    """
    kill_workers.write_table(tmp_path / "table", n_rows=300)
    words = ["--mode", mode, "--validation-fraction", "0.2"]
    # For five: two chunks of rows, three workers that have none to encode, three rows each a batch.
    sizes = {"n_members": n_members, "batch_size": 15 if n_workers == 5 else 64}
    # One process under torchrun is alone: the table must be streamed by hand.
    alone = _trained(tmp_path, 1, *words, "--memory", "1kB", **sizes)
    n_machines = 2 if n_workers == 4 else 1
    shared = _trained(tmp_path, n_workers, *words, n_machines=n_machines, **sizes)
    if n_workers == n_members:
        assert difference(alone, shared, history_tolerance=1e-12) is None
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
@pytest.mark.parametrize("n_members", [1, 2])
def test_a_run_survives_the_death_of_its_workers(n_members: int) -> None:
    assert kill_workers.campaign(1, seed=n_members, epochs=3, n_members=n_members) == 1
