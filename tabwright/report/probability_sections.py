"""The parts of a report on a classifier's probabilities and decisions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from tabwright.calibration.decisions import DecisionRule
from tabwright.inference.fitted_model import FittedModel
from tabwright.report.assessment import Assessment
from tabwright.report.markup import Markup, Node, element, number, percent, short, table
from tabwright.report.page import Section, chart, long_table, more
from tabwright.report.probability_plots import (
    confusion_counts,
    diagram_bins,
    plot_accuracy_by_confidence,
    plot_confusion,
    plot_precision_recall,
    plot_reliability,
    wilson_interval,
)

_CLASSES_SHOWN = 30
_PAIRS_SHOWN = 10
# Before a number, and not between parts of a word or a date.
_SIGN = re.compile(r"(?<!\w)-(?=\d)")


def class_name(model: FittedModel, code: int) -> str:
    """A label as people read it."""
    return "" if model.classes is None else str(model.classes[code])


def target_title(model: FittedModel) -> str:
    """What the target is called; "class" where the card does not say."""
    name = model.card.get("target")
    return name if isinstance(name, str) else "class"


def probability_section(model: FittedModel, found: Assessment) -> Section:
    """Whether the probabilities are what they say, and precision and recall by threshold."""
    calibration = model.card.get("calibration")
    body: list[Node] = [element("p", calibration_answer(model, found))]
    if isinstance(calibration, str) and calibration:
        body.append(element("p", f"{calibration[0].upper()}{_SIGN.sub('−', calibration[1:])}."))
    if found.output.shape[1] == 2:
        threshold, positive = implied_threshold(found.rule)
        event, p = found.target == positive, found.output[:, positive]
        name = f"{target_title(model)} = {class_name(model, positive)}"
        body += _reliability(event, p, found, name)
        if _mass(event, found) > 0:
            figure = plot_precision_recall(event, p, found.weight, threshold=threshold, name=name)
            at = "" if threshold is None else f"; marked: threshold {threshold:.3g}"
            body += [
                element("h3", "Precision, recall and the threshold"),
                chart(
                    figure,
                    key="precision-recall",
                    label=f"Precision against recall, and both against the threshold{at}",
                    caption=[
                        "A row counts as ",
                        short(name, 60),
                        " where its probability is at least the threshold. ",
                        "The mark is the rule that this model decides by.",
                    ],
                ),
            ]
        return Section("probabilities", "Are the probabilities right?", body)
    right, p = found.predicted == found.target, found.output.max(axis=1)
    top = found.output.argmax(axis=1) == found.target
    body += _reliability(top, p, found, "the most probable class")
    if _mass(right, found) > 0:
        figure = plot_accuracy_by_confidence(top, p, found.weight)
        body += [
            element("h3", "Acting only on confident predictions"),
            chart(
                figure,
                key="confidence",
                label="Accuracy and share of rows by the least probability to act on",
                caption="How accurate the most probable class is where its probability is at "
                "least the value below, and how many rows that leaves.",
            ),
        ]
    return Section("probabilities", "Are the probabilities right?", body)


def calibration_answer(model: FittedModel, found: Assessment) -> str:
    """A sentence: are the probabilities right?"""
    if found.output.shape[1] == 2:
        _, positive = implied_threshold(found.rule)
        event, p = found.target == positive, found.output[:, positive]
        what = f"of “{class_name(model, positive)[:40]}”"
    else:
        event, p = found.output.argmax(axis=1) == found.target, found.output.max(axis=1)
        what = "of the most probable class"
    bins = diagram_bins(event, p, found.weight)
    low, high = wilson_interval(bins.frequency, bins.mass)
    inside = (bins.mean_probability >= low) & (bins.mean_probability <= high)
    n_bins, n_outside = len(inside), int((~inside).sum())
    weight = np.ones(len(p)) if found.weight is None else found.weight
    mean, share = np.average(p, weights=weight), np.average(event, weights=weight)
    # One in twenty 95 % intervals misses by chance.
    by_chance = 1.0 - sum(
        math.comb(n_bins, k) * 0.05**k * 0.95 ** (n_bins - k) for k in range(n_outside)
    )
    side = "too high" if mean > share else "too low"
    chance = ""
    if by_chance >= 0.05:
        start = f"The probabilities {what} are right as far as these rows can tell"
    elif by_chance >= 0.01:
        start = f"The probabilities {what} may be {side}"
        if abs(mean - share) < 0.005:
            start = f"The probabilities {what} may be off"
        chance = f" (were they right, so few bins would in {percent(by_chance, 0)} of cases)"
    else:
        start = f"The probabilities {what} are not right, on the whole {side}"
        if abs(mean - share) < 0.005:
            start = f"The probabilities {what} are not right, though their mean is"
    return (
        f"{start}: in {n_bins - n_outside:,} of {n_bins:,} bins the observed frequency agrees with "
        f"the predicted probability within its 95\u00a0% interval{chance}, and the mean "
        f"probability is {mean:.3f}, the observed share {share:.3f}."
    )


def implied_threshold(rule: DecisionRule) -> tuple[float | None, int]:
    """The probability from which a rule for two classes says "positive", and that class.

    None for costs under which one class always wins.
    """
    positive, other = rule.positive, 1 - rule.positive
    if rule.kind == "threshold":
        return rule.threshold, positive
    if rule.costs is None:
        return 0.5, positive
    alarm = rule.costs[other, positive] - rule.costs[other, other]
    miss = rule.costs[positive, other] - rule.costs[positive, positive]
    if not (alarm > 0 and miss > 0):
        return None, positive
    return float(alarm / (alarm + miss)), positive


def _mass(mask: np.ndarray, found: Assessment) -> float:
    return float(mask.sum() if found.weight is None else found.weight[mask].sum())


def _reliability(event: np.ndarray, p: np.ndarray, found: Assessment, name: str) -> list[Node]:
    """The reliability diagram with its table."""
    bins = diagram_bins(event, p, found.weight)
    worst = float(np.abs(bins.mean_probability - bins.frequency).max())
    rows = [
        [number(mean), number(share), number(mass)]
        for mean, share, mass in zip(*(part.tolist() for part in bins), strict=True)
    ]
    return [
        element("h3", "Reliability"),
        chart(
            plot_reliability(event, p, found.weight, name=name),
            key="reliability",
            label=f"Reliability diagram of {name}: {len(rows)} bins; the largest gap of predicted "
            f"and observed is {worst:.3f}",
            caption="Each point is a bin of equally many rows, with a 95\u00a0% interval. On the "
            "dashed line what is predicted comes true as often as predicted. Below: how many rows "
            "have which probability.",
        ),
        more(
            "The numbers of the diagram",
            table(
                "Bins of the reliability diagram",
                [
                    "Mean probability",
                    "Observed frequency",
                    "Rows" if found.weight is None else "Weight",
                ],
                rows,
                numeric=(0, 1, 2),
            ),
        ),
    ]


def decision_section(model: FittedModel, found: Assessment) -> Section:
    """Which classes are taken for which."""
    if model.classes is None:
        raise ValueError("a confusion matrix needs a classifier; this is a regression model")
    labels = [class_name(model, code) for code in range(len(model.classes))]
    counts = confusion_counts(found.target, found.predicted, len(labels), found.weight)
    hits = float(np.trace(counts))
    body: list[Node] = [
        element("p", "Decided by: ", rule_text(model), "."),
        chart(
            plot_confusion(found.target, found.predicted, labels, found.weight),
            key="confusion",
            label=f"Confusion matrix of {len(labels)} classes; "
            f"{percent(hits / float(counts.sum()))} of the rows lie on its diagonal",
            caption="Rows are true classes, columns predicted ones; the shade is the share of the "
            "true class."
            + ("" if len(labels) <= 40 else " Classes are counted in the order of their labels."),
        ),
        *_class_table(model, counts),
    ]
    if len(labels) > 2:
        body.append(_pair_table(labels, counts))
    return Section("decisions", "Right and wrong decisions", body)


def rule_text(model: FittedModel) -> Node:
    """How labels are decided."""
    rule = model.decision or DecisionRule()
    if rule.kind == "threshold":
        name = class_name(model, rule.positive)
        return [short(name, 60), f" where its probability is at least {rule.threshold:.4g}"]
    if rule.kind == "costs":
        return "the class of the lowest expected cost"
    return "the most probable class"


def _class_table(model: FittedModel, counts: np.ndarray) -> list[Markup]:
    """Recall, precision and F1 by class; of many classes the ones of lowest recall."""
    mass, predicted = counts.sum(axis=1), counts.sum(axis=0)
    hits = np.diag(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, f1 = hits / mass, hits / predicted, 2 * hits / (mass + predicted)
    order = np.arange(len(mass))
    caption = "By class"
    if len(order) > _CLASSES_SHOWN:
        hardest = np.argsort(np.where(np.isnan(recall), np.inf, recall), kind="stable")
        order = hardest[:_CLASSES_SHOWN]
        caption = f"By class: the {_CLASSES_SHOWN} of lowest recall, of {len(mass):,}"
    prior = model.class_prior
    rows = [
        [
            short(class_name(model, int(c)), 40),
            "–" if prior is None else percent(float(prior[c])),
            number(float(mass[c])),
            *("–" if np.isnan(v[c]) else f"{v[c]:.3f}" for v in (precision, recall, f1)),
        ]
        for c in order
    ]
    head = ["Class", "Training share", "Rows here", "Precision", "Recall", "F1"]
    return long_table(caption, head, rows, what="classes", numeric=range(1, 6))


def _pair_table(labels: Sequence[str], counts: np.ndarray) -> Markup | None:
    """The pairs of classes that are mistaken most often; None without mistakes."""
    wrong = counts * (1 - np.eye(len(labels)))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS_SHOWN]
    rows = [
        [short(labels[a], 40), short(labels[b], 40), number(float(wrong[a, b]))]
        for a, b in (divmod(int(i), len(labels)) for i in order)
        if wrong[a, b] > 0
    ]
    if not rows:
        return None
    return table(
        "The most frequent mistakes", ["True class", "Predicted", "Rows"], rows, numeric=(2,)
    )
