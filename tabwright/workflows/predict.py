"""A fitted model on a table on disk: predictions piece by piece, as `tabwright predict` gives them.

Tables are read in batches, so that no memory is needed for the whole of one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.calibration.decisions import DecisionRule
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame, prediction_names
from tabwright.inference.training_rows import UnfamiliarCells
from tabwright.tables import CsvFormat
from tabwright.tables.cells import under_plain_name
from tabwright.workflows.reading import BATCH_ROWS, Part, Reading

# So many significant digits are all of a float64.
ALL_DIGITS = 17
_DIGITS_OF_PROBABILITIES = 6
# About those of float32, in which networks compute.
_DIGITS_OF_VALUES = 7
# Of a predicted value, one part in 10**5 of the target's standard deviation is shown at least.
_DIGITS_OF_SPREAD = 5
# Powers of ten that float64 holds exactly.
_EXACT_POWERS = 22


def iter_predictions(
    model: FittedModel,
    table: str,
    *,
    keep: Sequence[str] = (),
    coverage: float | None = None,
    batch_rows: int = BATCH_ROWS,
    csv: CsvFormat | None = None,
    labels_only: bool = False,
    digits: int | None = None,
    on_unfamiliar: Callable[[str], None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Predict a table of any length, in bounded memory.

    Checks that need no rows are made at the call, the rest as the pieces come.

    `table`: a file, folder or pattern with the columns of training, in any order.
    `keep`: columns of the table to put before the predictions. From CSV files they come as they are
        written.
    `coverage`: in regression: add the ends of intervals that hold this share of new values.
    `batch_rows`: rows of a piece.
    `csv`: how a CSV file is written, where it cannot tell by itself.
    `labels_only`: leave the probabilities out.
    `digits`: significant digits of predicted numbers; all by default.
    `on_unfamiliar`: called at the end with a sentence for each column with cells unlike those of
        training.
    Yields: as `prediction_frame`, all of the same columns and types.
    Raises `TableError` if columns are missing, or a cell does not fit its column.
    Raises `ValueError` if a kept column comes twice or is named as a prediction is, or the model
        has no intervals of this coverage.
    Warns `UserWarning` if there are columns that training knew nothing of; at the end, one for each
        column with cells unlike those of training, which `on_unfamiliar` takes instead.
    """
    predictions = TablePredictions.of(
        model, table, keep=keep, coverage=coverage, csv=csv, labels_only=labels_only, digits=digits
    )
    return _with_unfamiliar_reported(predictions, batch_rows, on_unfamiliar or _warn)


def _with_unfamiliar_reported(
    predictions: TablePredictions, batch_rows: int, on_unfamiliar: Callable[[str], None]
) -> Iterator[pl.DataFrame]:
    unfamiliar = UnfamiliarCells(predictions.model.encoder)
    yield from predictions.pieces(batch_rows, unfamiliar)
    for sentence in unfamiliar.sentences():
        on_unfamiliar(sentence)


@dataclass(frozen=True)
class TablePredictions:
    """What is predicted of a table, and how the table is read: found out once, for all its parts.

    `digits`: as in `iter_predictions`.
    """

    model: FittedModel
    _reading: Reading
    keep: tuple[str, ...]
    coverage: float | None
    labels_only: bool
    digits: int | None

    @classmethod
    def of(
        cls,
        model: FittedModel,
        table: str,
        *,
        keep: Sequence[str] = (),
        coverage: float | None = None,
        csv: CsvFormat | None = None,
        labels_only: bool = False,
        digits: int | None = None,
    ) -> TablePredictions:
        """Check what can be checked without rows.

        Raises `TableError`, `ValueError`: as `iter_predictions`.
        """
        if coverage is not None:
            Predictor(model, warns=False).half_width(coverage)
        outputs = prediction_names(model, with_intervals=coverage is not None)
        for position, name in enumerate(keep):
            if name in keep[:position]:
                raise ValueError(f"a column can be kept once; got {name!r} twice")
            if name in outputs:
                raise ValueError(
                    f"a kept column must not be named as a prediction is; got {name!r}; rename it "
                    "in the table, or leave it out"
                )
        reading = Reading.of(model, table, others=keep, csv=csv)
        return cls(
            model=model,
            _reading=reading,
            keep=tuple(keep),
            coverage=coverage,
            labels_only=labels_only,
            digits=digits,
        )

    def pieces(
        self, batch_rows: int, unfamiliar: UnfamiliarCells, part: Part | None = None
    ) -> Iterator[pl.DataFrame]:
        """Predictions as the rows come, of the whole table or of one part.

        `unfamiliar`: is shown every row.
        """
        predictor = Predictor(self.model, warns=False)
        for batch in self._reading.batches(batch_rows, part):
            with batch.in_place() as features:
                predictions = prediction_frame(predictor, features, self.coverage)
                unfamiliar.add(features)
            # A selection of no columns has no rows either, so it cannot be the left of a stack.
            if self.keep:
                # What the file leaves empty stays empty, and is not a text of no characters.
                kept = pl.DataFrame(
                    [
                        _without_empty_text(series) if series.dtype == pl.String else series
                        for series in batch.frame[list(self.keep)]
                    ]
                )
                predictions = kept.hstack(predictions.get_columns())
            yield _shortened(predictions, len(self.keep), self.labels_only, self.digits)


