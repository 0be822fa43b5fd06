"""Trees beside networks: fitted on the training rows, weighted on the rows that choose.

Weights come from greedy selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes,
"Ensemble Selection from Libraries of Models", ICML 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees import FittedTrees, Problem, tree_learner
from tabwright.encoding.encoder import Compact
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.tree_ensemble import TreeMix, tree_features
from tabwright.metrics import row_log_loss
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import row_weights

__all__ = ["HeldOutTrees", "greedy_weights", "with_trees"]

_KIND: Final = "hist_gradient_boosting"
# Members of the bag that greedy selection fills.
_STEPS = 20

FloatArray = NDArray[np.float64]
EncodedRows = tuple[Compact, LabelledRows]


def greedy_weights(
    predictions: Sequence[FloatArray], target: NDArray[Any], weight: FloatArray | None
) -> FloatArray:
    """Weights of predictions whose mean has the lowest loss, by greedy selection.

    Parameters
    ----------
    predictions : sequence of ndarray of shape (n, n_classes) or (n,), float64
        Probabilities, judged by log-loss, or values, judged by squared error.
    target : ndarray of shape (n,)
        Class codes, or values.
    weight : ndarray of shape (n,), float64, or None

    Returns
    -------
    ndarray of shape (n_predictions,), float64
        At least 0, sum 1; multiples of 1/m with m at most 20. Of equals the first wins.
    """
    counts = np.zeros(len(predictions))
    total = np.zeros_like(predictions[0])
    best, kept = np.inf, counts
    for step in range(1, _STEPS + 1):
        losses = [_loss((total + own) / step, target, weight) for own in predictions]
        chosen = int(np.argmin(losses))
        total = total + predictions[chosen]
        counts = counts + (np.arange(len(predictions)) == chosen)
        if losses[chosen] < best:
            best, kept = losses[chosen], counts
    if not kept.any():
        raise ValueError("a combination needs finite predictions; those to combine are not")
    weights: FloatArray = kept / kept.sum()
    return weights


@dataclass(frozen=True)
class HeldOutTrees:
    """What the trees say of the choosing rows, after each number of rounds.

    Parameters
    ----------
    fitted : FittedTrees
        Those that the model keeps.
    rounds : tuple of int
    stages : ndarray of shape (n_rounds, n, n_classes) or (n_rounds, n), float64
        Probabilities, or standardised values.
    target : ndarray of shape (n,)
        Class codes, or standardised values.
    weight : ndarray of shape (n,), float64, or None
    """

    fitted: FittedTrees
    rounds: tuple[int, ...]
    stages: FloatArray
    target: NDArray[Any]
    weight: FloatArray | None

    def choose(
        self, networks: FloatArray, rows: NDArray[np.bool_] | slice = slice(None)
    ) -> tuple[FloatArray, int]:
        """Weights of networks and trees and the position in `rounds`, by some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        target = self.target[rows]
        best = int(np.argmin([_loss(stage[rows], target, weight) for stage in self.stages]))
        return greedy_weights([networks[rows], self.stages[best][rows]], target, weight), best

    def combined(self, networks: FloatArray) -> FloatArray:
        """What networks and trees say of the choosing rows, with the weights these chose."""
        (network, trees), best = self.choose(networks)
        combined: FloatArray = network * networks + trees * self.stages[best]
        return combined

    def cross_predictions(self, networks: FloatArray, folds: NDArray[np.int64]) -> FloatArray:
        """Combined values of each fold's rows, with what the other folds' rows choose."""
        values = np.empty_like(networks)
        for fold in np.unique(folds):
            own = folds == fold
            (network, trees), best = self.choose(networks, ~own)
            values[own] = network * networks[own] + trees * self.stages[best][own]
        return values


