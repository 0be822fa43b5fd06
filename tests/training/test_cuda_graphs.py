"""Laws of captured steps: they train as steps one by one do, and the host never waits.

On a CPU by an emulation of CUDA graphs (`tests.graph_emulation`); the last tests need a device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright.encoding.encoder import TableEncoder
from tabwright.settings import FitSettings, Precision
from tabwright.tables import profile_table
from tabwright.training import batches as batches_module
from tabwright.training import cuda_graphs as graphs_module
from tabwright.training import loop as trainer
from tabwright.training.batches import Batch, HeldOutRows, Inputs, MemoryRows
from tabwright.training.checkpoints import Checkpoint, Checkpointer
from tabwright.training.cuda_graphs import CudaCapture, Graph, StepGraphs, step_graphs
from tabwright.training.engine import adamw as optimizer
from tabwright.training.engine import stacked_members as members_module
from tabwright.training.engine.autograd_members import ReferenceMembers
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.loop import Trained, learning_rate_at, train
from tabwright.training.objectives import Objective
from tests.graph_emulation import EmulatedCapture, HostWaits, NotCapturableError

ARCHITECTURES: tuple[TrainingMode, ...] = ("mlp_dense", "tabresnet", "linear_glm_baseline")
N_ROWS, INPUT_DIM, N_CLASSES, N_MEMBERS = 60, 5, 3, 3
WEIGHT_DECAY = 0.05
# Two batch sizes, each taken often enough to be replayed several times.
SIZES = [16, 16, 16, 12] * 6

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="captures by CUDA, and this machine has no CUDA device"
)


@pytest.fixture(autouse=True)
def _one_thread_an_operation() -> Iterator[None]:
    """As the trainer has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _members(
    mode: TrainingMode = "mlp_dense",
    output_dim: int = N_CLASSES,
    *,
    precision: Precision = "float32",
    device: str = "cpu",
) -> StackedMembers:
    torch.manual_seed(1)
    modules = [
        build_model(INPUT_DIM, output_dim, mode, 16, 2, 0.2).to(device) for _ in range(N_MEMBERS)
    ]
    return StackedMembers(modules, seeds=range(N_MEMBERS), precision=precision)


def _objective(kind: str, device: str = "cpu") -> Objective:
    generator = torch.Generator().manual_seed(2)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    codes = torch.randint(0, N_CLASSES, (N_ROWS,), generator=generator).to(device)
    goals = torch.randn(N_ROWS, 1, generator=generator).to(device)
    weights = (uniform(N_ROWS) + 0.1).to(device)
    soft = torch.softmax(3 * uniform(N_ROWS, N_CLASSES), dim=1).to(device)
    labelled = (uniform(N_ROWS) < 0.7).to(device)
    shares = torch.tensor([0.2, 0.5, 1.0], device=device)
    temperatures = torch.tensor([1.0, 2.0, 4.0], device=device)
    kinds: dict[str, Callable[[], Objective]] = {
        "classes": lambda: Objective(codes),
        "weighted classes": lambda: Objective(codes, weights),
        "soft classes": lambda: Objective(codes, weights, soft, shares),
        "cooled classes": lambda: Objective(codes, None, soft, shares, temperatures),
        "classes, some unlabelled": lambda: Objective(codes, None, soft, 0.5, labelled=labelled),
        "values": lambda: Objective(goals),
        "weighted values": lambda: Objective(goals, weights),
        "soft values": lambda: Objective(goals, None, -goals, shares, labelled=labelled),
    }
    return kinds[kind]()


KINDS = (
    "classes",
    "weighted classes",
    "soft classes",
    "cooled classes",
    "classes, some unlabelled",
    "values",
    "weighted values",
    "soft values",
)


def _batches(
    objective: Objective, sizes: Sequence[int] = SIZES, device: str = "cpu"
) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(N_ROWS, INPUT_DIM, generator=generator).to(device)
    for size in sizes:
        rows = torch.randperm(N_ROWS, generator=generator)[:size].to(device)
        yield Batch(table[rows], objective.gradient_of(rows), rows=rows)


