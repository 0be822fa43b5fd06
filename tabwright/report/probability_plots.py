"""Charts of probabilities and decisions, from plain arrays; sample weights count throughout.

Reliability, precision and recall, confidence, confusion. The other charts are in
`report/plots.py`, what all of them have in common in `report/svg.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tabwright.calibration.decisions import threshold_curve
from tabwright.metrics import ReliabilityBins, reliability_bins
from tabwright.number_text import number_text
from tabwright.report.svg import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ON_SHADE,
    ORANGE,
    SHADES,
    SMALL,
    SURFACE,
    add_bars,
    add_legend,
    add_squares,
    group_thousands,
    new_figure,
    plain,
    row_weights,
    styled,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]

# Classes with a name on each axis, and with a number in each cell.
_NAMED_CLASSES = 40
_NUMBERED_CLASSES = 20
_ROWS_PER_BIN = 25
_MOST_BINS = 15
_LINES: tuple[tuple[str, Any], ...] = (
    (BLUE, "-"),
    (ORANGE, (0, (6, 2))),
    (GREEN, (0, (1.5, 1.5))),
)
_SHARE_EDGES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0)


def plot_reliability(
    event: ArrayLike,
    probability: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    name: str = "the event",
    n_bins: int | None = None,
) -> Figure:
    """Reliability diagram: how often what was predicted came true, with counts.

    `event`: (n,), bool; whether the event happened.
    `probability`: (n,); its predicted probability.
    `sample_weight`: (n,); weights of the rows; a weight of 2 equals a row twice.
    `name`: what the event is, for the axes.
    `n_bins`: at most so many bins of equal mass; by default one for each 25 rows, at most 15: fewer
        than for the calibration error, since each must be read by itself.
    Returns: Above, per bin the frequency of the event against the mean predicted probability, with
        95 % Wilson intervals (Wilson, "Probable inference, the law of succession, and statistical
        inference", 1927) that take the mass of a bin for its number of rows. Below, how many rows
        have which probability.
    """
    hit = np.asarray(event, dtype=bool)
    p = np.asarray(probability, dtype=np.float64)
    weight = row_weights(sample_weight, len(p))
    bins = diagram_bins(hit, p, weight, n_bins=n_bins)
    low, high = wilson_interval(bins.frequency, bins.mass)
    end = max(float(high.max()), float(bins.mean_probability.max())) * 1.08
    # A rare event needs its own scale.
    limit = 1.0 if end > 0.5 else end
    figure = new_figure(5.2, 5.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1.0])
    styled(above, x="", y=f"Observed frequency of {plain(name, 60)}")
    above.plot([0, limit], [0, limit], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
    above.vlines(bins.mean_probability, low, high, color=BLUE, linewidth=1.4)
    above.plot(
        bins.mean_probability,
        bins.frequency,
        color=BLUE,
        linewidth=1.4,
        marker="o",
        markersize=6,
        markeredgecolor=SURFACE,
    )
    above.set_xlim(0, limit)
    above.set_ylim(0, limit * 1.02)
    counts, edges = np.histogram(p, bins=20, range=(0.0, limit), weights=weight)
    shown = bool(np.all(weight == 1.0))
    styled(below, x=f"Predicted probability of {plain(name, 60)}", y="Rows" if shown else "Weight")
    add_bars(below, edges, counts, BLUE)
    below.set_ylim(0, max(float(counts.max()) * 1.1, 1e-300))
    group_thousands(below, "y")
    return figure


def diagram_bins(
    event: ArrayLike,
    probability: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    n_bins: int | None = None,
) -> ReliabilityBins:
    """The bins that `plot_reliability` draws; arguments as there."""
    weight = row_weights(sample_weight, len(np.asarray(probability)))
    if n_bins is None:
        n_bins = int(np.clip(np.count_nonzero(weight) // _ROWS_PER_BIN, 1, _MOST_BINS))
    return reliability_bins(event, probability, weight, n_bins=n_bins)


def wilson_interval(share: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95 % Wilson interval of shares observed in `mass` rows each."""
    z2 = 1.959964**2
    middle = (share + z2 / (2 * mass)) / (1 + z2 / mass)
    half = np.sqrt(z2 / mass * (share * (1 - share) + z2 / (4 * mass))) / (1 + z2 / mass)
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def plot_precision_recall(
    event: ArrayLike,
    probability: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    threshold: float | None = None,
    name: str = "the event",
) -> Figure:
    """Precision against recall, and both against the threshold, with the chosen one.

    `event`: (n,), bool; whether a row is positive; at least one must be.
    `probability`: (n,); its predicted probability.
    `sample_weight`: (n,); weights of the rows.
    `threshold`: the one in use, marked in both panels.
    `name`: what the positive class is called.
    Raises `ValueError` if no row is positive.
    """
    hit = np.asarray(event, dtype=bool)
    weight = row_weights(sample_weight, len(hit))
    curve = threshold_curve(hit, probability, weight)
    order = thinned(curve.thresholds, curve.precision, curve.recall)
    recall = np.append(curve.recall[order], 0.0)
    precision = np.append(curve.precision[order], curve.precision[-1])
    figure = new_figure(5.2, 7.4)
    above, below = figure.subplots(2, 1)
    styled(above, x="Recall (share of positives found)", y="Precision (share of alarms that hold)")
    above.step(recall, precision, where="pre", color=BLUE, linewidth=1.8)
    share = float(weight[hit].sum() / weight.sum())
    above.axhline(share, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
    above.annotate(
        f"no skill: {share:.3g}",
        (0.01, share),
        xytext=(0, 3 if share < 0.9 else -11),
        textcoords="offset points",
        color=MUTED,
        fontsize=SMALL,
    )
    above.set_xlim(0, 1.01)
    above.set_ylim(0, 1.03)
    styled(below, x=f"Threshold on the probability of {plain(name, 60)}", y="Score")
    scores = {"precision": curve.precision, "recall": curve.recall, "F1": curve.f1}
    _add_scores(below, curve.thresholds, scores, order)
    if threshold is not None:
        # Place of the threshold among the probabilities that occur: a row counts from it on.
        values = np.unique(np.asarray(probability, dtype=np.float64)[weight > 0])
        at = int(np.searchsorted(values, threshold, "left"))
        if at < len(values):
            _mark(above, threshold, float(curve.recall[at]), float(curve.precision[at]))
        below.axvline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:.3g}")
    add_legend(below, columns=4)
    return figure


def _mark(axes: Axes, threshold: float, recall: float, precision: float) -> None:
    """Mark the threshold in use."""
    axes.plot(recall, precision, marker="D", markersize=8, color=ORANGE, markeredgecolor=SURFACE)
    axes.annotate(
        f"threshold {threshold:.3g}\nprecision {precision:.3f}\nrecall {recall:.3f}",
        (recall, precision),
        xytext=(-9 if recall > 0.35 else 9, -9 if precision > 0.35 else 9),
        textcoords="offset points",
        ha="right" if recall > 0.35 else "left",
        va="top" if precision > 0.35 else "bottom",
        color=INK,
        fontsize=SMALL,
        # No line runs through the words.
        bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5},
    )


