"""Tree ensembles as the functions of `kernels.c` take them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabwright.inference.blas_threads import for_each_block
from tabwright.inference.compiled.functions import address, c_struct, compiled_function

# `ROWS` of kernels.c, and rows that a thread takes at once.
_ROWS = 64
_ROWS_OF_A_THREAD = 2_048

# What the functions take of trees, behind what all forms have in common: numbers, and arrays.
_FIELDS: dict[str, tuple[type, ...]] = {
    "sum_nodes": (np.int64, np.int32, np.float32, np.int32, np.uint8, np.float64),
    "sum_oblivious": (int, np.int32, np.float32, np.float64),
    "sum_masked_32": (
        *(int, np.int32, np.float32, np.int64, np.uint32),
        *(np.int64, np.int64, np.int64, np.int64, np.float64),
    ),
}
_FIELDS["sum_masked_64"] = tuple(
    np.uint64 if kind is np.uint32 else kind for kind in _FIELDS["sum_masked_32"]
)
_COMMON: tuple[type, ...] = (int, int, int, np.float64)

FloatArray = NDArray[np.float64]


class CompiledTrees:
    """Trees whose leaves a C function sums.

    `function`: of `kernels.c`.
    `baseline`: (n_outputs,), float64.
    `fields`: what the function's struct holds behind `ensemble`, in order.
    """

    def __init__(
        self,
        function: str,
        baseline: FloatArray,
        n_features: int,
        n_trees: int,
        fields: tuple[int | NDArray[Any], ...],
    ) -> None:
        self._n_features, self._n_outputs = n_features, len(baseline)
        values = (n_features, len(baseline), n_trees, baseline, *fields)
        self._trees, self._arrays = c_struct((*_COMMON, *_FIELDS[function]), values)
        self._address = ctypes.addressof(self._trees)
        self._sum = compiled_function(function)

    def __call__(self, features: NDArray[np.float32]) -> FloatArray:
        """Sums of leaves and the baseline; threads may each take other rows.

        `features`: (n, n_features), float32.
        Returns: (n, n_outputs), float64.
        """
        if features.ndim != 2 or features.shape[1] != self._n_features:
            raise ValueError(
                f"features must have shape (n, {self._n_features}); got {features.shape}; make "
                "them with the model's own encoder"
            )
        # Nobody looks behind an address any more.
        features = np.ascontiguousarray(features, dtype=np.float32)
        sums = np.empty((len(features), self._n_outputs))
        if len(features) <= _ROWS_OF_A_THREAD:
            self._fill(features, sums)
            return sums

        def fill(starts: Iterator[int]) -> None:
            for start in starts:
                rows = slice(start, start + _ROWS_OF_A_THREAD)
                self._fill(features[rows], sums[rows])

        for_each_block(fill, range(0, len(features), _ROWS_OF_A_THREAD))
        return sums

    def _fill(self, features: NDArray[np.float32], sums: FloatArray) -> None:
        work = np.empty(self._n_features * _ROWS, dtype=np.int32)
        self._sum(self._address, len(features), address(features), address(sums), address(work))
