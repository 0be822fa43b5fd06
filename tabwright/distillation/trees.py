"""The tree ensembles that can teach: how each library is called, with which settings.

Every kind is fitted through the same `Problem` and gives predictions after several numbers of
boosting rounds, so that one caller can choose the number. Libraries are imported where they are
used. Threads are the libraries' own; nothing forks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.tree_columns import MOST_LEVELS
from tabwright.errors import install_command

FloatArray = NDArray[np.float64]
TeacherKind = Literal[
    "hist_gradient_boosting", "random_forest", "extra_trees", "lightgbm", "xgboost", "catboost"
]
TEACHER_KINDS: tuple[TeacherKind, ...] = get_args(TeacherKind)

# Rounds at which a boosted ensemble is judged. 300 at a rate of 0.1 does what the libraries'
# longer, slower settings do (CatBoost's 1,000 at about 0.03) at a third of the time, which
# out-of-fold labels cost six times over.
_ROUNDS: Final = (10, 20, 35, 60, 100, 150, 220, 300)
_RATE: Final = 0.1
# scikit-learn's trees have half as many leaves and see half of the columns at each split.
_SHALLOW_ROUNDS: Final = (*_ROUNDS, 400, 500)
_SHALLOW_RATE: Final = 0.07
# With more classes than these, a tree of each in every round takes long: fewer and larger steps
# have the same loss on two tables of 19 and 26 classes (0.97 to 1.03) in 0.7 of the time.
_FEW_CLASSES: Final = 8
_LARGE_ROUNDS: Final = (7, 14, 25, 42, 70)
_LARGE_RATE: Final = 0.1
# Cells up to which a second thread saves a fifth at most, and often nothing. Where other work has
# its core it costs several times as much: threads wait for one another at every node.
_FEW_CELLS: Final = 500_000
# Of trees that only compare features, in few rounds.
_TRIAL_RATE: Final = 0.15
# What a model keeps is fitted once, and slower: on seven tables (two splits each) CatBoost's loss
# is 0.975 of that of 300 rounds at 0.1.
_SLOW_ROUNDS: Final = (20, 40, 70, 120, 200, 300, 450, 600, 800)
_SLOW_RATE: Final = 0.04
# Softmax boosting grows a tree per class and round.
_MOST_TREES: Final = 3_000
# Those beside the networks of a default model, which are not to take longer than these.
_MOST_KEPT_TREES: Final = 1_500
_FOREST_TREES: Final = 300


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


def tree_learner(kind: TeacherKind, *, kept: bool = False) -> Learner:
    """The ensemble of a kind.

    `kept`: for trees that a model keeps: CatBoost takes more rounds at a smaller rate, scikit-learn
        fewer rounds where there are many classes; the others stay as they are.
    Raises `ValueError` if there is no such kind.
    Raises `ImportError` if its library is not installed; names what to install.
    """
    if kind not in TEACHER_KINDS:
        raise ValueError(f"a teacher must be one of {', '.join(TEACHER_KINDS)}; got {kind!r}")
    learner: Learner
    if kind == "hist_gradient_boosting":
        learner = _HistGradientBoosting(kept=kept)
    elif kind == "random_forest" or kind == "extra_trees":
        learner = _Forest(kind)
    elif kind == "lightgbm":
        learner = _LightGBM()
    elif kind == "xgboost":
        learner = _XGBoost()
    else:
        learner = _CatBoost(rounds_tried=_SLOW_ROUNDS, rate=_SLOW_RATE) if kept else _CatBoost()
    learner.versions()
    return learner


def trial_trees() -> Learner:
    """scikit-learn's boosted trees for few rounds, which compare features with one another."""
    return _HistGradientBoosting(rate=_TRIAL_RATE)


def _library(name: str, kind: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"the teacher {kind!r} needs {name}, which is not installed; run: "
            f"{install_command('trees')}"
        ) from None


