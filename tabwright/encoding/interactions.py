"""Sums, differences, products and ratios of two numeric columns: what single columns do not show.

`Interaction` says of which two columns; an `InteractionColumn` is such a column of the compact
form, with bins of its own. Which ones a table needs is `distillation/interaction_search.py`'s
affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from tabwright.artifact.schema import Reader, TensorBag
from tabwright.encoding.numeric import NumericColumns, fit_numeric, strict_edges
from tabwright.encoding.pair_columns import (
    LARGEST_SCALE,
    MOST_PAIRS,
    Values,
    edges_from_state,
    edges_to_state,
    smooth,
    smooth_one,
)
from tabwright.encoding.supervised.tree_thresholds import (
    TreeTarget,
    fewest_rows,
    tree_index,
    tree_thresholds,
)
from tabwright.errors import ArtifactError

InteractionKind = Literal["sum", "difference", "product", "ratio"]
INTERACTION_KINDS: tuple[InteractionKind, ...] = get_args(InteractionKind)
# Of the distance between 0 and the centre: eight times what float32 loses.
_ROUNDING: Final = 2.0**-21
LARGEST: Final = float(np.finfo(np.float32).max)
_Number = TypeVar("_Number", Values, float)


class Interaction(NamedTuple):
    """Two numeric columns, by their places in the compact form, and what is made of them.

    `kind`: what is made of the first and the second, in this order.
    """

    kind: InteractionKind
    first: int
    second: int

    def of(self, one: Values, two: Values, least: float) -> Values:
        """Values of rows; a ratio to what is at most `least` from 0 is missing."""
        if self.kind != "ratio":
            return self._of_either(one, two)
        is_zero = np.abs(two) <= least
        return np.where(is_zero, np.nan, one / np.where(is_zero, 1.0, two))

    def of_one(self, one: float, two: float, least: float) -> float:
        """`of` one row: the same float64 operations in plain Python."""
        if self.kind != "ratio":
            return self._of_either(one, two)
        return math.nan if abs(two) <= least else one / two

    def _of_either(self, one: _Number, two: _Number) -> _Number:
        """What needs no care for zeros, of rows or of one."""
        if self.kind == "sum":
            return one + two
        if self.kind == "difference":
            return one - two
        return one * two


@dataclass(frozen=True)
class InteractionColumn:
    """An interaction as a column of the compact form, with bins.

    With s(x) = x / sqrt(1 + x^2 / 9) the value is s((v - centre) * scale), where v is the
    interaction of the two columns as they were before they were scaled, within the range of
    float32. So it is within 3.

    `sources`: scale and centre of the two columns.
    `least`: a ratio to what is at most so far from 0 is missing.
    `edges`: (n_bins + 1,), float32; strictly increasing edges of the bins of the value; empty
        without bins.
    """

    interaction: Interaction
    sources: tuple[tuple[float, float], tuple[float, float]]
    least: float
    centre: float = 0.0
    scale: float = 1.0
    edges: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    @classmethod
    def of(cls, interaction: Interaction, numbers: NumericColumns) -> InteractionColumn:
        """The column before it is scaled: of columns whose encoding is known."""
        first, second = (
            (float(numbers.scale[place]), float(numbers.centre[place]))
            for place in (interaction.first, interaction.second)
        )
        least = float(least_divisors(numbers)[interaction.second])
        return cls(interaction, (first, second), least)

    @property
    def first(self) -> int:
        """The first of the two columns, among those of the compact form."""
        return self.interaction.first

    @property
    def second(self) -> int:
        """The second."""
        return self.interaction.second

    def values(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Values:
        """What the interaction is for rows, from the scaled values of the two columns."""
        # Very large numbers and their products may be infinite before they are clipped.
        with np.errstate(over="ignore", invalid="ignore"):
            one, two = (
                scaled.astype(np.float64) / scale + centre
                for scaled, (scale, centre) in zip((first, second), self.sources, strict=True)
            )
            return np.clip(self.interaction.of(one, two, self.least), -LARGEST, LARGEST)

    def encode(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> Values:
        """Values of rows, from those of the two columns; NaN where one of them is."""
        return smooth((self.values(first, second) - self.centre) * self.scale)

    def scalar(self, first: float, second: float) -> float:
        """`encode` of one row: the same float64 operations in plain Python."""
        (scale, centre), (second_scale, second_centre) = self.sources
        one, two = first / scale + centre, second / second_scale + second_centre
        value = self.interaction.of_one(one, two, self.least)
        # Not `min` and `max`: a value that is missing stays so.
        if value > LARGEST:
            value = LARGEST
        elif value < -LARGEST:
            value = -LARGEST
        return smooth_one((value - self.centre) * self.scale)


def fit_interaction(
    interaction: Interaction,
    numbers: NumericColumns,
    scaled: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    sample: NDArray[np.int64] | None,
    tree: TreeTarget | None,
    n_bins: int,
) -> InteractionColumn | None:
    """Scale an interaction robustly and fit its bins, as those of a column of the table.

    `scaled`: (n_rows,), float32; values of the two columns in the compact form, of the training
        rows; NaN is missing.
    `sample`: rows that scale and bins are fitted on; None: all of them.
    `tree`: what bins look at; None: the column has none.
    `n_bins`: at most so many.
    Returns: None where it has but one value.
    """
    column = InteractionColumn.of(interaction, numbers)
    fit = fit_numeric(column.values(*scaled), sample, "robust", n_bins=n_bins)
    if not fit.scale > 0:
        return None
    column = replace(column, centre=fit.centre, scale=min(fit.scale, LARGEST_SCALE))
    if tree is None:
        return column
    values = column.encode(*scaled).astype(np.float32)
    index = tree_index(values, sample)
    if not len(index):
        return None
    inner = tree_thresholds(
        values[index],
        index,
        tree,
        n_leaves=n_bins,
        min_rows=fewest_rows(len(index), n_bins),
    )
    edges = strict_edges(inner, float(np.nanmin(values)), float(np.nanmax(values)))
    return replace(column, edges=edges) if len(edges) else None


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
    for k, interaction in enumerate(interactions):
        column = InteractionColumn.of(interaction, numbers)
        values[:, k] = column.values(numeric[:, column.first], numeric[:, column.second])
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
    for entry in document.children(key, max_length=MOST_PAIRS):
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


def columns_to_state(columns: Sequence[InteractionColumn]) -> dict[str, NDArray[Any]]:
    """The arrays of all columns together; none without columns."""
    if not columns:
        return {}
    return {
        "kinds": np.array(
            [INTERACTION_KINDS.index(column.interaction.kind) for column in columns],
            dtype=np.uint8,
        ),
        "columns": np.array([[column.first, column.second] for column in columns], dtype=np.int64),
        "centre": np.array([column.centre for column in columns], dtype=np.float64),
        "scale": np.array([column.scale for column in columns], dtype=np.float64),
        **edges_to_state(columns),
    }


def columns_from_state(
    tensors: TensorBag, n_interactions: int, numbers: NumericColumns
) -> tuple[InteractionColumn, ...]:
    """Read the columns back and check them.

    Raises `ArtifactError` if arrays do not fit together, a column is none of the table's numbers,
        cannot be had back from its encoding or is combined with itself, edges do not increase, or
        a number is out of range.
    """
    if not n_interactions:
        return ()
    if len(numbers) < 2:
        raise ArtifactError("encoder.interactions must be of two numeric columns")
    shape = (n_interactions,)
    kinds = tensors.take("kinds", "uint8", shape, high=len(INTERACTION_KINDS) - 1)
    pairs = tensors.take("columns", "int64", (*shape, 2), low=0, high=len(numbers) - 1)
    centre = tensors.take("centre", "float64", shape, low=-LARGEST, high=LARGEST)
    scale = tensors.take("scale", "float64", shape, low=0, high=LARGEST_SCALE)
    edges = edges_from_state(tensors, n_interactions, "encoder.interactions", fewest=0)
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ArtifactError("encoder.interactions.columns must differ within each pair")
    if not may_interact(numbers)[pairs].all():
        raise ArtifactError(
            "encoder.interactions.columns must be columns of linear encoding that vary"
        )
    return tuple(
        replace(
            InteractionColumn.of(Interaction(INTERACTION_KINDS[kinds[k]], first, second), numbers),
            centre=float(centre[k]),
            scale=float(scale[k]),
            edges=edges[k],
        )
        for k, (first, second) in enumerate(pairs.tolist())
    )
