"""The command line: assembles the commands, one a module of `tabwright.cli.commands`.

What commands do is in `tabwright.workflows` and `tabwright.export`, what they show in `console`,
how they fail in `errors`. Nothing heavy is imported before a command needs it: `--help` and
`inspect` load no torch.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from typing import Annotated

import typer

from tabwright.cli.brief_command import BriefCommand, BriefGroup
from tabwright.cli.commands.compare import compare
from tabwright.cli.commands.distill import distill
from tabwright.cli.commands.evaluate import evaluate
from tabwright.cli.commands.explain import explain
from tabwright.cli.commands.export import export
from tabwright.cli.commands.importance import importance
from tabwright.cli.commands.inspect import inspect
from tabwright.cli.commands.modes import modes
from tabwright.cli.commands.predict import predict
from tabwright.cli.commands.serve import serve
from tabwright.cli.commands.train import train
from tabwright.cli.commands.tune import tune
from tabwright.cli.console import show_line
from tabwright.cli.errors import show_tracebacks

app = typer.Typer(
    cls=BriefGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: the panels of rich take a third of a small screen.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Neural networks for tables: from a CSV or Parquet file to a portable model.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from tabwright._version import __version__

        show_line(f"tabwright {__version__}")
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
    """What holds for every command."""
    # PyTorch and the tree libraries bring a pool of threads each: those of one that is done must
    # not spin on the cores that the next one needs. Read when the libraries are loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    show_tracebacks(traceback)


app.command(
    cls=BriefCommand,
    short_help="Train a model on a table and save it.",
    epilog="Example: tabwright train churn.csv --target churned --drop customer",
)(train)
app.command(
    cls=BriefCommand,
    short_help="Predict labels and probabilities of new rows.",
    epilog="Example: tabwright predict churn.safetensors new.csv --keep customer",
)(predict)
app.command(
    cls=BriefCommand,
    epilog="Example: tabwright evaluate churn.safetensors held_out.csv --intervals",
)(evaluate)
app.command(
    cls=BriefCommand,
    short_help="Say which columns a model relies on.",
    epilog="Example: tabwright importance churn.safetensors held_out.csv",
)(importance)
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
app.command(cls=BriefCommand, epilog="Example: tabwright inspect churn.safetensors")(inspect)
app.command(
    cls=BriefCommand,
    short_help="Write a model as one ONNX graph.",
    epilog="Example: tabwright export churn.safetensors churn.onnx",
)(export)
app.command(
    cls=BriefCommand,
    short_help="Search the settings that suit a table.",
    epilog="Example: tabwright tune churn.csv --target churned --time-limit 10m",
)(tune)
app.command(
    cls=BriefCommand,
    short_help="Serve models over HTTP.",
    epilog="Example: tabwright serve churn.safetensors --port 8000",
)(serve)
app.command(cls=BriefCommand)(modes)


def main() -> None:
    """Entry point of the command `tabwright`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name shows a stand-in for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="tabwright")
    finally:
        # The last collection of the interpreter would walk all objects of PyTorch and others, for
        # a second or more after the last line.
        gc.freeze()
