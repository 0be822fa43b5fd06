"""Interactions are found where the target hangs on them, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from tabwright.distillation.interaction_search import find_interactions
from tabwright.distillation.trees.problem import Problem
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.interactions import Interaction
from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.plan_fit import RowsToFit
from tabwright.inference.tree_mix import tree_features
from tabwright.settings import Task
from tabwright.tables import profile_table

N = 1_200


def table(n: int = N) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    return pl.DataFrame({name: draw.uniform(1, 9, n) for name in "abcd"})


def posed(
    frame: pl.DataFrame, target: np.ndarray, n_classes: int = 0
) -> tuple[Problem, EncodingPlan]:
    encoder = TableEncoder(numeric_encoding="robust")
    task: Task = "classification" if n_classes else "regression"
    compact = encoder.fit_transform(RowsToFit(frame, profile_table(frame), target, task))
    values = tree_features(encoder, compact).astype(np.float64)
    none = np.zeros(values.shape[1], dtype=bool)
    return Problem(values, none, target, None, n_classes, 0, 1), encoder.plan_


def test_a_product_is_found() -> None:
    frame = table()
    power = frame["b"].to_numpy() * frame["d"].to_numpy()
    found = find_interactions(*posed(frame, (power > 25).astype(np.int64), 2))
    assert Interaction("product", 1, 3) in found
    assert len(found) <= 8


def test_values_give_a_ratio() -> None:
    frame = table()
    found = find_interactions(*posed(frame, (frame["a"] / frame["c"]).to_numpy()))
    assert Interaction("ratio", 0, 2) in found


@pytest.mark.parametrize("what", ["noise", "sum of columns' own effects"])
def test_nothing_is_found_where_columns_speak_for_themselves(what: str) -> None:
    frame = table()
    noise = np.random.default_rng(2).normal(size=N)
    target = (
        noise if what == "noise" else noise + (frame["a"] > 5).to_numpy() + frame["b"].to_numpy()
    )
    assert find_interactions(*posed(frame, target)) == ()


def test_moments_give_differences_alone() -> None:
    draw = np.random.default_rng(3)
    start = draw.integers(0, 400 * 86_400, N)
    length = draw.integers(0, 90 * 86_400, N)
    moments = {"from": start, "to": start + length}
    frame = pl.DataFrame(
        {name: pl.Series(own).cast(pl.Datetime("ms")) for name, own in moments.items()}
    ).with_columns(pl.all().cast(pl.Int64).mul(1000).cast(pl.Datetime("ms")), a=draw.normal(size=N))
    found = find_interactions(*posed(frame, length / 86_400.0))
    assert {own.kind for own in found} == {"difference"}
    assert all({own.first, own.second} == {1, 2} for own in found)


@pytest.mark.parametrize(
    ("n", "n_classes", "options"),
    [
        (200, 2, {}),
        (N, 12, {}),
        (N, 2, {"groups": np.zeros(N, dtype=np.int64)}),
        (N, 2, {"seconds": 2.0}),
    ],
    ids=["few rows", "many classes", "one group", "short of time"],
)
def test_there_is_no_trial(n: int, n_classes: int, options: dict[str, Any]) -> None:
    frame = table(n)
    product = frame["a"].to_numpy() * frame["b"].to_numpy()
    target = np.argsort(np.argsort(product)) * n_classes // n
    assert find_interactions(*posed(frame, target, n_classes), **options) == ()


def test_a_class_of_one_row_is_no_fault() -> None:
    frame = table()
    target = (frame["a"].to_numpy() * frame["b"].to_numpy() > 25).astype(np.int64)
    target[0] = 2
    assert find_interactions(*posed(frame, target, 3)) == ()
