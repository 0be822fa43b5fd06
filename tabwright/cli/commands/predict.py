"""The command `predict`: labels and probabilities of new rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tabwright.cli.brief_command import SETTINGS, HelpAll
from tabwright.cli.console import counting_bar, print_json, say, show_note, told, write_out
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import JsonFlag, ModelFile, QuietFlag, ReadingOptions, takes_groups

__all__ = ["predict"]


@takes_groups
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
    reading: ReadingOptions,
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
            csv=reading.csv_format(),
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


def _is_csv(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".tab"))


def _check_output(output: Path, *inputs: str | Path) -> None:
    """Refuse, before any work, an output that is an input or cannot be written."""
    from tabwright.artifact.atomic_write import check_writable

    for path in map(Path, inputs):
        if path.exists() and output.exists() and output.samefile(path):
            raise ValueError(f"the output must not replace an input; got {output} as both")
    check_writable(output)
