"""Steps in blocks are the steps one by one, bit for bit, whatever thread takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright.fitting.fit_table import fit_table
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows
from tabwright.training import cpu_steps as blocks
from tabwright.training.batches import Batch
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.cpu_steps import BlockSteps, block_steps, in_blocks
from tabwright.training.engine import threads as lanes
from tabwright.training.engine.stacked_members import Kernels, StackedMembers
from tabwright.training.objectives import Objective

N_ROWS, N_INPUTS, N_MEMBERS = 90, 6, 4
SETTINGS = FitSettings(
    task="classification", hidden_dim=16, num_hidden_layers=1, max_epochs=3, batch_size=16
)


@pytest.fixture(autouse=True)
def _threads_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lanes, "_WORTH_A_THREAD", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _modules(mode: TrainingMode, n_outputs: int) -> list[nn.Module]:
    modules = []
    for seed in range(N_MEMBERS):
        torch.manual_seed(seed)
        modules.append(build_model(N_INPUTS, n_outputs, mode, 16, 2, 0.2))
    return modules


def _objective(kind: str, kernels: Kernels) -> Objective:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 3, (N_ROWS,), generator=generator)
    soft = torch.softmax(torch.randn(N_ROWS, 3, generator=generator), dim=1)
    is_compiled = kernels == "compiled"
    if kind == "classes":
        return Objective(codes, is_compiled=is_compiled)
    if kind == "weights":
        weights = torch.rand(N_ROWS, generator=generator) + 0.1
        return Objective(codes, weights, is_compiled=is_compiled)
    if kind == "values":
        return Objective(torch.randn(N_ROWS, 1, generator=generator))
    if kind == "teacher":
        return Objective(codes, None, soft, torch.tensor([0.0, 0.3, 0.6, 1.0]))
    temperature = torch.tensor([1.0, 2.0, 3.0, 4.0])
    labelled = torch.arange(N_ROWS) < 50
    return Objective(codes, None, soft, torch.full((4,), 0.5), temperature, labelled)


def _batches(sizes: tuple[int, ...]) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        rows = torch.randperm(N_ROWS, generator=generator)[:size]
        x = torch.randn(size, N_INPUTS, generator=generator)
        found.append(Batch(x, lambda logits: logits, rows=rows))
    return found


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
@pytest.mark.parametrize("kind", ["classes", "weights", "values", "teacher", "cooled"])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_blocks_are_the_steps_one_by_one(mode: TrainingMode, kind: str, kernels: Kernels) -> None:
    modules = _modules(mode, 1 if kind == "values" else 3)
    batches = _batches((16, 16, 16, 16, 16, 9, 16))
    rates = [0.01 / (i + 1) for i in range(len(batches))]
    plain, single, shared = (
        StackedMembers(modules, seeds=range(N_MEMBERS), n_threads=n_threads, kernels=kernels)
        for n_threads in (1, 1, 3)
    )
    losses = []
    objective = _objective(kind, kernels)
    for i, batch in enumerate(batches):
        if i == 3:
            plain.set_active([True, False, True, True])
        assert batch.rows is not None
        plain.forward_backward(batch.x, objective.gradient_of(batch.rows), step=i)
        plain.optimizer_step(rates[i], 0.1)
    losses.append(objective.take_running_loss())
    for members in (single, shared):
        objective = _objective(kind, kernels)
        steps = BlockSteps(members, objective, 0.1)
        done = 0
        for part in (batches[:3], batches[3:]):
            if done == 3:
                members.set_active([True, False, True, True])
            for block in in_blocks(iter(part), 2):
                few = rates[done : done + len(block)]
                steps.take(block, step=done, learning_rates=few)
                done += len(block)
        losses.append(objective.take_running_loss())
    for members in (single, shared):
        for mine, theirs in zip(members.modules(), plain.modules(), strict=True):
            state = theirs.state_dict()
            for name, value in mine.state_dict().items():
                assert torch.equal(value, state[name]), name
    # A member that stopped has no loss that anybody asks for.
    for running in losses[1:]:
        assert torch.equal(running[[0, 2, 3]], losses[0][[0, 2, 3]])


def test_blocks_hold_batches_of_one_size_in_their_order() -> None:
    batches = _batches((16, 16, 16, 9, 9, 16))
    found = list(in_blocks(iter(batches), 2))
    assert [[len(batch.x) for batch in block] for block in found] == [[16, 16], [16], [9, 9], [16]]
    assert [batch for block in found for batch in block] == batches
    assert list(in_blocks(iter([]), 2)) == []


@pytest.mark.parametrize("size", [1, 2])
def test_a_full_block_goes_out_before_the_next_batch_is_drawn(size: int) -> None:
    drawn: list[Batch] = []

    def batches() -> Iterator[Batch]:
        for batch in _batches((16,) * 4):
            drawn.append(batch)
            yield batch

    for number, block in enumerate(in_blocks(batches(), size), start=1):
        assert len(block) == size
        assert len(drawn) == number * size


def test_what_does_not_make_a_block_is_refused() -> None:
    members = StackedMembers(_modules("mlp_dense", 3), seeds=range(N_MEMBERS), n_threads=2)
    steps = BlockSteps(members, _objective("classes", "torch"), 0.0)
    first, second = _batches((16, 9))
    with pytest.raises(ValueError, match="needs whole batches that say which rows they hold"):
        steps.take([first._replace(rows=None)], step=0, learning_rates=[0.1])
    with pytest.raises(ValueError, match=r"got shapes \[\(9, 6\), \(16, 6\)\], 2 batches and 2"):
        steps.take([first, second], step=0, learning_rates=[0.1, 0.1])
    with pytest.raises(ValueError, match="1 batches and 2 rates"):
        steps.take([first], step=0, learning_rates=[0.1, 0.1])
    shared = StackedMembers(_modules("mlp_dense", 3), seeds=range(4), all_reduce=lambda _: None)
    with pytest.raises(ValueError, match="must wait for each other in every step"):
        shared.train_block([first.x], _nothing, step=0, learning_rates=[0.1], weight_decay=0.0)


def _nothing(place: int, members: slice, logits: Tensor) -> Tensor:
    return torch.zeros_like(logits)


def _table() -> LabelledRows:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({"a": draw.normal(size=240), "b": draw.choice(["u", "v", "w"], 240)})
    return LabelledRows(frame, (frame["a"].to_numpy() > 0).astype(np.int64))


def _fit(n_threads: int, checkpoint: Checkpoint | None = None, **settings: Any) -> Any:
    torch.set_num_threads(n_threads)
    return fit_table(
        _table(), replace(SETTINGS, **settings), classes=np.array([0, 1]), checkpoint=checkpoint
    )


def _same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(mine[name], theirs[name])
        for mine, theirs in zip(one.members, other.members, strict=True)
        for name in theirs
    )


def test_a_fit_on_two_threads_is_that_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    take = BlockSteps.take

    def counted(self: BlockSteps, block: list[Batch], **arguments: Any) -> None:
        taken.append(len(block))
        take(self, block, **arguments)

    monkeypatch.setattr(BlockSteps, "take", counted)
    whole = _fit(1)
    assert taken == []
    assert _same(_fit(2), whole)
    assert max(taken) > 1


class StopError(Exception):
    """The end of a run, in a test."""


def test_a_run_that_stopped_between_blocks_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks.BlockSteps, "n_batches", 3)
    whole = _fit(2)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    take, count = BlockSteps.take, 0

    def stops(self: BlockSteps, block: list[Batch], **arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 7:
            raise StopError
        take(self, block, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(BlockSteps, "take", stops)
        with pytest.raises(StopError):
            _fit(2, checkpoint)
    assert _same(_fit(2, checkpoint), whole)


def test_blocks_are_for_threads_that_share_members_in_memory() -> None:
    members = StackedMembers(_modules("mlp_dense", 3), seeds=range(N_MEMBERS), n_threads=2)
    assert block_steps(members, object(), 0.0) is None
    assert block_steps(object(), object(), 0.0) is None
