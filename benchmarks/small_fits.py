"""How long a whole default fit of a small table takes, and how good it is, beside others.

    python -m benchmarks.small_fits [--peer-python PYTHON] [--seeds 0,1,2] [--threads 1]

Three tables that ship inside scikit-learn: breast cancer (569 rows), digits (1,797) and diabetes
(442). Contenders are those of the suite at their defaults, in turns on the same splits; times are
of `fit` alone, without imports. The table has medians over the seeds and the ratio to Tabwright.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

from benchmarks.contenders import find_contender
from benchmarks.row_splits import Split
from benchmarks.suite import machine, measure, planned_line
from benchmarks.tables import BenchmarkTable

LOADERS: dict[str, Callable[..., Any]] = {
    "breast_cancer": load_breast_cancer,
    "digits": load_digits,
    "diabetes": load_diabetes,
}
CONTENDERS = ("tabwright", "catboost", "sklearn_mlp")
PEER = "pytabkit:RealMLP_TD_S"


def small_table(name: str) -> BenchmarkTable:
    """One of the tables, as the suite takes them."""
    bunch = LOADERS[name]()
    names = [str(column) for column in bunch.feature_names]
    frame = pl.DataFrame(bunch.data, schema=names)
    if name == "diabetes":
        return BenchmarkTable(name, "regression", frame, bunch.target.astype(np.float64), 0)
    target = bunch.target.astype(np.int64)
    return BenchmarkTable(name, "classification", frame, target, int(target.max()) + 1)


def split_of(table: BenchmarkTable, seed: int) -> Split:
    """A quarter of the rows for the scores, stratified."""
    train, test = train_test_split(
        np.arange(len(table.target)),
        test_size=0.25,
        random_state=seed,
        stratify=table.target if table.task == "classification" else None,
    )
    return Split(train, test, f"seed {seed}")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer-python", default=os.environ.get("TABWRIGHT_PEER_PYTHON"))
    arguments = parser.parse_args(words)
    names = [*CONTENDERS, *([PEER] if arguments.peer_python else [])]
    entries = [find_contender(name, arguments.peer_python) for name in names]
    print(f"{machine()}; threads: {arguments.threads}; seeds: {arguments.seeds}\n")
    print("| table | contender | fit, s | times Tabwright's | loss |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in LOADERS:
        table = small_table(name)
        lines: dict[str, list[dict[str, Any]]] = {entry.name: [] for entry in entries}
        for seed in map(int, arguments.seeds.split(",")):
            split = split_of(table, seed)
            for entry in entries:
                planned = planned_line(
                    table, entry, split, seed=seed, cap=None, threads=arguments.threads
                )
                lines[entry.name].append(measure(table, entry, split, planned))
        score = "rmse" if table.task == "regression" else "log_loss"
        ours = statistics.median(line["fit_seconds"] for line in lines["tabwright"])
        for contender, own in lines.items():
            seconds = statistics.median(line["fit_seconds"] for line in own)
            loss = statistics.mean(line["scores"][score] for line in own)
            print(
                f"| {name} | {contender} | {seconds:.2f} | {seconds / ours:.2f} | {loss:.4g} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
