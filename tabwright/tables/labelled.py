"""Rows with their target, and a table on disk made into them: columns checked, task decided.

What `tabwright train` and `tabwright compare` share. Everything that is decided here is said in a
sentence, so that nothing is silent. Which rows train and which test is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.settings import Task
from tabwright.tables import (
    encode_labels,
    infer_task,
    read_with_notes,
    regression_target,
    sample_weights,
)
from tabwright.tables.cells import to_microseconds, under_plain_name
from tabwright.tables.paths import table_stem

__all__ = ["LabelledRows", "TableRequest", "TrainingTable", "read_training_table"]


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table with what is to be predicted.

    Parameters
    ----------
    frame : polars.DataFrame
        Feature columns; others are ignored.
    target : ndarray of shape (n_rows,)
        Class codes, int64, in the order of the sorted labels; or float64 in regression.
    weight : ndarray of shape (n_rows,), float64, or None
    """

    frame: pl.DataFrame
    target: np.ndarray
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> LabelledRows:
        """The rows of the given numbers."""
        weight = None if self.weight is None else self.weight[index]
        return LabelledRows(self.frame[index], self.target[index], weight)

    def with_rows(self, more: LabelledRows) -> LabelledRows:
        """These rows, then those."""
        weight = None
        if self.weight is not None or more.weight is not None:
            weight = np.concatenate(
                [
                    np.ones(len(part)) if part.weight is None else part.weight
                    for part in (self, more)
                ]
            )
        frame = pl.concat([self.frame, more.frame[self.frame.columns]])
        return LabelledRows(frame, np.concatenate([self.target, more.target]), weight)

    def with_positive_weight(self) -> tuple[LabelledRows, np.ndarray | None]:
        """These rows less those of weight zero, and the numbers of the rows kept.

        Where all others weigh 1, nothing is left of the weights, so that sums come in the same
        order, and to the last bit, as without them.
        """
        if self.weight is None:
            return self, None
        if not np.isfinite(self.weight).all() or (self.weight < 0).any():
            worst = self.weight[~(np.isfinite(self.weight) & (self.weight >= 0))][0]
            raise ValueError(
                f"sample_weight must be finite and not negative; got {worst}; "
                "leave rows out by giving them weight 0"
            )
        keep = np.flatnonzero(self.weight > 0)
        if keep.size == 0:
            raise ValueError("sample_weight must be above 0 for at least one row; all are 0")
        rows = self if keep.size == len(self) else self.take(keep)
        if rows.weight is not None and (rows.weight == 1.0).all():
            rows = replace(rows, weight=None)
        return rows, None if keep.size == len(self) else keep


@dataclass(frozen=True)
class TableRequest:
    """Which table, and what its columns are for.

    Parameters
    ----------
    table : str
        A file, a folder or a pattern.
    target : str
        Column to predict.
    drop : tuple of str
        Columns not to use.
    task : str or None
        "classification" or "regression"; None: told by the target.
    time : str or None
        Column of dates or numbers that orders the rows; a feature too, unless dropped.
    group : str or None
        Column whose equal rows stay together; not a feature.
    weight : str or None
        Column of sample weights; not a feature. Rows of weight 0 are left out.
    drop_null_target : bool
        Leave out rows without a target.
    """

    table: str
    target: str
    drop: tuple[str, ...] = ()
    task: str | None = None
    time: str | None = None
    group: str | None = None
    weight: str | None = None
    drop_null_target: bool = False

    @property
    def stem(self) -> str:
        """What files made from the table are named after."""
        return table_stem(self.table)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in get_args(Task):
            raise ValueError(
                f"the task must be one of {', '.join(get_args(Task))}; got {self.task!r}"
            )
        if self.target in self.drop:
            raise ValueError(
                f"the target is not a feature anyway; got {self.target!r} to drop; leave out --drop"
            )
        if self.time is not None and self.group is not None:
            raise ValueError(
                f"rows are kept apart by time or by group, not both; got {self.time!r} and "
                f"{self.group!r}; leave one of them out"
            )
        uses: dict[str, str] = {self.target: "target"}
        for name, use in ((self.weight, "weight"), (self.group, "group"), (self.time, "time")):
            if name is None:
                continue
            if name in uses:
                raise ValueError(
                    f"a column has one use; got {name!r} as {uses[name]} and as {use}; "
                    "name another column"
                )
            uses[name] = use

    @property
    def columns_not_used(self) -> tuple[str, ...]:
        """Columns of the table, other than the target, that the model does not get."""
        asides = (self.group, self.weight)
        return (*self.drop, *(name for name in asides if name is not None))


@dataclass(frozen=True)
class TrainingTable:
    """Rows to learn from.

    Parameters
    ----------
    features : polars.DataFrame
    target : ndarray of shape (n_rows,)
        Class codes, int64, or values, float64.
    classes : ndarray of shape (n_classes,) or None
        The labels in sorted order; None in regression.
    task : {"classification", "regression"}
    weight : ndarray of shape (n_rows,), float64, or None
        Above 0.
    groups : ndarray of shape (n_rows,), int64, or None
    time : ndarray of shape (n_rows,), or None
        Numbers that rise with time.
    row_numbers : ndarray of shape (n_rows,), int64
        Rows of the file, from 1.
    notes : dict of str to str
        What was found in the text of columns, for `profile_table`.
    """

    features: pl.DataFrame
    target: np.ndarray
    classes: np.ndarray | None
    task: Task
    weight: np.ndarray | None
    groups: np.ndarray | None
    time: np.ndarray | None
    row_numbers: np.ndarray
    notes: dict[str, str]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def codes(self) -> np.ndarray | None:
        """The class codes; None in regression."""
        return None if self.classes is None else self.target

    def take(self, index: np.ndarray) -> TrainingTable:
        """The rows of the given numbers, from 0."""

        def of(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index]

        return replace(
            self,
            features=self.features[index],
            target=self.target[index],
            weight=of(self.weight),
            groups=of(self.groups),
            time=of(self.time),
            row_numbers=self.row_numbers[index],
        )


