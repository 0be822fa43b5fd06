"""What a report says about a model, as numbers: scores, intervals, baselines, the hardest rows.

All of it comes from labelled rows that had no part in training. How it is shown is told in
`report/write.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.calibration.decisions import DecisionRule
from tabwright.explanation import EffectCurve, Explanation, effect_curves, explain
from tabwright.explanation.attributions import predictions_a_row
from tabwright.explanation.importance import Importance, permutation_importance
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.inference.scoring import trivial_scores
from tabwright.metrics import (
    classification_intervals,
    decision_intervals,
    regression_intervals,
    score_classification,
    score_decisions,
    score_regression,
)
from tabwright.regression import row_losses
from tabwright.settings import FitSettings
from tabwright.weighted_metrics import row_log_loss

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_FIRST = ("auc", "precision", "recall", "f1", "average_precision", "accuracy")
_RESAMPLES = (200, 1000)
# Rows times classes times resamples: past it there are fewer resamples.
_RESAMPLED_CELLS = 30_000_000
_CURVES_SHOWN = 3
# Predictions of mixed rows for all attributions together; the most rows of background for
# orders of the columns, and the fewest.
_MIXED_ROWS, _BACKGROUND, _FEWEST_BACKGROUND = 50_000, 25, 10
# Of more columns, orders are drawn: a report has to be quick.
_EXACT_COLUMNS = 6
# Rows whose attributions are drawn as dots, and the fewest that make a picture.
_ROWS_DRAWN, _FEWEST_DRAWN = 40, 15


@dataclass(frozen=True)
class Scored:
    """Scores of one model, and where it can be told how sure they are.

    `scores`: as `metrics` names them.
    `intervals`: 95 % bootstrap intervals; empty for the trivial model.
    """

    title: str
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Gain:
    """How much lower the model's loss is than the linear model's, on the same rows.

    `value`: in the score of what the model was fitted for; above 0 is better.
    `low`, `high`: 95 % interval of a paired bootstrap over the rows.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Assessment:
    """A model on labelled rows.

    `target`: (n_rows,); class codes, int64, or values, float64.
    `weight`: (n_rows,), float64.
    `output`: (n_rows, n_classes) or (n_rows,), float64; probabilities, or predicted values.
    `predicted`: (n_rows,); class codes under `rule`, or the values.
    `rule`: the model's own, else the most probable class.
    `losses`: (n_rows,), float64; log-loss of each row in nats, or its absolute error in the
        target's unit.
    `scored`: the model, then the linear model if given, then the trivial one.
    `gain`: against the linear model.
    `n_resamples`: of the bootstrap.
    `hardest`: (k,), int64; row numbers from the highest loss on; rows of weight 0 are left out.
    `effects`: of the most important columns.
    `attributions`: of the first of the hardest rows, as many as a bounded number of predictions
        allows; None where it allows none.
    `usual_attributions`: of rows drawn at random, from the same mean on; None where the same bound
        allows too few.
    """

    target: np.ndarray
    weight: FloatArray | None
    output: FloatArray
    predicted: np.ndarray
    rule: DecisionRule
    losses: FloatArray
    scored: tuple[Scored, ...]
    gain: Gain | None
    n_resamples: int
    importance: Importance
    hardest: IntArray
    effects: tuple[EffectCurve, ...]
    attributions: Explanation | None
    usual_attributions: Explanation | None

    def __len__(self) -> int:
        return len(self.target)


