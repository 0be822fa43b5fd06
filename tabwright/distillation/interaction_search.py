"""Which sums, differences, products and ratios of numeric columns a table needs.

Trees cut one column at a time: a rule on the product of two, such as a power from torque and
speed, takes them many cuts. `find_interactions` lets small trees choose among those of the most
useful columns, and keeps what they predict held-out rows better with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.tree_arrays import split_gains
from tabwright.distillation.trees.learners import trial_trees
from tabwright.distillation.trees.problem import Problem
from tabwright.encoding.interactions import (
    INTERACTION_KINDS,
    Interaction,
    interaction_values,
    may_interact,
)
from tabwright.encoding.plan import EncodingPlan
from tabwright.splits import fold_rows
from tabwright.weighted_metrics import prediction_losses

_MOST_ROWS: Final = 10_000
_FEWEST_ROWS: Final = 1_000
_MOST_CLASSES: Final = 9
_FOLDS: Final = 3
# Of trees, which softmax boosting grows for each class: rounds are fewer where there are many.
_MOST_ROUNDS: Final = 40
_MOST_TREES: Final = 80
# Columns that are combined, and combinations that are kept.
_MOST_COLUMNS: Final = 5
_MOST_KEPT: Final = 8
# Values that a column must have: fewer are levels.
_FEWEST_VALUES: Final = 9
# Standard errors by which held-out rows must be predicted better.
_STANDARD_ERRORS: Final = 2.0
# A trial under a time limit: its share of it, and rows times columns that it looks at in a second
# of a slow machine. Not measured, so that a fit that is resumed finds the same.
_SHARE_OF_TIME: Final = 0.1
_CELLS_A_SECOND: Final = 100_000
_COLUMNS_OF_CANDIDATES: Final = 16

FloatArray = NDArray[np.float64]


def find_interactions(
    problem: Problem,
    plan: EncodingPlan,
    groups: NDArray[np.int64] | None = None,
    seconds: float | None = None,
) -> tuple[Interaction, ...]:
    """Interactions that trees predict better with; none where they do not.

    On at most 10,000 rows, in three folds, boosted trees of at most 40 rounds are fitted to the
    features at hand. The five numeric columns whose splits gain most give the candidates: sums,
    differences, products and ratios of each two; of moments, and of numbers that are kept as
    distances from an origin, differences alone. Trees that see all candidates must predict the
    held-out rows better, and tell the eight whose splits gain most; trees that see those eight must
    predict better by more than two standard errors. There is no trial below 1,000 rows, or with ten
    classes or more.

    `problem`: training rows; features as `tree_features` gives them.
    `plan`: of the encoder that gave them.
    `groups`: (n,); rows of one group are in one fold.
    `seconds`: a time limit: there is no trial that might take more than a tenth of it.
    """
    trial = _Trial.of(problem, groups)
    able = [] if trial is None else _able_columns(plan, trial.problem.values)
    if trial is None or len(able) < 2:
        return ()
    if seconds is not None and trial.n_seconds > _SHARE_OF_TIME * seconds:
        return ()
    losses, gains = trial.judge()
    columns = sorted(sorted(able, key=lambda column: -gains[column])[:_MOST_COLUMNS])
    candidates = _candidates(plan, columns)
    judged, gains = trial.judge(candidates, plan)
    if not judged.mean() < losses.mean():
        return ()
    order = np.argsort(-gains[len(gains) - len(candidates) :], kind="stable")
    kept = tuple(candidates[k] for k in sorted(order[:_MOST_KEPT].tolist()))
    gain = losses - trial.judge(kept, plan)[0]
    if gain.mean() > _STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)):
        return kept
    return ()


def _with_interactions(
    problem: Problem, interactions: Sequence[Interaction], plan: EncodingPlan
) -> Problem:
    """The problem with interactions as its last features, numbers as `tree_features` has them.

    `problem`: without interactions; features as `tree_features` gives them.
    `plan`: of the encoder that gave them.
    """
    numeric = problem.values[:, : len(plan.numbers)].astype(np.float32)
    further = interaction_values(interactions, plan.numbers, numeric)
    return replace(
        problem,
        values=np.hstack([problem.values, further]),
        categorical=np.append(problem.categorical, np.zeros(len(interactions), dtype=bool)),
    )


def _able_columns(plan: EncodingPlan, values: FloatArray) -> list[int]:
    """Numeric columns that may be combined."""
    places = np.flatnonzero(may_interact(plan.numbers)).tolist()
    return [place for place in places if _n_values(values[:, place]) >= _FEWEST_VALUES]


def _n_values(values: FloatArray) -> int:
    return len(np.unique(values[~np.isnan(values)]))


def _candidates(plan: EncodingPlan, columns: Sequence[int]) -> list[Interaction]:
    """The interactions of these columns; dates and shifted numbers have differences only."""
    n_plain = len(plan.origins)
    is_date = [column >= n_plain for column in columns]
    found = []
    for kind, (one, two) in product(INTERACTION_KINDS, combinations(range(len(columns)), 2)):
        first, second = columns[one], columns[two]
        if is_date[one] != is_date[two]:
            continue
        shifted = is_date[one] or any(
            plan.origins[number] is not None for number in (first, second)
        )
        if kind == "difference" or not shifted:
            found.append(Interaction(kind, first, second))
    return found


class _Trial:
    """Rows in folds, and trees fitted to the others of each."""

    def __init__(self, problem: Problem, fold: NDArray[np.int64]) -> None:
        self.problem = problem
        self._fold = fold

    @classmethod
    def of(cls, problem: Problem, groups: NDArray[np.int64] | None) -> _Trial | None:
        """A trial on some of the rows; None where there are too few of them, or of a class."""
        draw = np.random.default_rng((problem.random_state, _MOST_ROWS))
        rows = np.sort(draw.permutation(len(problem.target))[:_MOST_ROWS])
        searched = problem.take(rows)
        codes = searched.target if searched.n_classes else None
        if len(rows) < _FEWEST_ROWS or searched.n_classes > _MOST_CLASSES:
            return None
        if groups is not None:
            groups = groups[rows]
            if len(np.unique(groups)) < _FOLDS:
                return None
        fold = fold_rows(len(rows), _FOLDS, codes, groups, random_state=problem.random_state)
        if codes is not None:
            for k in range(_FOLDS):
                if len(np.unique(codes[fold != k])) < searched.n_classes:
                    return None
        return cls(searched, fold)

    @property
    def n_seconds(self) -> float:
        """What three judgements take on a slow machine."""
        n_rows, n_columns = self.problem.values.shape
        return float(n_rows * (n_columns + _COLUMNS_OF_CANDIDATES) / _CELLS_A_SECOND)

    def judge(
        self, interactions: Sequence[Interaction] = (), plan: EncodingPlan | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Losses of rows that trees did not see, (n,), and what splits of each feature gained."""
        problem = self.problem
        if plan is not None:
            problem = _with_interactions(problem, interactions, plan)
        n_rounds = min(_MOST_ROUNDS, _MOST_TREES // max(problem.n_classes, 1))
        losses = np.empty(len(problem.target))
        gains = np.zeros(problem.values.shape[1])
        for k in range(_FOLDS):
            learning, judging = (problem.take(self._fold != k), problem.take(self._fold == k))
            trees = trial_trees().fit(learning, n_rounds)
            (predicted,) = trees.stages(judging.values, (n_rounds,))
            losses[self._fold == k] = prediction_losses(predicted, judging.target)
            gains += split_gains(trees, len(gains))
        if problem.weight is not None:
            losses *= problem.weight
        return losses, gains
