"""Compiled steps compute what autograd does, in the same bits however they are shared out."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright import TabularClassifier
from tabwright.regression import RegressionObjective
from tabwright.training import loop
from tabwright.training.engine import compiled_kernels as kernels_module
from tabwright.training.engine import compiled_steps
from tabwright.training.engine.compiled_kernels import (
    blas_sgemm,
    compiled_kernels,
    engine_name,
    has_compiled_kernels,
    may_be_shared,
)
from tabwright.training.engine.compiled_steps import teams_of
from tabwright.training.engine.row_goal import RowGoal
from tabwright.training.engine.row_table import RowTable
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.objectives import Objective
from tabwright.training.regression_losses import RegressionLoss
from tabwright.training.running_loss import RunningLoss
from tests.new_process import run_python

pytestmark = pytest.mark.skipif(
    not has_compiled_kernels(), reason="installed without the compiled kernels"
)

CPU = torch.device("cpu")
N_ROWS = 150
ARCHITECTURES: tuple[TrainingMode, ...] = ("mlp_dense", "tabresnet", "linear_glm_baseline")
REGRESSIONS: tuple[RegressionObjective, ...] = ("absolute_error", "quantile", "poisson", "gamma")
KINDS = ("classes", "weighted classes", "teacher", "cooled", "some unlabelled", "values", "mixed")


@pytest.fixture
def _threads_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_steps, "_WORTH_A_THREAD", 0)
    monkeypatch.setattr(compiled_steps, "_WORTH_SHARING", 0)


def _modules(
    n_members: int,
    mode: TrainingMode,
    *,
    n_inputs: int = 9,
    n_outputs: int = 3,
    width: int = 32,
    depth: int = 2,
    rate: float = 0.3,
) -> list[nn.Module]:
    modules = []
    for seed in range(n_members):
        torch.manual_seed(seed)
        module = build_model(n_inputs, n_outputs, mode, width, depth, rate)
        with torch.no_grad():
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.add_(0.3 * torch.rand_like(value))
        modules.append(module)
    return modules


def _objective(kind: str, n_outputs: int, n_members: int, dtype: torch.dtype) -> Objective:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, n_outputs, (N_ROWS,), generator=generator)
    values = torch.randn(N_ROWS, 1, generator=generator).to(dtype)
    weights = (torch.rand(N_ROWS, generator=generator) + 0.1).to(dtype)
    soft = torch.softmax(torch.randn(N_ROWS, n_outputs, generator=generator), dim=1).to(dtype)
    shares = torch.linspace(0, 1, n_members).to(dtype)
    temperatures = torch.linspace(1, 3, n_members)
    labelled = torch.arange(N_ROWS) < 90
    for name in REGRESSIONS:
        if kind == name:
            levels = tuple(np.linspace(0.1, 0.9, n_outputs)) if kind == "quantile" else ()
            amounts = (3 * values.abs() + 0.1) if kind == "gamma" else (3 * values.abs()).floor()
            return Objective(amounts, weights, regression=RegressionLoss(name, levels))
    kinds: dict[str, Callable[[], Objective]] = {
        "classes": lambda: Objective(codes),
        "weighted classes": lambda: Objective(codes, weights),
        "teacher": lambda: Objective(codes, weights, soft, shares),
        "cooled": lambda: Objective(codes, None, soft, shares, temperatures),
        "some unlabelled": lambda: Objective(codes, None, soft, 0.4, 2.0, labelled),
        "values": lambda: Objective(values, weights),
        "mixed": lambda: Objective(values, None, -values, shares, labelled=labelled),
    }
    return kinds[kind]()


def _n_outputs(kind: str, n_classes: int) -> int:
    """Of networks that are trained on such an objective."""
    one = ("values", "mixed", "absolute_error", "poisson", "gamma")
    return 1 if kind in one else n_classes


def _batches(n_batches: int, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack(
        [torch.randperm(N_ROWS, generator=generator)[:batch] for _ in range(n_batches)]
    )


def _x(n_inputs: int = 9) -> Tensor:
    return 1 + torch.randn(N_ROWS, n_inputs, generator=torch.Generator().manual_seed(2))


def _run(
    members: StackedMembers,
    objective: Objective,
    x: Tensor,
    rows: Tensor,
    rates: list[float],
    step: int = 0,
    running: RunningLoss | None = None,
) -> None:
    running = running or RunningLoss()
    members.train_run(
        RowTable.dense(x),
        objective.goal,
        rows,
        step=step,
        hide_keys=None,
        learning_rates=rates,
        weight_decay=0.1,
        loss_sums=running.begin(members.n_members, CPU),
    )
    running.count(rows.numel())


def _assert_same(first: StackedMembers, second: StackedMembers) -> None:
    for mine, theirs in zip(first.modules(), second.modules(), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def _assert_near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert float((found.double() - wanted).norm()) <= tolerance * float(3e-2 + wanted.norm())


# ---------------------------------------------------------------------------------------------
# What autograd computes in float64
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_inputs", "n_outputs", "width", "depth", "batch"),
    [(1, 2, 1, 1, 3), (9, 3, 37, 3, 65), (21, 7, 130, 2, 64), (5, 2, 64, 1, 33)],
)
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.995])
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_gradients_losses_and_statistics_are_those_of_autograd(
    mode: TrainingMode,
    rate: float,
    n_inputs: int,
    n_outputs: int,
    width: int,
    depth: int,
    batch: int,
    kind: str,
) -> None:
    n_members, outputs = 3, _n_outputs(kind, n_outputs)
    sizes = {"n_inputs": n_inputs, "n_outputs": outputs, "width": width, "depth": depth}
    modules = _modules(n_members, mode, rate=rate, **sizes)
    x, rows = _x(n_inputs), _batches(1, batch)
    members = StackedMembers(modules, seeds=range(n_members), engine="compiled")
    objective = _objective(kind, n_outputs, n_members, torch.float32)
    running, exact_running = RunningLoss(), RunningLoss()
    _run(members, objective, x, rows, [0.0], step=4, running=running)
    exact = StackedMembers([m.double() for m in modules], seeds=range(n_members))
    exact_objective = _objective(kind, n_outputs, n_members, torch.float64)
    gradient = partial(exact_objective.gradient, rows=rows[0], running=exact_running)
    exact.forward_backward(x[rows[0]].double(), gradient, step=4)
    for k in range(n_members):
        wanted = exact.gradients(k)
        for name, value in members.gradients(k).items():
            _assert_near(value, wanted[name], 1e-3 if rate > 0.9 else 4e-4)
        state = exact.modules()[k].state_dict()
        for name, value in members.modules()[k].state_dict().items():
            if "running" in name:
                _assert_near(value, state[name], 1e-5)
    torch.testing.assert_close(running.take(), exact_running.take(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", REGRESSIONS)
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_losses_of_regressions_are_those_of_autograd(mode: TrainingMode, kind: str) -> None:
    test_gradients_losses_and_statistics_are_those_of_autograd(mode, 0.3, 9, 3, 37, 2, 65, kind)


@pytest.mark.parametrize("kind", ["poisson", "gamma"])
def test_means_end_where_those_of_predictions_do(kind: str) -> None:
    """Of outputs past the largest logarithm, up and down, beside usual ones."""
    (module,) = _modules(1, "linear_glm_baseline", n_inputs=1, n_outputs=1)
    x = torch.linspace(-40, 40, N_ROWS)[:, None]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), (1.0, 0.0), strict=True):
            parameter.fill_(value)
    rows, running, exact = torch.arange(N_ROWS)[None], RunningLoss(), RunningLoss()
    members = StackedMembers([module], seeds=[0], engine="compiled")
    objective = _objective(kind, 1, 1, torch.float32)
    _run(members, objective, x, rows, [0.0], running=running)
    gradient = objective.gradient(x[None].clone(), rows[0], exact)
    torch.testing.assert_close(running.take(), exact.take(), rtol=1e-5, atol=0)
    (wanted,) = gradient[0].T @ x
    torch.testing.assert_close(next(iter(members.gradients(0).values()))[0], wanted)


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_many_steps_are_those_of_autograd_and_of_torchs_adamw(mode: TrainingMode) -> None:
    modules, rows, x = _modules(2, mode), _batches(12, 50), _x()
    rates = [0.003 / (1 + i) for i in range(12)]
    members = StackedMembers(modules, seeds=[0, 1], engine="compiled")
    objective = _objective("classes", 3, 2, torch.float32)
    _run(members, objective, x, rows, rates)
    exact = StackedMembers([m.double() for m in modules], seeds=[0, 1])
    for step, rate in enumerate(rates):
        gradient = partial(objective.gradient, rows=rows[step])
        exact.forward_backward(x[rows[step]].double(), gradient, step=step)
        exact.optimizer_step(rate, 0.1)
    for mine, wanted in zip(members.modules(), exact.modules(), strict=True):
        for name, value in mine.state_dict().items():
            if value.is_floating_point():
                _assert_near(value, wanted.state_dict()[name], 2e-3)


def test_adamw_makes_the_steps_of_torch() -> None:
    torch.manual_seed(3)
    start = torch.randn(200)
    wanted = [nn.Parameter(part.clone()) for part in torch.split(start, [128, 72])]
    optimizer = torch.optim.AdamW(
        [{"params": wanted[:1], "weight_decay": 0.1}, {"params": wanted[1:], "weight_decay": 0.0}],
        betas=(0.8, 0.95),
    )
    values, first, second = start.clone(), torch.zeros(200), torch.zeros(200)
    for step in range(30):
        gradient = torch.randn(200) * 10.0 ** -(step % 7)
        gradient[5] = 3e18 if step == 4 else 0.0
        for parameter, own in zip(wanted, torch.split(gradient, [128, 72]), strict=True):
            parameter.grad = own.clone()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        optimizer.step()
        rows = tuple(tensor.data_ptr() for tensor in (values, gradient, first, second))
        shared = (float(step + 1), 1e-2 / (step + 1), 0.1, 0.8, 0.95, 1e-8)
        # By two threads: whose parts decay ends in does not matter.
        for place, end in ((0, 64), (64, 200)):
            compiled_kernels().adamw(place, end, 128, *rows, *shared)
    expected = torch.cat([parameter.detach() for parameter in wanted])
    torch.testing.assert_close(values, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_a_large_offset_leaves_the_small_variance(offset: float) -> None:
    """In float32 the mean of squares less the square of the mean would leave nothing."""
    (module,) = _modules(1, "mlp_dense", width=16)
    x = _x() + offset
    members = StackedMembers([module], seeds=[0], engine="compiled")
    _run(members, Objective(torch.zeros(N_ROWS, dtype=torch.int64)), x, _batches(1, 128), [0.0])
    exact = module.double().train()
    exact(x[_batches(1, 128)[0]].double())
    found = members.modules()[0].state_dict()["net.norm1.running_var"]
    wanted = exact.state_dict()["net.norm1.running_var"].float()
    torch.testing.assert_close(found, wanted, rtol=1e-4 + 1e-7 * offset, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_what_is_not_a_number_shows_in_the_loss(mode: TrainingMode, bad: float) -> None:
    x, rows = _x(), _batches(1, 40)
    x[rows[0, 3], 2] = bad
    members = StackedMembers(_modules(2, mode, rate=0.1), seeds=[0, 1], engine="compiled")
    objective, running = _objective("classes", 3, 2, torch.float32), RunningLoss()
    _run(members, objective, x, rows, [0.1], running=running)
    assert not running.take().isfinite().any()


# ---------------------------------------------------------------------------------------------
# The same bits
# ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_threads_are_worth_it")
@pytest.mark.parametrize("kind", [*KINDS, "quantile", "poisson"])
@pytest.mark.parametrize(("width", "batch"), [(7, 13), (64, 64), (100, 65)])
@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_neither_threads_nor_neighbours_nor_the_length_of_a_run_change_a_bit(
    mode: TrainingMode, width: int, batch: int, kind: str
) -> None:
    n_members, n_outputs = 3, _n_outputs(kind, 3)
    modules = _modules(n_members, mode, width=width, n_outputs=n_outputs)
    x, rows, seeds = _x(), _batches(6, batch), [4, 5, 6]
    rates = [0.01 / (i + 1) for i in range(6)]
    whole = StackedMembers(modules, seeds=seeds, engine="compiled")
    objective, running = _objective(kind, 3, n_members, torch.float32), RunningLoss()
    _run(whole, objective, x, rows, rates, running=running)
    losses = running.take()
    for n_threads in (2, 3, 4):
        shared = StackedMembers(modules, seeds=seeds, n_threads=n_threads, engine="compiled")
        objective = _objective(kind, 3, n_members, torch.float32)
        for i in range(0, 6, 2):
            part = slice(i, i + 2)
            _run(shared, objective, x, rows[part], rates[part], step=i, running=running)
        _assert_same(whole, shared)
        assert torch.equal(running.take(), losses)
    if kind not in ("teacher", "cooled", "mixed"):
        for k, module in enumerate(modules):
            alone = StackedMembers([module], seeds=seeds[k : k + 1], engine="compiled")
            objective = _objective(kind, 3, 1, torch.float32)
            _run(alone, objective, x, rows, rates, running=running)
            assert torch.equal(running.take(), losses[k : k + 1])
            for name, value in alone.modules()[0].state_dict().items():
                assert torch.equal(value, whole.modules()[k].state_dict()[name]), name


_ALL_KERNELS = """
import numpy as np
import torch

