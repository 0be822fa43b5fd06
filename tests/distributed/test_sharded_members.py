"""Members distributed across workers: together they are the ensemble that one worker has alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.distributed.member_assignment import MemberAssignment
from tabwright.distributed.sharded_members import ShardedHeldOut, ShardedMembers
from tabwright.distributed.workers import ALONE, Workers
from tabwright.training.engine.dropout import Part
from tests.worker_threads import in_threads

# torch's seed is of the process, the workers are its threads.
_SEEDING = threading.Lock()
N_ROWS, N_COLUMNS, N_MEMBERS = 24, 5, 4


def _modules(dtype: torch.dtype) -> list[nn.Module]:
    modules = []
    for seed in range(N_MEMBERS):
        with _SEEDING:
            torch.manual_seed(seed)
            modules.append(
                build_model(
                    N_COLUMNS, 2, "mlp_dense", hidden_dim=16, num_hidden_layers=2, dropout=0.3
                ).to(dtype)
            )
    return modules


def _sharded(workers: Workers, dtype: torch.dtype = torch.float32) -> ShardedMembers:
    seeds = range(10, 10 + N_MEMBERS)
    return ShardedMembers(
        _modules(dtype), seeds=seeds, assignment=MemberAssignment.of(workers, N_MEMBERS)
    )


def _steps(
    members: ShardedMembers, workers: Workers, steps: range, dtype: torch.dtype = torch.float32
) -> None:
    team = MemberAssignment.of(workers, N_MEMBERS).team
    start, stop = team.share(0, N_ROWS)
    part = Part(start, N_ROWS) if team.size > 1 else None
    for step in steps:
        x = torch.randn(N_ROWS, N_COLUMNS, generator=torch.Generator().manual_seed(step))

        def gradient(logits: Tensor) -> Tensor:
            return (logits.softmax(-1) - 0.5) / N_ROWS

        members.forward_backward(x[start:stop].to(dtype), gradient, step=step, part=part)
        members.optimizer_step(0.01, 0.1)


def _run(workers: Workers, dtype: torch.dtype) -> tuple[dict[str, Tensor], list[nn.Module]]:
    members = _sharded(workers, dtype)
    _steps(members, workers, range(3), dtype)
    for member in (1, 2):
        members.snapshot(member)
    members.set_active([True, True, False, True])
    _steps(members, workers, range(3, 6), dtype)
    state = members.state()
    members.restore()
    return state, members.modules()


@pytest.mark.parametrize("size", [2, 4])
def test_distributed_members_have_the_bits_of_members_together(size: int) -> None:
    state, modules = _run(ALONE, torch.float32)
    for shared, twins in in_threads(lambda workers: _run(workers, torch.float32), size):
        assert shared.keys() == state.keys()
        for name, value in state.items():
            assert shared[name].dtype == value.dtype
            assert torch.equal(shared[name], value), name
        for module, twin in zip(modules, twins, strict=True):
            for name, value in module.state_dict().items():
                assert torch.equal(twin.state_dict()[name], value), name


@pytest.mark.parametrize("size", [3, 8])
def test_teams_that_share_batches_match_one_worker(size: int) -> None:
    """Three workers share the batches of all members, eight are four teams of two."""
    state, _ = _run(ALONE, torch.float64)
    for shared, _ in in_threads(lambda workers: _run(workers, torch.float64), size):
        for name, value in state.items():
            torch.testing.assert_close(shared[name], value, msg=name)


def test_a_run_goes_on_with_another_number_of_workers() -> None:
    def first_half(workers: Workers) -> dict[str, Tensor]:
        members = _sharded(workers)
        _steps(members, workers, range(3))
        return members.state()

    def second_half(state: dict[str, Tensor]) -> Callable[[Workers], dict[str, Tensor]]:
        def work(workers: Workers) -> dict[str, Tensor]:
            members = _sharded(workers)
            members.load_state(state)
            _steps(members, workers, range(3, 6))
            return members.state()

        return work

    whole = second_half(first_half(ALONE))(ALONE)
    shared = second_half(in_threads(first_half)[0])(ALONE)
    back = in_threads(second_half(first_half(ALONE)), 4)[3]
    for name, value in whole.items():
        assert torch.equal(shared[name], value), name
        assert torch.equal(back[name], value), name


def test_every_worker_scores_its_own_and_hears_of_all() -> None:
    class Rows:
        def losses(self, logits: Callable[[Tensor], Tensor]) -> Tensor:
            return logits(torch.ones(1, N_COLUMNS)).sum((1, 2)).double()

        def state(self) -> dict[str, Tensor]:
            return {}

        def load_state(self, state: object) -> None:
            raise AssertionError

    def work(workers: Workers) -> list[float]:
        members = _sharded(workers)
        losses = ShardedHeldOut(Rows(), MemberAssignment.of(workers, N_MEMBERS)).losses(
            members.logits
        )
        return [float(value) for value in losses]

    alone = work(ALONE)
    assert len(set(alone)) == N_MEMBERS
    assert in_threads(work) == [alone] * 2
    assert in_threads(work, 8) == [alone] * 8


def test_active_is_said_of_every_member() -> None:
    with pytest.raises(ValueError, match=r"active must be one per member \(4\); got 2"):
        _sharded(ALONE).set_active([True, False])
