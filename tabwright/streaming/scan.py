"""The first pass over a table larger than memory: exact counts, and uniform samples of rows.

A `ScanJob` reads every row once and keeps what a fit must know beforehand: the labels and how
often each occurs, the mean and the spread of a regression target, the range of integer columns,
and a bounded sample of the training, validation and test rows each. Several workers read a share
each; what they found is put together to the same result, whatever their number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from tabwright.streaming.repeated_rows import n_repeated
from tabwright.streaming.tally import MOST_LABELS, PLACES, Tally
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
            "give drop_null_target=True to leave such rows out"
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
        if self._n_rows > self._limit + self._limit // 16:
            self._prune()

    def _prune(self) -> None:
        """Keep the rows of the lowest hashes, where there are more than the sample needs."""
        if self._n_rows <= self._limit:
            return
        hashes = np.concatenate([frame[_HASH].to_numpy() for frame in self._frames])
        self._highest = int(np.partition(hashes, self._limit - 1)[self._limit - 1])
        kept = pl.Series(hashes <= self._highest)
        # Column by column: no copy of all rows at once. One frame, since many small ones leave gaps
        # in memory that nothing fits in.
        columns = [
            pl.concat([frame.drop_in_place(name) for frame in self._frames]).filter(kept)
            for name in self._frames[0].columns
        ]
        self._frames = [pl.DataFrame(columns)]
        self._n_rows = self._frames[0].height

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
    mean_weight: float
    samples: dict[str, pl.DataFrame]
    identifiers: tuple[str, ...]
    n_repeated: int
    classes: NDArray[Any] | None = None
    scale: TargetScale | None = None
    class_mass: NDArray[np.float64] | None = None
    only_training: frozenset[int] = frozenset()

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

    def sampled(self, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training rows of a chunk that the sample has: their places in the chunk and in there."""
        sample = self.samples["train"]
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


@dataclass(frozen=True)
class ScanShare:
    """What a pass over some chunks of a table has found.

    `samples`: of each part of the rows, in any order; None where there are none.
    """

    tally: Tally
    samples: dict[Place, pl.DataFrame | None]

    def pieces(self, n_rows: int) -> Iterator[ScanShare]:
        """The same in shares of few rows, so that copies made on their way are small."""
        yield ScanShare(self.tally, {})
        for place, sample in self.samples.items():
            if sample is not None:
                for piece in sample.iter_slices(n_rows):
                    yield ScanShare(Tally(), {place: piece})


@dataclass(frozen=True)
class ScanJob:
    """The first pass over a table: what is read, and what is found in it.

    `task`: None: told by the target.
    `objective`: whose rule the target must keep, where the task is regression.
    `limits`: at most so many rows of each sample.
    """

    table: FilesTable
    columns: ColumnUses
    places: RowPlaces
    task: Task | None
    objective: RegressionObjective = "squared_error"
    limits: Mapping[Place, int] = field(default_factory=SAMPLE_LIMITS.copy)

    def share(self, wanted: Callable[[int, int], bool] | None = None) -> ScanShare:
        """Read the chunks that are wanted, or all.

        Raises `TableError` if a column or the target is not what it should be.
        Raises `ValueError` if the objective cannot have a target, such as a negative count.
        """
        table, columns, places, task = self.table, self.columns, self.places, self.task
        columns.check(table.dtypes)
        refuse_moments(columns.target, table.dtypes[columns.target])
        tally = Tally()
        samples = {place: _Sample(self.limits[place]) for place in PLACES}
        for chunk in table.chunks(columns.to_read(table.dtypes), wanted):
            keep, weight = rows_to_use(chunk, columns)
            masks = {place: mask & keep for place, mask in places.masks(chunk).items()}
            tally.n_left_out += int((~keep).sum())
            if task == "regression":
                known = regression_target(chunk.frame[columns.target].filter(pl.Series(keep)))
                check_target(self.objective, known, where=" in one part of the table")
            tally.add(Tally.of(chunk, columns, masks, weight, keep, task))
            keyed = chunk.frame.with_columns(
                pl.Series(_HASH, places.row_hashes(chunk, "sample")),
                pl.lit(chunk.file, dtype=pl.Int64).alias(_FILE),
                pl.Series(_ROW, chunk.row_numbers),
                pl.Series(_ASIDE, places.aside(chunk)),
            )
            for place, mask in masks.items():
                samples[place].add(keyed.filter(pl.Series(mask)))
        return ScanShare(tally, {place: sample.rows() for place, sample in samples.items()})

    def merged(self, shares: Iterable[ScanShare]) -> Scan:
        """What one pass would have found, of shares that hold every chunk once.

        Raises `TableError`: as `found`.
        """
        tally = Tally()
        whole = {place: _Sample(limit) for place, limit in self.limits.items()}
        for share in shares:
            tally.add(share.tally)
            for place, frame in share.samples.items():
                if frame is not None:
                    whole[place].add(frame)
        samples = {place: sample.rows() for place, sample in whole.items()}
        return self.found(ScanShare(tally, samples))

    def found(self, share: ScanShare) -> Scan:
        """What the pass has found, of a share that holds every chunk.

        Raises `TableError` if there are no rows to train on, or the target is not as it should be.
        """
        tally, columns = share.tally, self.columns
        if not tally.n_rows["train"]:
            raise TableError(
                f"a table must have rows to train on; got none of {sum(tally.n_rows.values())} "
                "rows; hold fewer rows out, or give more"
            )
        dtype = self.table.dtypes[columns.target]
        task, reason = self.task, ""
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
            mean_weight=tally.weight["train"] / tally.n_rows["train"],
            samples={str(place): frame for place, frame in found.items()},
            identifiers=identifiers,
            n_repeated=n_repeated(
                tally.hashes["train"],
                tally.hashes["test"],
                tally.n_rows["test"],
                tally.counted.counts,
            ),
        )
        if task == "regression":
            return _with_scale(scan, columns, dtype, tally)
        return _with_classes(scan, columns, dtype, tally)


def _all_differ(sample: pl.DataFrame | None, name: str) -> bool:
    return sample is None or sample[name].n_unique() == sample.height


def _task(name: str, dtype: pl.DataType, tally: Tally) -> tuple[Task, str]:
    """The task that the target of all rows suggests, and why."""
    if tally.labels is None and not dtype.is_numeric():
        raise _too_many_labels(name)
    return task_of_counts(
        name,
        dtype,
        n_unique=MOST_LABELS + 1 if tally.labels is None else len(tally.labels),
        n_rows=sum(tally.n_rows.values()),
        has_fraction=tally.fraction,
    )


def _too_many_labels(name: str) -> TableError:
    return TableError(
        f"a target of classes must have at most {MOST_LABELS:,} of them; column {name!r} has "
        "more; name another target column"
    )


def _with_scale(scan: Scan, columns: ColumnUses, dtype: pl.DataType, tally: Tally) -> Scan:
    """The scan with mean, deviation and range of a regression target."""
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


def _with_classes(scan: Scan, columns: ColumnUses, dtype: pl.DataType, tally: Tally) -> Scan:
    """The scan with the classes; all rows of one that no training row has go to training."""
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
        class_mass=rows[:, 3],
        mean_weight=float(rows[:, 3].sum() / rows[:, 0].sum()),
        only_training=only_training,
        n_rows=n_rows,
        samples={place: sample for place, sample in samples.items() if sample.height},
    )
