"""Any text is a name: of a column, whatever a library's expressions would read in it."""

import html
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from ai.ml.frameworks.pytorch.models import TrainingMode
from tabwright import TabularClassifier, load_model
from tabwright.cli.app import app

NAMES = ("*", "^x.*$", "^$", "n", "cell", "literal", "count", "len", "0", "a b", 'q"t', "é\u2028")
N_ROWS = 160
FAST = ("--epochs", "1", "--members", "1", "--task", "classification")


def _table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    columns = {
        name: rng.choice(["u", "v", "w"], N_ROWS) if i % 2 else rng.normal(size=N_ROWS)
        for i, name in enumerate(NAMES)
    }
    return pl.DataFrame(columns)


def _labels() -> np.ndarray:
    return np.where(np.arange(N_ROWS) % 2, "yes", "no")


def _run(*words: str) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("mode", ["mlp_dense", "tree_teacher_distillation"])
def test_estimators_take_every_name(mode: TrainingMode, tmp_path: Path) -> None:
    table = _table()
    model = TabularClassifier(training_mode=mode, max_epochs=1, n_members=1, random_state=0)
    model.fit(table, _labels())
    whole = model.predict_proba(table)
    np.testing.assert_allclose(model.predict_proba(table[list(reversed(NAMES))]), whole)
    np.testing.assert_allclose(model.predict_proba(table[:1]), whole[:1], atol=1e-6)
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        load_model(tmp_path / "m.safetensors").predict_proba(table), whole
    )


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["csv", "parquet", "jsonl"])
def test_commands_take_every_name(
    extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = _table().with_columns(pl.Series("y", _labels()))
    getattr(table, {"jsonl": "write_ndjson"}.get(extension, f"write_{extension}"))(f"t.{extension}")
    file = f"t.{extension}"
    for more in ((), ("--memory", "1K"), ("--drop", "^x.*$"), ("--group", "*")):
        _run("train", file, "-t", "y", "-o", "m.safetensors", *FAST, *more)
    _run("train", file, "-t", "y", "-o", "m.safetensors", "--report", "r.html", *FAST)
    _run("predict", "m.safetensors", file, "-o", "p.csv", "--keep", "*", "--keep", "^x.*$")
    predicted = pl.read_csv("p.csv")
    assert predicted.columns[:2] == ["*", "^x.*$"]
    assert predicted.height == N_ROWS
    _run("evaluate", "m.safetensors", file, "-t", "y")
    _run("export", "m.safetensors", "m.onnx")
    if extension == "csv":
        _run("compare", file, "-t", "y", "--folds", "2", "--epochs", "1")


def test_names_that_cannot_be_seen_are_shown_in_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    hidden = ["", "\n", " a", "b\u2028", "c"]
    table = pl.DataFrame({name: draw.normal(size=N_ROWS) for name in hidden})
    labels = np.where(table[""].to_numpy() + table["\n"].to_numpy() > 0, "yes", "no")
    table.with_columns(y=pl.Series(labels)).write_parquet("t.parquet")
    seen = ["''", r"'\n'", "' a'", r"'b\u2028'", "c"]

    def shown(*words: str) -> list[str]:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    table_of = ("t.parquet", "--target", "y")
    shown("train", *table_of, *FAST, "-o", "m.safetensors", "--report", "r.html")
    for words in (
        ("importance", "m.safetensors", *table_of),
        ("explain", "m.safetensors", "t.parquet", "--row", "1"),
    ):
        firsts = [line.partition("  ")[0] for line in shown(*words)]
        assert sorted(name for name in firsts if name in seen) == sorted(seen), words
    # No input of a graph has the empty name: it has another there.
    assert f", {', '.join(seen[1:])}" in " ".join(shown("export", "m.safetensors", "m.onnx"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8").replace("<wbr>", "")
    assert all(html.escape(name) in page for name in seen)
    assert f"5: {', '.join(seen)}" in " ".join(shown("inspect", "m.safetensors"))
