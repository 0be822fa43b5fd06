"""The command `tune`: what it writes, shows and refuses."""

from __future__ import annotations

import inspect
import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright import load_fitted
from tabwright.cli.app import app
from tabwright.cli.commands.tune import tune
from tabwright.training.time_limit import seconds_of
from tabwright.tuning import request, run
from tabwright.tuning.request import TuneOptions, TuneRequest

pytest.importorskip("optuna", reason="optuna is not installed")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    size = generator.normal(size=160)
    label = np.where(size + generator.normal(size=160) > 0.0, "yes", "no")
    pl.DataFrame({"size": size, "y": label}).write_csv("t.csv")
    words = ["tune", "t.csv", "-t", "y", "--trials", "2", "--folds", "2", "--members", "1"]
    words += ["--epochs", "2", "--study", "s.db"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "differs from the default in" in done.output
    assert "the model is" in done.output
    assert "saved t-tuned.safetensors and t-tuned.png" in done.output
    model = load_fitted("t-tuned.safetensors")
    assert model.card["table"] == "t"
    assert model.card["tuning"]["n_trials"] == 2
    assert Path("t-tuned.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(app, [*words, "--json", "--eval-metric", "roc_auc"])
    assert again.exit_code == 2
    assert "--study must come from the same table" in again.stderr
    words = [word for word in words if word not in ("--study", "s.db")]
    told = CliRunner().invoke(app, [*words, "--json", "--eval-metric", "roc_auc"])
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert document["metric"] == "roc_auc"
    assert len(document["trials"]) == 2
    assert document["trials"][0]["default"] is True
    for extra, said in (
        (["--picture", "p.bmp"], "the picture must be .png, .svg or .pdf"),
        (["--picture", "t.csv"], "must not replace another file"),
        (["--time-limit", "soon"], "--time-limit must be a time above 0"),
        (["-o", "m.onnx"], ".safetensors"),
        (["-o", "new.safetensors", "--picture", "t-tuned.png"], "the picture must not replace"),
    ):
        wrong = CliRunner().invoke(app, [*words, *extra])
        assert wrong.exit_code == 2, wrong.output
        assert said in " ".join(wrong.output.split())


def test_the_time_counts_from_the_begin_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, checked = [], []

    def check(asked: TuneRequest) -> None:
        checked.append(time.perf_counter())

    def search(*_: object, started: float, **__: object) -> None:
        begun.append(started)
        raise ValueError("seen")

    monkeypatch.setattr(request, "check_tuning", check)
    monkeypatch.setattr(run, "tune_table", search)
    (tmp_path / "t.csv").write_text("a,y\n" + "1.5,no\n2.5,yes\n" * 20)
    words = ["tune", str(tmp_path / "t.csv"), "-t", "y", "-o", str(tmp_path / "m.safetensors")]
    before = time.perf_counter()
    assert "seen" in CliRunner().invoke(app, words).output
    assert before <= begun[0] <= checked[0]


def test_the_defaults_are_those_of_the_search() -> None:
    words = inspect.signature(tune).parameters
    assert seconds_of(words["time_limit"].default) == TuneOptions().time_limit
    assert words["folds"].default == TuneOptions().n_folds


def test_what_a_regression_is_fitted_for_is_held_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    size = generator.normal(size=120)
    # So few distinct values would be labels, without an objective.
    pl.DataFrame({"size": size, "y": generator.poisson(np.exp(size / 2))}).write_csv("t.csv")
    words = ["tune", "t.csv", "-t", "y", "--trials", "1", "--folds", "2", "--epochs", "2"]
    words += ["--objective", "quantile", "--quantiles", "0.2,0.8", "--quality", "fast"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metric"] == "pinball"
    settings = load_fitted("t-tuned.safetensors").settings
    assert (settings.objective, settings.quantiles) == ("quantile", (0.2, 0.8))
    assert (settings.quality, settings.n_members) == ("fast", 1)
    for extra, said in (
        (["--quantiles", "0.8,1.2"], "--quantiles must be one or more levels above 0 and below 1"),
        (["--task", "classification"], "--objective"),
    ):
        wrong = CliRunner().invoke(
            app, ["tune", "t.csv", "-t", "y", *extra, *words[-6:-4], *words[-2:]]
        )
        assert wrong.exit_code == 2, wrong.output
        assert said in " ".join(wrong.output.split())
