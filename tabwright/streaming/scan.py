"""The first pass over a table larger than memory: exact counts, and uniform samples of rows.

`scan_table` reads every row once and keeps what a fit must know beforehand: the labels and how
often each occurs, the mean and the spread of a regression target, the range of integer columns,
and a bounded sample of the training, validation and test rows each. Several workers read a share
each; what they found is put together to the same result, whatever their number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tabwright.errors import TableError
from tabwright.inference.target_scale import TargetScale
from tabwright.regression import RegressionObjective, check_target
from tabwright.settings import Task
from tabwright.streaming.chunks import Chunk, FilesTable, Place, RowPlaces
from tabwright.streaming.repeated_rows import Hashes, merged_hashes, n_repeated, row_hashes
from tabwright.tables.cells import is_missing
from tabwright.tables.column_uses import ColumnUses
from tabwright.tables.targets import (
    encode_labels,
    labels_to_codes,
    refuse_moments,
    regression_target,
    task_of_counts,
)

# Rows kept of each part. Quantiles, bins and levels move little past so many training rows; the
# others put a score's standard error at 0.002 for a share.
SAMPLE_LIMITS: Final[dict[Place, int]] = {
    "train": 200_000,
    "validation": 100_000,
    "test": 100_000,
}
_PLACES: Final[tuple[Place, ...]] = ("train", "validation", "test")
_MOST_LABELS: Final = 10_000
# Columns of a sample beside those of the table; no file has such names.
_HASH, _FILE, _ROW, _ASIDE = "\0hash", "\0file", "\0row", "\0aside"


def rows_to_use(
    chunk: Chunk, uses: ColumnUses
) -> tuple[NDArray[np.bool_], NDArray[np.float64] | None]:
    """Which rows of a chunk count, and the weights of all its rows.

    Raises `TableError` if a target is missing and may not be, or a weight is no weight.
    """
    missing = is_missing(chunk.frame[uses.target])
    if missing.any() and not uses.drop_null_target:
        row = int(chunk.row_numbers[int(missing.arg_max() or 0)]) + 1
        raise TableError(
            f"the target {uses.target!r} must have no missing values; got one in row {row}; "
            "give --drop-null-target (drop_null_target=True) to leave such rows out"
        )
    keep = ~missing.to_numpy()
    if uses.weight is None:
        return keep, None
    column = chunk.frame[uses.weight]
    if not column.dtype.is_numeric() or column.null_count():
        raise TableError(
            f"the weight column {uses.weight!r} must hold numbers and no missing values"
        )
    weight = column.cast(pl.Float64).to_numpy()
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise TableError(
            f"the weight column {uses.weight!r} must hold finite numbers, none below 0"
        )
    return keep & (weight > 0), weight


@dataclass
class _Tally:
    """What a pass has counted so far; two of them can be added."""

    n_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_PLACES, 0))
    weight: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PLACES, 0.0))
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

    def add(self, other: _Tally) -> None:
        for place in _PLACES:
            self.n_rows[place] += other.n_rows[place]
            self.weight[place] += other.weight[place]
        self.n_left_out += other.n_left_out
        if self.labels is None or other.labels is None:
            self.labels = None
        else:
            for label, counts in other.labels.items():
                mine = self.labels.get(label, [0.0] * 5)
                self.labels[label] = [a + b for a, b in zip(mine, counts, strict=True)]
            if len(self.labels) > _MOST_LABELS:
                self.labels = None
        self.fraction |= other.fraction
        self._add_moments(other.moments)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        for name, (low, high, count) in other.ranges.items():
            mine_low, mine_high, mine_count = self.ranges.get(name, [low, high, 0])
            self.ranges[name] = [min(low, mine_low), max(high, mine_high), count + mine_count]
        for part, hashes in other.hashes.items():
            self.hashes[part] = merged_hashes(self.hashes[part], hashes)

    def _add_moments(self, other: list[float]) -> None:
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


class _Sample:
    """The rows with the lowest hashes: a uniform sample, the same in whatever order they come.

    Keeping those of the lowest random keys is W. Vitter's reservoir in another dress ("Random
    sampling with a reservoir", 1985, section 2); with a hash for a key, shares of it can be put
    together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: list[pl.DataFrame] = []
        self._n_rows = 0
        self._highest = 2**64 - 1

    def add(self, frame: pl.DataFrame) -> None:
        """Take what has a place in the sample; the frame has a column of hashes."""
        frame = frame.filter(pl.col(_HASH) <= self._highest)
        if not frame.height:
            return
        self._frames.append(frame)
        self._n_rows += frame.height
        if self._n_rows > self._limit + self._limit // 4:
            self._prune()

    def _prune(self) -> None:
        if self._n_rows <= self._limit:
            return
        hashes = np.concatenate([frame[_HASH].to_numpy() for frame in self._frames])
        self._highest = int(np.partition(hashes, self._limit - 1)[self._limit - 1])
        # One by one: no copy of all rows at once.
        for place, frame in enumerate(self._frames):
            self._frames[place] = frame.filter(pl.col(_HASH) <= self._highest)
        self._n_rows = sum(frame.height for frame in self._frames)

    def rows(self) -> pl.DataFrame | None:
        """The sample in any order, without a copy; None if nothing came."""
        self._prune()
        return pl.concat(self._frames) if self._frames else None


