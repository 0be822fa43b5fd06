"""Trees beside networks: weighted on rows that they did not see, then fitted on all rows.

Weights come from greedy selection with replacement (Caruana, Niculescu-Mizil, Crew and Ksikes,
"Ensemble Selection from Libraries of Models", ICML 2004), drawn towards equal weights as far as
the rows that choose do not speak against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from tabwright.distillation.tree_arrays import ensemble_of
from tabwright.distillation.trees.learners import TreeKind, tree_learner
from tabwright.distillation.trees.problem import Learner, Problem
from tabwright.encoding.encoder import Compact, TableEncoder
from tabwright.fitting.targets import Targets
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.tree_mix import TreeMix, combination_notes, tree_features
from tabwright.settings import FitSettings, Quality
from tabwright.tables.labelled import LabelledRows
from tabwright.training.objectives import row_weights
from tabwright.training.time_limit import TimeLimit
from tabwright.weighted_metrics import prediction_losses

# scikit-learn's are always there: the default does not depend on what is installed. The others
# need the extra `trees`.
_KINDS: Final[dict[Quality, tuple[TreeKind, ...]]] = {
    "fast": (),
    "balanced": ("hist_gradient_boosting",),
    "best": ("hist_gradient_boosting", "catboost"),
}
# Two classes in more rows than these have no oblivious trees: their time grows with the rows, and
# what they gain was measured on at most 10,500.
_MOST_OBLIVIOUS_ROWS: Final = 20_000
# Members of the bag that greedy selection fills.
_STEPS = 20
# Of the time that is left, what trees may take.
_SHARE_OF_TIME = 0.8

# As many rows as equal weights count for beside those that choose, and their largest share.
_ROWS_OF_EQUAL_WEIGHTS: Final = 200
_MOST_EQUAL: Final = 0.5
# Of the rise in loss that equal weights may bring.
_STANDARD_ERRORS: Final = 2.0

FloatArray = NDArray[np.float64]
EncodedRows = tuple[Compact, LabelledRows]


def tree_kinds(
    settings: FitSettings,
    n_classes: int = 0,
    n_rows: int = 0,
    *,
    asked: TreeKind | None = None,
) -> tuple[TreeKind, ...]:
    """The kinds of trees that a fit combines with its networks.

    None without rows that choose, nor for objectives that are not the trees'.

    `n_classes`: 0 in regression.
    `n_rows`: that trees are fitted on.
    `asked`: trees to have whatever the mode and the quality.
    """
    if settings.refit or settings.objective != "squared_error":
        return ()
    kinds = () if settings.networks_alone else _KINDS[settings.quality]
    if kinds and n_classes == 2 and n_rows <= _MOST_OBLIVIOUS_ROWS:
        kinds = (*kinds, "oblivious_boosting")
    return kinds if asked is None or asked in kinds else (*kinds, asked)


def combination_weights(
    predictions: Sequence[FloatArray], target: NDArray[Any], weight: FloatArray | None
) -> FloatArray:
    """Weights of predictions: those of greedy selection, drawn towards equal ones.

    Few rows choose, and their choice is noisy. So equal weights count as if 200 more rows had
    chosen them, for one half at most, as long as the loss on the rows at hand does not rise
    significantly; else for half of that, or a quarter. On 16 tables of at most 2,250 rows, of which
    225 to 2,250 choose (two splits each), the mean test loss is 0.992 of that of a step of one
    half, 0.997 of that of greedy selection and 0.976 of that of equal weights.

    `predictions`, `target`, `weight`: as in `greedy_weights`.
    Returns: (n_predictions,), float64; at least 0, sum 1.
    """
    greedy = greedy_weights(predictions, target, weight)
    equal = np.full(len(greedy), 1.0 / len(greedy))
    least = prediction_losses(_mean(predictions, greedy), target)
    counts = np.ones(len(target)) if weight is None else weight
    most = min(_MOST_EQUAL, _ROWS_OF_EQUAL_WEIGHTS / (_ROWS_OF_EQUAL_WEIGHTS + len(target)))
    for share in (most, most / 2, most / 4):
        drawn = share * equal + (1.0 - share) * greedy
        rise = counts * (prediction_losses(_mean(predictions, drawn), target) - least)
        if rise.mean() <= _STANDARD_ERRORS * rise.std() / np.sqrt(len(rise)):
            return drawn
    return greedy


def _mean(predictions: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    total = np.zeros_like(predictions[0])
    for predicted, weight in zip(predictions, weights, strict=True):
        total += weight * predicted
    return total


def greedy_weights(
    predictions: Sequence[FloatArray], target: NDArray[Any], weight: FloatArray | None
) -> FloatArray:
    """Weights of predictions whose mean has the lowest loss, by greedy selection.

    `predictions`: (n, n_classes) or (n,), float64; probabilities, judged by log-loss, or values,
        judged by squared error.
    `target`: (n,); class codes, or values.
    `weight`: (n,), float64.
    Returns: (n_predictions,), float64; at least 0, sum 1; multiples of 1/m with m at most 20. Of
        equals the first wins.
    """
    counts = np.zeros(len(predictions))
    total = np.zeros_like(predictions[0])
    best, kept = np.inf, counts
    for step in range(1, _STEPS + 1):
        losses = [_loss((total + predicted) / step, target, weight) for predicted in predictions]
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
class TreeCandidate:
    """Trees of one library, and what they say of the choosing rows after each number of rounds.

    `stages`: (n_rounds, n, n_classes) or (n_rounds, n), float64; probabilities, or standardised
        values.
    """

    learner: Learner
    kind: TreeKind
    rounds: tuple[int, ...]
    stages: FloatArray


@dataclass(frozen=True)
class HeldOutTrees:
    """What all trees say of the choosing rows, and those rows.

    `target`: (n,); class codes, or standardised values.
    `weight`: (n,), float64.
    """

    candidates: tuple[TreeCandidate, ...]
    target: NDArray[Any]
    weight: FloatArray | None

    def choose(
        self, networks: FloatArray, rows: NDArray[np.bool_] | slice = slice(None)
    ) -> tuple[FloatArray, list[int]]:
        """Weights, the networks' first, and positions in each `rounds`, by some of the rows."""
        weight = None if self.weight is None else self.weight[rows]
        target = self.target[rows]
        best = [
            int(np.argmin([_loss(stage[rows], target, weight) for stage in candidate.stages]))
            for candidate in self.candidates
        ]
        predictions = [networks[rows]]
        predictions += [
            candidate.stages[k][rows] for candidate, k in zip(self.candidates, best, strict=True)
        ]
        return combination_weights(predictions, target, weight), best

    def combined(self, networks: FloatArray) -> FloatArray:
        """What networks and trees say of the choosing rows, with the weights these chose."""
        return self.mixed(networks, *self.choose(networks))

    def mixed(self, networks: FloatArray, weights: FloatArray, best: list[int]) -> FloatArray:
        """The weighted mean of the networks' predictions and those of the trees."""
        trees = [candidate.stages[k] for candidate, k in zip(self.candidates, best, strict=True)]
        return _mean([networks, *trees], weights)

    def cross_predictions(self, networks: FloatArray, folds: NDArray[np.int64]) -> FloatArray:
        """Combined values of each fold's rows, with what the other folds' rows choose."""
        values = np.empty_like(networks)
        for fold in np.unique(folds):
            held = folds == fold
            values[held] = self.mixed(networks, *self.choose(networks, ~held))[held]
        return values


