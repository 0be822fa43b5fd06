"""scikit-learn's tree ensembles: how they are called, with which settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.tree_columns import MOST_LEVELS
from tabwright.distillation.trees.problem import (
    MOST_TREES,
    ROUNDS,
    FitsAtOnce,
    FittedTrees,
    FloatArray,
    Problem,
    boosting_rounds,
    library,
)

# scikit-learn's trees have half as many leaves and see half of the columns at each split.
_SHALLOW_ROUNDS: Final = (*ROUNDS, 400, 500)
_SHALLOW_RATE: Final = 0.07
# With more classes than these, a tree of each in every round takes long: fewer and larger steps
# have the same loss on two tables of 19 and 26 classes (0.97 to 1.03) in 0.7 of the time.
_FEW_CLASSES: Final = 8
_LARGE_ROUNDS: Final = (7, 14, 25, 42, 70)
_LARGE_RATE: Final = 0.1
# Cells up to which a second thread saves a fifth at most, and often nothing. Where other work has
# its core it costs several times as much: threads wait for one another at every node.
_FEW_CELLS: Final = 500_000
# Fitted at once: scikit-learn bins all columns anew at each call, and few fits end before.
_FIRST_ROUNDS: Final = 35
# Of trees that only compare features, in few rounds.
_TRIAL_RATE: Final = 0.15
# Those beside the networks of a default model, which are not to take longer than these.
_MOST_KEPT_TREES: Final = 1_500
# Values of a column that scikit-learn makes a bin each of.
_MOST_BINS: Final = 255
# Of more rows it looks for bins on so many, drawn at random, which must hold a known cell.
_BINNED_ROWS: Final = 200_000
_FEWEST_KNOWN: Final = 25
_LARGEST: Final = float(np.finfo(np.float64).max) / 4
_FOREST_TREES: Final = 300


@dataclass(frozen=True)
class HistGradientBoosting:
    name: str = "hist_gradient_boosting"
    max_levels: int | None = MOST_LEVELS
    kept: bool = False
    rate: float = _SHALLOW_RATE

    @classmethod
    def for_trials(cls) -> HistGradientBoosting:
        """For few rounds, which compare features with one another."""
        return cls(rate=_TRIAL_RATE)

    def versions(self) -> dict[str, str]:
        return {"library": "scikit-learn", "version": library("sklearn", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        if self._takes_large_steps(n_classes):
            return _LARGE_ROUNDS
        most = _MOST_KEPT_TREES if self.kept else MOST_TREES
        return boosting_rounds(n_classes, most, _SHALLOW_ROUNDS)

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "learning_rate": _LARGE_RATE if self._takes_large_steps(n_classes) else self.rate,
            "max_leaf_nodes": 15,
            "min_samples_leaf": 5,
            # Added to sums of p(1 - p), which are small in leaves of one class: with 1.0 they
            # never come near 0 or 1.
            "l2_regularization": 0.1,
            "max_features": 0.5,
            # The rounds are chosen on the held-out folds: no further rows need be set aside, and
            # a class may have a single row.
            "early_stopping": False,
        }

    def _takes_large_steps(self, n_classes: int) -> bool:
        return self.kept and n_classes > _FEW_CLASSES

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        fitted, training = self._unfitted(problem)
        fitted.go_on(training, n_rounds)
        return fitted

    def fit_in_stages(
        self, problem: Problem, values: FloatArray, rounds: Sequence[int]
    ) -> Iterator[FloatArray]:
        """Fits further rounds when they are asked for; the trees are those of `fit`."""
        fitted, training = self._unfitted(problem, warm_start=True)
        first = [count for count in rounds if count <= _FIRST_ROUNDS]
        if first:
            fitted.go_on(training, first[-1])
            yield from fitted.stages(values, first)
        for n_rounds in rounds[len(first) :]:
            fitted.go_on(training, n_rounds)
            yield next(fitted.stages(values, (n_rounds,)))

    def _unfitted(
        self, problem: Problem, *, warm_start: bool = False
    ) -> tuple[_FittedHistGradientBoosting, Problem]:
        """The estimator with its settings and number of threads, and the problem as it takes it."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        maker = (
            HistGradientBoostingClassifier if problem.n_classes else HistGradientBoostingRegressor
        )
        model = maker(
            categorical_features=problem.categorical if problem.categorical.any() else None,
            random_state=problem.random_state,
            warm_start=warm_start,
            **self.settings(problem.n_classes),
        )
        n_threads = problem.n_threads if problem.values.size > _FEW_CELLS else 1
        bins = None if problem.weight is None else _Bins.of(problem, problem.weight)
        values = problem.values if bins is None else bins.codes(problem.values)
        fitted = _FittedHistGradientBoosting(model, bool(problem.n_classes), n_threads, bins)
        return fitted, replace(problem, values=_with_known_cells(values, problem))