@dataclass(frozen=True)
class Scan:
    """What the first pass found.

    `reason`: why it is that task, as a sentence; empty where it was given.
    `n_rows`: rows that "train", that are for "validation" and for "test".
    `n_left_out`: rows without a target, or of weight 0.
    `classes`: (n_classes,).
    `scale`: of a regression target, over all training rows.
    `class_mass`: (n_classes,), float64; weight of the training rows of each class.
    `class_rows`: (n_classes,), float64; their number.
    `mean_weight`: of the training rows.
    `only_training`: classes all of whose rows train: else none of them would.
    `samples`: rows of "train", "validation" and "test" with all the columns read; parts without
        rows are absent.
    `identifiers`: integer columns that number the rows.
    `n_repeated`: about how many test rows are equal to a training row.
    """

    task: Task
    reason: str
    n_rows: dict[str, int]
    n_left_out: int
    classes: NDArray[Any] | None
    scale: TargetScale | None
    class_mass: NDArray[np.float64] | None
    class_rows: NDArray[np.float64] | None
    mean_weight: float
    only_training: frozenset[int]
    samples: dict[str, pl.DataFrame]
    identifiers: tuple[str, ...]
    n_repeated: int = 0

    def encoded(self, target: pl.Series) -> NDArray[Any]:
        """Targets as class codes, int64, or as numbers, float64."""
        if self.classes is None:
            return regression_target(target)
        return labels_to_codes(target, self.classes, where="the table")

    def masks(
        self, places: RowPlaces, chunk: Chunk, codes: NDArray[Any]
    ) -> dict[Place, NDArray[np.bool_]]:
        """The rows of each part, rare classes considered."""
        masks = places.masks(chunk)
        if self.only_training:
            kept = np.isin(codes, list(self.only_training))
            masks = {place: mask & ~kept for place, mask in masks.items()}
            masks["train"] |= kept
        return masks

    def sampled(self, place: Place, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows of a chunk that a sample has: their places in the chunk, and in the sample."""
        sample = self.samples[place]
        start, stop = chunk.row_numbers[0], chunk.row_numbers[-1]
        inside = (sample[_FILE] == chunk.file) & sample[_ROW].is_between(int(start), int(stop))
        at = np.flatnonzero(inside.to_numpy())
        return sample[_ROW].to_numpy()[at] - start, at

    def without_cells(self) -> Scan:
        """The same, its samples cut down to what `sampled` needs."""
        places = {place: sample.select(_FILE, _ROW) for place, sample in self.samples.items()}
        return replace(self, samples=places)

    def aside(self, place: Place) -> NDArray[np.bool_]:
        """Which rows of a sample `RowPlaces.aside` marks."""
        return self.samples[place][_ASIDE].to_numpy()


def scan_table(
    table: FilesTable,
    columns: ColumnUses,
    places: RowPlaces,
    *,
    task: Task | None,
    wanted: Callable[[int, int], bool] | None = None,
    gather: Callable[[ScanShare], list[ScanShare]] | None = None,
    limits: dict[Place, int] | None = None,
    objective: RegressionObjective = "squared_error",
) -> Scan:
    """Read the table once.

    `task`: None: told by the target.
    `wanted`: which chunks this worker reads; all by default.
    `gather`: gives what every worker has found, for what this one has.
    `limits`: at most so many rows of each sample; `SAMPLE_LIMITS` by default.
    `objective`: whose rule the target must keep, where the task is regression.
    Raises `TableError` if a column or the target is not what it should be, or there are no rows to
        train on.
    Raises `ValueError` if the objective cannot have a target, such as a negative count.
    """
    share = scan_share(
        table, columns, places, task=task, wanted=wanted, limits=limits, objective=objective
    )
    if gather is None:
        return _whole_scan(table, columns, share, task)
    return merged_scan(table, columns, gather(share), task=task, limits=limits)


@dataclass(frozen=True)
class ScanShare:
    """What a pass over some chunks of a table has found.

    `samples`: of each part of the rows, in any order; None where there are none.
    """

    tally: _Tally
    samples: dict[Place, pl.DataFrame | None]

    def pieces(self, n_rows: int) -> Iterator[ScanShare]:
        """The same in shares of few rows, so that copies made on their way are small."""
        yield ScanShare(self.tally, {})
        for place, sample in self.samples.items():
            if sample is not None:
                for piece in sample.iter_slices(n_rows):
                    yield ScanShare(_Tally(), {place: piece})


def scan_share(
    table: FilesTable,
    columns: ColumnUses,
    places: RowPlaces,
    *,
    task: Task | None,
    wanted: Callable[[int, int], bool] | None = None,
    limits: dict[Place, int] | None = None,
    objective: RegressionObjective = "squared_error",
) -> ScanShare:
    """Read the chunks that are wanted; the arguments are those of `scan_table`.

    Raises `TableError`: as `scan_table`.
    """
    columns.check(table.dtypes)
    limits = limits or SAMPLE_LIMITS
    dtype = table.dtypes[columns.target]
    refuse_moments(columns.target, dtype)
    tally = _Tally()
    samples = {place: _Sample(limits[place]) for place in _PLACES}
    for chunk in table.chunks(columns.to_read(table.dtypes), wanted):
        keep, weight = rows_to_use(chunk, columns)
        masks = {place: mask & keep for place, mask in places.masks(chunk).items()}
        tally.n_left_out += int((~keep).sum())
        if task == "regression":
            known = regression_target(chunk.frame[columns.target].filter(pl.Series(keep)))
            check_target(objective, known, where=" in one part of the table")
        tally.add(_tally_of(chunk, columns, masks, weight, keep, task))
        keyed = chunk.frame.with_columns(
            pl.Series(_HASH, places.row_hashes(chunk, "sample")),
            pl.lit(chunk.file, dtype=pl.Int64).alias(_FILE),
            pl.Series(_ROW, chunk.row_numbers),
            pl.Series(_ASIDE, places.aside(chunk)),
        )
        for place, mask in masks.items():
            samples[place].add(keyed.filter(pl.Series(mask)))
    return ScanShare(tally, {place: sample.rows() for place, sample in samples.items()})


def _tally_of(
    chunk: Chunk,
    columns: ColumnUses,
    masks: dict[Place, NDArray[np.bool_]],
    weight: NDArray[np.float64] | None,
    keep: NDArray[np.bool_],
    task: Task | None,
) -> _Tally:
    weights = np.ones(chunk.frame.height) if weight is None else weight
    tally = _Tally()
    for place in _PLACES:
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
    if task != "regression":
        _count_labels(tally, target, masks, weights, keep)
    if task != "classification" and target.dtype.is_numeric():
        values = regression_target(target.filter(pl.Series(masks["train"])))
        _measure(tally, values, weights[masks["train"]])
    return tally


def _count_labels(
    tally: _Tally,
    target: pl.Series,
    masks: dict[Place, NDArray[np.bool_]],
    weights: NDArray[np.float64],
    keep: NDArray[np.bool_],
) -> None:
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
            *(pl.col(place).sum() for place in _PLACES),
            (pl.col("weight") * pl.col("train")).sum().alias("mass"),
            pl.col("weight").sum(),
        )
    )
    if counts.height > _MOST_LABELS:
        tally.labels = None
        return
    tally.labels = {
        json.dumps(label): [float(value) for value in values] for label, *values in counts.rows()
    }


def _measure(tally: _Tally, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    if not len(values):
        return
    total = float(weights.sum())
    mean = float(np.average(values, weights=weights))
    tally.moments = [total, mean, float((weights * (values - mean) ** 2).sum())]
    tally.low, tally.high = float(values.min()), float(values.max())


def merged_scan(
    table: FilesTable,
    columns: ColumnUses,
    shares: Iterable[ScanShare],
    *,
    task: Task | None,
    limits: dict[Place, int] | None = None,
) -> Scan:
    """What one pass would have found, of shares that hold every chunk once.

    Raises `TableError`: as `scan_table`.
    """
    tally = _Tally()
    whole = {place: _Sample(limit) for place, limit in (limits or SAMPLE_LIMITS).items()}
    for share in shares:
        tally.add(share.tally)
        for place, frame in share.samples.items():
            if frame is not None:
                whole[place].add(frame)
    samples = {place: sample.rows() for place, sample in whole.items()}
    return _whole_scan(table, columns, ScanShare(tally, samples), task)


def _whole_scan(
    table: FilesTable, columns: ColumnUses, share: ScanShare, given: Task | None
) -> Scan:
    """What the pass has found, of a share that holds every chunk."""
    tally = share.tally
    if not tally.n_rows["train"]:
        raise TableError(
            f"a table must have rows to train on; got none of {sum(tally.n_rows.values())} rows; "
            "hold fewer rows out, or give more"
        )
    dtype = table.dtypes[columns.target]
    task, reason = given, ""
    if task is None:
        task, reason = _task(columns.target, dtype, tally)
    found = {
        place: frame.sort(_FILE, _ROW)
        for place, frame in share.samples.items()
        if frame is not None
    }
    identifiers = tuple(
        name
        for name, (low, high, count) in sorted(tally.ranges.items())
        if high - low + 1 == count > 100 and _all_differ(found.get("train"), name)
    )
    scan = Scan(
        task=task,
        reason=reason,
        n_rows=dict(tally.n_rows),
        n_left_out=tally.n_left_out,
        classes=None,
        scale=None,
        class_mass=None,
        class_rows=None,
        mean_weight=tally.weight["train"] / tally.n_rows["train"],
        only_training=frozenset(),
        samples={str(place): frame for place, frame in found.items()},
        identifiers=identifiers,
        n_repeated=n_repeated(
            tally.hashes["train"],
            tally.hashes["test"],
            tally.n_rows["train"],
            tally.n_rows["test"],
        ),
    )
    if task == "regression":
        return _with_scale(scan, columns, dtype, tally)
    return _with_classes(scan, columns, dtype, tally)


def _all_differ(sample: pl.DataFrame | None, name: str) -> bool:
    return sample is None or sample[name].n_unique() == sample.height


def _task(name: str, dtype: pl.DataType, tally: _Tally) -> tuple[Task, str]:
    n_rows = sum(tally.n_rows.values())
    if tally.labels is None:
        if not dtype.is_numeric():
            raise _too_many_labels(name)
        return task_of_counts(
            name, dtype, n_unique=_MOST_LABELS + 1, n_rows=n_rows, has_fraction=tally.fraction
        )
    return task_of_counts(
        name, dtype, n_unique=len(tally.labels), n_rows=n_rows, has_fraction=False
    )


def _too_many_labels(name: str) -> TableError:
    return TableError(
        f"a target of classes must have at most {_MOST_LABELS:,} of them; column {name!r} has "
        "more; name another target column"
    )


def _with_scale(scan: Scan, columns: ColumnUses, dtype: pl.DataType, tally: _Tally) -> Scan:
    if not dtype.is_numeric():
        raise TableError(
            f"a regression target must hold numbers; column {columns.target!r} holds {dtype}"
        )
    weight, mean, square = tally.moments
    scale = math.sqrt(square / weight)
    return replace(
        scan,
        scale=TargetScale(
            mean=min(max(mean, tally.low), tally.high),
            scale=scale if math.isfinite(scale) and scale > 0 else 1.0,
            low=tally.low,
            high=tally.high,
        ),
    )


def _with_classes(scan: Scan, columns: ColumnUses, dtype: pl.DataType, tally: _Tally) -> Scan:
    if tally.fraction:
        raise TableError(
            f"labels must be strings, integers, booleans or integral floats; column "
            f"{columns.target!r} holds numbers with a fraction; for quantities the task is "
            "regression"
        )
    if tally.labels is None:
        raise _too_many_labels(columns.target)
    names = [json.loads(label) for label in tally.labels]
    text = pl.Series(columns.target, names)
    values = text.cast(dtype) if dtype.is_numeric() or dtype == pl.String else text
    if dtype == pl.Boolean:
        values = text == "true"
    labels = encode_labels(values)
    rows = np.zeros((len(labels.classes), 5))
    rows[labels.codes] = np.array(list(tally.labels.values()))
    absent = rows[:, 0] == 0
    only_training = frozenset(np.flatnonzero(absent).tolist())
    n_rows, samples = dict(scan.n_rows), dict(scan.samples)
    if only_training:
        scan = replace(scan, classes=labels.classes)
        for place, column in (("validation", 1), ("test", 2)):
            moved = int(rows[absent, column].sum())
            n_rows[place] -= moved
            n_rows["train"] += moved
            if place in samples:
                codes = scan.encoded(samples[place][columns.target])
                samples[place] = samples[place].filter(
                    pl.Series(~np.isin(codes, list(only_training)))
                )
        rows[absent, 0] = rows[absent, :3].sum(axis=1)
        rows[absent, 3] = rows[absent, 4]
    return replace(
        scan,
        classes=labels.classes,
        class_rows=rows[:, 0],
        class_mass=rows[:, 3],
        mean_weight=float(rows[:, 3].sum() / rows[:, 0].sum()),
        only_training=only_training,
        n_rows=n_rows,
        samples={place: sample for place, sample in samples.items() if sample.height},
    )
