"""What a pass over a table counts, exactly: rows, labels, moments of the target, ranges of columns.

A `Tally` is of one chunk, and two of them can be added, in any order.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.settings import Task
from tabwright.streaming.chunks import Chunk, Place
from tabwright.streaming.repeated_rows import CountedHashes, Hashes, merged_hashes, row_hashes
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.targets import regression_target

PLACES: Final[tuple[Place, ...]] = ("train", "validation", "test")
# Past it they are counted no longer: they would take memory that grows with the table.
MOST_LABELS: Final = 10_000


@dataclass
class Tally:
    """What a pass has counted so far."""

    n_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    weight: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PLACES, 0.0))
    n_left_out: int = 0
    # Per label: rows that train, validate and test; the weight of the first, and of all. None: too
    # many labels.
    labels: dict[str, list[float]] | None = field(default_factory=dict)
    fraction: bool = False
    # Weight, mean and sum of squared distances of the training targets; their range.
    moments: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    low: float = math.inf
    high: float = -math.inf
    # Lowest, highest and number of values of integer columns, missing ones aside.
    ranges: dict[str, list[int]] = field(default_factory=dict)
    # The smallest hashes of the rows that train and of those that test.
    hashes: dict[str, Hashes] = field(
        default_factory=lambda: {part: np.zeros(0, np.uint64) for part in ("train", "test")}
    )

    # Those of both, with how often they come.
    counted: CountedHashes = field(
        default_factory=lambda: CountedHashes(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    )

    @classmethod
    def of(
        cls,
        chunk: Chunk,
        columns: ColumnUses,
        masks: dict[Place, NDArray[np.bool_]],
        weight: NDArray[np.float64] | None,
        keep: NDArray[np.bool_],
        task: Task | None,
    ) -> Tally:
        """What one chunk adds.

        `masks`: the rows that train, validate and test; `keep`: those that count.
        `task`: None: not known yet.
        """
        weights = np.ones(chunk.frame.height) if weight is None else weight
        tally = cls()
        for place in PLACES:
            tally.n_rows[place] = int(masks[place].sum())
            tally.weight[place] = float(weights[masks[place]].sum())
        for name, dtype in chunk.frame.schema.items():
            if dtype.is_integer():
                low, high = chunk.frame[name].min(), chunk.frame[name].max()
                if isinstance(low, int) and isinstance(high, int):
                    n_values = chunk.frame.height - chunk.frame[name].null_count()
                    tally.ranges[name] = [low, high, n_values]
        target = chunk.frame[columns.target]
        if target.dtype.is_decimal():
            target = target.cast(pl.Float64)
        if masks["test"].any():
            features = columns.features(chunk.frame.columns)
            rows = row_hashes([*chunk.frame[features], target])
            tally.hashes = {place: merged_hashes(rows[masks[place]]) for place in ("train", "test")}
            tally.counted = CountedHashes.of(rows[masks["train"] | masks["test"]])
        if task != "regression":
            _count_labels(tally, target, masks, weights, keep)
        if task != "classification" and target.dtype.is_numeric():
            values = regression_target(target.filter(pl.Series(masks["train"])))
            _measure(tally, values, weights[masks["train"]])
        return tally

    def add(self, other: Tally) -> None:
        """Count what another pass has counted too."""
        for place in PLACES:
            self.n_rows[place] += other.n_rows[place]
            self.weight[place] += other.weight[place]
        self.n_left_out += other.n_left_out
        if self.labels is None or other.labels is None:
            self.labels = None
        else:
            for label, counts in other.labels.items():
                mine = self.labels.get(label, [0.0] * 5)
                self.labels[label] = [a + b for a, b in zip(mine, counts, strict=True)]
            if len(self.labels) > MOST_LABELS:
                self.labels = None
        self.fraction |= other.fraction
        self._add_moments(other.moments)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for name, (low, high, count) in other.ranges.items():
            mine_low, mine_high, mine_count = self.ranges.get(name, [low, high, 0])
            self.ranges[name] = [min(low, mine_low), max(high, mine_high), count + mine_count]
        for part, hashes in other.hashes.items():
            self.hashes[part] = merged_hashes(self.hashes[part], hashes)
        self.counted = self.counted.merged(other.counted)

    def _add_moments(self, other: list[float]) -> None:
        """Merge the weight, mean and sum of squares of other rows."""
        # T. Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for
        # computing sample variances", 1979, equation 2.1.
        weight, mean, square = other
        total = self.moments[0] + weight
        if weight == 0.0:
            return
        shift = mean - self.moments[1]
        self.moments = [
            total,
            self.moments[1] + shift * (weight / total),
            self.moments[2] + square + shift * shift * (self.moments[0] * weight / total),
        ]


def _count_labels(
    tally: Tally,
    target: pl.Series,
    masks: dict[Place, NDArray[np.bool_]],
    weights: NDArray[np.float64],
    keep: NDArray[np.bool_],
) -> None:
    """Count rows and weights by label; none are counted where there are too many."""
    if target.dtype.is_float():
        present = target.filter(pl.Series(keep))
        tally.fraction = bool((present % 1 != 0).any())
    if tally.fraction:
        tally.labels = None
        return
    counts = (
        pl.DataFrame(
            {
                "label": target.cast(pl.String) if not target.dtype.is_numeric() else target,
                "weight": weights,
            }
        )
        .with_columns(pl.Series(place, mask) for place, mask in masks.items())
        .filter(pl.Series(keep))
        .group_by("label")
        .agg(
            *(pl.col(place).sum() for place in PLACES),
            (pl.col("weight") * pl.col("train")).sum().alias("mass"),
            pl.col("weight").sum(),
        )
    )
    if counts.height > MOST_LABELS:
        tally.labels = None
        return
    tally.labels = {
        json.dumps(label): [float(value) for value in values] for label, *values in counts.rows()
    }


def _measure(tally: Tally, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    if not len(values):
        return
    total = float(weights.sum())
    mean = float(np.average(values, weights=weights))
    tally.moments = [total, mean, float((weights * (values - mean) ** 2).sum())]
    tally.low, tally.high = float(values.min()), float(values.max())
