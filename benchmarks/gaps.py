"""Where one contender of the suite is behind another: on which rows, in which columns.

    python -m benchmarks.gaps diamonds --seeds 0,1,2 --cap 2000 \\
        --contender tabwright --against catboost [--without carat,clarity]

Both learn from the suite's training rows. The difference of their losses (log-loss, squared
error) is taken row by row on the test rows of all seeds. Printed are the ratio of the losses, how
few rows carry the difference, and for every column the part of its range, or the level, whose
rows carry most of it, with that part's share of the rows and its distance from zero in standard
errors. `--without` says what is left of the gap when neither sees those columns. A contender may
be a variant: NAME:KEY=VALUE,... as in the suite.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.contenders import Job, find_contender, parse_variant, plain_columns
from benchmarks.row_splits import committed_split
from benchmarks.tables import BenchmarkTable, load_table

_PARTS = 5
_FEWEST_ROWS = 20
Floats = NDArray[np.float64]


def row_losses(table: BenchmarkTable, rows: NDArray[np.int64], prediction: Floats) -> Floats:
    """Loss of each row: minus the logarithm of its class's probability, or squared error."""
    target = table.target[rows]
    if table.task == "regression":
        squares: Floats = np.square(prediction - target)
        return squares
    proba = np.clip(prediction, 0.0, None)
    proba /= proba.sum(axis=1, keepdims=True)
    logs: Floats = np.log(np.clip(proba[np.arange(len(target)), target], 1e-15, None))
    return -logs


@dataclass(frozen=True)
class Losses:
    """Losses of both contenders on the test rows of all seeds, one behind the other."""

    rows: NDArray[np.int64]
    ours: Floats
    theirs: Floats

    def ratio(self, task: str) -> float:
        """Their loss relative to ours, as the suite has it."""
        ratio = float(self.theirs.mean() / self.ours.mean())
        return ratio**0.5 if task == "regression" else ratio


def measure(
    table: BenchmarkTable, names: tuple[str, str], seeds: Sequence[int], cap: int | None
) -> Losses:
    """Fit both on every seed's split."""
    rows: list[NDArray[np.int64]] = []
    losses: tuple[list[Floats], list[Floats]] = ([], [])
    for seed in seeds:
        split = committed_split(load_table(table.name), seed).capped(cap)
        rows.append(split.test)
        job = Job(table.task, table.n_classes, seed, 1)
        for name, kept in zip(names, losses, strict=True):
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore")
                entry = parse_variant(name) if "=" in name else find_contender(name)
                model = entry.build(job)
                model.fit(table.features[split.train], table.target[split.train])
                kept.append(
                    row_losses(table, split.test, model.predict(table.features[split.test]))
                )
    ours, theirs = (np.concatenate(kept) for kept in losses)
    return Losses(np.concatenate(rows), ours, theirs)


def parts_of(column: pl.Series) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Parts of a column's rows: levels, or fifths of the values, and the missing."""
    missing = column.is_null().to_numpy()
    if missing.any():
        yield "missing", missing
    if column.dtype == pl.String:
        for level in column.value_counts(sort=True).head(50)[column.name].drop_nulls():
            yield repr(level), (column == level).fill_null(value=False).to_numpy()
        return
    values = column.to_numpy()
    known = values[~missing]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _PARTS + 1))) if known.size else known
    for low, high in pairwise(edges.tolist()):
        is_last = high == edges[-1]
        inside = (values >= low) & ((values <= high) if is_last else (values < high))
        yield f"{low:.6g} to {high:.6g}", inside


def carriers(table: BenchmarkTable, losses: Losses) -> list[tuple[str, str, float, float, float]]:
    """For every column the part that carries most of what we are behind.

    Returns
    -------
    list of (column, part, share of the rows, share of the gap, standard errors)
        Largest share of the gap first.
    """
    gap = losses.ours - losses.theirs
    features = plain_columns(table.features[losses.rows])
    found = []
    for column in features.iter_columns():
        parts = []
        for label, inside in parts_of(column):
            chosen = gap[inside]
            if _FEWEST_ROWS <= len(chosen) < len(gap):
                error = float(chosen.std(ddof=1)) / len(chosen) ** 0.5
                parts.append(
                    (
                        column.name,
                        label,
                        len(chosen) / len(gap),
                        float(chosen.sum() / gap.sum()),
                        float(chosen.mean()) / error if error else 0.0,
                    )
                )
        if parts:
            found.append(max(parts, key=lambda part: part[3] - part[2]))
    return sorted(found, key=lambda part: part[2] - part[3])


def show(table: BenchmarkTable, losses: Losses, title: str) -> None:
    """Print what was found."""
    gap = losses.ours - losses.theirs
    error = gap.std(ddof=1) / len(gap) ** 0.5 / abs(gap.mean())
    ratio = losses.ratio(table.task)
    print(f"{title}: {ratio:.3f} of our loss, the gap known to {error:.0%}, {len(gap)} rows")
    worst = np.argsort(-gap)
    for n_rows in (1, 3, 10):
        rest = np.delete(np.arange(len(gap)), worst[:n_rows])
        left = replace(losses, ours=losses.ours[rest], theirs=losses.theirs[rest])
        print(f"  without our {n_rows} worst: {left.ratio(table.task):.3f}")
    if gap.sum() > 0:
        for name, part, of_rows, of_gap, errors in carriers(table, losses)[:8]:
            print(
                f"  {name}, {part}: {of_gap:.0%} of the gap on {of_rows:.0%} of the rows, "
                f"{errors:.1f} standard errors"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cap", type=int)
    parser.add_argument("--contender", default="tabwright")
    parser.add_argument("--against", default="catboost")
    parser.add_argument("--without", default="", help="columns that neither shall see")
    arguments = parser.parse_args()
    table = load_table(arguments.table)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    names = (arguments.contender, arguments.against)
    show(table, measure(table, names, seeds, arguments.cap), f"{names[1]} on {table.name}")
    if arguments.without:
        left_out = arguments.without.split(",")
        rest = replace(table, features=table.features.drop(left_out))
        losses = measure(rest, names, seeds, arguments.cap)
        show(rest, losses, f"without {arguments.without}")


if __name__ == "__main__":
    main()
