"""Predictions in pieces are those of the whole table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tabwright.errors import TableError
from tabwright.fitting.fit_table import fit_table
from tabwright.inference.fitted_model import FittedModel, load_fitted
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame, score_rows
from tabwright.settings import FitSettings, Task
from tabwright.tables import read_table
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows, TableRequest
from tabwright.workflows.evaluate import score_table
from tabwright.workflows.predict import iter_predictions
from tabwright.workflows.requests.train import TrainRequest
from tabwright.workflows.train import run_training

N_ROWS = 130


def _table() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    kind = generator.choice(["red", "green", "blue"], size=N_ROWS)
    return pl.DataFrame(
        {
            "id": [f"{i:04d}" for i in range(N_ROWS)],
            "kind": [None if i % 11 == 0 else str(k) for i, k in enumerate(kind)],
            "size": [
                None if i % 7 == 0 else float(v) for i, v in enumerate(generator.random(N_ROWS))
            ],
            "when": [f"2024-0{1 + i % 9}-11" for i in range(N_ROWS)],
            "number": range(N_ROWS),
            "count": [i if i != 100 else 2**40 for i in range(N_ROWS)],
            "label": np.where(kind == "red", "y", "n"),
            "price": generator.random(N_ROWS),
        }
    )


def _fit(task: Task) -> FittedModel:
    frame = _table()
    settings = FitSettings(task=task, hidden_dim=8, n_members=1, max_epochs=2, batch_size=64)
    features = frame.drop("id", "number", "label", "price")
    if task == "regression":
        return fit_table(LabelledRows(features, frame["price"].to_numpy()), settings)
    codes = (frame["label"] == "y").cast(pl.Int64).to_numpy()
    return fit_table(LabelledRows(features, codes), settings, classes=np.array(["n", "y"]))


@pytest.fixture(scope="module")
def classifier() -> FittedModel:
    return _fit("classification")


@pytest.mark.filterwarnings("ignore:ignored")
@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_pieces_are_the_whole(extension: str, classifier: FittedModel, tmp_path: Path) -> None:
    path = tmp_path / f"t.{extension}"
    table = _table()
    getattr(table, {"jsonl": "write_ndjson"}.get(extension, f"write_{extension}"))(path)
    features = read_table(str(path)).drop("id", "number", "label", "price")
    for model in (classifier, _fit("regression")):
        pieces = list(
            iter_predictions(model, str(path), keep=["id", "number", "size"], batch_rows=37)
        )
        assert [piece.height for piece in pieces] == [37, 37, 37, 19]
        whole = prediction_frame(Predictor(model), features)
        predicted = pl.concat(pieces).drop("id", "number", "size")
        assert predicted.columns == whole.columns
        for name in whole.columns:
            if whole[name].dtype == pl.String:
                assert predicted[name].equals(whole[name])
            else:
                # Sums of other lengths differ in the last digit of float32.
                np.testing.assert_allclose(predicted[name], whole[name], atol=1e-6)
        assert pl.concat(pieces)["id"].to_list() == table["id"].to_list()
        numbers = pl.concat(pieces)["number"]
        assert numbers.dtype == (pl.String if extension == "csv" else pl.Int64)
        assert numbers.cast(pl.Int64).to_list() == list(range(N_ROWS))
        # A column that the model uses comes as it is written too.
        assert pl.concat(pieces)["size"].cast(pl.Float64).equals(table["size"])


@pytest.mark.filterwarnings("ignore:ignored")
@pytest.mark.parametrize("batch_rows", [29, 1000])
def test_scores_in_pieces_are_those_of_the_whole(
    batch_rows: int, classifier: FittedModel, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    table = _table()
    table.write_csv(path)
    codes = (table["label"] == "y").cast(pl.Int64).to_numpy()
    expected = score_rows(
        Predictor(classifier), table.drop("id", "number", "label", "price"), codes
    )["test"]
    scores = score_table(classifier, str(path), "label", batch_rows=batch_rows)
    assert scores.n_rows == N_ROWS
    # A BLAS may round a row by its place among others.
    assert scores.metrics == pytest.approx(expected, abs=1e-7)


@pytest.mark.filterwarnings("ignore:ignored")
def test_a_bad_cell_late_in_the_table_is_named(classifier: FittedModel, tmp_path: Path) -> None:
    table = _table().with_columns(
        count=pl.when(pl.int_range(N_ROWS) == 77).then(pl.lit("many")).otherwise(pl.col("count"))
    )
    path = tmp_path / "t.parquet"
    table.write_parquet(path)
    pieces = iter_predictions(classifier, str(path), batch_rows=50)
    assert next(pieces).height == 50
    with pytest.raises(TableError, match=r"'many' in row 28.*counted from row 51 of"):
        next(pieces)


@pytest.mark.filterwarnings("ignore:ignored")
def test_unknown_labels_and_missing_columns_are_refused(
    classifier: FittedModel, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    table = _table().drop("id", "number", "price")
    table.with_columns(label=pl.lit("maybe")).write_csv(path)
    with pytest.raises(TableError, match=r"the column 'label' must hold labels .*got 'maybe'"):
        score_table(classifier, str(path), "label")
    table.drop("size").write_csv(path)
    with pytest.raises(TableError, match="'size' is missing"):
        iter_predictions(classifier, str(path))
    table.rename({"count": "prediction"}).with_columns(count=1).write_csv(path)
    with pytest.raises(ValueError, match="must not be named as a prediction is; got 'prediction'"):
        iter_predictions(classifier, str(path), keep=["prediction"])


def test_a_kept_column_is_not_named_as_a_predicted_quantile(tmp_path: Path) -> None:
    table, path = _table(), tmp_path / "t.csv"
    settings = FitSettings(
        task="regression", objective="quantile", hidden_dim=8, n_members=1, max_epochs=1
    )
    features = table.drop("id", "number", "label", "price")
    model = fit_table(LabelledRows(features, table["price"].to_numpy()), settings)
    features.write_csv(path)
    names = next(iter_predictions(model, str(path), on_unfamiliar=lambda sentence: None)).columns
    assert names == ["prediction", "quantile_0.1", "quantile_0.5", "quantile_0.9"]
    features.with_columns(table["id"].alias("quantile_0.1")).write_csv(path)
    with pytest.raises(ValueError, match=r"named as a prediction is; got 'quantile_0.1"):
        iter_predictions(model, str(path), keep=["quantile_0.1"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(classifier: FittedModel, tmp_path: Path) -> None:
    classifier.save(tmp_path / "model.safetensors")
    table = _table().drop("label", "price")
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    pl.concat([table] * 1_000).write_csv(few)
    pl.concat([table] * 5_000).write_csv(many)
    script = """
