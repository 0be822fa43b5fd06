"""What each column of a table is for: `profile_table` infers roles, sets columns aside, says why.

Reading files lives in `tables/reading.py`; what a cell means in `cells.py`; nothing here changes a
table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
import polars as pl

from tabwright.errors import TableError, nearest_name
from tabwright.tables.cell_format import USUAL, CellFormat, typed_cells
from tabwright.tables.cells import refuse_nested, to_booleans, to_microseconds, to_numbers
from tabwright.tables.dtypes import may_merge_levels, merges_levels, text_column
from tabwright.tables.frames import as_frame
from tabwright.tables.spellings.moments import moments_of_counts
from tabwright.tables.spellings.plain_columns import plain_columns, without_empty

Role = Literal["numeric", "boolean", "category", "datetime", "constant", "identifier", "text"]

_USED: Final[frozenset[Role]] = frozenset({"numeric", "boolean", "category", "datetime"})
# An identifier or free text is only told from a category in more rows than this.
_FEW_ROWS: Final = 100
_TEXT_UNIQUE_SHARE: Final = 0.9
_TEXT_MEAN_LENGTH: Final = 20
_TEXT_MEAN_SPACES: Final = 2.0
# How text means what these types mean, in seconds.
_SPANS: Final = {pl.Time: "clock", pl.Duration: "duration"}
_TEXT: Final = (pl.String, pl.Categorical, pl.Enum)
# In more rows than this, columns are counted on all threads.
_FEW_CELLS: Final = 10_000
_GROUP_COLUMNS: Final = 64
# Past this, the distinct values of float columns are estimated: nothing hangs on them.
_EXACT_ROWS: Final = 200_000


@dataclass(frozen=True)
class Column:
    """One column of a table, as `profile_table` sees it.

    Parameters
    ----------
    name : str
    role : Role
    dtype : str
        The polars dtype as text, without its details; a time zone is kept.
    n_missing : int
        Null cells, NaN, and text that stands for a missing cell.
    n_unique : int
        Distinct values that are not missing; an estimate for floats in long tables.
    used : bool
        Whether the column is a feature; the others are set aside.
    note : str
        Why it is set aside, or what was found in its cells; may be empty.
    form : CellFormat
        How its text is written.
    """

    name: str
    role: Role
    dtype: str
    n_missing: int
    n_unique: int
    used: bool
    note: str
    form: CellFormat = USUAL


@dataclass(frozen=True)
class TableProfile:
    """The columns of a table and their roles.

    Parameters
    ----------
    n_rows : int
    columns : tuple of Column
        In the order of the table.
    """

    n_rows: int
    columns: tuple[Column, ...]

    @property
    def used(self) -> tuple[Column, ...]:
        """The columns that are features."""
        return tuple(column for column in self.columns if column.used)

    @property
    def set_aside(self) -> tuple[Column, ...]:
        """The columns that are not, each with the reason in its `note`."""
        return tuple(column for column in self.columns if not column.used)

    def typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A table whose columns in a format of their own have types in place of text.

        Raises
        ------
        TableError
            Naming column, row and value, if a cell does not fit its column.
        """
        columns = {column.name: column for column in self.used if column.form != USUAL}
        if not columns:
            return frame
        result = []
        for series in frame.get_columns():
            column = columns.get(series.name)
            if column is not None and column.role in ("numeric", "datetime", "boolean"):
                series = typed_cells(series, column.role, column.form)
            result.append(series)
        return pl.DataFrame(result)

    def summary(self, *, max_columns: int = 200) -> str:
        """A plain-text table, a line per column; past `max_columns` the rest is counted."""
        head = ("column", "role", "type", "missing", "distinct", "used", "note")
        rows = [
            (
                _shortened(column.name),
                column.role,
                _shortened(column.dtype),
                f"{column.n_missing:,}",
                f"{column.n_unique:,}",
                "yes" if column.used else "no",
                column.note,
            )
            for column in self.columns[:max_columns]
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [f"{self.n_rows:,} rows, {len(self.columns)} columns, {len(self.used)} used"]
        for row in [head, *rows]:
            cells = [
                cell.rjust(width) if i in (3, 4) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        if len(self.columns) > max_columns:
            lines.append(f"... and {len(self.columns) - max_columns} more columns")
        return "\n".join(lines)


def profile_table(
    frame: pl.DataFrame | object,
    *,
    named: bool = True,
    roles: Mapping[str, Role] | None = None,
    notes: Mapping[str, str] | None = None,
    formats: Mapping[str, CellFormat] | None = None,
    typed: bool = False,
) -> TableProfile:
    """Infer what each column is for.

    The rules, the first that holds: no value, or one value and nothing missing, in more than one
    row is `constant`; dates, times of day with a date, text that is either, and ten or more
    integers that are all dates such as 20240131 are `datetime`; booleans and text that says true
    or false are `boolean`; numbers and text that is numbers are `numeric`, however few they are;
    all else is `category`. In more than 100 rows of a frame
    with column names, integers that are consecutive (in any order) and text or categories whose
    every cell differs are `identifier`, and text of which 90 % of the cells differ, with 20
    characters and two spaces on average, is `text`. Constants, identifiers and text are set aside.

    Parameters
    ----------
    frame : polars.DataFrame, or another table as `as_frame` takes it
        Feature columns.
    named : bool, default=True
        Whether the columns have names of their own; an array has none, and no identifiers.
    roles : mapping of str to Role, optional
        Roles for columns by name, in place of what the rules say.
    notes : mapping of str to str, optional
        What reading the file found, by column (`read_with_notes`).
    formats : mapping of str to CellFormat, optional
        How the text of columns was found to be written, by column (`read_described`).
    typed : bool, default=False
        Whether the columns in `formats` have the types of their cells already, so that what is
        text there is text.

    Returns
    -------
    TableProfile

    Raises
    ------
    TableError
        If a role names no column or is no role, if a column does not fit the role it was given,
        if cells are nested, or if every column of several rows is set aside.
    """
    if isinstance(frame, pl.DataFrame):
        for series in frame.get_columns():
            refuse_nested(series)
    else:
        frame, has_names = as_frame(frame, estimator="profile_table")
        named = named and has_names
    given = _checked_roles(frame, roles)
    columns = tuple(
        _profiled(look, given.get(name), named)
        for name, look in zip(frame.columns, _looked_at(frame, formats or {}, typed), strict=True)
    )
    for column in columns:
        if column.name in given:
            _check_fits(frame.get_column(column.name), column.role, column.form)
    if notes:
        columns = tuple(_with_note(column, notes.get(column.name, "")) for column in columns)
    if frame.height > 1 and not any(column.used for column in columns):
        reasons = "; ".join(f"{c.name!r} is {c.role}, {c.note}" for c in columns[:5])
        raise TableError(
            "a table must have at least one column to learn from; got none: "
            f"{reasons or 'it has no columns'}; give a column a role, e.g. "
            "roles={'name': 'category'}, or add columns"
        )
    return TableProfile(frame.height, columns)


def roles_as_text(roles: Mapping[str, Role] | None) -> list[str]:
    """The columns whose roles want the text of a file as it stands: digits may be a code."""
    return [name for name, role in (roles or {}).items() if role in ("category", "text")]


def _shortened(text: str, limit: int = 40) -> str:
    text = text.replace("\n", " ").replace("\r", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _with_note(column: Column, note: str) -> Column:
    if not note or note in column.note:
        return column
    joined = f"{column.note}; {note}" if column.note else note
    return Column(**{**column.__dict__, "note": joined})


def _checked_roles(frame: pl.DataFrame, roles: Mapping[str, Role] | None) -> Mapping[str, Role]:
    """The roles, whose columns must be there."""
    for name, role in (roles or {}).items():
        if name not in frame.columns:
            hint = nearest_name(name, frame.columns, otherwise=f"they are {frame.columns[:10]}")
            raise TableError(f"roles must name columns of the table; got {name!r}{hint}")
        if role not in get_args(Role):
            raise TableError(
                f"the role of column {name!r} must be one of {', '.join(get_args(Role))}; "
                f"got {role!r}{nearest_name(role, get_args(Role))}"
            )
    return roles or {}


class _Look(NamedTuple):
    """What a look at all columns together tells of one of them.

    `series`: without empty text, where what is text is text.
    `counts`: missing cells, and distinct values; of text, these are not counted yet.
    `form`: how its text is written, where that is known.
    `is_typed`: whether what is text is text.
    `may_merge`: whether levels may be several spellings of one number.
    """

    series: pl.Series
    counts: tuple[int, int]
    form: CellFormat
    is_typed: bool
    may_merge: bool


def _looked_at(frame: pl.DataFrame, formats: Mapping[str, CellFormat], typed: bool) -> list[_Look]:
    """Each column with its format and its counts of missing and distinct cells."""
    names = frame.columns
    forms = [formats.get(name, USUAL) for name in names]
    are_typed = [typed and name in formats for name in names]
    untyped = frame[[name for name, is_typed in zip(names, are_typed, strict=True) if not is_typed]]
    words = {name for name, kind in plain_columns(untyped).items() if kind == {"text"}}
    are_typed = [
        is_typed or (name in words and form == USUAL)
        for name, is_typed, form in zip(names, are_typed, forms, strict=True)
    ]
    columns = frame.get_columns()
    text = [k for k, column in enumerate(columns) if column.dtype == pl.String and are_typed[k]]
    for k, series in zip(text, without_empty([columns[k] for k in text]), strict=True):
        columns[k] = series
    counts = (_counts_of_many if frame.height > _FEW_CELLS else _counts_of_few)(columns)
    levels = [k for k, column in enumerate(columns) if column.dtype in _TEXT]
    may_merge = [False] * len(columns)
    for k, merges in zip(levels, may_merge_levels([columns[k] for k in levels]), strict=True):
        may_merge[k] = merges
    return list(map(_Look, columns, counts, forms, are_typed, may_merge))


def _counts_of_few(columns: list[pl.Series]) -> list[tuple[int, int]]:
    """Missing cells and distinct values of columns of few rows, each by itself."""
    counts = []
    for series in columns:
        n_missing = series.null_count()
        n_unique = 0 if series.dtype == pl.String else series.n_unique() - (n_missing > 0)
        # A sum is NaN where a cell is.
        if series.dtype.is_float() and math.isnan(series.sum()):
            n_absent = int(np.isnan(series.to_numpy()).sum())
            n_unique -= n_absent > n_missing
            n_missing = n_absent
        counts.append((n_missing, n_unique))
    return counts


def _counts_of_many(columns: list[pl.Series]) -> list[tuple[int, int]]:
    """Missing cells and distinct values of columns of many rows, on all threads."""
    counts: list[tuple[int, int]] = []
    # The planner's time grows with the square of the columns.
    for start in range(0, len(columns), _GROUP_COLUMNS):
        # An expression reads some names as patterns, so that the columns go by their numbers.
        group = pl.DataFrame(
            [
                column.alias(f"{k}")
                for k, column in enumerate(columns[start : start + _GROUP_COLUMNS])
            ]
        )
        counted = group.lazy().select(
            count
            for name, dtype in group.schema.items()
            for count in _counts(name, dtype, group.height > _EXACT_ROWS)
        )
        found = counted.collect().row(0)
        counts += zip(found[::2], found[1::2], strict=True)
    return counts


def _counts(name: str, dtype: pl.DataType, estimated: bool) -> tuple[pl.Expr, pl.Expr]:
    """Missing cells and distinct values of one column."""
    column = pl.col(name)
    n_missing = column.null_count()
    if dtype.is_float():
        n_missing = n_missing + column.is_nan().sum()
        column = column.fill_nan(None)
    if dtype == pl.String:
        # Counted by `_text_values`, once the cells have their meaning.
        n_unique = pl.lit(0, dtype=pl.Int64)
    elif dtype == pl.Boolean:
        n_unique = column.any().cast(pl.Int64) + (~column).any().cast(pl.Int64)
    elif dtype.is_float() and estimated:
        n_unique = column.approx_n_unique().cast(pl.Int64) - column.has_nulls()
    else:
        n_unique = column.n_unique().cast(pl.Int64) - column.has_nulls()
    return n_missing.cast(pl.Int64).alias(f"{name}m"), n_unique.alias(f"{name}u")


def _profiled(look: _Look, given: Role | None, named: bool) -> Column:
    """The profile of one column; its role is inferred unless given."""
    # Without its name, which polars may read as a pattern.
    series = look.series.alias("")
    n_rows, dtype, note = series.len(), _type_name(series.dtype), ""
    (n_missing, n_unique), form = look.counts, look.form
    values, missing = series, form.missing
    if series.dtype == pl.String:
        if not look.is_typed:
            values, note, n_missing, form = _text_values(series, form)
        n_unique = values.n_unique() - int(n_missing > 0)
    if values.dtype.is_float() and n_unique <= 2:
        n_unique = values.drop_nulls().drop_nans().n_unique()
    if given is not None:
        role, used, note = given, given in _USED, note or "role given"
        if given == "datetime" and values.dtype.is_numeric():
            form = replace(form, spelling=moments_of_counts(values, asked=True)[0])
    else:
        role, reason = _role(values, n_rows, n_missing, n_unique, named)
        if role == "numeric" and values.dtype.is_numeric() and form == USUAL:
            spelling, moment_note = moments_of_counts(values)
            if spelling is not None:
                role, form = "datetime", replace(form, spelling=spelling)
            reason = moment_note or reason
        used, note = role in _USED, "; ".join(part for part in (reason, note) if part)
    spelling = _SPANS.get(values.dtype.base_type())
    if role == "numeric" and spelling is not None:
        # For text to come, which files bring.
        form = replace(form, spelling=spelling)
    if role == "category":
        form = CellFormat(missing=missing, as_written=look.may_merge and merges_levels(series))
    return Column(
        name=look.series.name,
        role=role,
        dtype=dtype,
        n_missing=n_missing,
        n_unique=n_unique,
        used=used,
        note=note,
        form=form,
    )


def _type_name(dtype: pl.DataType) -> str:
    """The type without what no reader of a summary asks for."""
    if isinstance(dtype, pl.Datetime):
        return "Datetime" if dtype.time_zone is None else f"Datetime {dtype.time_zone}"
    return dtype.base_type().__name__


def _text_values(series: pl.Series, form: CellFormat) -> tuple[pl.Series, str, int, CellFormat]:
    """Text as typed values, what was found in it, how many cells are missing, and its format.

    Of a column that repeats itself each distinct cell comes once: nothing that is asked of it
    hangs on the order of its rows.
    """
    table = series.alias("cell").value_counts(name="n")
    decimal = "," if form.decimal == "," else None
    if len(table) * 4 > series.len():
        values, note, form = text_column(series, decimal=decimal, missing=form.missing)
        return values, note, values.null_count(), form
    values, note, form = text_column(
        table["cell"], decimal=decimal, counts=table["n"], missing=form.missing
    )
    return values, note, int(table["n"].filter(values.is_null()).sum()), form


def _role(
    values: pl.Series, n_rows: int, n_missing: int, n_unique: int, named: bool
) -> tuple[Role, str]:
    """The role that the cells suggest, and why a column is set aside."""
    if n_rows > 1 and n_unique == 0:
        return "constant", "set aside: every cell is missing"
    if n_rows > 1 and n_unique == 1 and not n_missing:
        return "constant", f"set aside: every cell is {_shortened(repr(values[0]))}"
    dtype = values.dtype
    if dtype in (pl.Date, pl.Datetime):
        return "datetime", ""
    if dtype == pl.Boolean:
        return "boolean", ""
    many = named and n_rows > _FEW_ROWS
    if dtype.is_numeric() or dtype in (pl.Duration, pl.Time):
        if not (many and dtype.is_integer() and n_unique == n_rows):
            return "numeric", ""
        if _consecutive(values):
            return "identifier", "set aside: consecutive integers, one per row"
        return "numeric", "every cell differs; give it the role 'identifier' if it names rows"
    if many and dtype == pl.String and _is_text(values, n_rows - n_missing, n_unique):
        return "text", "set aside: free text; derive columns from it to use it"
    if many and n_unique == n_rows:
        return "identifier", "set aside: every cell differs"
    return "category", ""


def _consecutive(series: pl.Series) -> bool:
    low, high = series.min(), series.max()
    return isinstance(low, int) and isinstance(high, int) and high - low == series.len() - 1


def _is_text(values: pl.Series, n_present: int, n_unique: int) -> bool:
    """Whether cells are mostly distinct and long, with spaces, such as reviews."""
    if n_unique < _TEXT_UNIQUE_SHARE * n_present:
        return False
    present = values.drop_nulls()
    length = present.str.len_chars().mean()
    spaces = present.str.count_matches(" ", literal=True).mean()
    return (
        isinstance(length, float)
        and isinstance(spaces, float)
        and length >= _TEXT_MEAN_LENGTH
        and spaces >= _TEXT_MEAN_SPACES
    )


def _check_fits(series: pl.Series, role: Role, form: CellFormat) -> None:
    """Raise `TableError` where cells are not of a role that is given."""
    if form != USUAL and role in ("numeric", "boolean", "datetime"):
        series = typed_cells(series, role, form)
    if role == "numeric":
        to_numbers(series)
    elif role == "boolean":
        to_booleans(series)
    elif role == "datetime":
        to_microseconds(series)
