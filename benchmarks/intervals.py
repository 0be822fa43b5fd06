"""Coverage and mean width of prediction intervals on real tables, beside LightGBM's quantiles.

    python -m benchmarks.intervals [--tables choose] [--seeds 0,1] [--cap 10000] [--coverage 0.9]
        [--quality balanced]
    python -m benchmarks.intervals --residuals 13,25,50,100,200 --seeds 0,1,2,3,4 --quality fast
    python -m benchmarks.intervals --spread --tables deliveries,epa_mpg --seeds 0,1,2,3,4,5,6,7
        --cap 3000
    python -m benchmarks.intervals --levels 0.05,0.25,0.5,0.75,0.95 --seeds 0,1,2 --quality fast

Contenders: a default fit with intervals of one width and with adaptive ones, a fit of three
quantiles, and LightGBM's quantiles, both as they are and conformalised on a quarter of the training
rows that it then does not learn from. Widths are means over the test rows in standard deviations of
their target. The score is the mean interval score (Gneiting and Raftery, "Strictly Proper Scoring
Rules, Prediction, and Estimation", 2007, section 6.2), width and misses in one, in the same unit;
lower is better. Thirds are of the difficulty: test rows ordered by the width of the adaptive
interval. Regression tables only; of `choose` and `confirm`, those that are one.

With `--residuals`, adaptive and constant width are compared on fits of so few rows that these
numbers of residuals set the width: means over the tables and seeds, and the mean distance of the
coverage from what was asked.

With `--spread`, coverage over the seeds: its mean with a standard error, its lowest value, and how
large the held-out residuals are beside the errors on test rows, in the mean: below 1 they are too
good.

With `--levels`, a model of these quantiles is judged with the levels as fitted and with the levels
moved by held-out rows: the mean distance of the share of test rows below a level from the level,
and the pinball loss, in units of that as fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.row_splits import Split, make_split
from benchmarks.suite import machine
from benchmarks.tables import BenchmarkTable, load_table, table_names
from tabwright import TabularRegressor
from tabwright.inference.predictor import Predictor
from tabwright.regression import row_losses
from tabwright.settings import IntervalWidth, Quality

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


def measured(
    ends: dict[str, FloatArray], true: FloatArray, coverage: float
) -> dict[str, list[float]]:
    """Coverage, overall and by thirds, mean width and interval score of each contender.

    `ends`: of the adaptive intervals first, by which the thirds go.
    """
    place, found = None, {}
    for contender, own in ends.items():
        low, high = own.T
        width = high - low
        if place is None:
            place = np.argsort(np.argsort(width, kind="stable")) * 3 // len(true)
        inside = (low <= true) & (true <= high)
        thirds = [float(inside[place == third].mean()) for third in range(3)]
        beyond = np.maximum(low - true, 0) + np.maximum(true - high, 0)
        scores = width + 2 / (1 - coverage) * beyond
        unit = true.std()
        found[contender] = [
            float(inside.mean()),
            *thirds,
            float(width.mean() / unit),
            float(scores.mean() / unit),
        ]
    return found


def compare(options: argparse.Namespace) -> None:
    """All contenders, table by table."""
    coverage, quality = options.coverage, options.quality
    tail = (1 - coverage) / 2
    levels = (round(tail, 6), 0.5, round(1 - tail, 6))
    print("| table | contender | coverage | by thirds of the difficulty | mean width | score |")
    print("| --- | --- | ---: | --- | ---: | ---: |")
    for table in regressions(options.tables):
        found: dict[str, list[list[float]]] = {}
        for seed in options.seeds:
            split = make_split(table, seed).capped(options.cap)
            known = (table, split, coverage, seed)
            ours = partial(tabwright_ends, *known, quality=quality)
            ends = {
                "adaptive": ours(intervals="adaptive"),
                "constant": ours(intervals="constant"),
                "quantiles": ours(objective="quantile", quantiles=levels),
                "LightGBM": lightgbm_ends(*known, conformal=False),
                "LightGBM, conformal": lightgbm_ends(*known, conformal=True),
            }
            for contender, line in measured(ends, table.target[split.test], coverage).items():
                found.setdefault(contender, []).append(line)
        for contender, lines in found.items():
            share, *thirds, width, score = np.mean(lines, axis=0).tolist()
            shown = ", ".join(f"{third:.3f}" for third in thirds)
            print(
                f"| {table.name} | {contender} | {share:.3f} | {shown} | {width:.3f} "
                f"| {score:.3f} |",
                flush=True,
            )


def by_residuals(options: argparse.Namespace) -> None:
    """Adaptive and constant width by the number of residuals."""
    coverage = options.coverage
    tables = list(regressions(options.tables))
    print("| residuals | width | coverage | off by | worst third | mean width | score |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for n in options.residuals:
        found: dict[str, list[list[float]]] = {"adaptive": [], "constant": []}
        for table, seed in product(tables, options.seeds):
            whole = make_split(table, seed)
            # A quarter of so few rows is held out, and all of it gives residuals.
            split = Split(whole.train[: 4 * n], whole.test, whole.checksum)
            if len(split.train) < 4 * n:
                continue
            ends = {
                kind: tabwright_ends(
                    table,
                    split,
                    coverage,
                    seed,
                    quality=options.quality,
                    validation_fraction=0.25,
                    intervals=kind,
                )
                for kind in found
            }
            for kind, line in measured(ends, table.target[split.test], coverage).items():
                share, *thirds, width, score = line
                found[kind].append([share, abs(share - coverage), min(thirds), width, score])
        for kind, lines in found.items():
            words = " | ".join(f"{value:.3f}" for value in np.mean(lines, axis=0))
            print(f"| {n} | {kind} | {words} |", flush=True)


def by_seeds(options: argparse.Namespace) -> None:
    """How coverage moves from seed to seed, and whether held-out residuals are too small."""
    print("| table | width | seeds | coverage | lowest | held-out / test errors |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for table in regressions(options.tables):
        found: dict[IntervalWidth, list[float]] = {"adaptive": [], "constant": []}
        sizes = []
        for kind, seed in product(found, options.seeds):
            split = make_split(table, seed).capped(options.cap)
            model = TabularRegressor(random_state=seed, intervals=kind, quality=options.quality)
            time_of = None if table.time is None else table.time[split.train]
            model.fit(table.features[split.train], table.target[split.train], time=time_of)
            rows, true = table.features[split.test], table.target[split.test]
            low, high = model.predict_interval(rows, options.coverage).T
            found[kind].append(float(((low <= true) & (true <= high)).mean()))
            if kind == "constant" and model.model_.intervals is not None:
                errors = np.abs(true - model.predict(rows))
                sizes.append(float(model.model_.intervals.residuals.mean() / errors.mean()))
        for kind, shares in found.items():
            told = _with_error(sizes) if kind == "constant" else ""
            print(
                f"| {table.name} | {kind} | {len(shares)} | {_with_error(shares)} "
                f"| {min(shares):.3f} | {told} |",
                flush=True,
            )


def _with_error(values: list[float]) -> str:
    """A mean, with its standard error."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}"


