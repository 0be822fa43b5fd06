"""The picture of a search: the scores of its trials, and what the settings weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tabwright.report.svg import BLUE, INK, MUTED, ORANGE, add_legend, name_rows, new_figure, styled
from tabwright.tuning.result import TuningResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_tuning(result: TuningResult) -> Figure:
    """Scores by trial with the best so far, and the importance of the settings.

    Parameters
    ----------
    result : TuningResult

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = new_figure(9.2, 3.6)
    history, importance = figure.subplots(1, 2, width_ratios=(3, 2))
    _history(history, result)
    _importance(importance, result)
    return figure


def _history(axes: Axes, result: TuningResult) -> None:
    """Draw the trials, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    better = "higher" if result.greater_is_better else "lower"
    styled(axes, x="Trial", y=f"{result.metric} ({better} is better)")
    done = [trial for trial in result.trials if trial.state == "complete"]
    numbers = np.array([trial.number for trial in done])
    means = np.array([trial.mean for trial in done])
    pruned = [trial.number for trial in result.trials if trial.state == "pruned"]
    if len(done):
        sofar = (np.maximum if result.greater_is_better else np.minimum).accumulate(means)
        axes.plot(numbers, means, "o", color=BLUE, markersize=5, alpha=0.7, label="trials")
        axes.step(numbers, sofar, where="post", color=BLUE, linewidth=1.8, label="best so far")
        # One trial far off must not flatten the others.
        low, high = np.quantile(means, [0.0, 0.9] if not result.greater_is_better else [0.1, 1.0])
        reach = max(float(high - low), 1e-12 + 0.01 * abs(float(high)))
        if len(done) > 3:
            bottom, top = low - 0.25 * reach, high + 0.25 * reach
            axes.set_ylim(bottom, top)
            beyond = (means < bottom) | (means > top)
            if beyond.any():
                axes.plot(
                    numbers[beyond],
                    means[beyond].clip(bottom, top),
                    "v" if result.greater_is_better else "^",
                    color=BLUE,
                    markersize=6,
                    clip_on=False,
                    label="beyond the axis",
                )
    if result.default is not None:
        axes.axhline(
            result.default.mean, color=ORANGE, linestyle=(0, (6, 2)), linewidth=1.5, label="default"
        )
    if pruned:
        axes.plot(
            pruned,
            [0.0] * len(pruned),
            "x",
            transform=axes.get_xaxis_transform(),
            color=MUTED,
            markersize=6,
            clip_on=False,
            label="pruned",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[1]:
        add_legend(axes, columns=3)


def _importance(axes: Axes, result: TuningResult) -> None:
    """Draw how much each setting matters."""
    if not result.importance:
        axes.set_axis_off()
        axes.text(
            0.5,
            0.5,
            "too few finished trials\nto weigh the settings",
            ha="center",
            va="center",
            transform=axes.transAxes,
            color=INK,
        )
        return
    title = "Share of the variance between trials"
    styled(axes, x=title, y="", grid="x")
    shares = sorted(result.importance.items(), key=lambda pair: pair[1])
    names = [name for name, _ in shares]
    bars = axes.barh(range(len(names)), [share for _, share in shares], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.0%}", padding=3, color=INK, fontsize=8)
    name_rows(axes, np.arange(len(names)), names, x=title)
    axes.set_xlim(0, 1.15 * max(result.importance.values()))