def with_trees(
    model: FittedModel,
    parts: Sequence[tuple[EncodedRows, EncodedRows]],
    networks: FloatArray,
    targets: Targets,
    *,
    kinds: Sequence[TreeKind],
    whole: EncodedRows,
    on_message: Callable[[str], None] | None = None,
    limit: TimeLimit | None = None,
) -> tuple[FittedModel, HeldOutTrees | None]:
    """Fit trees, weigh them against the networks, and keep those that have weight.

    `model`: with its networks.
    `parts`: the rows that trees are fitted on, and those that they say something of: these choose
        rounds and weights, of all parts together. One part, or one per fold.
    `networks`: (n, n_classes) or (n,), float64; what networks that did not train on them say of the
        choosing rows, part by part: probabilities, or standardised values.
    `targets`: of all training rows.
    `kinds`: those to fit, from `tree_kinds`; those of a library where it is installed.
    `whole`: rows that the trees to keep are fitted on, with the rounds chosen: those of all parts,
        but for those of an `eval_set`. One fit, rather than the mean of one per fold,
        keeps files small and predictions fast.
    `on_message`: called with sentences on what is combined, and on libraries that are missing.
    `limit`: trees that would not be in time, as a few rounds tell, are not fitted.
    Returns `model`: its card says what was combined, with the losses on the choosing rows.
    Returns `trees`: None where no trees were fitted.
    """
    encoder, random_state = model.encoder, model.settings.random_state
    problems = [tree_problem(encoder, learning, targets, random_state) for learning, _ in parts]
    judged = [rows for _, (_, rows) in parts]
    reason = _reason_for_none(problems, judged)
    if reason is not None:
        return _with_notes(model, {"kept": ["networks"], "reason": reason}, on_message), None
    n_classes = problems[0].n_classes
    everything = tree_problem(encoder, whole, targets, random_state)
    features = [tree_features(encoder, held).astype(np.float64) for _, (held, _) in parts]
    target = np.concatenate([_target(rows, targets) for rows in judged])
    row_weight = _weight(judged, targets)
    candidates, missing, late = [], [], []
    for kind in kinds:
        try:
            learner = tree_learner(kind, kept=True)
        except ImportError:
            missing.append(kind)
            continue
        rounds = learner.rounds(n_classes)
        if limit is not None and not _is_in_time(learner, problems[0], len(parts) + 1, limit):
            late.append(kind)
            continue
        runs = [
            learner.fit_in_stages(problem, values, rounds)
            for problem, values in zip(problems, features, strict=True)
        ]
        stages = _until_worse(runs, target, row_weight)
        candidates.append(TreeCandidate(learner, kind, rounds[: len(stages)], stages))
    if not candidates:
        reason = "trees do not fit into the time limit"
        if not late:
            reason = f"{', '.join(missing)} is not installed"
        return _with_notes(model, {"kept": ["networks"], "reason": reason}, on_message), None
    trees = HeldOutTrees(tuple(candidates), target, row_weight)
    weights, best = trees.choose(networks)
    notes = _description(trees, networks, weights, best)
    if missing:
        notes["not_installed"] = missing
    if late:
        notes["not_in_time"] = late
    model = _with_notes(model, notes, on_message)
    n_features = everything.values.shape[1]
    ensembles = []
    for candidate, k, weight in zip(candidates, best, weights[1:], strict=True):
        if weight:
            n_rounds = candidate.rounds[k]
            kept = candidate.learner.fit(everything, n_rounds)
            ensembles.append(
                ensemble_of(
                    candidate.kind,
                    kept,
                    n_features=n_features,
                    n_classes=n_classes,
                    n_rounds=n_rounds,
                )
            )
    if ensembles:
        shares = tuple(float(weight) for weight in weights[1:] if weight)
        mix = TreeMix(float(weights[0]), shares, tuple(ensembles))
        model = replace(model, trees=mix)
    return model, trees