Take = Callable[[Batch, int, float], None]


def _one_by_one(members: StackedMembers) -> Take:
    def take(batch: Batch, step: int, learning_rate: float) -> None:
        members.forward_backward(batch.x, batch.gradient, step=step)
        rate = torch.full((), learning_rate, dtype=torch.float32, device=members.device)
        members.optimizer_step(rate, WEIGHT_DECAY)

    return take


def _captured(graphs: StepGraphs) -> Take:
    return lambda batch, step, rate: graphs.take(batch, step=step, learning_rate=rate)


def _train(
    take: Take,
    members: StackedMembers,
    objective: Objective,
    sizes: Sequence[int] = SIZES,
    *,
    first: int = 0,
    active: dict[int, list[bool]] | None = None,
    device: str = "cpu",
) -> None:
    """Steps from `first` on; before some of them other members become active."""
    for step, batch in enumerate(_batches(objective, sizes, device)):
        if step >= first:
            if active and step in active:
                members.set_active(active[step])
            take(batch, step, learning_rate_at(step / len(sizes), 0.05))


def _assert_same(
    members: StackedMembers,
    objective: Objective,
    others: StackedMembers,
    other_objective: Objective,
) -> None:
    theirs = {**others.state(), **other_objective.state()}
    for name, value in {**members.state(), **objective.state()}.items():
        assert torch.equal(value, theirs[name]), name


def _both(
    mode: TrainingMode,
    kind: str,
    precision: Precision = "float32",
    active: dict[int, list[bool]] | None = None,
) -> EmulatedCapture:
    """Train both ways, and see that they agree to the last bit."""
    output_dim = 1 if "values" in kind else N_CLASSES
    capture = EmulatedCapture()
    pairs = []
    for is_captured in (False, True):
        members = _members(mode, output_dim, precision=precision)
        objective = _objective(kind)
        take = _one_by_one(members)
        if is_captured:
            take = _captured(StepGraphs(members, objective, WEIGHT_DECAY, capture))
        _train(take, members, objective, active=active)
        pairs.append((members, objective))
    _assert_same(*pairs[1], *pairs[0])
    assert torch.equal(pairs[1][1].take_running_loss(), pairs[0][1].take_running_loss())
    for mine, other in zip(pairs[1][0].modules(), pairs[0][0].modules(), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    return capture


# ---------------------------------------------------------------------------------------------
# Captured steps are the steps
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_captured_steps_train_as_steps_one_by_one(mode: TrainingMode, kind: str) -> None:
    capture = _both(mode, kind)
    assert [graph.n_replays for graph in capture.graphs] == [15, 3]


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_captured_steps_train_as_steps_one_by_one_in_bfloat16(mode: TrainingMode) -> None:
    _both(mode, "classes", "bfloat16")


def test_graphs_of_members_that_stopped_are_dropped() -> None:
    # Back to the members of before in between, with other buffers than before.
    stops = {8: [True, False, True], 16: [False, False, True]}
    capture = _both("mlp_dense", "weighted classes", active=stops)
    assert len(capture.graphs) > 2
    there_and_back = {8: [True, False, True], 9: [True, True, True]}
    _both("tabresnet", "classes", active=there_and_back)


def test_changing_members_to_and_fro_between_two_steps_drops_graphs_too() -> None:
    members, objective, capture = _members(), _objective("classes"), EmulatedCapture()
    take = _captured(StepGraphs(members, objective, WEIGHT_DECAY, capture))
    _train(take, members, objective, [16] * 5)
    members.set_active([True, False, True])
    members.set_active([True, True, True])
    before = len(capture.graphs)
    _train(take, members, objective, [16] * 5)
    assert len(capture.graphs) == before + 1


def test_a_replay_follows_the_learning_rate_of_its_step() -> None:
    members, objective, capture = _members(), _objective("classes"), EmulatedCapture()
    graphs = StepGraphs(members, objective, WEIGHT_DECAY, capture)
    moved = []
    for step, batch in enumerate(_batches(objective, [16] * 8)):
        before = members.state()["parameters"]
        graphs.take(batch, step=step, learning_rate=0.0 if step % 2 else 0.01)
        moved.append(not torch.equal(members.state()["parameters"], before))
    assert capture.graphs[0].n_replays == 5
    assert moved == [True, False] * 4


def test_a_replay_draws_the_dropout_of_its_step() -> None:
    losses = []
    for step in (7, 7, 8, 300):
        members, objective, capture = _members(), _objective("classes"), EmulatedCapture()
        graphs = StepGraphs(members, objective, WEIGHT_DECAY, capture)
        batch = next(_batches(objective, [16]))
        for _ in range(4):
            graphs.take(batch, step=0, learning_rate=0.0)
        objective.take_running_loss()
        graphs.take(batch, step=step, learning_rate=0.0)
        assert capture.graphs[0].n_replays == 2
        losses.append(objective.take_running_loss())
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[2], losses[3])


