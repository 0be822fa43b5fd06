"""The contract of models.py, id by id, and what a library promises beyond it."""

import copy
import io
import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from ai.ml.frameworks.pytorch.models import (
    MLP,
    LinearBaseline,
    ResidualBlock,
    TabResNet,
    TrainingMode,
    build_model,
    compute_class_weights,
    compute_loss,
    model_dropout,
    model_hidden_dim,
    model_num_hidden_layers,
    model_training_mode,
)

MODES: tuple[TrainingMode, ...] = get_args(TrainingMode)
MLP_MODES = tuple(mode for mode in MODES if mode not in ("linear_glm_baseline", "tabresnet"))
INTEGER_DTYPES = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

every_mode = pytest.mark.parametrize("mode", MODES)
# One mode for each architecture.
each_architecture = pytest.mark.parametrize("mode", MODES[:3])


def kinds(module: nn.Module) -> list[type[nn.Module]]:
    return [type(child) for child in module.children()]


def trained(module: nn.Module, width: int) -> nn.Module:
    """The module in eval mode, its running statistics moved off their defaults."""
    module.train()
    for _ in range(3):
        module(torch.randn(16, width) * 2 + 1)
    return module.eval()


# ---------------------------------------------------------------------------------------------
# MLP
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M01", "AC-M01")
def test_mlp_takes_its_five_arguments_by_name_and_a_batch() -> None:
    model = MLP(input_dim=10, output_dim=3, hidden_dim=64, num_hidden_layers=2, dropout=0.1)
    assert model(torch.randn(4, 10)).isfinite().all()


