"""The suite: contenders on real tables, one JSON line per table, seed and contender.

    python -m benchmarks.suite run --tables small --seeds 0,1,2 --contenders tabwright,catboost \\
        --cap 10000 --out benchmarks/results/NAME.jsonl
    python -m benchmarks.suite table benchmarks/results/NAME.jsonl --reference catboost
    python -m benchmarks.suite splits --check

A run can be killed and started again: it goes on where it was. benchmarks/README.md explains the
splits, the six small tables, the variants and the environment of the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.contenders import (
    Entry,
    Job,
    contender_names,
    find_contender,
    parse_variant,
    python_version,
)
from benchmarks.result_lines import Line, opened_results, read_lines
from benchmarks.row_splits import SPLITS_FILE, Split, committed_split, describe_splits
from benchmarks.standings import (
    breakdown_table,
    newest_results,
    score_table,
    shared_pairs,
    standings_table,
)
from benchmarks.tables import (
    CHOOSING_TABLES,
    SMALL_TABLES,
    BenchmarkTable,
    load_table,
    table_names,
)
from tabwright.metrics import score_classification, score_regression


def machine() -> str:
    """Processor and number of cores, for the reader of a time."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {os.cpu_count()} cores"


def score(table: BenchmarkTable, rows: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Scores on test rows.

    Raises
    ------
    ValueError
        If predictions are not finite.
    """
    if not np.isfinite(prediction).all():
        raise ValueError(
            f"predictions must be finite; got {np.count_nonzero(~np.isfinite(prediction))} others"
        )
    if table.task == "regression":
        return score_regression(table.target[rows], prediction)
    # Libraries that compute in float32 give rows that sum to 1 only roughly.
    proba = np.clip(prediction, 0.0, None)
    proba /= proba.sum(axis=1, keepdims=True)
    return score_classification(table.target[rows], proba)


def planned_line(
    table: BenchmarkTable, entry: Entry, split: Split, *, seed: int, cap: int | None, threads: int
) -> Line:
    """What identifies a measurement, before it is made."""
    return {
        "table": table.name,
        "task": table.task,
        "seed": seed,
        "cap": cap,
        "threads": threads,
        "split": split.checksum,
        "contender": entry.name,
        "settings": entry.settings_for(table.task),
        "code": entry.code,
        "versions": dict(entry.versions),
    }


def measure(table: BenchmarkTable, entry: Entry, split: Split, planned: Line) -> Line:
    """Fit and score one contender on one table and seed.

    Parameters
    ----------
    table : BenchmarkTable
        The whole table.
    entry : Entry
        The contender.
    split : Split
        The rows of the two sides, whole; the cap of `planned` is applied here.
    planned : Line
        From `planned_line`.

    Returns
    -------
    Line
        `planned` with scores and times, or with the error that stopped it.
    """
    split = split.capped(planned["cap"])
    line: Line = {
        **planned,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "python": python_version(),
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 2),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    job = Job(table.task, table.n_classes, planned["seed"], planned["threads"])
    try:
        with warnings.catch_warnings(), threadpool_limits(job.threads):
            warnings.simplefilter("ignore")
            contender = entry.build(job)
            X, X_test = table.features[split.train], table.features[split.test]
            begun = time.perf_counter()
            contender.fit(X, table.target[split.train])
            fitted = time.perf_counter()
            prediction = contender.predict(X_test)
            ended = time.perf_counter()
        line |= {"fit_seconds": fitted - begun, "predict_seconds": ended - fitted}
        # A peer's own clock, where it has one, leaves out the start of its process.
        line |= contender.details
        line["scores"] = score(table, split.test, prediction)
    except Exception as error:
        traceback.print_exc()
        line["error"] = f"{type(error).__name__}: {error}"
    return line


def run(arguments: argparse.Namespace) -> int:
    """Make the measurements that the file does not hold yet; 1 if any failed."""
    names = [name for name in arguments.contenders.split(",") if name]
    entries = [find_contender(name, arguments.peer_python) for name in names]
    entries += [parse_variant(text) for text in arguments.variant]
    if not entries:
        raise ValueError("at least one contender must be named; got none; use --contenders")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    tables = {name: load_table(name) for name in table_names(arguments.tables)}
    failed = 0
    with opened_results(arguments.out) as results:
        # Seeds outermost: a run that is stopped early still compares all contenders.
        for seed in seeds:
            for table in tables.values():
                split = committed_split(table, seed)
                for entry in entries:
                    if table.task not in entry.tasks:
                        continue
                    planned = planned_line(
                        table, entry, split, seed=seed, cap=arguments.cap, threads=arguments.threads
                    )
                    if not results.has(planned):
                        line = measure(table, entry, split, planned)
                        results.add(line)
                        print(_summary(line), flush=True)
                        failed += "error" in line
    return 1 if failed else 0


def _summary(line: Line) -> str:
    where = f"{line['table']} seed {line['seed']} {line['contender']}"
    if "error" in line:
        return f"{where}: {line['error']}"
    name = "log_loss" if line["task"] == "classification" else "rmse"
    return f"{where}: {name} {line['scores'][name]:.5g}, fit {line['fit_seconds']:.2f} s"


def show(arguments: argparse.Namespace) -> int:
    """Print the standings of result files as Markdown."""
    lines = [line for path in arguments.files for line in read_lines(path)]
    if arguments.tables in ("rest", "confirm"):
        left_out = SMALL_TABLES if arguments.tables == "rest" else CHOOSING_TABLES
        lines = [line for line in lines if line["table"] not in left_out]
    elif arguments.tables != "all":
        chosen = {"small": SMALL_TABLES, "choose": CHOOSING_TABLES}.get(arguments.tables)
        wanted = chosen or arguments.tables.split(",")
        lines = [line for line in lines if line["table"] in wanted]
    if arguments.cap is not None:
        cap = arguments.cap or None
        lines = [line for line in lines if line["cap"] == cap]
    if arguments.threads is not None:
        lines = [line for line in lines if line["threads"] == arguments.threads]
    if arguments.contenders:
        wanted = arguments.contenders.split(",")
        lines = [line for line in lines if line["contender"] in wanted]
    results = newest_results(lines)
    if not results:
        raise ValueError("the files must hold results of these tables and contenders; got none")
    if arguments.common:
        results = shared_pairs(results)
    reference = arguments.reference or next(iter(results))
    print(standings_table(results, reference))
    print(f"\nLoss relative to {reference} by table (± standard error over seeds):\n")
    print(breakdown_table(results, reference))
    for name in arguments.score:
        print(f"\n{score_table(results, name)}")
    return 0


def splits(arguments: argparse.Namespace) -> int:
    """Check the committed splits against the rule, or write them anew."""
    described = describe_splits([load_table(name) for name in table_names("all")])
    tables = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(entry)}"
        for name, entry in described.pop("tables").items()
    )
    text = f'{json.dumps(described, indent=1)[:-2]},\n "tables": {{\n{tables}\n }}\n}}\n'
    if arguments.write:
        SPLITS_FILE.write_text(text, encoding="utf-8")
        return 0
    same = SPLITS_FILE.read_text(encoding="utf-8") == text
    print("the splits are those committed" if same else "the splits differ from those committed")
    return 0 if same else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__)
    main.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = main.add_subparsers(required=True)
    runner = commands.add_parser("run", help="make measurements that the file lacks")
    runner.add_argument(
        "--tables", default="small", help="small, choose, confirm, all, or names with commas"
    )
    runner.add_argument("--seeds", default="0,1,2", help="numbers with commas")
    runner.add_argument("--contenders", default="", help=f"of: {', '.join(contender_names())}")
    runner.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="Tabwright with these settings, as one more contender",
    )
    runner.add_argument(
        "--cap", type=int, help="at most so many rows of a table, test rows included"
    )
    runner.add_argument("--threads", type=int, default=1)
    runner.add_argument("--out", type=Path, required=True, help="file of results to go on with")
    runner.add_argument(
        "--peer-python",
        default=os.environ.get("TABWRIGHT_PEER_PYTHON"),
        help="interpreter of the peers' environment (default: TABWRIGHT_PEER_PYTHON)",
    )
    runner.set_defaults(command=run)
    shower = commands.add_parser("table", help="print standings as Markdown")
    shower.add_argument("files", nargs="+", type=Path)
    shower.add_argument("--reference", help="compare with this contender (default: the first)")
    shower.add_argument("--contenders", help="only these")
    shower.add_argument(
        "--tables", default="all", help="small, rest (not small), choose, confirm, all, or names"
    )
    shower.add_argument("--cap", type=int, help="only lines of this cap; 0: uncapped")
    shower.add_argument("--threads", type=int, help="only lines of this number of threads")
    shower.add_argument("--common", action="store_true", help="only pairs that all have")
    shower.add_argument("--score", action="append", default=[], help="also show this score or time")
    shower.set_defaults(command=show)
    keeper = commands.add_parser("splits", help="check or write the committed splits")
    keeper.add_argument("--write", action="store_true")
    keeper.add_argument("--check", action="store_true", help="the default")
    keeper.set_defaults(command=splits)
    return main


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all is well."""
    arguments = parser().parse_args(words)
    try:
        code: int = arguments.command(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    raise SystemExit(main())