def test_replays_count_their_rows_and_batches() -> None:
    members, objective = _members(), _objective("classes")
    graphs = StepGraphs(members, objective, WEIGHT_DECAY, EmulatedCapture())
    for epoch in (1, 2):
        _train(_captured(graphs), members, objective)
        assert int(objective.state()["row_count"]) == sum(SIZES)
        assert members.state()["n_batches"].tolist() == [epoch * len(SIZES)] * N_MEMBERS
        mean = objective.take_running_loss()
        assert torch.all((mean > 0.1) & (mean < 3.0))
        assert int(objective.state()["row_count"]) == 0


def test_a_resumed_run_agrees_with_one_that_was_not_interrupted() -> None:
    whole, whole_objective = _members(), _objective("weighted classes")
    graphs = StepGraphs(whole, whole_objective, WEIGHT_DECAY, EmulatedCapture())
    _train(_captured(graphs), whole, whole_objective)
    for stop in (2, 9):
        first, objective = _members(), _objective("weighted classes")
        graphs = StepGraphs(first, objective, WEIGHT_DECAY, EmulatedCapture())
        for step, batch in enumerate(_batches(objective)):
            if step < stop:
                rate = learning_rate_at(step / len(SIZES), 0.05)
                graphs.take(batch, step=step, learning_rate=rate)
        second, second_objective = _members(), _objective("weighted classes")
        second.load_state(first.state())
        second_objective.load_state(objective.state())
        graphs = StepGraphs(second, second_objective, WEIGHT_DECAY, EmulatedCapture())
        _train(_captured(graphs), second, second_objective, first=stop)
        _assert_same(second, second_objective, whole, whole_objective)


def test_a_state_that_is_loaded_reaches_graphs_that_are_there() -> None:
    members, objective = _members(), _objective("classes")
    graphs = StepGraphs(members, objective, WEIGHT_DECAY, EmulatedCapture())
    state, loss = members.state(), objective.state()
    _train(_captured(graphs), members, objective)
    once = {**members.state(), **objective.state()}
    members.load_state(state)
    objective.load_state(loss)
    _train(_captured(graphs), members, objective)
    for name, value in {**members.state(), **objective.state()}.items():
        assert torch.equal(value, once[name]), name


def test_batches_that_cannot_be_captured_are_refused() -> None:
    members, objective = _members(), _objective("classes")
    graphs = StepGraphs(members, objective, WEIGHT_DECAY, EmulatedCapture())
    batch = next(_batches(objective))
    with pytest.raises(ValueError, match="whole batches that say which rows they hold"):
        graphs.take(batch._replace(rows=None), step=0, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 5\)"):
        graphs.take(batch._replace(x=batch.x[:, :4]), step=0, learning_rate=0.1)