def plot_accuracy_by_confidence(
    correct: ArrayLike, confidence: ArrayLike, sample_weight: ArrayLike | None = None
) -> Figure:
    """What acting only on confident predictions gives: accuracy, and the share of rows left.

    `correct`: (n,), bool; whether the most probable class is the true one; at least one must be.
    `confidence`: (n,); probability of the most probable class.
    `sample_weight`: (n,); weights of the rows.
    """
    right = np.asarray(correct, dtype=bool)
    p = np.asarray(confidence, dtype=np.float64)
    weight = row_weights(sample_weight, len(p))
    curve = threshold_curve(right, p, weight)
    kept = _kept_share(curve.thresholds, p, weight)
    order = thinned(curve.thresholds, curve.precision, kept)
    figure = new_figure(5.2, 3.7)
    axes = styled(
        figure.subplots(), x="Least probability of the predicted class to act on", y="Share"
    )
    scores = {"accuracy of the rows acted on": curve.precision, "share of rows acted on": kept}
    _add_scores(axes, curve.thresholds, scores, order)
    add_legend(axes, columns=2)
    return figure


def _add_scores(
    axes: Axes, thresholds: FloatArray, scores: Mapping[str, FloatArray], order: NDArray[np.int64]
) -> None:
    """Scores by threshold as lines, at the points of `order`; both axes go from 0 to 1."""
    for (label, values), (colour, dashes) in zip(scores.items(), _LINES, strict=False):
        axes.plot(
            thresholds[order],
            values[order],
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            label=label,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)


