"""What every file has to hold: the columns that are asked for, of single values, undamaged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import polars as pl

from tabwright.errors import TableError, nearest_name
from tabwright.tables.cells import is_nested, refuse_nested
from tabwright.tables.libraries.arrow_columns import without_extensions
from tabwright.tables.paths import FileFormat, TableFile


def damaged(path: TableFile, kind: FileFormat, error: BaseException) -> TableError:
    reason = str(error)
    zone = re.search(r"unable to parse time zone: '([^']*)'", reason)
    if zone is not None:
        return TableError(
            f"{path}: times must have no zone, UTC or a zone with a name; got {zone[1]!r}; write "
            "them in UTC, e.g. with pandas: df['name'] = df['name'].dt.tz_convert('UTC')"
        )
    twice = re.search(r"column with name '(.*)' has more than one occurrence", reason)
    if twice is not None:
        return TableError(
            f"{path}: column names must differ; {twice[1]!r} comes more than once; rename the "
            "copies"
        )
    if "precision must be between 1 and 38" in reason:
        return TableError(
            f"{path}: numbers must have at most 38 digits; a column has a decimal type of more "
            f"({(reason.splitlines() or [''])[0]}); write it as float64 or decimal128, e.g. with "
            "pyarrow: table.set_column(i, name, column.cast(pyarrow.float64()))"
        )
    reason = (reason.splitlines() or [type(error).__name__])[0]
    return TableError(
        f"{path} must be a whole {kind} file; it is damaged, cut short or something else "
        f"({reason}); copy or write it again"
    )


def selected(
    path: TableFile,
    frame: pl.DataFrame,
    columns: Sequence[str] | None,
    is_ignored: Callable[[str], bool] | None = None,
) -> pl.DataFrame:
    """The columns that are asked for, of single values.

    `columns`: None: all.
    `is_ignored`: told a column's name, whether nobody wants its cells; nested ones are null then.
    Raises `TableError`: naming a column that is absent or nested.
    """
    if columns is not None:
        for name in columns:
            if name not in frame.columns:
                hint = nearest_name(name, frame.columns, otherwise=f"it has {frame.columns[:10]}")
                raise TableError(f"{path} has no column {name!r}{hint}")
        frame = frame[list(columns)]
    frame = without_extensions(frame)
    if is_ignored is not None:
        unwanted = [n for n, dtype in frame.schema.items() if is_nested(dtype) and is_ignored(n)]
        frame = frame.with_columns(pl.lit(None).alias(name) for name in unwanted)
    for series in frame.get_columns():
        try:
            refuse_nested(series)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None
    return frame
