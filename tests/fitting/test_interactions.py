"""Interactions of numeric columns in whole fits: who gets them, and what comes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tabwright import TabularRegressor
from tabwright.artifact.container import pack
from tabwright.distillation.interaction_search import find_interactions
from tabwright.explanation.importance import permutation_importance
from tabwright.fitting import interactions
from tabwright.fitting.arguments import FitCallbacks
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.tree_mix import tree_features
from tabwright.settings import FitSettings
from tabwright.tables.labelled import LabelledRows

N_ROWS = 3_000


def table(n_rows: int = N_ROWS, seed: int = 0) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return pl.DataFrame(
        {name: draw.uniform(1, 9, n_rows) for name in ("torque", "speed", "wear", "heat")}
    )


def power(frame: pl.DataFrame) -> np.ndarray:
    """Stripes of the product of two columns."""
    stripes: np.ndarray = np.floor((frame["torque"] * frame["speed"]).to_numpy() / 8) % 2
    return stripes


def fit(frame: pl.DataFrame, **settings: Any) -> FittedModel:
    small = {"task": "regression", "quality": "fast", "n_members": 1, "max_epochs": 8}
    rows = LabelledRows(frame, power(frame))
    return fit_table(rows, FitSettings(**{**small, **settings}))


def names_of(model: FittedModel) -> list[str]:
    plan = model.encoder.plan_
    return [plan.pair_name(column) for column in plan.pairs]


def without(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(interactions, "find_interactions", lambda *given: ())


def test_a_network_is_better_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, asked = table(), table(2_000, seed=1)
    one = fit(frame, max_epochs=20)
    without(monkeypatch)
    other = fit(frame, max_epochs=20)
    assert "torque × speed" in names_of(one)
    assert names_of(other) == []
    losses = [
        float(np.mean((Predictor(model).predict_values(asked) - power(asked)) ** 2))
        for model in (one, other)
    ]
    assert losses[0] < 0.8 * losses[1], losses


def test_trees_see_them_too(tmp_path: Path) -> None:
    frame = table(1_500)
    codes = power(frame).astype(np.int64)
    settings = FitSettings(task="classification", max_epochs=4, hidden_dim=16, num_hidden_layers=1)
    model = fit_table(LabelledRows(frame, codes), settings, classes=np.arange(2))
    assert model.trees is not None
    assert model.trees.interactions == ()
    compact = model.encoder.transform(frame)
    place = names_of(model).index("torque × speed") - len(names_of(model))
    seen = tree_features(model.encoder, compact)
    np.testing.assert_array_equal(seen[:, place], compact.numeric[:, place])
    ranks = np.argsort(np.argsort(seen[:, place]))
    product = (frame["torque"] * frame["speed"]).to_numpy()
    assert np.corrcoef(ranks, np.argsort(np.argsort(product)))[0, 1] > 0.9999
    one = Predictor(model).predict_row(frame.row(3, named=True))
    np.testing.assert_allclose(one, Predictor(model).predict_proba(frame)[3], atol=1e-6)


def test_the_same_on_every_run_and_the_world_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit(table(), random_state=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert names_of(one)
    again = fit(table(), random_state=3)
    assert pack(*again.encoder.to_state()) == pack(*one.encoder.to_state())
    for name, value in one.members[0].items():
        np.testing.assert_array_equal(again.members[0][name], value)


def test_a_refit_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    search = find_interactions

    def counted(problem: Any, *given: Any) -> Any:
        searches.append(len(problem.target))
        return search(problem, *given)

    monkeypatch.setattr(interactions, "find_interactions", counted)
    model = fit(table(), refit=True)
    assert "torque × speed" in names_of(model)
    assert len(searches) == 1
    assert searches[0] < N_ROWS


def test_what_was_found_is_said() -> None:
    said: list[str] = []
    rows = LabelledRows(table(), power(table()))
    settings = FitSettings(task="regression", quality="fast", n_members=1, max_epochs=2)
    model = fit_table(rows, settings, callbacks=FitCallbacks(on_message=said.append))
    (found,) = [line for line in said if "further columns" in line]
    assert found == (
        "further columns, with which held-out rows are predicted better: "
        + ", ".join(names_of(model))
    )


@pytest.mark.parametrize(
    "choice",
    [
        {"training_mode": "imbalance_aware"},
        {"training_mode": "tabresnet"},
        {"training_mode": "calibrated_classifier"},
        {"training_mode": "tree_teacher_distillation", "max_epochs": 1},
        {"numeric_encoding": "quantile_ple"},
        {"numeric_encoding": "standard"},
    ],
)
def test_every_mode_but_the_linear_one_has_them(choice: dict[str, Any]) -> None:
    frame = table()
    weight = np.where(np.arange(N_ROWS) % 3 == 0, 2.0, 1.0)
    rows = LabelledRows(frame, power(frame).astype(np.int64), weight)
    small = {"n_members": 1, "max_epochs": 3, "hidden_dim": 32, "quality": "fast"}
    settings = FitSettings(task="classification", **{**small, **choice})
    model = fit_table(rows, settings, classes=np.array([0, 1]))
    assert "torque × speed" in names_of(model)
    proba = Predictor(model).predict_proba(frame)
    one = Predictor(model).predict_row(frame.row(4, named=True))
    np.testing.assert_allclose(one, proba[4], atol=1e-5)


def test_a_linear_model_is_of_single_columns() -> None:
    assert names_of(fit(table(), training_mode="linear_glm_baseline")) == []


def test_ranks_have_none() -> None:
    assert names_of(fit(table(), numeric_encoding="quantile_normal")) == []


def test_files_larger_than_memory_have_them(tmp_path: Path) -> None:
    frame = table(6_000)
    path = tmp_path / "table.parquet"
    frame.with_columns(goal=pl.Series(power(frame))).write_parquet(path)
    model = TabularRegressor(n_members=1, max_epochs=2, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit_file(path, "goal", memory=1)
    assert "torque × speed" in names_of(model.model_)


def test_importance_shuffles_what_a_column_gives_to_them() -> None:
    """`torque` and `speed` matter through their product alone."""
    frame = table(4_000)
    model = fit(frame, max_epochs=15)
    assert model.encoder.plan_.interactions
    importance = permutation_importance(Predictor(model), frame, power(frame))
    by_name = dict(zip(importance.names, importance.mean.tolist(), strict=True))
    assert by_name["torque"] > 0.1
    assert by_name["speed"] > 0.1
    assert abs(by_name["heat"]) < 0.1 * by_name["torque"]


@pytest.mark.parametrize(
    "target",
    [
        lambda draw: draw.integers(0, 2, N_ROWS).astype(float),
        lambda draw: draw.standard_cauchy(N_ROWS),
        lambda draw: np.ones(N_ROWS),
    ],
    ids=["coin", "heavy tails", "constant"],
)
def test_columns_that_say_nothing_have_none(
    target: Callable[[np.random.Generator], np.ndarray],
) -> None:
    rows = LabelledRows(table(), target(np.random.default_rng(1)))
    settings = FitSettings(task="regression", quality="fast", n_members=1, max_epochs=1)
    assert names_of(fit_table(rows, settings)) == []


def test_columns_that_are_hardly_ever_known_are_no_fault() -> None:
    """One is known in three rows; two are never known together, so that none of their pairs is."""
    frame = table()
    even = pl.int_range(N_ROWS, eager=True) % 2 == 0
    frame = frame.with_columns(
        rare=pl.when(pl.int_range(N_ROWS) < 3).then(pl.col("wear")),
        euro=pl.when(even).then(pl.col("torque")),
        dollar=pl.when(~even).then(pl.col("speed")),
    )
    target = (frame["euro"].fill_null(0) + frame["dollar"].fill_null(0)).to_numpy()
    settings = FitSettings(task="regression", quality="fast", n_members=1, max_epochs=1)
    model = fit_table(LabelledRows(frame, target), settings)
    assert np.isfinite(Predictor(model).predict_values(frame)).all()