def with_trees(
    model: FittedModel,
    parts: Sequence[tuple[EncodedRows, EncodedRows]],
    networks: FloatArray,
    targets: Targets,
    *,
    whole: EncodedRows | None = None,
) -> tuple[FittedModel, HeldOutTrees | None]:
    """Fit trees, weigh them against the networks, and keep them where they have weight.

    Parameters
    ----------
    model : FittedModel
        With its networks.
    parts : sequence of pairs of EncodedRows
        The rows that trees are fitted on, and those that they say something of: these choose
        rounds and weights, of all parts together. One part, or one per fold.
    networks : ndarray of shape (n, n_classes) or (n,), float64
        What networks that did not train on them say of the choosing rows, part by part:
        probabilities, or standardised values.
    targets : Targets
        Of all training rows.
    whole : EncodedRows, optional
        Rows that the trees to keep are fitted on, with the rounds chosen; None: those of the one
        part are kept. One fit on all rows, rather than the mean of one per fold, makes a file and
        predictions as small and as fast as without folds.

    Returns
    -------
    model : FittedModel
        Its card says what was combined, with the losses on the choosing rows.
    trees : HeldOutTrees or None
        None where no trees were fitted.
    """
    n_classes = 0 if model.classes is None else len(model.classes)
    problems = [_problem(model, learning, targets) for learning, _ in parts]
    reason = None
    if not any(len(judged) for _, (_, judged) in parts):
        reason = "no rows are held out to choose weights on"
    elif n_classes and any(len(np.unique(own.target)) < n_classes for own in problems):
        reason = "a class has no training row"
    elif any((own.values == own.values[:1]).all() for own in problems):
        reason = "no column varies"
    if reason is not None:
        return _told(model, {"kept": ["networks"], "reason": reason}), None
    learner = tree_learner(_KIND)
    rounds = learner.rounds(n_classes)
    stages = []
    for own, (_, (held, _)) in zip(problems, parts, strict=True):
        fitted = learner.fit(own, rounds[-1])
        features = tree_features(model.encoder, held)
        stages.append(np.stack(list(fitted.stages(features.astype(np.float64), rounds))))
    judged = [rows for _, (_, rows) in parts]
    target = np.concatenate([_target(rows, targets) for rows in judged])
    weight = _weight(judged, targets)
    trees = HeldOutTrees(fitted, rounds, np.concatenate(stages, axis=1), target, weight)
    weights, best = trees.choose(networks)
    if weights[1] and whole is not None:
        fitted = learner.fit(_problem(model, whole, targets), rounds[best])
        trees = replace(trees, fitted=fitted)
    mixed = weights[0] * networks + weights[1] * trees.stages[best]
    told = {
        "n_rows": len(target),
        "measure": "log_loss" if n_classes else "squared error of the standardised target",
        "loss": _loss(mixed, trees.target, trees.weight),
        "candidates": [
            {
                "name": "networks",
                "weight": float(weights[0]),
                "loss": _loss(networks, trees.target, trees.weight),
            },
            {
                "name": _KIND,
                "weight": float(weights[1]),
                "loss": _loss(trees.stages[best], trees.target, trees.weight),
                "n_rounds": rounds[best],
                **learner.versions(),
            },
        ],
    }
    model = _told(model, told)
    if not weights[1]:
        return model, trees
    n_features = problems[0].values.shape[1]
    ensemble = ensemble_of(_KIND, fitted, n_features=n_features, n_rounds=rounds[best])
    mix = TreeMix(float(weights[0]), (float(weights[1]),), (ensemble,))
    return replace(model, trees=mix), trees


def _problem(model: FittedModel, learning: EncodedRows, targets: Targets) -> Problem:
    """What trees are to learn from some rows."""
    compact, rows = learning
    values = tree_features(model.encoder, compact)
    return Problem(
        values=values.astype(np.float64),
        # Codes are ordinal: the same to every library, to NumPy and to an ONNX graph.
        categorical=np.zeros(values.shape[1], dtype=bool),
        target=_target(rows, targets),
        weight=_weight([rows], targets),
        n_classes=0 if model.classes is None else len(model.classes),
        random_state=model.settings.random_state % 2**31,
        n_threads=torch.get_num_threads(),
    )


def _told(model: FittedModel, told: dict[str, Any]) -> FittedModel:
    return replace(model, card={**model.card, "combination": told})


def _target(rows: LabelledRows, targets: Targets) -> NDArray[Any]:
    """Class codes, or standardised values."""
    if targets.scale is None:
        return rows.target
    standard: FloatArray = targets.scale.standardise(rows.target)[:, 0].astype(np.float64)
    return standard


def _weight(parts: Sequence[LabelledRows], targets: Targets) -> FloatArray | None:
    """Weights of rows and classes, mean 1, as the networks' objective has them."""
    weights = []
    for rows in parts:
        codes = None if targets.scale is not None else rows.target
        weight = row_weights(codes, rows.weight, targets.class_weights, len(rows))
        if weight is None:
            return None
        weights.append(weight)
    weight = np.concatenate(weights)
    return np.asarray(weight / weight.mean(), dtype=np.float64)


def _loss(predicted: FloatArray, target: NDArray[Any], weight: FloatArray | None) -> float:
    is_proba = predicted.ndim == 2
    losses = row_log_loss(target, predicted) if is_proba else (target - predicted) ** 2
    return float(np.average(losses, weights=weight))
