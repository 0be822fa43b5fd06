"""`write_report`: a fitted model on labelled rows as one self-contained HTML file.

The page needs no network, runs no script and opens from disk. The parts are in
`report/sections.py` and `report/fit_sections.py`, their numbers in `report/assessment.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from tabwright.artifact.atomic_write import check_suffix, check_writable, write_atomically
from tabwright.inference.fitted_model import FittedModel, as_fitted
from tabwright.inference.scoring import measure_of
from tabwright.report.assessment import Assessment, assess
from tabwright.report.explanations import effects_section
from tabwright.report.fit_sections import model_section, table_section, training_section
from tabwright.report.markup import Node, element, number, percent
from tabwright.report.page import Section, page, tiles
from tabwright.report.probability_sections import (
    calibration_answer,
    decision_section,
    probability_section,
)
from tabwright.report.sections import (
    METRICS,
    hardest_section,
    importance_section,
    scores_section,
    values_section,
)
from tabwright.report.subgroups import subgroup_section
from tabwright.tables import as_frame, labels_to_codes, regression_target
from tabwright.tables.column_names import listed, shown_name

_TILES = {
    "classification": ("auc", "accuracy", "log_loss", "brier"),
    "two classes": ("auc", "precision", "recall", "f1", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


class FittedEstimator(Protocol):
    """What holds a fitted model: a fitted `TabularClassifier` or `TabularRegressor`."""

    model_: FittedModel


def write_report(
    model: FittedModel | FittedEstimator,
    frame: Any,
    target: Any,
    path: str | os.PathLike[str],
    *,
    sample_weight: Any = None,
    linear: FittedModel | FittedEstimator | None = None,
    table_name: str | None = None,
    notes: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    row_numbers: np.ndarray | None = None,
    n_hardest: int = 10,
    max_seconds: float = 30.0,
    random_state: int = 0,
) -> None:
    """Write a report on a fitted model.

    Parameters
    ----------
    model : FittedModel, TabularClassifier or TabularRegressor
    frame : table
        Labelled rows that had no part in training: polars, pandas, pyarrow, NumPy, list of dicts.
    target : str or array of shape (n_rows,)
        The column of `frame` with the labels or values, or those themselves.
    path : str or path-like
        The HTML file.
    sample_weight : array of shape (n_rows,), optional
        Not negative; a weight of 2 equals a row twice, 0 leaves a row out.
    linear : FittedModel or estimator, optional
        A `linear_glm_baseline` fitted on the same training rows, to compare with.
    table_name : str, optional
        What the table is called, for the title.
    notes : sequence of str
        What was decided on the way, in sentences.
    left_out : mapping of str to str, optional
        Columns that the model was not even given, and why; by default those of its card.
    row_numbers : ndarray of shape (n_rows,), int64, optional
        Where the rows are in the table, from 1; by default their places in `frame`.
    n_hardest : int, default=10
        Rows of the highest loss to show with their cells; 0 for none.
    max_seconds : float, default=30.0
        For the permutation importance.
    random_state : int, default=0
        Of the bootstrap and of the shuffles. The same call writes the same bytes.

    Raises
    ------
    TableError
        If the rows do not fit the model, or a label was unknown in training.
    ValueError
        If there are no rows, or lengths differ.
    OSError
        If the file cannot be written; a file that was there stays whole.
    """
    check_suffix(path, ".html")
    check_writable(path)
    fitted = as_fitted(model)
    rows, codes = _labelled(fitted, frame, target)
    weight = _weight(sample_weight, len(codes))
    numbers = np.arange(1, len(codes) + 1) if row_numbers is None else np.asarray(row_numbers)
    if numbers.shape != codes.shape:
        raise ValueError(
            f"row_numbers must have one number per row, {len(codes)}; got shape {numbers.shape}"
        )
    found = assess(
        fitted,
        rows,
        codes,
        weight,
        linear=None if linear is None else as_fitted(linear),
        n_hardest=n_hardest,
        max_seconds=max_seconds,
        random_state=random_state,
    )
    table = table_section(
        fitted,
        len(codes),
        table_name=None if table_name is None else Path(table_name).name,
        notes=[_without_folder(note, table_name) for note in notes],
        left_out=_left_out(fitted) if left_out is None else left_out,
    )
    text = _page(fitted, found, rows, numbers, table, table_name)
    write_atomically(path, text.encode("utf-8"))


def _without_folder(note: str, table_name: str | None) -> str:
    """A note that names the table by its name alone: a report does not show where it lies."""
    return note if not table_name else note.replace(table_name, Path(table_name).name)


def _left_out(model: FittedModel) -> dict[str, str]:
    names = model.card.get("columns_not_used")
    return dict.fromkeys(map(str, names), "left out") if isinstance(names, list) else {}


def _labelled(model: FittedModel, frame: Any, target: Any) -> tuple[pl.DataFrame, np.ndarray]:
    """The rows as the encoder wants them, and class codes or values."""
    fitted = model.encoder.fitted_columns()
    rows, named = as_frame(frame, estimator="write_report", numbers_are_names=fitted.numbered)
    if isinstance(target, str):
        if target not in rows.columns:
            raise ValueError(
                f"target must be a column of the frame, or the labels themselves; got {target!r}; "
                f"the columns are {listed(rows.columns, quoted=False)}"
            )
        column: Any = rows[target]
        rows = rows[[name for name in rows.columns if name != target]]
    else:
        column = target
    encoder = model.encoder
    rows = fitted.of(rows, named=named, argument="frame")
    known = set(encoder.feature_names_in_)
    rows = rows[[name for name in rows.columns if name in known]]
    if model.classes is None:
        codes = regression_target(column)
    else:
        codes = labels_to_codes(column, model.classes)
    if len(codes) != len(rows):
        raise ValueError(
            f"frame and target must have the same number of rows; got {len(rows)} and {len(codes)}"
        )
    return rows, codes


def _weight(sample_weight: Any, n_rows: int) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},); got {weight.shape}")
    return weight


def _page(
    model: FittedModel,
    found: Assessment,
    frame: pl.DataFrame,
    numbers: np.ndarray,
    table: Section,
    table_name: str | None,
) -> str:
    """The whole page."""
    sections = [
        Section("summary", "In short", _summary(model, found)),
        scores_section(model, found),
    ]
    if model.classes is None:
        sections.append(values_section(model, found))
    else:
        sections += [probability_section(model, found), decision_section(model, found)]
    sections.append(importance_section(model, found))
    if found.effects:
        sections.append(effects_section(model, found.effects, found.usual_attributions))
    groups = subgroup_section(model, found, frame)
    if groups is not None:
        sections.append(groups)
    if len(found.hardest):
        sections.append(hardest_section(model, found, frame, numbers))
    sections += [table, training_section(model), model_section(model)]
    name = model.card.get("target")
    title = f"Predicting {_cut(shown_name(name))}" if isinstance(name, str) else "Model report"
    lead = [model.settings.training_mode, model.settings.task, f"{len(found):,} held-out rows"]
    if table_name:
        lead.insert(0, _cut(Path(table_name).name))
    versions = model.card.get("versions")
    version = versions.get("tabwright") if isinstance(versions, Mapping) else None
    footer = (
        f"Written by tabwright{f' {version}' if version else ''}. One file, no scripts, no network."
    )
    return page(title, " · ".join(lead), sections, footer)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:50]}…{text[-29:]}"


def _summary(model: FittedModel, found: Assessment) -> list[Node]:
    """The scores in tiles, and sentences on what they mean."""
    model_scores, trivial = found.scored[0], found.scored[-1]
    entries = []
    tiles_of = _TILES["two classes" if "f1" in model_scores.scores else model.settings.task]
    if model.settings.objective != "squared_error":
        tiles_of = (measure_of(model), "d2", "mae")
    for name in dict.fromkeys(tiles_of):
        if name in model_scores.scores:
            interval = ""
            if name in model_scores.intervals:
                low, high = model_scores.intervals[name]
                interval = f"95\u00a0%: {number(low, 3)}\u00a0to\u00a0{number(high, 3)}"
            entries.append((METRICS[name][0], number(model_scores.scores[name], 3), interval))
    key = measure_of(model)
    mine, base = model_scores.scores[key], trivial.scores[key]
    sentences = []
    if base > 0:
        share = 1.0 - mine / base
        sentences.append(
            f"{METRICS[key][0]} is {percent(abs(share), 0)} {'below' if share >= 0 else 'above'} "
            f"that of the {trivial.title.lower()}."
        )
    gain = found.gain
    if gain is not None:
        if gain.low > 0:
            sentences.append("The model is significantly better than the linear baseline.")
        elif gain.high < 0:
            sentences.append("The linear baseline is significantly better: use that one.")
        else:
            sentences.append("The model is not significantly different from the linear baseline.")
    if model.classes is not None:
        sentences.append(calibration_answer(model, found))
    names = [f"“{_cut(shown_name(name))}”" for name in found.importance.names[:3]]
    if names:
        sentences.append(f"What the model relies on most: {', '.join(names)}.")
    return [tiles(entries), element("p", " ".join(sentences))]
