"""The parts of a report on held-out rows: scores, values, importance, the hardest rows.

The numbers come from `report/assessment.py` and from the model itself, charts from
`report/plots.py`; every name, label and cell goes through `report/markup.py`, which escapes it.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.scoring import measure_of
from tabwright.regression import has_log_link
from tabwright.report.assessment import Assessment, constant_title
from tabwright.report.explanations import largest_attributions, waterfall_chart
from tabwright.report.markup import Node, element, number, short, table
from tabwright.report.page import Section, chart, facts, more
from tabwright.report.plots import (
    plot_importance,
    plot_predicted_true,
)
from tabwright.report.probability_sections import class_name, rule_text, target_title
from tabwright.report.svg import plain
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    import polars as pl

_CELLS_SHOWN = 5
_LONG_CELL = 16
_WATERFALLS = 2


# Title, what it is, and whether more is better.
METRICS: dict[str, tuple[str, str, bool]] = {
    "log_loss": ("Log-loss", "mean negative log of the true class's probability, in nats", False),
    "accuracy": ("Accuracy", "share of rows with the right class", True),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes", True),
    "brier": ("Brier score", "mean squared error of the probabilities", False),
    "ece": ("Calibration error", "mean gap of probability and frequency, noise removed", False),
    "rms_calibration_error": ("RMS calibration error", "the same, large gaps weighing more", False),
    "classwise_ece": ("Class-wise calibration error", "the same, mean over the classes", False),
    "auc": ("ROC AUC", "chance that a positive row ranks above another", True),
    "average_precision": ("Average precision", "area under precision against recall", True),
    "recall_at_precision": ("Recall at 90 % precision", "the most found with 9 of 10 right", True),
    "precision": ("Precision", "share of the predicted positives that are positive", True),
    "recall": ("Recall", "share of the positives that are found", True),
    "f1": ("F1", "harmonic mean of precision and recall", True),
    "rmse": ("RMSE", "root mean squared error, in the target's unit", False),
    "mae": ("MAE", "mean absolute error, in the target's unit", False),
    "r2": ("R²", "share of the target's variance explained", True),
    "pinball": ("Pinball loss", "of the quantiles, mean over the levels", False),
    "poisson_deviance": ("Poisson deviance", "mean over the rows", False),
    "gamma_deviance": ("Gamma deviance", "mean over the rows", False),
    "d2": ("D²", "share by which the loss is below the best constant's", True),
}


# In the unit of the target, or of its logarithm: of any size.
_OF_ANY_SIZE = frozenset({"rmse", "mae", "pinball", "poisson_deviance", "gamma_deviance"})
# What scores of one class against the others are where there are more than two.
_OF_MANY_CLASSES = {
    "auc": "chance that a row of a class ranks above another, mean over the classes",
    "average_precision": "area under precision against recall, mean over the classes",
}


def _score(name: str, value: float | None) -> str:
    """A score for people; shares and the like to four places."""
    if value is None or name in _OF_ANY_SIZE:
        return number(value)
    return number(round(value, 4))


def loss_unit(model: FittedModel) -> str:
    """What the losses of rows and of shuffled columns are measured in."""
    title = METRICS[measure_of(model)][0]
    if model.classes is not None:
        return "log-loss in nats"
    return title if has_log_link(model.settings.objective) else f"{title} in the target's unit"


def scores_section(model: FittedModel, found: Assessment) -> Section:
    """Scores with intervals, beside the baselines."""
    head = ["Score", *(scored.title for scored in found.scored)]
    rows = []
    for name in found.scored[0].scores:
        title, meaning, rising = METRICS.get(name, (name, "", True))
        if model.classes is not None and len(model.classes) > 2:
            meaning = _OF_MANY_CLASSES.get(name, meaning)
        cells: list[Node] = [[title, element("small", meaning, "; ", _direction(rising))]]
        for scored in found.scored:
            interval = scored.intervals.get(name)
            span = None
            if interval is not None:
                span = f"{_score(name, interval[0])} to {_score(name, interval[1])}"
            cells.append(
                [_score(name, scored.scores.get(name)), element("small", span) if span else None]
            )
        rows.append(cells)
    weighted = "" if found.weight is None else " Sample weights count in every score."
    positive = ""
    if "f1" in found.scored[0].scores:
        positive = f" Positive is “{class_name(model, found.rule.positive)[:40]}”."
    if any(name not in line.intervals for line in found.scored[:-1] for name in line.scores):
        weighted += " A score that is the same in every resample has no interval."
    body: list[Node] = [
        table(
            f"Scores on {len(found):,} rows that had no part in training, with 95\u00a0% bootstrap "
            f"intervals from {found.n_resamples:,} resamples.{positive}{weighted}",
            head,
            rows,
            numeric=range(1, len(head)),
        )
    ]
    if found.gain is not None:
        body.append(element("p", _gain_sentence(model, found)))
    body.append(
        element(
            "p",
            f"“{found.scored[-1].title}” answers every row with the training rows' "
            f"{constant_title(model) if model.classes is None else 'class shares'}: what a model "
            "must beat. ",
            None
            if found.gain is None
            else "The linear baseline was fitted on the same training rows. ",
            None
            if model.classes is None
            else ["All labels are decided by one rule: ", rule_text(model), "."],
            class_="small",
        )
    )
    return Section("scores", "Scores", body)


def _direction(rising: bool) -> str:
    return "higher is better" if rising else "lower is better"


def _gain_sentence(model: FittedModel, found: Assessment) -> Node:
    """Whether the model is better than the linear baseline."""
    gain = found.gain
    if gain is None:
        return None
    name = METRICS[measure_of(model)][0] if model.classes is None else "log-loss"
    span = (
        f" (95\u00a0% interval {number(gain.low)} to {number(gain.high)}, the same rows for both)"
    )
    if gain.low > 0:
        return [
            element("span", "Significantly better than the linear baseline:", class_="good"),
            f" its {name} is lower by {number(gain.value)}{span}.",
        ]
    if gain.high < 0:
        return [
            element("span", "Significantly worse than the linear baseline:", class_="bad"),
            f" the model's {name} is higher by {number(-gain.value)}"
            f" (95\u00a0% interval {number(-gain.high)} to {number(-gain.low)}, the same rows for "
            "both). Prefer the linear model here.",
        ]
    return [
        element("span", "Not significantly different from the linear baseline:", class_="bad"),
        f" the {name} differs by {number(gain.value)}{span}. The simpler model may do.",
    ]


def values_section(model: FittedModel, found: Assessment) -> Section:
    """Predicted against true values."""
    name = target_title(model)
    figure = plot_predicted_true(found.target, found.output, found.weight, name=name)
    spread = np.quantile(found.losses, [0.5, 0.9])
    return Section(
        "values",
        "Predicted and true values",
        [
            chart(
                figure,
                key="values",
                label=f"True against predicted {name}, and errors; half of the rows are within "
                f"{number(float(spread[0]))} of the truth",
                caption="On the dashed lines the prediction is the truth. The stronger the shade, "
                "the more rows. "
                "An error above 0 is a prediction that is too high; the errors' median and the "
                "range of their middle 80 % tell where the model is off, and where it is unsure.",
            ),
            facts(
                [
                    ("Half of the rows", f"are off by at most {number(float(spread[0]))}"),
                    ("Nine in ten rows", f"are off by at most {number(float(spread[1]))}"),
                ]
            ),
        ],
    )


def importance_section(model: FittedModel, found: Assessment) -> Section:
    """Which columns the model leans on."""
    importance = found.importance
    shown = len(importance.names)
    spread = importance.n_repeats > 1
    shuffles = (
        f"mean and standard deviation of {importance.n_repeats} shuffles"
        if spread
        else "one shuffle"
    )
    limits = (
        ""
        if shown == importance.n_used
        else f" {shown:,} of {importance.n_used:,} columns were measured, first those to which the "
        "output is most sensitive."
    )
    rows = [
        [short(shown_name(name)), number(float(mean)), number(float(deviation)) if spread else "–"]
        for name, mean, deviation in zip(
            importance.names, importance.mean, importance.deviation, strict=True
        )
    ]
    top = ", ".join(map(shown_name, importance.names[:3]))
    deviation = importance.deviation if spread else None
    return Section(
        "importance",
        "What the model relies on",
        [
            chart(
                plot_importance(
                    importance.names, importance.mean, deviation, unit=loss_unit(model)
                ),
                key="importance",
                label=f"Bar chart of permutation importance; the largest: {top}",
                caption=f"How much the loss on {importance.n_rows:,} held-out rows rises when a "
                f"column is shuffled: {shuffles}.{limits} "
                "Columns that say the same share their importance, and each may look idle.",
            ),
            more(
                f"All {shown:,} columns"
                if shown == importance.n_used
                else f"The {shown:,} columns that were measured, of {importance.n_used:,}",
                table(
                    f"Permutation importance: rise of the loss ({loss_unit(model)})",
                    ["Column", "Mean rise", "Standard deviation"],
                    rows,
                    numeric=(1, 2),
                ),
            ),
        ],
    )


def hardest_section(
    model: FittedModel, found: Assessment, frame: pl.DataFrame, row_numbers: np.ndarray
) -> Section:
    """The rows with the highest loss, and their most important cells."""
    shown = [name for name in found.importance.names[:_CELLS_SHOWN] if name in frame.columns]
    reasons = found.attributions
    rows: list[list[Node]] = []
    waterfalls: list[Node] = []
    for place, row in enumerate(found.hardest.tolist()):
        if model.classes is None:
            error = float(found.output[row] - found.target[row])
            facts_: list[Node] = [
                number(float(found.target[row])),
                number(float(found.output[row])),
                f"{'+' if error > 0 else ''}{number(error)}",
            ]
        else:
            true, predicted = int(found.target[row]), int(found.predicted[row])
            facts_ = [
                short(class_name(model, true), 30),
                short(class_name(model, predicted), 30),
                _probability(float(found.output[row, true])),
            ]
        cells = [_cell(frame[name][row]) for name in shown]
        if reasons is not None:
            of_two = model.classes is None or len(reasons.outputs) == 1
            output = 0 if of_two else int(found.predicted[row])
            if place < min(_WATERFALLS, len(reasons.attributions)):
                of = f"row {int(row_numbers[row]):,}, {_true_and_predicted(model, found, row)}"
                waterfalls.append(waterfall_chart(reasons, place, output, f"waterfall-{place}", of))
                facts_.append(element("small", "in the chart above"))
            elif place < len(reasons.attributions):
                facts_.append(largest_attributions(reasons, place, output))
            else:
                facts_.append("–")
        rows.append([f"{int(row_numbers[row]):,}", *facts_, *cells])
    third = (
        "Error (predicted less true)" if model.classes is None else "Probability of the true class"
    )
    why: list[str] = []
    note: Node = None
    if reasons is not None:
        what = "the prediction"
        if model.classes is not None:
            # Of two classes one says all.
            what = "the probability of the predicted class"
            if len(reasons.outputs) == 1:
                what = f"the probability of “{plain(reasons.outputs[0], 30)}”"
        why = ["Moved most by"]
        note = element(
            "p",
            f"The charts, and “Moved most by”, show what single cells add to {what}, from the mean "
            "of these held-out rows on: Shapley values, of which ",
            element("code", "tabwright explain"),
            " gives all.",
        )
    columns = [name if len(name) <= 28 else f"{name[:27]}…" for name in shown]
    numeric = (1, 2, 3) if model.classes is None else (3,)
    return Section(
        "hardest",
        "The hardest rows",
        [
            element(
                "p",
                "Look here for wrong labels, broken cells and kinds of rows that the table lacks. "
                "This part shows cells of the table: share the file only with those who may see "
                "them.",
                class_="note",
            ),
            note,
            element("div", waterfalls, class_="charts wide-charts") if waterfalls else None,
            table(
                f"The {len(rows)} rows of the highest loss, with the "
                f"{len(shown)} most important columns; rows are counted from 1",
                ["Row", "True", "Predicted", third, *why, *columns],
                rows,
                numeric=numeric,
                class_="cells",
            ),
        ],
    )


def _true_and_predicted(model: FittedModel, found: Assessment, row: int) -> str:
    """What a row is, and what the model takes it for."""
    if model.classes is None:
        true, predicted = number(float(found.target[row])), number(float(found.output[row]))
    else:
        true = f"“{plain(class_name(model, int(found.target[row])), 30)}”"
        predicted = f"“{plain(class_name(model, int(found.predicted[row])), 30)}”"
    return f"truly {true}, predicted {predicted}"


def _cell(value: object) -> Node:
    """A cell of the table, as it stands there."""
    if value is None:
        return element("small", "missing")
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return (f"{value:.0f}" if whole else f"{value:.6g}").replace("-", "−")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        # A day, or a time of day, is not broken at its signs.
        parts = [element("span", part, class_="whole") for part in str(value).split(" ")]
        return [node for part in parts for node in (part, " ")]
    shown = short(value, 40)
    # Not as narrow as the longest word of a long text.
    return element("span", shown, class_="long") if len(str(value)) > _LONG_CELL else shown


def _probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"
