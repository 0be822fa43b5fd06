"""Rows with their target, and a table on disk made into them: columns checked, task decided.

What `tabwright train` and `tabwright compare` share. Everything that is decided here is said in a
sentence, so that nothing is silent. Which rows train and which test is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import polars as pl

from tabwright.errors import TableError, nearest_name
from tabwright.settings import Task
from tabwright.splits import are_forward, split_rows, splits_of
from tabwright.tables import (
    TableProfile,
    infer_task,
    profile_table,
    read_described,
    sample_weights,
)
from tabwright.tables.cell_format import CellFormat
from tabwright.tables.cells import is_missing, to_microseconds, under_plain_name
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.csv.reader import CsvFormat
from tabwright.tables.file_readers import names_of_file
from tabwright.tables.paths import table_paths, table_stem
from tabwright.tables.roles import Role, roles_as_text
from tabwright.tables.spellings.moments import note_on_target
from tabwright.tables.targets import learned_target

if TYPE_CHECKING:
    from tabwright.splits import Splits


@dataclass(frozen=True)
class LabelledRows:
    """Rows of a table with what is to be predicted.

    `frame`: feature columns; others are ignored.
    `target`: (n_rows,); class codes, int64, in the order of the sorted labels; or float64 in
        regression.
    `weight`: (n_rows,), float64.
    `groups`: (n_rows,); rows of one group stay on one side of every split.
    `time`: (n_rows,); numbers or moments; rows that validate and test are later than those that
        train.
    `formats`: how the text of columns was found to be written in their file.
    """

    frame: pl.DataFrame
    target: np.ndarray
    weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    time: np.ndarray | None = None
    formats: Mapping[str, CellFormat] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: np.ndarray) -> LabelledRows:
        """The rows of the given numbers."""
        arrays = {name: getattr(self, name) for name in ("weight", "groups", "time")}
        aside: dict[str, Any] = {
            name: None if array is None else array[index] for name, array in arrays.items()
        }
        return replace(
            self,
            frame=self.frame[index],
            target=self.target[index],
            **aside,
        )

    def split(
        self, fraction: float, *, stratify: bool, random_state: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows that stay and of those held out, by groups or time."""
        return split_rows(
            len(self),
            fraction=fraction,
            codes=self.target if stratify else None,
            groups=self.groups,
            time=self.time,
            random_state=random_state,
        )

    def with_rows(self, more: LabelledRows) -> LabelledRows:
        """These rows, then those, which are groups of their own where they have none."""
        weight = groups = None
        if self.weight is not None or more.weight is not None:
            weight = np.concatenate(
                [
                    np.ones(len(part)) if part.weight is None else part.weight
                    for part in (self, more)
                ]
            )
        if self.groups is not None and more.groups is not None:
            groups = np.concatenate([self.groups, more.groups])
        elif self.groups is not None:
            codes = np.unique(self.groups, return_inverse=True)[1]
            groups = np.concatenate([codes, len(codes) + np.arange(len(more))])
        time = None
        if self.time is not None and more.time is not None:
            time = np.concatenate([self.time, more.time])
        frame = pl.concat([self.frame, more.frame[self.frame.columns]])
        target = np.concatenate([self.target, more.target])
        return replace(self, frame=frame, target=target, weight=weight, groups=groups, time=time)

    def with_positive_weight(self) -> LabelledRows:
        """These rows less those of weight zero.

        Where all others weigh 1, nothing is left of the weights, so that sums come in the same
        order, and to the last bit, as without them.
        """
        if self.weight is None:
            return self
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
        return rows


def splits_of_rows(
    validation: object, rows: LabelledRows, classes: np.ndarray | None, X: object = None
) -> tuple[Splits, LabelledRows]:
    """What a splitter makes of rows, as `splits_of` says, and the rows.

    Where all splits are forward, as in time, so are the rows: whatever is held out of them later
    on is held out in their order.

    `classes`: (n_classes,).
    `X`: what the splitter is given; None: the columns of the rows.
    """
    splits = splits_of(
        validation,
        len(rows),
        X=rows.frame if X is None else X,
        y=rows.target if classes is None else classes[rows.target],
        groups=rows.groups,
    )
    if are_forward(splits) and rows.time is None:
        rows = replace(rows, time=np.arange(len(rows)))
    return splits, rows


def check_classes(splits: Splits, rows: LabelledRows, classes: np.ndarray | None) -> None:
    """Refuse splits that hold out a class that their training rows lack.

    Raises `TableError`.
    """
    if classes is None:
        return
    for train, test in splits:
        lacking = np.setdiff1d(rows.target[test], rows.target[train])
        if len(lacking):
            raise TableError(
                "every class that is held out must have training rows; class "
                f"{classes[lacking[0]]!s} has none in a split; leave its rows out, give fewer "
                "folds, or split otherwise"
            )


@dataclass(frozen=True)
class TableRequest:
    """Which table, and what its columns are for.

    `table`: a file, a folder or a pattern.
    `task`: "classification" or "regression"; None: told by the target.
    `roles`: roles of columns, in place of those that are inferred.
    `csv`: how a CSV file is written, where it cannot tell by itself.
    `task_is`: where `task` comes from, for the sentence that says it.
    """

    table: str
    columns: ColumnUses
    task: str | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    csv: CsvFormat | None = None
    task_is: str = "as asked"

    @property
    def stem(self) -> str:
        """What files made from the table are named after."""
        return table_stem(self.table)

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in get_args(Task):
            raise ValueError(
                f"the task must be one of {', '.join(get_args(Task))}; got {self.task!r}"
                f"{nearest_name(self.task, get_args(Task))}"
            )


