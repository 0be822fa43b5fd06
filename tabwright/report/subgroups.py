"""Scores by subgroup: where among the values of an important column the model is worse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.inference.fitted_model import FittedModel
from tabwright.report.assessment import Assessment
from tabwright.report.markup import Node, element, number, short, table
from tabwright.report.page import Section
from tabwright.tables.cells import is_missing

_COLUMNS_SHOWN = 5
_LEVELS_SHOWN = 8
_FEWEST_ROWS = 10


def subgroup_section(model: FittedModel, found: Assessment, frame: pl.DataFrame) -> Section | None:
    """Rows, mean loss and rate of each group of rows, for the most important columns.

    `frame`: the rows that were assessed.
    Returns: None where no column falls into two groups of at least ten rows.
    """
    names = [name for name in found.importance.names if name in frame.columns]
    weight = np.ones(len(found)) if found.weight is None else found.weight
    whole = float(np.average(found.losses, weights=weight))
    rows: list[list[Node]] = []
    for name in names[:_COLUMNS_SHOWN]:
        groups = [
            (title, mask)
            for title, mask in subgroups(frame[name])
            if np.count_nonzero(weight[mask] > 0) >= _FEWEST_ROWS
        ]
        if len(groups) > 1:
            rows += [_row(model, found, weight, whole, name, *group) for group in groups]
    if not rows:
        return None
    regression = model.classes is None
    head = ["Column and group", "Rows", "Mean absolute error" if regression else "Log-loss"]
    head.append("Mean error (predicted less true)" if regression else "Accuracy")
    return Section(
        "subgroups",
        "Scores by subgroup",
        [
            table(
                f"The most important columns, each cut into groups of at least {_FEWEST_ROWS} "
                f"rows, with 95\u00a0% intervals; all rows together have {number(whole)}",
                head,
                rows,
                numeric=(1, 2, 3),
            ),
            element(
                "p",
                "Marked are groups whose whole interval lies above the value of all rows. With "
                "many groups one in forty is marked by chance.",
                class_="small",
            ),
        ],
    )


def _row(
    model: FittedModel,
    found: Assessment,
    weight: NDArray[np.float64],
    whole: float,
    name: str,
    title: str,
    mask: NDArray[np.bool_],
) -> list[Node]:
    mean, half = _mean(found.losses[mask], weight[mask])
    if model.classes is None:
        second, spread = _mean((found.output - found.target)[mask], weight[mask])
    else:
        right = (found.predicted == found.target)[mask].astype(np.float64)
        second, spread = _mean(right, weight[mask])
    loss: Node = number(mean)
    if mean - half > whole:
        loss = element("span", number(mean), class_="bad")
    low, high = second - spread, second + spread
    if model.classes is not None:
        low, high = max(low, 0.0), min(high, 1.0)
    return [
        [short(name), element("small", short(title, 60))],
        f"{np.count_nonzero(weight[mask] > 0):,}",
        [loss, element("small", f"{number(max(mean - half, 0.0))} to {number(mean + half)}")],
        [number(second), element("small", f"{number(low)} to {number(high)}")],
    ]


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Weighted mean, and half of its 95 % interval by the normal approximation."""
    share = weight / weight.sum()
    mean = float(share @ values)
    return mean, 1.96 * float(np.sqrt((share**2) @ (values - mean) ** 2))


def subgroups(column: pl.Series) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Cut rows by a column: quarters of numbers and dates, the frequent levels, missing cells.

    Yields mask: (n_rows,), bool; the rows of the group; equal values are in one group.
    """
    column = column.alias("")  # any name may stand here; polars takes some for patterns
    missing = is_missing(column).to_numpy()
    kept = column.filter(pl.Series(~missing))
    ordered = column.dtype.is_numeric() or column.dtype.is_temporal()
    if ordered and kept.n_unique() > _LEVELS_SHOWN:
        values = column.to_physical().cast(pl.Float64).to_numpy()
        edges = np.quantile(values[~missing], [0.25, 0.5, 0.75], method="inverted_cdf")
        place = np.searchsorted(np.unique(edges), values, side="left")
        for k in np.unique(place[~missing]):
            mask = (place == k) & ~missing
            own = column.filter(pl.Series(mask))
            yield f"{_shown(own.min())} to {_shown(own.max())}", mask
    else:
        counts = kept.cast(pl.String).value_counts(sort=True)
        levels = sorted(counts[kept.name][:_LEVELS_SHOWN].to_list())
        text = column.cast(pl.String)
        for level in levels:
            yield level, (text == level).fill_null(value=False).to_numpy() & ~missing
        rest = ~text.is_in(levels).fill_null(value=False).to_numpy() & ~missing
        if rest.any():
            yield "all other levels", rest
    if missing.any():
        yield "missing", missing


def _shown(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)
