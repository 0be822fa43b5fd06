"""Which files make up a table, and in which format each is."""

from __future__ import annotations

import bz2
import functools
import glob
import gzip
import importlib
import lzma
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final, Literal

from tabwright.errors import TableError, TableNotFoundError, install_command, no_such_file
from tabwright.object_stores import StoredObject, find_objects, is_object_uri

Source = str | os.PathLike[str] | StoredObject | Sequence[str | os.PathLike[str] | StoredObject]
TableFile = Path | StoredObject
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
# Beside the parts of a table that is written part by part: what they are, and that all are there.
PLAN_PREFIX: Final = "_tabwright-"
FINISHED_NAME: Final = "_SUCCESS"
_PACKED: Final = frozenset[FileFormat](("csv", "jsonl"))
_PACKINGS: Final = (".gz", ".zip", ".bz2", ".xz", ".zst")
# How compressed files begin, whatever they are called.
_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZIP: Final = b"PK\3\4"
_FROM_PIPES: Final = ("-", "/dev/stdin")
# What the readers of compressed files raise at damaged ones.
DAMAGED: Final[tuple[type[Exception], ...]] = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
)


def table_paths(source: Source) -> list[TableFile]:
    """The files that a path, a pattern, a folder or a list of these names, in order.

    Those that begin with ``s3://`` or ``gs://`` lie in an object store.

    Raises `TableError` if there is no such file, an extension is unknown, or formats differ.
    """
    if isinstance(source, StoredObject):
        return [source]
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


def _expanded(source: str) -> list[TableFile]:
    """The files of a path, folder, pattern, pipe or object store."""
    if is_object_uri(source):
        objects, is_folder = find_objects(source)
        inside = [entry for entry in objects if not is_folder or _is_table(entry)]
        if is_folder:
            _refuse_unfinished(source, {entry.name for entry in objects})
        if not inside:
            raise TableError(f"the folder {source} has no table in it; {_extensions()}")
        return [*inside]
    path = Path(source)
    if source in _FROM_PIPES or path.is_fifo():
        return [_from_pipe("-" if source in _FROM_PIPES else source)]
    if path.is_dir():
        entries = list(path.iterdir())
        _refuse_unfinished(source, {entry.name for entry in entries})
        files = sorted(entry for entry in entries if entry.is_file() and _is_table(entry))
        if not files:
            raise TableError(f"the folder {source} has no table in it; {_extensions()}")
        return [*files]
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
        return [*files]
    raise TableNotFoundError(no_such_file(source))


def _refuse_unfinished(source: str, names: set[str]) -> None:
    """Refuse a folder of predictions some of whose parts are not there yet."""
    if FINISHED_NAME not in names and any(name.startswith(PLAN_PREFIX) for name in names):
        raise TableError(
            f"the folder {source} must hold all parts of its predictions; the run that writes them "
            "has not ended; run the same command again, and it writes those that are missing"
        )


def table_stem(source: str) -> str:
    """What files made from a table are named after: its name without the extension."""
    if source in _FROM_PIPES:
        return "stdin"
    name = Path(source.rstrip("/*")).name.replace("*", "")
    name = name[: len(unpacked_name(Path(name)))]
    lower = name.lower()
    kind = next((known for known in _FORMATS if lower.endswith(known)), "")
    return name[: len(name) - len(kind)] or "table"


def unpacked_name(path: TableFile) -> str:
    """The name in lower case without .gz and the like; of a .zip, that of the file in it."""
    name = path.name.lower()
    packing = next((known for known in _PACKINGS if name.endswith(known)), "")
    name = name.removesuffix(packing)
    if packing == ".zip" and Path(name).suffix not in _FORMATS and path.is_file():
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return Path(_member(path, archive)).name.lower()
    return name


def is_packed(path: TableFile) -> bool:
    """Whether a file is compressed as a whole, by its name."""
    return path.name.lower().endswith(_PACKINGS)


def extension_of(path: TableFile) -> tuple[str, bool]:
    """The extension in lower case without .gz and the like, and whether there is one of these."""
    try:
        return Path(unpacked_name(path)).suffix, is_packed(path)
    except zipfile.BadZipFile as error:
        raise TableError(f"{path} must be a whole zip file; {error}; copy it again") from error


