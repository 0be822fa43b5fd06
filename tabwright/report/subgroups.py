"""Scores by subgroup: where among the values of an important column the model is worse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.explanation.columns import column_as_read
from tabwright.inference.fitted_model import FittedModel
from tabwright.number_text import cell_text, may_be_years
from tabwright.report.assessment import Assessment
from tabwright.report.markup import Node, element, number, short, table
from tabwright.report.page import Section
from tabwright.report.probability_plots import wilson_interval
from tabwright.tables.cells import is_missing
from tabwright.tables.column_names import shown_name

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
    n_marked, left_out = 0, []
    for name in names[:_COLUMNS_SHOWN]:
        groups = [
            (title, mask)
            for title, mask in subgroups(column_as_read(model, frame, name))
            if np.count_nonzero(weight[mask] > 0) >= _FEWEST_ROWS
        ]
        if len(groups) > 1:
            rows += [_row(model, found, weight, whole, name, *group) for group in groups]
            n_few = len(found.losses) - sum(int(np.count_nonzero(mask)) for _, mask in groups)
            if n_few:
                left_out.append(f"{shown_name(name)} {n_few:,}")
            n_marked += sum(_is_worse(found, weight, whole, mask) for _, mask in groups)
    if not rows:
        return None
    regression = model.classes is None
    loss = "mean absolute error" if regression else "log-loss"
    head = ["Column and group", "Rows", loss.capitalize()]
    head.append("Mean error (predicted less true)" if regression else "Accuracy")
    return Section(
        "subgroups",
        "Scores by subgroup",
        [
            table(
                f"The most important columns, each cut into groups of at least {_FEWEST_ROWS} "
                f"rows, with 95\u00a0% intervals; all rows together have a {loss} of "
                f"{number(whole)}",
                head,
                rows,
                numeric=(1, 2, 3),
            ),
            element("p", _of_marked(n_marked), class_="small"),
            *([element("p", _of_small_groups(left_out), class_="small")] if left_out else []),
        ],
    )


def _of_small_groups(left_out: list[str]) -> str:
    return (
        f"Rows in groups of less than {_FEWEST_ROWS}, such as few missing cells, are left out, "
        f"by column: {', '.join(left_out)}."
    )


def _of_marked(n_marked: int) -> str:
    if not n_marked:
        return "In no group does the whole interval of the loss lie above the value of all rows."
    return (
        "Marked are groups whose whole interval lies above the value of all rows. Of many groups, "
        "one in forty is marked by chance."
    )


def _is_worse(
    found: Assessment, weight: NDArray[np.float64], whole: float, mask: NDArray[np.bool_]
) -> bool:
    """Whether the interval of a group's loss lies above the value of all rows."""
    mean, half = _mean(found.losses[mask], weight[mask])
    return mean - half > whole


def _row(
    model: FittedModel,
    found: Assessment,
    weight: NDArray[np.float64],
    whole: float,
    name: str,
    title: str,
    mask: NDArray[np.bool_],
) -> list[Node]:
    """The cells of one subgroup."""
    mean, half = _mean(found.losses[mask], weight[mask])
    if model.classes is None:
        second, spread = _mean((found.output - found.target)[mask], weight[mask])
        low, high = second - spread, second + spread
    else:
        right = (found.predicted == found.target)[mask]
        share = weight[mask] / weight[mask].sum()
        second = float(share @ right)
        # As many rows of weight 1 say as much.
        ends = wilson_interval(np.array([second]), np.array([1.0 / (share @ share)]))
        low, high = (float(end[0]) for end in ends)
    mean_shown, *mean_ends = _alike(mean, max(mean - half, 0.0), mean + half)
    second_shown, *second_ends = _alike(second, low, high)
    loss: Node = mean_shown
    if _is_worse(found, weight, whole, mask):
        loss = element("span", mean_shown, class_="bad")
    return [
        [short(shown_name(name)), element("small", short(title, 60))],
        f"{np.count_nonzero(weight[mask] > 0):,}",
        [loss, element("small", " to ".join(mean_ends))],
        [second_shown, element("small", " to ".join(second_ends))],
    ]


def _alike(*values: float) -> list[str]:
    """Numbers of one cell; beside one of thousands none has decimals."""
    whole = max(map(abs, values)) >= 1000
    return [number(float(np.round(value)) if whole else value) for value in values]


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
        is_year = may_be_years(float(values[~missing].min()), float(values[~missing].max()))
        for k in np.unique(place[~missing]):
            mask = (place == k) & ~missing
            cells = column.filter(pl.Series(mask))
            low, high = (_shown(end, is_year=is_year) for end in (cells.min(), cells.max()))
            yield low if low == high else f"{low} to {high}", mask
    else:
        # Numbers in their own order: 9 before 10.
        known = kept if ordered else kept.cast(pl.String)
        frequent = known.value_counts(sort=True)[kept.name][:_LEVELS_SHOWN]
        levels = frequent.sort().cast(pl.String).to_list()
        text = column.cast(pl.String)
        for level in levels:
            yield level, (text == level).fill_null(value=False).to_numpy() & ~missing
        rest = ~text.is_in(levels).fill_null(value=False).to_numpy() & ~missing
        if rest.any():
            yield "all other levels", rest
    if missing.any():
        yield "missing", missing


def _shown(value: object, *, is_year: bool) -> str:
    if not isinstance(value, int | float):
        return str(value)
    return cell_text(float(value), is_year=is_year).replace("-", "−")
