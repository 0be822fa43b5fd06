"""Effect curves as figures, and as a part of a report.

The numbers come from `tabwright.explanation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tabwright.explanation.attributions import Explanation
from tabwright.explanation.effects import EffectCurve
from tabwright.inference.fitted_model import FittedModel
from tabwright.report.explanations import beeswarm_chart
from tabwright.report.markup import element, number
from tabwright.report.page import Section, chart
from tabwright.report.svg import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    add_legend,
    group_thousands,
    new_figure,
    plain,
    styled,
)
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

_CLASSES_SHOWN = 3
_LEVELS_SHOWN, _LEVEL_LENGTHS, _CLASS_LENGTH = 8, (26, 30), 20

_PointKind = Literal["number", "date", "clock", "duration"]

# Seconds of a unit of durations, the largest first, and the least span that is told in it.
_UNITS: Final = (("days", 86_400, 2), ("hours", 3600, 2), ("minutes", 60, 2), ("seconds", 1, 0))
# Minutes between marks of an axis of times of day.
_CLOCK_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360)
_MOST_MARKS: Final = 5


def plot_effect(
    curve: EffectCurve,
    outputs: tuple[int, ...] = (0,),
    *,
    y: str = "",
    form: CellFormat = USUAL,
) -> Figure:
    """The mean output by the cell of one column, with the share of the rows below it.

    `outputs`: which of the curve's outputs, at most three.
    `y`: what moves, for the axis.
    `form`: how the text of the column is written: whether its numbers are seconds, or of a unit.
    """
    curve = _fewer_levels(curve)
    line = _effect_axis(curve.points, form) if curve.ordered else None
    labels = [] if line is not None else _level_labels(curve.points)
    # Long names are written aslant, below a chart as high as those of numbers.
    slanted = len(labels) > 4 or sum(map(len, labels)) > 36
    longest = max(map(len, labels), default=0) if slanted else 0
    figure = new_figure(4.1, 3.2 + 0.045 * max(0, longest - 6))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    styled(above, x="", y=y)
    unit = f" ({line.unit})" if line is not None and line.unit else ""
    styled(below, x=f"{plain(shown_name(curve.column), 30)}{unit}", y="Rows", grid="")
    n = len(curve.points)
    is_missing = np.array([point is None for point in curve.points])
    x = np.arange(n, dtype=np.float64) if line is None else line.places.copy()
    if line is not None:
        # A missing cell stands to the right of the line.
        gap = float(np.ptp(x[~is_missing])) if (~is_missing).any() else 0.0
        x[is_missing] = (x[~is_missing].max() if gap else 0.0) + (0.12 * gap or 1.0)
    above.axhline(0.0, color=MUTED, linewidth=1)
    for k, (output, colour) in enumerate(zip(outputs, (BLUE, ORANGE, GREEN), strict=False)):
        effect = curve.effect[:, output]
        label = plain(curve.outputs[output], _CLASS_LENGTH)
        marker = "osD"[k]
        if line is not None:
            there = ~is_missing
            above.plot(x[there], effect[there], color=colour, linewidth=1.8, label=label)
            above.plot(x[is_missing], effect[is_missing], marker, color=colour, markersize=5)
        else:
            at = x + 0.16 * (k - (len(outputs) - 1) / 2)
            above.plot(at, effect, marker, color=colour, markersize=5, label=label)
            above.vlines(at, 0.0, effect, color=colour, linewidth=1.4)
    if len(outputs) > 1:
        lengths = sorted(len(plain(curve.outputs[output], _CLASS_LENGTH)) for output in outputs)
        # Two of the longest side by side, or below each other where they are too long.
        of_long = 2 if sum(lengths[-2:]) < 2 * _CLASS_LENGTH else 1
        add_legend(above, columns=len(outputs) if sum(lengths) <= 24 else of_long)
    if line is not None:
        _add_density(below, curve, x, is_missing)
        line.add_ticks(below)
    else:
        below.bar(x, curve.density, width=0.7, color=GRID, edgecolor=MUTED, linewidth=0.6)
        below.set_xticks(x, labels=labels, parse_math=False, rotation=45 if slanted else 0)
        if slanted:
            for text in below.get_xticklabels():
                text.set(ha="right", rotation_mode="anchor", fontsize=7.5 if n > 10 else SMALL)
    below.set_yticks([])
    group_thousands(above, "y")
    above.tick_params(axis="x", length=0, labelbottom=False)
    return figure


def _level_labels(points: tuple[Any, ...]) -> list[str]:
    """Levels, cut where they are long, but no more than they stay apart."""
    labels: list[str] = []
    points = tuple(str(point).lower() if isinstance(point, bool) else point for point in points)
    for length in _LEVEL_LENGTHS:
        labels = ["missing" if point is None else plain(point, length) for point in points]
        if len(set(labels)) == len(set(points)):
            break
    return labels


def _fewer_levels(curve: EffectCurve) -> EffectCurve:
    """Of many levels the most frequent, and missing cells; values on a line stay as they are."""
    if curve.ordered:
        return curve
    kept = [
        place for place, point in enumerate(curve.points) if place < _LEVELS_SHOWN or point is None
    ]
    return replace(
        curve,
        points=tuple(curve.points[place] for place in kept),
        effect=curve.effect[kept],
        density=curve.density[kept],
    )


def _add_density(
    axes: Axes, curve: EffectCurve, x: FloatArray, is_missing: NDArray[np.bool_]
) -> None:
    """Shares of the rows as steps, each divided by the width that it stands for."""
    line, share = x[~is_missing], curve.density[~is_missing]
    if len(line) > 1:
        middles = (line[1:] + line[:-1]) / 2
        edges = np.concatenate([line[:1], middles, line[-1:]])
        widths = np.diff(edges)
        height = share / widths
        axes.stairs(height, edges, fill=True, color=GRID)
        axes.stairs(height, edges, color=MUTED, linewidth=0.8)
        # One value of very many rows must not hide the others.
        axes.set_ylim(0, 1.1 * min(float(height.max()), 4 * float(np.median(height))))
    elif len(line):
        axes.plot(line, [1.0], "|", color=MUTED)
    if is_missing.any():
        at = float(x[is_missing][0])
        axes.text(
            at,
            0.04,
            f"missing {100 * curve.density[is_missing][0]:.0f} %",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=INK,
            transform=axes.get_xaxis_transform(),
        )


@dataclass(frozen=True)
class _EffectAxis:
    """Where ordered points stand.

    `kind`: what the points are.
    `places`: (n_points,), float64; numbers as they are, days since 1970 of dates, minutes of times
        of day, multiples of `unit` of durations; NaN for a missing cell.
    `unit`: of the places, for people; empty where there is none.
    """

    kind: _PointKind
    places: NDArray[np.float64]
    unit: str

    def add_ticks(self, axes: Axes) -> None:
        """Marks that suit the points."""
        if self.kind == "date":
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            # With a higher minimum of ticks, spans of two to four units have no step that fits.
            locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_formatter(formatter)
        elif self.kind == "clock":
            from matplotlib.ticker import FuncFormatter, MultipleLocator

            there = self.places[np.isfinite(self.places)]
            span = float(np.ptp(there)) if len(there) else 0.0
            step = next(
                (minutes for minutes in _CLOCK_STEPS if span < _MOST_MARKS * minutes),
                _CLOCK_STEPS[-1],
            )
            axes.xaxis.set_major_locator(MultipleLocator(step))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value)))
        else:
            group_thousands(axes, "x", of_column=True)


def _effect_axis(points: Sequence[Any], form: CellFormat = USUAL) -> _EffectAxis:
    """Places for points on a line.

    `points`: numbers, dates, times of day or durations; None is a missing cell.
    `form`: how the text of the column is written; it tells that numbers are seconds, and of what.
    """
    kind: _PointKind = "number"
    if form.spelling in ("clock", "duration"):
        kind = "clock" if form.spelling == "clock" else "duration"
    for point in points:
        kind = _kind_of(point) or kind
    values = np.array([_value(point) for point in points])
    if kind == "clock":
        return _EffectAxis(kind, values / 60, "time of day")
    if kind == "duration":
        largest = np.nanmax(np.abs(values), initial=0.0)
        unit, seconds, _ = next(
            known_unit for known_unit in _UNITS if largest >= known_unit[1] * known_unit[2]
        )
        return _EffectAxis(kind, values / seconds, unit)
    return _EffectAxis(kind, values, (form.unit or "") if kind == "number" else "")


def _kind_of(point: Any) -> _PointKind | None:
    """What a point that is no number is."""
    if hasattr(point, "year"):
        return "date"
    if hasattr(point, "total_seconds"):
        return "duration"
    return "clock" if hasattr(point, "hour") else None


def _value(point: Any) -> float:
    """A number as it is, days of a date, seconds of anything else."""
    if point is None:
        return float("nan")
    kind = _kind_of(point)
    if kind == "date":
        from matplotlib.dates import date2num

        plainly = point.replace(tzinfo=None) if hasattr(point, "hour") else point
        return float(date2num(plainly))  # type: ignore[no-untyped-call]
    if kind == "duration":
        return float(point.total_seconds())
    if kind == "clock":
        return float(3600 * point.hour + 60 * point.minute + point.second)
    return float(point)


def _clock(minutes: float) -> str:
    return f"{int(minutes) // 60:02d}:{int(minutes) % 60:02d}"


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
    name = plain(shown_name(target), 30) if isinstance(target, str) else "the target"
    first = curves[0]
    outputs: tuple[int, ...] = (0,)
    y = f"Effect on {name}"
    if model.classes is not None:
        y = f"Effect on P({plain(first.outputs[0], 16)})"
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
