"""Explanations as figures, and as parts of a report: waterfall, beeswarm, effect curves.

The numbers come from `tabwright.explanation`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tabwright.explanation.attributions import Explanation
from tabwright.explanation.effects import EffectCurve
from tabwright.inference.fitted_model import FittedModel
from tabwright.report.markup import Markup, Node, element, number, short
from tabwright.report.page import Section, chart
from tabwright.report.plots import plot_effect
from tabwright.report.svg import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    SURFACE,
    add_legend,
    group_thousands,
    name_rows,
    new_figure,
    plain,
    styled,
)
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

_COLUMNS_SHOWN, _WIDTH = 12, 7.2
# Letters of a name in a title, which may take several lines.
_TITLE_LENGTH = 60
# In a report: on a phone a chart of this width needs no scrolling.
_REPORT_COLUMNS, _REPORT_WIDTH = 8, 5.0
_ATTRIBUTIONS_SHOWN, _CLASSES_SHOWN = 3, 3
_BINS, _HALF_HEIGHT, _SHADES = 60, 0.38, 7


def output_title(explanation: Explanation, output: int, length: int = 30) -> str:
    """What an output of an explanation is, for an axis; a name is cut to so many characters."""
    name = explanation.outputs[output]
    if name == "value" and len(explanation.outputs) == 1:
        known = explanation.target
        return "Prediction" if known is None else f"Predicted {plain(shown_name(known), length)}"
    scale = "Log-odds" if explanation.scale == "log_odds" else "Probability"
    return f"{scale} of {plain(shown_name(name), length)}"


def plot_waterfall(
    explanation: Explanation,
    row: int = 0,
    output: int = 0,
    *,
    limit: int = _COLUMNS_SHOWN,
    width: float = _WIDTH,
) -> Figure:
    """From the mean output to a row's own, column by column.

    `row`: counted from 0 among the explained rows.
    `output`: which of `outputs`.
    `limit`: of more columns the smallest attributions are one bar.
    `width`: in inches; names and cells are cut shorter in a narrow figure.
    """
    table = explanation.row(row, output)
    n_own = len(table) if len(table) <= limit else limit - 1
    sizes = table["attribution"].to_list()
    name_length, cell_length = (24, 18) if width >= _WIDTH else (18, 11)
    names = [
        f"{plain(shown_name(name), name_length)} = "
        f"{'missing' if cell is None else plain(cell, cell_length)}"
        for name, cell, _ in table[:n_own].iter_rows()
    ]
    if n_own < len(table):
        sizes = [*sizes[:n_own], sum(sizes[n_own:])]
        names.append(f"{len(table) - n_own:,} other columns")
    # The largest stands on top, beside the row's own output.
    sizes, names = sizes[::-1], names[::-1]
    base, row_output = float(explanation.base[output]), float(explanation.output[row, output])
    ends = base + np.cumsum(sizes)
    starts = np.concatenate([[base], ends[:-1]])
    figure = new_figure(width, 1.3 + 0.3 * len(names))
    of_axis = output_title(explanation, output, _TITLE_LENGTH)
    axes = styled(figure.subplots(), x=of_axis, y="", grid="x")
    places = np.arange(len(names))
    colours = [BLUE if size >= 0 else ORANGE for size in sizes]
    bars = axes.barh(places, sizes, left=starts, color=colours, height=0.62)
    labels = ["+" * (size > 0) + number(float(size), 3) for size in sizes]
    # A label hides the line that it crosses.
    paper = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.6}
    axes.bar_label(bars, labels, padding=3, color=INK, fontsize=SMALL, bbox=paper)
    axes.vlines(ends[:-1], places[:-1] - 0.31, places[1:] + 0.31, color=MUTED, linewidth=0.8)
    for value, title in ((base, "mean"), (row_output, "this row")):
        axes.axvline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        at_left = value < base + row_output - value
        axes.text(
            value,
            len(names) - 0.35,
            f"{title} {number(value)}",
            ha="right" if at_left else "left",
            va="bottom",
            color=INK,
            fontsize=SMALL,
        )
    axes.set_ylim(-0.6, len(names) - 0.4)
    # Space for the labels on both sides.
    low, high = min(base, ends.min()), max(base, ends.max())
    margin = (0.2 if width >= _WIDTH else 0.3) * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)
    group_thousands(axes, "x")
    name_rows(axes, places, names, x=of_axis)
    return figure


def plot_beeswarm(
    explanation: Explanation,
    output: int = 0,
    *,
    limit: int = _COLUMNS_SHOWN,
    width: float = _WIDTH,
) -> Figure:
    """The attributions of many rows: one dot a row and column, coloured by the cell.

    `output`: which of `outputs`.
    `limit`: at most so many columns, those of the largest mean attributions.
    `width`: in inches.
    Returns: numbers and dates, as the model reads them, go from orange (low) to blue (high) by
        rank; words and missing cells are grey.
    """
    order = explanation.importance(output)["column"].to_list()[:limit]
    figure = new_figure(width, 1.3 + 0.4 * len(order))
    name_length = 28 if width >= _WIDTH else 20
    title = f"Added to the {uncapitalised(output_title(explanation, output, _TITLE_LENGTH))}"
    axes = styled(figure.subplots(), x=title, y="", grid="x")
    axes.axvline(0.0, color=MUTED, linewidth=1)
    values = explanation.attributions[
        :, [explanation.columns.index(name) for name in order], output
    ]
    span = float(np.ptp(explanation.attributions[:, :, output])) or 1.0
    at = np.stack([place + _offsets(column, span) for place, column in enumerate(values.T)], axis=1)
    ranks = np.stack([_ranks(explanation.cells_as_read[name]) for name in order], axis=1)
    # One mark for all dots of a shade: a page stays small.
    shade = np.where(np.isfinite(ranks), np.round(np.nan_to_num(ranks) * (_SHADES - 1)), _SHADES)
    labels = {0: "lowest", _SHADES - 1: "highest", _SHADES: "words, missing"}
    for k, colour in enumerate((*_ramp(), MUTED)):
        is_shade = shade == k
        axes.plot(
            values[is_shade],
            at[is_shade],
            "o",
            color=colour,
            markersize=3.6,
            markeredgewidth=0,
            alpha=0.85,
            label=labels.get(k),
        )
    add_legend(axes, columns=len(labels))
    group_thousands(axes, "x")
    names = [plain(shown_name(name), name_length) for name in order]
    name_rows(axes, np.arange(len(order)), names, x=title)
    axes.set_ylim(len(order) - 0.4, -0.6)
    return figure


def _ramp() -> list[str]:
    """Shades from orange to blue."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    ramp = LinearSegmentedColormap.from_list("cells", [ORANGE, "#b9a6a6", BLUE])
    return [ORANGE, *(to_hex(ramp(k / (_SHADES - 1))) for k in range(1, _SHADES - 1)), BLUE]


