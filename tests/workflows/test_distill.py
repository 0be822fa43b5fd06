"""`tabwright distill`: the command beside `distill`, its words and its refusals."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import polars as pl
import pytest
from sklearn.tree import DecisionTreeClassifier
from typer.testing import CliRunner

from tabwright import TabularClassifier
from tabwright.cli.app import app
from tabwright.inference.fitted_model import load_fitted
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest
from tabwright.workflows.distill import run_distillation
from tabwright.workflows.requests.distill import DistillRequest
from tests.distillation.test_teachers import mixed_codes, mixed_table

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table, a further one without a target, and a teacher."""
    folder = tmp_path_factory.mktemp("distill")
    frame = mixed_table(160)
    labelled = frame.with_columns(kind=pl.Series(["abc"[k] for k in mixed_codes(frame)]))
    labelled.write_parquet(folder / "table.parquet")
    mixed_table(30, seed=3).write_parquet(folder / "more.parquet")
    teacher = TabularClassifier(
        hidden_dim=40, num_hidden_layers=2, n_members=2, max_epochs=3, random_state=0, device="cpu"
    )
    teacher.fit(frame, labelled["kind"]).save(folder / "teacher.safetensors")
    return folder


def words(folder: Path, *more: str, teacher: str | None = None) -> list[str]:
    return [
        "distill",
        teacher or str(folder / "teacher.safetensors"),
        str(folder / "table.parquet"),
        "--target",
        "kind",
        "--epochs",
        "2",
        *more,
    ]


def test_command_teaches_compares_and_saves(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    more = str(folder / "more.parquet")
    done = runner.invoke(app, words(folder, "-o", str(out), "--unlabelled", more, "--sweep", "4,8"))
    assert done.exit_code == 0, done.output
    for said in ("without teacher", "Distillation", "(kept)", f"saved {out}"):
        assert said in done.output
    assert "task: classification, that of the teacher" in done.output
    assert "us, encoded row  us, raw row" in done.output
    student = load_fitted(out)
    assert student.settings.training_mode == "tree_teacher_distillation"
    assert student.card["distillation"]["n_unlabelled_rows"] == 30
    assert [point["hidden_dim"] for point in student.card["fidelity"]["sweep"]] == [4, 8, 20]
    assert student.card["fidelity"]["rows"] == "held-out"
    assert "test" in student.metrics


def test_json_and_budget(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    done = runner.invoke(
        app, words(folder, "-o", str(out), "--max-parameters", "900", "--json", "--quiet")
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)["report"]
    assert 0 < report["student"]["n_parameters"] <= 900
    assert report["student"]["n_parameters"] == report["direct"]["n_parameters"]


def test_kind_teaches_and_seed_decides(folder: Path, tmp_path: Path) -> None:
    request = DistillRequest(
        teacher="extra_trees",
        table=TableRequest(str(folder / "table.parquet"), ColumnUses("kind")),
        settings={"max_epochs": 1, "hidden_dim": 8, "augmentation": None},
    )
    losses = []
    for name in ("one", "two"):
        result = run_distillation(DistillRequest(**{**vars(request), "output": tmp_path / name}))
        losses.append(result.report.student.loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("teacher", "more", "said"),
    [
        ("catbost", [], "a teacher must be one of hist_gradient_boosting"),
        (None, ["--sweep", "8,x"], "--sweep must be widths with commas"),
        (None, ["--task", "regression"], "the teacher is a model for classification"),
        (None, ["--max-parameters", "-1"], "--max-parameters must be a number above 0"),
        (None, ["--test-fraction", "1.5"], "--test-fraction must be in [0, 1)"),
    ],
)
def test_what_is_refused(
    folder: Path, tmp_path: Path, teacher: str | None, more: list[str], said: str
) -> None:
    out = tmp_path / "student.safetensors"
    done = runner.invoke(app, words(folder, "-o", str(out), *more, teacher=teacher))
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not out.exists()


def test_pickles_are_never_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.joblib"
    path.write_bytes(pickle.dumps(DecisionTreeClassifier()))
    done = runner.invoke(app, words(folder, teacher=str(path)))
    assert done.exit_code == 3  # bad data, as everywhere
    assert "never opens" in " ".join(done.output.split())


def test_student_does_not_replace_its_teacher(folder: Path) -> None:
    teacher = folder / "teacher.safetensors"
    before = teacher.read_bytes()
    done = runner.invoke(app, words(folder, "-o", str(teacher)))
    assert done.exit_code == 2
    assert "must not replace table or teacher" in " ".join(done.output.split())
    assert teacher.read_bytes() == before


def test_mode_of_train_is_judged_on_the_test_rows(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    done = runner.invoke(
        app,
        [
            "train",
            str(folder / "table.parquet"),
            "--target",
            "kind",
            "--mode",
            "tree_teacher_distillation",
            "--teacher",
            "extra_trees",
            "--epochs",
            "1",
            "-o",
            str(out),
        ],
    )
    assert done.exit_code == 0, done.output
    report = load_fitted(out).card["fidelity"]
    assert (report["rows"], report["n_rows"]) == ("held-out", 32)
    assert "Distillation" in done.output
