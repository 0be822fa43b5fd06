"""Laws of decision rules: they serve their goal on new rows, or stay with the argmax."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tabwright.artifact.format_versions import format_of
from tabwright.artifact.schema import Reader, TensorBag
from tabwright.calibration.decisions import (
    DecisionAim,
    DecisionGoal,
    DecisionRule,
    fit_decision,
    threshold_curve,
)
from tabwright.errors import ArtifactError


def draw(n_rows: int, seed: int, *, rate: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities of a rare class 1."""
    rng = np.random.default_rng(seed)
    odds = 2.0 * rng.normal(size=n_rows) + np.log(rate / (1.0 - rate))
    p = 1.0 / (1.0 + np.exp(-odds))
    return np.stack([1.0 - p, p], axis=1), (rng.random(n_rows) < p).astype(int)


@pytest.mark.parametrize("digits", [1, 8])
def test_curve_is_what_each_threshold_scores(digits: int) -> None:
    p, y = draw(120, 0, rate=0.4)
    score = np.round(p[:, 1], digits)
    w = np.random.default_rng(0).integers(0, 3, 120).astype(float)
    curve = threshold_curve(y == 1, score, w)
    assert curve.thresholds[0] == 0.0
    assert (np.diff(curve.thresholds) > 0.0).all()
    for i, threshold in enumerate(curve.thresholds):
        decided = score >= threshold
        expected = [
            sk.precision_score(y, decided, sample_weight=w),
            sk.recall_score(y, decided, sample_weight=w),
            sk.f1_score(y, decided, sample_weight=w),
            sk.balanced_accuracy_score(y, decided, sample_weight=w),
        ]
        assert [curve[k][i] for k in (1, 2, 3, 4)] == pytest.approx(expected)


def test_curve_between_neighbouring_floats() -> None:
    low = 0.3
    high = np.nextafter(low, 1.0)
    curve = threshold_curve([False, True], [low, high])
    assert curve.precision.tolist() == [0.5, 1.0]
    assert (np.array([low, high]) >= curve.thresholds[1]).tolist() == [False, True]


@pytest.mark.parametrize("goal", ["f1", "balanced_accuracy"])
@pytest.mark.parametrize("positive", [0, 1])
def test_tuned_threshold_serves_new_rows(goal: str, positive: int) -> None:
    p, y = draw(3000, 0)
    test_p, test_y = draw(20_000, 1)
    if positive == 0:
        p, y, test_p, test_y = p[:, ::-1], 1 - y, test_p[:, ::-1], 1 - test_y
    fit = fit_decision(p, y, goal=goal, positive=positive)  # type: ignore[arg-type]
    assert fit.accepted
    assert fit.rule.kind == "threshold"

    def score(decided: np.ndarray) -> float:
        if goal == "f1":
            return float(sk.f1_score(test_y, decided, pos_label=positive))
        return float(sk.balanced_accuracy_score(test_y, decided))

    best = max(
        score(DecisionRule("threshold", t, positive).apply(test_p))
        for t in np.linspace(0.01, 0.99, 99)
    )
    assert score(fit.rule.apply(test_p)) > best - 0.015
    assert score(fit.rule.apply(test_p)) > score(test_p.argmax(axis=1)) + 0.02


def test_balanced_accuracy_of_many_classes() -> None:
    def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        joint = np.exp(1.5 * rng.normal(size=(6000, 4))) * np.array([0.8, 0.12, 0.05, 0.03])
        p = joint / joint.sum(axis=1, keepdims=True)
        return p, (rng.random((6000, 1)) > np.cumsum(p, axis=1)).sum(axis=1).clip(0, 3)

    fit = fit_decision(*rows(0), goal="balanced_accuracy")
    assert fit.accepted
    p, y = rows(1)
    tuned = sk.balanced_accuracy_score(y, fit.rule.apply(p))
    assert tuned > sk.balanced_accuracy_score(y, p.argmax(axis=1)) + 0.05


