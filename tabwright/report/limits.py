"""What a model cannot know, in words, from what its file records."""

from __future__ import annotations

import numpy as np

from tabwright.encoding.plan import EncodingPlan
from tabwright.inference.fitted_model import FittedModel
from tabwright.number_text import cell_text, may_be_years
from tabwright.tables.column_names import listed


def limits(fitted: FittedModel) -> tuple[str, ...]:
    """Sentences for a model's card.

    Returns: only what the file records, or what holds for every model of ours.
    """
    plan = fitted.encoder.plan_
    found = [_rows(fitted), *_columns(plan)]
    if fitted.classes is not None:
        found.append(f"It knows no class but its {len(fitted.classes)}.")
    elif fitted.target is not None:
        low, high = fitted.target.low, fitted.target.high
        is_year = may_be_years(low, high)
        ends = " to ".join(cell_text(end, is_year=is_year) for end in (low, high))
        found.append(f"Its values stay within those of training, {ends}.")
    if "test" not in fitted.metrics:
        found.append(
            "Its file has no scores of test rows: expect worse than on the "
            "validation rows, which chose the epoch."
        )
    found.append(
        "It says what goes together in those rows, not what comes of a change: no cause can be "
        "read off it."
    )
    return tuple(found)


def _rows(fitted: FittedModel) -> str:
    count = fitted.card.get("n_training_rows")
    rows = f"the {count:,} rows" if isinstance(count, int) else "the rows"
    return f"It answers any row, however unlike {rows} it was fitted on."


def _columns(plan: EncodingPlan) -> list[str]:
    """What the training rows had, by kind of column."""
    found = []
    names = {kind: [plan.names[i] for i in plan.positions(kind)] for kind in plan.kinds}
    numbers, dates = names.get("numeric", []), names.get("datetime", [])
    if numbers:
        found.append(
            "Numbers further past the range of those rows than that range is long count as if "
            "they were not further."
        )
    for j, name in enumerate(dates):
        start, end = _period(plan, len(numbers) + j, j)
        found.append(f"Of {name!r} it has seen {start} to {end}.")
    categories = names.get("category", [])
    if categories:
        known = [
            f"{name} ({len(category.levels)})"
            for name, category in zip(categories, plan.categories, strict=True)
        ]
        found.append(
            "Levels that it does not know count as one and the same; it knows of "
            f"{listed(known, quoted=False)}."
        )
    owners = [*numbers, *dates, *names.get("boolean", [])]
    whole = [n for n, gaps in zip(owners, plan.had_missing.tolist(), strict=True) if not gaps]
    whole += [
        name
        for name, category in zip(categories, plan.categories, strict=True)
        if not category.has_missing
    ]
    if whole:
        found.append(f"It has seen no missing cell in {listed(whole)}.")
    return found


def _period(plan: EncodingPlan, column: int, date: int) -> tuple[str, str]:
    """First and last day of a date column among the training rows."""
    # Elapsed times are clipped to their range.
    edges = (plan.numbers.lower[column], plan.numbers.upper[column])
    days = [
        np.datetime64(plan.date_origins[date] + round(float(edge)), "us").astype("datetime64[D]")
        for edge in edges
    ]
    return str(days[0]), str(days[1])
