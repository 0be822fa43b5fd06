"""A fitted model on a table on disk: predictions piece by piece, as `tabwright predict` gives them.

Tables are read in batches, so that no memory is needed for the whole of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tabwright.calibration.decisions import DecisionRule
from tabwright.errors import warn_caller
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import positive_class, prediction_frame, prediction_names
from tabwright.inference.training_rows import UnfamiliarCells
from tabwright.tables import CsvFormat
from tabwright.tables.cells import under_plain_name
from tabwright.workflows.reading import BATCH_ROWS, Part, Reading
from tabwright.workflows.rounding import Digits, rounded_predictions


def iter_predictions(
    model: FittedModel,
    table: str,
    *,
    keep: Sequence[str] = (),
    coverage: float | None = None,
    batch_rows: int = BATCH_ROWS,
    csv: CsvFormat | None = None,
    labels_only: bool = False,
    digits: Digits = None,
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
    `digits`: significant digits of predicted numbers; all by default. "meaningful": as
        `meaningful_digits` says, and of a row of probabilities the largest is what the others leave
        of 1.
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
    return _with_unfamiliar_reported(predictions, batch_rows, on_unfamiliar or warn_caller)


def _with_unfamiliar_reported(
    predictions: TablePredictions, batch_rows: int, on_unfamiliar: Callable[[str], None]
) -> Iterator[pl.DataFrame]:
    model = predictions.model
    unfamiliar = UnfamiliarCells(model.encoder, card=model.card)
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
    digits: Digits

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
        digits: Digits = None,
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
            yield self._shortened(predictions)

    def _shortened(self, piece: pl.DataFrame) -> pl.DataFrame:
        """Kept columns as they are, then predictions without what was not asked for."""
        n_kept = len(self.keep)
        predictions = piece[:, n_kept:]
        if self.labels_only:
            predictions = predictions[:, :1]
        predictions = rounded_predictions(predictions, self.model, self.digits)
        return piece[:, :n_kept].hstack(predictions.get_columns()) if n_kept else predictions


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
    return replace(model, decision=DecisionRule("threshold", threshold, positive_class(model)))


@under_plain_name
def _without_empty_text(series: pl.Series) -> pl.Series:
    return series.replace("", None)
