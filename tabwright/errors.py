"""The errors of the library that callers may want to catch, and how to install what is missing."""

import inspect
import json
import os
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname


class ArtifactError(ValueError):
    """A file is not an artifact that can be trusted and read; the message says what and where."""


class TableError(ValueError):
    """A table, a column or a cell is not what it has to be; the message names it."""


class TableNotFoundError(TableError, FileNotFoundError):
    """There is no such table on this machine."""


class ParityError(RuntimeError):
    """An exported graph does not say what its model says; nothing was written."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of the package that led here.

    As `skip_file_prefixes` does from Python 3.12 on.
    """
    folder = os.path.dirname(__file__) + os.sep
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(folder):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def no_such_file(source: str) -> str:
    """That a file is missing, with the nearest name of its folder, or where it was looked for."""
    path = Path(source)
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest_name(path.name, siblings, otherwise=f"looked in {path.parent.resolve()}")
    return f"there is no file {source}{hint}"


def nearest_name(name: object, known: Iterable[str], *, otherwise: str = "") -> str:
    """How an error about an unknown name ends: with the nearest one of those that are known.

    `otherwise`: what to say where none is near.
    """
    # Short for a long name, as in mlp for mlp_dense, is near enough if nothing else is.
    names = list(known)
    near = get_close_matches(str(name), names, n=1) or [
        whole for whole in names if len(str(name)) > 2 and whole.startswith(str(name))
    ]
    hint = f"did you mean {near[0]!r}?" if near else otherwise
    return f"; {hint}" if hint else ""


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation, from where it was installed.

    An installation from a folder or a URL records that in `direct_url.json` (PEP 610); one from a
    package index records nothing.
    """
    from importlib import metadata

    try:
        recorded = metadata.distribution("tabwright").read_text("direct_url.json")
    except metadata.PackageNotFoundError:  # the source tree alone, on the path
        return f'pip install --editable "{Path(__file__).parents[1]}[{extra}]"'
    if not recorded:
        return f'pip install "tabwright[{extra}]"'
    origin = json.loads(recorded)
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        folder = url2pathname(urlsplit(origin["url"]).path)
        return f'pip install {editable}"{folder}[{extra}]"'
    url = origin["url"]
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f'pip install "tabwright[{extra}] @ {url}"'