@pytest.mark.contract("REQ-M02", "EC-M02")
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dropout", [0.25, 0.0, 0, -0.5])
def test_mlp_is_one_flat_sequence_of_blocks_and_a_linear_layer(depth: int, dropout: float) -> None:
    model = MLP(5, 2, 8, depth, dropout)
    block = [nn.Linear, nn.BatchNorm1d, nn.ReLU, *([nn.Dropout] if dropout > 0 else [])]
    assert isinstance(model.net, nn.Sequential)
    assert kinds(model) == [nn.Sequential]
    assert kinds(model.net) == block * depth + [nn.Linear]

    linears = [layer for layer in model.net if isinstance(layer, nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in linears]
    assert shapes == [(5, 8), *[(8, 8)] * (depth - 1), (8, 2)]
    assert all(norm.num_features == 8 for norm in model.net if isinstance(norm, nn.BatchNorm1d))
    assert all(drop.p == dropout for drop in model.net if isinstance(drop, nn.Dropout))


@pytest.mark.contract("AC-M02", "REQ-M02", "EC-M01")
@pytest.mark.parametrize("depth", [0, -3])
def test_mlp_without_hidden_layers_has_one_block(depth: int) -> None:
    assert kinds(MLP(5, 2, 8, depth, 0.0).net) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


@pytest.mark.contract("REQ-M03", "AC-M03")
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("output_dim", [1, 4])
def test_mlp_output_is_batch_by_output_dim(depth: int, dropout: float, output_dim: int) -> None:
    model = MLP(6, output_dim, 7, depth, dropout)
    assert model(torch.randn(9, 6)).shape == (9, output_dim)


# ---------------------------------------------------------------------------------------------
# LinearBaseline
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M04", "AC-M04", "REQ-M05", "AC-M05")
def test_linear_baseline_is_one_linear_layer() -> None:
    model = LinearBaseline(input_dim=5, output_dim=2)
    (layer,) = (module for module in model.modules() if not list(module.children()))
    assert isinstance(layer, nn.Linear)
    assert (layer.in_features, layer.out_features) == (5, 2)
    assert layer.bias is not None


@pytest.mark.contract("REQ-M04")
def test_linear_baseline_takes_two_arguments_only() -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        LinearBaseline(5, 2, 8)  # type: ignore[call-arg]


@pytest.mark.contract("REQ-M05")
def test_linear_baseline_is_affine() -> None:
    model = LinearBaseline(5, 2)
    x, y = torch.randn(2, 3, 5).unbind()
    torch.testing.assert_close(model(2 * x - y), 2 * model(x) - model(y))


@pytest.mark.contract("REQ-M06", "AC-M06")
@pytest.mark.parametrize("output_dim", [1, 4])
def test_linear_baseline_output_is_batch_by_output_dim(output_dim: int) -> None:
    assert LinearBaseline(6, output_dim)(torch.randn(9, 6)).shape == (9, output_dim)


# ---------------------------------------------------------------------------------------------
# ResidualBlock
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M07", "AC-M07")
def test_residual_block_takes_its_two_arguments_by_name_and_a_batch() -> None:
    block = ResidualBlock(hidden_dim=32, dropout=0.2)
    assert block(torch.randn(4, 32)).isfinite().all()


def norm_relu(x: Tensor, linear: nn.Linear, norm: nn.BatchNorm1d, plus: Tensor) -> Tensor:
    normed = F.batch_norm(
        linear(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    return F.relu(normed + plus)


def residual_by_hand(block: ResidualBlock, x: Tensor) -> Tensor:
    hidden = norm_relu(x, block.linear1, block.norm1, torch.zeros(1))
    return norm_relu(hidden, block.linear2, block.norm2, x)


@pytest.mark.contract("REQ-M08")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_residual_block_is_its_formula(dropout: float) -> None:
    block = ResidualBlock(6, dropout)
    trained(block, 6)
    x = torch.randn(5, 6)
    torch.testing.assert_close(block(x), residual_by_hand(block, x))


@pytest.mark.contract("REQ-M08")
def test_residual_block_runs_its_layers_in_order() -> None:
    block = ResidualBlock(6, 0.3)
    ran: list[type[nn.Module]] = []
    for layer in block.children():
        layer.register_forward_hook(lambda module, *_: ran.append(type(module)))
    block(torch.randn(5, 6))
    half = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert ran == [*half, nn.Dropout, *half]


@pytest.mark.contract("REQ-M08")
def test_residual_block_drops_what_enters_the_second_layer() -> None:
    block = ResidualBlock(64, 0.5)
    seen: list[Tensor] = []
    block.linear2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(32, 64)
    block.train()(x)
    block.eval()(x)
    dropped, kept = ((entered == 0).float().mean().item() for entered in seen)
    assert dropped > kept + 0.1


@pytest.mark.contract("REQ-M08", "AC-M08", "EC-M02")
@pytest.mark.parametrize("dropout", [0, 0.0, -1.0])
def test_residual_block_without_dropout_has_an_identity_there(dropout: float) -> None:
    block = ResidualBlock(6, dropout)
    assert type(block.dropout) is nn.Identity
    assert not any(isinstance(module, nn.Dropout) for module in block.modules())


@pytest.mark.contract("REQ-M08", "REQ-M07")
def test_residual_block_with_dropout_has_it_there() -> None:
    block = ResidualBlock(6, 0.2)
    assert isinstance(block.dropout, nn.Dropout)
    assert block.dropout.p == 0.2


@pytest.mark.contract("REQ-M09", "AC-M09")
@pytest.mark.parametrize("width", [1, 8])
def test_residual_block_keeps_the_shape(width: int) -> None:
    assert ResidualBlock(width, 0.1)(torch.randn(9, width)).shape == (9, width)


# ---------------------------------------------------------------------------------------------
# TabResNet
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M10", "AC-M10")
def test_tabresnet_takes_its_five_arguments_by_name_and_a_batch() -> None:
    model = TabResNet(input_dim=10, output_dim=3, hidden_dim=16, num_hidden_layers=2, dropout=0.1)
    assert model(torch.randn(4, 10)).isfinite().all()


@pytest.mark.contract("REQ-M11")
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_tabresnet_is_its_formula(depth: int, dropout: float) -> None:
    model = TabResNet(5, 2, 6, depth, dropout)
    trained(model, 5)
    x = torch.randn(4, 5)
    hidden = norm_relu(x, model.input_projection, model.input_norm, torch.zeros(1))
    assert len(model.blocks) == depth
    for block in model.blocks:
        assert isinstance(block, ResidualBlock)
        hidden = residual_by_hand(block, hidden)
    torch.testing.assert_close(model(x), model.head(hidden))
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert rates == ([dropout] * depth if dropout else [])


@pytest.mark.contract("AC-M11", "REQ-M11", "EC-M01")
@pytest.mark.parametrize("depth", [0, -3])
def test_tabresnet_without_hidden_layers_has_one_block(depth: int) -> None:
    assert kinds(TabResNet(5, 2, 6, depth, 0.0).blocks) == [ResidualBlock]


@pytest.mark.contract("REQ-M12", "AC-M12")
@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("output_dim", [1, 4])
def test_tabresnet_output_is_batch_by_output_dim(depth: int, output_dim: int) -> None:
    assert TabResNet(6, output_dim, 7, depth, 0.1)(torch.randn(9, 6)).shape == (9, output_dim)


# ---------------------------------------------------------------------------------------------
# Factory
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M13", "AC-M13")
def test_linear_mode_builds_a_linear_baseline() -> None:
    model = build_model(5, 2, "linear_glm_baseline", 8, 2, 0.1)
    assert type(model) is LinearBaseline
    assert (model.linear.in_features, model.linear.out_features) == (5, 2)


@pytest.mark.contract("REQ-M14", "AC-M14")
def test_tabresnet_mode_builds_a_tabresnet() -> None:
    model = build_model(5, 2, "tabresnet", 8, 3, 0.1)
    assert type(model) is TabResNet
    expected = TabResNet(5, 2, 8, 3, 0.1)
    assert str(model) == str(expected)


@pytest.mark.contract("REQ-M15", "AC-M15")
@pytest.mark.parametrize("mode", MLP_MODES)
def test_every_other_mode_builds_an_mlp(mode: TrainingMode) -> None:
    model = build_model(5, 2, mode, 8, 3, 0.1)
    assert type(model) is MLP
    assert str(model) == str(MLP(5, 2, 8, 3, 0.1))


def test_build_model_takes_its_arguments_by_name() -> None:
    model = build_model(
        input_dim=5,
        output_dim=2,
        training_mode="mlp_dense",
        hidden_dim=8,
        num_hidden_layers=3,
        dropout=0.1,
    )
    assert str(model) == str(MLP(5, 2, 8, 3, 0.1))


@pytest.mark.contract("INV-M02", "INV-M01")
@given(
    mode=st.sampled_from(MODES),
    input_dim=st.integers(1, 9),
    output_dim=st.integers(1, 5),
    hidden_dim=st.integers(1, 9),
    depth=st.integers(-2, 4),
    dropout=st.floats(max_value=1, exclude_max=True, allow_nan=False),
    batch=st.integers(0, 3),
)
def test_build_model_takes_every_mode_and_every_size(
    mode: TrainingMode,
    input_dim: int,
    output_dim: int,
    hidden_dim: int,
    depth: int,
    dropout: float,
    batch: int,
) -> None:
    model = build_model(input_dim, output_dim, mode, hidden_dim, depth, dropout).eval()
    assert model(torch.randn(batch, input_dim)).shape == (batch, output_dim)


@pytest.mark.contract("INV-M02")
@pytest.mark.parametrize(
    ("hidden_dim", "depth", "dropout"),
    [(0, 2, 0.1), (-8, None, 1.5), (None, "two", float("nan"))],
)
def test_linear_mode_looks_at_no_argument_it_does_not_use(
    hidden_dim: Any, depth: Any, dropout: Any
) -> None:
    build_model(5, 2, "linear_glm_baseline", hidden_dim, depth, dropout)


@pytest.mark.parametrize(
    "mode", ["mlp", "MLP_DENSE", "", None, 3, ["mlp_dense"], np.array(["a", "b"])]
)
def test_unknown_mode_is_refused_with_the_list_of_the_six(mode: Any) -> None:
    with pytest.raises(ValueError, match="training_mode must be one of") as refusal:
        build_model(5, 2, mode, 8, 2, 0.1)
    assert str(refusal.value).endswith(f"; got {mode!r}")
    assert all(repr(known) in str(refusal.value) for known in MODES)


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", None, True, np.True_, float("nan")])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (mode, name)
        for mode in MODES
        for name in ("input_dim", "output_dim", "hidden_dim")
        if (mode, name) != ("linear_glm_baseline", "hidden_dim")
    ],
)
def test_size_that_no_layer_can_have_is_refused_before_anything_is_built(
    mode: TrainingMode, name: str, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object) -> None:
        raise AssertionError("a layer was built")

    monkeypatch.setattr(nn.Linear, "__init__", built)
    sizes: dict[str, Any] = {"input_dim": 5, "output_dim": 2, "hidden_dim": 8, name: size}
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1; got "):
        build_model(training_mode=mode, num_hidden_layers=2, dropout=0.1, **sizes)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "linear_glm_baseline"])
