"""A target is read as training read it: in memory, streamed, and wherever rows are scored."""

from pathlib import Path

import numpy as np
import pytest

from tabwright import TableError
from tabwright.fitting.streamed.fit_files import fit_files
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.settings import FitSettings
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.predict import score_table
from tabwright.workflows.train import TrainRequest, run_training

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