def test_argmax_is_kept_where_tuning_does_not_help() -> None:
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = rng.random(60)
        y = (rng.random(60) < p).astype(int)
        fit = fit_decision(np.stack([1 - p, p], axis=1), y, goal="balanced_accuracy")
        kept += not fit.accepted
        if not fit.accepted:
            assert fit.rule.kind == "argmax"
            assert fit.message.startswith("keeps the most probable class: ")
    assert kept >= 14
    few = fit_decision([[0.5, 0.5]] * 5, [0, 1, 0, 1, 0], goal="f1")
    assert "too few to tune for F1" in few.message


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_wanted_recall_and_precision_are_reached(seed: int, value: float) -> None:
    p, y = draw(80, seed, rate=0.3)
    y[0] = 1
    w = np.random.default_rng(seed).integers(1, 4, 80) * 0.1
    fit = fit_decision(p, y, goal="recall", value=value, sample_weight=w)
    decided = fit.rule.apply(p)
    assert sk.recall_score(y, decided, sample_weight=w) >= value - 1e-9
    curve = threshold_curve(y == 1, p[:, 1], w)
    reached = curve.recall >= value - 1e-9
    assert sk.precision_score(y, decided, sample_weight=w) == pytest.approx(
        curve.precision[reached].max()
    )
    if curve.precision.max() < value:
        kept = fit_decision(p, y, goal="precision", value=value, sample_weight=w)
        assert not kept.accepted
        assert kept.rule.kind == "argmax"
        assert f"no threshold reaches precision {value:g}" in kept.message
        return
    decided = fit_decision(p, y, goal="precision", value=value, sample_weight=w).rule.apply(p)
    assert sk.precision_score(y, decided, sample_weight=w) >= value - 1e-9
    reached = curve.precision >= value - 1e-9
    assert sk.recall_score(y, decided, sample_weight=w) == pytest.approx(
        curve.recall[reached].max()
    )


def test_costs_by_hand() -> None:
    # Missing a positive costs 9 times a false alarm: alarm from probability 0.1.
    fit = fit_decision([[0.5, 0.5]], [0], goal="costs", costs=[[0, 1], [9, 0]])
    p = np.array([[0.95, 0.05], [0.89, 0.11], [0.2, 0.8]])
    assert fit.rule.apply(p).tolist() == [0, 1, 1]
    assert DecisionRule().apply(p).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "rule",
    [
        DecisionRule(),
        DecisionRule("threshold", 1 / 3, 0),
        DecisionRule("costs", costs=np.array([[0.0, 1.0], [3.0, 0.0]])),
        DecisionRule(positive=0),
        DecisionRule("costs", positive=0, costs=np.array([[0.0, 1.0], [3.0, 0.0]])),
    ],
)
def test_state_round_trip(rule: DecisionRule) -> None:
    p, _ = draw(500, 0, rate=0.4)
    document, arrays = rule.to_state()
    back = DecisionRule.from_state(Reader(document), TensorBag(arrays), n_classes=2)
    assert np.array_equal(back.apply(p), rule.apply(p))
    assert back.positive == rule.positive
    assert back.to_state()[0] == document


@pytest.mark.parametrize(
    ("goal", "value"),
    [("f1", None), ("balanced_accuracy", None), ("precision", 1.0), ("recall", 0.5)],
)
@pytest.mark.parametrize("positive", [0, 1])
def test_a_rule_that_keeps_the_most_probable_class_keeps_the_positive_one(
    goal: DecisionGoal, value: float | None, positive: int
) -> None:
    # Labels that are right already, or a goal that is out of reach.
    y = np.arange(40) % 2
    p = np.full((40, 2), 0.5) if value else 0.1 + 0.8 * np.eye(2)[y]
    if goal == "recall":
        y = np.full(40, 1 - positive)
    fit = fit_decision(p, y, goal=goal, value=value, positive=positive)
    assert not fit.accepted
    assert (fit.rule.kind, fit.rule.positive) == ("argmax", positive)
    few = fit_decision(p[:4], y[:4], goal=goal, value=value, positive=positive)
    assert (few.rule.kind, few.rule.positive) == ("argmax", positive)


