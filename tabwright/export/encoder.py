"""The encoder as ONNX nodes: from raw columns to the inputs of the networks.

Each step has its twin in `encoding/encoder.py`, `encoding/numeric.py`,
`encoding/calendar_cycles.py` or `encoding/layout.py`, in the same dtype and the same order, so that
values on the edge of a bin fall on the same side. What a graph is given for a cell is decided in
`export/inputs.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tabwright.encoding.calendar_cycles import CYCLES, Cycle
from tabwright.encoding.categorical import FIRST_LEVEL, MISSING, UNKNOWN, CategoryColumn
from tabwright.encoding.interactions import (
    LARGEST,
    Interaction,
    InteractionColumn,
    least_divisors,
)
from tabwright.encoding.layout import THIRD
from tabwright.encoding.numeric import NumericColumns
from tabwright.encoding.oblique import ObliqueColumn
from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.value_statistics import ValueStatistics
from tabwright.encoding.values import Kind
from tabwright.export.graph import ML_DOMAIN, Graph, floor_divide, piecewise_linear
from tabwright.export.inputs import (
    EXACT,
    MISSING_INTEGER,
    GraphInput,
    level_spellings,
    missing_spellings,
    with_spaces,
)

_MINUTE = 60_000_000
_DAY = 1_440 * _MINUTE


def _add_codes(graph: Graph, column: str, category: CategoryColumn) -> str:
    """Code of each value, of all levels with a code: int64 of shape (rows, 1)."""
    code_of = {level: code for code, level in enumerate(category.levels, start=FIRST_LEVEL)}
    if category.markers is None:
        means = level_spellings(category.levels)
    else:
        means = {text: level for level in category.levels for text in with_spaces(level)}
    keys = {text: code_of[level] for text, level in means.items()}
    keys.update(dict.fromkeys(missing_spellings(category.markers), MISSING))
    return graph.add(
        "LabelEncoder",
        column,
        domain=ML_DOMAIN,
        attributes={
            "keys_strings": list(keys),
            "values_int64s": list(keys.values()),
            "default_int64": UNKNOWN,
        },
    )


# ---------------------------------------------------------------------------------------------
# The compact form
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CompactNodes:
    """The compact form of the rows in a graph, by part; numbers with masks in place of NaN.

    `interactions`: NaN where they are missing. `sums`: 0 there.
    """

    numbers: list[str]
    missing: list[str]
    statistics: list[str]
    interactions: list[str]
    sums: list[str]
    codes: list[str]
    dates: tuple[str, str] | None


def add_encoder(graph: Graph, plan: EncodingPlan, inputs: Sequence[GraphInput]) -> CompactNodes:
    """Declare the inputs and encode them, as `TableEncoder.transform` does."""
    by_kind: dict[Kind, list[GraphInput]] = {}
    for column in inputs:
        graph.input(column.name, column.dtype, column.describe())
        by_kind.setdefault(column.kind, []).append(column)
    encoded_numbers, missing, by_value, interactions, sums = [], [], [], [], []
    values, absent = _add_values(graph, plan, by_kind)
    dates = _add_moments(graph, by_kind.get("datetime", []))
    if dates is not None:
        moments, no_moment = dates
        origins = graph.constant(np.array([plan.date_origins], dtype=np.float64))
        values.append(graph.add("Sub", graph.cast(moments, "float64"), origins))
        absent.append(no_moment)
    if values:
        mask = graph.concat(absent)
        encoded = _add_encoded(graph, plan, graph.concat(values), mask)
        by_value = [
            _add_value_statistics(graph, leaf, encoded, mask) for leaf in plan.value_statistics
        ]
        interactions = [
            _add_interaction(graph, column, plan.numbers, encoded, mask)
            for column in plan.interactions
        ]
        sums = [_add_oblique(graph, oblique, encoded, mask) for oblique in plan.obliques]
        encoded_numbers.append(encoded)
        missing.append(mask)
    if "boolean" in by_kind:
        switches = graph.concat([column.name for column in by_kind["boolean"]])
        off = graph.add("Equal", switches, graph.float64(0.0))
        encoded_numbers.append(graph.add("Where", off, graph.float32(-1.0), graph.float32(1.0)))
        missing.append(graph.add("IsNaN", switches))
    codes, statistics = [], []
    for column, category in zip(by_kind.get("category", []), plan.categories, strict=True):
        full = _add_codes(graph, column.name, category)
        if category.statistics is not None:
            table = graph.constant(np.ascontiguousarray(category.statistics))
            shape = graph.int64([0, category.statistics.shape[1]])
            statistics.append(graph.add("Reshape", graph.add("Gather", table, full), shape))
        if category.n_inputs < len(category.levels):
            shown = graph.add("Less", full, graph.int64(FIRST_LEVEL + category.n_inputs))
            full = graph.add("Where", shown, full, graph.int64(UNKNOWN))
        codes.append(full)
    return CompactNodes(
        numbers=encoded_numbers,
        missing=missing,
        statistics=[*statistics, *by_value],
        interactions=interactions,
        sums=sums,
        codes=codes,
        dates=dates,
    )


def add_expanded(graph: Graph, plan: EncodingPlan, rows: CompactNodes) -> str:
    """Network inputs, as `TableEncoder.expand` gives them.

    Returns: float32 of shape (rows, input_dim), finite.
    """
    zero = graph.float32(0.0)
    filled = [
        graph.add("Where", graph.add("IsNaN", column), zero, column) for column in rows.interactions
    ]
    blocks = _add_numeric_blocks(
        graph, plan, rows.numbers, rows.missing, rows.statistics, [*filled, *rows.sums]
    )
    if rows.dates is not None and plan.cycle_columns:
        blocks += _add_cycles(graph, plan, *rows.dates)
    if rows.codes:
        blocks.append(_add_levels(graph, plan, graph.concat(rows.codes)))
    return graph.concat(blocks)


def add_tree_features(
    graph: Graph, plan: EncodingPlan, rows: CompactNodes, interactions: Sequence[Interaction]
) -> str:
    """What trees see, as `tree_mix.tree_features` gives it.

    Returns: float32 of shape (rows, n_features); NaN where a number is missing.
    """
    blocks = []
    if rows.numbers:
        values, missing = graph.concat(rows.numbers), graph.concat(rows.missing)
        blocks.append(graph.add("Where", missing, graph.float32(np.nan), values))
    codes = list(rows.codes)
    if rows.dates is not None and plan.cycle_columns:
        codes += [places for _, places in _cycle_codes(graph, plan, *rows.dates)]
    blocks += [*rows.statistics, *rows.interactions]
    blocks += [graph.cast(column, "float32") for column in codes]
    if interactions:
        blocks.append(_add_interactions(graph, plan.numbers, rows, interactions))
    return graph.concat(blocks)


def _add_interactions(
    graph: Graph, numbers: NumericColumns, rows: CompactNodes, interactions: Sequence[Interaction]
) -> str:
    """`interaction_values`: float32 of shape (rows, n_interactions)."""
    values, missing = graph.concat(rows.numbers), graph.concat(rows.missing)
    blocks = []
    for _, group in groupby(interactions, key=lambda interaction: interaction.kind):
        clipped, unknown = _add_clipped(graph, numbers, values, missing, tuple(group))
        clipped = graph.cast(clipped, "float32")
        blocks.append(graph.add("Where", unknown, graph.float32(np.nan), clipped))
    return graph.concat(blocks)


def _add_clipped(
    graph: Graph,
    numbers: NumericColumns,
    values: str,
    missing: str,
    interactions: Sequence[Interaction],
) -> tuple[str, str]:
    """Interactions of one kind within float32, and where they are missing.

    Returns: float64 and bool, both of shape (rows, n_interactions).
    """
    kind = interactions[0].kind
    firsts, seconds = zip(*((pair.first, pair.second) for pair in interactions), strict=True)
    one, two = (_add_numbers(graph, numbers, values, side) for side in (firsts, seconds))
    unknown = graph.add("Or", graph.columns(missing, firsts), graph.columns(missing, seconds))
    if kind == "sum":
        result = graph.add("Add", one, two)
    elif kind == "difference":
        result = graph.add("Sub", one, two)
    elif kind == "product":
        result = graph.add("Mul", one, two)
    else:
        least = graph.constant(least_divisors(numbers)[list(seconds)][None])
        is_zero = graph.add("LessOrEqual", graph.add("Abs", two), least)
        unknown = graph.add("Or", unknown, is_zero)
        divisor = graph.add("Where", is_zero, graph.float64(1.0), two)
        result = graph.add("Div", one, divisor)
    unknown = graph.add("Or", unknown, graph.add("IsNaN", result))
    clipped = graph.add("Max", result, graph.float64(-LARGEST))
    return graph.add("Min", clipped, graph.float64(LARGEST)), unknown


def _add_interaction(
    graph: Graph, column: InteractionColumn, numbers: NumericColumns, values: str, missing: str
) -> str:
    """`InteractionColumn.encode`: float32 of shape (rows, 1)."""
    clipped, unknown = _add_clipped(graph, numbers, values, missing, (column.interaction,))
    centred = graph.add("Sub", clipped, graph.float64(column.centre))
    total = _add_smooth_float64(graph, graph.add("Mul", centred, graph.float64(column.scale)))
    return graph.add("Where", unknown, graph.float32(np.nan), graph.cast(total, "float32"))


def _add_numbers(graph: Graph, numbers: NumericColumns, values: str, places: Sequence[int]) -> str:
    """Numbers before they were scaled: float64 of shape (rows, n_places)."""
    columns = graph.cast(graph.columns(values, places), "float64")
    scale, centre = (vector[list(places)][None] for vector in (numbers.scale, numbers.centre))
    return graph.add(
        "Add", graph.add("Div", columns, graph.constant(scale)), graph.constant(centre)
    )


def _add_values(
    graph: Graph, plan: EncodingPlan, by_kind: dict[Kind, list[GraphInput]]
) -> tuple[list[str], list[str]]:
    """Numeric columns less their origins, float64, and where they are missing."""
    values, absent = [], []
    for column, origin in zip(by_kind.get("numeric", []), plan.origins, strict=True):
        value = column.name
        if column.dtype == "int64":
            absent.append(graph.add("Equal", value, graph.int64(MISSING_INTEGER)))
            assert isinstance(origin, int)
            value = _add_distance(graph, value, origin)
        else:
            absent.append(graph.add("IsNaN", value))
            if origin is not None:
                value = graph.add("Sub", value, graph.float64(float(origin)))
        values.append(value)
    return values, absent


def _add_distance(graph: Graph, value: str, origin: int) -> str:
    """`value - origin` of int64 as float64: exact, and approximate where 64 bits overflow."""
    rough = graph.add("Sub", graph.cast(value, "float64"), graph.float64(float(origin)))
    exact = graph.cast(graph.add("Sub", value, graph.int64(origin)), "float64")
    fits = graph.add("Less", graph.add("Abs", rough), graph.float64(EXACT))
    return graph.add("Where", fits, exact, rough)


def _add_moments(graph: Graph, columns: Sequence[GraphInput]) -> tuple[str, str] | None:
    """Moments, missing ones as 0, and where they are missing."""
    if not columns:
        return None
    moments = graph.concat([column.name for column in columns])
    absent = graph.add("Equal", moments, graph.int64(MISSING_INTEGER))
    return graph.add("Where", absent, graph.int64(0), moments), absent


def _add_encoded(graph: Graph, plan: EncodingPlan, values: str, missing: str) -> str:
    """`NumericColumns.encode` of all columns, float32; missing ones as anything finite."""
    fitted = plan.numbers

    def row(vector: NDArray[np.float64]) -> str:
        return graph.constant(np.ascontiguousarray(vector[None]))

    known = graph.add("Where", missing, row(fitted.centre), values)
    clipped = graph.add("Min", graph.add("Max", known, row(fitted.lower)), row(fitted.upper))
    centred = graph.add("Sub", clipped, row(fitted.centre))
    scaled = graph.add("Mul", centred, row(fitted.scale))
    if len(fitted.knots):
        borders = fitted.knot_offsets[1:-1]
        knots = np.split(fitted.knots, borders)
        mapped = piecewise_linear(graph, scaled, knots, np.split(fitted.scores, borders))
        has_map = graph.constant(np.array([[len(part) > 0 for part in knots]]))
        scaled = graph.add("Where", has_map, mapped, scaled)
    return graph.cast(scaled, "float32")


def _add_value_statistics(graph: Graph, leaf: ValueStatistics, encoded: str, missing: str) -> str:
    """Target statistics of a numeric column: float32 of shape (rows, n_targets)."""
    value = graph.columns(encoded, [leaf.source])
    reached = graph.add("GreaterOrEqual", value, graph.constant(leaf.cuts[None]))
    place = graph.add("Add", graph.sum(graph.cast(reached, "int64"), 1), graph.int64(1))
    absent = graph.add("Squeeze", graph.columns(missing, [leaf.source]), graph.int64([1]))
    row = graph.add("Where", absent, graph.int64(0), place)
    return graph.add("Gather", graph.constant(np.ascontiguousarray(leaf.table)), row)


def _add_oblique(graph: Graph, oblique: ObliqueColumn, encoded: str, missing: str) -> str:
    """`ObliqueColumn.encode`, 0 where a column is missing: float32 of shape (rows, 1)."""
    places = [oblique.first, oblique.second]
    terms = []
    for place, weight in zip(places, oblique.weights, strict=True):
        value = graph.cast(graph.columns(encoded, [place]), "float64")
        value = _add_smooth_float64(graph, value)
        terms.append(graph.add("Mul", value, graph.float64(weight)))
    centred = graph.add("Sub", graph.add("Add", *terms), graph.float64(oblique.centre))
    total = _add_smooth_float64(graph, graph.add("Mul", centred, graph.float64(oblique.scale)))
    absent = graph.add("Or", *(graph.columns(missing, [place]) for place in places))
    return graph.add("Where", absent, graph.float32(0.0), graph.cast(total, "float32"))


def _add_smooth_float64(graph: Graph, value: str) -> str:
    """`pair_columns.smooth`."""
    square = graph.add("Div", graph.add("Mul", value, value), graph.float64(9.0))
    root = graph.add("Sqrt", graph.add("Add", square, graph.float64(1.0)))
    return graph.add("Div", value, root)


# ---------------------------------------------------------------------------------------------
# The expansion
# ---------------------------------------------------------------------------------------------


def _add_numeric_blocks(
    graph: Graph,
    plan: EncodingPlan,
    numbers: list[str],
    missing: list[str],
    statistics: list[str],
    pairs: list[str],
) -> list[str]:
    """Values, bins and missing indicators, as `Layout.expand` orders them."""
    layout = plan.layout
    blocks = []
    if numbers:
        mask = graph.concat(missing)
        filled = graph.add("Where", mask, graph.float32(0.0), graph.concat(numbers))
        n_encoded, n_own = layout.n_encoded, plan.n_own
        if layout.keep_value and n_encoded:
            encoded = graph.columns(filled, np.arange(n_encoded))
            blocks.append(_add_smooth(graph, encoded) if layout.smooth else encoded)
        if n_own > n_encoded:
            blocks.append(graph.columns(filled, np.arange(n_encoded, n_own)))
    blocks += [*statistics, *pairs]
    if len(layout.bin_source):
        source, values = layout.bin_source, filled
        if pairs:
            # Bins are of the table's own columns, then of pairs of them, which stand last.
            values = graph.concat([filled, *pairs])
            is_pair = source >= plan.n_own
            source = np.where(is_pair, source - layout.n_numeric + len(pairs) + plan.n_own, source)
        part = graph.columns(values, source)
        part = graph.add("Sub", part, graph.constant(layout.bin_left[None]))
        part = graph.add("Mul", part, graph.constant(layout.bin_inverse[None]))
        blocks.append(graph.add("Clip", part, graph.float32(0.0), graph.float32(1.0)))
    if len(layout.missing):
        blocks.append(graph.cast(graph.columns(mask, layout.missing), "float32"))
    return blocks


def _add_smooth(graph: Graph, value: str) -> str:
    third = graph.add("Mul", value, graph.float32(THIRD))
    square = graph.add("Add", graph.add("Mul", third, third), graph.float32(1.0))
    return graph.add("Div", value, graph.add("Sqrt", square))


def _add_cycles(graph: Graph, plan: EncodingPlan, moments: str, missing: str) -> list[str]:
    """Sines and cosines of the places in calendar cycles; 0 for missing moments."""
    blocks = []
    for cycle, codes in _cycle_codes(graph, plan, moments, missing):
        table = cycle.table()
        found = graph.add("Gather", graph.constant(table), codes)
        n_dates = sum(other is cycle for other, _, _ in plan.cycle_columns)
        blocks.append(graph.add("Reshape", found, graph.int64([0, n_dates * table.shape[1]])))
    return blocks


def _cycle_codes(
    graph: Graph, plan: EncodingPlan, moments: str, missing: str
) -> Iterator[tuple[Cycle, str]]:
    """Places in each cycle from 1, 0 where missing: int64 of shape (rows, n_dates)."""
    for cycle in CYCLES:
        dates = [date for other, date, _ in plan.cycle_columns if other is cycle]
        if not dates:
            continue
        one = graph.int64(1)
        places = graph.add("Add", _add_place(graph, cycle.name, graph.columns(moments, dates)), one)
        absent = graph.columns(missing, dates)
        yield cycle, graph.add("Where", absent, graph.int64(0), places)


def _add_place(graph: Graph, cycle: str, moments: str) -> str:
    """`calendar_cycles.cycle_codes` less 1."""

    def minus(left: str, right: str) -> str:
        return graph.add("Sub", left, right)

    def times(value: str, factor: int) -> str:
        return graph.add("Mul", value, graph.int64(factor))

    def plus(value: str, term: int) -> str:
        return graph.add("Add", value, graph.int64(term))

    def over(value: str, divisor: int) -> str:
        # Of values that are not negative: rounding towards zero rounds down.
        return graph.add("Div", value, graph.int64(divisor))

    if cycle == "time of day":
        return over(graph.add("Mod", moments, graph.int64(_DAY)), _MINUTE)
    days = floor_divide(graph, moments, _DAY)
    if cycle == "weekday":
        return graph.add("Mod", plus(days, 3), graph.int64(7))
    shifted = plus(days, 719_468)
    day_of_era = graph.add("Mod", shifted, graph.int64(146_097))
    year = minus(day_of_era, over(day_of_era, 1_460))
    year = graph.add("Add", year, over(day_of_era, 36_524))
    year = over(minus(year, over(day_of_era, 146_096)), 365)
    so_far = minus(graph.add("Add", times(year, 365), over(year, 4)), over(year, 100))
    day_of_year = minus(day_of_era, so_far)
    if cycle == "day of year":
        return day_of_year
    month = over(plus(times(day_of_year, 5), 2), 153)
    return minus(day_of_year, over(plus(times(month, 153), 2), 5))


def _add_levels(graph: Graph, plan: EncodingPlan, codes: str) -> str:
    """One input per level: float32, one 1 in the part of each column."""
    layout = plan.layout
    start = layout.stops[3]
    width = layout.input_dim - start
    floor = graph.constant(layout.level_floor.astype(np.int64)[None])
    shift = graph.constant(layout.level_start[None] - start)
    index = graph.add("Add", graph.add("Max", codes, floor), shift)
    shape = graph.add("Shape", codes)
    rows = graph.add("Gather", shape, graph.int64([0]))
    empty = graph.concat([rows, graph.int64([width])], axis=0)
    return graph.add(
        "ScatterElements",
        graph.add("Expand", graph.float32(0.0), empty),
        index,
        graph.add("Expand", graph.float32(1.0), shape),
        attributes={"axis": 1},
    )
