"""Laws of the stacked members: the reference modules' arithmetic, and independence of company."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ai.ml.frameworks.pytorch.models import (
    MLP,
    LinearBaseline,
    TabResNet,
    TrainingMode,
    build_model,
)
from tabwright.training.engine.dropout import Part, element_hashes, is_dropped
from tabwright.training.engine.stacked_members import StackedMembers

MODES: tuple[TrainingMode, ...] = get_args(TrainingMode)
ARCHITECTURES: tuple[TrainingMode, ...] = ("mlp_dense", "tabresnet", "linear_glm_baseline")
INPUT_DIM, BATCH = 5, 24


def _modules(
    n_members: int,
    mode: TrainingMode = "mlp_dense",
    *,
    hidden_dim: int = 8,
    depth: int = 2,
    dropout: float = 0.0,
    output_dim: int = 3,
    input_dim: int = INPUT_DIM,
    dtype: torch.dtype = torch.float32,
) -> list[nn.Module]:
    """Networks whose batch norm, too, is not as fresh from the shop."""
    torch.manual_seed(1)
    modules = []
    for _ in range(n_members):
        module = build_model(input_dim, output_dim, mode, hidden_dim, depth, dropout).to(dtype)
        with torch.no_grad():
            for value in module.state_dict().values():
                if value.is_floating_point():
                    value.add_(0.3 * torch.rand_like(value))
        modules.append(module)
    return modules


def _batch(
    dtype: torch.dtype = torch.float32,
    batch: int = BATCH,
    seed: int = 0,
    input_dim: int = INPUT_DIM,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 + torch.randn(batch, input_dim, generator=generator, dtype=dtype)


def _cross_entropy_gradient(codes: Tensor) -> Callable[[Tensor], Tensor]:
    def gradient(logits: Tensor) -> Tensor:
        leaf = logits.detach().clone().requires_grad_()
        losses = [functional.cross_entropy(member, codes) for member in leaf]
        return torch.autograd.grad(torch.stack(losses).sum(), leaf)[0]

    return gradient


def _codes(batch: int = BATCH, output_dim: int = 3) -> Tensor:
    return torch.arange(batch) % output_dim


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _assert_equal(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def _train(members: StackedMembers, steps: range, batch: int = BATCH) -> None:
    gradient = _cross_entropy_gradient(_codes(batch))
    for step in steps:
        members.forward_backward(_batch(batch=batch, seed=step), gradient, step=step)
        members.optimizer_step(0.01, 0.1)


# ---------------------------------------------------------------------------------------------
# The reference modules' arithmetic
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize(("hidden_dim", "depth", "output_dim"), [(8, 2, 3), (1, 1, 2), (7, 3, 1)])
@pytest.mark.parametrize(("input_dim", "batch"), [(INPUT_DIM, BATCH), (1, 3), (64, 257)])
def test_gradients_outputs_and_statistics_are_autograds(
    mode: TrainingMode,
    n_members: int,
    hidden_dim: int,
    depth: int,
    output_dim: int,
    input_dim: int,
    batch: int,
) -> None:
    dtype = torch.float64
    modules = _modules(
        n_members,
        mode,
        hidden_dim=hidden_dim,
        depth=depth,
        output_dim=output_dim,
        input_dim=input_dim,
        dtype=dtype,
    )
    members = StackedMembers(modules, seeds=range(n_members))
    x = _batch(dtype, batch, input_dim=input_dim)
    torch.manual_seed(3)
    outer = torch.randn(n_members, batch, output_dim, dtype=dtype)
    logits = members.forward_backward(x, lambda _: outer, step=0)
    for k, module in enumerate(modules):
        module.train()
        expected = module(x)
        expected.backward(outer[k])
        torch.testing.assert_close(logits[k], expected, rtol=1e-10, atol=1e-10)
        gradients = members.gradients(k)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-10)
        trained = members.modules()[k]
        for name, value in module.state_dict().items():
            torch.testing.assert_close(
                trained.state_dict()[name], value, rtol=1e-10, atol=1e-12, msg=name
            )
        module.eval()
        torch.testing.assert_close(members.logits(x)[k], module(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
def test_dropout_scales_and_masks_as_autograd_through_the_same_masks(mode: TrainingMode) -> None:
    """The module multiplies by the masks that the member's keys draw."""
    dtype, rate = torch.float64, 0.4
    (module,) = _modules(1, mode, dropout=rate, dtype=dtype, hidden_dim=16)
    members = StackedMembers([module], seeds=[5])
    x, codes = _batch(dtype), _codes()
    members.forward_backward(x, _cross_entropy_gradient(codes), step=7)
    elements = element_hashes(BATCH, 16, torch.device("cpu"))
    keys, layers = members._step_keys(7), members._architecture.hidden
    keep = [
        (~is_dropped(elements, key, rate)).to(dtype)
        for layer, key in zip(layers, keys, strict=True)
        if layer.rate > 0
    ]
    drawn = iter(keep)
    for dropout in module.modules():
        if isinstance(dropout, nn.Dropout):
            dropout.register_forward_hook(
                lambda _, values, __: values[0] * next(drawn) / (1 - rate)
            )
    module.train()
    torch.autograd.backward(functional.cross_entropy(module(x), codes))
    assert 0.1 < 1 - torch.stack(keep).mean() < 0.7
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            members.gradients(0)[name], parameter.grad, rtol=1e-9, atol=1e-11, msg=name
        )


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_many_steps_follow_autograd_and_adamw(mode: TrainingMode) -> None:
    dtype = torch.float64
    modules = _modules(2, mode, dtype=dtype)
    members = StackedMembers(modules, seeds=[0, 1])
    optimizers = []
    for module in modules:
        # The bias in front of batch norm wanders by rounding errors under autograd.
        for name, parameter in module.named_parameters():
            is_head = "head" in name or mode == "linear_glm_baseline"
            if name.endswith("bias") and "norm" not in name and not is_head:
                parameter.requires_grad_(False)
        weights = [p for n, p in module.named_parameters() if p.ndim == 2]
        others = [p for n, p in module.named_parameters() if p.ndim == 1 and p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": weights},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizers.append(torch.optim.AdamW(groups, lr=0.01, weight_decay=0.3))
    codes = _codes()
    for step in range(30):
        x, rate = _batch(dtype, seed=step), 0.01 * (1 + step % 3)
        members.forward_backward(x, _cross_entropy_gradient(codes), step=step)
        members.optimizer_step(rate, 0.3)
        for module, optimizer in zip(modules, optimizers, strict=True):
            module.train()
            optimizer.zero_grad()
            torch.autograd.backward(functional.cross_entropy(module(x), codes))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
    for mine, reference in zip(members.modules(), modules, strict=True):
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(
                mine.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name
            )


@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_a_large_offset_leaves_the_small_variance(offset: float) -> None:
    """In float32 the mean of squares less the square of the mean would leave nothing."""
    module, exact = _modules(1, hidden_dim=16)[0], _modules(1, hidden_dim=16)[0].double()
    x = _batch(batch=512) + offset
    members = StackedMembers([module], seeds=[0])
    logits = members.forward_backward(x, torch.zeros_like, step=0)[0].clone()
    reference = exact.train()(x.double()).float()
    torch.testing.assert_close(logits, reference, rtol=0, atol=1e-5 + 2e-6 * offset)
    variance = members.modules()[0].state_dict()["net.norm1.running_var"]
    expected = exact.state_dict()["net.norm1.running_var"].float()
    torch.testing.assert_close(variance, expected, rtol=1e-4 + 1e-7 * offset, atol=0)


# ---------------------------------------------------------------------------------------------
# Stacked and alone
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ARCHITECTURES)
@pytest.mark.parametrize(("hidden_dim", "batch"), [(16, 24), (7, 13)])
def test_a_member_stacked_follows_the_member_alone(
    mode: TrainingMode, hidden_dim: int, batch: int
) -> None:
    modules = _modules(5, mode, hidden_dim=hidden_dim, dropout=0.3, dtype=torch.float64)
    seeds = [11, 22, 33, 44, 55]
    stacked = StackedMembers(modules, seeds=seeds)
    alone = [StackedMembers([m], seeds=[s]) for m, s in zip(modules, seeds, strict=True)]
    gradient = _cross_entropy_gradient(_codes(batch))
    for step in range(12):
        x = _batch(torch.float64, batch=batch, seed=step)
        logits = stacked.forward_backward(x, gradient, step=step)
        stacked.optimizer_step(0.01, 0.1)
        for k, member in enumerate(alone):
            own = member.forward_backward(x, gradient, step=step)[0]
            torch.testing.assert_close(logits[k], own, rtol=1e-9, atol=1e-9)
            member.optimizer_step(0.01, 0.1)


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
def test_in_bfloat16_members_stacked_and_alone_agree_to_its_rounding(mode: TrainingMode) -> None:
    modules, seeds = _modules(3, mode, hidden_dim=16, dropout=0.3), [11, 22, 33]
    stacked = StackedMembers(modules, seeds=seeds, precision="bfloat16")
    alone = [
        StackedMembers([m], seeds=[s], precision="bfloat16")
        for m, s in zip(modules, seeds, strict=True)
    ]
    for batch in (24, 13, 24):
        x, gradient = _batch(batch=batch, seed=batch), _cross_entropy_gradient(_codes(batch))
        stacked.forward_backward(x, gradient, step=batch)
        for k, member in enumerate(alone):
            member.forward_backward(x, gradient, step=batch)
            for name, value in member.gradients(0).items():
                distance = (stacked.gradients(k)[name] - value).norm()
                assert float(distance) <= 0.02 * float(value.norm()), name


