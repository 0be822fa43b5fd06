"""Tables in files: reading, whole and in batches.

CSV, TSV, JSON lines, Parquet, Arrow (Feather) and Excel; one file, a list, a pattern or a folder
of files with one schema. How CSV text is cut into records lives in `csv_text.py`, writing in
`table_writer.py`.
"""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import polars as pl

from ai.ml.frameworks.pytorch.cells import (
    MISSING_MARKERS,
    NUMERIC_MARKERS,
    TableError,
    parse_instants,
    read_text,
    refuse_nested,
)
from ai.ml.frameworks.pytorch.csv_text import CsvFormat, csv_frames, text_blocks

__all__ = [
    "CsvFormat",
    "Source",
    "iter_tables",
    "read_table",
    "read_with_notes",
    "table_dtypes",
]

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
FileFormat = Literal["csv", "jsonl", "parquet", "arrow", "excel"]
Dtypes = Mapping[str, pl.DataType | type[pl.DataType]]

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
_TEXT_CHUNK_BYTES: Final = 8 * 2**20
_READ_CHUNK_BYTES: Final = 64 * 2**20


def read_table(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
    sheet: str | None = None,
) -> pl.DataFrame:
    """Read a table from a file, or from several with one schema.

    Columns of CSV files get the type that all of their cells have (`cells.read_text`); the other
    formats bring types of their own.

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
        The format is told by the extension: .csv .tsv .tab .txt .data, .jsonl .ndjson (each also
        .gz), .parquet .pq, .arrow .feather .ipc, .xlsx .xls .xlsb .ods. Files of a pattern or a
        folder are read in the order of their names.
    columns : sequence of str, optional
        Columns to read, in this order; all by default.
    dtypes : mapping of str to polars dtype, optional
        Types of columns, in place of those that their cells or the file suggest.
    csv : CsvFormat, optional
        How CSV files are written, where they cannot tell by themselves.
    sheet : str, optional
        Sheet of Excel files; the first by default.

    Returns
    -------
    polars.DataFrame

    Raises
    ------
    TableError
        Naming file and line or column: no such file, unknown extension, not whole, no rows, broken
        records, names that come twice, nested cells, schemas that differ.
    ImportError
        Naming the install line, if Excel files need a package that is not there.
    """
    return read_with_notes(source, columns=columns, dtypes=dtypes, csv=csv, sheet=sheet)[0]