@contextmanager
def opened(path: TableFile) -> Iterator[IO[bytes]]:
    """The bytes of a file, uncompressed: gzip, bzip2, xz, Zstandard, or a zip file of one table.

    Raises `TableError` if a zip file holds no table, or several, or is an Excel workbook;
        `ImportError`: naming the install line, if Zstandard needs a package that is not there.
    """
    with path.open("rb") as plain:
        start = plain.read(6)
        plain.seek(0)
        if start.startswith(_ZIP):
            with zipfile.ZipFile(plain) as archive, archive.open(_member(path, archive)) as stream:
                yield stream
            return
        with _reader(start)(plain) as stream:
            yield stream


def _reader(start: bytes) -> Any:
    """What uncompresses an open file that begins so."""
    if start.startswith(_GZIP):
        return gzip.open
    if start.startswith(_BZIP2):
        return bz2.open
    if start.startswith(_XZ):
        return lzma.open
    if start.startswith(_ZSTD):
        return _zstandard().open
    return nullcontext


def _zstandard() -> Any:
    """The module that reads Zstandard, which is in the standard library from Python 3.14 on."""
    # In the standard library from Python 3.14 on.
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise ImportError(
        f"reading Zstandard needs zstandard, which is not installed; run: {install_command('zstd')}"
    )


def _member(path: TableFile, archive: zipfile.ZipFile) -> str:
    """The one table in a zip file."""
    names = [name for name in archive.namelist() if not name.endswith("/")]
    if "[Content_Types].xml" in names:
        raise TableError(f"{path} is an Excel workbook by its content; give it the extension .xlsx")
    tables = [name for name in names if not name.startswith("__MACOSX/")]
    tables = [name for name in tables if Path(name).suffix.lower() in _FORMATS] or tables
    if len(tables) != 1:
        held = f"{len(tables)} files, such as {tables[:3]}" if tables else "no file"
        raise TableError(
            f"{path}: a zip file must hold one table; got {held}; unpack it, and name the folder"
        )
    return tables[0]


@functools.cache
def _pipe_folder() -> tempfile.TemporaryDirectory[str]:
    # `cli/option_names.py` knows the copies by this name.
    return tempfile.TemporaryDirectory(prefix="tabwright-pipe-")


@functools.cache
def _from_pipe(source: str) -> Path:
    """What comes through a pipe, as a file: tables are read more than once, a pipe but once."""
    name = "stdin" if source == "-" else f"pipe-{Path(source).name}"
    raw = Path(_pipe_folder().name) / name
    with raw.open("wb") as copy:
        if source == "-":
            shutil.copyfileobj(sys.stdin.buffer, copy)
        else:
            with Path(source).open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
    with raw.open("rb") as copied:
        start = copied.read(64)
    return raw.rename(raw.with_name(name + _extension_by_content(start)))


def _extension_by_content(start: bytes) -> str:
    if start.startswith(_ZIP):
        return ".zip"
    if start.startswith(b"PAR1"):
        return ".parquet"
    if start.startswith(b"ARROW1"):
        return ".arrow"
    return ".jsonl" if start.lstrip(b"\xef\xbb\xbf \r\n").startswith(b"{") else ".csv"


def _is_table(path: TableFile) -> bool:
    """Whether a file of a folder is part of its table, by its name."""
    return path.name[0] not in "._" and extension_of(path)[0] in _FORMATS


def _extensions() -> str:
    return f"tables end in {' '.join(_FORMATS)}, or in .csv.gz, .csv.zip and the like"


def table_format(path: TableFile) -> FileFormat:
    """The format of a file by its extension.

    Raises `TableError` if it is none of those that are known, or packed where the format packs
        itself.
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
        raise TableError(
            f"{path}: {kind} files are compressed inside; unpack the {path.suffix} first"
        )
    return kind


def has_types(path: TableFile) -> bool:
    """Whether files of its format say the types of columns, and hold numbers to the last bit.

    Raises `TableError`: as `table_format`.
    """
    return table_format(path) in ("parquet", "arrow")


def file_size(path: TableFile) -> int:
    """Bytes of a file."""
    return path.size if isinstance(path, StoredObject) else path.stat().st_size


def shown_paths(paths: Sequence[TableFile]) -> str:
    """Files for a message: the first, and how many more."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
