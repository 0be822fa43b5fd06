"""A fitted model applied to a table: predictions as a table, and scores on labelled rows."""

from __future__ import annotations

import numpy as np
import polars as pl

from ai.ml.frameworks.pytorch.metrics import score_classification, score_regression
from ai.ml.frameworks.pytorch.predictor import Predictor
from ai.ml.frameworks.pytorch.tables import labels_to_codes, regression_target

__all__ = ["prediction_frame", "score_frame", "score_rows"]


def prediction_frame(
    predictor: Predictor, frame: pl.DataFrame, coverage: float | None = None
) -> pl.DataFrame:
    """Predictions for the rows of a table.

    Parameters
    ----------
    predictor : Predictor
    frame : polars.DataFrame
        The columns of training, in any order; others are ignored.
    coverage : float, optional
        In regression: the share of new rows whose value an interval shall hold, in (0, 1).

    Returns
    -------
    polars.DataFrame
        A column `prediction`, by the model's decision rule where it has one; in classification
        also `probability_LABEL` for every label; with a coverage also `low` and `high`.

    Raises
    ------
    ValueError
        If a coverage is asked for and the model has no intervals.
    """
    classes = predictor.model.classes
    width = None if coverage is None else predictor.half_width(coverage)
    if classes is None:
        values = predictor.predict_values(frame)
        if width is None:
            return pl.DataFrame({"prediction": values})
        return pl.DataFrame({"prediction": values, "low": values - width, "high": values + width})
    proba = predictor.predict_proba(frame)
    labels = pl.Series("prediction", classes[predictor.decide(proba)].tolist())
    columns = {f"probability_{label}": proba[:, i] for i, label in enumerate(classes.tolist())}
    return pl.DataFrame([labels]).hstack(pl.DataFrame(columns).get_columns())


def score_rows(
    predictor: Predictor,
    frame: pl.DataFrame,
    target: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> dict[str, float]:
    """Scores on rows whose class codes, or regression targets, are known.

    Parameters
    ----------
    predictor : Predictor
    frame : polars.DataFrame
    target : ndarray of shape (n_rows,)
        Class codes, int64, or values, float64.
    sample_weight : ndarray of shape (n_rows,), float64, optional

    Returns
    -------
    dict of str to float
        Those that judge labels, by the model's decision rule where it has one.
    """
    if predictor.model.classes is None:
        return score_regression(target, predictor.predict_values(frame), sample_weight)
    proba = predictor.predict_proba(frame)
    return score_classification(target, proba, sample_weight, predicted=predictor.decide(proba))


def score_frame(
    predictor: Predictor, frame: pl.DataFrame, target: str, weight: str | None = None
) -> dict[str, float]:
    """Scores on a labelled table.

    Parameters
    ----------
    predictor : Predictor
    frame : polars.DataFrame
    target : str
        Its column of labels or values.
    weight : str, optional
        Its column of sample weights.

    Returns
    -------
    dict of str to float

    Raises
    ------
    ValueError
        If a label was unknown in training, or a value is missing.
    """
    classes = predictor.model.classes
    column = frame[target]
    known = regression_target(column) if classes is None else labels_to_codes(column, classes)
    weights = None if weight is None else frame[weight].cast(pl.Float64).to_numpy()
    return score_rows(predictor, frame, known, weights)