def _gradients_by_autograd(module: nn.Module, x: Tensor, *, in_half: bool) -> dict[str, Tensor]:
    fresh = copy.deepcopy(module).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_half):
        logits = fresh(x)
    functional.cross_entropy(logits.float(), _codes(len(x))).backward()  # type: ignore[no-untyped-call]
    named = fresh.named_parameters()
    return {name: value.grad for name, value in named if value.grad is not None}


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
@pytest.mark.parametrize("n_members", [1, 3])
def test_in_bfloat16_gradients_are_as_exact_as_under_autocast(
    mode: TrainingMode, n_members: int
) -> None:
    modules = _modules(n_members, mode, hidden_dim=32)
    members = StackedMembers(modules, seeds=range(n_members), precision="bfloat16")
    x = _batch(batch=200) - 2
    members.forward_backward(x, _cross_entropy_gradient(_codes(200)), step=0)
    for k, module in enumerate(modules):
        exact = _gradients_by_autograd(module, x, in_half=False)
        rounded = _gradients_by_autograd(module, x, in_half=True)

        def distance(found: Mapping[str, Tensor], exact: Mapping[str, Tensor] = exact) -> float:
            squares = [(found[name] - value).square().sum() for name, value in exact.items()]
            return float(torch.stack(squares).sum().sqrt())

        found = distance(members.gradients(k))
        assert found < 1.5 * distance(rounded)
        assert found > 1e-3 * distance(dict.fromkeys(exact, torch.zeros(())))


