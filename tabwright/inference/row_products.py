"""Matrix products that round every row of a table alike.

A BLAS adds up the terms of an output in an order that depends on where the output lies in the
matrix: at a ragged edge, and with some kernels in every other group of rows. What users predict
must not depend on a row's place, so the products of a prediction keep to shapes in which no kernel
of NumPy's BLAS on x86 tells rows apart. Tests run every one of them (test_place_in_batch.py).

- Rows lie along the contiguous axis: activations are units x rows.
- A block has 8 places for rows; or a multiple of 16 and at most 320, the first and last `MARGIN` of
  them empty. One of 4 places is faster and alike with most kernels: `smallest_block` tells.
- An output has at most `_MOST_TERMS` terms; a longer sum is made of several products.
- There are at least two units: one would be the product of a vector, which has kernels of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tabwright.inference.folding import Affine, Layers

_FEWEST_ROWS, _FEW_ROWS = 4, 8
MARGIN = 8
# Rows of a block without its margins. A BLAS cuts more places than 320 in two, each with an edge.
MOST_ROWS = 320 - 2 * MARGIN
_MOST_TERMS = 384


def block_sizes(n_rows: int, fewest: int, most: int) -> tuple[int, int]:
    """Rows of a block that suits so many rows, and how many places are empty at either end.

    Few sizes, so that buffers can be kept for each: the places are a power of two.

    `fewest`: places of the smallest block.
    `most`: rows that a block may have, a multiple of 16.
    """
    if n_rows <= _FEW_ROWS:
        return fewest if n_rows <= fewest else _FEW_ROWS, 0
    places = max(32, 1 << (n_rows + 2 * MARGIN - 1).bit_length())
    return min(most, places - 2 * MARGIN), MARGIN


class RowProduct:
    """Outputs of a layer without its bias, for units x rows.

    `weight`: (..., n_inputs, n_units); at least two units.
    """

    def __init__(self, weight: NDArray[Any]) -> None:
        # The same products, but `dot` takes half the time to get going.
        self._product = np.dot if weight.ndim == 2 else np.matmul
        self._starts = range(0, weight.shape[-2], _MOST_TERMS)
        # Views: some kernels tell rows apart where units lie along the contiguous axis.
        self._parts = [
            weight[..., start : start + _MOST_TERMS, :].swapaxes(-1, -2) for start in self._starts
        ]

    def __call__(self, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Fill `out` (..., n_units, n) from inputs (..., n_inputs, n)."""
        if len(self._parts) == 1:
            self._product(self._parts[0], x, out=out)
            return
        for start, part in zip(self._starts, self._parts, strict=True):
            inputs = x[..., start : start + _MOST_TERMS, :]
            if start == 0:
                self._product(part, inputs, out=out)
            else:
                np.add(out, self._product(part, inputs), out=out)

    @property
    def is_alike_in_the_smallest(self) -> bool:
        """Whether rows have the same bits in a block of `_FEWEST_ROWS` as in larger ones."""
        first = self._parts[0]
        shape = (*first.shape[:-2], sum(part.shape[-1] for part in self._parts), _FEW_ROWS)
        x = np.random.default_rng(0).normal(size=shape).astype(first.dtype)
        few = np.ascontiguousarray(x[..., :_FEWEST_ROWS])
        outputs = [np.empty((*first.shape[:-1], rows.shape[-1]), first.dtype) for rows in (x, few)]
        for rows, out in zip((x, few), outputs, strict=True):
            self(rows, out)
        return np.array_equal(outputs[0][..., :_FEWEST_ROWS], outputs[1])


def smallest_block(products: Iterable[RowProduct]) -> int:
    """Places of the smallest block in which rows have the bits that they have in larger ones."""
    with np.errstate(over="ignore", invalid="ignore"):
        alike = all(product.is_alike_in_the_smallest for product in products)
    return _FEWEST_ROWS if alike else _FEW_ROWS


class Dense(NamedTuple):
    """A layer of all members for units x rows."""

    weight: NDArray[Any]  # (K, in, out), or (in, K out) where the input is shared
    bias: NDArray[Any]  # (K out,)
    product: RowProduct


class DenseLayers(NamedTuple):
    """The layers of all members for units x rows, in order."""

    first: Dense
    hidden: tuple[Dense, ...]
    head: Dense | None

    @classmethod
    def of(cls, layers: Layers, n_members: int) -> DenseLayers:
        """From folded layers; where a member has a single unit, one that is always 0 joins it."""
        first = _shared(layers.first, n_members)
        hidden = tuple(_dense(layer) for layer in layers.hidden)
        return cls(first, hidden, None if layers.head is None else _dense(layers.head))


def _shared(layer: Affine, n_members: int) -> Dense:
    """The first layer, whose input all members share."""
    weight, bias = layer
    if len(bias) == n_members:
        weight = np.stack([weight, np.zeros_like(weight)], axis=2).reshape(len(weight), -1)
        bias = np.stack([bias, np.zeros_like(bias)], axis=1).reshape(-1)
    return Dense(weight, bias, RowProduct(weight))


def _dense(layer: Affine) -> Dense:
    weight, bias = layer
    pads = [(0, 0)] * (weight.ndim - 2) + [(0, int(n == 1)) for n in weight.shape[-2:]]
    if weight.shape[-1] == 1:
        bias = np.stack([bias, np.zeros_like(bias)], axis=1).reshape(-1)
    weight = np.pad(weight, pads)
    return Dense(weight, bias, RowProduct(weight))
