"""The command `export`: a model as one ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tabwright.cli.console import print_json, progress_line, show_line, show_note
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import JsonFlag, ModelFile, Overwrite, QuietFlag

if TYPE_CHECKING:
    from tabwright.export.inputs import GraphInput


def export(
    model: ModelFile,
    onnx: Annotated[
        Path | None, typer.Argument(metavar="ONNX", help="The file to write.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="ONNX", help="The same, as an option."),
    ] = None,
    check_rows: Annotated[
        int,
        typer.Option(min=1, metavar="ROWS", help="Least rows on which graph and model must agree."),
    ] = 100_000,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a model as one ONNX graph, from raw columns to predictions.

    Nothing is written unless graph and model agree. Needs the extra `onnx`.
    """
    with (
        readable_errors(as_json=as_json),
        progress_line(quiet or as_json, f"loading {model}") as line,
    ):
        path = _path(model, onnx, output)

        from tabwright.artifact.atomic_write import check_suffix, check_writable
        from tabwright.export.inputs import graph_inputs
        from tabwright.export.onnx import export_onnx
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.workflows.requests.outputs import check_graph_output

        check_suffix(path, ".onnx", "a graph")
        check_writable(path)
        if path.exists() and path.samefile(model):
            raise ValueError(f"the graph must not replace the model; got {path} as both")
        fitted = load_fitted(model)
        replaced = check_graph_output(path, fitted.card, overwrite=overwrite)
        if replaced is not None and not (quiet or as_json):
            line.hidden_during(show_note)(replaced)
        line.doing(f"comparing model and graph on {check_rows:,} rows or more")
        report = export_onnx(fitted, path, check_rows=check_rows)
        line.hide()
        inputs = graph_inputs(fitted.encoder.plan_)
        if as_json:
            print_json(
                {
                    "onnx": str(path),
                    "inputs": [asdict(column) for column in inputs],
                    "parity": asdict(report),
                    "messages": [] if replaced is None else [replaced],
                }
            )
        elif not quiet:
            _show_inputs(inputs)
            show_line(f"wrote {path}; it agrees with the model on {report.describe()}")


def _show_inputs(inputs: Sequence[GraphInput]) -> None:
    """The inputs by type: what to pass is said once, with the names of the columns."""
    from tabwright.tables.column_names import listed

    alike: dict[tuple[str, str], list[str]] = {}
    for column in inputs:
        alike.setdefault((column.dtype, column.describe()), []).append(column.name)
    for (dtype, cells), names in alike.items():
        show_line(f"{len(names):,} {dtype} {'input' if len(names) == 1 else 'inputs'}: {cells}")
        show_line(f"  {listed(names, quoted=False)}")


def _path(model: Path, onnx: Path | None, output: Path | None) -> Path:
    """The file to write, which is named once."""
    path = onnx if output is None else output
    if path is None or (onnx is not None and output is not None):
        got = "none" if path is None else f"{onnx} and {output}"
        raise ValueError(
            f"the file to write must be given once, as the second argument or with -o; got {got}; "
            f"give `tabwright export {model} {model.with_suffix('.onnx').name}`"
        )
    return path