def test_members_of_one_seed_and_start_are_one_and_of_other_seeds_are_not() -> None:
    module = _modules(1, hidden_dim=16, dropout=0.5)[0]
    members = StackedMembers([module, module, module], seeds=[3, 3, 4])
    _train(members, range(3))
    first, twin, other = members.modules()
    _assert_equal(first, twin)
    assert not torch.equal(
        first.state_dict()["net.linear1.weight"], other.state_dict()["net.linear1.weight"]
    )


def test_batches_of_changing_sizes_are_each_computed_as_alone() -> None:
    modules = _modules(2, dropout=0.2)
    members = StackedMembers(modules, seeds=[0, 1])
    for step, batch in enumerate([24, 9, 24, 31, 9]):
        before = members.state()
        _train(members, range(step, step + 1), batch=batch)
        fresh = StackedMembers(modules, seeds=[0, 1])
        fresh.load_state(before)
        _train(fresh, range(step, step + 1), batch=batch)
        for mine, theirs in zip(members.modules(), fresh.modules(), strict=True):
            _assert_equal(mine, theirs)


# ---------------------------------------------------------------------------------------------
# Members that stop, best states, resuming
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ARCHITECTURES)
@pytest.mark.parametrize("active", [[True, False, True], [False, False, True], [False] * 3])
def test_a_stopped_member_stays_and_the_others_do_not_notice(
    mode: TrainingMode, active: list[bool]
) -> None:
    modules = _modules(3, mode, dropout=0.3)
    stopped = StackedMembers(modules, seeds=range(3))
    running = StackedMembers(modules, seeds=range(3))
    for members in (stopped, running):
        _train(members, range(4))
    held = stopped.modules()
    stopped.set_active(active)
    _train(stopped, range(4, 8))
    _train(running, range(4, 8))
    for k, is_active in enumerate(active):
        _assert_equal(stopped.modules()[k], running.modules()[k] if is_active else held[k])


