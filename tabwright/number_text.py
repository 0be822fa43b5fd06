"""Numbers for people, the same in messages, tables, reports and charts.

Thousands are separated from 1,000 on. Values of a column of the table stand as they are there; on
axes and in ranges they are separated from 10,000 on, so that years stay years.
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


def cell_text(value: float) -> str:
    """A value of a column on an axis or as an end of a range: thousands from 10,000 on."""
    if float(value).is_integer() and abs(value) < 10_000:
        return f"{value:.0f}"
    text = number_text(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
