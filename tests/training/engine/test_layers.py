"""The differentiable hidden layer against autograd, and the statistics of the hash dropout."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tabwright.training.engine.dropout import DropoutMask, _limit, dropout_keys
from tabwright.training.engine.layers import linear_bn_relu_dropout
from tabwright.training.engine.torch_kernels import BATCH_NORM_EPS

CPU = torch.device("cpu")


def _inputs(
    n_members: int = 2, batch: int = 6, input_dim: int = 3, hidden_dim: int = 4
) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = [
        (n_members, batch, input_dim),
        (n_members, hidden_dim, input_dim),
        *[(n_members, hidden_dim)] * 3,
    ]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def _key(n_members: int, step: int = 0) -> Tensor:
    return dropout_keys(range(n_members), 1, torch.tensor([step]))[0, 0, :, None, None]


def _mask(shape: tuple[int, int, int], rate: float, key: Tensor) -> Tensor:
    ones = torch.ones(shape)
    DropoutMask(rate, shape, torch.float32, CPU).apply_(ones, key)
    return ones


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("n_members", [1, 3])
def test_gradients_pass_gradcheck(rate: float, n_members: int) -> None:
    inputs = _inputs(n_members)
    key = _key(n_members)

    def layer(*tensors: Tensor) -> Tensor:
        return linear_bn_relu_dropout(*tensors, rate=rate, key=key)[0]

    assert torch.autograd.gradcheck(layer, inputs)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_layer_equals_pytorchs_layers(rate: float) -> None:
    inputs = _inputs(3, 16, 5, 7)
    x, weight, bias, norm_weight, norm_bias = inputs
    key = _key(3)
    output, means, variances = linear_bn_relu_dropout(*inputs, rate=rate, key=key)
    outer = torch.randn_like(output)
    gradients = torch.autograd.grad(output, inputs, outer)
    mask = _mask((3, 16, 7), rate, key).double() if rate else torch.ones(3, 16, 7)
    for k in range(3):
        running = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
        hidden = functional.batch_norm(
            functional.linear(x[k], weight[k], bias[k]),
            *running,
            norm_weight[k],
            norm_bias[k],
            training=True,
            momentum=1.0,
            eps=BATCH_NORM_EPS,
        )
        expected = functional.relu(hidden) * mask[k] / (1 - rate)
        torch.testing.assert_close(output[k], expected)
        torch.testing.assert_close(means[k], running[0])
        torch.testing.assert_close(variances[k], running[1])
        for mine, theirs in zip(
            gradients, torch.autograd.grad(expected, inputs, outer[k]), strict=True
        ):
            torch.testing.assert_close(mine[k], theirs[k])


def test_the_bias_in_front_of_batch_norm_has_a_gradient_of_exactly_zero() -> None:
    inputs = _inputs()
    output, *_ = linear_bn_relu_dropout(*inputs)
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs[2])
    assert torch.equal(gradient, torch.zeros_like(inputs[2]))


def test_one_row_and_a_missing_key_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows in training; got 1"):
        linear_bn_relu_dropout(*_inputs(batch=1))
    with pytest.raises(ValueError, match="needs a key; make one with dropout_keys"):
        linear_bn_relu_dropout(*_inputs(), rate=0.1)


# ---------------------------------------------------------------------------------------------
# Dropout
# ---------------------------------------------------------------------------------------------


def _within(share: float, expected: float, n: int, sigmas: float = 5.0) -> bool:
    return abs(share - expected) <= sigmas * math.sqrt(expected * (1 - expected) / n) + 1e-12


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999])
def test_the_rate_is_the_one_asked_for(rate: float) -> None:
    keys = dropout_keys([7], 1, torch.arange(20))[:, 0, :, None, None]
    masks = torch.stack([_mask((1, 256, 128), rate, key) for key in keys])
    assert set(torch.unique(masks).tolist()) <= {0.0, 1.0}
    assert _within(float((masks == 0).double().mean()), rate, masks.numel())
    for axis in (0, 2, 3):
        others = tuple({0, 1, 2, 3} - {axis})
        shares = (masks == 0).double().mean(others)
        n = masks.numel() // len(shares)
        assert all(_within(float(share), rate, n) for share in shares)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_steps_layers_and_members_are_independent(rate: float) -> None:
    keys = dropout_keys([0, 1, 2**40], 3, torch.arange(6)).flatten()[:, None, None, None]
    assert len(torch.unique(keys)) == len(keys)
    dropped = [_mask((1, 256, 128), rate, key) == 0 for key in keys]
    for first, second in itertools.combinations(dropped, 2):
        assert _within(float((first & second).double().mean()), rate**2, first.numel())


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_neighbours_in_rows_and_columns_are_independent(rate: float) -> None:
    for key in dropout_keys([3], 1, torch.arange(8))[:, 0, :, None, None]:
        dropped = (_mask((1, 256, 128), rate, key) == 0)[0]
        for rows, columns in [(0, 1), (1, 0), (1, 1), (0, 64), (128, 0)]:
            both = dropped[rows:, columns:] & dropped[: 256 - rows, : 128 - columns]
            assert _within(float(both.double().mean()), rate**2, both.numel())


def test_an_elements_history_has_no_memory() -> None:
    """Over 2,000 steps: its rate, and its rate after a step in which it was dropped."""
    rate, n_steps = 0.3, 2_000
    keys = dropout_keys([5], 1, torch.arange(n_steps))[:, 0, :, None, None]
    dropped = torch.stack([_mask((1, 16, 8), rate, key) == 0 for key in keys])[:, 0].flatten(1)
    assert all(_within(float(s), rate, n_steps) for s in dropped.double().mean(0))
    both = (dropped[1:] & dropped[:-1]).double().mean(0)
    assert all(_within(float(s), rate**2, n_steps) for s in both)


def test_keys_depend_on_nothing_but_seed_layer_and_step() -> None:
    everything = dropout_keys([4, 9, 12], 3, torch.arange(100, 110))
    assert torch.equal(dropout_keys([9], 2, torch.tensor([105]))[0, :, 0], everything[5, :2, 1])
    assert (everything % 2 != 0).all()


def test_a_mask_does_not_depend_on_the_rows_after_it_nor_on_the_members_beside_it() -> None:
    keys = _key(3)
    whole = _mask((3, 64, 16), 0.4, keys)
    assert torch.equal(_mask((3, 10, 16), 0.4, keys), whole[:, :10])
    assert torch.equal(_mask((1, 64, 16), 0.4, keys[1:2]), whole[1:2])


@pytest.mark.parametrize("rate", [1e-6, 0.1, 1 / 3, 0.498, 0.4981, 0.5, 0.9, 0.99])
def test_the_limit_has_the_share_of_all_bit_patterns_below_it(rate: float) -> None:
    limit = struct.unpack("<i", struct.pack("<f", _limit(rate)))[0]
    numbers = 0x7F800001  # of either sign
    below = numbers - (limit + 2**31) if limit < 0 else numbers + limit + 1
    assert abs(below - rate * 2**32) <= 1


@pytest.mark.parametrize("rate", [1e-10, 1e-9, 0.002, 0.1, 0.498, 0.4981, 0.5, 0.99, 0.9999])
def test_comparing_as_floats_is_comparing_as_integers(rate: float) -> None:
    """float64 values take the integer way, float32 values the way of one operation."""
    shape, key = (2, 128, 64), _key(2)
    doubles = torch.ones(shape, dtype=torch.float64)
    DropoutMask(rate, shape, torch.float64, CPU).apply_(doubles, key)
    assert torch.equal(_mask(shape, rate, key).double(), doubles)
    assert _within(float((doubles == 0).double().mean()), rate, doubles.numel())
