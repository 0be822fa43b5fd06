"""Columns that give the target away, repeated rows, rows that the model was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tabwright import TabularClassifier, TabularRegressor
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest, read_training_table
from tabwright.workflows.data_checks import repeated_rows, revealing_columns
from tabwright.workflows.predict import score_table
from tabwright.workflows.train import TrainRequest, run_training

N_ROWS = 400


def _frame(n_rows: int = N_ROWS) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    size = generator.normal(size=n_rows)
    y = size + generator.normal(size=n_rows) > 0
    value = np.exp(size + generator.normal(scale=0.2, size=n_rows))
    return pl.DataFrame(
        {
            "size": size,
            "kind": generator.choice(["a", "b", "c"], size=n_rows),
            "alive": np.where(y, "yes", "no"),
            "score": np.where(y, 1.0, -1.0) * generator.uniform(0.1, 5, n_rows),
            "left_on": np.where(y, np.nan, generator.uniform(0, 10_000, n_rows)),
            "one_wrong": np.where(np.arange(n_rows) == 7, ~y, y),
            "label": np.where(y, "y", "n"),
            "cents": np.round(100 * value),
            "value": value,
        }
    )


def _revealing(frame: pl.DataFrame, target: str, path: Path, *drop: str) -> set[str]:
    frame.write_parquet(path)
    request = TableRequest(str(path), ColumnUses(target, drop))
    return set(revealing_columns(read_training_table(request, lambda _: None)))


def test_columns_that_tell_the_target_are_named_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    found = _revealing(_frame(), "label", path)
    assert found == {"alive", "score", "left_on", "one_wrong"}
    assert _revealing(_frame(), "value", path, "label") == {"cents"}
    # Of few rows nothing is said.
    assert not _revealing(_frame(15), "label", path)


@pytest.mark.parametrize("n_labels", [2, 5])
def test_no_column_of_noise_tells_anything(n_labels: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    label = generator.integers(0, n_labels, 500)
    # A rare label, levels of one row each, a column that is right in nine of ten rows.
    label[label == 1] = np.where(generator.random((label == 1).sum()) < 0.9, 0, 1)
    frame = pl.DataFrame(
        {
            "x": generator.normal(size=500),
            "few": generator.integers(0, 3, 500),
            "many": [f"k{k}" for k in generator.integers(0, 300, 500)],
            "good": np.where(generator.random(500) < 0.9, label, 0),
            "label": [f"l{k}" for k in label],
        }
    )
    assert not _revealing(frame, "label", tmp_path / "t.parquet")


def test_train_warns_of_revealing_columns_and_repeated_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    frame = _frame().drop("score", "left_on", "one_wrong", "cents", "value")
    pl.concat([frame, frame]).write_csv(path)
    request = TrainRequest(
        TableRequest(str(path), ColumnUses("label")),
        output=tmp_path / "m.safetensors",
        settings={"max_epochs": 1, "n_members": 1, "hidden_dim": 8},
    )
    result = run_training(request)
    assert result is not None
    said = [message for message in result.messages if message.startswith("warning: ")]
    assert "column 'alive' alone tells the target 'label'" in said[0]
    assert "of the 160 rows held out are equal to a training row" in said[1]
    assert len(said) == 2


def test_repeated_rows_are_counted_with_their_target() -> None:
    from tabwright.tables.labelled import LabelledRows

    frame = pl.DataFrame({"a": [1, 2, 3, None], "b": ["x", "y", "z", None]})
    training = LabelledRows(frame, np.array([0, 0, 0, 0]))
    test = LabelledRows(frame, np.array([0, 1, 1, 0]))
    assert repeated_rows(training, test) == 2
    assert repeated_rows(training, LabelledRows(frame, np.array([1, 1, 1, 1]))) == 0
    # A column may have no name.
    unnamed = LabelledRows(frame.rename({"a": ""}), training.target)
    other = LabelledRows(frame.rename({"a": ""}).with_columns(pl.lit(9).alias("")), training.target)
    assert repeated_rows(unnamed, unnamed) == 4
    assert repeated_rows(unnamed, other) == 0
    # Of a table of few values nothing is said: its rows repeat each other everywhere.
    few = training.take(np.zeros(10, dtype=np.int64))
    assert repeated_rows(few, training) == 0


@pytest.mark.parametrize("target", ["label", "value"])
def test_scoring_training_rows_is_told_and_scoring_others_is_not(
    target: str, tmp_path: Path
) -> None:
    kept = ["size", "kind", "cents", target]
    frame = _frame(2000)[kept] if target == "label" else _frame(2000)[["size", "kind", target]]
    training, other = frame[:1200], frame[1200:]
    kind = TabularClassifier if target == "label" else TabularRegressor
    model = kind(max_epochs=1, n_members=1, hidden_dim=8, random_state=0)
    model.fit(training.drop(target), training[target])
    fitted = model.model_
    for name, part in (("training", training), ("other", other), ("both", frame)):
        part.write_csv(tmp_path / f"{name}.csv")
    # A tenth of the rows chose the epoch.
    assert 900 <= score_table(fitted, str(tmp_path / "training.csv"), target).n_seen <= 1200
    assert 900 <= score_table(fitted, str(tmp_path / "both.csv"), target).n_seen <= 1250
    assert score_table(fitted, str(tmp_path / "other.csv"), target).n_seen == 0
