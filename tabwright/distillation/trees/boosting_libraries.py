"""The boosted trees of the extra `trees`: how each library is called, with which settings.

Threads are the libraries' own; nothing forks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tabwright.distillation.tree_columns import MOST_LEVELS
from tabwright.distillation.trees.problem import (
    RATE,
    ROUNDS,
    FitsAtOnce,
    FittedTrees,
    FloatArray,
    Problem,
    boosting_rounds,
    both_classes,
    library,
)

# What a model keeps is fitted at CatBoost's own rate, which suits 1,000 rounds, and sees half of
# the columns at each split: beside networks and scikit-learn's trees that has 0.994 of the loss of
# 800 rounds at a rate of 0.04 with all columns, on 13 tables, in less time.
_KEPT_ROUNDS: Final = (100, 150, 200, 300, 400, 550, 700, 850, 1000)


@dataclass(frozen=True)
class LightGBM(FitsAtOnce):
    name: str = "lightgbm"
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "lightgbm", "version": library("lightgbm", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return boosting_rounds(n_classes)

    def settings(self, n_classes: int) -> dict[str, Any]:
        return {
            "objective": {0: "regression", 2: "binary"}.get(n_classes, "multiclass"),
            "learning_rate": RATE,
            "num_leaves": 31,
            "min_data_in_leaf": 20,
            "lambda_l2": 1.0,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        lightgbm = library("lightgbm", self.name)
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
    """A booster of LightGBM."""

    model: Any
    binary: bool
    n_threads: int

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        for count in rounds:
            raw = self.model.predict(values, num_iteration=count, num_threads=self.n_threads)
            predicted = np.asarray(raw, dtype=np.float64)
            yield both_classes(predicted) if self.binary else predicted


@dataclass(frozen=True)
class XGBoost(FitsAtOnce):
    name: str = "xgboost"
    max_levels: int | None = MOST_LEVELS

    def versions(self) -> dict[str, str]:
        return {"library": "xgboost", "version": library("xgboost", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        return boosting_rounds(n_classes)

    def settings(self, n_classes: int) -> dict[str, Any]:
        objectives = {0: "reg:squarederror", 2: "binary:logistic"}
        return {
            "objective": objectives.get(n_classes, "multi:softprob"),
            "tree_method": "hist",
            "eta": RATE,
            "max_depth": 6,
            "lambda": 1.0,
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        xgboost = library("xgboost", self.name)
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
    """A booster of XGBoost."""

    model: Any
    matrix: Any
    binary: bool

    def stages(self, values: FloatArray, rounds: Sequence[int]) -> Iterator[FloatArray]:
        data = self.matrix(values)
        for count in rounds:
            raw = self.model.predict(data, iteration_range=(0, count))
            predicted = np.asarray(raw, dtype=np.float64)
            yield both_classes(predicted) if self.binary else predicted


@dataclass(frozen=True)
class CatBoost(FitsAtOnce):
    name: str = "catboost"
    kept: bool = False
    # Its statistics of levels are what it is known for: it gets them all.
    max_levels: int | None = None

    def versions(self) -> dict[str, str]:
        return {"library": "catboost", "version": library("catboost", self.name).__version__}

    def rounds(self, n_classes: int) -> tuple[int, ...]:
        # One tree per round answers for all classes.
        return _KEPT_ROUNDS if self.kept else ROUNDS

    def settings(self, n_classes: int) -> dict[str, Any]:
        # Classes that share a tree per round learn more slowly.
        rate = {"learning_rate": RATE * (3.0 if n_classes > 2 else 1.0)}
        return {
            "loss_function": {0: "RMSE", 2: "Logloss"}.get(n_classes, "MultiClass"),
            **({"rsm": 0.5} if self.kept else rate),
            "depth": 6,
            "l2_leaf_reg": 3.0,
            # "Ordered", its choice for small tables, takes several times as long.
            "boosting_type": "Plain",
        }

    def fit(self, problem: Problem, n_rounds: int) -> FittedTrees:
        catboost = library("catboost", self.name)
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
                "iterations": max(n_rounds, self.rounds(problem.n_classes)[-1]),
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
    """A model of CatBoost."""

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