import resource, sys
from tabwright.cli.app import app
app(["predict", *sys.argv[1:], "--keep", "id", "-q"], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for path in (few, many):
        done = subprocess.run(
            [
                *(sys.executable, "-c", script, str(tmp_path / "model.safetensors"), str(path)),
                *("-o", str(tmp_path / "out.parquet")),
            ],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert len(pl.read_parquet(tmp_path / "out.parquet")) == 5_000 * N_ROWS
    # 520,000 rows more, which take 25 MiB as text and more than that in memory.
    assert peaks[1] - peaks[0] < 30


def test_a_model_of_rows_from_disk_tells_of_cells_unlike_those_of_training(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    size, kind = generator.normal(size=400), generator.choice(["a", "b", "c"], 400)
    label = np.where(size > 0, "p", "q")
    pl.DataFrame({"size": size, "kind": kind, "label": label}).write_csv(tmp_path / "t.csv")
    fitted = run_training(
        TrainRequest(
            TableRequest(str(tmp_path / "t.csv"), ColumnUses("label")),
            output=tmp_path / "m.safetensors",
            settings={"max_epochs": 1, "hidden_dim": 8, "n_members": 1},
            memory=1,
        )
    )
    assert fitted is not None
    assert any("from disk" in text for text in fitted.messages)
    strange = pl.DataFrame({"size": size[:90] * 1_000 + 500, "kind": ["new"] * 90})
    strange.write_csv(tmp_path / "new.csv")
    said: list[str] = []
    pieces = iter_predictions(
        load_fitted(fitted.path), str(tmp_path / "new.csv"), batch_rows=7, on_unfamiliar=said.append
    )
    assert sum(piece.height for piece in pieces) == 90
    # One sentence a column, of all pieces together.
    assert [text.partition(":")[0] for text in said] == ["size", "kind"]
    assert "are these the same units?" in said[0]
    assert "all 90 cells are of levels that training had" in said[1]


def test_names_of_the_model_are_names_however_they_look(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frame = pl.DataFrame(generator.normal(size=(60, 3)).round(3), schema=["7", "NA", "3"])
    settings = FitSettings(task="classification", hidden_dim=8, n_members=1, max_epochs=2)
    codes = (frame["7"] > 0).cast(pl.Int64).to_numpy()
    model = fit_table(LabelledRows(frame, codes), settings, classes=np.array(["n", "y"]))
    path = tmp_path / "t.csv"
    frame[["3", "7", "NA"]].head(1).write_csv(path)
    with pytest.raises(TableError, match="looks like data"):
        read_table(path)
    found = pl.concat(list(iter_predictions(model, str(path))))
    assert found.equals(prediction_frame(Predictor(model), frame[:1]))
    # Other numbers than its names are still data.
    path.write_text("1.5,3.5,2.5\n1,2,3\n")
    with pytest.raises(TableError, match="looks like data"):
        list(iter_predictions(model, str(path)))
