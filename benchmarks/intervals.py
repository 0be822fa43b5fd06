"""Coverage and mean width of prediction intervals on real tables, beside LightGBM's quantiles.

    python -m benchmarks.intervals [--tables choose] [--seeds 0,1] [--cap 10000] [--coverage 0.9]

Contenders: a default fit with intervals of one width and with adaptive ones, a fit of three
quantiles, and LightGBM's quantiles, both as they are and conformalised on a quarter of the training
rows that it then does not learn from. Widths are means over the test rows in standard deviations of
their target. Thirds are of the difficulty: test rows ordered by the width of the adaptive interval.
Regression tables only; of `choose` and `confirm`, those that are one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.row_splits import Split, make_split
from benchmarks.suite import machine
from benchmarks.tables import BenchmarkTable, load_table, table_names
from tabwright import TabularRegressor

FloatArray = NDArray[np.float64]


def tabwright_ends(
    table: BenchmarkTable, split: Split, coverage: float, seed: int, **settings: Any
) -> FloatArray:
    """Ends of the intervals of the test rows, (n, 2)."""
    model = TabularRegressor(random_state=seed, **settings)
    time_of = None if table.time is None else table.time[split.train]
    model.fit(table.features[split.train], table.target[split.train], time=time_of)
    return np.asarray(model.predict_interval(table.features[split.test], coverage))


def lightgbm_ends(
    table: BenchmarkTable, split: Split, coverage: float, seed: int, *, conformal: bool
) -> FloatArray:
    """The same of LightGBM's quantiles."""
    import lightgbm

    X = np.column_stack([_numbers(column) for column in table.features.get_columns()])
    learning, aside = split.train, split.train[:0]
    if conformal:
        order = np.random.default_rng(seed).permutation(split.train)
        if table.time is not None:
            order = split.train[np.argsort(table.time[split.train], kind="stable")]
        learning, aside = np.split(order, [3 * len(order) // 4])
    ends = []
    for level in ((1 - coverage) / 2, (1 + coverage) / 2):
        model = lightgbm.LGBMRegressor(
            objective="quantile", alpha=level, n_estimators=300, random_state=seed, verbose=-1
        )
        model.fit(X[learning], table.target[learning])
        ends.append(model.predict(X[np.concatenate([aside, split.test])]))
    low, high = np.sort(ends, axis=0)
    n = len(aside)
    if not conformal:
        return np.column_stack([low, high])
    # Conformalised quantile regression: Romano, Patterson and Candès, 2019.
    misses = np.sort(np.maximum(low[:n] - table.target[aside], table.target[aside] - high[:n]))
    moved = misses[min(int(np.ceil(coverage * (n + 1))), n) - 1]
    return np.column_stack([low[n:] - moved, high[n:] + moved])


def _numbers(column: pl.Series) -> FloatArray:
    """A column as trees take it: codes of levels, microseconds of dates."""
    if column.dtype == pl.String:
        column = column.rank("dense")
    elif column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).to_physical()
    return column.cast(pl.Float64).to_numpy()


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", default="choose")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--cap", type=int, default=10_000)
    parser.add_argument("--coverage", type=float, default=0.9)
    arguments = parser.parse_args(words)
    coverage = arguments.coverage
    tail = (1 - coverage) / 2
    levels = (round(tail, 6), 0.5, round(1 - tail, 6))
    print(f"{machine()}; seeds {arguments.seeds}; at most {arguments.cap:,} rows\n")
    print("| table | contender | coverage | by thirds of the difficulty | mean width | seconds |")
    print("| --- | --- | ---: | --- | ---: | ---: |")
    for name in table_names(arguments.tables):
        table = load_table(name)
        if table.task != "regression":
            continue
        found: dict[str, list[list[float]]] = {}
        for seed in map(int, arguments.seeds.split(",")):
            split = make_split(table, seed).capped(arguments.cap)
            known = (table, split, coverage, seed)
            contenders: dict[str, Callable[[], FloatArray]] = {
                "adaptive": partial(tabwright_ends, *known, intervals="adaptive"),
                "constant": partial(tabwright_ends, *known, intervals="constant"),
                "quantiles": partial(
                    tabwright_ends, *known, objective="quantile", quantiles=levels
                ),
                "LightGBM": partial(lightgbm_ends, *known, conformal=False),
                "LightGBM, conformal": partial(lightgbm_ends, *known, conformal=True),
            }
            true = table.target[split.test]
            place = None
            for contender, ends_of in contenders.items():
                started = time.perf_counter()
                low, high = ends_of().T
                seconds = time.perf_counter() - started
                if place is None:
                    place = np.argsort(np.argsort(high - low, kind="stable")) * 3 // len(true)
                inside = (low <= true) & (true <= high)
                thirds = [float(inside[place == third].mean()) for third in range(3)]
                width = float((high - low).mean() / true.std())
                line = [float(inside.mean()), *thirds, width, seconds]
                found.setdefault(contender, []).append(line)
        for contender, lines in found.items():
            share, *thirds, width, seconds = np.mean(lines, axis=0).tolist()
            shown = ", ".join(f"{third:.3f}" for third in thirds)
            print(
                f"| {name} | {contender} | {share:.3f} | {shown} | {width:.3f} | {seconds:.1f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
