"""Compiled kernels compute what torch's operations do, and say so where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn
from torch.nn import functional

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright import TabularClassifier
from tabwright.training import loop
from tabwright.training.engine import compiled_kernels as kernels_module
from tabwright.training.engine import passes
from tabwright.training.engine import threads as lanes
from tabwright.training.engine.adamw import FlatAdamW
from tabwright.training.engine.compiled_kernels import (
    CompiledKernels,
    compiled_kernels,
    engine_name,
    has_compiled_kernels,
)
from tabwright.training.engine.compiled_network import blas_sgemm
from tabwright.training.engine.dropout import DropoutMask, Part, dropout_keys
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.engine.torch_kernels import LayerBuffers, TorchKernels
from tabwright.training.objectives import Objective

CPU = torch.device("cpu")


pytestmark = pytest.mark.skipif(
    not has_compiled_kernels(), reason="installed without the compiled kernels"
)


def _layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as where something comes between two layers, such as a sum over workers."""
    monkeypatch.setattr(passes.Stack, "runs_whole_passes", False)


@pytest.fixture(params=["whole passes", "layer by layer"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of training."""
    if request.param == "layer by layer":
        _layer_by_layer(monkeypatch)
    return str(request.param)


# ---------------------------------------------------------------------------------------------
# A layer
# ---------------------------------------------------------------------------------------------


def _buffers(shape: tuple[int, int, int]) -> LayerBuffers:
    n_members, _, width = shape
    # Between two members lie sums of other layers.
    sums = torch.zeros(n_members, 5, width)
    whole, pair = torch.empty(shape), torch.empty(n_members, 2, width)
    return LayerBuffers(
        centred=torch.empty_like(whole),
        output=torch.empty_like(whole),
        scratch=torch.empty_like(whole),
        total=sums[:, 1:2],
        square_sum=sums[:, 3:4],
        gain=torch.empty_like(pair),
        affine=torch.empty_like(pair),
        sums=torch.empty_like(pair),
    )


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.995])
@pytest.mark.parametrize(
    ("shape", "part"),
    [((1, 3, 1), None), ((3, 71, 19), None), ((2, 33, 300), None), ((2, 20, 40), Part(7, 50))],
)
def test_a_layer_is_the_same_as_by_torch(
    shape: tuple[int, int, int], part: Part | None, rate: float, has_residual: bool
) -> None:
    torch.manual_seed(0)
    n_members, n_rows, width = shape
    values, outer = torch.randn(shape) * 2 + 30, torch.randn(shape)
    norm = torch.randn(n_members, 7, width)[:, 2:4]
    residual = torch.randn(shape) if has_residual else None
    key = dropout_keys(range(n_members), 1, torch.tensor([5]))[0, 0, :, None, None]
    found: list[list[Tensor]] = []
    for kind in (TorchKernels, CompiledKernels):
        buffers = _buffers(shape)
        mask = None
        if rate > 0:
            mask = DropoutMask(rate, shape, torch.float32, CPU, part)
        kernels = kind(buffers, mask, 1.0 - rate, n_rows if part is None else part.n_rows)
        buffers.centred.copy_(values)
        kernels.sum_values()
        kernels.centre()
        kernels.normalise(norm, residual, key)
        gradient, norm_gradient = outer.clone(), torch.zeros(n_members, 4, width)[:, 1:3]
        kernels.sum_gradients(gradient, norm_gradient)
        inner = torch.empty(shape)
        kernels.inner_gradient(gradient, inner)
        found.append(
            [buffers.total, buffers.square_sum, buffers.output, gradient, norm_gradient, inner]
        )
    for mine, theirs in zip(found[1], found[0], strict=True):
        # Two values of opposite sign may cancel: what counts is the size of all.
        size = float(theirs.abs().max()) + 1e-6
        torch.testing.assert_close(mine / size, theirs / size, rtol=1e-4, atol=2e-5)
    assert torch.equal(found[1][2] > 0, found[0][2] > 0)


def test_what_is_not_a_number_stays_so() -> None:
    shape = (1, 40, 24)
    buffers = _buffers(shape)
    kernels = CompiledKernels(buffers, DropoutMask(0.01, shape, torch.float32, CPU), 0.99, 40)
    buffers.centred.normal_()
    buffers.centred[0, 3, 5] = float("nan")
    kernels.sum_values()
    kernels.centre()
    key = dropout_keys([1], 1, torch.tensor([0]))[0, 0, :, None, None]
    kernels.normalise(torch.ones(1, 2, 24), None, key)
    assert buffers.output[0, :, 5].isnan().float().mean() > 0.9
    assert not buffers.output[0, :, :5].isnan().any()
    with pytest.raises(ValueError, match="needs a key; make one with dropout_keys"):
        kernels.normalise(torch.ones(1, 2, 24), None, None)


# ---------------------------------------------------------------------------------------------
# The loss and the optimiser
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3, 26])
def test_the_gradient_of_cross_entropy_is_that_of_torch(n_classes: int, is_weighted: bool) -> None:
    torch.manual_seed(1)
    targets = torch.randint(0, n_classes, (50,))
    weights = torch.rand(50) + 0.1 if is_weighted else None
    rows = torch.randperm(50)[:37]
    logits = torch.randn(3, 37, n_classes) * torch.tensor([0.01, 3.0, 60.0])[:, None, None]
    logits[0, 0] = torch.linspace(-1e30, 1e30, n_classes)
    by_torch, compiled = (
        Objective(targets, weights, is_compiled=is_compiled) for is_compiled in (False, True)
    )
    exact = Objective(targets, None if weights is None else weights.double())
    for _ in range(2):
        found = compiled.gradient(logits, rows)
        torch.testing.assert_close(found, by_torch.gradient(logits, rows), rtol=2e-6, atol=5e-9)
        wanted = exact.gradient(logits.double(), rows)
        torch.testing.assert_close(found.double(), wanted, rtol=3e-6, atol=5e-9)
    mine, theirs = compiled.take_running_loss(), exact.take_running_loss()
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_a_loss_that_is_not(bad: float) -> None:
    objective = Objective(torch.tensor([0, 1, 1]), is_compiled=True)
    logits = torch.zeros(2, 3, 2)
    logits[1, 2, 0] = bad
    gradient = objective.gradient(logits, torch.arange(3))
    assert gradient[1, 2].isnan().any()
    assert gradient[0].isfinite().all()
    losses = objective.take_running_loss()
    assert losses[0].isfinite()
    assert not losses[1].isfinite()


def test_going_on_from_a_state_leaves_the_state_alone() -> None:
    rows, logits = torch.arange(3), torch.randn(2, 3, 2)
    whole, first, second = (Objective(torch.tensor([0, 1, 1]), is_compiled=True) for _ in range(3))
    first.gradient(logits, rows)
    state = first.state()
    before = state["loss_sum"].clone()
    second.load_state(state)
    second.gradient(logits + 1, rows)
    assert torch.equal(state["loss_sum"], before)
    for values in (logits, logits + 1):
        whole.gradient(values, rows)
    assert torch.equal(second.take_running_loss(), whole.take_running_loss())


def test_what_would_leave_the_memory_is_refused() -> None:
    objective = Objective(torch.tensor([0, 1, 2]), is_compiled=True)
    logits, rows = torch.zeros(2, 3, 3), torch.arange(3)
    with pytest.raises(ValueError, match=r"rows must be int64 of shape \(3,\); got torch.int32"):
        objective.gradient(logits, rows.int())
    with pytest.raises(ValueError, match="logits must have 3 classes or more; got 2"):
        objective.gradient(logits[..., :2], rows)
    objective.load_state({"loss_sum": torch.zeros(1), "row_count": torch.tensor([3])})
    with pytest.raises(ValueError, match=r"running loss must be torch.float32 of shape \(2,\)"):
        objective.gradient(logits, rows)
    with pytest.raises(ValueError, match="class codes must be 0 or more; got -1"):
        Objective(torch.tensor([0, -1]), is_compiled=True)
    objective = Objective(torch.tensor([0, 1, 2]), is_compiled=True)
    for outside in (3, -1, 2**40):
        with pytest.raises(IndexError, match=f"rows must be from 0 to 2; got {outside}"):
            objective.gradient(logits, torch.tensor([0, outside, 1]))
    with pytest.raises(ValueError, match=r"must be class codes of shape .*; got torch.bool"):
        Objective(torch.tensor([True, False]), is_compiled=True)
    with pytest.raises(ValueError, match=r"weights must be one per row \(300\); got shape \(3,\)"):
        Objective(torch.zeros(300, dtype=torch.int64), torch.ones(3), is_compiled=True)
    for bad in (torch.zeros(2, 64).double(), torch.zeros(64, 2).T, torch.zeros(2, 32)):
        with pytest.raises(ValueError, match="compiled kernels take contiguous"):
            FlatAdamW(torch.zeros(2, 64), bad, 64, is_compiled=True)


def test_targets_are_those_that_were_given() -> None:
    codes, rows, logits = torch.tensor([0, 1, 1]), torch.arange(3), torch.randn(2, 3, 2)
    wanted = Objective(codes, is_compiled=True).gradient(logits, rows)
    given = codes.to(torch.int32)
    objective = Objective(given, is_compiled=True)
    given.fill_(5_000)
    assert torch.equal(objective.gradient(logits, rows), wanted)


def test_what_has_no_kernel_is_left_to_torch() -> None:
    torch.manual_seed(2)
    rows, logits = torch.arange(4), torch.randn(2, 4, 3)
    codes, soft = torch.tensor([0, 2, 1, 1]), torch.softmax(torch.randn(4, 3), dim=1)
    goal = torch.randn(4, 1)
    for by_torch, compiled, values in (
        (
            Objective(codes, None, soft, 0.5),
            Objective(codes, None, soft, 0.5, is_compiled=True),
            logits,
        ),
        (Objective(goal), Objective(goal, is_compiled=True), logits[..., :1]),
    ):
        assert torch.equal(compiled.gradient(values, rows), by_torch.gradient(values, rows))
    double = Objective(codes, is_compiled=True).gradient(logits.double(), rows)
    assert double.dtype == torch.float64


def test_adamw_makes_the_steps_of_torch() -> None:
    torch.manual_seed(3)
    start = torch.randn(3, 200)
    kept = []
    for is_compiled in (False, True):
        parameters, gradients = start.clone(), torch.zeros(3, 200)
        optimizer = FlatAdamW(parameters, gradients, 128, is_compiled=is_compiled)
        for step in range(30):
            torch.manual_seed(step)
            gradients.normal_(std=10.0 ** -(step % 7))
            gradients[:, 5] = 3e19 if step == 4 else 0.0
            optimizer.step(1e-2 / (step + 1), 0.1, slice(0, 2) if step % 3 else slice(None))
        kept.append((parameters, optimizer.first_moments, optimizer.second_moments))
        assert optimizer.steps.tolist() == [30, 30, 10]
    for mine, theirs in zip(kept[1], kept[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------
# Members and models
# ---------------------------------------------------------------------------------------------


def _modules(n_members: int, mode: TrainingMode, width: int) -> list[nn.Module]:
    modules = []
    for seed in range(n_members):
        torch.manual_seed(seed)
        modules.append(build_model(5, 3, mode, width, 2, 0.2))
    return modules


def _trained(members: StackedMembers, kernels: str, batches: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(max(batches), 5, generator=generator)
    objective = Objective((x[:, 0] > 0).long(), is_compiled=kernels == "compiled")
    for step, batch in enumerate(batches):
        rows = torch.arange(batch)
        members.forward_backward(x[:batch], objective.gradient_of(rows), step=step)
        members.optimizer_step(1e-3, 0.1)


@pytest.mark.parametrize("width", [7, 16])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
def test_members_stacked_and_alone_have_the_same_bits(
    way: str, mode: TrainingMode, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_WORTH_A_THREAD", 1)
    modules, batches = _modules(3, mode, width), (24, 13, 24, 2)
    stacked = StackedMembers(modules, seeds=[4, 5, 6], kernels="compiled")
    shared = StackedMembers(modules, seeds=[4, 5, 6], kernels="compiled", n_threads=3)
    _trained(stacked, "compiled", batches)
    _trained(shared, "compiled", batches)
    for k, module in enumerate(modules):
        alone = StackedMembers([module], seeds=[4 + k], kernels="compiled")
        _trained(alone, "compiled", batches)
        for name, value in alone.gradients(0).items():
            assert torch.equal(stacked.gradients(k)[name], value), name
        for other in (stacked, shared):
            for mine, theirs in zip(
                other.modules()[k].state_dict().values(),
                alone.modules()[0].state_dict().values(),
                strict=True,
            ):
                assert torch.equal(mine, theirs)


@pytest.mark.parametrize("n_classes", [2, 4, 5, 26])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_gradients_are_those_of_autograd(way: str, mode: TrainingMode, n_classes: int) -> None:
    torch.manual_seed(0)
    module = build_model(21, n_classes, mode, 37, 3, 0.0)
    members = StackedMembers([module], seeds=[0], kernels="compiled")
    # Columns of a wider table have gaps between their rows.
    x, codes = torch.randn(60, 30)[:, 3:24], torch.randint(0, n_classes, (60,))
    objective = Objective(codes, is_compiled=True)
    logits = members.forward_backward(x, objective.gradient_of(torch.arange(60)), step=0)
    exact = module.double().train()
    wanted = exact(x.double())
    functional.cross_entropy(wanted, codes).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(logits[0].double(), wanted.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in exact.named_parameters():
        assert parameter.grad is not None
        found = members.gradients(0)[name].double()
        assert float((found - parameter.grad).norm()) < 3e-6 * float(1 + parameter.grad.norm())
    state = members.modules()[0].state_dict()
    for name, value in exact.state_dict().items():
        torch.testing.assert_close(state[name].to(value), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [0.3, 0.995])
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
def test_whole_passes_are_the_layers_one_after_the_other(
    mode: TrainingMode, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    modules = [build_model(9, 2, mode, 48, 2, rate) for _ in range(2)]
    x, codes = torch.randn(70, 9), torch.randint(0, 2, (70,))
    found = []
    for is_whole in (True, False):
        if not is_whole:
            _layer_by_layer(monkeypatch)
        stacked = StackedMembers(modules, seeds=[1, 2], kernels="compiled")
        objective = Objective(codes, is_compiled=True)
        for step, batch in enumerate((70, 33, 70)):
            rows = torch.arange(batch)
            logits = stacked.forward_backward(x[:batch], objective.gradient_of(rows), step=step)
            stacked.optimizer_step(1e-2, 0.1)
        found.append([logits.clone(), *stacked.modules()[1].state_dict().values()])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-4)


def test_a_whole_pass_keeps_what_is_not_a_number(way: str) -> None:
    stacked = StackedMembers(_modules(1, "mlp_dense", 16), seeds=[0], kernels="compiled")
    x = torch.randn(20, 5)
    x[3, 2] = float("inf")
    logits = stacked.forward_backward(x, torch.zeros_like, step=0)
    assert logits.isnan().any()


def test_a_network_takes_nothing_but_what_it_was_made_for() -> None:
    stacked = StackedMembers(_modules(1, "mlp_dense", 16), seeds=[0], kernels="compiled")
    with pytest.raises(ValueError, match=r"contiguous torch.float32 of shape \(20, 5\) on the CPU"):
        stacked.forward_backward(torch.randn(20, 5).double(), torch.zeros_like, step=0)
    with pytest.raises(ValueError, match=r"of shape \(20, 3\) on the CPU; got torch.float64"):
        stacked.forward_backward(torch.randn(20, 5), lambda z: torch.zeros_like(z).double(), step=0)
    with pytest.raises(ValueError, match=r"on the CPU; got torch.float32 of shape \(3, 3"):
        stacked.forward_backward(torch.randn(20, 5), lambda z: z[:, :3], step=0)


def test_a_blas_that_does_not_multiply_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    blas_sgemm.cache_clear()
    functions = compiled_kernels()
    monkeypatch.setattr(functions, "product_alone", lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match="sgemm must multiply matrices; it does not"):
            blas_sgemm()
    finally:
        blas_sgemm.cache_clear()


def _problem() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    return X, np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")


def _model() -> TabularClassifier:
    return TabularClassifier(n_members=2, max_epochs=30, hidden_dim=32, random_state=0)


def test_a_model_learns_as_well_as_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _problem()
    probabilities = []
    for is_compiled in (True, True, False):
        with monkeypatch.context() as patch:
            if not is_compiled:
                patch.setattr(kernels_module, "_instruction_sets", dict)
                patch.setattr(loop, "_say_what_is_slower", lambda: None)
            model = _model().fit(X[:400], y[:400])
        probabilities.append(model.predict_proba(X[400:]))
        assert (model.predict(X[400:]) == y[400:]).mean() > 0.9
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    np.testing.assert_allclose(probabilities[0], probabilities[2], atol=0.1)
    assert not np.array_equal(probabilities[0], probabilities[2])


# ---------------------------------------------------------------------------------------------
# Instruction sets, and installations without the extension
# ---------------------------------------------------------------------------------------------

SETS = list(kernels_module._instruction_sets())


@pytest.mark.parametrize("name", SETS)
def test_every_instruction_set_computes_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = kernels_module._instruction_sets()
    monkeypatch.setattr(kernels_module, "_instruction_sets", lambda: {name: sets[name]})
    compiled_kernels.cache_clear()
    try:
        assert engine_name() == f"compiled, {name}"
        test_a_layer_is_the_same_as_by_torch((3, 71, 19), None, 0.3, True)
        test_the_gradient_of_cross_entropy_is_that_of_torch(3, True)
        test_adamw_makes_the_steps_of_torch()
    finally:
        compiled_kernels.cache_clear()


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"instruction_set must be one of baseline.*; got 'sse9'"):
        compiled_kernels("sse9")
    monkeypatch.setattr(kernels_module, "_instruction_sets", dict)
    compiled_kernels.cache_clear()
    try:
        with pytest.raises(ValueError, match="built without it; install a C compiler"):
            compiled_kernels()
    finally:
        compiled_kernels.cache_clear()


def test_without_the_extension_the_first_fit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "_instruction_sets", dict)
    loop._say_what_is_slower.cache_clear()
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


def test_modules_that_are_not_for_them_are_refused() -> None:
    modules = _modules(1, "mlp_dense", 8)
    with pytest.raises(
        ValueError, match="kernels must be one of auto, torch, compiled; got 'fast'"
    ):
        StackedMembers(modules, seeds=[0], kernels="fast")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"are for modules in float32 on a CPU; got torch\.float64"
    ):
        StackedMembers([modules[0].double()], seeds=[0], kernels="compiled")
