"""A table predicted part by part into a folder: what the parts are, and how one is written.

A part is there when it is whole: it is written under another name first, or, in an object store,
sent as one object. The plan beside them binds the folder to one model, table and set of options,
so that a run that was stopped goes on, and nothing of another run is taken for its own. The plan's
name is told by what it says: runs that begin at once, of which no store lets just one write a name,
leave one plan if they are the same run, and else see each other's.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from tabwright.artifact.atomic_write import check_writable, write_atomically
from tabwright.errors import TableError
from tabwright.inference.training_rows import UnfamiliarCells
from tabwright.object_stores import (
    StoredObject,
    find_objects,
    is_object_uri,
    put_object,
    remove_object,
)
from tabwright.tables import CsvFormat, write_batches
from tabwright.tables.file_readers import count_rows, file_pieces
from tabwright.tables.paths import (
    FINISHED_NAME,
    PLAN_PREFIX,
    TableFile,
    file_size,
    has_types,
    shown_paths,
    table_paths,
)
from tabwright.workflows.predict import TablePredictions
from tabwright.workflows.reading import Part

_BATCH_ROWS: Final = 65_536
# What `write_batches` writes to before a file is whole.
_UNFINISHED: Final = re.compile(r"\.tabwright-.*\.tmp")


def parts_of(table: str, rows_per_part: int, csv: CsvFormat | None) -> list[Part]:
    """The parts of a table, in its order; files without rows have none.

    Text can be read only from its start, so a file of text is one part.

    Raises `TableError` if there is no such table, or it has no rows.
    Raises `ValueError` if a part would have no rows.
    """
    if rows_per_part < 1:
        raise ValueError(f"a part must have at least 1 row; got {rows_per_part}")
    paths = table_paths(table)
    parts: list[Part] = []
    for path in paths:
        if has_types(path):
            n_parts = -(-count_rows(path) // rows_per_part)
            parts += [Part(path, number, rows_per_part) for number in range(n_parts)]
        elif _has_rows(path, csv or CsvFormat()):
            parts.append(Part(path))
    if not parts:
        raise TableError(f"{shown_paths(paths)} has no rows; a table needs at least one")
    return parts


def _has_rows(path: TableFile, csv: CsvFormat) -> bool:
    """Whether a file of text has a row, whatever it holds."""
    pieces = file_pieces(path, None, csv, is_ignored=lambda _: True)
    return any(piece.height for piece in pieces)


def plan_document(
    model: Path, table: str, parts: Sequence[Part], options: dict[str, Any]
) -> dict[str, Any]:
    """What binds a folder to a run: two runs with the same document write the same parts."""
    files = list(dict.fromkeys(part.file for part in parts))
    return {
        "model": hashlib.sha256(model.read_bytes()).hexdigest(),
        "table": table,
        "files": [[str(file), file_size(file), _modified(file)] for file in files],
        "parts": [[files.index(part.file), part.number, part.n_rows] for part in parts],
        "options": options,
    }


def _modified(file: TableFile) -> int:
    return file.modified if isinstance(file, StoredObject) else file.stat().st_mtime_ns


@dataclass(frozen=True)
class OutputFolder:
    """Where the parts go: a folder of this machine (or a shared disk), or one in a store."""

    place: str

    @property
    def is_stored(self) -> bool:
        """Whether it lies in an object store."""
        return is_object_uri(self.place)

    def part_name(self, number: int) -> str:
        """The file of a part; sorted by name, parts are in the order of the table."""
        return f"part-{number:06d}.parquet"

    def names(self) -> set[str]:
        """The files in it, but those that are not whole yet."""
        if not self.is_stored:
            folder = Path(self.place)
            found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
            return {name for name in found if not _UNFINISHED.fullmatch(name)}
        try:
            return {entry.name for entry in find_objects(self.place)[0]}
        except FileNotFoundError as error:
            if "no bucket" in str(error):
                raise
            return set()

    def _path(self, name: str) -> str:
        return f"{self.place.rstrip('/')}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        if self.is_stored:
            put_object(self._path(name), content)
        else:
            write_atomically(self._path(name), content)

    def write_table(self, name: str, pieces: Iterator[pl.DataFrame]) -> int:
        """Write a table as its pieces come, whole or not at all; the number of its rows."""
        if not self.is_stored:
            try:
                return write_batches(pieces, self._path(name))
            except FileNotFoundError:
                # The same run, started twice: the other has ended, and has tidied up.
                if FINISHED_NAME not in self.names():
                    raise
                return count_rows(Path(self._path(name)))
        with tempfile.TemporaryDirectory(prefix="tabwright-") as folder:
            path = Path(folder) / name
            n_rows = write_batches(pieces, path)
            put_object(self._path(name), path.read_bytes())
            return n_rows

    def begin(self, document: dict[str, Any]) -> set[str]:
        """Take the folder for a run, or go on with it: the files of earlier parts.

        Raises `ValueError` if it holds something else, or what another run has written.
        Raises `OSError` if it cannot be made or written.
        """
        content = json.dumps(document, indent=1).encode()
        plan_name = f"{PLAN_PREFIX}{hashlib.sha256(content).hexdigest()[:16]}.json"
        names = self.names()
        self._refuse_others(plan_name, names, document)
        if plan_name in names:
            return names
        if names:
            raise ValueError(
                f"the folder for predictions must be new or empty; {self.place} holds "
                f"{min(names)!r}; name another"
            )
        if not self.is_stored:
            try:
                Path(self.place).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise ValueError(
                    f"the predictions need a folder, which lies in folders; {error.filename} or "
                    "what it lies in is a file; name another"
                ) from error
            check_writable(Path(self._path(plan_name)))
        self.write(plan_name, content)
        try:
            self._refuse_others(plan_name, self.names(), document)
        except ValueError:
            self._remove(plan_name)
            raise
        return names

    def _remove(self, name: str) -> None:
        if self.is_stored:
            remove_object(self._path(name))
        else:
            Path(self._path(name)).unlink()

    def _refuse_others(self, plan_name: str, names: set[str], document: dict[str, Any]) -> None:
        """Refuse what another run has written."""
        for name in sorted(names - {plan_name}):
            if name.startswith(PLAN_PREFIX):
                self._refuse_other(self._path(name), document)

    def _refuse_other(self, path: str, document: dict[str, Any]) -> None:
        """Refuse the plan of another run, unless that has given way."""
        try:
            if self.is_stored:
                (stored,), _ = find_objects(path)
                with stored.open() as file:
                    content = file.read()
            else:
                content = Path(path).read_bytes()
        except FileNotFoundError:
            # It began at the same moment, and has given way.
            return
        try:
            earlier = json.loads(content)
        except ValueError as error:
            raise ValueError(
                f"the plan {path} must be one that a run wrote; it is damaged; name another folder"
            ) from error
        for key, value in document.items():
            if earlier.get(key) != value:
                several = key in ("files", "parts", "options")
                other = f"another (its {key} differ)" if several else f"another {key}"
                raise ValueError(
                    f"a folder is for the predictions of one run; {self.place} holds those of "
                    f"{other}; name another folder, or remove this one"
                )

    def end(self, n_parts: int) -> int:
        """All parts are there: say so, remove what killed writers left; the number of rows.

        Raises `RuntimeError` if a part is not there.
        """
        names = self.names()
        missing = [self.part_name(n) for n in range(n_parts) if self.part_name(n) not in names]
        if missing:
            raise RuntimeError(f"{self.place} lacks {missing[0]}, which was written; run it again")
        n_rows = sum(count_rows(path) for path in self._parts())
        if not self.is_stored:
            for path in Path(self.place).glob(".tabwright-*.tmp"):
                path.unlink()
        self.write(FINISHED_NAME, json.dumps({"rows": n_rows, "parts": n_parts}).encode())
        return n_rows

    def _parts(self) -> list[TableFile]:
        return table_paths(self._path("part-*.parquet"))


@dataclass(frozen=True)
class WrittenPart:
    """What came of a part.

    `unfamiliar`: what was strange in its rows.
    """

    number: int
    n_rows: int
    unfamiliar: UnfamiliarCells


def write_part(
    predictions: TablePredictions, parts: Sequence[Part], number: int, folder: OutputFolder
) -> WrittenPart:
    """Predict a part and write it, whole or not at all.

    Raises `TableError` if a cell does not fit its column; with the part's file and rows.
    Raises `OSError` if it cannot be written.
    """
    unfamiliar = UnfamiliarCells(predictions.model.encoder)
    pieces = predictions.pieces(_BATCH_ROWS, unfamiliar, parts[number])
    n_rows = folder.write_table(folder.part_name(number), pieces)
    return WrittenPart(number, n_rows, unfamiliar)