@pytest.mark.parametrize("dropout", [1, 1.0, 1.5, float("nan"), float("inf"), "0.1", None, True])
def test_dropout_that_is_no_rate_is_refused(mode: TrainingMode, dropout: Any) -> None:
    with pytest.raises(ValueError, match="dropout must be a number below 1"):
        build_model(5, 2, mode, 8, 2, dropout)


@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet"])
@pytest.mark.parametrize("depth", [2.0, "2", None, True])
def test_depth_that_is_no_integer_is_refused(mode: TrainingMode, depth: Any) -> None:
    with pytest.raises(ValueError, match="num_hidden_layers must be an integer"):
        build_model(5, 2, mode, 8, depth, 0.1)


@pytest.mark.parametrize(
    ("hidden_dim", "dropout", "message"),
    [(0, 0.1, "hidden_dim must be an integer of at least 1; got 0"), (8, 1, "dropout must be")],
)
def test_residual_block_refuses_what_its_network_refuses(
    hidden_dim: int, dropout: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualBlock(hidden_dim, dropout)


@each_architecture
def test_numpy_numbers_build_what_python_numbers_build(mode: TrainingMode) -> None:
    ours = build_model(5, 2, mode, 8, 2, 0.25)
    theirs = build_model(
        np.int64(5),  # type: ignore[arg-type]
        np.int32(2),  # type: ignore[arg-type]
        mode,
        np.uint8(8),  # type: ignore[arg-type]
        np.int8(2),  # type: ignore[arg-type]
        np.float32(0.25),  # type: ignore[arg-type]
    )
    assert str(theirs) == str(ours)


# ---------------------------------------------------------------------------------------------
# Outputs
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("INV-M01")
@every_mode
@pytest.mark.parametrize("output_dim", [1, 3])
# Batch norm has no variance to learn from in a training batch of one row.
@pytest.mark.parametrize(("training", "batch"), [(True, 2), (True, 7), (False, 1), (False, 7)])
def test_outputs_are_always_2d(
    mode: TrainingMode, training: bool, output_dim: int, batch: int
) -> None:
    model = build_model(5, output_dim, mode, 8, 2, 0.1).train(training)
    assert model(torch.randn(batch, 5)).shape == (batch, output_dim)


@pytest.mark.contract("INV-M01")
@pytest.mark.parametrize("shape", [(5,), (2, 5, 5), ()])
@pytest.mark.parametrize(
    "model",
    [MLP(5, 2, 5, 1, 0.0), LinearBaseline(5, 2), ResidualBlock(5, 0.0), TabResNet(5, 2, 5, 1, 0.0)],
    ids=lambda model: type(model).__name__,
)
def test_input_that_would_not_give_2d_is_refused(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be 2-D, \(batch, features\); got shape \("):
        model.eval()(torch.randn(shape))


@every_mode
def test_one_row_at_a_time_equals_all_at_once_in_eval_mode(mode: TrainingMode) -> None:
    model = trained(build_model(5, 3, mode, 8, 2, 0.3), 5)
    x = torch.randn(6, 5)
    torch.testing.assert_close(torch.cat([model(row) for row in torch.split(x, 1)]), model(x))


# ---------------------------------------------------------------------------------------------
# Loss and class weights
# ---------------------------------------------------------------------------------------------


@pytest.mark.contract("REQ-M16", "AC-M16")
@pytest.mark.parametrize(
    ("criterion", "y"),
    [(nn.CrossEntropyLoss(), torch.tensor([0, 2, 1, 1])), (nn.MSELoss(), torch.randn(4, 3))],
    ids=["cross-entropy", "squared error"],
)
@every_mode
def test_loss_is_the_criterion_of_one_forward_pass(
    mode: TrainingMode, criterion: Callable[[Tensor, Tensor], Tensor], y: Tensor
) -> None:
    model = build_model(5, 3, mode, 8, 2, 0.0)
    x = torch.randn(4, 5)
    expected = criterion(model(x), y)
    passes: list[Tensor] = []
    model.register_forward_hook(lambda _, __, outputs: passes.append(outputs))

    loss = compute_loss(model, x, y, criterion)

    assert loss.shape == ()
    assert torch.equal(loss, expected)
    assert len(passes) == 1
    torch.autograd.backward(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.contract("REQ-M17", "AC-M17")
@pytest.mark.parametrize("device", [*DEVICES, "meta", torch.device("cpu")])
@pytest.mark.parametrize("n_classes", [1, 3, 300])
def test_class_weights_have_one_entry_a_class_on_the_device(
    device: str | torch.device, n_classes: int
) -> None:
    weights = compute_class_weights(torch.arange(n_classes), n_classes, device)
    assert weights.shape == (n_classes,)
    assert weights.device.type == torch.device(device).type
    assert weights.dtype == torch.float32


@pytest.mark.contract("REQ-M17")
@pytest.mark.parametrize("labels_on", DEVICES)
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_class_weights_take_every_integer_dtype_on_every_device(
    dtype: torch.dtype, labels_on: str
) -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2]).to(dtype).to(labels_on)
    weights = compute_class_weights(labels, 3, "cpu")
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 2, 1]))


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_class_weights_take_labels_up_to_the_end_of_a_dtype(dtype: torch.dtype) -> None:
    top = min(torch.iinfo(dtype).max, 70_000)
    labels = torch.tensor([0, top]).to(dtype)
    weights = compute_class_weights(labels, top + 1, "cpu")
    torch.testing.assert_close(weights, torch.full((top + 1,), 2 / (top + 1)))


