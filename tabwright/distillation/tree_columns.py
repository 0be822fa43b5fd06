"""Columns of a table as tree ensembles want them: one number per cell, nothing scaled.

Numbers stay numbers with NaN where missing, categories become ordinal codes, dates become elapsed
days and calendar parts. What the ensembles do with these columns is in `distillation/trees`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.calendar_cycles import CYCLES, cycle_codes
from tabwright.errors import TableError
from tabwright.tables import (
    Role,
    TableProfile,
    exact_origin,
    to_booleans,
    to_levels,
    to_microseconds,
    to_numbers,
)

FloatArray = NDArray[np.float64]

# Histogram gradient boosting counts categories in a byte; one code is for missing cells.
MOST_LEVELS: Final = 254
_DAY: Final = 86_400_000_000.0
# Random forests and XGBoost work in float32.
_LARGEST: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class _Column:
    """How a column becomes one feature of trees, and a date several."""

    name: str
    role: Role
    origin: int | Decimal | None = None
    levels: tuple[str, ...] = ()
    had_missing: bool = False
    cycles: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return 1 + len(self.cycles)

    def encode(self, series: pl.Series) -> FloatArray:
        """Float64 of shape (n, width); NaN is missing or unknown."""
        if self.role == "category":
            return self._codes(series)[:, None]
        if self.role == "boolean":
            truth: FloatArray = to_booleans(series).cast(pl.Float64).to_numpy()
            return truth[:, None]
        if self.role == "numeric":
            values: FloatArray = to_numbers(series, origin=self.origin).to_numpy()
            return np.clip(values, -_LARGEST, _LARGEST)[:, None]
        moments = to_microseconds(series).alias("")
        missing = moments.is_null().to_numpy()
        whole = moments.fill_null(0).to_numpy()
        parts = [(whole - int(self.origin or 0)) / _DAY]
        parts += [cycle_codes(CYCLES[k].name, whole).astype(np.float64) for k in self.cycles]
        encoded: FloatArray = np.stack(parts, axis=1)
        encoded[missing] = np.nan
        return encoded

    def _codes(self, series: pl.Series) -> FloatArray:
        """Levels from 1, 0 for missing if training had that, else NaN."""
        levels = to_levels(series).alias("")
        known = pl.Series(self.levels, dtype=pl.String)
        codes = pl.Series(np.arange(1.0, len(known) + 1.0))
        if len(known):
            encoded = levels.replace_strict(known, codes, default=None, return_dtype=pl.Float64)
        else:
            encoded = pl.Series([None], dtype=pl.Float64).new_from_index(0, len(levels))
        values = encoded.to_numpy().astype(np.float64)
        if self.had_missing:
            values[levels.is_null().to_numpy()] = 0.0
        return values


@dataclass(frozen=True)
class TreeColumns:
    """How the columns of one set of training rows become a matrix.

    `columns`: fitted columns, in the order of the profile.
    """

    columns: tuple[_Column, ...]

    @property
    def categorical(self) -> NDArray[np.bool_]:
        """Which columns of the matrix hold category codes, bool of shape (n_columns,)."""
        flags = [c.role == "category" for c in self.columns for _ in range(c.width)]
        return np.array(flags, dtype=bool)

    def encode(self, frame: pl.DataFrame) -> FloatArray:
        """Rows of a table as a matrix.

        `frame`: has the columns of the training rows; others are ignored.
        Returns: (n, n_columns), float64. NaN where a number or date is missing, where a category is
            one that has no code (not among the training rows, or rare there), and where it is
            missing though no training row's was. Other missing categories have code 0.
        Raises `TableError` if a column is missing, or a cell does not fit its column.
        """
        lacking = [column.name for column in self.columns if column.name not in frame.columns]
        if lacking:
            raise TableError(
                "the teacher needs the columns that it was fitted on; "
                f"{lacking[0]!r} is missing ({len(lacking)} in all); add it"
            )
        matrix = np.empty((len(frame), sum(column.width for column in self.columns)), order="F")
        at = 0
        for column in self.columns:
            matrix[:, at : at + column.width] = column.encode(frame[column.name])
            at += column.width
        return matrix


def fit_tree_columns(
    frame: pl.DataFrame, profile: TableProfile, *, max_levels: int | None = MOST_LEVELS
) -> TreeColumns:
    """Learn from training rows how their columns become a matrix.

    `frame`: training rows.
    `profile`: whose used columns become columns of the matrix.
    `max_levels`: At most so many levels of a category column get a code, the most frequent ones; a
        level seen once has none and counts as unknown. None: every level has a code.
    Returns: codes follow the order of the levels' names, as numbers where all are numbers: a tree
        that takes codes as ordinal can then use the order in "grade 1", "grade 2".
    """
    columns = []
    for described in profile.used:
        series = frame[described.name]
        if described.role == "category":
            levels = to_levels(series).alias("")
            missing = levels.null_count() > 0
            kept = _kept_levels(levels.drop_nulls(), max_levels)
            columns.append(_Column(described.name, "category", levels=kept, had_missing=missing))
        elif described.role == "datetime":
            columns.append(
                _date_column(described.name, to_microseconds(series).drop_nulls().to_numpy())
            )
        elif described.role == "numeric":
            columns.append(_Column(described.name, "numeric", origin=exact_origin(series)))
        else:
            columns.append(_Column(described.name, described.role))
    return TreeColumns(tuple(columns))


def _kept_levels(levels: pl.Series, max_levels: int | None) -> tuple[str, ...]:
    counts = levels.value_counts(name="n").sort([pl.col("n"), pl.first()], descending=[True, False])
    if max_levels is not None:
        counts = counts.filter(pl.col("n") >= 2).head(max_levels)
    names = counts.to_series(0)
    numbers = names.cast(pl.Float64, strict=False)
    by_number = not numbers.null_count()
    return tuple(names[(numbers if by_number else names).arg_sort()].to_list())


def _date_column(name: str, moments: NDArray[np.int64]) -> _Column:
    """A date with the cycles that vary, since trees can split nothing else."""
    if not len(moments):
        return _Column(name, "datetime")
    varying = []
    for k, cycle in enumerate(CYCLES):
        codes = cycle_codes(cycle.name, moments)
        if (codes != codes[0]).any():
            varying.append(k)
    return _Column(name, "datetime", origin=int(moments.min()), cycles=tuple(varying))
