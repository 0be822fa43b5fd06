"""The charts of Tabwright, from plain arrays; sample weights count throughout.

Every function returns a matplotlib `Figure` of its own, in the palette of `report/svg.py`:
`figure.savefig("chart.png")` writes it, `drawing.to_svg` puts it into a page. Colour is never the
only sign: lines differ by dashes, groups by labels. Here live training, values, importance
and effect curves; charts of probabilities and decisions come from `report/probability_plots.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from tabwright.explanation.effects import EffectCurve
from tabwright.regression import weighted_quantiles
from tabwright.report.svg import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    SURFACE,
    add_cloud,
    add_legend,
    group_thousands,
    name_rows,
    new_figure,
    plain,
    row_weights,
    styled,
)
from tabwright.tables.cell_format import USUAL, CellFormat
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

_LEVELS_SHOWN, _LEVEL_LENGTHS, _CLASS_LENGTH = 8, (26, 30), 20

_PointKind = Literal["number", "date", "clock", "duration"]

# Seconds of a unit of durations, the largest first, and the least span that is told in it.
_UNITS: Final = (("days", 86_400, 2), ("hours", 3600, 2), ("minutes", 60, 2), ("seconds", 1, 0))
# Minutes between marks of an axis of times of day.
_CLOCK_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360)
_MOST_MARKS: Final = 5


def plot_learning_curves(
    history: Sequence[Mapping[str, float]],
    best_epochs: Sequence[int] = (),
    *,
    unit: str = "log-loss in nats",
) -> Figure:
    """Loss on training and validation rows by epoch.

    `history`: with "epoch" and, where known, "train_loss" and "validation_loss"
        (`FittedModel.history`).
    `best_epochs`: the epoch that each member kept, marked on the lower edge.
    `unit`: what the loss is, for the axis.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.2, 3.3)
    axes = styled(figure.subplots(), x="Epoch", y=f"Loss ({unit})")
    smallest, largest = math.inf, 0.0
    for key, label, colour, dashes in (
        ("train_loss", "training rows", ORANGE, (0, (6, 2))),
        ("validation_loss", "validation rows", BLUE, "-"),
    ):
        points = [(e["epoch"], e[key]) for e in history if key in e and math.isfinite(e[key])]
        if points:
            epochs, values = np.array(points).T
            axes.plot(
                epochs,
                values,
                color=colour,
                linestyle=dashes,
                linewidth=1.8,
                label=label,
                marker="o" if len(points) == 1 else "",
            )
            smallest, largest = min(smallest, values.min()), max(largest, values.max())
    if smallest > 0 and largest > 20 * smallest:
        axes.set_yscale("log")
    if best_epochs:
        axes.plot(
            sorted(best_epochs),
            [0.0] * len(best_epochs),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="^",
            markersize=9,
            color=BLUE,
            markeredgecolor=SURFACE,
            clip_on=False,
            zorder=5,
            label="epochs kept" if len(best_epochs) > 1 else "epoch kept",
        )
    if axes.get_legend_handles_labels()[1]:
        add_legend(axes, columns=3)
    last = max([e["epoch"] for e in history], default=1)
    axes.set_xlim(min(1, last - 1), last + max(0.02 * last, 0.2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def plot_predicted_true(
    y: ArrayLike,
    prediction: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    name: str = "target",
) -> Figure:
    """True against predicted values, and errors (predicted less true) against predictions.

    `y`, `prediction`: (n,), float64. True and predicted values.
    `sample_weight`: (n,); weights of the rows.
    `name`: what is predicted, with its unit where it has one.
    Returns: Up to 600 rows as dots, more as shades of their weight. In the second panel the median
        of the errors and the range of the middle 80 % of them, in ten bins of equal weight.
    """
    true = np.asarray(y, dtype=np.float64)
    predicted = np.asarray(prediction, dtype=np.float64)
    weight = row_weights(sample_weight, len(true))
    used = weight > 0
    true, predicted, weight = true[used], predicted[used], weight[used]
    title = plain(shown_name(name), 60)
    figure = new_figure(5.2, 8.0)
    above, below = figure.subplots(2, 1)
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    margin = 0.03 * (high - low) or 1.0
    styled(above, x=f"Predicted {title}", y=f"True {title}")
    add_cloud(above, predicted, true, weight)
    above.plot([low, high], [low, high], color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    above.set_xlim(low - margin, high + margin)
    above.set_ylim(low - margin, high + margin)
    error = predicted - true
    styled(below, x=f"Predicted {title}", y="Error (predicted less true)")
    add_cloud(below, predicted, error, weight)
    below.axhline(0.0, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
    centre, lower, median, upper = _bands(predicted, error, weight)
    if len(centre) > 1:
        below.plot(centre, median, color=ORANGE, linewidth=1.8, label="median")
        for k, edge in enumerate((lower, upper)):
            below.plot(
                centre,
                edge,
                color=ORANGE,
                linestyle=(0, (2, 1.5)),
                linewidth=1.3,
                label="" if k else "middle 80 %",
            )
        add_legend(below, columns=2)
    for axes in (above, below):
        group_thousands(axes, "x")
        group_thousands(axes, "y")
    return figure


def plot_importance(
    names: Sequence[object],
    mean: ArrayLike,
    deviation: ArrayLike | None = None,
    *,
    unit: str = "log-loss in nats",
    limit: int = 20,
) -> Figure:
    """How much worse the score gets when a column is shuffled: bars, the largest first.

    `names`: columns.
    `mean`: (k,); mean rise of the loss.
    `deviation`: (k,); standard deviation over the shuffles, drawn as whiskers.
    `unit`: what the loss is.
    `limit`: at most so many columns are shown.
    """
    values = np.asarray(mean, dtype=np.float64)
    order = np.argsort(-values, kind="stable")[:limit]
    figure = new_figure(5.2, 0.9 + 0.27 * max(len(order), 2))
    title = f"Rise of the loss when shuffled ({unit})"
    axes = styled(figure.subplots(), x=title, y="", grid="x")
    places = np.arange(len(order), dtype=np.float64)
    axes.barh(places, values[order], height=0.68, color=BLUE)
    if deviation is not None:
        spread = np.asarray(deviation, dtype=np.float64)[order]
        axes.hlines(places, values[order] - spread, values[order] + spread, color=INK, linewidth=1)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    name_rows(axes, places, [plain(shown_name(names[i]), 24) for i in order], x=title)
    axes.set_ylim(len(order) - 0.4, -0.6)
    group_thousands(axes, "x")
    return figure


def _bands(
    x: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Weighted mean of x and the 10, 50 and 90 % quantiles of y, in bins of equal weight."""
    n_bins = int(np.clip(len(x) // 20, 1, 10))
    # Equal values share a bin, so that a weight of 2 is a row twice.
    which = np.unique(x, return_inverse=True)[1]
    mass = np.bincount(which, weights=weight)
    middle = np.cumsum(mass) - 0.5 * mass
    bin_of = np.minimum((middle / mass.sum() * n_bins).astype(np.int64), n_bins - 1)[which]
    lines = []
    for k in np.unique(bin_of):
        rows = np.flatnonzero(bin_of == k)
        lines.append(
            (
                np.average(x[rows], weights=weight[rows]),
                *weighted_quantiles(y[rows], (0.1, 0.5, 0.9), weight[rows]),
            )
        )
    table = np.array(lines).T
    return table[0], table[1], table[2], table[3]


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
    styled(below, x=f"{plain(shown_name(curve.column), 70)}{unit}", y="Rows", grid="")
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