def _kept_share(thresholds: FloatArray, p: FloatArray, weight: FloatArray) -> FloatArray:
    order = np.argsort(p, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weight[order])])
    at = np.searchsorted(p[order], thresholds, "left")
    return cast("FloatArray", 1.0 - below[at] / below[-1])


def plot_confusion(
    codes: ArrayLike,
    predicted: ArrayLike,
    labels: Sequence[object],
    sample_weight: ArrayLike | None = None,
) -> Figure:
    """Confusion matrix: rows are true classes, columns predicted ones.

    `codes`, `predicted`: (n,), int. True and predicted classes, 0 to C - 1.
    `labels`: What they are called. Past 40 classes the axes count them.
    `sample_weight`: (n,); weights of the rows.
    Returns: shades are shares of the true class (each row sums to 1); up to 20 classes each cell
        has its number of rows, or its weight, too.
    """
    counts = confusion_counts(codes, predicted, len(labels), sample_weight)
    n_classes = len(labels)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    named = n_classes <= _NAMED_CLASSES
    cell = 0.9 if n_classes <= 3 else max(5.6 / n_classes, 0.24 if named else 0.05)
    names = [plain(label, 22) for label in labels]
    margin = 0.075 * max(map(len, names)) if named else 0.4
    side = cell * n_classes
    figure = new_figure(
        max(side + margin + 0.6, 4.4), side + (margin if n_classes > 6 else 0.4) + 1
    )
    axes = styled(figure.subplots(), x="Predicted class", y="True class", grid="")
    _shaded(axes, share)
    axes.set_xlim(0, n_classes)
    axes.set_ylim(n_classes, 0)
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    if named:
        places = np.arange(n_classes) + 0.5
        turn = 90 if n_classes > 6 or max(map(len, names)) > 10 * cell else 0
        axes.set_xticks(places, labels=names, rotation=turn, parse_math=False)
        axes.set_yticks(places, labels=names, parse_math=False)
    if n_classes <= _NUMBERED_CLASSES:
        size = float(np.clip(cell * 20, 6.0, 11.0))
        for row, column in np.argwhere(counts > 0):
            dark = share[row, column] > _SHARE_EDGES[4]
            axes.text(
                column + 0.5,
                row + 0.5,
                _count(counts[row, column]),
                ha="center",
                va="center",
                fontsize=size,
                color=ON_SHADE if dark else INK,
            )
    _shade_key(figure)
    return figure


def confusion_counts(
    codes: ArrayLike, predicted: ArrayLike, n_classes: int, sample_weight: ArrayLike | None = None
) -> FloatArray:
    """Rows, or their weight, by true class and predicted class: shape (C, C), float64."""
    true, predicted_codes = np.asarray(codes, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    weight = row_weights(sample_weight, len(true))
    cells = np.bincount(true * n_classes + predicted_codes, weights=weight, minlength=n_classes**2)
    return cells.astype(np.float64).reshape(n_classes, n_classes)


def _count(value: float) -> str:
    return number_text(value, 3)


def _shaded(axes: Axes, share: FloatArray) -> None:
    """Fill the cells of a matrix of shares, nothing where it is 0."""
    level = np.searchsorted(_SHARE_EDGES[1:-1], share, "left")
    for k, shade in enumerate(SHADES):
        rows, columns = np.nonzero((share > 0) & (level == k))
        if len(rows):
            add_squares(axes, columns.astype(np.float64), rows.astype(np.float64), 1.0, 1.0, shade)
    n = len(share)
    if n <= _NAMED_CLASSES:
        lines = np.arange(n + 1)
        axes.hlines(lines, 0, n, color=GRID, linewidth=0.8)
        axes.vlines(lines, 0, n, color=GRID, linewidth=0.8)


def _shade_key(figure: Figure) -> None:
    """Add the legend of the shades."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=shade, label=f"≤ {100 * _SHARE_EDGES[k + 1]:.0f} %")
        for k, shade in enumerate(SHADES)
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=7.5,
        labelcolor=INK,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=0.9,
        title="share of the true class",
        title_fontsize=7.5,
    )
    legend.get_title().set_color(MUTED)
