"""Who reads a message: users of the library read arguments, those of the command line options."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer.main
from typer.testing import CliRunner

from tabwright.cli.app import app
from tabwright.cli.option_names import in_options
from tabwright.errors import TableError
from tabwright.tables import read_table
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import TableRequest, read_training_table
from tabwright.tables.targets import learned_target
from tests.packages import FOLDER

# The server is started by the command line alone, and its clients hear of its limits over HTTP.
OF_THE_SERVER = {"--max-rows", "--max-body"}
runner = CliRunner()


def options() -> set[str]:
    """Every long option of every command."""
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    return {word for own in commands for param in own.params for word in param.opts} - {"-h"}


def texts(source: str) -> Iterator[str]:
    """Every text of a module that is no docstring; those with braces in parts."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield text


def named_options(source: str, known: set[str]) -> set[str]:
    words = {word for text in texts(source) for word in re.findall(r"(?<![\w-])--[\w-]+", text)}
    return words & known


def test_no_text_of_the_library_names_an_option() -> None:
    known = options()
    assert {"--task", "--drop-null-target", "--max-rows"} <= known
    found = {
        path.relative_to(FOLDER).as_posix(): named
        for path in sorted(FOLDER.rglob("*.py"))
        if path.relative_to(FOLDER).parts[0] != "cli"
        and (named := named_options(path.read_text(encoding="utf-8"), known) - OF_THE_SERVER)
    }
    assert found == {}


def test_the_reader_sees_options_in_every_kind_of_text() -> None:
    source = '"""--task"""\nx = f"a {1} --drop"\ny = "--time " "and (--group)"\nz = "x--weight"\n'
    assert named_options(source, options()) == {"--drop", "--time", "--group"}


def test_a_phrase_that_is_translated_is_said_somewhere() -> None:
    from tabwright.cli.option_names import _PHRASES

    said = " ".join(
        re.sub(r"\s+", " ", text)
        for path in FOLDER.rglob("*.py")
        if "cli" not in path.parts
        for text in texts(path.read_text(encoding="utf-8"))
    )
    assert [phrase for phrase, _ in _PHRASES if phrase not in said] == []


def told(table: Path, target: str, **uses: object) -> list[str]:
    messages: list[str] = []
    columns = ColumnUses(target, **uses)  # type: ignore[arg-type]
    read_training_table(TableRequest(str(table), columns), messages.append)
    return messages


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=60), "word": ["b", "a"] * 30})
    frame = frame.with_columns(y=pl.Series([None, *frame["x"][1:].exp()]), copy=pl.col("word"))
    frame.write_csv(tmp_path / "t.csv")
    return tmp_path / "t.csv"


def test_the_task_is_told_to_both_in_their_words(table: Path) -> None:
    message = next(text for text in told(table, "word") if text.startswith("task: "))
    assert message.endswith("so they are classes")
    few = ["--epochs", "1", "--members", "1", "--width", "4", "--quality", "fast"]
    words = ["train", str(table), "-t", "word", "-o", str(table.with_name("m.safetensors")), *few]
    words += ["--drop", "y"]
    printed = " ".join(runner.invoke(app, words).output.split())
    assert f"{message} (--task overrides)" in printed
    assert "warning: column 'copy' alone tells the target 'word'" in printed
    assert "from the target, leave it out with --drop" in printed
    document = json.loads(runner.invoke(app, [*words, "--json"]).stdout)
    assert f"{message} (--task overrides)" in document["messages"]


def test_missing_targets_are_refused_in_the_words_of_the_reader(table: Path) -> None:
    with pytest.raises(ValueError, match="give drop_null_target=True to leave those rows out"):
        told(table, "y")
    printed = runner.invoke(app, ["train", str(table), "-t", "y"]).output
    assert "give --drop-null-target to leave those rows out" in " ".join(printed.split())


def test_text_given_as_quantities_is_to_be_labels(table: Path) -> None:
    column = read_table(str(table))["word"]
    with pytest.raises(
        ValueError, match="got 'b' in row 1; use TabularClassifier if these are labels, or correct"
    ):
        learned_target(column, "regression")
    printed = runner.invoke(app, ["train", str(table), "-t", "word", "--task", "regression"]).output
    assert "give --task classification if these are labels" in " ".join(printed.split())
    assert "category" not in printed


