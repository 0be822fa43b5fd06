"""Attributions: they sum to the output, are exact on linear models, and are Shapley values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier, TabularRegressor
from tabwright.errors import TableError
from tabwright.explanation import Explanation, effect_curves, explain
from tabwright.inference.predictor import Predictor


def rows(n: int, n_numbers: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({f"x{i}": rng.normal(size=n) for i in range(n_numbers)})
    kind = rng.choice(["red", "green", "blue"], size=n)
    day = pl.Series([None if i % 9 == 0 else int(i % 300) for i in range(n)], dtype=pl.Int32)
    return frame.with_columns(
        kind=pl.Series([None if i % 11 == 0 else k for i, k in enumerate(kind)]),
        day=day.cast(pl.Date),
    )


def regressor(frame: pl.DataFrame) -> TabularRegressor:
    y = frame["x0"] * frame["x1"] + 2 * frame["x0"] + (frame["kind"] == "red").fill_null(False)
    model = TabularRegressor(
        n_members=1, max_epochs=40, hidden_dim=16, numeric_encoding="standard", random_state=0
    )
    return model.fit(frame, y.to_numpy())


def brute_force(model: TabularRegressor, row: pl.DataFrame, others: pl.DataFrame) -> np.ndarray:
    """Shapley values by their definition, on raw cells, through the model's own `predict`."""
    names = row.columns
    n = len(names)
    value = {}
    for size in range(n + 1):
        for chosen in itertools.combinations(range(n), size):
            mixed = others.with_columns(
                [
                    pl.lit(row[names[i]][0], dtype=row[names[i]].dtype).alias(names[i])
                    for i in chosen
                ]
            )
            value[chosen] = model.predict(mixed).mean()
    found = np.zeros(n)
    for i in range(n):
        for chosen in value:
            if i not in chosen:
                share = math.factorial(len(chosen)) * math.factorial(n - len(chosen) - 1)
                gain = value[tuple(sorted((*chosen, i)))] - value[chosen]
                found[i] += share / math.factorial(n) * gain
    return found


