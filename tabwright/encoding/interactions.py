"""Sums, differences, products and ratios of two numeric columns: what takes trees many splits.

`Interaction` says of which two columns; `interaction_values` computes them from encoded rows. Which
ones a table needs is `distillation/interaction_search.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader
from tabwright.encoding.numeric import NumericColumns

InteractionKind = Literal["sum", "difference", "product", "ratio"]
INTERACTION_KINDS: tuple[InteractionKind, ...] = get_args(InteractionKind)
# Of a model, in this format of the artifact.
MOST_INTERACTIONS: Final = 64
# Of the distance between 0 and the centre: eight times what float32 loses.
_ROUNDING: Final = 2.0**-21
LARGEST: Final = float(np.finfo(np.float32).max)

Values = NDArray[np.float64]


class Interaction(NamedTuple):
    """Two numeric columns, by their places in the compact form, and what is made of them.

    `kind`: what is made of the first and the second, in this order.
    """

    kind: InteractionKind
    first: int
    second: int

    def of(self, one: Values, two: Values, least: float) -> Values:
        """Values of rows; a ratio to what is at most `least` from 0 is missing."""
        if self.kind == "sum":
            return one + two
        if self.kind == "difference":
            return one - two
        if self.kind == "product":
            return one * two
        is_zero = np.abs(two) <= least
        return np.where(is_zero, np.nan, one / np.where(is_zero, 1.0, two))


def may_interact(numbers: NumericColumns) -> NDArray[np.bool_]:
    """Columns whose values can be had back from the compact form: (n_columns,)."""
    is_linear: NDArray[np.bool_] = np.diff(numbers.knot_offsets) == 0
    return is_linear & (numbers.scale > 0)


def least_divisors(numbers: NumericColumns) -> Values:
    """What 0 may have become in each column, since the compact form is float32: (n_columns,)."""
    return np.abs(numbers.centre) * _ROUNDING


def interaction_values(
    interactions: Sequence[Interaction], numbers: NumericColumns, numeric: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interactions of encoded rows.

    `numeric`: (n, n_numeric), float32; of the compact form; NaN is missing.
    Returns: (n, n_interactions), float32; NaN where a column is missing, and for ratios to 0.
    """
    values = np.empty((len(numeric), len(interactions)), dtype=np.float32)
    if not interactions:
        return values
    used = sorted(
        {place for interaction in interactions for place in (interaction.first, interaction.second)}
    )
    least = least_divisors(numbers)
    # Very large numbers and their products may be infinite before they are clipped.
    with np.errstate(over="ignore", invalid="ignore"):
        columns = {
            place: numeric[:, place].astype(np.float64) / numbers.scale[place]
            + numbers.centre[place]
            for place in used
        }
        for k, interaction in enumerate(interactions):
            result = interaction.of(
                columns[interaction.first],
                columns[interaction.second],
                float(least[interaction.second]),
            )
            values[:, k] = np.clip(result, -LARGEST, LARGEST)
    return values


def interactions_to_state(interactions: Sequence[Interaction]) -> list[dict[str, Any]]:
    """What the document of the artifact says of them."""
    return [
        {"kind": interaction.kind, "first": interaction.first, "second": interaction.second}
        for interaction in interactions
    ]


def interactions_from_state(
    document: Reader, key: str, numbers: NumericColumns
) -> tuple[Interaction, ...]:
    """Read interactions back and check them.

    Raises `ArtifactError` if a column is none of the table's numbers, or cannot be had back from
        its encoding, or is combined with itself.
    """
    able = may_interact(numbers)
    found = []
    for entry in document.children(key, max_length=MOST_INTERACTIONS):
        interaction = Interaction(
            entry.choice("kind", INTERACTION_KINDS),
            entry.integer("first", low=0, high=len(numbers) - 1),
            entry.integer("second", low=0, high=len(numbers) - 1),
        )
        for place in ("first", "second"):
            if not able[getattr(interaction, place)]:
                raise entry.fail(place, "a column of linear encoding that varies")
        if interaction.first == interaction.second:
            raise entry.fail("second", "another column than the first")
        entry.done()
        found.append(interaction)
    return tuple(found)
