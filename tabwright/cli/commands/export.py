"""The command `export`: a model as one ONNX graph."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tabwright.cli.console import print_json, say, show_grid, waiting
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import JsonFlag, ModelFile, QuietFlag


def export(
    model: ModelFile,
    output: Annotated[Path, typer.Argument(metavar="ONNX", help="The file to write.")],
    check_rows: Annotated[
        int,
        typer.Option(min=1, metavar="ROWS", help="Least rows on which graph and model must agree."),
    ] = 100_000,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a model as one ONNX graph, from raw columns to predictions.

    Nothing is written unless graph and model agree. Needs the extra `onnx`.
    """
    with readable_errors(as_json=as_json):
        from tabwright.artifact.atomic_write import check_writable
        from tabwright.export.encoder import graph_inputs
        from tabwright.export.onnx import export_onnx
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
