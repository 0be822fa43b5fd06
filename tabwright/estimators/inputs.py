"""What estimators are given, checked: parameters, targets, weights, groups, times, sets of rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

import numpy as np
import polars as pl
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import _check_sample_weight

from tabwright.encoding.encoder import TableEncoder
from tabwright.tables import CsvFormat, as_frame
from tabwright.tables.cell_format import CellFormat
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.labelled import LabelledRows

EvalSet = tuple[Any, Any] | tuple[Any, Any, Any] | list[tuple[Any, ...]] | None


def frame_as_fitted(X: object, encoder: TableEncoder, estimator: str) -> pl.DataFrame:
    """A table of new rows, with its columns named as the encoder knows them.

    Raises `TableError` if an array has not as many columns, or numbered columns are not those.
    Warns `UserWarning` where columns with names are taken by position.
    """
    fitted = encoder.fitted_columns(estimator)
    frame, named = as_frame(X, estimator=estimator, numbers_are_names=fitted.numbered)
    return fitted.of(frame, named=named)


def labelled_rows(
    frame: pl.DataFrame,
    target: np.ndarray,
    sample_weight: object,
    *,
    groups: object = None,
    time: object = None,
    names: str = "X and y",
) -> LabelledRows:
    """The rows of a table with what belongs to them; `names` are those of the two in messages."""
    if len(frame) != len(target):
        raise ValueError(
            f"{names} must have the same number of rows; got {len(frame)} and {len(target)}"
        )
    weight = None
    if sample_weight is not None:
        weight = _check_sample_weight(
            sample_weight, np.empty((len(frame), 1)), dtype=np.float64, ensure_non_negative=True
        )
    return LabelledRows(
        frame,
        target,
        weight,
        _optional_column(groups, "groups", len(frame)),
        _optional_column(time, "time", len(frame)),
    )


def rows_and_target(given: EvalSet, name: str) -> tuple[Any, Any, Any]:
    """Table, target and weights of a set of rows that an argument of this name holds."""
    # Gradient boosting libraries take lists of such tuples; one set chooses the epoch.
    if isinstance(given, list) and all(isinstance(part, tuple) for part in given):
        if len(given) != 1:
            raise ValueError(f"{name} must be one set of rows; got a list of {len(given)}")
        given = given[0]
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise ValueError(
            f"{name} must be a tuple (X, y) or (X, y, sample_weight); got {type(given).__name__}"
        )
    X, y, weight = (*given, None)[:3]
    return X, y, weight


def single_column(y: Any, owner: str) -> Any:
    """A target, which may be a table of one column."""
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None")
    if getattr(y, "ndim", 1) == 2 and y.shape[1] == 1:
        return column_or_1d(y, warn=True)
    return y


def rows_in_memory(
    frame: pl.DataFrame, columns: ColumnUses
) -> tuple[pl.DataFrame, pl.Series, pl.Series | None, pl.Series | None]:
    """Features, target, groups and weights of a table that fits in memory."""
    columns.check(frame.columns)
    if columns.drop_null_target:
        frame = frame.filter(frame[columns.target].alias("").is_not_null())
    groups, weights = (
        None if name is None else frame[name] for name in (columns.group, columns.weight)
    )
    return frame[columns.features(frame.columns)], frame[columns.target], groups, weights


def seed_of(random_state: object) -> int:
    """A seed from what scikit-learn takes as `random_state`."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def plain(value: Any) -> Any:
    """A NumPy scalar as the number it is (grids of parameters hold such), a list as a tuple."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def cell_format(decimal: Literal[".", ","] | None, missing: Sequence[str] | None) -> CellFormat:
    """How the text of a table in memory is written, as `fit` was told."""
    texts = missing if missing is None or isinstance(missing, str) else tuple(missing)
    return CsvFormat(decimal=decimal, missing=texts).cells  # type: ignore[arg-type]


def _optional_column(values: Any, name: str, n_rows: int) -> np.ndarray | None:
    """Groups or times as an array, one value a row; dates in a list become datetimes."""
    if values is None:
        return None
    array = np.asarray(values)
    if array.dtype == object and any(isinstance(value, date) for value in array.ravel()[:1]):
        array = pl.Series(array.tolist(), strict=False).to_numpy()
    if array.shape != (n_rows,):
        raise ValueError(f"{name} must have shape ({n_rows},), one value a row; got {array.shape}")
    return array
