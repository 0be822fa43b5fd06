"""The command line: `tabwright train`, `predict`, `evaluate`, `compare`, `inspect`, `export`.

Here are the commands and their words, but for those of `cli_train`, `cli_compare` and
`cli_distill`. What they do is in `training_run`, `prediction_run`, `compare`, `distill_run` and
`export`, what they show in `console`, how they fail in `cli_errors`. Nothing heavy is imported
before a command needs it: `--help` and `inspect` load no torch.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabwright.cli.compare import compare
from tabwright.cli.console import (
    counting_bar,
    print_json,
    say,
    show_card,
    show_grid,
    show_note,
    show_scores,
    told,
    waiting,
    write_out,
)
from tabwright.cli.distill import distill
from tabwright.cli.errors import readable_errors, show_tracebacks
from tabwright.cli.explain import explain
from tabwright.cli.options import (
    SETTINGS,
    BriefCommand,
    HelpAll,
    JsonFlag,
    ModelFile,
    QuietFlag,
    ReadingOptions,
    takes_reading_options,
)
from tabwright.cli.serve import serve
from tabwright.cli.train import train

if TYPE_CHECKING:
    from tabwright.inference.fitted_model import FittedModel

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: the panels of rich take a third of a small screen.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Neural networks for tables: from a CSV or Parquet file to a portable model.",
)

_LabelledTable = Annotated[
    str, typer.Argument(metavar="TABLE", help="Labelled rows that had no part in training.")
]
_TargetName = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="COLUMN", help="Its labels; else as in training."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from tabwright._version import __version__

        say(f"tabwright {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    show_tracebacks(traceback)


app.command(
    cls=BriefCommand,
    short_help="Train a model on a table and save it.",
    epilog="Example: tabwright train churn.csv --target churned --drop customer",
)(train)


@app.command(
    cls=BriefCommand,
    short_help="Predict labels and probabilities of new rows.",
    epilog="Example: tabwright predict churn.safetensors new.csv --keep customer",
)
@takes_reading_options(roles=False)
def predict(
    model: ModelFile,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="New rows: file, folder, pattern.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV, TSV, JSON lines, Parquet or Arrow; else CSV on the screen.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Copy this column of TABLE; may come again."),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Add intervals that hold this share, as 0.9."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="The positive label from this probability on.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="No probabilities.", rich_help_panel=SETTINGS)
    ] = False,
    digits: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=17,
            help="Significant digits of numbers [all].",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas",
            help="Put ' before text that a spreadsheet would run (= + - @).",
            rich_help_panel=SETTINGS,
        ),
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    help_all: HelpAll = False,
    *,
    reading: Callable[[], ReadingOptions],
) -> None:
    """Predict new rows: the label, and the probability of every class.

    Tables may be larger than memory. Labels follow the decision rule stored with the model
    (`tabwright inspect` shows it). --json prints JSON lines, or a summary where there is --output.
    """
    with readable_errors(as_json=as_json):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.tables import (
            check_table_path,
            write_batches,
            write_csv_batches,
        )
        from tabwright.workflows.predict import iter_predictions, with_threshold

        started = time.perf_counter()
        if output is not None:
            check_table_path(output)
            if escape_formulas and not _is_csv(output):
                raise ValueError(
                    f"--escape-formulas is for CSV and TSV; got {output}; leave the option out"
                )
            _check_output(output, model, table)
        fitted = load_fitted(model)
        if threshold is not None:
            fitted = with_threshold(fitted, threshold)
        remarks: list[str] = []
        pieces = iter_predictions(
            fitted,
            table,
            keep=keep or (),
            coverage=coverage,
            labels_only=labels_only,
            digits=digits,
            csv=reading().csv,
            on_unfamiliar=remarks.append,
        )
        with counting_bar(quiet or output is None, "rows predicted") as advance:
            pieces = told(pieces, advance)
            if output is not None:
                n_rows = write_batches(pieces, output, protect_formulas=escape_formulas)
            elif as_json:
                for piece in pieces:
                    write_out(piece.write_ndjson().encode())
            else:
                write_csv_batches(pieces, write_out, protect_formulas=escape_formulas)
        if not (as_json and output is not None):
            for remark in remarks:
                show_note(remark)
        if output is None:
            return
        seconds = time.perf_counter() - started
        if as_json:
            print_json(
                {
                    "output": str(output),
                    "rows": n_rows,
                    "seconds": seconds,
                    "warnings": remarks,
                }
            )
        elif not quiet:
            say(f"wrote {n_rows:,} predictions to {output} after {seconds:.1f} s")


def _target_of(fitted: FittedModel, given: str | None) -> str:
    """The column of labels: the one given, else that of training."""
    column = given or fitted.card.get("target")
    if not isinstance(column, str):
        raise ValueError("the model does not record its target's name; give --target")
    return column


@app.command(
    cls=BriefCommand,
    epilog="Example: tabwright evaluate churn.safetensors held_out.csv --intervals",
)
@takes_reading_options(roles=False)
def evaluate(
    model: ModelFile,
    table: _LabelledTable,
    target: _TargetName = None,
    weight: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its sample weights.")
    ] = None,
    drop_null_target: Annotated[
        bool, typer.Option("--drop-null-target", help="Leave out rows without a target.")
    ] = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add 95 % bootstrap intervals.")
    ] = False,
    as_json: JsonFlag = False,
    help_all: HelpAll = False,
    *,
    reading: Callable[[], ReadingOptions],
) -> None:
    """Score a saved model on labelled rows.

    Scores of labels (accuracy, balanced accuracy) follow the decision rule stored with the model.
    """
    with readable_errors(as_json=as_json):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.workflows.predict import score_table

        fitted = load_fitted(model)
        column = _target_of(fitted, target)
        with waiting(as_json, f"scoring {table}"):
            scores = score_table(
                fitted,
                table,
                column,
                weight=weight,
                drop_null_target=drop_null_target,
                intervals=intervals,
                csv=reading().csv,
            )
        if as_json:
            print_json(
                {
                    "rows": scores.n_rows,
                    "rows_without_target": scores.n_without_target,
                    "rows_of_training": scores.n_seen,
                    "metrics": scores.metrics,
                    "class_weighted_metrics": scores.class_weighted,
                    "intervals": {name: list(ends) for name, ends in scores.intervals.items()},
                }
            )
            return
        if scores.n_seen:
            show_note(
                f"about {scores.n_seen:,} of the {scores.n_rows:,} rows are rows that the model "
                "was trained on: the scores are too good; score rows that had no part in training"
            )
        left_out = f", {scores.n_without_target:,} without a target left out"
        show_scores(
            {"score": scores.metrics}
            | ({"by class weights": scores.class_weighted} if scores.class_weighted else {}),
            f"{model.name} on {scores.n_rows:,} rows"
            + (left_out if scores.n_without_target else ""),
            scores.intervals,
        )


@app.command(
    cls=BriefCommand,
    short_help="Say which columns a model relies on.",
    epilog="Example: tabwright importance churn.safetensors held_out.csv",
)
@takes_reading_options(roles=False)
def importance(
    model: ModelFile,
    table: _LabelledTable,
    target: _TargetName = None,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Shuffles of each column.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the shuffles.")] = 0,
    as_json: JsonFlag = False,
    help_all: HelpAll = False,
    *,
    reading: Callable[[], ReadingOptions],
) -> None:
    """Say how much worse the model gets when a column is shuffled (permutation importance).

    In log-loss, or in RMSE in the target's unit, on at most 2,000 of the first 65,536 rows.
    """
    with readable_errors(as_json=as_json):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.workflows.predict import column_importance

        fitted = load_fitted(model)
        column = _target_of(fitted, target)
        with waiting(as_json, "shuffling columns"):
            found = column_importance(
                fitted, table, column, csv=reading().csv, n_repeats=repeats, random_state=seed
            )
        rows = list(zip(found.names, found.mean.tolist(), found.deviation.tolist(), strict=True))
        loss = "rmse" if fitted.classes is None else "log_loss"
        if as_json:
            print_json(
                {
                    "loss": loss,
                    "rows": found.n_rows,
                    "repeats": found.n_repeats,
                    "columns": [
                        {"name": name, "mean": mean, "deviation": deviation}
                        for name, mean, deviation in rows
                    ],
                }
            )
            return
        show_grid(
            ("column", f"rise of {loss}", "+/-"),
            [(name, f"{mean:.4g}", f"{deviation:.2g}") for name, mean, deviation in rows],
            title=f"{model.name} on {found.n_rows:,} rows, {found.n_repeats} shuffles a column",
            right=(1, 2),
        )


app.command(
    cls=BriefCommand,
    short_help="Say which mode to use, by cross-validation.",
    epilog="Example: tabwright compare churn.csv --target churned --drop customer",
)(compare)
app.command(
    cls=BriefCommand,
    short_help="Teach a small network what a model or ensemble knows.",
    epilog="Example: tabwright distill catboost churn.csv --target churned",
)(distill)
app.command(
    cls=BriefCommand,
    short_help="Say which columns move predictions, and why a row got its own.",
    epilog="Example: tabwright explain churn.safetensors customers.csv --row 7",
)(explain)


@app.command(epilog="Example: tabwright inspect churn.safetensors")
def inspect(
    model: ModelFile,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole document as JSON.")
    ] = False,
) -> None:
    """Say what a model file holds, without running it."""
    with readable_errors(as_json=as_json):
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.report.limits import limits

        fitted = load_fitted(model)
        if as_json:
            document, tensors = fitted.to_artifact()
            document["limits"] = list(limits(fitted))
            document["tensors"] = {
                name: {"dtype": value.dtype.name, "shape": list(value.shape)}
                for name, value in sorted(tensors.items())
            }
            print_json(document)
            return
        show_card(fitted, model)


@app.command(
    short_help="Write a model as one ONNX graph.",
    epilog="Example: tabwright export churn.safetensors churn.onnx",
)
def export(
    model: ModelFile,
    output: Annotated[Path, typer.Argument(metavar="ONNX", help="The file to write.")],
    check_rows: Annotated[
        int,
        typer.Option(
            min=1, metavar="ROWS", help="Compare both on so many rows first, at the least."
        ),
    ] = 100_000,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a model as one ONNX graph, from raw columns to predictions.

    Nothing is written unless graph and model agree. Needs the extra `onnx`.
    """
    with readable_errors(as_json=as_json):
        from tabwright.artifact.atomic_write import check_writable
        from tabwright.export.onnx import export_onnx, graph_inputs
        from tabwright.inference.fitted_model import load_fitted

        check_writable(output)
        fitted = load_fitted(model)
        with waiting(quiet, f"comparing model and graph on {check_rows:,} rows or more"):
            report = export_onnx(fitted, output, check_rows=check_rows)
        inputs = graph_inputs(fitted.encoder.plan_)
        if as_json:
            print_json(
                {
                    "onnx": str(output),
                    "inputs": [asdict(column) for column in inputs],
                    "parity": asdict(report),
                }
            )
        elif not quiet:
            show_grid(
                ("input", "type", "cells"),
                [(column.name, column.dtype, column.describe()) for column in inputs],
            )
            say(f"wrote {output}; it agrees with the model on {report.describe()}")


app.command(
    short_help="Serve models over HTTP.",
    epilog="Example: tabwright serve churn.safetensors --port 8000",
)(serve)


@app.command()
def modes(as_json: JsonFlag = False) -> None:
    """List the six training modes and the tasks they fit."""
    from tabwright.settings import MODE_SUMMARIES, modes_for

    rows = [
        (mode, "both" if mode in modes_for("regression") else "classification", summary)
        for mode, summary in MODE_SUMMARIES.items()
    ]
    if as_json:
        keys = ("mode", "tasks", "summary")
        print_json({"modes": [dict(zip(keys, row, strict=True)) for row in rows]})
        return
    show_grid(("mode", "tasks", "what it is for"), rows)


def _is_csv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".tab"))


def _check_output(output: Path, *inputs: str | Path) -> None:
    """Refuse, before any work, an output that is an input or cannot be written."""
    from tabwright.artifact.atomic_write import check_writable

    for path in map(Path, inputs):
        if path.exists() and output.exists() and output.samefile(path):
            raise ValueError(f"the output must not replace an input; got {output} as both")
    check_writable(output)


def main() -> None:
    """Entry point of the command `tabwright`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name shows a stand-in for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="tabwright")