def test_a_member_stopped_before_the_optimisers_step_does_not_take_it() -> None:
    members = StackedMembers(_modules(2), seeds=[0, 1])
    members.forward_backward(_batch(), _cross_entropy_gradient(_codes()), step=0)
    held = members.modules()
    members.set_active([False, True])
    members.optimizer_step(0.01, 0.1)
    _assert_equal(members.modules()[0], held[0])
    weights = [m.state_dict()["net.linear1.weight"] for m in (members.modules()[1], held[1])]
    assert not torch.equal(*weights)


def test_a_member_that_goes_on_keeps_its_own_count_of_steps() -> None:
    modules = _modules(2)
    members = StackedMembers(modules, seeds=[0, 1])
    members.set_active([True, False])
    _train(members, range(3))
    members.set_active([True, True])
    _train(members, range(3))
    late = StackedMembers(modules[1:], seeds=[1])
    _train(late, range(3))
    _assert_equal(members.modules()[1], late.modules()[0])


def test_each_member_returns_to_its_own_best() -> None:
    members = StackedMembers(_modules(3, dropout=0.1), seeds=range(3))
    start = members.modules()
    _train(members, range(2))
    members.snapshot(0)
    early = members.modules()
    _train(members, range(2, 4))
    members.snapshot(1)
    late = members.modules()
    _train(members, range(4, 6))
    members.restore()
    for found, kept in zip(members.modules(), [early[0], late[1], start[2]], strict=True):
        _assert_equal(found, kept)


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(mode: TrainingMode) -> None:
    modules = _modules(3, mode, dropout=0.2)
    straight = StackedMembers(modules, seeds=range(3))
    _train(straight, range(5))
    straight.snapshot(1)
    straight.set_active([True, True, False])
    state = straight.state()
    _train(straight, range(5, 300, 40))
    other = _modules(3, mode, dropout=0.2)
    for module in other:
        nn.init.zeros_(next(module.parameters()))
    resumed = StackedMembers(other, seeds=range(3))
    resumed.load_state(state)
    _train(resumed, range(5, 300, 40))
    for mine, theirs in zip(straight.modules(), resumed.modules(), strict=True):
        _assert_equal(mine, theirs)
    for name, value in straight.state().items():
        assert torch.equal(value, resumed.state()[name]), name
    straight.restore()
    resumed.restore()
    for mine, theirs in zip(straight.modules(), resumed.modules(), strict=True):
        _assert_equal(mine, theirs)


def test_the_state_is_a_copy() -> None:
    members = StackedMembers(_modules(1), seeds=[0])
    state = members.state()
    before = {name: value.clone() for name, value in state.items()}
    _train(members, range(1))
    for name, value in before.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("steps"), r"missing or unknown: \['steps'\]"),
        (lambda s: s.update(more=torch.ones(1)), r"missing or unknown: \['more'\]"),
        (lambda s: s.update(steps=torch.ones(3)), r"steps of the state must be .* of shape \(2,\)"),
        (lambda s: s.update(steps=torch.ones(2).double()), "must be torch.float32 .* got torch.fl"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    members = StackedMembers(_modules(2), seeds=[0, 1])
    before = members.state()
    wrong = {
        name: value + 1 if value.is_floating_point() else value for name, value in before.items()
    }
    change(wrong)
    with pytest.raises(ValueError, match=message):
        members.load_state(wrong)
    for name, value in members.state().items():
        assert torch.equal(value, before[name]), name


# ---------------------------------------------------------------------------------------------
# In and out
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ARCHITECTURES)
def test_modules_come_out_as_they_went_in(mode: TrainingMode) -> None:
    modules = _modules(2, mode, dtype=torch.float64)
    states = [_state(module) for module in modules]
    members = StackedMembers(modules, seeds=[0, 1])
    for module, state in zip(members.modules(), states, strict=True):
        assert type(module) is type(modules[0])
        assert not module.training
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=1e-15)
    _train_in_double(members)
    for module, state in zip(modules, states, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name]), name