@pytest.mark.parametrize(
    ("message", "option"),
    [
        ("the model must not replace a file; give overwrite=True, or another name", "--overwrite"),
        ("rows from disk cannot be put in order; raise memory, or train", "raise --memory, or"),
        ("got a test fraction of 0; give test_fraction=0.2, or leave out report", "fraction 0.2"),
        ("got a test fraction of 0; give test_fraction=0.2, or leave out report", "out --report"),
        ("the time column must hold dates; got Binary; leave out time", "leave out --time"),
        ("the target is not a feature anyway; leave it out of drop", "leave it out of --drop"),
        ("threshold must be in [0, 1]; got 2", "--threshold must be in"),
        ("threshold is for models of two labels; this one has 3 labels", "--threshold is for"),
        (
            "the address x:1 cannot be served (in use); give another host or port",
            "--host or --port",
        ),
        ("keep those that belong together on one side", "on one side with --group"),
        ("task: regression, since 'y' holds numbers", "(--task overrides)"),
        ("task: regression, as asked", "task: regression, as asked"),
    ],
)
def test_messages_name_options_on_the_command_line(message: str, option: str) -> None:
    assert option in in_options(message, arguments=True)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("compare t.csv -t y --quality best", "--quality is an option of train, not of compare"),
        ("tune t.csv -t y --report r.html", "--report is an option of train, not of tune"),
        ("evaluate m t.csv --threshold 1", "--threshold is an option of predict, not of evaluate"),
        ("serve m --workers 2", "--workers is an option of predict, not of serve"),
        ("compare t.csv -t y --lr 1", "--learning-rate is an option of train, not of compare"),
        ("compare t.csv -t y --modes a,b", "No such option: --modes (Possible options: --mode)"),
        ("train t.csv -t y --lr 1", "(Possible options: --learning-rate)"),
        ("train t.csv -t y --metric auc", "(Possible options: --eval-metric)"),
        ("train t.csv -t y --interval x", "(Possible options: --intervals)"),
        ("compare t.csv -t y --mode mlp_dense,mlp", "got 'mlp'; did you mean 'mlp_dense'?"),
        ("train t.csv -t y --intervals wide", "--intervals must be 'adaptive' or 'constant'"),
        ("train t.csv -t y --calibration x", "--calibration must be none or one of auto"),
        ("train t.csv -t y --quantiles 0.1", "--quantiles are of --objective quantile"),
    ],
)
def test_options_are_answered_in_words_of_the_command_line(
    words: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"x": [1.5, 2.5] * 9, "y": ["a", "b"] * 9}).write_csv("t.csv")
    done = runner.invoke(app, words.split())
    assert done.exit_code == 2
    assert answer in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "code", "answer"),
    [
        (
            "--quality best --refit",
            2,
            "--quality best needs rows held out to choose weights on; got --refit",
        ),
        ("--refit --folds 4", 2, "got --folds 4 and --refit;"),
        (
            "--refit --time-limit 5s",
            2,
            "--refit trains once more as long; got --time-limit 5.0 and --refit",
        ),
        (
            "--memory 1kB --quality best",
            2,
            "not for tables larger than it; raise --memory, or use --quality balanced",
        ),
        ("--memory 1kB --refit", 2, "--refit is for tables in memory; got --refit for one"),
        ("--memory 1kB --time x", 2, "got --time x; raise --memory"),
        ("--time-limit 0.01s", 2, "--time-limit must be long enough"),
        (
            "--eval-metric foo",
            2,
            "--eval-metric must be the name of a scorer of scikit-learn, e.g. roc_auc",
        ),
        ("--quality best --mode linear_glm_baseline", 2, "use mlp_dense, or --quality balanced"),
        (
            "--task regression --calibration isotonic",
            2,
            "--calibration must be left out in a regression task, which has no probabilities; "
            "got 'isotonic'",
        ),
        ("--drop Foo", 3, "t.csv has no column 'Foo', given as --drop; its columns"),
        ("--group Foo", 3, "t.csv has no column 'Foo', given as --group; its columns"),
    ],
)
def test_an_error_of_a_fit_names_options(
    words: str, code: int, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(
        {"x": [i * 37 % 101 / 7 for i in range(120)], "y": ["a", "b", "b"] * 40}
    ).write_csv("t.csv")
    done = runner.invoke(app, ["train", "t.csv", "-t", "y", *words.split()])
    printed = " ".join(done.output.split())
    assert done.exit_code == code, printed
    assert answer in printed
    assert re.search(r"\w+=(True|')|give the function", printed) is None, printed


def test_a_comparison_of_one_mode_names_the_option_of_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(
        {"x": [i * 37 % 101 / 7 for i in range(120)], "y": ["a", "b", "b"] * 40}
    ).write_csv("t.csv")
    words = "compare t.csv -t y --mode mlp_dense --no-references"
    printed = " ".join(runner.invoke(app, words.split()).output.split())
    assert "name more modes, or leave out --no-references" in printed


@pytest.mark.parametrize(
    ("word", "meant"),
    [("report", "tabwright train --report FILE"), ("score", "tabwright evaluate")],
)
def test_a_command_by_another_name_is_answered_with_ours(word: str, meant: str) -> None:
    done = runner.invoke(app, [word, "t.csv"])
    assert done.exit_code == 2
    assert f"No such command '{word}'; give `{meant}`." in done.output


@pytest.mark.parametrize(
    ("change", "said", "advice", "printed_advice"),
    [
        (
            pl.lit(1).alias("more"),
            "has the column 'more' too",
            "read them apart",
            "give one of them, or a pattern of files that have the same",
        ),
        (
            pl.lit("tall").alias("size"),
            "column 'size' of",
            "convert one of them",
            "convert one of them",
        ),
    ],
)
def test_files_that_differ_get_no_advice_for_python(
    tmp_path: Path, change: pl.Expr, said: str, advice: str, printed_advice: str
) -> None:
    frame = pl.DataFrame({"size": [1.5, 2.5], "label": ["a", "b"]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(change).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(TableError, match=rf"{advice}, or (name|give) .*=[\[{{]"):
        read_table(tmp_path)
    printed = " ".join(runner.invoke(app, ["train", str(tmp_path), "-t", "label"]).output.split())
    assert said in printed
    assert printed.endswith(printed_advice)
