"""What a command writes replaces earlier results of its kind, and nothing else unless asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright.cli.app import app
from tests.golden.rows import FOLDER

runner = CliRunner()


def _answer(*words: object) -> tuple[int, str]:
    done = runner.invoke(app, [str(word) for word in words])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(FOLDER / "0.2.0" / "regression-sums.safetensors", tmp_path / "m.safetensors")
    from tabwright.inference.fitted_model import load_fitted

    names = load_fitted(tmp_path / "m.safetensors").encoder.plan_.names
    pl.DataFrame({name: [0.5, 1.5] for name in names}).write_csv(tmp_path / "rows.csv")
    return tmp_path


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl"])
def test_predictions_replace_predictions_and_no_other_table(name: str, folder: Path) -> None:
    model, rows, out = folder / "m.safetensors", folder / "rows.csv", folder / name
    other = pl.DataFrame({"customer": ["x"], "note": ["mine"]})
    if name.endswith("csv"):
        other.write_csv(out)
    elif name.endswith("parquet"):
        other.write_parquet(out)
    else:
        other.write_ndjson(out)
    before = out.read_bytes()
    code, text = _answer("predict", model, rows, "-o", out)
    assert code == 2
    assert "predictions must not replace a file without a column 'prediction'" in text
    assert "give --overwrite, or another name" in text
    assert out.read_bytes() == before
    assert _answer("predict", model, rows, "-o", out, "--overwrite")[0] == 0
    first = out.read_bytes()
    assert first != before
    assert _answer("predict", model, rows, "-o", out)[0] == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"prediction\n"])
def test_an_empty_file_is_replaced(content: bytes, folder: Path) -> None:
    (folder / "out.csv").write_bytes(content)
    words = ("predict", folder / "m.safetensors", folder / "rows.csv", "-o", folder / "out.csv")
    assert _answer(*words)[0] == 0


def test_a_file_that_is_no_table_is_not_replaced(folder: Path) -> None:
    (folder / "out.parquet").write_bytes(b"a letter")
    words = ("predict", folder / "m.safetensors", folder / "rows.csv", "-o", folder / "out.parquet")
    assert _answer(*words)[0] == 2
    assert (folder / "out.parquet").read_bytes() == b"a letter"


def test_a_graph_replaces_a_graph_and_nothing_else(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, out = folder / "m.safetensors", folder / "m.onnx"
    words = ("export", model, out, "--check-rows", "10")
    out.write_bytes(b"another graph")
    code, text = _answer(*words)
    assert code == 2
    assert "a graph must not replace a file that is no graph of Tabwright" in text
    assert _answer(*words, "--overwrite")[0] == 0
    assert _answer(*words)[0] == 0
    shutil.copy(model, folder / "model")
    assert "must not replace the model" in _answer("export", folder / "model", folder / "model")[1]


def test_the_help_of_predict_names_what_shapes_its_output() -> None:
    text = _answer("predict", "--help")[1]
    assert {"--threshold", "--labels-only", "--digits"} <= set(text.split())


def test_nested_columns_of_parquet_can_be_dropped(tmp_path: Path) -> None:
    path, model = tmp_path / "t.parquet", tmp_path / "m.safetensors"
    columns = {"a": range(60), "list": [[1], [2, 3]] * 30, "y": ["n", "y", "y"] * 20}
    pl.DataFrame(columns).write_parquet(path)
    words = ("train", path, "-t", "y", "--epochs", "1", "--quality", "fast", "-o", model)
    code, text = _answer(*words)
    assert code == 3
    assert "leave it out" in text
    assert _answer(*words, "--drop", "list")[0] == 0
    assert _answer(*words, "--drop", "lists")[0] == 3
