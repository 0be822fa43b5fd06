"""Steps in blocks are the steps one by one, bit for bit, whatever thread takes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ai.ml.frameworks.pytorch.models import build_model
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.fitting.fit_table import fit_table
from tabwright.settings import FitSettings
from tabwright.tables import profile_table
from tabwright.tables.labelled import LabelledRows
from tabwright.training import steps as steps_module
from tabwright.training.batches import Batch, Inputs, MemoryRows
from tabwright.training.checkpoints import Checkpoint
from tabwright.training.engine import compiled_steps
from tabwright.training.engine.compiled_kernels import has_compiled_kernels
from tabwright.training.engine.stacked_members import Engine, StackedMembers
from tabwright.training.objectives import Objective
from tabwright.training.steps import Steps, in_blocks

N_MEMBERS = 4
SETTINGS = FitSettings(
    task="classification", hidden_dim=16, num_hidden_layers=1, max_epochs=3, batch_size=16
)
pytestmark = pytest.mark.skipif(
    not has_compiled_kernels(), reason="installed without the compiled kernels"
)


@pytest.fixture(autouse=True)
def _threads_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compiled_steps, "_WORTH_A_THREAD", 0)
    monkeypatch.setattr(compiled_steps, "_WORTH_SHARING", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _table() -> LabelledRows:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({"a": draw.normal(size=240), "b": draw.choice(["u", "v", "w"], 240)})
    return LabelledRows(frame, (frame["a"].to_numpy() > 0).astype(np.int64))


def _rows(batch_size: int = 16, hide_rate: float = 0.3) -> tuple[Inputs, MemoryRows]:
    table = _table()
    encoder = TableEncoder().fit(
        RowsToFit(
            table.frame, profile_table(table.frame), target=table.target, task="classification"
        )
    )
    inputs = Inputs(encoder, encoder.transform(table.frame), torch.device("cpu"), hide_rate)
    return inputs, MemoryRows(inputs, Objective(torch.from_numpy(table.target)), batch_size, 5)


def _members(inputs: Inputs, n_threads: int = 1, engine: Any = "auto") -> StackedMembers:
    modules = []
    for seed in range(N_MEMBERS):
        torch.manual_seed(seed)
        modules.append(build_model(inputs.input_dim, 2, "mlp_dense", 64, 2, 0.2))
    return StackedMembers(modules, seeds=range(N_MEMBERS), n_threads=n_threads, engine=engine)


def _trained(n_batches: int, n_threads: int) -> tuple[StackedMembers, torch.Tensor]:
    inputs, rows = _rows()
    members = _members(inputs, n_threads)
    steps, done = Steps(members, 0.1), 0
    for epoch in (1, 2):
        if epoch == 2:
            members.set_active([True, False, True, True])
        for block in in_blocks(rows.epoch(epoch), SimpleNamespace(n_batches=n_batches)):
            steps.take(block, step=done, learning_rates=[0.01 / (done + 1)] * len(block))
            done += len(block)
    return members, rows.take_running_loss()


@pytest.mark.parametrize(("n_batches", "n_threads"), [(5, 1), (1, 2), (100, 3), (7, 4), (100, 8)])
def test_blocks_are_the_steps_one_by_one_on_any_number_of_threads(
    n_batches: int, n_threads: int
) -> None:
    one, loss = _trained(n_batches, 1)
    other, other_loss = _trained(n_batches, n_threads)
    for mine, theirs in zip(one.modules(), other.modules(), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    assert torch.equal(loss, other_loss)


def test_a_block_is_its_batches_one_by_one() -> None:
    inputs, rows = _rows()
    found = []
    for n_batches in (1, 4, 100):
        members = _members(inputs)
        steps, done = Steps(members, 0.1), 0
        for block in in_blocks(rows.epoch(1), SimpleNamespace(n_batches=n_batches)):
            rates = [0.01 / (done + i + 1) for i in range(len(block))]
            steps.take(block, step=done, learning_rates=rates)
            done += len(block)
        found.append((members.modules(), rows.take_running_loss()))
    for modules, loss in found[1:]:
        assert torch.equal(loss, found[0][1])
        for mine, theirs in zip(modules, found[0][0], strict=True):
            for name, value in mine.state_dict().items():
                assert torch.equal(value, theirs.state_dict()[name]), name


def test_compiled_steps_on_encoded_rows_are_those_of_autograd_on_all_inputs() -> None:
    """Bins, levels, and the same levels hidden at random."""
    inputs, rows = _rows()
    assert inputs.table is not None
    assert inputs.table.n_binned
    assert inputs.table.hides
    (batch, *_) = rows.epoch(1)
    shown = batch._replace(hide_seed=batch.hide_seed + 2).x
    assert not torch.equal(batch.x, shown)
    members = [_members(inputs, engine=engine) for engine in ("compiled", "torch")]
    for own in members:
        Steps(own, 0.0).take([batch], step=0, learning_rates=[0.0])
    for k in range(N_MEMBERS):
        gradients = members[1].gradients(k)
        for name, value in members[0].gradients(k).items():
            distance = float((value - gradients[name]).norm())
            assert distance <= 1e-5 * float(gradients[name].norm()) + 1e-7, name


def test_a_linear_model_takes_compiled_steps_while_nothing_is_hidden() -> None:
    for hide_rate in (0.0, 0.3):
        inputs, rows = _rows(hide_rate=hide_rate)
        assert (inputs.dense_table is None) == (hide_rate > 0)
        module = build_model(inputs.input_dim, 2, "linear_glm_baseline", 8, 1, 0.0)
        found = []
        engines: tuple[Engine, ...] = ("compiled", "torch")
        for engine in engines:
            members = StackedMembers([module], seeds=[0], engine=engine)
            steps = Steps(members, 0.1)
            for i, batch in enumerate(rows.epoch(1)):
                steps.take([batch], step=i, learning_rates=[0.01])
            found.append((members.modules()[0].state_dict(), rows.take_running_loss()))
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_blocks_hold_batches_of_one_size_and_set_in_their_order() -> None:
    rows = _rows()[1]
    first, second = (list(source.epoch(1)) for source in (rows, _rows()[1]))
    short = first[0]._replace(rows=first[0].rows[:9])
    batches = [first[0], first[1], short, short, first[2], second[0]]
    found = list(in_blocks(iter(batches), SimpleNamespace(n_batches=2)))
    assert [len(block) for block in found] == [2, 2, 1, 1]
    assert [batch for block in found for batch in block] == batches
    assert list(in_blocks(iter([]), SimpleNamespace(n_batches=2))) == []


@pytest.mark.parametrize("size", [1, 2])
def test_a_full_block_goes_out_before_the_next_batch_is_drawn(size: int) -> None:
    drawn: list[Batch] = []

    def batches() -> Iterator[Batch]:
        for batch in list(_rows()[1].epoch(1))[:4]:
            drawn.append(batch)
            yield batch

    blocks = in_blocks(batches(), SimpleNamespace(n_batches=size))
    for number, block in enumerate(blocks, start=1):
        assert len(block) == size
        assert len(drawn) == number * size


def test_a_block_takes_about_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, rows = _rows()
    steps = Steps(_members(inputs), 0.1)
    clock = iter([0.0, 1e-9, 0.0, 0.04, 0.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    (batch, *_) = rows.epoch(1)
    for n_taken, n_next in ((1, 4), (4, 10), (10, 1)):
        assert steps.n_batches == n_taken
        steps.take([batch] * n_taken, step=0, learning_rates=[0.0] * n_taken)
        assert steps.n_batches == n_next
    steps.at_most(5)
    assert steps.n_batches == 1
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    for n_next in (4, 5):
        steps.take([batch] * steps.n_batches, step=0, learning_rates=[0.0] * steps.n_batches)
        assert steps.n_batches == n_next
    steps.at_most(None)
    assert steps.n_batches == 16


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


@pytest.mark.parametrize("n_members", [1, 4])
def test_a_fit_on_two_threads_is_that_on_one(n_members: int) -> None:
    assert _same(_fit(2, n_members=n_members), _fit(1, n_members=n_members))


class StopError(Exception):
    """The end of a run, in a test."""


def test_a_run_that_stopped_between_blocks_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "_MOST_BATCHES", 3)
    whole = _fit(2)
    checkpoint = Checkpoint(tmp_path / "run.safetensors", 0.0)
    take, count = Steps.take, 0

    def stops(self: Steps, block: Sequence[Batch], **arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 7:
            raise StopError
        take(self, block, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "take", stops)
        with pytest.raises(StopError):
            _fit(2, checkpoint)
    assert _same(_fit(2, checkpoint), whole)