def test_a_step_that_cannot_be_captured_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members, objective = _members(), _objective("classes")
    wanted = objective.uncounted_gradient

    def asks_the_device(logits: Tensor, rows: Tensor) -> Tensor:
        assert math.isfinite(logits.sum().item())
        return wanted(logits, rows)

    monkeypatch.setattr(objective, "uncounted_gradient", asks_the_device)
    graphs = StepGraphs(members, objective, WEIGHT_DECAY, EmulatedCapture())
    with pytest.raises(RuntimeError, match=r"CUDA graph; got: .*; set .* TABWRIGHT_CUDA_GRAPHS=0"):
        _train(_captured(graphs), members, objective)


class _Again:
    """A capture, and a graph, that does its work each time."""

    def __init__(self, work: Callable[[], None] = lambda: None) -> None:
        self.replay = work

    def run(self, work: Callable[[], None]) -> None:
        work()

    def capture(self, work: Callable[[], None], beside: Graph | None) -> Graph:
        return _Again(work)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_a_step_reads_no_value_and_stays_on_its_device(
    monkeypatch: pytest.MonkeyPatch, mode: TrainingMode, kind: str, precision: Precision
) -> None:
    # Tensors of the device "meta" have no values to read, and do not mix with a CPU's.
    monkeypatch.setattr(StackedMembers, "_fill", lambda members, member: None)
    monkeypatch.setattr(optimizer, "_HAS_FUSED", False)  # has no meta kernel
    members = _members(mode, 1 if "values" in kind else N_CLASSES, precision=precision)
    with pytest.raises(RuntimeError, match="meta"):
        members.forward_backward(torch.ones(4, INPUT_DIM, device="meta"), lambda z: z, step=0)
    members = StackedMembers(
        [module.to("meta") for module in members.modules()],
        seeds=range(N_MEMBERS),
        precision=precision,
    )
    objective = _objective(kind)
    for name, value in vars(objective).items():
        if isinstance(value, Tensor):
            setattr(objective, name, value.to("meta"))
    take = _captured(StepGraphs(members, objective, WEIGHT_DECAY, _Again()))
    _train(take, members, objective, device="meta", active={8: [True, False, True]})
    assert objective.take_running_loss().device.type == "meta"
    assert members.logits(torch.ones(4, INPUT_DIM, device="meta")).device.type == "meta"


# ---------------------------------------------------------------------------------------------
# The training loop
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_expanded", [True, False])
def test_batches_lie_on_the_device_of_their_rows(
    monkeypatch: pytest.MonkeyPatch, is_expanded: bool
) -> None:
    if not is_expanded:
        monkeypatch.setattr(batches_module, "_EXPANDED_BYTES", 0)
    table = _Table("meta")
    rows = MemoryRows(table.inputs(), Objective(torch.zeros(N_ROWS, 1, device="meta")), 16, 0)
    batches = list(rows.epoch(1))
    assert [len(batch.x) for batch in batches] == [16, 16, 16, 12]
    for batch in batches:
        assert batch.rows is not None
        assert batch.x.device.type == batch.rows.device.type == "meta"


class _Table:
    """A table of numbers and categories, whose levels are hidden at random."""

    def __init__(self, device: str = "cpu") -> None:
        generator = np.random.default_rng(4)
        numbers = generator.normal(size=(N_ROWS, 3))
        frame = pl.DataFrame(numbers, schema=["a", "b", "c"]).with_columns(
            pl.Series("level", generator.choice(["x", "y", "z"], N_ROWS))
        )
        self.encoder = TableEncoder("standard")
        self.compact = self.encoder.fit_transform(
            frame, profile_table(frame), target=None, task="classification"
        )
        self.device = torch.device(device)
        codes = (numbers[:, 0] * numbers[:, 1] > 0).astype(np.int64)
        self.codes = torch.from_numpy(codes).to(device)

    def inputs(self, hide_rate: float = 0.0) -> Inputs:
        return Inputs(self.encoder, self.compact, self.device, hide_rate)

    def members(self) -> StackedMembers:
        torch.manual_seed(5)
        modules = [
            build_model(self.encoder.input_dim, 2, "mlp_dense", 16, 1, 0.2).to(self.device)
            for _ in range(N_MEMBERS)
        ]
        return StackedMembers(modules, seeds=range(N_MEMBERS))