def by_levels(options: argparse.Namespace) -> None:
    """Levels of quantiles as fitted, and moved by held-out rows."""
    levels = tuple(options.levels)
    print("| table | levels | shares below them | off by | pinball loss |")
    print("| --- | --- | --- | ---: | ---: |")
    for table in regressions(options.tables):
        found: dict[str, list[list[float]]] = {"as fitted": [], "moved": []}
        for seed in options.seeds:
            split = make_split(table, seed).capped(options.cap)
            model = TabularRegressor(
                objective="quantile", quantiles=levels, quality=options.quality, random_state=seed
            )
            time_of = None if table.time is None else table.time[split.train]
            model.fit(table.features[split.train], table.target[split.train], time=time_of)
            rows, true = table.features[split.test], table.target[split.test]
            fitted, unit = model.model_, 0.0
            for kind, own in zip(found, (replace(fitted, quantile_shifts=()), fitted), strict=True):
                quantiles = Predictor(own).predict_quantiles(rows)
                shares = (true[:, None] <= quantiles).mean(axis=0)
                loss = float(row_losses("quantile", true, quantiles, levels).mean())
                unit = unit or loss
                off = float(np.abs(shares - levels).mean())
                found[kind].append([off, loss / unit, *shares.tolist()])
        for kind, lines in found.items():
            off, loss, *means = np.mean(lines, axis=0).tolist()
            shown = ", ".join(f"{share:.3f}" for share in means)
            print(f"| {table.name} | {kind} | {shown} | {off:.3f} | {loss:.3f} |", flush=True)


def regressions(names: str) -> Iterator[BenchmarkTable]:
    """The tables of these names whose target is a number."""
    tables = map(load_table, table_names(names))
    return (table for table in tables if table.task == "regression")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tables", default="choose")
    parser.add_argument("--seeds", type=_numbers_of, default=[0, 1])
    parser.add_argument("--cap", type=int, default=10_000)
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--quality", choices=get_args(Quality), default="balanced")
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--residuals", type=_numbers_of)
    parser.add_argument("--levels", type=lambda text: [float(part) for part in text.split(",")])
    options = parser.parse_args(words)
    print(f"{machine()}; seeds {options.seeds}; at most {options.cap:,} rows; {options.quality}\n")
    studies = {"levels": by_levels, "residuals": by_residuals, "spread": by_seeds}
    asked = [study for name, study in studies.items() if getattr(options, name)]
    (asked or [compare])[0](options)
    return 0


def _numbers_of(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