@pytest.mark.contract("REQ-M18", "AC-M18")
def test_class_without_a_row_counts_as_one() -> None:
    weights = compute_class_weights(torch.tensor([0, 0, 2]), 4, "cpu")
    assert weights.tolist() == [3 / (4 * 2), 3 / 4, 3 / 4, 3 / 4]


@pytest.mark.contract("REQ-M18")
def test_class_weights_without_any_row_follow_the_formula() -> None:
    assert compute_class_weights(torch.tensor([], dtype=torch.int64), 2, "cpu").tolist() == [0, 0]


@pytest.mark.contract("REQ-M19", "AC-M19")
@pytest.mark.parametrize("rows", [1, 7, 2**24 + 1])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_balanced_classes_weigh_exactly_one(rows: int, n_classes: int) -> None:
    labels = torch.arange(n_classes, dtype=torch.uint8).repeat(rows)
    assert compute_class_weights(labels, n_classes, "cpu").tolist() == [1.0] * n_classes


@pytest.mark.contract("REQ-M19")
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_class_weights_are_the_formula(labels: list[int]) -> None:
    weights = compute_class_weights(torch.tensor(labels), 6, "cpu")
    expected = [len(labels) / (6 * max(1, labels.count(code))) for code in range(6)]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_class_weights_fit_a_network_of_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        labels = torch.tensor([0, 1, 1])
        criterion = nn.CrossEntropyLoss(weight=compute_class_weights(labels, 2, "cpu"))
        loss = compute_loss(LinearBaseline(4, 2), torch.randn(3, 4), labels, criterion)
    finally:
        torch.set_default_dtype(torch.float32)
    assert loss.dtype == torch.float64


