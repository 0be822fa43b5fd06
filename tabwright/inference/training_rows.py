"""How rows to predict compare with those of training: rows seen before, cells never seen.

A model file holds no rows. It holds up to 256 short hashes of encoded training rows, those that
are smallest (a bottom-k sketch: Cohen and Kaplan, "Summarizing Data using Bottom-k Sketches",
2007), so that the share of a table's rows that were training rows can be estimated. Of levels and
numbers that training never saw, there is one sentence a column, of all batches together.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.categorical import CategoryColumn
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.values import Origin, numbers
from tabwright.number_text import cell_text
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from tabwright.encoding.encoder import Compact
    from tabwright.inference.fitted_model import FittedModel

_MOST_HASHES = 256
# So many hits, or standard deviations of their number, above what chance gives are told of.
_FEWEST_HITS = 3.0
# Of fewer rows than this share nothing is said, as of those that `train` holds out.
_LEAST_SHARE = 0.01
# The same for models of before, which do not say what chance gives.
_LEAST_SHARE_OF_BEFORE = 0.2
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_NAN = np.uint32(0x7FC00000)


def row_hashes(compact: Compact, n_own: int) -> NDArray[np.uint32]:
    """A hash of every encoded row, uint32 of shape (n,).

    `n_own`: numeric inputs, from the first, that come from the row alone: target statistics, behind
        them, are out of fold while training.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(len(compact.numeric), dtype=np.uint64)
        for column in compact.numeric[:, :n_own].T:
            bits = (column + np.float32(0)).view(np.uint32)
            state = (state ^ np.where(np.isnan(column), _NAN, bits)) * _FACTOR
            state ^= state >> np.uint64(29)
        for column in compact.codes.T:
            state = (state ^ column.astype(np.uint64)) * _FACTOR
            state ^= state >> np.uint64(29)
    return (state >> np.uint64(32)).astype(np.uint32)


def sketch_of_rows(compact: Compact, n_own: int) -> dict[str, str | float]:
    """The smallest hashes of rows that come once, as entries of a model's card.

    Returns: `row_sketch`, their text; `row_sketch_chance`, the probability that a row which had no
        part in training has one of them: by the rows that come twice, as a row left out would be
        among those that come once (Good, "The Population Frequencies of Species and the Estimation
        of Population Parameters", 1953, section 2).
    """
    hashes, counts = np.unique(row_hashes(compact, n_own), return_counts=True)
    once, n_twice = hashes[counts == 1], int((counts == 2).sum())
    smallest = once[:_MOST_HASHES]
    share = 2 * n_twice / max(len(compact.numeric), 1)
    return {
        "row_sketch": base64.b64encode(smallest.astype("<u4").tobytes()).decode("ascii"),
        "row_sketch_chance": share * len(smallest) / max(len(once), 1),
    }


class SeenRows:
    """Counts rows that a model was trained on, batch by batch.

    `model`: of one without a sketch, such as a file of before, nothing is known.
    """

    def __init__(self, model: FittedModel) -> None:
        text: Any = model.card.get("row_sketch")
        self._n_own = len(model.encoder.plan_.had_missing)
        data = base64.b64decode(text) if isinstance(text, str) else b""
        self._known = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4")
        self._n_training: Any = model.card.get("n_training_rows")
        self._chance: Any = model.card.get("row_sketch_chance")
        self._n_rows = self._n_hits = 0

    def add(self, compact: Compact) -> None:
        """Look at the rows of a batch."""
        if len(self._known):
            self._n_rows += len(compact.numeric)
            self._n_hits += int(np.isin(row_hashes(compact, self._n_own), self._known).sum())

    def estimate(self) -> int:
        """About how many rows were training rows; 0 where that is few, or cannot be told."""
        if not len(self._known) or not isinstance(self._n_training, int) or self._n_training < 1:
            return 0
        by_chance, least = 0.0, _LEAST_SHARE_OF_BEFORE
        if isinstance(self._chance, int | float):
            by_chance, least = self._n_rows * self._chance, _LEAST_SHARE
        excess = self._n_hits - by_chance
        if excess < max(_FEWEST_HITS, _FEWEST_HITS * by_chance**0.5):
            return 0
        density = len(self._known) / self._n_training
        seen = min(self._n_rows, round(excess / density))
        return seen if seen >= least * self._n_rows else 0


# Unknown levels are worth a word from this share of the cells on: rare ones are everyday.
_UNKNOWN_SHARE = 0.05
_FEWEST_CELLS = 20
# Cells are small beside this share of the usual one, and told of from this share of them on: of
# training rows, at most a half are so small.
_SMALL, _SMALL_SHARE = 0.1, 0.95
_UNKNOWN = 1
_SHOWN_LENGTH = 40


@dataclass
class _Count:
    n_cells: int = 0
    n_strange: int = 0
    n_outside: int = 0
    n_not_zero: int = 0
    n_small: int = 0
    example: str = ""
    small_example: str = ""


