"""The charts of Tabwright, from plain arrays; sample weights count throughout.

Every function returns a matplotlib `Figure` of its own, in the palette of `report/svg.py`:
`figure.savefig("chart.png")` writes it, `drawing.to_svg` puts it into a page. Colour is never the
only sign: lines differ by dashes, groups by labels. Here live training, values and importance;
the charts of probabilities and decisions come from `report/probability_plots.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tabwright.regression import weighted_quantiles
from tabwright.report.svg import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SURFACE,
    add_cloud,
    add_legend,
    group_thousands,
    new_figure,
    plain,
    row_weights,
    styled,
)
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]


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
    title = plain(shown_name(name), 36)
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
    axes = styled(figure.subplots(), x=f"Rise of the loss when shuffled ({unit})", y="", grid="x")
    places = np.arange(len(order), dtype=np.float64)
    axes.barh(places, values[order], height=0.68, color=BLUE)
    if deviation is not None:
        spread = np.asarray(deviation, dtype=np.float64)[order]
        axes.hlines(places, values[order] - spread, values[order] + spread, color=INK, linewidth=1)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.set_yticks(
        places, labels=[plain(shown_name(names[i]), 24) for i in order], parse_math=False
    )
    axes.tick_params(axis="y", colors=INK, length=0)
    axes.spines["left"].set_visible(False)
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