def _until_worse(
    runs: Sequence[Iterator[FloatArray]], target: NDArray[Any], weight: FloatArray | None
) -> FloatArray:
    """Stages of all runs up to the first that is no better.

    Of 28 fits to the tables that settings are chosen on, further rounds came back below in one,
    and were worse on its test rows; to stop there takes two fifths of the rounds.
    """
    stages: list[FloatArray] = []
    lowest = np.inf
    for grown in zip(*runs, strict=True):
        stages.append(np.concatenate(grown))
        loss = _loss(stages[-1], target, weight)
        if not loss < lowest:
            break
        lowest = loss
    return np.stack(stages)


def _is_in_time(learner: Learner, problem: Problem, n_fits: int, limit: TimeLimit) -> bool:
    """Whether fits of all rounds would end in time, by the time of a few rounds."""
    rounds = learner.rounds(problem.n_classes)
    begun = time.monotonic()
    learner.fit(problem, rounds[0])
    seconds = (time.monotonic() - begun) * rounds[-1] / rounds[0]
    return seconds * n_fits <= _SHARE_OF_TIME * limit.remaining


def _reason_for_none(problems: Sequence[Problem], judged: Sequence[LabelledRows]) -> str | None:
    """Why there is nothing to combine, or None."""
    n_classes = problems[0].n_classes
    if not any(len(rows) for rows in judged):
        return "no rows are held out to choose weights on"
    if n_classes and any(len(np.unique(problem.target)) < n_classes for problem in problems):
        return "a class has no training row"
    if any(2 * n_classes > len(problem.target) for problem in problems):
        return "there are fewer than two training rows a class"
    if not n_classes and any((problem.target == problem.target[0]).all() for problem in problems):
        return "the target does not vary"
    for problem in problems:
        first = problem.values[:1]
        if ((problem.values == first) | (np.isnan(problem.values) & np.isnan(first))).all():
            return "no column varies"
    return None


def _description(
    trees: HeldOutTrees, networks: FloatArray, weights: FloatArray, best: list[int]
) -> dict[str, Any]:
    """What the card says: loss of each part and of the whole on the choosing rows."""

    def loss(values: FloatArray) -> float:
        return _loss(values, trees.target, trees.weight)

    parts = [{"name": "networks", "weight": float(weights[0]), "loss": loss(networks)}]
    for candidate, k, weight in zip(trees.candidates, best, weights[1:], strict=True):
        part = {"name": candidate.kind, "weight": float(weight), "loss": loss(candidate.stages[k])}
        parts.append({**part, "n_rounds": candidate.rounds[k], **candidate.learner.versions()})
    return {
        "n_rows": len(trees.target),
        "measure": "log_loss" if networks.ndim == 2 else "squared error of the standardised target",
        "loss": loss(trees.mixed(networks, weights, best)),
        "candidates": parts,
    }


def tree_problem(
    encoder: TableEncoder, learning: EncodedRows, targets: Targets, random_state: int
) -> Problem:
    """What trees are to learn from some rows."""
    compact, rows = learning
    values = tree_features(encoder, compact)
    return Problem(
        values=values.astype(np.float64),
        # Codes are ordinal: the same to every library, to NumPy and to an ONNX graph.
        categorical=np.zeros(values.shape[1], dtype=bool),
        target=_target(rows, targets),
        weight=_weight([rows], targets),
        n_classes=0 if targets.classes is None else len(targets.classes),
        random_state=random_state % 2**31,
        n_threads=torch.get_num_threads(),
    )


def _with_notes(
    model: FittedModel, notes: dict[str, Any], on_message: Callable[[str], None] | None
) -> FittedModel:
    """The model whose card describes the combination; `on_message` gets it as sentences."""
    card = {**model.card, "combination": notes}
    if on_message is not None:
        for note in combination_notes(card):
            on_message(note)
    return replace(model, card=card)


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
    return float(np.average(prediction_losses(predicted, target), weights=weight))
