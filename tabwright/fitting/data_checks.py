"""What makes the scores of a fit too good: columns that give the target away, repeated rows.

Nothing here refuses a table; what is found is said in a sentence, with the column or the count.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.streaming.repeated_rows import Hashes, repeat_by_chance, row_hashes
from tabwright.tables import TableProfile
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import (
    LabelledRows,
    TableRequest,
    TrainingTable,
    read_training_table,
)

if TYPE_CHECKING:
    from tabwright.splits import Splits

_MOST_ROWS = 50_000
_FEWEST_ROWS = 20
# A column gives labels away if it alone leaves at most this share of the errors of the most
# frequent label, and values if ranks agree to this correlation. What is measured before the
# target, and 4 standard deviations apart between two labels, leaves 0.046.
_ERROR_SHARE = 0.05
_ORDERED_ERROR_SHARE = 0.025
_RANK_CORRELATION = 0.999
# Values of fewer rows than this say little of the value, and much of the row.
_ROWS_PER_VALUE = 10
_REPEATED_SHARE = 0.01


def revealing_columns(
    rows: LabelledRows, profile: TableProfile, *, of_classes: bool
) -> tuple[str, ...]:
    """Features that tell the target all by themselves, most often since they are made from it.

    In classification: columns each of whose values goes with one label, but for a twentieth of the
    errors of the most frequent label (a tenth names no column more in 21 real tables), where values
    come in at least 10 rows on average; and numbers and times that one interval for each label
    divides by labels, but for a fortieth of these errors. In regression: numbers whose ranks agree
    with those of the target. At most 50,000 rows are looked at.

    `of_classes`: whether the targets are codes of classes.
    Returns: names of columns.
    """
    step = max(1, len(rows) // _MOST_ROWS)
    frame, target = profile.typed(rows.frame[::step]), rows.target[::step]
    if len(target) < _FEWEST_ROWS:
        return ()
    used = [column.name for column in profile.used if column.name in frame.columns]
    reveals = _reveals_labels if of_classes else _reveals_values
    return tuple(name for name in used if reveals(frame.get_column(name).alias(""), target))


def warnings_of_revealing(
    rows: LabelledRows, profile: TableProfile, uses: ColumnUses, *, of_classes: bool
) -> list[str]:
    """What to say of such columns, a sentence each; of that which orders the rows, nothing."""
    return [
        f"warning: column {name!r} alone tells the target {uses.target!r}: is it known before the "
        "target is? If so, keep it; if not, or if it is made from the target, leave it out"
        for name in revealing_columns(rows, profile, of_classes=of_classes)
        if name != uses.time
    ]


def read_checked_table(request: TableRequest, on_message: Callable[[str], None]) -> TrainingTable:
    """`read_training_table`, and what to say of columns that tell the target."""
    table = read_training_table(request, on_message)
    for warning in warnings_of_revealing(
        table.rows,
        table.profile,
        request.columns,
        of_classes=table.classes is not None,
    ):
        on_message(warning)
    return table


def warning_of_repeated(n_repeated: int, n_test: int, *, approximate: bool = False) -> str | None:
    """What to say of test rows that are training rows; None where they are less than 1 %."""
    if not n_repeated or n_repeated < _REPEATED_SHARE * n_test:
        return None
    return (
        f"warning: {'about ' if approximate else ''}{n_repeated:,} of the {n_test:,} rows held out "
        "are equal to a training row, in every column: the scores may be too good; remove repeated "
        "rows, or keep those that belong together on one side"
    )


def _reveals_labels(cells: pl.Series, codes: NDArray[np.int64]) -> bool:
    """Whether the cells of a column determine class codes."""
    value = cells.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    labels, codes = np.unique(codes, return_inverse=True)
    n_rows, n_labels = len(codes), len(labels)
    n_values = len(np.unique(value))
    if min(n_values, n_labels) < 2:
        return False
    is_ordered = cells.dtype.is_numeric() or cells.dtype.is_temporal()
    # A number for each label is the label in another spelling.
    is_measure = is_ordered and n_values > n_labels + 1
    share = _ORDERED_ERROR_SHARE if is_measure else _ERROR_SHARE
    allowed = int(share * (n_rows - np.bincount(codes).max()))
    pairs, counts = np.unique(value * n_labels + codes, return_counts=True)
    most = np.zeros(int(value.max()) + 1, dtype=np.int64)
    np.maximum.at(most, pairs // n_labels, counts)
    if n_rows - int(most.sum()) > allowed:
        return False
    # Each day has one label where labels last for days.
    if n_values * _ROWS_PER_VALUE <= n_rows and not cells.dtype.is_temporal():
        return True
    is_known = value > 0
    n_errors = int((~is_known).sum()) - int(most[0])
    return is_ordered and n_errors + _errors_of_cuts(value[is_known], codes[is_known]) <= allowed


def _errors_of_cuts(value: NDArray[np.int64], codes: NDArray[np.int64]) -> int:
    """How many codes differ from the one whose interval the value is in.

    Intervals follow the medians of their codes; between two neighbours is the cut that parts them
    with the fewest errors.
    """
    by_code = np.lexsort((value, codes))
    starts = np.flatnonzero(np.diff(codes[by_code])) + 1
    parts = sorted(np.split(by_code, starts), key=lambda rows: int(value[rows[len(rows) // 2]]))
    cuts = []
    for left, right in pairwise(parts):
        ends = np.append(0, np.unique(value[np.concatenate([left, right])]))
        beyond = len(left) - np.searchsorted(value[left], ends, "right")
        cuts.append(ends[(beyond + np.searchsorted(value[right], ends, "right")).argmin()])
    at = np.searchsorted(np.maximum.accumulate(np.array(cuts, dtype=np.int64)), value)
    return int((codes != np.array([codes[rows[0]] for rows in parts])[at]).sum())


def _reveals_values(cells: pl.Series, target: NDArray[np.float64]) -> bool:
    """Whether the ranks of a column of numbers are those of the target, or the reverse."""
    if not cells.dtype.is_numeric():
        return False
    pair = pl.DataFrame({"cell": cells.cast(pl.Float64).fill_nan(None), "target": target})
    pair = pair.drop_nulls()
    if pair.height < max(_FEWEST_ROWS, len(target) // 2) or min(pair.n_unique(["cell"]), 2) < 2:
        return False
    if pair["target"].n_unique() < _FEWEST_ROWS:
        return False
    ranks = pair.select(pl.all().rank()).to_numpy()
    if (ranks.std(axis=0) == 0).any():
        return False
    return bool(abs(np.corrcoef(ranks.T)[0, 1]) >= _RANK_CORRELATION)


def repeated_rows(training: LabelledRows, test: LabelledRows) -> int:
    """How many test rows are equal, features and target, to a training row.

    `training`, `test`: of the same columns.
    Returns: 0 in tables of few values, where most rows repeat each other by chance.
    """
    known, asked = _hashes(training), _hashes(test)
    if _repeat_each_other(np.concatenate([known, asked])):
        return 0
    return int(np.isin(asked, known).sum())


def warning_of_folds(rows: LabelledRows, folds: Splits) -> str | None:
    """What to say of rows that are tested by a fit to rows that are equal to them.

    `folds`: of these rows; a row that several of them test counts once.
    """
    hashes = _hashes(rows)
    if _repeat_each_other(hashes):
        return None
    is_tested, is_repeated = np.zeros((2, len(rows)), dtype=bool)
    for training, test in folds:
        is_tested[test] = True
        is_repeated[test] |= np.isin(hashes[test], hashes[training])
    return warning_of_repeated(int(is_repeated.sum()), int(is_tested.sum()))


def _hashes(rows: LabelledRows) -> Hashes:
    """A hash of each row, features and target."""
    return row_hashes([*rows.frame.get_columns(), pl.Series(rows.target)])


def _repeat_each_other(hashes: Hashes) -> bool:
    """Whether most of these rows come more than once by chance."""
    return repeat_by_chance(np.unique(hashes, return_counts=True)[1])