def test_class_weights_leave_the_labels_alone() -> None:
    labels = torch.tensor([2, 0, 1], dtype=torch.uint64)
    compute_class_weights(labels, 3, "cpu")
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("layout", ["contiguous", "strided", "expanded"])
@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_class_weights_copy_the_labels_at_most_once(dtype: torch.dtype, layout: str) -> None:
    n = 100_000
    labels = {
        "contiguous": torch.arange(n).remainder(3).to(dtype),
        "strided": torch.arange(2 * n).remainder(3).to(dtype)[::2],
        "expanded": torch.ones(1).to(dtype).expand(n),
    }[layout]
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        compute_class_weights(labels, 3, "cpu")
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated <= 8 * n + 10_000


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.0, 1.0], dtype=torch.float64),
        torch.tensor([0.0, 1.0], dtype=torch.bfloat16),
        torch.tensor([False, True]),
        torch.tensor([0j, 1j]),
        torch.tensor([]),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_labels_of_no_integer_dtype_are_refused(labels: Tensor) -> None:
    message = f"y_train must have an integer dtype; got {labels.dtype}"
    with pytest.raises(ValueError, match=message):
        compute_class_weights(labels, 2, "cpu")


@pytest.mark.parametrize("dtype", [d for d in INTEGER_DTYPES if d.is_signed])
@pytest.mark.parametrize("lowest", [-1, -100])
def test_negative_labels_are_refused(dtype: torch.dtype, lowest: int) -> None:
    labels = torch.tensor([0, lowest, 1, -1, 9]).to(dtype)
    with pytest.raises(ValueError, match=f"no negative label; got {lowest}$"):
        compute_class_weights(labels, 2, "cpu")


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
@pytest.mark.parametrize("past", [0, 1, None])
def test_labels_at_or_past_output_dim_are_refused(dtype: torch.dtype, past: int | None) -> None:
    label = torch.iinfo(dtype).max if past is None else 3 + past
    labels = torch.tensor([0, label, 1], dtype=dtype)
    with pytest.raises(ValueError, match=f"below output_dim=3; got {label};"):
        compute_class_weights(labels, 3, "cpu")