def test_only_the_first_class_of_an_untuned_rule_is_new_in_the_file() -> None:
    costs = np.array([[0.0, 1.0], [3.0, 0.0]])
    for rule in (DecisionRule(), DecisionRule("costs", costs=costs), DecisionRule("threshold")):
        assert format_of({"decision": rule.to_state()[0]}) == 1
    assert format_of({"decision": DecisionRule(positive=0).to_state()[0]}) == 3


def test_changed_files_are_refused() -> None:
    threshold = {"kind": "threshold", "threshold": 0.5, "positive": 1}
    for document, n_classes, message in (
        (threshold, 3, "one that fits 3 classes"),
        (threshold | {"positive": 2}, 2, "positive"),
        ({"kind": "argmax", "threshold": 0.5}, 2, "threshold"),
        ({"kind": "costs"}, 2, "costs"),
        ({"kind": "vote"}, 2, "kind must be one of"),
        ({"kind": "argmax", "positive_class": 2}, 2, "positive_class must be an integer"),
        ({"kind": "argmax", "positive_class": 0}, 3, "positive_class"),
        (threshold | {"positive_class": 0}, 2, "positive_class"),
    ):
        with pytest.raises(ArtifactError, match=message):
            DecisionRule.from_state(Reader(document), TensorBag({}), n_classes=n_classes)


def test_refusals() -> None:
    p2, p3 = [[0.5, 0.5]], [[0.5, 0.25, 0.25]]
    for goal in ("f1", "recall", "precision"):
        with pytest.raises(ValueError, match=f"goal '{goal}' is for two classes; got 3"):
            fit_decision(p3, [0], goal=goal, value=0.5)
    with pytest.raises(ValueError, match=r"goal must be one of f1, .*; got 'mcc'"):
        fit_decision(p2, [0], goal="mcc")  # type: ignore[arg-type]
    for value in (None, 0.0, 1.1):
        with pytest.raises(ValueError, match=r"the wanted recall must be in \(0, 1\]; got"):
            fit_decision(p2, [1], goal="recall", value=value)
    with pytest.raises(ValueError, match="at least one positive row"):
        threshold_curve([False], [0.5])
    for costs in (None, np.zeros((1, 2)), np.array([[0, np.inf], [1, 0]])):
        with pytest.raises(ValueError, match="costs must be a 2 by 2 matrix of finite numbers"):
            fit_decision(p2, [0], goal="costs", costs=costs)
    with pytest.raises(ValueError, match="positive must be 0 or 1; got 2"):
        fit_decision(p2, [0], goal="f1", positive=2)


@pytest.mark.parametrize("goal", ["recall", "precision", "f1", "balanced_accuracy"])
def test_rows_without_a_positive_one_keep_the_argmax(goal: str) -> None:
    p = np.tile([0.6, 0.4], (20, 1))
    fit = DecisionAim(goal, 0.5).fit(p, np.zeros(20, dtype=int))  # type: ignore[arg-type]
    assert not fit.accepted
    assert fit.rule.kind == "argmax"
    assert "keeps the most probable class" in fit.message


def test_aims_are_checked_without_rows() -> None:
    DecisionAim("costs", costs=np.zeros((3, 3))).check(3)
    for aim, message in (
        (DecisionAim("costs", costs=np.zeros((2, 2))), "costs must be a 3 by 3 matrix"),
        (DecisionAim("costs"), "costs must be a 3 by 3 matrix"),
        (DecisionAim("f1"), "is for two classes; got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            aim.check(3)
    with pytest.raises(ValueError, match=r"the wanted precision must be in \(0, 1\]; got 2"):
        DecisionAim("precision", 2).check(2)
