"""Laws of the objectives: the gradient is that of the loss, and weights count rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ai.ml.frameworks.pytorch.models import compute_class_weights
from tabwright.regression import RegressionObjective, member_responses, row_losses
from tabwright.training.objectives import Objective, class_weight_vector, row_weights
from tabwright.training.regression_losses import RegressionLoss
from tabwright.training.running_loss import RunningLoss

CPU = torch.device("cpu")
N_ROWS, N_CLASSES, N_MEMBERS = 12, 4, 3


def _objective(kind: str, weighted: bool) -> Objective:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(N_ROWS, generator=generator, dtype=torch.float64) + 0.1
    if kind == "regression":
        return Objective(
            torch.randn(N_ROWS, 1, generator=generator, dtype=torch.float64),
            weights if weighted else None,
        )
    targets = torch.randint(0, N_CLASSES, (N_ROWS,), generator=generator)
    soft = torch.softmax(torch.randn(N_ROWS, N_CLASSES, generator=generator).double(), dim=1)
    if kind == "distillation":
        return Objective(targets, weights if weighted else None, soft, 0.7, temperature=2.5)
    return Objective(targets, weights if weighted else None)


def _criterion(
    objective: Objective, rows: Tensor, member: int = 0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The objective's loss of one member on some rows, in plain torch operations."""
    shares = torch.as_tensor(objective.teacher_weight, dtype=torch.float64).reshape(-1)
    temperatures = torch.as_tensor(objective.temperature, dtype=torch.float64).reshape(-1)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        share = shares[member % len(shares)].to(logits).expand(len(rows))
        if objective.labelled is not None:
            share = torch.where(objective.labelled[rows], share, torch.ones_like(share))
        temperature = float(temperatures[member % len(temperatures)])
        soft = None if objective.soft_targets is None else objective.soft_targets[rows]
        if objective.is_classification:
            losses = functional.cross_entropy(logits, targets, reduction="none")
        else:
            losses = (logits - targets).squeeze(-1).square()
        if soft is not None and objective.is_classification:
            soft = torch.softmax(soft.clamp_min(1e-12).log() / temperature, dim=-1)
            cooled = functional.log_softmax(logits / temperature, dim=-1)
            losses = (1 - share) * losses - share * temperature**2 * (cooled * soft).sum(1)
        elif soft is not None:
            goal = torch.lerp(targets, soft, share.unsqueeze(-1))
            losses = (logits - goal).squeeze(-1).square()
        return (losses if objective.weights is None else losses * objective.weights[rows]).mean()

    return loss


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["classification", "regression", "distillation"])
def test_gradient_is_that_of_autograd(kind: str, weighted: bool) -> None:
    objective = _objective(kind, weighted)
    width = 1 if kind == "regression" else N_CLASSES
    logits = torch.randn(N_MEMBERS, 5, width, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 3, 4, 7, 11])
    loss = _criterion(objective, rows)
    total = torch.stack([loss(z, objective.targets[rows]) for z in logits]).sum()
    (expected,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(objective.gradient(logits.detach().clone(), rows), expected)


@pytest.mark.parametrize("objective", ["absolute_error", "quantile", "poisson", "gamma"])
def test_regression_losses_are_those_of_rows_and_their_gradient_is_autograds(
    objective: RegressionObjective,
) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = (0.1, 0.4, 0.9)
    targets = torch.rand(N_ROWS, 1, generator=generator, dtype=torch.float64) * 3 + 0.1
    if objective == "poisson":
        targets = targets.floor()
    loss = RegressionLoss(objective, levels)
    width = 3 if objective == "quantile" else 1
    outputs = torch.randn(N_MEMBERS, N_ROWS, width, generator=generator, dtype=torch.float64)
    losses, gradient = loss(outputs.requires_grad_(), targets)
    (expected,) = torch.autograd.grad(losses.sum(), outputs)
    torch.testing.assert_close(gradient.detach(), expected)
    said = member_responses(outputs.detach().numpy(), objective)
    for member in range(N_MEMBERS):
        rows = row_losses(objective, targets[:, 0].numpy(), said[member], levels)
        np.testing.assert_allclose(losses[member].detach().numpy(), rows, rtol=1e-9, atol=1e-12)
    # The whole objective: with weights, of a batch.
    weights = torch.rand(N_ROWS, generator=generator, dtype=torch.float64)
    own = Objective(targets, weights, regression=loss)
    batch = torch.tensor([0, 3, 4, 7])
    some = outputs.detach()[:, batch]
    found = own.gradient(some.clone(), batch)
    share = (weights / weights.mean())[batch][None, :, None] / len(batch)
    torch.testing.assert_close(found, expected[:, batch] * share)
    torch.testing.assert_close(
        own.loss(outputs.detach()), losses.detach() @ weights / weights.sum()
    )


def test_running_loss_is_the_mean_over_all_batches() -> None:
    objective, running = _objective("classification", weighted=False), RunningLoss()
    logits = torch.randn(N_MEMBERS, N_ROWS, N_CLASSES, dtype=torch.float64)
    for rows in (torch.arange(5), torch.arange(5, N_ROWS)):
        objective.gradient(logits[:, rows].clone(), rows, running)
    torch.testing.assert_close(running.take(), objective.loss(logits))
    with pytest.raises(RuntimeError, match="no batch"):
        running.take()


def test_a_running_loss_goes_on_in_place() -> None:
    objective, running = _objective("classification", weighted=True), RunningLoss()
    logits, rows = torch.randn(N_MEMBERS, 5, N_CLASSES, dtype=torch.float64), torch.arange(5)
    objective.gradient(logits.clone(), rows, running)
    state, once = running.state(), running.take()
    assert running.state()["loss_sum"].shape == (0,)
    assert once.all()
    objective.gradient(logits.clone(), rows, running)
    assert torch.equal(running.take(), once)
    running.load_state(state, CPU)
    assert torch.equal(running.take(), once)
    objective.gradient(logits.clone(), rows, running)
    nothing = {"loss_sum": torch.zeros(0).double(), "row_count": torch.tensor([0])}
    running.load_state(nothing, CPU)
    objective.gradient(logits.clone(), rows, running)
    assert torch.equal(running.take(), once)


def test_a_running_loss_of_other_members_is_refused() -> None:
    codes, rows, running = torch.tensor([0, 1, 1]), torch.arange(3), RunningLoss()
    for wrong in (torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.zeros(2)):
        with pytest.raises(ValueError, match="one float64 per member"):
            running.load_state({"loss_sum": wrong, "row_count": torch.tensor([3])}, CPU)
    none = torch.zeros(0).double()
    with pytest.raises(ValueError, match="or none before a batch"):
        running.load_state({"loss_sum": none, "row_count": torch.tensor([3])}, CPU)
    # A sum of one would spread over all members.
    running.load_state({"loss_sum": torch.zeros(1).double(), "row_count": torch.tensor([3])}, CPU)
    with pytest.raises(ValueError, match=r"running loss must be of shape \(2,\); got \(1,\)"):
        Objective(codes).gradient(torch.zeros(2, 3, 2), rows, running)


def test_going_on_from_a_state_leaves_the_state_alone() -> None:
    rows, logits, objective = (
        torch.arange(3),
        torch.randn(2, 3, 2),
        Objective(torch.tensor([0, 1, 1])),
    )
    whole, first, second = (RunningLoss() for _ in range(3))
    objective.gradient(logits, rows, first)
    state = first.state()
    before = state["loss_sum"].clone()
    second.load_state(state, CPU)
    objective.gradient(logits + 1, rows, second)
    assert torch.equal(state["loss_sum"], before)
    for values in (logits, logits + 1):
        objective.gradient(values, rows, whole)
    assert torch.equal(second.take(), whole.take())


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_weight_two_equals_a_row_twice(kind: str) -> None:
    plain = _objective(kind, weighted=False)
    logits = torch.randn(1, N_ROWS, plain.targets[None].shape[-1] if kind == "regression" else 4)
    logits = logits.double()
    twice = torch.cat([torch.arange(N_ROWS), torch.tensor([2])])
    weights = torch.ones(N_ROWS, dtype=torch.float64)
    weights[2] = 2.0
    weighted = Objective(plain.targets, weights)
    repeated = Objective(plain.targets[twice])
    torch.testing.assert_close(weighted.loss(logits), repeated.loss(logits[:, twice]))
    rows = torch.arange(N_ROWS)
    gradient = weighted.gradient(logits.clone(), rows)[0]
    again = repeated.gradient(logits[:, twice].clone(), torch.arange(N_ROWS + 1))[0]
    summed = torch.zeros_like(gradient).index_add_(0, twice, again)
    torch.testing.assert_close(gradient, summed)


def test_scale_of_the_weights_changes_nothing() -> None:
    plain = _objective("classification", weighted=False)
    logits = torch.randn(1, N_ROWS, N_CLASSES, dtype=torch.float64)
    weights = torch.rand(N_ROWS, dtype=torch.float64) + 0.1
    rows = torch.arange(N_ROWS)
    results = [
        Objective(plain.targets, factor * weights).gradient(logits.clone(), rows)
        for factor in (1.0, 1000.0)
    ]
    torch.testing.assert_close(*results)


def test_teacher_alone_is_cross_entropy_with_the_soft_labels() -> None:
    targets = torch.zeros(6, dtype=torch.int64)
    soft = torch.softmax(torch.randn(6, 3), dim=1)
    objective = Objective(targets, None, soft, teacher_weight=1.0)
    logits = torch.randn(6, 3)
    rows = torch.arange(6)
    expected = functional.cross_entropy(logits, soft)
    torch.testing.assert_close(_criterion(objective, rows)(logits, targets), expected)


@pytest.mark.parametrize("repeats", [[1, 2, 3, 1, 4, 1], [1, 1, 1, 1, 1, 1]])
def test_class_weights_on_weighted_counts_equal_the_contract_on_repeated_rows(
    repeats: list[int],
) -> None:
    codes = np.array([0, 0, 1, 2, 2, 2])
    contract: Tensor = compute_class_weights(
        torch.from_numpy(np.repeat(codes, repeats)), 4, torch.device("cpu")
    )
    ours = class_weight_vector(np.bincount(codes, weights=repeats, minlength=4))
    np.testing.assert_allclose(ours, contract.numpy(), rtol=1e-6)


def test_row_weights_multiply() -> None:
    codes = np.array([0, 1, 1])
    assert row_weights(codes, None, None, 3) is None
    weights = row_weights(codes, np.array([1.0, 2.0, 3.0]), np.array([10.0, 100.0]), 3)
    np.testing.assert_array_equal(weights, [10.0, 200.0, 300.0])


def test_members_may_weigh_the_teacher_differently() -> None:
    shared = _objective("distillation", weighted=False)
    weights = torch.tensor([0.0, 0.3, 1.0])
    objective = Objective(shared.targets, None, shared.soft_targets, weights)
    logits = torch.randn(3, N_ROWS, N_CLASSES, dtype=torch.float64, requires_grad=True)
    rows = torch.arange(N_ROWS)
    total = torch.stack(
        [_criterion(objective, rows, k)(z, objective.targets) for k, z in enumerate(logits)]
    ).sum()
    (expected,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(objective.gradient(logits.detach().clone(), rows), expected)


@pytest.mark.parametrize("temperature", [1.0, [1.0, 2.5, 4.0]])
@pytest.mark.parametrize("kind", ["regression", "distillation"])
def test_rows_without_a_label_learn_from_the_teacher_alone(
    kind: str, temperature: float | list[float]
) -> None:
    shared = _objective(kind, weighted=True)
    soft = shared.soft_targets
    if soft is None:
        soft = torch.randn(N_ROWS, 1, dtype=torch.float64)
    labelled = torch.arange(N_ROWS) % 3 != 0
    objective = Objective(
        shared.targets,
        shared.weights,
        soft,
        torch.tensor([0.0, 0.3, 1.0]),
        torch.as_tensor(temperature),
        labelled,
    )
    width = soft.shape[1]
    logits = torch.randn(3, N_ROWS, width, dtype=torch.float64, requires_grad=True)
    rows = torch.randperm(N_ROWS)
    total = torch.stack(
        [_criterion(objective, rows, k)(z, objective.targets[rows]) for k, z in enumerate(logits)]
    ).sum()
    (expected,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(objective.gradient(logits.detach().clone(), rows), expected)
    # Whatever target such a row is given, nothing changes.
    other = torch.where(
        labelled if kind == "distillation" else labelled[:, None],
        shared.targets,
        torch.zeros_like(shared.targets),
    )
    again = Objective(
        other,
        shared.weights,
        soft,
        torch.tensor([0.0, 0.3, 1.0]),
        torch.as_tensor(temperature),
        labelled,
    )
    torch.testing.assert_close(again.gradient(logits.detach().clone(), rows), expected)


def test_rows_without_a_label_need_a_teacher() -> None:
    with pytest.raises(ValueError, match="need soft_targets"):
        Objective(torch.zeros(3, dtype=torch.int64), labelled=torch.tensor([True, False, True]))
