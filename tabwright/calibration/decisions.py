"""From probabilities to decisions: thresholds and cost matrices, tuned on validation rows.

scikit-learn's `FixedThresholdClassifier` and `TunedThresholdClassifierCV` do this around an
estimator; here is what the command line stores with a model. Applying a rule needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np

from tabwright.artifact.format_versions import left_out
from tabwright.errors import nearest_name
from tabwright.splits import fold_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from tabwright.artifact.schema import Reader, TensorBag

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

DecisionKind = Literal["argmax", "threshold", "costs"]
DecisionGoal = Literal["f1", "balanced_accuracy", "costs", "recall", "precision"]

_MIN_ROWS = 10
_N_RESAMPLES = 200


@dataclass(frozen=True, eq=False)
class DecisionRule:
    """How probabilities become predicted classes.

    `kind`: the most probable class; class `positive` of two where its probability is at least
        `threshold`; or the class of lowest expected cost.
    `threshold`: for "threshold".
    `positive`: 0 or 1: of two classes the one that is looked for, by any rule.
    `costs`: (C, C), float64; for "costs": `costs[true, predicted]`.
    """

    kind: DecisionKind = "argmax"
    threshold: float = 0.5
    positive: int = 1
    costs: FloatArray | None = None

    def apply(self, proba: FloatArray) -> IntArray:
        """Predicted classes, shape (n,), int64, of probabilities of shape (n, C), float64."""
        if self.kind == "threshold":
            chosen = proba[:, self.positive] >= self.threshold
            return np.where(chosen, self.positive, 1 - self.positive).astype(np.int64)
        if self.costs is not None:
            return cast("IntArray", (proba @ self.costs).argmin(axis=1).astype(np.int64))
        return cast("IntArray", proba.argmax(axis=1).astype(np.int64))

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The document and the arrays that `from_state` reads."""
        document: dict[str, Any] = {"kind": self.kind}
        if self.kind == "threshold":
            document |= {"threshold": self.threshold, "positive": self.positive}
        elif not left_out("decision.positive_class", self.positive, 1):
            document["positive_class"] = self.positive
        return document, {} if self.costs is None else {"costs": self.costs}

    @classmethod
    def from_state(cls, document: Reader, tensors: TensorBag, *, n_classes: int) -> DecisionRule:
        """Read a rule of a saved model.

        Raises `ArtifactError`: unknown keys, a threshold for other than two classes, costs of
            another shape.
        """
        kind = document.choice("kind", get_args(DecisionKind))
        looked_for = 1
        if kind != "threshold" and n_classes == 2 and "positive_class" in document:
            looked_for = document.integer("positive_class", 0, 1)
        rule = cls(kind, positive=looked_for)
        if kind == "threshold":
            if n_classes != 2:
                raise document.fail("kind", f"one that fits {n_classes} classes")
            threshold = document.number("threshold", low=0.0, high=1.0)
            positive = document.integer("positive", 0, 1)
            rule = cls(kind, threshold=threshold, positive=positive)
        elif kind == "costs":
            costs = tensors.take("costs", "float64", (n_classes, n_classes))
            rule = cls(kind, positive=looked_for, costs=costs)
        document.done()
        tensors.done()
        return rule


class DecisionFit(NamedTuple):
    """What came of tuning a decision rule.

    `rule`: the tuned rule, or argmax.
    `accepted`: whether `rule` is other than argmax.
    `message`: a sentence for people.
    """

    rule: DecisionRule
    accepted: bool
    message: str


class ThresholdCurve(NamedTuple):
    """Scores of "at least this threshold means positive", each array of shape (thresholds,).

    `thresholds`: rising; 0 first, then one between each two neighbouring probabilities.
    `precision`, `recall`, `f1`, `balanced_accuracy`: balanced accuracy is NaN where the rows hold a
        single class.
    """

    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray
    f1: FloatArray
    balanced_accuracy: FloatArray


