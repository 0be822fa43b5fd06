"""A fitted model on a labelled table on disk: scores, and the importance of columns.

What `tabwright evaluate` and `tabwright importance` do, as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from tabwright.errors import TableError
from tabwright.explanation.importance import Importance, permutation_importance
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import positive_class, score_output
from tabwright.inference.training_rows import SeenRows
from tabwright.metrics import (
    classification_intervals,
    decision_intervals,
    regression_intervals,
)
from tabwright.tables import CsvFormat, labels_to_codes, regression_target, sample_weights
from tabwright.tables.cell_format import typed_cells
from tabwright.tables.cells import is_missing
from tabwright.workflows.reading import BATCH_ROWS, Reading


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
    reading = Reading.of(model, table, others=[target], csv=csv, typed=True)
    batch = next(iter(reading.batches(BATCH_ROWS)))
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


def score_table(
    model: FittedModel,
    table: str,
    target: str,
    *,
    weight: str | None = None,
    drop_null_target: bool = False,
    intervals: bool = False,
    batch_rows: int = BATCH_ROWS,
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
    reading = Reading.of(model, table, others=others, csv=csv, typed=True)
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
            "drop_null_target=True to leave them out"
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
            if output.shape[1] == 2:
                bounds |= decision_intervals(true, decided, mass, positive=positive_class(model))
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
