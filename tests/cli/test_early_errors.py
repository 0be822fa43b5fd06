"""Mistakes are told before anything slow is loaded, each run in one fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.golden.rows import FOLDER
from tests.packages import ROOT

RUN = """
import json, sys
from typer.testing import CliRunner
from tabwright.cli.app import app
slow = ("torch", "sklearn", "scipy", "pandas", "matplotlib", "onnx", "catboost", "lightgbm")
seen = []
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words)
    loaded = [name for name in slow if name in sys.modules]
    seen.append((done.exit_code, " ".join(done.output.split()), loaded))
sys.stdout.write(json.dumps(seen))
"""
TRAIN = ["train", "rows.csv", "-t", "label"]
COMPARE = ["compare", "rows.csv", "-t", "label"]
TUNE = ["tune", "rows.csv", "-t", "label"]
DISTILL = ["distill", "hist_gradient_boosting", "rows.csv", "-t", "label"]
# A command, its exit code, and what it says.
MISTAKES: list[tuple[list[str], int, str]] = [
    ([*TRAIN, "--epochs", "0"], 2, "--epochs must be an integer of at least 1; got 0"),
    ([*TRAIN, "--members", "0"], 2, "--members must be an integer from 1 to 1024; got 0"),
    ([*TRAIN, "--depth", "-2"], 2, "--depth must be an integer of at least 1; got -2"),
    ([*TRAIN, "--checkpoint-seconds", "-1"], 2, "--checkpoint-seconds must be at least 0"),
    ([*TRAIN, "--mode", "mlp"], 2, "got 'mlp'; did you mean 'mlp_dense'?"),
    (
        [*TRAIN, "--quality", "good"],
        2,
        "--quality must be 'fast', 'balanced' or 'best'; got 'good'",
    ),
    ([*TRAIN, "-o", "other.safetensors"], 2, "must not replace one of another target"),
    ([*TRAIN, "-o", "table.safetensors"], 2, "must not replace one of another table"),
    ([*TRAIN, "-o", "model.pkl"], 2, ".safetensors"),
    ([*TRAIN, "-o", "nowhere/m.safetensors"], 4, "create it first"),
    ([*TRAIN, "--report", "rows.csv"], 2, "the report must not replace the table"),
    ([*TRAIN, "--report", "notes.html"], 2, "must not replace a file that is no report"),
    ([*TRAIN, "--report", "nowhere/r.html"], 4, "create it first"),
    ([*TRAIN, "--test-fraction", "1"], 2, "--test-fraction must be in [0, 1)"),
    ([*TRAIN, "--time-limit", "soon"], 2, "--time-limit must be"),
    (
        [*TRAIN, "--memory", "much"],
        2,
        "--memory must be an amount such as 2GB, 500MB or 1.5GiB; got 'much'",
    ),
    ([*TRAIN, "--decision", "recal=1"], 2, "--decision must be f1"),
    ([*TRAIN, "--decision", "recall=2"], 2, "the share of --decision recall must be in (0, 1]"),
    ([*TRAIN, "--decision", "precision=x"], 2, "--decision must be f1"),
    ([*TRAIN, "--encoding", "x"], 2, "--encoding must be one that Python knows"),
    ([*TRAIN, "--delimiter", "::"], 2, "--delimiter must be one ASCII character; got '::'"),
    ([*TRAIN, "--teacher", "catboost"], 2, "--teacher is for the mode"),
    ([*TRAIN, "--drop", "sise"], 3, "did you mean 'size'?"),
    (["train", "rows.csv", "-t", "lable"], 3, "no column 'lable'; did you mean 'label'?"),
    (["train", "row.csv", "-t", "label"], 4, "did you mean 'rows.csv'?"),
    ([*COMPARE, "--mode", "mlp"], 2, "did you mean 'mlp_dense'?"),
    ([*COMPARE, "--epochs", "0"], 2, "--epochs must be"),
    ([*COMPARE, "--folds", "1"], 2, "--folds must be at least 2; got 1"),
    ([*COMPARE, "--save", "other.safetensors"], 2, "must not replace one of another target"),
    ([*COMPARE, "--save", "nowhere/m.safetensors"], 4, "create it first"),
    ([*TUNE, "--epochs", "0"], 2, "--epochs must be"),
    ([*TUNE, "--trials", "0"], 2, "--trials must be at least 1"),
    ([*TUNE, "-o", "other.safetensors"], 2, "must not replace one of another target"),
    ([*TUNE, "--picture", "picture.txt"], 2, "picture"),
    ([*DISTILL, "--epochs", "0"], 2, "--epochs must be"),
    ([*DISTILL, "--test-fraction", "2"], 2, "--test-fraction must be in [0, 1)"),
    ([*DISTILL, "--max-parameters", "0"], 2, "--max-parameters must be a number above 0"),
    ([*DISTILL, "-o", "other.safetensors"], 2, "must not replace one of another target"),
    (["distill", "rows.csv", "catboost", "-t", "label"], 2, "must be a teacher, a model file or a"),
    ([*TRAIN, "--epochs", "many"], 2, "--epochs must be an integer; got 'many'"),
    ([*TRAIN, "--learning-rate", "x"], 2, "--learning-rate must be a number; got 'x'"),
    ([*TRAIN, "--hidden", "8"], 2, "Possible options: --width"),
    ([*TRAIN, "--report", "report.docx"], 2, "--report must be named .html"),
    ([*TRAIN, "--save-config", "run.json"], 2, "name it run.toml"),
    ([*TRAIN, "--config", "run.toml"], 2, "--config: there is no file run.toml; looked in"),
    (["predict", "other.safetensors", "rows.csv", "--digits", "18"], 2, "must be at most 17; got"),
    (["train", "mixed", "-t", "label"], 3, "give one of them, or a pattern of files that have"),
    (["inspect", "othr.safetensors"], 4, "did you mean 'other.safetensors'?"),
    (["help"], 2, "give `tabwright --help`"),
    (["distill", "oak", "rows.csv", "-t", "label"], 2, "a teacher must be one of"),
    (["export", "other.safetensors", "x.pmml"], 2, ".onnx"),
    (["export", "other.safetensors", "nowhere/x.onnx"], 4, "create it first"),
    (["predict", "other.safetensors", "row.csv"], 4, "row.csv"),
    (["predict", "other.safetensors", "rows.csv", "-o", "nowhere/o.csv"], 4, "create it first"),
    (
        ["predict", "other.safetensors", "rows.csv", "-o", "rows.csv"],
        2,
        "must not replace an input",
    ),
    (["export", "other.safetensors", "other.safetensors"], 2, "must be named .onnx"),
    (["evaluate", "other.safetensors", "row.csv"], 4, "row.csv"),
    (["evaluate", "other.safetensor", "rows.csv"], 4, "other.safetensor"),
    (["importance", "other.safetensors", "row.csv"], 4, "row.csv"),
    (["explain", "other.safetensors", "row.csv"], 4, "row.csv"),
    (["explain", "other.safetensors", "rows.csv", "--picture", "p.txt"], 2, "p.txt"),
]


def _model(path: Path, **card: str) -> None:
    """A golden model that says that it is of another table or target."""
    from tabwright.inference.fitted_model import load_fitted

    model = load_fitted(FOLDER / "0.2.0" / "regression-sums.safetensors")
    model.card.update(card)  # type: ignore[attr-defined]
    model.save(path)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str, list[str]]]:
    """Exit code, words, and slow packages loaded, of each mistake."""
    folder = tmp_path_factory.mktemp("mistakes")
    pl.DataFrame({"size": [1.5, 2.5] * 20, "label": ["n", "y"] * 20}).write_csv(folder / "rows.csv")
    (folder / "notes.html").write_text("<p>mine</p>")
    (folder / "mixed").mkdir()
    for name in ("size", "height"):
        pl.DataFrame({name: [1.5], "label": ["n"]}).write_csv(folder / "mixed" / f"{name}.csv")
    _model(folder / "other.safetensors", target="price", table="rows")
    _model(folder / "table.safetensors", target="label", table="houses")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        input=json.dumps([words for words, _, _ in MISTAKES]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[tuple[int, str, list[str]]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_told_before_anything_slow_is_loaded(
    number: int, answers: list[tuple[int, str, list[str]]]
) -> None:
    _, code, said = MISTAKES[number]
    assert said in answers[number][1]
    assert answers[number][0] == code
    assert answers[number][2] == []
