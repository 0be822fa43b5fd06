"""What is strange in rows to predict: levels and numbers that training never saw.

One sentence a column, of all batches together, for people and machines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tabwright.encoding.categorical import CategoryColumn
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.values import numbers

__all__ = ["UnfamiliarCells"]

# Unknown levels are worth a word from this share of the cells on: rare ones are everyday.
_UNKNOWN_SHARE = 0.05
_FEWEST_CELLS = 20
_UNKNOWN = 1
_SHOWN_LENGTH = 40


@dataclass
class _Count:
    n_cells: int = 0
    n_strange: int = 0
    n_outside: int = 0
    example: str = ""


@dataclass
class UnfamiliarCells:
    """Counts cells unlike those of training, batch by batch.

    Parameters
    ----------
    encoder : TableEncoder
        Of the model, with named columns.
    counts : dict of str to counts
        What was found so far, by column.
    """

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
            far = (values < lower) | (values > upper)
            if far.any():
                count.n_strange += int(far.sum())
                count.example = count.example or str(cells[int(far.argmax())])

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
            mine.example = mine.example or theirs.example

    def sentences(self) -> list[str]:
        """One for each column with something strange in it, in the order of the table."""
        plan = self.encoder.plan_
        said = []
        for name, kind in zip(plan.names, plan.kinds, strict=True):
            count = self.counts.get(name)
            if count is None or not count.n_cells:
                continue
            few = _shown(count.example)
            if kind == "category" and count.n_strange >= max(1, _UNKNOWN_SHARE * count.n_cells):
                said.append(
                    f"{name}: {_share(count.n_strange, count.n_cells)} not among the levels that "
                    f"the model knows, e.g. {few}; they count as unknown"
                )
            elif kind == "numeric" and count.n_strange:
                said.append(
                    f"{name}: {_share(count.n_strange, count.n_cells)} far past the range of "
                    f"training, e.g. {few}{_units(count)}"
                )
            elif kind == "numeric" and _most_are_outside(count):
                said.append(
                    f"{name}: {_share(count.n_outside, count.n_cells)} outside the range of "
                    f"training{_units(count)}"
                )
        return said


def _most_are_outside(count: _Count) -> bool:
    return count.n_cells >= _FEWEST_CELLS and 2 * count.n_outside >= count.n_cells


def _units(count: _Count) -> str:
    return "; are these the same units?" if _most_are_outside(count) else ""


def _share(n: int, of: int) -> str:
    if n == of:
        return "the only cell is" if of == 1 else f"all {of:,} cells are"
    return f"{n:,} of {of:,} cells {'is' if n == 1 else 'are'}"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."