def read_with_notes(
    source: Source,
    *,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
    sheet: str | None = None,
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read a table as `read_table` does, with what was found in its text, by column.

    Returns
    -------
    frame : polars.DataFrame
    notes : dict of str to str
        For `profile_table(frame, notes=notes)`.

    Raises
    ------
    TableError, ImportError
        As `read_table`.
    """
    layout = csv or CsvFormat()
    paths = _paths(source)
    parts = [_read_file(path, columns, layout, sheet) for path in paths]
    frame = _stacked(paths, parts)
    if not frame.height:
        raise TableError(f"{_shown(paths)} has no rows; a table needs at least one")
    notes: dict[str, str] = {}
    untyped = _format_of(paths[0]) == "csv"
    result = []
    for series in frame.get_columns():
        if dtypes is not None and series.name in dtypes:
            series = _cast(series, dtypes[series.name], layout.decimal)
        elif untyped:
            series, note = read_text(series, decimal=layout.decimal)
            if note:
                notes[series.name] = note
        result.append(series)
    return pl.DataFrame(result), notes


def table_dtypes(
    source: Source, *, columns: Sequence[str] | None = None, csv: CsvFormat | None = None
) -> dict[str, pl.DataType]:
    """The types that `read_table` gives the columns, in bounded memory.

    Files of text are read once from end to end.

    Returns
    -------
    dict of str to polars dtype

    Raises
    ------
    TableError
        As `read_table`.
    """
    layout = csv or CsvFormat()
    paths = _paths(source)
    kinds: dict[str, set[str]] = {}
    found: dict[str, pl.DataType] = {}
    for path in paths:
        for frame in _file_batches(path, columns, layout):
            if _format_of(path) != "jsonl":
                _check_same_columns(paths[0], list(kinds or found), path, frame.columns)
            for series in frame.get_columns():
                if _format_of(path) == "csv":
                    kinds.setdefault(series.name, set()).update(_kinds(series, layout.decimal))
                else:
                    known = found.get(series.name, series.dtype)
                    found[series.name] = _wider(path, series.name, known, series.dtype)
            if _format_of(path) in ("parquet", "arrow"):
                break
    absent = [name for name in columns or () if name not in kinds and name not in found]
    if absent:
        raise TableError(f"{_shown(paths)} has no column {absent[0]!r}; it has {list(found)[:10]}")
    return found | {name: _dtype_of(seen) for name, seen in kinds.items()}


def iter_tables(
    source: Source,
    *,
    batch_rows: int = 65_536,
    columns: Sequence[str] | None = None,
    dtypes: Dtypes | None = None,
    csv: CsvFormat | None = None,
) -> Iterator[pl.DataFrame]:
    """Read a table of any length in batches, in bounded memory.

    Every batch has the same columns and types, those that `read_table` would give the whole. For
    files of text without `dtypes` that takes a first pass over them (`table_dtypes`).

    Parameters
    ----------
    source : path, pattern, folder, or sequence of paths
        As in `read_table`. Excel files are read whole.
    batch_rows : int, default=65_536
        Rows per batch; the last may have fewer.
    columns : sequence of str, optional
    dtypes : mapping of str to polars dtype, optional
        Types of all columns that are read, e.g. of an earlier `table_dtypes`.
    csv : CsvFormat, optional

    Yields
    ------
    polars.DataFrame

    Raises
    ------
    TableError
        As `read_table`; naming column, row of the table (from 1) and value, if a cell does not
        fit its column's type.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1; got {batch_rows}")
    layout = csv or CsvFormat()
    paths = _paths(source)
    schema: Dtypes = table_dtypes(source, columns=columns, csv=csv) if dtypes is None else dtypes
    return _batches(paths, batch_rows, columns, schema, layout)


# ---------------------------------------------------------------------------------------------
# Which files
# ---------------------------------------------------------------------------------------------


def _paths(source: Source) -> list[Path]:
    if not isinstance(source, str | os.PathLike):
        paths = [path for part in source for path in _paths(part)]
        if not paths:
            raise TableError("a list of files must name at least one; got none")
    else:
        paths = _expanded(os.fspath(source))
    kinds = {_format_of(path) for path in paths}
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
        raise TableError(f"{source} is no file on this machine; download it first")
    if glob.has_magic(source):
        found = sorted(Path(match) for match in glob.glob(source, recursive=True))
        files = [match for match in found if match.is_file()]
        if not files:
            raise TableError(f"no file matches the pattern {source}; check folder and spelling")
        return files
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"looked in {path.parent.resolve()}"
    raise TableError(f"there is no file {source}; {hint}")


def _extension(path: Path) -> tuple[str, bool]:
    name = path.name.lower()
    packed = name.endswith(".gz")
    return Path(name.removesuffix(".gz")).suffix, packed


def _known(path: Path) -> bool:
    return _extension(path)[0] in _FORMATS


def _extensions() -> str:
    return f"tables end in {' '.join(_FORMATS)}, or in .csv.gz and the like"


def _format_of(path: Path) -> FileFormat:
    extension, packed = _extension(path)
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


def _shown(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


# ---------------------------------------------------------------------------------------------
# One file
# ---------------------------------------------------------------------------------------------


def _read_file(
    path: Path, columns: Sequence[str] | None, layout: CsvFormat, sheet: str | None
) -> pl.DataFrame:
    kind = _format_of(path)
    if kind == "csv":
        frames = csv_frames(path, layout, chunk_bytes=_READ_CHUNK_BYTES)
        return pl.concat([_selected(path, frame, columns) for frame in frames])
    if kind == "jsonl":
        parts = list(_json_frames(path, columns, layout.encoding, _READ_CHUNK_BYTES))
        return _selected(path, pl.concat(parts, how="diagonal_relaxed"), columns)
    if kind == "excel":
        return _selected(path, _read_excel(path, sheet), columns)
    try:
        frame = pl.read_parquet(path, glob=False) if kind == "parquet" else _read_arrow(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, kind, error) from error
    return _selected(path, frame, columns)


def _read_arrow(path: Path) -> pl.DataFrame:
    with path.open("rb") as file:
        magic = file.read(6)
    return pl.read_ipc(path) if magic == b"ARROW1" else pl.read_ipc_stream(path)


def _damaged(path: Path, kind: FileFormat, error: Exception) -> TableError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TableError(
        f"{path} must be a whole {kind} file; it is damaged, cut short or something else "
        f"({reason}); copy or write it again"
    )


def _selected(path: Path, frame: pl.DataFrame, columns: Sequence[str] | None) -> pl.DataFrame:
    if columns is not None:
        for name in columns:
            if name not in frame.columns:
                near = get_close_matches(name, frame.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {frame.columns[:10]}"
                raise TableError(f"{path} has no column {name!r}; {hint}")
        frame = frame.select(columns)
    for series in frame.get_columns():
        try:
            refuse_nested(series)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None
    return frame


def _read_excel(path: Path, sheet: str | None) -> pl.DataFrame:
    if find_spec("fastexcel") is None:
        raise ImportError(
            f'reading {path} needs the package fastexcel: pip install "tabwright[excel]"'
        )
    import fastexcel

    try:
        book = fastexcel.read_excel(path)
        if sheet is not None and sheet not in book.sheet_names:
            raise TableError(f"{path} has no sheet {sheet!r}; it has {book.sheet_names}")
        name = book.sheet_names[0] if sheet is None else sheet
        head = book.load_sheet(name, header_row=None, n_rows=1, dtypes="string").to_polars()
        frame = pl.read_excel(path, sheet_name=name, infer_schema_length=None, raise_if_empty=False)
    except (fastexcel.FastExcelError, pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, "excel", error) from error
    if not head.height:
        raise TableError(f"{path} is empty; a table needs a line of column names and rows")
    names = [str(cell).strip() for cell in head.row(0) if cell is not None and str(cell).strip()]
    repeated, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise TableError(
            f"{path}: column names must differ; {repeated!r} comes {count} times; rename the copies"
        )
    return frame


def _json_frames(
    path: Path, columns: Sequence[str] | None, encoding: str, chunk_bytes: int
) -> Iterator[pl.DataFrame]:
    rest = b""
    first_line = 1
    n_frames = 0
    for block in text_blocks(path, encoding, chunk_bytes=chunk_bytes):
        rest += block
        end = rest.rfind(b"\n") + 1
        if end:
            if rest[:end].strip():
                n_frames += 1
                yield _json_frame(path, rest[:end], first_line, columns)
            first_line += rest.count(b"\n", 0, end)
            rest = rest[end:]
    if rest.strip():
        n_frames += 1
        yield _json_frame(path, rest, first_line, columns)
    if not n_frames:
        raise TableError(f"{path} is empty; a table needs at least one row")


def _json_frame(
    path: Path, data: bytes, first_line: int, columns: Sequence[str] | None
) -> pl.DataFrame:
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(data.splitlines(), first_line):
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError as fault:
                raise TableError(
                    f"{path}, line {number}: every line must be one JSON object; got "
                    f"{line[:60].decode(errors='replace')!r} ({fault}); repair the line"
                ) from None
            if not isinstance(row, dict):
                raise TableError(
                    f"{path}, line {number}: every line must be one JSON object; got "
                    f'{line[:60].decode(errors="replace")!r}; write it as {{"name": value}}'
                ) from None
        raise _damaged(path, "jsonl", error) from error
    if columns is None:
        return _selected(path, frame, None)
    # A row may leave out a key; whether the file has it is known at its end.
    return _selected(path, frame, [name for name in columns if name in frame.columns])


# ---------------------------------------------------------------------------------------------
# Several files, one schema
# ---------------------------------------------------------------------------------------------


def _check_same_columns(
    first: Path, expected: Sequence[str], path: Path, found: Sequence[str]
) -> None:
    if not expected or set(expected) == set(found):
        return
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    fault = f"lacks the column {missing[0]!r}" if missing else f"has the column {extra[0]!r} too"
    raise TableError(
        f"files of one table must have the same columns; {path} {fault}, unlike {first}; "
        "read them apart, or name the columns they share with columns=[...]"
    )


def _wider(path: Path, name: str, one: pl.DataType, other: pl.DataType) -> pl.DataType:
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric():
        both = pl.concat(
            [pl.Series([], dtype=one).to_frame("x"), pl.Series([], dtype=other).to_frame("x")],
            how="vertical_relaxed",
        )
        return both.schema["x"]
    if {one, other} == {pl.String(), pl.Categorical()}:
        return pl.String()
    raise TableError(
        f"files of one table must have the same types; column {name!r} of {path} is {other}, "
        f"and {one} before; convert one of them, or give dtypes={{{name!r}: ...}}"
    )


def _stacked(paths: Sequence[Path], parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    first = parts[0]
    if len(parts) == 1:
        return first
    schema = dict(first.schema)
    for path, part in zip(paths, parts, strict=True):
        _check_same_columns(paths[0], first.columns, path, part.columns)
        for name, dtype in part.schema.items():
            schema[name] = _wider(path, name, schema[name], dtype)
    return pl.concat([part.select(pl.col(n).cast(t) for n, t in schema.items()) for part in parts])


# ---------------------------------------------------------------------------------------------
# In batches
# ---------------------------------------------------------------------------------------------


def _file_batches(
    path: Path, columns: Sequence[str] | None, layout: CsvFormat, batch_rows: int = 65_536
) -> Iterator[pl.DataFrame]:
    """Pieces of a file as they come, without types of their own where it is text."""
    kind = _format_of(path)
    if kind == "csv":
        for frame in csv_frames(path, layout, chunk_bytes=_TEXT_CHUNK_BYTES):
            yield _selected(path, frame, columns)
    elif kind == "jsonl":
        yield from _json_frames(path, columns, layout.encoding, _TEXT_CHUNK_BYTES)
    elif kind == "excel":
        yield _read_file(path, columns, layout, None)
    else:
        yield from _lazy_batches(path, columns, kind, batch_rows)


def _lazy_batches(
    path: Path, columns: Sequence[str] | None, kind: FileFormat, batch_rows: int
) -> Iterator[pl.DataFrame]:
    try:
        lazy = pl.scan_parquet(path, glob=False) if kind == "parquet" else pl.scan_ipc(path)
        n_rows = int(lazy.select(pl.len()).collect().item())
        _selected(path, lazy.head(1).collect(), columns)
        if columns is not None:
            lazy = lazy.select(columns)
        for start in range(0, max(n_rows, 1), batch_rows):
            yield _selected(path, lazy.slice(start, batch_rows).collect(), None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _damaged(path, kind, error) from error


def _batches(
    paths: Sequence[Path],
    batch_rows: int,
    columns: Sequence[str] | None,
    schema: Dtypes,
    layout: CsvFormat,
) -> Iterator[pl.DataFrame]:
    waiting: list[pl.DataFrame] = []
    n_waiting = n_before = 0
    names = list(columns or (schema if _format_of(paths[0]) == "jsonl" else ()))
    for path in paths:
        for frame in _file_batches(path, columns, layout, batch_rows):
            if _format_of(path) == "jsonl":
                absent = [name for name in schema if name not in frame.columns]
                frame = frame.with_columns(pl.lit(None).alias(name) for name in absent)
            names = names or frame.columns
            _check_same_columns(paths[0], names, path, frame.columns)
            frame = pl.DataFrame(
                [
                    _cast(frame[name], schema[name], layout.decimal, n_before)
                    if name in schema
                    else frame[name]
                    for name in names
                ]
            )
            n_before += frame.height
            waiting.append(frame)
            n_waiting += frame.height
            if n_waiting >= batch_rows:
                whole = pl.concat(waiting)
                for start in range(0, n_waiting - batch_rows + 1, batch_rows):
                    yield whole.slice(start, batch_rows)
                rest = whole.slice(n_waiting - n_waiting % batch_rows)
                waiting, n_waiting = [rest], rest.height
    if not n_before:
        raise TableError(f"{_shown(paths)} has no rows; a table needs at least one")
    if n_waiting:
        yield pl.concat(waiting)


def _cast(
    series: pl.Series, dtype: pl.DataType | type[pl.DataType], decimal: str, n_before: int = 0
) -> pl.Series:
    """A column as the wanted type; a cell that does not fit raises."""
    wanted = dtype if isinstance(dtype, pl.DataType) else dtype()
    if series.dtype == wanted and wanted != pl.String:
        return series
    if series.dtype != pl.String:
        result = series.cast(wanted, strict=False)
        present = series
    else:
        present = series.str.strip_chars()
        present = present.set(present.is_in(MISSING_MARKERS), None)
        if wanted == pl.String:
            return present
        if wanted.is_numeric():
            present = present.set(present.is_in(NUMERIC_MARKERS), None)
        result = _text_as(present, wanted, decimal)
    bad = result.is_null() & present.is_not_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        raise TableError(
            f"column {series.name!r} must hold {wanted}; got {series[row]!r} in row "
            f"{n_before + row + 1}; correct the cell, leave it empty if it is missing, or read the "
            f"column as another type with dtypes={{{series.name!r}: ...}}"
        )
    return result


def _text_as(text: pl.Series, wanted: pl.DataType, decimal: str) -> pl.Series:
    """Text as the wanted type, null where a cell does not fit."""
    if wanted == pl.Boolean:
        lower = text.str.to_lowercase()
        return lower.replace_strict(
            ["true", "1", "false", "0"],
            [True, True, False, False],
            default=None,
            return_dtype=pl.Boolean,
        )
    if wanted in (pl.Date, pl.Datetime):
        moments = parse_instants(text)
        if isinstance(wanted, pl.Datetime) and wanted.time_zone is not None:
            moments = moments.dt.replace_time_zone("UTC")
        return moments.cast(wanted)
    if wanted.is_float() and decimal != ".":
        text = text.str.replace(decimal, ".", literal=True)
    return text.cast(wanted, strict=False)


# ---------------------------------------------------------------------------------------------
# Types of text, piece by piece
# ---------------------------------------------------------------------------------------------


def _kinds(series: pl.Series, decimal: str) -> set[str]:
    """What a piece of a text column shows of the column's type."""
    typed, _ = read_text(series, decimal=decimal)
    present = typed.drop_nulls()
    if not present.len():
        return set()
    dtype = typed.dtype
    if dtype == pl.Int64:
        low = present.min()
        return {"whole", "negative"} if isinstance(low, int) and low < 0 else {"whole"}
    if dtype == pl.UInt64:
        return {"whole", "wide"}
    if dtype.is_float():
        return {"float"}
    if isinstance(dtype, pl.Datetime):
        return {"moment"} if dtype.time_zone is None else {"moment", "zone"}
    if dtype == pl.Boolean:
        return {"boolean"}
    if dtype == pl.Date:
        return {"date"}
    return {"marker"} if present.is_in(NUMERIC_MARKERS).all() else {"text"}


def _dtype_of(kinds: set[str]) -> pl.DataType:
    """The type of the whole column, by what its pieces show."""
    numeric = {"whole", "negative", "wide", "float", "marker"}
    if kinds & (numeric - {"marker"}) and kinds <= numeric:
        if "wide" in kinds:
            return pl.String() if kinds & {"negative", "float"} else pl.UInt64()
        return pl.Float64() if "float" in kinds else pl.Int64()
    if kinds == {"boolean"}:
        return pl.Boolean()
    if kinds == {"date"}:
        return pl.Date()
    if kinds and kinds <= {"date", "moment", "zone"}:
        return pl.Datetime("us", "UTC" if "zone" in kinds else None)
    return pl.String()
