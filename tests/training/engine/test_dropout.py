"""The statistics of the hash dropout."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tabwright.training.engine.dropout import (
    drop_below,
    dropout_keys,
    element_hashes,
    is_dropped,
)

CPU = torch.device("cpu")


def _key(n_members: int, step: int = 0) -> Tensor:
    return dropout_keys(range(n_members), 1, torch.tensor([step]))[0, 0, :, None, None]


def _mask(shape: tuple[int, int, int], rate: float, key: Tensor) -> Tensor:
    return (~is_dropped(element_hashes(*shape[1:], CPU), key, rate)).float()


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


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 1 / 3, 0.5, 0.9999, 1 - 1e-12])
def test_the_limit_has_the_share_of_all_integers_below_it(rate: float) -> None:
    assert -(2**31) <= drop_below(rate) < 2**31
    assert abs(drop_below(rate) + 2**31 - rate * 2**32) <= 1