class _Watched(MemoryRows):
    """Rows that look for waits of the host while the loop takes steps."""

    found: list[str]

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        with HostWaits() as waits:
            yield from super().epoch(number, skip=skip)
        self.found = [*getattr(self, "found", []), *waits.found]


def _settings(**values: Any) -> FitSettings:
    values = {"max_epochs": 6, "batch_size": 16, "learning_rate": 0.01, **values}
    return FitSettings(task="classification", **values).resolved(n_rows=N_ROWS)


def _fit(
    table: _Table,
    *,
    rows: type[MemoryRows] = MemoryRows,
    hide_rate: float = 0.0,
    losses: Callable[[Tensor], Tensor] | None = None,
    checkpointer: Checkpointer | None = None,
    settings: FitSettings | None = None,
) -> tuple[Trained, MemoryRows]:
    objective = Objective(table.codes)
    chosen = settings or _settings()
    training = rows(table.inputs(hide_rate), objective, chosen.batch_size or 16, 6)
    held_out = HeldOutRows(table.inputs(), losses or Objective(table.codes).loss)
    trained = train(table.members(), training, held_out, chosen, checkpointer=checkpointer)
    return trained, training


@contextlib.contextmanager
def _graphs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedCapture]:
    capture = EmulatedCapture()

    def graphs(members: object, rows: object, weight_decay: float) -> StepGraphs:
        assert isinstance(members, StackedMembers)
        assert isinstance(rows, MemoryRows)
        return StepGraphs(members, rows.objective, weight_decay, capture)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "step_graphs", graphs)
        yield capture


def _stopping(table: _Table) -> Callable[[Tensor], Tensor]:
    """Held-out losses that let one member after the other run out of patience."""
    epochs = iter(range(1, 100))

    def losses(logits: Tensor) -> Tensor:
        epoch = next(epochs)
        values = [1.0 / min(epoch, last) for last in (1, 4, 9)]
        return torch.tensor(values, dtype=torch.float64, device=table.device)

    return losses


@pytest.mark.parametrize("hide_rate", [0.0, 0.3])
def test_the_loop_trains_the_same_networks_by_graphs(
    monkeypatch: pytest.MonkeyPatch, hide_rate: float
) -> None:
    table = _Table()
    settings = _settings(max_epochs=12, patience=3)
    expected, _ = _fit(table, hide_rate=hide_rate, losses=_stopping(table), settings=settings)
    with _graphs_on_a_cpu(monkeypatch) as capture:
        found, _ = _fit(table, hide_rate=hide_rate, losses=_stopping(table), settings=settings)
    assert len(capture.graphs) > 2
    assert found.best_epochs == expected.best_epochs
    for mine, other in zip(found.modules, expected.modules, strict=True):
        # A tensor holds the learning rate in float32, a number in float64.
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)
    for one, two in zip(found.history, expected.history, strict=True):
        assert one.train_loss == pytest.approx(two.train_loss, rel=1e-4)


@pytest.mark.parametrize("is_captured", [True, False])
@pytest.mark.parametrize("hide_rate", [0.0, 0.3])
def test_the_host_never_waits_between_the_batches_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch, hide_rate: float, is_captured: bool
) -> None:
    with contextlib.ExitStack() as stack:
        if is_captured:
            stack.enter_context(_graphs_on_a_cpu(monkeypatch))
        # Dropout needs new blocks of keys on the way.
        monkeypatch.setattr(members_module, "_STEPS_PER_BLOCK", 8)
        _, rows = _fit(_Table(), rows=_Watched, hide_rate=hide_rate)
    assert isinstance(rows, _Watched)
    assert rows.found == []