from tabwright import TabularClassifier

X = np.random.default_rng(0).normal(size=(1_200, 6))
order = np.argsort(np.argsort(X[:, 0] + X[:, 1]))
for n_classes, batch in ((3, 256), (5, 256), (10, 128), (26, 64)):
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        model = TabularClassifier(
            quality="fast", max_epochs=1, hidden_dim=256, batch_size=batch, random_state=0
        )
        found.append(model.fit(X, order * n_classes // len(X)).predict_proba(X))
    assert np.array_equal(*found), n_classes
"""


@pytest.mark.parametrize("kernels", ["", "SkylakeX", "Haswell"])
def test_threads_change_no_bit_by_any_kernels_of_the_blas(kernels: str) -> None:
    """OpenBLAS takes those of this processor unless it is told which, when it is loaded."""
    if kernels == "SkylakeX" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor has no AVX-512")
    run_python(_ALL_KERNELS, environment={"OPENBLAS_CORETYPE": kernels})


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_a_run_is_the_passes_and_updates_one_by_one(mode: TrainingMode) -> None:
    """Bit for bit, with the loss's gradient that torch computes of one class alone."""
    modules, x, rows = _modules(2, mode, n_outputs=1), _x(), _batches(4, 48)
    values = _objective("values", 3, 2, torch.float32).targets
    whole, single = (StackedMembers(modules, seeds=[0, 1], engine="compiled") for _ in range(2))
    _run(whole, Objective(values), x, rows, [0.01] * 4)
    for step in range(4):
        wanted = values[rows[step]]

        def gradient(logits: Tensor, wanted: Tensor = wanted) -> Tensor:
            return (logits - wanted) * 2 * (torch.ones(()) / 48)

        single.forward_backward(x[rows[step]], gradient, step=step)
        single.optimizer_step(0.01, 0.1)
    _assert_same(whole, single)


@pytest.mark.parametrize(
    ("n_members", "n_threads", "can_share", "wanted"),
    [
        (4, 2, True, [(1, [0, 1]), (1, [2, 3])]),
        (1, 2, True, [(2, [0])]),
        (3, 2, True, [(2, [0, 1, 2])]),
        (2, 4, True, [(2, [0]), (2, [1])]),
        (3, 2, False, [(1, [0]), (1, [1, 2])]),
        (1, 4, False, [(1, [0])]),
    ],
)
def test_all_threads_have_the_same_work(
    n_members: int, n_threads: int, can_share: bool, wanted: list[tuple[int, list[int]]]
) -> None:
    teams = teams_of(range(n_members), n_threads, can_share=can_share)
    assert [(len(team.threads), team.members) for team in teams] == wanted


@pytest.mark.usefixtures("_threads_are_worth_it")
def test_members_are_not_shared_where_a_blas_would_change_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = StackedMembers(_modules(1, "mlp_dense", width=64), seeds=[0], n_threads=2)
    assert members._compiled is not None
    for may_share, n_threads in ((True, 2), (False, 1)):
        monkeypatch.setattr(compiled_steps, "may_be_shared", lambda *_, may=may_share: may)
        assert len(members._compiled._teams([0], 64, 4)[0].threads) == n_threads


@pytest.mark.parametrize("changed", [None, (False, False), (True, False), (False, True)])
def test_a_blas_that_adds_up_parts_otherwise_is_seen(
    changed: tuple[bool, bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def product(
        _: int, x: Tensor, weight: Tensor, *, transposed: tuple[bool, bool], n_parts: int = 1
    ) -> Tensor:
        x, weight = (
            a.t() if transposes else a
            for a, transposes in zip((x, weight), transposed, strict=True)
        )
        return x @ weight + (n_parts > 1 and transposed == changed)

    monkeypatch.setattr(kernels_module, "_product", product)
    may_be_shared.cache_clear()
    try:
        assert may_be_shared(64, 20, 64, 3, 2) == (changed is None)
    finally:
        may_be_shared.cache_clear()


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_products_in_parts_are_products(transposed: tuple[bool, bool], n_parts: int) -> None:
    x, weight = torch.arange(35.0).view(7, 5) % 9 - 4, torch.arange(350.0).view(5, 70) % 7 - 3
    given = [
        a.t().contiguous() if transposes else a
        for a, transposes in zip((x, weight), transposed, strict=True)
    ]
    found = kernels_module._product(blas_sgemm(), *given, transposed=transposed, n_parts=n_parts)
    assert torch.equal(found, x @ weight)


@pytest.mark.usefixtures("_threads_are_worth_it")
def test_training_leaves_threads_and_random_streams_as_they_were() -> None:
    random, alive = torch.get_rng_state(), threading.active_count()
    members = StackedMembers(_modules(4, "mlp_dense"), seeds=range(4), n_threads=2)
    random = torch.get_rng_state()
    _run(members, _objective("classes", 3, 4, torch.float32), _x(), _batches(3, 32), [0.1] * 3)
    assert threading.active_count() == alive + 1
    assert torch.equal(torch.get_rng_state(), random)
    del members
    gc.collect()
    for _ in range(100):
        if threading.active_count() == alive:
            break
        threading.Event().wait(0.02)
    assert threading.active_count() == alive


def test_small_work_stays_in_the_calling_thread() -> None:
    members = StackedMembers(_modules(4, "mlp_dense"), seeds=range(4), n_threads=4)
    alive = threading.active_count()
    _run(members, _objective("classes", 3, 4, torch.float32), _x(), _batches(2, 16), [0.1] * 2)
    assert threading.active_count() == alive


# ---------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------


def test_what_would_leave_the_memory_is_refused() -> None:
    members = StackedMembers(_modules(2, "mlp_dense"), seeds=[0, 1], engine="compiled")
    objective, x = _objective("classes", 3, 2, torch.float32), _x()
    for outside in (N_ROWS, -1, 2**40):
        rows = torch.tensor([[0, outside, 1]])
        with pytest.raises(IndexError, match=f"rows must be from 0 to 149; got {outside}"):
            _run(members, objective, x, rows, [0.1])
    rows = _batches(2, 16)
    with pytest.raises(ValueError, match=r"contiguous torch\.int64"):
        _run(members, objective, x, rows.int(), [0.1] * 2)
    with pytest.raises(ValueError, match=r"150 and 150 rows, 2 batches and 1 rates"):
        _run(members, objective, x, rows, [0.1])
    with pytest.raises(ValueError, match="149 and 150 rows"):
        _run(members, objective, x[:-1], rows, [0.1] * 2)
    with pytest.raises(ValueError, match="rows must have 9 inputs; got 8"):
        _run(members, objective, x[:, :8].contiguous(), rows, [0.1] * 2)
    with pytest.raises(ValueError, match="logits must have 5 columns or more"):
        _run(members, _objective("classes", 5, 2, torch.float32), x, rows, [0.1] * 2)
    with pytest.raises(ValueError, match="as many as the soft targets"):
        _run(members, _objective("teacher", 2, 2, torch.float32), x, rows, [0.1] * 2)
    with pytest.raises(ValueError, match="teacher must be that of 2 members; got 3"):
        _run(members, _objective("cooled", 3, 3, torch.float32), x, rows, [0.1] * 2)
    with pytest.raises(ValueError, match="at least 2 rows in training; got 1"):
        _run(members, objective, x, rows[:, :1].contiguous(), [0.1] * 2)
    with pytest.raises(ValueError, match=r"of shape \(20, 3\) on the CPU; got torch.float64"):
        members.forward_backward(x[:20].double(), torch.zeros_like, step=0)
    with pytest.raises(ValueError, match=r"of shape \(20, 3\) on the CPU; got torch.float64"):
        members.forward_backward(x[:20], lambda z: torch.zeros_like(z).double(), step=0)
    for bad in ("targets", "weights", "labelled"):
        given: dict[str, Any] = {
            "targets": torch.tensor([0, 1, 1]),
            "weights": None,
            "soft": None,
            "labelled": None,
        }
        given[bad] = torch.tensor([True]) if bad == "targets" else torch.ones(2)
        with pytest.raises(ValueError, match=bad):
            RowGoal(**given, teacher_weights=[0.0], temperatures=[1.0])
    with pytest.raises(ValueError, match="logits must have 2 columns, and as many"):
        _run(members, _objective("quantile", 2, 2, torch.float32), x, rows, [0.1] * 2)
    with pytest.raises(ValueError, match="squared error and for classes; got objective 'gamma'"):
        RowGoal(torch.ones(3, 1), None, torch.ones(3, 1), None, [0.0], [1.0], "gamma")
    with pytest.raises(ValueError, match="class codes must be 0 or more; got -1"):
        _ = Objective(torch.tensor([0, -1])).goal


def test_a_table_that_contradicts_itself_is_refused() -> None:
    pairs = torch.tensor([[1, 4]])
    given: dict[str, Any] = {
        "dense": torch.zeros(2, 1),
        "ranges": torch.tensor([[0, 1]]),
        "bins": torch.tensor([[1], [3]], dtype=torch.int32),
        "shares": torch.zeros(2, 1),
        "bin_bounds": pairs,
        "flags": torch.tensor([[4], [-1]], dtype=torch.int32),
        "flag_bounds": torch.tensor([[4, 6]]),
        "unknown": torch.tensor([4], dtype=torch.int32),
    }
    assert RowTable(**given).input_dim == 6
    for name in ("bins", "flags"):
        outside = {name: torch.tensor([[6], [1]], dtype=torch.int32)}
        with pytest.raises(ValueError, match="within the bounds of their columns"):
            RowTable(**{**given, **outside})
    with pytest.raises(ValueError, match=r"contiguous torch\.float32"):
        RowTable(**{**given, "shares": torch.zeros(1, 2).T.expand(2, 2)})


def test_targets_are_those_that_were_given() -> None:
    found = []
    for is_changed in (False, True):
        members = StackedMembers(_modules(1, "mlp_dense"), seeds=[0], engine="compiled")
        objective = _objective("classes", 3, 1, torch.float32)
        _ = objective.goal
        if is_changed:
            objective.targets.fill_(5_000)
        _run(members, objective, _x(), _batches(2, 16), [0.1] * 2)
        found.append(members)
    _assert_same(*found)


def test_a_blas_that_does_not_multiply_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    blas_sgemm.cache_clear()
    monkeypatch.setattr(compiled_kernels(), "product_alone", lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="sgemm must multiply matrices; it does not"):
            blas_sgemm()
    finally:
        blas_sgemm.cache_clear()


def test_modules_that_are_not_for_them_are_refused() -> None:
    modules = _modules(1, "mlp_dense")
    with pytest.raises(ValueError, match="engine must be one of auto, torch, compiled; got 'fast'"):
        StackedMembers(modules, seeds=[0], engine="fast")  # type: ignore[arg-type]
    for given in (
        {"modules": [_modules(1, "mlp_dense")[0].double()]},
        {"modules": modules, "precision": "bfloat16"},
        {"modules": modules, "all_reduce": lambda _: None},
    ):
        with pytest.raises(ValueError, match="engine 'compiled' is for modules in float32"):
            StackedMembers(seeds=[0], engine="compiled", **given)
    torch_alone = StackedMembers(modules, seeds=[0], engine="torch")
    with pytest.raises(ValueError, match="runs are for compiled steps; use forward_backward"):
        _run(torch_alone, _objective("classes", 3, 1, torch.float32), _x(), _batches(1, 9), [0.1])


# ---------------------------------------------------------------------------------------------
# Models, instruction sets, and installations without the extension
# ---------------------------------------------------------------------------------------------


def _problem() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    return X, np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")


def _model() -> TabularClassifier:
    return TabularClassifier(
        quality="fast", n_members=2, max_epochs=30, hidden_dim=32, random_state=0
    )


def test_a_model_learns_as_well_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _problem()
    probabilities = []
    for is_compiled in (True, True, False):
        with monkeypatch.context() as patch:
            if not is_compiled:
                patch.setattr(kernels_module, "_instruction_sets", dict)
                patch.setattr(loop, "_warn_without_compiled_kernels", lambda: None)
            model = _model().fit(X[:400], y[:400])
        probabilities.append(model.predict_proba(X[400:]))
        assert (model.predict(X[400:]) == y[400:]).mean() > 0.9
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    np.testing.assert_allclose(probabilities[0], probabilities[2], atol=0.1)
    assert not np.array_equal(probabilities[0], probabilities[2])


@pytest.fixture
def _fresh_kernels() -> Iterator[None]:
    compiled_kernels.cache_clear()
    yield
    compiled_kernels.cache_clear()


@pytest.mark.usefixtures("_fresh_kernels")
@pytest.mark.parametrize("name", list(kernels_module._instruction_sets()))
def test_every_instruction_set_computes_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = kernels_module._instruction_sets()
    monkeypatch.setattr(kernels_module, "_instruction_sets", lambda: {name: sets[name]})
    assert engine_name() == f"compiled, {name}"
    for mode in ARCHITECTURES:
        test_gradients_losses_and_statistics_are_those_of_autograd(
            mode, 0.3, 9, 3, 70, 2, 65, "weighted classes"
        )
    test_adamw_makes_the_steps_of_torch()


@pytest.mark.usefixtures("_fresh_kernels")
def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"instruction_set must be one of \w+.*; got 'sse9'"):
        compiled_kernels("sse9")
    monkeypatch.setattr(kernels_module, "_instruction_sets", dict)
    compiled_kernels.cache_clear()
    with pytest.raises(ValueError, match="built without it; install a C compiler"):
        compiled_kernels()


def test_without_the_extension_the_first_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "_instruction_sets", dict)
    loop._warn_without_compiled_kernels.cache_clear()
    X, y = _problem()
    with pytest.warns(RuntimeWarning, match="has no compiled kernels, so training takes longer"):
        _model().fit(X[:100], y[:100])
    _model().fit(X[:100], y[:100])
    assert engine_name() == "torch"


def test_the_argument_of_before_is_deprecated() -> None:
    X, y = _problem()
    with pytest.warns(FutureWarning, match="kernels is deprecated and has no effect; got 'torch'"):
        _model().set_params(kernels="torch", max_epochs=1).fit(X[:100], y[:100])


def test_a_blas_has_one_thread_while_networks_train() -> None:
    def threads() -> set[int]:
        return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}

    seen: list[set[int]] = []
    X, y = _problem()
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        _model().fit(X[:100], y[:100], callbacks=[lambda _: seen.append(threads())])
        assert threads() == before
    assert seen
    assert all(found == {1} for found in seen)
