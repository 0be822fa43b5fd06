"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ai.ml.frameworks.pytorch.cli import app
from ai.ml.frameworks.pytorch.settings import TRAINING_MODES, modes_for

runner = CliRunner()
FAST = ("--epochs", "2", "--members", "1", "--quiet")


def _table(path: Path, n_rows: int = 150) -> Path:
    generator = np.random.default_rng(0)
    size = generator.normal(size=n_rows)
    kind = generator.choice(["red", "green", "blue"], size=n_rows)
    label = np.where(
        size + (kind == "red") + generator.normal(scale=0.3, size=n_rows) > 0.4, "y", "n"
    )
    pl.DataFrame(
        {"size": size, "kind": kind, "label": label, "price": 100 * size + 5 * (kind == "red")}
    ).write_csv(path)
    return path


def _run(*words: str, code: int = 0) -> str:
    result = runner.invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("mode", TRAINING_MODES)
def test_every_mode_goes_from_a_table_to_predictions(mode: str, tmp_path: Path) -> None:
    table = _table(tmp_path / "table.csv")
    model, out = tmp_path / "model.safetensors", tmp_path / "out.csv"
    for target, other, task in (
        ("label", "price", "classification"),
        ("price", "label", "regression"),
    ):
        named = ("--target", target, "--drop", other, "--mode", mode)
        words = ("train", str(table), *named, "--output", str(model))
        if mode not in modes_for(task):  # type: ignore[arg-type]
            refusal = _run(*words, *FAST, code=2)
            assert "does not fit" in " ".join(refusal.split())
            continue
        _run(*words, *FAST)
        new = tmp_path / "new.csv"
        # Reordered columns, an unseen category, a missing value, a column nobody asked for.
        new.write_text("kind,extra,size\nmauve,1,0.5\nred,2,\n,3,-1e300\n")
        said = _run("predict", str(model), str(new), "--output", str(out))
        assert "note: ignored 1 column that the model was not trained on" in said
        predictions = pl.read_csv(out)
        assert len(predictions) == 3
        if task == "classification":
            assert set(predictions["prediction"]) <= {"y", "n"}
            total = predictions["probability_n"] + predictions["probability_y"]
            np.testing.assert_allclose(total.to_numpy(), 1.0)
        else:
            assert predictions["prediction"].is_finite().all()


def test_train_says_what_it_decided_and_how_good_the_model_is(tmp_path: Path) -> None:
    table = _table(tmp_path / "table.csv")
    model = tmp_path / "model.safetensors"
    words = ("train", str(table), "-t", "label", "--drop", "price", "-o", str(model))
    said = _run(*words, "--epochs", "20", "--members", "1")
    for part in ("150 rows", "task: classification", "--task overrides", "held out 30 rows"):
        assert part in said
    for part in ("log_loss", "test rows", "trivial baseline", "saved"):
        assert part in said
    result = json.loads(_run(*words, "--epochs", "20", "--members", "1", "--json"))
    test, baseline = result["metrics"]["test"], result["metrics"]["baseline"]
    assert test["log_loss"] < baseline["log_loss"]


def test_predict_prints_csv_and_keeps_columns(tmp_path: Path) -> None:
    table = _table(tmp_path / "table.csv")
    model = tmp_path / "model.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), *FAST)
    printed = _run("predict", str(model), str(table), "--keep", "size")
    lines = printed.splitlines()
    assert lines[0] == "size,prediction,probability_n,probability_y"
    assert len(lines) == 151
    bare = _run("predict", str(model), str(table)).splitlines()
    assert bare == [line.split(",", 1)[1] for line in lines]


def test_inspect_shows_the_card(tmp_path: Path) -> None:
    table = _table(tmp_path / "table.csv")
    model = tmp_path / "model.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), *FAST)
    shown = _run("inspect", str(model))
    for part in ("classification", "mlp_dense", "label", "MLP", "price"):
        assert part in shown
    document = json.loads(_run("inspect", str(model), "--json"))
    assert document["settings"]["training_mode"] == "mlp_dense"


def test_evaluate_scores_labelled_rows(tmp_path: Path) -> None:
    table = _table(tmp_path / "table.csv")
    model = tmp_path / "model.safetensors"
    _run("train", str(table), "-t", "price", "-o", str(model), *FAST)
    scores = json.loads(_run("evaluate", str(model), str(table), "--json"))
    assert scores["rows"] == 150
    assert {"rmse", "mae", "r2"} <= set(scores["metrics"])


def test_modes_lists_the_six() -> None:
    listed = _run("modes")
    assert all(mode in listed for mode in TRAINING_MODES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "{table}", "-t", "labell"), "no column 'labell'; its columns are size"),
        (("train", "{table}", "-t", "label", "--drop", "nothing"), "no column 'nothing'"),
        (("train", "{table}", "-t", "label", "--mode", "magic"), "must be one of mlp_dense"),
        (("train", "{table}", "-t", "label", "--task", "rank"), "task must be one of"),
        (("train", "{table}", "-t", "label", "--task", "regression"), "label"),
        (("train", "{table}", "-t", "label", "--test-fraction", "1"), "test fraction must be"),
        (("train", "{table}", "-t", "label", "-o", "/no/such/folder/m"), "create it first"),
        (("train", "missing.csv", "-t", "label"), "missing.csv"),
        (("predict", "{table}", "{table}"), "table.csv"),
        (("inspect", "missing.safetensors"), "missing.safetensors"),
    ],
)
def test_errors_are_one_readable_block(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    table = _table(tmp_path / "table.csv")
    output = _run(*(word.format(table=table) for word in words), code=2)
    flat = " ".join(output.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in output


def test_null_targets_are_refused_unless_dropped(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(_table(table).read_text() + "0.1,red,,3.0\n")
    words = ("train", str(table), "-t", "label", "-o", str(tmp_path / "m"), *FAST[:4])
    refusal = " ".join(_run(*words, code=2).replace("│", " ").split())
    assert "got 1 of 151; give --drop-null-target" in refusal
    assert "left out 1 rows" in _run(*words, "--drop-null-target")


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ai.ml.frameworks.pytorch", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tabwright ")


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "target", "drop", "better"),
    [
        ("raw/Telco-Customer-Churn.csv", "Churn", "customerID", ("log_loss", 0.85)),
        ("raw/titanic_train.csv", "Survived", "PassengerId", ("log_loss", 0.85)),
        ("ames_housing.parquet", "price", "PID", ("rmse", 0.6)),
        ("soybean.parquet", "Class", None, ("log_loss", 0.4)),
    ],
)
def test_real_tables(
    table: str,
    target: str,
    drop: str | None,
    better: tuple[str, float],
    data_dir: Path,
    tmp_path: Path,
) -> None:
    model = tmp_path / "model.safetensors"
    dropped = () if drop is None else ("--drop", drop)
    words = ("train", str(data_dir / table), "-t", target, *dropped, "-o", str(model))
    result = json.loads(_run(*words, "--members", "1", "--epochs", "15", "--json"))
    metric, share = better
    assert result["metrics"]["test"][metric] < share * result["metrics"]["baseline"][metric]
    _run("predict", str(model), str(data_dir / table), "-o", str(tmp_path / "out.parquet"))