def _ranks(column: Any) -> FloatArray:
    """Ranks of numbers and dates between 0 and 1; NaN for words and missing cells."""
    if not (column.dtype.is_numeric() or column.dtype.is_temporal()):
        return np.full(len(column), np.nan)
    # Methods of a series read its name as a pattern.
    values = column.alias("").to_physical().cast(float).fill_nan(None)
    ranks: FloatArray = values.rank("average").cast(float).to_numpy() - 1.0
    return ranks / max(float(values.count()) - 1.0, 1.0)


def _offsets(values: FloatArray, width: float) -> FloatArray:
    """Heights that keep dots of one place apart: in turn above and below, from the middle on."""
    bins = np.round(values / width * _BINS).astype(np.int64)
    offsets = np.zeros(len(values))
    counts = [0]
    for one in np.unique(bins):
        rows = np.flatnonzero(bins == one)
        counts.append(len(rows))
        turn = np.arange(len(rows))
        offsets[rows] = (turn + 1) // 2 * np.where(turn % 2, 1.0, -1.0)
    return offsets * min(0.06, 2 * _HALF_HEIGHT / max(counts))


def _format_of(model: FittedModel, column: str) -> CellFormat:
    """How the text of a column is written."""
    plan = model.encoder.plan_
    return next(
        (form for place, form in plan.formats.items() if plan.names[place] == column), USUAL
    )