def test_a_run_by_graphs_goes_on_from_its_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = _Table()
    with _graphs_on_a_cpu(monkeypatch):
        whole, _ = _fit(table)
    path = tmp_path / "run"
    steps = 0
    take = StepGraphs.take

    def killed(graphs: StepGraphs, batch: Batch, **values: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 14:
            raise OSError("killed")
        take(graphs, batch, **values)

    with _graphs_on_a_cpu(monkeypatch), monkeypatch.context() as patch:
        patch.setattr(StepGraphs, "take", killed)
        with pytest.raises(OSError, match="killed"):
            _fit(table, checkpointer=Checkpointer(Checkpoint(path, 0.0), {}))
    with _graphs_on_a_cpu(monkeypatch):
        resumed, _ = _fit(table, checkpointer=Checkpointer(Checkpoint(path, 0.0), {}))
    assert resumed.best_epochs == whole.best_epochs
    for mine, other in zip(resumed.modules, whole.modules, strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


def test_graphs_are_for_stacked_members_on_a_device_with_rows_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = _Table()
    rows = MemoryRows(table.inputs(), Objective(table.codes), 16, 0)
    members = table.members()
    assert step_graphs(members, rows, 0.0) is None
    monkeypatch.setattr(StackedMembers, "device", torch.device("cuda"))
    monkeypatch.setattr(graphs_module, "StepGraphs", lambda *given: given)
    monkeypatch.delenv("TABWRIGHT_CUDA_GRAPHS", raising=False)
    made: Any = step_graphs(members, rows, 0.1)
    assert made == (members, rows.objective, 0.1)
    assert step_graphs(members, object(), 0.0) is None
    assert step_graphs(ReferenceMembers(members.modules(), seeds=[0, 1, 2]), rows, 0.0) is None
    monkeypatch.setenv("TABWRIGHT_CUDA_GRAPHS", "0")
    assert step_graphs(members, rows, 0.0) is None
    monkeypatch.delenv("TABWRIGHT_CUDA_GRAPHS")
    monkeypatch.setattr(StackedMembers, "is_shared", True)
    assert step_graphs(members, rows, 0.0) is None


# ---------------------------------------------------------------------------------------------
# The emulation
# ---------------------------------------------------------------------------------------------

_VALUES = torch.arange(6.0)
_REFUSED: dict[str, Callable[[], object]] = {
    "item": lambda: _VALUES.sum().item(),
    "float": lambda: float(_VALUES[0]),
    "bool": lambda: bool(_VALUES.any()),
    "tolist": lambda: _VALUES.tolist(),
    "numpy": lambda: _VALUES.numpy(),
    "cpu": lambda: _VALUES.cpu(),
    "address": lambda: _VALUES.data_ptr(),
    "nonzero": lambda: _VALUES.nonzero(),
    "mask": lambda: _VALUES[_VALUES > 2],
    "one_hot": lambda: torch.nn.functional.one_hot(_VALUES.long(), 6),
    "tensor": lambda: torch.tensor([1.0]),
    "as_tensor": lambda: torch.as_tensor(0.5),
    "new_tensor": lambda: _VALUES.new_tensor(2.0),
    "from_numpy": lambda: torch.from_numpy(np.ones(2)),
    "rand": lambda: torch.rand(2),
}


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("name", _REFUSED)
def test_the_emulation_refuses_what_cuda_would(name: str, inference: bool) -> None:
    def work() -> None:
        with torch.inference_mode(inference):
            _REFUSED[name]()

    with pytest.raises(NotCapturableError):
        EmulatedCapture().capture(work, None)


def test_the_emulation_captures_without_a_trace_and_replays_at_the_same_addresses() -> None:
    x, out, total = torch.ones(3), torch.zeros(3), torch.zeros(())
    factor = 2.0
    kept: list[Tensor] = []

    def work() -> None:
        doubled = x * factor
        kept.append(doubled)
        torch.add(doubled, 1.0, out=out)
        total.add_(doubled.view(3, 1).sum())

    graph = EmulatedCapture().capture(work, None)
    assert out.tolist() == [0.0] * 3
    assert total.item() == 0.0
    assert kept[0].isnan().all()
    factor = 5.0
    x.fill_(3.0)
    graph.replay()
    graph.replay()
    assert out.tolist() == [7.0] * 3
    assert total.item() == 36.0
    assert kept[0].isnan().all()


def test_the_emulation_keeps_nothing_alive_but_its_own() -> None:
    held = {"x": torch.ones(3)}
    out = torch.zeros(3)

    def work() -> None:
        out.copy_(held["x"])

    graph = EmulatedCapture().capture(work, None)
    graph.replay()
    held.clear()
    with pytest.raises(RuntimeError, match="must not outlive memory that it uses"):
        graph.replay()


# ---------------------------------------------------------------------------------------------
# On a CUDA device
# ---------------------------------------------------------------------------------------------


def test_graphs_of_a_run_share_the_memory_of_one_that_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked of torch.cuda, seen without a device."""
    said: list[Any] = []

    class Stream:
        def __init__(self, device: object = None) -> None:
            self.device = device

        def wait_stream(self, other: object) -> None:
            said.append((self, "waits for", other))

    class CUDAGraph:
        def pool(self) -> tuple[CUDAGraph, str]:
            return self, "pool"

        def replay(self) -> None:
            said.append((self, "replay"))

    @contextlib.contextmanager
    def saying(*given: object, **named: object) -> Iterator[None]:
        said.append((*given, named))
        yield
        said.append("end")

    current, device = Stream(), torch.device("cuda", 1)
    for name, value in {
        "Stream": Stream,
        "CUDAGraph": CUDAGraph,
        "current_stream": lambda given: current,
        "stream": saying,
        "device": saying,
        "graph": saying,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    capture = CudaCapture(device)
    capture.run(lambda: said.append("work"))
    side = said[0][0]
    assert said == [
        (side, "waits for", current),
        (side, {}),
        "work",
        "end",
        (current, "waits for", side),
    ]
    said.clear()
    first = capture.capture(lambda: said.append("work"), None)
    asked = {"stream": side, "capture_error_mode": "thread_local"}
    assert said == [(device, {}), (first, {**asked, "pool": None}), "work", "end", "end"]
    said.clear()
    second = capture.capture(lambda: None, first)
    assert said[1] == (second, {**asked, "pool": (first, "pool")})
    second.replay()
    assert said[-1] == (second, "replay")


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_cuda_graphs_train_as_steps_one_by_one(
    mode: TrainingMode, kind: str, precision: Precision
) -> None:
    output_dim = 1 if "values" in kind else N_CLASSES
    found = []
    for is_captured in (False, True):
        members = _members(mode, output_dim, precision=precision, device="cuda")
        objective = _objective(kind, "cuda")
        take = _one_by_one(members)
        if is_captured:
            take = _captured(StepGraphs(members, objective, WEIGHT_DECAY))
        stops = {8: [True, False, True], 16: [False, False, True]}
        _train(take, members, objective, active=stops, device="cuda")
        found.append({**members.state(), **objective.state()})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


@needs_cuda
@pytest.mark.parametrize("hide_rate", [0.0, 0.3])
def test_cuda_finds_no_wait_between_the_batches_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch, hide_rate: float
) -> None:
    monkeypatch.setattr(members_module, "_STEPS_PER_BLOCK", 8)

    class Strict(MemoryRows):
        def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield from super().epoch(number, skip=skip)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    table = _Table("cuda")
    _fit(table, rows=Strict, hide_rate=hide_rate)


@needs_cuda
def test_cuda_and_cpu_train_the_same_networks() -> None:
    settings = _settings(max_epochs=12, patience=3)
    tables = _Table("cpu"), _Table("cuda")
    one, two = (_fit(t, losses=_stopping(t), settings=settings)[0] for t in tables)
    assert one.best_epochs == two.best_epochs
    for mine, other in zip(two.modules, one.modules, strict=True):
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value.cpu(), other.state_dict()[name], rtol=1e-2, atol=1e-2)
