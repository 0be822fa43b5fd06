"""Effect curves: how a model's output moves with a single column, all else as it is.

The partial dependence of Friedman, "Greedy Function Approximation: A Gradient Boosting Machine"
(2001), section 8.2, centred on its mean over the rows, with the rows' shares beside it: where few
rows are, the curve says little. Needs nothing beyond the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.explanation.columns import MixedRows, Scale, column_as_read
from tabwright.inference.fitted_model import FittedModel
from tabwright.inference.predictor import Predictor
from tabwright.tables.cells import is_missing
from tabwright.tables.column_names import listed

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EffectCurve:
    """How the mean output moves with the cells of one column.

    Parameters
    ----------
    column : str
    outputs : tuple of str
        As in `Explanation`.
    ordered : bool
        Whether the points are values on a line, rather than levels.
    points : tuple
        Values or levels; text that the model reads as numbers or dates is what it means. None is a
        missing cell, and comes last.
    effect : ndarray of shape (n_points, n_outputs), float64
        Mean output less its mean over the rows.
    density : ndarray of shape (n_points,), float64
        Share of the rows whose cell is the point, or nearest to it; levels that are not shown
        have the rest.
    """

    column: str
    outputs: tuple[str, ...]
    ordered: bool
    points: tuple[Any, ...]
    effect: FloatArray
    density: FloatArray


def effect_curves(
    model: FittedModel,
    frame: pl.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    scale: Scale = "probability",
    n_points: int = 20,
    max_rows: int = 200,
    random_state: int = 0,
) -> tuple[EffectCurve, ...]:
    """Effect curves of single columns.

    Parameters
    ----------
    model : FittedModel
    frame : polars.DataFrame
        Rows with the columns of training.
    columns : sequence of str, optional
        By default all that the model uses.
    scale : {"probability", "log_odds"}, default="probability"
    n_points : int, default=20
        Quantiles of a column of numbers or dates, or its most frequent levels; at most so many.
    max_rows : int, default=200
        Rows to average over; of more, so many are drawn.
    random_state : int, default=0

    Returns
    -------
    tuple of EffectCurve

    Raises
    ------
    ValueError
        If there are no rows, or a column is not used by the model.
    """
    if not len(frame):
        raise ValueError("effect curves need at least one row; got none")
    if n_points < 2:
        raise ValueError(f"n_points must be at least 2; got {n_points!r}")
    game = MixedRows(Predictor(model), frame, scale)
    wanted = list(game.names) if columns is None else list(columns)
    for name in wanted:
        if name not in game.names:
            raise ValueError(
                f"columns must be columns that the model uses; got {name!r}; it uses "
                f"{listed(game.names, quoted=False)}"
            )
    rng = np.random.default_rng(random_state)
    rows = np.arange(len(frame))
    if len(rows) > max_rows:
        rows = np.sort(rng.choice(rows, max_rows, replace=False))
    places = np.tile(rows[:, None], len(game.names))
    return tuple(
        _curve(game, column_as_read(model, frame, name), game.names.index(name), places, n_points)
        for name in wanted
    )


def _curve(
    game: MixedRows, column: pl.Series, at: int, places: NDArray[np.int64], n_points: int
) -> EffectCurve:
    """The mean output with one column set to each of its points."""
    ordered, rows, density = _points(column, n_points)
    means = []
    for row in rows:
        changed = places.copy()
        changed[:, at] = row
        means.append(game(changed).mean(axis=0))
    effect = np.array(means)
    # Where no value moves the output, differences are 0, and their mean has no rounding.
    effect -= effect[0].copy()
    effect -= np.average(effect, axis=0, weights=density)
    return EffectCurve(
        column=column.name,
        outputs=game.outputs,
        ordered=ordered,
        points=tuple(column[int(row)] for row in rows),
        effect=effect,
        density=density,
    )


def _points(column: pl.Series, n_points: int) -> tuple[bool, NDArray[np.int64], FloatArray]:
    """Whether the cells are ordered, rows that hold the points, and the shares of these."""
    column = column.alias("")  # any name may stand here; polars takes some for patterns
    missing = is_missing(column).to_numpy()
    present = np.flatnonzero(~missing)
    ordered = column.dtype.is_numeric() or column.dtype.is_temporal()
    rows: list[int] = []
    counts: list[float] = []
    if len(present) and ordered:
        values = column.to_physical().cast(pl.Float64).to_numpy()[present]
        order = present[np.argsort(values, kind="stable")]
        ranks = np.round(np.linspace(0, len(order) - 1, min(n_points, len(order)))).astype(int)
        line = column.to_physical().cast(pl.Float64).to_numpy()
        grid, first = np.unique(line[order[ranks]], return_index=True)
        rows += order[ranks[first]].tolist()
        nearest = np.searchsorted((grid[1:] + grid[:-1]) / 2, values, side="right")
        counts += np.bincount(nearest, minlength=len(grid)).tolist()
    elif len(present):
        text = column.cast(pl.String).to_numpy()[present]
        _, first, sizes = np.unique(text.astype(str), return_index=True, return_counts=True)
        kept = np.argsort(-sizes, kind="stable")[:n_points]
        rows += present[first[kept]].tolist()
        counts += sizes[kept].tolist()
    if missing.any():
        rows.append(int(np.flatnonzero(missing)[0]))
        counts.append(float(missing.sum()))
    return ordered, np.array(rows, dtype=np.int64), np.array(counts) / len(column)
