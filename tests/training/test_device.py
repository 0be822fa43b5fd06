"""A step stays on its device and reads no value there; CUDA trains what a CPU trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ai.ml.frameworks.pytorch.models import TrainingMode, build_model
from tabwright import TabularClassifier
from tabwright.training.engine.stacked_members import StackedMembers
from tabwright.training.objectives import Objective
from tabwright.training.running_loss import RunningLoss

N_ROWS, INPUT_DIM, N_CLASSES, N_MEMBERS = 60, 5, 3, 3


def _objective(kind: str) -> Objective:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, N_CLASSES, (N_ROWS,), generator=generator)
    goals = torch.randn(N_ROWS, 1, generator=generator)
    weights = torch.rand(N_ROWS, generator=generator) + 0.1
    soft = torch.softmax(3 * torch.rand(N_ROWS, N_CLASSES, generator=generator), dim=1)
    labelled = torch.rand(N_ROWS, generator=generator) < 0.7
    shares, temperatures = torch.tensor([0.2, 0.5, 1.0]), torch.tensor([1.0, 2.0, 4.0])
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


@pytest.mark.parametrize(
    "kind",
    [
        "classes",
        "weighted classes",
        "soft classes",
        "cooled classes",
        "classes, some unlabelled",
        "values",
        "weighted values",
        "soft values",
    ],
)
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "linear_glm_baseline"])
def test_a_step_reads_no_value_and_stays_on_its_device(
    monkeypatch: pytest.MonkeyPatch, mode: TrainingMode, kind: str
) -> None:
    # Tensors of the device "meta" have no values to read, and do not mix with a CPU's.
    monkeypatch.setattr(StackedMembers, "_fill", lambda members, member: None)
    output_dim = 1 if "values" in kind else N_CLASSES
    members = StackedMembers(
        [build_model(INPUT_DIM, output_dim, mode, 16, 2, 0.2).to("meta") for _ in range(N_MEMBERS)],
        seeds=range(N_MEMBERS),
    )
    objective, running = _objective(kind), RunningLoss()
    for name, value in vars(objective).items():
        if isinstance(value, Tensor):
            setattr(objective, name, value.to("meta"))
    for step in range(3):
        if step == 2:
            members.set_active([True, False, True])
        rows = torch.empty(16, dtype=torch.int64, device="meta")
        x = torch.empty(16, INPUT_DIM, device="meta")
        gradient = partial(objective.gradient, rows=rows, running=running)
        members.forward_backward(x, gradient, step=step)
    assert running.take().device.type == "meta"
    assert members.logits(torch.ones(4, INPUT_DIM, device="meta")).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["mlp_dense", "tabresnet", "calibrated_classifier"])
def test_cuda_and_cpu_train_the_same_networks(mode: TrainingMode) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 4)).astype(np.float32)
    y = np.where(X[:, 0] + X[:, 1] > 0, "yes", "no")
    on_cpu, on_cuda = (
        TabularClassifier(
            training_mode=mode, device=device, max_epochs=8, n_members=2, random_state=0
        )
        .fit(X[:600], y[:600])
        .predict_proba(X[600:])
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_cuda, on_cpu, atol=0.05)
