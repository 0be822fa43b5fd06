"""Numbers for people, the same in messages, tables, reports and charts.

Thousands are separated from 1,000 on, but for values of a column that may be years. Cells of a
table stand as they are there.
"""

from __future__ import annotations

import math


def number_text(value: float | None, digits: int = 4) -> str:
    """A number with thousands separated and `digits` significant digits; "–" for none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    # Sums of weights that should be 1 are off by rounding.
    if abs(value - round(value)) <= 1e-12 * abs(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.{max(digits - 2, 1)}e}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{min(places, digits)}f}"


def cell_text(value: float, *, is_year: bool = False) -> str:
    """A value of a column as an end of a range, without zeros behind the point."""
    text = number_text(value)
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace(",", "") if is_year else text


def may_be_years(low: float, high: float) -> bool:
    """Whether values of a column between these may be years, which have no separators."""
    return 1_000 <= low <= high < 3_000
