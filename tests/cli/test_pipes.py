"""Tables through pipes: `-` is the standard input of every command that reads, and an output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.tables import paths

runner = CliRunner()
SMALL = ("--epochs", "1", "--threads", "1", "--quiet")
COMMANDS = {
    "train": ("train", "-", "-t", "y", "-o", "new.safetensors", *SMALL),
    "predict": ("predict", "m.safetensors", "-"),
    "evaluate": ("evaluate", "m.safetensors", "-"),
    "importance": ("importance", "m.safetensors", "-", "--repeats", "1"),
    "explain": ("explain", "m.safetensors", "-", "--row", "1", "--quiet"),
    "compare": (
        *("compare", "-", "-t", "y", "--no-references", "--folds", "2"),
        *("-m", "mlp_dense", "-m", "linear_glm_baseline", *SMALL),
    ),
    "distill": ("distill", "m.safetensors", "-", "-t", "y", "-o", "s.safetensors", *SMALL),
    "tune": (
        *("tune", "-", "-t", "y", "--trials", "1", "--folds", "2", "--time-limit", "60s"),
        *("-o", "t.safetensors", "--members", "1", *SMALL),
    ),
}


def _text(n_rows: int = 120) -> str:
    generator = np.random.default_rng(0)
    x = generator.normal(size=n_rows)
    y = np.where(x + generator.normal(size=n_rows) > 0, "yes", "no")
    return pl.DataFrame({"x": x, "z": generator.normal(size=n_rows), "y": y}).write_csv()


@pytest.fixture(autouse=True)
def _new_pipe() -> Iterator[None]:
    """A process has one standard input, which is copied once; here each test has its own."""
    paths._from_pipe.cache_clear()
    yield
    paths._from_pipe.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(_text())
    words = ("train", "t.csv", "-t", "y", "-o", "m.safetensors", "--quality", "fast", *SMALL)
    done = runner.invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_a_table_reads_a_pipe(command: str) -> None:
    if command == "tune":
        pytest.importorskip("optuna")
    done = runner.invoke(app, list(COMMANDS[command]), input=_text())
    assert done.exit_code == 0, done.output
    # Results are printed, quiet or not.
    assert done.stdout


@pytest.mark.usefixtures("folder")
def test_an_output_called_minus_is_the_standard_output() -> None:
    plain = runner.invoke(app, ["predict", "m.safetensors", "t.csv"])
    named = runner.invoke(app, ["predict", "m.safetensors", "t.csv", "-o", "-"])
    assert (named.exit_code, named.stdout) == (0, plain.stdout)
    assert named.stdout.startswith("prediction,")
    assert not Path("-").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("bad", [False, True])
def test_no_message_names_the_copy_of_a_pipe(bad: bool) -> None:
    text = _text().replace(",yes", ",d\xe9j\xe0 vu").encode("cp1252")
    text += b"1,2,3,4,5\n" if bad else b""
    words = ["train", "-", "-t", "y", "-o", "new.safetensors", "--report", "r.html", *SMALL[:-1]]
    done = runner.invoke(app, [*words, "--quality", "fast"], input=text)
    said = " ".join(done.output.split())
    assert done.exit_code == (3 if bad else 0), said
    assert "the standard input" in said
    page = "" if bad else Path("r.html").read_text(encoding="utf-8").replace("<wbr>", "")
    for shown in (said, page):
        assert "tabwright-pipe-" not in shown
        assert "stdin.csv" not in shown


@pytest.mark.parametrize("command", ["predict", "evaluate", "importance", "explain"])
def test_a_model_does_not_come_through_a_pipe(command: str) -> None:
    done = runner.invoke(app, [command, "-", "t.csv"])
    assert done.exit_code == 2
    assert "a model must be a file; got -" in " ".join(done.output.split())


def test_a_misspelt_table_is_told_before_pytorch_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tabwright.cli.app import app\n"
        "try:\n    app(['train', 'nowhere.csv', '-t', 'y'])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "there is no file nowhere.csv" in done.stderr
    assert done.stdout.split() == ["4", "False"]


@pytest.mark.parametrize("command", ["predict", "evaluate", "importance", "explain", "inspect"])
def test_a_table_in_the_place_of_the_model_is_told(command: str) -> None:
    words = [command, "t.csv"] if command == "inspect" else [command, "t.csv", "m.safetensors"]
    done = runner.invoke(app, words)
    assert done.exit_code == 2
    assert "must be a model that `train` saved" in " ".join(done.output.split())
