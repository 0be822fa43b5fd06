"""Options that several commands of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ai.ml.frameworks.pytorch.console import say

__all__ = ["HelpAll", "JsonFlag", "ModelFile", "QuietFlag"]


def _show_all_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in context.command.params:
            if isinstance(parameter, typer.core.TyperOption):
                parameter.hidden = False
        say(context.get_help())
        raise typer.Exit


ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `train` saved.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", callback=_show_all_help, is_eager=True, help="Show the settings too."
    ),
]