def effects_section(
    model: FittedModel, curves: tuple[EffectCurve, ...], rows: Explanation | None
) -> Section:
    """How the output moves with the most important columns.

    `rows`: attributions of usual rows, for a beeswarm.
    """
    target = model.card.get("target")
    name = plain(shown_name(target), 60) if isinstance(target, str) else "the target"
    first = curves[0]
    outputs: tuple[int, ...] = (0,)
    y = f"Effect on {name}"
    if model.classes is not None:
        y = f"Effect on P({plain(first.outputs[0], 40)})"
    if len(first.outputs) > 1:
        # The classes that the columns move most.
        moved = sum(np.ptp(curve.effect, axis=0) for curve in curves)
        outputs = tuple(np.sort(np.argsort(-moved, kind="stable")[:_CLASSES_SHOWN]).tolist())
        y = "Effect on probability"
    columns = [plain(shown_name(curve.column)) for curve in curves]
    charts = [
        chart(
            plot_effect(curve, outputs, y=y, form=_format_of(model, curve.column)),
            key=f"effect-{place}",
            label=f"Effect of {column} on the mean prediction, and the rows' density",
            caption=f"{column}: {_range(curve.effect[:, outputs])}",
        )
        for place, (curve, column) in enumerate(zip(curves, columns, strict=True))
    ]
    classes = ""
    if len(outputs) < len(first.outputs):
        classes = (
            f" Shown are the {len(outputs)} of {len(first.outputs):,} classes that these columns "
            "move most."
        )
    return Section(
        "effects",
        "How the prediction moves with a column",
        [
            None if rows is None else beeswarm_chart(rows, "beeswarm"),
            element(
                "p",
                "The mean prediction when one column is set to a value in all rows, less its mean "
                "(partial dependence), for the most important columns; below it, where the rows "
                f"are. Where few are, the curve says little.{classes} It shows what the model "
                "does, not what causes what.",
            ),
            element("div", charts, class_="charts"),
        ],
    )


def _range(effect: FloatArray) -> str:
    """The ends of effects in words, both with the places that three digits of the larger need."""
    low, high = float(effect.min()), float(effect.max())
    largest = max(abs(low), abs(high))
    if not 1e-6 < largest < 1e15:
        return f"from {number(low, 3)} to {number(high, 3)}"
    places = max(0, 2 - math.floor(math.log10(largest)))
    ends = (f"{round(end, places) + 0.0:,.{places}f}".replace("-", "−") for end in (low, high))
    return "from {} to {}".format(*ends)


def largest_attributions(explanation: Explanation, row: int, output: int) -> Node:
    """The columns that move a row's output most, the largest first."""
    parts = explanation.row(row, output)[:_ATTRIBUTIONS_SHOWN]
    return [
        element(
            "small",
            short(shown_name(name), 28),
            " ",
            _signed(size),
        )
        for name, _, size in parts.iter_rows()
    ]


def beeswarm_chart(explanation: Explanation, key: str) -> Markup:
    """What the cells of many rows add to a prediction; of classes, to the one they move most."""
    output = int(np.abs(explanation.attributions).sum(axis=(0, 1)).argmax())
    columns = explanation.importance(output)["column"].to_list()
    what = output_title(explanation, output)
    most = ", ".join(plain(shown_name(name)) for name in columns[:_ATTRIBUTIONS_SHOWN])
    shown = min(_REPORT_COLUMNS, len(columns))
    n_rows = len(explanation.attributions)
    return chart(
        plot_beeswarm(explanation, output, limit=shown, width=_REPORT_WIDTH),
        key=key,
        label=f"Beeswarm of what cells add to the {uncapitalised(what)}; the largest: {most}",
        caption=f"Each dot is one of {n_rows:,} held-out rows: what its cell adds to the "
        f"{uncapitalised(what)}, from the mean on (Shapley values). Where blue lies right of "
        "orange, more of the column means more of the prediction.",
    )


def waterfall_chart(explanation: Explanation, row: int, output: int, key: str, of: str) -> Markup:
    """How the cells of one row lead from the mean to its prediction; `of`: what row it is."""
    steps = [
        f"{plain(shown_name(name), 30)} {_signed(size)}"
        for name, _, size in explanation.row(row, output)[:_ATTRIBUTIONS_SHOWN].iter_rows()
    ]
    base, end = (
        number(float(x)) for x in (explanation.base[output], explanation.output[row, output])
    )
    what = uncapitalised(output_title(explanation, output))
    return chart(
        plot_waterfall(explanation, row, output, limit=_REPORT_COLUMNS, width=_REPORT_WIDTH),
        key=key,
        label=f"Waterfall of {of}: the {what} goes from {base}, the mean, to {end}; the largest "
        f"steps: {', '.join(steps)}",
        caption=of[:1].upper() + of[1:],
    )


def uncapitalised(title: str) -> str:
    """A title as it stands inside a sentence."""
    return title[:1].lower() + title[1:]


def _signed(size: float) -> str:
    return f"{'+' if size > 0 else ''}{number(size, 3)}"
