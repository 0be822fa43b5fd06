"""Options of a run in a TOML file: read by `--config`, written by `--save-config`."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer
from typer._click.core import ParameterSource
from typer._click.exceptions import UsageError

from tabwright._version import __version__
from tabwright.cli.option_names import setting_of
from tabwright.errors import nearest_name, no_such_file

# Where a run writes or what it prints is no part of what is to be repeated.
_NOT_KEPT = frozenset({"config", "save_config", "as_json", "quiet", "help_all", "overwrite"})
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


def _names(context: typer.Context) -> dict[str, Any]:
    """The parameters of a command by the name that a file has for them."""
    names = {}
    for param in context.command.params:
        if param.name not in _NOT_KEPT:
            names[max(param.opts, key=len).lstrip("-")] = param
    return names


def apply_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults of the command.

    Raises `UsageError` if the file cannot be read, is no TOML, or names no option of the command.
    """
    if path is None or context.resilient_parsing:
        return path
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config: {no_such_file(str(path))}", context) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--config must be a TOML file; {path}: {error}", context) from error
    known = _names(context)
    defaults: dict[str, Any] = {}
    for name, value in settings.items():
        param = known.get(name)
        if param is None:
            hint = nearest_name(name, known, otherwise=f"known are {', '.join(known)}")
            raise UsageError(f"{path} must name options of this command; got {name!r}{hint}")
        if isinstance(value, dict) or isinstance(value, list) != bool(param.multiple):
            wanted = "a list" if param.multiple else "one value"
            raise UsageError(f"{name!r} in {path} must be {wanted}; got {value!r}")
        is_flag = param.param_type_name == "option" and param.is_flag
        if isinstance(value, bool) != is_flag:
            wanted = "true or false" if is_flag else "a value, neither true nor false"
            raise UsageError(f"{name!r} in {path} must be {wanted}; got {value!r}")
        defaults[str(param.name)] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _given(context: typer.Context) -> dict[str, tuple[Any, Any]]:
    """What was given to a command, by the command line or a file: parameters and values by name."""
    found = {}
    for name, param in _names(context).items():
        source = context.get_parameter_source(str(param.name))
        value = context.params.get(str(param.name))
        if source in _GIVEN and value is not None:
            if name == "drop":
                # One text may name several columns; a name with a comma stands in quotes.
                value = [_quoted(column) for column in value]
            found[name] = (param, value)
    return found


def _quoted(name: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([name])
    return text.getvalue()


def settings_text(context: typer.Context, used: Mapping[str, Any]) -> str:
    """What was given to a command, on the command line or by a file, as TOML.

    `used`: settings of the fit by argument; those that nobody gave follow as comments, for versions
        whose defaults are others.
    """
    found = _given(context)
    lines = [_line(name, value) for name, (_, value) in found.items()]
    lines += ["", f"# Not given; what tabwright {__version__} took:"]
    for name, param in _names(context).items():
        default = context.params.get(str(param.name))
        value = used.get(setting_of(name), default)
        if name in found or param.param_type_name != "option" or value is None:
            continue
        if isinstance(value, list | tuple) and not param.multiple:
            value = ",".join(map(str, value))
        lines.append(f"# {_line(name, value)}")
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    plain = [str(v) for v in value] if isinstance(value, list | tuple) else value
    plain = str(plain) if isinstance(plain, Path) else plain
    return f"{name} = {json.dumps(plain, ensure_ascii=False)}"


def options_for(command: str, context: typer.Context, *, but: Collection[str]) -> list[str]:
    """The options given to this command that another one has too, as words for it.

    `but`: names of those that mean something else there.
    """
    assert context.parent is not None
    other = context.parent.command.get_command(context.parent, command)  # type: ignore[attr-defined]
    theirs = {option for param in other.params for option in param.opts}
    words: list[str] = []
    for name, (param, value) in _given(context).items():
        option = max(param.opts, key=len)
        if name in but or param.param_type_name != "option" or option not in theirs:
            continue
        if isinstance(value, bool):
            words += [option] if value else param.secondary_opts
            continue
        for cell in value if isinstance(value, list | tuple) else [value]:
            words += [option, str(cell)]
    return words
