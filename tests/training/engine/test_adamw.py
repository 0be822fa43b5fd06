"""AdamW over a flat buffer against torch.optim.AdamW."""

from __future__ import annotations

import pytest
import torch

from tabwright.training.engine import adamw as optimizer_module
from tabwright.training.engine.adamw import FlatAdamW


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_torchs_adamw(
    fused: bool,
    dtype: torch.dtype,
    weight_decay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizer_module, "_HAS_FUSED", fused)
    values = torch.randn(3, 70, dtype=dtype)
    decayed = [torch.nn.Parameter(row[:40].clone()) for row in values]
    plain = [torch.nn.Parameter(row[40:].clone()) for row in values]
    reference = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        betas=(0.8, 0.95),
        foreach=False,
    )
    gradients = torch.zeros_like(values)
    mine = FlatAdamW(values, gradients, 40, betas=(0.8, 0.95))
    for step in range(20):
        rate = 0.01 / (1 + step)
        gradients.copy_(torch.randn_like(gradients))
        for k, (left, right) in enumerate(zip(decayed, plain, strict=True)):
            left.grad, right.grad = gradients[k, :40].clone(), gradients[k, 40:].clone()
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        mine.step(rate, weight_decay)
    expected = torch.cat([torch.stack(list(decayed)), torch.stack(list(plain))], dim=1)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_members_that_do_not_move_stay_as_they_are(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_module, "_HAS_FUSED", fused)
    values, gradients = torch.randn(4, 64), torch.randn(4, 64)
    before = values.clone()
    mine = FlatAdamW(values, gradients, 64)
    mine.step(0.1, 0.1, slice(1, 3))
    assert torch.equal(values[[0, 3]], before[[0, 3]])
    assert (values[1:3] != before[1:3]).all()
    assert mine.steps.tolist() == [0, 1, 1, 0]


def test_zero_gradients_move_nothing_without_decay() -> None:
    values = torch.randn(1, 64)
    before = values.clone()
    mine = FlatAdamW(values, torch.zeros_like(values), 32)
    mine.step(0.1, 0.5)
    assert torch.equal(values[:, 32:], before[:, 32:])
    torch.testing.assert_close(values[:, :32], before[:, :32] * 0.95)


def test_the_private_kernel_is_used_where_it_works() -> None:
    assert hasattr(torch, "_fused_adamw_") == optimizer_module._HAS_FUSED


@pytest.mark.parametrize("error", [TypeError, RuntimeError])
def test_a_private_kernel_that_changed_is_left_alone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **settings: object) -> None:
        raise error("no longer so")

    monkeypatch.setattr(torch, "_fused_adamw_", refuse)
    assert not optimizer_module._fused_kernel_works()
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *args, **settings: None)
    assert not optimizer_module._fused_kernel_works()
    monkeypatch.delattr(torch, "_fused_adamw_")
    assert not optimizer_module._fused_kernel_works()