def _train_in_double(members: StackedMembers) -> None:
    gradient = _cross_entropy_gradient(_codes())
    members.forward_backward(_batch(torch.float64), gradient, step=0)
    members.optimizer_step(0.01, 0.1)


class _Doubled(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def _with_momentum() -> nn.Module:
    module = MLP(INPUT_DIM, 2, 8, 1, 0.0)
    module.net.norm1.momentum = 0.2  # type: ignore[union-attr]
    return module


def _altered(alter: Callable[[nn.Module], object]) -> nn.Module:
    module = MLP(INPUT_DIM, 2, 8, 1, 0.1)
    alter(module)
    return module


def _with_exchanged(module: nn.Module, name: str, layer: nn.Module | None) -> nn.Module:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
    return module


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([nn.Linear(INPUT_DIM, 2)], "got Linear; train other modules by loop.members_of"),
        ([_Doubled(INPUT_DIM, 2, 8, 1, 0.0)], "got _Doubled"),
        ([_with_momentum()], "as MLP makes them; got .*BatchNorm1d.*momentum=0.2"),
        (
            [_with_exchanged(MLP(INPUT_DIM, 2, 8, 2, 0.1), "net.relu2", nn.GELU())],
            r"got GELU\(.*\) for net.relu2, which would be ReLU\(\)",
        ),
        (
            [_with_exchanged(MLP(INPUT_DIM, 2, 8, 2, 0.1), "net.dropout1", nn.Dropout(0.2))],
            r"got Dropout\(p=0.1.*\) for net.dropout2, which would be Dropout\(p=0.2",
        ),
        (
            [_with_exchanged(MLP(INPUT_DIM, 2, 8, 1, 0.0), "net.scale", nn.Identity())],
            "got Identity.* for net.scale, which would be None",
        ),
        (
            [_with_exchanged(TabResNet(INPUT_DIM, 2, 8, 1, 0.0), "blocks.0.relu2", nn.Tanh())],
            "for blocks.0.relu2, which would be ReLU",
        ),
        (
            [_with_exchanged(LinearBaseline(5, 2), "linear", nn.Linear(5, 2, bias=False))],
            "bias=False.*, which would be .*bias=True",
        ),
        (
            [_with_exchanged(LinearBaseline(5, 2), "linear", nn.Identity())],
            "must have a linear layer; got none",
        ),
        ([_altered(lambda m: m.half())], "all in float64; got .* in torch.float16"),
        (
            [_altered(lambda m: m.get_submodule("net.head").double())],
            "torch.float32, torch.float64",
        ),
        (
            [_altered(lambda m: m.get_submodule("net.head").requires_grad_(False))],
            "all trained and in float32",
        ),
        (
            [_altered(lambda m: m.register_parameter("more", nn.Parameter(torch.ones(2))))],
            r"got .*\('more', \(2,\), True\)",
        ),
        (
            [_altered(lambda m: m.register_forward_hook(lambda *given: 2 * given[2]))],
            "no hooks and no forward pass of its own",
        ),
        (
            [_altered(lambda m: setattr(m, "forward", lambda x: x[:, :2]))],
            "no hooks and no forward pass of its own",
        ),
        ([MLP(INPUT_DIM, 2, 8, 1, 0.0), MLP(INPUT_DIM, 2, 9, 1, 0.0)], "one architecture"),
        ([MLP(INPUT_DIM, 2, 8, 1, 0.0), MLP(INPUT_DIM, 2, 8, 1, 0.1)], "one architecture"),
        ([MLP(INPUT_DIM, 2, 8, 1, 0.0), TabResNet(INPUT_DIM, 2, 8, 1, 0.0)], "one architecture"),
        ([LinearBaseline(5, 2), LinearBaseline(5, 2).double()], "dtype"),
    ],
)
def test_unknown_or_unequal_modules_are_refused(modules: Sequence[nn.Module], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        StackedMembers(modules, seeds=range(len(modules)))


def test_arguments_out_of_range_are_refused() -> None:
    modules = _modules(2)
    with pytest.raises(ValueError, match="at least one network; got none"):
        StackedMembers([], seeds=[])
    with pytest.raises(ValueError, match=r"one per module \(2\); got 1"):
        StackedMembers(modules, seeds=[0])
    with pytest.raises(ValueError, match="n_threads must be at least 1; got 0"):
        StackedMembers(modules, seeds=[0, 1], n_threads=0)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16; got 'half'"):
        StackedMembers(modules, seeds=[0, 1], precision="half")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"for modules in float32; got torch\.float64"):
        StackedMembers(_modules(1, dtype=torch.float64), seeds=[0], precision="bfloat16")
    members = StackedMembers(modules, seeds=[0, 1])
    with pytest.raises(ValueError, match=r"active must be one per member \(2\); got 1"):
        members.set_active([True])
    with pytest.raises(ValueError, match=r"shape \(batch, 5\); got \(4, 6\)"):
        members.forward_backward(torch.zeros(4, 6), torch.zeros_like, step=0)
    with pytest.raises(ValueError, match="at least 2 rows in training; got 1; join the last"):
        members.forward_backward(torch.zeros(1, INPUT_DIM), torch.zeros_like, step=0)


