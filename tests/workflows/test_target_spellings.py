"""A target is read as training read it: in memory, streamed, and wherever rows are scored."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tabwright import TableError, TabularClassifier, TabularRegressor
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.settings import FitSettings
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.evaluate import score_table
from tabwright.workflows.requests.train import TrainRequest
from tabwright.workflows.train import run_training

N_ROWS = 240
SPELT = {
    "decimal commas": lambda value: f"{value:.2f}".replace(".", ","),
    "magnitudes": lambda value: f"${value:.2f}k",
    "units": lambda value: f"{value:.1f} kg",
    "points between thousands": lambda value: f"{1e6 * value:,.0f}".replace(",", "."),
    "numbers": lambda value: f"{value:.2f}",
}
SCALE = {"magnitudes": 1e3, "points between thousands": 1e6}


def _table(folder: Path, kind: str) -> Path:
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 9, N_ROWS)
    lines = [f'{own:.3f};"{SPELT[kind](own)}"' for own in x]
    path = folder / "t.csv"
    path.write_text("\n".join(["x;y", *lines]), encoding="utf-8")
    return path


def _fitted(folder: Path, path: Path, streamed: bool) -> FittedModel:
    if streamed:
        found = fit_files(
            path,
            ColumnUses("y"),
            lambda task: FitSettings(task=task, max_epochs=30, n_members=1, hidden_dim=16),
        )
        assert found is not None
        return found
    result = run_training(
        TrainRequest(
            TableRequest(str(path), ColumnUses("y")),
            folder / "m.safetensors",
            settings={"max_epochs": 30, "n_members": 1, "hidden_dim": 16, "quality": "fast"},
        )
    )
    assert result is not None
    return result.model


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", SPELT)
def test_a_spelt_target_is_a_quantity_wherever_it_is_read(
    kind: str, streamed: bool, tmp_path: Path
) -> None:
    model = _fitted(tmp_path, _table(tmp_path, kind), streamed)
    assert model.settings.task == "regression"
    model.save(tmp_path / "saved.safetensors")
    model = load_fitted(tmp_path / "saved.safetensors")
    few = tmp_path / "few.csv"
    few.write_text(f'x;y\n5.0;"{SPELT[kind](5.0)}"\n5.0;"{SPELT[kind](5.0)}"\n', encoding="utf-8")
    error = score_table(model, str(few), "y").metrics["rmse"]
    assert error < 1.5 * SCALE.get(kind, 1.0)


@pytest.mark.parametrize("kind", SPELT)
def test_a_spelt_target_is_a_quantity_in_memory(kind: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(1, 9, N_ROWS)
    X = pl.DataFrame({"x": x})
    y = [SPELT[kind](own) for own in x]
    numbers = TabularRegressor(quality="fast", max_epochs=3, hidden_dim=8, random_state=0)
    # One row says little of how it is written; the rows of the fit do.
    numbers.fit(X, y, eval_set=(X[:1], y[:1]))
    low, high = (SCALE.get(kind, 1.0) * bound for bound in (1, 9))
    assert (numbers.predict(X) >= 0.9 * low).all()
    assert (numbers.predict(X) <= 1.1 * high).all()
    numbers.save(tmp_path / "m.safetensors")
    path = _table(tmp_path, kind)
    assert score_table(load_fitted(tmp_path / "m.safetensors"), str(path), "y").n_rows == N_ROWS


@pytest.mark.parametrize("streamed", [False, True])
def test_a_target_of_dates_is_told_of(streamed: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = (f"{k * 37 % 101},{20240101 + k % 28}" for k in range(200))
    path.write_text("x,y\n" + "\n".join(rows), encoding="utf-8")
    request = TrainRequest(
        TableRequest(str(path), ColumnUses("y")),
        tmp_path / "m.safetensors",
        settings={"max_epochs": 1, "n_members": 1, "hidden_dim": 8, "quality": "fast"},
        memory=1_000 if streamed else None,
    )
    result = run_training(request)
    assert result is not None
    said = [text for text in result.messages if text.startswith("the target 'y': numbers such as")]
    assert len(said) == 1
    assert "20240101 look like dates" in said[0]
    frame = pl.read_csv(path)
    model = TabularRegressor(quality="fast", max_epochs=1, hidden_dim=8, random_state=0)
    with pytest.warns(UserWarning, match="the target: numbers such as 20240101 look like dates"):
        model.fit(frame[["x"]], frame["y"])


@pytest.mark.parametrize("as_text", [False, True])
def test_labels_that_may_be_a_quantity_are_told_of(as_text: bool) -> None:
    y = np.arange(150) // 2
    X = pl.DataFrame({"x": y * 1.0})
    model = TabularClassifier(quality="fast", max_epochs=1, hidden_dim=8, random_state=0)
    with pytest.warns(UserWarning, match="75 distinct numbers in 150 rows, .* TabularRegressor"):
        model.fit(X, y.astype(str) if as_text else y)
    model.fit(X, [f"c{label}" for label in y])


def test_labels_that_are_numbers_are_read_as_training_read_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "x,y\n" + "\n".join(f"{k * 37 % 101},${k % 2 + 5}" for k in range(200)), encoding="utf-8"
    )
    model = _fitted(tmp_path, path, streamed=False)
    assert model.classes is not None
    assert model.classes.tolist() == [5, 6]
    few = tmp_path / "few.csv"
    few.write_text("x,y\n7,$6\n8,5\n", encoding="utf-8")
    assert score_table(model, str(few), "y").n_rows == 2
    few.write_text("x,y\n7,$7\n", encoding="utf-8")
    with pytest.raises(TableError, match="labels that the training rows have"):
        score_table(model, str(few), "y")