def test_labels_that_are_not_1d_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be 1-D, \(n_samples,\); got shape \(3, 1\)"):
        compute_class_weights(torch.tensor([[0], [1], [1]]), 2, "cpu")


def test_labels_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor; got ndarray"):
        compute_class_weights(np.array([0, 1]), 2, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("output_dim", [0, -1, 2.0, None])
def test_class_weights_refuse_an_impossible_number_of_classes(output_dim: Any) -> None:
    with pytest.raises(ValueError, match="output_dim must be an integer of at least 1"):
        compute_class_weights(torch.tensor([0, 1]), output_dim, "cpu")


# ---------------------------------------------------------------------------------------------
# Introspection
# ---------------------------------------------------------------------------------------------

Introspected = tuple[int, int, float, str]


def introspect(model: Any) -> Introspected:
    return (
        model_hidden_dim(model),
        model_num_hidden_layers(model),
        model_dropout(model),
        model_training_mode(model),
    )


@pytest.mark.contract("REQ-M20", "AC-M20")
def test_hidden_dim_without_a_linear_layer_is_128() -> None:
    assert model_hidden_dim(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4))) == 128


@pytest.mark.contract("REQ-M21", "AC-M21", "REQ-M20")
def test_hidden_dim_is_read_off_each_architecture() -> None:
    assert model_hidden_dim(LinearBaseline(9, 4)) == 4
    assert model_hidden_dim(TabResNet(9, 4, 16, 2, 0.1)) == 16
    assert model_hidden_dim(MLP(9, 4, 24, 2, 0.1)) == 24
    assert model_hidden_dim(ResidualBlock(12, 0.1)) == 12


@pytest.mark.contract("REQ-M22", "AC-M22")
def test_depth_is_read_off_each_architecture() -> None:
    assert model_num_hidden_layers(LinearBaseline(9, 4)) == 1
    for depth in (-1, 0, 1, 2, 5):
        assert model_num_hidden_layers(MLP(9, 4, 8, depth, 0.1)) == max(1, depth)
        assert model_num_hidden_layers(TabResNet(9, 4, 8, depth, 0.1)) == max(1, depth)


@pytest.mark.contract("REQ-M22", "AC-M22")
def test_depth_of_an_mlp_counts_the_linear_layers_of_its_net_only() -> None:
    model = MLP(9, 4, 8, 2, 0.0)
    model.extra = nn.Linear(3, 3)
    assert sum(isinstance(layer, nn.Linear) for layer in model.net) == 3
    assert model_num_hidden_layers(model) == 2


@pytest.mark.contract("REQ-M22")
def test_depth_of_a_tabresnet_without_blocks_is_one() -> None:
    model = TabResNet(9, 4, 8, 2, 0.0)
    model.blocks = nn.Sequential()
    assert model_num_hidden_layers(model) == 1


@pytest.mark.contract("REQ-M23", "AC-M23")
def test_dropout_of_a_linear_baseline_is_zero() -> None:
    model = LinearBaseline(9, 4)
    assert model_dropout(model) == 0.0
    model.stray = nn.Dropout(0.5)
    assert model_dropout(model) == 0.0


@pytest.mark.contract("REQ-M22")
def test_depth_of_a_linear_baseline_is_one_whatever_hangs_on_it() -> None:
    model = LinearBaseline(9, 4)
    model.stray = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert model_num_hidden_layers(model) == 1


