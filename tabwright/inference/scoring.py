"""A fitted model applied to a table: predictions as a table, and scores on labelled rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from tabwright.calibration.decisions import DecisionRule
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.metrics import (
    in_order,
    score_classification,
    score_decisions,
    score_regression,
)
from tabwright.number_text import number_text
from tabwright.regression import MEASURES


def measure_of(model: FittedModel) -> str:
    """The score, as `metrics` names it, of what the model was fitted for."""
    return "log_loss" if model.classes is not None else MEASURES[model.settings.objective]


def prediction_names(model: FittedModel, *, with_intervals: bool) -> list[str]:
    """The columns of `prediction_frame`, in order."""
    if model.classes is not None:
        return ["prediction", *(f"probability_{label}" for label in model.classes.tolist())]
    names = ["prediction", *(("low", "high") if with_intervals else ())]
    if model.settings.objective == "quantile":
        names += [f"quantile_{level:g}" for level in model.settings.quantiles]
    return names


def prediction_frame(
    predictor: Predictor, frame: pl.DataFrame, coverage: float | None = None
) -> pl.DataFrame:
    """Predictions for the rows of a table.

    `coverage`: in regression: the share of new rows whose value an interval shall hold, in (0, 1).
    Returns: a column `prediction`, by the model's decision rule where it has one; in classification
        also `probability_LABEL` for every label; with a coverage also `low` and `high`; of a model
        of quantiles also `quantile_LEVEL` for every level.
    Raises `ValueError` if a coverage is asked for and the model has no intervals.
    """
    model = predictor.model
    names = prediction_names(model, with_intervals=coverage is not None)
    if model.classes is None:
        columns = [predictor.predict_values(frame)]
        if coverage is not None:
            columns += list(predictor.predict_interval(frame, coverage).T)
        if model.settings.objective == "quantile":
            columns += list(predictor.predict_quantiles(frame).T)
        return pl.DataFrame(dict(zip(names, columns, strict=True)))
    if coverage is not None:
        predictor.half_width(coverage)
    proba = predictor.predict_proba(frame)
    # Gathered, so that a table without rows has the type of the labels too.
    labels = pl.Series(names[0], model.classes.tolist()).gather(predictor.decide(proba))
    probabilities = pl.DataFrame(dict(zip(names[1:], proba.T, strict=True)))
    return pl.DataFrame([labels]).hstack(probabilities.get_columns())


def score_output(
    model: FittedModel,
    target: np.ndarray,
    output: np.ndarray,
    sample_weight: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    *,
    by_class_weights: bool = False,
) -> dict[str, float]:
    """Scores of a model's predictions.

    `target`: (n_rows,); class codes, int64, or values, float64.
    `output`: (n_rows, n_classes), (n_rows,) or (n_rows, n_levels), float64; probabilities, values,
        or quantiles.
    `sample_weight`: (n_rows,), float64.
    `predicted`: (n_rows,), int64; codes of the labels to judge, where they are not those of the
        highest probability.
    `by_class_weights`: whether the class weights of training count too. Empty where there were
        none, and in `imbalance_aware`, which takes them out of its probabilities again.
    """
    if by_class_weights:
        if model.class_weights is None or model.settings.training_mode == "imbalance_aware":
            return {}
        factor = model.class_weights[target]
        sample_weight = factor if sample_weight is None else factor * sample_weight
        # Of the classes that are here, all may have weight 0.
        if not sample_weight.any():
            return {}
    if model.classes is None:
        settings = model.settings
        return score_regression(
            target,
            output,
            sample_weight,
            objective=settings.objective,
            quantiles=settings.quantiles,
        )
    return _score_labels(model, target, output, sample_weight, predicted)


def _score_labels(
    model: FittedModel,
    target: np.ndarray,
    proba: np.ndarray,
    sample_weight: np.ndarray | None,
    predicted: np.ndarray | None,
) -> dict[str, float]:
    """Scores of probabilities, and for two classes precision, recall and F1 of the positive one."""
    scores = score_classification(target, proba, sample_weight, predicted=predicted)
    if proba.shape[1] == 2:
        decided = proba.argmax(axis=1) if predicted is None else predicted
        scores |= score_decisions(target, decided, sample_weight, positive=positive_class(model))
    return scores


def positive_class(model: FittedModel) -> int:
    """The code of the class that is looked for, of two: that of the decision rule, or the last."""
    return 1 if model.decision is None else model.decision.positive


def scores_of(
    rows: str,
    model: FittedModel,
    target: np.ndarray,
    output: np.ndarray,
    sample_weight: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Scores as `FittedModel.metrics` has them: under the name of the set of rows.

    With class weights there is a second entry, `ROWS_class_weighted`. The parameters are those of
    `score_output`.
    """
    known = (model, target, output, sample_weight, predicted)
    scores = {
        rows: score_output(*known),
        f"{rows}_class_weighted": score_output(*known, by_class_weights=True),
    }
    return {name: by_metric for name, by_metric in scores.items() if by_metric}


def score_rows(
    predictor: Predictor,
    frame: pl.DataFrame,
    target: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Scores on test rows, whose class codes, or regression targets, are known.

    `target`: (n_rows,); class codes, int64, or values, float64.
    `sample_weight`: (n_rows,), float64.
    Returns: see `scores_of`. Those that judge labels, by the model's decision rule where it has
        one.
    """
    model = predictor.model
    if model.classes is None:
        values = predictor.judged(model.encoder.transform(frame))
        return scores_of("test", model, target, values, sample_weight)
    proba = predictor.predict_proba(frame)
    return scores_of("test", model, target, proba, sample_weight, predictor.decide(proba))


def note_on_baseline(metrics: Mapping[str, Mapping[str, float]]) -> str | None:
    """A sentence where test rows are predicted no better than by one answer for all.

    `metrics`: of a model; None without scores of test rows and of the baseline.
    """
    model, baseline = metrics.get("test"), metrics.get("baseline")
    if not model or not baseline:
        return None
    name, loss = next(iter(in_order(model).items()))
    if name not in baseline or loss < baseline[name]:
        return None
    return (
        f"no better than the trivial baseline, which gives all rows one answer ({name} "
        f"{number_text(loss)}, baseline {number_text(baseline[name])}): these columns may tell "
        "nothing of the target, or the rows are too few to learn it"
    )


def trivial_scores(
    model: FittedModel, target: np.ndarray, sample_weight: np.ndarray | None = None
) -> dict[str, float]:
    """Scores of the best constant answer: class shares, or mean, median or quantiles in training.

    `model`: its decision rule, where it has one, gives the labels here too.
    `target`: (n_rows,); class codes, int64, or values, float64.
    `sample_weight`: (n_rows,), float64.
    Raises `ValueError` if a classifier does not hold its class prior.
    """
    if model.target is not None:
        constant = np.broadcast_to(
            model.target.constant, (len(target), *np.shape(model.target.constant))
        )
        return score_output(model, target, constant, sample_weight)
    if model.class_prior is None:
        raise ValueError("a classifier must hold its class prior; fit it with fit_table")
    proba = np.tile(model.class_prior, (len(target), 1))
    predicted = (model.decision or DecisionRule()).apply(proba)
    return _score_labels(model, target, proba, sample_weight, predicted)