def _boosting_rounds(
    n_classes: int, most_trees: int = _MOST_TREES, tried: tuple[int, ...] = _ROUNDS
) -> tuple[int, ...]:
    most = max(most_trees // max(n_classes, 1), 100) if n_classes > 2 else tried[-1]
    return tuple(count for count in tried if count <= most)


def _both_classes(p: FloatArray) -> FloatArray:
    """Probabilities of class 1 as those of both classes."""
    return np.stack([1.0 - p, p], axis=1)


# ---------------------------------------------------------------------------------------------
# scikit-learn
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _HistGradientBoosting:
    name: str = "hist_gradient_boosting"
    max_levels: int | None = MOST_LEVELS
    kept: bool = False
    rate: float = _SHALLOW_RATE

    def versions(self) -> dict[str, str]:
        return {"library": "scikit-learn", "version": _library("sklearn", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        if self._takes_large_steps(n_classes):
            return _LARGE_ROUNDS
        most = _MOST_KEPT_TREES if self.kept else _MOST_TREES
        return _boosting_rounds(n_classes, most, _SHALLOW_ROUNDS)

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
        fitted = self._unfitted(problem)
        fitted.go_on(problem, n_rounds)
        return fitted

    def fit_in_stages(
        self, problem: Problem, values: FloatArray, rounds: Sequence[int]
    ) -> Iterator[FloatArray]:
        """Fits the rounds that follow when they are asked for; the trees are those of `fit`."""
        fitted = self._unfitted(problem, warm_start=True)
        for n_rounds in rounds:
            fitted.go_on(problem, n_rounds)
            yield next(fitted.stages(values, (n_rounds,)))

    def _unfitted(
        self, problem: Problem, *, warm_start: bool = False
    ) -> _FittedHistGradientBoosting:
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
        return _FittedHistGradientBoosting(model, bool(problem.n_classes), n_threads)


@dataclass(frozen=True)
class _FittedHistGradientBoosting:
    model: Any
    classification: bool
    n_threads: int

    def go_on(self, problem: Problem, n_rounds: int) -> None:
        """Fit the model until it has so many rounds."""
        from threadpoolctl import threadpool_limits

        self.model.set_params(max_iter=n_rounds)
        with threadpool_limits(limits=self.n_threads, user_api="openmp"):
            self.model.fit(problem.values, problem.target, sample_weight=problem.weight)

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        from threadpoolctl import threadpool_limits

        if tuple(rounds) == (self.model.n_iter_,):
            with threadpool_limits(limits=self.n_threads, user_api="openmp"):
                whole = self.model.predict_proba if self.classification else self.model.predict
                predicted = whole(values)
            yield predicted
            return
        staged = (
            self.model.staged_predict_proba if self.classification else self.model.staged_predict
        )
        wanted = set(rounds)
        with threadpool_limits(limits=self.n_threads, user_api="openmp"):
            for count, predicted in enumerate(islice(staged(values), max(rounds)), start=1):
                if count in wanted:
                    yield predicted


@dataclass(frozen=True)
class _Forest(FitsAtOnce):
    name: Literal["random_forest", "extra_trees"]
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "scikit-learn", "version": _library("sklearn", self.name).__version__}

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


# ---------------------------------------------------------------------------------------------
# The libraries of the extra `trees`
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LightGBM(FitsAtOnce):
    name: str = "lightgbm"
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "lightgbm", "version": _library("lightgbm", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return _boosting_rounds(n_classes)

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "objective": {0: "regression", 2: "binary"}.get(n_classes, "multiclass"),
            "learning_rate": _RATE,
            "num_leaves": 31,
            "min_data_in_leaf": 20,
            "lambda_l2": 1.0,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        lightgbm = _library("lightgbm", self.name)
        # Both are needed for the same trees at every run.
        fixed = {"deterministic": True, "force_row_wise": True}
        silent = {"verbosity": -1, "num_threads": problem.n_threads}
        params = {
            **self.settings(problem.n_classes),
            **fixed,
            **silent,
            "seed": problem.random_state % 2**31,
        }
        if problem.n_classes > 2:
            params["num_class"] = problem.n_classes
        data = lightgbm.Dataset(
            problem.values,
            problem.target.astype(np.float64),
            weight=problem.weight,
            categorical_feature=np.flatnonzero(problem.categorical).tolist(),
            params=dict(params),
        )
        model = lightgbm.train(params, data, num_boost_round=n_rounds)
        return _FittedLightGBM(model, problem.n_classes == 2, problem.n_threads)


@dataclass(frozen=True)
class _FittedLightGBM:
    model: Any
    binary: bool
    n_threads: int

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        for count in rounds:
            raw = self.model.predict(values, num_iteration=count, num_threads=self.n_threads)
            predicted = np.asarray(raw, dtype=np.float64)
            yield _both_classes(predicted) if self.binary else predicted


@dataclass(frozen=True)
class _XGBoost(FitsAtOnce):
    name: str = "xgboost"
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "xgboost", "version": _library("xgboost", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return _boosting_rounds(n_classes)

    def settings(self, n_classes: int) -> dict[str, Any]:
        objectives = {0: "reg:squarederror", 2: "binary:logistic"}
        return {
            "objective": objectives.get(n_classes, "multi:softprob"),
            "tree_method": "hist",
            "eta": _RATE,
            "max_depth": 6,
            "lambda": 1.0,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        xgboost = _library("xgboost", self.name)
        types = ["c" if flag else "q" for flag in problem.categorical]
        params = {
            **self.settings(problem.n_classes),
            "nthread": problem.n_threads,
            "seed": problem.random_state % 2**31,
            "verbosity": 0,
        }
        if problem.n_classes > 2:
            params["num_class"] = problem.n_classes

        def matrix(values: FloatArray, label: Any = None, weight: Any = None) -> Any:
            return xgboost.DMatrix(
                values,
                label=label,
                weight=weight,
                feature_types=types,
                enable_categorical=True,
                nthread=problem.n_threads,
            )

        data = matrix(problem.values, problem.target, problem.weight)
        model = xgboost.train(params, data, num_boost_round=n_rounds)
        return _FittedXGBoost(model, matrix, problem.n_classes == 2)


@dataclass(frozen=True)
class _FittedXGBoost:
    model: Any
    matrix: Any
    binary: bool

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        data = self.matrix(values)
        for count in rounds:
            raw = self.model.predict(data, iteration_range=(0, count))
            predicted = np.asarray(raw, dtype=np.float64)
            yield _both_classes(predicted) if self.binary else predicted


@dataclass(frozen=True)
class _CatBoost(FitsAtOnce):
    name: str = "catboost"
    rounds_tried: tuple[int, ...] = _ROUNDS
    rate: float = _RATE
    # Its statistics of levels are what it is known for: it gets them all.
    max_levels: int | None = None

    def versions(self) -> dict[str, str]:
        return {"library": "catboost", "version": _library("catboost", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        # One tree per round answers for all classes.
        return self.rounds_tried

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "loss_function": {0: "RMSE", 2: "Logloss"}.get(n_classes, "MultiClass"),
            # Classes that share a tree per round learn more slowly.
            "learning_rate": self.rate * (3.0 if n_classes > 2 else 1.0),
            "depth": 6,
            "l2_leaf_reg": 3.0,
            # "Ordered", its choice for small tables, takes several times as long.
            "boosting_type": "Plain",
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        catboost = _library("catboost", self.name)
        categorical = problem.categorical

        def pool(values: FloatArray, label: Any = None, weight: Any = None) -> Any:
            # Unknown is a level like another, as a missing one is.
            codes = np.nan_to_num(values[:, categorical], nan=-1.0).astype(np.int64)
            numbers = values[:, ~categorical].astype(np.float32)
            return catboost.Pool(
                catboost.FeaturesData(
                    num_feature_data=numbers if numbers.shape[1] else None,
                    cat_feature_data=_byte_strings(codes) if codes.shape[1] else None,
                ),
                label=label,
                weight=weight,
                thread_count=problem.n_threads,
            )

        model = catboost.CatBoost(
            {
                **self.settings(problem.n_classes),
                # Each tree depends on how many there are to be: fewer are the first of all.
                "iterations": max(n_rounds, self.rounds_tried[-1]),
                "random_seed": problem.random_state % 2**31,
                "thread_count": problem.n_threads,
                "allow_writing_files": False,
                "verbose": False,
            }
        )
        whole = pool(problem.values, problem.target, problem.weight)
        model.fit(whole, callbacks=[_StopAfter(n_rounds)])
        return _FittedCatBoost(model, pool, bool(problem.n_classes), problem.n_threads)


@dataclass(frozen=True)
class _StopAfter:
    """A callback of CatBoost that ends a fit."""

    n_rounds: int

    def after_iteration(self, info: Any) -> bool:
        return bool(info.iteration < self.n_rounds)


def _byte_strings(codes: NDArray[np.int64]) -> NDArray[Any]:
    levels, place = np.unique(codes, return_inverse=True)
    texts = np.array([str(level).encode() for level in levels.tolist()], dtype=object)
    strings: NDArray[Any] = texts[place.reshape(codes.shape)]
    return strings


@dataclass(frozen=True)
class _FittedCatBoost:
    model: Any
    pool: Any
    classification: bool
    n_threads: int

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        data = self.pool(values)
        kind = "Probability" if self.classification else "RawFormulaVal"
        for count in rounds:
            yield self.model.predict(
                data, prediction_type=kind, ntree_end=count, thread_count=self.n_threads
            )
