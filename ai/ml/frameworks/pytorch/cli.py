"""The command line: `tabwright train`, `predict`, `evaluate`, `inspect`, `export`.

A thin face of `pipeline.fit_table` and `predictor.Predictor`. Nothing heavy is imported before a
command needs it: `--help` and `inspect` load no torch.

Exit codes: 0 done; 2 the input or the command's words are off, and the message says how; 1 a
fault of ours (run again with --traceback to see where).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ai.ml.frameworks.pytorch.fitted import FittedModel

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Neural networks for tables: from a CSV or Parquet file to a calibrated, portable model.",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)
_state = {"traceback": False}


def _version(show: bool) -> None:
    if show:
        from ai.ml.frameworks.pytorch import __version__

        _out.print(f"tabwright {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    _state["traceback"] = traceback


@app.command()
def train(
    table: Annotated[str, typer.Argument(help="CSV, TSV, Parquet, Arrow, JSON lines or Excel.")],
    target: Annotated[str, typer.Option("--target", "-t", help="Column to predict.")],
    mode: Annotated[
        str, typer.Option(help="Training mode; `tabwright modes` lists the six.")
    ] = "mlp_dense",
    drop: Annotated[
        list[str] | None, typer.Option(help="Column not to use; may be given again.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to save [TABLE-MODE.safetensors].")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification or regression; else told by the target.")
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Share of rows kept for the printed scores; 0 for none.")
    ] = 0.2,
    time_column: Annotated[
        str | None, typer.Option("--time", help="Test and validate on the latest rows by it.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column whose equal rows stay on one side of each split.")
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Column of sample weights.")] = None,
    members: Annotated[int | None, typer.Option(help="Networks trained and averaged.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs at the most.")] = None,
    drop_null_target: Annotated[
        bool, typer.Option("--drop-null-target", help="Leave out rows without a target.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")] = False,
) -> None:
    """Train a model on a table and save it.

    Example: tabwright train titanic.csv --target Survived --drop PassengerId
    """
    with _errors():
        from ai.ml.frameworks.pytorch.training_run import TrainRequest, run_training

        request = TrainRequest(
            table=table,
            target=target,
            mode=mode,
            drop=tuple(drop or ()),
            output=output,
            task=task,
            test_fraction=test_fraction,
            time=time_column,
            group=group,
            weight=weight,
            n_members=members,
            max_epochs=epochs,
            drop_null_target=drop_null_target,
            random_state=seed,
        )
        silent = quiet or as_json
        with _epoch_bar(silent) as on_epoch:
            result = run_training(
                request,
                on_message=None if silent else lambda text: _out.print(Text(text, style="dim")),
                on_epoch=on_epoch,
            )
        if as_json:
            _print_json(
                {
                    "model": str(result.path),
                    "mode": result.model.settings.training_mode,
                    "task": result.model.settings.task,
                    "metrics": {k: dict(v) for k, v in result.model.metrics.items()},
                    "messages": list(result.messages),
                    "seconds": result.seconds,
                }
            )
        elif not quiet:
            _show_scores(result.model)
            _out.print(f"saved {result.path} after {result.seconds:.1f} s; use it with")
            _out.print(f"  tabwright predict {result.path} NEW_TABLE", markup=False)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model file that `train` saved.")],
    table: Annotated[str, typer.Argument(help="New rows, with the columns of training.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="CSV, Parquet or JSON lines; else CSV on the screen."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column of TABLE to copy to the output.")
    ] = None,
) -> None:
    """Write predictions for new rows, with class probabilities.

    Example: tabwright predict titanic-mlp_dense.safetensors new.csv --output out.csv
    """
    with _errors():
        from ai.ml.frameworks.pytorch.fitted import load_fitted
        from ai.ml.frameworks.pytorch.predictor import Predictor
        from ai.ml.frameworks.pytorch.scoring import prediction_frame
        from ai.ml.frameworks.pytorch.tables import read_table, write_table

        fitted = load_fitted(model)
        frame = read_table(table)
        missing = [name for name in keep or () if name not in frame.columns]
        if missing:
            raise ValueError(f"{table} has no column {missing[0]!r} to keep")
        predictions = prediction_frame(Predictor(fitted), frame)
        # A selection of no columns has no rows either, so it cannot be the left side of a stack.
        result = frame.select(keep).hstack(predictions.get_columns()) if keep else predictions
        if output is None:
            sys.stdout.write(result.write_csv())
        else:
            write_table(result, output)
            _err.print(f"wrote {len(result):,} predictions to {output}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file that `train` saved.")],
    table: Annotated[str, typer.Argument(help="Labelled rows that had no part in training.")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Its column; else as in training.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a saved model on labelled rows.

    Example: tabwright evaluate titanic-mlp_dense.safetensors held_out.csv
    """
    with _errors():
        from ai.ml.frameworks.pytorch.fitted import load_fitted
        from ai.ml.frameworks.pytorch.predictor import Predictor
        from ai.ml.frameworks.pytorch.scoring import score_frame
        from ai.ml.frameworks.pytorch.tables import read_table

        fitted = load_fitted(model)
        column = target or fitted.card.get("target")
        if not isinstance(column, str):
            raise ValueError("the model does not record its target's name; give --target")
        frame = read_table(table)
        if column not in frame.columns:
            raise ValueError(f"{table} has no column {column!r}; --target names the labels")
        scores = score_frame(Predictor(fitted), frame, column)
        if as_json:
            _print_json({"rows": len(frame), "metrics": scores})
        else:
            _score_table({"score": scores}, f"{model.name} on {len(frame):,} rows")


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole document.")] = False,
) -> None:
    """Say what a model file holds, without running it.

    Example: tabwright inspect titanic-mlp_dense.safetensors
    """
    with _errors():
        from ai.ml.frameworks.pytorch.fitted import load_fitted

        fitted = load_fitted(model)
        if as_json:
            document, tensors = fitted.to_artifact()
            document["tensors"] = {
                name: {"dtype": value.dtype.name, "shape": list(value.shape)}
                for name, value in sorted(tensors.items())
            }
            _print_json(document)
            return
        _show_card(fitted, model)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    output: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    check_rows: Annotated[
        int, typer.Option(min=1, help="Rows on which both are compared first, at the least.")
    ] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a model as one ONNX graph, from raw columns to predictions.

    Example: tabwright export titanic-mlp_dense.safetensors titanic.onnx
    """
    with _errors():
        from dataclasses import asdict

        from ai.ml.frameworks.pytorch.export import export_onnx, graph_inputs
        from ai.ml.frameworks.pytorch.fitted import load_fitted

        fitted = load_fitted(model)
        report = export_onnx(fitted, output, check_rows=check_rows)
        inputs = graph_inputs(fitted.encoder.plan_)
        if as_json:
            _print_json(
                {
                    "onnx": str(output),
                    "inputs": [asdict(column) for column in inputs],
                    "parity": asdict(report),
                }
            )
            return
        grid = Table(box=None, pad_edge=False)
        for heading in ("input", "type", "cells"):
            grid.add_column(heading)
        for column in inputs:
            grid.add_row(Text(column.name), column.dtype, column.describe())
        _out.print(grid)
        _out.print(Text(f"wrote {output}; it agrees with the model on {report.describe()}"))


@app.command()
def modes() -> None:
    """List the six training modes and the tasks they fit."""
    from ai.ml.frameworks.pytorch.settings import MODE_SUMMARIES, modes_for

    rows = Table(box=None, pad_edge=False)
    for heading in ("mode", "tasks", "what it is for"):
        rows.add_column(heading)
    for mode, summary in MODE_SUMMARIES.items():
        tasks = "both" if mode in modes_for("regression") else "classification"
        rows.add_row(mode, tasks, summary)
    _out.print(rows)


def _show_card(fitted: FittedModel, path: Path) -> None:
    architecture, settings, card = fitted.architecture, fitted.settings, fitted.card
    n_parameters = sum(
        value.size
        for name, value in fitted.members[0].items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    facts = {
        "file": f"{path} ({path.stat().st_size / 1024:,.0f} KiB)",
        "task": settings.task,
        "mode": settings.training_mode,
        "target": str(card.get("target")),
        "labels": None if fitted.classes is None else ", ".join(map(str, fitted.classes[:12])),
        "network": f"{len(fitted.members)} x {type_name(architecture.training_mode)}: "
        f"{architecture.input_dim} inputs, {architecture.num_hidden_layers} x "
        f"{architecture.hidden_dim}, dropout {architecture.dropout:g}, "
        f"{n_parameters:,} parameters each",
        "columns": ", ".join(fitted.encoder.feature_names_in_[:12])
        + (", ..." if fitted.encoder.n_features_in_ > 12 else ""),
        "trained on": f"{card.get('n_training_rows', 0):,} rows, validated on "
        f"{card.get('n_validation_rows', 0):,}",
        "calibration": card.get("calibration"),
        "versions": ", ".join(f"{k} {v}" for k, v in dict(card.get("versions", {})).items()),
    }
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="dim")
    grid.add_column()
    for name, value in facts.items():
        if value:
            grid.add_row(name, Text(str(value)))
    _out.print(grid)
    _show_scores(fitted)


def type_name(architecture: str) -> str:
    """Class of the architecture that a mode builds."""
    return {"tabresnet": "TabResNet", "linear_glm_baseline": "LinearBaseline"}.get(
        architecture, "MLP"
    )


def _show_scores(fitted: FittedModel) -> None:
    shown = {
        title: dict(fitted.metrics[rows])
        for rows, title in (
            ("test", "test rows"),
            ("baseline", "trivial baseline"),
            ("validation", "validation rows"),
        )
        if rows in fitted.metrics
    }
    if "trivial baseline" in shown:
        shown.pop("validation rows", None)
    if shown:
        _score_table(shown, fitted.settings.training_mode)


def _score_table(columns: dict[str, dict[str, float]], title: str) -> None:
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    grid.add_column("metric")
    for name in columns:
        grid.add_column(name, justify="right")
    for metric in next(iter(columns.values())):
        grid.add_row(
            metric,
            *(f"{scores[metric]:,.4f}" if metric in scores else "" for scores in columns.values()),
        )
    _out.print(grid)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")


@contextmanager
def _epoch_bar(silent: bool) -> Iterator[Any]:
    """A progress bar fed by epochs; nothing where the screen is not a terminal."""
    if silent or not _err.is_terminal:
        yield None
        return
    bar = Progress(
        TextColumn("epoch {task.completed}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  best {task.fields[best]:.4f}"),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
    )
    with bar:
        line = bar.add_task("training", total=None, loss=float("nan"), best=float("nan"))

        def advance(epoch: Any) -> None:
            bar.update(
                line, completed=epoch.epoch, loss=epoch.validation_loss, best=epoch.best_loss
            )

        yield advance


@contextmanager
def _errors() -> Iterator[None]:
    """Show warnings as notes, and what a user can mend as one readable block (exit code 2)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _note
            yield
    except (typer.Exit, typer.Abort):
        raise
    except BrokenPipeError:
        raise typer.Exit(0) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if _state["traceback"]:
            raise
        _err.print(
            Panel(
                Text(str(error)), title="tabwright cannot go on", border_style="red", expand=False
            )
        )
        raise typer.Exit(2) from None
    except Exception as error:
        if _state["traceback"]:
            raise
        _err.print(
            Panel(
                Text(
                    f"{type(error).__name__}: {error}\nThis is a fault of tabwright. Run again "
                    "with `tabwright --traceback ...` and report what it prints."
                ),
                title="unexpected error",
                border_style="red",
                expand=False,
            )
        )
        raise typer.Exit(1) from None


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _err.print(Text(f"note: {message}", style="yellow"))


def main() -> None:
    """Entry point of the command `tabwright`."""
    app()
