"""The column to predict: which task it poses, its labels as codes, its values as numbers.

scikit-learn's words are kept where its own checks and its users look for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.settings import Task
from tabwright.tables.cell_format import USUAL, CellFormat, typed_cells
from tabwright.tables.cells import refuse_nested, to_levels, to_numbers, under_plain_name
from tabwright.tables.column_names import listed
from tabwright.tables.dtypes import text_column
from tabwright.tables.frames import as_series

# Integers are labels where there are few of them and each comes often, else quantities.
_MOST_CLASSES: Final = 20
_ROWS_PER_CLASS: Final = 5
_NO_NUMBER: Final = "use TabularClassifier if these are labels, or correct the cell"
_LABEL_RULE: Final = "labels must be strings, integers, booleans or integral floats"


@dataclass(frozen=True)
class Labels:
    """The labels of a classification target.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Distinct labels, sorted as `numpy.unique` sorts them, in the dtype they came in.
    codes : ndarray of shape (n_rows,), int64
        Positions in `classes`.
    """

    classes: np.ndarray
    codes: np.ndarray


@under_plain_name
def infer_task(target: pl.Series) -> tuple[Task, str]:
    """Tell classification from regression by the target alone.

    Text, categories and booleans are classes. Numbers with a fraction are a regression target.
    Whole numbers (of any dtype) are classes if there are at most two distinct ones, or at most
    20 of them with at least 5 rows each on average; otherwise a regression target.

    Parameters
    ----------
    target : polars.Series

    Returns
    -------
    task : {"classification", "regression"}
    reason : str
        A sentence for people.

    Raises
    ------
    TableError
        If every cell is missing, or the column holds dates or nested cells.
    """
    refuse_nested(target)
    name = target.name
    if target.dtype.is_float():
        target = target.fill_nan(None)
    present = target.drop_nulls()
    if not present.len():
        raise TableError(
            f"the target must have values; every cell of column {name!r} is missing; "
            "name another target column"
        )
    dtype = present.dtype
    refuse_moments(name, dtype)
    fractions = not dtype.is_integer() and dtype.is_numeric()
    fractions = fractions and bool((present.cast(pl.Float64) % 1 != 0).any())
    return task_of_counts(
        name, dtype, n_unique=present.n_unique(), n_rows=present.len(), has_fraction=fractions
    )


def refuse_moments(name: str, dtype: pl.DataType) -> None:
    """Refuse a target of dates, times or spans.

    Raises `TableError`.
    """
    if dtype.is_temporal():
        number = "its seconds" if dtype in (pl.Duration, pl.Time) else "the days since a date"
        raise TableError(
            f"the target must be labels or numbers; column {name!r} holds {dtype}; make a number "
            f"of it first, e.g. {number}"
        )


def task_of_counts(
    name: str, dtype: pl.DataType, *, n_unique: int, n_rows: int, has_fraction: bool
) -> tuple[Task, str]:
    """The rule of `infer_task`, for a column of which only this is known.

    `dtype`: not temporal, not nested.
    `n_unique`, `n_rows`: distinct values, and values, that are not missing.
    `has_fraction`: whether a number among them is not whole.
    """
    if dtype == pl.Boolean:
        return "classification", f"{name!r} holds true and false, so they are classes"
    if not dtype.is_numeric():
        return "classification", f"{name!r} holds text ({n_unique} distinct), so they are classes"
    if has_fraction:
        return "regression", f"{name!r} holds numbers with a fraction, so it is a quantity"
    few = n_unique <= 2 or (n_unique <= _MOST_CLASSES and n_rows >= _ROWS_PER_CLASS * n_unique)
    count = f"{name!r} holds whole numbers, {n_unique:,} distinct in {n_rows:,} rows"
    if few:
        return "classification", f"{count}: few, so they are classes"
    return "regression", f"{count}: many, so it is a quantity"


def note_on_labels(labels: Labels) -> str:
    """What to say of labels that are numbers, and so many that they may be a quantity."""
    n_rows, n_classes = len(labels.codes), len(labels.classes)
    if n_classes <= _MOST_CLASSES or n_rows >= _ROWS_PER_CLASS * n_classes:
        return ""
    classes = as_series(labels.classes)
    if classes.dtype == pl.String and not text_column(classes).values.dtype.is_numeric():
        return ""
    return (
        f"the target holds {n_classes:,} distinct numbers in {n_rows:,} rows, and each is a class; "
        "use TabularRegressor if it is a quantity"
    )


def seen_labels(labels: Labels, weight: np.ndarray | None) -> Labels:
    """The same without the classes of which every row weighs 0, as if these rows were absent.

    Parameters
    ----------
    labels : Labels
        Of n_rows rows.
    weight : ndarray of shape (n_rows,), float64, or None

    Returns
    -------
    Labels
        Rows of weight 0 may have the code of another class.
    """
    if weight is None or not (weight > 0).any():
        return labels
    seen = np.unique(labels.codes[weight > 0])
    codes = np.searchsorted(seen, labels.codes).clip(max=len(seen) - 1)
    return Labels(labels.classes[seen], codes.astype(np.int64))


def encode_labels(y: object) -> Labels:
    """Labels as codes, and the distinct labels as they came.

    Parameters
    ----------
    y : array-like of shape (n_rows,) or (n_rows, 1)
        Strings, integers, booleans or integral floats: NumPy, list, polars, pandas or pyarrow.

    Returns
    -------
    Labels

    Raises
    ------
    TableError
        If a label is missing or of another kind, or if there is more than one column of them.
    """
    values = _label_array(y, "y")
    if values.dtype == object or values.dtype.kind == "U":
        texts = pl.Series(values.astype(object), dtype=pl.String)
        # UTF-8 bytes sort as code points do, and so as Python and NumPy sort text.
        names = texts.unique().sort()
        codes = texts.replace_strict(
            names, pl.int_range(names.len(), eager=True), return_dtype=pl.Int64
        )
        return Labels(
            np.array(names.to_list(), dtype=values.dtype), codes.to_numpy().astype(np.int64)
        )
    classes, inverse = np.unique(values, return_inverse=True)
    return Labels(classes, inverse.reshape(-1).astype(np.int64))


def labels_to_codes(y: object, classes: np.ndarray, *, where: str = "eval_set") -> np.ndarray:
    """Codes of labels that `encode_labels` has seen.

    Parameters
    ----------
    y : array-like of shape (n_rows,) or (n_rows, 1)
    classes : ndarray of shape (n_classes,)
        As in `Labels`.
    where : str, default="eval_set"
        Where the labels come from, for messages.

    Returns
    -------
    ndarray of shape (n_rows,), int64

    Raises
    ------
    TableError
        If a label is not in `classes`, is missing, or is of another kind.
    """
    values = _label_array(y, where)
    textual = values.dtype.kind in "OU"
    if textual != (classes.dtype.kind in "OU"):
        return _codes_by_name(values, classes, where)
    if textual:
        known = pl.Series(classes.astype(object), dtype=pl.String)
        texts = pl.Series(values.astype(object), dtype=pl.String)
        found = texts.replace_strict(
            known,
            pl.int_range(known.len(), eager=True),
            default=-1,
            return_dtype=pl.Int64,
        )
        codes = found.to_numpy().astype(np.int64)
    else:
        codes = np.minimum(np.searchsorted(classes, values), len(classes) - 1).astype(np.int64)
        codes[classes[codes] != values] = -1
    if (codes < 0).any():
        raise _unseen(values[int((codes < 0).argmax())], classes, where)
    return codes


def _codes_by_name(values: np.ndarray, classes: np.ndarray, where: str) -> np.ndarray:
    """Codes of labels of another type than the classes: text of numbers, or numbers for text.

    A file's text says 1.0 where a frame says 1, and True where the classes are booleans.
    """
    names, wanted = (to_levels(as_series(labels)) for labels in (classes, values))
    if names.n_unique() < names.len():
        raise _unseen(values[0], classes, where)
    codes: np.ndarray = (
        wanted.replace_strict(
            names,
            pl.int_range(names.len(), eager=True),
            default=-1,
            return_dtype=pl.Int64,
        )
        .fill_null(-1)
        .to_numpy()
    )
    if (codes < 0).any():
        raise _unseen(values[int((codes < 0).argmax())], classes, where)
    return codes.astype(np.int64)


def learned_target(y: object, task: Task) -> tuple[np.ndarray | None, np.ndarray]:
    """What is learned: in classification the classes and the codes of `y`, else None and values.

    Raises what `encode_labels` and `regression_target` do.
    """
    if task == "regression":
        return None, regression_target(y)
    labels = encode_labels(y)
    return labels.classes, labels.codes


def format_of_target(y: object) -> CellFormat:
    """How the text of a regression target to fit is written; the usual way where it is no text."""
    series = as_series(_one_column(y, "MultiOutputRegressor"), name="y")
    if series.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return USUAL
    values, _, form = text_column(series.cast(pl.String))
    return form if values.dtype.is_numeric() else USUAL


def regression_target(y: object, form: CellFormat = USUAL) -> np.ndarray:
    """A target as numbers.

    Parameters
    ----------
    y : array-like of shape (n_rows,) or (n_rows, 1)
        Numbers, booleans, or text that is numbers.
    form : CellFormat, optional
        How the text is written.

    Returns
    -------
    ndarray of shape (n_rows,), float64
        Finite.

    Raises
    ------
    TableError
        If a value is missing, infinite or no number, or if there is more than one column.
    """
    series = as_series(_one_column(y, "MultiOutputRegressor"), name="y")
    refuse_nested(series)
    if series.dtype.is_temporal():
        spans = series.dtype in (pl.Duration, pl.Time)
        raise TableError(
            f"a regression target must hold numbers; got {series.dtype}; make a number of it "
            f"first, e.g. {'its seconds' if spans else 'the days since a date'}"
        )
    if form != USUAL:
        series = typed_cells(series, "numeric", form)
    values = to_numbers(series, way_out=_NO_NUMBER)
    if values.null_count():
        raise _missing(values.is_null())
    numbers = values.to_numpy().astype(np.float64)
    if not np.isfinite(numbers).all():
        row = int((~np.isfinite(numbers)).argmax())
        raise TableError(
            "Input y contains infinity or a value too large for dtype('float64'). A regression "
            f"target must be finite; got {numbers[row]} in row {row + 1}; drop or cap such rows"
        )
    return numbers


def sample_weights(column: pl.Series) -> np.ndarray:
    """A column of sample weights as numbers.

    Parameters
    ----------
    column : polars.Series

    Returns
    -------
    ndarray of shape (n_rows,), float64
        Finite and not negative.

    Raises
    ------
    TableError
        If a weight is missing, negative, infinite or no number.
    """
    rule = f"the weights in column {column.name!r} must be numbers of at least 0"
    if column.dtype == pl.String:
        try:
            column = to_numbers(column)
        except TableError as error:
            raise TableError(f"{rule}; {error}") from error
    if not column.dtype.is_numeric():
        raise TableError(f"{rule}; got {column.dtype}; name a column of numbers")
    weights: np.ndarray = column.cast(pl.Float64).to_numpy()
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all():
        row = int((~good).argmax())
        got = "an empty cell" if column[row] is None else repr(column[row])
        raise TableError(f"{rule}; got {got} in row {row + 1}; a row of weight 0 is left out")
    return weights


def _one_column(y: object, wrapper: str) -> Any:
    """The target as one column, a table of one column included."""
    if y is None:
        raise TableError("a target is needed to fit; got None; pass y")
    if isinstance(y, list | tuple) and y and isinstance(y[0], list | tuple | np.ndarray):
        y = np.asarray(y, dtype=object)
    shape: Sequence[int] = getattr(y, "shape", ())
    if len(shape) < 2:
        return y
    if len(shape) == 2 and shape[1] == 1:
        if isinstance(y, pl.DataFrame):
            return y.to_series()
        frame: Any = y
        return frame.iloc[:, 0] if hasattr(frame, "iloc") else np.asarray(y).reshape(-1)
    raise TableError(
        f"y should be a 1d array; got an array of shape {tuple(shape)} instead; for several "
        f"targets use sklearn.multioutput.{wrapper}, which fits one model for each"
    )


def _label_array(labels: object, where: str) -> np.ndarray:
    """Labels as an array of one kind: bool, integer, integral float, or text."""
    y = _one_column(labels, "MultiOutputClassifier")
    dtype: Any = getattr(y, "dtype", None)
    if type(dtype).__name__ == "CategoricalDtype":
        # pandas: the labels are what the categories are made of.
        y = np.asarray(y)
    if isinstance(y, np.ndarray) and y.dtype.kind in "biufU":
        values = y
    elif isinstance(y, list | tuple) and all(isinstance(label, str) for label in y):
        values = np.asarray(y, dtype=np.str_)
    else:
        values = _series_labels(as_series(y, name=where))
    if not values.size:
        raise TableError(f"{where} must have labels; got none; check the filter that made them")
    if values.dtype.kind == "f":
        if np.isnan(values).any():
            raise _missing(pl.Series(np.isnan(values)))
        if not np.isfinite(values).all():
            raise TableError(
                "Input y contains infinity or a value too large for dtype('float64'). "
                f"{_LABEL_RULE}; drop such rows".replace("labels", "Labels", 1)
            )
        fractional = values != np.floor(values)
        if fractional.any():
            raise TableError(
                f"Unknown label type: continuous. The {_LABEL_RULE}; got "
                f"{values[fractional][0]!s}; use TabularRegressor for quantities"
            )
    return values


def _series_labels(series: pl.Series) -> np.ndarray:
    """The labels of a polars column, none missing."""
    refuse_nested(series)
    if series.null_count():
        raise _missing(series.is_null())
    dtype = series.dtype
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return np.array(series.cast(pl.String).to_list(), dtype=object)
    if dtype == pl.Boolean or dtype.is_integer() or dtype.is_float():
        return series.to_numpy()
    raise TableError(
        f"Unknown label type: {dtype}. The {_LABEL_RULE}; got {series[0] if len(series) else None}"
        "; convert them first"
    )


def _missing(missing: pl.Series) -> TableError:
    row = int(missing.arg_max() or 0)
    return TableError(
        f"Input y contains NaN. The target must not be missing; got {int(missing.sum())} missing, "
        f"the first in row {row + 1}; drop these rows"
    )


def _unseen(label: object, classes: np.ndarray, where: str) -> TableError:
    label = label.item() if isinstance(label, np.generic) else label
    return TableError(
        f"{where} must hold labels that the training rows have "
        f"({listed(classes.tolist())}); got {label!r}; "
        "leave these rows out, or add rows of this class to the training rows"
    )
