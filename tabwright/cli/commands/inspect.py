"""The command `inspect`: what a model file holds."""

from __future__ import annotations

from typing import Annotated

import typer

from tabwright.cli.console import print_json, progress_line, show_card
from tabwright.cli.errors import readable_errors
from tabwright.cli.options import ModelFile


def inspect(
    model: ModelFile,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole document as JSON.")
    ] = False,
) -> None:
    """Say what a model file holds, without running it."""
    with readable_errors(as_json=as_json), progress_line(as_json, f"reading {model}") as line:
        from tabwright.inference.fitted_model import load_fitted
        from tabwright.report.limits import limits

        fitted = load_fitted(model)
        line.hide()
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
