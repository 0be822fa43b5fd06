"""How rows to predict compare with those of training: rows seen before, cells never seen.

A model file holds no rows. It holds up to 256 short hashes of distinct encoded training rows, those
that are smallest (a bottom-k sketch: Cohen and Kaplan, "Summarizing Data using Bottom-k Sketches",
2007), so that the share of a table's rows that were training rows can be estimated. Of levels and
numbers that training never saw, there is one sentence a column, of all batches together.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.encoding.categorical import CategoryColumn, rare_below
from tabwright.encoding.encoder import TableEncoder
from tabwright.encoding.values import Origin, numbers
from tabwright.number_text import cell_text
from tabwright.tables.column_names import shown_name

if TYPE_CHECKING:
    from tabwright.encoding.encoder import Compact
    from tabwright.inference.fitted_model import FittedModel

_MOST_HASHES = 256
# So many hits, or standard deviations of their number, above what chance gives are told of.
_FEWEST_HITS = 4.0
# Of fewer rows than this share nothing is said, as of those that `train` holds out.
_LEAST_SHARE = 0.01
# Of the rows with a hash in the sketch, chance must leave this share.
_LEAST_NEW = 0.2
# Rows that come up to so often are estimated together.
_FEW = 4
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


def sketch_of_rows(compact: Compact, n_own: int) -> dict[str, dict[str, str | float]]:
    """The smallest hashes of distinct rows, as an entry of a model's card.

    Returns: `row_sketch`: `hashes`, their text; `share`, that of the training rows which have one
        of them; `by_chance`, the probability that a row which had no part in training has one, and
        `deviation`, the standard deviation of that estimate; `repeated`, the probability that such
        a row is equal to any training row. What comes k times has a rate of k + 1 times the number
        of rows that come k + 1 times (Good, "The Population Frequencies of Species and the
        Estimation of Population Parameters", 1953, section 2), where chance can have repeated them.
    """
    hashes, counts = np.unique(row_hashes(compact, n_own), return_counts=True)
    n_rows, of_smallest = max(len(compact.numeric), 1), counts[:_MOST_HASHES]
    found = np.bincount(counts, minlength=2).astype(np.float64)
    times = np.arange(len(found))
    shares = _natural_shares(found)
    natural = times * found * shares
    natural[:2] = 0
    # Of rows that come few times, the rates of all; each of the others has its own.
    rates = np.where(times > _FEW + 1, times * shares, 0)
    few = min(_FEW + 1, len(found) - 1)
    rates[:few] = natural[1 : few + 1] / np.maximum(found[:few], 1)
    by_chance, is_few = rates[of_smallest], of_smallest <= _FEW
    part = len(of_smallest) / max(len(hashes), 1)
    variance = 2 * part * by_chance[is_few].sum() + by_chance[~is_few].sum()
    return {
        "row_sketch": {
            "hashes": base64.b64encode(hashes[:_MOST_HASHES].astype("<u4").tobytes()).decode(
                "ascii"
            ),
            "share": float(of_smallest.sum() / n_rows),
            "by_chance": float(by_chance.sum() / n_rows),
            "deviation": float(variance**0.5 / n_rows),
            "repeated": float(natural.sum() / n_rows),
        }
    }


def _natural_shares(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of the distinct rows that come k times which chance can have repeated so often.

    `found`: number of distinct rows by k. Where rows of a population coincide, that number times k!
        is log-convex in k: these are moments of the rows' rates in a Poisson mixture. Rows that a
        table was given twice lie above what their neighbours in k allow.
    """
    upper = np.append(_upper(found), _upper(0.0))
    times = np.arange(2, len(found))
    shares = np.ones(len(found))
    allowed = np.sqrt(upper[times - 1] * upper[times + 1] * (times + 1) / times)
    shares[2:] = np.minimum(1.0, allowed / np.maximum(found[2:], 1.0))
    return shares


def _upper(count: Any) -> Any:
    """What the expectation of a count hardly exceeds."""
    return count + _FEWEST_HITS * np.sqrt(count) + _FEWEST_HITS


def natural_part(counts: NDArray[np.int64]) -> float:
    """The share of the rows that come more than once which chance can have repeated; 1 if none do.

    `counts`: (n_distinct,); how often each distinct row comes.
    """
    found = np.bincount(counts, minlength=2).astype(np.float64)
    n_rows = (np.arange(len(found)) * found)[2:]
    if not n_rows.any():
        return 1.0
    return float((n_rows * _natural_shares(found)[2:]).sum() / n_rows.sum())


class SeenRows:
    """Counts rows that a model was trained on, batch by batch.

    `model`: of one without a sketch of distinct rows, such as a file of before, nothing is known.
    """

    def __init__(self, model: FittedModel) -> None:
        sketch: Any = model.card.get("row_sketch")
        sketch = sketch if isinstance(sketch, Mapping) else {}
        self._n_own = len(model.encoder.plan_.had_missing)
        text = sketch.get("hashes")
        try:
            data = base64.b64decode(text) if isinstance(text, str) else b""
        except ValueError:
            # The card is for people: what is no text of hashes tells nothing.
            data = b""
        self._known = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4")
        estimates = [sketch.get(key) for key in ("share", "by_chance", "deviation", "repeated")]
        estimates.append(model.card.get("n_training_rows"))
        if not all(isinstance(x, int | float) and 0 <= x < np.inf for x in estimates):
            self._known = self._known[:0]
        self._estimates: list[Any] = estimates
        self._hashes: list[NDArray[np.uint32]] = []

    def add(self, compact: Compact) -> None:
        """Look at the rows of a batch."""
        if len(self._known):
            self._hashes.append(row_hashes(compact, self._n_own))

    def estimate(self) -> int:
        """About how many rows were training rows; 0 where that is few, or cannot be told."""
        if not self._hashes:
            return 0
        share, by_chance, deviation, repeated, n_training = self._estimates
        hashes, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        n_rows = int(counts.sum())
        n_hits = int(counts[np.isin(hashes, self._known)].sum())
        # Of n other rows one is equal at most n / m times as often as of m, and as of more.
        n_twins = int(counts[counts > 1].sum())
        most = _upper(n_twins) / n_rows * max(1.0, n_training / n_rows)
        if repeated > most:
            by_chance, deviation = (x * most / repeated for x in (by_chance, deviation))
        beyond = share - by_chance
        if beyond < _LEAST_NEW * share:
            return 0
        excess = n_hits - n_rows * by_chance
        spread = (n_rows * by_chance + (n_rows * deviation) ** 2) ** 0.5
        if excess < max(_FEWEST_HITS, _FEWEST_HITS * spread):
            return 0
        seen = min(n_rows, round(excess / beyond))
        return seen if seen >= _LEAST_SHARE * n_rows else 0


# Unknown levels are worth a word from this share of the cells on: rare ones are everyday.
_UNKNOWN_SHARE = 0.05
_FEWEST_CELLS = 20
# New rows have up to so many times the share of rare cells that training had: beside its rare
# levels, others that it did not meet. Where all of so many cells are unknown, that is no chance.
_RARE_FACTOR, _MANY_CELLS = 3.0, 50
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
    """Counts cells unlike those of training, batch by batch.

    `card`: the model's: what it says of a column's levels in training tells how many unknown ones
        new rows usually have; without it, none.
    """

    encoder: TableEncoder
    counts: dict[str, _Count] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)

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

    def _are_many(self, name: str, count: _Count) -> bool:
        """Whether a column has more unknown levels than rows like those of training have."""
        if count.n_strange == count.n_cells >= _MANY_CELLS:
            return True
        plan = self.encoder.plan_
        place = plan.positions("category").index(plan.names.index(name))
        usual = _RARE_FACTOR * _most_rare(plan.categories[place], self.card, name)
        return count.n_strange >= max(1, max(_UNKNOWN_SHARE, usual) * count.n_cells) and usual < 1

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
            if kind == "category" and self._are_many(name, count):
                found.append(
                    f"{column}: {_share(count.n_strange, count.n_cells)} of levels that training "
                    f"had in few rows or not at all, e.g. {few}; they count as unknown"
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


def _most_rare(category: CategoryColumn, card: Mapping[str, Any], name: str) -> float:
    """At most this share of a column's training cells was of levels too rare to be known.

    0 where the card does not say.
    """
    columns, n_rows = card.get("columns"), card.get("n_training_rows")
    known = [
        column
        for column in (columns if isinstance(columns, list) else [])
        if isinstance(column, Mapping) and column.get("name") == name
    ]
    if not known or not isinstance(n_rows, int):
        return 0.0
    n_unique, n_missing = known[0].get("n_unique"), known[0].get("n_missing")
    if not (isinstance(n_unique, int) and isinstance(n_missing, int)):
        return 0.0
    fewer_than = 2 if category.statistics is not None else rare_below(n_rows)
    return (n_unique - len(category.levels)) * (fewer_than - 1) / max(n_rows - n_missing, 1)


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
