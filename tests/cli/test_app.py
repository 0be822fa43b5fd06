"""The command line, run as a user runs it."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import TabularClassifier
from tabwright.cli.app import app
from tabwright.cli.options import ColumnOptions, DisplayOptions, RoleOptions, RunOptions
from tabwright.settings import TRAINING_MODES, modes_for
from tests.golden.rows import FOLDER
from tests.packages import FOLDER as PACKAGE_FOLDER

runner = CliRunner()
FITTING_COMMANDS = ("train", "compare", "distill", "tune")
FAST = ("--epochs", "2", "--members", "1", "--width", "8", "--quiet")


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
        words = ("train", str(table), *named, "--output", str(model), "--overwrite")
        if mode not in modes_for(task):  # type: ignore[arg-type]
            refusal = _run(*words, "--task", task, *FAST, code=2)
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
    for part in ("classification", "mlp_dense", "label", "MLP", "price", "limits", "no cause"):
        assert part in shown
    document = json.loads(_run("inspect", str(model), "--json"))
    assert document["settings"]["training_mode"] == "mlp_dense"
    assert any("knows no class" in line for line in document["limits"])


def test_inspect_names_columns_made_of_two() -> None:
    model = str(FOLDER / "0.2.0" / "regression-sums.safetensors")
    assert re.search(r"interactions +.*east \+ north", _run("inspect", model))
    model = str(FOLDER / "0.3.0" / "regression-pairs.safetensors")
    assert re.search(r"interactions +.*east . north", _run("inspect", model))
    plain = str(FOLDER / "0.1.0" / "regression-values.safetensors")
    assert "interactions" not in _run("inspect", plain)


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
    ("words", "message", "code"),
    [
        (("train", "{table}", "-t", "labell"), "no column 'labell'; did you mean 'label'?", 3),
        (
            ("train", "{table}", "-t", "label", "--drop", "nothing"),
            "no column 'nothing', given as --drop;",
            3,
        ),
        (("train", "{table}", "-t", "label", "--drop", "label"), "leave it out of --drop", 2),
        (("train", "{table}", "-t", "label", "--mode", "magic"), "must be one of mlp_dense", 2),
        (("train", "{table}", "-t", "label", "--task", "rank"), "task must be one of", 2),
        (("train", "{table}", "-t", "label", "--task", "regression"), "label", 3),
        (("train", "{table}", "-t", "label", "--test-fraction", "1"), "--test-fraction must be", 2),
        (("train", "{table}", "-t", "label", "--dropout", "2"), "dropout must be in [0, 1)", 2),
        (("train", "{table}", "-t", "label", "--threads", "0"), "threads must be at least 1", 2),
        (("train", "{table}", "-t", "label", "--weight", "kind"), "must be numbers of", 3),
        (("train", "{table}", "-t", "label", "--weight", "label"), "as target and as weight", 2),
        (("train", "{table}", "-t", "label", "--time", "size", "--group", "kind"), "not both", 2),
        (("train", "{table}", "-t", "label", "--time", "kind"), "must hold dates", 3),
        (("train", "{table}", "-t", "label", "--prior", "balanced"), "is for the mode", 2),
        (("train", "{table}", "-t", "label", "--positive", "y"), "is for --decision", 2),
        (("train", "{table}", "-t", "label", "--teacher", "catboost"), "is for the mode", 2),
        (
            (
                *("train", "{table}", "-t", "label", "-m", "tree_teacher_distillation"),
                *("--teacher", "oak"),
            ),
            "--teacher must be of hist_gradient_boosting, ",
            2,
        ),
        (("train", "{table}", "-t", "label", "--decision", "recal=1"), "--decision must be f1", 2),
        (
            ("train", "{table}", "-t", "label", "--decision", "recall=2"),
            "--decision recall must be in (0, 1]; got 2",
            2,
        ),
        (("train", "{table}", "-t", "price", "--decision", "f1"), "for classification", 2),
        (("train", "{table}", "-t", "label", "-o", "/no/such/folder/m"), "create it first", 4),
        (("train", "{table}", "-t", "label", "-o", "{table}"), "must not replace the table", 2),
        (("train", "missing.csv", "-t", "label"), "missing.csv", 4),
        (("predict", "{table}", "{table}"), "must be a model that `train` saved; got a table", 2),
        (("predict", "no.safetensors", "{table}", "-o", "out.xlsx"), "not written as Excel", 3),
        (("predict", "no.safetensors", "{table}", "-o", "{table}"), "must not replace an input", 2),
        (("predict", "no.safetensors", "{table}", "-o", "/no/where/o.csv"), "create it first", 4),
        (
            ("predict", "no.safetensors", "{table}", "-o", "o.parquet", "--escape-formulas"),
            "--escape-formulas is for CSV and TSV",
            2,
        ),
        (("inspect", "missing.safetensors"), "missing.safetensors", 4),
        (("export", "no.safetensors", "/no/where/o.onnx"), "create it first", 4),
    ],
)
def test_errors_are_one_readable_block_before_any_training(
    words: tuple[str, ...], message: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("tabwright.workflows.train.fit_table", never)
    monkeypatch.chdir(tmp_path)
    table = _table(tmp_path / "table.csv")
    before = table.read_bytes()
    output = _run(*(word.format(table=table) for word in words), code=code)
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]
    assert table.read_bytes() == before


def test_null_targets_are_refused_unless_dropped(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(_table(table).read_text() + "0.1,red,,3.0\n")
    words = ("train", str(table), "-t", "label", "-o", str(tmp_path / "m"), *FAST[:4])
    refusal = " ".join(_run(*words, code=3).split())
    assert "got 1 of 151; give --drop-null-target" in refusal
    assert "left out 1 rows" in _run(*words, "--drop-null-target")


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tabwright", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("tabwright ")


def test_a_table_past_the_memory_budget_comes_from_disk_and_train_says_so(tmp_path: Path) -> None:
    table = str(_table(tmp_path / "table.csv", n_rows=300))
    few = ("--drop", "price", "--epochs", "1", "--members", "1", "--width", "8")
    for budget, expected in (("10kB", True), ("1GB", False)):
        output = str(tmp_path / "model.safetensors")
        said = _run("train", table, "-t", "label", *few, "--memory", budget, "-o", output)
        words = " ".join(said.split())
        assert ("more than the budget (10.0 kB): rows come from disk" in words) == expected


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


def _imbalanced(path: Path, n_rows: int = 400) -> Path:
    generator = np.random.default_rng(1)
    size = generator.normal(size=n_rows)
    label = np.where(size + generator.normal(size=n_rows) > 1.6, "yes", "no")
    pl.DataFrame(
        {"id": [f"{i:05d}" for i in range(n_rows)], "size": size, "label": label}
    ).write_csv(path)
    return path


@pytest.mark.parametrize("rule", ["recall=0.9", "costs={costs}"])
def test_decisions_are_stored_shown_and_followed(rule: str, tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    costs = tmp_path / "costs.csv"
    costs.write_text("true,yes,no\nyes,0,20\nno,1,0\n")
    words = ("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST[:4])
    result = json.loads(_run(*words, "--decision", rule.format(costs=costs), "--json"))
    assert any(message.startswith("decision: ") for message in result["messages"])
    (said,) = (m for m in result["messages"] if m.startswith("decision on the test rows: "))
    assert ("mean cost" if "costs" in rule else "recall") in said
    out = pl.read_csv(io.StringIO(_run("predict", str(model), str(table))))
    probability = out["probability_yes"].to_numpy()
    if "costs" in rule:
        assert result["decision"] == "the class of lowest expected cost"
        threshold = 1 / 21
    else:
        document = json.loads(_run("inspect", str(model), "--json"))
        threshold = document["decision"]["threshold"]
        assert result["decision"] == f"yes where its probability is at least {threshold:.4g}"
    assert result["decision"] in " ".join(_run("inspect", str(model)).split())
    clear = abs(probability - threshold) > 1e-9
    expected = np.where(probability >= threshold, "yes", "no")
    assert (out["prediction"].to_numpy() == expected)[clear].all()
    assert (expected == "yes").sum() > (probability > 0.5).sum()
    scores = json.loads(_run("evaluate", str(model), str(table), "--json"))["metrics"]
    truth = pl.read_csv(table)["label"].to_numpy()
    assert scores["accuracy"] == pytest.approx((out["prediction"].to_numpy() == truth).mean())


def test_a_precision_out_of_reach_is_said_and_the_model_saved(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    # Three kinds of rows with both labels in each: no threshold parts them.
    noise = {"x": generator.integers(0, 3, 300), "y": generator.integers(0, 2, 300)}
    pl.DataFrame(noise).write_csv(table)
    words = ("train", str(table), "-t", "y", "-o", str(model), "--decision", "precision=1")
    said = " ".join(_run(*words, *FAST[:6]).split())
    assert "note: the decision rule keeps the most probable class: no threshold reaches" in said
    assert model.exists()


def test_scores_are_of_the_label_asked_for_whatever_the_rule_is(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    x = generator.integers(0, 3, 300)
    y = np.where(generator.random(300) < 0.4 + 0.1 * x, 1, 0)
    pl.DataFrame({"x": x, "y": y}).write_csv(table)
    words = ("train", str(table), "-t", "y", "-o", str(model), "--positive", "0")
    # No threshold has this precision, so that the most probable class is kept.
    said = " ".join(_run(*words, "--decision", "precision=1", *FAST[:6]).split())
    assert "keeps the most probable class" in said
    assert "positive: 0; labels: the most probable class" in said
    predicted = pl.read_csv(io.StringIO(_run("predict", str(model), str(table))))["prediction"]
    scores = json.loads(_run("evaluate", str(model), str(table), "--json"))["metrics"]
    hit = ((predicted.to_numpy() == 0) & (y == 0)).sum()
    assert scores["recall"] == pytest.approx(hit / (y == 0).sum())
    assert scores["recall"] != pytest.approx(((predicted.to_numpy() == 1) & (y == 1)).mean())


def test_kept_columns_stay_as_written_and_formulas_are_escaped(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    new = tmp_path / "new.csv"
    new.write_text('id,size,note\n007,0.5,=1+1\nNA,1.50,"a,b"\n,-1,@x\n')
    out = tmp_path / "out.csv"
    keep = ("--keep", "id", "--keep", "note")
    _run("predict", str(model), str(new), *keep, "-o", str(out))
    lines = [line.rsplit(",", 3)[0] for line in out.read_text().splitlines()]
    assert lines[1:] == ["007,=1+1", 'NA,"a,b"', ",@x"]
    _run("predict", str(model), str(new), *keep, "-o", str(out), "--escape-formulas")
    lines = [line.rsplit(",", 3)[0] for line in out.read_text().splitlines()]
    assert lines[1:] == ["007,'=1+1", 'NA,"a,b"', ",'@x"]
    for words, message in (
        (("--keep", "nothing"), "no column 'nothing'; its columns are id, size, note"),
        (("--keep", "id", "--keep", "id"), "kept once; got 'id' twice"),
    ):
        code = 3 if "nothing" in words else 2
        refusal = _run("predict", str(model), str(new), *words, code=code)
        assert message in " ".join(refusal.split())
    assert out.read_text().splitlines()[1].startswith("007,'=1+1")


def test_a_column_dropped_in_training_is_no_surprise_later(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    assert "note" not in _run("predict", str(model), str(table), "-o", str(tmp_path / "o.csv"))


def test_predictions_as_json(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), *FAST)
    lines = _run("predict", str(model), str(table), "--json", "--keep", "id").splitlines()
    assert len(lines) == 400
    assert set(json.loads(lines[0])) == {"id", "prediction", "probability_no", "probability_yes"}
    out = tmp_path / "out.parquet"
    summary = json.loads(_run("predict", str(model), str(table), "-o", str(out), "--json"))
    assert summary["rows"] == len(pl.read_parquet(out)) == 400


def test_an_error_in_a_pipe_is_titled_error(tmp_path: Path) -> None:
    result = runner.invoke(app, ["predict", str(tmp_path / "none.safetensors"), "none.csv"])
    assert result.exit_code == 4
    assert result.stderr.startswith("error: ")


def test_errors_for_machines(tmp_path: Path) -> None:
    result = runner.invoke(app, ["train", str(tmp_path / "no.csv"), "-t", "x", "--json"])
    error = json.loads(result.stderr)
    assert result.exit_code == error["exit_code"] == 4
    assert "no.csv" in error["error"]
    assert not result.stdout


def test_evaluate_leaves_out_rows_and_weighs_them(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    _run("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    rows = pl.read_csv(table, schema_overrides={"id": pl.String})
    weighed = rows.with_columns(w=pl.Series([2.0, 0.0] * 200))
    holes = weighed.with_columns(
        label=pl.when(pl.int_range(400) % 4 == 3).then(None).otherwise(pl.col("label"))
    )
    holes.write_csv(tmp_path / "holes.csv")
    rows[::2].write_csv(tmp_path / "half.csv")
    words = ("evaluate", str(model), str(tmp_path / "holes.csv"), "--weight", "w", "--json")
    refusal = " ".join(_run(*words, code=3).split())
    assert "100 have no 'label'; give --drop-null-target" in refusal
    weighted = json.loads(_run(*words, "--drop-null-target", "--intervals"))
    half = json.loads(_run("evaluate", str(model), str(tmp_path / "half.csv"), "--json"))
    assert weighted["rows"] == 300
    assert weighted["rows_without_target"] == 100
    assert weighted["metrics"]["log_loss"] == pytest.approx(half["metrics"]["log_loss"])
    low, high = weighted["intervals"]["log_loss"]
    assert low < weighted["metrics"]["log_loss"] < high


def test_scores_by_class_weights_stand_beside_the_others(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    rows = pl.read_csv(table).drop("id")
    rows.write_csv(table)
    estimator = TabularClassifier(class_weight={"yes": 3.0}, max_epochs=4, random_state=0)
    estimator.fit(rows.select("size"), rows["label"]).save(model)
    assert "by class weights" in _run("inspect", str(model))
    assert "by class weights" in _run("evaluate", str(model), str(table), "-t", "label")
    scores = json.loads(_run("evaluate", str(model), str(table), "-t", "label", "--json"))
    weights = pl.when(pl.col("label") == "yes").then(3.0).otherwise(1.0)
    rows.with_columns(w=weights).write_csv(tmp_path / "weighed.csv")
    words = ("evaluate", str(model), str(tmp_path / "weighed.csv"), "-t", "label")
    weighed = _run(*words, "--weight", "w", "--json")
    expected = json.loads(weighed)["metrics"]
    assert scores["class_weighted_metrics"] == pytest.approx(expected)
    assert scores["metrics"] != pytest.approx(expected)


def test_time_orders_the_rows_by_date(tmp_path: Path) -> None:
    days = pl.date_range(pl.date(2023, 1, 1), pl.date(2023, 7, 19), eager=True).alias("day")
    generator = np.random.default_rng(0)
    table = pl.DataFrame({"day": days, "x": generator.normal(size=len(days))}).with_columns(
        # The label changes on the last days: only a split by time puts them all in the test rows.
        label=pl.when(pl.int_range(len(days)) >= len(days) - 40)
        .then(pl.lit("late"))
        .otherwise(pl.when(pl.col("x") > 0).then(pl.lit("late")).otherwise(pl.lit("early"))),
        # Text whose order is not that of time.
        written=days.dt.strftime("%d.%m.%Y"),
    )
    path, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    table.sample(fraction=1.0, shuffle=True, seed=1).write_csv(path)
    words = ("train", str(path), "-t", "label", "--drop", "written", "-o", str(model))
    result = json.loads(_run(*words, "--time", "day", *FAST[:6], "--json"))
    assert "held out 40 rows for the scores, the latest by 'day'" in result["messages"]
    # 40 of 40 test rows are "late": nothing is left to rank.
    assert "auc" not in result["metrics"]["test"]
    assert "auc" in json.loads(_run(*words, *FAST[:6], "--json"))["metrics"]["test"]


def test_groups_weights_and_settings_reach_the_fit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    size = generator.normal(size=200)
    frame = pl.DataFrame(
        {
            "size": size,
            "who": [f"g{i // 10}" for i in range(200)],
            "w": [0.0 if i < 20 else 1.0 + i % 2 for i in range(200)],
            "label": np.where(size > 0, "y", "n"),
        }
    )
    path, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    frame.write_csv(path)
    said = _run(
        *("train", str(path), "-t", "label", "-o", str(model), "--group", "who", "--weight", "w"),
        *("--epochs", "3", "--members", "2", "--width", "8", "--depth", "2", "--dropout", "0.3"),
        *("--learning-rate", "0.01", "--weight-decay", "0", "--batch-size", "32", "--seed", "5"),
        *("--patience", "0", "--validation-fraction", "0.3", "--numeric-encoding", "standard"),
        *("--calibration", "none", "--threads", "1", "--device", "cpu", "--test-fraction", "0.25"),
        *("--precision", "bfloat16"),
    )
    flat = " ".join(said.split())
    assert "left out 20 rows of weight 0" in flat
    assert "18 groups by 'who', none on two sides of a split" in flat
    settings = json.loads(_run("inspect", str(model), "--json"))["settings"]
    wanted = {
        "max_epochs": 3,
        "n_members": 2,
        "hidden_dim": 8,
        "num_hidden_layers": 2,
        "dropout": 0.3,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "batch_size": 32,
        "random_state": 5,
        "patience": None,
        "validation_fraction": 0.3,
        "numeric_encoding": "standard",
        "calibration": None,
        "device": "cpu",
        "precision": "bfloat16",
    }
    assert {name: settings[name] for name in wanted} == wanted
    card = json.loads(_run("inspect", str(model), "--json"))["card"]
    assert [column["name"] for column in card["columns"]] == ["size"]
    assert card["columns_not_used"] == ["who", "w"]


def test_the_teachers_asked_for_teach(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv", 120), tmp_path / "m.safetensors"
    named = ("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    words = (*named, "-m", "tree_teacher_distillation")
    _run(*words, "--teacher", "random_forest", "--teacher", "extra_trees", "--threads", "1")
    card = json.dumps(json.loads(_run("inspect", str(model), "--json"))["card"])
    assert "random_forest" in card
    assert "extra_trees" in card


def test_a_prior_by_label(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    named = ("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    words = (*named, "--mode", "imbalance_aware", "--prior")
    means = []
    for prior in ("training", "balanced", "no=0.1,yes=0.9"):
        _run(*words, prior)
        out = pl.read_csv(io.StringIO(_run("predict", str(model), str(table))))
        means.append(float(out["probability_yes"].to_numpy().mean()))
    assert means == sorted(means)
    refusal = " ".join(_run(*words, "no=0.1", code=2).split())
    assert "got {'no': 0.1}; the labels are no, yes" in refusal
    refusal = " ".join(_run(*words, "no=half,yes=0.5", code=2).split())
    assert "--prior must be training, balanced, or a share for each label" in refusal


def test_the_json_of_train_names_the_columns_that_are_set_aside(tmp_path: Path) -> None:
    table = _table(tmp_path / "t.csv")
    pl.read_csv(table).with_columns(
        empty=pl.lit(None, dtype=pl.String), row=pl.int_range(150)
    ).write_csv(table)
    model = str(tmp_path / "m.safetensors")
    fast = [word for word in FAST if word != "--quiet"]
    words = ("train", str(table), "-t", "label", "--drop", "price", *fast, "-o", model)
    said = json.loads(_run(*words, "--json"))
    assert said["set_aside"] == {
        "empty": "set aside: every cell is missing",
        "row": "set aside: consecutive integers, one per row",
    }
    assert "empty: set aside: every cell is missing" in _run(*words, "--overwrite")


def test_help_fits_a_screen_and_has_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands]
    for words in ([], *([name] for name in names)):
        shown = _run(*words, "--help").splitlines()
        assert len(shown) <= 24, words
        assert max(map(len, shown)) <= 80, words
        if words and words != ["modes"]:
            assert shown[-1].startswith("  Example: tabwright"), words
    assert "..." not in _run("--help").replace("ARGS]...", "")
    everything = _run("train", "--help-all")
    assert "--learning-rate" in everything
    assert "--learning-rate" not in _run("train", "--help")


def test_options_of_the_commands_that_fit_are_declared_once() -> None:
    cli = PACKAGE_FOLDER / "cli"
    places = [cli / "options.py", *(cli / f"commands/{own}.py" for own in FITTING_COMMANDS)]
    helps = Counter(
        ast.unparse(keyword.value)
        for place in places
        for node in ast.walk(ast.parse(place.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option"
        for keyword in node.keywords
        if keyword.arg == "help"
    )
    assert len(helps) > 50
    assert [text for text, count in helps.items() if count > 1] == []


@pytest.mark.parametrize("command", FITTING_COMMANDS)
def test_commands_that_fit_have_the_options_of_all_groups(command: str) -> None:
    shown = _run(command, "--help-all")
    for group in (ColumnOptions, DisplayOptions, RoleOptions, RunOptions):
        names = {field.name for field in fields(group)} - {"as_json"}
        lacking = [own for own in names if f"--{own.replace('_', '-')}" not in shown]
        assert lacking == []


def test_a_reader_that_leaves_early_is_no_fault(tmp_path: Path) -> None:
    table, model = _imbalanced(tmp_path / "t.csv", 20_000), tmp_path / "m.safetensors"
    words = ("train", str(table), "-t", "label", "-o", str(model), "--drop", "id", *FAST)
    _run(*words)
    command = f"{sys.executable} -m tabwright predict {model} {table} | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == "prediction,probability_no,probability_yes\n"


def test_a_model_that_learned_nothing_is_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    columns = {"a": draw.normal(size=150), "y": draw.choice(["no", "yes"], 150)}
    words = ("-t", "y", "--epochs", "3", "--quality", "fast", "--learning-rate", "0.05")
    no_better = "no better than the trivial baseline, which gives all rows one answer (log_loss"
    for name, is_noise in (("noise", True), ("rule", False)):
        if not is_noise:
            columns["y"] = np.where(columns["a"] > 0, "yes", "no")
        pl.DataFrame(columns).write_csv(tmp_path / f"{name}.csv")
        model = tmp_path / f"{name}.safetensors"
        printed = _run("train", str(tmp_path / f"{name}.csv"), *words, "-o", str(model))
        for text in (printed, _run("inspect", str(model))):
            assert (no_better in " ".join(text.split())) == is_noise


def test_layers_asked_of_a_mode_without_are_named(tmp_path: Path) -> None:
    table, model = _table(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    words = ("train", str(table), "-t", "label", "--epochs", "2", "-o", str(model), "--overwrite")
    asked = ("--members", "1", "--width", "8", "--dropout", "0.5")
    aside = "linear_glm_baseline has no hidden layers: it leaves aside the width and dropout"
    for mode in ("linear_glm_baseline", "mlp_dense"):
        for rows in ((), ("--memory", "100MB")):
            printed = " ".join(_run(*words, *asked, "--mode", mode, *rows).split())
            assert (aside in printed) == (mode == "linear_glm_baseline")


def test_the_help_of_commands_names_no_types_of_python() -> None:
    for command in ("train", "predict", "explain", "distill", "serve", "tune", "export", "inspect"):
        text = _run(command, "--help")
        assert not re.search(r"<(str|path|int|list)|\{[A-Z]", text), text
    assert " predict [OPTIONS] MODEL TABLE\n" in _run("predict", "--help")
    assert " serve [OPTIONS] MODEL...\n" in _run("serve", "--help")


def test_a_model_is_saved_though_the_reader_of_the_messages_leaves(tmp_path: Path) -> None:
    table, model = _table(tmp_path / "t.csv"), tmp_path / "m.safetensors"
    words = f"train {table} -t label --mode linear_glm_baseline --epochs 1 -o {model}"
    command = f"{sys.executable} -m tabwright {words} | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("read ")
    assert model.is_file()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("comp", {"compare"}),
        ("train --learn", {"--learning-rate"}),
        ("train --mode t", {"tabresnet", "tree_teacher_distillation"}),
        ("train --calibration n", {"none"}),
        ("train --numeric-encoding q", {"quantile_normal", "quantile_ple"}),
        ("train --task c", {"classification"}),
        ("train --teacher l", {"lightgbm"}),
        ("train --decision c", {"costs="}),
        ("compare --metric lo", {"log_loss"}),
    ],
)
def test_shells_complete_commands_options_and_values(
    typed: str, offered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"tabwright {typed}"
    completion = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_TABWRIGHT_COMPLETE": "complete_bash",
    }
    shown = runner.invoke(app, [], prog_name="tabwright", env=completion).output
    assert set(shown.split()) == offered


def test_a_pipe_gets_nothing_on_the_error_stream(tmp_path: Path) -> None:
    words = [str(_table(tmp_path / "table.csv")), "-t", "label", "-o", str(tmp_path / "m")]
    result = runner.invoke(app, ["train", *words, "--drop", "price", *FAST[:-1]])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "saved" in result.stdout


@pytest.mark.parametrize(("given", "wanted"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_are_done_do_not_spin_unless_asked(
    given: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    _run("modes")
    assert os.environ["OMP_WAIT_POLICY"] == wanted
