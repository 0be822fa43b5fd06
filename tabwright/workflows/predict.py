"""A fitted model on a table on disk: predictions piece by piece, scores of all rows.

What `tabwright predict` and `tabwright evaluate` do, as functions. Tables are read in batches, so
that neither needs memory for the whole of one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from tabwright.calibration.decisions import DecisionRule
from tabwright.errors import TableError
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import prediction_frame, score_output
from tabwright.inference.training_rows import SeenRows, UnfamiliarCells
from tabwright.metrics import classification_intervals, regression_intervals
from tabwright.explanation.importance import Importance, permutation_importance
from tabwright.tables import (
    MISSING_MARKERS,
    CsvFormat,
    iter_tables,
    labels_to_codes,
    regression_target,
    sample_weights,
    table_dtypes,
)
from tabwright.tables.cell_format import typed_cells
from tabwright.tables.cells import is_missing, under_plain_name
from tabwright.tables.paths import TableFile
from tabwright.tables.reading import file_chunks

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class TableScores:
    """How good a model is on a labelled table.

    `n_rows`: rows that were scored.
    `n_without_target`: rows that were left out.
    `n_seen`: about how many of the rows are rows that the model was trained on; 0 where they are
        few.
    `metrics`: as `score_classification` or `score_regression` has them; those that judge labels, by
        the model's decision rule where it has one.
    `class_weighted`: the same with the class weights of training; empty where there were none.
    `intervals`: 95 % bootstrap intervals of the metrics; empty where they were not asked for.
    """

    n_rows: int
    n_without_target: int
    n_seen: int
    metrics: dict[str, float]
    class_weighted: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def iter_predictions(
    model: FittedModel,
    table: str,
    *,
    keep: Sequence[str] = (),
    coverage: float | None = None,
    batch_rows: int = _BATCH_ROWS,
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
    return _told_of_unfamiliar(predictions, batch_rows, on_unfamiliar or _warn)


def _told_of_unfamiliar(
    predictions: TablePredictions, batch_rows: int, on_unfamiliar: Callable[[str], None]
) -> Iterator[pl.DataFrame]:
    unfamiliar = UnfamiliarCells(predictions.model.encoder)
    yield from predictions.pieces(batch_rows, unfamiliar)
    for sentence in unfamiliar.sentences():
        on_unfamiliar(sentence)


@dataclass(frozen=True)
class Part:
    """Some rows of a table in files.

    `number`: which run of `n_rows` rows of the file, from 0.
    `n_rows`: None: all rows of the file.
    """

    file: TableFile
    number: int = 0
    n_rows: int | None = None


@dataclass(frozen=True)
class TablePredictions:
    """What is predicted of a table, and how the table is read: found out once, for all its parts.

    `digits`: as in `iter_predictions`.
    """

    model: FittedModel
    _reading: _Reading
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
        outputs = _output_names(model)
        if coverage is not None:
            Predictor(model, warns=False).half_width(coverage)
            outputs |= {"low", "high"}
        for position, name in enumerate(keep):
            if name in keep[:position]:
                raise ValueError(f"a column can be kept once; got {name!r} twice")
            if name in outputs:
                raise ValueError(
                    f"a kept column must not be named as a prediction is; got {name!r}; rename it "
                    "in the table, or leave it out"
                )
        reading = _Reading.of(model, table, others=keep, csv=csv)
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
        predictions = pl.DataFrame(
            [
                cells.round_sig_figs(digits) if cells.dtype.is_float() else cells
                for cells in predictions.get_columns()
            ]
        )
    return piece[:, :n_kept].hstack(predictions.get_columns()) if n_kept else predictions


def column_importance(
    model: FittedModel,
    table: str,
    target: str,
    *,
    csv: CsvFormat | None = None,
    n_repeats: int = 5,
    random_state: int = 0,
) -> Importance:
    """Permutation importance of the columns on the first rows of a labelled table.

    `table`: a file, folder or pattern.
    `target`: its column of labels or values; rows without one are left out.
    `csv`: how a CSV file is written, where it cannot tell by itself.
    `n_repeats`: shuffles of each column.
    Raises `TableError` if a column is missing, a label was unknown in training, or no row has a
        target.
    """
    reading = _Reading.of(model, table, others=[target], csv=csv, typed=True)
    batch = next(iter(reading.batches(_BATCH_ROWS)))
    column = _target_cells(model, batch.frame.get_column(target))
    known = ~is_missing(column)
    if not known.any():
        raise TableError(f"no row of {table} has a {target!r}; name the column of the labels")
    column = column.filter(known)
    if model.classes is None:
        true = regression_target(column)
    else:
        true = labels_to_codes(column, model.classes, where=f"the column {target!r}")
    with batch.in_place() as features:
        return permutation_importance(
            Predictor(model),
            features.filter(known),
            true,
            n_repeats=n_repeats,
            random_state=random_state,
        )


def with_threshold(model: FittedModel, threshold: float) -> FittedModel:
    """A model of two labels that gives the positive one from a probability on.

    The positive label is that of the stored rule, else the last in sorted order.

    Raises `ValueError` if the model has not two labels, or the threshold is not in [0, 1].
    """
    if model.classes is None or len(model.classes) != 2:
        n_labels = "no labels" if model.classes is None else f"{len(model.classes)} labels"
        raise ValueError(f"--threshold is for models of two labels; this one has {n_labels}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must be in [0, 1]; got {threshold}")
    positive = 1 if model.decision is None else model.decision.positive
    return replace(model, decision=DecisionRule("threshold", threshold, positive))


def _warn(sentence: str) -> None:
    warnings.warn(sentence, UserWarning, stacklevel=2)


@under_plain_name
def _without_empty_text(series: pl.Series) -> pl.Series:
    return series.replace("", None)


def read_features(model: FittedModel, table: str, *, csv: CsvFormat | None = None) -> pl.DataFrame:
    """The columns that a model reads, of a whole table, as `iter_predictions` reads them.

    `table`: a file, folder or pattern with the columns of training, in any order.
    `csv`: how a CSV file is written, where it cannot tell by itself.
    Raises `TableError` if columns are missing.
    """
    reading = _Reading.of(model, table, others=(), csv=csv)
    return pl.concat(
        [batch.frame[reading.features] for batch in reading.batches(_BATCH_ROWS)],
        how="vertical_relaxed",
    )


def score_table(
    model: FittedModel,
    table: str,
    target: str,
    *,
    weight: str | None = None,
    drop_null_target: bool = False,
    intervals: bool = False,
    batch_rows: int = _BATCH_ROWS,
    csv: CsvFormat | None = None,
    on_progress: Callable[[str, int, int | None], None] = lambda what, n_done, total: None,
) -> TableScores:
    """Score a model on a labelled table.

    The table is read in batches; predictions and targets of all rows are held.

    `table`: a file, folder or pattern.
    `target`: its column of labels or values.
    `weight`: its column of sample weights.
    `drop_null_target`: leave out rows without a target.
    `intervals`: whether to bootstrap intervals.
    `csv`: as in `iter_predictions`.
    `on_progress`: called with what is counted, how many are done, and of how many; None: nobody
        knows.
    Raises `TableError` if a column is missing, a label was unknown in training, or a target or
        weight is missing.
    """
    others = [target] if weight is None else [target, weight]
    reading = _Reading.of(model, table, others=others, csv=csv, typed=True)
    predictor = Predictor(model)
    seen = SeenRows(model)
    outputs, targets, weights = [], [], []
    n_absent = 0
    for batch in reading.batches(batch_rows):
        column = _target_cells(model, batch.frame.get_column(target))
        known = ~is_missing(column)
        n_absent += int((~known).sum())
        if not known.any():
            continue
        with batch.in_place() as features:
            compact = model.encoder.transform(features.filter(known), warns=True)
        outputs.append(predictor.judged(compact))
        seen.add(compact)
        targets.append(column.filter(known))
        if weight is not None:
            weights.append(sample_weights(batch.frame.get_column(weight).filter(known)))
        on_progress("rows scored", batch.n_before + batch.frame.height, None)
    if n_absent and not drop_null_target:
        raise TableError(
            f"rows to score need a target; {n_absent:,} have no {target!r}; give "
            "--drop-null-target to leave them out"
        )
    if not targets:
        raise TableError(f"no row of {table} has a {target!r}; name the column of the labels")
    output, known_target = np.concatenate(outputs), pl.concat(targets)
    mass = np.concatenate(weights) if weights else None
    bounds: dict[str, tuple[float, float]] = {}

    def resampled(n_done: int, total: int) -> None:
        on_progress("resamples for the intervals", n_done, total)

    if model.classes is None:
        true, decided = regression_target(known_target), None
        if intervals:
            bounds = regression_intervals(
                true,
                output,
                mass,
                objective=model.settings.objective,
                quantiles=model.settings.quantiles,
                on_resampled=resampled,
            )
    else:
        true = labels_to_codes(known_target, model.classes, where=f"the column {target!r}")
        decided = predictor.decide(output)
        if intervals:
            bounds = classification_intervals(
                true, output, mass, predicted=decided, on_resampled=resampled
            )
    judged = (model, true, output, mass, decided)
    return TableScores(
        n_rows=len(output),
        n_without_target=n_absent,
        n_seen=seen.estimate(),
        metrics=score_output(*judged),
        class_weighted=score_output(*judged, by_class_weights=True),
        intervals=bounds,
    )


def _target_cells(model: FittedModel, column: pl.Series) -> pl.Series:
    """The target of rows to score; text that training read as numbers is read so again."""
    if column.dtype != pl.String:
        return column
    form = model.target_format
    if model.classes is None:
        return typed_cells(column, "numeric", form)
    if model.classes.dtype.kind not in "iuf":
        return column
    try:
        return typed_cells(column, "numeric", form)
    except TableError:
        return column  # no label of the model, which is said with the labels that there are


@dataclass(frozen=True)
class _Reading:
    """How a table is read for a model."""

    table: str
    features: list[str]
    columns: list[str]
    dtypes: dict[str, pl.DataType]
    verbatim: list[str]
    csv: CsvFormat

    @classmethod
    def of(
        cls,
        model: FittedModel,
        table: str,
        *,
        others: Sequence[str],
        csv: CsvFormat | None,
        typed: bool = False,
    ) -> _Reading:
        layout = csv or CsvFormat()
        # The model decides what text means, as training read it: not the rest of this file.
        dtypes = table_dtypes(table, csv=layout, text_as_it_is=True)
        for name in others:
            if name not in dtypes:
                listed = ", ".join(list(dtypes)[:30]) + (", ..." if len(dtypes) > 30 else "")
                raise TableError(f"{table} has no column {name!r}; its columns are {listed}")
        plan = model.encoder.plan_
        # What training saw and did not use needs no word here.
        known = {model.card.get("target"), *model.card.get("columns_not_used", ()), *others}
        named = [name for name in dtypes if name not in known or name in plan.names]
        if plan.named:
            plan.check_names(named)
            kinds = zip(plan.names, plan.kinds, strict=True)
            features = [name for name, kind in kinds if kind != "unused"]
        else:
            features = named
        extra = [name for name in others if name not in features]
        columns = [*features, *extra]
        types = {name: dtypes[name] for name in columns}
        verbatim = list(extra)
        if typed:
            verbatim = []
            # A marker of missing cells that is a label of the model is that label here.
            labels = [] if model.classes is None else model.classes.tolist()
            if layout.missing is None and any(label in MISSING_MARKERS for label in labels):
                markers = tuple(m for m in MISSING_MARKERS[1:] if m not in labels)
                layout = replace(layout, missing=markers)
        if plan.named:
            # Text that the user says something of is read here; the rest is the model's to read.
            numeric = {
                n for n, kind in zip(plan.names, plan.kinds, strict=True) if kind == "numeric"
            }
            for name in features:
                if types[name] != pl.String:
                    continue
                if layout.decimal == "," and name in numeric:
                    types[name] = pl.Float64()
                elif csv is None or csv.missing is None:
                    verbatim.append(name)
        return cls(
            table=table,
            features=features,
            columns=columns,
            dtypes=types,
            verbatim=verbatim,
            csv=layout,
        )

    def batches(self, batch_rows: int, part: Part | None = None) -> Iterator[_Batch]:
        source: str | TableFile = self.table if part is None else part.file
        n_before = 0
        if part is None or part.n_rows is None:
            frames = iter_tables(
                source,
                batch_rows=batch_rows,
                columns=self.columns,
                dtypes=self.dtypes,
                verbatim=self.verbatim,
                csv=self.csv,
            )
        else:
            n_before = part.number * part.n_rows
            chunks = file_chunks(
                part.file, part.n_rows, self.columns, self.dtypes, part.number.__eq__, self.csv
            )
            frames = (piece for _, chunk in chunks for piece in chunk.iter_slices(batch_rows))
        for frame in frames:
            yield _Batch(frame, self.features, n_before, str(source))
            n_before += frame.height


@dataclass(frozen=True)
class _Batch:
    """Rows of a table and where in it they stand."""

    frame: pl.DataFrame
    features: list[str]
    n_before: int
    table: str

    @contextmanager
    def in_place(self) -> Iterator[pl.DataFrame]:
        """The columns of the model; what is wrong with a cell names the rows it is among."""
        try:
            yield self.frame[self.features]
        except TableError as error:
            if not self.n_before:
                raise
            raise TableError(
                f"{error}; rows are counted from row {self.n_before + 1:,} of {self.table}"
            ) from error


def _output_names(model: FittedModel) -> set[str]:
    labels = [] if model.classes is None else model.classes.tolist()
    return {"prediction", *(f"probability_{label}" for label in labels)}