def read_training_table(request: TableRequest, say: Callable[[str], None]) -> TrainingTable:
    """Read a table and make it ready.

    Parameters
    ----------
    request : TableRequest
    say : callable
        Told each decision, in a sentence.

    Returns
    -------
    TrainingTable

    Raises
    ------
    TableError
        If the table or a column is not what it should be.
    """
    frame, notes = read_with_notes(request.table)
    say(f"read {len(frame):,} rows x {frame.width} columns from {request.table}")
    _check_columns(frame, request)
    weight = None if request.weight is None else sample_weights(frame[request.weight])
    frame, kept = _rows_to_use(frame, weight, request, say)
    if request.target in notes:
        say(f"the target {request.target!r}: {notes[request.target]}")
    task = _task(frame[request.target], request, say)
    if task == "regression":
        classes, target = None, regression_target(frame[request.target])
    else:
        labels = encode_labels(frame[request.target])
        classes, target = labels.classes, labels.codes
    return TrainingTable(
        features=frame[
            [n for n in frame.columns if n not in {request.target, *request.columns_not_used}]
        ],
        target=target,
        classes=classes,
        task=task,
        weight=None if weight is None else weight[kept],
        groups=None if request.group is None else _groups(frame[request.group], say),
        time=None if request.time is None else _order(frame[request.time]),
        row_numbers=kept + 1,
        notes={name: note for name, note in notes.items() if name in frame.columns},
    )


def _check_columns(frame: pl.DataFrame, request: TableRequest) -> None:
    named = (request.target, *request.drop, request.time, request.group, request.weight)
    for name in named:
        if name is None or name in frame.columns:
            continue
        near = get_close_matches(name, frame.columns, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TableError(
            f"{request.table} has no column {name!r}; {hint}its columns are "
            f"{', '.join(frame.columns[:30])}{', ...' if frame.width > 30 else ''}"
        )
    if not set(frame.columns) - {request.target, *request.columns_not_used}:
        raise TableError(
            f"a model needs a column to learn from; {request.table} has none beside the target "
            "and the columns left out"
        )


def _rows_to_use(
    frame: pl.DataFrame,
    weight: np.ndarray | None,
    request: TableRequest,
    say: Callable[[str], None],
) -> tuple[pl.DataFrame, np.ndarray]:
    target = frame[request.target]
    target = target.alias("")
    known = (target.fill_nan(None) if target.dtype.is_float() else target).is_not_null()
    n_null = len(frame) - int(known.sum())
    if n_null and not request.drop_null_target:
        raise TableError(
            f"the target {request.target!r} must have no missing values; got {n_null:,} of "
            f"{len(frame):,}; give --drop-null-target to leave those rows out"
        )
    if n_null == len(frame):
        raise TableError(
            f"the target must have values; every cell of column {request.target!r} is missing; "
            "name another target column"
        )
    if n_null:
        say(f"left out {n_null:,} rows without a target")
    used = known.to_numpy()
    if weight is not None:
        n_zero = int((used & (weight == 0)).sum())
        used = used & (weight > 0)
        if not used.any():
            raise TableError(
                f"at least one row must have a weight above 0; column {request.weight!r} has none"
            )
        if n_zero:
            say(f"left out {n_zero:,} rows of weight 0")
    return frame.filter(pl.Series(used)), np.flatnonzero(used)


def _task(target: pl.Series, request: TableRequest, say: Callable[[str], None]) -> Task:
    for task in get_args(Task):
        if request.task == task:
            say(f"task: {task}, as asked")
            return next(known for known in ("classification", "regression") if known == task)
    task, reason = infer_task(target)
    say(f"task: {task}, since {reason} (--task overrides)")
    return task


def _groups(column: pl.Series, say: Callable[[str], None]) -> np.ndarray:
    n_null = column.null_count()
    if n_null:
        raise TableError(
            f"the group column {column.name!r} must have no missing values; got {n_null:,}; "
            "give such rows a group of their own"
        )
    codes: np.ndarray = column.rank("dense").to_numpy().astype(np.int64)
    say(f"{len(np.unique(codes)):,} groups by {column.name!r}, none on two sides of a split")
    return codes


@under_plain_name
def _order(column: pl.Series) -> np.ndarray:
    """Numbers that rise with the time in a column."""
    rule = f"the time column {column.name!r} must hold dates, moments or numbers"
    dtype = column.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        try:
            column = to_microseconds(column.cast(pl.String))
        except TableError as error:
            raise TableError(
                f"{rule}; got text ({error}); write dates as 2024-12-31, or leave out --time"
            ) from error
    elif not (dtype.is_numeric() or dtype.is_temporal()):
        raise TableError(f"{rule}; got {dtype}; leave out --time")
    missing = (column.fill_nan(None) if dtype.is_float() else column).is_null()
    if missing.any():
        raise TableError(
            f"{rule} and no missing values; got {int(missing.sum()):,}, the first in row "
            f"{int(missing.arg_max() or 0) + 1} of those used; fill or drop them"
        )
    order: np.ndarray = column.to_physical().to_numpy()
    return order if order.dtype.kind in "iuf" else order.astype(np.float64)
