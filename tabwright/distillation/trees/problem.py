"""What tree ensembles are fitted on, and what every kind of them can do.

Every kind is fitted through the same `Problem` and gives predictions after several numbers of
boosting rounds, so that one caller can choose the number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tabwright.errors import install_command

FloatArray = NDArray[np.float64]
TeacherKind = Literal[
    "hist_gradient_boosting", "random_forest", "extra_trees", "lightgbm", "xgboost", "catboost"
]
TEACHER_KINDS: tuple[TeacherKind, ...] = get_args(TeacherKind)

# Rounds at which a boosted ensemble is judged. 300 at a rate of 0.1 does what the libraries'
# longer, slower settings do (CatBoost's 1,000 at about 0.03) at a third of the time, which
# out-of-fold labels cost six times over.
ROUNDS: Final = (10, 20, 35, 60, 100, 150, 220, 300)
RATE: Final = 0.1
# Softmax boosting grows a tree per class and round.
MOST_TREES: Final = 3_000


@dataclass(frozen=True)
class Problem:
    """What an ensemble is fitted on.

    `values`: (n, n_columns), float64; from `TreeColumns.encode`.
    `categorical`: (n_columns,), bool.
    `target`: (n,); codes 0..n_classes-1, int64, each with a row; or a standardised target, float64.
    `weight`: (n,), float64; mean 1.
    `n_classes`: 0 in regression.
    """

    values: FloatArray
    categorical: NDArray[np.bool_]
    target: NDArray[Any]
    weight: FloatArray | None
    n_classes: int
    random_state: int
    n_threads: int

    def take(self, index: NDArray[Any]) -> Problem:
        """Some of the rows, by places or by a mask."""
        weight = None if self.weight is None else self.weight[index]
        return replace(self, values=self.values[index], target=self.target[index], weight=weight)


class FittedTrees(Protocol):
    """A fitted ensemble."""

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        """Predictions after each number of `rounds`, rising: (n, n_classes) or (n,)."""


class Learner(Protocol):
    """A kind of ensemble, not fitted."""

    @property
    def name(self) -> str: ...

    @property
    def max_levels(self) -> int | None:
        """Levels of a category column that can have a code."""

    def versions(self) -> dict[str, str]:
        """The library and its version; raises ImportError where it is missing."""

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        """Numbers of rounds to choose from; (0,) where there is nothing to choose."""

    def settings(self, n_classes: int) -> dict[str, Any]:
        """Settings for the record: plain data."""

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees: ...

    def fit_in_stages(
        self, problem: Problem, values: FloatArray, rounds: Sequence[int]
    ) -> Iterator[FloatArray]:
        """What the trees say of `values` after each number of `rounds`, for as long as one asks.

        `values`: (n, n_columns), float64; rows to predict.
        `rounds`: rising.
        Yields: (n, n_classes) or (n,), float64.
        """


class FitsAtOnce:
    """A learner that fits all rounds before it predicts the first stage."""

    def fit_in_stages(
        self: Learner, problem: Problem, values: FloatArray, rounds: Sequence[int]
    ) -> Iterator[FloatArray]:
        """As of `Learner`."""
        yield from self.fit(problem, rounds[-1]).stages(values, rounds)


def library(name: str, kind: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"the teacher {kind!r} needs {name}, which is not installed; run: "
            f"{install_command('trees')}"
        ) from None


def boosting_rounds(
    n_classes: int, most_trees: int = MOST_TREES, tried: tuple[int, ...] = ROUNDS
) -> tuple[int, ...]:
    most = max(most_trees // max(n_classes, 1), 100) if n_classes > 2 else tried[-1]
    return tuple(count for count in tried if count <= most)


def both_classes(p: FloatArray) -> FloatArray:
    """Probabilities of class 1 as those of both classes."""
    return np.stack([1.0 - p, p], axis=1)
