"""Category columns: levels, codes, and target statistics for those with very many levels.

Codes are integers: 0 is a missing value, 1 an unknown or rare level, 2 and up the levels by how
often they occur in the training rows (ties in alphabetical order). Levels have the canonical names
of `tables.to_levels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag, array_to_text, text_to_array
from tabwright.errors import ArtifactError
from tabwright.settings import Task
from tabwright.tables import to_levels
from tabwright.tables.cells import refuse_nested

MISSING = 0
UNKNOWN = 1
FIRST_LEVEL = 2
# Statistics are kept for the most frequent levels only: memory stays bounded whatever comes.
_MOST_STATISTICS = 65_536
_FOLDS = 5
_PRIOR_ROWS = 10.0
_MOST_CLASSES = 8


def rare_below(n_rows: int) -> int:
    """Rows a level needs for an input of its own: 1 in 200 of them, from 2 to 10."""
    return min(10, max(2, n_rows // 200))


@dataclass(frozen=True)
class StatisticsTarget:
    """What target statistics are computed from, the same for every column.

    `columns`: (n_rows, n_targets), float64; the standardised target, or standardised indicators of
        the most frequent classes: one for two classes, at most 8.
    `names`: one per column.
    `weight`: (n_rows,), float64; with mean 1.
    `fold`: (n_rows,), int64; the statistics of a training row come from the rows of the other
        folds.
    """

    columns: NDArray[np.float64]
    names: tuple[str, ...]
    weight: NDArray[np.float64]
    fold: NDArray[np.int64]
    n_folds: int = _FOLDS

    @classmethod
    def of(
        cls,
        n_rows: int,
        target: NDArray[Any] | None,
        task: Task,
        sample_weight: NDArray[np.float64] | None,
        random_state: int,
    ) -> StatisticsTarget:
        """Prepare the statistics of a fit; without a target there are only counts."""
        weight = np.ones(n_rows) if sample_weight is None else sample_weight / sample_weight.mean()
        # Every column of a table sees the same folds, whatever the order of the columns.
        fold = np.random.default_rng(random_state).permutation(n_rows) % _FOLDS
        if target is None:
            return cls(np.empty((n_rows, 0)), (), weight, fold)
        if task == "regression":
            span = float(np.abs(target).max()) or 1.0
            columns = (target / span)[:, None]
            names: tuple[str, ...] = ("mean target",)
        else:
            mass = np.bincount(target, weights=weight)
            order = np.argsort(-mass, kind="stable")[:_MOST_CLASSES]
            chosen = [1] if len(mass) == 2 else sorted(order.tolist())
            columns = (target[:, None] == np.array(chosen)).astype(np.float64)
            names = tuple(f"share of class {k}" for k in chosen)
        centre = np.average(columns, axis=0, weights=weight)
        columns = columns - centre
        deviation = np.sqrt(np.average(columns**2, axis=0, weights=weight))
        columns /= np.where(deviation > 0, deviation, 1.0)
        return cls(columns, names, weight, fold)


@dataclass(frozen=True)
class CategoryColumn:
    """The fitted form of one category column.

    `levels`: those with a code, most frequent first.
    `n_inputs`: how many of them, from the first, have an input of their own.
    `has_missing`: Whether missing values have an input of their own: they were among the training
        rows. Otherwise a missing value counts as unknown.
    `statistics`: (2 + len(levels), n_statistics), float32; per code: smoothed means of the target,
        then the log of the count, all standardised; None where every level has an input of its own.
    `markers`: where levels are text as it was written: what stands for a missing one.
    """

    levels: tuple[str, ...]
    n_inputs: int
    has_missing: bool
    statistics: NDArray[np.float32] | None
    markers: tuple[str, ...] | None = None

    def codes(self, levels: pl.Series) -> NDArray[np.int32]:
        """Code of each value, of all levels with a code.

        `levels`: canonical; null is missing.
        Returns: (n,), int32.
        """
        missing = levels.is_null()
        if not self.levels:
            return np.where(missing.to_numpy(), MISSING, UNKNOWN).astype(np.int32)
        places = levels.cast(self._known, strict=False).to_physical().cast(pl.Int32)
        result = (places + FIRST_LEVEL).fill_null(UNKNOWN).to_numpy()
        if missing.any():
            result = np.where(missing.to_numpy(), MISSING, result)
        return np.ascontiguousarray(result, dtype=np.int32)

    def codes_of_cells(self, column: pl.Series) -> NDArray[np.int32]:
        """`codes` of the cells of a column as they come.

        `column`: of any type that has levels.
        Returns: (n,), int32.
        Raises `TableError` if cells are nested.
        """
        refuse_nested(column)
        column = column.alias("")
        if column.dtype != pl.String or not self.levels:
            return self.codes(to_levels(column, markers=self.markers))
        # Text that is the name of a level is that level; only the rest has to be given its name.
        places = column.cast(self._known, strict=False)
        result = places.to_physical().cast(pl.Int32) + FIRST_LEVEL
        if not places.null_count():
            return result.to_numpy()
        other = places.is_null()
        codes = np.array(result.fill_null(UNKNOWN).to_numpy())
        codes[other.to_numpy()] = self.codes(to_levels(column.filter(other), markers=self.markers))
        return codes

    @cached_property
    def _known(self) -> pl.Enum:
        """The levels as a type: text cast to it is looked up, and null where it is none."""
        return pl.Enum(pl.Series(self.levels, dtype=pl.String))

    def input_codes(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        """The same with levels that have no input of their own as unknown."""
        if self.n_inputs == len(self.levels):
            return codes
        return np.where(codes < FIRST_LEVEL + self.n_inputs, codes, np.int32(UNKNOWN))


def fit_category(
    levels: pl.Series,
    statistics_target: Callable[[], StatisticsTarget],
    *,
    max_levels: int,
    min_count: int,
) -> tuple[CategoryColumn, NDArray[np.int32], NDArray[np.float32] | None]:
    """Fit one column.

    Levels of fewer than `min_count` rows are pooled with the unknown ones. A column in which more
    than `max_levels` levels occur at least twice keeps inputs for the most frequent `max_levels`
    of them and gets statistics for all: the mean of the target, shrunk towards the overall mean
    as if by 10 rows (Micci-Barreca, "A Preprocessing Scheme for High-Cardinality Categorical
    Attributes", 2001, with a fixed weight), and the log of the count. A training row's own
    statistics come from the other four of five folds, as those of a new row do.

    `levels`: training rows, canonical; null is missing.
    `statistics_target`: gives the `StatisticsTarget`; called where statistics are needed.
    Returns codes: (n_rows,), int32; of the training rows.
    Returns statistics: (n_rows, n_statistics), float32; cross-fitted, of the training rows.
    """
    levels = levels.alias("")
    counts = (
        levels.drop_nulls()
        .value_counts(name="n")
        .sort([pl.col("n"), pl.first()], descending=[True, False])
    )
    has_missing = levels.null_count() > 0
    repeated = counts.filter(pl.col("n") >= 2)
    many = len(repeated) > max_levels
    frequent = min(int((counts["n"] >= min_count).sum()), max_levels)
    kept = repeated.head(_MOST_STATISTICS) if many else counts.head(frequent)
    column = CategoryColumn(tuple(kept.to_series(0).to_list()), frequent, has_missing, None)
    codes = column.codes(levels)
    if not many:
        return column, codes, None
    table, statistics = cross_fitted(codes, FIRST_LEVEL + len(column.levels), statistics_target())
    return CategoryColumn(column.levels, frequent, has_missing, table), codes, statistics


def cross_fitted(
    codes: NDArray[np.int32], n_codes: int, goal: StatisticsTarget
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Target statistics of codes: smoothed means, then the log of the count, standardised.

    `codes`: (n_rows,), int32; of the training rows, from 0 up to below `n_codes`.
    Returns table: (n_codes, n_targets + 1), float32; from all rows.
    Returns own: (n_rows, n_targets + 1), float32; of each training row, from the rows of the other
        folds.
    """
    n_folds = goal.n_folds
    cell = codes.astype(np.int64) * n_folds + goal.fold
    size = n_codes * n_folds

    def tally(weight: NDArray[np.float64] | None) -> tuple[Any, Any]:
        """Sums per code, and of all folds but one per code and fold."""
        sums = np.bincount(cell, weights=weight, minlength=size).astype(np.float64)
        sums = sums.reshape(n_codes, n_folds)
        total = sums.sum(axis=1)
        return total, total[:, None] - sums

    rows, other_rows = tally(None)
    mass, other_mass = tally(goal.weight)
    n_targets = goal.columns.shape[1]
    table = np.empty((n_codes, n_targets + 1))
    others = np.empty((n_codes, n_folds, n_targets + 1))
    for k in range(n_targets):
        total, other = tally(goal.weight * goal.columns[:, k])
        table[:, k] = total / (mass + _PRIOR_ROWS)
        others[:, :, k] = other / (other_mass + _PRIOR_ROWS)
    # A level never seen has no rows, and neither has one that all the other folds lack.
    rows[UNKNOWN] = 0.0
    other_rows[UNKNOWN] = 0.0
    table[:, -1] = np.log1p(rows)
    others[:, :, -1] = np.log1p(other_rows * (n_folds / (n_folds - 1)))
    # Mean and deviation over the training rows, by cells: as many rows as there may be.
    cells = others.reshape(size, -1)
    share = np.bincount(cell, minlength=size)[:, None] / len(cell)
    centre = (cells * share).sum(axis=0)
    # A floor: the noise of a column that says nothing is not blown up to a full signal.
    deviation = np.maximum(np.sqrt(((cells - centre) ** 2 * share).sum(axis=0)), 0.05)

    def scaled(values: NDArray[np.float64]) -> NDArray[np.float32]:
        unit = (values - centre) / deviation
        clipped: NDArray[np.float32] = (unit / np.sqrt(1.0 + (unit / 3.0) ** 2)).astype(np.float32)
        return clipped

    return scaled(table), scaled(cells)[cell]


def categories_to_state(
    columns: Sequence[CategoryColumn],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The document and the arrays of all category columns together."""
    text, offsets = text_to_array([level for column in columns for level in column.levels])
    tables = [column.statistics for column in columns if column.statistics is not None]
    width = tables[0].shape[1] if tables else 0
    arrays: dict[str, NDArray[Any]] = {
        "text": text,
        "offsets": offsets,
        "n_levels": np.array([len(column.levels) for column in columns], dtype=np.int64),
        "n_inputs": np.array([column.n_inputs for column in columns], dtype=np.int64),
        "has_missing": np.array([column.has_missing for column in columns], dtype=np.uint8),
        "has_statistics": np.array(
            [column.statistics is not None for column in columns], dtype=np.uint8
        ),
        "statistics": np.concatenate([np.empty((0, width), dtype=np.float32), *tables]),
    }
    return {"n_statistics": width}, arrays


def categories_from_state(
    document: Reader, tensors: TensorBag, n_columns: int
) -> tuple[CategoryColumn, ...]:
    """Read the category columns back and check them.

    Raises `ArtifactError` if arrays do not fit together, or a level occurs twice in a column.
    """
    width = document.integer("n_statistics", low=0, high=_MOST_CLASSES + 1)
    document.done()
    levels = array_to_text(
        tensors.take("text", "uint8", (None,)),
        tensors.take("offsets", "int64", (None,)),
        "encoder.levels",
    )
    n_levels = tensors.take("n_levels", "int64", (n_columns,), low=0, high=len(levels))
    n_inputs = tensors.take("n_inputs", "int64", (n_columns,), low=0, high=len(levels))
    has_missing = tensors.take("has_missing", "uint8", (n_columns,), high=1)
    has_statistics = tensors.take("has_statistics", "uint8", (n_columns,), high=1)
    statistics = tensors.take("statistics", "float32", (None, width))
    rows = (n_levels + FIRST_LEVEL) * has_statistics
    if n_levels.sum() != len(levels) or (n_inputs > n_levels).any():
        raise ArtifactError("encoder.n_levels and n_inputs must agree with the levels there are")
    if rows.sum() != len(statistics) or (width == 0) != (not has_statistics.any()):
        raise ArtifactError("encoder.statistics must have one row per code of its columns")
    columns = []
    level, row = 0, 0
    for j in range(n_columns):
        part = tuple(levels[level : level + int(n_levels[j])])
        level += len(part)
        if len(set(part)) != len(part):
            raise ArtifactError("encoder.levels must differ within a column")
        table = statistics[row : row + int(rows[j])] if has_statistics[j] else None
        row += int(rows[j])
        if table is None and int(n_inputs[j]) != len(part):
            raise ArtifactError("encoder.n_inputs must cover every level without statistics")
        columns.append(CategoryColumn(part, int(n_inputs[j]), bool(has_missing[j]), table))
    return tuple(columns)
