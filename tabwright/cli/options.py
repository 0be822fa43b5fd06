"""Options that several commands of the command line share, and what shells complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import typer.core

from tabwright.cli.console import say

__all__ = [
    "SETTINGS",
    "BriefCommand",
    "HelpAll",
    "JsonFlag",
    "ModelFile",
    "QuietFlag",
    "complete_calibration",
    "complete_decision",
    "complete_encoding",
    "complete_metric",
    "complete_mode",
    "complete_task",
    "complete_teacher",
]

SETTINGS = "settings"
_ALL = "tabwright.help_all"


def complete_mode(incomplete: str) -> list[str]:
    """Training modes that begin so."""
    from tabwright.settings import TRAINING_MODES

    return _beginning(TRAINING_MODES, incomplete)


def complete_task(incomplete: str) -> list[str]:
    """Tasks that begin so."""
    from tabwright.settings import Task

    return _beginning(get_args(Task), incomplete)


def complete_encoding(incomplete: str) -> list[str]:
    """Encodings of numbers that begin so."""
    from tabwright.settings import NumericEncoding

    return _beginning(get_args(NumericEncoding), incomplete)


def complete_calibration(incomplete: str) -> list[str]:
    """Calibrations that begin so."""
    from tabwright.settings import CalibrationName

    return _beginning((*get_args(CalibrationName), "none"), incomplete)


def complete_teacher(incomplete: str) -> list[str]:
    """Tree ensembles that begin so."""
    from tabwright.distillation.trees import TEACHER_KINDS

    return _beginning(TEACHER_KINDS, incomplete)


def complete_decision(incomplete: str) -> list[str]:
    """Beginnings of `--decision`."""
    words = ("f1", "balanced_accuracy", "recall=", "precision=", "costs=")
    return _beginning(words, incomplete)


def complete_metric(incomplete: str) -> list[str]:
    """Metrics that can judge a comparison."""
    words = ("log_loss", "accuracy", "balanced_accuracy", "auc", "average_precision")
    return _beginning((*words, "rmse", "mae", "r2"), incomplete)


def _beginning(words: Sequence[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


class BriefCommand(typer.core.TyperCommand):
    """A command whose help leaves the options of the panel `SETTINGS` out, so it fits a screen.

    `--help-all` shows them. They are not hidden: shells complete them.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, all of them where `--help-all` asked."""
        brief = [] if ctx.meta.get(_ALL) else self.params
        settings = [p for p in brief if getattr(p, "rich_help_panel", None) == SETTINGS]
        for option in settings:
            option.hidden = True  # type: ignore[attr-defined]
        try:
            super().format_options(ctx, formatter)
        finally:
            for option in settings:
                option.hidden = False  # type: ignore[attr-defined]


def _show_all_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
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
