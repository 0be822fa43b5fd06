"""Which files make up a table, and in which format each is."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from tabwright.errors import TableError, TableNotFoundError

__all__ = ["FileFormat", "Source", "extension_of", "shown_paths", "table_format", "table_paths"]

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
FileFormat = Literal["csv", "jsonl", "parquet", "arrow", "excel"]

_FORMATS: Final[dict[str, FileFormat]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "csv",
    ".data": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".xlsx": "excel",
    ".xls": "excel",
    ".xlsb": "excel",
    ".ods": "excel",
}
_PACKED: Final = frozenset[FileFormat](("csv", "jsonl"))


def table_paths(source: Source) -> list[Path]:
    """The files that a path, a pattern, a folder or a list of these names, in order.

    Raises
    ------
    TableError
        If there is no such file, an extension is unknown, or formats differ.
    """
    if not isinstance(source, str | os.PathLike | Sequence) or isinstance(source, bytes):
        raise TableError(
            f"a table file must be named by a path, a pattern, a folder or a list of these; got "
            f"{type(source).__name__}; tables in memory need no reading"
        )
    if not isinstance(source, str | os.PathLike):
        paths = [path for part in source for path in table_paths(part)]
        if not paths:
            raise TableError("a list of files must name at least one; got none")
    else:
        paths = _expanded(os.fspath(source))
    kinds = {table_format(path) for path in paths}
    if len(kinds) > 1:
        raise TableError(
            f"files of one table must have one format; got {', '.join(sorted(kinds))}; "
            "name those that belong together with a pattern, e.g. 'folder/*.csv'"
        )
    return paths


def _expanded(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        inside = sorted(
            entry
            for entry in path.iterdir()
            if entry.is_file() and entry.name[0] not in "._" and _known(entry)
        )
        if not inside:
            raise TableError(f"the folder {source} has no table in it; {_extensions()}")
        return inside
    if path.exists():
        return [path]
    if "://" in source:
        raise TableNotFoundError(f"{source} is no file on this machine; download it first")
    if glob.has_magic(source):
        found = sorted(Path(match) for match in glob.glob(source, recursive=True))
        files = [match for match in found if match.is_file()]
        if not files:
            raise TableNotFoundError(
                f"no file matches the pattern {source}; check folder and spelling"
            )
        return files
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"looked in {path.parent.resolve()}"
    raise TableNotFoundError(f"there is no file {source}; {hint}")


def table_stem(source: str) -> str:
    """What files made from a table are named after: its name without the extension."""
    name = Path(source.rstrip("/*")).name.replace("*", "")
    lower = name.lower()
    packed = len(name) - len(lower.removesuffix(".gz"))
    name, lower = name[: len(name) - packed], lower[: len(lower) - packed]
    kind = next((known for known in _FORMATS if lower.endswith(known)), "")
    return name[: len(name) - len(kind)] or "table"


def extension_of(path: Path) -> tuple[str, bool]:
    """The extension in lower case without .gz, and whether there is a .gz."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    return Path(name.removesuffix(".gz")).suffix, packed


def _known(path: Path) -> bool:
    return extension_of(path)[0] in _FORMATS


def _extensions() -> str:
    return f"tables end in {' '.join(_FORMATS)}, or in .csv.gz and the like"


def table_format(path: Path) -> FileFormat:
    """The format of a file by its extension.

    Raises
    ------
    TableError
        If it is none of those that are known, or packed where the format packs itself.
    """
    extension, packed = extension_of(path)
    kind = _FORMATS.get(extension)
    if extension == ".json":
        raise TableError(
            f"{path}: JSON must have one object per line (.jsonl); for a list of objects: "
            "polars.read_json(path).write_ndjson('table.jsonl')"
        )
    if kind is None:
        raise TableError(f"{path} has an unknown extension ({extension!r}); {_extensions()}")
    if packed and kind not in _PACKED:
        raise TableError(f"{path}: {kind} files are compressed inside; unpack the .gz first")
    return kind


def shown_paths(paths: Sequence[Path]) -> str:
    """Files for a message: the first, and how many more."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