@dataclass
class UnfamiliarCells:
    """Counts cells unlike those of training, batch by batch."""

    encoder: TableEncoder
    counts: dict[str, _Count] = field(default_factory=dict)

    def add(self, frame: pl.DataFrame) -> None:
        """Look at the rows of a batch; cells that do not fit their columns must not be there."""
        plan = self.encoder.plan_
        if not plan.named:
            return
        for at, category in zip(plan.positions("category"), plan.categories, strict=True):
            self._add_levels(plan.names[at], frame.get_column(plan.names[at]), category)
        positions = plan.positions("numeric")
        for place, (at, origin) in enumerate(zip(positions, plan.origins, strict=True)):
            name = plan.names[at]
            lower, upper = float(plan.numbers.lower[place]), float(plan.numbers.upper[place])
            if not upper > lower:
                continue
            cells = frame.get_column(name)
            values = numbers(plan.typed(at, cells).alias(""), origin)
            count = self.counts.setdefault(name, _Count())
            count.n_cells += int((~np.isnan(values)).sum())
            # The clip range is the range of training, widened by its length on both sides.
            margin = (upper - lower) / 3
            count.n_outside += int(((values < lower + margin) | (values > upper - margin)).sum())
            usual = self._usual(place, origin)
            if usual is not None:
                is_small = (values != 0) & (np.abs(values) < _SMALL * abs(usual))
                count.n_not_zero += int(((values != 0) & ~np.isnan(values)).sum())
                count.n_small += int(is_small.sum())
                if is_small.any():
                    count.small_example = count.small_example or _plain(
                        cells[int(is_small.argmax())]
                    )
            far = (values < lower) | (values > upper)
            if far.any():
                count.n_strange += int(far.sum())
                count.example = count.example or _plain(cells[int(far.argmax())])

    def _usual(self, place: int, origin: Origin) -> float | None:
        """The median of a numeric column, or its mean where no median is stored.

        None: it says nothing of small values, being 0, or a mean of values that differ widely.
        """
        columns = self.encoder.plan_.numbers
        usual = float(columns.centre[place])
        if usual == 0 or origin not in (None, 0):
            return None
        # The mean may lie far above most values, unless the standard deviation is below it.
        if columns.encoding == "standard" and abs(usual) * float(columns.scale[place]) < 1:
            return None
        return usual

    def _add_levels(self, name: str, cells: pl.Series, category: CategoryColumn) -> None:
        unknown = category.codes_of_cells(cells) == _UNKNOWN
        count = self.counts.setdefault(name, _Count())
        count.n_cells += cells.len() - cells.null_count()
        if category.levels and unknown.any():
            count.n_strange += int(unknown.sum())
            count.example = count.example or repr(str(cells[int(unknown.argmax())]))

    def merge(self, other: UnfamiliarCells) -> None:
        """Add what another has counted with the same encoder."""
        for name, theirs in other.counts.items():
            mine = self.counts.setdefault(name, _Count())
            mine.n_cells += theirs.n_cells
            mine.n_strange += theirs.n_strange
            mine.n_outside += theirs.n_outside
            mine.n_not_zero += theirs.n_not_zero
            mine.n_small += theirs.n_small
            mine.example = mine.example or theirs.example
            mine.small_example = mine.small_example or theirs.small_example

    def sentences(self) -> list[str]:
        """One for each column with something strange in it, in the order of the table."""
        plan = self.encoder.plan_
        found = []
        for name, kind in zip(plan.names, plan.kinds, strict=True):
            count = self.counts.get(name)
            if count is None or not count.n_cells:
                continue
            few, column = _shown(count.example), shown_name(name)
            if kind == "category" and count.n_strange >= max(1, _UNKNOWN_SHARE * count.n_cells):
                found.append(
                    f"{column}: {_share(count.n_strange, count.n_cells)} not among the levels that "
                    f"the model knows, e.g. {few}; they count as unknown"
                )
            elif kind == "numeric" and count.n_strange:
                found.append(
                    f"{column}: {_share(count.n_strange, count.n_cells)} far past the range of "
                    f"training, e.g. {few}{_units(count)}"
                )
            elif kind == "numeric" and _most_are_outside(count):
                found.append(
                    f"{column}: {_share(count.n_outside, count.n_cells)} outside the range of "
                    f"training{_units(count)}"
                )
            elif kind == "numeric" and _most_are_small(count):
                place = plan.positions("numeric").index(plan.names.index(name))
                usual = cell_text(float(plan.numbers.centre[place]))
                word = "mean" if plan.numbers.encoding == "standard" else "median"
                found.append(
                    f"{column}: {_share(count.n_small, count.n_not_zero)} less than a tenth of the "
                    f"{word} of training, {usual}, e.g. {_shown(count.small_example)}; are these "
                    "the same units?"
                )
        return found


def _most_are_outside(count: _Count) -> bool:
    return count.n_cells >= _FEWEST_CELLS and 2 * count.n_outside >= count.n_cells


def _most_are_small(count: _Count) -> bool:
    return count.n_not_zero >= _FEWEST_CELLS and count.n_small >= _SMALL_SHARE * count.n_not_zero


def _units(count: _Count) -> str:
    return "; are these the same units?" if _most_are_outside(count) else ""


def _share(n: int, of: int) -> str:
    if n == of:
        return "the only cell is" if of == 1 else f"all {of:,} cells are"
    return f"{n:,} of {of:,} cells {'is' if n == 1 else 'are'}"


def _plain(value: object) -> str:
    """A number without the digits that float64 adds to what was computed."""
    return f"{value:.9g}" if isinstance(value, float) and not value.is_integer() else str(value)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
