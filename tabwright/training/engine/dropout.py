"""Dropout by a hash of (seed, layer, step, row, column): no generator, no state.

Every element of a batch has a fixed random odd number, and every step, layer and member a random
odd factor; their product modulo 2**32 decides (multiplicative hashing: M. Dietzfelbinger,
T. Hagerup, J. Katajainen and M. Penttonen, "A reliable randomized algorithm for the closest-pair
problem", 1997, section 2).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """A worker's rows of a batch that several workers share.

    `start`: place of the first of them in the batch.
    `n_rows`: rows of the whole batch.
    """

    start: int
    n_rows: int


_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed integer
# The multipliers of SplitMix64, signed: few operations of PyTorch take uint64.
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _scramble(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64: a bijection of 64-bit integers without structure left.

    G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators", 2014,
    figure 16.
    """
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    # torch shifts arithmetically; the mask takes the copies of the sign away.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def seeds_on(device: torch.device, seeds: Sequence[int]) -> Tensor:
    """Seeds of any size as a tensor of shape (n_members,), int64, for `dropout_keys`.

    Made once a run: numbers that leave the host make it wait for the device.
    """
    signed = [(seed + 2**63) % 2**64 - 2**63 for seed in seeds]
    return torch.tensor(signed, dtype=torch.int64, device=device)


def dropout_keys(seeds: Sequence[int] | Tensor, n_layers: int, steps: Tensor) -> Tensor:
    """What the dropout of each step, layer and member depends on besides the element.

    `seeds`: (n_members,), int64; one per member, of any size; a tensor is that of `seeds_on`.
    `steps`: (n_steps,), int64.
    Returns: (n_steps, n_layers, n_members), int32; odd factors. Those of a member depend on no
        other member.
    """
    device = steps.device
    signed = seeds if isinstance(seeds, Tensor) else seeds_on(device, seeds)
    z = _scramble(signed + _GOLDEN)
    layers = torch.arange(1, n_layers + 1, device=device)
    z = _scramble(z + layers[:, None] * _GOLDEN)
    z = _scramble(z + (steps[:, None, None] + 1) * _GOLDEN)
    return _low_half(z) | 1


def _low_half(z: Tensor) -> Tensor:
    return z.unsqueeze(-1).contiguous().view(torch.int32)[..., 0]


@functools.lru_cache(maxsize=16)
def element_hashes(n_rows: int, n_columns: int, device: torch.device) -> Tensor:
    """A random odd number for every element of a batch: shape (n_rows, n_columns), int32.

    Those of a row do not depend on the rows after it.
    """
    index = torch.arange(n_rows * n_columns, device=device)
    return (_low_half(_scramble((index + 1) * _GOLDEN)) | 1).view(n_rows, n_columns)


def drop_below(rate: float) -> int:
    """The int32 below which lies the given share of all int32, kept to 2**-32."""
    return int(min(round(rate * 2**32) - 2**31, 2**31 - 1))


def is_dropped(elements: Tensor, keys: Tensor, rate: float) -> Tensor:
    """Which elements a step drops: bool, of the shape that the two broadcast to.

    `elements`: int32; of `element_hashes`.
    `keys`: int32; odd factors, as of `dropout_keys`.
    """
    return elements * keys < drop_below(rate)