def test_they_are_shapley_values_of_eight_columns() -> None:
    frame = rows(200, 6)
    model = regressor(frame)
    row, others = frame[[11]], frame[:20]
    found = explain(model.model_, row, others)
    assert found.exact
    assert found.columns == tuple(frame.columns)
    expected = brute_force(model, row, others)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found.attributions[0, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("n_numbers", [4, 12])
def test_with_the_base_they_sum_to_the_output(n_numbers: int) -> None:
    frame = rows(150, n_numbers)
    model = regressor(frame)
    found = explain(model.model_, frame[:5], frame[5:25])
    assert found.exact == (n_numbers == 4)
    total = found.base + found.attributions.sum(axis=1)
    np.testing.assert_allclose(total, found.output, atol=1e-6)
    np.testing.assert_allclose(found.output[:, 0], model.predict(frame[:5]), atol=1e-6)


@pytest.mark.parametrize("n_numbers", [4, 12])
def test_they_are_exact_on_linear_models(n_numbers: int) -> None:
    frame = rows(300, n_numbers)
    labels = np.where(frame["x0"].to_numpy() > 0.3, "yes", "no")
    model = TabularClassifier("linear_glm_baseline", n_members=1, max_epochs=5, random_state=0).fit(
        frame, labels
    )
    others = frame[20:60]
    found = explain(model.model_, frame[:4], others, scale="log_odds", n_permutations=1)
    predictor = Predictor(model.model_)

    def log_odds(table: pl.DataFrame) -> np.ndarray:
        p = predictor.predict_proba(table)
        return np.log(p[:, 1] / p[:, 0])

    base = log_odds(others)
    for row in range(4):
        for at, name in enumerate(found.columns):
            cell = pl.lit(frame[name][row], dtype=frame[name].dtype).alias(name)
            # Columns add up in a linear model: one exchange says all.
            change = (log_odds(others.with_columns(cell)) - base).mean()
            assert found.attributions[row, at, 0] == pytest.approx(change, abs=1e-4), name


def test_a_column_alone_gets_all_and_many_cells_come_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = rows(80, 11)
    alone = TabularRegressor(n_members=1, max_epochs=3, hidden_dim=8, random_state=0)
    alone.fit(frame[["x0"]], frame["x0"].to_numpy())
    found = explain(alone.model_, frame[:4, ["x0"]], frame[["x0"]])
    np.testing.assert_allclose(found.attributions[:, 0], found.output - found.base, atol=1e-9)
    model = regressor(frame).model_
    whole = explain(model, frame[:2], frame[:10], n_permutations=2)
    monkeypatch.setattr("tabwright.explanation.attributions._CELLS_AT_ONCE", 1)
    parts = explain(model, frame[:2], frame[:10], n_permutations=2)
    np.testing.assert_allclose(parts.attributions, whole.attributions, atol=1e-6)


def test_permutations_come_near_all_coalitions() -> None:
    frame = rows(150, 4)
    model = regressor(frame).model_
    exact = explain(model, frame[:3], frame[5:25])
    drawn = explain(model, frame[:3], frame[5:25], n_permutations=60, exact_columns=0)
    assert exact.exact
    assert not drawn.exact
    difference = np.abs(drawn.attributions - exact.attributions).max()
    assert 0 < difference < 0.02 * np.abs(exact.attributions).max()


def test_importance_has_intervals_and_a_row_its_cells() -> None:
    frame = rows(120, 3)
    model = regressor(frame)
    found = explain(model.model_, frame[:40])
    table = found.importance()
    assert table["column"][0] == "x0"
    assert (table["low"] <= table["importance"]).all()
    assert (table["importance"] <= table["high"]).all()
    assert (table["low"] < table["high"]).any()
    row = found.row(0)
    assert row["attribution"].abs().is_sorted(descending=True)
    cells = dict(zip(row["column"], row["cell"], strict=True))
    assert cells["kind"] is None
    assert float(cells["x0"]) == pytest.approx(frame["x0"][0])


def test_effect_curves_are_centred_and_know_the_rows() -> None:
    frame = rows(240, 3)
    model = regressor(frame)
    curves = {curve.column: curve for curve in effect_curves(model.model_, frame)}
    for curve in curves.values():
        assert curve.density.sum() == pytest.approx(1.0)
        assert curve.effect.T @ curve.density == pytest.approx(0.0, abs=1e-9)
    assert curves["x0"].ordered
    assert list(curves["x0"].points) == sorted(curves["x0"].points)
    # The target rises by x0.
    assert curves["x0"].effect[-1, 0] - curves["x0"].effect[0, 0] > 1.0
    assert not curves["kind"].ordered
    assert curves["kind"].points[-1] is None
    assert set(curves["kind"].points) == {"red", "green", "blue", None}


def test_what_cannot_be_explained_is_refused() -> None:
    frame = rows(60, 2)
    model = regressor(frame).model_
    with pytest.raises(ValueError, match="1 row and no others; give background rows"):
        explain(model, frame[:1])
    with pytest.raises(ValueError, match="at least one row and one background row"):
        explain(model, frame[:0])
    with pytest.raises(ValueError, match="scale must be"):
        explain(model, frame, scale="odds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_permutations must be at least 1; got 0"):
        explain(model, frame, n_permutations=0)
    with pytest.raises(ValueError, match="n_permutations must be at least 1; got '3'"):
        explain(model, frame, n_permutations="3")  # type: ignore[arg-type]
    for tables in ((frame.drop("x1"), frame), (frame, frame.drop("x1"))):
        with pytest.raises(TableError, match="'x1' is missing; add it"):
            explain(model, *tables)
    with pytest.raises(ValueError, match="exact_columns must be at least 0; got -1"):
        explain(model, frame, exact_columns=-1)
    with pytest.raises(ValueError, match="is for a classifier's probabilities; got it for a reg"):
        explain(model, frame, scale="log_odds")
    found = explain(model, frame[:3], frame[:5])
    for row in (3, -1):
        with pytest.raises(ValueError, match=f"row must be from 0 to 2; got {row}"):
            found.row(row)
    with pytest.raises(ValueError, match="output must be from 0 to 0; got 1"):
        found.importance(1)
    with pytest.raises(ValueError, match="columns that the model uses; got 'nope'"):
        effect_curves(model, frame, ["nope"])


def test_the_time_is_told_before_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = rows(60, 2)
    model = regressor(frame).model_
    heard: list[str] = []
    monkeypatch.setattr("tabwright.explanation.attributions._REPORTED_FROM_SECONDS", 0.0)
    explain(model, frame[:3], frame[:5], on_message=heard.append)
    assert len(heard) == 1
    assert heard[0].startswith("explaining 3 rows takes about ")


def test_a_column_that_moves_nothing_has_an_effect_of_exactly_zero() -> None:
    frame = rows(300, 2)
    model = regressor(frame)
    unknown = frame.with_columns(kind=pl.Series([f"shade {i % 7}" for i in range(300)]))
    (curve,) = effect_curves(model.model_, unknown, ["kind"])
    assert len(curve.points) == 7
    assert (curve.effect == 0).all()


def test_effect_curves_of_text_that_is_numbers_or_times_are_lines() -> None:
    rng = np.random.default_rng(0)
    minutes, price = rng.integers(0, 1440, 200), rng.integers(1000, 9000, 200)
    frame = pl.DataFrame(
        {
            "at": [f"{m // 60:02d}:{m % 60:02d}" for m in minutes],
            "price": [f"£{p:,}" for p in price],
        }
    )
    model = TabularRegressor(n_members=1, max_epochs=1, quality="fast", random_state=0)
    model.fit(frame, minutes + price / 10)
    at, paid = effect_curves(model.model_, frame)
    assert at.ordered
    assert (at.points[0], at.points[-1]) == (60.0 * minutes.min(), 60.0 * minutes.max())
    assert paid.ordered
    assert (paid.points[0], paid.points[-1]) == (price.min(), price.max())


def test_whole_numbers_of_a_row_have_no_point_and_empty_cells_are_missing() -> None:
    cells = pl.DataFrame({"a": [10_000.0, 0.25], "b": [None, 1e20], "c": ["x", " "]})
    found = Explanation(
        *(("a", "b", "c"), ("value",), np.ones((2, 3, 1)), np.zeros(1), np.zeros((2, 1))),
        *("probability", cells, cells, True),
    )
    assert found.row(0)["cell"].to_list() == ["10000", None, "x"]
    assert found.row(1)["cell"].to_list() == ["0.25", "1e+20", None]


def test_effect_curves_of_an_estimator_take_every_kind_of_table() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = TabularRegressor(quality="fast", max_epochs=2, random_state=0).fit(X, X[:, 0])
    of_array = model.effect_curves(X, n_points=3)
    assert [len(curve.points) for curve in of_array] == [3, 3]
    frame = pl.DataFrame(X, schema=["a", "b"])
    named = TabularRegressor(quality="fast", max_epochs=2, random_state=0).fit(frame, X[:, 0])
    of_frame, of_pandas = (named.effect_curves(rows, ["a"]) for rows in (frame, frame.to_pandas()))
    np.testing.assert_array_equal(of_frame[0].effect, of_pandas[0].effect)