def test_one_row_is_enough_without_batch_norm() -> None:
    members = StackedMembers(_modules(1, "linear_glm_baseline"), seeds=[0])
    logits = members.forward_backward(_batch(batch=1), torch.zeros_like, step=0)
    assert logits.shape == (1, 1, 3)


def test_seeds_of_any_size_are_taken() -> None:
    modules = _modules(3, dropout=0.5)
    members = StackedMembers(modules, seeds=[2**64 - 1, 2**200, -1])
    _train(members, range(2))
    assert torch.isfinite(members.logits(_batch())).all()


def _shared_steps(
    bounds: Sequence[int], mode: TrainingMode, dtype: torch.dtype, stop: bool
) -> list[StackedMembers]:
    """Workers, one per thread, that share every batch: worker r has rows bounds[r]:bounds[r+1]."""
    n_workers = len(bounds) - 1
    modules = _modules(3, mode, dropout=0.3, dtype=dtype)
    barrier = threading.Barrier(n_workers, timeout=30)
    given: list[Tensor] = [torch.empty(0)] * n_workers
    workers = []

    def worker(rank: int) -> None:
        def all_reduce(values: Tensor) -> None:
            given[rank] = values
            barrier.wait()
            total = torch.stack(given).sum(0)
            barrier.wait()
            values.copy_(total)

        members = StackedMembers(
            modules, seeds=range(3), all_reduce=all_reduce if n_workers > 1 else None
        )
        workers.append(members)
        rows = slice(bounds[rank], bounds[rank + 1])
        for step in range(4):
            members.forward_backward(
                _batch(dtype, seed=step)[rows],
                lambda logits: (
                    _cross_entropy_gradient(_codes()[rows])(logits) * (logits.shape[1] / BATCH)
                ),
                step=step,
                part=Part(rows.start, BATCH),
            )
            members.optimizer_step(0.01, 0.1)
            if stop and step == 1:
                members.set_active([True, False, True])

    with ThreadPoolExecutor(n_workers) as pool:
        for done in [pool.submit(worker, rank) for rank in range(n_workers)]:
            done.result()
    return workers


@pytest.mark.parametrize("mode", ARCHITECTURES)
@pytest.mark.parametrize("bounds", [(0, 12, 24), (0, 1, 17, 24)])
def test_workers_that_share_a_batch_match_one_that_has_it_whole(
    mode: TrainingMode, bounds: tuple[int, ...]
) -> None:
    (alone,) = _shared_steps((0, BATCH), mode, torch.float64, stop=True)
    for worker in _shared_steps(bounds, mode, torch.float64, stop=True):
        for k, module in enumerate(worker.modules()):
            for name, value in alone.modules()[k].state_dict().items():
                torch.testing.assert_close(module.state_dict()[name], value, msg=name)


def test_a_worker_without_rows_takes_part() -> None:
    (alone,) = _shared_steps((0, BATCH), "mlp_dense", torch.float32, stop=False)
    first, second = _shared_steps((0, 0, 24), "mlp_dense", torch.float32, stop=False)
    for worker in (first, second):
        for name, value in alone.modules()[0].state_dict().items():
            torch.testing.assert_close(worker.modules()[0].state_dict()[name], value, msg=name)
