"""One row, fast: the scalar twin of `TableEncoder.transform`.

Building a frame of one row costs more than encoding it, and so do the operations on its columns.
`RowEncoder` holds one function per column, made once; each writes its part of the row's compact
form. Cells of plain Python types are converted here, with the same float64 operations as the
batch path; any other cell goes through the batch path as a series of length one.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from tabwright.encoding.calendar_cycles import cycle_codes
from tabwright.encoding.categorical import FIRST_LEVEL, MISSING, UNKNOWN, CategoryColumn
from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.values import Origin, booleans, moment, numbers, one
from tabwright.tables.cells import MISSING_MARKERS, NUMERIC_MARKERS

_Step = Callable[[Any, list[float], list[int]], None]

# Columns whose cells, as Python values, mean what the column means. Others lose something: a
# float32 its digits as text, a time its nanoseconds.
_PLAIN_DTYPES = frozenset(
    (
        *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
        *(pl.Float64, pl.Boolean, pl.String, pl.Null, pl.Date, pl.Datetime("us")),
    )
)
# Text that reads the same to every parser: digits, few enough to be exact as an integer.
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
# An integer whose text is its canonical name.
_OWN_NAME = re.compile(r"-?[1-9][0-9]{0,14}")
_NO_NUMBERS = frozenset((*MISSING_MARKERS, *NUMERIC_MARKERS))


class RowEncoder:
    """The scalar path: one function per column, made once, that fills in a row's compact form.

    A cell of a plain Python type is converted here; any other cell goes through the batch path as
    a series of length one.
    """

    def __init__(self, plan: EncodingPlan) -> None:
        self._plan = plan
        self._known = frozenset((*plan.names, plan.target_name))
        self._n_numeric, self._n_codes = plan.layout.n_numeric, plan.n_codes
        steps: list[tuple[int, _Step]] = []
        for at, (position, origin) in enumerate(
            zip(plan.positions("numeric"), plan.origins, strict=True)
        ):
            steps.append((position, self._number(at, plan.names[position], origin)))
        at = len(steps)
        for date, position in enumerate(plan.positions("datetime")):
            steps.append((position, self._date(at + date, plan.names[position], date)))
        at = len(steps)
        for place, position in enumerate(plan.positions("boolean"), start=at):
            steps.append((position, _boolean(place, plan.names[position])))
        at = plan.n_own
        for j, position in enumerate(plan.positions("category")):
            category = plan.categories[j]
            steps.append((position, _category(j, at, plan.names[position], category)))
            at += 0 if category.statistics is None else category.statistics.shape[1]
        self._leaves = []
        for leaf in plan.value_statistics:
            part = slice(at, at + leaf.width)
            self._leaves.append((leaf.source, part, leaf.cuts.tolist(), leaf.table.tolist()))
            at += leaf.width
        self._pairs = [
            (place, pair.first, pair.second, pair.scalar)
            for place, pair in enumerate(plan.pairs, start=at)
        ]
        steps = [
            (position, self._formatted(position, step) if position in plan.formats else step)
            for position, step in steps
        ]
        # In the order of the table, so that the first wrong cell is the one reported.
        self._steps = [(plan.names[position], step) for position, step in sorted(steps, key=_first)]

    def frame_cells(self, frame: pl.DataFrame) -> dict[str, Any]:
        """The cells of a frame of one row, as `encode_cells` takes them."""
        names = frame.columns if self._plan.named else self._plan.names
        values, dtypes = frame.row(0), frame.dtypes
        cells = dict(zip(names, values, strict=True))
        for position, (name, dtype, value) in enumerate(zip(names, dtypes, values, strict=True)):
            if dtype in _PLAIN_DTYPES:
                # A missing moment still is one, which a number's column refuses.
                plain = value is not None or not dtype.is_temporal()
            else:
                plain = isinstance(dtype, pl.Categorical | pl.Enum)
            if not plain:
                cells[name] = frame.to_series(position)
        return cells

    def encode(self, row: Mapping[str, Any]) -> tuple[list[float], list[int]]:
        """The compact form of one row: n_numeric values that a float32 holds, and n_codes codes.

        `row`: cell by column name.
        Raises `TableError` if columns are missing, or a cell does not fit its column.
        """
        try:
            compact = self.encode_cells(row)
        except KeyError:
            self._plan.check_names(row)
            raise
        if not self._known.issuperset(row):
            self._plan.check_names(row)
        return compact

    def encode_cells(self, row: Mapping[str, Any]) -> tuple[list[float], list[int]]:
        """`encode` of a row whose columns have been checked.

        A cell may also be a series of length one, where no Python object means what it holds.
        """
        numeric = [math.nan] * self._n_numeric
        codes = [0] * self._n_codes
        for name, step in self._steps:
            step(row[name], numeric, codes)
        # Rounded as a table's are: a step of a narrow bin may hang on the last digit.
        rounded: list[float] = np.array(numeric, dtype=np.float32).tolist()
        for source, part, cuts, table in self._leaves:
            value = rounded[source]
            rounded[part] = table[bisect_right(cuts, value) + 1 if value == value else 0]
        if self._pairs:
            for place, first, second, combined in self._pairs:
                numeric[place] = combined(rounded[first], rounded[second])
            pairs = slice(self._pairs[0][0], None)
            rounded[pairs] = np.array(numeric[pairs], dtype=np.float32).tolist()
        return rounded, codes

    def _formatted(self, position: int, inner_step: _Step) -> _Step:
        """A step for a column whose text has a format of its own."""
        plan, name = self._plan, self._plan.names[position]
        if plan.kinds[position] == "category":
            return inner_step

        def step(value: Any, numeric: list[float], codes: list[int]) -> None:
            if value is not None:
                value = plan.typed(position, one(name, value))[0]
            inner_step(value, numeric, codes)

        return step

    def _number(self, at: int, name: str, origin: Origin) -> _Step:
        """The step that encodes a number, without polars for plain ints, floats and text."""
        encode = self._plan.numbers.scalar(at)
        exact = origin if isinstance(origin, int) else None
        plain = origin is None or exact is not None

        def step(value: Any, numeric: list[float], codes: list[int]) -> None:
            kind = type(value)
            if kind is float and origin is None:
                if value == value:
                    numeric[at] = encode(value)
            elif kind is int and plain and -(2**63) <= value < 2**63:
                numeric[at] = encode(float(value if exact is None else value - exact))
            elif kind is str and origin is None and _PLAIN_NUMBER.fullmatch(value):
                numeric[at] = encode(float(value) + 0.0)
            elif value is not None and not (kind is str and value in _NO_NUMBERS):
                number = float(numbers(one(name, value), origin)[0])
                if number == number:
                    numeric[at] = encode(number)

        return step

    def _date(self, at: int, name: str, date: int) -> _Step:
        """The step that encodes a date and its cycles."""
        encode = self._plan.numbers.scalar(at)
        start = float(self._plan.date_origins[date])
        cycles = [(cycle.name, code) for cycle, d, code in self._plan.cycle_columns if d == date]

        def step(value: Any, numeric: list[float], codes: list[int]) -> None:
            when = moment(name, value)
            if when is not None:
                numeric[at] = encode(float(when) - start)
                for cycle, code in cycles:
                    codes[code] = cycle_codes(cycle, when)

        return step


def _boolean(at: int, name: str) -> _Step:
    """The step that encodes a boolean."""

    def step(value: Any, numeric: list[float], codes: list[int]) -> None:
        if value is True:
            numeric[at] = 1.0
        elif value is False:
            numeric[at] = -1.0
        elif value is not None:
            numeric[at] = float(booleans(one(name, value))[0])

    return step


def _category(j: int, at: int, name: str, category: CategoryColumn) -> _Step:
    """The step that encodes a level, and its statistics of the target."""
    table = {level: code for code, level in enumerate(category.levels, start=FIRST_LEVEL)}
    last = FIRST_LEVEL + category.n_inputs
    statistics = category.statistics
    known = table if category.markers is None else {}
    rows: list[list[float]] | None = None
    width = 0
    if statistics is not None:
        rows, width = statistics.tolist(), statistics.shape[1]

    def step(value: Any, numeric: list[float], codes: list[int]) -> None:
        # Text as written is looked up below, since no canonical name says what is missing.
        code = _known_code(value, table) if known or type(value) is not str else None
        if code is None:
            code = int(category.codes_of_cells(one(name, value))[0])
        codes[j] = code if code < last else UNKNOWN
        if rows is not None:
            numeric[at : at + width] = rows[code]

    return step


def _known_code(value: Any, table: Mapping[str, int]) -> int | None:
    """The code of a cell whose level is plain to see, else None.

    The levels of the table are canonical names, so text that is one of them is that level. Any
    other text is unknown if it is its own name: text that begins with a letter and is neither
    boolean nor infinity, and integers as they are written by default.
    """
    kind = type(value)
    if kind is str:
        code = table.get(value)
        # Of all white space only the common one is printable.
        if code is None and value.isprintable():
            text = value.strip(" ")
            code = table.get(text)
            if code is None:
                if text in MISSING_MARKERS:
                    return MISSING
                if text[0].isalpha():
                    lower = text.lower()
                    if not lower.startswith("inf") and lower not in ("true", "false"):
                        return UNKNOWN
                elif _OWN_NAME.fullmatch(text):
                    return UNKNOWN
        return code
    if value is None:
        return MISSING
    if kind is bool:
        return table.get("true" if value else "false", UNKNOWN)
    if kind is int:
        return table.get(str(value), UNKNOWN)
    if kind is float and value.is_integer() and abs(value) < 2**53:
        return table.get(str(int(value)), UNKNOWN)
    return None


def _first(step: tuple[int, _Step]) -> int:
    return step[0]
