"""What a command writes replaces earlier results of its kind, and nothing else unless asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.inference.fitted_model import load_fitted
from tests.golden.rows import FOLDER

runner = CliRunner()


def _answer(*words: object) -> tuple[int, str]:
    done = runner.invoke(app, [str(word) for word in words])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(FOLDER / "0.2.0" / "regression-sums.safetensors", tmp_path / "m.safetensors")
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


def test_predictions_say_what_they_replace(folder: Path) -> None:
    out = folder / "told.csv"
    words = ("predict", folder / "m.safetensors", folder / "rows.csv", "-o", out)
    assert "replacing" not in _answer(*words)[1]
    said = f"replacing {out}, a table of predictions"
    assert f"note: {said}" in _answer(*words)[1]
    assert f"note: replacing {out}, as asked" in _answer(*words, "--overwrite")[1]
    assert json.loads(_answer(*words, "--json")[1])["messages"] == [said]
    assert "replacing" not in _answer(*words, "--quiet")[1]


def test_a_graph_replaces_a_graph_and_nothing_else(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, out = folder / "m.safetensors", folder / "m.onnx"
    words = ("export", model, out, "--check-rows", "10")
    out.write_bytes(b"another graph")
    code, text = _answer(*words)
    assert code == 2
    assert "a graph must not replace a file that is no graph of Tabwright" in text
    code, text = _answer(*words, "--overwrite")
    assert code == 0
    assert f"note: replacing {out}, as asked" in text
    code, text = _answer(*words)
    assert code == 0
    assert f"note: replacing {out}, a graph of Tabwright" in text
    assert json.loads(_answer(*words, "--json")[1])["messages"] == [
        f"replacing {out}, a graph of Tabwright"
    ]
    assert "replacing" not in _answer(*words, "--quiet")[1]
    out.unlink()
    assert "replacing" not in _answer(*words)[1]
    shutil.copy(model, folder / "model")
    assert "must not replace the model" in _answer("export", folder / "model", folder / "model")[1]


def test_a_graph_of_another_target_or_table_is_not_replaced(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, out = folder / "m.safetensors", folder / "whose.onnx"
    fitted = load_fitted(model)
    fitted = replace(fitted, card={**fitted.card, "target": "price", "table": "flats"})
    fitted.save(model)
    small = ("--check-rows", "10")
    for what in ("target", "table"):
        other = folder / f"{what}.safetensors"
        replace(fitted, card={**fitted.card, what: "another"}).save(other)
        out.unlink(missing_ok=True)
        assert _answer("export", other, out, *small)[0] == 0
        before = out.read_bytes()
        code, text = _answer("export", model, out, *small)
        assert code == 2
        assert f"the graph must not replace one of another {what}; {out} is of the {what}" in text
        assert f"'another', this one of {fitted.card[what]!r}; give --overwrite" in text
        assert out.read_bytes() == before
        assert _answer("export", model, out, *small, "--overwrite")[0] == 0
        assert _answer("export", model, out, *small)[0] == 0
    # Graphs of older versions name no target, and neither do those that are cut or changed.
    graph = onnx.load(out)
    del graph.metadata_props[:]
    older = graph.SerializeToString()
    graph.metadata_props.add(key="tabwright", value="{no JSON")
    for data in (older, graph.SerializeToString(), before[:5_000]):
        out.write_bytes(data)
        assert _answer("export", model, out, *small)[0] == 0


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("[project]\nname = 'x'\n", "settings must not replace a file that holds none of a run"),
        ("no TOML", "settings must not replace a file that holds none of a run"),
        ("table = 'rows.csv'\ntarget = 'kind'\n", "must not replace one of another target"),
        ("table = 'other.csv'\ntarget = '{target}'\n", "must not replace one of another table"),
        ("table = 'x/rows.csv'\ntarget = '{target}'\n", ""),
        ("", ""),
    ],
)
def test_settings_replace_those_of_the_same_run_alone(
    text: str, refusal: str, folder: Path, tmp_path: Path
) -> None:
    target, config = "price", tmp_path / "run.toml"
    config.write_text(text.format(target=target))
    rows = {"x": [k % 7 for k in range(60)], target: [k % 7 + 0.5 * (k % 3) for k in range(60)]}
    pl.DataFrame(rows).write_csv(folder / "rows.csv")
    words = ["train", folder / "rows.csv", "-t", target, "--epochs", "1", "--quality", "fast"]
    words += ["-o", tmp_path / "n.safetensors", "--save-config", config]
    code, said = _answer(*words)
    assert code == (2 if refusal else 0), said
    assert refusal in said
    assert (tmp_path / "n.safetensors").exists() == (not refusal)
    assert _answer(*words, "--overwrite")[0] == 0
    assert f'target = "{target}"' in config.read_text()


def test_the_help_of_predict_names_what_shapes_its_output() -> None:
    text = _answer("predict", "--help")[1]
    assert {"--threshold", "--labels-only", "--digits"} <= set(text.split())


@pytest.fixture(scope="module", params=["parquet", "jsonl"])
def nested(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with columns of lists and of structs."""
    path = tmp_path_factory.mktemp("nested") / f"t.{request.param}"
    frame = pl.DataFrame(
        {
            "a": range(60),
            "list": [[1], [2, 3]] * 30,
            "info": [{"b": 1}, None] * 30,
            "y": ["n", "y", "y"] * 20,
        }
    )
    frame.write_parquet(path) if request.param == "parquet" else frame.write_ndjson(path)
    words = _training(path)
    assert _answer(*words)[0] == 3
    assert "leave it out" in _answer(*words)[1]
    assert _answer(*words, "--drop", "list")[0] == 3
    assert _answer(*words, "--drop", "lists,info")[0] == 3
    code, text = _answer(*words, "--drop", "list,info")
    assert code == 0, text
    return path


def _training(path: Path) -> tuple[object, ...]:
    few = ("--epochs", "1", "--members", "1", "--quality", "fast")
    return "train", path, "-t", "y", *few, "-o", path.with_name("m.safetensors")


@pytest.mark.parametrize(
    "words",
    [
        "predict M T",
        "evaluate M T",
        "importance M T --repeats 1",
        "explain M T",
        "predict M T --keep y",
    ],
)
def test_a_model_reads_a_table_whose_nested_columns_it_left_out(nested: Path, words: str) -> None:
    places = {"M": nested.with_name("m.safetensors"), "T": nested}
    code, text = _answer(*(places.get(word, word) for word in words.split()))
    assert code == 0, text


def test_nested_columns_cannot_be_kept(nested: Path) -> None:
    code, text = _answer("predict", nested.with_name("m.safetensors"), nested, "--keep", "list")
    assert code == 3
    assert "column 'list' must hold single values" in text


def test_nested_columns_can_be_dropped_from_disk(nested: Path) -> None:
    words = (*_training(nested), "--memory", "1kB", "--overwrite")
    code, text = _answer(*words, "--drop", "list,info")
    assert code == 0, text
    assert "rows come from disk" in text
    code, text = _answer(*words, "--drop", "list")
    assert code == 3
    assert "column 'info' must hold single values" in text