@pytest.mark.contract("REQ-M24", "AC-M24")
@pytest.mark.parametrize("dropout", [0.3, 0.1, 1e-9, 0.0])
def test_dropout_is_that_of_the_first_dropout_layer(dropout: float) -> None:
    assert model_dropout(MLP(9, 4, 8, 2, dropout)) == dropout
    assert model_dropout(TabResNet(9, 4, 8, 2, dropout)) == dropout
    assert model_dropout(ResidualBlock(8, dropout)) == dropout
    assert model_dropout(nn.Sequential(nn.Dropout(dropout), nn.Dropout(0.9))) == dropout


@pytest.mark.contract("REQ-M25", "AC-M25")
@every_mode
def test_training_mode_is_read_off_the_class(mode: TrainingMode) -> None:
    expected = mode if mode not in MLP_MODES else "mlp_dense"
    assert model_training_mode(build_model(5, 2, mode, 8, 2, 0.1)) == expected


@pytest.mark.contract("REQ-M25")
def test_training_mode_of_everything_else_is_mlp_dense() -> None:
    assert model_training_mode(ResidualBlock(8, 0.1)) == "mlp_dense"
    assert model_training_mode(nn.Linear(3, 2)) == "mlp_dense"


@pytest.mark.contract("INV-M03")
@every_mode
def test_introspection_gives_the_same_whatever_happens_in_between(mode: TrainingMode) -> None:
    model = build_model(5, 2, mode, 8, 2, 0.25)
    first = introspect(model)
    assert introspect(model) == first
    assert introspect(trained(model, 5)) == first
    assert introspect(model.double()) == first
    assert introspect(model.train()) == first


