"""What was done with each column of a table, in words: from the encoder's plan.

The plan is the truth; what the profile of the table noted (missing cells, reasons) is added where
the model's card has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabwright.encoding.plan import EncodingPlan
from tabwright.encoding.values import KINDS, Kind

_SCALING = {
    "standard": "centred by its mean and scaled by its standard deviation",
    "robust": "centred by its median, scaled by the range of its middle half, large values bent",
    "quantile_normal": "ranks as normal scores",
    "quantile_ple": "piecewise-linear bins between quantiles",
    "tree_ple": "piecewise-linear bins between thresholds that a tree found on the target",
}


@dataclass(frozen=True)
class ColumnTreatment:
    """One column and its way into the network.

    `kind`: how it is encoded: "numeric", "boolean", "category", "datetime" or "unused".
    `role`: what the column was taken for; the kind where the card does not say.
    `dtype`: type in the training table; empty where the card does not say.
    `n_missing`, `n_unique`: in the training table, before its validation rows were set aside.
    `n_inputs`: network inputs made of it.
    `text`: what was done, or why it was set aside.
    """

    name: str
    kind: Kind
    role: str
    dtype: str
    n_missing: int | None
    n_unique: int | None
    n_inputs: int
    text: str

    @property
    def used(self) -> bool:
        """Whether the network sees it."""
        return self.kind != "unused"


def column_treatments(
    plan: EncodingPlan, columns: Sequence[Mapping[str, Any]] = ()
) -> tuple[ColumnTreatment, ...]:
    """What the encoder makes of each column, in the order of the training table.

    `columns`: the profile of the training table (`FittedModel.card["columns"]`).
    """
    inputs = np.bincount([owner for _, owner in plan.inputs], minlength=len(plan.names))
    noted = {str(column.get("name")): column for column in columns}
    texts = _texts(plan)
    treatments = []
    for position, (name, kind) in enumerate(zip(plan.names, plan.kinds, strict=True)):
        seen = noted.get(name, {})
        note = str(seen.get("note") or "")
        text = texts.get(position, "")
        if kind == "unused":
            text = note or "set aside"
        elif note:
            text = f"{text}; {note}" if text else note
        treatments.append(
            ColumnTreatment(
                name=name,
                kind=kind,
                role=str(seen.get("role") or kind),
                dtype=str(seen.get("dtype") or ""),
                n_missing=_count(seen.get("n_missing")),
                n_unique=_count(seen.get("n_unique")),
                n_inputs=int(inputs[position]),
                text=text,
            )
        )
    return tuple(treatments)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(plan: EncodingPlan) -> dict[int, str]:
    """What was done with the columns in use, by place."""
    texts: dict[int, str] = {}
    places: dict[Kind, list[int]] = {kind: plan.positions(kind) for kind in KINDS}
    encoded = [*places["numeric"], *places["datetime"]]
    missing = dict(zip([*encoded, *places["boolean"]], plan.had_missing.tolist(), strict=True))
    bins = np.maximum(np.diff(plan.numbers.edge_offsets) - 1, 0)
    for column, place in enumerate(encoded):
        text = _SCALING[plan.numbers.encoding]
        if bins[column]:
            text = f"{bins[column]} {text}"
            if bins[column] == 1:
                text = text.replace("bins", "bin")
            if plan.numbers.keep_value:
                text += ", and the value itself"
        texts[place] = text
    for leaf in plan.value_statistics:
        what = " and ".join(plan.leaf_statistics)
        texts[encoded[leaf.source]] += f"; {what} in each of {len(leaf.cuts) + 1} ranges of values"
    for pair in plan.pairs:
        # Both columns say so; the first is the one whose inputs count those of the pair.
        for place in (pair.first, pair.second):
            n_bins = max(len(pair.edges) - 1, 0)
            in_bins = {0: "", 1: " in 1 bin"}.get(n_bins, f" in {n_bins} bins")
            texts[encoded[place]] += f"; {plan.pair_name(pair)}{in_bins}"
    for date, place in enumerate(places["datetime"]):
        cycles = [cycle.name for cycle, of_date, _ in plan.cycle_columns if of_date == date]
        turns = f"; {', '.join(cycles)} as sines and cosines" if cycles else ""
        texts[place] = f"time elapsed: {texts[place]}{turns}"
    for place in places["boolean"]:
        texts[place] = "−1 for no, 1 for yes"
    for category, place in zip(plan.categories, places["category"], strict=True):
        n_rest = len(category.levels) - category.n_inputs
        levels = "one level" if category.n_inputs == 1 else f"each of {category.n_inputs:,} levels"
        text = "one input for rare and unknown levels"
        if category.n_inputs:
            text = f"one input for {levels}, one for rare and unknown ones"
        if category.statistics is not None:
            what = " and ".join(plan.statistic_names) or "counts"
            text += f"; per level {what}, for {n_rest:,} further level{'s' * (n_rest != 1)} too"
        if category.has_missing:
            text += "; one input for missing"
        texts[place] = text
    for place, had in missing.items():
        if had:
            texts[place] += "; an input says where it was missing"
    return texts
