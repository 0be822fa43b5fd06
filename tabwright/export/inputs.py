"""What a graph takes for the columns of a table: inputs, dtypes, and cells as arrays.

What stands for a missing cell, and which spellings of a level a graph knows, is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.values import Kind, Origin, booleans, numbers
from tabwright.tables.cells import MISSING_MARKERS, to_levels, to_microseconds

InputDtype = Literal["float64", "int64", "string"]
# What numpy's NaT is as an integer.
MISSING_INTEGER = -(2**63)
# Distances from an origin up to it are exact in 64 bits.
EXACT = 2.0**62


@dataclass(frozen=True)
class GraphInput:
    """One raw column as a graph takes it, a tensor of shape (rows, 1).

    `name`: in the graph: the column's name, or `column_K` for a column without one.
    `column`: in the table.
    `position`: among the columns of the training table.
    """

    name: str
    column: str
    kind: Kind
    dtype: InputDtype
    position: int

    def describe(self) -> str:
        """What to pass, in a sentence."""
        if self.kind == "datetime":
            return "microseconds since 1970-01-01 00:00 UTC; -2**63 (NumPy's NaT) is missing"
        if self.kind == "boolean":
            return "0 for false, 1 for true; NaN is missing"
        if self.kind == "category":
            return (
                "text, with at most one space before and after it; empty text is missing, and so "
                "is what stood for a missing cell in training (as a rule NA, NaN, null and others)"
            )
        if self.dtype == "int64":
            return "an integer; -2**63 is missing"
        return "a number; NaN is missing"


def graph_inputs(plan: EncodingPlan) -> tuple[GraphInput, ...]:
    """The inputs of the graph: one per used column, in the order of the training table."""
    origins = dict(zip(plan.positions("numeric"), plan.origins, strict=True))
    taken = set(plan.names)
    inputs = []
    for position, (column, kind) in enumerate(zip(plan.names, plan.kinds, strict=True)):
        if kind == "unused":
            continue
        name = column
        while not name or (name != column and name in taken):
            name = f"{name or 'column'}_{position}"
        dtype: InputDtype = "float64"
        if kind == "category":
            dtype = "string"
        elif kind == "datetime" or _fits_int64(origins.get(position)):
            dtype = "int64"
        inputs.append(GraphInput(name, column, kind, dtype, position))
    return tuple(inputs)


def _fits_int64(origin: Origin) -> bool:
    return isinstance(origin, int) and -(2**63) < origin < 2**63


def graph_array(plan: EncodingPlan, column: GraphInput, series: pl.Series) -> NDArray[np.generic]:
    """A column of a table as its input takes it, of shape (n, 1).

    Raises `TableError` if a cell does not fit its column.
    """
    array: NDArray[np.generic]
    series = plan.typed(column.position, series)
    if column.kind == "category":
        category = plan.categories[plan.positions("category").index(column.position)]
        levels = to_levels(series, markers=category.markers)
        array = levels.fill_null("").to_numpy().astype(object)
    elif column.kind == "datetime":
        array = to_microseconds(series).fill_null(MISSING_INTEGER).to_numpy()
    elif column.kind == "boolean":
        array = (booleans(series) + 1.0) / 2.0
    elif column.dtype == "float64":
        array = numbers(series, None)
    else:
        origin = plan.origins[plan.positions("numeric").index(column.position)]
        assert isinstance(origin, int)
        array = _integers(numbers(series, origin), origin)
    return array[:, None]


def _integers(distance: NDArray[np.float64], origin: int) -> NDArray[np.int64]:
    """Integers from how far they are from the origin; NaN is missing."""
    lowest, highest = MISSING_INTEGER + 1, 2**63 - 1
    exact = np.nan_to_num(np.clip(distance, -EXACT, EXACT)).astype(np.int64)
    # Python's integers: the sum may leave 64 bits.
    total = [min(max(origin + step, lowest), highest) for step in exact.tolist()]
    return np.where(np.isnan(distance), MISSING_INTEGER, np.array(total, dtype=np.int64))


def with_spaces(text: str) -> Iterator[str]:
    """A text, and the text with a space on either side or both."""
    yield text
    yield f" {text}"
    yield f"{text} "
    yield f" {text} "


def missing_spellings(markers: Sequence[str] | None = None) -> list[str]:
    """Text that the graph takes for a missing category; by default the usual markers."""
    known = MISSING_MARKERS if markers is None else markers
    found = dict.fromkeys(spelling for marker in known for spelling in with_spaces(marker))
    return list(found)


def level_spellings(levels: Sequence[str]) -> dict[str, str]:
    """Text that the graph takes for levels, and the level that each means to the encoder too."""
    means: dict[str, str] = {}
    for level in levels:
        variants = (level, f"{level}.0", level.capitalize(), level.upper())
        for text in variants if level in ("true", "false") else variants[:2]:
            means |= dict.fromkeys(with_spaces(text), level)
    names = to_levels(pl.Series(means.keys(), dtype=pl.String))
    agreed = zip(means.items(), names.to_list(), strict=True)
    return {spelling: level for (spelling, level), name in agreed if name == level}