@dataclass(frozen=True, eq=False)
class DecisionAim:
    """What a decision rule shall serve; the arguments of `fit_decision` that are not data.

    `costs`: (C, C), float64.
    `positive`: see `fit_decision`.
    """

    goal: DecisionGoal
    value: float | None = None
    costs: FloatArray | None = None
    positive: int = 1

    def check(self, n_classes: int) -> None:
        """Refuse, before any work, an aim that no rows could make sense of.

        Raises `ValueError`: as `fit_decision`.
        """
        _check_goal(self.goal, n_classes, self.positive)
        if self.goal == "costs":
            _checked_costs(self.costs, n_classes)
        elif self.goal in ("recall", "precision"):
            _check_value(self.goal, self.value)

    def fit(
        self,
        proba: ArrayLike,
        codes: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        random_state: int = 0,
    ) -> DecisionFit:
        """`fit_decision` for this aim."""
        return fit_decision(
            proba,
            codes,
            goal=self.goal,
            value=self.value,
            costs=self.costs,
            positive=self.positive,
            sample_weight=sample_weight,
            random_state=random_state,
        )


def threshold_curve(
    event: ArrayLike, probability: ArrayLike, sample_weight: ArrayLike | None = None
) -> ThresholdCurve:
    """Precision, recall, F1 and balanced accuracy at every threshold that makes a difference.

    `event`: (n,), bool; whether a row is positive; at least one must be.
    `probability`: (n,); predicted probability of it.
    `sample_weight`: (n,); weights of the rows.
    """
    hit = np.asarray(event, dtype=bool)
    p = np.asarray(probability, dtype=np.float64)
    weight = np.ones(len(p)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if not weight[hit].sum() > 0.0:
        raise ValueError("at least one positive row is needed for a threshold; got none")
    values, which = np.unique(p[weight > 0.0], return_inverse=True)
    hit, weight = hit[weight > 0.0], weight[weight > 0.0]
    hits, rest = (
        np.cumsum(np.bincount(which, weights=weight * mask, minlength=len(values))[::-1])[::-1]
        for mask in (hit, ~hit)
    )
    middle = 0.5 * (values[1:] + values[:-1])
    # Between two neighbouring floats there is no middle.
    thresholds = np.concatenate([[0.0], np.where(middle > values[:-1], middle, values[1:])])
    precision, recall = hits / (hits + rest), hits / hits[0]
    specificity = 1.0 - rest / rest[0] if rest[0] > 0.0 else np.full_like(rest, np.nan)
    f1 = 2.0 * hits / (hits + rest + hits[0])
    return ThresholdCurve(thresholds, precision, recall, f1, 0.5 * (recall + specificity))


def fit_decision(
    proba: ArrayLike,
    codes: ArrayLike,
    *,
    goal: DecisionGoal,
    value: float | None = None,
    costs: ArrayLike | None = None,
    positive: int = 1,
    sample_weight: ArrayLike | None = None,
    random_state: int = 0,
) -> DecisionFit:
    """Find the decision rule that serves a goal, on rows that did not train the model.

    F1 and balanced accuracy are accepted by cross-fitting: rows decided by a rule tuned without
    them must beat the most probable class by more than one standard error (bootstrap of the
    paired difference); otherwise argmax is kept. A cost matrix needs no tuning, calibrated
    probabilities do: the class of lowest expected cost is best. A wanted recall or precision is
    the caller's decision, so its threshold is taken untested; argmax is kept where the rows have
    no positive one, or no threshold reaches the precision, and `message` says so.

    `proba`: (n, C), float64; calibrated probabilities.
    `codes`: (n,), int. True classes, 0 to C - 1.
    `goal`: "f1", "recall" and "precision" are for two classes.
    `value`: The wanted recall or precision, in (0, 1]. Among the thresholds that reach it on the
        rows, the one with the best of the other is taken.
    `costs`: (C, C); for the goal "costs": `costs[true, predicted]`.
    `positive`: the positive class of two; the rule names it, whatever it is.
    `sample_weight`: (n,); weights of the rows.
    `random_state`: seed of the folds and of the bootstrap.
    Raises `ValueError`: an unknown goal, or one that does not fit the number of classes; a value
        out of range.
    """
    p = np.asarray(proba, dtype=np.float64)
    y = np.asarray(codes, dtype=np.int64)
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    _check_goal(goal, p.shape[1], positive)
    if goal == "costs":
        matrix = _checked_costs(costs, p.shape[1])
        rule = DecisionRule("costs", positive=positive, costs=matrix)
        return DecisionFit(rule, True, "predicts the class of lowest expected cost")
    if goal in ("recall", "precision"):
        return _reach(p, y, weight, goal, value, positive)
    used = weight > 0.0
    return _tune(p[used], y[used], weight[used], goal, positive, random_state)


def _check_goal(goal: DecisionGoal, n_classes: int, positive: int) -> None:
    """Refuse an unknown goal, and one that does not fit the number of classes."""
    if goal not in get_args(DecisionGoal):
        names = ", ".join(get_args(DecisionGoal))
        hint = nearest_name(goal, get_args(DecisionGoal))
        raise ValueError(f"the decision's goal must be one of {names}; got {goal!r}{hint}")
    if goal in ("f1", "recall", "precision") and n_classes != 2:
        raise ValueError(
            f"the goal {goal!r} is for two classes; got {n_classes}; "
            "use 'balanced_accuracy' or 'costs'"
        )
    if n_classes == 2 and positive not in (0, 1):
        raise ValueError(f"positive must be 0 or 1; got {positive!r}")


def _checked_costs(costs: ArrayLike | None, n_classes: int) -> FloatArray:
    matrix = np.asarray(costs, dtype=np.float64) if costs is not None else np.empty((0, 0))
    if matrix.shape != (n_classes, n_classes) or not np.isfinite(matrix).all():
        raise ValueError(
            f"costs must be a {n_classes} by {n_classes} matrix of finite numbers, a row for each "
            f"true class and a column for each predicted one; got shape {matrix.shape}"
        )
    return matrix


def _check_value(goal: DecisionGoal, value: float | None) -> float:
    if value is None or not 0.0 < value <= 1.0:
        raise ValueError(f"the wanted {goal} must be in (0, 1]; got {value!r}")
    return value


def _reach(
    proba: FloatArray,
    codes: IntArray,
    weight: FloatArray,
    goal: Literal["recall", "precision"],
    value: float | None,
    positive: int,
) -> DecisionFit:
    """The threshold that reaches a recall or precision with the most of the other."""
    value = _check_value(goal, value)
    kept = "keeps the most probable class: "
    if not weight[codes == positive].sum() > 0.0:
        why = "the validation rows have no positive one"
        return DecisionFit(DecisionRule(positive=positive), False, f"{kept}{why}")
    curve = threshold_curve(codes == positive, proba[:, positive], weight)
    wanted, other = curve.precision, curve.recall
    if goal == "recall":
        wanted, other = other, wanted
    # Sums of weights carry rounding; 0.9 must not miss 0.9.
    reached = wanted >= value * (1.0 - 1e-12)
    if not reached.any():
        best = int(wanted.argmax())
        return DecisionFit(
            DecisionRule(positive=positive),
            False,
            f"{kept}no threshold reaches precision {value:g} on the validation rows; the best is "
            f"{wanted[best]:.3g}, with recall {other[best]:.3g}; ask for less",
        )
    # Of equally good thresholds, the highest.
    at = len(wanted) - 1 - int(np.where(reached, other, -1.0)[::-1].argmax())
    rule = DecisionRule("threshold", threshold=float(curve.thresholds[at]), positive=positive)
    return DecisionFit(
        rule,
        True,
        f"threshold {rule.threshold:.4g}: precision {curve.precision[at]:.3g}, recall "
        f"{curve.recall[at]:.3g} on the validation rows it was chosen on",
    )


def _tune(
    proba: FloatArray,
    codes: IntArray,
    weight: FloatArray,
    goal: DecisionGoal,
    positive: int,
    random_state: int,
) -> DecisionFit:
    """The rule of the best F1 or balanced accuracy, kept where held-out folds gain by it."""
    name = "F1" if goal == "f1" else "balanced accuracy"
    if goal == "f1" or proba.shape[1] == 2:
        n_events = int((codes == positive).sum())
        too_few = min(n_events, len(codes) - n_events) < 2
    else:
        too_few = len(np.unique(codes)) < 2
    if too_few or len(codes) < _MIN_ROWS:
        return DecisionFit(
            DecisionRule(positive=positive),
            False,
            f"keeps the most probable class: the validation rows are too few to tune for {name}",
        )
    tuned = _tuner(goal, proba.shape[1], positive)
    folds = fold_rows(len(codes), min(5, len(codes)), codes, random_state=random_state)
    after = np.empty_like(codes)
    for fold in np.unique(folds):
        out = folds == fold
        after[out] = tuned(proba[~out], codes[~out], weight[~out]).apply(proba[out])
    before = proba.argmax(axis=1)
    rng = np.random.default_rng(random_state)
    n_rows = len(codes)
    counts = np.stack(
        [
            np.bincount(rng.integers(0, n_rows, n_rows), minlength=n_rows)
            for _ in range(_N_RESAMPLES)
        ]
    )
    weights = np.vstack([np.ones(n_rows), counts]) * weight
    n_classes = proba.shape[1]
    scores = [_goal_score(goal, codes, d, weights, n_classes, positive) for d in (before, after)]
    gains = scores[1] - scores[0]
    gain, error = float(gains[0]), float(np.nanstd(gains[1:]))
    if gain > error + 1e-12:
        return DecisionFit(
            tuned(proba, codes, weight),
            True,
            f"tuned for {name}: {scores[0][0]:.3g} rises by {gain:.3g} on held-out validation "
            f"rows, with a standard error of {error:.2g}",
        )
    return DecisionFit(
        DecisionRule(positive=positive),
        False,
        f"keeps the most probable class: tuning changes {name} on held-out validation rows by "
        f"{gain:+.3g}, from {scores[0][0]:.3g}, with a standard error of {error:.2g}",
    )


def _tuner(
    goal: DecisionGoal, n_classes: int, positive: int
) -> Callable[[FloatArray, IntArray, FloatArray], DecisionRule]:
    """What fits a rule to probabilities, codes and weights."""

    def threshold(proba: FloatArray, codes: IntArray, weight: FloatArray) -> DecisionRule:
        curve = threshold_curve(codes == positive, proba[:, positive], weight)
        values = curve.f1 if goal == "f1" else curve.balanced_accuracy
        # The middle of the highest plateau is the steadiest choice on it.
        best = np.flatnonzero(values >= values.max() - 1e-12)
        run = best[: int((np.diff(best, append=-1) != 1).argmax()) + 1]
        chosen = float(curve.thresholds[run[len(run) // 2]])
        return DecisionRule("threshold", threshold=chosen, positive=positive)

    def prior_costs(proba: FloatArray, codes: IntArray, weight: FloatArray) -> DecisionRule:
        # Balanced accuracy is highest for the argmax of probability over share; one row more of
        # each class keeps an absent class from winning everywhere.
        mass = np.bincount(codes, weights=weight / weight.mean(), minlength=n_classes) + 1.0
        return DecisionRule("costs", costs=-np.diag(mass.mean() / mass))

    return threshold if n_classes == 2 else prior_costs


def _goal_score(
    goal: DecisionGoal,
    codes: IntArray,
    decided: NDArray[np.integer],
    weights: FloatArray,
    n_classes: int,
    positive: int,
) -> FloatArray:
    """F1 or balanced accuracy for each line of weights, NaN where undefined."""
    if goal == "f1":
        hits = weights @ ((codes == positive) & (decided == positive))
        both = weights @ ((codes == positive).astype(np.float64) + (decided == positive))
        return np.where(both > 0.0, 2.0 * hits / np.where(both > 0.0, both, 1.0), math.nan)
    one_hot = np.eye(n_classes)[codes]
    mass = weights @ one_hot
    hits = weights @ (one_hot * (codes == decided)[:, None])
    recall = np.divide(hits, mass, out=np.zeros_like(hits), where=mass > 0.0)
    return cast("FloatArray", recall.sum(axis=1) / (mass > 0.0).sum(axis=1))