@every_mode
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.35])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_model_rebuilt_from_introspection_takes_the_original_weights(
    mode: TrainingMode, dropout: float, depth: int
) -> None:
    model = trained(build_model(5, 3, mode, 8, depth, dropout), 5)
    rebuilt = build_model(
        input_dim=5,
        output_dim=3,
        training_mode=model_training_mode(model),
        hidden_dim=model_hidden_dim(model),
        num_hidden_layers=model_num_hidden_layers(model),
        dropout=model_dropout(model),
    )
    rebuilt.load_state_dict(model.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(rebuilt.eval()(x), model(x))
    assert str(rebuilt) == str(model)


DEFAULTS: Introspected = (128, 1, 0.0, "mlp_dense")


class NoLength:
    def __len__(self) -> int:
        raise RuntimeError("no length")


class Holding(nn.Module):
    """A module that holds anything at all under the names that ours use."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.net = value
        self.blocks = value


class Raising(nn.Module):
    @property
    def net(self) -> Any:
        raise RuntimeError("no net")

    @property
    def blocks(self) -> Any:
        raise KeyError("no blocks")


class RaisingModules(nn.Module):
    def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
        raise RuntimeError("no modules")


class TabResNetWithRaisingBlocks(TabResNet):
    @property
    def blocks(self) -> Any:
        raise RuntimeError("no blocks")

    @blocks.setter
    def blocks(self, value: Any) -> None: ...


@pytest.mark.contract("EC-M03", "REQ-M20")
@pytest.mark.parametrize(
    "model",
    [
        nn.Identity(),
        nn.Sequential(),
        nn.ModuleList(),
        nn.Conv1d(1, 2, 3),
        *(
            Holding(value)
            for value in (None, 3, "net", [nn.Linear(2, 3)], NoLength(), torch.zeros(2), object)
        ),
        Raising(),
        RaisingModules(),
        object(),
        None,
        nn.Linear,
    ],
    ids=lambda model: type(model).__name__,
)
def test_unknown_module_without_layers_gives_the_defaults(model: Any) -> None:
    assert introspect(model) == DEFAULTS


@pytest.mark.contract("EC-M03")
def test_unknown_module_is_read_through_its_modules() -> None:
    inner = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 7), nn.Linear(7, 2))
    expected = (6, 2, 0.2, "mlp_dense")
    assert introspect(inner) == expected
    assert introspect(Holding(inner)) == expected
    assert introspect(nn.ModuleDict({"blocks": inner})) == expected
    assert introspect(nn.Linear(4, 6)) == (6, 1, 0.0, "mlp_dense")


@pytest.mark.contract("EC-M03")
@pytest.mark.parametrize("value", [None, 3, NoLength(), [1], nn.ReLU()])
def test_known_architecture_with_foreign_parts_does_not_raise(value: Any) -> None:
    network = MLP(5, 2, 8, 3, 0.25)
    del network.net
    network.net = value
    assert introspect(network) == DEFAULTS

    residual = TabResNet(5, 2, 8, 3, 0.25)
    del residual.blocks
    residual.blocks = value
    assert introspect(residual) == (8, 1, 0.0, "tabresnet")
    del residual.blocks
    assert introspect(residual) == (8, 1, 0.0, "tabresnet")


@pytest.mark.contract("EC-M03")
def test_known_architecture_with_a_raising_property_does_not_raise() -> None:
    assert introspect(TabResNetWithRaisingBlocks(5, 2, 8, 3, 0.0)) == (8, 1, 0.0, "tabresnet")


@pytest.mark.contract("EC-M03")
def test_layers_without_their_numbers_do_not_raise() -> None:
    linear, dropout = nn.Linear(2, 3), nn.Dropout(0.5)
    del linear.out_features
    dropout.p = "half"  # type: ignore[assignment]
    assert introspect(nn.Sequential(linear, dropout)) == DEFAULTS


# ---------------------------------------------------------------------------------------------
# What saved models and other tools rely on
# ---------------------------------------------------------------------------------------------


def keys(*layers: str) -> list[str]:
    affine = ("weight", "bias")
    moments = ("running_mean", "running_var", "num_batches_tracked")
    return [
        f"{layer}.{name}"
        for layer in layers
        for name in (affine + moments if "norm" in layer else affine)
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("linear_glm_baseline", keys("linear")),
        (
            "mlp_dense",
            keys("net.linear1", "net.norm1", "net.linear2", "net.norm2", "net.head"),
        ),
        (
            "tabresnet",
            keys(
                "input_projection",
                "input_norm",
                "blocks.0.linear1",
                "blocks.0.norm1",
                "blocks.0.linear2",
                "blocks.0.norm2",
                "blocks.1.linear1",
                "blocks.1.norm1",
                "blocks.1.linear2",
                "blocks.1.norm2",
                "head",
            ),
        ),
    ],
)
def test_names_in_the_state_dict_are_these(
    mode: TrainingMode, expected: list[str], dropout: float
) -> None:
    assert list(build_model(5, 3, mode, 8, 2, dropout).state_dict()) == expected


@every_mode
def test_deep_copy_computes_the_same_and_shares_nothing(mode: TrainingMode) -> None:
    model = trained(build_model(5, 3, mode, 8, 2, 0.1), 5)
    x = torch.randn(4, 5)
    before = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(x), before)
    assert introspect(twin) == introspect(model)


@every_mode
def test_double_computes_in_float64(mode: TrainingMode) -> None:
    model = trained(build_model(5, 3, mode, 8, 2, 0.1), 5)
    x = torch.randn(4, 5)
    single = model(x)
    double = model.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


@every_mode
def test_exported_program_takes_any_number_of_rows(mode: TrainingMode) -> None:
    model = trained(build_model(5, 3, mode, 8, 2, 0.1), 5)
    rows = torch.export.Dim("rows")
    program = torch.export.export(model, (torch.randn(4, 5),), dynamic_shapes=({0: rows},))
    for n in (1, 2, 9):
        x = torch.randn(n, 5)
        torch.testing.assert_close(program.module()(x), model(x))


def test_weights_survive_a_file(tmp_path: Any) -> None:
    for mode, dropout in itertools.product(MODES, (0.0, 0.2)):
        model = trained(build_model(5, 3, mode, 8, 2, dropout), 5)
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        fresh = build_model(5, 3, mode, 8, 2, dropout).eval()
        fresh.load_state_dict(torch.load(buffer, weights_only=True))
        x = torch.randn(4, 5)
        assert torch.equal(fresh(x), model(x))


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a compiler"
)
@pytest.mark.filterwarnings("ignore")  # the compiler's own warnings are not ours
@each_architecture
def test_compiled_model_computes_the_same(mode: TrainingMode) -> None:
    model = trained(build_model(5, 3, mode, 8, 2, 0.1), 5)
    compiled = torch.compile(model, dynamic=True)
    for n in (4, 1):
        x = torch.randn(n, 5)
        torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(ValueError, match="must be 2-D"):
        compiled(torch.randn(5))