def _shortened(
    piece: pl.DataFrame, n_kept: int, labels_only: bool, digits: int | None
) -> pl.DataFrame:
    """Kept columns as they are, then predictions without what was not asked for."""
    predictions = piece[:, n_kept:]
    if labels_only:
        predictions = predictions[:, :1]
    if digits is not None:
        # Labels were decided before, so that no rounding changes one.
        predictions = pl.DataFrame(
            [
                pl.Series(cells.name, rounded_to(cells.to_numpy(), digits))
                if cells.dtype.is_float()
                else cells
                for cells in predictions.get_columns()
            ]
        )
    return piece[:, :n_kept].hstack(predictions.get_columns()) if n_kept else predictions


def meaningful_digits(model: FittedModel) -> int:
    """Significant digits of a model's predicted numbers that mean something.

    Returns: 6 for probabilities. For values 7, and more where the target's spread is small beside
        its size, or units would be lost: no digit of the target's integers, and nothing above a
        hundred-thousandth of its standard deviation.
    """
    if model.target is None:
        return _DIGITS_OF_PROBABILITIES
    size = max(abs(model.target.low), abs(model.target.high))
    if size == 0:
        return _DIGITS_OF_VALUES
    magnitude = math.log10(size)
    relative = magnitude - math.log10(model.target.scale)
    wanted = max(math.floor(magnitude) + 1, math.ceil(relative) + _DIGITS_OF_SPREAD + 1)
    return min(max(wanted, _DIGITS_OF_VALUES), ALL_DIGITS)


def rounded_to(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """The nearest values of so many significant digits, float64 of the same shape."""
    if digits >= ALL_DIGITS:
        return values
    size = np.abs(values)
    plain = np.isfinite(values) & (size > 0)
    exponent = np.floor(np.log10(np.where(plain, size, 1.0))).astype(np.int64)
    places = digits - 1 - exponent
    # Powers beyond are not exact, and what is divided by them is not the nearest to the decimal.
    exact = plain & (np.abs(places) <= _EXACT_POWERS)
    power = 10.0 ** np.where(exact, np.abs(places), 0)
    known = np.where(exact, values, 0.0)
    rounded: NDArray[np.float64] = np.where(
        places >= 0, np.rint(known * power) / power, np.rint(known / power) * power
    )
    rounded = np.where(exact, rounded, values)
    for at in np.flatnonzero(plain & ~exact):
        nearest = float(f"{values[at]:.{digits - 1}e}")
        # Of the largest numbers, the nearest may be past what float64 holds.
        rounded[at] = nearest if math.isfinite(nearest) else values[at]
    return rounded


def with_threshold(model: FittedModel, threshold: float) -> FittedModel:
    """A model of two labels that gives the positive one from a probability on.

    The positive label is that of the stored rule, else the last in sorted order.

    Raises `ValueError` if the model has not two labels, or the threshold is not in [0, 1].
    """
    if model.classes is None or len(model.classes) != 2:
        n_labels = "no labels" if model.classes is None else f"{len(model.classes)} labels"
        raise ValueError(f"threshold is for models of two labels; this one has {n_labels}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1]; got {threshold}")
    positive = 1 if model.decision is None else model.decision.positive
    return replace(model, decision=DecisionRule("threshold", threshold, positive))


def _warn(sentence: str) -> None:
    warnings.warn(sentence, UserWarning, stacklevel=2)


@under_plain_name
def _without_empty_text(series: pl.Series) -> pl.Series:
    return series.replace("", None)
