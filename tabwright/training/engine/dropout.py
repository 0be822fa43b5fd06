"""Dropout by a hash of (seed, layer, step, row, column): no generator, no state."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["HIGHEST_HASHED_RATE", "DropoutMask", "Part", "dropout_keys", "seeds_on"]

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class Part(NamedTuple):
    """A worker's rows of a batch that several workers share.

    Parameters
    ----------
    start : int
        Place of the first of them in the batch.
    n_rows : int
        Rows of the whole batch.
    """

    start: int
    n_rows: int


_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, odd, as a signed integer
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

    Parameters
    ----------
    seeds : sequence of int, or Tensor of shape (n_members,), int64
        One per member, of any size; a tensor is that of `seeds_on`.
    n_layers : int
    steps : Tensor of shape (n_steps,), int64

    Returns
    -------
    Tensor of shape (n_steps, n_layers, n_members), int32
        Odd factors. Those of a member depend on no other member.
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
def _element_hashes(n_rows: int, n_columns: int, device: torch.device) -> Tensor:
    index = torch.arange(n_rows * n_columns, device=device)
    hashed = _low_half(_scramble((index + 1) * _GOLDEN)) | 1
    return hashed.view(1, n_rows, n_columns)


# At most 0.996 of all bit patterns are floats that are numbers: see `_limit`.
HIGHEST_HASHED_RATE = 0.99
# Patterns of a negative float32 that is a number: -0.0 down to minus infinity.
_NEGATIVES = 0x7F800001


def _limit(rate: float) -> float:
    """The float32 below or at which lies the given share of all bit patterns, as floats.

    NaN patterns lie nowhere; at most 0.996 of all patterns are numbers.
    """
    count = round(rate * 2**32)
    bits = -(2**31) + _NEGATIVES - count if count <= _NEGATIVES else count - _NEGATIVES - 1
    limit: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return limit


class DropoutMask:
    """Zeroes elements at random, by a hash of the element and of the step's key.

    Every element has a fixed random odd number, and every step, layer and member a random odd
    factor; their product modulo 2**32 decides (multiplicative hashing: M. Dietzfelbinger,
    T. Hagerup, J. Katajainen and M. Penttonen, "A reliable randomized algorithm for the
    closest-pair problem", 1997, section 2).

    Parameters
    ----------
    rate : float
        Share of the elements to zero, in (0, 1), kept to 2**-32.
    shape : tuple of int
        (n_members, batch, hidden_dim).
    dtype : torch.dtype
    device : torch.device
    part : Part, optional
        Which rows of a batch these are; by default a batch of their own.
    bits : Tensor of that shape, int32, optional
        Where to work; by default memory of its own.
    """

    def __init__(
        self,
        rate: float,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        device: torch.device,
        part: Part | None = None,
        bits: Tensor | None = None,
    ) -> None:
        self._rate = rate
        if part is None:
            self._elements = _element_hashes(shape[1], shape[2], device)
        else:
            whole = _element_hashes(part.n_rows, shape[2], device)
            self._elements = whole[:, part.start : part.start + shape[1]]
        self._bits = torch.empty(shape, dtype=torch.int32, device=device) if bits is None else bits
        # One operation compares floats and zeroes, none does so with integers: the bits are read
        # as floats, of which `_limit` knows the order.
        self._floats = self._bits.view(torch.float32)
        self._limit = _limit(rate) if rate <= HIGHEST_HASHED_RATE else None
        self._in_one = self._limit is not None and dtype == torch.float32

    @property
    def hashes(self) -> tuple[Tensor, float] | None:
        """The elements' odd numbers, of shape (1, batch, hidden_dim), and the limit.

        An element is zeroed where its number times the key, modulo 2**32 and read as a float32,
        is at most the limit. None where this does not hold: rates above `HIGHEST_HASHED_RATE`.
        """
        return None if self._limit is None else (self._elements, self._limit)

    def apply_(self, values: Tensor, key: Tensor | None) -> None:
        """Zero elements of `values`, of shape (n_members, batch, hidden_dim), in place.

        Parameters
        ----------
        values : Tensor of shape (n_members, batch, hidden_dim)
        key : Tensor of shape (n_members, 1, 1), int32
            Of `dropout_keys`.

        Raises
        ------
        ValueError
            If there is no key.
        """
        if key is None:
            raise ValueError("a layer with dropout needs a key; make one with dropout_keys")
        bits = torch.mul(self._elements, key, out=self._bits)
        if self._in_one:
            _threshold_backward(values, self._floats, self._limit, grad_input=values)
        elif self._limit is not None:
            values.masked_fill_(self._floats <= self._limit, 0.0)
        else:
            values.masked_fill_(bits < round(self._rate * 2**32) - 2**31, 0.0)