def assess(
    model: FittedModel,
    frame: pl.DataFrame,
    target: np.ndarray,
    sample_weight: FloatArray | None = None,
    *,
    linear: FittedModel | None = None,
    n_hardest: int = 10,
    max_seconds: float = 30.0,
    random_state: int = 0,
) -> Assessment:
    """Put a model to labelled rows.

    `frame`: the columns of training, in any order.
    `target`: (n_rows,); class codes, int64, or values, float64.
    `sample_weight`: (n_rows,), float64.
    `linear`: a `linear_glm_baseline` fitted on the same training rows.
    `n_hardest`: rows of the highest loss to name.
    `max_seconds`: for the permutation importance.
    `random_state`: of the bootstrap and of the shuffles.
    """
    predictor = Predictor(model)
    rule = model.decision or DecisionRule()
    n_classes = 1 if model.classes is None else len(model.classes)
    n_resamples = int(np.clip(_RESAMPLED_CELLS // (len(target) * n_classes), *_RESAMPLES))
    bootstrap = _Bootstrap(n_resamples=n_resamples, random_state=random_state)
    own_output = _Output.of(predictor, frame, target)
    output, losses = own_output.values, own_output.losses
    predicted = output if model.classes is None else rule.apply(output)
    title = "Model" if model.settings.training_mode != "linear_glm_baseline" else "Model (linear)"
    judged = partial(_scored, target, sample_weight, rule.positive, bootstrap)
    scored = [judged(title, own_output, predicted, model.settings)]
    gain = None
    if linear is not None:
        asked, theirs = model.settings, linear.settings
        if (asked.objective, asked.quantiles) != (theirs.objective, theirs.quantiles):
            raise ValueError(
                f"the linear model must have the model's objective, {asked.objective!r} of "
                f"quantiles {asked.quantiles}; got {theirs.objective!r} of {theirs.quantiles}"
            )
        other = _Output.of(Predictor(linear), frame, target)
        # By the model's rule: labels by another threshold could not be compared.
        labels = other.values if linear.classes is None else rule.apply(other.values)
        scored.append(judged("Linear baseline", other, labels, theirs))
        squared = model.classes is None and asked.objective == "squared_error"
        gain = _gain(
            other.objective_losses, own_output.objective_losses, sample_weight, squared, **bootstrap
        )
    scored.append(_trivial(model, target, sample_weight))
    order = np.argsort(-losses, kind="stable")
    if sample_weight is not None:
        order = order[sample_weight[order] > 0]
    importance = permutation_importance(
        predictor,
        frame,
        target,
        sample_weight,
        max_seconds=max_seconds,
        random_state=random_state,
    )
    usual = frame if sample_weight is None else frame.filter(sample_weight > 0)
    of_hardest, of_usual = _attributions(model, frame[order[:n_hardest]], usual, random_state)
    return Assessment(
        target=target,
        weight=sample_weight,
        output=output,
        predicted=predicted,
        rule=rule,
        losses=losses,
        scored=tuple(scored),
        gain=gain,
        n_resamples=n_resamples,
        importance=importance,
        hardest=order[:n_hardest],
        effects=effect_curves(
            model, usual, importance.names[:_CURVES_SHOWN], random_state=random_state
        ),
        attributions=of_hardest,
        usual_attributions=of_usual,
    )


def _attributions(
    model: FittedModel, hardest: pl.DataFrame, usual: pl.DataFrame, random_state: int
) -> tuple[Explanation | None, Explanation | None]:
    """Attributions of the hardest rows and of drawn ones, as many as the bound allows.

    Returns: none where there are no rows; of drawn rows none where they are too few for a picture.
    """
    if len(usual) < 2:
        return None, None
    n_columns = max(2, len(model.encoder.plan_.compact_columns()))
    n_wanted = len(hardest) + min(len(usual), _ROWS_DRAWN)
    n_permutations = int(
        np.clip(_MIXED_ROWS // (n_wanted * _BACKGROUND * 2 * (n_columns - 1)), 1, 10)
    )
    per_row = predictions_a_row(n_columns, n_permutations, _EXACT_COLUMNS)
    n_background = int(np.clip(_MIXED_ROWS // (n_wanted * per_row), _FEWEST_BACKGROUND, 100))
    n_explained = _MIXED_ROWS // (n_background * per_row)
    n_drawn = min(len(usual), _ROWS_DRAWN, max(0, n_explained - len(hardest)))
    rng = np.random.default_rng(random_state)
    drawn = usual[np.sort(rng.choice(len(usual), n_drawn, replace=False))]
    # Both are drawn the same background, so that both have the same mean.
    asked = partial(
        explain,
        model,
        background=usual,
        max_background=n_background,
        n_permutations=n_permutations,
        exact_columns=_EXACT_COLUMNS,
        random_state=random_state,
    )
    n_hardest = min(len(hardest), n_explained)
    return (
        asked(hardest[:n_hardest]) if n_hardest else None,
        asked(drawn) if n_drawn >= _FEWEST_DRAWN else None,
    )


class _Bootstrap(TypedDict):
    """How intervals are drawn."""

    n_resamples: int
    random_state: int


class _Output(NamedTuple):
    """What a model says of the rows, and its losses.

    `judged`: what scores judge: probabilities, values or quantiles.
    `values`: (n_rows, n_classes) or (n_rows,); probabilities, or the values to predict.
    `losses`, `objective_losses`: (n_rows,); log-loss or absolute error; and the loss that the model
        was fitted for.
    """

    judged: FloatArray
    values: FloatArray
    losses: FloatArray
    objective_losses: FloatArray

    @classmethod
    def of(cls, predictor: Predictor, frame: pl.DataFrame, target: np.ndarray) -> _Output:
        judged = predictor.judged(predictor.model.encoder.transform(frame))
        if predictor.model.classes is not None:
            losses = row_log_loss(target, judged)
            return cls(judged, judged, losses, losses)
        settings, values = predictor.model.settings, predictor.point(judged)
        objective_losses = row_losses(settings.objective, target, judged, settings.quantiles)
        return cls(judged, values, np.abs(values - target), objective_losses)


def _scored(
    target: np.ndarray,
    weight: FloatArray | None,
    positive: int,
    bootstrap: _Bootstrap,
    title: str,
    outputs: _Output,
    predicted: np.ndarray,
    settings: FitSettings,
) -> Scored:
    """Scores and intervals; those that people ask for first come first."""
    output = outputs.judged
    if settings.task == "regression":
        objective, quantiles = settings.objective, settings.quantiles
        scores = score_regression(target, output, weight, objective=objective, quantiles=quantiles)
        intervals = regression_intervals(
            target, output, weight, objective=objective, quantiles=quantiles, **bootstrap
        )
        return Scored(title, scores, intervals)
    scores = score_classification(target, output, weight, predicted=predicted)
    intervals = classification_intervals(target, output, weight, predicted=predicted, **bootstrap)
    if output.shape[1] == 2:
        scores |= score_decisions(target, predicted, weight, positive=positive)
        intervals |= decision_intervals(target, predicted, weight, positive=positive, **bootstrap)
        scores = {name: scores[name] for name in sorted(scores, key=_place)}
    return Scored(title, scores, intervals)


def _place(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def constant_title(model: FittedModel) -> str:
    """What the best constant prediction of a regression is of the training targets."""
    titles: dict[str, str] = {"absolute_error": "median", "quantile": "quantiles"}
    return titles.get(model.settings.objective, "mean")


def _trivial(model: FittedModel, target: np.ndarray, weight: FloatArray | None) -> Scored:
    """The training rows' class shares or mean target for every row."""
    title = "Class shares" if model.classes is not None else f"Training {constant_title(model)}"
    return Scored(title, trivial_scores(model, target, weight), {})


def _gain(
    theirs: FloatArray,
    ours: FloatArray,
    weight: FloatArray | None,
    squared: bool,
    *,
    n_resamples: int,
    random_state: int,
) -> Gain:
    """The mean difference of two losses, with a bootstrap interval over paired rows."""
    pair = np.column_stack([theirs, ours])
    base = np.ones(len(pair)) if weight is None else weight
    rng = np.random.default_rng(random_state)

    def difference(weights: FloatArray) -> float:
        means = weights @ pair / weights.sum()
        if squared:
            means = np.sqrt(means)
        return float(means[0] - means[1])

    n_rows = len(pair)
    drawn = []
    for _ in range(n_resamples):
        weights = base * np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows)
        if weights.sum() > 0:
            drawn.append(difference(weights))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Gain(difference(base), float(low), float(high))