@dataclass(frozen=True)
class TrainingTable:
    """Rows to learn from.

    `rows`: of weights above 0; groups are numbered, times are numbers that rise.
    `classes`: (n_classes,); the labels in sorted order; None in regression.
    `row_numbers`: (n_rows,), int64; rows of the file, from 1.
    `profile`: of the features in all rows of the table, those that are not used included.
    """

    rows: LabelledRows
    classes: np.ndarray | None
    task: Task
    row_numbers: np.ndarray
    profile: TableProfile

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def codes(self) -> np.ndarray | None:
        """The class codes; None in regression."""
        return None if self.classes is None else self.rows.target

    @property
    def labels(self) -> np.ndarray:
        """The labels of the rows, or their values in regression."""
        return self.rows.target if self.classes is None else self.classes[self.rows.target]

    def take(self, index: np.ndarray) -> TrainingTable:
        """The rows of the given numbers, from 0."""
        return replace(self, rows=self.rows.take(index), row_numbers=self.row_numbers[index])


def read_training_table(request: TableRequest, on_message: Callable[[str], None]) -> TrainingTable:
    """Read a table and make it ready.

    `on_message`: called with each decision, a sentence.
    Raises `TableError` if the table or a column is not what it should be.
    """
    uses = request.columns
    names = names_of_file(table_paths(request.table)[0]) if uses.drop else None
    if names is not None:
        uses.check(names, request.table)
    # What is left out may hold what a table cannot, such as lists.
    frame, notes, formats = read_described(
        request.table,
        csv=request.csv,
        as_text=roles_as_text(request.roles),
        is_ignored=uses.drop.__contains__,
    )
    on_message(f"read {len(frame):,} rows x {frame.width} columns from {request.table}")
    uses.check(frame.columns, request.table)
    weight = None if uses.weight is None else sample_weights(frame[uses.weight])
    # Before rows are left out or parted: row numbers are known by being consecutive.
    profile = profile_table(
        frame[uses.features(frame.columns)],
        roles=request.roles,
        notes=notes,
        formats=formats,
        typed=True,
    )
    for note in (notes.get(uses.target, ""), note_on_target(frame[uses.target])):
        if note:
            on_message(f"the target {uses.target!r}: {note}")
    frame, kept = _rows_to_use(frame, weight, uses, on_message, is_read=uses.target in notes)
    task = _task(frame[uses.target], request, on_message)
    classes, target = learned_target(frame[uses.target], task)
    rows = LabelledRows(
        frame[uses.features(frame.columns)],
        target,
        weight=None if weight is None else weight[kept],
        groups=None if uses.group is None else _groups(frame[uses.group], on_message),
        time=None if uses.time is None else _order(frame[uses.time]),
        formats=formats,
    )
    return TrainingTable(
        rows=rows,
        classes=classes,
        task=task,
        row_numbers=kept + 1,
        profile=profile,
    )


def _rows_to_use(
    frame: pl.DataFrame,
    weight: np.ndarray | None,
    uses: ColumnUses,
    on_message: Callable[[str], None],
    *,
    is_read: bool,
) -> tuple[pl.DataFrame, np.ndarray]:
    """The rows that count, and their numbers; `is_read`: whether text was found to be missing."""
    known = ~is_missing(frame[uses.target])
    n_null = len(frame) - int(known.sum())
    if n_null and not uses.drop_null_target:
        raise TableError(
            f"the target {uses.target!r} must have no missing values; got {n_null:,} of "
            f"{len(frame):,}; give drop_null_target=True to leave those rows out"
            + (", or missing='' if text that was read as missing is a label" if is_read else "")
        )
    if n_null == len(frame):
        raise TableError(
            f"the target must have values; every cell of column {uses.target!r} is missing; "
            "name another target column"
        )
    if n_null:
        on_message(f"left out {n_null:,} rows without a target")
    used = known.to_numpy()
    if weight is not None:
        n_zero = int((used & (weight == 0)).sum())
        used = used & (weight > 0)
        if not used.any():
            raise TableError(
                f"at least one row must have a weight above 0; column {uses.weight!r} has none"
            )
        if n_zero:
            on_message(f"left out {n_zero:,} rows of weight 0")
    return frame.filter(pl.Series(used)), np.flatnonzero(used)


def _task(target: pl.Series, request: TableRequest, on_message: Callable[[str], None]) -> Task:
    for task in get_args(Task):
        if request.task == task:
            on_message(f"task: {task}, {request.task_is}")
            return next(known for known in ("classification", "regression") if known == task)
    task, reason = infer_task(target)
    on_message(f"task: {task}, since {reason}")
    return task


def _groups(column: pl.Series, on_message: Callable[[str], None]) -> np.ndarray:
    """The number of each row's group."""
    n_null = column.null_count()
    if n_null:
        raise TableError(
            f"the group column {column.name!r} must have no missing values; got {n_null:,}; "
            "give such rows a group of their own"
        )
    codes: np.ndarray = column.rank("dense").to_numpy().astype(np.int64)
    on_message(f"{len(np.unique(codes)):,} groups by {column.name!r}, none on two sides of a split")
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
                f"{rule}; got text ({error}); write dates as 2024-12-31, or leave out time"
            ) from error
    elif not (dtype.is_numeric() or dtype.is_temporal()):
        raise TableError(f"{rule}; got {dtype}; leave out time")
    missing = is_missing(column)
    if missing.any():
        raise TableError(
            f"{rule} and no missing values; got {int(missing.sum()):,}, the first in row "
            f"{int(missing.arg_max() or 0) + 1} of those used; fill or drop them"
        )
    order: np.ndarray = column.to_physical().to_numpy()
    return order if order.dtype.kind in "iuf" else order.astype(np.float64)