@cache
def _openmp() -> Any:
    """The libraries whose threads can be limited; looking for them takes milliseconds.

    scikit-learn and its libraries are loaded at the first call.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="openmp")


@dataclass(frozen=True)
class _Bins:
    """Bins of the columns of many values, for rows with weights.

    scikit-learn sorts a column 254 times for weighted quantiles: 40 columns of 1,800 rows take two
    seconds a fit. Codes of bins are few values, of which it makes a bin each.

    `thresholds`: by column, (n_bins - 1,), float64; a bin ends with its threshold.
    `order`: (n_columns,); the columns as nodes count them, categories first.
    """

    thresholds: dict[int, FloatArray]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, problem: Problem, weight: FloatArray) -> _Bins:
        """Quantiles of the rows of some weight, as scikit-learn takes them of rows without."""
        shares = np.linspace(0, 100, _MOST_BINS + 1)[1:-1]
        thresholds = {}
        for column in np.flatnonzero(~problem.categorical).tolist():
            values = problem.values[weight > 0, column]
            values = values[~np.isnan(values)]
            if len(np.unique(values)) > _MOST_BINS:
                values = np.clip(values, -_LARGEST, _LARGEST)
                found = np.percentile(values, shares, method="averaged_inverted_cdf")
                thresholds[column] = np.unique(found)
        return cls(thresholds, np.argsort(~problem.categorical, kind="stable"))

    def codes(self, values: FloatArray) -> FloatArray:
        """The values, with the number of its bin in place of each in these columns."""
        coded = values.copy()
        for column, thresholds in self.thresholds.items():
            known = ~np.isnan(values[:, column])
            coded[known, column] = np.searchsorted(thresholds, values[known, column])
        return coded

    def restore(self, nodes: NDArray[Any]) -> None:
        """Write the thresholds of values in place of those of codes."""
        for column, thresholds in self.thresholds.items():
            at = (self.order[nodes["feature_idx"]] == column) & (nodes["is_leaf"] == 0)
            # Half-way between two codes; infinite where only missing values go elsewhere.
            code = nodes["num_threshold"][at]
            place = np.floor(np.minimum(code, len(thresholds) - 1)).astype(np.int64)
            nodes["num_threshold"][at] = np.where(code < len(thresholds), thresholds[place], code)


@dataclass(frozen=True)
class _FittedHistGradientBoosting:
    """An estimator of scikit-learn that can be fitted further.

    `bins`: of the training rows; None where scikit-learn finds its own.
    """

    model: Any
    classification: bool
    n_threads: int
    bins: _Bins | None = None

    def go_on(self, problem: Problem, n_rounds: int) -> None:
        """Fit the model until it has so many rounds.

        `problem`: with the numbers of `bins` in place of values.
        """
        done = getattr(self.model, "n_iter_", 0)
        self.model.set_params(max_iter=n_rounds)
        with _openmp().limit(limits=self.n_threads):
            self.model.fit(problem.values, problem.target, sample_weight=problem.weight)
        if self.bins is not None:
            for iteration in self.model._predictors[done:]:
                for tree in iteration:
                    self.bins.restore(tree.nodes)

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        """The predictions after each of so many rounds."""
        if tuple(rounds) == (self.model.n_iter_,):
            with _openmp().limit(limits=self.n_threads):
                whole = self.model.predict_proba if self.classification else self.model.predict
                predicted = whole(values)
            yield predicted
            return
        staged = (
            self.model.staged_predict_proba if self.classification else self.model.staged_predict
        )
        wanted = set(rounds)
        with _openmp().limit(limits=self.n_threads):
            for count, predicted in enumerate(islice(staged(values), max(rounds)), start=1):
                if count in wanted:
                    yield predicted


def _with_known_cells(values: FloatArray, problem: Problem) -> FloatArray:
    """Values where columns without a known cell, which scikit-learn cannot bin, are 0 throughout.

    A column of one value has no splits, so that predictions do not depend on what it holds.
    """
    weight = problem.weight
    counted = values if weight is None else values[weight > 0]
    n_known = (~np.isnan(counted)).sum(axis=0)
    fewest = 1 if len(values) <= _BINNED_ROWS else _FEWEST_KNOWN * len(values) / _BINNED_ROWS
    unknown = (n_known < fewest) & ~problem.categorical
    return np.where(unknown, 0.0, values) if unknown.any() else values


@dataclass(frozen=True)
class Forest(FitsAtOnce):
    name: Literal["random_forest", "extra_trees"]
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "scikit-learn", "version": library("sklearn", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return (0,)

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "n_estimators": _FOREST_TREES,
            # Of 1, 2 and 3 the best on average, on 13 tables. For classes, leaves of one row mean
            # probabilities of 0 and 1, leaves of three blur many classes.
            "min_samples_leaf": 2 if n_classes else 1,
            # A forest of a million rows would take tens of gigabytes without.
            "max_leaf_nodes": 8_192,
            "max_features": "sqrt" if n_classes else 1.0 / 3.0,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        from sklearn import ensemble

        if self.name == "random_forest":
            maker = (
                ensemble.RandomForestClassifier
                if problem.n_classes
                else ensemble.RandomForestRegressor
            )
        else:
            maker = (
                ensemble.ExtraTreesClassifier if problem.n_classes else ensemble.ExtraTreesRegressor
            )
        model = maker(
            random_state=problem.random_state,
            n_jobs=problem.n_threads,
            **self.settings(problem.n_classes),
        )
        model.fit(problem.values, problem.target, sample_weight=problem.weight)
        # Threads add up the trees in the order in which they finish: the last digit would vary.
        model.set_params(n_jobs=1)
        return _FittedForest(model, bool(problem.n_classes))


@dataclass(frozen=True)
class _FittedForest:
    model: Any
    classification: bool

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        predict = self.model.predict_proba if self.classification else self.model.predict
        for _ in rounds:
            yield predict(values)
