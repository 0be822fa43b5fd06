"""Commands with a help of one screen, and answers to options that they do not know."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Annotated, Any

import typer
import typer.core
from typer._click.exceptions import BadParameter, NoSuchOption, UsageError

from tabwright.cli.console import show_line, show_note

# The panel of the options that `--help` leaves out.
SETTINGS = "settings"
_ALL = "tabwright.help_all"

# What typer says of a value that does not fit, and our words for it.
_RULE = re.compile(r"Input should be ([^,]+)")
_RULES_IN_WORDS = {
    "a valid ": "a ",
    "a integer": "an integer",
    "less than or equal to": "at most",
    "greater than or equal to": "at least",
}

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
    "--hidden": "--width",
    "--units": "--width",
    "--hidden-layers": "--depth",
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
    "--metric": "--eval-metric",
    "--scoring": "--eval-metric",
    "--save": "--output",
    "--modes": "--mode",
}


_TYPED_ARGUMENT = re.compile(r"^([A-Z][A-Z.]*) <.*>$")
_BRACED = re.compile(r"^\{([A-Z]+)(?:\.\.\.)?\}")

# Commands that there are not, and what does the same.
_COMMANDS_ELSEWHERE = {
    "report": "train --report FILE",
    "fit": "train",
    "score": "evaluate",
    "test": "evaluate",
    "convert": "export",
    "search": "tune",
    "optimize": "tune",
    "info": "inspect",
    "show": "inspect",
    "help": "--help",
    "version": "--version",
}


class BriefGroup(typer.core.TyperGroup):
    """The list of commands, whose help fits a screen too."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            if isinstance(param, typer.core.TyperOption) and param.name == "show_completion":
                param.help = "Show completion for the current shell."
        return params

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command; another's name for it is answered with the one that is meant."""
        meant = _COMMANDS_ELSEWHERE.get(args[0])
        if meant is not None and args[0] not in self.commands:
            raise UsageError(f"No such command {args[0]!r}; give `tabwright {meant}`.", ctx)
        return super().resolve_command(ctx, args)


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
        try:
            return super().parse_args(ctx, list(words))
        except BadParameter as error:
            rule = _RULE.match(error.message)
            if rule is None or error.param is None or error.param.param_type_name != "option":
                raise
            must = rule[1]
            for theirs, ours in _RULES_IN_WORDS.items():
                must = must.replace(theirs, ours)
            name, option = str(error.param.name), max(error.param.opts, key=len)
            given = self.make_parser(ctx).parse_args(args=words)[0]
            if name not in given:
                option = f"{option.lstrip('-')!r} in the file of --config"
                given = ctx.default_map or {}
            raise UsageError(f"{option} must be {must}; got {given.get(name)!r}", ctx) from error

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
            name = error.option_name
            meant = _ELSEWHERE.get(name, name)
            others = [] if meant in known else _commands_with(meant, ctx)
            if others:
                raise UsageError(
                    f"{meant} is an option of {' and '.join(others)}, not of {ctx.info_name}", ctx
                ) from error
            near = get_close_matches(name, known, n=1, cutoff=0.75)
            error.possibilities = [meant] if meant in known else near
            raise
        for position, param in enumerate(given):
            once = not (param.multiple or getattr(param, "is_flag", False) or param.nargs != 1)
            if once and param.param_type_name == "option" and param in given[:position]:
                raise UsageError(f"{param.opts[0]} can be given once; it came twice", ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the line of usage: TABLE, not {TABLE}."""
        pieces = super().collect_usage_pieces(ctx)
        return [_BRACED.sub(r"\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, all of them where `--help-all` asked."""
        brief = [] if ctx.meta.get(_ALL) else self.params
        settings = [p for p in brief if getattr(p, "rich_help_panel", None) == SETTINGS]
        for option in settings:
            option.hidden = True  # type: ignore[attr-defined]
        write = formatter.write_dl
        # Types of Python, such as <str>, say nothing of what to give.
        formatter.write_dl = lambda rows, *sizes, **more: write(
            [(_TYPED_ARGUMENT.sub(r"\1", name), text) for name, text in rows], *sizes, **more
        )
        try:
            super().format_options(ctx, formatter)
        finally:
            formatter.write_dl = write
            for option in settings:
                option.hidden = False  # type: ignore[attr-defined]


def _commands_with(option: str, ctx: Any) -> list[str]:
    """The commands that have an option; `train` alone where it is one of them."""
    commands = ctx.parent.command.commands
    found = [
        name
        for name, command in commands.items()
        if any(option in param.opts for param in command.params)
    ]
    return ["train"] if "train" in found else found


def _show_all_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
        show_line(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", callback=_show_all_help, is_eager=True, help="Show the settings too."
    ),
]
