"""Options that several commands of the command line share, and what shells complete.

The options of reading are said once: `takes_reading_options` gives them to a command.
"""

from __future__ import annotations

import csv
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer
import typer.core
from typer._click.exceptions import NoSuchOption, UsageError

from tabwright.cli.console import say, show_note
from tabwright.cli.settings_file import apply_settings

if TYPE_CHECKING:
    from tabwright.tables.csv_reader import CsvFormat
    from tabwright.tables.roles import Role

__all__ = [
    "SETTINGS",
    "BriefCommand",
    "Config",
    "HelpAll",
    "JsonFlag",
    "ModelFile",
    "Overwrite",
    "QuietFlag",
    "ReadingOptions",
    "SaveConfig",
    "complete_calibration",
    "complete_decision",
    "complete_encoding",
    "complete_metric",
    "complete_mode",
    "complete_task",
    "complete_teacher",
    "names_of",
    "takes_reading_options",
]

SETTINGS = "settings"
_ALL = "tabwright.help_all"

# Options of before, and those that do it now.
_FORMER = {"--layers": "--depth"}
# What the same thing is called elsewhere.
_ELSEWHERE = {
    "--lr": "--learning-rate",
    "--eta": "--learning-rate",
    "--wd": "--weight-decay",
    "--l2": "--weight-decay",
    "--max-epochs": "--epochs",
    "--n-epochs": "--epochs",
    "--iterations": "--epochs",
    "--n-members": "--members",
    "--ensemble": "--members",
    "--n-estimators": "--members",
    "--early-stopping": "--patience",
    "--early-stopping-rounds": "--patience",
    "--hidden-dim": "--width",
    "--hidden-size": "--width",
    "--num-hidden-layers": "--depth",
    "--num-layers": "--depth",
    "--n-layers": "--depth",
    "--batch": "--batch-size",
    "--test-size": "--test-fraction",
    "--val-fraction": "--validation-fraction",
    "--validation-size": "--validation-fraction",
    "--random-state": "--seed",
    "--random-seed": "--seed",
    "--n-jobs": "--threads",
    "--num-threads": "--threads",
    "--cv": "--folds",
    "--n-folds": "--folds",
    "--n-splits": "--folds",
    "--label": "--target",
    "--y": "--target",
    "--training-mode": "--mode",
    "--sep": "--delimiter",
    "--separator": "--delimiter",
    "--na-values": "--missing",
    "--model": "--mode",
    "--sample-weight": "--weight",
    "--weights": "--weight",
    "--groups": "--group",
    "--time-column": "--time",
    "--exclude": "--drop",
    "--ignore": "--drop",
    "--out": "--output",
    "--force": "--overwrite",
    "--log-dir": "--tensorboard",
    "--max-memory": "--memory",
    "--positive-label": "--positive",
    "--pos-label": "--positive",
    "--columns": "--keep",
    "--id": "--keep",
    "--cutoff": "--threshold",
}


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

    `--help-all` shows them. They are not hidden: shells complete them. An option that takes one
    value is refused where it comes twice, and an unknown one is answered with the one meant.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line."""
        words = [self._of_today(word) for word in args]
        if not ctx.resilient_parsing:
            self._check_words(ctx, list(words))
        return super().parse_args(ctx, words)

    def _of_today(self, word: str) -> str:
        name, equals, value = word.partition("=")
        now = _FORMER.get(name)
        if now is None or not any(now in param.opts for param in self.params):
            return word
        show_note(f"{name} is called {now} now, and will go; give {now}")
        return f"{now}{equals}{value}"

    def _check_words(self, ctx: Any, words: list[str]) -> None:
        """Refuse repeated options, and say which one an unknown one may mean."""
        known = [opt for param in self.params for opt in param.opts]
        try:
            _, _, given = self.make_parser(ctx).parse_args(args=words)
        except NoSuchOption as error:
            meant = _ELSEWHERE.get(error.option_name)
            if meant in known:
                error.possibilities = [str(meant)]
            raise
        for position, param in enumerate(given):
            once = not (param.multiple or getattr(param, "is_flag", False) or param.nargs != 1)
            if once and param.param_type_name == "option" and param in given[:position]:
                raise UsageError(f"{param.opts[0]} can be given once; it came twice", ctx)

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


def names_of(given: list[str] | None) -> list[str] | None:
    """Names of columns, of which one option may hold several: A,B or '"A, or B",C'."""
    if given is None:
        return None
    return [name for text in given for name in next(csv.reader([text], skipinitialspace=True), [])]


Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files of another table or target too.",
        rich_help_panel=SETTINGS,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=apply_settings,
        help="TOML of options; others given here come first.",
        rich_help_panel=SETTINGS,
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option(
        "--save-config",
        metavar="FILE",
        help="Write the options of this run there, for --config.",
        rich_help_panel=SETTINGS,
    ),
]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `train` saved.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]
HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", callback=_show_all_help, is_eager=True, help="Show the settings too."
    ),
]


@dataclass(frozen=True)
class ReadingOptions:
    """What the user says of a table's files.

    Parameters
    ----------
    csv : CsvFormat or None
        None where nothing was said.
    roles : dict of str to Role
    """

    csv: CsvFormat | None
    roles: dict[str, Role]


def _reading_options(
    encoding: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the text [found out].", rich_help_panel=SETTINGS),
    ] = None,
    decimal: Annotated[
        str | None,
        typer.Option(metavar="MARK", help=". or , [found out].", rich_help_panel=SETTINGS),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="SIGN", help="Between cells; tab: \\t [found out].", rich_help_panel=SETTINGS
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether the first line has the names.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    quotes: Annotated[
        bool,
        typer.Option(
            "--quotes/--no-quotes", help="Whether quotes enclose cells.", rich_help_panel=SETTINGS
        ),
    ] = True,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Is a missing cell, in place of NA, null ...; may come again; '': empty ones.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
) -> CsvFormat | None:
    """How the files are written; None where nothing was said."""
    from tabwright.settings import NumericEncoding
    from tabwright.tables.csv_reader import CsvFormat

    if encoding in get_args(NumericEncoding):
        raise ValueError(
            f"--encoding is of the table's text, such as cp1252; got {encoding!r}; the encoding of "
            "numbers is --numeric-encoding"
        )
    if (encoding, decimal, delimiter, header, quotes, missing) == (
        None,
        None,
        None,
        None,
        True,
        None,
    ):
        return None
    return CsvFormat(
        has_header=header,
        delimiter="\t" if delimiter in ("\\t", "tab") else delimiter,
        encoding=encoding,
        decimal=_decimal_mark(decimal),
        quotes=quotes,
        missing=None if missing is None else tuple(missing),
    )


def _decimal_mark(text: str | None) -> Literal[".", ","] | None:
    if text not in (None, ".", ","):
        raise ValueError(f"--decimal must be . or ,; got {text!r}")
    return None if text is None else "," if text == "," else "."


def _role_option(
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=ROLE",
            help="numeric, category, boolean, datetime, identifier, text; may come again.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
) -> dict[str, Role]:
    """Roles by column."""
    from tabwright.tables.roles import Role

    roles: dict[str, Role] = {}
    for text in role or ():
        # A name may hold the sign.
        name, sign, wanted = text.rpartition("=")
        known = next((own for own in get_args(Role) if own == wanted), None)
        if not sign or known is None:
            raise ValueError(
                f"--role must be COLUMN=ROLE with one of {', '.join(get_args(Role))}; got {text!r}"
            )
        roles[name] = known
    return roles


def takes_reading_options(*, roles: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of reading, in place of its parameter `reading`.

    Parameters
    ----------
    roles : bool
        Whether there is `--role` too: where a model is fitted.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        shared = {"csv": _reading_options} | ({"roles": _role_option} if roles else {})
        parameters: list[inspect.Parameter] = []
        for function in (command, *shared.values()):
            hints = get_type_hints(function, include_extras=True, localns=_hints())
            parameters += [
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
                for name, parameter in inspect.signature(function).parameters.items()
                if name != "reading"
            ]

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            def reading() -> ReadingOptions:
                found: dict[str, Any] = {"roles": {}}
                for use, function in shared.items():
                    own = inspect.signature(function).parameters
                    found[use] = function(**{name: taken[name] for name in own})
                return ReadingOptions(**found)

            names = {name for f in shared.values() for name in inspect.signature(f).parameters}
            taken = {name: given.pop(name) for name in names}
            command(**given, reading=reading)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {own.name: own.annotation for own in parameters}
        del wrapper.__wrapped__  # its signature is not this one
        return wrapper

    return decorated


def _hints() -> dict[str, Any]:
    """Names of annotations that are known to type checkers alone."""
    return {"CsvFormat": Any, "Role": Any}
