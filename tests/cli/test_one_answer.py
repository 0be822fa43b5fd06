"""What a user finds out in the first hour: one answer everywhere, and no number too good."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import load_model
from tabwright.cli.app import app

runner = CliRunner()
FAST = ("--epochs", "2", "--members", "1", "--width", "8", "--quiet")


def _run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def _noise_sorted_by_label(path: Path, n_rows: int) -> Path:
    """Rows whose number alone tells the label, and nothing else does."""
    generator = np.random.default_rng(0)
    label = np.sort(generator.integers(0, 2, n_rows))
    number = np.arange(1, n_rows + 1)
    pl.DataFrame({"number": number, "x": generator.normal(size=n_rows), "label": label}).write_csv(
        path
    )
    return path


def test_the_labels_of_a_file_are_the_same_in_python_and_on_the_command_line(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    size = generator.normal(size=400)
    label = np.where(size + generator.normal(size=400) > 1.6, "yes", "no")
    table, model = tmp_path / "t.csv", str(tmp_path / "m.safetensors")
    pl.DataFrame({"size": size, "label": label}).write_csv(table)
    rule = ("--decision", "recall=0.9")
    _run("train", str(table), "-t", "label", "-o", model, *FAST, *rule)
    printed = pl.read_csv(io.StringIO(_run("predict", model, str(table))))["prediction"]
    estimator = load_model(model)
    frame = pl.read_csv(table)
    predicted = estimator.predict(frame)
    assert predicted.tolist() == printed.to_list()
    # The rule does something here: the most probable class is another one in many rows.
    probable = estimator.classes_[estimator.predict_proba(frame).argmax(axis=1)]
    assert (predicted != probable).sum() > 20
    one_by_one = [estimator.predict(frame[k])[0] for k in range(50)]
    assert one_by_one == predicted[:50].tolist()
    pandas = frame.to_pandas()
    assert estimator.predict(pandas.iloc[:1])[0] == predicted[0]
    accuracy = json.loads(_run("evaluate", model, str(table), "--json"))["metrics"]["accuracy"]
    assert accuracy == pytest.approx((predicted == label).mean())


@pytest.mark.parametrize("memory", [None, "1KB"])
def test_a_row_number_is_set_aside_although_rows_are_held_out(
    memory: str | None, tmp_path: Path
) -> None:
    n_rows = 1000
    table = _noise_sorted_by_label(tmp_path / "t.csv", n_rows)
    model = str(tmp_path / "m.safetensors")
    words = ("train", str(table), "-t", "label", "-o", model, *FAST)
    _run(*words, *(() if memory is None else ("--memory", memory)))
    card = json.loads(_run("inspect", model, "--json"))["card"]
    used = {column["name"]: column["used"] for column in card["columns"]}
    assert used == {"number": False, "x": True}


def test_rows_without_a_target_do_not_hide_that_a_column_numbers_the_rows(tmp_path: Path) -> None:
    table = _noise_sorted_by_label(tmp_path / "t.csv", 300)
    frame = pl.read_csv(table).with_columns(
        pl.when(pl.col("number") % 7 > 0).then(pl.col("label")).alias("label")
    )
    frame.write_csv(table)
    model = str(tmp_path / "m.safetensors")
    _run("train", str(table), "-t", "label", "--drop-null-target", "-o", model, *FAST)
    card = json.loads(_run("inspect", model, "--json"))["card"]
    assert [column["name"] for column in card["columns"] if column["used"]] == ["x"]


def test_compare_and_distill_set_row_numbers_aside_too(tmp_path: Path) -> None:
    table = _noise_sorted_by_label(tmp_path / "t.csv", 400)
    words = ("-t", "label", "--epochs", "5", "--quiet")
    compared = json.loads(
        _run("compare", str(table), *words, "--members", "1", "--folds", "3", "--json")
    )
    # Folds of noise: an AUC far from a half would be the row number's.
    assert len(compared["candidates"]) >= 6
    for candidate in compared["candidates"]:
        assert abs(candidate["means"]["auc"] - 0.5) < 0.15, candidate["name"]
    student = str(tmp_path / "s.safetensors")
    _run("distill", "random_forest", str(table), *words, "-o", student)
    card = json.loads(_run("inspect", student, "--json"))["card"]
    assert [column["name"] for column in card["columns"] if column["used"]] == ["x"]
